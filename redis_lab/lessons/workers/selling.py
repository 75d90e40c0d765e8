"""A seller of the lesson on sorted sets: it sells 300 lamps, and adds each to a board.

`python selling.py URL WAY BOARD` prints `ready`, waits for a line, and sells.
"""

from __future__ import annotations

import sys

import redis


def read_and_write(r: redis.Redis, board: str) -> None:
    """Add one sold lamp: read the score, add one, write it back."""
    r.zadd(board, {"lamp": (r.zscore(board, "lamp") or 0) + 1})


def increase(r: redis.Redis, board: str) -> None:
    """Add one sold lamp in the server."""
    r.zincrby(board, 1, "lamp")


if __name__ == "__main__":
    url, way, board = sys.argv[1:]
    sell = {"read_and_write": read_and_write, "increase": increase}[way]
    client = redis.Redis.from_url(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(300):
        sell(client, board)
