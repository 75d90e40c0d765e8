"""Closed-loop latency: how long does one call take, and is that one faster than this one?

`compare({name: callable, ...})` measures several ways of doing something ("arms") in one run.
What each precaution prevents:

- The arms take turns in short blocks, in random order, and ratios are taken between blocks of the
  same turn. (The machine drifts; measured one after the other, the slower arm can win.)
- Samples go as whole nanoseconds into a list that exists already, after each block into an int64
  array; percentiles and histograms are made at the end. (Filling a histogram costs more than the
  clock.)
- The garbage collector is frozen and off while measuring.
- Intervals come from resampling whole blocks. (Neighbouring samples resemble each other; taken
  one by one they would promise too much.)
- What each arm did is checked against the server's own count of commands, hits and misses.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from time import perf_counter_ns
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import psutil
import redis
from hdrh.histogram import HdrHistogram
from tqdm import tqdm

from .. import claims
from ..claims import NOT_MEASURED
from ..errors import LabError
from ..guest import guest_of
from ..nodes import first, primaries
from ..server import START_TIMEOUT_S, Server
from ..server import server as start_server
from ..wire import wire

FLOOR = "PING, bare socket"
BEYOND = 100  # samples that must lie beyond a percentile before it is reported
NOISY = 1.5  # an interval whose ends differ by more than this factor decides nothing
LONGEST_NS = 600_000_000_000


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds and blocks for each arm, resamples for each interval.

    A comparison with slow arms makes do with fewer blocks, down to `fewest_blocks`.
    """

    seconds: float
    blocks: int
    fewest_blocks: int
    resamples: int


EFFORTS = {"quick": Effort(0.04, 5, 3, 100), "full": Effort(1.0, 30, 8, 500)}


def effort_name(name: str | None = None) -> str:
    """`quick` (validation) or `full` (publication): as named, or from REDIS_LAB_EFFORT.

    Raises: LabError for any other word.
    """
    name = name or os.environ.get("REDIS_LAB_EFFORT", "quick")
    if name not in EFFORTS:
        raise LabError(f"REDIS_LAB_EFFORT={name} is none of {', '.join(EFFORTS)}.")
    return name


def effort() -> Effort:
    return EFFORTS[effort_name()]


@dataclass(frozen=True)
class Arm:
    """One way of doing the work.

    `units` is how many operations one call does. `client` is whose commands are counted, when it
    is not the comparison's. An arm whose commands differ from call to call says `steady=False`;
    one that may get nil replies says `may_miss=True`; both switch off the check that would fail.
    `columns` end up beside the arm in the table, such as `{"depth": 100}`.
    """

    call: Callable[[], object]
    units: int = 1
    client: redis.Redis | None = None
    steady: bool = True
    may_miss: bool = False
    columns: Mapping[str, object] = field(default_factory=dict)


class InvalidRun(LabError):
    """The run broke one of its own invariants, so its numbers mean nothing."""


class TooBusy(InvalidRun):
    """Other processes took so much of the machine that the times mean nothing.

    `found` is what was measured all the same; its counts hold, its times do not.
    """

    def __init__(self, why: str, found: object = None) -> None:
        super().__init__(why)
        self.found = found


TRIES = 3
CALM = 50.0  # percent of all cores in use, below which a measurement is tried again at once
CALM_WITHIN_S = 3.0
Measured = TypeVar("Measured")


def tried_again(measure: Callable[[], Measured], what: str) -> Measured:
    """What `measure` returns; while the machine is too busy it is called again, three times in all.

    Before each further try this waits until less than half of the machine is in use, for a few
    seconds at most. Under `redis-lab validate` a measurement that fails to the end does not stop
    the notebook: it is reported as not measured, and so are the claims that vary with times.

    Raises: TooBusy.
    """
    for left in reversed(range(TRIES)):
        try:
            return measure()
        except TooBusy as spoilt:
            if left:
                wait_until_calm()
            elif claims.not_measured(what, str(spoilt)):
                return cast(Measured, spoilt.found)
            else:
                raise TooBusy(
                    f"{what}: {NOT_MEASURED}. {spoilt} It was tried {TRIES} times. Close what else "
                    "is running and try again.",
                    spoilt.found,
                ) from None
    raise AssertionError("unreachable")


