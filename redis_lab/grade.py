"""Run what learners have handed in, and report which exercises are solved: a CSV file and a page.

A folder holds a folder for each learner, with notebooks anywhere in it. From each notebook the
cells that the learner wrote or changed are run in a process of its own, with limits of time and
memory, against the same checks as in the lessons, with data drawn from a seed: an answer that
holds only the lesson's own numbers fails. This protects you from mistakes: from cells that
raise, do not end, take all memory or end their process. It is no sandbox: they run as you, with
your rights, so take work from people you know, or grade in a container.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import html
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from . import claims, copies
from .child import TemporaryRun
from .errors import LabError
from .files import write_whole
from .logbook import CHECKED, LOG, exercises_of
from .toc import Lesson, read_toc

TIMEOUT_S = 300.0
MEMORY_MB = 4096


@dataclass
class Grade:
    """One exercise of one learner; `attempts` is from the learner's log, if that was handed in."""

    who: str
    lesson: str
    exercise: str
    outcome: str
    reason: str = ""
    attempts: int | None = None
    seed: int | None = None


def grade_all(
    folder: Path,
    *,
    seed: int | None = None,
    timeout_s: float = TIMEOUT_S,
    memory_mb: int = MEMORY_MB,
) -> Iterator[Grade]:
    """Grade what is in a folder, learner by learner.

    The checks' data are drawn from `seed`, by default a new one; 0 stands for those of the lessons.
    `timeout_s` and `memory_mb` limit each notebook. Raises: LabError if it contains no notebook of
    a lesson.
    """
    seed = 1 + secrets.randbelow(2**31 - 1) if seed is None else seed
    known = {lesson.name: lesson for lesson in read_toc()}
    found = [
        path
        for path in sorted(folder.rglob("*.ipynb"))
        if copies.name_of(path) in known and ".ipynb_checkpoints" not in path.parts
    ]
    if not found:
        raise LabError(
            f"There is no notebook of a lesson in {folder}. Name the folder that holds the "
            "learners' folders."
        )
    for path in found:
        inside = path.relative_to(folder)
        who = inside.parts[0] if len(inside.parts) > 1 else folder.name
        tries = count_attempts(folder / who if len(inside.parts) > 1 else folder)
        lesson = known[copies.name_of(path)]
        for each in grade_notebook(path, lesson, seed, timeout_s, memory_mb):
            each.who, each.seed = who, seed
            each.attempts = tries[each.exercise] if tries else None
            yield each


def count_attempts(folder: Path) -> Counter[str]:
    """How often each exercise was tried, according to the logs in a learner's folder."""
    counted: Counter[str] = Counter()
    for path in folder.rglob(LOG):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                entry = json.loads(line)
                if entry.get("outcome", "untouched") != "untouched":
                    counted[str(entry.get("check"))] += 1
    return counted


def grade_notebook(
    path: Path, lesson: Lesson, seed: int, timeout_s: float, memory_mb: int
) -> Iterator[Grade]:
    """The exercises of one notebook, in the lesson's order."""
    names = exercises_of(lesson)
    try:
        cells = [
            "".join(cell["source"])
            for cell in copies.read_notebook(path)["cells"]
            if cell["cell_type"] == "code"
        ]
    except (LabError, OSError, KeyError, TypeError):
        for name in names:
            yield Grade("", lesson.name, name, "unreadable", "The file is no notebook.")
        return
    committed = [cell for cell in copies.read_notebook(lesson.find())["cells"] if "outputs" in cell]
    handed_out = [cell for cell in committed if "solution" not in copies.tags(cell)]
    given = {"".join(cell["source"]).strip() for cell in handed_out}
    own = [cell for cell in cells if cell.strip() and cell.strip() not in given]
    outcomes: dict[str, tuple[str, str]] = {}
    if any(CHECKED.search(cell) for cell in own):
        imports = "\n".join(
            statement for cell in committed for statement in imports_of("".join(cell["source"]))
        )
        job = {
            "imports": imports,
            "memory_mb": memory_mb,
            "seed": seed,
            "cells": [{"source": cell, "exercises": CHECKED.findall(cell)} for cell in own],
        }
        outcomes, end = run_notebook(job, timeout_s)
        for cell in own:
            for name in CHECKED.findall(cell):
                outcomes.setdefault(name, end)
    for name in names:
        untouched = name in {n for cell in cells for n in CHECKED.findall(cell)}
        missing = ("untouched", "") if untouched else ("missing", "No cell checks it.")
        yield Grade("", lesson.name, name, *outcomes.get(name, missing))


