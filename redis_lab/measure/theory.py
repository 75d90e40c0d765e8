"""What hit ratio a cache should have, by formula.

Requests are independent of each other (the independent reference model): the next one is for key
k with probability `p[k]`, whatever came before. `size` is how many keys the cache holds. LRU,
FIFO and random eviction have no closed form, but an approximation that is very good: a key that
is not asked for stays about as long as any other, the *characteristic time* T, and T is such that
`size` keys are expected to be in the cache.

- Hao Che, Ye Tung, Zhijun Wang: Hierarchical web caching systems: modeling, design and
  experimental results. IEEE JSAC 20 (2002): the approximation for LRU.
- Christine Fricker, Philippe Robert, James Roberts: A versatile and accurate approximation for
  LRU cache performance (2012), arXiv:1202.3974: why it is so good; random eviction.
- Valentina Martina, Michele Garetto, Emilio Leonardi: A unified approach to the performance
  analysis of caching systems (2013), arXiv:1307.6702: FIFO and others. FIFO has the same hit
  ratio as random eviction (Gelenbe 1973).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize

from ..errors import LabError

__all__ = ["characteristic_time", "kept", "lfu", "lru", "random", "recently", "ttl"]


def __dir__() -> list[str]:
    return __all__


def recently(p: np.ndarray, time: float) -> np.ndarray:
    """For each key, the probability that it was asked for within the last `time` requests."""
    return -np.expm1(-np.asarray(p, dtype=float) * time)


def kept(p: np.ndarray, time: float) -> np.ndarray:
    """For each key, the share of time it is present if each stay lasts `time` requests on average.

    A stay begins with a miss and does not grow longer by hits: FIFO, random eviction, and a time
    to live that is set on a miss. Present for T, absent for 1/p until asked for again.
    """
    present = np.asarray(p, dtype=float) * time
    return present / (1 + present)


def _check(p: np.ndarray, size: float) -> np.ndarray:
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not len(p) or (p <= 0).any() or abs(p.sum() - 1) > 1e-6:
        raise LabError("The keys' probabilities must be positive and add up to one.")
    if not 0 <= size <= len(p):
        raise LabError(f"A cache for {len(p)} keys holds between 0 and {len(p)}, not {size}.")
    return p


def characteristic_time(
    p: np.ndarray, size: float, present: Callable[[np.ndarray, float], np.ndarray] = recently
) -> float:
    """Che's T, in requests: how long a key stays that nobody asks for.

    It solves `present(p, T).sum() == size`. Infinite for a cache that holds everything.

    Raises: LabError for what is no set of probabilities, or a size that does not fit it.
    """
    p = _check(p, size)
    if size == 0 or size == len(p):
        return 0.0 if size == 0 else float("inf")
    longest = 2.0 * size
    while present(p, longest).sum() < size:
        longest *= 2
    return optimize.brentq(lambda time: present(p, time).sum() - size, 0, longest, rtol=1e-12)


def by_stay(p: np.ndarray, size: float, present: Callable) -> float:
    p = _check(p, size)
    if size == len(p):
        return 1.0
    return float(p @ present(p, characteristic_time(p, size, present)))


def lru(p: np.ndarray, size: float) -> float:
    """Hit ratio of a cache that evicts the least recently used key (Che 2002).

    A request hits if its key was asked for within T: Σ p (1 − e^(−pT)).
    """
    return by_stay(p, size, recently)


def random(p: np.ndarray, size: float) -> float:
    """Hit ratio of a cache that evicts a key at random (Fricker 2012), or the oldest (FIFO).

    Σ p · pT / (1 + pT): each stay lasts T on average, however often its key is asked for.
    """
    return by_stay(p, size, kept)


def lfu(p: np.ndarray, size: int) -> float:
    """Hit ratio of a cache that knows every key's popularity and holds the most popular.

    No other cache that evicts without knowing the future does better under these requests.
    """
    p = _check(p, size)
    return float(np.sort(p)[::-1][: int(size)].sum())


def ttl(p: np.ndarray, per_second: float, ttl_s: float, *, refreshed: bool = False) -> float:
    """Hit ratio with a time to live and room for everything, at `per_second` requests in all.

    Set on a miss, a copy gives λT hits for every miss: h = λT / (1 + λT), with λ the key's own
    rate. Refreshed on every hit it lives until nobody asks for T: h = 1 − e^(−λT). (Martina 2013.)
    """
    p = _check(p, 0)
    if per_second < 0 or ttl_s < 0:
        raise LabError("Neither the rate nor the time to live can be negative.")
    return float(p @ (recently if refreshed else kept)(p, per_second * ttl_s))
