"""Numbers that carry their errors through the plain code of a model: what rounding can do to its coefficients.

`Uncertain` is an array with, for each entry, a standard deviation and a worst case of its error (`Spread`). NumPy's
operations on it propagate them to first order, as those of independent errors, and add the rounding of the result;
elementary functions are looked up in a table that says how they err and how steep they are within reach of the error. A
model's `_evaluate` and `numbers` run on it unchanged, so that no model needs an analysis of its own.

Constants in the code of a model (a leak, the inverse of a time constant) are rounded when they are stored, but for
integers. Elementary functions err by units of their value or of one, whichever is larger, as the arithmetic says. A
derivative that is formed from a stored value, as ``1 - t**2`` for tanh, errs by units of one, however small it is
(Higham, *Accuracy and Stability of Numerical Algorithms*, chapter 1): the table allows for both formulas.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from kpref._types import Array
from kpref.models.nonlinearity import (
    get_nonlinearity,
    linoid,
    linoid_slope,
    sigmoid_pair,
    sigmoid_slope,
    tanh_slope,
)
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.cancellation import exponential_less_one, lost_of_linoid, lost_of_linoid_slope
from kpref.oracle.spreads import Spread, Weight, approximated, combined, no_error, relative, weighted

__all__ = ["Uncertain", "value_with_errors", "with_errors"]

#: An argument may lie within so many deviations of its value: derivatives are taken where they are largest there.
_REACH = 3.0


class Uncertain(NDArrayOperatorsMixin):
    """An array whose entries carry their errors.

    `spread`: of the errors; None where there is none. `arithmetic`: that operations round in.
    """

    def __init__(self, value: npt.ArrayLike, spread: Spread | None, arithmetic: Arithmetic) -> None:
        self.value = np.asarray(value, dtype=np.float64)
        shape = self.value.shape
        given = no_error(shape) if spread is None else spread
        if given.deviation.shape != shape or given.worst.shape != shape:
            given = Spread(np.broadcast_to(given.deviation, shape), np.broadcast_to(given.worst, shape))
        self.spread = given
        self.arithmetic = arithmetic

    def _made(self, value: Array, spread: Spread) -> Uncertain:
        return Uncertain(value, spread, self.arithmetic)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """As of an array."""
        return self.value.ndim

    @property
    def T(self) -> Uncertain:
        """As of an array."""
        return self._made(self.value.T, Spread(self.spread.deviation.T, self.spread.worst.T))

    @property
    def real(self) -> Uncertain:
        """As of an array: itself."""
        return self

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Uncertain:
        return self._made(self.value[index], self.spread[index])

    def _lifted(self, other: Any) -> Uncertain:
        """A constant, with the error of storing it."""
        if isinstance(other, Uncertain):
            return other
        value = np.asarray(other, dtype=np.float64)
        stored = relative(np.where(np.rint(value) == value, 0.0, value), self.arithmetic.unit, 2)
        return self._made(value, stored)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in _COMPARISONS:
            return ufunc(*(one.value if isinstance(one, Uncertain) else one for one in inputs))
        if ufunc not in _OPERATIONS:
            raise TypeError(f"how numpy.{ufunc.__name__} errs is not known: kpref.oracle.uncertain has the table")
        with np.errstate(all="ignore"):
            value, spread = _OPERATIONS[ufunc](self.arithmetic, *map(self._lifted, inputs))
        return self._made(value, spread)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function not in _MOVES:
            raise TypeError(f"numpy.{function.__name__} of numbers with errors is not known")
        return _MOVES[function](self, *arguments, **options)

    def elementary(self, function: Callable[..., Any]) -> Any:
        """A function of `kpref.models.nonlinearity` of this array."""
        with np.errstate(all="ignore"):
            found = _ELEMENTARY[function.__name__](self.arithmetic, self)
        return tuple(self._made(*one) for one in found) if isinstance(found, list) else self._made(*found)


def with_errors(model: Any, states: Array, inputs: Array, arithmetic: Arithmetic) -> tuple[Spread, dict[str, Spread]]:
    """Errors of a backend's map or field, and of the numbers of its linearised step.

    `model`: with parameters that the arithmetic can hold. `states`, `inputs`: shape (..., H); exact.
    Returns the value, shape (..., H), and the numbers of each channel and variable.
    """

    twin, z, x = _on_uncertain(model, states, inputs, arithmetic)
    value, numbers = twin._evaluate(twin._parameters, z, x), twin.numbers(z, x)
    return value.spread, {
        name: z._lifted(number).spread for name, number in (numbers.channels | numbers.variables).items()
    }


def value_with_errors(model: Any, states: Array, inputs: Array, arithmetic: Arithmetic) -> Spread:
    """Errors of a backend's map or field alone, as of `with_errors`."""
    twin, z, x = _on_uncertain(model, states, inputs, arithmetic)
    value: Uncertain = twin._evaluate(twin._parameters, z, x)
    return value.spread


