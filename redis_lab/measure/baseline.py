"""The baselines of a client: PING over a bare socket, and redis-benchmark."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from ..errors import LabError
from ..servers.nodes import first_primary
from .validity import InvalidRun

BASELINE = "PING, bare socket"


def get_endpoint(client: redis.Redis | redis.RedisCluster) -> dict[str, Any]:
    """The pool's host, port, path, username and password."""
    kwargs = first_primary(client).connection_pool.connection_kwargs
    return kwargs if kwargs.get("path") else {"host": "localhost", "port": 6379, **kwargs}


@contextlib.contextmanager
def bare_ping(client: redis.Redis | redis.RedisCluster) -> Iterator[Callable[[], object] | None]:
    """A callable that sends PING and reads the reply on a bare socket; None over TLS."""
    where = get_endpoint(client)
    if issubclass(first_primary(client).connection_pool.connection_class, redis.SSLConnection):
        yield None
        return
    if where.get("path"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(where["path"])
    else:
        connection = socket.create_connection((where["host"], where["port"]), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        if where.get("password"):
            parts = [b"AUTH", (where.get("username") or "default").encode()]
            parts.append(str(where["password"]).encode())
            packed = b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
            connection.sendall(b"*3\r\n" + packed)
            connection.recv(64)
        send, receive = connection.sendall, connection.recv
        ping = b"*1\r\n$4\r\nPING\r\n"

        def call() -> bytes:
            send(ping)
            return receive(64)

        if call() != b"+PONG\r\n":
            raise InvalidRun("The bare socket's PING was not answered with PONG.")
        yield call


def server_cpu_s(client: redis.Redis) -> float:
    """CPU time of the server's main thread, or of the whole server if it does not report that."""
    info = client.info("cpu")
    kinds = ("user", "sys")
    return sum(info.get(f"used_cpu_{kind}_main_thread", info[f"used_cpu_{kind}"]) for kind in kinds)


def redis_benchmark(
    client: redis.Redis, *command: str, depth: int = 1, connections: int = 1, requests: int = 10_000
) -> dict[str, float] | None:
    """The same command by redis-benchmark, written in C; None when it is not on PATH.

    Also None over TLS, and for a server with a password, because redis-benchmark would need the
    password on its command line, where everyone on the machine can read it.

    Returns `per_second`; `server_busy` and `generator_busy`, the CPU times of the server's main
    thread and of redis-benchmark as shares of one core; and, for one connection at depth 1 only,
    `p50_us` and `p99_us` (with more connections it leaves out the wait in its own event loop). The
    keys must exist already; otherwise it times nil replies.

    Raises: LabError when redis-benchmark fails.
    """
    binary = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    where = get_endpoint(client)
    tls = issubclass(first_primary(client).connection_pool.connection_class, redis.SSLConnection)
    if binary is None or tls or where.get("password"):
        return None
    to = ["-s", where["path"]] if where.get("path") else ["-h", where["host"], "-p", where["port"]]
    settings = ["--csv", "-n", requests, "-c", connections, "-P", depth]
    settings += ["--dbnum", where.get("db") or 0]
    server_s, began = server_cpu_s(client), time.perf_counter()
    own_s = _ended_children_cpu_s()
    done = subprocess.run(
        [binary, *map(str, [*to, *settings]), *command],
        capture_output=True,
        text=True,
        timeout=120,
    )
    wall_s, own_s = time.perf_counter() - began, _ended_children_cpu_s() - own_s
    server_s = server_cpu_s(client) - server_s
    rows = list(csv.DictReader(done.stdout.splitlines()))
    if done.returncode or not rows:
        raise LabError(f"redis-benchmark failed: {(done.stderr or done.stdout).strip()[:200]}")
    found = {
        "per_second": float(rows[0]["rps"]),
        "server_busy": min(server_s / wall_s, 1.0),
        "generator_busy": own_s / wall_s,
    }
    if connections == depth == 1:
        found["p50_us"] = float(rows[0]["p50_latency_ms"]) * 1e3
        found["p99_us"] = float(rows[0]["p99_latency_ms"]) * 1e3
    return found


def _ended_children_cpu_s() -> float:
    """CPU time of all child processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system
