"""How far a backend's coefficients may be off because it rounds: standard deviations and worst cases.

A backend computes gates and slopes in its own arithmetic from the states. Their errors come from the currents (sums of
products, rounded), which pass through the derivative of the gate, and from the formula for the gate itself: a backend
that takes ``1 - t**2`` for the derivative of tanh errs by up to two units of rounding of 1, however small the result
(Higham, *Accuracy and Stability of Numerical Algorithms*, chapters 1 and 3). Each model propagates these to first
order, as variances of independent errors (for verdicts) and as sums of magnitudes (worst case).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.models import GRU, RNN, LeakyRNN, Linear, LinearSystem, Model, Rate
from kpref.models.nonlinearity import get_nonlinearity, sigmoid_pair, sigmoid_slope, tanh_slope
from kpref.oracle.arithmetic import Arithmetic

__all__ = ["CoefficientErrors", "Spread", "coefficient_errors", "relative", "sum_error"]

Array = npt.NDArray[Any]


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

    def __getitem__(self, index: Any) -> Spread:
        return Spread(self.deviation[index], self.worst[index])


def relative(values: Array | float, unit: float, operations: int = 1) -> Spread:
    """Error of values that a number of operations have rounded."""
    size = unit * np.abs(np.asarray(values, dtype=np.float64))
    return Spread(np.sqrt(operations) * size, operations * size)


def sum_error(total: Array, squares: Array, magnitudes: Array, terms: int, arithmetic: Arithmetic) -> Spread:
    """Error of inner products: operands rounded, products summed in the precision of accumulation, the result stored.

    Parameters
    ----------
    total : ndarray
        The sums.
    squares, magnitudes : ndarray
        Sums of the squares and of the magnitudes of the terms.
    terms : int
    arithmetic : Arithmetic

    Returns
    -------
    Spread

    Notes
    -----
    Each term carries two rounded operands and its own rounding. Partial sums in any order are about as large as the
    total plus a random walk over the terms; each is rounded once, hence sqrt(terms) for the deviation. The worst case
    is Higham's gamma_k.
    """
    operand, adding = arithmetic.operand, arithmetic.accumulate
    deviation = np.sqrt(
        (2 * operand**2 + adding**2) * squares
        + adding**2 * terms * (np.square(total) + squares)
        + arithmetic.unit**2 * np.square(total)
    )
    worst = (2 * operand + adding * (terms + 1)) * magnitudes + arithmetic.unit * np.abs(total)
    return Spread(deviation, worst)


@dataclass(frozen=True, eq=False)
class CoefficientErrors:
    """Errors of the site form's coefficients and of the map or field itself.

    Attributes
    ----------
    decay, gates, slope, variable : Spread
        As in `kpref.models.SiteCoefficients`.
    value : Spread
        Of F(z, x), shape (..., H).
    """

    decay: Spread
    gates: Spread
    slope: Spread
    variable: Spread
    value: Spread


@singledispatch
def coefficient_errors(model: Model, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    """Errors of a backend's coefficients at states z (..., H) and inputs x (..., n_in)."""
    raise TypeError(f"no error analysis for models of type {type(model).__name__}")


def _product_error(weight: Array, vector: Array, spread: Spread | None, arithmetic: Arithmetic) -> tuple[Array, Spread]:
    """``W v`` and its error, v carrying an error of its own."""
    total = vector @ weight.T
    squares, magnitudes = np.square(vector) @ np.square(weight).T, np.abs(vector) @ np.abs(weight).T
    error = sum_error(total, squares, magnitudes, weight.shape[1], arithmetic)
    if spread is not None:
        carried = np.sqrt(np.square(spread.deviation) @ np.square(weight).T)
        error = error + Spread(carried, spread.worst @ np.abs(weight).T)
    return total, error


