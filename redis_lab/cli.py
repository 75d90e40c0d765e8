"""The command line: one function for each command."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import psutil
import redis
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from . import copies, notebooks
from .child import TemporaryFolder, TemporaryRun
from .errors import LabError
from .extras import describe_missing, require
from .files import data_folder
from .index import write_index
from .servers.base import redact
from .servers.choose import KINDS, choose_kind, connect
from .servers.choose import server as start_server
from .toc import read_toc

app = typer.Typer(
    help="A workbook that teaches Redis by measuring it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console(markup=False)  # what is printed may hold [brackets]
INTERRUPTED = 130


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"redis-lab {version('redis-lab')}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """A workbook that teaches Redis by measuring it."""


def main() -> None:
    """Run a command; a LabError becomes one line and exit code 1, Ctrl-C exit code 130.

    SIGTERM and SIGHUP end it as Ctrl-C does, so that the processes it started end, too; exit codes
    143 and 129. If a module of an extra is missing, that is one line, too.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:  # ignored, under nohup
            signal.signal(number, lambda ended_by, _: sys.exit(128 + ended_by))
    try:
        try:
            code = app(standalone_mode=False)
        except ModuleNotFoundError as error:
            if advice := describe_missing(str(error.name)):
                raise LabError(advice) from error
            raise
    except LabError as error:
        Console(stderr=True).print(
            f"redis-lab: {error}", style="red", highlight=False, markup=False
        )
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "show"):  # click's own usage errors know how to show themselves
            error.show()
            sys.exit(getattr(error, "exit_code", 2))
        raise
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code, older versions into Abort
        Console(stderr=True).print("\nStopped. What was measured so far is kept.")
    sys.exit(code)


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


@app.command()
def doctor() -> None:
    """Show what was found on this machine: Python, client, servers, dataset, disk, cores, load."""
    import hiredis

    from .measure.results import cpu_model
    from .source import SEED, find_database

    try:
        chosen, why = choose_kind()
        trouble = ""
    except LabError as error:
        chosen, why, trouble = None, "", str(error)
    rows = []
    for kind in KINDS:
        usable, found = kind.probe()
        state = "not here"
        if kind is chosen:
            state = f"chosen: {why or 'first that works'}"
        elif usable:
            state = "usable" if kind.unasked else f"usable, by REDIS_LAB_SERVER={kind}"
        rows.append([str(kind), found, state])
    table("Servers, in order of preference", ["kind", "found", ""], rows)
    benchmark = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    data = data_folder()
    disk = shutil.disk_usage(data if data.is_dir() else Path.home())
    made = find_database("default", SEED)
    load = psutil.getloadavg()[0]
    facts = [
        ["Python", f"{sys.version.split()[0]}"],
        ["client", f"redis-py {redis.__version__}, parser hiredis {hiredis.__version__}"],
        ["redis-benchmark", "on PATH" if benchmark else "not on PATH (lessons go on without it)"],
        ["dataset", f"made, {made.stat().st_size / 1e6:.0f} MB" if made else "made on first use"],
        ["free disk", f"{disk.free / 1e9:.1f} GB" + (" (low)" if disk.free < 1e9 else "")],
        ["processor", f"{cpu_model()}, {psutil.cpu_count()} cores"],
        ["load", f"{load:.2f}" + (" (busy: measurements will be noisy)" if load > 1 else "")],
        ["effort", os.environ.get("REDIS_LAB_EFFORT", "quick")],
    ]
    table("\nThis machine", ["", ""], facts)
    if trouble:
        raise LabError(trouble)


@app.command()
def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="JupyterLab's port; 0 takes a free one.")] = 8888,
    committed: Annotated[
        bool,
        typer.Option(
            "--committed", help="Open notebooks/ itself, to change the lessons; not your copies."
        ),
    ] = False,
) -> None:
    """Open JupyterLab on the first lesson, in your own copy of the notebooks (work/)."""
    require("jupyterlab", "ipykernel")
    root = notebooks.notebooks_folder().parent
    if committed:
        first = read_toc()[0].find()
    else:
        first = prepare().first
        root = root if first.is_relative_to(root) else first.parent
    try:
        kind, why = choose_kind()
        out.print(f"Each notebook starts its own server ({kind}{', ' + why if why else ''}).")
    except LabError as error:
        out.print(str(error), style="red")
    page = f"/lab/tree/{first.relative_to(root).as_posix()}"
    command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url={page}"]
    command += [f"--port={port}"] + ([] if browser else ["--no-browser"])
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.chdir(root)
    if os.name == "posix":  # JupyterLab takes this process's place, and its signals
        if "JUPYTER_RUNTIME_DIR" not in os.environ:  # JupyterLab leaves files there if it is killed
            runtime = TemporaryFolder()
            runtime.keep_over_exec()
            os.environ["JUPYTER_RUNTIME_DIR"] = runtime.name
        for number in (signal.SIGTERM, signal.SIGHUP):  # or one now is lost
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.execv(sys.executable, command)
    raise typer.Exit(subprocess.run(command).returncode)


