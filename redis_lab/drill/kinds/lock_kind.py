"""A lock, and a number in a store that each holder reads and raises by one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import EVER, Mutex, Op, linearizable
from ..ledger import StaleFence

__all__ = ["LockPlay"]


def acquire(hands: Hands, name: str = "a") -> Any:
    """The lease, or None; the record contains its fence, or True."""

    def plain(lease: Any) -> Any:
        return (getattr(lease, "fence", None) or True) if lease else None

    return hands.call("acquire", name, lambda: hands.made.acquire(name), plain=plain).raw or None  # type: ignore[attr-defined]


def release(hands: Hands, lease: Any, name: str = "a") -> None:
    call = lambda: hands.made.release(lease)  # noqa: E731
    hands.call("release", name, call, plain=lambda told: told is not False)


def count(hands: Hands, lease: Any, name: str = "a") -> None:
    """Read the number, and write it plus one, unless the store refuses."""
    fence = getattr(lease, "fence", None)
    try:
        was = hands.point(f"the store: read {name}", lambda: hands.ledger.read(name, fence))
        hands.pause()
        hands.point(
            f"the store: {name} = {was + 1}",
            lambda: hands.ledger.write(name, was, fence, hands.who),
        )
    except StaleFence:
        pass


def twice(hands: Hands) -> None:
    """Take the lock, count, release the lock, and take it again."""
    if lease := acquire(hands):
        count(hands, lease)
        release(hands, lease)
    if lease := acquire(hands):
        count(hands, lease)
        release(hands, lease)


def later(hands: Hands) -> None:
    """A client that comes later must get the lock in the end."""

    def taken() -> bool:
        lease = acquire(hands)
        if lease is not None:
            release(hands, lease)
        return lease is not None

    LockPlay().gets_on(hands, "a", taken)


class LockPlay(Play):
    """See the module."""

    kind = "lock"
    scenarios = [  # noqa: RUF012
        Scenario(
            "two clients want the same lock",
            {"ada": twice, "bob": twice},
            ("interleave", "lapse", "clock"),
        ),
        Scenario("a client dies, or loses a reply", {"ada": twice}, ("die", "lose"), after=later),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """Take one of two locks, count, release the lock."""
        name = hands.luck.choice("ab")
        lease = acquire(hands, name)
        if lease is not None:
            count(hands, lease, name)
            release(hands, lease, name)

    def settle(self, hands: Hands) -> None:
        """Check that both locks can be taken again."""
        for name in "ab":

            def taken(name: str = name) -> bool:
                lease = acquire(hands, name)
                if lease is not None:
                    release(hands, lease, name)
                return lease is not None

            self.gets_on(hands, name, taken)

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        two, held = two_holders(history)
        lost = history.ledger.ask(
            "SELECT name, was, GROUP_CONCAT(who), COUNT(*) - 1 FROM written "
            "GROUP BY name, was HAVING COUNT(*) > 1"
        )
        shown = [
            Op(who, "write", name, 0, 0, was + 1, "both from the same reading")
            for name, was, who, _ in lost[:1]
        ]
        writes = history.ledger.ask("SELECT COUNT(*) FROM written")[0][0]
        return [
            Finding("two holders", len(two), held, two[0] if two else ()),
            *order(history),
            Finding("lost updates", sum(row[3] for row in lost), writes, shown),
            *self.common(history),
        ]


def order(history: History) -> list[Finding]:
    """Short histories, as a mutex whose leases expire, and whose fences rise if it has any."""
    calls = history.named("acquire", "release")
    if len(calls) > 40:
        return []
    ops, fences = [], []
    for number, op in enumerate(calls):
        end = op.end if op.ok else EVER  # a call that raised may have taken effect
        # A client that acquires again is another holder; its release ends its last lease
        mine = [n for n, one in enumerate(calls[: number + 1]) if one.who == op.who]
        holder = max((n for n in mine if calls[n].name == "acquire"), default=number)
        ops.append(Op(op.who, op.name, op.key, op.start, end, holder, op.result))
        if op.name == "acquire" and (op.result or end == EVER):
            over = op.start + history.target.lease_s
            ops.append(Op(op.who, "expire", op.key, over, EVER, holder))
            fences += [op.result] if op.result else []
    fenced = all(isinstance(one, int) and not isinstance(one, bool) for one in fences)
    wrong = linearizable(ops, Mutex(fenced)) is False
    return [Finding("no order of holders", int(wrong), 1, calls if wrong else ())]


def two_holders(history: History) -> tuple[list[tuple[Op, Op]], int]:
    """Pairs of leases of which the second was granted while the first still had to last.

    The first lease certainly lasts from the return of `acquire` until its release, or until a
    lease's length after the call of `acquire`, whichever is sooner, whatever happened to its
    holder.
    """
    lease_s = history.target.lease_s
    released: dict[tuple[str, str], list[Op]] = defaultdict(list)
    for op in history.named("release"):
        released[op.who, op.key].append(op)
    by_name: dict[str, list[tuple[float, Op]]] = defaultdict(list)
    for op in history.named("acquire"):
        if not op.ok or not op.result:
            continue
        given = [one.start for one in released[op.who, op.key] if one.start >= op.end]
        by_name[op.key].append((min([op.start + lease_s, *given[:1]]), op))
    pairs = []
    for leases in by_name.values():
        leases.sort(key=lambda lease: lease[1].start)
        for k, (until, one) in enumerate(leases):
            for other_until, two in leases[k + 1 :]:
                if two.start >= until:
                    break
                if two.end < until and one.end < other_until:  # in either order
                    pairs.append((one, two))
    return pairs, sum(map(len, by_name.values()))
