"""How long a lesson takes a reader, counted from its notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

WORDS_A_MINUTE, LINES_OF_CODE_A_MINUTE, MINUTES_AN_EXERCISE = 200, 40, 10
FIRST_HALF, SECOND_HALF = "## Use it", "## Measure it and break it"


def estimate(cells: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Minutes for the whole lesson and, of these, for its first half: 0 where it has no halves.

    Both are rounded to five minutes. Words are read and lines of code are read and run at a fixed
    pace; an exercise takes a fixed time, and its code and its solution are not read besides. These
    paces are an assumption, not a measurement.
    """
    minutes = first_half = 0.0
    halves = False
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if re.search(rf"^{SECOND_HALF}$", source, flags=re.M):
                halves, first_half = True, minutes
            minutes += len(source.split()) / WORDS_A_MINUTE
        elif "exercise" in cell["metadata"].get("tags", ()):
            minutes += MINUTES_AN_EXERCISE
        elif "solution" not in cell["metadata"].get("tags", ()):
            minutes += len(source.splitlines()) / LINES_OF_CODE_A_MINUTE
    return _rounded(minutes), _rounded(first_half) if halves else 0


def _rounded(minutes: float) -> int:
    return max(5, 5 * round(minutes / 5))
