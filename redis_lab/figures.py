"""One matplotlib style, one palette by meaning, and the kinds of figure that the lessons need.

A figure is a frozen dataclass: `Lines`, `DotPlot`, `DotPanels` or `Timeline`, with a title, the
columns it shows and its labels. It holds no data. Each lesson's module says how its experiments are
drawn; the data come from a result: `draw(load("data/results/pipelines.json"), Lines(...))`.

For a new kind of figure, add one class: a `Chart` with the methods `draw` and `describe`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from . import findings
from .errors import LabError
from .files import data_folder, write_whole
from .measure.baseline import BASELINE
from .measure.effort import effort_name
from .measure.runs import interval_columns, name_interval

if TYPE_CHECKING:  # slow to import, and a lesson's exercises do not need it
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .measure.results import Result

Scale = Literal["linear", "log"]
Meaning = Literal[
    "acknowledged", "ours", "lost", "stale", "refused", "theirs", "baseline", "theory"
]

# Each meaning has the same colour in every figure. The colours are Okabe and Ito's, which
# colour-blind people can tell apart; markers and dashes tell them apart in grey.
PALETTE: dict[Meaning, str] = {
    "acknowledged": "#0072B2",  # done, confirmed, right
    "ours": "#0072B2",  # what the lesson builds, and Redis compared with something else
    "lost": "#D55E00",  # lost, or wrong
    "stale": "#E69F00",
    "refused": "#8C8C8C",  # refused, failed with an error, or waiting
    "theirs": "#009E73",  # an alternative: another library, another database
    "baseline": "#4D4D4D",  # what the others are compared with
    "theory": "#000000",
}
# For series without a meaning, in this order: neutral colours first, then those of meanings that
# the figure does not use.
NEUTRAL = ("#0072B2", "#CC79A7", "#56B4E9", "#000000")
BORROWED = ("#E69F00", "#009E73", "#D55E00")
EVERYWHERE: dict[str, Meaning] = {BASELINE: "baseline"}
MARKERS = "osD^vPX<>ph"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
DPI = 110
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.dpi": DPI,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True, kw_only=True)
class Chart(ABC):
    """How an experiment is drawn: its title, and for each series' label its meaning.

    Raises: LabError for a meaning that the palette does not have.
    """

    title: str
    meanings: Mapping[str, Meaning] = field(default_factory=dict)
    others: ClassVar[Sequence[str]] = NEUTRAL + BORROWED

    def __post_init__(self) -> None:
        unknown = set(self.meanings.values()) - set(PALETTE)
        if unknown:
            raise LabError(
                f"{self.title!r}: the palette has no meaning {', '.join(sorted(unknown))}; it has "
                f"{', '.join(PALETTE)}."
            )

    @abstractmethod
    def draw(self, figure: Figure, table: pd.DataFrame) -> None:
        """Draw the table into an empty figure, and set the figure's size."""

    @abstractmethod
    def describe(self, table: pd.DataFrame) -> str:
        """What the figure shows, in sentences, from the same numbers."""

    def colours(self, labels: Iterable[str]) -> dict[str, str]:
        """A colour for each series: by its meaning; the others get the remaining ones in turn."""
        labels = list(labels)
        meanings = EVERYWHERE | dict(self.meanings)
        meant = {label: PALETTE[meanings[label]] for label in labels if label in meanings}
        free = [colour for colour in self.others if colour not in meant.values()]
        others = itertools.cycle(free)
        return {label: meant.get(label) or next(others) for label in labels}


