"""Two processes that count, for the lesson on strings to kill.

`python counting.py die URL` dies between INCR and EXPIRE. `python counting.py hit URL` prints
`ready`, then counts until it is killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

import redis

from redis_lab.patterns.counter import ExpiringCounter


def count_and_die(r: redis.Redis) -> None:
    """Count a wrong password, and die before the key has its time to live."""
    r.incr("tries:ada")
    os.kill(os.getpid(), signal.SIGKILL)
    r.expire("tries:ada", 60)


def hit_until_killed(r: redis.Redis) -> None:
    """Count one event after the other, each under a name of its own."""
    counter = ExpiringCounter(r, "crash", ttl_s=60)
    print("ready", flush=True)
    for n in itertools.count():
        counter.hit(str(n))


if __name__ == "__main__":
    how, url = sys.argv[1:]
    {"die": count_and_die, "hit": hit_until_killed}[how](redis.Redis.from_url(url))
