"""Sessions that end when they should. Built up in the lesson `sessions`.

Copy this file as it is: it needs redis-py and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import redis
import redis.asyncio

__all__ = [
    "AsyncSessions",
    "BaseSessions",
    "Revoked",
    "Session",
    "Sessions",
]

MOST_S = 100 * 365 * 86_400  # no time may be longer

# KEYS: the session, and of a user the index. Its members are "<hash> <born>", and their scores the
# times at which they end, in ms; and "generation", whose score counts up in µs at each revoke_all.
# A session of an earlier generation is over.
BEGIN = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local session, index = KEYS[1], KEYS[2]

local function generation()
  return index and redis.call('ZSCORE', index, 'generation') or '0'
end

-- How the session stands now: born, ends, generation; or nothing if it is over.
local function alive()
  local found = redis.call('HMGET', session, '_born', '_ends', '_generation', '_ended')
  if found[2] and not found[4] and (found[3] or '0') == generation() then return unpack(found) end
end

local function touch(hash, born, ends, idle)
  local till = math.min(now + idle, ends)
  if index then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    redis.call('ZADD', index, till, hash .. ' ' .. born)
    local listed = redis.call('PEXPIRETIME', index)
    if listed < tonumber(ends) then redis.call('PEXPIREAT', index, ends) end
  end
  redis.call('PEXPIREAT', session, till)
end

local function write(first)  -- in a loop: unpack() has room for a few thousand
  for k = first, #ARGV, 2 do redis.call('HSET', session, ARGV[k], ARGV[k + 1]) end
end
"""

# ARGV: hash of the id, idle ms, absolute ms, expected generation or '', name, JSON, name, JSON, …
# Where there is a session, or what is left of one, this call was sent again.
START = """
if redis.call('EXISTS', session) == 1 then return 1 end
local current = generation()
if ARGV[4] ~= '' and ARGV[4] ~= current then return 0 end
local ends = now + ARGV[3]
if index then redis.call('ZADD', index, now + ARGV[2], ARGV[1] .. ' ' .. now) end
redis.call('HSET', session, '_born', now, '_ends', ends, '_generation', current)
write(5)
touch(ARGV[1], now, ends, ARGV[2])
return 1
"""

# ARGV: hash of the id, idle ms, ms within which a touch is not repeated
LOAD = """
local born, ends = alive()
if not born then return false end
local till = redis.call('PEXPIRETIME', session)
if till - now <= ARGV[2] - ARGV[3] then touch(ARGV[1], born, ends, ARGV[2]) end
return redis.call('HGETALL', session)
"""

# ARGV: hash of the id, idle ms, name, JSON, …
SAVE = """
local born, ends = alive()
if not born then return 0 end
write(3)
touch(ARGV[1], born, ends, ARGV[2])
return 1
"""

# ARGV: hash of the id, idle ms, token of this call, 'keep' to keep the data for a login. What is
# left keeps away a START that arrives late, and tells a call sent again what it did.
END = """
local mine = redis.call('HGET', session, '_ended') == ARGV[3]
local born, ends = alive()
local data = false
if ARGV[4] == 'keep' then
  local n = redis.call('HGET', session, '_generation')
  if n and n == generation() then data = redis.call('HGETALL', session) end
end
if born then
  if ARGV[4] ~= 'keep' then redis.call('DEL', session) end
  redis.call('HSET', session, '_ended', ARGV[3], '_generation', generation())
  redis.call('PEXPIREAT', session, math.min(now + ARGV[2], ends))
  if index then redis.call('ZREM', index, ARGV[1] .. ' ' .. born) end
end
return {(born or mine) and 1 or 0, data}
"""

# KEYS: the session to keep or any other of the user's, the index. ARGV: hash of the one to keep or
# '', absolute ms, token of this call
REVOKE_ALL = """
local done = redis.call('ZSCORE', index, 'by ' .. ARGV[3])
if done then return done - 2 ^ 52 end  -- this call was sent again
local life = math.max(ARGV[2], redis.call('PTTL', index))  -- as long as any session can live
local born
if ARGV[1] ~= '' then born = alive() end
local new = string.format('%.0f', math.max(at[1] * 1000000 + at[2], generation() + 1))
redis.call('ZADD', index, new, 'generation')
redis.call('PEXPIRE', index, life)
local kept = ''
if born then
  redis.call('HSET', session, '_generation', new)
  kept = ARGV[1] .. ' ' .. born
end
local ended = 0
for _, member in ipairs(redis.call('ZRANGE', index, 0, -1)) do
  if member ~= kept and member ~= 'generation' then
    if string.sub(member, 1, 3) ~= 'by ' and redis.call('ZSCORE', index, member) + 0 > now then
      ended = ended + 1
    end
    redis.call('ZREM', index, member)
  end
end
redis.call('ZADD', index, 2 ^ 52 + ended, 'by ' .. ARGV[3])
return ended
"""

