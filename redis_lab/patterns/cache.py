"""One cache: lease, version, deletion, stale copies, fallback. Built up in the lessons on caches.

Stands alone: needs redis-py and the standard library. `Cache` is for redis.Redis and RedisCluster,
`AsyncCache` for their asyncio twins.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict, TypeGuard, Unpack

import redis
import redis.asyncio
from redis.exceptions import (
    AuthorizationError,
    ClusterDownError,
    MaxConnectionsError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)

__all__ = [
    "AsyncCache",
    "Cache",
    "CacheError",
    "Entry",
    "LoadTimeout",
    "Options",
    "Versioned",
]

# KEYS[1]: the entry. ARGV: token, lease in ms
# Reply: value, state (0 nothing, 1 stale, 2 fresh), whether the caller has the lease
READ = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local entry = redis.call('HMGET', KEYS[1], 'value', 'fresh', 'gone', 'lease', 'holder')
local state = 0
if entry[1] and now < tonumber(entry[3]) then state = 1 end
if state == 1 and now < tonumber(entry[2]) then state = 2 end
local busy = now < tonumber(entry[4] or 0) and entry[5] ~= ARGV[1]
if state == 2 or busy then return {state > 0 and entry[1] or '', state, 0} end
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]), 'holder', ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {state > 0 and entry[1] or '', state, 1}
"""

# KEYS[1]: the entry. ARGV: token, value, fresh for so many ms, kept for so many ms, version or ''
STORE = """
local entry = redis.call('HMGET', KEYS[1], 'holder', 'floor', 'stored')
if entry[1] ~= ARGV[1] then return entry[3] == ARGV[1] and 1 or 0 end  -- sent twice, or too late
if ARGV[5] ~= '' and tonumber(ARGV[5]) < tonumber(entry[2] or 0) then
  redis.call('HDEL', KEYS[1], 'lease', 'holder')
  return 0
end
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local fresh, gone = string.format('%.0f', now + ARGV[3]), string.format('%.0f', now + ARGV[4])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'fresh', fresh, 'gone', gone, 'stored', ARGV[1])
redis.call('HDEL', KEYS[1], 'lease', 'holder', 'floor')
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'floor', ARGV[5]) end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS[1]: the entry. ARGV[1]: token
GIVE_UP = """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'lease', 'holder')
end
"""

# KEYS[1]: the entry. ARGV: version or '', how long the floor is kept in ms
INVALIDATE = """
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or 0)
redis.call('HDEL', KEYS[1], 'value', 'fresh', 'gone', 'lease', 'holder', 'floor')
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'floor', math.max(floor, tonumber(ARGV[1])))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

log = logging.getLogger(__name__)


class CacheError(Exception):
    """What `get` may raise besides what `load` and the serializer raise."""


class LoadTimeout(CacheError):
    """Another caller is loading the value and was not done within `wait_s`. (HTTP: 503)"""


@dataclass(frozen=True)
class Versioned:
    """What `load` may return: a value and its version, a whole number from 0 to 2**53."""

    value: Any
    version: int


@dataclass(frozen=True)
class Entry:
    """What `read` finds. If `token` is set, this caller must load the value; nobody else will."""

    value: Any
    fresh: bool
    usable: bool
    token: str | None


Load = Callable[[str], Any]
AsyncLoad = Callable[[str], Awaitable[Any]]


def _for_all(error: BaseException | None) -> TypeGuard[Exception]:
    """Whether those who wait for a load get its error: not if only its caller was interrupted."""
    return isinstance(error, Exception) and not isinstance(error, LoadTimeout)


class _Away(Exception):
    """Redis cannot be asked now."""


