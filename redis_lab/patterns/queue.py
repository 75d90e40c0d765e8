"""A queue that outlives its workers. Built up in the lesson `queue`.

`ListQueue` and `StreamQueue` keep the same contract, one on lists, one on a stream; each has a twin
for asyncio. Copy this file as it is: it needs redis-py and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import redis
import redis.asyncio

__all__ = [
    "AsyncListQueue",
    "AsyncQueue",
    "AsyncStreamQueue",
    "Job",
    "ListQueue",
    "Queue",
    "StreamQueue",
    "SyncQueue",
]

TURN_S = 1.0  # a waiting worker looks up this often: a job may have become due meanwhile
REAP_S = 5.0  # work() brings back what others have lost this often
WEEK_S = 7 * 86_400
MOST_S = 100 * 365 * 86_400  # no time may be longer
AWAY = (redis.ConnectionError, redis.TimeoutError)
SyncClient = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
Client = TypeVar("Client")
log = logging.getLogger(__name__)

# KEYS: these seven, and the line. ARGV: ms to keep the queue, ms to remember what is over, …
BEGIN = """
local jobs, tries, later, dead, holders, leases, over = unpack(KEYS)
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)

local function last(key)  -- the highest score in a sorted set
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'REV', 'WITHSCORES')[2] or now)
end

-- The keys live together: ARGV[1] ms from now, or from the last time in `later` and `leases`.
local ends = 0
local function finish(reply)
  ends = math.max(now, last(later), last(leases)) + ARGV[1]
  for _, key in ipairs(KEYS) do
    if key ~= over then redis.call('PEXPIREAT', key, ends) end
  end
  return reply
end

-- What is over is remembered for a while: the network may deliver a call again, and late.
local function remember(what)
  redis.call('ZREMRANGEBYSCORE', over, '-inf', now)
  redis.call('ZADD', over, now + ARGV[2], what)
  redis.call('PEXPIREAT', over, last(over))
end
local function remembered(what)
  return tonumber(redis.call('ZSCORE', over, what) or 0) > now
end

local function let_go(token)  -- returns the job that this token holds, which it then no longer does
  local id = redis.call('HGET', holders, token)
  redis.call('HDEL', holders, token)
  redis.call('ZREM', leases, token)
  return id
end

local function try_again(id, most, backoff, longest)  -- 1, or 0 if it has had its tries
  local n = tonumber(redis.call('HGET', tries, id) or 1)
  if n >= tonumber(most) then
    redis.call('LPUSH', dead, id)
    return 0
  end
  redis.call('ZADD', later, now + math.min(backoff * 2 ^ (n - 1), longest), id)
  return 1
end
"""

# The line of a ListQueue. `moved` holds what BLMOVE took out of it and nobody has claimed yet.
LISTS = """
local ready, moved = KEYS[8], KEYS[9]
local function push(id) redis.call('LPUSH', ready, id) end
local function pop() return redis.call('RPOP', ready) end
local function push_first(id) redis.call('RPUSH', ready, id) end
local function claim(id)  -- only one can: what is leased, or back in line, is not in `moved`
  redis.call('ZREM', leases, 'moved ' .. id)
  return redis.call('LREM', moved, 1, id) == 1
end
local function rescue(lease)  -- whoever moved it had `lease` ms to claim it
  local back = 0
  for _, id in ipairs(redis.call('LRANGE', moved, 0, -1)) do
    local till = redis.call('ZSCORE', leases, 'moved ' .. id)
    if not till then
      redis.call('ZADD', leases, now + lease, 'moved ' .. id)
    elseif tonumber(till) <= now and claim(id) then
      push_first(id)
      back = back + 1
    end
  end
  return back
end
local function in_line() return redis.call('LLEN', ready), redis.call('LLEN', moved) end
"""

# The line of a StreamQueue. What was read and not claimed yet is pending, since when Redis notes.
STREAM = """
local stream = KEYS[8]
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
end
local function push(id) redis.call('XADD', stream, '*', 'id', id) end
local push_first = push
local function drop(entry)
  redis.call('XDEL', stream, entry)
  return redis.call('XACK', stream, 'workers', entry) == 1
