"""The compiled interpreter of programs: all operations of a table, for a block of rows.

All registers of a block stand in one buffer, each (rows, width) with rows padded against conflicts in the cache. The
address of an operand's first row, and how far it is to the next, are computed once for all rows. Pointwise operations
are done for four rows at a time, so that what one leaves is in the nearest cache for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.compiled.compilation import inlined, kernel
from kpref.kernels.addresses import (
    address_of,
    ask_for,
    gather_row,
    set_word,
    size_of,
    spread_row,
    store,
    sum_of_products,
    word,
)
from kpref.kernels.blas import product_at, row_length
from kpref.kernels.changes import Packing, packing_of
from kpref.kernels.lowering import (
    ARENAS,
    GATHER,
    GIVE,
    NUMBERS,
    OPERAND_BYTES,
    OPERATION_BYTES,
    PRODUCT,
    SET,
    SPREAD,
    STATES,
    SUM,
    TAKE,
    TENSOR_IN,
    TENSOR_OUT,
    VARIABLES,
    Structure,
    lower,
)
from kpref.kernels.panel_products import ROW_BYTES, has_wide_vectors, passes_of
from kpref.kernels.panels import Panels, as_panels
from kpref.kernels.sparse import SPARSE, SparseColumns, is_sparse, sparse_product_at
from kpref.kernels.wanted_rows import goes_past_caches, want_rows
from kpref.kernels.wants import ask_for_rest, ask_for_share, no_wants, pieces_of, room_for_wants, spread
from kpref.program import Program
from kpref.step_form import StepForm

__all__ = [
    "Code", "CompiledProgram", "Layout", "NEAR", "ProgramArrays", "apply", "enter_tensors",
    "program_jacobian", "program_jacobian_transpose", "program_workspace", "registers", "rows_of_j", "where_rows_are",
]  # fmt: skip

# Bytes of coefficients up to which they may stay in a cache from product to product: to ask for them would take longer.
# Where products ask that costs next to nothing, and pays beyond the second cache; so do rows of tensors, few a stage.
CACHED, NEAR = 1 << 23, 1 << 20
# Rows that J is applied to at once where it stands alone, by the bytes of registers that each takes: these, what they
# ask for, that of the rows that come next, and the panel that is multiplied are to stay in the second cache together.
_ROWS_OF_J = ((1 << 13, 64), (1 << 15, 32))
_FEWEST_ROWS_OF_J = 16
# Rows that pointwise operations are done for at once, and the bytes of their states: what one leaves is to be in the
# nearest cache for the next.
_ROWS, _NEAREST = 4, 1 << 14


class Layout(NamedTuple):
    """What all ways to run a program have in common: integers, many of them addresses of tables of integers.

    Of every array that a compiled function is given the references are counted up and down, which for all of these at
    each step would take longer than the arithmetic on a few rows.
    """

    arenas: int  # address of the addresses of the arenas beside the registers; of those that belong to a call, 0
    # registers, n_registers: address of a table (n_registers, 2): entries from a row to the next, and whether each step
    # of a chunk has one
    registers: int
    n_registers: int
    # states, parts: address of a table (parts, 3): old and new register, and width, of each part of the state
    states: int
    parts: int
    # address of a table (2 w, 4): address, rows, columns and width of a panel of each weight, for the program and then
    # for its transpose
    weights: int
    # rows, trials, units, state_columns, variable_columns: rows, trials, width of the state, columns of the stored
    # states, and of the other variables
    rows: int
    trials: int
    units: int
    state_columns: int
    variable_columns: int
    rows_of_j: int  # that products with a matrix of parameters are made for at once, where J stands alone
    # far, out_of_reach: whether coefficients, and tensors, are asked for ahead of their turn: by pointwise operations,
    # as they come from memory, and by products, as they do not stay near the processor. What comes from memory leaves
    # no room for results in the caches: rows of these that begin at a line go past them, and no line is read first
    far: int
    out_of_reach: int


class Code(NamedTuple):
    """Addresses of the parts of a `kpref.kernels.lowering.Table`, and how many rows these have."""

    operations: int
    n_operations: int
    operands: int
    n_operands: int
    runs: int
    n_runs: int
    outer: int
    n_outer: int
    wanted: int
    n_wanted: int
    asks: int  # whether its products ask for what comes from memory: `kpref.kernels.panel_products`


class ProgramArrays(NamedTuple):
    """A `kpref.step_form.StepForm` in a form that the sweeps of Runge-Kutta methods take."""

    layout: Layout
    jacobian: Code
    jacobian_transpose: Code


class CompiledProgram:
    """All ways to run the program of a form, each lowered when it is first asked for.

    Several threads may ask at once; what addresses point to is kept as long as this.
    """

    def __init__(self, form: StepForm) -> None:
        numbers, variables, states = (
            np.ascontiguousarray(array, form.dtype) for array in (form.numbers, form.variables, form.states)
        )
        weights = list(form.weights.values())
        stored = [_stored(weight.astype(form.dtype, copy=False)) for weight in [w.T for w in weights] + weights]
        self._weights, self._kept = stored, list[Any]([numbers, variables, states])
        self._form = replace(form)  # a program is found by its form, and must not keep that alive
        arenas = np.zeros(ARENAS, np.int64)
        for arena, array in ((NUMBERS, numbers), (VARIABLES, variables), (STATES, states)):
            arenas[arena] = array.ctypes.data
        strides = _registers(form)
        row = int(strides[:, 0].sum()) * form.dtype.itemsize
        parts = [(old.register, new.register, old.width) for old, new in _parts(form.program)]
        self.layout = Layout(
            arenas=self._address(arenas),
            registers=self._address(strides),
            n_registers=len(form.program.widths),
            states=self._address(parts),
            parts=len(parts),
            weights=self._address([one.words for one in stored]),
            rows=form.n_steps,
            trials=form.n_trials,
            units=form.n_states,
            state_columns=states.shape[2],
            variable_columns=variables.shape[2],
            rows_of_j=rows_of_j(row),
            far=int(numbers.nbytes > CACHED),
            out_of_reach=int(numbers.nbytes > NEAR),
        )

    def enter_transposes(self, weights: Sequence[Array]) -> None:
        """Replace the weights of all that runs backwards, in the order of the form.

        Other numbers may be written to the form's own arrays.
        """
        for stored, weight in zip(self._weights[len(weights) :], weights, strict=True):
            stored.fill(weight)

    def _address(self, table: npt.ArrayLike) -> int:
        kept = np.ascontiguousarray(table, np.int64)
        self._kept.append(kept)
        return int(kept.ctypes.data)

    def _code(self, *args: Any, **kwargs: Any) -> Code:
        operations, operands, runs, outer, wanted = lower(Structure.of(self._form), *args, **kwargs)
        widths = [self._weights[row[4]].words[3] for row in operations if row[0] == PRODUCT]
        widths += [self.packing.table[row[2], 3] for row in outer]
        asks = has_wide_vectors() and ROW_BYTES // self._form.dtype.itemsize in widths
        return Code(
            self._address(operations), len(operations), self._address(operands), len(operands), self._address(runs),
            len(runs), self._address(outer), len(outer), self._address(wanted), len(wanted), int(asks),
        )  # fmt: skip

    @cached_property
    def packing(self) -> Packing:
        """Where the entries of parameter vectors go."""
        return packing_of(self._form)

    @cached_property
    def jacobian(self) -> Code:
        """``A x``, a step."""
        return self._code(False, True, False)

    @cached_property
    def jacobian_transpose(self) -> Code:
        """``A^T x``, a step."""
        return self._code(True, True, False)

    @cached_property
    def tangent(self) -> Code:
        """P, a step: from the state and a forcing to the next state."""
        return self._code(False, True, False, last=(TAKE, GIVE))

    @cached_property
    def adjoint(self) -> Code:
        """``P^T``, a step."""
        return self._code(True, True, False, last=(TAKE, GIVE))

    @cached_property
    def product(self) -> Code:
        """J, from changes of the weights."""
        return self._code(False, False, True, last=(GIVE,))

    @cached_property
    def product_transpose(self) -> Code:
        """``J^T``."""
        return self._code(True, False, True, first=(SET,))

    @cached_property
    def sensitivity(self) -> Code:
        """D, a step: from the state and changes of the weights."""
        return self._code(False, True, True, last=(GIVE,))

    @cached_property
    def sensitivity_transpose(self) -> Code:
        """``D^T``, a step."""
        return self._code(True, True, True, first=(TAKE,))

    @cached_property
    def stage_sensitivity(self) -> Code:
        """``A x + J dtheta``, a stage."""
        return self._code(False, True, True)

    @cached_property
    def stage_sensitivity_transpose(self) -> Code:
        """Its transpose."""
        return self._code(True, True, True)

    @property
    def steps(self) -> ProgramArrays:
        """What the sweeps of Runge-Kutta methods take."""
        return ProgramArrays(self.layout, self.jacobian, self.jacobian_transpose)


def _stored(matrix: Array) -> Panels | SparseColumns:
    return SparseColumns(matrix) if is_sparse(matrix) else as_panels(matrix)


def _parts(program: Program) -> Any:
    return zip(program.old, program.new, strict=True)


def rows_of_j(row_bytes: int) -> int:
    """Rows that J is applied to at once where it stands alone, by the bytes of a row's registers."""
    return next((rows for most, rows in _ROWS_OF_J if row_bytes <= most), _FEWEST_ROWS_OF_J)


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
    """Memory of a run: addresses of tables of integers, each with an entry for every register and other arena."""

    arenas: int  # how many registers and other arenas there are
    # addresses, strides: addresses of the registers and other arenas, and entries from a row to the next; zero for
    # other arenas, where an operand says what it is
    addresses: int
    strides: int
    apart: int  # bytes from a register to that of the next step of a chunk
    # pointers, by_row, by_wrap: for every operand: address of its next row, bytes from a row to the next, and how many
    # more where trials begin anew
    pointers: int
    by_row: int
    by_wrap: int
    later: int  # address of a table as these: bytes to what is asked for from memory ahead of its turn; 0 for nothing
    wants: int  # address of what products ask for in place of that; 0 where they do not


