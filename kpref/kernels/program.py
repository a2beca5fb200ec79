"""The compiled interpreter of programs: all operations of a table, for a block of rows.

All registers of a block stand in one buffer, each (rows, width) with rows padded against conflicts in the cache.
Pointwise operations are done for four rows at a time, so that what one leaves is in the nearest cache for the next; the
fields of an operation are then read once for four rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import uint64

from kpref.kernels.blas import product_at, row_length
from kpref.kernels.changes import Weights, as_weights
from kpref.kernels.compilation import kernel
from kpref.kernels.lowering import CLEAR, GATHER, GIVE, PRODUCT, SCALE, SET, SPREAD, TAKE, UNIT, Table, lower
from kpref.kernels.panels import Panels
from kpref.step_form import StepForm

__all__ = [
    "ProgramArrays", "apply", "program_arrays", "program_jacobian", "program_jacobian_transpose", "program_workspace",
    "register_bases", "register_view", "weight_of",
]  # fmt: skip

Array = npt.NDArray[Any]

_ROWS = 4  # that pointwise operations are done for at once


class ProgramArrays(NamedTuple):
    """A `kpref.step_form.StepForm` in a form that compiled code takes."""

    jacobian: Table
    jacobian_transpose: Table
    tangent: Table
    adjoint: Table
    product: Table
    product_transpose: Table
    sensitivity: Table
    sensitivity_transpose: Table
    numbers: Array
    states: Array
    variables: Array
    forward: Weights
    backward: Weights
    strides: Array
    chunked: Array
    old: Array
    new: Array


def program_arrays(form: StepForm) -> ProgramArrays:
    """All ways to run the program of a form."""
    program, itemsize = form.program, form.dtype.itemsize
    units = max(view.width for view in program.old)
    chunked = np.zeros(len(program.widths), dtype=np.int64)
    for op in program.operations:
        if op.kind == "product" and op.name in form.trained:
            chunked[op.out.register] = 1
    return ProgramArrays(
        jacobian=lower(form, False, True, False),
        jacobian_transpose=lower(form, True, True, False),
        tangent=lower(form, False, True, False, last=(TAKE, GIVE)),
        adjoint=lower(form, True, True, False, last=(TAKE, GIVE)),
        product=lower(form, False, False, True, last=(GIVE,)),
        product_transpose=lower(form, True, False, True, first=(SET,)),
        sensitivity=lower(form, False, True, True, last=(GIVE,)),
        sensitivity_transpose=lower(form, True, True, True, first=(TAKE,)),
        numbers=form.numbers,
        states=form.states,
        variables=form.variables,
        forward=as_weights([weight.T for weight in form.weights.values()], form.dtype),
        backward=as_weights(list(form.weights.values()), form.dtype),
        strides=np.array([_padded(width, units, itemsize) for width in program.widths], dtype=np.int64),
        chunked=chunked,
        old=_views(program.old),
        new=_views(program.new),
    )


def _views(views: Any) -> Array:
    return np.array([(view.register, view.width) for view in views], dtype=np.int64)


def _padded(columns: int, units: int, itemsize: int) -> int:
    return int(row_length.py_func(columns, units, itemsize))


# Compiled


@kernel
def register_bases(form, rows, chunk):  # type: ignore[no-untyped-def]
    """First place of each register in the buffer, how far apart its copies for a chunk are, and the size of all."""
    count, total = len(form.strides), 0
    bases, apart = np.empty(count, np.int64), np.zeros(count, np.int64)
    for register in range(count):
        bases[register] = total
        size = rows * form.strides[register]
        if form.chunked[register] == 1:
            apart[register] = size
            size *= chunk
        total += size
    return bases, apart, total


@kernel
def register_view(buffer, base, rows, stride, start, width):  # type: ignore[no-untyped-def]
    """Columns of a register as a matrix."""
    return buffer[base : base + rows * stride].reshape(rows, stride)[:, start : start + width]


@kernel
def _weight(weights, index):  # type: ignore[no-untyped-def]
    first, rows, columns, width = weights.table[index]
    return Panels(weights.entries[first : first + rows * columns], rows, columns, width)


@kernel
def weight_of(weights, vector, index):  # type: ignore[no-untyped-def]
    """One matrix, in panels, of one of several sets."""
    first, rows, columns, width = weights.table[index]
    return Panels(weights.entries[vector, first : first + rows * columns], rows, columns, width)


@kernel
def apply(form, table, weights, units, backwards, buffer, bases, rows, where, taken, given):  # type: ignore[no-untyped-def]
    """Run the operations of a table.

    `where` says which row of the trajectory each row of the registers belongs to: vector, step and trial of the first,
    the trial that follows the one before `stop`, `stop`, by how much vector and step grow then (rows of a block of
    trials are of one step, and of several vectors; those of J alone run on in time), and how many steps later than the
    coefficients the rows of the tensors stand that the states are `taken` from and `given` to.
    """
    operations, strides, address = table.operations, form.strides, buffer.ctypes.data
    size = buffer.itemsize
    for run in range(len(table.runs)):
        first, last = table.runs[run, 0], table.runs[run, 1]
        if operations[first, 0] == PRODUCT:
            out, source = operations[first, 1], operations[first, 3]
            product_at(
                operations[first, 9] == 1, rows,
                address + (bases[source] + operations[first, 4]) * size, strides[source],
                _weight(weights, operations[first, 10]),
                address + (bases[out] + operations[first, 2]) * size, strides[out],
            )  # fmt: skip
        else:
            _pointwise(
                operations, first, last, form.numbers, form.variables, strides, units, backwards, buffer, bases, rows,
                where, taken, given,
            )  # fmt: skip


@kernel
def _next(vector, step, trial, where):  # type: ignore[no-untyped-def]
    """Where the next row belongs."""
    trial += 1
    if trial == where[4]:
        return vector + where[5], step + where[6], where[3]
    return vector, step, trial


@kernel
def _pointwise(  # type: ignore[no-untyped-def]
    operations, begin, end, numbers, variables, strides, units, backwards, buffer, bases, rows, where, taken, given
):  # fmt: skip
    vector, step, trial, shift = where[0], where[1], where[2], where[7]
    for first in range(0, rows, _ROWS):
        count = min(_ROWS, rows - first)
        for k in range(begin, end):
            what, width, blocks, add = operations[k, 0], operations[k, 5], operations[k, 6], operations[k, 9] == 1
            to, of = strides[operations[k, 1]], strides[operations[k, 3]]
            out = bases[operations[k, 1]] + first * to + operations[k, 2]
            source = bases[operations[k, 3]] + first * of + operations[k, 4]
            v, s, t = vector, step, trial
            if what == SCALE:
                out_step, source_step = operations[k, 7], operations[k, 8]
                start, by_step, by_trial = operations[k, 10], operations[k, 11], operations[k, 12]
                for _ in range(count):
                    place, y, x = start + s * by_step + t * by_trial, out, source
                    _scale(numbers, buffer, y, x, place, width, add)
                    for _ in range(1, blocks):
                        y += out_step
                        x += source_step
                        place += width
                        _scale(numbers, buffer, y, x, place, width, add or out_step == 0)
                    out += to
                    source += of
                    v, s, t = _next(v, s, t, where)
            elif what == TAKE:
                for _ in range(count):
                    for column in range(width):
                        buffer[uint64(out) + uint64(column)] += taken[v, t, s + shift, operations[k, 10] + column]
                    out += to
                    v, s, t = _next(v, s, t, where)
            elif what == SET:
                for _ in range(count):
                    for column in range(width):
                        buffer[uint64(out) + uint64(column)] = taken[v, t, s + shift, operations[k, 10] + column]
                    out += to
                    v, s, t = _next(v, s, t, where)
            elif what == GIVE:
                for _ in range(count):
                    for column in range(width):
                        given[v, t, s + shift, operations[k, 10] + column] = buffer[uint64(out) + uint64(column)]
                    out += to
                    v, s, t = _next(v, s, t, where)
            elif what == CLEAR:
                for row in range(count):
                    buffer[out + row * to : out + row * to + width] = 0
            elif what == GATHER:
                for row in range(count):
                    _gather(buffer, out + row * to, source + row * of, width, blocks, add)
            elif what == SPREAD:
                for row in range(count):
                    _spread(buffer, out + row * to, source + row * of, width, blocks, add)
            elif what == UNIT:
                for row in range(count):
                    m = variables[s, t, operations[k, 11] : operations[k, 11] + width]
                    w = units[operations[k, 10] : operations[k, 10] + width]
                    _unit(m, w, buffer[out + row * to : out + row * to + width], backwards, add)
                    v, s, t = _next(v, s, t, where)
        for _ in range(count):
            vector, step, trial = _next(vector, step, trial, where)


@kernel
def _scale(numbers, buffer, out, source, place, width, add):  # type: ignore[no-untyped-def]
    """``out += c * in``, or ``out = c * in``. Unsigned indices need no test for negative ones, and become vectors."""
    y, x, c, columns = uint64(out), uint64(source), uint64(place), uint64(width)
    if add:
        for column in range(columns):
            buffer[y + column] += numbers[c + column] * buffer[x + column]
    else:
        for column in range(columns):
            buffer[y + column] = numbers[c + column] * buffer[x + column]


@kernel
def _unit(m, w, y, backwards, add):  # type: ignore[no-untyped-def]
    """``out += dw * m``; backwards, the gradient by w."""
    if backwards:
        for column in range(len(m)):
            w[column] += m[column] * y[column]
    elif add:
        for column in range(len(m)):
            y[column] += m[column] * w[column]
    else:
        for column in range(len(m)):
            y[column] = m[column] * w[column]


@kernel
def _gather(buffer, out, source, width, count, add):  # type: ignore[no-untyped-def]
    for unit in range(width):
        total = buffer[out + unit] if add else buffer.dtype.type(0)
        for other in range(count):
            total += buffer[source + unit * count + other]
        buffer[out + unit] = total


@kernel
def _spread(buffer, out, source, width, count, add):  # type: ignore[no-untyped-def]
    for unit in range(width):
        value = buffer[source + unit]
        for other in range(count):
            at = out + unit * count + other
            buffer[at] = buffer[at] + value if add else value


# One step, for the sweeps of Runge-Kutta methods


def program_workspace(form, rows):  # type: ignore[no-untyped-def]
    """Scratch for `rows` states: one of the state size, and all registers."""
    kind, units = form.numbers.dtype, 0
    for part in range(len(form.old)):
        units += form.old[part, 1]
    _, _, total = register_bases(form, rows, 1)
    return np.zeros((rows, units), kind), np.empty((1, total), kind), np.empty((0, 0), kind)


def program_jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step] x``; `y` may be `x`."""
    _one_step(form, form.jacobian, form.forward, False, form.old, form.new, step, start, trials, x, scratch[0], y)


