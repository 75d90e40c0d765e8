"""Copies of the lessons for learners: `work/`, which is the reader's own, and handouts.

A copy has no solutions and no outputs. The folders are those of `notebooks/`: the lessons in the
table of contents, and the pages beside them. When a lesson changes, an unchanged copy in `work/` is
replaced without a message. A copy that the reader has changed is left as it is, and the new version
is offered. To tell the two apart, `work/.made.json` holds a fingerprint of each copy as it was
made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .child import TemporaryFolder
from .errors import LabError
from .files import write_whole
from .toc import notebooks_folder, read_toc, renumber_links

WORK = "REDIS_LAB_WORK"  # another folder for the copies
ELSEWHERE = f"point {WORK} at a folder"
MADE = ".made.json"
FOLDED = "# One solution"  # the first line of a solution: JupyterLab shows it of a folded cell
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
NUMBERED = re.compile(r"\b\d\d+_(\w+\.ipynb)")


def work_folder() -> Path:
    """Where the reader's own copies are: REDIS_LAB_WORK, or `work/` of the checkout."""
    named = os.environ.get(WORK)
    return Path(named).absolute() if named else notebooks_folder().parent / "work"


def without_solutions(path: Path, change: Callable[[str], str] = str) -> str:
    """A notebook's JSON without the cells tagged `solution`, without outputs and their counts.

    `change` is applied to the text of each Markdown cell.
    """
    notebook = read_notebook(path)
    kept = [cell for cell in notebook["cells"] if "solution" not in tags(cell)]
    for cell in kept:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        else:
            cell["source"] = change("".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(notebook | {"cells": kept}, indent=1, ensure_ascii=False) + "\n"


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's JSON. Raises: LabError if the file is not a notebook."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(notebook["cells"], list)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise LabError(f"{path.name} is not a notebook. Restore it from the repository.") from error
    return notebook


def tags(cell: dict[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def tree(to: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of a folder of copies: the path of each, relative to the folder, and its content.

    They are the lessons, the pages, and the images that these show. Links to files outside the
    notebooks' folder are kept if the copies are inside the checkout, and become plain text
    elsewhere.
    """
    root = notebooks_folder().resolve()
    inside = to.resolve().parent == root.parent
    images: set[Path] = set()

    def follow(text: str, at: Path) -> str:
        for _, target in LINK.findall(text):
            if target.endswith(IMAGES) and (at / target).resolve().is_relative_to(root):
                images.add((at / target).resolve())
        return text if inside else LINK.sub(partial(_kept, at=at, root=root), text)

    for lesson in read_toc(root):
        path = lesson.find()
        text = without_solutions(path, partial(follow, at=path.parent.resolve()))
        yield path.resolve().relative_to(root), text.encode()
    for path in sorted(root.glob("*.md")):
        yield path.relative_to(root), follow(path.read_text("utf-8"), path.parent).encode()
    for image in sorted(images):
        yield image.relative_to(root), image.read_bytes()


IMAGES = (".png", ".svg", ".jpg", ".gif")


def _kept(link: re.Match[str], at: Path, root: Path) -> str:
    """The link unchanged, or only its text if the target is not among the copies."""
    text, target = link.groups()
    here = (at / target.partition("#")[0]).resolve()
    leaves = not re.match(r"[a-z]+:", target) and not here.is_relative_to(root)
    return text if leaves and here.exists() else link[0]


def hand_out(to: Path) -> list[Path]:
    """Write copies of all lessons and pages into a new folder, all or none; return their paths.

    Raises: LabError if the folder exists already.
    """
    return make_folder(to, tree(to))


def make_folder(to: Path, files: Iterable[tuple[Path, bytes]]) -> list[Path]:
    """Write files into a new folder, all or none; return their paths. Raises: as `hand_out`."""
    if to.exists():
        raise LabError(f"{to} is there already; name a new folder.")
    with contextlib.suppress(OSError):  # the next line reports this
        to.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(f".{to.name}-making-", to.parent) as folder:
        names = []
        for path, content in files:
            write_whole(Path(folder, to.name, path), content, instead="name a folder")
            names.append(to / path)
        Path(folder, to.name).rename(to)
    return names


def fingerprint(content: bytes) -> str:
    """A hash of a copy's content, equal for two copies between which the reader changed nothing.

    Of a notebook, only the type and the source of each cell count, and whether it has outputs,
    because JupyterLab writes metadata of its own. The numbers of lessons do not count, because
    their order may change.
    """
    text = content.decode(errors="replace")
    try:
        parts = [
            (cell["cell_type"], "".join(cell["source"]), bool(cell.get("outputs")))
            for cell in json.loads(text)["cells"]
        ]
    except (ValueError, KeyError, TypeError):
        pass  # a page, or a damaged notebook
    else:
        text = json.dumps([part for part in parts if part[1] or part[2]])
    return hashlib.sha256(NUMBERED.sub(r"\1", text).encode()).hexdigest()


@dataclass
class Work:
    """The reader's own copies after `renew`: the folder, and the new versions that are offered."""

    root: Path
    offers: list[str]
    """Names of lessons that have a new version while the reader has changed the copy."""

    @property
    def first(self) -> Path:
        """The copy of the first lesson."""
        return self.root / read_toc()[0].find().name


def offers() -> list[str]:
    """Names of the lessons that are newer than the reader's copies; changes nothing."""
    root = work_folder()
    made = _made(root)
    if not made:
        return []
    return [
        name_of(path)
        for path, content in tree(root)
        if (root / path).exists() and made.get(_key(path)) not in (None, fingerprint(content))
    ]


def renew() -> Work:
    """Make the reader's copies that are missing, and update those that are unchanged.

    A copy that the reader has changed is kept; only the numbers in its links are updated. If its
    lesson has changed since, the new version is offered. Raises: LabError if the copies cannot be
    written.
    """
    root, listed = work_folder(), read_toc()
    made, offered = _made(root), []
    for path, content in tree(root):
        key, copy, new = _key(path), root / path, fingerprint(content)
        _follow_number(copy)
        before = copy.read_bytes() if copy.exists() else None
        if before is None or (made.get(key) != new and fingerprint(before) == made.get(key)):
            write_whole(copy, content, instead=ELSEWHERE)
            made[key] = new
            continue
        if made.get(key, new) != new:
            offered.append(name_of(path))
        if copy.suffix == ".ipynb":
            text = before.decode(errors="surrogateescape")
            after = renumber_links(text, listed).encode(errors="surrogateescape")
            if after != before:
                write_whole(copy, after, instead=ELSEWHERE)
    write_whole(root / MADE, json.dumps(made, indent=1).encode(), instead=ELSEWHERE)
    return Work(root, offered)


def reset(name: str) -> tuple[Path, Path | None]:
    """Start a lesson again; returns its new copy, and where the earlier copy is kept, if there was
    one.

    `name` is part of the lesson's path. Raises: LabError if it does not match exactly one lesson.
    """
    root = work_folder()
    named = name.removesuffix(".ipynb")
    found = [(path, content) for path, content in tree(root) if named in path.as_posix()]
    exact = [each for each in found if named in (name_of(each[0]), each[0].stem)]
    if len(exact or found) != 1:
        fits = ", ".join(name_of(path) for path, _ in found) or "none"
        raise LabError(f"{name!r} should be the name of one lesson; it fits {fits}.")
    [(path, content)] = exact or found
    copy = root / path
    _follow_number(copy)
    kept = _put_aside(copy) if copy.exists() else None
    write_whole(copy, content, instead=ELSEWHERE)
    made = _made(root) | {_key(path): fingerprint(content)}
    write_whole(root / MADE, json.dumps(made, indent=1).encode(), instead=ELSEWHERE)
    return copy, kept


def _put_aside(copy: Path) -> Path:
    """Rename a copy to a free name, so that nothing is overwritten, even by a second process."""
    day = time.strftime("%Y-%m-%d")
    for number in range(1, 1000):
        more = "" if number == 1 else f"-{number}"
        kept = copy.with_name(f"{copy.stem}.before-{day}{more}{copy.suffix}")
        try:
            kept.touch(exist_ok=False)
            os.replace(copy, kept)
        except FileExistsError:
            continue
        except OSError as error:
            raise LabError(
                f"{copy.name} could not be kept: {error.strerror}. Free some disk space, or make "
                "its folder writable."
            ) from error
        return kept
    raise LabError(f"There are a thousand older versions of {copy.name}; delete some.")


def _follow_number(copy: Path) -> None:
    """Rename the copy of a lesson whose number has changed."""
    if copy.exists() or copy.suffix != ".ipynb" or not copy.parent.is_dir():
        return
    pattern = re.compile(rf"(\d+_)?{re.escape(name_of(copy))}\.ipynb")
    before = [path for path in copy.parent.glob("*.ipynb") if pattern.fullmatch(path.name)]
    if len(before) == 1:
        os.rename(before[0], copy)


def name_of(path: Path) -> str:
    """A lesson's name, from the path of its notebook."""
    return re.sub(r"^\d+_", "", path.stem)


def _key(path: Path) -> str:
    """A copy's name in the record of fingerprints: without the lesson's number."""
    return (path.parent / f"{name_of(path)}{path.suffix}").as_posix()


def _made(root: Path) -> dict[str, str]:
    """The fingerprints of the copies as they were made; empty if there is no record."""
    try:
        made = json.loads((root / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}
