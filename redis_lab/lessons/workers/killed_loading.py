"""Processes that are killed while they compute a page, of the lesson on stampedes.

`killed_loading.py URL ours` or `killed_loading.py URL dogpile KEY LOCK_TIMEOUT_S`, where an empty
LOCK_TIMEOUT_S stands for dogpile's default, none.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import redis

from redis_lab.patterns.cache import Cache


def with_our_lease(url: str) -> None:
    def load(key: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    Cache(redis.Redis.from_url(url), "page", load, ttl_s=60, stale_s=30, lease_s=0.5).get("front")


def with_dogpile(url: str, key: str, lock_timeout_s: str) -> None:
    from dogpile.cache import make_region

    arguments: dict[str, Any] = {
        "connection_pool": redis.ConnectionPool.from_url(url),
        "distributed_lock": True,
        "thread_local_lock": False,
    }
    if lock_timeout_s:
        arguments["lock_timeout"] = int(lock_timeout_s)
    region = make_region()
    region.configure("dogpile.cache.redis", expiration_time=60, arguments=arguments)
    region.get_or_create(key, lambda: os.kill(os.getpid(), signal.SIGKILL))


if __name__ == "__main__":
    url, way, *more = sys.argv[1:]
    if way == "ours":
        with_our_lease(url)
    else:
        with_dogpile(url, *more)
