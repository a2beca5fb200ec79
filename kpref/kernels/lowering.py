"""A program as tables of integers for the compiled interpreter: what runs, where, and what need not be zeroed.

For each direction there are three ways to run a program: from the state alone (A), from the parameters alone (J), and
both (D). In each, operations that nothing reaches, or that lead nowhere, are left out; the first that writes to a
column stores instead of adding, so that registers need not be set to zero before a step; those columns that are read,
or added to, before they are stored are zeroed. All follows from the flow of data in that direction.

What is pointwise is a *sum*, ``out = [out] + sum_j a_j * b_j + [plain]``, perhaps with a copy of the result: a scale is
one product; so is what a change of a unit's weight adds, and the gradient by it; zeroing is a sum of nothing. What
enters from a tensor, and leaves for one, is part of the table: SET stores a row of the tensor in a part of the state,
TAKE adds it, GIVE writes the state to the tensor. Sums with the same `out` become one, as late as the flow of data
allows, so that a row is read and written once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.program import Operation, Program, View
from kpref.step_form import Place, StepForm, Variable

__all__ = [
    "ADD", "ARENAS", "GATHER", "GIVE", "NUMBERS", "OPERAND_BYTES", "OPERATION_BYTES", "Operand", "PRODUCT", "SET",
    "SPREAD", "STATES", "STORE", "SUM", "Structure", "TAKE", "TENSOR_IN", "TENSOR_OUT", "Table", "UNITS",
    "VARIABLES", "WANTED_BYTES", "ZERO", "lower",
]  # fmt: skip

SUM, PRODUCT, GATHER, SPREAD = range(4)
SET, TAKE, GIVE = range(3)
STORE, ADD, ZERO = range(3)
#: Arenas beside the registers, which come first: nothing; coefficients; variables; states; the tensor that is read, and
#: that which is written; changes of unit weights.
NOTHING, NUMBERS, VARIABLES, STATES, TENSOR_IN, TENSOR_OUT, UNITS = range(7)
ARENAS = 7
#: Bytes of a row of three of the tables.
OPERATION_BYTES, OPERAND_BYTES, WANTED_BYTES = 6 * 8, 5 * 8, 7 * 8


class Table(NamedTuple):
    """One way to run a program, in a form that compiled code takes."""

    # (m, 6): kind; first operand; columns; whether to add; then, of a sum, how many products, of a product its weight,
    # of gather and spread how many columns make one; and of a sum the number of its operands
    operations: Array
    # (p, 5): arena, first entry, and how many entries on the next vector, step and trial are: out and source, but of a
    # sum out, the copy, what is added as it is, and the two factors of each product
    operands: Array
    runs: Array  # (r, 2): operations from, and up to, which are done together for a few rows: a product stands alone
    # (p, 7): products of variables with changes of weights: register and first column of `out`, number of the trained
    # weight, first column of the variable, whether it is of the state; and, forwards, STORE, ADD or ZERO (which only
    # sets columns to zero), and how many columns
    outer: Array
    # (w, 7): what sums read, or write, of coefficients, variables and tensors: arena, first entry, and how many entries
    # on the next vector, step and trial are; how many columns; and whether no product comes before
    wanted: Array


@dataclass(frozen=True)
class Operand:
    """Where rows stand: entry ``start + vector * by_vector + step * by_step + trial * by_trial`` of an arena.

    A negative arena is one of the `ARENAS`, counted from the end; others are registers, whose rows follow each other.
    """

    arena: int
    start: int = 0
    by_vector: int = 0
    by_step: int = 0
    by_trial: int = 0


_NONE = Operand(NOTHING - ARENAS)


@dataclass(frozen=True)
class _Row:
    """An operation. `out` is what it writes, `view` that as a view of registers, if it is one; `reads` are views."""

    kind: int
    out: Operand
    view: View | None
    width: int
    reads: tuple[View, ...] = ()
    add: bool = True
    factors: tuple[tuple[Operand, Operand], ...] = ()
    plain: Operand = _NONE
    copy: Operand = _NONE
    source: Operand = _NONE
    number: int = 0

    @property
    def operands(self) -> list[Operand]:
        if self.kind != SUM:
            return [self.out, self.source]
        return [self.out, self.copy, self.plain, *(one for pair in self.factors for one in pair)]


@dataclass(frozen=True)
class Structure:
    """What a table depends on: all of a form but its numbers."""

    program: Program
    trained: tuple[str, ...]  # as of the form
    weights: tuple[tuple[str, int], ...]  # name and number of columns
    channels: tuple[tuple[str, Place], ...]
    variables: tuple[tuple[str, Variable], ...]
    shape: tuple[int, int, int, int]  # rows, trials, columns of the stored states, and of the other variables

    @staticmethod
    def of(form: StepForm) -> Structure:
        """That of a form."""
        return Structure(
            form.program,
            form.trained,
            tuple((name, weight.shape[1]) for name, weight in form.weights.items()),
            tuple(form.places.items()),
            tuple(form.known.items()),
            (form.n_steps, form.n_trials, form.states.shape[2], form.variables.shape[2]),
        )


@lru_cache(maxsize=256)  # forms of one structure are many: an oracle's, with errors in their numbers, or a training's
def lower(
    structure: Structure,
    transposed: bool,
    from_state: bool,
    from_parameters: bool,
    first: tuple[int, ...] = (),
    last: tuple[int, ...] = (),
) -> Table:
    """The table of one way to run a program.

    `from_state`: whether the old state, or what is wanted of its cotangent, takes part. `from_parameters`: whether
    changes of the weights, or the gradients by them, do. `first`: what is done with the state that the table begins
    with, before it. `last`: what is done with the state that it ends with, after it.
    """
    program = structure.program
    begin = program.new if transposed else program.old if from_state else ()
    written = np.zeros(program.offsets[-1], dtype=bool)
    for view in begin:
        written[program.columns(view)] = True
    rows: list[_Row] = []
    outer: list[list[int]] = []
    cleared = np.zeros_like(written)
    units = _unit_columns(structure)
    for op, by_state, by_parameters in _active(structure, transposed, from_state, from_parameters):
        to, of = (op.source, op.out) if transposed else (op.out, op.source)
        if by_parameters and op.kind == "product":
            outer.append(_outer(structure, op))
        if by_parameters and op.kind == "unit":
            rows.append(_unit(structure, op, units[op.name], transposed))
        if by_state and to is not None and of is not None:
            rows.append(_of_state(structure, op, to, of, transposed))
    rows = _with_stores(program, rows, outer, written, cleared, transposed)
    begin, end = (program.new, program.old) if transposed else (program.old, program.new)
    rows = [*_moves(structure, begin, first), *_clears(program, cleared), *rows, *_moves(structure, end, last)]
    return _table(_merged(rows), outer)


def _table(rows: Sequence[_Row], outer: Sequence[Sequence[int]]) -> Table:
    operations: list[list[int]] = []
    operands: list[list[int]] = []
    for row in rows:
        own = row.operands
        number = len(row.factors) if row.kind == SUM else row.number
        operations.append([row.kind, len(operands), row.width, int(row.add), number, len(own)])
        operands += [[one.arena, one.start, one.by_vector, one.by_step, one.by_trial] for one in own]

    def integers(table: Sequence[Sequence[int]], columns: int) -> Array:
        return np.array(table, dtype=np.int64).reshape(len(table), columns)

    wanted = integers(_wanted(rows), 7)
    return Table(integers(operations, 6), integers(operands, 5), _runs(rows), integers(outer, 7), wanted)


def _wanted(rows: Sequence[_Row]) -> list[list[int]]:
    """Columns that vary along time, those that stand side by side as one; first those that are due last."""
    far = [arena - ARENAS for arena in (NUMBERS, VARIABLES, STATES, TENSOR_IN, TENSOR_OUT)]
    found: dict[tuple[int, ...], int] = {}
    early = 1
    for row in rows:
        early = 0 if row.kind == PRODUCT else early
        for one in row.operands[1:] if row.kind == SUM else ():
            if one.arena in far and one.by_step != 0:
                found.setdefault((one.arena, one.by_vector, one.by_step, one.by_trial, one.start, row.width), early)
    result: list[list[int]] = []
    for (arena, *strides, start, width), early in sorted(found.items(), key=lambda item: (item[1], item[0])):
        last = result[-1] if result else [0] * 7
        if [arena, *strides, early] == [last[0], *last[2:5], last[6]] and start == last[1] + last[5]:
            last[5] += width
        else:
            result.append([arena, start, *strides, width, early])
    return result


def _active(
    structure: Structure, transposed: bool, from_state: bool, from_parameters: bool
) -> Iterator[tuple[Operation, bool, bool]]:
    """Operations in the order in which they run, with what they carry: from their source, and from parameters."""
    program, trained = structure.program, set(structure.trained)
    reached = np.zeros(program.offsets[-1], dtype=bool)  # from the old state or the parameters, read forwards
    for view in program.old if from_state else ():
        reached[program.columns(view)] = True
    carried = []
    for op in program.operations:
        by_state = op.source is not None and bool(reached[program.columns(op.source)].any())
        by_parameters = from_parameters and op.variable is not None and op.name in trained
        if by_state or by_parameters:
            reached[program.columns(op.out)] = True
        carried.append((op, by_state, by_parameters))
    wanted = np.zeros_like(reached)  # for the new state
    for view in program.new:
        wanted[program.columns(view)] = True
    kept = []
    for op, by_state, by_parameters in reversed(carried):
        if (by_state or by_parameters) and wanted[program.columns(op.out)].any():
            if by_state and op.source is not None:
                wanted[program.columns(op.source)] = True
            kept.append((op, by_state, by_parameters))
    return iter(kept if transposed else kept[::-1])


def _outer(structure: Structure, op: Operation) -> list[int]:
    variable = dict(structure.variables)[op.variable or ""]
    return [
        op.out.register, op.out.start, structure.trained.index(op.name), variable.start, int(variable.of_state), ADD,
        op.out.width,
    ]  # fmt: skip


def _in_register(view: View) -> Operand:
    return Operand(view.register, view.start)


def _unit(structure: Structure, op: Operation, column: int, transposed: bool) -> _Row:
    """``out += dw * m``, or the gradient ``dw += out * m``."""
    variable, trials = dict(structure.variables)[op.variable or ""], structure.shape[1]
    width = structure.shape[2 if variable.of_state else 3]
    arena = (STATES if variable.of_state else VARIABLES) - ARENAS
    m, w = Operand(arena, variable.start, 0, trials * width, width), Operand(UNITS - ARENAS, column)
    out = _in_register(op.out)
    if transposed:
        return _Row(SUM, w, None, op.out.width, reads=(op.out,), factors=((m, out),))
    return _Row(SUM, out, op.out, op.out.width, factors=((m, w),))


def _of_state(structure: Structure, op: Operation, to: View, of: View, transposed: bool) -> _Row:
    out, source = _in_register(to), _in_register(of)
    if op.kind in ("scale", "unit"):
        place = dict(structure.channels)[op.name]
        channel = Operand(NUMBERS - ARENAS, place.start, 0, place.row_stride, place.trial_stride)
        return _Row(SUM, out, to, to.width, reads=(of,), factors=((channel, source),))
    if op.kind == "product":
        names = [name for name, _ in structure.weights]
        weight = names.index(op.name) + (len(names) if transposed else 0)
        return _Row(PRODUCT, out, to, to.width, reads=(of,), source=source, number=weight)
    kind = GATHER if (op.kind == "gather") != transposed else SPREAD
    narrow, wide = sorted([to.width, of.width])
    return _Row(kind, out, to, narrow, reads=(of,), source=source, number=wide // narrow)


def _with_stores(
    program: Program, rows: list[_Row], outer: list[list[int]], written: Array, cleared: Array, transposed: bool
) -> list[_Row]:
    """Rows whose first writes store; what has to be zeroed is marked in `cleared`.

    Forwards the products with changes of weights are made first, for many steps at once, and stand in their registers
    when the operations begin. The widest stores.
    """
    if not transposed:
        outer[:] = _outer_with_stores(program, outer, written)
    result = []
    for row in rows:
        for view in row.reads:
            cleared[program.columns(view)] |= ~written[program.columns(view)]
            written[program.columns(view)] = True
        if row.view is not None:
            out = program.columns(row.view)
            add = bool(written[out].any())
            cleared[out] |= ~written[out] & add
            written[out] = True
            row = replace(row, add=add)
        result.append(row)
    ends = list(program.old if transposed else program.new)
    if transposed:
        ends += [View(register, start, width) for register, start, *_, width in outer]
    for view in ends:  # what nothing reaches is zero
        cleared[program.columns(view)] |= ~written[program.columns(view)]
    return result


def _outer_with_stores(program: Program, outer: list[list[int]], written: Array) -> list[list[int]]:
    """Products of variables, the widest first; before one that adds to columns of which some are new, their zeroing."""
    result = []
    for product in sorted(outer, key=lambda product: -product[6]):
        register, start, *_, width = product
        columns = program.columns(View(register, start, width))
        old, new = np.flatnonzero(written[columns]), np.flatnonzero(~written[columns])
        if len(old) and len(new):
            result += [[register, start + int(column), 0, 0, 0, ZERO, 1] for column in new]
        result.append([*product[:5], ADD if len(old) else STORE, width])
        written[columns] = True
    return result


def _merged(rows: Sequence[_Row]) -> list[_Row]:
    """Sums with the same `out` as one, in the place of the last; a product goes before the sum that it adds to."""
    merged: list[_Row] = []
    for row in rows:
        at = _last_sum(merged, row)
        if at is None:
            merged.append(row)
            continue
        before = merged.pop(at)
        if row.kind == PRODUCT:
            merged += [replace(row, add=before.add), replace(before, add=True)]
        else:
            merged.append(
                replace(
                    row,
                    reads=before.reads + row.reads,
                    add=before.add,
                    factors=before.factors + row.factors,
                    plain=row.plain if before.plain == _NONE else before.plain,
                )
            )
    return merged


def _last_sum(rows: Sequence[_Row], row: _Row) -> int | None:
    """Where the sum stands that `row` adds to and that may be done as late as it; None if there is no such."""
    if row.view is None or not row.add or row.kind not in (SUM, PRODUCT):
        return None
    for at in range(len(rows) - 1, -1, -1):
        before, later = rows[at], rows[at + 1 :]
        if before.kind == SUM and before.view == row.view:
            read = [view for other in later for view in other.reads]
            written = [other.view for other in later if other.view is not None]
            is_free = not _overlap(row.view, read) and not any(_overlap(view, written) for view in before.reads)
            in_order = before.plain == _NONE or (not row.factors and row.plain == _NONE)
            return at if is_free and in_order and before.copy == _NONE else None
        if before.view is not None and _overlap(row.view, [before.view]):
            return None
    return None


def _overlap(one: View, others: Sequence[View]) -> bool:
    return any(
        one.register == other.register and one.start < other.start + other.width and other.start < one.start + one.width
        for other in others
    )


def _moves(structure: Structure, views: Sequence[View], kinds: Sequence[int]) -> list[_Row]:
    """Rows that move the parts of the state from or to tensors (v, B, T, H)."""
    rows, units, (steps, trials, *_) = [], structure.program.n_states, structure.shape
    strides = (trials * steps * units, units, steps * units)
    for kind in kinds:
        column = 0
        for view in views:
            tensor = Operand((TENSOR_OUT if kind == GIVE else TENSOR_IN) - ARENAS, column, *strides)
            row = _Row(SUM, _in_register(view), view, view.width, add=kind != SET)
            rows.append(replace(row, copy=tensor) if kind == GIVE else replace(row, plain=tensor))
            column += view.width
    return rows


def _clears(program: Program, cleared: Array) -> list[_Row]:
    """Rows that set runs of columns to zero."""
    rows = []
    for register, width in enumerate(program.widths):
        first = int(program.offsets[register])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cleared[first : first + width], [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            view = View(register, int(start), int(stop - start))
            rows.append(_Row(SUM, _in_register(view), view, view.width, add=False))
    return rows


def _runs(rows: Sequence[_Row]) -> Array:
    runs, at = [], 0
    while at < len(rows):
        last = at + 1
        while rows[at].kind != PRODUCT and last < len(rows) and rows[last].kind != PRODUCT:
            last += 1
        runs.append((at, last))
        at = last
    return np.array(runs, dtype=np.int64).reshape(len(runs), 2)


def _unit_columns(structure: Structure) -> dict[str, int]:
    """First column of each trained weight of a unit operation among all of them side by side."""
    kinds, columns = {op.name: op.kind for op in structure.program.operations}, dict(structure.weights)
    found, start = {}, 0
    for name in structure.trained:
        if kinds[name] == "unit":
            found[name] = start
            start += columns[name]
    return found
