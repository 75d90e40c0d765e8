"""Readers of cached pages, of the lesson on stampedes: `page_readers.py URL TTL_S TOOK_S`.

A line on standard input, `WAY SECONDS KEYS`, is one run. The line that answers it is JSON: when
which page was computed, the number of reads, and the longest wait in seconds.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.patterns.cache import Cache
from redis_lab.patterns.stampede import EarlyRefresh

Read = Callable[[str], Any]


def ways_to_read(r: redis.Redis, load: Read, ttl_s: float) -> dict[str, Read]:
    def naive(key: str) -> Any:
        page = r.get(key)
        if page is None:
            page = load(key)
            r.set(key, page, px=int(ttl_s * 1000))
        return page

    single = Cache(r, "one", load, ttl_s=ttl_s, stale_s=30, lease_s=10)
    single.read("warm")
    ways: dict[str, Read] = {"naive": naive, "single flight": single.get}
    for beta in (0.5, 1, 2):
        ways[f"XFetch {beta}"] = EarlyRefresh(r, f"x{beta}", load, ttl_s=ttl_s, beta=beta).get
    return ways


def read_in_threads(get: Read, seconds: float, keys: int) -> list[float]:
    """Eight threads read random keys for so long; returns how long each read took (s)."""
    waited = []
    end = time.monotonic() + seconds

    def reader() -> None:
        while time.monotonic() < end:
            start = time.monotonic()
            get(f"hot{random.randrange(keys)}")
            waited.append(time.monotonic() - start)
            time.sleep(0.004)

    threads = [threading.Thread(target=reader) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waited


def main(url: str, ttl_s: str, took_s: str) -> None:
    begun: list[tuple[str, float]] = []

    def load(key: str) -> str:
        begun.append((key, time.time()))
        time.sleep(float(took_s))
        return "page"

    ways = ways_to_read(redis.Redis.from_url(url, decode_responses=True), load, float(ttl_s))
    for line in sys.stdin:
        way, seconds, keys = line.rsplit(None, 2)
        begun.clear()
        waited = read_in_threads(ways[way], float(seconds), int(keys))
        print(json.dumps([begun, len(waited), max(waited)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
