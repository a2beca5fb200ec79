"""A quick check of a flow's operators on the very network and trials at hand, with bounds that follow from rounding.

Three kinds of identities that need no reference solution. For a map,

    <y, A x> = <A^T y, x>                for A = P, J, K, NTK                        (dot tests)
    P J = dZ/dtheta                      against finite differences of the forward map
    P^-1 P = I,  P P^-1 = I,  NTK = P K P*

and for a Runge-Kutta flow, whose operators are exact at the stages of the method (P_s, J_s),

    <y, A x> = <A^T y, x>                for A = P_s, J_s, D, P, K
    D = dZ/dtheta                        against finite differences of the forward integration
    P_s J_s = D,  NTK = D D*

Rounding errors of a sum of k terms are taken to be at most ``8 sqrt(k) u`` of the sum of moduli, u = 2^-53: the
probabilistic bound of Higham and Mary, *A new approach to probabilistic rounding error analysis* (SIAM J. Sci.
Comput. 2019), which random roundings exceed with a chance below ``2 exp(-32)`` a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.models import Field
from kpref.operators import TensorOperator

__all__ = [
    "Check",
    "FiniteDifferences",
    "SelfCheck",
    "dot_test",
    "finite_differences",
    "gram_test",
    "inverse_tests",
    "kernel_test",
    "self_check",
    "stage_test",
]

Array = npt.NDArray[Any]

#: Sizes of the parameter steps, relative to the norm of the parameters: from curvature down to rounding. The smallest
#: are for nonlinearities with a kink, which a longer step would take some state across.
_STEPS = 4.0 ** -np.arange(3, 14)
_COLUMNS = 4  # of Richardson's extrapolation, where the error falls like h^8
_NORM_ITERATIONS = 20


@dataclass(frozen=True)
class Check:
    """One identity, how far it is from holding, and how far rounding alone may take it.

    Attributes
    ----------
    name : str
    identity : str
        The equation tested.
    error, bound : float
        Relative; the check is passed if error <= bound.
    reason : str
        Where the bound comes from.
    """

    name: str
    identity: str
    error: float
    bound: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the error is finite and within the bound."""
        return bool(self.error <= self.bound)


@dataclass(frozen=True, eq=False)
class FiniteDifferences:
    """The derivative of the trajectory along one random parameter direction d, against central differences.

    Attributes
    ----------
    steps : ndarray, shape (m,)
        Step sizes h, in units of the norm of the parameters, decreasing.
    errors : ndarray, shape (m,)
        ``|(Z(theta + h d) - Z(theta - h d)) / 2h - D d| / |D d|``, with D = P J for a map.
    slope : float or None
        Of log(error) against log(h) where neither rounding nor higher orders matter, 2 for an exact derivative of a
        smooth network; None where fewer than three steps are of that kind.
    error : float
        The same for the differences extrapolated to h = 0.
    error_estimate : float
        How far, by the extrapolation's own account, its value may be from the derivative, relative as well.
    """

    steps: Array
    errors: Array
    slope: float | None
    error: float
    error_estimate: float


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """All checks of one flow."""

    checks: tuple[Check, ...]
    differences: FiniteDifferences

    @property
    def passed(self) -> bool:
        """Whether every check is passed."""
        return all(check.passed for check in self.checks)


def self_check(flow: Flow, seed: int = 0, progress: Callable[[str], object] | None = None) -> SelfCheck:
    """Check the operators of a flow.

    Parameters
    ----------
    flow : Flow
        In float64, and in continuous time with fixed steps: adaptive ones change with the parameters, which D does not
        follow and finite differences do.
    seed : int
        Of the random vectors.
    progress : callable, optional
        Told what is checked next.

    Returns
    -------
    SelfCheck
    """
    tell = progress or (lambda what: None)
    rng = np.random.default_rng(seed)
    continuous = isinstance(flow.model, Field)
    checks = []
    for operator in (flow.stage.P, flow.stage.J, flow.D, flow.P, flow.K) if continuous else (
        flow.P, flow.J, flow.K, flow.NTK
    ):  # fmt: skip
        tell(f"dot test of {operator.name}")
        checks.append(dot_test(operator, rng, _longest_sum(flow)))
    if continuous:
        tell("P_s J_s and D D*")
        checks += [stage_test(flow, rng), gram_test(flow, rng)]
    else:
        tell("P^-1")
        condition = _largest_singular_value(flow.P, rng) * _largest_singular_value(flow.P_inverse, rng)
        checks += inverse_tests(flow, rng, condition)
        tell("NTK")
        checks.append(kernel_test(flow, rng, condition))
    differences = finite_differences(flow, rng, tell)
    checks.append(_derivative_check(differences, flow))
    return SelfCheck(tuple(checks), differences)


