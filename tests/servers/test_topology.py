"""Servers joined: what `cluster()` and `replicated()` start is one, and ends with its block."""

from __future__ import annotations

import contextlib
import time

import pytest
import redis
from processes import gone
from redis.cluster import ClusterNode
from redis.sentinel import MasterNotFoundError

from redis_lab.errors import LabError
from redis_lab.servers.topology import NAME, SLOTS, cluster, introduce, replicated, wait_until


def test_cluster_of_primaries(native):
    with cluster(3) as three:
        pids = [node.pid for node in three.nodes]
        for node in three.nodes:
            state = node.client().cluster("INFO")
            assert (state["cluster_state"], state["cluster_slots_ok"]) == ("ok", "16384")
        with three.client() as client:
            for n in range(60):
                client.set(f"key:{n}", n)
            assert [client.get(f"key:{n}") for n in range(60)] == [str(n) for n in range(60)]
        sizes = [node.client().dbsize() for node in three.nodes]
        assert sum(sizes) == 60 and min(sizes) > 0
        for n in range(10):
            with three.owner(f"key:{n}").client() as owner:
                assert owner.get(f"key:{n}") == str(n)
    assert all(map(gone, pids))


def test_a_replica_takes_over_from_its_dead_primary(native):
    with cluster(3, replicas=1) as six:
        roles = [node.client().info("replication")["role"] for node in six.nodes]
        assert roles == ["master"] * 3 + ["slave"] * 3
        with six.client() as client:
            client.set("a", 1)
            first = six.owner("a")
            with first.client() as primary:
                primary.wait(1, 1000)  # the replica has it
            first.kill()

            def another() -> bool:
                return six.owner("a") is not first

            wait_until(another, 20, "The failover")
            assert six.owner("a") in six.nodes[3:]
            assert client.get("a") == "1"
            first.restart()

            def follows() -> bool:
                with first.client() as old:
                    return old.info("replication")["role"] == "slave"

            wait_until(follows, 10, "The return")


def test_no_node_left_to_ask():
    with cluster(1) as one:
        one.nodes[0].kill()
        with pytest.raises(LabError, match="No living node"):
            one.owner("a")


def test_a_node_that_has_forgotten_the_others_is_introduced_again(native):
    with cluster() as three, contextlib.ExitStack() as stack:
        admins = [stack.enter_context(node.client()) for node in three.nodes]
        admins[1].execute_command("CLUSTER RESET")
        admins[1].execute_command("CLUSTER ADDSLOTSRANGE", SLOTS // 3, SLOTS * 2 // 3 - 1)
        assert int(admins[1].cluster("INFO")["cluster_known_nodes"]) == 1
        introduce(three.nodes, admins)
        assert [int(one.cluster("INFO")["cluster_known_nodes"]) for one in admins] == [3, 3, 3]
        with three.client() as client:
            assert client.set("key", 1)


def test_a_setting_reaches_every_node():
    with cluster(2, replicas=1, maxmemory="64mb") as four:
        for node in four.nodes:
            with node.client() as client:
                assert client.config_get("maxmemory")["maxmemory"] == str(64 << 20)


def test_replicas_follow(native):
    with replicated(2) as made:
        pids = [node.pid for node in made.nodes]
        with made.primary.client() as primary:
            primary.set("a", 1)
            assert primary.wait(2, 2000) == 2
        for node in made.replicas:
            with node.client() as replica:
                assert replica.get("a") == "1"
                with pytest.raises(redis.ReadOnlyError):
                    replica.set("a", 2)
    assert all(map(gone, pids))


def test_sentinels_choose_another_primary(native):
    with replicated(2, sentinels=3, down_after_ms=500) as made:
        pids = [node.pid for node in (*made.nodes, *made.sentinels)]
        with made.sentinels[0].client() as one:  # they look more often only until they agree
            periods = one.execute_command("SENTINEL DEBUG")
        assert (periods["INFO-PERIOD"], periods["PUBLISH-PERIOD"]) == ("10000", "2000")
        watchers = made.sentinel()
        primary = watchers.master_for(NAME)
        primary.set("a", 1)
        assert primary.wait(2, 2000) == 2
        assert made.at(watchers.discover_master(NAME)[1]) is made.primary
        made.primary.kill()

        def another() -> bool:
            with contextlib.suppress(MasterNotFoundError):
                return watchers.discover_master(NAME)[1] != made.primary.port
            return False

        wait_until(another, 20, "The failover")
        assert made.at(watchers.discover_master(NAME)[1]) in made.replicas
        assert primary.get("a") == "1"
    assert all(map(gone, pids))


def test_what_does_not_happen_in_time_says_so():
    began = time.monotonic()
    with pytest.raises(LabError, match=r"The miracle did not happen within 0 seconds\. Close"):
        wait_until(lambda: False, 0.1, "The miracle")
    assert time.monotonic() - began >= 0.1


def test_replicas_of_a_client_are_known_to_the_cluster():
    with cluster(2, replicas=1) as four, four.client() as client:
        assert len(client.get_replicas()) == 2
        node: ClusterNode = client.get_node_from_key("a", replica=False)
        assert four.at(node.port) is four.owner("a")
