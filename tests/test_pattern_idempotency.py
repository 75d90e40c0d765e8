"""Idempotency: one at a time, the same answer to all, whatever dies when."""

from __future__ import annotations

import asyncio
import doctest
import subprocess
import threading
import time

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, script
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from redis_lab.errors import LabError
from redis_lab.exercises import idempotency as exercises
from redis_lab.lesson import NotYet
from redis_lab.patterns.idempotency import Busy, Done, Idempotency, Yours
from redis_lab.topology import cluster
from redis_lab.wire import wire


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture
def once(r):
    return Idempotency(r, "once", ttl_s=60, lease_s=5)


def test_the_three_states(once, r):
    mine = once.begin("a", "42")
    assert isinstance(mine, Yours)
    busy = once.begin("a", "42")
    assert isinstance(busy, Busy) and 4 < busy.retry_after_s <= 5
    assert once.finish("a", mine.token, {"receipt": [1, None, "é"]})
    assert once.begin("a", "42") == Done({"receipt": [1, None, "é"]})
    assert 0 < r.ttl("once:a") <= 60


def test_every_key_has_a_ttl_in_every_state(once, r):
    mine = once.begin("a", "x")
    assert 0 < r.pttl("once:a") <= 60_000
    once.finish("a", mine.token, 1)
    assert 0 < r.pttl("once:a") <= 60_000


def test_one_round_trip_each(once, r):
    once.finish("warm", once.begin("warm", "").token, 1)
    with wire(r) as w:
        mine = once.begin("a", "")
    assert (w.round_trips, w.commands) == (1, 1)
    with wire(r) as w:
        once.finish("a", mine.token, 1)
    assert (w.round_trips, w.commands) == (1, 1)


def test_another_request_under_the_same_key_is_refused(once):
    mine = once.begin("a", "42 euros")
    for _ in ("in progress", "done"):
        with pytest.raises(LabError, match="another request"):
            once.begin("a", "99 euros")
        once.finish("a", mine.token, 1)


def test_a_lost_claim_stores_nothing(r):
    hasty = Idempotency(r, "once", ttl_s=60, lease_s=0.05)
    first = hasty.begin("a", "")
    time.sleep(0.08)
    second = hasty.begin("a", "")
    assert isinstance(second, Yours) and second.token != first.token
    assert not hasty.finish("a", first.token, "first")
    assert not hasty.give_back("a", first.token)
    assert hasty.finish("a", second.token, "second")
    assert hasty.begin("a", "") == Done("second")


def test_work_that_outlives_its_lease_is_not_answered_twice(r):
    hasty = Idempotency(r, "once", ttl_s=60, lease_s=0.05)

    def slow() -> str:
        time.sleep(0.08)
        other = hasty.begin("a", "")
        hasty.finish("a", other.token, "the other's")
        return "mine"

    with pytest.raises(LabError, match="longer than its lease"):
        hasty.run("a", "", slow)
    assert hasty.run("a", "", lambda: "again") == "the other's"


def test_sent_again_after_a_lost_reply(lab, r):
    """redis-py does that: the claim is found, and the result that was stored stays."""
    with lab.client(socket_timeout=0.2, retry=Retry(ConstantBackoff(0.05), 10)) as patient:
        once = Idempotency(patient, "once", ttl_s=60, lease_s=30)
        once.finish("warm", once.begin("warm", "").token, 1)

        def during_a_stall(call):
            got = []
            with lab.stalled():
                thread = threading.Thread(target=lambda: got.append(call()))
                thread.start()
                time.sleep(0.5)
            thread.join()
            return got[0]

        before = r.info("commandstats")["cmdstat_evalsha"]["calls"]
        mine = during_a_stall(lambda: once.begin("a", ""))
        assert isinstance(mine, Yours)
        assert isinstance(once.begin("a", ""), Busy)
        assert during_a_stall(lambda: once.finish("a", mine.token, "first")) is True
        assert r.info("commandstats")["cmdstat_evalsha"]["calls"] > before + 3  # some came twice
        assert once.finish("a", mine.token, "second") is False
        assert once.give_back("a", mine.token) is False
        assert once.begin("a", "") == Done("first")


