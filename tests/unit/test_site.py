"""The parts of `make site` that need no build: the check of a built site, and generated pages.

tests/browser opens the built site itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))

import links  # noqa: E402
import pages  # noqa: E402

from redis_lab.toc import read_toc  # noqa: E402

WHOLE = {
    "index.html": '<h1 id="top">Home</h1><a href="a/one.html#part">1</a><a href="https://x.io">x</a>'
    '<img src="a/b.png" alt="a curve"><link rel="stylesheet" href="style.css?digest=1">',
    "a/one.html": '<h2 id="part">1</h2><a href="../index.html">back</a><a href="#part">up</a>'
    '<a href="../a/">index</a><style>i{background:url(data:image/png;base64,AA==)}</style>',
    "a/index.html": "<a href='one.html'>1</a>",
    "a/b.png": "",
    "style.css": "@font-face { src: url('a/b.png') }",
}


@pytest.fixture
def site(tmp_path):
    def build(**changes: str) -> Path:
        for name, text in (WHOLE | changes).items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return build


def test_a_whole_site_has_no_fault(site):
    assert links.faults(site()) == []


def test_an_empty_folder_is_no_site(tmp_path):
    assert links.faults(tmp_path) != []


@pytest.mark.parametrize(
    "fault",
    [
        '<a href="gone.html">x</a>',
        '<a href="../index.html#gone">x</a>',
        '<a href="#gone">x</a>',
        '<a href="../../outside.html">x</a>',
        '<a href="02_notebook.ipynb">x</a>',
        '<img src="gone.png" alt="x">',
        '<img src="b.png">',
        '<img src="b.png" alt=" ">',
        '<img src="b.png" alt="x" srcset="b.png 1x, https://x.io/b.png 2x">',
        '<script src="https://x.io/x.js"></script>',
        '<script src="//x.io/x.js"></script>',
        '<link rel="preload" href="https://x.io/x.woff2">',
        '<link rel="stylesheet" href="gone.css">',
        '<iframe src="https://x.io"></iframe>',
        "<style>@import 'https://x.io/x.css';</style>",
        '<p style="background: url(https://x.io/x.png)">x</p>',
    ],
)
def test_a_fault_in_a_page_is_found(site, fault):
    [found] = links.faults(site(**{"a/two.html": fault}))
    assert found.startswith("a/two.html: ")


def test_a_fault_in_a_style_sheet_is_found(site):
    [found] = links.faults(site(**{"style.css": "@font-face { src: url(https://x.io/x.woff2) }"}))
    assert found.startswith("style.css: is loaded from elsewhere")


# ---------------------------------------------------------------- generated pages


def test_the_home_page_lists_the_lessons_in_the_order_of_the_toc():
    text = pages.home((ROOT / "README.md").read_text())
    trees = text.split("```{toctree}")[1:]
    listed = [line for tree in trees for line in tree.splitlines() if line.startswith("notebooks/")]
    wanted = [f"notebooks/{pages.link(each).removesuffix('.ipynb')}" for each in read_toc()]
    assert listed[: len(wanted)] == wanted
    assert listed[len(wanted) :] == ["notebooks/glossary", "notebooks/from_node"]


def test_every_pattern_has_a_page_with_its_source():
    files = {f"patterns/{file.stem}.md" for file in pages.PATTERNS.glob("[a-z]*.py")}
    found = pages.patterns()
    assert set(found) == files | {"patterns/index.md"}
    for page in files:
        assert f"{{literalinclude}} ../redis_lab/{Path(page).with_suffix('.py')}" in found[page]
        assert "**Public names:** `" in found[page]


def test_the_status_counts_what_the_notebooks_say():
    run = pages.Run(next(each.find() for each in read_toc() if each.name == "strings"))
    assert run.held > 5 and run.failed == 0
    assert run.solved == run.exercises == 2
    assert run.experiments == ["strings_size"]
    assert run.server.startswith("Valkey 9.")


def test_a_claim_that_did_not_hold_is_counted_as_such(tmp_path):
    def cell(source: str, text: str) -> dict:
        output = {"text": text.splitlines(keepends=True)}
        return {"cell_type": "code", "metadata": {}, "source": [source], "outputs": [output]}

    cells = [
        cell("r = lab.connect()", "Redis 8.2.0, path, TCP"),
        cell("lab.claim(1, 2)", "✓ this holds\n✗ this does not\n  why"),
        cell("print(3)", "✓ no claim"),
    ]
    notebook = tmp_path / "x.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    run = pages.Run(notebook)
    assert (run.cells, run.held, run.failed, run.server) == (3, 1, 1, "Redis 8.2.0")


def test_the_status_has_a_row_for_each_lesson_and_adds_up_the_results():
    lines = pages.status().splitlines()
    for place, each in enumerate(read_toc()):
        [row] = [line for line in lines if line.startswith(f"| {place}. [{each.title()}](")]
        assert row.count("2026") >= 1 and row.count(" of ") == 2
    last_columns = [int(line.split("|")[-2]) for line in lines if "| full |" in line]
    assert sum(last_columns) == len(list(pages.RESULTS.glob("*.json")))


def test_the_page_of_machines_compares_servers_with_the_first(tmp_path):
    """Times that were not measured: the second server takes twice as long for each command."""

    def run(n: int, server: str, times: int) -> dict:
        rows = [
            {"arm": name, "p50_us": us, "p50_low_us": us, "p50_high_us": us}
            | {"block_medians_us": [us, us]}
            for name in pages.everyday.COMMANDS
            for us in [times * (100.0 + n / 10)]
        ]
        about = {"cpu": "A processor", "cores": 2, "memory_gb": 8, "system": "Linux 6"}
        about |= {"python": "3.11", "redis_py": "8.1", "server": server, "server_version": "9"}
        return {"rows": rows, "environment": about | {"when": f"2026-11-2{n}"}, "histograms": {}}

    for times, server in ((1, "Redis"), (2, "Valkey")):
        file = tmp_path / "a-box" / f"{server.lower()}-9.json"
        file.parent.mkdir(exist_ok=True)
        content = {"experiment": "everyday", "title": "", "notes": [], "format": 2}
        runs = [run(n, server, times) for n in range(5)]
        file.write_text(json.dumps(content | {"runs": runs}))
    page = pages.machines(tmp_path)
    assert "## a-box" in page and "2 cores, 8 GB" in page
    assert "Redis 9<br>95 % over 5 runs" in page
    [row] = [line for line in page.splitlines() if line.startswith("| GET |")]
    first, second = row.split("|")[2:4]
    assert "×" not in first and first.strip().startswith("100 (100 to 10")
    assert "× the time" in second and second.strip().startswith("200 (")
    assert page.count("× the time") == len(pages.everyday.COMMANDS)
