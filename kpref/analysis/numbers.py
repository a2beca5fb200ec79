"""The numbers of a report: what the K-P flow says about one trained network on its trials.

Everything is computed from a `Flow` without forming a matrix of the operators: the spectrum of K exactly from its
blocks, the leading eigenpairs of ``P P*`` and the NTK by Lanczos iterations, the gradient flow by one backward and one
forward pass, and its realisation by running the network again after parameter steps of several sizes. Traces and
dimensions are in `kpref.analysis.operator_sizes`, norms and exponents in `kpref.analysis.stability`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.alignments import align_tasks, aligned, aligned_images, seen_by_vectors
from kpref.analysis.checks import Check
from kpref.analysis.effort import DEFAULT, Effort
from kpref.analysis.gradient_checks import error_check, flow_check
from kpref.analysis.missed_modes import missed_check
from kpref.analysis.mode_checks import ASKED, kernel_checks, kernel_sums, mode_check
from kpref.analysis.operator_sizes import Dimensions, measure_dimensions, schmidt_trials
from kpref.analysis.parameter_operator import exact_spectrum, kernel_modes
from kpref.analysis.profile import Profile, leading_profile
from kpref.analysis.runs import evenly_spread
from kpref.analysis.sections import Sections
from kpref.analysis.selfcheck import SelfCheck, longest_sum, self_check
from kpref.analysis.settings import Integration, Objective
from kpref.analysis.stability import Stability, growth_trials, measure_stability, stability_trials
from kpref.analysis.step_size import measure_step_size
from kpref.analysis.step_test import StepTest, measure_steps, step_checks
from kpref.equilibria import FixedPoints, fixed_points
from kpref.flow import Flow, GradientFlow
from kpref.models import Field, Model
from kpref.operators.precision import in_single
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.spectra import (
    Eigen,
    Estimate,
    KernelSpectrum,
    TaskAlignment,
    eigh,
)
from kpref.spectra.blocks import BlockEigen, block_eigh, whole_vectors
from kpref.spectra.exact_spectrum import Directions
from kpref.spectra.white_images import WhiteImages
from kpref.trials import Trials
from kpref.unit_form import unit_form

__all__ = [
    "Analysis",
    "ErrorShares",
    "Profile",
    "StepTest",
    "analyze_checkpoint",
    "error_shares",
    "leading_profile",
]

#: Stages that `analyze_checkpoint` reports as its progress.
PHASES = 9
#: Eighth powers of what is larger overflow: effective ranks are made of fourth powers of K and the NTK.
_LARGEST = 1e35
#: Floating-point operations that the search for fixed points may take, and for each start, of S^3: 15 Jacobians.
_POINTS_WORK, _START_WORK = 5e10, 375.0
#: Eigenfunctions of the NTK that are drawn.
SHOWN_MODES = 3


@dataclass(frozen=True, eq=False)
class ErrorShares:
    """How the error and the fall of the loss are spread over the leading modes v_i of the NTK."""

    error: Array  # (k,): ``<Err, v_i>^2 / |Err|^2``
    # (k,): ``lambda_i <Err, v_i>^2 / <Err, NTK Err>``: share of the rate at which gradient descent lowers the loss
    rate: Array

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is known of one checkpoint.

    The parts that need a loss (loss, accuracy, outputs, error_norm, loss_rate, shares, step) are None without one;
    `shares` and `step` also where the gradient is zero.

    Attributes
    ----------
    name : str
    model : str
        The network in words.
    space : TrajectorySpace
    times : ndarray, shape (T,), or None
        The times of the trials in continuous time.
    states : ndarray, shape (B, T, H)
        Zero after the end of a trial, as are outputs.
    flow : Flow
        The network on its trials, for comparisons.
    kernel : KernelSpectrum or None
        Exact spectrum of K; None where K couples units.
    kernel_modes : Eigen
        Leading eigenpairs of K, by iteration.
    propagator_modes : BlockEigen
        Leading eigenpairs of ``P P*``, one block a trial.
    ntk_modes : Eigen
    profiles : tuple of Profile
        Of the first modes of the NTK.
    dimensions : Dimensions
    stability : Stability
    kernel_ntk : Estimate or None
        Alignment of K with the NTK; None if one of them is zero.
    check : SelfCheck
    discretisation : float or None
        Of a network in continuous time, ``|P K P* v - NTK v| / |NTK v|`` for the first mode v: the two have the same
        limit, and differ as the method and the interpolation of forcings between the times differ from it.
    loss, accuracy, error_norm, loss_rate : float or None
        L, share of correct answers, ``|Err|``, and ``dL/deta = -<Err, NTK Err>`` at eta = 0.
    outputs : ndarray, shape (B, T, n_out), or None
    shares : ErrorShares or None
    step : StepTest or None
    points : FixedPoints or None
        Where the network rests under no input, from a few states of its trials; None where that is not looked for, or
        the network is too wide to do so quickly.
    tasks : TaskAlignment or None
        Alignment of the sub-tasks that conditions or labels stand for; None without one for each trial, or with more
        than `kpref.analysis.alignments.MOST_TASKS` of them.
    seen : mapping of WhiteImages
        K and the NTK as random vectors see them, by name, for comparisons; empty where they are small.
    seconds : mapping
        How long each phase of the work took, by its name.
    """

    name: str
    model: str
    space: TrajectorySpace
    times: Array | None
    states: Array
    flow: Flow
    kernel: KernelSpectrum | None
    kernel_modes: Eigen
    propagator_modes: BlockEigen
    ntk_modes: Eigen
    profiles: tuple[Profile, ...]
    dimensions: Dimensions
    stability: Stability
    kernel_ntk: Estimate | None
    check: SelfCheck
    discretisation: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    error_norm: float | None = None
    loss_rate: float | None = None
    outputs: Array | None = None
    shares: ErrorShares | None = None
    step: StepTest | None = None
    points: FixedPoints | None = None
    tasks: TaskAlignment | None = None
    seen: Mapping[str, WhiteImages] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def kernel_values(self) -> Array:
        """Eigenvalues of K, descending: all of them where they are exact, otherwise the leading ones."""
        return self.kernel_modes.values if self.kernel is None else self.kernel.values

    @property
    def states_rms(self) -> float:
        """Root mean square of the states, over units and the points that exist."""
        return float(np.sqrt(np.square(self.states).sum() / (self.space.n_points * self.space.shape[2])))


