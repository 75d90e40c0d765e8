"""The depth of a pipeline."""

from __future__ import annotations

import altair as alt

from . import _parts as parts
from .chart import Calculator, Number


def build() -> Calculator:
    """`theory.pipelined`: RTT ÷ depth + service."""
    rows = parts.measured("pipelines").rows
    per_us = {(row["arm"], row["depth"], row["rtt_ms"]): row["per_unit_us"] for row in rows}
    deepest = max(depth for arm, depth, _ in per_us if arm == "pipeline")
    service_us = float(f"{per_us['pipeline', deepest, 0]:.2g}")
    trip_ms = {
        rtt_ms: parts.rounded((us - service_us) / 1000)
        for (arm, depth, rtt_ms), us in per_us.items()
        if (arm, depth) == ("loop", 1)
    }
    points = [
        {"depth": depth, "per_us": parts.rounded(us), "round_trip_ms": trip_ms[rtt_ms]}
        for (arm, depth, rtt_ms), us in per_us.items()
        if arm == "pipeline"
    ]
    near, far = min(trip_ms.values()), max(trip_ms.values())
    formula = "1000 * rtt_ms / {depth} + service_us"
    curve = parts.grid("depth", 1, 100_000).transform_calculate(
        per_us=formula.format(depth="datum.depth")
    )
    return Calculator(
        title="How deep a pipeline?",
        description="What a command costs in a pipeline, against the number of commands in it: it "
        "falls as the round trip is shared, and is flat from where the work of a command costs "
        "more. Fields: the round trip, the time for each command, the depth.",
        key=[
            "Blue: RTT ÷ n + service, for your numbers; the ring is your pipeline.",
            "Dots: measured, the strong ones at the round trip nearest to yours.",
        ],
        numbers=[
            Number("rtt_ms", "Round trip, as a PING takes (ms)", 2, 0.01, 1000),
            Number("service_us", "Work for each command (µs)", service_us, 0.1, 100_000),
            Number("depth", "Commands in one pipeline", 100, 1, 100_000),
        ],
        values={
            "per_us": formula.format(depth="depth"),
            "faster": "(1000 * rtt_ms + service_us) / per_us",
            "bend": "1000 * rtt_ms / service_us",
            "nearest": parts.nearest("rtt_ms", list(trip_ms.values())),
            "known": f"rtt_ms >= {near / 1.2:.4g} && rtt_ms <= {far * 1.2:.4g}"
            f" && service_us > {service_us / 2:.4g} && service_us < {service_us * 2:.4g}",
        },
        inside=f"known && depth <= {deepest}",
        answer=[
            parts.sentence(
                "The bend is at {} commands: there half the time is distance.",
                parts.short("max(1, bend)"),
            ),
            parts.sentence(
                "Yours: {} at once take {} each, {} × faster than a loop.",
                parts.short("depth"),
                parts.duration("per_us"),
                parts.short("faster"),
            ),
            parts.sentence(
                "More than {} at once gain less than 10 %.", parts.short("max(1, 10 * bend)")
            ),
        ],
        checked=f"up to {deepest:,} commands, {near:.2g} to {far:.2g} ms, {service_us:.2g} µs.",
        layers=[
            *parts.curve(
                curve,
                parts.log_axis(alt.X, "depth", "commands in one pipeline", 1, 100_000),
                parts.log_axis(alt.Y, "per_us", "time for each command (µs)", 1, 1_000_000),
                f"known && datum.depth <= {deepest}",
            ),
            parts.points(points, "depth", "per_us", "datum.round_trip_ms == nearest"),
            parts.own("depth", "per_us", depth="depth", per_us="per_us"),
        ],
    )
