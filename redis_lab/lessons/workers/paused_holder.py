"""A holder of the lesson on locks that is stopped while it has the lock.

`python paused_holder.py URL FILE LEASE_S READ WRITE TIMES STOPS` adds one TIMES times to the number
in the SQLite FILE, by the statements READ and WRITE. It stops itself with SIGSTOP where as many
additions are left as STOPS says ("7 4"), and goes on when it gets SIGCONT. The lease under which it
stops is of LEASE_S seconds; the others are so long that no busy machine outlives them. Each line
that it prints is a time, a tab, and what has happened.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time

import redis

from redis_lab.patterns.lock import Lease, Lock

LONG_S = 20.0


def print_event(event: str) -> None:
    """Print the time and what has happened. (What is not flushed waits until the end.)"""
    print(time.time(), event, sep="\t")


def add_under(lease: Lease, database: sqlite3.Connection, sql: list[str], stop: bool) -> bool:
    """Read the number and write it plus one; return whether the database took the write."""
    read, write = sql
    shown = {"fence": lease.fence}
    rows = database.execute(read, shown).fetchall()
    if stop:
        print_event("reads, and is stopped")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSTOP)
        print_event("wakes up")
    written = rows and database.execute(write, shown | {"n": rows[0][0] + 1}).rowcount
    print_event("writes" if written else "is refused")
    return bool(written)


def add_and_stop(
    short: Lock,
    long: Lock,
    database: sqlite3.Connection,
    sql: list[str],
    times: int,
    stops: list[int],
) -> None:
    """Add one so many times, each under a lease of its own, and stop once at each of `stops`, under
    a short one.
    """
    while times:
        stop = times in stops
        lock = short if stop else long
        lease = lock.acquire("counter", wait_s=30)
        assert lease  # nobody holds it for that long
        print_event("gets the lock")
        if stop:
            stops.remove(times)
        times -= add_under(lease, database, sql, stop)
        if not lock.release(lease):
            print_event("learns: too late")


if __name__ == "__main__":
    url, file, lease_s, *statements, left, where = sys.argv[1:]
    client = redis.Redis.from_url(url)
    add_and_stop(
        Lock(client, "lock", lease_s=float(lease_s)),
        Lock(client, "lock", lease_s=LONG_S),
        sqlite3.connect(file, isolation_level=None, timeout=30),
        statements,
        int(left),
        [int(k) for k in where.split()],
    )
