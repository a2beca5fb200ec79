"""Loss and gradient by the operators of a `kpref.Flow`: any model, any rule, step by step as the library has it.

With mu the measure, Err = s dl/dz and g = s dl/dy,

    dL/dtheta = D^T mu Err,   dL/dz0 = D_z0^T mu Err,   dL/dW_out = sum mu g z^T,   dL/db_out = sum mu g,

where an activity regulariser ``a/2 <|z|^2>`` adds a z to Err. `kpref.training.compiled_pass` does the same in one sweep
for networks that have compiled functions of a unit, and is tested against this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.flow import Flow
from kpref.loss import DRIVEN_BY, readout_gradient
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.trials import Trials

if TYPE_CHECKING:
    from kpref.rules import Rule

__all__ = ["Evaluated", "Network", "Pass", "PlainPass", "Point"]


@dataclass(frozen=True, eq=False)
class Network:
    """What is trained, at one point: the model, its readout and the initial state (H,) that all trials share."""

    model: Model
    readout: Readout
    z0: Array


@dataclass(frozen=True, eq=False)
class Point:
    """The same as bare arrays of finite numbers, for what needs no checked model: making one takes a tenth of a step.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        All of the model's.
    weight, bias, z0 : ndarray
        Of the readout (None for one without bias), and the initial state.
    network : callable
        Makes the network of them.
    """

    parameters: Mapping[str, Array]
    weight: Array
    bias: Array | None
    z0: Array
    network: Callable[[], Network]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A loss at given parameters, and its gradient.

    Attributes
    ----------
    loss : float
    accuracy : float or None
    model : ndarray, shape (M,), or None
        Gradient by the model's trainable parameters, if it was asked for.
    weight, bias, z0 : ndarray
        By the readout (all zeros as the bias of one that has none) and the initial state.
    """

    loss: float
    accuracy: float | None
    model: Array | None
    weight: Array
    bias: Array
    z0: Array


class Pass(Protocol):
    """A way to evaluate; what it takes of trials is its own."""

    def prepared(self, trials: Trials) -> Any:
        """Trials, checked, in the form that `evaluate` takes, with a method `subset`."""

    def evaluate(self, point: Point, batch: Any, wanted: frozenset[str]) -> Evaluated:
        """Loss and gradient; `wanted` says whether those by "model" and "z0" are needed."""


class PlainPass:
    """By a flow, made anew each time.

    `options`: further arguments of `kpref.Flow`, such as dt.
    """

    def __init__(
        self, loss: str, at: str, activity: float, dtype: npt.DTypeLike, options: Mapping[str, Any], rule: Rule | None
    ) -> None:
        self.loss, self.at, self.activity, self.dtype = loss, at, activity, np.dtype(dtype)
        self.options, self.rule = dict(options), rule

    def prepared(self, trials: Trials) -> Trials:
        """As they are."""
        return trials

    def evaluate(self, point: Point, batch: Trials, wanted: frozenset[str]) -> Evaluated:
        """See `Pass`."""
        network = point.network()
        flow = Flow(network.model, batch, network.z0, dtype=self.dtype, **self.options)
        answers = {DRIVEN_BY[self.loss]: getattr(batch, DRIVEN_BY[self.loss])}
        value = flow.gradient_flow(
            network.readout, loss=self.loss, mask=batch.mask, at=self.at, **answers
        ).loss_value  # fmt: skip
        loss, err, mu, observed = value.value, value.err, flow.space.mu[:, :, None], network.model.observed
        states = flow.states[:, :, observed]
        if self.activity:
            loss += 0.5 * self.activity * float((mu * states**2).sum()) / states.shape[2]
            err = err.copy()
            err[:, :, observed] += self.activity / states.shape[2] * states
        weighed = flow.space.weigh(err)
        model = None
        if "model" in wanted:
            model = flow.D.T(weighed) if self.rule is None else _by_rule(self.rule, flow, err)
        seen = flow.states if network.readout.n_states == network.model.n_states else states
        weight, bias = readout_gradient(flow.space, value, seen)
        return Evaluated(
            loss,
            value.accuracy,
            None if model is None else np.asarray(model),
            weight,
            bias,
            np.asarray(flow.D_z0.T(weighed)).sum(axis=0) if "z0" in wanted else np.zeros_like(network.z0),
        )


def _by_rule(rule: Rule, flow: Flow, err: Array) -> Array:
    """What takes the place of the gradient by the model's parameters: an optimiser subtracts it, as the gradient."""
    from kpref.rules import direction  # which few trainings need

    return direction(rule, flow, err)
