"""The answer key to a handout: a page for teachers, with what the learners' copies leave out.

For each lesson: the predictions with what was measured when the lesson was committed, and each
exercise with its solution.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import copies
from .logbook import CHECKED
from .toc import Lesson, read_toc

CELL = re.compile(r"<td>(.*?)</td>")
ROW = re.compile(r"<tr>(.*?)</tr>", re.S)


def write_answers(to: Path) -> list[Path]:
    """Write the page into a new folder. Raises: LabError where the folder is there already."""
    return copies.make_folder(to, [(Path("answers.html"), render_answers().encode())])


def render_answers() -> str:
    """All answers, in the order of the lessons."""
    parts = []
    for lesson in read_toc():
        cells = copies.read_notebook(lesson.find())["cells"]
        parts.append(f"<h2>{lesson.place}. {html.escape(lesson.title())}</h2>\n")
        if rows := "".join(predictions(cells)):
            heads = "<tr><th>prediction</th><th>measured</th><th>theory</th></tr>"
            parts.append(f"<table>{heads}\n{rows}</table>\n")
        parts += solutions(lesson, cells)
    return PAGE.format("".join(parts))


def predictions(cells: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each prediction that a lesson reveals, from the committed output."""
    for cell in cells:
        if cell["cell_type"] != "code" or ".reveal(" not in "".join(cell["source"]):
            continue
        for output in cell["outputs"]:
            table = "".join(output.get("data", {}).get("text/html", ""))
            for row in ROW.findall(table):
                if named := CELL.findall(row):
                    name, _, measured, *theory = named[:-1]
                    told = "".join(f"<td>{each}</td>" for each in (name, measured, *theory))
                    yield f"<tr>{told}</tr>\n"


def solutions(lesson: Lesson, cells: list[dict[str, Any]]) -> Iterator[str]:
    """Each exercise's text and its solution."""
    question = ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            question = source.rpartition("## Your turn")[2].strip()
        elif "solution" in copies.tags(cell):
            [name] = CHECKED.findall(source)
            code = source.removeprefix(copies.FOLDED).strip()
            yield (
                f"<h3>{html.escape(name)}</h3>\n<p>{inline(question)}</p>\n"
                f"<pre>{html.escape(code)}</pre>\n"
            )


def inline(text: str) -> str:
    """Markdown within a line, as HTML; links become their text."""
    text = html.escape(text, quote=False)
    for pattern, put in INLINE:
        text = re.sub(pattern, put, text)
    return text


INLINE = (
    (r"`([^`\n]+)`", r"<code>\1</code>"),
    (r"\[([^\]]+)\]\([^)\s]+\)", r"\1"),
    (r"\*\*([^*\n]+)\*\*", r"<strong>\1</strong>"),
    (r"(?<![*\w])\*([^*\s][^*\n]*)\*", r"<em>\1</em>"),
)
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Answers</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 50em; padding: 0 1em; }}
pre {{ background: #f3f3f3; padding: .8em; overflow-x: auto; font-size: .85em; }}
p {{ white-space: pre-line; }}
h3, p, td {{ overflow-wrap: anywhere; }}
td, th {{ text-align: left; padding: .1em 1.5em .1em 0; }}
</style>
<h1>Answers</h1>
<p>What was measured, was measured on one machine when the lessons were committed: on another
the numbers are others, and the directions should be the same.</p>
{}</html>
"""
