"""Whether a cache pays."""

from __future__ import annotations

import altair as alt

from . import _parts as parts
from .chart import Calculator, Number


def build() -> Calculator:
    """`theory.cached` and `theory.break_even`; a hit takes the round trip and what it takes here.

    A hit with no distance, and what storing a copy costs more than a hit, are those of the
    cheapest query: with an expensive one they disappear in the noise.
    """
    rows = parts.measured("cache_aside").rows
    found = {(row["arm"], row["rtt_ms"], row["question"]): row for row in rows}
    cheapest = min(found.values(), key=lambda row: row["query_us"])["question"]
    query_us, miss_us = (
        found[arm, 0, cheapest]["per_unit_us"] for arm in ("SQLite alone", "0 % hits")
    )
    # half the requests hit: theory = (hit + miss) / 2
    hit_us = parts.rounded(2 * found["50 % hits", 0, cheapest]["theory_us"] - miss_us)
    store_us = parts.rounded(max(0.0, miss_us - query_us - 2 * hit_us))
    points = [
        {
            "query_ms": parts.rounded(row["query_us"] / 1000),
            "answer_ms": parts.rounded(row["per_unit_us"] / 1000),
            "hits_percent": int(arm.split()[0]),
            "round_trip_ms": rtt_ms,
        }
        for (arm, rtt_ms, _), row in found.items()
        if arm in ("50 % hits", "90 % hits", "99 % hits")
    ]
    first, last = (end(point["query_ms"] for point in points) for end in (min, max))
    far = max(point["round_trip_ms"] for point in points)
    formula = "hit_ms + (1 - hits) * ({query} + fill_ms)"
    curve = parts.grid("query_ms", 0.001, 10_000).transform_calculate(
        answer_ms=formula.format(query="datum.query_ms"), alone_ms="datum.query_ms"
    )
    x = parts.log_axis(alt.X, "query_ms", "the query without a cache (ms)", 0.001, 10_000)
    y = parts.log_axis(alt.Y, "answer_ms", "mean answer (ms)", 0.01, 10_000)
    alone = curve.mark_line(color=parts.OTHER, strokeWidth=1.5, strokeDash=[2, 2], clip=True)
    return Calculator(
        title="Is a cache worth it?",
        description="The mean time of an answer through a cache, against what the query takes "
        "alone. Above the rising diagonal the cache makes answers slower, below it faster. "
        "Fields: the round trip to Redis, the query, the hit ratio.",
        key=[
            "Blue: h · hit + (1 − h) · (miss + query + fill). Green: without a cache.",
            "Dots: measured, the strong ones at the hits and the distance nearest to yours.",
        ],
        numbers=[
            Number("rtt_ms", "Round trip to Redis (ms; 0: same machine)", far, 0, 1000),
            Number("query_ms", "Query, its round trips included (ms)", 5, 0.001, 10_000),
            Number("hits_percent", "Hits (%)", 90, 0, 99.9, 0.1),
        ],
        values={
            "hits": "hits_percent / 100",
            "hit_ms": f"rtt_ms + {hit_us / 1000:.6g}",
            "fill_ms": f"hit_ms + {store_us / 1000:.6g}",
            "answer_ms": formula.format(query="query_ms"),
            "gain": "query_ms / answer_ms",
            "needed": "hit_ms < query_ms ? (hit_ms + fill_ms) / (query_ms + fill_ms) : 2",
            "nearest_hits": "hits_percent < 70 ? 50 : hits_percent < 94.5 ? 90 : 99",
            "nearest_rtt": f"rtt_ms < {far / 2:g} ? 0 : {far:g}",
            "known": f"rtt_ms <= {far:g} && hits_percent >= 50 && hits_percent <= 99",
        },
        inside=f"known && query_ms >= {first:g} && query_ms <= {last:g}",
        answer=[
            parts.sentence(
                "With a cache {} on average, without {}.",
                parts.duration("1000 * answer_ms"),
                parts.duration("1000 * query_ms"),
            ),
            parts.choose(
                "gain >= 1",
                parts.sentence("The cache makes it {} × faster.", parts.short("gain")),
                parts.sentence("The cache makes it {} × SLOWER.", parts.short("1 / gain")),
            ),
            parts.choose(
                "needed > 1",
                "'No hit ratio is enough: a hit takes as long as the query.'",
                parts.sentence("It pays from {} hits on.", parts.percent("needed")),
            ),
        ],
        checked=f"{first:.2g} to {last:.3g} ms, 50 to 99 % hits, up to {far:g} ms away.",
        layers=[
            alone.encode(x=x, y="alone_ms:Q").properties(name="alone"),
            *parts.curve(
                curve, x, y,
                f"known && datum.query_ms >= {first:g} && datum.query_ms <= {last:g}",
            ),
            parts.points(
                points, "query_ms", "answer_ms",
                "datum.hits_percent == nearest_hits && datum.round_trip_ms == nearest_rtt",
            ),
            parts.own("query_ms", "answer_ms", query_ms="query_ms", answer_ms="answer_ms"),
        ],
    )  # fmt: skip
