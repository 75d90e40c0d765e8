"""Do it once, answer it twice. Built up in the lesson `idempotency`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.exceptions import RedisClusterException

__all__ = [
    "AsyncIdempotency",
    "Busy",
    "Done",
    "Failed",
    "Idempotency",
    "LeaseLost",
    "Mismatch",
    "NotDone",
    "NotStored",
    "Yours",
]

SYNC, ASYNC = (redis.Redis, redis.RedisCluster), (redis.asyncio.Redis, redis.asyncio.RedisCluster)
ERRORS = (redis.RedisError, RedisClusterException)
LONGEST_S = 3_153_600_000  # a hundred years
T = TypeVar("T")

# KEYS[1]: the record. ARGV: fingerprint, token, lease in ms, TTL in ms
BEGIN = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local print, token, ends, lease, result, failure = unpack(
  redis.call('HMGET', KEYS[1], 'print', 'token', 'ends', 'lease', 'result', 'failure'))
if print and print ~= ARGV[1] then return {'other'} end
if result then return {'done', result} end
if failure then return {'failed', failure} end
local left = tonumber(ends or 0) - now
if left > 0 and token ~= ARGV[2] then
  if left > tonumber(lease) then -- the clock went back: the lease is measured anew
    left = tonumber(lease)
    redis.call('HSET', KEYS[1], 'ends', now + left)
  end
  return {'busy', left}
end
redis.call('HSET', KEYS[1],
  'print', ARGV[1], 'token', ARGV[2], 'ends', now + ARGV[3], 'lease', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'yours', ARGV[2]}
"""

# KEYS[1]: the record. ARGV: token, result or failure, its text, TTL in ms. The token stays, for a
# call sent again. PEXPIRE comes first: a server that is full lets a script go on that has written.
FINISH = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local result, failure = unpack(redis.call('HMGET', KEYS[1], 'result', 'failure'))
if result or failure then
  return redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[3] and 1 or 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
"""

# KEYS[1]: the record. ARGV: token
GIVE_BACK = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local result, failure = unpack(redis.call('HMGET', KEYS[1], 'result', 'failure'))
if result or failure then return 0 end
return redis.call('DEL', KEYS[1])
"""

LOST = "done, and its result was lost"


class NotDone(Exception):
    """For the work to raise when it is certain that it had NO effect: the next one may try."""


class Mismatch(Exception):
    """The key was used for another request. (HTTP: 422.)"""


class LeaseLost(Exception):
    """The work took longer than its lease, and another has begun it. Ask again. (HTTP: 409.)"""


class Busy(Exception):
    """Somebody else is at it, for `retry_after_s` at most. (HTTP: 409, with Retry-After.)"""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"It is being worked on; ask again in {retry_after_s:.1f} s.")
        self.retry_after_s = retry_after_s


class NotStored(Exception):
    """It was done, with this `result`, but Redis could not store it. (HTTP: as if it had been.)

    Once its lease is over it may be done AGAIN, unless its effect carries the key.
    """

    def __init__(self, result: Any) -> None:
        super().__init__("It is done, but Redis could not store that: it may be done again.")
        self.result = result


