"""Parts of Vega expressions and of charts that the calculators share, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt

from ..files import data_folder
from ..measure import results

# The palette of redis_lab.figures, as far as it can be seen on a light and on a dark page
OURS, MEASURED, BEYOND, OTHER = "#0072B2", "#CC79A7", "#8C8C8C", "#009E73"


def sentence(text: str, *exprs: str) -> str:
    """A text in which each {} is the value of an expression: `sentence("{} keys", "keys")`."""
    first, *others = (f"'{piece}'" for piece in text.split("{}"))
    pairs = zip(exprs, others, strict=True)
    return "(" + " + ".join([first, *(f"({expr}) + {piece}" for expr, piece in pairs)]) + ")"


def choose(test: str, one: str, other: str) -> str:
    """One of two expressions, as the test says."""
    return f"(({test}) ? {one} : {other})"


def short(expr: str) -> str:
    """A number with three digits: 1,230 or 0.0123."""
    return f"format({expr}, ',.3~r')"


def percent(expr: str) -> str:
    """A share, as a percentage with three digits at most."""
    return f"format(100 * ({expr}), '.3~r') + ' %'"


def duration(us: str) -> str:
    """A time in µs, in the unit that suits it."""
    return (
        f"(({us}) < 999.5 ? {short(us)} + ' µs' : ({us}) < 999500"
        f" ? {short(f'({us}) / 1000')} + ' ms' : {short(f'({us}) / 1e6')} + ' s')"
    )


def nearest(own: str, measured: Sequence[float]) -> str:
    """Which of some positive numbers is nearest to one's own, by their ratio."""
    known = sorted(measured)
    borders = [math.sqrt(a * b) for a, b in pairwise(known)]
    chosen = [
        f"{own} < {border:.6g} ? {value:g} : "
        for value, border in zip(known, borders, strict=False)
    ]
    return "".join(chosen) + f"{known[-1]:g}"


def rounded(value: float) -> float:
    """Four digits: what a chart can show, and the same on every machine."""
    return float(f"{value:.4g}")


def grid(field: str, low: float, high: float, points: int = 240) -> alt.Chart:
    """A row for each of many values of a field, evenly on a logarithmic scale."""
    at = f"{low} * pow({high / low}, datum.n / {points - 1})"
    return alt.Chart(alt.sequence(0, points, as_="n")).transform_calculate(**{field: at})


def curve(
    rows: alt.Chart, x: alt.X, y: alt.Y, inside: str, colour: str = OURS, name: str = "curve"
) -> list[alt.Chart]:
    """A line: grey and dashed as a whole, and on it in colour the part that was checked."""
    beyond = rows.mark_line(color=BEYOND, strokeDash=[5, 4], strokeWidth=1.5, clip=True)
    within = rows.transform_filter(inside).mark_line(color=colour, strokeWidth=2.5, clip=True)
    return [
        beyond.encode(x=x, y=y).properties(name=name),
        within.encode(x=x, y=y).properties(name=f"{name}_checked"),
    ]


def points(
    rows: Sequence[Mapping[str, Any]], x: str, y: str, bold: str = "true", clip: bool = False
) -> alt.Chart:
    """What was measured; what is not nearest to the reader's numbers is drawn weakly."""
    fields = [alt.Tooltip(f"{name}:N") for name in rows[0]]
    return (
        alt.Chart(alt.InlineData(values=[dict(row) for row in rows]), name="measured")
        .transform_calculate(weight=f"({bold}) ? 1 : 0.22")
        .mark_point(filled=True, size=55, color=MEASURED, clip=clip)
        .encode(x=f"{x}:Q", y=f"{y}:Q", tooltip=fields, opacity=alt.Opacity("weight:Q", scale=None))
    )


def own(x: str, y: str, **fields: str) -> alt.Chart:
    """A ring at the reader's own point."""
    return (
        alt.Chart(alt.InlineData(values=[{}]), name="own")
        .transform_calculate(**fields)
        .mark_point(size=190, color=OURS, strokeWidth=2.5, opacity=1, clip=True)
        .encode(x=f"{x}:Q", y=f"{y}:Q")
    )


def log_axis(kind: Any, field: str, title: str, low: float, high: float, **axis: Any) -> Any:
    """A logarithmic axis with a label at each power of ten."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    tens = [float(f"1e{n}") for n in range(first, last + 1)]
    return kind(
        f"{field}:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(title=title, values=tens, **{"format": ",~r", **axis}),
    )


def measured(experiment: str) -> results.Result:
    """The result of an experiment at full effort: the reader's own, or the committed one."""
    committed = Path(__file__).resolve().parents[1] / "data" / "results"
    own = data_folder() / "results" / f"{experiment}.json"
    return results.load(own if own.exists() else committed / own.name)
