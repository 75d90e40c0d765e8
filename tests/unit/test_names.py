"""Names that can be searched for: one thing, one name, and `_` before what is private.

A module whose own name begins with `_` is a program of its own or private; so are its names.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "redis_lab"

# Names that stand in several modules, and why that is right
TWICE = {
    "LeaseLost": "lock and idempotency: the same meaning, and a pattern imports no other pattern",
}

# What a drill holds to a contract bears the name of what it stands for: drill.naive:Lock
ADAPTERS = {"drill/naive.py", "drill/ours.py", "drill/contracts.py"}

Trees = Mapping[str, ast.Module]


def parsed(package: Path) -> Trees:
    files = (file for file in package.rglob("*.py") if file.name[0] != "_" or file.stem[:2] == "__")
    files = (file for file in files if file.relative_to(package).as_posix() not in ADAPTERS)
    files = (file for file in files if file.parent.name != "kinds")  # of drills: private
    return {str(file.relative_to(package)): ast.parse(file.read_text("utf-8")) for file in files}


def definitions(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """The public functions and classes of a module, each with the names of its decorators."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
            if not node.name.startswith("_"):
                yield node.name, marks


def offered(tree: ast.Module) -> set[str]:
    """What a module names in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def twice(trees: Trees) -> set[str]:
    """The names that several modules define, apart from those of exercises, which have their
    lesson's name in front (`hashes.reserve`)."""
    places = defaultdict(set)
    for file, tree in trees.items():
        for name, marks in definitions(tree):
            if "exercise" not in marks and name != "main":
                places[name].add(file)
    return {name for name, files in places.items() if len(files) > 1}


def not_exercises(trees: Trees) -> set[str]:
    """The public functions and classes of lessons, but for workers, that are no exercises."""
    return {
        f"{file}: {name}"
        for file, tree in trees.items()
        if re.fullmatch(r"lessons/\w+\.py", file) and not file.endswith("__init__.py")
        for name, marks in definitions(tree)
        if "exercise" not in marks
    }


def not_offered(trees: Trees) -> set[str]:
    """The public functions and classes of patterns that are not in `__all__`."""
    return {
        f"{file}: {name}"
        for file, tree in trees.items()
        if file.startswith("patterns/") and not file.endswith("__init__.py")
        for name, _ in definitions(tree)
        if name not in offered(tree)
    }


def hides_a_module(trees: Trees) -> set[str]:
    """The functions that are called as their own module is, so that one hides the other."""
    return {
        f"{file}: {name}"
        for file, tree in trees.items()
        for name, marks in definitions(tree)
        if name == Path(file).stem and "exercise" not in marks
    }


@pytest.fixture(scope="module")
def trees() -> Trees:
    return parsed(PACKAGE)


def test_no_name_stands_twice(trees):
    assert twice(trees) == set(TWICE)


def test_a_lesson_has_exercises_and_nothing_else_that_is_public(trees):
    assert not_exercises(trees) == set()


def test_what_is_public_in_a_pattern_is_in_its_all(trees):
    assert not_offered(trees) == set()


# measure.effort gives what the effort called `name` is; it stays importable as it was
def test_no_function_has_its_modules_name(trees):
    assert hides_a_module(trees) == {"measure/effort.py: effort"}


# ---------------------------------------------------------------- the tests above can fail


@pytest.mark.parametrize(
    ("rule", "file", "code"),
    [
        (twice, "other.py", "def reserve(): pass"),
        (twice, "other.py", "async def reserve(): pass"),
        (twice, "lessons/other.py", "class reserve: pass"),
        (not_exercises, "lessons/b.py", "def help_out(): pass"),
        (not_offered, "patterns/b.py", "__all__ = ['B']\ndef help_out(): pass\nclass B: pass"),
        (hides_a_module, "measure/count.py", "def count(): pass"),
    ],
)
def test_a_breach_is_seen(rule, file, code):
    first = "@exercise\ndef sort(): pass\n"
    trees = {"a.py": "def reserve(): pass", "lessons/a.py": first, file: code}
    assert len(rule({name: ast.parse(text) for name, text in trees.items()})) == 1


def test_what_is_right_is_no_breach():
    code = {
        "a.py": "def main(): pass\ndef _help(): pass",
        "b.py": "def main(): pass\ndef _help(): pass",
        "lessons/sort.py": "@exercise\ndef sort(): pass\ndef _help(): pass",
        "lessons/b.py": "@exercise\ndef sort(): pass\nX = 1",
        "patterns/b.py": "__all__ = ['B']\nclass B: pass",
    }
    trees = {name: ast.parse(text) for name, text in code.items()}
    for rule in (twice, not_exercises, not_offered, hides_a_module):
        assert rule(trees) == set()
