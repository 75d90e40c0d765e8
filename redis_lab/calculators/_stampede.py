"""When to recompute early."""

from __future__ import annotations

import altair as alt

from . import _parts as parts
from .chart import Calculator, Number


def build() -> Calculator:
    """`theory.xfetch`, `theory.xfetch_lead` and `theory.xfetch_late`."""
    points = [
        {"beta": row["beta"], "made": parts.rounded(row["made"]), "expiries": row["expiries"]}
        for row in parts.measured("stampede_xfetch").rows
    ]
    low, high = (end(point["beta"] for point in points) for end in (min, max))
    curve = parts.grid("beta", 0.25, 4).transform_calculate(made="exp(1 / datum.beta)")
    x = alt.X(
        "beta:Q",
        scale=alt.Scale(type="log", domain=[0.25, 4], nice=False),
        axis=alt.Axis(title="β", values=[0.25, 0.5, 1, 2, 4], format="~r"),
    )
    return Calculator(
        title="When to recompute early?",
        description="How many readers recompute a value each time it expires, against β of XFetch: "
        "e to the power of 1 ÷ β, whatever the traffic. A horizontal line is what an unprotected "
        "expiry costs. Fields: β, the time of a recomputation, reads a second, the time to live.",
        key=[
            "Blue: e^(1/β), for many readers. Green: an unprotected expiry, 1 + λΔ.",
            "Dots: measured, a value that takes 50 ms, read by 32 readers.",
        ],
        numbers=[
            Number("beta", "β", 1, 0.25, 4, 0.05),
            Number("took_ms", "A recomputation takes (ms)", 200, 0.01, 600_000),
            Number("reads", "Reads a second", 1000, 0.001, 100_000_000),
            Number("ttl_s", "Time to live (s)", 60, 0.01, 100_000_000),
        ],
        values={
            "took_s": "took_ms / 1000",
            "expected": "reads * beta * took_s",
            "made": "exp(1 / beta)",
            # E₁(a) is left out, which is nothing for a ≥ 5; below that the readers are too few
            "lead_s": "beta * took_s * max(0, log(expected) + 0.5772156649)",
            "late": "exp(-expected * exp(-1 / beta))",
            "unprotected": "1 + reads * took_s",
            "per_hour": "3600 / max(ttl_s - lead_s, took_s) * made",
        },
        inside=f"beta >= {low:g} && beta <= {high:g} && expected >= 5 && lead_s < ttl_s / 2",
        answer=[
            parts.sentence(
                "An expiry costs {} recomputations; unprotected it costs {}.",
                parts.short("made"),
                parts.short("unprotected"),
            ),
            parts.choose(
                "expected < 5",
                "'Too few reads: it expires as if nobody recomputed early.'",
                parts.sentence(
                    "The first begins {} before the end, {} of the time to live.",
                    parts.duration("1e6 * lead_s"),
                    parts.percent("lead_s / ttl_s"),
                ),
            ),
            parts.choose(
                "lead_s > ttl_s / 2",
                "'The time to live is too short for XFetch.'",
                parts.sentence(
                    "In {} of expiries it is too late. {} recomputations an hour.",
                    parts.percent("late < 1e-6 ? 0 : late"),
                    parts.short("per_hour"),
                ),
            ),
        ],
        checked=f"β {low:g} to {high:g}; many reads (λβΔ from 5 on), a long time to live.",
        layers=[
            alt.Chart(alt.InlineData(values=[{}]), name="unprotected")
            .transform_calculate(made="min(unprotected, 1000)")
            .mark_rule(color=parts.OTHER, strokeWidth=1.5, strokeDash=[2, 2])
            .encode(y="made:Q"),
            *parts.curve(
                curve, x, parts.log_axis(alt.Y, "made", "recomputations for each expiry", 1, 1000),
                f"datum.beta >= {low:g} && datum.beta <= {high:g}",
            ),
            parts.points(points, "beta", "made"),
            parts.own("beta", "made", beta="beta", made="made"),
        ],
    )  # fmt: skip
