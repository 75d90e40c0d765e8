"""One at a time, and the late one refused. Built up in the lesson `locks`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import redis
import redis.asyncio
from redis.exceptions import RedisClusterException

__all__ = [
    "AsyncLock",
    "Lease",
    "LeaseLost",
    "Lock",
    "LockTimeout",
]

SYNC, ASYNC = (redis.Redis, redis.RedisCluster), (redis.asyncio.Redis, redis.asyncio.RedisCluster)
ERRORS = (redis.RedisError, RedisClusterException)
DAY_MS = 86_400_000
LONGEST_S = 3_153_600_000  # a hundred years
MARK_MS = 120_000  # longer than a request is sent again, or is on its way

# KEYS: the lock, the last fence, the token's end. ARGV: token, lease in ms, TTL of the fence in ms
ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
if redis.call('EXISTS', KEYS[3]) == 1 then return false end -- sent again, and late
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

# KEYS: the lock, the token's end. ARGV: token, TTL of the end in ms, what to note if it is not held
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[2], 'released', 'PX', ARGV[2])
elseif ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[2])
end
return redis.call('GET', KEYS[2]) == 'released' and 1 or 0
"""


class LockTimeout(Exception):
    """It was not free in time. (HTTP: 409, or 503 with Retry-After.)"""


class LeaseLost(Exception):
    """It was held longer than its lease, so perhaps not alone. The work may have been done."""


@dataclass(unsafe_hash=True)
class Lease:
    """The lock is yours for a while. `fence` is what you show to whatever you write to."""

    name: str
    token: str
    fence: int
    expires_at: float = field(default=0.0, compare=False)  # on this process's time.monotonic()

    @property
    def left_s(self) -> float:
        """So long it is yours for certain; reckoned from before the request was sent."""
        return max(0.0, self.expires_at - time.monotonic())


class _Rules:
    """What both kinds of client have in common."""

    def __init__(self, prefix: str, lease_s: float, poll_s: float) -> None:
        times = _is_number(lease_s, 0.001, LONGEST_S) and _is_number(poll_s, 0.0001, LONGEST_S)
        if not isinstance(prefix, str) or not prefix or not times:
            raise ValueError("Lock needs a prefix, a lease of at least 1 ms, and poll_s above 0.")
        self.prefix, self.lease_ms, self.poll_s = prefix, round(lease_s * 1000), poll_s
        self.lease_s = self.lease_ms / 1000

    def key(self, name: str) -> str:
        if not isinstance(name, str) or not name or "}" in name:
            raise ValueError("A lock needs a name, and without a closing brace.")
        return f"{self.prefix}:{{{name}}}"

    def _acquire_with(self, name: str, token: str) -> tuple[list[str], list[str | int]]:
        key = self.key(name)
        keys = [key, f"{key}:fence", f"{key}:over:{token}"]
        return keys, [token, self.lease_ms, self.lease_ms + DAY_MS]

    def _release_with(self, lease: Lease, note: str = "") -> tuple[list[str], list[str | int]]:
        key = self.key(lease.name)
        return [key, f"{key}:over:{lease.token}"], [lease.token, MARK_MS, note]

    def _renewed(self, lease: Lease, start: float, reply: int) -> bool:
        lease.expires_at = start + self.lease_s if reply == 1 else 0.0
        return reply == 1

    def _pause_s(self, deadline: float) -> float:
        return min(self.poll_s * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic()))


