"""The server's own measurement: how long it executed each command, to compare with the client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

PERCENTILES = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us"}


def read_server_latency(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """How long each command took since CONFIG RESETSTAT or the server's start, as the server
    reports.

    By command, such as "GET": `calls`; `p50_us`, `p99_us` and `p999_us` by INFO latencystats; and
    `histogram_us`, by LATENCY HISTOGRAM: for each power of two, how many calls took at most that
    many µs. Percentiles that the server is not configured to track are None.

    The time is that of the execution alone, without queueing, reading, writing and the network. So
    under load, a client's p99 may be a hundred times as long. Needs Redis 7.0.

    Raises: redis.ResponseError from an older server.
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
    """A map of RESP3, or the flat list of RESP2, as a dictionary whose keys are text."""
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {to_text(name): value for name, value in pairs}


def to_text(name: Any) -> str:
    """A name in a reply, as text."""
    return name.decode() if isinstance(name, bytes) else str(name)
