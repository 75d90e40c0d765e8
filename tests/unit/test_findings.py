"""What a figure shows, in sentences: the findings, from the same numbers as the picture."""

from __future__ import annotations

import math

import pytest

from redis_lab import figures, findings, lessons, results
from redis_lab.errors import LabError
from redis_lab.files import data_folder
from redis_lab.measure.results import Result


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0904, "µs", "0.0904 µs"),
        (999.7, "µs", "1 ms"),
        (2512.4, "µs", "2.51 ms"),
        (171_583, "µs", "172 ms"),
        (3_000_000, "µs", "3 s"),
        (12_304, "bytes", "12,304 bytes"),
        (5830.4, "", "5,830"),
        (-0.338, "%", "-0.338 %"),
        (0, "s", "0 s"),
        (109.6, "µs", "110 µs"),
    ],
)
def test_values_have_their_units_and_three_digits(value, unit, said):
    assert findings.name_value(value, unit) == said


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("time for one GET (µs, log scale)", ("time for one GET", "µs")),
        ("used memory (MB)", ("used memory", "MB")),
        ("ms, log scale", ("ms", "ms")),
        ("bytes for each key", ("bytes for each key", "bytes")),
        ("hit ratio (of 500 requests)", ("hit ratio (of 500 requests)", "")),
        ("β", ("β", "")),
    ],
)
def test_a_label_is_a_quantity_and_a_unit(label, parts):
    assert findings.split_label(label) == parts


def test_arms_are_ranked_and_the_ends_compared():
    said = findings.rank({"loop": 12_900, "pipeline": 652.0, "PING, bare socket": 84.1}, "µs")
    assert said == (
        "From fast to slow: PING, bare socket 84.1 µs; pipeline 652 µs; loop 12.9 ms. "
        "The last takes 150 times the first."
    )
    assert findings.rank({"a": 3, "b": 1.5}, "bytes").endswith("The last is 2 times the first.")
    assert findings.rank({"alone": 3}, "ms") == "alone 3 ms."
    assert "times" not in findings.rank({"a": 100, "b": 101}, "µs")


@pytest.mark.parametrize(
    ("ys", "span", "said"),
    [
        ([1, 5, 9], 8, "rises from 1 to 9"),
        ([9, 5, 1], 8, "falls from 9 to 1"),
        ([5, 5.1, 5], 100, "stays at 5 to 5.1"),
        ([7, 7, 7], 0, "stays at 7"),
        ([0, 10, 2], 10, "rises from 0 to 10 at 20, then falls to 2"),
        ([1, 10, 1, 11], 10, "rises from 1 to 10 at 20, then falls to 1 at 30, then rises to 11"),
        ([0, 9, 0, 9, 0, 9, 0], 9, "goes up and down between 0 and 9"),
        ([100, 1, 90], 0, "falls from 100 to 1 at 20, then rises to 90"),
        ([4], 0, "is 4 at 10"),
        ([1, 1000, 990, 1_000_000], 0, "rises from 1 to 1,000,000"),
    ],
)
def test_which_way_a_line_goes(ys, span, said):
    points = {10.0 * k: y for k, y in enumerate(ys, 1)}
    assert findings.course(points, "", "", span) == said


def test_where_two_lines_cross():
    cache = dict.fromkeys((10, 100, 1000, 10_000), 150)
    query = {10: 10, 100: 100, 1000: 1000, 10_000: 10_000}
    near = {x: 151 for x in cache}
    assert findings.crossings({"cache": cache, "query": query, "the same": near}, "µs") == [
        "query is below cache up to 100 µs, and above it from 1 ms",
        "query is below the same up to 100 µs, and above it from 1 ms",
    ]
    assert findings.crossings({"cache": cache, "twice": {x: 300 for x in cache}}, "µs") == []


def test_how_far_the_points_are_from_the_theory():
    assert findings.distance([100, 102, 120], [100, 100, 100]) == (
        "half of the points within 2 %, all within 20 %"
    )
    assert findings.distance([1, 1.001], [1, 1]) == "all points within 1 %"
    assert findings.distance([1, 2], [math.nan, math.nan]) == ""


def test_what_happened_in_a_lane():
    events = [(0.5, "killed"), (0.1, "sent"), (0.4, "sent"), (0.2, "sent")]
    assert findings.happened(events, "s") == "3 × sent from 0.1 s to 0.4 s; killed at 0.5 s"


EVERY = sorted(lessons.load_figures())


@pytest.mark.parametrize("experiment", EVERY)
def test_every_committed_figure_says_what_it_shows(experiment):
    """Its title, then findings: each series or arm by its name, with numbers, in few words."""
    result = results.load(data_folder() / "results" / f"{experiment}.json")
    chart = lessons.find_figure(experiment)
    said = figures.describe(result, chart)
    assert said.startswith(chart.title) and "nan" not in said
    found = said.removeprefix(chart.title)
    assert sum(letter.isdigit() for letter in found) > 5 and 80 < len(found) < 1200
    if isinstance(chart, figures.Lines):
        names = result.table.dropna(subset=[chart.y])[chart.by]
    elif isinstance(chart, figures.DotPlot):
        names = result.table[chart.by]
    elif isinstance(chart, figures.Timeline):
        names = result.table.dropna(subset=[chart.x])[chart.lane]
    else:
        return
    assert not [name for name in names.unique() if str(name) not in found]


def test_what_is_said_follows_the_data():
    chart = figures.DotPlot(title="Which is faster?", x="p50_us", xlabel="time (µs, log scale)")
    rows = [{"arm": "a", "p50_us": 5.0}, {"arm": "b", "p50_us": 50.0}]
    said = figures.describe(Result("x", "", rows, {"effort": "quick"}), chart)
    assert said == (
        "Which is faster? Time. From fast to slow: a 5 µs; b 50 µs. "
        "The last takes 10 times the first. (quick effort)"
    )
    rows[0]["p50_us"] = 500.0
    assert "b 50 µs; a 500 µs" in figures.describe(Result("x", "", rows), chart)
    with pytest.raises(LabError, match="x cannot be drawn as DotPlot"):
        figures.describe(Result("x", "", [{"arm": "a"}]), chart)
