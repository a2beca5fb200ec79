"""The compiled interpreter of programs: all operations of a table, for a block of rows.

All registers of a block stand in one buffer, each (rows, width) with rows padded against conflicts in the cache. The
address of an operand's first row, and how far it is to the next, are computed once for all rows. Pointwise operations
are done for four rows at a time, so that what one leaves is in the nearest cache for the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.kernels.addresses import address_of, load, size_of, store, sum_of_products
from kpref.kernels.blas import product_at, row_length
from kpref.kernels.compilation import kernel
from kpref.kernels.lowering import (
    ARENAS,
    GATHER,
    GIVE,
    NUMBERS,
    PRODUCT,
    SET,
    SPREAD,
    STATES,
    SUM,
    TAKE,
    VARIABLES,
    Structure,
    Table,
    lower,
)
from kpref.kernels.panels import as_panels
from kpref.program import Program
from kpref.step_form import StepForm

__all__ = [
    "CompiledProgram", "Layout", "ProgramArrays", "apply", "compiled_program", "enter_tensors", "program_jacobian",
    "program_jacobian_transpose", "program_workspace", "registers",
]  # fmt: skip

Array = npt.NDArray[Any]

_ROWS = 4  # that pointwise operations are done for at once


class Layout(NamedTuple):
    """What all ways to run a program have in common. Addresses, since a call with few arrays is a quick one.

    Attributes
    ----------
    arenas : ndarray of int, shape (ARENAS,)
        Addresses of the arenas beside the registers; of those that belong to a call, 0.
    registers : ndarray of int, shape (n, 2)
        Entries from a row to the next, and whether there is one register for each step of a chunk.
    states : ndarray of int, shape (p, 3)
        Old and new register, and width, of each part of the state.
    weights : ndarray of int, shape (2 w, 4)
        Address, rows, columns and width of a panel of each weight, for the program and then for its transpose.
    shape : ndarray of int, shape (5,)
        Rows, trials, width of the state, columns of the stored states, and of the other variables.
    """

    arenas: Array
    registers: Array
    states: Array
    weights: Array
    shape: Array


class ProgramArrays(NamedTuple):
    """A `kpref.step_form.StepForm` in a form that the sweeps of Runge-Kutta methods take."""

    layout: Layout
    numbers: Array
    jacobian: Table
    jacobian_transpose: Table


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """All ways to run the program of a form, and what their addresses point to."""

    layout: Layout
    jacobian: Table
    jacobian_transpose: Table
    tangent: Table
    adjoint: Table
    product: Table
    product_transpose: Table
    sensitivity: Table
    sensitivity_transpose: Table
    arrays: tuple[Array, ...]

    @property
    def steps(self) -> ProgramArrays:
        """What the sweeps of Runge-Kutta methods take."""
        return ProgramArrays(self.layout, self.arrays[0], self.jacobian, self.jacobian_transpose)


def compiled_program(form: StepForm) -> CompiledProgram:
    """All ways to run the program of a form."""
    numbers, variables, states = (
        np.ascontiguousarray(array, form.dtype) for array in (form.numbers, form.variables, form.states)
    )
    weights = list(form.weights.values())
    panels = [as_panels(np.ascontiguousarray(weight, form.dtype)) for weight in [w.T for w in weights] + weights]
    arenas = np.zeros(ARENAS, np.int64)
    for arena, array in ((NUMBERS, numbers), (VARIABLES, variables), (STATES, states)):
        arenas[arena] = array.ctypes.data
    layout = Layout(
        arenas=arenas,
        registers=_registers(form),
        states=np.array(
            [(old.register, new.register, old.width) for old, new in _parts(form.program)], np.int64
        ),
        weights=np.array(
            [(one.entries.ctypes.data, one.rows, one.columns, one.width) for one in panels], np.int64
        ).reshape(len(panels), 4),
        shape=np.array([*states.shape[:2], form.n_states, states.shape[2], variables.shape[2]], np.int64),
    )  # fmt: skip
    return CompiledProgram(
        layout,
        **_tables(Structure.of(form)),
        arrays=(numbers, variables, states, *(one.entries for one in panels)),
    )


@lru_cache(maxsize=32)  # forms of one structure are many: an oracle's, with errors in their numbers, or a training's
def _tables(structure: Structure) -> dict[str, Table]:
    """Those of a `CompiledProgram`."""
    return {
        "jacobian": lower(structure, False, True, False),
        "jacobian_transpose": lower(structure, True, True, False),
        "tangent": lower(structure, False, True, False, last=(TAKE, GIVE)),
        "adjoint": lower(structure, True, True, False, last=(TAKE, GIVE)),
        "product": lower(structure, False, False, True, last=(GIVE,)),
        "product_transpose": lower(structure, True, False, True, first=(SET,)),
        "sensitivity": lower(structure, False, True, True, last=(GIVE,)),
        "sensitivity_transpose": lower(structure, True, True, True, first=(TAKE,)),
    }


def _parts(program: Program) -> Any:
    return zip(program.old, program.new, strict=True)


def _registers(form: StepForm) -> Array:
    program, itemsize = form.program, form.dtype.itemsize
    units = max(view.width for view in program.old)
    chunked = {op.out.register for op in program.operations if op.kind == "product" and op.name in form.trained}
    return np.array(
        [
            (row_length.py_func(width, units, itemsize), register in chunked)
            for register, width in enumerate(program.widths)
        ],
        np.int64,
    )


# Compiled


class Room(NamedTuple):
    """Memory of a run.

    Attributes
    ----------
    buffer : ndarray
        All registers.
    addresses, strides : ndarray of int, shape (n + ARENAS,)
        Of registers and other arenas, the strides in entries from a row to the next; zero for other arenas, where an
        operand says what it is.
    apart : ndarray of int, shape (n + ARENAS,)
        Bytes from a register to that of the next step of a chunk.
    pointers, by_row, by_wrap : ndarray of int, shape (p,)
        Address of each operand's next row, bytes from a row to the next, and how many more where trials begin anew.
    """

    buffer: Array
    addresses: Array
    strides: Array
    apart: Array
    pointers: Array
    by_row: Array
    by_wrap: Array


@kernel
def registers(layout, operands, like, rows, chunk):  # type: ignore[no-untyped-def]
    """Memory for tables of so many operands, so many rows, and the type of the array `like`."""
    count, size = len(layout.registers), like.itemsize
    addresses, strides = np.zeros(count + ARENAS, np.int64), np.zeros(count + ARENAS, np.int64)
    apart, total = np.zeros(count + ARENAS, np.int64), 0
    for register in range(count):
        strides[register] = layout.registers[register, 0]
        addresses[register] = total
        length = rows * strides[register] * size
        if layout.registers[register, 1] == 1:
            apart[register] = length
            length *= chunk
        total += -(-length // 64) * 64
    buffer = np.empty((total + 64) // size, like.dtype)
    addresses[:count] += -(-address_of(buffer) // 64) * 64  # where a line of the cache begins
    addresses[count:] = layout.arenas
    pointers, by_row = np.empty(operands, np.int64), np.empty(operands, np.int64)
    return Room(buffer, addresses, strides, apart, pointers, by_row, np.empty(operands, np.int64))


@kernel
def apply(one, layout, table, room, rows, where):  # type: ignore[no-untyped-def]
    """Run the operations of a table.

    `one` has the type of all entries. `where` says which row of the trajectory each row of the registers belongs to:
    vector, step and trial of the first, the trial that follows the one before `stop`, `stop`, and by how much vector
    and step grow then: rows of a block of trials are of one step, and of several vectors; those of J alone run on in
    time.
    """
    _locate(one, table, room, where)
    for run in range(len(table.runs)):
        first, last = table.runs[run, 0], table.runs[run, 1]
        if table.operations[first, 0] == PRODUCT:
            out = table.operations[first, 1]
            to, of = table.operands[out, 0], table.operands[out + 1, 0]
            product_at(
                one, table.operations[first, 3] == 1, rows, room.pointers[out + 1], room.strides[of],
                layout.weights[table.operations[first, 4]], room.pointers[out], room.strides[to],
            )  # fmt: skip
        else:
            _pointwise(one, table.operations, first, last, room, rows, where)


@kernel
def _locate(one, table, room, where):  # type: ignore[no-untyped-def]
    """Addresses of all operands at the first row, and of the steps to the others."""
    vector, step, trial, first, stop, by_vector, by_step = where
    operands, size = table.operands, size_of(one)
    for k in range(len(operands)):
        arena = operands[k, 0]
        if arena < 0:
            arena += len(room.addresses)
        start = operands[k, 1] + vector * operands[k, 2] + step * operands[k, 3] + trial * operands[k, 4]
        room.pointers[k] = room.addresses[arena] + start * size
        room.by_row[k] = (room.strides[arena] + operands[k, 4]) * size
        wrap = by_vector * operands[k, 2] + by_step * operands[k, 3] - (stop - first) * operands[k, 4]
        room.by_wrap[k] = wrap * size


@kernel
def _pointwise(one, operations, begin, end, room, rows, where):  # type: ignore[no-untyped-def]
    trial, first, stop, pointers = where[2], where[3], where[4], address_of(room.pointers)
    most = rows if end == begin + 1 else _ROWS
    for row in range(0, rows, most):
        count, now = min(most, rows - row), trial
        for k in range(begin, end):
            what, at, width, add, number, operands = operations[k]
            now = trial
            for _ in range(count):
                if what == SUM:
                    sum_of_products(one, pointers + at * 8, number, add == 1, width)
                elif what == GATHER:
                    _gather(one, room.pointers[at], room.pointers[at + 1], width, number, add == 1)
                elif what == SPREAD:
                    _spread(one, room.pointers[at], room.pointers[at + 1], width, number, add == 1)
                for operand in range(at, at + operands):
                    room.pointers[operand] += room.by_row[operand]
                now += 1
                if now == stop:
                    now = first
                    for operand in range(at, at + operands):
                        room.pointers[operand] += room.by_wrap[operand]
        trial = now


@kernel
def _gather(one, out, source, width, count, add):  # type: ignore[no-untyped-def]
    size = size_of(one)
    for unit in range(width):
        total = load(one, out + unit * size) if add else one - one
        for other in range(count):
            total += load(one, source + (unit * count + other) * size)
        store(total, out + unit * size)


@kernel
def _spread(one, out, source, width, count, add):  # type: ignore[no-untyped-def]
    size = size_of(one)
    for unit in range(width):
        value = load(one, source + unit * size)
        for other in range(count):
            at = out + (unit * count + other) * size
            store(load(one, at) + value if add else value, at)


@kernel
def enter_tensors(one, layout, room, end, tensors, out, step, start, stop):  # type: ignore[no-untyped-def]
    """A step of tensors (v, B, T, H) into `out`, and into the parts of the state, the old or (`end` is 1) the new."""
    size, column = size_of(one), 0
    for part in range(len(layout.states)):
        register, width = layout.states[part, end], layout.states[part, 2]
        at = room.addresses[register]
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    value = tensors[vector, trial, step, column + unit]
                    out[vector, trial, step, column + unit] = value
                    store(value, at + unit * size)
                at += room.strides[register] * size
        column += width


# One step, for the sweeps of Runge-Kutta methods


def program_workspace(form, rows):  # type: ignore[no-untyped-def]
    """Scratch for `rows` states: one of the state size, and what a run needs."""
    operands = max(len(form.jacobian.operands), len(form.jacobian_transpose.operands))
    state = np.zeros((rows, form.layout.shape[2]), form.numbers.dtype)
    return state, registers(form.layout, operands, form.numbers, rows, 1), None


def program_jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step] x``; x and y are no part of each other."""
    _one_step(form.layout, form.jacobian, 0, step, start, trials, x, scratch, y)


def program_jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step]^T x``; `x` is overwritten."""
    _one_step(form.layout, form.jacobian_transpose, 1, step, start, trials, x, scratch, y)


@kernel
def _one_step(layout, table, begin, step, start, trials, x, room, y):  # type: ignore[no-untyped-def]
    """Run a table on states (rows, H) in their place: they serve as the registers of the state."""
    one, column = x.dtype.type(1), 0
    for part in range(len(layout.states)):
        of, to = layout.states[part, begin], layout.states[part, 1 - begin]
        room.addresses[of] = address_of(x) + column * x.itemsize
        room.addresses[to] = address_of(y) + column * x.itemsize
        room.strides[of], room.strides[to] = x.shape[1], y.shape[1]
        column += layout.states[part, 2]
    apply(one, layout, table, room, len(x), (0, step, start, start, start + trials, 0, 0))
