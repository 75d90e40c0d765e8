"""A measured table with its environment: save it, load it, merge and compare results.

A result is one JSON file for each experiment, and holds one or several runs of it. `make plots`
(effort `full`) writes one run to data/results, `make publish` several; results of lower effort go
to data/local, so that a quick run never overwrites a careful one.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import redis
from hdrh.histogram import HdrHistogram

from ..errors import LabError, explain_rename
from ..files import data_folder, write_whole
from .effort import effort_name
from .environment import cpu_model, describe_environment, describe_server, get_affinity
from .runs import (
    Run,
    align_rows,
    check_mergeable,
    in_blocks,
    key_of,
    median_of,
    summarize_environments,
    summarize_histograms,
    summarize_row,
)
from .stats import FEWEST_RUNS, judge_ratio, ratio_over_runs

__all__ = [
    "Result",
    "Run",
    "compare_results",
    "cpu_model",
    "describe_environment",
    "describe_server",
    "get_affinity",
    "load",
    "make_result",
    "merge",
    "results_folder",
    "save",
    "write",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    raise explain_rename("results", name, {"compare": "compare_results", "of": "make_result"})


FORMAT = 1  # of a file with one run, which earlier versions of the lab read
RUNS_FORMAT = 2  # of a file with several


def results_folder(effort: str | None = None) -> Path:
    """Where this run's results go: data/results at full effort, data/local otherwise."""
    return data_folder() / ("results" if effort_name(effort) == "full" else "local")


@dataclass
class Result:
    """One experiment as measured on one machine, in one run or in several.

    `rows` is a list of flat dictionaries, one for each measured point. `environment` is what
    `describe_environment()` found. `histograms` holds encoded HDR histograms by arm (nanoseconds).
    The result does not say how it is drawn; the lesson's module does. `title` is the figure's title
    at the time of the measurement.

    `runs` are the runs themselves. If there are several, the rows are their means with intervals
    over the runs, the environment holds what they have in common, and the histograms are their
    sums.
    """

    experiment: str
    title: str
    rows: list[dict]
    environment: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    histograms: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = self.runs or [Run(self.rows, self.environment, self.histograms)]

    @property
    def table(self) -> pd.DataFrame:
        """The rows; `table.attrs["runs"]` is how many runs their intervals are over."""
        table = pd.DataFrame(self.rows)
        table.attrs["runs"] = 1 if "shown" in self.environment else len(self.runs)
        return table

    def merge(self, other: Result) -> Result:
        """The runs of both in one result; see `merge`."""
        return merge(self, other)


def _of_runs(experiment: str, title: str, runs: list[Run], notes: list[str]) -> Result:
    """A result of one or several runs."""
    if len(runs) == 1:
        one = runs[0]
        return Result(experiment, title, one.rows, one.environment, notes, one.histograms, runs)
    matched = align_rows(runs)
    environment = summarize_environments(runs)
    if matched is None:  # such as a timeline: no two runs have the same events
        rows, environment["shown"] = runs[0].rows, "first run"
    else:
        rows = [summarize_row(group) for group in matched]
    histograms = summarize_histograms(runs)
    return Result(experiment, title, rows, environment, notes, histograms, runs)


def merge(one: Result, other: Result) -> Result:
    """A result with the runs of both.

    Rows that not every run has are left out of its `rows`. If the rows of the runs cannot be
    matched at all (as in a timeline of events), `rows` are those of the first run.

    Raises: LabError for results of two experiments, of two machines, or under conditions that
    differ (versions, effort, transport, pinning), and if a run is in both.
    """
    if one.experiment != other.experiment:
        raise LabError(
            f"{one.experiment} and {other.experiment} are two experiments; merge runs of one."
        )
    check_mergeable(one.runs, other.runs)
    notes = [*one.notes, *(note for note in other.notes if note not in one.notes)]
    return _of_runs(one.experiment, other.title, [*one.runs, *other.runs], notes)