# KEYS: the index alone
LIST = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local current = redis.call('ZSCORE', KEYS[1], 'generation') or '0'
return {current, redis.call('ZRANGE', KEYS[1], '(' .. now, '(' .. 2 ^ 50, 'BYSCORE')}
"""


@dataclass(frozen=True)
class Session:
    """What belongs to an id. `user` is empty before login."""

    id: str
    user: str
    data: dict[str, Any]


class Revoked(Exception):
    """`revoke_all` came between asking for the generation and the login that named it."""


SyncClient = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
Client = TypeVar("Client")


class BaseSessions(Generic[Client]):
    """What `Sessions` and `AsyncSessions` have in common: settings, keys and scripts."""

    WRONG: ClassVar[Any]  # kind of client, refused with HINT
    HINT: ClassVar[str]

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        idle_s: float,
        absolute_s: float,
        touch_every_s: float = 0,
    ) -> None:
        if isinstance(client, self.WRONG):
            raise TypeError(self.HINT.format(type(self).__name__))
        if not prefix or set(prefix) & set("{}"):
            raise ValueError(f"{type(self).__name__} needs a prefix, without curly brackets.")
        if not 0.001 <= idle_s <= absolute_s <= MOST_S or not 0 <= touch_every_s < idle_s:
            raise ValueError(
                "1 ms <= idle_s <= absolute_s <= 100 years, and 0 <= touch_every_s < idle_s."
            )
        self.prefix = prefix
        self.idle_ms, self.absolute_ms = int(idle_s * 1000), int(absolute_s * 1000)
        self.touch_ms = int(touch_every_s * 1000)
        register: Any = getattr(client, "register_script")  # noqa: B009
        self._start, self._load, self._save, self._end, self._revoke_all = (
            register(BEGIN + lua) for lua in (START, LOAD, SAVE, END, REVOKE_ALL)
        )
        self._list = register(LIST)

    def keys(self, id: str) -> list[str]:
        """The session's key, and its user's index. What is no id of ours gets an empty key."""
        user = match[1] if (match := ID.fullmatch(id)) else ""
        index = self.index(user)
        return [f"{index}:{_hash_id(id)}", *([index] if user else [])]

    def index(self, user: str) -> str:
        """The key that lists a user's sessions, in the same slot as the sessions."""
        return f"{self.prefix}:{{{user}}}"

    def _to_start(self, id: str, data: list[str], generation: str) -> dict[str, Any]:
        args = [_hash_id(id), self.idle_ms, self.absolute_ms, generation, *data]
        return {"keys": self.keys(id), "args": args}

    def _to_load(self, id: str) -> dict[str, Any]:
        return {"keys": self.keys(id), "args": [_hash_id(id), self.idle_ms, self.touch_ms]}

    def _to_save(self, id: str, data: Mapping[str, Any]) -> dict[str, Any]:
        if not data:
            raise ValueError("save() needs at least one field.")
        return {"keys": self.keys(id), "args": [_hash_id(id), self.idle_ms, *_pack_fields(data)]}

    def _to_end(self, id: str, keep: str = "") -> dict[str, Any]:
        args = [_hash_id(id), self.idle_ms, secrets.token_hex(8), keep]
        return {"keys": self.keys(id), "args": args}

    def _to_revoke(self, user: str, keep: str) -> dict[str, Any]:
        index = self.index(_check_user(user))
        mine = self.keys(keep)[1:] == [index]
        kept = self.keys(keep)[0] if mine else index  # an index is no session: nothing is kept
        args = [_hash_id(keep) if mine else "", self.absolute_ms, secrets.token_hex(8)]
        return {"keys": [kept, index], "args": args}

    def _to_list(self, user: str) -> dict[str, Any]:
        return {"keys": [self.index(_check_user(user))]}


