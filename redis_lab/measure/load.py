"""Load from several processes: at a chosen rate, or as much as the server can take.

`bench` measures how long one call takes if each is awaited before the next. Here many clients send
at once, and the requests come even if the server cannot keep up:

- `open_loop` sends each request at its own time and keeps two clocks. The *service* time begins
  when the request is sent, the *response* time when it was due. They differ when requests have to
  wait for a free connection; the service time alone omits those waits (*coordinated omission*, Gil
  Tene: How NOT to measure latency, 2015).
- `read_server_latency` reads the server's own clock: the execution of each command alone.
- `Schedule` is for a caller in the lesson's own process: it says which requests were due while the
  caller waited for a reply.
- A `Mix` of commands can be sent instead of one command.
- `saturate` keeps batches under way on all connections, to find the server's maximum throughput.

The generators (`_generator.py`) send bytes that were encoded beforehand over plain sockets, so that
Python itself is not measured. The CPU time that each used is part of the result. Each is a process
of its own, which ends when the time is over, and is killed on Ctrl-C.
"""

from __future__ import annotations

import base64
import json
import math
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
from ..servers.nodes import first_primary
from . import _generator
from .baseline import get_endpoint, server_cpu_s
from .progress import show_progress
from .server_latency import read_server_latency
from .stats import make_histogram, percentile
from .validity import InvalidRun, TooBusy, retry_while_busy
from .workload import poisson_arrivals

__all__ = [
    "CLOCKS",
    "InvalidRun",
    "Load",
    "Mix",
    "Saturation",
    "Schedule",
    "TooBusy",
    "open_loop",
    "read_server_latency",
    "saturate",
]

GENERATOR = Path(__file__).with_name("_generator.py")
LAG_SHARE = 0.1  # at most this share of a reported time may be the generator's own lag
BACKLOG_SHARE = 0.05  # a run with a larger share of unanswered requests ends in a backlog
WARM_UP_S = 0.2  # at most; a tenth of the run if that is less
BUSY = 0.85  # of one core: from here on a process counts as saturated
IDLE = 0.05  # a generator that is idle for less than this share of the time is the bottleneck
TIMEOUT_S = 30.0  # give up this long after the last request was due, or after the last reply
CLOCKS = ("response", "service")
ONE_TURN = np.zeros(1, dtype=np.int32)


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Mix:
    """Several commands in a given order, which begins again at its end.

    `kinds` are the names of the kinds of command, `commands` pairs of a kind (its place in `kinds`)
    and a command, `turns` which of the commands comes when. All replies to commands of one kind
    must have the same length.
    """

    kinds: tuple[str, ...]
    commands: Sequence[tuple[int, tuple[object, ...]]]
    turns: np.ndarray

    def kinds_of(self, requests: int) -> np.ndarray:
        """The kind of each of so many requests."""
        kind = np.array([kind for kind, _ in self.commands])
        return kind[np.resize(self.turns, requests)]


