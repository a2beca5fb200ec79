"""Weights that are nearly all zero, and products with them by what is not.

Rows of a block are trials, entries of a row are units. A product with a sparse weight would gather single entries of a
row; so the rows are transposed first, as many as fill a vector or two, and each entry of the weight multiplies these:

    for each column c:    out[:, c] = [out[:, c]] + sum over entries k of c of value[k] * source[:, index[k]].

What a row becomes depends on no other, and sums go in the order of the indices, whatever the number of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.sparse import csc_array

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, keep, load, size_of, store, word

__all__ = ["SPARSE", "SparseColumns", "is_sparse", "sparse_product_at"]

#: In place of the width of a panel.
SPARSE = 0
#: The largest share of entries other than zero, and the fewest entries, with which products are faster this way.
_DENSITY, _ENTRIES = 0.1, 64 * 64
_BYTES = 128  # of the entries of one unit that are multiplied at once


def is_sparse(matrix: Array) -> bool:
    """Whether products by its entries are faster than by the whole matrix."""
    return bool(matrix.size >= _ENTRIES and np.count_nonzero(matrix) <= _DENSITY * matrix.size)


class SparseColumns:
    """A matrix (rows, columns) by its entries other than zero, column by column, for `sparse_product_at`.

    `words`: address of a table of addresses (of where columns begin, of the rows of the entries, and of the entries),
    rows, columns, and `SPARSE`.
    """

    def __init__(self, matrix: Array) -> None:
        self._table = np.zeros(3, np.int64)
        self.words = (self._table.ctypes.data, *matrix.shape, SPARSE)
        self.fill(matrix)

    def fill(self, matrix: Array) -> None:
        """Put another matrix in its place, whose zeros may be elsewhere."""
        found = csc_array(matrix)
        self._kept = [
            np.ascontiguousarray(found.indptr, np.int64), np.ascontiguousarray(found.indices, np.int64), found.data,
        ]  # fmt: skip
        self._table[:] = [array.ctypes.data for array in self._kept]


@intrinsic  # type: ignore[misc]
def _sum_of_entries(
    typingctx: Any, one: Any, first: Any, last: Any, indices: Any, entries: Any, source: Any, out: Any
) -> Any:
    """``out[:] = sum over k of entries[k] * source[indices[k], :]``, for rows of `_BYTES`; all but `one` addresses."""
    signature = types.void(one, *([types.int64] * 2), *([types.uintp] * 4))
    real, size = (ir.DoubleType(), 8) if one == types.float64 else (ir.FloatType(), 4)
    vector = ir.VectorType(real, _BYTES // size)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, first, last, indices, entries, source, out = arguments
        integer = ir.IntType(64)
        total = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [ir.Constant(real, 0.0)] * vector.count), total)
        index_of = builder.inttoptr(indices, integer.as_pointer())
        entry_of = builder.inttoptr(entries, real.as_pointer())
        with cgutils.for_range_slice(builder, first, last, ir.Constant(integer, 1)) as (k, _):
            row = builder.load(builder.gep(index_of, [k]))
            at = builder.add(source, builder.mul(row, ir.Constant(integer, _BYTES)))
            values = builder.load(builder.inttoptr(at, vector.as_pointer()), align=size)
            entry = builder.load(builder.gep(entry_of, [k]))
            alone = builder.insert_element(ir.Constant(vector, ir.Undefined), entry, ir.Constant(ir.IntType(32), 0))
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
            everywhere = builder.shuffle_vector(alone, ir.Constant(vector, ir.Undefined), lanes)
            builder.store(builder.fadd(builder.load(total), builder.fmul(everywhere, values)), total)
        builder.store(builder.load(total), builder.inttoptr(out, vector.as_pointer()), align=size)
        return context.get_dummy_value()

    return signature, generate


@kernel
def sparse_product_at(one, add, rows, a, lda, weight, c, ldc):  # type: ignore[no-untyped-def]
    """``c = a @ b``, or ``c += a @ b``, as `kpref.kernels.blas.product_at`, for a `weight` of `SparseColumns`."""
    table, inner, columns, _ = weight
    starts, indices, entries, size = word(table, 0), word(table, 1), word(table, 2), size_of(one)
    lanes = _BYTES // size
    memory = np.zeros((inner + columns + 1) * _BYTES // 8, np.int64)
    source = -(-address_of(memory) // 64) * 64  # where a line of the cache begins
    found = source + inner * _BYTES
    for first in range(0, rows, lanes):
        count = min(lanes, rows - first)
        for row in range(count):
            at = a + (first + row) * lda * size
            for unit in range(inner):
                store(load(one, at + unit * size), source + unit * _BYTES + row * size)
        for column in range(columns):
            begin, end = word(starts, column), word(starts, column + 1)
            _sum_of_entries(one, begin, end, indices, entries, source, found + column * _BYTES)
        for row in range(count):
            at = c + (first + row) * ldc * size
            for column in range(columns):
                value = load(one, found + column * _BYTES + row * size)
                store(load(one, at + column * size) + value if add else value, at + column * size)
    keep(memory)
