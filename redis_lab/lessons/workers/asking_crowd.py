"""One process of a crowd that asks limiters, of the lesson on rate limiting: `asking_crowd.py URL`.

A line on standard input names what it asks, `naive` or a class of the pattern. It asks a hundred
times, and prints how often it was let through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.patterns import rate_limit


def make_ask(r: Any, kind: str) -> Callable[[], bool]:
    def look_then_count() -> bool:
        if int(r.get("looked") or 0) < 200:
            r.incr("looked")
            return True
        return False

    if kind == "naive":
        return look_then_count
    limiter = getattr(rate_limit, kind)(r, kind, limit=200, window_s=1_000_000)
    return lambda: limiter.allow("ada").allowed


def main(url: str) -> None:
    r = redis.Redis.from_url(url)
    for line in sys.stdin:
        ask = make_ask(r, line.strip())
        print(sum(ask() for _ in range(100)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
