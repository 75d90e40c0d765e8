"""Helper processes: how they are spoken to, and that none outlives its owner."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import textwrap
import time

import psutil
import pytest
from processes import environment, gone, script, soon, within

from redis_lab import LabError, child, source
from redis_lab.child import Child, TemporaryFolder

# Obeys as _keeper.py and its like do; `quit` leaves a trace
OBEDIENT = """
import json, os, sys
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "quit":
        open(sys.argv[2], "w").close()
        break
    print("settings " + word if word.startswith("{") else word.upper(), flush=True)
"""


@pytest.fixture
def program(tmp_path):
    def write(body: str):
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(body))
        return file

    return write


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "it ended in its own way"


@pytest.fixture
def obedient(program, trace):
    started = Child("The helper", program(OBEDIENT), str(trace))
    assert started.wait_ready() == "ready"
    yield started
    started.kill()


def test_it_answers_and_ends_in_its_own_way(obedient, trace):
    assert obedient.ask("one") == "ONE"
    assert obedient.tell("two") and obedient.ask("three") == "TWO"
    obedient.stop()
    assert obedient.process.returncode == 0 and trace.exists()
    obedient.stop()  # a second time is harmless
    assert obedient.ask("four") == "" and not obedient.tell("five")


def test_its_settings_do_not_show_in_the_list_of_processes(program, trace):
    started = Child("The helper", program(OBEDIENT), str(trace), settings={"password": "secret"})
    try:
        assert started.wait_ready() == "ready"
        assert started.ask("anything") == 'settings {"password": "secret"}'
        assert "secret" not in " ".join(psutil.Process(started.pid).cmdline())
    finally:
        started.stop()


@pytest.mark.parametrize("settings", [None, {"n": "x" * 2**20}], ids=["", "that nobody reads"])
def test_one_that_ends_at_once_says_why(program, settings):
    body = "import sys; sys.exit('no such target')"
    started = Child("The helper", program(body), settings=settings)
    with pytest.raises(LabError, match=r"The helper did not start: no such target"):
        started.wait_ready()
    assert gone(started.pid) and started.process.stdout.closed


def test_one_that_ends_at_once_and_says_nothing(program):
    started = Child("The helper", program("import os; os._exit(3)"))
    with pytest.raises(LabError, match="it gave no reason"):
        started.wait_ready()


def test_one_that_is_killed_is_noticed(obedient):
    os.kill(obedient.pid, signal.SIGKILL)
    assert within(60, lambda: gone(obedient.pid))
    assert obedient.ask("one") == ""
    obedient.stop()
    assert obedient.process.returncode == -signal.SIGKILL


def test_much_on_standard_error_does_not_hold_it_up(program):
    body = """
        import sys
        print("ready", flush=True)
        sys.stdin.readline()
        sys.stderr.write("noise\\n" * 100_000 + "the end")
        sys.stderr.flush()
        print("written", flush=True)
        sys.exit(1)
    """
    started = Child("The helper", program(body))
    started.wait_ready()
    assert started.ask("go on") == "written"
    words = started.last_words()
    assert words.endswith("noise\nthe end") and len(words) <= 300
    started.stop()


def test_one_that_does_not_obey_is_killed(program, monkeypatch):
    monkeypatch.setattr(child, "QUIT_TIMEOUT_S", 0.2)
    body = """
        import time
        print("ready", flush=True)
        time.sleep(100)
    """
    started = Child("The helper", program(body))
    started.wait_ready()
    started.stop()
    assert started.process.returncode == -signal.SIGKILL


def test_one_that_nobody_holds_any_more_ends(program, trace):
    pid = Child("The helper", program(OBEDIENT), str(trace)).pid
    gc.collect()
    assert within(60, lambda: gone(pid))


def test_ctrl_c_in_the_terminal_does_not_reach_it(obedient):
    assert os.getsid(obedient.pid) != os.getsid(0)


def test_an_interrupted_question_leaves_no_answer_to_the_next(program, tmp_path):
    body = """
        import os, sys, time
        os.chdir(sys.argv[2])
        print("ready", flush=True)
        for line in sys.stdin:
            if line == "slow\\n":
                open("heard", "w").close()
                while not os.path.exists("go on"):
                    time.sleep(0.01)
            print(line.strip().upper(), flush=True)
    """
    heard = tmp_path / "heard"
    started = Child("The helper", program(body), str(tmp_path))
    try:
        started.wait_ready()

        def interrupt() -> None:
            within(60, heard.exists)
            os.kill(os.getpid(), signal.SIGINT)

        with soon(interrupt), pytest.raises(KeyboardInterrupt):
            started.ask("slow")
            time.sleep(30)
        (tmp_path / "go on").touch()
        assert started.ask("quick") == "QUICK"
    finally:
        started.kill()


def test_a_fork_of_its_owner_cannot_end_it(obedient, trace):
    fork = os.fork()
    if not fork:
        try:
            obedient.stop()
        finally:
            os._exit(0)
    os.waitpid(fork, 0)
    assert obedient.ask("one") == "ONE" and not trace.exists()


def test_it_ends_at_once_although_a_fork_holds_its_pipe(obedient, trace):
    fork = os.fork()
    if not fork:
        time.sleep(100)
        os._exit(0)
    try:
        obedient.stop()
        assert obedient.process.returncode == 0 and trace.exists()
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)


ALL_OF_THEM = """
    import os, sys, threading, time
    import redis_lab as lab
    from redis_lab import load, rest
    private = lab.server()
    far = lab.link(private, 1)
    web = rest.gateway(private)
    r = private.client()
    r.set("page", "x")
    about = {"rate_per_s": 10, "seconds": 90}
    args = (r, "GET", "page")
    threading.Thread(target=load.open_loop, args=args, kwargs=about, daemon=True).start()
    sys.stdin.readline()
    if FORKS and not os.fork():
        time.sleep(100)
        os._exit(0)
    print("forked", flush=True)
    time.sleep(100)