@dataclass
class Load:
    """The result of an open-loop run; times in nanoseconds, one entry for each request, ordered by
    `due`.

    `due`, `sent` and `done` count from the end of the warm-up, whose `warm_up` requests are left
    out. `offered_per_s` is the requested rate, `achieved_per_s` the number of replies per second
    from the first request due to the last reply. `lag_ns` is how much later than due a request was
    sent although a connection was free: the generator's own error. `errors` counts error replies,
    and nil replies for a value that existed at the start. `generator_busy` is the CPU time of the
    busiest generator as a share of one core, most of it spent reading the clock if requests are
    close together; `generator_idle` is the share of the time that the least idle one waited with
    nothing to do. `server_cpu_us` is how long the server's main thread worked for each request, by
    its CPU time: it reads the request, executes it and writes the reply.

    In a run that ends in a backlog, the times grow for as long as the run lasts, so they have no
    single distribution. Then no percentile and no mean is reported; `backlog` is the number of
    requests that were waiting.

    Of a `Mix`, `kind` is the place in `kinds` of each request.
    """

    offered_per_s: float
    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    lag_ns: np.ndarray
    errors: int
    generator_busy: float
    generator_idle: float = 1.0
    server_cpu_us: float = math.nan
    warm_up: int = 0
    connections: int = 1
    doubt: str = ""  # why these times mean nothing; empty if they are valid
    kinds: tuple[str, ...] = ()
    kind: np.ndarray | None = None

    @property
    def achieved_per_s(self) -> float:
        return len(self.done) / ((self.done.max() - self.due.min()) / 1e9)

    @property
    def server_busy(self) -> float:
        """The share of the time that the server's main thread worked, if it kept up with the
        rate; above 1 if it cannot.
        """
        return self.offered_per_s * self.server_cpu_us / 1e6

    @property
    def backlog(self) -> int:
        """How many requests were unanswered at the moment when the last one was due."""
        return int((self.done > self.due.max()).sum())

    @property
    def ends_in_backlog(self) -> bool:
        """Whether more than a twentieth of all requests were unanswered at the end.

        By Little's law the mean response time is then more than a twentieth of the whole run, so
        that the beginning of the run, when the queue was empty, is not negligible. If the offered
        rate exceeds the capacity, the queue grows without end. One request for each connection is
        no backlog.
        """
        return self.backlog > max(BACKLOG_SHARE * len(self.done), self.connections)

    def times_ns(self, clock: str = "response") -> np.ndarray:
        """Each request's time, since it was due (`response`) or since it was sent (`service`)."""
        if clock not in CLOCKS:
            raise LabError(f"There are two clocks, {' and '.join(CLOCKS)}, and no {clock}.")
        return self.done - (self.due if clock == "response" else self.sent)

    def percentile_us(self, q: float, clock: str = "response") -> float | None:
        """A percentile in µs; None if this run cannot give it.

        It is None with fewer than a hundred samples beyond it (`stats.percentile`), if the run ends
        in a backlog, or if more than a tenth of it may be the generator's own lag.
        """
        return self._valid_us(self.times_ns(clock), q)

    def _valid_us(self, times_ns: np.ndarray, q: float) -> float | None:
        found = percentile(times_ns, q)
        if found is None or self.ends_in_backlog or self.lag_at_ns(q) > LAG_SHARE * found:
            return None
        return found / 1e3

    def lag_at_ns(self, q: float) -> float:
        """A percentile of the generator's own lag, in ns; zero for requests that had to wait."""
        lag = np.zeros(len(self.done))
        lag[: len(self.lag_ns)] = self.lag_ns
        return float(np.percentile(lag, q))

    def mean_us(self, clock: str = "response") -> float:
        """The mean over all requests by one of `CLOCKS`, in µs; NaN after a backlog."""
        return math.nan if self.ends_in_backlog else float(self.times_ns(clock).mean()) / 1e3

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
            "p999_us": self.percentile_us(99.9, clock),
            "mean_us": self.mean_us(clock),
            "max_us": float(self.times_ns(clock).max()) / 1e3,
            "backlog": self.backlog,
            "lag_p50_us": self.lag_at_ns(50) / 1e3,
            "lag_p99_us": self.lag_at_ns(99) / 1e3,
            "generator_busy": self.generator_busy,
            "generator_idle": self.generator_idle,
            "server_busy": self.server_busy,
            **columns,
        }

    @property
    def rows(self) -> list[dict[str, object]]:
        """A row for each clock, for `results.make_result`."""
        return [self.row(clock) for clock in CLOCKS]

    def rows_by_kind(self) -> list[dict[str, object]]:
        """Of a `Mix`: a row of response times for all commands, and one for each kind."""
        found = [self.row(arm="all")]
        for place, name in enumerate(self.kinds):
            times = self.times_ns()[self.kind == place]
            percentiles = {f"p{q}_us": self._valid_us(times, q) for q in (50, 99)}
            found.append({"arm": name, "calls": len(times), **percentiles})
        return found

    def histograms(self) -> dict[str, HdrHistogram]:
        """A histogram for each clock, by the names that the rows have."""
        return {f"{clock} time": self.histogram(clock) for clock in CLOCKS}

    def facts(self) -> dict[str, object]:
        """The load in a result's environment."""
        return {"connections": self.connections, "warm_up_requests": self.warm_up}

    def __repr__(self) -> str:
        times = self.times_ns() / 1e6
        told = (
            f"half within {np.median(times):.2f} ms of being due, the last within "
            f"{times.max():.1f} ms"
        )
        if self.ends_in_backlog:
            told = (
                f"at the end {self.backlog:,} were still waiting, so that the times depend on how "
                "long this run was"
            )
        return (
            f"{len(self.done):,} requests, {self.offered_per_s:,.0f} a second offered, "
            f"{self.achieved_per_s:,.0f} answered; {told}"
            + (f"; {self.doubt}" if self.doubt else "")
        )


