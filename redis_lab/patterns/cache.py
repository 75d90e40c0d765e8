"""Cache-aside without stale reads. Built up in notebooks/patterns/02_cache_aside.ipynb."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import redis

from redis_lab.errors import LabError

from .both import then

# Store a loaded value unless a writer has meanwhile announced a newer version.
STORE = """
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or '0')
if tonumber(ARGV[1]) < floor then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[2])
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


class CacheAside:
    """Read through a cache in front of a slower source, and invalidate on update.

    `load(key)` returns `(version, value)`: a whole number below 2**53 (Lua's numbers are doubles)
    that rises with every update, and anything JSON can hold, or None where there is no such thing.
    None is cached too, for `missing_ttl_s`.

    Contract: once `invalidate(key, version)` has returned, `get(key)` never again returns a value
    older than `version`, however reads, loads and writes interleave, as long as a load takes less
    than 0.9 of the shorter lifetime and Redis does not evict the key meanwhile. Call it after the
    source has committed. If the process dies between the commit and the call, the old value lives
    on until its TTL.
    Keys: `<prefix>:<key>`, a hash of `value` and `floor`; TTL `ttl_s`, less up to a tenth at
    random so that keys written together do not expire together.
    Cost: a hit is one round trip and one command, a miss two (HGET, one script), an invalidation
    one (one script). Each script touches one key, so it works on Redis Cluster. Any Redis from 4.0.
    Prevents: the reader that loads the old row, is overtaken by a writer, and then stores it.

    >>> cache = CacheAside(r, "square", lambda n: (1, int(n) ** 2), ttl_s=60)
    >>> cache.get("12"), cache.get("12"), cache.hits, cache.misses
    (144, 144, 1, 1)
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        load: Callable[[str], tuple[int, object | None]],
        *,
        ttl_s: float = 300,
        missing_ttl_s: float = 30,
    ) -> None:
        if not prefix or ttl_s <= 0 or missing_ttl_s <= 0:
            raise LabError("CacheAside needs a prefix and positive times to live.")
        self.client, self.prefix, self.load = client, prefix, load
        self.ttl_s, self.missing_ttl_s = ttl_s, missing_ttl_s
        self.hits = self.misses = 0
        self._store = client.register_script(STORE)
        self._invalidate = client.register_script(INVALIDATE)

    def get(self, key: str) -> object | None:
        """The value, from the cache or loaded and stored; None where there is no such thing."""
        cached = self.client.hget(f"{self.prefix}:{key}", "value")
        if cached is not None:
            self.hits += 1
            return json.loads(cached)
        self.misses += 1
        version, value = self.load(key)
        self._store(**self._loaded(key, version, value))
        return value

    async def get_async(self, key: str) -> object | None:
        """The same for an asyncio client, with an asynchronous `load`."""
        cached = await self.client.hget(f"{self.prefix}:{key}", "value")
        if cached is not None:
            self.hits += 1
            return json.loads(cached)
        self.misses += 1
        version, value = await self.load(key)
        await self._store(**self._loaded(key, version, value))
        return value

    def _loaded(self, key: str, version: int, value: object | None) -> dict[str, list]:
        ttl_s = self.missing_ttl_s if value is None else self.ttl_s
        lifetime_ms = max(1, int(ttl_s * 1000 * random.uniform(0.9, 1.0)))
        return {
            "keys": [f"{self.prefix}:{key}"],
            "args": [version, json.dumps(value), lifetime_ms],
        }

    def invalidate(self, key: str, version: int) -> None:
        """Call after the source has committed `version`: older values are gone and stay out.

        For an asyncio client: an awaitable of that.
        """
        return then(
            self._invalidate(keys=[f"{self.prefix}:{key}"], args=[version, int(self.ttl_s * 1000)]),
            lambda _: None,
        )
