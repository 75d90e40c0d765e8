"""The lesson on client-side caching: its exercises and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

from redis_lab import internals
from redis_lab.figures import Chart, DotPlot, Lines
from redis_lab.judging import NotYet, exercise
from redis_lab.servers.choose import server

FIGURES: dict[str, Chart] = {
    "client_side_caching": DotPlot(
        title="Reading a copy, and asking for it",
        x="p50_us",
        xlabel="time for one read (µs, log scale)",
    ),
    "client_side_caching_window": Lines(
        title="For how long is a copy stale?",
        x="rtt_ms",
        y="ms",
        by="what",
        theory="theory",
        theory_label="what it is without distance + half a round trip",
        xscale="linear",
        yscale="linear",
        xlabel="round trip between reader and Redis (ms)",
        ylabel="time after the writer's OK (ms)",
        meanings={
            "stale for": "stale",
        },
    ),
}


@exercise(
    hints=(
        "Three kinds of message break this code: a name without a copy, no names at all, and a "
        "message of another kind.",
        "`message[0]` says what it is; only `invalidate` matters. If `message[1]` is None, "
        "everything was deleted. A dictionary's `pop` with a default does not mind a name that "
        "is not there.",
        'Return at once unless `message[0]` is `"invalidate"`. At None, `copies.clear()`. '
        "Otherwise `copies.pop(name, None)` for each name.",
    )
)
def on_push(_: redis.Redis, answer: Callable[[dict, list], None]) -> str:
    def after(*message: object) -> dict[str, int]:
        copies = {"a": 1, "b": 2, "c": 3}
        try:
            answer(copies, list(message))
        except Exception as error:
            raise NotYet(
                f"{list(message)!r} raised {type(error).__name__}: {error}. A key may have been "
                "removed already, and when all are deleted there are no names, but None."
            ) from error
        return copies

    if after("invalidate", ["a", "c"]) != {"b": 2}:
        raise NotYet("['invalidate', ['a', 'c']] should leave b, and nothing else.")
    if after("invalidate", ["x", "b"]) != {"a": 1, "c": 3}:
        raise NotYet("['invalidate', ['x', 'b']] should remove b; there was no copy of x.")
    if after("invalidate", None):
        raise NotYet("['invalidate', None]: everything was deleted, so no copy is valid any more.")
    if len(after("message", "a", "b")) != 3 or len(after("moving", ["a"], 15)) != 3:
        raise NotYet("a message of a channel, or of maintenance, says nothing about copies.")
    return "right: some keys, a key without a copy, all keys, and other messages"


@exercise(
    hints=(
        "With TRACKING ON the server remembers every key that you read. There is a mode in "
        "which you say for which reads it should.",
        "With the option OPTIN it tracks only what is read right after `CLIENT CACHING YES`, "
        "and that holds for the next command only.",
        "Switch on tracking with OPTIN as a further word. Read the cold keys plainly; before "
        'each GET of a hot key, `ask("CLIENT", "CACHING", "YES")`.',
    )
)
def read_all(_: redis.Redis, answer: Callable[[Callable, list[str], list[str]], None]) -> str:
    hot = [f"hot:{n}" for n in range(5)]
    cold = [f"cold:{n}" for n in range(1000)]
    with server() as private, private.client() as r:
        r.mset(dict.fromkeys([*hot, *cold], "x"))
        connection = redis.Connection(host=private.host, port=private.port, decode_responses=True)
        pushed: list[object] = []
        connection.connect()
        internals.on_invalidation(connection, pushed.append)

        def ask(*words: object) -> object:
            connection.send_command(*words)
            return connection.read_response()

        r.config_resetstat()
        try:
            answer(ask, hot, cold)
        except redis.RedisError as error:
            raise NotYet(f"the server says: {error}.") from error
        gets = r.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
        tracked = r.info("stats")["tracking_total_keys"]
        for name in hot:
            r.set(name, "y")
        time.sleep(0.05)
        ask("PING")
        hot_reports = len(pushed)
        for name in cold[:50]:
            r.set(name, "y")
        time.sleep(0.05)
        ask("PING")
        cold_reports = len(pushed) - hot_reports
        connection.disconnect()
    if gets != len(hot) + len(cold):
        raise NotYet(f"your code made {gets} GETs; each of the 1005 keys should be read once.")
    if cold_reports and not tracked:
        raise NotYet("BCAST reports every write, also of keys without a copy. Track only the five.")
    if tracked > len(hot):
        raise NotYet(
            f"the server remembers {tracked} keys, and would report each change. With OPTIN it "
            "tracks only what is read right after CLIENT CACHING YES."
        )
    if hot_reports < len(hot):
        raise NotYet(
            f"all 5 hot keys changed, and {hot_reports} changes were reported: CLIENT CACHING YES "
            "holds for the next command only."
        )
    return "right: 1005 keys read, five of them tracked"
