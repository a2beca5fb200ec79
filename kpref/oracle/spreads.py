"""Sizes of errors: a standard deviation, if rounding errors are independent, and a worst case.

See Higham, *Accuracy and Stability of Numerical Algorithms*, chapters 1 and 3, for the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic, Error

__all__ = ["Spread", "approximated", "no_error", "relative", "sum_error", "weighted"]


@dataclass(frozen=True, eq=False)
class Spread:
    """Size of an error: its standard deviation if rounding errors are independent, and its worst case.

    Sums of independent errors add variances, worst cases add magnitudes; a factor scales both.
    """

    deviation: Array
    worst: Array

    def __add__(self, other: Spread) -> Spread:
        # Not np.hypot, which is many times slower: what its care would save is below the floor of the certificates.
        deviation = np.sqrt(np.square(self.deviation) + np.square(other.deviation))
        return Spread(deviation, self.worst + other.worst)

    def times(self, factor: Array | float) -> Spread:
        """Error of a product with an exact factor."""
        return Spread(np.abs(factor) * self.deviation, np.abs(factor) * self.worst)

    def reshape(self, *shape: int) -> Spread:
        """The same with another shape."""
        return Spread(self.deviation.reshape(*shape), self.worst.reshape(*shape))

    def __getitem__(self, index: Any) -> Spread:
        return Spread(self.deviation[index], self.worst[index])


def no_error(shape: tuple[int, ...]) -> Spread:
    """That of exact numbers."""
    return Spread(np.zeros(shape), np.zeros(shape))


def relative(values: Array | float, unit: float, operations: int = 1) -> Spread:
    """Error of values that a number of operations have rounded."""
    size = unit * np.abs(np.asarray(values, dtype=np.float64))
    return Spread(np.sqrt(operations) * size, operations * size)


def approximated(values: Array, unit: float, error: Error) -> Spread:
    """Error of an elementary function that errs by so many units of its value, or of one, whichever is larger.

    Half of the largest error stands for the deviation, as two for four roundings.
    """
    of_value, of_one = error
    size = unit * np.maximum(of_value * np.abs(np.asarray(values, dtype=np.float64)), of_one)
    return Spread(0.5 * size, size)


def sum_error(total: Array, squares: Array, magnitudes: Array, terms: int, arithmetic: Arithmetic) -> Spread:
    """Error of inner products: operands rounded, products summed in the precision of accumulation, the result rounded.

    `total`: the sums. `squares`, `magnitudes`: sums of the squares and of the magnitudes of the terms.

    Notes
    -----
    Each term carries two rounded operands and its own rounding. Partial sums in any order are about as large as the
    total plus a random walk over the terms; each is rounded once, hence sqrt(terms) for the deviation. The worst case
    is Higham's gamma_k. Where accumulators truncate each partial sum becomes smaller, so that these errors add up.
    """
    operand, adding, stored = arithmetic.operand, arithmetic.accumulate, max(arithmetic.unit, arithmetic.result)
    deviation = np.sqrt(
        (2 * operand**2 + adding**2) * squares
        + adding**2 * terms * (np.square(total) + squares)
        + stored**2 * np.square(total)
    )
    worst = (2 * operand + adding * (terms + 1)) * magnitudes + stored * np.abs(total)
    if not arithmetic.bias:
        return Spread(deviation, worst)
    drift = arithmetic.bias * terms
    return Spread(deviation + drift * np.sqrt(np.square(total) + squares), worst + drift * magnitudes)


def weighted(weight: Array, vector: Array, carried: Spread | None, arithmetic: Arithmetic) -> tuple[Array, Spread]:
    """``W v`` for vectors (..., n), and its error, that of v carried along."""
    total = vector @ weight.T
    squares, magnitudes = np.square(vector) @ np.square(weight).T, np.abs(vector) @ np.abs(weight).T
    error = sum_error(total, squares, magnitudes, weight.shape[1], arithmetic)
    if carried is None:
        return total, error
    deviation, worst = (np.broadcast_to(size, vector.shape) for size in (carried.deviation, carried.worst))
    through = Spread(np.sqrt(np.square(deviation) @ np.square(weight).T), worst @ np.abs(weight).T)
    return total, error + through
