"""Put distance between client and server: a relay process that adds a chosen round-trip time.

On loopback a round trip costs a tenth of a millisecond, so most of what Redis is for cannot be
seen. `link(r, rtt_ms=2)` stands between client and server and adds what another zone would add;
the relay itself is in `_relay.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import socket
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import redis
import redis.asyncio
from redis.connection import SSLConnection

from . import _relay
from .errors import LabError
from .guest import polite
from .server import Server, redact
from .topology import Cluster

LONGEST_MS = 10_000.0
QUEUE_LIMIT = 256 * 2**20  # bytes that may wait towards one side of one connection
ANSWER_TIMEOUT_S = 5.0

# Calibration: how long one round of measuring may take, how many rounds, and how near is near.
ROUND_S = 0.15
ROUNDS = 4
NEAR_MS = 0.02
NEAR_SHARE = 0.02
# What the relay costs hardly depends on the delay, so longer ones are calibrated at this one.
CALIBRATED_AT_MS = 25.0

# What a client through the link takes over from the client it was made from.
INHERITED = set(inspect.signature(redis.Redis.__init__).parameters) - {
    "host",
    "port",
    "unix_socket_path",
    "connection_pool",
}


@dataclass(frozen=True)
class Round:
    """One round of calibration: the relay's delay both ways, and what came of it, in ms."""

    delay_ms: float
    added_ms: float
    direct_ms: float
    pings: int


class Link:
    """A way to a server that takes `wanted_ms` longer there and back; `stop()` ends it.

    Attributes: `host`, `port` and `url` (with the password, as the client needs it; host and port
    are None where a link of 0 ms leads straight to a Unix socket), `wanted_ms`, `achieved_ms` (the
    median added round-trip time), `direct_ms` (the median round-trip time without the link), both
    by PING on bare sockets, `pid` of the relay (None at 0 ms), `rounds` of the calibration.
    """

    def __init__(self, template: redis.Redis, rtt_ms: float) -> None:
        self._template = template
        self._clients: list[weakref.ref] = []
        self.wanted_ms = float(rtt_ms)
        self.rounds: list[Round] = []
        self.pid: int | None = None
        kwargs = template.connection_pool.connection_kwargs
        self.target = str(kwargs.get("path") or f"{kwargs.get('host')}:{kwargs.get('port')}")
        with self._probe(template) as direct:
            if not rtt_ms:
                self.host, self.port = kwargs.get("host"), kwargs.get("port")
                self.direct_ms = statistics.median(ping_ms(direct) for _ in range(20))
                self.achieved_ms = 0.0
                return
            self._start(direct)
            try:
                with self.client() as client, self._probe(client) as far:
                    self._calibrate(direct, far)
            except BaseException:
                self.stop()
                raise

    # ------------------------------------------------------------ clients

    @property
    def url(self) -> str:
        kwargs = self._template.connection_pool.connection_kwargs
        user, password = (quote(kwargs.get(k) or "", safe="") for k in ("username", "password"))
        login = f"{user}:{password}@" if user or password else ""
        if self.port is None:
            return f"unix://{login}{kwargs['path']}?db={kwargs.get('db') or 0}"
        host = f"[{self.host}]" if ":" in str(self.host) else self.host
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{login}{host}:{self.port}/{kwargs.get('db') or 0}"

    @property
    def _tls(self) -> bool:
        return issubclass(self._template.connection_pool.connection_class, SSLConnection)

    def client(self, **options: object) -> redis.Redis:
        """A new client through the link, set up as the one it was made from but for `options`.

        A certificate is checked against the server's own name, as without the link.
        """
        pool = self._template.connection_pool
        inherited = {k: v for k, v in pool.connection_kwargs.items() if k in INHERITED}
        where: dict[str, object] = {"host": self.host, "port": self.port, "ssl": self._tls}
        if self.port is None:
            where = {"unix_socket_path": pool.connection_kwargs["path"]}
        client = redis.Redis(**{**inherited, **where, **options})
        if self._tls:
            client.connection_pool.connection_class = presenting(pool.connection_kwargs["host"])
        guest = getattr(pool, "guest", None)
        if guest is not None:
            polite(client, guest)
        self._clients = [ref for ref in self._clients if ref() is not None]
        self._clients.append(weakref.ref(client))
        return client

    @contextlib.contextmanager
    def _probe(self, client: redis.Redis) -> Iterator[socket.socket]:
        """A bare socket on which this client's server has answered a first PING."""
        pool = client.connection_pool
        try:
            sock = pool.connection_class(**pool.connection_kwargs)._connect()
        except (OSError, redis.RedisError) as error:
            raise LabError(
                f"No Redis answers at {self.target} ({error}). "
                "Start it, or mend the address, before putting a link in front of it."
            ) from error
        with contextlib.closing(sock):
            sock.settimeout(ANSWER_TIMEOUT_S + 4 * self.wanted_ms / 1000)
            try:
                ping_ms(sock)
                yield sock
            except OSError as error:
                raise LabError(
                    f"What listens at {self.target} does not answer PING as Redis does ({error}). "
                    "Is the address right, and does the URL say rediss:// exactly if it is TLS?"
                ) from error

    # ------------------------------------------------------------ the relay

    def _start(self, direct: socket.socket) -> None:
        if isinstance(direct.getpeername(), tuple):
            host, port = direct.getpeername()[:2]
            target = ["tcp", host, str(port)]
        else:
            target = ["unix", os.path.abspath(self.target)]
        command = [sys.executable, "-I", "-S", _relay.__file__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, str(QUEUE_LIMIT), *target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a notebook must not cut the link
        )
        # A process that this one forked must not cut the link when it ends.
        self._finalizer = weakref.finalize(self, quit_relay, self._process, os.getpid())
        assert self._process.stdout  # it is a pipe
        answer = self._process.stdout.readline().split()
        if not answer:
            self.stop()
            raise LabError(
                "The link's relay process did not start; its last words are on the terminal. "
                "The commonest cause is too little memory or too many processes."
            )
        self.host, self.port, self.pid = "127.0.0.1", int(answer[1]), self._process.pid

    def _delay(self, both_ways_ms: float) -> None:
        assert self._process.stdin and self._process.stdout  # they are pipes
        self._process.stdin.write(b"delay %d\n" % max(0, round(both_ways_ms * 1e6 / 2)))
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise LabError("The link's relay process has ended. Make the link again.")

    def _calibrate(self, direct: socket.socket, far: socket.socket) -> None:
        """Find the delay that together with the relay's own cost adds `wanted_ms`."""
        aim = min(self.wanted_ms, CALIBRATED_AT_MS)
        delay = max(0.0, aim - 0.1)
        for _ in range(ROUNDS):
            found = self._measure(direct, far, delay)
            off = aim - found.added_ms
            if abs(off) <= max(NEAR_MS, NEAR_SHARE * aim) or (off < 0 and not delay):
                break
            delay = max(0.0, delay + off)
        else:
            found = self._measure(direct, far, delay)
        if aim != self.wanted_ms:
            found = self._measure(direct, far, delay + self.wanted_ms - aim)
        self.achieved_ms, self.direct_ms = found.added_ms, found.direct_ms

    def _measure(self, direct: socket.socket, far: socket.socket, delay: float) -> Round:
        self._delay(delay)
        pings = max(1, min(100, int(ROUND_S * 1000 / (delay + 0.3))))
        # in turn, so that whatever else the machine does falls on both alike
        pairs = [(ping_ms(direct), ping_ms(far)) for _ in range(pings)]
        near, through = (statistics.median(column) for column in zip(*pairs, strict=True))
        self.rounds.append(Round(delay, through - near, near, pings))
        return self.rounds[-1]

    def stop(self) -> None:
        """Close the clients that came from here and end the relay."""
        for ref in self._clients:
            client = ref()
            if client is not None:
                client.close()
        if self.pid is not None:
            self._finalizer()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        if not self.wanted_ms:
            return f"direct to {self.target}, round trip {self.direct_ms:.2f} ms"
        return (
            f"link to {self.target}: {self.achieved_ms:.2f} ms added to a round trip of "
            f"{self.direct_ms:.2f} ms ({self.wanted_ms:g} ms wanted)"
        )


