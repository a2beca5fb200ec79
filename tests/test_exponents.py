"""Intervals for exponents of a system contain them as often as they say, for growth that is known to the last term."""

from itertools import product

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom

from kpref.spectra.exponents import Stretch, TooShort, exponent_estimates
from tests.conftest import in_turn

GAPS = np.array([0.5, 0.0, -0.6])
SEEDS = 120


def stretch(increments, start=None, transient=None, steps=1.0):
    """Of growth (B, C, K) in each interval, after the frame's transient (C + 1, K)."""
    growth = np.concatenate([np.zeros_like(increments[:, :1]), np.cumsum(increments, axis=1)], axis=1)
    if transient is not None:
        growth = growth + transient
    times = steps * np.arange(growth.shape[1])
    return Stretch(times, growth, np.zeros((len(growth), growth.shape[2])), start, 1)


def alignment(rng, intervals):
    """What a frame gains while it aligns with directions that come apart by exp(0.5 t): its first angle is random."""
    tangent = np.abs(rng.standard_cauchy())
    gained = 0.5 * np.log1p(tangent**2 * np.exp(-1.0 * np.arange(intervals + 1)))
    return (gained - gained[0])[:, None] * np.array([-1.0, 1.0, 0.0])


def normal(rng, trials, intervals):
    return GAPS + 0.7 * rng.standard_normal((trials, intervals, 3))


def correlated(rng, trials, intervals, memory=0.7):
    noise = (1 - memory**2) ** 0.5 * rng.standard_normal((trials, intervals + 100, 3))
    return GAPS + 0.5 * lfilter([1.0], [1.0, -memory], noise, axis=1)[:, 100:]


def shared(rng, trials, intervals):
    return np.repeat(normal(rng, 1, intervals), trials, axis=0)


def anticorrelated(rng, trials, intervals):
    """Differences of independent numbers, beside a little that adds up: as of chaotic flows."""
    noise = rng.standard_normal((trials, intervals + 1, 3))
    return GAPS + np.diff(noise, axis=1) + 0.1 * rng.standard_normal((trials, intervals, 3))


def differing(rng, trials, intervals):
    """Each trial has an exponent of its own: the mean over such trials is meant."""
    return normal(rng, trials, intervals) + 0.3 * rng.standard_normal((trials, 1, 3))


CASES = {
    "one trial": (normal, 1, 120),
    "three trials": (normal, 3, 120),
    "many trials": (normal, 20, 60),
    "correlated": (correlated, 1, 800),
    "correlated trials": (correlated, 16, 200),
    "shared noise": (shared, 12, 150),
    "shared noise, few records": (shared, 12, 45),
    "anticorrelated": (anticorrelated, 16, 150),
    "differing trials": (differing, 12, 100),
}


@pytest.mark.parametrize("name, start", in_turn(product(CASES, (None, 20)), 3))
def test_coverage(name, start):
    make, trials, intervals = CASES[name]
    values, ends = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, trials])
        increments = make(rng, trials, intervals)
        try:
            found = exponent_estimates(stretch(increments, start, alignment(rng, intervals)), 3)
        except TooShort:
            continue
        values.append([estimate.value for estimate in found])
        ends.append([estimate.interval() for estimate in found])
    low, high = np.moveaxis(np.array(ends), 2, 0)
    assert len(low) > 0.8 * SEEDS
    covered = ((low <= GAPS) & (GAPS <= high)).sum(axis=0)
    # One of 54 tests of true intervals fails with a chance of 1e-3; intervals that cover 85 % do nearly always.
    assert (binom.cdf(covered, len(low), 0.95) > 2e-5).all()
    ideal = 2 * 1.96 * np.std(values, axis=0)
    assert (np.median(high - low, axis=0) < 1.5 * ideal).all()


def test_a_slow_alignment_is_in_the_interval():
    """Directions that come apart by 0.01 a step, over 300 steps: one frame never shows what it still has to gain."""
    rates = np.array([0.01, 0.0])
    for tangent in (0.5, 3.0, 15.0):
        gained = 0.5 * np.log1p(tangent**2 * np.exp(-0.02 * np.arange(301)))
        exact = np.arange(301)[:, None] * rates + (gained - gained[0])[:, None] * np.array([1.0, -1.0])
        for start in (None, 0, 100):
            found = exponent_estimates(Stretch(np.arange(301.0), exact[None], np.zeros((1, 2)), start, 1), 2)
            for estimate, rate in zip(found, rates, strict=True):
                low, high = estimate.interval()
                assert low <= rate <= high


def test_periodic_growth_is_covered_by_its_range():
    phase = np.arange(200)
    for period in (2, 7, 31.4):
        oscillation = np.sin(2 * np.pi * phase / period)
        for first in range(0, 40, 7):
            part = 0.3 + np.diff(oscillation)[None, first:, None]
            low, high = exponent_estimates(stretch(part), 1)[0].interval()
            assert low <= 0.3 <= high
            assert high - low < 0.2


def test_equal_exponents_that_order_drives_apart():
    """Of two equal exponents the larger sum comes first: it is too large on average, and its interval says so."""
    covered = 0
    for seed in range(SEEDS):
        sums = np.cumsum(np.random.default_rng(seed).standard_normal((1, 200, 2)), axis=1)
        ordered = np.sort(sums, axis=2)[:, :, ::-1]
        growth = np.concatenate([np.zeros((1, 1, 2)), ordered], axis=1)
        found = exponent_estimates(Stretch(np.arange(201.0), growth, np.zeros((1, 2)), None, 1), 2)
        covered += all(low <= 0 <= high for low, high in (estimate.interval() for estimate in found))
    assert covered > 0.9 * SEEDS


@pytest.mark.parametrize("powers", [(1, -1), (2, 0, -2)])
@pytest.mark.parametrize("first", [None, 10, 40])
def test_lengths_that_come_apart_by_a_power_of_time(powers, first):
    """Jordan blocks of a constant map: one exponent, log t more or less of growth; nothing fluctuates."""
    times = np.arange(201.0)
    growth = -0.1 * times[:, None] + np.log1p(times)[:, None] * powers
    found = exponent_estimates(
        Stretch(times, np.stack([growth] * 8), np.zeros((8, len(powers))), first, 1), len(powers)
    )
    for estimate in found:
        low, high = estimate.interval()
        assert low <= -0.1 <= high
        assert high - low < 0.4


def test_too_short():
    rng = np.random.default_rng(0)
    with pytest.raises(TooShort, match="1 trials of length 3"):
        exponent_estimates(stretch(normal(rng, 1, 3)), 3)
    with pytest.raises(TooShort, match="it takes a length of about"):
        exponent_estimates(stretch(correlated(rng, 2, 200, memory=0.99)), 3)
    rare = (rng.uniform(size=(1, 200, 1)) < 0.02).astype(float)  # four of 200, which could as well be two or eight
    with pytest.raises(TooShort, match="rare events"):
        exponent_estimates(stretch(rare), 1)
    assert len(exponent_estimates(stretch(normal(rng, 8, 3)), 3)) == 3
    assert len(exponent_estimates(stretch(normal(rng, 8, 1)), 3)) == 3
