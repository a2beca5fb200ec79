"""Compiled sweeps of programs through time over a block of trials: P, its transpose and inverses, D, and J.

In one sweep of D the products with changes of weights are made for several steps at once, `chunk` of them: a matrix of
parameters is larger than the states of a block, and would be streamed through the cache at each step. The registers
that they write to are therefore there once for each step of a chunk. Backwards they collect the cotangents that the
gradients are made of. The old and the new state change places from step to step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.kernels.addresses import address_of, load, size_of, store
from kpref.kernels.blas import add_transposed_product_at, product_at
from kpref.kernels.changes import Changes
from kpref.kernels.compilation import kernel
from kpref.kernels.interpreter import CompiledProgram, apply, enter_tensors, registers
from kpref.kernels.lowering import ADD, STATES, TENSOR_IN, TENSOR_OUT, UNITS, VARIABLES, ZERO

__all__ = [
    "adjoint", "inverse", "inverse_transpose", "parameter_product", "parameter_transpose", "sensitivity",
    "sensitivity_transpose", "tangent",
]  # fmt: skip

Array = npt.NDArray[Any]

_CHUNK = 128  # rows that one product with a matrix of parameters handles, where J stands alone


def tangent(form: CompiledProgram, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P q``; row n of out is dz[n+1]. `out` may be `forcing`."""
    _sweep(form.layout, form.tangent, False, False, forcing, out, start, stop)


