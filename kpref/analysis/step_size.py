"""Whether the steps of a Runge-Kutta method are small enough for the network at hand.

*Stability.* A method multiplies the solution of ``dy/dt = lambda y`` by its stability function

    R(w) = 1 + sum_k w^(k+1) b^T A^k 1,   w = h lambda,

a polynomial for explicit methods, in each step. Where the solution decays, Re lambda <= 0, it must not grow:
|R(h lambda)| <= 1 (Hairer and Wanner, *Solving Ordinary Differential Equations II*, chapter IV.2). With lambda the
eigenvalues of df/dz along the trajectory, the growth that the method adds over a trial is about

    sum over steps n of  max over Re lambda <= 0 of  log |R(h lambda[n])|_+ ,

and a method that doubles what should decay is unstable. Growth where Re lambda > 0 is the network's own, and no fault.

*Accuracy.* The trajectory again with every step halved: for order p the difference, times ``2^p / (2^p - 1)``, is the
error of the trajectory as far as the leading power of h goes. An expanding network magnifies small errors as it does
everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.runs import evenly_spread
from kpref.derivative_blocks import state_jacobian
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow
from kpref.integrate import InputSignal, IntegrationError, Solution, Tableau
from kpref.linearize import Form, linearize
from kpref.runge_kutta import integrate
from kpref.threads import serial_blas

__all__ = ["StepSize", "measure_step_size", "stability_function", "step_size_check"]

#: Floating-point operations, 25 H^3 each, that eigenvalues may take; their number, at least and at most.
_EIGENVALUE_WORK = 2e10
_FEWEST, _MOST = 6, 256
#: Fractions of the step at which stability is looked for, descending.
_FRACTIONS = 2.0 ** -np.arange(0.0, 20.0, 1 / 16)
#: Logarithm of the largest growth of what should decay, over a trial.
_TOLERATED = math.log(2.0)
#: Steps tried to find a stable one.
_TRIES = 8


@dataclass(frozen=True)
class StepSize:
    """The steps of a flow against the network's rates."""

    method: str
    step: float  # the largest one
    # of those of df/dz with Re lambda <= 0 the one that the method amplifies most; NaN if there is none
    eigenvalue: complex
    amplification: float  # ``|R(h lambda)|`` there
    growth: float  # logarithm of what the method adds to the growth over a trial: the largest of the trials looked at
    # step at which that was found to stay within a factor of two: the step itself, or a smaller one; NaN if none was
    # found
    limit: float
    # of the states at the times of the trials, relative to their size, by halved steps; infinity if they overflow
    error: float

    @property
    def stable(self) -> bool:
        """Whether the method adds less than a factor of two over a trial."""
        return self.growth <= _TOLERATED

    def in_words(self) -> str:
        """One sentence."""
        if self.stable:
            coarse = " (coarse: a smaller step, --dt, changes the results)" if not self.error <= 0.01 else ""
            size = f"about {self.error:.1g} of their size" if math.isfinite(self.error) else "of unknown size"
            return f"with steps of {self.step:.3g} by {self.method} the states have an error of {size}{coarse}"
        rate = abs(self.eigenvalue)
        text = (
            f"the step {self.step:.3g} is {self.step * rate:.1f} times the time constant {1 / rate:.3g}: {self.method} "
            f"is unstable there, |R(h λ)| = {self.amplification:.3g} where the solution decays, "
            f"a factor {_power_of_ten(self.growth)} over a trial"
        )
        if math.isfinite(self.limit):
            return f"{text}; use a step (--dt) of {self.limit:g} or less"
        return f"{text}; use another method and a much smaller step (--dt)"


def measure_step_size(flow: Flow) -> StepSize:
    """Compare the steps of a flow in continuous time with the rates of its network, and with halved steps.

    Notes
    -----
    Eigenvalues of df/dz at a sample of trials and times, at most 256 matrices and some 2e10 flops, and one integration
    with twice as many steps. An unstable method is tried with a few smaller steps.
    """
    dynamics = flow.dynamics
    assert isinstance(dynamics, FieldDynamics)
    solution, tableau = dynamics.solution, dynamics.tableau
    values, products = _rates(dynamics, flow.linearization, solution)
    grown = _growth(tableau, products, len(solution.h))
    amplified = np.abs(stability_function(tableau, products))
    place = np.unravel_index(int(amplified.argmax()), amplified.shape)
    step = float(solution.h.max())
    return StepSize(
        method=tableau.name,
        step=step,
        eigenvalue=complex(values[place]) if products[place] != 0 else complex(math.nan),
        amplification=float(amplified[place]),
        growth=grown,
        limit=step if grown <= _TOLERATED else _stable_step(dynamics, products),
        error=_halved_error(dynamics),
    )


