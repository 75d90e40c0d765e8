"""Find, execute and strip the workbook's notebooks."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from .errors import LabError
from .files import write_whole

if TYPE_CHECKING:  # slow to import, and most commands do without
    import nbformat

# nbformat's schema checker would build a grammar of internationalised addresses (IRIs) whenever it
# is loaded, which takes a second, and which no notebook needs. It does without where it is absent.
sys.modules.setdefault("rfc3987_syntax", None)

CELL_TIMEOUT_S = 300
MARK = "REDIS_LAB_VALIDATION"  # set for everything that a validation starts
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # IPython colours its tracebacks
CURSOR = re.compile(r"\x1b\[[0-9;]*[A-Z]")  # tqdm moves it, where several bars are shown at once


def folder() -> Path:
    """The checkout's `notebooks/`. Raises: LabError when the package stands alone."""
    found = Path(__file__).resolve().parents[1] / "notebooks"
    if not found.is_dir():
        raise LabError("The notebooks are not here; install from a checkout: pip install -e .")
    return found


def find(only: str = "") -> list[Path]:
    """Every notebook in reading order, or those whose path contains `only`.

    Raises: LabError that lists the notebooks when none matches.
    """
    every = [
        path
        for part in ("", "structures", "patterns", "production")
        for path in sorted((folder() / part).glob("*.ipynb"))
    ]
    chosen = [path for path in every if only in path.relative_to(folder()).as_posix()]
    if not chosen:
        names = ", ".join(path.stem for path in every)
        raise LabError(f"No notebook matches {only!r}; there are {names}.")
    return chosen


def is_bar(output: dict) -> bool:
    """A progress bar's remains on standard error."""
    return (
        output.get("output_type") == "stream"
        and output.get("name") == "stderr"
        and ("\r" in output["text"] or not CURSOR.sub("", output["text"]).strip())
    )


def execute(path: Path, effort: str) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Run a notebook's cells in a kernel of its own; yield (cells done, notebook).

    Raises: LabError that quotes the cell that failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)

    def kernel() -> tuple[NotebookClient, contextlib.AbstractContextManager]:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=50"],  # Ctrl-C makes it log a traceback
            resources={"metadata": {"path": str(path.parent)}},
        )
        return client, client.setup_kernel()

    before = os.environ.get("REDIS_LAB_EFFORT")
    os.environ["REDIS_LAB_EFFORT"] = effort
    try:
        with contextlib.ExitStack() as stack:
            client, running = kernel()
            try:
                stack.enter_context(running)
            except RuntimeError:  # another process was quicker to take one of its ports
                client, running = kernel()
                stack.enter_context(running)
            for index, cell in enumerate(notebook.cells):
                try:
                    client.execute_cell(cell, index)
                except CellExecutionError as error:
                    last = COLOURS.sub("", str(error)).strip().splitlines()[-1]
                    head = "\n    ".join(cell.source.splitlines()[:4])
                    raise LabError(f"{path.stem}, cell {index}: {last}\n    {head}") from error
                if cell.cell_type == "code":
                    cell.outputs = [output for output in cell.outputs if not is_bar(output)]
                    cell.metadata.pop("execution", None)
                yield index + 1, notebook
    finally:
        if before is None:
            del os.environ["REDIS_LAB_EFFORT"]
        else:
            os.environ["REDIS_LAB_EFFORT"] = before


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write an executed notebook back, whole or not at all, without what varies by machine."""
    import nbformat

    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    write_whole(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def without_solutions(path: Path) -> str:
    """The notebook's JSON without the cells tagged `solution` and without outputs."""
    from nbconvert import NotebookExporter
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.remove_cell_tags = {"solution"}
    exporter = NotebookExporter(config=config)
    exporter.register_preprocessor(TagRemovePreprocessor(config=config), enabled=True)
    exporter.register_preprocessor(ClearOutputPreprocessor(), enabled=True)
    return exporter.from_filename(str(path))[0]


def validate(paths: list[Path], cell_timeout_s: int = CELL_TIMEOUT_S) -> int:
    """Strict nbval over notebooks, each in a kernel of its own; pytest's exit code."""
    root = folder().parent
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "--nbval",
            "--nbval-current-env",
            "-p",
            "no:cacheprovider",
        ),
        *("--nbval-cell-timeout", str(cell_timeout_s), "-o", "timeout=0", "-q"),
        *("--nbval-sanitize-with", str(root / "tests" / "nbval_sanitize.cfg")),
        *map(str, paths),
    ]
    ours = str(os.getpid())
    environment = {"REDIS_LAB_EFFORT": "quick"} | os.environ | {MARK: ours}
    code = subprocess.run(command, cwd=root, env=environment).returncode
    _, left = psutil.wait_procs(helpers(ours), timeout=3)
    if left:
        raise LabError(f"{len(left)} processes outlived their notebooks: {left}")
    return code


def helpers(mark: str) -> list[psutil.Process]:
    """The processes that servers and links of the lab run in, started by this validation."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if any(word.endswith(("_keeper.py", "_relay.py")) for word in words):
                found += [process] if process.environ().get(MARK) == mark else []
    return found
