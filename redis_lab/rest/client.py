"""Helpers for the client `upstash-redis`: to see its HTTP requests, and to use the patterns.

`exchanges()` shows each request with its response; `Adapted` lets the patterns run over HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from .. import internals

# ---------------------------------------------------------------- what crosses the wire


class Exchange:
    """One HTTP request and its response: `method`, `path`, `status`, `sent` and `received` (the
    bodies), and the bytes of both with their headers."""

    def __init__(self, response: Any) -> None:
        response.read()
        request = response.request
        self.method, self.path = request.method, request.url.raw_path.decode()
        self.status = response.status_code
        self.sent, self.received = request.content.decode(), response.text
        first = len(f"{self.method} {self.path} HTTP/1.1\r\n\r\n")
        self.bytes_out = first + _header_bytes(request) + len(request.content)
        first = len(f"HTTP/1.1 {self.status} {response.reason_phrase}\r\n\r\n")
        self.bytes_in = first + _header_bytes(response) + len(response.content)

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.sent}\n  {self.status} {self.received}"


def _header_bytes(message: Any) -> int:
    return sum(len(name) + len(value) + 4 for name, value in message.headers.raw)


@contextlib.contextmanager
def exchanges(client: Any) -> Iterator[list[Exchange]]:
    """The HTTP requests that an `upstash_redis.Redis` makes inside the block, with their replies.

    A request without a response is left out.
    """
    seen: list[Exchange] = []
    web = internals.http_client(client)

    def note(response: Any) -> None:
        seen.append(Exchange(response))

    before = web.event_hooks
    web.event_hooks = {**before, "response": [*before["response"], note]}
    try:
        yield seen
    finally:
        web.event_hooks = before


# ---------------------------------------------------------------- the patterns over HTTP


class Adapted:
    """An upstash-redis client with the one addition that `redis_lab.patterns` need: scripts.

    Everything else is passed to upstash-redis as it is. The client may be synchronous or asyncio. A
    script that cannot be sent raises redis.ConnectionError, as in redis-py, so that the patterns
    can handle it.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def register_script(self, text: str) -> Script:
        """A script that can be called, as redis-py's `register_script` returns it."""
        return Script(self.client, text)


class Script:
    """A script that is sent by its hash, and in full if the server does not know the hash."""

    def __init__(self, client: Any, text: str) -> None:
        self.client, self.text = client, text
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    def __call__(self, keys: Sequence = (), args: Sequence = ()) -> Any:
        keys, args = list(keys), list(args)
        if inspect.iscoroutinefunction(self.client.execute):
            return self._run_async(keys, args)
        with _as_redis_py():
            try:
                return self.client.evalsha(self.sha, keys=keys, args=args)
            except Exception as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return self.client.eval(self.text, keys=keys, args=args)

    async def _run_async(self, keys: list, args: list) -> Any:
        with _as_redis_py():
            try:
                return await self.client.evalsha(self.sha, keys=keys, args=args)
            except Exception as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return await self.client.eval(self.text, keys=keys, args=args)


@contextlib.contextmanager
def _as_redis_py() -> Iterator[None]:
    """Raise redis-py's exceptions in place of httpx's when nothing answers."""
    import httpx

    try:
        yield
    except httpx.TimeoutException as error:
        raise redis.TimeoutError(str(error)) from error
    except httpx.TransportError as error:
        raise redis.ConnectionError(str(error)) from error
