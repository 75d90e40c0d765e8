"""Who may import whom: the table of rooms, bottom to top, and that no circle comes.

A room is a module or a package of `redis_lab`. It imports only from rooms in the rows below its
own. A module that moves, or a new one, gets its place in `ROOMS`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "redis_lab"
ROOT = "the package itself"  # redis_lab/__init__.py

ROOMS = [
    ("errors", "claims", "findings", "internals", "patterns", "_relay", "_remover", "_sql_server"),
    ("files", "child", "extras", "judging", "reading_time", "resp3", "toc", "wiretap"),
    ("copies", "source", "servers"),
    ("distance", "logbook", "magic"),
    ("remote", "drill"),
    ("measure",),
    ("calculators", "figures", "rest"),
    ("lessons",),
    ("teach",),
    (ROOT,),
    ("_grader", "answer_key", "grade", "index", "notebooks"),
    ("new", "publish"),
    ("machines",),
    ("cli",),
]


def module_name(file: Path, package: Path) -> str:
    """Dotted, from the package: "servers.base"; of `__init__.py` the package's, "servers"."""
    *folders, last = file.relative_to(package).with_suffix("").parts
    return ".".join([*folders, *([] if last == "__init__" else [last])])


def imports(file: Path, package: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever in it that stands."""
    found = set()
    inside = file.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = [package.name, *inside][: 1 + len(inside) - (node.level - 1)]
            base = ".".join([*(here if node.level else []), *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == package.name:
                while rest and rest not in modules:  # what is imported is in the module
                    rest = rest.rpartition(".")[0]
                found.add(rest)
    return found - {module_name(file, package)}


def graph(package: Path) -> dict[str, set[str]]:
    """Each module of a package, and the modules of the package that it imports."""
    files = {module_name(file, package): file for file in package.rglob("*.py")}
    return {name: imports(file, package, set(files)) for name, file in files.items()}


def room(module: str) -> str:
    return module.partition(".")[0] or ROOT


def wrong_ways(modules: dict[str, set[str]], rooms: Iterable[tuple[str, ...]]) -> list[str]:
    """Each import that does not lead from a room to one below it."""
    floor = {name: number for number, row in enumerate(rooms) for name in row}
    return [
        f"{module or ROOT} imports {other or ROOT}"
        for module, others in sorted(modules.items())
        for other in sorted(others)
        if room(other) != room(module) and floor[room(other)] >= floor[room(module)]
    ]


def circle(modules: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def ours() -> dict[str, set[str]]:
    return graph(PACKAGE)


def test_every_room_has_its_place(ours):
    named = [name for row in ROOMS for name in row]
    assert len(named) == len(set(named))
    assert {room(module) for module in ours} == set(named)


def test_a_room_imports_only_from_rooms_below_it(ours):
    assert wrong_ways(ours, ROOMS) == []


def test_no_circle_within_a_room(ours):
    # The package itself is left out: to import any module of it is to import it first
    modules = {name: others - {""} for name, others in ours.items() if name}
    assert circle(modules) == []


def hidden(package: Path) -> list[str]:
    """Modules whose name in their package stands for something that is no module."""
    found = []
    for init in package.rglob("__init__.py"):
        siblings = {file.stem for file in init.parent.glob("*.py")}
        siblings |= {file.parent.name for file in init.parent.glob("*/__init__.py")}
        for node in ast.parse(init.read_text(encoding="utf-8")).body:
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [alias.asname or alias.name for alias in node.names]
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            found += [
                module_name(init.with_name(name), package) for name in names if name in siblings
            ]
    return found


def test_no_function_hides_a_module_of_its_name():
    assert hidden(PACKAGE) == []


def test_a_pattern_imports_nothing_of_ours(ours):
    patterns = {name: others for name, others in ours.items() if room(name) == "patterns"}
    assert len(patterns) > 8
    assert {name: others for name, others in patterns.items() if others} == {}


# ---------------------------------------------------------------- the tests above can fail


@pytest.fixture
def house(tmp_path):
    def build(**files: str) -> Path:
        package = tmp_path / "house"
        for name, text in {"__init__": "", "cellar": "", "attic__init__": "", **files}.items():
            file = package / f"{name.replace('attic', 'attic/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return package

    return build


HOUSE = [("cellar",), ("hall", "attic"), (ROOT,)]


@pytest.mark.parametrize(
    "line",
    [
        "from . import hall",
        "from .hall import door",
        "from .attic.trunk import door",
        "import house.hall",
        "from house import hall",
        "def f():\n    from house.hall import door",
    ],
)
def test_an_import_upwards_is_seen(house, line):
    package = house(cellar=line, hall="door = 1", attictrunk="door = 1")
    (wrong,) = wrong_ways(graph(package), HOUSE)
    assert wrong.startswith(("cellar imports hall", "cellar imports attic.trunk"))


@pytest.mark.parametrize("line", ["from ..hall import door", "from .. import hall"])
def test_an_import_sideways_is_seen(house, line):
    package = house(attictrunk=line, hall="door = 1")
    assert wrong_ways(graph(package), HOUSE) == ["attic.trunk imports hall"]


def test_imports_downwards_and_within_a_room_are_right(house):
    package = house(attictrunk="from ..cellar import x\nfrom .box import y", atticbox="", hall="")
    assert wrong_ways(graph(package), HOUSE) == []
    assert circle(graph(package)) == []


def test_a_circle_is_seen(house):
    package = house(attictrunk="from .box import y", atticbox="from . import trunk", hall="")
    assert set(circle(graph(package))) == {"attic.trunk", "attic.box"}


def test_a_function_that_hides_a_module_is_seen(house):
    package = house(__init__="from .cellar import hall\nfrom . import cellar", hall="")
    assert hidden(package) == ["hall"]
