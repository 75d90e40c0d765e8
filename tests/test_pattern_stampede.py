"""Stampedes: one makes the value for all, whoever dies, and XFetch costs what its formula says."""

from __future__ import annotations

import asyncio
import doctest
import math
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, script

from redis_lab.errors import LabError
from redis_lab.exercises import stampede as exercises
from redis_lab.lesson import NotYet
from redis_lab.patterns import stampede as pattern
from redis_lab.patterns.stampede import EarlyRefresh, Entry, SingleFlight, due, jittered
from redis_lab.server import server
from redis_lab.topology import cluster
from redis_lab.wire import wire


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


def never(key: str) -> object:
    raise AssertionError(f"{key} must not be loaded")


def cache_of(client, load=never, **options) -> SingleFlight:
    return SingleFlight(client, "c", load, **{"ttl_s": 60, "stale_s": 30, "lease_s": 10, **options})


def age(r: redis.Redis, key: str) -> None:
    """Make a value old, as if its `ttl_s` had passed."""
    r.hset(f"c:{key}", "fresh", 0)


def end_lease(r: redis.Redis, key: str) -> None:
    r.hset(f"c:{key}", "lease", 0)


# ---------------------------------------------------------------- SingleFlight


def test_missing_fresh_old(r):
    made = iter(range(1, 10))
    cache = cache_of(r, lambda key: next(made))
    assert [cache.get("a") for _ in range(3)] == [1, 1, 1]
    age(r, "a")
    mine = cache.read("a")
    assert mine.token and mine.usable and mine.value == 1
    assert cache.read("a") == Entry(1, True, None)  # the others get the old one
    assert cache.get("a") == 1 and cache.loads == 1
    assert cache.store("a", mine.token, "two")
    assert cache.read("a") == Entry("two", True, None)
    assert not cache.store("a", mine.token, "twice")
    assert (cache.loads, cache.waits) == (1, 0)


@pytest.mark.parametrize("value", [None, 0, "", "ü", [1, {"a": None}], False, 2**53, 1.5])
def test_what_a_value_may_be(r, value):
    loads = []
    cache = cache_of(r, lambda key: loads.append(key) or value)
    assert cache.get("a") == value and cache.get("a") == value
    assert loads == ["a"]


def test_times_to_live(r):
    cache = cache_of(r, lambda key: None if key == "none" else key, missing_ttl_s=5)
    cache.get("a"), cache.get("none")
    assert 54_000 + 30_000 - 500 < r.pttl("c:a") <= 90_000
    assert 4500 + 30_000 - 500 < r.pttl("c:none") <= 35_000
    cache.read("nothing yet")
    assert 9500 < r.pttl("c:nothing yet") <= 10_000
    r.pexpire("c:a", 1000)
    age(r, "a")
    cache.read("a")  # its end must not end the lease
    assert 9500 < r.pttl("c:a") <= 10_000
    assert all(r.pttl(key) > 0 for key in r.scan_iter())


def test_an_old_value_has_an_end_however_often_loading_fails(r):
    """Each lease keeps the key for longer, but not the value."""

    def fail(key):
        raise OSError("the database is away")

    cache = cache_of(r, str)
    cache.get("a")
    cache.load = fail
    ends = int(r.hget("c:a", "gone"))
    assert abs(ends - int(r.hget("c:a", "fresh")) - 30_000) <= 1
    age(r, "a")
    with pytest.raises(OSError):
        cache.get("a")
    assert cache.read("a").value == "a"  # still lent out
    r.hset("c:a", mapping={"gone": 1, "lease": 1})
    found = cache.read("a")
    assert found.token and not found.usable and found.value is None
    assert not cache.read("a").usable and r.pttl("c:a") > 0
    cache.store("a", found.token, "new")
    assert cache.read("a").value == "new"


