"""Measure for publication: several runs of a notebook, each alone, in one result for each figure.

The variation between two runs is larger than the variation within one (`measure.runs`), so each run
has a fresh kernel and fresh servers. If the system allows it, client and servers are pinned to
declared cores: between one core and two, the time of the same call differs by a factor of three.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from . import figures, lessons, notebooks
from .child import TemporaryFolder
from .errors import LabError
from .files import data_folder
from .measure import results
from .measure.environment import SERVER_CORES
from .servers.choose import choose_kind


@dataclass(frozen=True)
class Cores:
    """The processors that client (with its helpers) and servers may run on."""

    client: tuple[int, ...]
    server: tuple[int, ...]

    def __str__(self) -> str:
        client, server = (", ".join(map(str, cores)) for cores in (self.client, self.server))
        return f"client on core {client}; servers on core {server}"


def choose_cores(client: str = "", server: str = "") -> Cores | None:
    """The cores as named ("0" or "0,1"); by default the last for servers, the others for clients.

    None if nothing can be pinned: with one core, on a system without pinning, or for servers that
    are not processes of the lab's own.

    Raises: LabError for cores that do not exist, and for a server that the lab has not started.
    """
    kind, _ = choose_kind()
    if not kind.private:
        raise LabError(
            "Each run to be published has fresh servers, and yours is not the lab's to start. "
            "Unset REDIS_URL and REDIS_LAB_SERVER=url."
        )
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not (client or server) and (len(usable) < 2 or not kind.native):
        return None
    named = []
    for cores in (client, server):
        try:
            named.append(tuple(sorted({int(core) for core in cores.split(",") if core})))
        except ValueError:
            raise LabError(f"Cores are numbers, such as 0 or 2,3, not {cores!r}.") from None
    if missing := {core for cores in named for core in cores} - set(usable):
        there = ", ".join(map(str, usable)) or "none that can be chosen"
        raise LabError(f"There is no core {min(missing)} here; there are: {there}.")
    mine, its = named
    its = its or tuple(core for core in usable if core not in mine)[-1:] or mine
    mine = mine or tuple(core for core in usable if core not in its) or its
    return Cores(mine, its)


@contextlib.contextmanager
def pin_cores(cores: Cores | None) -> Iterator[dict[str, str]]:
    """Inside the block, run this process and those that it starts on the client's cores.

    Yields the environment variables that pin its servers.
    """
    if cores is None:
        yield {}
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.client)
    try:
        yield {SERVER_CORES: ",".join(map(str, cores.server))}
    finally:
        os.sched_setaffinity(0, before)


def publish_runs(
    path: Path,
    runs: int,
    *,
    cores: Cores | None = None,
    effort: str = "full",
    add: bool = False,
    in_place: bool = False,
) -> list[Path]:
    """Run a notebook `runs` times, and write for each of its experiments one result with all runs.

    The files are written after each complete run, so an interruption loses only the current run.
    With `add`, the runs that the files already hold are kept, if machine and setup are the same.
    With `in_place` the notebook gets the last run's outputs and figures.

    Raises: LabError as `notebooks.execute`, and where runs cannot be merged.
    """
    folder = results.results_folder(effort)
    whole: dict[str, results.Result] = {}
    if add:
        files = (folder / f"{name}.json" for name in notebooks.list_experiments(path))
        whole = {file.stem: results.load(file) for file in files if file.exists()}
    for n in range(1, runs + 1):
        with TemporaryFolder("redis-lab-run-") as scratch:
            link_data(Path(scratch))
            with (
                tqdm(total=1, bar_format="{l_bar}{bar}| {elapsed}") as bar,
                pin_cores(cores) as own,
            ):
                bar.set_description(f"{path.stem}, run {n} of {runs}")
                env = {"REDIS_LAB_DATA": scratch, **own}
                for done, notebook in notebooks.execute(path, effort, env):
                    bar.total, bar.n = len(notebook.cells), done
                    bar.refresh()
            for file in sorted(Path(scratch, folder.name).glob("*.json")):
                one = results.load(file)
                whole[file.stem] = whole[file.stem].merge(one) if file.stem in whole else one
        drawn, alternatives = {}, {}
        for name, result in whole.items():
            results.save(result, folder)
            if name not in lessons.load_figures():
                continue
            chart = lessons.find_figure(name)
            drawn[name] = figures.write_plot(result, chart, figures.plots_folder(effort))
            alternatives[name] = figures.describe(result, chart)
        if in_place:
            notebooks.write_notebook(path, notebook)
            notebooks.embed_figures(path, drawn, alternatives)
    return [folder / f"{name}.json" for name in whole]


def link_data(scratch: Path) -> None:
    """Link the shop's data into `scratch`, where the run writes its results."""
    for file in data_folder().glob("shop-*.sqlite"):
        with contextlib.suppress(OSError):  # no links here: the run makes its own
            (scratch / file.name).symlink_to(file.resolve())
