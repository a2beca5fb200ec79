"""Jacobians of models written out, at many points at once: by states, and by inputs."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.derivative_blocks import state_jacobian
from kpref.differences import complex_step, finite_difference
from kpref.linearize import dense_by_states, linearize
from kpref.models.base import DenseModel, Model
from kpref.models.step import StepModel
from kpref.models.user_differences import choose

__all__ = ["input_jacobians", "state_jacobians"]


def state_jacobians(model: Model, z: Array, x: Array) -> Array:
    """``dF/dz`` at states z (n, S) under inputs x (n, n_inputs): (n, S, S).

    Of a network the program runs once on matrices (`kpref.derivative_blocks`): what comes before the first channel is
    the same at all points, and is done once.
    """
    if isinstance(model, StepModel):
        form = linearize(model, z[None], x[None])
        return state_jacobian(form, 0, slice(None))
    assert isinstance(model, DenseModel)
    return dense_by_states(model, z[None], x[None], np.float64)[0]


def input_jacobians(model: Model, z: Array, x: Array) -> Array:
    """``dF/dx`` at states z (n, S) under inputs x (n, n_inputs): (n, S, n_inputs), by complex steps.

    They are exact to rounding, since a model's plain function is analytic; where one of the user's takes no complex
    numbers, central differences do.

    Raises ValueError if a function of the user's is not smooth in its inputs.
    """
    columns = np.zeros((*z.shape, x.shape[1]))
    if not columns.size:
        return columns

    def moved(inputs: Array) -> Array:
        return model.evaluate(z, inputs)

    exact = model.thread_safe or choose(moved, x, "inputs")[0] == "complex step"
    for channel in range(x.shape[1]):
        direction = np.zeros_like(x)
        direction[:, channel] = 1.0
        columns[:, :, channel] = (
            complex_step(moved, x, direction) if exact else finite_difference(moved, x, direction).value
        )
    return columns
