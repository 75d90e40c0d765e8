"""Every command is killed at random moments; within five seconds nothing of it is left.

What is looked for: processes that the command started, at whatever distance, and whatever it wrote
that was not to stay: servers' directories, copies of the shop, temporary files, files with which
Jupyter finds its kernels, half a handout, half an environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from processes import environment, within

from redis_lab import index, notebooks, source
from redis_lab.measure.validity import TooBusy

SCRIPT = Path(sys.executable).with_name("redis-lab")
ROOT = Path(__file__).resolve().parents[1]
MARK = "REDIS_LAB_KILLS"
PROMISED_S, LIMIT_S, BUSY_S = 5.0, 40.0, 120.0
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
OF_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)  # reach the whole group in the foreground

# All kinds of helpers at once
EVERYTHING = """
import time
import redis_lab as lab
r = lab.connect()
shop = lab.source.shop("small", writable=True)
own = lab.server(appendonly="yes")
far = lab.link(own, rtt_ms=1)
web = lab.rest.gateway(own)
try:
    lab.load.open_loop(r, "PING", rate_per_s=50, seconds=5)
finally:
    time.sleep(60)
"""
BENCH = """
def arms(r):
    r.set("k", "v")
    return {"PING": r.ping, "GET": lambda: r.get("k")}
"""
TESTS = """
import pytest, time
import redis_lab as lab
@pytest.fixture(scope="module")
def server():
    with lab.server() as started:
        yield started
@pytest.mark.parametrize("n", range(8))
def test_it(server, n):
    with lab.source.shop("small", writable=True) as shop:
        assert server.client().ping() and shop.count("products")
        time.sleep(0.2)
"""


@dataclass
class Place:
    """Where one run of a command lives: its home, its temporary files, its data."""

    folder: Path
    checkout: Path

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "data", "work"):
            (self.folder / name).mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            shop = source._name_file("small", source.SEED).name
            os.link(self.folder.parent / shop, self.folder / "data" / shop)
        changes = {name: None for name in os.environ if name.startswith(("JUPYTER_", "PYTEST_"))}
        here = {"HOME": "home", "TMPDIR": "tmp", "REDIS_LAB_DATA": "data", "REDIS_LAB_WORK": "work"}
        changes |= {name: str(self.folder / path) for name, path in here.items()}
        changes |= {MARK: str(self.folder), "PYTHONPATH": str(self.checkout)}
        self.env = environment(**changes, NO_COLOR="1", COVERAGE_PROCESS_START=None)

    def serves(self) -> bool:
        """Whether a server is running in it."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd().startswith(str(self.folder / "tmp")):
                    return True
        return False

    def left(self) -> list[str]:
        """What is still there: processes and files."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and self.owns(process):
                    found.append(f"process {process.pid}: {' '.join(process.cmdline())[:150]}")
        folders = [self.folder / "tmp", *self.folder.glob("home/**/runtime")]
        files = [path for folder in folders for path in folder.glob("*")]
        files += [path for path in self.folder.glob("data/**/*") if unfinished(path)]
        files += [path for path in self.folder.glob("work/**/*") if unfinished(path)]
        return found + [f"file {path.relative_to(self.folder)}" for path in files]

    def owns(self, process: psutil.Process) -> bool:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # A server writes its title over its environment, but it lives in its own directory
        in_it = process.cwd().startswith(str(self.folder / "tmp"))
        return in_it or process.environ().get(MARK) == str(self.folder)


def unfinished(path: Path) -> bool:
    """Whether a file is one that was being written."""
    return bool(re.search(r"making|unfinished|^tmp|\.part$|-(wal|shm|journal)$", path.name))


Use = Callable[[Place, subprocess.Popen], None]


@dataclass
class Command:
    """What is run, and what a user does with it.

    It is killed within so many `seconds`, or, every other time, within so many after the moment
    when it is `busy`.
    """

    words: Callable[[Place], list]
    seconds: float
    busy: Callable[[Place], bool] = Place.serves
    use: Use | None = None
    whole: Callable[[Place], str] = lambda place: ""
    signals: tuple = tuple(SIGNALS)


def redis_lab(*words: str) -> Callable[[Place], list]:
    return lambda place: [SCRIPT, *words]


def written(place: Place, name: str, text: str) -> str:
    (place.folder / "work" / name).write_text(text)
    return name


def open_a_kernel(place: Place, running: subprocess.Popen) -> None:
    """As a browser does: a kernel in JupyterLab, in which a lesson is run."""
    log = place.folder / "log"
    address = r"(http://127\.0\.0\.1:\d+)/lab\S*\?token=(\w{48})"
    while not (found := re.search(address, log.read_text())) and running.poll() is None:
        time.sleep(0.05)
    url, token = found.groups()
    ask = urllib.request.Request(f"{url}/api/kernels", b"{}", {"Authorization": f"token {token}"})
    with urllib.request.urlopen(ask, timeout=30) as answer:
        kernel = json.load(answer)["id"]
    for folder in ("home", "tmp"):
        for file in (place.folder / folder).glob(f"**/kernel-{kernel}.json"):
            tell(running, file, [EVERYTHING])


# In a process of its own: zmq waits without end for what was on its way to a kernel that was killed
TELL = """
import json, sys
from jupyter_client.blocking import BlockingKernelClient
client = BlockingKernelClient(connection_file=sys.argv[1])
client.load_connection_file()
client.start_channels(hb=False)
client.wait_for_ready(timeout=100)
for cell in json.load(sys.stdin):
    client.execute(cell, stop_on_error=False)
