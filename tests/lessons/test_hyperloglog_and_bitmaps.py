"""The HyperLogLog and bitmaps lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import hyperloglog_and_bitmaps as exercises
from redis_lab.servers.choose import server


def together(r, keys):
    return r.pfcount(*keys)


def merged(r, keys):
    r.pfmerge("all:days", *keys)
    return r.pfcount("all:days")


def merged_and_removed(r, keys):
    count = merged(r, keys)
    r.unlink("all:days")
    return count


def test_visitors_is_accepted(learner):
    assert "one round trip" in exercises.visitors(learner, together)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, keys: sum(map(r.pfcount, keys)), "counted twice"),
        (lambda r, keys: r.pfcount(*(keys[:-2] or keys)), "Are all days in it"),
        (merged, "a key is left: all:days"),
        (merged_and_removed, "in 3 round trips"),
        (lambda r, keys: r.pfcount(*keys) or None, "0, and not None"),
        (lambda r, keys: None, "nothing came back"),
    ],
)
def test_visitors_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.visitors(learner, answer)


def both(transaction=True, clock=None, count=True, key="both"):
    def came_again(r, first, second):
        pipe = r.pipeline(transaction=transaction)
        pipe.bitop("AND", key, first, second)
        pipe.bitcount(key)
        pipe.expire(key, clock) if clock else pipe.unlink(key)
        return pipe.execute()[1 if count else 0]

    return came_again


def by_script(r, first, second):
    script = (
        "redis.call('BITOP', 'AND', KEYS[3], KEYS[1], KEYS[2]) "
        "local n = redis.call('BITCOUNT', KEYS[3]) redis.call('DEL', KEYS[3]) return n"
    )
    return r.eval(script, 3, first, second, "both")


def left_for_ever(r, first, second):
    r.bitop("AND", "both", first, second)
    return r.bitcount("both")


def one_by_one(r, first, second):
    count = left_for_ever(r, first, second)
    r.unlink("both")
    return count


@pytest.mark.parametrize("answer", [both(), both(clock=60), by_script])
def test_retained_is_accepted(learner, answer):
    assert "no client in between" in exercises.retained(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (left_for_ever, "both stays for ever"),
        (one_by_one, "in 3 round trips"),
        (both(transaction=False), "MULTI keeps them apart"),
        (both(count=False), "375 bytes"),
        (lambda r, first, second: r.bitcount(first), "167 came on both days"),
        (lambda r, first, second: both(key=first)(r, first, second), "a day has changed"),
        (lambda r, first, second: None, "you say None"),
    ],
)
def test_retained_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.retained(learner, answer)


def minus(r, first, second):
    pipe = r.pipeline()
    pipe.bitcount(first).bitop("AND", "gone", first, second).bitcount("gone").unlink("gone")
    came, _, again, _ = pipe.execute()
    return came - again


def by_xor(r, first, second):
    pipe = r.pipeline()
    pipe.bitop("AND", "gone", first, second).bitop("XOR", "gone", first, "gone")
    pipe.bitcount("gone").expire("gone", 60)
    return pipe.execute()[2]


def by_not(r, first, second):
    pipe = r.pipeline()
    pipe.bitop("NOT", "gone", second).bitop("AND", "gone", first, "gone")
    pipe.bitcount("gone").unlink("gone")
    return pipe.execute()[2]


def minus_left(r, first, second):
    return r.bitcount(first) - left_for_ever(r, first, second)


@pytest.mark.parametrize("answer", [minus, by_xor])
def test_lost_is_accepted(learner, answer):
    assert "any length" in exercises.lost(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_not, r"\(second shorter\) 1980 came.*you say 20\. BITOP NOT ends"),
        (lambda r, first, second: r.bitcount(first) - r.bitcount(second), "BITOP NOT ends"),
        (lambda r, first, second: r.bitcount(second) - 1, "200 came on the first day only"),
        (lambda r, first, second: None, "you say None"),
        (minus_left, "both stays for ever"),
    ],
)
def test_lost_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.lost(learner, answer)


def test_the_same_visitors_give_the_same_count_on_every_server(each_kind):
    with each_kind.client() as r:
        for size, said in ((1000, 1001), (3000, 3004), (10_000, 9987), (100_000, 99_565)):
            r.delete("crowd")
            r.pfadd("crowd", *range(size))
            assert r.pfcount("crowd") == said


def test_a_merged_key_is_the_one_that_counted_all(each_kind):
    with each_kind.client() as r:
        r.pfadd("one", *range(40_000))
        r.pfadd("two", *range(20_000, 60_000))
        r.pfmerge("merged", "one", "two")
        r.pfadd("afresh", *range(60_000))
        registers = [r.bitfield(key).get("u63", 128).execute() for key in ("merged", "afresh")]
        assert registers[0] == registers[1]
        assert r.pfcount("merged") == r.pfcount("afresh") == r.pfcount("one", "two")


def test_the_fence_refuses_large_values_too(each_kind):
    with server(kind=each_kind.kind, proto_max_bulk_len="1mb") as fenced, fenced.client() as r:
        with pytest.raises(redis.ResponseError, match="bit offset"):
            r.setbit("bits", 8 * 2**20, 1)
        assert r.setbit("bits", 8 * 2**20 - 1, 1) == 0
        with pytest.raises(redis.RedisError):
            r.set("page", b"x" * (2 * 2**20))
        # The server closes that connection, at a moment of its own choosing: ask on another.
        with fenced.client() as other:
            assert not other.exists("page")


def test_the_fence_is_512_mb_by_default(each_kind):
    with each_kind.client() as r:
        assert int(r.config_get("proto-max-bulk-len")["proto-max-bulk-len"]) == 512 * 2**20
