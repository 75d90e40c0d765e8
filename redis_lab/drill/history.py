"""What clients did and when, and whether one order of the operations explains every answer.

`linearizable` is the algorithm of Wing and Gong with Lowe's cache of states already tried. It
searches for an order of the operations that agrees with real time and that a model accepts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "FifoQueue",
    "Model",
    "Mutex",
    "Op",
    "Register",
    "linearizable",
    "read_history",
]

EVER = math.inf


@dataclass
class Op:
    """One call of one client. Times are seconds of this machine's monotonic clock.

    `end` is infinite if the call never returned: it may have taken effect, or not. `value` is the
    argument, `result` the return value, `error` the exception; `unexpected` if the contract does
    not name the exception, `away` if Redis itself raised it.
    """

    who: str
    name: str
    key: str
    start: float
    end: float = EVER
    value: Any = None
    result: Any = None
    error: str | None = None
    unexpected: bool = False
    away: bool = False

    @property
    def ok(self) -> bool:
        """Whether it returned, without an exception."""
        return self.end < EVER and self.error is None

    def __str__(self) -> str:
        given = ", ".join(str(part) for part in (self.key, self.value) if part not in (None, ""))
        if self.start == self.end:  # not a call, but an observation
            return f"{self.name}({given}): {self.result}"
        if self.end == EVER:
            return f"{self.name}({given}) never returned"
        came = f"raised {self.error}" if self.error else f"returned {self.result}"
        return f"{self.name}({given}) {came}"


def read_history(files: Iterable[Path]) -> list[Op]:
    """The operations that workers recorded, ordered by their beginnings.

    A call has one line for its beginning and one for its return. A killed worker may have left an
    incomplete line.
    """
    found: dict[tuple[str, int], Op] = {}
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            try:
                number, entry = json.loads(line)
            except ValueError:
                continue
            at = (file.name, number)
            found[at] = Op(**({**asdict(found[at]), **entry} if at in found else entry))
    return sorted(found.values(), key=lambda op: op.start)


class Model(Protocol):
    """The behaviour of a sequential object. States are hashable."""

    initial: Any

    def step(self, state: Any, op: Op) -> Iterable[Hashable]:
        """The states that may follow if `op` happens in `state`; none if it cannot."""
        ...


def linearizable(ops: Sequence[Op], model: Model, *, most_states: int = 200_000) -> bool | None:
    """Whether one order of the operations explains them all; None if the search was given up.

    Operations that never returned may take effect at any time after their beginning, or never.
    Split a history by keys first: the time of the search may be exponential in the number of
    overlapping operations.
    """
    ops = sorted(ops, key=lambda op: op.start)
    needed = sum(1 << k for k, op in enumerate(ops) if op.end < EVER)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, model.initial)]
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return True
        if (done, state) in seen:
            continue
        if len(seen) >= most_states:
            return None
        seen.add((done, state))
        left = [k for k in range(len(ops)) if not done >> k & 1]
        first_end = min(ops[k].end for k in left)
        for k in reversed(left):
            if ops[k].start <= first_end:
                for after in model.step(state, ops[k]):
                    stack.append((done | 1 << k, after))
    return False


class Register:
    """A register: `write` stores `value`, `read` returns the stored value."""

    def __init__(self, initial: Hashable = None) -> None:
        self.initial = initial

    def step(self, state: Hashable, op: Op) -> Iterable[Hashable]:
        """As Model.step."""
        if op.name == "write":
            return [op.value]
        return [state] if op.end == EVER or op.result == state else []


class Mutex:
    """A mutex: `acquire` when it is free; `release` and `expire` free it if `value` is its holder.

    With `fenced`, the result of each `acquire` is a number greater than all before. An `acquire`
    that failed (result None) is always allowed, because no contract promises that the mutex is
    free.
    """

    initial = (None, 0)

    def __init__(self, fenced: bool = False) -> None:
        self.fenced = fenced

    def step(self, state: tuple[Any, float], op: Op) -> Iterable[Hashable]:
        """As Model.step."""
        holder, fence = state
        if op.name != "acquire":
            if holder == op.value:
                return [(None, fence)]
            # operations that change nothing can be left out
            return [] if op.end == EVER else [state]
        if op.end < EVER and not op.result:
            return [state]
        if holder is not None:
            return []
        if not self.fenced or op.end == EVER:
            return [(op.value, fence)]
        return [(op.value, op.result)] if op.result > fence else []


class FifoQueue:
    """A queue: `put` appends `value`; `take` returns the first value, or None if the queue is
    empty.
    """

    initial: tuple = ()

    def step(self, state: tuple, op: Op) -> Iterable[Hashable]:
        """As Model.step."""
        if op.name == "put":
            return [(*state, op.value)]
        if op.end == EVER:
            return [state[1:]]
        if op.result is None:
            return [state] if not state else []
        return [state[1:]] if state and state[0] == op.result else []