# Replies of a server that is there and cannot serve; every other error reply is a mistake of ours.
UNABLE = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN")


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether the server did not answer. A wrong password is not that, nor a full pool."""
    if isinstance(error, redis.AuthenticationError | AuthorizationError | MaxConnectionsError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)


def _is_unable(error: BaseException) -> bool:
    """Whether Redis cannot serve at the moment, so that a read goes on without it."""
    if isinstance(error, RedisClusterException):
        return isinstance(error, SlotNotCoveredError) or _is_unreachable(error.__cause__)
    states = redis.OutOfMemoryError | redis.ReadOnlyError | ClusterDownError | TryAgainError
    if isinstance(error, states | MaxConnectionsError) or _is_unreachable(error):
        return True
    return isinstance(error, redis.ResponseError) and str(error).split(" ")[0] in UNABLE


class _Gate:
    """Keeps callers from a server that does not answer, so that they do not all hang.

    Closed for `pause_s` after a call failed or has been under way for `slow_s`; then one tries.
    """

    def __init__(self, slow_s: float, pause_s: float) -> None:
        self.slow_s, self.pause_s = slow_s, pause_s
        self._closed_until = 0.0
        self._asking: dict[object, float] = {}
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Around a call to Redis. Raises: _Away instead of asking, or instead of its error."""
        me, now = object(), time.monotonic()
        with self._mutex:
            oldest = next(iter(self._asking.values()), now)
            if now - oldest > self.slow_s:  # it hangs: let it, and count it no more
                self._asking.clear()
                self._closed_until = now + self.pause_s
            if now < self._closed_until or (self._closed_until and self._asking):
                raise _Away
            self._asking[me] = now
        until = self._closed_until
        try:
            yield
            until = 0.0
        except Exception as error:
            if _is_unreachable(error):
                until = time.monotonic() + self.pause_s
            if not _is_unable(error):
                raise
            raise _Away from error
        finally:
            with self._mutex:
                if self._asking.pop(me, None) is not None:
                    self._closed_until = until


class Options(TypedDict, total=False):
    """Keyword arguments of both caches; times in seconds. Defaults: see _Shared."""

    ttl_s: float  # how long a value is fresh
    stale_s: float  # how much longer it is kept
    lease_s: float  # longer than any load takes
    missing_ttl_s: float  # how long None is kept
    wait_s: float  # how long to wait for another's load
    poll_s: float  # how often to look whether it is done
    budget_s: float  # a call to Redis that takes longer counts as Redis being away
    pause_s: float  # and then Redis is not asked for so long
    background: bool  # reload a stale value in the background
    jitter: float  # the share of ttl_s that is taken off at random, at most
    dumps: Callable[[Any], str | bytes]
    loads: Callable[[Any], Any]
    on_event: Callable[[str, str], object] | None


