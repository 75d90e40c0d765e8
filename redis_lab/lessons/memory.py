"""The lesson on memory: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "memory_per_key": Lines(
        title="What a key costs, with a value of eight bytes",
        x="keys",
        y="bytes",
        by="kind",
        yscale="linear",
        xlabel="keys on the server",
        ylabel="bytes for each key",
    ),
    "memory_fragmentation": Lines(
        title="Written, nine of ten deleted, and others written",
        x="step",
        y="mb",
        by="what",
        xscale="linear",
        yscale="linear",
        xlabel="ten steps of writing, ten of deleting, ten of writing",
        ylabel="MB",
    ),
    "memory_sizing": Lines(
        title="A cache with the memory that the formula asks for",
        x="wanted",
        y="hit_ratio",
        by="what",
        theory="asked",
        theory_label="what was wanted",
        xscale="linear",
        yscale="linear",
        xlabel="hit ratio that was wanted",
        ylabel="hit ratio that was reached",
    ),
}

Write = Callable[[redis.Redis, int], None]
PAGE = 500  # objects written at once
PAGES = 40  # which are 20,000 objects
COUNTERS = range(0, 60_000, 3)


def _read_used_memory(client: redis.Redis) -> int:
    return client.info("memory")["used_memory"]


def _write_objects(client: redis.Redis, *numbers: int) -> None:
    """For each number, write an object of three keys; some are larger than others."""
    with client.pipeline(transaction=False) as pipe:
        for n in numbers:
            pipe.set(f"page:{n}", "x" * (100 + 13 * n % 400), ex=86_400)
            pipe.hset(f"product:{n}", mapping={"name": f"a thing {n}", "price": n % 900})
            pipe.sadd(f"tags:{n}", *(f"tag {k}" for k in range(n % 5 + 1)))
        pipe.execute()


@cache
def _measure_objects(kind: str, count: int) -> int:
    """The memory of so many objects on a server of that kind; measured only once."""
    with server(kind=kind) as private, private.client() as r:
        before = _read_used_memory(r)
        for first in range(0, count, PAGE):
            _write_objects(r, *range(first, first + PAGE))
        return _read_used_memory(r) - before


@cache
def _measure_key(kind: str) -> float:
    """The memory of one counter, of many with a key each."""
    with server(kind=kind) as private, private.client() as r:
        before = _read_used_memory(r)
        with r.pipeline(transaction=False) as pipe:
            for n in COUNTERS:
                pipe.incr(f"check:counter:{n}")
            pipe.execute()
        return (_read_used_memory(r) - before) / len(COUNTERS)


@exercise(
    hints=(
        "One object is not like the next, and MEMORY USAGE leaves out the table of keys. What "
        "does the server itself report about its memory?",
        '`client.info("memory")["used_memory"]` counts everything. Read it before and '
        "after you have written many objects. The first object also pays for things that are "
        "made once, so write it before the first reading.",
        "Write object 0, read `used_memory`, write objects 1 to 1999, read it again. The "
        "difference divided by 1999, times `count`, is the answer.",
    )
)
def estimate(_: redis.Redis, answer: Callable[[redis.Redis, Write, int], float]) -> str:
    written: list[int] = []
    count = PAGE * vary(PAGES, 16, 30)

    def counted(client: redis.Redis, n: int) -> None:
        written.append(n)
        _write_objects(client, n)

    with server() as private, private.client() as r:
        result = answer(r, counted, count)
    if not isinstance(result, int | float):
        raise NotYet(f"your answer is {result!r}; it should be the bytes of {count:,} objects.")
    if len(written) > 2000:
        raise NotYet(f"your code wrote {len(written)} objects; 2000 are allowed.")
    off = result / _measure_objects(private.kind, count) - 1
    if abs(off) > 0.2:
        raise NotYet(
            f"your answer for {count:,} objects is too {'high' if off > 0 else 'low'} by more "
            "than a fifth. Objects differ, and what MEMORY USAGE says leaves out the table of "
            "keys. Write many, and look at used_memory before and after; the first object also "
            "pays for things that are made once, so do not count it."
        )
    return "right, within a fifth"


@exercise(
    hints=(
        "What makes a small counter expensive is not the number but the key around it. How "
        "could many counters share a key?",
        "A small hash stores its fields packed, as a listpack, as long as there are at most "
        "some hundred. HINCRBY adds to one field, in one command.",
        "Counter `n` is field `n % 100` of the hash `check:counter:` followed by `n // 100`. "
        "Use `hincrby` to add and `hget` to read; what was never counted is 0.",
    )
)
def counters(_: redis.Redis, answer: tuple[Callable, Callable]) -> str:
    add, total = answer
    with server() as private, private.client() as r:
        before = _read_used_memory(r)
        with wire(r) as w:
            add(r, 0)
        if w.commands != 1:
            raise NotYet(
                f"an addition is {w.commands} commands. Read, add and write loses counts when two "
                "do it at once; one command that adds does not."
            )
        with r.pipeline(transaction=False) as pipe:
            for n in COUNTERS[1:]:
                add(pipe, n)
            pipe.execute()
        each = (_read_used_memory(r) - before) / len(COUNTERS)
        add(r, COUNTERS[7])
        got = [total(r, n) for n in (COUNTERS[0], COUNTERS[7], COUNTERS[-1], 1)]
        if got != [1, 2, 1, 0]:
            raise NotYet(
                f"after adding once, twice, once and never, the totals are {got}. Do two counters "
                "share a field?"
            )
        if each > _measure_key(private.kind) / 2:
            held = next(
                (r.object("encoding", key) for key in r.scan_iter() if r.type(key) == "hash"), None
            )
            why = (
                "Its hashes are hashtables: too many fields in each, so they are no longer "
                "one listpack."
                if held == "hashtable"
                else "Put many counters into one key, as fields of a hash."
            )
            raise NotYet(f"a counter costs more than half of a key. {why}")
    return "right: less than half, and every count is there"
