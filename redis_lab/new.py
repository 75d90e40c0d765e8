"""`redis-lab new patterns/xyz`: the four files of a lesson, as a skeleton that passes the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import LabError
from .files import write_whole
from .index import write_index
from .notebooks import execute, write_notebook
from .toc import TOC, Lesson, notebooks_folder, read_toc

if TYPE_CHECKING:
    import nbformat

MODULE = '''"""The lesson on NAME: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable

import redis

from redis_lab.figures import Chart, DotPlot
from redis_lab.judging import NotYet, exercise

FIGURES: dict[str, Chart] = {
    "NAME": DotPlot(
        title="What a command costs",
        x="p50_us",
        xlabel="time for one command (µs, log scale)",
    ),
}


@exercise(
    hints=(
        "Without an option, a key lives until somebody deletes it. Look at the options of SET.",
        "`ex` is the time to live in seconds.",
    )
)
def write(r: redis.Redis, answer: Callable[[redis.Redis, str, str], object]) -> str:
    answer(r, "check:NAME", "hello")
    found, ttl = r.get("check:NAME"), r.ttl("check:NAME")
    r.delete("check:NAME")
    if found != "hello":
        raise NotYet(f"the key should hold 'hello'; it holds {found!r}.")
    if ttl < 1:
        raise NotYet("the value is right, and the key has no time to live.")
    return "right: the value is there, and it will expire"


@exercise(
    hints=(
        "What does GET return for a key that is not there?",
        "It returns None. Write `or` and what should be returned instead.",
    )
)
def read(r: redis.Redis, answer: Callable[[redis.Redis, str], str]) -> str:
    r.set("check:NAME", "hello", ex=60)
    there = answer(r, "check:NAME")
    r.delete("check:NAME")
    absent = answer(r, "check:NAME")
    if there != "hello":
        raise NotYet(f"the key holds 'hello'; you say {there!r}.")
    if absent != "nothing":
        raise NotYet(f"the key is absent, which should give 'nothing'; you say {absent!r}.")
    return "right: the value, or 'nothing' when the key is absent"
'''

TESTS = '''"""The exercises of the lesson on NAME."""

from __future__ import annotations

import pytest

from redis_lab.judging import NotYet
from redis_lab.lessons import NAME as exercises


def test_write(r):
    assert exercises.write(r, lambda r, key, value: r.set(key, value, ex=60))
    with pytest.raises(NotYet, match="no time to live"):
        exercises.write(r, lambda r, key, value: r.set(key, value))
    with pytest.raises(NotYet, match="holds None"):
        exercises.write(r, lambda r, key, value: None)


def test_read(r):
    assert exercises.read(r, lambda r, key: r.get(key) or "nothing")
    with pytest.raises(NotYet, match="the key is absent"):
        exercises.read(r, lambda r, key: r.get(key))
    with pytest.raises(NotYet, match="you say 'x'"):
        exercises.read(r, lambda r, key: "x")