class _Shared:
    """What both forms share: checked arguments, names, times, texts and counts."""

    _other_clients: tuple[type, ...]
    _instead: str

    def __init__(
        self,
        client: Any,
        prefix: str,
        load: Callable[[str], Any] | None = None,
        *,
        ttl_s: float = 300,
        stale_s: float = 30,
        lease_s: float = 10,
        missing_ttl_s: float = 30,
        wait_s: float = 10,
        poll_s: float = 0.02,
        budget_s: float = 2,
        pause_s: float = 1,
        background: bool = True,
        jitter: float = 0.1,
        dumps: Callable[[Any], str | bytes] = json.dumps,
        loads: Callable[[Any], Any] = json.loads,
        on_event: Callable[[str, str], object] | None = None,
    ) -> None:
        if isinstance(client, self._other_clients):
            raise TypeError(f"this is the wrong client; use {self._instead} with it.")
        times = ttl_s, lease_s, missing_ttl_s, poll_s, budget_s, pause_s
        if not prefix or not min(times) >= 0.001 or not max(times) < 1e9:
            raise ValueError("the cache needs a prefix, and times from 1 ms to 30 years.")
        if not 0 <= stale_s < 1e9 or not 0 <= wait_s < 1e6 or not 0 <= jitter < 1:
            raise ValueError("stale_s and wait_s must be at least 0, jitter from 0 to below 1.")
        decodes = getattr(client, "get_encoder", None)
        if isinstance(dumps(None), bytes) and decodes and decodes().decode_responses:
            raise ValueError("a serializer that makes bytes needs decode_responses=False.")
        self.prefix, self.load = prefix, load
        self.ttl_s, self.stale_s, self.missing_ttl_s = ttl_s, stale_s, missing_ttl_s
        self.lease_s, self.wait_s, self.poll_s, self.budget_s = lease_s, wait_s, poll_s, budget_s
        self.background, self.jitter = background, jitter
        self.dumps, self.loads, self.on_event = dumps, loads, on_event
        self.counts: Counter[str] = Counter()
        self._gate = _Gate(budget_s, pause_s)
        self._mutex = threading.Lock()
        self._scripts = [client.register_script(s) for s in (READ, STORE, GIVE_UP, INVALIDATE)]

    def _note(self, event: str, key: str) -> None:
        with self._mutex:
            self.counts[event] += 1
        if self.on_event:
            self.on_event(event, key)

    def _loader(self, load: Callable[[str], Any] | None) -> Callable[[str], Any]:
        if load is None and self.load is None:
            raise TypeError("nothing to load with: give `load` to the cache or to get.")
        return load or self.load  # type: ignore[return-value]

    def _late(self, key: str) -> LoadTimeout:
        return LoadTimeout(f"{key!r} was not loaded by another within {self.wait_s} s.")

    def _name(self, key: str) -> str:
        return f"{self.prefix}:{key}"

    def _jittered(self, seconds: float, spread: float) -> float:
        return seconds * (1 - spread * random.random())

    def _encoded(self, loaded: Any) -> tuple[str | bytes, list[Any]]:
        """The text of a loaded value, and what STORE needs after the token."""
        version: int | str = ""
        if isinstance(loaded, Versioned):
            version, loaded = self._checked(loaded.version), loaded.value
        text = self.dumps(loaded)
        fresh_s = self._jittered(self.missing_ttl_s if loaded is None else self.ttl_s, self.jitter)
        # An absence is not kept beyond its time: somebody may have created the thing.
        kept_s = fresh_s if loaded is None else fresh_s + self.stale_s
        return text, [text, math.ceil(fresh_s * 1000), math.ceil(kept_s * 1000), version]

    def _checked(self, version: int) -> int:
        if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version <= 2**53:
            raise ValueError(f"a version is a whole number from 0 to 2**53, not {version!r}.")
        return version

    def _entry(self, reply: list[Any], token: str) -> Entry:
        text, state, mine = reply
        value = self.loads(text) if state else None
        return Entry(value, state == 2, state > 0, token if mine else None)

    def _invalidation(self, key: str, version: int | None) -> dict[str, list[Any]]:
        number = "" if version is None else self._checked(version)
        kept_ms = math.ceil((self.ttl_s + self.stale_s) * 1000)
        return {"keys": [self._name(key)], "args": [number, kept_ms]}

    def _key_of(self, function: Callable[..., Any]) -> Callable[..., str]:
        """The key of a call: the function's name and its positional arguments as JSON."""
        return lambda *args: f"{function.__qualname__}:{json.dumps(args)[1:-1]}"


class _Flight:
    """One question to Redis, for all of this process that asked before it was sent."""

    def __init__(self) -> None:
        self._under_way = threading.Lock()  # much cheaper to make than an Event
        self._under_way.acquire()
        self.text: Any = None
        self.error: BaseException | None = None
        self.next: _Flight | None = None

    def end(self) -> None:
        self._under_way.release()

    def ended_by(self, until: float) -> bool:
        """Wait for its end. False: it is still under way at that time."""
        ended = self._under_way.acquire(timeout=max(0, until - time.monotonic()))
        if ended:
            self._under_way.release()
        return ended


