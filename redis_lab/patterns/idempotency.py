"""Do it once, answer it twice. Built up in notebooks/patterns/11_idempotency.ipynb."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from redis_lab.errors import LabError

from .both import then

# KEYS[1]: the record. ARGV: fingerprint, token, lease in ms, TTL in ms
BEGIN = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local print, result, busy_until, token =
  unpack(redis.call('HMGET', KEYS[1], 'print', 'result', 'until', 'token'))
if print and print ~= ARGV[1] then return {'other'} end
if result then return {'done', result} end
if busy_until and tonumber(busy_until) > now and token ~= ARGV[2] then
  return {'busy', tostring(tonumber(busy_until) - now)}
end
redis.call('HSET', KEYS[1], 'print', ARGV[1], 'token', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'yours', ARGV[2]}
"""

# KEYS[1]: the record. ARGV: token, result, TTL in ms. The token stays, for a call sent again.
FINISH = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if redis.call('HSETNX', KEYS[1], 'result', ARGV[2]) == 0 then
  return redis.call('HGET', KEYS[1], 'result') == ARGV[2] and 1 or 0
end
redis.call('HDEL', KEYS[1], 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS[1]: the record. ARGV: token
GIVE_BACK = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'result') == 1 then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True)
class Yours:
    """The work is yours to do; `finish` and `give_back` want the token."""

    token: str


@dataclass(frozen=True)
class Busy:
    """Somebody else is at it, for `retry_after_s` at most."""

    retry_after_s: float


@dataclass(frozen=True)
class Done:
    """It was done before; this is what it gave."""

    result: Any


class Idempotency:
    """Requests that carry a key are carried out once, and answered the same every time.

    Contract: of all who begin the same key, one at a time is told that the work is its own; once
    it has finished, everybody gets its result, until `ttl_s` after. A worker that dies loses its
    claim after `lease_s`, and one that is slower than that cannot store its result any more if
    another has begun. `begin` and `finish`, sent again after a lost reply (redis-py does), find
    their own claim. A key that comes with another request is refused. What the work does outside
    Redis is NOT undone: after a crash between the work and `finish` it is done again, so the
    effect needs the key as well (a UNIQUE column).
    Keys: `<prefix>:<key>`, a hash, TTL `ttl_s`. One key a call, so any cluster will do.
    Cost: one round trip a call. Needs Redis 7.0. The result must be JSON.
    Prevents: the second charge when a client tries again because the first reply was lost.

    >>> once = Idempotency(r, "charge", ttl_s=3600, lease_s=10)
    >>> once.run("order-7", "42 euros", lambda: "charged"), once.run("order-7", "42 euros", int)
    ('charged', 'charged')
    """

    def __init__(self, client: redis.Redis, prefix: str, *, ttl_s: float, lease_s: float) -> None:
        if not prefix or not 0 < lease_s <= ttl_s:
            raise LabError("Idempotency needs a prefix, and 0 < lease_s <= ttl_s.")
        self.prefix, self.ttl_ms, self.lease_ms = prefix, int(ttl_s * 1000), int(lease_s * 1000)
        self._begin = client.register_script(BEGIN)
        self._finish = client.register_script(FINISH)
        self._give_back = client.register_script(GIVE_BACK)

    def begin(self, key: str, fingerprint: str) -> Yours | Busy | Done:
        """Ask for the work. `fingerprint` tells one request from another under the same key.

        Raises: LabError when the key was used for another request.
        """
        if not key:
            raise LabError("An idempotency key must not be empty.")
        args = [fingerprint, secrets.token_hex(8), self.lease_ms, self.ttl_ms]
        return then(self._begin(keys=[f"{self.prefix}:{key}"], args=args), answer)

    def finish(self, key: str, token: str, result: Any) -> bool:
        """Store the result. False if the claim was lost meanwhile: then another's result counts."""
        args = [token, json.dumps(result), self.ttl_ms]
        return then(self._finish(keys=[f"{self.prefix}:{key}"], args=args), bool)

    def give_back(self, key: str, token: str) -> bool:
        """The work was not done: let the next one try at once."""
        return then(self._give_back(keys=[f"{self.prefix}:{key}"], args=[token]), bool)

    def run(self, key: str, fingerprint: str, work: Callable[[], Any]) -> Any:
        """Do the work unless it is done, and return its result. (For a synchronous client.)

        Raises: LabError while somebody else is at it, or when the work outlived its lease and
        another has taken over; what `work` raises, after giving it back.
        """
        state = self.begin(key, fingerprint)
        if isinstance(state, Done):
            return state.result
        if isinstance(state, Busy):
            raise LabError(f"{key} is being worked on; ask again in {state.retry_after_s:.1f} s.")
        try:
            result = work()
        except Exception:
            self.give_back(key, state.token)
            raise
        if not self.finish(key, state.token, result):
            raise LabError(f"{key} took longer than its lease, and another is at it. Ask again.")
        return result


def answer(reply: list) -> Yours | Busy | Done:
    word, *rest = (part.decode() if isinstance(part, bytes) else part for part in reply)
    if word == "other":
        raise LabError("This key was used for another request; use a new one.")
    if word == "done":
        return Done(json.loads(rest[0]))
    return Busy(int(rest[0]) / 1000) if word == "busy" else Yours(rest[0])