'''

# The notebook's cells, each after a line of dashes; `---code` and its tags begin a code cell.
CELLS = """
# TITLE

*A surprise in one or two sentences: what goes wrong, or what it costs.*

**Time:** MINUTES minutes · **Before:** – · **Next:** –
---
## By the end you will be able to

- do the first thing;
- do the second thing;
- measure what it costs.
---code
import redis_lab as lab

r = lab.connect()
---
## The first step

One idea, one short cell, and one sentence that reads its output.
---code
r.set("NAME:greeting", "hello", ex=60)
r.get("NAME:greeting")
---
## Predict

How many times longer does a write take than a read?
---code
guess = lab.predict(times_longer=2)  # change me
guess
---
## Measure
---code nbval-ignore-output times
measured = lab.bench.compare(
    {
        "GET": lambda: r.get("NAME:greeting"),
        "SET": lambda: r.set("NAME:greeting", "hello", ex=60),
    },
    client=r,
)
lab.lesson.figure("NAME", measured, client=r)
---
## Explain
---code nbval-ignore-output times
guess.reveal(times_longer=measured.ratio("SET", "GET"))
---code
with lab.wire(r) as wire:
    r.get("NAME:greeting")
lab.claim("a read is one round trip", wire.round_trips == 1)
---
## Break it: the naive form

Show the code that most of us write first, and make it fail.
---code
r.set("NAME:greeting", "hello again")
lab.claim("a plain SET takes the time to live away", r.ttl("NAME:greeting") == -1)
---
## When not to use it

- Say what to use instead.

## Your turn

**1. Write.** Store the value so that it expires.
---code exercise
def write(r, key, value):
    r.set(key, value)


lab.check("NAME.write", write)
---code solution
def write(r, key, value):
    r.set(key, value, ex=60)


lab.check("NAME.write", write)
---
**2. Read.** Return the value, or `"nothing"` when the key is absent.
---code exercise
def read(r, key):
    return r.get(key)


lab.check("NAME.read", read)
---code solution
def read(r, key):
    return r.get(key) or "nothing"


lab.check("NAME.read", read)
---code
lab.clean_up(r)
---
## What you saw

- The first thing.
- The second thing.
- What it costs.

**Read on:** [Commands](https://redis.io/docs/latest/commands/)

**Next:** –
"""


def write_lesson(lesson: str, minutes: int = 30, title: str = "") -> Iterator[Path]:
    """Write the four files of a lesson such as `patterns/xyz`; yield each path.

    Its line in toc.yml comes after the last lesson of the same folder. The notebook is executed, so
    that it has the outputs that the rules require. Raises: LabError for a name that is in use or
    cannot be a module's name, and for a folder that has no lesson yet.
    """
    root = notebooks_folder()
    place, name = lesson.rpartition("/")[::2]
    if not re.fullmatch(r"[a-z]+/[a-z][a-z0-9_]*", lesson):
        raise LabError(f"{lesson!r} should be a folder and a module's name, like patterns/xyz.")
    listed = read_toc(root)
    if name in {each.name for each in listed}:
        raise LabError(f"There is a lesson {name!r} already.")
    before = [each for each in listed if each.lesson.startswith(f"{place}/")]
    if not before:
        places = sorted({each.lesson.partition("/")[0] for each in listed if "/" in each.lesson})
        raise LabError(f"There is no folder {place!r} with lessons; there are {', '.join(places)}.")
    title = title or name.replace("_", " ").capitalize()
    named = {"NAME": name, "TITLE": title, "MINUTES": str(minutes)}
    files = {
        root.parent / "redis_lab" / "lessons" / f"{name}.py": _fill_in(MODULE, named),
        root.parent / "tests" / "lessons" / f"test_{name}.py": _fill_in(TESTS, named),
    }
    for path in files:
        if path.exists():
            raise LabError(f"{path.relative_to(root.parent)} is there already.")
    for path, text in files.items():
        write_whole(path, text.encode())
        yield path
    toc = root / TOC
    write_whole(toc, _insert_entry(toc.read_text(encoding="utf-8"), before[-1], lesson, minutes))
    yield toc
    [entry] = [each for each in read_toc(root) if each.name == name]
    write_notebook(entry.path, _make_notebook(name, named))
    write_index(root)
    *_, (_, executed) = execute(entry.path, "quick")
    write_notebook(entry.path, executed)
    yield entry.path


def _fill_in(text: str, named: dict[str, str]) -> str:
    for word, value in named.items():
        text = re.sub(rf"\b{word}\b", value, text)
    return text


def _insert_entry(toc: str, after: Lesson, lesson: str, minutes: int) -> bytes:
    """The text of toc.yml with another entry, its comments and order kept."""
    head, own, rest = toc.partition(f"- lesson: {after.lesson}\n")
    end = re.search(r"^\s*- ", rest, flags=re.M)
    cut = end.start() if end else len(rest)
    entry = f"    - lesson: {lesson}\n      minutes: {minutes}\n      promise: one line\n"
    return (head + own + rest[:cut] + entry + rest[cut:]).encode()


def _make_notebook(name: str, named: dict[str, str]) -> nbformat.NotebookNode:
    from nbformat import v4

    cells = []
    for k, block in enumerate(re.split(r"^---", _fill_in(CELLS, named).strip(), flags=re.M)):
        head, _, source = block.partition("\n") if k else ("", "", block)
        kind, *more = head.split(maxsplit=2)[:3] or [""]
        metadata: dict[str, Any] = {"tags": more[:1]} if more else {}
        if more[1:]:
            metadata["reason"] = more[1]
        if more[:1] == ["solution"]:
            metadata["jupyter"] = {"source_hidden": True}
        make = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
        cells.append(make(source.strip(), metadata=metadata, id=f"{name}-{k:03}"))
    return v4.new_notebook(cells=cells)