client.get_shell_msg(timeout=200)
"""


def tell(running: subprocess.Popen, connection: Path, cells: list[str]) -> None:
    """Let a kernel run these cells, until the command has ended."""
    command = [sys.executable, "-c", TELL, str(connection)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as user:
        user.stdin.write(json.dumps(cells).encode())
        user.stdin.close()
        running.wait()
        user.kill()


def kernel(place: Place) -> list:
    return [sys.executable, "-m", "ipykernel_launcher", "-f", place.folder / "kernel.json"]


def run_a_lesson(place: Place, running: subprocess.Popen) -> None:
    lesson = random.Random(str(place.folder)).choice(notebooks.find())
    (place.folder / "lesson").write_text(lesson.name)
    cells = nbformat.read(lesson, as_version=4).cells
    file = place.folder / "kernel.json"
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
    tell(running, file, [cell.source for cell in cells if cell.cell_type == "code"])


def measure_for_long(place: Place) -> list:
    return [SCRIPT, "bench", written(place, "arms.py", BENCH), "--seconds", "5"]


def hand_in(place: Place) -> list:
    """A learner's notebook whose cell starts all there is, and a process that wants to stay."""
    stays = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; "
    stays += "time.sleep(90)'], start_new_session=True)\n"
    answer = f'{stays}{EVERYTHING.strip()}\nlab.check("own.nothing", 1)'
    book = nbformat.v4.new_notebook(cells=[new_code_cell(answer)])
    (place.folder / "work" / "ada").mkdir()
    nbformat.write(book, place.folder / "work" / "ada" / "own.ipynb")
    return [SCRIPT, "grade", "."]


def drilled(place: Place) -> list:
    naive = "redis_lab.drill.naive:Cache"
    return [SCRIPT, "drill", naive, "--as", "cache", "--kills", "500", "--no-steps"]


def build_the_site(place: Place) -> list:
    return [sys.executable, ROOT / "docs" / "site" / "build.py", place.folder / "work" / "site"]


def change_then_reset(place: Place) -> list:
    lesson = notebooks.find("strings")[0]
    copy = place.folder / "work" / lesson.relative_to(notebooks.notebooks_folder())
    copy.parent.mkdir()
    copy.write_text("a reader's own work")
    return [SCRIPT, "reset", "strings"]


def lost_work(place: Place) -> str:
    kept = [path.read_text() for path in place.folder.glob("work/structures/*strings*")]
    return "" if "a reader's own work" in kept else f"lost; there are {len(kept)} copies"


def begin_a_lesson(place: Place) -> list:
    """In a checkout of its own, which it changes."""
    own = place.folder / "work" / "checkout"
    shutil.copytree(place.checkout, own)
    place.env["PYTHONPATH"] = str(own)
    return [SCRIPT, "new", "structures/fresh"]


def damaged_notebook(place: Place) -> str:
    """Also one that has been written half."""
    for path in place.folder.glob("work/**/*.ipynb"):
        with contextlib.suppress(ValueError):
            json.loads(path.read_text())
            continue
        return f"{path.name} is damaged"
    return ""


def half_a_handout(place: Place) -> str:
    copies = place.folder / "work" / "handout"
    count = len(list(copies.glob("**/*.ipynb")))
    return f"{count} notebooks handed out" if count not in (0, len(notebooks.find())) else ""


def is_making(place: Place) -> bool:
    return any(map(unfinished, place.folder.glob("[dw]*/*")))


def has_copies(place: Place) -> bool:
    return any(place.folder.glob("work/**/*.ipynb"))


COMMANDS = {
    "lab": Command(redis_lab("lab", "--no-browser", "--port", "0"), 6, use=open_a_kernel),
    "validate": Command(redis_lab("validate", "own"), 6),
    "plots": Command(redis_lab("plots", "own", "--effort", "quick"), 6),
    "serve": Command(redis_lab("serve", "--port", "0"), 2),
    "publish": Command(redis_lab("publish", "own", "--runs", "2", "--effort", "quick"), 6),
    "bench": Command(measure_for_long, 4),
    "drill": Command(drilled, 4),
    "grade": Command(hand_in, 4),
    "new": Command(begin_a_lesson, 4, whole=damaged_notebook),
    "work": Command(redis_lab("work"), 1, has_copies, whole=damaged_notebook),
    "reset": Command(change_then_reset, 1, lambda place: True, whole=lost_work),
    "site": Command(build_the_site, 6, is_making),
    "data": Command(redis_lab("data"), 3, is_making),
    "handout": Command(redis_lab("handout"), 1, is_making, whole=half_a_handout),
    "index": Command(redis_lab("index", "--check"), 1, lambda place: True),
    # An interrupted kernel only stops its cell
    "kernel": Command(kernel, 6, use=run_a_lesson, signals=(*SIGNALS[:2], signal.SIGHUP)),
    "pytest": Command(
        lambda place: [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:nbval"),
            written(place, "test_own.py", TESTS),
        ],
        2,
    ),
}


