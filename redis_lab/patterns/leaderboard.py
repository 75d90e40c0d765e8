"""Who leads today, this week, of all time? Built up in notebooks/patterns/08_leaderboard.ipynb."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import date
from zlib import crc32

import redis

from redis_lab.errors import LabError

from .both import then

# A score is points * 2**bits + seconds left, a whole number below 2**53.
POINTS = 2**24  # fewer than this for each member, on every board
ALL_BITS = 29  # 24 + 29 = 53. Seconds left of 2**29 since EPOCH: 17 years
DAY_BITS, DAY_S = 22, 2**17 - 1  # the seconds of a day need 17 bits, and 5 are to spare:
MOST_DAYS = 32  # so many days may be added up
EPOCH = 1_735_689_600  # the first second of 2025

# KEYS[1]: the board of all time. ARGV: member, points, at (or ''), days to keep, seconds idle
ADD = f"""
local at = tonumber(ARGV[3]) or tonumber(redis.call('TIME')[1])
local day = math.floor(at / 86400)
if at < {EPOCH} or at >= {EPOCH + 2**ALL_BITS} then return -1 end

local function raised(key, unit, left)
  local points, score = tonumber(ARGV[2]), redis.call('ZSCORE', key, ARGV[1])
  if score then
    points = points + math.floor(score / unit)
    left = math.min(left, score % unit)
  end
  return points, points * unit + left
end

