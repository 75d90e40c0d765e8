"""Clients played against each other step by step, in every order, on a real server.

A step is a command that a client sends, or a change that it makes to the source. Between two steps
other clients may take theirs. The orders are sorted by their number of switches between clients, so
the first order that breaks a promise is a shortest witness. Nothing is random.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..servers import Server
from .clock import HOUR_S, jumping
from .contracts import Target
from .deployments import Pair
from .faults import Watched
from .hands import Finding, Hands, History, Play, Scenario
from .history import Op
from .ledger import Ledger

__all__ = ["Step", "Witness", "interleavings"]

ASLEEP_S = 1.0  # a client that has not reached its next step by then is waiting for something
MOST_STEPS = 60
IN_A_ROW = 8  # a client that polls must let the others continue
SWITCHES = 2
MOST_RUNS = 150  # of one scenario
MOST_CLOCK_RUNS = 6
FEW = (1, 2)  # each failover takes up to a second, until the replica follows again


_here = threading.local()  # `actor`: whose thread this is


def _ahead_s() -> float:
    actor: _Actor | None = getattr(_here, "actor", None)
    return actor.ahead_s if actor else 0.0


class _Abandoned(BaseException):
    """Raised in the thread of a dead client, to end it."""


@dataclass
class Step:
    """One step of a witness."""

    who: str
    text: str
    reply: str = ""


@dataclass
class Witness:
    """How a promise was broken, as a timeline."""

    title: str
    steps: list[Step]
    because: list[str]


class _Connection(Watched):
    actor: _Actor
    lost = False

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        self.port = self.actor.stage.server.port  # another one, after a failover
        super().connect_check_health(*args, **kwargs)

    def on_sending(self, packed: bytes) -> None:
        self.step = self.actor.arrive(shorten(packed))

    def on_reply(self, reply: Any) -> None:
        step = getattr(self, "step", None)
        if step is None:
            return
        shown = show(reply)
        step.reply = f"{step.reply}, {shown}" if step.reply else shown
        if self.actor.loses == self.actor.steps and not self.actor.lost:
            self.actor.lost = True
            step.reply += "   (this reply is lost)"
            self.lose()


class _Actor:
    """A client in a thread of its own, which waits at each step until it may continue."""

    def __init__(self, stage: _Stage, name: str) -> None:
        self.stage, self.name = stage, name
        self.open = True  # not part of the run yet: nothing waits
        self.waiting = 0
        self.granted = self.ended = self.dead = self.lost = self.asleep = False
        self.steps = 0
        self.op: Op | None = None  # a call that has not taken its first step yet
        self.dies: int | None = None
        self.loses: int | None = None
        self.lapses: int | None = None
        self.forgets: int | None = None
        self.fails_over: int | None = None
        self.jumps: tuple[int, float] | None = None  # after so many steps, by so many seconds
        self.ahead_s = 0.0  # of its wall clock
        kind = type("Stepping", (_Connection,), {"actor": self})
        self.pool = redis.ConnectionPool(
            connection_class=kind,
            host="127.0.0.1",
            port=stage.server.port,
            retry=Retry(NoBackoff(), 3),
            **{"decode_responses": True, **stage.target.client_options},
        )
        self.client = redis.Redis(connection_pool=self.pool)
        self.thread: threading.Thread | None = None

    def arrive(self, text: str) -> Step | None:
        """Wait until this client may take this step."""
        if self.open:
            return None
        with self.stage.changed:
            self.waiting += 1
            self.stage.changed.notify_all()
            try:
                while not self.granted:
                    if self.stage.over:
                        raise _Abandoned
                    self.stage.changed.wait(0.5)
            finally:
                self.waiting -= 1
            self.granted = False
            self.steps += 1
            if self.op is not None:  # this is the first step of the call
                self.op.start, self.op = time.monotonic(), None
            step = Step(self.name, text)
            self.stage.trace.append(step)
            return step

    def start(self, program: Callable[[Hands], object], hands: Hands) -> None:
        self.open = False

        def run() -> None:
            _here.actor = self
            try:
                program(hands)
            except _Abandoned:
                pass
            except Exception as error:
                self.stage.crashes.append(error)
            finally:
                with self.stage.changed:
                    self.ended = True
                    self.stage.changed.notify_all()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    @property
    def at_gate(self) -> bool:
        return self.waiting > 0 and not self.granted and not self.dead

    @property
    def settled(self) -> bool:
        return self.at_gate or (self.ended and not self.granted)


class _Stepped(Hands):
    actor: _Actor

    def begins(self, op: Op) -> None:
        self.actor.op = op

    def pause(self, longest_s: float = 0.004) -> None:
        pass

    def point(self, text: str, function: Callable[[], Any]) -> Any:
        step = self.actor.arrive(text)
        result = function()
        if step is not None and result is not None:
            step.reply = str(result)
        return result


class _Stage:
    """One run of a scenario, in one order."""

    def __init__(self, on: Server | Pair, play: Play, target: Target, scenario: Scenario) -> None:
        self.pair = on if isinstance(on, Pair) else None
        self.server = on.primary if isinstance(on, Pair) else on
        self.play, self.target, self.scenario = play, target, scenario
        self.changed = threading.Condition()
        self.trace: list[Step] = []
        self.crashes: list[Exception] = []
        self.ops: list[Op] = []
        self.over = False
        self.choices: list[tuple[str, tuple[str, ...]]] = []

    def record(self, op: Op) -> None:
        if not any(op is known for known in self.ops):
            self.ops.append(op)

    def run(
        self,
        admin: redis.Redis,
        prefix: tuple[str, ...] = (),
        **at: Any,
    ) -> History:
        """Play it once; `at` says what befalls the first client, and after which of its steps."""
        with jumping(self.target.module, _ahead_s):
            return self._run(admin, prefix, at)

    def _run(self, admin: redis.Redis, prefix: tuple[str, ...], at: dict[str, Any]) -> History:
        admin.flushall()
        ledger = Ledger()
        actors = {name: _Actor(self, name) for name in (*self.scenario.actors, "later")}
        self.everybody, later = list(actors.values()), actors["later"]
        others = contextlib.ExitStack()
        try:
            hands = {name: self._hands(actor, ledger) for name, actor in actors.items()}
            del actors["later"]
            first = next(iter(actors.values()))
            for what, when in at.items():
                setattr(first, what, when)
            if self.scenario.before:
                self.scenario.before(hands["later"])
            self._jump(first)
            for name, program in self.scenario.actors.items():
                actors[name].start(program, hands[name])
            self._play(actors, prefix, admin)
            self.trace.append(Step("", "then"))
            if self.pair and self.server is self.pair.replica:
                admin = others.enter_context(self.server.client())
            kept = without_ttl(admin)  # clients that come later may repair this
            later.open = True
            if self.scenario.after:
                self.scenario.after(hands["later"])
            kept = [*dict.fromkeys(kept + without_ttl(admin))]
            if self.crashes:
                raise self.crashes[0]
            ops = sorted(self.ops, key=lambda op: op.start)
            return History(self.target, ops, ledger, kept, max(1, admin.dbsize()))
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()
            for actor in self.everybody:
                if actor.thread:
                    actor.thread.join(5)
                actor.pool.disconnect()
            others.close()

    def _hands(self, actor: _Actor, ledger: Ledger) -> _Stepped:
        actor.client.ping()
        luck = Random(actor.name)
        found = _Stepped(actor.name, self.target, actor.client, ledger, luck, self.record)
        found.actor = actor
        found.so_far = lambda: self.ops
        self.play.build(found)
        return found

    def _jump(self, actor: _Actor) -> None:
        """Set the client's clock, if it is time for that."""
        if actor.jumps and actor.jumps[0] == actor.steps:
            actor.ahead_s, actor.jumps = actor.jumps[1], None
            way = "ahead" if actor.ahead_s > 0 else "back"
            self.trace.append(Step(actor.name, f"its clock jumps an hour {way}"))

    def _settle(self, actors: dict[str, _Actor], seconds: float) -> None:
        """Wait until each client is at its next step, has ended or died, or is waiting for long."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while left := deadline - time.monotonic():
                busy = [a for a in actors.values() if not (a.settled or a.dead or a.asleep)]
                if not busy:
                    return
                if left <= 0:
                    break
                self.changed.wait(left)
            for actor in busy:
                actor.asleep = True

    def _play(self, actors: dict[str, _Actor], prefix: tuple[str, ...], admin: redis.Redis) -> None:
        now, row = "", 0
        self._settle(actors, 5)
        while len(self.choices) < MOST_STEPS:
            for actor in actors.values():
                actor.asleep = actor.asleep and not actor.settled
                if actor.dies is not None and actor.steps >= actor.dies and not actor.dead:
                    actor.dead = True
                    self.trace.append(Step(actor.name, "is killed here"))
            ready = tuple(name for name, actor in actors.items() if actor.at_gate)
            if not ready:
                if all(actor.ended or actor.dead for actor in actors.values()):
                    return
                if any(actor.asleep for actor in actors.values()):
                    for actor in actors.values():
                        actor.asleep = False
                    self._settle(actors, self.target.patience_s)
                    if any(actor.asleep for actor in actors.values()):
                        return  # it hangs; the judgement of the run will show this
                    continue
                self._settle(actors, ASLEEP_S)
                continue
            wanted = prefix[len(self.choices)] if len(self.choices) < len(prefix) else now
            if wanted not in ready or (len(self.choices) >= len(prefix) and row >= IN_A_ROW):
                others = [name for name in ready if name != now]
                wanted = others[0] if others else ready[0]
            row = row + 1 if wanted == now else 1
            now = wanted
            self.choices.append((now, ready))
            actor = actors[now]
            if self.pair and actor.fails_over == actor.steps + 1:
                self.pair.catch_up()
                self.pair.promote()
            with self.changed:
                actor.granted = True
                self.changed.notify_all()
            self._settle(actors, ASLEEP_S)
            self._jump(actor)
            if self.pair and actor.fails_over == actor.steps:
                actor.fails_over = None
                self.trace.append(
                    Step("server", "fails over, to a replica that is one step behind")
                )
                self.server = self.pair.replica
                for each in self.everybody:
                    each.pool.disconnect()
            if actor.lapses == actor.steps:
                actor.lapses = None
                self.trace.append(Step(now, "stands still, longer than its lease"))
                time.sleep(self.target.lease_s * 1.1 + 0.02)
            if actor.forgets == actor.steps:
                actor.forgets = None
                self.trace.append(Step("server", "has forgotten everything"))
                admin.flushall()


def _witness(stage: _Stage, finding: Finding) -> Witness:
    steps = stage.trace[:-1] if stage.trace[-1].text == "then" else stage.trace
    return Witness(stage.scenario.name, list(steps), [str(op) for op in finding.seen])


def interleavings(
    on: Server | Pair,
    play: Play,
    target: Target,
    progress: Callable[[str], object],
    *,
    forget: bool = False,
) -> Iterator[tuple[str, list[Finding], dict[str, Witness]]]:
    """Play every scenario in every order; yields what each run found, and witnesses by promise.

    Before that, its mode. On a pair, the one mode is "failover", since the other ones need none.
    """
    with (on.primary if isinstance(on, Pair) else on).client() as admin:
        for scenario in play.scenarios:
            modes = (*scenario.modes, *["forget"] * forget)
            for mode in ("failover",) if isinstance(on, Pair) else modes:
                for stage, history in MODES[mode](on, play, target, scenario, admin):
                    progress(f"{scenario.name} ({mode})")
                    found = play.judge(history)
                    yield mode, found, {f.promise: _witness(stage, f) for f in found if f.broken}
                    if any(f.promise == "hung" and f.count for f in found):
                        break  # each further order would take as long


def without_ttl(admin: redis.Redis | redis.RedisCluster) -> list[str]:
    """The keys that would stay for ever."""
    return [key for key in admin.scan_iter(count=1000) if admin.pttl(key) == -1]


Runs = Iterator[tuple[_Stage, History]]


def _interleave(
    server: Server,
    play: Play,
    target: Target,
    scenario: Scenario,
    admin: redis.Redis,
    most: int = MOST_RUNS,
    **at: Any,
) -> Runs:
    tried: set[tuple[str, ...]] = set()
    queue: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, ())]
    runs = 0
    while queue and runs < most:
        _, _, prefix = heapq.heappop(queue)
        stage = _Stage(server, play, target, scenario)
        yield stage, stage.run(admin, prefix, **at)
        runs += 1
        names = tuple(name for name, _ in stage.choices)
        for k in range(len(prefix), len(names)):
            for other in stage.choices[k][1]:
                new = (*names[:k], other)
                polls = set(new[-IN_A_ROW - 1 :]) == {other} and len(new) > IN_A_ROW
                if other == names[k] or new in tried or polls:
                    continue
                tried.add(new)
                switches = sum(
                    new[j] != new[j - 1] and new[j - 1] in stage.choices[j][1]
                    for j in range(1, len(new))
                )
                if switches <= SWITCHES:
                    heapq.heappush(queue, (switches, len(new), new))


def _die(
    server: Server, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    yield from _at_each_step(server, play, target, scenario, admin, "dies", 1)


def _lose(
    server: Server, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    yield from _at_each_step(server, play, target, scenario, admin, "loses", 1)


def _lapse(
    server: Server, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    """The first client stops at one of its steps, and the second client reaches one of its own."""
    yield from _at_steps_of_two(server, play, target, scenario, admin, "lapses")


def _forget(
    server: Server, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    """The same, and the server loses everything after a step of the first client."""
    yield from _at_steps_of_two(server, play, target, scenario, admin, "forgets")


def _failover(
    pair: Pair, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    """The server fails over after a step of either client, which its replica missed."""
    pair.promote()
    with pair.replica.client() as other:
        for server, its in ((pair.primary, admin), (pair.replica, other)):
            # Let both know the scripts, so that the first step is more than the question for one
            _Stage(server, play, target, replace(scenario, after=None)).run(its)
    yield from _at_steps_of_two(pair, play, target, scenario, admin, "fails_over", then=FEW)
    if len(scenario.actors) > 1:
        turned = replace(scenario, actors=dict(reversed(scenario.actors.items())))
        yield from _at_steps_of_two(pair, play, target, turned, admin, "fails_over", then=FEW)


def _clock(
    server: Server, play: Play, target: Target, scenario: Scenario, admin: redis.Redis
) -> Runs:
    """The first client's wall clock is an hour off, from the beginning or from a step on."""
    all_ = (server, play, target, scenario, admin)
    for by in (HOUR_S, -HOUR_S):
        yield from _interleave(*all_, most=MOST_CLOCK_RUNS, jumps=(0, by))
        yield from _at_steps_of_two(*all_, "jumps", lambda k, by=by: (k, by))  # type: ignore[misc]


