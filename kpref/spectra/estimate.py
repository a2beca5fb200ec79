"""A number with how far it can be trusted.

The interval of an estimate follows from its standard error s, the degrees of freedom nu that s rests on, and the scale
on which the estimate is closer to normal. With t the quantile of Student's distribution with nu degrees,

    value +- t s                        on the plain scale,
    value exp(+- t s / value)           on the logarithmic one, for quantities that are positive.

An exact value has s = 0. A *bound* is an s that is not a deviation: the value is sure to lie within it, at any level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

from scipy.special import stdtrit

from kpref._validate import real_number

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A number, exact or estimated.

    Converts to `float`, and can be multiplied by an exact number or divided by one. Two estimates can not be added or
    multiplied: they may share random vectors, so that the error of a sum does not follow from theirs. Compute the sum
    as one quantity, or convert to `float` and lose the error knowingly.

    Attributes
    ----------
    value : float
    standard_error : float
        Standard deviation of the estimate; zero for an exact value.
    n_products : int
        Products with an operator that were needed, transposes and factors counted one each.
    method : str
        Such as ``"exact"`` or ``"XTrace"``.
    degrees : float
        Degrees of freedom that the standard error rests on; infinity if it is known as well as can be.
    logarithmic : bool
        Whether intervals are formed on the logarithmic scale.
    bound : bool
        Whether `standard_error` bounds the error with certainty instead.
    """

    value: float
    standard_error: float
    n_products: int
    method: str
    degrees: float = math.inf
    logarithmic: bool = False
    bound: bool = False

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error."""
        return self.standard_error == 0.0

    @property
    def relative_error(self) -> float:
        """Standard error over the modulus of the value; infinity for an uncertain zero."""
        if self.exact:
            return 0.0
        return self.standard_error / abs(self.value) if self.value else math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval that contains the quantity with probability `level`, over the random vectors.

        Parameters
        ----------
        level : float
            Between 0 and 1.

        Returns
        -------
        low, high : float

        Raises
        ------
        TypeError, ValueError
            If `level` is no number between 0 and 1.
        """
        level = real_number("level", level, above=0, below=1)
        if self.exact:
            return self.value, self.value
        reach = 1.0 if self.bound else float(stdtrit(self.degrees, (1 + level) / 2))
        if self.logarithmic and self.value > 0:
            width = reach * self.standard_error / self.value
            return self.value * math.exp(-width), self.value * math.exp(width) if width < 700 else math.inf
        return self.value - reach * self.standard_error, self.value + reach * self.standard_error

    def products_for(self, relative: float) -> int:
        """Products that would make the 95 % interval reach no further than `relative` times the value, about.

        The error of a mean falls as one over the root of the number of its terms. Methods that find the leading
        directions as they go need fewer.

        Parameters
        ----------
        relative : float
            Such as 0.05.

        Returns
        -------
        int
            `n_products` where that is reached, or where there is no chance in the number.

        Raises
        ------
        ValueError
            If the value is zero but uncertain.
        """
        relative = real_number("relative", relative, above=0)
        if self.exact or self.bound:
            return self.n_products
        if not self.value or not math.isfinite(self._reach()):
            raise ValueError(f"no number of products can be told for a relative error of {self}")
        return max(self.n_products, math.ceil(self.n_products * (self._reach() / (relative * abs(self.value))) ** 2))

    def _reach(self) -> float:
        """Half the width of the 95 % interval."""
        low, high = self.interval()
        return (high - low) / 2

    def __float__(self) -> float:
        return float(self.value)

    def __mul__(self, factor: object) -> Estimate:
        if isinstance(factor, Estimate):
            return self._refuse("multiplied by")
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        number = float(factor)
        return self._scaled(self.value * number, self.standard_error * abs(number), number > 0)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Estimate:
        if isinstance(divisor, Estimate):
            return self._refuse("divided by")
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        if divisor == 0:
            raise ZeroDivisionError(f"{self} cannot be divided by zero")
        number = float(divisor)
        return self._scaled(self.value / number, self.standard_error / abs(number), number > 0)

    def __neg__(self) -> Estimate:
        return self * -1.0

    def __add__(self, other: object) -> Estimate:
        return self._refuse("added to")

    __radd__ = __add__

    def __sub__(self, other: object) -> Estimate:
        return self._refuse("subtracted from")

    __rsub__ = __sub__

    def _scaled(self, value: float, error: float, same_sign: bool) -> Estimate:
        return replace(self, value=value, standard_error=error, logarithmic=self.logarithmic and same_sign)

    def _refuse(self, what: str) -> Estimate:
        raise TypeError(
            f"an Estimate cannot be {what} another number: estimates may share random vectors, so that the error of "
            "the result does not follow from theirs; use float(estimate) for the value alone"
        )

    def __str__(self) -> str:
        if self.exact:
            return f"{self.value:.6g} ({self.method})"
        return f"{self.value:.6g} +- {self.standard_error:.2g} ({self.method}, {self.n_products} products)"
