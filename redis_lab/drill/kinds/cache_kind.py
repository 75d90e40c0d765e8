"""A cache: reads, updates, deletions, many readers of one key, keys that do not exist."""

from __future__ import annotations

import inspect
import itertools
import time
from collections import defaultdict
from typing import Any

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import EVER, Op, Register, linearizable

__all__ = ["CachePlay"]


def get(hands: Hands, key: str = "a") -> Op:
    return hands.call("get", key, lambda: hands.made.get(key), strict=True)


def update(hands: Hands, key: str = "a", gone: bool = False) -> None:
    """Commit, then announce the change until the call succeeds, as an outbox does."""
    what = f"commit: {key} is deleted" if gone else f"commit: a new {key}"
    started = time.monotonic()
    version = hands.point(what, lambda: hands.ledger.commit(key, gone))
    value = None if gone else version
    commit = Op(hands.who, "commit", key, started, time.monotonic(), version, value)
    hands.record(commit)
    announce = hands.made.invalidate
    args = (key, version) if takes_version(announce) else (key,)

    def announced() -> bool:
        call = lambda: announce(*args)  # noqa: E731
        return hands.call("invalidate", key, call, value=version, plain=lambda _: None).ok

    hands.until(announced, 3)


def takes_version(announce: Any) -> bool:
    try:
        inspect.signature(announce).bind("key", 1)
    except TypeError:
        return False
    return True


def later(hands: Hands) -> None:
    """A reader that begins after all others."""
    CachePlay().gets_on(hands, "a", lambda: get(hands).ok)


def written(hands: Hands) -> None:
    hands.ledger.commit("a")


def cached(hands: Hands) -> None:
    hands.ledger.commit("a")
    hands.made.get("a")


def thrice(hands: Hands) -> None:
    for _ in range(3):
        get(hands, "none")


class CachePlay(Play):
    """See the module."""

    kind = "cache"
    scenarios = [  # noqa: RUF012
        Scenario(
            "a reader fills the cache while a writer updates the row",
            {"reader": get, "writer": update},
            ("interleave", "die", "lapse", "clock"),
            written,
            later,
        ),
        Scenario(
            "a reader reads twice what a writer updates",
            {"reader": lambda hands: (get(hands), get(hands)), "writer": update},
            before=cached,
            after=later,
        ),
        Scenario(
            "a reader fills the cache while a writer deletes the row",
            {"reader": get, "writer": lambda hands: update(hands, gone=True)},
            before=written,
            after=later,
        ),
        Scenario(
            "a reader looks for a row that a writer creates",
            {"reader": get, "writer": update},
            after=later,
        ),
        Scenario(
            "two readers miss the same key",
            {"reader": lambda hands: get(hands, "herd"), "other": lambda hands: get(hands, "herd")},
            before=lambda hands: hands.ledger.commit("herd"),
        ),
        Scenario("a key that does not exist is read three times", {"reader": thrice}),
    ]

    def make(self, hands: Hands) -> Any:
        """An instance whose `load` is recorded."""

        def load(key: str) -> int | None:
            op = Op(hands.who, "load", key, time.monotonic())
            hands.record(op)
            op.result = hands.point(f"load {key}", lambda: hands.ledger.load(key))
            hands.pause(0.02 if key.startswith("herd") else 0.004)
            op.end = time.monotonic()
            hands.record(op)
            return op.result

        return hands.target.make(hands.client, load)

    def turn(self, hands: Hands, calm: bool) -> None:
        """Mostly reads. While `calm`, all clients read the same new key, or one that does not
        exist.
        """
        if calm:
            bucket = int(time.monotonic() * 8)
            key = f"{'none' if bucket % 4 == 0 else 'herd'}{bucket}"
            if key.startswith("herd") and hands.ledger.load(key) is None:
                hands.ledger.create(key)
            get(hands, key)
            return
        key, chance = hands.luck.choice("abc"), hands.luck.random()
        if chance < 0.8:
            get(hands, key)
        else:
            update(hands, key, gone=chance > 0.95)

    def settle(self, hands: Hands) -> None:
        """Every key can be read again."""
        for key in "abc":
            self.gets_on(hands, key, lambda key=key: get(hands, key).ok)  # type: ignore[misc]

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        reads = [op for op in history.named("get") if op.ok]
        values: dict[str, dict[int, Any]] = defaultdict(dict)
        for key, version, value in history.ledger.ask("SELECT key, version, value FROM version"):
            values[key][version] = value
        announced = [op for op in history.named("invalidate") if op.ok]
        stale: list[Op] = []
        seen: list[Op] = []
        for op in reads:
            before = [one for one in announced if one.key == op.key and one.end < op.start]
            last = max(before, key=lambda one: one.value, default=None)
            if last is None:
                continue
            fresh = {v for number, v in values[op.key].items() if number >= last.value}
            if op.result not in fresh:
                stale.append(op)
                seen = seen or [last, op]
        return [
            Finding("stale after invalidate", len(stale), len(reads), seen),
            *self._order(history, values),
            *self._loads(history),
            *self.common(history),
        ]

    def _order(self, history: History, values: dict[str, dict[int, Any]]) -> list[Finding]:
        """Short histories without faults: reads and updates as a register."""
        if len(history.ops) > 40 or any(op.error for op in history.ops):
            return []
        ops = []
        for commit in history.named("commit"):
            told = [
                op
                for op in history.named("invalidate")
                if (op.key, op.value, op.who) == (commit.key, commit.value, commit.who) and op.ok
            ]
            end = told[0].end if told else float("inf")
            ops.append(Op(commit.who, "write", "a", commit.start, end, commit.result))
        ops += [op for op in history.named("get") if op.key == "a"]
        known = sorted(values["a"])
        updates = len(history.named("commit"))
        first = values["a"].get(known[-updates - 1]) if len(known) > updates else None
        wrong = linearizable(ops, Register(first)) is False
        return [Finding("no order of reads", int(wrong), 1, ops if wrong else ())]

    def _loads(self, history: History) -> list[Finding]:
        loads = history.named("load")
        by_key: dict[str, list[Op]] = defaultdict(list)
        for op in loads:
            by_key[op.key].append(op)
        herd = {key: ops for key, ops in by_key.items() if key.startswith("herd")}
        none = {key: ops for key, ops in by_key.items() if key.startswith("none")}
        gets = history.named("get")
        twice = []
        for ops in herd.values():
            for one, two in itertools.pairwise(ops):
                asked = [op for op in gets if op.who == one.who and op.start <= one.start]
                # A lease cannot begin before the request for it
                leased = asked[-1].start + history.target.lease_s if asked else one.start
                if two.start < min(one.end, leased) and one.end < float("inf"):
                    twice.append((one, two))
        told: dict[str, float] = {}
        for op in gets:
            told[op.key] = min(told.get(op.key, EVER), op.end)
        again = []
        for key, ops in none.items():
            for op in ops:  # for somebody who asked when another one had been told already
                mine = [one.start for one in gets if (one.who, one.key) == (op.who, key)]
                if max((at for at in mine if at <= op.start), default=0) > told[key]:
                    again.append(op)
        return [
            Finding("loads for one miss", len(twice), len(herd), twice[0] if twice else ()),
            Finding("absences loaded", len(again), len(none), again[:2]),
        ]