def link(target: redis.Redis | Server | str, rtt_ms: float) -> Link:
    """Put `rtt_ms` milliseconds of round trip in front of a server; use it in a `with` block.

        with link(r, rtt_ms=2) as far:
            far.client().get("key")

    `target` is a client, a `Server`, or a URL (replies are text, as with `Server.client()`). The
    added time is calibrated, which takes up to a second: from 0.5 ms up it is met within 10 % or
    0.1 ms on a quiet machine, and `achieved_ms` says what it is. Below that the relay's own cost
    of about 0.1 to 0.2 ms is the floor. Connecting costs one round trip more, as it does over TCP.
    At 0 there is no relay at all: `far` leads straight to the server and `achieved_ms` is 0.

    Raises: LabError for a server that does not answer, a Cluster client, or a round-trip time
    below 0 or above 10 s.
    """
    if isinstance(rtt_ms, str) or not math.isfinite(rtt_ms) or not 0 <= rtt_ms <= LONGEST_MS:
        raise LabError(
            f"rtt_ms={rtt_ms} is no distance: give milliseconds from 0 (no link) to {LONGEST_MS:g}."
        )
    if isinstance(target, redis.RedisCluster | redis.asyncio.RedisCluster | Cluster):
        raise LabError(
            "A link leads to one server; a Cluster client asks each node by its own address. "
            "Link to one node (cluster.nodes[0]), or to a server that is no cluster."
        )
    if rtt_ms and sys.platform == "win32":
        raise LabError("A link needs Linux or macOS. On Windows, run the workbook in WSL.")
    if isinstance(target, str):
        url = target
        try:
            target = redis.Redis.from_url(url, decode_responses=True)
        except ValueError as error:
            raise LabError(f"{redact(url)} is not a Redis URL: {error}") from error
    elif isinstance(target, Server):
        target = target.client()
    if not isinstance(target, redis.Redis):
        raise LabError(
            f"A link cannot start from a {type(target).__name__}: give a redis.Redis, a Server or "
            "a URL. An asyncio client can go through it with redis.asyncio.from_url(far.url)."
        )
    return Link(target, rtt_ms)


def presenting(name: str) -> type[SSLConnection]:
    """TLS connections that ask for and check the server's own name, not the relay's address."""

    class FarSSLConnection(SSLConnection):
        def _wrap_socket_with_ssl(self, sock: socket.socket) -> socket.socket:
            relay, self.host = self.host, name
            try:
                return super()._wrap_socket_with_ssl(sock)
            finally:
                self.host = relay

    return FarSSLConnection


def ping_ms(sock: socket.socket) -> float:
    """The round-trip time of one PING. A refusal (-NOAUTH) has made the same trip.

    Raises: OSError if no Redis answers.
    """
    start = time.perf_counter_ns()
    sock.sendall(b"PING\r\n")
    reply = sock.recv(512)
    taken = time.perf_counter_ns() - start
    if reply[:1] not in (b"+", b"-"):
        raise OSError(f"it said {reply[:40]!r}" if reply else "it closed the connection")
    return taken / 1e6


def quit_relay(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() != owner:
        return
    assert process.stdin and process.stdout  # they are pipes
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
