"""Grading: right and wrong work, and notebooks that are broken, endless or hostile."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from redis_lab import copies, grade, logbook, teach
from redis_lab.errors import LabError
from redis_lab.grade import Grade
from redis_lab.toc import read_toc

LESSON = read_toc()[0]
FIRST, SECOND = "start_here.round_trips", "start_here.on_average"


def hand_in(folder: Path, who: str, *, first: str = "", second: str = "") -> Path:
    """A learner's copy of the first lesson, with her cells in place of the exercises'."""
    book = json.loads(copies.without_solutions(LESSON.find()))
    for cell in book["cells"]:
        for name, mine in ((FIRST, first), (SECOND, second)):
            if mine and f'lab.check("{name}"' in "".join(cell["source"]) and "outputs" in cell:
                cell["source"] = mine
    path = folder / who / "work" / LESSON.find().name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(book))
    return path


def test_each_learner_gets_what_the_checks_say(tmp_path):
    right = teach.solution_of(SECOND)
    hand_in(tmp_path, "ada", second=right)
    hand_in(tmp_path, "bob", second=f'1 / 0\nlab.check("{SECOND}", None)')
    leaves = f'import os; os._exit(0)\nlab.check("{FIRST}", 1)'
    hand_in(tmp_path, "eve", first=leaves, second=right)
    too_much = f'all_of_it = bytearray(10**14)\nlab.check("{FIRST}", 1)'
    hand_in(tmp_path, "mallory", first=too_much, second=right.replace("0.1", "0.2"))
    hand_in(tmp_path, "zoe").write_text("no notebook")
    log = tmp_path / "ada" / logbook.LOG
    tries = [{"check": SECOND, "outcome": o} for o in ("untouched", "wrong", "right")]
    log.write_text("\n".join(map(json.dumps, tries)) + "\nnot JSON\n[]")
    found = {(each.who, each.exercise): each for each in grade.grade_all(tmp_path)}
    outcomes = {key: each.outcome for key, each in found.items()}
    assert outcomes == {
        ("ada", FIRST): "untouched",
        ("ada", SECOND): "right",
        ("bob", FIRST): "untouched",
        ("bob", SECOND): "raised",
        ("eve", FIRST): "raised",
        ("eve", SECOND): "raised",
        ("mallory", FIRST): "raised",
        ("mallory", SECOND): "wrong",
        ("zoe", FIRST): "unreadable",
        ("zoe", SECOND): "unreadable",
    }
    assert found["ada", SECOND].attempts == 2 and found["bob", SECOND].attempts is None
    assert "ZeroDivisionError" in found["bob", SECOND].reason
    assert "process ended" in found["eve", SECOND].reason
    assert "MemoryError" in found["mallory", FIRST].reason


def test_what_does_not_end_is_stopped(tmp_path):
    never = f'import time; time.sleep(1000)\nlab.check("{SECOND}", None)'
    path = hand_in(tmp_path, "ada", second=never)
    found = list(grade.grade_notebook(path, LESSON, 0, timeout_s=2, memory_mb=4096))
    assert [(each.exercise, each.outcome) for each in found] == [
        (FIRST, "untouched"),
        (SECOND, "endless"),
    ]


def test_the_lessons_own_numbers_are_no_answer(tmp_path):
    """They are right with seed 0, which stands for the lesson's, and wrong with a new one."""
    known = "{(1000, 100): 200, (10, 100): 101, (200_000, 2100): 22_100}.get((query_us, get_us), 0)"
    hand_in(
        tmp_path, "eve", second=re.sub("return .*", f"return {known}", teach.solution_of(SECOND))
    )
    (_, own), (_, other) = (list(grade.grade_all(tmp_path, seed=seed)) for seed in (0, None))
    assert (own.outcome, own.seed) == ("right", 0)
    assert other.outcome == "wrong" and other.seed > 0


def test_a_folder_without_a_lesson_is_said(tmp_path):
    (tmp_path / "poem.ipynb").write_text("{}")
    with pytest.raises(LabError, match="no notebook of a lesson"):
        list(grade.grade_all(tmp_path))


def test_the_files_are_harmless_to_open(tmp_path):
    nasty = Grade("=cmd()", "start_here", FIRST, "wrong", "<script>alert(1)</script>", 3, 77)
    table, page = grade.write_grades([nasty], tmp_path)
    heads, row = csv.reader(table.read_text().splitlines())
    assert heads == ["who", "lesson", "exercise", "outcome", "reason", "attempts", "seed"]
    assert row[0] == "'=cmd()" and row[5:] == ["3", "77"]
    assert "data: 77." in page.read_text()
    assert "<script>" not in page.read_text() and "&lt;script&gt;" in page.read_text()
