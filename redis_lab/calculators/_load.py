"""The knee of a server, and what retries cost."""

from __future__ import annotations

import altair as alt

from ..measure import theory
from . import _parts as parts
from .chart import Calculator, Number


def build() -> Calculator:
    """`theory.mg1` and `theory.batch`, in service times, so that any service time fits.

    The result has no service times of its own, so a measured mean is given as a multiple of what
    the formula says at the same load.
    """
    rows = [
        (row["busy"], row["ms"] / row["theory"])
        for row in parts.measured("load_knee").rows
        if row["what"] == "mean" and row["theory"] is not None  # none where it is always busy
    ]
    points = [
        {
            "busy_percent": parts.rounded(busy),
            "times": parts.rounded(ratio * theory.md1(busy / 100, 1)),
        }
        for busy, ratio in rows
    ]
    low, high = (end(point["busy_percent"] for point in points) for end in (min, max))
    ratios = [ratio for _, ratio in rows]
    square = "(1 + spread * spread)"
    one_by_one = f"1 + {{busy}} * {square} / (2 * (1 - {{busy}}))"
    by_turns = f"1 + {{busy}} * {square} * (0.5 + {{busy}}) / (1 - {{busy}} * {{busy}})"
    curve = alt.Chart(alt.sequence(0, 99.5, 0.5, as_="n")).transform_calculate(
        busy_percent="datum.n",
        times=one_by_one.format(busy="(datum.n / 100)"),
        batch_times=by_turns.format(busy="(datum.n / 100)"),
    )
    x = alt.X(
        "busy_percent:Q",
        scale=alt.Scale(domain=[0, 100]),
        axis=alt.Axis(title="how busy the server is (%)", values=[0, 20, 40, 60, 80, 100]),
    )
    title = "response time ÷ service time"
    scale = alt.Scale(domain=[0, 16])
    y, y_batch = (
        alt.Y(f"{field}:Q", scale=scale, axis=alt.Axis(title=title))
        for field in ("times", "batch_times")
    )
    inside = f"known && datum.busy_percent >= {low:g} && datum.busy_percent <= {high:g}"
    lines = (
        alt.Chart(alt.InlineData(values=[{"what": "knee"}, {"what": "retries"}]))
        .transform_calculate(
            busy_percent="100 * (datum.what == 'knee' ? knee : worst_busy)",
            label="datum.what == 'knee' ? 'knee' : 'all retried'",
        )
        .transform_filter("datum.busy_percent <= 100")
    )

    def mean(times: str) -> str:
        return parts.duration(f"1000 * service_ms * {times}")

    return Calculator(
        title="Where is the knee, and what does a retry cost?",
        description="The mean response time in service times, against how busy the server is: "
        "nearly flat at first, steep from the knee on. A line for requests that are answered one "
        "by one, one for an event loop. Fields: the service time, requests a second, the spread "
        "of service times, retries, the timeout.",
        key=[
            "Blue: Pollaczek and Khinchin. Green: an event loop that answers in batches.",
            "Dots: measured. The ring is you; the lines: the knee, and all requests retried.",
        ],
        numbers=[
            Number("service_ms", "Service time in the server (ms)", 1, 0.001, 10_000),
            Number("rate", "Requests a second", 400, 0.01, 10_000_000),
            Number("spread", "Spread of service times (σ ÷ mean)", 0, 0, 3, 0.1),
            Number("retries", "Retries of a request", 2, 0, 10, 1),
            Number("timeout_s", "Timeout of each attempt (s)", 0.5, 0.001, 600),
        ],
        values={
            "busy": "rate * service_ms / 1000",
            "knee": "2 / (3 + spread * spread)",
            "knee_rate": "1000 * knee / service_ms",
            "times": f"busy < 1 ? {one_by_one.format(busy='busy')} : 1e9",
            "batch_times": f"busy < 1 ? {by_turns.format(busy='busy')} : 1e9",
            "worst_busy": "busy * (1 + retries)",
            "worst_times": f"worst_busy < 1 ? {by_turns.format(busy='worst_busy')} : 1e9",
            "longest_s": "(1 + retries) * timeout_s",
            "known": "spread <= 0.5",
        },
        inside=f"known && 100 * busy >= {low:g} && 100 * busy <= {high:g}",
        answer=[
            parts.choose(
                "busy < 1",
                parts.sentence(
                    "Busy: {}. Mean response {} to {} + network.",
                    parts.percent("busy"),
                    mean("times"),
                    mean("batch_times"),
                ),
                parts.sentence("Busy: {}. The queue grows without end.", parts.percent("busy")),
            ),
            parts.sentence(
                "Knee: {} a second ({}); with {} retries of all: {}.",
                parts.short("knee_rate"),
                parts.percent("knee"),
                "retries",
                parts.short("knee_rate / (1 + retries)"),
            ),
            parts.sentence(
                "If all are retried: {} busy, {}.",
                parts.percent("worst_busy"),
                parts.choose("worst_busy < 1", mean("worst_times"), "'no end to the queue'"),
            ),
            parts.sentence(
                "While the server stands still a caller waits {} s, pauses not counted.",
                parts.short("longest_s"),
            ),
        ],
        checked=f"{low:.0f} to {high:.0f} % busy, equal commands; {min(ratios):.1f} to "
        f"{max(ratios):.1f} × the formula.",
        layers=[
            *parts.curve(curve, x, y_batch, inside, parts.OTHER, "batch"),
            *parts.curve(curve, x, y, inside),
            lines.mark_rule(color=parts.BEYOND, strokeDash=[3, 3]).encode(x="busy_percent:Q"),
            lines.mark_text(align="left", dx=3, baseline="top", fontSize=11).encode(
                x="busy_percent:Q", y=alt.value(0), text="label:N"
            ),
            parts.points(points, "busy_percent", "times", clip=True),
            parts.own(
                "busy_percent", "times", busy_percent="min(100, 100 * busy)", times="min(16, times)"
            ),
        ],
    )
