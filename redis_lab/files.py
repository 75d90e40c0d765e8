"""Where the lab keeps its files; it writes them atomically."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .errors import LabError


def data_folder() -> Path:
    """REDIS_LAB_DATA; else the checkout's data/; else a folder of the user's cache."""
    named = os.environ.get("REDIS_LAB_DATA")
    checkout = Path(__file__).resolve().parents[1] / "data"
    if named:
        return Path(named)
    if checkout.is_dir() and os.access(checkout, os.W_OK):
        return checkout
    return Path.home() / ".cache" / "redis-lab"


def write_whole(
    path: Path, content: bytes, *, instead: str = "point REDIS_LAB_DATA at a folder"
) -> None:
    """Replace a file in one step, so that Ctrl-C or a full disk leaves the old one as it was.

    Where the system can write a file that has no name yet, which is on Linux, SIGKILL while it is
    written leaves nothing either.

    Raises: LabError that says what is wrong, and what to do `instead`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"tmp{secrets.token_hex(6)}")
        if not _write_nameless(temporary, content):
            with open(temporary, "xb") as file:
                file.write(content)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise LabError(
                f"{path.name} could not be written: {error.strerror}. Free some disk space or "
                f"{instead} that can be written; the file that was there is unchanged."
            ) from error
        raise


def _write_nameless(path: Path, content: bytes) -> bool:
    """Write a file that gets its name when it is whole; whether that is possible here."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return False
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            number = os.open(path.parent, flag | os.O_WRONLY, 0o600)
            with open(number, "wb") as file:
                file.write(content)
                file.flush()
                # With a folder's number it is linkat(), which follows the link in /proc
                os.link(f"/proc/self/fd/{number}", path.name, dst_dir_fd=folder)
        finally:
            os.close(folder)
    except OSError:  # not on this file system; or write_whole fails as well, and says so
        return False
    return True
