"""K by units, where the program of a network keeps them apart.

An entry of a trained array enters the rows r of one or more weights; a change of it reaches those columns of the new
state that the program connects r to. Two columns of the state belong to the same *unit* if some trained entry reaches
both. K couples points (trial, time) of any kind, but no two units: in the columns of unit h it is ``F_h F_h^T Mu``,

    F_h[(a, s), (r, c)] = G[s, r](a) v[r, c](a),

with a = (row, trial), s the columns of the state of h, r the rows of trained weights that reach them, G[s, r] the
derivative of column s by the current r, and v[r, c] what the trained entries of row r multiply. One backward pass over
the pointwise operations for each s gives G for all units at once.

Products, gather and spread on the way from a trained weight to the new state join all that they touch: then there is
one unit, or few, and this form of K is of no use (`unit_blocks` returns None).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kpref.program import Operation
from kpref.step_form import Entry, StepForm

__all__ = ["UnitBlocks", "state_units", "unit_blocks"]

Array = npt.NDArray[np.float64]
#: An entry of a trained array, the row of the weight (column, of a unit's) that it is about, and the operation.
Entered = tuple[Entry, int, Operation]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class UnitBlocks:
    """The factors F_h of K.

    Attributes
    ----------
    columns : tuple of ndarray of int
        Columns of the state that belong to each unit; columns that no trained array reaches belong to none.
    gates : tuple of ndarray, shape (S_h, R B, number of rows r)
        G of each unit, rows in the order (time, trial).
    features : tuple of list of ndarray, shape (R B, columns)
        v of each unit, one for each row r; shared between units where they are the same.
    """

    columns: tuple[npt.NDArray[np.intp], ...]
    gates: tuple[Array, ...]
    features: tuple[list[Array], ...]


def unit_blocks(form: StepForm) -> UnitBlocks | None:
    """K of a form by units; None where a trained array reaches the states of more than one unit through a product.

    Notes
    -----
    S passes over the pointwise operations, and S numbers for each current of each point.
    """
    reach, rows = _reach(form)
    if reach is None:
        return None
    entered = _rows_of_entries(form)
    members = _members(form, reach, rows, entered)
    parts = max((len(columns) for columns, _ in members), default=0)
    gates = [_gates(form, [columns[s] for columns, _ in members if s < len(columns)]) for s in range(parts)]
    cache: dict[tuple[object, ...], Array] = {}
    features = []
    for _, currents in members:
        features.append([_features(form, entered[int(current)], cache) for current in currents])
    stacks = []
    for columns, currents in members:
        stacks.append(np.stack([gates[s][:, currents] for s in range(len(columns))]))
    return UnitBlocks(tuple(columns for columns, _ in members), tuple(stacks), tuple(features))


def state_units(form: StepForm) -> tuple[int, ...] | None:
    """The unit of each column of the state, counted as they come; None where `unit_blocks` gives none.

    A column that no trained array reaches is a unit of its own.
    """
    reach, rows = _reach(form)
    if reach is None:
        return None
    units = np.arange(form.n_states)
    for columns, _ in _members(form, reach, rows, _rows_of_entries(form)):
        units[columns] = columns[:1]
    return tuple(np.unique(units, return_inverse=True)[1].tolist())


def _reach(form: StepForm) -> tuple[Bools | None, Bools]:
    """Which columns of the new state each column of the registers reaches; None if one reaches them by a product.

    The second array marks columns that trained weights write to.
    """
    program = form.program
    total = int(program.offsets[-1])
    reach = np.zeros((total, program.n_states), dtype=bool)
    rows, mixed = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    column = 0
    for view in program.new:
        reach[program.columns(view), column : column + view.width] = np.eye(view.width, dtype=bool)
        column += view.width
    for op in reversed(program.operations):
        out = program.columns(op.out)
        if op.name in form.trained and op.variable is not None:
            rows[out] = True
        if op.source is None:
            continue
        source = program.columns(op.source)
        if op.kind in ("scale", "unit"):
            reach[source] |= reach[out]
            mixed[source] |= mixed[out]
        else:
            reach[source] |= reach[out].any(axis=0)
            mixed[source] = True
    return (None if (rows & mixed & reach.any(axis=1)).any() else reach), rows


def _rows_of_entries(form: StepForm) -> dict[int, list[Entered]]:
    """For each column of the registers that trained weights write to: what enters there."""
    found: dict[int, list[Entered]] = {}
    for op in form.program.operations:
        if op.variable is None or op.name not in form.trained:
            continue
        first = form.program.columns(op.out).start
        for entry in form.entries:
            if entry.weight != op.name:
                continue
            span = entry.columns if op.kind == "unit" else entry.rows
            for row in range(span.start, span.stop):
                found.setdefault(first + row, []).append((entry, row, op))
    return found


def _members(
    form: StepForm, reach: Bools, rows: Bools, entered: dict[int, list[Entered]]
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Columns of the state, and currents, of each unit."""
    currents = np.array([row for row in sorted(entered) if rows[row] and reach[row].any()], dtype=np.intp)
    states = reach.shape[1]
    links = [np.argwhere(reach[currents])]
    by_parameter: dict[tuple[str, int], int] = {}
    uses: dict[str, set[bool]] = {}
    for entry, _, op in (one for current in currents for one in entered[int(current)]):
        uses.setdefault(entry.parameter, set()).add(_by_rows(entry, op))
    shared = []
    for index, current in enumerate(currents):
        for entry, row, op in entered[int(current)]:
            place = 0 if len(uses[entry.parameter]) > 1 else _place(form, entry, row, op)
            shared.append((by_parameter.setdefault((entry.parameter, place), index), index))
    pairs = np.concatenate([[(a, len(currents) + b) for a, b in links[0]] or np.empty((0, 2), int),
                            shared or np.empty((0, 2), int)]).astype(int)  # fmt: skip
    size = len(currents) + states
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    members = []
    for label in dict.fromkeys(labels[: len(currents)].tolist()):
        own = np.flatnonzero(labels == label)
        members.append((own[own >= len(currents)] - len(currents), currents[own[own < len(currents)]]))
    return members