def busy() -> bool:
    """Whether more than half of the machine's cores are in use while this process waits."""
    return psutil.cpu_percent(interval=0.2) > CALM


def wait_until_calm() -> None:
    deadline = time.monotonic() + CALM_WITHIN_S
    while busy() and time.monotonic() < deadline:
        pass


def timed(call: Callable[[], object], out: list[int], clock: Callable = perf_counter_ns) -> None:
    """Fill `out` with the nanoseconds that each call took. The whole harness is this loop.

    `out` is a list made beforehand: storing into it is cheaper than into any array.
    """
    for i in range(len(out)):
        start = clock()
        call()
        out[i] = clock() - start


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def harness_ns(calls: int = 20_000) -> float:
    """What the loop itself adds to a block for each call, in nanoseconds (the fastest of five)."""
    out = [0] * calls
    walls = []
    for _ in range(5):
        start = perf_counter_ns()
        timed(int, out)
        walls.append((perf_counter_ns() - start) / calls)
    return min(walls)


# ---------------------------------------------------------------- what the server counted


def server_counts(clients: list[redis.Redis]) -> dict[str, Counter]:
    """Commands, hits and misses that each distinct server has counted so far, by its run id."""
    counts = {}
    for client in chain.from_iterable(map(primaries, clients)):
        info = client.info("everything")
        count = Counter(
            {name[8:].upper(): entry["calls"] for name, entry in info.items() if "cmdstat_" in name}
        )
        count["hits"], count["misses"] = info["keyspace_hits"], info["keyspace_misses"]
        del count["INFO"]
        counts[info["run_id"]] = count
    return counts


def difference(after: dict[str, Counter], before: dict[str, Counter]) -> dict[str, Counter]:
    return {
        server: Counter(
            {k: n - before[server][k] for k, n in count.items() if n != before[server][k]}
        )
        for server, count in after.items()
    }


def has_nil(reply: object) -> bool:
    return reply is None or (isinstance(reply, list) and any(item is None for item in reply))


class Watched:
    """One arm while it is measured: its samples and the counts it must explain."""

    def __init__(self, name: str, arm: Arm, client: redis.Redis | None) -> None:
        self.name, self.arm, self.client = name, arm, arm.client or client
        self.calls = 0
        self.took: list[int] = []
        self.counted: dict[str, Counter] = {}
        self.round_trips: int | None = None
        self.commands: int | None = None

    def call_once(self) -> None:
        """One call outside the measurement, its reply looked at."""
        start = perf_counter_ns()
        reply = self.arm.call()
        self.took.append(perf_counter_ns() - start)
        self.calls += 1
        if not self.arm.may_miss and self.client is not None and has_nil(reply):
            raise InvalidRun(f"{self.name}: a nil reply where a value was meant.")

    def learn(self) -> None:
        """One call under `wire` and between two looks at the server: what does a call do?"""
        self.call_once()  # the first call may load a script or open a connection
        if self.client is None:
            return
        before = server_counts([self.client])
        with wire(self.client) as counted:
            self.call_once()
        self.counted = difference(server_counts([self.client]), before)
        self.round_trips, self.commands = counted.round_trips, counted.commands

    def pace(self) -> float:
        """Nanoseconds a call takes, roughly: the median of a few, of fewer if it is slow."""
        while len(self.took) < 7 and sum(self.took) < 20_000_000:
            self.call_once()
        return max(float(np.median(self.took)), 1.0)


def compare(
    arms: Mapping[str, Callable[[], object] | Arm],
    *,
    client: redis.Redis | None = None,
    floor: bool = True,
    seconds: float | None = None,
    seed: int = 0,
    label: str = "measuring",
) -> Comparison:
    """Measure the arms against each other; one call of a callable is one sample.

    With a `client`, each arm's commands are counted and checked, and a PING over a bare socket to
    the same server is measured with them: the floor that no client can go below. `seconds` is the
    time for each arm; by default the effort decides. Ratios are against the first arm.

    A run that a busy machine spoils is repeated, three times in all.

    Raises: InvalidRun when the run broke an invariant, TooBusy among them; LabError for arms that
    make no sense.
    """
    if not arms:
        raise LabError("compare() needs at least one arm: compare({'GET': lambda: r.get('k')}).")
    wanted = {n: arm if isinstance(arm, Arm) else Arm(arm) for n, arm in arms.items()}
    for name, arm in wanted.items():
        if not callable(arm.call):
            raise LabError(f"The arm {name!r} is not callable; write lambda: r.get('k').")
    work = effort()
    seconds = work.seconds if seconds is None else seconds
    what = label if label != "measuring" else " and ".join(list(wanted)[:2])
    return tried_again(
        lambda: compared(wanted, client, floor, seconds, work, seed, label),
        what,
    )


