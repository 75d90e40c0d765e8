"""What crosses the wire: round trips, commands and bytes, counted exactly.

    with wire(r) as w:
        r.get("user:1")
    w.round_trips, w.commands, w.bytes_out, w.bytes_in

The counts, for synchronous and asyncio clients, of single nodes and of clusters:

- A *round trip* is one or more writes on a connection followed by a wait for a reply: the first
  data read after a write closes it. Data that no write requested (a pub/sub message, an
  invalidation) is not a round trip. Round trips on several connections or cluster nodes are added,
  although they may overlap in time.
- A *command* counts when it is sent, whether or not its reply is read. A retry, a redirect (MOVED),
  MULTI and EXEC are commands that were sent, so they count as well.
- *Bytes* are those written to and read from the socket, before TLS. Bytes that wait in the kernel
  are counted only when they are read.
- *Pushes* are the messages and invalidations that the client gets without a request; confirmations
  of (un)subscribing are replies.
- *Handshakes* are what a client sends by itself on a new connection (HELLO, AUTH, CLIENT, SELECT,
  READONLY, repeated subscriptions) and health-check PINGs of the connection. They are counted
  separately, in `w.handshakes`, and in no other number.

A read that is already waiting in another thread when the block begins is not seen. Outside the
block nothing is patched, so nothing is slower. Blocks may be nested, and may overlap in threads and
tasks.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncConnection

from . import internals
from .errors import LabError

CONFIRMATIONS = {p + u + "subscribe" for p in ("", "p", "s") for u in ("", "un")} | {"pong"}


class Tally:
    """Numbers of one kind of traffic; `by_command` has upper-case names, `connections` is how
    many were opened."""

    def __init__(self) -> None:
        self.round_trips = self.commands = self.bytes_out = self.bytes_in = 0
        self.pushes = self.connections = 0
        self.by_command: Counter[str] = Counter()

    def _rows(self) -> list[list[str]]:
        shown = ["round_trips", "commands", "bytes_out", "bytes_in"] + ["pushes"] * bool(
            self.pushes
        )
        heads = [name.replace("_", " ") for name in shown]
        return [heads, [f"{getattr(self, name):,}" for name in shown]]

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.rjust, row, widths)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        cells = "".join(f"<th>{cell}</th>" for cell in head)
        rows = ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
        return f"<table><tr>{cells}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


class Wire(Tally):
    """What clients sent and read inside a `with wire(...)` block; final at the end of the block."""

    def __init__(self) -> None:
        super().__init__()
        self.handshakes = Tally()

    def _rows(self) -> list[list[str]]:
        rows = super()._rows()
        if self.handshakes.commands:
            # without bytes: HELLO's reply holds the connection's id, and so its length varies
            hello = [f"{self.handshakes.round_trips:,}", f"{self.handshakes.commands:,}"]
            hello += [""] * (len(rows[0]) - 2)
            rows = [["", *rows[0]], ["traffic", *rows[1]], ["handshakes", *hello]]
        return rows


@contextmanager
def wire(*clients: Any) -> Iterator[Wire]:
    """Count everything that `clients` send and read inside the block; several clients are added up.

    Takes redis.Redis, redis.RedisCluster and their namesakes in redis.asyncio (for which it is a
    plain `with`, too). To count a pub/sub object or a pipeline, give the client that made it.

    Raises: LabError when given anything else.
    """
    attach = [_attacher(client) for client in clients]
    if not attach:
        raise LabError("wire() needs the client to watch: `with wire(r) as w:`.")
    w = Wire()
    try:
        for client, join in zip(clients, attach, strict=True):
            join(client, w)
        yield w
    finally:
        _leave(w)


def _attacher(client: Any) -> Callable[[Any, Wire], None]:
    match client:
        case redis.RedisCluster():
            return lambda client, w: _join_cluster(client.nodes_manager, w)
        case redis.asyncio.RedisCluster():
            return lambda client, w: _join_async_cluster(client.nodes_manager, w)
        case redis.Redis() | redis.asyncio.Redis():
            return lambda client, w: _join_pool(client.connection_pool, w)
    raise LabError(
        f"wire() watches clients, not {type(client).__name__}: give it a redis.Redis, "
        "redis.RedisCluster, redis.asyncio.Redis or redis.asyncio.RedisCluster."
    )


class _Watched:
    """A pool, cluster or connection with hooks in it: the hooks' owners, and how to remove the
    hooks.

    Shared by all wires that watch the object, so that blocks may end in any order.
    """

    def __init__(self, target: Any) -> None:
        self.target = target  # referenced, so that its id stays unique in _watched
        self.wires: tuple[Wire, ...] = ()
        self.undo: list[Callable[[], None]] = []

    def patch(self, obj: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(obj, name)
        own = name in vars(obj)
        setattr(obj, name, make(original))
        self.undo.append(lambda: setattr(obj, name, original) if own else delattr(obj, name))


_watched: dict[int, _Watched] = {}
_registry_lock = threading.RLock()  # acquired after the lock of a pool that is in use, never before
_count_lock = threading.Lock()


def _join(target: Any, w: Wire, install: Callable[[Any], _Watched]) -> None:
    with _registry_lock:
        entry = _watched.get(id(target))
        if entry is None:
            entry = _watched[id(target)] = install(target)
        if w not in entry.wires:
            entry.wires += (w,)


def _leave(w: Wire) -> None:
    with _registry_lock:
        for key, entry in list(_watched.items()):
            entry.wires = tuple(other for other in entry.wires if other is not w)
            if not entry.wires:
                del _watched[key]
                for undo in reversed(entry.undo):
                    undo()


def _then_join(entry: _Watched, make: Callable, join: Callable[[Any, Wire], None]) -> Callable:
    """Wrap `make`: each object that it makes is watched by the blocks that are active then."""

    def made(*args: Any, **kwargs: Any) -> Any:
        new = make(*args, **kwargs)
        with _registry_lock:
            for w in entry.wires:
                join(new, w)
        return new

    return made


def _join_pool(pool: Any, w: Wire) -> None:
    def install(pool: Any) -> _Watched:
        entry = _Watched(pool)
        entry.patch(pool, "make_connection", lambda f: _then_join(entry, f, _join_connection))
        return entry

    _join(pool, w, install)
    for conn in internals.connections_in(pool):
        _join_connection(conn, w)


def _nodes(manager: Any) -> list[Any]:
    # a list, because nodes are equal by name: a set would drop one of two for the same server
    return [*manager.nodes_cache.values(), *manager.startup_nodes.values()]


def _join_cluster(manager: Any, w: Wire) -> None:
    def install(manager: Any) -> _Watched:
        entry = _Watched(manager)

        def join(node_client: redis.Redis, w: Wire) -> None:
            _join_pool(node_client.connection_pool, w)

        entry.patch(manager, "create_redis_node", lambda f: _then_join(entry, f, join))
        return entry

    _join(manager, w, install)
    for node in _nodes(manager):
        if node.redis_connection is not None:
            _join_pool(node.redis_connection.connection_pool, w)


def _join_async_cluster(manager: Any, w: Wire) -> None:
    def install(manager: Any) -> _Watched:
        entry = _Watched(manager)
        # nodes have slots, so the hook is where they look up how to make a connection
        kind = manager.connection_kwargs["connection_class"]
        hook = _then_join(entry, kind, _join_connection)

        def exchange(old: Any, new: Any) -> None:
            if manager.connection_kwargs["connection_class"] is old:
                manager.connection_kwargs["connection_class"] = new
            for node in _nodes(manager):
                if node.connection_class is old:
                    node.connection_class = new

        exchange(kind, hook)
        entry.undo.append(lambda: exchange(hook, kind))
        return entry

    _join(manager, w, install)
    for node in _nodes(manager):
        for conn in internals.connections_to(node):
            _join_connection(conn, w)


def _join_connection(conn: Any, w: Wire) -> None:
    _join(internals.below_cache(conn), w, _Line)


class _Line(_Watched):
    """One watched connection."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.greeting = 0
        within = self._within_async if isinstance(conn, AsyncConnection) else self._within
        self.undo.append(lambda: self._swap(_unwrap))
        for name in internals.UNASKED:
            self.patch(conn, name, lambda f: within(f, greet=1))
        self.patch(conn, internals.CONNECT, lambda f: within(f, after=self._connected))
        if str(conn.protocol) == "3":
            self.patch(internals.parser_of(conn), "handle_push_response", self._see_push)
        else:
            self.patch(conn, "read_response", lambda f: within(f, after=self._see_message))
        if conn.is_connected:
            self._swap(self._wrap())

    def _within(self, f: Callable, greet: int = 0, after: Callable | None = None) -> Callable:
        def hooked(*args: Any, **kwargs: Any) -> Any:
            self.greeting += greet
            try:
                result = f(*args, **kwargs)
                return after(result, kwargs) if after else result
            finally:
                self.greeting -= greet

        return hooked

    def _within_async(self, f: Callable, greet: int = 0, after: Callable | None = None) -> Callable:
        async def hooked(*args: Any, **kwargs: Any) -> Any:
            self.greeting += greet
            try:
                result = await f(*args, **kwargs)
                return after(result, kwargs) if after else result
            finally:
                self.greeting -= greet

        return hooked

    def _connected(self, sock: Any, kwargs: dict) -> Any:
        with _registry_lock:  # the block may have been left while the connection was made
            if not self.wires:
                return sock
            for w in self.wires:
                w.connections += 1
            wrap = self._wrap()
            if sock is None:  # asyncio sets reader and writer instead of returning a socket
                self._swap(wrap)
                return None
            return wrap(sock)

    def _wrap(self) -> Callable[[Any], Any]:
        flow = _Flow(self)  # one for both directions of a stream
        return lambda raw: raw if isinstance(raw, _Proxy) or raw is None else _proxy(raw, flow)

    def _swap(self, change: Callable[[Any], Any]) -> None:
        """Replace the socket or the streams wherever the connection and its parser hold them."""
        proxies: dict[int, Any] = {}
        for holder, name in internals.stream_places(self.target):
            raw = getattr(holder, name, None)
            if raw is not None:
                setattr(holder, name, proxies.setdefault(id(raw), change(raw)))

    def _see_push(self, f: Callable) -> Callable:
        def hooked(response: list, **kwargs: Any) -> Any:
            self._message(response)
            return f(response, **kwargs)

        return hooked

    def _see_message(self, response: Any, kwargs: dict) -> Any:
        # RESP2 does not mark pushes, but only pub/sub reads ask for them
        if kwargs.get("push_request") and isinstance(response, list):
            self._message(response)
        return response

    def _message(self, response: list) -> None:
        kind = response[0].decode() if isinstance(response[0], bytes) else response[0]
        if kind not in CONFIRMATIONS:
            with _count_lock:
                for w in self.wires:
                    w.pushes += 1


