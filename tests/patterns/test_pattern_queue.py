"""The queues: at least once, whoever is killed when. One suite holds both of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter

import pytest
import redis
from adversary import FINE, LOST, Migration, alone, deliver, flaky, undeclared
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, soon, within, without_ttl

from redis_lab.judging import NotYet
from redis_lab.lessons import queue as exercises
from redis_lab.patterns.queue import (
    WEEK_S,
    AsyncListQueue,
    AsyncStreamQueue,
    Job,
    ListQueue,
    StreamQueue,
)
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

BOTH = [ListQueue, StreamQueue]
TWIN = {ListQueue: AsyncListQueue, StreamQueue: AsyncStreamQueue}
WEEK_MS = WEEK_S * 1000


@pytest.fixture(scope="module")
def lab(each_kind):
    return each_kind


@pytest.fixture(params=BOTH)
def Queue(request):
    return request.param


@pytest.fixture
def queue(r, Queue):
    return Queue(r, "q", lease_s=30, max_tries=3, backoff_s=0.02)


def counts(ready=0, taken=0, later=0, dead=0) -> dict[str, int]:
    return {"ready": ready, "taken": taken, "later": later, "dead": dead}


def expire(r: redis.Redis, queue: ListQueue, job: Job) -> None:
    """Let a job's lease run out without waiting for it."""
    r.zadd(queue.keys["leases"], {job.token: 1}, xx=True)


def fall_due(r: redis.Redis, queue: ListQueue) -> None:
    """Let everything that waits until later be due without waiting for it."""
    for job_id in r.zrange(queue.keys["later"], 0, -1):
        r.zadd(queue.keys["later"], {job_id: 1})


def test_a_life(queue, r):
    job_id = queue.put({"order": [7, None, "é"]})
    assert queue.counts() == counts(ready=1)
    job = queue.take()
    assert (job.id, job.payload, job.tries) == (job_id, {"order": [7, None, "é"]}, 1)
    assert queue.counts() == counts(taken=1)
    assert queue.take() is None
    assert queue.done(job) and not queue.fail(job) and not queue.renew(job)
    assert queue.done(job), "asked again, the answer is the same"
    assert queue.counts() == counts()
    assert not r.hlen(queue.keys["jobs"]) and not r.hlen(queue.keys["tries"])


def test_first_in_first_out(queue):
    for k in range(20):
        queue.put(k)
    assert [queue.take().payload for _ in range(20)] == list(range(20))


def test_every_key_lives_as_long_as_the_last_call_says(queue, r):
    queue.put("delayed", delay_s=60)
    for k in range(5):
        queue.put(k)
    queue.take()
    queue.fail(queue.take())
    expire(r, queue, queue.take())
    queue.reap()
    ttls = {key: r.pttl(key) for key in r.scan_iter()}
    assert 0 < ttls.pop("{q}:over") <= 300_000
    latest = WEEK_MS + 60_000  # a week after the delayed one is due
    assert len(ttls) >= 4 and all(latest - 60_000 < ttl <= latest for ttl in ttls.values())
    assert all(key.startswith("{q}:") for key in r.scan_iter())


def test_what_is_done_leaves_only_its_name_and_not_for_long(queue, r):
    queue.put("a")
    queue.done(queue.take())
    left = set(r.scan_iter()) - {queue.keys.get("stream")}
    assert left == {"{q}:over"} and 0 < r.pttl("{q}:over") <= 300_000
    short = type(queue)(r, "short", remember_s=0.02)
    short.put("a", id="a")
    short.done(short.take())
    assert within(60, lambda: not r.exists("{short}:over"))
    short.put("a", id="a")
    assert short.counts() == counts(ready=1), "forgotten, it is another job, as the contract says"


def test_the_key_that_blmove_makes_has_a_ttl_too(r):
    queue = ListQueue(r, "q")
    queue.put("a")
    assert len(queue._wait(0.1, (r.time()[0] + 50) * 1000)) == 1  # here the worker dies
    assert 0 < r.ttl("{q}:moved") <= 50
    assert queue.counts() == counts(taken=1)


def move(queue: ListQueue) -> list:
    """What a worker does that waits and is then killed, or stalled, before it has its lease."""
    moved = queue._wait(0.1, int(time.time() + 600) * 1000)
    assert moved
    return moved


def test_a_death_between_moving_and_the_lease(r, Queue):
    queue = Queue(r, "q", lease_s=0.05)
    queue.put("a")
    queue.counts()  # which makes the stream
    move(queue)
    assert queue.counts() == counts(taken=1)
    assert within(60, lambda: queue.reap() == 1)
    assert queue.counts() == counts(ready=1)
    assert queue.take().tries == 1, "nobody has worked on it"


