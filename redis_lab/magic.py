"""`%%redis`: type raw commands in a cell, see the replies as redis-cli prints them.

    %%redis
    SET greeting "hello"
    GET greeting

Each line is one command with redis-cli's quoting; blank lines and lines that begin with # are
skipped. Replies look as in `redis-cli --no-raw`, and an error reply is printed, not raised.
A cell has one RESP2 connection of its own, so that MULTI or SELECT lasts until the end of the
cell. `%%redis name` uses the client in the variable `name` instead of the one that
`lab.connect()` gave.
"""

from __future__ import annotations

from functools import partial
from typing import Any, BinaryIO

import hiredis
import redis
from redis.maint_notifications import MaintNotificationsConfig

from . import internals
from .errors import LabError
from .servers.choose import announced_client
from .servers.guest import guard
from .servers.nodes import first_primary

TIMEOUT_S = 10.0  # a cell that waits longer for one reply would look stuck
SPACE = b" \t\n\r\v\f"
UNQUOTE = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
QUOTE = {10: "\\n", 13: "\\r", 9: "\\t", 7: "\\a", 8: "\\b", 34: '\\"', 92: "\\\\"}

ENDLESS = "{0} streams for ever, which a cell cannot; use {1} in a Python cell."
PUBSUB = ENDLESS.format("{0}", "`p = r.pubsub()` and `p.get_message()`")
UNFIT = {
    **{p + u + "SUBSCRIBE": PUBSUB for p in ("", "P", "S") for u in ("", "UN")},
    "MONITOR": ENDLESS.format("{0}", "`with r.monitor() as m:`"),
    "SYNC": "{0} turns the connection into a replica's; a cell cannot follow it.",
    "PSYNC": "{0} turns the connection into a replica's; a cell cannot follow it.",
    "HELLO": "{0} would change the protocol, and a cell reads RESP2 as redis-cli does.",
    "CLIENT REPLY": "{0} turns off the replies that a cell waits for.",
}
# redis-cli shows the text of these as it is, even on a terminal
PLAIN = {
    *("INFO", "LOLWUT", "DEBUG HTSTATS", "DEBUG HTSTATS-KEY", "MEMORY MALLOC-STATS"),
    *("MEMORY DOCTOR", "CLUSTER NODES", "CLUSTER INFO", "CLIENT LIST", "CLIENT INFO"),
    *("LATENCY GRAPH", "LATENCY DOCTOR"),
}


class Status(bytes):
    """A status reply such as OK, which RESP2 distinguishes from a string and redis-py does not."""


class Failure(bytes):
    """An error reply."""


def split_arguments(line: bytes) -> list[bytes]:
    """The arguments of a command line, by redis-cli's rules (sdssplitargs).

    Raises: LabError when quotes do not balance or text follows a closing quote.
    """
    args: list[bytes] = []
    at = 0
    while True:
        while line[at : at + 1] and line[at] in SPACE:
            at += 1
        if at == len(line):
            return args
        word, quote = bytearray(), b""
        while True:
            c, after = line[at : at + 1], line[at + 1 : at + 2]
            if not c:
                if quote:
                    raise LabError(f"Invalid argument(s): a quote {quote.decode()} is not closed")
                break
            if not quote and c in (b"'", b'"'):
                quote = c
            elif not quote and c in b" \t\n\r":
                break
            elif c == quote:
                if after and after not in SPACE:
                    raise LabError("Invalid argument(s): a closing quote needs a space after it")
                at += 1
                break
            elif quote == b"'" and c == b"\\" and after == b"'":
                word += after
                at += 1
            elif quote == b'"' and c == b"\\" and after:
                digits = line[at + 2 : at + 4]
                if after == b"x" and len(digits) == 2 and all(d in HEX for d in digits):
                    word.append(int(digits, 16))
                    at += 3
                else:
                    word += UNQUOTE.get(after, after)
                    at += 1
            else:
                word += c
            at += 1
        args.append(bytes(word))


HEX = b"0123456789abcdefABCDEF"


