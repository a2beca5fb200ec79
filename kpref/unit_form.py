"""K by units, as the program of a linearisation tells it: see `kpref.unit_factors` for what comes of it.

A *current* is a row of a trained weight, or a column of a unit's. Trained entries of one current act on the new state
through it alone, so that with G[s, g] the derivative of column s of the new state by current g, and v_g what the
trained entries of g multiply, at a point a = (time, trial) and for the entry c of current g

    F[(a, s), (g, c)] = G[s, g](a) v_g[c](a).

Columns of the state that one current reaches belong to one *unit*, and so do the currents that reach them; what K
couples is points, of any kind, of one unit. Both follow from the program, differentiated by its currents
(`kpref.derivative_blocks`): where all blocks of the new state are diagonal, their columns are the currents, their rows
the states, and their numbers G. A dense block says that a current reaches the states of many through another product
(stacked layers, a trained right factor of low rank): K then mixes units. So it does where one trained number enters two
currents: `unit_form` returns None for both, unless J is small enough to be written out.

A system in dense form is one unit of all states, whose currents are its parameters: ``G = J``, v = 1. So is any other
whose J is written out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kpref._types import Array
from kpref.derivative_blocks import Block, new_state_blocks, written_at
from kpref.linearize import DenseForm, Form, require_form, written_out
from kpref.product_form import ProductForm
from kpref.step_form import Entry, StepForm
from kpref.unit_factors import Features, Integers, Picks, UnitForm, adjacent

__all__ = ["current_derivatives", "state_units", "unit_form"]

#: Entries of J up to which it is written out where K mixes units.
_MOST_ENTRIES = 1 << 22
#: Columns of the variables that the entries of one current multiply, their factors, and which numbers of the parameter
#: vector they are.
Entered = tuple[Integers, Array, Integers]

#: Units of linearisations, for as long as somebody holds them.
_made: WeakKeyDictionary[Form, ReferenceType[UnitForm]] = WeakKeyDictionary()


def unit_form(form: Form) -> UnitForm | None:
    """K of a linearisation by units; None where it mixes those of a network too large to be one unit.

    As long as somebody holds what is returned, the same is returned again: it belongs to all, and is not written to.
    Raises TypeError if `form` is no linearisation.

    Notes
    -----
    One pass over the operations that scale; memory for ``S k N`` numbers at each point, and for what currents multiply.
    """
    form = require_form(form)
    known = _made.get(form)
    units = None if known is None else known()
    if units is None:
        units = _made_of(form)
        if units is not None:
            _made[form] = ref(units)
    return units


def _made_of(form: Form) -> UnitForm | None:
    if isinstance(form, ProductForm):
        form = written_out(form)
    if isinstance(form, DenseForm):
        return _one_unit(form.parameter_jacobian)
    found = _by_units(form)
    if found is None and form.n_steps * form.n_trials * form.n_states * form.n_parameters <= _MOST_ENTRIES:
        from kpref import kernels

        images = kernels.parameter_product(form, np.eye(form.n_parameters, dtype=form.dtype))
        return _one_unit(images.transpose(2, 1, 3, 0))
    return found


def state_units(form: StepForm) -> tuple[int, ...] | None:
    """The unit of each column of the state, counted as they come; None where K mixes units.

    A column that no trained array reaches is a unit of its own. One row of the form tells it.
    """
    found = _by_units(form.rows(slice(0, 1)))
    if found is None:
        return None
    units = np.arange(form.n_states)
    for columns in found.columns.T:
        own = columns[columns >= 0]
        units[own] = own.min(initial=form.n_states)
    return tuple(np.unique(units, return_inverse=True)[1].tolist())


def _one_unit(jacobian: Array) -> UnitForm:
    """J (R, B, H, M), written out, as one unit of all states."""
    steps, trials, states, parameters = jacobian.shape
    ones = Features(np.ones((steps * trials, 1)))
    return UnitForm(
        steps, trials, states, np.arange(states)[:, None], jacobian.astype(np.float64, copy=False)[..., None],
        ((slice(0, parameters), ones),),
    )  # fmt: skip


def _by_units(form: StepForm) -> UnitForm | None:
    picks = _picks(form)
    if picks is None:
        return None

    def channel(name: str) -> Array:
        return form.channel(name).astype(np.float64, copy=False)

    blocks = new_state_blocks(form, channel, _seeds(form, picks), dense=False)
    if not all(block.diagonal for block in blocks):
        return None
    places = _places(form, blocks)
    steps, trials = form.n_steps, form.n_trials
    columns, units, parts, slots = places
    n_units, n_slots = columns.shape[1], int(slots.max(initial=-1)) + 1
    order, groups = _groups(form, picks, units[form.n_states :], slots[form.n_states :], (n_slots, n_units))
    leading = np.broadcast_shapes((1, 1), *(block.values.shape[:2] for block in blocks if block.values is not None))
    gates = np.zeros((*leading, len(columns), n_slots, n_units))
    for block in blocks:
        rows, currents = (first + np.arange(block.rows) for first in (block.row, form.n_states + block.column))
        where = adjacent(parts[rows], order[slots[currents]], units[rows])
        gates[(..., *where)] += 1.0 if block.values is None else block.values
    return UnitForm(steps, trials, form.n_states, columns, gates, groups)


def current_derivatives(form: StepForm) -> Iterator[tuple[Array, Array]]:
    """For each row: derivative of the new state by all currents, G (B, H, k), and ``G C``, (B, H, k).

    C is the product of what the trained entries of currents multiply, by pairs of currents: diagonal, but for numbers
    that enter two currents. Of any network, units mixed or not: the block of K at a point is ``G C G^T``.
    """
    entered = _entered(form)
    columns = np.unique(np.concatenate([np.empty(0, dtype=np.intp), *(own for own, _, _ in entered.values())]))
    taken, seeds = np.zeros((len(columns), len(entered))), _seeds(form, entered)
    places = {current: np.searchsorted(columns, own) for current, (own, _, _) in entered.items()}
    for slot, (current, (_, factors, _)) in enumerate(entered.items()):
        np.add.at(taken[:, slot], places[current], np.square(factors))
    first, second = _shared(entered, list(places.values()))
    for row in range(form.n_steps):
        pool = _pool(form.rows(slice(row, row + 1)), columns)
        gates = written_at(form, row, slice(None), seeds, len(entered))
        weighted = gates * (np.square(pool) @ taken)[:, None, :]
        if len(first[0]):
            crossed = np.zeros((len(entered) ** 2, form.n_trials))
            products = pool[:, first[1]] * first[2] * pool[:, second[1]] * second[2]
            np.add.at(crossed, first[0] * len(entered) + second[0], products.T)
            weighted += gates @ crossed.T.reshape(form.n_trials, len(entered), len(entered))
        yield gates, weighted


def _shared(entered: dict[int, Entered], places: list[Integers]) -> tuple[list[Any], list[Any]]:
    """Pairs of entries of one trained number: the current's slot, the column, and the factor of each of the two."""
    own = entered.values()
    slots = np.concatenate([np.empty(0, int), *(np.full(len(place), slot) for slot, place in enumerate(places))])
    at = np.concatenate([np.empty(0, int), *places])
    factors = np.concatenate([np.empty(0), *(factors for _, factors, _ in own)])
    numbers = np.concatenate([np.empty(0, int), *(numbers for _, _, numbers in own)])
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    pairs = [np.empty((2, 0), dtype=np.intp)]
    distance = 1
    while (same := np.flatnonzero(ordered[distance:] == ordered[:-distance])).size:
        one, other = order[same], order[same + distance]
        pairs += [np.stack([one, other]), np.stack([other, one])]
        distance += 1
    both = np.concatenate(pairs, axis=1)
    return [values[both[0]] for values in (slots, at, factors)], [values[both[1]] for values in (slots, at, factors)]


