"""Is `make test` steady? Run it several times while every core is kept busy.

    python benchmarks/steady.py                       # make test, ten times
    python benchmarks/steady.py -n 3 -- make test UNIT=1
    python benchmarks/steady.py -n 20 -- .venv/bin/python -m pytest tests/test_load.py

Meanwhile one endless loop for each core runs at normal priority. The order of the tests differs
each time (pytest-randomly). The script prints each run's seconds, the last lines of a failed run,
and how many runs passed; the exit code is 0 if all passed. The loops end when this script ends,
even if it is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# If the script ends, even by SIGKILL, its loops get another parent, and notice that.
LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"


@contextmanager
def kept_busy(loops: int) -> Iterator[list[subprocess.Popen]]:
    """Run endless loops while the block runs."""
    command = [sys.executable, "-S", "-c", LOOP, str(os.getpid())]
    running: list[subprocess.Popen] = []
    try:
        running += [subprocess.Popen(command, start_new_session=True) for _ in range(loops)]
        yield running
    finally:
        for loop in running:
            loop.kill()
        for loop in running:
            loop.wait()


def repeated(command: list[str], times: int, loops: int, logs: Path) -> int:
    """Run the command several times, print each outcome, and return how many runs passed."""
    passed = 0
    for n in range(1, times + 1):
        log = logs / f"{n}.log"
        began = time.monotonic()
        with kept_busy(loops), log.open("wb") as out:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            ).returncode
        passed += code == 0
        verdict = "passed" if code == 0 else f"FAILED ({code})"
        print(f"{n:3} of {times}  {verdict}  {time.monotonic() - began:7.1f} s", flush=True)
        if code:
            print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--times", type=int, default=10)
    parser.add_argument("--loops", type=int, default=os.cpu_count(), help="one a core by default")
    parser.add_argument("--logs", type=Path, help="where the runs' output goes")
    parser.add_argument("command", nargs="*", default=["make", "test"])
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs = asked.logs or Path(tempfile.mkdtemp(prefix="steady-"))
    logs.mkdir(parents=True, exist_ok=True)
    words = " ".join(asked.command)
    print(f"{words}, {asked.times} times, with {asked.loops} endless loops; output: {logs}")
    passed = repeated(asked.command, asked.times, asked.loops, logs)
    print(f"{passed} of {asked.times} passed")
    return 0 if passed == asked.times else 1


if __name__ == "__main__":
    sys.exit(main())
