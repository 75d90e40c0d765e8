"""The calculators' Vega expressions are the formulas of `theory`, evaluated by Vega itself.

vl-convert runs Vega without a browser. Each test takes a calculator's own specification, sets its
fields as a reader would, and draws as texts the numbers that Vega has worked out.
tests/browser/test_calculators_in_chromium.py moves the fields themselves.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import pytest
import vl_convert

from redis_lab import calculators, copies, toc
from redis_lab.calculators.chart import MIME, VEGA_LITE
from redis_lab.errors import LabError
from redis_lab.measure import theory
from redis_lab.measure.workload import Zipf

Spec = dict[str, Any]
TAUGHT = [lesson for lesson in toc.read_toc() if lesson.name in calculators.CALCULATORS]


@cache
def spec_of(name: str) -> Spec:
    return calculators.calculator(name).spec


def texts(spec: Spec) -> Iterator[str]:
    """The texts that Vega draws, in order of its scenegraph."""

    def walk(item: Any) -> Iterator[str]:
        if isinstance(item, dict):
            if item.get("marktype") == "text" and item.get("role") == "mark":
                for text in item["items"]:
                    drawn = text.get("text", "")
                    yield "\n".join(drawn) if isinstance(drawn, list) else drawn
            for value in item.values():
                yield from walk(value)
        elif isinstance(item, list):
            for value in item:
                yield from walk(value)

    yield from walk(vl_convert.vegalite_to_scenegraph(spec, vl_version=VEGA_LITE)["scenegraph"])


def with_fields(name: str, fields: Mapping[str, object]) -> Spec:
    """A calculator's specification with other values in its fields."""
    spec = copy.deepcopy(spec_of(name))
    for param in spec["params"]:
        field = param["name"].removesuffix("_field")
        if "bind" in param and field in fields:
            param["value"] = fields[field]
    return spec


def numbers(name: str, fields: Mapping[str, object], *wanted: str) -> list[float]:
    """What Vega works out for these fields: values by their names."""
    spec = with_fields(name, fields)
    text = " + ' ' + ".join(wanted)
    spec["layer"] = [
        {
            "data": {"values": [{}]},
            "transform": [{"calculate": f"'' + {text}", "as": "text"}],
            "mark": "text",
            "encoding": {"text": {"field": "text", "type": "nominal"}},
        }
    ]
    [drawn] = texts({key: spec[key] for key in ("$schema", "params", "layer")})
    return [float(number.replace("Infinity", "inf")) for number in drawn.split()]


def rows(name: str, fields: Mapping[str, object], layer: str, *wanted: str) -> list[list[float]]:
    """What Vega works out for a layer of the chart: its data, each row as a list of columns."""
    spec = with_fields(name, fields)
    [found] = [each for each in spec["layer"] if each.get("name") == layer]
    found["transform"] = [
        *found.get("transform", []),
        {"calculate": " + ' ' + ".join(f"datum.{column}" for column in wanted), "as": "all"},
    ]
    found |= {"mark": "text", "encoding": {"text": {"field": "all", "type": "nominal"}}}
    spec["layer"] = [found]
    kept = {key: spec[key] for key in ("$schema", "params", "layer", "datasets") if key in spec}
    return [[float(number) for number in drawn.split()] for drawn in texts(kept)]


def grid(**values: Sequence[float]) -> Iterator[dict[str, float]]:
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))


close = pytest.approx


# ---------------------------------------------------------------- expressions and formulas


def test_pipelines():
    for at in grid(rtt_ms=(0.1, 2, 80), service_us=(3, 40), depth=(1, 100, 5000)):
        per_us, faster, bend = numbers("pipelines", at, "per_us", "faster", "bend")
        rtt_s, service_s = at["rtt_ms"] / 1e3, at["service_us"] / 1e6
        formula = theory.pipelined(at["depth"], rtt_s, service_s)
        assert per_us == close(1e6 * formula)
        assert faster == close(theory.pipelined(1, rtt_s, service_s) / formula)
        if bend >= 1:  # there half the time is distance
            assert theory.pipelined(bend, rtt_s, service_s) == close(2 * service_s)
    curve = rows("pipelines", {"rtt_ms": 7, "service_us": 4}, "curve", "depth", "per_us")
    assert len(curve) > 100
    assert curve[0][0] == 1 and curve[-1][0] == close(100_000)
    for depth, per_us in curve:
        assert per_us == close(1e6 * theory.pipelined(depth, 0.007, 4e-6))


