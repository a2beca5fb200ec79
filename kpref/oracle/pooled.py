"""Evidence that is pooled: errors that are too large everywhere, though none stands out.

A rounding to nearest errs by at most the unit that stands for its deviation, so that the square of an error over its
deviation is 1/3 on average at most (of the functions that an arithmetic says to be approximated, 4: deviations are half
of what they err at most). A mean over errors made of so many independent roundings, nu, scatters at most as chi^2/nu
does, of which Laurent and Massart (2000) bound the tail:

    P(chi^2_nu / nu > 1 + 2 sqrt(x/nu) + 2 x/nu) < exp(-x).

Not every entry has roundings of its own: weights that are rounded err alike at all points, so that a unit has as many
as its row of the weights, and a sweep turns all errors of a trial into the direction that grows. Emulated right
backends give 0.01 to 0.5 for whole tensors, and 0.05 mostly; what is eight times too coarse gives 64 times as much.

Of a parallel solve (`kpref.oracle.parallel_solves`) it is counted on random errors x, each entry over its deviation,
how many there are: ``1 / nu = mean of <x, x'>^2 / n^2`` over pairs of them, n entries. It rounds at each level, numbers
of all sizes. Of one with a fraction 1 <= m < 2 a rounding is at most u/m of it, and where the logarithm of m is
uniform, as in products of many numbers, the mean square of that is ``3 / (8 ln 2) u^2 / 3``, 0.18 u^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.claimed_errors import Comparison

__all__ = ["Roundings", "directions_of", "parallel_excess", "pooled_excess"]

#: Mean square of a rounding over its deviation, at most; of those of numbers of all sizes; of an approximated function.
_ROUNDING, _ROUNDING_OF_ALL_SIZES, _APPROXIMATED = 1 / 3, 1 / (8 * np.log(2)), 4.0

#: Minus the logarithm of the probability of an excess by chance.
_CHANCE = 25.0

#: Squares count up to here: single entries have a bound of their own.
_CAP = 9.0

#: Pools: what their means are called, and the axes that they are over.
_ALL = "all entries"
_OVER = {"unit": (0, 1), "step": (0, 2)}


@dataclass
class Roundings:
    """Of how many independent errors means are made, counted on random ones, a trial after the other.

    Attributes
    ----------
    pairs : dict of str to ndarray
        Mean squares of products of two of them, by pool.
    shape : tuple of int
        Trials, steps and units.
    """

    pairs: dict[str, Array]
    shape: tuple[int, ...]

    @classmethod
    def of_none(cls, shape: tuple[int, ...]) -> Roundings:
        """Before there is any."""
        _, steps, units = shape
        return cls({_ALL: np.zeros(1), "unit": np.zeros(units), "step": np.zeros(steps)}, shape)

    def add(self, samples: Array) -> None:
        """Those of a trial, (count, T, H), over their deviations."""
        count = len(samples)
        for words, axes in ((_ALL, "itk,jtk->ij"), ("unit", "itk,jtk->kij"), ("step", "itk,jtk->tij")):
            products = np.square(np.einsum(axes, samples, samples, optimize=True))
            apart = products.sum(axis=(-2, -1)) - np.trace(products, axis1=-2, axis2=-1)
            self.pairs[words] += apart / (count * (count - 1))

    def counts(self) -> dict[str, Array]:
        """By pool; never more than it has entries."""
        size = np.prod(self.shape)
        entries = {words: size / len(pairs) for words, pairs in self.pairs.items()}
        return {words: entries[words] ** 2 / np.maximum(pairs, entries[words]) for words, pairs in self.pairs.items()}


def pooled_excess(
    comparison: Comparison,
    shape: tuple[int, ...],
    arithmetic: Arithmetic,
    swept: bool,
    data: Array | None = None,
    alone: bool = False,
    directions: float = np.inf,
) -> tuple[float, str]:
    """Mean squares of errors over deviations, in parts of what rounding explains: the largest, and of which entries.

    `shape`: trials, steps and units of the problem. `swept`: whether the errors have passed through a sweep. `data`:
    the answer, if it is made of the trajectory and the same numbers at all points, and not of other random ones at
    each. `alone`: whether it is of one parameter alone, of which all units may see no more than one number at each
    point. `directions`: as `directions_of` gives them, where weights are rounded when they multiply.
    """
    trials, steps, units = shape
    points, size = trials * steps, comparison.error.size
    if data is not None:
        unit, step = (
            np.minimum(_numbers(part, max(1e-4, 4 * arithmetic.unit)), directions)
            for part in (data.reshape(1, points, units), data.swapaxes(0, 1))
        )
        most, unit, step = (1, unit, step) if alone else (units, np.minimum(unit, units), np.minimum(step, units))
        roundings: dict[str, Array | float] = {
            _ALL: most * float(unit.max()),
            "unit": np.minimum(unit[0], units),
            "step": most * step.max(axis=1),
        }
        return _largest(comparison, roundings, _ROUNDING, arithmetic)
    roundings = {_ALL: trials if swept else min(size, units * min(units, points))}
    if comparison.error.ndim == 3 and not swept:
        roundings |= {"unit": min(units, points), "step": units * min(units, trials)}
    return _largest(comparison, roundings, _ROUNDING, arithmetic)


def directions_of(points: Array) -> float:
    """How many independent sums a row of a weight makes of so many points, (points, features): 1 if all are one.

    Weights that a product rounds err alike at all points, by ``sum_k e_k v_k``, and so do functions of such sums. Of
    Gaussian e the variance of the mean of their squares is that of this many independent ones, ``tr(C)^2 / tr(C^2)`` of
    the second moments C of v.
    """
    largest = np.abs(points).max(initial=0.0)
    if not 0 < largest < np.inf:
        return 1.0
    moments = np.asarray((points / largest).T @ (points / largest))
    return float(np.trace(moments) ** 2 / np.square(moments).sum())


def _numbers(answer: Array, resolution: float) -> Array:
    """How many numbers stand in a row, (i, k) of (i, j, k): what a bias makes in a linear network is one everywhere.

    A number that came about twice was rounded twice alike. Signs aside, and to a `resolution`, as the order of a sum
    may depend on where it stands.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.abs(answer) / np.abs(answer).max(axis=1, keepdims=True)
    ordered = np.sort(np.round(np.nan_to_num(parts) / resolution), axis=1)
    return np.asarray(1.0 + np.count_nonzero(np.diff(ordered, axis=1), axis=1))


def parallel_excess(comparison: Comparison, roundings: Roundings, arithmetic: Arithmetic) -> float:
    """The largest of residuals that a parallel solve may have left."""
    return _largest(comparison, roundings.counts(), _ROUNDING_OF_ALL_SIZES, arithmetic)[0]


def _largest(
    comparison: Comparison, roundings: Mapping[str, Array | float], rounding: float, arithmetic: Arithmetic
) -> tuple[float, str]:
    """The largest excess over pools, of each of which `roundings` says how many independent errors it has at least."""
    squares = np.minimum(np.square(comparison.ratio()), _CAP)
    mean = _APPROXIMATED if arithmetic.elementary else rounding
    best, place = 0.0, _ALL
    for words, count in roundings.items():
        own = squares.reshape(1, -1).mean(axis=1) if words == _ALL else squares.mean(axis=_OVER[words])
        parts = own / (mean * (1 + 2 * np.sqrt(_CHANCE / count) + 2 * _CHANCE / count))
        index = int(np.argmax(parts))
        if parts[index] > best:
            best, place = float(parts[index]), f"{words} {index}" if len(parts) > 1 else words
    return best, place