@kernel
def registers(one, layout, operands, rows, chunk, asks):  # type: ignore[no-untyped-def]
    """Room for tables of so many operands and so many rows, with the array that holds it all: see `keep`.

    `asks`: whether products ask for coefficients and tensors, where these are out of reach.
    """
    arenas, size = layout.n_registers + ARENAS, size_of(one)
    total = 0
    for register in range(layout.n_registers):
        total += _length(layout, register, rows, chunk, size)
    pieces = operands * rows * pieces_of(layout.units * size) if asks == 1 and layout.out_of_reach == 1 else 0
    wants = 3 * arenas + 4 * operands
    memory = np.empty(wants + room_for_wants(pieces) + 8 + total // 8, np.int64)
    base = address_of(memory)
    room = Room(
        arenas, base, base + 8 * arenas, base + 16 * arenas, base + 24 * arenas, base + 8 * (3 * arenas + operands),
        base + 8 * (3 * arenas + 2 * operands), base + 8 * (3 * arenas + 3 * operands),
        base + 8 * wants if pieces > 0 else 0,
    )  # fmt: skip
    if pieces > 0:
        no_wants(room.wants, pieces)
    at = -(-(base + 8 * (wants + room_for_wants(pieces))) // 64) * 64  # where a line of the cache begins
    for register in range(layout.n_registers):
        stride, chunked = word(layout.registers, 2 * register), word(layout.registers, 2 * register + 1)
        set_word(room.addresses, register, at)
        set_word(room.strides, register, stride)
        set_word(room.apart, register, chunked * rows * stride * size)
        at += _length(layout, register, rows, chunk, size)
    for arena in range(ARENAS):
        set_word(room.addresses, layout.n_registers + arena, word(layout.arenas, arena))
        set_word(room.strides, layout.n_registers + arena, 0)
        set_word(room.apart, layout.n_registers + arena, 0)
    return room, memory


@kernel
def _length(layout, register, rows, chunk, size):  # type: ignore[no-untyped-def]
    """Bytes of a register, or of one for each step of a chunk; a multiple of a line of the cache."""
    stride, chunked = word(layout.registers, 2 * register), word(layout.registers, 2 * register + 1)
    length = rows * stride * size * (chunk if chunked == 1 else 1)
    return -(-length // 64) * 64


@inlined
def where_rows_are(vector, step, trial, first, stop, by_vector, by_step, later_step, later_trial):  # type: ignore[no-untyped-def]
    """What `apply` calls `where`. To Numba constants are types of their own, and `apply` would be compiled for each."""
    of_first = np.int64(vector), np.int64(step), np.int64(trial)
    return (
        *of_first,
        np.int64(first),
        np.int64(stop),
        np.int64(by_vector),
        np.int64(by_step),
        np.int64(later_step),
        np.int64(later_trial),
    )


@kernel
def apply(one, layout, code, room, rows, where):  # type: ignore[no-untyped-def]
    """Run the operations of a table.

    `one` has the type of all entries. `where` says which row of the trajectory each row of the registers belongs to:
    vector, step and trial of the first, the trial that follows the one before `stop`, `stop`, and by how much vector
    and step grow then: rows of a block of trials are of one step, and of several vectors; those of J alone run on in
    time. Last, by how many steps, or trials, further the rows are that are asked for from memory: tensors only where it
    is steps. Where products ask they do so for rows that are steps further.
    """
    _locate(one, code, room, where)
    asking = room.wants != 0 and where[7] != 0
    if asking:
        passes, terms = _passes_and_terms(one, layout, code, rows)
        want_rows(one, layout, code, room, rows, where, passes)
        spread(room.wants, passes, terms)
    for run in range(code.n_runs):
        first, last = word(code.runs, 2 * run), word(code.runs, 2 * run + 1)
        operation = code.operations + first * OPERATION_BYTES
        if word(operation, 0) == PRODUCT:
            out = word(operation, 1)
            to, of = word(code.operands, 5 * out), word(code.operands, 5 * (out + 1))
            at = layout.weights + 32 * word(operation, 4)
            weight = word(at, 0), word(at, 1), word(at, 2), word(at, 3)
            add, source, lead = word(operation, 3) == 1, word(room.pointers, out + 1), word(room.strides, of)
            written, apart = word(room.pointers, out), word(room.strides, to)
            if weight[3] == SPARSE:
                sparse_product_at(one, add, rows, source, lead, weight, written, apart)
            else:
                product_at(one, add, rows, source, lead, weight, written, apart, room.wants)
        else:
            _pointwise(one, layout, code.operations, first, last, room, rows, where)
    if asking:
        ask_for_rest(room.wants)


@kernel
def _passes_and_terms(one, layout, code, rows):  # type: ignore[no-untyped-def]
    """Of all products, and of all sums: see `kpref.kernels.wants.spread`."""
    passes = terms = 0
    for k in range(code.n_operations):
        operation = code.operations + k * OPERATION_BYTES
        if word(operation, 0) == PRODUCT:
            at = layout.weights + 32 * word(operation, 4)
            weight = word(at, 0), word(at, 1), word(at, 2), word(at, 3)
            passes += passes_of(one, rows, weight[1], weight)
        elif word(operation, 0) == SUM:
            terms += rows * word(operation, 4)
    return passes, terms


@kernel
def _locate(one, code, room, where):  # type: ignore[no-untyped-def]
    """Addresses of all operands at the first row, and of the steps to the others."""
    vector, step, trial, first, stop, by_vector, by_step, later_step, later_trial = where
    size, numbers, states = size_of(one), room.arenas + NUMBERS - ARENAS, room.arenas + STATES - ARENAS
    tensors = room.arenas + TENSOR_IN - ARENAS, room.arenas + TENSOR_OUT - ARENAS
    for k in range(code.n_operands):
        operand = code.operands + k * OPERAND_BYTES
        arena, of_vector, of_step, of_trial = (word(operand, 0), word(operand, 2), word(operand, 3), word(operand, 4))
        if arena < 0:
            arena += room.arenas
        start = word(operand, 1) + vector * of_vector + step * of_step + trial * of_trial
        set_word(room.pointers, k, word(room.addresses, arena) + start * size)
        set_word(room.by_row, k, (word(room.strides, arena) + of_trial) * size)
        wrap = by_vector * of_vector + by_step * of_step - (stop - first) * of_trial
        set_word(room.by_wrap, k, wrap * size)
        tensor = arena == tensors[0] or arena == tensors[1]
        known = numbers <= arena and arena <= states  # and variables between
        distance = later_step * of_step + (later_trial * of_trial if known else 0)
        set_word(room.later, k, distance * size if tensor or known else 0)


@kernel
def _pointwise(one, layout, operations, begin, end, room, rows, where):  # type: ignore[no-untyped-def]
    trial, first, stop = where[2], where[3], where[4]
    most = rows if end == begin + 1 else max(1, min(_ROWS, _NEAREST // (layout.units * size_of(one))))
    for row in range(0, rows, most):
        count, now = min(most, rows - row), trial
        for k in range(begin, end):
            operation = operations + k * OPERATION_BYTES
            what, at, width = word(operation, 0), word(operation, 1), word(operation, 2)
            add, number, operands = word(operation, 3) == 1, word(operation, 4), word(operation, 5)
            now, pointers = trial, room.pointers + at * 8
            for _ in range(count):
                if what == SUM:
                    past = goes_past_caches(layout, word(pointers, 1))
                    if room.wants != 0:
                        ask_for_share(room.wants, number)
                    elif layout.far == 1:
                        _ask_for_later(pointers, room.later + at * 8, 2 if past else 1, operands, width * size_of(one))
                    sum_of_products(one, pointers, number, add, width, past)
                elif what == GATHER:
                    gather_row(one, word(pointers, 0), word(pointers, 1), width, number, add)
                elif what == SPREAD:
                    spread_row(one, word(pointers, 0), word(pointers, 1), width, number, add)
                _advance(pointers, room.by_row + at * 8, operands)
                now += 1
                if now == stop:
                    now = first
                    _advance(pointers, room.by_wrap + at * 8, operands)
        trial = now


@kernel
def _ask_for_later(pointers, later, first, operands, length):  # type: ignore[no-untyped-def]
    """Coefficients and rows of tensors that are due in some time."""
    for operand in range(first, operands):
        distance = word(later, operand)
        if distance != 0:
            ask_for(word(pointers, operand) + distance, length)


@kernel
def _advance(pointers, by, operands):  # type: ignore[no-untyped-def]
    for operand in range(operands):
        set_word(pointers, operand, word(pointers, operand) + word(by, operand))


@kernel
def enter_tensors(one, layout, room, end, tensors, out, step, start, stop):  # type: ignore[no-untyped-def]
    """A step of tensors (v, B, T, H) into `out`, and into the parts of the state, the old or (`end` is 1) the new."""
    size, column = size_of(one), 0
    for part in range(layout.parts):
        register, width = word(layout.states, 3 * part + end), word(layout.states, 3 * part + 2)
        at, stride = word(room.addresses, register), word(room.strides, register)
        for vector in range(len(tensors)):
            for trial in range(start, stop):
                for unit in range(width):
                    value = tensors[vector, trial, step, column + unit]
                    out[vector, trial, step, column + unit] = value
                    store(value, at + unit * size)
                at += stride * size
        column += width


# One step, for the sweeps of Runge-Kutta methods


def program_workspace(form, rows, like):  # type: ignore[no-untyped-def]
    """Scratch for `rows` states: one of the state size, and what a run needs."""
    operands = max(form.jacobian.n_operands, form.jacobian_transpose.n_operands)
    asks = max(form.jacobian.asks, form.jacobian_transpose.asks)
    room, memory = registers(like.dtype.type(1), form.layout, operands, rows, 1, asks)
    return np.zeros((rows, form.layout.units), like.dtype), room, memory


def program_jacobian(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    """``y = A[step] x``; x and y are no part of each other."""
    _one_step(form.layout, form.jacobian, 0, step, start, trials, 1, x, scratch, y)


def program_jacobian_transpose(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    """``y = A[step]^T x``; `x` is overwritten."""
    _one_step(form.layout, form.jacobian_transpose, 1, step, start, trials, -1, x, scratch, y)


@kernel
def _one_step(layout, code, begin, step, start, trials, ahead, x, room, y):  # type: ignore[no-untyped-def]
    """Run a table on states (rows, H) in their place: they serve as the registers of the state.

    Sweeps go on to the row of coefficients that is `ahead` of this one.
    """
    one, column = x.dtype.type(1), 0
    for part in range(layout.parts):
        of, to = word(layout.states, 3 * part + begin), word(layout.states, 3 * part + 1 - begin)
        set_word(room.addresses, of, address_of(x) + column * x.itemsize)
        set_word(room.addresses, to, address_of(y) + column * x.itemsize)
        set_word(room.strides, of, x.shape[1])
        set_word(room.strides, to, y.shape[1])
        column += word(layout.states, 3 * part + 2)
    where = where_rows_are(0, step, start, start, start + trials, 0, 0, ahead, 0)
    apply(one, layout, code, room, len(x), where)
