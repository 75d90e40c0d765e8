"""The queues: at least once, whoever is killed when. One suite holds both of them."""

from __future__ import annotations

import asyncio
import doctest
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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from processes import environment, script, within

from redis_lab.errors import LabError
from redis_lab.exercises import queue as exercises
from redis_lab.lesson import NotYet
from redis_lab.patterns.queue import Job, ListQueue
from redis_lab.patterns.stream_queue import StreamQueue
from redis_lab.server import server
from redis_lab.topology import cluster
from redis_lab.wire import wire

BOTH = [ListQueue, StreamQueue]


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
    if isinstance(queue, StreamQueue):
        r.xclaim(queue.keys["stream"], "workers", "any", 0, [job.entry], idle=60_000, justid=True)
    else:
        r.zadd(queue.keys["leases"], {job.id: 1})


def test_a_life(queue, r):
    job_id = queue.put({"order": [7, None, "é"]})
    assert queue.counts() == counts(ready=1)
    job = queue.take()
    assert (job.id, job.payload, job.tries) == (job_id, {"order": [7, None, "é"]}, 1)
    assert queue.counts() == counts(taken=1)
    assert queue.take() is None
    assert queue.done(job) and not queue.done(job) and not queue.fail(job)
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
    week_ms = 7 * 86_400_000
    ttls = [r.pttl(key) for key in r.scan_iter()]
    assert len(ttls) >= 4 and all(week_ms - 60_000 < ttl <= week_ms for ttl in ttls)
    assert all(key.startswith("{q}:") for key in r.scan_iter())


def test_the_key_that_blmove_makes_has_a_ttl_too(r):
    queue = ListQueue(r, "q")
    queue.put("a")
    assert len(queue.wait(0.1)) == 1  # and here the worker dies, before its lease
    assert 0 < r.ttl("{q}:taken") <= 7 * 86_400
    assert queue.counts() == counts(taken=1)


def test_a_death_between_blmove_and_the_lease(r):
    queue = ListQueue(r, "q", lease_s=0.05)
    queue.put("a")
    queue.wait(0.1)
    assert queue.reap() == 0  # it has a lease now
    time.sleep(0.08)
    assert queue.reap() == 1
    assert queue.take().tries == 1


def test_a_death_between_xreadgroup_and_the_count(r):
    queue = StreamQueue(r, "q", lease_s=0.05)
    queue.put("a")
    queue.take(), queue.put("b")
    assert len(queue.wait(0.1)) == 2
    time.sleep(0.08)
    assert queue.reap() == 2
    assert queue.counts() == counts(ready=2)


@pytest.mark.parametrize("Late", BOTH)
def test_waking_up_after_the_job_was_brought_back(r, Late):
    queue = Late(r, "q", lease_s=0.05)
    queue.put("a")
    moved = queue.wait(0.1)
    queue.reap()
    time.sleep(0.08)
    queue.reap()
    assert len(queue.call("take", queue.lease_ms, *moved)) == 1
    assert queue.counts() == counts(ready=1)


def test_an_expired_lease(queue, r):
    queue.put("a")
    first = queue.take()
    assert queue.reap() == 0
    expire(r, queue, first)
    assert queue.reap() == 1 and queue.reap() == 0
    assert not queue.done(first) and not queue.fail(first)
    second = queue.take()
    assert (second.id, second.tries) == (first.id, 2)
    assert not queue.done(first) and not queue.fail(first)
    assert queue.counts() == counts(taken=1)
    assert queue.done(second)


def test_a_lease_that_ran_out_may_still_be_kept_until_somebody_reaps(queue, r):
    queue.put("a")
    job = queue.take()
    expire(r, queue, job)
    assert queue.done(job)
    assert queue.reap() == 0 and queue.counts() == counts()


def test_where_a_job_comes_back_to(r):
    for Kind, order in ((ListQueue, "abc"), (StreamQueue, "bca")):
        queue = Kind(r, Kind.__name__)
        for letter in "abc":
            queue.put(letter)
        expire(r, queue, queue.take())
        queue.reap()
        assert "".join(queue.take().payload for _ in range(3)) == order


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
        expire(r, queue, queue.take())
        assert queue.reap() == back
    assert queue.counts() == counts(dead=1)


