"""The reader's own copies in work/: nothing tracked changes, nothing of the reader's is lost."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redis_lab import copies, toc
from redis_lab.errors import LabError
from redis_lab.toc import notebooks_folder, read_toc

CHECKOUT = notebooks_folder().parent
WORDS = (
    "[sums](things/01_sums.ipynb) [words](words.md) [the README](../README.md) ![p](things/p.png)"
)
TOC = """
- part: all
  lessons:
    - {lesson: start, promise: a}
    - {lesson: things/sums, promise: b}
    - {lesson: things/more, promise: c}
"""


def notebook(text: str, answer: str = "x = 2") -> str:
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# T\n", text]},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["exercise"]}, "source": "x = 1"},
        {"cell_type": "code", "id": "c", "metadata": {"tags": ["solution"]}, "source": answer},
    ]
    for cell in cells[1:]:
        cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "text": "seen"}]}
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The notebooks' folder of a small checkout."""
    root = tmp_path / "checkout" / "notebooks"
    (root / "things").mkdir(parents=True)
    (root.parent / "README.md").write_text("# Read me")
    (root / "toc.yml").write_text(TOC)
    (root / "words.md").write_text("# Words\n\n[more](things/02_more.ipynb)")
    (root / "00_start.ipynb").write_text(notebook(WORDS))
    (root / "things" / "01_sums.ipynb").write_text(notebook("Next: [more](02_more.ipynb)"))
    (root / "things" / "02_more.ipynb").write_text(notebook("[words](../words.md)"))
    (root / "things" / "p.png").write_bytes(b"\x89PNG\xff")
    monkeypatch.delenv(copies.WORK, raising=False)
    monkeypatch.setattr(copies, "notebooks_folder", lambda: root)
    monkeypatch.setattr(toc, "notebooks_folder", lambda: root)
    return root


@pytest.fixture
def work(root) -> Path:
    return root.parent / "work"


def edit(path: Path, source: str = "x = 5") -> bytes:
    """What a reader does: change the cell, run it, save; what is in the file then."""
    book = json.loads(path.read_text())
    book["cells"][1] |= {"source": source, "outputs": [{"output_type": "stream", "text": "5"}]}
    path.write_text(json.dumps(book))
    return path.read_bytes()


def state(place: Path) -> dict[str, bytes]:
    return {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()
    }


def test_the_first_use_makes_the_whole_tree_and_touches_nothing_else(root, work):
    before = state(root)
    made = copies.renew()
    assert state(root) == before
    assert made.first == work / "00_start.ipynb" and made.offers == []
    names = {*before, copies.MADE} - {"toc.yml"}
    assert set(state(work)) == names
    for path in work.rglob("*.ipynb"):
        code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert [c["source"] for c in code] == ["x = 1"]
        assert code[0]["outputs"] == [] and code[0]["execution_count"] is None


def test_the_lessons_of_the_workbook_are_copied_with_links_that_lead_somewhere(tmp_path):
    """In work/ beside notebooks/, and, for a handout, somewhere else."""
    for to in (CHECKOUT / "work", tmp_path / "handout"):
        there = {path.as_posix(): content for path, content in copies.tree(to)}
        assert {
            lesson.find().relative_to(notebooks_folder()).as_posix() for lesson in read_toc()
        } <= set(there)
        for name, content in there.items():
            text = content.decode()
            if name.endswith(".ipynb"):
                cells = json.loads(text)["cells"]
                assert not any("solution" in copies.tags(cell) for cell in cells)
                text = "\n".join("".join(c["source"]) for c in cells if "outputs" not in c)
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if not re.match(r"[a-z]+:|#", target):
                    path = (to / name).parent / target.partition("#")[0]
                    beside = path.resolve().relative_to(to.parent.resolve()).as_posix()
                    inside = beside.removeprefix(f"{to.name}/")
                    kept = to.parent == CHECKOUT and (CHECKOUT / beside).exists()
                    assert inside in there or kept, f"{name}: {target}"


def test_a_copy_that_was_changed_is_never_touched_and_the_new_version_is_offered(root, work):
    copies.renew()
    mine = edit(work / "things" / "01_sums.ipynb")
    for _ in range(2):
        assert copies.renew().offers == copies.offers() == []
    (root / "things" / "01_sums.ipynb").write_text(notebook("Next: another text"))
    for _ in range(2):
        assert copies.renew().offers == copies.offers() == ["sums"]
        assert (work / "things" / "01_sums.ipynb").read_bytes() == mine


def test_an_untouched_copy_is_renewed_silently_even_after_it_was_opened(root, work):
    copies.renew()
    opened = json.loads((work / "00_start.ipynb").read_text())
    opened["metadata"]["language_info"] = {"version": "3.99"}  # JupyterLab saves this by itself
    (work / "00_start.ipynb").write_text(json.dumps(opened, indent=4))
    (root / "00_start.ipynb").write_text(notebook("A better text"))
    (root / "words.md").write_text("# Better words")
    assert copies.renew().offers == []
    assert "A better text" in (work / "00_start.ipynb").read_text()
    assert (work / "words.md").read_text() == "# Better words"


def test_only_a_new_answer_is_no_new_version(root, work):
    copies.renew()
    edit(work / "00_start.ipynb")
    (root / "00_start.ipynb").write_text(notebook(WORDS, answer="x = 1 + 1"))
    assert copies.renew().offers == []


