"""A queue that outlives its workers, on lists. Built up in notebooks/patterns/07_queue.ipynb."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar

import redis
import redis.asyncio

from redis_lab.errors import LabError

from .both import then

TURN_S = 1.0  # a waiting worker looks up this often: a job may have fallen due meanwhile
WEEK_S = 7 * 86_400
REDIS_PY_TIMEOUT_S = 5.0  # a client's socket timeout where nobody set one

# Of every script: the server's clock, and a new lifetime for all keys of the queue.
BEGIN = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local function finish(reply)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end
  return reply
end
"""
LISTS = BEGIN + "local jobs, tries, later, dead, ready, taken, leases = unpack(KEYS)\n"

# ARGV: lifetime, id, payload, delay. HSETNX: a put that the client sends again is one job.
PUT = """
if redis.call('HSETNX', jobs, ARGV[2], ARGV[3]) == 1 then
  if tonumber(ARGV[4]) > 0 then redis.call('ZADD', later, now + ARGV[4], ARGV[2])
  else redis.call('LPUSH', ready, ARGV[2]) end
end
return finish(ARGV[2])
"""

# ARGV: lifetime, lease, id that BLMOVE has moved already or nothing
TAKE = """
for _, id in ipairs(redis.call('ZRANGE', later, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', later, id)
  redis.call('LPUSH', ready, id)
end
local id = ARGV[3]
if not id then id = redis.call('LMOVE', ready, taken, 'RIGHT', 'LEFT')
elseif not redis.call('LPOS', taken, id) then id = false end
if not id then
  local first = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
  return finish({first[2] and math.max(first[2] - now, 1) or -1})
end
redis.call('ZADD', leases, now + ARGV[2], id)
return finish({id, redis.call('HINCRBY', tries, id, 1), redis.call('HGET', jobs, id), ''})
"""

# Is the job still in the hands of whoever took it for the ARGV[3]-th time? If so, take it away.
MINE = """
if redis.call('HGET', tries, ARGV[2]) ~= ARGV[3] then return 0 end
if redis.call('ZREM', leases, ARGV[2]) == 0 then return 0 end
redis.call('LREM', taken, 1, ARGV[2])
"""

# ARGV: lifetime, id, try, entry
DONE = """
redis.call('HDEL', jobs, ARGV[2])
redis.call('HDEL', tries, ARGV[2])
return finish(1)
"""

# ARGV: lifetime, id, try, entry, most tries, delay
FAIL = """
if tonumber(ARGV[3]) >= tonumber(ARGV[5]) then redis.call('LPUSH', dead, ARGV[2])
else redis.call('ZADD', later, now + ARGV[6], ARGV[2]) end
return finish(1)
"""

# ARGV: lifetime, lease, most tries. A worker that died between BLMOVE and its lease left a job
# without one: its lease begins now.
REAP = """
if redis.call('LLEN', taken) > redis.call('ZCARD', leases) then
  for _, id in ipairs(redis.call('LRANGE', taken, 0, -1)) do
    redis.call('ZADD', leases, 'NX', now + ARGV[2], id)
  end
end
local back = 0
for _, id in ipairs(redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', leases, id)
  redis.call('LREM', taken, 1, id)
  if tonumber(redis.call('HGET', tries, id) or 0) >= tonumber(ARGV[3]) then
    redis.call('LPUSH', dead, id)
  else
    redis.call('RPUSH', ready, id)
    back = back + 1
  end
end
return finish(back)
"""

COUNTS = """
return {redis.call('LLEN', ready), redis.call('LLEN', taken),
        redis.call('ZCARD', later), redis.call('LLEN', dead)}
"""


@dataclass(frozen=True)
class Job:
    """A job in hand. `id` is the same at every delivery, so it serves as an idempotency key."""

    id: str
    payload: Any
    tries: int
    entry: str = ""