class _Flow:
    """The bytes of one socket in both directions; the commands sent are parsed from them."""

    def __init__(self, line: _Line) -> None:
        self.line = line
        self.unanswered: dict[Wire, Tally] = {}
        self.args_left = 0
        self.at_name = False
        self.skip = 0  # bytes of an argument that have not arrived yet
        self.rest = b""  # a header, or a name, cut off by the end of a chunk

    def sent(self, data: Any) -> None:
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        names = Counter(self.names(data, size))
        commands = names.total()
        with _count_lock:
            for w in self.line.wires:
                tally = w.handshakes if self.line.greeting else w
                tally.bytes_out += size
                tally.commands += commands
                tally.by_command.update(names)
                self.unanswered[w] = tally

    def received(self, size: int) -> None:
        if not size:
            return
        with _count_lock:
            for w in self.line.wires:
                tally = self.unanswered.get(w)
                if tally is not None:
                    tally.round_trips += 1
                else:
                    tally = w.handshakes if self.line.greeting else w
                tally.bytes_in += size
            self.unanswered.clear()

    def names(self, data: Any, size: int) -> list[str]:
        """Names of the commands that begin in this chunk (arrays of bulk strings, cut anywhere)."""
        if self.skip >= size:
            self.skip -= size
            return []
        data = self.rest + bytes(data)
        at, self.skip, self.rest = self.skip, 0, b""
        found: list[str] = []
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            mark, number = data[at : at + 1], data[at + 1 : end]
            awaited = b"$" if self.args_left else b"*"
            if mark != awaited or not number.isdigit():
                self.args_left = 0  # began in the middle of a command: wait for the next write
                return found
            if mark == b"*":
                self.args_left, self.at_name, at = int(number), True, end + 2
                continue
            after = end + 2 + int(number) + 2
            if self.at_name:
                if after - 2 > len(data):
                    break
                found.append(data[end + 2 : after - 2].decode(errors="replace").upper())
                self.at_name = False
            self.args_left -= 1
            at = after
        self.skip, self.rest = max(0, at - len(data)), data[at:]
        return found


