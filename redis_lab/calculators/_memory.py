"""The memory for a hit ratio."""

from __future__ import annotations

import altair as alt
import numpy as np
from scipy import optimize

from ..measure import theory
from ..measure.workload import Zipf
from . import _parts as parts
from .chart import Calculator, Number

PAGES = 20_000  # of both experiments on the hit ratio


def _needed(probabilities: np.ndarray, wanted: float) -> float:
    """How many keys give a hit ratio with random eviction; it inverts `theory.random`."""
    return optimize.brentq(
        lambda size: theory.random(probabilities, size) - wanted, 1, len(probabilities)
    )


FEW, NODES, TIMES = 20, 60, 90  # ranks one by one, groups of ranks, characteristic times


def _by_characteristic_time() -> alt.Chart:
    """For each of many characteristic times T, the size of the cache and its hit ratio.

    Both are sums over the keys (`theory.random`, `theory.lru`), so no equation is to be solved: T
    runs over a grid. The most popular keys are summed up one by one, the others in groups that are
    evenly wide on a logarithmic scale. A row for each T and policy: `share` of all keys, `hit`.
    """
    width = f"(log(keys + 0.5) - log({FEW}.5)) / {NODES}"
    group = f"exp(log({FEW}.5) + (datum.j - {FEW - 0.5}) * {width})"
    return (
        alt.Chart(alt.sequence(0, (FEW + NODES) * TIMES, as_="n"))
        .transform_calculate(
            i=f"floor(datum.n / {FEW + NODES})", j=f"datum.n % {FEW + NODES}"
        )
        .transform_calculate(
            rank=f"datum.j < {FEW} ? datum.j + 1 : {group}",
        )
        .transform_calculate(
            count=f"datum.j < {FEW} ? 1 : datum.rank * {width}",
            weight="pow(datum.rank, -exponent)",
        )
        .transform_calculate(mass="datum.count * datum.weight")
        .transform_joinaggregate(all="sum(mass)", groupby=["i"])
        .transform_calculate(
            pT="datum.weight / datum.all"
            f" * pow(300 * datum.all * pow(keys, exponent), datum.i / {TIMES - 1})"
        )
        .transform_calculate(by_chance="datum.pT / (1 + datum.pT)", by_use="1 - exp(-datum.pT)")
        .transform_calculate(
            size_random="datum.count * datum.by_chance",
            hit_random="datum.mass / datum.all * datum.by_chance",
            size_lru="datum.count * datum.by_use",
            hit_lru="datum.mass / datum.all * datum.by_use",
        )
        .transform_aggregate(
            size_random="sum(size_random)",
            hit_random="sum(hit_random)",
            size_lru="sum(size_lru)",
            hit_lru="sum(hit_lru)",
            groupby=["i"],
        )
        .transform_fold(["hit_random", "hit_lru"], as_=["policy", "hit"])
        .transform_calculate(
            share="100 / keys"
            " * (datum.policy == 'hit_lru' ? datum.size_lru : datum.size_random)",
            percent="100 * datum.hit",
        )
    )  # fmt: skip


