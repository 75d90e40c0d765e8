"""When a run is valid; an invalid run is rejected or repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, cast

import psutil

from .. import claims
from ..claims import NOT_MEASURED
from ..errors import LabError

TRIES = 3
CALM_PERCENT = 50.0  # of all cores in use; below it a measurement is tried again at once
CALM_WITHIN_S = 3.0
Measured = TypeVar("Measured")


class InvalidRun(LabError):
    """The run broke one of its own invariants, so its numbers mean nothing."""

    advice = "The numbers of this run mean nothing: run the cell that measures again."


class TooBusy(InvalidRun):
    """Other processes used so much of the machine that the times mean nothing. `found` is the
    measurement; its counts are valid, its times are not.
    """

    def __init__(self, why: str, found: object = None) -> None:
        super().__init__(why)
        self.found = found


def retry_while_busy(measure: Callable[[], Measured], what: str) -> Measured:
    """The result of `measure`, which is called up to three times while the machine is too busy.
    Each further try waits until less than half of the machine is in use, for at most a few seconds.
    Under `redis-lab validate` a measurement that fails three times does not stop the notebook: it
    is reported as not measured, and so are the claims that depend on times.

    Raises: TooBusy.
    """
    for left in reversed(range(TRIES)):
        try:
            return measure()
        except TooBusy as spoilt:
            if left:
                wait_until_calm()
            elif claims.not_measured(what, str(spoilt)):
                return cast(Measured, spoilt.found)
            else:
                raise TooBusy(
                    f"{what}: {NOT_MEASURED}. {spoilt} It was tried {TRIES} times. Close what else "
                    "is running and try again.",
                    spoilt.found,
                ) from None
    raise AssertionError("unreachable")


def is_busy() -> bool:
    """Whether more than half of the machine's cores are in use while this process waits."""
    return psutil.cpu_percent(interval=0.2) > CALM_PERCENT


def wait_until_calm() -> None:
    """Wait until the machine is no longer busy, for `CALM_WITHIN_S` seconds at most."""
    deadline = time.monotonic() + CALM_WITHIN_S
    while is_busy() and time.monotonic() < deadline:
        pass
