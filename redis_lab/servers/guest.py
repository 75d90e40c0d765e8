"""Protect a server that belongs to the user.

A restricted client refuses the commands that affect more than the lab's own keys. It records every
key that it writes, so that exactly these keys can be removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from ..errors import LabError
from .journal import Journal, left_behind
from .nodes import first_primary, primaries

REFUSED = {
    *((name,) for name in ("FLUSHALL", "FLUSHDB", "SHUTDOWN", "DEBUG", "SWAPDB", "MOVE")),
    # RESET puts a connection into database 0, MIGRATE writes on another server
    *((name,) for name in ("RESET", "MIGRATE", "REPLICAOF", "SLAVEOF", "FAILOVER")),
    *(("CONFIG", sub) for sub in ("SET", "REWRITE", "RESETSTAT")),
    *(("CLIENT", sub) for sub in ("KILL", "PAUSE")),
    *(("CLUSTER", sub) for sub in ("ADDSLOTS", "ADDSLOTSRANGE", "DELSLOTS", "DELSLOTSRANGE")),
    *(("CLUSTER", sub) for sub in ("FLUSHSLOTS", "SETSLOT", "MIGRATESLOTS", "FAILOVER", "FORGET")),
    *(("CLUSTER", sub) for sub in ("MEET", "REPLICATE", "RESET", "SET-CONFIG-EPOCH", "BUMPEPOCH")),
    *(("ACL", sub) for sub in ("SETUSER", "DELUSER", "LOAD")),
    *(("FUNCTION", sub) for sub in ("LOAD", "DELETE", "FLUSH", "RESTORE")),
    *(("MODULE", sub) for sub in ("LOAD", "LOADEX", "UNLOAD")),
}
# The server lists these as write commands, but they only change a key that exists already. Such a
# key was either recorded when it was created, or is not the lab's.
NEVER_CREATE = {
    *("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST", "GETEX", "LSET", "LINSERT"),
    *("LPUSHX", "RPUSHX", "XACK", "XCLAIM", "XAUTOCLAIM", "XSETID", "XGROUP SETID"),
    *("XGROUP CREATECONSUMER", "HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HPERSIST"),
    "HGETEX",
}
NAME = "redis-lab"
SCRIPTS = {"EVAL", "EVAL_RO", "SCRIPT LOAD"}
CALLED = re.compile(
    r"""(?:redis|server)\s*\.\s*p?call\s*\(\s*(["'])(.*?)\1\s*(?:,\s*(["'])(.*?)\3)?""", re.S
)
DATABASE = re.compile(r"""(["'])\s*DB\s*\1""", re.I)


def _upper(argument: object) -> str:
    """One argument of a command as upper-case text."""
    if isinstance(argument, bytes | bytearray | memoryview):
        argument = bytes(argument).decode(errors="replace")
    return str(argument).upper()


def _batches(keys: list[bytes], size: int = 1000) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _as_bytes(key: object) -> bytes:
    return bytes(key) if isinstance(key, bytes | bytearray | memoryview) else str(key).encode()


def _remove(client: redis.Redis | redis.RedisCluster, keys: Iterable[bytes]) -> int:
    """Remove these keys; return how many there were."""
    return sum(client.unlink(*some) for some in _batches(sorted(keys)))


@dataclass(frozen=True)
class Place:
    """Where one group of a command's keys is: what Redis calls a key specification.

    The group begins at argument `start`, or after the first `keyword` that follows it. Without
    `counted` it is a range that ends `last` arguments after its first key (or before the end of the
    command, if `last` is negative). With `counted`, the argument at the beginning is the number of
    keys, and the first key comes `last` arguments after it.
    https://redis.io/docs/latest/develop/reference/key-specs/
    """

    start: int
    keyword: str = ""
    counted: bool = False
    last: int = 0
    step: int = 1

    def keys(self, parts: list) -> Iterator:
        """The keys among the words of a command; none where it is malformed."""
        start = self.start
        if self.keyword:
            found = (i + 1 for i in range(start, len(parts)) if _upper(parts[i]) == self.keyword)
            start = next(found, len(parts))
        if self.counted:
            count = _upper(parts[start]) if start < len(parts) else ""
            start += self.last
            stop = start + int(count) * self.step if count.isdecimal() else start
        else:
            stop = (start if self.last >= 0 else len(parts)) + self.last + 1
        return islice(parts, start, stop, self.step)


def _as_dict(reply: Any) -> dict[str, Any]:
    """A map that the server sent, which is a flat list in RESP2."""
    if not isinstance(reply, dict):
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    return {_text(key): value for key, value in reply.items()}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _written_places(specifications: list) -> Iterator[Place]:
    """The places of the keys that a command may create or change, not those it only reads."""
    for specification in map(_as_dict, specifications):
        if not {"insert", "update"} & set(map(_text, specification["flags"])):
            continue
        begin, find = _as_dict(specification["begin_search"]), _as_dict(specification["find_keys"])
        kinds = _text(begin["type"]), _text(find["type"])
        if "unknown" in kinds:
            continue
        at, how = _as_dict(begin["spec"]), _as_dict(find["spec"])
        counted = kinds[1] == "keynum"
        yield Place(
            start=int(at.get("index") or at["startfrom"]),
            keyword=_text(at.get("keyword", "")).upper(),
            last=int(how["firstkey"] if counted else how["lastkey"]),
            step=int(how["keystep"]),
            counted=counted,
        )


class Guest:
    """One process's visit to a user's server: what the process may do there, and what it wrote.

    The server itself (COMMAND) says which commands write, and where their keys are. The server
    cannot know what a script does. So every key that is passed to a script counts as written, and a
    command that is named literally in a script is refused as if it had been sent. A script that
    computes the names of its commands or keys is not covered.
    """

    def __init__(self, client: redis.Redis, journal: Journal | None = None) -> None:
        self.journal = journal
        self.removed = 0  # keys that an earlier visit had left
        kwargs = client.connection_pool.connection_kwargs
        self.database = int(kwargs.get("db") or 0)
        self.name = kwargs.get("client_name")
        self.client = client  # other notebooks recognise the visit by its open connection
        self.written: set[bytes] = set()
        self.owner = os.getpid()
        self.table: dict[str, list[Place]] = {}
        for name, command in client.command().items():
            # redis-py parses the commands and leaves their subcommands as the server sent them
            entries = [(name, command.get("key_specifications") or [])]
            entries += [(_text(sub[0]), sub[8]) for sub in command.get("subcommands") or []]
            for full, specifications in entries:
                command_name = full.replace("|", " ").upper()
                places = list(_written_places(specifications))
                if places and command_name not in NEVER_CREATE:
                    self.table[command_name] = places
        if "SET" not in self.table:  # then the lab could not know which keys to remove
            raise ValueError("COMMAND does not say where the keys of SET are")
        self.table["SORT"] = [Place(2, keyword="STORE")]  # not in the server's table

    def see(self, args: tuple) -> None:
        """Refuse a command, or remember the keys it writes.

        Raises: LabError for a command that the lab never runs on a server it did not start.
        """
        # redis-py sends "CONFIG SET" as one string, users type two words
        parts = [*_upper(args[0]).split(), *args[1:]] or [""]
        first, sub = parts[0], _upper(parts[1]) if len(parts) > 1 else ""
        self._refuse(first, parts)
        if first in SCRIPTS or f"{first} {sub}" in SCRIPTS:
            script = _as_bytes(parts[1 if first in SCRIPTS else 2]) if len(parts) > 2 else b""
            self._read_script(script.decode(errors="replace"))
        for place in self.table.get(f"{first} {sub}") or self.table.get(first) or ():
            self._note(set(map(_as_bytes, place.keys(parts))) - self.written)

    def _note(self, keys: set[bytes]) -> None:
        if self.journal and keys:
            self.journal.add(keys)
        self.written |= keys

    def note_restart(self, server: str) -> None:
        """Record the keys under the server's new run id: this is still the same visit."""
        if self.journal:
            self.journal.clear()
            self.journal = Journal(server, self.database)
            if self.written:
                self.journal.add(self.written)

    def _read_script(self, script: str) -> None:
        for _, name, _, second in CALLED.findall(script):
            command = name.strip().upper()
            if command == "SELECT" or (command == "COPY" and DATABASE.search(script)):
                raise LabError(self._other_database())
            self._refuse(command, [name, second])

    def _other_database(self) -> str:
        return (
            f"On a server that the lab did not start it stays in database {self.database}. "
            "A lesson that needs another starts its own server: lab.server()."
        )

    def _refuse(self, first: str, parts: list) -> None:
        """Raises: LabError for a command that affects other keys or databases than the lab's."""
        sub = _upper(parts[1]) if len(parts) > 1 else ""
        if (first,) in REFUSED or (first, sub) in REFUSED:
            shown = first if (first,) in REFUSED else f"{first} {sub}"
            raise LabError(
                f"{shown} is never run on a server that the lab did not start. "
                "A lesson that needs it starts its own: lab.server()."
            )
        words = [_upper(part) for part in parts]
        options = zip(words[3:], [*words[4:], ""], strict=False)  # a key may be named DB, too
        other = {number for option, number in options if option == "DB"} - {str(self.database)}
        if (first == "SELECT" and sub != str(self.database)) or (first == "COPY" and other):
            raise LabError(self._other_database())

    def remove_written(self, client: redis.Redis) -> int:
        """Remove the keys that this visit wrote, and no other; return how many there were."""
        removed = _remove(client, self.written)
        self.written.clear()
        if self.journal:
            self.journal.clear()
        return removed


def guest_of(client: redis.Redis | redis.RedisCluster) -> Guest | None:
    """The guest that checks a restricted client's commands; None for any other client."""
    return getattr(first_primary(client).connection_pool, "guest", None)


def restrict_cluster(client: redis.RedisCluster, guest: Guest) -> redis.RedisCluster:
    """The same for a cluster's client: for each node that it knows now or discovers later."""
    manager: Any = client.nodes_manager
    make = manager.create_redis_node
    manager.create_redis_node = lambda *args, **kwargs: restrict(make(*args, **kwargs), guest)
    for node in (*manager.nodes_cache.values(), *manager.startup_nodes.values()):
        one = node.redis_connection
        if one is not None and not hasattr(one.connection_pool, "guest"):
            restrict(one, guest)
    return client


def restrict(client: redis.Redis, guest: Guest) -> redis.Redis:
    """Make each connection that `client` opens from now on ask `guest` about each command."""

    pool: Any = client.connection_pool
    kind: Any = pool.connection_class

    class Restricted(kind):
        def send_command(self, *args, **kwargs):
            guest.see(args)
            return super().send_command(*args, **kwargs)

        def pack_commands(self, commands):
            commands = list(commands)
            for args in commands:
                guest.see(args)
            return super().pack_commands(commands)

    Restricted.__name__ = f"Restricted{kind.__name__}"
    pool.disconnect()
    pool.reset()  # otherwise the pool would reuse its connections, which are of the old class
    pool.connection_class = Restricted
    pool.connection_kwargs.setdefault("client_name", guest.name)
    pool.guest = guest
    return client


def _find_other_visits(client: redis.Redis, own: str) -> set[int]:
    """The databases that other notebooks of the lab use at the moment."""
    try:
        clients = client.client_list()
    except redis.ResponseError:  # an ACL user may not be allowed to list clients
        return set()
    return {int(c["db"]) for c in clients if c["name"].startswith(NAME) and c["name"] != own}


def _suggest_database(client: redis.Redis, where: str, visited: set[int], clustered: bool) -> str:
    """Which empty database of the same server to name in REDIS_URL, as advice."""
    if clustered:  # has database 0 only
        return "use an empty cluster, or unset REDIS_URL to let the lab bring its own server"
    used = visited | {int(name[2:]) for name in client.info("keyspace")}
    count = 16
    with contextlib.suppress(redis.ResponseError, KeyError):  # CONFIG may be forbidden
        count = int(client.config_get("databases")["databases"] or count)
    free = next((number for number in range(count) if number not in used), None)
    if free is None:
        return "use another server, or unset REDIS_URL to let the lab bring its own"
    if where.startswith("unix:"):
        return f"set REDIS_URL to {where.partition('?')[0]}?db={free}"
    url = urlsplit(where)
    options = "&".join(o for o in url.query.split("&") if not o.startswith("db="))
    return f"set REDIS_URL to {urlunsplit(url._replace(path=f'/{free}', query=options))}"


def claim_database(
    client: redis.Redis, where: str, everywhere: redis.RedisCluster | None = None
) -> Guest:
    """Take an empty database of the user's server for this process.

    Keys that a killed run of the lab has left there are removed first, and no others.

    On a cluster, `client` is the client of one node and `everywhere` that of the cluster.

    Raises: LabError if it holds keys, or if another notebook is working in it;
    redis.NoPermissionError if the user may not run INFO, COMMAND or DBSIZE, or may not write or
    remove keys; redis.OutOfMemoryError if the server is full.
    """
    pool = client.connection_pool
    database = int(pool.connection_kwargs.get("db") or 0)
    own = pool.connection_kwargs["client_name"] = f"{NAME}:{secrets.token_hex(4)}"
    pool.disconnect()
    nodes = primaries(everywhere or client)
    keys = sum(node.dbsize() for node in nodes)
    visited = set().union(*(_find_other_visits(node, own) for node in nodes))
    suggest = partial(_suggest_database, client, where, visited, everywhere is not None)
    if database in visited:
        raise LabError(
            f"Another notebook of the lab is working in database {database} of {where}. "
            f"Shut its kernel down, or {suggest()}."
        )
    server = min(str(node.info("server").get("run_id")) for node in nodes)
    known = re.fullmatch(r"\w{20,100}", server)  # a stand-in for Redis may not have one
    removed = 0
    if keys and known:
        for path, left in left_behind(server, database):
            removed += _remove(everywhere or client, left)
            path.unlink(missing_ok=True)
        keys = sum(node.dbsize() for node in nodes)
    if keys:
        also = f"{removed:,} keys that a killed run of the lab had left are removed. "
        raise LabError(
            f"Database {database} of {where} already holds {keys:,} keys; the lab only works in "
            f"an empty one, so that it can never touch yours. {also if removed else ''}"
            f"Instead, {suggest()}."
        )
    _try_a_write(everywhere or client)
    guest = Guest(client, Journal(server, database) if known else None)
    guest.removed = removed
    return guest


def _try_a_write(client: redis.Redis | redis.RedisCluster) -> None:
    """Read, write and remove a key of the lab's own, before a lesson needs to.

    Writing comes last: a user who may not remove or read has written nothing then.

    Raises: redis.NoPermissionError, redis.OutOfMemoryError.
    """
    key = f"{NAME}:probe:{secrets.token_hex(4)}"
    client.unlink(key)
    client.get(key)
    client.set(key, "", px=1000)
    client.unlink(key)


def guard(client: redis.Redis, args: tuple) -> None:
    """Check a command that is sent to the server of a restricted `client` by other means.

    Raises: LabError for a command that must not run there.
    """
    guest = guest_of(client)
    if guest is not None:
        guest.see(args)
