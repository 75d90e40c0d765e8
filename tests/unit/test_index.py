"""The one order of the lessons, and what `redis-lab index` writes from it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from redis_lab import lessons as modules
from redis_lab.errors import LabError
from redis_lab.index import write_index
from redis_lab.toc import notebooks_folder, read_toc

FIRST, SECOND = "structures/sets", "structures/sorted_sets"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what carries the order; returns its notebooks' folder."""
    top = notebooks_folder().parent
    shutil.copytree(top / "notebooks", tmp_path / "notebooks")
    for name in ("README.md", "docs"):
        if (top / name).is_dir():
            shutil.copytree(top / name, tmp_path / name)
        elif (top / name).exists():
            shutil.copy(top / name, tmp_path / name)
    return tmp_path / "notebooks"


def change(root: Path, old: str, new: str, name: str = "toc.yml") -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def swap(root: Path) -> None:
    change(root, FIRST, "structures/wait")
    change(root, SECOND, FIRST)
    change(root, "structures/wait", SECOND)


def first_cell(path: Path) -> str:
    return "".join(json.loads(path.read_text())["cells"][0]["source"])


def code_of(cells: list[dict]) -> list[str]:
    """The code cells and their outputs, but for the numbers of the lessons that these name."""
    found = [json.dumps(cell) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"\d\d_(?=(sorted_)?sets\.ipynb)", "", cell) for cell in found]


def test_what_is_committed_agrees_with_the_toc():
    assert write_index(check=True) == [], "run: redis-lab index"


def test_each_lesson_has_its_module_and_each_module_its_lesson():
    files = Path(modules.__file__).parent.glob("[!_]*.py")
    assert {path.stem for path in files} == {lesson.name for lesson in read_toc()}


def test_two_lessons_change_places(checkout):
    before = {path.stem[3:]: path for path in checkout.rglob("*.ipynb")}
    cells = {name: json.loads(path.read_text())["cells"] for name, path in before.items()}
    swap(checkout)
    foreseen = write_index(checkout, check=True)
    assert {path.stem[3:]: path for path in checkout.rglob("*.ipynb")} == before
    assert write_index(checkout) == foreseen and write_index(checkout) == []
    here = checkout / "structures"
    assert (here / "06_sorted_sets.ipynb").exists() and (here / "07_sets.ipynb").exists()
    assert "**Next:** [Sorted sets](06_sorted_sets.ipynb)" in first_cell(here / "05_lists.ipynb")
    assert "**Before:** [Sets](07_sets.ipynb)" in first_cell(here / "08_streams.ipynb")
    readme = (checkout.parent / "README.md").read_text()
    assert readme.index("6. [Sorted sets]") < readme.index("7. [Sets]")
    assert not re.search(r"06_sets|07_sorted_sets", readme)
    for path in checkout.rglob("*.ipynb"):
        assert not re.search(r"06_sets|07_sorted_sets", path.read_text())
        after = json.loads(path.read_text())["cells"]
        assert code_of(after) == code_of(cells[path.stem[3:]])


def test_back_again_every_byte_is_the_same(checkout):
    files = sorted(path for path in checkout.parent.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    swap(checkout)
    assert write_index(checkout)
    swap(checkout)
    assert write_index(checkout)
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.parametrize(
    ("old", "new", "trouble"),
    [
        (FIRST, "structures/baskets", "structures/baskets should be one notebook; there is no"),
        (FIRST, SECOND, "sorted_sets is there twice"),
        (FIRST, f"{FIRST}\n      minutes: 20", "remove the line minutes"),
        ("promise: when", "motto: when", "a lesson has lesson, promise"),
        ("- part: Structures", "- part: [", "cannot be read"),
        ("  lessons:", "  lesson:", "a part needs"),
        (FIRST, "06_sets", "should be like structures/hashes"),
    ],
)
def test_a_toc_that_is_wrong(checkout, old, new, trouble):
    change(checkout, old, new)
    files = {path: path.read_bytes() for path in checkout.parent.rglob("*") if path.is_file()}
    with pytest.raises(LabError, match=re.escape(trouble)):
        write_index(checkout)
    assert {p: p.read_bytes() for p in checkout.parent.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize(
    ("name", "old", "new", "trouble"),
    [
        ("structures/06_sets.ipynb", "**Time:**", "**Takes:**", "06_sets.ipynb needs one line"),
        ("structures/06_sets.ipynb", "# Sets", "Sets", "does not begin with a heading"),
        ("../README.md", "<!-- end of lessons -->", "", "README.md needs one place"),
    ],
)
def test_a_page_that_has_no_place_for_it(checkout, name, old, new, trouble):
    change(checkout, old, new, name)
    with pytest.raises(LabError, match=re.escape(trouble)):
        write_index(checkout)


def test_badges_follow_from_the_address_of_the_repository(checkout):
    readme, project = checkout.parent / "README.md", checkout.parent / "pyproject.toml"
    assert "mybinder.org/v2" not in readme.read_text()
    project.write_text('[project.urls]\nRepository = "https://github.com/ada/shop.git"\n')
    assert write_index(checkout, check=True) == ["README.md is brought up to date"]
    write_index(checkout)
    links = re.findall(r"\]\((https://(?:mybinder\.org/v2|codespaces)[^)]*)\)", readme.read_text())
    assert links == [
        "https://mybinder.org/v2/git/https%3A%2F%2Fgithub.com%2Fada%2Fshop/HEAD"
        "?urlpath=lab%2Ftree%2Fwork%2F00_start_here.ipynb",
        "https://codespaces.new/ada/shop",
    ]
    project.write_text('[project.urls]\nRepository = "https://example.org/ada/shop"\n')
    write_index(checkout)
    assert "codespaces" not in readme.read_text() and write_index(checkout) == []
    change(checkout, "<!-- end of badges -->", "", "../README.md")
    with pytest.raises(LabError, match=r"README\.md needs one place for the badges"):
        write_index(checkout)
    project.unlink()
    assert write_index(checkout) == []


def test_no_toc(tmp_path):
    with pytest.raises(LabError, match=r"toc\.yml is missing"):
        read_toc(tmp_path)
