"""The lesson on streams: its exercises and its figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines, Timeline
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "streams": Lines(
        title="What one entry costs in a batch of n",
        x="batch",
        y="per_unit_us",
        by="what",
        theory="theory_us",
        theory_label="round trips ÷ n + service",
        xlabel="entries in one batch",
        ylabel="time for each entry (µs)",
    ),
    "streams_crash": Timeline(
        title="A worker is killed, and what becomes of its work",
        x="seconds",
        lane="worker",
        event="event",
        xlabel="time since the orders arrived (s)",
        meanings={
            "packed": "acknowledged",
            "packed, not acknowledged": "refused",
            "packed again": "lost",
        },
    ),
}

STREAM, GROUP = "check:stream", "check:group"
START, END = 1_764_360_000, 1_764_363_600  # an hour, in seconds


class _Mishap(Exception):
    """Raised by a handler in the middle of a batch."""


def _fill_stream(r: redis.Redis, ids: list[str]) -> None:
    """A stream with these ids and a group that has seen none of them."""
    r.delete(STREAM)
    pipe = r.pipeline(transaction=False)
    for k, entry in enumerate(ids):
        pipe.xadd(STREAM, {"k": k}, id=entry)
    pipe.xgroup_create(STREAM, GROUP, id="0")
    pipe.execute()


def _read_pending(r: redis.Redis) -> set[str]:
    notes = r.xpending_range(STREAM, GROUP, "-", "+", 10_000)
    return {str(note["message_id"]) for note in notes}


@exercise(
    hints=(
        "If `handle` raises in the middle, what has happened to the entries after it? Look at "
        "the order of acknowledging and handling.",
        "An entry that was acknowledged is never handed out again. So XACK must come after the "
        "work, not before it. What is not acknowledged stays pending, and can be claimed "
        "later.",
        "Move the line with `r.xack` behind the loop over the entries, or acknowledge each "
        "entry right after its `handle`.",
    )
)
def work(r: redis.Redis, answer: Callable[[redis.Redis, str, str, str, Callable], object]) -> str:
    ids = [f"{k}-0" for k in range(1, 11)]
    handled: list[str] = []

    def handle(entry: str, fields: dict[str, str]) -> None:
        handled.append(entry)

    def stumble(entry: str, fields: dict[str, str]) -> None:
        if entry == ids[3]:
            raise _Mishap
        handled.append(entry)

    try:
        _fill_stream(r, ids)
        with wire(r) as counted:
            answer(r, STREAM, GROUP, "ada", handle)
        smooth, left = list(handled), _read_pending(r)
        handled.clear()
        _fill_stream(r, ids)
        with contextlib.suppress(_Mishap):
            answer(r, STREAM, GROUP, "ada", stumble)
        stumbled, kept = set(handled), _read_pending(r)
        handled.clear()
        _fill_stream(r, [f"{k}-0" for k in range(1, 14)])
        answer(r, STREAM, GROUP, "ada", handle)
        batch = len(handled)
    finally:
        r.delete(STREAM)
    if not smooth:
        raise NotYet(
            "nothing was handled. '>' asks for entries that nobody in the group was given yet; "
            "an id such as '0' asks for the consumer's own pending ones."
        )
    if sorted(smooth) != sorted(ids):
        raise NotYet(f"{len(set(smooth))} of 10 entries were handled, in {len(smooth)} calls.")
    if left:
        raise NotYet(
            f"all 10 are handled, and {len(left)} are pending still: without XACK they will be "
            "handed out again, all of them."
        )
    lost = set(ids) - stumbled - kept
    if lost:
        raise NotYet(
            f"handle raised at the fourth entry, and {len(lost)} entries are lost: not handled, "
            "and acknowledged all the same, so nobody will be given them again. "
            "When may an entry be acknowledged?"
        )
    if batch > 10:
        raise NotYet(f"a batch is up to ten entries; of 13 you took {batch}. See `count`.")
    return (
        f"right: 10 entries in {counted.round_trips} round trips, and after the error "
        "nothing that was not handled is lost"
    )


@exercise(
    hints=(
        "XAUTOCLAIM answers in pages, and your code reads only the first page. What is in the "
        "part of the reply that is thrown away?",
        "The first part of the reply is the cursor at which the next page begins. Go on from "
        "there with `start_id` until the cursor is `0-0`. A page may be empty although more "
        "follow.",
        "Loop: `cursor, claimed, _ = r.xautoclaim(stream, group, consumer, idle_ms, "
        'start_id=cursor)`, beginning at `"0-0"`; collect the ids; stop only if the new '
        'cursor is `"0-0"`.',
    )
)
def recover(r: redis.Redis, answer: Callable[[redis.Redis, str, str, str, int], list[str]]) -> str:
    ids = [f"{k}-0" for k in range(1, 2501)]
    # XAUTOCLAIM scans ten times COUNT entries for each page: among new entries a page is empty
    idle = ids[:150] + ids[-150:]
    fresh = set(ids) - set(idle)
    try:
        _fill_stream(r, ids)
        r.xreadgroup(GROUP, "alive", {STREAM: ">"}, count=len(ids))
        r.xclaim(STREAM, GROUP, "dead", 0, [*idle], idle=60_000, justid=True)
        found = answer(r, STREAM, GROUP, "ada", 30_000)
        hers = {
            note["message_id"]
            for note in r.xpending_range(STREAM, GROUP, "-", "+", 10_000, consumername="ada")
        }
    finally:
        r.delete(STREAM)
    taken = hers & fresh
    if taken:
        raise NotYet(
            f"{len(taken)} entries were taken from a consumer who is alive and at work. "
            "min_idle_time leaves alone what was delivered a moment ago."
        )
    if len(hers) < len(idle):
        if len(hers) <= 100:
            why = "A page holds a hundred. The first part of the reply says where the next begins."
        else:
            why = (
                "A page can be empty although more follow: XAUTOCLAIM looks at some entries and "
                "no further. The end is reached when the cursor is 0-0."
            )
        raise NotYet(f"{len(hers)} of {len(idle)} idle entries claimed. {why}")
    if sorted(found or ()) != sorted(idle):
        raise NotYet(f"all {len(idle)} are claimed, but {len(found or ())} ids are returned.")
    return f"right: all {len(idle)} idle entries claimed, over empty pages, and no other touched"


@exercise(
    hints=(
        "An id is milliseconds, a hyphen and a number. What does the range mean if the number "
        "is left out at the end of it?",
        "An end without a number means the last possible id of that millisecond, so the "
        "entries of second `end` itself are counted. A round bracket before an id excludes "
        "this one id. Which id is the first that must not be counted?",
        "The first id that must not be counted is `end * 1000`, a hyphen, and 0. Write it as a "
        "text with a round bracket in front, as `max`.",
    )
)
def views_between(r: redis.Redis, answer: Callable[[redis.Redis, str, int, int], int]) -> str:
    inside = [f"{START * 1000}-0", f"{START * 1000}-1", f"{START * 1000 + 500}-0"]
    inside += [f"{END * 1000 - 1}-{k}" for k in (0, 7, 9)]
    inside += [f"{START * 1000 + 600}-{k}" for k in range(vary(0, 3, 40))]
    outside = [f"{START * 1000 - 1}-9", f"{END * 1000}-0", f"{END * 1000}-3", f"{END * 1000 + 1}-0"]
    try:
        _fill_stream(
            r, sorted(inside + outside, key=lambda entry: tuple(map(int, entry.split("-"))))
        )
        with wire(r) as counted:
            found = answer(r, STREAM, START, END)
    finally:
        r.delete(STREAM)
    if found != len(inside):
        if found == 0:
            why = "Ids are in milliseconds, start and end in seconds."
        elif found == len(inside) + 2:
            why = (
                "Half an id as the end means the last id of that millisecond, so entries of the "
                "second `end` itself are counted; and '(' before half an id leaves out just that "
                "last one. '(' before a whole id, ending in -0, leaves out the millisecond."
            )
        elif found == len(inside) + 1:
            why = "The first entry of the second `end` is counted. '(' leaves an end out."
        elif found == len(inside) - 1:
            why = "The first entry is missing: '(' belongs before the end, not before the start."
        elif found == len(inside) - 2:
            why = "Several entries can share the last millisecond before `end`: 1-0, 1-7 and 1-9."
        else:
            why = "Entries exactly at `start` belong to it, those at `end` do not."
        raise NotYet(f"{len(inside)} entries are in that hour, you count {found}. {why}")
    if counted.by_command["XRANGE"] + counted.by_command["XREVRANGE"] == 0:
        raise NotYet("the count is right; XRANGE would have fetched only the hour.")
    return f"right: {found} entries, those at the start counted and those at the end not"