class Cache(_Shared):
    """Read through a cache that is right after an update, and cheap when a value expires.

    `load(key)` returns the value, anything the serializer takes, or None if there is no such thing;
    or `Versioned(value, version)`, where the version rises with every update. `get` returns what
    `loads(dumps(value))` is, on a miss as on a hit.

    Contract:
    - *Never stale.* Once `invalidate(key)` has returned, no `get` that begins later returns a value
      loaded before, however reads, loads and writes interleave. Call it after the commit: after an
      update with the row's version or without, after a deletion WITHOUT, since a row that is
      created again may restart its versions. This holds while Redis keeps what it acknowledged:
      after a FAILOVER, or a restart from an older snapshot, an old value may come back for up to
      ttl_s + stale_s. It lives as long if the process dies between the commit and the call, or if
      the call raises (Redis was away): repeat it (an outbox). Eviction, and a restart with an empty
      memory, do no harm.
    - *Versions* keep out what a database replica that lags says: such a value goes to the caller
      that loaded it, and is not stored if it is below a version announced or stored before.
    - *One loads.* No two loads of a key run at a time, in any number of processes, while loads take
      less than `lease_s`, Redis keeps its memory, and the key is not invalidated meanwhile. Within
      a process concurrent gets of a key share one connection. A holder that dies or is slower loses
      its lease; then another loads. (A call that redis-py sends again and the network delivers late
      may hold a lease that nobody uses.) While Redis is away each process loads for itself.
    - *Few wait.* A value is fresh for `ttl_s` (less up to a tenth, at random), kept for `stale_s`
      longer. A stale one is returned at once, while a thread loads the new one; with
      `background=False` the caller with the lease loads it. If that raises, the stale value is
      returned until it is gone. Only if there is no value do the others wait, at most `wait_s`,
      then LoadTimeout. If a load raises, all that wait for it in this process get its exception.
    - *None* is kept for `missing_ttl_s` and not longer.
    - *Redis away* (no connection, no answer, full, read-only, loading): `get` loads and returns the
      value; nothing is stored. A call under way for `budget_s`, or an error, lets all others skip
      Redis for `pause_s`. But the first callers hang as long as their CLIENT lets them, which by
      default is 11 tries of 5 s: give it `socket_timeout=0.5, socket_connect_timeout=0.5,
      retry=Retry(NoBackoff(), 0)`. `invalidate` always tries, and raises.
    Keys: `<prefix>:<key>`, a hash; TTL `ttl_s + stale_s`, and not less than a lease that runs.
    Cost: fresh or stale one round trip (a script, so always from the primary and never from
    redis-py's client-side cache), a load two, an invalidation one, a waiting process one per
    `poll_s`. One key a script: works on Redis Cluster. Tested from Redis 7.0.
    Prevents: the stampede, the slow reader that stores an old row, the outage that becomes yours.

    `on_event(event, key)` is called with hit, stale, miss, load, wait, away, overtaken (loaded, but
    not stored), load_failed, stale_if_error; `counts` counts them. It must not raise.
    Make it after a fork, as its client. `load` runs in other threads, unless `background=False`.

    >>> cache = Cache(r, "square", lambda n: int(n) ** 2, ttl_s=60)
    >>> cache.get("12"), cache.get("12"), cache.counts["load"]
    (144, 144, 1)
    >>> cache.invalidate("12")
    >>> @cache.cached
    ... def cube(n):
    ...     return n**3
    >>> cube(3), cube(3), cube.key(3), cache.counts["load"]
    (27, 27, 'cube:3', 2)
    """

    _other_clients = (redis.asyncio.Redis, redis.asyncio.RedisCluster, redis.client.Pipeline)
    _instead = "AsyncCache (or a client that is no pipeline)"

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        load: Load | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(client, prefix, load, **options)
        self._flights: dict[str, _Flight] = {}
        self._threads = threading.BoundedSemaphore(8)

    def get(self, key: str, load: Load | None = None) -> Any:
        """The value: fresh, stale, or loaded now by `load`.

        Raises: LoadTimeout, and what `load` or the serializer raises.
        """
        load, until = self._loader(load), time.monotonic() + self.wait_s
        with self._mutex:
            before = self._flights.get(key)
            leads = before is None or before.next is None
            if before is None:
                flight = self._flights[key] = _Flight()
            else:  # its question may be older than this call: wait for the next one
                flight = before.next = before.next or _Flight()
        if leads:
            self._lead(key, load, flight, before, until)
        elif not flight.ended_by(until):
            raise self._late(key)
        if flight.error is None:
            return self.loads(flight.text)
        if leads or isinstance(flight.error, Exception):
            raise flight.error
        return self.get(key, load)  # its leader was interrupted; that is not for us

    def _lead(
        self, key: str, load: Load, flight: _Flight, before: _Flight | None, until: float
    ) -> None:
        try:
            if before and not before.ended_by(until):
                raise self._late(key)
            if before and _for_all(before.error):
                raise before.error
            flight.text = self._serve(key, load, until)
        except BaseException as error:
            flight.error = error
        finally:
            with self._mutex:
                if before and before.next is flight:
                    before.next = None
                if self._flights.get(key) is flight:
                    del self._flights[key]
                    if flight.next:
                        self._flights[key] = flight.next
            flight.end()

    def _serve(self, key: str, load: Load, until: float) -> Any:
        """The text of the value, from Redis or from `load`."""
        token = secrets.token_hex(8)
        try:
            with self._gate():
                text, state, mine = self._read(key, token)
            while not state and not mine:
                if time.monotonic() >= until:
                    raise self._late(key)
                self._note("wait", key)
                time.sleep(self._jittered(self.poll_s, 0.5))
                with self._gate():
                    text, state, mine = self._read(key, token)
        except _Away:
            self._note("away", key)
            self._note("load", key)
            return self._encoded(load(key))[0]
        if not mine:
            self._note("hit" if state == 2 else "stale", key)
            return text
        if state and self.background:
            self._note("stale", key)
            self._refresh_later(key, load, token)
            return text
        self._note("miss", key)
        try:
            return self._load(key, load, token)
        except Exception:
            if not state:
                raise
            self._note("stale_if_error", key)
            return text

    def _load(self, key: str, load: Load, token: str) -> Any:
        """Load and store with the lease of `token`, which is over at the end, whatever happens."""
        over = False
        try:
            self._note("load", key)
            text, args = self._encoded(load(key))
            try:
                with self._gate():
                    stored = self._scripts[1](keys=[self._name(key)], args=[token, *args])
                over = True
                if not stored:
                    self._note("overtaken", key)
            except _Away:
                self._note("away", key)
            return text
        except BaseException:
            self._note("load_failed", key)
            raise
        finally:
            if not over:
                with contextlib.suppress(_Away, redis.RedisError), self._gate():
                    self.give_up(key, token)

    def _refresh_later(self, key: str, load: Load, token: str) -> None:
        def refresh() -> None:
            try:
                self._load(key, load, token)
            except Exception:
                log.warning("refreshing %s:%s failed", self.prefix, key, exc_info=True)
            finally:
                self._threads.release()

        if self._threads.acquire(blocking=False):
            try:
                threading.Thread(target=refresh, daemon=True).start()
                return
            except RuntimeError:  # no threads at the end of the interpreter
                self._threads.release()
        with contextlib.suppress(_Away, redis.RedisError), self._gate():
            self.give_up(key, token)  # too many refreshes at once: the next reader tries

    def _read(self, key: str, token: str) -> Any:
        return self._scripts[0](
            keys=[self._name(key)], args=[token, math.ceil(self.lease_s * 1000)]
        )

    def read(self, key: str) -> Entry:
        """For callers that load by themselves: what is there, and whether to load it.

        Raises: redis.RedisError if Redis is away.
        """
        token = secrets.token_hex(8)
        return self._entry(self._read(key, token), token)

    def store(self, key: str, token: str, value: Any) -> bool:
        """The new value of a caller with a token. False: the lease was lost, nothing is stored."""
        args = [token, *self._encoded(value)[1]]
        return bool(self._scripts[1](keys=[self._name(key)], args=args))

    def give_up(self, key: str, token: str) -> None:
        """For a caller with a token that could not load: let another try."""
        self._scripts[2](keys=[self._name(key)], args=[token])

    def invalidate(self, key: str, version: int | None = None) -> None:
        """Call after the source has committed: older values are gone and stay out.

        After a deletion without a version. Raises: redis.RedisError if Redis is away; then repeat
        the call, since the old value is still there.
        """
        self._scripts[3](**self._invalidation(key, version))

    def cached(self, function: Callable[..., Any]) -> Any:
        """Decorator: the function's results are cached by its positional arguments.

        Their key is `function.key(*args)`, for `invalidate`.
        """
        key_of = self._key_of(function)

        @functools.wraps(function)
        def through(*args: Any) -> Any:
            return self.get(key_of(*args), lambda _: function(*args))

        through.key = key_of  # type: ignore[attr-defined]
        return through


