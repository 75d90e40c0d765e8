"""Processes of the lesson on locks: one dies holding two, eight add to one number.

`python locking.py die URL` takes two locks and is killed. `python locking.py add URL FILE` reads
the name of a way to add from its input, adds one 25 times to the number in the SQLite FILE that
way, prints `done`, and reads the next name.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable

import redis

from redis_lab.patterns.lock import Lock


def take_locks_and_die(r: redis.Redis) -> None:
    """Take a lock by SET … NX, and one of redis-py's with its defaults; then SIGKILL."""
    r.set("lock:naive", "ada", nx=True)
    r.lock("lock:redis-py").acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def ways_to_add(database: sqlite3.Connection, lock: Lock) -> dict[str, Callable[[], None]]:
    """Three ways to add one to the number, by name."""

    def add_one() -> None:
        n = database.execute("SELECT n FROM counter").fetchone()[0]
        database.execute("UPDATE counter SET n = ?", (n + 1,))

    def add_locked() -> None:
        with lock.holding("counter", wait_s=30):
            add_one()

    def add_in_one_step() -> None:
        database.execute("UPDATE counter SET n = n + 1")

    return {"without": add_one, "with": add_locked, "in one step": add_in_one_step}


def add_as_told(r: redis.Redis, file: str) -> None:
    """Add one 25 times in each of the ways that the input names."""
    database = sqlite3.connect(file, isolation_level=None, timeout=30)
    ways = ways_to_add(database, Lock(r, "crew", lease_s=30))
    for line in sys.stdin:
        for _ in range(25):
            ways[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    how, url, *file = sys.argv[1:]
    client = redis.Redis.from_url(url)
    if how == "die":
        take_locks_and_die(client)
    else:
        add_as_told(client, *file)