def dot_test(operator: TensorOperator, rng: np.random.Generator, longest_sum: int) -> Check:
    """Compare ``<y, A x>`` with ``<A^T y, x>`` for random x and y.

    Parameters
    ----------
    operator : TensorOperator
    rng : Generator
    longest_sum : int
        Terms in the longest chain of additions that an entry of the result, or the inner product, goes through.
    """
    x, y = rng.standard_normal(operator.shape_in), rng.standard_normal(operator.shape_out)
    forward, backward = operator(x), operator.T(y)
    gap = abs(float(np.vdot(y, forward)) - float(np.vdot(backward, x)))
    scale = max(_norm(y) * _norm(forward), _norm(backward) * _norm(x))
    return Check(
        f"dot test of {operator.name}",
        f"⟨y, {operator.name} x⟩ = ⟨{operator.name}ᵀ y, x⟩",
        gap / scale if scale > 0 else gap,
        _rounding(longest_sum),
        f"8 √k u for sums of k = {longest_sum:,} terms",
    )


def inverse_tests(flow: Flow, rng: np.random.Generator, condition: float) -> list[Check]:
    """``P^-1 P q = q`` and ``P P^-1 q = q`` for a random q.

    Both products are recursions over time with sums of H terms in them. They are backward stable, so that the error
    is that of one sum times the condition number ``|P| |P^-1|`` (Higham, *Accuracy and Stability*, chapter 8).
    """
    terms = _terms(flow)
    bound = _rounding(terms) * condition
    reason = f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of P"
    q = flow.space.clear(rng.standard_normal(flow.space.shape))
    errors = [_norm(flow.P_inverse(flow.P(q)) - q), _norm(flow.P(flow.P_inverse(q)) - q)]
    names = (("P⁻¹ after P", "P⁻¹ P q = q"), ("P after P⁻¹", "P P⁻¹ q = q"))
    return [
        Check(name, identity, error / _norm(q), bound, reason)
        for (name, identity), error in zip(names, errors, strict=True)
    ]


def kernel_test(flow: Flow, rng: np.random.Generator, condition: float) -> Check:
    """``NTK q = P K P* q`` for a random q: the kernel is made of D, which sums over time in an order of its own."""
    q = rng.standard_normal(flow.space.shape)
    whole = flow.NTK(q)
    gap, terms = _norm(flow.P(flow.K(flow.P.star(q))) - whole), _longest_sum(flow)
    return Check(
        "NTK from its factors",
        "NTK q = P K P* q",
        gap / (_norm(whole) or 1.0),
        _rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of P",
    )


def stage_test(flow: Flow, rng: np.random.Generator) -> Check:
    """``P_s J_s d = D d`` for a random parameter direction d: D is made segment by segment, without its factors.

    A change of the state by delta between two steps of size h moves the trajectory as a forcing ``delta / h`` of all s
    stages of a step does, of norm ``sqrt(s) |delta| / h``. So rounding errors of the states along D d count for at
    most ``|P_s| sqrt(s) / h`` of them, and those of the forcing J_s d for ``|P_s| |J_s d| / |D d|``.
    """
    d = rng.standard_normal(flow.D.shape_in)
    forcing, whole = flow.stage.J(d), flow.D(d)
    gap, size = _norm(flow.stage.P(forcing) - whole), _norm(whole) or 1.0
    smallest, stages = float(np.diff(flow.solution.times).min()), forcing.shape[2]
    condition = _largest_singular_value(flow.stage.P, rng) * (math.sqrt(stages) / smallest + _norm(forcing) / size)
    terms = _chain(flow)
    return Check(
        "D from its factors",
        "D d = P_s J_s d",
        gap / size,
        _rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the amplification {condition:.3g} of rounding by P_s",
    )


def gram_test(flow: Flow, rng: np.random.Generator) -> Check:
    """``NTK q = D D* q`` for a random q, of which D* keeps little: the error is relative to ``|D|^2 |Mu q|``."""
    q = rng.standard_normal(flow.space.shape)
    whole = flow.NTK(q)
    gap, size, terms = _norm(flow.D(flow.D.star(q)) - whole), _norm(whole) or 1.0, _longest_sum(flow)
    condition = _largest_singular_value(flow.D, rng) ** 2 * _norm(flow.space.weigh(q)) / size
    return Check(
        "NTK from D",
        "NTK q = D D* q",
        gap / size,
        _rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of the product",
    )