def test_round_trips(r):
    cache = cache_of(r, lambda key: key)
    cache.get("warm")

    def trips(call) -> tuple[int, int]:
        with wire(r) as w:
            call()
        return w.round_trips, w.commands

    assert trips(lambda: cache.get("a")) == (2, 2)
    assert trips(lambda: cache.get("a")) == (1, 1)
    age(r, "a")
    token = cache.read("a").token
    assert trips(lambda: cache.get("a")) == (1, 1)  # old, somebody else is at it
    cache.give_up("a", token)
    assert trips(lambda: cache.get("a")) == (2, 2)


def test_a_lease_that_ran_out(r):
    cache = cache_of(r)
    slow = cache.read("a").token
    assert slow and cache.read("a") == Entry(None, False, None)
    end_lease(r, "a")
    quick = cache.read("a").token
    assert quick and quick != slow
    assert not cache.store("a", slow, "late") and not cache.give_up("a", slow)
    assert cache.store("a", quick, "first")
    assert not cache.store("a", slow, "late")
    assert cache.read("a").value == "first"


def test_a_lease_ends_by_itself(r):
    cache = cache_of(r, lambda key: "new", lease_s=0.2)
    token = cache.read("a").token
    start = time.monotonic()
    assert cache.get("a") == "new"
    assert 0.1 < time.monotonic() - start < 5 and cache.waits > 0
    assert not cache.store("a", token, "late")


def test_a_load_that_raises(r):
    def load(key: str) -> object:
        raise ZeroDivisionError

    failing = cache_of(r, load)
    for _ in range(2):  # at once, without waiting for a lease to end
        with pytest.raises(ZeroDivisionError):
            failing.get("a")
    assert failing.waits == 0 and cache_of(r, lambda key: 1).get("a") == 1
    age(r, "a")
    with pytest.raises(ZeroDivisionError):
        failing.get("a")
    assert cache_of(r, lambda key: 2).get("a") == 2


def test_asking_again_after_a_lost_reply(r):
    """redis-py sends the same script with the same token again: it is this caller's still."""
    read = r.register_script(pattern.READ)
    assert read(keys=["c:a"], args=["me", 10_000]) == ["", 0, 1]
    assert read(keys=["c:a"], args=["me", 10_000]) == ["", 0, 1]
    assert read(keys=["c:a"], args=["you", 10_000]) == ["", 0, 0]


CREW = """
import sys, threading, time, redis
from redis_lab.patterns.stampede import SingleFlight
r = redis.Redis.from_url(sys.argv[1], protocol=3)
def load(key):
    r.incr("loads")
    r.incr("running") > 1 and r.incr("overlaps")
    time.sleep(0.2)
    r.decr("running")
    return key
cache = SingleFlight(r, "c", load, ttl_s=0.3, stale_s=float(sys.argv[2]), lease_s=10)
cache.read("warm")
print("ready", flush=True)
sys.stdin.readline()
slowest, wrong = [], []
def reader():
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        start = time.monotonic()
        if cache.get("hot") != "hot":
            wrong.append(1)
        slowest.append(time.monotonic() - start)
threads = [threading.Thread(target=reader) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(slowest), len(wrong), sum(s > 0.15 for s in slowest), cache.loads)
"""


