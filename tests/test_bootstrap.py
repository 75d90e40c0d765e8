"""bootstrap.py run for real, in folders of its own that hold a tiny package and a tiny lock."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    return {**kept, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **more}


def bootstrap(folder: Path, python: str = PYTHON, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, str(folder / "bootstrap.py"), "--venv", ".venv"],
        cwd="/",
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=100,
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


def is_set_up(folder: Path) -> bool:
    if len(stamp(folder).splitlines()) != 2 or "unfinished" in stamp(folder):
        return False
    return not subprocess.run([folder / ".venv/bin/python", "-c", "import tiny"]).returncode


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


# ---------------------------------------------------------------- what should happen


def test_sets_up_once_and_then_touches_nothing(folder):
    done = bootstrap(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:3] for line in done.stdout.splitlines()] == ["1/3", "2/3"]
    assert is_set_up(folder)
    before = contents(folder)
    start = time.monotonic()
    done = bootstrap(folder)
    assert time.monotonic() - start < 2
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contents(folder) == before


def test_a_changed_lock_updates_in_place_and_a_moved_folder_starts_afresh(folder, tmp_path_factory):
    bootstrap(folder)
    keepsake = folder / ".venv/keepsake"
    keepsake.touch()
    (folder / "requirements.lock").write_text("# changed\n")
    done = bootstrap(folder)
    assert [line[:3] for line in done.stdout.splitlines()] == ["2/3"]
    assert is_set_up(folder) and keepsake.exists()
    moved = tmp_path_factory.mktemp("moved") / "here"
    folder.rename(moved)
    assert bootstrap(moved).returncode == 0
    assert is_set_up(moved) and not (moved / ".venv/keepsake").exists()


def test_makes_the_data_where_there_is_data_to_make(folder):
    package = folder / "redis_lab"
    package.mkdir()
    (package / "source.py").write_text("def path():\n    open('made', 'w').write('data')")
    done = bootstrap(folder)
    assert done.stdout.splitlines()[-1].startswith("3/3")
    assert (folder / "made").read_text() == "data"
    (package / "source.py").write_text("def path():\n    raise SystemExit('the data are spoilt')")
    (folder / "requirements.lock").write_text("# changed\n")
    done = bootstrap(folder)
    assert "data could not be made" in complaint(done)
    assert "the data are spoilt" in done.stdout
    assert not is_set_up(folder)


@pytest.mark.parametrize("left", ["nothing", "half an environment", "half an installation"])
def test_takes_up_what_was_interrupted(folder, left):
    environment_folder = folder / ".venv"
    if left != "nothing":
        environment_folder.mkdir()
        (environment_folder / "redis-lab-stamp").write_text("unfinished")
        (environment_folder / "pyvenv.cfg").touch()
    if left == "half an installation":
        bootstrap(folder)
        shutil.rmtree(next(environment_folder.rglob("tiny-1.0.dist-info")))
        text = stamp(folder).splitlines()[0] + "\nunfinished\n"
        (environment_folder / "redis-lab-stamp").write_text(text)
    assert bootstrap(folder).returncode == 0
    assert is_set_up(folder)


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
    with file_system(tmp_path, "size=2g"):
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


def test_an_environment_of_the_users_own_is_used_and_never_removed(folder):
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / ".venv/diary").write_text("mine")
    assert "was not made by this" in complaint(bootstrap(folder))
    subprocess.run([folder / ".venv/bin/python", "-m", "ensurepip"], check=True)
    assert bootstrap(folder).returncode == 0
    assert is_set_up(folder)
    assert (folder / ".venv/diary").read_text() == "mine"


def test_a_disk_that_is_nearly_full(tmp_path):
    with file_system(tmp_path, "size=100m"):
        line = complaint(bootstrap(furnish(tmp_path)))
        assert "Only 0.1 GB are free" in line
        assert not (tmp_path / ".venv").exists()


def test_a_disk_that_becomes_full(tmp_path):
    # There is room enough by the byte, but not for so many files.
    with file_system(tmp_path, "size=2g,nr_inodes=200"):
        line = complaint(bootstrap(furnish(tmp_path)))
        assert "became full" in line
        assert not is_set_up(tmp_path)
        subprocess.run(["mount", "-o", "remount,nr_inodes=100000", str(tmp_path)], check=True)
        assert bootstrap(tmp_path).returncode == 0
        assert is_set_up(tmp_path)


@pytest.mark.parametrize("reason", ["no index", "no network"])
def test_pip_fails(folder, reason):
    (folder / "requirements.lock").write_text("no-such-package-of-the-lab==1.0\n")
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_INDEX": ""}
    done = bootstrap(folder, **(closed if reason == "no network" else {}))
    assert "pip could not install the packages" in complaint(done)
    assert "no-such-package-of-the-lab" in done.stdout
    assert not is_set_up(folder)
    (folder / "requirements.lock").write_text("")
    assert bootstrap(folder).returncode == 0


def test_a_lock_that_is_missing(folder):
    (folder / "requirements.lock").unlink()
    assert "requirements.lock" in complaint(bootstrap(folder))


@pytest.mark.parametrize("phase", ["1/3", "2/3"])
def test_ctrl_c(folder, phase):
    furnish(folder, slow=True)
    running = subprocess.Popen(
        [PYTHON, str(folder / "bootstrap.py"), "--venv", ".venv"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not running.stdout.readline().startswith(phase):
        assert running.poll() is None
    time.sleep(0.5)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert len(said.strip().splitlines()) == 1 and "Traceback" not in said
    assert not is_set_up(folder)
    furnish(folder)
    assert bootstrap(folder).returncode == 0
    assert is_set_up(folder)
