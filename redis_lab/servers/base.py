"""What all servers have in common, whether the lab started them or not."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .. import internals
from ..errors import LabError
from .guest import Guest

Answer = TypeVar("Answer")

OLDEST = (7, 0)
START_TIMEOUT_S = 10.0
CONTACT_TIMEOUT_S = 4.0  # for the first answers of a server that somebody else started
STEP_S = 0.05

# A lesson's server keeps nothing on disk unless the lesson is about that.
DEFAULTS: dict[str, object] = {"save": "", "appendonly": "no", "bind": "127.0.0.1"}


SCHEME = r"([A-Za-z][\w+.-]*://)?"
LOGIN = re.compile(rf"(?s){SCHEME}([\w.-]*:)?")
WHERE = re.compile(  # whatever is not as it should be may be a piece of a password
    r"""(?xs)
    (?P<host>\[[\w:.%]*\]|[\w.-]*)
    (?P<port>(?::\d{0,5}(?=[/?\#]|$))?)
    (?P<path>(?:/[^?\#]*)?)
    (?P<query>(?:\?[^\#]*)?)
    """
)
SHOWN = re.compile(
    r"(db|protocol|username|timeout|max_connections|health_check_interval|decode_responses"
    r"|socket_\w+|ssl_(?!password)\w+)="
)


def redact(url: str) -> str:
    """The URL without its passwords, safe to print even where it is malformed.

    What is not recognised as something else is taken for a piece of one.
    """
    # Up to the last @, because a password may contain a / or # that its owner did not escape
    login, at, where = url.rpartition("@")
    if at:
        start = LOGIN.match(login)
        assert start  # it may be empty
        head = (start[1] or "") + (start[2] or "") + "***@"
        scheme = start[1]
        if "password=" in login:  # then the @ may be in the middle of one
            return head[:-1]
    else:
        found = re.match(SCHEME, where)
        assert found
        head = scheme = found[1] or ""
        where = where[found.end() :]
        if not scheme and not re.fullmatch(r"[\w.-]+:\d{1,5}", where):
            return "***"
    known = WHERE.match(where)
    assert known
    host, port, path, query = known.group("host", "port", "path", "query")
    if not (scheme or "").startswith("unix") and not re.fullmatch(r"(/\d*)?", path):
        path = "/***"
    parts = [part if SHOWN.match(part) else _hide(part) for part in query[1:].split("&")]
    rest = "***" if known.end() < len(where) else ""
    if rest and not port and where[known.end() :].startswith(":"):
        rest = ":***"
    return head + host + port + path + ("?" + "&".join(parts) if query else "") + rest


def _hide(part: str) -> str:
    """One option of a URL's query without its value; a name may be a piece of a password, too."""
    return "password=***" if part.startswith("password=") else "***" if part else ""


def check_url(url: str) -> redis.ConnectionPool:
    """A pool, not yet connected, for a URL that redis-py understands as its owner does.

    Raises: LabError for any other URL. A password that was not escaped could otherwise be read as a
    host name, which would then be connected to or printed.
    """
    login, at, where = url.partition("://")[2].rpartition("@")
    is_path = url.startswith("unix:")  # which may hold an @
    try:
        if at and not (is_path and login.startswith("/")) and re.search(r"[][/#?@\s]", login):
            raise ValueError
        # redis-py would take these for database 0, for port 6379, and a part of an option for all
        address, _, options = where.partition("?")
        if not is_path and not re.fullmatch(r"[^/\s#]*(/\d*)?", address):
            raise ValueError
        if re.search(r":0+(/|$)", address) or re.search(r"#|(^|&)(?!\w+=)", options or "a="):
            raise ValueError
        pool = redis.ConnectionPool.from_url(url)
        pool.make_connection()  # this checks all options
    except (ValueError, TypeError, redis.RedisError):
        # Without the cause: its message may contain part of the password
        raise LabError(
            f"{redact(url)} is not a Redis URL. Write redis://user:password@host:port/0, "
            "rediss:// for TLS, or unix:///path/to/socket?db=0, with a / # ? or @ in the "
            "password as %2F %23 %3F or %40."
        ) from None
    return pool


def fail_fast() -> dict[str, Any]:
    """Client options for a first contact: an error at once rather than after ten retries.

    RESP2, because a server that is too old does not know HELLO, and should still report its
    version.
    """
    limits = {"socket_connect_timeout": CONTACT_TIMEOUT_S, "socket_timeout": CONTACT_TIMEOUT_S}
    return {"retry": Retry(NoBackoff(), 0), "protocol": 2, **limits}


class Allowance:
    """The time that a server's first answers may take together.

    A timeout of the socket's would begin again with every byte that a server sends. It is counted
    in steps, which take longer on a busy machine: that is no fault of the server's.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self.limit_s = CONTACT_TIMEOUT_S if limit_s is None else limit_s
        self.steps = round(self.limit_s / STEP_S)

    def call(self, call: Callable[[], Answer]) -> Answer:
        """The result of a call. Raises: what the call raises; redis.TimeoutError."""
        answers: SimpleQueue[tuple[Answer | None, BaseException | None]] = SimpleQueue()

        def run() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        while self.steps > 0:
            try:
                answer, error = answers.get(timeout=STEP_S)
            except Empty:
                self.steps -= 1
                continue
            if error:
                raise error
            return cast(Answer, answer)
        raise redis.TimeoutError(f"it took longer than {self.limit_s:g} s") from None


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def format_value(value: object) -> str:
    """One value of a setting as the server writes it."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def config_lines(settings: dict[str, object]) -> Iterator[tuple[str, tuple]]:
    """Each line of a configuration: the setting's name and its arguments."""
    for key, values in settings.items():
        for value in values if isinstance(values, list) else [values]:
            yield key.replace("_", "-"), value if isinstance(value, tuple) else (value,)


def is_too_old(version: str) -> bool:
    return tuple(map(int, version.split(".")[:2])) < OLDEST


class Server:
    """A running Redis server. If the lab started it, it can also be killed and restarted.

    Attributes: `kind` (the name of one of `KINDS`), `product` ("Redis" or "Valkey"), `version`,
    `compatible` (the Redis version whose commands it speaks), `url`, `unix_url` (None where there
    is no Unix socket), `host`, `port`, `pid` (None where it is not a process of the lab's own),
    `settings` (its configuration, None where the lab did not start it), `clustered` (whether it
    is a node of a cluster whose client `client()` returns).
    """

    kind: str
    product: str
    version: str
    compatible: str
    url: str
    unix_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    pid: int | None = None
    password: str | None = None
    socket: str | None = None
    settings: dict[str, object] | None = None
    clustered = False
    bus_port: int | None = None  # of a node of a cluster
    restarted = False  # whether `listens` found that the server had been restarted by somebody else

    def client(self, **options: Any) -> redis.Redis:
        """A new client of this server; replies are text unless `decode_responses=False`."""
        return redis.Redis.from_url(self.url, **{"decode_responses": True, **options})

    def identify(self) -> dict[str, Any]:
        """Find out what the server is, and return its INFO.

        Raises: redis exceptions when it does not answer.
        """
        with self.client(**fail_fast(), parser_class=internals.PLAIN_PARSER) as client:
            info: dict[str, Any] = client.info("server")
        self.product = "Valkey" if "valkey_version" in info else "Redis"
        self.compatible = str(info["redis_version"])
        self.version = str(info.get("valkey_version", self.compatible))
        return info

    def __repr__(self) -> str:
        speaks = f" (speaks Redis {self.compatible[:3]})" if self.product == "Valkey" else ""
        return f"{self.product} {self.version}{speaks}, {self.origin()}, {self.transport()}"

    def origin(self) -> str:
        """Where it comes from, for the line that describes it."""
        return self.kind

    def transport(self) -> str:
        """How a client reaches the server, as results and captions name it: "TCP loopback"."""
        if self.url.startswith("unix"):
            return "Unix socket"
        where = "loopback" if self.host in ("127.0.0.1", "localhost", "::1") else "network"
        return f"{'TLS' if self.url.startswith('rediss') else 'TCP'} {where}"

    def alive(self) -> bool:
        """Whether the server answers."""
        with contextlib.suppress(redis.RedisError), self.client(**fail_fast()) as client:
            return bool(client.ping())
        return False

    def listens(self) -> bool:
        """Whether there still is a server to connect to, even if it does not answer now."""
        return self.alive()

    def log(self) -> str:
        """The server's log so far; "" if the lab cannot read it."""
        return ""

    def visit(self) -> Guest | None:
        """Does nothing on a server of the lab's own: see `UserServer`."""
        return None

    def stop(self) -> None:
        """Does nothing for a server that the lab does not own."""

    def kill(self) -> None:
        """Raises: LabError, since only a native process of the lab's own can be killed."""
        raise self._not_native()

    def restart(self) -> None:
        """Raises: LabError, since only a native process of the lab's own can be restarted."""
        raise self._not_native()

    def stalled(self) -> contextlib.AbstractContextManager[None]:
        """Raises: LabError, since only a native process of the lab's own can be made to stall."""
        raise self._not_native()

    def _not_native(self) -> LabError:
        native = (kind.name for kind in Kind.known if kind.native)
        instead = " or ".join(f'lab.server(kind="{name}")' for name in native)
        return LabError(
            f"A server of kind {self.kind} cannot be killed, restarted or stalled. "
            f"Use a native one, if there is one here: {instead}."
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Kind:
    """One way to get a server. To add a kind, write a subclass and list it in `choose.KINDS`.

    Attributes: `name`, by which it is requested; `native` (its servers are processes that can be
    killed and joined to a cluster); `private` (they are the lab's own); `unasked` (tried even if it
    was not requested); `fallback` (used if no better kind works; `connect()` then prints why the
    better kinds did not work).
    """

    name: ClassVar[str]
    native = False
    private = True
    unasked = True
    fallback = True
    known: ClassVar[list[type[Kind]]] = []  # all subclasses that have a name

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            Kind.known.append(cls)

    def __str__(self) -> str:
        return self.name

    def probe(self) -> tuple[bool, str]:
        """Whether this kind can be used on this machine, and what was found."""
        raise NotImplementedError

    def start(self, password: str | None = None, config: dict | None = None) -> Server:
        """A running server of this kind. Raises: LabError when it cannot start."""
        raise NotImplementedError
