"""`redis-lab new`: what it writes keeps the rules of every lesson, and what is there stays."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from processes import environment

from redis_lab import new, toc
from redis_lab.errors import LabError

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ("notebooks", "redis_lab", "tests", "README.md", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout, as compiled as it is, without environments and data."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints")
    for name in CARRIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=checkout,
        env=environment(PYTHONPATH=str(checkout), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_new_lesson_keeps_the_rules(checkout):
    before = {path: path.read_bytes() for path in checkout.rglob("*.ipynb")}
    code = "import sys; sys.argv[0] = 'redis-lab'; from redis_lab.cli import main; main()"
    (checkout / "redis_lab_new.py").write_text(code)
    said = run(checkout, "redis_lab_new", "new", "structures/outbox", "--title", "An outbox")
    written = re.findall(r"^\S+\.(?:py|yml|ipynb)$", said.stdout, flags=re.M)
    assert len(written) == 4 and all((checkout / path).exists() for path in written)
    assert "structures/13_outbox.ipynb" in said.stdout, "after the last lesson of its folder"
    assert (checkout / "notebooks/patterns/14_cache_aside.ipynb").exists()
    assert len(list(checkout.rglob("*.ipynb"))) == len(before) + 1
    rules = ["tests/unit/test_notebooks.py", "tests/unit/test_index.py", written[1]]
    rules += ["-k", "outbox or agrees or module or write or read"]
    options = ["-q", "-o", "addopts=-p redis_lab.notebooks --strict-markers"]
    tested = run(checkout, "pytest", *options, *rules)
    assert int(re.search(r"(\d+) passed", tested.stdout).group(1)) > 15, tested.stdout


@pytest.mark.parametrize(
    ("lesson", "trouble"),
    [
        ("outbox", "like patterns/xyz"),
        ("patterns/Outbox", "like patterns/xyz"),
        ("patterns/../outbox", "like patterns/xyz"),
        ("recipes/outbox", "no folder 'recipes'"),
        ("patterns/locks", "There is a lesson 'locks' already"),
    ],
)
def test_a_name_that_will_not_do(checkout, monkeypatch, lesson, trouble):
    root = checkout / "notebooks"
    monkeypatch.setattr(new, "notebooks_folder", lambda: root)
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    with pytest.raises(LabError, match=re.escape(trouble)):
        list(new.write_lesson(lesson))
    assert {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()} == before


def test_what_is_there_is_not_overwritten(checkout, monkeypatch):
    monkeypatch.setattr(new, "notebooks_folder", lambda: checkout / "notebooks")
    (checkout / "tests" / "lessons" / "test_outbox.py").write_text("mine")
    with pytest.raises(LabError, match=r"test_outbox\.py is there already"):
        list(new.write_lesson("patterns/outbox"))
    assert not (checkout / "redis_lab" / "lessons" / "outbox.py").exists()
    assert "outbox" not in {lesson.name for lesson in toc.read_toc(checkout / "notebooks")}


def test_one_that_was_interrupted_is_taken_up(checkout, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    def executed(path, effort):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = 1
        yield len(notebook.cells), notebook

    monkeypatch.setattr(new, "notebooks_folder", lambda: checkout / "notebooks")
    for step in ("write_whole", "write_notebook", "write_index", "execute"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(new, step, interrupted)
            list(new.write_lesson("patterns/outbox"))
    monkeypatch.setattr(new, "execute", executed)
    written = list(new.write_lesson("patterns/outbox"))
    assert len(written) == 4 and all(path.exists() for path in written)
    listed = [lesson.name for lesson in toc.read_toc(checkout / "notebooks")]
    assert listed.count("outbox") == 1
    with pytest.raises(LabError, match="There is a lesson 'outbox' already"):
        list(new.write_lesson("patterns/outbox"))