def test_cache_aside():
    for at in grid(rtt_ms=(0, 0.5, 25), query_ms=(0.01, 3, 400), hits_percent=(0, 90, 99.9)):
        names = ("hit_ms", "fill_ms", "answer_ms", "needed")
        hit, fill, answer, needed = numbers("cache_aside", at, *names)
        assert hit > at["rtt_ms"] and fill > at["rtt_ms"]
        costs = at["query_ms"] / 1e3, hit / 1e3, fill / 1e3
        assert answer == close(1e3 * theory.cached(at["hits_percent"] / 100, *costs))
        enough = theory.break_even(*costs)
        assert needed == (2 if math.isinf(enough) else close(enough))
    fields = {"rtt_ms": 1, "hits_percent": 80}
    [hit, fill] = numbers("cache_aside", fields, "hit_ms", "fill_ms")
    for query, answer in rows("cache_aside", fields, "curve", "query_ms", "answer_ms"):
        assert answer == close(1e3 * theory.cached(0.8, query / 1e3, hit / 1e3, fill / 1e3))


def test_stampede():
    for at in grid(beta=(0.25, 1, 4), took_ms=(20, 3000), reads=(500, 90_000)):
        names = ("made", "lead_s", "late", "unprotected")
        made, lead, late, unprotected = numbers("stampede", {**at, "ttl_s": 600}, *names)
        took = at["took_ms"] / 1000
        assert made == close(theory.xfetch(at["beta"]))
        if at["reads"] * at["beta"] * took >= 5:  # else the text says that the reads are too few
            assert lead == close(theory.xfetch_lead(at["reads"], took, at["beta"]), rel=1e-3)
        expected_late = theory.xfetch_late(at["reads"], took, at["beta"])
        assert late == close(expected_late, rel=1e-4, abs=1e-9)
        assert unprotected == close(1 + at["reads"] * took)
    for beta, made in rows("stampede", {}, "curve", "beta", "made"):
        assert made == close(theory.xfetch(beta))


def test_load():
    for at in grid(service_ms=(0.05, 2), busy=(0.1, 0.6, 0.95), spread=(0, 1.5), retries=(0, 3)):
        rate, service_s = 1000 * at["busy"] / at["service_ms"], at["service_ms"] / 1000
        fields = {**at, "rate": rate}
        names = ("times", "batch_times", "worst_busy", "worst_times", "knee", "knee_rate")
        times, turns, worst_busy, worst, knee, knee_rate = numbers("load", fields, *names)
        square = service_s**2 * (1 + at["spread"] ** 2)
        assert times * service_s == close(theory.mg1(rate, service_s, square))
        assert turns * service_s == close(theory.batch(rate, service_s, square))
        retried = rate * (1 + at["retries"])
        assert worst_busy == close(retried * service_s)
        slow = theory.batch(retried, service_s, square)
        assert worst == 1e9 if math.isinf(slow) else worst * service_s == close(slow)
        assert knee == close(theory.knee(at["spread"]))
        assert knee_rate * service_s == close(theory.knee(at["spread"]))
    for layer, column, formula in (
        ("curve", "times", theory.mg1),
        ("batch", "batch_times", theory.batch),
    ):
        drawn = rows("load", {"spread": 0.7}, layer, "busy_percent", column)
        assert len(drawn) > 100
        for busy, times in drawn:
            assert times == close(formula(busy / 100, 1, 1 + 0.7**2))


def test_memory():
    for keys, exponent in ((500, 0.6), (20_000, 1.2)):
        p = Zipf(keys, exponent).probabilities
        fields = {"keys": keys, "exponent": exponent}
        for layer, formula in (("random", theory.random), ("lru", theory.lru)):
            drawn = rows("memory", fields, layer, "share", "percent")
            within = [row for row in drawn if 0.2 < row[0] < 99]
            assert len(within) > 20 and within == sorted(within)
            for share, percent in within[::7]:
                assert percent == close(100 * formula(p, share / 100 * keys), abs=0.15)


def test_the_memory_that_is_named_gives_the_hits_that_are_wanted():
    p = Zipf(30_000, 0.9).probabilities
    for wanted in (60, 95):
        fields = {"wanted_percent": wanted, "keys": 30_000, "exponent": 0.9, "bytes": 1000}
        [[random_mb, lru_mb]] = rows("memory", fields, "answer", "random_mb", "lru_mb")
        assert 100 * theory.random(p, random_mb * 1000) == close(wanted, abs=0.25)
        assert 100 * theory.lru(p, lru_mb * 1000) == close(wanted, abs=0.25)
        assert lru_mb < random_mb


# ---------------------------------------------------------------- fields, texts, limits


def answer(name: str, **fields: object) -> str:
    """The text above the chart."""
    return "\n".join(text for text in texts(with_fields(name, fields)) if len(text) > 15)


