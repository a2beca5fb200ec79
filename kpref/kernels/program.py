"""The compiled interpreter of programs: A, A^T, J, J^T, and D, D^T in one sweep, for a block of trials or of rows.

All registers of a block stand in one buffer, each (rows, width) with rows padded against conflicts in the cache.
Pointwise operations are done for four rows at a time, so that what one leaves is in the nearest cache for the next; the
fields of an operation are then read once for four rows.

In one sweep of D the products with changes of weights are made for several steps at once, `chunk` of them: a matrix of
parameters is larger than the states of a block, and would be streamed through the cache at each step. The registers
that they write to are therefore there once for each step of a chunk. Backwards they collect the cotangents that the
gradients are made of. The old and the new state change places from step to step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import uint64

from kpref.kernels.blas import add_product, add_transposed_product, product, product_at, row_length
from kpref.kernels.compilation import kernel
from kpref.kernels.lowering import (
    ADD,
    CLEAR,
    GATHER,
    GIVE,
    PRODUCT,
    SCALE,
    SET,
    SPREAD,
    TAKE,
    UNIT,
    ZERO,
    Table,
    lower,
)  # fmt: skip
from kpref.kernels.panels import Panels, as_matrices, as_panels, panel_width
from kpref.step_form import StepForm

__all__ = [
    "Changes", "ProgramArrays", "adjoint", "inverse", "inverse_transpose", "parameter_product", "parameter_transpose",
    "program_arrays", "program_jacobian", "program_jacobian_transpose", "program_workspace", "sensitivity",
    "sensitivity_transpose", "tangent", "zero_changes",
]  # fmt: skip

Array = npt.NDArray[Any]

_ROWS = 4  # that pointwise operations are done for at once
_CHUNK = 128  # rows that one product with a matrix of parameters handles, where J stands alone


class Weights(NamedTuple):
    """Several matrices in panels, one after the other.

    Attributes
    ----------
    entries : ndarray, shape (n,) or (v, n) for several sets
    table : ndarray of int, shape (w, 4)
        First entry, rows, columns and width of a panel of each.
    """

    entries: Array
    table: Array


class Changes(NamedTuple):
    """Changes of the trained weights for several vectors, or gradients by them.

    Attributes
    ----------
    products : Weights
        Of products, transposed: (inputs, outputs).
    units : ndarray, shape (v, n)
        Of unit operations, side by side.
    """

    products: Weights
    units: Array


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
        forward=_weights([weight.T for weight in form.weights.values()], form.dtype),
        backward=_weights(list(form.weights.values()), form.dtype),
        strides=np.array([_padded(width, units, itemsize) for width in program.widths], dtype=np.int64),
        chunked=chunked,
        old=_views(program.old),
        new=_views(program.new),
    )


def _views(views: Any) -> Array:
    return np.array([(view.register, view.width) for view in views], dtype=np.int64)


def _padded(columns: int, units: int, itemsize: int) -> int:
    return int(row_length.py_func(columns, units, itemsize))


def _weights(matrices: list[Array], dtype: npt.DTypeLike, sets: tuple[int, ...] = ()) -> Weights:
    """Matrices (rows, columns), or (v, rows, columns) for sets (v,) of them, in panels."""
    panels = [as_panels(np.ascontiguousarray(matrix, dtype)) for matrix in matrices]
    first = np.cumsum([0] + [one.rows * one.columns for one in panels])
    table = np.array(
        [(at, one.rows, one.columns, one.width) for at, one in zip(first, panels, strict=False)], dtype=np.int64
    )
    entries = [np.zeros((*sets, 0), dtype), *(one.entries for one in panels)]
    return Weights(np.concatenate(entries, axis=-1), table.reshape(len(panels), 4))


def packed_changes(form: StepForm, vectors: Array) -> Changes:
    """Parameter vectors (v, M) as changes of the weights."""
    changes, kinds = form.pack(vectors), _kinds(form)
    units = [changes[name][:, 0] for name in form.trained if kinds[name] == "unit"]
    empty = np.zeros((len(vectors), 0), form.dtype)
    matrices = [
        changes[name].swapaxes(1, 2) if kinds[name] == "product" else np.zeros((len(vectors), 0, 0))
        for name in form.trained
    ]
    return Changes(
        _weights(matrices, form.dtype, (len(vectors),)), np.concatenate([empty, *units], axis=1, dtype=form.dtype)
    )


def zero_changes(form: StepForm, vectors: int) -> Changes:
    """Changes of zero."""
    kinds = _kinds(form)
    table, first, units = [], 0, 0
    for name in form.trained:
        outputs, inputs = form.weights[name].shape if kinds[name] == "product" else (0, 0)
        table.append((first, inputs, outputs, panel_width(inputs, outputs, form.dtype)))
        first += inputs * outputs
        units += form.weights[name].shape[1] if kinds[name] == "unit" else 0
    products = Weights(np.zeros((vectors, first), form.dtype), np.array(table, dtype=np.int64).reshape(len(table), 4))
    return Changes(products, np.zeros((vectors, units), form.dtype))


def unpacked_changes(form: StepForm, changes: Changes) -> Array:
    """Gradients by the weights as parameter vectors (v, M)."""
    kinds, found, unit = _kinds(form), {}, 0
    for name, (first, rows, columns, width) in zip(form.trained, changes.products.table, strict=True):
        if kinds[name] == "unit":
            size = form.weights[name].shape[1]
            found[name] = changes.units[:, None, unit : unit + size]
            unit += size
            continue
        entries = changes.products.entries[:, first : first + rows * columns]
        found[name] = as_matrices(Panels(entries, int(rows), int(columns), int(width))).swapaxes(1, 2)
    return form.unpack(found)


def _kinds(form: StepForm) -> dict[str, str]:
    return {op.name: op.kind for op in form.program.operations}


# Compiled


@kernel
def _bases(form, rows, chunk):  # type: ignore[no-untyped-def]
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
def _view(buffer, base, rows, stride, start, width):  # type: ignore[no-untyped-def]
    """Columns of a register as a matrix."""
    return buffer[base : base + rows * stride].reshape(rows, stride)[:, start : start + width]


@kernel
def _weight(weights, index):  # type: ignore[no-untyped-def]
    first, rows, columns, width = weights.table[index]
    return Panels(weights.entries[first : first + rows * columns], rows, columns, width)


@kernel
def _weight_of(weights, vector, index):  # type: ignore[no-untyped-def]
    first, rows, columns, width = weights.table[index]
    return Panels(weights.entries[vector, first : first + rows * columns], rows, columns, width)


@kernel
def _apply(form, table, weights, units, backwards, buffer, bases, rows, where, taken, given):  # type: ignore[no-untyped-def]
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


@kernel
def _swap(form, bases):  # type: ignore[no-untyped-def]
    """The new state becomes the old, and the room of the old that of the new."""
    for part in range(len(form.old)):
        old, new = form.old[part, 0], form.new[part, 0]
        bases[old], bases[new] = bases[new], bases[old]


@kernel
def _clear(form, views, buffer, bases, rows):  # type: ignore[no-untyped-def]
    for part in range(len(views)):
        register = views[part, 0]
        buffer[bases[register] : bases[register] + rows * form.strides[register]] = 0


@kernel
def _add_tensor(views, strides, buffer, bases, tensors, step, start, stop):  # type: ignore[no-untyped-def]
    """Add a step of tensors (v, B, T, H) to the parts of the state."""
    column = 0
    for part in range(len(views)):
        register, width = views[part, 0], views[part, 1]
        at, stride = uint64(bases[register]), uint64(strides[register])
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    buffer[at + uint64(unit)] += tensors[vector, trial, step, column + unit]
                at += stride
        column += width


@kernel
def _write_tensor(views, strides, buffer, bases, tensors, step, start, stop):  # type: ignore[no-untyped-def]
    """Write the parts of the state to a step of tensors (v, B, T, H)."""
    column = 0
    for part in range(len(views)):
        register, width = views[part, 0], views[part, 1]
        at, stride = uint64(bases[register]), uint64(strides[register])
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    tensors[vector, trial, step, column + unit] = buffer[at + uint64(unit)]
                at += stride
        column += width


@kernel
def _subtract_tensor(form, end, begin, buffer, bases, tensors, out, step, start, trials):  # type: ignore[no-untyped-def]
    """``out = tensors - state`` at a step, for the state in `end`; `begin` then holds the tensors."""
    column = 0
    for part in range(len(end)):
        register, width = end[part]
        of, to = bases[register], bases[begin[part, 0]]
        stride, other = form.strides[register], form.strides[begin[part, 0]]
        for vector in range(len(tensors)):
            for trial in range(trials):
                row, place = vector * trials + trial, start + trial
                for unit in range(width):
                    value = tensors[vector, place, step, column + unit]
                    out[vector, place, step, column + unit] = value - buffer[of + row * stride + unit]
                    buffer[to + row * other + unit] = value
        column += width


@kernel
def tangent(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``dz[n+1] = A[n] dz[n] + q[n]`` from dz[0] = 0; row n of out is dz[n+1]. `out` may be `forcing`."""
    vectors, _, steps, _ = forcing.shape
    rows = vectors * (stop - start)
    bases, _, total = _bases(form, rows, 1)
    buffer, none = np.empty(total, forcing.dtype), np.empty(0, forcing.dtype)
    _clear(form, form.new, buffer, bases, rows)
    _add_tensor(form.new, form.strides, buffer, bases, forcing, 0, start, stop)
    _write_tensor(form.new, form.strides, buffer, bases, out, 0, start, stop)
    for step in range(1, steps):
        _swap(form, bases)
        where = (0, step, start, start, stop, 1, 0, 0)
        _apply(form, form.tangent, form.forward, none, False, buffer, bases, rows, where, forcing, out)


