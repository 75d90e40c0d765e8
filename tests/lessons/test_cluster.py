"""The lesson on the cluster: its exercises, and what its text says that no cell checks."""

from __future__ import annotations

import contextlib

import pytest
import redis
from processes import within

from redis_lab.judging import NotYet
from redis_lab.lessons import cluster as exercises
from redis_lab.servers.topology import cluster


def tagged(user, tag="user:{}"):
    return [f"{{{tag.format(user)}}}:{part}" for part in ("profile", "cart", "orders")]


def test_names():
    assert exercises.names(None, tagged)
    wrong = {
        lambda user: [f"user:{user}:{part}" for part in "abc"]: "CROSSSLOT",
        lambda user: [f"{{shop}}:{user}:{part}" for part in "abc"]: "in 1 slot:",
        lambda user: tagged(user % 20): "in common",
        lambda user: tagged(user)[:2]: "three different names",
        lambda user: [f"{{{user % 20}}}:{user}:{part}" for part in "abc"]: "in 20 slots",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.names(None, answer)


def piped(client, keys):
    with client.pipeline() as pipe:
        for key in keys:
            pipe.get(key)
        return pipe.execute()


def test_values(three, monkeypatch):
    monkeypatch.setattr(exercises, "cluster", lambda primaries: contextlib.nullcontext(three))
    assert exercises.values(None, piped)
    wrong = {
        lambda client, keys: [client.get(key) for key in keys]: "201 round trips",
        lambda client, keys: client.mget(keys): "many slots",
        lambda client, keys: piped(client, sorted(keys)): "in the order of the keys",
    }
    for answer, hint in wrong.items():
        with pytest.raises(NotYet, match=hint):
            exercises.values(None, answer)


def test_full_coverage_is_a_choice():
    """With one slot that has nobody, all refuse; or, if told so, only that slot's keys."""
    with cluster(3, cluster_node_timeout=500) as three:
        key = next(k for k in map(str, range(1000)) if three.owner(k) is three.nodes[1])
        three.nodes[0].kill()
        with three.nodes[1].client(retry=None) as client:

            def state() -> str:
                return client.cluster("INFO")["cluster_state"]

            assert within(60, lambda: state() == "fail"), "nobody noticed that a node has died"
            with pytest.raises(redis.exceptions.ClusterDownError):
                client.set(key, "x")
            client.config_set("cluster-require-full-coverage", "no")
            assert within(60, lambda: state() == "ok")
            assert int(client.cluster("INFO")["cluster_slots_fail"]) > 0
            assert client.set(key, "x")


def test_the_clients_own_refusal_is_no_redis_error():
    assert not issubclass(redis.exceptions.RedisClusterException, redis.RedisError)


def test_several_keys_while_a_slot_moves():
    with cluster(2) as two:
        first, second = (node.client() for node in two.nodes)
        tag = next(f"{{{n}}}" for n in range(1000) if two.owner(f"{{{n}}}") is two.nodes[0])
        slot = first.cluster("KEYSLOT", tag)
        first.mset({f"{tag}a": 1, f"{tag}b": 2})
        ids = [node.execute_command("CLUSTER MYID") for node in (first, second)]
        second.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        first.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        where = (two.nodes[1].host, two.nodes[1].port)
        first.execute_command("MIGRATE", *where, f"{tag}a", 0, 5000)
        with pytest.raises(redis.exceptions.TryAgainError):
            first.mget([f"{tag}a", f"{tag}b"])
        with pytest.raises(redis.exceptions.AskError):
            first.get(f"{tag}a")
        assert first.get(f"{tag}b") == "2"
