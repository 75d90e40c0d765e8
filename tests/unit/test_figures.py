"""Figures: complete, inside their canvas, labelled, small, the same every time."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from redis_lab import figures, lessons, results
from redis_lab.errors import LabError
from redis_lab.figures import PALETTE, Chart, DotPanels, DotPlot, Lines, Panel, Timeline
from redis_lab.measure.baseline import BASELINE
from redis_lab.measure.results import Result

COMMITTED = sorted((Path(__file__).resolve().parents[2] / "data/results").glob("*.json"))
ENVIRONMENT = {
    "server": "Valkey",
    "server_version": "9.1.0",
    "transport": "TCP loopback",
    "protocol": "RESP3",
    "redis_py": "8.1.0",
    "python": "3.11.7",
    "cpu": "Intel(R) Xeon(R) Processor @ 2.10GHz",
    "cores": 2,
    "effort": "quick",
    "when": "2026-01-02T03:04:05+00:00",
}


@dataclass
class Case:
    """A result and how it is drawn."""

    result: Result
    chart: Chart


def made(chart: Chart, rows: list[dict]) -> Case:
    return Case(Result("synthetic", chart.title, rows, dict(ENVIRONMENT)), chart)


TITLE = "What the round trip costs"
CURVE = Lines(
    title=TITLE,
    x="depth",
    y="p50_us",
    panels="rtt_ms",
    panel_title="{} ms away",
    xlabel="commands in one pipeline",
    ylabel="time per call (µs)",
)
DOTS = DotPlot(title=TITLE, x="p50_us", xlabel="latency (µs)")
CRASH = Timeline(
    title=TITLE, x="seconds", lane="worker", event="event", xlabel="time since the start (s)"
)


def curve(arms: int = 3, **changes: Any) -> Case:
    """Arms whose lines end close together, in two panels."""
    rows = [
        {
            "arm": f"arm {arm}",
            "rtt_ms": rtt,
            "depth": depth,
            "p50_us": (100 + arm) * rtt / depth,
            "p50_low_us": 0.9 * (100 + arm) * rtt / depth,
            "p50_high_us": 1.2 * (100 + arm) * rtt / depth,
            "theory_us": 100 * rtt / depth,
        }
        for arm, rtt, depth in itertools.product(range(arms), (0.5, 20.0), (1, 10, 100, 1000))
    ]
    return made(replace(CURVE, **changes), rows)


def steps() -> Case:
    names = ("dict lookup", "SQLite read by primary key", "GET", "query over a network")
    rows = [
        {"arm": n, "p50_us": v, "p50_low_us": 0.8 * v, "p50_high_us": 1.3 * v}
        for n, v in zip(names, (0.06, 9.5, 80.0, 1_400_000.0), strict=True)
    ]
    return made(replace(DOTS, meanings={"SQLite read by primary key": "theirs"}), rows)


def rings() -> Case:
    names = ("string", "sorted set", "HyperLogLog and bitmaps", "pub/sub")
    rows = [
        {
            "arm": n,
            "bytes": b,
            "one_us": v,
            "one_low_us": 0.9 * v,
            "one_high_us": 2 * v,
            "many_us": m,
        }
        for n, b, v, m in zip(
            names, (56.9, 76.5, 0.2, None), (80, 99, 120, 77.0), (6, 8, 9, None), strict=True
        )
    ]
    panels = (
        Panel(title="memory", xlabel="bytes for each", points={"bytes": "bytes"}),
        Panel(
            title="add one",
            xlabel="time for each (µs)",
            points={"one by one": "one_us", "pipelined": "many_us"},
        ),
    )
    return made(DotPanels(title=TITLE, panels=panels), rows)


def scattered() -> Case:
    """Several points at one place, below and above nought, with bands behind them."""
    rows = [
        {"arm": "five sets", "n": n, "error": e / 3, "low": -0.8, "high": 0.8}
        for n, e in itertools.product((10, 100, 1000), (-4, -2, 0, 1, 3))
    ]
    rows += [{"arm": "exact", "n": n, "error": 0.0} for n in (10, 100, 1000)]
    chart = Lines(
        title=TITLE,
        x="n",
        y="error",
        yscale="linear",
        bands=(("low", "high"),),
        bands_label="grey: ±0.8 %",
        xlabel="visitors",
        ylabel="error (%)",
    )
    return made(chart, rows)


def crash(workers: tuple[str, ...] = ("ada", "bob", "carol"), **changes: Any) -> Case:
    """Busy lanes, and many events of several kinds at one moment."""
    rows = [
        {"worker": worker, "seconds": k / 100, "event": "packed"}
        for worker, k in itertools.product(workers, range(1, 41))
    ]
    rows += [{"worker": workers[0], "seconds": 0.7, "event": "claimed"} for _ in range(10)]
    rows += [{"worker": workers[-1], "seconds": 0.41, "event": "killed"}]
    rows += [{"worker": workers[0], "seconds": 0.7, "event": "packed again"}]
    return made(replace(CRASH, **changes), rows)


SYNTHETIC = {
    "timeline": crash(),
    "timeline, one lane": crash(("a worker with a rather long name",)),
    "timeline, ten lanes": crash(tuple(f"worker {k}" for k in range(10))),
    "dot panels": rings(),
    "lines": curve(),
    "lines, twelve arms": curve(arms=12),
    "lines with theory": curve(theory="theory_us", theory_label="round trip ÷ depth"),
    "lines, one panel": curve(panels=None),
    "lines, linear": curve(xscale="linear", yscale="linear"),
    "lines, scattered over a band": scattered(),
    "lines, by depth": curve(x="rtt_ms", panels="depth", xlabel="round trip (ms)"),
    "dot plot": steps(),
}
OF_A_KIND = ("lines", "dot plot", "dot panels", "timeline")


@cache
def case(name: str) -> Case:
    if name in SYNTHETIC:
        return SYNTHETIC[name]
    result = results.load(next(path for path in COMMITTED if path.stem == name))
    return Case(result, lessons.find_figure(name))


def drawn(case: Case) -> Figure:
    figure = figures.draw(case.result, case.chart)
    figure.draw_without_rendering()
    return figure


def test_every_kind_is_tried():
    tried = [type(SYNTHETIC[name].chart) for name in OF_A_KIND]
    assert tried == Chart.__subclasses__()


@pytest.mark.parametrize("name", [*SYNTHETIC, *(path.stem for path in COMMITTED)])
def test_a_figure_keeps_the_rules(name):
    """All of them in one test, since drawing is what takes long."""
    result, chart = case(name).result, case(name).chart
    figure = figures.draw(result, chart)
    small_png(figures._encode_png(figure))
    labelled_with_units(chart, figure)
    title_and_machine(case(name), figure)
    nothing_outside_the_canvas(figure)
    no_label_on_another(figure)
    three_labelled_ticks(figure)


def small_png(content: bytes) -> None:
    assert content.startswith(b"\x89PNG") and content.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(content) < 50_000


def labelled_with_units(chart: Chart, figure: Figure) -> None:
    shown = [axes for axes in figure.axes if axes.get_visible()]
    x_labels = {axes.get_xlabel() for axes in shown} - {""}
    y_labels = {axes.get_ylabel() for axes in shown} - {""}
    if isinstance(chart, DotPanels):
        assert x_labels == {panel.xlabel for panel in chart.panels}
        for panel in chart.panels:
            timed = any(column.endswith("_us") for column in panel.points.values())
            assert not timed or "µs" in panel.xlabel
        return
    assert isinstance(chart, Lines | DotPlot | Timeline)
    assert x_labels == {chart.xlabel}
    if isinstance(chart, Lines):
        assert y_labels == {chart.ylabel}
        assert not chart.y.endswith("_us") or "µs" in chart.ylabel
    for unit, symbol in (("_us", "µs"), ("_ms", "ms")):
        assert not chart.x.endswith(unit) or symbol in chart.xlabel


def title_and_machine(case: Case, figure: Figure) -> None:
    texts = " ".join(" ".join(text.get_text() for text in words(figure)).split())
    assert case.chart.title in texts
    assert " ".join(figures.caption(case.result.environment).split()) in texts


def nothing_outside_the_canvas(figure: Figure) -> None:
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = {text.get_text(): text_box(text, renderer) for text in words(figure)}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):  # tick labels and the axis label
            if axes.get_visible() and (box := axis.get_tightbbox(renderer)):
                boxes[f"{axis.axis_name} axis"] = box
    outside = [text for text, box in boxes.items() if not inside(box, width, height)]
    assert not outside


def no_label_on_another(figure: Figure) -> None:
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        labels = [text for text in axes.texts if axes.get_visible() and text.get_text().strip()]
        for one, other in itertools.combinations(labels, 2):
            a, b = text_box(one, renderer), text_box(other, renderer)
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(wide, high) < 2, f"{one.get_text()!r} lies on {other.get_text()!r}"


def three_labelled_ticks(figure: Figure) -> None:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axes.get_visible() and axis.get_scale() == "log":
                low, high = axis.get_view_interval()
                ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
                assert len(ticks) >= 3, f"{axis.get_label_text() or axes.get_title()}: {ticks}"


def words(figure: Figure) -> list[Text]:
    """Every text that is shown, but for tick labels: there are some beyond an axis's ends."""
    found = list(figure.texts)
    for axes in figure.axes:
        if axes.get_visible():
            titles = [child for child in axes.get_children() if isinstance(child, Text)]
            found += [*titles, axes.xaxis.label, axes.yaxis.label]
    return [text for text in found if text.get_text().strip()]


