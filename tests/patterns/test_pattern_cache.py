"""The one cache: right after an update, cheap at an expiry, there when Redis is not."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import within, without_ttl
from redis.backoff import NoBackoff
from redis.cluster import READ_COMMANDS
from redis.retry import Retry

from redis_lab.patterns import cache as pattern
from redis_lab.patterns.cache import AsyncCache, Cache, Entry, LoadTimeout, Versioned
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="these processes are forked")
QUICK = {"socket_timeout": 20, "socket_connect_timeout": 5, "retry": Retry(NoBackoff(), 0)}
# a busy machine is not a Redis that is away
OPTIONS = {"ttl_s": 60, "stale_s": 30, "lease_s": 30, "wait_s": 30, "budget_s": 20}


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture(scope="module")
def private():
    """A server to be filled, stalled and killed."""
    with server() as started:
        yield started


@pytest.fixture
def lonely(private):
    """A client of it, which does not try again; the server is up, and empty."""
    if not private.alive():
        private.restart()
    with private.client(**QUICK) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


def never(key: str) -> object:
    raise AssertionError(f"{key} must not be loaded")


def cache_of(client, load=never, **options) -> Cache:
    return Cache(client, "c", load, **{**OPTIONS, **options})


class Awaited:
    """AsyncCache with the methods of Cache, so that a test can hold both to the same."""

    def __init__(self, client: redis.asyncio.Redis, load=never, **options) -> None:
        async def loaded(key: str) -> object:
            return self.loader(key)

        self.loader, self.client, self.runner = load, client, asyncio.Runner()
        self.cache = AsyncCache(client, "c", loaded, **{**OPTIONS, **options})
        self.counts = self.cache.counts

    def __getattr__(self, name: str):
        async def call(*args):
            result = await getattr(self.cache, name)(*args)
            while self.cache._refreshes:
                await asyncio.sleep(0.001)
            return result

        return lambda *args: self.runner.run(call(*args))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


@pytest.fixture(params=["sync", "asyncio"])
def make(request, lab, r):
    """A maker of caches of one form or the other."""
    made = []

    def maker(load=never, **options):
        if request.param == "sync":
            return cache_of(r, load, **options)
        client = redis.asyncio.Redis.from_url(lab.url, decode_responses=True)
        made.append(Awaited(client, load, **options))
        return made[-1]

    maker.asynchronous = request.param == "asyncio"
    yield maker
    for one in made:
        one.close()


def age(r: redis.Redis, key: str) -> None:
    """Make a value stale, as if its `ttl_s` had passed."""
    r.hset(f"c:{key}", "fresh", 0)


def end_lease(r: redis.Redis, key: str) -> None:
    r.hset(f"c:{key}", "lease", 0)


def settled(r: redis.Redis, key: str = "a") -> bool:
    """Whether nobody loads the key any more."""
    return within(60, lambda: not r.hexists(f"c:{key}", "holder"))


def failing(key: str) -> object:
    raise ZeroDivisionError


# ---------------------------------------------------------------- one reader


def test_missing_fresh_stale(make, r):
    made = iter(range(1, 10))
    cache = make(lambda key: next(made))
    assert [cache.get("a") for _ in range(3)] == [1, 1, 1]
    age(r, "a")
    mine = cache.read("a")
    assert mine == Entry(1, False, True, mine.token) and mine.token
    assert cache.read("a") == Entry(1, False, True, None)  # the others get the stale one
    assert cache.get("a") == 1 and cache.counts["load"] == 1
    assert cache.store("a", mine.token, "two")
    assert cache.read("a") == Entry("two", True, True, None)
    age(r, "a")
    assert cache.get("a") == "two"  # at once, and loaded in the background
    assert settled(r)
    assert cache.get("a") == 2
    assert cache.counts == {"miss": 1, "load": 2, "hit": 3, "stale": 2}


@pytest.mark.parametrize(
    "value", [None, 0, "", "ü", [1, {"a": None}], False, 2**53, 1.5, {1: (2,)}]
)
@pytest.mark.parametrize("versioned", [True, False])
def test_a_miss_returns_what_a_hit_returns(make, value, versioned):
    loads = []

    def load(key):
        loads.append(key)
        return Versioned(value, 3) if versioned else value

    cache = make(load)
    first, second = cache.get("a"), cache.get("a")
    assert repr(first) == repr(second) and loads == ["a"]
    assert first == ({"1": [2]} if isinstance(value, dict) else value)


def test_times_to_live(make, r):
    cache = make(lambda key: None if key == "none" else key, missing_ttl_s=5)
    cache.get("a"), cache.get("none")
    assert 54_000 + 30_000 - 9000 < r.pttl("c:a") <= 90_000
    assert 0 < r.pttl("c:none") <= 5000  # an absence is not kept beyond its time
    cache.read("nothing yet")
    assert 15_000 < r.pttl("c:nothing yet") <= 30_000
    r.pexpire("c:a", 1000)
    age(r, "a")
    cache.read("a")  # its end must not end the lease
    assert 15_000 < r.pttl("c:a") <= 30_000
    cache.invalidate("never read", 1)
    cache.invalidate("neither", None)
    assert not without_ttl(r)


def test_jitter(r):
    cache = cache_of(r, jitter=0.1)
    found = [cache._encoded(1)[1][1] for _ in range(2000)]
    assert 54_000 <= min(found) < 54_300 and 59_700 < max(found) <= 60_000
    assert {cache_of(r, jitter=0)._encoded(1)[1][1] for _ in range(9)} == {60_000}


@pytest.mark.parametrize("background", [True, False])
def test_an_old_value_serves_while_loading_fails_and_has_an_end(make, r, background, caplog):
    caplog.set_level(logging.CRITICAL)
    cache = make(str, background=background)
    cache.get("a")
    load = cache if not make.asynchronous else None
    (load or cache).load = failing
    if make.asynchronous:
        cache.loader = failing
    ends = int(r.hget("c:a", "gone"))
    assert abs(ends - int(r.hget("c:a", "fresh")) - 30_000) <= 1
    for failures in (1, 2):
        age(r, "a")
        assert cache.get("a") == "a"  # stale-if-error
        assert settled(r) and cache.counts["load_failed"] == failures
    assert cache.counts["stale_if_error"] == (0 if background else 2)
    r.hset("c:a", "gone", 1)
    found = cache.read("a")
    assert found.token and not found.usable and found.value is None
    cache.give_up("a", found.token)
    with pytest.raises(ZeroDivisionError):
        cache.get("a")
    assert r.pttl("c:a") > 0


def test_round_trips(make, r, lab):
    cache = make(lambda key: key)
    client = cache.client if make.asynchronous else r
    cache.get("warm"), cache.invalidate("warm", 1), cache.give_up("warm", "x")

    def trips(call) -> tuple[int, int]:
        with wire(client) as w:
            call()
        return w.round_trips, w.commands

    assert trips(lambda: cache.get("a")) == (2, 2)
    assert trips(lambda: cache.get("a")) == (1, 1)
    age(r, "a")
    token = cache.read("a").token
    assert trips(lambda: cache.get("a")) == (1, 1)  # stale, somebody else is at it
    cache.give_up("a", token)
    assert trips(lambda: (cache.get("a"), settled(r))) == (2, 2) or not make.asynchronous
    assert trips(lambda: cache.invalidate("a")) == (1, 1)
    assert trips(lambda: cache.get("a")) == (2, 2)


# ---------------------------------------------------------------- leases


def test_a_lease_that_ran_out(make, r):
    cache = make()
    slow = cache.read("a").token
    assert slow and cache.read("a") == Entry(None, False, False, None)
    end_lease(r, "a")
    quick = cache.read("a").token
    assert quick and quick != slow
    cache.give_up("a", slow)
    assert not cache.store("a", slow, "late")
    assert cache.store("a", quick, "first")
    assert not cache.store("a", slow, "late")
    assert cache.read("a").value == "first"


def test_a_lease_ends_by_itself(make):
    cache = make(lambda key: "new", lease_s=0.2)
    token = cache.read("a").token
    assert cache.get("a") == "new" and cache.counts["wait"] > 0
    assert not cache.store("a", token, "late")


def test_waiting_has_a_deadline(make):
    cache = make(wait_s=0.2)
    assert cache.read("a").token  # somebody who never comes back
    with pytest.raises(LoadTimeout, match=r"'a' was not loaded by another within 0\.2 s"):
        cache.get("a")
    assert issubclass(LoadTimeout, pattern.CacheError)


def test_waiting_has_a_deadline_for_all_threads(r):
    cache = cache_of(r, wait_s=0.3)
    cache.read("a")
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        got = [pool.submit(cache.get, "a") for _ in range(8)]
    assert all(isinstance(one.exception(), LoadTimeout) for one in got)
    assert time.monotonic() - begun < 15  # together, not one after the other
    cache.invalidate("a")
    assert cache.get("a", lambda key: "ok") == "ok" and not cache._flights


def test_a_load_that_raises(make, r):
    cache = make(failing)
    for _ in range(2):  # at once, without waiting for a lease to end
        with pytest.raises(ZeroDivisionError):
            cache.get("a")
    assert cache.counts["wait"] == 0 and cache_of(r, lambda key: 1).get("a") == 1


@pytest.mark.parametrize("load", [failing, lambda key: Decimal(1)])
def test_all_who_wait_get_the_error_at_once(r, load):
    """Whatever fails: the lease is given up, and nobody waits for it to end."""
    here = threading.Barrier(6)

    def slow(key):
        if cache.counts["load"] == 1:  # a thread that comes late may find nobody else
            assert within(60, lambda: cache._flights[key].next)  # another waits
        return load(key)

    def get(_):
        here.wait(60)
        return cache.get("a")

    cache = cache_of(r, slow, lease_s=600, wait_s=600)
    with ThreadPoolExecutor(6) as pool:
        got = [pool.submit(get, k) for k in range(6)]
        assert within(60, lambda: all(one.done() for one in got))
    assert {type(one.exception()) for one in got} <= {ZeroDivisionError, TypeError}
    assert cache.counts["load"] < 6 and not r.hexists("c:a", "holder")


def test_an_interrupted_leader_does_not_interrupt_the_others(r):
    def interrupted(key):
        assert within(60, lambda: cache._flights[key].next)
        raise KeyboardInterrupt

    cache = cache_of(r, interrupted)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "a")
        assert within(60, lambda: "a" in cache._flights)
        second = pool.submit(cache.get, "a", lambda key: "fine")
        assert second.result(60) == "fine"
        assert isinstance(first.exception(60), KeyboardInterrupt)


def test_sent_twice_and_late(r):
    """redis-py sends a call again whose reply was lost; the network may deliver one late."""
    read, store, give_up, invalidate = cache_of(r)._scripts
    fresh = ["v", 60_000, 90_000, ""]
    assert read(keys=["c:a"], args=["me", 10_000]) == ["", 0, 1]
    assert read(keys=["c:a"], args=["me", 10_000]) == ["", 0, 1]
    assert read(keys=["c:a"], args=["you", 10_000]) == ["", 0, 0]
    assert store(keys=["c:a"], args=["me", *fresh]) == 1
    assert store(keys=["c:a"], args=["me", *fresh]) == 1  # it says what it did
    assert store(keys=["c:a"], args=["you", *fresh]) == 0
    invalidate(keys=["c:a"], args=["", 60_000])
    store(keys=["c:a"], args=["me", *fresh])  # late: after what came next
    assert read(keys=["c:a"], args=["she", 10_000]) == ["", 0, 1]
    give_up(keys=["c:a"], args=["me"])  # late as well: it is not my lease
    assert read(keys=["c:a"], args=["you", 10_000]) == ["", 0, 0]
    invalidate(keys=["c:b"], args=[9, 60_000])
    invalidate(keys=["c:b"], args=[3, 60_000])  # an older announcement, late
    assert r.hget("c:b", "floor") == "9"


# ---------------------------------------------------------------- never stale


def interleavings(*lengths: int):
    """Every order of the steps of several actors that keeps each actor's own order."""
    if not any(lengths):
        yield ()
    for actor, left in enumerate(lengths):
        if left:
            for rest in interleavings(*lengths[:actor], left - 1, *lengths[actor + 1 :]):
                yield actor, *rest


