"""The generated pages of the site; their content is read from the repository."""

from __future__ import annotations

import ast
import base64
import html
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redis_lab.calculators import CALCULATORS, calculator
from redis_lab.machines import load_machines
from redis_lab.measure import everyday
from redis_lab.measure.results import Result, compare_results
from redis_lab.measure.runs import MACHINE, name_interval
from redis_lab.notebooks import FIGURE_CALL
from redis_lab.toc import Lesson, read_toc

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ROOT / "redis_lab" / "patterns"
RESULTS = ROOT / "data" / "results"
MACHINES = ROOT / "data" / "machines"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def toctree(caption: str, entries: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"])


# ---------------------------------------------------------------- home


def home(readme: str) -> str:
    """The README, with a link to the first lesson at its top and the site's contents at its end."""
    listed = read_toc()
    first = listed[0]
    title, intro, rest = readme.split("\n\n", 2)
    way_in = (
        f"**Read it here:** [{first.title()}](notebooks/{link(first)}) is the first lesson; the "
        "arrows at the foot of a page lead on. All outputs are those of a real run: "
        "[what was run, when and where](status.md). Solutions are folded; open them when you have "
        "tried. To run and change the code, take a copy of the repository:"
    )
    parts: dict[str, list[str]] = defaultdict(list)
    for each in listed:
        parts[each.part].append(f"notebooks/{link(each).removesuffix('.ipynb')}")
    trees = [toctree(part, entries) for part, entries in parts.items()]
    trees += [
        toctree("Look it up", [
            *("calculators", "notebooks/glossary", "notebooks/from_node", "patterns/index"),
        ]),
        toctree("About", [
            *("status", "machines", "data/README", "data/drills"),
            *("docs/architecture", *more_docs(), "docs/environment"),
            *("SECURITY", "CONTRIBUTING", "CHANGELOG"),
        ]),
    ]  # fmt: skip
    return "\n\n".join([title, intro, way_in, rest.rstrip(), *trees]) + "\n"


def more_docs() -> list[str]:
    named = {"architecture", "environment"}
    return [f"docs/{each.stem}" for each in sorted((ROOT / "docs").glob("*.md"))
            if each.stem not in named]  # fmt: skip


def link(lesson: Lesson) -> str:
    """From `notebooks/` to the lesson's notebook."""
    return lesson.find().relative_to(lesson.root).as_posix()


# ---------------------------------------------------------------- calculators


def calculators() -> str:
    """The page with all calculators, each with the lesson that its formula comes from."""
    found = [
        "# Calculators",
        "The formulas that the lessons have measured, for your own numbers. Below each curve are "
        "the points that were measured on [one machine](status.md). Where a curve is grey and "
        "dashed, and where the text says so, nobody has checked it: measure it yourself, as the "
        "lesson does. Everything is computed in your browser; nothing is sent anywhere.",
    ]
    lessons = {lesson.name: lesson for lesson in read_toc()}
    for name in CALCULATORS:
        each, lesson = calculator(name), lessons[name]
        formula = f"Formula and measurement: [{lesson.title()}](notebooks/{link(lesson)})."
        chart = chart_html(each.spec, base64.b64encode(each.png()).decode())
        found += [f"## {each.title}", formula, f"```{{raw}} html\n{chart}\n```"]
    return "\n\n".join(found) + "\n"


def chart_html(spec: dict[str, Any], png: str) -> str:
    """A calculator as calculators.js draws it; without JavaScript it is a picture.

    `png` is in base64. Title and key are texts of the page; the fields and the answer come from
    the chart.
    """
    title, described = spec["title"], html.escape(spec["description"])
    key = "".join(f"<p>{html.escape(line)}</p>" for line in title["subtitle"])
    chart = json.dumps(spec, ensure_ascii=False).replace("</", "<\\/")
    return "\n".join([
        f'<figure class="calculator" aria-label="{html.escape(title["text"])}">',
        '<div class="calculator-fields"></div>',
        '<div class="calculator-answer" role="status"></div>',
        f'<div class="calculator-chart"><noscript><img alt="{described}" '
        f'src="data:image/png;base64,{png}"></noscript></div>',
        f"<figcaption>{key}</figcaption>",
        f'<script type="application/json">{chart}</script>',
        "</figure>",
    ])  # fmt: skip


# ---------------------------------------------------------------- patterns


def patterns() -> dict[str, str]:
    """The pages by path: an index, and a page for each pattern with its source."""
    users = used_in()
    rows, found = [], {}
    for file in sorted(PATTERNS.glob("[a-z]*.py")):
        name = file.stem
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        summary = code_spans(about.split("\n\n")[0].replace("\n", " "))
        public = public_names(file)
        seen = [f"[{each.title()}](../notebooks/{link(each)})" for each in users[name]]
        brief = re.split(r"\.? Built up in|\. |\.$", summary)[0]
        rows.append((f"[`{name}`]({name}.md)", brief, ", ".join(seen)))
        found[f"patterns/{name}.md"] = "\n\n".join([
            f"# {name.replace('_', ' ').capitalize()}",
            summary,
            f"**Public names:** {', '.join(f'`{each}`' for each in public)}",
            f"**The contract, argument by argument:** {api(name)}",
            *([f"**Lessons that use it:** {', '.join(seen)}"] if seen else []),
            f"## The source\n\n`redis_lab/patterns/{name}.py` imports redis-py and the standard "
            "library only. Copy the file as it is.",
            f"```{{literalinclude}} ../redis_lab/patterns/{name}.py\n:language: python\n```",
        ]) + "\n"  # fmt: skip
    contents = "\n".join(["```{toctree}", ":hidden:", "", *(Path(p).stem for p in found), "```"])
    found["patterns/index.md"] = "\n\n".join([
        "# Patterns to copy",
        "Each file is one pattern, for redis-py and for asyncio, tested under concurrency and "
        "kills. It imports nothing of this workbook, so it works alone in a service of your own. "
        f"{api('', 'The API reference')} has everything else of `redis_lab` as well.",
        table(["file", "what it is", "lessons"], rows),
        contents,
    ]) + "\n"  # fmt: skip
    return found


def api(name: str, text: str = "") -> str:
    """A link to the page that pdoc writes; raw HTML, because Sphinx does not know that page."""
    place = f"redis_lab/patterns/{name}.html" if name else "index.html"
    return f'<a href="../api/{place}">{text or f"API reference of <code>{name}</code>"}</a>'


def code_spans(text: str) -> str:
    """A docstring's text, which is written for readers of the source, as Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def public_names(file: Path) -> list[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def used_in() -> dict[str, list[Lesson]]:
    """The lessons that import each pattern."""
    users: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in read_toc():
        text = lesson.find().read_text(encoding="utf-8")
        for name in sorted(set(re.findall(r"redis_lab\.patterns\.(\w+)", text))):
            users[name].append(lesson)
    return users


# ---------------------------------------------------------------- what was run

SOFTWARE = ("server", "server_version", "python", "redis_py")


def results() -> dict[str, dict[str, Any]]:
    """The environment of each committed result."""
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8"))["environment"]
        for file in sorted(RESULTS.glob("*.json"))
    }


def days(environments: Iterable[dict[str, Any]]) -> str:
    """From the first day to the last, with non-breaking hyphens."""
    when = sorted(
        each["when"][:10].replace("-", "\N{NON-BREAKING HYPHEN}") for each in environments
    )
    return " to ".join(dict.fromkeys([when[0], when[-1]])) if when else "–"


def status() -> str:
    """The page about the runs, from the committed notebooks and results alone."""
    measured = results()
    rows = []
    for each in read_toc():
        run = Run(each.find())
        rows.append((
            f"{each.place}. [{each.title()}](notebooks/{link(each)})",
            run.cells,
            f"{run.held} of {run.held + run.failed}",
            f"{run.solved} of {run.exercises}",
            days(measured[name] for name in run.experiments if name in measured),
            run.server,
        ))  # fmt: skip
    return "\n\n".join([
        "# What was run, when and where",
        "Read from the committed notebooks and results when this site was built. Every code cell "
        "of each lesson has the output of a real run; `make test` runs all of them again and "
        "compares. How long that takes is not recorded; its report says so for your machine.",
        "## The lessons\n\nA claim is what a lesson asserts after a measurement. The exercises "
        "are counted by their solutions, each of which passed its check. Server: the first line "
        "of the lesson's output; some lessons start further servers.",
        table(["lesson", "code cells", "claims held", "solutions right", "measured", "server"],
              rows),
        f"## Machines and servers\n\nThe {len(measured)} results in `data/results/` were measured "
        "in these environments.",
        table(
            ["processor", "cores", "memory", "system", "server", "Python", "redis-py", "effort",
             "days", "results"],
            environments(measured),
        ),
    ]) + "\n"  # fmt: skip


def environments(measured: dict[str, dict[str, Any]]) -> list[Sequence[object]]:
    """A row for each combination of machine and software in which results were measured."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for found in measured.values():
        key = tuple(str(found.get(name, "–")) for name in (*MACHINE, *SOFTWARE, "effort"))
        groups[key].append(found)
    rows: list[Sequence[object]] = []
    for key, members in groups.items():
        cpu, cores, memory, system, server, version, python, client, effort = key
        rows.append((
            cpu, cores, f"{memory} GB", system, f"{server} {version}", python, client, effort,
            days(members), len(members),
        ))  # fmt: skip
    return rows


def machines(folder: Path = MACHINES) -> str:
    """The page that sets servers side by side on each machine that was measured."""
    found: dict[str, list[Result]] = defaultdict(list)
    for name, _, result in load_machines(folder):
        found[name].append(result)
    parts = [
        "# Machines and servers, side by side",
        "Everyday commands by redis-py on loopback, each awaited before the next. On each "
        "machine the servers take turns, and every run has a fresh process and a fresh server, "
        "pinned to cores where the system allows it. A cell is the median of one call in µs, as "
        "the mean over the runs, with its 95 % interval. Below it stands what "
        "`redis-lab compare` says about this server and the first of the table, where it sees a "
        "difference; it is wrong at most once in twenty such columns. Two machines are not "
        "compared: they differ in more than their processors.",
        "To add your machine: `redis-lab machine NAME`, and the rules in "
        "[CONTRIBUTING](CONTRIBUTING.md).",
    ]
    for name, servers in found.items():
        about = servers[0].environment
        parts.append(f"## {name}")
        parts.append(
            f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}; "
            f"Python {about['python']}, redis-py {about['redis_py']}; measured "
            f"{days(run.environment for each in servers for run in each.runs)}."
        )
        heads = [
            f"{each.environment['server']} {each.environment['server_version']}"
            f"<br>{name_interval(len(each.runs))}"
            for each in servers
        ]
        parts.append(table(["command", *heads], machine_rows(servers)))
    return "\n\n".join(parts) + "\n"


