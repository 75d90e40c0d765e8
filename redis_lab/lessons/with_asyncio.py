"""The lesson on asyncio: its exercises and its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import redis
import redis.asyncio

from redis_lab.distance import link
from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.servers.choose import server

FIGURES: dict[str, Chart] = {
    "asyncio_concurrency": Lines(
        title="Many at the same time: tasks and threads",
        x="n",
        y="per_second",
        by="what",
        panels="where",
        theory="theory",
        theory_label="n times what one makes",
        xlabel="tasks, or threads",
        ylabel="GETs a second",
    ),
    "asyncio_arms": DotPlot(
        title="One GET after the other",
        x="per_unit_us",
        xlabel="time for one GET (µs, log scale)",
    ),
}

VALUES, RTT_MS = 1000, 5  # of the exercise `fetch`

T = TypeVar("T")


def _run_in_new_loop(work: Awaitable[T]) -> T:
    """Wait for it in a new event loop, because the notebook's own is running already."""

    async def wait() -> T:
        return await work

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


@exercise(
    hints=(
        "A thousand GETs at once want a thousand connections, and you may use ten. What should "
        "the others do: fail, or wait?",
        "`redis.asyncio.BlockingConnectionPool` makes them wait. It takes `max_connections`. "
        "(One pipeline, or MGET, on a single connection is possible, too.)",
        "Make the pool with `BlockingConnectionPool.from_url(url, max_connections=10, "
        "decode_responses=True)`, and the client with `redis.asyncio.Redis.from_pool(pool)`; "
        "the `gather` stays as it is.",
    )
)
def fetch(_: redis.Redis, answer: Callable[[str, list[str]], Awaitable[list]]) -> str:
    wanted = {f"cart:{n}": str(vary(n, 1000, 99_999)) for n in range(VALUES)}
    with server() as private, private.client() as r, link(private, rtt_ms=RTT_MS) as far:
        r.mset(wanted)
        before = r.info("stats")["total_connections_received"]
        start = time.perf_counter()
        try:
            got = _run_in_new_loop(answer(far.url, list(wanted)))
        except redis.ConnectionError as error:
            raise NotYet(
                f"{type(error).__name__}: {error}. A pool that is full raises; a "
                "BlockingConnectionPool lets the others wait."
            ) from error
        took = time.perf_counter() - start
        opened = r.info("stats")["total_connections_received"] - before
    if opened > 10:
        raise NotYet(f"your code opened {opened} connections; ten are allowed.")
    if [x.decode() if isinstance(x, bytes) else x for x in got] != list(wanted.values()):
        raise NotYet("these are not the values in the order of the keys.")
    if took > 0.9e-3 * VALUES * RTT_MS:  # one wait after the other takes more
        raise NotYet(
            f"right, and it took {took:.1f} s: one round trip after the other. Ten connections "
            "can wait at the same time, and a pipeline needs one round trip."
        )
    return "right: a thousand values on ten connections at most, without waiting for each"


Load = Callable[[str], Awaitable[str]]


@exercise(
    hints=(
        "`except BaseException` catches too much. What else does asyncio raise in a task, "
        "apart from errors?",
        "CancelledError is how a task is ended; it must get out. Catch only what means that "
        "Redis did not answer: the timeout, and the errors of redis-py.",
        "Name two exceptions in the `except`: `TimeoutError` and `redis.RedisError`, as a tuple.",
    )
)
def page(_: redis.Redis, answer: Callable[[redis.asyncio.Redis, str, Load], Awaitable[str]]) -> str:
    loaded: list[str] = []

    async def load(key: str) -> str:
        loaded.append(key)
        return f"made: {key}"

    async def play() -> None:
        async with redis.asyncio.Redis.from_url(private.url, decode_responses=True) as client:
            await client.set("there", "cached")
            if await answer(client, "there", load) != "cached" or loaded:
                raise NotYet("a page that is in the cache was not taken from it.")
            if await answer(client, "not there", load) != "made: not there":
                raise NotYet("a page that is not in the cache must be made with load(key).")
            with private.stalled():
                start = time.perf_counter()
                try:
                    got = await answer(client, "there", load)
                except (redis.RedisError, TimeoutError) as error:
                    raise NotYet(
                        f"Redis stands still, and the caller gets {type(error).__name__}. The page "
                        "can be made without it."
                    ) from error
                took = time.perf_counter() - start
                if got != "made: there":
                    raise NotYet(f"Redis stands still, and the answer is {got!r}.")
            if took > 1:
                raise NotYet(f"your code waited {took:.1f} s for a Redis that stands still.")
            with private.stalled():
                task = asyncio.ensure_future(answer(client, "there", load))
                await asyncio.sleep(0.03)
                task.cancel()
                await asyncio.wait([task], timeout=2)
                if not task.cancelled():
                    raise NotYet(
                        "the task was cancelled, but went on. CancelledError is how asyncio "
                        "ends a task; catch TimeoutError and redis.RedisError, not everything."
                    )
            if await answer(client, "there", load) != "cached":
                raise NotYet("Redis is back, and the cached page is not used.")

    with server() as private:
        _run_in_new_loop(play())
    return "right: from the cache, without Redis, and it ends when it is cancelled"
