"""Numbers that are off at random: what rounding does to long chains of operations whose errors cancel in part.

`kpref.oracle.uncertain` and `kpref.oracle.running_errors` add the errors of operands as those of independent numbers.
In a step of many stages they are not: the same error of an early stage enters all later ones, with weights of both
signs that add up to little, so that the sums come out many times too large. A `Noisy` array errs by one deviation, up
or down at random, in each operation that rounds; what a few runs of the plain code on such arrays differ by from the
exact run has all that cancels in it. The deviations are those that the other two modules count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.cancellation import lost_of_linoid, lost_of_linoid_slope
from kpref.oracle.spreads import SumError, approximated

__all__ = ["Jump", "Noise", "Noisy"]


class Noise(NamedTuple):
    """How operations err."""

    arithmetic: Arithmetic
    generator: np.random.Generator
    jacobians: bool = False  # whether factors are entries of Jacobians, which may be formed and rounded by themselves


class Jump(Exception):
    """A function with a jump: a few runs may all lie on one side of it."""


class Noisy(np.ndarray):
    """An array whose operations err at random.

    Build one with `Noisy.of`.
    """

    noise: Noise

    @classmethod
    def of(cls, values: npt.ArrayLike, noise: Noise) -> Self:
        """Exact values: what is made of them errs."""
        view = np.array(values, dtype=np.float64).view(cls)
        view.noise = noise
        return view

    def __array_finalize__(self, other: Any) -> None:
        if other is not None:
            self.noise = getattr(other, "noise", None)  # type: ignore[assignment]

    def elementary(self, function: Callable[..., Any]) -> Any:
        """A function of `kpref.models.nonlinearity` of this array."""
        name, plain = function.__name__, self.view(np.ndarray)
        found, arithmetic = function(plain), self.noise.arithmetic
        if name == "relu_slope":
            raise Jump(name)
        if name == "sigmoid_pair":
            value = self._off(found[0], self._error(found[0], "sigmoid"))
            return value, 1.0 - value
        if name.endswith("_slope"):  # may be formed from the stored value, as `kpref.oracle.uncertain` has it
            own, factor = {"sigmoid_slope": ("sigmoid", 1.0), "tanh_slope": ("tanh", 2.0)}.get(name, ("exp", 1.0))
            units = max(4.0, factor * max(arithmetic.error_of(own)))
            lost = lost_of_linoid_slope(plain, arithmetic) if name == "linoid_slope" else 0.0
            return self._off(found, arithmetic.unit * np.hypot(0.5 * units, lost))
        if name == "linoid":  # four roundings beside the error of its exponential, and what the difference loses
            own = arithmetic.unit * np.hypot(2.0, lost_of_linoid(plain, arithmetic)) * np.abs(found)
            return self._off(found, np.hypot(self._error(found, "exp"), own))
        return self._off(found, self._error(found, name) if name in ("erf", "softplus") else 0.0)

    def _error(self, values: Array, function: str) -> Array:
        arithmetic = self.noise.arithmetic
        return approximated(values, arithmetic.unit, arithmetic.error_of(function)).deviation

    def _off(self, values: Array, deviation: Array | float) -> Noisy:
        """Values that are off by so much, up or down."""
        return Noisy.of(values + self.noise.generator.choice((-1.0, 1.0), np.shape(values)) * deviation, self.noise)

    def _plain(self, value: Any) -> Any:
        """An operand; a constant has the error of storing it."""
        if isinstance(value, Noisy):
            return value.view(np.ndarray)
        constant = np.asarray(value, dtype=np.float64)
        if np.array_equal(np.rint(constant), constant):
            return constant
        sign = self.noise.generator.choice((-1.0, 1.0), constant.shape)
        return constant * (1.0 + np.sqrt(2.0) * self.noise.arithmetic.unit * sign)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [self._plain(value) for value in inputs]
        with np.errstate(all="ignore"):
            found = getattr(ufunc, method)(*plain, **options)
        if np.asarray(found).dtype.kind != "f":
            return found
        found = self._off(found, self._deviation(ufunc, plain, found))
        if out is None:
            return found
        np.asarray(out[0])[...] = found
        return out[0]

    def _deviation(self, ufunc: Any, plain: list[Array], found: Array) -> Array | float:
        """Of the error of one operation."""
        arithmetic, _, jacobians = self.noise
        unit, size = arithmetic.unit, np.abs(found)
        if ufunc in (np.negative, np.positive, np.absolute):
            return 0.0
        if ufunc is np.matmul:
            left, right = plain
            own, squares = SumError.of(left.shape[-1], arithmetic), np.square(left) @ np.square(right)
            of_squares = own.of_squares + (4 * unit**2 if jacobians else 0.0)
            return np.sqrt(own.with_total(found, of_squares * squares, size, squares, 0.0)[0])
        if ufunc.__name__ in ("tanh", "exp", "sin", "cos", "sqrt"):
            return self._error(found, ufunc.__name__)
        if ufunc is np.multiply and jacobians:
            return np.sqrt(unit**2 + 2 * arithmetic.operand**2) * size
        return unit * size
