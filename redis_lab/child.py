"""Helper processes that never outlive the process that started them.

The keeper of a server, the relay of a link, the load generators and the HTTP gateway are all run
by `Child`. What the programs have in common:

- Their first argument is the process id of the *owner*. They end when the owner is no longer their
  parent, even if the owner was killed with SIGKILL or a process that the owner forked still holds
  their standard input open.
- They end when their standard input closes, or when they read `quit` from it.
- Secrets come as a line of JSON on standard input: everyone can list a process's command line.
- The first line that they print reports that they are ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from .errors import LabError

REMOVER = Path(__file__).with_name("_remover.py")
QUIT_TIMEOUT_S = 10.0  # a child that has not ended by itself after that is killed


class Child:
    """A running helper process; it ends with `stop()`, with its last reference, or with its owner.

    Attributes: `name` (as error messages call it), `pid`, `process` (its Popen).
    """

    def __init__(
        self,
        name: str,
        program: Path,
        *arguments: str,
        settings: Mapping[str, object] | None = None,
        isolated: bool = True,
    ) -> None:
        """Start `program`, a Python file, with the owner's pid and `arguments`.

        `settings` is sent as one line of JSON. An `isolated` program sees only the standard
        library, and so starts faster.

        Raises: LabError when no process can be started.
        """
        self.name = name
        self._exchanging = threading.Lock()
        options = ["-I", "-S"] if isolated else []
        errors: IO[bytes] | None = None
        try:
            # Opened for appending, because both processes share the position in the file
            errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115, it stays open with the child
            self.process = subprocess.Popen(
                [sys.executable, "-X", "utf8", *options, program, str(os.getpid()), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it
            )
        except OSError as error:
            if errors is None:
                raise LabError(
                    f"{name} has no place for its messages: {error.strerror}. Free some disk "
                    "space, or point TMPDIR at a folder that can be written."
                ) from error
            errors.close()
            raise LabError(f"{name} could not be started: {error}.") from error
        self._errors, self.pid = errors, self.process.pid
        self._finalizer = weakref.finalize(self, _end, self.process, errors, os.getpid())
        if settings is not None:
            self.tell(json.dumps(settings))

    def wait_ready(self) -> str:
        """The first line that the program prints, without the line break.

        Raises: LabError with the end of the program's standard error, if it ends without printing
        one.
        """
        line = self._read_line()
        if not line:
            reason = self.last_words()
            self.stop()
            raise LabError(f"{self.name} did not start: {reason}")
        return line

    def tell(self, line: str) -> bool:
        """Send one line; return whether there was still a process to send it to."""
        assert self.process.stdin  # a pipe
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except (OSError, ValueError):  # it has ended, or it was stopped from here
            return False
        return True

    def ask(self, line: str) -> str:
        """Send one line and return the line that answers it, "" if the process has ended.

        Ctrl-C interrupts only the wait: the answer is still read, so that it is not taken for the
        answer to the next question.
        """
        answers: SimpleQueue[str] = SimpleQueue()

        def exchange() -> None:
            with self._exchanging:
                answers.put(self._read_line() if self.tell(line) else "")

        threading.Thread(target=exchange, daemon=True).start()
        return answers.get()

    def read_rest(self) -> bytes:
        """Everything that the program prints from now on until it ends."""
        assert self.process.stdout  # a pipe
        return self.process.stdout.read()

    def last_words(self) -> str:
        """The end of what an ended program wrote to its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-300:] or "it gave no reason."

    def kill(self) -> None:
        """End it with SIGKILL, whatever it is doing."""
        self.process.kill()
        self._finalizer()

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not; a second call does nothing."""
        self._finalizer()

    def _read_line(self) -> str:
        assert self.process.stdout  # a pipe
        try:
            return self.process.stdout.readline().decode().strip()
        except ValueError:  # it was stopped from here
            return ""


def _end(process: subprocess.Popen, errors: IO[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a forked child must not end what belongs to its parent
        return
    assert process.stdin and process.stdout  # pipes
    with contextlib.suppress(OSError, ValueError):
        # `quit` is needed: closing our end gives no end of file while a forked child holds the pipe
        # too
        process.stdin.write(b"quit\n")
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=QUIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    errors.close()


class TemporaryFolder:
    """A new folder of mode 0700, which is removed however its owner ends.

    It is removed with `cleanup()`, at the end of its `with` block, with its last reference, and
    within a second after its owner was killed. `tempfile.TemporaryDirectory` leaves the folder
    behind if no more Python code can run: after SIGKILL, or when a kernel is restarted at once.

    Attributes: `name` (its path as text, as a `tempfile.TemporaryDirectory` has it).
    """

    _variable: tuple[str, ...] = ()

    def __init__(self, prefix: str = "redis-lab-", parent: str | Path | None = None) -> None:
        """Create the folder in `parent`, by default in the folder for temporary files.

        Raises: LabError if it cannot be created.
        """
        try:
            where = os.path.abspath(parent or tempfile.gettempdir())
        except OSError as error:
            raise _no_folder("TMPDIR", str(error.strerror)) from error
        options = [where, prefix, *self._variable]
        self._remover = Child("The remover of a temporary folder", REMOVER, *options)
        try:
            word, _, rest = self._remover.wait_ready().partition(" ")
            if word != "made":
                raise _no_folder(where, rest)
        except BaseException:
            self._remover.stop()
            raise
        self.name = os.path.join(where, rest)
        self._finalizer = weakref.finalize(self, _remove, self.name, self._remover, os.getpid())

    def keep_over_exec(self) -> None:
        """Keep the folder if this process becomes another program (exec); it is removed when that
        ends.
        """
        assert self._remover.process.stdin  # a pipe
        os.set_inheritable(self._remover.process.stdin.fileno(), True)

    def cleanup(self) -> None:
        """Remove it and what is in it; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *exc: object) -> None:
        self.cleanup()

    def __repr__(self) -> str:
        return f"a temporary folder, {self.name}"


class TemporaryRun(TemporaryFolder):
    """A temporary folder for a command's programs, which are ended when the folder is removed.

    Attributes: `environment`, the variables that these programs need; they pass them on to the
    programs that they start.
    """

    _variable = ("REDIS_LAB_RUN",)

    @property
    def environment(self) -> dict[str, str]:
        return {name: self.name for name in self._variable}

    def __enter__(self) -> TemporaryRun:  # type: ignore[override]
        return self


def _no_folder(where: str, reason: str) -> LabError:
    return LabError(
        f"No temporary folder could be made in {where} ({reason}). Free some disk space, or "
        "choose a folder that can be written; TMPDIR names the one for temporary files."
    )


def _remove(folder: str, remover: Child, owner: int) -> None:
    if os.getpid() == owner:
        remover.stop()
        shutil.rmtree(folder, ignore_errors=True)  # if the remover itself was killed
