"""Rules that replace the propagator of errors back in time by something else: ``G = (P~ J)*``.

    truncated at k            P~ = 1 + S + ... + S^(k-1),  (S y)[n] = A[n] y[n-1]
    feedback alignment        P~ propagates through fixed random weights in place of the network's
    local online              P~ propagates through no weight at all, only along each unit's own state

The forward dynamics are the network's own: Phi = D G. With k = T, or the network's own weights, P~ = P.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from kpref import operators
from kpref._types import Array
from kpref._validate import finite_array, instance, integer, short
from kpref.flow import Flow, require_flow
from kpref.learning.output_kernel import of_states
from kpref.models.base import Map
from kpref.operators import TensorOperator
from kpref.operators.structure import BY_TRIAL
from kpref.readout import Readout
from kpref.rules.descent import Rule
from kpref.step_form import StepForm

__all__ = ["feedback_alignment", "local_online", "truncated"]


def truncated(steps: int) -> Rule:
    """Backpropagation that follows an error back to the last `steps` applications of the map, its own among them.

    With one step it is ``G = J*``, ``Phi = P K``.

    Parameters
    ----------
    steps : int
        k, at least 1.
    """
    steps = integer("steps", steps, 1)

    def rule(flow: Flow, err: Array) -> TensorOperator:
        _require_map(flow, "truncation in time")
        back, space = flow.P_inverse, flow.space
        some = TensorOperator(
            partial(_truncated, back, steps), partial(_truncated, back.T, steps), space, space, flow.dtype,
            f"P_{steps}", BY_TRIAL,
        )  # fmt: skip
        return (some @ flow.J).star

    return rule


def feedback_alignment(seed: int = 0, weights: Mapping[str, npt.ArrayLike] | None = None) -> Rule:
    """Errors go back through fixed random weights (Lillicrap et al. 2016).

    All weights that states go through are replaced: recurrent ones, and those between layers.

    Parameters
    ----------
    seed : int
        Of normal weights of the same norm as the network's.
    weights : mapping of str to array_like, optional
        Given ones in place of random ones, of the shapes of those of ``flow.linearization.weights`` and under their
        names; what it lacks stays random.
    """
    seed = integer("seed", seed, 0)
    if weights is not None:
        instance("weights", weights, Mapping, "a mapping of names to arrays")
    given = dict(weights or {})

    def rule(flow: Flow, err: Array) -> TensorOperator:
        form = _require_network(flow, "feedback alignment")
        rng = np.random.default_rng(seed)
        chosen = {}
        for name in _passed(form):
            own = form.weights[name]
            random = rng.normal(size=own.shape)
            random *= np.linalg.norm(own) / np.linalg.norm(random)
            chosen[name] = finite_array(f"weights[{name!r}]", given.get(name, random), shape=own.shape)
        unknown = [name for name in given if name not in chosen]
        if unknown:
            raise ValueError(f"weights must be among {', '.join(chosen)}; got {short(unknown[0])}")
        return _through(flow, form, chosen)

    return rule


def local_online(readout: Readout | None = None, feedback: npt.ArrayLike | None = None, seed: int = 0) -> Rule:
    """Random feedback local online learning (Murray 2019): eligibility traces that decay in each unit by itself.

    Errors go back along each unit's own state alone (the leak of a leaky network, the update gate of a GRU, the cell of
    an LSTM) and not through weights. With a readout they reach the units by random feedback: ``Err = g W`` becomes
    ``g B = Err W^+ B``.

    Parameters
    ----------
    readout : Readout, optional
        Without one, the error is taken as it is.
    feedback : array_like, shape (n_out, H), optional
        B; by default normal, of the norm of W.
    seed : int
        Of B.
    """
    seed = integer("seed", seed, 0)
    if readout is not None:
        instance("readout", readout, Readout, "a kpref.Readout")
    elif feedback is not None:
        raise ValueError("feedback needs the readout in whose place it stands; got readout None")

    def rule(flow: Flow, err: Array) -> TensorOperator:
        form = _require_network(flow, "local online learning")
        local = _through(flow, form, {name: np.zeros(form.weights[name].shape) for name in _passed(form)})
        return local if readout is None else local @ _random_feedback(flow, readout, feedback, seed)

    return rule


def _random_feedback(flow: Flow, readout: Readout, feedback: npt.ArrayLike | None, seed: int) -> TensorOperator:
    """``Err -> Err W^+ B`` at each point."""
    weight = of_states(flow, readout).weight
    if feedback is None:
        random = np.random.default_rng(seed).normal(size=weight.shape) * (weight.any(axis=0))
        matrix = random * (np.linalg.norm(weight) / (np.linalg.norm(random) or 1.0))
    else:
        matrix = finite_array("feedback", feedback, shape=weight.shape)
    mixed = np.ascontiguousarray((np.linalg.pinv(weight) @ matrix).astype(flow.dtype))
    return TensorOperator(
        partial(_at_points, mixed), partial(_at_points, np.ascontiguousarray(mixed.T)), flow.space, flow.space,
        flow.dtype, "W^+ B", BY_TRIAL,
    )  # fmt: skip


def _through(flow: Flow, form: StepForm, weights: Mapping[str, Array]) -> TensorOperator:
    """``(P~ J)*`` with other weights in P~."""
    return (operators.propagator(form.changed(weights=weights), flow.space) @ flow.J).star


def _passed(form: StepForm) -> list[str]:
    """Weights of products that states go through."""
    found = [op.name for op in form.program.operations if op.kind == "product" and op.source is not None]
    return list(dict.fromkeys(found))


def _truncated(back: TensorOperator, steps: int, batch: Array) -> Array:
    """``(1 + S + ... + S^(k-1)) q`` by Horner, with ``S = 1 - P^-1``; or transposed."""
    image = batch.copy()
    for _ in range(steps - 1):
        image = batch + (image - back.apply(image))
    return image


def _at_points(matrix: Array, batch: Array) -> Array:
    return batch @ matrix


def _require_map(flow: Flow, what: str) -> None:
    if not isinstance(require_flow(flow).model, Map):
        raise TypeError(f"{what} is defined for maps; {flow.model} is in continuous time")


def _require_network(flow: Flow, what: str) -> StepForm:
    _require_map(flow, what)
    form = flow.linearization
    if not isinstance(form, StepForm):
        raise TypeError(f"{what} needs a network whose weights are known; got {flow.model}")
    return form