class Row:
    """What a database holds; None: deleted. A row that is created again begins at version 1."""

    def __init__(self) -> None:
        self.value, self.version = 1, 1

    def loaded(self, versioned: bool) -> object:
        return Versioned(self.value, self.version) if versioned and self.value else self.value


def reader(cache: Cache, key: str, row: Row, versioned: bool, seen: list):
    found = cache.read(key)
    yield
    if found.usable:
        seen.append(found.value)
    if found.token:
        loaded = row.loaded(versioned)
        yield
        cache.store(key, found.token, loaded)


def updater(cache: Cache, key: str, row: Row, versioned: bool):
    row.value, row.version = 2, 2
    yield
    cache.invalidate(key, 2 if versioned else None)


def deleter(cache: Cache, key: str, row: Row, versioned: bool):
    row.value = None
    yield
    cache.invalidate(key)


def phoenix(cache: Cache, key: str, row: Row, versioned: bool):
    """Deletes the row, and creates it again: with version 1."""
    row.value = None
    yield
    cache.invalidate(key)
    yield
    row.value, row.version = 7, 1
    yield
    cache.invalidate(key, 1 if versioned else None)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(("writer", "steps"), [(updater, 2), (deleter, 2), (phoenix, 4)])
def test_no_interleaving_leaves_an_old_value(r, versioned, writer, steps):
    """Two readers of three steps (look, load, store) and a writer."""
    orders = list(interleavings(3, 3, steps))
    if len(orders) > 560:
        orders = random.Random(5).sample(orders, 300)
    cache, kept = cache_of(r), 0
    for number, order in enumerate(orders):
        key, row, seen = str(number), Row(), []
        readers = [reader(cache, key, row, versioned, seen) for _ in range(2)]
        actors = [*readers, writer(cache, key, row, versioned)]
        for actor in order:
            next(actors[actor], None)
        found = cache.read(key)
        assert not found.usable or found.value == row.value, order
        kept += found.usable
        if found.token:  # and what is true now can be cached, an absence as well
            assert cache.store(key, found.token, row.loaded(versioned))
            assert cache.read(key) == Entry(row.value, True, True, None)
    assert kept > 10


