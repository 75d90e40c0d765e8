"""notebooks/glossary.md: one entry for a word, in order, and every link into it leads to one."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from redis_lab import notebooks

PAGE = notebooks.notebooks_folder() / "glossary.md"
LINK = re.compile(r"\]\((?:\.\./)?glossary\.md#([^)\s]*)\)")


def words() -> list[str]:
    return re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)


def anchor(word: str) -> str:
    """As GitHub and JupyterLab make it from a heading in lower case."""
    return word.replace(" ", "-")


def texts() -> dict[str, str]:
    """Every page and lesson with its text."""
    found = {page.name: page.read_text(encoding="utf-8") for page in PAGE.parent.glob("*.md")}
    for path in notebooks.find():
        cells = nbformat.read(path, as_version=4).cells
        found[path.name] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return found


def test_the_words_are_in_order_and_there_once():
    found = words()
    assert len(found) > 50
    assert found == sorted(set(found))
    strange = [word for word in found if not re.fullmatch(r"[a-z0-9_ -]+", word)]
    assert not strange, "GitHub and JupyterLab make different anchors of them"


def test_each_word_is_explained_in_a_few_sentences():
    for part in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        word, _, text = part.partition("\n\n")
        assert 5 < len(text.split()) < 60, word


def test_every_link_into_the_glossary_leads_to_a_word():
    anchors = {anchor(word) for word in words()}
    linked = {name: set(LINK.findall(text)) for name, text in texts().items()}
    assert linked["00_start_here.ipynb"], "the door leads to no word of the glossary"
    assert not {name: lost for name, found in linked.items() if (lost := found - anchors)}


def test_every_lesson_that_the_glossary_names_is_there():
    links = re.findall(r"\]\(([^)#\s]+)\)", PAGE.read_text(encoding="utf-8"))
    assert not [link for link in links if not (Path(PAGE.parent) / link).exists()]