def _rates(dynamics: FieldDynamics, form: Form, solution: Solution) -> tuple[Array, Array]:
    """Eigenvalues of df/dz at a sample of times and trials, (times, trials, H), and h lambda where Re lambda <= 0."""
    trials, times, units = dynamics.space.shape
    number = int(np.clip(_EIGENVALUE_WORK / (25.0 * units**3), _FEWEST, _MOST))
    some = evenly_spread(trials, max(1, round(number**0.5) // 2))
    rows = evenly_spread(times - 1, max(1, number // len(some)))
    values = _eigenvalues(np.stack([state_jacobian(form, int(row), some) for row in rows]))
    steps = np.maximum.reduceat(solution.h, solution.grid_index[:-1])[rows]
    # R(0) = 1: neither grows nor decays
    return values, np.where(values.real <= 0, values, 0.0) * steps[:, None, None]


def _growth(tableau: Tableau, products: Array, steps: float) -> float:
    """Logarithm of what so many steps add to the growth of what decays: the largest of the trials."""
    logs = np.log(np.maximum(np.abs(stability_function(tableau, products)), 1.0)).max(axis=2)
    return float(logs.mean(axis=0).max()) * steps


def _stable_step(dynamics: FieldDynamics, products: Array) -> float:
    """A step, of two digits, at which the method was tried on these trials and found stable; NaN if none was found.

    Another step leads along other states, whose rates are others: so it is not enough to scale h lambda.
    """
    tableau, count, step = dynamics.tableau, len(dynamics.solution.h), float(dynamics.solution.h.max())
    fraction = 1.0
    for _ in range(_TRIES):
        smaller = (f for f in _FRACTIONS[1:] if _growth(tableau, f * products, count / f) <= _TOLERATED)
        part = next(smaller, math.nan)
        if math.isnan(part):
            return math.nan
        shorter = _two_digits(fraction * part * step)
        fraction = shorter / step
        try:
            form, solution = _slower(dynamics, fraction)
        except IntegrationError:
            continue
        _, products = _rates(dynamics, form, solution)
        if _growth(tableau, products, count) <= _TOLERATED:
            return shorter
    return math.nan


def _two_digits(value: float) -> float:
    """A positive number, rounded down."""
    place = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / place) * place:.1e}")


def _slower(dynamics: FieldDynamics, fraction: float) -> tuple[Form, Solution]:
    """The same trials with all times multiplied by a fraction, and the linearisation at these times."""
    times, lengths = fraction * dynamics.signal.times, dynamics.space.lengths
    signal = _OnOtherGrid(dynamics.signal, times, factor=fraction)
    solution = integrate(dynamics.field, signal, times, dynamics.z0, dynamics.tableau, None, lengths)
    interval = np.minimum(np.arange(len(times)), len(times) - 2)
    inputs = np.ascontiguousarray(np.moveaxis(signal(times, interval), 1, 0))
    return linearize(dynamics.field, solution.states, inputs), solution


def step_size_check(found: StepSize) -> Check:
    """Fails where the method makes what decays grow by more than a factor of two over a trial."""
    return Check(
        "step size",
        "|R(h λ)| ≤ 1 where Re λ ≤ 0",
        found.growth,
        _TOLERATED,
        "logarithm of the growth over a trial of what should decay: at most log 2",
        found.in_words(),
    )


def stability_function(tableau: Tableau, w: npt.ArrayLike) -> Array:
    """R(w), which an explicit method multiplies the solution of ``dy/dt = lambda y`` by, w = h lambda."""
    point = np.asarray(w)
    vector, coefficients = np.ones(tableau.stages), [1.0]
    for _ in range(tableau.stages):
        coefficients.append(float(tableau.b @ vector))
        vector = tableau.a @ vector
    value = np.zeros_like(point)
    for coefficient in reversed(coefficients):
        value = value * point + coefficient
    return np.asarray(value)


@serial_blas
def _eigenvalues(matrices: Array) -> Array:
    """Of each matrix."""
    return np.asarray(np.linalg.eigvals(matrices))


class _OnOtherGrid(InputSignal):
    """A signal on a grid whose times are `factor` times its own, each of its intervals split into so many parts."""

    def __init__(self, signal: InputSignal, times: Array, factor: float = 1.0, parts: int = 1) -> None:
        self.times, self.n_trials, self.n_inputs = times, signal.n_trials, signal.n_inputs
        self._whole, self._factor, self._parts = signal, factor, parts

    @property
    def is_function(self) -> bool:
        """Whether x is a Python function of the user's."""
        return self._whole.is_function

    def __call__(self, t: npt.ArrayLike, interval: npt.ArrayLike) -> Array:
        return self._whole(np.asarray(t) / self._factor, np.asarray(interval) // self._parts)


def _halved_error(dynamics: FieldDynamics) -> float:
    whole, space = dynamics.signal.times, dynamics.space
    times = np.insert(whole, np.arange(1, len(whole)), (whole[:-1] + whole[1:]) / 2)
    signal = _OnOtherGrid(dynamics.signal, times, parts=2)
    lengths = None if space.lengths is None else 2 * space.lengths - 1
    try:
        halved = integrate(dynamics.field, signal, times, dynamics.z0, dynamics.tableau, None, lengths)
    except IntegrationError:
        return math.inf
    states = space.clear(halved.states[::2].swapaxes(0, 1))
    order = dynamics.tableau.order
    difference = float(np.linalg.norm(dynamics.states - states))
    return difference / (float(np.linalg.norm(states)) or 1.0) * 2**order / (2**order - 1)


def _power_of_ten(logarithm: float) -> str:
    value = logarithm / math.log(10)
    return f"{10**value:.3g}" if value < 4 else f"1e{value:.0f}"
