"""Cache-aside with a version floor, from the lesson of that name. The finished cache: cache.py."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import AuthorizationError

__all__ = ["CacheAside"]

# Store a loaded value unless a writer has meanwhile announced a newer version, or another reader
# has stored one. An absence has no version: it is stored only if the floor is still the one seen.
# ARGV: version or '', value, TTL in ms, floor seen
STORE = """
local floor = redis.call('HGET', KEYS[1], 'floor') or '0'
local version = ARGV[1] ~= '' and ARGV[1] or floor
if tonumber(version) < tonumber(floor) or ARGV[1] == '' and ARGV[4] ~= floor then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'floor', version)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# Forget the value and remember from which version on a value may be stored.
INVALIDATE = """
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or '0')
redis.call('HSET', KEYS[1], 'floor', math.max(floor, tonumber(ARGV[1])))
redis.call('HDEL', KEYS[1], 'value')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


def _is_away(error: Exception) -> bool:
    """Whether Redis is gone, full or read-only, so that a read goes on without it."""
    if isinstance(error, redis.AuthenticationError | AuthorizationError):
        return False
    kinds = redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError
    return isinstance(error, kinds)


class CacheAside:
    """Read through a cache in front of a slower source, and invalidate on update.

    `load(key)` returns `(version, value)`: a whole number from 0 to 2**53 (Lua's numbers are
    doubles) that rises with every update, and anything JSON can hold, or None if there is no such
    thing; then the version does not matter. None is cached too, for `missing_ttl_s`. `get` returns
    what JSON makes of the value (tuples become lists), on a miss as on a hit.

    Contract: once `invalidate(key, version)` has returned, no `get(key)` that begins later is
    answered from the cache with a value older than `version`, however reads, loads and writes
    interleave, as long as a load takes less than 0.9 of the shorter lifetime and Redis neither
    evicts the key nor loses it in a FAILOVER or restart meanwhile. An older version never
    overwrites a newer one. Call it after the source has committed. If the process dies between the
    commit and the call, the old value lives on until its TTL. A DELETION is an update: announce it
    with the row's last version + 1. A row that is created again must go on from there, not begin
    at 1, or it is not cached while the floor lives (`cache.Cache` has no such rule).
    NOT kept: one load for one miss. All who find a key missing, or absent, at the same time load.
    If Redis is away or full, `get` loads and returns the value, and asks Redis again after
    `pause_s`; the first callers hang as long as their client's timeouts say. `invalidate` raises.
    Keys: `<prefix>:<key>`, a hash of `value` and `floor`; TTL `ttl_s`, less up to a tenth at
    random so that keys written together do not expire together.
    Cost: a hit is one round trip and one command, a miss two (HMGET, one script), an invalidation
    one (one script). Each script touches one key, so it works on Redis Cluster. Tested from 7.0.
    Prevents: the reader that loads the old row, is overtaken by a writer, and then stores it.

    >>> cache = CacheAside(r, "square", lambda n: (1, int(n) ** 2), ttl_s=60)
    >>> cache.get("12"), cache.get("12"), cache.hits, cache.misses
    (144, 144, 1, 1)
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        load: Callable[[str], tuple[int, Any]],
        *,
        ttl_s: float = 300,
        missing_ttl_s: float = 30,
        pause_s: float = 1,
    ) -> None:
        if isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
            raise TypeError(
                "CacheAside is for a synchronous client; cache.AsyncCache is for asyncio."
            )
        pool = getattr(client, "connection_pool", None) or getattr(client, "nodes_manager", None)
        if getattr(pool, "cache", None) or getattr(pool, "_cache", None):
            raise ValueError(
                "with client-side caching the client would answer from its own memory."
            )
        for option in ("read_from_replicas", "load_balancing_strategy"):
            if getattr(client, option, None):
                raise ValueError("a replica may not have heard of an invalidation yet.")
        times = ttl_s, missing_ttl_s, pause_s
        if not prefix or not min(times) >= 0.001 or not max(times) < 1e9:
            raise ValueError("CacheAside needs a prefix, and times to live of at least 1 ms.")
        self.client, self.prefix, self.load = client, prefix, load
        self.ttl_s, self.missing_ttl_s, self.pause_s = ttl_s, missing_ttl_s, pause_s
        self.hits = self.misses = 0
        self._away_until = 0.0
        self._store = client.register_script(STORE)
        self._invalidate = client.register_script(INVALIDATE)

    def get(self, key: str) -> Any:
        """The value, from the cache or loaded and stored; None if there is no such thing."""
        asks, cached, floor = time.monotonic() >= self._away_until, None, None
        if asks:
            try:
                cached, floor = self.client.hmget(f"{self.prefix}:{key}", ["value", "floor"])
            except Exception as error:
                asks = self._goes_on(error)
        if cached is not None:
            self.hits += 1
            return json.loads(cached)
        self.misses += 1
        version, value = self.load(key)
        text = json.dumps(value)
        ttl_s = self.missing_ttl_s if value is None else self.ttl_s
        lifetime_ms = max(1, int(ttl_s * 1000 * random.uniform(0.9, 1.0)))
        args = ["" if value is None else version, text, lifetime_ms, floor or "0"]
        if asks:
            try:
                self._store(keys=[f"{self.prefix}:{key}"], args=args)
            except Exception as error:
                self._goes_on(error)
        return json.loads(text)

    def _goes_on(self, error: Exception) -> bool:
        """Without Redis, for a while, if it is away. Any other error is raised."""
        if not _is_away(error):
            raise error
        self._away_until = time.monotonic() + self.pause_s
        return False

    def invalidate(self, key: str, version: int) -> None:
        """Call after the source has committed `version`: older values are gone and stay out.

        After a deletion, `version` is the row's last one + 1. Raises: redis.RedisError if Redis is
        away; then repeat the call, since the old value is still there.
        """
        self._invalidate(keys=[f"{self.prefix}:{key}"], args=[version, int(self.ttl_s * 1000)])