def _at_steps_of_two(
    server: Server | Pair,
    play: Play,
    target: Target,
    scenario: Scenario,
    admin: redis.Redis,
    what: str,
    after: Callable[[int], Any] = lambda k: k,
    then: tuple[int, ...] = (1, 2, 3, 4),
) -> Runs:
    """`what` happens after each step of the first; then the last one takes so many."""
    names = list(scenario.actors)
    for k in range(1, 5):
        for j in then if len(names) > 1 else (0,):
            if isinstance(server, Pair):
                server.follow()
            stage = _Stage(server, play, target, scenario)
            order = (names[0],) * k + (names[-1],) * j + (names[0],) * 12
            at: dict[str, Any] = {what: after(k)}
            history = stage.run(admin, order, **at)
            played = [name for name, _ in stage.choices]
            if played.count(names[0]) < k:
                return
            yield stage, history
            if played.count(names[-1]) <= j:  # it has no further step to come with
                break


def _at_each_step(
    server: Server,
    play: Play,
    target: Target,
    scenario: Scenario,
    admin: redis.Redis,
    what: str,
    first: int,
) -> Runs:
    baseline = _Stage(server, play, target, scenario)
    baseline.run(admin)
    name, *others = scenario.actors
    steps = sum(chosen == name for chosen, _ in baseline.choices)
    for k in range(first, steps + 1):
        stage = _Stage(server, play, target, scenario)
        at: dict[str, Any] = {what: k}
        yield stage, stage.run(admin, **at)
        for other in others:  # it comes now, before the first client continues
            stage = _Stage(server, play, target, scenario)
            yield stage, stage.run(admin, (name,) * k + (other,) * 12, **at)


