"""A Sphinx extension with what the lessons need and neither Sphinx nor the theme offers.

Formulas become MathML, which browsers draw without loading a script or a font.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[2]


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="math-block">{formula}</div>\n')
    raise nodes.SkipNode


def plain_commands(app: Sphinx, doctree: nodes.document) -> None:
    """Mark commands for the server as such, because the notebook's language is Python."""
    for block in doctree.findall(nodes.literal_block):
        if block.astext().startswith("%%redis"):
            block["language"] = "text"


def no_edit_button(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Remove the edit button from a page that is not a file of the same name in the repository."""
    suffix = context.get("page_source_suffix") or ""
    if not (ROOT / f"{page}{suffix}").is_file():
        context["page_source_suffix"] = ""


def draw_calculators(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """A megabyte of script, only for pages that have something to draw."""
    raw = doctree.findall(nodes.raw) if doctree else ()
    if any('class="calculator"' in node.astext() for node in raw):
        app.add_js_file("calculators.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.connect("doctree-read", plain_commands)
    app.connect("html-page-context", no_edit_button, priority=400)  # before the theme's buttons
    app.connect("html-page-context", draw_calculators)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
