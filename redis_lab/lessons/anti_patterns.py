"""The lesson on anti-patterns: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, DotPanels, Lines, Panel
from redis_lab.judging import NotYet, exercise, vary, vary_word
from redis_lab.servers.choose import server
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "anti_patterns": DotPanels(
        title="What a command costs those who did not send it",
        panels=(
            Panel(
                title="a bystander's longest wait",
                xlabel="ms, log scale",
                points={"naive": "naive_wait_ms", "the other form": "mend_wait_ms"},
            ),
            Panel(
                title="the work itself",
                xlabel="ms, log scale",
                points={"naive": "naive_work_ms", "the other form": "mend_work_ms"},
            ),
        ),
    ),
    "anti_patterns_memory": Lines(
        title="A cache fills up",
        x="writes",
        y="used_mb",
        xscale="linear",
        yscale="linear",
        xlabel="pages written",
        ylabel="used memory (MB)",
    ),
}

FILL = """
for n = 1, ARGV[1] do redis.call('SET', 'page:' .. n, string.rep('x', n % 90)) end
for n = 1, ARGV[1] do redis.call('SET', 'user:' .. n, 'x') end
for n = 1, 3000 do redis.call('HSET', 'page:index', n, 'some words of a page') end
for n = 1, 20 do redis.call('RPUSH', 'user:wishes', string.rep('x', 400)) end
redis.call('SET', 'my page:1', 'x')
"""


def _count_calls(client: redis.Redis) -> dict[str, int]:
    """How often each command was executed since CONFIG RESETSTAT, by its name."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


@exercise(
    hints=(
        "KEYS looks at all keys in one go while the others wait. And one MEMORY USAGE a round "
        "trip makes thousands of round trips.",
        "SCAN gives the names in pages, with a cursor. Ask for the sizes of one page in a "
        "pipeline, then go on with the next page.",
        "Loop until the cursor is 0 again: `cursor, names = client.scan(cursor, count=1000)`; "
        "queue `pipe.memory_usage(name)` for each; remember the name with the largest reply. A "
        "reply may be None if the key has gone meanwhile.",
    )
)
def biggest_key(_: redis.Redis, answer: Callable[[redis.Redis], str]) -> str:
    with server() as private, private.client() as r:
        r.eval(FILL, 0, 2000)
        biggest = vary_word("page:index")
        r.rename("page:index", biggest)
        r.config_resetstat()
        with wire(r) as w:
            result = answer(r)
        calls = _count_calls(r)
        if "keys" in calls:
            raise NotYet(
                "KEYS goes through all keys in one go, and all other clients wait. SCAN does it in "
                "pages, with time for other clients in between."
            )
        if result != biggest:
            raise NotYet(
                f"your answer is {result!r}; that key does not take the most memory. MEMORY USAGE "
                "works for every type; lengths in bytes and in members cannot be compared."
            )
        if w.round_trips > 200:
            raise NotYet(
                f"right, in {w.round_trips:,} round trips. Ask for a page of names at once, in a "
                "pipeline."
            )
    return "right, in a few dozen round trips, none of them long"


@exercise(
    hints=(
        "Two commands here make others wait: KEYS, and DEL for big keys. Each has a "
        "counterpart that does not.",
        "SCAN with `match` and `count` gives pages of names. UNLINK takes names out at once "
        "and frees the memory in another thread. Delete page by page.",
        'Loop over `client.scan(cursor, match=prefix + "*", count=500)` until the cursor is '
        "0; if a page has names, add `client.unlink(*names)` to the number. A page may be "
        "empty.",
    )
)
def delete_prefix(_: redis.Redis, answer: Callable[[redis.Redis, str], int]) -> str:
    with server() as private, private.client() as r:
        many = vary(5000, 4000, 6000)
        r.eval(FILL, 0, many)
        r.config_resetstat()
        with wire(r) as w:
            result = answer(r, "page:")
        calls, left = _count_calls(r), r.dbsize()
        if "keys" in calls:
            raise NotYet("KEYS again: other clients wait. SCAN takes the same pattern, as `match`.")
        if calls.get("flushdb") or calls.get("flushall") or not r.exists("my page:1"):
            raise NotYet("keys that do not begin with the prefix are gone.")
        if left != many + 2:
            raise NotYet(f"{left - many - 2} keys with the prefix are still there.")
        if "del" in calls:
            raise NotYet(
                "DEL of a big key takes long, and other clients wait. UNLINK only takes it out, "
                "and leaves the freeing to a thread."
            )
        if calls.get("unlink", 0) < 5:
            raise NotYet(
                f"{calls.get('unlink', 0)} UNLINK for {many + 1} keys: with so many names even "
                "that takes long. Delete the keys of each page of SCAN."
            )
        if w.round_trips > 500:
            raise NotYet(f"{w.round_trips:,} round trips: UNLINK takes many names at once.")
        if result != many + 1:
            raise NotYet(f"all are gone, but your answer is {result}; there were {many + 1}.")
    return f"right: {many + 1} keys in a few dozen round trips, and no other client waited long"
