"""A module for each lesson: its exercises' checks, and how its experiments are drawn.

A check is a function marked with `judging.exercise`: it receives the lab's client and the learner's
answer, runs the answer on keys of its own, returns a sentence of praise with the facts, or raises
`judging.NotYet` with a hint that explains what is wrong. `FIGURES` holds a `figures.Chart` for each
experiment that the lesson's notebook measures, by the experiment's name. A module is found by its
name, an experiment by looking through all of them: there is no list to keep.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from redis_lab.errors import LabError
from redis_lab.figures import Chart, DotPlot
from redis_lab.judging import EXERCISES, HINTS, Check

# Measured by benchmarks/harness_cost.py, not in a lesson.
WITHOUT_A_LESSON: dict[str, Chart] = {
    "harness_cost": DotPlot(
        title="What it costs to time one call",
        x="p50_us",
        xlabel="time for one measured call (µs, log scale)",
        meanings={
            "bare loop, nothing": "baseline",
            "pytest-benchmark, nothing": "theirs",
            "pyperf, nothing": "theirs",
            "bare loop, GET": "baseline",
            "pytest-benchmark, GET": "theirs",
            "pyperf, GET": "theirs",
        },
    ),
}


def _load_modules() -> Iterator[ModuleType]:
    """Every lesson's module, in alphabetical order."""
    for found in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{found.name}")


@cache
def load_figures() -> dict[str, Chart]:
    """How every experiment of the workbook is drawn, by its name.

    Raises: LabError if two lessons have an experiment of the same name.
    """
    every = dict(WITHOUT_A_LESSON)
    for module in _load_modules():
        own: dict[str, Chart] = getattr(module, "FIGURES", {})
        if twice := every.keys() & own.keys():
            raise LabError(
                f"{module.__name__} has a figure that there is already: {', '.join(sorted(twice))}."
            )
        every |= own
    return every


def find_figure(experiment: str) -> Chart:
    """How an experiment is drawn.

    Raises: LabError for an experiment of no lesson.
    """
    if experiment not in load_figures():
        raise LabError(
            f"No lesson says how to draw {experiment!r}: add it to FIGURES in the lesson's module "
            "in redis_lab/lessons."
        )
    return load_figures()[experiment]


def find_check(exercise: str) -> Check[Any]:
    """The check of an exercise: `find_check("hashes.reserve")`.

    Raises: LabError for an exercise that does not exist.
    """
    lesson = exercise.partition(".")[0]
    if any(found.name == lesson for found in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{lesson}")
    if exercise not in EXERCISES:
        raise LabError(f"There is no exercise {exercise!r}.")
    return EXERCISES[exercise]


def find_hints(exercise: str) -> tuple[str, ...]:
    """The hints of an exercise, the first only a nudge. Raises: as `find_check`."""
    find_check(exercise)
    return HINTS[exercise]