def _current_error(
    model: Any, m: Array, spread: Spread | None, x: Array, arithmetic: Arithmetic
) -> tuple[Array, Array, Spread, Spread]:
    """Recurrent and input currents with their biases, and their errors."""
    unit, results = arithmetic.unit, []
    for weight, biases, vector, carried in (
        ("weight_hh", ("bias_hh", "bias"), m, spread),
        ("weight_ih", ("bias_ih",), x, None),
    ):
        total, error = _product_error(model.parameters[weight], vector, carried, arithmetic)
        for bias in biases:
            if bias in model.parameters:
                total = total + model.parameters[bias]
                error = error + relative(total, unit)
        lost = arithmetic.underflow * (error.worst > 0)  # it may hide on which side of zero a tiny current is
        results.append((total, error + Spread(lost, lost)))
    (recurrent, recurrent_error), (driven, driven_error) = results
    return recurrent, driven, recurrent_error, driven_error


def _zero(like: Array) -> Spread:
    return Spread(np.zeros_like(like), np.zeros_like(like))


_TANH = get_nonlinearity("tanh")

#: A current may lie within so many deviations of its value: derivatives are taken where they are largest there.
_REACH = 3.0


def _nearest(a: Array, spread: Spread, peak: float = 0.0) -> Array:
    """The magnitude within reach of ``|a|`` that is nearest to `peak`, where an even function has its maximum."""
    reach = np.minimum(_REACH * spread.deviation, spread.worst)
    size = np.abs(a)
    return np.maximum(np.clip(peak, size - reach, size + reach), 0.0)


def _erf_second(a: Array) -> Array:
    return 4.0 / np.sqrt(np.pi) * np.abs(a) * np.exp(-np.square(a))


def _sigmoid_second(a: Array) -> Array:
    value, complement = sigmoid_pair(a)
    return value * complement * np.abs(complement - value)


#: Magnitude of the second derivative, and the argument where it is largest.
_SECOND: dict[str, tuple[Callable[[Array], Array], float]] = {
    "tanh": (lambda a: 2.0 * np.abs(np.tanh(a)) * tanh_slope(a), 0.6585),
    "identity": (np.zeros_like, 0.0),
    "softplus": (sigmoid_slope, 0.0),
    "sigmoid": (_sigmoid_second, 1.317),
    "erf": (_erf_second, 0.7071),
}


def _pointwise(nonlinearity: Any, a: Array, spread: Spread, arithmetic: Arithmetic) -> tuple[Spread, Spread]:
    """Errors of phi(a) and phi'(a) where a carries an error.

    To first order they are phi' and phi'' times the error; an error that is not small against the scale of phi, as of
    large weights in short numbers, is met by the largest derivative within its reach. Of relu, whose slope jumps, a
    current within reach of zero may have either.
    """
    name, unit = nonlinearity.name, arithmetic.unit
    if name == "relu":
        jump = (_nearest(a, spread) == 0) & (spread.worst > 0)
        return spread.times(np.where(jump, 1.0, nonlinearity.slope(a))), Spread(jump * 1.0, jump * 1.0)
    second, peak = _SECOND[name]
    # softplus has its largest slope to the right, all others at zero
    steepest = a + np.minimum(_REACH * spread.deviation, spread.worst) if name == "softplus" else _nearest(a, spread)
    value = spread.times(nonlinearity.slope(steepest))
    slope = spread.times(second(_nearest(a, spread, peak)))
    if name != "identity":
        value = value + relative(nonlinearity.value(a), unit, 4)
        # A derivative formed from the stored value, as 1 - t**2 or s (1 - s): absolute errors of units of 1.
        slope = slope + relative(np.ones_like(a), unit, 4)
    return value, slope


