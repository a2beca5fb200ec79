"""Sums of scaled matrices in one pass: NumPy goes through memory twice for each of them, and once for each scale."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel

__all__ = ["add_scaled"]


@kernel
def _add_scaled(out, row, column, left, matrix, right):  # type: ignore[no-untyped-def]
    for b in range(len(out)):
        for i in range(len(matrix)):
            scale, target, source = left[b, i], out[b, row + i, column : column + matrix.shape[1]], matrix[i]
            for j in range(len(target)):
                target[j] += scale * source[j] * right[b, j]


def add_scaled(out: Array, row: int, column: int, left: Array | None, matrix: Array, right: Array | None) -> None:
    """``diag(left[b]) matrix diag(right[b])`` onto a part of each of some matrices, in float64, in place.

    `out`: (B, ., .), in C order. `row`, `column`: the first of the part. `left`, `right`: (r,) and (c,), one for each
    of the B or for all; None for ones. `matrix`: (r, c).
    """
    one, other = (
        np.array(np.broadcast_to(np.ones(1) if given is None else given, (len(out), size)), order="C")
        for given, size in zip((left, right), matrix.shape, strict=True)
    )
    _add_scaled(out, row, column, one, np.ascontiguousarray(matrix), other)
