"""What users do: distributions that are known, the same again for the same seed."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from scipy import stats

from redis_lab import source
from redis_lab.errors import LabError
from redis_lab.measure.workload import Zipf, payload, poisson_arrivals


@pytest.mark.parametrize("exponent", [0, 0.9, 1, 1.5])
def test_zipf_probabilities_are_known(exponent):
    chance = Zipf(1000, exponent).probabilities
    assert chance.shape == (1000,)
    assert chance.sum() == pytest.approx(1, abs=1e-12)
    ranks = np.arange(1, 1001)
    assert chance / chance[0] == pytest.approx(ranks ** -float(exponent), rel=1e-12)


@pytest.mark.parametrize("exponent", [0, 0.9, 1.5])
def test_samples_follow_the_probabilities(exponent):
    zipf = Zipf(100, exponent, seed=3)
    sample = zipf.sample(100_000)
    assert sample.dtype == np.int64
    assert sample.min() >= 1 and sample.max() <= 100
    seen = np.bincount(sample, minlength=101)[1:]
    assert stats.chisquare(seen, zipf.probabilities * len(sample)).pvalue > 1e-6


def test_one_thing_is_always_asked_for():
    assert Zipf(1, 1).sample(10).tolist() == [1] * 10
    assert Zipf(5, 1).sample(0).tolist() == []


def test_the_shop_and_the_workload_mean_the_same_popularity():
    assert np.array_equal(Zipf(200, source.EXPONENT).probabilities, source.popularity(200))


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: Zipf(1000, 0.9, seed).sample(100).tolist(),
        lambda seed: poisson_arrivals(50, 10, seed).tolist(),
        lambda seed: payload(100, seed),
    ],
    ids=["zipf", "arrivals", "payload"],
)
def test_a_seed_repeats_and_another_differs(draw):
    assert draw(1) == draw(1) != draw(2)


def test_a_sample_goes_on_where_the_last_one_stopped():
    halves, whole = Zipf(1000, 0.9, seed=1), Zipf(1000, 0.9, seed=1)
    assert [*halves.sample(50), *halves.sample(50)] == whole.sample(100).tolist()


def test_arrivals_are_a_poisson_process():
    at = poisson_arrivals(rate_per_s=100, duration_s=1000, seed=5)
    assert at.dtype == np.float64
    assert at.min() >= 0 and at.max() < 1000
    assert (np.diff(at) >= 0).all()
    # The count's standard deviation is the root of 100,000.
    assert abs(len(at) - 100_000) < 5 * 100_000**0.5
    per_second = np.bincount(at.astype(int), minlength=1000)
    # Variance over mean is 1 for Poisson counts; 1,000 seconds leave a spread of 0.045.
    assert per_second.var() / per_second.mean() == pytest.approx(1, abs=0.25)
    assert stats.kstest(np.diff(at), stats.expon(scale=1 / 100).cdf).pvalue > 1e-6


def test_a_payload_has_its_size_and_does_not_compress():
    assert [len(payload(n)) for n in (0, 1, 4096)] == [0, 1, 4096]
    assert len(zlib.compress(payload(10_000), 9)) >= 10_000


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Zipf(0, 1),
        lambda: Zipf(10, -0.1),
        lambda: Zipf(10, 1).sample(-1),
        lambda: poisson_arrivals(0, 1),
        lambda: poisson_arrivals(-1, 1),
        lambda: poisson_arrivals(1, 0),
        lambda: payload(-1),
    ],
)
def test_what_makes_no_sense_is_refused(ask):
    with pytest.raises(LabError):
        ask()


def test_an_exponent_is_a_number():
    with pytest.raises(LabError):
        Zipf(10, float("nan"))
