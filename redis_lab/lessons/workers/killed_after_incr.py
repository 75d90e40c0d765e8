"""A process that counts, and is killed before it sets a time to live.

Of the lesson on rate limiting: `killed_after_incr.py URL`.
"""

from __future__ import annotations

import os
import signal
import sys

import redis


def main(url: str) -> None:
    r = redis.Redis.from_url(url)
    if r.incr("hits:ada") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
        r.expire("hits:ada", 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
