"""Where the lab keeps its files; it writes them atomically."""

from __future__ import annotations

import os
import tempfile
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

    Raises: LabError that says what is wrong, and what to do `instead`.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LabError(
                f"{path.name} could not be written: {error.strerror}. Free some disk space or "
                f"{instead} that can be written; the file that was there is unchanged."
            ) from error
        raise