OF_THE_CHECKOUT = ("lab", "validate", "plots", "publish", "grade", "new")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with one notebook, which uses everything."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "redis_lab", root / "redis_lab", ignore=ignored)
    (root / "notebooks" / "structures").mkdir(parents=True)
    toc = "- part: ours\n  lessons:\n"
    for lesson in ("own", "structures/other"):
        toc += f"    - lesson: {lesson}\n      minutes: 5\n      promise: none\n"
    (root / "notebooks" / "toc.yml").write_text(toc)
    (root / "README.md").write_text(f"{index.BEGIN}\n{index.END}\n")
    exercise = new_code_cell('lab.check("own.nothing", 0)', metadata={"tags": ["exercise"]})
    cells = [
        new_markdown_cell("# Ours\n\n**Time:** –\n"),
        new_code_cell(EVERYTHING.strip(), execution_count=1),
        exercise,
        new_markdown_cell("**Next:** –"),
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, root / "notebooks" / "00_own.ipynb")
    nbformat.write(book, root / "notebooks" / "structures" / "01_other.ipynb")
    return root


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for that of a server's socket; pytest's own do not always."""
    folder = Path(tempfile.mkdtemp(prefix="k-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(command: Command, place: Place) -> Iterator[subprocess.Popen]:
    with (place.folder / "log").open("wb") as log:
        running = subprocess.Popen(
            list(map(str, command.words(place))),
            env=place.env,
            cwd=place.folder / "work",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if place.owns(process):
                    process.kill()
        running.kill()
        running.wait()


def kill(
    command: Command, place: Place, how: signal.Signals, after_s: float, when_busy: bool
) -> tuple[int, float]:
    """How many processes and files there were, and the seconds until nothing was left."""
    with started(command, place) as running:
        if command.use:
            use = command.use

            def used() -> None:
                while running.poll() is None:
                    with contextlib.suppress(Exception):  # it may be killed under our hands
                        return use(place, running)
                    time.sleep(0.1)

            threading.Thread(target=used, daemon=True).start()
        if when_busy:
            busy = within(BUSY_S, lambda: running.poll() is not None or command.busy(place))
            assert busy, (place.folder / "log").read_text()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(after_s)
        there, began = len(place.left()), time.monotonic()
        if running.poll() is None:
            (os.killpg if how in OF_A_TERMINAL else os.kill)(running.pid, how)
        running_or_left = lambda: running.poll() is None or place.left()  # noqa: E731
        clean = within(LIMIT_S, lambda: not running_or_left())
        took = time.monotonic() - began
        words = f"{how.name} after {after_s:.2f} s{' busy' * when_busy} in {place.folder.name}"
        with contextlib.suppress(FileNotFoundError):
            words += f", {(place.folder / 'lesson').read_text()}"
        assert clean, f"{words}: {running.poll()} {place.left()}"
        assert not (half := command.whole(place)), f"{words}: {half}"
    print(f"{words}: {there} things were there, {took:.2f} s")
    return there, took


@pytest.mark.drill
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_outlives_it(name, checkout, short, request, figure):
    kills = request.config.getoption("--kills")
    seed = request.config.getoption("--kill-seed") or random.SystemRandom().randrange(10**6)
    source._write_database(
        short / source._name_file("small", source.SEED).name, "small", source.SEED
    )
    rng, command = random.Random(f"{name} {seed}"), COMMANDS[name]
    print(f"seed {seed}")
    where = checkout if name in OF_THE_CHECKOUT else ROOT
    then, took = 0, []
    for number in range(kills):
        how = command.signals[number % len(command.signals)]
        place = Place(short / f"{name}{number}", where)
        moment_s = rng.uniform(0, command.seconds)
        there, seconds = kill(command, place, how, moment_s, when_busy=number % 2 == 0)
        then += there
        took.append(seconds)
        shutil.rmtree(place.folder)
    late = sum(seconds > PROMISED_S for seconds in took)
    figure(kills=kills, processes_and_files_then=then, left_for_longer_than_5_s=late)
    figure(s_at_worst=max(took), is_the_seed=str(seed))
    if late and psutil.getloadavg()[0] > (os.cpu_count() or 1):
        raise TooBusy(f"{max(took):.1f} s until nothing was left")
    assert not late