def text_box(text: object, renderer: object) -> object:
    """The box of the words alone, without an annotation's arrow."""
    if isinstance(text, Annotation):
        text.update_positions(renderer)
        return super(Annotation, text).get_window_extent(renderer)
    return text.get_window_extent(renderer)


def inside(box: object, width: float, height: float) -> bool:
    return box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5


def test_a_lone_label_stands_beside_the_end_of_its_line():
    figure = drawn(curve(arms=1, panels=None, yscale="linear"))
    (axes,) = figure.axes
    (label,) = axes.texts
    renderer = figure.canvas.get_renderer()
    box = text_box(label, renderer)
    end = axes.transData.transform(label.xy)
    assert abs((box.y0 + box.y1) / 2 - end[1]) < 4 and box.x0 > end[0]


def test_points_at_one_place_are_not_joined_and_a_band_lies_behind_them():
    (axes,) = drawn(scattered()).axes
    points, line = axes.lines
    assert points.get_linestyle() == "None" != line.get_linestyle()
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-0.8, 0.8)
    assert band.zorder < points.zorder and axes.get_ylim()[0] < -1.3


def test_a_timeline_has_a_lane_for_each_actor_and_starts_at_nought():
    figure = drawn(crash(("carol", "ada", "bob")))
    (axes,) = figure.axes
    names = (label.get_text() for label in axes.get_yticklabels())
    lanes = dict(zip(names, axes.get_yticks(), strict=True))
    assert sorted(lanes, key=lanes.get, reverse=True) == ["carol", "ada", "bob"]
    assert axes.get_xlim()[0] == 0 and axes.get_xscale() == "linear"
    (killed,) = (line for line in axes.lines if "killed" in line.get_label())
    assert abs(killed.get_ydata()[0] - lanes["bob"]) < 0.5


