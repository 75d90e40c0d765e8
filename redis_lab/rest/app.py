"""The gateway's process: an HTTP server in front of Redis that answers as `protocol.py` says.

A command is sent to Redis once: the gateway never retries. It is run by its path, as `app.py
OWNER_PID`, so that the rest of the package is not loaded. It reads its settings as one line of JSON
from standard input, prints `port N`, and ends at `quit`, when its input closes, or when its owner
has ended.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

if __package__:
    from .. import internals
    from . import protocol
else:  # run by its path
    import protocol  # type: ignore[import-not-found,no-redef]

    sys.path.append(os.path.dirname(sys.path[0]))  # last, so that it hides no other module
    import internals  # type: ignore[import-not-found,no-redef]

DISCARDED = 64 * 2**20  # the connection of a longer body is closed before the body is read
LARGE = 2**16  # bytes
LARGE_BODIES = 64  # bodies of requests that are read or kept at a time; others wait
CONNECTIONS = 8  # to Redis, however many clients there are
ANSWER_TIMEOUT_S = 5.0
OWNER_CHECK_S = 0.25
SENT_AHEAD = 2**18  # bytes that the kernel holds for a client
PIECE = 2**16  # bytes of an answer that are written at a time
UNREAD_TIMEOUT_S = 5.0  # a client that has not read a piece by then is disconnected
CROWDED_TIMEOUT_S = 0.5  # the same, when its answer uses memory that other requests need
UNREAD_REPLIES = 4  # times the longest: if more bytes are unread, other requests wait
IDLE_TIMEOUT_S = 60.0  # an open connection without a request is closed by then
OWN_FILES = 64  # open files that are reserved for other purposes than clients
TURNED_AWAY = 64  # clients that are answered 503 at a time; further ones are only disconnected
TURN_AWAY_S = 1.0  # the time in which they must read that answer


class NotSent(redis.TimeoutError):
    """Redis has answered nothing while a batch waited for its turn."""


class Meter:
    """The bytes that arrive from Redis, at most `left` of them."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.stream, self.limit, self.left = stream, limit, limit

    async def read(self, size: int) -> bytes:
        data: bytes = await self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise protocol.Refused(
                f"ERR max reply size exceeded. Limit: {self.limit} bytes. "
                "What was asked for has been carried out, at least in part"
            )
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Backend:
    """A few long-lived connections to Redis. A batch uses one connection alone. Batches get
    connections in the order of their arrival. They wait for as long as Redis answers other batches.
    """

    def __init__(self, url: str, reply_limit: int) -> None:
        self.pool = redis.asyncio.ConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            protocol=2,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # nothing is sent before the first command
        )
        # Rejects a reply that is too long before all of it has arrived
        self.pool.connection_class = internals.with_reader(
            self.pool.connection_class, lambda stream: Meter(stream, reply_limit)
        )
        self.reply_limit = reply_limit
        self.unread, self.room = 0, asyncio.Event()  # bytes of answers that clients have not read
        self.room.set()
        self.large_bodies = asyncio.Semaphore(LARGE_BODIES)
        # In a BlockingConnectionPool new batches overtake waiting ones, some of which then time out
        self.free = asyncio.Semaphore(CONNECTIONS)
        self.reading: set[bytes] | None = None  # the names of the commands that only read
        self.heard = time.monotonic()  # when Redis last answered anything

    async def take_turn(self) -> None:
        """Wait for a free connection. Raises: NotSent if Redis answers no batch during the wait."""
        since = time.monotonic()
        turn = asyncio.ensure_future(self.free.acquire())
        while not (await asyncio.wait({turn}, timeout=ANSWER_TIMEOUT_S))[0]:
            if self.room.is_set() and time.monotonic() - max(since, self.heard) >= ANSWER_TIMEOUT_S:
                turn.cancel()
                raise NotSent(f"no answer for {ANSWER_TIMEOUT_S:g} s; the command was not sent")

    async def ask(self, commands: Sequence[protocol.Command]) -> list:
        """Send the commands together, once; returns a reply or an error for each. Raises: redis
        exceptions.
        """
        await self.take_turn()
        try:
            await self.room.wait()
            connection: Any = await self.pool.get_connection()
            connection.reader.left = self.reply_limit
            try:
                await connection.send_packed_command(connection.pack_commands(commands))
                return [await self.reply(connection) for _ in commands]
            except BaseException:
                await connection.disconnect(
                    nowait=True
                )  # its late reply must not be read as the reply to another request
                raise
            finally:
                await self.pool.release(connection)
        finally:
            self.free.release()

    async def refusal(self, command: protocol.Command) -> protocol.Refused | None:
        """Why a read-only token may not send a command; the server reports which commands only
        read.
        """
        if self.reading is None:
            (table,) = await self.ask([[b"COMMAND"]])
            if isinstance(table, Exception):
                return protocol.Refused(f"NOPERM no command is known to only read: {table}")
            self.reading = protocol.read_only_commands(table)
        if {command[0].upper(), b"|".join(command[:2]).upper()} & self.reading:
            return None
        name = command[0].upper().decode()
        return protocol.Refused(f"NOPERM {name} is refused: this token is read-only")

    async def reply(self, connection: redis.asyncio.Connection) -> object:
        try:
            answer: object = await connection.read_response()
        except redis.ResponseError as error:
            answer = error
        self.heard = time.monotonic()
        return answer

    def keep(self, size: int) -> None:
        """Add to the number of bytes that wait for a client to read them; negative when they were
        read.
        """
        self.unread += size
        if self.unread > UNREAD_REPLIES * self.reply_limit:
            self.room.clear()
        elif not self.room.is_set():
            self.heard = time.monotonic()  # the table was not read meanwhile
            self.room.set()

    async def transaction(self, commands: Sequence[protocol.Command]) -> list:
        """MULTI, the commands, EXEC. Raises: Refused when Redis discards them as a whole."""
        begun, *queued, done = await self.ask([[b"MULTI"], *commands, [b"EXEC"]])
        if isinstance(begun, Exception):  # refused by an ACL, but the commands were sent with it
            raise protocol.Refused(
                f"{protocol.error_text(begun)} (each command was carried out on its own)"
            )
        if isinstance(done, Exception):
            raise protocol.Refused(
                protocol.error_text(next((e for e in queued if isinstance(e, Exception)), done))
            )
        return done


