"""One client at work: what it calls is recorded. How a kind of class is played is a `Play`."""

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
        self.so_far: Callable[[], list[Op]] = list  # what all clients have done up to now

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
        """Call and record. `strict`: Redis's own errors are no excuse. `plain` makes it JSON.

        The operation's `raw` is what came back.
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
        """A call is about to be made."""

    def pause(self, longest_s: float = 0.004) -> None:
        """Take a moment, so that others may come between."""
        time.sleep(self.luck.uniform(0, longest_s))

    def point(self, text: str, function: Callable[[], Any]) -> Any:
        """Do something outside Redis: a place at which others may come between."""
        return function()

    def fresh(self, prefix: str) -> str:
        """A name that nobody has used."""
        self.serial += 1
        return f"{prefix}-{self.who}-{self.serial}"

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Try until it says True, for so long."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@dataclass
class History:
    """What happened in one run, to be judged."""

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
    """How a kind of class is played with and judged; one subclass a kind."""

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
        """Something that a client may do, by chance; `calm` while nothing else goes wrong."""
        raise NotImplementedError

    def drain(self, hands: Hands) -> None:
        """What the workers do when all faults are over: nothing, unless there is work left."""
        time.sleep(0.02)

    def settle(self, hands: Hands) -> None:
        """After all faults: see whether it still gets on. Records an operation "hung" if not."""

    def judge(self, history: History) -> list[Finding]:
        """What the history says of each promise of the kind."""
        raise NotImplementedError

    def common(self, history: History) -> list[Finding]:
        """The promises that all kinds make."""
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
        """Record for how long nothing got on: 0 if it did within the target's limit."""
        start = time.monotonic()
        hung = not hands.until(done, hands.target.patience_s)
        took = round(time.monotonic() - start, 1) if hung else 0
        hands.record(Op(hands.who, "hung", key, start, time.monotonic(), result=took))