def quote_string(data: bytes) -> str:
    """A string as redis-cli shows it, quoted so that it could be typed again."""
    shown = (QUOTE.get(b) or (chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in data)
    return f'"{"".join(shown)}"'


def render_reply(reply: Any, prefix: str = "") -> str:
    """A reply as redis-cli prints it on a terminal; `prefix` indents what is nested."""
    match reply:
        case None:
            return "(nil)\n"
        case Status():
            return reply.decode(errors="replace") + "\n"
        case Failure():
            return f"(error) {reply.decode(errors='replace')}\n"
        case bytes():
            return quote_string(reply) + "\n"
        case int():
            return f"(integer) {reply}\n"
        case []:
            return "(empty array)\n"
    width = len(str(len(reply)))
    inner = prefix + " " * (width + 2)
    return "".join(
        f"{prefix if i > 1 else ''}{i:>{width}}) {render_reply(item, inner)}"
        for i, item in enumerate(reply, 1)
    )


def render_text(reply: Any) -> str:
    """The reply to a command whose text redis-cli shows unquoted."""
    if isinstance(reply, Failure):
        return reply.decode(errors="replace") + "\n"
    return reply.decode(errors="replace") if type(reply) is bytes else render_reply(reply)


def read_reply(stream: BinaryIO) -> Any:
    """One RESP2 reply: bytes, int, None, list, Status or Failure.

    Raises: redis.ConnectionError when the server has hung up.
    """
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise redis.ConnectionError("the server closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return Status(rest)
    if kind == b"-":
        return Failure(rest)
    if kind == b":":
        return int(rest)
    size = int(rest)
    if size < 0:
        return None
    if kind == b"$":
        return stream.read(size + 2)[:-2]
    return [read_reply(stream) for _ in range(size)]


class CellSession:
    """One connection outside the client's pool, with the pool's settings, but in RESP2.

    On a cluster it goes where a MOVED reply sends it, as `redis-cli -c` does, and stays there.
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster) -> None:
        self.follows = isinstance(client, redis.RedisCluster)
        pool = first_primary(client).connection_pool
        options = {
            **pool.connection_kwargs,
            "protocol": 2,
            "socket_timeout": TIMEOUT_S,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self.make = partial(pool.connection_class, **options)
        self.open()

    def open(self, **elsewhere: object) -> None:
        self.connection = self.make(**elsewhere)
        self.connection.connect()
        self.socket = internals.socket_of(self.connection)
        self.stream = self.socket.makefile("rb")

    def ask(self, args: list[bytes]) -> Any:
        words: Any = tuple(args)  # hiredis's annotation allows only one
        self.socket.sendall(hiredis.pack_command(words))
        reply = read_reply(self.stream)
        if self.follows and isinstance(reply, Failure) and reply.startswith(b"MOVED "):
            host, _, port = reply.split()[2].decode().rpartition(":")
            self.close()
            self.open(host=host, port=int(port))
            return self.ask(args)
        return reply

    def close(self) -> None:
        self.stream.close()
        self.connection.disconnect()


def run_commands(client: redis.Redis, text: str) -> str:
    """Run each line of `text` on `client`'s server; return what redis-cli would have printed.

    Raises: LabError when `client` is no redis.Redis; redis exceptions when nothing answers.
    """
    if not isinstance(client, redis.Redis | redis.RedisCluster):
        raise LabError(f"%%redis needs a redis.Redis, not {type(client).__name__}.")
    out: list[str] = []
    session: CellSession | None = None
    try:
        for line in text.split("\n"):  # splitlines() would also split inside values
            line = line.strip(" \t\r\v\f")
            if not line or line.startswith("#"):
                continue
            out.append(f"> {line}\n")
            try:
                args = split_arguments(line.encode())
                name, full = (b" ".join(args[:n]).decode(errors="replace").upper() for n in (1, 2))
                unfit = UNFIT.get(name) or UNFIT.get(full)
                if unfit:
                    raise LabError(unfit.format(name if name in UNFIT else full))
                guard(client, tuple(args))
            except LabError as error:
                message = str(error)
                refused = "" if message.startswith("Invalid argument") else "(refused) "
                out.append(f"{refused}{message}\n")
                continue
            session = session or CellSession(client)
            try:
                reply = session.ask(args)
            except (OSError, redis.ConnectionError) as error:
                waited = isinstance(error, TimeoutError)
                what = f"no reply within {TIMEOUT_S:g} s" if waited else f"connection lost: {error}"
                out.append(f"({what}; the next line gets a new connection)\n")
                session.close()
                session = None
            else:
                out.append(render_text(reply) if PLAIN & {name, full} else render_reply(reply))
    finally:
        if session:
            session.close()
    return "".join(out)


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Run a `%%redis` cell of an IPython shell and print the replies."""
    from IPython.core.error import UsageError  # shown as one line, without a traceback

    name = line.strip()
    if name and name not in shell.user_ns:
        raise UsageError(f"%%redis {name}: there is no variable of that name.")
    client = shell.user_ns[name] if name else announced_client()
    if client is None:
        raise UsageError("%%redis needs a server: call lab.connect() first.")
    try:
        print(run_commands(client, cell), end="")
    except LabError as error:
        raise UsageError(str(error)) from None