@stream_request_body
class Handler(RequestHandler):
    """One request. The token is checked first. A refused request is answered after its body, so
    that the connection can stay open; the body is not kept.
    """

    def initialize(
        self,
        backend: Backend,
        token: bytes,
        ro_token: bytes,
        body_limit: int,
        allow_dangerous: bool,
    ) -> None:
        self.backend, self.token, self.ro_token = backend, token, ro_token
        self.body_limit, self.allow_dangerous = body_limit, allow_dangerous
        self.read_only = False
        self.body, self.length = bytearray(), 0
        self.refusal: tuple[int, str] | None = None
        self.body_ended = False
        self.body_is_counted = False

    async def prepare(self) -> None:
        connection: Any = self.request.connection  # only a part of it is public in tornado
        connection.set_max_body_size(max(DISCARDED, self.body_limit))
        self.judge()
        length = self.request.headers.get("Content-Length", "0")
        chunked = "Transfer-Encoding" in self.request.headers
        if not self.refusal and (chunked or not length.isdecimal() or int(length) > LARGE):
            await self.backend.large_bodies.acquire()
            self.body_is_counted = True

    def make_room(self) -> None:
        if self.body_is_counted:
            self.body_is_counted = False
            self.backend.large_bodies.release()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self.body_ended:  # otherwise it is in use
            self.make_room()

    def on_finish(self) -> None:
        self.make_room()

    def judge(self) -> None:
        given = self.given_token()
        self.read_only = hmac.compare_digest(given, self.ro_token)
        if not hmac.compare_digest(given, self.token) and not self.read_only:
            self.refusal = 401, "WRONGPASS invalid or missing auth token"
        elif self.request.method not in ("HEAD", "GET", "POST", "PUT"):
            self.refusal = 405, f"ERR method {self.request.method} is not allowed"

    def given_token(self) -> bytes:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip().encode()
        return self.get_query_argument("_token", "").encode()

    def data_received(self, chunk: bytes) -> None:
        self.length += len(chunk)
        if self.length <= self.body_limit and not self.refusal:
            self.body += chunk

    async def get(self) -> None:
        self.body_ended = True
        if self.refusal:
            return self.refuse(*self.refusal)
        in_base64 = self.request.headers.get("Upstash-Encoding") == "base64"
        try:
            if self.length > self.body_limit:
                raise protocol.Refused(
                    f"ERR max request size exceeded. Limit: {self.body_limit} bytes, "
                    f"Actual: {self.length} bytes"
                )
            if self.format() not in ("json", "resp2"):
                raise protocol.Refused("ERR Upstash-Response-Format is json or resp2")
            if in_base64 and self.format() == "resp2":
                raise protocol.Refused("ERR Upstash-Encoding is for JSON, not for resp2")
            replies = await self.carry_out()
            self.body = bytearray()
            self.make_room()
        except protocol.Refused as error:
            return self.refuse(400, str(error))
        except NotSent as error:
            return self.refuse(500, f"ERR Redis does not answer: {error}")
        except redis.TimeoutError:
            return self.refuse(500, "ERR Redis did not answer in time; it may have done it or not")
        except (redis.RedisError, OSError) as error:
            return self.refuse(500, f"ERR Redis is away: {error}")
        one = not isinstance(replies, protocol.Several)
        if one and isinstance(replies[0], Exception):
            self.set_status(400)
        if self.in_resp2():
            return await self.deliver(b"".join(map(protocol.to_resp2, replies)))
        shown = [protocol.format_reply(reply, in_base64) for reply in replies]
        await self.deliver(self.encode(shown[0] if one else shown))

    def format(self) -> str:
        return self.request.headers.get("Upstash-Response-Format", "json").lower()

    def in_resp2(self) -> bool:
        """Whether the answer is in RESP2. The answer to a transaction is always in JSON."""
        return self.format() == "resp2" and self.request.path.rstrip("/") != "/multi-exec"

    head = post = put = delete = patch = options = get

    async def carry_out(self) -> list:
        """A reply or an error for each command; `protocol.Several` on the routes for several."""
        path, body = self.request.path.rstrip("/"), bytes(self.body)
        if path == "/pipeline":
            commands = await self.permitted(protocol.parse_commands(body, self.allow_dangerous))
            good = [command for command in commands if not isinstance(command, protocol.Refused)]
            replies = iter(await self.backend.ask(good) if good else [])
            return protocol.Several(
                c if isinstance(c, protocol.Refused) else next(replies) for c in commands
            )
        if path == "/multi-exec":
            commands = protocol.parse_commands(body, self.allow_dangerous)
            return protocol.Several(await self.backend.transaction(await self.all_of(commands)))
        if path:
            query = self.request.query
            command = protocol.parse_path(self.request.path, query, body, self.allow_dangerous)
        else:
            command = protocol.parse_command(protocol.parse_json(body), self.allow_dangerous)
        return await self.backend.ask(await self.all_of([command]))

    async def permitted(self, commands: list) -> list:
        """The commands; a refusal takes the place of a command that this token may not send."""
        if not self.read_only:
            return commands
        judged = []
        for command in commands:
            good = not isinstance(command, protocol.Refused)
            judged.append((await self.backend.refusal(command) or command) if good else command)
        return judged

    async def all_of(self, commands: list) -> list[protocol.Command]:
        """The commands. Raises: Refused, for the first command that is refused."""
        permitted = await self.permitted(commands)
        for command in permitted:
            if isinstance(command, protocol.Refused):
                raise command
        return permitted

    def refuse(self, status: int, text: str) -> None:
        self.set_status(status)
        if status == 405:
            self.set_header("Allow", "HEAD, GET, POST, PUT")
        if self.in_resp2():
            self.finish(protocol.to_resp2(protocol.Refused(text)))
        else:
            self.finish(self.encode({"error": text}))

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")  # a GET may be a SET

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        if not self.body_ended:  # tornado then closes the connection
            self.set_header("Connection", "close")
        if self.in_resp2():
            self.set_header("Content-Type", "application/octet-stream")
        return super().flush(include_footers)

    def encode(self, reply: dict | list) -> bytes:
        return json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass")

    async def deliver(self, body: bytes) -> None:
        """Send the answer as fast as the client reads it; a client that reads nothing is
        disconnected.
        """
        self.set_header("Content-Length", len(body))
        self.backend.keep(len(body))
        try:
            for start in range(0, len(body), PIECE):
                self.write(body[start : start + PIECE])
                await self.taken(self.flush())
        except TimeoutError:
            self.detach().close()
        except StreamClosedError:
            pass
        finally:
            self.backend.keep(-len(body))

    async def taken(self, flush: asyncio.Future[None]) -> None:
        """Raises: TimeoutError, StreamClosedError."""
        since = time.monotonic()
        while not (await asyncio.wait({flush}, timeout=CROWDED_TIMEOUT_S))[0]:
            if not self.backend.room.is_set() or time.monotonic() - since > UNREAD_TIMEOUT_S:
                raise TimeoutError
        flush.result()

    def compute_etag(self) -> None:
        """None, because otherwise an unchanged reply would be answered with 304."""

    def write_error(self, status_code: int, **_: object) -> None:
        if status_code == 405:  # a method that tornado does not know
            self.judge()
        self.refuse(*(self.refusal or (status_code, "ERR the request could not be read")))


