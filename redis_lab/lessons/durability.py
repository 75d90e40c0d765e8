"""The lesson on durability: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import redis

from redis_lab.figures import Chart, DotPlot, Timeline
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "durability": Timeline(
        title="Five servers are killed, and which writes come back",
        x="seconds",
        lane="server",
        event="event",
        xlabel="time since the first write (s)",
        meanings={
            "acknowledged, and lost": "lost",
            "recovered": "acknowledged",
        },
    ),
    "durability_cost": DotPlot(
        title="What it costs to keep a write",
        x="per_unit_us",
        xlabel="time for one write (µs, log scale)",
        meanings={
            "nothing": "baseline",
            "SQLite, one commit": "theirs",
        },
    ),
}

Rules = list[tuple[int, int]]


@exercise(
    hints=(
        "A rule needs both: its seconds and its changes. At a slow rate, the changes take "
        "longer than the seconds.",
        "At a rate of w writes a second, n changes take n / w seconds. So a rule is ready "
        "after the larger of the two times. The snapshot comes with the first rule that is "
        "ready.",
        "Take the `max` of `seconds` and `changes / writes_per_s` for each rule, the `min` of "
        "that over the rules, and multiply it by the rate.",
    )
)
def lost_at_most(_: redis.Redis, answer: Callable[[Rules, float], float]) -> str:
    default = [(3600, 1), (300, 100), (60, 10_000)]
    busy, calm = vary(100, 110, 900), vary(1000, 1100, 5000)
    for rules, rate in (([(60, 1)], busy), (default, calm), (default, 1), (default, 0.01)):
        result = answer(rules, rate)
        right = rate * min(max(seconds, changes / rate) for seconds, changes in rules)
        asked = f"with {rules} and {rate:g} writes a second your answer is {result:g}"
        if result < right * 0.999:
            raise NotYet(
                f"{asked}. A rule waits for both, its seconds and its changes: at this rate some "
                f"of them have to wait longer for their changes. Up to {right:g} can be lost."
            )
        if result > right * 1.001:
            raise NotYet(
                f"{asked}. Whichever rule is ready first takes the snapshot: {right:g} at most."
            )
    return "right: the rule that is ready first, and it is ready when both its parts are"


@exercise(
    hints=(
        "Between your DELETE and the last ZADD readers see an empty or half board. Build the "
        "new board where nobody looks.",
        "Fill another key in a pipeline, and put it in place with RENAME, which replaces the "
        "old key in one step. What an earlier attempt may have left under the other name must "
        "be removed first.",
        'In a pipeline: `delete(f"{key}:new")`, a `zadd` to it for each row, then '
        '`rename(f"{key}:new", key)`, and one `execute()`.',
    )
)
def refill(r: redis.Redis, answer: Callable[[redis.Redis, str, Iterator], object]) -> str:
    key, old = "check:bestsellers", {"1": 5.0, "2": 4.0, "no longer sold": 9.0}
    wanted = {str(product): float(vary(product % 50 + 1, 60, 999)) for product in range(1, 401)}
    broken: list[int] = []

    def rows() -> Iterator[tuple[str, int]]:
        for product, quantity in wanted.items():
            if r.zcard(key) != len(old) and not broken:
                broken.append(r.zcard(key))
            yield product, int(quantity)

    try:
        r.delete(key)
        r.zadd(key, old)
        with wire(r) as w:
            answer(r, key, rows())
        trips = w.round_trips - len(wanted) - len(broken)
        scores: Any = r.zrange(key, 0, -1, withscores=True)
        got = dict(scores)
        if "no longer sold" in got:
            raise NotYet("what is no longer sold is still on the board: adding takes nothing away.")
        if got != wanted:
            raise NotYet(f"the board holds {len(got)} products, not the {len(wanted)} of the rows.")
        if broken:
            raise NotYet(
                f"while the rows were read, readers saw a board of {broken[0]} products. Build it "
                "under another name, and put it in place in one step."
            )
        if trips > 20:
            raise NotYet(f"{trips} round trips for {len(wanted)} rows: use a pipeline.")
    finally:
        for name in r.scan_iter(match=f"{key}*"):
            r.delete(name)
    return f"right: {len(wanted)} products, round trips: {trips}, and nobody saw half a board"
