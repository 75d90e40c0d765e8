"""The hashes lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest
import redis
from processes import within

from redis_lab.judging import NotYet
from redis_lab.lessons import hashes

# ---------------------------------------------------------------- reserve


def scripted(r, key, quantity):
    return r.eval(hashes.TAKE, 1, key, quantity) > 0


def watched(r, key, quantity):
    def take(pipe):
        enough = int(pipe.hget(key, "stock") or 0) >= quantity
        pipe.multi()
        if enough:
            pipe.hincrby(key, "stock", -quantity)
        return enough

    return r.transaction(take, key, value_from_callable=True)


def look_then_take(r, key, quantity):
    if int(r.hget(key, "stock") or 0) >= quantity:
        r.hincrby(key, "stock", -quantity)
        return True
    return False


def take_and_give_back(r, key, quantity):
    if r.hincrby(key, "stock", -quantity) >= 0:
        return True
    r.hincrby(key, "stock", quantity)
    return False


def makes_a_ghost(r, key, quantity):
    r.hsetnx(key, "stock", 0)
    return scripted(r, key, quantity)


def leaves_a_trace(r, key, quantity):
    sold = scripted(r, key, quantity)
    if sold:
        r.hset(key, "sold", 1)
    return sold


@pytest.mark.parametrize("answer", [scripted, watched])
def test_reserve_is_accepted(learner, answer):
    assert "none sold twice" in hashes.reserve(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, key, quantity: None, "True, and 2 left. You say None, and left 5"),
        (lambda r, key, quantity: r.hincrby(key, "stock", -quantity), "False, and 2 left"),
        (look_then_take, "8 sold, stock -3"),
        (take_and_give_back, "was sent away"),
        (makes_a_ghost, "has made one"),
        (leaves_a_trace, "now has name, stock, sold"),
    ],
)
def test_reserve_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        hashes.reserve(learner, answer)


# ---------------------------------------------------------------- price_list


def asked(r, ids, *fields):
    with r.pipeline(transaction=False) as pipe:
        for i in ids:
            pipe.hmget(f"check:product:{i}", *fields) if fields else pipe.hgetall(
                f"check:product:{i}"
            )
        return pipe.execute()


def priced(r, ids):
    replies = zip(ids, asked(r, ids, "price_cents"), strict=True)
    return {i: int(price) for i, (price,) in replies if price is not None}


def one_by_one(r, ids):
    return {i: int(r.hget(f"check:product:{i}", "price_cents")) for i in ids}


def everything(r, ids):
    replies = zip(ids, asked(r, ids), strict=True)
    return {i: int(product["price_cents"]) for i, product in replies if product}


def stumbles(r, ids):
    replies = zip(ids, asked(r, ids, "price_cents"), strict=True)
    return {i: int(price) for i, (price,) in replies}


def free_of_charge(r, ids):
    return {i: 0 for i in ids} | priced(r, ids)


def text(r, ids):
    return {i: str(price) for i, price in priced(r, ids).items()}


def test_price_list_is_accepted(learner):
    assert "one round trip" in hashes.price_list(learner, priced)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, ids: None, "a dictionary with the 100 ids"),
        (text, "the prices are text"),
        (lambda r, ids: dict.fromkeys(ids, 1), "product 1 costs 1007, and you say 1"),
        (one_by_one, "in 100 round trips"),
        (everything, "HGETALL sends the whole product"),
        (stumbles, "raised TypeError"),
        (free_of_charge, "should be left out"),
    ],
)
def test_price_list_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        hashes.price_list(learner, answer)


# ---------------------------------------------------------------- what the prose says


@pytest.fixture
def either(each_kind):
    with each_kind.client() as client:
        client.flushall()
        yield client


def test_a_session_that_expired_comes_back_without_a_clock(either):
    either.hset("session", mapping={"user": "ada", "cart": 3})
    either.pexpire("session", 20)
    assert within(60, lambda: not either.exists("session"))
    either.hset("session", "cart", 1)
    assert (either.hgetall("session"), either.ttl("session")) == ({"cart": "1"}, -1)


def test_writing_a_field_leaves_the_clock_of_the_key_alone(either):
    either.hset("session", "cart", 3)
    either.expire("session", 100)
    either.hset("session", "cart", 4)
    either.hincrby("session", "cart", 1)
    assert either.ttl("session") > 90


def test_a_smaller_object_saved_over_a_larger_leaves_the_rest(either):
    either.hset("user", mapping={"name": "ada", "phone": "1"})
    either.hset("user", mapping={"name": "grace"})
    assert either.hgetall("user") == {"name": "grace", "phone": "1"}


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ({f"f{k}": k for k in range(512)}, {f"f{k}": k for k in range(513)}),
        ({"text": "x" * 64}, {"text": "x" * 65}),
    ],
)
def test_where_a_listpack_becomes_a_hashtable_for_good(either, smaller, larger):
    either.hset("object", mapping=smaller)
    assert either.object("encoding", "object") == "listpack"
    either.hset("object", mapping=larger | {"kept": 1})
    either.hdel("object", *larger)
    assert either.object("encoding", "object") == "hashtable"


def test_a_listpack_takes_little_more_than_its_bytes(either):
    fields = {f"point:{k}": 200 + k % 300 for k in range(1, 501)}
    either.hset("stock", mapping=fields)
    bare = 7 + sum(len(name) + 2 + 3 for name in fields)
    assert bare <= either.memory_usage("stock", samples=0) < 1.2 * bare + 100


def test_another_hset_takes_the_clock_from_a_field(either):
    either.hset("session", mapping={"user": "ada", "code": "1"})
    try:
        assert either.hexpire("absent", 60, "code") == [-2]
        assert either.hexpire("session", 60, "code") == [1]
    except redis.ResponseError as error:
        assert "unknown command" in str(error)  # before Redis 7.4 and Valkey 9.0
        return
    assert either.exists("absent") == 0
    either.hset("session", "code", "2")
    assert either.httl("session", "code") == [-1]
