"""Four rate limiters with one interface. Built up in the lesson `rate_limiting`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import redis
import redis.asyncio
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ExternalAuthProviderError,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)

__all__ = [
    "AsyncFixedWindow",
    "AsyncGcra",
    "AsyncLimiter",
    "AsyncSlidingCounter",
    "AsyncSlidingLog",
    "Decision",
    "FixedWindow",
    "Gcra",
    "Limit",
    "Limiter",
    "SlidingCounter",
    "SlidingLog",
]

SYNC, ASYNC = (redis.Redis, redis.RedisCluster), (redis.asyncio.Redis, redis.asyncio.RedisCluster)

# Away: Redis did not answer, or answered that it cannot serve anybody just now.
AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
AWAY_WORDS = (
    "MISCONF ",
    "NOREPLICAS ",
    "BUSY ",
    "Redis Cluster cannot be connected",
    "All slots are not covered",
)
# These are kinds of ConnectionError in redis-py, and yet Redis is there.
NOT_AWAY = (
    AuthenticationError,
    AuthorizationError,
    ExternalAuthProviderError,
    MaxConnectionsError,
)
CHOICES = ("raise", "open", "closed")
MOST_ENTRIES = 10_000  # of a log in one call; Redis serves nobody else meanwhile
LONGEST_S = 3_153_600_000  # a hundred years

# KEYS: one for each limit that is asked. ARGV: the moment or '', the verb, and for each key its
# kind, limit, window, burst and cost. All times are whole microseconds. Each kind tells how many
# are free, how long until there are enough, and has a function that counts so many (or fewer).
BEGIN = """
local now, verb = tonumber(ARGV[1]), ARGV[2]
if not now then
  local at = redis.call('TIME')
  now = at[1] * 1000000 + at[2]
end
local function whole(number) return string.format('%.0f', number) end
local function keep(key, us) redis.call('PEXPIRE', key, math.ceil(us / 1000)) end
local look = {}
"""

FIXED = """
function look.fixed(key, limit, window, burst, cost)
  local start = now - now % window
  local at, used = unpack(redis.call('HMGET', key, 'start', 'used'))
  at, used = tonumber(at or start), tonumber(used or 0)
  if at < start then used = 0 end
  local left = start + window - now
  local function count(n)
    used = math.max(used + n, 0)
    redis.call('HSET', key, 'start', whole(start), 'used', used)
    keep(key, left)
  end
  if at > start then count(0) end -- the clock went back: what was counted counts from now on
  return limit - used, left, count
end
"""

LOG = """
function look.log(key, limit, window, burst, cost)
  local used = redis.call('LLEN', key)
  local function at(place) return tonumber(redis.call('LINDEX', key, place)) end
  local function later_than(moment)
    local low, high = 0, used
    while low < high do
      local middle = math.floor((low + high) / 2)
      if at(middle) <= moment then low = middle + 1 else high = middle end
    end
    return low
  end
  local function count(n)
    if n < 0 then return redis.call('LTRIM', key, 0, n - 1) end
    while n > 0 do
      local some = {}
      for k = 1, math.min(n, 1000) do some[k] = whole(now) end
      redis.call('RPUSH', key, unpack(some))
      n = n - #some
    end
    keep(key, window)
  end
  if used > 0 and at(0) <= now - window then
    local old = later_than(now - window)
    redis.call('LTRIM', key, old, -1)
    used = used - old
  end
  if used > 0 and at(-1) > now then -- the clock went back: these were let through by now
    local kept = later_than(now)
    redis.call('LTRIM', key, 0, kept - 1)
    if kept == 0 then redis.call('DEL', key) end
    count(used - kept)
  end
  local free = limit - used
  return free, free < cost and at(cost - free - 1) + window - now or 0, count
end
"""

COUNTER = """
function look.counter(key, limit, window, burst, cost)
  local start = now - now % window
  local at, used, before = unpack(redis.call('HMGET', key, 'start', 'used', 'before'))
  at, used, before = tonumber(at or start), tonumber(used or 0), tonumber(before or 0)
  if at < start then before, used = at == start - window and used or 0, 0 end
  local left = start + window - now
  local function count(n)
    used = math.max(used + n, 0)
    redis.call('HSET', key, 'start', whole(start), 'used', used, 'before', before)
    keep(key, left + window)
  end
  if at > start then count(0) end -- the clock went back: what was counted counts from now on
  local function left_when(held, room) -- so much of a window, and `held` weighs `room` or less
    return held > room and math.ceil((room + 1) * window / held) - 1 or window
  end
  local wait = left - left_when(before, limit - used - cost)
  if used + cost > limit then wait = left + window - left_when(used, limit - cost) end
  return limit - used - math.floor(before * left / window), wait, count
