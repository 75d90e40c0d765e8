"""Leaderboards: boards that agree, ties by time, weeks and shards that add up, and a range."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
import redis
from adversary import LOST, Migration, alone, deliver, flaky, undeclared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import environment, without_ttl

from redis_lab.judging import NotYet
from redis_lab.lessons import leaderboard as exercises
from redis_lab.patterns import leaderboard as module
from redis_lab.patterns.leaderboard import (
    EPOCH,
    POINTS,
    AsyncLeaderboard,
    AsyncShardedLeaderboard,
    Leaderboard,
    OutOfRange,
    ShardedLeaderboard,
    Standing,
)
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

LONG = 10_000  # days to keep: the tests' events are old
DAY_S = 86_400
MONDAY = 1_766_361_600  # 22 December 2025, midnight UTC
TODAY = date(2025, 12, 22)
LAST_S = EPOCH + 2**module.ALL_BITS - 1


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture
def board(r):
    return Leaderboard(r, "b", keep_days=LONG)


def lines(standings: list[Standing]) -> list[tuple]:
    return [(line.place, line.member, line.points) for line in standings]


def names(standings: list[Standing]) -> str:
    return "".join(line.member for line in standings)


# ---------------------------------------------------------------- the rule


def test_the_first_to_reach_a_score_stands_above(board):
    for second, member in enumerate("adbc"):
        board.add(member, 7, at=MONDAY + second)
    assert names(board.top(9)) == names(board.top(9, TODAY)) == "adbc"
    board.add("a", 1, at=MONDAY + 9)
    board.add("d", 1, at=MONDAY + 8)
    assert lines(board.top(2)) == [(1, "d", 8), (2, "a", 8)]


def test_equals_to_the_second_go_by_their_bytes_backwards(r, board):
    sharded = ShardedLeaderboard(r, "s", shards=3, keep_days=LONG)
    for each in (board, sharded):
        for tenth, member in enumerate(("Z", "a", "ü", "b", "c", "d")):
            each.add(member, 7, at=MONDAY + tenth / 10)
        assert names(each.top(9)) == names(each.top(9, TODAY)) == "üdcbaZ"
    assert [sharded.rank(member) for member in "Zü"] == [1, 1]
    assert min(r.zcard(shard.keys()[0]) for shard in sharded.shards) > 0


@pytest.mark.parametrize("second", [0, 1, DAY_S - 2])
def test_one_second_is_enough_whatever_the_points(board, second):
    start = MONDAY + second
    for points, late, early in ((1, "z1", "a1"), (POINTS - 1, "z2", "a2")):
        board.add(late, points, at=start + 1)
        board.add(early, points, at=start)
    for day in (None, TODAY):
        shown = [(line.member, line.points) for line in board.top(9, day)]
        assert shown == [("a2", POINTS - 1), ("z2", POINTS - 1), ("a1", 1), ("z1", 1)]


def test_pages_and_neighbours(board):
    for points, member in enumerate("abcdefg", 1):
        board.add(member, points, at=MONDAY)
    assert names(board.top(3)) == "gfe"
    assert [names(board.page(number, 3)) for number in (1, 2, 3, 4)] == ["gfe", "dcb", "a", ""]
    assert lines(board.around("d", 1)) == [(3, "e", 5), (4, "d", 4), (5, "c", 3)]
    assert names(board.around("g", 2)) == "gfe" and names(board.around("a", 2)) == "cba"
    assert names(board.around("d", 100, TODAY)) == "gfedcba"
    assert board.rank("g") == 1 and board.rank("a", TODAY) == 7
    assert board.around("x", 2) == [] and board.rank("x") is None
    assert board.rank("a", TODAY + timedelta(1)) is None and board.top(3, date(1969, 7, 20)) == []


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "ü", "long name", "{x}"]),
        st.one_of(st.integers(1, 3), st.integers(1, POINTS - 1)),
        st.one_of(st.integers(MONDAY, MONDAY + 3), st.integers(MONDAY, MONDAY + 7 * DAY_S - 1)),
    ),
    max_size=25,
)
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def in_order(totals: Counter, reached: dict[str, int]) -> list[tuple]:
    """The rule once more, in Python: points, then the time, then the bytes."""
    up = sorted(totals, key=str.encode, reverse=True)
    up.sort(key=lambda member: (-totals[member], reached[member]))
    return [(place, member, totals[member]) for place, member in enumerate(up, 1)]


def test_against_a_model(lab):
    with lab.client() as client:

        @QUICK
        @given(events=EVENTS, k=st.integers(0, 3))
        def check(events, k):
            client.flushall()
            board = Leaderboard(client, "m", keep_days=LONG)
            sharded = ShardedLeaderboard(client, "s", shards=3, keep_days=LONG)
            totals, latest = Counter(), {}
            of_days = {day: (Counter(), {}) for day in range(7)}
            for member, points, at in events:
                day_totals, day_latest = of_days[(at - MONDAY) // DAY_S]
                if totals[member] + points >= POINTS:
                    for each in (board, sharded):
                        with pytest.raises(OutOfRange, match="fewer than 16777216"):
                            each.add(member, points, at)
                    totals += Counter()  # the look at a new member left a zero
                    continue
                for sums, times in ((totals, latest), (day_totals, day_latest)):
                    sums[member] += points
                    times[member] = max(at, times.get(member, 0))
                assert board.add(member, points, at) == totals[member]
                assert sharded.add(member, points, at) == totals[member]
            model = in_order(totals, latest)
            assert lines(board.top(99)) == lines(sharded.top(99)) == model
            assert lines(sharded.top(2)) == model[:2]
            for place, member, points in model:
                assert board.rank(member) == place
                assert lines(board.around(member, k)) == model[max(0, place - 1 - k) : place + k]
                mine = points, -latest[member]
                above = sum((p, -latest[other]) > mine for _, other, p in model)
                assert sharded.rank(member) == 1 + above
            for day, (sums, times) in of_days.items():
                date_of = TODAY + timedelta(day)
                assert lines(board.top(99, date_of)) == in_order(sums, times)
                assert lines(sharded.top(99, date_of)) == in_order(sums, times)
            week = {line.member: line.points for line in board.top(99, TODAY + timedelta(6), 7)}
            assert week == totals == sum((sums for sums, _ in of_days.values()), Counter())
            assert not without_ttl(client)

        check()


@given(st.permutations([("a", 5, 0), ("b", 9, 10), ("a", 4, 20), ("c", 9, 5), ("c", 1, 2 * DAY_S)]))
@QUICK
def test_the_order_of_arrival_does_not_matter(lab, events):
    with lab.client() as client:
        client.flushall()
        board = Leaderboard(client, "o", keep_days=LONG)
        for member, points, second in events:
            board.add(member, points, at=MONDAY + second)
        assert lines(board.top(9)) == [(1, "c", 10), (2, "b", 9), (3, "a", 9)]
        assert lines(board.top(9, TODAY)) == [(1, "c", 9), (2, "b", 9), (3, "a", 9)]


# ---------------------------------------------------------------- several days


def test_32_full_days_are_added_up_exactly(r, board):
    """The greatest sum there is: each day the most points, at the first second."""
    keys = board.keys(TODAY, 32)
    most = (POINTS - 1) * 2**module.DAY_BITS + module.DAY_S
    for key in keys[1:]:
        r.zadd(key, {"a": most, "b": most - 2**module.DAY_BITS, "c": most - DAY_S + 1})
        r.expire(key, 600)
    assert board.top(3, TODAY, 32) == [
        Standing(1, "a", 32 * (POINTS - 1)),
        Standing(2, "c", 32 * (POINTS - 1)),
        Standing(3, "b", 32 * (POINTS - 2)),
    ]
    assert board.rank("b", TODAY, 32) == 3
    assert 0 < r.ttl(keys[0]) <= 60 and r.zscore(keys[0], "a") < 2**53


def test_a_week_is_made_once_and_then_read(r):
    board = Leaderboard(r, "b", keep_days=LONG, stale_s=30)
    sunday = TODAY + timedelta(6)
    for day in range(-1, 8):  # the first and the last are outside
        board.add("ada", 10**day if day > 0 else 1, at=MONDAY + day * DAY_S)
    assert board.top(1, sunday, 7) == [Standing(1, "ada", 1_111_111)]
    board.add("eve", 10**7, at=MONDAY)
    assert board.rank("eve", sunday, 7) is None  # not yet
    [week, *_] = board.keys(sunday, 7)
    assert 20 < r.ttl(week) <= 30
    r.expire(week, 0)
    assert names(board.around("eve", 1, sunday, 7)) == "eveada"
    assert board.top(1, date(2030, 1, 7), 7) == []
    assert not r.exists(board.keys(date(2030, 1, 7), 7)[0])


# ---------------------------------------------------------------- range, time and keys


def test_what_does_not_fit_is_refused_and_adds_nothing(r, board):
    board.add("ada", POINTS - 3, at=MONDAY)
    board.add("bob", 1, at=MONDAY)
    before = {key: r.zrange(key, 0, -1, withscores=True) for key in r.scan_iter()}
    for points, at, why in (
        (3, MONDAY, "fewer than"),
        (3, MONDAY + DAY_S, "fewer than"),
        (1, EPOCH - 1, "from 2025"),
        (1, LAST_S + 1, "from 2025"),
        (1, -1, "from 2025"),
        (1, MONDAY * 1000, "from 2025"),  # milliseconds
    ):
        with pytest.raises(OutOfRange, match=why):
            board.add("ada", points, at)
    assert {key: r.zrange(key, 0, -1, withscores=True) for key in r.scan_iter()} == before
    assert board.add("ada", 2, at=MONDAY) == POINTS - 1


def test_both_ends_of_the_range(r, board):
    assert datetime.fromtimestamp(EPOCH, UTC) == datetime(2025, 1, 1, tzinfo=UTC)
    assert datetime.fromtimestamp(LAST_S, UTC).date() == date(2042, 1, 5)
    board.add("first", POINTS - 1, at=EPOCH)
    board.add("last", POINTS - 1, at=LAST_S)
    assert lines(board.top(2)) == [(1, "first", POINTS - 1), (2, "last", POINTS - 1)]
    assert r.zscore(board.keys()[0], "first") == 2**53 - 1
    assert lines(board.top(2, date(2025, 1, 1))) == [(1, "first", POINTS - 1)]
    assert lines(board.top(2, date(2042, 1, 5))) == [(1, "last", POINTS - 1)]


def test_by_default_it_is_the_servers_clock(r):
    board = Leaderboard(r, "b", keep_days=8)
    before = r.time()[0]
    board.add("ada", 1)
    day = datetime.fromtimestamp(before, UTC).date()
    today = board.top(1, day) or board.top(1, day + timedelta(1))
    assert today == board.top(1) == [Standing(1, "ada", 1)]
    left = 2**module.ALL_BITS - 1 - (before - EPOCH)
    score = int(r.zscore("{b}:all", "ada")) % 2**module.ALL_BITS
    assert left - 60 <= score <= left


def test_days_go_at_a_fixed_moment_and_do_not_come_back(r):
    board = Leaderboard(r, "b", keep_days=2, idle_days=3)
    now = r.time()[0]
    for ago in range(4):
        board.add("ada", 1, at=now - ago * DAY_S)
        board.add("bob", 1, at=now - ago * DAY_S)
    kept = sorted(r.scan_iter("{b}:2*"))
    assert [int(key.split(":")[1]) for key in kept] == [now // DAY_S - ago for ago in (2, 1, 0)]
    assert [r.expiretime(key) for key in kept] == [
        (now // DAY_S - ago + 3) * DAY_S for ago in (2, 1, 0)
    ]
    assert lines(board.top(2)) == [(1, "bob", 4), (2, "ada", 4)]
    assert 3 * DAY_S - 5 <= r.ttl("{b}:all") <= 3 * DAY_S
    r.expire("{b}:all", 100)
    board.add("ada", 1, at=now)
    assert r.ttl("{b}:all") > 3 * DAY_S - 5


# ---------------------------------------------------------------- corrections


def test_corrections(r, board):
    tuesday = TODAY + timedelta(1)
    board.add("ada", 5, at=MONDAY), board.add("ada", 7, at=MONDAY + DAY_S)
    assert board.subtract("ada", 2, at=MONDAY) == 10
    assert board.top(1, TODAY) == [Standing(1, "ada", 3)]
    assert board.set("ada", 9, at=MONDAY + DAY_S) == 12
    assert board.top(1, tuesday) == [Standing(1, "ada", 9)] and board.top(1)[0].points == 12
    with pytest.raises(OutOfRange, match="not so many"):
        board.subtract("ada", 4, at=MONDAY)  # 12 of all time, but 3 on that day
    assert board.subtract("ada", 3, at=MONDAY) == 9
    assert board.top(9, TODAY) == [], "with nothing left it is not on the board"
    assert board.set("ada", 0, at=MONDAY + DAY_S) == 0 and board.top(9) == []
    board.set("eve", 4, at=MONDAY)
    assert board.top(9) == board.top(9, TODAY) == [Standing(1, "eve", 4)]
    assert not without_ttl(r)


def test_a_day_that_is_gone(r):
    board = Leaderboard(r, "b", keep_days=2)
    board.add("ada", 5)
    assert board.subtract("ada", 2, at=MONDAY) == 3, "all time can still be corrected"
    with pytest.raises(OutOfRange, match="kept no longer"):
        board.set("ada", 2, at=MONDAY)


def test_removing_a_member(r):
    board = Leaderboard(r, "b", keep_days=3)
    now = r.time()[0]
    for ago in range(4):
        board.add("ada", 1, at=now - ago * DAY_S), board.add("eve", 1, at=now - ago * DAY_S)
    assert board.remove("ada") == 5 and board.remove("ada") == 0
    assert {name for key in r.scan_iter("{b}:[a0-9]*") for name in r.zrange(key, 0, -1)} == {"eve"}
    assert board.rank("eve") == 1 and r.zcard("{b}:all") == 1


# ---------------------------------------------------------------- lost, late, and on the way


def test_an_add_sent_again_counts_once(lab, r, board):
    sharded = ShardedLeaderboard(r, "s", shards=2, keep_days=LONG)
    for each in (board, sharded):
        each.add("ada", 5, at=MONDAY)
        with flaky(lab, LOST) as client:
            own = Leaderboard(client, "b", keep_days=LONG)
            if each is sharded:
                own = ShardedLeaderboard(client, "s", shards=2, keep_days=LONG)
            assert own.add("ada", 5, at=MONDAY) == 10
            late = client.connection_pool.connection_class.sent[-1]
        each.add("ada", 1, at=MONDAY)
        deliver(lab, late)
        assert each.top(1) == each.top(1, TODAY) == [Standing(1, "ada", 11)]


def test_an_event_counts_once_for_its_caller_too(r, board):
    assert [board.add("ada", 5, at=MONDAY, event="order 7") for _ in range(3)] == [5, 5, 5]
    assert board.subtract("ada", 1, at=MONDAY, event="order 8") == 4
    assert board.subtract("ada", 1, at=MONDAY, event="order 8") == 4
    assert 0 < r.ttl("{b}:recent") <= 60
    r.zadd("{b}:recent", {"order 7": 1})  # it was long ago
    assert board.add("ada", 5, at=MONDAY, event="order 7") == 9


def test_what_scripts_touch_is_declared(lab, r, board):
    board.add("warm", 1)
    with undeclared(lab) as keys:
        board.add("ada", 5), board.add("ada", 5, at=MONDAY), board.subtract("ada", 1, at=MONDAY)
        board.set("ada", 7), board.top(3), board.top(3, TODAY), board.rank("ada", TODAY, 7)
        board.remove("ada")
    assert keys == set()


@pytest.mark.parametrize("ahead_s", [-3 * DAY_S, 3 * DAY_S])
def test_it_is_the_servers_day_whatever_ours(r, board, monkeypatch, ahead_s):
    monkeypatch.setattr(module.time, "time", lambda: r.time()[0] + ahead_s)
    other = Leaderboard(r, "b", keep_days=LONG)
    with wire(r) as w:
        assert other.add("ada", 5) == 5
    first = w.round_trips
    with wire(r) as w:
        assert other.add("ada", 5) == 10
    now_day = r.time()[0] // DAY_S
    assert w.round_trips - first <= 0, "it has learned"
    kept = {key for key in r.scan_iter("{b}:2*")}
    assert kept <= {f"{{b}}:{now_day - 1}", f"{{b}}:{now_day}"} and kept


def test_the_rights_that_the_docstring_names(lab, r):
    rights = "+@read +@write +@scripting +@connection +time"
    assert rights in Leaderboard.__doc__
    r.execute_command("ACL", "SETUSER", "game", "reset", "on", ">pw", "~{b}:*", *rights.split())
    with lab.client(username="game", password="pw") as client:
        board = Leaderboard(client, "b", keep_days=LONG)
        assert board.add("ada", 5, at=MONDAY) == 5 and board.rank("ada", TODAY, 7) == 1
        assert board.set("ada", 4, at=MONDAY) == 4 and board.remove("ada") == 2
    r.execute_command("ACL", "DELUSER", "game")


def test_adding_while_the_slot_moves(moving):
    """What was accepted is there in the end, on both boards; the slot can be moved to its end."""
    for moved in ("all", "day"):
        with moving.client() as client:
            board = Leaderboard(client, f"m{moved}", keep_days=LONG)
            board.add("ada", 5, at=MONDAY)
            migration = Migration(moving, board.keys()[0])
            migration.move(board.keys(None if moved == "all" else TODAY)[0])
            accepted = 5
            with contextlib.suppress(redis.RedisError):
                accepted = board.add("ada", 3, at=MONDAY)
            migration.finish()
        with moving.client() as client:
            board = Leaderboard(client, f"m{moved}", keep_days=LONG)
            assert board.top(1) == board.top(1, TODAY) == [Standing(1, "ada", accepted)]
            assert board.add("ada", 1, at=MONDAY) == accepted + 1


# ---------------------------------------------------------------- many at once, and crashes

ADDER = """
    import random, redis
    from alone import Leaderboard, ShardedLeaderboard
    r = redis.Redis.from_url({url!r})
    boards = (Leaderboard(r, "k", keep_days=10_000),
              ShardedLeaderboard(r, "s", shards=3, keep_days=10_000))
    luck = random.Random({seed})
    for _ in range({times}):
        event = luck.choice("abc"), luck.randrange(1, 9), 1766361600 + luck.randrange(604800)
        for board in boards:
            board.add(*event)
        print(*event, flush=True)
