"""The drill's adversaries, and scripts that use only a copy of one pattern's file."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import redis_lab.patterns
from redis_lab.drill.faults import FINE, LOST, Flaky, Migration, deliver, flaky, undeclared

__all__ = ["FINE", "LOST", "Flaky", "Migration", "alone", "deliver", "flaky", "undeclared"]

LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {file!r})
sys.modules["alone"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["alone"])
assert "redis_lab" not in sys.modules
"""


def alone(pattern: str, body: str) -> list[str]:
    """A script that imports, of the lab, only a copied pattern's file, as `alone`."""
    file = Path(redis_lab.patterns.__file__).parent / f"{pattern}.py"
    return [sys.executable, "-c", LOAD.format(file=str(file)) + textwrap.dedent(body)]
