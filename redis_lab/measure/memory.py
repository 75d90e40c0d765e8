"""The memory that a call or its data need, in the client and in the server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import psutil
import redis

from ..errors import LabError
from ..servers.base import START_TIMEOUT_S, Server
from ..servers.choose import server as start_server


def footprint(client: redis.Redis, call: Callable[[], object]) -> dict[str, float]:
    """What one call needs in client and server: `seconds`, `client_mb` and `server_mb`.

    Memory is how far the call raised the peak: resident memory of this process, used memory of the
    server. Both peaks can only rise, so measure the small case first, and use a fresh server for
    each case.
    """
    server_before = client.info("memory")["used_memory_peak"]
    client_before = peak_resident_bytes()
    start = perf_counter_ns()
    call()
    seconds = (perf_counter_ns() - start) / 1e9
    return {
        "seconds": seconds,
        "client_mb": (peak_resident_bytes() - client_before) / 1e6,
        "server_mb": (client.info("memory")["used_memory_peak"] - server_before) / 1e6,
    }


def peak_resident_bytes() -> int:
    """The most memory this process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        memory: Any = psutil.Process().memory_info()
        return memory.peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def growth(write: Callable[[redis.Redis], object]) -> int:
    """How many bytes a private server's memory grows by when `write(client)` writes.

    MEMORY USAGE omits memory that belongs to no key: the table of all keys, and that of their times
    to live. Here both are included; clients' buffers and command statistics are not.
    """
    with start_server(latency_tracking=False) as own:
        before = _used_memory(own)
        with own.client() as writer:
            write(writer)
        return _used_memory(own) - before


def _used_memory(own: Server) -> int:
    """A server's memory in bytes, with one new client, whose buffers are always the same."""
    deadline_ns = perf_counter_ns() + START_TIMEOUT_S * 1e9
    with own.client() as counter:
        while counter.info("clients")["connected_clients"] > 1:
            if perf_counter_ns() > deadline_ns:
                raise LabError("A client that wrote is still connected: close it.")
        return int(counter.info("memory")["used_memory"])
