"""The lesson on strings: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary, vary_word
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "strings_size": Lines(
        title="What the size of a value costs",
        x="bytes",
        y="p50_us",
        by="what",
        theory="theory_us",
        theory_label="fixed + bytes × price of a byte",
        xlabel="size of the value (bytes)",
        ylabel="time for one command (µs)",
    ),
}


@exercise(
    hints=(
        "A plain SET makes the key anew, so its time to live is gone, and it creates a key "
        "that was not there. Look at the options of SET: there is one for each of these two.",
        "One option keeps the time to live that the key has; another writes only if the key "
        "exists. In redis-py they are arguments of `r.set`.",
        "The arguments are called `keepttl` and `xx`, and both are True or False. Give both to "
        "the one `r.set`.",
    )
)
def replace(r: redis.Redis, answer: Callable[[redis.Redis, str, str], object]) -> str:
    key, absent, new = "check:here", "check:absent", vary_word("new")
    try:
        r.set(key, "old", ex=1000)
        with wire(r) as counted:
            answer(r, key, new)
        value, left = r.get(key), r.ttl(key)
        answer(r, absent, new)
        appeared = r.exists(absent)
    finally:
        r.delete(key, absent)
    if value != new:
        raise NotYet(f"the value should be {new!r} and is {value!r}.")
    if left == -1:
        raise NotYet(
            "the value is new, but the key will never expire: a plain SET drops the time to live. "
            "Which option of SET keeps it?"
        )
    if not 900 <= left <= 1000:
        raise NotYet(
            f"the key had a thousand seconds to live, and now has {max(left, 0)}: you have set a "
            "time to live of your own. Which option of SET keeps the one that is there?"
        )
    if appeared:
        raise NotYet(
            "the time to live is kept, but a key that did not exist has appeared, without one. "
            "Which option says: only if it exists?"
        )
    if counted.round_trips > 1:
        raise NotYet(
            f"it works if you are alone, in {counted.round_trips} round trips. Between them the "
            "key may expire. SET can do it in one."
        )
    return "right: one round trip, the time to live kept, no new key created"


@exercise(
    hints=(
        "There are two things to change: how the names are found, and how many round trips the "
        "TTLs take.",
        "`r.scan_iter(pattern, count=1000)` finds the names in pages, without holding up other "
        "clients. The TTLs of all of them can be asked for in one pipeline; a key without one "
        "answers -1.",
        "Make a list of the names, queue `pipe.ttl(key)` for each, `execute()` once, and keep "
        "the names whose reply is -1: `zip` puts names and replies side by side.",
    )
)
def immortals(r: redis.Redis, answer: Callable[[redis.Redis, str], list[str]]) -> str:
    many = vary(17, 18, 60)
    with_ttl = [f"check:{k}" for k in range(500)]
    without_ttl = {f"check:{k}" for k in range(500, 500 + many)}
    stranger = "checkers:1"
    try:
        pipe = r.pipeline(transaction=False)
        for key in with_ttl:
            pipe.set(key, 1, ex=100)
        for key in [*without_ttl, stranger]:
            pipe.set(key, 1)
        pipe.execute()
        with wire(r) as counted:
            result = answer(r, "check")
    finally:
        r.delete(stranger, *with_ttl, *without_ttl)
    found = set(result or ())
    if found != without_ttl:
        others = len(found - without_ttl)
        raise NotYet(
            f"{len(found & without_ttl)} of the {many} keys were found, and {others} others."
        )
    if counted.by_command["KEYS"]:
        raise NotYet(
            f"all {many} found, with KEYS: it looks at every key in one go, and nobody "
            "else is served meanwhile. scan_iter asks for a few at a time."
        )
    if counted.round_trips > 60:
        raise NotYet(
            f"all {many} found, in {counted.round_trips} round trips. "
            "The TTLs can share a pipeline, and scan_iter takes a count."
        )
    return f"right: all {many} found, without KEYS and with the TTLs in one pipeline"