@app.command("work")
def make_copies() -> None:
    """Copy the notebooks into work/, or update the copies that you have not changed."""
    made = prepare()
    out.print(str(made.first), highlight=False, soft_wrap=True)


def prepare() -> copies.Work:
    """Make or update the reader's copies, and print a line for each new version that is offered."""
    made = copies.renew()
    for name in made.offers:
        out.print(f"New version of {name}: redis-lab reset {name} (your copy is kept)")
    return made


@app.command("reset")
def reset_copy(
    lesson: Annotated[str, typer.Argument(help="The lesson, such as strings.")],
) -> None:
    """Start a lesson again in work/; your copy of it is kept beside the new one."""
    fresh, kept = copies.reset(lesson)
    out.print(str(fresh), highlight=False, soft_wrap=True)
    if kept:
        out.print(f"Yours is kept: {kept.name}", highlight=False, soft_wrap=True)


@app.command("progress")
def print_progress() -> None:
    """Show which exercises you have solved, how your predictions were, and what comes next."""
    from .logbook import progress as so_far

    out.print(repr(so_far()), highlight=False, markup=False)


@app.command(name="plots")
def plots_command(
    only: Annotated[
        str, typer.Argument(help="Part of a notebook's path or of an experiment's name.")
    ] = "",
    redraw: Annotated[
        bool,
        typer.Option(
            "--redraw", help="Draw existing results as the lessons now say; measure nothing."
        ),
    ] = False,
    effort: Annotated[str, typer.Option(help="quick or full.")] = "full",
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Also write the outputs into the notebooks; with --redraw, the figures only.",
        ),
    ] = False,
) -> None:
    """Execute the notebooks and write data/results/*.json and data/plots/*.png."""
    from .measure import results

    if redraw:
        return draw_again(only, effort, in_place)
    require("nbformat", "nbclient", "ipykernel")
    chosen = notebooks.find_measuring(only)
    with_cost = bool(only) and only in HARNESS_COST
    if not (chosen or with_cost):
        notebooks.find(only)  # its error lists the notebooks
    folder = results.results_folder(effort)
    began = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    if with_cost:
        script = harness_cost(must_be_here=not chosen)
    for path in chosen:
        with tqdm(total=1, desc=path.stem, bar_format="{l_bar}{bar}| {elapsed}") as bar:
            for done, notebook in notebooks.execute(path, effort):
                bar.total = len(notebook.cells)
                bar.n = done
                bar.refresh()
        if in_place:
            notebooks.write_notebook(path, notebook)
    if with_cost and script:
        with (
            TemporaryRun() as run,
            tqdm(total=1, desc=script.stem, bar_format="{l_bar}{bar}| {elapsed}") as bar,
        ):
            env = os.environ | run.environment | {"REDIS_LAB_EFFORT": effort}
            subprocess.run([sys.executable, script], check=True, stdout=subprocess.DEVNULL, env=env)
            bar.update()
    now = sorted(folder.glob("*.json"))
    report([path for path in now if began.get(path) != path.stat().st_mtime_ns], effort)


@app.command(name="publish")
def publish_command(
    only: Annotated[
        str, typer.Argument(help="Part of a notebook's path or of an experiment's name.")
    ] = "",
    runs: Annotated[int, typer.Option(help="How many runs; 5 give intervals.", min=1)] = 5,
    effort: Annotated[str, typer.Option(help="quick or full.")] = "full",
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Also write outputs and figures into the notebooks.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Keep the runs that the results hold already.")
    ] = False,
    client_cores: Annotated[str, typer.Option(help="Such as 0 or 0,1; by default all but")] = "",
    server_cores: Annotated[str, typer.Option(help="these; by default the last core.")] = "",
) -> None:
    """Measure notebooks several times, one run at a time, and write results with all runs.

    Each run has a fresh kernel and fresh servers, pinned to cores where that can be chosen. The
    intervals of the figures are then over runs. Ctrl-C keeps the runs that are complete.
    """
    require("nbformat", "nbclient", "ipykernel")
    from .measure.effort import effort_name
    from .publish import choose_cores, publish_runs

    effort, cores = effort_name(effort), choose_cores(client_cores, server_cores)
    chosen = notebooks.find_measuring(only) or notebooks.find(only)  # its error lists the notebooks
    out.print(f"pinned: {cores or 'nothing'}", highlight=False)
    written = []
    for path in chosen:
        written += publish_runs(path, runs, cores=cores, effort=effort, add=add, in_place=in_place)
    report(written, effort)


