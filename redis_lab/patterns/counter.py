"""A counter that is sure to expire. Built up in the lesson `strings`."""

from __future__ import annotations

import redis
import redis.asyncio

__all__ = [
    "AsyncExpiringCounter",
    "ExpiringCounter",
]

SYNC, ASYNC = (redis.Redis, redis.RedisCluster), (redis.asyncio.Redis, redis.asyncio.RedisCluster)
LONGEST_S = 3_153_600_000  # a hundred years


class ExpiringCounter:
    """Count events in a window that starts with the first one and ends `ttl_s` later.

    Contract: every key has a TTL from the moment it exists, whatever crashes when; counting never
    prolongs the window; concurrent callers each see a different count.
    NOT kept: an event whose reply was lost and that the client sends again (`redis.Redis(...)` does
    so by itself) is counted TWICE. A server that loses its memory begins at 1 again; after a
    FAILOVER to a replica that is behind, some numbers come twice; a server whose clock goes back
    keeps its windows for so much longer.
    Keys: `<prefix>:<name>`, a string with a TTL of `ttl_s` (from one second on, to a millisecond).
    Cost: one round trip, two commands in a MULTI/EXEC. Needs Redis 7.0 (EXPIRE NX). A user of the
    server needs `~<prefix>:* +incrby +pexpire +multi +exec`.
    Raises: ValueError for arguments, TypeError for an asyncio client.
    Prevents: the key without a TTL that a crash between INCR and EXPIRE leaves behind.

    >>> counter = ExpiringCounter(r, "logins", ttl_s=60)
    >>> counter.hit("ada"), counter.hit("ada")
    (1, 2)
    >>> 0 < r.ttl("logins:ada") <= 60
    True
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster, prefix: str, ttl_s: float) -> None:
        _refuse_client(client, ASYNC, "AsyncExpiringCounter")
        self.client, self.prefix, self.ttl_ms = client, prefix, _to_ms(prefix, ttl_s)

    def hit(self, name: str) -> int:
        """Count one event and return how many there were in this window, this one included."""
        key = f"{self.prefix}:{name}"
        with self.client.pipeline(transaction=True) as both:
            both.incr(key)
            both.pexpire(key, self.ttl_ms, nx=True)  # NX: only the first hit starts the clock
            count: int = both.execute()[0]
        return count


class AsyncExpiringCounter:
    """`ExpiringCounter` for asyncio, with the same keys.

    A caller that is cancelled while its request is on the way may have been counted.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        ttl_s: float,
    ) -> None:
        _refuse_client(client, SYNC, "ExpiringCounter")
        self.client, self.prefix, self.ttl_ms = client, prefix, _to_ms(prefix, ttl_s)

    async def hit(self, name: str) -> int:
        """As `ExpiringCounter.hit`."""
        key = f"{self.prefix}:{name}"
        async with self.client.pipeline(transaction=True) as both:
            both.incr(key)
            both.pexpire(key, self.ttl_ms, nx=True)
            count: int = (await both.execute())[0]
        return count


def _to_ms(prefix: str, ttl_s: float) -> int:
    """The TTL, checked before a key is touched."""
    is_number = isinstance(ttl_s, int | float) and not isinstance(ttl_s, bool)
    if not prefix or not is_number or not 1 <= ttl_s <= LONGEST_S:
        raise ValueError(
            "ExpiringCounter needs a prefix and a TTL of at least one second, and of a hundred "
            "years at most."
        )
    return round(ttl_s * 1000)


def _refuse_client(client: object, wrong: tuple[type, ...], instead: str) -> None:
    if isinstance(client, wrong) or type(client).__name__.endswith("Pipeline"):
        raise TypeError(f"Not with a {type(client).__module__}.{type(client).__name__}: {instead}.")