def _on_uncertain(model: Any, states: Array, inputs: Any, arithmetic: Arithmetic) -> tuple[Any, Uncertain, Uncertain]:
    """The model, states and inputs as numbers that carry their errors, of which only inputs may have some already."""
    twin = copy.copy(model)
    twin._parameters = {name: Uncertain(value, None, arithmetic) for name, value in model.parameters.items()}
    x = inputs if isinstance(inputs, Uncertain) else Uncertain(inputs, None, arithmetic)
    return twin, Uncertain(states, None, arithmetic), x


# Operations: value and spread of the result


def _sum(arithmetic: Arithmetic, a: Uncertain, b: Uncertain) -> tuple[Array, Spread]:
    value = a.value + b.value
    return value, combined(a.spread, b.spread, relative(value, arithmetic.unit))


def _difference(arithmetic: Arithmetic, a: Uncertain, b: Uncertain) -> tuple[Array, Spread]:
    value = a.value - b.value
    return value, combined(a.spread, b.spread, relative(value, arithmetic.unit))


def _product(arithmetic: Arithmetic, a: Uncertain, b: Uncertain) -> tuple[Array, Spread]:
    value = a.value * b.value  # of two that may both be anything, as slopes of relu at its corner, the errors too
    both = b.spread.scaled(a.spread)
    return value, combined(a.spread.times(b.value), b.spread.times(a.value), both, relative(value, arithmetic.unit))


def _quotient(arithmetic: Arithmetic, a: Uncertain, b: Uncertain) -> tuple[Array, Spread]:
    value = a.value / b.value
    own = relative(value, arithmetic.unit)
    return value, combined(a.spread.times(1 / b.value), b.spread.times(value / b.value), own)


