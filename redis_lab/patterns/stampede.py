"""One recomputes for all. Built up in notebooks/patterns/04_stampede.ipynb."""

from __future__ import annotations

import asyncio
import json
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis

from redis_lab.errors import LabError

from .both import then

# KEYS[1]: the entry. ARGV: token, lease in ms. Reply: value, is there one, is it yours to make
READ = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local entry = redis.call('HMGET', KEYS[1], 'value', 'fresh', 'lease', 'holder', 'gone')
if now >= tonumber(entry[5] or 0) then entry[1] = false end  -- only a lease keeps the key
local there = entry[1] and 1 or 0
local fresh = there == 1 and now < tonumber(entry[2])
local busy = now < tonumber(entry[3] or 0) and entry[4] ~= ARGV[1]
if fresh or busy then return {entry[1] or '', there, 0} end
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]), 'holder', ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {entry[1] or '', there, 1}
"""

# KEYS[1]: the entry. ARGV: token, value, fresh for so many ms, kept for so many ms
STORE = """
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local fresh, gone = string.format('%.0f', now + ARGV[3]), string.format('%.0f', now + ARGV[4])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'fresh', fresh, 'gone', gone)
redis.call('HDEL', KEYS[1], 'lease', 'holder')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS[1]: the entry. ARGV[1]: token
GIVE_UP = """
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'lease', 'holder')
"""


def jittered(seconds: float, spread: float = 0.1) -> float:
    """Up to `spread` of it less, at random: what is stored together must not expire together."""
    return seconds * (1 - spread * random.random())


@dataclass(frozen=True)
class Entry:
    """What a reader finds. With a `token` the value is its to make anew, and nobody else's."""

    value: object
    usable: bool
    token: str | None


class SingleFlight:
    """Read through a cache; of all callers that find a value old or missing, one makes it.

    `load(key)` returns anything JSON can hold, or None where there is no such thing; None is
    kept for `missing_ttl_s`.

    Contract: a value is fresh for `ttl_s` (less up to a tenth, at random) and kept for `stale_s`
    longer. Once it is not fresh, one caller gets the lease and loads; the others get the old value
    at once, or where there is none wait for the new one, asking every `poll_s`. While loads take
    less than `lease_s` no two run at a time for a key, in any number of processes. A caller that
    dies or is slower loses its lease: then another loads, and what the slow one brings is not
    stored. If a load raises, its caller gets the exception, and the next one loads. There is no
    invalidation here: a value that was changed lives on for up to ttl_s + stale_s.
    Keys: `<prefix>:<key>`, a hash; TTL `ttl_s + stale_s`, and not less than a lease that runs.
    Cost: fresh or old, one round trip; the one that loads two; one that waits one for each asking.
    Every script touches one key, so it works on Redis Cluster. Needs Redis 7.0.
    Prevents: the stampede of all who find a popular value expired.

    >>> cache = SingleFlight(r, "square", lambda n: int(n) ** 2, ttl_s=60, stale_s=30, lease_s=10)
    >>> cache.get("12"), cache.get("12"), cache.loads
    (144, 144, 1)
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        load: Callable[[str], object] | Callable[[str], Awaitable[object]],
        *,
        ttl_s: float,
        stale_s: float,
        lease_s: float,
        missing_ttl_s: float = 30,
        poll_s: float = 0.02,
    ) -> None:
        if not prefix or min(ttl_s, lease_s, missing_ttl_s, poll_s) < 0.001 or stale_s < 0:
            raise LabError("SingleFlight needs a prefix, and times of at least 1 ms.")
        self.prefix, self.load = prefix, load
        self.ttl_s, self.stale_s, self.missing_ttl_s = ttl_s, stale_s, missing_ttl_s
        self.lease_ms, self.poll_s = int(lease_s * 1000), poll_s
        self.loads = self.waits = 0
        self._read = client.register_script(READ)
        self._store = client.register_script(STORE)
        self._give_up = client.register_script(GIVE_UP)

    def read(self, key: str) -> Entry:
        """What is there, and whether it is this caller's to make."""
        token = secrets.token_hex(8)
        reply = self._read(keys=[f"{self.prefix}:{key}"], args=[token, self.lease_ms])
        return then(reply, lambda found: entry(*found, token))

    def store(self, key: str, token: str, value: object) -> bool:
        """The new value of a caller with a token. False: too late, the lease was lost."""
        fresh_s = jittered(self.missing_ttl_s if value is None else self.ttl_s)
        times = [math.ceil(fresh_s * 1000), math.ceil((fresh_s + self.stale_s) * 1000)]
        args = [token, json.dumps(value), *times]
        return then(self._store(keys=[f"{self.prefix}:{key}"], args=args), bool)

    def give_up(self, key: str, token: str) -> bool:
        """For a caller with a token that could not load: let another try."""
        return then(self._give_up(keys=[f"{self.prefix}:{key}"], args=[token]), bool)

    def get(self, key: str) -> object | None:
        """The value: fresh, old, or loaded now."""
        while not (found := self.read(key)).usable and not found.token:
            self.waits += 1
            time.sleep(jittered(self.poll_s, 0.5))
        if not found.token:
            return found.value
        self.loads += 1
        try:
            value = self.load(key)
        except BaseException:
            self.give_up(key, found.token)
            raise
        self.store(key, found.token, value)
        return value

    async def get_async(self, key: str) -> object | None:
        """The same for an asyncio client, with an asynchronous `load`."""
        while not (found := await self.read(key)).usable and not found.token:
            self.waits += 1
            await asyncio.sleep(jittered(self.poll_s, 0.5))
        if not found.token:
            return found.value
        self.loads += 1
        try:
            value = await self.load(key)
        except BaseException:
            await self.give_up(key, found.token)
            raise
        await self.store(key, found.token, value)
        return value


