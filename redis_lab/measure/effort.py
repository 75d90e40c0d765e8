"""How much time a measurement takes: `quick` to see the shape, `full` to publish it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import LabError


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds and blocks for each arm, resamples for each interval.

    A comparison with slow arms uses fewer blocks, down to `fewest_blocks`.
    """

    seconds: float
    blocks: int
    fewest_blocks: int
    resamples: int


EFFORTS = {"quick": Effort(0.04, 5, 3, 100), "full": Effort(1.0, 30, 8, 500)}


def effort_name(name: str | None = None) -> str:
    """`quick` (validation) or `full` (publication): as named, or from REDIS_LAB_EFFORT.

    Raises: LabError for any other word.
    """
    asked = name or os.environ.get("REDIS_LAB_EFFORT", "quick")
    if asked not in EFFORTS:
        where = "effort" if name else "REDIS_LAB_EFFORT"
        raise LabError(f"{where}={asked} is none of {', '.join(EFFORTS)}.")
    return asked


def effort(name: str | None = None) -> Effort:
    """The effort as named, or from REDIS_LAB_EFFORT. Raises: LabError for an unknown name."""
    return EFFORTS[effort_name(name)]
