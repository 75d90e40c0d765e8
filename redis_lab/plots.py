"""One matplotlib style and the few figure kinds that the lessons need.

A result says itself how it is drawn (`Result.figure`), so a committed result can be drawn again
without measuring anything: `draw(load("data/results/pipelines.json"))`.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .errors import LabError
from .measure.effort import effort_name
from .measure.results import Result, data_folder, write_whole

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes tell them apart in
# grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
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


def short(value: float, _position: int = 0) -> str:
    """A tick label people read: 0.5, 20, 5k, 2M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def bounds(y: str) -> tuple[str, str]:
    """The columns that hold the interval of column `y`."""
    stem, _, unit = y.rpartition("_")
    return f"{stem}_low_{unit}", f"{stem}_high_{unit}"


def caption(environment: Mapping) -> str:
    """What the numbers depend on, in one line."""
    server = f"{environment.get('server', '?')} {environment.get('server_version', '')}"
    parts = [
        server.strip() if "server" in environment else "",
        environment.get("transport", ""),
        environment.get("protocol", ""),
        f"redis-py {environment['redis_py']}" if "redis_py" in environment else "",
        f"Python {environment['python']}" if "python" in environment else "",
        f"{environment.get('cpu', '')}, {environment.get('cores', '?')} cores",
        f"{environment['effort']} effort" if "effort" in environment else "",
        str(environment.get("when", ""))[:10],
    ]
    return " · ".join(part for part in parts if part)


def spread(positions: Iterable[float], gap: float) -> list[float]:
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


