"""Rate limiting: exact vectors, a model each, and never over the limit."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import subprocess
import time
import uuid
from collections import Counter
from fractions import Fraction

import pytest
import redis
from alone import NO_NUMBERS, foreign_imports, loading
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from processes import environment, script, within, without_ttl
from redis._parsers.base import BaseParser

from redis_lab.judging import NotYet
from redis_lab.lessons import rate_limiting as exercises
from redis_lab.patterns import rate_limit
from redis_lab.patterns.rate_limit import (
    AsyncFixedWindow,
    AsyncGcra,
    AsyncSlidingCounter,
    AsyncSlidingLog,
    Decision,
    FixedWindow,
    Gcra,
    Limiter,
    SlidingCounter,
    SlidingLog,
)
from redis_lab.servers.choose import server
from redis_lab.servers.topology import cluster
from redis_lab.wiretap import wire

KINDS = (FixedWindow, SlidingLog, SlidingCounter, Gcra)
ASYNC = (AsyncFixedWindow, AsyncSlidingLog, AsyncSlidingCounter, AsyncGcra)
TWIN = dict(zip(KINDS, ASYNC, strict=True))
SECOND = 1_000_000
# The keys' time to live runs on the real clock, so replays use long windows: an hour.
WINDOW = 3600
START = 472_222 * WINDOW  # the beginning of a window
LONG_S = 1_000_000  # a window that ends in none of these tests


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def at(limiter: Limiter, second: float, cost: int = 1, name: str = "ada") -> Decision:
    return limiter.replay(name, round((START + second) * SECOND), cost)


# ---------------------------------------------------------------- exact vectors

# (second, cost, allowed, remaining, retry after), limit 4 an hour
VECTORS = {
    FixedWindow: [
        (3590, 4, True, 0, 0),
        (3599, 1, False, 0, 1),
        (3600, 3, True, 1, 0),
        (3610, 2, False, 1, 3590),
        (3610, 1, True, 0, 0),
        (7200, 4, True, 0, 0),
    ],
    SlidingLog: [
        (3590, 3, True, 1, 0),
        (3600, 1, True, 0, 0),
        (3600, 1, False, 0, 3590),
        (3600, 4, False, 0, 3600),
        (7189, 1, False, 0, 1),
        (7190, 4, False, 3, 10),
        (7190, 3, True, 0, 0),
        (7200, 1, True, 0, 0),
    ],
    SlidingCounter: [
        (3590, 4, True, 0, 0),
        (3600, 1, False, 0, 0.000001),
        (4500, 1, True, 0, 0),
        (5400, 1, True, 0, 0),
        (5400, 4, False, 0, 3600.000001),
        (7199, 1, True, 1, 0),
        (7200, 2, False, 1, 0.000001),
        (8400, 2, True, 0, 0),
        (14_400, 4, True, 0, 0),
    ],
    Gcra: [
        (0, 4, True, 0, 0),
        (0, 1, False, 0, 900),
        (450, 1, False, 0, 450),
        (900, 1, True, 0, 0),
        (2700, 1, True, 1, 0),
        (2700, 4, False, 1, 2700),
        (5400, 4, True, 0, 0),
    ],
}


def test_vectors(r, kind):
    limiter = kind(r, "v", limit=4, window_s=WINDOW)
    for second, cost, allowed, remaining, wait in VECTORS[kind]:
        said = at(limiter, second, cost)
        assert said == Decision(allowed, remaining, wait), (second, cost)
        assert 0 < r.ttl(limiter.key("ada")) <= 2 * WINDOW


def test_a_burst_of_one_spaces_them(r):
    limiter = Gcra(r, "g", limit=60, window_s=WINDOW, burst=1)
    allowed = [second for second in range(300) if at(limiter, second).allowed]
    assert allowed == [0, 60, 120, 180, 240]


def test_the_rush_at_the_boundary(r):
    """Ten times a minute, from second 48 on somebody asks every second."""
    worst, total = {}, {}
    for kind in KINDS:
        limiter = kind(r, "rush", limit=10, window_s=60)
        let = [k for k in range(48, 600) if at(limiter, k + 0.4, name=kind.__name__).allowed]
        worst[kind] = max(sum(k - 60 < other <= k for other in let) for k in let)
        total[kind] = len(let)
    assert worst == {FixedWindow: 20, SlidingLog: 10, SlidingCounter: 18, Gcra: 19}
    assert all(83 <= count <= 103 for count in total.values())


# ---------------------------------------------------------------- against a model


class Model:
    """Which of some requests are let through, said in another way than the scripts say it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.let: list[int] = []  # when, one entry for each unit of cost
        self.tokens, self.seen = Fraction(limit), 0

    def fixed_window(self, now: int) -> int:
        return self.limit - Counter(t // WINDOW for t in self.let)[now // WINDOW]

    def sliding_log(self, now: int) -> int:
        return self.limit - sum(t > now - WINDOW for t in self.let)

    def sliding_counter(self, now: int) -> int:
        used = Counter(t // WINDOW for t in self.let)
        share = Fraction(WINDOW - now % WINDOW, WINDOW)
        return self.limit - used[now // WINDOW] - math.floor(used[now // WINDOW - 1] * share)

    def gcra(self, now: int) -> int:
        """As a bucket of tokens."""
        refilled = self.tokens + Fraction((now - self.seen) * self.limit, WINDOW)
        self.tokens, self.seen = min(Fraction(self.limit), refilled), now
        return math.floor(self.tokens)

    def take(self, now: int, cost: int) -> None:
        self.let += [now] * cost
        self.tokens -= cost


FREE = {
    FixedWindow: Model.fixed_window,
    SlidingLog: Model.sliding_log,
    SlidingCounter: Model.sliding_counter,
    Gcra: Model.gcra,
}
# the most that may be let through in any span as long as a window
MOST = {FixedWindow: 2, SlidingLog: 1, SlidingCounter: 2, Gcra: 2}
LIMITS = (1, 2, 3, 4, 5, 6, 10)  # a whole number of seconds each
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 60, 599, 900, 1800, 3599, 3600, 9000]), st.integers(1, 4)),
    max_size=30,
)