def draw_again(only: str, effort: str, in_place: bool) -> None:
    """Draw existing results again; with `in_place`, put the figures into the notebooks.

    Raises: LabError if there is no result, or, after drawing the others, for results of no lesson.
    """
    from . import figures, lessons
    from .measure import results

    folder = results.results_folder(effort)
    paths = [path for path in sorted(folder.glob("*.json")) if is_selected(path.stem, only)]
    paths = [path for path in paths if path.name != notebooks.TOOK]
    if not paths:
        raise LabError(f"There is no result {only!r} to draw again; measure it: make plots.")
    known = [path for path in paths if path.stem in lessons.load_figures()]
    drawn, alternatives = {}, {}
    for path in tqdm(known, desc="drawing"):
        result, chart = results.load(path), lessons.find_figure(path.stem)
        drawn[path.stem] = figures.write_plot(result, chart, figures.plots_folder(effort))
        alternatives[path.stem] = figures.describe(result, chart)
    if in_place:
        for path in notebooks.find():
            changed = notebooks.embed_figures(path, drawn, alternatives)
            if changed:
                out.print(f"{path.name}: {', '.join(sorted(changed))}", highlight=False)
    report(known, effort, "Drawn again")
    unknown = [path.stem for path in paths if path not in known]
    if unknown:
        raise LabError(
            f"Not drawn, because no lesson has a figure for it: {', '.join(unknown)}. "
            "Delete the result, or add the figure to its lesson's module in redis_lab/lessons."
        )


HARNESS_COST = "harness_cost"


def harness_cost(must_be_here: bool) -> Path | None:
    """The script that measures the harness itself, or None if it is absent or cannot run."""
    script = Path(__file__).resolve().parents[1] / "benchmarks" / f"{HARNESS_COST}.py"
    if script.exists() and all(map(find_spec, ("pyperf", "pytest_benchmark"))):
        return script
    if must_be_here:
        raise LabError(
            f"{HARNESS_COST} compares our harness with others: it needs a checkout and "
            "pip install -e '.[test]'."
        )
    return None


def is_selected(experiment: str, only: str) -> bool:
    """Whether `only` is a part of the experiment's name or of its notebook's path."""
    if only in experiment:
        return True
    try:
        named = notebooks.find(only)
    except LabError:
        return False
    return any(experiment in notebooks.list_experiments(path) for path in named)


def report(paths: list[Path], effort: str, title: str = "Measured") -> None:
    from . import figures
    from .measure import results

    root = Path.cwd()
    rows = []
    for path in paths:
        result = results.load(path)
        plot = figures.plots_folder(effort) / f"{result.experiment}.png"
        where = plot.relative_to(root) if plot.is_relative_to(root) else plot
        rows.append([result.experiment, result.title, str(len(result.rows)), str(where)])
    table(f"\n{title}", ["experiment", "what", "points", "plot"], rows)


@app.command()
def data(
    scale: Annotated[str, typer.Option(help="small, default or large.")] = "default",
) -> None:
    """Make the shop's dataset, if it is not there yet."""
    from .source import make_database

    made = make_database(scale)
    out.print(f"{made.name}: {made.stat().st_size / 1e6:.0f} MB", highlight=False)


