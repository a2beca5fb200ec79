"""What is measured of a checkpoint: numbers with the error of random vectors, and of the finite number of trials.

With P, K, D, NTK = D D* of the trained parameters, Err of the loss, and the adjoint ``P* Err``:

    loss, accuracy
    dimension_K, dimension_PP, dimension_NTK      effective dimensions, ``tr(G)^2 / tr(G^2)``
    dimension_states, _adjoints, _err             of the covariance over units, of all trials and times
    trace_K, trace_NTK, largest_NTK
    alignment_first, alignment_last               of the NTK with that of the first and the last checkpoint
    alignment_PK_NTK, alignment_PP_NTK            KA(P K, P K P*) and KA(P P*, P K P*)
    misdirection                                  angle of Err and NTK Err, in degrees
    err_share/1, ...                              share of ``|Err|^2`` in each leading mode of the NTK
    K_share/NAME, NTK_share/NAME                  share of the trace that is owed to a group of parameters
    step_error                                    of the predicted change of the states, for one step of gradient
                                                  descent that moves them by a hundredth of their size
    step_loss                                     realised change of the loss over the predicted one, for that step

(Hazelden et al., arXiv:2507.06381 and arXiv:2605.08746.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.alignments import aligned
from kpref.analysis.numbers import error_shares
from kpref.analysis.operator_sizes import Dimensions, measure_dimensions
from kpref.analysis.parameter_operator import exact_spectrum, kernel_modes
from kpref.analysis.request import Request
from kpref.analysis.settings import Objective
from kpref.analysis.trial_errors import errors_of_alignments, jackknife_error, trial_groups
from kpref.flow import Flow, GradientFlow
from kpref.loss import evaluate_loss
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.spectra import Estimate, adjoint_trace, eigh
from kpref.spectra.blocks import block_eigh
from kpref.spectra.closed_form import kernel_unit_trace
from kpref.spectra.exact_spectrum import Directions
from kpref.threads import serial_blas
from kpref.trials import Trials

__all__ = ["Curve", "Number", "flow_of", "measure"]

#: Of eigenpairs: what is made of them has errors far above.
_TOLERANCE = 1e-6
#: Size of the step that is predicted and taken, relative to that of the states.
_STEP = 1e-2


@dataclass(frozen=True)
class Number:
    """A number and its errors.

    Attributes
    ----------
    value : float
        NaN where it is not defined, such as an angle to zero.
    error : float
        Standard error from random vectors; 0 of what is exact.
    trial_error : float
        Standard error from the finite number of trials (`kpref.analysis.trial_errors`); NaN where it is not known.
    """

    value: float
    error: float = 0.0
    trial_error: float = math.nan


@dataclass(frozen=True, eq=False)
class Curve:
    """A quantity against training: arrays (c,), one entry a checkpoint; see `Number`."""

    steps: Array
    values: Array
    errors: Array
    trial_errors: Array

    __repr__ = short_repr


def flow_of(request: Request, trainable: list[str]) -> Flow:
    """The network of a request on its trials, these of its parameters being trained (all where none is)."""
    network, method = request.networks[0], request.integration
    own = [name for name in trainable if name in network.model.parameters]
    return Flow(
        network.model.with_trainable(own or None), request.trials, network.z0, measure=request.measure,
        **({} if method is None else method.arguments()),
    )  # fmt: skip


@serial_blas
def measure(
    request: Request, flow: Flow, first: Flow, last: Flow, start: Array | None
) -> tuple[dict[str, Number], Array]:
    """All numbers of a checkpoint, and the leading modes of its NTK.

    `request`: of this checkpoint. `flow`: its `flow_of`; `first`, `last`: those of the first and the last checkpoint
    on the same trials. `start`: modes of the checkpoint before.
    """
    network, trials, objective, seed = request.networks[0], request.trials, request.objective, request.seed
    probes, space = request.effort.probes, flow.space
    k = min(request.modes, space.size)
    directions = Directions(k)
    spectrum = exact_spectrum(flow, directions=directions)
    modes = eigh(flow.NTK, k, seed=seed, tol=_TOLERANCE, start=start)
    dimensions = measure_dimensions(
        flow, spectrum, kernel_modes(flow, k, spectrum, seed, directions=directions), modes,
        block_eigh(flow.P.gram(), k, axis=0, seed=seed, tol=_TOLERANCE), probes, seed,
    )  # fmt: skip
    found = {**_sizes(dimensions), "largest_NTK": Number(float(modes.values[0]))}
    groups = trial_groups(space, seed)
    found["dimension_states"] = _over_units(flow.states, space, groups)
    if objective is not None and network.readout is not None:
        gradient = flow.gradient_flow(network.readout, **objective.arguments(trials))
        found |= _of_loss(gradient, network.readout, trials, objective, groups)
        found["dimension_err"] = _over_units(gradient.err, space, groups)
        found["dimension_adjoints"] = _over_units(np.asarray(flow.P.star(gradient.err)), space, groups)
        shares = error_shares(modes, gradient, space)
        of_modes = np.full(k, math.nan) if shares is None else shares.error
        found |= {f"err_share/{index + 1}": Number(float(share)) for index, share in enumerate(of_modes)}
        found |= _of_step(gradient, network.readout, trials, objective)
    pairs = {
        "alignment_first": (flow.NTK, first.NTK),
        "alignment_last": (flow.NTK, last.NTK),
        "alignment_PK_NTK": (flow.P @ flow.K, flow.NTK),
        "alignment_PP_NTK": (flow.P.gram(), flow.NTK),
    }
    apart = {name: pair for name, pair in pairs.items() if pair[0] is not pair[1]}
    errors = {} if groups is None else errors_of_alignments(apart, groups, probes, seed)
    for name, (one, other) in pairs.items():
        found[name] = Number(1.0, 0.0, 0.0)
        if name in apart:
            found[name] = _estimated(aligned(one, other, probes, seed), errors.get(name, math.nan))
    return found | _by_group(request, flow), modes.vectors


def _estimated(estimate: Estimate | None, trial_error: float = math.nan) -> Number:
    return Number(math.nan) if estimate is None else Number(estimate.value, estimate.standard_error, trial_error)


def _sizes(found: Dimensions) -> dict[str, Number]:
    errors = found.trial_errors
    known = {
        "dimension_K": (found.kernel, "effective_dimension_K"),
        "dimension_PP": (found.propagator, "effective_dimension_PP*"),
        "dimension_NTK": (found.ntk, "effective_dimension_NTK"),
        "trace_K": (found.kernel_trace, "trace_K"),
        "trace_NTK": (found.ntk_trace, "trace_NTK"),
    }
    return {name: _estimated(estimate, errors.get(key, math.nan)) for name, (estimate, key) in known.items()}


def _over_units(values: Array, space: TrajectorySpace, groups: Array | None) -> Number:
    """Effective dimension of the covariance over units of (B, T, H), exact; with its error from the trials."""
    own = np.zeros(len(values), np.intp) if groups is None else groups
    moments = []
    for group in range(int(own.max()) + 1):
        mu, part = space.mu[own == group], values[own == group]
        rows, weights = part.reshape(-1, part.shape[2]), mu.reshape(-1, 1)
        moments.append((weights.sum(), (weights * rows).sum(axis=0), (weights * rows).T @ rows))
    whole = tuple(sum(parts[1:], start=parts[0]) for parts in zip(*moments, strict=True))
    value = _participation(*whole)
    if groups is None:
        return Number(value)
    without = [_participation(*(a - b for a, b in zip(whole, own, strict=True))) for own in moments]
    return Number(value, 0.0, jackknife_error(np.array(without)))


def _participation(weight: float, first: Array, second: Array) -> float:
    covariance = second / weight - np.outer(first, first) / weight**2
    square = float(np.square(covariance).sum())
    return float(np.trace(covariance)) ** 2 / square if square else 0.0


def _of_loss(
    gradient: GradientFlow, readout: Readout, trials: Trials, objective: Objective, groups: Array | None
) -> dict[str, Number]:
    space, value, err, dz = gradient.flow.space, gradient.loss_value, gradient.err, gradient.dz
    sizes = space.norm(err) * space.norm(dz)
    cosine = -space.inner(err, dz) / sizes if sizes else math.nan
    loss_of = _loss_without(gradient, readout, trials, objective)
    error = math.nan
    if groups is not None:
        scored = [loss_of(groups != group) for group in range(int(groups.max()) + 1)]
        error = jackknife_error(np.array(scored))
    found = {
        "loss": Number(value.value, 0.0, error),
        "misdirection": Number(float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))),
    }
    return found if value.accuracy is None else found | {"accuracy": Number(value.accuracy)}


def _loss_without(
    gradient: GradientFlow, readout: Readout, trials: Trials, objective: Objective
) -> Callable[[Array], float]:
    """The loss on some of the trials, scaled to the weight of all; NaN if nothing of them is scored."""
    flow = gradient.flow
    total = flow.space.mu.sum()

    def loss_of(kept: Array) -> float:
        part, mu, states = trials.subset(np.flatnonzero(kept)), flow.space.mu[kept], flow.states[kept]
        space = TrajectorySpace(states.shape, mu, lengths=part.lengths)
        try:
            return evaluate_loss(states, space, readout, **objective.arguments(part)).value * total / mu.sum()
        except ValueError:  # all else has been checked: the mask leaves nothing
            return math.nan

    return loss_of


def _of_step(gradient: GradientFlow, readout: Readout, trials: Trials, objective: Objective) -> dict[str, Number]:
    flow, space = gradient.flow, gradient.flow.space
    speed = space.norm(gradient.dz)
    names = ("step_error", "step_loss")
    if speed == 0:
        return dict.fromkeys(names, Number(math.nan))
    eta = _STEP * (space.norm(flow.states) or 1.0) / speed
    try:
        change = gradient.realised(eta)
    except ValueError:  # after so small a step the network overflows
        return dict.fromkeys(names, Number(math.nan))
    after = evaluate_loss(flow.states + change, space, readout, **objective.arguments(trials)).value
    gap = space.norm(change - eta * gradient.dz) / (eta * speed)
    return {names[0]: Number(gap), names[1]: Number((after - gradient.loss) / (eta * gradient.loss_rate))}


def _by_group(request: Request, flow: Flow) -> dict[str, Number]:
    """Shares of the traces of K and the NTK that each trained array has: they are sums over arrays."""
    parts = {name: flow_of(request, [name]) for name in flow.model.trainable}
    kernel = {name: float(kernel_unit_trace(one.linearization, flow.space.mu).sum()) for name, one in parts.items()}
    # Random vectors of their own for each, so that errors are independent.
    ntk = {
        name: adjoint_trace(one.D, request.effort.probes, seed=request.seed + 1 + index)
        for index, (name, one) in enumerate(parts.items())
    }
    found = {f"K_share/{name}": Number(value / (sum(kernel.values()) or 1.0)) for name, value in kernel.items()}
    values, errors = (np.array([getattr(one, of) for one in ntk.values()]) for of in ("value", "standard_error"))
    total = values.sum() or 1.0
    shares = values / total
    # d share_i = ((1 - share_i) d value_i - share_i sum_(j not i) d value_j) / total
    others = np.square(errors).sum() - np.square(errors)
    spreads = np.sqrt(np.square((1 - shares) * errors) + np.square(shares) * others) / total
    return found | {
        f"NTK_share/{name}": Number(float(share), float(spread))
        for name, share, spread in zip(ntk, shares, spreads, strict=True)
    }
