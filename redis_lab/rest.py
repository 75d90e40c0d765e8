"""A gateway that speaks the Upstash REST protocol in front of any Redis.

    with gateway(server) as web:
        web.client().set("greeting", "hello")  # upstash-redis, as it would talk to the service

What it answers, as far as the service's documentation says it (and the tests hold it to the
service's own client, `upstash-redis`):

- `POST /` with a command as a JSON array; `/pipeline` and `/multi-exec` with an array of commands.
- `GET`, `HEAD`, `POST` or `PUT` of `/set/key/value?EX=10`: the path, then the body, then the query.
- `{"result": …}` or `{"error": …}`; of several commands an array of those, or one error when none
  of them was carried out. Status 200, 400 for anything wrong with the command, 401 without the
  token, 405 for another method; 500 when Redis is away.
- `Upstash-Encoding: base64`: every string in the result but OK is base64. Without it, what is not
  UTF-8 becomes U+FFFD.
- The token as `Authorization: Bearer …` or `?_token=…`, on every route.

What waits, subscribes or changes the connection is refused, since connections are shared. A
command is sent to Redis once: the gateway never tries again.

It is a process of its own, so that it takes no time from the client it is measured with. Run as
`python -m redis_lab.rest`; it reads its settings as one line of JSON from its standard input,
prints `port N`, and leaves when its input closes or its owner is gone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import inspect
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from . import _relay
from .errors import LabError
from .link import QUEUE_LIMIT, Link, quit_relay
from .server import Server

BODY_LIMIT = 2**20  # bytes; what the service allows where nobody pays for more
DISCARDED = 64 * 2**20  # a longer body is cut off, not read to its end for a proper answer
CONNECTIONS = 8  # to Redis, however many clients there are
ANSWER_TIMEOUT_S = 5.0
OWNER_CHECK_S = 0.25
URL, TOKEN = "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"

NAME = re.compile(rb"[A-Za-z][\w.-]*")
WAITS = {*b"BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF".split()}
LISTENS = {*b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split()}
LISTENS |= {*b"MONITOR SYNC PSYNC REPLCONF".split()}
TRANSACTS = {*b"MULTI EXEC DISCARD WATCH UNWATCH".split()}
CONNECTS = {*b"AUTH HELLO SELECT CLIENT QUIT RESET READONLY READWRITE ASKING CLUSTER".split()}
CONNECTS |= {*b"SHUTDOWN DEBUG FAILOVER".split()}

Command = list[bytes]


# ---------------------------------------------------------------- what is asked


class Refused(Exception):
    """What was sent is no command, or none that can be had over HTTP."""


def parsed(body: bytes) -> Any:
    """JSON, its numbers left as they were written. Raises: Refused."""
    try:
        return json.loads(body, parse_int=str, parse_float=str, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise Refused("ERR failed to parse the body as JSON") from None


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def command_of(words: object) -> Command:
    """A command from a JSON array. Raises: Refused."""
    if not isinstance(words, list) or not words:
        raise Refused("ERR a command is a JSON array: its name, then its arguments")
    command = []
    for word in words:
        if isinstance(word, bool):
            word = "true" if word else "false"
        if not isinstance(word, str):
            raise Refused("ERR an argument is a string or a number, not null, an array or a map")
        command.append(word.encode("utf-8", "surrogatepass"))
    return checked(command)


def commands_of(body: bytes) -> list[Command | Refused]:
    """The commands of a pipeline or transaction; in the place of a bad one, what is wrong.

    Raises: Refused when there are none.
    """
    rows = parsed(body)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise Refused("ERR the body must be a JSON array of commands, and not empty")
    found: list[Command | Refused] = []
    for row in rows:
        try:
            found.append(command_of(row))
        except Refused as error:
            found.append(error)
    return found


def command_in(path: str, query: str, body: bytes) -> Command:
    """The command of a path-style request: `/set/key`, the body, `?EX=10`. Raises: Refused."""
    command = [unquote_to_bytes(part) for part in path.removeprefix("/").split("/")]
    if body:
        command.append(body)
    for part in query.split("&") if query else ():
        name, equals, value = part.replace("+", " ").partition("=")
        if name != "_token":
            command += [unquote_to_bytes(word) for word in ((name, value) if equals else (name,))]
    return checked(command)


def checked(command: Command) -> Command:
    """The same. Raises: Refused for what cannot be had over HTTP."""
    if not NAME.fullmatch(command[0]):
        raise Refused("ERR a command begins with its name, one word")
    name = command[0].upper()
    blocks = name in (b"XREAD", b"XREADGROUP") and b"BLOCK" in {w.upper() for w in command}
    said = name.decode()
    if name in WAITS or blocks:
        raise Refused(f"ERR {said} would wait, and a request over HTTP does not: ask again later")
    if name in LISTENS:
        raise Refused(f"ERR {said} needs a connection that stays open; use Redis over TCP")
    if name in TRANSACTS:
        raise Refused(f"ERR {said} would outlive its request; POST the commands to /multi-exec")
    debugs = name == b"SCRIPT" and [word.upper() for word in command[1:2]] == [b"DEBUG"]
    if name in CONNECTS or debugs:
        raise Refused(f"ERR {said} is not allowed here: connections to Redis are shared")
    return command


# ---------------------------------------------------------------- what is answered


def plain(value: object, in_base64: bool) -> object:
    """A RESP2 reply as JSON can hold it."""
    if isinstance(value, list):
        return [plain(item, in_base64) for item in value]
    if isinstance(value, Exception):  # inside what a script returned
        return plain(error_text(value).encode(), in_base64)
    if not isinstance(value, bytes):
        return value
    if in_base64 and value != b"OK":
        return base64.b64encode(value).decode()
    return value.decode(errors="replace")


def error_text(error: Exception) -> str:
    """An error reply as Redis sent it; redis-py takes the code of some off their text."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code else str(error)


