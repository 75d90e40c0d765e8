"""Several runs of one experiment: how they are joined, and how their rows become one table.

The variation between two runs (placement on cores, memory layout, other processes) is larger than
the variation within one. So the run is the unit: intervals are over runs, and each run counts as
one number.

- Andy Georges, Dries Buytaert, Lieven Eeckhout: Statistically rigorous Java performance evaluation.
  OOPSLA 2007: one number for each invocation of the whole process, and Student's t over these.
- Tomas Kalibera, Richard Jones: Rigorous benchmarking in reasonable time. ISMM 2013: repeat at the
  highest level at which something varies.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from ..errors import LabError
from .stats import FEWEST_RUNS, interval_over_runs, judge_ratio

# What must agree between two runs of one result, by the words of the error; unknown agrees with all
MACHINE = ("cpu", "cores", "memory_gb", "system")
CONDITIONS = (
    *("effort", "server", "server_version", "transport", "protocol", "parser"),
    *("python", "redis_py", "pinned"),
)
# Columns with measured values; all other columns say what was measured
MEASURED = {
    *("calls", "units", "round_trips", "commands", "ratio", "ratio_low", "ratio_high", "verdict"),
    *(f"{q}{end}_us" for q in ("p50", "p99") for end in ("", "_low", "_high")),
    *("mean_us", "per_unit_us", "per_unit_low_us", "per_unit_high_us", "achieved_ms"),
}


@dataclass
class Run:
    """One run: its rows, its environment, and its encoded HDR histograms by arm."""

    rows: list[dict]
    environment: dict = field(default_factory=dict)
    histograms: dict[str, str] = field(default_factory=dict)

    @property
    def when(self) -> str | None:
        """The moment it was measured (ISO 8601, UTC)."""
        return self.environment.get("when")

    @property
    def seed(self) -> int | None:
        """The seed of the experiment's random numbers; None if it has none."""
        return self.environment.get("seed")


def key_of(row: Mapping) -> tuple:
    """The key of a row: its arm, and the values of the columns that the experiment varied."""
    return tuple(
        (name, value)
        for name, value in row.items()
        if name not in MEASURED and not isinstance(value, list) and not name.startswith("theory")
    )


def in_blocks(row: Mapping) -> bool:
    """Whether `compare` measured it, in more than one block."""
    return len(row.get("block_medians_us") or ()) > 1


def median_of(row: Mapping) -> float:
    """The number that a run counts as for a row: the median of its blocks' medians, in µs."""
    return float(np.median(row["block_medians_us"]))


def interval_columns(column: str) -> tuple[str, str]:
    """The columns that hold the interval of a column: p50_us has p50_low_us and p50_high_us."""
    stem, _, unit = column.rpartition("_")
    return f"{stem}_low_{unit}", f"{stem}_high_{unit}"


def check_mergeable(one: Sequence[Run], other: Sequence[Run]) -> None:
    """Raises: LabError if the runs differ in machine or conditions, or if a run is in both."""
    if any(run in one for run in other):
        raise LabError("A run is in both results; counted twice it would look like two.")
    for names, what in ((MACHINE, "on another machine"), (CONDITIONS, "under other conditions")):
        for name in names:
            known = _known(name, [*one, *other])
            for value in known:
                if value != known[0]:
                    raise LabError(
                        f"One was measured {what}: {name} is {known[0]!r} in one and {value!r} "
                        "there."
                    )


def _known(name: str, runs: Sequence[Run]) -> list[Any]:
    """The known values of one entry in the environments of the runs."""
    values = (run.environment.get(name) for run in runs)
    return [value for value in values if value is not None]


def summarize_environments(runs: Sequence[Run]) -> dict[str, Any]:
    """The environment of several runs: the values that they have in common, `when` of the first,
    and a list for each value that differs. An unknown value agrees with all.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run.environment):
        known = _known(name, runs)
        if name == "when" or all(value == known[0] for value in known):
            found[name] = known[0] if known else None
        else:
            found[name] = [run.environment.get(name) for run in runs]
    return found | {"runs": len(runs)}


def summarize_histograms(runs: Sequence[Run]) -> dict[str, str]:
    """The sum of each arm's histograms."""
    sums: dict[str, HdrHistogram] = {}
    for run in runs:
        for name, encoded in run.histograms.items():
            one = HdrHistogram.decode(base64.b64decode(encoded))
            if name in sums:
                sums[name].add(one)
            else:
                sums[name] = one
    return {name: base64.b64encode(sums[name].encode()).decode() for name in sums}


def align_rows(runs: Sequence[Run]) -> list[tuple[dict, ...]] | None:
    """The rows that measure the same thing, one from each run; None if they cannot be matched.

    Rows match by position, if all their text columns agree. Otherwise (they were sorted by time, or
    some are missing) they match by key, if each row of a run has a different key: `key_of` for rows
    that `compare` measured, the text columns for others. Rows that are not in every run are then
    left out.
    """
    tables = [run.rows for run in runs]
    if len({len(rows) for rows in tables}) == 1:
        matched = list(zip(*tables, strict=True))
        if all(len({_words(row) for row in group}) == 1 for group in matched):
            return matched
    keyed = [
        {key_of(row) if in_blocks(row) else _words(row): row for row in rows} for rows in tables
    ]
    if any(len(named) < len(rows) for named, rows in zip(keyed, tables, strict=True)):
        return None
    common = [key for key in keyed[0] if all(key in rows for rows in keyed)]
    return [tuple(rows[key] for rows in keyed) for key in common] or None


def _words(row: Mapping) -> tuple:
    return tuple(
        (name, value if isinstance(value, str | bool) and name not in MEASURED else None)
        for name, value in row.items()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def summarize_row(group: Sequence[Mapping]) -> dict[str, Any]:
    """One row for several runs: each number is the mean of the runs, with an interval over the
    runs.
    """
    found: dict[str, Any] = {}
    names = list(group[0])
    ends = {
        end for name in names for end in (*interval_columns(name), f"{name}_low", f"{name}_high")
    }
    for name in names:
        values: list[Any] = [row.get(name) for row in group]
        if isinstance(values[0], list) or (name in ends and name in found):
            continue
        if not all(_is_number(value) for value in values):
            same = all(value == values[0] for value in values)
            found[name] = values[0] if same else None
            continue
        low_name, high_name = interval_columns(name)
        if f"{name}_low" in names:
            low_name, high_name = f"{name}_low", f"{name}_high"
        if name in ends or all(value == values[0] for value in values):
            found[name] = values[0]
            if name not in ends and low_name in names:
                found[low_name] = found[high_name] = values[0]
            continue
        found[name], found[low_name], found[high_name] = interval_over_runs(values)
    if "verdict" in names and group[0]["verdict"]:
        enough = len(group) >= FEWEST_RUNS
        told = judge_ratio(found["ratio_low"], found["ratio_high"])
        found["verdict"] = told if enough else f"{len(group)} runs cannot tell"
    if all(in_blocks(row) for row in group):
        found["run_medians_us"] = [round(median_of(row), 4) for row in group]
    return found


def name_interval(runs: int) -> str:
    """What an interval over `runs` runs in a table or figure is, in words."""
    if runs == 1:
        return "within this run"
    return f"95 % over {runs} runs" if runs >= FEWEST_RUNS else f"range of the {runs} runs"