end
"""

GCRA = """
function look.gcra(key, limit, window, burst, cost)
  local each = math.ceil(window / limit)
  local booked = math.max(tonumber(redis.call('GET', key) or now), now)
  local function count(n)
    booked = math.max(booked + n * each, now)
    if booked == now then return redis.call('DEL', key) end
    redis.call('SET', key, whole(booked), 'PX', math.ceil((booked - now) / 1000))
  end
  local most = burst * each
  if booked > now + most then -- nobody books so far: the clock went back, or the burst was greater
    booked = now + most
    count(0)
  end
  local free = math.floor((now + most - booked) / each)
  return free, booked + cost * each - most - now, count
end
"""

END = """
local allowed, remaining, wait, counts = 1, math.huge, 0, {}
for k, key in ipairs(KEYS) do
  local kind, cost = ARGV[5 * k - 2], tonumber(ARGV[5 * k + 2])
  local limit, window, burst = tonumber(ARGV[5 * k - 1]), tonumber(ARGV[5 * k]), ARGV[5 * k + 1]
  local function free() return look[kind](key, limit, window, tonumber(burst), cost) end
  local room, until_then, count = free()
  if verb == 'refund' then
    count(-cost)
    room = free()
  elseif room < cost then
    allowed, wait = 0, math.max(wait, until_then)
  end
  counts[k] = {room, cost, count}
end
for _, each in ipairs(counts) do
  local room, cost, count = unpack(each)
  if verb == 'allow' and allowed == 1 then
    count(cost)
    room = room - cost
  end
  remaining = math.max(0, math.min(remaining, room))
end
return {allowed, remaining, wait}
"""

SCRIPT = BEGIN + FIXED + LOG + COUNTER + GCRA + END


@dataclass(frozen=True)
class Decision:
    """`remaining` more would be let through now; `retry_after_s` is 0 if this one was.

    `away`: Redis did not answer, and the caller's choice was applied instead.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    away: bool = False