def _picks(form: StepForm) -> dict[int, Picks] | None:
    """What the trained entries of each current multiply, by its column of the registers: columns of `_pool`.

    None if a trained number enters twice.
    """
    found = _entered(form)
    numbers = np.concatenate([np.empty(0, int), *(own for _, _, own in found.values())])
    if len(np.unique(numbers)) < len(numbers):
        return None
    return {current: (columns, factors) for current, (columns, factors, _) in found.items()}


def _entered(form: StepForm) -> dict[int, Entered]:
    """The same, and which numbers of the parameter vector the entries are."""
    found: dict[int, list[Entered]] = {}
    vector = form.split(np.arange(form.n_parameters)[None])
    for op in form.program.operations:
        if op.variable is None or op.name not in form.trained:
            continue
        known, first = form.known[op.variable], form.program.columns(op.out).start
        offset = known.start + (0 if known.of_state else form.states.shape[2])
        for entry in form.entries:
            if entry.weight != op.name:
                continue
            factor, numbers = _factor(form, entry), vector[entry.parameter][0, entry.part]
            numbers = numbers.T if entry.transposed else numbers
            if op.kind == "unit":
                found_in = range(entry.columns.start, entry.columns.stop)
                rows = [
                    (column, slice(column, column + 1), factor[0, [at]], numbers[0, [at]])
                    for at, column in enumerate(found_in)
                ]
            else:
                rows = [(entry.rows.start + at, entry.columns, factor[at], numbers[at]) for at in range(len(factor))]
            for row, columns, own, which in rows:
                picked = np.flatnonzero(own)
                found.setdefault(first + row, []).append((offset + columns.start + picked, own[picked], which[picked]))
    joined: dict[int, Entered] = {}
    for current, parts in sorted(found.items()):
        if sum(len(part[0]) for part in parts):
            of, by, numbered = (np.concatenate(part) for part in zip(*parts, strict=True))
            joined[current] = of, by, numbered
    return joined


