"""Early recomputation by chance. Built up in the lesson `stampede`.

Stands alone: needs redis-py and the standard library. The cache with a lease is in cache.py.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import AuthorizationError

__all__ = [
    "EarlyRefresh",
    "due",
    "jittered",
]


def jittered(seconds: float, spread: float = 0.1) -> float:
    """Up to `spread` of it less, at random: what is stored together must not expire together."""
    return seconds * (1 - spread * random.random())


def _is_away(error: Exception) -> bool:
    """Whether Redis is gone, full or read-only, so that a read goes on without it."""
    if isinstance(error, redis.AuthenticationError | AuthorizationError):
        return False
    kinds = redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError
    return isinstance(error, kinds)


def due(left_s: float, took_s: float, beta: float, chance: float) -> bool:
    """XFetch: whether a value that has `left_s` to live is to be recomputed now.

    `took_s` is how long loading it took, `chance` a random number above 0 and up to 1. With
    `beta` 1 and many readers about e recompute it before it expires; more generally e^(1/beta).

    Vattani, Chierichetti, Lowenstein: Optimal probabilistic cache stampede prevention. PVLDB 8
    (2015) 886, https://www.vldb.org/pvldb/vol8/p886-vattani.pdf
    """
    return -took_s * beta * math.log(chance) >= left_s


class EarlyRefresh:
    """Read through a cache; the closer a value is to its end, the likelier a reader reloads it.

    Contract: no lock and no waiting, so nobody can block anybody. With many readers a value is
    recomputed by about e^(1/beta) of them before it expires, and none finds it missing, as long as
    they are so many that the first does it at least one load ahead. With few readers it expires as
    any other. Loads may overlap; the last to end is kept, so after an update an OLD value may be
    stored and stay for `ttl_s`: there is no invalidation here (see cache.Cache). After a FAILOVER
    to a replica that is behind, the value before the last one may come back for its `ttl_s`.
    `get` returns what JSON makes of the value, on a miss as on a hit. If Redis is away or full,
    `get` loads the value and returns it, and asks Redis again after `pause_s`; the first callers
    hang as long as their client's timeouts say. If an early load raises, the value that is still
    there is returned.
    Keys: `<prefix>:<key>`, a string (value, and how long it took to load), TTL `ttl_s`.
    Cost: a hit is one round trip (GET and PTTL), a load one more. One key: works on Redis Cluster.
    Prevents: the stampede at the expiry of a popular value, without coordination.

    >>> cache = EarlyRefresh(r, "cube", lambda n: int(n) ** 3, ttl_s=60)
    >>> cache.get("3"), cache.get("3"), cache.loads
    (27, 27, 1)
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        load: Callable[[str], Any],
        *,
        ttl_s: float,
        beta: float = 1.0,
        pause_s: float = 1,
    ) -> None:
        if isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
            raise TypeError("EarlyRefresh is for a synchronous client; see cache.AsyncCache.")
        if not prefix or not 0.001 <= ttl_s < 1e9 or not 0 < beta < math.inf:
            raise ValueError("EarlyRefresh needs a prefix, a TTL from 1 ms, and beta above 0.")
        self.client, self.prefix, self.load = client, prefix, load
        self.ttl_ms, self.beta, self.pause_s = int(ttl_s * 1000), beta, pause_s
        self.loads = 0
        self._away_until = 0.0

    def get(self, key: str) -> Any:
        """The value, from the cache or loaded now."""
        name, stored, left_ms = f"{self.prefix}:{key}", None, 0
        asks = time.monotonic() >= self._away_until
        if asks:
            try:
                with self.client.pipeline(transaction=False) as question:
                    question.get(name)
                    question.pttl(name)
                    stored, left_ms = question.execute()
            except Exception as error:
                asks = self._goes_on(error)
        if stored is not None:
            value, took_s = json.loads(stored)
            if not due(left_ms / 1000, took_s, self.beta, 1 - random.random()):
                return value
        self.loads += 1
        start = time.perf_counter()
        try:
            loaded = self.load(key)
        except Exception:
            if stored is None:
                raise
            return value
        text = json.dumps([loaded, time.perf_counter() - start])
        if asks:
            try:
                self.client.set(name, text, px=self.ttl_ms)
            except Exception as error:
                self._goes_on(error)
        return json.loads(text)[0]

    def _goes_on(self, error: Exception) -> bool:
        """Without Redis, for a while, if it is away. Any other error is raised."""
        if not _is_away(error):
            raise error
        self._away_until = time.monotonic() + self.pause_s
        return False
