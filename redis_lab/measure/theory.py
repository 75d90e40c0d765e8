"""Formulas for the hit ratio of a cache, for how long requests wait for a server, and for what a
round trip, a cache or an early recomputation costs.

Caches: `lru`, `random`, `lfu`, `ttl`. Requests are independent of each other (the independent
reference model): the next one is for key k with probability `p[k]`, whatever the earlier requests
were. `size` is how many keys the cache holds. LRU, FIFO and random eviction have no closed form,
but a very good approximation: every key that is not requested stays in the cache for about the same
time, the *characteristic time* T. T is chosen so that the expected number of keys in the cache is
`size`.

- Hao Che, Ye Tung, Zhijun Wang: Hierarchical web caching systems: modeling, design and
  experimental results. IEEE JSAC 20 (2002): the approximation for LRU.
- Christine Fricker, Philippe Robert, James Roberts: A versatile and accurate approximation for
  LRU cache performance (2012), arXiv:1202.3974: why it is so good; random eviction.
- Valentina Martina, Michele Garetto, Emilio Leonardi: A unified approach to the performance
  analysis of caching systems (2013), arXiv:1307.6702: FIFO and others. FIFO has the same hit
  ratio as random eviction (Gelenbe 1973).

Queues: `md1`, `mg1`, `batch`. Requests arrive as a Poisson process, independently of the replies,
and one server answers them in their order. Each function gives the mean time from a request's
arrival to its reply; add the round trip. The server is busy for ρ = rate × service of the time;
from ρ = 1 on the queue grows without end.

- Felix Pollaczek: Über eine Aufgabe der Wahrscheinlichkeitstheorie. Mathematische Zeitschrift 32
  (1930); Alexander Khinchine (1932): the mean wait for any distribution of service times, M/G/1.
- Leonard Kleinrock: Queueing Systems, volume 1 (1975), section 5.6: the derivation.
- `batch` is derived in its docstring. A queue whose server serves only the requests that were there
  when its turn began is called *gated*: Hideaki Takagi, Queueing Analysis, volume 1 (1991).

Round trips: `pipelined`, `cached` and `break_even`, from the lessons on pipelines and cache-aside.
Early recomputation: `xfetch`, `xfetch_lead` and `xfetch_late`.

- Andrea Vattani, Flavio Chierichetti, Keegan Lowenstein: Optimal probabilistic cache stampede
  prevention. PVLDB 8 (2015) 886: the rule. What is expected of it is derived below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import LabError, explain_rename

__all__ = [
    "asked_within",
    "batch",
    "break_even",
    "cached",
    "characteristic_time",
    "knee",
    "lfu",
    "lru",
    "md1",
    "mg1",
    "pipelined",
    "random",
    "share_present",
    "ttl",
    "xfetch",
    "xfetch_late",
    "xfetch_lead",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    raise explain_rename("theory", name, {"kept": "share_present", "recently": "asked_within"})


def asked_within(p: np.ndarray, time: float) -> np.ndarray:
    """For each key, the probability that it was asked for within the last `time` requests."""
    return -np.expm1(-np.asarray(p, dtype=float) * time)


def share_present(p: np.ndarray, time: float) -> np.ndarray:
    """For each key, the share of time that it is present, if each stay lasts `time` requests on
    average.

    A stay begins with a miss, and hits do not prolong it: FIFO, random eviction, and a time to live
    that is set on a miss. The key is present for T, and then absent for 1/p until its next request.
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
    p: np.ndarray, size: float, present: Callable[[np.ndarray, float], np.ndarray] = asked_within
) -> float:
    """Che's T, in requests: how long a key stays in the cache without being requested.

    It solves `present(p, T).sum() == size`. Infinite for a cache that holds everything.

    Raises: LabError if `p` is not a set of probabilities, or if `size` does not fit it.
    """
    p = _check(p, size)
    if size == 0 or size == len(p):
        return 0.0 if size == 0 else float("inf")
    from scipy.optimize import brentq  # takes half a second to import

    longest = 2.0 * size
    while present(p, longest).sum() < size:
        longest *= 2
    return brentq(lambda time: present(p, time).sum() - size, 0, longest, rtol=1e-12)


