"""Matrices that many products multiply by, stored in the order in which these read them.

BLAS packs what it multiplies, unless that is small. The weight of a network stays the same from step to step, so
packing it at each is pure loss. It is therefore kept in panels of 32 columns (float32: 64), each contiguous in memory:
a row of one is four vectors of a processor with AVX-512, for which `kpref.kernels.panel_products` has code. On two
such cores products of 25 rows ran at 220 to 240 GFLOP/s in place of 120 to 180, whatever the size of the weight. On
others narrow panels would be slower, and one panel holds the whole matrix.

That code loads a panel straight from memory, a vector of 64 bytes at a time. One that lies across two lines of the
cache takes two loads, and the product half as long again; so matrices begin where a line does. NumPy's arrays do not:
large ones begin 16 bytes after a page.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.kernels.panel_products import ROW_BYTES, has_wide_vectors
from kpref.reused_memory import aligned

__all__ = [
    "Panels", "Weights", "aligned_zeros", "as_panels", "as_weights", "fill_weights", "panel_width",
    "whole_lines",
]  # fmt: skip

#: Bytes of a line of the cache.
_LINE_BYTES = 64
#: Rows from which on a matrix is cut into panels.
_FEW_ROWS = 16


class Panels(NamedTuple):
    """A matrix (rows, columns) in a form that compiled code takes."""

    entries: Array  # (rows * columns,): the panels one after the other, each of contiguous rows
    rows: int
    columns: int
    width: int  # columns of a panel; the last may have fewer

    @property
    def words(self) -> tuple[int, int, int, int]:
        """As compiled code takes it: address of the entries, rows, columns, width of a panel."""
        return self.entries.ctypes.data, self.rows, self.columns, self.width

    def fill(self, matrix: Array) -> None:
        """Write another matrix of the same shape in its place."""
        for first in range(0, self.columns, self.width):
            part = matrix[:, first : first + self.width]
            self.entries[self.rows * first : self.rows * first + part.size].reshape(part.shape)[...] = part


class Weights(NamedTuple):
    """Several matrices in panels, one after the other, each beginning where a line of the cache does."""

    entries: Array  # (n,)
    table: Array  # (w, 4): first entry, rows, columns and width of a panel of each


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that begin where a line of the cache does."""
    return aligned(np.zeros(math.prod(shape) * np.dtype(dtype).itemsize + _LINE_BYTES, np.uint8), shape, dtype)


def whole_lines(entries: int, dtype: npt.DTypeLike) -> int:
    """Room for so many entries, in whole lines of the cache."""
    line = _LINE_BYTES // np.dtype(dtype).itemsize
    return -(-entries // line) * line


def as_panels(matrix: Array) -> Panels:
    """A matrix in panels."""
    rows, columns = matrix.shape
    width = panel_width(rows, columns, matrix.dtype)
    panels = Panels(aligned_zeros((rows * columns,), matrix.dtype), rows, columns, width)
    panels.fill(matrix)
    return panels


def as_weights(matrices: list[Array], dtype: npt.DTypeLike) -> Weights:
    """Matrices in panels."""
    first = np.cumsum([0, *(whole_lines(matrix.size, dtype) for matrix in matrices)])
    table = [
        (at, *matrix.shape, panel_width(len(matrix), matrix.shape[1], np.dtype(dtype)))
        for at, matrix in zip(first, matrices, strict=False)
    ]
    weights = Weights(aligned_zeros((int(first[-1]),), dtype), np.array(table, np.int64).reshape(len(table), 4))
    fill_weights(weights, matrices)
    return weights


def fill_weights(weights: Weights, matrices: list[Array]) -> None:
    """Write other matrices of the same shapes into panels."""
    for (first, rows, columns, width), matrix in zip(weights.table.tolist(), matrices, strict=True):
        Panels(weights.entries[first : first + rows * columns], rows, columns, width).fill(matrix)


def panel_width(rows: int, columns: int, dtype: npt.DTypeLike) -> int:
    """Columns of a panel; matrices of a few rows stay whole, their products are small anyway."""
    narrow = ROW_BYTES // np.dtype(dtype).itemsize
    return narrow if narrow < columns and rows >= _FEW_ROWS and has_wide_vectors() else max(1, columns)
