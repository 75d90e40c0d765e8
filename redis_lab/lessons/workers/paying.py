"""A worker that makes fifty payments and may be killed, of the lesson on idempotency.

`paying.py URL FILE SEED`
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys
from functools import partial

import redis

from redis_lab.patterns.idempotency import Busy, Idempotency, LeaseLost


def main(url: str, file: str, seed: str) -> None:
    once = Idempotency(redis.Redis.from_url(url), "pay", ttl_s=3600, lease_s=0.2)
    database = sqlite3.connect(file, isolation_level=None, timeout=30)
    luck = random.Random(int(seed))

    def work(request: str) -> None:
        database.execute("INSERT INTO payments VALUES (?, 1) ON CONFLICT DO NOTHING", (request,))
        if luck.random() < 0.1:
            os.kill(os.getpid(), signal.SIGKILL)

    for k in range(50):
        with contextlib.suppress(Busy, LeaseLost):  # somebody else is at it
            once.run(f"r{k}", "1 cent", partial(work, f"r{k}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