def test_reset_begins_anew_and_keeps_every_older_one(root, work):
    copies.renew()
    kept = {}
    for k in range(3):
        mine = edit(work / "things" / "01_sums.ipynb", f"x = {k}")
        fresh, aside = copies.reset("sums")
        assert fresh == work / "things" / "01_sums.ipynb" and "x = 1" in fresh.read_text()
        kept[aside] = mine
    assert len(kept) == 3 and all(path.read_bytes() == mine for path, mine in kept.items())
    assert all(re.fullmatch(r"01_sums\.before-[\d-]+\.ipynb", path.name) for path in kept)
    assert copies.renew().offers == [] and all(path.exists() for path in kept)
    assert copies.reset("things/02")[0].name == "02_more.ipynb"


def test_two_resets_at_once_lose_nothing(work, root):
    copies.renew()
    mine = edit(work / "00_start.ipynb")
    gate = threading.Barrier(8)

    def go() -> None:
        gate.wait()
        with contextlib.suppress(LabError):  # another was faster, and moved the file
            copies.reset("start")

    threads = [threading.Thread(target=go) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert mine in state(work).values()


@pytest.mark.parametrize("name", ["", "o", "no-such"])
def test_reset_of_what_is_not_one_lesson_changes_nothing(work, root, name):
    copies.renew()
    before = state(work)
    with pytest.raises(LabError, match="should be the name of one lesson"):
        copies.reset(name)
    assert state(work) == before


def test_a_lesson_with_another_number_keeps_the_readers_copy(root, work):
    copies.renew()
    edit(work / "things" / "01_sums.ipynb")
    edit(work / "00_start.ipynb")
    swapped = TOC.replace("things/sums", "things/x").replace("things/more", "things/sums")
    (root / "toc.yml").write_text(swapped.replace("things/x", "things/more"))
    (root / "things" / "01_sums.ipynb").rename(root / "things" / "tmp")
    (root / "things" / "02_more.ipynb").rename(root / "things" / "01_more.ipynb")
    (root / "things" / "tmp").rename(root / "things" / "02_sums.ipynb")
    (root / "00_start.ipynb").write_text(notebook(WORDS.replace("01_sums", "02_sums")))
    (root / "things" / "02_sums.ipynb").write_text(notebook("Next: [more](01_more.ipynb)"))
    (root / "words.md").write_text("# Words\n\n[more](things/01_more.ipynb)")
    assert copies.renew().offers == []
    assert "x = 5" in (work / "things" / "02_sums.ipynb").read_text()
    assert "things/02_sums.ipynb" in (work / "00_start.ipynb").read_text(), "links follow"
    assert {p.name for p in (work / "things").glob("*.ipynb")} == {"01_more.ipynb", "02_sums.ipynb"}


@pytest.mark.parametrize("record", ["", "no JSON", "[]"])
def test_where_the_record_is_lost_a_readers_work_is_not(root, work, record):
    copies.renew()
    mine = edit(work / "00_start.ipynb")
    (work / copies.MADE).write_text(record)
    (root / "00_start.ipynb").write_text(notebook("Another text"))
    assert copies.renew().offers == []
    assert (work / "00_start.ipynb").read_bytes() == mine


@pytest.mark.parametrize("content", [b"", b"\xff\xfe no JSON", b'{"cells": 3}', b"[]"])
def test_a_broken_copy_stays_until_it_is_reset(root, work, content):
    copies.renew()
    (work / "00_start.ipynb").write_bytes(content)
    copies.renew()
    assert (work / "00_start.ipynb").read_bytes() == content
    _, kept = copies.reset("start")
    assert kept.read_bytes() == content


def test_elsewhere_links_out_of_the_copies_become_text(root, tmp_path, monkeypatch):
    monkeypatch.setenv(copies.WORK, str(tmp_path / "mine"))
    assert copies.renew().first == tmp_path / "mine" / "00_start.ipynb"
    text = json.loads((tmp_path / "mine" / "00_start.ipynb").read_text())["cells"][0]["source"][1]
    assert text == WORDS.replace("[the README](../README.md)", "the README")


def test_a_handout_is_the_same_tree_and_wants_a_new_folder(root, tmp_path):
    written = list(copies.hand_out(tmp_path / "out"))
    copies.renew()
    assert {path.relative_to(tmp_path / "out").as_posix() for path in written} == set(
        state(root.parent / "work")
    ) - {copies.MADE}
    with pytest.raises(LabError, match="is there already"):
        list(copies.hand_out(tmp_path / "out"))


def test_a_place_that_cannot_be_written_is_said_with_what_to_do(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LabError, match="choose a folder that can be written"):
        list(copies.hand_out(tmp_path / "file" / "out"))
    monkeypatch.setenv(copies.WORK, str(tmp_path / "file" / "work"))
    with pytest.raises(LabError, match="or point REDIS_LAB_WORK at a folder that can be written"):
        copies.renew()


def test_git_and_ruff_do_not_look_into_work(tmp_path):
    (tmp_path / "work").mkdir()
    for name in (".gitignore", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "work" / "mine.py").write_text("import os, sys\nx=  1\n")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
    assert {"/work/", "/handout/"} <= set((CHECKOUT / ".gitignore").read_text().split())
