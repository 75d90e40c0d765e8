"""One writer of a price and its readers, of the lesson on invalidation.

`price_actors.py URL FILE ROLE WAY LAST` runs until version LAST is announced. ROLE is `writer` or
`reader`, WAY is `naive` (commit, then delete) or `floor`. It begins when there are four processes,
and prints how many of its reads were stale, and how many there were.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.patterns.cache_aside import CacheAside

ACTORS = 4


def write_and_announce(r: redis.Redis, db: sqlite3.Connection, cache: CacheAside | None) -> None:
    query = "UPDATE product SET version = version + 1 RETURNING version"
    ((version,),) = db.execute(query)
    if cache:
        cache.invalidate("1", version)
    else:
        r.delete("naive")
    r.set("announced", version)


def count_stale_reads(r: Any, read: Callable[[], int], last: int) -> tuple[int, int]:
    """How many reads were stale, and how many there were."""
    stale, reads = 0, 0
    while (announced := int(r.get("announced") or 0)) < last:
        stale, reads = stale + (announced > read()), reads + 1
    return stale, reads


def main(url: str, file: str, role: str, way: str, last: str) -> None:
    r: Any = redis.Redis.from_url(url, decode_responses=True)
    db = sqlite3.connect(file, isolation_level=None, timeout=30)

    def load(_: str) -> tuple[int, int]:
        ((version,),) = db.execute("SELECT version FROM product")
        time.sleep(0.002)  # a question worth caching takes its time
        return version, version

    def naive() -> int:
        if (cached := r.get("naive")) is None:
            r.set("naive", cached := load("1")[0], ex=300)
        return int(cached)

    cache = CacheAside(r, "floor", load)
    r.incr(f"here:{way}")
    while int(r.get(f"here:{way}")) < ACTORS:
        time.sleep(0.01)
    stale, reads = 0, 0
    if role == "writer":
        while int(r.get("announced") or 0) < int(last):
            write_and_announce(r, db, cache if way == "floor" else None)
            time.sleep(random.uniform(0, 0.004))
    else:
        read = (lambda: cache.get("1")) if way == "floor" else naive
        stale, reads = count_stale_reads(r, read, int(last))
    print(stale, reads)


if __name__ == "__main__":
    main(*sys.argv[1:])