def test_an_older_version_does_not_overwrite_a_newer_one(r):
    """The writer of 6 was killed before it announced; a replica of the database still says 5."""
    cache = cache_of(r)
    slow = cache.read("a").token
    end_lease(r, "a")
    assert cache.get("a", lambda key: Versioned("six", 6)) == "six"
    assert not cache.store("a", slow, Versioned("five", 5))
    age(r, "a")
    token = cache.read("a").token
    assert not cache.store("a", token, Versioned("five", 5))
    found = cache.read("a")
    assert found.value == "six" and found.token  # another may try
    cache.invalidate("b", 8)
    assert cache.get("b", lambda key: Versioned("seven", 7)) == "seven"
    assert cache.counts["overtaken"] == 1 and not cache.read("b").usable


def test_what_was_deleted_is_cached_as_absent_and_can_come_back(make):
    rows = {"a": (7, "lamp")}

    def load(key):
        version, value = rows.get(key, (0, None))
        return Versioned(value, version) if value else None

    cache = make(load)
    assert cache.get("a") == "lamp"
    del rows["a"]
    cache.invalidate("a")
    assert [cache.get("a") for _ in range(50)] == [None] * 50 and cache.counts["load"] == 2
    rows["a"] = (1, "a new lamp")
    cache.invalidate("a", 1)
    assert [cache.get("a") for _ in range(50)] == ["a new lamp"] * 50 and cache.counts["load"] == 3


