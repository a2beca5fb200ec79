"""Products with matrices in panels of columns, narrow and whole, against NumPy."""

import numpy as np
import pytest
from rounding import gamma

from kpref.kernels import blas, panel_products, panels, wants

SHAPES = [  # rows of the other matrix, rows and columns of the one in panels
    (1, 1, 1),
    (7, 5, 3),
    (3, 16, 31),
    (25, 15, 100),  # few rows: whole
    (25, 128, 384),
    (31, 40, 97),  # the last panel has one column
    (33, 1100, 70),  # above a million multiplications with a panel of 32 columns
    (130, 300, 65),
    (4, 20, 0),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=[True, False], ids=["narrow", "whole"])
def narrow(request, monkeypatch):
    """Both layouts are right on any processor; which one is faster depends on it."""
    monkeypatch.setattr(panels, "has_wide_vectors", lambda: request.param)
    return request.param


def with_room(matrix, extra=5):
    """The same matrix as the first columns of a wider one, the others not to be read."""
    wide = np.full((matrix.shape[0], matrix.shape[1] + extra), np.nan, matrix.dtype)
    wide[:, : matrix.shape[1]] = matrix
    return wide


def address(matrix):
    """Address and leading dimension, as compiled code takes them."""
    return matrix.ctypes.data, max(1, matrix.strides[0] // matrix.itemsize)


def product(add, a, b, c):
    """``c = a @ b`` or ``c += a @ b`` for a matrix b in panels."""
    b_in_panels = (b.entries.ctypes.data, b.rows, b.columns, b.width)
    blas.product_at(a.dtype.type(1), add, len(a), *address(a), b_in_panels, *address(c), 0)


def as_matrix(stored):
    """The matrix that stands in panels."""
    parts = [
        stored.entries[stored.rows * first : stored.rows * (first + stored.width)].reshape(stored.rows, -1)
        for first in range(0, stored.columns, stored.width)
    ]
    return np.concatenate([np.empty((stored.rows, 0)), *parts], axis=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(shape, dtype, narrow, rng):
    matrix = rng.normal(size=shape[1:]).astype(dtype)
    stored = panels.as_panels(matrix)
    np.testing.assert_array_equal(as_matrix(stored), matrix)
    assert stored.entries.shape == (shape[1] * shape[2],)
    assert stored.entries.size == 0 or stored.entries.ctypes.data % 64 == 0
    assert stored.entries.dtype == dtype
    cut = narrow and shape[1] >= 16 and shape[2] > 256 // np.dtype(dtype).itemsize
    assert stored.width == (256 // np.dtype(dtype).itemsize if cut else max(1, shape[2]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows, inner, columns", SHAPES)
def test_products(rows, inner, columns, dtype, narrow, rng):
    """Sums of `inner` products in another order: 2 gamma of the absolute sum; the sum with 1 rounds once more."""
    a, b = rng.normal(size=(rows, inner)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
    wanted, size = a.astype(float) @ b.astype(float), np.abs(a) @ np.abs(b)
    c, wide, stored = with_room(np.zeros((rows, columns), dtype)), with_room(a), panels.as_panels(b)
    product(False, wide, stored, c)
    allowed = 2 * gamma(inner + 2, dtype) * (size + 1)
    assert (np.abs(c[:, :columns] - wanted) <= allowed).all()
    assert np.isnan(c[:, columns:]).all()
    c[:, :columns] = 1.0
    product(True, wide, stored, c)
    assert (np.abs(c[:, :columns] - 1.0 - wanted) <= allowed).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_large_number_is_added_to_the_sum_and_not_the_sum_to_it(dtype, rng):
    """One rounding of the large number, whatever the length of the sum, which is small beside it."""
    inner, columns = 500, 256 // np.dtype(dtype).itemsize
    a, b = rng.uniform(size=(4, inner)).astype(dtype), rng.uniform(size=(inner, columns)).astype(dtype)
    large = dtype(2**20) * (1 + np.finfo(dtype).eps * np.arange(4 * columns).reshape(4, columns)).astype(dtype)
    c = with_room(large)
    product(True, with_room(a), panels.as_panels(b), c)
    sums = a.astype(float) @ b.astype(float)
    error = np.abs(c[:, :columns] - (large.astype(float) + sums))
    own = 2 * gamma(inner + 2, dtype) * sums  # of the sum, as in any order
    assert (error <= own + np.spacing(dtype(2**20 + inner)) / 2).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("inner, rows, columns", SHAPES)
def test_transposed_product(inner, rows, columns, dtype, narrow, rng):
    a, b = rng.normal(size=(inner, rows)).astype(dtype), rng.normal(size=(inner, columns)).astype(dtype)
    c = panels.as_panels(np.ones((rows, columns), dtype))
    wide, stored = with_room(b), (c.entries.ctypes.data, c.rows, c.columns, c.width)
    blas.add_transposed_product_at(a.dtype.type(1), inner, *address(a), *address(wide), stored, 0)
    wanted, size = a.astype(float).T @ b.astype(float), np.abs(a).T @ np.abs(b)
    assert (np.abs(as_matrix(c) - 1.0 - wanted) <= 2 * gamma(inner + 2, dtype) * (size + 1)).all()


@pytest.mark.parametrize("pieces", [0, 1, 7, 500])
@pytest.mark.parametrize(("rows", "inner"), [(1, 1), (7, 43), (25, 128)])
def test_products_ask_for_what_is_wanted_to_the_same_bits(pieces, rows, inner, rng):
    """All of it, but for part of the last piece, if passes are enough: one for each of the 16 lines of a piece."""
    a, b = rng.normal(size=(rows, inner)), panels.as_panels(rng.normal(size=(inner, 96)))
    found, table = np.zeros((2, rows, 96)), np.zeros(wants.room_for_wants(pieces), np.int64)
    wants.no_wants(table.ctypes.data, pieces)
    for piece in range(pieces + 1):  # the last has no room
        wants.want(table.ctypes.data, b.entries.ctypes.data + 64 * piece, 64)
    passes = panel_products.passes_of(1.0, rows, inner, b.words)
    wants.spread(table.ctypes.data, passes, 0)
    for out, address_of_wants in zip(found, (0, table.ctypes.data), strict=True):
        blas.product_at(1.0, False, rows, *address(a), b.words, *address(out), address_of_wants)
    np.testing.assert_array_equal(*found)
    asked, wanted = table[:2]
    assert wanted == pieces
    if panel_products.has_wide_vectors() and panels.panel_width(inner, 96, np.float64) == 32:
        assert pieces - 1 <= asked <= pieces if passes >= 16 * pieces else 0 < asked < pieces
    else:
        assert asked == 0
    wants.ask_for_rest(table.ctypes.data)
    assert (table[:2] == 0).all()


@pytest.mark.parametrize(("pieces", "terms"), [(0, 3), (1, 5), (7, 3), (500, 20)])
def test_terms_of_sums_ask_evenly_for_what_products_leave(pieces, terms):
    memory, table = np.zeros(128), np.zeros(wants.room_for_wants(pieces), np.int64)
    wants.no_wants(table.ctypes.data, pieces)
    wants.want(table.ctypes.data, memory.ctypes.data, 1024 * pieces)  # need not be there: it is only asked for
    wants.spread(table.ctypes.data, 0, terms)
    for term in range(terms):
        assert term * pieces // terms <= table[0] <= -(-term * pieces // terms) + 1
        wants.ask_for_share(table.ctypes.data, 1)
    assert table[0] == table[1] == pieces


def test_rows_of_a_product_do_not_fall_into_step():
    """At a multiple of 2 KiB all rows would use the same few places of the cache."""
    for units in (1, 7, 8, 9, 64, 128, 256):
        for gates in (1, 3, 4):
            for itemsize in (4, 8):
                length = blas.row_length(gates * units, units, itemsize)
                assert length // units == gates  # the kernels count gates so
                assert length * itemsize % 2048 or units <= 64 // itemsize


def test_each_of_several_weights_begins_where_a_line_of_the_cache_does(rng):
    matrices = [rng.normal(size=shape) for shape in ((3, 5), (17, 40), (0, 0), (1, 1))]
    weights = panels.as_weights(matrices, np.float32)
    for matrix, (first, rows, columns, width) in zip(matrices, weights.table, strict=True):
        assert weights.entries[first:].ctypes.data % 64 == 0
        stored = panels.Panels(weights.entries[first : first + rows * columns], rows, columns, width)
        np.testing.assert_array_equal(as_matrix(stored), matrix.astype(np.float32))