EXAMPLE = """
def arms(r):
    keys = [f"page:{i}" for i in range(100)]
    r.mset({key: "x" * 500 for key in keys})

    def pipeline():
        with r.pipeline(transaction=False) as pipe:
            [pipe.get(key) for key in keys]
            return pipe.execute()

    return {"loop": lambda: [r.get(k) for k in keys], "pipeline": pipeline,
            "MGET": lambda: r.mget(keys)}
"""
# One line for each paragraph, because rich keeps line breaks; it takes [words] for markup
BENCH_HELP = "\n\n".join(
    [
        "Measure the arms of a Python file against each other.",
        "The file defines arms(r), a function that gets a client of the lab's server and returns "
        "the arms: a dictionary of functions by name (or of redis_lab.bench.Arm objects, which can "
        "have a setup for each block), or a list of functions. Coroutine functions are awaited. "
        "Arms that need no client may be in a variable ARMS instead; then no server is started. "
        "A complete example:",
        "\b\n" + escape(EXAMPLE.strip()),
        "Prints each arm's median and p99 in microseconds, how far they vary within this run, and "
        "how each arm compares with the reference. A PING over a bare socket is measured in the "
        "same run, as a baseline: no client can be faster.",
    ]
)


@app.command(help=BENCH_HELP)
def bench(
    file: Annotated[Path, typer.Argument(help="A Python file that defines arms(r) or ARMS.")],
    effort: Annotated[
        str, typer.Option(help="quick or full; without it REDIS_LAB_EFFORT, or quick.")
    ] = "",
    seconds: Annotated[
        float | None, typer.Option(help="Seconds for each arm, instead of the effort's.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="The arm to compare with; the first by default.")
    ] = "",
    baseline: Annotated[bool, typer.Option(help="Measure a bare socket's PING as well.")] = True,
    save: Annotated[
        Path | None, typer.Option(help="Write the result here, for redis-lab compare (JSON).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a figure here, such as arms.png or arms.svg.")
    ] = None,
) -> None:
    from .measure.arms_file import describe_error, load_arms
    from .measure.bench import compare, effort_name

    name = effort_name(effort or None)  # report a wrong value before anything is started
    arms, client = load_arms(file, connect)
    try:
        found = compare(
            arms,
            client=client,
            baseline=baseline,
            seconds=seconds,
            effort=name,
            reference=reference or None,
            label=file.stem,
        )
    except LabError:
        raise
    except Exception as error:
        raise LabError(describe_error(error, file)) from error
    shown = found.table()
    shown = shown.astype({"round trips": object}).fillna("–").reset_index()
    table("", list(shown.columns), [[str(cell) for cell in row] for row in shown.to_numpy()])
    out.print(found.notes, highlight=False)
    if save is not None:
        out.print(f"saved: {found.save(save, title=file.stem)}", highlight=False)
    if plot is not None:
        found.plot(plot)
        out.print(f"plotted: {plot}", highlight=False)


@app.command("workload")
def run_workload(
    name: Annotated[str, typer.Argument(help="Such as ycsb-a; without a name, list them.")] = "",
    records: Annotated[int, typer.Option(help="How many records of about 1 KB.", min=1)] = 10_000,
    rate: Annotated[
        float, typer.Option(help="Operations a second; without it, as many as possible.", min=0)
    ] = 0,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.1)] = 5,
    connections: Annotated[int, typer.Option(help="How many connections.", min=1)] = 16,
    depth: Annotated[int, typer.Option(help="Operations in a batch, without --rate.", min=1)] = 1,
    processes: Annotated[int, typer.Option(help="How many load generators.", min=1)] = 1,
    save: Annotated[Path | None, typer.Option(help="Write the result here (JSON).")] = None,
) -> None:
    """Run a workload that others use: YCSB's A, B, C and F on hashes.

    Without --rate it finds the most operations a second, and says who was saturated. With --rate
    the operations come at random times, whether or not the server keeps up, and each is timed from
    the moment it was due.
    """
    from .measure import load, results, ycsb

    if not name:
        known = [[each, workload.about] for each, workload in ycsb.WORKLOADS.items()]
        known += [[each, f"not here: it {why}"] for each, why in ycsb.LEFT_OUT.items()]
        table("", ["workload", "what it is"], known)
        return
    mix = ycsb.make_mix(name, records)
    client: Any = connect(one_server=True)
    ycsb.load_records(client, records)
    how: dict[str, Any] = {"connections": connections, "processes": processes, "seconds": seconds}
    if rate:
        found = load.open_loop(client, mix, rate_per_s=rate, label=name, **how)
        rows = found.rows_by_kind()
        out.print(repr(found), highlight=False)
        shown = [
            [str(row["arm"]), f"{row['calls']:,}", _in_us(row["p50_us"]), _in_us(row["p99_us"])]
            for row in rows
        ]
        table("", ["operation", "calls", "p50 µs", "p99 µs"], shown)
    else:
        most = load.saturate(client, mix, depth=depth, label=name, **how)
        out.print(repr(most), highlight=False)
        rows = [{"arm": name, "depth": depth, **dataclasses.asdict(most)}]
    if save is not None:
        facts: dict[str, Any] = {
            "workload": name,
            "records": records,
            "load_connections": connections,
        }
        result = results.make_result(
            name.replace("-", "_"), rows, title=f"YCSB: {name}", client=client, **facts
        )
        results.write(result, save)
        out.print(f"saved: {save}", highlight=False)