def entry(stored: str | bytes, usable: int, mine: int, token: str) -> Entry:
    return Entry(json.loads(stored) if usable else None, bool(usable), token if mine else None)


def due(left_s: float, took_s: float, beta: float, chance: float) -> bool:
    """XFetch: whether a value that has `left_s` to live is to be made anew now.

    `took_s` is how long making it took, `chance` a random number above 0 and up to 1. With
    `beta` 1 and many readers some e remake it before it expires; more generally e^(1/beta).

    Vattani, Chierichetti, Lowenstein: Optimal probabilistic cache stampede prevention. PVLDB 8
    (2015) 886, https://www.vldb.org/pvldb/vol8/p886-vattani.pdf
    """
    return -took_s * beta * math.log(chance) >= left_s


class EarlyRefresh:
    """Read through a cache; the closer a value is to its end, the likelier a reader remakes it.

    Contract: no lock and no waiting, so nobody can block anybody. With many readers a value is
    made anew by about e^(1/beta) of them before it expires, and none finds it missing, as long as
    they are so many that the first does it at least one load ahead. With few readers it expires as
    any other. Loads may overlap; the last to end is kept.
    Keys: `<prefix>:<key>`, a string (value, and how long it took to make), TTL `ttl_s`.
    Cost: a hit is one round trip (GET and PTTL), a load one more. One key: works on Redis Cluster.
    Prevents: the stampede at the expiry of a popular value, without coordination.

    >>> cache = EarlyRefresh(r, "cube", lambda n: int(n) ** 3, ttl_s=60)
    >>> cache.get("3"), cache.get("3"), cache.loads
    (27, 27, 1)
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        load: Callable[[str], object],
        *,
        ttl_s: float,
        beta: float = 1.0,
    ) -> None:
        if not prefix or ttl_s < 0.001 or beta <= 0:
            raise LabError("EarlyRefresh needs a prefix, a TTL of at least 1 ms, and beta above 0.")
        self.client, self.prefix, self.load = client, prefix, load
        self.ttl_ms, self.beta = int(ttl_s * 1000), beta
        self.loads = 0

    def get(self, key: str) -> object | None:
        """The value, from the cache or loaded now. (For a synchronous client.)"""
        name = f"{self.prefix}:{key}"
        stored, left_ms = self.client.pipeline(transaction=False).get(name).pttl(name).execute()
        if stored is not None:
            value, took_s = json.loads(stored)
            if not due(left_ms / 1000, took_s, self.beta, 1 - random.random()):
                return value
        self.loads += 1
        start = time.perf_counter()
        value = self.load(key)
        took_s = time.perf_counter() - start
        self.client.set(name, json.dumps([value, took_s]), px=self.ttl_ms)
        return value