def program_jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step]^T x``; `y` may be `x`."""
    _one_step(
        form, form.jacobian_transpose, form.backward, True, form.new, form.old, step, start, trials, x, scratch[0], y
    )  # fmt: skip


@kernel
def _one_step(form, table, weights, backwards, begin, end, step, start, trials, x, buffer, y):  # type: ignore[no-untyped-def]
    rows = len(x)
    bases, _, _ = register_bases(form, rows, 1)
    _enter(begin, form.strides, buffer, bases, x)
    where, none = (0, step, start, start, start + trials, 0, 0, 0), np.empty((1, 1, 1, 0), buffer.dtype)
    apply(form, table, weights, buffer[:0], backwards, buffer, bases, rows, where, none, none)
    _leave(end, form.strides, buffer, bases, y)


@kernel
def _enter(views, strides, buffer, bases, x):  # type: ignore[no-untyped-def]
    """The parts of states (rows, H) into their registers."""
    column = 0
    for part in range(len(views)):
        register, width = views[part, 0], views[part, 1]
        at, stride = uint64(bases[register]), uint64(strides[register])
        for row in range(len(x)):
            for unit in range(width):
                buffer[at + uint64(unit)] = x[row, column + unit]
            at += stride
        column += width


@kernel
def _leave(views, strides, buffer, bases, y):  # type: ignore[no-untyped-def]
    """The registers of the state into states (rows, H)."""
    column = 0
    for part in range(len(views)):
        register, width = views[part, 0], views[part, 1]
        at, stride = uint64(bases[register]), uint64(strides[register])
        for row in range(len(y)):
            for unit in range(width):
                y[row, column + unit] = buffer[at + uint64(unit)]
            at += stride
        column += width
