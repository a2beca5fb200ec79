"""Sizes of errors: a standard deviation, if rounding errors are independent, and a worst case.

See Higham, *Accuracy and Stability of Numerical Algorithms*, chapters 1 and 3, for the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic, Error

__all__ = [
    "Spread", "SumError", "Weight", "approximated", "combined", "no_error", "relative", "sum_error", "weighted",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spread:
    """Size of an error: its standard deviation if rounding errors are independent, and its worst case.

    Sums of independent errors add variances, worst cases add magnitudes; a factor scales both.
    """

    deviation: Array
    worst: Array

    def __add__(self, other: Spread) -> Spread:
        return combined(self, other)

    def times(self, factor: Array | float) -> Spread:
        """Error of a product with an exact factor."""
        return Spread(np.abs(factor) * self.deviation, np.abs(factor) * self.worst)

    def scaled(self, other: Spread) -> Spread:
        """Error of a product of two numbers that are nothing but errors."""
        return Spread(self.deviation * other.deviation, self.worst * other.worst)

    def reshape(self, *shape: int) -> Spread:
        """The same with another shape."""
        return Spread(self.deviation.reshape(*shape), self.worst.reshape(*shape))

    def __getitem__(self, index: Any) -> Spread:
        return Spread(self.deviation[index], self.worst[index])


def combined(first: Spread, *others: Spread) -> Spread:
    """That of a sum of independent errors."""
    # Not np.hypot, which is many times slower: what its care would save is below the floor of the certificates.
    variance, worst = np.square(first.deviation), first.worst
    for other in others:
        variance, worst = variance + np.square(other.deviation), worst + other.worst
    return Spread(np.sqrt(variance), worst)


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
    own = SumError.of(terms, arithmetic)
    parts = own.of_squares * squares, own.of_magnitudes * magnitudes
    variance, worst = own.with_total(total, *parts, squares, magnitudes)
    return Spread(np.sqrt(variance), worst)


class SumError(NamedTuple):
    """How inner products of so many terms err: what is in a variance and in a worst case, see `sum_error`."""

    of_squares: float  # of the variance, for the squares of the terms
    of_total: float  # and for the square of the sum
    of_magnitudes: float  # of the worst case, for the magnitudes of the terms
    stored: float  # and for that of the sum
    drift: float  # by how much the sum is smaller where partial sums are truncated

    @classmethod
    def of(cls, terms: int, arithmetic: Arithmetic) -> SumError:
        """That of an arithmetic."""
        operand, adding, stored = arithmetic.operand, arithmetic.accumulate, max(arithmetic.unit, arithmetic.result)
        return cls(
            2 * operand**2 + (1 + terms) * adding**2,
            terms * adding**2 + stored**2,
            2 * operand + adding * (terms + 1),
            stored,
            arithmetic.bias * terms,
        )

    def with_total(
        self, total: Array, variance: Array, worst: Array, squares: Array | float, magnitudes: Array | float
    ) -> tuple[Array, Array]:
        """Variance and worst case of sums, given those that follow from their terms.

        `squares`, `magnitudes`: of the terms, which nobody asks for where nothing is truncated.
        """
        variance, worst = variance + self.of_total * np.square(total), worst + self.stored * np.abs(total)
        if not self.drift:
            return variance, worst
        deviation = np.sqrt(variance) + self.drift * np.sqrt(np.square(total) + squares)
        return np.square(deviation), worst + self.drift * magnitudes


class Weight(NamedTuple):
    """A matrix that multiplies vectors from the right, (inputs, outputs), with its squares and magnitudes."""

    entries: Array
    squares: Array
    magnitudes: Array

    @classmethod
    def of(cls, entries: Array) -> Weight:
        """That of a matrix (inputs, outputs)."""
        return cls(entries, np.square(entries), np.abs(entries))


def weighted(
    weight: Weight,
    vector: Array,
    variance: Array | float,
    worst: Array | float,
    arithmetic: Arithmetic,
    entry: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Array, Array]:
    """``v W`` for vectors (..., n), and the variance and worst case of its error.

    `variance`, `worst`: of the error of v, which is carried along. `entry`: relative deviation and worst case of errors
    of the entries of W, beyond the rounding of operands.
    """
    own = SumError.of(len(weight.entries), arithmetic)
    squares, magnitudes = np.square(vector), np.abs(vector)
    # Variances are sums over the squares of the same terms, and worst cases over their magnitudes: a product each.
    found = ((own.of_squares + entry[0] ** 2) * squares + variance) @ weight.squares
    most = ((own.of_magnitudes + entry[1]) * magnitudes + worst) @ weight.magnitudes
    terms = (squares @ weight.squares, magnitudes @ weight.magnitudes) if own.drift else (0.0, 0.0)
    total = vector @ weight.entries
    return total, *own.with_total(total, found, most, *terms)
