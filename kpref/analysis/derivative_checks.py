"""The derivative of the trajectory by the parameters against finite differences of the plain forward run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.slopes import Slope, fit_slope, kinks_crossed
from kpref.flow import Flow
from kpref.models import Field

__all__ = ["DECISIVE", "FiniteDifferences", "finite_differences"]

#: Sizes of the parameter steps, relative to the norm of the parameters: from curvature down to rounding. The smallest
#: are for nonlinearities with a kink, which a longer step would take some state across.
_STEPS = 4.0 ** -np.arange(3, 14)
_COLUMNS = 4  # of Richardson's extrapolation, where the error falls like h^8
#: A parameter step of which only rounding, magnified by the network, is left beyond the linear change.
_IDLE_STEP = 2.0**-44
#: Changes that are no larger than rounding by this factor may be nothing else.
_STILL = 30.0
#: Extrapolated differences decide if their own error estimate is below this.
DECISIVE = 1e-4


@dataclass(frozen=True, eq=False)
class FiniteDifferences:
    """The derivative of the trajectory along one random parameter direction d, against central differences."""

    steps: Array  # (m,): step sizes h, in units of the norm of the parameters, decreasing
    # (m,): ``|(Z(theta + h d) - Z(theta - h d)) / 2h - D d| / |D d|``, with D = P J for a map. NaN where the network
    # overflows.
    errors: Array
    # order at which the errors fall with h, 2 for an exact derivative where no kink is crossed; None where fewer than
    # three steps tell it
    slope: float | None
    error: float  # the same for the differences extrapolated to h = 0
    # how far, by the extrapolation's own account, its value may be from the derivative, relative as well
    error_estimate: float
    fit: Slope  # the slope with its error, and what there was to fit
    # (m,): slopes of relu, over trials, steps and units, that differ between the two ends of a difference
    crossings: Array
    # steps, or times, from the first on that all of this is about: fewer than there are if the network expands so much
    # that differences can not tell the derivative of later states
    rows: int
    still: bool  # neither D d nor the smaller differences rise above rounding: the states do not move

    __repr__ = short_repr


def finite_differences(
    flow: Flow, rng: np.random.Generator, tell: Callable[[str], object] = lambda what: None
) -> FiniteDifferences:
    """Judge ``P J``, or D of a field, by central differences of the plain forward run, extrapolated to h = 0.

    Richardson's extrapolation of quartered steps in a table; the entry that its neighbours agree with best counts, and
    the disagreement is its error estimate (Ridders, *Accurate computation of F'(x)*, Adv. Eng. Software 1982).

    An expanding network magnifies rounding from step to step, until differences can not tell a derivative any more. How
    much, is measured: by a parameter step so small that nothing but rounding is left of what it changes beyond D d.
    Errors and estimates are taken over the first rows up to each; those over the largest number of rows are returned
    for which the estimate is good enough to decide.
    """
    theta = flow.model.vector
    direction = rng.standard_normal(theta.size)
    direction *= (np.linalg.norm(theta) or 1.0) / np.linalg.norm(direction)
    exact = flow.D(direction) if isinstance(flow.model, Field) else flow.P(flow.J(direction))

    def run(step: float) -> tuple[Any, Array]:
        model = flow.model.with_vector(theta + step * direction)
        return model, flow.rerun(model)

    trace = _Traces(exact)
    rounding = np.maximum(
        np.finfo(float).eps * _upto(flow.states), _upto(run(_IDLE_STEP)[1] - flow.states - _IDLE_STEP * exact)
    )
    errors, crossings = np.full((len(_STEPS), len(rounding)), np.nan), np.zeros(len(_STEPS), dtype=int)
    moved, noise = np.zeros(len(_STEPS)), np.zeros_like(errors)
    previous: list[Array] = []
    for index, step in enumerate(_STEPS):
        tell(f"finite difference with step {step:.1g}")
        try:
            (one, after), (other, before) = run(step), run(-step)
        except ValueError:  # the network overflows after so large a step
            previous = []
            continue
        noise[index] = np.maximum(rounding, np.finfo(float).eps * _upto(after)) / step
        moved[index] = float(_upto(after - before)[-1])
        crossings[index] = kinks_crossed(flow, one, after, other, before)
        row = [(after - before) / (2 * step)]
        errors[index] = trace.error(row[0])
        for column, coarser in enumerate(previous[: _COLUMNS - 1]):
            factor = 16.0 ** (column + 1)
            row.append((factor * row[column] - coarser) / (factor - 1))
            trace.offer(row[-1], (row[column], coarser), noise[index])
        previous = row
    rows = trace.decided()
    most = _STILL * rounding[-1]
    still = 2 * _STEPS[0] * float(trace.size[-1]) <= most and bool((moved[len(_STEPS) // 2 :] <= most).all())
    shares = noise[:, rows - 1] / trace.scale[rows - 1]
    fit = fit_slope(_STEPS, errors[:, rows - 1], np.ones(len(_STEPS)), shares, crossings)
    return FiniteDifferences(
        _STEPS, errors[:, rows - 1], fit.value, float(trace.best_error[rows - 1]), float(trace.estimate[rows - 1]),
        fit, crossings, rows, still,
    )  # fmt: skip


class _Traces:
    """The best extrapolation so far of the rows up to each, its error and its own estimate of that: each (T,)."""

    def __init__(self, exact: Array) -> None:
        self.exact, self.size = exact, _upto(exact)
        self.scale = np.where(self.size > 0, self.size, np.nan)
        self.estimate = np.full(exact.shape[1], np.inf)
        self.best_error = np.full(exact.shape[1], np.nan)

    def error(self, value: Array) -> Array:
        """Error over the rows up to each, relative to ``|D d|``; to the first difference where that is zero."""
        if np.isnan(self.scale).any():
            first = _upto(value)
            self.scale = np.where(np.isnan(self.scale), np.where(first > 0, first, 1.0), self.scale)
        return _upto(value - self.exact) / self.scale

    def offer(self, value: Array, neighbours: tuple[Array, Array], rounding: Array) -> None:
        """Take a value where it agrees with its neighbours in the table better than those before."""
        doubt = np.maximum(*(_upto(value - neighbour) for neighbour in neighbours)) + rounding
        # Relative to the smaller: where states saturate, differences are nothing beside D d, and agree on that.
        size = np.minimum(_upto(value), self.scale)
        estimate = doubt / np.where(size > 0, size, self.scale)
        better = estimate < self.estimate
        self.estimate = np.where(better, estimate, self.estimate)
        self.best_error = np.where(better, self.error(value), self.best_error)

    def decided(self) -> int:
        """Largest number of rows for which the estimate decides; all, if there is no such number.

        Rows that do not move (row 0 of a field) decide nothing, unless none does.
        """
        good = np.flatnonzero((self.estimate < DECISIVE) & ((self.size > 0) | ~(self.size > 0).any()))
        return int(good[-1]) + 1 if good.size else len(self.estimate)


def _upto(tensor: Array) -> Array:
    """Norm of a tensor (B, T, H) over the rows up to each, (T,); squares neither overflow nor vanish."""
    squares = np.einsum("bth,bth->t", tensor, tensor)
    if squares.min() > 1e-200 and squares.max() < 1e200:
        return np.asarray(np.sqrt(np.cumsum(squares)))
    largest = float(np.abs(tensor).max())
    unit = largest if 0 < largest < np.inf else 1.0
    return np.asarray(unit * np.sqrt(np.cumsum(np.square(tensor / unit).sum(axis=(0, 2)))))
