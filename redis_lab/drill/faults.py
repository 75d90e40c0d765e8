"""Faults between client and server: lost replies, late commands, slots that move. All are real.

A `Flaky` client talks to a real server. Its commands are executed there; only the replies are lost
or delayed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..servers import Cluster, Server

__all__ = ["FINE", "LOST", "Flaky", "Migration", "Watched", "deliver", "flaky", "undeclared"]

HOST = "127.0.0.1"
Hook = Callable[[], object] | None


class Watched(redis.Connection):
    """A connection with two hooks for all traffic after its handshake."""

    armed = False

    def on_sending(self, packed: bytes) -> None:
        """Called before the commands are sent."""

    def on_reply(self, reply: Any) -> None:
        """Called with each reply before the caller gets it; may raise instead."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's."""
        if self.armed:
            self.on_sending(b"".join(command) if isinstance(command, list) else command)
        super().send_packed_command(command, check_health)

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """As redis-py's."""
        self.armed = False
        super().on_connect_check_health(check_health)
        self.armed = True

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As redis-py's."""
        reply = super().read_response(*args, **kwargs)
        if self.armed:
            self.on_reply(reply)
        return reply

    def lose(self) -> None:
        """Let the reply be lost with its connection."""
        self.disconnect()
        raise redis.ConnectionError("the reply was lost")


class Flaky(Watched):
    """A connection with a plan for its next replies, one entry for each.

    An entry is a pair: whether the reply is lost, and what happens elsewhere before anything else.
    """

    plan: ClassVar[deque[tuple[bool, Hook]]] = deque()
    sent: ClassVar[list[bytes]] = []

    def on_sending(self, packed: bytes) -> None:
        """Keep the sent commands, so that they can be delivered again."""
        self.sent.append(packed)

    def on_reply(self, reply: Any) -> None:
        """Follow the plan."""
        if self.plan:
            lost, hook = self.plan.popleft()
            if hook:
                hook()
            if lost:
                self.lose()


LOST: tuple[bool, Hook] = (True, None)
FINE: tuple[bool, Hook] = (False, None)


@contextlib.contextmanager
def flaky(server: Server, *plan: tuple[bool, Hook], **options: object) -> Iterator[redis.Redis]:
    """A client of the server that sends a command again if it got no reply, as redis-py does.

    `client.connection_pool.connection_class.sent` holds the sent commands, for `deliver`.
    """
    kind: Any = type("Planned", (Flaky,), {"plan": deque(), "sent": []})
    given: dict[str, Any] = {"decode_responses": True, "retry": Retry(NoBackoff(), 3), **options}
    pool = redis.ConnectionPool(connection_class=kind, host=HOST, port=server.port, **given)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    kind.sent.clear()
    kind.plan.extend(plan)
    try:
        yield client
    finally:
        client.close()
        pool.disconnect()


def deliver(server: Server, packed: bytes) -> object:
    """Let a command arrive late (again), as on a slow network; returns the reply."""
    connection = redis.Connection(host=HOST, port=server.port)
    connection.connect()
    try:
        connection.send_packed_command([packed])
        return connection.read_response()
    finally:
        connection.disconnect()


@contextlib.contextmanager
def undeclared(server: Server) -> Iterator[set[str]]:
    """The keys that scripts use inside the block without declaring them; filled at its end."""
    found: set[str] = set()
    with server.client() as client, server.client() as other, other.monitor() as monitor:
        yield found
        client.echo("that is all")
        declared: set[str] = set()
        while "that is all" not in (event := monitor.next_command())["command"]:
            words = event["command"].split(" ")
            if words[0].upper() in ("EVALSHA", "EVAL"):
                declared = set(words[3 : 3 + int(words[2])])
            elif event["client_type"] == "lua":
                with contextlib.suppress(redis.ResponseError):  # a command without keys
                    found.update(set(client.command_getkeys(*words)) - declared)


class Migration:
    """A slot that is being moved from one node of a cluster to another, step by step."""

    def __init__(self, nodes: Cluster, key: str) -> None:
        self.source = nodes.owner(key)
        self.target = next(node for node in nodes.nodes if node is not self.source)
        self.of, self.to = self.source.client(), self.target.client()
        self.slot = self.of.cluster("KEYSLOT", key)
        self.ids = [client.execute_command("CLUSTER MYID") for client in (self.of, self.to)]
        self.to.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[0])
        self.of.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[1])

    def keys(self) -> list[str]:
        """The slot's keys that are still on the source node."""
        return self.of.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 100_000)

    def move(self, *keys: str) -> None:
        """Move these keys to the target."""
        if keys:
            where = HOST, self.target.port
            self.of.execute_command("MIGRATE", *where, "", 0, 5000, "KEYS", *keys)

    def finish(self) -> None:
        """Move the rest, and tell both nodes that the slot has moved."""
        self.move(*self.keys())
        for client in (self.to, self.of):
            client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", self.ids[1])
        self.of.close()
        self.to.close()
