"""Workers that are killed with a job in their hands, of the lesson on queues.

`killed_with_job.py URL BRPOP` or `killed_with_job.py URL ListQueue`.
"""

from __future__ import annotations

import os
import signal
import sys

import redis

from redis_lab.patterns.queue import ListQueue


def after_brpop(r: redis.Redis) -> None:
    r.brpop("letters")
    os.kill(os.getpid(), signal.SIGKILL)


def after_take(r: redis.Redis) -> None:
    queue = ListQueue(r, "images", lease_s=0.1, max_tries=3)
    if queue.take(block_s=5):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    url, how = sys.argv[1:]
    {"BRPOP": after_brpop, "ListQueue": after_take}[how](redis.Redis.from_url(url))
