"""What does it cost to time one call? Our harness, a bare loop, pyperf and pytest-benchmark.

    python benchmarks/harness_cost.py       # data/local; REDIS_LAB_EFFORT=full: data/results

Each arm records one sample for each call, thousands of calls in a row, of the same function: first
one that does nothing, then a real GET. The arms take turns in one run. The wall time of the whole
measurement, per call, is compared, so that everything a harness does counts; pyperf's fixed work
for a run is included, spread over its samples. Our harness is measured twice: the loop alone, and
with the copy into an array that follows each block, when no call is being timed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from time import perf_counter, perf_counter_ns
from types import SimpleNamespace

import numpy as np
import pyperf
from pytest_benchmark.fixture import BenchmarkFixture

import redis_lab as lab
from redis_lab import bench, figures, lessons, results
from redis_lab.measure.arms import time_calls

SIZES = {"quick": {"nothing": 2_000, "GET": 200}, "full": {"nothing": 20_000, "GET": 800}}
BLOCK = 2_000  # the most samples that `compare` takes in one block; it divides the larger sizes


def nothing() -> None:
    pass


def bare_loop(call: Callable, samples: int) -> None:
    """The loop that one would write by hand."""
    taken = []
    for _ in range(samples):
        start = perf_counter_ns()
        call()
        taken.append(perf_counter_ns() - start)


def ours(call: Callable, samples: int) -> None:
    """Our loop alone; like the bare one it leaves its samples in a list."""
    time_calls(call, [0] * samples)


def ours_with_array(call: Callable, samples: int) -> None:
    """As `bench.run_blocks` does it: in blocks, each copied into the array of all samples."""
    kept = np.zeros((max(samples // BLOCK, 1), min(samples, BLOCK)), dtype=np.int64)
    for block in kept:
        taken = [0] * len(block)
        time_calls(call, taken)
        block[:] = taken


def by_pyperf(call: Callable, samples: int) -> None:
    """A pyperf worker, in this process: one loop, one value a call, no warm-up."""
    pyperf.Runner._created.clear()  # pyperf allows only one per process
    runner = pyperf.Runner(values=samples, warmups=0, loops=1, processes=1)
    runner.parse_args(["--worker", "-l1", f"-n{samples}", "-w0"])
    with contextlib.redirect_stdout(io.StringIO()):
        measured = runner.bench_func("call", call)
    assert measured.get_nvalue() == samples


def by_pytest_benchmark(call: Callable, samples: int) -> None:
    """Its fixture, pedantic: `samples` rounds of one iteration."""
    kept = []
    fixture = BenchmarkFixture(
        SimpleNamespace(name="call", nodeid="call", _nodeid="call"),
        disable_gc=False,
        timer=SimpleNamespace(target=perf_counter),
        min_rounds=1,
        min_time=0,
        max_time=1,
        precision=None,
        confidence=None,
        warmup=False,
        warmup_iterations=0,
        calibration_precision=10,
        add_stats=kept.append,
        logger=logging.getLogger("benchmark"),
        warner=print,
        disabled=False,
        cprofile=False,
        cprofile_loops=None,
        cprofile_dump=None,
    )
    fixture.pedantic(call, rounds=samples, iterations=1)
    assert len(kept[0].stats.data) == samples


HARNESSES = {
    "bare loop": bare_loop,
    "redis_lab": ours,
    "redis_lab and its array": ours_with_array,
    "pytest-benchmark": by_pytest_benchmark,
    "pyperf": by_pyperf,
}


def main() -> None:
    rows = []
    with lab.server() as private, private.client() as r:
        r.set("key", "value")
        for what, call in {"nothing": nothing, "GET": lambda: r.get("key")}.items():
            samples = SIZES[bench.effort_name()][what]
            arms = {
                f"{name}, {what}": bench.Arm(
                    lambda harness=harness, n=samples, call=call: harness(call, n),
                    units=samples,
                    columns={"harness": name, "what": what},
                )
                for name, harness in HARNESSES.items()
            }
            compared = bench.compare(arms, seconds=1.5 * (bench.effort_name() == "full") + 0.1)
            print(compared)
            rows += compared.rows
        for row in rows:
            row["p50_us"], row["p50_low_us"], row["p50_high_us"] = (
                row[f"per_unit{end}_us"] for end in ("", "_low", "_high")
            )
        chart = lessons.find_figure("harness_cost")
        result = results.make_result(
            "harness_cost", rows, title=chart.title, client=r, samples=SIZES[bench.effort_name()]
        )
    results.save(result)
    figures.write_plot(result, chart)


if __name__ == "__main__":
    sys.exit(main())
