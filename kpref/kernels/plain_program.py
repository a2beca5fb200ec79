"""A program run in plain NumPy, one step at a time: obvious, and what the compiled interpreter is tested against."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kpref._types import Array
from kpref.program import Operation, View
from kpref.step_form import StepForm

__all__ = ["run", "run_transposed"]


def run(
    form: StepForm,
    step: int,
    x: Array,
    changes: Mapping[str, Array] | None = None,
    lift: Callable[[Array], Array] = np.asarray,
) -> Array:
    """``A[step] x + J_theta[step] dtheta`` for x of shape (v, B, H).

    `changes` has dW for each trained weight, (v, outputs, inputs), as `StepForm.pack` makes it. `lift` makes arrays of
    another kind, such as ones that round, of all that takes part.
    """
    program, changes = form.program, changes or {}
    registers = [lift(np.zeros((*x.shape[:2], width), form.dtype)) for width in program.widths]
    _enter(registers, program.old, x)
    for op in program.operations:
        out = _columns(registers, op.out)
        if op.name in changes and op.variable is not None:
            m, change = lift(form.variable(op.variable)[step]), lift(changes[op.name])
            out += m @ change.swapaxes(1, 2) if op.kind == "product" else m * change
        if op.source is None:
            continue
        source = _columns(registers, op.source)
        if op.kind == "scale":
            out += lift(_row(form.channel(op.name), step)) * source
        elif op.kind == "product":
            out += source @ lift(form.weights[op.name]).T
        elif op.kind == "unit":
            out += lift(form.weights[op.name]) * source
        elif op.kind == "gather":
            out += source.reshape(*out.shape, -1).sum(axis=3)
        else:
            out += np.repeat(source, out.shape[2] // source.shape[2], axis=2)
    return np.concatenate([registers[view.register] for view in program.new], axis=2)


def run_transposed(
    form: StepForm,
    step: int,
    x: Array,
    changes: Mapping[str, Array] | None = None,
    lift: Callable[[Array], Array] = np.asarray,
    cotangents: dict[Operation, Array] | None = None,
) -> Array:
    """``A[step]^T x`` for x of shape (v, B, H); ``J_theta[step]^T x`` is added into `changes`, if given.

    `cotangents` gets, for each operation of a weight, those of what it goes to, (v, B, outputs).
    """
    program = form.program
    registers = [lift(np.zeros((*x.shape[:2], width), form.dtype)) for width in program.widths]
    _enter(registers, program.new, x)
    for op, to, of in program.reversed():
        source = _columns(registers, of)
        if cotangents is not None and op.variable is not None:
            cotangents[op] = source.copy()
        if changes is not None and op.name in changes and op.variable is not None:
            m = lift(form.variable(op.variable)[step])
            if op.kind == "product":
                changes[op.name][...] += source.swapaxes(1, 2) @ m
            else:
                changes[op.name][:, 0] += (m * source).sum(axis=1)
        if to is None:
            continue
        out = _columns(registers, to)
        if op.kind == "scale":
            out += lift(_row(form.channel(op.name), step)) * source
        elif op.kind == "product":
            out += source @ lift(form.weights[op.name])
        elif op.kind == "unit":
            out += lift(form.weights[op.name]) * source
        elif op.kind == "gather":
            out += np.repeat(source, out.shape[2] // source.shape[2], axis=2)
        else:
            out += source.reshape(*out.shape, -1).sum(axis=3)
    return np.concatenate([registers[view.register] for view in program.old], axis=2)


def _enter(registers: list[Array], views: tuple[View, ...], x: Array) -> None:
    column = 0
    for view in views:
        registers[view.register][...] = x[:, :, column : column + view.width]
        column += view.width


def _columns(registers: list[Array], view: View) -> Array:
    return registers[view.register][:, :, view.start : view.start + view.width]


def _row(channel: Array, step: int) -> Array:
    """A channel at one step, (B or 1, width)."""
    return np.asarray(channel[step if len(channel) > 1 else 0])
