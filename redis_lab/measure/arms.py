"""An arm of a comparison, and its run: the function, how long it takes, and what a call does."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np
import redis
import redis.asyncio

from ..errors import LabError
from ..wiretap import wire
from .counts import has_nil, read_counts, subtract_counts
from .event_loop import run_async
from .validity import InvalidRun

OTHER_LOOP = re.compile("different loop|loop is closed")
Client = redis.Redis | redis.RedisCluster | redis.asyncio.Redis


@dataclass(frozen=True)
class Arm:
    """One way of doing the work.

    `call` is a function, or for asyncio a coroutine function (or a function that returns a
    coroutine). `units` is how many operations one call does. `client` is the client whose commands
    are counted, if it is not the comparison's. An arm whose commands differ from call to call says
    `steady=False`; one that may get nil replies says `may_miss=True`; each switches off the check
    that would fail. `columns` are added to the arm's row of the table, such as `{"depth": 100}`.

    `setup(calls)` runs untimed before each block, and gets the block's number of calls, for example
    because LPOP needs something to pop: `setup=lambda calls: r.rpush("jobs", *range(calls))`.
    """

    call: Callable[[], object]
    units: int = 1
    client: Client | None = None
    steady: bool = True
    may_miss: bool = False
    columns: Mapping[str, object] = field(default_factory=dict)
    setup: Callable[[int], object] | None = None


def time_calls(
    call: Callable[[], object], out: list[int], clock: Callable[[], int] = perf_counter_ns
) -> None:
    """Fill `out` with the nanoseconds that each call took. This loop is the whole harness. `out` is
    a preallocated list, because storing into a list is faster than into any array.
    """
    for i in range(len(out)):
        start = clock()
        call()
        out[i] = clock() - start


async def time_async_calls(call: Callable[[], Any], out: list[int]) -> int:
    """The same for a coroutine function; returns the nanoseconds that all calls took together."""
    clock = perf_counter_ns
    begin = clock()
    for i in range(len(out)):
        start = clock()
        await call()
        out[i] = clock() - start
    return clock() - begin


class ArmRun:
    """One arm while it is measured: its samples, and the counts that its calls must explain."""

    def __init__(self, name: str, arm: Arm, client: Any) -> None:
        self.name, self.arm = name, arm
        self.client: Any = arm.client or client
        self.servers: Sequence[Any] = [] if self.client is None else [self.client]
        self.is_async = inspect.iscoroutinefunction(arm.call)
        self.calls = 0
        self.took: list[int] = []
        self.counted: dict[str, Counter] = {}
        self.setup_counted: list[dict[str, Counter]] = []
        self.round_trips: int | None = None
        self.commands: int | None = None

    @contextlib.contextmanager
    def noted(self, what: str = "arm") -> Iterator[None]:
        """Add the name of the arm to an exception."""
        try:
            yield
        except Exception as error:
            if self.is_async and isinstance(error, RuntimeError) and OTHER_LOOP.search(str(error)):
                raise LabError(
                    f"The client of the asynchronous arm {self.name!r} was used on another event "
                    "loop before. Give the arm a client of its own, and use that client outside "
                    "of the comparison through bench.run_async(...) only."
                ) from error
            error.add_note(f"{what} {self.name!r}")
            raise

    def prepare(self, calls: int) -> None:
        """Run the arm's setup for `calls` calls, and record what the servers counted for it."""
        if self.arm.setup is None:
            return
        before = read_counts(self.servers)
        with self.noted("setup of arm"):
            done = self.arm.setup(calls)
            if inspect.isawaitable(done):
                run_async(done)
        self.setup_counted.append(subtract_counts(read_counts(self.servers), before))

    def call_once(self) -> None:
        """One call outside the measurement, its reply checked."""
        with self.noted():
            start = perf_counter_ns()
            reply = run_async(self._await_once()) if self.is_async else self.arm.call()
            took = perf_counter_ns() - start
            if not self.is_async and inspect.isawaitable(reply):
                self.is_async = True
                reply = run_async(reply)
                took = perf_counter_ns() - start
        self.took.append(took)
        self.calls += 1
        if not self.arm.may_miss and self.client is not None and has_nil(reply):
            raise InvalidRun(
                f"{self.name}: a nil reply where a value was expected. If that is intended, "
                "or if there is no reply to return: Arm(call, may_miss=True)."
            )

    async def _await_once(self) -> object:
        reply: Any = self.arm.call()
        return await reply

    def inspect_call(self) -> None:
        """One call under `wire`, between two readings of the server's counts, to analyse it."""
        self.prepare(1)
        self.call_once()  # the first call may load a script or open a connection
        if self.client is None:
            return
        self.prepare(1)
        before = read_counts([self.client])
        with wire(self.client) as counted:
            self.call_once()
        self.counted = subtract_counts(read_counts([self.client]), before)
        if self.is_async and not isinstance(self.client, redis.asyncio.Redis):
            return  # its commands go through another client than the watched one
        self.round_trips, self.commands = counted.round_trips, counted.commands

    def estimate_pace_ns(self) -> float:
        """Roughly how many nanoseconds a call takes: the median of a few calls, of fewer if it is
        slow.
        """
        while len(self.took) < 7 and sum(self.took) < 20_000_000:
            self.prepare(1)
            self.call_once()
        return max(float(np.median(self.took)), 1.0)

    def start_measuring(self, servers: Sequence[Any]) -> None:
        """Start counting: from now on the arm's calls must explain what these servers count."""
        self.calls, self.setup_counted, self.servers = 0, [], servers
