"""Several private servers joined: a Redis Cluster, or a primary with replicas and Sentinels.

All are processes on this machine and share its cores. So they show how Redis behaves on several
machines, but not how fast it would be there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.sentinel import Sentinel

from ..errors import LabError
from .base import START_TIMEOUT_S, Server
from .choose import private_kind, server

SLOTS = 16384
NAME = "lab"  # service name of the primary in Sentinel
# By default a primary waits five seconds for further replicas before it sends its data, and ten
# seconds more before it sends anything else; until then the cluster does not name its replicas to
# clients. If the data go through a file, a replica checks only once a second whether the file is
# complete.
AT_ONCE = {
    "repl_diskless_sync_delay": 0,
    "repl_ping_replica_period": 1,
    "repl_diskless_load": "on-empty-db",
}
# How often Sentinels look for replicas and for each other, in ms: by default, and at the start
PERIODS = {"INFO-PERIOD": 10_000, "PUBLISH-PERIOD": 2_000}
SHORT_PERIODS = dict.fromkeys(PERIODS, 100)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until the condition is true. Raises: LabError when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(
                f"{what} did not happen within {timeout_s:.0f} seconds. Close what else is "
                "running, and try again."
            )
        time.sleep(0.02)


def _native_kind(what: str) -> str:
    kind = private_kind()
    if not kind.native:
        raise LabError(f"{what} needs a native server: install redis-server 7 or newer.")
    return kind.name


class Cluster:
    """A Redis Cluster of the lab's own.

    Attributes: `nodes` (all servers, those that began as primaries first), `url` of the first.
    """

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes
        self.url = nodes[0].url

    def client(self, **options: object) -> redis.RedisCluster:
        """A new client of the cluster; replies are text unless `decode_responses=False`."""
        return redis.RedisCluster.from_url(self.url, **{"decode_responses": True, **options})

    def at(self, port: int) -> Server:
        """The node that listens on a port, which a client has named."""
        return next(node for node in self.nodes if node.port == port)

    def owner(self, key: str) -> Server:
        """The primary that holds a key's slot now, according to the first node that answers."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError), node.client(retry=None) as client:
                slot = client.cluster("KEYSLOT", key)
                for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return self.at(int(port))
        raise LabError(
            f"No living node knows the owner of the slot of {key!r}. Start a node that was killed: "
            "cluster.nodes[0].restart()."
        )


