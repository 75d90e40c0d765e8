"""Tests that need no server: `make test UNIT=servers` leaves them out, so none may start one."""

from __future__ import annotations

import pytest

from redis_lab.server import Keeper


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("A test in tests/unit starts a server; it belongs into tests/.")

    monkeypatch.setattr(Keeper, "__init__", refuse)