@pytest.mark.parametrize("kind", KINDS)
def test_against_a_model(lab, kind):
    with lab.client() as client:
        names = itertools.count()

        @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
        @given(arrivals=ARRIVALS, limit=st.sampled_from(LIMITS), first=st.integers(0, WINDOW - 2))
        def run(arrivals: list, limit: int, first: int) -> None:
            limiter = kind(client, f"m:{kind.__name__}", limit=limit, window_s=WINDOW)
            model, name, now = Model(limit), str(next(names)), START + first
            for gap, cost in arrivals:
                now += gap
                now -= now % WINDOW == WINDOW - 1  # leave the key a second to live
                cost = min(cost, limit)
                said = limiter.replay(name, now * SECOND, cost)
                free = max(0, FREE[kind](model, now))
                assert said.allowed is (cost <= free)
                assert said.remaining == free - cost * said.allowed
                if said.allowed:
                    assert said.retry_after_s == 0
                    model.take(now, cost)
            spans = [sum(now - WINDOW < t <= now for t in model.let) for now in model.let]
            assert max(spans, default=0) <= MOST[kind] * limit

        run()


@pytest.mark.parametrize("kind", KINDS)
def test_retry_after_is_exact(lab, kind):
    """A microsecond earlier it is still too early."""
    with lab.client() as client:
        names = itertools.count()

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(arrivals=ARRIVALS, limit=st.integers(1, 12), cost=st.integers(1, 12))
        def run(arrivals: list, limit: int, cost: int) -> None:
            limiter = kind(client, f"w:{kind.__name__}", limit=limit, window_s=WINDOW)
            name, now, cost = str(next(names)), START * SECOND, min(cost, limit)
            for gap, each in arrivals:
                now += gap * SECOND
                now -= SECOND * (now // SECOND % WINDOW == WINDOW - 1)
                limiter.replay(name, now, min(each, limit))
            said = limiter.replay(name, now, cost)
            if said.allowed:
                return
            later = now + round(said.retry_after_s * SECOND)
            assert not limiter.replay(name, later - 1, cost).allowed
            assert limiter.replay(name, later, cost).allowed

        run()


# ---------------------------------------------------------------- many at once, and crashes

WORKER = """
    import redis
    r = redis.Redis.from_url({url!r})
    for line in sys.stdin:
        kind, limit, window_s, times = line.split()
        limiter = getattr(pattern, kind)(r, kind, limit=int(limit), window_s=float(window_s))
        print(sum(limiter.allow("ada").allowed for _ in range(int(times))), flush=True)
"""


def crowd(lab, count: int) -> list[subprocess.Popen]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = script(loading("rate_limit") + WORKER.format(url=lab.url))
    started = [subprocess.Popen(command, env=environment(), **pipes) for _ in range(count)]
    let_through(started, FixedWindow, 1, LONG_S, 1)  # now all of them are awake
    return started


def let_through(processes: list, kind: type[Limiter], limit: int, window_s: float, times: int):
    """How many were let through when every process asked so many times, all at once."""
    for process in processes:
        process.stdin.write(f"{kind.__name__} {limit} {window_s} {times}\n")
    return sum(int(process.stdout.readline()) for process in processes)


def test_processes_get_the_limit_and_no_more_and_leave_keys_that_expire(lab, r):
    processes = crowd(lab, 4)
    r.flushall()
    assert [let_through(processes, kind, 100, LONG_S, 50) for kind in KINDS] == [100] * 4
    # in real time: in t seconds a log lets at most limit · (t / window + 1) through
    r.flushall()
    begin = time.monotonic()
    let = let_through(processes, SlidingLog, 10, 0.01, 100)
    assert 10 < let <= 10 * ((time.monotonic() - begin) / 0.01 + 1)
    # and killed while they ask
    r.flushall()
    for process, kind in zip(processes, KINDS, strict=True):
        process.stdin.write(f"{kind.__name__} 1000 {LONG_S} {10**9}\n")
    assert within(60, lambda: r.dbsize() == len(KINDS))
    for process in processes:
        process.kill()
        process.communicate()
    assert all(0 < r.ttl(key) <= 2 * LONG_S for key in r.scan_iter())


def test_a_restart_in_the_middle():
    with server() as own, own.client() as client:
        for kind in KINDS:
            limiter = kind(client, "p", limit=2, window_s=LONG_S)
            assert limiter.allow(kind.__name__).remaining == 1
            client.script_flush()
            assert limiter.allow(kind.__name__).remaining == 0
            assert not limiter.allow(kind.__name__).allowed
            own.restart()  # scripts, connections and counts are gone
            assert limiter.allow(kind.__name__).remaining == 1


def test_a_clock_that_goes_back_lets_no_more_through(r, kind):
    limiter = kind(r, "p", limit=3, window_s=WINDOW)
    assert at(limiter, 2 * WINDOW + 1800, cost=3).allowed
    for second in (2 * WINDOW + 1800, 2 * WINDOW, 1800, -WINDOW):
        said = at(limiter, second)
        assert not said.allowed and said.remaining == 0 and 0 < said.retry_after_s <= 2 * WINDOW
        assert 0 < r.ttl(limiter.key("ada")) <= 2 * WINDOW


def test_a_clock_that_was_far_ahead_locks_nobody_out(r, kind):
    limiter, year = kind(r, "p", limit=3, window_s=WINDOW), 366 * 86_400
    year -= year % WINDOW
    assert at(limiter, year, cost=3).allowed
    said = at(limiter, 10)
    assert not said.allowed and said.retry_after_s <= WINDOW  # what was counted stays counted
    assert 0 < r.ttl(limiter.key("ada")) <= 2 * WINDOW
    assert at(limiter, 2 * WINDOW).allowed
    assert 0 < r.ttl(limiter.key("ada")) <= 2 * WINDOW


def test_a_clock_that_goes_back_a_little_now_and_then(r, kind):
    """By a second each time: still the limit in each window, and twice that in no span."""
    limiter, let = kind(r, "p", limit=5, window_s=WINDOW), []
    for step in range(0, 4 * WINDOW, 120):
        for second in (step + 1, step):
            let += [second] * at(limiter, second).allowed
    assert len(let) >= 15
    assert max(sum(t - WINDOW < other <= t for other in let) for t in let) <= 2 * 5
    if kind is SlidingLog:
        kept = [int(moment) for moment in r.lrange(limiter.key("ada"), 0, -1)]
        assert kept == sorted(kept)


# ---------------------------------------------------------------- deployed anew


@pytest.mark.parametrize("windows", [(60, 3600), (3600, 60)])
def test_another_window_locks_nobody_out(r, kind, windows):
    """First one after the other, then both at once, as while a deployment is under way."""
    before, after = (kind(r, "p", limit=10, window_s=window_s) for window_s in windows)
    for name, ask in (("ada", [before, after]), ("bob", [before, after] * 30)):
        second = 0
        for limiter in ask:
            for _ in range(12):
                said = at(limiter, second, name=name)
                assert said.retry_after_s <= 2 * max(windows)
            second += 7
        for key in r.scan_iter():
            assert 0 < r.ttl(key) <= 2 * max(windows)
        for limiter, window_s in zip((before, after), windows, strict=True):
            at(limiter, second + window_s, name=name)
            assert at(limiter, second + 2 * window_s, name=name).allowed


def test_another_limit_counts_on(r, kind):
    high, low = kind(r, "p", limit=10, window_s=WINDOW), kind(r, "p", limit=4, window_s=WINDOW)
    assert at(high, 0, cost=8).remaining == 2
    said = at(low, 0)
    assert not said.allowed and said.remaining == 0  # and not less than nothing
    assert 0 < said.retry_after_s <= 2 * WINDOW


def test_who_asks_all_the_time_gets_the_limit_in_each_window(r):
    for limit in (1, 2, 3, 5, 10):
        limiter = SlidingCounter(r, f"all{limit}", limit=limit, window_s=60)
        let = Counter(second // 60 for second in range(600) if at(limiter, second).allowed)
        assert set(let.values()) == {limit} and len(let) == 10, limit


# ---------------------------------------------------------------- what operators need


def test_peek_counts_nothing(r, kind):
    limiter = kind(r, "p", limit=3, window_s=LONG_S)
    assert limiter.peek("ada") == Decision(True, 3, 0.0)
    assert limiter.allow("ada", 2).remaining == 1
    assert limiter.peek("ada") == limiter.peek("ada") == Decision(True, 1, 0.0)
    said = limiter.peek("ada", 2)
    assert not said.allowed and said.remaining == 1 and said.retry_after_s > 0
    assert limiter.allow("ada").allowed


def test_refund(r, kind):
    limiter = kind(r, "p", limit=3, window_s=LONG_S)
    limiter.allow("ada", 3)
    assert limiter.refund("ada", 2).remaining == 2
    assert limiter.allow("ada", 2).allowed and not limiter.allow("ada").allowed
    assert limiter.refund("ada", 3).remaining == limiter.refund("ada", 3).remaining == 3
    assert limiter.refund("bob").remaining == 3  # nothing to give back, and nothing to gain
    assert not without_ttl(r)


def test_several_limits_are_counted_together_or_not_at_all(r, kind):
    each = kind(r, "each", limit=2, window_s=LONG_S)
    everybody = Gcra(r, "all", limit=3, window_s=LONG_S)
    each.allow("warm")
    with wire(r) as w:
        said = each.allow("ada", also=[(everybody, "shop")])
    assert said == Decision(True, 1, 0.0) and (w.round_trips, w.commands) == (1, 1)
    assert each.allow("ada", also=[(everybody, "shop")]).remaining == 0
    assert not each.allow("ada", also=[(everybody, "shop")]).allowed
    assert everybody.peek("shop").remaining == 1  # the refused one was not counted here either
    assert each.allow("bob", also=[(everybody, "shop")]) == Decision(True, 0, 0.0)
    said = each.allow("bob", also=[(everybody, "shop")])
    assert not said.allowed and said.retry_after_s > 0
    assert each.peek("bob").remaining == 1


def test_headers(r, kind):
    limiter = kind(r, "p", limit=2, window_s=60)
    said = limiter.replay("ada", START * SECOND, 2)
    assert limiter.headers(said) == {"RateLimit-Policy": '"p";q=2;w=60', "RateLimit": '"p";r=0'}
    said = limiter.replay("ada", START * SECOND)
    assert not said.allowed
    after = [int(limiter.headers(said, jitter=0.5)["Retry-After"]) for _ in range(200)]
    first = math.ceil(said.retry_after_s)
    assert first <= min(after) and max(after) <= first + 30 and len(set(after)) > 5
    assert limiter.headers(said, jitter=0)["Retry-After"] == str(first)


# ---------------------------------------------------------------- Redis is away


def test_away(kind):
    with server() as own, own.client() as client, own.client(socket_timeout=0.3) as hasty:
        choices = {
            when: kind(client, "p", limit=2, window_s=60, when_away=when)
            for when in ("raise", "open", "closed")
        }
        slow = kind(hasty, "p", limit=2, window_s=60, when_away="open")
        assert slow.allow("a").away is False
        with own.stalled():
            begin = time.monotonic()
            assert slow.allow("b") == Decision(True, 0, 0.0, away=True)
            assert time.monotonic() - begin < 30
        own.kill()
        assert choices["open"].allow("a") == Decision(True, 0, 0.0, away=True)
        assert choices["closed"].allow("a") == Decision(False, 0, 1.0, away=True)
        with pytest.raises(redis.ConnectionError):
            choices["raise"].allow("a")
        own.restart()
        assert choices["open"].allow("a") == Decision(True, 1, 0.0)


def three(kind, client) -> list[Limiter]:
    return [kind(client, "p", limit=2, window_s=60, when_away=when) for when in rate_limit.CHOICES]


def assert_away(limiters: list, name: str, error: type[Exception]) -> None:
    strict, open_, closed = limiters
    with pytest.raises(error):
        strict.allow(name)
    assert open_.allow(name) == Decision(True, 0, 0.0, away=True)
    assert closed.allow(name) == Decision(False, 0, 1.0, away=True)


def test_a_server_that_cannot_serve_is_away():
    with server() as own, own.client() as client:
        limiters = three(Gcra, client)
        client.config_set("maxmemory", 1)
        assert_away(limiters, "a", redis.OutOfMemoryError)
        client.config_set("maxmemory", 0)
        client.config_set("min-replicas-to-write", 1)
        assert_away(limiters, "a", redis.ResponseError)  # NOREPLICAS
        client.config_set("min-replicas-to-write", 0)
        client.replicaof("127.0.0.1", "1")  # as after a failover
        assert_away(limiters, "a", redis.ReadOnlyError)
        client.replicaof("NO", "ONE")
        assert limiters[1].allow("a") == Decision(True, 1, 0.0)
        client.config_set("save", "3600 1")
        os.mkdir(os.path.join(client.config_get("dir")["dir"], "dump.rdb"))  # in the file's place
        client.bgsave()
        wrong = lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err"  # noqa: E731
        assert within(60, wrong)
        assert_away(limiters, "a", redis.ResponseError)  # MISCONF


@pytest.mark.parametrize(
    ("line", "away"),
    [
        ("LOADING Redis is loading the dataset in memory", True),
        ("BUSY Redis is busy running a script.", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("ERR max number of clients reached", True),
        ("NOAUTH Authentication required.", False),
        ("NOPERM No permissions to access a key", False),
        ("NOSCRIPT No matching script", False),
        ("CROSSSLOT Keys in request don't hash to the same slot", False),
        ("ERR user_script:1: attempt to index a nil value", False),
    ],
)
def test_which_errors_count_as_away(line, away):
    assert rate_limit._is_away(BaseParser.parse_error(line)) is away


def test_open_is_for_an_absent_server_only(lab, r, kind):
    """Not for a wrong password, a missing permission, nor for a key of another kind."""
    with server(password="right") as own, own.client() as client:
        client.config_set("requirepass", "changed")
        client.connection_pool.disconnect()
        with pytest.raises(redis.AuthenticationError):
            kind(client, "p", limit=2, window_s=60, when_away="open").allow("a")
    r.acl_setuser("poor", enabled=True, nopass=True, keys=["*"], commands=["+ping", "+time"])
    with (
        lab.client(username="poor", password="") as poor,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        kind(poor, "p", limit=2, window_s=60, when_away="open").allow("a")
    limiter = kind(r, "p", limit=2, window_s=60, when_away="open")
    r.sadd(limiter.key("a"), 1)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        limiter.allow("a")


@pytest.mark.parametrize("when", ["open", "closed"])
def test_a_pool_without_a_free_connection_is_not_away(lab, r, kind, when):
    pools = (redis.ConnectionPool, redis.BlockingConnectionPool)
    for pool, more in zip(pools, ({}, {"timeout": 0.05}), strict=True):
        with redis.Redis(connection_pool=pool.from_url(lab.url, max_connections=1, **more)) as busy:
            held = busy.connection_pool.get_connection()
            with pytest.raises(redis.ConnectionError):
                kind(busy, "p", limit=2, window_s=60, when_away=when).allow("a")
            busy.connection_pool.release(held)


def test_a_crowd_of_tasks_is_no_way_past_the_limit(lab, r, kind):
    """300 at once on a client as it comes, whose pool holds 100 and does not wait."""

    async def ask() -> list:
        async with redis.asyncio.Redis(host=lab.host, port=lab.port) as client:
            limiter = TWIN[kind](client, "p", limit=10, window_s=LONG_S, when_away="open")
            asked = (limiter.allow("ada") for _ in range(300))
            return await asyncio.gather(*asked, return_exceptions=True)

    said = asyncio.run(ask())
    errors = [each for each in said if isinstance(each, Exception)]
    assert all(isinstance(error, redis.exceptions.MaxConnectionsError) for error in errors)
    let = sum(each.allowed for each in said if isinstance(each, Decision))
    assert 0 < let <= 10 and not any(each.away for each in said if isinstance(each, Decision))


def test_asyncio(lab, kind):
    async def ask() -> list:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            await client.flushall()
            limiter = TWIN[kind](client, "a", limit=5, window_s=LONG_S)
            said = await asyncio.gather(*(limiter.allow("ada") for _ in range(20)))
            assert (await limiter.refund("ada", 2)).remaining == 2
            assert await limiter.peek("ada") == Decision(True, 2, 0.0)
            assert (await limiter.replay("bob", START * SECOND)).allowed
            everybody = AsyncGcra(client, "all", limit=1, window_s=LONG_S)
            both = [await limiter.allow("ada", also=[(everybody, "all")]) for _ in range(2)]
            assert [each.allowed for each in both] == [True, False]
            return said

    async def ask_nobody(when: str) -> Decision:
        async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as client:
            return await TWIN[kind](client, "a", limit=5, window_s=60, when_away=when).allow("ada")

    assert sum(said.allowed for said in asyncio.run(ask())) == 5
    assert asyncio.run(ask_nobody("open")).allowed
    assert not asyncio.run(ask_nobody("closed")).allowed
    with pytest.raises(redis.ConnectionError):
        asyncio.run(ask_nobody("raise"))


def test_the_wrong_client_is_refused_at_once(lab, r, kind):
    arguments = {"limit": 2, "window_s": 60}
    for wrong in (redis.asyncio.Redis.from_url(lab.url), r.pipeline()):
        with pytest.raises(TypeError, match="Not with a"):
            kind(wrong, "p", **arguments)
    for wrong in (r, redis.asyncio.Redis.from_url(lab.url).pipeline()):
        with pytest.raises(TypeError, match="Not with a"):
            TWIN[kind](wrong, "p", **arguments)


def test_on_a_cluster_and_when_that_is_away():
    """One node of it dies, so that the others refuse; then all of them."""
    with cluster(cluster_node_timeout=500) as nodes, nodes.client() as client:
        limiters = [
            kind(client, kind.__name__, limit=2, window_s=LONG_S, when_away="open")
            for kind in KINDS
        ]
        for limiter, name in itertools.product(limiters, map(str, range(5))):
            said = [limiter.allow(name).allowed for _ in range(3)]
            assert said == [True, True, False]
        fixed, log = limiters[:2]
        assert fixed.allow("{one}a", also=[(log, "{one}b")]).allowed
        with pytest.raises(redis.exceptions.RedisClusterException, match="same key slot"):
            fixed.allow("one", also=[(log, "another")])  # a mistake of ours is not away
        gone = Decision(True, 0, 0.0, away=True)
        nodes.owner(log.key("new")).kill()
        assert log.allow("new") == gone
        left = next(node for node in nodes.nodes if node is not nodes.owner(log.key("new")))
        with left.client() as one:
            down = lambda: one.execute_command("CLUSTER INFO")["cluster_state"] == "fail"  # noqa: E731
            assert within(60, down)  # until the others know, and refuse every key
        assert log.allow("new") == gone
        for node in nodes.nodes:
            node.kill()
        assert log.allow("new") == gone


# ---------------------------------------------------------------- cost and arguments


def test_one_round_trip(r, kind):
    limiter = kind(r, "p", limit=2, window_s=LONG_S)
    limiter.allow("warm")
    for _ in range(4):
        with wire(r) as w:
            limiter.allow("a")
        assert (w.round_trips, w.commands) == (1, 1)


def test_memory_does_not_grow_with_the_limit_but_for_the_log(r):
    size = {}
    for kind, limit in itertools.product(KINDS, (10, 10_000)):
        limiter = kind(r, "size", limit=limit, window_s=LONG_S / 10)
        limiter.allow(f"{kind.__name__}:{limit}", cost=limit)
        size[kind, limit] = r.memory_usage(limiter.key(f"{kind.__name__}:{limit}"), samples=0)
    for kind in KINDS:
        grew = size[kind, 10_000] / size[kind, 10]
        assert grew > 100 if kind is SlidingLog else grew < 1.5


def test_arguments_that_make_no_sense(r, kind):
    bad = [
        {"prefix": ""},
        {"prefix": None},
        {"limit": 0},
        {"limit": 1.5},
        {"window_s": 0},
        {"window_s": 0.0001},
        {"limit": 10**7, "window_s": 1},
        *({"window_s": window_s} for window_s in NO_NUMBERS),
        *({"limit": limit} for limit in NO_NUMBERS),
    ]
    for each in bad:
        with pytest.raises(ValueError, match="needs a prefix, a whole limit"):
            kind(r, **({"prefix": "p", "limit": 10, "window_s": 60} | each))
    assert r.dbsize() == 0


def test_other_arguments(r, kind):
    limiter = kind(r, "p", limit=3, window_s=60)
    for name, cost in (("", 1), ("a", 0), ("a", 4), ("a", 1.5), *(("a", no) for no in NO_NUMBERS)):
        for ask in (limiter.allow, limiter.peek, limiter.refund):
            with pytest.raises(ValueError, match="whole cost from 1 to 3"):
                ask(name, cost)
    for moment in (0.5, *NO_NUMBERS[:3], 10**17, None):
        with pytest.raises(ValueError, match="whole number of microseconds"):
            limiter.replay("a", moment)
    for when in ("ajar", True, None):
        with pytest.raises(ValueError, match="raise, open, closed"):
            kind(r, "p", limit=1, window_s=60, when_away=when)
    with pytest.raises(ValueError, match="below 2\\*\\*53"):
        kind(r, "p", limit=10**6, window_s=86_400)
    for burst in (0, 1.5, 10**12, *(no for no in NO_NUMBERS if no is not None)):
        with pytest.raises(ValueError, match="burst"):
            Gcra(r, "p", limit=1, window_s=60, burst=burst)
    assert r.dbsize() == 0


def test_a_log_takes_no_cost_that_would_block_the_server(r):
    log = SlidingLog(r, "p", limit=1_000_000, window_s=60)
    assert log.allow("a", 10_000).remaining == 990_000
    with pytest.raises(ValueError, match="from 1 to 10000"):
        log.allow("a", 10_001)


def test_a_user_of_the_server_needs_what_the_docstring_says(lab, r):
    may = ["+@read", "+@write", "+@scripting", "+time"]
    r.acl_setuser("shop", enabled=True, nopass=True, keys=["p:*"], commands=["-@all", *may])
    with lab.client(username="shop", password="") as client:
        for k, kind in enumerate(KINDS):
            limiter = kind(client, "p", limit=2, window_s=60)
            assert limiter.allow(str(k)).allowed and limiter.refund(str(k)).remaining == 2


def test_the_file_stands_alone():
    assert foreign_imports("rate_limit") == set()


# ---------------------------------------------------------------- what the lesson says of others


def test_limits_raises_when_redis_is_away():
    with server() as own, own.client() as client:
        storage = RedisStorage("redis://", connection_pool=client.connection_pool)
        theirs = FixedWindowRateLimiter(storage)
        assert theirs.hit(RateLimitItemPerMinute(10), "ada")
        own.kill()
        with pytest.raises(redis.ConnectionError):
            theirs.hit(RateLimitItemPerMinute(10), "ada")


def test_redis_py_tries_eleven_times_unless_it_is_made_from_a_url(lab):
    usual = redis.Redis(host="127.0.0.1")
    assert usual.get_retry().get_retries() == 10
    assert redis.Redis.from_url(lab.url).get_retry() is None


# ---------------------------------------------------------------- exercises


LOG_SCRIPT = """
local now = tonumber(ARGV[1])
if not now then
  local at = redis.call('TIME')
  now = at[1] * 1000 + math.floor(at[2] / 1000)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1000)
local used = redis.call('ZCARD', KEYS[1])
if used >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now, ARGV[3] == '1' and now .. ':' .. used or now)
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""


def logged(limit=5, unique=True, life_ms=1000, looks=0, clock=None):
    def allows(r, key, now=None):
        for _ in range(looks):
            r.zcard(key)
        if now is None:
            now = clock() if clock else ""
        return r.eval(LOG_SCRIPT, 1, key, now, limit, int(unique), life_ms) == 1

    return allows


def writes_first(r, key, now=0):
    with r.pipeline() as pipe:
        pipe.zremrangebyscore(key, "-inf", now - 1000)
        pipe.zadd(key, {str(now): now})
        pipe.zcard(key)
        pipe.pexpire(key, 1000)
        return pipe.execute()[2] <= 5


def looks_first(r, key, now=0):
    r.zremrangebyscore(key, "-inf", now - 1000)
    used = r.zcard(key)
    if used >= 5:
        return False
    time.sleep(0.001)
    r.zadd(key, {uuid.uuid4().hex: now})
    r.pexpire(key, 1000)
    return True


def test_log_is_accepted(learner):
    assert "50 of the eager client's 100" in exercises.log(learner, logged())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (writes_first, "keep it full"),
        (looks_first, "another caller looks"),
        (logged(limit=6), "within one second"),
        (logged(limit=4), "could have had"),
        (logged(unique=False), "two members"),
        (logged(life_ms=0), "no time to live"),
        (logged(life_ms=650), "It must live at least|let through within"),
        (logged(looks=1), "2 round trips"),
        (logged(clock=lambda: round(time.time() * 1000)), "the server's"),
        (lambda r, key, now=0: True, "within one second"),
        (lambda r, key, now=0: False, "0 of its 100"),
    ],
)
def test_log_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.log(learner, wrong)


def waiting(start=-5, end=-5, at_least=0, empty=0):
    def wait(r, key, now):
        found = r.zrange(key, start, end, withscores=True)
        return max(at_least, int(found[0][1]) + 1000 - now) if found else empty

    return wait


def counts_all(r, key, now):
    found = r.zrange(key, "-inf", "+inf", byscore=True, withscores=True)
    return max(0, int(found[-5][1]) + 1000 - now) if len(found) >= 5 else 0


def first_that_counts(r, key, now):
    found = r.zrange(key, f"({now - 1000}", "+inf", byscore=True, withscores=True)
    return int(found[0][1]) + 1000 - now if len(found) >= 5 else 0


def oldest_if_full(r, key, now):
    found = r.zrange(key, 0, -1, withscores=True)
    recent = sum(score > now - 1000 for _, score in found)
    return int(found[0][1]) + 1000 - now if recent >= 5 else 0


def test_retry_after_is_accepted(learner):
    assert exercises.retry_after(learner, waiting()).startswith("right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (waiting(0, 0), "there is room"),
        (waiting(at_least=-9999), "Never negative"),
        (waiting(empty=1000), "nobody has asked|there is room"),
        (lambda r, key, now: 1000 * (r.zcount(key, now - 999, now) >= 5), "safe and too long"),
        (waiting(-4, -4), "there is room"),
        (oldest_if_full, "from the newest"),
        (first_that_counts, "seven within a second"),
        (counts_all, "One entry"),
        (lambda r, key, now: None, "nobody has asked"),
    ],
)
def test_retry_after_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.retry_after(learner, wrong)
