"""A wall clock that jumps, as one that an operator or NTP has set; monotonic clocks do not.

What is replaced is `time.time` and `time.time_ns`, also where the modules of the class have
imported them by name. `datetime.now()` reads the machine's clock itself, and is left alone.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["HOUR_S", "jumping"]

HOUR_S = 3600.0


@contextlib.contextmanager
def jumping(module: str, ahead_s: Callable[[], float]) -> Iterator[None]:
    """Let wall clocks be `ahead_s()` seconds ahead, which is asked at each reading.

    `module` is where the class is; names in the modules of the same package are replaced too.
    """
    real, real_ns = time.time, time.time_ns

    def shifted() -> float:
        return real() + ahead_s()

    def shifted_ns() -> int:
        return real_ns() + int(ahead_s() * 1e9)

    new = {real: shifted, real_ns: shifted_ns}
    package = module.partition(".")[0]
    places = [time.__dict__] + [
        vars(one) for name, one in list(sys.modules.items()) if name.partition(".")[0] == package
    ]
    replaced = [
        (names, name, value)
        for names in places
        for name, value in list(names.items())
        if value is real or value is real_ns
    ]
    try:
        for names, name, value in replaced:
            names[name] = new[value]
        yield
    finally:
        for names, name, value in replaced:
            names[name] = value
