"""A limiter: one name is requested all the time, others by clients that die."""

from __future__ import annotations

import time
from collections import defaultdict

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import Op

__all__ = ["LimiterPlay"]


def allow(hands: Hands, name: str = "a") -> Op:
    return hands.call("allow", name, lambda: hands.made.allow(name), plain=bool)


def all_but_one(hands: Hands) -> None:
    """All but one request of the window have been used."""
    for _ in range(hands.target.limit - 1):
        allow(hands)


def later(hands: Hands) -> None:
    """A name that was not requested for two windows must be allowed."""
    rested(hands, ["a"])


def rested(hands: Hands, names: list[str]) -> None:
    """Wait for two windows; then `limit` requests in a row must be allowed. If one is refused, wait
    for two more windows, because a last call of another client may have arrived late.
    """
    stuck = names
    for _ in range(2):
        time.sleep(2 * hands.target.window_s + 0.1)
        stuck = [name for name in stuck if not free(hands, name)]
        if not stuck:
            break
    now = time.monotonic()
    for name in names:
        hands.record(Op(hands.who, "rested", name, now, now, result=name in stuck))


def free(hands: Hands, name: str) -> bool:
    """Whether the whole limit is available."""
    told = [allow(hands, name) for _ in range(hands.target.limit)]
    return all(op.result is True or op.error for op in told)


class LimiterPlay(Play):
    """See the module."""

    kind = "limiter"
    scenarios = [  # noqa: RUF012
        Scenario(
            "two clients ask for the last one",
            {"ada": allow, "bob": allow},
            ("interleave", "clock"),
            all_but_one,
        ),
        Scenario("a client dies while it asks", {"ada": allow}, ("die",), after=later),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """Request, mostly for the same name."""
        allow(hands, "hot" if hands.luck.random() < 0.6 else hands.luck.choice("abcdefgh"))
        hands.pause()

    def settle(self, hands: Hands) -> None:
        """Check that no name is refused for ever."""
        rested(hands, ["hot", *"abcdefgh"])

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        target = history.target
        let: dict[str, list[Op]] = defaultdict(list)
        for op in history.named("allow"):
            if op.ok and op.result:
                let[op.key].append(op)
        worst, seen, total = 0, [], 0
        for ops in let.values():
            total += len(ops)
            ops.sort(key=lambda op: op.start)
            for k, first in enumerate(ops):
                # These are certainly in one span: all began after the first one began, and ended
                # within the span
                inside = [op for op in ops[k:] if op.end < first.start + target.window_s]
                if len(inside) - target.most > worst:
                    worst, seen = len(inside) - target.most, inside[-2:]
        stuck = [op for op in history.named("rested") if op.result]
        return [
            Finding("over the limit", worst, total, seen),
            Finding("locked out", len(stuck), len(history.named("rested")), stuck[:1]),
            *self.common(history),
        ]
