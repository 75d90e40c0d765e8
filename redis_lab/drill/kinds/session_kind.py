"""Sessions: started, loaded by several clients at a time, and ended by one of them."""

from __future__ import annotations

from typing import Any

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import Op

__all__ = ["SessionPlay"]

MADE = "made before"


def start(hands: Hands) -> str | None:
    op = hands.call("start", "ada", lambda: hands.made.start("ada"))
    if not op.ok:
        return None
    id = str(op.result)
    hands.ledger.note("session", id, hands.who)
    return id


def load(hands: Hands, id: str) -> Op:
    return hands.call("load", id, lambda: hands.made.load(id), plain=lambda found: bool(found))


def end(hands: Hands, id: str) -> Op:
    return hands.call("end", id, lambda: hands.made.end(id), plain=lambda told: told is not False)


def newest(hands: Hands) -> str:
    return hands.ledger.noted("session")[-1]


def later(hands: Hands) -> None:
    """A client that still has the cookie loads the session."""
    SessionPlay().gets_on(hands, newest(hands), lambda: load(hands, newest(hands)).ok)


def begins(hands: Hands) -> None:
    id = start(hands)
    if id is not None:
        load(hands, id)


class SessionPlay(Play):
    """See the module."""

    kind = "session"
    scenarios = [  # noqa: RUF012
        Scenario(
            "one tab loads while another one logs out",
            {
                "slow tab": lambda hands: load(hands, newest(hands)),
                "logout": lambda hands: end(hands, newest(hands)),
            },
            ("interleave", "clock"),
            start,
            after=later,
        ),
        Scenario("a client dies while it begins a session", {"ada": begins}, ("die",)),
        Scenario(
            "the reply to a logout is lost",
            {"ada": lambda hands: end(hands, newest(hands))},
            ("lose",),
            before=start,
            after=later,
        ),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """Start a session, load one of the latest, or end one."""
        known = hands.ledger.ask(
            "SELECT what FROM note WHERE topic = 'session' ORDER BY rowid DESC LIMIT 12"
        )
        chance = hands.luck.random()
        if not known or chance < 0.15:
            start(hands)
            return
        id = hands.luck.choice(known)[0]
        if chance < 0.9:
            load(hands, id)
        else:
            end(hands, id)

    def settle(self, hands: Hands) -> None:
        """Load all of them once more."""
        known = hands.ledger.noted("session")
        self.gets_on(hands, "", lambda: start(hands) is not None)
        for id in known:
            load(hands, id)

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        ended: dict[str, Op] = {}
        asked: dict[str, float] = {}
        for op in history.named("end"):
            asked.setdefault(op.key, op.start)
            if op.ok and (op.key not in ended or op.end < ended[op.key].end):
                ended[op.key] = op
        revived: list[Any] = []
        lost: list[Any] = []
        loads = [op for op in history.named("load") if op.ok]
        for op in loads:
            over = ended.get(op.key)
            if op.result and over is not None and over.end < op.start:
                revived.append((over, op))
            elif not op.result and op.end < asked.get(op.key, float("inf")):
                lost.append((op,))
        return [
            Finding("sessions revived", len(revived), len(loads), revived[0] if revived else ()),
            Finding("sessions lost", len(lost), len(loads), lost[0] if lost else ()),
            *self.common(history),
        ]