class Schedule:
    """When the requests of one caller are due: at a fixed rate, whatever became of the others.

    It begins with the first call of `wait`; `due` is a time of `time.perf_counter()`, in seconds.
    """

    def __init__(self, rate_per_s: float) -> None:
        """Raises: LabError for a rate that is not positive."""
        if not rate_per_s > 0:
            raise LabError("A schedule needs a positive rate.")
        self.period_s = 1 / rate_per_s
        self.due: float | None = None

    def wait(self) -> list[float]:
        """Wait until the next request is due.

        Returns when those were due that are late by a period or more, because the caller was still
        busy with an earlier one (times of `time.perf_counter()`). A service would have had to
        answer these as well; they are not made up for.
        """
        now, missed = time.perf_counter(), []
        if self.due is None:
            self.due = now
        while self.due + self.period_s <= now:
            missed.append(self.due)
            self.due += self.period_s
        time.sleep(max(0.0, self.due - now))
        self.due += self.period_s
        return missed


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
    warm_up_s: float | None = None,
) -> Load:
    """Send a command at a chosen rate to the server of a client, each request when it is due.

    `connections` in all, shared by `processes`; `arrivals` are "poisson" or "constant". The
    command's replies must all be of one length, such as those of GET of one key; a `Mix` may stand
    in its place. Before the measurement, requests come at the same rate for `warm_up_s` (by default
    a tenth of the time, at most 0.2 s), until connections, caches and clock frequency are stable.

    If other processes delayed the generators, the run is repeated, up to three times in all.

    Raises: TooBusy when they delayed every run; InvalidRun when the rate was too high for the
    generators, or when requests were not answered; LabError for a command that cannot be sent.
    """
    warm_s = min(WARM_UP_S, seconds / 10) if warm_up_s is None else warm_up_s
    if rate_per_s <= 0 or seconds <= 0 or warm_s < 0:
        raise LabError("Load needs a positive rate and a positive time.")
    if arrivals not in ("poisson", "constant"):
        raise LabError(f'Arrivals are "poisson" or "constant", not {arrivals!r}.')
    shares = _split_connections(connections, processes)

    def arrive(for_s: float, seed: int) -> np.ndarray:
        if arrivals == "poisson":
            return poisson_arrivals(rate_per_s, for_s, seed)
        return np.arange(0, for_s, 1 / rate_per_s)

    warm_ns = int(warm_s * 1e9)
    counted = (arrive(seconds, seed) * 1e9).astype(np.int64)
    if not len(counted):
        raise LabError(f"{rate_per_s} a second for {seconds} s: no request at all.")
    before = (arrive(warm_s, seed + 1) * 1e9).astype(np.int64) if warm_ns else counted[:0]
    due = np.concatenate([before[before < warm_ns], counted + warm_ns])
    base = settings_for(client, command) | {"mode": "open", "patience_ns": int(TIMEOUT_S * 1e9)}
    mix = command[0] if isinstance(command[0], Mix) else None
    turns = np.resize(mix.turns if mix else [0], len(due)).astype(np.int32)
    jobs = [
        {
            **base,
            "connections": share,
            "due": to_base64(due[k :: len(shares)].tobytes()),
            "turns": to_base64(turns[k :: len(shares)].tobytes()),
        }
        for k, share in enumerate(shares)
        if len(due[k :: len(shares)])  # none if there are fewer requests than processes
    ]
    label = label or f"{rate_per_s:,.0f} a second"
    return retry_while_busy(
        lambda: _run_open_loop(client, jobs, len(due), seconds, warm_ns, label, mix), label
    )


