"""The lesson on invalidation: its exercises and its figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import redis

from redis_lab.figures import Chart, DotPlot, Timeline
from redis_lab.judging import NotYet, exercise, vary
from redis_lab.patterns.cache_aside import CacheAside

FIGURES: dict[str, Chart] = {
    "invalidation": Timeline(
        title="How each way of updating a cache leaves it stale",
        x="step",
        lane="lane",
        event="event",
        xlabel="step of the unlucky play",
        meanings={"commits": "acknowledged", "writes": "acknowledged", "stores": "stale"},
    ),
    "invalidation_cost": DotPlot(
        title="What a version floor costs",
        x="p50_us",
        xlabel="time for one call (µs, log scale)",
        meanings={
            "DEL": "baseline",
            "SET": "baseline",
        },
    ),
}

Announce = Callable[[str, int], object]


@exercise(
    hints=(
        "Imagine a reader that comes between your DELETE and your commit: it loads the old "
        "price and stores it. What must come first?",
        "First commit, then tell the cache. But a reader that had loaded before the commit may "
        "still store afterwards. A deletion does not stop it; the number of the version does.",
        "Keep what `commit(cents)` returns and hand it to `cache.invalidate`, together with "
        "the key.",
    )
)
def update(
    r: redis.Redis, answer: Callable[[Callable[[int], int], CacheAside, str, int], object]
) -> str:
    key, meetings, stale = "1", ("before the commit", "after the commit", "all through"), []
    price = vary(250, 300, 900)
    for meeting in meetings:
        row = {"version": 1, "cents": 100}

        def load(_: str, row: dict = row) -> tuple[int, dict]:
            return row["version"], dict(row)

        cache, late = CacheAside(r, "check", load), CacheAside(r, "check", load)
        held: list[dict] = []

        def commit(cents: int, row: dict = row, cache: CacheAside = cache) -> int:
            if meeting == "before the commit":  # noqa: B023  called while this turn lasts
                cache.get(key)
            if meeting == "all through":  # noqa: B023
                held.append(dict(row))  # noqa: B023
            row["version"], row["cents"] = row["version"] + 1, cents
            if meeting == "after the commit":  # noqa: B023
                cache.get(key)
            return row["version"]

        try:
            cache.get(key)
            answer(commit, cache, key, price)
            for old in held:  # the reader that was overtaken stores its value last
                args = [old["version"], '{"version": 1, "cents": 100}', 60_000, "0"]
                late._store(keys=["check:1"], args=args)
            if row["cents"] != price:
                raise NotYet(f"the price in the database should be {price} afterwards.")
            if cache.get(key) != row:
                stale.append(meeting)
        finally:
            r.delete("check:1")
    if "before the commit" in stale and "all through" in stale:
        raise NotYet(
            "a reader that came between the deletion and the commit has put the old price back, "
            "and it stays. First the commit, then the cache."
        )
    if "all through" in stale:
        raise NotYet(
            "a reader that had loaded before the commit stored after you were done. A deletion "
            "leaves nothing that would stop that: announce the version with cache.invalidate."
        )
    if stale:
        raise NotYet(f"a reader that came {stale[0]} sees the old price until its TTL is over.")
    return "right: three readers at three bad moments, and none left an old price"


@exercise(
    hints=(
        "`pop` takes the announcement off the list before it has been made. What is left if "
        "`announce` raises then?",
        "Announce first, remove afterwards. Look at the first element without taking it: "
        "`waiting[0]`.",
        "In the loop: `announce(*waiting[0])`, then `waiting.pop(0)`. If `announce` raises, "
        "the element is still there.",
    )
)
def deliver(_: redis.Redis, answer: Callable[[list[tuple[str, int]], Announce], object]) -> str:
    news = [("a", 3), ("b", 7), ("a", 4), ("c", 1)]
    waiting, announced, away = list(news), [], [True]

    def announce(key: str, version: int) -> None:
        if (key, version) == ("b", 7) and away[0]:
            raise ConnectionError("Redis is away")
        announced.append((key, version))

    with contextlib.suppress(ConnectionError):
        answer(waiting, announce)
    first = list(waiting)
    away[0] = False
    answer(waiting, announce)
    if waiting:
        raise NotYet(f"Redis is back, and {len(waiting)} announcements still wait.")
    lost = [item for item in news if item not in announced]
    if lost:
        raise NotYet(
            f"Redis was away for a moment, and the announcement of {lost[0]} is lost: it was taken "
            "off the list before it was made. Remove what is done, not what is tried."
        )
    if first == news:
        raise NotYet("what was announced before the error should be off the list.")
    if len(announced) > len(news):
        raise NotYet(
            f"{len(announced)} announcements were made of {len(news)}: what was announced once "
            "should be off the list."
        )
    if announced.index(("a", 3)) > announced.index(("a", 4)):
        raise NotYet("the oldest first.")
    return f"right: {len(news)} announcements, none lost while Redis was away"
