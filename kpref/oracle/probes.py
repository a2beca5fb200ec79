"""Arguments of another kind than random numbers of order one: what only formulas notice that look at their argument."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic

__all__ = ["special_arguments"]

#: Factor of arguments that are to be large; a power of two, as which they are rounded alike.
_LARGE = 2.0**20


def special_arguments(tensor: Array, arithmetic: Arithmetic) -> Iterator[Array]:
    """Arguments made of one of random numbers: one entry alone, few and large ones, small whole numbers, ends alone.

    Of the few none is in the first or the last step; the whole numbers are halves, so that many are equal. What is
    wrong at the ends, such as their weights, is as much of the answer to these as it is of what they count for, and not
    hidden by what is rounded between them.
    """
    if not tensor.any():
        return
    yield _largest_alone(tensor)
    yield _sparse(tensor) * (_LARGE if arithmetic.largest > 1e30 else 1.0)
    yield _halves(tensor)
    if tensor.ndim == 3 and tensor.shape[1] > 2:
        yield _ends(tensor)


def _largest_alone(tensor: Array) -> Array:
    alone, index = np.zeros_like(tensor), np.unravel_index(int(np.argmax(np.abs(tensor))), tensor.shape)
    alone[index] = tensor[index]
    return alone


def _sparse(tensor: Array) -> Array:
    sparse = np.zeros_like(tensor)
    sparse.flat[1::3] = tensor.flat[1::3]
    if tensor.ndim == 3 and tensor.shape[1] > 2:
        sparse[:, [0, -1]] = 0.0
    return sparse


def _ends(tensor: Array) -> Array:
    """The first and the last step alone."""
    ends = np.zeros_like(tensor)
    ends[:, [0, -1]] = tensor[:, [0, -1]]
    return ends


def _halves(tensor: Array) -> Array:
    """Numbers from -1 to 1, times the size of the tensor."""
    scale = 2.0 ** np.floor(np.log2(np.abs(tensor).max()))
    return np.asarray(scale * np.clip(np.rint(tensor / scale * 2), -2, 2) / 2)
