"""At which power of the step an error falls, how well that is known, and what it says.

A derivative is right if what it leaves unexplained falls as the square of the step. Between two steps x and x' the
errors y and y' have the local order ``log(y / y') / log(x / x')``. Orders of successive pairs tend to the true one, so
that their difference tells how far they still are from it; rounding adds ``(n / y + n' / y') / log(x / x')`` where it
makes up n of y. The order taken is the one for which both together are smallest, among those that agree with the
order at the smallest steps: a nonlinearity that is nearly a kink has other orders for steps longer than its bend.

Where the network has a kink (relu) and a step takes some current across it, there is no order to expect. Such crossings
can be counted: the coefficients of the linearisation jump there, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.wording import percent
from kpref.dynamics import FieldDynamics, MapDynamics
from kpref.flow import Flow
from kpref.linearize import Form, linearize
from kpref.models import Model
from kpref.models.nonlinearity import Nonlinearity
from kpref.runge_kutta import StageSystem
from kpref.step_form import StepForm

__all__ = ["Slope", "fit_slope", "has_kinks", "kinks_crossed", "nonlinearity_of", "slope_check"]

#: Errors above this share of the change itself are no expansion in small steps.
_SMALL = 0.1
#: Errors count if they are larger than rounding by this factor.
_ABOVE_ROUNDING = 30.0
#: Orders whose own error is larger say nothing.
_VAGUE = 0.08
#: What the order may be off by in any case: higher powers of the step.
_SLACK = 0.03


@dataclass(frozen=True)
class Slope:
    """A measured order."""

    value: float | None  # None where fewer than three steps, without kinks crossed, lie between curvature and rounding
    error: float  # how far it may be off by its own account; infinity where there is no value
    smallest: float  # smallest relative error among the steps that cross no kink
    rounding: float  # the part that rounding makes up of that, at most
    # clean, crossed: numbers of steps that cross no kink and have an error, and of those that cross one
    clean: int
    crossed: int


def fit_slope(steps: Array, errors: Array, changes: Array, rounding: Array, crossings: Array) -> Slope:
    """Order at which errors fall with the step.

    `steps`: shape (m,); positive, decreasing. `errors`, `changes`, `rounding`: shape (m,); errors, NaN where there are
    none; sizes of what they are errors of; and how much of them rounding may be. `crossings`: shape (m,); kinks that
    each step crosses.
    """
    clean = np.isfinite(errors) & (crossings == 0) & (changes > 0)
    crossed = int(np.count_nonzero(crossings))
    if not clean.any():
        return Slope(None, math.inf, math.inf, 0.0, 0, crossed)
    relative = np.divide(errors, changes, out=np.full(len(steps), np.inf), where=clean)
    lowest = int(np.argmin(relative))
    share = float(rounding[lowest] / changes[lowest])
    slope = Slope(None, math.inf, float(relative[lowest]), share, int(clean.sum()), crossed)
    use = clean & (errors > _ABOVE_ROUNDING * rounding) & (errors > 0)
    if (use & (relative < _SMALL)).sum() >= 3:
        use &= relative < _SMALL
    if use.sum() < 3:
        return slope
    x, y, noise = np.log(steps[use]), np.log(errors[use]), rounding[use] / errors[use]
    orders = np.diff(y) / np.diff(x)
    doubts = np.abs(np.diff(orders)) + ((noise[:-1] + noise[1:]) / -np.diff(x))[1:]
    best = _best(orders[1:], doubts)
    return replace(slope, value=float(orders[best + 1]), error=float(doubts[best]))


def _best(orders: Array, doubts: Array) -> int:
    """The least doubtful order of those that agree with the one at the smallest steps that is not vague."""
    clear = np.flatnonzero(doubts <= _VAGUE)
    if not clear.size:
        return int(np.argmin(doubts))
    last = clear[-1]
    agreeing = clear[np.abs(orders[clear] - orders[last]) <= doubts[clear] + doubts[last]]
    return int(agreeing[np.argmin(doubts[agreeing])])


def slope_check(name: str, identity: str, slope: Slope, what: str) -> Check:
    """Whether an order is 2, or higher by whole numbers, where the second order happens to vanish.

    `name`, `identity`: of the check. `what`: what falls, in words, with the step that it falls with in mind.
    """
    reason = "the bound is twice the error of the fit, and 0.03 for higher orders"
    if slope.value is not None and slope.error <= _VAGUE:
        expected = max(2.0, float(round(slope.value)))
        gap, bound = abs(slope.value - expected), 2 * slope.error + _SLACK
        power = f"{slope.value:.3f} ± {slope.error:.1g}"
        verdict = f"{what} falls as the step to the power {power} (a right derivative: {expected:.0f})"
        if slope.crossed:
            verdict += f", over steps that cross no kink of relu; of the {slope.crossed} that do no power is claimed"
        return Check(name, identity, gap, bound, reason, verdict)
    if slope.clean < 3 and slope.crossed:
        verdict = f"{slope.crossed} steps take currents across the kink of relu, where no power is to be expected"
        return Check(name, identity, 0.0, 0.0, "too few steps cross no kink", verdict, idle=True)
    if slope.smallest <= max(_ABOVE_ROUNDING * slope.rounding, _SMALL**4):
        verdict = f"{what} is no more than rounding and higher orders even at the steps tried: there is no power to fit"
        return Check(name, identity, 0.0, 0.0, "nothing is left to fit a power to", verdict, idle=True)
    if slope.smallest < _SMALL:
        found = "none" if slope.value is None else f"{slope.value:.2f} ± {slope.error:.1g}"
        verdict = f"{what} falls to {slope.smallest:.1e} of the change, at no steady power (best: {found})"
        return Check(name, identity, 0.0, 0.0, "no power can be fitted, for curvature or rounding", verdict, idle=True)
    verdict = f"{what} never falls below {percent(slope.smallest)} of the change itself"
    if math.isinf(slope.smallest):
        verdict = f"{what} can not be measured: the network overflows after every step"
    return Check(name, identity, slope.smallest, _SMALL, "the prediction must hold for small steps", verdict)


def nonlinearity_of(model: Model) -> Nonlinearity | None:
    """The function that bends the currents of a model, its own or its cell's; None if there are gates alone."""
    return getattr(model, "nonlinearity", None) or getattr(getattr(model, "cell", None), "nonlinearity", None)


