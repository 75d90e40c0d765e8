"""The one event loop of this process that asynchronous arms run on, in a thread of its own.

A notebook's own loop is running already while a cell is executed, and cannot be entered again; a
thread works in both. The measuring thread waits meanwhile, once for each block, not for each call.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


def run_async(awaitable: Awaitable[T]) -> T:
    """Run an awaitable on the loop that asynchronous arms run on; return what it returns.

    A connection of redis.asyncio belongs to the loop that opened it, so use this for everything
    else that a script does with the client of an asynchronous arm: `run_async(client.set("k", 1))`.
    """

    async def wait() -> T:
        return await awaitable

    future = asyncio.run_coroutine_threadsafe(wait(), _loop_of(os.getpid()))
    try:
        return future.result()
    except BaseException:  # also Ctrl-C
        future.cancel()
        raise


@functools.cache
def _loop_of(_process_id: int) -> asyncio.AbstractEventLoop:
    """A loop that runs in a daemon thread; a forked child gets a loop of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="redis-lab event loop", daemon=True).start()
    return loop
