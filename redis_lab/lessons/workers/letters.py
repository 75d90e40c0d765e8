"""A Celery app of the lesson on queues. In this folder: `celery --app letters worker`.

Celery reads the broker's address from the environment variable CELERY_BROKER_URL. The task counts
each letter in the Redis at DIARY_URL. With SOCKET_TIMEOUT_S the worker has a socket timeout.
"""

from __future__ import annotations

import os
import threading
import time

import redis
from celery import Celery
from celery.signals import celeryd_init

app = Celery("letters")
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={
        "visibility_timeout": 1,  # default: an hour
        "unacked_restore_interval": 0.2,  # how often overdue jobs are put back; default: 10 s,
        "unacked_restore_throttle": 1,  # and that only every tenth time
        "health_check_interval": 1,  # default: 25 s
    },
)
if "SOCKET_TIMEOUT_S" in os.environ:
    app.conf.broker_transport_options["socket_timeout"] = float(os.environ["SOCKET_TIMEOUT_S"])


@app.task(name="send")
def send(letter: str) -> None:
    """Send the letter."""
    with redis.Redis.from_url(os.environ["DIARY_URL"]) as diary:
        diary.hincrby("sent", letter, 1)


@celeryd_init.connect
def end_with_owner(**_: object) -> None:
    """A worker must not outlive the notebook that started it."""
    owner = os.getppid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
