"""A bystander of the lesson on sets: how long does a client wait while another fetches a large set?

`python bystander.py URL` prints `ready`, then, once the key `over` exists, its longest wait in ms.
"""

from __future__ import annotations

import sys
import time

import redis


def longest_wait_ms(r: redis.Redis) -> float:
    """Ask a small question again and again until the key `over` exists; the longest wait."""
    worst, over = 0.0, r.exists("over")
    print("ready", flush=True)
    while not over:
        start = time.perf_counter()
        over = r.exists("over")
        worst = max(worst, time.perf_counter() - start)
        time.sleep(0.0005)
    return worst * 1000


if __name__ == "__main__":
    print(longest_wait_ms(redis.Redis.from_url(sys.argv[1])))
