"""The naive forms that the lessons warn of, for the drill to catch."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import redis

__all__ = ["Cache", "CheckingLimiter", "Limiter", "Lock", "Once", "Queue", "Sessions"]


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
        """Delete the copy."""
        self.client.delete(f"c:{key}")


class Lock:
    """SET NX and DEL, without a token."""

    lease_s = 0.15

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> str | None:
        """The name, if the lock is the caller's now."""
        got = self.client.set(f"lock:{name}", 1, nx=True, px=int(self.lease_s * 1000))
        return name if got else None

    def release(self, lease: str) -> None:
        """Delete the lock, even if another client has it."""
        self.client.delete(f"lock:{lease}")


class Queue:
    """LPUSH and LPOP: a job that was taken is known only to its worker."""

    lease_s = 0.1

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def put(self, payload: str) -> None:
        """Add the job."""
        self.client.rpush("jobs", payload)

    def take(self) -> Any:
        """Take a job."""
        return self.client.lpop("jobs")

    def done(self, job: str) -> None:
        """Does nothing, because the job is not stored any more."""


class Limiter:
    """INCR, and EXPIRE by the first request."""

    limit = 3
    window_s = 0.15
    most = 6  # where two windows meet

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def allow(self, name: str) -> bool:
        """Count, and compare."""
        count: Any = self.client.incr(f"calls:{name}")
        if count == 1:
            self.client.pexpire(f"calls:{name}", int(self.window_s * 1000))
        return bool(count <= self.limit)


class CheckingLimiter(Limiter):
    """It reads the count first, and adds to it if the limit allows it."""

    window_s = 0.8
    most = 3

    def allow(self, name: str) -> bool:
        """Compare, and count."""
        found: Any = self.client.get(f"calls:{name}")
        if found is not None and int(found) >= self.limit:
            return False
        with self.client.pipeline() as pipe:
            pipe.incr(f"calls:{name}")
            pipe.pexpire(f"calls:{name}", int(self.window_s * 1000), nx=True)
            pipe.execute()
        return True


class Sessions:
    """A session whose touch reads the session and writes it back."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def start(self, user: str) -> str:
        """A random id."""
        id = secrets.token_hex(8)
        self.client.set(f"session:{id}", user)
        self.client.expire(f"session:{id}", 600)
        return id

    def load(self, id: str) -> Any:
        """The user; extends the session by ten minutes."""
        user = self.client.get(f"session:{id}")
        if user is not None:
            self.client.set(f"session:{id}", user, ex=600)
        return user

    def end(self, id: str) -> None:
        """Log out."""
        self.client.delete(f"session:{id}")


class Once:
    """Check whether the work was done; if not, do it and record that."""

    lease_s = 0.2

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, key: str, work: Callable[[], str]) -> Any:
        """Check, then act."""
        found = self.client.get(f"once:{key}")
        if found is not None:
            return found
        result = work()
        self.client.set(f"once:{key}", result, ex=600)
        return result
