"""The figure of a comparison: a dot for each arm's median, a bar for its range."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..errors import LabError
from ..files import write_whole

COLOUR = "#0072B2"  # Okabe and Ito's blue


def draw_medians(frame: pd.DataFrame) -> Figure:
    """The arms from top to bottom, time to the right, on a logarithmic axis.

    `frame` is that of `Comparison.to_frame`.
    """
    middle = frame["p50_us"].to_numpy(float)
    low, high = (frame[f"p50_{end}_us"].fillna(frame["p50_us"]) for end in ("low", "high"))
    bars = [
        (middle - low.to_numpy(float)).clip(min=0),
        (high.to_numpy(float) - middle).clip(min=0),
    ]
    figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(frame)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(frame))
    axes.errorbar(middle, places, xerr=bars, fmt="o", color=COLOUR, capsize=2)
    axes.set_yticks(places, [str(name) for name in frame.index])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.6 * (middle - bars[0]).min(), 1.7 * (middle + bars[1]).max())
    axes.set_xticks(_round_ticks(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time of a call (µs, log scale): median, range within this run")
    return figure


def _round_ticks(low: float, high: float) -> list[float]:
    """Ticks (1, 2, 5, 10, …) between two values: at least three, and not many more over several
    decades.
    """
    decades = [10.0**exponent for exponent in range(-6, 10)]
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10), [1 + k / 4 for k in range(36)]):
        found = [step * decade for decade in decades for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically. Raises: LabError for an unknown format, or a full disk."""
    content = io.BytesIO()
    try:
        figure.savefig(content, format=path.suffix.removeprefix(".") or "png", dpi=110)
    except ValueError as error:
        raise LabError(f"{path.name}: {error}") from error
    write_whole(path, content.getvalue())
