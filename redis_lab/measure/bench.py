"""Closed-loop latency: how long does one call take, and which of several calls is faster?

`compare({name: callable, ...})` measures several ways of doing something ("arms") in one run.
What each precaution prevents:

- The arms take turns in short blocks, in random order, and ratios are taken between blocks of the
  same turn. (The machine's speed drifts: if arms are measured one after the other, the slower arm
  can win.)
- Samples go as whole nanoseconds into a preallocated list, after each block into an int64
  array; percentiles and histograms are computed at the end. (Filling a histogram costs more than
  reading the clock.)
- The garbage collector is frozen and off while measuring.
- Intervals come from resampling whole blocks. (Neighbouring samples are similar; resampling single
  samples would give intervals that are too narrow.)
- The work of each arm is checked against the server's own counts of commands, hits and misses.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter_ns

import numpy as np
import redis
import redis.asyncio

from ..claims import NOT_MEASURED
from ..errors import LabError
from ..servers.guest import guest_of
from .arms import Arm, ArmRun, time_async_calls, time_calls
from .baseline import BASELINE, bare_ping, redis_benchmark
from .comparison import Comparison
from .counts import read_counts, subtract_counts
from .effort import EFFORTS, Effort, effort, effort_name
from .event_loop import run_async
from .memory import footprint, growth, peak_resident_bytes
from .progress import show_progress
from .stats import block_interval, judge_ratio
from .validity import InvalidRun, TooBusy, retry_while_busy

__all__ = [
    "BASELINE",
    "EFFORTS",
    "FLOOR",
    "Arm",
    "Comparison",
    "Effort",
    "InvalidRun",
    "TooBusy",
    "block_interval",
    "compare",
    "effort",
    "effort_name",
    "footprint",
    "growth",
    "judge_ratio",
    "peak_resident_bytes",
    "pipelines",
    "redis_benchmark",
    "run_async",
    "three_arms",
]

FLOOR = BASELINE  # its former name


def __dir__() -> list[str]:
    return __all__


def compare(
    arms: Mapping[str, Callable[[], object] | Arm],
    *,
    client: redis.Redis | redis.RedisCluster | None = None,
    baseline: bool = True,
    floor: bool | None = None,
    seconds: float | None = None,
    seed: int = 0,
    label: str = "measuring",
    setup: Callable[[int], object] | None = None,
    reference: str | None = None,
    effort: str | None = None,
) -> Comparison:
    """Measure the arms against each other; one call of a callable is one sample.

    With a `client`, each arm's commands are counted and checked, and a PING over a bare socket to
    the same server is measured with them, unless `baseline=False`: no client can be faster.

    - `seconds` is the time for each arm; by default the `effort` decides, "quick" or "full", which
      itself is by default that of the environment variable REDIS_LAB_EFFORT.
    - `setup(calls)` runs untimed before each block of every arm, and gets the number of calls in
      it: `setup=lambda calls: r.rpush("jobs", *range(calls))`. An `Arm` may have its own.
    - `reference` is the arm that the others are compared with; by default the first.
    - Coroutine functions are awaited, one call after the other, on one event loop in a separate
      thread; the time of a pass through the loop is measured and reported with the result. Their
      client must not have been used on another loop (see `run_async`).

    `floor` is the former name of `baseline`. If a busy machine makes a run invalid, the run is
    repeated, up to three times in all.

    Raises: InvalidRun when the run broke an invariant (TooBusy, a kind of it, on a busy machine);
    LabError for invalid arms, an unknown effort or reference.
    """
    if not arms:
        raise LabError("compare() needs at least one arm: compare({'GET': lambda: r.get('k')}).")
    wanted = {n: arm if isinstance(arm, Arm) else Arm(arm) for n, arm in arms.items()}
    for name, arm in wanted.items():
        if not callable(arm.call):
            raise LabError(f"The arm {name!r} is not callable; write lambda: r.get('k').")
        if setup is not None and arm.setup is None:
            wanted[name] = replace(arm, setup=setup)
    if reference is not None and reference not in wanted:
        raise LabError(f"There is no arm {reference!r} to compare with: {', '.join(wanted)}.")
    for each in (client, *(arm.client for arm in wanted.values())):
        if isinstance(each, redis.asyncio.RedisCluster):
            raise LabError("A cluster's asynchronous client cannot be counted; give no client.")
    if isinstance(client, redis.asyncio.Redis):
        raise LabError("An asynchronous client belongs to its arm: Arm(call, client=…).")
    name = effort_name(effort)
    work = EFFORTS[name]
    what = label if label != "measuring" else " and ".join(list(wanted)[:2])
    return retry_while_busy(
        lambda: _compare_once(
            wanted,
            client,
            baseline if floor is None else floor,
            work.seconds if seconds is None else seconds,
            name,
            seed,
            label,
            reference,
        ),
        what,
    )


def _compare_once(
    arms: Mapping[str, Arm],
    client: redis.Redis | redis.RedisCluster | None,
    baseline: bool,
    seconds: float,
    effort: str,
    seed: int,
    label: str,
    reference: str | None,
) -> Comparison:
    """One try of `compare`."""
    work = EFFORTS[effort]
    runs = [ArmRun(name, arm, client) for name, arm in arms.items()]
    with contextlib.ExitStack() as stack:
        if baseline and client is not None and (ping := stack.enter_context(bare_ping(client))):
            runs.append(ArmRun(BASELINE, Arm(ping, steady=False), None))
        for each in runs:
            each.inspect_call()
        paces = [each.estimate_pace_ns() for each in runs]
        # For slow arms use fewer turns, so that they do not take minutes.
        affordable = int(4 * seconds * 1e9 * len(paces) / sum(paces))
        blocks = int(np.clip(affordable, work.fewest_blocks, work.blocks))
        samples = [
            np.zeros((blocks, int(np.clip(seconds * 1e9 / blocks / pace, 1, 2000))), dtype=np.int64)
            for pace in paces
        ]
        own_ns = measure_harness_ns()
        loop_ns = measure_loop_ns() if any(each.is_async for each in runs) else None
        clients = [each.client for each in runs if each.client is not None]
        servers = list({id(each): each for each in clients}.values())
        for each in runs:
            each.start_measuring(servers)
        before = read_counts(servers)
        walls = run_blocks(runs, samples, seed, label)
        moved = subtract_counts(read_counts(servers), before)
    check_counts(runs, moved)
    found = Comparison(
        runs, samples, own_ns, effort=effort, reference=reference, loop_ns=loop_ns, client=client
    )
    if why := find_idle_time(runs, samples, walls, own_ns):
        found.doubt = NOT_MEASURED
        raise TooBusy(why, found)
    return found


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


def measure_harness_ns(calls: int = 20_000) -> float:
    """The time that the measuring loop itself adds to each call, in nanoseconds (the fastest of
    five).
    """
    out = [0] * calls
    walls = []
    for _ in range(5):
        start = perf_counter_ns()
        time_calls(int, out)
        walls.append((perf_counter_ns() - start) / calls)
    return min(walls)


def measure_loop_ns(passes: int = 2_000) -> float:
    """The time of one pass through the event loop, in nanoseconds (the fastest of five)."""
    out = [0] * passes
    return (
        min(run_async(time_async_calls(partial(asyncio.sleep, 0), out)) for _ in range(5)) / passes
    )


def run_blocks(
    runs: Sequence[ArmRun], samples: Sequence[np.ndarray], seed: int, label: str
) -> list[list[int]]:
    """Let the arms take turns; return the wall-clock nanoseconds of each arm's blocks."""
    random = np.random.default_rng(seed)
    walls: list[list[int]] = [[] for _ in runs]
    blocks = len(samples[0])
    with quiet_collector():
        for block in show_progress(range(blocks), label):
            for index in random.permutation(len(runs)):
                each, taken = runs[index], [0] * samples[index].shape[1]
                each.prepare(len(taken))
                with each.noted():
                    if each.is_async:
                        walls[index].append(run_async(time_async_calls(each.arm.call, taken)))
                    else:
                        start = perf_counter_ns()
                        time_calls(each.arm.call, taken)
                        walls[index].append(perf_counter_ns() - start)
                samples[index][block] = taken
                each.calls += len(taken)
            for each in runs:
                if each.client is not None and block == blocks - 1:
                    each.prepare(1)
                    each.call_once()
    return walls


