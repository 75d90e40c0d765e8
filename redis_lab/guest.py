"""Being a polite guest on a server that belongs to the user.

A client made polite refuses the commands that reach beyond the lab's own keys, and remembers
every key that it wrote, so that exactly those are removed in the end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from itertools import islice

import redis

from .errors import LabError

REFUSED = {
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SHUTDOWN",),
    ("DEBUG",),
    ("CONFIG", "SET"),
    ("CONFIG", "REWRITE"),
    ("CONFIG", "RESETSTAT"),
}
NAME = "redis-lab"


def word(argument: object) -> str:
    """One argument of a command as upper-case text."""
    if isinstance(argument, bytes | bytearray | memoryview):
        argument = bytes(argument).decode(errors="replace")
    return str(argument).upper()


def batches(keys: list[bytes], size: int = 1000) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def as_bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()


class Guest:
    """One process's visit to a user's server: what it may do there and what it wrote.

    Which commands write, and where their keys stand, is asked of the server itself (COMMAND).
    """

    def __init__(self, client: redis.Redis) -> None:
        self.written: set[bytes] = set()
        self.owner = os.getpid()
        self.table: dict[str, tuple[int, int, int]] = {}
        for name, command in client.command().items():
            # redis-py parses the commands and leaves their subcommands as the server sent them
            positions = [command[k] for k in ("first_key_pos", "last_key_pos", "step_count")]
            entries = [(name, command["flags"], positions)]
            entries += [(sub[0], sub[2], sub[3:6]) for sub in command.get("subcommands") or []]
            for full, flags, positions in entries:
                if "write" in flags:
                    self.table[full.replace("|", " ").upper()] = tuple(positions)

    def see(self, args: tuple) -> None:
        """Refuse a command, or remember the keys it writes.

        Raises: LabError for a command that the lab never runs on a server it did not start.
        """
        # redis-py sends "CONFIG SET" as one string, people type two words
        first, _, second = word(args[0]).partition(" ")
        parts = [first, *([second] if second else []), *args[1:]]
        sub = word(parts[1]) if len(parts) > 1 else ""
        if (first,) in REFUSED or (first, sub) in REFUSED:
            shown = first if (first,) in REFUSED else f"{first} {sub}"
            raise LabError(
                f"{shown} is never run on a server that the lab did not start. "
                "A lesson that needs it starts its own: lab.server()."
            )
        if first in ("EVAL", "EVALSHA", "FCALL"):  # their keys stand after a count
            self.written.update(map(as_bytes, parts[3 : 3 + int(parts[2])]))
            return
        positions = self.table.get(f"{first} {sub}") or self.table.get(first)
        if positions and positions[0] > 0:
            start, last, step = positions
            stop = last + 1 if last >= 0 else len(parts) + last + 1
            self.written.update(map(as_bytes, islice(parts, start, stop, step)))

    def remove_written(self, client: redis.Redis) -> int:
        """Remove the keys that this visit wrote, and no other; return how many there were."""
        removed = 0
        for keys in batches(sorted(self.written)):
            removed += client.unlink(*keys)
        self.written.clear()
        return removed


def polite(client: redis.Redis, guest: Guest) -> redis.Redis:
    """Make each connection that `client` opens from now on ask `guest` about each command."""

    class Polite:
        def send_command(self, *args, **kwargs):
            guest.see(args)
            return super().send_command(*args, **kwargs)

        def pack_commands(self, commands):
            commands = list(commands)
            for args in commands:
                guest.see(args)
            return super().pack_commands(commands)

    pool = client.connection_pool
    kind = pool.connection_class
    pool.disconnect()
    pool.connection_class = type(f"Polite{kind.__name__}", (Polite, kind), {})
    pool.guest = guest
    return client


def move_in(client: redis.Redis, where: str) -> Guest:
    """Take an empty database of the user's server for this process.

    Raises: LabError if it holds keys, or if another notebook is working in it.
    """
    pool = client.connection_pool
    database = pool.connection_kwargs.get("db") or 0
    keys = client.dbsize()
    if keys:
        used = {int(name[2:]) for name in client.info("keyspace")}
        free = next((number for number in range(16) if number not in used), None)
        mend = f"end REDIS_URL with /{free}, which is empty" if free else "use an empty server"
        raise LabError(
            f"Database {database} of {where} already holds {keys:,} keys; the lab only works in "
            f"an empty one, so that it can never touch yours. To mend: {mend}."
        )
    token = f"{NAME}:{secrets.token_hex(4)}"
    pool.connection_kwargs["client_name"] = token
    pool.disconnect()
    try:
        others = [
            c
            for c in client.client_list()
            if c["name"].startswith(NAME + ":") and c["name"] != token and int(c["db"]) == database
        ]
    except redis.ResponseError:  # an ACL user may not be allowed to list clients
        others = []
    if others:
        raise LabError(
            f"Another notebook of the lab is working in database {database} of {where}. "
            "To mend: shut its kernel down, or give this one another database (REDIS_URL ending "
            f"in /{(database + 1) % 16})."
        )
    return Guest(client)
