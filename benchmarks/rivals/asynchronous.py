"""Libraries for asyncio: an event loop for each client, whose steps the drill can play too."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Coroutine
from typing import Any

import redis
import redis.asyncio

from redis_lab.drill.faults import Watched

AT_ONCE = 12  # of those made before, so many still work; a scenario makes at most four
_made: deque[Loop] = deque()


def _quiet(left: Any) -> None:
    """A client that was killed in the middle of a generator leaves one that cannot be closed."""
    generator = type(left.object).__name__ in ("async_generator", "coroutine")
    if not generator and left.exc_type.__name__ != "_Abandoned":
        sys.__unraisablehook__(left)


sys.unraisablehook = _quiet


class Loop:
    """Runs coroutines in whichever thread asks. The oldest loops are closed: files are few."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        _made.append(self)
        while len(_made) > AT_ONCE:
            _made.popleft().loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Until it has ended."""
        return self.loop.run_until_complete(coroutine)


def where(client: redis.Redis) -> tuple[str, int]:
    """The server's host and port."""
    given = client.connection_pool.connection_kwargs
    return given["host"], given["port"]


def connection_class(client: redis.Redis) -> type[redis.asyncio.Connection]:
    """A class of asyncio connections. Played step by step, they wait for their turn.

    The drill's own connection blocks its thread until it may go on; here that is the thread of the
    loop, which has nothing else to do.
    """
    kind: Any = client.connection_pool.connection_class
    if not issubclass(kind, Watched):
        return redis.asyncio.Connection

    class Stepping(redis.asyncio.Connection):
        actor = kind.actor
        armed = lost = False

        async def _connect(self) -> None:
            self.port = kind.actor.stage.server.port  # another one after a failover
            await super()._connect()

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if not self.is_connected:
                await self.connect_check_health(check_health=False)
            if self.armed:
                parts = [command] if isinstance(command, bytes) else command
                kind.on_sending(self, b"".join(parts))
            await super().send_packed_command(command, check_health)

        async def on_connect_check_health(self, check_health: bool = True) -> None:
            self.armed = False
            await super().on_connect_check_health(check_health)
            self.armed = True

        async def read_response(self, *args: Any, **options: Any) -> Any:
            reply = await super().read_response(*args, **options)
            if self.armed:
                kind.on_reply(self, reply)
                if self.lost:
                    self.lost = False
                    await self.disconnect(nowait=True)
                    raise redis.ConnectionError("the reply was lost")
            return reply

        def lose(self) -> None:
            self.lost = True

    return Stepping