class Lock(_Rules):
    """One holder at a time, for `lease_s` unless renewed.

    Contract: while nobody holds it longer than its lease, there is one holder at a time. Only the
    holder can renew or release; one who dies blocks the others for `lease_s` at most. Asking again
    or releasing again after a lost reply (redis-py does) finds one's own lock, or one's own
    release; a request that arrives late takes nothing. Waiting is polling, and not fair.
    NOT kept: a holder that is stopped or slow may outlive its lease and NOT KNOW, and A SERVER THAT
    LOSES THE LOCK (a restart without persistence, an eviction, a failover to a replica that had not
    heard of it) gives it to a second one: then TWO hold it. So each lease has a `fence`, greater
    than those before it: let the resource keep the greatest it has seen, at reading and at
    writing, and refuse all smaller ones. The fences rise even then, as they follow the server's
    clock, unless that is behind the old one's. When the clock goes back, a lease lasts so much
    longer.
    Keys: `<prefix>:{<name>}`, TTL `lease_s`; the last fence beside it, TTL a day more; for each
    release a mark, TTL two minutes. One slot.
    Cost: one round trip a call, for `acquire` one each try. Tested from Redis 7.0. A user of the
    server needs `~<prefix>:* +@read +@write +@scripting +time`.
    Raises: LockTimeout, LeaseLost, ValueError for arguments, TypeError for an asyncio client,
    redis's errors. After one of those in `try_acquire` it may be taken, for `lease_s`, by nobody.
    Prevents: a lock that outlives its holder, one that is released by somebody else, and (with
    the fence) the late write that undoes another's.

    >>> lock = Lock(r, "lock", lease_s=10)
    >>> with lock.holding("stock", wait_s=1) as mine:
    ...     lock.try_acquire("stock") is None, lock.renew(mine)
    (True, True)
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        *,
        lease_s: float,
        poll_s: float = 0.01,
    ) -> None:
        _refuse_client(client, ASYNC, "AsyncLock")
        super().__init__(prefix, lease_s, poll_s)
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    def try_acquire(self, name: str) -> Lease | None:
        """The lock, or None while somebody else has it."""
        token, start = secrets.token_hex(8), time.monotonic()
        keys, args = self._acquire_with(name, token)
        fence = self._acquire(keys=keys, args=args)
        return Lease(name, token, int(fence), start + self.lease_s) if fence else None

    def acquire(self, name: str, wait_s: float) -> Lease | None:
        """Try for so long."""
        deadline = time.monotonic() + _check_wait(wait_s)
        while (lease := self.try_acquire(name)) is None and time.monotonic() < deadline:
            time.sleep(self._pause_s(deadline))
        return lease

    def renew(self, lease: Lease) -> bool:
        """`lease_s` from now. False: it was lost, stop working."""
        start, key = time.monotonic(), self.key(lease.name)
        reply = self._renew(keys=[key], args=[lease.token, self.lease_ms])
        return self._renewed(lease, start, reply)

    def release(self, lease: Lease) -> bool:
        """Give it back. False: the lease had expired, and another holder may have overlapped it.

        If you release again within two minutes, as the reply was lost, the answer is the same.
        """
        keys, args = self._release_with(lease)
        return int(self._release(keys=keys, args=args)) == 1

    @contextlib.contextmanager
    def holding(self, name: str, wait_s: float, *, renewing: bool = False) -> Iterator[Lease]:
        """Hold it for a block. `renewing`: a thread renews it every third of the lease.

        Raises: LockTimeout if it is not free in time; LeaseLost, after the block, if it was lost
        within. When Redis cannot be asked at the end, the clock decides: within the lease is well.
        """
        lease = self.acquire(name, wait_s)
        if lease is None:
            raise LockTimeout(f"{name} is locked, and was so for {wait_s:g} s.")
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(lease, over), daemon=True)
        try:
            if renewing:
                keeper.start()
            yield lease
        except BaseException:
            over.set()
            with contextlib.suppress(*ERRORS):
                self.release(lease)
            raise
        over.set()
        if renewing:
            keeper.join()
        in_time = lease.left_s > 0
        with contextlib.suppress(*ERRORS):
            in_time = self.release(lease)
        if not in_time:
            raise LeaseLost(f"{name} was held longer than its lease; another may have had it.")

    def _keep(self, lease: Lease, over: threading.Event) -> None:
        while not over.wait(self.lease_s / 3) and lease.left_s > 0:
            with contextlib.suppress(*ERRORS):  # there is time for another try
                self.renew(lease)


class AsyncLock(_Rules):
    """`Lock` for asyncio: the same keys, and the same contract.

    A caller that is cancelled while it takes the lock gives it back.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        *,
        lease_s: float,
        poll_s: float = 0.01,
    ) -> None:
        _refuse_client(client, SYNC, "Lock")
        super().__init__(prefix, lease_s, poll_s)
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    async def try_acquire(self, name: str) -> Lease | None:
        """As `Lock.try_acquire`."""
        token, start = secrets.token_hex(8), time.monotonic()
        keys, args = self._acquire_with(name, token)
        try:
            fence = await self._acquire(keys=keys, args=args)
        except asyncio.CancelledError:  # it may be on its way: the note stops it as well
            keys, args = self._release_with(Lease(name, token, 0), "cancelled")
            with contextlib.suppress(*ERRORS):
                await asyncio.shield(self._release(keys=keys, args=args))
            raise
        return Lease(name, token, int(fence), start + self.lease_s) if fence else None

    async def acquire(self, name: str, wait_s: float) -> Lease | None:
        """As `Lock.acquire`."""
        deadline = time.monotonic() + _check_wait(wait_s)
        while (lease := await self.try_acquire(name)) is None and time.monotonic() < deadline:
            await asyncio.sleep(self._pause_s(deadline))
        return lease

    async def renew(self, lease: Lease) -> bool:
        """As `Lock.renew`."""
        start, key = time.monotonic(), self.key(lease.name)
        reply = await self._renew(keys=[key], args=[lease.token, self.lease_ms])
        return self._renewed(lease, start, reply)

    async def release(self, lease: Lease) -> bool:
        """As `Lock.release`."""
        keys, args = self._release_with(lease)
        return int(await self._release(keys=keys, args=args)) == 1

    @contextlib.asynccontextmanager
    async def holding(
        self, name: str, wait_s: float, *, renewing: bool = False
    ) -> AsyncIterator[Lease]:
        """As `Lock.holding`; `renewing` is a task."""
        lease = await self.acquire(name, wait_s)
        if lease is None:
            raise LockTimeout(f"{name} is locked, and was so for {wait_s:g} s.")
        keeper = asyncio.ensure_future(self._keep(lease)) if renewing else None
        try:
            yield lease
        except BaseException:
            if keeper:
                keeper.cancel()
            with contextlib.suppress(*ERRORS):
                await asyncio.shield(self.release(lease))
            raise
        if keeper:
            keeper.cancel()
        in_time = lease.left_s > 0
        with contextlib.suppress(*ERRORS):
            in_time = await asyncio.shield(self.release(lease))
        if not in_time:
            raise LeaseLost(f"{name} was held longer than its lease; another may have had it.")

    async def _keep(self, lease: Lease) -> None:
        while lease.left_s > 0:
            await asyncio.sleep(self.lease_s / 3)
            with contextlib.suppress(*ERRORS):  # there is time for another try
                await self.renew(lease)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _check_wait(wait_s: float) -> float:
    if not _is_number(wait_s, 0, LONGEST_S):
        raise ValueError(f"A wait is a number of seconds, 0 or more, and not {wait_s!r}.")
    return wait_s


def _refuse_client(client: object, wrong: tuple[type, ...], instead: str) -> None:
    if isinstance(client, wrong) or type(client).__name__.endswith("Pipeline"):
        raise TypeError(f"Not with a {type(client).__module__}.{type(client).__name__}: {instead}.")
