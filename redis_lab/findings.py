"""What a figure shows, in sentences: its alternative text, for those who hear it or see no image.

The sentences come from the same numbers as the picture: who is fastest, which way a line goes,
where two lines cross, how far the points are from the theory, what happened when.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

UNITS = ("µs", "ms", "s", "MB", "bytes", "%")
STEADY = 1.25  # a line whose largest value is at most so many times its smallest stays the same
TURN = 0.15  # a line turns where it goes back by this share of its range
MOST_TURNS = 3
CROSSINGS = 2  # at most so many are named in each panel

Points = Mapping[float, float]
"""A line: y by x, in ascending order of x."""


def split_label(label: str) -> tuple[str, str]:
    """An axis label without its unit, and the unit, which may be empty.

    `"time for one GET (µs, log scale)"` is `("time for one GET", "µs")`; `"bytes for each key"` is
    left whole, and its unit is bytes.
    """
    if found := re.fullmatch(r"(.*?) \(([^\s,()]+)(?:, log scale)?\)", label):
        return (found[1], found[2]) if found[2] in UNITS else (label, "")
    plain = label.removesuffix(", log scale")
    first = plain.partition(" ")[0]
    return plain, first if first in UNITS else ""


def name_value(value: float, unit: str = "") -> str:
    """A value with its unit, whole numbers as they are, others to three digits: `1.2 ms`."""
    if unit == "µs":
        for limit, larger in ((1e6, "s"), (1e3, "ms")):
            if abs(value) >= limit * 0.9995:
                return name_value(value / limit, larger)
    if value == round(value):
        return f"{round(value):,} {unit}".strip()
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {unit}".strip()


def rank(values: Mapping[str, float], unit: str) -> str:
    """All of some arms, the lowest first, and what lies between the first and the last."""
    order = sorted(values, key=values.__getitem__)
    low, high = values[order[0]], values[order[-1]]
    listed = "; ".join(f"{name} {name_value(values[name], unit)}" for name in order)
    is_time = unit in ("µs", "ms", "s")
    if len(order) == 1:
        return f"{listed}."
    said = f"From {'fast to slow' if is_time else 'low to high'}: {listed}."
    if low <= 0 or high / low < 1.05:
        return said
    more = "takes" if is_time else "is"
    return f"{said} The last {more} {format_times(high / low)} the first."


def format_times(factor: float) -> str:
    return f"{name_value(float(f'{factor:.2g}'))} times"


def extremes(values: Mapping[str, float], unit: str) -> str:
    """The lowest and the highest of some arms."""
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if values[high] <= STEADY * values[low]:
        return f"{name_value(values[low], unit)} to {name_value(values[high], unit)} for all"
    return (
        f"from {name_value(values[low], unit)} for {low} "
        f"to {name_value(values[high], unit)} for {high}"
    )


def course(points: Points, unit: str, at: str, span: float) -> str:
    """Which way a line goes: "rises from 3 ms to 9 ms at 50".

    `at` is the unit of x. `span` is the range of y in the whole figure, against which a line may be
    flat; 0 where the axis is logarithmic, and only the ratio counts.
    """
    xs, ys = list(points), list(points.values())
    first, low, high = ys[0], min(ys), max(ys)

    def value(y: float) -> str:
        return name_value(y, unit)

    def place(y: float) -> str:
        return name_value(xs[ys.index(y)], at)

    if len(ys) == 1:
        return f"is {value(first)} at {place(first)}"
    if high - low < 0.03 * span or 0 < high <= STEADY * low:
        ends = [value(low), value(high)]
        return f"stays at {ends[0]}" if ends[0] == ends[1] else f"stays at {' to '.join(ends)}"
    corners = turning_points(ys if span or low <= 0 else [math.log(y) for y in ys])
    if len(corners) > MOST_TURNS + 2:
        return f"goes up and down between {value(low)} and {value(high)}"
    said: list[str] = []
    for before, here in pairwise(corners):
        way = "rises" if ys[here] > ys[before] else "falls"
        where = "" if here == corners[-1] else f" at {name_value(xs[here], at)}"
        origin = "" if said else f" from {value(first)}"
        said.append(f"{way}{origin} to {value(ys[here])}{where}")
    return ", then ".join(said)


def turning_points(values: Sequence[float]) -> list[int]:
    """The places of a line's ends and of its peaks and valleys, small ones left out."""
    least = TURN * (max(values) - min(values))
    corners, extreme, up = [0], 0, None
    for k, value in enumerate(values):
        back = (values[extreme] - value) * (1 if up else -1)
        if up is None and abs(value - values[0]) > least:
            up, extreme = value > values[0], k
        elif up is not None and back > least:
            corners.append(extreme)
            up, extreme = not up, k
        elif up is not None and back <= 0:
            extreme = k
    return [*corners, len(values) - 1]


def crossings(lines: Mapping[str, Points], at: str) -> list[str]:
    """Where one line goes through another, once: `"A is below B up to 10, and above it from 100"`.

    Lines that are near each other at one of their ends are left out.
    """
    found = []
    for one, other in combinations(lines, 2):
        both = [(x, lines[one][x], lines[other][x]) for x in lines[one] if x in lines[other]]
        apart = [(x, y, z) for x, y, z in both if max(y, z) > STEADY * min(y, z)]
        if len(both) < 3 or both[0] not in apart or both[-1] not in apart:
            continue
        turns = [(a, b) for (a, y, z), (b, v, w) in pairwise(apart) if (y < z) != (v < w)]
        if len(turns) == 1:
            _, y, z = both[0]
            below, above = (one, other) if y < z else (other, one)
            until, since = (name_value(x, at) for x in turns[0])
            found.append(f"{below} is below {above} up to {until}, and above it from {since}")
    return found[:CROSSINGS]


def distance(measured: Iterable[float], theory: Iterable[float]) -> str:
    """How far points are from a theory: "half of the points within 2 %, all within 9 %".

    Empty where there is no theory.
    """
    off = sorted(
        abs(y / line - 1)
        for y, line in zip(measured, theory, strict=True)
        if y == y and line == line and line  # numbers, and not zero
    )
    if not off:
        return ""
    middle, most = off[len(off) // 2], off[-1]
    if most < 0.01:
        return "all points within 1 %"
    return f"half of the points within {_percent(middle)}, all within {_percent(most)}"


def _percent(share: float) -> str:
    return f"{max(1, math.ceil(round(100 * share, 3))):,} %"


def happened(events: Sequence[tuple[float, str]], unit: str) -> str:
    """What happened in one lane: each kind of event, how often, from when to when."""
    kinds: dict[str, list[float]] = {}
    for moment, kind in sorted(events, key=lambda event: event[0]):
        kinds.setdefault(kind, []).append(moment)
    said = []
    for kind, times in kinds.items():
        began, ended = name_value(times[0], unit), name_value(times[-1], unit)
        when = f"at {began}" if began == ended else f"from {began} to {ended}"
        said.append(f"{kind} {when}" if len(times) == 1 else f"{len(times):,} × {kind} {when}")
    return "; ".join(said)
