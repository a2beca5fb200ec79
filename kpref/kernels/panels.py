"""Matrices that many products multiply by, stored in the order in which BLAS reads them.

OpenBLAS multiplies small matrices, of up to a million multiplications, without packing them first, if it has code for
that and the processor. The weight of a network stays the same from step to step, so packing it at each is pure loss. It
is therefore kept in panels of 32 columns (float32: 64), each contiguous in memory: products of 25 rows run at 220 to
240 GFLOP/s in place of 120 to 180, on two cores with AVX-512, whatever the size of the weight. Where BLAS has no such
code narrow panels would be slower, and one panel holds the whole matrix.

That code loads a panel straight from memory, a vector of 64 bytes at a time. One that lies across two lines of the
cache takes two loads, and the product half as long again; so matrices begin where a line does. NumPy's arrays do not:
large ones begin 16 bytes after a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.threads import blas_libraries

__all__ = ["Panels", "aligned_zeros", "as_matrices", "as_panels", "panel_width", "whole_lines", "zero_panels"]

Array = npt.NDArray[Any]

#: Bytes of a line of the cache.
_LINE_BYTES = 64
#: Bytes of a row of a panel.
_ROW_BYTES = 256
#: Rows from which on a matrix is cut into panels.
_FEW_ROWS = 16
#: What OpenBLAS calls the processors for which it has code for small matrices.
_SMALL_PRODUCTS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


class Panels(NamedTuple):
    """A matrix (rows, columns), or several of the same shape, in a form that compiled code takes.

    Attributes
    ----------
    entries : ndarray, shape (rows * columns,), or (v, rows * columns) for several
        The panels one after the other, each of contiguous rows.
    rows, columns : int
    width : int
        Columns of a panel; the last may have fewer.
    """

    entries: Array
    rows: int
    columns: int
    width: int


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that begin where a line of the cache does."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE_BYTES, np.uint8)
    start = -room.ctypes.data % _LINE_BYTES
    return room[start : start + size].view(dtype).reshape(shape)


def whole_lines(entries: int, dtype: npt.DTypeLike) -> int:
    """Room for so many entries, in whole lines of the cache."""
    line = _LINE_BYTES // np.dtype(dtype).itemsize
    return -(-entries // line) * line


def zero_panels(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Panels:
    """Zeros: a matrix (rows, columns), or several (v, rows, columns)."""
    *several, rows, columns = shape
    return Panels(aligned_zeros((*several, rows * columns), dtype), rows, columns, panel_width(rows, columns, dtype))


def as_panels(matrices: Array) -> Panels:
    """A matrix, or several, in panels."""
    panels = zero_panels(matrices.shape, matrices.dtype)
    for part, columns in _parts(panels):
        part[...] = matrices[..., columns]
    return panels


def as_matrices(panels: Panels) -> Array:
    """The matrix, or several, as an array of its shape."""
    matrices = np.empty((*panels.entries.shape[:-1], panels.rows, panels.columns), panels.entries.dtype)
    for part, columns in _parts(panels):
        matrices[..., columns] = part
    return matrices


def _parts(panels: Panels) -> Iterator[tuple[Array, slice]]:
    """A view (..., rows, width) of each panel, and its columns."""
    entries, rows, columns, width = panels
    for first in range(0, columns, width):
        last = min(first + width, columns)
        part = entries[..., rows * first : rows * last]
        yield part.reshape(*entries.shape[:-1], rows, last - first), slice(first, last)


def panel_width(rows: int, columns: int, dtype: npt.DTypeLike) -> int:
    """Columns of a panel; matrices of a few rows stay whole, their products are small anyway."""
    narrow = _ROW_BYTES // np.dtype(dtype).itemsize
    return narrow if narrow < columns and rows >= _FEW_ROWS and _has_small_products() else max(1, columns)


@cache
def _has_small_products() -> bool:
    architectures = {library.get("architecture") for library in blas_libraries()}
    return bool(architectures) and architectures <= _SMALL_PRODUCTS
