"""The examples in the docstrings of the patterns do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from redis_lab import patterns

NAMES = sorted(module.name for module in pkgutil.iter_modules(patterns.__path__))


@pytest.mark.parametrize("name", NAMES)
def test_the_docstrings(name, r):
    module = importlib.import_module(f"{patterns.__name__}.{name}")
    found = doctest.DocTestFinder().find(module, extraglobs={"r": r})
    ran = [test for test in found if test.examples]
    assert ran
    for test in ran:  # each begins with an empty server
        r.flushall()
        assert doctest.DocTestRunner().run(test).failed == 0, test.name
