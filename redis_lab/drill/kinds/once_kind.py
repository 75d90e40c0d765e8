"""Work that must be done once for each key, however often it is requested."""

from __future__ import annotations

import time
from collections import defaultdict

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import Op

__all__ = ["OncePlay"]


def run(hands: Hands, key: str = "a") -> Op:
    """Run it; the work leaves an effect in the ledger and returns a receipt of its own."""

    def work() -> str:
        receipt = hands.fresh("receipt")
        op = Op(hands.who, "work", key, time.monotonic(), value=receipt)
        hands.record(op)
        hands.point(f"the work: {receipt}", lambda: hands.ledger.note(key, receipt, hands.who))
        hands.pause()
        op.end = time.monotonic()
        hands.record(op)
        return receipt

    return hands.call("run", key, lambda: hands.made.run(key, work))


def insists(hands: Hands) -> None:
    """Call it, and repeat the call while it is busy or Redis does not answer, as a client does."""
    for _ in range(2):
        if run(hands).ok:
            return
        time.sleep(0.01)


def later(hands: Hands) -> None:
    """The client repeats its request later, until it gets a result."""
    answered(hands, "a")


def answered(hands: Hands, key: str) -> None:
    """Request until there is a result or, well after every lease, an error of the contract."""
    over = time.monotonic() + 1.5 * hands.target.lease_s + 0.2

    def told() -> bool:
        op = run(hands, key)
        named = op.error is not None and not op.unexpected and not op.away
        return op.ok or (named and time.monotonic() > over)

    OncePlay().gets_on(hands, key, told)


class OncePlay(Play):
    """See the module."""

    kind = "once"
    scenarios = [  # noqa: RUF012
        Scenario(
            "two clients ask for the same thing",
            {"ada": insists, "bob": insists},
            ("interleave", "clock"),
            after=later,
        ),
        Scenario("a client dies", {"ada": run}, ("die",), after=later),
        Scenario(
            "a reply is lost, and the client asks again", {"ada": run}, ("lose",), after=later
        ),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """All clients request the same few keys, at about the same time."""
        now = int(time.monotonic() * 40)
        run(hands, f"k{now - hands.luck.randrange(3)}")

    def settle(self, hands: Hands) -> None:
        """Check that the last requests are answered in the end."""
        keys = [op.key for op in hands.so_far() if op.name == "run"]
        for key in list(dict.fromkeys(reversed(keys)))[:10]:
            answered(hands, key)

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        lease_s = history.target.lease_s
        runs: dict[str, list[Op]] = defaultdict(list)
        works: dict[str, list[Op]] = defaultdict(list)
        for op in history.ops:
            if op.name == "run":
                runs[op.key].append(op)
            elif op.name == "work":
                works[op.key].append(op)
        again, two, differ, total = [], [], [], 0
        for key, asked in runs.items():
            told = sorted((op for op in asked if op.ok), key=lambda op: op.end)
            total += len(works[key])
            for work in works[key]:
                if told and told[0].end < work.start:
                    again.append((told[0], work))
            for k, one in enumerate(works[key]):
                claimed = [op for op in asked if op.who == one.who and op.start <= one.start]
                until = min(one.end, claimed[-1].start + lease_s) if claimed else one.start
                for other in works[key][k + 1 :]:
                    if one.end < float("inf") and other.start < until:
                        two.append((one, other))
            other_answers = [op for op in told if op.result != told[0].result]
            if other_answers:
                differ.append((told[0], other_answers[0]))
        return [
            Finding("effects repeated", len(again), total, again[0] if again else ()),
            Finding("two at work", len(two), total, two[0] if two else ()),
            Finding("two answers", len(differ), len(runs), differ[0] if differ else ()),
            *self.common(history),
        ]