def adjoint(form: CompiledProgram, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P^T g``; row n of out is l[n]. `out` may be `forcing`."""
    _sweep(form.layout, form.adjoint, True, False, forcing, out, start, stop)


def inverse(form: CompiledProgram, response: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P^-1 y``: q[n] = y[n] - A[n] y[n-1] with y[-1] = 0."""
    _sweep(form.layout, form.jacobian, False, True, response, out, start, stop)


def inverse_transpose(form: CompiledProgram, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``(P^-1)^T g``: row n is g[n] - A[n+1]^T g[n+1] with g[T] = 0."""
    _sweep(form.layout, form.jacobian_transpose, True, True, forcing, out, start, stop)


def sensitivity(form: CompiledProgram, changes: Changes, out: Array, start: int, stop: int, chunk: int) -> None:
    """The trials start, ..., stop - 1 of ``D dtheta`` for each vector."""
    _sensitivity(form.layout, form.sensitivity, changes, out, start, stop, chunk)


def sensitivity_transpose(
    form: CompiledProgram, tensors: Array, changes: Changes, start: int, stop: int, chunk: int
) -> None:
    """Add ``D^T g`` over the trials start, ..., stop - 1 of each tensor to the gradients by the weights."""
    _sensitivity_transpose(form.layout, form.sensitivity_transpose, tensors, changes, start, stop, chunk)


def parameter_product(form: CompiledProgram, changes: Changes, out: Array, first: int, last: int) -> None:
    """The rows first, ..., last - 1 of ``J dtheta`` for each vector; row = step * B + trial."""
    _parameter_product(form.layout, form.product, changes, out, first, last)


def parameter_transpose(form: CompiledProgram, tensors: Array, changes: Changes, first: int, last: int) -> None:
    """Add ``J^T g`` over the rows first, ..., last - 1 to the gradients by the weights."""
    _parameter_transpose(form.layout, form.product_transpose, tensors, changes, first, last)


# Compiled


@kernel
def _swap(layout, room):  # type: ignore[no-untyped-def]
    """The new state becomes the old, and the room of the old that of the new."""
    for part in range(len(layout.states)):
        old, new = layout.states[part, 0], layout.states[part, 1]
        room.addresses[old], room.addresses[new] = room.addresses[new], room.addresses[old]


@kernel
def _clear(one, layout, room, end, rows):  # type: ignore[no-untyped-def]
    """Zeros as the old state, or (`end` is 1) the new."""
    size = size_of(one)
    for part in range(len(layout.states)):
        register = layout.states[part, end]
        for entry in range(rows * room.strides[register]):
            store(one - one, room.addresses[register] + entry * size)


@kernel
def _subtract(one, layout, room, end, tensors, out, step, start, stop):  # type: ignore[no-untyped-def]
    """``out = tensors - state`` at a step, for the state at this end; that at the other then holds the tensors."""
    size, column = size_of(one), 0
    for part in range(len(layout.states)):
        register, other, width = layout.states[part, end], layout.states[part, 1 - end], layout.states[part, 2]
        of, to = room.addresses[register], room.addresses[other]
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    value = tensors[vector, trial, step, column + unit]
                    out[vector, trial, step, column + unit] = value - load(one, of + unit * size)
                    store(value, to + unit * size)
                of += room.strides[register] * size
                to += room.strides[other] * size
        column += width


@kernel
def _sweep(layout, table, backwards, inverting, tensors, out, start, stop):  # type: ignore[no-untyped-def]
    """P, its transpose and the inverses of both: one function, so that the interpreter is compiled once for the four.

    ``dz[n+1] = A[n] dz[n] + q[n]`` from dz[0] = 0; backwards ``l[n] = A[n+1]^T l[n+1] + g[n]`` from l[T] = 0.
    Inverting, the result is what each row has beyond the image of the one before it. `out` may be `tensors`.
    """
    vectors, _, steps, units = tensors.shape
    rows, one = vectors * (stop - start), out.dtype.type(1)
    room = registers(layout, len(table.operands), out, rows, 1)
    later = 1 if backwards else 0  # A[n+1]^T leads to row n
    # The arrays of a run begin at the row of the coefficients, those of tensors one before it.
    room.addresses[len(layout.registers) + TENSOR_IN] = address_of(tensors) - later * units * tensors.itemsize
    room.addresses[len(layout.registers) + TENSOR_OUT] = address_of(out) - later * units * out.itemsize
    end = 0 if backwards else 1
    if inverting:
        _clear(one, layout, room, end, rows)
    for index in range(steps):
        step = steps - 1 - index if backwards else index
        if index > 0:
            if not inverting:
                _swap(layout, room)
            apply(one, layout, table, room, rows, (0, step + later, start, start, stop, 1, 0))
        if inverting:
            _subtract(one, layout, room, end, tensors, out, step, start, stop)
        elif index == 0:
            enter_tensors(one, layout, room, end, tensors, out, step, start, stop)


@kernel
def _widest(changes):  # type: ignore[no-untyped-def]
    widest = 1
    for k in range(len(changes.products.table)):
        widest = max(widest, changes.products.table[k, 1])
    return widest


@kernel
def _weight(changes, vector, index):  # type: ignore[no-untyped-def]
    """Change of one weight, or the gradient by it, as products take it."""
    entries = changes.products.entries
    first, rows, columns, width = changes.products.table[index]
    return address_of(entries) + (vector * entries.shape[1] + first) * entries.itemsize, rows, columns, width


@kernel
def _change_units(layout, room, changes, vector):  # type: ignore[no-untyped-def]
    units = changes.units
    room.addresses[len(layout.registers) + UNITS] = address_of(units) + vector * units.shape[1] * units.itemsize


@kernel
def _rows_of(layout, of_state, column, size):  # type: ignore[no-untyped-def]
    """Address of a variable at the first row of the trajectory, and entries from a row to the next."""
    width = layout.shape[3] if of_state == 1 else layout.shape[4]
    return layout.arenas[STATES if of_state == 1 else VARIABLES] + column * size, width


@kernel
def _gathered(one, layout, of_state, column, width, first, last, start, stop, flat):  # type: ignore[no-untyped-def]
    """A variable at some steps and trials as adjacent rows, at the address of `flat`."""
    size = size_of(one)
    base, stride = _rows_of(layout, of_state, column, size)
    to = address_of(flat)
    for step in range(first, last):
        of = base + (step * layout.shape[1] + start) * stride * size
        for _ in range(start, stop):
            for entry in range(width):
                store(load(one, of + entry * size), to + entry * size)
            of += stride * size
            to += width * size


@kernel
def _enter_changes(one, layout, table, room, changes, vector, rows, source, lda):  # type: ignore[no-untyped-def]
    """``out = dW m``, or ``out += dW m``, for one product of the table; m stands at the address `source`."""
    register, column, index, _, _, how, width = table
    stride, size = room.strides[register], size_of(one)
    at = room.addresses[register] + column * size
    if how == ZERO:
        for row in range(rows):
            for entry in range(width):
                store(one - one, at + (row * stride + entry) * size)
    else:
        product_at(one, how == ADD, rows, source, lda, _weight(changes, vector, index), at, stride)


@kernel
def _leave_changes(one, room, product, changes, vector, rows, source, lda):  # type: ignore[no-untyped-def]
    """``dW += (cotangent of out)^T m``."""
    register, column, index = product[0], product[1], product[2]
    at = room.addresses[register] + column * size_of(one)
    weight = _weight(changes, vector, index)
    add_transposed_product_at(one, rows, source, lda, at, room.strides[register], weight)


@kernel
def _move(room, places):  # type: ignore[no-untyped-def]
    """To the registers of a later step of the chunk."""
    room.addresses[:] += places * room.apart


@kernel
def _sensitivity(layout, table, changes, out, start, stop, chunk):  # type: ignore[no-untyped-def]
    steps, trials, one = layout.shape[0], stop - start, out.dtype.type(1)
    chunk = min(chunk, steps)
    room = registers(layout, len(table.operands), out, trials, chunk)
    room.addresses[len(layout.registers) + TENSOR_OUT] = address_of(out)
    flat = np.empty(chunk * trials * _widest(changes), out.dtype)
    for vector in range(len(out)):
        _change_units(layout, room, changes, vector)
        _clear(one, layout, room, 0, trials)
        for step in range(steps):
            place = step % chunk
            if place == 0:
                last = min(step + chunk, steps)
                for k in range(len(table.outer)):
                    product, width = table.outer[k], changes.products.table[table.outer[k, 2], 1]
                    _gathered(one, layout, product[4], product[3], width, step, last, start, stop, flat)
                    rows = (last - step) * trials
                    _enter_changes(one, layout, product, room, changes, vector, rows, address_of(flat), width)
            _move(room, place)
            apply(one, layout, table, room, trials, (vector, step, start, start, stop, 1, 0))
            _move(room, -place)
            _swap(layout, room)


@kernel
def _sensitivity_transpose(layout, table, tensors, changes, start, stop, chunk):  # type: ignore[no-untyped-def]
    steps, trials, one = layout.shape[0], stop - start, tensors.dtype.type(1)
    chunk = min(chunk, steps)
    room = registers(layout, len(table.operands), tensors, trials, chunk)
    room.addresses[len(layout.registers) + TENSOR_IN] = address_of(tensors)
    flat = np.empty(chunk * trials * _widest(changes), tensors.dtype)
    for vector in range(len(tensors)):
        _change_units(layout, room, changes, vector)
        _clear(one, layout, room, 1, trials)
        for step in range(steps - 1, -1, -1):
            place = step % chunk
            _move(room, place)
            apply(one, layout, table, room, trials, (vector, step, start, start, stop, 1, 0))
            _move(room, -place)
            if place == 0:
                last = min(step + chunk, steps)
                for k in range(len(table.outer)):
                    product, width = table.outer[k], changes.products.table[table.outer[k, 2], 1]
                    _gathered(one, layout, product[4], product[3], width, step, last, start, stop, flat)
                    rows = (last - step) * trials
                    _leave_changes(one, room, product, changes, vector, rows, address_of(flat), width)
            _swap(layout, room)


@kernel
def _parameter_product(layout, table, changes, out, first, last):  # type: ignore[no-untyped-def]
    trials, one, size = layout.shape[1], out.dtype.type(1), out.itemsize
    room = registers(layout, len(table.operands), out, _CHUNK, 1)
    room.addresses[len(layout.registers) + TENSOR_OUT] = address_of(out)
    for vector in range(len(out)):
        _change_units(layout, room, changes, vector)
        for begin in range(first, last, _CHUNK):
            rows = min(begin + _CHUNK, last) - begin
            for k in range(len(table.outer)):
                product = table.outer[k]
                base, lda = _rows_of(layout, product[4], product[3], size)
                _enter_changes(one, layout, product, room, changes, vector, rows, base + begin * lda * size, lda)
            apply(one, layout, table, room, rows, (vector, begin // trials, begin % trials, 0, trials, 0, 1))


@kernel
def _parameter_transpose(layout, table, tensors, changes, first, last):  # type: ignore[no-untyped-def]
    trials, one, size = layout.shape[1], tensors.dtype.type(1), tensors.itemsize
    room = registers(layout, len(table.operands), tensors, _CHUNK, 1)
    room.addresses[len(layout.registers) + TENSOR_IN] = address_of(tensors)
    for vector in range(len(tensors)):
        _change_units(layout, room, changes, vector)
        for begin in range(first, last, _CHUNK):
            rows = min(begin + _CHUNK, last) - begin
            apply(one, layout, table, room, rows, (vector, begin // trials, begin % trials, 0, trials, 0, 1))
            for k in range(len(table.outer)):
                product = table.outer[k]
                base, lda = _rows_of(layout, product[4], product[3], size)
                _leave_changes(one, room, product, changes, vector, rows, base + begin * lda * size, lda)
