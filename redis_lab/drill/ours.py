"""The adapters for our own patterns; they show what an adapter needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from ..patterns import cache, cache_aside, idempotency, lock, queue, rate_limit, session

__all__ = [
    "Cache",
    "CacheAside",
    "FixedWindow",
    "Gcra",
    "ListQueue",
    "Lock",
    "Once",
    "Sessions",
    "SlidingCounter",
    "SlidingLog",
    "StreamQueue",
]


class Cache:
    """`patterns.cache.Cache`."""

    lease_s = 0.3
    errors = (cache.LoadTimeout,)
    not_promised_at_failover = (
        "stale after invalidate",
        "no order of reads",
        "loads for one miss",
        "absences loaded",
    )

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
    not_promised_at_failover = ("stale after invalidate", "no order of reads", "absences loaded")
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
    """`patterns.lock.Lock`, whose fences rise at a failover too: no update is lost."""

    lease_s = 0.2
    not_promised_at_failover = ("two holders", "no order of holders")

    def __init__(self, client: redis.Redis) -> None:
        self.lock = lock.Lock(client, "lock", lease_s=self.lease_s)

    def acquire(self, name: str) -> lock.Lease | None:
        """As the pattern's `try_acquire`."""
        return self.lock.try_acquire(name)

    def release(self, lease: lock.Lease) -> bool:
        """As the pattern's."""
        return self.lock.release(lease)


class ListQueue:
    """`patterns.queue.ListQueue`."""

    lease_s = 0.3
    max_tries = most_tries = 10
    not_promised_at_failover = (
        "jobs lost",
        "done twice",
        "two at one job",
        "poison rounds",
        "out of order",
    )
    kind: type[queue.SyncQueue] = queue.ListQueue

    def __init__(self, client: redis.Redis) -> None:
        self.queue = self.kind(
            *(client, "q"),
            lease_s=self.lease_s,
            max_tries=self.max_tries,
            backoff_s=0.001,
            longest_backoff_s=0.05,
            keep_s=3600,
        )

    def put(self, payload: str) -> str:
        """Put with an id chosen here, so that the put can be repeated after an error."""
        return self.queue.put(payload, id=payload)

    def take(self) -> queue.Job | None:
        """The next job; first, jobs of dead workers are brought back."""
        self.queue.reap()
        return self.queue.take()

    def done(self, job: queue.Job) -> bool:
        """As the pattern's."""
        return self.queue.done(job)

    def fail(self, job: queue.Job) -> bool:
        """As the pattern's."""
        return self.queue.fail(job)


class StreamQueue(ListQueue):
    """`patterns.queue.StreamQueue`."""

    kind = queue.StreamQueue


class SlidingLog:
    """`patterns.rate_limit.SlidingLog`: at most `limit` in any span."""

    limit = 5
    window_s = 0.3
    not_promised_at_failover = ("over the limit",)
    kind: type[rate_limit.Limiter] = rate_limit.SlidingLog

    def __init__(self, client: redis.Redis) -> None:
        self.limiter = self.kind(client, "calls", limit=self.limit, window_s=self.window_s)

    def allow(self, name: str) -> bool:
        """As the pattern's."""
        return self.limiter.allow(name).allowed


class FixedWindow(SlidingLog):
    """`patterns.rate_limit.FixedWindow`: twice the limit where two windows meet."""

    most = 10
    kind = rate_limit.FixedWindow


class SlidingCounter(SlidingLog):
    """`patterns.rate_limit.SlidingCounter`: up to twice the limit in some spans."""

    most = 10
    kind = rate_limit.SlidingCounter


class Gcra(SlidingLog):
    """`patterns.rate_limit.Gcra`: the burst, and then `limit` a window."""

    most = 10
    kind = rate_limit.Gcra


class Sessions:
    """`patterns.session.Sessions`."""

    not_promised_at_failover: tuple[str, ...] = ("sessions revived", "sessions lost")

    def __init__(self, client: redis.Redis) -> None:
        self.sessions = session.Sessions(client, "session", idle_s=600, absolute_s=3600)

    def start(self, user: str) -> str:
        """As the pattern's."""
        return self.sessions.start(user)

    def load(self, id: str) -> session.Session | None:
        """As the pattern's."""
        return self.sessions.load(id)

    def end(self, id: str) -> bool:
        """As the pattern's."""
        return self.sessions.end(id)


class Once:
    """`patterns.idempotency.Idempotency`."""

    lease_s = 0.3
    errors = (
        *(idempotency.Busy, idempotency.Failed, idempotency.LeaseLost),
        *(idempotency.NotStored, idempotency.Mismatch),
    )
    not_promised_at_failover = ("effects repeated", "two at work", "two answers")

    def __init__(self, client: redis.Redis) -> None:
        self.once = idempotency.Idempotency(client, "once", ttl_s=600, lease_s=self.lease_s)

    def run(self, key: str, work: Callable[[], str]) -> Any:
        """As the pattern's."""
        return self.once.run(key, "", work)