def test_a_field_holds_text_and_nonsense_counts_as_the_default():
    assert numbers("pipelines", {"rtt_ms": "4", "service_us": "5"}, "bend") == [800]
    for nonsense in ("", "four", None, "-"):
        assert numbers("pipelines", {"rtt_ms": nonsense, "service_us": 5}, "bend") == [400]
    assert numbers("pipelines", {"rtt_ms": -3}, "rtt_ms") == [0.01]
    assert numbers("pipelines", {"rtt_ms": "1e9"}, "rtt_ms") == [1000]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("pipelines", {}, {"depth": 5000}),
        ("pipelines", {"rtt_ms": 20}, {"rtt_ms": 200}),
        ("cache_aside", {}, {"rtt_ms": 20}),
        ("cache_aside", {"hits_percent": 60}, {"hits_percent": 20}),
        ("stampede", {}, {"beta": 4}),
        ("stampede", {"reads": 100}, {"reads": 1}),
        ("load", {}, {"rate": 950}),
        ("load", {"spread": 0.3}, {"spread": 2}),
        ("memory", {"wanted_percent": 80}, {"wanted_percent": 95}),
    ],
)
def test_what_was_not_measured_is_said(name, inside, outside):
    assert re.search(r"^Measured: .*\d", answer(name, **inside), flags=re.M)
    assert re.search(r"^Outside what was measured: .*\d", answer(name, **outside), flags=re.M)


def test_the_coloured_part_of_a_curve_ends_where_the_measurements_do():
    depths = [depth for depth, _ in rows("pipelines", {}, "measured", "depth", "per_us")]
    assert len(depths) > 20
    drawn = rows("pipelines", {}, "curve_checked", "depth", "per_us")
    assert 0.9 * max(depths) < max(depth for depth, _ in drawn) <= max(depths)
    assert rows("pipelines", {"rtt_ms": 300}, "curve_checked", "depth", "per_us") == []


@pytest.mark.parametrize("name", calculators.CALCULATORS)
def test_a_chart_can_be_read_by_everybody(name):
    """A text for those who do not see it, a label for each field, lines that fit a narrow page."""
    spec = spec_of(name)
    assert len(spec["description"]) > 120
    fields = [param for param in spec["params"] if "bind" in param]
    assert fields and all(len(field["bind"]["name"]) > 0 for field in fields)
    text = answer(name)
    assert "undefined" not in text and "NaN" not in text and "null" not in text
    assert 4 <= len(text.splitlines()) <= 6 and max(map(len, text.splitlines())) <= 80
    [data, metadata] = calculators.calculator(name)._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == spec["description"]
    assert len(json.dumps(data[MIME])) + 4 / 3 * len(data["image/png"]) < 60_000


def test_a_dark_jupyterlab_changes_no_colour():
    """JupyterLab sets a theme of Vega; with half of its colours a text would be white on white."""
    spec = spec_of("load")
    light, dark = (
        vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, theme=theme)
        for theme in (None, "dark")
    )
    assert "knee" in light and set(re.findall("<text[^>]* fill=.(.*?)[\"']", light)) == {"black"}
    assert re.sub(r"clip\d+", "", dark) == re.sub(r"clip\d+", "", light)


def test_each_calculator_belongs_to_a_lesson_in_order():
    assert [lesson.name for lesson in TAUGHT] == list(calculators.CALCULATORS)
    with pytest.raises(LabError, match="pipelines"):
        calculators.calculator("cache")


def shape(thing: Any) -> Any:
    """A specification without what depends on the measured values."""
    if isinstance(thing, dict):
        return {k: shape(v) for k, v in thing.items() if k not in ("values", "datasets")}
    if isinstance(thing, list):
        return [shape(each) for each in thing]
    text = thing if isinstance(thing, str) else json.dumps(thing)
    return re.sub(r"[\d.e+-]+", "#", text)


@pytest.mark.parametrize("lesson", TAUGHT, ids=lambda lesson: lesson.name)
def test_the_committed_chart_is_the_one_that_the_package_draws(lesson):
    """nbval does not compare these outputs: what was measured is another on each machine."""
    cells = copies.read_notebook(lesson.find())["cells"]
    [cell] = [cell for cell in cells if "lab.calculator(" in "".join(cell["source"])]
    [output] = cell["outputs"]
    assert f'lab.calculator("{lesson.name}")' in "".join(cell["source"])
    assert shape(output["data"][MIME]) == shape(spec_of(lesson.name))
    assert output["metadata"]["image/png"]["alt"] == spec_of(lesson.name)["description"]