def label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its right-hand end, pushed apart where they would overlap."""
    figure = axes.get_figure(root=True)
    assert figure  # the axes are in one
    height_pt = axes.get_position().height * figure.get_size_inches()[1] * 72
    axes.get_xlim(), axes.get_ylim()  # the limits are settled only when somebody asks
    to_fraction = axes.transScale + axes.transLimits
    heights = [to_fraction.transform((x, y))[1] for x, y, _, _ in ends]
    for (x, y, name, colour), at in zip(ends, spread(heights, 10.5 / height_pt), strict=True):
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


def leave_room(figure: Figure, *, left: float, right: float) -> None:
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


def text_inches(names: Iterable) -> float:
    """The width of the longest of some labels, roughly."""
    return 0.075 * max(len(str(name)) for name in names)


def lines(
    figure: Figure,
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    xlabel: str,
    ylabel: str,
    panels: str | None = None,
    panel_title: str = "{}",
    by: str = "arm",
    xscale: str = "log",
    yscale: str = "log",
    theory: str | None = None,
    theory_label: str = "theory",
    bands: Sequence[Sequence[str]] = (),
    bands_label: str = "",
    columns: int = 2,
) -> None:
    """Small multiples of `y` against `x`, a line for each value of `by`, a panel for each of
    `panels`, shared axes, 95 % bands from the interval columns, thin theory lines.

    `bands` are pairs of columns, each filled lightly from the lower to the upper. An arm with
    several rows at one `x` is drawn as points, unjoined.
    """
    values = [None] if panels is None else sorted(table[panels].unique())
    across = min(columns, len(values))
    down = math.ceil(len(values) / across)
    names = list(dict.fromkeys(table[by]))
    figure.set_size_inches(1.5 + 3.9 * across, 1.2 + 2.7 * down)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    leave_room(figure, left=0.75, right=0.35 + text_inches(names))
    ends = {}
    for index, (axes, value) in enumerate(zip(grid.flat, values, strict=False)):
        axes.set(xscale=xscale, yscale=yscale)
        part = (table if value is None else table[table[panels] == value]).dropna(subset=[y])
        for low, high in bands:
            edge = part.dropna(subset=[low, high]).drop_duplicates(x).sort_values(x)
            axes.fill_between(edge[x], edge[low], edge[high], color="0.5", alpha=0.18, lw=0)
        arms = [(k, name, part[part[by] == name].sort_values(x)) for k, name in enumerate(names)]
        ends[axes] = [one_line(axes, k, n, arm, x, y, theory) for k, n, arm in arms if len(arm)]
        if value is not None:
            title = value if isinstance(value, str) else f"{value:g}"
            axes.set_title(panel_title.format(title))
        axes.set_ylabel(ylabel if index % across == 0 else "")
        axes.set_xlabel(xlabel if index >= len(values) - across else "")
        for axis, scale in ((axes.xaxis, xscale), (axes.yaxis, yscale)):
            axis.set_major_formatter(FuncFormatter(short))
            if scale == "log":
                axis.set_minor_formatter(NullFormatter())
    if yscale == "linear" and table[y].min() >= 0:
        grid.flat[0].set_ylim(bottom=0)  # once all panels are drawn, for they share the axis
    for axes in list(grid.flat)[len(values) :]:
        axes.set_visible(False)
    for axes, labelled in ends.items():
        label_ends(axes, labelled)
    told = [f"thin line: {theory_label}"] if theory else []
    told += ["bars: 95 % interval"] if bounds(y)[0] in table else []
    told += [bands_label] if bands_label else []
    figure.text(0.99, 0.008, "   ".join(told), fontsize=7.5, ha="right", color="0.3")


def one_line(
    axes: Axes, position: int, name: str, line: pd.DataFrame, x: str, y: str, theory: str | None
) -> tuple[float, float, str, str]:
    """Draw one arm, its interval and its theory; return where its label belongs and its colour."""
    style = position % len(COLOURS)
    colour = COLOURS[style]
    explained = theory is not None and line[theory].notna().any()
    if explained:
        axes.plot(line[x], line[theory], color=colour, lw=0.9, alpha=0.8, zorder=1)
    axes.plot(
        line[x],
        line[y],
        color=colour,
        ls="" if explained or line[x].duplicated().any() else DASHES[style],
        lw=1.1,
        marker=MARKERS[style],
        markersize=4.5 if len(line) <= 20 else 2.5,
    )
    low, high = bounds(y)
    if low in line and line[low].notna().any():
        axes.vlines(line[x], line[low], line[high], color=colour, lw=2.2, alpha=0.45)
    last = line.iloc[-1]
    return last[x], last[y], str(name), colour


def ladder(figure: Figure, table: pd.DataFrame, *, x: str, xlabel: str, by: str = "arm") -> None:
    """One row for each arm: its value on a log axis with its interval, and the number itself."""
    figure.set_size_inches(7.4, 1.6 + 0.34 * len(table))
    axes = figure.subplots()
    leave_room(figure, left=0.3 + text_inches(table[by]), right=0.2)
    low, high = bounds(x)
    places = np.arange(len(table))[::-1]
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        end = row[x]
        if low in row and pd.notna(row[low]):
            axes.hlines(place, row[low], row[high], color=COLOURS[0], lw=5, alpha=0.35)
            end = max(end, row[high])
        axes.plot(row[x], place, "o", color=COLOURS[0])
        axes.annotate(
            human_us(row[x]),
            (end, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(xscale="log", xlabel=xlabel, ylim=(-0.6, len(table) - 0.4))
    axes.set_yticks(places, [str(name) for name in table[by]])
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_minor_formatter(NullFormatter())
    left, right = axes.get_xlim()
    right *= (right / left) ** 0.14
    axes.set_xlim(left, right)
    if right < 30 * left:  # hardly a power of ten in sight
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def dots(
    figure: Figure, table: pd.DataFrame, *, panels: Sequence[Mapping], by: str = "arm"
) -> None:
    """One row for each arm, a panel for each quantity, all on log axes.

    A panel is {"title": …, "xlabel": …, "points": {name: column, …}}. With two points a line joins
    them; the first is drawn filled, the second as a ring.
    """
    figure.set_size_inches(1.6 + 2.7 * len(panels), 1.9 + 0.3 * len(table))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    leave_room(figure, left=0.3 + text_inches(table[by]), right=0.2)
    figure.subplots_adjust(wspace=0.12, top=1 - 1.0 / figure.get_size_inches()[1])
    places, key = np.arange(len(table))[::-1], None
    for axes, panel in zip(grid, panels, strict=True):
        columns = list(panel["points"].values())
        axes.hlines(places, table[columns].min(axis=1), table[columns].max(axis=1), color="0.7")
        for column, name, filled in zip(columns, panel["points"], (True, False), strict=False):
            low, high = bounds(column)
            if low in table:
                axes.hlines(places, table[low], table[high], color=COLOURS[0], lw=5, alpha=0.35)
            face = COLOURS[0] if filled else "white"
            axes.plot(table[column], places, "o", color=COLOURS[0], mfc=face, label=name)
        axes.set(xscale="log", xlabel=panel["xlabel"], ylim=(-0.6, len(table) - 0.4))
        axes.set_title(panel["title"])
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", visible=False)
        if len(columns) > 1:
            key = axes.get_legend_handles_labels()
    if key is not None:
        figure.legend(*key, frameon=False, fontsize=8, loc="upper right", ncols=2)
    grid[0].set_yticks(places, [str(name) for name in table[by]])


def timeline(
    figure: Figure, table: pd.DataFrame, *, x: str, lane: str, event: str, xlabel: str
) -> None:
    """Who did what when: a lane for each actor, in the table's order, a mark for each row.

    Each kind of event, in order of time, has its shape, its colour and its height in the lane, so
    that what happens at one moment does not hide; the legend beside it counts them.
    """
    marks = table.dropna(subset=[x])
    lanes = list(dict.fromkeys(marks[lane]))
    kinds = list(dict.fromkeys(marks.sort_values(x, kind="stable")[event]))
    place = {name: len(lanes) - 1 - k for k, name in enumerate(lanes)}
    counted = marks[event].value_counts()
    labels = [f"{counted[kind]:,} {kind}" for kind in kinds]
    height = max(1.6 + 0.62 * len(lanes), 1.75 + 0.2 * len(kinds))
    figure.set_size_inches(7.4, height)
    axes = figure.subplots()
    leave_room(figure, left=0.3 + text_inches(lanes), right=0.5 + text_inches(labels))
    step = 0.7 / max(len(kinds), 2)
    for k, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
        part = marks[marks[event] == kind]
        axes.plot(
            part[x],
            part[lane].map(place) + ((len(kinds) - 1) / 2 - k) * step,
            ls="",
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],  # where colours come again
            markersize=6 if len(part) <= 30 else 3,
            label=label,
            clip_on=False,
            zorder=3,
        )
    first, last = min(0.0, marks[x].min()), marks[x].max()
    axes.set(xlabel=xlabel, xlim=(first, last + 0.03 * (last - first or 1)))
    axes.set(ylim=(-0.55, len(lanes) - 0.45))
    axes.set_yticks(list(place.values()), [str(name) for name in lanes])
    axes.grid(axis="y", visible=False)
    for border in range(len(lanes) - 1):
        axes.axhline(border + 0.5, color="0.85", lw=0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def human_us(value: float) -> str:
    """Microseconds as people say them: 0.09 µs, 120 µs, 3.4 ms, 1.2 s."""
    for limit, unit in ((1e6, "s"), (1e3, "ms"), (1.0, "µs")):
        if value >= limit or unit == "µs":
            return f"{value / limit:.3g} {unit}"
    raise AssertionError


KINDS: dict[str, Any] = {"lines": lines, "ladder": ladder, "dots": dots, "timeline": timeline}

# How each experiment of the workbook is drawn. A result keeps its own copy of this.
FIGURES: dict[str, dict[str, object]] = {
    "start_here": {
        "title": "What a question costs",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one answer (µs, log scale)",
    },
    "strings_size": {
        "title": "What the size of a value costs",
        "kind": "lines",
        "x": "bytes",
        "y": "p50_us",
        "by": "what",
        "theory": "theory_us",
        "theory_label": "fixed + bytes × price of a byte",
        "xlabel": "size of the value (bytes)",
        "ylabel": "time for one command (µs)",
    },
    "strings_incr": {
        "title": "Counting a hundred views",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for all hundred (µs, log scale)",
    },
    "structures": {
        "title": "Remembering a visitor, in ten structures",
        "kind": "dots",
        "panels": [
            {
                "title": "memory",
                "xlabel": "bytes for each visitor",
                "points": {"bytes": "bytes_each"},
            },
            {
                "title": "add one",
                "xlabel": "time for each command (µs)",
                "points": {"one by one": "add_one_us", "pipelined": "add_pipelined_us"},
            },
            {
                "title": "ask for one",
                "xlabel": "time for each command (µs)",
                "points": {"one by one": "ask_one_us", "pipelined": "ask_pipelined_us"},
            },
        ],
    },
    "pipelines": {
        "title": "What one GET costs in a batch of n",
        "kind": "lines",
        "x": "depth",
        "y": "per_unit_us",
        "panels": "rtt_ms",
        "panel_title": "{} ms added",
        "theory": "theory_us",
        "theory_label": "RTT ÷ n + service",
        "xlabel": "commands in one batch",
        "ylabel": "time for each GET (µs)",
    },
    "cache_aside": {
        "title": "When does a cache help?",
        "kind": "lines",
        "x": "query_us",
        "y": "per_unit_us",
        "panels": "rtt_ms",
        "panel_title": "Redis {} ms away",
        "theory": "theory_us",
        "theory_label": "h · hit + (1 − h) · (miss + query + fill)",
        "xlabel": "what the query costs without a cache (µs)",
        "ylabel": "average answer (µs)",
    },
    "warm_up": {
        "title": "A cold cache warms up",
        "kind": "lines",
        "x": "requests",
        "y": "hit_ratio",
        "xscale": "linear",
        "yscale": "linear",
        "theory": "theory",
        "theory_label": "Σ p (1 − (1 − p)^t)",
        "xlabel": "requests since the cold start",
        "ylabel": "hit ratio (of 500 requests)",
    },
    "geo": {
        "title": "Who is within 50 km?",
        "kind": "lines",
        "x": "places",
        "y": "p50_us",
        "by": "what",
        "theory": "theory_us",
        "theory_label": "trip + found × price",
        "xlabel": "places between Portugal and Finland",
        "ylabel": "time for one search (µs)",
    },
    "geo_pipelined": {
        "title": "The nearest point for each of a hundred customers",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for all hundred (µs, log scale)",
    },
    "streams": {
        "title": "What one entry costs in a batch of n",
        "kind": "lines",
        "x": "batch",
        "y": "per_unit_us",
        "by": "what",
        "theory": "theory_us",
        "theory_label": "trips ÷ n + service",
        "xlabel": "entries in one batch",
        "ylabel": "time for each entry (µs)",
    },
    "streams_crash": {
        "title": "A worker is killed, and what becomes of its work",
        "kind": "timeline",
        "x": "seconds",
        "lane": "worker",
        "event": "event",
        "xlabel": "time since the orders arrived (s)",
    },
    "sets": {
        "title": "How many do two sets share?",
        "kind": "lines",
        "x": "n",
        "y": "p50_us",
        "by": "what",
        "panels": "panel",
        "theory": "theory_us",
        "theory_label": "trip + members of the smaller set × price of a lookup",
        "xlabel": "n",
        "ylabel": "time for one answer (µs)",
    },
    "sets_pipelined": {
        "title": "Which of a hundred customers bought the lamp?",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for all hundred (µs, log scale)",
    },
    "hyperloglog_error": {
        "title": "How far off is a HyperLogLog?",
        "kind": "lines",
        "x": "visitors",
        "y": "error_percent",
        "yscale": "linear",
        "bands": [["sigma_low", "sigma_high"], ["two_sigma_low", "two_sigma_high"]],
        "bands_label": "grey: ±0.81 % and ±1.62 %",
        "xlabel": "distinct visitors",
        "ylabel": "error of the count (%)",
    },
    "hyperloglog_memory": {
        "title": "What it takes to count distinct visitors",
        "kind": "lines",
        "x": "visitors",
        "y": "bytes",
        "theory": "theory",
        "theory_label": "12,304 bytes; visitors ÷ 8",
        "xlabel": "distinct visitors",
        "ylabel": "memory (bytes)",
    },
    "bitmaps": {
        "title": "How many different users came in January?",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one answer (µs, log scale)",
    },
    "lists": {
        "title": "What the length of a list costs",
        "kind": "lines",
        "x": "length",
        "y": "per_unit_us",
        "by": "what",
        "panels": "list",
        "theory": "theory_us",
        "theory_label": "trip + steps × price of a step",
        "xlabel": "elements in the list",
        "ylabel": "time for one command (µs)",
    },
    "lists_pipelined": {
        "title": "Fifty jobs in, fifty jobs out",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for all hundred commands (µs, log scale)",
    },
    "hashes_memory": {
        "title": "The memory of an object with n fields",
        "kind": "lines",
        "x": "fields",
        "y": "bytes_each",
        "yscale": "linear",
        "theory": "theory",
        "theory_label": "the JSON text; the bytes of a listpack",
        "xlabel": "fields of the object",
        "ylabel": "memory for each field (bytes)",
    },
    "hashes": {
        "title": "JSON string or hash?",
        "kind": "lines",
        "x": "fields",
        "y": "per_unit_us",
        "by": "what",
        "panels": "job",
        "xlabel": "fields of the object",
        "ylabel": "time for each (µs)",
    },
    "invalidation": {
        "title": "How each way of updating a cache leaves it stale",
        "kind": "timeline",
        "x": "step",
        "lane": "lane",
        "event": "event",
        "xlabel": "step of the unlucky play",
    },
    "invalidation_cost": {
        "title": "What a version floor costs",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one call (µs, log scale)",
    },
    "idempotency": {
        "title": "What a request with a key costs",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time in Redis for one request (µs, log scale)",
    },
    "sorted_sets": {
        "title": "Which place is mine, and who are the ten best?",
        "kind": "lines",
        "x": "members",
        "y": "p50_us",
        "by": "what",
        "panels": "panel",
        "theory": "theory_us",
        "theory_label": "trip + c · log₂ n; lookup + n/2 × price of an entry",
        "xlabel": "members of the board",
        "ylabel": "time for one answer (µs)",
    },
    "sorted_sets_pipelined": {
        "title": "Noting a hundred sales",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for all hundred (µs, log scale)",
    },
    "transactions": {
        "title": "Four processes transfer money",
        "kind": "lines",
        "x": "accounts",
        "y": "transfers_s",
        "xlabel": "accounts to choose from (fewer: more contention)",
        "ylabel": "transfers a second, all four together",
    },
    "transactions_retries": {
        "title": "How often WATCH has to try again",
        "kind": "lines",
        "x": "accounts",
        "y": "retries",
        "theory": "ceiling",
        "theory_label": "ceiling: (processes − 1) × 2 ÷ accounts",
        "xlabel": "accounts to choose from (fewer: more contention)",
        "ylabel": "retries for each transfer",
    },
    "pubsub": {
        "title": "How long until the last subscriber has it?",
        "kind": "lines",
        "x": "subscribers",
        "y": "p50_us",
        "by": "what",
        "theory": "theory_us",
        "theory_label": "one subscriber + others × price of one",
        "xlabel": "subscribers",
        "ylabel": "time since PUBLISH was sent (µs)",
    },
    "pubsub_loss": {
        "title": "Killed after 300, back at 701",
        "kind": "lines",
        "x": "published",
        "y": "arrived",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "events published",
        "ylabel": "events that have arrived",
    },
    "locks_beside": {
        "title": "Taking a lock and giving it back",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for both (µs, log scale)",
    },
    "locks_paused": {
        "title": "A holder is stopped, and wakes up after its lease",
        "kind": "timeline",
        "x": "seconds",
        "lane": "who",
        "event": "event",
        "xlabel": "time since Ada got the lock (s)",
    },
    "queue_beside": {
        "title": "What a job costs in Redis",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one job (µs, log scale)",
    },
    "queue_crash": {
        "title": "Four workers are killed, and no letter is lost",
        "kind": "timeline",
        "x": "seconds",
        "lane": "worker",
        "event": "event",
        "xlabel": "time since the first letter (s)",
    },
    "sessions_life": {
        "title": "How long does a session have left?",
        "kind": "lines",
        "x": "seconds",
        "y": "left_s",
        "by": "session",
        "theory": "theory",
        "theory_label": "min(idle, absolute − age)",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "time since it began (s)",
        "ylabel": "time to live (s)",
    },
    "sessions_beside": {
        "title": "Whose request is this?",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one answer (µs, log scale)",
    },
    "rate_limiting": {
        "title": "Ten a minute, and somebody who asks twice a second",
        "kind": "lines",
        "x": "second",
        "y": "n",
        "by": "what",
        "panels": "kind",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "seconds",
        "ylabel": "let through in the last 60 s",
    },
    "rate_limiting_memory": {
        "title": "What a client who has used up the limit takes up",
        "kind": "lines",
        "x": "limit",
        "y": "bytes",
        "xlabel": "limit (requests in a window)",
        "ylabel": "bytes for each client",
    },
    "rate_limiting_beside": {
        "title": "May I? Beside the library limits",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one answer (µs, log scale)",
    },
    "leaderboard": {
        "title": "A page around me, and the ten best of a week",
        "kind": "lines",
        "x": "members",
        "y": "p50_us",
        "by": "what",
        "panels": "panel",
        "theory": "theory_us",
        "theory_label": "rows × price of one row on the smallest board",
        "xlabel": "members of the board",
        "ylabel": "time for one answer (µs)",
    },
    "leaderboard_beside": {
        "title": "A board of ten thousand, beside SQLite",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one answer (µs, log scale)",
    },
    "hit_ratio_size": {
        "title": "What each eviction policy answers",
        "kind": "lines",
        "x": "size",
        "y": "hit_ratio",
        "by": "policy",
        "panels": "exponent",
        "panel_title": "Zipf, s = {}",
        "theory": "theory",
        "theory_label": "the formula of the exact rule",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "keys that the cache holds, of 20,000",
        "ylabel": "hit ratio",
    },
    "hit_ratio_pace": {
        "title": "The faster it is measured, the less LRU is in it",
        "kind": "lines",
        "x": "stays_s",
        "y": "lost",
        "by": "what",
        "theory": "chance",
        "theory_label": "what random eviction loses",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "how long a key stays that nobody asks for (s)",
        "ylabel": "hits lost against exact LRU (points)",
    },
    "hit_ratio_ttl": {
        "title": "What a time to live does to the hit ratio",
        "kind": "lines",
        "x": "ttl_ms",
        "y": "hit_ratio",
        "by": "what",
        "theory": "theory",
        "theory_label": "λT / (1 + λT), and 1 − e^(−λT)",
        "yscale": "linear",
        "xlabel": "time to live (ms)",
        "ylabel": "hit ratio",
    },
    "stampede": {
        "title": "A page that expires every 0.7 seconds: makings so far",
        "kind": "lines",
        "x": "seconds",
        "y": "made",
        "by": "way",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "time since the page was first made (s)",
        "ylabel": "makings so far, by 32 readers",
    },
    "stampede_xfetch": {
        "title": "What XFetch costs",
        "kind": "lines",
        "x": "beta",
        "y": "made",
        "by": "what",
        "theory": "theory",
        "theory_label": "e^(1/β)",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "β",
        "ylabel": "makings for each expiry",
    },
    "stampede_beside": {
        "title": "A hit",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one hit (µs, log scale)",
    },
    "connections": {
        "title": "One GET: an open connection, or a new one each time",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one request (µs, log scale)",
    },
    "connections_restart": {
        "title": "A stall and a death, and what became of each request",
        "kind": "timeline",
        "x": "seconds",
        "lane": "lane",
        "event": "event",
        "xlabel": "time since the first request (s)",
    },
    "durability": {
        "title": "Five servers are killed, and which writes come back",
        "kind": "timeline",
        "x": "seconds",
        "lane": "server",
        "event": "event",
        "xlabel": "time since the first write (s)",
    },
    "durability_cost": {
        "title": "What it costs to keep a write",
        "kind": "ladder",
        "x": "per_unit_us",
        "xlabel": "time for one write (µs, log scale)",
    },
    "anti_patterns": {
        "title": "What a command costs those who did not send it",
        "kind": "dots",
        "panels": [
            {
                "title": "a bystander's longest wait",
                "xlabel": "ms, log scale",
                "points": {"naive": "naive_wait_ms", "the other form": "mend_wait_ms"},
            },
            {
                "title": "the work itself",
                "xlabel": "ms, log scale",
                "points": {"naive": "naive_work_ms", "the other form": "mend_work_ms"},
            },
        ],
    },
    "anti_patterns_memory": {
        "title": "A cache fills up",
        "kind": "lines",
        "x": "writes",
        "y": "used_mb",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "pages written",
        "ylabel": "used memory (MB)",
    },
    "serverless_http": {
        "title": "The same GETs over TCP and over HTTP",
        "kind": "lines",
        "x": "rtt_ms",
        "y": "p50_us",
        "by": "arm",
        "panels": "panel",
        "theory": "theory_us",
        "theory_label": "cost without distance + round trips × distance",
        "xlabel": "round trip to Redis or its gateway (ms)",
        "ylabel": "time for all of it (µs)",
    },
    "serverless_http_cost": {
        "title": "One GET next door",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one GET (µs, log scale)",
    },
    "memory_per_key": {
        "title": "What a key costs, with a value of eight bytes",
        "kind": "lines",
        "x": "keys",
        "y": "bytes",
        "by": "kind",
        "yscale": "linear",
        "xlabel": "keys on the server",
        "ylabel": "bytes for each key",
    },
    "memory_fragmentation": {
        "title": "Written, nine of ten deleted, and others written",
        "kind": "lines",
        "x": "step",
        "y": "mb",
        "by": "what",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "ten steps of writing, ten of deleting, ten of writing",
        "ylabel": "MB",
    },
    "memory_sizing": {
        "title": "A cache with the memory that the formula asks for",
        "kind": "lines",
        "x": "wanted",
        "y": "hit_ratio",
        "by": "what",
        "theory": "asked",
        "theory_label": "what was wanted",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "hit ratio that was wanted",
        "ylabel": "hit ratio that was reached",
    },
    "replicas_lag": {
        "title": "A replica at a distance",
        "kind": "lines",
        "x": "rtt_ms",
        "y": "ms",
        "by": "arm",
        "xscale": "linear",
        "yscale": "linear",
        "theory": "theory_ms",
        "theory_label": "without distance + 0, ½ or 1 round trip",
        "xlabel": "round trip between primary and replica (ms)",
        "ylabel": "time since the SET was sent (ms)",
    },
    "replicas_failover": {
        "title": "A primary is killed at a bad moment",
        "kind": "timeline",
        "x": "seconds",
        "lane": "lane",
        "event": "event",
        "xlabel": "time since the first order (s)",
    },
    "load_omission": {
        "title": "One server, the same half second, three ways to look",
        "kind": "lines",
        "x": "share",
        "y": "ms",
        "by": "what",
        "xlabel": "share of requests that took at least so long (%)",
        "ylabel": "time (ms)",
    },
    "load_knee": {
        "title": "The busier the server, the longer the queue",
        "kind": "lines",
        "x": "busy",
        "y": "ms",
        "by": "what",
        "theory": "theory",
        "theory_label": "Pollaczek and Khinchin: T₀ + S + ρS / (2(1 − ρ))",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "how busy the server is (%)",
        "ylabel": "response time (ms)",
    },
    "load_saturation": {
        "title": "How many GETs a second, at most?",
        "kind": "lines",
        "x": "depth",
        "y": "per_second",
        "by": "what",
        "xlabel": "commands in a batch",
        "ylabel": "GETs a second",
    },
    "protocol_where": {
        "title": "Where the time of one GET goes",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time (µs, log scale)",
    },
    "protocol_transport": {
        "title": "Which way there, which protocol, which parser",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one call (µs, log scale)",
    },
    "protocol_payload": {
        "title": "A GET of ten bytes to ten megabytes",
        "kind": "lines",
        "x": "bytes",
        "y": "p50_us",
        "by": "way",
        "theory": "theory_us",
        "theory_label": "a small GET + bytes / bandwidth, both measured on their own",
        "xlabel": "bytes of the value",
        "ylabel": "time for one GET (µs)",
    },
    "client_side_caching": {
        "title": "Reading a copy, and asking for it",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one read (µs, log scale)",
    },
    "client_side_caching_window": {
        "title": "For how long is a copy stale?",
        "kind": "lines",
        "x": "rtt_ms",
        "y": "ms",
        "by": "what",
        "theory": "theory",
        "theory_label": "what it is without distance + half a round trip",
        "xscale": "linear",
        "yscale": "linear",
        "xlabel": "round trip between reader and Redis (ms)",
        "ylabel": "time after the writer's OK (ms)",
    },
    "cluster_throughput": {
        "title": "More servers, on one machine",
        "kind": "lines",
        "x": "servers",
        "y": "per_second",
        "by": "depth",
        "theory": "theory",
        "theory_label": "n times what one does",
        "xscale": "linear",
        "xlabel": "servers, and generators",
        "ylabel": "GETs a second, all together",
    },
    "cluster_failover": {
        "title": "A server of the cluster is killed",
        "kind": "timeline",
        "x": "seconds",
        "lane": "lane",
        "event": "event",
        "xlabel": "time since the first order (s)",
    },
    "asyncio_concurrency": {
        "title": "Many at the same time: tasks and threads",
        "kind": "lines",
        "x": "n",
        "y": "per_second",
        "by": "what",
        "panels": "where",
        "theory": "theory",
        "theory_label": "n times what one makes",
        "xlabel": "tasks, or threads",
        "ylabel": "GETs a second",
    },
    "asyncio_arms": {
        "title": "One GET after the other",
        "kind": "ladder",
        "x": "per_unit_us",
        "xlabel": "time for one GET (µs, log scale)",
    },
    "harness_cost": {
        "title": "What it costs to time one call",
        "kind": "ladder",
        "x": "p50_us",
        "xlabel": "time for one measured call (µs, log scale)",
    },
}


def draw(result: Result) -> Figure:
    """The figure of a result, with its title and the machine it was measured on.

    Raises: LabError for a figure kind or column that does not exist.
    """
    wanted = dict(result.figure)
    kind = str(wanted.pop("kind", None))
    if kind not in KINDS:
        raise LabError(
            f"{result.experiment}: no figure kind {kind!r}; there are {', '.join(KINDS)}."
        )
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        try:
            KINDS[kind](figure, result.table, **wanted)
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"{result.experiment} cannot be drawn as {kind}: {error}.") from error
        width, height = figure.get_size_inches()
        figure.suptitle(
            result.title, x=0.01, y=1 - 0.08 / height, ha="left", fontsize=11, fontweight="bold"
        )
        told = textwrap.fill(caption(result.environment), int(19 * width))
        figure.text(0.01, 1 - 0.30 / height, told, va="top", fontsize=6.5, color="0.35")
    return figure


def encoded(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    with matplotlib.rc_context(STYLE):
        out = io.BytesIO()
        figure.savefig(
            out, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True}
        )
    return out.getvalue()


def png(result: Result) -> bytes:
    """The figure of a result as a PNG file."""
    return encoded(draw(result))


def plots_folder(effort: str | None = None) -> Path:
    return data_folder() / ("plots" if effort_name(effort) == "full" else "local")


def write(result: Result, folder: Path | None = None) -> Path:
    """Draw a result into `<experiment>.png`, whole or not at all; return its path."""
    path = (folder or plots_folder()) / f"{result.experiment}.png"
    write_whole(path, png(result))
    return path