def test_kinds_of_events_are_told_apart_by_shape_colour_and_height():
    (axes,) = drawn(crash()).axes
    kinds = [line for line in axes.lines if line.get_label()[0].isdigit()]
    looks = [(line.get_marker(), line.get_color()) for line in kinds]
    assert all(len(set(look)) == len(kinds) for look in zip(*looks, strict=True))
    heights = [round(line.get_ydata()[0] % 1, 3) for line in kinds]
    assert len(set(heights)) == len(kinds)


@pytest.mark.parametrize("name", [name for name in SYNTHETIC if "timeline" in name])
def test_the_legend_of_a_timeline_counts_and_stands_beside_the_data(name):
    figure = drawn(SYNTHETIC[name])
    (axes,) = figure.axes
    legend, renderer = axes.get_legend(), figure.canvas.get_renderer()
    told = [text.get_text().split(" ", 1)[1] for text in legend.get_texts()]
    assert told == ["packed", "killed", "claimed", "packed again"]
    assert [text.get_text() for text in legend.get_texts()][1:3] == ["1 killed", "10 claimed"]
    box = legend.get_window_extent(renderer)
    assert box.x0 > axes.get_window_extent(renderer).x1
    assert inside(box, *figure.canvas.get_width_height())


def test_another_process_gives_the_same_bytes(tmp_path):
    """One figure of each kind; the same process again is the easier half of this."""
    code = (
        "import hashlib, sys; from redis_lab import figures, lessons, results\n"
        "for path in sys.argv[1:]:\n"
        "    result = results.load(path)\n"
        "    png = figures.render_png(result, lessons.find_figure(result.experiment))\n"
        "    print(hashlib.sha256(png).hexdigest())"
    )
    one_of = {type(case(path.stem).chart): path for path in COMMITTED}
    assert set(one_of) == set(Chart.__subclasses__()), "a kind of figure that no lesson uses"
    paths = list(one_of.values())
    said = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    pngs = [figures.render_png(case(path.stem).result, case(path.stem).chart) for path in paths]
    assert said.stdout.split() == [hashlib.sha256(png).hexdigest() for png in pngs], said.stderr


