"""The exception for everything that a user of the lab can fix."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

WIDTH = 80  # of what is printed: JupyterLab cuts longer lines wherever they reach its edge


def wrap_lines(text: str) -> str:
    """The text in lines that end between two words; what follows a line's first is indented."""
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def explain_rename(module: str, name: str, renamed: Mapping[str, str]) -> AttributeError:
    """The error for a name that `module` does not have: the new name, for one of earlier versions.

    `renamed` gives the new name for each old one.
    """
    if new := renamed.get(name):
        return AttributeError(f"{module}.{name} is called {module}.{new} now.")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


class LabError(Exception):
    """The user can fix this; the message says what is wrong and how."""

    advice = ""
    """What to do next, where a notebook shows the message."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message alone. The lab's own lines would help nobody."""
        return wrap_lines(f"✗ {self} {self.advice}".rstrip()).splitlines()
