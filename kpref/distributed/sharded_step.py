"""A step of an optimiser along a gradient over all shards.

The gradient is a sum in the order of the tree, and the step is taken by one process: so parameters have the same bits
after any number of steps, whoever works on the shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref._validate import instance, short
from kpref.distributed.totals import ShardedGradient
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.training.optimizers import Optimizer, State, clip_norm

__all__ = ["Moved", "after_step"]


@dataclass(frozen=True, eq=False)
class Moved:
    """What a step comes to: the network, the state of the optimiser, and the norm of the gradient."""

    model: Model
    readout: Readout
    state: State
    gradient_norm: float


def after_step(
    model: Model,
    readout: Readout,
    found: ShardedGradient,
    state: State | None,
    way: Optimizer,
    rate: float,
    clip: float | None,
) -> Moved:
    """Move the trainable parameters and the readout, in float64; `state` stays as it is.

    Raises ValueError, TypeError if the state belongs to something else, or loss or gradient are not finite.
    """
    bias = () if readout.bias is None else (readout.bias,)
    slopes = () if found.bias is None else (found.bias,)
    vector = np.concatenate([model.vector, readout.weight.ravel(), *bias])
    gradient = np.concatenate([found.grad_theta, found.weight.ravel(), *slopes])
    norm = clip_norm(gradient, clip)
    if not np.isfinite([found.loss, norm]).all():
        raise ValueError(
            f"a step needs a loss and a gradient that are finite; got a loss of {found.loss:g} and a gradient of norm "
            f"{norm:g}: take a smaller learning rate in the steps before, or clip gradients"
        )
    state = _copied(state, way.start(vector))
    way.update(vector, gradient, state, rate)
    own, weight, rest = np.split(vector, [model.n_parameters, model.n_parameters + readout.weight.size])
    moved = Readout(weight.reshape(readout.weight.shape), rest if bias else None)
    return Moved(model.with_vector(own), moved, state, norm)


def _copied(state: State | None, like: State) -> State:
    """A copy of the state of an optimiser, which has to be `like` one at its start; that one if there is none."""
    if state is None:
        return like
    instance("state", state, dict, "the state of the step before")
    given, wanted = _shapes(state), _shapes(like)
    if given != wanted:
        raise ValueError(
            f"state must be that of a step of the same optimiser and network, arrays of shapes {short(wanted)}; got "
            f"{short(given)}"
        )
    return {name: array.copy() for name, array in state.items()}


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(array) for name, array in state.items()}
