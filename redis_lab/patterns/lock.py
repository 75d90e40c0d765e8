"""One at a time, and the late one refused. Built up in notebooks/patterns/10_locks.ipynb."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from redis_lab.errors import LabError

from .both import then

# KEYS: the lock, the last fence. ARGV: token, lease in ms, TTL of the fence in ms
ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
local at = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local fence = string.format('%.0f', math.max(at[1] * 1000000 + at[2], last + 1))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], fence, 'PX', ARGV[3])
return fence
"""

# KEYS[1]: the lock. ARGV: token, lease in ms
RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS[1]: the lock. ARGV[1]: token
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Lease:
    """The lock is yours for a while. `fence` is what you show to whatever you write to."""

    name: str
    token: str
    fence: int


class Lock:
    """One holder at a time, for `lease_s` unless renewed.

    Contract: while nobody holds it longer than its lease, there is one holder at a time. Only the
    holder can renew or release; one who dies blocks the others for `lease_s` at most. A holder
    that is stopped or slow may outlive its lease and NOT KNOW: then there are two. So each lease
    has a `fence`, greater than those before it: let the resource keep the greatest it was shown,
    at reading and at writing, and refuse all smaller ones. A lock that is lost with its server (a
    restart, a failover) has two holders as well; the fences still rise, as they follow the
    server's clock, unless that is behind the old one's. Asking again after a lost reply (redis-py
    does) finds one's own lock; releasing again finds none, and says so. Waiting is polling, and
    not fair.
    Keys: `<prefix>:{<name>}`, TTL `lease_s`; the last fence beside it, TTL a day more. One slot.
    Cost: one round trip a call, for `acquire` one each try. Needs Redis 7.0.
    Prevents: a lock that outlives its holder, one that is released by somebody else, and (with
    the fence) the late write that undoes another's.

    >>> lock = Lock(r, "lock", lease_s=10)
    >>> with lock.holding("stock", wait_s=1) as mine:
    ...     lock.try_acquire("stock") is None, lock.renew(mine)
    (True, True)
    """

    def __init__(
        self, client: redis.Redis, prefix: str, *, lease_s: float, poll_s: float = 0.01
    ) -> None:
        if not prefix or lease_s < 0.001 or poll_s <= 0:
            raise LabError("Lock needs a prefix, a lease of at least 1 ms, and poll_s above 0.")
        self.prefix, self.lease_ms, self.poll_s = prefix, int(lease_s * 1000), poll_s
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    def try_acquire(self, name: str) -> Lease | None:
        """The lock, or None while somebody else has it."""
        key, token = self.key(name), secrets.token_hex(8)
        reply = self._acquire(
            keys=[key, f"{key}:fence"], args=[token, self.lease_ms, self.lease_ms + DAY_MS]
        )
        return then(reply, lambda fence: fence and Lease(name, token, int(fence)))

    def acquire(self, name: str, wait_s: float) -> Lease | None:
        """Try for so long. (For a synchronous client, as `holding`.)"""
        deadline = time.monotonic() + wait_s
        while (lease := self.try_acquire(name)) is None and time.monotonic() < deadline:
            time.sleep(self.poll_s * random.uniform(0.5, 1.5))
        return lease

    def renew(self, lease: Lease) -> bool:
        """`lease_s` from now. False: it was lost, stop working."""
        keys, args = [self.key(lease.name)], [lease.token, self.lease_ms]
        return then(self._renew(keys=keys, args=args), bool)

    def release(self, lease: Lease) -> bool:
        """Give it back. False: it was not yours any more, and so perhaps not yours alone.

        (Or this was sent twice, as a reply was lost, and the first has given it back.)
        """
        return then(self._release(keys=[self.key(lease.name)], args=[lease.token]), bool)

    @contextmanager
    def holding(self, name: str, wait_s: float) -> Iterator[Lease]:
        """Hold it for a block. Raises: LabError if it is not free in time, or was lost within."""
        lease = self.acquire(name, wait_s)
        if lease is None:
            raise LabError(f"{name} is locked, and was so for {wait_s:g} s.")
        try:
            yield lease
        except BaseException:
            self.release(lease)
            raise
        if not self.release(lease):
            raise LabError(f"{name} was held longer than its lease; somebody else may have had it.")

    def key(self, name: str) -> str:
        if not name or "}" in name:
            raise LabError("A lock needs a name, and without a closing brace.")
        return f"{self.prefix}:{{{name}}}"
