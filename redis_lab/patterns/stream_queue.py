"""The same queue on a stream group. Built up in notebooks/patterns/07_queue.ipynb."""

from __future__ import annotations

from typing import ClassVar

import redis

from .queue import BEGIN, PUT, ListQueue

# In every script. One consumer's name is enough: who has a job is told by its number of tries.
STREAM = (
    BEGIN
    + """
local jobs, tries, later, dead, stream = unpack(KEYS)
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
end
local function add(id) redis.call('XADD', stream, '*', 'id', id) end
local function remove(entry)
  redis.call('XDEL', stream, entry)
  return redis.call('XACK', stream, 'workers', entry) == 1
end
"""
)

# ARGV: lifetime, lease (which is the reaper's business here), and the id and entry already read
TAKE = """
for _, id in ipairs(redis.call('ZRANGE', later, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', later, id)
  add(id)
end
local id, entry = ARGV[3], ARGV[4]
if not id then
  local found = redis.call(
    'XREADGROUP', 'GROUP', 'workers', 'any', 'COUNT', 1, 'STREAMS', stream, '>')
  if found then entry, id = found[1][2][1][1], found[1][2][1][2][2] end
elseif #redis.call('XPENDING', stream, 'workers', entry, entry, 1) == 0 then id = nil end
if not id then
  local first = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
  return finish({first[2] and math.max(first[2] - now, 1) or -1})
end
return finish({id, redis.call('HINCRBY', tries, id, 1), redis.call('HGET', jobs, id), entry})
"""

MINE = """
if redis.call('HGET', tries, ARGV[2]) ~= ARGV[3] or not remove(ARGV[4]) then return finish(0) end
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

# ARGV: lifetime, lease, most tries
REAP = """
local back = 0
local idle = redis.call('XPENDING', stream, 'workers', 'IDLE', ARGV[2], '-', '+', 100)
for _, note in ipairs(idle) do
  local id = redis.call('XRANGE', stream, note[1], note[1])[1][2][2]
  remove(note[1])
  if tonumber(redis.call('HGET', tries, id) or 0) >= tonumber(ARGV[3]) then
    redis.call('LPUSH', dead, id)
  else
    add(id)
    back = back + 1
  end
end
return finish(back)
"""

COUNTS = """
local taken = redis.call('XPENDING', stream, 'workers')[1]
return finish({redis.call('XLEN', stream) - taken, taken,
               redis.call('ZCARD', later), redis.call('LLEN', dead)})
"""


class StreamQueue(ListQueue):
    """The methods and the contract of `ListQueue`, on a stream and a consumer group.

    The difference: to read an entry IS to be noted as its holder, so there is no moment in which a
    job is taken and has no lease; and what `reap()` brings back goes to the end of the line, since
    a stream has only one.
    Keys: `{prefix}:jobs`, `:tries` (hashes), `:later` (a sorted set), `:dead` (a list), `:stream`;
    TTL `keep_s` from the last call.
    Cost: as for `ListQueue`. Needs Redis 6.2.
    Prevents: the job that BRPOP handed to a worker that was killed.

    >>> queue = StreamQueue(r, "mails", lease_s=30)
    >>> queue.put({"order": 7}) == queue.take().id
    True
    >>> queue.counts()
    {'ready': 0, 'taken': 1, 'later': 0, 'dead': 0}
    """

    KEYS: ClassVar = ("jobs", "tries", "later", "dead", "stream")
    SCRIPTS: ClassVar = {
        "put": STREAM + PUT.replace("redis.call('LPUSH', ready, ARGV[2])", "add(ARGV[2])"),
        "take": STREAM + TAKE,
        "done": STREAM + MINE + DONE,
        "fail": STREAM + MINE + FAIL,
        "reap": STREAM + REAP,
        "counts": STREAM + COUNTS,
    }

    def wait(self, seconds: float) -> list:
        """Wait for an entry; the id of its job and its own."""
        stream = self.keys["stream"]
        try:
            found = self.client.xreadgroup(
                "workers", "any", {stream: ">"}, count=1, block=max(int(seconds * 1000), 1)
            )
        except redis.ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED")):  # it was removed while we waited
                return []
            raise
        if not found:
            return []
        [[_, entries]] = found.items() if isinstance(found, dict) else found
        if isinstance(entries[0][0], list | tuple):  # so where protocol=3 was asked for
            [entries] = entries
        [(entry, fields)] = entries
        return [*fields.values(), entry]
