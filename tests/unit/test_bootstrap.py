"""bootstrap.py run for real, in folders of its own that hold a tiny package and a tiny lock.

uv and pip are the real ones. Where a test is not about making the environment, which takes four
seconds of work, a ready one is adopted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import importlib.util
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from pathlib import Path

import psutil
import pytest
from processes import gone, within

from redis_lab.measure.validity import TooBusy

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300  # making an environment is work, and other processes may have the cores
pytestmark = pytest.mark.timeout(3 * LIMIT_S)
PYTHON = getattr(sys, "_base_executable", sys.executable)

# A build backend of the package's own, so that nothing has to be fetched.
BACKEND = """
import time, zipfile

def build_editable(folder, settings=None, metadata=None):
    time.sleep(SLEEP)
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        info = "tiny-1.0.dist-info/"
        wheel.writestr("tiny.py", "")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        wheel.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        )
        wheel.writestr(
            info + "RECORD", "tiny.py,,\\n" + "".join(info + f + ",,\\n" for f in FILES)
        )
    return name

FILES = ("METADATA", "WHEEL", "RECORD")
"""


WHEELS = [f"lab_dep{n}-1.0-py3-none-any.whl" for n in range(7)]
LOCK = "".join(f"lab-dep{n}==1.0\n" for n in range(3))


def make_wheel(folder: Path, file: str, modules: int = 5) -> None:
    """A wheel whose package is of a few modules and says in `WHOLE` that all of them are there."""
    name, info = file.split("-")[0], "-".join(file.split("-")[:2]) + ".dist-info"
    contents = {f"{name}/part{n}.py": f"# {n}\n" * 500 for n in range(modules)}
    imports = "".join(f"from . import part{n}\n" for n in range(modules))
    contents[f"{name}/__init__.py"] = imports + "WHOLE = True\n"
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    contents[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text)}\n")
    contents[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    with zipfile.ZipFile(folder / file, "w") as wheel:
        for path, text in contents.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for file in WHEELS:
        make_wheel(folder, file)
    return folder


@pytest.fixture(scope="session")
def ready(tmp_path_factory) -> Path:
    """An environment to be copied; its pip, a copy of the one that is here, is shared by all."""
    place = tmp_path_factory.mktemp("ready") / "venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/*/site-packages")
    found = importlib.util.find_spec("pip")
    assert found, "bootstrap.py makes environments with pip"
    shutil.copytree(Path(found.origin).parent, place.parent / "pip")
    (site / "pip").symlink_to(place.parent / "pip")
    # compiled once, and not in each copy
    listing = [place / "bin/python", "-m", "pip", "config", "list"]
    subprocess.run(listing, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return place


@pytest.fixture(scope="session", autouse=True)
def with_uv(tmp_path_factory) -> str:
    """A PATH on which there is a uv, with a cache of its own."""
    uv = Path(sys.executable).parent / "uv"
    assert uv.exists(), "the lock has uv in it"
    folder = tmp_path_factory.mktemp("uv")
    (folder / "uv").symlink_to(uv)
    environment.path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment.cache = str(tmp_path_factory.mktemp("cache"))
    return environment.path


def without_uv() -> str:
    parts = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(p for p in parts if not os.path.exists(os.path.join(p, "uv")))


def furnish(folder: Path, lock: str = "", slow: bool = False) -> Path:
    shutil.copy(ROOT / "bootstrap.py", folder)
    (folder / "requirements.lock").write_text(lock)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1.0"\n'
    )
    (folder / "backend.py").write_text(BACKEND.replace("SLEEP", "30" if slow else "0"))
    return folder


@pytest.fixture
def folder(tmp_path):
    return furnish(tmp_path)


def adopt(folder: Path, ready: Path) -> Path:
    shutil.copytree(ready, folder / ".venv", symlinks=True)
    return folder


@pytest.fixture
def adopting(folder, ready):
    return adopt(folder, ready)


def environment(**more: str) -> dict[str, str]:
    """No index, no settings but those of the test, and a uv."""
    ours = ("PIP_", "PYTHON", "UV_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    kept |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_HTTP_RETRIES": "0"}
    return {**kept, "PATH": environment.path, "UV_CACHE_DIR": environment.cache, **more}


def start(folder: Path, python: str = PYTHON, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [python, str(folder / "bootstrap.py"), "--venv", ".venv"],
        cwd="/",
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def bootstrap(
    folder: Path, python: str = PYTHON, arguments: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, str(folder / "bootstrap.py"), "--venv", ".venv", *arguments],
        cwd="/",
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def complaint(done: subprocess.CompletedProcess) -> str:
    """The one line on stderr of a run that failed as it should."""
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return lines[0]


def stamp(folder: Path) -> str:
    file = folder / ".venv/redis-lab-stamp"
    return file.read_text() if file.exists() else ""


def place_of(folder: Path) -> str:
    """The first line of the stamp."""
    return "{}.{} {}\n".format(*sys.version_info[:2], (folder / ".venv").resolve())


def is_set_up(folder: Path) -> bool:
    if len(stamp(folder).splitlines()) != 2 or "unfinished" in stamp(folder):
        return False
    names = re.findall(r"lab.dep\d+", (folder / "requirements.lock").read_text())
    modules = [name.replace("-", "_") for name in names]
    checks = [f"import {name}; assert {name}.WHOLE" for name in modules]
    code = "; ".join(["import tiny, pip", *checks])
    return not subprocess.run([folder / ".venv/bin/python", "-c", code]).returncode


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


# ---------------------------------------------------------------- what should happen


def test_sets_up_once_and_then_touches_nothing(folder):
    done = bootstrap(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:3] for line in done.stdout.splitlines()] == ["1/3", "2/3"]
    assert is_set_up(folder)
    before = contents(folder)
    done = bootstrap(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contents(folder) == before


def test_a_changed_lock_updates_in_place(adopting):
    assert bootstrap(adopting).returncode == 0
    keepsake = adopting / ".venv/keepsake"
    keepsake.touch()
    (adopting / "requirements.lock").write_text("# changed\n")
    done = bootstrap(adopting)
    assert [line[:3] for line in done.stdout.splitlines()] == ["2/3"]
    assert is_set_up(adopting) and keepsake.exists()


BREAKS_OFF = """
import os, sys
if "ensurepip" in sys.orig_argv:
    print("broken off", flush=True)
    os._exit(3)
