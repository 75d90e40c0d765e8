"""A pattern's file, loaded from its path as if it had been copied out of this repository."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PATTERNS = Path(__file__).parent.parent / "redis_lab" / "patterns"


def loading(name: str) -> str:
    """The lines of a script that load `patterns/<name>.py` as the module `pattern`."""
    return f"""
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("pattern", {str(PATTERNS / f"{name}.py")!r})
    pattern = sys.modules["pattern"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pattern)
    """


def foreign_imports(name: str) -> set[str]:
    """The modules that the file imports, except redis-py and the standard library."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PATTERNS / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found - {"redis"} - sys.stdlib_module_names


NO_NUMBERS = (True, False, float("nan"), float("inf"), -1, 10**17, "1", None)
