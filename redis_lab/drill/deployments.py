"""Where a race is run: on one server, on a primary that fails over, on a cluster whose slots move.

A further deployment: a class here, and a line in `DEPLOYMENTS`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar

import redis
from redis.cluster import ClusterNode

from ..distance import Relay
from ..servers import Cluster, Server, cluster, replicated, server
from ..servers.topology import is_linked, wait_until
from .faults import HOST, Migration
from .hands import REDIS_ERRORS

__all__ = ["DEPLOYMENTS", "Deployment", "Pair", "open_client", "pair"]

Client = redis.Redis | redis.RedisCluster
AGREE_S = 30.0
LAG_MS = 150.0  # of replication, just before a failover
SCANNED = 500


class Deployment:
    """What the clients work on; they reach each server through a relay, which loses replies.

    `fault` is what only happens here, by `disturb`; `faults` is all that does, in turn.
    """

    name: ClassVar[str]
    fault: ClassVar[str]
    first: ClassVar[bool] = True  # its own fault before the others
    servers: list[Server]  # those that clients write to
    relays: list[Relay]

    @classmethod
    def open(cls, forget: bool) -> contextlib.AbstractContextManager[Deployment]:
        """Start it. With `forget` its servers keep nothing when they are restarted."""
        raise NotImplementedError

    @property
    def faults(self) -> tuple[str, ...]:
        """In turn, so that a short race has some of each."""
        others = ("lost replies", "stall", "cut", "pause", "clock", "full")
        return (self.fault, *others) if self.first else (*others, self.fault)

    def settings(self) -> dict[str, Any]:
        """What `open_client` needs in another process."""
        return {"ports": [relay.port for relay in self.relays], "clustered": False}

    def client(self, **options: Any) -> Client:
        """A client that needs no relay."""
        return self.servers[0].client(**options)

    def disturb(self, luck: Random) -> None:
        """Do what only happens here. Returns when it is over."""
        raise NotImplementedError

    def __str__(self) -> str:
        one = self.servers[0]
        return f"{one.product} {one.version}"


def open_client(ports: list[int], clustered: bool, **options: Any) -> Client:
    """A client of a deployment, through its relays."""
    if not clustered:
        return redis.Redis(host=HOST, port=ports[0], **options)
    deadline = time.monotonic() + AGREE_S
    while True:  # it asks a node at once, which may stand still just now
        try:
            nodes = [ClusterNode(HOST, port) for port in ports]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        except REDIS_ERRORS:
            if time.monotonic() > deadline:
                raise


def relay_to(one: Server) -> Relay:
    """A relay in front of a server."""
    return Relay("tcp", one.host, str(one.port))


class Single(Deployment):
    """One server. It is killed and restarted, and keeps what it acknowledged."""

    name, fault, first = "single", "restart", False

    def __init__(self, one: Server, stack: contextlib.ExitStack) -> None:
        self.servers, self.relays = [one], [relay_to(one)]
        stack.callback(self.relays[0].stop)

    @classmethod
    @contextlib.contextmanager
    def open(cls, forget: bool) -> Iterator[Deployment]:
        """As Deployment.open. No power fails here, so the file is not synchronized."""
        config = {} if forget else {"appendonly": "yes", "appendfsync": "no"}
        with contextlib.ExitStack() as stack:
            yield cls(stack.enter_context(server(**config)), stack)

    def disturb(self, luck: Random) -> None:
        """Kill the server, and start it again."""
        if self.servers[0].pid is not None:
            self.servers[0].kill()
            self.servers[0].restart()


class Pair:
    """A primary and a replica that follows it, until it is told to listen no more."""

    def __init__(self, primary: Server, replica: Server) -> None:
        self.primary, self.replica = primary, replica

    def follow(self, port: int | None = None) -> None:
        """Let the replica follow the primary (by way of a relay's port); returns once it does.

        A replica with data of its own, or a primary whose last transfer has not ended, would take
        a second longer.
        """
        with self.replica.client() as admin, self.primary.client() as of:
            with contextlib.suppress(redis.ReadOnlyError):  # it follows already
                admin.flushall()
            wait_until(
                lambda: not of.info("persistence")["rdb_bgsave_in_progress"],
                *(AGREE_S, "The end of the last transfer"),
            )
            admin.replicaof(HOST, port or self.primary.port)
            wait_until(lambda: is_linked(admin), AGREE_S, "Replication")

    def catch_up(self) -> None:
        """Wait until the replica has everything. Nobody writes meanwhile."""
        with self.primary.client() as of, self.replica.client() as to:
            written = of.info("replication")["master_repl_offset"]
            wait_until(
                lambda: to.info("replication")["slave_repl_offset"] >= written,
                *(AGREE_S, "Replication"),
            )

    def promote(self) -> None:
        """From now on the replica hears of nothing, and is a primary itself."""
        with self.replica.client() as admin:
            admin.replicaof("NO", "ONE")


class Failover(Deployment):
    """A primary and a replica. When the primary is killed, the replica takes its place.

    Replication is asynchronous. Just before, it is late: what the primary acknowledged in the last
    moments, the replica has not heard of. The drill promotes it, and clients find it at the same
    address, as behind a virtual IP address or a proxy.
    """

    name = fault = "failover"

    def __init__(self, pair: Pair, stack: contextlib.ExitStack) -> None:
        self.pair, self.servers = pair, [pair.primary]
        self.relays = [relay_to(pair.primary)]
        stack.callback(self.relays[0].stop)
        self.link: Relay | None = None
        stack.callback(self._unlink)
        self._follow()

    @classmethod
    @contextlib.contextmanager
    def open(cls, forget: bool) -> Iterator[Deployment]:
        """As Deployment.open: nothing is kept on disk either way."""
        with contextlib.ExitStack() as stack:
            yield cls(stack.enter_context(pair()), stack)

    def _unlink(self) -> None:
        if self.link is not None:
            self.link.stop()

    def _follow(self) -> None:
        """Let the replica follow the primary through a relay of their own."""
        self._unlink()
        self.link = relay_to(self.pair.primary)
        self.pair.follow(self.link.port)

    def disturb(self, luck: Random) -> None:
        """Let replication be late, kill the primary, promote the replica, and start the old one."""
        assert self.link is not None
        old, new = self.pair.primary, self.pair.replica
        self.link.set_delay(2 * LAG_MS)
        time.sleep(luck.uniform(0.2, 0.4))
        old.kill()
        self.link.cut()
        self.pair.promote()
        self.relays[0].lead_to(new.host, new.port)
        self.servers, self.pair = [new], Pair(new, old)
        old.restart()
        self._follow()

    def __str__(self) -> str:
        return f"{super().__str__()}, a primary and a replica"


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Start a primary and its replica."""
    with replicated(1) as both:
        yield Pair(both.primary, both.replicas[0])


class Behind(Cluster):
    """A cluster whose nodes tell their clients the ports of relays."""

    relays: list[Relay]

    def at(self, port: int) -> Server:
        """The node behind a relay."""
        return self.nodes[[relay.port for relay in self.relays].index(port)]


class Moving(Deployment):
    """A cluster of three nodes. A slot in use moves to another node, key by key."""

    name, fault = "cluster", "slot move"

    def __init__(self, nodes: list[Server], stack: contextlib.ExitStack) -> None:
        self.nodes, self.servers = Behind(nodes), nodes
        self.relays = self.nodes.relays = []
        for one in nodes:
            self.relays.append(relay_to(one))
            stack.callback(self.relays[-1].stop)
            with one.client() as admin:
                admin.config_set("cluster-announce-port", self.relays[-1].port)
        ports = {relay.port for relay in self.relays}
        wait_until(lambda: all(one == ports for one in self._owners()), AGREE_S, "Agreement")

    @classmethod
    @contextlib.contextmanager
    def open(cls, forget: bool) -> Iterator[Deployment]:
        """As Deployment.open: nothing is restarted here."""
        with contextlib.ExitStack() as stack:
            yield cls(stack.enter_context(cluster(3)).nodes, stack)

    def settings(self) -> dict[str, Any]:
        """As Deployment.settings."""
        return {**super().settings(), "clustered": True}

    def client(self, **options: Any) -> Client:
        """A client of the cluster."""
        return self.nodes.client(**options)

    def disturb(self, luck: Random) -> None:
        """Move the slot of some key that is there, a few keys at a time."""
        keys: set[str] = set()
        for one in self.servers:
            with one.client() as admin:
                keys.update(admin.scan(count=SCANNED)[1])
        if not keys:
            return
        key = luck.choice(sorted(keys))
        migration = Migration(self.nodes, key)
        chunk = max(1, len(migration.keys()) // 8)
        while left := migration.keys():
            migration.move(*luck.sample(sorted(left), min(chunk, len(left))))
            time.sleep(luck.uniform(0.02, 0.1))
        migration.finish()
        port = self.relays[self.servers.index(migration.target)].port
        wait_until(
            lambda: all(one == {port} for one in self._owners(migration.slot)),
            *(AGREE_S, "Agreement on the slot"),
        )

    def _owners(self, slot: int | None = None) -> Iterator[set[int]]:
        """According to each node: which ports serve a slot, or any."""
        for one in self.servers:
            with one.client() as admin:
                yield {
                    int(port)
                    for first, last, (_, port, *_), *_ in admin.execute_command("CLUSTER SLOTS")
                    if slot is None or first <= slot <= last
                }

    def __str__(self) -> str:
        return f"{super().__str__()}, a cluster of {len(self.servers)} nodes"


DEPLOYMENTS: dict[str, type[Deployment]] = {one.name: one for one in (Single, Failover, Moving)}