def analyze_checkpoint(
    name: str,
    model: Model,
    readout: Readout | None,
    trials: Trials,
    objective: Objective | None,
    modes: int = 10,
    measure: str = "mean",
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
    tick: Callable[[object], object] | None = None,
    integration: Integration | None = None,
    z0: Array | None = None,
    effort: Effort = DEFAULT,
    compared: bool = False,
) -> Analysis:
    """Analyze one network on its trials.

    Parameters
    ----------
    name : str
        For the report.
    model : Model
    readout : Readout or None
    trials : Trials
        Fit the model, and with an objective the readout.
    objective : Objective or None
        None, or no readout: leave out what needs a loss.
    modes : int
        Number k of leading eigenpairs; fewer where the operators have fewer.
    measure : {"mean", "sum"}
    seed : int
        Of starting vectors, probes and random tests.
    progress : callable, optional
        Told, before each phase of the work, what it is: `PHASES` times in all.
    tick : callable, optional
        Called now and then while a phase lasts, from several threads; its argument means nothing.
    integration : Integration, optional
        For a model in continuous time, and only then.
    z0 : ndarray, shape (H,) or (B, H), optional
        Initial states, shared or one a trial; zero by default.
    effort : Effort
        How many random vectors stand behind estimates, and whether there are Schmidt ranks.
    compared : bool
        Whether to keep what random vectors have seen, which comparisons with other networks then need not ask anew.

    Returns
    -------
    Analysis

    Raises
    ------
    ValueError
        If the trials do not fit the network, or the trajectory overflows.
    RuntimeError
        If an eigensolver does not converge.
    MemoryError
        If there is too little memory.
    """
    tell = Sections(progress or (lambda phase: None))
    tell("running the network")

    arguments: dict[str, Any] = {} if integration is None else integration.arguments()
    flow = Flow(model, trials, z0, measure=measure, **arguments)

    def flow_on(chosen: Array) -> Flow:
        if len(chosen) == trials.n_trials:
            return flow
        initial = z0[chosen] if z0 is not None and z0.ndim == 2 else z0
        return Flow(model, trials.subset(chosen), initial, measure=measure, **arguments)

    _require_moderate(name, flow, seed)
    k = min(modes, flow.space.size)
    tell("spectrum of K")
    units = unit_form(flow.linearization)  # held while many ask for them
    directions = Directions(k)
    kernel = exact_spectrum(flow, tick, directions)
    leading = kernel_modes(flow, k, kernel, seed, tick, directions)
    tell("modes of P P*")
    propagator_modes = block_eigh(
        flow.P.gram(), k, axis=0, seed=seed, tol=ASKED, progress=tick, part=lambda some: flow_on(some).P.gram()
    )
    tell("modes of the NTK")
    # Of the products that do not matter, those that look for missed copies, half the price is asked.
    precision = "full" if in_single(flow.NTK) is None else "mixed"
    ntk_modes = eigh(flow.NTK, k, seed=seed, tol=ASKED, progress=tick, precision=precision)
    tell("traces and dimensions")
    numbers = schmidt_trials(flow.space, effort.schmidt)
    parts = [flow_on(evenly_spread(trials.n_trials, number)) if number else None for number in numbers]
    seen = seen_by_vectors(flow, k, effort.probes, seed)
    dimensions = measure_dimensions(
        flow, kernel, leading, ntk_modes, propagator_modes, effort.probes, seed, parts[0], parts[1], seen
    )
    kernel_ntk = aligned_images(seen.get("K"), seen.get("NTK"), leading, ntk_modes)
    if kernel_ntk is None:
        kernel_ntk = aligned(flow.K, flow.NTK, effort.probes, seed)
    tell("norms and exponents")
    some, followed = (
        evenly_spread(trials.n_trials, number) for number in (stability_trials(flow.space), growth_trials(flow.space))
    )
    stability = measure_stability(propagator_modes, flow_on(some), some, flow_on(followed), followed, seed)
    tell("self-check")
    check = self_check(flow, seed, progress=tick)
    terms = longest_sum(flow)
    gram, propagated = flow.P.gram(), whole_vectors(propagator_modes, flow.space.shape, axis=0)
    check = check.extended(
        [
            *_checks_of_kernel(flow, kernel, leading, terms, seed, seen.get("K")),
            mode_check(gram, propagator_modes.values, propagated, terms),
            missed_check(gram, propagator_modes.values, propagated, terms, seed),
            mode_check(flow.NTK, ntk_modes.values, ntk_modes.vectors, terms),
            missed_check(flow.NTK, ntk_modes.values, ntk_modes.vectors, terms, seed),
        ]
    )
    del units
    analysis = Analysis(
        name=name,
        model=_in_words(model),
        space=flow.space,
        times=flow.solution.times if isinstance(model, Field) else None,
        states=flow.states,
        flow=flow,
        kernel=kernel,
        kernel_modes=leading,
        propagator_modes=propagator_modes,
        ntk_modes=ntk_modes,
        profiles=tuple(leading_profile(v, flow.space) for v in ntk_modes.vectors[:SHOWN_MODES]),
        dimensions=dimensions,
        stability=stability,
        kernel_ntk=kernel_ntk,
        check=check,
        seen=seen if compared else {},
        discretisation=_discretisation(flow, ntk_modes) if isinstance(model, Field) else None,
    )
    tell("fixed points")
    analysis = replace(analysis, points=_points(flow, effort, seed))
    tell("gradient flow and steps")
    if objective is not None and readout is not None:
        with np.errstate(over="ignore"):  # a loss that overflows is refused
            gradient = flow.gradient_flow(readout, **objective.arguments(trials))
        analysis = _with_loss(analysis, gradient, readout, trials, objective, seed)
    return replace(analysis, seconds=tell.closed())