def test_run(once):
    calls = []
    work = lambda: calls.append(1) or len(calls)  # noqa: E731
    assert [once.run("a", "", work) for _ in range(3)] == [1, 1, 1]
    mine = once.begin("b", "")
    with pytest.raises(LabError, match="being worked on"):
        once.run("b", "", work)
    once.give_back("b", mine.token)
    assert once.run("b", "", work) == 2


def test_work_that_fails_is_given_back(once):
    with pytest.raises(ZeroDivisionError):
        once.run("a", "", lambda: 1 / 0)
    assert once.run("a", "", lambda: "fine") == "fine"


WORKER = """
    import os, random, signal, sys, time, redis
    from redis_lab.errors import LabError
    from redis_lab.patterns.idempotency import Idempotency
    r = redis.Redis.from_url({url!r})
    once = Idempotency(r, "pay", ttl_s=60, lease_s=0.2)
    luck = random.Random({seed})
    def work(k):
        # the effect and its key in one step, as a UNIQUE column would have it
        r.hsetnx("paid", k, {seed})
        r.incr("attempts")
        if luck.random() < 0.15:
            os.kill(os.getpid(), signal.SIGKILL)
        return {seed}
    for k in range(30):
        try:
            once.run(str(k), "", lambda: work(k))
        except LabError:
            pass
"""


def test_killed_workers_lose_nothing_and_everybody_gets_one_answer(lab, r):
    deaths, seed = 0, 0
    done = lambda: sum(r.hexists(f"pay:{k}", "result") for k in range(30))  # noqa: E731
    while done() < 30 and seed < 80:
        crowd = [
            subprocess.Popen(script(WORKER.format(url=lab.url, seed=seed + k)), env=environment())
            for k in range(4)
        ]
        deaths += sum(process.wait() == -9 for process in crowd)
        seed += 4
    assert deaths > 0 and done() == 30
    assert r.hlen("paid") == 30 and int(r.get("attempts")) >= 30
    once = Idempotency(r, "pay", ttl_s=60, lease_s=5)
    first = [once.begin(str(k), "") for k in range(30)]
    assert all(isinstance(state, Done) for state in first)
    assert first == [once.begin(str(k), "") for k in range(30)]


def test_a_restart_in_the_middle(lab, r):
    once = Idempotency(r, "once", ttl_s=60, lease_s=5)
    once.begin("a", "")
    r.script_flush()
    assert isinstance(once.begin("a", ""), Busy)
    lab.restart()  # keeps nothing: scripts, connections and records are gone
    with lab.client() as fresh:
        again = Idempotency(fresh, "once", ttl_s=60, lease_s=5)
        assert isinstance(again.begin("a", ""), Yours)


def test_asyncio(lab):
    async def both() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            await client.flushall()
            once = Idempotency(client, "once", ttl_s=60, lease_s=5)
            states = await asyncio.gather(*(once.begin("a", "x") for _ in range(20)))
            (mine,) = [state for state in states if isinstance(state, Yours)]
            assert await once.finish("a", mine.token, "done")
            with pytest.raises(LabError, match="another request"):
                await once.begin("a", "y")
            return [len(states), await once.begin("a", "x")]

    assert asyncio.run(both()) == [20, Done("done")]


def test_on_a_cluster():
    with cluster() as nodes, nodes.client() as client:
        once = Idempotency(client, "once", ttl_s=60, lease_s=5)
        assert [once.run(f"k{k}", "", lambda k=k: k) for k in range(20)] == list(range(20))
        assert [once.run(f"k{k}", "", lambda: "no") for k in range(20)] == list(range(20))


@pytest.mark.parametrize(
    "arguments",
    [
        {"prefix": "", "ttl_s": 10, "lease_s": 1},
        {"prefix": "p", "ttl_s": 1, "lease_s": 10},
        {"prefix": "p", "ttl_s": 10, "lease_s": 0},
    ],
)
def test_arguments_that_make_no_sense(r, arguments):
    with pytest.raises(LabError, match="needs a prefix, and 0 < lease_s <= ttl_s"):
        Idempotency(r, **arguments)
    with pytest.raises(LabError, match="must not be empty"):
        Idempotency(r, "p", ttl_s=1, lease_s=1).begin("", "")


