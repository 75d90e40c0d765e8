"""Locks."""

from __future__ import annotations

from typing import Any

import pottery
import redis
import redis_lock


class RedisPyLock:
    """redis-py's `Lock` with a timeout; without one, a killed holder's lock stays for ever."""

    package = "redis"
    lease_s = 0.3
    says = {  # noqa: RUF012
        "lost updates": (
            "timeout indicates a maximum life for the lock in seconds.",
            "https://redis.readthedocs.io/en/stable/lock.html",
        ),
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        """A lock that is held, or None."""
        lock = self.client.lock(name, timeout=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> None:
        """It raises LockNotOwnedError, a RedisError, once the lease is over."""
        lease.release()


class PythonRedisLock:
    """`redis_lock.Lock` with `expire`, in whole seconds."""

    package = "python-redis-lock"
    lease_s = 1
    says = {  # noqa: RUF012
        "lost updates": (
            "Get a lock with a 60-second lifetime but keep renewing it automatically to ensure the "
            "lock is held for as long as the Python process is running.",
            "https://pypi.org/project/python-redis-lock/",
        ),
    }
    not_promised = tuple(says)
    client_options = {"decode_responses": False}  # noqa: RUF012

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        """A lock that is held, or None."""
        lock = redis_lock.Lock(self.client, name, expire=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> bool:
        """False once the lease is over."""
        try:
            lease.release()
        except redis_lock.NotAcquired:
            return False
        return True


class PotteryRedlock:
    """`pottery.Redlock` on one master, with `auto_release_time`."""

    package = "pottery"
    lease_s = 0.3
    says = {  # noqa: RUF012
        "lost updates": (
            "Redlocks are automatically released (by default, after 10 seconds). You should take "
            "care to ensure that your critical section completes well within that timeout.",
            "https://pypi.org/project/pottery/",
        ),
    }
    not_promised = tuple(says)

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def acquire(self, name: str) -> Any:
        """A lock that is held, or None."""
        lock = pottery.Redlock(key=name, masters={self.client}, auto_release_time=self.lease_s)
        return lock if lock.acquire(blocking=False) else None

    def release(self, lease: Any) -> bool:
        """False once the lease is over."""
        try:
            lease.release()
        except pottery.ReleaseUnlockedLock:
            return False
        return True
