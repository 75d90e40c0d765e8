"""The finished patterns: their contracts under concurrency, crashes and restarts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
import redis
import redis.asyncio
from alone import NO_NUMBERS, foreign_imports
from processes import within, without_ttl
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.cluster import LoadBalancingStrategy
from redis.retry import Retry

from redis_lab.patterns.cache_aside import CacheAside
from redis_lab.patterns.counter import AsyncExpiringCounter, ExpiringCounter
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="these processes are forked")


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


def in_processes(target, jobs: list[tuple]) -> list[multiprocessing.Process]:
    """Fork one process a job; each must make its own client."""
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=target, args=job, daemon=True) for job in jobs]
    for process in started:
        process.start()
    return started


# ---------------------------------------------------------------- ExpiringCounter


def test_window_starts_with_the_first_hit_and_is_not_prolonged(r):
    hits = ExpiringCounter(r, "c", ttl_s=1)
    assert [hits.hit("a"), hits.hit("a"), hits.hit("b")] == [1, 2, 1]
    ends = r.pexpiretime("c:a")
    assert hits.hit("a") == 3
    assert r.pexpiretime("c:a") == ends
    time.sleep(max(0, ends / 1000 - time.time()) + 0.05)
    assert hits.hit("a") == 1


def test_hit_costs_one_round_trip(r):
    hits = ExpiringCounter(r, "c", ttl_s=60)
    with wire(r) as w:
        hits.hit("a")
    assert w.round_trips == 1
    assert sorted(w.by_command) == ["EXEC", "INCRBY", "MULTI", "PEXPIRE"]
    assert w.commands == 4


def test_counts_of_threads_are_distinct(r):
    hits = ExpiringCounter(r, "c", ttl_s=60)
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: hits.hit("a"), range(8 * 200)))
    assert sorted(counts) == list(range(1, 8 * 200 + 1))
    assert without_ttl(r) == []


def hit_and_tell(url: str, times: int, pipe) -> None:
    hits = ExpiringCounter(redis.Redis.from_url(url), "c", ttl_s=60)
    pipe.send([hits.hit("a") for _ in range(times)])


@FORK
def test_counts_of_processes_are_distinct(lab, r):
    receive, send = zip(*(multiprocessing.Pipe(duplex=False) for _ in range(4)), strict=True)
    processes = in_processes(hit_and_tell, [(lab.url, 200, pipe) for pipe in send])
    counts = [count for pipe in receive for count in pipe.recv()]
    for process in processes:
        process.join(10)
    assert sorted(counts) == list(range(1, 801))


def hit_for_ever(url: str, prefix: str) -> None:
    hits = ExpiringCounter(redis.Redis.from_url(url), prefix, ttl_s=60)
    for n in range(10**9):
        hits.hit(str(n))  # each hit is a key's first one


def hit_naively_for_ever(url: str, prefix: str) -> None:
    client = redis.Redis.from_url(url)
    for n in range(10**9):
        if client.incr(f"{prefix}:{n}") == 1:
            client.expire(f"{prefix}:{n}", 60)


def kill_while_hitting(lab, r, target, prefix: str, chance: random.Random) -> None:
    """Start a process that hits, and kill it at a random moment once it is at it."""
    [process] = in_processes(target, [(lab.url, prefix)])
    deadline = time.monotonic() + 10
    while not r.exists(f"{prefix}:0") and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.01))
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def no_key_without_ttl(lab, r, kills: int) -> None:
    chance = random.Random(1)
    for kill in range(kills):
        kill_while_hitting(lab, r, hit_for_ever, f"k{kill}", chance)
    assert r.dbsize() > kills
    assert without_ttl(r) == []


@FORK
def test_a_killed_process_leaves_no_key_without_ttl(lab, r):
    no_key_without_ttl(lab, r, 8)


@FORK
@pytest.mark.drill
def test_many_killed_processes_leave_no_key_without_ttl(lab, r, figure):
    no_key_without_ttl(lab, r, 300)
    figure(kills=300, keys_without_a_TTL=len(without_ttl(r)))


@FORK
def test_a_killed_naive_process_does_leave_one(lab, r):
    """So the test above would notice."""
    chance = random.Random(2)
    for kill in range(100):
        kill_while_hitting(lab, r, hit_naively_for_ever, f"k{kill}", chance)
        if without_ttl(r):
            return
    pytest.fail("a hundred kills never fell between INCR and EXPIRE")


def test_counter_refuses_what_cannot_work(r):
    for prefix, ttl_s in [("", 60), ("c", 0), ("c", 0.5), *(("c", no) for no in NO_NUMBERS)]:
        with pytest.raises(ValueError, match="TTL of at least one second"):
            ExpiringCounter(r, prefix, ttl_s)
        with pytest.raises(ValueError, match="TTL of at least one second"):
            AsyncExpiringCounter(redis.asyncio.Redis(), prefix, ttl_s)
    assert r.dbsize() == 0


def test_counter_takes_a_ttl_that_is_not_whole(r):
    for ttl_s in (90.0, 1.5):
        assert ExpiringCounter(r, f"c{ttl_s}", ttl_s).hit("a") == 1
        assert 0 < r.pttl(f"c{ttl_s}:a") <= ttl_s * 1000


def test_counter_refuses_the_wrong_client(lab, r):
    for wrong in (redis.asyncio.Redis.from_url(lab.url), r.pipeline()):
        with pytest.raises(TypeError, match="AsyncExpiringCounter"):
            ExpiringCounter(wrong, "c", 60)
    with pytest.raises(TypeError, match="Not with a"):
        AsyncExpiringCounter(r, "c", 60)


def test_counter_for_asyncio(lab, r):
    async def hit() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            hits = AsyncExpiringCounter(client, "c", ttl_s=60)
            return await asyncio.gather(*(hits.hit("a") for _ in range(50)))

    assert sorted(asyncio.run(hit())) == list(range(1, 51))
    assert 0 < r.ttl("c:a") <= 60


def test_counter_needs_what_its_docstring_says(lab, r):
    may = ["+incrby", "+pexpire", "+multi", "+exec"]
    r.acl_setuser("shop", enabled=True, nopass=True, keys=["p:*"], commands=["-@all", *may])
    with lab.client(username="shop", password="") as client:
        assert ExpiringCounter(client, "p", 60).hit("a") == 1


def test_counter_stands_alone():
    assert foreign_imports("counter") == set()


def test_counter_on_a_cluster(three):
    with three.client() as client:
        hits = ExpiringCounter(client, "counter", ttl_s=60)
        for n in range(20):
            assert [hits.hit(str(n)), hits.hit(str(n))] == [1, 2]
            assert 0 < client.ttl(f"counter:{n}") <= 60


# ---------------------------------------------------------------- CacheAside


class Source:
    """One row with a version, as a database would hold it."""

    def __init__(self) -> None:
        self.version, self.loads = 1, 0

    def load(self, key: str) -> tuple[int, object]:
        self.loads += 1
        return self.version, f"{key} of {self.version}"


def test_hit_miss_and_their_round_trips(r):
    source = Source()
    cached = CacheAside(r, "p", source.load)
    cached.get("warm the script cache")
    cached.invalidate("warm the script cache", 1)
    costs = []
    for act in (cached.get, cached.get, lambda key: cached.invalidate(key, 2), cached.get):
        with wire(r) as w:
            act("a")
        costs.append((w.round_trips, w.commands))
    assert costs == [(2, 2), (1, 1), (1, 1), (2, 2)]
    assert (cached.hits, cached.misses) == (1, 3)
    assert source.loads == 3


@pytest.mark.parametrize("value", [None, 0, "", False, [{"a": "ü"}], {1: (2,)}, 1.5, "x" * 10**6])
@pytest.mark.parametrize("decode", [True, False])
def test_values_survive(lab, r, value, decode):
    with lab.client(decode_responses=decode) as client:
        cached = CacheAside(client, "p", lambda key: (1, value))
        assert repr(cached.get("a")) == repr(cached.get("a"))
        assert cached.get("a") == ({"1": [2]} if value == {1: (2,)} else value)
        assert (cached.hits, cached.misses) == (2, 1)


def test_what_is_missing_is_cached_for_its_own_time(r):
    cached = CacheAside(r, "p", lambda key: (1, None), ttl_s=300, missing_ttl_s=30)
    assert cached.get("a") is None and cached.get("a") is None
    assert (cached.hits, cached.misses) == (1, 1)
    assert 26_000 < r.pttl("p:a") <= 30_000


def test_ttl_is_always_set_and_spread_by_a_tenth(r):
    cached = CacheAside(r, "p", lambda key: (1, key), ttl_s=100)
    ttls_ms = []
    for n in range(200):
        cached.get(str(n))
        ttls_ms.append(r.pttl(f"p:{n}"))
    assert 89_000 <= min(ttls_ms) < 92_000  # a second for a slow machine
    assert 98_000 < max(ttls_ms) <= 100_000
    cached.invalidate("never read", 1)
    assert without_ttl(r) == []


def test_an_expired_value_is_loaded_again(r):
    source = Source()
    cached = CacheAside(r, "p", source.load, ttl_s=0.05)
    cached.get("a")
    time.sleep(0.1)
    cached.get("a")
    assert source.loads == 2


def test_older_announcement_does_not_undo_a_newer_one(r):
    source = Source()
    cached = CacheAside(r, "p", source.load)
    source.version = 9
    cached.invalidate("a", 9)
    cached.invalidate("a", 3)
    late = CacheAside(r, "p", lambda key: (8, "old"))
    late.get("a")
    assert cached.get("a") == "a of 9"


def interleavings(*lengths: int):
    """Every order of the steps of several actors that keeps each actor's own order."""
    if len(lengths) == 1:
        yield [0] * lengths[0]
        return
    rest = sum(lengths[1:])
    for places in combinations(range(lengths[0] + rest), lengths[0]):
        for others in interleavings(*lengths[1:]):
            following = iter(others)
            yield [0 if at in places else 1 + next(following) for at in range(lengths[0] + rest)]