@pytest.mark.parametrize("stale_s", [0, 30])
def test_four_processes_never_load_at_a_time(lab, r, stale_s):
    crew = [
        subprocess.Popen(
            [*script(CREW), lab.url, str(stale_s)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in crew:
        assert process.stdout.readline() == "ready\n"
    for process in crew:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [list(map(int, p.communicate(timeout=60)[0].split())) for p in crew]
    reads, wrong, slow, loads = map(sum, zip(*said, strict=True))
    assert wrong == 0 and r.get("overlaps") is None
    assert loads == int(r.get("loads")) and 2 <= loads <= 9
    assert reads > 200
    if stale_s:  # all wait for the first, later only the one that loads
        assert slow <= 32 + loads
    assert all(r.pttl(k) > 0 for k in r.scan_iter("c:*"))


HOLDER = """
import os, signal, sys, redis
from redis_lab.patterns.stampede import SingleFlight
r = redis.Redis.from_url(sys.argv[1], protocol=3)
def load(key):
    os.kill(os.getpid(), signal.SIGKILL)
SingleFlight(r, "c", load, ttl_s=60, stale_s=30, lease_s=0.5).get("hot")
"""


@pytest.mark.parametrize("old", [True, False])
def test_the_one_that_loads_is_killed(lab, r, old):
    cache = cache_of(r, lambda key: "new", lease_s=0.5)
    if old:
        cache.get("hot")
        age(r, "hot")
        cache.load = never
    died = subprocess.run([*script(HOLDER), lab.url], env=environment())
    assert died.returncode == -signal.SIGKILL
    if old:
        assert cache.get("hot") == "new" and cache.loads == 1  # nobody waits
        time.sleep(0.6)
        cache.load = lambda key: "newer"
        assert cache.get("hot") == "newer"
    else:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(cache.get, ["hot"] * 6)) == ["new"] * 6
        assert cache.loads == 1


def test_a_restart_in_the_middle(each_kind):
    with server(kind=each_kind.kind) as private, private.client() as client:
        cache = cache_of(client, lambda key: "new")
        mine = cache.read("a")
        private.restart()  # script cache, connections and keys are gone
        assert not cache.store("a", mine.token, "old")
        assert cache.get("a") == "new"
        client.script_flush()
        age(client, "a")
        assert cache.get("a") == "new" and cache.loads == 2


def test_asyncio(lab):
    async def many() -> tuple:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            await client.flushall()
            begun = []

            async def load(key: str) -> object:
                begun.append(key)
                await asyncio.sleep(0.1)
                return {"key": key}

            cache = cache_of(client, load)
            got = await asyncio.gather(*(cache.get_async("a") for _ in range(40)))

            async def failing(key: str) -> object:
                raise ZeroDivisionError

            cache.load = failing
            with pytest.raises(ZeroDivisionError):
                await cache.get_async("b")
            cache.load = load
            return got, begun, cache.loads, await cache.get_async("b")

    got, begun, loads, after = asyncio.run(many())
    assert got == [{"key": "a"}] * 40 and begun == ["a", "b"]
    assert loads == 2 and after == {"key": "b"}


def test_a_task_that_is_cancelled_lets_another_load(lab):
    async def one_of_two() -> object:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            await client.flushall()

            async def for_ever(key: str) -> object:
                await asyncio.sleep(60)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cache_of(client, for_ever).get_async("a"), 0.1)

            async def quick(key: str) -> object:
                return "quick"

            return await asyncio.wait_for(cache_of(client, quick).get_async("a"), 5)

    assert asyncio.run(one_of_two()) == "quick"


def test_replies_as_bytes(lab, r):
    with lab.client(decode_responses=False) as raw:
        cache = cache_of(raw, lambda key: {"ü": key})
        assert cache.get("a") == cache.get("a") == {"ü": "a"}
        early = EarlyRefresh(raw, "e", lambda key: {"ü": key}, ttl_s=60)
        assert early.get("a") == early.get("a") == {"ü": "a"} and early.loads == 1


def test_on_a_cluster():
    with cluster() as nodes, nodes.client() as client:
        cache = cache_of(client, lambda key: key)
        early = EarlyRefresh(client, "e", lambda key: key, ttl_s=60)
        for _ in range(2):
            for k in range(20):
                assert cache.get(f"k{k}") == early.get(f"k{k}") == f"k{k}"
        assert cache.loads == early.loads == 20


@pytest.mark.parametrize(
    "changed",
    [
        {"prefix": ""},
        {"ttl_s": 0},
        {"lease_s": 0},
        {"stale_s": -1},
        {"missing_ttl_s": 0},
        {"poll_s": 0},
    ],
)
def test_arguments_that_make_no_sense(r, changed):
    options = {"prefix": "c", "load": never, "ttl_s": 1, "stale_s": 1, "lease_s": 1, **changed}
    with pytest.raises(LabError, match="SingleFlight needs a prefix"):
        SingleFlight(r, **options)


@pytest.mark.parametrize("changed", [{"prefix": ""}, {"ttl_s": 0}, {"beta": 0}, {"beta": -1}])
def test_arguments_of_early_refresh(r, changed):
    with pytest.raises(LabError, match="EarlyRefresh needs"):
        EarlyRefresh(r, **{"prefix": "e", "load": never, "ttl_s": 1, **changed})


def test_doctests(r):
    result = doctest.testmod(pattern, extraglobs={"r": r})
    assert result.attempted > 0 and result.failed == 0


KEYS = st.sampled_from(["a", "b"])


class Machine(RuleBasedStateMachine):
    """Against a model: value, whether it is old, who may make it."""

    server = None

    def __init__(self) -> None:
        super().__init__()
        self.r = Machine.server.client()
        self.r.flushall()
        self.cache = cache_of(self.r)
        self.value: dict[str, int] = {}
        self.old: set[str] = set()
        self.holder: dict[str, str] = {}
        self.expired: set[str] = set()  # leases that ran out; their holders may still be in time
        self.tokens: list[tuple[str, str]] = []

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        found = self.cache.read(key)
        assert found.usable is (key in self.value) and found.value == self.value.get(key)
        needed = key not in self.value or key in self.old
        taken = key in self.holder and key not in self.expired
        assert bool(found.token) is (needed and not taken)
        if found.token:
            self.holder[key] = found.token
            self.expired.discard(key)
            self.tokens.append((key, found.token))

    @rule(data=st.data(), value=st.integers(0, 99))
    def store(self, data: st.DataObject, value: int) -> None:
        if self.tokens:
            key, token = data.draw(st.sampled_from(self.tokens))
            assert self.cache.store(key, token, value) is (self.holder.get(key) == token)
            if self.holder.get(key) == token:
                del self.holder[key]
                self.value[key] = value
                self.old.discard(key)
                self.expired.discard(key)

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.tokens:
            key, token = data.draw(st.sampled_from(self.tokens))
            assert self.cache.give_up(key, token) is (self.holder.get(key) == token)
            if self.holder.get(key) == token:
                del self.holder[key]
                self.expired.discard(key)

    @rule(key=KEYS)
    def time_passes(self, key: str) -> None:
        if key in self.value:
            age(self.r, key)
            self.old.add(key)

    @rule(key=KEYS)
    def lease_runs_out(self, key: str) -> None:
        if key in self.holder:
            end_lease(self.r, key)
            self.expired.add(key)

    @invariant()
    def nothing_for_ever(self) -> None:
        assert all(self.r.pttl(key) > 0 for key in self.r.scan_iter())

    def teardown(self) -> None:
        self.r.close()


def test_against_a_model(lab):
    Machine.server = lab
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# ---------------------------------------------------------------- jitter and XFetch


def test_jittered():
    found = [jittered(60) for _ in range(2000)]
    assert 54 <= min(found) < 54.3 and 59.7 < max(found) <= 60
    assert jittered(60, 0) == 60


def test_xfetch_rule():
    assert due(0.0, 0.1, 1, 1.0) and due(-1, 0.1, 1, 1.0)  # expired
    assert not due(0.1, 0.1, 1, 1.0)
    assert due(0.1, 0.1, 1, math.exp(-1.0001)) and not due(0.1, 0.1, 1, math.exp(-0.9999))
    assert due(0.2, 0.1, 2, math.exp(-1.0001)) and not due(0.2, 0.1, 1, math.exp(-1.9999))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_xfetch_costs_e_to_the_one_over_beta(beta):
    """The formula, against a simulation of readers who come at random, 200 of them in a load."""
    chance, took, rate = random.Random(8), 0.1, 2000.0
    remakes = []
    for _ in range(300):
        now, ready, count = -3.0, math.inf, 0  # the value expires at 0
        while now < ready:
            now += chance.expovariate(rate)
            if now < ready and due(-now, took, beta, 1 - chance.random()):
                count += 1
                ready = min(ready, now + took)
        remakes.append(count)
    mean = sum(remakes) / len(remakes)
    error = 4 * (sum((n - mean) ** 2 for n in remakes) / len(remakes)) ** 0.5 / 300**0.5
    assert abs(mean - math.exp(1 / beta)) < error + 0.1


def test_early_refresh(r):
    def load(key: str) -> int:
        time.sleep(0.02)
        return early.loads

    early = EarlyRefresh(r, "e", load, ttl_s=60)
    assert [early.get("a") for _ in range(50)] == [1] * 50  # far from its end
    assert 59_000 < r.pttl("e:a") <= 60_000
    with wire(r) as w:
        early.get("a")
    assert (w.round_trips, w.commands) == (1, 2)
    r.pexpire("e:a", 15)  # closer than one load
    assert any(early.get("a") > 1 for _ in range(20))


def test_many_readers_never_find_it_missing(lab, r):
    missed = []

    def load(key: str) -> int:
        if begun.is_set() and r.pttl("e:hot") == -2:
            missed.append(key)
        time.sleep(0.03)
        return 1

    begun = threading.Event()
    early = EarlyRefresh(r, "e", load, ttl_s=0.5, beta=3)
    early.get("hot")
    begun.set()
    end = time.monotonic() + 2

    def reader(_: int) -> None:
        while time.monotonic() < end:
            early.get("hot")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader, range(8)))
    assert early.loads >= 4 and len(missed) <= 1  # a machine that stands still may miss one


