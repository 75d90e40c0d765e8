"""Four rate limiters with one interface. Built up in notebooks/patterns/06_rate_limiting.ipynb."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import ClassVar

import redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    RedisClusterException,
)

from redis_lab.errors import LabError

AWAY = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, RedisClusterException)
NOT_AWAY = (AuthenticationError, AuthorizationError)  # kinds of ConnectionError in redis-py
CHOICES = ("raise", "open", "closed")

# All times are whole microseconds. Each script returns {allowed, remaining, wait}. A request that
# is refused leaves no trace.
BEGIN = """
local key, limit, window, burst, cost = KEYS[1], unpack(ARGV)
limit, window, burst, cost = tonumber(limit), tonumber(window), tonumber(burst), tonumber(cost)
local now = tonumber(ARGV[5])
if not now then
  local at = redis.call('TIME')
  now = at[1] * 1000000 + at[2]
end
local function expire(wait) redis.call('PEXPIRE', key, math.ceil(wait / 1000)) end
"""

FIXED = """
local this = math.floor(now / window)
local at, used = unpack(redis.call('HMGET', key, 'window', 'used'))
at, used = tonumber(at or 0), tonumber(used or 0)
if at < this then at, used = this, 0 end
local left = (at + 1) * window - now
if used + cost > limit then return {0, limit - used, left} end
redis.call('HSET', key, 'window', at, 'used', used + cost)
expire(left)
return {1, limit - used - cost, 0}
"""

LOG = """
local first = redis.call('LINDEX', key, 0)
while first and tonumber(first) <= now - window do
  redis.call('LPOP', key)
  first = redis.call('LINDEX', key, 0)
end
local used = redis.call('LLEN', key)
if used + cost > limit then
  local goes = redis.call('LINDEX', key, used + cost - limit - 1)
  return {0, limit - used, goes + window - now}
end
for _ = 1, cost do redis.call('RPUSH', key, string.format('%.0f', now)) end
expire(window)
return {1, limit - used - cost, 0}
"""

COUNTER = """
local this = math.floor(now / window)
local at, used, before = unpack(redis.call('HMGET', key, 'window', 'used', 'before'))
at, used, before = tonumber(at or 0), tonumber(used or 0), tonumber(before or 0)
if at < this then
  before = at == this - 1 and used or 0
  at, used = this, 0
end
local left = (at + 1) * window - now
local free = limit - used - math.ceil(before * math.min(left, window) / window)
if cost > free then
  local spare = limit - used - cost
  if spare >= 0 then return {0, math.max(free, 0), left - math.floor(spare * window / before)} end
  spare = limit - cost
  return {0, math.max(free, 0), left + window - math.floor(spare * window / used)}
end
redis.call('HSET', key, 'window', at, 'used', used + cost, 'before', before)
expire(left + window)
return {1, free - cost, 0}
"""

GCRA = """
local each = math.ceil(window / limit)
local booked = math.max(tonumber(redis.call('GET', key) or now), now)
local free = math.floor((burst * each - (booked - now)) / each)
local ends = booked + cost * each
local wait = ends - burst * each - now
if wait > 0 then return {0, math.max(free, 0), wait} end
redis.call('SET', key, string.format('%.0f', ends), 'PX', math.ceil((ends - now) / 1000))
return {1, free - cost, 0}
"""


@dataclass(frozen=True)
class Decision:
    """`remaining` more would be let through now; `retry_after_s` is 0 if this one was.

    `away`: Redis did not answer, and the caller's choice was applied instead.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    away: bool = False


