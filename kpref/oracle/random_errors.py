"""Random errors of a given size, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpref._types import Array
from kpref.oracle.spreads import Spread

__all__ = ["at_once", "draw", "signed", "taken"]

#: Entries of those that are made at once.
_ENTRIES_AT_ONCE = 1 << 15


def draw(generator: np.random.Generator, spread: Spread, count: int) -> Array:
    """Random errors of this size, first axis."""
    return signed(generator, spread.deviation, count)


def signed(generator: np.random.Generator, deviation: Array, count: int) -> Array:
    """This size with random signs, first axis.

    Squares of sums of such errors are those of normal ones on average, and scatter less.
    """
    bits = np.frombuffer(generator.bytes(-(-count * deviation.size // 8)), np.uint8)
    signs = np.unpackbits(bits, count=count * deviation.size).reshape(count, *deviation.shape)
    found = signs.astype(np.float64)
    found -= 0.5
    found *= 2.0 * deviation
    return found


def at_once(count: int, size: int) -> Iterator[int]:
    """Numbers that add up to a count of arrays of some size: of small ones many, of a large one each alone."""
    once = max(1, _ENTRIES_AT_ONCE // size)
    return (min(once, count - start) for start in range(0, count, once))


def taken(arrays: Iterator[Array], count: int) -> Array:
    """The next few."""
    return np.stack([next(arrays) for _ in range(count)])
