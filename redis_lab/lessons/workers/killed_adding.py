"""Processes that are killed while they add points, of the lesson on leaderboards.

`killed_adding.py URL naive` kills itself between two boards; `killed_adding.py URL board` adds to
the finished board until somebody kills it.
"""

from __future__ import annotations

import os
import signal
import sys

import redis

from redis_lab.patterns.leaderboard import Leaderboard


def between_two_boards(r: redis.Redis) -> None:
    r.zincrby("killed:day", 5, "ada")
    os.kill(os.getpid(), signal.SIGKILL)
    r.zincrby("killed:all", 5, "ada")


def until_killed(r: redis.Redis) -> None:
    board = Leaderboard(r, "crash", keep_days=10_000)
    while True:
        print(board.add("ada", 1, at=1766361600), flush=True)


if __name__ == "__main__":
    url, how = sys.argv[1:]
    {"naive": between_two_boards, "board": until_killed}[how](redis.Redis.from_url(url))