@app.command("machine")
def compare_servers(
    name: Annotated[
        str,
        typer.Argument(help="This machine, such as epyc-2-cores; without it, list what is there."),
    ] = "",
    kinds: Annotated[
        str, typer.Option("--on", help="Kinds of server, such as embedded,redis8; default: all.")
    ] = "",
    runs: Annotated[int, typer.Option(help="How many runs of each server to add.", min=1)] = 5,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds for each command, instead of the effort's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is wrong with the files that are there.")
    ] = False,
) -> None:
    """Measure everyday commands on each server here, in turns, for data/machines/NAME/.

    Each run has a fresh process and a fresh server, pinned to cores where the system allows it.
    Leave the machine alone meanwhile. The site compares the machines; CONTRIBUTING.md says how to
    add yours.
    """
    from . import machines

    if name and not check:
        chosen = machines.choose_kinds([each for each in kinds.split(",") if each])
        out.print(f"In turns: {', '.join(map(str, chosen))}.", highlight=False)
        for path in machines.measure_machine(name, chosen, runs, seconds=seconds):
            out.print(f"written: {path}", highlight=False, soft_wrap=True)
    wrong = machines.check_machines()
    for line in wrong:
        out.print(line, highlight=False, markup=False, soft_wrap=True, style="red")
    if check and wrong:
        raise typer.Exit(1)
    rows = [
        [machine, path.stem, str(len(one.runs)), str(one.environment["cpu"])]
        for machine, path, one in machines.load_machines()
    ]
    table("", ["machine", "server", "runs", "processor"], rows)


def _in_us(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else "–"


@app.command("drill")
def drill_class(
    target: Annotated[str, typer.Argument(help="A class or adapter, my_module:MyCache.")],
    kind: Annotated[
        str, typer.Option("--as", help="cache, lock, queue, limiter, session or once.")
    ],
    seed: Annotated[
        int | None, typer.Option(help="Plays the same faults again; by default a new one.")
    ] = None,
    kills: Annotated[int, typer.Option(help="SIGKILLs of clients in the race; 0: no race.")] = 100,
    workers: Annotated[int, typer.Option(help="Processes in the race.", min=1)] = 4,
    on: Annotated[
        str, typer.Option(help="Where the race is run: single, failover or cluster.")
    ] = "single",
    forget: Annotated[
        bool, typer.Option("--forget", help="The server keeps nothing when it is restarted.")
    ] = False,
    steps: Annotated[
        bool, typer.Option(help="Play the known interleavings step by step, before the race.")
    ] = True,
    save: Annotated[
        Path | None, typer.Option("--json", help="Write what was found here, as JSON.")
    ] = None,
) -> None:
    """Hold a class to a contract: interleavings, then a race with kills and a failing server.

    Exit code 1 if the class breaks one of its promises. How to write an adapter: docs/drill.md.
    """
    from .drill import drill as run_drill

    options: Any = {"seed": seed, "kills": kills, "workers": workers, "on": on}
    with tqdm(bar_format="{desc} {elapsed}", leave=False) as bar:
        report = run_drill(
            *(target, kind),
            forget=forget,
            steps=steps,
            progress=bar.set_description_str,
            **options,
        )
    out.print(str(report), highlight=False, markup=False, soft_wrap=True)
    if save is not None:
        report.save(save)
    raise typer.Exit(INTERRUPTED if report.interrupted else int(not report.ok))


@app.command("compare")
def compare_runs(
    first: Annotated[Path, typer.Argument(help="A result, such as data/results/pipelines.json.")],
    second: Annotated[Path, typer.Argument(help="Another one, such as data/local/pipelines.json.")],
) -> None:
    """Compare two results of an experiment and say which differences are larger than between runs.

    A verdict needs at least five runs in each: redis-lab publish measures them.
    """
    from . import figures
    from .measure import results

    one, two = results.load(first), results.load(second)
    frame = results.compare_results(one, two)
    for name, result in (("first", one), ("second", two)):
        out.print(f"{name}: {figures.caption(result.environment)}", highlight=False)
    table("", list(frame.columns), [[str(cell) for cell in row] for row in frame.to_numpy()])
    out.print(results.describe_comparison(one, two, frame), highlight=False)


@app.command("validate")
def validate_lessons(
    only: Annotated[str, typer.Argument(help="Part of a notebook's path.")] = "",
    times: Annotated[int, typer.Option(help="How many times in a row.")] = 1,
    jobs: Annotated[
        int, typer.Option(help="How many in parallel; 0: one more than there are cores.")
    ] = 0,
) -> None:
    """Run every notebook under strict nbval: its outputs must equal the committed ones. At the end,
    claims that depend on times or on chance and do not hold here are listed, and the measurements
    for which the machine was too busy.
    """
    require("pytest", "nbval", "ipykernel")
    for _ in range(times):
        code = notebooks.validate_notebooks(notebooks.find(only), jobs)
        if code:
            raise typer.Exit(code)


@app.command("index")
def index_lessons(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if something would change.")
    ] = False,
) -> None:
    """Update the numbers, links and tables of lessons to the order of notebooks/toc.yml."""
    changes = write_index(check=check)
    for line in changes:
        out.print(line, highlight=False)
    if check and changes:
        raise LabError("The above does not agree with notebooks/toc.yml: run redis-lab index.")
    if not changes:
        out.print("Everything agrees with notebooks/toc.yml.")


