"""Who leads today, this week, of all time? Built up in the lesson `leaderboard`.

Copy this file as it is: it needs redis-py and nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Generic, TypeVar
from zlib import crc32

import redis
import redis.asyncio

__all__ = [
    "AsyncLeaderboard",
    "AsyncShardedLeaderboard",
    "BaseLeaderboard",
    "Leaderboard",
    "OutOfRange",
    "ShardedLeaderboard",
    "Standing",
]

# A score is points * 2**bits + seconds left, a whole number below 2**53.
POINTS = 2**24  # fewer than this for each member, on every board
ALL_BITS = 29  # 24 + 29 = 53. Seconds left of 2**29 since EPOCH: 17 years
DAY_BITS, DAY_S = 22, 2**17 - 1  # the seconds of a day need 17 bits, and 5 are to spare:
MOST_DAYS = 32  # so many days may be added up
EPOCH = 1_735_689_600  # the first second of 2025

# What a script says instead of points
BEYOND, TOO_MANY, TOO_FEW, OTHER_DAY, GONE = -1, -2, -3, -4, -5

# KEYS: the boards of all time and of the day, and what was added lately. ARGV: member, points, at
# (or '' for now), the day of KEYS[2], days to keep, seconds idle, token, seconds to remember it,
# and 'add' or 'set'. Returns the points of all time, and the server's clock.
CHANGE = f"""
local clock = tonumber(redis.call('TIME')[1])
local at = tonumber(ARGV[3]) or clock
local day = math.floor(at / 86400)
if at < {EPOCH} or at >= {EPOCH + 2**ALL_BITS} then return {{{BEYOND}, clock}} end
if day ~= tonumber(ARGV[4]) then return {{{OTHER_DAY}, clock}} end
local goes = (day + 1 + ARGV[5]) * 86400
local kept = clock < goes

local function found(key, unit)
  local score = redis.call('ZSCORE', key, ARGV[1])
  if not score then return 0, unit end
  return math.floor(score / unit), score % unit
end
local total, all_left = found(KEYS[1], {2**ALL_BITS})
if tonumber(redis.call('ZSCORE', KEYS[3], ARGV[7]) or 0) > clock then
  return {{total, clock}}  -- this call was sent again
end
local today, day_left = 0, 0
if kept then today, day_left = found(KEYS[2], {2**DAY_BITS}) end

local change = tonumber(ARGV[2])
if ARGV[9] == 'set' then change = change - today end
if ARGV[9] == 'set' and not kept then return {{{GONE}, clock}} end
total = total + change
today = kept and today + change or 0
if math.max(total, today) >= {POINTS} then return {{{TOO_MANY}, clock}} end
if math.min(total, today) < 0 then return {{{TOO_FEW}, clock}} end

local function put(key, points, unit, left)
  if points == 0 then redis.call('ZREM', key, ARGV[1])
  else redis.call('ZADD', key, points * unit + left, ARGV[1]) end