@kernel
def adjoint(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``l[n] = A[n+1]^T l[n+1] + g[n]`` from l[T] = 0; row n of out is l[n]. `out` may be `forcing`."""
    vectors, _, steps, _ = forcing.shape
    rows = vectors * (stop - start)
    bases, _, total = _bases(form, rows, 1)
    buffer, none = np.empty(total, forcing.dtype), np.empty(0, forcing.dtype)
    _clear(form, form.old, buffer, bases, rows)
    _add_tensor(form.old, form.strides, buffer, bases, forcing, steps - 1, start, stop)
    _write_tensor(form.old, form.strides, buffer, bases, out, steps - 1, start, stop)
    for step in range(steps - 2, -1, -1):
        _swap(form, bases)
        where = (0, step + 1, start, start, stop, 1, 0, -1)
        _apply(form, form.adjoint, form.backward, none, True, buffer, bases, rows, where, forcing, out)


@kernel
def inverse(form, response, out, start, stop):  # type: ignore[no-untyped-def]
    """``q[n] = y[n] - A[n] y[n-1]`` with y[-1] = 0."""
    vectors, _, steps, _ = response.shape
    trials = stop - start
    rows = vectors * trials
    bases, _, total = _bases(form, rows, 1)
    buffer, none = np.empty(total, response.dtype), np.empty(0, response.dtype)
    _clear(form, form.new, buffer, bases, rows)
    for step in range(steps):
        if step > 0:
            where = (0, step, start, start, stop, 1, 0, 0)
            _apply(form, form.jacobian, form.forward, none, False, buffer, bases, rows, where, response, out)
        _subtract_tensor(form, form.new, form.old, buffer, bases, response, out, step, start, trials)


@kernel
def inverse_transpose(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``(P^-1)^T g``: row n is ``g[n] - A[n+1]^T g[n+1]`` with g[T] = 0."""
    vectors, _, steps, _ = forcing.shape
    trials = stop - start
    rows = vectors * trials
    bases, _, total = _bases(form, rows, 1)
    buffer, none = np.empty(total, forcing.dtype), np.empty(0, forcing.dtype)
    _clear(form, form.old, buffer, bases, rows)
    for step in range(steps - 1, -1, -1):
        if step < steps - 1:
            where = (0, step + 1, start, start, stop, 1, 0, 0)
            _apply(form, form.jacobian_transpose, form.backward, none, True, buffer, bases, rows, where, forcing, out)
        _subtract_tensor(form, form.old, form.new, buffer, bases, forcing, out, step, start, trials)


@kernel
def _widest(table):  # type: ignore[no-untyped-def]
    widest = 1
    for k in range(len(table.table)):
        widest = max(widest, table.table[k, 1])
    return widest


@kernel
def _gathered(form, of_state, column, width, first, last, start, stop, room):  # type: ignore[no-untyped-def]
    """A variable at some steps and trials as adjacent rows."""
    trials, source = stop - start, form.states if of_state == 1 else form.variables
    flat = room[: (last - first) * trials * width].reshape((last - first) * trials, width)
    for step in range(first, last):
        for trial in range(trials):
            x, y = source[step, start + trial, column : column + width], flat[(step - first) * trials + trial]
            for entry in range(width):
                y[entry] = x[entry]
    return flat


@kernel
def sensitivity(form, changes, out, start, stop, chunk):  # type: ignore[no-untyped-def]
    """The trials start, ..., stop - 1 of ``D dtheta`` for each vector."""
    steps, trials = form.states.shape[0], stop - start
    chunk = min(chunk, steps)
    bases, apart, total = _bases(form, trials, chunk)
    buffer, kind = np.empty(total, out.dtype), out.dtype
    room, here = np.empty(chunk * trials * _widest(changes.products), kind), np.empty_like(bases)
    for vector in range(len(out)):
        _clear(form, form.old, buffer, bases, trials)
        units = changes.units[vector]
        for step in range(steps):
            place = step % chunk
            if place == 0:
                _enter_changes(form, form.sensitivity, changes, vector, buffer, bases, step, start, stop, chunk, room)
            here[:] = bases + place * apart
            where = (vector, step, start, start, stop, 1, 0, 0)
            _apply(form, form.sensitivity, form.forward, units, False, buffer, here, trials, where, out, out)
            _swap(form, bases)


@kernel
def _enter_changes(form, table, changes, vector, buffer, bases, first, start, stop, chunk, room):  # type: ignore[no-untyped-def]
    """``out = dW m`` for all steps of a chunk."""
    last = min(first + chunk, form.states.shape[0])
    rows = (last - first) * (stop - start)
    for k in range(len(table.outer)):
        register, column, index, variable, of_state, how, width = table.outer[k]
        if how == ZERO:
            _view(buffer, bases[register], rows, form.strides[register], column, width)[:] = 0
            continue
        weight = _weight_of(changes.products, vector, index)
        m = _gathered(form, of_state, variable, weight.rows, first, last, start, stop, room)
        c = _view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
        if how == ADD:
            add_product(m, weight, c)
        else:
            product(m, weight, c)


@kernel
def sensitivity_transpose(form, tensors, changes, start, stop, chunk):  # type: ignore[no-untyped-def]
    """Add ``D^T g`` over the trials start, ..., stop - 1 of each tensor to the gradients by the weights."""
    steps, trials = form.states.shape[0], stop - start
    chunk = min(chunk, steps)
    bases, apart, total = _bases(form, trials, chunk)
    buffer, kind = np.empty(total, tensors.dtype), tensors.dtype
    room, here = np.empty(chunk * trials * _widest(changes.products), kind), np.empty_like(bases)
    table = form.sensitivity_transpose
    for vector in range(len(tensors)):
        _clear(form, form.new, buffer, bases, trials)
        units = changes.units[vector]
        for step in range(steps - 1, -1, -1):
            place = step % chunk
            here[:] = bases + place * apart
            where = (vector, step, start, start, stop, 1, 0, 0)
            _apply(form, table, form.backward, units, True, buffer, here, trials, where, tensors, tensors)
            if place == 0:
                last = min(step + chunk, steps)
                rows = (last - step) * trials
                for k in range(len(table.outer)):
                    register, column, index, variable, of_state, _, _ = table.outer[k]
                    weight = _weight_of(changes.products, vector, index)
                    m = _gathered(form, of_state, variable, weight.rows, step, last, start, stop, room)
                    c = _view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
                    add_transposed_product(m, c, weight)
            _swap(form, bases)


@kernel
def _flat(form, of_state, column, width, first, last):  # type: ignore[no-untyped-def]
    """A variable at adjacent rows."""
    source = form.states if of_state == 1 else form.variables
    return source.reshape(-1, source.shape[2])[first:last, column : column + width]


@kernel
def parameter_product(form, changes, out, first, last):  # type: ignore[no-untyped-def]
    """The rows first, ..., last - 1 of ``J dtheta`` for each vector; row = step * B + trial."""
    trials = form.states.shape[1]
    bases, _, total = _bases(form, _CHUNK, 1)
    buffer = np.empty(total, out.dtype)
    for vector in range(len(out)):
        for begin in range(first, last, _CHUNK):
            end = min(begin + _CHUNK, last)
            rows = end - begin
            for k in range(len(form.product.outer)):
                register, column, index, variable, of_state, how, width = form.product.outer[k]
                if how == ZERO:
                    _view(buffer, bases[register], rows, form.strides[register], column, width)[:] = 0
                    continue
                weight = _weight_of(changes.products, vector, index)
                m = _flat(form, of_state, variable, weight.rows, begin, end)
                c = _view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
                if how == ADD:
                    add_product(m, weight, c)
                else:
                    product(m, weight, c)
            where = (vector, begin // trials, begin % trials, 0, trials, 0, 1, 0)
            _apply(form, form.product, form.forward, changes.units[vector], False, buffer, bases, rows, where, out, out)


@kernel
def parameter_transpose(form, tensors, changes, first, last):  # type: ignore[no-untyped-def]
    """Add ``J^T g`` over the rows first, ..., last - 1 to the gradients by the weights."""
    trials, table = form.states.shape[1], form.product_transpose
    bases, _, total = _bases(form, _CHUNK, 1)
    buffer = np.empty(total, tensors.dtype)
    for vector in range(len(tensors)):
        for begin in range(first, last, _CHUNK):
            end = min(begin + _CHUNK, last)
            rows = end - begin
            units = changes.units[vector]
            where = (vector, begin // trials, begin % trials, 0, trials, 0, 1, 0)
            _apply(form, table, form.backward, units, True, buffer, bases, rows, where, tensors, tensors)
            for k in range(len(table.outer)):
                register, column, index, variable, of_state, _, _ = table.outer[k]
                weight = _weight_of(changes.products, vector, index)
                m = _flat(form, of_state, variable, weight.rows, begin, end)
                c = _view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
                add_transposed_product(m, c, weight)


# One step, for the sweeps of Runge-Kutta methods


def program_workspace(form, rows):  # type: ignore[no-untyped-def]
    """Scratch for `rows` states: one of the state size, and all registers."""
    kind, units = form.states.dtype, form.states.shape[2]
    _, _, total = _bases(form, rows, 1)
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
    bases, _, _ = _bases(form, rows, 1)
    _enter(begin, form.strides, buffer, bases, x)
    where, none = (0, step, start, start, start + trials, 0, 0, 0), np.empty((1, 1, 1, 0), buffer.dtype)
    _apply(form, table, weights, buffer[:0], backwards, buffer, bases, rows, where, none, none)
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
