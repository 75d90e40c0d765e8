"""Sessions that end when they should. Built up in notebooks/patterns/09_sessions.ipynb."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from redis_lab.errors import LabError

from .both import then

NOW = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
"""

# KEYS: the session, and of a user the index. ARGV: idle ms, absolute ms, hash of the id, fields…
START = f"""{NOW}
local ends = now + ARGV[2]
redis.call('HSET', KEYS[1], '_born', now, '_ends', ends, unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[1], math.min(now + ARGV[1], ends))
if KEYS[2] then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZADD', KEYS[2], ends, ARGV[3])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
    redis.call('PEXPIREAT', KEYS[2], ends)
  end
end
"""

# KEYS[1]: the session. ARGV: idle ms, fields to write…
TOUCH = f"""{NOW}
local ends = redis.call('HGET', KEYS[1], '_ends')
if not ends then return false end
if ARGV[2] then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
redis.call('PEXPIREAT', KEYS[1], math.min(now + ARGV[1], tonumber(ends)))
return ARGV[2] and 1 or redis.call('HGETALL', KEYS[1])
"""

# KEYS: the session, and of a user the index. ARGV[1]: hash of the id
END = """
if KEYS[2] then redis.call('ZREM', KEYS[2], ARGV[1]) end
return redis.call('DEL', KEYS[1])
"""

# KEYS[1]: the index. ARGV: the stem of the sessions' keys, a hash to keep
REVOKE_ALL = """
local ended = 0
for _, hash in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if hash ~= ARGV[2] then
    redis.call('ZREM', KEYS[1], hash)
    ended = ended + redis.call('DEL', ARGV[1] .. hash)
  end
end
return ended
"""

# KEYS[1]: the index. ARGV[1]: the stem of the sessions' keys
LIST = """
local found = {}
for _, hash in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local born = redis.call('HGET', ARGV[1] .. hash, '_born')
  if born then
    found[#found + 1] = hash
    found[#found + 1] = born
  else
    redis.call('ZREM', KEYS[1], hash)
  end
end
return found
"""


@dataclass(frozen=True)
class Session:
    """What belongs to an id. `user` is empty before login."""

    id: str
    user: str
    data: dict[str, Any]