class Clients(HTTPServer):
    """An HTTP server that answers clients beyond its limit with status 503."""

    limit: int
    connected = 0
    leaving: set[asyncio.Future]

    def handle_stream(self, stream: IOStream, address: tuple) -> None:
        if self.connected < self.limit:
            self.connected += 1
            super().handle_stream(stream, address)
        elif len(self.leaving) < TURNED_AWAY:
            leaving = asyncio.ensure_future(self.turn_away(stream))
            self.leaving.add(leaving)  # otherwise the task may be garbage-collected before its end
            leaving.add_done_callback(self.leaving.discard)
        else:
            stream.close()

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self.connected -= 1

    async def turn_away(self, stream: IOStream) -> None:
        text = json.dumps({"error": f"ERR {self.limit} clients are connected; try again later"})
        head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        head += f"Retry-After: 1\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        try:
            await stream.write((head + text).encode())
            stream.socket.shutdown(socket.SHUT_WR)
            # Closing with a part of the request unread would reset the connection, and lose the
            # answer
            async with asyncio.timeout(TURN_AWAY_S):
                while await stream.read_bytes(PIECE, partial=True):
                    pass
        except (StreamClosedError, OSError, TimeoutError):
            pass
        finally:
            stream.close()


def most_clients(wanted: int) -> int:
    """The number wanted, or the largest that the limit on open files allows."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + TURNED_AWAY + OWN_FILES
    if most < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(min(wanted, most - TURNED_AWAY - OWN_FILES), 1)


async def serve(
    url: str,
    token: str,
    ro_token: str,
    port: int,
    reply_limit: int,
    max_clients: int,
    **options: Any,
) -> None:
    tokens = {"token": token.encode(), "ro_token": ro_token.encode()}
    settings = {"backend": Backend(url, reply_limit), **tokens, **options}
    # Nothing is logged: the address may contain a token.
    app = Application([(r"/.*", Handler, settings)], log_function=lambda handler: None)
    sockets = bind_sockets(port, "127.0.0.1")
    # Every connection inherits this; without it the kernel buffers megabytes for a client that
    # reads nothing
    sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
    clients = Clients(app, body_timeout=60, idle_connection_timeout=IDLE_TIMEOUT_S)
    clients.limit, clients.leaving = most_clients(max_clients), set()
    clients.add_sockets(sockets)
    print("port", sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    owner = int(sys.argv[1])
    settings = json.loads(sys.stdin.buffer.readline())

    def leave_with_input() -> None:
        sys.stdin.buffer.readline()  # `quit`, or end of file
        os._exit(0)

    def leave_with_owner() -> None:
        while os.getppid() == owner:
            time.sleep(OWNER_CHECK_S)
        os._exit(0)

    for watch in (leave_with_input, leave_with_owner)[: 1 if sys.platform == "win32" else 2]:
        threading.Thread(target=watch, daemon=True).start()
    asyncio.run(serve(**settings))


if __name__ == "__main__":
    main()