def test_delay(queue):
    queue.put("late", delay_s=0.15)
    queue.put("now")
    assert queue.counts() == counts(ready=1, later=1)
    assert queue.take().payload == "now" and queue.take() is None
    start = time.monotonic()
    assert queue.take(block_s=5).payload == "late"
    assert 0.1 < time.monotonic() - start < 2


def test_waiting(queue):
    start = time.monotonic()
    assert queue.take(block_s=0.2) is None
    assert 0.15 < time.monotonic() - start < 1.5
    threading.Timer(0.1, lambda: queue.put("a")).start()
    assert queue.take(block_s=10).payload == "a"


def test_a_job_that_falls_due_while_a_worker_waits(r):
    queue = ListQueue(r, "q")
    threading.Timer(0.1, lambda: queue.put("b", delay_s=0.1)).start()
    assert queue.take(block_s=10).payload == "b"  # in the next turn


def test_the_stream_removed_while_a_worker_waits(r, lab):
    queue = StreamQueue(r, "q")
    threading.Timer(0.2, lambda: (r.delete("{q}:stream"), queue.put("a"))).start()
    with lab.client() as other:
        assert StreamQueue(other, "q").take(block_s=5).payload == "a"


def test_round_trips(queue, r):
    queue.put("warm")
    queue.done(queue.take())
    queue.fail(queue.take() or Job("", 0, 1))
    costs = []
    for act in (
        lambda: queue.put("a"),
        lambda: queue.counts(),
        lambda: queue.reap(),
        lambda: queue.done(queue.take()),
    ):
        with wire(r) as w:
            act()
        costs.append(w.round_trips)
    with wire(r) as w:
        assert queue.take(block_s=0.1) is None
    assert (costs[0], costs[3], w.round_trips) == (1, 2, 3)
    with wire(r) as w:
        queue.counts(), queue.reap()
    assert w.round_trips == 2


def test_a_put_that_the_client_sends_again_is_one_job(queue):
    for _ in range(3):
        queue.call("put", "same-id", '"a"', 0)
    assert queue.counts() == counts(ready=1)


def test_late_words_after_the_keys_are_gone_leave_nothing_for_ever(queue, r):
    queue.put("a")
    job = queue.take()
    r.flushall()
    assert not queue.done(job) and not queue.fail(job)
    assert all(r.pttl(key) > 0 for key in r.scan_iter())


