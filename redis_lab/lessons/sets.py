"""The lesson on sets: its exercises and its figures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "sets": Lines(
        title="How many do two sets share?",
        x="n",
        y="p50_us",
        by="what",
        panels="panel",
        theory="theory_us",
        theory_label="round trip + members of the smaller set × price of a lookup",
        xlabel="n",
        ylabel="time for one answer (µs)",
        meanings={
            "SQLite": "theirs",
            "SQLite, larger first": "theirs",
        },
    ),
}

TILLS, CUSTOMERS, HOUR = 8, 25, 3600


@contextmanager
def _record_commands(r: redis.Redis) -> Iterator[list[tuple]]:
    """The commands that this client's own methods send, without those of pipelines."""
    sent: list[tuple] = []
    client: Any = r  # whose method is replaced meanwhile
    send = client.execute_command

    def listen(*args: object, **options: object) -> object:
        sent.append(args)
        return send(*args, **options)

    client.execute_command = listen
    try:
        yield sent
    finally:
        del client.execute_command


def _has_limit(args: tuple) -> bool:
    """Whether a command has a LIMIT; without a limit redis-py sends LIMIT 0, which means none."""
    words = [str(word) for word in args]
    return "LIMIT" in words and words[words.index("LIMIT") + 1] != "0"


@exercise(
    hints=(
        "Your code fetches all common members only to count them. The server can count them "
        "itself.",
        "SINTERCARD (since 7.0) returns the number of common members. It can stop "
        "counting at a limit.",
        "`r.sintercard` takes the number of keys, the list of keys, and `limit`. The limit is "
        "`enough`.",
    )
)
def bought_both(r: redis.Redis, answer: Callable[[redis.Redis, str, str, int], int]) -> str:
    a, b, rare, absent = "check:a", "check:b", "check:rare", "check:absent"
    shared = vary(3, 4, 50)
    try:
        r.sadd(a, *range(3000))
        r.sadd(b, *range(1000, 4000))
        r.sadd(rare, *range(1, shared + 1), 5000)
        with wire(r) as counted, _record_commands(r) as sent:
            many = answer(r, a, b, 100)
        few = answer(r, a, rare, 100)
        none = answer(r, a, absent, 100)
    finally:
        r.delete(a, b, rare)
    if few != shared:
        raise NotYet(
            f"two sets share {shared} members, 100 would be enough: the answer is {shared}, "
            f"not {few}."
        )
    if none != 0:
        raise NotYet(f"a set that is not there shares nothing, and you say {none}.")
    if many != 100:
        raise NotYet(
            f"two sets share 2000 members and 100 would be enough: the answer is 100, not {many}."
        )
    if counted.bytes_in > 500:
        raise NotYet(
            f"the answer is right, and {counted.bytes_in:,} bytes came back for one number. "
            "Which command counts on the server?"
        )
    if sent and not any(_has_limit(args) for args in sent):
        raise NotYet(
            f"right, in {counted.bytes_in} bytes. But the server counted all 2000 where 100 would "
            "have been enough. SINTERCARD takes a LIMIT at which it stops."
        )
    if counted.round_trips > 1:
        raise NotYet(f"right, in {counted.round_trips} round trips. One question is enough.")
    return f"right: {counted.bytes_in} bytes came back, and the server stopped at 100"