class Failed(Exception):
    """It was begun, and will not be again under this key. (HTTP: 500, each time.)

    `done`: it was done, but its result could not be kept. Otherwise the work has raised an error,
    and whether it had its effect is NOT KNOWN: look there, then `forget` the key, or do not.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"It is not done again: {why}.")
        self.why, self.done = why, why.startswith(LOST)


@dataclass(frozen=True)
class Yours:
    """The work is yours to do; `finish`, `fail` and `give_back` want the token."""

    token: str


@dataclass(frozen=True)
class Done:
    """It was done before; this is what it gave."""

    result: Any


State = Yours | Busy | Done | Failed


class _Rules:
    """What both kinds of client have in common."""

    def __init__(self, prefix: str, ttl_s: float, lease_s: float) -> None:
        numbers = _is_number(lease_s, 0.001, LONGEST_S) and _is_number(ttl_s, lease_s, LONGEST_S)
        if not isinstance(prefix, str) or not prefix or not numbers:
            raise ValueError("Idempotency needs a prefix, and 1 ms <= lease_s <= ttl_s.")
        self.prefix, self.ttl_ms, self.lease_ms = prefix, round(ttl_s * 1000), round(lease_s * 1000)

    def key(self, key: str) -> str:
        if not isinstance(key, str) or not key:
            raise ValueError("An idempotency key must not be empty.")
        return f"{self.prefix}:{key}"

    def _begin_with(self, fingerprint: str, token: str) -> list[str | int]:
        if not isinstance(fingerprint, str):
            raise ValueError("A fingerprint is a text that tells this request from others.")
        return [fingerprint, token, self.lease_ms, self.ttl_ms]


class Idempotency(_Rules):
    """Requests that carry a key are carried out once, and answered the same every time.

    Contract: of all who begin the same key, one at a time is told that the work is its own; once
    it has finished, everybody gets its result, until `ttl_s` after. `run` answers the first one
    with what the later ones get: the result as JSON gives it back (a tuple is a list). Work that
    raises is not done again, as it may have had its effect (a payment that timed out): later calls
    get `Failed`. Only `NotDone`, raised by the work, gives the key back. A result that is not
    JSON is lost, and later calls report it; the work is not done again either. `begin` and
    `finish`, sent again after a lost reply (redis-py does), find their own claim. A key that comes
    with another request is refused.
    NOT kept: what the work does outside Redis is done AGAIN after a crash, a stop or a Redis that
    is away between the work and `finish`, once `lease_s` is over, and when Redis HAS LOST THE
    RECORD (a restart without persistence, an eviction, a failover); work that outlives its lease
    has company. So the effect needs the key as well, in its own transaction (a UNIQUE column).
    A key that is guessed gets another's answer: put the customer into it (`"ada:order-7"`).
    Keys: `<prefix>:<key>`, a hash, TTL `ttl_s`. One key a call, so any cluster will do.
    Cost: one round trip a call, two for `run`. Tested from Redis 7.0. A user of the server needs
    `~<prefix>:* +@read +@write +@scripting +time`. Of an error only its type is stored.
    NOT kept either: when Redis has lost the record, two may be at it AT ONCE within a lease, and a
    later call may get ANOTHER ANSWER than the first one got.
    Raises: Mismatch, Busy, Failed, LeaseLost, NotStored, ValueError for arguments, TypeError for an
    asyncio client or work. Redis's own errors mean that nothing was begun (or only claimed).
    Prevents: the second charge when a client tries again because the first reply was lost.

    >>> once = Idempotency(r, "charge", ttl_s=3600, lease_s=10)
    >>> once.run("order-7", "42 euros", lambda: "charged"), once.run("order-7", "42 euros", int)
    ('charged', 'charged')
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        prefix: str,
        *,
        ttl_s: float,
        lease_s: float,
    ) -> None:
        _refuse_client(client, ASYNC, "AsyncIdempotency")
        super().__init__(prefix, ttl_s, lease_s)
        self._begin = client.register_script(BEGIN)
        self._finish = client.register_script(FINISH)
        self._give_back = client.register_script(GIVE_BACK)
        self._client = client

    def begin(self, key: str, fingerprint: str) -> State:
        """Ask for the work. `fingerprint` tells one request from another under the same key."""
        args = self._begin_with(fingerprint, secrets.token_hex(8))
        return _parse_reply(self._begin(keys=[self.key(key)], args=args))

    def finish(self, key: str, token: str, result: Any) -> bool:
        """Store the result. False if the claim was lost meanwhile: then another's result counts.

        Raises: Failed if it is not JSON; that it is done, and its result lost, is stored.
        """
        field, text, found = _make_outcome(result)
        stored = self._store(key, token, field, text)
        _get_result(found)
        return stored

    def fail(self, key: str, token: str, why: str) -> bool:
        """It was begun, and nobody is to begin it again. False if the claim was lost meanwhile."""
        return self._store(key, token, "failure", why)

    def give_back(self, key: str, token: str) -> bool:
        """The work was not done: let the next one try at once."""
        return int(self._give_back(keys=[self.key(key)], args=[token])) == 1

    def forget(self, key: str) -> bool:
        """For a person who has looked: whatever is known of the key is deleted."""
        return self._client.delete(self.key(key)) == 1

    def run(self, key: str, fingerprint: str, work: Callable[[], Any]) -> Any:
        """Do the work unless it was done, and return its result.

        Raises: Busy while somebody else is at it; Failed, LeaseLost, NotStored; what `work` raises.
        """
        if inspect.iscoroutinefunction(work):
            raise TypeError("This work is a coroutine function: AsyncIdempotency.")
        state = self.begin(key, fingerprint)
        if isinstance(state, Done):
            return state.result
        if not isinstance(state, Yours):
            raise state
        try:
            result = work()
        except BaseException as error:
            with contextlib.suppress(*ERRORS):
                if isinstance(error, NotDone):
                    self.give_back(key, state.token)
                else:
                    self.fail(key, state.token, _describe_error(error))
            raise
        field, text, found = _make_outcome(result)
        try:
            stored = self._store(key, state.token, field, text)
        except ERRORS as error:
            raise NotStored(result) from error
        if not stored:
            raise LeaseLost(f"{key} took longer than its lease, and another is at it. Ask again.")
        return _get_result(found)

    def _store(self, key: str, token: str, field: str, text: str) -> bool:
        args: list[str | int] = [token, field, text, self.ttl_ms]
        return int(self._finish(keys=[self.key(key)], args=args)) == 1