def compared(
    arms: Mapping[str, Arm],
    client: redis.Redis | None,
    floor: bool,
    seconds: float,
    work: Effort,
    seed: int,
    label: str,
) -> Comparison:
    """One try of `compare`."""
    watched = [Watched(name, arm, client) for name, arm in arms.items()]
    with contextlib.ExitStack() as stack:
        if floor and client is not None and (ping := stack.enter_context(bare_ping(client))):
            watched.append(Watched(FLOOR, Arm(ping, steady=False), None))
        for each in watched:
            each.learn()
        paces = [each.pace() for each in watched]
        # Slow arms: fewer turns rather than minutes of them.
        affordable = int(4 * seconds * 1e9 * len(paces) / sum(paces))
        blocks = int(np.clip(affordable, work.fewest_blocks, work.blocks))
        samples = [
            np.zeros((blocks, int(np.clip(seconds * 1e9 / blocks / pace, 1, 2000))), dtype=np.int64)
            for pace in paces
        ]
        own = harness_ns()
        servers = [each.client for each in watched if each.client is not None]
        for each in watched:
            each.calls = 0  # from here on they must explain what the server counts
        before = server_counts(servers)
        walls = run_blocks(watched, samples, seed, label)
        moved = difference(server_counts(servers), before)
    check_counts(watched, moved)
    found = Comparison(watched, samples, own, work)
    if why := idle_between_calls(watched, samples, walls, own):
        found.doubt = NOT_MEASURED
        raise TooBusy(why, found)
    return found


def run_blocks(watched: list[Watched], samples: list, seed: int, label: str) -> list:
    """Let the arms take turns; return the nanoseconds of each arm's blocks, as a wall clock."""
    random = np.random.default_rng(seed)
    walls: list[list[int]] = [[] for _ in watched]
    blocks = len(samples[0])
    with quiet_collector():
        for block in tqdm(range(blocks), desc=label, leave=False, delay=1.0):
            for index in random.permutation(len(watched)):
                each, taken = watched[index], [0] * samples[index].shape[1]
                start = perf_counter_ns()
                timed(each.arm.call, taken)
                walls[index].append(perf_counter_ns() - start)
                samples[index][block] = taken
                each.calls += len(taken)
            for each in watched:
                if each.client is not None and block == blocks - 1:
                    each.call_once()
    return walls


def check_counts(watched: list[Watched], moved: dict[str, Counter]) -> None:
    """Each command the server counted must be explained by the calls that were made."""
    if not all(each.arm.steady for each in watched if each.client is not None):
        return
    if any(guest_of(each.client) for each in watched if each.client):
        return  # other people may use that server meanwhile
    expected: dict[str, Counter] = {server: Counter() for server in moved}
    for each in watched:
        for server, counts in each.counted.items():
            for name, count in counts.items():
                expected[server][name] += count * each.calls
    pings = sum(each.calls for each in watched if each.name == FLOOR)
    for server, counts in moved.items():
        if pings and counts["PING"]:
            expected[server]["PING"] += pings
        if counts != +expected[server]:
            raise InvalidRun(
                f"The server counted {dict(counts)}, the calls made explain "
                f"{dict(expected[server])}. Does something else use this server?"
            )
        may_miss = any(each.arm.may_miss for each in watched)
        if counts["misses"] and not may_miss:
            raise InvalidRun(
                f"{counts['misses']} reads missed where every key was meant to be there."
            )


def idle_between_calls(
    watched: list[Watched], samples: list, walls: list, own_ns: float
) -> str | None:
    """What breaks Little's law for one caller: throughput x mean latency must be one, or None."""
    for each, taken, wall in zip(watched, samples, walls, strict=True):
        idle = sum(wall) - int(taken.sum()) - taken.size * own_ns
        # A time slice or two of some other process may fall between two calls.
        if idle > 0.1 * sum(wall) + 20e6:
            return f"{each.name}: {idle / sum(wall):.0%} of the time passed between calls."
    return None


