"""Find, execute and validate the workbook's notebooks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from . import claims
from .child import TemporaryRun
from .claims import NOT_MEASURED
from .errors import LabError
from .files import data_folder, write_whole
from .toc import notebooks_folder, read_toc

if TYPE_CHECKING:  # slow to import, and most commands do not need them
    import nbformat

# nbformat's schema checker would build a grammar of internationalised addresses (IRIs) whenever it
# is loaded, which takes a second, and which no notebook needs. Without the package that would do
# this, nbformat skips the check.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: not there

CELL_TIMEOUT_S = 300
LEFT_S = 10  # what a notebook has started may take so long to end after it
KERNEL_END_S = 1.0  # a cell that Ctrl-C has not ended by then is killed with its kernel
TOOK = "validation_seconds.json"  # in data/local: how long each notebook took the last time
# Run by child.Child
HELPERS = ("/_keeper.py", "/_relay.py", "/_generator.py", "/rest/app.py", "/_remover.py")
MARK = "REDIS_LAB_VALIDATION"  # set for everything that a validation starts
FIGURE_CALL = re.compile(r'\b(?:lab|lesson)\.figure\(\\?"(\w+)\\?"')  # in source, or in its JSON
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # IPython colours its tracebacks
CURSOR = re.compile(r"\x1b\[[0-9;]*[A-Z]")  # tqdm moves it, where several bars are shown at once


def find(only: str = "") -> list[Path]:
    """Every notebook in reading order, or those whose path contains `only`.

    Raises: LabError that lists the notebooks when none matches.
    """
    every = [lesson.find() for lesson in read_toc()]
    chosen = [path for path in every if only in path.relative_to(notebooks_folder()).as_posix()]
    if not chosen:
        names = ", ".join(path.stem for path in every)
        raise LabError(f"No notebook matches {only!r}; there are {names}.")
    return chosen


def _is_progress_bar(output: dict) -> bool:
    """Whether an output is the rest of a progress bar: on standard error, or an empty display."""
    return (output.get("output_type") == "display_data" and not output.get("data")) or (
        output.get("output_type") == "stream"
        and output.get("name") == "stderr"
        and ("\r" in output["text"] or not CURSOR.sub("", output["text"]).strip())
    )


def list_experiments(path: Path) -> set[str]:
    """The experiments that a notebook measures: the names that it passes to `lab.lesson.figure`."""
    return set(FIGURE_CALL.findall(path.read_text(encoding="utf-8")))


def find_measuring(only: str = "") -> list[Path]:
    """The notebooks of which the path or the name of an experiment contains `only`."""
    return [
        path
        for path in find()
        if only in path.relative_to(notebooks_folder()).as_posix()
        or any(only in name for name in list_experiments(path))
    ]


def execute(
    path: Path, effort: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Run a notebook's cells in a kernel of its own; yield (cells done, notebook).

    `env` are further environment variables of the kernel.

    Raises: LabError that names notebook and cell, and quotes the cell that failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # the file is not JSON, or not a notebook
        what = str(error).strip().splitlines()[0][:100]
        raise LabError(f"{path.name} is not a notebook: {what}") from None

    def kernel(name: str) -> tuple[NotebookClient, contextlib.AbstractContextManager]:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],  # Ctrl-C makes it log a traceback
            resources={"metadata": {"path": str(path.parent)}},
        )
        manager = client.create_kernel_manager()
        manager.connection_file = os.path.join(run.name, name)
        variables = {**os.environ, **run.environment, **(env or {}), "REDIS_LAB_EFFORT": effort}
        return client, client.setup_kernel(env={**variables, claims.STRICT: "1"})

    with contextlib.ExitStack() as stack:
        run = stack.enter_context(TemporaryRun())
        client, running = kernel("first.json")
        try:
            stack.enter_context(running)
        except RuntimeError:  # another process took one of its ports first
            client, running = kernel("second.json")
            stack.enter_context(running)
        for index, cell in enumerate(notebook.cells):
            where = f"{path.stem}, cell {index}"
            try:
                client.execute_cell(cell, index)
            except (KeyboardInterrupt, SystemExit):
                assert client.km  # it has been started
                client.km.shutdown_wait_time = KERNEL_END_S
                raise
            except CellExecutionError as error:
                last = COLOURS.sub("", f"{error.ename}: {error.evalue}")
                head = "\n    ".join(cell.source.splitlines()[:4])
                raise LabError(f"{where}: {last}\n    {head}") from error
            except CellTimeoutError:
                raise LabError(f"{where}: not done after {CELL_TIMEOUT_S} s") from None
            except DeadKernelError:
                raise LabError(f"{where}: the kernel died") from None
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if not _is_progress_bar(output)]
                cell.metadata.pop("execution", None)
            yield index + 1, notebook


def write_notebook(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write an executed notebook back, atomically, without what varies by machine."""
    import nbformat

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _join_streams(cell.outputs)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    write_whole(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def _join_streams(outputs: list) -> list:
    """What a cell printed in several parts, because the machine was busy, as one output."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.get("output_type") == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def embed_figures(
    path: Path, drawn: Mapping[str, bytes], alternatives: Mapping[str, str]
) -> set[str]:
    """Replace the figures that a notebook shows by plots, which are given by experiment.

    `alternatives` are their alternative texts. Only the outputs of cells that draw one
    figure and show one image are changed, and the file is written only if one was. Returns the
    experiments whose figure changed.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    changed = set()
    for cell in notebook.cells:
        named = FIGURE_CALL.findall(cell.source) if cell.cell_type == "code" else []
        images = [each for each in cell.get("outputs", ()) if "image/png" in each.get("data", {})]
        if len(named) != 1 or len(images) != 1 or named[0] not in drawn:
            continue
        [experiment], [output] = named, images
        image = base64.b64encode(drawn[experiment]).decode()
        about = {"alt": alternatives[experiment]}
        if (output.data["image/png"].strip(), output.metadata.get("image/png")) != (image, about):
            output.data["image/png"], output.metadata["image/png"] = image, about
            changed.add(experiment)
    if changed:
        write_notebook(path, notebook)
    return changed


@dataclass
class Validated:
    """One notebook's validation: pytest's exit code, its report, and the outcome of its claims."""

    name: str
    code: int
    seconds: float
    report: str
    reports: list[dict]
    left: list[psutil.Process]

    @property
    def passed(self) -> bool:
        return self.code == 0 and not self.left


def validate_notebooks(
    paths: list[Path], jobs: int | None = None, cell_timeout_s: int = CELL_TIMEOUT_S
) -> int:
    """Strict nbval over notebooks, each in a kernel of its own, `jobs` at a time; an exit code.

    Prints a line for each notebook, the full report of those that failed, and the claims that
    were not tested or did not hold here; these do not change the exit code.
    """
    jobs = jobs or (os.cpu_count() or 1) + 1
    done = []
    for each in _run_validations(paths, jobs, cell_timeout_s):
        done.append(each)
        verdict = "passed" if each.passed else "FAILED"
        count = f"{len(done):{len(str(len(paths)))}} of {len(paths)}"
        print(f"{count}  {verdict}  {each.seconds:6.1f} s  {each.name}", flush=True)
    order = [path.stem for path in paths]  # the order in which they end is random
    done.sort(key=lambda each: order.index(Path(each.name).name))
    for each in done:
        if not each.passed:
            print(f"\n{f' {each.name} ':=^80}\n{each.report}")
        if each.left:
            print(f"{len(each.left)} processes outlived {each.name}: {each.left}")
    _write_seconds(done)
    print(_summarize(done), flush=True)
    return 0 if all(each.passed for each in done) else 1


def _run_validations(paths: list[Path], jobs: int, cell_timeout_s: int) -> Iterator[Validated]:
    """Run them in parallel, the longest first, and yield each when it is done."""
    waiting = _sort_longest_first(paths)
    running: list[Validation] = []
    with TemporaryRun() as run:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    place = Path(run.name, str(len(waiting)))
                    path = waiting.pop(0)
                    running.append(Validation(path, place, cell_timeout_s, run.environment))
                psutil.wait_procs([each.process for each in running], timeout=0.2)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    yield each.ended()
        finally:
            for each in running:
                each.process.terminate()
                each.process.wait()


class Validation:
    """A notebook under nbval, in a pytest of its own."""

    def __init__(
        self, path: Path, scratch: Path, cell_timeout_s: int, environment: dict[str, str]
    ) -> None:
        scratch.mkdir()
        self.path, self.report, self.claims = path, scratch / "report", scratch / "claims"
        self.mark = f"{os.getpid()}-{scratch.name}"
        self.began = time.monotonic()
        # This module first, so that nbval loads nbformat without the grammar of addresses
        command = [sys.executable, "-m", "pytest", "-p", __name__, "-p", "nbval.plugin"]
        command += ["-p", "no:cacheprovider"]
        command += ["-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"]
        command += ["--nbval", "--nbval-current-env"]
        command += ["--nbval-cell-timeout", str(cell_timeout_s), "-q"]
        command += ["--nbval-sanitize-with", str(Path(__file__).with_name("nbval_sanitize.cfg"))]
        effort = {"REDIS_LAB_EFFORT": "quick"}
        # nbval finds its kernel by a file, which it creates in the folder for temporary files
        ours = {"TMPDIR": str(scratch), MARK: self.mark, claims.FILE: str(self.claims)}
        ours["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they cost seconds, and one shuffles cells
        with self.report.open("wb") as report:
            self.process = psutil.Popen(
                [*command, str(path)],
                cwd=notebooks_folder().parent,
                env=effort | os.environ | environment | ours,
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> Validated:
        seconds = time.monotonic() - self.began
        _, left = psutil.wait_procs(_find_helpers(self.mark), timeout=LEFT_S)
        name = self.path.stem
        if self.path.is_relative_to(notebooks_folder()):
            name = self.path.relative_to(notebooks_folder()).with_suffix("").as_posix()
        report = self.report.read_text(encoding="utf-8", errors="replace").strip()
        reports = claims.read_claims(self.claims)
        return Validated(name, self.process.returncode, seconds, report, reports, left)


def _sort_longest_first(paths: list[Path]) -> list[Path]:
    """Sort by the time that each took here the last time, or, if that is unknown, by size."""
    took = _read_last_times()
    known = [(took[path.stem], path.stat().st_size) for path in paths if path.stem in took]
    a_byte = sum(s for s, _ in known) / sum(n for _, n in known) if known else 1.0
    return sorted(
        paths, key=lambda path: took.get(path.stem, a_byte * path.stat().st_size), reverse=True
    )


def _read_last_times() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((data_folder() / "local" / TOOK).read_text())
    return {}


def _write_seconds(done: list[Validated]) -> None:
    took = _read_last_times() | {Path(each.name).name: round(each.seconds, 1) for each in done}
    with contextlib.suppress(LabError):  # it decides only the order of the notebooks
        write_whole(data_folder() / "local" / TOOK, json.dumps(took, indent=1).encode())


def _summarize(done: list[Validated]) -> str:
    """How many notebooks passed; claims not tested or not holding here, with reasons."""
    failed = [each for each in done if not each.passed]
    lines = [f"\n{len(done) - len(failed)} of {len(done)} notebooks passed."]
    varying = [(each.name, line) for each in done for line in each.reports if "claim" in line]
    busy = [(name, c) for name, c in varying if c["reason"] == NOT_MEASURED]
    unlike = [(name, c) for name, c in varying if not c["holds"] and c["reason"] != NOT_MEASURED]
    missing = [(each.name, line) for each in done for line in each.reports if "measurement" in line]
    lines.append(
        f"{len(varying)} claims rest on times or on chance: "
        f"{len(varying) - len(busy) - len(unlike)} hold here."
    )
    for head, found in (("do not hold here", unlike), ("were not tested", busy)):
        if found:
            lines.append(f"\n{len(found)} {head}, which is neither passed nor failed:")
            lines += [f"  {name}: {c['claim']}\n      {c['reason']}" for name, c in found]
    if missing:
        lines.append("\nNot measured, because the machine was too busy:")
        lines += [f"  {name}: {m['measurement']}\n      {m['reason']}" for name, m in missing]
    lines += [f"FAILED {each.name}" for each in failed]
    return "\n".join(lines)


def _find_helpers(mark: str) -> list[psutil.Process]:
    """The processes of servers and links that this validation has started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if any(word.endswith(HELPERS) for word in words):
                found += [process] if process.environ().get(MARK) == mark else []
    return found
