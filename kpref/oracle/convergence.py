"""`verify_convergence`: a backend that discretises in its own way is judged by what it converges to, and how fast.

An adaptive solver, or the continuous adjoint that a solver of ODEs differentiates by, agrees with no other to rounding.
But as its steps, or its tolerance, go to zero its answers must go to those of the differential equation, at the order
that it declares, until rounding ends it. So it is made at several levels, and each answer is held against the limit:

    falls             the error falls at the declared order, or has reached what rounding explains
    falls too slowly  it goes to zero at a lower order than declared
    something else    answers at successive levels approach each other, and not the limit
    a floor           the error stays, and successive answers differ by as much: noise above the backend's rounding

The limit is computed here, by a method of order 8 on even parts of each interval of the grid and its exact discrete
adjoint, parts being halved until nothing changes any more; the last change is the error bar of the limit.

Where answers are wrong the direction of the error says why. Hypothetical continuous adjoints, each with one defect, are
run at the finest level: the defect whose error points the same way as the backend's is named
(`kpref.oracle.continuous_adjoints`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kpref._types import Array
from kpref._validate import function, integer, real_number, short
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow, require_flow
from kpref.integrate import fixed_steps, get_tableau
from kpref.models.base import Field
from kpref.operators import stage_space
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import BackendFault, LocalBackend
from kpref.oracle.continuous_adjoints import DEFECTS, LASTING, ContinuousProblem, continuous_gradient
from kpref.oracle.verdict import Check, Report, faulty
from kpref.runge_kutta import StageSystem

__all__ = ["Limit", "convergence_limit", "verify_convergence"]

#: What a backend may offer at a level, beside `states`.
_OPERATORS = {"gradient": ("trajectory", "parameters"), "gradient_z0": ("trajectory", "starts")}

_MEANING = {
    "states": ("the trajectory at the grid times", "dz/dt = f(z, x(t))"),
    "gradient": ("gradient by parameters of a loss with this derivative by the states", "D^T Mu Err"),
    "gradient_z0": ("gradient by initial states", "D_z0^T Mu Err"),
}

#: By how much a fitted order may be below the declared one: leading terms are not all of an error.
_SLACK = 0.35
#: Below it an error does not fall.
_FLAT = 0.3
#: Errors within so many error bars of the limit, or floors of rounding, are not used for an order.
_CLEAR = 5.0
#: Errors that rounding explains: so many roundings a step, of which there may be thousands.
_ROUNDINGS = 200.0
#: A tolerance is met if the error of an answer stays below so many of it: error control is of steps, not of answers.
_OF_TOLERANCE = 300.0
#: Cosine of the errors of a backend and of a hypothesis from which on the hypothesis explains; and by what factor their
#: sizes may differ: of a defect that lasts; of one of steps; and of one of steps that a tolerance chooses, by any.
_SAME_WAY, _LASTING, _OF_STEPS = 0.9, 1.25, {"step": 8.0, "tolerance": np.inf}
#: Part of an error that a simpler reason may leave: a factor, or that only some parameters are wrong.
_REST = 0.02


@dataclass(frozen=True, eq=False)
class Limit:
    """What the answers of a backend should go to, as arrays by name, and how far off each may be, relatively."""

    values: dict[str, Array]
    errors: dict[str, float]


class _LevelBackend(LocalBackend):
    """A backend at one level."""

    operators = _OPERATORS


def verify_convergence(
    backend_of: Callable[[float], Any],
    flow: Flow,
    levels: Sequence[float],
    order: float | None = None,
    by: Literal["step", "tolerance"] = "step",
    arithmetic: str | Arithmetic | None = None,
    seed: int = 0,
    timeout: float | None = None,
) -> Report:
    """Check that a backend's answers converge to those of the differential equation.

    Parameters
    ----------
    backend_of : callable
        ``backend_of(level)`` makes the backend for a step size, or a tolerance: an object with some of `states`
        (B, N + 1, H) at the grid times of the flow, `gradient` (B, N + 1, H) -> (M,), that of a loss whose derivative
        by the states is ``Mu Err``, by parameters, and `gradient_z0` (B, N + 1, H) -> (B, H), by initial states.
    flow : Flow
        Of any field, with its inputs, grid and measure. Its own method and steps are not used.
    levels : sequence of float
        At least three, each smaller than the one before.
    order : float, optional
        What the error should fall with: the order of the method; 1 by default where levels are tolerances.
    by : {"step", "tolerance"}
        What the levels are.
    arithmetic : str or Arithmetic, optional
        By default what the backend says; its unit is where errors may end.
    seed : int
        Of the error tensor that gradients are taken of.
    timeout : float, optional
        Seconds for each call.

    Returns
    -------
    Report
        For each answer a check of its order, whose figure is the fitted one, and one of its limit, whose figure is the
        last error over what is allowed.

    Raises
    ------
    TypeError
        If the flow is not of a field, or `backend_of` no function.
    ValueError
        If levels do not fall, or there is no order to hold steps to.
    """
    require_flow(flow)
    function("backend_of", backend_of, "(level)")
    if not isinstance(flow.model, Field) or flow.space.lengths is not None:
        raise TypeError(
            f"verify_convergence takes flows of fields whose trials have one length, and verify others too; got {flow}"
        )
    steps, declared = _levels(levels), _declared(order, by)
    err = np.random.default_rng(integer("seed", seed, 0)).standard_normal(flow.states.shape)
    limit = convergence_limit(flow, err)
    wrapped = [
        _LevelBackend.around(backend_of(level), flow.states.shape, flow.model.n_parameters, arithmetic, timeout)
        for level in steps
    ]
    checks: list[Check] = []
    for name in _MEANING:
        checks += _Answers(name, wrapped, flow, err, steps, declared, by, limit).checks()
    return Report(tuple(checks), wrapped[0].arithmetic.name, f"{flow}, by {by}", unmeasured="as only maps are")


def _levels(levels: Sequence[float]) -> list[float]:
    found = [real_number("a level", level, above=0) for level in levels]
    if len(found) < 3 or any(later >= earlier for earlier, later in zip(found, found[1:], strict=False)):
        raise ValueError(f"levels must be at least three, each smaller than the one before; got {short(list(levels))}")
    return found


def _declared(order: float | None, by: str) -> float:
    if by not in ("step", "tolerance"):
        raise ValueError(f'by must be "step" or "tolerance"; got {short(by)}')
    if order is None and by == "step":
        raise ValueError("order must be that of the method, which the errors are held to where levels are steps")
    return 1.0 if order is None else real_number("order", order, above=0)


# The limit


def convergence_limit(flow: Flow, err: Array, most: int = 256) -> Limit:
    """States (B, N + 1, H), gradient (M,) and gradient by z0 (B, H) of the differential equation, to rounding.

    `err`: shape (B, N + 1, H). `most`: parts of an interval, at most.
    """
    parts, now, change = 4, _solved(flow, err, 2), dict.fromkeys(_MEANING, np.inf)
    while parts <= most:
        finer = _solved(flow, err, parts)
        found = {name: _distance(now[name], finer[name]) for name in finer}
        now = finer
        # Order 8 takes a factor of 256 off with each halving; where one changes no more, what is left is rounding.
        if all(found[name] < 1e-13 or found[name] > 0.3 * change[name] for name in found):
            return Limit(now, found)
        change, parts = found, 2 * parts
    return Limit(now, change)


def _solved(flow: Flow, err: Array, parts: int) -> dict[str, Array]:
    """The discrete flow of a method of order 8 on each interval in even parts, and its exact adjoint."""
    dynamics: Any = flow.dynamics
    assert isinstance(dynamics, FieldDynamics)
    signal, times, field = dynamics.signal, flow.solution.times, dynamics.field
    inner = times[:-1, None] + np.diff(times)[:, None] * np.arange(parts) / parts
    fine = np.append(inner.reshape(-1), times[-1])
    interval = np.repeat(np.arange(len(times) - 1), parts)

    def velocity(t: float, z: Array, step: int) -> Array:
        return field.velocity(z, signal(t, int(interval[step])))

    solution = fixed_steps(velocity, fine, flow.z0, get_tableau("dop853"))
    whole = replace(solution, times=times, interval=interval, grid_index=np.arange(0, len(fine), parts))
    system = StageSystem(field, signal, whole)
    source = flow.space.weigh(err)
    return {
        "states": whole.states.swapaxes(0, 1),
        "gradient": np.asarray(stage_space.parameter_sensitivity(system, flow.space).T(source)),
        "gradient_z0": np.asarray(stage_space.initial_state_sensitivity(system, flow.space).T(source)),
    }


def _distance(value: Array, limit: Array) -> float:
    size = float(np.linalg.norm(limit))
    return float(np.linalg.norm(value - limit)) / max(size, 1e-300)


# Judging


@dataclass(frozen=True, eq=False)
class _Answers:
    """One answer of a backend at all levels."""

    name: str
    backends: list[_LevelBackend]
    flow: Flow
    err: Array
    levels: list[float]
    declared: float
    by: str
    limit: Limit

    def checks(self) -> list[Check]:
        """Of its order and its limit."""
        meaning, equation = _MEANING[self.name]
        blank = Check(f"{self.name}.order", self.name, meaning, equation, "not offered")
        if not all(backend.offers(self.name) for backend in self.backends):
            return [blank]
        try:
            values = [
                backend.states() if self.name == "states" else backend(self.name, self.err) for backend in self.backends
            ]
        except BackendFault as fault:
            return [faulty(blank, fault)]
        return self._judged(blank, values)

    def _judged(self, blank: Check, values: list[Array]) -> list[Check]:
        target = self.limit.values[self.name]
        errors = np.array([_distance(value, target) for value in values])
        changes = np.array([_distance(one, other) for one, other in zip(values, values[1:], strict=False)])
        floor = max(_CLEAR * self.limit.errors[self.name], _ROUNDINGS * self.backends[-1].arithmetic.unit)
        fitted, spread, used = _fit(np.array(self.levels), errors, floor)
        last, local = errors[-1], _slope(self.levels, errors)
        message = "errors " + ", ".join(f"{error:.2e}" for error in errors) + f" at {self.by} " + ", ".join(
            f"{level:g}" for level in self.levels
        ) + f"; of the limit {self.limit.errors[self.name]:.0e}"  # fmt: skip
        order = replace(blank, verdict="pass", figure=fitted, bound=self.declared, message=message)
        if used < 2:
            order = replace(order, figure=None, bound=None, message=f"{message}; too few above rounding for an order")
        else:
            order = replace(order, message=f"{message}; order {fitted:.2f} +- {spread:.2f}")
        allowed = floor if self.by == "step" else max(floor, _OF_TOLERANCE * self.levels[-1])
        limit = replace(blank, identifier=f"{self.name}.limit", verdict="pass", figure=float(last / allowed), bound=1.0)
        if last <= floor:
            return [order, replace(limit, message="the error has reached what rounding explains")]
        if local < _FLAT:
            return [order, self._stays(limit, values[-1], errors, changes)]
        if self.by == "tolerance" and last > allowed:
            words = f"tolerance not met: the error is {last / self.levels[-1]:.3g} times the tolerance asked for"
            return [order, replace(limit, verdict="defect", guess=self._guess(values[-1]) or words)]
        if used >= 2 and fitted < self.declared - _SLACK - 2 * spread:
            guess = self._guess(values[-1])
            words = f"converges more slowly than declared: at order {fitted:.2f} for {self.declared:g}"
            order = replace(order, verdict="defect", guess=guess or words, message=f"{order.message}; {words}")
        return [order, replace(limit, figure=None, bound=None, message="the error falls; it has not reached rounding")]

    def _stays(self, limit: Check, value: Array, errors: Array, changes: Array) -> Check:
        """An error that does not fall: is it noise, another limit, or a tolerance that is not passed on?"""
        last = errors[-1]
        if changes[-1] > 0.3 * last:
            words = f"floor: answers of successive levels differ by {changes[-1]:.1e}, as much as they err"
            return replace(limit, verdict="defect", guess=words)
        guess = self._guess(value)
        if not guess and self.by == "tolerance" and last < 0.05:
            guess = f"tolerance not met: the error stays at {last:.1e}, whatever tolerance is asked for"
        words = f"converges to something else: the error stays at {last:.1e}, answers change by {changes[-1]:.1e}"
        return replace(limit, verdict="defect", guess=guess or words, message=words)

    def _guess(self, value: Array) -> str:
        """The hypothetical defect whose error points the same way and is as large, or what is plainly to be seen."""
        if self.name == "states":
            return ""
        problem = ContinuousProblem(self.flow, self.err, self._parts())
        target, best, label = self.limit.values[self.name], _SAME_WAY, ""
        wrong = (value - target).ravel()
        size = float(np.linalg.norm(wrong))
        right = continuous_gradient(problem)[self.name]
        for defect in DEFECTS:
            other = (continuous_gradient(problem, defect)[self.name] - right).ravel()
            length = float(np.linalg.norm(other))
            cosine = float(wrong @ other) / max(size * length, 1e-300)
            most = _LASTING if defect in LASTING else _OF_STEPS[self.by]
            if cosine > best and max(size, length) <= most * min(size, length):
                best, label = cosine, defect
        return label or self._plainly(value, target)

    def _plainly(self, value: Array, target: Array) -> str:
        """A factor of the right answer, or the only parameters whose gradients are wrong."""
        wrong = value - target
        allowed = _REST * float(np.linalg.norm(wrong))
        factor = float(np.vdot(value, target)) / max(float(np.vdot(target, target)), 1e-300)
        if np.linalg.norm(value - factor * target) <= allowed:
            return f"factor: the right answer times {factor:.4g}"
        if self.name != "gradient":
            return ""
        model, ends = self.flow.model, [0]
        for name in model.trainable:
            ends.append(ends[-1] + model.parameters[name].size)
        parts = zip(model.trainable, ends[:-1], ends[1:], strict=True)
        found = [name for name, start, stop in parts if np.linalg.norm(wrong[start:stop]) > allowed]
        return f"parameters: only {', '.join(found)} wrong" if len(found) < len(model.trainable) else ""

    def _parts(self) -> int:
        """Parts of an interval for the hypotheses: those of the finest level, as far as that is a step."""
        h = float(np.diff(self.flow.solution.times).max())
        return int(np.clip(round(h / self.levels[-1]), 1, 16)) if self.by == "step" else 4


def _slope(levels: list[float], errors: Array) -> float:
    """By which power the error falls between the last two levels."""
    with np.errstate(divide="ignore"):
        return float(np.log(errors[-2] / errors[-1]) / np.log(levels[-2] / levels[-1])) if errors[-1] > 0 else np.inf


def _fit(levels: Array, errors: Array, floor: float) -> tuple[float, float, int]:
    """Order by which errors fall, its error, and how many of the errors say so: the last three above the floor."""
    above = np.flatnonzero(errors > floor)[-3:]
    if len(above) < 2:
        return float("nan"), float("nan"), len(above)
    x, y = np.log(levels[above]), np.log(errors[above])
    slope = float(np.polyfit(x, y, 1)[0])
    local = np.diff(y) / np.diff(x)
    return slope, float(np.ptp(local) / 2), len(above)
