"""The requests of users: which key, when, and how large its value is. All is seeded."""

from __future__ import annotations

import numpy as np

from ..errors import LabError
from ..source import zipf_probabilities

__all__ = ["Zipf", "payload", "poisson_arrivals"]


def __dir__() -> list[str]:
    return __all__


class Zipf:
    """Requests for `n` keys; the key of rank k has a probability proportional to 1 / k**exponent.

    `probabilities` holds them in rank order. The same seed gives the same requests.
    """

    def __init__(self, n: int, exponent: float, seed: int = 0) -> None:
        self.probabilities = zipf_probabilities(n, exponent)
        self._cumulative = self.probabilities.cumsum()
        self._random = np.random.default_rng(seed)

    def sample(self, size: int) -> np.ndarray:
        """`size` ranks between 1 and n, as int64."""
        if size < 0:
            raise LabError(f"A sample cannot have {size} elements.")
        uniform = self._random.random(size) * self._cumulative[-1]
        return np.searchsorted(self._cumulative, uniform, side="right") + 1


def poisson_arrivals(rate_per_s: float, duration_s: float, seed: int = 0) -> np.ndarray:
    """Arrival times in seconds from zero, in order, of a Poisson process.

    For a given number of them, the arrivals are uniform over the interval.
    """
    if rate_per_s <= 0 or duration_s <= 0:
        raise LabError("Arrivals need a positive rate and a positive duration.")
    random = np.random.default_rng(seed)
    return np.sort(random.random(random.poisson(rate_per_s * duration_s)) * duration_s)


def payload(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    if size_bytes < 0:
        raise LabError(f"A payload cannot have {size_bytes} bytes.")
    return np.random.default_rng(seed).bytes(size_bytes)