"""


def break_off(folder: Path) -> None:
    """Let setting up end in 1/3, before pip is there."""
    (folder / "sitecustomize.py").write_text(BREAKS_OFF)
    done = bootstrap(folder, PYTHONPATH=str(folder))
    assert "made no virtual environment" in complaint(done)
    assert [line[:3] for line in done.stdout.splitlines()] == ["1/3", "bro"]
    assert (folder / ".venv/bin/python").exists()


def test_half_an_environment_is_made_again(folder):
    """As far as to pip; the drill of Ctrl-C in 1/3 goes on to the end."""
    for _ in range(2):
        break_off(folder)


def test_a_moved_folder_starts_afresh(adopting, tmp_path_factory):
    (adopting / ".venv/redis-lab-stamp").write_text(place_of(adopting) + "whatever the lock was\n")
    (adopting / ".venv/keepsake").touch()
    moved = tmp_path_factory.mktemp("moved") / "here"
    adopting.rename(moved)
    break_off(moved)
    assert not (moved / ".venv/keepsake").exists()


def test_makes_the_data_where_there_is_data_to_make(adopting):
    package = adopting / "redis_lab"
    package.mkdir()
    (package / "cli.py").touch()
    (package / "source.py").write_text("def make_database():\n    open('made', 'w').write('data')")
    done = bootstrap(adopting)
    assert done.stdout.splitlines()[-1].startswith("3/3")
    assert (adopting / "made").read_text() == "data"
    (package / "source.py").write_text(
        "def make_database():\n    raise SystemExit('the data are spoilt')"
    )
    (adopting / "requirements.lock").write_text("# changed\n")
    done = bootstrap(adopting)
    assert "data could not be made" in complaint(done)
    assert "the data are spoilt" in done.stdout
    assert not is_set_up(adopting)


def test_not_stamped_unless_the_workbook_imports(adopting):
    package = adopting / "redis_lab"
    package.mkdir()
    (package / "source.py").write_text("def make_database():\n    pass")
    (package / "cli.py").write_text("import no_such_module_of_the_lab")
    done = bootstrap(adopting)
    assert complaint(done)
    said = "ModuleNotFoundError: No module named 'no_such_module_of_the_lab'"
    assert done.stdout.splitlines()[-1] == said and "File" not in done.stdout
    assert not is_set_up(adopting)


LOSSES = {
    WHEELS[0]: "lab_dep0/part0.py",
    WHEELS[1]: "lab_dep1/__init__.py, the end",
    WHEELS[2]: "METADATA",
    WHEELS[3]: "RECORD",
    WHEELS[4]: "*",
    WHEELS[5]: "METADATA, the end",
    WHEELS[6]: "RECORD, the end",
}


def install_half(site: Path, wheel: Path, lost: str) -> None:
    """What is installed is as a kill leaves it: the installers believe that it is whole."""
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    (info,) = site.glob(f"{wheel.name.split('-')[0]}-*.dist-info")
    path, _, the_end = lost.partition(", ")
    for file in list((site if "/" in path else info).glob(path)):
        if the_end:
            file.write_text("")
        else:
            file.unlink()


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_takes_up_half_an_installation(adopting, wheels, tool, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    furnish(adopting, "".join(f"lab-dep{n}==1.0\n" for n in range(len(WHEELS))))
    (site,) = adopting.glob(".venv/lib/*/site-packages")
    for wheel, lost in LOSSES.items():
        install_half(site, wheels / wheel, lost)
    (adopting / ".venv/redis-lab-stamp").write_text(place_of(adopting) + "unfinished")
    path = environment.path if tool == "uv" else without_uv()
    done = bootstrap(adopting, PIP_FIND_LINKS=str(wheels), PATH=path, TMPDIR=str(temporary))
    assert done.returncode == 0, done
    assert ("pip takes over" in done.stdout) == (tool == "pip"), done.stdout
    assert list(temporary.iterdir()) == [], "also of a program that is not there"
    assert is_set_up(adopting)


# ---------------------------------------------------------------- uv, or else pip


@pytest.fixture
def index(wheels):
    """An index over HTTP, which also answers as a proxy. Collects who asked for what."""

    class Index(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(self.path, False)

        def do_GET(self):
            self.answer(self.path, True)

        def answer(self, path: str, with_body: bool) -> None:
            asked.append((self.headers["User-Agent"].split("/")[0], path))
            *_, name = urllib.parse.urlsplit(path).path.strip("/").split("/")
            found = [w for w in WHEELS if w == name or w.startswith(name.replace("-", "_") + "-")]
            self.send_response(200 if found else 404)
            body = b""
            if found and name == found[0]:
                body = (wheels / name).read_bytes()
            elif found:
                self.send_header("Content-Type", "text/html")
                body = f'<a href="../../files/{found[0]}">{found[0]}</a>'.encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if with_body else b"")

        def log_message(self, *_):
            pass

    asked: list[tuple[str, str]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.asked, server.url = asked, f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.mark.parametrize("told", ["environment", "pip.conf", "find-links"])
def test_uv_asks_where_pip_would_ask(adopting, index, wheels, tmp_path_factory, told):
    furnish(adopting, LOCK)
    settings = {"PIP_NO_INDEX": "0", "UV_CACHE_DIR": str(tmp_path_factory.mktemp("empty"))}
    simple, closed = f"{index.url}/simple", "http://127.0.0.1:9/simple"
    conf = adopting / "pip.conf"
    if told == "environment":
        # the environment is stronger than the file
        conf.write_text(f"[global]\nindex-url = {closed}\n")
        settings |= {"PIP_CONFIG_FILE": str(conf), "PIP_INDEX_URL": simple}
        settings |= {"PIP_EXTRA_INDEX_URL": f"{simple}\n{index.url}/two"}
    elif told == "pip.conf":
        # and in the file the command is stronger than what is for all; this one needs the proxy
        text = f"[install]\nindex-url = http://index.invalid/simple\nproxy = {index.url}\n"
        conf.write_text(f"{text}[global]\nindex-url = {closed}\n")
        settings |= {"PIP_CONFIG_FILE": str(conf)}
    else:
        (adopting / "empty").mkdir()
        settings |= {"PIP_NO_INDEX": "true", "PIP_FIND_LINKS": f"{adopting / 'empty'} {wheels}"}
    done = bootstrap(adopting, **settings)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1), (
        done.stdout + done.stderr
    )
    assert is_set_up(adopting)
    assert {who for who, _ in index.asked} <= {"uv"}
    assert bool(index.asked) == (told != "find-links")
    if told == "environment":
        assert any("/two/" in path for _, path in index.asked)
    if told == "pip.conf":
        assert all("//index.invalid/" in path for _, path in index.asked)


def test_uv_is_fetched_if_the_lock_pins_it(adopting, index, wheels, tmp_path_factory):
    """Here it is not there to be fetched: pip takes over, with one line that says so."""
    furnish(adopting, "uv==999\n" + LOCK)
    done = bootstrap(adopting, PATH=without_uv(), PIP_NO_INDEX="0", PIP_INDEX_URL=index.url)
    assert "pip could not install the packages" in complaint(done)
    assert next(path for who, path in index.asked if who == "pip").strip("/") == "uv"
    assert [line for line in done.stdout.splitlines() if "uv could not; pip takes over" in line]


HALF = """#!/bin/sh
# Installs half a package, as if all were well, and then does what the test is about.
case "$*" in *requirements.lock*) ;; *) exit 1;; esac
info="{site}/lab_dep0-1.0.dist-info"
mkdir -p "$info" "{site}/lab_dep0"
printf 'Metadata-Version: 2.1\\nName: lab_dep0\\nVersion: 1.0\\n' >"$info/METADATA"
printf 'lab_dep0/__init__.py,,\\n' >"$info/RECORD"
echo $$ >"{site}/half"
{then}
"""


def half_uv(folder: Path, then: str) -> tuple[str, Path]:
    """A PATH with a uv that breaks off, and the file that says that it is half way."""
    site = next(folder.glob(".venv/lib/*/site-packages"))
    (folder / "bin").mkdir()
    (folder / "bin/uv").write_text(HALF.format(site=site, then=then))
    (folder / "bin/uv").chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{without_uv()}", site / "half"


def test_pip_repairs_what_a_failing_uv_has_left(adopting, wheels):
    furnish(adopting, LOCK)
    path, half = half_uv(adopting, "exit 2")
    done = bootstrap(adopting, PATH=path, PIP_FIND_LINKS=str(wheels))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2 and "pip takes over" in done.stdout
    assert half.exists() and is_set_up(adopting)


def test_the_lock_is_written_with_the_same_settings(adopting, index):
    furnish(adopting, "# before\n")
    (adopting / "wanted.txt").write_text("lab-dep0\n")
    settings = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": f"{index.url}/simple"}
    compile = ("--uv", "compile", "--quiet", "--universal", "wanted.txt", "-o", "requirements.lock")
    done = bootstrap(adopting, PYTHON, compile, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    text = (adopting / "requirements.lock").read_text()
    assert "lab-dep0==1.0" in text and "127.0.0.1" not in text


# ---------------------------------------------------------------- several at once, and kills


def two_at_once(folder: Path, wheels: Path) -> None:
    furnish(folder, LOCK)
    pair = [start(folder, PIP_FIND_LINKS=str(wheels)) for _ in range(2)]
    said = [process.communicate(timeout=LIMIT_S) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert sum("2/3" in out for out, _ in said) == 1, "the second finds all done"
    assert is_set_up(folder)


def test_two_at_once(adopting, wheels):
    two_at_once(adopting, wheels)


@pytest.mark.drill
def test_two_at_once_with_nothing_there(folder, wheels, figure):
    two_at_once(folder, wheels)
    figure(setups_at_once=2, damaged=0)


@pytest.mark.parametrize(
    "how",
    [
        *(signal.SIGKILL, signal.SIGTERM, signal.SIGHUP),
        pytest.param(signal.SIGINT, marks=pytest.mark.drill),  # see also test_ctrl_c
    ],
)
def test_a_killed_one_takes_its_installer_along_and_is_taken_up(adopting, wheels, how, figure):
    furnish(adopting, LOCK)
    path, half = half_uv(adopting, "exec sleep 1000")
    killed = start(adopting, PATH=path)
    assert within(LIMIT_S, lambda: half.exists() and half.read_text().strip())
    installer = int(half.read_text())
    try:
        killed.send_signal(how)
        killed.communicate(timeout=LIMIT_S)
        assert within(60, lambda: gone(installer))
    finally:
        if not gone(installer):
            os.kill(installer, signal.SIGKILL)
    done = bootstrap(adopting, PIP_FIND_LINKS=str(wheels))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert is_set_up(adopting)
    figure(kills=1, damaged=0)


@pytest.mark.drill
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whom", ["the group", "the bootstrap alone"])
def test_killed_at_random_moments(tmp_path, tmp_path_factory, whom, figure, request):
    """Nothing of it is left within five seconds, and what it left half is taken up by the next."""
    kills = max(8, request.config.getoption("--kills"))
    seed = request.config.getoption("--kill-seed") or random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng, temporary = random.Random(f"{whom} {seed}"), tmp_path_factory.mktemp("temporary")
    wheels = tmp_path_factory.mktemp("many")
    names = [f"lab_dep{n}-1.0-py3-none-any.whl" for n in range(40)]
    for file in names:
        make_wheel(wheels, file, modules=40)
    lock = "".join(f"lab-dep{n}==1.0\n" for n in range(40))
    start_s = time.monotonic()
    assert bootstrap(furnish(tmp_path, lock), PIP_FIND_LINKS=str(wheels)).returncode == 0
    whole_s = time.monotonic() - start_s

    def left() -> list[str]:
        found = [str(path) for path in temporary.iterdir()]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TMPDIR") == str(temporary):
                    found.append(" ".join(process.cmdline()))
        return found

    again, then, took = 0, 0, []
    for number in range(kills):
        path = environment.path if number % 3 else without_uv()
        furnish(tmp_path, lock + f"# {number}\n")
        changes = {"PIP_FIND_LINKS": str(wheels), "PATH": path, "TMPDIR": str(temporary)}
        running = start(tmp_path, **changes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=rng.uniform(0, whole_s))
        how = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        killed_s, then = time.monotonic(), then + len(left())
        if running.poll() is None:
            (os.killpg if whom == "the group" else os.kill)(running.pid, how)
        running.communicate()
        assert within(40, lambda: not left()), (how, left())
        took.append(time.monotonic() - killed_s)
        if number % 5 == 0:
            shutil.rmtree(tmp_path / ".venv")  # the environment itself is made again
        if number % 3 == 0:
            done = bootstrap(tmp_path, PIP_FIND_LINKS=str(wheels))
            assert done.returncode == 0, (number, done)
            assert is_set_up(tmp_path), number
            again += 1
    late = sum(seconds > 5 for seconds in took)
    figure(kills=kills, processes_and_files_then=then, left_for_longer_than_5_s=late)
    figure(taken_up_again=again, damaged=0, s_at_worst=max(took), is_the_seed=str(seed))
    if late and psutil.getloadavg()[0] > (os.cpu_count() or 1):
        raise TooBusy(f"{max(took):.1f} s until nothing was left")
    assert not late


# ---------------------------------------------------------------- what can go wrong


def old_pythons() -> list[str]:
    names = [f"python3.{minor}" for minor in range(6, 11)]
    found = [str(p) for p in Path.home().glob(".pyenv/versions/*/bin/python")]
    found += [path for name in names if (path := shutil.which(name))]
    old = []
    for python in found:
        code = "import sys; print(sys.version_info[0] == 3 and sys.version_info < (3, 11))"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            ran = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=20)
            if ran.stdout.strip() == "True":
                old.append(python)
    return old


def test_a_python_that_is_too_old(folder, tmp_path_factory):
    pythons = old_pythons()
    if not pythons:
        pytest.skip("no Python older than 3.11 on this machine")
    path = tmp_path_factory.mktemp("path")
    for python in pythons:
        line = complaint(bootstrap(folder, python, PATH=str(path)))
        assert "3.11 or newer" in line and "Install one" in line
    (path / "python3.12").symlink_to(PYTHON)
    line = complaint(bootstrap(folder, pythons[0], PATH=str(path)))
    assert "make PYTHON=python3.12" in line
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv(folder, tmp_path_factory, module):
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None\n")
    line = complaint(bootstrap(folder, PYTHONPATH=str(blocked)))
    assert module in line and "apt install python3-venv" in line
    assert not (folder / ".venv").exists()


@contextlib.contextmanager
def file_system(at: Path, options: str):
    """A small file system of its own. Skips where one cannot be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    with file_system(tmp_path, "size=3g"):
        furnish(tmp_path)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        line = complaint(bootstrap(tmp_path))
        assert str(tmp_path) in line and "cannot be written" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_belongs_to_another(folder):
    folder.chmod(0o500)
    try:
        assert "cannot be written" in complaint(bootstrap(folder))
    finally:
        folder.chmod(0o700)


