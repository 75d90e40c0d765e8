"""XFetch: it costs what its formula says, and goes on without Redis."""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from processes import within
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_lab.judging import NotYet
from redis_lab.lessons import stampede as exercises
from redis_lab.patterns.stampede import EarlyRefresh, due, jittered
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


def never(key: str) -> object:
    raise AssertionError(f"{key} must not be loaded")


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
    for _ in range(150):
        now, ready, count = -3.0, math.inf, 0  # the value expires at 0
        while now < ready:
            now += chance.expovariate(rate)
            if now < ready and due(-now, took, beta, 1 - chance.random()):
                count += 1
                ready = min(ready, now + took)
        remakes.append(count)
    mean = sum(remakes) / len(remakes)
    error = 4 * (sum((n - mean) ** 2 for n in remakes) / len(remakes)) ** 0.5 / 150**0.5
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
    """They read until it was reloaded often enough; a machine that stands still may miss once."""
    missed = []

    def load(key: str) -> int:
        if begun.is_set() and r.pttl("e:hot") == -2:
            missed.append(key)
        time.sleep(0.02)
        return 1

    begun = threading.Event()
    early = EarlyRefresh(r, "e", load, ttl_s=0.4, beta=3)
    early.get("hot")
    begun.set()

    def reader(_: int) -> None:
        while early.loads < 6:
            early.get("hot")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader, range(8)))
    assert len(missed) <= 2


@pytest.mark.parametrize("value", [None, 0, {1: (2,)}, "ü"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_miss_returns_what_a_hit_returns(lab, r, value, decode):
    with lab.client(decode_responses=decode) as client:
        early = EarlyRefresh(client, "e", lambda key: value, ttl_s=60)
        assert repr(early.get("a")) == repr(early.get("a")) and early.loads == 1


def test_an_early_load_that_raises_does_no_harm(r):
    def load(key: str) -> int:
        if early.loads > 1:
            raise ZeroDivisionError
        time.sleep(0.02)
        return 1

    early = EarlyRefresh(r, "e", load, ttl_s=60)
    early.get("a")
    early.beta = 1e9  # always due
    assert [early.get("a"), early.get("a"), early.loads] == [1, 1, 3]
    r.delete("e:a")
    with pytest.raises(ZeroDivisionError):
        early.get("a")


def test_early_refresh_goes_on_without_redis():
    with server() as own, own.client(retry=Retry(NoBackoff(), 0)) as client:
        early = EarlyRefresh(client, "e", lambda key: f"<{key}>", ttl_s=60, pause_s=0.05)
        client.config_set("maxmemory", 1)
        assert early.get("a") == "<a>"
        client.config_set("maxmemory", 0)
        own.kill()
        assert [early.get("a") for _ in range(3)] == ["<a>"] * 3
        own.restart()
        assert within(60, lambda: early.get("a") and client.exists("e:a"))
        client.lpush("e:b", "a list")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            early.get("b")


def test_early_refresh_on_a_cluster(three):
    with three.client() as client:
        early = EarlyRefresh(client, "e", lambda key: key, ttl_s=60)
        for _ in range(2):
            for k in range(20):
                assert early.get(f"k{k}") == f"k{k}"
        assert early.loads == 20


@pytest.mark.parametrize("changed", [{"prefix": ""}, {"ttl_s": 0}, {"beta": 0}, {"beta": -1}])
def test_arguments_of_early_refresh(r, changed):
    with pytest.raises(ValueError, match="EarlyRefresh needs"):
        EarlyRefresh(r, **{"prefix": "e", "load": never, "ttl_s": 1, **changed})
    with pytest.raises(TypeError, match="synchronous client"):
        EarlyRefresh(redis.asyncio.Redis(), "e", never, ttl_s=1)


# ---------------------------------------------------------------- the exercises


def test_exercise_rule():
    assert exercises.rule(None, lambda left, took, beta, chance: due(left, took, beta, chance))
    wrong = {
        lambda left, took, beta, chance: left <= 0: "recomputed once it has expired",
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