def test_a_get_that_begins_after_invalidate_does_not_join_an_older_load(lab, r):
    async def play() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            row, may_end = ["old"], asyncio.Event()

            async def load(key: str) -> str:
                loaded = row[0]
                await may_end.wait()
                return loaded

            cache = AsyncCache(client, "c", load, **OPTIONS)
            early = asyncio.create_task(cache.get("a"))
            while not cache.counts["load"]:
                await asyncio.sleep(0.001)
            row[0] = "new"
            await cache.invalidate("a")
            late = [asyncio.create_task(cache.get("a")) for _ in range(5)]
            await asyncio.sleep(0.01)
            may_end.set()
            return [await early, *await asyncio.gather(*late), cache.counts["load"]]

    assert asyncio.run(play()) == ["old", *["new"] * 5, 2]


def in_processes(target, jobs: list[tuple]) -> list:
    """What each of these says that it puts into its pipe; each must make its own client."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in jobs]
    crew = [
        fork.Process(target=target, args=(*job, pipe), daemon=True)
        for job, (_, pipe) in zip(jobs, pipes, strict=True)
    ]
    for process in crew:
        process.start()
    said = []
    for receive, _ in pipes:
        assert receive.poll(90)
        said.append(receive.recv())
    for process in crew:
        process.join(30)
    return said


def read_and_write(url: str, path: str, role: str, loads: int, versioned: bool, pipe) -> None:
    """Read or update three rows until so many loads were made; how many reads were stale."""
    client = redis.Redis.from_url(url, decode_responses=True)
    rows = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    chance = random.Random(os.getpid())

    def load(key: str) -> object:
        client.incr("loads")
        own = sqlite3.connect(path, timeout=60)
        [version] = own.execute("SELECT version FROM row WHERE id = ?", (key,)).fetchone()
        own.close()
        time.sleep(chance.uniform(0, 0.002))  # room for the writer to overtake
        return Versioned(version, version) if versioned else version

    cache = Cache(client, "row", load, **{**OPTIONS, "ttl_s": 0.05, "stale_s": 5})
    stale = reads = 0
    while int(client.get("loads") or 0) < loads:
        key = str(chance.randrange(3))
        reads += 1
        if role == "writer":
            change = "UPDATE row SET version = version + 1 WHERE id = ? RETURNING version"
            [version] = rows.execute(change, (key,)).fetchone()
            cache.invalidate(key, version if versioned else None)
            client.hset("announced", key, version)
            time.sleep(chance.uniform(0, 0.003))
        else:
            stale += int(client.hget("announced", key) or 0) > cache.get(key)
    pipe.send((stale, reads, cache.counts["hit"] + cache.counts["stale"]))


def race(lab, tmp_path, loads: int, versioned: bool) -> list[int]:
    path = str(tmp_path / "rows.db")
    with sqlite3.connect(path) as rows:
        rows.execute("PRAGMA journal_mode = wal")
        rows.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, version INTEGER)")
        rows.executemany("INSERT INTO row VALUES (?, 1)", [(k,) for k in range(3)])
    rows.close()
    roles = ("writer", "reader", "reader", "reader")
    _, *readers = in_processes(
        read_and_write, [(lab.url, path, role, loads, versioned) for role in roles]
    )
    return [sum(column) for column in zip(*readers, strict=True)]


@FORK
@pytest.mark.parametrize("versioned", [True, False])
def test_no_stale_read_between_processes(lab, r, tmp_path, versioned):
    stale, reads, hits = race(lab, tmp_path, 150, versioned)
    assert stale == 0 and reads > 150 and hits > 10


@FORK
@pytest.mark.drill
@pytest.mark.parametrize("versioned", [True, False])
def test_no_stale_read_between_processes_for_long(lab, r, tmp_path, versioned, figure):
    stale, *_ = race(lab, tmp_path, 10_000, versioned)
    figure(writes=10_000, stale_reads=stale)
    assert stale == 0


# ---------------------------------------------------------------- one loads, in many processes


def read_hot(url: str, stale_s: float, loads: int, pipe) -> None:
    """Eight threads read one key until it was loaded so often, in all processes together."""
    client = redis.Redis.from_url(url, decode_responses=True)
    reads, wrong = [], []

    def load(key: str) -> str:
        client.incr("loads")
        if client.incr("running") > 1:
            client.incr("overlaps")
        time.sleep(0.05)
        client.decr("running")
        return key

    cache = cache_of(client, load, ttl_s=0.05, stale_s=stale_s, wait_s=60)

    def reader(_: int) -> None:
        while int(client.get("loads") or 0) < loads:
            reads.append(1)
            if cache.get("hot") != "hot":
                wrong.append(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader, range(8)))
    assert within(60, lambda: cache._threads._value == 8)  # no refresh under way
    pipe.send((len(reads), len(wrong), cache.counts["load"], cache.counts["away"]))


def never_two_at_a_time(lab, r, stale_s: float, loads: int) -> None:
    said = in_processes(read_hot, [(lab.url, stale_s, loads)] * 4)
    reads, wrong, loaded, away = map(sum, zip(*said, strict=True))
    assert (wrong, away) == (0, 0) and r.get("overlaps") is None
    assert loaded == int(r.get("loads")) >= loads
    assert reads > 2 * loads
    assert not without_ttl(r, "c:*")


@FORK
@pytest.mark.parametrize("stale_s", [0, 30])
def test_four_processes_never_load_at_a_time(lab, r, stale_s):
    never_two_at_a_time(lab, r, stale_s, 4)


@FORK
@pytest.mark.drill
@pytest.mark.parametrize("stale_s", [0, 30])
def test_four_processes_never_load_at_a_time_for_long(lab, r, stale_s, figure):
    never_two_at_a_time(lab, r, stale_s, 100)
    figure(processes=4, loads=int(r.get("loads")), at_the_same_time=int(r.get("overlaps") or 0))


def load_and_die(url: str) -> None:
    def load(key: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    client = redis.Redis.from_url(url)
    Cache(client, "c", load, lease_s=0.3, background=False).get("hot")


@FORK
@pytest.mark.parametrize("stale", [True, False])
def test_the_one_that_loads_is_killed(lab, r, stale):
    cache = cache_of(r, lambda key: "new", lease_s=0.3)
    if stale:
        cache.get("hot")
        age(r, "hot")
    died = multiprocessing.get_context("fork").Process(target=load_and_die, args=(lab.url,))
    died.start()
    died.join(30)
    assert died.exitcode == -signal.SIGKILL and r.hexists("c:hot", "holder")
    if stale:
        cache.load = lambda key: "newer"
        assert cache.get("hot") == "new"  # nobody waits
        assert within(60, lambda: cache.get("hot") == "newer")  # once the lease is over
    else:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(cache.get, ["hot"] * 6)) == ["new"] * 6
        assert cache.counts["load"] == 1


# ---------------------------------------------------------------- many in one process


def test_three_hundred_tasks_on_a_pool_of_a_hundred(lab, r):
    async def many() -> tuple:
        async with redis.asyncio.Redis.from_url(lab.url, max_connections=100) as client:

            async def load(key: str) -> str:
                await asyncio.sleep(0.05)
                return key

            cache = AsyncCache(client, "c", load, **OPTIONS)
            first = await asyncio.gather(*(cache.get("a") for _ in range(300)))
            again = await asyncio.gather(*(cache.get("a") for _ in range(300)))
            return set(first + again), cache.counts["load"], cache.counts["away"], cache._flights

    assert asyncio.run(many()) == ({"a"}, 1, 0, {})


def test_sixty_threads_on_a_pool_of_ten(lab, r):
    def load(key):
        time.sleep(0.05)
        return key

    with lab.client(max_connections=10) as client:
        cache, here = cache_of(client, load), threading.Barrier(60)

        def get(_):
            here.wait(60)
            return cache.get("a"), cache.get("a")

        with ThreadPoolExecutor(60) as pool:
            assert set(pool.map(get, range(60))) == {("a", "a")}
    assert cache.counts["load"] == 1 and cache.counts["away"] == 0 and not cache._flights


def test_each_caller_gets_a_copy_of_its_own(lab, r):
    async def two() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:

            async def load(key: str) -> list:
                return []

            cache = AsyncCache(client, "c", load, **OPTIONS)
            got = await asyncio.gather(*(cache.get("a") for _ in range(4)))
            got[1].append("mine")
            return got

    assert sorted(asyncio.run(two())) == [[], [], [], ["mine"]]


@pytest.mark.parametrize("moment", [0, 0.001, 0.05])
def test_a_caller_that_is_cancelled_leaves_nothing_behind(lab, r, moment):
    async def cancelled() -> object:
        async with redis.asyncio.Redis.from_url(lab.url) as client:

            async def for_ever(key: str) -> object:
                await asyncio.sleep(600)

            async def quick(key: str) -> object:
                return "quick"

            cache = AsyncCache(client, "c", for_ever, **{**OPTIONS, "lease_s": 600, "wait_s": 600})
            callers = [asyncio.create_task(cache.get("a")) for _ in range(3)]
            await asyncio.sleep(moment)
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            assert not cache._flights
            other = AsyncCache(client, "c", quick, **{**OPTIONS, "lease_s": 600, "wait_s": 600})
            return await asyncio.wait_for(other.get("a"), 60)

    assert asyncio.run(cancelled()) == "quick"


def test_one_caller_of_several_is_cancelled(lab, r):
    async def one_of_three() -> tuple:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            may_end = asyncio.Event()

            async def load(key: str) -> str:
                await may_end.wait()
                return "loaded"

            cache = AsyncCache(client, "c", load, **OPTIONS)
            early, *others = [asyncio.create_task(cache.get("a")) for _ in range(3)]
            while not cache.counts["load"]:
                await asyncio.sleep(0.001)
            others[0].cancel()
            await asyncio.wait([others[0]])
            may_end.set()
            return await early, await others[1], others[0].cancelled(), cache.counts["load"]

    assert asyncio.run(one_of_three()) == ("loaded", "loaded", True, 1)


# ---------------------------------------------------------------- Redis is away


def test_redis_is_full(private, lonely):
    cache = cache_of(lonely, lambda key: f"<{key}>", pause_s=0.001)
    cache.get("there")
    lonely.config_set("maxmemory", 1)
    assert cache.get("there") == "<there>" and cache.counts["hit"] == 1  # what is there is served
    assert [cache.get("a") for _ in range(3)] == ["<a>"] * 3
    assert cache.counts["away"] == 3
    lonely.config_set("maxmemory", 0)
    token = cache.read("b").token
    lonely.config_set("maxmemory", 1)  # between the look and the store
    assert cache._load("b", lambda key: 1, token) == "1"
    lonely.config_set("maxmemory", 0)
    assert cache.read("b").token  # the lease was given up all the same


def test_redis_is_a_replica_now(private, lonely):
    cache = cache_of(lonely, lambda key: f"<{key}>", pause_s=0.001)
    lonely.replicaof("127.0.0.1", 1)
    try:
        assert cache.get("a") == "<a>" and cache.counts["away"] == 1
        with pytest.raises(redis.ResponseError):
            cache.invalidate("a")  # never skipped in silence
    finally:
        lonely.replicaof("NO", "ONE")
    assert cache.get("a") == "<a>" and lonely.exists("c:a")


@pytest.mark.parametrize("form", ["sync", "asyncio"])
def test_redis_dies_during_a_load_and_comes_back(private, lonely, form):
    def load(key):
        if private.alive() and not cache.counts["away"]:
            private.kill()
        return f"<{key}>"

    if form == "sync":
        cache = cache_of(lonely, load, pause_s=0.05)
    else:
        client = redis.asyncio.Redis.from_url(private.url, decode_responses=True, **QUICK)
        cache = Awaited(client, load, pause_s=0.05)
    assert cache.get("a") == "<a>"  # the value in hand is returned
    assert [cache.get("a") for _ in range(3)] == ["<a>"] * 3  # without Redis
    assert cache.counts["load"] == 4
    with pytest.raises(redis.ConnectionError):
        cache.invalidate("a")
    private.restart()
    assert within(60, lambda: cache.get("a") and lonely.exists("c:a"))
    if form == "asyncio":
        cache.close()


def test_redis_stands_still_and_only_the_first_hang(private, lonely):
    """The client would wait for 20 s; those who come later do not."""
    cache = cache_of(lonely, lambda key: key, budget_s=0.05, pause_s=600)
    with private.stalled(), ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get, "first")
        assert within(60, lambda: cache._gate._asking)
        began = next(iter(cache._gate._asking.values()))
        assert within(60, lambda: time.monotonic() - began > 0.05)
        assert [cache.get(str(k)) for k in range(50)] == [str(k) for k in range(50)]
        assert not first.done() and cache.counts["away"] == 50
        os.kill(private.pid, signal.SIGCONT)
        assert first.result(30) == "first"


def test_redis_stands_still_for_asyncio(private, lonely):
    async def stalled() -> tuple:
        client = redis.asyncio.Redis.from_url(private.url, socket_timeout=None)
        async with client:

            async def load(key: str) -> str:
                return key

            cache = AsyncCache(client, "c", load, **{**OPTIONS, "budget_s": 0.1, "pause_s": 600})
            got = await asyncio.wait_for(asyncio.gather(*(cache.get(str(k)) for k in range(9))), 30)
            return got, cache.counts["away"]

    with private.stalled():
        assert asyncio.run(stalled()) == ([str(k) for k in range(9)], 9)


def test_one_asks_whether_redis_is_back():
    gate = pattern._Gate(slow_s=60, pause_s=0.05)
    with pytest.raises(pattern._Away), gate():
        raise redis.ConnectionError
    with pytest.raises(pattern._Away), gate():
        pytest.fail("must not ask")
    time.sleep(0.06)
    with gate(), pytest.raises(pattern._Away), gate():  # one tries, and
        pytest.fail("a second one must not ask")
    with gate(), gate():
        pass  # it is back


def test_a_mistake_is_not_taken_for_absence(lab, r):
    cache = cache_of(r)
    r.set("c:a", "a string")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.get("a")
    with lab.client(password="wrong", **QUICK) as stranger, pytest.raises(redis.RedisError):
        cache_of(stranger).get("a")
    for error in (redis.AuthenticationError(), redis.ResponseError("ERR"), ValueError()):
        assert not pattern._is_unable(error)
    for error in (
        redis.ResponseError("MISCONF Redis is"),
        pattern.MaxConnectionsError(),
        OSError(),
    ):
        assert pattern._is_unable(error)


def test_a_restart_in_the_middle(private, lonely):
    """What the server forgets is not promised, but nothing old comes back by it."""
    cache = cache_of(lonely, lambda key: "new")
    mine = cache.read("a")
    private.restart()  # script cache, connections and keys are gone
    lonely.connection_pool.disconnect()
    assert not cache.store("a", mine.token, "old")
    assert cache.get("a") == "new"
    lonely.script_flush()
    age(lonely, "a")
    assert cache.get("a") == "new" and settled(lonely) and cache.counts["load"] == 2


# ---------------------------------------------------------------- forms, options, refusals


def test_replies_as_bytes(lab, r):
    with lab.client(decode_responses=False) as raw:
        cache = cache_of(raw, lambda key: {"ü": key})
        assert cache.get("a") == cache.get("a") == {"ü": "a"}
        kept = {Decimal("1.5"): {1, 2}}
        pickled = Cache(raw, "p", lambda key: kept, dumps=pickle.dumps, loads=pickle.loads)
        assert pickled.get("a") == pickled.get("a") == kept and pickled.counts["load"] == 1
    with pytest.raises(ValueError, match="decode_responses=False"):
        cache_of(r, dumps=pickle.dumps, loads=pickle.loads)


def test_both_forms_share_a_cache(lab, r, make):
    assert make(lambda key: 1).get("a") == 1
    assert cache_of(r).get("a") == 1


def test_decorator(r, lab):
    cache = cache_of(r)
    calls = []

    @cache.cached
    def area(width: int, height: int = 1) -> int:
        "How large."
        calls.append(width)
        return width * height

    assert [area(2, 3), area(2, 3), area(2)] == [6, 6, 2] and calls == [2, 2]
    assert area.__doc__ == "How large." and area.key(2, 3).endswith("area:2, 3")
    cache.invalidate(area.key(2, 3))
    assert area(2, 3) == 6 and calls == [2, 2, 2]

    async def awaited() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:

            @AsyncCache(client, "c", **OPTIONS).cached
            async def square(n: int) -> int:
                calls.append(n)
                return n * n

            return [await square(9), await square(9)]

    assert asyncio.run(awaited()) == [81, 81] and calls[-2:] == [2, 9]


def test_events(r):
    events = []
    cache = cache_of(r, lambda key: key, on_event=lambda *event: events.append(event))
    cache.get("a"), cache.get("a"), cache.invalidate("a"), cache.get("a")
    miss = [("miss", "a"), ("load", "a")]
    assert events == [*miss, ("hit", "a"), *miss]


def test_on_a_cluster(three):
    with three.client() as client:
        cache = cache_of(client, lambda key: key)
        for _ in range(2):
            for k in range(20):
                assert cache.get(f"k{k}") == f"k{k}"
        cache.invalidate("k3", 2)
        assert cache.get("k3") == "k3" and cache.counts["load"] == 21

        async def awaited() -> list:
            one = three.nodes[0]
            async with redis.asyncio.RedisCluster(host=one.host, port=one.port) as client:
                return [
                    await AsyncCache(client, "c", **OPTIONS).get(f"k{k}", never) for k in range(9)
                ]

        assert asyncio.run(awaited()) == [f"k{k}" for k in range(9)]


def test_a_read_never_comes_from_a_replica_or_from_the_client():
    """It is a script that may write, so redis-py sends it to the primary and does not cache it."""
    assert "EVALSHA" not in READ_COMMANDS and "EVALSHA_RO" in READ_COMMANDS


def test_wrong_clients(r, lab):
    with pytest.raises(TypeError, match="wrong client; use AsyncCache"):
        cache_of(redis.asyncio.Redis())
    with pytest.raises(TypeError, match="wrong client; use AsyncCache"):
        cache_of(r.pipeline())
    with pytest.raises(TypeError, match="wrong client; use Cache"):
        AsyncCache(r, "c")
    with pytest.raises(TypeError, match="nothing to load with"):
        Cache(r, "c").get("a")
    assert r.dbsize() == 0


@pytest.mark.parametrize(
    "changed",
    [
        *({"prefix": ""}, {"ttl_s": 0}, {"lease_s": 0}, {"stale_s": -1}, {"missing_ttl_s": 0}),
        *({"poll_s": 0}, {"wait_s": -1}, {"jitter": 1}, {"ttl_s": float("nan")}, {"ttl_s": 1e17}),
        *({"stale_s": float("inf")}, {"lease_s": 0.0001}, {"budget_s": 0}),
    ],
)
def test_arguments_that_make_no_sense(r, changed):
    options = {"prefix": "c", "load": never, **OPTIONS, **changed}
    with pytest.raises(ValueError, match=r"the cache needs a prefix|must be at least 0"):
        Cache(r, **options)


@pytest.mark.parametrize("version", [-1, 1.5, True, "2", 2**53 + 1, float("nan")])
def test_versions_that_make_no_sense(r, version):
    cache = cache_of(r, lambda key: Versioned(1, version))
    with pytest.raises(ValueError, match="a version is a whole number"):
        cache.get("a")
    with pytest.raises(ValueError, match="a version is a whole number"):
        cache.invalidate("a", version)
    assert cache.read("a").token  # nothing is left


def test_large_versions_are_kept_exactly(r):
    cache = cache_of(r)
    cache.invalidate("a", 2**53 - 1)
    cache.invalidate("a", 2**53 - 2)
    assert r.hget("c:a", "floor") == str(2**53 - 1)
    assert not cache.store("a", cache.read("a").token, Versioned(1, 2**53 - 2))
    assert cache.store("a", cache.read("a").token, Versioned(1, 2**53 - 1))


def test_it_stands_alone():
    """A file to copy: redis-py and the standard library, nothing of ours."""
    for name in ("cache", "cache_aside", "stampede"):
        with open(pattern.__file__.replace("cache.py", f"{name}.py")) as file:
            text = file.read()
        assert "redis_lab" not in text and "from ." not in text


# ---------------------------------------------------------------- against a model


KEYS = st.sampled_from(["a", "b"])


class Machine(RuleBasedStateMachine):
    """Value, version, whether it is stale, who may load it."""

    server = None

    def __init__(self) -> None:
        super().__init__()
        self.r = Machine.server.client()
        self.r.flushall()
        self.cache = cache_of(self.r)
        self.value: dict[str, int] = {}
        self.floor: dict[str, int] = {}
        self.stale: set[str] = set()
        self.holder: dict[str, str] = {}
        self.expired: set[str] = set()  # leases that ran out; their holders may still be in time
        self.tokens: list[tuple[str, str]] = []
        self.stored: dict[str, str] = {}

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        found = self.cache.read(key)
        assert found.usable is (key in self.value) and found.value == self.value.get(key)
        needed = key not in self.value or key in self.stale
        taken = key in self.holder and key not in self.expired
        assert bool(found.token) is (needed and not taken) and found.fresh is not needed
        if found.token:
            self.holder[key] = found.token
            self.expired.discard(key)
            self.tokens.append((key, found.token))

    @rule(data=st.data(), value=st.integers(0, 99), version=st.none() | st.integers(0, 5))
    def store(self, data: st.DataObject, value: int, version: int | None) -> None:
        if not self.tokens:
            return
        key, token = data.draw(st.sampled_from(self.tokens))
        loaded = value if version is None else Versioned(value, version)
        holds = self.holder.get(key) == token
        newer = version is None or version >= self.floor.get(key, 0)
        again = not holds and self.stored.get(key) == token
        assert self.cache.store(key, token, loaded) is ((holds and newer) or again)
        if holds:
            del self.holder[key]
            self.expired.discard(key)
        if holds and newer:
            self.value[key], self.stored[key] = value, token
            self.stale.discard(key)
            self.floor.pop(key, None)
            if version is not None:
                self.floor[key] = version

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.tokens:
            key, token = data.draw(st.sampled_from(self.tokens))
            self.cache.give_up(key, token)
            if self.holder.get(key) == token:
                del self.holder[key]
                self.expired.discard(key)

    @rule(key=KEYS, version=st.none() | st.integers(0, 5))
    def invalidate(self, key: str, version: int | None) -> None:
        self.cache.invalidate(key, version)
        self.value.pop(key, None)
        self.stale.discard(key)
        self.holder.pop(key, None)
        self.expired.discard(key)
        before = self.floor.pop(key, 0)
        if version is not None:
            self.floor[key] = max(before, version)

    @rule(key=KEYS)
    def time_passes(self, key: str) -> None:
        if key in self.value:
            age(self.r, key)
            self.stale.add(key)

    @rule(key=KEYS)
    def lease_runs_out(self, key: str) -> None:
        if key in self.holder:
            end_lease(self.r, key)
            self.expired.add(key)

    @invariant()
    def nothing_for_ever(self) -> None:
        assert not without_ttl(self.r)

    def teardown(self) -> None:
        self.r.close()


def against_a_model(lab, examples: int) -> None:
    Machine.server = lab
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_against_a_model(lab):
    against_a_model(lab, 20)


@pytest.mark.drill
def test_against_a_model_for_long(lab, figure):
    against_a_model(lab, 1000)
    figure(histories=1000, unlike_the_model=0)
