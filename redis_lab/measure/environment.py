"""What numbers depend on: the machine, its load, the server, the client, and where they ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import redis

from .. import internals
from ..servers.choose import server_behind
from ..servers.nodes import first
from .effort import effort_name


def cpu_model() -> str:
    try:
        if sys.platform == "darwin":
            words = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(words, capture_output=True, text=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def get_affinity(process: psutil.Process | None) -> list[int] | None:
    """The processors a process may run on; None where the system does not say."""
    try:
        return process.cpu_affinity() if process else None
    except (AttributeError, psutil.Error):
        return None


def environment(client: redis.Redis | None = None, **more: object) -> dict[str, object]:
    """What the numbers depend on: machine, load, versions, server, transport, parser.

    `more` adds what only the experiment knows, such as its seed. Holds no host name, user name,
    path or password.
    """
    times = psutil.cpu_times_percent(interval=None)
    found: dict[str, object] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "effort": effort_name(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "client_affinity": get_affinity(psutil.Process()),
        "load_1_min": round(psutil.getloadavg()[0], 2),
        "steal_percent": getattr(times, "steal", None),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis_py": redis.__version__,
        "numpy": np.__version__,
        "redis_lab": importlib.metadata.version("redis-lab"),
    }
    if client is not None:
        found |= describe_server(client)
    return found | more


def describe_server(client: redis.Redis) -> dict[str, object]:
    client = first(client)
    info = client.info("server")
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        parser = internals.parser_name(connection)
        protocol = connection.get_protocol()
    finally:
        pool.release(connection)
    where = pool.connection_kwargs
    tls = issubclass(pool.connection_class, redis.SSLConnection)
    transport = "Unix socket" if where.get("path") else "TLS" if tls else "TCP"
    if where.get("host") in ("127.0.0.1", "localhost", "::1"):
        transport += " loopback"
    ours = server_behind(client)
    return {
        "server": "Valkey" if "valkey_version" in info else "Redis",
        "server_version": info.get("valkey_version", info["redis_version"]),
        "allocator": client.info("memory").get("mem_allocator"),
        "server_config": ours.settings if ours else None,
        "server_affinity": get_affinity(psutil.Process(ours.pid)) if ours and ours.pid else None,
        "transport": transport,
        "protocol": f"RESP{protocol}",
        "parser": parser,
    }
