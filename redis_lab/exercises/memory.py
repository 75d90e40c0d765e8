"""Exercises of notebooks/production/06_memory.ipynb."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.judging import NotYet, exercise
from redis_lab.server import server
from redis_lab.wire import wire

Write = Callable[[redis.Redis, int], None]
COUNT = 20_000


def used(client: redis.Redis) -> int:
    return client.info("memory")["used_memory"]


def write(client: redis.Redis, n: int) -> None:
    """An object of three keys, some larger than others."""
    with client.pipeline(transaction=False) as pipe:
        pipe.set(f"page:{n}", "x" * (100 + 13 * n % 400), ex=86_400)
        pipe.hset(f"product:{n}", mapping={"name": f"a thing {n}", "price": n % 900})
        pipe.sadd(f"tags:{n}", *(f"tag {k}" for k in range(n % 5 + 1)))
        pipe.execute()


@exercise
def estimate(_: redis.Redis, answer: Callable[[redis.Redis, Write, int], float]) -> str:
    written: list[int] = []

    def counted(client: redis.Redis, n: int) -> None:
        written.append(n)
        write(client, n)

    with server() as private, private.client() as r:
        said = answer(r, counted, COUNT)
    if not isinstance(said, int | float):
        raise NotYet(f"it says {said!r}; a number of bytes is meant, for {COUNT:,} objects.")
    if len(written) > 2000:
        raise NotYet(f"it wrote {len(written)} objects; 2000 are allowed.")
    with server() as private, private.client() as r:
        before = used(r)
        for n in range(COUNT):
            write(r, n)
        took = used(r) - before
    off = said / took - 1
    if abs(off) > 0.2:
        raise NotYet(
            f"what it says for {COUNT:,} objects is too {'high' if off > 0 else 'low'} by more "
            "than a fifth. Objects differ, and what MEMORY USAGE says leaves out the table of "
            "keys. Write many, and look at used_memory before and after; the first object also "
            "pays for things that are made once, so do not count it."
        )
    return "right, to a fifth"


@exercise
def counters(_: redis.Redis, answer: tuple[Callable, Callable]) -> str:
    add, total = answer
    numbers = range(0, 60_000, 3)
    with server() as private, private.client() as r:
        before = used(r)
        with r.pipeline(transaction=False) as pipe:
            for n in numbers:
                pipe.incr(f"check:counter:{n}")
            pipe.execute()
        as_keys = (used(r) - before) / len(numbers)
    with server() as private, private.client() as r:
        before = used(r)
        with wire(r) as w:
            add(r, 0)
        if w.commands != 1:
            raise NotYet(
                f"an addition is {w.commands} commands. Read, add and write loses counts when two "
                "do it at once; one command that adds does not."
            )
        with r.pipeline(transaction=False) as pipe:
            for n in numbers[1:]:
                add(pipe, n)
            pipe.execute()
        each = (used(r) - before) / len(numbers)
        add(r, numbers[7])
        got = [total(r, n) for n in (numbers[0], numbers[7], numbers[-1], 1)]
        if got != [1, 2, 1, 0]:
            raise NotYet(
                f"after adding once, twice, once and never, the totals are {got}. Do two counters "
                "share a field?"
            )
        if each > as_keys / 2:
            held = next(
                (r.object("encoding", key) for key in r.scan_iter() if r.type(key) == "hash"), None
            )
            why = (
                "Its hashes are hashtables: too many fields in each, so that they are no longer "
                "one flat piece."
                if held == "hashtable"
                else "Put many counters into one key, as fields of a hash."
            )
            raise NotYet(f"a counter costs more than half of a key. {why}")
    return "right: less than half, and every count is there"
