"""Everyday commands, the arms that `redis-lab machine` measures on each machine and server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import redis

VALUE = "x" * 100
PAGES = [f"everyday:page:{n}" for n in range(100)]
COUNTER, PRODUCT, LINE = "everyday:counter", "everyday:product", "everyday:line"
BOARD, TODAY = "everyday:board", "everyday:today"
turn = itertools.count()


def write_examples(r: redis.Redis) -> None:
    """Write what the commands read: values of 100 bytes, a hash of ten fields, a thousand members
    of a set and of a sorted set.
    """
    r.mset(dict.fromkeys(PAGES, VALUE))
    r.delete(COUNTER, LINE, BOARD, TODAY)
    r.hset(PRODUCT, mapping={f"field{n}": VALUE[:10] for n in range(10)})
    r.zadd(BOARD, {f"player{n}": n for n in range(1000)})
    r.sadd(TODAY, *range(1000))


def push_and_pop(r: redis.Redis) -> Any:
    r.lpush(LINE, VALUE)
    return r.rpop(LINE)


def pipeline(r: redis.Redis) -> list[Any]:
    with r.pipeline(transaction=False) as pipe:
        for page in PAGES:
            pipe.get(page)
        return pipe.execute()


COMMANDS: dict[str, Callable[[redis.Redis], Any]] = {
    "GET": lambda r: r.get(PAGES[0]),
    "SET with a TTL": lambda r: r.set(PAGES[0], VALUE, ex=600),
    "INCR": lambda r: r.incr(COUNTER),
    "HGETALL, 10 fields": lambda r: r.hgetall(PRODUCT),
    "HSET, one field": lambda r: r.hset(PRODUCT, "field1", str(next(turn))),
    "LPUSH, then RPOP": push_and_pop,
    "SISMEMBER of 1,000": lambda r: r.sismember(TODAY, "500"),
    "ZINCRBY of 1,000": lambda r: r.zincrby(BOARD, 1, f"player{next(turn) % 1000}"),
    "ZRANGE, the last 10 of 1,000": lambda r: r.zrange(BOARD, -10, -1, withscores=True),
    "MGET, 100 keys": lambda r: r.mget(PAGES),
    "pipeline, 100 GETs": pipeline,
}


def arms(r: redis.Redis) -> dict[str, Callable[[], Any]]:
    """Each of the commands as a call without arguments, on data that is there."""
    write_examples(r)
    return {name: partial(call, r) for name, call in COMMANDS.items()}