@contextlib.contextmanager
def cluster(primaries: int = 3, replicas: int = 0, **config: Any) -> Iterator[Cluster]:
    """Start `primaries` servers that share the 16,384 slots, each with `replicas` replicas.

    `config` goes to every node; by default a node counts as failed after two seconds
    (`cluster_node_timeout=2000`). All are stopped at the end.

    Raises: LabError when the nodes do not agree in time, or there is no native server.
    """
    config = {**AT_ONCE, "cluster_node_timeout": 2000, **config, "cluster_enabled": True}
    count = primaries * (1 + replicas)
    with contextlib.ExitStack() as stack:
        kind = _native_kind("A cluster")
        nodes = [stack.enter_context(server(kind=kind, **config)) for _ in range(count)]
        admins = [stack.enter_context(node.client()) for node in nodes]
        edges = [SLOTS * k // primaries for k in range(primaries + 1)]
        for k, admin in enumerate(admins):
            if k < primaries:
                admin.execute_command("CLUSTER ADDSLOTSRANGE", edges[k], edges[k + 1] - 1)
            admin.execute_command("CLUSTER SET-CONFIG-EPOCH", k + 1)
        introduce(nodes, admins, _have_met if replicas else _is_settled)
        ids = [admin.execute_command("CLUSTER MYID") for admin in admins[:primaries]]
        for k, admin in enumerate(admins[primaries:]):
            admin.execute_command("CLUSTER REPLICATE", ids[k % primaries])
        following = admins[primaries:]
        wait_until(lambda: all(map(is_linked, following)), START_TIMEOUT_S, "Replication")
        wait_until(
            lambda: all(
                _count_replicas_named(admin) == len(following) and _is_settled(admin, count)
                for admin in admins
            ),
            START_TIMEOUT_S,
            "Agreement on the replicas",
        )
        yield Cluster(nodes)


def _have_met(admin: redis.Redis, nodes: int) -> bool:
    """Whether a node knows `nodes` nodes, itself included, and has finished all handshakes."""
    known = admin.cluster("NODES").values()
    return len(known) == nodes and not any("handshake" in node["flags"] for node in known)


def _is_settled(admin: redis.Redis, nodes: int) -> bool:
    """Whether a node knows `nodes` nodes, and that all slots are served."""
    state = admin.cluster("INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == nodes


def introduce(
    nodes: list[Server],
    admins: list[redis.Redis],
    done: Callable[[redis.Redis, int], bool] = _is_settled,
) -> None:
    """Send CLUSTER MEET to the nodes until `done` is true of each of them.

    `_is_settled` takes two seconds; `_have_met` is faster, for nodes that will get replicas. A
    handshake can time out on one side only, and before Valkey 8.1 it is not tried again, so CLUSTER
    MEET is repeated here.
    """
    for last in (False, False, True):
        for node in nodes:
            admins[0].execute_command("CLUSTER MEET", node.host, node.port, node.bus_port)
        try:
            wait_until(
                lambda: all(done(admin, len(nodes)) for admin in admins),
                START_TIMEOUT_S,
                "Agreement of the cluster's nodes",
            )
            return
        except LabError:
            if last:
                raise


def _count_replicas_named(admin: redis.Redis) -> int:
    """How many replicas a node names to clients."""
    return sum(len(found) - 3 for found in admin.execute_command("CLUSTER SLOTS"))


def is_linked(replica: redis.Redis) -> bool:
    """Whether a replica has its primary's data and follows it."""
    return replica.info("replication").get("master_link_status") == "up"


class Replicated:
    """A primary with replicas, and Sentinels that watch it.

    Attributes: `primary` (the server that began as one), `replicas`, `sentinels` (lists of Server).
    """

    def __init__(self, primary: Server, replicas: list[Server], sentinels: list[Server]) -> None:
        self.primary, self.replicas, self.sentinels = primary, replicas, sentinels
        self.nodes = [primary, *replicas]

    def sentinel(self, **options: object) -> Sentinel:
        """redis-py's Sentinel client, for `master_for(NAME)` and `slave_for(NAME)`."""
        addresses = [(one.host, one.port) for one in self.sentinels]
        return Sentinel(addresses, **{"decode_responses": True, **options})

    def at(self, port: int) -> Server:
        """The node that listens on a port, which a Sentinel has named."""
        return next(node for node in self.nodes if node.port == port)


@contextlib.contextmanager
def replicated(
    replicas: int = 2, *, sentinels: int = 0, down_after_ms: int = 1000, **config: Any
) -> Iterator[Replicated]:
    """Start a primary with `replicas`, watched by `sentinels` (a majority of them must agree).

    `config` goes to the primary and the replicas. A Sentinel considers the primary down
    after `down_after_ms` without a reply. All are stopped at the end.

    Raises: LabError when they do not find each other in time, or there is no native server.
    """
    with contextlib.ExitStack() as stack:
        kind = _native_kind("Replication")
        config = {**AT_ONCE, **config}
        primary = stack.enter_context(server(kind=kind, **config))
        config["replicaof"] = (primary.host, primary.port)
        others = [stack.enter_context(server(kind=kind, **config)) for _ in range(replicas)]
        clients = [stack.enter_context(node.client()) for node in others]
        wait_until(lambda: all(map(is_linked, clients)), START_TIMEOUT_S, "Replication")
        watch = [
            ("monitor", NAME, primary.host, primary.port, sentinels // 2 + 1),
            ("down-after-milliseconds", NAME, down_after_ms),
            ("failover-timeout", NAME, 10 * down_after_ms),
        ]
        watchers = [
            stack.enter_context(server(kind=kind, sentinel=watch)) for _ in range(sentinels)
        ]
        observers = [stack.enter_context(one.client()) for one in watchers]
        _set_periods(observers, SHORT_PERIODS)
        wait_until(
            lambda: all(_knows_others(one, replicas, sentinels - 1) for one in observers),
            START_TIMEOUT_S + 15,
            "Agreement of the Sentinels",
        )
        _set_periods(observers, PERIODS)
        yield Replicated(primary, others, watchers)


def _set_periods(sentinels: list[redis.Redis], periods: dict[str, int]) -> None:
    for one in sentinels:
        one.execute_command("SENTINEL DEBUG", *(x for pair in periods.items() for x in pair))


def _knows_others(sentinel: redis.Redis, replicas: int, others: int) -> bool:
    state: Any = sentinel.sentinel_master(NAME)
    return (state["num-slaves"], state["num-other-sentinels"]) == (replicas, others)
