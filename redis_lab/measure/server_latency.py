"""The server's own clock: how long it executed each command, to stand beside the client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

PERCENTILES = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us"}


def read_server_latency(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """What the server says of the time of each command since CONFIG RESETSTAT or its start.

    By command, such as "GET": `calls`; `p50_us`, `p99_us` and `p999_us` by INFO latencystats; and
    `histogram_us`, by LATENCY HISTOGRAM: for powers of two, how many calls took at most so many µs.
    Percentiles that the server is not configured to track are None.

    It is the execution alone: neither the wait for its turn, nor reading and writing, nor the way.
    So under load a client's p99 may be a hundred times this one. Needs Redis 7.0.

    Raises: redis.ResponseError from a server that is older.
    """
    info: Any = client.info("latencystats")
    percentiles = {
        name.removeprefix("latency_percentiles_usec_").upper(): values
        for name, values in info.items()
        if isinstance(values, dict)
    }
    found = {}
    for name, entry in to_dict(client.execute_command("LATENCY", "HISTOGRAM")).items():
        told, command = to_dict(entry), to_text(name).upper()
        known = percentiles.get(command, {})
        row: dict[str, Any] = {"calls": told["calls"]}
        row |= {column: known.get(name) for name, column in PERCENTILES.items()}
        row["histogram_us"] = {int(us): n for us, n in to_dict(told["histogram_usec"]).items()}
        found[command] = row
    return found


def to_dict(reply: Any) -> dict[str, Any]:
    """A map of RESP3, or the flat list of RESP2, with text for its names."""
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {to_text(name): value for name, value in pairs}


def to_text(name: Any) -> str:
    """A name of a reply, decoded or not."""
    return name.decode() if isinstance(name, bytes) else str(name)