end
local function pop()
  local found = redis.call(
    'XREADGROUP', 'GROUP', 'workers', 'any', 'COUNT', 1, 'STREAMS', stream, '>')
  if not found then return false end
  local entry = found[1][2][1]
  drop(entry[1])
  return entry[2][2]
end
local function claim(id, entry) return drop(entry) end
local function rescue(lease)
  local back = 0
  local idle = redis.call('XPENDING', stream, 'workers', 'IDLE', lease, '-', '+', 100)
  for _, note in ipairs(idle) do
    local entry = redis.call('XRANGE', stream, note[1], note[1])[1]
    drop(note[1])
    if entry then  -- nil if somebody has trimmed the stream
      push(entry[2][2])
      back = back + 1
    end
  end
  return back
end
local function in_line()
  local pending = redis.call('XPENDING', stream, 'workers')[1]
  return redis.call('XLEN', stream) - pending, pending
end
"""

# ARGV: keep, remember, delay, id, payload, id, payload, …
PUT = """
local new = 0
for k = 4, #ARGV, 2 do
  local id = ARGV[k]
  if not remembered('job ' .. id) and redis.call('HSETNX', jobs, id, ARGV[k + 1]) == 1 then
    new = new + 1
    if tonumber(ARGV[3]) > 0 then redis.call('ZADD', later, now + ARGV[3], id) else push(id) end
  end
