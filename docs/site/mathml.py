"""A Sphinx extension: formulas as MathML, and commands of `%%redis` cells as plain text.

The browser draws MathML itself, so a formula needs no script and no font to be loaded.
"""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="math-block">{formula}</div>\n')
    raise nodes.SkipNode


def plain_commands(app: Sphinx, doctree: nodes.document) -> None:
    """Commands for the server are not Python, which the notebook's language says they are."""
    for block in doctree.findall(nodes.literal_block):
        if block.astext().startswith("%%redis"):
            block["language"] = "text"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.connect("doctree-read", plain_commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
