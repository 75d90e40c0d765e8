"""A worker of the lesson on streams that takes a job twice over, and is killed with it.

Called with the server's URL.
"""

from __future__ import annotations

import os
import signal
import sys

import redis


def take_from_both(url: str) -> None:
    """Take a job from the list and one from the stream; then SIGKILL."""
    r = redis.Redis.from_url(url)
    r.brpop("jobs:list")
    r.xreadgroup("crew", "bob", {"jobs:stream": ">"})
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    take_from_both(sys.argv[1])
