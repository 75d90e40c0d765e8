"""The lesson on hit ratios: its exercises, and what its text says of Redis's eviction."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import hit_ratio as exercises
from redis_lab.measure import theory
from redis_lab.servers.choose import server


def test_one_key():
    assert exercises.one_key(None, lambda rate, ttl: rate * ttl / (1 + rate * ttl))
    wrong = {
        lambda rate, ttl: rate * ttl: "not a share of the requests",
        lambda rate, ttl: 1 - np.exp(-rate * ttl): "time to live that each hit renews",
        lambda rate, ttl: rate * ttl / (2 + rate * ttl): "hits for each miss",
        lambda rate, ttl: 0.5: "hits for each miss",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.one_key(None, answer)


def halved(chance, wanted):
    too_small, enough = -1, len(chance)
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if theory.lru(chance, middle) >= wanted:
            enough = middle
        else:
            too_small = middle
    return enough


def test_room_needed():
    assert exercises.room_needed(None, halved)
    wrong = {
        lambda chance, wanted: round(wanted * len(chance)): "Fewer are enough",
        lambda chance, wanted: halved(chance, wanted) - 1: "More room is needed",
        lambda chance, wanted: halved(chance, wanted) + 1: "Fewer are enough",
        lambda chance, wanted: int((chance.cumsum() < wanted).sum()): "More room is needed",
        lambda chance, wanted: float(halved(chance, wanted)): "a number of keys",
        lambda chance, wanted: 5000: "a number of keys",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.room_needed(None, answer)


def test_the_clock_of_lru_ticks_once_a_second(each_kind):
    """A key's age is in whole seconds, and RESTORE can set it."""
    with (
        server(kind=each_kind.kind, maxmemory_policy="allkeys-lru") as private,
        private.client(decode_responses=False) as r,
    ):
        r.set("a", "x")
        dumped = r.dump("a")
        r.execute_command("RESTORE", "old", 0, dumped, "IDLETIME", 90)
        assert r.object("idletime", "a") in (0, 1)
        assert r.object("idletime", "old") in (90, 91)


def test_set_nx_get_tells_a_hit_from_a_miss(r):
    assert r.set("k", 1, nx=True, get=True, px=60_000) is None
    assert r.set("k", 2, nx=True, get=True, px=10) == "1"
    assert r.get("k") == "1" and r.pttl("k") > 50_000


@pytest.mark.parametrize("rule", ["lru", "lfu", "random", "ttl"])
def test_volatile_without_ttl_refuses(each_kind, rule):
    config = {"maxmemory_policy": f"volatile-{rule}"}
    with server(kind=each_kind.kind, **config) as private, private.client() as r:
        r.set("old", "x")
        r.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            r.set("new", "x")
        assert r.get("old") == "x"
