"""Idempotency: one at a time, the same answer to all, whatever dies when."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import time
from decimal import Decimal

import pytest
import redis
from alone import NO_NUMBERS, foreign_imports, loading
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, script, without_ttl
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from redis_lab.judging import NotYet
from redis_lab.lessons import idempotency as exercises
from redis_lab.patterns.idempotency import (
    AsyncIdempotency,
    Busy,
    Done,
    Failed,
    Idempotency,
    LeaseLost,
    Mismatch,
    NotDone,
    NotStored,
    Yours,
)
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire


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
        with pytest.raises(Mismatch, match="another request"):
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

    with pytest.raises(LeaseLost, match="longer than its lease"):
        hasty.run("a", "", slow)
    assert hasty.run("a", "", lambda: "again") == "the other's"


def test_sent_again_after_a_lost_reply(lab, r, during_a_stall):
    """redis-py does that: the claim is found, and the result that was stored stays."""
    with lab.client(socket_timeout=0.2, retry=Retry(ConstantBackoff(0.05), 10)) as patient:
        once = Idempotency(patient, "once", ttl_s=60, lease_s=30)
        once.finish("warm", once.begin("warm", "").token, 1)

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
    with pytest.raises(Busy, match="being worked on"):
        once.run("b", "", work)
    once.give_back("b", mine.token)
    assert once.run("b", "", work) == 2


def test_work_that_may_have_had_its_effect_is_not_done_again(once, r):
    """A payment that times out after the money has moved, and a client that tries again."""
    charged = []

    def charge() -> str:
        charged.append(42)
        raise TimeoutError("no answer for card 4242")

    with pytest.raises(TimeoutError):
        once.run("a", "", charge)
    for _ in range(2):
        with pytest.raises(Failed, match="TimeoutError, and its effect is not known") as failed:
            once.run("a", "", charge)
        assert not failed.value.done
    assert isinstance(once.begin("a", ""), Failed)
    assert charged == [42] and 0 < r.ttl("once:a") <= 60
    assert "4242" not in str(r.hgetall("once:a"))
    assert once.forget("a") and not once.forget("a")  # somebody has looked
    assert once.run("a", "", lambda: "charged") == "charged"


def test_only_not_done_gives_the_key_back(once):
    def refused() -> None:
        raise NotDone("the bank is closed")

    with pytest.raises(NotDone):
        once.run("a", "", refused)
    assert once.run("a", "", lambda: "fine") == "fine"


@pytest.mark.parametrize(
    "result", [Decimal("42"), datetime.date(2026, 1, 1), {1, 2}, b"42", {(1, 2): 3}]
)
def test_a_result_that_is_no_json_is_one_effect(once, r, result):
    done = []
    for _ in range(3):
        with pytest.raises(Failed, match="done, and its result was lost") as failed:
            once.run("a", "", lambda: done.append(1) or result)
        assert failed.value.done
    mine = once.begin("b", "")
    with pytest.raises(Failed):
        once.finish("b", mine.token, result)
    assert isinstance(once.begin("b", ""), Failed)
    assert done == [1] and not without_ttl(r)


@pytest.mark.parametrize("result", [("paid", 42), {1: ("a", "b")}, None, 1.5, "é", [[]]])
def test_the_first_answer_equals_the_later_ones(once, result):
    first = once.run("a", "", lambda: result)
    later = once.run("a", "", lambda: "again")
    assert first == later and type(first) is type(later)


def test_a_full_server_keeps_what_was_done(once, r):
    mine = once.begin("a", "")
    r.config_set("maxmemory", 1)
    try:
        assert once.finish("a", mine.token, "x" * 1000)
        with pytest.raises(redis.OutOfMemoryError):  # before the work, and so nothing is done
            once.run("b", "", lambda: pytest.fail("not claimed"))
    finally:
        r.config_set("maxmemory", 0)
    assert once.begin("a", "") == Done("x" * 1000)


def test_redis_is_away_after_the_work():
    """The caller learns that it was done, and what it gave."""
    with server() as own, own.client() as client:
        once = Idempotency(client, "once", ttl_s=60, lease_s=5)
        once.begin("warm", "")
        with pytest.raises(NotStored) as done:
            once.run("a", "", lambda: own.kill() or "charged")
        assert done.value.result == "charged"
        own.restart()
        with pytest.raises(ZeroDivisionError):
            once.run("b", "", lambda: own.kill() or 1 / 0)


def test_a_clock_that_was_far_ahead_keeps_nobody_busy(once, r):
    mine = once.begin("a", "")
    ahead = 366 * 86_400_000
    r.hincrby("once:a", "ends", ahead)  # as if it had begun before the clock went back
    for _ in range(2):
        assert once.begin("a", "").retry_after_s <= 5
    assert int(r.hget("once:a", "ends")) < time.time() * 1000 + ahead / 2
    assert once.finish("a", mine.token, 1)


def twice(script):
    """As if the first reply had been lost, and the client had sent the request again."""

    def call(**arguments):
        script(**arguments)
        return script(**arguments)

    return call


def test_every_request_sent_again(once):
    scripts = once._begin, once._finish, once._give_back
    once._begin, once._finish, once._give_back = map(twice, scripts)
    assert [once.run("a", "", lambda: 1), once.run("a", "", lambda: 2)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        once.run("b", "", lambda: 1 / 0)
    with pytest.raises(Failed):
        once.run("b", "", lambda: 1)


def test_a_request_that_arrives_late_changes_nothing(once):
    sent = []
    for name in ("_begin", "_finish"):
        script = getattr(once, name)

        def send(script=script, **arguments):
            sent.append((script, arguments))
            return script(**arguments)

        setattr(once, name, send)
    assert once.run("a", "", lambda: "first") == "first"
    for script, arguments in sent * 2:
        script(**arguments)
    assert once.begin("a", "") == Done("first")


WORKER = """
    import os, random, signal, redis
    r = redis.Redis.from_url({url!r})
    once = pattern.Idempotency(r, "pay", ttl_s=60, lease_s=0.2)
    luck = random.Random({seed})
    def work(k):
        # the effect and its key in one step, as a UNIQUE column would have it
        r.hsetnx("paid", k, {seed})
        if r.incr("attempts") == 1 or luck.random() < {die}:
            os.kill(os.getpid(), signal.SIGKILL)
        return {seed}
    while True:
        left = [k for k in range({keys}) if not r.hexists(f"pay:{{k}}", "result")]
        if not left:
            break
        for k in left:
            try:
                once.run(str(k), "", lambda: work(k))
            except (pattern.Busy, pattern.LeaseLost):
                pass