def _factor(form: StepForm, entry: Entry) -> Array:
    """The factor of an entry for each element of ``weight[rows, columns]``."""
    outputs, inputs = form.weights[entry.weight][entry.rows, entry.columns].shape
    part = np.broadcast_to(entry.factor, (inputs, outputs) if entry.transposed else (outputs, inputs))
    return part.T if entry.transposed else part


def _pool(form: StepForm, columns: Integers) -> Array:
    """Columns of all variables side by side, those of the state first: (R B, columns)."""
    points, split = form.n_steps * form.n_trials, form.states.shape[2]
    states, others = form.states.reshape(points, -1), form.variables.reshape(points, -1)
    pool = np.empty((points, len(columns)))
    pool[:, columns < split] = states[:, columns[columns < split]]
    pool[:, columns >= split] = others[:, columns[columns >= split] - split]
    return pool


def _seeds(form: StepForm, currents: Collection[int]) -> dict[int, list[Block]]:
    """Ones for each current, in runs of adjacent columns of a register, numbered in the order of `currents`."""
    seeds: dict[int, list[Block]] = {}
    at, offsets = np.fromiter(currents, dtype=np.intp), form.program.offsets
    registers = np.searchsorted(offsets, at, side="right") - 1
    breaks = np.flatnonzero((np.diff(at) != 1) | (np.diff(registers) != 0)) + 1
    for run in np.split(np.arange(len(at)), breaks):
        if len(run):
            register = int(registers[run[0]])
            block = Block(int(at[run[0]] - offsets[register]), int(run[0]), len(run), len(run), True)
            seeds.setdefault(register, []).append(block)
    return seeds


def _places(form: StepForm, blocks: list[Block]) -> tuple[Integers, Integers, Integers, Integers]:
    """Columns (S, N) of the units; and of each state, then current: its unit, which state, and which current of it.

    Minus one where it is none.
    """
    states = form.n_states
    rows = np.concatenate([np.empty(0, int), *(block.row + np.arange(block.rows) for block in blocks)])
    currents = np.concatenate([np.empty(0, int), *(block.column + np.arange(block.rows) for block in blocks)])
    size = states + int(currents.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(rows)), (rows, states + currents)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    reached = np.zeros(size, dtype=bool)
    reached[rows] = reached[states + currents] = True
    units, parts, slots = np.full((3, size), -1)
    _, first, inverse = np.unique(labels[reached], return_index=True, return_inverse=True)
    units[reached] = np.argsort(np.argsort(first))[inverse]  # in the order of their first states
    parts[:states], slots[states:] = _ranks(units[:states]), _ranks(units[states:])
    columns = np.full((parts.max(initial=-1) + 1, units.max(initial=-1) + 1), -1)
    own = np.flatnonzero(reached[:states])
    columns[parts[own], units[own]] = own
    return columns, units, parts, slots


def _ranks(labels: Integers) -> Integers:
    """How many equal labels stand before each; -1 for the label -1."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - starts
    return np.where(labels < 0, -1, ranks)


def _groups(
    form: StepForm, picks: dict[int, Picks], units: Integers, slots: Integers, shape: tuple[int, int]
) -> tuple[Integers, tuple[tuple[slice, Features], ...]]:
    """Where each slot of the currents goes, so that those of the same features are adjacent; and the groups."""
    by_slot: list[dict[int, Picks]] = [{} for _ in range(shape[0])]
    for pick, unit, slot in zip(picks.values(), units, slots, strict=False):
        if slot >= 0:
            by_slot[slot][int(unit)] = pick
    groups: dict[object, list[int]] = {}
    features = {}
    for slot, own in enumerate(by_slot):
        distinct = {(columns.tobytes(), factors.tobytes()) for columns, factors in own.values()}
        key: object = distinct.pop() if len(distinct) == 1 else slot
        groups.setdefault(key, []).append(slot)
        if key not in features:
            features[key] = _features(form, own, key != slot, shape[1])
    order, found, first = np.empty(shape[0], dtype=np.intp), [], 0
    for key, members in groups.items():
        order[members] = np.arange(first, first + len(members))
        found.append((slice(first, first + len(members)), features[key]))
        first += len(members)
    return order, tuple(found)


def _features(form: StepForm, own: dict[int, Picks], shared: bool, units: int) -> Features:
    if shared:
        columns, factors = next(iter(own.values()))
        values = _pool(form, columns)
        return Features(values if (factors == 1).all() else values * factors)
    width = max(len(columns) for columns, _ in own.values())
    used, local = np.unique(np.concatenate([columns for columns, _ in own.values()]), return_inverse=True)
    picked, scales, start = np.zeros((units, width), dtype=np.intp), np.zeros((units, width)), 0
    for unit, (columns, factors) in own.items():
        picked[unit, : len(columns)] = local[start : start + len(columns)]
        scales[unit, : len(columns)] = factors
        start += len(columns)
    return Features(_pool(form, used), (picked, scales))
