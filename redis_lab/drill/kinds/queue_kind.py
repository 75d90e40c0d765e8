"""A queue: jobs that are put, taken and done, by workers that die or stop for a while."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import FifoQueue, Op, linearizable

__all__ = ["QueuePlay"]


def put(hands: Hands, payload: str) -> Op:
    return hands.call("put", payload, lambda: hands.made.put(payload), plain=lambda _: None)


def take(hands: Hands) -> tuple[Any, str | None]:
    """The job and its payload, or None and None."""

    def plain(job: Any) -> str | None:
        return getattr(job, "payload", job) if job is not None and job is not False else None

    op = hands.call("take", "", hands.made.take, plain=plain)
    return getattr(op, "raw", None), op.result if op.ok else None


def done(hands: Hands, job: Any, payload: str) -> Op:
    call = lambda: hands.made.done(job)  # noqa: E731
    return hands.call("done", payload, call, plain=lambda told: told is not False)


def work(hands: Hands) -> bool:
    """Take one job and do it; returns whether there was one."""
    job, payload = take(hands)
    if payload is None:
        return False
    hands.pause()
    hands.point(f"the work: {payload}", lambda: hands.ledger.note("effect", payload, hands.who))
    done(hands, job, payload)
    return True


def two_jobs(hands: Hands) -> None:
    put(hands, "one")
    put(hands, "two")


def one_job(hands: Hands) -> None:
    put(hands, "one")


def twice(hands: Hands) -> None:
    work(hands)
    work(hands)


def later(hands: Hands) -> None:
    """Another worker takes jobs until all are done, or until there was none for a while."""
    QueuePlay().drained(hands, lambda: work(hands))
    end = time.monotonic() + hands.target.lease_s * 1.5  # a second delivery may come late
    while time.monotonic() < end:
        if not work(hands):
            time.sleep(0.02)


def takes_both(hands: Hands) -> None:
    take(hands)
    take(hands)


class QueuePlay(Play):
    """See the module."""

    kind = "queue"
    scenarios = [  # noqa: RUF012
        Scenario("two workers take two jobs", {"ada": twice, "bob": twice}, before=two_jobs),
        Scenario(
            "jobs are put and taken at the same time", {"producer": two_jobs, "worker": takes_both}
        ),
        Scenario("a worker dies with a job", {"worker": work}, ("die",), two_jobs, later),
        Scenario(
            "a reply to a worker is lost, and it asks again",
            {"worker": work},
            ("lose",),
            one_job,
            later,
        ),
        Scenario(
            "the reply to a put is lost when its job is done already",
            {"producer": one_job, "worker": twice},
            ("lose",),
            after=later,
        ),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """Put a job, or do one."""
        if hands.luck.random() < 0.4:
            put(hands, hands.fresh("job"))
        else:
            work(hands)

    def drain(self, hands: Hands) -> None:
        """Do the jobs that are left."""
        if not work(hands):
            time.sleep(0.02)

    def settle(self, hands: Hands) -> None:
        """Check that all jobs that were put are done in the end."""
        self.drained(hands, lambda: time.sleep(0.1))

    def drained(self, hands: Hands, meanwhile: Any) -> None:
        """Wait until no job is missing, for as long as there is progress; record for how long it
        hung.
        """
        moved = time.monotonic()
        before = -1
        while (missing := self.missing(hands)) and (
            time.monotonic() - moved < hands.target.patience_s
        ):
            if len(missing) != before:
                before, moved = len(missing), time.monotonic()
            meanwhile()
            time.sleep(0.01)
        hung = round(time.monotonic() - moved, 1) if missing else 0
        hands.record(Op(hands.who, "hung", "", moved, time.monotonic(), result=hung))

    def missing(self, hands: Hands) -> set[str]:
        """The jobs that were put and never worked on."""
        ops: list[Op] = hands.so_far()
        return {op.key for op in ops if op.name == "put" and op.ok} - set(
            hands.ledger.noted("effect")
        )

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        puts = [op for op in history.named("put") if op.ok]
        effects = set(history.ledger.noted("effect"))
        settled = bool(history.named("hung"))
        lost = [op for op in puts if op.key not in effects] if settled else []
        takes: dict[str, list[Op]] = defaultdict(list)
        for op in history.named("take"):
            if op.ok and op.result is not None:
                takes[op.result].append(op)
        finished: dict[str, list[Op]] = defaultdict(list)
        for op in history.named("done"):
            if op.ok and op.result:
                finished[op.key].append(op)
        again, two = [], []
        for payload, taken in takes.items():
            for op in taken:
                before = [one for one in finished[payload] if one.end < op.start]
                if before:
                    again.append((before[0], op))
            for k, one in enumerate(taken):
                mine = [op for op in finished[payload] if op.who == one.who and op.start > one.end]
                until = min([one.start + history.target.lease_s, *(op.start for op in mine[:1])])
                for other in taken[k + 1 :]:
                    if other.who != one.who and one.end < other.start and other.end < until:
                        two.append((one, other))
        handed = sum(map(len, takes.values()))
        return [
            Finding("jobs lost", len(lost), len(puts) if settled else 0, lost[:1]),
            Finding("done twice", len(again), handed, again[0] if again else ()),
            Finding("two at one job", len(two), handed, two[0] if two else ()),
            *self._order(history),
            *self.common(history),
        ]

    def _order(self, history: History) -> list[Finding]:
        """Short histories without faults, as a first-in-first-out queue."""
        ops = [
            Op(op.who, op.name, "", op.start, op.end, op.key, op.result)
            for op in history.named("put", "take")
        ]
        if len(ops) > 12 or any(op.error for op in history.ops) or history.named("hung"):
            return []
        wrong = linearizable(ops, FifoQueue()) is False
        return [Finding("out of order", int(wrong), 1, ops if wrong else ())]