def _hit_ratio(p: np.ndarray, size: float, present: Callable) -> float:
    p = _check(p, size)
    if size == len(p):
        return 1.0
    return float(p @ present(p, characteristic_time(p, size, present)))


def lru(p: np.ndarray, size: float) -> float:
    """Hit ratio of a cache that evicts the least recently used key (Che 2002).

    A request hits if its key was asked for within T: Σ p (1 − e^(−pT)).
    """
    return _hit_ratio(p, size, asked_within)


def random(p: np.ndarray, size: float) -> float:
    """Hit ratio of a cache that evicts a key at random (Fricker 2012), or the oldest (FIFO).

    Σ p · pT / (1 + pT): each stay lasts T on average, however often the key is requested.
    """
    return _hit_ratio(p, size, share_present)


def lfu(p: np.ndarray, size: int) -> float:
    """Hit ratio of a cache that knows every key's popularity and holds the most popular.

    No other cache that evicts without knowing the future does better under these requests.
    """
    p = _check(p, size)
    return float(np.sort(p)[::-1][: int(size)].sum())


def ttl(p: np.ndarray, per_second: float, ttl_s: float, *, refreshed: bool = False) -> float:
    """Hit ratio with a time to live and no limit of size, at `per_second` requests in all.

    If it is set on a miss only, a copy gives λT hits for every miss: h = λT / (1 + λT), where λ is
    the key's own rate. If every hit refreshes it, a copy expires only after T without a request: h
    = 1 − e^(−λT). (Martina 2013.)
    """
    p = _check(p, 0)
    if per_second < 0 or ttl_s < 0:
        raise LabError("Neither the rate nor the time to live can be negative.")
    return float(p @ (asked_within if refreshed else share_present)(p, per_second * ttl_s))


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
    """Mean response time, in seconds, if all service times are equal: S + ρS / (2(1 − ρ)).

    Infinite if the server gets more requests than it can execute. Raises: LabError for a negative
    rate or service time.
    """
    return mg1(rate_per_s, service_s)


def mg1(rate_per_s: float, service_s: float, second_moment_s2: float | None = None) -> float:
    """Mean response time, in seconds, by Pollaczek and Khinchine: S + λ E[S²] / (2(1 − ρ)).

    `service_s` is the mean of the service times S, `second_moment_s2` the mean of their squares
    (`np.mean(times**2)`; without it, all service times are equal). Each reply leaves as soon as its
    request has been executed. Infinite from ρ = 1 on. Raises: LabError for impossible moments.
    """
    busy, second = _check_queue(rate_per_s, service_s, second_moment_s2)
    if busy >= 1:
        return float("inf")
    return service_s + rate_per_s * second / (2 * (1 - busy))


def batch(rate_per_s: float, service_s: float, second_moment_s2: float | None = None) -> float:
    """Mean response time, in seconds, of a server that sends its replies at the end of each turn.

    An event loop like that of Redis takes all requests that have arrived by the beginning of a
    turn, executes them, and writes the replies afterwards (`beforeSleep` and
    `handleClientsWithPendingWrites` in Redis's server.c and networking.c). So the first of a batch
    waits for the last: S + λ E[S²] (1/2 + ρ) / (1 − ρ²). Compared with `mg1` a request waits λ
    E[S²] ρ / (2(1 − ρ²)) longer.

    Derivation. A turn of length T gathers Poisson(λT) requests, and these make the next turn; if
    there are none, the server sleeps until a request comes, and the next turn is the service of
    that request alone. Let p be the share of turns that gather none. In equilibrium E[T] = ρ E[T] +
    p E[S], and E[T²] = λ E[S²] E[T] + ρ² E[T²] + p E[S²]; together E[T²]/E[T] = E[S²] / (E[S] (1 −
    ρ²)). A request finds the server busy with probability ρ. Then it waits for the rest of that
    turn, E[T²] / (2 E[T]) on average, and for the whole of its own turn: its own service and that
    of the other requests in the turn, S + ρ E[T²]/E[T]. Otherwise it takes S.

    Infinite from ρ = 1 on. Raises: LabError for impossible moments.
    """
    busy, second = _check_queue(rate_per_s, service_s, second_moment_s2)
    if busy >= 1:
        return float("inf")
    return service_s + rate_per_s * second * (0.5 + busy) / (1 - busy**2)