class Sessions(BaseSessions[SyncClient]):
    """Sessions with two times to live, a new id at every login, and a logout that stays a logout.

    Contract: a session ends `idle_s` after its last `load` or `save`, and `absolute_s` after it
    began whatever is done with it, both by the server's clock. (With `touch_every_s` a `load` so
    soon after the last one writes nothing, so it may end that much earlier.) Nothing revives one
    that has ended: `save` writes only where there is a session. `login` gives a new id, ends the
    old one and takes over what was saved in it up to then; a crash between the two steps leaves
    nobody logged in, and a `login` with the old id still finds its data for `idle_s`. Two requests
    that save different fields keep both; of the same field the last one to arrive stays.
    `revoke_all` is one step: every session of the user that had begun is over, by a generation
    number that `load` and `save` compare, also while a cluster moves the slot. To end a login in
    flight too, ask for `generation(user)` BEFORE you check the password and hand it to `login`.
    Sent again: what a client sends again after a lost reply, and what arrives late, takes effect
    once and gives the same answer, for `idle_s`. A `save` that arrives late may write OVER a later
    one of the same field; a `revoke_all` that arrives after the next one ends also what began
    meanwhile.
    NOT KEPT: what the server forgets. A failover to a replica that is behind, or a restart from an
    old file, may BRING BACK what was logged out or revoked in the last moments. An eviction of the
    index (use `noeviction`) logs out or brings back all of a user's sessions.
    Keys: `<prefix>:{<user>}:<hash>`, a hash of JSON fields, and the index `<prefix>:{<user>}`, a
    sorted set; TTLs as above. What was logged out leaves a field for `idle_s`, what was revoked
    its hash. The id is `<user>.<128 random bits>` and only a SHA-256 of it is stored. A user's
    keys share a slot, and every script declares its keys. Before login, `{}` is no hash tag, so
    anonymous sessions spread over the cluster; a login crosses slots, hence two steps. While a slot
    moves, a call may raise redis.exceptions.TryAgainError: try again.
    Cost: one round trip a call, a `login` two. Tested from Redis 7.0. Data are JSON: a `load` gives
    lists for tuples, and strings for the keys of dicts.
    ACL: `~<prefix>:*`, `+@read +@write +@scripting +@connection +time`.
    NOT KEPT either: a restart without persistence LOGS EVERYBODY OUT, and so may a failover.
    Prevents: the id that survives login, the session that is written back to life without a TTL,
    the stolen one that is kept alive for ever, and (only JSON) data that runs as code.

    >>> sessions = Sessions(r, "session", idle_s=1800, absolute_s=86400)
    >>> before = sessions.load(sessions.start(data={"cart": ["lamp"]}))
    >>> after = sessions.load(sessions.login(before, "ada"))
    >>> after.user, after.data, sessions.load(before.id), sessions.revoke_all("ada")
    ('ada', {'cart': ['lamp']}, None, 1)
    """

    WRONG = AsyncClient
    HINT = "{0} waits for each reply; for an asyncio client there is Async{0}."

    def start(
        self, user: str = "", data: Mapping[str, Any] | None = None, *, generation: str = ""
    ) -> str:
        """A new session; its id is for the cookie. No caller ever chooses an id.

        Raises: Revoked if the user's generation is no longer the one that is given.
        """
        return self._begin(user, _pack_fields(data or {}), generation)

    def _begin(self, user: str, data: list[str], generation: str) -> str:
        id = _make_id(user)
        return _check_begun(id, self._start(**self._to_start(id, data, generation)))

    def load(self, id: str) -> Session | None:
        """What belongs to the id, whose idle time begins again; None where there is nothing."""
        return _make_session(id, self._load(**self._to_load(id)))

    def save(self, id: str, data: Mapping[str, Any]) -> bool:
        """Write these fields, leave the others. False: the session is over, nothing written."""
        return bool(self._save(**self._to_save(id, data)))

    def login(self, old: Session | str | None, user: str, *, generation: str = "") -> str:
        """A new id for the user, with the data from before login; the old id ends.

        Call it after the password was checked, at a login and at any other rise in rights. What
        belonged to another user is not handed on. Raises: Revoked, as `start` does.
        """
        _check_user(user)
        kept: list[str] = []
        if old is not None:
            old_id = old if isinstance(old, str) else old.id
            kept = _pack_login(old_id, user, self._end(**self._to_end(old_id, "keep")))
        return self._begin(user, kept, generation)

    def end(self, id: str) -> bool:
        """Log out. False: there was no such session any more."""
        return bool(self._end(**self._to_end(id))[0])

    def revoke_all(self, user: str, keep: str = "") -> int:
        """End every session of the user, but for one id to keep; how many that were."""
        return int(self._revoke_all(**self._to_revoke(user, keep)))

    def all_of(self, user: str) -> dict[str, float]:
        """The user's sessions: hash of the id, which logs nobody in, and when it began."""
        return _parse_births(self._list(**self._to_list(user)))

    def generation(self, user: str) -> str:
        """The number of the user's generation, for a login that a `revoke_all` shall prevent."""
        return _to_text(self._list(**self._to_list(user))[0])


