"""The same everyday commands on several machines and servers, to set their results side by side.

data/machines/NAME/ holds a result for each server that was measured on the machine NAME: at least
five runs, each with a fresh process and a fresh server, the servers in turns. A machine may keep
results of several versions of a server.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .child import TemporaryFolder
from .errors import LabError
from .files import data_folder
from .measure import everyday, results
from .measure.progress import show_progress
from .measure.runs import MACHINE
from .measure.stats import FEWEST_RUNS
from .publish import choose_cores, pin_cores
from .servers.base import Kind
from .servers.choose import KINDS, kind_named

EXPERIMENT = "everyday"  # the name that `redis-lab bench` gives the arms of everyday.py
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
KNOWN = (*MACHINE, "server", "server_version", "python", "redis_py", "when")  # what a file must say
PATHS = re.compile(r"/(?:home|root|Users|tmp|private)/|[A-Z]:\\\\")


def machines_folder() -> Path:
    return data_folder() / "machines"


def choose_kinds(names: Sequence[str] = ()) -> list[Kind]:
    """The kinds of server by these names; without names, all that work here and are the lab's own.

    Raises: LabError for an unknown kind, and for one that cannot be used here.
    """
    if not names:
        return [kind for kind in KINDS if kind.private and kind.probe()[0]]
    kinds = []
    for name in names:
        kind = kind_named(name)
        if kind is None or not kind.private:
            known = ", ".join(str(kind) for kind in KINDS if kind.private)
            raise LabError(f"There is no server of kind {name!r} for this; there are: {known}.")
        usable, found = kind.probe()
        if not usable:
            raise LabError(f"A server of kind {name} cannot be started: {found}.")
        kinds.append(kind)
    return kinds


def measure_machine(
    name: str,
    kinds: Sequence[Kind],
    runs: int,
    *,
    seconds: float | None = None,
    effort: str = "full",
    folder: Path | None = None,
) -> list[Path]:
    """Measure `everyday` on each kind of server in turns, and return the files of the results.

    Runs are added to those that the files hold. The files are written after each round, so an
    interruption loses only the current one. `seconds` for each command; by default those of the
    effort.

    Raises: LabError for a name that is none, for runs that do not belong together, and if a run
    fails.
    """
    if not NAME.fullmatch(name):
        raise LabError(
            f"A machine's name has small letters, digits and hyphens, such as epyc-2-cores, not "
            f"{name!r}."
        )
    folder = (folder or machines_folder()) / name
    order = list(kinds)
    written: set[Path] = set()
    turns = [(n, place) for n in range(runs) for place in range(len(order))]
    with TemporaryFolder("redis-lab-run-") as scratch:
        measured: list[results.Result] = []
        for n, place in show_progress(turns, f"{runs} runs of {len(order)} servers", after_s=0):
            if place == 0:
                random.shuffle(order)
                measured = []
            file = Path(scratch, f"{n}-{order[place]}", f"{EXPERIMENT}.json")
            measured.append(_measure_once(order[place], file, seconds, effort))
            if place == len(order) - 1:
                for one in measured:
                    path = folder / file_name(one)
                    whole = results.load(path).merge(one) if path.exists() else one
                    written.add(results.write(whole, path))
    return sorted(written)


def _measure_once(kind: Kind, file: Path, seconds: float | None, effort: str) -> results.Result:
    """One run, in a process and on a server of its own, pinned to cores where that is possible."""
    command = [sys.executable, "-c", "from redis_lab.cli import main; main()", "bench"]
    command += [everyday.__file__, "--save", str(file), "--effort", effort]
    command += [f"--seconds={seconds}"] if seconds else []
    own = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    with pin_cores(choose_cores() if kind.native else None) as pinned:
        done = subprocess.run(
            command,
            env={**own, **pinned, "REDIS_LAB_SERVER": kind.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        raise LabError(f"The run on {kind.name} failed: {' '.join(last)}")
    return results.load(file)


def file_name(result: results.Result) -> str:
    """The name of the file for a result's server, such as valkey-9.1.2.json."""
    environment = result.environment
    return f"{environment['server']}-{environment['server_version']}.json".lower()


def load_machines(folder: Path | None = None) -> Iterator[tuple[str, Path, results.Result]]:
    """Each machine's name, with the file of each of its results. Raises: LabError as `load`."""
    for path in sorted((folder or machines_folder()).glob("*/*.json")):
        yield path.parent.name, path, results.load(path)


def check_machines(folder: Path | None = None) -> list[str]:
    """What is wrong with the files of the machines, one line each; empty if they can be published.

    Each must hold enough runs of all commands at full effort, say on what it was measured, agree
    with its name and with the other files of its machine, and show no path of the machine.
    """
    wrong = []
    hardware: dict[str, tuple] = {}
    for path in sorted((folder or machines_folder()).glob("*/*")):
        where = f"{path.parent.name}/{path.name}"
        try:
            one = results.load(path)
        except LabError as error:
            wrong.append(f"{where}: {error}")
            continue
        found = _check_result(one, path)
        machine = tuple(one.environment.get(name) for name in MACHINE)
        if hardware.setdefault(path.parent.name, machine) != machine:
            found.append("another machine than the folder's other files")
        wrong += [f"{where}: {what}" for what in found]
    return wrong


def _check_result(one: results.Result, path: Path) -> list[str]:
    environment, found = one.environment, []
    if not NAME.fullmatch(path.parent.name):
        found.append("the folder's name has other than small letters, digits and hyphens")
    if one.experiment != EXPERIMENT:
        found.append(f"it is a result of {one.experiment}, not of {EXPERIMENT}")
    if missing := [name for name in KNOWN if not environment.get(name)]:
        return [*found, f"it does not say: {', '.join(missing)}"]
    if path.name != file_name(one):
        found.append(f"its server is another; the file's name would be {file_name(one)}")
    measured = {row.get("arm") for row in one.rows}
    if missing := [name for name in everyday.COMMANDS if name not in measured]:
        found.append(f"it lacks {', '.join(missing)}")
    if len(one.runs) < FEWEST_RUNS:
        found.append(f"{len(one.runs)} runs; add some until there are {FEWEST_RUNS}")
    if environment.get("effort") != "full":
        found.append(f"measured with the effort {environment.get('effort')}, not full")
    if PATHS.search(path.read_text(encoding="utf-8")):
        found.append("it shows a path of the machine")
    return found
