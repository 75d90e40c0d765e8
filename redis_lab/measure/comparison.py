"""The result of `compare`: the samples of every arm, and the tables made from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import redis
from hdrh.histogram import HdrHistogram

from . import results
from .arms import ArmRun
from .effort import EFFORTS
from .stats import (
    block_interval,
    block_range,
    judge_ratio,
    make_histogram,
    median,
    median_ratio,
    percentile,
)

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure


class Comparison:
    """The samples of every arm, and the tables made from them.

    `reference` is the arm that the others are compared with. `harness_ns` is the time that the
    harness adds to a call; `loop_ns` is the time of one pass through the event loop, if there are
    asynchronous arms.
    """

    doubt = ""  # why these times mean nothing; empty if they are valid

    def __init__(
        self,
        runs: Sequence[ArmRun],
        samples: Sequence[np.ndarray],
        harness_ns: float,
        *,
        effort: str = "quick",
        reference: str | None = None,
        loop_ns: float | None = None,
        client: Any = None,
    ) -> None:
        self.arms = {each.name: each for each in runs}
        self.samples = {each.name: s for each, s in zip(runs, samples, strict=True)}
        self.harness_ns, self.loop_ns = harness_ns, loop_ns
        self.effort = effort
        self.reference = reference or next(iter(self.arms))
        self.client = client

    def __getitem__(self, name: str) -> np.ndarray:
        """One arm's samples, in nanoseconds, one row for each block."""
        return self.samples[name]

    def percentile_us(self, name: str, q: float) -> float | None:
        """A percentile in microseconds, or None with fewer than a hundred samples beyond it."""
        found = percentile(self.samples[name], q)
        return None if found is None else found / 1e3

    def median_us(self, name: str) -> float:
        """The median time of one call of an arm, in µs."""
        return median(self.samples[name]) / 1e3

    def ratio(self, slow: str, fast: str) -> float:
        """How many times longer `slow` takes than `fast`: the ratio of the medians."""
        return self.median_us(slow) / self.median_us(fast)

    def ratio_interval(self, slow: str, fast: str) -> tuple[float, float]:
        """How far `ratio` varies within this run, with paired blocks: see `block_interval`."""
        return block_interval(
            median_ratio, self.samples[slow], self.samples[fast], resamples=self._resamples
        )

    @property
    def _resamples(self) -> int:
        return EFFORTS[self.effort].resamples

    def histogram(self, name: str) -> HdrHistogram:
        """An HDR histogram in nanoseconds, three digits; histograms of several runs add up.

        Raises: InvalidRun for a call that took ten minutes or more.
        """
        return make_histogram(self.samples[name], name)

    def row(self, name: str, reference: str) -> dict[str, object]:
        """A row of the table: the measurements of one arm, with its ratio to another."""
        each, samples = self.arms[name], self.samples[name]
        low, high = block_range(samples)
        row: dict[str, Any] = {
            "arm": name,
            **each.arm.columns,
            "round_trips": each.round_trips,
            "commands": each.commands,
            "calls": samples.size,
            "units": each.arm.units,
            "p50_us": self.median_us(name),
            "p50_low_us": low / 1e3,
            "p50_high_us": high / 1e3,
            "mean_us": float(samples.mean()) / 1e3,
        }
        for column in ("p50", "p50_low", "p50_high"):
            each_unit = column.replace("p50", "per_unit")
            row[f"{each_unit}_us"] = row[f"{column}_us"] / each.arm.units
        row["p99_us"] = self.percentile_us(name, 99)
        p99 = (float("nan"),) * 2
        if row["p99_us"] is not None:
            p99 = block_interval(
                lambda s: float(np.percentile(s, 99)), samples, resamples=self._resamples
            )
        row["p99_low_us"], row["p99_high_us"] = (bound / 1e3 for bound in p99)
        ratio = (1.0, 1.0) if name == reference else self.ratio_interval(name, reference)
        row["ratio"] = self.ratio(name, reference)
        row["ratio_low"], row["ratio_high"] = ratio
        row["verdict"] = "" if name == reference else judge_ratio(*ratio)
        row["block_medians_us"] = [round(float(m) / 1e3, 4) for m in np.median(samples, axis=1)]
        return row

    @cached_property
    def rows(self) -> list[dict[str, object]]:
        """One dictionary for each arm; the ratios are to the reference arm."""
        return [self.row(name, self.reference) for name in self.arms]

    def to_frame(self) -> pd.DataFrame:
        """The rows as numbers, indexed by arm: times in microseconds, `ratio` to the reference arm.
        The columns `_low` and `_high` say how far each varies within this run.
        """
        return pd.DataFrame(self.rows).set_index("arm")

    def table(self) -> pd.DataFrame:
        """The arms as a table for reading: medians and p99 in microseconds with their intervals."""
        frame = self.to_frame()
        shown = pd.DataFrame(index=frame.index)
        for column in ("round_trips", "calls"):
            whole = frame[column].astype("Int64").astype(object)  # a bare socket's are not counted
            shown[column.replace("_", " ")] = whole.where(frame[column].notna(), "–")
        for q in ("p50", "p99"):
            shown[f"{q} µs"] = [
                "–" if pd.isna(v) else f"{v:,.1f}  [{lo:,.1f}, {hi:,.1f}]"
                for v, lo, hi in frame[[f"{q}_us", f"{q}_low_us", f"{q}_high_us"]].to_numpy(float)
            ]
        first = self.reference == next(iter(self.arms))
        shown["against the first" if first else f"against {self.reference}"] = frame["verdict"]
        return shown

    def histograms(self) -> dict[str, HdrHistogram]:
        """`histogram` of each arm."""
        return {name: self.histogram(name) for name in self.arms}

    def facts(self) -> dict[str, object]:
        """The harness in a result's environment: the effort and the harness's own costs."""
        facts: dict[str, object] = {"effort": self.effort, "harness_ns": round(self.harness_ns)}
        if self.loop_ns is not None:
            facts["loop_ns"] = round(self.loop_ns)
        return facts

    def save(self, path: Path | str, *, title: str = "") -> Path:
        """Write the rows, the histograms and the environment as a JSON file; return its path.

        `redis-lab compare` reads such files, and so does `redis_lab.results.load`.

        Raises: LabError when the file cannot be written.
        """
        path, title = Path(path), title or Path(path).stem
        try:
            result = results.make_result(path.stem, self, title=title, client=self.client)
        except redis.RedisError:  # that server has ended
            result = results.make_result(path.stem, self, title=title)
        return results.write(result, path)

    def plot(self, path: Path | str | None = None) -> Figure:
        """A figure of the medians with their ranges; with a `path` it is saved there.

        The suffix decides the format, such as .png or .svg.

        Raises: LabError when the file cannot be written.
        """
        from .chart import draw_medians, save_figure  # matplotlib is slow to import

        figure = draw_medians(self.to_frame())
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    @property
    def notes(self) -> str:
        """An explanation of the numbers in the table, in one or two sentences."""
        note = (
            f"Intervals: within this run (p50: the range of the blocks' medians; p99: resampled "
            f"blocks); another run may lie outside. The harness itself costs "
            f"{self.harness_ns:.0f} ns a call; it is not subtracted."
        )
        if self.loop_ns is not None:
            note += (
                f" Asynchronous arms ran on one event loop; a pass through it takes "
                f"{self.loop_ns / 1e3:.1f} µs, and is part of their times."
            )
        return note

    def _repr_html_(self) -> str:
        note = f"<b>{self.doubt}</b> {self.notes}" if self.doubt else self.notes
        return self.table().to_html(border=0) + f"<small>{note}</small>"

    def __repr__(self) -> str:
        return self.table().to_string() + (f"\n{self.doubt}" if self.doubt else "")