class AsyncSessions(BaseSessions[AsyncClient]):
    """`Sessions` for asyncio. A `login` that is cancelled between its steps is one that crashed."""

    WRONG = SyncClient
    HINT = "{0} needs a client of redis.asyncio."

    async def start(
        self, user: str = "", data: Mapping[str, Any] | None = None, *, generation: str = ""
    ) -> str:
        """As `Sessions.start`."""
        return await self._begin(user, _pack_fields(data or {}), generation)

    async def _begin(self, user: str, data: list[str], generation: str) -> str:
        id = _make_id(user)
        return _check_begun(id, await self._start(**self._to_start(id, data, generation)))

    async def load(self, id: str) -> Session | None:
        """As `Sessions.load`."""
        return _make_session(id, await self._load(**self._to_load(id)))

    async def save(self, id: str, data: Mapping[str, Any]) -> bool:
        """As `Sessions.save`."""
        return bool(await self._save(**self._to_save(id, data)))

    async def login(self, old: Session | str | None, user: str, *, generation: str = "") -> str:
        """As `Sessions.login`."""
        _check_user(user)
        kept: list[str] = []
        if old is not None:
            old_id = old if isinstance(old, str) else old.id
            kept = _pack_login(old_id, user, await self._end(**self._to_end(old_id, "keep")))
        return await self._begin(user, kept, generation)

    async def end(self, id: str) -> bool:
        """As `Sessions.end`."""
        return bool((await self._end(**self._to_end(id)))[0])

    async def revoke_all(self, user: str, keep: str = "") -> int:
        """As `Sessions.revoke_all`."""
        return int(await self._revoke_all(**self._to_revoke(user, keep)))

    async def all_of(self, user: str) -> dict[str, float]:
        """As `Sessions.all_of`."""
        return _parse_births(await self._list(**self._to_list(user)))

    async def generation(self, user: str) -> str:
        """As `Sessions.generation`."""
        return _to_text((await self._list(**self._to_list(user)))[0])


USER = r"[\w@+:.-]{1,64}"  # what may stand in a cookie and in a hash tag
ID = re.compile(rf"({USER})\.[\w-]{{22}}", flags=re.ASCII)


def _check_user(user: str) -> str:
    if not re.fullmatch(USER, user, flags=re.ASCII):
        raise ValueError("A user's id is 1 to 64 letters, digits or any of _ @ + : . -")
    return user


def _make_id(user: str) -> str:
    return f"{user and _check_user(user)}.{secrets.token_urlsafe(16)}"


def _check_begun(id: str, started: int) -> str:
    if not started:
        raise Revoked("The user's sessions were revoked while this one was about to begin.")
    return id


def _hash_id(id: str) -> str:
    return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:32]


def _pack_fields(data: Mapping[str, Any]) -> list[str]:
    """Name, JSON, name, JSON. Raises: ValueError for a name that is ours or what JSON refuses."""
    if any(not isinstance(name, str) or name[:1] in ("", "_") for name in data):
        raise ValueError("Names of fields are strings, not empty and not beginning with _.")
    try:
        return [part for name, value in data.items() for part in (name, _to_json(value))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"A session holds only what JSON can: {error}.") from error


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _to_text(part: str | bytes) -> str:
    return part.decode() if isinstance(part, bytes) else part


def _parse_fields(flat: list[Any] | None) -> dict[str, str]:
    """The fields as they are stored, without ours."""
    pairs = zip(flat[::2], flat[1::2], strict=True) if flat else ()
    return {_to_text(name): _to_text(value) for name, value in pairs if _to_text(name)[0] != "_"}


def _make_session(id: str, flat: list[Any] | None) -> Session | None:
    if not flat:
        return None
    data = {name: json.loads(value) for name, value in _parse_fields(flat).items()}
    return Session(id, id.rpartition(".")[0], data)


def _pack_login(old_id: str, user: str, reply: list[Any]) -> list[str]:
    """What goes along with a login: what was nobody's, or the user's own."""
    if old_id.rpartition(".")[0] not in ("", user):
        return []
    return [part for pair in _parse_fields(reply[1]).items() for part in pair]


def _parse_births(reply: list[Any]) -> dict[str, float]:
    pairs = (_to_text(member).split() for member in reply[1])
    return {hash: int(at) / 1000 for hash, at in pairs}