@pytest.mark.filterwarnings("error")
def test_points_that_were_not_measured_leave_a_gap():
    gaps = curve(panels=None)
    for row in gaps.result.rows:
        if row["depth"] == 1000 or row["arm"] == "arm 2":
            row["p50_us"] = row["p50_low_us"] = row["p50_high_us"] = None
    figure = drawn(gaps)
    labels = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert set(labels) == {"arm 0", "arm 1"}
    assert all(x == 100 and math.isfinite(y) for x, y in labels.values())


@pytest.mark.parametrize(
    ("chart", "says"),
    [
        (replace(DOTS, x="absent_us"), "as DotPlot: 'absent_us'"),
        (replace(CURVE, x="p50_us", y="no", panels=None), "as Lines: .*no"),
        (replace(CURVE, x="p50_us", panels=None, xscale="?"), "as Lines: .*[?]"),
        (replace(CRASH, x="p50_us", lane="arm", event="absent"), "as Timeline: 'absent'"),
    ],
)
def test_what_cannot_be_drawn_is_explained(chart, says):
    wrong = made(chart, [{"arm": "a", "p50_us": 1.0}])
    with pytest.raises(LabError, match=f"^synthetic cannot be drawn {says}"):
        figures.draw(wrong.result, chart)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (1, "bars: within this run"),
        (3, "bars: range of the 3 runs"),
        (5, "bars: 95 % over 5 runs"),
    ],
)
@pytest.mark.parametrize(
    "chart",
    [
        Lines(title="t", x="depth", y="p50_us", xlabel="", ylabel=""),
        DotPlot(title="t", x="p50_us", xlabel=""),
        DotPanels(title="t", panels=[Panel(title="", xlabel="", points={"one": "p50_us"})]),
    ],
    ids=["Lines", "DotPlot", "DotPanels"],
)
def test_bars_say_what_they_are(chart, runs, says):
    """Of one run nothing is called 95 %."""

    def run(n: int) -> Result:
        rows = [
            {"arm": f"d{d}", "depth": d, "p50_us": d + n, "p50_low_us": d, "p50_high_us": d + 9.0}
            for d in (1, 2)
        ]
        return Result("synthetic", "t", rows, {**ENVIRONMENT, "when": f"2026-01-0{n}"})

    result = functools.reduce(results.merge, map(run, range(1, runs + 1)))
    figure = figures.draw(result, chart)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert says in texts
    assert any(f"{runs} runs" in text for text in texts if "Valkey" in text) is (runs > 1)
    if runs < 5:
        assert not any("95 %" in text for text in texts)


def test_a_result_without_rows_is_explained():
    with pytest.raises(LabError, match="cannot be drawn"):
        figures.draw(made(DOTS, []).result, DOTS)


def test_an_option_that_does_not_exist_fails_where_it_is_written():
    with pytest.raises(TypeError, match="colour"):
        DotPlot(title="t", x="p50_us", xlabel="µs", colour="red")
    with pytest.raises(TypeError, match="xlabel"):
        DotPlot(title="t", x="p50_us")
    with pytest.raises(TypeError, match="abstract"):
        Chart(title="t")
    with pytest.raises(LabError, match="no meaning forlorn; it has acknowledged"):
        replace(DOTS, meanings={"a": "forlorn"})
    with pytest.raises(FrozenInstanceError):
        DOTS.title = "another"


def test_plots_are_written_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")
    dots, path = SYNTHETIC["dot plot"], tmp_path / "local" / "synthetic.png"
    before = figures.write_plot(dots.result, dots.chart)
    assert before == path.read_bytes()
    with pytest.raises(LabError):
        figures.write_plot(dots.result, replace(DOTS, x="absent"))
    assert path.read_bytes() == before
    assert figures.write_plot(dots.result, DOTS) == path.read_bytes() != before
    assert [file.name for file in path.parent.iterdir()] == ["synthetic.png"]
    monkeypatch.setenv("REDIS_LAB_EFFORT", "full")
    figures.write_plot(dots.result, DOTS)
    assert (tmp_path / "plots" / "synthetic.png").exists()


