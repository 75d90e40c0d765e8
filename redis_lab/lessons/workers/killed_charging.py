"""A worker that is killed before or after it has charged, of the lesson on idempotency.

`killed_charging.py URL WHERE`: WHERE, `before` or `after`, is the key of the request as well.
"""

from __future__ import annotations

import os
import signal
import sys

import redis

from redis_lab.patterns.idempotency import Idempotency


def main(url: str, where: str) -> None:
    r = redis.Redis.from_url(url)
    once = Idempotency(r, "once", ttl_s=3600, lease_s=0.3)
    once.begin(where, "4200 cents")
    if where == "after":
        r.incrby("charged:after", 4200)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
