"""The drills' counts: a table at the end of `make drills`, and a file to commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
import redis

from redis_lab.errors import LabError
from redis_lab.measure.results import cpu_model
from redis_lab.servers.choose import choose_kind

Figures = dict[str, Mapping[str, object]]  # the counts, by drill


def environment() -> dict[str, str]:
    """The machine on which the drills ran."""
    try:
        kind, _ = choose_kind()
        server = f"{kind.probe()[1]} ({kind})"
    except LabError as error:
        server = str(error)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "server": server,
        "Python": platform.python_version(),
        "redis-py": redis.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{cpu_model()}, {psutil.cpu_count()} cores",
        "commit": commit or "unknown",
        "date": datetime.now(UTC).date().isoformat(),
    }


def lines(figures: Figures) -> list[tuple[str, str]]:
    """A line for each drill: its name, and "60 kills, 0 jobs lost"."""
    return [
        (name, ", ".join(f"{shown(value)} {what.replace('_', ' ')}" for what, value in of.items()))
        for name, of in sorted(figures.items())
    ]


def shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def page(figures: Figures, not_run: int) -> str:
    """The whole table as Markdown."""
    text = "# What the drills counted\n\n"
    text += (
        "One run of `make drills`, written by it (`FIGURES=`); do not edit it. Each drill fails "
    )
    text += "where one of these counts is not what it should be.\n\n| | |\n| --- | --- |\n"
    text += "".join(f"| {name} | {what} |\n" for name, what in environment().items())
    text += f"| drills | {len(figures)} reported here, {not_run} not run |\n"
    text += "\n| drill | counted |\n| --- | --- |\n"
    text += "".join(f"| `{name}` | {counted} |\n" for name, counted in lines(figures))
    return text


if __name__ == "__main__":
    sys.exit("This is a part of the tests: make drills FIGURES=data/drills.md")
