"""The naive forms that the lessons warn of, for the drill to catch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import redis

from . import ours

__all__ = [
    "Cache",
    "CheckingLimiter",
    "ClockLimiter",
    "ClockLock",
    "CountingLock",
    "EndlessQueue",
    "Limiter",
    "Lock",
    "Once",
    "Queue",
    "Sessions",
    "TrustingSessions",
    "UndeclaredSessions",
]


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

    def release(self, lease: str) -> object:
        """Whoever has it."""
        return self.client.delete(f"lock:{lease}")


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


class EndlessQueue(ours.ListQueue):
    """Whoever dies with a job leaves it to the next one, however often that happens."""

    lease_s = 0.1
    max_tries, most_tries = 1_000_000, 10


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


class ClockLimiter(Limiter):
    """A log of calls in a sorted set, by the clock of whoever calls."""

    window_s = 0.8
    most = 3
    script = """
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - ARGV[2])
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[2] * 1000)
    return 1
    """

    def allow(self, name: str) -> bool:
        """Forget, compare and count in one step."""
        args = time.time(), self.window_s, self.limit, secrets.token_hex(8)
        return bool(self.client.eval(self.script, 1, f"calls:{name}", *args))


class Fenced:
    """A lease with a number for the store to compare."""

    def __init__(self, name: str, token: str) -> None:
        self.name, self.token, self.fence = name, token, 0


class ClockLock(Lock):
    """Its value says until when it is held; whoever believes that this is over takes it."""

    not_promised: tuple[str, ...] = ("lost updates",)
    take = """
    local until_s = tonumber(redis.call('HGET', KEYS[1], 'until'))
    if until_s and until_s > tonumber(ARGV[1]) then return 0 end
    redis.call('HSET', KEYS[1], 'until', ARGV[1] + ARGV[2], 'token', ARGV[3])
    redis.call('EXPIRE', KEYS[1], 60)
    return 1
    """
    give = """
    if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
    return 0
    """

    def acquire(self, name: str) -> Any:
        """With a token, and only if nobody holds it."""
        lease = f"lock:{name}", secrets.token_hex(8)
        args = time.time(), self.lease_s, lease[1]
        return lease if self.client.eval(self.take, 1, lease[0], *args) else None

    def release(self, lease: Any) -> bool:
        """Only one's own."""
        return bool(self.client.eval(self.give, 1, *lease))


class CountingLock(ClockLock):
    """The server's clock and a fence; but the fences are a count that is kept in Redis."""

    not_promised = ()
    not_promised_at_failover = ("two holders", "no order of holders")
    take = """
    if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
    redis.call('HSET', KEYS[1], 'token', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[1] * 1000)
    local fence = redis.call('INCR', KEYS[2])
    redis.call('EXPIRE', KEYS[2], 86400)
    return fence
    """

    def acquire(self, name: str) -> Any:
        """With the next number."""
        lease = Fenced(f"lock:{{{name}}}", secrets.token_hex(8))
        keys = lease.name, f"{lease.name}:fence"
        lease.fence = self.client.eval(self.take, 2, *keys, self.lease_s, lease.token)
        return lease if lease.fence else None

    def release(self, lease: Any) -> bool:
        """Only one's own."""
        return super().release((lease.name, lease.token))


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


class TrustingSessions(ours.Sessions):
    """They promise that what Redis has acknowledged is never lost, whatever happens to it."""

    not_promised_at_failover = ()


class UndeclaredSessions(Sessions):
    """A user's sessions and an index of them; a script deletes what it has not declared."""

    logout = """
    redis.call('SREM', KEYS[1], ARGV[1])
    return redis.call('DEL', ARGV[1])
    """

    def start(self, user: str) -> str:
        """In one slot with the user's other ones."""
        id = f"session:{{{user}}}:{secrets.token_hex(8)}"
        with self.client.pipeline() as pipe:
            pipe.set(id, user, ex=600)
            pipe.sadd(f"sessions:{{{user}}}", id)
            pipe.expire(f"sessions:{{{user}}}", 600)
            pipe.execute()
        return id

    def load(self, id: str) -> Any:
        """The user, and ten more minutes."""
        return self.client.getex(id, ex=600)

    def end(self, id: str) -> None:
        """Both are gone, or neither."""
        user = id.split(":")[1]
        self.client.eval(self.logout, 1, f"sessions:{user}", id)


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