# ---------------------------------------------------------------- the exercises


def test_exercise_rule():
    assert exercises.rule(None, lambda left, took, beta, chance: due(left, took, beta, chance))
    wrong = {
        lambda left, took, beta, chance: left <= 0: "waits until it has expired",
        lambda left, took, beta, chance: took * beta * math.log(chance) >= left: "negative",
        lambda left, took, beta, chance: -beta * math.log(chance) >= left: "how long",
        lambda left, took, beta, chance: -took * math.log(chance) >= left: "beta",
        lambda left, took, beta, chance: left <= took * beta: "chance",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.rule(None, answer)


def test_exercise_negative(learner, r, lab):

    def right(r, key, load, ttl_s, missing_ttl_s):
        found = r.get(key)
        if found is not None:
            return None if found == "" else found
        value = load(key)
        r.set(key, "" if value is None else value, ex=ttl_s if value else missing_ttl_s)
        return value

    def forgets(r, key, load, ttl_s, missing_ttl_s):
        found = r.get(key)
        if found is None and (found := load(key)) is not None:
            r.set(key, found, ex=ttl_s)
        return found

    def as_long(r, key, load, ttl_s, missing_ttl_s):
        return right(r, key, load, ttl_s, ttl_s)

    def says_the_mark(r, key, load, ttl_s, missing_ttl_s):
        right(r, key, load, ttl_s, missing_ttl_s)
        return r.get(key)

    def no_ttl(r, key, load, ttl_s, missing_ttl_s):
        value = right(r, key, load, ttl_s, missing_ttl_s)
        r.persist(key)
        return value

    assert exercises.negative(learner, right)
    for answer, hint in {
        forgets: "asked the database 10 times",
        as_long: "created",
        says_the_mark: "there is no such product",
        no_ttl: "no time to live",
    }.items():
        with pytest.raises(NotYet, match=hint):
            exercises.negative(learner, answer)
    assert not list(r.scan_iter("check:*"))