end
put(KEYS[1], total, {2**ALL_BITS}, math.min(all_left, {EPOCH + 2**ALL_BITS - 1} - at))
redis.call('EXPIRE', KEYS[1], ARGV[6])
if kept then
  put(KEYS[2], today, {2**DAY_BITS}, math.min(day_left, {DAY_S} - at % 86400))
  redis.call('EXPIREAT', KEYS[2], goes)
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', clock)
redis.call('ZADD', KEYS[3], clock + ARGV[8], ARGV[7])
redis.call('EXPIRE', KEYS[3], ARGV[8])
return {{total, clock}}
"""

# KEYS: boards. ARGV[1]: member
REMOVE = """
local boards = 0
for _, key in ipairs(KEYS) do boards = boards + redis.call('ZREM', key, ARGV[1]) end
return boards
"""

# KEYS: the board, the days it is the sum of (if any). ARGV: member (or ''), first, last, stale
READ = """
if #KEYS > 1 and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZUNIONSTORE', KEYS[1], #KEYS - 1, unpack(KEYS, 2))
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
local place = 0
if ARGV[1] ~= '' then place = redis.call('ZREVRANK', KEYS[1], ARGV[1]) end
if not place then return {} end
local first = math.max(0, place + ARGV[2])
local rows = redis.call('ZRANGE', KEYS[1], first, place + ARGV[3], 'REV', 'WITHSCORES')
return {first, rows}
"""


@dataclass(frozen=True)
class Standing:
    """One line of a board; the best has place 1."""

    place: int
    member: str
    points: int


class OutOfRange(ValueError):
    """The points or the time do not fit on the boards. Nothing was changed."""


SyncClient = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
Client = TypeVar("Client")
HINT = "{0} waits for each reply; for an asyncio client there is Async{0}."
ASYNC_HINT = "{0} needs a client of redis.asyncio."


class BaseLeaderboard(Generic[Client]):
    """What `Leaderboard` and `AsyncLeaderboard` have in common: settings, keys and scripts."""

    WRONG: ClassVar[Any]  # kind of client, refused with HINT
    HINT: ClassVar[str]

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        keep_days: int,
        stale_s: int = 60,
        idle_days: int = 400,
        remember_s: int = 60,
    ) -> None:
        if isinstance(client, self.WRONG):
            raise TypeError(self.HINT.format(type(self).__name__))
        times = (keep_days, stale_s, idle_days, remember_s)
        whole = all(isinstance(span, int) and 0 < span < 10**6 for span in times)
        if not prefix or set("{}") & set(prefix) or not whole:
            raise ValueError(
                f"{type(self).__name__} needs a prefix without {{ or }}, and whole times from 1 up."
            )
        self.stem, self.keep_days, self.remember_s = f"{{{prefix}}}:", keep_days, remember_s
        self.stale_s, self.idle_s = stale_s, idle_days * 86_400
        self.ahead_s = 0.0  # the server's clock, compared with ours
        register: Any = getattr(client, "register_script")  # noqa: B009
        self._change, self._read, self._remove = map(register, (CHANGE, READ, REMOVE))

    def keys(self, day: date | None = None, days: int = 1) -> list[str]:
        """The board's key; of several days also the keys of the days."""
        if day is None and days == 1:
            return [f"{self.stem}all"]
        if day is None or not 1 <= days <= min(MOST_DAYS, self.keep_days):
            raise ValueError(f"Days need the last of them; at most {MOST_DAYS}, and keep_days.")
        last = day.toordinal() - date(1970, 1, 1).toordinal()
        each = [f"{self.stem}{last - k}" for k in range(days)]
        return each if days == 1 else [f"{self.stem}{last}+{days}", *each]

    def _now_s(self, server_s: int | None = None) -> int:
        """The server's time: our estimate, or what it has just reported."""
        if server_s is not None:
            self.ahead_s = server_s - time.time()
        return int(time.time() + self.ahead_s)

    def _to_change(
        self, how: str, member: str, points: int, at: float | None, event: str
    ) -> dict[str, Any]:
        least = 0 if how == "set" else 1
        if not isinstance(points, int) or not least <= points < POINTS or not member:
            raise ValueError(
                f"A member, and whole points from {least} to {POINTS - 1}; not {points!r}."
            )
        if at is not None and not abs(at) < 2**53:
            raise OutOfRange("The time is beyond the range: from 2025 to the start of 2042.")
        day = (self._now_s() if at is None else int(at)) // 86_400
        when = "" if at is None else int(at)
        change = -points if how == "subtract" else points
        return {
            "keys": [f"{self.stem}all", f"{self.stem}{day}", f"{self.stem}recent"],
            "args": [
                *(member, change, when, day, self.keep_days, self.idle_s),
                *(event or secrets.token_hex(8), self.remember_s),
                *("set" if how == "set" else "add",),
            ],
        }

    def _to_remove(self, member: str) -> dict[str, Any]:
        if not member:
            raise ValueError("remove() needs a member.")
        tomorrow = self._now_s() // 86_400 + 1
        first = max(tomorrow - self.keep_days - 2, EPOCH // 86_400)
        days = [f"{self.stem}{day}" for day in range(first, tomorrow + 1)]
        return {"keys": [f"{self.stem}all", *days], "args": [member]}

    def _to_read(
        self, member: str, first: int, last: int, day: date | None, days: int
    ) -> dict[str, Any]:
        return {"keys": self.keys(day, days), "args": [member, first, last, self.stale_s]}


class Leaderboard(BaseLeaderboard[SyncClient]):
    """Points by the day and of all time; among equals the first to get there stands above.

    Contract: an `add` counts on both boards or, after a crash, on neither; none is lost among many
    callers. A board depends on which adds there were, not on their order: it sums the points, and
    they were reached at the latest `at`. Members equal in points and second are ordered by name,
    descending. `subtract` and `set` correct a day, and all time by the same difference. `days=7`
    is the exact sum of seven boards, at most `stale_s` old; equals there go by the seconds that
    were left of their days, added up.
    Sent again: a call that the client sends again after a lost reply, or that the network delivers
    twice, counts once within `remember_s`; later than that it counts again. One that its CALLER
    repeats counts TWICE, unless both name the same `event` within that time.
    NOT KEPT: what the server forgets (a restart without persistence, a failover to a replica that
    is behind, an eviction). Keep the events elsewhere, and make the boards from them again.
    Range: whole points, fewer than 2**24 a member and board; `at` in Unix seconds from 2025 to the
    start of 2042, by default the server's clock. Beyond it nothing is changed.
    Keys, all with a TTL, in one slot and declared: `{<prefix>}:all` goes `idle_days` after the last
    add; `{<prefix>}:<day>` (days since 1970, UTC) `keep_days` after its day, however late an add
    comes; `{<prefix>}:<day>+<days>` after `stale_s`; `{<prefix>}:recent` after `remember_s`. While
    a cluster moves the slot, a call may raise redis.exceptions.TryAgainError: try again.
    Cost: one round trip a call; one more when it is another day on the server than we thought.
    Tested from Redis 7.0. ACL: `~{<prefix>}:*`, `+@read +@write +@scripting +@connection +time`.
    Prevents: points lost between reading and writing, boards that disagree after a crash, day
    boards that stay for ever, ties that a fraction cannot hold, sums that carry into the points.

    >>> board = Leaderboard(r, "game", keep_days=8)
    >>> board.add("ada", 5), board.add("bob", 3), board.add("bob", 4)
    (5, 3, 7)
    >>> board.top(10)[0], board.rank("ada"), board.rank("eve")
    (Standing(place=1, member='bob', points=7), 2, None)
    """

    WRONG, HINT = AsyncClient, HINT

    def add(self, member: str, points: int, at: float | None = None, *, event: str = "") -> int:
        """Add points to the day of `at` and to all time; return the member's points of all time.

        Raises: OutOfRange, a ValueError; nothing is added then.
        """
        return self._apply("add", member, points, at, event)

    def subtract(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """Take points away again, from the day of `at` and from all time; with 0 left it goes.

        Raises: OutOfRange if there are not so many on either board.
        """
        return self._apply("subtract", member, points, at, event)

    def set(self, member: str, points: int, at: float | None = None) -> int:
        """Let the member have so many points on the day of `at`; all time changes with it.

        Raises: OutOfRange, also for a day that is kept no longer.
        """
        return self._apply("set", member, points, at, "")

    def _apply(self, how: str, member: str, points: int, at: float | None, event: str) -> int:
        event = event or secrets.token_hex(8)
        while True:
            total, server_s = self._change(**self._to_change(how, member, points, at, event))
            if total != OTHER_DAY:
                return _check_total(total)
            self._now_s(server_s)

    def remove(self, member: str) -> int:
        """Take a member off all time and every day that is kept; return off how many boards.

        Sums of several days show it for up to `stale_s` more, and a later add brings it back.
        """
        return int(self._remove(**self._to_remove(member)))

    def top(self, n: int, day: date | None = None, days: int = 1) -> list[Standing]:
        """The n best: of all time, of a day, or of several days up to and with it."""
        return self.page(1, n, day, days)

    def page(
        self, number: int, size: int, day: date | None = None, days: int = 1
    ) -> list[Standing]:
        """A page of the board; the first is number 1."""
        return self._rows("", *_find_range(number, size), day, days)

    def around(self, member: str, k: int, day: date | None = None, days: int = 1) -> list[Standing]:
        """The member with up to k neighbours on each side; [] for one who is not on the board."""
        return self._rows(*_check_neighbours(member, k), day, days)

    def rank(self, member: str, day: date | None = None, days: int = 1) -> int | None:
        """The member's place, or None."""
        own = self.around(member, 0, day, days)
        return own[0].place if own else None

    def _rows(
        self, member: str, first: int, last: int, day: date | None, days: int
    ) -> list[Standing]:
        """Lines counted from the member, or for '' from the first of all."""
        return _parse_standings(self._read(**self._to_read(member, first, last, day, days)), day)


class AsyncLeaderboard(BaseLeaderboard[AsyncClient]):
    """`Leaderboard` for asyncio."""

    WRONG, HINT = SyncClient, ASYNC_HINT

    async def add(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """As `Leaderboard.add`."""
        return await self._apply("add", member, points, at, event)

    async def subtract(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """As `Leaderboard.subtract`."""
        return await self._apply("subtract", member, points, at, event)

    async def set(self, member: str, points: int, at: float | None = None) -> int:
        """As `Leaderboard.set`."""
        return await self._apply("set", member, points, at, "")

    async def _apply(self, how: str, member: str, points: int, at: float | None, event: str) -> int:
        event = event or secrets.token_hex(8)
        while True:
            total, server_s = await self._change(**self._to_change(how, member, points, at, event))
            if total != OTHER_DAY:
                return _check_total(total)
            self._now_s(server_s)

    async def remove(self, member: str) -> int:
        """As `Leaderboard.remove`."""
        return int(await self._remove(**self._to_remove(member)))

    async def top(self, n: int, day: date | None = None, days: int = 1) -> list[Standing]:
        """As `Leaderboard.top`."""
        return await self.page(1, n, day, days)

    async def page(
        self, number: int, size: int, day: date | None = None, days: int = 1
    ) -> list[Standing]:
        """As `Leaderboard.page`."""
        return await self._rows("", *_find_range(number, size), day, days)

    async def around(
        self, member: str, k: int, day: date | None = None, days: int = 1
    ) -> list[Standing]:
        """As `Leaderboard.around`."""
        return await self._rows(*_check_neighbours(member, k), day, days)

    async def rank(self, member: str, day: date | None = None, days: int = 1) -> int | None:
        """As `Leaderboard.rank`."""
        own = await self.around(member, 0, day, days)
        return own[0].place if own else None

    async def _rows(
        self, member: str, first: int, last: int, day: date | None, days: int
    ) -> list[Standing]:
        reply = await self._read(**self._to_read(member, first, last, day, days))
        return _parse_standings(reply, day)


def _find_range(number: int, size: int) -> tuple[int, int]:
    if number < 1 or size < 1:
        raise ValueError("Pages are counted from 1, and have at least one line.")
    return (number - 1) * size, number * size - 1


def _check_neighbours(member: str, k: int) -> tuple[str, int, int]:
    if k < 0 or not member:
        raise ValueError("around() needs a member, and 0 or more neighbours.")
    return member, -k, k


REFUSALS = {
    BEYOND: "The time is beyond the range: from 2025 to the start of 2042.",
    TOO_MANY: f"A member has fewer than {POINTS} points on each board; not added.",
    TOO_FEW: "The member has not so many points, on the day or of all time; not subtracted.",
    GONE: "That day is kept no longer; not set.",
}


def _check_total(total: int) -> int:
    if total < 0:
        raise OutOfRange(REFUSALS[total])
    return total


def _parse_standings(reply: list[Any], day: date | None) -> list[Standing]:
    if not reply:
        return []
    first, flat = reply
    pairs = zip(flat[::2], flat[1::2], strict=True)
    bits = _count_bits(day)
    return [
        Standing(first + k, _to_text(m), int(float(s)) >> bits) for k, (m, s) in enumerate(pairs, 1)
    ]


def _count_bits(day: date | None) -> int:
    return DAY_BITS if day else ALL_BITS


def _to_text(member: str | bytes) -> str:
    return member.decode() if isinstance(member, bytes) else member


class ShardedLeaderboard:
    """One leaderboard in `shards` parts, on as many nodes of a cluster as hold them.

    Contract: a member's adds all go to one shard, chosen by a checksum of its name, and hold there
    as Leaderboard says. `top` is exact: if ten members of a shard are ahead of you, ten members
    overall are, so the best n of all are among the best n of each. `rank` is 1 + everyone above,
    counted shard by shard; members equal to the second share it. The shards answer one after
    another, so while points come in, `top` and `rank` are of no single moment. Do not change
    `shards` of a board that has members.
    Keys: those of a Leaderboard `<prefix>:<shard>`; each shard in a slot of its own.
    Cost: one round trip a call; `top` one pipeline, `rank` a read and a pipeline (a cluster client
    sends a pipeline to each node that it concerns). Tested from Redis 7.0.
    Prevents: the one big key that one node must hold and serve.

    >>> board = ShardedLeaderboard(r, "big", shards=4, keep_days=8)
    >>> [board.add(name, points) for name, points in (("ada", 5), ("bob", 7), ("eve", 6))]
    [5, 7, 6]
    >>> [line.member for line in board.top(2)], board.rank("eve")
    (['bob', 'eve'], 2)
    """

    def __init__(
        self,
        client: SyncClient,
        prefix: str,
        *,
        shards: int,
        keep_days: int,
        idle_days: int = 400,
        remember_s: int = 60,
    ) -> None:
        self.client = client
        options = {"keep_days": keep_days, "idle_days": idle_days, "remember_s": remember_s}
        self.shards = [
            Leaderboard(client, name, **options) for name in _name_shards(prefix, shards)
        ]

    def of(self, member: str) -> Leaderboard:
        """The shard that a member belongs to."""
        return self.shards[crc32(member.encode()) % len(self.shards)]

    def add(self, member: str, points: int, at: float | None = None, *, event: str = "") -> int:
        """As Leaderboard.add, on the member's shard."""
        return self.of(member).add(member, points, at, event=event)

    def subtract(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """As Leaderboard.subtract, on the member's shard."""
        return self.of(member).subtract(member, points, at, event=event)

    def set(self, member: str, points: int, at: float | None = None) -> int:
        """As Leaderboard.set, on the member's shard."""
        return self.of(member).set(member, points, at)

    def remove(self, member: str) -> int:
        """As Leaderboard.remove, on the member's shard."""
        return self.of(member).remove(member)

    def top(self, n: int, day: date | None = None) -> list[Standing]:
        """The n best of all shards: of all time, or of a day."""
        pipe = self.client.pipeline(transaction=False)
        _ask_tops(pipe, self.shards, n, day)
        return _merge_tops(pipe.execute(), n, day)

    def rank(self, member: str, day: date | None = None) -> int | None:
        """The member's place among all shards, or None."""
        score = self.client.zscore(self.of(member).keys(day)[0], member)
        if score is None:
            return None
        pipe = self.client.pipeline(transaction=False)
        _ask_above(pipe, self.shards, score, day)
        return 1 + int(sum(pipe.execute()))


class AsyncShardedLeaderboard:
    """`ShardedLeaderboard` for asyncio."""

    def __init__(
        self,
        client: AsyncClient,
        prefix: str,
        *,
        shards: int,
        keep_days: int,
        idle_days: int = 400,
        remember_s: int = 60,
    ) -> None:
        self.client = client
        options = {"keep_days": keep_days, "idle_days": idle_days, "remember_s": remember_s}
        self.shards = [
            AsyncLeaderboard(client, name, **options) for name in _name_shards(prefix, shards)
        ]

    def of(self, member: str) -> AsyncLeaderboard:
        """As `ShardedLeaderboard.of`."""
        return self.shards[crc32(member.encode()) % len(self.shards)]

    async def add(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """As `ShardedLeaderboard.add`."""
        return await self.of(member).add(member, points, at, event=event)

    async def subtract(
        self, member: str, points: int, at: float | None = None, *, event: str = ""
    ) -> int:
        """As `ShardedLeaderboard.subtract`."""
        return await self.of(member).subtract(member, points, at, event=event)

    async def set(self, member: str, points: int, at: float | None = None) -> int:
        """As `ShardedLeaderboard.set`."""
        return await self.of(member).set(member, points, at)

    async def remove(self, member: str) -> int:
        """As `ShardedLeaderboard.remove`."""
        return await self.of(member).remove(member)

    async def top(self, n: int, day: date | None = None) -> list[Standing]:
        """As `ShardedLeaderboard.top`."""
        pipe = self.client.pipeline(transaction=False)
        _ask_tops(pipe, self.shards, n, day)
        return _merge_tops(await pipe.execute(), n, day)

    async def rank(self, member: str, day: date | None = None) -> int | None:
        """As `ShardedLeaderboard.rank`."""
        score = await self.client.zscore(self.of(member).keys(day)[0], member)
        if score is None:
            return None
        pipe = self.client.pipeline(transaction=False)
        _ask_above(pipe, self.shards, score, day)
        return 1 + int(sum(await pipe.execute()))


def _name_shards(prefix: str, shards: int) -> list[str]:
    if not prefix or not isinstance(shards, int) or shards < 1:
        raise ValueError("A sharded leaderboard has a prefix and at least one shard.")
    return [f"{prefix}:{k}" for k in range(shards)]


def _ask_tops(pipe: Any, shards: Iterable[BaseLeaderboard[Any]], n: int, day: date | None) -> None:
    if n < 1:
        raise ValueError("top() needs at least one line.")
    for shard in shards:
        pipe.zrange(shard.keys(day)[0], 0, n - 1, desc=True, withscores=True)


def _merge_tops(tops: list[Any], n: int, day: date | None) -> list[Standing]:
    lines = [(int(score), _to_text(m).encode()) for top in tops for m, score in top]
    best = enumerate(sorted(lines, reverse=True)[:n], 1)
    return [Standing(place, m.decode(), score >> _count_bits(day)) for place, (score, m) in best]


def _ask_above(
    pipe: Any, shards: Iterable[BaseLeaderboard[Any]], score: float, day: date | None
) -> None:
    for shard in shards:
        pipe.zcount(shard.keys(day)[0], f"({score:.0f}", "+inf")
