"""Which keys a visit to a user's server wrote, in a file that outlives a process that is killed.

Nothing of it is in the user's database, whose size and keys are what a lesson shows. The file's
name says which server it was (its run id, which is another after a restart: whether the keys are
still the lab's is then unknown), which database, and which process wrote them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import LabError
from ..files import data_folder

KEPT_S = 30 * 86400.0  # what nobody came back for


def _folder() -> Path:
    return data_folder() / "local" / "visits"


class Journal:
    """The file of one visit; there is none before the first key."""

    def __init__(self, server: str, database: int) -> None:
        import psutil  # on a user's server only: importing it takes a while

        pid = os.getpid()
        began = int(psutil.Process(pid).create_time())
        self.path = _folder() / f"{server}-{database}-{pid}-{began}.keys"
        self._file: int | None = None

    def add(self, keys: Iterable[bytes]) -> None:
        """Note keys before they are written. Raises: LabError when the file cannot be written."""
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._file = os.open(self.path, flags, 0o600)
            os.write(self._file, b"".join(key.hex().encode() + b"\n" for key in keys))
        except OSError as error:
            raise LabError(
                f"The keys that a lesson writes could not be noted ({error.strerror}). Free some "
                "disk space, or point REDIS_LAB_DATA at a folder that can be written."
            ) from error

    def clear(self) -> None:
        """Forget all keys: they have been removed."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self.path.unlink(missing_ok=True)


def _is_alive(pid: int, began: int) -> bool:
    import psutil

    try:
        # The system computes the time from the clock, which may have been set in the meantime
        return abs(psutil.Process(pid).create_time() - began) < 5
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def left_behind(server: str, database: int) -> Iterator[tuple[Path, list[bytes]]]:
    """The file and the keys of each visit to this database whose process has ended without it."""
    for path in sorted(_folder().glob("*.keys")):
        with contextlib.suppress(OSError, ValueError):
            where, number, pid, began = path.stem.split("-")
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()
            elif (where, number) == (server, str(database)) and not _is_alive(int(pid), int(began)):
                *lines, _ = path.read_bytes().split(b"\n")  # the last may have been cut short
                yield path, [bytes.fromhex(line.decode()) for line in lines]