def finite_differences(
    flow: Flow, rng: np.random.Generator, tell: Callable[[str], object] = lambda what: None
) -> FiniteDifferences:
    """Judge ``P J``, or D of a field, by central differences of the plain forward run, extrapolated to h = 0.

    Richardson's extrapolation of quartered steps in a table; the entry that its neighbours agree with best counts, and
    the disagreement is its error estimate (Ridders, *Accurate computation of F'(x)*, Adv. Eng. Software 1982).
    """
    theta = flow.model.vector
    direction = rng.standard_normal(theta.size)
    direction *= (_norm(theta) or 1.0) / _norm(direction)
    exact = flow.D(direction) if isinstance(flow.model, Field) else flow.P(flow.J(direction))
    scale = _norm(exact) or 1.0
    # What rounding of the states leaves in a difference, which neighbours in the table may agree on by chance.
    rounding = np.finfo(float).eps * _norm(flow.states) / scale / _STEPS
    errors = np.empty(len(_STEPS))
    previous: list[Array] = []
    best = (math.inf, math.inf)  # (error estimate, error)
    for index, step in enumerate(_STEPS):
        tell(f"finite difference with step {step:.1g}")
        ends = [flow.rerun(flow.model.with_vector(theta + signed * direction)) for signed in (step, -step)]
        row = [(ends[0] - ends[1]) / (2 * step)]
        errors[index] = _norm(row[0] - exact) / scale
        for column, coarser in enumerate(previous[: _COLUMNS - 1]):
            factor = 16.0 ** (column + 1)
            row.append((factor * row[column] - coarser) / (factor - 1))
            change = max(_norm(row[-1] - row[-2]), _norm(row[-1] - coarser)) / scale
            best = min(best, (change + rounding[index], _norm(row[-1] - exact) / scale))
        previous = row
    slope = log_slope(_STEPS, errors, (errors > 30 * rounding) & (errors < 0.01))
    return FiniteDifferences(_STEPS, errors, slope, best[1], best[0])


def log_slope(x: Array, y: Array, use: Array) -> float | None:
    """Slope of log(y) against log(x) over the points in `use`, by least squares; None for fewer than three."""
    use = use & (y > 0) & (x > 0)
    if use.sum() < 3:
        return None
    return float(np.polyfit(np.log(x[use]), np.log(y[use]), 1)[0])


def _derivative_check(differences: FiniteDifferences, flow: Flow) -> Check:
    # The estimate is the change made by the last extrapolation, not a bound; 10 covers a table that converges slowly.
    # An estimate that is no better than 1e-4 decides nothing, and must not pass.
    estimate = differences.error_estimate
    derivative = "D" if isinstance(flow.model, Field) else "P J"
    return Check(
        f"{derivative} = dZ/dθ",
        f"{derivative} d = derivative of the states along d",
        differences.error,
        10 * estimate + _rounding(_chain(flow)) if estimate < 1e-4 else 0.0,
        f"10 times the error estimate {estimate:.1e} of the extrapolated central differences, and rounding",
    )


def _longest_sum(flow: Flow) -> int:
    """Terms of an inner product, of trajectories or stages, and of the chain of sums behind each."""
    trials, _, units = flow.space.shape
    return trials * max(flow.space.shape[1], _evaluations(flow)) * units + _chain(flow)


def _chain(flow: Flow) -> int:
    """Additions over units and time on the way to one entry of an image."""
    return _evaluations(flow) * _terms(flow)


def _evaluations(flow: Flow) -> int:
    """Evaluations of the network in a trial: one a step of a map, one a stage of each step of a field."""
    if isinstance(flow.model, Field):
        _, steps, stages, _ = flow.stage.P.shape_in
        return int(steps * stages)
    return flow.space.shape[1]


def _terms(flow: Flow) -> int:
    """Terms of the sum behind the change of a unit in one evaluation: over the units, or over its own parameters."""
    units = flow.model.n_states
    return max(units, flow.model.n_parameters // units) + 2


def _largest_singular_value(operator: TensorOperator, rng: np.random.Generator) -> float:
    """Euclidean operator norm by power iteration on ``A^T A``: from below, close enough for a factor in a bound."""
    x, value = rng.standard_normal(operator.shape_in), 0.0
    for _ in range(_NORM_ITERATIONS):
        image = operator(x / _norm(x))
        value = _norm(image)
        x = operator.T(image)
    return value


def _rounding(terms: int) -> float:
    return 8 * math.sqrt(terms) * np.finfo(np.float64).eps / 2


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array))