def has_kinks(model: Model) -> bool:
    """Whether a model's nonlinearity has a kink."""
    return getattr(nonlinearity_of(model), "name", None) == "relu"


def kinks_crossed(flow: Flow, one: Model, one_states: Array, other: Model, other_states: Array) -> int:
    """Number of slopes of relu, over trials, steps (or stages) and units, that differ between two runs on a flow.

    `flow`: a map, or a field with fixed steps. `one`, `other`: of the flow's kind. `one_states`, `other_states`: shape
    (B, T, H); their states, as `Flow.rerun` gives them.
    """
    if not has_kinks(flow.model):
        return 0
    pairs = zip(_forms(flow, one, one_states), _forms(flow, other, other_states), strict=True)
    return sum(_different(first, second) for first, second in pairs)


def _forms(flow: Flow, model: Model, states: Array) -> Any:
    """Linearisations of another run, a segment at a time."""
    dynamics = flow.dynamics
    if isinstance(dynamics, MapDynamics):
        before = np.concatenate([dynamics.z0[None], states.swapaxes(0, 1)[:-1]])
        yield linearize(model, before, dynamics.drive)
    elif isinstance(dynamics, FieldDynamics):
        solution = replace(dynamics.solution, z_steps=np.ascontiguousarray(states.swapaxes(0, 1)))
        system = StageSystem(model, dynamics.signal, solution, memory=0.0)  # type: ignore[arg-type]
        yield from map(system.form, system.segments)


def _different(one: Form, other: Form) -> int:
    if not (isinstance(one, StepForm) and isinstance(other, StepForm)):
        return 0
    return int((one.numbers != other.numbers).sum())
