"""The neural tangent kernel of outputs ``y = W z + b``, with the part that comes of the readout's own parameters.

Differentiating, with D = dZ/dtheta and phi = (W, b),

    dy = W D dtheta + dW z + db,
    NTK_out = (W D)(W D)* + J_phi J_phi*,          J_phi (dW, db) = dW z + db,

adjoints being those of the measure, which outputs share with states. The first part is ``W NTK W^T`` wherever the
measure is positive (Hazelden et al., arXiv:2605.08746).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import flag, instance
from kpref.flow import Flow, require_flow
from kpref.operators import TensorOperator
from kpref.operators.structure import BY_TRIAL
from kpref.readout import Readout
from kpref.space import EuclideanSpace, TrajectorySpace

__all__ = ["of_states", "output_ntk", "output_sensitivity", "readout_operator", "readout_sensitivity"]


def output_ntk(flow: Flow, readout: Readout, trainable_readout: bool = True) -> TensorOperator:
    """The neural tangent kernel of the outputs of a network, on tensors (B, T, n_out).

    Parameters
    ----------
    flow : Flow
    readout : Readout
        Of all states, or of the observed ones alone, such as the h of an LSTM.
    trainable_readout : bool
        Whether the readout's weight and bias are trained too. Without, it is the part ``W NTK W^T`` alone; the other
        one is ``readout_sensitivity(flow, readout).gram()``, and the kernel is the sum of both.

    Returns
    -------
    TensorOperator
        Self-adjoint and positive; costs as the NTK of the states.

    Raises
    ------
    TypeError
        If an argument is something else.
    ValueError
        If the readout takes another number of states.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> from kpref.learning import output_ntk
    >>> flow = kpref.Flow(kpref.models.GRU.init(3, 8, seed=0), np.ones((5, 20, 3)))
    >>> output_ntk(flow, kpref.Readout(np.ones((2, 8))))
    <output NTK: (5, 20, 2) -> (5, 20, 2), float64>
    """
    return output_sensitivity(flow, readout, trainable_readout).gram("output NTK")


def output_sensitivity(
    flow: Flow, readout: Readout, trainable_readout: bool = True, measure: npt.ArrayLike | None = None
) -> TensorOperator:
    """Derivative of the outputs by the parameters: by theta, and behind them the readout's (W, b) where it is trained.

    `measure`: shape (B, T); weights of the outputs in place of those of the states. Other arguments, and errors, as for
    `output_ntk`.
    """
    readout = of_states(flow, readout)
    states = readout_operator(flow, readout, measure) @ flow.D
    if not flag("trainable_readout", trainable_readout):
        return states.renamed("dY/dtheta")
    own = readout_sensitivity(flow, readout, measure)
    both = EuclideanSpace((states.shape[1] + own.shape[1],))
    return TensorOperator(
        partial(_sum, states, own), partial(_side_by_side, states, own), both, states.space_out, states.dtype,
        "dY/d(theta, phi)",
    )  # fmt: skip


def readout_sensitivity(flow: Flow, readout: Readout, measure: npt.ArrayLike | None = None) -> TensorOperator:
    """J_phi, from the readout's parameters (n_out (H + 1),), or without bias (n_out H,), to outputs (B, T, n_out).

    A vector holds W in C order, then b. Of a readout of observed states alone it is by the weights of these. Arguments
    and errors as for `output_sensitivity`.
    """
    wide = of_states(flow, readout)
    columns = slice(0, flow.model.n_states) if readout.n_states == flow.model.n_states else flow.model.observed
    features = flow.states[:, :, columns].astype(flow.dtype)
    if readout.bias is not None:
        features = np.concatenate([features, np.ones((*features.shape[:2], 1), flow.dtype)], axis=2)
    biased, outputs = readout.bias is not None, readout.n_outputs
    return TensorOperator(
        partial(_predicted, features, outputs, biased), partial(_gradient, features, outputs, biased),
        EuclideanSpace((outputs * features.shape[2],)), _space(flow, wide, measure), flow.dtype, "dY/dphi",
    )  # fmt: skip


def readout_operator(flow: Flow, readout: Readout, measure: npt.ArrayLike | None = None) -> TensorOperator:
    """W at each point, from states to outputs."""
    weight = of_states(flow, readout).weight.astype(flow.dtype)
    return TensorOperator(
        partial(_at_points, np.ascontiguousarray(weight.T)), partial(_at_points, weight), flow.space,
        _space(flow, readout, measure), flow.dtype, "W", BY_TRIAL,
    )  # fmt: skip


def of_states(flow: Flow, readout: Readout) -> Readout:
    """A readout of all states of a flow, or TypeError and ValueError."""
    model = require_flow(flow).model
    instance("readout", readout, Readout, "a kpref.Readout")
    wide = readout.over(model.n_states, model.observed)
    if wide.n_states != model.n_states:
        raise ValueError(f"the readout must take the {model.n_states} states of {model}; got {readout}")
    return wide


def _space(flow: Flow, readout: Readout, measure: npt.ArrayLike | None) -> TrajectorySpace:
    weights = flow.space.mu if measure is None else measure
    return TrajectorySpace((*flow.space.shape[:2], readout.n_outputs), weights, lengths=flow.space.lengths)


def _at_points(matrix: Array, batch: Array) -> Array:
    return batch @ matrix


def _predicted(features: Array, outputs: int, biased: bool, vectors: Array) -> Array:
    return np.stack([features @ _matrix(vector, outputs, biased).T for vector in vectors])


def _gradient(features: Array, outputs: int, biased: bool, batch: Array) -> Array:
    flat = features.reshape(-1, features.shape[2])
    products = [tensor.reshape(-1, outputs).T @ flat for tensor in batch]
    return np.stack([_vector(product, biased) for product in products])


def _matrix(vector: Array, outputs: int, biased: bool) -> Array:
    """(W, b) as one matrix (outputs, H + 1)."""
    if not biased:
        return vector.reshape(outputs, -1)
    return np.concatenate([vector[:-outputs].reshape(outputs, -1), vector[-outputs:, None]], axis=1)


def _vector(matrix: Array, biased: bool) -> Array:
    if not biased:
        return matrix.reshape(-1)
    return np.concatenate([matrix[:, :-1].reshape(-1), matrix[:, -1]])


def _sum(states: TensorOperator, own: TensorOperator, vectors: Array) -> Array:
    cut = states.shape[1]
    return np.asarray(states.apply(vectors[:, :cut]) + own.apply(vectors[:, cut:]))


def _side_by_side(states: TensorOperator, own: TensorOperator, batch: Array) -> Array:
    return np.concatenate([states.T.apply(batch), own.T.apply(batch)], axis=1)