@app.command("new")
def new_lesson(
    lesson: Annotated[str, typer.Argument(help="Its folder and name, such as patterns/outbox.")],
    title: Annotated[str, typer.Option(help="The heading; by default from the name.")] = "",
) -> None:
    """Start a new lesson: its line in toc.yml, a notebook, a module and a test, all working."""
    from .new import write_lesson

    require("nbformat", "nbclient", "ipykernel")
    for path in write_lesson(lesson, title=title):
        out.print(str(path.relative_to(notebooks.notebooks_folder().parent)), highlight=False)
    out.print("Now change them, and measure: redis-lab plots NAME --in-place")


@app.command("serve")
def serve_redis(
    port: Annotated[int, typer.Option(help="TCP port on loopback; 0 takes a free one.")] = 6379,
) -> None:
    """Run the lab's server in the foreground, for use from other programs."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    config: dict[str, Any] = {"port": port} if port else {}
    with start_server(**config) as running:
        out.print(f"{running}", highlight=False)
        out.print(f"{redact(running.url)}   Ctrl-C stops it; its data are lost.")
        while not stop.wait(0.5):
            if not running.alive():
                raise LabError(
                    "The server ended by itself. Its last words:\n" + running.log()[-500:]
                )
    out.print("stopped")


@app.command()
def handout(
    to: Annotated[Path, typer.Argument(help="A new folder for the copies.")] = Path("handout"),
    answers: Annotated[
        Path | None,
        typer.Option(help="A new folder for the answers; by default beside the copies."),
    ] = None,
) -> None:
    """Write copies of the notebooks without solutions and outputs, and the answers apart."""
    from . import answer_key

    key = answers or to.absolute().with_name(f"{to.absolute().name}-answers")
    if key.exists():
        raise LabError(f"{key} is there already; name a new folder: --answers FOLDER.")
    for path in [*copies.hand_out(to), *answer_key.write_answers(key)]:
        out.print(str(path), highlight=False, soft_wrap=True)


@app.command("grade")
def grade_folder(
    folder: Annotated[Path, typer.Argument(help="A folder with a folder for each learner.")],
    to: Annotated[Path, typer.Option(help="Where grades.csv and grades.html go.")] = Path("."),
    seed: Annotated[
        int | None,
        typer.Option(help="Of the checks' data; a new one each time if not given.", min=0),
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds for each notebook.")] = 300.0,
    memory_mb: Annotated[int, typer.Option(help="Memory for each process.")] = 4096,
) -> None:
    """Check the exercises that learners handed in; their cells run with your rights."""
    from . import grade as grading

    require("IPython")
    grades = []
    for each in grading.grade_all(folder, seed=seed, timeout_s=timeout_s, memory_mb=memory_mb):
        out.print(f"{each.who}  {each.exercise}  {each.outcome}", highlight=False, markup=False)
        grades.append(each)
    if grades and seed is None:
        out.print(f"To repeat it with the same data: --seed {grades[0].seed}", highlight=False)
    for path in grading.write_grades(grades, to):
        out.print(str(path), highlight=False, soft_wrap=True)