MODES: dict[str, Callable[..., Runs]] = {
    "interleave": _interleave,
    "die": _die,
    "lose": _lose,
    "lapse": _lapse,
    "clock": _clock,
    "forget": _forget,
    "failover": _failover,
}


# ---------------------------------------------------------------- what steps look like


def shorten(packed: bytes) -> str:
    """The sent commands, as a user would type them; scripts as the start of their SHA-1."""
    words, rest = 0, packed
    found: list[str] = []
    command: list[str] = []
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        if head[:1] == b"*":
            words, command = int(head[1:]), []
            continue
        length = int(head[1:])
        word, rest = rest[:length], rest[length + 2 :]
        text = word.decode(errors="replace")
        if command == ["EVALSHA"]:
            text = f"{text[:6]}…"
        elif command == ["EVAL"]:
            text = "(script)"
        command.append(text if len(text) <= 24 else f"{text[:21]}…")
        words -= 1
        if not words:
            found.append(" ".join(command[:9]) + (" …" if len(command) > 9 else ""))
    return "; ".join(found)


def show(reply: Any) -> str:
    """A reply in one line."""
    if reply is None:
        return "nil"
    if isinstance(reply, bytes):
        reply = reply.decode(errors="replace")
    if isinstance(reply, list):
        reply = f"[{', '.join(map(show, reply))}]"
    text = str(reply)
    return text if len(text) <= 60 else f"{text[:57]}…"
