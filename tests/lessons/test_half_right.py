"""Answers that keep a part of an exercise's contract: a check says which part is missing."""

from __future__ import annotations

import json
import secrets

import pytest

from redis_lab import lessons
from redis_lab.judging import NotYet

DAY = 86_400


def at_once(r, transaction=True):
    return r.pipeline(transaction=transaction)


def load(r, prices, life):
    items = list(prices.items())
    for start in range(0, len(items), 1000):
        with at_once(r, False) as pipe:
            for product, cents in items[start : start + 1000]:
                pipe.set(f"price:{product}", cents, ex=life)
            pipe.execute()


def remember(r, key, product):
    with at_once(r) as pipe:
        pipe.lrem(key, 0, product).lpush(key, product).ltrim(key, 0, 9).expire(key, 30)
        pipe.execute()


def once(r, campaign, customer):
    with at_once(r) as pipe:
        pipe.sadd(f"check:{campaign}", customer).expire(f"check:{campaign}", 60, nx=True)
        return pipe.execute()[0] == 1


def viewed(r, user, page):
    last = f"check:last:{user}"
    with at_once(r, transaction=False) as pipe:
        pipe.pfadd("check:visitors", user).zincrby("check:top", 1, page)
        pipe.lpush(last, page).ltrim(last, 0, 4)
        for key in ("check:visitors", "check:top", last):
            pipe.expire(key, DAY)
        pipe.execute()


def merged(r, keys):
    with at_once(r) as pipe:
        pipe.pfmerge(keys[0], *keys).pfcount(keys[0])
        return pipe.execute()[1]


def overwritten(r, first, second):
    with at_once(r) as pipe:
        pipe.bitcount(first).bitop("AND", second, first, second).bitcount(second)
        came, _, again = pipe.execute()
    return came - again


def week(r, days, n):
    with at_once(r) as pipe:
        pipe.zunionstore("check:week", days).expire("check:week", 60)
        pipe.zrange("check:week", 0, 4, desc=True, withscores=True)
        return pipe.execute()[-1]


def login(life=1800, ends=True, forget=False):
    def answer(r, id, user):
        data = json.loads(r.get(f"check:{id}") or "{}")
        others = data.get("user", user) != user
        if others or (forget and "user" in data):
            data = {}
        new = secrets.token_urlsafe(16)
        r.set(f"check:{new}", json.dumps(data | {"user": user}), ex=life)
        if ends or not others:
            r.delete(f"check:{id}")
        return new

    return answer


BOOK = """
if redis.call('SET', KEYS[1], 1, 'NX', 'EX', 30) then redis.call('INCRBY', KEYS[2], ARGV[1]) end
"""


def book(r, job, cents):
    r.register_script(BOOK)(keys=[f"check:booked:{job}", "check:revenue"], args=[cents])


def deliver(waiting, announce):
    for item in list(waiting):
        announce(*item)
        announce(*item)
        waiting.remove(item)


def work(r, stream, group, consumer, handle):
    for _, entries in r.xreadgroup(group, consumer, {stream: ">"}, count=100):
        for entry, fields in entries:
            handle(entry, fields)
            r.xack(stream, group, entry)


def two_words(*words):
    a, b = (word if isinstance(word, bytes) else str(word).encode() for word in (*words, "")[:2])
    return b"*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(a), a, len(b), b)


HALF_RIGHT = {
    "its own TTL": (
        "strings.replace",
        lambda r, key, value: r.set(key, value, ex=50, xx=True),
        "now has \\d+: you have set a time to live of your own",
    ),
    "a longer TTL": (
        "strings.replace",
        lambda r, key, value: r.set(key, value, px=DAY * 1000, xx=True),
        "time to live of your own",
    ),
    "prices for a minute": ("pipelines.load", lambda r, p: load(r, p, 60), "live for an hour"),
    "a list for seconds": ("lists.remember", remember, "gone after"),
    "a campaign of a minute": ("sets.once", once, "lasts an hour"),
    "not all or nothing": ("which_structure.viewed", viewed, "All or nothing is a transaction"),
    "a merged day": ("hyperloglog_and_bitmaps.visitors", merged, "its own count is wrong"),
    "an overwritten day": ("hyperloglog_and_bitmaps.lost", overwritten, "a day has changed"),
    "always five": ("leaderboard.weekly", week, "asked for the 2 best, you return 5"),
    "a session of a minute": ("sessions.login", login(life=60), "lives 1800 seconds"),
    "Bob's old id": ("sessions.login", login(ends=False), "Bob's old id"),
    "her own cart": ("sessions.login", login(forget=True), "her own cart is gone"),
    "marks for half a minute": ("queue.book", book, "a mark is gone after"),
    "announced twice": ("invalidation.deliver", deliver, "announcements were made of"),
    "a batch of a hundred": ("streams.work", work, "of 13 you took 13"),
    "two words only": ("protocol.encode", two_words, "how many words come"),
}


@pytest.mark.parametrize("case", HALF_RIGHT)
def test_what_keeps_half_of_the_contract_is_refused_with_the_other_half(case, learner):
    name, answer, says = HALF_RIGHT[case]
    with pytest.raises(NotYet, match=says):
        lessons.find_check(name)(learner, answer)


def order_for_a_minute(client, order, fields):
    multi = client.multi()
    multi.hset(f"check:order:{order}", values=fields)
    multi.expire(f"check:order:{order}", 60)
    multi.rpush("check:orders", order)
    multi.exec()


def test_an_order_lives_for_an_hour(learner):
    with pytest.raises(NotYet, match="live for an hour"):
        lessons.find_check("serverless_http.place_order")(learner, order_for_a_minute)