class Stepwise:
    """A thread that does its action one step at a time, so that a test can order the steps.

    The action calls `pause()` between two steps.
    """

    def __init__(self, action) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.ended = False
        self.thread = threading.Thread(target=self.run, args=(action,), daemon=True)
        self.thread.start()

    def run(self, action) -> None:
        self.go.acquire()
        try:
            action(self.pause)
        except BaseException as error:
            self.error = error
        self.ended = True
        self.done.release()

    def pause(self) -> None:
        self.done.release()
        self.go.acquire()

    def step(self) -> None:
        """Do the next step, if there is one: a reader that hits has only the first."""
        if self.ended:
            return
        self.go.release()
        assert self.done.acquire(timeout=10)
        if self.error:
            raise self.error


@pytest.mark.parametrize("start", ["cold", "announced"])
@pytest.mark.parametrize("missing", [False, True])
def test_no_interleaving_leaves_an_old_value(r, start, missing):
    """Two readers of three steps (look, load, store) and a writer of two (commit, announce)."""
    orders = [order for order in interleavings(3, 3, 2) if order.index(0) < order.index(1)]
    assert len(orders) == 280  # of 560: the readers are alike, so one of them may be the first
    naive_would_be_stale = 0
    for number, order in enumerate(orders):
        key, row = str(number), [1]

        def read(pause, key=key, row=row):
            def load(_, row=row):
                pause()  # between looking and loading
                version = row[0]
                pause()  # between loading and storing
                return version, None if missing and version == 1 else version

            CacheAside(r, "p", load).get(key)  # noqa: B023  called while this turn lasts

        def write(pause, key=key, row=row):
            row[0] = 2
            pause()
            CacheAside(r, "p", None).invalidate(key, 2)

        if start == "announced":
            CacheAside(r, "p", None).invalidate(key, 1)
        actors = [Stepwise(read), Stepwise(read), Stepwise(write)]
        left, announced, steps = [3, 3, 2], False, [[], [], []]
        for place, actor in enumerate(order):
            actors[actor].step()
            steps[actor].append(place)
            left[actor] -= 1
            announced = announced or (actor == 2 and left[2] == 0)
            if announced:
                stored = r.hget(f"p:{key}", "value")
                assert stored in (None, "2"), order
        loaded, stored_at = [s[1] for s in steps[:2]], [s[2] for s in steps[:2]]
        commit, announce = steps[2]
        naive_would_be_stale += any(
            load < commit and announce < store
            for load, store in zip(loaded, stored_at, strict=True)
        )
        assert CacheAside(r, "p", lambda _, row=row: (row[0], row[0])).get(key) == 2
    assert naive_would_be_stale > 25  # the orders that plain cache-aside fails are among them


