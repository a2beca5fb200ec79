"""Evidence that is pooled: errors that are too large everywhere, though none stands out.

A rounding to nearest errs by at most the unit that stands for its deviation, so that the square of an error over its
deviation is 1/3 on average at most (of the functions that an arithmetic says to be approximated, 4: deviations are half
of what they err at most). A mean over errors made of so many independent roundings, nu, scatters at most as chi^2/nu
does, of which Laurent and Massart (2000) bound the tail:

    P(chi^2_nu / nu > 1 + 2 sqrt(x/nu) + 2 x/nu) < exp(-x).

Not every entry has roundings of its own: weights that are rounded err alike at all points, so that a unit has as many
as its row of the weights, and a sweep turns all errors of a trial into the direction that grows. Emulated right
backends give 0.01 to 0.5 for whole tensors, and 0.05 mostly; what is eight times too coarse gives 64 times as much.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.certificates import Comparison

__all__ = ["pooled_excess"]

#: Mean square of a rounding over its deviation, at most; of an approximated function.
_ROUNDING, _APPROXIMATED = 1 / 3, 4.0

#: Minus the logarithm of the probability of an excess by chance.
_CHANCE = 25.0

#: Squares count up to here: single entries have a bound of their own.
_CAP = 9.0


def pooled_excess(
    comparison: Comparison, shape: tuple[int, ...], arithmetic: Arithmetic, swept: bool
) -> tuple[float, str]:
    """Mean squares of errors over deviations, in parts of what rounding explains: the largest, and of which entries.

    `shape`: trials, steps and units of the problem. `swept`: whether the errors have passed through a sweep.
    """
    squares = np.minimum(np.square(comparison.ratio()), _CAP)
    mean = _APPROXIMATED if arithmetic.elementary else _ROUNDING
    best, place = 0.0, "all entries"
    for words, values, roundings in _pools(squares, shape, swept):
        most = mean * (1 + 2 * np.sqrt(_CHANCE / roundings) + 2 * _CHANCE / roundings)
        index = int(np.argmax(values))
        if values[index] / most > best:
            best, place = float(values[index] / most), f"{words} {index}" if len(values) > 1 else words
    return best, place


def _pools(squares: Array, shape: tuple[int, ...], swept: bool) -> Iterator[tuple[str, Array, int]]:
    """Means over entries, and of how many independent roundings each is at least."""
    trials, steps, units = shape
    points = trials * steps
    if swept:
        yield "all entries", squares.reshape(1, -1).mean(axis=1), trials
        return
    yield "all entries", squares.reshape(1, -1).mean(axis=1), min(squares.size, units * min(units, points))
    if squares.ndim == 3:
        yield "unit", squares.mean(axis=(0, 1)), min(units, points)
        yield "step", squares.mean(axis=(0, 2)), units * min(units, trials)
