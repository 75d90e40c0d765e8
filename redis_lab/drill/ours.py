"""The adapters for our own patterns: what it takes to hold a class to a contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from ..patterns import cache, cache_aside, lock

__all__ = ["Cache", "CacheAside", "Lock"]


class Cache:
    """`patterns.cache.Cache`."""

    lease_s = 0.3
    errors = (cache.LoadTimeout,)

    def __init__(self, client: redis.Redis, load: Callable[[str], Any]) -> None:
        self.cache = cache.Cache(
            client, "c", load, ttl_s=60, lease_s=self.lease_s, missing_ttl_s=60, pause_s=0.1
        )

    def get(self, key: str) -> Any:
        """As the pattern's."""
        return self.cache.get(key)

    def invalidate(self, key: str) -> None:
        """As the pattern's."""
        self.cache.invalidate(key)


class CacheAside:
    """`patterns.cache_aside.CacheAside`, which makes no promise about several loads."""

    not_promised = ("loads for one miss",)
    lease_s = 0.1  # it has none: so long a reader stands still in the drill

    def __init__(self, client: redis.Redis, load: Callable[[str], Any]) -> None:
        self.load = load
        self.cache = cache_aside.CacheAside(client, "c", self.versioned, ttl_s=60, pause_s=0.1)

    def versioned(self, key: str) -> tuple[int, Any]:
        """The drill's rows are their own versions."""
        value = self.load(key)
        return (0 if value is None else value), value

    def get(self, key: str) -> Any:
        """As the pattern's."""
        return self.cache.get(key)

    def invalidate(self, key: str, version: int) -> None:
        """As the pattern's."""
        self.cache.invalidate(key, version)


class Lock:
    """`patterns.lock.Lock`."""

    lease_s = 0.2

    def __init__(self, client: redis.Redis) -> None:
        self.lock = lock.Lock(client, "lock", lease_s=self.lease_s)

    def acquire(self, name: str) -> lock.Lease | None:
        """As the pattern's `try_acquire`."""
        return self.lock.try_acquire(name)

    def release(self, lease: lock.Lease) -> bool:
        """As the pattern's."""
        return self.lock.release(lease)
