"""A program as tables of integers for the compiled interpreter: what runs, where, and what need not be zeroed.

For each direction there are three ways to run a program: from the state alone (A), from the parameters alone (J), and
both (D). In each, operations that nothing reaches, or that lead nowhere, are left out; the first that writes to a
column stores instead of adding, so that registers need not be set to zero before a step; those columns that are read,
or added to, before they are stored are zeroed. Adjacent scales of one register become one operation with several
blocks. All follows from the flow of data in that direction. What enters from a tensor, and leaves for one, is part of
the table: SET stores a row of the tensor in a part of the state, TAKE adds it, GIVE writes the state to the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = [
    "ADD", "CLEAR", "GATHER", "GIVE", "PRODUCT", "SCALE", "SET", "SPREAD", "STORE", "TAKE", "Table", "UNIT", "ZERO",
    "lower",
]  # fmt: skip

Array = npt.NDArray[Any]

PRODUCT, SCALE, GATHER, SPREAD, UNIT, CLEAR, SET, TAKE, GIVE = range(9)
STORE, ADD, ZERO = range(3)
_KINDS = {"product": PRODUCT, "scale": SCALE, "gather": GATHER, "spread": SPREAD}


class Table(NamedTuple):
    """One way to run a program, in a form that compiled code takes.

    Attributes
    ----------
    operations : ndarray of int, shape (m, 13)
        Kind; register and first column of `out`; of `in`; columns of a block; number of blocks; columns from a block to
        the next of `out`, and of `in`; whether to add; then, of a scale, the start and the two strides of its channel,
        of a product its weight, of a unit its first column among the trained units and that of its variable, of what
        moves to or from a tensor its first column there.
    runs : ndarray of int, shape (r, 2)
        Operations from, and up to, which are done together for each row: a product stands alone.
    outer : ndarray of int, shape (p, 7)
        Products of variables with changes of weights: register and first column of `out`, number of the trained weight,
        first column of the variable, whether it is of the state; and, forwards, STORE, ADD or ZERO (which only sets
        columns to zero), and how many columns.
    """

    operations: Array
    runs: Array
    outer: Array


@dataclass(frozen=True)
class _Row:
    """A row of the table `operations`."""

    kind: int
    out: View
    source: View
    width: int
    count: int = 1
    out_step: int = 0
    source_step: int = 0
    add: bool = True
    last: tuple[int, int, int] = (0, 0, 0)  # columns of the table

    def numbers(self) -> list[int]:
        return [
            self.kind, self.out.register, self.out.start, self.source.register, self.source.start, self.width,
            self.count, self.out_step, self.source_step, int(self.add), *self.last,
        ]  # fmt: skip


def lower(
    form: StepForm,
    transposed: bool,
    from_state: bool,
    from_parameters: bool,
    first: Sequence[int] = (),
    last: Sequence[int] = (),
) -> Table:
    """The table of one way to run the program of a form.

    Parameters
    ----------
    form : StepForm
    transposed : bool
    from_state : bool
        Whether the old state, or what is wanted of its cotangent, takes part.
    from_parameters : bool
        Whether changes of the weights, or the gradients by them, do.
    first : sequence of SET, TAKE
        What is done with the state that the table begins with, before it.
    last : sequence of TAKE, GIVE
        What is done with the state that it ends with, after it.
    """
    program = form.program
    active = list(_active(form, transposed, from_state, from_parameters))
    begin = program.new if transposed else program.old if from_state else ()
    written = np.zeros(program.offsets[-1], dtype=bool)
    for view in begin:
        written[program.columns(view)] = True
    rows: list[_Row] = []
    outer: list[list[int]] = []
    cleared = np.zeros_like(written)
    units = _unit_columns(form)
    for op, by_state, by_parameters in active:
        to, of = (op.source, op.out) if transposed else (op.out, op.source)
        if by_parameters and op.kind == "product":
            outer.append(_outer(form, op))
        if by_parameters and op.kind == "unit":
            variable = form.known[op.variable or ""]
            rows.append(_Row(UNIT, op.out, op.out, op.out.width, last=(units[op.name], variable.start, 0)))
        if by_state and to is not None and of is not None:
            rows += _of_state(form, op, to, of, transposed)
    rows = _merged(_with_stores(program, rows, outer, written, cleared, transposed))
    begin, end = (program.new, program.old) if transposed else (program.old, program.new)
    rows = [*_moves(begin, first), *_clears(program, cleared), *rows, *_moves(end, last)]
    table = np.array([row.numbers() for row in rows], dtype=np.int64).reshape(len(rows), 13)
    return Table(table, _runs(table), np.array(outer, dtype=np.int64).reshape(len(outer), 7))


def _active(
    form: StepForm, transposed: bool, from_state: bool, from_parameters: bool
) -> Iterator[tuple[Operation, bool, bool]]:
    """Operations in the order in which they run, with what they carry: from their source, and from parameters."""
    program, trained = form.program, set(form.trained)
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


def _outer(form: StepForm, op: Operation) -> list[int]:
    variable = form.known[op.variable or ""]
    return [
        op.out.register, op.out.start, form.trained.index(op.name), variable.start, int(variable.of_state), ADD,
        op.out.width,
    ]  # fmt: skip


def _of_state(form: StepForm, op: Operation, to: View, of: View, transposed: bool) -> list[_Row]:
    if op.kind == "scale":
        return [_scale(form, op, to, of)]
    if op.kind == "product":
        return [_Row(PRODUCT, to, of, to.width, last=(list(form.weights).index(op.name), 0, 0))]
    if op.kind == "unit":
        return [_scale(form, op, to, of)]
    kind = "gather" if (op.kind == "gather") != transposed else "spread"
    narrow = min(to.width, of.width)
    return [_Row(_KINDS[kind], to, of, narrow, count=max(to.width, of.width) // narrow)]


def _scale(form: StepForm, op: Operation, to: View, of: View) -> _Row:
    place = form.places[op.name]
    return _Row(SCALE, to, of, to.width, last=(place.start, place.row_stride, place.trial_stride))


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
        if row.kind == UNIT and transposed:  # reads a cotangent, writes to the gradient
            cleared[program.columns(row.out)] |= ~written[program.columns(row.out)]
            written[program.columns(row.out)] = True
            result.append(row)
            continue
        source = program.columns(row.source)
        if row.kind != UNIT:
            cleared[source] |= ~written[source]
            written[source] = True
        out = program.columns(row.out)
        add = bool(written[out].any())
        cleared[out] |= ~written[out] & add
        written[out] = True
        result.append(replace(row, add=add))
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
    """Scales that follow each other, and whose channels and views do, as one of several blocks."""
    merged: list[_Row] = []
    for row in rows:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.kind == row.kind == SCALE
            and last.width == row.width
            and last.last[1:] == row.last[1:]
        ):
            count, width = last.count, row.width
            out_step = row.out.start - last.out.start
            source_step = row.source.start - last.source.start
            channel_follows = row.last[0] == last.last[0] + count * width
            sums = row.out == last.out and row.source.register == last.source.register and row.add
            if channel_follows and sums and source_step == count * width and last.out_step == 0:
                merged[-1] = replace(last, count=count + 1, source_step=width)
                continue
            # In the transpose channels come in falling order: the new row goes first.
            channel_precedes = row.last[0] == last.last[0] - width
            fans = row.source == last.source and row.out.register == last.out.register and row.add == last.add
            if channel_precedes and fans and out_step == -width and last.source_step == 0:
                merged[-1] = replace(row, count=count + 1, out_step=width)
                continue
        merged.append(row)
    return merged


def _moves(views: Sequence[View], kinds: Sequence[int]) -> list[_Row]:
    """Rows that move the parts of the state from or to tensors."""
    rows = []
    for kind in kinds:
        column = 0
        for view in views:
            rows.append(_Row(kind, view, view, view.width, last=(column, 0, 0)))
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
            rows.append(_Row(CLEAR, view, view, view.width))
    return rows


def _runs(table: Array) -> Array:
    runs, at = [], 0
    while at < len(table):
        last = at + 1
        while table[at, 0] != PRODUCT and last < len(table) and table[last, 0] != PRODUCT:
            last += 1
        runs.append((at, last))
        at = last
    return np.array(runs, dtype=np.int64).reshape(len(runs), 2)


def _unit_columns(form: StepForm) -> dict[str, int]:
    """First column of each trained weight of a unit operation among all of them side by side."""
    kinds = {op.name: op.kind for op in form.program.operations}
    found, start = {}, 0
    for name in form.trained:
        if kinds[name] == "unit":
            found[name] = start
            start += form.weights[name].shape[1]
    return found
