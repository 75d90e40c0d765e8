"""The lesson on asyncio: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
import redis
import redis.asyncio
from processes import within

from redis_lab.distance import link
from redis_lab.judging import NotYet
from redis_lab.lessons import with_asyncio as exercises


def client_of(url, most):
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=most, decode_responses=True
    )
    return redis.asyncio.Redis.from_pool(pool)


async def ten_at_a_time(url, keys):
    async with client_of(url, 10) as client:
        return await asyncio.gather(*(client.get(key) for key in keys))


async def piped(url, keys):
    async with client_of(url, 1) as client, client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key)
        return await pipe.execute()


async def all_at_once(url, keys):
    async with redis.asyncio.Redis.from_url(url) as client:
        return await asyncio.gather(*(client.get(key) for key in keys))


async def twenty_at_a_time(url, keys):
    """A pool of twenty opens as many only if none comes back in time; twenty pools open twenty."""

    async def share(k):
        async with client_of(url, 1) as client:
            return [await client.get(key) for key in keys[k::20]]

    shares = await asyncio.gather(*map(share, range(20)))
    return [shares[k % 20][k // 20] for k in range(len(keys))]


async def one_by_one(url, keys):
    async with client_of(url, 1) as client:
        return [await client.get(key) for key in keys]


async def out_of_order(url, keys):
    async with client_of(url, 10) as client:
        return await client.mget(sorted(keys))


def test_fetch(monkeypatch):
    """Fewer values, farther away: of what is waited for, a busy machine adds the less."""
    monkeypatch.setattr(exercises, "VALUES", 150)  # more than a pool of 100 makes connections
    monkeypatch.setattr(exercises, "RTT_MS", 20)
    assert exercises.fetch(None, ten_at_a_time)
    assert exercises.fetch(None, piped)
    wrong = {
        all_at_once: "A pool that is full",
        twenty_at_a_time: "opened 20 connections",
        one_by_one: "one round trip after the other",
        out_of_order: "in the order of the keys",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.fetch(None, answer)


def guarded(*errors, limit_s=0.1):
    async def page(client, key, load):
        try:
            async with asyncio.timeout(limit_s):
                cached = await client.get(key)
        except errors:
            cached = None
        return cached or await load(key)

    return page


async def never_the_cache(client, key, load):
    return await load(key)


async def only_the_cache(client, key, load):
    return await client.get(key)


def test_page():
    assert exercises.page(None, guarded(TimeoutError, redis.RedisError))
    wrong = {
        guarded(BaseException): "was cancelled, but went on",
        guarded(ZeroDivisionError): "the caller gets TimeoutError",
        guarded(TimeoutError, redis.RedisError, limit_s=1.2): "for a Redis that stands still",
        never_the_cache: "was not taken from it",
        only_the_cache: "must be made",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.page(None, answer)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_reply_reaches_another_task(lab, r, loop):
    """Pipelines and single commands, cancelled at random, on five connections."""
    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    r.mset({f"cart:{n}": n for n in range(100)})
    random.seed(7)

    async def customer(client, n):
        if n % 2:
            return [await client.get(f"cart:{n}")] == [str(n)]
        async with client.pipeline(transaction=False) as pipe:
            for k in range(n, n + 3):
                pipe.get(f"cart:{k % 100}")
            return await pipe.execute() == [str(k % 100) for k in range(n, n + 3)]

    async def storm():
        right = cancelled = 0
        async with client_of(way.url, 5) as client:
            for _ in range(40):
                tasks = [
                    asyncio.create_task(customer(client, random.randrange(100))) for _ in range(30)
                ]
                await asyncio.sleep(random.random() * 0.008)
                for task in tasks:
                    if random.random() < 0.5:
                        task.cancel()
                for end in await asyncio.gather(*tasks, return_exceptions=True):
                    # A waiter that is cancelled may take another's wake-up with it
                    starved = "No connection available" in str(end)
                    assert end is True or starved or isinstance(end, asyncio.CancelledError), end
                    right += end is True
                    cancelled += isinstance(end, asyncio.CancelledError)
        return {"right": right, "cancelled": cancelled}

    def connections() -> int:
        return r.info("stats")["total_connections_received"]

    before, counts = connections(), Counter()
    with link(lab, rtt_ms=2) as way, asyncio.Runner(loop_factory=factory) as runner:
        # Each that is cancelled in the middle of a reply costs its connection: until 30 were
        assert within(
            100, lambda: counts.update(runner.run(storm())) or connections() - before > 30
        )
    assert min(counts["right"], counts["cancelled"]) > 100
