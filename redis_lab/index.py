"""Bring all files in line with `notebooks/toc.yml`: numbers, links, tables, Before and Next."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from urllib.parse import quote

from .errors import LabError
from .files import write_whole
from .reading_time import (
    LINES_OF_CODE_A_MINUTE,
    MINUTES_AN_EXERCISE,
    WORDS_A_MINUTE,
    estimate,
)
from .toc import Lesson, notebooks_folder, read_heading, read_toc, renumber_links

BEGIN, END = "<!-- lessons, written by redis-lab index -->", "<!-- end of lessons -->"
BADGES = "<!-- badges, written by redis-lab index -->", "<!-- end of badges -->"
TABLE = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), flags=re.S)
TIME = re.compile(r"^\*\*Time:\*\* .*$", flags=re.M)
NEXT = re.compile(r"^\*\*Next:\*\* .*$", flags=re.M)


def write_index(root: Path | None = None, *, check: bool = False) -> list[str]:
    """Update the files beside and below `root`, the notebooks' folder, to the order of toc.yml.

    Returns a line for each file that changes; with `check` nothing is written. Raises: LabError
    for a listed lesson without a notebook, a notebook without a heading, a page without a table.
    """
    root = root or notebooks_folder()
    listed = read_toc(root)
    here = {each.name: each.find() for each in listed}
    titles = {name: read_heading(path) for name, path in here.items()}
    changes = []
    neighbours = [None, *listed, None]
    for place, each in enumerate(listed):
        before = here[each.name].read_text(encoding="utf-8")
        around = neighbours[place], neighbours[place + 2]
        after = _in_cells(renumber_links(before, listed), each, around, listed, titles)
        changes += _written(here[each.name], before, after, root, check)
        if here[each.name] != each.path:
            changes.append(f"{here[each.name].relative_to(root.parent)} becomes {each.path.name}")
            if not check:
                os.rename(here[each.name], each.path)
    for path in _documents(root):
        before = path.read_text(encoding="utf-8")
        after = renumber_links(before, listed)
        if path == root.parent / "README.md":
            after = _with_table(after, path, _table(listed, titles, path.parent))
            after = _with_badges(after, path, _badges(root.parent, listed[0]))
        changes += _written(path, before, after, root, check)
    return changes


def _documents(root: Path) -> list[Path]:
    """The Markdown files that may point to a lesson."""
    top = root.parent
    return [
        path
        for place in (top, root, top / "docs", top / "data")
        for path in sorted(place.glob("*.md"))
        if path.name != "CHANGELOG.md"  # the changelog keeps a lesson's earlier file name
    ]


def _written(path: Path, before: str, after: str, root: Path, check: bool) -> list[str]:
    if before == after:
        return []
    if not check:
        write_whole(path, after.encode())
    return [f"{path.relative_to(root.parent)} is brought up to date"]


def _in_cells(
    text: str,
    lesson: Lesson,
    around: tuple[Lesson | None, Lesson | None],
    listed: list[Lesson],
    titles: dict[str, str],
) -> str:
    """The notebook's JSON with its generated lines: Time, Before, Next, and the table."""
    notebook = json.loads(text)
    previous, following = around
    here = lesson.path.parent
    needs = lesson.before or (_link(previous, titles, here) if previous else "nothing")
    goes_on = f"back to {_link(listed[0], titles, here)}"
    if following:
        goes_on = _link(following, titles, here)
    minutes, first_half = estimate(notebook["cells"])
    of_it = f", *Use it* {first_half} of them" if first_half else ""
    time = f"**Time:** about {minutes} minutes{of_it} · **Before:** {needs} · **Next:** {goes_on}"
    first, last = (
        notebook["cells"][0],
        [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"][-1],
    )
    for cell, pattern, line in ((first, TIME, time), (last, NEXT, f"**Next:** {goes_on}")):
        source, found = pattern.subn(line.replace("\\", r"\\"), "".join(cell["source"]))
        if found != 1:
            raise LabError(f"{lesson.path.name} needs one line that begins with {line[:9]}")
        cell["source"] = source.splitlines(keepends=True)
    for cell in notebook["cells"]:
        if BEGIN in "".join(cell["source"]):
            table = _table([each for each in listed if each != lesson], titles, here)
            source = _with_table("".join(cell["source"]), lesson.path, table)
            cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _link(to: Lesson, titles: dict[str, str], base: Path) -> str:
    return f"[{titles[to.name]}]({Path(os.path.relpath(to.path, base)).as_posix()})"


def _table(listed: list[Lesson], titles: dict[str, str], base: Path) -> str:
    rows = ["| | lesson | minutes | what it shows |", "| --- | --- | --- | --- |"]
    part = ""
    for each in listed:
        head = f"**{each.part}**" if each.part != part else ""
        link = _link(each, titles, base)
        rows.append(f"| {head} | {each.place}. {link} | {_minutes(each)} | {each.promise} |")
        part = each.part
    return "\n".join(
        [
            *rows,
            "",
            "Each lesson begins with *Use it*: what one needs in order to work. "
            "*Measure it and break it* comes after, and can wait. The minutes are counted: "
            f"{WORDS_A_MINUTE} words or {LINES_OF_CODE_A_MINUTE} lines of code a minute, "
            f"{MINUTES_AN_EXERCISE} minutes for an exercise.",
        ]
    )


def _minutes(lesson: Lesson) -> int:
    return estimate(json.loads(lesson.find().read_text(encoding="utf-8"))["cells"])[0]


def _with_table(text: str, path: Path, table: str) -> str:
    if len(TABLE.findall(text)) != 1:
        raise LabError(f"{path.name} needs one place for the lessons: {BEGIN} … {END}")
    return TABLE.sub(lambda _: f"{BEGIN}\n\n{table}\n\n{END}", text)


def _badges(top: Path, first: Lesson) -> str:
    """Links that open the lessons in a browser; empty unless pyproject.toml names a Repository."""
    project = top / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.exists() else ""
    address = tomllib.loads(text).get("project", {}).get("urls", {}).get("Repository", "")
    repository = address.rstrip("/").removesuffix(".git")
    opened = quote(f"lab/tree/work/{first.path.name}", safe="")
    binder = f"https://mybinder.org/v2/git/{quote(repository, safe='')}/HEAD?urlpath={opened}"
    badges = {"https://mybinder.org/badge_logo.svg": ("Open in Binder", binder)}
    if repository.startswith("https://github.com/"):
        codespace = repository.replace("https://github.com", "https://codespaces.new")
        image = "https://github.com/codespaces/badge.svg"
        badges[image] = ("Open in GitHub Codespaces", codespace)
    lines = [f"[![{text}]({image})]({link})" for image, (text, link) in badges.items()]
    return "\n".join(lines) if repository else ""


def _with_badges(text: str, path: Path, badges: str) -> str:
    before, found, rest = text.partition(BADGES[0])
    _, ended, after = rest.partition(BADGES[1])
    if found and ended:
        lines = [BADGES[0], *([f"\n{badges}\n"] if badges else []), BADGES[1]]
        return before + "\n".join(lines) + after
    if badges:
        raise LabError(f"{path.name} needs one place for the badges: {' … '.join(BADGES)}")
    return text
