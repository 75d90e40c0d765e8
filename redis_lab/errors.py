"""The exception for everything that a user of the lab can fix."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

WIDTH = 80  # of printed text, because JupyterLab breaks longer lines in the middle of a word


def wrap_lines(text: str) -> str:
    """The text, with long lines broken between words; the continuation of a line is indented."""
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
    """The error for a name that `module` does not have; for an old name it says the new one.

    `renamed` maps each old name to the new one.
    """
    if new := renamed.get(name):
        return AttributeError(f"{module}.{name} is called {module}.{new} now.")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


class LabError(Exception):
    """An error that the user can fix; the message says what is wrong and how to fix it."""

    advice = ""
    """What to do next; added to the message in a notebook."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: only the message; a traceback through the lab would not help."""
        return wrap_lines(f"✗ {self} {self.advice}".rstrip()).splitlines()