def test_something_else_in_the_environments_place(folder):
    place = folder / ".venv"
    place.write_text("mine")
    assert "it is a file" in complaint(bootstrap(folder))
    assert place.read_text() == "mine"
    place.unlink()
    place.mkdir()
    (place / "diary").write_text("mine")
    assert "was not made by this" in complaint(bootstrap(folder))
    assert (place / "diary").read_text() == "mine"


def test_an_environment_of_the_users_own_is_used_and_never_removed(folder, ready):
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / ".venv/diary").write_text("mine")
    assert "was not made by this" in complaint(bootstrap(folder))
    (pip,) = ready.glob("lib/*/site-packages/pip")
    (folder / ".venv" / pip.relative_to(ready)).symlink_to(pip.resolve())
    done = bootstrap(folder)
    assert (done.returncode, done.stdout[:3]) == (0, "2/3")
    assert is_set_up(folder)
    assert (folder / ".venv/diary").read_text() == "mine"


def test_a_disk_that_is_nearly_full(tmp_path):
    with file_system(tmp_path, "size=100m"):
        line = complaint(bootstrap(furnish(tmp_path)))
        assert "Only 0.1 GB are free" in line
        assert not (tmp_path / ".venv").exists()


def test_a_disk_that_becomes_full(tmp_path):
    # There is room enough by the byte, but not for so many files.
    with file_system(tmp_path, "size=3g,nr_inodes=10"):
        assert "became full" in complaint(bootstrap(furnish(tmp_path)))
        assert not is_set_up(tmp_path)


