"""The lesson on queues: its exercises and its figures."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import redis
from redis.commands.core import Script

from redis_lab.figures import Chart, DotPlot, Timeline
from redis_lab.judging import NotYet, exercise

FIGURES: dict[str, Chart] = {
    "queue_beside": DotPlot(
        title="What a job costs in Redis",
        x="p50_us",
        xlabel="time for one job (µs, log scale)",
        meanings={
            "LPUSH": "baseline",
            "rq enqueue": "theirs",
        },
    ),
    "queue_crash": Timeline(
        title="Four workers are killed, and no letter is lost",
        x="seconds",
        lane="worker",
        event="event",
        xlabel="time since the first letter (s)",
        meanings={
            "sent": "acknowledged",
            "sent again": "lost",
        },
    ),
}

LATER, READY, REVENUE = "check:later", "check:ready", "check:revenue"


class _Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` of the learner's survives it."""


class _MortalClient:
    """A client whose owner is killed before it sends more than `lives` commands. One step (a
    script, MULTI/EXEC) counts as one command.
    """

    def __init__(self, client: redis.Redis, lives: int) -> None:
        self.client, self.lives = client, lives

    def live(self) -> None:
        if self.lives == 0:
            raise _Killed
        self.lives -= 1

    def register_script(self, script: str) -> Script:
        stands_in: Any = self  # everything else is passed to the client
        return Script(stands_in, script)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe: Any = self.client.pipeline(*args, **options)
        execute = pipe.execute

        def mortally(*args: Any, **options: Any) -> Any:
            self.live()
            return execute(*args, **options)

        pipe.execute = mortally
        return pipe

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if not callable(found) or name.startswith(("get_", "_")):
            return found

        def command(*args: Any, **options: Any) -> Any:
            self.live()
            return found(*args, **options)

        return command


def _call_at_once(call: Callable[[], object], callers: int = 4) -> list:
    together = threading.Barrier(callers)

    def caller(_: int) -> object:
        together.wait()
        return call()

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(caller, range(callers)))


def _delete_keys(r: redis.Redis) -> None:
    r.delete(REVENUE, *r.scan_iter("check:*", count=1000))


@exercise(
    hints=(
        "If the worker dies between SET and INCRBY, the mark is there and the money is not. "
        "The two must be one step.",
        "In a script, nothing can come between: if SET with NX succeeds, INCRBY. Keep the time "
        "to live of the mark.",
        "In Lua: `if redis.call('SET', KEYS[1], 1, 'NX', 'EX', 86400) then "
        "redis.call('INCRBY', KEYS[2], ARGV[1]) end`. Register it, and call it with the two "
        "keys and the cents.",
    )
)
def book(r: redis.Redis, answer: Callable[[Any, str, int], object]) -> str:
    _delete_keys(r)
    try:
        for job, cents in (("a", 5), ("b", 7), ("a", 5)):
            answer(r, job, cents)
        in_turn = int(r.get(REVENUE) or 0)
        marks = [key for key in r.scan_iter("check:*", count=1000) if key != REVENUE]
        left_s = [r.ttl(key) for key in marks]
        r.delete(REVENUE)
        for k in range(40):
            _call_at_once(partial(answer, r, f"c{k}", 1))
        together = int(r.get(REVENUE) or 0)
        crashes = []
        for lives in range(50):
            r.delete(REVENUE)
            died = False
            try:
                answer(_MortalClient(r, lives), f"d{lives}", 100)
            except _Killed:
                died = True
            answer(r, f"d{lives}", 100)
            crashes.append(int(r.get(REVENUE) or 0))
            if not died:
                break
    finally:
        _delete_keys(r)
    if in_turn != 12:
        raise NotYet(
            f"jobs a, b and a again came, of 5, 7 and 5 cents: 12 should be booked, not {in_turn}."
        )
    if 0 in crashes:
        raise NotYet(
            f"killed after {crashes.index(0)} command, the job counts as booked and never was: the "
            "next delivery finds the mark and stops. Mark and amount must be one step."
        )
    if 200 in crashes:
        raise NotYet(
            f"killed after {crashes.index(200)} commands, the job is booked again at the next "
            "delivery: the amount was there and the mark was not. They must be one step."
        )
    if together != 40:
        raise NotYet(
            f"40 jobs were each delivered to four workers at the same moment, and {together} are "
            "booked. Between looking and booking there is room for the others."
        )
    if left_s and -1 < min(left_s) < 60:
        raise NotYet(
            f"a mark is gone after {min(left_s)} seconds, and a delivery that comes later books "
            "the job again. Let it live longer than a job can be delivered again: a day."
        )
    if -1 in left_s:
        raise NotYet("each job leaves a mark without a time to live: their number only grows.")
    return "right: each job booked once, by four workers at once and whenever one is killed"


