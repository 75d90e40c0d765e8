"""The pub/sub lesson: its exercises' checks, and what its prose leans on."""

from __future__ import annotations

import contextlib
import select
import time

import pytest
import redis
from processes import within

from redis_lab.judging import NotYet
from redis_lab.lessons import pubsub

# ---------------------------------------------------------------- announce


def in_multi(r, key, channel, value):
    r.pipeline().set(key, value, ex=3600).publish(channel, value).execute()


def in_multi_the_other_way(r, key, channel, value):
    r.pipeline().publish(channel, value).set(key, value, ex=3600).execute()


def by_script(r, key, channel, value):
    script = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', ARGV[2], ARGV[1]) return 1"
    r.eval(script, 1, key, value, channel)


@pytest.mark.parametrize("answer", [in_multi, in_multi_the_other_way, by_script])
def test_announce_is_accepted(learner, answer):
    assert "in one round trip" in pubsub.announce(learner, answer)


def news_first(r, key, channel, value):
    r.publish(channel, value)
    r.set(key, value)


def two_trips(r, key, channel, value):
    r.set(key, value)
    r.publish(channel, value)


def plain_pipeline(r, key, channel, value):
    r.pipeline(transaction=False).set(key, value).publish(channel, value).execute()


def twice(r, key, channel, value):
    r.pipeline().set(key, value).publish(channel, value).publish(channel, value).execute()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (news_first, "found the old value"),
        (two_trips, "a gap between them"),
        (plain_pipeline, "not atomic"),
        (twice, "heard it 2 times"),
        (lambda r, key, channel, value: r.set(key, value), "heard nothing"),
        (lambda r, key, channel, value: r.publish(channel, value), "still 'old'"),
    ],
)
def test_announce_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        pubsub.announce(learner, answer)


# ---------------------------------------------------------------- join


def listen_then_look(r, p, key, channel):
    p.subscribe(channel)
    p.get_message(timeout=5)
    return r.get(key)


def look_twice(r, p, key, channel):
    r.get(key)
    return listen_then_look(r, p, key, channel)


@pytest.mark.parametrize("answer", [listen_then_look, look_twice])
def test_join_is_accepted(learner, answer):
    assert "listening first" in pubsub.join(learner, answer)


def look_then_listen(r, p, key, channel):
    price = r.get(key)
    p.subscribe(channel)
    p.get_message(timeout=5)
    return price


def unconfirmed(r, p, key, channel):
    p.subscribe(channel)
    return r.get(key)


def only_listen(r, p, key, channel):
    p.subscribe(channel)
    p.get_message(timeout=5)


def another_channel(r, p, key, channel):
    p.subscribe(key)
    p.get_message(timeout=5)
    return r.get(key)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (look_then_listen, "not listening yet"),
        (another_channel, "not listening yet"),
        (unconfirmed, "still be on its way"),
        (only_listen, "do not say what the price is"),
        (lambda r, p, key, channel: r.get(key), "nobody is subscribed"),
    ],
)
def test_join_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        pubsub.join(learner, answer)


# ---------------------------------------------------------------- collect


def patient(p, n, patience_s, kinds=("message", "pmessage"), timeout_s=None):
    data = []
    while len(data) < n:
        message = p.get_message(timeout=patience_s if timeout_s is None else timeout_s)
        if message is None:
            break
        if message["type"] in kinds:
            data.append(message["data"])
    return data


def spinning(p, n, patience_s):
    data, last = [], time.monotonic()
    while len(data) < n and time.monotonic() - last < patience_s:
        message = p.get_message()
        if message and message["type"] == "message":
            data.append(message["data"])
            last = time.monotonic()
    return data


def for_ever(p, n, patience_s):
    data = []
    for message in p.listen():
        if message["type"] == "message":
            data.append(message["data"])
            if len(data) == n:
                return data


def without_the_empty(p, n, patience_s):
    data = []
    while (message := p.get_message(timeout=patience_s)) and len(data) < n - 1:
        if message["type"] == "message" and message["data"]:
            data.append(message["data"])
    return data


def one_too_many(p, n, patience_s):
    return patient(p, n + 1, patience_s)[:n]


def test_collect_is_accepted(learner):
    assert "5 messages" in pubsub.collect(learner, patient)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, n, s: [p.get_message()["data"] for _ in range(n)], "gave you None"),
        (lambda p, n, s: patient(p, n, s, kinds=("message", "subscribe")), "are no messages"),
        (lambda p, n, s: patient(p, n, s, timeout_s=0), "of 5 messages"),
        (without_the_empty, "One message was empty"),
        (one_too_many, r"left \[\]"),
        (spinning, "a busy loop"),
        (lambda p, n, s: None, "not NoneType"),
    ],
)
def test_collect_explains_what_is_wrong(learner, answer, hint):
    with pytest.raises(NotYet, match=hint):
        pubsub.collect(learner, answer)


