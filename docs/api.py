"""Write the API reference from the docstrings of redis_lab: `make docs`.

    python docs/api.py build/docs

pdoc renders the public modules. A warning of pdoc is an error here, because a name or an annotation
that pdoc cannot resolve would be missing from the page, or wrong.
"""

from __future__ import annotations

import pkgutil
import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pdoc.doc
import pdoc.render

import redis_lab

# Their functions judge the answers to exercises; users do not call them.
LEFT_OUT = ("redis_lab.lessons",)


# How a paragraph of a docstring begins: each of these gets a paragraph of its own on the page.
LABEL = re.compile(
    r"^(Contract|Promise|NOT KEPT|NOT kept|Sent again|When Redis is away|Keys|Cost|Tested from|ACL"
    r"|Prevents|Attributes|Returns|Raises)(:| Redis \d)",
    flags=re.M,
)


def modules() -> list[str]:
    """Names of the public modules: no part of the name begins with an underscore."""
    found = [name for _, name, _ in pkgutil.walk_packages(redis_lab.__path__, "redis_lab.")]
    public = [name for name in found if "._" not in name and not name.startswith(LEFT_OUT)]
    return [redis_lab.__name__, *sorted(public)]


def documented() -> dict[str, pdoc.doc.Module]:
    """The public modules as pdoc sees them, by name."""
    for name in redis_lab.__all__:  # some are loaded on first use, which pdoc cannot see
        vars(redis_lab)[name] = getattr(redis_lab, name)
    pages = {name: pdoc.doc.Module.from_name(name) for name in modules()}
    for name, page in pages.items():  # pdoc links only the modules that __all__ names
        page.submodules = [pages[other] for other in pages if other.rpartition(".")[0] == name]
        set_paragraphs(page)
    return pages


def set_paragraphs(page: pdoc.doc.Namespace) -> None:
    """Give each labelled part of the docstrings in a module or class a paragraph of its own."""
    page.docstring = LABEL.sub(r"\n**\1**\2", page.docstring)
    for member in page.own_members:
        if isinstance(member, pdoc.doc.Namespace):
            set_paragraphs(member)
        else:
            member.docstring = LABEL.sub(r"\n**\1**\2", member.docstring)


def no_lost_links(html: str) -> str:
    """A page without links to private names, which pdoc leaves out."""
    anchors = set(re.findall(r'\bid="([^"]+)"', html))
    return re.sub(
        r'<a href="#([^"]+)">([^<]*)</a>', lambda m: m[0] if m[1] in anchors else m[2], html
    )


def write(folder: Path) -> None:
    """Write a page for each module, an index and the search index."""
    pages = documented()
    pdoc.render.configure(
        docformat="markdown",
        include_undocumented=False,
        footer_text=f"redis-lab {version('redis-lab')}",
    )
    for name, module in pages.items():
        page = folder / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(no_lost_links(pdoc.render.html_module(module, pages)), encoding="utf-8")
    (folder / "index.html").write_text(pdoc.render.html_index(pages), encoding="utf-8")
    (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    write(Path(sys.argv[1]))
    print(f"Written: {sys.argv[1]}/index.html")
