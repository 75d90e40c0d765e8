"""The lesson on geo: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary_word
from redis_lab.wiretap import wire

FIGURES: dict[str, Chart] = {
    "geo": Lines(
        title="Who is within 50 km?",
        x="places",
        y="p50_us",
        by="what",
        theory="theory_us",
        theory_label="round trip + found × price",
        xlabel="places between Portugal and Finland",
        ylabel="time for one search (µs)",
        meanings={
            "GEOSEARCH": "ours",
            "SQLite, index": "theirs",
            "SQLite, R*Tree": "theirs",
        },
    ),
}

TOWN = (10.0, 50.0)


@exercise(
    hints=(
        "ANY stops at the first members that it finds, which are not the nearest. And a radius "
        "of 5 km is too small in the country.",
        'Leave ANY out and sort with `sort="ASC"`; `count=k` limits what is sent. COUNT does '
        "not limit the work, though: the server looks at everybody within the radius. So begin "
        "with a small radius, and take a larger one only if too few are found.",
        'Loop over some radii, such as 1, 5, 25, 125 and 500 km, with `sort="ASC", count=k`. '
        "Stop as soon as `k` are found, and return what the last search found.",
    )
)
def nearest(
    r: redis.Redis, answer: Callable[[redis.Redis, str, float, float, int], list[str]]
) -> str:
    key, lone = "check:town", "check:lone"
    lon, lat = TOWN
    near = [vary_word(f"near {k}") for k in range(5)]
    crowd = [(lon - 0.02 - k / 1e5, lat - 0.01, f"crowd {k}") for k in range(2000)]
    try:
        r.geoadd(key, [value for place in crowd for value in place])
        for k, name in enumerate(near):
            r.geoadd(key, (lon + k / 1000, lat - 0.001, name))
        r.geoadd(lone, (lon + 1.0, lat, "far", lon - 2.0, lat, "farther"))
        with wire(r) as counted:
            crowded = answer(r, key, lon, lat, 5)
        lonely = answer(r, lone, lon, lat, 2)
    finally:
        r.delete(key, lone)
    if crowded and not isinstance(crowded[0], str):
        raise NotYet("the answer should be a list of names, without their distances.")
    if set(crowded or ()) != set(near):
        raise NotYet(
            f"only {len(set(crowded or ()) & set(near))} of the five that come are among the five "
            "nearest. ANY stops at the first five it meets, and COUNT without an order does not "
            "promise the nearest either."
        )
    if crowded != near:
        raise NotYet("the right five, but not the nearest first. Which word sorts?")
    if lonely != ["far", "farther"]:
        raise NotYet(
            f"in the country, with one point some 70 km and another 140 km away, your search found "
            f"{lonely}. The radius is too small for the country."
        )
    if counted.bytes_in > 2000:
        raise NotYet(
            f"right, but {counted.bytes_in:,} bytes came back: the whole town was fetched for "
            "five names. COUNT leaves the rest on the server."
        )
    return f"right: the five nearest of {len(crowd) + 5:,} in {counted.bytes_in} bytes"


@exercise(
    hints=(
        "EXPIRE removes the whole map, and only if nobody reports at all. One courier who is "
        "silent must go alone. So you need to know when each of them was last seen.",
        "Keep a second sorted set with the courier as member and `now` as score. At each "
        "report, look up those whose score is at most `now - 60` and remove them from both "
        "sets. A geo key is a sorted set, so ZREM works on it.",
        "Write one script: GEOADD to `KEYS[1]`, ZADD to `KEYS[2]`, a loop over `ZRANGE KEYS[2] "
        "-inf now-60 BYSCORE` with two ZREMs, and an EXPIRE of 60 for each key. Call it with "
        '`r.eval(script, 2, "check:couriers", "check:couriers:seen", …)`.',
    )
)
def report(
    r: redis.Redis, answer: Callable[[redis.Redis, str, float, float, float], object]
) -> str:
    key = "check:couriers"
    lon, lat = TOWN
    start = 1_750_000_000.0
    try:
        answer(r, "silent", lon, lat, start)
        answer(r, "moving", lon, lat, start + 30)
        answer(r, "moving", lon + 0.1, lat, start + 59)
        before = set(r.zrange(key, 0, -1))
        with wire(r) as counted:
            answer(r, "new", lon, lat, start + 100)
        after = set(r.zrange(key, 0, -1))
        moved = r.geodist(key, "moving", "new", unit="km")
        answer(r, "silent", lon, lat, start + 110)
        back = r.zscore(key, "silent") is not None
        lives = {k: r.pttl(k) / 1000 for k in r.scan_iter(f"{key}*", count=1000)}
    finally:
        r.delete(key, *r.scan_iter(f"{key}*", count=1000))
    if before != {"silent", "moving"}:
        raise NotYet(f"before the minute is over both couriers belong on the map, not {before}.")
    if "silent" in after:
        raise NotYet(
            "a courier who went home 100 seconds ago is still on the map. EXPIRE sets a time to "
            "live for the whole key, and every report renews it. When was each one last seen? "
            "That is a score for a second sorted set."
        )
    if after != {"moving", "new"}:
        raise NotYet(
            f"on the map there should be the moving and the new courier, not {sorted(after)}. "
            "A courier who reported 41 seconds ago stays."
        )
    if not moved or moved < 5:
        raise NotYet("the moving courier is not where it reported last.")
    if not back:
        raise NotYet("a courier who reports again after a break must be on the map again.")
    if counted.round_trips > 1:
        raise NotYet(
            f"it works if you are alone, in {counted.round_trips} round trips. Between finding "
            "the silent couriers and removing them, one may report and is removed anyway. A script "
            "does both in one."
        )
    if lasting := sorted(name for name, left in lives.items() if left < 0):
        raise NotYet(f"if nobody reports any more, {', '.join(lasting)} stays for ever.")
    if lives and min(lives.values()) < 30:
        raise NotYet(
            f"{min(lives, key=lives.__getitem__)} is gone {min(lives.values()):.0f} seconds after "
            "a report, and every courier with it. A courier who reported less than a minute ago "
            "must stay: give both keys a longer time to live."
        )
    return "right: the silent are gone, the others stay, in one round trip"
