"""A quick check of a flow's operators on the very network and trials at hand, with bounds that follow from rounding.

Three kinds of identities that need no reference solution. For a map,

    <y, A x> = <A^T y, x>                for A = P, J, K, NTK, P^-1                  (dot tests)
    P J = dZ/dtheta                      against finite differences of the forward map
    P^-1 P = I,  P P^-1 = I,  NTK = P K P*

and for a Runge-Kutta flow, whose operators are exact at the stages of the method (P_s, J_s),

    <y, A x> = <A^T y, x>                for A = P_s, J_s, D, P, K, J
    D = dZ/dtheta                        against finite differences of the forward integration
    P_s J_s = D,  NTK = D D*,  K = J J*
    P, J and df/dz at the times          against those at the stages

Then the slope at which the differences fall, see `kpref.analysis.slopes`, and in continuous time the step of the
method, see `kpref.analysis.step_size`.

Rounding errors of a sum of k terms are taken to be at most ``8 sqrt(k) u`` of the sum of moduli, u = 2^-53: the
probabilistic bound of Higham and Mary, *A new approach to probabilistic rounding error analysis* (SIAM J. Sci.
Comput. 2019), which random roundings exceed with a chance below ``2 exp(-32)`` a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.derivative_checks import DECISIVE, FiniteDifferences, finite_differences
from kpref.analysis.slopes import slope_check
from kpref.analysis.step_size import StepSize, measure_step_size, step_size_check
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow
from kpref.kernels.reference import jacobian
from kpref.models import Field
from kpref.operators import TensorOperator
from kpref.operators.precision import in_single
from kpref.threads import serial_blas

__all__ = [
    "Check",
    "FiniteDifferences",
    "SelfCheck",
    "dot_test",
    "finite_differences",
    "gram_test",
    "grid_tests",
    "inverse_tests",
    "kernel_test",
    "largest_rounding",
    "longest_sum",
    "self_check",
    "stage_test",
]

#: Of a power iteration: from a random start in n dimensions it finds more than a third of a norm, and all that
#: follows from it is a bound with room to spare.
_NORM_ITERATIONS = 8


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """All checks of one flow."""

    checks: tuple[Check, ...]
    differences: FiniteDifferences
    step_size: StepSize | None = None  # of a flow in continuous time

    __repr__ = short_repr

    @property
    def passed(self) -> bool:
        """Whether every check is passed, and there is one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def extended(self, checks: Sequence[Check]) -> SelfCheck:
        """The same with more checks."""
        return replace(self, checks=(*self.checks, *checks))