def test_the_docstring(r):
    found = doctest.DocTestFinder().find(Idempotency, globs={"Idempotency": Idempotency, "r": r})
    ran = [doctest.DocTestRunner().run(test) for test in found if test.examples]
    assert ran and not any(result.failed for result in ran)


KEYS = st.sampled_from(["a", "b"])


class Machine(RuleBasedStateMachine):
    """Against a model: what each key's state is, and whose token is the valid one."""

    server = None

    def __init__(self) -> None:
        super().__init__()
        self.r = Machine.server.client()
        self.r.flushall()
        self.once = Idempotency(self.r, "m", ttl_s=60, lease_s=30)
        self.state: dict[str, object] = {}
        self.tokens: list[tuple[str, str]] = []
        self.finished: dict[str, str] = {}

    @rule(key=KEYS)
    def begin(self, key: str) -> None:
        found, known = self.once.begin(key, "same"), self.state.get(key)
        if known is None:
            assert isinstance(found, Yours)
            self.state[key] = found
            self.tokens.append((key, found.token))
        elif isinstance(known, Yours):
            assert isinstance(found, Busy)
        else:
            assert found == known

    @rule(key=KEYS)
    def begin_otherwise(self, key: str) -> None:
        if key in self.state:
            with pytest.raises(LabError):
                self.once.begin(key, "other")

    @rule(data=st.data(), result=st.one_of(st.none(), st.integers(), st.text(max_size=5)))
    def finish(self, data: st.DataObject, result: object) -> None:
        if self.tokens:
            key, token = data.draw(st.sampled_from(self.tokens))
            valid = self.state.get(key) == Yours(token)
            again = self.finished.get(key) == token and self.state[key] == Done(result)
            assert self.once.finish(key, token, result) is (valid or again)
            if valid:
                self.state[key], self.finished[key] = Done(result), token

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.tokens:
            key, token = data.draw(st.sampled_from(self.tokens))
            valid = self.state.get(key) == Yours(token)
            assert self.once.give_back(key, token) is valid
            if valid:
                del self.state[key]

    @invariant()
    def keys_expire(self) -> None:
        keys = list(self.r.scan_iter("*"))
        assert len(keys) == len(self.state) and all(self.r.ttl(key) > 0 for key in keys)

    def teardown(self) -> None:
        self.r.close()


def test_against_a_model(lab):
    Machine.server = lab
    quick = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)


# ---------------------------------------------------------------- exercises


def handler(*, nx=True, ex=3600, back=True, mark_first=True):
    def handle_once(r, event_id, handle):
        key = f"check:{event_id}"
        if nx:
            if not r.set(key, 1, nx=True, ex=ex):
                return
        elif r.get(key):
            return
        try:
            handle(event_id)
        except Exception:
            if back:
                r.delete(key)
            raise
        if not nx:
            r.set(key, 1, ex=ex)

    return handle_once


def test_handle_once_is_accepted(learner):
    assert "320 arrivals" in exercises.handle_once(learner, handler())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"nx": False}, "eight arrive at once"),
        ({"back": False}, "handler raised"),
        ({"ex": None}, "no time to live"),
    ],
)
def test_handle_once_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.handle_once(learner, handler(**wrong))


def test_handling_every_time_is_explained(learner):
    with pytest.raises(NotYet, match="one after the other"):
        exercises.handle_once(learner, lambda r, event, handle: handle(event))


def test_safe_to_repeat(learner):
    right = {command: safe for command, (safe, _) in exercises.SAFE.items()}
    assert exercises.safe_to_repeat(None, right).startswith("right")
    for command in right:
        with pytest.raises(NotYet, match="7 of 8"):
            exercises.safe_to_repeat(None, right | {command: not right[command]})
    with pytest.raises(NotYet, match="as they are"):
        exercises.safe_to_repeat(None, {})
