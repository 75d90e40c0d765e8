"""Four ways to transfer money, and a process that makes transfers, of the lesson on transactions.

`python transfers.py URL` reads lines with a way, a number of accounts and a number of seconds. For
each it waits at the list `go`, makes transfers for so long, and prints how many it made, how many
tries they took, and for how many seconds.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import redis

TRANSFER = """
local left = tonumber(redis.call('GET', KEYS[1]) or '0')
if left < tonumber(ARGV[1]) then return 0 end
redis.call('DECRBY', KEYS[1], ARGV[1])
redis.call('INCRBY', KEYS[2], ARGV[1])
return 1
"""
script = redis.Redis().register_script(TRANSFER)  # connects to nothing


def naive(r: Any, source: str, target: str, amount: int) -> int:
    left, right = int(r.get(source)), int(r.get(target))
    if left >= amount:
        r.set(source, left - amount)
        r.set(target, right + amount)
    return 1


def with_watch(r: Any, source: str, target: str, amount: int) -> int:
    tries = 0

    def attempt(pipe: Any) -> None:
        nonlocal tries
        tries += 1
        left = int(pipe.get(source))
        pipe.multi()
        if left >= amount:
            pipe.decrby(source, amount).incrby(target, amount)

    r.transaction(attempt, source)
    return tries


def with_script(r: Any, source: str, target: str, amount: int) -> int:
    script(keys=[source, target], args=[amount], client=r)
    return 1


def with_function(r: Any, source: str, target: str, amount: int) -> int:
    r.fcall("transfer", 2, source, target, amount)
    return 1


WAYS = {way.__name__: way for way in (naive, with_watch, with_script, with_function)}


def make_transfers(
    r: redis.Redis, way: str, accounts: int, seconds: float
) -> tuple[int, int, float]:
    """Make transfers for so many seconds, between accounts drawn at random.

    Returns the transfers, their tries, and the seconds that they took.
    """
    done, tries, took = 0, 0, 0.0
    r.blpop("go", 4)
    start = time.perf_counter()
    while took < seconds:
        source, target = random.sample(range(accounts), 2)
        amount = random.randint(1, 100)
        tries += WAYS[way](r, f"account:{source}", f"account:{target}", amount)
        done, took = done + 1, time.perf_counter() - start
    return done, tries, took


if __name__ == "__main__":
    client = redis.Redis.from_url(sys.argv[1], decode_responses=True)
    for line in sys.stdin:
        way, accounts, seconds = line.split()
        print(*make_transfers(client, way, int(accounts), float(seconds)), flush=True)
