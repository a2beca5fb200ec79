"""Gram matrices ``F_u^T F_u`` of the factors of K, those of many units in one go.

With the features v that all units share, the block of two currents g and h of unit u is

    (F_u^T F_u)[(g, i), (h, j)] = sum_a c[g, h, u](a) v_i(a) v_j(a),      c[g, h, u] = sum_s G[s, g, u] G[s, h, u].

The products ``v_i v_j`` are the same for all units and currents, and for (i, j) and (j, i): formed once, they meet all
c in one matrix product. For k currents that multiply the same n features this takes ``k (k + 1) n (n + 1) / 2``
multiplications a point and unit; ``F_u^T F_u`` by itself has ``(k n)^2`` of them, half of which a symmetric product
saves, and F_u has to be written out first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.memory import require_memory
from kpref.threads import even_blocks, get_num_threads, run_blocks
from kpref.unit_factors import UnitForm

__all__ = ["grams_of_units"]

Integers = npt.NDArray[np.intp]

#: Entries of the products ``v_i v_j`` that a task forms: so many that what they are multiplied by, which each task goes
#: through anew, counts for little.
_TASK_ENTRIES = 1 << 23
#: Entries of the sums over points of some units, and the fewest units that share the products.
_SUMS, _FEWEST = 1 << 23, 16


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all units have in common."""

    values: Array  # (C, A): the different columns of the features, one a row
    columns: tuple[Integers, ...]  # of each current
    currents: tuple[tuple[int, int], ...]  # pairs g <= h
    place: Integers  # (C, C): number of each pair of columns
    # sets of pairs of currents, and the pairs of columns (2, p) that just these need, whose numbers follow each other
    needs: tuple[tuple[slice | Integers, Integers, slice], ...]