def test_an_older_version_does_not_overwrite_a_newer_one(r):
    """A loads 5; the writer of 6 is killed before it announces; B loads and stores 6; A stores."""

    def slow(key):
        assert CacheAside(r, "p", lambda key: (6, "six")).get(key) == "six"
        return 5, "five"

    assert CacheAside(r, "p", slow).get("a") == "five"
    assert CacheAside(r, "p", None).get("a") == "six"
    r.hdel("p:a", "value")
    assert CacheAside(r, "p", lambda key: (4, "four")).get("a") == "four"
    assert not r.hexists("p:a", "value")


def test_what_was_deleted_is_cached_as_absent_and_can_come_back(r):
    rows, loads = {"a": (7, "lamp")}, []

    def load(key):
        loads.append(key)
        return rows.get(key, (0, None))

    cached = CacheAside(r, "p", load)
    assert cached.get("a") == "lamp"
    del rows["a"]
    cached.invalidate("a", 8)  # a deletion is an update
    assert [cached.get("a") for _ in range(50)] == [None] * 50 and len(loads) == 2
    rows["a"] = (9, "a new lamp")
    cached.invalidate("a", 9)
    assert [cached.get("a") for _ in range(50)] == ["a new lamp"] * 50 and len(loads) == 3


@pytest.mark.parametrize("overtaken_by", ["deletion", "creation"])
def test_a_slow_reader_is_overtaken_by_a_deletion_or_a_creation(r, overtaken_by):
    before, after = ((7, "lamp"), None) if overtaken_by == "deletion" else ((0, None), "lamp")

    def slow(key):
        CacheAside(r, "p", None).invalidate(key, 8)
        return before

    assert CacheAside(r, "p", slow).get("a") == before[1]
    assert CacheAside(r, "p", lambda key: (8 if after else 0, after)).get("a") == after
    assert CacheAside(r, "p", None).get("a") == after