def test_waking_up_after_the_job_was_brought_back(r, Queue):
    queue = Queue(r, "q", lease_s=0.05)
    queue.put("a")
    moved = move(queue)
    assert within(60, lambda: queue.reap() == 1)
    other = Queue(r, "q", lease_s=60).take()
    assert len(queue._call("take", queue.lease_ms, "late", *moved)) == 2
    assert queue.counts() == counts(taken=1) and queue.done(other)


def test_an_expired_lease(queue, r):
    queue.put("a")
    first = queue.take()
    assert queue.reap() == 0
    expire(r, queue, first)
    assert queue.reap() == 1 and queue.reap() == 0
    assert not queue.done(first) and not queue.fail(first) and not queue.renew(first)
    second = queue.take(block_s=5)
    assert (second.id, second.tries) == (first.id, 2)
    assert not queue.done(first) and not queue.fail(first) and not queue.renew(first)
    assert queue.counts() == counts(taken=1)
    assert queue.done(second)


def test_a_lease_that_ran_out_may_still_be_kept_until_somebody_reaps(queue, r):
    queue.put("a")
    job = queue.take()
    expire(r, queue, job)
    assert queue.done(job)
    assert queue.reap() == 0 and queue.counts() == counts()


def test_what_is_tried_again_waits_and_goes_to_the_end(r, Queue):
    """A job that kills its workers must not take the next one at once, and the one after that."""
    queue = Queue(r, "q", backoff_s=60)
    for letter in "abc":
        queue.put(letter)
    first, second = queue.take(), queue.take()
    expire(r, queue, first)
    assert queue.reap() == 1 and queue.fail(second)
    assert queue.counts() == counts(ready=1, later=2)
    assert queue.take().payload == "c" and queue.take() is None


def test_backoff_doubles_and_ends_among_the_dead(r, Queue):
    queue = Queue(r, "q", max_tries=4, backoff_s=10)
    job_id = queue.put("a")
    for tries in (1, 2, 3, 4):
        job = queue.take()
        assert (job.id, job.tries) == (job_id, tries)
        assert queue.fail(job)
        if tries < 4:
            assert queue.counts() == counts(later=1)
            due = r.zscore("{q}:later", job_id) / 1000 - time.time()
            assert 10 * 2 ** (tries - 1) - 3 < due <= 10 * 2 ** (tries - 1) + 1
            r.zadd("{q}:later", {job_id: 1})
    assert queue.counts() == counts(dead=1)
    assert r.lrange("{q}:dead", 0, -1) == [job_id]
    assert r.hget("{q}:jobs", job_id) == '"a"'


def test_a_job_that_kills_ends_among_the_dead(queue, r):
    queue.put("a")
    for back in (1, 1, 0):
        expire(r, queue, queue.take(block_s=5))
        assert queue.reap() == back
    assert queue.counts() == counts(dead=1)


def test_delay(queue):
    start = time.monotonic()
    queue.put("late", delay_s=0.6)
    queue.put("now")
    assert queue.counts() == counts(ready=1, later=1)
    assert queue.take().payload == "now" and queue.take() is None
    assert queue.take(block_s=30).payload == "late"
    assert time.monotonic() - start > 0.55


def test_waiting(queue):
    start = time.monotonic()
    assert queue.take(block_s=0.2) is None
    assert 0.15 < time.monotonic() - start < 30
    with soon(lambda: queue.put("a")):
        assert queue.take(block_s=10).payload == "a"


def test_a_job_that_falls_due_while_a_worker_waits(r):
    queue = ListQueue(r, "q")
    with soon(lambda: queue.put("b", delay_s=0.1)):
        assert queue.take(block_s=10).payload == "b"  # in the next turn


def test_the_stream_removed_while_a_worker_waits(r, lab):
    queue = StreamQueue(r, "q")

    def remove_and_put() -> None:
        assert within(60, lambda: any(c["cmd"] == "xreadgroup" for c in r.client_list()))
        r.delete("{q}:stream")
        queue.put("a")

    with lab.client() as other, soon(remove_and_put, 0):
        assert StreamQueue(other, "q").take(block_s=60).payload == "a"


def test_round_trips(queue, r):
    queue.fail(Job("", 0, 1))
    costs = []
    for act in (
        lambda: queue.put("a"),
        lambda: queue.counts(),
        lambda: queue.reap(),
        lambda: queue.done(queue.take() or Job("", 0, 1)),
        lambda: queue.put_many(range(100)),
        lambda: queue.renew(Job("", 0, 1)),
        lambda: queue.dead(),
        lambda: queue.requeue("none"),
        lambda: queue.discard("none"),
    ):
        act()  # loads the script
        with wire(r) as w:
            act()
        costs.append(w.round_trips)
    assert costs == [1, 1, 1, 2, 1, 1, 1, 1, 1]
    with wire(r) as w:
        Queue = type(queue)
        assert Queue(r, "empty").take(block_s=0.1) is None
    assert w.round_trips == 3


def test_late_words_after_the_keys_are_gone_leave_nothing_for_ever(queue, r):
    queue.put("a")
    job = queue.take()
    r.flushall()
    assert not queue.done(job) and not queue.fail(job)
    assert not without_ttl(r)