def _format_short(value: float, _position: int = 0) -> str:
    """A number as a short tick label: 0.5, 20, 5k, 2M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def caption(environment: Mapping) -> str:
    """What the numbers depend on (server, client, machine), in one line."""
    server = f"{environment.get('server', '?')} {environment.get('server_version', '')}"
    parts = [
        server.strip() if "server" in environment else "",
        environment.get("transport", ""),
        environment.get("protocol", ""),
        f"redis-py {environment['redis_py']}" if "redis_py" in environment else "",
        f"Python {environment['python']}" if "python" in environment else "",
        f"{environment.get('cpu', '')}, {environment.get('cores', '?')} cores",
        f"{environment['effort']} effort" if "effort" in environment else "",
        _count_runs(environment),
        str(environment.get("when", ""))[:10],
    ]
    return " · ".join(part for part in parts if part)


def _count_runs(environment: Mapping) -> str:
    """From how many runs the numbers are; empty for one run."""
    runs = environment.get("runs", 1)
    first = ", the first shown" if "shown" in environment else ""
    return f"{runs} runs{first}" if runs > 1 else ""


def label_interval(table: pd.DataFrame, *columns: str) -> str:
    """What the bars of these columns show, in words; empty if there are none."""
    there = [name for column in columns for name in interval_columns(column)[:1] if name in table]
    if not there or table[there].isna().all(axis=None):
        return ""
    return f"bars: {name_interval(table.attrs.get('runs', 1))}"


def _spread_out(positions: Iterable[float], gap: float) -> list[float]:
    """Push label positions apart until each is `gap` from the next, keeping their order."""
    positions = list(positions)
    order = np.argsort(positions)
    placed = np.array(positions, dtype=float)
    for _ in range(200):
        moved = False
        for low, high in itertools.pairwise(order):
            short_by = gap - (placed[high] - placed[low])
            if short_by > 1e-9:
                placed[low] -= short_by / 2
                placed[high] += short_by / 2
                moved = True
        if not moved:
            break
    return placed.tolist()


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its right-hand end, pushed apart where they would overlap."""
    figure = axes.get_figure(root=True)
    assert figure  # the axes are in one
    height_pt = axes.get_position().height * figure.get_size_inches()[1] * 72
    axes.get_xlim(), axes.get_ylim()  # matplotlib computes the limits only when they are read
    to_fraction = axes.transScale + axes.transLimits
    heights = [to_fraction.transform((x, y))[1] for x, y, _, _ in ends]
    for (x, y, name, colour), at in zip(ends, _spread_out(heights, 10.5 / height_pt), strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, at),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.5},
        )


def _set_margins(figure: Figure, *, left: float, right: float) -> None:
    """Margins in inches; above and below there is always room for title and axis label."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - 0.85 / height,
        bottom=0.72 / height,
        wspace=0.5,
        hspace=0.3,
    )


def _explain(figure: Figure, *legend: str) -> None:
    """Explain in the lower right corner what else is drawn."""
    said = "   ".join(part for part in legend if part)
    figure.text(0.99, 0.008, said, fontsize=7.5, ha="right", color="0.3")


def _estimate_width(names: Iterable) -> float:
    """The width of the longest of some labels, roughly."""
    return 0.075 * max(len(str(name)) for name in names)


def _set_tick_labels(*axes: Any) -> None:
    """Short labels at the major ticks, none at the minor ones; at least three where possible, also
    on an axis that spans less than a power of ten. Its limits must have been computed.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(_format_short))
        if axis.get_scale() != "log":
            continue
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)):
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            if sum(low <= step * 10.0**n <= high for step in steps for n in decades) >= 3:
                break
        if len(steps) > 1:
            axis.set_major_locator(LogLocator(subs=steps))


