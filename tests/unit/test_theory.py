"""The formulas for hit ratios: exact cases, bounds, and an independent exact simulator."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_lab.errors import LabError
from redis_lab.measure import theory
from redis_lab.measure.workload import Zipf

RULES = [theory.lru, theory.random, theory.lfu]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_and_everything(rule):
    p = Zipf(100, 0.9).probabilities
    assert rule(p, 0) == 0
    assert rule(p, 100) == pytest.approx(1)


@pytest.mark.parametrize("rule", RULES)
def test_all_asked_for_alike(rule):
    """Then every rule holds any `size` of the keys, and hits by their share."""
    assert rule(np.full(200, 1 / 200), 50) == pytest.approx(0.25)


def test_two_keys_and_room_for_one():
    """Exactly: LRU, FIFO and random all hold the key that was asked for last. Che is close."""
    p = np.array([0.8, 0.2])
    assert theory.lfu(p, 1) == 0.8
    for rule in (theory.lru, theory.random):
        assert rule(p, 1) == pytest.approx(0.8**2 + 0.2**2, abs=0.09)


def test_characteristic_time():
    p = Zipf(1000, 0.9).probabilities
    time = theory.characteristic_time(p, 100)
    assert theory.asked_within(p, time).sum() == pytest.approx(100)
    kept = theory.characteristic_time(p, 100, theory.share_present)
    assert theory.share_present(p, kept).sum() == pytest.approx(100)
    assert theory.characteristic_time(p, 0) == 0
    assert theory.characteristic_time(p, 1000) == float("inf")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 400),
    st.floats(0, 2),
    st.floats(0.01, 0.99),
)
def test_order_and_growth(n, exponent, share):
    """Random is never better than LRU, LRU never better than the most popular; more room is
    never worse."""
    p = Zipf(n, exponent).probabilities
    size = max(1, int(n * share))
    at = [rule(p, size) for rule in (theory.random, theory.lru, theory.lfu)]
    assert 0 < at[0] <= at[1] + 1e-9 and at[1] <= at[2] + 1e-9 and at[2] <= 1 + 1e-9
    if size < n:
        for rule, ratio in zip((theory.random, theory.lru, theory.lfu), at, strict=True):
            assert rule(p, size + 1) >= ratio - 1e-9


def test_time_to_live():
    one = np.array([1.0])
    assert theory.ttl(one, 3, 2) == pytest.approx(6 / 7)
    assert theory.ttl(one, 3, 2, refreshed=True) == pytest.approx(1 - np.exp(-6))
    assert theory.ttl(one, 3, 0) == theory.ttl(one, 0, 3) == 0
    p = Zipf(500, 0.9).probabilities
    ratios = [theory.ttl(p, 100, seconds) for seconds in (0.1, 1, 10, 100)]
    assert ratios == sorted(ratios)
    renewed = [theory.ttl(p, 100, seconds, refreshed=True) for seconds in (0.1, 1, 10, 100)]
    assert all(a < b for a, b in zip(ratios, renewed, strict=True))


def test_time_to_live_against_a_simulation():
    random = np.random.default_rng(4)
    p, rate, ttl_s = Zipf(50, 0.9).probabilities, 20.0, 2.0
    times = np.cumsum(random.exponential(1 / rate, 100_000))
    for refreshed in (False, True):
        ends, hits = np.full(50, -1.0), 0
        for time, key in zip(times, random.choice(50, len(times), p=p), strict=True):
            hit = time < ends[key]
            hits += hit
            if refreshed or not hit:
                ends[key] = time + ttl_s
        expected = theory.ttl(p, rate, ttl_s, refreshed=refreshed)
        assert hits / len(times) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("p", "size", "words"),
    [
        ([], 0, "positive and add up"),
        ([0.5, 0.4], 1, "positive and add up"),
        ([1.5, -0.5], 1, "positive and add up"),
        ([0.5, 0.5], -1, "between 0 and 2"),
        ([0.5, 0.5], 3, "between 0 and 2"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_what_makes_no_sense(rule, p, size, words):
    with pytest.raises(LabError, match=words):
        rule(np.array(p), size)


@pytest.mark.parametrize(("rate", "ttl_s"), [(-1, 1), (1, -1)])
def test_negative_times(rate, ttl_s):
    with pytest.raises(LabError, match="can be negative"):
        theory.ttl(np.array([1.0]), rate, ttl_s)


SIMULATED = {
    "LRU": (theory.lru, 0.003, 1),
    "FIFO": (theory.random, 0.003, 1),
    # Its generator cannot be seeded, and one cache alone is off by chance: the mean of several
    "Random": (theory.random, 0.005, 5),
}


@pytest.mark.skipif(sys.platform != "linux", reason="libcachesim has wheels for Linux only")
@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize(("exponent", "size"), [(0.7, 200), (0.9, 50), (0.9, 500), (1.2, 100)])
def test_against_an_exact_simulator(name, exponent, size, tmp_path):
    """libcachesim knows nothing of the formulas: it keeps a cache and counts."""
    simulator = pytest.importorskip("libcachesim")
    rule, tolerance, caches = SIMULATED[name]
    zipf = Zipf(2000, exponent, seed=7)
    file, warm = tmp_path / "requests", 100_000
    file.write_text("".join(f"{key}\n" for key in zipf.sample(400_000)))

    def misses(cache, first: int, count: int) -> float:
        options = simulator.ReaderInitParam(ignore_obj_size=True)  # each takes one place
        kind = simulator.TraceType.PLAIN_TXT_TRACE
        return cache.process_trace(simulator.TraceReader(str(file), kind, options), first, count)[0]

    hit_ratios = []
    for _ in range(caches):
        cache = getattr(simulator, name)(cache_size=size)
        assert misses(cache, 0, warm) < 1
        hit_ratios.append(1 - misses(cache, warm, -1))
    assert np.mean(hit_ratios) == pytest.approx(
        rule(zipf.probabilities, size), abs=tolerance + 0.002
    )


# ---------------------------------------------------------------- queues


def one_by_one(arrivals: np.ndarray, services: np.ndarray) -> float:
    """Mean response time where each reply leaves at once."""
    free = total = 0.0
    for arrival, service in zip(arrivals.tolist(), services.tolist(), strict=True):
        free = max(free, arrival) + service
        total += free - arrival
    return total / len(arrivals)


def by_turns(arrivals: np.ndarray, services: np.ndarray) -> float:
    """Mean response time of an event loop: who has come is executed, then all replies leave."""
    come, took = arrivals.tolist(), services.tolist()
    now, n, total = 0.0, 0, 0.0
    while n < len(come):
        now = max(now, come[n])
        batch = n
        while batch < len(come) and come[batch] <= now:
            batch += 1
        now += sum(took[n:batch])
        total += sum(now - arrival for arrival in come[n:batch])
        n = batch
    return total / len(come)


SERVICES = {
    "constant": lambda random, n: np.full(n, 0.001),
    "exponential": lambda random, n: random.exponential(0.001, n),
    "a tenth are long": lambda random, n: np.where(random.random(n) < 0.1, 0.0055, 0.0005),
}


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("services", SERVICES)
def test_queues_are_as_long_as_in_a_simulation(services, busy):
    random = np.random.default_rng(13)
    n, rate = 120_000, busy / 0.001
    arrivals = np.cumsum(random.exponential(1 / rate, n))
    took = SERVICES[services](random, n)
    moments = float(took.mean()), float(np.mean(took**2))
    fifo, turns = one_by_one(arrivals, took), by_turns(arrivals, took)
    assert theory.mg1(rate, *moments) == pytest.approx(fifo, rel=0.08)
    assert theory.batch(rate, *moments) == pytest.approx(turns, rel=0.08)
    if busy == 0.8:  # and the one formula is not the other queue
        assert turns > 1.15 * theory.mg1(rate, *moments)
        assert fifo < 0.87 * theory.batch(rate, *moments)
    if services == "constant":
        assert theory.md1(rate, 0.001) == pytest.approx(fifo, rel=0.08)
        assert theory.batch(rate, 0.001) == pytest.approx(turns, rel=0.08)


@pytest.mark.parametrize("queue", [theory.md1, theory.mg1, theory.batch])
def test_queues_at_their_ends(queue):
    assert queue(0, 0.002) == 0.002
    assert queue(500, 0.002) == queue(900, 0.002) == float("inf")
    times = [queue(rate, 0.002) for rate in range(0, 500, 50)]
    assert times == sorted(times)
    for wrong in ((-1, 0.001), (1, 0), (1, -0.1)):
        with pytest.raises(LabError):
            queue(*wrong)


def test_moments_that_cannot_be_are_refused():
    for queue in (theory.mg1, theory.batch):
        assert queue(100, 0.001, 0.001**2) == queue(100, 0.001)
        with pytest.raises(LabError, match="square"):
            queue(100, 0.001, 0.0009**2)


def test_the_knee_is_where_the_wait_is_as_long_as_the_service():
    for spread in (0, 0.5, 1, 2):
        response = theory.mg1(theory.knee(spread) / 0.002, 0.002, 0.002**2 * (1 + spread**2))
        assert response == pytest.approx(2 * 0.002)
    with pytest.raises(LabError):
        theory.knee(-1)


# ---------------------------------------------------------------- round trips


def test_a_pipeline_pays_the_distance_once():
    assert theory.pipelined(1, 0.002, 0.00001) == pytest.approx(0.00201)
    assert theory.pipelined(200, 0.002, 0.00001) == pytest.approx(2 * 0.00001)  # at the bend
    for wrong in ((0, 1, 1), (1, -1, 1), (1, 1, -1)):
        with pytest.raises(LabError):
            theory.pipelined(*wrong)


def test_a_cache_is_added_up_request_by_request():
    query, hit, fill = 0.005, 0.0005, 0.0006
    one_by_one = [hit] * 9 + [hit + query + fill]
    assert theory.cached(0.9, query, hit, fill) == pytest.approx(np.mean(one_by_one))
    needed = theory.break_even(query, hit, fill)
    assert theory.cached(needed, query, hit, fill) == pytest.approx(query)
    assert theory.break_even(0.0004, hit, fill) == theory.break_even(hit, hit, fill) == float("inf")
    for wrong in ((1.1, 1, 1, 1), (-0.1, 1, 1, 1), (0.5, -1, 1, 1)):
        with pytest.raises(LabError):
            theory.cached(*wrong)
    with pytest.raises(LabError):
        theory.break_even(1, -1, 1)


# ---------------------------------------------------------------- early recomputation


def expire(reads_per_s: float, took_s: float, beta: float, trials: int = 4000) -> np.ndarray:
    """For each of many expiries: when the first reader begins (s before the end), and how many do.

    What begins while another computes the value cannot know of it.
    """
    random = np.random.default_rng(17)
    start = 12 * beta * took_s  # so early that nobody has begun
    reads = int(1.5 * (start + 3 * took_s) * reads_per_s) + 30
    left = start - np.cumsum(random.exponential(1 / reads_per_s, (trials, reads)), axis=1)
    begins = -took_s * beta * np.log(1 - random.random((trials, reads))) >= left
    first = left[np.arange(trials), begins.argmax(axis=1)]
    meanwhile = (left <= first[:, None]) & (left > first[:, None] - took_s)
    assert (left[:, -1] < first - took_s).all()
    return np.array([first.clip(0), (begins & meanwhile).sum(axis=1)])


@pytest.mark.parametrize("beta", [0.7, 1, 2])
def test_xfetch_is_as_in_a_simulation(beta):
    leads, begun = expire(400, 0.05, beta)
    assert theory.xfetch_lead(400, 0.05, beta) == pytest.approx(leads.mean(), rel=0.05)
    assert theory.xfetch(beta) == pytest.approx(begun.mean(), rel=0.08)


def test_with_few_readers_xfetch_comes_too_late():
    leads, _ = expire(40, 0.05, 1)  # two reads in the time of one recomputation
    assert theory.xfetch_late(40, 0.05, 1) == pytest.approx((leads < 0.05).mean(), abs=0.05)
    assert theory.xfetch_lead(40, 0.05, 1) == pytest.approx(leads.mean(), rel=0.1)
    assert 0.3 < theory.xfetch_late(40, 0.05, 1) < 0.6
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        for formula in (theory.xfetch_lead, theory.xfetch_late):
            with pytest.raises(LabError):
                formula(*wrong)
    with pytest.raises(LabError):
        theory.xfetch(0)
