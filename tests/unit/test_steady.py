"""The script that asks whether the tests are steady."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import gone, within

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "steady.py"


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=60
    )


def test_it_counts_what_passed_and_what_failed(tmp_path):
    """The second of three runs fails."""
    once = f"import pathlib, sys; p = pathlib.Path({str(tmp_path / 'n')!r}); "
    once += "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); "
    once += "print('run', n); sys.exit(n == 1)"
    logs = ("--logs", str(tmp_path / "logs"))
    said = run("-n", "3", "--loops", "1", *logs, "--", sys.executable, "-c", once)
    assert said.returncode == 1, said.stderr
    lines = said.stdout.splitlines()
    verdicts = [line.split()[3] for line in lines if " of 3  " in line]
    assert verdicts == ["passed", "FAILED", "passed"]
    assert "run 1" in lines and lines[-1] == "2 of 3 passed"
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "1.log",
        "2.log",
        "3.log",
    ]
    said = run("-n", "2", "--loops", "1", *logs, "--", sys.executable, "-c", "")
    assert said.returncode == 0 and said.stdout.endswith("2 of 2 passed\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_loops_end_with_it(how):
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "-n", "1", "--loops", "2", "--", *slow],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        here = psutil.Process(process.pid)
        assert within(60, lambda: len(here.children()) == 3)
        children = [child.pid for child in here.children()]
        loops = [pid for pid in children if "getppid" in " ".join(psutil.Process(pid).cmdline())]
        assert len(loops) == 2
        process.send_signal(how)
        process.wait(60)
        assert within(60, lambda: all(map(gone, loops)))
    finally:
        process.kill()
        process.wait()
        for pid in children:
            if not gone(pid):
                psutil.Process(pid).kill()
