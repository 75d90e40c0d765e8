"""A pytest plugin: a run whose owner has gone ends itself, and with it the kernels it started."""

from __future__ import annotations

import os
import signal
import threading
import time

POLL_S = 0.5


def pytest_configure() -> None:
    owner = os.getppid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)  # a kernel sees for itself that its parent has gone

    threading.Thread(target=watch, daemon=True, name="orphan").start()
