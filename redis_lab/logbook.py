"""What a reader has done so far: a local log of checks and predictions, and its summary.

The log is `data/local/progress.jsonl`: JSON lines, each appended by one write, so that several
kernels may write at once. A line that cannot be read is skipped. Nothing is written outside of
IPython, nor while the lab itself runs a notebook.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import claims, copies
from .errors import wrap_lines
from .files import data_folder
from .toc import Lesson, read_toc

LOG = "progress.jsonl"
CLOSE = 1.25  # a guess within this factor is close
CHECKED = re.compile(r'lab\.check\("([\w.]+)"')


def log_file() -> Path:
    """Where the log is."""
    return data_folder() / "local" / LOG


def note(**line: object) -> None:
    """Append a line to the log, with the time; does nothing outside a reader's notebook.

    If the log cannot be written, the lesson goes on without a message.
    """
    if shell() is None or claims.is_strict():
        return
    line["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    text = "\n" + json.dumps(line, ensure_ascii=False)  # even after an incomplete line
    with contextlib.suppress(OSError):
        path = log_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def shell() -> Any:
    """The running IPython, or None."""
    running = sys.modules.get("IPython")  # importing it would take time
    return running and running.get_ipython()


def read_log() -> list[dict[str, Any]]:
    """The lines of the log, the oldest first, without those that cannot be read."""
    try:
        text = log_file().read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            parsed = json.loads(line)
            if isinstance(parsed, dict):
                found.append(parsed)
    return found


@dataclass
class Row:
    """One lesson: its exercises, and those that were tried and solved."""

    lesson: Lesson
    exercises: list[str]
    tried: set[str] = field(default_factory=set)
    solved: set[str] = field(default_factory=set)

    @property
    def done(self) -> bool:
        return self.solved >= set(self.exercises)


class Progress:
    """How far a reader has come; a table in a notebook, lines of text elsewhere."""

    def __init__(self, lines: Iterable[dict[str, Any]], offers: Iterable[str] = ()) -> None:
        lines = list(lines)
        self.rows = [Row(lesson, exercises_of(lesson)) for lesson in read_toc()]
        self.offers = list(offers)
        outcomes: dict[str, set[str]] = {}
        for line in lines:
            if isinstance(line.get("check"), str):
                outcomes.setdefault(line["check"], set()).add(str(line.get("outcome")))
        for row in self.rows:
            for name in row.exercises:
                seen = outcomes.get(name, set())
                if seen - {"untouched"}:
                    row.tried.add(name)
                if "right" in seen:
                    row.solved.add(name)
        self.factors = [factor for line in lines if (factor := off_by(line)) is not None]
        self.picked = [right for line in lines if (right := picked_right(line)) is not None]

    def summary(self) -> list[str]:
        """What has been solved, how far off the predictions were, and what comes next."""
        every = [name for row in self.rows for name in row.exercises]
        solved = sum(len(row.solved) for row in self.rows)
        tried = sum(len(row.tried) for row in self.rows)
        said = [f"{solved} of {len(every)} exercises solved, {tried - solved} more tried."]
        if self.factors:
            close = sum(factor <= CLOSE for factor in self.factors)
            middle = statistics.median(self.factors)
            factor = f"{middle:,.0f}" if middle >= 10 else f"{middle:.2g}"
            said.append(
                f"{_count(len(self.factors), 'prediction')}: {close} close; half of them were off "
                f"by a factor of {factor} or less."
            )
        if self.picked:
            said.append(
                f"{_count(len(self.picked), 'prediction')} by choice: {sum(self.picked)} right."
            )
        if (row := next((row for row in self.rows if not row.done), None)) is not None:
            exercise = next(name for name in row.exercises if name not in row.solved)
            said.append(f"Next: {row.lesson.title()}, exercise {exercise}.")
        said += [
            f"New version of {name}: redis-lab reset {name} (your copy is kept)"
            for name in self.offers
        ]
        return said

    def begun(self) -> list[Row]:
        return [row for row in self.rows if row.tried]

    def __repr__(self) -> str:
        lines = [
            f"{len(row.solved)} of {len(row.exercises)}  {row.lesson.place:2}. {row.lesson.title()}"
            + (f"  (tried: {', '.join(sorted(left))})" if (left := row.tried - row.solved) else "")
            for row in self.begun()
        ]
        return "\n".join([*lines, *map(wrap_lines, self.summary())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{row.lesson.place}</td>"
            f"<td style='text-align:left'>{html.escape(row.lesson.title())}</td>"
            f"<td>{len(row.solved)} of {len(row.exercises)}</td>"
            f"<td style='text-align:left'>{', '.join(sorted(row.tried - row.solved)) or '–'}</td>"
            "</tr>"
            for row in self.begun()
        )
        heads = "<tr><th></th><th>lesson</th><th>solved</th><th>tried, not solved yet</th></tr>"
        table = f"<table>{heads}{rows}</table>" if rows else ""
        return table + "".join(f"<p>{html.escape(line)}</p>" for line in self.summary())


def exercises_of(lesson: Lesson) -> list[str]:
    """The names of a lesson's exercises, in their order."""
    found: dict[str, None] = {}
    for cell in copies.read_notebook(lesson.find())["cells"]:
        if "exercise" in copies.tags(cell):
            found |= dict.fromkeys(CHECKED.findall("".join(cell["source"])))
    return list(found)


def off_by(line: dict[str, Any]) -> float | None:
    """The factor, 1 or more, by which a guess was wrong; None for a line that holds no guess."""
    guess, measured = line.get("guess"), line.get("measured")
    for value in (guess, measured):
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            return None
    assert guess and measured
    return max(guess / measured, measured / guess)


def picked_right(line: dict[str, Any]) -> bool | None:
    """Whether a guess was the right one of several choices; None for a line that is no choice."""
    guess, measured = line.get("guess"), line.get("measured")
    if not isinstance(guess, str) or not isinstance(measured, str):
        return None
    return guess == measured


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def progress() -> Progress:
    """What you have solved, tried and predicted, according to the log on this machine, and what
    comes next.

    Raises: LabError where the notebooks are not here.
    """
    if claims.is_strict():  # the lab itself runs the notebook: the same on every machine
        return Progress([])
    return Progress(read_log(), copies.offers())