def _run_open_loop(
    client: redis.Redis,
    jobs: list[dict],
    requests: int,
    seconds: float,
    warm_ns: int,
    label: str,
    mix: Mix | None,
) -> Load:
    """One try of `open_loop`."""
    before_s = server_cpu_s(client)
    heads, columns = _run_generators(jobs, seconds + warm_ns / 1e9, label)
    server_s = server_cpu_s(client) - before_s
    order = np.argsort(np.concatenate([each[0] for each in columns]), kind="stable")
    due, sent, done, flags = (
        np.concatenate([each[k] for each in columns])[order] for k in range(4)
    )
    missing = sum(head["requests"] - head["finished"] for head in heads)
    if missing:
        raise InvalidRun(
            f"{missing} of {requests} requests were not answered within {TIMEOUT_S:.0f} s."
        )
    counted = due >= warm_ns
    due, sent, done = (each[counted] - warm_ns for each in (due, sent, done))
    flags = flags[counted]
    lag = (sent - due)[flags & _generator.OWN > 0]
    found = Load(
        offered_per_s=len(due) / seconds,
        due=due,
        sent=sent,
        done=done,
        lag_ns=lag,
        errors=int((flags & _generator.FAILED > 0).sum()),
        generator_busy=max(head["cpu_s"] / (head["ns"] / 1e9) for head in heads),
        generator_idle=min(head["idle"] for head in heads),
        server_cpu_us=1e6 * server_s / requests,
        warm_up=int((~counted).sum()),
        connections=sum(job["connections"] for job in jobs),
        kinds=mix.kinds if mix else (),
        kind=mix.kinds_of(requests)[counted] if mix else None,
    )
    if why := find_generators_share(found):
        if found.generator_idle < IDLE and found.generator_busy >= BUSY:  # it had its core
            raise InvalidRun(f"{why} Use more processes or a lower rate.")
        found.doubt = NOT_MEASURED
        raise TooBusy(why, found)
    return found


