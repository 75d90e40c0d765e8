"""Put distance between client and server: a relay process that adds a chosen round-trip time.

On loopback a round trip takes a tenth of a millisecond, so most reasons to use Redis cannot be seen
there. `link(r, rtt_ms=2)` puts a relay between client and server, which adds the delay of another
zone. The relay's program is `_relay.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import socket
import statistics
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis
import redis.asyncio
from redis.connection import SSLConnection

from . import internals
from .child import Child
from .errors import LabError
from .servers.base import CONTACT_TIMEOUT_S, Allowance, Server, check_url
from .servers.guest import guest_of, restrict
from .servers.topology import Cluster

RELAY = Path(__file__).with_name("_relay.py")
LONGEST_MS = 10_000.0
QUEUE_LIMIT = 256 * 2**20  # bytes that may wait to be written to one side of one connection
ANSWER_TIMEOUT_S = 5.0

# Calibration: how long one round of measuring may take, how many rounds, and the tolerance.
ROUND_S = 0.15
ROUNDS = 4
TOLERANCE_MS = 0.02
TOLERANCE_SHARE = 0.02
# The relay's own cost hardly depends on the delay, so longer delays are calibrated at this one.
CALIBRATED_AT_MS = 25.0

# Options that a client through the link takes over from the client that the link was made from.
INHERITED = set(inspect.signature(redis.Redis.__init__).parameters) - {
    "host",
    "port",
    "unix_socket_path",
    "connection_pool",
}


class Relay(Child):
    """The process that delays the bytes between clients and one server; see `_relay.py`.

    Attributes: `port`, on loopback.
    """

    def __init__(self, *target: str) -> None:
        """Start a relay to the target `("tcp", host, port)` or `("unix", path)`.

        Raises: LabError when it does not start.
        """
        super().__init__("The link's relay process", RELAY, str(QUEUE_LIMIT), *target)
        self.port = int(self.wait_ready().split()[1])
        self.delay_ms = 0.0

    def set_delay(self, both_ways_ms: float) -> None:
        """Delay each round trip by `both_ways_ms`. Raises: LabError when the process has ended."""
        if not self.ask(f"delay {max(0, round(both_ways_ms * 1e6 / 2))}"):
            raise LabError("The link's relay process has ended. Make the link again.")
        self.delay_ms = both_ways_ms

    def lose(self, replies: int) -> None:
        """Lose the next replies with their connections, after the commands were executed."""
        self.ask(f"lose {replies}")

    def cut(self) -> None:
        """Reset every connection."""
        self.ask("cut")

    def lead_to(self, host: str, port: int) -> None:
        """Connect to this server from now on; connections that there are stay as they are."""
        self.ask(f"to {host} {port}")

    def silence(self) -> None:
        """Close every connection at the server's side only; the clients are not told.

        So it looks to a client when its server loses power, or a firewall forgets the connection.
        """
        self.ask("silence")


@dataclass(frozen=True)
class Round:
    """One round of calibration: the relay's delay both ways, and its effect, in ms."""

    delay_ms: float
    added_ms: float
    direct_ms: float
    pings: int


