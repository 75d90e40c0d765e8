"""A worker of the lesson on streams that takes a job twice over, and is killed with it.

`take_and_die.py URL`
"""

from __future__ import annotations

import os
import signal
import sys

import redis


def take_from_both(r: redis.Redis) -> None:
    """Take a job from the list and one from the stream; then SIGKILL."""
    r.brpop("jobs:list")
    r.xreadgroup("crew", "bob", {"jobs:stream": ">"})
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    take_from_both(redis.Redis.from_url(sys.argv[1]))