def _checks_of_kernel(
    flow: Flow, exact: KernelSpectrum | None, modes: Eigen, longest_sum: int, seed: int, seen: WhiteImages | None
) -> list[Check]:
    if exact is None:  # nothing to compare with: look for a larger value that is missing
        known = modes.values, modes.vectors, longest_sum
        return [mode_check(flow.K, *known), missed_check(flow.K, *known, seed)]
    return [*kernel_checks(flow.K, exact, modes, longest_sum, seed, seen), kernel_sums(exact, flow)]


def _points(flow: Flow, effort: Effort, seed: int) -> FixedPoints | None:
    """As many starts as the effort and the work that is meant for them allow."""
    number = min(effort.starts, int(_POINTS_WORK / (_START_WORK * flow.model.n_states**3)))
    if number == 0:
        return None
    try:
        with np.errstate(all="ignore"):  # of a user's function where it is given no input
            return fixed_points(flow.model, starts=flow, n_starts=number, seed=seed, max_iterations=50)
    except ValueError:  # of all that could be wrong there is left a model that overflows where it has no input
        return None


def _require_moderate(name: str, flow: Flow, seed: int) -> None:
    """Refuse a network that explodes so much that powers of its operators overflow."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        images = (op(rng.standard_normal(op.shape_in)) for op in (flow.P, flow.D))
        grown = max(float(np.abs(image).max()) for image in images)
        reached = float(np.abs(flow.states).max())
        if reached <= _LARGEST and grown <= _LARGEST:
            return
        step = measure_step_size(flow) if isinstance(flow.model, Field) else None
    text = f"{name} explodes: its states reach {reached:.1e}, and small changes"
    text += f" grow to {grown:.1e}" if np.isfinite(grown) else " overflow"
    if step is not None and not step.stable:
        raise ValueError(f"{text}; {step.in_words()}")
    raise ValueError(f"{text}, whose powers are beyond all numbers: fewer steps, or other weights, keep it in bounds")


def _in_words(model: Model) -> str:
    return f"{model.in_words} with {model.n_inputs} inputs and {model.n_parameters:,} trainable parameters"


def _with_loss(
    analysis: Analysis, gradient: GradientFlow, readout: Readout, trials: Trials, objective: Objective, seed: int
) -> Analysis:
    space, value = analysis.space, gradient.loss_value
    arguments = objective.arguments(trials)
    if not np.isfinite([value.value, gradient.loss_rate]).all():
        wanted = arguments.get("targets", 0.0)
        raise ValueError(
            f"the loss of {analysis.name}, or its gradient, is no finite number (outputs reach "
            f"{np.abs(value.outputs).max():.1e}, targets {np.abs(wanted).max():.1e}): scale the targets and the "
            "readout to moderate numbers"
        )
    moving = bool(gradient.grad_theta.any())
    step = measure_steps(gradient, readout, arguments) if moving else None
    checks = [] if step is None else [
        error_check(gradient, readout, arguments, seed),
        flow_check(gradient, float(analysis.ntk_modes.values[0]), longest_sum(gradient.flow)),
        *step_checks(step),
    ]  # fmt: skip
    return replace(
        analysis,
        loss=gradient.loss,
        accuracy=value.accuracy,
        error_norm=space.norm(gradient.err),
        loss_rate=gradient.loss_rate,
        outputs=value.outputs,
        shares=error_shares(analysis.ntk_modes, gradient, space),
        step=step,
        tasks=align_tasks(gradient, trials) if moving else None,
        check=analysis.check.extended(checks),
    )


def error_shares(modes: Eigen, gradient: GradientFlow, space: TrajectorySpace) -> ErrorShares | None:
    """Shares of the error and of the fall of the loss in modes of the NTK; None if one of the two is zero."""
    size, rate = space.norm(gradient.err) ** 2, -gradient.loss_rate
    if size == 0 or rate == 0:  # or so small that their squares are
        return None
    overlaps = np.array([space.inner(gradient.err, v) for v in modes.vectors]) ** 2
    return ErrorShares(overlaps / size, modes.values * overlaps / rate)


def _discretisation(flow: Flow, modes: Eigen) -> float:
    """Difference of ``P K P*`` from the NTK on its first mode, which is smooth in time as a random tensor is not."""
    mode = modes.vectors[0]
    exact = flow.NTK(mode)
    return flow.space.norm(flow.P(flow.K(flow.P.star(mode))) - exact) / (flow.space.norm(exact) or 1.0)