def test_an_answer_that_never_ends_leaves_the_learners_client_alone(learner, r, monkeypatch):
    monkeypatch.setattr(pubsub, "LONGEST_S", 1.0)
    with pytest.raises(NotYet, match="give up after timeout_s"):
        pubsub.collect(learner, for_ever)
    assert [r.echo(str(k)) for k in range(20)] == [str(k) for k in range(20)]
    # The server needs a moment to notice who has gone
    assert within(60, lambda: r.pubsub_numsub(pubsub.CHANNEL) == [(pubsub.CHANNEL, 0)])


# ---------------------------------------------------------------- what the prose leans on


def line(client, *channels):
    """A bare connection that has subscribed."""
    bare = client.connection_pool.make_connection()
    bare.connect()
    if channels:
        bare.send_command("SUBSCRIBE", *channels)
        for _ in channels:
            bare.read_response(push_request=True)
    return bare


def test_the_publisher_is_answered_before_the_message_is_sent(each_kind):
    """The answer never comes later than the first message: it is written first."""
    with each_kind.client(max_connections=200) as client:
        crowd = [line(client, "check:fan") for _ in range(64)]
        publisher = line(client)
        sockets = {each._sock.fileno(): each for each in [*crowd, publisher]}
        poll = select.poll()
        for number in sockets:
            poll.register(number, select.POLLIN)
        for _ in range(10):
            publisher.send_command("PUBLISH", "check:fan", "x")
            first, waiting = {number for number, _ in poll.poll(5000)}, set(sockets)
            assert publisher._sock.fileno() in first
            while waiting:
                for number, _ in poll.poll(5000):
                    sockets[number]._sock.recv(1000)
                    waiting.discard(number)
        for each in sockets.values():
            each.disconnect()


def test_a_pool_as_it_comes_has_no_room_for_a_hundred_and_one(each_kind):
    with each_kind.client() as client, contextlib.ExitStack() as stack:
        crowd = []
        with pytest.raises(redis.exceptions.MaxConnectionsError):
            while len(crowd) < 101:
                p = stack.enter_context(client.pubsub())
                p.subscribe("check:crowd")
                crowd.append(p)
        assert len(crowd) == 100


def test_a_dropped_client_takes_its_subscriber_along(each_kind):
    def listen(client):
        p = client.pubsub()
        p.subscribe("check:lost")
        assert p.get_message(timeout=5)["type"] == "subscribe"
        return p

    dropped = listen(each_kind.client())
    assert dropped.connection._sock is None
    with each_kind.client() as kept:
        held = listen(kept)
        assert held.connection._sock is not None
        held.close()


def test_numsub_is_right_for_the_few_that_the_lesson_counts(each_kind):
    """Valkey 9.1.2 answers nonsense for some larger counts: 8, 15, 16, 29 to 32, and so on."""
    with each_kind.client() as client:
        crowd = []
        for count in range(6):
            assert client.pubsub_numsub("check:few") == [("check:few", count)]
            crowd.append(line(client, "check:few"))
        assert client.publish("check:few", "x") == 6
        for each in crowd:
            each.disconnect()


def test_which_clients_try_again_by_themselves(each_kind):
    with redis.Redis(host=each_kind.host, port=each_kind.port) as ordinary:
        assert ordinary.get_retry().get_retries() > 0
    with each_kind.client() as from_url:
        assert line(from_url).retry.get_retries() == 0


def test_expired_events_are_off_and_the_server_looks_ten_times_a_second(each_kind):
    with each_kind.client() as client:
        assert client.config_get("notify-keyspace-events")["notify-keyspace-events"] == ""
        assert client.config_get("hz")["hz"] == "10"


def test_in_a_cluster_publish_goes_everywhere_and_spublish_to_one_node(three):
    nodes = [node.client() for node in three.nodes]
    ears = [node.pubsub() for node in nodes]
    for each in ears:
        each.subscribe("check:all")
        assert each.get_message(timeout=5)["type"] == "subscribe"
    assert nodes[0].publish("check:all", "hello") == 1  # it counts this node's own only
    assert [each.get_message(timeout=5)["data"] for each in ears] == ["hello"] * 3

    owners = []
    for node in nodes:
        with contextlib.suppress(redis.ResponseError):
            node.execute_command("SPUBLISH", "check:one", "hello")
            owners.append(node)
    assert len(owners) == 1
    for each in [*ears, *nodes]:
        each.close()
