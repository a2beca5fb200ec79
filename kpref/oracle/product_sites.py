"""Where a network shows one matrix product alone: its operands known, its results seen.

A *site* is a product ``W r`` of the program (`kpref.program`) whose results the next state shows, through no other
product. Everything else is zero, or takes the numbers to it as they are: weights on the way to r are identities, and
trained factors there ones. What each *operand* r_k follows from is its *carrier*: a number of the old state, which each
trial has for itself, or where no state reaches r, as in state-space networks, a constant that inputs bring. Both are
found by trying, as is which number of the new state shows which row.

Where the old state is seen in the new one beside the current, through a leak, say, only rows are asked of units whose
own states are zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.oracle.profile_problems import SATURATED, Layout
from kpref.program import Operation, Program
from kpref.step_form import Entry

__all__ = ["TERMS", "Position", "Site", "find_site", "site_with_sum", "sums_terms"]

#: Carriers whose operands may be a power of two: where the way there is linear, at saturation, and far beyond it.
_WHOLE = (1.0, SATURATED, 2.0**14)
#: Operands that a sum needs: two that cancel and one that is lost between them.
TERMS = 3
#: Halvings of an interval, until its ends are neighbours.
_HALVINGS = 64

#: Part of a result that is seen, at least.
_VISIBLE = 1e-6
#: What saturated gates leave is less.
_NOTHING = 1e-12

#: Entry of a parameter.
Position = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Site:
    """A product whose weights may be chosen, whose operands have known values, and whose results are seen.

    Attributes
    ----------
    parameters : mapping of str to ndarray
        Of the network around it, W and the carriers that are constants zero.
    whole : float
        A power of two that all operands can be.
    linear : bool
        Whether operands are their carriers times a power of two.
    columns : ndarray of int, shape (rows,)
        Which number of the next state shows a row.
    kept : ndarray of bool, shape (rows, width)
        Where a carrier is seen beside the results of a row.
    added : tuple or None
        For each row an entry of a parameter that is added to its result; None if there are none.
    """

    layout: Layout
    entry: Entry
    operation: Operation
    parameters: Mapping[str, Array]
    carriers: Array | tuple[Position, ...]
    wholes: Array  # carriers of whole operands
    whole: float
    linear: bool
    columns: Array
    kept: Array
    added: tuple[Position, ...] | None
    #: Carriers of operands, once known.
    known: dict[float, Array] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of W."""
        return self.entry.rows.stop - self.entry.rows.start

    @property
    def width(self) -> int:
        """Operands."""
        return self.entry.columns.stop - self.entry.columns.start

    @property
    def by_trial(self) -> bool:
        """Whether each trial has operands of its own."""
        return isinstance(self.carriers, np.ndarray)

    @property
    def shows_states(self) -> bool:
        """Whether an operand may be a little more than one, beside those that sums need."""
        return self.linear and self.width > TERMS + bool(self.kept.any())

    @property
    def scale(self) -> float:
        """Of the rows of W, so that neither these nor their products with whole operands are too large."""
        return min(1.0, 1.0 / self.whole)

    @property
    def has_rows(self) -> bool:
        """Whether rows are seen each in a number of its own, and some beside which the operands are not."""
        own = np.unique(self.columns).size == self.rows
        return own and self.width >= TERMS and len(self.sides(np.random.default_rng(0))[1]) > 0

    def sides(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """Operands that are not zero, in order, and rows in any order beside which none of their carriers is seen."""
        chosen = np.arange(self.width)
        if self.kept.any():
            size = max(TERMS + self.shows_states, self.width // 2)
            chosen = np.sort(generator.permutation(self.width)[:size])
        return chosen, generator.permutation(np.flatnonzero(~self.kept[:, chosen].any(axis=1)))

    def with_rows(self, parameters: Mapping[str, Array], rows: Array) -> dict[str, Array]:
        """Parameters with a matrix (rows, width) as W."""
        return _with_rows(self.entry, parameters, rows)

    def with_operands(self, parameters: Mapping[str, Array], operands: Array) -> tuple[dict[str, Array], Array]:
        """Parameters, and states (B, H), that give operands (B, width), in wholes; carriers of zeros are zero."""
        some = operands if self.by_trial else operands[:1]
        carriers = self.wholes * some if self.linear else self._inverted(some)
        changed, z = _carried(self.layout, parameters, self.carriers, carriers)
        return changed, np.broadcast_to(z, (len(operands), z.shape[1])).copy()

    def _inverted(self, operands: Array) -> Array:
        """Carriers of operands from zero to one whole, to the last bit; of which there are few."""
        carriers = np.zeros_like(operands)
        for operand in np.unique(operands[(operands != 0)]):
            if operand not in self.known:
                self.known[operand] = self.wholes if operand == 1 else self._inverse(operand * self.whole)
            carriers = np.where(operands == operand, self.known[operand], carriers)
        return carriers

    def _inverse(self, value: float) -> Array:
        """Carriers (width,) of operands that are all the same."""
        low, high = -np.sign(self.wholes) * SATURATED, self.wholes.copy()
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            at = _operands(self.layout, self.operation, self.entry, self.parameters, self.carriers, middle[None])
            low, high = np.where(at[0] < value, middle, low), np.where(at[0] < value, high, middle)
        return high


def find_site(layout: Layout) -> Site | None:
    """The site that shows most: operands as they are before those of functions, then whose result is seen best.

    None if no product of this network can be shown alone.
    """
    found: dict[bool, tuple[float, Site]] = {}
    for direct in (True, False):
        for site in _sites(layout, direct):
            seen = _seen(site)
            if seen > _VISIBLE and (site.linear not in found or seen > 1.01 * found[site.linear][0]):
                found[site.linear] = seen, site
        if True in found:
            break
    for linear in sorted(found, reverse=True):
        if (site := _completed(found[linear][1])).has_rows:
            return site
    return None


def site_with_sum(layout: Layout) -> Site | None:
    """Some site to whose results something is added."""
    for site in itertools.chain(_sites(layout, True), _sites(layout, False)):
        if _seen(site) > _VISIBLE and (whole := _completed(site)).added is not None and whole.has_rows:
            return whole
    return None


def _seen(site: Site) -> float:
    """How far results are seen, on average."""
    return float(np.mean(np.abs(_shown(site, np.full(site.rows, 0.5)) - _shown(site, np.zeros(site.rows)))))


def sums_terms(program: Program) -> bool:
    """Whether any product that depends on states or inputs has as many terms as a question needs."""
    return any(op.source is not None and op.source.width >= TERMS for op in program.operations if op.kind == "product")


# Ways to a product and from it


def _sites(layout: Layout, direct: bool) -> Iterator[Site]:
    """All products with known operands, and constants of the currents that inputs drive.

    `direct`: those whose operands follow from the old state through no other weight; else all others.
    """
    model, program = layout.model, layout.model.program
    for op in program.operations:
        if op.kind != "product" or op.source is None or op.source.width < TERMS or op.variable is None:
            continue
        ways = {} if direct else _ways(layout, op)
        for entry in model.entries():
            array = model.parameters[entry.parameter]
            if entry.weight != op.name or array.ndim != 2 or not _is_one(entry.factor):
                continue
            base = _with_rows(entry, layout.zeros() | ways, None)
            if direct or ways:
                yield from _sites_of_states(layout, op, entry, base)
            if not direct:
                yield from _sites_of_constants(layout, op, entry, base)


def _is_one(factor: Any) -> bool:
    return np.ndim(factor) == 0 and abs(factor) == 1


def _ways(layout: Layout, op: Operation) -> dict[str, Array]:
    """Parameters between states or inputs and a product: weights as identities, trained factors as ones."""
    found: dict[str, Array] = {}
    for other in _before(layout.model.program, op):
        for entry in layout.model.entries() if other.kind in ("product", "unit") else ():
            value = layout.model.parameters[entry.parameter]
            if entry.weight != other.name or np.ndim(entry.factor):
                continue
            if other.kind == "unit" and value.ndim == 1:
                found[entry.parameter] = np.ones_like(value)
            elif other.kind == "product" and other.source is not None and value.ndim == 2:
                # One over a factor such as 1 / H is a whole number, and is to be one.
                identity = np.round(1 / entry.factor, 9) * np.eye(*value[entry.part].shape)
                found.setdefault(entry.parameter, np.zeros_like(value))[entry.part] = identity
    return found


def _before(program: Program, op: Operation) -> list[Operation]:
    """Operations that write what an operation reads, and so on backwards."""
    reached, found = np.zeros(program.offsets[-1], dtype=bool), []
    if op.source is not None:
        reached[program.columns(op.source)] = True
    for other in reversed(program.operations[: program.operations.index(op)]):
        if reached[program.columns(other.out)].any():
            found.append(other)
            if other.source is not None:
                reached[program.columns(other.source)] = True
    return found


def _sites_of_states(layout: Layout, op: Operation, entry: Entry, base: dict[str, Array]) -> Iterator[Site]:
    """Sites whose operands follow from the old state, under each choice of constants."""
    states = layout.model.n_states
    at = _operands(layout, op, entry, base, np.arange(states), np.vstack([np.zeros(states), np.eye(states)]))
    changes = np.abs(at[1:] - at[0])
    carriers = np.argmax(changes, axis=0)
    if np.unique(carriers).size < carriers.size or not changes.max(axis=0).all():
        return
    for constants in layout.patterns((0.0, -SATURATED, SATURATED)):
        parameters = {name: value.copy() for name, value in base.items()}
        for driven, value in zip(layout.driven, constants, strict=True):
            parameters[driven.parameter][driven.rows, driven.columns.start] = value
        yield from _site(layout, op, entry, parameters, carriers)


def _sites_of_constants(layout: Layout, op: Operation, entry: Entry, base: dict[str, Array]) -> Iterator[Site]:
    """Sites whose operands follow from constants: from biases of what inputs drive, or the first input."""
    width = entry.columns.stop - entry.columns.start
    for block in layout.driven:
        if block.rows.stop - block.rows.start != width:
            continue
        name, rows = block.bias or (block.parameter, block.rows)
        column = () if block.bias else (block.columns.start,)
        yield from _site(layout, op, entry, base, tuple((name, (row, *column)) for row in range(rows.start, rows.stop)))


def _site(
    layout: Layout, op: Operation, entry: Entry, parameters: dict[str, Array], carriers: Array | tuple[Position, ...]
) -> Iterator[Site]:
    """The site of these carriers, if they carry operands one by one and these can all be the same power of two."""

    def at(values: Array) -> Array:
        return _operands(layout, op, entry, parameters, carriers, np.atleast_2d(values))

    width = entry.columns.stop - entry.columns.start
    ones = np.ones(width)
    for size in _WHOLE:
        both = np.concatenate([at(size * ones), at(-size * ones)])
        signs, whole = np.where(both[0] >= both[1], 1.0, -1.0), both.max(axis=0)
        wholes = size * signs
        if not (whole > 0).all() or np.ptp(whole) or np.frexp(whole[0])[0] != 0.5:
            continue
        twice = at(2 * wholes)[0]
        scales = np.array([1.5, 1 + 2.0**-20, 2.0**-12])
        linear = all(np.array_equal(at(scale * wholes)[0], scale * whole) for scale in scales)
        plain = linear or np.array_equal(twice, whole) or np.array_equal(twice, 2 * whole)
        some = np.arange(width) % 2 == 0
        alone = at(np.where(some, wholes, 0.0))[0]  # as of carriers that are all the same
        if plain and np.array_equal(alone, np.where(some, whole, at(0 * ones)[0])):
            rows = entry.rows.stop - entry.rows.start
            unknown = np.zeros((rows, width), dtype=bool)
            yield Site(
                layout, entry, op, parameters, carriers, wholes, float(whole[0]), linear,
                np.arange(rows), unknown, None,
            )  # fmt: skip
            return


def _operands(
    layout: Layout,
    op: Operation,
    entry: Entry,
    parameters: Mapping[str, Array],
    carriers: Array | tuple[Position, ...],
    values: Array,
) -> Array:
    """Operands (n, width) of an entry's columns where carriers have values (n, width)."""
    if isinstance(carriers, tuple) and len(values) > 1:
        rows = (_operands(layout, op, entry, parameters, carriers, values[[row]]) for row in range(len(values)))
        return np.concatenate(list(rows))
    changed, z = _carried(layout, parameters, carriers, values)
    x = np.tile(np.eye(1, layout.model.n_inputs), (len(z), 1))
    name = op.variable or ""
    model: Any = layout.model.with_parameters(changed)
    states = model.state_variables
    found = z[:, states[name]] if name in states else model.numbers(z, x).variables[name]
    return np.asarray(found[..., entry.columns])


def _carried(
    layout: Layout, parameters: Mapping[str, Array], carriers: Array | tuple[Position, ...], values: Array
) -> tuple[dict[str, Array], Array]:
    """Parameters and states where carriers have values (n, width); constants are those of the first row."""
    changed, z = dict(parameters), np.zeros((len(values), layout.model.n_states))
    if isinstance(carriers, np.ndarray):
        z[:, carriers] = values
        return changed, z
    for name in {name for name, _ in carriers}:
        changed[name] = changed[name].copy()
    for (name, place), value in zip(carriers, values[0], strict=True):
        changed[name][place] = value
    return changed, z


def _with_rows(entry: Entry, parameters: Mapping[str, Array], rows: Array | None) -> dict[str, Array]:
    """Parameters with a matrix in the place of an entry, or zeros."""
    array = parameters[entry.parameter].copy()
    part = array[entry.part]
    if rows is None:
        part[...] = 0.0
    else:
        part[...] = (rows.T if entry.transposed else rows) / entry.factor
    return {**parameters, entry.parameter: array}


# What is seen of it


def _completed(site: Site) -> Site:
    """With what is seen where, and what is seen beside and may be added."""
    beside = _after(site, site.parameters, np.eye(site.width))
    nothing = _after(site, site.parameters, np.zeros((1, site.width)))
    columns = np.argmax(np.abs(_rows_alone(site, beside)), axis=1)
    kept = np.abs(beside - nothing)[:, columns].T > _NOTHING
    return replace(site, columns=columns, kept=kept, added=_added(site))


def _rows_alone(site: Site, beside: Array) -> Array:
    """What a current of each row alone changes in the next state, (rows, H).

    `beside`: next states (width, H) of each operand alone and no currents.
    """
    found = []
    for row in range(site.rows):
        rows, other = np.zeros((site.rows, site.width)), (row + 1) % site.width  # on its diagonal W - W^T is zero
        rows[row, other] = 0.5 / site.whole
        after = _after(site, site.with_rows(site.parameters, rows), np.eye(site.width)[[other]])
        found.append(after - beside[[other]])
    return np.concatenate(found)


def _shown(site: Site, currents: Array) -> Array:
    """The next state (H,) where W makes these currents of the first operand alone."""
    rows, operands = np.zeros((site.rows, site.width)), np.zeros((1, site.width))
    rows[:, 0], operands[0, 0] = currents / site.whole, 1.0
    return _after(site, site.with_rows(site.parameters, rows), operands)[0]


def _after(site: Site, parameters: Mapping[str, Array], operands: Array) -> Array:
    """The next states (n, H) of operands (n, width); constants make one of them after the other."""
    some, found = len(operands) if site.by_trial else 1, []
    for start in range(0, len(operands), some):
        changed, z = site.with_operands(parameters, operands[start : start + some])
        x = np.tile(np.eye(1, site.layout.model.n_inputs), (len(z), 1))
        found.append(site.layout.model.with_parameters(changed).evaluate(z, x))
    return np.concatenate(found)


def _added(site: Site) -> tuple[Position, ...] | None:
    """Entries that are added to the result of each row: of a driven block, or of biases."""
    right = _shown(site, np.full(site.rows, 0.5))
    for places in _addends(site.layout, site.rows):
        parameters = {name: value.copy() for name, value in site.parameters.items()}
        for name, place in places:
            parameters[name][place] -= 2.0
        if np.allclose(_shown(replace(site, parameters=parameters), np.full(site.rows, 2.5)), right, rtol=0, atol=1e-9):
            return places
    return None


def _addends(layout: Layout, count: int) -> Iterator[tuple[Position, ...]]:
    """So many adjacent entries of what inputs drive, or of a bias, block by block."""
    driven = [(block.parameter, block.rows, (block.columns.start,)) for block in layout.driven]
    biases = [(name, slice(0, len(value)), ()) for name, value in layout.zeros().items() if value.ndim == 1]
    for name, rows, column in (*driven, *biases):
        for start in range(rows.start, rows.stop - count + 1, count):
            yield tuple((name, (row, *column)) for row in range(start, start + count))
