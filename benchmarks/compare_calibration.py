"""How often does `redis-lab compare` report a difference between identical arms?

    python benchmarks/compare_calibration.py              # ten runs of twenty arms, five minutes
    python benchmarks/compare_calibration.py --runs 12 --arms 24 --seconds 2
    python benchmarks/compare_calibration.py --keep data/local/runs   # measure once, look again

Every arm is the same GET. Each run has a fresh process and a fresh server, pinned to cores as by
`redis-lab publish`. Then the runs are divided into two results in every possible way (at most 200
ways), and the two are compared: row by row as the command does, and each arm of one with each arm
of the other. A 95 % statement allows one pair in twenty; the exit code is 1 if more are said to
differ.

Beside it: the halves in the order of time, which differ if the machine drifts; each row tested
alone, without the correction for the number of rows; and what resampled blocks of single runs say.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from redis_lab.measure import results
from redis_lab.measure.results import Result
from redis_lab.measure.runs import median_of
from redis_lab.measure.stats import FEWEST_RUNS, block_interval, median_ratio, ratio_over_runs

NAME = "compare_calibration"
MOST_SPLITS = 200
ALLOWED = 0.05


def measure_one(file: Path, arms: int, seconds: float) -> None:
    """One run of several identical arms on a server of its own."""
    import redis_lab as lab

    with lab.server() as own, own.client() as r:
        r.set("page", "x" * 100)
        calls = {f"GET {n:02}": lambda: r.get("page") for n in range(1, arms + 1)}
        measured = lab.bench.compare(
            calls, client=r, baseline=False, seconds=seconds, effort="full"
        )
        results.write(results.make_result(NAME, measured, title="Identical arms", client=r), file)


def measure_runs(folder: Path, runs: int, arms: int, seconds: float) -> Result:
    """Several runs, each in a process of its own; runs that are already in the folder count."""
    from redis_lab.publish import choose_cores, pin_cores

    cores = choose_cores()
    print(f"pinned: {cores or 'nothing'}")
    files = [folder / f"{n:02}.json" for n in range(1, runs + 1)]
    command = [sys.executable, __file__, "--arms", str(arms), "--seconds", str(seconds), "--one"]
    for file in tqdm(files, desc="runs"):
        if not file.exists():
            with pin_cores(cores) as own:
                subprocess.run([*command, str(file)], check=True, env=os.environ | own)
    return functools.reduce(results.merge, map(results.load, files))


def part(whole: Result, chosen: Iterable[int]) -> Result:
    """A result with some of the runs."""
    return Result(whole.experiment, whole.title, [], runs=[whole.runs[n] for n in chosen])


def splits(runs: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """The ways to divide runs into two results of equal size; at most 200, drawn at random."""
    half = runs // 2
    ways = [
        (one, two)
        for one in itertools.combinations(range(runs), half)
        if (two := tuple(n for n in range(runs) if n not in one)) and (runs % 2 or 0 in one)
    ]
    random = np.random.default_rng(0)
    chosen = random.permutation(len(ways))[:MOST_SPLITS]
    return (ways[n] for n in chosen)


def differ(low: float, high: float) -> bool:
    return not low <= 1 <= high


def shares(whole: Result) -> dict[str, float]:
    """The share of pairs that are reported to differ, for each method of comparison."""
    runs = len(whole.runs)
    medians = np.array([[median_of(row) for row in run.rows] for run in whole.runs])
    arms = medians.shape[1]
    said, pairs, alone = [], [], []
    for one, two in splits(runs):
        frame = results.compare_results(part(whole, one), part(whole, two))
        said += [is_difference(words) for words in frame["says"]]
        for i, j in itertools.product(range(arms), repeat=2):
            a, b = medians[list(one), i], medians[list(two), j]
            pairs.append(differ(*ratio_over_runs(a, b, pairs=arms)[1:]))
            if i == j:
                alone.append(differ(*ratio_over_runs(a, b)[1:]))
    early, late = range(runs // 2), range(runs // 2, runs)
    frame = results.compare_results(part(whole, early), part(whole, late))
    drift = [is_difference(words) for words in frame["says"]]
    blocks = [
        differ(
            *block_interval(
                median_ratio,
                *(np.array(whole.runs[n].rows[arm]["block_medians_us"]) for n in pair),
                resamples=100,
                paired=False,
            )
        )
        for pair in itertools.combinations(range(runs), 2)
        for arm in range(0, arms, 5)
    ]
    found = {
        "row by row, as redis-lab compare does": said,
        "each arm with each arm": pairs,
        "the first runs against the last ones": drift,
        "each row alone, without correction": alone,
        "two single runs by resampled blocks, which is not done any more": blocks,
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def is_difference(words: str) -> bool:
    """Whether a verdict reports a difference."""
    return words.endswith(("the time", "faster"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each arm of a run")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which are taken from it")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure_one(asked.one, asked.arms, asked.seconds)
        return 0
    if asked.runs < 2 * FEWEST_RUNS:
        parser.error(f"two results need {FEWEST_RUNS} runs each")
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        whole = measure_runs(folder, asked.runs, asked.arms, asked.seconds)
    medians = [[median_of(row) for row in run.rows] for run in whole.runs]
    print(f"{asked.runs} runs of {asked.arms} identical arms; the median GET of each run, in µs:")
    print("  " + "  ".join(f"{np.median(run):.1f}" for run in medians))
    found = shares(whole)
    print(f"Said to differ (at most {ALLOWED:.0%} are allowed):")
    for name, share in found.items():
        print(f"  {share:6.1%}  {name}")
    worst = max(list(found.values())[:2])
    return int(worst > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