@coefficient_errors.register
def _(model: RNN, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    recurrent, driven, first, second = _current_error(model, z, None, x, arithmetic)
    a = recurrent + driven
    spread = first + second + relative(a, arithmetic.unit)
    value, slope = _pointwise(model.nonlinearity, a, spread, arithmetic)
    return CoefficientErrors(_zero(z), _stack([slope]), _zero(z), _zero(z), value)


@coefficient_errors.register
def _(model: Linear | LinearSystem, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    recurrent, driven, first, second = _current_error(model, z, None, x, arithmetic)
    value = first + second + relative(recurrent + driven, arithmetic.unit)
    return CoefficientErrors(_zero(z), _stack([_zero(z)]), _zero(z), _zero(z), value)


@coefficient_errors.register
def _(model: LeakyRNN, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    return _leaky(model, model.alpha, 1 - model.alpha, z, x, arithmetic)


@coefficient_errors.register
def _(model: Rate, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    rate = np.broadcast_to(1.0 / model.tau, z.shape)
    return _leaky(model, rate, -rate, z, x, arithmetic)


def _leaky(model: Any, gate: Any, decay: Any, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    """``decay z + gate (W phi(z) + U x + b)``, the two constants rounded."""
    unit = arithmetic.unit
    m = model.nonlinearity.value(z)
    variable, slope = _pointwise(model.nonlinearity, z, _zero(z), arithmetic)
    recurrent, driven, first, second = _current_error(model, m, variable, x, arithmetic)
    current = recurrent + driven
    spread = first + second + relative(current, unit)
    ones = np.ones_like(z)
    value = spread.times(gate) + relative(gate * current, unit, 3) + relative(decay * z, unit, 3)
    return CoefficientErrors(
        relative(decay * ones, unit, 2), _stack([relative(gate * ones, unit, 2)]), slope, variable, value
    )


@coefficient_errors.register
def _(model: GRU, z: Array, x: Array, arithmetic: Arithmetic) -> CoefficientErrors:
    unit = arithmetic.unit
    recurrent, driven, first, second = _current_error(model, z, None, x, arithmetic)
    h = model.n_states
    r_part, u_part, n_part = slice(0, h), slice(h, 2 * h), slice(2 * h, 3 * h)

    def gate(part: slice) -> tuple[Array, Array, Spread]:
        current = recurrent[..., part] + driven[..., part]
        spread = first[..., part] + second[..., part] + relative(current, unit)
        value, complement = sigmoid_pair(current)
        steepest = sigmoid_slope(_nearest(current, spread))
        return value, complement, spread.times(steepest) + relative(value, unit, 4)

    r, r_c, r_error = gate(r_part)
    u, u_c, u_error = gate(u_part)
    one = np.ones_like(z)
    u_c_error = u_error + relative(one, unit)  # 1 - u from the stored u
    a_n, c_n = recurrent[..., n_part], driven[..., n_part]
    candidate = c_n + r * a_n
    candidate_error = (
        second[..., n_part] + r_error.times(a_n) + first[..., n_part].times(r)
        + relative(r * a_n, unit) + relative(candidate, unit)
    )  # fmt: skip
    n, slope = np.tanh(candidate), tanh_slope(candidate)
    n_error, slope_error = _pointwise(_TANH, candidate, candidate_error, arithmetic)
    s, s_error = u_c * slope, u_c_error.times(slope) + slope_error.times(u_c) + relative(u_c * slope, unit)
    uu, uu_error = u * u_c, u_error.times(u_c) + u_c_error.times(u) + relative(u * u_c, unit)
    rr, rr_error = r * r_c, r_error.times(np.abs(r_c - r)) + relative(r * r_c, unit, 2) + relative(r, unit)
    gap, gap_error = z - n, n_error + relative(np.abs(z) + np.abs(n), unit)
    g_u = gap_error.times(uu) + uu_error.times(gap) + relative(gap * uu, unit)
    g_r = (
        s_error.times(a_n * rr) + rr_error.times(s * a_n) + first[..., n_part].times(s * rr)
        + relative(s * a_n * rr, unit, 2)
    )  # fmt: skip
    g_h = s_error.times(r) + r_error.times(s) + relative(s * r, unit)
    value = (
        u_c_error.times(n) + n_error.times(u_c) + u_error.times(z) + relative(np.abs(u_c * n) + np.abs(u * z), unit, 2)
    )
    return CoefficientErrors(u_error, _stack([g_r, g_u, g_h, s_error]), _zero(z), _zero(z), value)


def _stack(spreads: list[Spread]) -> Spread:
    """Gates side by side: (..., k, H)."""
    return Spread(
        np.stack([spread.deviation for spread in spreads], axis=-2),
        np.stack([spread.worst for spread in spreads], axis=-2),
    )
