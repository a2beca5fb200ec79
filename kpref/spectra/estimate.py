"""A number with how far it can be trusted.

The interval of an estimate follows from its standard error s, the degrees of freedom nu that s rests on, and the scale
on which the estimate is closer to normal. With t the quantile of Student's distribution with nu degrees,

    value +- t s                        on the plain scale,
    value exp(+- t s / value)           on the logarithmic one, for quantities that are positive.

An estimate with the *skewness* g is taken for a shifted gamma variable, ``a + b X`` with X of the shape A = 4 / g^2
and the mean 1, and its scale b for what is not known: s = b / A^(1/2) then rises and falls with it. Where X falls below
x with probability (1 - level) / 2, the quantity is at most ``value + s A^(1/2) (1 / x - 1)``, and likewise on the other
side; for a sum of squares of normal numbers this is exact. Each side is stretched by the ratio of the quantiles of
Student and of the normal distribution. For g = 0 it is ``value +- t s``.

An exact value has s = 0. A *bound* is an s that is not a deviation: the value is sure to lie within it, at any level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from operator import mul, truediv

from scipy.special import gammaincinv, ndtri, stdtrit

from kpref._validate import integer, real_number, short

__all__ = ["Estimate", "gamma_reaches"]

#: Half a width of the 95 % interval, relative to the value, above which it is said what a smaller one would take.
_WORTH_A_HINT = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number, exact or estimated.

    Converts to `float`, is formatted as its value where a format is given (``f"{estimate:.3g}"``) and as `str` does
    with its interval where none is, and can be multiplied by an exact number or divided by one. Two estimates can not
    be added or multiplied: they may share random vectors, so that the error of a sum does not follow from theirs.
    Compute the sum as one quantity, or convert to `float` and lose the error knowingly.

    Attributes
    ----------
    value : float
    standard_error : float
        Standard deviation of the estimate; zero for an exact value.
    n_products : int
        Products with an operator that were needed, transposes and factors counted one each.
    method : str
        Such as ``"exact"`` or ``"Krylov"``.
    degrees : float
        Degrees of freedom that the standard error rests on; infinity if it is known as well as can be.
    logarithmic : bool
        Whether intervals are formed on the logarithmic scale.
    bound : bool
        Whether `standard_error` bounds the error with certainty instead.
    skewness : float
        Of the estimate, on the plain scale.
    least, most : float
        What the quantity cannot be below and above; intervals end there.
    forward, backward : int
        For ``A A*``: passes through A alone and through its transpose alone. Two of them are one of `n_products`.
    """

    value: float
    standard_error: float
    n_products: int
    method: str
    degrees: float = math.inf
    logarithmic: bool = False
    bound: bool = False
    skewness: float = 0.0
    least: float = -math.inf
    most: float = math.inf
    forward: int = 0
    backward: int = 0

    def __post_init__(self) -> None:
        for name in ("value", "standard_error"):
            if not isinstance(getattr(self, name), Real) or isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a real number; got {short(getattr(self, name))}")
        integer("n_products", self.n_products, 0)

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
        low, high = self._unrestricted(level)
        return max(float(low), self.least), min(float(high), self.most)

    def _unrestricted(self, level: float) -> tuple[float, float]:
        reach = 1.0 if self.bound else float(stdtrit(self.degrees, (1 + level) / 2))
        if self.logarithmic and self.value > 0:
            width = reach * self.standard_error / self.value
            return self.value * math.exp(-width), self.value * math.exp(width) if width < 700 else math.inf
        below, above = (1.0, 1.0) if self.bound else gamma_reaches(abs(self.skewness), level)
        if self.skewness < 0:
            below, above = above, below
        return self.value - below * reach * self.standard_error, self.value + above * reach * self.standard_error

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
        """Half the width of the 95 % interval, as it would be without `least` and `most`."""
        low, high = self._unrestricted(0.95)
        return (high - low) / 2

    def __float__(self) -> float:
        return float(self.value)

    def __mul__(self, factor: object) -> Estimate:
        if isinstance(factor, Estimate):
            return self._refuse("multiplied by")
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return self._scaled(mul, float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Estimate:
        if isinstance(divisor, Estimate):
            return self._refuse("divided by")
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        if divisor == 0:
            raise ZeroDivisionError(f"{self} cannot be divided by zero")
        return self._scaled(truediv, float(divisor))

    def __neg__(self) -> Estimate:
        return self * -1.0

    def __add__(self, other: object) -> Estimate:
        return self._refuse("added to")

    __radd__ = __add__

    def __sub__(self, other: object) -> Estimate:
        return self._refuse("subtracted from")

    __rsub__ = __sub__

    def _scaled(self, scale: Callable[[float, float], float], number: float) -> Estimate:
        """Multiplied or divided by a number, which rounds once."""
        bounds = (scale(self.least, number), scale(self.most, number)) if number else (-math.inf, math.inf)
        return replace(
            self,
            value=scale(self.value, number),
            standard_error=scale(self.standard_error, abs(number)),
            logarithmic=self.logarithmic and number > 0,
            skewness=self.skewness if number > 0 else -self.skewness,
            least=min(bounds),
            most=max(bounds),
        )

    def _refuse(self, what: str) -> Estimate:
        raise TypeError(
            f"an Estimate cannot be {what} another number: estimates may share random vectors, so that the error of "
            "the result does not follow from theirs; use float(estimate) for the value alone"
        )

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else str(self)

    def __str__(self) -> str:
        if self.exact:
            return f"{self.value:.6g} ({self.method})"
        low, high = self.interval()
        digits = _digits(self.value, self._reach())
        span = f"{low:.{digits}g} to {high:.{digits}g}"
        how = f"{self.method}, {self.n_products} products"
        if self.forward or self.backward:
            how += f": {self.forward} forward and {self.backward} backward passes"
        if self.bound:
            return f"{self.value:.{digits}g} (sure: {span}; {how})"
        hint = ""
        if self.value and _WORTH_A_HINT * abs(self.value) < self._reach() < math.inf:
            hint = f"; +- {100 * _WORTH_A_HINT:.0f} % would take about {self.products_for(_WORTH_A_HINT)}"
        return f"{self.value:.{digits}g} (95 %: {span}; {how}{hint})"


def gamma_reaches(skewness: float, level: float) -> tuple[float, float]:
    """How far a gamma variable's scale may lie below and above what one value of it says, over a normal variable's."""
    if skewness < 1e-6:  # rounding would be larger than its effect
        return 1.0, 1.0
    shape, quantile = 4 / skewness**2, float(ndtri((1 + level) / 2))
    low, high = gammaincinv(shape, [(1 - level) / 2, (1 + level) / 2]) / shape
    return math.sqrt(shape) * (1 - 1 / high) / quantile, math.sqrt(shape) * (1 / low - 1) / quantile


def _digits(value: float, reach: float) -> int:
    """Significant digits of a value that show two of its error."""
    if not (value and 0 < reach < math.inf):
        return 3
    return min(max(2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(reach)), 2), 12)
