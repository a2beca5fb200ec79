"""Losses over trials and time, and their pointwise derivative by the states.

    L = sum_{b,n} mu[b,n] s[b,n] l(y[b,n], y*[b,n]),   s = c * mask,   c = sum(mu) / sum(mu * mask)

so that in a measure that sums to one L is the mean of l over the observed points, as PyTorch's losses take it
(``reduction="mean"``). ``Err = s dl/dz`` is the derivative of the loss density, and ``dL = <Err, dz>_X``.

The mask stands in Err and nowhere else: the dynamics run through steps that are not scored, and no operator of a flow
knows of it. Points after the end of a trial are another matter: they do not exist (`kpref.space`), s and the outputs
are zero there, and targets, labels and mask may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, numeric_array, short
from kpref.lengths import without_tail
from kpref.readout import Readout
from kpref.space import TrajectorySpace
from kpref.threads import serial_blas

__all__ = [
    "DRIVEN_BY",
    "LOSSES",
    "LossValue",
    "density",
    "evaluate_loss",
    "pointwise_loss",
    "readout_gradient",
    "scores",
]

LOSSES = ("mse", "cross_entropy")

#: What each takes of trials.
DRIVEN_BY = {"mse": "targets", "cross_entropy": "labels"}


@dataclass(frozen=True, eq=False)
class LossValue:
    """A loss at given states.

    Attributes
    ----------
    value : float
        L.
    outputs : ndarray, shape (B, T, n_out)
    output_gradient : ndarray, shape (B, T, n_out)
        ``s dl/dy``, the derivative of the loss density by the outputs.
    err : ndarray, shape (B, T, H)
        ``Err = s dl/dz = (s dl/dy) W_out``.
    accuracy : float or None
        Share of observed points classified correctly; None for a regression.
    """

    value: float
    outputs: Array
    output_gradient: Array
    err: Array
    accuracy: float | None

    __repr__ = short_repr


@serial_blas
def evaluate_loss(
    states: Array,
    space: TrajectorySpace,
    readout: Readout,
    targets: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    loss: str = "mse",
    mask: npt.ArrayLike | None = None,
    at: str = "all",
) -> LossValue:
    """Loss of a linear readout, and its derivative.

    Parameters
    ----------
    states : ndarray, shape (B, T, H)
    space : TrajectorySpace
        Gives the measure mu.
    readout : Readout
    targets : array_like, shape (B, T, n_out)
        For ``loss="mse"``: l is the mean over outputs of the squared error.
    labels : array_like of int, shape (B,) or (B, T)
        For ``loss="cross_entropy"``: l is minus the log of the softmax probability of the label.
    loss : {"mse", "cross_entropy"}
    mask : array_like, shape (B, T) or broadcastable to it, optional
        Non-negative weights of the points; zero leaves a point out.
    at : {"all", "last"}
        Observe all time points or only the last of each trial.

    Returns
    -------
    LossValue

    Raises
    ------
    ValueError
        If targets, labels or mask do not fit the states or the readout, or observe nothing.
    TypeError
        If the space, the readout, `loss` or `at` is something else.
    """
    for name, thing, kind in (("space", space, TrajectorySpace), ("readout", readout, Readout)):
        if not isinstance(thing, kind):
            raise TypeError(f"{name} must be a kpref.{kind.__name__}; got {short(thing)}")
    for name, choice in (("loss", loss), ("at", at)):
        if not isinstance(choice, str):
            raise TypeError(f"{name} must be a string; got {short(choice)}")
    outputs = _existing(readout(states), space)
    factor = density(space, mask, at)[:, :, None]
    if loss == "mse":
        if targets is None or labels is not None:
            raise ValueError('loss "mse" takes targets, and no labels')
        given = _existing(numeric_array("targets", targets, "biuf"), space)
        wanted = finite_array("targets", given, shape=outputs.shape)
        points, gradient = pointwise_loss(loss, outputs, wanted)
        accuracy = None
    elif loss == "cross_entropy":
        if labels is None or targets is not None:
            raise ValueError('loss "cross_entropy" takes labels, and no targets')
        chosen = _labels(_existing(numeric_array("labels", labels, "iu"), space), outputs.shape)
        points, gradient = pointwise_loss(loss, outputs, chosen)
        weights = space.mu * factor[:, :, 0]
        accuracy = float((weights * (outputs.argmax(axis=2) == chosen)).sum() / weights.sum())
    else:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {short(loss)}")
    gradient = gradient * factor
    value = float((space.mu * factor[:, :, 0] * points).sum())
    return LossValue(value, outputs, gradient, gradient @ readout.weight, accuracy)


def pointwise_loss(loss: str, outputs: Array, wanted: Array) -> tuple[Array, Array]:
    """l and ``dl/dy`` of outputs (..., n_out) that should be `wanted`: targets of this shape, or labels (...)."""
    if loss == "mse":
        residual = outputs - wanted
        return np.square(residual).mean(axis=-1), residual * (2.0 / outputs.shape[-1])
    return _cross_entropy(outputs, wanted)


@serial_blas
def readout_gradient(space: TrajectorySpace, value: LossValue, states: Array) -> tuple[Array, Array]:
    """``dL/dW_out`` (n_out, H) and ``dL/db_out`` (n_out,), of the states (B, T, H) that the readout takes."""
    outputs = space.mu[:, :, None] * value.output_gradient
    return np.tensordot(outputs, states, axes=([0, 1], [0, 1])), outputs.sum(axis=(0, 1))


def density(space: TrajectorySpace, mask: npt.ArrayLike | None, at: str) -> Array:
    """s: the mask, scaled to have mean one in the measure."""
    scored = scores(space, mask, at)
    observed = float((space.mu * scored).sum())
    if observed == 0:
        raise ValueError("the mask and the measure leave no point to observe")
    return scored * (space.mu.sum() / observed)


def scores(space: TrajectorySpace, mask: npt.ArrayLike | None, at: str) -> Array:
    """The mask (B, T) as it is given, zero where nothing exists or is observed."""
    shape = space.shape[:2]
    scored = np.ones(shape)
    if mask is not None:
        given = numeric_array("mask", mask, "biuf")
        try:
            scored = np.broadcast_to(given, shape)
        except ValueError:
            raise ValueError(
                f"mask must be broadcastable to (trials, time) = {tuple(shape)}; got {given.shape}"
            ) from None
        scored = finite_array("mask", _existing(scored, space)).copy()
        if (scored < 0).any():
            raise ValueError("mask must not be negative")
    scored = _existing(scored, space)
    if at == "last":
        ends = np.full(shape[0], shape[1]) if space.lengths is None else space.lengths
        scored[np.arange(shape[1]) != ends[:, None] - 1] = 0
    elif at != "all":
        raise ValueError(f'at must be "all" or "last"; got {short(at)}')
    return scored


def _existing(array: Array, space: TrajectorySpace) -> Array:
    """An array (B, T, ...) with zeros where nothing exists; of another shape, or where all does, as it is."""
    if space.lengths is None or array.shape[:2] != space.shape[:2]:
        return array
    return without_tail(array, space.lengths)


def _labels(array: Array, shape: tuple[int, ...]) -> Array:
    trials, steps, classes = shape
    if array.shape not in ((trials,), (trials, steps)):
        raise ValueError(f"labels must have shape ({trials},) or ({trials}, {steps}); got {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        hint = ": give steps that do not count any class, and 0 in the mask" if array.min() < 0 else ""
        raise ValueError(
            f"labels must lie in 0, ..., {classes - 1}, one for each readout output; got {array.min()} to "
            f"{array.max()}{hint}"
        )
    return np.broadcast_to(array if array.ndim == 2 else array[:, None], (trials, steps))


def _cross_entropy(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """``-log softmax(y)[label]`` and its derivative by y."""
    shifted = np.subtract(outputs, outputs.max(axis=2, keepdims=True), order="C")
    weights = np.exp(shifted)
    total = weights.sum(axis=2, keepdims=True)
    at = np.arange(0, shifted.size, shifted.shape[2]).reshape(labels.shape) + labels  # of the label's, flat
    points = np.log(total[:, :, 0]) - shifted.reshape(-1)[at]
    gradient = np.divide(weights, total, out=weights)
    gradient.reshape(-1)[at] -= 1.0
    return points, gradient