def _by_rows(entry: Entry, op: Operation) -> bool:
    """Whether it is a row of the trained array that enters the current, or a column."""
    return (op.kind == "product") != entry.transposed


def _place(form: StepForm, entry: Entry, row: int, op: Operation) -> int:
    """Which row, or column, of the trained array enters a current; one of length one enters them all."""
    shape = form.shapes[entry.parameter]
    if _by_rows(entry, op):
        first, length = entry.part.start, entry.part.stop - entry.part.start
    else:
        first, length = 0, math.prod(shape[1:])
    span = entry.columns if op.kind == "unit" else entry.rows
    return first + (row - span.start if length > 1 else 0)


def _gates(form: StepForm, columns: list[int]) -> Array:
    """Derivative of the given columns of the new state by all columns of the registers: (R B, total)."""
    program, points = form.program, (form.n_steps, form.n_trials)
    registers = np.zeros((*points, int(program.offsets[-1])))
    state = np.concatenate([np.arange(c.start, c.stop) for c in map(program.columns, program.new)])
    registers[:, :, state[columns]] = 1.0
    for op, to, of in program.reversed():
        if to is None or op.kind not in ("scale", "unit"):
            continue
        factor = form.channel(op.name)
        registers[:, :, program.columns(to)] += factor * registers[:, :, program.columns(of)]
    return registers.reshape(points[0] * points[1], -1)


def _features(form: StepForm, entries: list[Entered], cache: dict[tuple[object, ...], Array]) -> Array:
    """What the trained entries of one current multiply, (R B, columns)."""
    plain = all(op.kind == "product" and np.ndim(entry.factor) == 0 for entry, _, op in entries)
    key = tuple((op.name, entry.columns.start, entry.columns.stop, str(entry.factor)) for entry, _, op in entries)
    if plain and key in cache:
        return cache[key]
    blocks = []
    for entry, row, op in entries:
        values = form.variable(op.variable or "").reshape(form.n_steps * form.n_trials, -1)
        factor = np.asarray(entry.factor, dtype=float)
        if op.kind == "unit":
            columns, at = slice(row, row + 1), row - entry.columns.start
            factor = factor.reshape(-1)[at] if factor.size > 1 else factor.reshape(())
        else:
            columns, at = entry.columns, row - entry.rows.start
            if factor.ndim:
                factor = factor[:, at] if entry.transposed else factor[at]
        blocks.append(values[:, columns] * factor)
    found = np.concatenate(blocks, axis=1, dtype=np.float64)
    if plain:
        cache[key] = found
    return found