"""


@pytest.mark.parametrize(
    ("keys", "die"), [(8, 0.25), pytest.param(60, 0.1, marks=pytest.mark.drill)]
)
def test_killed_workers_lose_nothing_and_everybody_gets_one_answer(lab, r, keys, die, figure):
    deaths, seed, until = 0, 0, time.monotonic() + 100
    done = lambda: sum(r.hexists(f"pay:{k}", "result") for k in range(keys))  # noqa: E731
    while done() < keys and time.monotonic() < until:
        bodies = [WORKER.format(url=lab.url, seed=seed + k, keys=keys, die=die) for k in range(3)]
        commands = [script(loading("idempotency") + body) for body in bodies]
        crowd = [subprocess.Popen(command, env=environment()) for command in commands]
        deaths += sum(process.wait() == -9 for process in crowd)
        seed += 3
    figure(kills=deaths, payments=keys, lost_or_made_twice=keys - r.hlen("paid"))
    assert deaths > 0 and done() == keys
    assert r.hlen("paid") == keys and int(r.get("attempts")) >= keys
    once = Idempotency(r, "pay", ttl_s=60, lease_s=5)
    first = [once.begin(str(k), "") for k in range(keys)]
    assert all(isinstance(state, Done) for state in first)
    assert first == [once.begin(str(k), "") for k in range(keys)]


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
    async def use() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            await client.flushall()
            once = AsyncIdempotency(client, "once", ttl_s=60, lease_s=5)
            states = await asyncio.gather(*(once.begin("a", "x") for _ in range(20)))
            (mine,) = [state for state in states if isinstance(state, Yours)]
            assert await once.finish("a", mine.token, "done")
            with pytest.raises(Mismatch, match="another request"):
                await once.begin("a", "y")

            done = []

            async def work(result=("paid", 42), error: Exception | None = None):
                done.append(1)
                if error:
                    raise error
                return result

            assert [await once.run("b", "", work) for _ in range(2)] == [["paid", 42]] * 2
            for _ in range(2):
                with pytest.raises(Failed, match="result was lost"):
                    await once.run("c", "", lambda: work(Decimal(1)))
            with pytest.raises(TimeoutError):
                await once.run("d", "", lambda: work(error=TimeoutError()))
            with pytest.raises(Failed, match="TimeoutError"):
                await once.run("d", "", work)
            assert len(done) == 3 and await once.forget("d")
            with pytest.raises(NotDone):
                await once.run("d", "", lambda: work(error=NotDone()))
            assert await once.run("d", "", work) == ["paid", 42]
            return [len(states), await once.begin("a", "x")]

    assert asyncio.run(use()) == [20, Done("done")]


def test_callers_that_are_cancelled(lab, r):
    """While they begin, at work, and while the result is on its way."""

    async def cancel() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            once = AsyncIdempotency(client, "once", ttl_s=600, lease_s=500)
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def work():
                begun.set()
                await go_on.wait()
                return "done"

            async def cancelled(caller) -> None:
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller

            await once.give_back("warm", "")
            with lab.stalled():
                beginner = asyncio.ensure_future(once.begin("a", ""))
                await asyncio.sleep(0.1)
                beginner.cancel()
                await asyncio.sleep(0.1)
            with pytest.raises(asyncio.CancelledError):
                await beginner
            assert isinstance(await once.begin("a", ""), Yours)

            worker = asyncio.ensure_future(once.run("b", "", work))
            await begun.wait()
            await cancelled(worker)
            assert isinstance(await once.begin("b", ""), Failed)

            begun.clear()
            storer = asyncio.ensure_future(once.run("c", "", work))
            await begun.wait()
            with lab.stalled():
                go_on.set()
                await asyncio.sleep(0.1)
                storer.cancel()
                await asyncio.sleep(0.1)
            with pytest.raises(asyncio.CancelledError):
                await storer
            assert await once.begin("c", "") == Done("done")

    asyncio.run(cancel())


def test_the_wrong_client_or_work_is_refused_at_once(lab, r, once):
    times = {"ttl_s": 60, "lease_s": 5}
    for wrong in (redis.asyncio.Redis.from_url(lab.url), r.pipeline()):
        with pytest.raises(TypeError, match="AsyncIdempotency"):
            Idempotency(wrong, "once", **times)
    for wrong in (r, redis.asyncio.Redis.from_url(lab.url).pipeline()):
        with pytest.raises(TypeError, match="Not with a"):
            AsyncIdempotency(wrong, "once", **times)

    async def work() -> str:
        return "never awaited"

    with pytest.raises(TypeError, match="AsyncIdempotency"):
        once.run("a", "", work)
    assert r.dbsize() == 0


def test_on_a_cluster(three):
    with three.client() as client:
        once = Idempotency(client, "once", ttl_s=60, lease_s=5)
        assert [once.run(f"k{k}", "", lambda k=k: k) for k in range(20)] == list(range(20))
        assert [once.run(f"k{k}", "", lambda: "no") for k in range(20)] == list(range(20))


def test_arguments_that_make_no_sense(r, once):
    bad = [{"prefix": ""}, {"ttl_s": 1, "lease_s": 10}, {"lease_s": 0}, {"lease_s": 0.0001}]
    bad += [{name: no} for name in ("lease_s", "ttl_s") for no in NO_NUMBERS]
    for each in bad:
        for kind, client in ((Idempotency, r), (AsyncIdempotency, redis.asyncio.Redis())):
            with pytest.raises(ValueError, match="needs a prefix, and 1 ms <= lease_s <= ttl_s"):
                kind(client, **({"prefix": "p", "ttl_s": 10, "lease_s": 1} | each))
    for key in ("", None, 7):
        with pytest.raises(ValueError, match="must not be empty"):
            once.begin(key, "")
    with pytest.raises(ValueError, match="fingerprint"):
        once.begin("a", None)
    assert r.dbsize() == 0


def test_a_user_of_the_server_needs_what_the_docstring_says(lab, r):
    may = ["+@read", "+@write", "+@scripting", "+time"]
    r.acl_setuser("shop", enabled=True, nopass=True, keys=["p:*"], commands=["-@all", *may])
    with lab.client(username="shop", password="") as client:
        once = Idempotency(client, "p", ttl_s=60, lease_s=5)
        assert once.run("a", "", lambda: 1) == 1 and once.forget("a")
        assert once.give_back("b", once.begin("b", "").token)


def test_the_file_stands_alone():
    assert foreign_imports("idempotency") == set()


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
            with pytest.raises(Mismatch):
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
        assert len(keys) == len(self.state) and not without_ttl(self.r)

    def teardown(self) -> None:
        self.r.close()


def test_against_a_model(lab):
    Machine.server = lab
    quick = settings(
        max_examples=25,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)


# ---------------------------------------------------------------- exercises


INSERT = "INSERT INTO seen VALUES (?) ON CONFLICT DO NOTHING"
BOOK = "UPDATE income SET cents = cents + ?"


def in_one_transaction(database, event, cents):
    database.execute("BEGIN IMMEDIATE")
    if database.execute(INSERT, (event,)).rowcount:
        database.execute(BOOK, (cents,))
    database.execute("COMMIT")


def with_a_cursor(database, event, cents):
    cursor = database.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    if not cursor.execute("SELECT 1 FROM seen WHERE event = ?", (event,)).fetchone():
        cursor.execute(BOOK, (cents,))
        cursor.execute("INSERT INTO seen VALUES (?)", (event,))
    database.commit()


def mark_first(database, event, cents):
    if database.execute(INSERT, (event,)).rowcount:
        database.execute(BOOK, (cents,))


def mark_first_and_undo(database, event, cents):
    """What lesson and exercise once took for right."""
    if database.execute(INSERT, (event,)).rowcount:
        try:
            database.execute(BOOK, (cents,))
        except Exception:
            database.execute("DELETE FROM seen WHERE event = ?", (event,))
            raise


def book_first(database, event, cents):
    if not database.execute("SELECT 1 FROM seen WHERE event = ?", (event,)).fetchone():
        database.execute(BOOK, (cents,))
        database.execute(INSERT, (event,))


def look_before_the_transaction(database, event, cents):
    if not database.execute("SELECT 1 FROM seen WHERE event = ?", (event,)).fetchone():
        time.sleep(0.002)
        database.execute("BEGIN IMMEDIATE")
        database.execute(BOOK, (cents,))
        database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event,))
        database.execute("COMMIT")


@pytest.mark.parametrize("answer", [in_one_transaction, with_a_cursor])
def test_handle_once_is_accepted(answer):
    assert "by eight at once and when killed" in exercises.handle_once(None, answer)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (mark_first, "counts as seen and was never booked"),
        (mark_first_and_undo, "counts as seen and was never booked"),
        (book_first, "100 cents became 200"),
        (look_before_the_transaction, "eight arrivals of each at once"),
        (lambda database, event, cents: database.execute(BOOK, (cents,)), "one after the other"),
        (lambda database, event, cents: None, "one after the other"),
    ],
)
def test_handle_once_explains_what_is_wrong(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.handle_once(None, wrong)


def test_safe_to_repeat(learner):
    right = {command: safe for command, (safe, _) in exercises.SAFE.items()}
    assert exercises.safe_to_repeat(None, right).startswith("right")
    for command in right:
        with pytest.raises(NotYet, match="7 of 8"):
            exercises.safe_to_repeat(None, right | {command: not right[command]})
    with pytest.raises(NotYet, match="as they are"):
        exercises.safe_to_repeat(None, {})
