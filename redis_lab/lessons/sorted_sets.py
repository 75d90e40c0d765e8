"""The lesson on sorted sets: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "sorted_sets": Lines(
        title="Which place is mine, and who are the ten best?",
        x="members",
        y="p50_us",
        by="what",
        panels="panel",
        theory="theory_us",
        theory_label="round trip + c · log₂ n; lookup + n/2 × price of an entry",
        xlabel="members of the board",
        ylabel="time for one answer (µs)",
        meanings={
            "sorted set": "ours",
            "SQLite, index": "theirs",
            "SQLite, no index": "theirs",
        },
    ),
}

MEMBERS = 400
LATE = (
    "ada was seen at second 9000, and then an event of second 6000 arrived late: ada now counts "
    "as last seen {}. Which option of ZADD lets a score only grow?"
)


@exercise(
    hints=(
        "Two cases are missing: a member near the top, where `place - k` is below zero, and a "
        "member who is not on the board.",
        "A negative start counts from the end of the board, so the start must never be below "
        "0. And ZREVRANK returns None for a member who is not there: test for that first. "
        "Places begin with 1, ranks with 0.",
        "Set `first = max(0, place - k)`, read from `first` to `place + k` with `desc=True`, "
        "and number the result from `first + 1` with `enumerate`.",
    )
)
def around(
    r: redis.Redis, answer: Callable[[redis.Redis, str, str, int], list[tuple[int, str]]]
) -> str:
    board = "check:board"
    names = [f"player:{place}" for place in range(1, MEMBERS + 1)]  # the best first
    cases = {
        "in the middle": (vary(200, 100, 300), 2),
        "at the very bottom": (MEMBERS, 3),
        "at the very top": (1, 2),
        "second, with three neighbours a side": (2, 3),
    }
    try:
        r.zadd(board, {name: 10 * (MEMBERS - k) for k, name in enumerate(names)})
        for where, (place, k) in cases.items():
            with wire(r) as counted:
                got = answer(r, board, names[place - 1], k)
            first = max(1, place - k)
            right = list(enumerate(names[first - 1 : place + k], first))
            _compare_places(where, place, got, right)
            if counted.round_trips > 2:
                raise NotYet(f"right, in {counted.round_trips} round trips. Two are enough.")
            if counted.bytes_in > 1000:
                raise NotYet(
                    f"right, but {counted.bytes_in:,} bytes came back for a handful of players: "
                    "the whole board? ZRANGE takes a start and an end."
                )
        try:
            nobody = answer(r, board, "player:nobody", 2)
        except TypeError as error:
            raise NotYet(
                "right for everybody on the board. For somebody who is not on it, ZREVRANK returns "
                "None, and None minus k is an error. The answer should be []."
            ) from error
    finally:
        r.delete(board)
    if nobody != []:
        raise NotYet(f"somebody who is not on the board has no neighbours: [], not {nobody!r}.")
    return "right: at the top, in the middle, at the bottom and off the board, in two round trips"


def _compare_places(where: str, place: int, got: Any, right: list[tuple[int, str]]) -> None:
    try:
        got = [tuple(pair) for pair in got]
        names = [name for _, name in got]
    except (TypeError, ValueError) as error:
        raise NotYet(f"the answer should be a list of (place, member), not {got!r}.") from error
    if got == right:
        return
    if not got and place < 10:
        raise NotYet(
            f"{where} nobody is found. The start is below zero there, and a start below zero "
            "counts from the end of the board."
        )
    if names == [name for _, name in right]:
        raise NotYet(
            f"{where} the members are right, and their places begin with {got[0][0]!r} instead of "
            f"{right[0][0]}. The best has place 1; ZREVRANK says 0."
        )
    if names == [name for _, name in reversed(right)]:
        raise NotYet(f"{where} they come from the lowest up; the best should come first.")
    raise NotYet(f"{where} it should be {right}, and is {got}.")


@exercise(
    hints=(
        "The count is right, but three things are missing: users who have not been here for an "
        "hour are never removed, the key never goes, and a late event overwrites a newer one.",
        "ZREMRANGEBYSCORE removes a range of times. EXPIRE lets the key go if nobody comes. "
        "ZADD with the option GT only ever raises a score. None of them needs the reply of "
        "another, so they fit into one pipeline.",
        'In a pipeline: `zadd(key, {user: now}, gt=True)`, `zremrangebyscore` from `"-inf"` '
        "to `now - 3600`, `expire`, and at last `zcard`, whose reply is the answer.",
    )
)
def seen(r: redis.Redis, answer: Callable[[redis.Redis, str, str, int], int]) -> str:
    key, fresh = "check:seen", "check:seen:fresh"
    visits = [("ada", 1000), ("bob", 1500), ("ada", 2000), ("eve", 4000), ("ian", 5200)]
    try:
        for visit, expected in zip(visits, (1, 2, 2, 3, 3), strict=True):
            got = answer(r, key, *visit)
            if got != expected:
                raise NotYet(
                    f"at second {visit[1]}, {visit[0]} is the {expected}. different user of the "
                    f"last hour, and you say {got!r}."
                )
        if r.type(key) != "zset":
            raise NotYet("the counts are right, but not kept in a sorted set under the key.")
        kept = r.zcard(key)
        if kept > 3:
            raise NotYet(
                f"the counts are right, and the key holds {kept} users, of whom 3 were here in "
                "the last hour. Nobody is ever removed. ZREMRANGEBYSCORE takes a range of times."
            )
        left = r.ttl(key)
        if left == -1:
            raise NotYet(
                "the counts are right and the old are removed. But if nobody comes any more, "
                "nobody trims either, and the key stays for ever. Give it a time to live."
            )
        if left < 3590:
            raise NotYet(
                f"the key goes after {left} seconds, with users in it who were here within the "
                "hour."
            )
        answer(r, fresh, "ada", 9000)
        answer(r, fresh, "ada", 6000)
        last = r.zscore(fresh, "ada")
        if last != 9000:
            raise NotYet(LATE.format("never" if last is None else f"at {last:.0f}"))
        with wire(r) as counted:
            answer(r, fresh, "bob", 9100)
    finally:
        r.delete(key, fresh)
    if counted.round_trips > 1:
        raise NotYet(
            f"right, in {counted.round_trips} round trips for each visit. None of the commands "
            "needs another's reply, so they can share a pipeline."
        )
    return "right: one round trip, nobody older than an hour, and late events do no harm"