class Limit:
    """What the eight classes have in common; use one of them. Those with Async... are for asyncio.

    Contract: what is let through is counted, what is refused is not, and there is no moment between
    the two at which another client could look. Time is the server's. `retry_after_s` after a
    refusal the same request is let through, if nobody else takes the place. When the server's
    clock goes back, however far, what was counted stays counted and the wait starts again: two
    windows at most (`Gcra`: the burst's time). With another limit or burst the same count goes on;
    a fixed window or a sliding counter of another LENGTH counts for itself, and from zero.
    NOT kept: a request that the client sends again after a lost reply is counted twice (and may
    be refused by its own first try); when Redis loses its memory, or a replica takes over that
    had not heard of it yet, the count starts again.
    When Redis is away: raise the error, let through (`"open"`) or refuse (`"closed"`), as
    `when_away` says. Away is a server that cannot be reached, does not answer in time, or says that
    it cannot serve (OOM, READONLY, MISCONF, LOADING, CLUSTERDOWN and their like). A refused
    password, a missing permission, a wrong type and a POOL WITHOUT A FREE CONNECTION are not: they
    are raised. How long it takes to notice is up to the client's `socket_timeout` and `retry`.
    Keys: `key(name)`, with a TTL. One key a limit, so any cluster will do.
    Cost: one round trip, one script. Tested from Redis 7.0. A user of the server needs
    `~<prefix>:* +@read +@write +@scripting +time`.
    Raises: ValueError for arguments, TypeError for a client of the other kind, redis's own errors.
    """

    KIND: ClassVar[str]

    def __init__(self, prefix: str, limit: int, window_s: float, when_away: str) -> None:
        fits = _is_number(window_s, 0.001, LONGEST_S) and _is_whole(limit, 1, window_s * 1_000_000)
        if not isinstance(prefix, str) or not prefix or not fits:
            raise ValueError(
                f"{type(self).__name__} needs a prefix, a whole limit of at least 1, a window of "
                "at least a millisecond, and no more than one request a microsecond."
            )
        self.prefix, self.limit, self.window_us = prefix, limit, round(window_s * 1_000_000)
        self.burst, self.when_away = limit, when_away
        if limit * self.window_us >= 2**53:  # Lua's numbers are doubles
            raise ValueError("The limit times the window in microseconds must stay below 2**53.")
        if when_away not in CHOICES:
            raise ValueError(f"when_away is one of {', '.join(CHOICES)}, not {when_away!r}.")

    def key(self, name: str) -> str:
        """Where `name` is counted."""
        key = f"{self.prefix}:{name}"
        return f"{key}:{self.window_us}" if self.KIND in ("fixed", "counter") else key

    def headers(self, decision: Decision, *, jitter: float = 0.1) -> dict[str, str]:
        """For an HTTP response; one that refuses has status 429.

        All that one window refuses are given the same time, so `Retry-After` has a random
        part of up to `jitter` windows on top, or they would all come back in it.
        """
        if not _is_number(jitter, 0, 1000):
            raise ValueError("The jitter is a number of windows, 0 or more.")
        quota, policy = self.window_us / 1_000_000, json.dumps(self.prefix)
        found = {
            "RateLimit-Policy": f"{policy};q={self.limit};w={math.ceil(quota)}",
            "RateLimit": f"{policy};r={decision.remaining}",
        }
        if not decision.allowed:
            after = decision.retry_after_s + random.uniform(0, jitter * quota)
            found["Retry-After"] = str(math.ceil(after))
        return found

    def _request(
        self, verb: str, name: str, cost: int, also: Iterable[tuple[Limit, str]], now_us: int | str
    ) -> tuple[list[str], list[Any]]:
        if now_us != "" and not _is_whole(now_us, -(2**53), 2**53):
            raise ValueError("A moment is a whole number of microseconds.")
        keys: list[str] = []
        args: list[Any] = [now_us, verb]
        for limit, called in ((self, name), *also):
            most = min(limit.burst, MOST_ENTRIES) if limit.KIND == "log" else limit.burst
            if not isinstance(called, str) or not called or not _is_whole(cost, 1, most):
                raise ValueError(f"Ask for a name, at a whole cost from 1 to {most}.")
            keys.append(limit.key(called))
            args += [limit.KIND, limit.limit, limit.window_us, limit.burst, cost]
        return keys, args

    def _burst(self, burst: int | None) -> int:
        burst = self.limit if burst is None else burst
        if not _is_whole(burst, 1, (2**53 * self.limit - 1) // self.window_us):
            raise ValueError("A burst is whole, at least 1, and takes less than 2**53 µs.")
        return burst

    def _without_redis(self, error: Exception) -> Decision:
        if self.when_away == "raise" or not _is_away(error):
            raise error
        allowed = self.when_away == "open"
        return Decision(allowed, 0, 0.0 if allowed else 1.0, away=True)


class Limiter(Limit):
    """For redis.Redis and redis.RedisCluster. What it promises stands in `Limit`."""

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        when_away: str = "raise",
    ) -> None:
        _refuse_client(client, ASYNC, f"Async{type(self).__name__}")
        super().__init__(prefix, limit, window_s, when_away)
        self._script = client.register_script(SCRIPT)

    def allow(self, name: str, cost: int = 1, also: Iterable[tuple[Limit, str]] = ()) -> Decision:
        """May `name` do this now? Counted at once if so.

        `also`: other limits and their names, `[(per_shop, "shop:1")]`. All of them let it through
        and count it, or none does. One round trip; on a cluster their keys need one hash tag.
        """
        return self._ask("allow", name, cost, also)

    def peek(self, name: str, cost: int = 1) -> Decision:
        """What `allow` would say, without counting. `remaining` is what is free now."""
        return self._ask("peek", name, cost)

    def refund(self, name: str, cost: int = 1) -> Decision:
        """What was let through did not happen: count so many fewer, as far as they still count."""
        return self._ask("refund", name, cost)

    def replay(self, name: str, now_us: int, cost: int = 1) -> Decision:
        """`allow` at a moment of your choice, for tests and to replay what happened."""
        return self._ask("allow", name, cost, now_us=now_us)

    def _ask(
        self,
        verb: str,
        name: str,
        cost: int,
        also: Iterable[tuple[Limit, str]] = (),
        now_us: int | str = "",
    ) -> Decision:
        keys, args = self._request(verb, name, cost, also, now_us)
        try:
            return _parse_decision(self._script(keys=keys, args=args))
        except (redis.RedisError, RedisClusterException) as error:
            return self._without_redis(error)


