"""The private members of redis-py that the package uses: `redis_lab/internals.py` and no other."""

from __future__ import annotations

import ast
import re
import threading
from functools import cache
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis._parsers import _AsyncHiredisParser, _HiredisParser, _RESP2Parser, _RESP3Parser
from redis.connection import CacheProxyConnection

import redis_lab
from redis_lab import internals

WRITTEN_FOR = "8.1"  # of redis-py
PACKAGE = Path(redis_lab.__file__).parent

# Each private member (and the public ones that are replaced), with one object that must have it
CONNECTION, ASYNC = redis.Connection(), redis.asyncio.Connection()


def connected(parser):
    """A parser as it is once its connection is open."""
    parser.on_connect(CONNECTION)
    return parser


MEMBERS = [
    (CONNECTION, "_connect"),
    (CONNECTION, "_sock"),
    (CONNECTION, "_parser"),
    (CONNECTION, "_send_ping"),
    (CONNECTION, "connect_check_health"),
    (CONNECTION, "read_response"),
    (ASYNC, "_connect"),
    (ASYNC, "_reader"),
    (ASYNC, "_writer"),
    (ASYNC, "_parser"),
    (ASYNC, "_send_ping"),
    (ASYNC, "connect_check_health"),
    (ASYNC, "read_response"),
    (redis.SSLConnection, "_wrap_socket_with_ssl"),
    (CacheProxyConnection(CONNECTION, None, threading.RLock()), "_conn"),
    (connected(_HiredisParser(1)), "_sock"),
    (_HiredisParser(1), "handle_push_response"),
    (_HiredisParser(1), "set_invalidation_push_handler"),
    (_AsyncHiredisParser(1), "_stream"),
    (connected(_RESP2Parser(1)), "_sock"),
    (connected(_RESP2Parser(1))._buffer, "_sock"),
    (connected(_RESP3Parser(1)), "_buffer"),
    (_RESP3Parser(1), "handle_push_response"),
    (redis.ConnectionPool(), "_lock"),
    (redis.ConnectionPool(), "_available_connections"),
    (redis.ConnectionPool(), "_in_use_connections"),
    (redis.ConnectionPool(), "make_connection"),
    (redis.BlockingConnectionPool(), "_connections"),
    (redis.asyncio.ConnectionPool(), "_available_connections"),
    (redis.asyncio.ConnectionPool(), "_in_use_connections"),
    (redis.asyncio.ConnectionPool(), "make_connection"),
    (redis.asyncio.cluster.ClusterNode("127.0.0.1", 1), "_connections"),
]
OF_OTHERS = {"_container", "_http", "_client"}  # used by tests of Docker and of the gateway


def missing() -> list[str]:
    return [
        f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
        for owner, name in MEMBERS
        if not hasattr(owner, name)
    ]


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def attributes(tree: ast.AST) -> set[str]:
    """The private attributes of other objects, or of a base class, that a file uses."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-z]", node.attr)
        and not is_self(node.value)
    }


def own_attributes(tree: ast.AST) -> set[str]:
    """What a file's classes use of themselves; perhaps they have inherited it."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if is_self(node.value)}


def defined(tree: ast.AST) -> set[str]:
    """The functions and methods that it defines, and the attributes it gives to `self`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)} | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def texts(tree: ast.AST) -> set[str]:
    """Its strings that could name a private member, as for `getattr`."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in constants if re.fullmatch(r"_[a-z_]+", str(text))}


def test_redis_py_has_all_of_them():
    assert missing() == [], (
        f"redis-py {redis.__version__} lacks private members that redis_lab/internals.py uses; it "
        f"was written for {WRITTEN_FOR}. Adapt it, and the table in this test."
    )


def test_one_that_vanishes_is_noticed(monkeypatch):
    monkeypatch.delattr(redis.SSLConnection, "_wrap_socket_with_ssl")
    assert missing() == ["SSLConnection._wrap_socket_with_ssl"]


def test_the_table_is_complete():
    tree = parsed(Path(internals.__file__))
    private = {name for name in defined(tree) if re.match(r"_[a-z]", name)}
    used = texts(tree) | attributes(tree) | private
    named = {name for _, name in MEMBERS} | OF_OTHERS
    assert used == {name for name in named if name[0] == "_"}


NOT_PRIVATE = {"_exit", "_replace", "_asdict"}  # of os, and of namedtuple
OTHER_FILES = [file for file in PACKAGE.rglob("*.py") if file.name != "internals.py"]
USED = {name for _, name in MEMBERS if name[0] == "_"}
REDIS_PYS = USED.union(*(dir(owner) for owner, _ in MEMBERS))


@cache
def ours() -> set[str]:
    return set().union(*(defined(parsed(file)) for file in OTHER_FILES))


def private_uses(tree: ast.AST) -> set[str]:
    """The private names of other libraries in a file that is not `internals.py`.

    `x._name` must be a name that one of our files defines and redis-py does not. Those of redis-py
    that we know are not to be defined, inherited or spelt out (`getattr(x, "_name")`) either.
    """
    of_others = {name for name in attributes(tree) if name not in ours() or name in REDIS_PYS}
    inherited = (own_attributes(tree) | defined(tree) | texts(tree)) & USED
    return (of_others | inherited) - NOT_PRIVATE


def test_nothing_else_uses_any():
    found = {str(file.relative_to(PACKAGE)): private_uses(parsed(file)) for file in OTHER_FILES}
    assert {name: uses for name, uses in found.items() if uses} == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("connection._sock.close()", "_sock"),
        ("pool._checkpid()", "_checkpid"),
        ("connection.disconnect(); connection._anything = 1", "_anything"),
        ("getattr(connection, '_parser')", "_parser"),
        ("class Mixin:\n async def _connect(self): await super()._connect()", "_connect"),
        ("class Mixin:\n def on_connect(self): self._reader = 1", "_reader"),
    ],
)
def test_a_private_use_is_seen(line, name):
    assert private_uses(ast.parse(line)) == {name}


def test_what_is_ours_is_no_private_use():
    code = "class A:\n def _store(self): self._x = 1\nA()._store()"
    assert private_uses(ast.parse(code)) == set()