@exercise(
    hints=(
        "Between SISMEMBER and SADD another till can ask the same question. Is the first look "
        "needed at all? Look at what SADD replies.",
        "SADD replies 1 if the member is new and 0 if it was there: it looks and writes in one "
        "step. EXPIRE with the option NX sets a time to live only if there is none, so later "
        "customers do not prolong it.",
        "Put `sadd` and `expire(key, 3600, nx=True)` into one `r.pipeline()`. The first of the "
        "replies of `execute()` says whether this customer is the first to ask.",
    )
)
def once(r: redis.Redis, answer: Callable[[redis.Redis, str, object], bool]) -> str:
    key = "check:spring"
    together = threading.Barrier(TILLS, timeout=30)
    troubles: list[Exception] = []

    def till(_: int) -> list[bool]:
        given = []
        try:
            for customer in range(CUSTOMERS):
                together.wait()
                given.append(bool(answer(r, "spring", customer)))
        except threading.BrokenBarrierError:
            pass  # another till is in trouble
        except Exception as trouble:
            troubles.append(trouble)
            together.abort()
        return given

    try:
        r.delete(key)
        first = answer(r, "spring", "ada")
        clock = r.ttl(key)
        again = answer(r, "spring", "ada")
        if clock > 0:
            r.expire(key, HOUR // 2)  # as if half of the hour had passed
        with wire(r) as counted:
            second = answer(r, "spring", "bob")
        later = r.ttl(key)
        with ThreadPoolExecutor(TILLS) as pool:
            given = [sum(each) for each in zip(*pool.map(till, range(TILLS)), strict=False)]
    finally:
        r.delete(key)
    if troubles:
        raise troubles[0]
    if not (first and second) or again:
        raise NotYet(
            "Ada asked twice, then Bob once. It should be True, False, True, and was "
            f"{first!r}, {again!r}, {second!r}."
        )
    if max(given) > 1:
        raise NotYet(
            f"{TILLS} tills asked for {CUSTOMERS} customers at once, and handed over more coupons "
            "than there are customers. Between the look and the note another till looks. "
            "SADD's reply says who was first."
        )
    if min(given) < 1:
        raise NotYet("some customers got no coupon at all when eight tills asked at once.")
    if clock < 0:
        raise NotYet(
            f"one coupon each. But {key} has no time to live: it stays when the campaign is over."
        )
    if clock > HOUR:
        raise NotYet(f"the campaign lasts an hour, {HOUR} seconds, not {clock}.")
    if clock < HOUR - 300:
        raise NotYet(f"the campaign lasts an hour, {HOUR} seconds; the set is gone after {clock}.")
    if later > HOUR // 2:
        raise NotYet(
            "one coupon each, and a time to live. But every customer renews it, and the campaign "
            "never ends. Which option of EXPIRE sets it only if there is none?"
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"it works, in {counted.round_trips} round trips. A crash between them leaves a set "
            "without a time to live. MULTI/EXEC makes the two one step."
        )
    return f"right: {TILLS} tills, {CUSTOMERS} customers, {sum(given)} coupons, and a time to live"


@exercise(
    hints=(
        "Only the number of common buyers is needed, not the buyers. And the question for one "
        "candidate does not wait for that of another.",
        "SINTERCARD counts on the server. Queue one for each candidate in a pipeline, then "
        "sort the candidates by the replies.",
        "`dict(zip(candidates, pipe.execute()))` is a table of shared buyers. Sort the "
        "candidates by it, the most first, and return the first `k`.",
    )
)
def also_bought(
    r: redis.Redis, answer: Callable[[redis.Redis, int, Sequence[int], int], list[int]]
) -> str:
    first = vary(10, 20, 900)
    shared = dict(enumerate((50, 700, 0, 300, 299, 301), first))
    best = [first + 1, first + 5, first + 3]
    keys = [f"check:buyers:{product}" for product in (1, *shared)]
    try:
        r.sadd("check:buyers:1", *range(1000))
        for product, count in shared.items():
            # with many other buyers, so that this product is popular but not related
            r.sadd(f"check:buyers:{product}", *range(count), *range(5000, 7000 - count))
        with wire(r) as counted:
            found = answer(r, 1, list(shared), 3)
    finally:
        r.delete(*keys)
    found = list(found or ())
    if sorted(found) != sorted(best):
        raise NotYet(
            f"the three that share most buyers are {best[0]}, {best[1]} and {best[2]}, not {found}."
        )
    if found != best:
        raise NotYet(
            f"the right three, but the most shared comes first: {str(best)[1:-1]}, not {found}."
        )
    if counted.bytes_in > 500:
        raise NotYet(
            f"the right three, and {counted.bytes_in:,} bytes came back in {counted.round_trips} "
            "round trips, buyers whom nobody asked for. The numbers are enough."
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"the right three, in {counted.round_trips} round trips. No command waits for the "
            "reply to another, so they can share a pipeline."
        )
    return f"right: {len(shared)} candidates compared in one round trip, {counted.bytes_in} bytes"