OPTIONS = [{"decode_responses": True}, {}, {"protocol": 3}, {"protocol": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=["text", "bytes", "RESP3", "RESP2"])
def test_clients_of_each_kind(lab, r, Queue, options):
    with lab.client(**{"decode_responses": False, **options}) as client:
        queue = Queue(client, "q")
        job_id = queue.put("é")
        job = queue.take(block_s=0.1)
        assert (job.id, job.payload) == (job_id, "é")
        with soon(lambda: Queue(r, "q").put("b")):
            assert queue.take(block_s=5).payload == "b"
        assert queue.done(job)


WORKER = """
    import os, random, signal, sys, time, redis
    from alone import ListQueue, StreamQueue
    r = redis.Redis.from_url({url!r}, decode_responses=True)
    queue = {kind}(r, "q", lease_s=0.4, max_tries=50, backoff_s=0.001)
    print("ready", flush=True)
    while True:
        queue.reap()
        if job := queue.take(block_s=0.05):
            time.sleep(0.001)
            with r.pipeline() as both:
                both.hincrby("effects", job.payload, 1).hset("ids", job.id, job.payload).execute()
            queue.done(job)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.drill)])
def test_workers_killed_at_random_moments_lose_nothing(lab, r, Queue, kills, figure):
    """SIGKILL from outside, whatever the worker is doing just then."""
    queue = Queue(r, "q", lease_s=0.4, max_tries=50)
    body = alone("queue", WORKER.format(url=lab.url, kind=Queue.__name__))

    def hire() -> subprocess.Popen:
        return subprocess.Popen(body, env=environment(), stdout=subprocess.PIPE)

    chance, jobs = random.Random(7), {}
    crew = [hire() for _ in range(3)]
    try:
        for kill in range(kills):
            victim = chance.randrange(len(crew))
            crew[victim].stdout.readline()
            jobs |= {queue.put(k): k for k in range(30 * kill, 30 * kill + 30)}
            time.sleep(chance.uniform(0, 0.02))
            os.kill(crew[victim].pid, signal.SIGKILL)
            crew[victim].communicate()
            crew[victim] = hire()
        assert within(30 + kills, lambda: not any(queue.counts().values()))
    finally:
        for process in crew:
            process.kill()
            process.communicate()
    done = {int(k): int(times) for k, times in r.hgetall("effects").items()}
    again = sum(done.values()) - len(done)
    figure(kills=kills, jobs=30 * kills, lost=30 * kills - len(done), done_again=again)
    assert set(done) == set(range(30 * kills))
    # What is done again was in a killed worker's hands, or its worker was slower than its lease
    assert sum(done.values()) - 30 * kills <= 3 * kills
    assert {job: int(k) for job, k in r.hgetall("ids").items()} == jobs


def test_many_workers_share(lab, r, Queue):
    queue = Queue(r, "q")
    for k in range(400):
        queue.put(k)
    taken: list[int] = []

    def work() -> None:
        with lab.client() as client:
            own = Queue(client, "q")
            while job := own.take(block_s=0.05):
                taken.append(job.payload)
                assert own.done(job)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert Counter(taken) == Counter(range(400))
    assert queue.counts() == counts()


def test_a_restart_in_the_middle(tmp_path, Queue):
    with server(appendonly="yes", appendfsync="always") as own, own.client() as client:
        queue = Queue(client, "q")
        for k in range(3):
            queue.put(k)
        job = queue.take()
        client.script_flush()
        assert queue.counts() == counts(ready=2, taken=1)
        own.restart()
        assert queue.counts() == counts(ready=2, taken=1)
        assert queue.done(job)
        assert [queue.take(block_s=0.1).payload for _ in range(2)] == [1, 2]


def test_on_a_cluster(three):
    with three.client() as client:
        for Queue, name in itertools.product(BOTH, "abc"):
            queue = Queue(client, f"{name}-{Queue.__name__}", backoff_s=0.01)
            queue.put(name)
            queue.put("late", delay_s=0.05)
            job = queue.take()
            assert queue.fail(job)
            found = [queue.take(block_s=2) for _ in range(2)]
            assert {job.payload for job in found} == {name, "late"}
            assert all(queue.done(job) for job in found)
            queue.reap()
            with soon(lambda queue=queue: queue.put("woken")):
                assert queue.take(block_s=5).payload == "woken"
            assert queue.counts() == counts(taken=1)


def test_asyncio(lab, r, Queue):
    async def a_life() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:  # replies as bytes
            queue = TWIN[Queue](client, "q", max_tries=2, backoff_s=0.001)
            ids = await asyncio.gather(*(queue.put(k) for k in range(10)))
            assert len(set(ids)) == 10 and len(await queue.put_many("ab")) == 2
            assert Queue(r, "q").counts() == counts(ready=12), "the twins share their keys"
            job = await queue.take()
            assert await queue.renew(job) and await queue.done(job) and await queue.done(job)
            assert not await queue.fail(job)
            for _ in range(11):
                assert await queue.fail(await queue.take())
            for _ in range(11):
                expire(r, Queue(r, "q"), await queue.take(block_s=5))
                assert await queue.reap() == 0
            dead = await queue.dead()
            assert len(dead) == 11 and {job.tries for job in dead} == {2}
            assert await queue.requeue(dead[0].id) and not await queue.requeue(dead[0].id)
            assert await queue.discard(dead[1].id) and not await queue.discard(dead[1].id)
            assert await queue.counts() == counts(ready=1, dead=9)
            assert (await queue.take()).id == dead[0].id
            waiting = asyncio.create_task(queue.take(block_s=10))
            await asyncio.sleep(0)
            await queue.put("late")
            assert (await waiting).payload == "late"

    asyncio.run(a_life())


def test_a_take_that_is_cancelled_gives_back_what_it_took(lab, r, Queue):
    """asyncio.timeout() around take(): the job is on its way to somebody who has left."""

    async def cancelled() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            queue = TWIN[Queue](client, "q", lease_s=3600)
            await queue.put("a")
            call = queue._call

            def took_and_cancelled(name: str, *args: object):
                if name != "take":
                    return call(name, *args)

                async def both() -> None:
                    await call(name, *args)
                    raise asyncio.CancelledError

                return both()

            queue._call = took_and_cancelled
            with pytest.raises(asyncio.CancelledError):
                await queue.take()
            queue._call = call
            assert (await queue.take()).tries == 1

    asyncio.run(cancelled())


def test_cancelled_again_and_again_nothing_is_held(lab, r, Queue):
    """At whatever moment: once the reaper has been, every job can be had."""

    async def often() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            queue = TWIN[Queue](client, "q", lease_s=0.05)
            chance = random.Random(5)
            await queue.put_many(range(20))
            held: dict[str, Job] = {}
            for _ in range(60):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(0.0001, 0.004)):
                        if job := await TWIN[Queue](client, "q", lease_s=3600).take():
                            held[job.id] = job
            found = set(held)
            deadline = time.monotonic() + 20
            while len(found) < 20 and time.monotonic() < deadline:
                await queue.reap()
                if job := await queue.take():
                    found.add(job.id)
                    assert await queue.done(job)
            assert len(found) == 20

    asyncio.run(often())


def test_a_client_of_the_wrong_kind(lab, r, Queue):
    async def wrong() -> None:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            with pytest.raises(TypeError, match=f"there is Async{Queue.__name__}"):
                Queue(client, "q")
            with pytest.raises(TypeError, match=r"needs a client of redis\.asyncio"):
                TWIN[Queue](r, "q")

    asyncio.run(wrong())


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prefix": ""}, "needs a prefix"),
        ({"prefix": "a{b}"}, "without curly brackets"),
        *(
            ({name: value}, "from a millisecond to 100 years")
            for name in ("lease_s", "backoff_s", "longest_backoff_s", "keep_s", "remember_s")
            for value in (0, -1, NAN, INF, 10**17)
        ),
        ({"max_tries": 0}, "at least one try"),
        ({"max_tries": 1.5}, "at least one try"),
        ({"lease_s": 60, "keep_s": 30}, "longer than lease_s"),
    ],
)
def test_arguments_that_make_no_sense(r, Queue, arguments, told):
    with pytest.raises(ValueError, match=told):
        Queue(r, **{"prefix": "q", **arguments})


def test_jobs_that_make_no_sense(r, queue):
    for delay_s in (-1, NAN, INF, 10**17):
        with pytest.raises(ValueError, match="from now to 100 years"):
            queue.put("a", delay_s)
    for job_id in ("", 7):
        with pytest.raises(ValueError, match="is a string"):
            queue.put("a", id=job_id)
    for payload in (NAN, {1, 2}, b"x"):
        with pytest.raises((ValueError, TypeError)):
            queue.put_many(["good", payload])
    assert queue.put_many([]) == [] and not list(r.scan_iter())


def test_an_impatient_client(lab, r, Queue):
    Queue(r, "q").put("a")
    with lab.client(socket_timeout=0.5) as client:
        queue = Queue(client, "q")
        assert queue.take().payload == "a" and queue.take(block_s=0.2) is None
        with pytest.raises(ValueError, match=r"socket_timeout is 0\.5 s"):
            queue.take(block_s=0.5)
    with lab.client(socket_timeout=None) as client:
        assert Queue(client, "q").take(block_s=0.05) is None


# ---------------------------------------------------------------- lost, late, and stalled


def test_a_put_sent_again_after_its_job_was_done(lab, queue):
    def somebody_does_it() -> None:
        assert queue.done(queue.take())

    queue.done(queue.take() or Job("", 0, 1))
    with flaky(lab) as client:
        own = type(queue)(client, "q")
        own.put("first, so that the script is known")
        somebody_does_it()
        client.connection_pool.connection_class.plan.append((True, somebody_does_it))
        own.put("mail")
    assert queue.counts() == counts()


def test_a_put_repeated_by_its_caller(queue):
    for _ in range(2):
        assert queue.put("mail", id="order 7") == "order 7"
        assert queue.put_many({"order 7": "mail", "order 8": "x"}) == ["order 7", "order 8"]
    assert queue.counts() == counts(ready=2)
    while job := queue.take():
        queue.done(job)
    queue.put("mail", id="order 7")
    assert queue.counts() == counts()


def test_a_reply_to_take_that_is_lost(lab, r, Queue):
    """With one try the job would be buried unworked: the call sent again finds what it took."""
    queue = Queue(r, "q", max_tries=1)
    queue.put("a")
    queue.take(), queue.put("b")
    with flaky(lab, LOST) as client:
        job = Queue(client, "q", max_tries=1).take()
    assert (job.payload, job.tries) == ("b", 1)
    assert queue.counts() == counts(taken=2) and queue.done(job)


@pytest.mark.parametrize("verb", ["done", "fail"])
def test_a_reply_to_done_or_fail_that_is_lost(lab, queue, verb):
    queue.put("a")
    getattr(queue, verb)(Job("", 0, 1))  # loads the script
    job = queue.take()
    with flaky(lab, LOST) as client:
        assert getattr(type(queue)(client, "q"), verb)(job)
    assert queue.counts() == (counts() if verb == "done" else counts(later=1))


@pytest.mark.parametrize("verb", ["done", "fail"])
def test_a_take_that_arrives_late_takes_nothing(lab, r, queue, verb):
    queue.put_many("ab")
    with flaky(lab) as client:
        own = type(queue)(client, "q", max_tries=3)
        job = own.take()
        sent = client.connection_pool.connection_class.sent
        take = [words for words in sent if job.token.encode() in words][-1]
        getattr(own, verb)(job)
    before = queue.counts()
    deliver(lab, take)
    assert queue.counts() == before


def test_a_worker_that_stalls_before_its_lease_robs_nobody(lab, r, Queue):
    """It has moved the job; meanwhile it is brought back, and another takes it."""
    queue, other, taken = Queue(r, "q", lease_s=0.05), Queue(r, "q", lease_s=600), []

    def put() -> None:
        queue.put("a")

    def stall() -> None:
        assert within(60, queue.reap)
        taken.append(other.take(block_s=5))

    queue.take()
    moved = (False, stall)
    plan = [(False, put), moved] if Queue is StreamQueue else [(False, put), FINE, moved]
    with flaky(lab, *plan) as client:
        assert Queue(client, "q", lease_s=0.05).take(block_s=1) is None
    assert taken[0].payload == "a" and other.done(taken[0])


def test_a_delayed_job_outlives_keep_s(r, Queue):
    Queue(r, "q", lease_s=0.2, keep_s=1).put("x", delay_s=1000)
    assert {r.pttl(key) > 1_000_000 for key in r.scan_iter()} == {True}
    Queue(r, "d").put("x", delay_s=8 * 86_400)
    assert r.pttl("{d}:jobs") > 15 * 86_400_000 - 60_000
    Queue(r, "q").counts()  # and no later call takes that away
    queue = Queue(r, "e", lease_s=0.2, keep_s=1)
    queue.put("x", delay_s=1.5)
    time.sleep(1.2)  # longer than keep_s, and nobody calls
    assert queue.take(block_s=10).payload == "x"


def test_a_backoff_does_not_outlive_the_queue(r, Queue):
    queue = Queue(r, "q", lease_s=0.2, keep_s=1, backoff_s=600)
    queue.put("x")
    queue.fail(queue.take())
    assert r.pttl("{q}:jobs") > 600_000


def test_a_queue_does_not_end_under_a_working_worker(r, Queue):
    queue = Queue(r, "q", lease_s=30, keep_s=31)
    queue.put("x")
    queue.take()
    assert r.pttl("{q}:jobs") > 60_000 - 5000


def test_a_backoff_has_a_limit(r, Queue):
    queue = Queue(r, "q", max_tries=100, longest_backoff_s=3600)
    queue.put("x", id="x")
    for tries in (12, 60):
        r.hset("{q}:tries", "x", tries)
        queue.fail(queue.take())
        assert 3500 < r.zscore("{q}:later", "x") / 1000 - r.time()[0] <= 3601
        fall_due(r, queue)


def test_a_lease_is_its_takers_and_not_the_reapers(r, Queue):
    """A rolling deployment: the old processes have short leases, the new ones long ones."""
    queue, old = Queue(r, "q", lease_s=600), Queue(r, "q", lease_s=0.01)
    queue.put_many("ab")
    job, brief = queue.take(), old.take()
    assert within(60, lambda: old.reap() == 1)
    assert queue.done(job) and not old.done(brief)


def test_renew(queue, r):
    queue.put("a")
    job = queue.take()
    expire(r, queue, job)
    assert queue.renew(job) and queue.reap() == 0 and queue.done(job) and not queue.renew(job)


def test_a_stream_that_somebody_trimmed(r):
    queue = StreamQueue(r, "q", lease_s=0.05, backoff_s=0.001)
    queue.put("taken")
    queue.take(), queue.put("moved")
    move(queue)
    r.xtrim("{q}:stream", 0)
    assert within(60, lambda: queue.reap() == 1)
    assert queue.take(block_s=5).payload == "taken"
    queue.put("next")
    assert queue.take().payload == "next", "and so the reaper goes on"


def test_a_line_with_names_of_no_job(r, queue):
    queue.put_many("ab")
    r.hdel("{q}:jobs", queue.take().id)
    first = queue.take()
    queue.put("c")
    for key in r.hkeys("{q}:jobs"):
        if key != first.id:
            r.hdel("{q}:jobs", key)
    assert queue.take() is None


def test_five_thousand_at_once(queue):
    ids = queue.put_many({f"job {k}": k for k in range(5000)})
    assert ids[-1] == "job 4999" and queue.counts() == counts(ready=5000)
    assert queue.take().payload == 0


def test_the_dead(queue, r):
    for payload in ("a", "b"):
        queue.put(payload, id=payload)
    while queue.counts()["dead"] < 2:
        queue.fail(queue.take(block_s=5))
    assert {(job.id, job.payload, job.tries) for job in queue.dead()} == {
        ("a", "a", 3),
        ("b", "b", 3),
    }
    assert len(queue.dead(most=1)) == 1
    assert queue.requeue("a") and queue.discard("b")
    assert not queue.requeue("a") and not queue.discard("b") and not queue.requeue("none")
    assert queue.counts() == counts(ready=1)
    assert queue.take().tries == 1
    queue.put("b", id="b")
    assert queue.counts() == counts(taken=1), "what was discarded does not come back"


def test_what_scripts_touch_is_declared(lab, queue):
    queue.take()
    with undeclared(lab) as keys:
        queue.put_many("abc")
        queue.put("d", delay_s=60)
        job, lost = queue.take(), queue.take()
        queue.renew(job), queue.fail(job)
        expire(queue.client, queue, lost)
        queue.reap(), queue.counts(), queue.dead(), queue.requeue("x"), queue.discard("x")
        queue.done(queue.take())
        queue._call("give_back", queue.take(block_s=2).token)
    assert keys == set()


def test_the_rights_that_the_docstring_names(lab, r, Queue):
    assert "+@read +@write +@blocking +@scripting +@connection +time" in ListQueue.__doc__
    rights = "~{q}:* +@read +@write +@blocking +@scripting +@connection +time"
    r.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", *rights.split())
    with lab.client(username="worker", password="pw") as client:
        queue = Queue(client, "q", max_tries=1)
        assert queue.take(block_s=0.02) is None
        queue.put_many("abc")
        assert queue.done(queue.take()) and queue.fail(queue.take())
        assert queue.renew(queue.take()) and queue.requeue(queue.dead()[0].id)
        queue.reap(), queue.counts(), queue.discard("x")
    r.execute_command("ACL", "DELUSER", "worker")


def test_while_the_slot_moves_nothing_is_lost(moving):
    """Calls may be refused meanwhile; what was accepted is there in the end."""
    with moving.client() as client:
        for Queue in BOTH:
            queue = Queue(client, f"m{Queue.__name__}")
            queue.put_many({"done": 0, "taken": 1, "ready": 2})
            job, taken = queue.take(), queue.take()
            move_slot = Migration(moving, queue.keys["jobs"])
            put = ["ready"]
            keys = move_slot.keys()
            for some in (keys[::2], keys[1::2]):
                move_slot.move(*some)
                with contextlib.suppress(redis.RedisError):
                    put.append(queue.put(3, id=f"late {len(put)}"))
                with contextlib.suppress(redis.RedisError):
                    queue.done(job)
            move_slot.finish()
            assert queue.done(job) and queue.done(taken)
            found = []
            while job := queue.take():
                found.append(job.id)
            assert set(put) <= set(found) <= {*put, "late 1", "late 2"}


# ---------------------------------------------------------------- workers

WORKS = """
    import os, signal, sys, threading, time, redis
    from alone import {kind}
    r = redis.Redis.from_url({url!r}, decode_responses=True)
    def handle(job):
        if job.payload == "bad":
            raise ValueError("bad")
        r.rpush("begun", job.payload)
        while job.payload == "long" and not r.exists("finish"):
            time.sleep(0.01)
        r.rpush("handled", job.payload)
    {kind}(r, "q", max_tries=1).work(handle)
    print("ended well")
"""
WORKS_ASYNC = """
    import asyncio, redis.asyncio
    from alone import Async{kind}
    r = redis.asyncio.Redis.from_url({url!r}, decode_responses=True)
    async def handle(job):
        if job.payload == "bad":
            raise ValueError("bad")
        await r.rpush("begun", job.payload)
        while job.payload == "long" and not await r.exists("finish"):
            await asyncio.sleep(0.01)
        await r.rpush("handled", job.payload)
    asyncio.run(Async{kind}(r, "q", max_tries=1).work(handle))
    print("ended well")
"""


@pytest.mark.parametrize("body", [WORKS, WORKS_ASYNC], ids=["threads", "asyncio"])
def test_a_worker_that_is_asked_to_end(lab, r, Queue, body):
    queue = Queue(r, "q")
    queue.put_many(["short", "bad", "long", "never begun"])
    worker = subprocess.Popen(
        alone("queue", body.format(url=lab.url, kind=Queue.__name__)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert within(60, lambda: r.llen("begun") == 2 or worker.poll() is not None)
        worker.send_signal(signal.SIGTERM)
        r.set("finish", 1, ex=60)
        out, err = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()
    assert (out, worker.returncode) == ("ended well\n", 0), err
    assert r.lrange("handled", 0, -1) == ["short", "long"]
    assert queue.counts() == counts(ready=1, dead=1)


def test_a_worker_goes_on_when_redis_is_back(Queue):
    with server(appendonly="yes", appendfsync="always") as own, own.client() as client:
        queue, stop, handled = Queue(client, "q", lease_s=600), threading.Event(), []
        thread = threading.Thread(target=queue.work, args=[handled.append], kwargs={"stop": stop})
        thread.start()
        try:
            queue.put("before")
            assert within(60, lambda: len(handled) == 1)
            own.restart()
            queue.put("after")
            assert within(60, lambda: len(handled) == 2)
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive() and [job.payload for job in handled] == ["before", "after"]


class Machine(RuleBasedStateMachine):
    """Against a model: which jobs are where, and who holds which try."""

    server, Kind = None, ListQueue
    TRIES = 3

    def __init__(self) -> None:
        super().__init__()
        self.r = Machine.server.client()
        self.r.flushall()
        self.queue = Machine.Kind(self.r, "m", lease_s=30, max_tries=self.TRIES, backoff_s=60)
        self.ready: list[str] = []
        self.later: list[str] = []
        self.dead: set[str] = set()
        self.held: dict[str, Job] = {}
        self.stale: list[Job] = []
        self.ended: dict[str, bool] = {}
        self.expired: set[str] = set()

    @rule(delayed=st.booleans())
    def put(self, delayed: bool) -> None:
        job_id = self.queue.put(None, delay_s=60 if delayed else 0)
        (self.later if delayed else self.ready).append(job_id)

    @rule()
    def take(self) -> None:
        job = self.queue.take()
        if not self.ready:
            assert job is None
            return
        assert job.id == self.ready.pop(0)
        assert job.tries <= self.TRIES
        self.held[job.id] = job

    @rule(data=st.data(), well=st.booleans())
    def finish(self, data: st.DataObject, well: bool) -> None:
        if self.held:
            job = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            assert self.queue.done(job) if well else self.queue.fail(job)
            self.expired.discard(job.id)
            self.stale.append(job)
            self.ended[job.token] = well
            if not well and job.tries == self.TRIES:
                self.dead.add(job.id)
            elif not well:
                self.later.append(job.id)

    @rule(data=st.data(), well=st.booleans())
    def finish_what_is_not_mine(self, data: st.DataObject, well: bool) -> None:
        if self.stale:
            job = data.draw(st.sampled_from(self.stale))
            again = self.ended.get(job.token) is well  # the same answer as the first time
            assert (self.queue.done(job) if well else self.queue.fail(job)) is again
            assert not self.queue.renew(job)

    @rule(data=st.data())
    def fall_due(self, data: st.DataObject) -> None:
        if self.later:
            job_id = data.draw(st.sampled_from(self.later))
            self.later.remove(job_id)
            self.r.zadd("{m}:later", {job_id: 1})
            due = self.queue.take()  # which moves what is due to the end of the line
            self.ready.append(job_id)
            assert due.id == self.ready.pop(0)
            self.held[due.id] = due

    @rule(data=st.data())
    def lose_one(self, data: st.DataObject) -> None:
        if self.held:
            job = self.held[data.draw(st.sampled_from(sorted(self.held)))]
            expire(self.r, self.queue, job)
            assert self.queue.reap() == (job.tries < self.TRIES)
            del self.held[job.id]
            self.stale.append(job)
            if job.tries == self.TRIES:
                self.dead.add(job.id)
            else:
                self.later.append(job.id)

    @rule(data=st.data(), revive=st.booleans())
    def attend_to_a_dead_one(self, data: st.DataObject, revive: bool) -> None:
        assert {job.id for job in self.queue.dead()} == self.dead
        if self.dead:
            job_id = data.draw(st.sampled_from(sorted(self.dead)))
            assert self.queue.requeue(job_id) if revive else self.queue.discard(job_id)
            self.dead.remove(job_id)
            if revive:
                self.ready.append(job_id)

    @invariant()
    def everybody_is_somewhere(self) -> None:
        assert self.queue.counts() == counts(
            len(self.ready), len(self.held), len(self.later), len(self.dead)
        )
        known = {*self.ready, *self.held, *self.later, *self.dead}
        assert set(self.r.hkeys("{m}:jobs")) == known
        assert set(self.r.hkeys("{m}:tries")) <= known
        assert not without_ttl(self.r)

    def teardown(self) -> None:
        self.r.close()


@pytest.mark.parametrize("examples", [6, pytest.param(200, marks=pytest.mark.drill)])
def test_against_a_model(lab, Queue, examples, figure):
    Machine.server, Machine.Kind = lab, Queue
    quick = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)
    figure(histories=examples, of_up_to_25_calls_unlike_the_model=0)


# ---------------------------------------------------------------- exercises


ONCE = """
if redis.call('SET', KEYS[1], 1, 'NX'{ex}) then redis.call('INCRBY', KEYS[2], ARGV[1]) end
"""


def scripted(ex=", 'EX', 60"):
    def book(r, job_id, cents):
        once = r.register_script(ONCE.format(ex=ex))
        once(keys=[f"check:b:{job_id}", "check:revenue"], args=[cents])

    return book


def watched(r, job_id, cents):
    with r.pipeline() as pipe:
        while True:
            try:
                pipe.watch(f"check:{job_id}")
                if pipe.exists(f"check:{job_id}"):
                    return
                pipe.multi()
                pipe.set(f"check:{job_id}", 1, ex=60).incrby("check:revenue", cents).execute()
                return
            except redis.WatchError:
                continue


def amount_first(r, job_id, cents):
    if not r.exists(f"check:{job_id}"):
        r.incrby("check:revenue", cents)
        r.set(f"check:{job_id}", 1, ex=60)


def mark_first(r, job_id, cents):
    if r.set(f"check:{job_id}", 1, nx=True, ex=60):
        r.incrby("check:revenue", cents)


def look_then_both(r, job_id, cents):
    if not r.exists(f"check:{job_id}"):
        time.sleep(0.001)
        with r.pipeline() as pipe:
            pipe.set(f"check:{job_id}", 1, ex=60).incrby("check:revenue", cents).execute()


@pytest.mark.parametrize("right", [scripted(), watched])
def test_book_is_accepted(learner, right):
    assert exercises.book(learner, right).startswith("right")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda r, job, cents: r.incrby("check:revenue", cents), "12 should be booked, not 17"),
        (mark_first, "never was"),
        (amount_first, "booked again"),
        (look_then_both, "40 jobs were each delivered"),
        (scripted(ex=""), "time to live"),
    ],
)
def test_book_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.book(learner, wrong)


MOVE = """
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE'{more})
for _, job in ipairs(due) do
  redis.call('ZREM', KEYS[1], job)
  redis.call('{push}', KEYS[2], job)
end
return #due
"""


def mover(push="LPUSH", before="", more=""):
    def move_due(r, now):
        move = r.register_script(MOVE.format(push=push, more=more))
        return move(keys=["check:later", "check:ready"], args=[f"{before}{now}"])

    return move_due


def remove_then_push(r, now):
    due = r.zrange("check:later", "-inf", now, byscore=True)
    for job in due:
        if r.zrem("check:later", job):
            r.lpush("check:ready", job)
    return len(due)


def push_then_remove(r, now):
    due = r.zrange("check:later", "-inf", now, byscore=True)
    for job in due:
        r.lpush("check:ready", job)
        r.zrem("check:later", job)
    return len(due)


def both_after_looking(r, now):
    due = r.zrange("check:later", "-inf", now, byscore=True)
    time.sleep(0.001)
    if due:
        with r.pipeline() as pipe:
            pipe.zrem("check:later", *due).lpush("check:ready", *due).execute()
    return len(due)


def everything(r, now):
    jobs = r.zrange("check:later", 0, -1)
    for job in jobs:
        r.lpush("check:ready", job)
    r.delete("check:later")
    return len(jobs)


def test_move_due_is_accepted(learner):
    assert "31 jobs" in exercises.move_due(learner, mover())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (remove_then_push, "in neither"),
        (push_then_remove, "in both"),
        (both_after_looking, "more than once"),
        (mover(push="RPUSH"), "due first should be taken first"),
        (mover(before="("), "due at 1000"),
        (everything, "due later"),
        (mover(more=", 'LIMIT', 0, 10"), "21 of 31"),
        (lambda r, now: mover()(r, now) and 7, "then none; you say 7"),
    ],
)
def test_move_due_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        exercises.move_due(learner, wrong)
