"""What the pages say of files, commands, variables and rooms is so."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml
from click.testing import CliRunner

from redis_lab import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("data/*.md"),
        *ROOT.glob("notebooks/*.md"),
        *ROOT.glob(".github/**/*.md"),
    ]
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.M))
COMMANDS = set(typer.main.get_command(cli.app).commands)

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def code_of(page: Path) -> str:
    """The code of a page: blocks between fences, and spans between backticks, one a line."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *spans])


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


# ---------------------------------------------------------------- links


@every_page
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


# ---------------------------------------------------------------- commands


@every_page
def test_targets_of_make_exist(page):
    named = set(re.findall(r"(?:^|[ (])make (?:[A-Z]+=\S+ )*([a-z]+)\b", code_of(page), flags=re.M))
    assert named <= TARGETS


@every_page
def test_variables_of_make_are_read_by_the_makefile(page):
    lines = re.findall(r"(?:^|[ (])make [a-z]+((?: [A-Z]+=\S+)+)", code_of(page), flags=re.M)
    named = {name for line in lines for name in re.findall(r"([A-Z]+)=", line)}
    assert named <= variables_of_make()


@every_page
def test_commands_of_redis_lab_exist(page):
    named = set(re.findall(r"(?:^|[ /])redis-lab ([a-z]+)\b", code_of(page), flags=re.M))
    assert named <= COMMANDS


@every_page
def test_files_named_in_code_exist(page):
    spans = code_of(page).split("\n")
    tops = "redis_lab|tests|notebooks|docs|data|benchmarks|binder"
    paths = {span for span in spans if re.fullmatch(rf"({tops})/[\w./-]*", span)}
    examples = {path for path in paths if re.search(r"xyz|^data/local/", path)}
    missing = {path for path in paths - examples if not (ROOT / path).exists()}
    assert not missing


def test_every_target_is_explained_by_make_help():
    explained = set(re.findall(r'@echo "make (\w+) ', MAKEFILE))
    assert explained == TARGETS - {"help", "setup"}


# ---------------------------------------------------------------- environment variables


def table(heading: str) -> set[str]:
    """The variables in the first column of a table of docs/environment.md."""
    section = (ROOT / "docs/environment.md").read_text().split(f"## {heading}\n")[1]
    return set(re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], flags=re.M))


def variables_of_make() -> set[str]:
    used = set(re.findall(r"\$\(([A-Z]+)\)|ifn?def ([A-Z]+)", MAKEFILE))
    return {name for pair in used for name in pair if name}


def environ_names(tree: ast.AST) -> Iterator[str]:
    """Names of variables in `os.environ[...]`, `os.environ.get(...)`, `os.getenv(...)`, and all
    text that looks like the name of one of ours: some modules keep that in a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"(REDIS|UPSTASH)_[A-Z_]*[A-Z]", node.value):
                yield node.value
        elif isinstance(node, ast.Call | ast.Subscript):
            of = node.func if isinstance(node, ast.Call) else node.value
            given = node.args[0] if isinstance(node, ast.Call) and node.args else None
            given = node.slice if isinstance(node, ast.Subscript) else given
            environ = re.fullmatch(
                r"(os\.)?(environ(\.get|\.pop|\.setdefault)?|getenv)", ast.unparse(of)
            )
            if environ and isinstance(given, ast.Constant):
                yield given.value


def test_every_environment_variable_is_in_the_table():
    files = [*(ROOT / "redis_lab").rglob("*.py"), ROOT / "bootstrap.py"]
    read = {name for file in files for name in environ_names(ast.parse(file.read_text()))}
    assert read == table("To set by hand") | table("Set by the lab for its own processes")


def test_every_variable_of_make_is_in_the_table():
    assert variables_of_make() == table("Variables of make")


# ---------------------------------------------------------------- rooms

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_every_room_is_in_the_table():
    section = ARCHITECTURE.split("\n## Rooms\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, flags=re.M)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    files = [*(ROOT / "redis_lab").glob("*.py"), *(ROOT / "redis_lab").glob("*/__init__.py")]
    here = {file.stem if file.stem != "__init__" else file.parent.name for file in files}
    assert sorted(listed) == sorted(name for name in here - {"redis_lab"} if name[0] != "_")


def test_the_arrows_of_the_diagram_are_imports():
    from test_architecture import PACKAGE, graph, room

    imported = {
        (room(module), room(other)) for module, all_ in graph(PACKAGE).items() for other in all_
    }
    arrows = re.findall(r"^    (\w+) --> (\w+)$", ARCHITECTURE, flags=re.M)
    assert arrows
    assert not set(arrows) - imported


# ---------------------------------------------------------------- files that other programs read

FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
BY_SCHEMA = {
    "vendor.github-issue-forms": [form for form in FORMS if form.stem != "config"],
    "vendor.github-issue-config": [form for form in FORMS if form.stem == "config"],
    "vendor.dependabot": [ROOT / ".github/dependabot.yml"],
}


@pytest.mark.parametrize("schema", BY_SCHEMA)
def test_what_github_reads_keeps_its_schema(schema):
    from check_jsonschema import main  # slow to import

    assert BY_SCHEMA[schema]
    command = ["--builtin-schema", schema, *map(str, BY_SCHEMA[schema])]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output


def test_pre_commit_calls_make_and_downloads_nothing():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        program, target = hook["entry"].split()
        assert program == "make" and target in TARGETS
        assert hook["language"] == "system"
        changed = ("redis_lab/cli.py", "notebooks/a/01_b.ipynb", "pyproject.toml", "Makefile")
        assert all(re.search(hook["files"], path) for path in changed)
        assert not re.search(hook["files"], "README.md")


def test_the_dev_container_sets_up_and_forwards_what_make_lab_opens():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    program, target = container["postCreateCommand"].split()
    assert program == "make" and target in TARGETS
    assert container["forwardPorts"] == [inspect.signature(cli.lab).parameters["port"].default]
    python = container["image"].rpartition(":")[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
