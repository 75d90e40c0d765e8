"""Load from several processes: at a chosen rate, or as much as the server can take.

`bench` measures how long one call takes if each is awaited before the next. Here many clients send
at once, and the requests come whether the server keeps up or not:

- `open_loop` sends each request at its own time and keeps two clocks. The *service* time begins
  when the request is sent, the *response* time when it was due. They differ when requests have to
  wait for a free connection; the service time alone leaves those waits out
  (*coordinated omission*, Gil Tene: How NOT to measure latency, 2015).
- `saturate` keeps batches under way on all connections, to find the server's maximum throughput.

The generators (`_generator.py`) send bytes that were encoded beforehand over plain sockets, so that
Python is not what is measured, and the CPU time that each used is part of the result. They are
processes; they are killed when the block ends, also by Ctrl-C, and end by themselves when the time
is over.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from hdrh.histogram import HdrHistogram

from .. import internals
from ..child import Child
from ..claims import NOT_MEASURED
from ..errors import LabError
from ..servers.guest import guard
from ..servers.nodes import first
from . import _generator
from .baseline import get_endpoint
from .progress import shown
from .stats import make_histogram, percentile
from .validity import InvalidRun, TooBusy, retry_while_busy
from .workload import poisson_arrivals

__all__ = ["CLOCKS", "InvalidRun", "Load", "Saturation", "TooBusy", "open_loop", "saturate"]

GENERATOR = Path(__file__).with_name("_generator.py")
LATE_NS = 5_000_000  # a request this late, with a connection free, is the generator's fault
LATE_SHARE = 0.05  # more than this share of late requests voids a run
BUSY = 0.85  # of one core: from here on a process counts as saturated
IDLE = 0.02  # a generator that is idle less than this share of the time is itself the bottleneck
TIMEOUT_S = 30.0  # give up this long after the last request was due, or after the last reply
CLOCKS = ("response", "service")


def __dir__() -> list[str]:
    return __all__


@dataclass
class Load:
    """An open-loop run's result; times in nanoseconds, one entry a request, in order of `due`.

    `due`, `sent` and `done` count from the start. `offered_per_s` is what was asked for,
    `achieved_per_s` what was answered per second from the first request due to the last reply.
    `lag_ns` is how much later than due a request was sent although a connection was free: the
    generator's own error. `errors` counts error replies, and nil where there was a value at first.
    """

    offered_per_s: float
    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    lag_ns: np.ndarray
    errors: int
    generator_busy: float
    doubt: str = ""  # why these times mean nothing; empty if they are valid

    @property
    def achieved_per_s(self) -> float:
        return len(self.done) / ((self.done.max() - self.due.min()) / 1e9)

    def times_ns(self, clock: str = "response") -> np.ndarray:
        """Since it was due (`response`) or since it was sent (`service`)."""
        if clock not in CLOCKS:
            raise LabError(f"There are two clocks, {' and '.join(CLOCKS)}, and no {clock}.")
        return self.done - (self.due if clock == "response" else self.sent)

    def percentile_us(self, q: float, clock: str = "response") -> float | None:
        """None where fewer than a hundred samples lie beyond it."""
        found = percentile(self.times_ns(clock), q)
        return None if found is None else found / 1e3

    def mean_us(self, clock: str = "response") -> float:
        """The mean over all requests by one of `CLOCKS`, in µs."""
        return float(self.times_ns(clock).mean()) / 1e3

    def histogram(self, clock: str = "response") -> HdrHistogram:
        """In nanoseconds, three digits; histograms of several runs add up, percentiles do not."""
        return make_histogram(self.times_ns(clock), f"{clock} time")

    def row(self, clock: str = "response", **columns: object) -> dict[str, object]:
        """One row of a result."""
        return {
            "arm": f"{clock} time",
            "offered_per_s": self.offered_per_s,
            "achieved_per_s": self.achieved_per_s,
            "calls": len(self.done),
            "errors": self.errors,
            "p50_us": self.percentile_us(50, clock),
            "p99_us": self.percentile_us(99, clock),
            "mean_us": self.mean_us(clock),
            "max_us": float(self.times_ns(clock).max()) / 1e3,
            "lag_p99_us": float(np.percentile(self.lag_ns, 99)) / 1e3 if len(self.lag_ns) else 0.0,
            "generator_busy": self.generator_busy,
            **columns,
        }

    def __repr__(self) -> str:
        times = self.times_ns() / 1e6
        return (
            f"{len(self.done):,} requests, {self.offered_per_s:,.0f} a second offered, "
            f"{self.achieved_per_s:,.0f} answered; half within "
            f"{np.median(times):.2f} ms of being due, the last within {times.max():.1f} ms"
            + (f"; {self.doubt}" if self.doubt else "")
        )


@dataclass
class Saturation:
    """The maximum throughput, and which side was saturated: the server or the generators.

    `server_busy` and `generator_busy` are shares of one core; of the generators the busiest.
    """

    per_second: float
    server_busy: float
    generator_busy: float

    @property
    def saturated(self) -> str:
        """`server`, `generator`, `both` or `neither`."""
        sides = {"server": self.server_busy, "generator": self.generator_busy}
        full = [side for side, busy in sides.items() if busy >= BUSY]
        return {0: "neither", 2: "both"}.get(len(full)) or full[0]

    def __repr__(self) -> str:
        return (
            f"{self.per_second:,.0f} a second; server busy {self.server_busy:.0%}, generator "
            f"{self.generator_busy:.0%}: saturated is {self.saturated}"
        )


def open_loop(
    client: redis.Redis,
    *command: object,
    rate_per_s: float,
    seconds: float,
    connections: int = 16,
    processes: int = 1,
    arrivals: str = "poisson",
    seed: int = 0,
    label: str | None = None,
) -> Load:
    """Send a command at a chosen rate, each request at its own time, to the server of a client.

    `connections` in all, shared by `processes`; `arrivals` are "poisson" or "constant". The
    command's replies must all be of one length, such as those of GET of one key.

    A run in which other processes held the generators up is repeated, three times in all.

    Raises: TooBusy when they held it up each time; InvalidRun when the rate was too high for the
    generators or not everything was answered; LabError for what cannot be sent.
    """
    if rate_per_s <= 0 or seconds <= 0:
        raise LabError("Load needs a positive rate and a positive time.")
    if arrivals not in ("poisson", "constant"):
        raise LabError(f'Arrivals are "poisson" or "constant", not {arrivals!r}.')
    shares = _split_connections(connections, processes)
    due = (
        poisson_arrivals(rate_per_s, seconds, seed)
        if arrivals == "poisson"
        else np.arange(0, seconds, 1 / rate_per_s)
    )
    due = (due * 1e9).astype(np.int64)
    if not len(due):
        raise LabError(f"{rate_per_s} a second for {seconds} s: no request at all.")
    base = settings_for(client, command) | {"mode": "open", "patience_ns": int(TIMEOUT_S * 1e9)}
    jobs = [
        {**base, "connections": share, "due": text(due[k :: len(shares)].tobytes())}
        for k, share in enumerate(shares)
        if len(due[k :: len(shares)])  # none if there are fewer requests than processes
    ]
    label = label or f"{rate_per_s:,.0f} a second"
    return retry_while_busy(lambda: _run_open_loop(jobs, len(due), seconds, label), label)


def _run_open_loop(jobs: list[dict], requests: int, seconds: float, label: str) -> Load:
    """One try of `open_loop`."""
    heads, columns = run(jobs, seconds, label)
    order = np.argsort(np.concatenate([each[0] for each in columns]), kind="stable")
    due, sent, done, own = (np.concatenate([each[k] for each in columns])[order] for k in range(4))
    missing = sum(head["requests"] - head["finished"] for head in heads)
    if missing:
        raise InvalidRun(
            f"{missing} of {requests} requests were not answered within {TIMEOUT_S:.0f} s."
        )
    lag = (sent - due)[own == 1]
    found = Load(
        offered_per_s=requests / seconds,
        due=due,
        sent=sent,
        done=done,
        lag_ns=lag,
        errors=sum(head["errors"] for head in heads),
        generator_busy=max(head["cpu_s"] / (head["ns"] / 1e9) for head in heads),
    )
    late = float((lag > LATE_NS).mean()) if len(lag) else 0.0
    behind = found.achieved_per_s < 0.9 * found.offered_per_s
    why = ""
    if late > LATE_SHARE:
        why = (
            f"The generator fell behind: {late:.0%} of the requests were sent more than "
            f"{LATE_NS / 1e6:.0f} ms late with a connection free."
        )
    elif behind and min(head["idle"] for head in heads) < IDLE:
        why = (
            f"The generator fell behind: {found.achieved_per_s:,.0f} a second were answered of "
            f"{found.offered_per_s:,.0f} offered, and it was never idle."
        )
    if why and found.generator_busy >= BUSY:  # it had its core to itself
        raise InvalidRun(f"{why} Use more processes or a lower rate.")
    if why:
        found.doubt = NOT_MEASURED
        raise TooBusy(why, found)
    return found


def saturate(
    client: redis.Redis,
    *command: object,
    depth: int = 1,
    connections: int = 16,
    processes: int = 1,
    seconds: float = 1.0,
    label: str = "saturating",
) -> Saturation:
    """Keep `depth` commands under way on each connection, and count what the server answers.

    Raises: InvalidRun when there were errors among the replies; LabError for what cannot be sent.
    """
    if depth < 1 or seconds <= 0:
        raise LabError("Saturation needs a depth of at least one and a positive time.")
    base = settings_for(client, command) | {
        "mode": "saturate",
        "depth": depth,
        "ns": int(seconds * 1e9),
        "patience_ns": int(TIMEOUT_S * 1e9),
    }
    jobs = [{**base, "connections": share} for share in _split_connections(connections, processes)]
    before = server_cpu_s(client), time.perf_counter()
    heads, _ = run(jobs, seconds, label)
    used, wall = server_cpu_s(client) - before[0], time.perf_counter() - before[1]
    if errors := sum(head["errors"] for head in heads):
        raise InvalidRun(f"{errors} batches of replies began with an error.")
    longest = max(head["ns"] for head in heads) / 1e9
    return Saturation(
        per_second=sum(head["requests"] / (head["ns"] / 1e9) for head in heads),
        # The server works for as long as the generators do, not while they start
        server_busy=min(used / min(longest, wall), 1.0),
        generator_busy=max(head["cpu_s"] / (head["ns"] / 1e9) for head in heads),
    )


def _split_connections(connections: int, processes: int) -> list[int]:
    """How many connections each process gets. Raises: LabError where there are too few."""
    if processes < 1 or connections < processes:
        raise LabError("There must be at least one process, and a connection for each.")
    return [len(range(k, connections, processes)) for k in range(processes)]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def settings_for(client: redis.Redis, command: Sequence[object]) -> dict[str, object]:
    """Where to send what, and how long each reply is. Raises: LabError where that varies."""
    if not command:
        raise LabError('Which command? open_loop(r, "GET", "key", …)')
    if isinstance(client, redis.RedisCluster):
        raise LabError("Load goes to one server; give a client of one node of the cluster.")
    if issubclass(first(client).connection_pool.connection_class, redis.SSLConnection):
        raise LabError("The load generator speaks no TLS.")
    guard(client, tuple(command))
    where, greeting = get_endpoint(client), []
    if where.get("password"):
        greeting.append(["AUTH", where.get("username") or "default", where["password"]])
    if where.get("db"):
        greeting.append(["SELECT", where["db"]])
    settings = {
        "host": where.get("host"),
        "port": where.get("port"),
        "path": where.get("path"),
        "greeting": [text(internals.pack_command(*line)) for line in greeting],
        "request": text(internals.pack_command(*command)),
    }
    lengths, sample = set(), b""
    try:
        with _generator.connected(settings) as probe:
            probe.settimeout(30)
            for _ in range(2):
                probe.sendall(internals.pack_command(*command))
                probe.sendall(internals.pack_command("ECHO", "that's it"))
                sample = b""
                while not sample.endswith(b"$9\r\nthat's it\r\n"):
                    part = probe.recv(1 << 18)
                    if not part:
                        reply = sample.decode(errors="replace").strip() or "it sent nothing"
                        raise LabError(f"The server closed the connection: {reply[-200:]}.")
                    sample += part
                lengths.add(len(sample) - 15)
    except OSError as error:
        raise LabError(f"The server does not answer: {error}.") from error
    except SystemExit as refused:
        raise LabError(f"The server refuses the connection: {refused}") from None
    if sample.startswith(b"-"):
        raise LabError(f"The server refuses the command: {sample.splitlines()[0][1:].decode()}")
    if len(lengths) > 1:
        raise LabError(
            "The replies to this command differ in length, and the generator counts bytes. "
            "Choose one with replies of one length, such as GET of one key."
        )
    return settings | {"reply_bytes": lengths.pop()}


def server_cpu_s(client: redis.Redis) -> float:
    """CPU time of the server's main thread, or of the whole server if it does not report that."""
    info = client.info("cpu")
    kinds = ("user", "sys")
    return sum(info.get(f"used_cpu_{kind}_main_thread", info[f"used_cpu_{kind}"]) for kind in kinds)


def run(jobs: list[dict], seconds: float, label: str) -> tuple[list[dict], list[list[np.ndarray]]]:
    """Run the generators together; their reports and samples."""
    generators: list[Child] = []
    try:
        for job in jobs:
            generators.append(Child("A load generator", GENERATOR, settings=job))
        for each in generators:
            each.wait_ready()
        start = time.monotonic_ns() + 50_000_000
        for each in generators:
            each.tell(str(start))
        for _ in shown(range(int(seconds * 10)), label, after_s=2.0):
            time.sleep(0.1)
        heads, columns = [], []
        for each in generators:
            head, _, samples = each.read_rest().partition(b"\n")
            if not head:
                raise InvalidRun(f"A generator ended before its time: {each.last_words()}")
            heads.append(json.loads(head))
            values = np.frombuffer(samples, dtype=np.int64)
            columns.append(list(values.reshape(4, -1)) if len(values) else [])
        return heads, columns
    finally:
        for each in generators:
            each.kill()