def check_counts(runs: Sequence[ArmRun], moved: Mapping[str, Counter]) -> None:
    """Each command the server counted must be explained by the calls that were made.

    Raises: InvalidRun.
    """
    if not all(each.arm.steady for each in runs if each.client is not None):
        return
    if any(guest_of(each.client) for each in runs if each.client):
        return  # others may use that server at the same time
    expected: dict[str, Counter] = {server: Counter() for server in moved}
    for each in runs:
        for server, counts in each.counted.items():
            for name, count in counts.items():
                expected[server][name] += count * each.calls
        for noted in each.setup_counted:
            for server, counts in noted.items():
                expected[server].update(counts)
    pings = sum(each.calls for each in runs if each.name == BASELINE)
    may_miss = any(each.arm.may_miss for each in runs)
    for server, counts in moved.items():
        if pings and counts["PING"]:
            expected[server]["PING"] += pings
        if counts != +expected[server]:
            raise InvalidRun(
                f"The server counted {dict(counts)}, the calls made explain "
                f"{dict(expected[server])}. Does something else use this server?"
            )
        in_setup = sum(noted[server]["misses"] for each in runs for noted in each.setup_counted)
        if counts["misses"] > in_setup and not may_miss:
            raise InvalidRun(
                f"{counts['misses'] - in_setup} reads missed where every key should exist."
            )


def find_idle_time(
    runs: Sequence[ArmRun],
    samples: Sequence[np.ndarray],
    walls: Sequence[Sequence[int]],
    own_ns: float,
) -> str | None:
    """Check Little's law for one caller: throughput × mean latency must be one. Returns the breach,
    or None.
    """
    for each, taken, wall in zip(runs, samples, walls, strict=True):
        idle = sum(wall) - int(taken.sum()) - taken.size * own_ns
        # One or two time slices of another process may fall between two calls.
        if idle > 0.1 * sum(wall) + 20e6:
            return f"{each.name}: {idle / sum(wall):.0%} of the time passed between calls."
    return None


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
    effort: str | None = None,
    label: str = "",
    **columns: object,
) -> list[dict]:
    """Measure the three arms at each depth; rows as of `compare`, a row for each arm and depth.

    `variadic(n)` is a fourth arm that requests n values with one command, such as MGET. A loop that
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
        measured = compare(
            arms,
            client=client,
            baseline=False,
            seconds=seconds,
            effort=effort,
            label=f"{label or 'pipelines'}, {depth} deep",
        )
        if depth == depths[0]:
            one_s = measured.median_us("loop") / depth / 1e6
        rows += measured.rows
    return rows
