"""What the lessons teach against, for the drill to catch: each form loses what its lesson says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

__all__ = ["Cache", "Lock"]


class Cache:
    """Cache-aside with a SET after the read and a DEL after the commit."""

    lease_s = 0.1

    def __init__(self, client: redis.Redis, load: Callable[[str], Any]) -> None:
        self.client, self.load = client, load

    def get(self, key: str) -> Any:
        """From the cache, or loaded and stored."""
        found: Any = self.client.get(f"c:{key}")
        if found is not None:
            return int(found)
        value = self.load(key)
        if value is not None:
            self.client.set(f"c:{key}", value, ex=60)
        return value

    def invalidate(self, key: str) -> None:
        """Forget it."""
        self.client.delete(f"c:{key}")


class Lock:
    """SET NX and DEL, without a token."""

    lease_s = 0.15

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> str | None:
        """The name if it is ours now."""
        got = self.client.set(f"lock:{name}", 1, nx=True, px=int(self.lease_s * 1000))
        return name if got else None

    def release(self, lease: str) -> None:
        """Whoever has it."""
        self.client.delete(f"lock:{lease}")
