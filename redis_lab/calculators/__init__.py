"""Charts into which a reader puts numbers of their own: `lab.calculator("pipelines")`.

Each calculator draws a formula of `measure.theory` for the numbers that are put in, with the points
that a lesson has measured, and says where it goes beyond what was measured. The formulas are
written as Vega expressions, so a chart needs no kernel: JupyterLab draws it as it is, and so does a
static page (docs/site). tests/unit/test_calculators.py holds each expression to its formula.

What was measured comes from data/results: the points, and the defaults that depend on a machine.

To add a calculator: a module `_xyz` with a function `build` that returns a `Calculator`, and its
name in `CALCULATORS`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..errors import LabError
from ..extras import require

if TYPE_CHECKING:  # needs Altair, which an extra brings
    from .chart import Calculator

__all__ = ["CALCULATORS", "calculator"]

# By the lesson that has measured it, in the order of the lessons
CALCULATORS = ("pipelines", "cache_aside", "stampede", "load", "memory")


def calculator(name: str) -> Calculator:
    """A chart for numbers of your own, by the name of its lesson: `lab.calculator("pipelines")`.

    Raises: LabError for a lesson that has none, if its experiment was never measured, or without
    the extra `lab`.
    """
    if name not in CALCULATORS:
        raise LabError(f"There is no calculator {name!r}, only {', '.join(CALCULATORS)}.")
    require("altair", "vl_convert")
    return importlib.import_module(f"{__name__}._{name}").build()