@dataclass(frozen=True, kw_only=True)
class Lines(Chart):
    """Small multiples of `y` against `x`, a line for each value of `by`, a panel for each of
    `panels`, shared axes, bars from the interval columns. The theory is a thin black line,
    with a pale edge in the colour of the series that it predicts.

    `bands` are pairs of columns, each filled lightly from the lower to the upper. A series with
    several rows at one `x`, or with a theory, is drawn as points, unjoined.
    """

    x: str
    y: str
    xlabel: str
    ylabel: str
    by: str = "arm"
    panels: str | None = None
    panel_title: str = "{}"
    xscale: Scale = "log"
    yscale: Scale = "log"
    theory: str | None = None
    theory_label: str = "theory"
    bands: Sequence[tuple[str, str]] = ()
    bands_label: str = ""
    across: int = 2  # panels side by side

    def draw(self, figure: Figure, table: pd.DataFrame) -> None:
        values = [None] if self.panels is None else sorted(table[self.panels].unique())
        across = min(self.across, len(values))
        down = math.ceil(len(values) / across)
        names = list(dict.fromkeys(table[self.by]))
        colours = self.colours(names)
        figure.set_size_inches(1.5 + 3.9 * across, 1.2 + 2.7 * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        _set_margins(figure, left=0.75, right=0.35 + _estimate_width(names))
        ends = {}
        for index, (axes, value) in enumerate(zip(grid.flat, values, strict=False)):
            axes.set(xscale=self.xscale, yscale=self.yscale)
            part = table if value is None else table[table[self.panels] == value]
            part = part.dropna(subset=[self.y])
            for low, high in self.bands:
                edge = part.dropna(subset=[low, high]).drop_duplicates(self.x).sort_values(self.x)
                axes.fill_between(
                    edge[self.x], edge[low], edge[high], color="0.5", alpha=0.18, lw=0
                )
            ends[axes] = [
                self.one_line(axes, k, name, colours[name], line.sort_values(self.x))
                for k, name in enumerate(names)
                if len(line := part[part[self.by] == name])
            ]
            if value is not None:
                axes.set_title(self.name_panel(value))
            axes.set_ylabel(self.ylabel if index % across == 0 else "")
            axes.set_xlabel(self.xlabel if index >= len(values) - across else "")
        if self.yscale == "linear" and table[self.y].min() >= 0:
            grid.flat[0].set_ylim(bottom=0)  # once all panels are drawn, for they share the axis
        for axes in list(grid.flat)[len(values) :]:
            axes.set_visible(False)
        for axes, labelled in ends.items():
            _label_ends(axes, labelled)
            _set_tick_labels(axes.xaxis, axes.yaxis)
        legend = [f"thin line: {self.theory_label}"] if self.theory else []
        _explain(figure, *legend, label_interval(table, self.y), self.bands_label)

    def describe(self, table: pd.DataFrame) -> str:
        table = table.dropna(subset=[self.y])
        label, unit = findings.split_label(self.ylabel)
        against, at = findings.split_label(self.xlabel)
        ends = [findings.name_value(x, at) for x in (table[self.x].min(), table[self.x].max())]
        said = [f"{_capitalize(label)} against {against}, {ends[0]} to {ends[1]}."]
        span = table[self.y].max() - table[self.y].min() if self.yscale == "linear" else 0.0
        panels = [(None, table)] if self.panels is None else list(table.groupby(self.panels))
        for value, part in panels:
            lines, found = {}, []
            for name, line in part.groupby(self.by, sort=False):
                if line[self.x].duplicated().mean() > 0.5:  # a cloud
                    low, high = (
                        findings.name_value(y, unit) for y in line[self.y].agg(["min", "max"])
                    )
                    found.append(f"{name} lies between {low} and {high}")
                    continue
                lines[str(name)] = points = dict(line.groupby(self.x)[self.y].median())
                found.append(f"{name} {findings.course(points, unit, at, span)}")
            head = "" if value is None else f"{self.name_panel(value)}: "
            said.append(f"{head}{'; '.join([*found, *findings.crossings(lines, at)])}.")
        if self.theory and (far := findings.distance(table[self.y], table[self.theory])):
            said.append(f"Compared with the theory, {self.theory_label}: {far}.")
        return " ".join(said)

    def name_panel(self, value: object) -> str:
        return self.panel_title.format(value if isinstance(value, str) else f"{value:g}")

    def one_line(
        self, axes: Axes, position: int, name: str, colour: str, line: pd.DataFrame
    ) -> tuple[float, float, str, str]:
        """Draw one series, its interval and its theory; return its label's position and colour."""
        x, y, theory = self.x, self.y, self.theory
        explained = theory is not None and line[theory].notna().any()
        if explained:
            axes.plot(line[x], line[theory], color=colour, lw=4, alpha=0.25, zorder=1)
            axes.plot(line[x], line[theory], color=PALETTE["theory"], lw=0.8, zorder=1)
        axes.plot(
            line[x],
            line[y],
            color=colour,
            ls="" if explained or line[x].duplicated().any() else DASHES[position % len(DASHES)],
            lw=1.1,
            marker=MARKERS[position % len(MARKERS)],
            markersize=4.5 if len(line) <= 20 else 2.5,
        )
        low, high = interval_columns(y)
        if low in line and line[low].notna().any():
            axes.vlines(line[x], line[low], line[high], color=colour, lw=2.2, alpha=0.45)
        last = line.iloc[-1]
        return last[x], last[y], str(name), colour


@dataclass(frozen=True, kw_only=True)
class DotPlot(Chart):
    """One row for each arm: its value on a log axis with its interval, and the number itself."""

    x: str
    xlabel: str
    by: str = "arm"

    def colours(self, labels: Iterable[str]) -> dict[str, str]:
        """Each row is labelled with its name, so rows without a meaning can share a colour."""
        meanings = EVERYWHERE | dict(self.meanings)
        return {label: PALETTE[meanings.get(label, "ours")] for label in labels}

    def draw(self, figure: Figure, table: pd.DataFrame) -> None:
        figure.set_size_inches(7.4, 1.6 + 0.34 * len(table))
        axes = figure.subplots()
        _set_margins(figure, left=0.3 + _estimate_width(table[self.by]), right=0.2)
        low, high = interval_columns(self.x)
        colours = self.colours(table[self.by])
        places = np.arange(len(table))[::-1]
        for place, (_, row) in zip(places, table.iterrows(), strict=True):
            end, colour = row[self.x], colours[row[self.by]]
            if low in row and row[low] == row[low]:  # it is a number
                axes.hlines(place, row[low], row[high], color=colour, lw=5, alpha=0.35)
                end = max(end, row[high])
            axes.plot(row[self.x], place, "o", color=colour)
            axes.annotate(
                _format_us(row[self.x]),
                (end, place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set(xscale="log", xlabel=self.xlabel, ylim=(-0.6, len(table) - 0.4))
        axes.set_yticks(places, [str(name) for name in table[self.by]])
        axes.grid(axis="y", visible=False)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.14)
        _set_tick_labels(axes.xaxis)
        _explain(figure, label_interval(table, self.x))

    def describe(self, table: pd.DataFrame) -> str:
        label, unit = findings.split_label(self.xlabel)
        values = dict(zip(table[self.by].astype(str), table[self.x], strict=True))
        return f"{_capitalize(label)}. {findings.rank(values, unit)}"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity of `DotPanels`: one or two columns, by the names their points have.

    The first is drawn filled, the second as a ring; a line joins the two.
    """

    title: str
    xlabel: str
    points: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DotPanels(Chart):
    """One row for each arm, a panel for each quantity, all on log axes."""

    panels: Sequence[Panel]
    by: str = "arm"

    def draw(self, figure: Figure, table: pd.DataFrame) -> None:
        figure.set_size_inches(1.6 + 2.7 * len(self.panels), 1.9 + 0.3 * len(table))
        grid = figure.subplots(1, len(self.panels), sharey=True, squeeze=False)[0]
        _set_margins(figure, left=0.3 + _estimate_width(table[self.by]), right=0.2)
        figure.subplots_adjust(wspace=0.12, top=1 - 1.0 / figure.get_size_inches()[1])
        places, key = np.arange(len(table))[::-1], None
        for axes, panel in zip(grid, self.panels, strict=True):
            columns = list(panel.points.values())
            axes.hlines(places, table[columns].min(axis=1), table[columns].max(axis=1), color="0.7")
            for column, name, filled in zip(columns, panel.points, (True, False), strict=False):
                colour = PALETTE[self.meanings.get(name, "ours")]
                low, high = interval_columns(column)
                if low in table:
                    axes.hlines(places, table[low], table[high], color=colour, lw=5, alpha=0.35)
                face = colour if filled else "white"
                axes.plot(table[column], places, "o", color=colour, mfc=face, label=name)
            axes.set(xscale="log", xlabel=panel.xlabel, ylim=(-0.6, len(table) - 0.4))
            axes.set_title(panel.title)
            axes.get_xlim()  # computes the limits
            _set_tick_labels(axes.xaxis)
            axes.grid(axis="y", visible=False)
            if len(columns) > 1:
                key = axes.get_legend_handles_labels()
        if key is not None:
            figure.legend(*key, frameon=False, fontsize=8, loc="upper right", ncols=2)
        grid[0].set_yticks(places, [str(name) for name in table[self.by]])
        _explain(
            figure,
            label_interval(table, *(c for panel in self.panels for c in panel.points.values())),
        )

    def describe(self, table: pd.DataFrame) -> str:
        said = []
        for panel in self.panels:
            unit = findings.split_label(panel.xlabel)[1]
            for name, column in panel.points.items():
                there = table.dropna(subset=[column])
                values = dict(zip(there[self.by].astype(str), there[column], strict=True))
                head = panel.title if len(panel.points) == 1 else f"{panel.title}, {name}"
                said.append(f"{_capitalize(head)}: {findings.extremes(values, unit)}.")
        return " ".join(said)


@dataclass(frozen=True, kw_only=True)
class Timeline(Chart):
    """What each actor did, and when: a lane for each actor, in the table's order, and a mark for
    each row.

    Each kind of event, in order of time, has its shape, its colour and its height in the lane, so
    that events at the same moment do not hide each other; the legend counts them.
    """

    x: str
    lane: str
    event: str
    xlabel: str
    others = NEUTRAL  # its shape and its height distinguish it, too

    def draw(self, figure: Figure, table: pd.DataFrame) -> None:
        x, lane, event = self.x, self.lane, self.event
        marks = table.dropna(subset=[x])
        lanes = list(dict.fromkeys(marks[lane]))
        kinds = list(dict.fromkeys(marks.sort_values(x, kind="stable")[event]))
        colours = self.colours(kinds)
        place = {name: len(lanes) - 1 - k for k, name in enumerate(lanes)}
        counted = marks[event].value_counts()
        labels = [f"{counted[kind]:,} {kind}" for kind in kinds]
        height = max(1.6 + 0.62 * len(lanes), 1.75 + 0.2 * len(kinds))
        figure.set_size_inches(7.4, height)
        axes = figure.subplots()
        _set_margins(figure, left=0.3 + _estimate_width(lanes), right=0.5 + _estimate_width(labels))
        step = 0.7 / max(len(kinds), 2)
        for k, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
            part = marks[marks[event] == kind]
            axes.plot(
                part[x],
                part[lane].map(place) + ((len(kinds) - 1) / 2 - k) * step,
                ls="",
                color=colours[kind],
                marker=MARKERS[k % len(MARKERS)],
                markersize=6 if len(part) <= 30 else 3,
                label=label,
                clip_on=False,
                zorder=3,
            )
        first, last = min(0.0, marks[x].min()), marks[x].max()
        axes.set(xlabel=self.xlabel, xlim=(first, last + 0.03 * (last - first or 1)))
        axes.set(ylim=(-0.55, len(lanes) - 0.45))
        axes.set_yticks(list(place.values()), [str(name) for name in lanes])
        axes.grid(axis="y", visible=False)
        for border in range(len(lanes) - 1):
            axes.axhline(border + 0.5, color="0.85", lw=0.6)
        _set_tick_labels(axes.xaxis)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    def describe(self, table: pd.DataFrame) -> str:
        label, unit = findings.split_label(self.xlabel)
        marks = table.dropna(subset=[self.x])
        said = []
        for lane, part in marks.groupby(self.lane, sort=False):
            events = list(zip(part[self.x], part[self.event], strict=True))
            said.append(f"{lane}: {findings.happened(events, unit)}.")
        return f"Events by {label}. {' '.join(said)}"


def _format_us(value: float) -> str:
    """Microseconds in a readable unit: 0.09 µs, 120 µs, 3.4 ms, 1.2 s."""
    for limit, unit in ((1e6, "s"), (1e3, "ms"), (1.0, "µs")):
        if value >= limit or unit == "µs":
            return f"{value / limit:.3g} {unit}"
    raise AssertionError


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe(result: Result, chart: Chart) -> str:
    """What the figure of a result shows: its title, and the findings in sentences.

    It stands in the place of the picture, for those who do not see it.
    Raises: LabError, as `draw`.
    """
    with _explained(result, chart):
        said = chart.describe(result.table)
    title = chart.title if chart.title.endswith("?") else f"{chart.title}."
    effort = result.environment.get("effort")
    return f"{title} {said}" + (f" ({effort} effort)" if effort else "")


@contextlib.contextmanager
def _explained(result: Result, chart: Chart) -> Iterator[None]:
    """Raises: LabError, where the result lacks what the chart shows."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        kind = type(chart).__name__
        raise LabError(f"{result.experiment} cannot be drawn as {kind}: {error}.") from error


def draw(result: Result, chart: Chart) -> Figure:
    """The figure of a result, with its title and the machine it was measured on.

    Raises: LabError that names the experiment, if its rows lack a column that the chart shows.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        with _explained(result, chart):
            chart.draw(figure, result.table)
        width, height = figure.get_size_inches()
        figure.suptitle(
            chart.title, x=0.01, y=1 - 0.08 / height, ha="left", fontsize=11, fontweight="bold"
        )
        machine = textwrap.fill(caption(result.environment), int(22 * width))
        figure.text(0.01, 1 - 0.30 / height, machine, va="top", fontsize=6.5, color="0.35")
    return figure


def _encode_png(figure: Figure) -> bytes:
    """A figure as a PNG file of 256 colours, a third of the size of one with all colours."""
    import matplotlib
    from PIL import Image

    drawn, out = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(drawn, format="png", dpi=DPI)
    # this method of choosing colours keeps the colours of small areas
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    picture = Image.open(drawn).convert("RGB").quantize(256, method=method, dither=dither)
    picture.save(out, format="png", optimize=True, dpi=(DPI, DPI))
    return out.getvalue()


def render_png(result: Result, chart: Chart) -> bytes:
    """The figure of a result as a PNG file."""
    return _encode_png(draw(result, chart))


def plots_folder(effort: str | None = None) -> Path:
    return data_folder() / ("plots" if effort_name(effort) == "full" else "local")


def write_plot(result: Result, chart: Chart, folder: Path | None = None) -> bytes:
    """Draw a result into `<experiment>.png`, atomically; return the file's content."""
    content = render_png(result, chart)
    write_whole((folder or plots_folder()) / f"{result.experiment}.png", content)
    return content
