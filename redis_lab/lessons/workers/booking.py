"""A worker that handles one event, and is killed in the middle if it `dies`.

Of the lesson on idempotency: `booking.py URL FILE WAY DIES`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys

import redis


def handle(r: redis.Redis, database: sqlite3.Connection, way: str, dies: bool) -> None:
    def mark() -> bool:
        return bool(r.set(f"seen:{way}", 1, nx=True, ex=3600))

    def book() -> None:
        database.execute("UPDATE income SET cents = cents + 42 WHERE way = ?", (way,))

    def killed() -> None:
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    if way == "mark, then book" and mark():
        killed()
        book()
    elif way == "book, then mark" and not r.exists(f"seen:{way}"):
        book()
        killed()
        mark()
    elif way == "both in one transaction":
        database.execute("BEGIN IMMEDIATE")
        if database.execute("INSERT INTO seen VALUES ('e1') ON CONFLICT DO NOTHING").rowcount:
            book()
            killed()
        database.execute("COMMIT")


def main(url: str, file: str, way: str, dies: str) -> None:
    database = sqlite3.connect(file, isolation_level=None, timeout=30)
    handle(redis.Redis.from_url(url), database, way, dies == "dies")


if __name__ == "__main__":
    main(*sys.argv[1:])
