"""The lists lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import lists


def steps(*names, transaction=True, days=30, first=0, last=9):
    """A `remember` made of some of its four commands, in one envelope."""

    def remember(r, key, product):
        with r.pipeline(transaction=transaction) as pipe:
            for name in names:
                match name:
                    case "lrem":
                        pipe.lrem(key, 0, product)
                    case "lpush" | "rpush":
                        getattr(pipe, name)(key, product)
                    case "ltrim":
                        pipe.ltrim(key, first, last)
                    case "expire":
                        pipe.expire(key, days * 86400)
                    case "expire nx":
                        pipe.expire(key, days * 86400, nx=True)
            pipe.execute()

    return remember


WHOLE = ("lrem", "lpush", "ltrim", "expire")
SCRIPT = """
redis.call('LREM', KEYS[1], 0, ARGV[1])
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, 9)
redis.call('EXPIRE', KEYS[1], 3600)
"""


def one_by_one(r, key, product):
    r.lrem(key, 0, product)
    r.lpush(key, product)
    r.ltrim(key, 0, 9)
    r.expire(key, 3600)


def first_clock_only(r, key, product):
    with r.pipeline() as pipe:
        pipe.exists(key).lrem(key, 0, product).lpush(key, product).ltrim(key, 0, 9)
        if not pipe.execute()[0]:
            r.expire(key, 3600)


def only_if_new(r, key, product):
    if r.lpos(key, product) is None:
        steps("lpush", "ltrim", "expire")(r, key, product)


def test_remember_is_accepted(learner):
    assert "all in one step" in lists.remember(learner, steps(*WHOLE))
    assert "all in one step" in lists.remember(learner, lambda r, key, p: r.eval(SCRIPT, 1, key, p))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda r, key, product: None, "should be"),
        (steps("lrem", "rpush", "ltrim", "expire", first=-10, last=-1), "oldest first"),
        (steps("lrem", "rpush", "ltrim", "expire"), "oldest ten|should be"),
        (steps("lrem", "lpush", "ltrim", "expire", first=-10, last=-1), "wrong end"),
        (steps("lrem", "lpush", "expire"), "12 are kept"),
        (steps("lpush", "ltrim", "expire"), "twice"),
        (only_if_new, "move to the front"),
        (steps("lrem", "lpush", "ltrim"), "no time to live"),
        (first_clock_only, "LREM empties"),
        (steps(*WHOLE, days=31), "30 days"),
        (one_by_one, "4 round trips"),
        (steps(*WHOLE, transaction=False), "runs its commands atomically"),
    ],
)
def test_remember_is_refused_with_its_reason(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        lists.remember(learner, wrong)


def cut(transaction):
    def take(r, key, n):
        with r.pipeline(transaction=transaction) as pipe:
            return pipe.lrange(key, 0, n - 1).ltrim(key, n, -1).execute()[0]

    return take


def look_then_cut(r, key, n):
    jobs = r.lrange(key, 0, n - 1)
    r.ltrim(key, n, -1)
    return jobs


def one_at_a_time(r, key, n):
    jobs = []
    while len(jobs) < n and (job := r.lpop(key)) is not None:
        jobs.append(job)
    return jobs


def test_take_is_accepted(learner):
    assert "went to exactly one" in lists.take(learner, lambda r, key, n: r.lpop(key, n) or [])
    assert "went to exactly one" in lists.take(learner, cut(transaction=True))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda r, key, n: r.lpop(key, n), "is None"),
        (lambda r, key, n: r.rpop(key, n) or [], "newest four"),
        (lambda r, key, n: [r.lpop(key) for _ in range(n)], "× None in it"),
        (lambda r, key, n: r.lrange(key, 0, n - 1), "then none|still in the list"),
        (lambda r, key, n: [], "there came"),
        (look_then_cut, "in 2 round trips. Between them"),
        (one_at_a_time, "no job goes out twice; but it took 4 round trips"),
        (cut(transaction=False), "only sent together"),
    ],
)
def test_take_is_refused_with_its_reason(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        lists.take(learner, wrong)


# ---------------------------------------------------------------- what the prose leans on


def test_redis_pys_patience_is_five_seconds_and_ten_retries():
    client = redis.Redis()
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 5
    assert client.get_retry()._retries == 10


def test_a_client_without_a_socket_timeout_waits_as_long_as_it_says(each_kind):
    with each_kind.client(socket_timeout=None) as patient:
        assert patient.blpop("none", timeout=0.2) is None


def test_the_race_is_lost_by_those_who_look_first(r):
    twice, nobody = lists._race_workers(r, "check:jobs", look_then_cut)
    r.delete("check:jobs")
    assert twice > 0 and nobody > 0


def test_lmove_and_lmpop_are_one_step_for_many(each_kind):
    from concurrent.futures import ThreadPoolExecutor

    jobs = [str(n) for n in range(400)]
    with each_kind.client() as r:
        for take in (
            lambda: r.lmove("jobs", "working", "LEFT", "RIGHT"),
            lambda: (r.lmpop(2, "none", "jobs", direction="LEFT") or [None, [None]])[1][0],
        ):
            r.flushall()
            r.rpush("jobs", *jobs)
            with ThreadPoolExecutor(8) as pool:
                handed = list(pool.map(lambda _, take=take: take(), range(500)))
            assert sorted(job for job in handed if job) == sorted(jobs)