def answer(reply: object, in_base64: bool) -> dict[str, object]:
    if isinstance(reply, Exception):
        return {"error": error_text(reply)}
    return {"result": plain(reply, in_base64)}


class Backend:
    """A few long-lived connections to Redis. A batch has one of them to itself."""

    def __init__(self, url: str) -> None:
        self.pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_TIMEOUT_S,
            protocol=2,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # nothing to say to Redis before the first command
        )

    async def ask(self, commands: Sequence[Command]) -> list:
        """Send them together, once; a reply or an error for each. Raises: redis exceptions."""
        connection = await self.pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await self.reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)  # a late reply must not meet another request
            raise
        finally:
            await self.pool.release(connection)

    @staticmethod
    async def reply(connection: redis.asyncio.Connection) -> object:
        try:
            return await connection.read_response()
        except redis.ResponseError as error:
            return error

    async def transaction(self, commands: Sequence[Command]) -> list:
        """MULTI, the commands, EXEC. Raises: Refused when Redis discards them as a whole."""
        begun, *queued, done = await self.ask([[b"MULTI"], *commands, [b"EXEC"]])
        if isinstance(begun, Exception):  # an ACL; the commands were sent along with it
            raise Refused(f"{error_text(begun)} (each command was carried out on its own)")
        if isinstance(done, Exception):
            raise Refused(error_text(next((e for e in queued if isinstance(e, Exception)), done)))
        return done


@stream_request_body
class Handler(RequestHandler):
    """One request. The token is looked at first, whatever is asked for."""

    def initialize(self, backend: Backend, token: bytes, body_limit: int) -> None:
        self.backend, self.token, self.body_limit = backend, token, body_limit
        self.body, self.length = bytearray(), 0

    def prepare(self) -> None:
        connection: Any = self.request.connection  # tornado calls only part of it public
        connection.set_max_body_size(max(DISCARDED, self.body_limit))
        if not hmac.compare_digest(self.given_token(), self.token):
            self.refuse(401, "WRONGPASS invalid or missing auth token")
        elif self.request.method not in ("HEAD", "GET", "POST", "PUT"):
            self.set_header("Allow", "HEAD, GET, POST, PUT")
            self.refuse(405, f"ERR method {self.request.method} is not allowed")

    def given_token(self) -> bytes:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip().encode()
        return self.get_query_argument("_token", "").encode()

    def data_received(self, chunk: bytes) -> None:
        self.length += len(chunk)
        if self.length <= self.body_limit:
            self.body += chunk

    async def get(self) -> None:
        in_base64 = self.request.headers.get("Upstash-Encoding") == "base64"
        try:
            if self.length > self.body_limit:
                raise Refused(
                    f"ERR max request size exceeded. Limit: {self.body_limit} bytes, "
                    f"Actual: {self.length} bytes"
                )
            if self.request.headers.get("Upstash-Response-Format", "json") != "json":
                raise Refused("ERR this gateway answers in JSON only")
            reply = await self.carry_out(in_base64)
        except Refused as error:
            return self.refuse(400, str(error))
        except redis.TimeoutError:
            return self.refuse(500, "ERR Redis did not answer in time; it may have done it or not")
        except (redis.RedisError, OSError) as error:
            return self.refuse(500, f"ERR Redis is away: {error}")
        if isinstance(reply, dict) and "error" in reply:
            self.set_status(400)
        self.send(reply)

    head = post = put = get

    async def carry_out(self, in_base64: bool) -> dict | list[dict]:
        path, body = self.request.path.rstrip("/"), bytes(self.body)
        if path == "/pipeline":
            commands = commands_of(body)
            good = [command for command in commands if not isinstance(command, Refused)]
            replies = iter(await self.backend.ask(good) if good else [])
            done = (c if isinstance(c, Refused) else next(replies) for c in commands)
            return [answer(reply, in_base64) for reply in done]
        if path == "/multi-exec":
            all_good = []
            for command in commands_of(body):
                if isinstance(command, Refused):
                    raise command
                all_good.append(command)
            return [answer(one, in_base64) for one in await self.backend.transaction(all_good)]
        if path:
            command = command_in(self.request.path, self.request.query, body)
        else:
            command = command_of(parsed(body))
        (reply,) = await self.backend.ask([command])
        return answer(reply, in_base64)

    def refuse(self, status: int, text: str) -> None:
        self.set_status(status)
        self.send({"error": text})

    def send(self, reply: dict | list) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")  # a GET may be a SET
        self.finish(json.dumps(reply))

    def compute_etag(self) -> None:
        """None, or an unchanged reply would be answered with 304."""

    def write_error(self, status_code: int, **_: object) -> None:
        self.refuse(status_code, "ERR the request could not be read")