def test_a_read_goes_on_without_redis(r):
    with server() as own, own.client(retry=Retry(NoBackoff(), 0)) as client:
        source = Source()
        cached = CacheAside(client, "p", source.load, pause_s=0.05)
        assert cached.get("there") == "there of 1"
        client.config_set("maxmemory", 1)  # full
        assert [cached.get("a"), cached.get("a")] == ["a of 1"] * 2
        client.config_set("maxmemory", 0)
        time.sleep(0.06)
        assert cached.get("there") == "there of 1" and cached.hits == 1

        def dies(key):
            own.kill()
            return 1, "in hand"

        assert CacheAside(client, "p", dies).get("b") == "in hand"
        assert [cached.get("a") for _ in range(3)] == ["a of 1"] * 3
        with pytest.raises(redis.ConnectionError):
            cached.invalidate("a", 2)  # not skipped in silence
        own.restart()
        assert within(60, lambda: cached.get("a") and client.exists("p:a"))
        client.set("p:c", "a string")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            cached.get("c")  # a mistake is no absence


def write_rows(url: str, path: str, floor, stop) -> None:
    """Update each of a few rows again and again, announce it, then say that it is announced."""
    rows = sqlite3.connect(path, timeout=30, isolation_level=None)
    cached = CacheAside(redis.Redis.from_url(url), "row", None)
    for version in range(2, 10**9):
        if stop.is_set():
            return
        for key in range(len(floor)):
            rows.execute("UPDATE row SET version = ? WHERE id = ?", (version, key))
            cached.invalidate(str(key), version)
            floor[key] = version


def read_rows(url: str, path: str, floor, stop, pipe) -> None:
    rows = sqlite3.connect(path, timeout=30, isolation_level=None)

    def load(key: str) -> tuple[int, int]:
        [version] = rows.execute("SELECT version FROM row WHERE id = ?", (key,)).fetchone()
        time.sleep(chance.uniform(0, 0.002))  # room for the writer to overtake
        return version, version

    chance = random.Random(os.getpid())
    cached = CacheAside(redis.Redis.from_url(url), "row", load)
    stale = 0
    while not stop.is_set():
        key = chance.randrange(len(floor))
        at_least = floor[key]  # announced before this read began
        stale += cached.get(str(key)) < at_least
    pipe.send((stale, cached.hits, cached.misses))


