"""Compiled sweeps of programs through time over a block of trials: P, its transpose and inverses, D, and J.

In one sweep of D the products with changes of weights are made for several steps at once, `chunk` of them: a matrix of
parameters is larger than the states of a block, and would be streamed through the cache at each step. The registers
that they write to are therefore there once for each step of a chunk. Backwards they collect the cotangents that the
gradients are made of. The old and the new state change places from step to step.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, ask_for, keep, load, set_word, size_of, store, word
from kpref.kernels.blas import add_transposed_product_at, product_at
from kpref.kernels.changes import Changes
from kpref.kernels.interpreter import CompiledProgram, apply, enter_tensors, registers, where_rows_are
from kpref.kernels.lowering import ADD, STATES, TENSOR_IN, TENSOR_OUT, UNITS, VARIABLES, ZERO
from kpref.kernels.panel_products import passes_of
from kpref.kernels.wanted_rows import want_rows
from kpref.kernels.wants import ask_for_rest, spread

__all__ = [
    "adjoint", "enter_chunk", "enter_units", "entries_of", "inverse", "inverse_transpose", "leave_chunk", "move_to",
    "parameter_product", "parameter_transpose", "sensitivity", "sensitivity_transpose", "tangent", "trial_transpose",
    "widest_variable",
]  # fmt: skip

_AHEAD = 8  # rows further are those whose coefficients are asked for from memory, where J stands alone
_OUTER = 7 * 8  # bytes of a row of that table


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
    form: CompiledProgram,
    tensors: Array,
    changes: Changes,
    start: int,
    stop: int,
    chunk: int,
    initial: Array | None = None,
) -> None:
    """Add ``D^T g`` over the trials start, ..., stop - 1 of each tensor to the gradients by the weights.

    Where it is given, `initial`, (v, B, H), is filled with ``D_z0^T g``, which the sweep ends with.
    """
    initial = np.empty((0, 0, 0), tensors.dtype) if initial is None else initial
    _sensitivity_transpose(form.layout, form.sensitivity_transpose, tensors, changes, initial, start, stop, chunk)


def parameter_product(form: CompiledProgram, changes: Changes, out: Array, first: int, last: int) -> None:
    """The rows first, ..., last - 1 of ``J dtheta`` for each vector; row = step * B + trial."""
    _parameter_product(form.layout, form.product, changes, out, first, last)


def parameter_transpose(form: CompiledProgram, tensors: Array, changes: Changes, first: int, last: int) -> None:
    """Add ``J^T g`` over the rows first, ..., last - 1 to the gradients by the weights."""
    _parameter_transpose(form.layout, form.product_transpose, tensors, changes, first, last, 0, form.layout.trials)


def trial_transpose(form: CompiledProgram, tensors: Array, changes: Changes, trial: int) -> None:
    """Add ``J^T g`` over all steps of one trial to the gradients by the weights."""
    steps = form.layout.rows
    _parameter_transpose(form.layout, form.product_transpose, tensors, changes, 0, steps, trial, trial + 1)


# Compiled


@kernel
def _swap(layout, room):  # type: ignore[no-untyped-def]
    """The new state becomes the old, and the room of the old that of the new."""
    for part in range(layout.parts):
        old, new = word(layout.states, 3 * part), word(layout.states, 3 * part + 1)
        of_old, of_new = word(room.addresses, old), word(room.addresses, new)
        set_word(room.addresses, old, of_new)
        set_word(room.addresses, new, of_old)


@kernel
def _clear(one, layout, room, end, rows):  # type: ignore[no-untyped-def]
    """Zeros as the old state, or (`end` is 1) the new."""
    size = size_of(one)
    for part in range(layout.parts):
        register = word(layout.states, 3 * part + end)
        at = word(room.addresses, register)
        for entry in range(rows * word(room.strides, register)):
            store(one - one, at + entry * size)


@kernel
def _subtract(one, layout, room, end, tensors, out, step, start, stop):  # type: ignore[no-untyped-def]
    """``out = tensors - state`` at a step, for the state at this end; that at the other then holds the tensors."""
    size, column = size_of(one), 0
    for part in range(layout.parts):
        part_of, width = layout.states + 24 * part, word(layout.states, 3 * part + 2)
        register, other = word(part_of, end), word(part_of, 1 - end)
        of, to = word(room.addresses, register), word(room.addresses, other)
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    value = tensors[vector, trial, step, column + unit]
                    out[vector, trial, step, column + unit] = value - load(one, of + unit * size)
                    store(value, to + unit * size)
                of += word(room.strides, register) * size
                to += word(room.strides, other) * size
        column += width


@kernel
def _sweep(layout, code, backwards, inverting, tensors, out, start, stop):  # type: ignore[no-untyped-def]
    """P, its transpose and the inverses of both: one function, so that the interpreter is compiled once for the four.

    ``dz[n+1] = A[n] dz[n] + q[n]`` from dz[0] = 0; backwards ``l[n] = A[n+1]^T l[n+1] + g[n]`` from l[T] = 0.
    Inverting, the result is what each row has beyond the image of the one before it. `out` may be `tensors`.
    """
    vectors, _, steps, units = tensors.shape
    rows, one = vectors * (stop - start), out.dtype.type(1)
    room, memory = registers(one, layout, code.n_operands, rows, 1, code.asks)
    ahead = -1 if backwards else 1
    later = 1 if backwards else 0  # A[n+1]^T leads to row n
    # The arrays of a run begin at the row of the coefficients, those of tensors one before it.
    set_word(room.addresses, layout.n_registers + TENSOR_IN, address_of(tensors) - later * units * tensors.itemsize)
    set_word(room.addresses, layout.n_registers + TENSOR_OUT, address_of(out) - later * units * out.itemsize)
    end = 0 if backwards else 1
    if inverting:
        _clear(one, layout, room, end, rows)
    for index in range(steps):
        step = steps - 1 - index if backwards else index
        if index > 0:
            if not inverting:
                _swap(layout, room)
            apply(one, layout, code, room, rows, where_rows_are(0, step + later, start, start, stop, 1, 0, ahead, 0))
        if inverting:
            _subtract(one, layout, room, end, tensors, out, step, start, stop)
        elif index == 0:
            enter_tensors(one, layout, room, end, tensors, out, step, start, stop)
    keep(memory)


@kernel
def widest_variable(changes):  # type: ignore[no-untyped-def]
    """Columns of the widest variable that a trained weight multiplies; at least one."""
    widest = 1
    for k in range(len(changes.table)):
        widest = max(widest, changes.table[k, 1])
    return widest


@kernel
def entries_of(changes, vector):  # type: ignore[no-untyped-def]
    """Address of the changes of all weights, of one vector."""
    return address_of(changes.entries) + vector * changes.entries.shape[1] * changes.entries.itemsize


@kernel
def _weight(one, entries, table, index):  # type: ignore[no-untyped-def]
    """Change of one weight, or the gradient by it, as products take it."""
    row = table + 32 * index
    return entries + word(row, 0) * size_of(one), word(row, 1), word(row, 2), word(row, 3)


@kernel
def enter_units(layout, room, changes, vector):  # type: ignore[no-untyped-def]
    """Where the changes of the weights of units are, of one vector."""
    at = entries_of(changes, vector) + changes.units * changes.entries.itemsize
    set_word(room.addresses, layout.n_registers + UNITS, at)


@kernel
def _rows_of(layout, product, size):  # type: ignore[no-untyped-def]
    """Address of a variable at the first row of the trajectory, and entries from a row to the next."""
    of_state = word(product, 4) == 1
    width = layout.state_columns if of_state else layout.variable_columns
    return word(layout.arenas, STATES if of_state else VARIABLES) + word(product, 3) * size, width


@kernel
def _gathered(one, layout, product, width, first, last, start, stop, flat, later):  # type: ignore[no-untyped-def]
    """The variable of a product at some steps and trials as adjacent rows, from the address `flat` on.

    Those that are `later` steps on are asked for, if they come from memory.
    """
    size = size_of(one)
    base, stride = _rows_of(layout, product, size)
    to = flat
    for step in range(first, last):
        of = base + (step * layout.trials + start) * stride * size
        for _ in range(start, stop):
            if layout.far == 1:
                ask_for(of + later * layout.trials * stride * size, width * size)
            for entry in range(width):
                store(load(one, of + entry * size), to + entry * size)
            of += stride * size
            to += width * size


@kernel
def _enter_changes(one, room, product, weight, rows, source, lda):  # type: ignore[no-untyped-def]
    """``out = dW m``, or ``out += dW m``, for one product of the table; m stands at the address `source`."""
    register, how = word(product, 0), word(product, 5)
    stride, size = word(room.strides, register), size_of(one)
    at = word(room.addresses, register) + word(product, 1) * size
    if how == ZERO:
        for row in range(rows):
            for entry in range(word(product, 6)):
                store(one - one, at + (row * stride + entry) * size)
    else:
        product_at(one, how == ADD, rows, source, lda, weight, at, stride, room.wants)


@kernel
def _leave_changes(one, room, product, weight, rows, source, lda):  # type: ignore[no-untyped-def]
    """``dW += (cotangent of out)^T m``."""
    register = word(product, 0)
    at = word(room.addresses, register) + word(product, 1) * size_of(one)
    add_transposed_product_at(one, rows, source, lda, at, word(room.strides, register), weight, room.wants)


@kernel
def move_to(room, places):  # type: ignore[no-untyped-def]
    """To the registers of a later step of the chunk."""
    for arena in range(room.arenas):
        set_word(room.addresses, arena, word(room.addresses, arena) + places * word(room.apart, arena))


@kernel
def enter_chunk(one, layout, code, room, entries, table, first, last, start, stop, flat):  # type: ignore[no-untyped-def]
    """All products with changes of weights for some steps and trials; `flat` is the address of room for a variable."""
    rows = (last - first) * (stop - start)
    for k in range(code.n_outer):
        product = code.outer + k * _OUTER
        weight = _weight(one, entries, table, word(product, 2))
        _gathered(one, layout, product, weight[1], first, last, start, stop, flat, last - first)
        _enter_changes(one, room, product, weight, rows, flat, weight[1])


@kernel
def leave_chunk(one, layout, code, room, entries, table, first, last, start, stop, flat):  # type: ignore[no-untyped-def]
    """The transpose of `enter_chunk`."""
    rows = (last - first) * (stop - start)
    for k in range(code.n_outer):
        product = code.outer + k * _OUTER
        weight = _weight(one, entries, table, word(product, 2))
        _gathered(one, layout, product, weight[1], first, last, start, stop, flat, first - last)
        _leave_changes(one, room, product, weight, rows, flat, weight[1])


@kernel
def _sensitivity(layout, code, changes, out, start, stop, chunk):  # type: ignore[no-untyped-def]
    steps, trials, one = layout.rows, stop - start, out.dtype.type(1)
    chunk = min(chunk, steps)
    room, memory = registers(one, layout, code.n_operands, trials, chunk, code.asks)
    set_word(room.addresses, layout.n_registers + TENSOR_OUT, address_of(out))
    flat, table = np.empty(chunk * trials * widest_variable(changes), out.dtype), address_of(changes.table)
    for vector in range(len(out)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        _clear(one, layout, room, 0, trials)
        for step in range(steps):
            place = step % chunk
            if place == 0:
                last = min(step + chunk, steps)
                enter_chunk(one, layout, code, room, entries, table, step, last, start, stop, address_of(flat))
            move_to(room, place)
            apply(one, layout, code, room, trials, where_rows_are(vector, step, start, start, stop, 1, 0, 1, 0))
            move_to(room, -place)
            _swap(layout, room)
    keep(memory)


@kernel
def _sensitivity_transpose(layout, code, tensors, changes, initial, start, stop, chunk):  # type: ignore[no-untyped-def]
    steps, trials, one = layout.rows, stop - start, tensors.dtype.type(1)
    chunk = min(chunk, steps)
    room, memory = registers(one, layout, code.n_operands, trials, chunk, code.asks)
    set_word(room.addresses, layout.n_registers + TENSOR_IN, address_of(tensors))
    flat, table = np.empty(chunk * trials * widest_variable(changes), tensors.dtype), address_of(changes.table)
    for vector in range(len(tensors)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        _clear(one, layout, room, 1, trials)
        for step in range(steps - 1, -1, -1):
            place = step % chunk
            move_to(room, place)
            apply(one, layout, code, room, trials, where_rows_are(vector, step, start, start, stop, 1, 0, -1, 0))
            move_to(room, -place)
            if place == 0:
                last = min(step + chunk, steps)
                leave_chunk(one, layout, code, room, entries, table, step, last, start, stop, address_of(flat))
            _swap(layout, room)
        if len(initial) > 0:
            _leave_state(one, layout, room, initial, vector, start, stop)
    keep(memory)


@kernel
def _leave_state(one, layout, room, initial, vector, start, stop):  # type: ignore[no-untyped-def]
    """The registers of the new state, which after a last swap hold the old one, as trials of a tensor (v, B, H)."""
    size, column = size_of(one), 0
    for part in range(layout.parts):
        register, width = word(layout.states, 3 * part + 1), word(layout.states, 3 * part + 2)
        at = word(room.addresses, register)
        for trial in range(start, stop):
            for unit in range(width):
                initial[vector, trial, column + unit] = load(one, at + unit * size)
            at += word(room.strides, register) * size
        column += width


@kernel
def _passes(one, code, table, rows, transposed):  # type: ignore[no-untyped-def]
    """Of products with all changes of weights, or for all gradients: see `kpref.kernels.wants.spread`."""
    passes = 0
    for k in range(code.n_outer):
        weight = _weight(one, 0, table, word(code.outer + k * _OUTER, 2))
        passes += passes_of(one, weight[1], rows, weight) if transposed else passes_of(one, rows, weight[1], weight)
    return passes


@kernel
def _parameter_product(layout, code, changes, out, first, last):  # type: ignore[no-untyped-def]
    trials, one, size = layout.trials, out.dtype.type(1), out.itemsize
    chunk = min(layout.rows_of_j, last - first)
    room, memory = registers(one, layout, code.n_operands, chunk, 1, code.asks)
    set_word(room.addresses, layout.n_registers + TENSOR_OUT, address_of(out))
    table = address_of(changes.table)
    for vector in range(len(out)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        for begin in range(first, last, chunk):
            rows = min(begin + chunk, last) - begin
            where = where_rows_are(vector, begin // trials, begin % trials, 0, trials, 0, 1, 0, _AHEAD)
            if room.wants != 0:
                want_rows(one, layout, code, room, rows, where, 0)
                spread(room.wants, _passes(one, code, table, rows, False), 0)
            for k in range(code.n_outer):
                product = code.outer + k * _OUTER
                weight = _weight(one, entries, table, word(product, 2))
                base, lda = _rows_of(layout, product, size)
                _enter_changes(one, room, product, weight, rows, base + begin * lda * size, lda)
            if room.wants != 0:
                ask_for_rest(room.wants)
            apply(one, layout, code, room, rows, where)
    keep(memory)


@kernel
def _parameter_transpose(layout, code, tensors, changes, first, last, start, stop):  # type: ignore[no-untyped-def]
    """Rows are ``step * (stop - start) + trial - start``: of all trials, or of a single one."""
    trials, size, one = stop - start, tensors.itemsize, tensors.dtype.type(1)
    apart = layout.trials if trials == 1 else 1  # rows of the trajectory from a row to the next
    chunk = min(layout.rows_of_j, last - first)
    room, memory = registers(one, layout, code.n_operands, chunk, 1, code.asks)
    set_word(room.addresses, layout.n_registers + TENSOR_IN, address_of(tensors))
    table = address_of(changes.table)
    for vector in range(len(tensors)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        for begin in range(first, last, chunk):
            rows, step, trial = min(begin + chunk, last) - begin, begin // trials, start + begin % trials
            where = where_rows_are(vector, step, trial, start, stop, 0, 1, 0, _AHEAD * apart)
            apply(one, layout, code, room, rows, where)
            if room.wants != 0 and begin + rows < last:
                after, left = begin + rows, min(chunk, last - begin - rows)
                where = where_rows_are(vector, after // trials, start + after % trials, start, stop, 0, 1, 0, 0)
                want_rows(one, layout, code, room, left, where, 0)
                spread(room.wants, _passes(one, code, table, rows, True), 0)
            for k in range(code.n_outer):
                product = code.outer + k * _OUTER
                weight = _weight(one, entries, table, word(product, 2))
                base, stride = _rows_of(layout, product, size)
                source = base + (step * layout.trials + trial) * stride * size
                _leave_changes(one, room, product, weight, rows, source, apart * stride)
            if room.wants != 0:
                ask_for_rest(room.wants)
    keep(memory)
