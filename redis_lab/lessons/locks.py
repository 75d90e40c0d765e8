"""The lesson on locks: its exercises and its figures."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Timeline
from redis_lab.judging import NotYet, exercise
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "locks_beside": DotPlot(
        title="Taking a lock and giving it back",
        x="p50_us",
        xlabel="time for both (µs, log scale)",
        meanings={
            "SET NX PX, then DEL": "baseline",
            "redis-py's Lock": "theirs",
        },
    ),
    "locks_paused": Timeline(
        title="A holder is stopped, and wakes up after its lease",
        x="seconds",
        lane="who",
        event="event",
        xlabel="time since Ada got the lock (s)",
        meanings={
            "gets the lock": "acknowledged",
            "writes": "acknowledged",
            "is refused": "refused",
        },
    ),
}

KEY = "check:lock"


class _MeddledClient(redis.Redis):
    """A client whose lease ends after its GET, when Bob takes the lock."""

    meddle = False

    def execute_command(self, *args: object, **options: object) -> object:
        reply = super().execute_command(*args, **options)
        if self.meddle and str(args[0]).upper() == "GET":
            self.meddle = False
            self.set(KEY, "bob", px=60_000)
        return reply


@exercise(
    hints=(
        "After your GET the lease may run out, and Bob may take the lock. Your DELETE then "
        "removes his. The comparison and the deletion must be one step on the server.",
        "A short Lua script is one step: compare GET of KEYS[1] with ARGV[1], and only if they "
        "are equal, DEL.",
        "In Lua, `return 0` if they differ, and otherwise return what `redis.call('DEL', "
        "KEYS[1])` replies. Call it with `r.eval(script, 1, key, token)`; the lock was hers if "
        "the reply is 1.",
    )
)
def release(r: redis.Redis, answer: Callable[[redis.Redis, str, str], object]) -> str:
    client = _MeddledClient(connection_pool=r.connection_pool)

    def after(holder: str | None) -> tuple[bool, object, int]:
        """The result of Ada's release, the holder after it, and the number of round trips."""
        r.delete(KEY)
        if holder:
            r.set(KEY, holder, px=60_000)
        with wire(client) as counted:
            released = answer(client, KEY, "ada")
        left = r.get(KEY)
        return released in (True, 1, b"1", "1"), left, counted.round_trips

    try:
        after("ada")  # this may load a script
        adas, bobs, nobodys = after("ada"), after("bob"), after(None)
        client.meddle = True
        _, left_to, _ = after("ada")
        gone_round = client.meddle is False and left_to is None
    finally:
        r.delete(KEY)
    if adas[1] is not None:
        raise NotYet("Ada released her own lock, and it is still there.")
    if bobs[1] is None:
        raise NotYet(
            "Ada released Bob's lock. Her lease had run out while she worked. DEL does not check; "
            "compare the value with her token first."
        )
    if gone_round:
        raise NotYet(
            "between your GET and your DEL the lease ran out, and Bob took the lock: his is gone. "
            "Looking and deleting must be one step on the server."
        )
    if not adas[0] or bobs[0] or nobodys[0]:
        raise NotYet(
            "the lock is right, the answer is not: True where Ada's own lock was released, False "
            "where it was Bob's or nobody's. She should learn that she was too late."
        )
    if adas[2] > 1:
        raise NotYet(f"right, in {adas[2]} round trips. A script does it in one.")
    return "right: her own lock and no other, in one round trip"


class _InterruptedConnection(sqlite3.Connection):
    """A connection after whose first SELECT another process writes with fence 9."""

    armed = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *args)
        if self.armed and sql.lstrip().upper().startswith("SELECT"):
            self.armed = False
            super().execute("UPDATE report SET text = 'nine', fence = 9")
        return cursor


@exercise(
    hints=(
        "Between your SELECT and your UPDATE somebody with a greater fence can write. SQLite "
        "can make the comparison itself.",
        "Put the condition into the UPDATE, as its WHERE, and leave the SELECT out. The same "
        "holder may write twice, so an equal fence is allowed.",
        "`UPDATE … WHERE fence <= ?` changes one row or none. `execute` returns a cursor whose "
        "`rowcount` says how many.",
    )
)
def fenced(client: redis.Redis, answer: Callable[[sqlite3.Connection, int, str], object]) -> str:
    database = sqlite3.connect(":memory:", isolation_level=None, factory=_InterruptedConnection)
    database.execute("CREATE TABLE report (id INTEGER PRIMARY KEY, text TEXT, fence INTEGER)")
    database.execute("INSERT INTO report VALUES (1, 'empty', 0)")

    def write(fence: int, text: str) -> tuple[bool, str]:
        written = bool(answer(database, fence, text))
        [(stored,)] = sqlite3.Connection.execute(database, "SELECT text FROM report").fetchall()
        return written, stored

    try:
        first, second, again = write(3, "three"), write(5, "five"), write(5, "five again")
        late = write(4, "four")
        _, newer = write(6, "six")
        database.execute("UPDATE report SET text = 'six', fence = 6")
        database.armed = True
        _, overtaken = write(7, "seven")
        raced = not database.armed and overtaken == "seven"
    finally:
        database.close()
    if first[1] != "three" or second[1] != "five":
        raise NotYet("fence 3 wrote, then fence 5: each was the newest, and one is not there.")
    if late[1] == "four":
        raise NotYet(
            "fence 5 has written, and then fence 4 was let in. Does the row remember the fence of "
            "the one who wrote it, and does the UPDATE ask for it?"
        )
    if again[1] != "five again" or newer != "six":
        raise NotYet("one lease may write twice: an equal fence is not an older one. Use <=.")
    if raced:
        raise NotYet(
            "you looked, then wrote, and between the two somebody with a newer fence had written. "
            "Put the question into the UPDATE, as its WHERE."
        )
    if not (first[0] and second[0] and again[0]) or late[0]:
        raise NotYet(
            "the report is right, the answer is not: True if it was written, False if refused. "
            "The cursor knows: rowcount."
        )
    return "right: the newest holder writes, the late one is refused and knows it"