class AsyncLimiter(Limit):
    """For redis.asyncio.Redis and RedisCluster. What it promises stands in `Limit`.

    A caller that is cancelled while its request is on the way may have been counted.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        when_away: str = "raise",
    ) -> None:
        _refuse_client(client, SYNC, type(self).__name__.removeprefix("Async"))
        super().__init__(prefix, limit, window_s, when_away)
        self._script = client.register_script(SCRIPT)

    async def allow(
        self, name: str, cost: int = 1, also: Iterable[tuple[Limit, str]] = ()
    ) -> Decision:
        """As `Limiter.allow`."""
        return await self._ask("allow", name, cost, also)

    async def peek(self, name: str, cost: int = 1) -> Decision:
        """As `Limiter.peek`."""
        return await self._ask("peek", name, cost)

    async def refund(self, name: str, cost: int = 1) -> Decision:
        """As `Limiter.refund`."""
        return await self._ask("refund", name, cost)

    async def replay(self, name: str, now_us: int, cost: int = 1) -> Decision:
        """As `Limiter.replay`."""
        return await self._ask("allow", name, cost, now_us=now_us)

    async def _ask(
        self,
        verb: str,
        name: str,
        cost: int,
        also: Iterable[tuple[Limit, str]] = (),
        now_us: int | str = "",
    ) -> Decision:
        keys, args = self._request(verb, name, cost, also, now_us)
        try:
            return _parse_decision(await self._script(keys=keys, args=args))
        except (redis.RedisError, RedisClusterException) as error:
            return self._without_redis(error)


def _parse_decision(reply: list[int]) -> Decision:
    allowed, remaining, wait = reply
    return Decision(bool(allowed), remaining, wait / 1_000_000)


def _is_away(error: BaseException | None) -> bool:
    """Whether Redis could not serve; a mistake of ours is not that, nor is a pool that is full."""
    if isinstance(error, NOT_AWAY) or str(error).startswith("No connection available"):
        return False
    if isinstance(error, RedisClusterException) and isinstance(error.__cause__, NOT_AWAY):
        return False
    return isinstance(error, AWAY) or str(error).startswith(AWAY_WORDS)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, low: float, high: float) -> bool:
    return isinstance(value, int) and _is_number(value, low, high)


def _refuse_client(client: object, wrong: tuple[type, ...], instead: str) -> None:
    if isinstance(client, wrong) or type(client).__name__.endswith("Pipeline"):
        raise TypeError(f"Not with a {type(client).__module__}.{type(client).__name__}: {instead}.")


class FixedWindow(Limiter):
    """At most `limit` in each window of the server's clock: 12:00 to 12:01, 12:01 to 12:02.

    Promise: the end of one window and the beginning of the next may follow each other closely, so
    twice the limit in some spans of `window_s`, and never more. See `Limit` for the rest.
    Keys: a hash of two numbers; TTL to the end of the window.

    >>> calls = FixedWindow(r, "fixed", limit=2, window_s=3600)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    KIND = "fixed"


class SlidingLog(Limiter):
    """At most `limit` in ANY span of `window_s`: it remembers when each was let through.

    Promise: exactly that. See `Limit` for the rest.
    Keys: a list of up to `limit` times, so its memory grows with the limit; TTL `window_s`. A cost
    is so many entries, 10,000 at most.
    Prevents: twice the limit across the boundary of two windows.

    >>> calls = SlidingLog(r, "log", limit=2, window_s=60)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    KIND = "log"


class SlidingCounter(Limiter):
    """About `limit` in any span of `window_s`, from two counts: this window's and the last one's.

    Promise: `limit` a window for who asks all the time, and at most `limit` in any span if the
    requests of the last window came evenly. If they came all at its end, up to twice the limit in
    some spans. See `Limit` for the rest.
    Keys: a hash of three numbers, whatever the limit; TTL to the end of the next window.
    Prevents: the rush at the boundary, mostly, without a log's memory.

    >>> calls = SlidingCounter(r, "counter", limit=2, window_s=3600)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    """

    KIND = "counter"


class Gcra(Limiter):
    """One request every `window_s / limit`, and up to `burst` at once after a rest.

    Promise: at most `burst + limit * t / window_s` in any span of t seconds. With a burst of 1 they
    come one by one. (The interval is rounded up to whole microseconds.) See `Limit` for the rest.
    Keys: a string, one moment, whatever the limit; TTL until it has passed.
    Prevents: the rush and the lock-out after it: refused clients get in again one by one.

    >>> calls = Gcra(r, "gcra", limit=60, window_s=3600, burst=2)
    >>> [calls.allow("ada").allowed for _ in range(3)]
    [True, True, False]
    >>> 59 < calls.allow("ada").retry_after_s <= 60
    True
    >>> calls.refund("ada").remaining, calls.peek("ada").remaining
    (1, 1)
    """

    KIND = "gcra"

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        burst: int | None = None,
        when_away: str = "raise",
    ) -> None:
        super().__init__(client, prefix, limit=limit, window_s=window_s, when_away=when_away)
        self.burst = self._burst(burst)


class AsyncFixedWindow(AsyncLimiter):
    """`FixedWindow` for asyncio, with the same keys."""

    KIND = "fixed"


class AsyncSlidingLog(AsyncLimiter):
    """`SlidingLog` for asyncio, with the same keys."""

    KIND = "log"


class AsyncSlidingCounter(AsyncLimiter):
    """`SlidingCounter` for asyncio, with the same keys."""

    KIND = "counter"


class AsyncGcra(AsyncLimiter):
    """`Gcra` for asyncio, with the same keys."""

    KIND = "gcra"

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        *,
        limit: int,
        window_s: float,
        burst: int | None = None,
        when_away: str = "raise",
    ) -> None:
        super().__init__(client, prefix, limit=limit, window_s=window_s, when_away=when_away)
        self.burst = self._burst(burst)
