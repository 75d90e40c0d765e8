"""Helpers for tests of servers: scripts in separate processes, and waiting for conditions."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
import trustme

from redis_lab import LabError, server
from redis_lab.measure.validity import TooBusy
from redis_lab.servers.base import free_port
from redis_lab.servers.choose import KINDS

# For each kind of native server: whether the tests use it. REDIS_LAB_SERVER selects one; without it
# they use the kinds that a user gets without asking.
ASKED = os.environ.get("REDIS_LAB_SERVER")
NATIVE = {
    kind.name: (kind.name == ASKED if ASKED else kind.unasked) and kind.probe()[0]
    for kind in KINDS
    if kind.native
}


def within(limit_s: float, condition) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def assert_prompt(took_s: float, promised_s: float = 5.0) -> None:
    """That it took no longer than is promised. Raises: TooBusy where the machine may be why."""
    if took_s > promised_s and psutil.getloadavg()[0] > (os.cpu_count() or 1):
        raise TooBusy(f"{took_s:.1f} s instead of {promised_s:g} s")
    assert took_s <= promised_s


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without variables that choose a server, and with these changes."""
    kept = {k: v for k, v in os.environ.items() if k == "REDIS_LAB_DATA" or k[:6] != "REDIS_"}
    return {k: v for k, v in {**kept, **changes}.items() if v is not None}


def script(body: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(body)]


def run(body: str, **env: str | None) -> subprocess.CompletedProcess:
    """Run a script to its end; `stdout` and `stderr` hold its output."""
    return subprocess.run(
        script(body), env=environment(**env), capture_output=True, text=True, timeout=240
    )


def without_ttl(client, match: str = "*") -> list[str]:
    """The keys without a TTL. A key that expires during the call is left out."""
    return [key for key in client.scan_iter(match, count=1000) if client.pttl(key) == -1]


@contextmanager
def soon(call, after_s: float = 0.1):
    """Call it in another thread a little later; the end of the block waits for its return."""
    timer = threading.Timer(after_s, call)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def tls_server(folder):
    """A server that speaks TLS as localhost, and its TLS port; its authority is in `ca.pem`."""
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    files = {f"tls_{key}_file": str(folder / "server.pem") for key in ("cert", "key")}
    files["tls_ca_cert_file"] = str(folder / "ca.pem")
    try:
        private = server(kind="path", tls_port=port, tls_auth_clients="no", **files)
    except LabError as error:
        pytest.skip(f"no server here that speaks TLS: {error}")
    with private:
        yield private, port
