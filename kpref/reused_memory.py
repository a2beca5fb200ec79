"""Memory of large tensors, used again when nobody has them any more.

An allocator gives large arrays back to the system when they go, and the system clears the memory of each new one, page
by page as it is first touched: for a product that takes as long as its bytes do that is a quarter of its time, and more
where free memory lies in small pieces, which then are moved about. Products are applied again and again, and each
result has the size of the one before it. So memory of large results is kept when the last array on it has gone, and the
next of the same size begins there.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array

__all__ = ["LEAST", "MOST", "aligned", "empty_tensor", "let_go"]

#: Bytes from which on an array's memory is kept: the C library itself keeps that of smaller ones (mallopt(3)).
LEAST = 1 << 25
#: Bytes that are kept in all; beyond them what has waited longest goes back to the system.
MOST = 1 << 28

#: Bytes of a line of the cache.
_LINE = 64

# Arrays go at any time, in any thread, even while this one is at work here: single operations of a deque need no lock.
_kept: deque[Array] = deque()


def empty_tensor(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array of any numbers, of which the first stands at the beginning of a line of the cache."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not LEAST <= size <= MOST:
        return aligned(np.empty(size + _LINE, np.uint8), shape, dtype)
    memory = _take(size + _LINE)
    return np.asarray(_Borrowed(np.empty(size + _LINE, np.uint8) if memory is None else memory, shape, dtype))


def aligned(memory: Array, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array in some memory, bytes, from the first beginning of a line of the cache on; a line more is needed."""
    size, start = math.prod(shape) * np.dtype(dtype).itemsize, -memory.ctypes.data % _LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def let_go() -> None:
    """Return to the system what is kept."""
    _kept.clear()


class _Borrowed:
    """What an array on kept memory, and all its views, hold on to: when it goes, the memory is free again."""

    def __init__(self, memory: Array, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._memory = memory
        self.__array_interface__: dict[str, Any] = aligned(memory, shape, dtype).__array_interface__

    def __del__(self) -> None:
        _give_back(self._memory)


def _take(size: int) -> Array | None:
    """Kept memory of so many bytes, if there is any."""
    for _ in range(len(_kept)):
        try:
            memory = _kept.popleft()
        except IndexError:  # another thread has taken the last
            return None
        if memory.nbytes == size:
            return memory
        _kept.append(memory)
    return None


def _give_back(memory: Array) -> None:
    _kept.append(memory)
    while sum(one.nbytes for one in list(_kept)) > MOST:
        try:
            _kept.popleft()
        except IndexError:  # another thread has
            return
