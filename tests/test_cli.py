"""The command line: each command as a user runs it, in a process of its own, at least once.

What else a command says is asked in this process: most of the time that a script takes goes into
importing. Both are called alike, so that a test can use either, `lab` or `script`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil
import pytest
import redis
from processes import environment, gone, within
from rich.console import Console

from redis_lab import bench, cli, figures, lessons, notebooks, publish, results, server, toc
from redis_lab.claims import NOT_MEASURED
from redis_lab.errors import LabError
from redis_lab.measure.results import Result
from redis_lab.servers.choose import KINDS
from redis_lab.servers.docker import docker_version

SCRIPT = Path(sys.executable).with_name("redis-lab")
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SECRET = "Pa55-w0rd"


@pytest.fixture
def data(tmp_path) -> Path:
    return tmp_path / "data"


def surroundings(data: Path, tmp_path: Path, env: dict[str, str]) -> dict[str, str]:
    """The environment of a command, far from the checkout's own data."""
    own = {"REDIS_LAB_DATA": str(data), "REDIS_LAB_WORK": str(tmp_path / "work")}
    return environment(**{**own, "COLUMNS": "200", "NO_COLOR": "1", **env})


@pytest.fixture
def script(data, tmp_path):
    """Run the real `redis-lab` to its end."""

    def run(*words: object, **env: str) -> subprocess.CompletedProcess:
        said = subprocess.run(
            [SCRIPT, *map(str, words)],
            env=surroundings(data, tmp_path, env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert "Traceback" not in said.stderr, said.stderr
        return said

    return run


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def shared():
    """A server for the arms of `redis-lab bench`, instead of one for each call."""
    with server() as started:
        yield started


@pytest.fixture
def lab(data, tmp_path, monkeypatch, capsys, request):
    """Run `redis-lab` to its end in this process; what it changes there is as before."""

    def run(*words: object, **env: str) -> subprocess.CompletedProcess:
        changed = surroundings(data, tmp_path, env)
        heard = {number: signal.getsignal(number) for number in SIGNALS}
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name in set(os.environ) - set(changed):
                patch.delenv(name)
            for name, value in changed.items():
                patch.setenv(name, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["redis-lab", *map(str, words)])
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(cli, "out", Console())  # as wide as the variable says
            if words[0] == "bench":
                client = request.getfixturevalue("shared").client()
                client.flushall()
                patch.setattr(cli, "connect", lambda: client)
            try:
                with pytest.raises(SystemExit) as ended:
                    cli.main()
            finally:
                for number, handler in heard.items():
                    signal.signal(number, handler)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code or 0, said.out, said.err)

    return run


def one_line_of_trouble(said: subprocess.CompletedProcess) -> str:
    assert said.returncode == 1, said.stdout + said.stderr
    lines = said.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("redis-lab: "), said.stderr
    return lines[0]


def test_help_lists_every_command(script):
    said = script("--help")
    assert said.returncode == 0
    commands = (
        "doctor lab work reset progress grade plots bench compare validate index serve handout"
    )
    for command in commands.split():
        assert re.search(rf"\b{command}\b", said.stdout)


def test_a_misspelt_command_is_a_usage_error(lab):
    said = lab("docter")
    assert said.returncode == 2 and "docter" in said.stderr


# ---------------------------------------------------------------- doctor


def test_doctor_names_all_kinds_of_servers(script):
    said = script("doctor")
    assert said.returncode == 0, said.stderr
    listed = re.findall(r"^(\w+) .*(?:usable|not here|chosen)", said.stdout, re.MULTILINE)
    assert listed == [kind.name for kind in KINDS]
    assert said.stdout.count("chosen: ") == 1
    for fact in ("Python", "redis-py", "dataset", "free disk", "processor", "load", "effort"):
        assert fact in said.stdout


@pytest.mark.skipif(docker_version() is not None, reason="a Docker engine answers here")
def test_doctor_with_a_server_that_is_not_here(lab):
    said = lab("doctor", REDIS_LAB_SERVER="docker")
    assert "no Docker engine answers" in one_line_of_trouble(said)
    assert "This machine" in said.stdout, "the rest is told all the same"


@pytest.mark.parametrize(
    "url",
    [f"redis://ann:{SECRET}@127.0.0.1:1/0", f"redis://:{SECRET}@localhost:1", "redis://h:1/0"],
)
def test_the_password_in_the_url_is_never_printed(lab, url):
    said = lab("doctor", REDIS_URL=url)
    assert said.returncode == 0
    assert SECRET not in said.stdout + said.stderr
    assert "***" in said.stdout or SECRET not in url


# ---------------------------------------------------------------- serve


@contextlib.contextmanager
def serving(*words: str):
    """`redis-lab serve` in the foreground of nobody; yields the process and the URL it printed."""
    child = subprocess.Popen(
        [SCRIPT, "serve", *words],
        env=environment(NO_COLOR="1", COLUMNS="200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in child.stdout])
    reader.start()
    try:
        while not (found := re.search(r"redis://\S+", lines.get(timeout=30))):
            pass
        yield child, found.group()
    finally:
        child.kill()
        child.wait()
        reader.join()
        child.stdout.close()
        child.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_and_stops_cleanly(how):
    with serving("--port", "0") as (child, url):
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            pid = client.info("server")["process_id"]
        child.send_signal(how)
        child.wait(60)
        assert child.returncode == 0
        assert child.stderr.read() == ""
        assert within(60, lambda: gone(pid))


def test_serve_says_so_when_the_server_ends_by_itself():
    with serving("--port", "0") as (child, url):
        with redis.Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
        assert child.wait(60) == 1
        assert "ended by itself" in child.stderr.read()


def test_serve_on_a_taken_port(lab):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = one_line_of_trouble(lab("serve", "--port", port))
        assert f"Port {port} is in use" in said and "redis-lab serve --port 0" in said


def test_the_version_is_printed(lab):
    said = lab("--version")
    assert (said.returncode, said.stdout) == (0, f"redis-lab {version('redis-lab')}\n")


# ---------------------------------------------------------------- bench


@pytest.fixture
def bench_file(lab, tmp_path):
    """Write a file and run `redis-lab bench` over it."""

    def run(source: str, *words: object, run=lab) -> subprocess.CompletedProcess:
        (tmp_path / "own.py").write_text(source)
        return run("bench", "own.py", *words)

    return run


def arms_in(printed: str) -> list[str]:
    """The first column of the table, whose lines have a count of calls."""
    return re.findall(r"^(\S.*?)  +(?:\d+|–) +\d+  ", printed, re.MULTILINE)


def test_the_example_in_the_help_of_bench_runs(lab, script, bench_file, tmp_path):
    shown = lab("bench", "--help").stdout
    lines = [line.removeprefix(" ").rstrip() for line in shown.splitlines()]
    start = lines.index("def arms(r):")
    example = "\n".join(lines[start : next(k for k in range(start, 99) if "MGET" in lines[k]) + 1])
    assert len([line for line in example.splitlines() if line]) <= 10
    done = bench_file(example, "--save", "own.json", run=script)
    assert done.returncode == 0, done.stderr
    assert arms_in(done.stdout) == ["loop", "pipeline", "MGET", bench.BASELINE]
    assert re.search(r"^loop +100 ", done.stdout, re.MULTILINE), "round trips"
    assert "The harness itself costs" in done.stdout
    assert results.load(tmp_path / "own.json").environment["server_version"]


def test_bench_saves_and_plots_and_compares_with_the_reference(bench_file, lab, tmp_path):
    source = "ARMS = {'short': lambda: sum(range(100)), 'long': lambda: sum(range(2000))}"
    done = bench_file(
        source, "--save", "own.json", "--plot", "own.png", "--no-baseline",
        "--reference", "long", "--effort", "full", "--seconds", 0.05,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert arms_in(done.stdout) == ["short", "long"] and "against long" in done.stdout
    saved = results.load(tmp_path / "own.json")
    assert [row["arm"] for row in saved.rows] == ["short", "long"]
    assert saved.rows[1]["ratio"] == 1 > saved.rows[0]["ratio"]
    assert saved.environment["effort"] == "full"
    assert "server_version" not in saved.environment, "there was no need for one"
    assert len(saved.rows[0]["block_medians_us"]) == bench.EFFORTS["full"].blocks
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")
    assert lab("compare", "own.json", "own.json").returncode == 0


OWN_ARMS = """
from __future__ import annotations
import dataclasses
import functools
import redis.asyncio
import redis_lab as lab
from neighbour import ping_of

@dataclasses.dataclass
class Key:
    name: str

def arms(r):
    where = r.get_connection_kwargs()
    own = redis.asyncio.Redis(host=where["host"], port=where["port"])
    r.set("k", 1)
    fill = lambda calls: r.rpush("jobs", *range(calls))
    return {"PING": lab.bench.Arm(ping_of(own), client=own),
            "LPOP": lab.bench.Arm(lambda: r.lpop("jobs"), setup=fill),
            "GET": lambda: r.get(Key("k").name)}
"""


def test_bench_takes_arm_objects_setups_and_coroutine_functions(bench_file, tmp_path):
    """And imports what lies beside the file."""
    (tmp_path / "neighbour.py").write_text(
        "def ping_of(own):\n    async def ping():\n        return await own.ping()\n    return ping"
    )
    done = bench_file(OWN_ARMS)
    assert done.returncode == 0, done.stderr
    assert arms_in(done.stdout) == ["PING", "LPOP", "GET", bench.BASELINE]
    assert "event loop" in done.stdout


@pytest.mark.parametrize(
    ("source", "trouble"),
    [
        ("x = 1", "own.py defines neither arms(r) nor ARMS"),
        ("ARMS = {}", "own.py defines no arm"),
        ("ARMS = 3", "must be a dictionary of callables, not int"),
        ("ARMS = [3]", "3 in the list of arms is not a function"),
        ("def a(): pass\nARMS = [a, a]", "two arms are called a"),
        ("ARMS = {'a': 'b'}", "The arm 'a' is not callable"),
        ("def arms(r):\n    return None", "not NoneType"),
        ("def arms(r):\n    1 / 0", "own.py, line 2, arms(r): ZeroDivisionError: division by zero"),
        ("ok = 1\n1 / 0", "own.py, line 2: ZeroDivisionError: division by zero"),
        ("import no_such_thing", "own.py, line 1: ModuleNotFoundError: No module"),
        ("def arms(:", "own.py, line 1: invalid syntax"),
        (
            "def fine(): pass\ndef bad():\n    raise ValueError('mine')\nARMS = [fine, bad]",
            "own.py, line 3, arm 'bad': ValueError: mine",
        ),
        (
            "def arms(r):\n    return {'typo': lambda: r.execute_command('GTE', 'k')}",
            "own.py, line 2, arm 'typo': ResponseError: unknown command 'GTE'",
        ),
        ("def arms(r):\n    return {'miss': lambda: r.get('k')}", "miss: a nil reply"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(bench_file, source, trouble):
    assert trouble in one_line_of_trouble(bench_file(source))


def test_bench_of_a_file_that_is_not_there(lab, tmp_path):
    assert "There is no file own.py" in one_line_of_trouble(lab("bench", "own.py"))
    (tmp_path / "own.txt").write_text("ARMS = {'a': int}")
    assert "must end in .py" in one_line_of_trouble(lab("bench", "own.txt"))


def test_bench_with_no_such_effort_or_reference(bench_file):
    source = "ARMS = {'a': int}"
    trouble = one_line_of_trouble(bench_file(source, "--effort", "heroic"))
    assert all(word in trouble for word in ("heroic", *bench.EFFORTS))
    assert "no arm 'b'" in one_line_of_trouble(bench_file(source, "--reference", "b"))


# ---------------------------------------------------------------- compare and plots


def measured(experiment: str, **medians: float) -> Result:
    rows = [
        {"arm": a, "p50_us": m, "block_medians_us": [m * k for k in (0.99, 1, 1.01, 1.02)]}
        for a, m in medians.items()
    ]
    return Result(experiment, f"About {experiment}", rows, {"cores": 2})


def runs_of(experiment: str, **medians: float) -> Result:
    """Five runs that differ by a hundredth."""
    runs = (
        measured(experiment, **{arm: m * (1 + n / 100) for arm, m in medians.items()})
        for n in range(5)
    )
    return functools.reduce(results.merge, runs)


def test_compare_says_which_differences_are_real(script, tmp_path):
    one = results.save(runs_of("e", steady=10, slowed=10), tmp_path / "one")
    two = results.save(runs_of("e", steady=10, slowed=30), tmp_path / "two")
    said = script("compare", one, two)
    assert said.returncode == 0, said.stderr
    assert "95 % over runs for all 2 rows" in said.stdout and "5 runs" in said.stdout
    steady, slowed = (
        next(line for line in said.stdout.splitlines() if line.startswith(arm))
        for arm in ("steady", "slowed")
    )
    assert "no difference seen" in steady and "× the time" in slowed


def test_compare_of_one_run_says_that_it_cannot_tell(lab, tmp_path):
    one = results.save(measured("e", a=10), tmp_path / "one")
    two = results.save(runs_of("e", a=30), tmp_path / "two")
    for pair in ((one, two), (two, one), (one, one)):
        said = lab("compare", *pair)
        assert said.returncode == 0, said.stderr
        assert "one run cannot tell" in said.stdout and "95 %" not in said.stdout
        assert "redis-lab publish e --runs 5" in said.stdout


def test_compare_with_what_is_not_there(lab, script, tmp_path):
    one = results.save(measured("e", a=1), tmp_path)
    assert "There is no result" in one_line_of_trouble(script("compare", one, "no.json"))
    assert "could not be read" in one_line_of_trouble(lab("compare", tmp_path, one))
    (tmp_path / "bad.json").write_text("{")
    assert "not a result" in one_line_of_trouble(lab("compare", "bad.json", one))
    other = results.save(measured("e", b=1), tmp_path / "other")
    assert "in common" in one_line_of_trouble(lab("compare", one, other))


PUBLISHED = """
import os, pathlib, time
import redis_lab as lab
own = lab.server()
with own.client() as r:
    row = {"arm": "a", "p50_us": 1.0 + time.time() % 1, "block_medians_us": [1.0, 1.0]}
    ids = {"kernel": os.getpid(), "server_pid": r.info("server")["process_id"]}
    shown = lab.figure("idempotency", [row], client=r, **ids)
own.stop()
shown
runs = pathlib.Path(os.environ["RUNS"])
runs.write_text(runs.read_text() + f"{ids['kernel']} {ids['server_pid']}\\n")
while runs.read_text().count("\\n") > 1:
    time.sleep(0.1)
"""


def test_publish_keeps_finished_runs_each_with_its_own_kernel_and_server(checkout, data, tmp_path):
    """Added to what is there; Ctrl-C in the second loses that one only."""
    results.save(measured("idempotency", a=1), data / "local")
    told = tmp_path / "runs"
    told.write_text("")
    child = subprocess.Popen(
        [SCRIPT, "publish", "own", "--runs", "2", "--effort", "quick", "--add"],
        env=environment(
            REDIS_LAB_DATA=str(data), NO_COLOR="1", RUNS=str(told), **checkout(PUBLISHED)
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert within(400, lambda: told.read_text().count("\n") == 2 or child.poll() is not None)
        child.send_signal(signal.SIGINT)
        said, trouble = child.communicate(timeout=100)
    finally:
        child.kill()
    assert child.returncode == 130 and "Stopped" in trouble, trouble
    assert "own, run 1 of 2" in trouble and "pinned: " in said
    result = results.load(data / "local/idempotency.json")
    before, run = result.runs
    assert before.rows == measured("idempotency", a=1).rows
    processes = [line.split() for line in told.read_text().splitlines()]
    assert processes[0] == [str(run.environment[name]) for name in ("kernel", "server_pid")]
    assert len({pid for pids in processes for pid in pids}) == 4, "each run has its own"
    pinned = run.environment["pinned"]
    if pinned:  # there are two cores, and they can be chosen
        assert f"client on core {', '.join(map(str, pinned['client']))}" in said
        assert not set(pinned["client"]) & set(pinned["server"])
        assert run.environment["client_affinity"] == pinned["client"]
        assert run.environment["server_affinity"] == pinned["server"]
    chart = lessons.find_figure("idempotency")
    assert (data / "local/idempotency.png").read_bytes() == figures.render_png(result, chart)


def test_cores_are_those_that_are_there(monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    choose = publish.choose_cores
    assert choose() == publish.Cores((0, 1, 2), (3,))
    assert choose(server="0") == publish.Cores((1, 2, 3), (0,))
    assert choose(client="3") == publish.Cores((3,), (2,))
    assert choose("1,0", "0,1") == publish.Cores((0, 1), (0, 1))
    for words, trouble in ((("7", ""), "no core 7"), (("", "one"), "Cores are numbers")):
        with pytest.raises(LabError, match=trouble):
            choose(*words)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    assert choose() is None
    monkeypatch.setenv("REDIS_LAB_SERVER", "url")
    monkeypatch.setenv("REDIS_URL", "redis://localhost:1")
    with pytest.raises(LabError):
        choose()


def test_plots_are_drawn_again_without_measuring(lab, data):
    for name in ("idempotency", "connections"):
        results.save(measured(name, a=1, b=20), data / "results")
    said = lab("plots", "--redraw")
    assert said.returncode == 0, said.stderr
    assert "idempotency" in said.stdout and "connections" in said.stdout
    found = {path.name: path.read_bytes() for path in (data / "plots").iterdir()}
    assert set(found) == {"idempotency.png", "connections.png"}
    (data / "plots/connections.png").unlink()
    assert lab("plots", "idem", "--redraw").returncode == 0
    assert [path.name for path in (data / "plots").iterdir()] == ["idempotency.png"]


def test_a_label_changed_in_a_lesson_is_drawn_without_measuring(script, checkout, data, tmp_path):
    """Into the notebook, too. An older result's own `figure` does not stand in the way."""
    path = results.save(measured("idempotency", a=1, b=20), data / "results")
    older = json.loads(path.read_text())
    older["figure"] = {"kind": "ladder", "x": "p50_us", "xlabel": "as it was"}
    path.write_text(json.dumps(older))
    env = checkout('lab.lesson.figure("idempotency", measured)')
    own = shows_an_image(tmp_path / "checkout/notebooks/00_own.ipynb")
    lesson = tmp_path / "checkout/redis_lab/lessons/idempotency.py"
    title = lessons.find_figure("idempotency").title
    assert lesson.read_text().count(title) == 1
    lesson.write_text(lesson.read_text().replace(title, "Another title"))
    said = script("plots", "--redraw", "--in-place", **env)
    assert said.returncode == 0 and "00_own.ipynb: idempotency" in said.stdout, said.stderr
    chart = dataclasses.replace(lessons.find_figure("idempotency"), title="Another title")
    drawn = (data / "plots/idempotency.png").read_bytes()
    assert drawn == figures.render_png(results.load(path), chart)
    assert json.loads(path.read_text()) == older
    [output] = nbformat.read(own, 4).cells[0].outputs
    assert base64.b64decode(output.data["image/png"]) == drawn
    assert output.metadata["image/png"]["alt"].startswith("Another title. ")


def shows_an_image(path: Path) -> Path:
    """A notebook, after its first cell has shown an image."""
    book = nbformat.read(path, 4)
    data, about = {"image/png": "b2xk", "text/plain": "<Image>"}, {"image/png": {"alt": "old"}}
    shown = nbformat.v4.new_output("execute_result", data, metadata=about, execution_count=1)
    book.cells[0].outputs.append(shown)
    notebooks.write_notebook(path, book)
    return path


def test_nothing_of_a_notebook_changes_but_its_figures(tmp_path):
    own = tmp_path / "own.ipynb"
    sources = ('lab.figure("known", r)', 'lab.figure("other", r)', "draw()", "# lab.figure", "1")
    book = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, sources)])
    book.cells.insert(0, nbformat.v4.new_markdown_cell('lab.figure("known", r)'))
    for cell in book.cells[1:4]:
        image = {"image/png": "b2xk", "text/plain": "<Image>"}
        cell.outputs = [nbformat.v4.new_output("stream", text="a table\n")]
        cell.outputs += [nbformat.v4.new_output("display_data", image)]
    notebooks.write_notebook(own, book)
    expected, written = nbformat.read(own, 4), own.stat().st_mtime_ns
    new, alternative = {"known": b"new"}, {"known": "what it shows"}
    assert notebooks.embed_figures(own, {}, {}) == set() and own.stat().st_mtime_ns == written
    assert notebooks.embed_figures(own, new, alternative) == {"known"}
    output = expected.cells[1].outputs[1]
    output.data["image/png"] = base64.b64encode(b"new").decode()
    output.metadata["image/png"] = {"alt": "what it shows"}
    assert nbformat.read(own, 4) == expected
    written = own.stat().st_mtime_ns
    assert notebooks.embed_figures(own, new, alternative) == set(), "it is the same already"
    assert own.stat().st_mtime_ns == written


def test_a_result_of_no_lesson_is_named_and_the_others_are_drawn(lab, data):
    for name in ("forgotten", "idempotency"):
        results.save(measured(name, a=1), data / "results")
    said = lab("plots", "--redraw")
    assert "no lesson has a figure for it: forgotten." in one_line(said)
    assert [path.name for path in (data / "plots").iterdir()] == ["idempotency.png"]


def test_plots_with_nothing_to_draw_or_no_such_effort(lab):
    assert "no result" in one_line_of_trouble(lab("plots", "--redraw"))
    trouble = one_line_of_trouble(lab("plots", "--redraw", "--effort", "heroic"))
    assert all(word in trouble for word in ("heroic", *bench.EFFORTS))


# ---------------------------------------------------------------- notebooks

needs_notebooks = pytest.mark.skipif(
    not list(NOTEBOOKS.rglob("*.ipynb")), reason="no notebooks yet"
)


@needs_notebooks
@pytest.mark.parametrize("command", ["plots", "validate"])
def test_an_unknown_notebook_lists_those_there_are(lab, command):
    said = lab(command, "no-such-notebook")
    assert said.returncode == 1
    assert "00_start_here" in said.stderr and "no-such-notebook" in said.stderr


@needs_notebooks
def test_handout_leaves_out_solutions_and_outputs(lab, script, tmp_path):
    before = {path: path.read_bytes() for path in NOTEBOOKS.rglob("*.ipynb")}
    said = script("handout", tmp_path / "copies")
    assert said.returncode == 0, said.stderr
    copies = {path.name: path for path in (tmp_path / "copies").rglob("*.ipynb")}
    solutions = 0
    for path in before:
        if path.parent.name.startswith("."):
            continue
        original, copy = nbformat.read(path, 4), nbformat.read(copies[path.name], 4)
        tagged = [c for c in original.cells if "solution" in c.metadata.get("tags", [])]
        solutions += len(tagged)
        assert len(copy.cells) == len(original.cells) - len(tagged)
        assert not any("solution" in c.metadata.get("tags", []) for c in copy.cells)
        assert not any(c.get("outputs") for c in copy.cells)
    assert solutions > 0
    assert all(path.read_bytes() == content for path, content in before.items())
    key = (tmp_path / "copies-answers" / "answers.html").read_text()
    assert key.count("<pre>") == solutions and "keepttl=True" in key
    assert key.count("<tr><td>") > 90 and "<td>stale least often</td><td>commit_then_delete" in key
    assert "**" not in re.sub("<pre>.*?</pre>", "", key, flags=re.S)
    assert "is there already" in one_line_of_trouble(lab("handout", tmp_path / "copies"))
    elsewhere = lab("handout", tmp_path / "copies", "--answers", tmp_path / "key")
    assert "is there already" in one_line_of_trouble(elsewhere)
    assert not (tmp_path / "key").exists()


@needs_notebooks
def test_reset_keeps_the_copy_that_work_has_made(lab, script, tmp_path):
    first = tmp_path / "work" / "00_start_here.ipynb"
    assert script("work").stdout.split() == [str(first)]
    first.write_text("mine")
    said = script("reset", "start_here")
    assert said.returncode == 0 and nbformat.read(first, 4).cells
    (kept,) = first.parent.glob("00_start_here.before-*.ipynb")
    assert kept.name in said.stdout and kept.read_text() == "mine"
    assert "the name of one lesson" in one_line_of_trouble(lab("reset", "nowhere"))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with notebooks of its own, which the command line is made to find."""
    root = tmp_path / "checkout"
    shutil.copytree(Path(notebooks.__file__).parent, root / "redis_lab")  # as compiled as it is
    (root / "notebooks").mkdir()
    listing = root / "notebooks" / "toc.yml"
    listing.write_text("- part: ours\n  lessons:\n")
    for module in (toc, notebooks):  # for a command in this process
        monkeypatch.setattr(module, "notebooks_folder", lambda: root / "notebooks")

    def write(*sources: str, output: str = "", name: str = "00_own") -> dict[str, str]:
        cells = [nbformat.v4.new_code_cell(source, execution_count=1) for source in sources]
        if output:
            cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(book, root / "notebooks" / f"{name}.ipynb")
        with listing.open("a") as more:
            more.write(f"  - {{lesson: {name.removeprefix('00_')}, promise: none}}\n")
        return {"PYTHONPATH": str(root)}

    return write


SPOILT = """\
from redis_lab import teach
from redis_lab.measure import validity
def measure():
    raise validity.TooBusy("it stood still.", found={"GET": 1})
validity.wait_until_calm = lambda: None
found = validity.retry_while_busy(measure, "a GET")
teach.claim("quick", found["GET"] < 2, varies=True)
teach.claim("one", found["GET"] == 1)"""
UNLIKE = """
from redis_lab import teach
teach.claim("instant", 3 < 2, varies=True)
teach.claim("counted", 1 == 1)
"""


def test_validate_is_green_and_lists_what_does_not_hold_or_was_not_measured(script, checkout):
    """Of cells that build on each other, which must run in their order."""
    checkout(
        "x = 0", *["x += 1"] * 6, "assert x == 6", SPOILT, output="✓ quick\n✓ one\n", name="spoilt"
    )
    said = script(
        "validate", **checkout(UNLIKE.strip(), output="✓ instant\n✓ counted\n", name="unlike")
    )
    assert said.returncode == 0, said.stdout
    assert "2 of 2 notebooks passed." in said.stdout
    assert "2 claims rest on times or on chance: 0 hold here." in said.stdout
    assert "1 do not hold here" in said.stdout
    assert "unlike: instant\n      does not hold here: 3 < 2" in said.stdout
    assert "1 were not tested" in said.stdout
    assert f"spoilt: quick\n      {NOT_MEASURED}" in said.stdout
    assert "spoilt: a GET\n      it stood still." in said.stdout


def test_validate_is_red_where_an_output_differs_or_a_count_is_wrong(lab, checkout):
    checkout("print('now')", output="then\n", name="differs")
    source = "from redis_lab import teach\nteach.claim('counted', 1 == 2)"
    wrong = checkout(source, output="✓ counted\n", name="miscounted")
    said = lab("validate", **wrong)
    assert said.returncode == 1 and "0 of 2 notebooks passed." in said.stdout
    assert "now" in said.stdout and "✗ counted" in said.stdout
    assert re.findall(r"^FAILED (\w+)$", said.stdout, re.MULTILINE) == ["differs", "miscounted"]


LASTS = """
import os, pathlib, time
pathlib.Path(os.environ["LASTS"]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_validate_that_is_stopped_leaves_no_kernel(checkout, tmp_path, sign):
    env = environment(LASTS=str(tmp_path / "pid"), **checkout(LASTS.strip()))
    running = subprocess.Popen([SCRIPT, "validate"], env=env, stdout=subprocess.DEVNULL)
    try:
        assert within(60, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        started = psutil.Process(running.pid).children()  # the remover is another
        [test_run] = [child for child in started if "pytest" in child.cmdline()]
        running.send_signal(sign)
        running.wait(60)
        kernel = int((tmp_path / "pid").read_text())
        assert within(60, lambda: gone(kernel) and gone(test_run.pid))
    finally:
        running.kill()


def test_jupyter_is_gone_after_sigterm(tmp_path):
    places = {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    env = environment(REDIS_LAB_WORK=str(tmp_path / "work"), **places)
    command = [SCRIPT, "lab", "--no-browser", "--port", "0"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        assert within(90, lambda: "/lab" in log.read_text() and "http://" in log.read_text())
        assert "/lab/tree/00_start_here.ipynb" in log.read_text(), "the reader's copy"
        assert (tmp_path / "work" / "00_start_here.ipynb").exists()
        family = [running.pid, *(child.pid for child in psutil.Process(running.pid).children(True))]
        running.terminate()
        running.wait(60)
        assert within(60, lambda: all(map(gone, family)))
    finally:
        running.kill()


def test_plots_quote_the_cell_that_fails(lab, checkout, data):
    said = lab("plots", "own", "--effort", "quick", **checkout("x = 1", "1 / 0"))
    assert said.returncode == 1
    assert "00_own, cell 1: ZeroDivisionError: division by zero" in said.stderr
    assert "1 / 0" in said.stderr


def test_plots_name_the_cell_in_which_the_kernel_dies(lab, checkout):
    said = lab("plots", "own", "--effort", "quick", **checkout("x = 1", "import os; os._exit(1)"))
    assert "00_own, cell 1: the kernel died" in one_line(said)


def test_plots_name_the_cell_that_runs_out_of_time(checkout, monkeypatch, tmp_path):
    checkout("x = 1", "import time; time.sleep(60)")
    monkeypatch.setattr(notebooks, "CELL_TIMEOUT_S", 1)
    own = tmp_path / "checkout" / "notebooks" / "00_own.ipynb"
    with pytest.raises(LabError, match="00_own, cell 1: not done after 1 s"):
        list(notebooks.execute(own, "quick"))


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"cells": 3, "nbformat": 4}', ""])
def test_plots_of_what_is_no_notebook(lab, checkout, tmp_path, text):
    env = checkout("x = 1")
    (tmp_path / "checkout" / "notebooks" / "00_own.ipynb").write_text(text)
    said = lab("plots", "own", "--effort", "quick", **env)
    assert "00_own.ipynb is not a notebook" in one_line(said)


def one_line(said: subprocess.CompletedProcess) -> str:
    """The last line, after the progress bar."""
    assert said.returncode == 1
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("redis-lab: ")]
    assert said.stderr.rstrip().endswith(line)
    return line


def test_only_means_a_path_or_an_experiment():
    stems = lambda only: [path.stem for path in notebooks.find_measuring(only)]  # noqa: E731
    assert stems("hit_ratio_pace") == ["14_hit_ratio"], "an experiment's name"
    assert stems("structures/05") == ["05_lists"], "a path"
    assert "16_invalidation" in stems("cost"), "it measures invalidation_cost"
    assert stems("s") == stems("") == [path.stem for path in notebooks.find()]
    assert stems("no-such") == []
    assert cli.is_selected("hit_ratio_pace", "patterns/14") and cli.is_selected("pubsub", "ubsu")
    assert not cli.is_selected("pubsub", "patterns/14") and not cli.is_selected("pubsub", "no-such")


def test_the_longest_notebook_begins_first(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path))
    books = [tmp_path / f"{name}.ipynb" for name in ("short", "new", "long")]
    for book, size in zip(books, (100, 300, 200), strict=True):
        book.write_text("x" * size)
    order = lambda: [path.stem for path in notebooks._sort_longest_first(books)]  # noqa: E731
    assert order() == ["new", "long", "short"], "by size"
    told = {"report": "", "reports": [], "left": [], "code": 0}
    notebooks._write_seconds([notebooks.Validated("a/short", seconds=1, **told)])
    notebooks._write_seconds([notebooks.Validated("a/long", seconds=9, **told)])
    assert order() == ["new", "long", "short"], "300 bytes of a thirtieth of a second"
    books[1].write_text("x" * 200)
    assert order() == ["long", "new", "short"]


def test_each_figure_stands_in_the_lesson_that_measures_it():
    stands = {
        name: module.__name__.rpartition(".")[2]
        for module in lessons._load_modules()
        for name in module.FIGURES
    }
    for path in notebooks.find():
        modules = {stands.pop(name, None) for name in notebooks.list_experiments(path)}
        [module] = modules
        assert module and path.stem.endswith(module.removeprefix("with_"))
    assert not stands, "no notebook measures these"
    assert set(lessons.WITHOUT_A_LESSON) == {"harness_cost"}


def test_the_comparison_of_harnesses_without_a_checkout(script, checkout):
    said = script("plots", "harness_cost", **checkout("x = 1"))
    assert "needs a checkout" in one_line_of_trouble(said)


def test_plots_run_a_notebook_and_report_its_results(script, checkout, data):
    source = (
        "from redis_lab import results\n"
        "r = results.make_result('own', [{'arm': 'a', 'p50_us': 1.0}], title='Own')\n"
        "results.save(r)"
    )
    said = script("plots", "own", "--effort", "quick", **checkout(source))
    assert said.returncode == 0, said.stderr
    assert (data / "local/own.json").exists() and re.search(r"^own\b", said.stdout, re.MULTILINE)


def test_ctrl_c_while_measuring_is_said_and_not_a_traceback(checkout, data, tmp_path):
    env = checkout(f"import pathlib, time; pathlib.Path({str(tmp_path / 'on')!r}).touch()\n"
                   "time.sleep(60)")  # fmt: skip
    child = subprocess.Popen(
        [SCRIPT, "plots", "own", "--effort", "quick"],
        env=environment(REDIS_LAB_DATA=str(data), NO_COLOR="1", **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert within(60, (tmp_path / "on").exists)
        child.send_signal(signal.SIGINT)
        _, trouble = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130, trouble
    assert "Stopped" in trouble and "Traceback" not in trouble


LEAVES = """
import subprocess, sys
left = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(90)", "x/_keeper.py"], start_new_session=True
)
"""


def test_validate_notices_what_a_notebook_leaves_running(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "LEFT_S", 0.1)  # what lasts for 90 s lasts for any time
    cell = nbformat.v4.new_code_cell(LEAVES.strip(), execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "leaves.ipynb")
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(90)", "x/_keeper.py"]
    )  # somebody else's validation
    try:
        (left,) = notebooks._run_validations([tmp_path / "leaves.ipynb"], 1, 60)
        assert left.code == 0 and not left.passed
        assert len(left.left) == 1 and stranger.pid != left.left[0].pid
        left.left[0].kill()
    finally:
        stranger.kill()
        stranger.wait()


def test_workload_lists_what_there_is_and_what_is_left_out(lab):
    said = lab("workload")
    assert said.returncode == 0
    for name in "abcdef":
        assert f"ycsb-{name}" in said.stdout
    assert said.stdout.count("not here") == 2


def test_workload_saturates_and_saves(lab, tmp_path):
    kept = tmp_path / "a.json"
    said = lab("workload", "ycsb-a", "--records", 100, "--seconds", 0.2, "--save", kept)
    assert said.returncode == 0 and "saturated is" in said.stdout, said.stderr
    result = results.load(kept)
    assert result.experiment == "ycsb_a" and result.rows[0]["per_second"] > 0
    assert result.environment["workload"] == "ycsb-a" and result.environment["records"] == 100


def test_workload_of_no_such_name(lab):
    assert "ycsb-e reads ranges" in one_line_of_trouble(lab("workload", "ycsb-e"))