"""


def adders(lab, count: int, times: int) -> list[subprocess.Popen]:
    pipe = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    return [
        subprocess.Popen(
            alone("leaderboard", ADDER.format(url=lab.url, seed=seed, times=times)), **pipe
        )
        for seed in range(count)
    ]


def boards_agree(r) -> Counter:
    """All time is the sum of the days, member by member, and everything has a time to live."""
    for stem in ("{k}", "{s:0}", "{s:1}", "{s:2}"):
        of_days = Counter()
        latest = {}
        for day in range(7):
            number = MONDAY // DAY_S + day
            for member, score in r.zrange(f"{stem}:{number}", 0, -1, withscores=True):
                of_days[member] += int(score) >> module.DAY_BITS
                left = module.DAY_S - int(score) % 2**module.DAY_BITS
                latest[member] = number * DAY_S + left
        of_all = r.zrange(f"{stem}:all", 0, -1, withscores=True)
        assert of_days == {member: int(score) >> module.ALL_BITS for member, score in of_all}
        for member, score in of_all:
            assert LAST_S - int(score) % 2**module.ALL_BITS == latest[member]
    assert not without_ttl(r)
    return Counter({line.member: line.points for line in Leaderboard(r, "k", keep_days=9).top(9)})


def test_several_processes_lose_nothing(lab, r):
    noted, latest = Counter(), {}
    for process in adders(lab, 3, times=200):
        for line in process.communicate()[0].splitlines():
            member, points, at = line.split()
            noted[member] += int(points)
            latest[member] = max(int(at), latest.get(member, 0))
    assert noted.total() > 600 and boards_agree(r) == noted
    assert lines(Leaderboard(r, "k", keep_days=9).top(9)) == in_order(noted, latest)
    sharded = ShardedLeaderboard(r, "s", shards=3, keep_days=9)
    assert lines(sharded.top(9)) == in_order(noted, latest)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.drill)])
def test_killed_processes_leave_boards_that_agree(lab, r, kills, figure):
    noted, started = Counter(), adders(lab, kills, times=10**9)
    try:
        for k, process in enumerate(started):
            said = [process.stdout.readline() for _ in range(5 + 11 * k)]
            process.kill()
            # read(), not communicate(), which passes over what readline() has read ahead. What
            # comes after the last line feed was cut off in the middle.
            for line in (*said, *process.stdout.read().split("\n")[:-1]):
                member, points, _ = line.split()
                noted[member] += int(points)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [-9] * kills
    found = boards_agree(r)
    assert noted <= found
    figure(kills=kills, points_acknowledged=noted.total(), of_them_lost=(noted - found).total())
    assert (found - noted).total() <= kills * 8  # what a killed one had added, and not yet said so


def test_script_flush_and_restart():
    with server() as own, own.client() as client:
        board = Leaderboard(client, "b", keep_days=LONG)
        sharded = ShardedLeaderboard(client, "s", shards=2, keep_days=LONG)
        for each in (board, sharded):
            assert each.add("ada", 2, at=MONDAY) == 2
        client.script_flush()
        for each in (board, sharded):
            assert each.add("ada", 3, at=MONDAY) == 5
        client.script_flush()
        assert board.rank("ada", TODAY, 7) == sharded.rank("ada") == 1
        own.restart()  # keeps nothing: scripts, connections and boards are gone
        for each in (board, sharded):
            assert each.top(3) == [] and each.rank("ada") is None
            assert each.add("ada", 7, at=MONDAY) == 7
            assert each.top(3, TODAY) == [Standing(1, "ada", 7)]


# ---------------------------------------------------------------- clients of each kind


@pytest.mark.parametrize("options", [{}, {"decode_responses": False}, {"protocol": 2}])
def test_every_client_gets_the_same(lab, r, options):
    with lab.client(**options) as client:
        board = Leaderboard(client, "b", keep_days=LONG)
        sharded = ShardedLeaderboard(client, "s", shards=3, keep_days=LONG)
        for each in (board, sharded):
            assert [each.add(m, p, at=MONDAY) for m, p in (("ü", 5), ("a", POINTS - 1))]
            for day in (None, TODAY):
                assert lines(each.top(2, day)) == [(1, "a", POINTS - 1), (2, "ü", 5)]
                assert [each.rank(member, day) for member in ("a", "ü", "x")] == [1, 2, None]
        assert lines(board.around("ü", 1, TODAY, 7)) == [(1, "a", POINTS - 1), (2, "ü", 5)]


def test_asyncio(lab):
    async def all_calls() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            await client.flushall()
            board = AsyncLeaderboard(client, "b", keep_days=LONG)
            sharded = AsyncShardedLeaderboard(client, "s", shards=3, keep_days=LONG)
            for each in (board, sharded):
                await asyncio.gather(*(each.add(f"p{k % 9}", k, at=MONDAY) for k in range(1, 91)))
                best = [Standing(1, "p0", 495), Standing(2, "p8", 485)]
                assert await each.top(2) == await each.top(2, TODAY) == best
                assert [await each.rank(name) for name in ("p0", "p1", "x")] == [1, 9, None]
                with pytest.raises(OutOfRange, match="from 2025"):
                    await each.add("p0", 1, at=1)
            assert names(await board.around("p7", 1, TODAY, 7)) == "p8p7p6"
            assert await board.page(3, 4) == await board.around("p1", 0)
            assert await board.around("x", 1) == []
            for each in (board, sharded):
                assert await each.subtract("p0", 95, at=MONDAY) == 400
                assert await each.set("p0", 7, at=MONDAY) == 7
                assert await each.remove("p0") >= 1 and await each.rank("p0") is None
                with pytest.raises(OutOfRange, match="not so many"):
                    await each.subtract("p1", 10**6, at=MONDAY)
            with pytest.raises(TypeError, match="there is AsyncLeaderboard"):
                Leaderboard(client, "b", keep_days=8)
        with lab.client() as sync, pytest.raises(TypeError, match=r"needs a client of redis\.asyn"):
            AsyncLeaderboard(sync, "b", keep_days=8)

    asyncio.run(all_calls())


def test_on_a_cluster(three):
    with three.client() as client:
        sharded = ShardedLeaderboard(client, "s", shards=8, keep_days=LONG)
        assert len({client.get_node_from_key(s.keys()[0]).name for s in sharded.shards}) == 3
        boards = [Leaderboard(client, f"b{k}", keep_days=LONG) for k in range(6)]
        assert len({client.get_node_from_key(b.keys()[0]).name for b in boards}) == 3
        for each in (sharded, *boards):
            for k in range(40):
                each.add(f"p{k:02}", 1 + k // 2, at=MONDAY + k)
            assert names(each.top(4)) == names(each.top(4, TODAY)) == "p38p39p36p37"
            assert each.rank("p00") == 39 and each.rank("x") is None
        for board in boards:
            assert names(board.around("p39", 1, TODAY, 7)) == "p38p39p36"


# ---------------------------------------------------------------- cost and arguments


def test_round_trips(r, board):
    sharded = ShardedLeaderboard(r, "s", shards=4, keep_days=LONG)
    for call, trips, commands in (
        (lambda: board.add("ada", 1, at=MONDAY), 1, 1),
        (lambda: board.top(10), 1, 1),
        (lambda: board.page(2, 10, TODAY), 1, 1),
        (lambda: board.around("ada", 2), 1, 1),
        (lambda: board.rank("ada", TODAY, 7), 1, 1),
        (lambda: board.add("ada", 1), 1, 1),
        (lambda: board.subtract("ada", 1), 1, 1),
        (lambda: board.set("ada", 1), 1, 1),
        (lambda: board.remove("eve"), 1, 1),
        (lambda: sharded.add("ada", 1, at=MONDAY), 1, 1),
        (lambda: sharded.top(10), 1, 4),
        (lambda: sharded.rank("ada"), 2, 5),
    ):
        call()
        with wire(r) as w:
            call()
        assert (w.round_trips, w.commands) == (trips, commands)


@pytest.mark.parametrize(
    "bad",
    [
        {"prefix": ""},
        {"prefix": "a{b"},
        {"prefix": "a}"},
        {"keep_days": 0},
        {"keep_days": 1.5},
        {"stale_s": 0.5},
        {"idle_days": -1},
        {"idle_days": 10**15},
    ],
)
def test_arguments_that_make_no_sense(r, bad):
    with pytest.raises(ValueError, match="needs a prefix without"):
        Leaderboard(r, **{"prefix": "b", "keep_days": 8, **bad})


def test_other_arguments(r, board):
    sharded = ShardedLeaderboard(r, "s", shards=2, keep_days=8)
    for each in (board, sharded):
        for member, points in (("", 1), ("ada", 0), ("ada", -1), ("ada", 1.5), ("ada", POINTS)):
            with pytest.raises(ValueError, match="whole points from 1"):
                each.add(member, points)
    for call in (
        lambda: board.top(0),
        lambda: board.page(0, 5),
        lambda: board.page(1, 0),
        lambda: board.around("", 1),
        lambda: board.around("ada", -1),
        lambda: board.rank(""),
        lambda: board.top(1, None, 7),
        lambda: board.top(1, TODAY, 0),
        lambda: board.top(1, TODAY, 33),
        lambda: Leaderboard(r, "b", keep_days=6).top(1, TODAY, 7),
        lambda: sharded.top(0),
        lambda: ShardedLeaderboard(r, "s", shards=0, keep_days=8),
    ):
        with pytest.raises(ValueError):
            call()
    assert not list(r.scan_iter())


def test_a_key_of_another_kind_stops_both_boards(r, board):
    r.set(board.keys(TODAY)[0], "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        board.add("ada", 1, at=MONDAY)
    assert not r.exists(board.keys()[0])


# ---------------------------------------------------------------- exercises


def weekly(key="check:week", merge=True, expire=60, start=0, desc=True, pause=False):
    def answer(r, days, n):
        with r.pipeline(transaction=False) as pipe:
            if merge:
                pipe.zunionstore(key, days)
            if pause:
                pipe.execute()
            if expire:
                pipe.expire(key, expire)
            pipe.zrange(key, start, start + n - 1, desc=desc, withscores=True)
            return pipe.execute()[-1]

    return answer


def nothing_stored(r, days, n):
    return r.zunion(days, withscores=True)[::-1][:n]


def day_by_day(r, days, n):
    for day in days:
        r.zunionstore("check:week", ["check:week", day])
    return r.zrange("check:week", 0, n - 1, desc=True, withscores=True)


def kept(r, days, n):
    if not r.exists("check:week"):
        r.zunionstore("check:week", days)
        r.expire("check:week", 60)
    return r.zrange("check:week", 0, n - 1, desc=True, withscores=True)


def kept_for_each_week(r, days, n):
    key = "check:week:" + days[0].rpartition(":")[2]
    if not r.exists(key):
        r.zunionstore(key, days)
        r.expire(key, 60)
    return r.zrange(key, 0, n - 1, desc=True, withscores=True)


@pytest.mark.parametrize("right", [weekly(), nothing_stored])
def test_weekly_is_accepted(learner, right):
    assert exercises.weekly(learner, right).startswith("right: no day counted twice")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (day_by_day, "same week again"),
        (kept, "another week"),
        (kept_for_each_week, "after p7 got 50"),
        (weekly(expire=0), "no time to live"),
        (weekly(pause=True), "in 2 round trips"),
        (weekly(merge=False), "the best is nobody"),
        (weekly(desc=False), "asked for the first time"),
        (weekly(start=1), "asked for the first time"),
        (lambda r, days, n: weekly()(r, days[:-1], n), "asked for the first time"),
    ],
)
def test_weekly_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.weekly(learner, wrong)


@pytest.mark.parametrize(
    "right",
    [
        lambda solved, minutes: solved * 2**20 - minutes,
        lambda solved, minutes: solved * 1_000_000 - minutes,
        lambda solved, minutes: solved * 2**20 + 99_999 - minutes,
        lambda solved, minutes: (solved << 30) + (1 << 17) - minutes,
    ],
)
def test_contest_is_accepted(learner, right):
    assert exercises.contest(learner, right).startswith("right: in a round and in the sum of 8")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda solved, minutes: solved * 100_000 - minutes, "each round is right"),
        (lambda solved, minutes: solved * 2**32 - minutes, "each round is right"),
        (lambda solved, minutes: solved * 2**40 - minutes, "once they are doubles"),
        (lambda solved, minutes: solved * 2**20 + minutes, "2 solved in 10 minutes should"),
        (lambda solved, minutes: solved * 10 - minutes, "3 solved in 50 minutes should"),
        (lambda solved, minutes: solved + 1 / (1 + minutes), "each round is right"),
        (lambda solved, minutes: solved, "2 solved in 10 minutes should"),
    ],
)
def test_contest_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.contest(learner, wrong)
