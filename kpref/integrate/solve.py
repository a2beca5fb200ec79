"""Explicit Runge-Kutta integration of all trials at once, with fixed or adaptive steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kpref._foreign import read_only, returned
from kpref._types import FloatArray
from kpref._validate import finite_array, first_index, integer, numeric_array, real_number, short
from kpref.integrate.errors import IntegrationError
from kpref.integrate.interpolate import check_times
from kpref.integrate.solution import RightHandSide, Solution, stage_derivatives, weighted_sum
from kpref.integrate.step_control import StepController, error_norms, first_step_size, landing_step
from kpref.integrate.tableaus import TABLEAUS, Tableau, get_tableau
from kpref.threads import serial_blas

__all__ = ["adaptive", "fixed_steps"]


class _Checked:
    """A right-hand side whose values are checked copies, and which counts its calls.

    `rhs` may fill the same array at each call, and it cannot write into the states.
    """

    def __init__(self, rhs: RightHandSide, shape: tuple[int, ...]) -> None:
        if not callable(rhs):
            raise TypeError(f"rhs must be a function of (t, z, interval); got {short(rhs)}")
        self._rhs, self._shape, self.calls = rhs, shape, 0

    def __call__(self, t: float, z: FloatArray, interval: int) -> FloatArray:
        self.calls += 1
        value, kinds = self._rhs(t, read_only(z), interval), "biufc" if np.iscomplexobj(z) else "biuf"
        found = np.shape(value)
        if found != self._shape:
            raise ValueError(
                f"the right-hand side must return the shape of the states, {self._shape}, got {found} at t = {t}"
            )
        return returned("the right-hand side", value, self._shape, kinds, ("trial", "unit"), f" at t = {t}")


def _check_start(z0: ArrayLike) -> FloatArray:
    """Initial states as a finite array of shape (B, H)."""
    z = numeric_array("z0", z0, "biufc")
    if z.ndim != 2 or z.size == 0:
        raise ValueError(f"z0, the initial states, must have shape (B, H) with B and H at least 1; got {z.shape}")
    return finite_array("z0", z, dtype=np.result_type(z.dtype, np.float64), axes=("trial", "unit"))


@serial_blas
def fixed_steps(
    rhs: RightHandSide, times: ArrayLike, z0: ArrayLike, tableau: str | Tableau, out: FloatArray | None = None
) -> Solution:
    """Integrate with one step for each interval of the time grid.

    Every step evaluates all s stages, the first at the start of its own interval, so an input that jumps at a grid
    time is met exactly. States may be complex where the right-hand side takes them (complex-step differentiation).

    Parameters
    ----------
    rhs : callable
        f(t, z, interval) with z of shape (B, H), to (B, H).
    times : array_like, shape (N+1,)
        Time grid, strictly increasing.
    z0 : array_like, shape (B, H)
        States at times[0].
    tableau : str or Tableau
        The method.
    out : ndarray, shape (N+1, B, H), optional
        Where to put the states; part of a larger array, say.

    Returns
    -------
    Solution
        With n = N steps and s N evaluations.

    Raises
    ------
    ValueError
        If the times or the initial states are not as described.
    IntegrationError
        If a derivative is not finite or a solution blows up; names the trial, the time and the last accepted state.
    """
    tableau, grid = get_tableau(tableau), check_times(times)
    z = _check_start(z0)
    counted = _Checked(rhs, z.shape)
    a, c, b = tableau.a.tolist(), tableau.c.tolist(), tableau.b.tolist()
    # Of real z0 the states may be complex: a list takes what comes, `out` is filled without a second copy of all.
    listed = [z]
    if out is not None:
        out[0] = z
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for n, (start, end) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
            derivatives = stage_derivatives(counted, a, c, start, end - start, end, n, z)
            z_next = z + (end - start) * weighted_sum(b, derivatives)
            if not np.all(np.isfinite(z_next)):
                raise _not_finite(start, z, [*derivatives, z_next])
            z = z_next
            if out is None:
                listed.append(z)
            else:
                out[n + 1] = z
    steps = len(grid) - 1
    return Solution(
        tableau=tableau,
        times=grid,
        t_steps=grid,
        z_steps=np.stack(listed) if out is None else out,
        interval=np.arange(steps),
        jump_ends=np.zeros(steps, dtype=bool),
        grid_index=np.arange(steps + 1),
        n_evaluations=counted.calls,
        n_rejected=0,
        rhs=counted,
    )


@serial_blas
def adaptive(
    rhs: RightHandSide,
    times: ArrayLike,
    z0: ArrayLike,
    tableau: str | Tableau = "dopri5",
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 1e-9,
    max_steps: int = 100_000,
    first_step: float | None = None,
    jumps: ArrayLike | None = None,
) -> Solution:
    """Integrate with steps chosen by an error estimate, one sequence of them for all trials.

    A step is accepted when in every trial the root mean square over units of error / (atol + rtol max(|z_n|,
    |z_{n+1}|)) is at most 1. Steps hit every grid time and every jump exactly. To let the method choose its steps
    freely, give the two ends of the span as `times` and evaluate the solution in between.

    Parameters
    ----------
    rhs : callable
        f(t, z, interval) with z of shape (B, H), to (B, H).
    times : array_like, shape (N+1,)
        Time grid, strictly increasing.
    z0 : array_like, shape (B, H)
        States at times[0]; real.
    tableau : str or Tableau, default "dopri5"
        A method with an embedded error estimate.
    rtol, atol : float or array_like of shape (H,)
        Relative and absolute tolerance, for all units or one each; atol in the units of the states, larger than 0.
    max_steps : int
        Most steps to try, rejected ones included.
    first_step : float, optional
        Size of the first step to try, in units of time; by default estimated, with one evaluation.
    jumps : array_like, optional
        Times inside the span at which f may jump. No step straddles one, and the derivative at the end of a step is
        not taken over to the next step there; f at a jump is evaluated for the step that starts there, and for the
        step that ends there just before it. By default all interior grid times, which is always safe and costs one
        evaluation for each; give () where f is continuous in time.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If an argument is not as described.
    IntegrationError
        If the step underflows, a solution blows up, a derivative is not finite, or `max_steps` are used up; names the
        trial, the time and the last accepted state.
    """
    tableau, grid = get_tableau(tableau), check_times(times)
    if tableau.b_error is None:
        known = ", ".join(name for name, method in TABLEAUS.items() if method.b_error is not None)
        raise ValueError(f"adaptive steps need a method with an error estimate ({known}), got {tableau.name!r}")
    z = _check_start(z0)
    if np.iscomplexobj(z):
        raise TypeError("adaptive steps need real states, got complex ones in z0")
    relative, absolute = _tolerance("rtol", rtol, z.shape[1], False), _tolerance("atol", atol, z.shape[1], True)
    max_steps = integer("max_steps", max_steps, 1)
    if first_step is not None:
        first_step = real_number("first_step", first_step, above=0)
    run = _AdaptiveRun(rhs, grid, z, tableau, relative, absolute, max_steps, _check_jumps(jumps, grid))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return run.solve(first_step)


def _tolerance(name: str, value: ArrayLike, units: int, positive: bool) -> FloatArray:
    """A tolerance, for all units or one each."""
    if np.ndim(value) == 0:
        number = real_number(name, value, above=0) if positive else real_number(name, value, least=0)
        return np.array(number)
    tolerance = finite_array(name, value, shape=(units,), axes=("unit",))
    wrong = tolerance <= 0 if positive else tolerance < 0
    if wrong.any():
        unit = first_index(wrong)[0]
        raise ValueError(
            f"{name} must be {'positive' if positive else 'at least 0'}; got {tolerance[unit]} for unit {unit}"
        )
    return tolerance


def _check_jumps(jumps: ArrayLike | None, grid: FloatArray) -> FloatArray:
    """Jump times inside the span, sorted; by default the interior grid times."""
    if jumps is None:
        return grid[1:-1]
    given = np.unique(
        np.asarray(numeric_array("jumps", jumps if np.size(jumps) else np.empty(0), "iuf"), dtype=np.float64)
    )
    for time in given[~((given > grid[0]) & (given < grid[-1]))]:
        raise ValueError(f"jumps must lie inside the span ({grid[0]}, {grid[-1]}), got {time}")
    return given


class _AdaptiveRun:
    """The moving parts of one adaptive integration."""

    def __init__(
        self,
        rhs: RightHandSide,
        grid: FloatArray,
        z0: FloatArray,
        tableau: Tableau,
        rtol: FloatArray,
        atol: FloatArray,
        max_steps: int,
        jumps: FloatArray,
    ) -> None:
        assert tableau.error_order is not None
        self.rhs, self.grid, self.tableau, self.jumps = rhs, grid, tableau, jumps
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps
        self.counted = _Checked(rhs, z0.shape)
        self.controller = StepController(tableau.error_order)
        self.rows, self.nodes = tableau.a_dense.tolist(), tableau.c_dense.tolist()
        self.t, self.z, self.attempts = float(grid[0]), z0, 0
        self.t_steps, self.z_steps = [self.t], [z0]
        self.intervals: list[int] = []
        self.jump_ends: list[bool] = []

    def solve(self, first_step: float | None) -> Solution:
        """Step from each stop to the next."""
        jump_times = set(self.jumps.tolist())
        grid_times = set(self.grid.tolist())
        stops = sorted((jump_times | grid_times) - {self.t})
        grid_index, interval = [0], 0
        derivative = self._start(self.t, 0)
        h = self._first_step(derivative, stops[0]) if first_step is None else first_step
        for stop in stops:
            jump = stop in jump_times
            h, derivative = self._advance(stop, jump, interval, h, derivative)
            if stop in grid_times:
                grid_index.append(len(self.t_steps) - 1)
                interval += 1
            if jump:
                derivative = self._start(stop, interval)
        return Solution(
            tableau=self.tableau,
            times=self.grid,
            t_steps=np.array(self.t_steps),
            z_steps=np.stack(self.z_steps),
            interval=np.array(self.intervals),
            jump_ends=np.array(self.jump_ends),
            grid_index=np.array(grid_index),
            n_evaluations=self.counted.calls,
            n_rejected=self.attempts - len(self.intervals),
            rhs=self.counted,
        )

    def _start(self, t: float, interval: int) -> FloatArray:
        """The derivative at an accepted state, which must be finite."""
        derivative = self.counted(t, self.z, interval)
        if not np.all(np.isfinite(derivative)):
            raise _not_finite(t, self.z, [derivative])
        return derivative

    def _first_step(self, derivative: FloatArray, stop: float) -> float:
        assert self.tableau.error_order is not None
        return first_step_size(
            lambda t, z: self.counted(t, z, 0),
            self.t,
            stop - self.t,
            self.z,
            derivative,
            self.rtol,
            self.atol,
            self.tableau.error_order + 1,
        )

    def _advance(
        self, stop: float, jump: bool, interval: int, h: float, derivative: FloatArray
    ) -> tuple[float, FloatArray]:
        """Accepted steps up to `stop`; returns the next step to try and the derivative there."""
        worst, finite = 0, True
        while self.t < stop:
            self._check_step(stop, h, worst, finite, derivative)
            self.attempts += 1
            step = landing_step(h, stop - self.t)
            lands = step == stop - self.t
            end = stop if lands else self.t + step
            step = end - self.t
            last = float(np.nextafter(end, self.t)) if lands and jump else end
            derivatives, z_next, errors = self._attempt(step, last, interval, derivative)
            worst = int(np.argmax(errors))
            error, finite = float(errors[worst]), bool(np.isfinite(errors[worst]))
            if error > 1.0:
                h = step * self.controller.rejected(error)
                continue
            # A step cut short to land says nothing against the longer one that was proposed.
            h = max(step * self.controller.accepted(error), h if lands and step < h else 0.0)
            self.t, self.z = end, z_next
            self.t_steps.append(end)
            self.z_steps.append(z_next)
            self.intervals.append(interval)
            self.jump_ends.append(lands and jump)
            if len(derivatives) > self.tableau.stages:
                derivative = derivatives[-1]
            elif not (lands and jump) and end < self.grid[-1]:
                derivative = self._start(end, interval)
        return h, derivative

    def _attempt(
        self, step: float, last: float, interval: int, derivative: FloatArray
    ) -> tuple[list[FloatArray], FloatArray, FloatArray]:
        """One step: stage derivatives, the state at its end, and the error of each trial by the tolerance."""
        tableau = self.tableau
        nodes = self.nodes[: tableau.stages]
        derivatives = stage_derivatives(
            self.counted, self.rows, nodes, self.t, step, last, interval, self.z, [derivative]
        )
        z_next = self.z + step * weighted_sum(self.rows[tableau.stages], derivatives)
        if tableau.fsal:
            derivatives.append(self.counted(last, z_next, interval))
        scale = self.atol + self.rtol * np.maximum(np.abs(self.z), np.abs(z_next))
        errors = error_norms(tableau, step, derivatives, scale)
        usable = np.isfinite(errors) & np.all(np.isfinite(z_next), axis=1)
        return derivatives, z_next, np.where(usable, errors, np.inf)

    def _check_step(self, stop: float, h: float, trial: int, finite: bool, derivative: FloatArray) -> None:
        """Refuse to go on where the next step is too small, or one too many; blames the trial of the largest error."""
        if self.attempts == self.max_steps:
            reason = f"max_steps = {self.max_steps} steps did not reach t = {stop} (the step is now {h:.3g})"
            raise IntegrationError(reason, trial, self.t, self.z[trial])
        if h >= 10.0 * np.spacing(abs(self.t)):
            return
        # Where the solution moves by its own size within a thousand of the smallest steps, no step can follow it.
        reach = 1e4 * np.spacing(abs(self.t)) * np.max(np.abs(derivative[trial]))
        if reach > np.max(np.abs(self.z[trial])):
            reason = "the solution blows up in finite time"
        elif not finite:
            reason = "the derivative is not finite just ahead"
        else:
            reason = "the step underflows, as at a jump that was not announced"
        raise IntegrationError(f"{reason} (step {h:.3g})", trial, self.t, self.z[trial])


def _not_finite(t: float, z: FloatArray, values: Sequence[FloatArray]) -> IntegrationError:
    """The error for derivatives and states of one step that are not all finite; names the first trial concerned."""
    for value in values:
        bad = ~np.isfinite(value)
        if not np.any(bad):
            continue
        trial, unit = np.argwhere(bad)[0]
        if np.isnan(value[trial, unit]):
            reason = f"the derivative of state {unit} is not a number"
        else:
            reason = (
                f"the derivative of state {unit} overflows: the step is far too large, the solution blows up in finite "
                "time, or a divisor is zero"
            )
        return IntegrationError(reason, int(trial), t, z[trial])
    raise AssertionError("called with finite values only")