class Limiter:
    """What the four have in common. One of them is needed; this one has no script.

    Contract: what is let through is counted, what is refused is not, and there is no moment between
    the two at which another client could look. Time is the server's. `retry_after_s` after a
    refusal the same request is let through, if nobody else takes the place. A client that sends a
    request again after a lost reply has it counted twice. When Redis loses its memory the count
    begins anew; when its clock goes back, it refuses for at most the key's TTL.
    When Redis is away (a ConnectionError or TimeoutError, but not a refused password): `"raise"`,
    let through (`"open"`) or refuse (`"closed"`), as `when_away` says. How long it takes to notice
    is up to the client's `socket_timeout`.
    Keys: `<prefix>:<name>` with a TTL, one key a call, so any cluster will do.
    Cost: one round trip, one script. Tested from Redis 7.0. Sync and asyncio clients.
    """

    SCRIPT: ClassVar[str]

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        when_away: str = "raise",
    ) -> None:
        self.prefix, self.limit, self.window_us = prefix, limit, round(window_s * 1_000_000)
        self.burst, self.when_away = limit, when_away
        if not prefix or not whole(limit) or self.window_us < max(1000, limit):
            raise LabError(
                f"{type(self).__name__} needs a prefix, a whole limit of at least 1, a window of "
                "at least a millisecond, and no more than one request a microsecond."
            )
        if limit * self.window_us >= 2**53:  # Lua's numbers are doubles
            raise LabError("The limit times the window in microseconds must stay below 2**53.")
        if when_away not in CHOICES:
            raise LabError(f"when_away is one of {', '.join(CHOICES)}, not {when_away!r}.")
        self._script = client.register_script(BEGIN + self.SCRIPT)

    def allow(self, name: str, cost: int = 1) -> Decision:
        """May `name` do this now? Counted at once if so. (For asyncio clients: an awaitable.)"""
        return self.replay(name, "", cost)

    def replay(self, name: str, now_us: int | str, cost: int = 1) -> Decision:
        """`allow` at a moment of your choice, for tests and to replay what happened."""
        if not name or not whole(cost) or cost > self.burst:
            raise LabError(f"Ask for a name, at a whole cost from 1 to {self.burst}.")
        args = [self.limit, self.window_us, self.burst, cost, now_us]
        try:
            reply = self._script(keys=[f"{self.prefix}:{name}"], args=args)
        except AWAY as error:
            return self._without_redis(error)
        return self._later(reply) if inspect.isawaitable(reply) else decision(reply)

    async def _later(self, reply: Awaitable[list[int]]) -> Decision:
        try:
            return decision(await reply)
        except AWAY as error:
            return self._without_redis(error)

    def _without_redis(self, error: Exception) -> Decision:
        if self.when_away == "raise" or isinstance(error, NOT_AWAY):
            raise error
        allowed = self.when_away == "open"
        return Decision(allowed, 0, 0.0 if allowed else 1.0, away=True)


def whole(number: float) -> bool:
    return number >= 1 and number == int(number)


def decision(reply: list[int]) -> Decision:
    allowed, remaining, wait = reply
    return Decision(bool(allowed), remaining, wait / 1_000_000)


class FixedWindow(Limiter):
    """At most `limit` in each window of the server's clock: 12:00 to 12:01, 12:01 to 12:02.

    Promise: the end of one window and the beginning of the next may follow each other closely, so
    twice the limit in some spans of `window_s`, and never more. See `Limiter` for the rest.
    Keys: a hash of two numbers; TTL to the end of the window.

    >>> calls = FixedWindow(r, "fixed", limit=2, window_s=3600)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    SCRIPT = FIXED


class SlidingLog(Limiter):
    """At most `limit` in ANY span of `window_s`: it remembers when each was let through.

    Promise: exactly that. See `Limiter` for the rest.
    Keys: a list of up to `limit` times, so its memory grows with the limit; TTL `window_s`.
    Prevents: twice the limit across the boundary of two windows.

    >>> calls = SlidingLog(r, "log", limit=2, window_s=60)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    SCRIPT = LOG


class SlidingCounter(Limiter):
    """About `limit` in any span of `window_s`, from two counts: this window's and the last one's.

    Promise: at most `limit` if the requests of the last window came evenly. If they came all at its
    end, up to twice the limit less one in some spans. See `Limiter` for the rest.
    Keys: a hash of three numbers, whatever the limit; TTL to the end of the next window.
    Prevents: the rush at the boundary, mostly, without a log's memory.

    >>> calls = SlidingCounter(r, "counter", limit=2, window_s=3600)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    SCRIPT = COUNTER


class Gcra(Limiter):
    """One request every `window_s / limit`, and up to `burst` at once after a rest.

    Promise: at most `burst + limit * t / window_s` in any span of t seconds. With a burst of 1 they
    come one by one. (The interval is rounded up to whole microseconds.) See `Limiter` for the rest.
    Keys: a string, one moment, whatever the limit; TTL until it has passed.
    Prevents: the rush and the lock-out after it: refused clients get in again one by one.

    >>> calls = Gcra(r, "gcra", limit=60, window_s=3600, burst=2)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    >>> 59 < calls.allow("ada").retry_after_s <= 60
    True
    """

    SCRIPT = GCRA

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        burst: int | None = None,
        when_away: str = "raise",
    ) -> None:
        super().__init__(client, prefix, limit=limit, window_s=window_s, when_away=when_away)
        self.burst = limit if burst is None else burst
        if not whole(self.burst) or self.burst * self.window_us >= 2**53 * limit:
            raise LabError("A burst is whole, at least 1, and takes less than 2**53 microseconds.")
