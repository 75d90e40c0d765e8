"""A queue: jobs that are put, taken and done, by workers that die or stop for a while."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from ..hands import Finding, Hands, History, Play, Scenario
from ..history import FifoQueue, Op, linearizable

__all__ = ["QueuePlay"]

KILLS, RAISES = "deadly", "raising"  # payloads that begin so


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


def is_poison(payload: str) -> bool:
    """Whether it is a job that nobody survives, or that raises an exception each time."""
    return payload.startswith((KILLS, RAISES))


def poison(hands: Hands, job: Any, payload: str) -> None:
    """Take its work up, and never get it done."""
    if payload.startswith(KILLS):
        hands.client.close()  # as the death of the worker would
    elif hasattr(hands.made, "fail"):
        hands.call("fail", payload, lambda: hands.made.fail(job), plain=lambda _: None)


def work(hands: Hands) -> bool:
    """Take one job and do it; returns whether there was one."""
    job, payload = take(hands)
    if payload is None:
        return False
    if is_poison(payload):
        poison(hands, job, payload)
        return True
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


def two_poisons(hands: Hands) -> None:
    put(hands, KILLS)
    put(hands, RAISES)


def survivors(hands: Hands) -> None:
    """Other workers take the poison as often as it comes; then they do another job."""
    QueuePlay().survived(hands, lambda: work(hands))
    put(hands, "one")
    QueuePlay().drained(hands, lambda: work(hands))


def takes_both(hands: Hands) -> None:
    take(hands)
    take(hands)


class QueuePlay(Play):
    """See the module."""

    kind = "queue"
    scenarios = [  # noqa: RUF012
        Scenario(
            "two workers take two jobs",
            {"ada": twice, "bob": twice},
            ("interleave", "clock"),
            two_jobs,
        ),
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
        Scenario(
            "one job kills each worker that takes it, another one raises an exception each time",
            {"worker": work},
            before=two_poisons,
            after=survivors,
        ),
    ]

    def turn(self, hands: Hands, calm: bool) -> None:
        """Put a job, or do one. Whoever is there from the beginning puts two poisons first."""
        if calm and not hands.serial:
            put(hands, hands.fresh(KILLS))
            put(hands, hands.fresh(RAISES))
        if hands.luck.random() < 0.4:
            put(hands, hands.fresh("job"))
        else:
            work(hands)

    def drain(self, hands: Hands) -> None:
        """Do the jobs that are left."""
        if not work(hands):
            time.sleep(0.02)

    def settle(self, hands: Hands) -> None:
        """All that was put is done in the end, or set aside."""
        self.drained(hands, lambda: time.sleep(0.1))
        self.survived(hands, lambda: time.sleep(0.1))

    def survived(self, hands: Hands, meanwhile: Any) -> None:
        """Wait until no poison comes any more, or one has come too often."""
        before, moved = -1, 0.0
        tried = time.monotonic()
        while True:
            rounds = poison_rounds(hands.so_far())
            if any(len(ops) > hands.target.most_tries for ops in rounds.values()):
                return
            if (total := sum(map(len, rounds.values()))) != before:
                before, moved = total, time.monotonic()
            elif tried - moved > 1.5 * hands.target.lease_s + 0.2:
                return  # also the last try, which began so late, was in vain
            time.sleep(0.005)
            tried = time.monotonic()
            meanwhile()

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
        if not missing:
            hands.record(Op(hands.who, "hung", "", moved, time.monotonic(), result=0))
            return
        # Jobs are lost; but is a new one done?
        last = hands.fresh("last")

        def is_done() -> bool:
            meanwhile()
            return last in hands.ledger.noted("effect")

        hands.until(lambda: put(hands, last).ok, hands.target.patience_s)
        self.gets_on(hands, last, is_done)

    def missing(self, hands: Hands) -> set[str]:
        """The jobs that were put and never worked on."""
        ops: list[Op] = hands.so_far()
        wanted = {op.key for op in ops if op.name == "put" and op.ok and not is_poison(op.key)}
        return wanted - set(hands.ledger.noted("effect"))

    def judge(self, history: History) -> list[Finding]:
        """See contracts.KINDS."""
        puts = [op for op in history.named("put") if op.ok and not is_poison(op.key)]
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
        failed: dict[str, list[Op]] = defaultdict(list)  # or begun to
        for op in history.named("fail"):
            failed[op.key].append(op)
        again, two = [], []
        for payload, taken in takes.items():
            for op in taken:
                before = [one for one in finished[payload] if one.end < op.start]
                if before:
                    again.append((before[0], op))
            for k, one in enumerate(taken):
                ended = finished[payload] + failed[payload]
                mine = [op for op in ended if op.who == one.who and op.start > one.end]
                until = min([one.start + history.target.lease_s, *(op.start for op in mine)])
                for other in taken[k + 1 :]:
                    if other.who != one.who and one.end < other.start and other.end < until:
                        two.append((one, other))
        handed = sum(map(len, takes.values()))
        return [
            Finding("jobs lost", len(lost), len(puts) if settled else 0, lost[:1]),
            Finding("done twice", len(again), handed, again[0] if again else ()),
            Finding("two at one job", len(two), handed, two[0] if two else ()),
            self._poison(history),
            *self._order(history),
            *self.common(history),
        ]

    def _poison(self, history: History) -> Finding:
        rounds = poison_rounds(history.ops)
        longest = max(rounds.values(), key=len, default=[])
        over = len(longest) > history.target.most_tries
        last = longest[-1:] if over else []
        seen = [
            Op(op.who, "handed out", str(op.result), op.start, op.start, result=f"{len(longest)} ×")
            for op in last
        ]
        return Finding("poison rounds", len(longest), len(rounds), seen, over)

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


def poison_rounds(ops: list[Op]) -> dict[str, list[Op]]:
    """How often each poison was handed out."""
    rounds: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.name == "take" and op.ok and op.result is not None and is_poison(op.result):
            rounds[op.result].append(op)
    return rounds