local day_key = string.sub(KEYS[1], 1, -4) .. day  -- from …:all to …:20450
local total, all = raised(KEYS[1], {2**ALL_BITS}, {EPOCH + 2**ALL_BITS - 1} - at)
local today, of_day = raised(day_key, {2**DAY_BITS}, {DAY_S} - at % 86400)
if math.max(total, today) >= {POINTS} then return -2 end
redis.call('ZADD', KEYS[1], all, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', day_key, of_day, ARGV[1])
redis.call('EXPIREAT', day_key, (day + 1 + ARGV[4]) * 86400)  -- at once, for a day long gone
return total
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


class Leaderboard:
    """Points by the day and of all time; among equals the first to get there stands above.

    Contract: an `add` counts on both boards or, after a crash, on neither; none is lost among many
    callers; adding twice counts twice. A board depends on which adds there were, not on their
    order: it sums the points, and they were reached at the latest `at`. Equals to the second go by
    their bytes, backwards. `days=7` is the exact sum of seven boards, at most `stale_s` old;
    equals there go by the seconds that were left of their days, added up.
    Range: whole points, fewer than 2**24 a member and board; `at` in Unix seconds from 2025 to the
    start of 2042, by default the server's clock. Beyond it `add` refuses, and adds nothing.
    Keys, all with a TTL and in one slot: `{<prefix>}:all` goes `idle_days` after the last add;
    `{<prefix>}:<day>` (days since 1970, UTC) `keep_days` after its day, however late an add comes;
    `{<prefix>}:<day>+<days>` after `stale_s`. The script makes the name of the day's key.
    Cost: one round trip a call. Needs Redis 7.0.
    Prevents: points lost between reading and writing, boards that disagree after a crash, day
    boards that stay for ever, ties that a fraction cannot hold, sums that carry into the points.

    >>> board = Leaderboard(r, "game", keep_days=8)
    >>> board.add("ada", 5), board.add("bob", 3), board.add("bob", 4)
    (5, 3, 7)
    >>> board.top(10)[0], board.rank("ada"), board.rank("eve")
    (Standing(place=1, member='bob', points=7), 2, None)
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        keep_days: int,
        stale_s: int = 60,
        idle_days: int = 400,
    ) -> None:
        times = (keep_days, stale_s, idle_days)
        whole = all(isinstance(time, int) and 0 < time < 10**6 for time in times)
        if not prefix or set("{}") & set(prefix) or not whole:
            raise LabError("Leaderboard needs a prefix without { or }, and whole times from 1 up.")
        self.stem, self.keep_days = f"{{{prefix}}}:", keep_days
        self.stale_s, self.idle_s = stale_s, idle_days * 86_400
        self._add, self._read = client.register_script(ADD), client.register_script(READ)

    def add(self, member: str, points: int, at: float | None = None) -> int:
        """Add points to the day of `at` and to all time; return the member's points of all time.

        Raises: LabError beyond the range; nothing is added then.
        """
        if not isinstance(points, int) or not 0 < points < POINTS or not member:
            raise LabError(f"A member, and whole points from 1 to {POINTS - 1}; not {points!r}.")
        when = "" if at is None else int(at)
        args = [member, points, when, self.keep_days, self.idle_s]
        return then(self._add(keys=self.keys(), args=args), in_range)

    def top(self, n: int, day: date | None = None, days: int = 1) -> list[Standing]:
        """The n best: of all time, of a day, or of several days up to and with it."""
        return self.page(1, n, day, days)

    def page(self, number: int, size: int, day: date | None = None, days: int = 1) -> list:
        """A page of the board; the first is number 1."""
        if number < 1 or size < 1:
            raise LabError("Pages are counted from 1, and have at least one line.")
        return self.read("", (number - 1) * size, number * size - 1, day, days)

    def around(self, member: str, k: int, day: date | None = None, days: int = 1) -> list:
        """The member with up to k neighbours on each side; [] for one who is not on the board."""
        if k < 0 or not member:
            raise LabError("around() needs a member, and 0 or more neighbours.")
        return self.read(member, -k, k, day, days)

    def rank(self, member: str, day: date | None = None, days: int = 1) -> int | None:
        """The member's place, or None."""
        return then(self.around(member, 0, day, days), lambda own: own[0].place if own else None)

    def read(self, member: str, first: int, last: int, day: date | None, days: int) -> list:
        """Lines counted from the member, or for '' from the first of all."""
        reply = self._read(keys=self.keys(day, days), args=[member, first, last, self.stale_s])
        return then(reply, lambda found: standings(found, DAY_BITS if day else ALL_BITS))

    def keys(self, day: date | None = None, days: int = 1) -> list[str]:
        """The board's key; of several days also the keys of the days."""
        if day is None and days == 1:
            return [f"{self.stem}all"]
        if day is None or not 1 <= days <= min(MOST_DAYS, self.keep_days):
            raise LabError(f"Days need the last of them; at most {MOST_DAYS}, and keep_days.")
        last = day.toordinal() - date(1970, 1, 1).toordinal()
        each = [f"{self.stem}{last - k}" for k in range(days)]
        return each if days == 1 else [f"{self.stem}{last}+{days}", *each]


def in_range(total: int) -> int:
    if total == -1:
        raise LabError("The time is beyond the range: from 2025 to the start of 2042.")
    if total == -2:
        raise LabError(f"A member has fewer than {POINTS} points on each board; not added.")
    return total


def standings(reply: list, bits: int) -> list[Standing]:
    if not reply:
        return []
    first, flat = reply
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [
        Standing(first + k, text(m), int(float(s)) >> bits) for k, (m, s) in enumerate(pairs, 1)
    ]


def text(member: str | bytes) -> str:
    return member.decode() if isinstance(member, bytes) else member


class ShardedLeaderboard:
    """One leaderboard in `shards` parts, on as many nodes of a cluster as hold them.

    Contract: a member's adds all go to one shard, chosen by a checksum of its name, and hold there
    as Leaderboard says. `top` is exact: who is among the best n of all is among the best n of its
    shard. `rank` is 1 + everyone above, counted shard by shard; equals to the second share it. The
    shards answer one after another, so while points come in, `top` and `rank` are of no single
    moment. Do not change `shards` of a board that has members.
    Keys: those of a Leaderboard `<prefix>:<shard>`; each shard in a slot of its own.
    Cost: `add` one round trip; `top` one pipeline, `rank` a read and a pipeline (a cluster client
    sends a pipeline to each node that it concerns). Needs Redis 7.0.
    Prevents: the one big key that one node must hold and serve.

    >>> board = ShardedLeaderboard(r, "big", shards=4, keep_days=8)
    >>> [board.add(name, points) for name, points in (("ada", 5), ("bob", 7), ("eve", 6))]
    [5, 7, 6]
    >>> [line.member for line in board.top(2)], board.rank("eve")
    (['bob', 'eve'], 2)
    """

    def __init__(
        self, client: redis.Redis, prefix: str, *, shards: int, keep_days: int, idle_days: int = 400
    ) -> None:
        if shards < 1:
            raise LabError("A sharded leaderboard has at least one shard.")
        self.client = client
        options = {"keep_days": keep_days, "idle_days": idle_days}
        self.shards = [Leaderboard(client, f"{prefix}:{k}", **options) for k in range(shards)]

    def of(self, member: str) -> Leaderboard:
        """The shard that a member belongs to."""
        return self.shards[crc32(member.encode()) % len(self.shards)]

    def add(self, member: str, points: int, at: float | None = None) -> int:
        """As Leaderboard.add, on the member's shard."""
        return self.of(member).add(member, points, at)

    def top(self, n: int, day: date | None = None) -> list[Standing]:
        """The n best of all shards: of all time, or of a day."""
        if n < 1:
            raise LabError("top() needs at least one line.")
        bits = DAY_BITS if day else ALL_BITS

        def merged(tops: list) -> list[Standing]:
            lines = [(int(score), text(m).encode()) for top in tops for m, score in top]
            best = enumerate(sorted(lines, reverse=True)[:n], 1)
            return [Standing(place, m.decode(), score >> bits) for place, (score, m) in best]

        pipe = self.client.pipeline(transaction=False)
        for shard in self.shards:
            pipe.zrange(shard.keys(day)[0], 0, n - 1, desc=True, withscores=True)
        return then(pipe.execute(), merged)

    def rank(self, member: str, day: date | None = None) -> int | None:
        """The member's place among all shards, or None."""
        score = self.client.zscore(self.of(member).keys(day)[0], member)

        def place(score: float | None) -> int | None:
            if score is None:
                return None
            pipe = self.client.pipeline(transaction=False)
            for shard in self.shards:
                pipe.zcount(shard.keys(day)[0], f"({score:.0f}", "+inf")
            return then(pipe.execute(), lambda above: 1 + sum(above))

        if not inspect.isawaitable(score):
            return place(score)

        async def later() -> int | None:
            counted = place(await score)
            return counted and await counted

        return later()
