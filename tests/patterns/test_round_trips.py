"""No pattern makes more round trips than the best library with the same guarantee."""

from __future__ import annotations

import limits
import pytest
import redis
from dogpile.cache import make_region

from redis_lab.patterns import rate_limit
from redis_lab.patterns.cache import Cache
from redis_lab.patterns.lock import Lock
from redis_lab.wiretap import wire


def trips(client, call):
    """Round trips of a call; scripts are loaded before."""
    call()
    with wire(client) as counted:
        call()
    return counted.round_trips


@pytest.fixture
def raw(lab):
    with lab.client(decode_responses=False) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("SlidingLog", limits.strategies.MovingWindowRateLimiter),
        ("FixedWindow", limits.strategies.FixedWindowRateLimiter),
        ("SlidingCounter", limits.strategies.SlidingWindowCounterRateLimiter),
        ("Gcra", limits.strategies.MovingWindowRateLimiter),
    ],
)
def test_a_limiter_and_limits(r, name, strategy):
    limiter = getattr(rate_limit, name)(r, "ours", limit=100, window_s=3600)
    storage = limits.storage.RedisStorage("redis://", connection_pool=r.connection_pool)
    theirs, item = strategy(storage), limits.RateLimitItemPerHour(100)
    best = trips(r, lambda: theirs.hit(item, "theirs"))
    assert trips(r, lambda: limiter.allow("ada")) <= best == 1


def test_a_lock_and_redis_py(r):
    lock = Lock(r, "lock", lease_s=60)

    def theirs():
        held = r.lock("theirs", timeout=60)
        assert held.acquire(blocking=False)
        held.release()

    best = trips(r, theirs)
    assert trips(r, lambda: lock.release(lock.try_acquire("ours"))) <= best == 2


def test_a_cache_and_dogpile(r, raw: redis.Redis):
    cache = Cache(r, "c", lambda key: 1, ttl_s=60, lease_s=60)
    arguments = {"connection_pool": raw.connection_pool, "distributed_lock": True}
    arguments |= {"thread_local_lock": False, "lock_timeout": 60}
    region = make_region().configure("dogpile.cache.redis", expiration_time=60, arguments=arguments)

    def miss():
        cache.invalidate("ours")
        cache.get("ours")

    def their_miss():
        region.delete("theirs")
        region.get_or_create("theirs", lambda: 1)

    best = trips(raw, their_miss)
    assert trips(r, miss) < best
    hit = trips(raw, lambda: region.get_or_create("theirs", lambda: 1))
    assert trips(r, lambda: cache.get("ours")) <= hit == 1