def machine_rows(servers: Sequence[Result]) -> list[list[str]]:
    """For each command its median on each server, and how this differs from the first server's."""
    said: list[dict[str, str]] = [{}]
    for each in servers[1:]:
        compared = compare_results(servers[0], each)
        said.append(dict(zip(compared["what"], compared["says"], strict=True)))
    rows = []
    for command in everyday.COMMANDS:
        cells = [command]
        for result, says in zip(servers, said, strict=True):
            [row] = [row for row in result.rows if row["arm"] == command]
            low, high = row["p50_low_us"], row["p50_high_us"]
            told = says.get(command, "")
            cells.append(
                f"{row['p50_us']:,.0f} ({low:,.0f} to {high:,.0f})"
                + (f"<br>{told}" if "×" in told else "")
            )
        rows.append(cells)
    return rows


class Run:
    """The last run of a committed notebook, according to its outputs."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        self.experiments = sorted(set(FIGURE_CALL.findall(text)))
        self.cells = len(code)
        printed = [said(cell) for cell in code]
        claims = [
            line
            for cell, lines in zip(code, printed, strict=True)
            if "lab.claim(" in "".join(cell["source"])
            for line in lines
        ]
        self.held = sum(line.startswith("✓ ") for line in claims)
        self.failed = sum(line.startswith("✗ ") for line in claims)
        solutions = [
            lines
            for cell, lines in zip(code, printed, strict=True)
            if "solution" in cell["metadata"].get("tags", [])
        ]
        self.exercises = len(solutions)
        self.solved = sum(any(line.startswith("✓ ") for line in lines) for lines in solutions)
        self.server = next(
            (line.split(",")[0].split(" (")[0] for lines in printed for line in lines), "–"
        )


def said(cell: dict[str, Any]) -> list[str]:
    """The lines that a cell printed."""
    texts = ("".join(output.get("text", "")) for output in cell["outputs"])
    return [line for text in texts for line in text.splitlines()]