class Sessions:
    """Sessions with two clocks, a new id at every login, and an end that is one.

    Contract: a session ends `idle_s` after its last `load` or `save`, and `absolute_s` after it
    began whatever is done with it, both by the server's clock. Nothing revives one that has ended:
    `save` writes only where there is a session. `login` gives a new id and ends the old; a crash
    between the two leaves the old one as it was, not logged in. Two requests that save different
    fields keep both; of the same field the last one stays. `revoke_all` is one step: it ends every
    session of the user that had begun. All this as long as Redis neither evicts nor loses keys.
    Keys: `<prefix>:{<user>}:<hash>`, a hash of JSON fields, and the index `<prefix>:{<user>}`, a
    sorted set of hashes by the time they end; TTLs as above. The id is `<user>.<128 random bits>`
    and only a SHA-256 of it is stored. A user's keys share a slot: `revoke_all` and `all_of` make
    key names in the script, which a cluster allows within one slot. Before login, `{}` is no hash
    tag, so anonymous sessions spread over the cluster; a login crosses slots, hence two steps.
    Cost: one round trip a call, a `login` two. Needs Redis 7.0.
    Prevents: the id that survives login, the session that is written back to life without a TTL,
    the stolen one that is kept alive for ever, and (only JSON) data that runs as code.

    >>> sessions = Sessions(r, "session", idle_s=1800, absolute_s=86400)
    >>> before = sessions.load(sessions.start(data={"cart": ["lamp"]}))
    >>> after = sessions.load(sessions.login(before, "ada"))
    >>> after.user, after.data, sessions.load(before.id), sessions.revoke_all("ada")
    ('ada', {'cart': ['lamp']}, None, 1)
    """

    def __init__(
        self, client: redis.Redis, prefix: str, *, idle_s: float, absolute_s: float
    ) -> None:
        if not prefix or "{" in prefix or not 0.001 <= idle_s <= absolute_s:
            raise LabError("Sessions needs a prefix without {, and 1 ms <= idle_s <= absolute_s.")
        self.prefix = prefix
        self.idle_ms, self.absolute_ms = int(idle_s * 1000), int(absolute_s * 1000)
        self._start, self._touch, self._end, self._revoke_all, self._list = map(
            client.register_script, (START, TOUCH, END, REVOKE_ALL, LIST)
        )

    def start(self, user: str = "", data: Mapping[str, Any] | None = None) -> str:
        """A new session; its id is for the cookie. No caller ever chooses an id."""
        id = f"{user and checked(user)}.{secrets.token_urlsafe(16)}"
        args = [self.idle_ms, self.absolute_ms, hashed(id), *fields(data or {})]
        return then(self._start(keys=self.keys(id), args=args), lambda _: id)

    def load(self, id: str) -> Session | None:
        """What belongs to the id, and its idle clock starts anew; None where there is nothing."""
        reply = self._touch(keys=self.keys(id)[:1], args=[self.idle_ms])
        return then(reply, lambda flat: session(id, flat) if flat else None)

    def save(self, id: str, data: Mapping[str, Any]) -> bool:
        """Write these fields, leave the others. False: the session is over, nothing written."""
        args = [self.idle_ms, *fields(data)]
        if not data:
            raise LabError("save() needs at least one field.")
        return then(self._touch(keys=self.keys(id)[:1], args=args), bool)

    def login(self, old: Session | None, user: str) -> str:
        """A new id for the user, with the data from before login; the old id ends.

        Call it after the password was checked, at a login and at any other rise in rights. What
        belonged to another user is not handed on.
        """
        mine = old.data if old and old.user in ("", user) else {}
        new = self.start(checked(user), mine)
        if old is None:
            return new
        if not inspect.isawaitable(new):
            self.end(old.id)
            return new

        async def later() -> str:
            id = await new
            await self.end(old.id)
            return id

        return later()

    def end(self, id: str) -> bool:
        """Log out. False: there was no such session any more."""
        return then(self._end(keys=self.keys(id), args=[hashed(id)]), bool)

    def revoke_all(self, user: str, keep: str = "") -> int:
        """End every session of the user, but for one id to keep; how many that were."""
        index = f"{self.prefix}:{{{checked(user)}}}"
        return self._revoke_all(keys=[index], args=[f"{index}:", hashed(keep)])

    def all_of(self, user: str) -> dict[str, float]:
        """The user's sessions: hash of the id, which logs nobody in, and when it began."""
        index = f"{self.prefix}:{{{checked(user)}}}"
        return then(self._list(keys=[index], args=[f"{index}:"]), born)

    def keys(self, id: str) -> list[str]:
        """The session's key, and its user's index. What is no id of ours gets an empty key."""
        user = match[1] if (match := ID.fullmatch(id)) else ""
        index = f"{self.prefix}:{{{user}}}"
        return [f"{index}:{hashed(id)}", *([index] if user else [])]


USER = r"[\w@+:.-]{1,64}"  # what may stand in a cookie and in a hash tag
ID = re.compile(rf"({USER})\.[\w-]{{22}}", flags=re.ASCII)


def checked(user: str) -> str:
    if not re.fullmatch(USER, user, flags=re.ASCII):
        raise LabError("A user's id is 1 to 64 letters, digits or any of _ @ + : . -")
    return user


def hashed(id: str) -> str:
    return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:32]


def fields(data: Mapping[str, Any]) -> list[str]:
    """Name, JSON, name, JSON. Raises: LabError for a name that is ours or a value JSON refuses."""
    if any(not isinstance(name, str) or name[:1] in ("", "_") for name in data):
        raise LabError("Names of fields are strings, not empty and not beginning with _.")
    try:
        return [part for name, value in data.items() for part in (name, as_json(value))]
    except (TypeError, ValueError) as error:
        raise LabError(f"A session holds only what JSON can: {error}.") from error


def as_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def text(part: str | bytes) -> str:
    return part.decode() if isinstance(part, bytes) else part


def session(id: str, flat: list) -> Session:
    found = {text(flat[k]): text(flat[k + 1]) for k in range(0, len(flat), 2)}
    data = {name: json.loads(value) for name, value in found.items() if name[0] != "_"}
    return Session(id, id.rpartition(".")[0], data)


def born(flat: list) -> dict[str, float]:
    return {text(flat[k]): int(flat[k + 1]) / 1000 for k in range(0, len(flat), 2)}
