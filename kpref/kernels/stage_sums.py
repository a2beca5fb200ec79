"""Sums of rows that the stages of Runge-Kutta steps are made of, for one trial of one vector.

A row is short and read and written by several sums, one after the other; so these are made for a row at a time, which
is then in the nearest cache. Tensors are (vectors, trials, L, units), what is carried along (vectors, trials, units),
and `terms` is room for the terms of a sum: `room_for_terms`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, ask_for, set_word, store, sum_of_multiples

__all__ = [
    "StageTable", "add_row", "add_stages", "ask_for_row", "ask_for_sources", "draw", "give", "last_source", "leave_row",
    "room_for_terms", "stage_cotangent", "stage_state",
]  # fmt: skip

# Before the terms: where the sum goes, its copy, and what is added as it is.
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
def room_for_terms(table):  # type: ignore[no-untyped-def]
    """Room for the terms of any of these sums: a table of `kpref.kernels.addresses.sum_of_multiples`."""
    return np.zeros(_FIRST + 2 * max(len(table.b) + 1, table.source.shape[2]), np.int64)


@kernel
def _row_of(tensors, vector, trial, index):  # type: ignore[no-untyped-def]
    """Address of a row of a tensor."""
    _, trials, length, units = tensors.shape
    return address_of(tensors) + ((vector * trials + trial) * length + index) * units * tensors.itemsize


@kernel
def ask_for_row(index, tensors, vector, trial):  # type: ignore[no-untyped-def]
    """A row of a tensor that is due a step later, into the second cache; none where the index is negative."""
    if index >= 0:
        ask_for(_row_of(tensors, vector, trial, index), tensors.shape[3] * tensors.itemsize)


@kernel
def ask_for_sources(table, step, stage, way, last, tensors, vector, trial):  # type: ignore[no-untyped-def]
    """Rows that `draw` reads, or `give` adds to, at a stage, if they lie beyond `last`, on the way of time (1 or -1)."""
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


@kernel
def _ends(table, out, copy, plain):  # type: ignore[no-untyped-def]
    set_word(table, _OUT, out)
    set_word(table, _COPY, copy)
    set_word(table, _PLAIN, plain)


@kernel
def _term(table, index, factor, row):  # type: ignore[no-untyped-def]
    store(factor, table + 8 * (_FIRST + 2 * index))
    set_word(table, _FIRST + 2 * index + 1, row)


@kernel
def _stage_rows(stages, row):  # type: ignore[no-untyped-def]
    """Address of a row (s, rows, units) of the first stage, and bytes to that of the next."""
    _, rows, units = stages.shape
    return address_of(stages) + row * units * stages.itemsize, rows * units * stages.itemsize


@kernel
def stage_state(a, h, stage, carry, vector, trial, slopes, row, out, terms):  # type: ignore[no-untyped-def]
    """``dZ_i = dz[n] + h sum_{j<i} a_ij dk_j``, a row of `out` (rows, units)."""
    units, table, count = out.shape[1], address_of(terms), 0
    at, apart = _stage_rows(slopes, row)
    for other in range(stage):
        factor = h * a[stage, other]
        if factor != 0:
            _term(table, count, factor, at + other * apart)
            count += 1
    start = address_of(carry) + (vector * carry.shape[1] + trial) * units * out.itemsize
    _ends(table, address_of(out) + row * units * out.itemsize, 0, start)
    sum_of_multiples(h, table, count, False, units)


@kernel
def stage_cotangent(a, b, h, stage, carry, vector, trial, mu, row, out, terms):  # type: ignore[no-untyped-def]
    """``kappa_i = h b_i lambda + h sum_{j>i} a_ji mu_j``, a row of `out` (rows, units)."""
    units, table, count = out.shape[1], address_of(terms), 1
    at, apart = _stage_rows(mu, row)
    end = address_of(carry) + (vector * carry.shape[1] + trial) * units * out.itemsize
    _term(table, 0, h * b[stage], end)
    for other in range(stage + 1, len(b)):
        factor = h * a[other, stage]
        if factor != 0:
            _term(table, count, factor, at + other * apart)
            count += 1
    _ends(table, address_of(out) + row * units * out.itemsize, 0, 0)
    sum_of_multiples(h, table, count, False, units)


@kernel
def add_stages(h, factors, carry, vector, trial, stages, row, terms):  # type: ignore[no-untyped-def]
    """``carry += sum_i h factors_i stages[i]``, its terms in their order."""
    units, table = carry.shape[2], address_of(terms)
    at, apart = _stage_rows(stages, row)
    for stage in range(len(factors)):
        _term(table, stage, h * factors[stage], at + stage * apart)
    _ends(table, address_of(carry) + (vector * carry.shape[1] + trial) * units * carry.itemsize, 0, 0)
    sum_of_multiples(h, table, len(factors), True, units)


@kernel
def add_row(index, tensors, carry, vector, trial, terms):  # type: ignore[no-untyped-def]
    """What enters where a step ends on a row of the trajectory, of which it is no row where `index` is negative."""
    if index >= 0:
        units, table = carry.shape[2], address_of(terms)
        to = address_of(carry) + (vector * carry.shape[1] + trial) * units * carry.itemsize
        _ends(table, to, 0, _row_of(tensors, vector, trial, index))
        sum_of_multiples(carry.dtype.type(1), table, 0, True, units)


@kernel
def leave_row(index, carry, vector, trial, out):  # type: ignore[no-untyped-def]
    """The transpose of `add_row`: into a row that nothing was added to before."""
    if index >= 0:
        for unit in range(carry.shape[2]):
            out[vector, trial, index, unit] = carry[vector, trial, unit]


@kernel
def draw(scale, table, step, stage, tensors, vector, trial, rows, row, terms):  # type: ignore[no-untyped-def]
    """Add ``scale sum_m weight_m tensor[source_m]`` to a row of `rows` (rows, units): the forcing of a stage."""
    units, at, count = rows.shape[1], address_of(terms), 0
    for entry in range(table.source.shape[2]):
        factor = scale * table.weight[step, stage, entry]
        if factor != 0:
            _term(at, count, factor, _row_of(tensors, vector, trial, table.source[step, stage, entry]))
            count += 1
    if count > 0:
        _ends(at, address_of(rows) + row * units * rows.itemsize, 0, 0)
        sum_of_multiples(scale, at, count, True, units)


@kernel
def give(scale, table, step, stage, rows, row, tensors, vector, trial, terms):  # type: ignore[no-untyped-def]
    """The transpose of `draw`."""
    units, at = rows.shape[1], address_of(terms)
    for entry in range(table.source.shape[2]):
        factor = scale * table.weight[step, stage, entry]
        if factor != 0:
            _term(at, 0, factor, address_of(rows) + row * units * rows.itemsize)
            _ends(at, _row_of(tensors, vector, trial, table.source[step, stage, entry]), 0, 0)
            sum_of_multiples(scale, at, 1, True, units)