def grams_of_units(units: UnitForm) -> Iterator[tuple[slice, Callable[[int], Array]]]:
    """Some units at a time, and a function that has ``F_u^T F_u`` of one of these, from several threads.

    Their features must be shared, `kpref.unit_factors.Features.shared`.
    """
    if not units.groups:  # nothing is trained: factors have no columns
        yield slice(0, units.n_units), lambda unit: np.zeros((0, 0))
        return
    shared = _shared(units)
    pairs = int(shared.place.max(initial=-1)) + 1
    each = max(1, len(shared.currents) * pairs)
    for part in even_blocks(units.n_units, min(units.n_units, max(_FEWEST, _SUMS // each))):
        number = part.stop - part.start
        points = shared.values.shape[1]
        tasks = get_num_threads() * min(pairs * points, _TASK_ENTRIES)
        require_memory(8.0 * (number * each + len(shared.currents) * number * points + tasks), "the Gram matrices of K")
        yield part, _assembled(shared, _sums(shared, _coefficients(units, shared, part), pairs), part.start)


def _shared(units: UnitForm) -> _Shared:
    found: dict[bytes, int] = {}
    rows: list[Array] = []
    columns: list[Integers] = []
    for part, features in units.groups:
        own = []
        for row in np.ascontiguousarray(features.values.T):
            number = found.setdefault(row.tobytes(), len(found))
            if number == len(rows):
                rows.append(row)
            own.append(number)
        columns += [np.array(own, dtype=np.intp)] * (part.stop - part.start)
    count = len(rows)
    # Those of the first currents, which often share their features, follow each other.
    currents = [(g, h) for h in range(len(columns)) for g in range(h + 1)]
    asked = np.zeros((len(currents), count, count), dtype=np.bool_)
    for index, (g, h) in enumerate(currents):
        asked[index][np.ix_(columns[g], columns[h])] = True
    asked = asked | asked.swapaxes(1, 2)
    upper = np.stack(np.triu_indices(count))
    kinds, kind = np.unique(asked[:, upper[0], upper[1]], axis=1, return_inverse=True)
    place, needs, first = np.empty((count, count), np.intp), [], 0
    for index, wanted in enumerate(kinds.T):
        ends = upper[:, kind.reshape(-1) == index]
        numbers = slice(first, first + ends.shape[1])
        place[ends[0], ends[1]] = place[ends[1], ends[0]] = np.arange(numbers.start, numbers.stop)
        first = numbers.stop
        if wanted.any():
            needs.append((_as_slice(np.flatnonzero(wanted)), ends, numbers))
    values = np.stack(rows) if rows else np.zeros((0, units.n_steps * units.n_trials))
    return _Shared(values, tuple(columns), tuple(currents), place, tuple(needs))


def _coefficients(units: UnitForm, shared: _Shared, part: slice) -> Array:
    """c for some units, (pairs of currents, units, A)."""
    given = units.gates[..., part]
    gates = np.broadcast_to(given, (units.n_steps, units.n_trials, *given.shape[2:])).transpose(3, 2, 4, 0, 1)
    own = np.ascontiguousarray(gates).reshape(*gates.shape[:3], -1)  # (k, S, units, A)
    found = np.empty((len(shared.currents), *own.shape[2:]))
    for (g, h), total in zip(shared.currents, found, strict=True):
        np.multiply(own[g, 0], own[h, 0], out=total)
        for one, other in zip(own[g, 1:], own[h, 1:], strict=True):
            total += one * other
    return found


def _sums(shared: _Shared, coefficients: Array, pairs: int) -> Array:
    """``sum_a c(a) v_i(a) v_j(a)``, (pairs of currents, units, pairs of columns), where they are needed."""
    number, points = coefficients.shape[1:]
    sums = np.zeros((len(shared.currents), number, pairs))
    width = max(1, _TASK_ENTRIES // max(1, points))
    for wanted, ends, numbers in shared.needs:
        blocks = even_blocks(ends.shape[1], width)
        factors = coefficients[wanted].reshape(-1, points)  # nearly as large as all else here: no copy

        def task(
            index: int,
            blocks: list[slice] = blocks,
            factors: Array = factors,
            ends: Integers = ends,
            wanted: slice | Integers = wanted,
            first: int = numbers.start,
        ) -> None:
            block = blocks[index]
            own = factors @ _products(shared.values, *ends[:, block]).T
            sums[wanted, :, first + block.start : first + block.stop] = own.reshape(
                -1, number, block.stop - block.start
            )

        run_blocks(task, len(blocks))
    return sums


def _as_slice(numbers: Integers) -> slice | Integers:
    """Ascending numbers as a slice where they follow each other: it needs no copy of what it takes."""
    first, stop = int(numbers[0]), int(numbers[-1]) + 1
    return slice(first, stop) if stop - first == len(numbers) else numbers


def _products(values: Array, first: Integers, second: Integers) -> Array:
    """``v_i v_j`` for pairs of rows of values, sorted by i: rows j that follow each other are not gathered."""
    found = np.empty((len(first), values.shape[1]))
    breaks = np.flatnonzero((np.diff(first) != 0) | (np.diff(second) != 1)) + 1
    for start, stop in pairwise([0, *breaks, len(first)]):
        np.multiply(values[first[start]], values[second[start] : second[start] + stop - start], out=found[start:stop])
    return found


def _assembled(shared: _Shared, sums: Array, first: int) -> Callable[[int], Array]:
    starts = np.cumsum([0, *map(len, shared.columns)])
    places = [shared.place[np.ix_(shared.columns[g], shared.columns[h])] for g, h in shared.currents]

    def gram(unit: int) -> Array:
        matrix = np.empty((starts[-1], starts[-1]))
        for (g, h), place, own in zip(shared.currents, places, sums[:, unit - first], strict=True):
            block = own[place]
            matrix[starts[g] : starts[g + 1], starts[h] : starts[h + 1]] = block
            matrix[starts[h] : starts[h + 1], starts[g] : starts[g + 1]] = block.T
        return matrix

    return gram