class _AsyncFlight:
    """As _Flight; a task of its own, so that a caller that is cancelled does not end the others."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any]
        self.callers = 0
        self.asking = False  # a question for the lease must not be cut off: it may be granted
        self.next: _AsyncFlight | None = None


class AsyncCache(_Shared):
    """`Cache` for asyncio: the same contract, keys and scripts, so both forms can share a cache.

    `load` is a coroutine function. A refresh runs in a task. A call to Redis is ended after
    `budget_s`, whatever the client's timeouts. If all callers of a `get` are cancelled, so is its
    load, and the lease is given up.
    """

    _other_clients = (
        *(redis.Redis, redis.RedisCluster),
        redis.asyncio.client.Pipeline,
    )
    _instead = "Cache (or a client that is no pipeline)"

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        load: AsyncLoad | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(client, prefix, load, **options)
        self._flights: dict[str, _AsyncFlight] = {}
        self._refreshes: set[asyncio.Task[None]] = set()

    async def get(self, key: str, load: AsyncLoad | None = None) -> Any:
        """The value: fresh, stale, or loaded now by `load`.

        Raises: LoadTimeout, and what `load` or the serializer raises.
        """
        load, until = self._loader(load), time.monotonic() + self.wait_s
        before = self._flights.get(key)
        flight = before.next if before else None
        if leads := flight is None:
            flight = _AsyncFlight()
            if before:  # its question may be older than this call: wait for the next one
                before.next = flight
            else:
                self._flights[key] = flight
            flight.task = asyncio.create_task(self._lead(key, load, flight, before, until))
            flight.task.add_done_callback(lambda _: self._landed(key, flight, before))
        flight.callers += 1
        try:
            async with asyncio.timeout(None if leads else self.wait_s) as waiting:
                return self.loads(await asyncio.shield(flight.task))
        except TimeoutError:
            if waiting.expired():
                raise self._late(key) from None
            raise  # the load's own
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.task.done():
                if not flight.asking:
                    flight.task.cancel()
                await asyncio.wait([flight.task])

    async def _lead(
        self,
        key: str,
        load: AsyncLoad,
        flight: _AsyncFlight,
        before: _AsyncFlight | None,
        until: float,
    ) -> Any:
        if before:
            await asyncio.wait([before.task], timeout=max(0, until - time.monotonic()))
            if not before.task.done():
                raise self._late(key)
            error = None if before.task.cancelled() else before.task.exception()
            if _for_all(error):
                raise error
        return await self._serve(key, load, flight, until)

    def _landed(self, key: str, flight: _AsyncFlight, before: _AsyncFlight | None) -> None:
        if before and before.next is flight:
            before.next = None
        if self._flights.get(key) is flight:
            del self._flights[key]
            if flight.next:
                self._flights[key] = flight.next

    async def _serve(self, key: str, load: AsyncLoad, flight: _AsyncFlight, until: float) -> Any:
        token = secrets.token_hex(8)
        try:
            text, state, mine = await self._look(key, token, flight)
            while not state and not mine:
                if time.monotonic() >= until:
                    raise self._late(key)
                self._note("wait", key)
                await asyncio.sleep(self._jittered(self.poll_s, 0.5))
                text, state, mine = await self._look(key, token, flight)
        except _Away:
            self._note("away", key)
            self._note("load", key)
            return self._encoded(await load(key))[0]
        except asyncio.CancelledError:  # the server may have given us the lease
            await self._quietly_give_up(key, token)
            raise
        if not mine:
            self._note("hit" if state == 2 else "stale", key)
            return text
        if state and self.background:
            self._note("stale", key)
            task = asyncio.create_task(self._refresh(key, load, token))
            self._refreshes.add(task)
            task.add_done_callback(self._refreshes.discard)
            return text
        self._note("miss", key)
        try:
            return await self._load(key, load, token)
        except Exception:
            if not state:
                raise
            self._note("stale_if_error", key)
            return text

    async def _look(self, key: str, token: str, flight: _AsyncFlight) -> Any:
        flight.asking = True
        try:
            reply = await self._ask(self._read(key, token))
        finally:
            flight.asking = False
        if not flight.callers:  # all were cancelled meanwhile
            raise asyncio.CancelledError
        return reply

    async def _load(self, key: str, load: AsyncLoad, token: str) -> Any:
        over = False
        try:
            self._note("load", key)
            text, args = self._encoded(await load(key))
            try:
                call = self._scripts[1](keys=[self._name(key)], args=[token, *args])
                stored = await self._ask(call)
                over = True
                if not stored:
                    self._note("overtaken", key)
            except _Away:
                self._note("away", key)
            return text
        except BaseException:
            self._note("load_failed", key)
            raise
        finally:
            if not over:
                await self._quietly_give_up(key, token)

    async def _refresh(self, key: str, load: AsyncLoad, token: str) -> None:
        try:
            await self._load(key, load, token)
        except Exception:
            log.warning("refreshing %s:%s failed", self.prefix, key, exc_info=True)

    async def _ask(self, call: Awaitable[Any]) -> Any:
        """The reply, within the budget. Raises: _Away."""
        try:
            with self._gate():
                async with asyncio.timeout(self.budget_s):
                    return await call
        finally:
            if asyncio.iscoroutine(call):
                call.close()  # never awaited if the gate was closed

    async def _quietly_give_up(self, key: str, token: str) -> None:
        with contextlib.suppress(_Away, redis.RedisError):
            await self._ask(self.give_up(key, token))

    def _read(self, key: str, token: str) -> Any:
        return self._scripts[0](
            keys=[self._name(key)], args=[token, math.ceil(self.lease_s * 1000)]
        )

    async def read(self, key: str) -> Entry:
        """As Cache.read."""
        token = secrets.token_hex(8)
        return self._entry(await self._read(key, token), token)

    async def store(self, key: str, token: str, value: Any) -> bool:
        """As Cache.store."""
        args = [token, *self._encoded(value)[1]]
        return bool(await self._scripts[1](keys=[self._name(key)], args=args))

    async def give_up(self, key: str, token: str) -> None:
        """As Cache.give_up."""
        await self._scripts[2](keys=[self._name(key)], args=[token])

    async def invalidate(self, key: str, version: int | None = None) -> None:
        """As Cache.invalidate."""
        await self._scripts[3](**self._invalidation(key, version))

    def cached(self, function: Callable[..., Awaitable[Any]]) -> Any:
        """As Cache.cached, for a coroutine function."""
        key_of = self._key_of(function)

        @functools.wraps(function)
        async def through(*args: Any) -> Any:
            return await self.get(key_of(*args), lambda _: function(*args))

        through.key = key_of  # type: ignore[attr-defined]
        return through
