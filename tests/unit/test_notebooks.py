"""The rules that every lesson keeps."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from redis_lab import copies, lessons, notebooks

ROOT = notebooks.notebooks_folder()
LESSONS = notebooks.find()
KNOWN_TAGS = {"nbval-ignore-output", "exercise", "solution"}
HALVES = "## Use it", "## Measure it and break it"
INSIDE = "### Predict", "### Measure", "### Explain", "### Break it"
HEADINGS = (
    *("## By the end you will be able to", HALVES[0], HALVES[1], *INSIDE),
    *("## When not to", "## Your turn", "## What you saw"),
)
MACHINE_PATHS = re.compile(r"/(home|root|tmp|Users|private|var/folders|work)/|[A-Z]:\\\\|file://")
LONGEST_CELL, LONGEST_LINE = 30, 110
LONGEST_IN_USE_IT = 8  # lines that are not blank


@cache
def parsed(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.path = path
    return notebook


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return parsed(request.param)


def code(lesson: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def prose(lesson: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def bullets(lesson: nbformat.NotebookNode, heading: str) -> list[str]:
    section = next(text for text in prose(lesson) if heading in text).split(heading)[1]
    return re.findall(r"^- .+", section.split("\n## ")[0], flags=re.M)


def test_every_code_cell_was_executed_in_order(lesson) -> None:
    assert [cell.execution_count for cell in code(lesson)] == list(range(1, len(code(lesson)) + 1))
    assert not [o for cell in code(lesson) for o in cell.outputs if o.output_type == "error"]


def test_anatomy(lesson) -> None:
    text = "\n\n".join(prose(lesson))
    minutes = r"\*\*Time:\*\* about \d+ minutes, \*Use it\* \d+ of them"
    around = r" · \*\*Before:\*\* .+ · \*\*Next:\*\* .+"
    assert re.match(rf"# \S.*\n\n\*\S.*\*\n\n{minutes}{around}", prose(lesson)[0])
    places = [re.search(rf"^{re.escape(heading)}", text, flags=re.M) for heading in HEADINGS]
    missing = [heading for heading, place in zip(HEADINGS, places, strict=True) if place is None]
    assert not missing
    starts = [place.start() for place in places]
    assert starts == sorted(starts), "the parts of a lesson come in another order"
    assert "**Read on:**" in prose(lesson)[-1] and "**Next:**" in prose(lesson)[-1]
    setup = code(lesson)[0].source
    assert "import redis_lab as lab" in setup
    assert re.search(r"^r = lab\.connect\((one_server=True)?\)$", setup, re.M)
    assert "lab.clean_up(r)" in code(lesson)[-1].source


def test_the_summary_mirrors_the_promise(lesson) -> None:
    promised = bullets(lesson, "## By the end you will be able to")
    assert 3 <= len(promised) <= 5
    assert len(bullets(lesson, "## What you saw")) == len(promised)


def test_ignored_outputs_have_a_reason(lesson) -> None:
    ignored = [cell for cell in code(lesson) if "nbval-ignore-output" in tags(cell)]
    assert all(cell.metadata.get("reason") for cell in ignored)
    assert len(ignored) < 0.5 * len(code(lesson)), "a lesson mostly ignored is not validated"
    for cell in ignored:
        print(f"{lesson.path.stem}: {cell.metadata.reason}: {cell.source.splitlines()[0][:60]}")


def test_measurements_are_followed_by_claims(lesson) -> None:
    """After the last figure of measured times, some claim must say what it showed."""
    cells = code(lesson)
    compared = [k for k, cell in enumerate(cells) if "lab.lesson.figure(" in cell.source]
    claimed = [k for k, cell in enumerate(cells) if "lab.claim(" in cell.source]
    assert compared and claimed and max(compared) < max(claimed)
    for cell in cells:
        assert not ("lab.claim(" in cell.source and "nbval-ignore-output" in tags(cell))


def test_what_is_claimed_held_when_it_was_committed(lesson) -> None:
    """A claim that varies stops nothing where it fails: no run in which one did is committed."""
    for cell in code(lesson):
        if "lab.claim(" in cell.source:
            failed = [line for line in text_of(cell).splitlines() if line.startswith("✗")]
            assert not failed and "✓ " in text_of(cell), cell.source


def test_tags_are_known(lesson) -> None:
    for cell in lesson.cells:
        assert tags(cell) <= KNOWN_TAGS


def test_exercises_fail_as_they_stand_and_solutions_pass(lesson) -> None:
    cells = code(lesson)
    exercises = [k for k, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert len(exercises) >= 2
    assert sum("solution" in tags(cell) for cell in cells) == len(exercises)
    for k in exercises:
        assert "lab.check(" in cells[k].source
        assert text_of(cells[k]).startswith("✗ not yet: ")
        assert "solution" in tags(cells[k + 1])
        # JupyterLab shows the first line of what it has folded
        assert cells[k + 1].source.splitlines()[0] == copies.FOLDED
        assert cells[k + 1].metadata["jupyter"] == {"outputs_hidden": True, "source_hidden": True}
        assert text_of(cells[k + 1]).startswith("✓ ")
        judges = [
            re.search(r'lab\.check\("([\w.]+)"', cell.source).group(1) for cell in cells[k : k + 2]
        ]
        assert judges[0] == judges[1], "exercise and solution are not held by the same check"


def test_figures_say_what_they_show(lesson) -> None:
    """In their alternative texts: the title is not enough."""
    for cell in code(lesson):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                if "lab.calculator(" in cell.source:  # it has no finding of its own
                    assert len(output.metadata["image/png"]["alt"]) > 100
                    continue
                [experiment] = notebooks.FIGURE_CALL.findall(cell.source)
                title = lessons.find_figure(experiment).title
                text = output.metadata["image/png"]["alt"]
                assert text.startswith(title)
                assert len(re.findall(r"\d", text.removeprefix(title))) > 5, text


def test_cells_are_short(lesson) -> None:
    for cell in code(lesson):
        lines = cell.source.splitlines()
        assert len(lines) <= LONGEST_CELL, lines[0]
        assert max(map(len, lines)) <= LONGEST_LINE, max(lines, key=len)


def test_cells_of_the_first_half_are_short(lesson) -> None:
    """What a lesson begins with is read on a first day, perhaps in a second language."""
    use_it, measure_it = (
        next(k for k, cell in enumerate(lesson.cells) if re.search(f"^{half}$", cell.source, re.M))
        for half in HALVES
    )
    long = {
        cell.source.splitlines()[0]: lines
        for cell in lesson.cells[use_it:measure_it]
        if cell.cell_type == "code"
        and (lines := sum(bool(line.strip()) for line in cell.source.splitlines()))
        > LONGEST_IN_USE_IT
    }
    assert long == {}


def test_links_lead_somewhere(lesson) -> None:
    for text in prose(lesson):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith("https://"):
                assert (lesson.path.parent / target.split("#")[0]).resolve().exists(), target


def test_no_machine_paths_and_no_shell(lesson) -> None:
    raw = lesson.path.read_text()
    assert not MACHINE_PATHS.findall(raw)
    for cell in code(lesson):
        assert not re.search(r"^\s*[!%](?!%redis)", cell.source, flags=re.M)


def test_no_remains_of_progress_bars(lesson) -> None:
    assert not [
        cell.id for cell in code(lesson) if any(map(notebooks._is_progress_bar, cell.outputs))
    ]


def test_what_a_cell_printed_is_one_output(lesson) -> None:
    for cell in code(lesson):
        names = [output.get("name") for output in cell.outputs]
        assert not any(one and one == next_ for one, next_ in pairwise(names)), cell.id


def test_what_was_printed_in_parts_is_joined(tmp_path) -> None:
    output = nbformat.v4.new_output
    parts = [output("stream", name="stdout", text=text) for text in ("a\n", "b", "\n")]
    other = [output("display_data"), output("stream", name="stderr", text="c\n")]
    last = output("stream", name="stdout", text="d\n")
    cell = nbformat.v4.new_code_cell("1", outputs=[*parts, *other, last])
    notebooks.write_notebook(tmp_path / "x.ipynb", nbformat.v4.new_notebook(cells=[cell]))
    [written] = nbformat.read(tmp_path / "x.ipynb", as_version=4).cells
    printed = [each.get("text") for each in written.outputs]
    assert printed == ["a\nb\n", None, "c\n", "d\n"]


def test_the_sanitizer_applies() -> None:
    from nbval.plugin import get_sanitize_patterns

    sanitizer = Path(notebooks.__file__).with_name("nbval_sanitize.cfg")
    patterns = get_sanitize_patterns(sanitizer.read_text())
    (pattern, replacement), *_ = patterns
    for line in ("Valkey 9.1.2 (speaks Redis 7.2), embedded, TCP loopback · no", "Redis 7.0.15, x"):
        assert re.sub(pattern, replacement, line) == "SERVER"


def test_a_validation_does_not_load_what_no_notebook_needs(tmp_path) -> None:
    """The grammar of internationalised addresses takes a second to build, in every process."""
    path = tmp_path / "empty.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    told = {"PYTHONPROFILEIMPORTTIME": "1"}
    validation = notebooks.Validation(path, tmp_path / "scratch", 60, told)
    validation.process.wait(240)
    said = validation.report.read_text()
    assert "nbformat.validator" in said and "jsonschema" in said
    assert "lark" not in said, "which parses the grammar"


def test_handouts_have_no_solutions(lesson) -> None:
    copy = nbformat.reads(copies.without_solutions(lesson.path), as_version=4)
    kept = [cell.source for cell in copy.cells]
    assert not any("solution" in tags(cell) for cell in copy.cells)
    assert all(cell.source in kept for cell in code(lesson) if "exercise" in tags(cell))
