"""The sets lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import sets

# ---------------------------------------------------------------- bought_both


def limited(r, a, b, enough):
    return r.sintercard(2, [a, b], limit=enough)


def piped(r, a, b, enough):
    return r.pipeline(transaction=False).sintercard(2, [a, b], limit=enough).execute()[0]


def looks_first(r, a, b, enough):
    return limited(r, a, b, enough) if r.exists(a) else 0


@pytest.mark.parametrize("answer", [limited, piped])
def test_bought_both_is_accepted(learner, answer):
    assert "6 bytes" in sets.bought_both(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, a, b, enough: None, "is 3, not None"),
        (lambda r, a, b, enough: r.sinter(a, b), "is 3, not"),
        (lambda r, a, b, enough: max(limited(r, a, b, enough), 1), "shares nothing, and you say 1"),
        (lambda r, a, b, enough: r.sintercard(2, [a, b]), "is 100, not 2000"),
        (lambda r, a, b, enough: min(len(r.sinter(a, b)), enough), "bytes came back for one"),
        (lambda r, a, b, enough: min(r.sintercard(2, [a, b]), enough), "LIMIT at which it stops"),
        (looks_first, "2 round trips"),
    ],
)
def test_bought_both_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        sets.bought_both(learner, answer)


def test_overhearing_leaves_the_client_as_it_was(r):
    with sets._record_commands(r) as sent:
        r.ping()
    r.ping()
    assert sent == [("PING",)] and "execute_command" not in vars(r)


# ---------------------------------------------------------------- once


def enveloped(seconds=3600, **options):
    def once(r, campaign, customer):
        with r.pipeline() as pipe:
            pipe.sadd(f"check:{campaign}", customer)
            pipe.expire(f"check:{campaign}", seconds, **options)
            return pipe.execute()[0] == 1

    return once


def scripted(r, campaign, customer):
    script = """
    local new = redis.call('SADD', KEYS[1], ARGV[1])
    redis.call('EXPIRE', KEYS[1], 3600, 'NX')
    return new
    """
    return r.eval(script, 1, f"check:{campaign}", customer)


def looks_then_notes(r, campaign, customer):
    if r.sismember(f"check:{campaign}", customer):
        return False
    return enveloped(nx=True)(r, campaign, customer) or True


def without_a_clock(r, campaign, customer):
    return r.sadd(f"check:{campaign}", customer) == 1


def in_two_trips(r, campaign, customer):
    new = r.sadd(f"check:{campaign}", customer)
    r.expire(f"check:{campaign}", 3600, nx=True)
    return new == 1


def refuses_numbers(r, campaign, customer):
    return isinstance(customer, str) and enveloped(nx=True)(r, campaign, customer)


@pytest.mark.parametrize("answer", [enveloped(nx=True), scripted])
def test_once_is_accepted(learner, answer):
    assert "25 coupons" in sets.once(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *args: True, "True, False, True, and was True, True, True"),
        (lambda *args: None, "was None, None, None"),
        (looks_then_notes, "more coupons than there are customers"),
        (refuses_numbers, "no coupon at all"),
        (without_a_clock, "no time to live"),
        (enveloped(86_400, nx=True), "lasts an hour"),
        (enveloped(), "renews it"),
        (in_two_trips, "2 round trips"),
    ],
)
def test_once_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        sets.once(learner, answer)


def test_once_hands_on_what_an_answer_raises_at_one_till_only(learner):
    def fails_for_seven(r, campaign, customer):
        if customer == 7:
            raise ValueError("seven")
        return enveloped(nx=True)(r, campaign, customer)

    with pytest.raises(NotYet, match=r"raised ValueError in line \d+: seven"):
        sets.once(learner, fails_for_seven)


# ---------------------------------------------------------------- also_bought


def shared_buyers(r, product, candidates):
    with r.pipeline(transaction=False) as pipe:
        for other in candidates:
            pipe.sintercard(2, [f"check:buyers:{product}", f"check:buyers:{other}"])
        return dict(zip(candidates, pipe.execute(), strict=True))


def right(r, product, candidates, k):
    shared = shared_buyers(r, product, candidates)
    return sorted(candidates, key=shared.get, reverse=True)[:k]


def most_popular(r, product, candidates, k):
    return sorted(candidates, key=lambda c: r.scard(f"check:buyers:{c}"), reverse=True)[:k]


def one_by_one(r, product, candidates, k):
    keys = {c: [f"check:buyers:{product}", f"check:buyers:{c}"] for c in candidates}
    return sorted(candidates, key=lambda c: r.sintercard(2, keys[c]), reverse=True)[:k]


def fetching(r, product, candidates, k):
    mine = r.smembers(f"check:buyers:{product}")
    shared = {c: len(mine & r.smembers(f"check:buyers:{c}")) for c in candidates}
    return sorted(candidates, key=shared.get, reverse=True)[:k]


def test_also_bought_is_accepted(learner):
    assert "one round trip" in sets.also_bought(learner, right)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *args: None, r"11, 15 and 13, not \[\]"),
        (lambda r, p, candidates, k: candidates[:k], "11, 15 and 13"),
        (most_popular, "11, 15 and 13"),
        (lambda *args: sorted(right(*args)), "most shared comes first"),
        (fetching, "buyers whom nobody asked for"),
        (one_by_one, "6 round trips"),
    ],
)
def test_also_bought_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        sets.also_bought(learner, answer)


# ---------------------------------------------------------------- what the prose leans on


@pytest.fixture
def on_each(each_kind):
    with each_kind.client() as client:
        client.flushall()
        yield client


def test_an_intersection_of_one_set_with_nothing_is_empty(on_each):
    on_each.sadd("a", 1, 2, 3)
    assert on_each.sinter("a", "absent") == set()
    assert on_each.sintercard(2, ["a", "absent"]) == 0
    assert on_each.sintercard(2, ["a", "a"], limit=0) == 3  # no limit
    assert on_each.smembers("absent") == set() and on_each.scard("absent") == 0


def test_every_store_replaces_the_key_and_its_clock(on_each):
    on_each.sadd("a", 1, 2)
    on_each.sadd("b", 2, 3)
    for store, left in (("sinterstore", 1), ("sunionstore", 3), ("sdiffstore", 1)):
        on_each.set("kept", "a string, even", ex=60)
        assert getattr(on_each, store)("kept", "a", "b") == left
        assert on_each.type("kept") == "set" and on_each.ttl("kept") == -1
        assert getattr(on_each, store)("kept", "absent", "absent") == 0
        assert not on_each.exists("kept")


@pytest.mark.parametrize("leave", [lambda r: r.srem("s", "a"), lambda r: r.spop("s")])
def test_the_last_member_takes_the_key_and_its_clock_along(on_each, leave):
    on_each.sadd("s", "a")
    on_each.expire("s", 60)
    leave(on_each)
    assert not on_each.exists("s")
    on_each.sadd("s", "b")
    assert on_each.ttl("s") == -1


def test_a_set_of_numbers_stays_an_array_up_to_512(on_each):
    on_each.sadd("s", *range(512))
    assert on_each.object("encoding", "s") == "intset"
    assert on_each.sscan("s", count=1) == (0, [str(k) for k in range(512)])
    on_each.sadd("s", 512)
    assert on_each.object("encoding", "s") == "hashtable"


def test_a_number_with_a_leading_zero_is_a_word(on_each):
    on_each.sadd("s", 1, 2)
    on_each.sadd("s", "03")
    assert on_each.object("encoding", "s") != "intset"


def test_a_scan_does_not_promise_who_comes_or_goes(on_each):
    on_each.sadd("s", *range(2000))
    cursor, first = on_each.sscan("s", count=10)
    gone = next(str(k) for k in range(2000) if str(k) not in first)
    on_each.srem("s", gone)
    seen = set(first)
    while cursor:
        cursor, part = on_each.sscan("s", cursor, count=10)
        seen |= set(part)
    assert seen == {str(k) for k in range(2000)} - {gone}


def test_a_cluster_refuses_an_intersection_across_slots(three):
    with three.client() as client, three.owner("buyers:1").client() as node:
        client.sadd("buyers:1", 1)
        client.sadd("buyers:2", 1)
        with pytest.raises(redis.ResponseError, match="same slot"):
            node.sinter("buyers:1", "buyers:2")
        client.sadd("{buyers}:1", 1)
        client.sadd("{buyers}:2", 1)
        assert client.sinter("{buyers}:1", "{buyers}:2") == {"1"}
