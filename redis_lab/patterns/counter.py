"""A counter that is sure to expire. Built up in notebooks/structures/01_strings.ipynb."""

from __future__ import annotations

import redis

from redis_lab.errors import LabError


class ExpiringCounter:
    """Count events in a window that starts with the first one and ends `ttl_s` later.

    Contract: every key has a TTL from the moment it exists, whatever crashes when; counting never
    prolongs the window; concurrent callers each see a different count.
    Keys: `<prefix>:<name>`, a string with a TTL of `ttl_s`.
    Cost: one round trip, two commands in a MULTI/EXEC. Needs Redis 7.0 (EXPIRE NX).
    Prevents: the key without a TTL that a crash between INCR and EXPIRE leaves behind.

    >>> counter = ExpiringCounter(r, "logins", ttl_s=60)
    >>> counter.hit("ada"), counter.hit("ada")
    (1, 2)
    >>> 0 < r.ttl("logins:ada") <= 60
    True
    """

    def __init__(self, client: redis.Redis, prefix: str, ttl_s: int) -> None:
        if ttl_s < 1 or not prefix:
            raise LabError("ExpiringCounter needs a prefix and a TTL of at least one second.")
        self.client, self.prefix, self.ttl_s = client, prefix, ttl_s

    def hit(self, name: str) -> int:
        """Count one event and return how many there were in this window, this one included."""
        key = f"{self.prefix}:{name}"
        with self.client.pipeline(transaction=True) as both:
            both.incr(key)
            both.expire(key, self.ttl_s, nx=True)  # NX: only the first hit starts the clock
            count, _ = both.execute()
        return count
