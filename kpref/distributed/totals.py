"""What the sums over shards of `kpref.distributed.tasks_of_shards` come to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.models.base import Model
from kpref.readout import Readout
from kpref.spectra import Estimate

__all__ = ["ShardedGradient", "gradient_of", "trace_of"]


@dataclass(frozen=True, eq=False)
class ShardedGradient:
    """A loss over all trials and its gradient by the parameters; see `kpref.Flow.gradient_flow`.

    Attributes
    ----------
    loss : float
    grad_theta : ndarray, shape (M,)
        By the trainable parameters of the model.
    accuracy : float or None
        None for a regression.
    weight : ndarray, shape (n_out, H)
        By the weights of the readout.
    bias : ndarray, shape (n_out,), or None
        By its bias; None if it has none.
    """

    loss: float
    grad_theta: Array
    accuracy: float | None
    weight: Array
    bias: Array | None

    __repr__ = short_repr


def gradient_of(sums: Array, model: Model, readout: Readout, dtype: npt.DTypeLike) -> ShardedGradient:
    """The gradient that the sums of `gradient_terms` are those of, or ValueError if nothing is scored."""
    slopes, (loss, accuracy, measure, scored) = sums[:-4], sums[-4:]
    if scored == 0.0:
        raise ValueError("the mask and the measure leave no point to observe")
    share = measure / scored
    parameters, weight, bias = np.split(share * slopes, [model.n_parameters, model.n_parameters + readout.weight.size])
    return ShardedGradient(
        float(share * loss),
        parameters.astype(dtype),
        None if math.isnan(accuracy) else float(accuracy / scored),
        weight.reshape(readout.weight.shape),
        None if readout.bias is None else bias,
    )


def trace_of(sums: Array) -> Estimate:
    """The trace that the sums of `trace_terms` are those of.

    Of independent estimates variances and third cumulants add up; the degrees of freedom are those of Welch and
    Satterthwaite.
    """
    value, variance, spread, third, products, forward, backward = map(float, sums)
    passes = int(forward), int(backward)
    if variance == 0.0:
        return Estimate(value, 0.0, int(products), "exact", forward=passes[0], backward=passes[1])
    degrees, skewness = variance**2 / spread if spread else math.inf, third / variance**1.5
    return Estimate(
        value, math.sqrt(variance), int(products), "shards", degrees=degrees, skewness=skewness, least=0.0,
        forward=passes[0], backward=passes[1],
    )  # fmt: skip