async def serve(url: str, token: str, port: int, body_limit: int) -> None:
    settings = {"backend": Backend(url), "token": token.encode(), "body_limit": body_limit}
    # Nothing is logged: a token may stand in the address.
    app = Application([(r"/.*", Handler, settings)], log_function=lambda handler: None)
    sockets = bind_sockets(port, "127.0.0.1")
    HTTPServer(app, body_timeout=60).add_sockets(sockets)
    print("port", sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    owner = settings.pop("owner")

    def leave_with_input() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    def leave_with_owner() -> None:
        while os.getppid() == owner:
            time.sleep(OWNER_CHECK_S)
        os._exit(0)

    for watch in (leave_with_input, leave_with_owner)[: 1 if sys.platform == "win32" else 2]:
        threading.Thread(target=watch, daemon=True).start()
    asyncio.run(serve(**settings))


# ---------------------------------------------------------------- the owner's side


class Endpoint:
    """Where a REST API is: `url`, `token`, and a `prefix` for the keys of a lesson."""

    def __init__(self, url: str, token: str, prefix: str) -> None:
        self.url, self.token, self.prefix = url, token, prefix

    def __repr__(self) -> str:
        return f"the REST API at {self.url}"

    def client(self, **options: Any) -> Any:
        """A new `upstash_redis.Redis`. Unlike its default, it tells nobody who uses it."""
        from upstash_redis import Redis

        return Redis(self.url, self.token, **{"allow_telemetry": False, **options})

    def async_client(self, **options: Any) -> Any:
        """A new `upstash_redis.asyncio.Redis`."""
        from upstash_redis.asyncio import Redis

        return Redis(self.url, self.token, **{"allow_telemetry": False, **options})

    def remove(self) -> int:
        """Delete the keys with the prefix, and nothing else; how many that were."""
        removed, cursor = 0, 0
        with self.client() as client:
            while True:
                cursor, keys = client.scan(int(cursor), match=f"{self.prefix}*", count=500)
                removed += client.delete(*keys) if keys else 0
                if int(cursor) == 0:
                    return removed


class Gateway(Endpoint):
    """A gateway process of our own; `stop()` ends it, `kill()` as a crash would."""

    def __init__(
        self, url: str, token: str | None, prefix: str, port: int, body_limit: int
    ) -> None:
        self.settings = {"url": url, "port": port, "body_limit": body_limit}
        super().__init__("", token or secrets.token_urlsafe(24), prefix)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "redis_lab.rest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a notebook must not reach it
        )
        self._finalizer = weakref.finalize(self, quit_relay, self.process, os.getpid())
        assert self.process.stdin and self.process.stdout  # they are pipes
        # Not on the command line: passwords must not show in the list of processes.
        told = {**self.settings, "token": self.token, "owner": os.getpid()}
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(told).encode() + b"\n")
            self.process.stdin.flush()
        said = self.process.stdout.readline().split()
        if not said:
            self.stop()
            raise LabError(
                "The gateway did not start; its last words are on the terminal. "
                "Is the port taken, if you chose one?"
            )
        self.settings["port"] = self.port = int(said[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL: what it was at is lost, and with it the replies that had not left."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again: same port, same token."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self._finalizer()

    @contextlib.contextmanager
    def behind(self, far: Link) -> Iterator[Endpoint]:
        """The gateway, as far away as `far` puts Redis: the same relay with the same delay."""
        if far.pid is None:
            yield self
            return
        command = [sys.executable, "-I", "-S", _relay.__file__, str(os.getpid())]
        process = subprocess.Popen(
            [*command, str(QUEUE_LIMIT), "tcp", "127.0.0.1", str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin and process.stdout  # they are pipes
        try:
            port = int(process.stdout.readline().split()[1])
            process.stdin.write(b"delay %d\n" % round(far.rounds[-1].delay_ms * 1e6 / 2))
            process.stdin.flush()
            process.stdout.readline()
            yield Endpoint(f"http://127.0.0.1:{port}", self.token, self.prefix)
        finally:
            quit_relay(process, os.getpid())

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return "a gateway of the lab's own, on loopback"


def gateway(
    target: Server | str,
    *,
    token: str | None = None,
    prefix: str = "rest:",
    port: int = 0,
    body_limit: int = BODY_LIMIT,
) -> Gateway:
    """Start a gateway in front of a Redis, given as a `Server` or a URL; use it in a `with` block.

    Without a `token` it makes one up. It listens on loopback, on a free port unless told.

    Raises: LabError when it cannot start.
    """
    if not isinstance(target, Server | str):
        raise LabError(
            f"A gateway needs a Server or a URL, not {type(target).__name__}: "
            "rest.gateway(lab.server())."
        )
    url = target.url if isinstance(target, Server) else target
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise LabError("A token stands in a header: visible ASCII, no spaces, not empty.")
    return Gateway(url, token, prefix, port, body_limit)


def service(default: Gateway) -> Endpoint:
    """The service that UPSTASH_REDIS_REST_URL and _TOKEN name, or else the gateway given.

    On the service the prefix holds random letters, so that a lesson touches only its own keys.

    Raises: LabError when only one of the two is set.
    """
    url, token = os.environ.get(URL), os.environ.get(TOKEN)
    if not url and not token:
        return default
    if not url or not token:
        raise LabError(f"Set both {URL} and {TOKEN}, or neither, to use a gateway of the lab's.")
    return Endpoint(url.rstrip("/"), token, f"{default.prefix}{secrets.token_hex(4)}:")


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
        self.bytes_out = first + header_bytes(request) + len(request.content)
        first = len(f"HTTP/1.1 {self.status} {response.reason_phrase}\r\n\r\n")
        self.bytes_in = first + header_bytes(response) + len(response.content)

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.sent}\n  {self.status} {self.received}"


def header_bytes(message: Any) -> int:
    return sum(len(name) + len(value) + 4 for name, value in message.headers.raw)


@contextlib.contextmanager
def exchanges(client: Any) -> Iterator[list[Exchange]]:
    """The HTTP requests that an `upstash_redis.Redis` makes inside the block, with their replies.

    A request that got no response is not among them.
    """
    seen: list[Exchange] = []
    web = client._http._client

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
    """An upstash-redis client with what `redis_lab.patterns` need besides: prepared scripts.

    Everything else is the client's own, so a pattern that asks for more gets what upstash-redis
    makes of it. Sync and asyncio. A script that cannot be sent raises redis.ConnectionError, as
    redis-py's would, so that the patterns know what they have to deal with.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def register_script(self, text: str) -> Script:
        return Script(self.client, text)


class Script:
    """A script that is sent by its hash, and as a whole where the server does not know it."""

    def __init__(self, client: Any, text: str) -> None:
        self.client, self.text = client, text
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    def __call__(self, keys: Sequence = (), args: Sequence = ()) -> Any:
        keys, args = list(keys), list(args)
        if inspect.iscoroutinefunction(self.client.execute):
            return self.later(keys, args)
        with as_redis_py():
            try:
                return self.client.evalsha(self.sha, keys=keys, args=args)
            except Exception as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return self.client.eval(self.text, keys=keys, args=args)

    async def later(self, keys: list, args: list) -> Any:
        with as_redis_py():
            try:
                return await self.client.evalsha(self.sha, keys=keys, args=args)
            except Exception as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return await self.client.eval(self.text, keys=keys, args=args)


@contextlib.contextmanager
def as_redis_py() -> Iterator[None]:
    """What httpx says when nothing answers, in redis-py's words."""
    import httpx

    try:
        yield
    except httpx.TimeoutException as error:
        raise redis.TimeoutError(str(error)) from error
    except httpx.TransportError as error:
        raise redis.ConnectionError(str(error)) from error


if __name__ == "__main__":
    main()
