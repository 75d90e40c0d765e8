"""A seller of the lesson on sorted sets: it sells 300 lamps, and adds each to a board.

`python selling.py URL WAY BOARD` prints `ready`, waits for a line, and sells.
"""

from __future__ import annotations

import sys

import redis


def sell_by_reading(r: redis.Redis, board: str) -> None:
    """Add one sold lamp: read the score, add one, write it back."""
    r.zadd(board, {"lamp": (r.zscore(board, "lamp") or 0) + 1})


def sell_by_adding(r: redis.Redis, board: str) -> None:
    """Add one sold lamp in the server."""
    r.zincrby(board, 1, "lamp")


if __name__ == "__main__":
    url, way, board = sys.argv[1:]
    sell = {"sell_by_reading": sell_by_reading, "sell_by_adding": sell_by_adding}[way]
    client = redis.Redis.from_url(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(300):
        sell(client, board)
