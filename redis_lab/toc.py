"""The lessons in reading order, as `notebooks/toc.yml` lists them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from .errors import LabError

TOC = "toc.yml"
NOTEBOOK = re.compile(r"\b(?:\d\d+_)?([a-z]\w*)\.ipynb\b")  # its file, and in that its name


def notebooks_folder() -> Path:
    """The checkout's `notebooks/`. Raises: LabError if the package was installed without them."""
    found = Path(__file__).resolve().parents[1] / "notebooks"
    if not found.is_dir():
        raise LabError("The notebooks are not here; install from a checkout: pip install -e .")
    return found


@dataclass(frozen=True)
class Lesson:
    """One entry of the table of contents.

    `place` is its number in reading order, `lesson` its path without number and suffix, such as
    `structures/hashes`; `before` says what to know first, if that is not the lesson before it.
    """

    root: Path
    place: int
    part: str
    lesson: str
    promise: str
    before: str = ""

    @property
    def name(self) -> str:
        return self.lesson.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """The path that its notebook should have: the file name begins with the place."""
        return self.root / Path(self.lesson).parent / f"{self.place:02}_{self.name}.ipynb"

    def find(self) -> Path:
        """Its notebook, even if the number in the file name is outdated. Raises: LabError."""
        if self.path.exists():
            return self.path
        pattern = re.compile(rf"(\d+_)?{re.escape(self.name)}\.ipynb")
        found = [path for path in self.path.parent.glob("*.ipynb") if pattern.fullmatch(path.name)]
        if len(found) != 1:
            many = " and ".join(sorted(path.name for path in found)) or "no notebook"
            raise LabError(f"{TOC}: {self.lesson} should be one notebook; there is {many}.")
        return found[0]

    def title(self) -> str:
        """The notebook's first heading."""
        return read_heading(self.find())


def read_heading(path: Path) -> str:
    try:
        [first, *_] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        [title] = re.findall(r"\A# (.+)$", "".join(first["source"]), flags=re.M)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path.name} does not begin with a heading: # Title.") from error
    return title


def read_toc(root: Path | None = None) -> list[Lesson]:
    """Every lesson in reading order. Raises: LabError that says what is wrong in toc.yml."""
    root = root or notebooks_folder()
    try:
        parts = yaml.safe_load((root / TOC).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError(
            f"notebooks/{TOC} is missing: it lists the lessons. "
            f"Restore it: git checkout notebooks/{TOC}"
        ) from None
    except yaml.YAMLError as error:
        raise LabError(f"notebooks/{TOC} cannot be read: {error}") from None
    found: list[Lesson] = []
    for part in parts if isinstance(parts, list) else [parts]:
        if not isinstance(part, dict) or not isinstance(part.get("lessons"), list):
            raise LabError(f"notebooks/{TOC}: a part needs `part` and `lessons`, not {part!r}.")
        for entry in part["lessons"]:
            found.append(_lesson(root, len(found), str(part.get("part", "")), entry))
    names = [each.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"notebooks/{TOC}: {', '.join(twice)} is there twice; remove one.")
    return found


def _lesson(root: Path, place: int, part: str, entry: Any) -> Lesson:
    known = {field.name for field in fields(Lesson)} - {"root", "place", "part"}
    needed = known - {"before"}
    if isinstance(entry, dict) and "minutes" in entry:
        raise LabError(
            f"notebooks/{TOC}: {entry.get('lesson')}: remove the line minutes; they are counted "
            "from the notebook."
        )
    if not isinstance(entry, dict) or not needed <= set(entry) <= known:
        raise LabError(
            f"notebooks/{TOC}: a lesson has {', '.join(sorted(needed))} and perhaps before, "
            f"not {entry!r}."
        )
    if not re.fullmatch(r"([a-z_]+/)?[a-z]\w*", str(entry["lesson"])):
        raise LabError(f"notebooks/{TOC}: {entry['lesson']!r} should be like structures/hashes.")
    return Lesson(root=root, place=place, part=part, **entry)


def renumber_links(text: str, listed: list[Lesson]) -> str:
    """The text, with its links to notebooks updated to the current numbers."""
    today = {each.name: each.path.name for each in listed}
    return NOTEBOOK.sub(lambda found: today.get(found[1], found[0]), text)