class ListQueue:
    """Jobs are done at least once, whoever is killed when.

    Contract: a job that was put is ready, taken, later or dead until somebody says `done`. One
    that is not done `lease_s` after it was taken goes back to the head of the line at the next
    `reap()`; one that failed goes to the end, `backoff_s` later, then twice that, and so on. After
    `max_tries` it is dead and stays for a person to look at. `done` and `fail` say False, and do
    nothing, when the job was brought back meanwhile: then it is done AGAIN. (Sent twice, because
    the first reply was lost, they say False as well; redis-py does that.) Jobs are handed out in
    the order in which they were put, or fell due. Somebody must call `reap()` every few seconds;
    any number of processes may. The server must not evict keys, and forgets what it did not save.
    Keys: `{prefix}:jobs`, `:tries` (hashes), `:later`, `:leases` (sorted sets), `:ready`, `:taken`,
    `:dead` (lists), all in one slot of a cluster. Jobs must not expire one by one, so the keys live
    and die together: TTL `keep_s` from the last call. A job that is done leaves nothing.
    Cost: one round trip a call; `take` two more for each turn of at most a second that it waits.
    Needs Redis 6.2. For asyncio clients too, but for `take`. Payloads are JSON.
    Prevents: the job that BRPOP handed to a worker that was killed.

    >>> queue = ListQueue(r, "mails", lease_s=30)
    >>> queue.put({"order": 7}) == queue.take().id
    True
    >>> queue.counts()
    {'ready': 0, 'taken': 1, 'later': 0, 'dead': 0}
    """

    KEYS: ClassVar = ("jobs", "tries", "later", "dead", "ready", "taken", "leases")
    SCRIPTS: ClassVar = {
        "put": LISTS + PUT,
        "take": LISTS + TAKE,
        "done": LISTS + MINE + DONE,
        "fail": LISTS + MINE + FAIL,
        "reap": LISTS + REAP,
        "counts": LISTS + COUNTS,
    }

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        lease_s: float = 30,
        max_tries: int = 5,
        backoff_s: float = 1,
        keep_s: float = WEEK_S,
    ) -> None:
        if not prefix or set(prefix) & set("{}"):
            raise LabError(f"{type(self).__name__} needs a prefix, without curly brackets.")
        if min(lease_s, backoff_s) < 0.001 or max_tries < 1 or keep_s <= lease_s:
            raise LabError(
                "A lease and a backoff last a millisecond at least, there is one try at least, "
                "and the queue is kept for longer than a lease."
            )
        self.client, self.max_tries, self.backoff_s = client, max_tries, backoff_s
        self.lease_ms, self.keep_ms = int(lease_s * 1000), int(keep_s * 1000)
        self.keys = {name: f"{{{prefix}}}:{name}" for name in self.KEYS}
        self.scripts = {name: client.register_script(lua) for name, lua in self.SCRIPTS.items()}

    def call(self, name: str, *args: object) -> Any:
        """Run one of the scripts: one round trip. (For asyncio clients: an awaitable.)"""
        return self.scripts[name](keys=list(self.keys.values()), args=[self.keep_ms, *args])

    def put(self, payload: Any, delay_s: float = 0) -> str:
        """Add a job, to be done not before `delay_s` from now; returns its id."""
        if delay_s < 0:
            raise LabError("A job cannot be due before it is put.")
        args = [uuid.uuid4().hex, json.dumps(payload), int(delay_s * 1000)]
        return then(self.call("put", *args), text)

    def take(self, block_s: float = 0) -> Job | None:
        """The next job, leased for `lease_s`; waits up to `block_s`, then returns None.

        Raises: LabError for an asyncio client, or one whose socket timeout is too short to wait.
        """
        if isinstance(self.client, redis.asyncio.Redis | redis.asyncio.RedisCluster):
            raise LabError("take() waits in a loop: give it a redis.Redis, in a thread.")
        limit = socket_timeout(self.client)
        if limit is not None and min(block_s, TURN_S) >= limit:
            raise LabError(
                f"take() waits up to {TURN_S:g} s for a reply, but the client's socket_timeout is "
                f"{limit:g} s. Give it a client with a longer one, or none."
            )
        deadline = time.monotonic() + block_s
        reply = self.call("take", self.lease_ms)
        while len(reply) == 1 and (left := deadline - time.monotonic()) > 0:
            until_due = reply[0] / 1000 if reply[0] > 0 else TURN_S
            moved = self.wait(max(min(left, until_due, TURN_S), 0.001))
            reply = self.call("take", self.lease_ms, *moved)
        if len(reply) == 1:
            return None
        job_id, tries, payload, entry = reply
        return Job(text(job_id), json.loads(payload), tries, text(entry))

    def wait(self, seconds: float) -> list:
        """Wait for a job and move it among the taken; what `take` must be told about it."""
        pipe = self.client.pipeline(transaction=False)
        pipe.blmove(self.keys["ready"], self.keys["taken"], seconds, "RIGHT", "LEFT")
        pipe.pexpire(self.keys["taken"], self.keep_ms)
        moved, _ = pipe.execute()
        return [] if moved is None else [moved]

    def done(self, job: Job) -> bool:
        """The job is done. False if it was not yours any more: then it will be done again.

        (Or this was sent twice, as a reply was lost, and the first has done it.)
        """
        return then(self.call("done", job.id, job.tries, job.entry), bool)

    def fail(self, job: Job) -> bool:
        """Try the job again later, or bury it. False if it was not yours any more."""
        delay_ms = int(self.backoff_s * 1000) * 2 ** min(job.tries - 1, 20)
        args = [job.id, job.tries, job.entry, self.max_tries, delay_ms]
        return then(self.call("fail", *args), bool)

    def reap(self) -> int:
        """Put jobs whose lease has run out back, or bury them; returns how many went back."""
        return then(self.call("reap", self.lease_ms, self.max_tries), int)

    def counts(self) -> dict[str, int]:
        """How many jobs are `ready`, `taken`, for `later` and `dead`."""
        names = ("ready", "taken", "later", "dead")
        return then(self.call("counts"), lambda found: dict(zip(names, found, strict=True)))


def text(reply: str | bytes) -> str:
    return reply.decode() if isinstance(reply, bytes) else reply


def socket_timeout(client: redis.Redis | redis.RedisCluster) -> float | None:
    """How long a client waits for a reply before it hangs up; None is for ever."""
    holder = getattr(client, "connection_pool", None) or client.nodes_manager
    return holder.connection_kwargs.get("socket_timeout", REDIS_PY_TIMEOUT_S)