def to_plain(value: Any) -> Any:
    """A value that JSON can represent: numpy scalars become Python's, NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@runtime_checkable
class Measured(Protocol):
    """An object with rows, histograms and facts about its measurement: a `Comparison`, a `Load`."""

    @property
    def rows(self) -> list[dict[str, Any]]: ...

    def histograms(self) -> dict[str, HdrHistogram]: ...

    def facts(self) -> dict[str, object]: ...


def make_result(
    experiment: str,
    measured: Measured | Sequence[Mapping],
    *,
    title: str,
    client: redis.Redis | None = None,
    notes: Sequence[str] = (),
    histograms: Mapping[str, HdrHistogram] | None = None,
    **more: object,
) -> Result:
    """A result made from a comparison or a load (its rows and histograms), or from your own rows.

    `histograms` (in nanoseconds, by name) are stored too, because histograms add up over runs and
    percentiles do not.
    """
    kept = dict(histograms or {})
    if isinstance(measured, Measured):
        more, kept = measured.facts() | more, measured.histograms() | kept
        measured = measured.rows
    return Result(
        experiment=experiment,
        title=title,
        rows=[to_plain(dict(row)) for row in measured],
        environment=to_plain(describe_environment(client, **more)),
        notes=list(notes),
        histograms={
            name: base64.b64encode(histogram.encode()).decode() for name, histogram in kept.items()
        },
    )


def save(result: Result, folder: Path | None = None) -> Path:
    """Write the result's file into a folder, `results_folder()` by default; return its path.

    Raises: LabError when the disk is full or the folder cannot be written.
    """
    return write(result, (folder or results_folder()) / f"{result.experiment}.json")


def write(result: Result, path: Path) -> Path:
    """Write the result to a file, atomically; return its path. Raises: LabError as `save`."""
    content: dict[str, Any] = asdict(result)
    if len(result.runs) > 1:  # what follows from the runs is computed when it is loaded
        kept = ("experiment", "title", "notes", "runs")
        content = {name: content[name] for name in kept} | {"format": RUNS_FORMAT}
    else:
        del content["runs"]
        content["format"] = FORMAT
    text = json.dumps(to_plain(content), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())
    return path


def load(path: Path | str) -> Result:
    """Read a result, of one run or of several.

    Older files hold, under `figure`, how they were drawn when they were measured; it is ignored.

    Raises: LabError for a file that is absent, damaged or of another format.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())  # UTF-8, whatever the locale
        version = content.pop("format")
        if version not in (FORMAT, RUNS_FORMAT):
            raise LabError(
                f"{path.name} has format {version}, this version of the lab reads {FORMAT} and "
                f"{RUNS_FORMAT}. Measure it again: make plots."
            )
        content.pop("figure", None)
        if version == FORMAT:
            return _checked(Result(**content))
        runs = [_checked_run(Run(**run)) for run in content.pop("runs")]
        if not runs:
            raise TypeError("it has no runs")
        return _checked(_of_runs(**content, runs=runs))
    except FileNotFoundError as error:
        raise LabError(f"There is no result {path}. Make it with: make plots.") from error
    except OSError as error:
        raise LabError(
            f"{path} could not be read: {error.strerror}. Name a result's file that you may read."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(
            f"{path.name} is not a result of the lab ({error}). Measure it again: make plots."
        ) from error


def _check_types(thing: object, kinds: Mapping[str, type]) -> None:
    for name, kind in kinds.items():
        if not isinstance(getattr(thing, name), kind):
            raise TypeError(f"{name} is no {kind.__name__}")


def _checked(result: Result) -> Result:
    """Returns the argument. Raises: TypeError if a field or a row's medians have a wrong type."""
    _check_types(result, {"experiment": str, "title": str, "notes": list})
    if not all(isinstance(note, str) for note in result.notes):
        raise TypeError("a note is no str")
    for run in result.runs:
        _checked_run(run)
    return result


def _checked_run(run: Run) -> Run:
    """Returns the argument. Raises: TypeError as `_checked`."""
    _check_types(run, {"rows": list, "environment": dict, "histograms": dict})
    for row in run.rows:
        if not isinstance(row, dict):
            raise TypeError("a row is no dict")
        medians = row.get("block_medians_us") or []
        if not isinstance(medians, list) or not all(isinstance(m, int | float) for m in medians):
            raise TypeError("a row's block_medians_us are no list of numbers")
    if not all(isinstance(text, str) for text in run.histograms.values()):
        raise TypeError("a histogram is no str")
    return run


def compare_results(old: Result, new: Result) -> pd.DataFrame:
    """Compare two results: medians, their ratio, and the verdict that their runs allow.

    Each run counts as one number for each row: the median of its blocks' medians. The verdict rests
    on an interval of the ratio over runs (`stats.ratio_over_runs`: Welch's, corrected for the
    number of rows, so that all intervals hold together with 95 %). A verdict needs five runs on
    each side; with fewer, the table shows the medians and says that the runs cannot tell.

    Rows that only one result has, or that were not measured in blocks, are left out.

    Raises: LabError when the two have nothing in common.
    """
    before, after = _medians_of(old), _medians_of(new)
    common = [key for key in after if key in before]
    rows = []
    for key in common:
        a, b = before[key], after[key]
        ratio, low, high = ratio_over_runs(a, b, pairs=len(common))
        fewest = min(len(a), len(b))
        enough = fewest >= FEWEST_RUNS
        few = "one run" if fewest == 1 else f"{fewest} runs"
        rows.append(
            {
                "what": ", ".join(f"{v}" if k == "arm" else f"{k} {v}" for k, v in key),
                "first µs": round(float(np.exp(np.mean(np.log(a)))), 2),
                "second µs": round(float(np.exp(np.mean(np.log(b)))), 2),
                "runs": f"{len(a)}, {len(b)}",
                "ratio": round(ratio, 3),
                "interval": f"[{low:.3f}, {high:.3f}]" if enough else "–",
                "says": judge_ratio(low, high) if enough else f"{few} cannot tell",
            }
        )
    if not rows:
        raise LabError(
            f"{old.experiment} and {new.experiment} have no measured point in common; "
            "compare two results of the same experiment."
        )
    return pd.DataFrame(rows)


def describe_comparison(old: Result, new: Result, frame: pd.DataFrame) -> str:
    """A sentence that explains the intervals and verdicts of `compare_results`."""
    if min(len(old.runs), len(new.runs)) < FEWEST_RUNS:
        return (
            f"What varies most is the run, so a verdict needs {FEWEST_RUNS} runs on each side: "
            f"redis-lab publish {new.experiment} --runs {FEWEST_RUNS}"
        )
    return (
        f"Intervals: 95 % over runs for all {len(frame)} rows together (Welch's, of the logarithms "
        "of the runs' medians, corrected by Bonferroni)."
    )


def _medians_of(result: Result) -> dict[tuple, list[float]]:
    """For each row that was measured in blocks, the medians of the runs that have it, in µs."""
    found: dict[tuple, list[float]] = {}
    for run in result.runs:
        medians = {key_of(row): median_of(row) for row in run.rows if in_blocks(row)}
        for key, value in medians.items():
            found.setdefault(key, []).append(value)
    return found
