"""The sorted-sets lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest

from redis_lab.judging import NotYet
from redis_lab.lessons import sorted_sets
from redis_lab.wiretap import wire

# ---------------------------------------------------------------- around


def right_around(r, board, member, k, *, one=1):
    place = r.zrevrank(board, member)
    if place is None:
        return []
    first = max(0, place - k)
    return list(enumerate(r.zrange(board, first, place + k, desc=True), first + one))


def naive_around(r, board, member, k):
    place = r.zrevrank(board, member)
    return list(enumerate(r.zrange(board, place - k, place + k, desc=True), place - k + 1))


def believes_everybody(r, board, member, k):
    first = max(0, r.zrevrank(board, member) - k)
    stop = r.zrevrank(board, member) + k
    return list(enumerate(r.zrange(board, first, stop, desc=True), first + 1))


def asks_thrice(r, board, member, k):
    return right_around(r, board, member, k) if r.zscore(board, member) is not None else []


def whole_board(r, board, member, k):
    everybody = r.zrange(board, 0, -1, desc=True)
    if member not in everybody:
        return []
    at = everybody.index(member)
    first = max(0, at - k)
    return list(enumerate(everybody[first : at + k + 1], first + 1))


def trusting(r, board, member, k):
    place = r.zrevrank(board, member)
    first = max(0, place - k)
    return list(enumerate(r.zrange(board, first, place + k, desc=True), first + 1))


SCRIPT = """
local place = redis.call('ZREVRANK', KEYS[1], ARGV[1])
if not place then return {} end
local first = math.max(0, place - ARGV[2])
return {first, unpack(redis.call('ZRANGE', KEYS[1], first, place + ARGV[2], 'REV'))}
"""


def scripted(r, board, member, k):
    found = r.eval(SCRIPT, 1, board, member, k)
    return [[found[0] + n, name] for n, name in enumerate(found[1:], 1)] if found else []


@pytest.mark.parametrize("answer", [right_around, scripted])
def test_around_is_accepted(learner, answer):
    assert "two round trips" in sorted_sets.around(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *a: None, "a list of \\(place, member\\), not None"),
        (lambda *a: [name for _, name in right_around(*a)], "a list of \\(place, member\\)"),
        (lambda *a: [], "in the middle it should be"),
        (naive_around, "at the very top nobody is found.*from the end"),
        (lambda *a: right_around(*a, one=0), "begin with 197 instead of 198.*ZREVRANK says 0"),
        (lambda *a: right_around(*a)[::-1], "the best should come first"),
        (believes_everybody, "3 round trips"),
        (asks_thrice, "3 round trips"),
        (whole_board, "the whole board"),
        (trusting, "None minus k"),
        (lambda *a: right_around(*a) or None, "no neighbours: \\[\\], not None"),
    ],
)
def test_around_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        sorted_sets.around(learner, answer)


# ---------------------------------------------------------------- seen


def right_seen(r, key, user, now, *, late_is_fine=True, keep=3600, ttl=3600, transaction=True):
    with r.pipeline(transaction=transaction) as pipe:
        pipe.zadd(key, {user: now}, gt=late_is_fine)
        pipe.zremrangebyscore(key, "-inf", now - keep)
        if ttl:
            pipe.expire(key, ttl)
        pipe.zcount(key, f"({now - 3600}", "+inf")
        return pipe.execute()[-1]


def naive_seen(r, key, user, now):
    r.zadd(key, {user: now})
    return r.zcount(key, now - 3600, "+inf")


def loop_seen(r, key, user, now):
    r.zadd(key, {user: now}, gt=True)
    r.zremrangebyscore(key, "-inf", now - 3600)
    r.expire(key, 7200)
    return r.zcard(key)


def first_seen(r, key, user, now):
    with r.pipeline() as pipe:
        pipe.zadd(key, {user: now}, nx=True)
        return pipe.zremrangebyscore(key, "-inf", now - 3600).zcard(key).execute()[-1]


@pytest.mark.parametrize("transaction", [True, False])
def test_seen_is_accepted(learner, transaction):
    answer = lambda *a: right_seen(*a, transaction=transaction)  # noqa: E731
    assert "late events" in sorted_sets.seen(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, key, user, now: None, "the 1. different user .* you say None"),
        (lambda r, key, user, now: r.pfadd(key, user) and r.pfcount(key), "you say 0"),
        (lambda r, key, user, now: r.zadd(key, {user: now}) * 0 + r.zcard(key), "you say 4"),
        (first_seen, "second 5200, ian is the 3. different user"),
        (naive_seen, "holds 4 users.*Nobody is ever removed"),
        (lambda *a: right_seen(*a, ttl=None), "the key stays for ever"),
        (lambda *a: right_seen(*a, ttl=60), "goes after 60 seconds"),
        (
            lambda *a: right_seen(*a, late_is_fine=False),
            "late: ada now counts as last seen at 6000",
        ),
        (loop_seen, "4 round trips for each visit"),
    ],
)
def test_seen_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        sorted_sets.seen(learner, answer)


# ---------------------------------------------------------------- what the prose leans on


def test_redis_py_still_says_zrevrange(r):
    r.zadd("b", {"a": 1, "b": 2})
    with wire(r) as asked:
        assert r.zrange("b", 0, 9, desc=True) == ["b", "a"]
    assert dict(asked.by_command) == {"ZREVRANGE": 1}


def test_ranges_by_score_say_zrange(r):
    r.zadd("b", {"a": 1, "b": 2})
    with wire(r) as asked:
        assert r.zrange("b", "+inf", "-inf", byscore=True, desc=True, offset=0, num=1) == ["b"]
    assert dict(asked.by_command) == {"ZRANGE": 1}


def test_a_negative_start_with_a_positive_end_is_an_empty_range(each_kind):
    with each_kind.client() as client:
        client.delete("b")
        client.zadd("b", {str(k): k for k in range(50)})
        assert client.zrange("b", -2, 2, desc=True) == []


def test_gt_adds_newcomers_and_rank_with_score_appears_with_redis_7_2(each_kind):
    with each_kind.client() as client:
        client.delete("b")
        client.zadd("b", {"a": 5})
        assert client.zadd("b", {"a": 4, "new": 1}, gt=True, ch=True) == 1
        assert client.zscore("b", "a") == 5
        version = tuple(map(int, client.info("server")["redis_version"].split(".")))
        if version >= (7, 2):
            assert client.zrevrank("b", "new", withscore=True) == [1, 1]
        else:
            with pytest.raises(Exception, match="wrong number of arguments"):
                client.zrevrank("b", "new", withscore=True)


def test_equal_scores_go_by_bytes_and_pages_by_score_lose_them(each_kind):
    """Half of the trap: reading on after the last score passes over its equals."""
    with each_kind.client() as client:
        client.delete("b")
        client.zadd("b", {name: 2**53 + k for k, name in enumerate("zay")})
        assert client.zrange("b", 0, -1) == ["a", "z", "y"]  # 2^53 + 1 became 2^53
        first = client.zrange("b", "-inf", "+inf", byscore=True, offset=0, num=1)
        assert first == ["a"]
        assert client.zrange("b", f"({2**53}", "+inf", byscore=True) == ["y"]


def test_milliseconds_fit_and_nanoseconds_do_not():
    milliseconds = 1_764_547_200_000
    assert float(milliseconds + 1) != float(milliseconds)
    assert float(milliseconds * 10**6 + 1) == float(milliseconds * 10**6)
