"""What hit ratio a cache should have, and how long requests wait for a server, by formula.

Caches: `lru`, `random`, `lfu`, `ttl`. Requests are independent of each other (the independent
reference model): the next one is for key k with probability `p[k]`, whatever came before. `size` is
how many keys the cache holds. LRU, FIFO and random eviction have no closed form, but an
approximation that is very good: a key that is not asked for stays about as long as any other, the
*characteristic time* T, and T is such that `size` keys are expected to be in the cache.

- Hao Che, Ye Tung, Zhijun Wang: Hierarchical web caching systems: modeling, design and
  experimental results. IEEE JSAC 20 (2002): the approximation for LRU.
- Christine Fricker, Philippe Robert, James Roberts: A versatile and accurate approximation for
  LRU cache performance (2012), arXiv:1202.3974: why it is so good; random eviction.
- Valentina Martina, Michele Garetto, Emilio Leonardi: A unified approach to the performance
  analysis of caching systems (2013), arXiv:1307.6702: FIFO and others. FIFO has the same hit
  ratio as random eviction (Gelenbe 1973).

Queues: `md1`, `mg1`, `batch`. Requests arrive as a Poisson process, whatever has become of those
before, and one server answers them in their order. Each function gives the mean time from a
request's arrival to its reply; add the round trip. The server is busy for ρ = rate × service of
the time; from ρ = 1 on the queue grows without end.

- Felix Pollaczek: Über eine Aufgabe der Wahrscheinlichkeitstheorie. Mathematische Zeitschrift 32
  (1930); Alexander Khinchine (1932): the mean wait for any distribution of service times, M/G/1.
- Leonard Kleinrock: Queueing Systems, volume 1 (1975), section 5.6: the derivation.
- `batch` is derived in its docstring. Queues in which a server first closes the gate behind those
  who have come are *gated*: Hideaki Takagi, Queueing Analysis, volume 1 (1991).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import LabError

__all__ = [
    "batch",
    "characteristic_time",
    "kept",
    "lfu",
    "lru",
    "md1",
    "mg1",
    "random",
    "recently",
    "ttl",
]


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
    from scipy.optimize import brentq  # takes half a second to import

    longest = 2.0 * size
    while present(p, longest).sum() < size:
        longest *= 2
    return brentq(lambda time: present(p, time).sum() - size, 0, longest, rtol=1e-12)


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


# ---------------------------------------------------------------- queues


def _check_queue(rate_per_s: float, service_s: float, second_moment_s2: float | None) -> tuple:
    """ρ and the second moment, by default that of a constant service time. Raises: LabError."""
    second = service_s**2 if second_moment_s2 is None else second_moment_s2
    if rate_per_s < 0 or service_s <= 0:
        raise LabError("The rate cannot be negative, and a service takes some time.")
    if second < service_s**2 * (1 - 1e-9):
        raise LabError("The mean of the squares is at least the square of the mean.")
    return rate_per_s * service_s, second


def md1(rate_per_s: float, service_s: float) -> float:
    """Mean response time, in seconds, where every service takes equally long: S + ρS / (2(1 − ρ)).

    Infinite for a server that is asked for more than it can do. Raises: LabError for a negative
    rate or service time.
    """
    return mg1(rate_per_s, service_s)


def mg1(rate_per_s: float, service_s: float, second_moment_s2: float | None = None) -> float:
    """Mean response time, in seconds, by Pollaczek and Khinchine: S + λ E[S²] / (2(1 − ρ)).

    `service_s` is the mean of the service times S, `second_moment_s2` the mean of their squares
    (`np.mean(times**2)`; without it they are all alike). Each reply leaves as soon as its request
    has been executed. Infinite from ρ = 1 on. Raises: LabError for impossible moments.
    """
    busy, second = _check_queue(rate_per_s, service_s, second_moment_s2)
    if busy >= 1:
        return float("inf")
    return service_s + rate_per_s * second / (2 * (1 - busy))


def batch(rate_per_s: float, service_s: float, second_moment_s2: float | None = None) -> float:
    """Mean response time, in seconds, of a server that sends its replies at the end of each turn.

    An event loop like Redis's takes all requests that have come by the beginning of a turn,
    executes them, and writes the replies afterwards (`beforeSleep` and
    `handleClientsWithPendingWrites` in Redis's server.c and networking.c). So the first of a batch
    waits for the last: S + λ E[S²] (1/2 + ρ) / (1 − ρ²). Compared with `mg1` a request waits
    λ E[S²] ρ / (2(1 − ρ²)) longer.

    Derivation. A turn of length T gathers Poisson(λT) requests, and these make the next turn; where
    there are none, the server sleeps until one comes, whose turn is its service alone. Be p the
    share of turns that gather none. In equilibrium E[T] = ρ E[T] + p E[S], and
    E[T²] = λ E[S²] E[T] + ρ² E[T²] + p E[S²]; together E[T²]/E[T] = E[S²] / (E[S] (1 − ρ²)).
    A request finds the server busy with probability ρ. Then it waits for the rest of that turn,
    E[T²] / (2 E[T]) on average, and for the whole of its own: its service and those of the others
    that the turn gathers, S + ρ E[T²]/E[T]. Otherwise it takes S.

    Infinite from ρ = 1 on. Raises: LabError for impossible moments.
    """
    busy, second = _check_queue(rate_per_s, service_s, second_moment_s2)
    if busy >= 1:
        return float("inf")
    return service_s + rate_per_s * second * (0.5 + busy) / (1 - busy**2)