@pytest.mark.drill
def test_a_disk_that_becomes_full_and_has_room_again(tmp_path, figure):
    with file_system(tmp_path, "size=3g,nr_inodes=200"):
        line = complaint(bootstrap(furnish(tmp_path)))
        assert "became full" in line
        assert not is_set_up(tmp_path)
        subprocess.run(["mount", "-o", "remount,nr_inodes=100000", str(tmp_path)], check=True)
        assert bootstrap(tmp_path).returncode == 0
        assert is_set_up(tmp_path)
    figure(full_disks=1, damaged=0)


@pytest.mark.parametrize(
    "reason", [pytest.param("no index", marks=pytest.mark.drill), "no network"]
)
def test_pip_fails(adopting, reason, figure):
    (adopting / "requirements.lock").write_text("no-such-package-of-the-lab==1.0\n")
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_INDEX": ""}
    done = bootstrap(adopting, **(closed if reason == "no network" else {}))
    assert "pip could not install the packages" in complaint(done)
    assert "no-such-package-of-the-lab" in done.stdout
    assert not is_set_up(adopting)
    (adopting / "requirements.lock").write_text("")
    assert bootstrap(adopting).returncode == 0
    figure(missing_packages=1, damaged=0)


def test_a_lock_that_is_missing(folder):
    (folder / "requirements.lock").unlink()
    assert "requirements.lock" in complaint(bootstrap(folder))


@pytest.mark.parametrize("phase", [pytest.param("1/3", marks=pytest.mark.drill), "2/3"])
def test_ctrl_c(folder, ready, phase, figure):
    if phase == "2/3":
        adopt(folder, ready)
    furnish(folder, slow=True)
    running = start(folder)
    while not running.stdout.readline().startswith(phase):
        assert running.poll() is None
    time.sleep(0.5)  # somewhere in the phase; whenever it is, it must end well
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert len(said.strip().splitlines()) == 1 and "Traceback" not in said
    assert not is_set_up(folder)
    furnish(folder)
    assert bootstrap(folder).returncode == 0
    assert is_set_up(folder)
    figure(interruptions=1, damaged=0)
