"""What the server counted: commands, hits and misses."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import redis

from ..servers.nodes import primaries
from .event_loop import run_async


def read_counts(clients: Iterable[redis.Redis]) -> dict[str, Counter]:
    """Commands, hits and misses that each distinct server has counted so far, by its run id.

    The clients may be asynchronous ones.
    """
    counts = {}
    for client in chain.from_iterable(map(primaries, clients)):
        info: Any = client.info("everything")
        if inspect.isawaitable(info):
            info = run_async(info)
        count = Counter(
            {name[8:].upper(): entry["calls"] for name, entry in info.items() if "cmdstat_" in name}
        )
        count["hits"], count["misses"] = info["keyspace_hits"], info["keyspace_misses"]
        del count["INFO"]
        counts[info["run_id"]] = count
    return counts


def subtract_counts(after: dict[str, Counter], before: dict[str, Counter]) -> dict[str, Counter]:
    """What each server has counted between two readings, without the counts that did not change."""
    return {
        server: Counter(
            {k: n - before[server][k] for k, n in count.items() if n != before[server][k]}
        )
        for server, count in after.items()
    }


def has_nil(reply: object) -> bool:
    """Whether a reply is nil, or a list with a nil in it."""
    return reply is None or (isinstance(reply, list) and any(item is None for item in reply))
