"""Step size control: error norm, PI controller, first step, and steps that land on given times.

References
----------
Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd edition (1993), section II.4.
Gustafsson, *Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods*, ACM TOMS 17 (1991).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpref.integrate.solution import weighted_sum
from kpref.integrate.tableau import Tableau

__all__ = ["StepController", "error_norms", "first_step_size", "landing_step"]

FloatArray: TypeAlias = NDArray[np.float64]

SAFETY = 0.9
SMALLEST_FACTOR = 0.2
LARGEST_FACTOR = 10.0
STRETCH = 1.1
"""A step grows by at most this to reach a time exactly: less than 1 / SAFETY, so the error still meets the
tolerance."""


def _rms(values: FloatArray) -> FloatArray:
    """Root mean square over the last axis: (B, H) to (B,)."""
    return np.sqrt(np.mean(values * values, axis=-1))


def error_norms(tableau: Tableau, h: float, derivatives: Sequence[FloatArray], scale: FloatArray) -> FloatArray:
    """The estimated error of one step in units of the tolerance, for each trial.

    `tableau`: a method with error weights. `h`: step size. `derivatives`: stage derivatives, with that at the end of
    the step if the error weights take it. `scale`: shape (B, H); tolerated error of every component.
    Returns shape (B,): root mean square over the units of estimate / scale. With two estimates u (of higher order) and
    v it is u^2 / sqrt(u^2 + v^2 / 100), which for orders 5 and 3 behaves like h^8.
    """
    assert tableau.b_error is not None
    error = _rms(h * weighted_sum(tableau.b_error.tolist(), derivatives) / scale)
    if tableau.b_error_low is None:
        return error
    low = _rms(h * weighted_sum(tableau.b_error_low.tolist(), derivatives) / scale)
    size = np.sqrt(error * error + 0.01 * low * low)
    return np.divide(error * error, size, out=np.zeros_like(error), where=size != 0.0)


class StepController:
    """A PI controller: factors by which to change the step.

    After an accepted step with error e, in units of the tolerance, and error e_old before it,

        factor = 0.9 e^{-(1/k - 3/4 beta)} e_old^beta,      k = error_order + 1,  beta = 0.2 / k,

    within [0.2, 10] and at most 1 right after a rejection; e_old is no less than 1e-4. For pairs of order 5(4) beta
    is 0.04,
    the value of Hairer's program DOPRI5. After a rejected step, factor = 0.9 e^{-1/k}, at least 0.2.

    `error_order`: the error estimate is O(h^{error_order + 1}).
    """

    def __init__(self, error_order: int) -> None:
        self._exponent = 1.0 / (error_order + 1)
        self._beta = 0.2 * self._exponent
        self._previous = 1e-4
        self._rejected = False

    def accepted(self, error: float) -> float:
        """The factor after an accepted step with this error."""
        proportional = max(error, 1e-10) ** -(self._exponent - 0.75 * self._beta)
        factor = SAFETY * proportional * self._previous**self._beta
        factor = min(max(factor, SMALLEST_FACTOR), 1.0 if self._rejected else LARGEST_FACTOR)
        self._previous, self._rejected = max(error, 1e-4), False
        return factor

    def rejected(self, error: float) -> float:
        """The factor after a rejected step with this error, which may be infinite."""
        self._rejected = True
        return max(SAFETY * error**-self._exponent, SMALLEST_FACTOR)


def first_step_size(
    rhs: Callable[[float, FloatArray], FloatArray],
    start: float,
    span: float,
    z: FloatArray,
    derivative: FloatArray,
    rtol: FloatArray,
    atol: FloatArray,
    order: int,
) -> float:
    """A first step that neither wastes evaluations nor is rejected, at the price of one evaluation.

    One Euler step of size h_0 = 0.01 |z| / |f| estimates the second derivative; then 0.01 = h^order max(|f|,
    |z''|), with norms in units of the tolerance, at most 100 h_0. Of the steps of the trials the smallest is taken.

    `rhs`: f(t, z), to (B, H). `start`, `span`: initial time, and how far the right-hand side is smooth from there. `z`,
    `derivative`: shape (B, H); initial states and their derivatives. `rtol`, `atol`: shape () or (H,); tolerances.
    `order`: the error estimate is O(h^order).
    """
    scale = atol + rtol * np.abs(z)
    size, slope = _rms(z / scale), _rms(derivative / scale)
    tiny = (size < 1e-5) | (slope < 1e-5)
    h0 = min(float(np.min(np.where(tiny, 1e-6, 0.01 * size / np.where(tiny, 1.0, slope)))), span)
    curvature = _rms((rhs(start + h0, z + h0 * derivative) - derivative) / scale) / h0
    steepest = float(np.max(np.maximum(slope, curvature)))
    h1 = max(1e-6, 1e-3 * h0) if steepest <= 1e-15 else (0.01 / steepest) ** (1.0 / order)
    return min(100.0 * h0, h1, span)


def landing_step(h: float, remaining: float) -> float:
    """The step to take when `remaining` is left to a time that must be hit, and the controller proposes `h`.

    All that remains if that is at most 1.1 h, half of it if it is at most 2 h (so that no sliver is left over),
    else h.
    """
    if remaining <= STRETCH * h:
        return remaining
    if remaining <= 2.0 * h:
        return 0.5 * remaining
    return h
