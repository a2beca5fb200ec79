"""What is done with each shard: functions that a pickle can tell by their names, and that remember nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from kpref._archives import replacing
from kpref._types import Array
from kpref.distributed.shards import LoadedShard
from kpref.flow import Flow
from kpref.loss import DRIVEN_BY, readout_gradient, scores
from kpref.models.base import Model
from kpref.operators.precision import in_single
from kpref.readout import Readout
from kpref.spectra import trace

__all__ = [
    "apply_factor", "cross_gram", "gradient_terms", "gram", "lift", "propagate", "pull", "save_lifted", "states",
    "step_terms", "trace_terms",
]  # fmt: skip


def gram(shard: LoadedShard, batch: Array) -> Array:
    """The part of ``D* D v`` that comes of a shard, for a batch (v, M): in float32 if the batch is."""
    (flow,) = shard.flows
    own = flow.D.star.gram()
    single = in_single(own) if batch.dtype == np.float32 else None
    return (own if single is None else single).apply(batch)


def cross_gram(shard: LoadedShard, batch: Array, transposed: bool) -> Array:
    """That of ``D_1* D_2 v`` of two flows over the same trials, or of its transpose."""
    first, second = shard.flows[::-1] if transposed else shard.flows
    return first.D.star.apply(second.D.apply(batch))


def pull(shard: LoadedShard, name: str, tensor: Array) -> Array:
    """That of ``J* q`` or ``D* q``, of the part (b, T, H) of q, shape (M,)."""
    (flow,) = shard.flows
    return np.asarray(getattr(flow, name).star(tensor))


def apply_factor(shard: LoadedShard, name: str, vector: Array) -> Array:
    """``J v`` or ``D v`` at the trials of a shard, (b, T, H)."""
    (flow,) = shard.flows
    return np.asarray(getattr(flow, name)(vector))


def propagate(shard: LoadedShard, tensor: Array) -> Array:
    """``P q`` at the trials of a shard, (b, T, H)."""
    (flow,) = shard.flows
    return np.asarray(flow.P(tensor))


def states(shard: LoadedShard) -> Array:
    """States (b, T, H)."""
    (flow,) = shard.flows
    return np.array(flow.states)


def lift(shard: LoadedShard, vectors: Array, scales: Array) -> Array:
    """``D v / sigma`` at the trials of a shard, (k, b, T, H)."""
    (flow,) = shard.flows
    return flow.D.apply(vectors) / scales[:, None, None, None].astype(flow.dtype)


def save_lifted(shard: LoadedShard, vectors: Array, scales: Array, folder: str) -> str:
    """The same into a file of a folder, wholly or not at all; its name."""
    name = f"modes-{shard.index:06d}.npy"
    with replacing(Path(folder) / name) as file:
        np.save(file, lift(shard, vectors, scales), allow_pickle=False)
    return name


def gradient_terms(shard: LoadedShard, readout: Readout, at: str) -> Array:
    """Sums over the points of a shard that `kpref.distributed.totals.gradient_of` makes a gradient of.

    Those are of shape (M + n_out H + n_out + 4,). Weights of the points in the loss have the mean one in the measure
    over all trials, which nobody knows before the sums are there (`kpref.loss`). A flow over the shard alone scales
    them by ``c = m / s``, m its measure and s that of what it scores: so the terms are its gradients by the model's
    parameters, by the weights of the readout and by its bias, its loss and its accuracy over c, and m and s themselves.
    """
    return _gradient_terms(shard, shard.flows[0], readout, at)


def step_terms(shard: LoadedShard, model: Model, readout: Readout, at: str) -> Array:
    """The same of a model whose flow nobody needs again."""
    with np.errstate(over="ignore", invalid="ignore"):  # the step says what is not finite
        return _gradient_terms(shard, shard.flow(model), readout, at)


def _gradient_terms(shard: LoadedShard, flow: Flow, readout: Readout, at: str) -> Array:
    with shard.shard.named():
        answers, mask = shard.answers()
    if not answers:
        raise ValueError("the trials have neither targets nor labels, of one of which a loss needs to know")
    with shard.shard.named():
        measure, scored = float(flow.space.mu.sum()), float((flow.space.mu * scores(flow.space, mask, at)).sum())
    if scored == 0.0:
        size = flow.model.n_parameters + readout.weight.size + readout.n_outputs
        return np.array([*np.zeros(size), 0.0, 0.0, measure, 0.0])
    loss = next(name for name, driver in DRIVEN_BY.items() if driver in answers)
    with shard.shard.named():
        found = flow.gradient_flow(readout, loss=loss, mask=mask, at=at, **answers)
    share, accuracy = scored / measure, found.loss_value.accuracy
    seen = flow.states if readout.n_states == flow.model.n_states else flow.states[:, :, flow.model.observed]
    weight, bias = readout_gradient(flow.space, found.loss_value, seen)
    slopes = np.concatenate([found.grad_theta.astype(np.float64), weight.ravel(), bias])
    sums = [share * found.loss, math.nan if accuracy is None else scored * accuracy, measure, scored]
    return np.concatenate([share * slopes, sums])


def trace_terms(shard: LoadedShard, options: dict[str, Any], seed: int) -> Array:
    """Of an estimate of the trace over a shard: what adds up for independent ones (see `ShardedFlow.trace`)."""
    (flow,) = shard.flows
    own = int(np.random.SeedSequence([seed, shard.index]).generate_state(1)[0])
    found = trace(flow.NTK, seed=own, **options)
    variance = found.standard_error**2
    return np.array(
        [
            found.value, variance, variance**2 / found.degrees, found.skewness * found.standard_error**3,
            found.n_products, found.forward, found.backward,
        ]
    )  # fmt: skip