class _Proxy:
    """A socket or stream that reports its bytes; everything else is passed on to the original."""

    __slots__ = ("flow", "raw")

    def __init__(self, raw: Any, flow: _Flow) -> None:
        self.raw, self.flow = raw, flow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class _Socket(_Proxy):
    __slots__ = ()

    def sendall(self, data: Any, *flags: int) -> None:
        self.flow.sent(data)  # first, because another thread may already be waiting for the reply
        self.raw.sendall(data, *flags)

    def send(self, data: Any, *flags: int) -> int:
        size = self.raw.send(data, *flags)
        self.flow.sent(memoryview(data)[:size])
        return size

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = self.raw.recv(size, flags)
        if not flags & socket.MSG_PEEK:  # redis-py peeks to see whether the peer has hung up
            self.flow.received(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        size = self.raw.recv_into(*args)
        self.flow.received(size)
        return size


class _Writer(_Proxy):
    __slots__ = ()

    def write(self, data: Any) -> None:
        self.raw.write(data)
        self.flow.sent(data)

    def writelines(self, chunks: Any) -> None:
        chunks = list(chunks)
        self.raw.writelines(chunks)
        for data in chunks:
            self.flow.sent(data)


class _Reader(_Proxy):
    __slots__ = ()

    async def _read(self, coroutine: Any) -> bytes:
        data = await coroutine
        self.flow.received(len(data))
        return data

    async def read(self, n: int = -1) -> bytes:
        return await self._read(self.raw.read(n))

    async def readline(self) -> bytes:
        return await self._read(self.raw.readline())

    async def readexactly(self, n: int) -> bytes:
        return await self._read(self.raw.readexactly(n))

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        return await self._read(self.raw.readuntil(separator))


def _proxy(raw: Any, flow: _Flow) -> _Proxy:
    kind = (
        _Writer if hasattr(raw, "writelines") else _Reader if hasattr(raw, "readuntil") else _Socket
    )
    return kind(raw, flow)


def _unwrap(raw: Any) -> Any:
    return raw.raw if isinstance(raw, _Proxy) else raw
