"""The progress of long work: one line, which is removed at the end."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from .. import claims, logbook

EVERY_S = 0.5  # between two updates, so that they do not disturb the measurement
Item = TypeVar("Item")


def show_progress(items: Sequence[Item], label: str, after_s: float = 1.0) -> Iterator[Item]:
    """Yield the items; meanwhile a line says how many are done and how long the rest will take.

    The line appears after `after_s` seconds. In a notebook it is a separate display, which is
    emptied at the end, even after an exception or an interrupt. In a terminal it is a bar on
    standard error. Nothing is shown when the lab itself runs a notebook, because the outputs are
    saved.
    """
    shell = logbook.shell()
    if claims.is_strict():
        yield from items
    elif getattr(shell, "kernel", None) is not None:
        yield from in_a_notebook(items, label, after_s)
    else:
        from tqdm import tqdm

        yield from tqdm(items, desc=label, leave=False, delay=after_s)


def in_a_notebook(items: Sequence[Item], label: str, after_s: float) -> Iterator[Item]:
    from IPython.display import DisplayHandle

    began = time.monotonic()
    line, due = DisplayHandle(), began + after_s
    displayed = False
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and now >= due:
                text = describe_progress(label, done, len(items), now - began)
                data = {"text/plain": text, "text/html": f"<small>{html.escape(text)}</small>"}
                (line.update if displayed else line.display)(data, raw=True)
                displayed, due = True, now + EVERY_S
            yield item
    finally:
        if displayed:
            line.update({}, raw=True)  # an empty display takes no space


def describe_progress(label: str, done: int, of: int, took_s: float) -> str:
    """Such as "GET: 40 %, about 7 s left"."""
    left_s = took_s / done * (of - done)
    left = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"
    return f"{label}: {done / of:.0%}, about {left} left".replace("%", " %", 1)