def race(lab, tmp_path, updates: int) -> None:
    """Three processes read and one updates, until each row was updated so often."""
    path = str(tmp_path / "rows.db")
    with sqlite3.connect(path) as rows:
        rows.execute("PRAGMA journal_mode = wal")
        rows.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, version INTEGER)")
        rows.executemany("INSERT INTO row VALUES (?, 1)", [(k,) for k in range(3)])
    rows.close()
    fork = multiprocessing.get_context("fork")
    floor, stop = fork.Array("q", [1] * 3), fork.Event()
    receive, send = zip(*(multiprocessing.Pipe(duplex=False) for _ in range(3)), strict=True)
    processes = in_processes(write_rows, [(lab.url, path, floor, stop)])
    processes += in_processes(read_rows, [(lab.url, path, floor, stop, pipe) for pipe in send])
    assert within(90, lambda: min(floor) > updates)
    stop.set()
    told = [pipe.recv() for pipe in receive]
    for process in processes:
        process.join(10)
    assert [stale for stale, _, _ in told] == [0, 0, 0]
    assert sum(hits for _, hits, _ in told) > 0
    assert sum(misses for _, _, misses in told) > 10


@FORK
def test_no_stale_read_between_processes(lab, r, tmp_path):
    race(lab, tmp_path, 60)


@FORK
@pytest.mark.drill
def test_no_stale_read_between_processes_for_long(lab, r, tmp_path, figure):
    race(lab, tmp_path, 5000)
    figure(writes=5000, stale_reads=0)


def test_a_read_that_begins_after_invalidate_never_gets_a_load_from_before(r):
    """The reader that stores too late still returns what it loaded: its read began earlier."""
    row = [1]

    def overtaken(key):
        version = row[0]
        row[0] = 2
        CacheAside(r, "p", None).invalidate(key, 2)
        return version, version

    assert CacheAside(r, "p", overtaken).get("a") == 1
    assert CacheAside(r, "p", lambda key: (row[0], row[0])).get("a") == 2


def test_survives_a_restart_in_the_middle():
    with server() as own, own.client() as client:
        source = Source()
        cached = CacheAside(client, "p", source.load)
        hits = ExpiringCounter(client, "c", ttl_s=60)
        assert (cached.get("a"), hits.hit("a")) == ("a of 1", 1)
        own.restart()  # the scripts are gone with everything else
        assert client.script_exists(cached._store.sha) == [False]
        assert (cached.get("a"), hits.hit("a")) == ("a of 1", 1)
        own.restart()
        source.version = 2
        cached.invalidate("a", 2)
        assert cached.get("a") == cached.get("a") == "a of 2"
        client.script_flush()
        cached.invalidate("a", 3)
        assert without_ttl(client) == []


def test_cache_on_a_cluster(three):
    source = Source()
    with three.client() as client:
        cached = CacheAside(client, "cached", source.load)
        for n in range(30):
            assert cached.get(str(n)) == cached.get(str(n)) == f"{n} of 1"
        assert (cached.hits, cached.misses) == (30, 30)
        source.version = 2
        for n in range(30):
            cached.invalidate(str(n), 2)
            assert cached.get(str(n)) == f"{n} of 2"


@pytest.mark.parametrize(
    "bad", [{"prefix": ""}, {"ttl_s": 0}, {"ttl_s": float("nan")}, {"missing_ttl_s": 0}]
)
def test_cache_refuses_what_cannot_work(r, bad):
    with pytest.raises(ValueError, match="a prefix, and times to live"):
        CacheAside(r, **{"prefix": "p", "load": lambda key: (1, key), **bad})


def test_cache_refuses_clients_that_would_break_its_promise(three):
    with pytest.raises(TypeError, match="synchronous client"):
        CacheAside(redis.asyncio.Redis(), "p", None)
    remembers = redis.Redis(protocol=3, cache_config=CacheConfig())
    with pytest.raises(ValueError, match="client-side caching"):
        CacheAside(remembers, "p", None)
    with (
        three.client(load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN) as spread,
        pytest.raises(ValueError, match="replica"),
    ):
        CacheAside(spread, "p", None)
