"""Which keys a visit to a user's server wrote, in a file that outlives a process that is killed.

The record is not kept in the user's database, because lessons show the size and the keys of that.
The file's name contains the server's run id, the number of the database, and the process that wrote
the keys. The run id changes with a restart, after which it is unknown whether the keys are still
the lab's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import LabError
from ..files import data_folder

KEPT_S = 30 * 86400.0  # files that no later run has read


def _folder() -> Path:
    return data_folder() / "local" / "visits"


class Journal:
    """The file of one visit; it is created with the first key."""

    def __init__(self, server: str, database: int) -> None:
        import psutil  # imported only for a user's server, because it takes a while

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
    """The file and the keys of each visit to this database whose process did not remove them."""
    for path in sorted(_folder().glob("*.keys")):
        with contextlib.suppress(OSError, ValueError):
            where, number, pid, began = path.stem.split("-")
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()
            elif (where, number) == (server, str(database)) and not _is_alive(int(pid), int(began)):
                *lines, _ = path.read_bytes().split(b"\n")  # the last line may be incomplete
                yield path, [bytes.fromhex(line.decode()) for line in lines]