def find_generators_share(found: Load) -> str:
    """A sentence, if the generator itself caused a large part of the reported times; else empty.

    Of the mean and of the median, at most a tenth may be the generator's own lag; a percentile that
    exceeds this is not reported. If the generator was never idle, the run has measured the
    generator.
    """
    if found.generator_idle < IDLE:
        return (
            f"The generator fell behind: {found.achieved_per_s:,.0f} a second were answered of "
            f"{found.offered_per_s:,.0f} offered, and it was idle for {found.generator_idle:.0%} "
            "of the time."
        )
    times = found.times_ns()
    shares = {
        "mean": float(found.lag_ns.sum()) / float(times.sum()),
        "median": found.lag_at_ns(50) / float(np.median(times)),
    }
    name, share = max(shares.items(), key=lambda item: item[1])
    if share <= LAG_SHARE:
        return ""
    return (
        f"The generator fell behind: {share:.0%} of the {name} response time is how late it sent "
        "requests that had a free connection."
    )


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

    A warm-up, a tenth of the time and at most 0.2 s, comes first and is not counted.

    Raises: InvalidRun when there were error replies; LabError for a command that cannot be sent.
    """
    if depth < 1 or seconds <= 0:
        raise LabError("Saturation needs a depth of at least one and a positive time.")
    warm_s = min(WARM_UP_S, seconds / 10)
    base = settings_for(client, command) | {
        "mode": "saturate",
        "depth": depth,
        "ns": int(seconds * 1e9),
        "warm_ns": int(warm_s * 1e9),
        "patience_ns": int(TIMEOUT_S * 1e9),
    }
    jobs = [{**base, "connections": share} for share in _split_connections(connections, processes)]
    before = server_cpu_s(client), time.perf_counter()
    heads, _ = _run_generators(jobs, seconds + warm_s, label)
    used, wall = server_cpu_s(client) - before[0], time.perf_counter() - before[1]
    if errors := sum(head["errors"] for head in heads):
        raise InvalidRun(f"{errors} batches of replies began with an error.")
    longest = max(head["ns"] for head in heads) / 1e9
    return Saturation(
        per_second=sum(head["requests"] / (head["ns"] / 1e9) for head in heads),
        # The server works only while the generators run, not while they start
        server_busy=min(used / min(longest + warm_s, wall), 1.0),
        generator_busy=max(head["cpu_s"] / (head["ns"] / 1e9) for head in heads),
    )


def _split_connections(connections: int, processes: int) -> list[int]:
    """How many connections each process gets. Raises: LabError where there are too few."""
    if processes < 1 or connections < processes:
        raise LabError("There must be at least one process, and a connection for each.")
    return [len(range(k, connections, processes)) for k in range(processes)]


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def settings_for(client: redis.Redis, command: Sequence[object]) -> dict[str, object]:
    """The address, the request and the length of a reply. Raises: LabError if the length varies."""
    if not command:
        raise LabError('Which command? open_loop(r, "GET", "key", …)')
    mix = command[0] if isinstance(command[0], Mix) else Mix(("",), [(0, tuple(command))], ONE_TURN)
    if isinstance(client, redis.RedisCluster):
        raise LabError("Load goes to one server; give a client of one node of the cluster.")
    if issubclass(first_primary(client).connection_pool.connection_class, redis.SSLConnection):
        raise LabError(
            "The load generator cannot use TLS. Give it a client of a server without TLS: redis://…"
        )
    for _, each in mix.commands:
        guard(client, each)
    where, greeting = get_endpoint(client), []
    if where.get("password"):
        greeting.append(["AUTH", where.get("username") or "default", where["password"]])
    if where.get("db"):
        greeting.append(["SELECT", where["db"]])
    settings = {
        "host": where.get("host"),
        "port": where.get("port"),
        "path": where.get("path"),
        "greeting": [to_base64(internals.pack_command(*line)) for line in greeting],
        "turns": to_base64(mix.turns.astype(np.int32).tobytes()),
    }
    lengths = {kind: _probe(settings, mix, kind) for kind in range(len(mix.kinds))}
    packed = [
        (to_base64(internals.pack_command(*each)), lengths[kind]) for kind, each in mix.commands
    ]
    return settings | {"requests": packed}


def _probe(settings: dict, mix: Mix, kind: int) -> int:
    """The length of a reply to this kind of command. Raises: LabError if it varies."""
    examples = [each for its_kind, each in mix.commands if its_kind == kind]
    lengths, sample = set(), b""
    try:
        with _generator.connected(settings) as probe:
            probe.settimeout(30)
            for command in (examples[0], examples[-1]):
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
        raise LabError(
            f"The server does not answer: {error}. Start it, or connect again."
        ) from error
    except SystemExit as refused:
        raise LabError(f"The server refuses the connection: {refused}") from None
    if sample.startswith(b"-"):
        raise LabError(f"The server refuses the command: {sample.splitlines()[0][1:].decode()}")
    if len(lengths) > 1:
        raise LabError(
            "The replies to this command differ in length, and the generator counts bytes. "
            "Choose one with replies of one length, such as GET of one key."
        )
    return lengths.pop()


def _run_generators(
    jobs: list[dict], seconds: float, label: str
) -> tuple[list[dict], list[list[np.ndarray]]]:
    """Run the generators together; returns their reports and samples."""
    generators: list[Child] = []
    try:
        for job in jobs:
            generators.append(Child("A load generator", GENERATOR, settings=job))
        for each in generators:
            each.wait_ready()
        start = time.monotonic_ns() + 50_000_000
        for each in generators:
            each.tell(str(start))
        for _ in show_progress(range(int(seconds * 10)), label, after_s=2.0):
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
