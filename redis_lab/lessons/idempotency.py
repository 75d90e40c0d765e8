"""The lesson on idempotency: its exercises and its figures."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from redis_lab.child import TemporaryFolder
from redis_lab.figures import Chart, DotPlot
from redis_lab.judging import NotYet, exercise

FIGURES: dict[str, Chart] = {
    "idempotency": DotPlot(
        title="What a request with a key costs",
        x="p50_us",
        xlabel="time in Redis for one request (µs, log scale)",
        meanings={
            "INCR": "baseline",
            "SET NX": "baseline",
        },
    ),
}

EVENTS = 10

SAFE = {
    "SET price:1 500": (
        True,
        "the second SET leaves what the first left, if nobody wrote in between",
    ),
    "INCR views": (False, "the second INCR counts again"),
    "LPUSH jobs a": (False, "the job is in the list twice"),
    "SADD seen e1": (True, "it is a set; only the reply differs, 0 instead of 1"),
    "GET price:1": (True, "reading changes nothing"),
    "SET lock ada NX": (
        False,
        "if the first was carried out, the second is refused, and Ada believes that somebody else "
        "has her lock",
    ),
    "HINCRBY stock:1 lamp -1": (False, "two lamps are gone for one sold"),
    "ZADD board 10 ada": (True, "it sets the score to 10, however often (ZINCRBY would not)"),
}


class _Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` of the learner's survives it."""


class _MortalConnection(sqlite3.Connection):
    """A connection whose owner is killed before it sends more than `lives` statements."""

    lives = 10**9

    def live(self) -> None:
        if self.lives == 0:
            raise _Killed
        self.lives -= 1

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self.live()
        return super().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self.live()
        return super().executemany(sql, *args)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self.live()
        return super().executescript(sql)

    def cursor(self, *args: Any) -> Any:
        return self  # so that every statement is counted

    def commit(self) -> None:
        self.live()
        super().commit()


@exercise(
    hints=(
        "Each statement commits by itself. If the worker dies between the two, the event "
        "counts as seen and the money is missing. What makes two statements one step in a "
        "database?",
        "A transaction. `BEGIN IMMEDIATE` also makes the other seven wait at the beginning, so "
        "they see the mark afterwards.",
        "Execute `BEGIN IMMEDIATE` before the INSERT and `COMMIT` after the UPDATE, whether or "
        "not the event was new.",
    )
)
def handle_once(_: redis.Redis, answer: Callable[[sqlite3.Connection, str, int], object]) -> str:
    with TemporaryFolder() as folder:
        return _run_in_file(answer, f"{folder}/shop.sqlite")


def _run_in_file(answer: Callable[[sqlite3.Connection, str, int], object], file: str) -> str:
    def connected(kind: type[sqlite3.Connection] = sqlite3.Connection) -> Any:
        return sqlite3.connect(file, isolation_level=None, timeout=30, factory=kind)

    def arrive(event: str, cents: int, lives: int = 10**9) -> bool:
        """Run a worker; returns whether it survived. If not, uncommitted statements are lost."""
        with contextlib.closing(connected(_MortalConnection)) as database:
            database.lives = lives
            try:
                answer(database, event, cents)
            except _Killed:
                return False
        return True

    def total() -> int:
        """The bookings since the last call."""
        [(cents,)] = shop.execute("SELECT cents FROM income").fetchall()
        shop.execute("UPDATE income SET cents = 0")
        return cents

    def meet(event: str) -> None:
        """Eight arrivals of one event at the same moment."""
        together = threading.Barrier(8, timeout=30)

        def one(_: int) -> None:
            together.wait()
            arrive(event, 1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))

    with contextlib.closing(connected()) as shop:
        shop.execute("PRAGMA journal_mode=wal")
        shop.execute("PRAGMA synchronous=off")
        shop.execute("CREATE TABLE seen (event TEXT PRIMARY KEY)")
        shop.execute("CREATE TABLE income (cents INTEGER)")
        shop.execute("INSERT INTO income VALUES (0)")
        for event in ("a", "b", "a", "c", "b"):
            arrive(event, 100)
        in_turn = total()
        killed = {}
        for lives in range(30):
            lived = arrive(f"killed {lives}", 100, lives)
            arrive(f"killed {lives}", 100)
            killed[lives] = total()
            if lived:
                break
        for k in range(EVENTS):
            meet(f"e{k}")
        at_once = total()
    if in_turn != 300:
        raise NotYet(
            f"a, b, a, c, b arrived one after the other, 100 cents each: 300, and not {in_turn}."
        )
    for lives, cents in killed.items():
        if cents == 0:
            raise NotYet(
                f"killed after {lives} of its statements, the event counts as seen and was "
                "never booked: the next arrival finds the mark and stops. Mark and money "
                "must be one step."
            )
        if cents != 100:
            raise NotYet(
                f"killed after {lives} of its statements and delivered again, 100 cents "
                f"became {cents}: the money was there, and the mark was not. They must be one "
                "step: a transaction."
            )
    if at_once != EVENTS:
        raise NotYet(
            f"{EVENTS} events of one cent, eight arrivals of each at once: {at_once} cents. "
            "Between the look and the note seven others look. Which statement says who was first?"
        )
    return f"right: each booked once, by eight at once and when killed at any of {lives} places"


@exercise(
    hints=(
        "For each, imagine that the server did it and only the reply was lost. Is the state "
        "the same after a second time? And does the caller get the same answer?",
        "What adds, counts or pushes does it again. What sets a value, or adds a member to a "
        "set, leaves the same state. With NX the second reply differs from the first.",
        "Four are safe: the two that write a fixed value to a fixed place with no condition, "
        "the one that adds to a set, and the one that only reads.",
    )
)
def safe_to_repeat(_: redis.Redis, answer: Mapping[str, bool]) -> str:
    if set(answer) != set(SAFE):
        raise NotYet("keep the eight commands as they are, and say True or False for each.")
    wrong = [command for command, safe in answer.items() if bool(safe) != SAFE[command][0]]
    if wrong:
        right = len(SAFE) - len(wrong)
        raise NotYet(f"{right} of {len(SAFE)} are right. Look at {wrong[0]}: {SAFE[wrong[0]][1]}.")
    return "right: four may be repeated, four may not"