class Link:
    """A connection to a server whose round trips take `wanted_ms` longer; `stop()` ends it.

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
                self.direct_ms = statistics.median(_ping_ms(direct) for _ in range(20))
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
        """A new client through the link, with the original one's settings except for `options`.

        A certificate is checked against the server's own name, as without the link.
        """
        pool = self._template.connection_pool
        inherited = {k: v for k, v in pool.connection_kwargs.items() if k in INHERITED}
        where: dict[str, object] = {"host": self.host, "port": self.port, "ssl": self._tls}
        if self.port is None:
            where = {"unix_socket_path": pool.connection_kwargs["path"]}
        client = redis.Redis(**{**inherited, **where, **options})
        if self._tls:
            host = pool.connection_kwargs["host"]
            client.connection_pool.connection_class = internals.tls_connection_for(host)
        guest = guest_of(self._template)
        if guest is not None:
            restrict(client, guest)
        self._clients = [ref for ref in self._clients if ref() is not None]
        self._clients.append(weakref.ref(client))
        return client

    @contextlib.contextmanager
    def _probe(self, client: redis.Redis) -> Iterator[socket.socket]:
        """A bare socket on which the client's server has answered a first PING."""
        pool = client.connection_pool
        try:
            sock = Allowance().call(lambda: internals.open_socket(pool))
        except (OSError, redis.RedisError) as error:
            raise LabError(
                f"No Redis answers at {self.target} ({error}). "
                "Start it, or correct the address, before putting a link in front of it."
            ) from error
        with contextlib.closing(sock):
            sock.settimeout(CONTACT_TIMEOUT_S + 4 * self.wanted_ms / 1000)
            try:
                _ping_ms(sock)
                sock.settimeout(ANSWER_TIMEOUT_S + 4 * self.wanted_ms / 1000)
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
        self._relay = Relay(*target)
        self.host, self.port, self.pid = "127.0.0.1", self._relay.port, self._relay.pid

    def _calibrate(self, direct: socket.socket, far: socket.socket) -> None:
        """Find the delay that adds `wanted_ms`, together with the relay's own cost."""
        aim = min(self.wanted_ms, CALIBRATED_AT_MS)
        delay = max(0.0, aim - 0.1)
        for _ in range(ROUNDS):
            found = self._measure(direct, far, delay)
            off = aim - found.added_ms
            if abs(off) <= max(TOLERANCE_MS, TOLERANCE_SHARE * aim) or (off < 0 and not delay):
                break
            delay = max(0.0, delay + off)
        else:
            found = self._measure(direct, far, delay)
        if aim != self.wanted_ms:
            found = self._measure(direct, far, delay + self.wanted_ms - aim)
        self.achieved_ms, self.direct_ms = found.added_ms, found.direct_ms

    def _measure(self, direct: socket.socket, far: socket.socket, delay: float) -> Round:
        self._relay.set_delay(delay)
        pings = max(1, min(100, int(ROUND_S * 1000 / (delay + 0.3))))
        # alternately, so that other load on the machine affects both equally
        pairs = [(_ping_ms(direct), _ping_ms(far)) for _ in range(pings)]
        near, through = (statistics.median(column) for column in zip(*pairs, strict=True))
        self.rounds.append(Round(delay, through - near, near, pings))
        return self.rounds[-1]

    @property
    def delay_ms(self) -> float | None:
        """The delay of a round trip in the relay, without its own cost; None without a relay."""
        return self._relay.delay_ms if self.pid is not None else None

    def stop(self) -> None:
        """Close the clients that this link has made, and end the relay."""
        for ref in self._clients:
            client = ref()
            if client is not None:
                client.close()
        if self.pid is not None:
            self._relay.stop()

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
    added time is calibrated, which takes up to a second: on a quiet machine a time from 0.5 ms up
    is met within 10 % or 0.1 ms, and `achieved_ms` reports the actual time. The relay's own cost of
    about 0.1 to 0.2 ms is the minimum. Connecting costs one round trip more, as over TCP. At 0
    there is no relay at all: `far` leads straight to the server and `achieved_ms` is 0.

    Raises: LabError for a server that does not answer, a Cluster client, or a round-trip time
    below 0 or above 10 s.
    """
    if isinstance(rtt_ms, str) or not math.isfinite(rtt_ms) or not 0 <= rtt_ms <= LONGEST_MS:
        raise LabError(
            f"rtt_ms={rtt_ms} is not a distance: "
            f"give milliseconds from 0 (no link) to {LONGEST_MS:g}."
        )
    if isinstance(target, redis.RedisCluster | redis.asyncio.RedisCluster | Cluster):
        raise LabError(
            "A link leads to one server; a Cluster client uses each node's own address. "
            "Link to one node (cluster.nodes[0]), or to a server outside a cluster."
        )
    if rtt_ms and sys.platform == "win32":
        raise LabError("A link needs Linux or macOS. On Windows, run the workbook in WSL.")
    if isinstance(target, str):
        check_url(target)
        target = redis.Redis.from_url(target, decode_responses=True)
    elif isinstance(target, Server):
        target = target.client()
    if not isinstance(target, redis.Redis):
        raise LabError(
            f"A link cannot start from a {type(target).__name__}: give a redis.Redis, a Server or "
            "a URL. An asyncio client can go through it with redis.asyncio.from_url(far.url)."
        )
    return Link(target, rtt_ms)


def _ping_ms(sock: socket.socket) -> float:
    """The round-trip time of one PING. A refusal (-NOAUTH) takes the same round trip.

    Raises: OSError if no Redis answers.
    """
    start = time.perf_counter_ns()
    sock.sendall(b"PING\r\n")
    reply = sock.recv(512)
    taken = time.perf_counter_ns() - start
    if not reply.startswith((b"+PONG", b"-")) or not reply.endswith(b"\r\n"):
        raise OSError(f"it replied {reply[:40]!r}" if reply else "it closed the connection")
    return taken / 1e6
