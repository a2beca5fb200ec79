"""Jacobians of models written out, at many points at once: by states, and by inputs."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.differences import complex_step, finite_difference
from kpref.linearize import dense_by_states, linearize
from kpref.models.base import DenseModel, Model
from kpref.models.step import StepModel
from kpref.models.user_differences import choose
from kpref.program import Operation
from kpref.step_form import StepForm

__all__ = ["input_jacobians", "state_jacobians"]


def state_jacobians(model: Model, z: Array, x: Array) -> Array:
    """``dF/dz`` at states z (n, S) under inputs x (n, n_inputs): (n, S, S).

    Of a network the program runs once on matrices: registers hold their own derivative by the old state, of which that
    of the old state is the identity. What comes before the first channel is the same at all points, products with the
    recurrent weights among it: they are done once and not at each point.
    """
    if isinstance(model, StepModel):
        form = linearize(model, z[None], x[None])
        assert isinstance(form, StepForm)
        return _written(form)
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


def _written(form: StepForm) -> Array:
    """A at the first row of a form: (B, S, S)."""
    program, units = form.program, form.n_states
    registers = [np.zeros((1, width, units)) for width in program.widths]
    identity = np.eye(units)
    for view in program.old:
        part, identity = np.split(identity, [view.width])
        registers[view.register] = part[None]
    for op in program.operations:
        if op.source is None:
            continue
        image = _image(form, op, registers[op.source.register][:, op.source.start : op.source.start + op.source.width])
        target = registers[op.out.register]
        if len(target) < len(image):  # from here on it differs between the points
            target = registers[op.out.register] = np.repeat(target, len(image), axis=0)
        target[:, op.out.start : op.out.start + op.out.width] += image
    points = form.n_trials
    parts = [registers[view.register] for view in program.new]
    return np.concatenate([np.broadcast_to(part, (points, *part.shape[1:])) for part in parts], axis=1)


def _image(form: StepForm, op: Operation, read: Array) -> Array:
    """What an operation makes of matrices (B or 1, columns of its source, S)."""
    if op.kind == "scale":
        return form.channel(op.name)[0, :, :, None] * read
    if op.kind == "product":
        return form.weights[op.name] @ read
    if op.kind == "unit":
        return form.weights[op.name][0, :, None] * read
    if op.kind == "gather":
        return read.reshape(len(read), op.out.width, -1, form.n_states).sum(axis=2)
    return np.repeat(read, op.out.width // read.shape[1], axis=1)