def knee(spread: float = 0) -> float:
    """How busy a server is (0 to 1) when a request waits, on average, as long as it is served.

    `spread` is the standard deviation of the service times divided by their mean. By `mg1`,
    ρ (1 + spread²) / (2(1 − ρ)) = 1: two thirds for equal times, one half for exponential ones.
    Raises: LabError for a negative spread.
    """
    if spread < 0:
        raise LabError("A standard deviation cannot be negative.")
    return 2 / (3 + spread**2)


# ---------------------------------------------------------------- round trips


def pipelined(depth: float, rtt_s: float, service_s: float) -> float:
    """Seconds for each command in a pipeline of `depth`: RTT ÷ depth + service.

    With `depth` 1 it is a loop of single commands. Raises: LabError for a depth below 1 or a
    negative time.
    """
    if depth < 1 or rtt_s < 0 or service_s < 0:
        raise LabError("A pipeline has at least one command, and no time is negative.")
    return rtt_s / depth + service_s


def cached(hit_ratio: float, query_s: float, hit_s: float, fill_s: float) -> float:
    """Mean seconds for an answer through a cache: h · hit + (1 − h) · (hit + query + fill).

    A miss looks first, which takes as long as a hit, then asks the database (`query_s`), then
    stores the copy (`fill_s`). Raises: LabError for a ratio beyond 0 to 1 or a negative time.
    """
    if not 0 <= hit_ratio <= 1 or min(query_s, hit_s, fill_s) < 0:
        raise LabError("A hit ratio is between 0 and 1, and no time is negative.")
    return hit_s + (1 - hit_ratio) * (query_s + fill_s)


def break_even(query_s: float, hit_s: float, fill_s: float) -> float:
    """From which hit ratio on `cached` is faster than the query alone; infinite if it never is.

    Raises: LabError for a negative time.
    """
    if min(query_s, hit_s, fill_s) < 0:
        raise LabError("No time is negative.")
    return (hit_s + fill_s) / (query_s + fill_s) if hit_s < query_s else float("inf")


# ---------------------------------------------------------------- early recomputation


def _check_xfetch(beta: float, reads_per_s: float = 1, took_s: float = 1) -> float:
    """a = λβΔ: how many reads are expected to recompute before the end, if none replaces the value.

    With t left a read recomputes with probability e^(−t/βΔ); λ times that, summed up over t, is a.
    Raises: LabError for what is not positive.
    """
    if beta <= 0 or reads_per_s <= 0 or took_s <= 0:
        raise LabError("β, the rate of reads and the time of a recomputation must be positive.")
    return reads_per_s * beta * took_s


def xfetch(beta: float) -> float:
    """How many readers recompute a value each time it expires, with many readers: e^(1/β).

    The first begins when the number expected to have begun, a e^(−t/βΔ), reaches an exponential
    random number E of mean 1. It takes Δ, and meanwhile that number grows by the factor e^(1/β):
    1 + E (e^(1/β) − 1). Raises: LabError for a β that is not positive.
    """
    _check_xfetch(beta)
    return float(np.exp(1 / beta))


def xfetch_lead(reads_per_s: float, took_s: float, beta: float) -> float:
    """How long before the end the first reader begins to recompute, in seconds, on average.

    It begins with more than t left with probability 1 − exp(−a e^(−t/βΔ)), a = λβΔ. Summed up over
    t from 0 on: βΔ (ln a + γ + E₁(a)), with γ = 0.5772 and the exponential integral E₁, which is
    nothing from a = 5 on. (Of the times at which nobody begins, 0 is counted.)
    Raises: LabError for what is not positive.
    """
    from scipy.special import exp1  # scipy takes half a second to import

    a = _check_xfetch(beta, reads_per_s, took_s)
    return float(beta * took_s * (np.log(a) + np.euler_gamma + exp1(a)))


def xfetch_late(reads_per_s: float, took_s: float, beta: float) -> float:
    """The share of expiries at which the new value is not there in time, from 0 to 1.

    It is in time if some reader begins with more than Δ left: exp(−a e^(−1/β)), a = λβΔ.
    Raises: LabError for what is not positive.
    """
    return float(np.exp(-_check_xfetch(beta, reads_per_s, took_s) * np.exp(-1 / beta)))
