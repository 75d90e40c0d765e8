"""One of several processes that put the orders of a week on a board, of the lesson on leaderboards.

`sellers.py URL HOW FILE START MINE`: it adds every fourth order line of the shop in FILE, beginning
at MINE, of the week that begins at START. HOW is `naive` or `Leaderboard`. It prints `ready`, and
begins when it gets a line.
"""

from __future__ import annotations

import sqlite3
import sys
from functools import partial
from typing import Any

import redis

from redis_lab.patterns.leaderboard import Leaderboard

LINES = """
SELECT CAST(product_id AS TEXT), quantity, o.at FROM order_lines l JOIN orders o ON o.id = order_id
WHERE o.at >= :start AND o.at < :start + 604800 AND l.id % 4 = :mine"""


def read_and_write(r: Any, member: str, points: int, at: int) -> None:
    old = int(r.zscore("sold:naive", member) or 0) >> 29
    r.zadd("sold:naive", {member: (old + points) * 2**29 + 2**29 - 1 - (at - 1735689600)})


def main(url: str, how: str, file: str, start: str, mine: str) -> None:
    r = redis.Redis.from_url(url)
    naive = partial(read_and_write, r)
    add = naive if how == "naive" else Leaderboard(r, "sold", keep_days=10_000).add
    shop = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    lines = shop.execute(LINES, {"start": int(start), "mine": int(mine)}).fetchall()
    print("ready", flush=True)
    sys.stdin.readline()
    for line in lines:
        add(*line)


if __name__ == "__main__":
    main(*sys.argv[1:])