# ---------------------------------------------------------------- what came out


def block_interval(
    statistic: Callable[..., float], *samples: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of `statistic(*samples)`, resampling whole blocks (the arrays' first axis).

    Arrays are resampled together, so that a ratio stays paired. Source: the block bootstrap of
    Künsch (1989), its percentile interval. (`scipy.stats.bootstrap` does the same, and takes
    longer to import than a lesson takes to measure.)
    """
    blocks = len(samples[0])
    if blocks < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    found = [
        statistic(*(array[chosen].ravel() for array in samples))
        for chosen in random.integers(0, blocks, (resamples, blocks))
    ]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def verdict(low: float, high: float) -> str:
    """What an interval of a ratio of times allows to say."""
    if not (np.isfinite(low) and np.isfinite(high)) or (high > NOISY * low and low <= 1 <= high):
        return "too noisy to tell"
    if low <= 1 <= high:
        return "no difference seen"
    return (
        f"{low:.2f} to {high:.2f} × the time"
        if high >= 1
        else f"{1 / high:.2f} to {1 / low:.2f} × faster"
    )


class Comparison:
    """The samples of every arm, and the tables made from them."""

    doubt = ""  # why these times mean nothing, where they do not

    def __init__(self, watched: list[Watched], samples: list, own_ns: float, work: Effort) -> None:
        self.arms = {each.name: each for each in watched}
        self.samples = {each.name: s for each, s in zip(watched, samples, strict=True)}
        self.harness_ns = own_ns
        self.work = work

    def __getitem__(self, name: str) -> np.ndarray:
        """One arm's samples, in nanoseconds, one row a block."""
        return self.samples[name]

    def percentile_us(self, name: str, q: float) -> float | None:
        """A percentile in microseconds, or None with fewer than a hundred samples beyond it."""
        samples = self.samples[name]
        if q != 50 and round(samples.size * (1 - q / 100), 6) < BEYOND:
            return None
        return float(np.percentile(samples, q)) / 1e3

    def median_us(self, name: str) -> float:
        return float(np.median(self.samples[name])) / 1e3

    def ratio(self, slow: str, fast: str) -> float:
        """How many times longer `slow` takes than `fast`: the ratio of the medians."""
        return self.median_us(slow) / self.median_us(fast)

    def ratio_interval(self, slow: str, fast: str) -> tuple[float, float]:
        """The 95 % interval of `ratio`, its blocks paired."""
        return block_interval(
            lambda a, b: float(np.median(a) / np.median(b)),
            self.samples[slow],
            self.samples[fast],
            resamples=self.work.resamples,
        )

    def histogram(self, name: str) -> HdrHistogram:
        """An HDR histogram in nanoseconds, three digits; histograms of several runs add up."""
        histogram = HdrHistogram(1, LONGEST_NS, 3)
        values, counts = np.unique(self.samples[name], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not histogram.record_value(max(value, 1), count):
                raise InvalidRun(
                    f"{name}: a call took {value / 1e9:.0f} s, more than can be recorded."
                )
        return histogram

    def row(self, name: str, first: str) -> dict[str, object]:
        each, samples = self.arms[name], self.samples[name]
        low, high = block_interval(
            lambda s: float(np.median(s)), samples, resamples=self.work.resamples
        )
        row = {
            "arm": name,
            **each.arm.columns,
            "round_trips": each.round_trips,
            "commands": each.commands,
            "calls": samples.size,
            "units": each.arm.units,
            "p50_us": self.median_us(name),
            "p50_low_us": low / 1e3,
            "p50_high_us": high / 1e3,
            "mean_us": float(samples.mean()) / 1e3,
        }
        for column in ("p50", "p50_low", "p50_high"):
            each_unit = column.replace("p50", "per_unit")
            row[f"{each_unit}_us"] = row[f"{column}_us"] / each.arm.units
        row["p99_us"] = self.percentile_us(name, 99)
        p99 = (float("nan"),) * 2
        if row["p99_us"] is not None:
            p99 = block_interval(
                lambda s: float(np.percentile(s, 99)), samples, resamples=self.work.resamples
            )
        row["p99_low_us"], row["p99_high_us"] = (bound / 1e3 for bound in p99)
        ratio = (1.0, 1.0) if name == first else self.ratio_interval(name, first)
        row["ratio"] = self.ratio(name, first)
        row["ratio_low"], row["ratio_high"] = ratio
        row["verdict"] = "" if name == first else verdict(*ratio)
        row["block_medians_us"] = [round(float(m) / 1e3, 4) for m in np.median(samples, axis=1)]
        return row

    @cached_property
    def rows(self) -> list[dict[str, object]]:
        """One dictionary an arm, the first arm being what the ratios are against."""
        first = next(iter(self.arms))
        return [self.row(name, first) for name in self.arms]

    def table(self) -> pd.DataFrame:
        """The arms, as people read them: medians and p99 in microseconds with their intervals."""
        frame = pd.DataFrame(self.rows).set_index("arm")
        shown = pd.DataFrame(index=frame.index)
        for column in ("round_trips", "calls"):
            shown[column.replace("_", " ")] = frame[column].astype("Int64")
        for q in ("p50", "p99"):
            shown[f"{q} µs"] = [
                "–" if pd.isna(v) else f"{v:,.1f}  [{lo:,.1f}, {hi:,.1f}]"
                for v, lo, hi in frame[[f"{q}_us", f"{q}_low_us", f"{q}_high_us"]].to_numpy(float)
            ]
        shown["against the first"] = frame["verdict"]
        return shown

    def _repr_html_(self) -> str:
        note = (
            f"Intervals: 95 %, from resampled blocks. The harness itself costs "
            f"{self.harness_ns:.0f} ns a call; it is not subtracted."
        )
        note = f"<b>{self.doubt}</b> {note}" if self.doubt else note
        return self.table().to_html(border=0) + f"<small>{note}</small>"

    def __repr__(self) -> str:
        return self.table().to_string() + (f"\n{self.doubt}" if self.doubt else "")


# ---------------------------------------------------------------- one by one and pipelined

Command = Callable[[object, int], object]


def three_arms(client: redis.Redis, command: Command, depth: int, **columns: object) -> dict:
    """The same `depth` commands as a loop, as a plain pipeline and as MULTI/EXEC.

    `command(target, i)` sends the i-th command to a client or queues it on a pipeline:
    `lambda target, i: target.get(f"stock:{i}")`.
    """
    if depth < 1:
        raise LabError("A pipeline has at least one command in it.")

    def loop() -> list:
        return [command(client, i) for i in range(depth)]

    def pipelined(transaction: bool) -> Callable[[], list]:
        def call() -> list:
            with client.pipeline(transaction=transaction) as pipe:
                for i in range(depth):
                    command(pipe, i)
                return pipe.execute()

        return call

    calls = {"loop": loop, "pipeline": pipelined(False), "MULTI/EXEC": pipelined(True)}
    columns = {"depth": depth, **columns}
    return {name: Arm(call, units=depth, columns=columns) for name, call in calls.items()}


def pipelines(
    client: redis.Redis,
    command: Command,
    depths: Sequence[int],
    *,
    variadic: Callable[[int], object] | None = None,
    longest_loop_s: float = 0.1,
    seconds: float | None = None,
    label: str = "",
    **columns: object,
) -> list[dict]:
    """Measure the three arms at each depth; rows as of `compare`, a row for each arm and depth.

    `variadic(n)` is a fourth way that asks for n things in one command, such as MGET. A loop that
    would take longer than `longest_loop_s` a turn is left out. `columns` are added to each row.
    """
    rows, one_s = [], None
    for depth in depths:
        arms = three_arms(client, command, depth, **columns)
        if variadic is not None:
            call = partial(variadic, depth)
            arms["variadic"] = Arm(call, units=depth, columns={"depth": depth, **columns})
        if one_s and one_s * depth > longest_loop_s:
            del arms["loop"]
        label = label or "pipelines"
        measured = compare(
            arms, client=client, floor=False, seconds=seconds, label=f"{label}, {depth} deep"
        )
        if depth == depths[0]:
            one_s = measured.median_us("loop") / depth / 1e6
        rows += measured.rows
    return rows


def footprint(client: redis.Redis, call: Callable[[], object]) -> dict[str, float]:
    """What one call needs at both ends: `seconds`, `client_mb` and `server_mb`.

    Memory is how far the call raised the peak: resident memory of this process, used memory of
    the server. Both peaks only rise, so measure the small case first, each on a fresh server.
    """
    server_before = client.info("memory")["used_memory_peak"]
    client_before = peak_resident_bytes()
    start = perf_counter_ns()
    call()
    seconds = (perf_counter_ns() - start) / 1e9
    return {
        "seconds": seconds,
        "client_mb": (peak_resident_bytes() - client_before) / 1e6,
        "server_mb": (client.info("memory")["used_memory_peak"] - server_before) / 1e6,
    }


def peak_resident_bytes() -> int:
    """The most memory this process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        memory: Any = psutil.Process().memory_info()
        return memory.peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ---------------------------------------------------------------- calibration


def endpoint(client: redis.Redis) -> dict[str, Any]:
    """The pool's host, port, path, username and password."""
    kwargs = first(client).connection_pool.connection_kwargs
    return kwargs if kwargs.get("path") else {"host": "localhost", "port": 6379, **kwargs}


@contextlib.contextmanager
def bare_ping(client: redis.Redis) -> Iterator[Callable[[], object] | None]:
    """A callable that sends PING and reads the reply on a bare socket; None over TLS."""
    where = endpoint(client)
    if issubclass(first(client).connection_pool.connection_class, redis.SSLConnection):
        yield None
        return
    if where.get("path"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(where["path"])
    else:
        connection = socket.create_connection((where["host"], where["port"]), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        if where.get("password"):
            parts = [b"AUTH", (where.get("username") or "default").encode()]
            parts.append(str(where["password"]).encode())
            packed = b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
            connection.sendall(b"*3\r\n" + packed)
            connection.recv(64)
        send, receive = connection.sendall, connection.recv
        ping = b"*1\r\n$4\r\nPING\r\n"

        def call() -> bytes:
            send(ping)
            return receive(64)

        if call() != b"+PONG\r\n":
            raise InvalidRun("The bare socket's PING was not answered with PONG.")
        yield call


def redis_benchmark(
    client: redis.Redis, *command: str, depth: int = 1, connections: int = 1, requests: int = 10_000
) -> dict[str, float] | None:
    """The same command by redis-benchmark, written in C; None when it is not on PATH.

    None as well over TLS, and for a server with a password: it would take that only on its command
    line, where everyone on the machine can read it.

    Returns `per_second` and, for one connection at depth 1 only, `p50_us` and `p99_us` (with many
    connections it leaves out its own event loop's wait). The keys must be there already, or it
    times nil replies.
    """
    binary = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    where = endpoint(client)
    tls = issubclass(first(client).connection_pool.connection_class, redis.SSLConnection)
    if binary is None or tls or where.get("password"):
        return None
    to = ["-s", where["path"]] if where.get("path") else ["-h", where["host"], "-p", where["port"]]
    settings = ["--csv", "-n", requests, "-c", connections, "-P", depth]
    settings += ["--dbnum", where.get("db") or 0]
    said = subprocess.run(
        [binary, *map(str, [*to, *settings]), *command],
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows = list(csv.DictReader(said.stdout.splitlines()))
    if said.returncode or not rows:
        raise LabError(f"redis-benchmark failed: {(said.stderr or said.stdout).strip()[:200]}")
    found = {"per_second": float(rows[0]["rps"])}
    if connections == depth == 1:
        found["p50_us"] = float(rows[0]["p50_latency_ms"]) * 1e3
        found["p99_us"] = float(rows[0]["p99_latency_ms"]) * 1e3
    return found


def growth(write: Callable[[redis.Redis], object]) -> int:
    """By how many bytes a server of the lab's own grows when `write` writes with a client of it.

    MEMORY USAGE leaves out what belongs to no key: the table of all keys, and that of their times
    to live. Here they count; clients' buffers and statistics of commands do not.
    """
    with start_server(latency_tracking=False) as own:
        before = _used_memory(own)
        with own.client() as writer:
            write(writer)
        return _used_memory(own) - before


def _used_memory(own: Server) -> int:
    """What a server takes in bytes, with one new client, whose buffers are always alike."""
    deadline_ns = perf_counter_ns() + START_TIMEOUT_S * 1e9
    with own.client() as counter:
        while counter.info("clients")["connected_clients"] > 1:
            if perf_counter_ns() > deadline_ns:
                raise LabError("A client that wrote is still connected: close it.")
        return int(counter.info("memory")["used_memory"])
