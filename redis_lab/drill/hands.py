"""One client at work, whose calls are recorded; and `Play`, how a kind of class is played."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import redis
from redis.exceptions import RedisClusterException

from ..errors import LabError
from .contracts import Target
from .history import Op
from .ledger import Ledger

__all__ = ["Finding", "Hands", "History", "Play", "Scenario"]

REDIS_ERRORS = (redis.RedisError, RedisClusterException)


class Hands:
    """A client with its own instance of the class; `made` is that instance."""

    def __init__(
        self,
        who: str,
        target: Target,
        client: Any,
        ledger: Ledger,
        luck: random.Random,
        record: Callable[[Op], object],
    ) -> None:
        self.who, self.target, self.client, self.ledger = who, target, client, ledger
        self.luck, self.record = luck, record
        self.serial = 0
        self.made: Any = None
        self.so_far: Callable[[], list[Op]] = list  # the operations of all clients so far

    def call(
        self,
        name: str,
        key: str,
        function: Callable[[], Any],
        *,
        value: Any = None,
        strict: bool = False,
        plain: Callable[[Any], Any] = lambda result: result,
    ) -> Op:
        """Call and record. `strict`: Redis's own errors count as unexpected. `plain` converts the
        result to JSON. The operation's `raw` is the result itself.
        """
        op = Op(self.who, name, key, time.monotonic(), value=value)
        self.record(op)
        self.begins(op)
        raw = None
        try:
            raw = function()
            op.result = plain(raw)
        except Exception as error:
            op.error = f"{type(error).__name__}: {error}"[:200]
            fine = self.target.errors if strict else (*self.target.errors, *REDIS_ERRORS)
            op.away = isinstance(error, REDIS_ERRORS)
            op.unexpected = not isinstance(error, fine)
        op.end = time.monotonic()
        self.record(op)
        op.raw = raw  # type: ignore[attr-defined]
        return op

    def begins(self, op: Op) -> None:
        """Called before each call."""

    def pause(self, longest_s: float = 0.004) -> None:
        """Pause for a moment, so that other clients can act."""
        time.sleep(self.luck.uniform(0, longest_s))

    def point(self, text: str, function: Callable[[], Any]) -> Any:
        """Do something outside Redis; other clients can act before it."""
        return function()

    def fresh(self, prefix: str) -> str:
        """A name that was not used before."""
        self.serial += 1
        return f"{prefix}-{self.who}-{self.serial}"

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Call it until it returns True, for a limited time."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@dataclass
class History:
    """The record of one run, to be judged."""

    target: Target
    ops: list[Op]
    ledger: Ledger
    without_ttl: list[str] = field(default_factory=list)
    keys: int = 0  # in Redis, at the end

    def named(self, *names: str) -> list[Op]:
        """The operations of these names."""
        return [op for op in self.ops if op.name in names]


@dataclass
class Finding:
    """How often a promise was broken, out of how many, and the operations that show it.

    Where the count is a measure (see contracts.Promise), `over` says whether it is too much.
    """

    promise: str
    count: float
    of: int
    seen: Sequence[Op] = ()
    over: bool | None = None

    @property
    def broken(self) -> bool:
        """Whether the promise was broken."""
        return bool(self.count) if self.over is None else self.over


@dataclass(frozen=True)
class Scenario:
    """A few clients that are played against each other step by step.

    `modes`: "interleave" them in every order; let the first one "die" at each step, or "lose" the
    reply to each of its steps, "lapse": stand still there for longer than its lease, or have a
    "clock" that jumps there, by an hour ahead or back.
    """

    name: str
    actors: dict[str, Callable[[Hands], object]]
    modes: tuple[str, ...] = ("interleave",)
    before: Callable[[Hands], object] | None = None
    after: Callable[[Hands], object] | None = None


class Play:
    """How a kind of class is played and judged; one subclass for each kind."""

    kind: ClassVar[str]
    scenarios: ClassVar[list[Scenario]]

    def make(self, hands: Hands) -> Any:
        """An instance of the class for this client."""
        return hands.target.make(hands.client)

    def build(self, hands: Hands) -> None:
        """Give the client its instance. Raises: LabError if the adapter fails."""
        try:
            hands.made = self.make(hands)
        except Exception as error:
            raise LabError(
                f"{hands.target} cannot be made with a client: {type(error).__name__}: {error}"
            ) from error

    def turn(self, hands: Hands, calm: bool) -> None:
        """A random action of a client; `calm` while there are no faults."""
        raise NotImplementedError

    def drain(self, hands: Hands) -> None:
        """What the workers do after the faults: nothing, unless there is work left."""
        time.sleep(0.02)

    def settle(self, hands: Hands) -> None:
        """After the faults: check that the class still makes progress. If not, records an operation
        "hung".
        """

    def judge(self, history: History) -> list[Finding]:
        """The verdict of the history on each promise of the kind."""
        raise NotImplementedError

    def common(self, history: History) -> list[Finding]:
        """The verdict on the promises that all kinds make."""
        ended = [op for op in history.ops if op.end < float("inf")]
        tried = history.named("hung")
        hung = [op for op in tried if op.result]
        wrong = [op for op in ended if op.unexpected]
        kept = [Op("server", "key", key, 0, 0, result="no TTL") for key in history.without_ttl]
        return [
            Finding("hung", round(max((op.result for op in hung), default=0), 1), len(tried), hung),
            Finding("errors not in the contract", len(wrong), len(ended), wrong[:2]),
            Finding("keys without TTL", len(kept), history.keys, kept[:5]),
        ]

    def gets_on(self, hands: Hands, key: str, done: Callable[[], bool]) -> None:
        """Record for how long there was no progress: 0 if less than the target's limit."""
        start = time.monotonic()
        hung = not hands.until(done, hands.target.patience_s)
        took = round(time.monotonic() - start, 1) if hung else 0
        hands.record(Op(hands.who, "hung", key, start, time.monotonic(), result=took))