end
return finish(new)
"""

# ARGV: keep, remember, lease, token, and what _wait() has moved, if anything
TAKE = """
for _, id in ipairs(redis.call('ZRANGE', later, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', later, id)
  push(id)
end
local token = ARGV[4]
local function job(id)
  return finish({id, tonumber(redis.call('HGET', tries, id)), redis.call('HGET', jobs, id)})
end
local id = redis.call('HGET', holders, token)
if id then return job(id) end  -- this call was sent again
local late = remembered('done ' .. token) or remembered('fail ' .. token)
  or remembered('back ' .. token)
if not late then
  if ARGV[5] and claim(ARGV[5], ARGV[6]) then id = ARGV[5] else id = pop() end
  while id and redis.call('HEXISTS', jobs, id) == 0 do id = pop() end
end
if not id then
  local first = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')[2]
  finish()
  return {first and math.max(first - now, 1) or -1, ends}
end
redis.call('HSET', holders, token, id)
redis.call('ZADD', leases, now + ARGV[3], token)
redis.call('HINCRBY', tries, id, 1)
return job(id)
"""

# ARGV: keep, remember, token
DONE = """
if remembered('done ' .. ARGV[3]) then return finish(1) end
local id = let_go(ARGV[3])
if not id then return finish(0) end
redis.call('HDEL', jobs, id)
redis.call('HDEL', tries, id)
remember('job ' .. id)
remember('done ' .. ARGV[3])
return finish(1)
"""

# ARGV: keep, remember, token, most tries, backoff, longest backoff
FAIL = """
if remembered('fail ' .. ARGV[3]) then return finish(1) end
local id = let_go(ARGV[3])
if not id then return finish(0) end
try_again(id, ARGV[4], ARGV[5], ARGV[6])
remember('fail ' .. ARGV[3])
return finish(1)
"""

# ARGV: keep, remember, token
GIVE_BACK = """
remember('back ' .. ARGV[3])  -- first: if the take itself arrives later, it takes nothing
local id = let_go(ARGV[3])
if not id then return finish(0) end
redis.call('HINCRBY', tries, id, -1)
push_first(id)
return finish(1)
"""

# ARGV: keep, remember, token, lease
RENEW = """
if redis.call('HEXISTS', holders, ARGV[3]) == 0 then return finish(0) end
redis.call('ZADD', leases, now + ARGV[4], ARGV[3])
return finish(1)
"""

# ARGV: keep, remember, lease, most tries, backoff, longest backoff
REAP = """
local back = rescue(ARGV[3])
for _, token in ipairs(redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  local id = let_go(token)
  if id then back = back + try_again(id, ARGV[4], ARGV[5], ARGV[6]) end
end
return finish(back)
"""

COUNTS = """
local ready, moved = in_line()
return finish({ready, moved + redis.call('HLEN', holders),
               redis.call('ZCARD', later), redis.call('LLEN', dead)})
"""

# ARGV: keep, remember, how many
DEAD = """
local found = {}
for _, id in ipairs(redis.call('LRANGE', dead, 0, ARGV[3] - 1)) do
  local n = tonumber(redis.call('HGET', tries, id) or 0)
  found[#found + 1] = {id, n, redis.call('HGET', jobs, id) or 'null'}
end
return finish(found)
"""

# ARGV: keep, remember, id
REQUEUE = """
if redis.call('LREM', dead, 1, ARGV[3]) == 0 then return finish(0) end
redis.call('HDEL', tries, ARGV[3])
push(ARGV[3])
return finish(1)
"""
DISCARD = """
if redis.call('LREM', dead, 1, ARGV[3]) == 0 then return finish(0) end
redis.call('HDEL', tries, ARGV[3])
redis.call('HDEL', jobs, ARGV[3])
remember('job ' .. ARGV[3])
return finish(1)
"""


@dataclass(frozen=True)
class Job:
    """A job in hand. `id` is the same at every delivery, so it serves as an idempotency key."""

    id: str
    payload: Any
    tries: int
    token: str = ""  # of this delivery


class Queue(Generic[Client]):
    """What the four queues have in common: settings, keys and scripts."""

    WRONG: ClassVar[Any]  # kind of client, refused with HINT
    HINT: ClassVar[str]
    LINE: ClassVar[str]
    LINE_KEYS: ClassVar[tuple[str, ...]]
    KEYS: ClassVar = ("jobs", "tries", "later", "dead", "holders", "leases", "over")
    CALLS: ClassVar = {
        **{"put": PUT, "take": TAKE, "done": DONE, "fail": FAIL, "give_back": GIVE_BACK},
        **{"renew": RENEW, "reap": REAP, "counts": COUNTS},
        **{"dead": DEAD, "requeue": REQUEUE, "discard": DISCARD},
    }

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        lease_s: float = 30,
        max_tries: int = 5,
        backoff_s: float = 1,
        longest_backoff_s: float = 3600,
        keep_s: float = WEEK_S,
        remember_s: float = 300,
    ) -> None:
        if isinstance(client, self.WRONG):
            raise TypeError(self.HINT.format(type(self).__name__))
        if not prefix or set(prefix) & set("{}"):
            raise ValueError(f"{type(self).__name__} needs a prefix, without curly brackets.")
        times = (lease_s, backoff_s, longest_backoff_s, keep_s, remember_s)
        if not all(0.001 <= time_s <= MOST_S for time_s in times):
            raise ValueError("All times are from a millisecond to 100 years.")
        if not isinstance(max_tries, int) or max_tries < 1 or keep_s <= lease_s:
            raise ValueError("There is at least one try, and keep_s is longer than lease_s.")
        self.client, self.max_tries = client, max_tries
        self.lease_ms, self.keep_ms = _to_ms(lease_s), _to_ms(keep_s)
        self.remember_ms = _to_ms(remember_s)
        self.backoff = [max_tries, _to_ms(backoff_s), _to_ms(longest_backoff_s)]
        self.keys = {name: f"{{{prefix}}}:{name}" for name in (*self.KEYS, *self.LINE_KEYS)}
        register: Any = getattr(client, "register_script")  # noqa: B009
        self.scripts = {k: register(BEGIN + self.LINE + lua) for k, lua in self.CALLS.items()}

    def _call(self, name: str, *args: Any) -> Any:
        """One of the scripts: one round trip. With an asyncio client this is an awaitable."""
        return self.scripts[name](
            keys=list(self.keys.values()), args=[self.keep_ms, self.remember_ms, *args]
        )

    def _to_put(self, jobs: Iterable[tuple[str, Any]], delay_s: float) -> list[Any]:
        if not 0 <= delay_s <= MOST_S:
            raise ValueError("A job is due from now to 100 years from now.")
        args: list[Any] = [_to_ms(delay_s)]
        for job_id, payload in jobs:
            if not isinstance(job_id, str) or not job_id:
                raise ValueError("The id of a job is a string that is not empty.")
            args += [job_id, json.dumps(payload, allow_nan=False)]
        return args

    def _check_wait(self, block_s: float) -> None:
        limit = _get_socket_timeout(self.client)
        if limit is not None and min(block_s, TURN_S) >= limit:
            raise ValueError(
                f"take() waits up to {TURN_S:g} s for a reply, but the client's socket_timeout is "
                f"{limit:g} s. Give it a client with a longer one, or none."
            )


class SyncQueue(Queue[SyncClient]):
    """The calls of `ListQueue` and `StreamQueue`."""

    WRONG = AsyncClient
    HINT = "{0} waits for each reply; for an asyncio client there is Async{0}."

    def put(self, payload: Any, delay_s: float = 0, *, id: str | None = None) -> str:
        """Add a job, to be done not before `delay_s` from now; returns its id.

        With an `id` of your own (an order's number) you may call this again after an error.
        Raises: ValueError or TypeError for a payload that JSON refuses; nothing is added then.
        """
        [job_id] = self.put_many({uuid.uuid4().hex if id is None else id: payload}, delay_s)
        return job_id

    def put_many(self, payloads: dict[str, Any] | Sequence[Any], delay_s: float = 0) -> list[str]:
        """Add many jobs atomically, in one round trip; returns their ids. A dict has ids."""
        jobs = _add_ids(payloads)
        if jobs:
            self._call("put", *self._to_put(jobs, delay_s))
        return [job_id for job_id, _ in jobs]

    def take(self, block_s: float = 0) -> Job | None:
        """The next job, leased for `lease_s`; waits up to `block_s`, then returns None.

        Raises: ValueError for a client whose socket timeout is too short to wait.
        """
        self._check_wait(block_s)
        token, deadline = uuid.uuid4().hex, time.monotonic() + block_s
        reply = self._call("take", self.lease_ms, token)
        while len(reply) == 2 and (left := deadline - time.monotonic()) > 0:
            moved = self._wait(_find_pause(reply, left), reply[1])
            reply = self._call("take", self.lease_ms, token, *moved)
        return _parse_job(token, reply)

    def _wait(self, seconds: float, ends: int) -> list[Any]:
        raise NotImplementedError

    def done(self, job: Job) -> bool:
        """The job is done. False if it is no longer yours: then it will be done again."""
        return bool(self._call("done", job.token))

    def fail(self, job: Job) -> bool:
        """Try the job again later, or count it among the dead. False if it is no longer yours."""
        return bool(self._call("fail", job.token, *self.backoff))

    def renew(self, job: Job) -> bool:
        """Begin the job's lease again. False if it is no longer yours: stop working on it."""
        return bool(self._call("renew", job.token, self.lease_ms))

    def reap(self) -> int:
        """Let jobs whose lease has run out be tried again, or die; returns how many go back."""
        return int(self._call("reap", self.lease_ms, *self.backoff))

    def counts(self) -> dict[str, int]:
        """How many jobs are `ready`, `taken`, for `later` and `dead`."""
        return _parse_counts(self._call("counts"))

    def dead(self, most: int = 100) -> list[Job]:
        """The jobs that have had their tries, the last one first."""
        return [_parse_dead(entry) for entry in self._call("dead", most)]

    def requeue(self, job_id: str) -> bool:
        """Give a dead job all its tries again. False if it is not among the dead."""
        return bool(self._call("requeue", job_id))

    def discard(self, job_id: str) -> bool:
        """Forget a dead job. False if it is not among the dead."""
        return bool(self._call("discard", job_id))

    def work(self, handle: Callable[[Job], object], *, stop: threading.Event | None = None) -> None:
        """Take jobs and handle them until `stop` is set, or SIGTERM or SIGINT arrives.

        The job in hand is finished first. A handler that returns has done its job; one that
        raises has failed it. While Redis is away this waits, and then goes on. In a thread other
        than the main one signals are not heard: set `stop`.
        """
        stop, reap_at = stop or threading.Event(), 0.0
        with _stop_on_signals(stop):
            while not stop.is_set():
                try:
                    if time.monotonic() >= reap_at:
                        self.reap()
                        reap_at = time.monotonic() + REAP_S
                    job = self.take(block_s=TURN_S)
                    if job is not None and not self._handle(handle, job):
                        log.warning("Job %s was no longer ours: it will be done again.", job.id)
                except AWAY as error:
                    log.warning("Redis is away: %s", error)
                    stop.wait(TURN_S)

    def _handle(self, handle: Callable[[Job], object], job: Job) -> bool:
        try:
            handle(job)
        except Exception:
            log.exception("Job %s failed at try %d.", job.id, job.tries)
            return self.fail(job)
        return self.done(job)


class AsyncQueue(Queue[AsyncClient]):
    """The calls of `AsyncListQueue` and `AsyncStreamQueue`: those of `SyncQueue`, to be awaited."""

    WRONG = SyncClient
    HINT = "{0} needs a client of redis.asyncio."

    async def put(self, payload: Any, delay_s: float = 0, *, id: str | None = None) -> str:
        """As `SyncQueue.put`."""
        [job_id] = await self.put_many({uuid.uuid4().hex if id is None else id: payload}, delay_s)
        return job_id

    async def put_many(
        self, payloads: dict[str, Any] | Sequence[Any], delay_s: float = 0
    ) -> list[str]:
        """As `SyncQueue.put_many`."""
        jobs = _add_ids(payloads)
        if jobs:
            await self._call("put", *self._to_put(jobs, delay_s))
        return [job_id for job_id, _ in jobs]

    async def take(self, block_s: float = 0) -> Job | None:
        """As `SyncQueue.take`. If it is cancelled, it gives back what it may have taken."""
        self._check_wait(block_s)
        token, deadline = uuid.uuid4().hex, time.monotonic() + block_s
        try:
            reply = await self._call("take", self.lease_ms, token)
            while len(reply) == 2 and (left := deadline - time.monotonic()) > 0:
                moved = await self._wait(_find_pause(reply, left), reply[1])
                reply = await self._call("take", self.lease_ms, token, *moved)
        except asyncio.CancelledError:
            with contextlib.suppress(redis.RedisError):
                await asyncio.shield(self._call("give_back", token))
            raise
        return _parse_job(token, reply)

    async def _wait(self, seconds: float, ends: int) -> list[Any]:
        raise NotImplementedError

    async def done(self, job: Job) -> bool:
        """As `SyncQueue.done`."""
        return bool(await self._call("done", job.token))

    async def fail(self, job: Job) -> bool:
        """As `SyncQueue.fail`."""
        return bool(await self._call("fail", job.token, *self.backoff))

    async def renew(self, job: Job) -> bool:
        """As `SyncQueue.renew`."""
        return bool(await self._call("renew", job.token, self.lease_ms))

    async def reap(self) -> int:
        """As `SyncQueue.reap`."""
        return int(await self._call("reap", self.lease_ms, *self.backoff))

    async def counts(self) -> dict[str, int]:
        """As `SyncQueue.counts`."""
        return _parse_counts(await self._call("counts"))

    async def dead(self, most: int = 100) -> list[Job]:
        """As `SyncQueue.dead`."""
        return [_parse_dead(entry) for entry in await self._call("dead", most)]

    async def requeue(self, job_id: str) -> bool:
        """As `SyncQueue.requeue`."""
        return bool(await self._call("requeue", job_id))

    async def discard(self, job_id: str) -> bool:
        """As `SyncQueue.discard`."""
        return bool(await self._call("discard", job_id))

    async def work(
        self, handle: Callable[[Job], Awaitable[object]], *, stop: asyncio.Event | None = None
    ) -> None:
        """As `SyncQueue.work`. For several jobs at a time, gather several of these."""
        stop, reap_at = stop or asyncio.Event(), 0.0
        heard = _add_signal_handlers(stop)
        try:
            while not stop.is_set():
                try:
                    if time.monotonic() >= reap_at:
                        await self.reap()
                        reap_at = time.monotonic() + REAP_S
                    job = await self.take(block_s=TURN_S)
                    if job is not None and not await self._handle(handle, job):
                        log.warning("Job %s was no longer ours: it will be done again.", job.id)
                except AWAY as error:
                    log.warning("Redis is away: %s", error)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(stop.wait(), TURN_S)
        finally:
            for one in heard:
                asyncio.get_running_loop().remove_signal_handler(one)

    async def _handle(self, handle: Callable[[Job], Awaitable[object]], job: Job) -> bool:
        try:
            await handle(job)
        except Exception:
            log.exception("Job %s failed at try %d.", job.id, job.tries)
            return await self.fail(job)
        return await self.done(job)


class ListQueue(SyncQueue):
    """Jobs are done at least once, whoever is killed when.

    Contract: a job that was put is ready, taken, later or dead until somebody says `done`. If it
    failed, or was not done `lease_s` after it was taken, it is tried again: at the end of the
    line, after `backoff_s`, then after twice that, and so on up to `longest_backoff_s`. After
    `max_tries` it is dead, and stays for a person to look at (`dead`, `requeue`, `discard`).
    While a lease runs nobody else gets the job. `done`, `fail` and `renew` say False, and change
    nothing, once the lease has run out and somebody has reaped: then the job is done AGAIN. Jobs
    begin in the order in which they were put, or became due. Somebody must call `reap` every few
    seconds; `work` does, and any number of processes may.
    Sent again: what a client sends again after a lost reply, and what arrives late, takes effect
    once and gives the same answer within `remember_s`. A `put` that arrives later than that after
    its job was done makes a SECOND job. A take counts as a try when Redis hands the job out: a
    worker killed before it began has used one, so `max_tries=1` means at most once.
    NOT KEPT: what the server forgets is lost. A restart without persistence, a failover to a
    replica that is behind, an eviction (use `noeviction`) can lose jobs that were put, and bring
    back jobs that were done or taken: then TWO workers may have one, and it may have more tries.
    Keys: `{prefix}:jobs`, `:tries`, `:holders` (hashes), `:later`, `:leases`, `:over` (sorted
    sets), `:dead`, `:ready`, `:moved` (lists), all declared, in one slot of a cluster. Jobs must
    not expire one by one, so the keys live and die together, `keep_s` after the last call or the
    last time at which a job is due or a lease ends, whichever is later: a queue that NOBODY calls
    for so long is gone with all its jobs. What is done is remembered in `:over` for `remember_s`.
    Cost: one round trip a call; `take` two more for each turn of at most a second that it waits.
    Tested from Redis 7.0. Payloads are JSON: a worker gets lists for tuples, strings for keys.
    ACL: `~{prefix}:*`, `+@read +@write +@blocking +@scripting +@connection +time`.
    Prevents: the job that BRPOP handed to a worker that was killed.

    >>> queue = ListQueue(r, "mails", lease_s=30)
    >>> queue.put({"order": 7}, id="order 7") == queue.take().id
    True
    >>> queue.counts()
    {'ready': 0, 'taken': 1, 'later': 0, 'dead': 0}
    """

    LINE = LISTS
    LINE_KEYS = ("ready", "moved")

    def _wait(self, seconds: float, ends: int) -> list[Any]:
        """Wait for a job and move it aside; returns what `take` needs to claim it."""
        pipe = self.client.pipeline(transaction=False)
        timeout: Any = seconds  # redis-py's annotation says int; Redis takes fractions
        pipe.blmove(self.keys["ready"], self.keys["moved"], timeout, "RIGHT", "LEFT")
        pipe.pexpireat(self.keys["moved"], ends)
        moved, _ = pipe.execute()
        return [] if moved is None else [moved]


class AsyncListQueue(AsyncQueue):
    """`ListQueue` for asyncio."""

    LINE = LISTS
    LINE_KEYS = ("ready", "moved")

    async def _wait(self, seconds: float, ends: int) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        timeout: Any = seconds  # redis-py's annotation says int; Redis takes fractions
        pipe.blmove(self.keys["ready"], self.keys["moved"], timeout, "RIGHT", "LEFT")
        pipe.pexpireat(self.keys["moved"], ends)
        moved, _ = await pipe.execute()
        return [] if moved is None else [moved]


class StreamQueue(SyncQueue):
    """The methods and the contract of `ListQueue`, with a stream for the line.

    The difference: a consumer group notes by itself who has read an entry, and when. So between
    reading and the lease no time is lost until somebody reaps, and nobody but the group must trim
    the stream.
    Keys: as for `ListQueue`, with `{prefix}:stream` in place of `:ready` and `:moved`.
    Cost: as for `ListQueue`. Tested from Redis 7.0.
    Prevents: the job that BRPOP handed to a worker that was killed.

    >>> queue = StreamQueue(r, "mails", lease_s=30)
    >>> queue.put({"order": 7}) == queue.take().id
    True
    >>> queue.counts()
    {'ready': 0, 'taken': 1, 'later': 0, 'dead': 0}
    """

    LINE = STREAM
    LINE_KEYS = ("stream",)

    def _wait(self, seconds: float, ends: int) -> list[Any]:
        with _tolerate_no_group():
            return _parse_moved(
                self.client.xreadgroup(
                    "workers", "any", {self.keys["stream"]: ">"}, count=1, block=_to_ms(seconds)
                )
            )
        return []


class AsyncStreamQueue(AsyncQueue):
    """`StreamQueue` for asyncio."""

    LINE = STREAM
    LINE_KEYS = ("stream",)

    async def _wait(self, seconds: float, ends: int) -> list[Any]:
        with _tolerate_no_group():
            return _parse_moved(
                await self.client.xreadgroup(
                    "workers", "any", {self.keys["stream"]: ">"}, count=1, block=_to_ms(seconds)
                )
            )
        return []


def _to_ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1) if seconds else 0


def _to_text(reply: str | bytes) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply


def _add_ids(payloads: dict[str, Any] | Sequence[Any]) -> list[tuple[str, Any]]:
    if isinstance(payloads, dict):
        return list(payloads.items())
    return [(uuid.uuid4().hex, payload) for payload in payloads]


def _find_pause(reply: list[Any], left: float) -> float:
    """How long to wait: until a job becomes due, a turn at most."""
    until_due = reply[0] / 1000 if reply[0] > 0 else TURN_S
    return max(min(left, until_due, TURN_S), 0.001)


def _parse_job(token: str, reply: list[Any]) -> Job | None:
    if len(reply) == 2:
        return None
    job_id, tries, payload = reply
    return Job(_to_text(job_id), json.loads(payload), tries, token)


def _parse_dead(entry: list[Any]) -> Job:
    job_id, tries, payload = entry
    return Job(_to_text(job_id), json.loads(payload), tries)


def _parse_counts(reply: list[int]) -> dict[str, int]:
    return dict(zip(("ready", "taken", "later", "dead"), reply, strict=True))


def _parse_moved(found: Any) -> list[Any]:
    """The id of the job and of its entry, from XREADGROUP's reply in any of its shapes."""
    if not found:
        return []
    [[_, entries]] = found.items() if isinstance(found, dict) else found
    if isinstance(entries[0][0], list | tuple):  # so where protocol=3 was asked for
        [entries] = entries
    [(entry, fields)] = entries
    return [*fields.values(), entry]


@contextlib.contextmanager
def _tolerate_no_group() -> Iterator[None]:
    """Ignore that the stream was removed while we waited; the next call creates it again."""
    try:
        yield
    except redis.ResponseError as error:
        if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
            raise


def _get_socket_timeout(client: Any) -> float | None:
    """How long a client waits for a reply before it hangs up, in seconds; None is for ever."""
    pool = getattr(client, "connection_pool", None) or client.nodes_manager
    holder = pool if hasattr(pool, "connection_kwargs") else client
    limit: float | None = holder.connection_kwargs.get("socket_timeout", 5)  # redis-py's default
    return limit


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set `stop`, where signals can be heard: in the main thread."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for one in (signal.SIGTERM, signal.SIGINT):
            before[one] = signal.signal(one, lambda *_: stop.set())
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _add_signal_handlers(stop: asyncio.Event) -> list[signal.Signals]:
    """The same for an event loop; returns what has to be removed in the end."""
    heard: list[signal.Signals] = []
    for one in (signal.SIGTERM, signal.SIGINT):
        # Not in a thread, not on Windows
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(one, stop.set)
            heard.append(one)
    return heard
