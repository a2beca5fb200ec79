"""Matrices that many products multiply by, stored in the order in which BLAS reads them.

OpenBLAS multiplies small matrices, of up to a million multiplications, without packing them first, if it has code for
that and the processor. The weight of a network stays the same from step to step, so packing it at each is pure loss. It
is therefore kept in panels of 32 columns (float32: 64), each contiguous in memory: products of 25 rows run at 220 to
240 GFLOP/s in place of 120 to 180, on two cores with AVX-512, whatever the size of the weight. Where BLAS has no such
code narrow panels would be slower, and one panel holds the whole matrix.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.threads import blas_libraries

__all__ = ["Panels", "as_panels", "panel_width"]

Array = npt.NDArray[Any]

#: Bytes of a row of a panel.
_ROW_BYTES = 256
#: What OpenBLAS calls the processors for which it has code for small matrices.
_SMALL_PRODUCTS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


class Panels(NamedTuple):
    """A matrix (n, columns), in a form that compiled code takes.

    Attributes
    ----------
    entries : ndarray, shape (n * columns,), or (v, n * columns) for several matrices
        The panels one after the other, each of n contiguous rows.
    columns : int
        Number of columns.
    width : int
        Columns of a panel; the last may have fewer.
    """

    entries: Array
    columns: int
    width: int


def as_panels(matrices: Array) -> Panels:
    """A matrix (n, columns), or several (v, n, columns), in panels."""
    *several, rows, columns = matrices.shape
    width = panel_width(columns, matrices.dtype)
    entries = np.empty((*several, rows * columns), matrices.dtype)
    for first in range(0, columns, width):
        last = min(first + width, columns)
        part = entries[..., rows * first : rows * last]
        part[...] = matrices[..., first:last].reshape(part.shape)
    return Panels(entries, columns, width)


def panel_width(columns: int, dtype: npt.DTypeLike) -> int:
    """Columns of a panel of a matrix with so many columns."""
    narrow = _ROW_BYTES // np.dtype(dtype).itemsize
    return narrow if narrow < columns and _has_small_products() else max(1, columns)


@cache
def _has_small_products() -> bool:
    architectures = {library.get("architecture") for library in blas_libraries()}
    return bool(architectures) and architectures <= _SMALL_PRODUCTS
