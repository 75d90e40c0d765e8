"""The statistics of samples: intervals by resampling, percentiles, histograms, verdicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hdrh.histogram import HdrHistogram

from .validity import InvalidRun

SAMPLES_BEYOND = 100  # that many must lie beyond a percentile before it is reported
NOISY_FACTOR = 1.5  # an interval whose ends differ by more than this factor is inconclusive
LONGEST_NS = 600_000_000_000  # the longest time that a histogram holds


def block_interval(
    statistic: Callable[..., float],
    *samples: np.ndarray,
    resamples: int,
    seed: int = 0,
    paired: bool = True,
) -> tuple[float, float]:
    """A 95 % interval of `statistic(*samples)`, resampling whole blocks (the arrays' first axis).

    Arrays are resampled together, so that a ratio stays paired; with `paired=False`, as for two
    runs, each on its own. Not a number where there are fewer than two blocks. Source: the block
    bootstrap of Künsch (1989), its percentile interval. (`scipy.stats.bootstrap` does the same,
    and takes longer to import than a lesson takes to measure.)
    """
    counts = [len(array) for array in samples]
    if min(counts) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    if paired:
        chosen = [random.integers(0, counts[0], (resamples, counts[0]))] * len(samples)
    else:
        chosen = [random.integers(0, count, (resamples, count)) for count in counts]
    found = [
        statistic(*(array[rows].ravel() for array, rows in zip(samples, turn, strict=True)))
        for turn in zip(*chosen, strict=True)
    ]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def median(samples: np.ndarray) -> float:
    return float(np.median(samples))


def median_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The ratio of the medians."""
    return float(np.median(a) / np.median(b))


def percentile(samples: np.ndarray, q: float) -> float | None:
    """A percentile, or None with fewer than a hundred samples beyond it; the median always."""
    tail = min(q, 100 - q) / 100
    if q != 50 and round(samples.size * tail, 6) < SAMPLES_BEYOND:
        return None
    return float(np.percentile(samples, q))


def make_histogram(samples_ns: np.ndarray, name: str) -> HdrHistogram:
    """An HDR histogram in nanoseconds, three digits; histograms of several runs add up.

    Raises: InvalidRun for a sample that it cannot hold; `name` says whose it is.
    """
    histogram = HdrHistogram(1, LONGEST_NS, 3)
    values, counts = np.unique(samples_ns, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if not histogram.record_value(max(value, 1), count):
            raise InvalidRun(f"{name}: a call took {value / 1e9:.0f} s, more than can be recorded.")
    return histogram


def judge_ratio(low: float, high: float) -> str:
    """The verdict that an interval of a ratio of times allows, in words."""
    if not (np.isfinite(low) and np.isfinite(high)) or (
        high > NOISY_FACTOR * low and low <= 1 <= high
    ):
        return "too noisy to tell"
    if low <= 1 <= high:
        return "no difference seen"
    return (
        f"{low:.2f} to {high:.2f} × the time"
        if high >= 1
        else f"{1 / high:.2f} to {1 / low:.2f} × faster"
    )
