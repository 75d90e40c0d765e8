"""Find or start a Redis server and manage its lifetime.

`connect()` is what lessons call; `server(**config)` is a private throwaway server with any
configuration. `topology.py` joins several of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import redis

from ..errors import LabError
from .base import Kind, Server
from .docker import Docker
from .guest import guest_of
from .native import Embedded, OnPath, Redis8
from .nodes import first_primary
from .user import Url

KINDS: tuple[Kind, ...] = (Url(), OnPath(), Redis8(), Embedded(), Docker())  # by preference


def kind_named(name: str | None) -> Kind | None:
    """The kind of that name, or None where there is none."""
    return next((kind for kind in KINDS if kind.name == name), None)


def _join_names(kinds: Iterable[Kind], last: str = ", ") -> str:
    *most, end = map(str, kinds)
    return ", ".join(most) + last + end


def choose_kind() -> tuple[Kind, str]:
    """The kind of server to use, and the reason in a few words. `REDIS_LAB_SERVER` forces a kind.

    Raises: LabError when the forced kind is unknown or absent, or when there is no server at all.
    """
    forced = os.environ.get("REDIS_LAB_SERVER")
    if forced:
        kind = kind_named(forced)
        if kind is None:
            raise LabError(f"REDIS_LAB_SERVER={forced} is none of {_join_names(KINDS)}.")
        usable, found = kind.probe()
        if not usable:
            raise LabError(f"REDIS_LAB_SERVER={forced}, but {found}.")
        return kind, f"REDIS_LAB_SERVER={forced}"
    return _first_usable(KINDS, "No usable Redis server was found")


def private_kind() -> Kind:
    """The default kind of a throwaway server. Raises: LabError if none works."""
    forced = kind_named(os.environ.get("REDIS_LAB_SERVER"))
    if forced and forced.private:
        return forced
    own = [kind for kind in KINDS if kind.private]
    return _first_usable(own, "No private server can be started")[0]


def _first_usable(kinds: Iterable[Kind], otherwise: str) -> tuple[Kind, str]:
    """The first working kind of those with `unasked`, and the reason in a few words.

    Raises: LabError, beginning with the words `otherwise`, if none works.
    """
    reasons: list[str] = []
    for kind in kinds:
        if kind.unasked:
            usable, found = kind.probe()
            if usable:
                return kind, ", ".join(reasons) if kind.fallback else found
            reasons.append(found)
    raise LabError(
        f"{otherwise}: {', '.join(reasons)}. "
        "Install redis-server 7 or newer, start Docker, or set REDIS_URL."
    )


def server(*, kind: str | None = None, password: str | None = None, **config: Any) -> Server:
    """Start a private throwaway server; use it in a `with` block.

    `config` holds settings of redis.conf with underscores for hyphens; a list repeats a setting, a
    tuple gives it several arguments: `server(maxmemory="50mb", save=("60", "1000"))`. `kind` is
    "path", "redis8", "embedded" or "docker"; by default what `connect()` would start.

    Raises: LabError when it cannot start, with the server's own words.
    """
    chosen = kind_named(kind) if kind else private_kind()
    if chosen is None or not chosen.private:
        own = _join_names((each for each in KINDS if each.private), " or ")
        raise LabError(f"A private server is of kind {own}, not {kind}.")
    return chosen.start(password, config)


_default: tuple[Server, str] | None = None
_single: tuple[Server, str] | None = None  # for lessons that need one server; see `default`
_announced: redis.Redis | None = None


def default(one_server: bool = False) -> tuple[Server, str]:
    """The server of this process, the user's or one that the lab starts, and why it was chosen.

    With `one_server`, a private server is used if the user's server is a node of a cluster. A
    server that has ended is replaced.

    Raises: LabError if the user's own server has ended.
    """
    global _default, _single, _announced
    before = _single if one_server and _single else _default
    if before and not before[0].listens():
        before[0].stop()
        if before is _single:
            _single = None
        else:
            _default = None
        _announced = None  # the next client replaces it
        chosen, why = default(one_server)
        return chosen, f"the server before it has ended{', ' if why else ''}{why}"
    if before and before[0].restarted:
        return before[0], "it was restarted since the last connect(), and may have lost keys"
    if one_server and _single:
        return _single
    if _default:
        chosen, why = _default
    else:
        kind, why = choose_kind()
        chosen = kind.start()
    if one_server and chosen.clustered:
        _single = server(), "REDIS_URL is of a cluster, and this lesson needs one server"
        return _single
    chosen.visit()
    _default = chosen, why
    return _default


def connect(
    *, quiet: bool = False, one_server: bool = False, **options: Any
) -> redis.Redis | redis.RedisCluster:
    """A client of the lab's server; prints one line that says which server and why.

    Replies are text unless `decode_responses=False`; other `options` go to redis-py. A `quiet`
    client is an additional one: `%%redis` and `check` go on using the one that was announced. If
    REDIS_URL names a node of a cluster, the client is a cluster client. With `one_server` it is the
    client of a private server instead: for what a cluster cannot do, such as commands over keys in
    several slots.

    A server that has ended is replaced by a new one, which is empty. The line reports this, and
    also a restart of the user's own server.

    Raises: LabError when there is no server, or when the user's own server cannot be used or has
    ended.
    """
    global _announced
    chosen, why = default(one_server)
    client = chosen.client(**options)
    if not quiet or _announced is None:
        _announced = client
    if not quiet:
        print(f"{chosen} · {why}" if why else chosen)
    return client


def running_server() -> Server | None:
    """The server behind `connect()`, of a cluster the node in REDIS_URL; None before the first
    call.
    """
    found = _default or _single
    return found[0] if found else None


def server_behind(client: redis.Redis) -> Server | None:
    """The server of this process's `connect()` that a client talks to directly, or None."""
    where = client.connection_pool.connection_kwargs
    for server, _ in filter(None, (_default, _single)):
        path, port = where.get("path"), where.get("port")  # a client of a Sentinel has neither
        if path == server.socket if path else port == server.port:
            return server
    return None


def announced_client() -> redis.Redis | None:
    """The client that `connect()` announced last, for `check` and `%%redis` only."""
    return _announced


def has(command: str, client: redis.Redis | redis.RedisCluster | None = None) -> bool:
    """Whether a server knows a command or subcommand, such as "HSETEX" or "CLIENT NO-TOUCH".

    The server is that of `client`, by default that of `connect()`. The question takes one round
    trip and runs nothing. A command that an ACL forbids to this user counts as known.

    Raises: redis.NoPermissionError if this user may not run COMMAND.
    """
    one = first_primary(client or _announced or connect(quiet=True))
    # As one word, because redis-py's parser of COMMAND INFO fails at the nil of an unknown command.
    [found] = one.execute_command("COMMAND INFO", "|".join(command.split()))
    return bool(found)


def clean_up(client: redis.Redis) -> None:
    """Remove what the lesson wrote: everything on the lab's own server, its own keys elsewhere."""
    guest = guest_of(client)
    if guest is not None:
        guest.remove_written(client)
    else:
        client.flushdb()
