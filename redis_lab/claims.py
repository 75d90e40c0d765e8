"""What notebooks report to a validation: which claims held, and which measurements failed.

`redis-lab validate` names a file in the environment; each notebook's kernel appends lines of JSON
to it. If no file is named, no validation is running, and nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "REDIS_LAB_CLAIMS"
STRICT = "REDIS_LAB_STRICT"
NOT_MEASURED = "not measured here: the machine was too busy"
missing: list[str] = []  # the measurements that failed in this process because the machine was busy


def is_validating() -> bool:
    """Whether a validation is running this process's notebook."""
    return FILE in os.environ


def is_strict() -> bool:
    """Whether the lab itself runs this process's notebook, and not a reader.

    Then a claim that must hold stops the notebook, and no reader's progress is logged.
    """
    return is_validating() or STRICT in os.environ


def append_claim(**line: object) -> None:
    with open(os.environ[FILE], "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def not_measured(what: str, why: str) -> bool:
    """Report a measurement that a busy machine spoiled; False if no validation is running."""
    if not is_validating():
        return False
    missing.append(what)
    append_claim(measurement=what, reason=why)
    return True


def read_claims(path: Path) -> list[dict]:
    """The lines of a report, none when nothing was written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