def imports_of(source: str) -> Iterator[str]:
    """The import statements at the top level of a cell."""
    with contextlib.suppress(SyntaxError):  # a cell with a magic command
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield ast.unparse(node)


def run_notebook(job: dict[str, Any], timeout_s: float) -> tuple[dict[str, tuple[str, str]], tuple]:
    """The outcome of each exercise, or why the grader did not reach the exercise."""
    place = TemporaryRun()  # also ends what a cell has started, however this process ends
    grader = subprocess.Popen(
        [sys.executable, "-m", "redis_lab._grader"],
        cwd=place.name,
        env=os.environ | place.environment | {claims.STRICT: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        kill(grader)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    outcomes: dict[str, tuple[str, str]] = {}
    done = False
    try:
        assert grader.stdin and grader.stdout
        with contextlib.suppress(BrokenPipeError):
            grader.stdin.write(json.dumps(job) + "\n")
            grader.stdin.close()
        for line in grader.stdout:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                said = json.loads(line)
                done = done or said.get("done") is True
                if said.get("exercise"):
                    outcomes[said["exercise"]] = (str(said["outcome"]), str(said["reason"]))
    finally:
        timer.cancel()
        kill(grader)
        grader.wait()
        place.cleanup()
    if late.is_set():
        return outcomes, ("endless", f"Stopped after {timeout_s:g} s.")
    if not done:
        return outcomes, ("raised", "The process ended before the check: killed, or out of memory.")
    return outcomes, ("missing", "Its cell ran, and did not call the check.")


def kill(grader: subprocess.Popen) -> None:
    """End a grader and the processes that it started; its servers end with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(grader.pid, signal.SIGKILL)
        else:
            grader.kill()


HEADS = [field.name for field in fields(Grade)]


def write_grades(grades: list[Grade], to: Path) -> list[Path]:
    """Write grades.csv and grades.html into a folder; returns both."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADS)
    for each in grades:
        writer.writerow([escape_formula(value) for value in astuple(each)])
    written = [to / "grades.csv", to / "grades.html"]
    write_whole(written[0], text.getvalue().encode(), instead="name a folder")
    write_whole(written[1], page(grades).encode(), instead="name a folder")
    return written


def escape_formula(value: object) -> object:
    """The value, changed if a spreadsheet would take it for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value


def page(grades: list[Grade]) -> str:
    """A page with a line for each learner and a table of all exercises."""
    solved = Counter(each.who for each in grades if each.outcome == "right")
    people = "".join(
        f"<li>{html.escape(who)}: {solved[who]} right</li>"
        for who in dict.fromkeys(each.who for each in grades)
    )
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "".join(
        f'<tr class="{html.escape(each.outcome)}">'
        + "".join(f"<td>{html.escape(str(value))}</td>" for value in map(_shorten, astuple(each)))
        + "</tr>\n"
        for each in grades
    )
    seeds = ", ".join(sorted({str(each.seed) for each in grades if each.seed is not None}))
    return PAGE.format(people=people, heads=heads, rows=rows, seeds=seeds)


def _shorten(value: object) -> object:
    return "" if value is None else value


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Grades</title>
<style>
body {{ font: 16px/1.4 sans-serif; margin: 2em; }}
td, th {{ text-align: left; vertical-align: top; padding: .2em .8em .2em 0; }}
.right td:nth-child(4) {{ color: #0072b2; font-weight: bold; }}
.wrong td:nth-child(4), .raised td:nth-child(4), .endless td:nth-child(4) {{ color: #b34700; }}
.untouched, .missing {{ color: #666; }}
</style>
<h1>Grades</h1>
<ul>{people}</ul>
<p>Seed of the checks' data: {seeds}. With <code>--seed</code> they are the same again.</p>
<table><tr>{heads}</tr>
{rows}</table>
</html>
"""