@serial_blas
def self_check(flow: Flow, seed: int = 0, progress: Callable[[str], object] | None = None) -> SelfCheck:
    """Check the operators of a flow.

    `flow`: in float64, and in continuous time with fixed steps: adaptive ones change with the parameters, which D does
    not follow and finite differences do. `seed`: of the random vectors. `progress`: told what is checked next.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a network that explodes: what is no number fails
        return _self_check(flow, seed, progress or (lambda what: None))


def _self_check(flow: Flow, seed: int, tell: Callable[[str], object]) -> SelfCheck:
    rng = np.random.default_rng(seed)
    continuous = isinstance(flow.model, Field)
    checks = []
    for operator in (flow.stage.P, flow.stage.J, flow.D, flow.P, flow.K) if continuous else (
        flow.P, flow.J, flow.K, flow.NTK
    ):  # fmt: skip
        tell(f"dot test of {operator.name}")
        checks.append(dot_test(operator, rng, longest_sum(flow)))
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
    derivative = "D" if continuous else "P J"
    checks.append(_derivative_check(differences, flow, derivative))
    what = f"the error of {derivative} against finite differences"
    identity = f"|difference − {derivative} d| ∝ step²"
    checks.append(slope_check("slope of finite differences", identity, differences.fit, what))
    if not continuous:
        checks.append(dot_test(flow.P_inverse, rng, longest_sum(flow)))
        return SelfCheck(tuple(checks), differences)
    tell("P, J and K at the times")
    checks += [dot_test(flow.J, rng, longest_sum(flow)), *grid_tests(flow, rng)]
    tell("step of the method")
    step_size = measure_step_size(flow)
    return SelfCheck((*checks, step_size_check(step_size)), differences, step_size)


def dot_test(operator: TensorOperator, rng: np.random.Generator, terms: int) -> Check:
    """Compare ``<y, A x>`` with ``<A^T y, x>`` for random x and y.

    `terms`: terms in the longest chain of additions that an entry of the result, or the inner product, goes through.
    """
    x, y = rng.standard_normal(operator.shape_in), rng.standard_normal(operator.shape_out)
    forward, backward = operator(x), operator.T(y)
    gap = abs(float(np.vdot(y, forward)) - float(np.vdot(backward, x)))
    scale = max(_norm(y) * _norm(forward), _norm(backward) * _norm(x))
    check = Check(
        f"dot test of {operator.name}",
        f"⟨y, {operator.name} x⟩ = ⟨{operator.name}ᵀ y, x⟩",
        gap / scale if scale > 0 else gap,
        largest_rounding(terms),
        f"8 √k u for sums of k = {terms:,} terms",
        f"{operator.name} is zero" if scale == 0 else "",
        idle=scale == 0,
    )
    return _accused(check, f"{operator.name} and its transpose do not belong together")


def inverse_tests(flow: Flow, rng: np.random.Generator, condition: float) -> list[Check]:
    """``P^-1 P q = q`` and ``P P^-1 q = q`` for a random q.

    Both products are recursions over time with sums of H terms in them. They are backward stable, so that the error
    is that of one sum times the condition number ``|P| |P^-1|`` (Higham, *Accuracy and Stability*, chapter 8).
    """
    terms = _terms(flow)
    bound = largest_rounding(terms) * condition
    reason = f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of P"
    q = flow.space.clear(rng.standard_normal(flow.space.shape))
    errors = [_norm(flow.P_inverse(flow.P(q)) - q), _norm(flow.P(flow.P_inverse(q)) - q)]
    names = (("P⁻¹ after P", "P⁻¹ P q = q"), ("P after P⁻¹", "P P⁻¹ q = q"))
    return [
        _judged(Check(name, identity, error / _norm(q), bound, reason), "P and P⁻¹ are not inverse to each other")
        for (name, identity), error in zip(names, errors, strict=True)
    ]


def kernel_test(flow: Flow, rng: np.random.Generator, condition: float) -> Check:
    """``NTK q = P K P* q`` for a random q: the kernel is made of D, which sums over time in an order of its own."""
    q = rng.standard_normal(flow.space.shape)
    whole = flow.NTK(q)
    gap, terms = _norm(flow.P(flow.K(flow.P.star(q))) - whole), longest_sum(flow)
    check = Check(
        "NTK from its factors",
        "NTK q = P K P* q",
        gap / (_norm(whole) or 1.0),
        largest_rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of P",
    )
    return _judged(check, "the NTK is not P K P*", zero=not whole.any())


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
    check = Check(
        "D from its factors",
        "D d = P_s J_s d",
        gap / size,
        largest_rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the amplification {condition:.3g} of rounding by P_s",
    )
    return _judged(check, "D is not P_s J_s", zero=not whole.any())


def gram_test(flow: Flow, rng: np.random.Generator) -> Check:
    """``NTK q = D D* q`` for a random q, of which D* keeps little: the error is relative to ``|D|^2 |Mu q|``."""
    q = rng.standard_normal(flow.space.shape)
    whole = flow.NTK(q)
    gap, size, terms = _norm(flow.D(flow.D.star(q)) - whole), _norm(whole) or 1.0, longest_sum(flow)
    condition = _largest_singular_value(flow.D, rng) ** 2 * _norm(flow.space.weigh(q)) / size
    check = Check(
        "NTK from D",
        "NTK q = D D* q",
        gap / size,
        largest_rounding(terms) * condition,
        f"8 √k u for sums of k = {terms:,} terms, times the condition number {condition:.3g} of the product",
    )
    return _judged(check, "the NTK is not D D*", zero=not whole.any())


def grid_tests(flow: Flow, rng: np.random.Generator) -> list[Check]:
    """The operators on the grid of times against those of the stages, which finite differences judge.

    The first stage of a step stands at its start, so that df/dz and df/dtheta are the same there:
    ``(A x, J d)`` at time n and at the first stage of step n. A forcing that is linear in time is interpolated
    exactly, so that P has the image of it that P_s has of its values at the stages. And K = J J*.
    """
    space, dynamics, terms = flow.space, flow.dynamics, longest_sum(flow)
    assert isinstance(dynamics, FieldDynamics)
    solution, trials = dynamics.solution, space.shape[0]
    first = solution.grid_index[:-1]
    d = rng.standard_normal(flow.J.shape_in)
    inside = (np.arange(space.shape[1] - 1) < dynamics.lengths[:, None] - 1)[:, :, None]  # steps within a trial
    columns, staged = flow.J(d)[:, :-1] * inside, flow.stage.J(d)[:, first, 0] * inside
    x = rng.standard_normal((1, trials, space.shape[2]))
    along = np.stack([jacobian(flow.linearization, row, x)[0] for row in range(len(first))], axis=1) * inside
    at_stages = _first_stage_products(dynamics, x) * inside
    level, rise = rng.standard_normal((2, trials, 1, 1, space.shape[2]))
    times = solution.t_steps[:-1, None] + np.diff(solution.t_steps)[:, None] * dynamics.tableau.c
    span = solution.times[-1] - solution.times[0]
    forced = flow.P(level[:, 0] + rise[:, 0] * (solution.times / span)[:, None])
    by_stages = flow.stage.P(level + rise * (times / span)[:, :, None])
    q = rng.standard_normal(space.shape)
    kernel, factors = flow.K(q), flow.J(flow.J.star(q))

    def compared(name: str, identity: str, one: Array, other: Array, accusation: str) -> Check:
        size = max(_norm(one), _norm(other))
        error, reason = _norm(one - other) / (size or 1.0), f"8 √k u for sums of k = {terms:,} terms"
        return _judged(Check(name, identity, error, largest_rounding(terms), reason), accusation, zero=size == 0)

    where = "at the times is not that at the first stages of the steps"
    return [
        compared("J at the times", "J d = J_s d at first stages", columns, staged, f"df/dθ {where}"),
        compared("A at the times", "A x = A_s x at first stages", along, at_stages, f"df/dz {where}"),
        compared("P from P_s", "P q = P_s q, q linear in time", forced, by_stages, "P is not P_s after interpolation"),
        compared("K from J", "K q = J J* q", kernel, factors, "K is not J J*"),
    ]


def _first_stage_products(dynamics: FieldDynamics, x: Array) -> Array:
    """A x at the first stage of the step that starts at each time, (B, T - 1, H), for x (1, B, H)."""
    products, system, row = [], dynamics.system, 0
    first = dynamics.solution.grid_index[:-1]
    for segment in system.segments:
        form = system.form(segment)
        while row < len(first) and first[row] < segment.stop:
            products.append(jacobian(form, (first[row] - segment.start) * system.stages, x)[0])
            row += 1
    return np.stack(products, axis=1)


def _derivative_check(differences: FiniteDifferences, flow: Flow, derivative: str) -> Check:
    # The estimate is the change made by the last extrapolation, not a bound; 10 covers a table that converges slowly.
    # An estimate that is no better than 1e-4 decides nothing, and must not pass.
    estimate, rows, steps = differences.error_estimate, differences.rows, flow.space.shape[1]
    name, identity = f"{derivative} = dZ/dθ", f"{derivative} d = derivative of the states along d"
    if differences.still and flow.states.any():
        words = "neither the derivative nor finite differences rise above the rounding of the states"
        return Check(name, identity, 0.0, 0.0, "no state moves", words, idle=True)
    verdict = ""
    if not estimate < DECISIVE:
        verdict = f"finite differences can not tell the derivative here: they are uncertain by {estimate:.1g} of it"
    elif rows < steps:
        cause = "so many kinks are crossed" if differences.crossings[-1] else "the network expands so much"
        verdict = (
            f"tested on the first {rows} of {steps} rows: {cause} that finite differences can not tell the derivative "
            "of later states"
        )
    check = Check(
        name,
        identity,
        differences.error,
        10 * estimate + largest_rounding(_chain(flow)) if estimate < DECISIVE else 0.0,
        f"10 times the error estimate {estimate:.1e} of the extrapolated central differences, and rounding",
        verdict,
    )
    return _accused(check, f"{derivative} is not the derivative of the states by the parameters")


def _judged(check: Check, accusation: str, zero: bool = False) -> Check:
    """The check, with a word if it could hardly fail: both sides are zero, or rounding may take every digit."""
    if zero and check.passed:
        return replace(check, verdict="both sides are zero", idle=True)
    if check.bound >= 1:
        words = "the network expands or forgets so much that rounding may take every digit of this identity"
        return replace(check, verdict=words, idle=True)
    return _accused(check, accusation)


def _accused(check: Check, accusation: str) -> Check:
    """The check, with what is wrong and by how much if it failed and has no verdict of its own."""
    if check.passed or check.verdict:
        return check
    size = f"they are off by {check.error:.1e}" if math.isfinite(check.error) else "a number is not finite"
    return replace(check, verdict=f"{accusation}: {size}")


def longest_sum(flow: Flow) -> int:
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
    model = flow.model
    return max(model.n_states, model.n_parameters // model.n_units_in_all) + 2


def _largest_singular_value(operator: TensorOperator, rng: np.random.Generator) -> float:
    """Euclidean operator norm by power iteration on ``A^T A``: from below, close enough for a factor in a bound."""
    single, x = in_single(operator), rng.standard_normal(operator.shape_in)
    if single is not None:  # a bound needs few digits
        found = _by_iteration(single, x)
        if math.isfinite(found) and found:
            return found
    return _by_iteration(operator, x)


def _by_iteration(operator: TensorOperator, x: Array) -> float:
    value = 0.0
    for _ in range(_NORM_ITERATIONS):
        image = operator(x / (_norm(x) or 1.0))
        value = _norm(image)
        x = operator.T(image / (value or 1.0))
    return value


def largest_rounding(terms: int) -> float:
    """``8 sqrt(k) u``: what rounding may do to a sum of k terms, relative to the sum of their moduli."""
    return 8 * math.sqrt(terms) * np.finfo(np.float64).eps / 2


def _norm(array: Array) -> float:
    """Euclidean norm, without overflow of the squares."""
    norm = float(np.linalg.norm(array))
    if math.isfinite(norm):
        return norm
    largest = float(np.abs(array).max())
    return largest * float(np.linalg.norm(array / largest)) if math.isfinite(largest) else norm
