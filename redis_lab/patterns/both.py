"""One body for redis.Redis and redis.asyncio.Redis."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def then(reply: Any, parse: Callable[[Any], Any]) -> Any:
    """`parse(reply)`, or for an asyncio client's awaitable reply an awaitable of that."""
    if not inspect.isawaitable(reply):
        return parse(reply)

    async def later() -> Any:
        return parse(await reply)

    return later()