def build() -> Calculator:
    """`theory.random` and `theory.lru`, inverted, times what a key costs."""
    sizing = parts.measured("memory_sizing").rows
    sizes = parts.measured("hit_ratio_size").rows
    zipf = {s: Zipf(PAGES, s).probabilities for s in {1.0, *(row["exponent"] for row in sizes)}}
    keys = {row["wanted"]: _needed(zipf[1.0], row["wanted"]) for row in sizing}
    each = round(float(np.median([1e6 * row["mb"] / keys[row["wanted"]] for row in sizing])))
    points = [
        {"share": row["size"], "percent": row["hit_ratio"], "exponent": row["exponent"]}
        for row in sizes
        if row["policy"] == "allkeys-random"
    ]
    points += [
        {"share": 1e6 * row["mb"] / each, "percent": row["hit_ratio"], "exponent": 1.0}
        for row in sizing
    ]
    for point in points:
        point["share"] = parts.rounded(100 * point["share"] / PAGES)
        point["percent"] = parts.rounded(100 * point["percent"])
    most = max(point["percent"] for point in points)
    least = min(point["percent"] for point in points)
    flat, steep = (end(zipf) for end in (min, max))
    curve = _by_characteristic_time()
    reached = (
        _by_characteristic_time()
        .transform_window(
            hit_before="lag(hit)",
            share_before="lag(share)",
            sort=[alt.SortField("i")],
            groupby=["policy"],
        )
        .transform_filter("datum.hit_before < wanted && wanted <= datum.hit")
        .transform_calculate(
            part="(wanted - datum.hit_before) / (datum.hit - datum.hit_before)",
        )
        .transform_calculate(
            found="datum.share_before * pow(datum.share / datum.share_before, datum.part)",
        )
        .transform_calculate(
            random="datum.policy == 'hit_random' ? datum.found : null",
            lru="datum.policy == 'hit_lru' ? datum.found : null",
        )
        .transform_aggregate(random="max(random)", lru="max(lru)")
        .transform_calculate(
            random_mb="datum.random / 100 * keys * bytes / 1e6",
            lru_mb="datum.lru / 100 * keys * bytes / 1e6",
        )
    )
    x = parts.log_axis(alt.X, "share", "room for so many of all keys (%)", 0.1, 100)
    y = alt.Y(
        "percent:Q", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(title="hit ratio (%)")
    )  # fmt: skip
    known = f"exponent >= {flat:g} && exponent <= {steep:g} && keys >= 2000 && keys <= 200000"
    inside = f"known && datum.percent >= {least:g} && datum.percent <= {most:g}"
    chance = curve.transform_filter("datum.policy == 'hit_random'")
    use = curve.transform_filter("datum.policy == 'hit_lru'")
    return Calculator(
        title="How much memory for the hit ratio?",
        description="The hit ratio of a full cache, against the share of all keys that it has room "
        "for: it grows with the logarithm of the room. Two lines, for random eviction and exact "
        "LRU. Fields: the hit ratio wanted, the number of keys, the exponent of Zipf's law, the "
        "bytes of a key.",
        key=[
            "Blue: random eviction. Green: exact LRU. What Redis's LRU does lies between.",
            "Dots: measured with random eviction, the strong ones at the nearest exponent.",
        ],
        numbers=[
            Number("wanted_percent", "Hits wanted (%)", 95, 10, 99, 0.5),
            Number("keys", "Different keys", PAGES, 100, 1_000_000_000),
            Number("exponent", "Zipf's exponent s", 1, 0.5, 1.3, 0.05),
            Number("bytes", "Bytes for each key, all in all", each, 1, 100_000_000),
        ],
        values={
            "wanted": "wanted_percent / 100",
            "nearest": parts.nearest("exponent", sorted(zipf)),
            "known": known,
        },
        inside=f"known && wanted_percent >= {least:g} && wanted_percent <= {most:g}",
        answer=[
            parts.sentence(
                "For {} hits: {} MB (exact LRU) to {} MB (random).",
                parts.percent("wanted"),
                parts.short("datum.lru_mb"),
                parts.short("datum.random_mb"),
            ),
            parts.sentence(
                "That is {} to {} of {} keys.",
                parts.percent("datum.lru / 100"),
                parts.percent("datum.random / 100"),
                parts.short("keys"),
            ),
            parts.sentence(
                "All of them: {} MB. Buffers and copies come on top.",
                parts.short("keys * bytes / 1e6"),
            ),
        ],
        checked=f"{PAGES:,} keys, s {flat:g} to {steep:g}, {least:.0f} to {most:.0f} % hits.",
        layers=[
            *parts.curve(use, x, y, inside, parts.OTHER, "lru"),
            *parts.curve(chance, x, y, inside, parts.OURS, "random"),
            parts.points(points, "share", "percent", "datum.exponent == nearest"),
            reached.transform_calculate(percent="wanted_percent")
            .mark_point(size=190, color=parts.OURS, strokeWidth=2.5, opacity=1, clip=True)
            .encode(x="random:Q", y="percent:Q")
            .properties(name="own"),
        ],
        source=reached,
    )
