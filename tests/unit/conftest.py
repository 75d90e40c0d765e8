"""Tests that need no server: `make test UNIT=servers` leaves them out, so none may start one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redis_lab.child import Child


@pytest.fixture(autouse=True, scope="module")
def _no_server() -> Iterator[None]:
    """A module's own, so that it comes before the modules' servers, such as `lab`."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("A test in tests/unit starts a process; it belongs into tests/.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Child, "__init__", refuse)
        yield
