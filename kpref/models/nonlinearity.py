"""Pointwise nonlinearities: value and derivative, real or complex.

Values are analytic in a complex argument (piecewise by the sign of its real part), so that complex-step
differentiation of any model that uses them is exact. Derivatives are written to keep their relative accuracy in
saturation, where ``1 - tanh(a)**2`` would lose all digits. Arguments may be as large as floats are: exponentials then
underflow to the limits, which is no error of anybody's and not reported, whatever the caller's ``np.errstate`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from kpref._bernoulli import BERNOULLI
from kpref._types import Array
from kpref._validate import short

__all__ = [
    "NONLINEARITIES",
    "Nonlinearity",
    "get_nonlinearity",
    "linoid",
    "linoid_slope",
    "sigmoid",
    "sigmoid_pair",
    "sigmoid_slope",
    "tanh_slope",
]

#: Beyond this all exponentials of the negative modulus are zero in double precision; it can be doubled and squared.
_SATURATED = 1e4


def _decaying(a: Array) -> Array:
    """``exp(a)`` for a of a real part that is not positive."""
    with np.errstate(under="ignore"):
        value: Array = np.exp(a)
        return value


def _elementary(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that an array of another kind (numbers with errors, of another precision) may have its own way for."""

    @wraps(function)
    def apply(a: Any) -> Any:
        own = getattr(a, "elementary", None)
        return function(a) if own is None else own(function)

    return apply


@_elementary
def sigmoid_pair(a: Array) -> tuple[Array, Array]:
    """``sigmoid(a)`` and ``sigmoid(-a)``, each to full relative accuracy, for one exponential."""
    positive = a.real > 0
    e = _decaying(np.where(positive, -a, a))
    large = 1.0 / (1.0 + e)
    with np.errstate(under="ignore"):
        small = e * large
    return np.where(positive, large, small), np.where(positive, small, large)


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, without overflow."""
    value: Array = sigmoid_pair(a)[0]
    return value


@_elementary
def sigmoid_slope(a: Array) -> Array:
    """``sigmoid(a) sigmoid(-a)``, accurate in both tails."""
    e = _decaying(-np.abs(a))
    with np.errstate(under="ignore"):
        value: Array = e / np.square(1.0 + e)
        return value


@_elementary
def tanh_slope(a: Array) -> Array:
    """``1 / cosh(a)**2``, accurate in both tails and without overflow."""
    return 4.0 * sigmoid_slope(2.0 * np.minimum(np.abs(a), _SATURATED))


@_elementary
def relu(a: Array) -> Array:
    return np.where(a.real > 0, a, 0)


@_elementary
def relu_slope(a: Array) -> Array:
    return (a > 0).astype(a.dtype)


@_elementary
def softplus(a: Array) -> Array:
    """``log(1 + exp(a))``, without overflow."""
    return np.where(a.real > 0, a, 0) + np.log1p(_decaying(np.where(a.real > 0, -a, a)))


@_elementary
def erf(a: Array) -> Array:
    from scipy import special

    return np.asarray(special.erf(a))


@_elementary
def erf_slope(a: Array) -> Array:
    with np.errstate(under="ignore"):
        return 2.0 / np.sqrt(np.pi) * _decaying(-np.square(np.minimum(np.abs(a), _SATURATED)))


@_elementary
def linoid(a: Array) -> Array:
    """``a / (1 - exp(-a))``, 1 at zero: a rate of Hodgkin and Huxley's channels.

    Near zero by the series ``1 + a / 2 + sum_k B_2k / (2 k)! a**(2 k)``, of convergence radius 2 pi: the derivative by
    a complex step would lose digits to the cancellation of numerator and denominator.
    """
    near, positive = np.abs(a.real) < 1, a.real > 0
    size = np.where(near, 1, np.where(positive, a, -a))
    decay = _decaying(-size)
    with np.errstate(under="ignore"):
        rising = size / (1 - decay)
        value = np.where(positive, rising, rising * decay)
    if not near.any():
        return value
    small = np.where(near, a, 0)
    square, series = small * small, np.zeros_like(small)
    for coefficient in reversed(BERNOULLI):
        series = (series + coefficient) * square
    return np.where(near, 1 + small / 2 + series, value)


@_elementary
def linoid_slope(a: Array) -> Array:
    """Derivative of `linoid`, f: ``f(a) (1 - f(-a)) / a``, as ``f' / f = 1 / a - 1 / (exp(a) - 1)``; or a series."""
    near = np.abs(a) < 1
    far = np.where(near, 1.0, a)
    with np.errstate(under="ignore"):
        slope = linoid(far) * ((1 - linoid(-far)) / far)
    if not near.any():
        return slope
    small = np.where(near, a, 0.0)
    square, series = small * small, np.zeros_like(small)
    for power, coefficient in zip(range(20, 0, -2), reversed(BERNOULLI), strict=True):
        series = series * square + power * coefficient
    return np.where(near, 0.5 + small * series, slope)


def _identity(a: Array) -> Array:
    return a


@dataclass(frozen=True)
class Nonlinearity:
    """A pointwise function and its derivative.

    Attributes
    ----------
    name : str
    value : callable
        phi(a), for real or complex arrays.
    slope : callable
        phi'(a), for real arrays. The derivative of relu at 0 is 0, as in PyTorch.
    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


NONLINEARITIES: dict[str, Nonlinearity] = {
    entry.name: entry
    for entry in (
        Nonlinearity("tanh", np.tanh, tanh_slope),
        Nonlinearity("relu", relu, relu_slope),
        Nonlinearity("softplus", softplus, sigmoid),
        Nonlinearity("sigmoid", sigmoid, sigmoid_slope),
        Nonlinearity("erf", erf, erf_slope),
        Nonlinearity("identity", _identity, np.ones_like),
    )
}


def get_nonlinearity(name: str, allowed: tuple[str, ...] = tuple(NONLINEARITIES)) -> Nonlinearity:
    """The nonlinearity of this name.

    Raises
    ------
    ValueError
        If there is none, or it is not among `allowed`.
    """
    if not isinstance(name, str) or name not in allowed:
        raise ValueError(f"nonlinearity must be one of {', '.join(allowed)}; got {short(name)}")
    return NONLINEARITIES[name]