@exercise(
    hints=(
        "If the worker dies after ZREM and before LPUSH, the job is in neither key. And with "
        "several workers, `len(due)` is not what this one moved.",
        "Do all of it in one script: ZRANGE by score up to `now`, then ZREM and LPUSH for each "
        "job. The script returns how many there were.",
        "In Lua, loop with `for _, job in ipairs(due) do … end`, and `return #due`. ZRANGE "
        "with BYSCORE gives the earliest first, and LPUSH puts each in front of the one "
        "before; that is the order that is wanted.",
    )
)
def move_due(r: redis.Redis, answer: Callable[[Any, int], int]) -> str:
    due = {f"job {k}": 100 + k for k in range(30)}
    waiting = {"edge": 1000, "tomorrow": 1001, "next year": 5000}
    wanted = [*due, "edge"]

    def fill() -> None:
        r.delete(LATER, READY)
        r.zadd(LATER, {**dict(reversed(due.items())), **waiting})

    lost: list[tuple[int, str]] = []
    try:
        fill()
        moved = answer(r, 1000)
        ready, later = r.lrange(READY, 0, -1)[::-1], r.zrange(LATER, 0, -1)
        none = answer(r, 1000)
        for lives in range(50):
            fill()
            died = False
            try:
                answer(_MortalClient(r, lives), 1000)
            except _Killed:
                died = True
            found = Counter(r.lrange(READY, 0, -1) + r.zrange(LATER, 0, -1))
            if len(found) < len(due) + len(waiting):
                lost.append((lives, "in neither"))
            elif max(found.values()) > 1:
                lost.append((lives, "in both"))
            if not died:
                break
        doubled = 0
        for _ in range(20):
            fill()
            with contextlib.suppress(redis.WatchError):
                _call_at_once(lambda: answer(r, 1000))
            doubled += r.llen(READY) > len(wanted)
    finally:
        _delete_keys(r)
    if sorted(ready) != sorted(wanted):
        missing, early = set(wanted) - set(ready), set(ready) - set(wanted)
        if missing == {"edge"}:
            raise NotYet("a job that is due at 1000 is due at 1000, not after it.")
        if early:
            raise NotYet(f"{sorted(early)[0]!r} is due later, and is in line already.")
        raise NotYet(f"{len(missing)} of {len(wanted)} jobs that are due are not in check:ready.")
    if set(later) != {"tomorrow", "next year"}:
        raise NotYet("what was moved is still in check:later, and will be moved again.")
    if lost:
        lives, where = lost[0]
        raise NotYet(
            f"killed after {lives} commands, a job is {where} of the two keys. "
            "Taking it from one and putting it into the other must be one step."
        )
    if doubled:
        raise NotYet("four workers at the same moment, and a job is in line more than once.")
    if ready != wanted:
        raise NotYet("all are in line, but the one that was due first should be taken first.")
    if (moved, none) != (len(wanted), 0):
        raise NotYet(f"{len(wanted)} were moved, then none; you say {moved} and {none}.")
    return f"right: {moved} jobs moved in one step, by four workers at once and under every kill"
