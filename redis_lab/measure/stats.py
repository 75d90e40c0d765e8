"""The statistics of samples and of runs: intervals, percentiles, histograms, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hdrh.histogram import HdrHistogram

from .validity import InvalidRun

SAMPLES_BEYOND = 100  # samples that must lie beyond a percentile for it to be reported
NOISY_FACTOR = 1.5  # an interval whose ends differ by more than this factor is inconclusive
FEWEST_RUNS = 5  # with fewer there is no interval over runs, and no verdict
LONGEST_NS = 600_000_000_000  # the longest time that a histogram holds


def block_interval(
    statistic: Callable[..., float],
    *samples: np.ndarray,
    resamples: int,
    seed: int = 0,
    paired: bool = True,
) -> tuple[float, float]:
    """How far `statistic(*samples)` varies within this run, resampling whole blocks (first axis).

    It is the middle 95 % of the resamples. It is not a 95 % interval for another run, because it
    does not contain the variation between runs; and with few blocks it is too narrow.

    Arrays are resampled together, so that a ratio stays paired; with `paired=False` each is
    resampled separately. NaN with fewer than two blocks. Source: the block bootstrap of Künsch
    (1989), its percentile interval. (`scipy.stats.bootstrap` does the same, and takes longer to
    import than a lesson takes to measure.)
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


def block_range(samples: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest median of a block. NaN with fewer than two blocks."""
    if len(samples) < 2:
        return float("nan"), float("nan")
    medians = np.median(samples, axis=1)
    return float(medians.min()), float(medians.max())


def _student_t(degrees: float, share: float) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import stdtrit  # takes a second to import, and one run does not need it

    return float(stdtrit(degrees, share))


def interval_over_runs(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of one number from each run, and its 95 % interval.

    Student's t (William Gosset, 1908), as Georges, Buytaert and Eeckhout use it for fewer than
    thirty invocations (OOPSLA 2007); not the bootstrap, whose interval of five values is too
    narrow. Positive numbers, as times and rates are, are averaged as logarithms, because runs
    differ by a factor. With fewer than five runs, the interval is their lowest and highest value.
    """
    found = np.asarray(values, dtype=float)
    logs = bool((found > 0).all())
    turned = np.log(found) if logs else found
    half = 0.0
    if len(found) > 1:
        error = turned.std(ddof=1) / np.sqrt(len(found))
        half = _student_t(len(found) - 1, 0.975) * float(error)
    middle = float(turned.mean())
    ends = [middle, middle - half, middle + half]
    mean, low, high = (float(np.exp(end)) for end in ends) if logs else ends
    if len(found) < FEWEST_RUNS:
        low, high = float(found.min()), float(found.max())
    return mean, low, high


def ratio_over_runs(
    first: Sequence[float], second: Sequence[float], pairs: int = 1
) -> tuple[float, float, float]:
    """How many times as long the second takes, from one positive number for each run, and the
    interval.

    The interval is Welch's, for runs whose spread may differ (B. L. Welch, Biometrika 34, 1947), of
    the difference of the means of the logarithms. Where a table has several `pairs`, all intervals
    together hold with 95 %: each is taken at 1 − 0.05/pairs (Bonferroni; O. J. Dunn, JASA 56,
    1961), so that a longer table does not report more false differences. (The rank test of Mann and
    Whitney cannot do that with five runs on a side: its smallest p is 0.008.)

    NaN if a side has fewer than two runs.
    """
    a, b = (np.log(np.asarray(values, dtype=float)) for values in (first, second))
    ratio = float(np.exp(b.mean() - a.mean()))
    if min(len(a), len(b)) < 2:
        return ratio, float("nan"), float("nan")
    parts = [side.var(ddof=1) / len(side) for side in (a, b)]
    error = sum(parts)
    if not error:
        return ratio, ratio, ratio
    degrees = error**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)
    )
    half = _student_t(degrees, 1 - 0.025 / pairs) * float(np.sqrt(error))
    return ratio, ratio * float(np.exp(-half)), ratio * float(np.exp(half))


def median(samples: np.ndarray) -> float:
    return float(np.median(samples))


def median_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The ratio of the medians."""
    return float(np.median(a) / np.median(b))


def percentile(samples: np.ndarray, q: float) -> float | None:
    """A percentile, or None with fewer than a hundred samples beyond it; the median always.

    The number of samples beyond a quantile is binomial, so that with a hundred of them its rank is
    known to ± 2·√100, a fifth of the tail, at 95 % (Jean-Yves Le Boudec: Performance evaluation of
    computer and communication systems, 2010, section 2.2, for independent samples). A p99 takes
    10,000 samples, a p99.9 takes 100,000.
    """
    tail = min(q, 100 - q) / 100
    if q != 50 and round(samples.size * tail, 6) < SAMPLES_BEYOND:
        return None
    return float(np.percentile(samples, q))


def make_histogram(samples_ns: np.ndarray, name: str) -> HdrHistogram:
    """An HDR histogram in nanoseconds, three digits; histograms of several runs add up.

    Raises: InvalidRun for a sample that it cannot hold; `name` names the samples in the error.
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