# ---------------------------------------------------------------- colours by meaning


def test_a_meaning_has_its_colour_in_every_kind_of_figure():
    meanings = {"killed": "lost", "packed": "acknowledged"}
    (axes,) = drawn(crash(meanings=meanings)).axes
    colours = {line.get_label().split(" ", 1)[-1]: line.get_color() for line in axes.lines}
    assert colours["killed"] == PALETTE["lost"] and colours["packed"] == PALETTE["acknowledged"]
    named = {"arm 1": "refused", "arm 2": "stale"}
    (axes,) = drawn(curve(panels=None, theory="theory_us", meanings=named)).axes
    labels = {text.get_text(): text.get_color() for text in axes.texts}
    assert labels["arm 1"] == PALETTE["refused"] and labels["arm 2"] == PALETTE["stale"]
    thin = [line for line in axes.lines if line.get_linewidth() == 0.8]
    assert len(thin) == 3 and {line.get_color() for line in thin} == {PALETTE["theory"]}
    (axes,) = drawn(steps()).axes
    dots = [line.get_color() for line in axes.lines]
    assert dots == [PALETTE[m] for m in ("ours", "theirs", "ours", "ours")]
    named = {"one by one": "lost"}
    *_, axes = drawn(Case(rings().result, replace(rings().chart, meanings=named))).axes
    assert [line.get_color() for line in axes.lines] == [PALETTE["lost"], PALETTE["ours"]]


def test_the_others_take_colours_that_mean_nothing_in_that_figure():
    chart = replace(CURVE, meanings={"a": "ours", "e": "theirs"})
    colours = chart.colours("abcde")
    assert len(set(colours.values())) == 5
    assert colours["a"] == PALETTE["ours"] and colours["e"] == PALETTE["theirs"]
    assert len(set(CURVE.colours("abcdefg").values())) == 7
    assert len(CURVE.colours("abcdefghi")) == 9
    borrowed = {PALETTE[meaning] for meaning in ("lost", "stale", "theirs")}
    assert not borrowed & set(CRASH.colours("abcdefghi").values()), "a timeline tells by shape"
    assert CURVE.colours(["a", BASELINE])[BASELINE] == PALETTE["baseline"], "in every figure"


def test_colours_of_different_meanings_are_told_apart_in_grey_or_by_hue():
    """The greys by their lightness; against white all of them by a contrast of 2 to 1."""
    luminance = {meaning: relative_luminance(colour) for meaning, colour in PALETTE.items()}
    assert all(1.05 / (light + 0.05) > 2 for light in luminance.values())
    grey = sorted(luminance[meaning] for meaning in ("theory", "baseline", "refused"))
    assert all(b - a > 0.05 for a, b in itertools.pairwise(grey))
    assert len(set(PALETTE.values())) == len(PALETTE) - 1, "ours is as good as acknowledged"


def relative_luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_what_is_given_a_meaning_is_in_the_table(path):
    """A series that was renamed would silently lose its colour."""
    chart, table = case(path.stem).chart, case(path.stem).result.table
    if isinstance(chart, DotPanels):
        labels = {name for panel in chart.panels for name in panel.points}
    else:
        labels = set(table[chart.event if isinstance(chart, Timeline) else chart.by])
    assert set(chart.meanings) <= labels


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.06, "0.06 µs"), (120, "120 µs"), (3400, "3.4 ms"), (1.2e6, "1.2 s"), (1000, "1 ms")],
)
def test_microseconds_as_people_say_them(value, text):
    assert figures._format_us(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (20, "20"), (5000, "5k"), (2e6, "2M"), (0, "0")]
)
def test_tick_labels_are_short(value, text):
    assert figures._format_short(value) == text


def test_spread_keeps_order_and_distance():
    placed = figures._spread_out([5.0, 5.0, 5.1, 40.0, 4.9], 10)
    ordered = sorted(placed)
    assert all(b - a >= 10 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert placed.index(min(placed)) == 4
    assert figures._spread_out([1, 100], 10) == [1, 100]