class AsyncIdempotency(_Rules):
    """`Idempotency` for asyncio: the same keys, and the same contract.

    A caller that is cancelled while it begins gives its claim back; one that is cancelled at work
    has failed; one that is cancelled while it stores the result stores it first.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        prefix: str,
        *,
        ttl_s: float,
        lease_s: float,
    ) -> None:
        _refuse_client(client, SYNC, "Idempotency")
        super().__init__(prefix, ttl_s, lease_s)
        self._begin = client.register_script(BEGIN)
        self._finish = client.register_script(FINISH)
        self._give_back = client.register_script(GIVE_BACK)
        self._client = client

    async def begin(self, key: str, fingerprint: str) -> State:
        """As `Idempotency.begin`."""
        token = secrets.token_hex(8)
        args = self._begin_with(fingerprint, token)
        try:
            return _parse_reply(await _finish_anyway(self._begin(keys=[self.key(key)], args=args)))
        except asyncio.CancelledError:
            with contextlib.suppress(*ERRORS):
                await _finish_anyway(self.give_back(key, token))
            raise

    async def finish(self, key: str, token: str, result: Any) -> bool:
        """As `Idempotency.finish`."""
        field, text, found = _make_outcome(result)
        stored = await self._store(key, token, field, text)
        _get_result(found)
        return stored

    async def fail(self, key: str, token: str, why: str) -> bool:
        """As `Idempotency.fail`."""
        return await self._store(key, token, "failure", why)

    async def give_back(self, key: str, token: str) -> bool:
        """As `Idempotency.give_back`."""
        return int(await self._give_back(keys=[self.key(key)], args=[token])) == 1

    async def forget(self, key: str) -> bool:
        """As `Idempotency.forget`."""
        return await self._client.delete(self.key(key)) == 1

    async def run(self, key: str, fingerprint: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """As `Idempotency.run`, for work that is awaited."""
        state = await self.begin(key, fingerprint)
        if isinstance(state, Done):
            return state.result
        if not isinstance(state, Yours):
            raise state
        try:
            result = await work()
        except BaseException as error:
            with contextlib.suppress(*ERRORS):
                if isinstance(error, NotDone):
                    await _finish_anyway(self.give_back(key, state.token))
                else:
                    await _finish_anyway(self.fail(key, state.token, _describe_error(error)))
            raise
        field, text, found = _make_outcome(result)
        try:
            stored = await _finish_anyway(self._store(key, state.token, field, text))
        except ERRORS as error:
            raise NotStored(result) from error
        if not stored:
            raise LeaseLost(f"{key} took longer than its lease, and another is at it. Ask again.")
        return _get_result(found)

    async def _store(self, key: str, token: str, field: str, text: str) -> bool:
        args: list[str | int] = [token, field, text, self.ttl_ms]
        return int(await self._finish(keys=[self.key(key)], args=args)) == 1


def _parse_reply(reply: list[Any]) -> State:
    word, *rest = (part.decode() if isinstance(part, bytes) else part for part in reply)
    if word == "other":
        raise Mismatch("This key was used for another request; use a new one.")
    if word == "done":
        return Done(json.loads(rest[0]))
    if word == "failed":
        return Failed(rest[0])
    return Busy(int(rest[0]) / 1000) if word == "busy" else Yours(rest[0])


def _make_outcome(result: Any) -> tuple[str, str, Done | Failed]:
    """What to store after the work, and what the first caller gets of it, as the later ones do."""
    try:
        text = json.dumps(result)
        return "result", text, Done(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        why = f"{LOST} ({type(error).__name__}: {type(result).__name__} is not JSON)"
        return "failure", why, Failed(why)


def _get_result(found: Done | Failed) -> Any:
    if isinstance(found, Failed):
        raise found
    return found.result


def _describe_error(error: BaseException) -> str:
    return f"the work raised {type(error).__name__}, and its effect is not known"


async def _finish_anyway(request: Coroutine[Any, Any, T]) -> T:
    """Cancelled or not: the request is carried to its end."""
    task = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _refuse_client(client: object, wrong: tuple[type, ...], instead: str) -> None:
    if isinstance(client, wrong) or type(client).__name__.endswith("Pipeline"):
        raise TypeError(f"Not with a {type(client).__module__}.{type(client).__name__}: {instead}.")