def _square(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    return _product(arithmetic, a, a)[0], a.spread.times(2 * a.value) + relative(a.value**2, arithmetic.unit)


def _matmul(arithmetic: Arithmetic, a: Uncertain, b: Uncertain) -> tuple[Array, Spread]:
    """Vectors (..., n) times a matrix (n, m); what is lost near zero may hide on which side of it a sum is."""
    total, variance, worst = weighted(
        Weight.of(b.value), a.value, np.square(a.spread.deviation), a.spread.worst, arithmetic
    )
    if b.spread.worst.any():
        variance += np.square(a.value) @ np.square(b.spread.deviation)
        worst += np.abs(a.value) @ b.spread.worst
    lost = arithmetic.underflow * (worst > 0)
    return total, Spread(np.sqrt(variance + np.square(lost)), worst + lost)


def _exact(function: Callable[..., Array]) -> Callable[..., tuple[Array, Spread]]:
    return lambda arithmetic, a: (function(a.value), a.spread)


def _smooth(
    name: str, function: Callable[[Array], Array], slope: Callable[[Array], Array], peak: float | None = None
) -> Callable[..., tuple[Array, Spread]]:
    """The elementary function `name`, whose derivative has its largest magnitude at +-peak (None: grows)."""

    def apply(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
        value = function(a.value)
        steepest = _top(a) if peak is None else _nearest(a, peak)
        own = approximated(value, arithmetic.unit, arithmetic.error_of(name))
        return value, a.spread.times(slope(steepest)) + own

    return apply


def _bell(
    name: str, function: Callable[[Array], Array], slope: Callable[[Array], Array], peak: float, factor: float
) -> Callable[..., tuple[Array, Spread]]:
    """The derivative of the elementary function `name`, which may be formed from its stored value v.

    Then it errs by units of one: by four roundings, or by `factor` times what v errs by if that is more.
    """

    def apply(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
        value = function(a.value)
        units = max(4.0, factor * max(arithmetic.error_of(name)))
        own = approximated(np.ones_like(value), arithmetic.unit, (units, units))
        return value, a.spread.times(slope(_nearest(a, peak))) + own

    return apply


def _reach(a: Uncertain) -> Array:
    return np.minimum(_REACH * a.spread.deviation, a.spread.worst)


def _top(a: Uncertain) -> Array:
    return np.asarray(a.value + _reach(a))


def _nearest(a: Uncertain, peak: float = 0.0) -> Array:
    """The magnitude within reach of ``|a|`` that is nearest to `peak`, where an even function has its maximum."""
    reach, size = _reach(a), np.abs(a.value)
    return np.maximum(np.clip(peak, size - reach, size + reach), 0.0)


def _less_one(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    return np.expm1(a.value), a.spread.times(np.exp(_top(a))) + exponential_less_one(a.value, arithmetic)


def _root(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    value, steepest = np.sqrt(a.value), 0.5 / np.sqrt(np.maximum(a.value - _reach(a), np.finfo(float).tiny))
    return value, a.spread.times(steepest) + approximated(value, arithmetic.unit, arithmetic.error_of("sqrt"))


_COMPARISONS = {
    np.greater,
    np.greater_equal,
    np.less,
    np.less_equal,
    np.equal,
    np.not_equal,
    np.isfinite,
    np.signbit,
    np.sign,
}

_OPERATIONS: dict[Any, Callable[..., tuple[Array, Spread]]] = {
    np.add: _sum,
    np.subtract: _difference,
    np.multiply: _product,
    np.divide: _quotient,
    np.square: _square,
    np.matmul: _matmul,
    np.negative: _exact(np.negative),
    np.positive: _exact(np.positive),
    np.absolute: _exact(np.abs),
    np.tanh: _smooth("tanh", np.tanh, tanh_slope, 0.0),
    np.exp: _smooth("exp", np.exp, np.exp),
    np.expm1: _less_one,
    np.sin: _smooth("sin", np.sin, np.ones_like, 0.0),
    np.cos: _smooth("cos", np.cos, np.ones_like, 0.0),
    np.sqrt: _root,
}


# Elementary functions of kpref.models.nonlinearity


def _pair(arithmetic: Arithmetic, a: Uncertain) -> list[tuple[Array, Spread]]:
    """sigmoid(a), and its complement, which may be formed from it."""
    value, complement = sigmoid_pair(a.value)
    own = approximated(value, arithmetic.unit, arithmetic.error_of("sigmoid"))
    error = a.spread.times(sigmoid_slope(_nearest(a))) + own
    return [(value, error), (complement, error + relative(np.ones_like(value), arithmetic.unit))]


def _jump(a: Uncertain) -> Array:
    """Whether an argument is within reach of zero, where the slope of relu jumps."""
    return (_nearest(a) == 0) & (a.spread.worst > 0)


def _relu(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    relu = get_nonlinearity("relu")
    return relu.value(a.value), a.spread.times(np.where(_jump(a), 1.0, relu.slope(a.value)))


def _relu_slope(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    jump = 1.0 * _jump(a)
    return get_nonlinearity("relu").slope(a.value), Spread(jump, jump)


def _sigmoid_second(a: Array) -> Array:
    value, complement = sigmoid_pair(a)
    return value * complement * np.abs(complement - value)


def _tanh_second(a: Array) -> Array:
    return 2.0 * np.abs(np.tanh(a)) * tanh_slope(a)


def _erf_second(a: Array) -> Array:
    return 4.0 / np.sqrt(np.pi) * np.abs(a) * np.exp(-np.square(a))


def _linoid(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    """A quotient of what is left of an exponential: four roundings beside its error, and what the difference loses."""
    value = linoid(a.value)
    error = arithmetic.error_of("exp")
    own = approximated(value, arithmetic.unit, (error[0] + 4.0, error[1]))
    lost = relative(value * lost_of_linoid(a.value, arithmetic), arithmetic.unit)
    return value, a.spread.times(linoid_slope(_top(a))) + own + lost


def _linoid_slope(arithmetic: Arithmetic, a: Uncertain) -> tuple[Array, Spread]:
    """Its slope, steepest at zero."""
    value, own = _bell("exp", linoid_slope, lambda a: np.full_like(a, 1 / 6), 0.0, 2.0)(arithmetic, a)
    return value, own + relative(lost_of_linoid_slope(a.value, arithmetic), arithmetic.unit)


_erf, _softplus = get_nonlinearity("erf"), get_nonlinearity("softplus")

_ELEMENTARY: dict[str, Callable[..., Any]] = {
    "sigmoid_pair": _pair,
    "sigmoid_slope": _bell("sigmoid", sigmoid_slope, _sigmoid_second, 1.317, 1.0),
    "tanh_slope": _bell("tanh", tanh_slope, _tanh_second, 0.6585, 2.0),
    "relu": _relu,
    "relu_slope": _relu_slope,
    "softplus": _smooth("softplus", _softplus.value, _softplus.slope),
    "linoid": _linoid,
    "linoid_slope": _linoid_slope,
    "erf": _smooth("erf", _erf.value, _erf.slope, 0.0),
    "erf_slope": _bell("exp", _erf.slope, _erf_second, 0.7071, 1.0),
}


# What moves entries


def _concatenated(like: Uncertain, arrays: Sequence[Any], axis: int = 0) -> Uncertain:
    parts = [like._lifted(array) for array in arrays]
    joined = [
        np.concatenate(part, axis=axis)
        for part in zip(*((p.value, p.spread.deviation, p.spread.worst) for p in parts), strict=True)
    ]
    return like._made(joined[0], Spread(joined[1], joined[2]))


def _split(like: Uncertain, array: Uncertain, sections: Any, axis: int = 0) -> list[Uncertain]:
    pieces = (np.split(part, sections, axis) for part in (array.value, array.spread.deviation, array.spread.worst))
    return [like._made(value, Spread(*sizes)) for value, *sizes in zip(*pieces, strict=True)]


def _repeated(like: Uncertain, array: Uncertain, repeats: int, axis: int) -> Uncertain:
    value, deviation, worst = (
        np.repeat(part, repeats, axis) for part in (array.value, array.spread.deviation, array.spread.worst)
    )
    return like._made(value, Spread(deviation, worst))


def _where(like: Uncertain, condition: Array, one: Any, other: Any) -> Uncertain:
    a, b = like._lifted(one), like._lifted(other)
    sizes = [
        np.where(condition, x, y)
        for x, y in ((a.value, b.value), (a.spread.deviation, b.spread.deviation), (a.spread.worst, b.spread.worst))
    ]
    return like._made(sizes[0], Spread(sizes[1], sizes[2]))


_MOVES: dict[Any, Callable[..., Any]] = {
    np.concatenate: _concatenated,
    np.split: _split,
    np.where: _where,
    np.repeat: _repeated,
    np.ones_like: lambda like, array: np.ones(array.shape),
    np.zeros_like: lambda like, array: np.zeros(array.shape),
    np.shape: lambda like, array: array.shape,
}
