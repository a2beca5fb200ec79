"""Sums of rows that the stages of Runge-Kutta steps are made of, for the trials of a block, of one vector.

A *sum* is a table of integers at an address: what `kpref.kernels.addresses.sum_of_multiples` takes for one trial, and
how far everything is to the next trial. It is written down once for a stage and made trial by trial: a row is short,
and what one sum leaves is then in the nearest cache for the next.

Tensors are (vectors, trials, L, units), what is carried along (vectors, trials, units), what a stage keeps (rows,
units) with a row for each trial of the block and each vector, that of all stages (s, rows, units).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, ask_for, set_word, store, sum_of_multiples, word

__all__ = [
    "StageTable", "add_stages", "ask_for_row", "ask_for_sources", "cotangent_sum", "draw", "enter_row", "give",
    "last_source", "leave_row", "make", "room_for_sums", "state_sum",
]  # fmt: skip

# A sum: where its second half begins, in words from the first pointer; number of terms; whether it adds to what is
# there; pointers, and in the second half what is added to each for the next trial.
_HALF, _TERMS, _ADD, _POINTERS = range(4)
# Pointers: where the sum goes, a copy of it, what is added as it is, and the terms, each a number and a row.
_OUT, _COPY, _PLAIN, _FIRST = range(4)


class StageTable(NamedTuple):
    """Numbers of a run of n steps of a method with s stages, in a form that compiled code takes."""

    # a, b: the tableau
    a: Array
    b: Array
    h: Array  # (n,): step sizes
    row: Array  # (n,): row of the trajectory that the end of each step is, or -1
    # source, weight: (n, s, w): where the forcing of each stage comes from
    source: Array
    weight: Array


@kernel
def room_for_sums(table, count):  # type: ignore[no-untyped-def]
    """Room for so many sums, a row for each."""
    half = _FIRST + 2 * max(len(table.b) + 1, table.source.shape[2])
    room = np.zeros((count, _POINTERS + 2 * half), np.int64)
    room[:, _HALF] = half
    return room


@kernel
def _sum(sums, index):  # type: ignore[no-untyped-def]
    return address_of(sums) + index * sums.shape[1] * 8


@kernel
def _pointer(own, index, address, by):  # type: ignore[no-untyped-def]
    set_word(own, _POINTERS + index, address)
    set_word(own, _POINTERS + word(own, _HALF) + index, by)


@kernel
def _begin(own, out, by_out, add):  # type: ignore[no-untyped-def]
    """A sum without terms."""
    set_word(own, _TERMS, 0)
    set_word(own, _ADD, add)
    _pointer(own, _OUT, out, by_out)
    _pointer(own, _COPY, 0, 0)
    _pointer(own, _PLAIN, 0, 0)


@kernel
def _term(own, factor, row, by):  # type: ignore[no-untyped-def]
    if factor != 0:
        terms = word(own, _TERMS)
        at = _FIRST + 2 * terms
        _pointer(own, at, 0, 0)
        store(factor, own + 8 * (_POINTERS + at))
        _pointer(own, at + 1, row, by)
        set_word(own, _TERMS, terms + 1)


@kernel
def _carried(carry, vector, trial):  # type: ignore[no-untyped-def]
    """Address of a row, and bytes to that of the next trial."""
    length = carry.shape[2] * carry.itemsize
    return address_of(carry) + (vector * carry.shape[1] + trial) * length, length


@kernel
def _row(tensors, vector, trial, index):  # type: ignore[no-untyped-def]
    """As `_carried`, of a tensor."""
    _, trials, steps, units = tensors.shape
    length = units * tensors.itemsize
    return address_of(tensors) + ((vector * trials + trial) * steps + index) * length, steps * length


@kernel
def _first(rows, row):  # type: ignore[no-untyped-def]
    length = rows.shape[1] * rows.itemsize
    return address_of(rows) + row * length, length


@kernel
def state_sum(sums, index, table, step, stage, carry, vector, start, slopes, row, out):  # type: ignore[no-untyped-def]
    """``dZ_i = dz[n] + h sum_{j<i} a_ij dk_j``, rows of `out` (rows, units) from `row` on."""
    own, (to, length) = _sum(sums, index), _first(out, row)
    _begin(own, to, length, 0)
    _pointer(own, _PLAIN, *_carried(carry, vector, start))
    for other in range(stage):
        _term(own, table.h[step] * table.a[stage, other], *_first(slopes[other], row))


@kernel
def cotangent_sum(sums, index, table, step, stage, carry, vector, start, mu, row, out):  # type: ignore[no-untyped-def]
    """``kappa_i = h b_i lambda + h sum_{j>i} a_ji mu_j``, rows of `out` (rows, units) from `row` on."""
    own, (to, length) = _sum(sums, index), _first(out, row)
    _begin(own, to, length, 0)
    _term(own, table.h[step] * table.b[stage], *_carried(carry, vector, start))
    for other in range(stage + 1, len(table.b)):
        _term(own, table.h[step] * table.a[other, stage], *_first(mu[other], row))


@kernel
def add_stages(sums, index, h, factors, carry, vector, start, stages, row):  # type: ignore[no-untyped-def]
    """``carry += sum_i h factors_i stages[i]``, its terms in their order."""
    own, (to, length) = _sum(sums, index), _carried(carry, vector, start)
    _begin(own, to, length, 1)
    for stage in range(len(factors)):
        _term(own, h * factors[stage], *_first(stages[stage], row))


@kernel
def leave_row(sums, index, row, tensors, vector, start):  # type: ignore[no-untyped-def]
    """Where a step ends on a row of the trajectory, `row` not negative: a sum into what is carried leaves it there."""
    if row >= 0:
        _pointer(_sum(sums, index), _COPY, *_row(tensors, vector, start, row))


@kernel
def enter_row(sums, index, row, tensors, vector, start):  # type: ignore[no-untyped-def]
    """The transpose of `leave_row`: the sum adds what enters there."""
    if row >= 0:
        _pointer(_sum(sums, index), _PLAIN, *_row(tensors, vector, start, row))


@kernel
def draw(sums, index, scale, table, step, stage, tensors, vector, start, rows, row):  # type: ignore[no-untyped-def]
    """Add ``scale sum_m weight_m tensor[source_m]`` to `rows` (rows, units) from `row` on: the forcing of a stage."""
    own, (to, length) = _sum(sums, index), _first(rows, row)
    _begin(own, to, length, 1)
    for entry in range(table.source.shape[2]):
        factor, source = scale * table.weight[step, stage, entry], table.source[step, stage, entry]
        _term(own, factor, *_row(tensors, vector, start, source))


@kernel
def give(sums, index, scale, table, step, stage, rows, row, tensors, vector, start):  # type: ignore[no-untyped-def]
    """The transpose of `draw`: a sum for each of its terms, from `index` on; returns how many these are."""
    found = 0
    for entry in range(table.source.shape[2]):
        factor, source = scale * table.weight[step, stage, entry], table.source[step, stage, entry]
        if factor != 0:
            own, (to, length) = _sum(sums, index + found), _row(tensors, vector, start, source)
            _begin(own, to, length, 1)
            _term(own, factor, *_first(rows, row))
            found += 1
    return found


@kernel
def make(one, sums, index, units):  # type: ignore[no-untyped-def]
    """Make a sum for a trial, and move on to the next."""
    own = _sum(sums, index)
    half, terms, add, pointers = word(own, _HALF), word(own, _TERMS), word(own, _ADD), own + 8 * _POINTERS
    if add == 0 or terms > 0 or word(pointers, _PLAIN) != 0 or word(pointers, _COPY) != 0:
        sum_of_multiples(one, pointers, terms, add == 1, units)
        for at in range(_FIRST + 2 * terms):
            set_word(pointers, at, word(pointers, at) + word(pointers, half + at))


@kernel
def ask_for_row(row, tensors, vector, trial):  # type: ignore[no-untyped-def]
    """A row of a tensor that is due a step later, into the second cache; none where it is negative."""
    if row >= 0:
        ask_for(_row(tensors, vector, trial, row)[0], tensors.shape[3] * tensors.itemsize)


@kernel
def ask_for_sources(table, step, stage, way, last, tensors, vector, trial):  # type: ignore[no-untyped-def]
    """Rows that `draw` reads, or `give` adds to, at a stage, beyond `last` on the way of time, which is 1 or -1."""
    for entry in range(table.source.shape[2] if 0 <= step < len(table.h) else 0):
        source = table.source[step, stage, entry]
        if table.weight[step, stage, entry] != 0 and (source - last) * way > 0:
            ask_for_row(source, tensors, vector, trial)


@kernel
def last_source(table, step, stage, way, last):  # type: ignore[no-untyped-def]
    """The last row on that way that has been asked for then."""
    for entry in range(table.source.shape[2] if 0 <= step < len(table.h) else 0):
        source = table.source[step, stage, entry]
        if table.weight[step, stage, entry] != 0 and (source - last) * way > 0:
            last = source
    return last
