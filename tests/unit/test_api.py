"""The API reference (`make docs`): what is public has a docstring, and the page shows it."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # slow to import
    import pdoc.doc

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs/api.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(api) -> dict[str, pdoc.doc.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return api.documented()


def public(page: pdoc.doc.Module) -> Iterator[pdoc.doc.Doc]:
    """Functions and classes that a module names in `__all__`, and the methods of these classes."""
    for name in getattr(page.obj, "__all__", ()):
        value = getattr(page.obj, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue  # a module has a page of its own; a comment explains a constant
        member = page.get(name)
        assert member is not None, f"{page.fullname}.{name} is in __all__ and not on the page"
        yield member
        if member.kind == "class":
            for method in member.own_members:
                hidden = method.name.startswith("_")
                if method.kind == "function" and not hidden:
                    yield method


def test_what_is_public_has_a_docstring(pages):
    silent = {page.fullname for page in pages.values() if not page.docstring}
    silent |= {
        member.fullname
        for page in pages.values()
        for member in public(page)
        if not member.docstring
    }
    assert not silent


def test_what_a_public_class_inherits_is_on_a_page_too(pages):
    """pdoc only names an inherited method; its text is where its class is."""
    classes = {
        (page.fullname, member.qualname)
        for page in pages.values()
        for member in public(page)
        if member.kind == "class"
    }
    assert classes
    homeless = {
        f"{cls}.{method.name}, of {module}.{base}"
        for (of, cls) in classes
        for (module, base), methods in pages[of].get(cls).inherited_members.items()
        for method in methods
        if module.startswith("redis_lab") and (module, base) not in classes
        if method.kind == "function" and not {method.name[0], base[0]} & {"_"}
    }
    assert not homeless


def test_what_the_package_offers_can_be_found(pages):
    """Every module can be reached from the first page, and what `__all__` names is on a page."""
    import pdoc

    pdoc.render.configure(docformat="markdown", include_undocumented=False, show_source=False)
    for package in (name for name, page in pages.items() if page.is_package):
        folder = package.rpartition(".")[2]
        html = pdoc.render.html_module(pages[package], pages)
        below = [name for name in pages if name.rpartition(".")[0] == package]
        assert not [m for m in below if f'href="{folder}/{m.rpartition(".")[2]}.html"' not in html]
        if package == "redis_lab":
            assert not [
                m.fullname for m in public(pages[package]) if f'id="{m.qualname}"' not in html
            ]
    offered = [getattr(pages["redis_lab"].obj, name) for name in pages["redis_lab"].obj.__all__]
    assert {value.__name__ for value in offered if isinstance(value, ModuleType)} <= set(pages)
