"""The moments that inner products of random directions tell: exact cases, unbiasedness, the laws they must obey."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import Estimate
from kpref.spectra.quadratic_forms import MOST_SKEWED, Mean, mean_of_forms
from tests.conftest import in_turn

SIZE = 60


def directions(count, seed, size=SIZE):
    vectors = np.random.default_rng(seed).standard_normal((count, size))
    return vectors * np.sqrt(size / np.square(vectors).sum(axis=1, keepdims=True))


def mean_of(matrix, vectors, positive=True):
    return mean_of_forms(vectors @ matrix @ vectors.T, vectors @ vectors.T, len(matrix), positive)


def spectrum(name, size=SIZE):
    places = np.arange(size)
    return {"one": 1.0 * (places < 1), "three": 1.0 * (places < 3), "tail": 1.0 / (1 + places), "even": places / size}[
        name
    ]


@pytest.mark.parametrize("count", [2, 3, 16])
def test_a_multiple_of_the_identity_leaves_nothing_to_chance(count):
    found = mean_of(3.0 * np.eye(SIZE), directions(count, 0))
    assert found.value == pytest.approx(3.0 * SIZE, rel=1e-14)
    assert found.standard_error < 1e-13 * found.value  # sums of 60 products, each to half a unit


@given(count=st.integers(2, 12), seed=st.integers(0, 10**6), scale=st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3))
def test_scaling_and_rotating(count, seed, scale):
    """c S has the mean c x and c times the error; in another order of the vectors all stays.

    (c S + a 1 has the mean c x + a m, but may have eigenvalues of one sign where S has both: its shape is another.)
    """
    rng = np.random.default_rng(seed)
    matrix, vectors = rng.normal(size=(SIZE, SIZE)), directions(count, seed)
    plain, other = mean_of(matrix, vectors, False), mean_of(scale * matrix, vectors, False)
    size = abs(scale) * np.abs(vectors @ matrix @ vectors.T).max()
    assert other.value == pytest.approx(scale * plain.value, abs=1e-12 * size)
    assert other.standard_error == pytest.approx(abs(scale) * plain.standard_error, abs=1e-12 * size)
    assert other.skewness == pytest.approx(math.copysign(1, scale) * plain.skewness, abs=1e-9)
    assert other.degrees == pytest.approx(plain.degrees, rel=1e-9)
    shifted = mean_of(matrix + scale * np.eye(SIZE), vectors, False)
    assert shifted.value == pytest.approx(plain.value + scale * SIZE, abs=1e-12 * (size + abs(scale) * SIZE))
    shuffled = mean_of(matrix, vectors[rng.permutation(count)], False)
    assert shuffled.standard_error == pytest.approx(plain.standard_error, rel=1e-10)


@given(count=st.integers(2, 12), seed=st.integers(0, 10**6), rank=st.integers(1, SIZE))
def test_bounds_of_skewness_and_degrees(count, seed, rank):
    factor = np.random.default_rng(seed).normal(size=(SIZE, rank))
    found = mean_of(factor @ factor.T, directions(count, seed))
    assert 0 <= found.skewness <= MOST_SKEWED / math.sqrt(count) * (1 + 1e-12)
    # At most those of a symmetric Gaussian matrix without trace; at least those for q = 1 without skewness.
    most = (count - 1) * (count + 2) / 2
    assert 1 / (1 / most + 4 / count) * (1 - 1e-12) <= found.degrees <= most * (1 + 1e-12)


@pytest.mark.parametrize("name", ["one", "three", "tail", "even"])
def test_the_variance_is_unbiased(name):
    values, count, runs = spectrum(name), 6, 4000
    variances = np.empty(runs)
    for run in range(runs):
        found = mean_of(np.diag(values), directions(count, run))
        variances[run] = found.standard_error**2 / (1 + found.skewness**2 / 4)
    truth = 2 * SIZE / (SIZE + 2) * np.square(values - values.mean()).sum() / count
    # Four standard errors of the mean over the runs: a few per cent.
    assert abs(variances.mean() - truth) < 4 * variances.std(ddof=1) / runs**0.5


@pytest.mark.parametrize("name, sign", in_turn(product(["one", "three", "tail", "even"], [1, -1]), 3))
def test_many_directions_tell_the_skewness(name, sign):
    values = sign * spectrum(name)
    rest, count = values - values.mean(), 1000
    expected = math.sqrt(8) * (rest**3).sum() / np.square(rest).sum() ** 1.5
    found = mean_of(np.diag(values), directions(count, 1), False)
    # The sums of cubes and of squares have relative deviations of (18 / count)^(1/2) or less: 13 %, mostly in common.
    assert found.skewness * count**0.5 == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("name, count", in_turn(product(["one", "three", "tail", "even"], [3, 4, 8, 16]), 3))
def test_intervals_contain_the_trace(name, count):
    values, runs = spectrum(name), 1000
    hits = 0
    for run in range(runs):
        found: Mean = mean_of(np.diag(values), directions(count, 10**6 + run))
        low, high = Estimate(
            found.value, found.standard_error, count, "probes", degrees=found.degrees, skewness=found.skewness
        ).interval(0.95)
        hits += low <= values.sum() <= high
    # 929 of 1000 or fewer have the chance 0.002 if 95 % is true.
    assert hits >= 930, hits / runs


@pytest.mark.parametrize("values", [(1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -0.5, -0.5)])
@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_eigenvalues_of_both_signs(values, count):
    """The trace is zero; what the vectors say of the skewness has the sign of the error of the mean."""
    matrix, runs = np.diag(np.pad(values, (0, SIZE - len(values)))), 500
    hits = 0
    for run in range(runs):
        found = mean_of(matrix, directions(count, 2 * 10**6 + run), False)
        low, high = Estimate(*found[:2], count, "probes", degrees=found.degrees, skewness=found.skewness).interval()
        hits += low <= 0 <= high
    assert hits >= 450, hits / runs  # 85 % once


@pytest.mark.parametrize("sign", [1, -1])
def test_the_forms_show_that_all_eigenvalues_have_one_sign(sign):
    matrix, vectors = np.diag(spectrum("tail")), directions(4, 0)
    declared, seen = mean_of(matrix, vectors, True), mean_of(sign * matrix, vectors, False)
    assert seen.skewness == sign * declared.skewness != 0
    assert seen.degrees == declared.degrees


def test_two_directions_of_a_flat_matrix():
    """Nothing is skewed, and both sides of the interval are long enough all the same (91 % once)."""
    values, runs = np.where(np.arange(SIZE) < SIZE // 2, 1.0, 0.1), 500
    hits = 0
    for run in range(runs):
        found = mean_of(np.diag(values), directions(2, 3 * 10**6 + run))
        low, high = Estimate(*found[:2], 2, "probes", degrees=found.degrees, skewness=found.skewness).interval()
        hits += low <= values.sum() <= high
    assert hits >= 465, hits / runs
