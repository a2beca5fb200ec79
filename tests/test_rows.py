"""Sums over long rows in blocks: what plain products give, in float64 whatever the rows are in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.spectra.rows import (
    combination,
    inner_products,
    inner_products_of_parts,
    orthonormal,
    overlaps_with,
    ritz_gaps,
    triangle,
)

SIZE = 70_001  # several blocks of each kind, the last one shorter
BOUND = 8 * SIZE**0.5 * np.finfo(float).eps / 2 * SIZE  # 8 sqrt(k) u of the sum of moduli, which is about SIZE


def rows(count, seed, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((count, SIZE)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inner_products_are_those_in_float64(dtype):
    one, other = rows(3, 0, dtype), rows(5, 1, dtype)
    exact, own = (one.astype(float) @ each.astype(float).T for each in (other, one))
    assert inner_products(one, other).dtype == np.float64
    np.testing.assert_allclose(inner_products(one, other), exact, rtol=0, atol=BOUND)
    np.testing.assert_allclose(inner_products(one), own, rtol=0, atol=BOUND)
    np.testing.assert_array_equal(inner_products(one), inner_products(one).T)


def test_combinations_and_overlaps_are_products():
    one, weights = rows(3, 2), np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(combination(weights, one), weights @ one, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(overlaps_with(one, one[0]), one @ one[0], rtol=0, atol=BOUND)
    left = one[:2].copy()
    combination(weights, one, out=left)
    np.testing.assert_allclose(left, one[:2] - weights @ one, rtol=1e-13, atol=1e-13)


@given(st.integers(1, 6), st.integers(0, 3), st.floats(0, 3), st.integers(0, 2**20))
def test_orthonormal_rows_span_what_the_rows_do(count, dependent, decades, seed):
    """Of rows of which some are sums of others, and lengths are up to a thousand apart."""
    generator = np.random.default_rng(seed)
    free = generator.standard_normal((count, 40)) * np.logspace(0, -decades, count)[:, None]
    given_rows = np.concatenate([free, generator.standard_normal((dependent, count)) @ free])
    found = orthonormal(given_rows)
    assert len(found) == count
    np.testing.assert_allclose(found @ found.T, np.eye(count), rtol=0, atol=1e-13)
    np.testing.assert_allclose(given_rows @ found.T @ found, given_rows, rtol=0, atol=1e-10 * np.abs(given_rows).max())


def test_no_rows_span_nothing():
    assert orthonormal(np.zeros((2, 5))).shape == (0, 5)


def test_inner_products_of_parts_are_those_of_all_rows_over_each_set_of_columns():
    one, other = rows(3, 0), rows(2, 1, np.float32)
    places = [[slice(0, 30_000), slice(60_000, SIZE)], [slice(30_000, 59_000)], []]
    found = inner_products_of_parts((one, other), places)
    together = np.concatenate([one, other.astype(float)])
    for inner, own in zip(found, places, strict=True):
        columns = np.concatenate([np.zeros(0, int), *(np.arange(place.start, place.stop) for place in own)])
        np.testing.assert_allclose(inner, together[:, columns] @ together[:, columns].T, rtol=0, atol=BOUND)


def test_ritz_vectors_are_turned_in_place_and_their_gaps_measured():
    given_rows, images, values = rows(3, 3), rows(3, 4), np.array([2.0, 1.0, -0.5])
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    own = turn @ given_rows
    lengths = ritz_gaps(turn, values, given_rows, images)
    np.testing.assert_allclose(given_rows, own, rtol=0, atol=1e-14 * np.abs(own).max())
    np.testing.assert_allclose(lengths, np.linalg.norm(turn @ images - values[:, None] * own, axis=1), rtol=1e-12)


@pytest.mark.parametrize("count, size", [(3, SIZE), (4, 2), (2, 1), (0, 5)])
def test_triangles_are_those_of_all_columns(count, size):
    """Up to signs of rows; more rows than columns leave a triangle of few rows."""
    some = rows(count, 6)[:, :size] * np.logspace(0, -9, count)[:, None]
    found = triangle(some)
    wanted = np.linalg.qr(some.T, mode="r")
    assert found.shape == wanted.shape
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-6, atol=1e-14 * np.abs(wanted).max(initial=1.0))
