"""A postman of the lesson on streams. A letter to `nobody` kills whoever opens it.

`postman.py URL NAME LIMIT`. A letter that was delivered more than LIMIT times is not opened.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import redis


def next_letters(r: Any, me: str) -> list:
    """One letter that another postman left behind, else up to five new ones."""
    _, left_behind, _ = r.xautoclaim("letters", "post", me, min_idle_time=0, count=1)
    reply = [] if left_behind else r.xreadgroup("post", me, {"letters": ">"}, count=5)
    return reply[0][1] if reply else left_behind


def deliver_letter(r: Any, entry: str, letter: dict, limit: int) -> None:
    """Send the letter and acknowledge it, or give it up."""
    [note] = r.xpending_range("letters", "post", entry, entry, 1)
    if note["times_delivered"] > limit:
        give_up(r, entry, letter)
        return
    if letter["to"] == "nobody":
        os.kill(os.getpid(), signal.SIGKILL)
    r.sadd("sent", letter["to"])
    r.xack("letters", "post", entry)


def give_up(r: Any, entry: str, letter: dict) -> None:
    """Put the letter among the dead letters, and acknowledge it, in one transaction."""
    pipe = r.pipeline()
    pipe.xadd("letters:dead", {**letter, "entry": entry})
    pipe.xack("letters", "post", entry)
    pipe.execute()


def main(url: str, me: str, limit: str) -> None:
    r = redis.Redis.from_url(url, decode_responses=True)
    while letters := next_letters(r, me):
        for entry, letter in letters:
            deliver_letter(r, entry, letter, int(limit))


if __name__ == "__main__":
    main(*sys.argv[1:])