OPTIONS = [{"decode_responses": True}, {}, {"protocol": 3}, {"protocol": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=["text", "bytes", "RESP3", "RESP2"])
def test_clients_of_each_kind(lab, r, Queue, options):
    with lab.client(**{"decode_responses": False, **options}) as client:
        queue = Queue(client, "q")
        job_id = queue.put("é")
        job = queue.take(block_s=0.1)
        assert (job.id, job.payload) == (job_id, "é")
        threading.Timer(0.1, lambda: Queue(r, "q").put("b")).start()
        assert queue.take(block_s=5).payload == "b"
        assert queue.done(job)


WORKER = """
    import os, random, signal, sys, time, redis
    from redis_lab.patterns.queue import ListQueue
    from redis_lab.patterns.stream_queue import StreamQueue
    r = redis.Redis.from_url({url!r}, decode_responses=True)
    queue = {kind}(r, "q", lease_s=0.4, max_tries=50)
    print("ready", flush=True)
    while True:
        queue.reap()
        if job := queue.take(block_s=0.05):
            time.sleep(0.001)
            with r.pipeline() as both:
                both.hincrby("effects", job.payload, 1).hset("ids", job.id, job.payload).execute()
            queue.done(job)
"""


def test_workers_killed_at_random_moments_lose_nothing(lab, r, Queue):
    """SIGKILL from outside, whatever the worker is doing just then."""
    queue = Queue(r, "q", lease_s=0.4, max_tries=50)
    body = script(WORKER.format(url=lab.url, kind=Queue.__name__))

    def hire() -> subprocess.Popen:
        return subprocess.Popen(body, env=environment(), stdout=subprocess.PIPE)

    chance, jobs = random.Random(7), {}
    crew = [hire() for _ in range(3)]
    try:
        for kill in range(4):
            victim = chance.randrange(len(crew))
            crew[victim].stdout.readline()
            jobs |= {queue.put(k): k for k in range(50 * kill, 50 * kill + 50)}
            time.sleep(chance.uniform(0, 0.02))
            os.kill(crew[victim].pid, signal.SIGKILL)
            crew[victim].communicate()
            crew[victim] = hire()
        assert within(20, lambda: not any(queue.counts().values()))
    finally:
        for process in crew:
            process.kill()
            process.communicate()
    done = {int(k): int(times) for k, times in r.hgetall("effects").items()}
    assert set(done) == set(range(200))
    # What is done again was in a killed worker's hands, or its worker was slower than its lease
    assert sum(done.values()) - 200 <= 3 * 4
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


def test_on_a_cluster():
    with cluster() as nodes, nodes.client() as client:
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
            threading.Timer(0.05, lambda queue=queue: queue.put("woken")).start()
            assert queue.take(block_s=5).payload == "woken"
            assert queue.counts() == counts(taken=1)


def test_asyncio(lab, r, Queue):
    async def put_and_count() -> dict:
        async with redis.asyncio.Redis.from_url(lab.url) as client:
            queue = Queue(client, "q")
            ids = await asyncio.gather(*(queue.put(k) for k in range(10)))
            assert len(set(ids)) == 10
            with pytest.raises(LabError, match="in a thread"):
                queue.take()
            job = await asyncio.to_thread(Queue(r, "q").take)
            assert await queue.done(job) and not await queue.fail(job)
            assert await queue.reap() == 0
            return await queue.counts()

    assert asyncio.run(put_and_count()) == counts(ready=9)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prefix": ""}, "needs a prefix"),
        ({"prefix": "a{b}"}, "without curly brackets"),
        ({"prefix": "q", "lease_s": 0}, "a millisecond at least"),
        ({"prefix": "q", "backoff_s": -1}, "a millisecond at least"),
        ({"prefix": "q", "max_tries": 0}, "one try at least"),
        ({"prefix": "q", "lease_s": 60, "keep_s": 30}, "longer than a lease"),
    ],
)
def test_arguments_that_make_no_sense(r, Queue, arguments, told):
    with pytest.raises(LabError, match=told):
        Queue(r, **arguments)
    with pytest.raises(LabError, match="before it is put"):
        Queue(r, "q").put("a", delay_s=-1)


def test_an_impatient_client(lab, r, Queue):
    Queue(r, "q").put("a")
    with lab.client(socket_timeout=0.5) as client:
        queue = Queue(client, "q")
        assert queue.take().payload == "a" and queue.take(block_s=0.2) is None
        with pytest.raises(LabError, match=r"socket_timeout is 0\.5 s"):
            queue.take(block_s=0.5)
    with lab.client(socket_timeout=None) as client:
        assert Queue(client, "q").take(block_s=0.05) is None


def test_the_docstring(r, Queue):
    found = doctest.DocTestFinder().find(Queue, globs={Queue.__name__: Queue, "r": r})
    ran = [doctest.DocTestRunner().run(test) for test in found if test.examples]
    assert ran and not any(result.failed for result in ran)


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
            if not well and job.tries == self.TRIES:
                self.dead.add(job.id)
            elif not well:
                self.later.append(job.id)

    @rule(data=st.data(), well=st.booleans())
    def finish_what_is_not_mine(self, data: st.DataObject, well: bool) -> None:
        if self.stale:
            job = data.draw(st.sampled_from(self.stale))
            assert not (self.queue.done(job) if well else self.queue.fail(job))

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
                at = 0 if Machine.Kind is ListQueue else len(self.ready)
                self.ready.insert(at, job.id)

    @invariant()
    def everybody_is_somewhere(self) -> None:
        assert self.queue.counts() == counts(
            len(self.ready), len(self.held), len(self.later), len(self.dead)
        )
        known = {*self.ready, *self.held, *self.later, *self.dead}
        assert set(self.r.hkeys("{m}:jobs")) == known
        assert set(self.r.hkeys("{m}:tries")) <= known
        assert all(self.r.ttl(key) > 0 for key in self.r.scan_iter())

    def teardown(self) -> None:
        self.r.close()


def test_against_a_model(lab, Queue):
    Machine.server, Machine.Kind = lab, Queue
    quick = settings(
        max_examples=15,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)


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
