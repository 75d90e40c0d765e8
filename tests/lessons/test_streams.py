"""The streams lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import contextlib

import pytest
import redis

from redis_lab.judging import NotYet
from redis_lab.lessons import streams

# ---------------------------------------------------------------- work


def batch(r, stream, group, consumer):
    return r.xreadgroup(group, consumer, {stream: ">"}, count=10)[0][1]


def after_the_batch(r, stream, group, consumer, handle):
    entries = batch(r, stream, group, consumer)
    for entry, fields in entries:
        handle(entry, fields)
    r.xack(stream, group, *[entry for entry, _ in entries])


def after_each(r, stream, group, consumer, handle):
    for entry, fields in batch(r, stream, group, consumer):
        handle(entry, fields)
        r.xack(stream, group, entry)


def passing_over(r, stream, group, consumer, handle):
    for entry, fields in batch(r, stream, group, consumer):
        try:
            handle(entry, fields)
        except Exception:
            continue
        r.xack(stream, group, entry)


@pytest.mark.parametrize(
    ("answer", "trips"), [(after_the_batch, 2), (after_each, 11), (passing_over, 11)]
)
def test_work_is_accepted(learner, answer, trips):
    assert f"in {trips} round trips" in streams.work(learner, answer)


def before(r, stream, group, consumer, handle):
    entries = batch(r, stream, group, consumer)
    r.xack(stream, group, *[entry for entry, _ in entries])
    for entry, fields in entries:
        handle(entry, fields)


def finally_(r, stream, group, consumer, handle):
    entries = batch(r, stream, group, consumer)
    try:
        for entry, fields in entries:
            handle(entry, fields)
    finally:
        r.xack(stream, group, *[entry for entry, _ in entries])


def swallowed(r, stream, group, consumer, handle):
    for entry, fields in batch(r, stream, group, consumer):
        with contextlib.suppress(Exception):
            handle(entry, fields)
        r.xack(stream, group, entry)


def without_notes(r, stream, group, consumer, handle):
    reply = r.xreadgroup(group, consumer, {stream: ">"}, count=10, noack=True)
    for entry, fields in reply[0][1]:
        handle(entry, fields)


def never(r, stream, group, consumer, handle):
    for entry, fields in batch(r, stream, group, consumer):
        handle(entry, fields)


def own_pending(r, stream, group, consumer, handle):
    for entry, fields in r.xreadgroup(group, consumer, {stream: "0"}, count=10)[0][1]:
        handle(entry, fields)


def a_single_one(r, stream, group, consumer, handle):
    [(entry, fields)] = r.xreadgroup(group, consumer, {stream: ">"}, count=1)[0][1]
    handle(entry, fields)
    r.xack(stream, group, entry)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (before, "7 entries are lost"),
        (finally_, "7 entries are lost"),
        (swallowed, "1 entries are lost"),
        (without_notes, "7 entries are lost"),
        (never, "10 are pending still"),
        (own_pending, "nothing was handled"),
        (a_single_one, "1 of 10"),
    ],
)
def test_work_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        streams.work(learner, answer)


# ---------------------------------------------------------------- recover


def pages(r, stream, group, consumer, idle_ms, *, until_empty=False, **more):
    found, cursor = [], "0-0"
    while True:
        cursor, claimed, _ = r.xautoclaim(stream, group, consumer, idle_ms, start_id=cursor, **more)
        found += [entry for entry, _ in claimed]
        if cursor == "0-0" or (until_empty and not claimed):
            return found


def of_all_at_once(r, stream, group, consumer, idle_ms):
    """The other way: look at the notes, then claim."""
    notes = r.xpending_range(stream, group, "-", "+", 10_000, idle=idle_ms)
    ids = [note["message_id"] for note in notes]
    return r.xclaim(stream, group, consumer, idle_ms, ids, justid=True)


@pytest.mark.parametrize("answer", [pages, of_all_at_once, lambda *args: pages(*args, count=1000)])
def test_recover_is_accepted(learner, answer):
    assert "all 300 idle entries" in streams.recover(learner, answer)


def one_page(r, stream, group, consumer, idle_ms):
    return [entry for entry, _ in r.xautoclaim(stream, group, consumer, idle_ms)[1]]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (one_page, "100 of 300 .* A page holds a hundred"),
        (lambda *args: pages(*args, until_empty=True), "150 of 300 .* page can be empty"),
        (lambda r, s, g, c, idle_ms: pages(r, s, g, c, 0), "2200 entries were taken"),
        (lambda *args: pages(*args)[:-1], "299 ids are returned"),
        (lambda *args: pages(*args) and None, "0 ids are returned"),
        (lambda *args: [], "0 of 300"),
    ],
)
def test_recover_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        streams.recover(learner, answer)


# ---------------------------------------------------------------- views_between


def by_ids(low: str, high: str):
    def views_between(r, stream, start, end):
        return len(r.xrange(stream, low.format(start), high.format(end)))

    return views_between


@pytest.mark.parametrize(
    "answer",
    [
        by_ids("{}000", "({}000-0"),
        lambda r, stream, start, end: len(r.xrange(stream, start * 1000, end * 1000 - 1)),
    ],
)
def test_views_between_is_accepted(learner, answer):
    assert "6 entries" in streams.views_between(learner, answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_ids("{}000", "{}000"), "count 8.*Half an id"),
        (by_ids("{}000", "({}000"), "count 8.*Half an id"),
        (by_ids("{}000", "{}000-0"), "count 7.*leaves an end out"),
        (by_ids("({}000", "({}000-0"), "count 5.*not before the start"),
        (by_ids("{}", "{}"), "count 0.*milliseconds"),
        (
            lambda r, s, start, end: len(r.xrange(s, start * 1000, f"{end * 1000 - 1}-0")),
            "count 4.*1-7",
        ),
        (lambda r, s, start, end: 3, "count 3.*at `end` do not"),
        (lambda r, s, start, end: 6, "XRANGE would"),
    ],
)
def test_views_between_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        streams.views_between(learner, answer)


# ---------------------------------------------------------------- what the prose leans on


@pytest.fixture
def each(each_kind):
    """A stream of three, given to ada, on each kind of server."""
    with each_kind.client() as client:
        client.flushall()
        for k in (1, 2, 3):
            client.xadd("s", {"n": k}, id=f"{k}-0")
        client.xgroup_create("s", "g", id="0")
        client.xreadgroup("g", "ada", {"s": ">"})
        yield client


def deliveries(client: redis.Redis) -> list[int]:
    return [note["times_delivered"] for note in client.xpending_range("s", "g", "-", "+", 10)]


def test_a_claim_raises_the_counter_of_everything_it_takes(each):
    each.xautoclaim("s", "g", "bob", 0, count=1)
    assert deliveries(each) == [2, 1, 1]
    each.xautoclaim("s", "g", "bob", 0)
    assert deliveries(each) == [3, 2, 2]


def test_a_trimmed_pending_entry_is_empty_to_redis_py_and_reported_once(each):
    each.xtrim("s", maxlen=1, approximate=False)
    [[_, own]] = each.xreadgroup("g", "ada", {"s": "0"})
    assert own == [("1-0", {}), ("2-0", {}), ("3-0", {"n": "3"})]
    assert each.xautoclaim("s", "g", "bob", 0)[2] == ["1-0", "2-0"]
    assert each.xautoclaim("s", "g", "bob", 0)[2] == []
    assert each.xpending("s", "g")["pending"] == 1


def test_lag_and_pending_of_a_group(each):
    each.xadd("s", {"n": 4})
    [group] = each.xinfo_groups("s")
    assert (group["pending"], group["lag"]) == (3, 1)


def test_a_consumer_finds_its_own_work_again_under_its_name(each):
    each.xack("s", "g", "2-0")
    [[_, own]] = each.xreadgroup("g", "ada", {"s": "0"})
    assert [entry for entry, _ in own] == ["1-0", "3-0"]
    assert each.xreadgroup("g", "bob", {"s": "0"}) == [["s", []]]


def test_redis_py_hangs_up_after_five_seconds_of_silence(lab):
    with lab.client() as client:
        connection = client.connection_pool.make_connection()
        assert connection.socket_timeout == 5


def test_redis_py_trims_by_whole_nodes_unless_told(each):
    for k in range(250):
        each.xadd("t", {"n": k}, maxlen=120)
    assert 120 < each.xlen("t") < 220