"""
PROGRAMS = {"_keeper.py", "_relay.py", "app.py", "_generator.py"}


@pytest.mark.parametrize("forks", [0, 1], ids=["alone", "a fork holds the pipes"])
def test_none_outlives_an_owner_that_is_killed(forks):
    owner = subprocess.Popen(
        script(ALL_OF_THEM.replace("FORKS", str(forks))),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def helpers() -> dict[str, int]:
        found = {}
        for one in psutil.Process(owner.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a short one, which asks for a version
                found |= {os.path.basename(word): one.pid for word in one.cmdline()}
        return {name: found[name] for name in PROGRAMS & found.keys()}

    try:
        assert within(60, lambda: set(helpers()) == PROGRAMS), helpers()
        started = helpers()
        owner.stdin.write(b"fork\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == b"forked\n"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        within(60, lambda: all(map(gone, started.values())))
        assert [name for name, pid in started.items() if not gone(pid)] == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.communicate()


# ---------------------------------------------------------------- folders that must not stay


def test_a_temporary_folder_goes_with_its_block_or_its_last_reference(tmp_path):
    with TemporaryFolder("lab-", tmp_path) as name:
        assert os.path.dirname(name) == str(tmp_path) and os.listdir(tmp_path)
        assert os.stat(name).st_mode & 0o777 == 0o700
        os.mkdir(os.path.join(name, "in it"))
    assert os.listdir(tmp_path) == []
    forgotten = TemporaryFolder(parent=tmp_path)
    assert os.listdir(tmp_path)
    del forgotten
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_a_temporary_folder_that_cannot_be_made_says_where(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"could be made in .*file \(Not a directory\)"):
        TemporaryFolder(parent=tmp_path / "file")


def test_a_forked_child_leaves_a_temporary_folder_alone(tmp_path):
    with TemporaryFolder(parent=tmp_path) as name:
        if (fork := os.fork()) == 0:
            gc.collect()
            os._exit(0)
        os.waitpid(fork, 0)
        assert os.path.isdir(name)


# At each of these moments there is something that was just made
DIES = """
import os, shutil, signal, subprocess, sys
from pathlib import Path
from redis_lab import child, files, grade, notebooks, publish, source
from redis_lab.servers import choose, native
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def server():
    native.NativeServer._write_config = die
    choose.server()
def shop():
    source._write_database = die
    source.make_database("small")
def copy():
    shutil.copy = die
    source.shop("small", writable=True)
def file():
    os.replace = die
    os.link = die
    files.write_whole(Path(os.environ["REDIS_LAB_DATA"]) / "file", b"whole")
def race():
    from redis_lab import drill
    drill.race.Ledger = die
    drill.drill("redis_lab.drill.naive:Cache", "cache", kills=1, steps=False)
def published():
    publish.link_data = die
    publish.publish_runs(notebooks.find()[0], 1)
def grader():
    stays = "import os, subprocess, sys; made = subprocess.Popen([sys.executable, '-c', "
    stays += "'import time; time.sleep(100)'], start_new_session=True); "
    stays += "open(HERE, 'w').write(f'{made.pid} {os.getpid()}')"
    stays = stays.replace("HERE", repr(os.environ["HOME"] + "/pid"))
    cell = {"source": stays, "exercises": []}
    job = {"imports": "", "seed": 0, "memory_mb": 4096, "cells": [cell]}
    grade.json.loads = lambda line: die()  # the grader has said that it is done
    grade.run_notebook(job, 100)
def run():
    run = child.TemporaryRun()
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    deaf += "; time.sleep(100)"
    made = subprocess.Popen([sys.executable, "-c", deaf], env=os.environ | run.environment,
                            start_new_session=True, stdout=subprocess.PIPE)
    made.stdout.readline()
    print(made.pid, flush=True)
    die()
"""


MOMENTS = ["server", "shop", "copy", "race", "published", "grader", "run"]
MOMENTS += ["file"] * hasattr(os, "O_TMPFILE")


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_owner_killed_at_once_leaves_nothing(moment, tmp_path):
    places = [tmp_path / "tmp", tmp_path / "data"]
    for place in places:
        place.mkdir()
    if moment == "copy":
        source._write_database(
            places[1] / source._name_file("small", source.SEED).name, "small", source.SEED
        )
    kept = list(places[1].iterdir())
    env = {"TMPDIR": str(places[0]), "REDIS_LAB_DATA": str(places[1]), "HOME": str(tmp_path)}
    done = subprocess.run(
        script(f"{DIES}\n{moment}()"), env=environment(**env), capture_output=True, timeout=100
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = lambda: [path for place in places for path in place.iterdir() if path not in kept]  # noqa: E731
    written = (tmp_path / "pid").read_text() if moment == "grader" else done.stdout
    pids = [int(pid) for pid in written.split()]
    assert len(pids) == {"run": 1, "grader": 2}.get(moment, 0)
    try:
        assert within(60, lambda: not left() and all(map(gone, pids))), (left(), pids)
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
