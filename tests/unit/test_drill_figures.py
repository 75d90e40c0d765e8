"""How the counts of the drills are shown, and that every drill has some."""

from __future__ import annotations

import ast
from pathlib import Path

from drill_figures import lines, page

TESTS = Path(__file__).resolve().parents[1]
COUNTED = {
    "b": {"kills": 60, "jobs": 1800, "lost": 0, "s_at_worst": 1.234, "seed": 7},
    "a": {"writes": 10_000, "stale_reads": 0},
}


def test_a_line_for_each_drill():
    assert lines(COUNTED) == [
        ("a", "10,000 writes, 0 stale reads"),
        ("b", "60 kills, 1,800 jobs, 0 lost, 1.23 s at worst, 7 seed"),
    ]


def test_the_page_says_where_it_was_counted():
    text = page(COUNTED, not_run=3)
    assert "| `a` | 10,000 writes, 0 stale reads |\n" in text
    assert "| drills | 2 reported here, 3 not run |\n" in text
    for what in ("server", "Python", "redis-py", "commit", "date"):
        assert f"| {what} | " in text


def test_every_drill_reports():
    silent = []
    for file in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                marks = " ".join(map(ast.unparse, node.decorator_list))
                if "mark.drill" in marks and "figure" not in {a.arg for a in node.args.args}:
                    silent.append(f"{file.name}: {node.name}")
    assert not silent
