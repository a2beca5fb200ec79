"""Compiled sweeps of ``D = dZ/dtheta`` through the stages of Runge-Kutta steps, and of its transpose.

What changes of the weights do to the derivative at a stage, and what costates do to gradients, is part of the program
that a stage runs anyway: no tensor over all stages is written and read again, and coefficients are read once. Products
with changes of weights are made for several stages at once, as in `kpref.kernels.program_sweeps`.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, keep, load, set_word, size_of, store, word
from kpref.kernels.changes import Changes
from kpref.kernels.interpreter import NEAR, CompiledProgram, apply, registers, where_rows_are
from kpref.kernels.program_sweeps import (
    enter_chunk,
    enter_units,
    entries_of,
    leave_chunk,
    move_to,
    widest_variable,
)
from kpref.kernels.stage_sums import (
    StageTable,
    add_stages,
    ask_for_row,
    cotangent_sum,
    enter_row,
    leave_row,
    make,
    room_for_sums,
    state_sum,
)
from kpref.kernels.stage_sweeps import end_steps

__all__ = ["stage_sensitivity", "stage_sensitivity_transpose"]


def stage_sensitivity(
    form: CompiledProgram, table: StageTable, changes: Changes, carry: Array, out: Array, start: int, stop: int,
    chunk: int,
) -> None:  # fmt: skip
    """Carry dz (v, B, H) of the trials start, ..., stop - 1 through steps, driven by changes of the weights.

    Rows of `out` are those of `kpref.kernels.stage_sweeps.stage_tangent`.
    """
    _forwards(form.layout, form.stage_sensitivity, table, changes, carry, out, start, stop, chunk)


def stage_sensitivity_transpose(
    form: CompiledProgram, table: StageTable, source: Array, carry: Array, changes: Changes, start: int, stop: int,
    chunk: int,
) -> None:  # fmt: skip
    """Carry costates (v, B, H) back through steps, from `source` on rows, and add to the gradients by the weights."""
    code = form.stage_sensitivity_transpose
    _backwards(form.layout, code, table, source, carry, changes, start, stop, chunk)


@kernel
def _lead(layout, room, end, rows):  # type: ignore[no-untyped-def]
    """States (rows, H) serve as the registers of the old state, or (`end` is 1) the new, but for those with a chunk."""
    size, column = rows.itemsize, 0
    for part in range(layout.parts):
        register = word(layout.states, 3 * part + end)
        if word(room.apart, register) == 0:
            set_word(room.addresses, register, address_of(rows) + column * size)
            set_word(room.strides, register, rows.shape[1])
        column += word(layout.states, 3 * part + 2)


@kernel
def _copy(one, layout, room, end, rows, back):  # type: ignore[no-untyped-def]
    """States (rows, H) into the registers of the state that do not share their memory, or (`back`) out of these."""
    size, column = size_of(one), 0
    for part in range(layout.parts):
        register, width = word(layout.states, 3 * part + end), word(layout.states, 3 * part + 2)
        if word(room.apart, register) != 0:
            for row in range(len(rows)):
                at = word(room.addresses, register) + row * word(room.strides, register) * size
                for unit in range(width):
                    if back:
                        rows[row, column + unit] = load(one, at + unit * size)
                    else:
                        store(rows[row, column + unit], at + unit * size)
        column += width


@kernel
def _forwards(layout, code, table, changes, carry, out, start, stop, chunk):  # type: ignore[no-untyped-def]
    trials, stages, one, units = stop - start, len(table.b), carry.dtype.type(1), carry.shape[2]
    total, far = len(table.h) * stages, out.nbytes > NEAR
    chunk = min(chunk, total)
    room, memory = registers(one, layout, code.n_operands, trials, chunk, code.asks)
    flat, weights = np.empty(chunk * trials * widest_variable(changes), carry.dtype), address_of(changes.table)
    dz, slopes = np.zeros((trials, units), carry.dtype), np.zeros((stages, trials, units), carry.dtype)
    sums = room_for_sums(table, 2)
    for vector in range(len(carry)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        for at in range(total):
            step, stage, place = at // stages, at % stages, at % chunk
            state_sum(sums, 0, table, step, stage, carry, vector, start, slopes, 0, dz)
            for trial in range(start, stop):
                if far and stage == 0:
                    ask_for_row(table.row[step], out, vector, trial)
                make(one, sums, 0, units)
            if place == 0:
                last = min(at + chunk, total)
                enter_chunk(one, layout, code, room, entries, weights, at, last, start, stop, address_of(flat))
            _lead(layout, room, 0, dz)
            _lead(layout, room, 1, slopes[stage])
            move_to(room, place)
            _copy(one, layout, room, 0, dz, False)
            apply(one, layout, code, room, trials, where_rows_are(vector, at, start, start, stop, 1, 0, 1, 0))
            _copy(one, layout, room, 1, slopes[stage], True)
            move_to(room, -place)
            if stage == stages - 1:
                add_stages(sums, 1, table.h[step], table.b, carry, vector, start, slopes, 0)
                leave_row(sums, 1, table.row[step], out, vector, start)
                for _ in range(trials):
                    make(one, sums, 1, units)
    keep(memory)


@kernel
def _backwards(layout, code, table, source, carry, changes, start, stop, chunk):  # type: ignore[no-untyped-def]
    trials, stages, one, units = stop - start, len(table.b), carry.dtype.type(1), carry.shape[2]
    steps, far = len(table.h), source.nbytes > NEAR
    total = steps * stages
    chunk = min(chunk, total)
    room, memory = registers(one, layout, code.n_operands, trials, chunk, code.asks)
    flat, weights = np.empty(chunk * trials * widest_variable(changes), carry.dtype), address_of(changes.table)
    kappa, mu = np.zeros((trials, units), carry.dtype), np.zeros((stages, trials, units), carry.dtype)
    sums, ones = room_for_sums(table, 2), np.ones_like(table.b)
    for vector in range(len(carry)):
        entries = entries_of(changes, vector)
        enter_units(layout, room, changes, vector)
        for at in range(total - 1, -1, -1):
            step, stage, place = at // stages, at % stages, at % chunk
            begins = stage == stages - 1
            if begins:  # with what the stages after it leave, but at the end of all steps
                later = ones if step < steps - 1 else ones[:0]
                add_stages(sums, 0, one, later, carry, vector, start, mu, 0)
                enter_row(sums, 0, table.row[step], source, vector, start)
            cotangent_sum(sums, 1, table, step, stage, carry, vector, start, mu, 0, kappa)
            for trial in range(start, stop):
                if far and stage == 0 and step > 0:
                    ask_for_row(table.row[step - 1], source, vector, trial)
                if begins:
                    make(one, sums, 0, units)
                make(one, sums, 1, units)
            _lead(layout, room, 1, kappa)
            _lead(layout, room, 0, mu[stage])
            move_to(room, place)
            _copy(one, layout, room, 1, kappa, False)
            apply(one, layout, code, room, trials, where_rows_are(vector, at, start, start, stop, 1, 0, -1, 0))
            _copy(one, layout, room, 0, mu[stage], True)
            move_to(room, -place)
            if place == 0:
                last = min(at + chunk, total)
                leave_chunk(one, layout, code, room, entries, weights, at, last, start, stop, address_of(flat))
        end_steps(one, sums, steps, ones, carry[vector : vector + 1], start, trials, mu)
    keep(memory)
