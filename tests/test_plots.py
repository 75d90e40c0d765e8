"""Figures: complete, inside their canvas, labelled, small, the same every time."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from redis_lab import plots, results
from redis_lab.errors import LabError
from redis_lab.results import Result

COMMITTED = sorted((Path(__file__).resolve().parents[1] / "data/results").glob("*.json"))
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


def made(figure: dict, rows: list[dict], title: str = "What the round trip costs") -> Result:
    return Result("synthetic", title, rows, figure, dict(ENVIRONMENT))


def curve(arms: int = 3, theory: bool = False, **more: object) -> Result:
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
    figure = {"kind": "lines", "x": "depth", "y": "p50_us", "panels": "rtt_ms"}
    figure |= {"xlabel": "commands in one pipeline", "ylabel": "time per call (µs)"}
    figure |= {"panel_title": "{} ms away"} | more
    if theory:
        figure |= {"theory": "theory_us", "theory_label": "round trip ÷ depth"}
    return made(figure, rows)


def steps() -> Result:
    names = ("dict lookup", "SQLite read by primary key", "GET", "query over a network")
    rows = [
        {"arm": n, "p50_us": v, "p50_low_us": 0.8 * v, "p50_high_us": 1.3 * v}
        for n, v in zip(names, (0.06, 9.5, 80.0, 1_400_000.0), strict=True)
    ]
    figure = {"kind": "ladder", "x": "p50_us", "xlabel": "latency (µs)"}
    return made(figure, rows)


SYNTHETIC = {
    "lines": curve(),
    "lines, seven arms": curve(arms=7),
    "lines with theory": curve(theory=True),
    "lines, one panel": curve(panels=None),
    "lines, linear": curve(xscale="linear", yscale="linear"),
    "lines, by depth": curve(x="rtt_ms", panels="depth", xlabel="round trip (ms)"),
    "ladder": steps(),
}


@pytest.fixture(params=[*SYNTHETIC, *(path.stem for path in COMMITTED)])
def result(request) -> Result:
    if request.param in SYNTHETIC:
        return SYNTHETIC[request.param]
    return results.load(next(path for path in COMMITTED if path.stem == request.param))


def drawn(result: Result) -> Figure:
    figure = plots.draw(result)
    figure.canvas.draw()
    return figure


def test_every_kind_is_tried():
    assert {each.figure["kind"] for each in SYNTHETIC.values()} == set(plots.KINDS)


def test_a_plot_is_a_small_png(result):
    content = plots.png(result)
    assert content.startswith(b"\x89PNG") and content.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(content) < 100_000


def test_axes_are_labelled_with_units(result):
    figure = drawn(result)
    wanted = result.figure
    shown = [axes for axes in figure.axes if axes.get_visible()]
    x_labels = {axes.get_xlabel() for axes in shown} - {""}
    y_labels = {axes.get_ylabel() for axes in shown} - {""}
    assert x_labels == {wanted["xlabel"]}
    if wanted["kind"] == "lines":
        assert y_labels == {wanted["ylabel"]}
        assert not wanted["y"].endswith("_us") or "µs" in wanted["ylabel"]
    for unit, symbol in (("_us", "µs"), ("_ms", "ms")):
        assert not wanted["x"].endswith(unit) or symbol in wanted["xlabel"]


def test_title_and_machine_are_told(result):
    texts = " ".join(text.get_text() for text in words(drawn(result)))
    assert result.title.split()[0] in texts
    told = " ".join(plots.caption(result.environment).split())
    assert told in " ".join(texts.split())


def test_nothing_is_written_outside_the_canvas(result):
    figure = drawn(result)
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = {text.get_text(): text_box(text, renderer) for text in words(figure)}
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):  # tick labels and the axis label
            if axes.get_visible() and (box := axis.get_tightbbox(renderer)):
                boxes[f"{axis.axis_name} axis"] = box
    outside = [text for text, box in boxes.items() if not inside(box, width, height)]
    assert not outside


def test_the_labels_of_lines_do_not_overlap(result):
    figure = drawn(result)
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        labels = [text for text in axes.texts if axes.get_visible() and text.get_text().strip()]
        for one, other in itertools.combinations(labels, 2):
            a, b = text_box(one, renderer), text_box(other, renderer)
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(wide, high) < 2, f"{one.get_text()!r} lies on {other.get_text()!r}"


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


def test_the_same_result_gives_the_same_bytes(result):
    assert plots.png(result) == plots.png(result)


def test_another_process_gives_the_same_bytes(tmp_path):
    path = results.save(SYNTHETIC["lines"], tmp_path)
    code = (
        "import hashlib, sys; from redis_lab import plots, results\n"
        "print(hashlib.sha256(plots.png(results.load(sys.argv[1]))).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    here = hashlib.sha256(plots.png(results.load(path))).hexdigest()
    assert said.stdout.strip() == here, said.stderr


@pytest.mark.filterwarnings("error")
def test_points_that_were_not_measured_leave_a_gap():
    result = curve(panels=None)
    for row in result.rows:
        if row["depth"] == 1000 or row["arm"] == "arm 2":
            row["p50_us"] = row["p50_low_us"] = row["p50_high_us"] = None
    figure = drawn(result)
    labels = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert set(labels) == {"arm 0", "arm 1"}
    assert all(x == 100 and math.isfinite(y) for x, y in labels.values())


@pytest.mark.parametrize(
    ("figure", "says"),
    [
        ({}, "no figure kind None"),
        ({"kind": "pie"}, "no figure kind 'pie'"),
        ({"kind": "ladder", "x": "absent_us", "xlabel": "µs"}, "absent_us"),
        ({"kind": "ladder", "x": "p50_us"}, "xlabel"),
        ({"kind": "ladder", "x": "p50_us", "xlabel": "µs", "colour": "red"}, "colour"),
        ({"kind": "lines", "x": "p50_us", "y": "no", "xlabel": "", "ylabel": ""}, "no"),
        (
            {
                "kind": "lines",
                "x": "p50_us",
                "y": "p50_us",
                "xlabel": "",
                "ylabel": "",
                "xscale": "?",
            },
            "xscale|scale|'?'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_explained(figure, says):
    with pytest.raises(LabError, match=says):
        plots.draw(made(figure, [{"arm": "a", "p50_us": 1.0}]))


def test_a_result_without_rows_is_explained():
    with pytest.raises(LabError, match="cannot be drawn"):
        plots.draw(made({"kind": "ladder", "x": "p50_us", "xlabel": "µs"}, []))


def test_plots_are_written_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("REDIS_LAB_EFFORT", "quick")
    path = plots.write(SYNTHETIC["ladder"])
    assert path == tmp_path / "local" / "synthetic.png"
    before = path.read_bytes()
    assert before == plots.png(SYNTHETIC["ladder"])
    with pytest.raises(LabError):
        plots.write(made({"kind": "pie"}, []))
    assert path.read_bytes() == before
    plots.write(SYNTHETIC["lines"])
    assert path.read_bytes() == plots.png(SYNTHETIC["lines"]) != before
    assert [file.name for file in path.parent.iterdir()] == ["synthetic.png"]
    monkeypatch.setenv("REDIS_LAB_EFFORT", "full")
    assert plots.write(SYNTHETIC["ladder"]) == tmp_path / "plots" / "synthetic.png"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.06, "0.06 µs"), (120, "120 µs"), (3400, "3.4 ms"), (1.2e6, "1.2 s"), (1000, "1 ms")],
)
def test_microseconds_as_people_say_them(value, text):
    assert plots.human_us(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (20, "20"), (5000, "5k"), (2e6, "2M"), (0, "0")]
)
def test_tick_labels_are_short(value, text):
    assert plots.short(value) == text


def test_spread_keeps_order_and_distance():
    placed = plots.spread([5.0, 5.0, 5.1, 40.0, 4.9], 10)
    ordered = sorted(placed)
    assert all(b - a >= 10 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert placed.index(min(placed)) == 4
    assert plots.spread([1, 100], 10) == [1, 100]
