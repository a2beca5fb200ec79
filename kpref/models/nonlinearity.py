"""Pointwise nonlinearities: value and derivative, real or complex.

Values are analytic in a complex argument (piecewise by the sign of its real part), so that complex-step
differentiation of any model that uses them is exact. Derivatives are written to keep their relative accuracy in
saturation, where ``1 - tanh(a)**2`` would lose all digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import short

__all__ = [
    "NONLINEARITIES",
    "Nonlinearity",
    "get_nonlinearity",
    "sigmoid",
    "sigmoid_pair",
    "sigmoid_slope",
    "tanh_slope",
]

Array = npt.NDArray[Any]


def sigmoid_pair(a: Array) -> tuple[Array, Array]:
    """``sigmoid(a)`` and ``sigmoid(-a)``, each to full relative accuracy, for one exponential."""
    positive = a.real > 0
    e = np.exp(np.where(positive, -a, a))
    large = 1.0 / (1.0 + e)
    small = e * large
    return np.where(positive, large, small), np.where(positive, small, large)


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, without overflow."""
    return sigmoid_pair(a)[0]


def sigmoid_slope(a: Array) -> Array:
    """``sigmoid(a) sigmoid(-a)``, accurate in both tails."""
    e = np.exp(-np.abs(a))
    return e / np.square(1.0 + e)


def tanh_slope(a: Array) -> Array:
    """``1 / cosh(a)**2``, accurate in both tails and without overflow."""
    return 4.0 * sigmoid_slope(2.0 * a)


def _relu(a: Array) -> Array:
    return np.where(a.real > 0, a, 0)


def _relu_slope(a: Array) -> Array:
    return (a > 0).astype(a.dtype)


def _softplus(a: Array) -> Array:
    """``log(1 + exp(a))``, without overflow."""
    return np.where(a.real > 0, a, 0) + np.log1p(np.exp(np.where(a.real > 0, -a, a)))


def _erf(a: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(a))


def _erf_slope(a: Array) -> Array:
    return 2.0 / np.sqrt(np.pi) * np.exp(-np.square(a))


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
        Nonlinearity("relu", _relu, _relu_slope),
        Nonlinearity("softplus", _softplus, sigmoid),
        Nonlinearity("sigmoid", sigmoid, sigmoid_slope),
        Nonlinearity("erf", _erf, _erf_slope),
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
