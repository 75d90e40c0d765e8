"""What goes wrong on the way: lost replies, stalls, late commands, slots that move. All of it real.

A `Flaky` client talks to a real server. What it was sent is done there; only its replies are lost,
or held up.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import redis_lab.patterns

HOST = "127.0.0.1"
Hook = Callable[[], object] | None


class Flaky(redis.Connection):
    """A connection with a script of what befalls its next replies, one entry for each.

    An entry is a pair: whether the reply is lost, and what happens elsewhere before anything else.
    """

    plan: ClassVar[deque[tuple[bool, Hook]]] = deque()
    sent: ClassVar[list] = []
    armed = False

    def send_packed_command(self, command, check_health: bool = True) -> None:
        if self.armed:
            self.sent.append(b"".join(command) if isinstance(command, list) else command)
        super().send_packed_command(command, check_health)

    def on_connect_check_health(self, check_health: bool = True) -> None:
        self.armed = False  # the handshake is none of the plan's business
        super().on_connect_check_health(check_health)
        self.armed = True

    def read_response(self, *args, **kwargs):
        reply = super().read_response(*args, **kwargs)
        if self.armed and self.plan:
            lost, hook = self.plan.popleft()
            if hook:
                hook()
            if lost:
                self.disconnect()
                raise redis.ConnectionError("the reply was lost")
        return reply


LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {file!r})
sys.modules["alone"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["alone"])
assert "redis_lab" not in sys.modules
"""


def alone(pattern: str, body: str) -> list[str]:
    """A script that has nothing of the lab's but one pattern's file, as `alone`, copied out."""
    file = Path(redis_lab.patterns.__file__).parent / f"{pattern}.py"
    return [sys.executable, "-c", LOAD.format(file=str(file)) + textwrap.dedent(body)]


@contextlib.contextmanager
def flaky(lab, *plan: tuple[bool, Hook], **options: object) -> Iterator[redis.Redis]:
    """A client of the lab's server that sends again what got no reply, as redis-py does.

    `client.connection_pool.connection_class.sent` has what it sent, ready to be delivered again.
    """
    kind = type("Planned", (Flaky,), {"plan": deque(), "sent": []})
    pool = redis.ConnectionPool(
        connection_class=kind,
        host=HOST,
        port=lab.port,
        retry=Retry(NoBackoff(), 3),
        **{"decode_responses": True, **options},
    )
    client = redis.Redis(connection_pool=pool)
    client.ping()
    kind.sent.clear()
    kind.plan.extend(plan)
    try:
        yield client
    finally:
        client.close()
        pool.disconnect()


LOST = (True, None)
FINE = (False, None)


def deliver(lab, packed: bytes) -> object:
    """Let a command arrive (again), late, as a network may deliver it; returns the reply."""
    connection = redis.Connection(host=HOST, port=lab.port)
    connection.connect()
    try:
        connection.send_packed_command([packed])
        return connection.read_response()
    finally:
        connection.disconnect()


@contextlib.contextmanager
def undeclared(lab) -> Iterator[set[str]]:
    """The keys that scripts touch meanwhile without having been told of them; filled at the end."""
    found: set[str] = set()
    with lab.client() as client, lab.client() as other, other.monitor() as monitor:
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
    """A slot on its way from one node of a cluster to another, at whatever point the test likes."""

    def __init__(self, nodes, key: str) -> None:
        self.source = nodes.owner(key)
        self.target = next(node for node in nodes.nodes if node is not self.source)
        self.of, self.to = self.source.client(), self.target.client()
        self.slot = self.of.cluster("KEYSLOT", key)
        self.ids = [client.execute_command("CLUSTER MYID") for client in (self.of, self.to)]
        self.to.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[0])
        self.of.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[1])

    def keys(self) -> list[str]:
        """The slot's keys that are still at the source."""
        return self.of.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 100_000)

    def move(self, *keys: str) -> None:
        if keys:
            where = HOST, self.target.port
            self.of.execute_command("MIGRATE", *where, "", 0, 5000, "KEYS", *keys)

    def finish(self) -> None:
        self.move(*self.keys())
        for client in (self.to, self.of):
            client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", self.ids[1])
        self.of.close(), self.to.close()
