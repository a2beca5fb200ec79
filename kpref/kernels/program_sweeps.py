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
from numba import uint64

from kpref.kernels.blas import add_product, add_transposed_product, product
from kpref.kernels.compilation import kernel
from kpref.kernels.lowering import ADD, ZERO
from kpref.kernels.program import ProgramArrays, apply, register_bases, register_view, weight_of

__all__ = [
    "adjoint", "inverse", "inverse_transpose", "parameter_product", "parameter_transpose", "sensitivity",
    "sensitivity_transpose", "tangent",
]  # fmt: skip

Array = npt.NDArray[Any]

_CHUNK = 128  # rows that one product with a matrix of parameters handles, where J stands alone


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
def _subtract_tensor(  # type: ignore[no-untyped-def]
    form, end, begin, buffer, bases, tensors, out, step, start, trials
):  # fmt: skip
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
def _sweep(form, tables, weights, backwards, inverting, tensors, out, start, stop):  # type: ignore[no-untyped-def]
    """P, its transpose and the inverses of both: one function, so that the interpreter is compiled once for the four.

    ``dz[n+1] = A[n] dz[n] + q[n]`` from dz[0] = 0; backwards ``l[n] = A[n+1]^T l[n+1] + g[n]`` from l[T] = 0.
    Inverting, the result is what each row has beyond the image of the one before it. `out` may be `tensors`.
    """
    vectors, _, steps, _ = tensors.shape
    rows = vectors * (stop - start)
    bases, _, total = register_bases(form, rows, 1)
    buffer, none = np.empty(total, tensors.dtype), np.empty(0, tensors.dtype)
    begin, end = (form.new, form.old) if backwards else (form.old, form.new)
    _clear(form, end, buffer, bases, rows)
    for index in range(steps):
        step = steps - 1 - index if backwards else index
        if index > 0:
            if not inverting:
                _swap(form, bases)
            later = 1 if backwards else 0  # A[n+1]^T leads to row n
            where = (0, step + later, start, start, stop, 1, 0, -later)
            apply(form, tables, weights, none, backwards, buffer, bases, rows, where, tensors, out)
        if inverting:
            _subtract_tensor(form, end, begin, buffer, bases, tensors, out, step, start, stop - start)
        elif index == 0:
            _add_tensor(end, form.strides, buffer, bases, tensors, step, start, stop)
            _write_tensor(end, form.strides, buffer, bases, out, step, start, stop)


def tangent(form: ProgramArrays, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P q``; row n of out is dz[n+1]. `out` may be `forcing`."""
    _sweep(form, form.tangent, form.forward, False, False, forcing, out, start, stop)


def adjoint(form: ProgramArrays, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P^T g``; row n of out is l[n]. `out` may be `forcing`."""
    _sweep(form, form.adjoint, form.backward, True, False, forcing, out, start, stop)


def inverse(form: ProgramArrays, response: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``P^-1 y``: q[n] = y[n] - A[n] y[n-1] with y[-1] = 0."""
    _sweep(form, form.jacobian, form.forward, False, True, response, out, start, stop)


def inverse_transpose(form: ProgramArrays, forcing: Array, out: Array, start: int, stop: int) -> None:
    """The trials start, ..., stop - 1 of ``(P^-1)^T g``: row n is g[n] - A[n+1]^T g[n+1] with g[T] = 0."""
    _sweep(form, form.jacobian_transpose, form.backward, True, True, forcing, out, start, stop)


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
    bases, apart, total = register_bases(form, trials, chunk)
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
            apply(form, form.sensitivity, form.forward, units, False, buffer, here, trials, where, out, out)
            _swap(form, bases)


@kernel
def _enter_changes(form, table, changes, vector, buffer, bases, first, start, stop, chunk, room):  # type: ignore[no-untyped-def]
    """``out = dW m`` for all steps of a chunk."""
    last = min(first + chunk, form.states.shape[0])
    rows = (last - first) * (stop - start)
    for k in range(len(table.outer)):
        register, column, index, variable, of_state, how, width = table.outer[k]
        if how == ZERO:
            register_view(buffer, bases[register], rows, form.strides[register], column, width)[:] = 0
            continue
        weight = weight_of(changes.products, vector, index)
        m = _gathered(form, of_state, variable, weight.rows, first, last, start, stop, room)
        c = register_view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
        if how == ADD:
            add_product(m, weight, c)
        else:
            product(m, weight, c)


@kernel
def sensitivity_transpose(form, tensors, changes, start, stop, chunk):  # type: ignore[no-untyped-def]
    """Add ``D^T g`` over the trials start, ..., stop - 1 of each tensor to the gradients by the weights."""
    steps, trials = form.states.shape[0], stop - start
    chunk = min(chunk, steps)
    bases, apart, total = register_bases(form, trials, chunk)
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
            apply(form, table, form.backward, units, True, buffer, here, trials, where, tensors, tensors)
            if place == 0:
                last = min(step + chunk, steps)
                rows = (last - step) * trials
                for k in range(len(table.outer)):
                    register, column, index, variable, of_state, _, _ = table.outer[k]
                    weight = weight_of(changes.products, vector, index)
                    m = _gathered(form, of_state, variable, weight.rows, step, last, start, stop, room)
                    c = register_view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
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
    bases, _, total = register_bases(form, _CHUNK, 1)
    buffer = np.empty(total, out.dtype)
    for vector in range(len(out)):
        for begin in range(first, last, _CHUNK):
            end = min(begin + _CHUNK, last)
            rows = end - begin
            for k in range(len(form.product.outer)):
                register, column, index, variable, of_state, how, width = form.product.outer[k]
                if how == ZERO:
                    register_view(buffer, bases[register], rows, form.strides[register], column, width)[:] = 0
                    continue
                weight = weight_of(changes.products, vector, index)
                m = _flat(form, of_state, variable, weight.rows, begin, end)
                c = register_view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
                if how == ADD:
                    add_product(m, weight, c)
                else:
                    product(m, weight, c)
            where = (vector, begin // trials, begin % trials, 0, trials, 0, 1, 0)
            apply(form, form.product, form.forward, changes.units[vector], False, buffer, bases, rows, where, out, out)


@kernel
def parameter_transpose(form, tensors, changes, first, last):  # type: ignore[no-untyped-def]
    """Add ``J^T g`` over the rows first, ..., last - 1 to the gradients by the weights."""
    trials, table = form.states.shape[1], form.product_transpose
    bases, _, total = register_bases(form, _CHUNK, 1)
    buffer = np.empty(total, tensors.dtype)
    for vector in range(len(tensors)):
        for begin in range(first, last, _CHUNK):
            end = min(begin + _CHUNK, last)
            rows = end - begin
            units = changes.units[vector]
            where = (vector, begin // trials, begin % trials, 0, trials, 0, 1, 0)
            apply(form, table, form.backward, units, True, buffer, bases, rows, where, tensors, tensors)
            for k in range(len(table.outer)):
                register, column, index, variable, of_state, _, _ = table.outer[k]
                weight = weight_of(changes.products, vector, index)
                m = _flat(form, of_state, variable, weight.rows, begin, end)
                c = register_view(buffer, bases[register], rows, form.strides[register], column, weight.columns)
                add_transposed_product(m, c, weight)
