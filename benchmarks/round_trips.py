"""Count the round trips of each class that contracts.py drills: the table at the end of its page.

    python benchmarks/round_trips.py

Every class has done everything once before, so scripts are loaded and connections are made.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis

from redis_lab.drill.faults import Watched
from redis_lab.servers import server


class Counting(Watched):
    """Counts what is sent, as one round trip each; also for `rivals.asynchronous`."""

    actor: Any = None
    sent = 0

    def on_sending(self, packed: bytes) -> None:
        """One round trip."""
        Counting.sent += 1


def trips(call: Callable[[], Any]) -> tuple[int, Any]:
    """How many round trips a call makes, and what it returns."""
    before = Counting.sent
    result = call()
    return Counting.sent - before, result


def lock(made: Any) -> dict[str, int]:
    acquire, lease = trips(lambda: made.acquire("a"))
    return {"acquire": acquire, "release": trips(lambda: made.release(lease))[0]}


def limiter(made: Any) -> dict[str, int]:
    return {"allow": trips(lambda: made.allow("a"))[0]}


def cache(made: Any) -> dict[str, int]:
    counts = {}
    for what, call in (
        ("invalidate", lambda: made.invalidate("a")),
        ("miss", lambda: made.get("a")),
        ("hit", lambda: made.get("a")),
    ):
        counts[what], _ = trips(call)
    return counts


def queue(made: Any) -> dict[str, int]:
    made.number = getattr(made, "number", 0) + 1
    counts = {"put": trips(lambda: made.put(f"job-{made.number}"))[0]}
    counts["take"], job = trips(made.take)
    counts["done"] = trips(lambda: made.done(job))[0]
    return counts


KINDS = {"lock": lock, "limiter": limiter, "cache": cache, "queue": queue}


def count(kind: str, address: str) -> dict[str, int]:
    """The round trips of each call of a class."""
    module, _, name = address.partition(":")
    make = getattr(importlib.import_module(module), name)
    with server() as private:
        Counting.actor = SimpleNamespace(stage=SimpleNamespace(server=private))
        options = {"decode_responses": True, **getattr(make, "client_options", {})}
        pool = redis.ConnectionPool(
            connection_class=Counting, host=private.host, port=private.port, **options
        )
        with redis.Redis(connection_pool=pool) as client:
            rest = [lambda key: 1] if kind == "cache" else []
            made = make(client, *rest)
            for _ in range(2):
                KINDS[kind](made)
            found = KINDS[kind](made)
        pool.disconnect()
    return found


def table(tried: list[tuple[str, str]]) -> list[str]:
    """In Markdown."""
    lines = ["| kind | class | round trips |", "| - | - | - |"]
    for kind, address in tried:
        if kind in KINDS:
            counts = ", ".join(f"{what} {n}" for what, n in count(kind, address).items())
            lines.append(f"| {kind} | {address.partition(':')[2]} | {counts} |")
    return lines


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    print("\n".join(table(importlib.import_module("contracts").TRIED)))
