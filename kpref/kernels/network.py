"""The compiled forward pass: a program run with values in place of their changes, and its coefficients along the way.

Every register of a program (`kpref.program`) holds the change of some quantity. Run with the quantities themselves, its
products with weights are the same products, what multiplies a weight is what stands in the register that it is read
from, and channels that are the same everywhere scale values as they scale changes. Only where the coefficients depend
on the state do compiled functions of a unit (`kpref.models.units`) take the place of the operations: they give the
new values, and the coefficients if they are wanted; those that are inputs are coefficients of values too. So one
interpreter serves every network: steps of a map, stages of Runge-Kutta steps, and the coefficients at given states.

Rows of a block are trials of one step, or points of a trajectory one after the other; registers are laid out as in
`kpref.kernels.interpreter`, in the precision of the network: float64 for flows, that of the training for trainings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint64
from numba.extending import intrinsic

from kpref.compiled.compilation import kernel, merged, wide_vectors
from kpref.kernels.addresses import (
    address_of,
    gather_row,
    load,
    set_word,
    size_of,
    spread_row,
    store,
    sum_of_multiples,
    word,
)  # fmt: skip
from kpref.kernels.blas import product_at
from kpref.kernels.network_tables import BY_REGISTER, DRIVEN, FUNCTION, GATHER, REPEAT, SCALE, SPREAD
from kpref.models.units import FIELDS, TILE, apply_function

__all__ = ["run", "take_steps"]

_ROWS = 4  # for which operations other than products are done at once


@kernel
def _bases(net, rows):  # type: ignore[no-untyped-def]
    """First place of each register in the buffer, and the size of all."""
    bases, total = np.empty(len(net.strides), np.int64), 0
    for register in range(len(net.strides)):
        bases[register] = total
        total += rows * net.strides[register]
    return bases, total


@kernel
def _weight(weights, index):  # type: ignore[no-untyped-def]
    """A matrix as `kpref.kernels.blas.product_at` takes it."""
    table = weights.table
    at = weights.entries.ctypes.data + table[index, 0] * weights.entries.itemsize
    return at, table[index, 1], table[index, 2], table[index, 3]


@merged
def _evaluate(net, drive, point, full, until, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """Run the operations up to `until` for the points `point`, `point + 1`, ... with drives (rows, n_drive).

    What lies between two products is done for a few rows at a time, which then stay in the nearest cache. Returns
    whether coefficients and variables are finite, where they are wanted.
    """
    wide_vectors()
    rows, address, sound, k = len(drive), buffer.ctypes.data, True, 0
    operations, strides, one = net.operations, net.strides, buffer.dtype.type(1)
    size = size_of(one)
    while k < until:
        if operations[k, 0] <= DRIVEN:
            to, along = bases[operations[k, 1]] + operations[k, 2], strides[operations[k, 1]]
            add, driven = operations[k, 6] == 1, operations[k, 0] == DRIVEN
            if driven:
                x, lead = drive.ctypes.data + operations[k, 4] * size, drive.strides[0] // size
            else:
                x, lead = address + (bases[operations[k, 3]] + operations[k, 4]) * size, strides[operations[k, 3]]
            weight = _weight(net.weights, operations[k, 7])
            if not driven and _is_nothing(one, x, lead, rows, weight[1]):
                if not add:
                    _clear(buffer, to, along, rows, weight[2])
            else:
                product_at(one, add, rows, x, lead, weight, address + to * size, along, 0)
            k += 1
            continue
        last = k + 1
        while last < until and operations[last, 0] > DRIVEN:
            last += 1
        for first in range(0, rows, _ROWS):
            for j in range(k, last):
                sound &= _apply(net, j, first, min(first + _ROWS, rows), drive, point, full, aim, buffer, bases, tile)
        k = last
    if full:
        sound &= _copy_variables(net, point, rows, aim, buffer, bases)
    return sound


@kernel
def _is_nothing(one, at, lead, rows, width):  # type: ignore[no-untyped-def]
    """Whether all numbers of these rows are zero: most often the first tells. A layer that is not its turn has such."""
    for row in range(rows):
        for unit in range(width):
            if load(one, at + (row * lead + unit) * size_of(one)) != 0:
                return False
    return True


@kernel
def _clear(buffer, at, lead, rows, width):  # type: ignore[no-untyped-def]
    for row in range(rows):
        buffer[at + row * lead : at + row * lead + width] = 0


@merged
def _apply(net, k, first, last, drive, point, full, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """An operation that is no product, for some rows; whether the coefficients that it writes are finite."""
    operations, sound, what = net.operations, True, net.operations[k, 0]
    to, of = net.strides[operations[k, 1]], net.strides[operations[k, 3]]
    y, x = bases[operations[k, 1]] + operations[k, 2], bases[operations[k, 3]] + operations[k, 4]
    width, add, operand = operations[k, 5], operations[k, 6] == 1, operations[k, 7]
    if what == FUNCTION:
        sound = _apply_function(net, k, first, last, point, full, aim, buffer, bases, tile)
    elif what == SCALE:
        for row in range(first, last):
            _scale(net.constants, operand, buffer, y + row * to, x + row * of, width, add)
    elif what == BY_REGISTER:
        factor, along = bases[operand], net.strides[operand]
        for row in range(first, last):
            _scale(buffer, factor + row * along, buffer, y + row * to, x + row * of, width, add)
    elif what == REPEAT:
        start = aim.starts[operations[k, 6]] if full else 0
        for row in range(first, last):
            _repeat(drive, row, operations[k, 4], operand, buffer, y + row * to, width)
            if full:
                sound &= _write(buffer, y + row * to, aim.numbers, start + (point + row) * aim.width, width)
    elif what == GATHER or what == SPREAD:
        one = buffer.dtype.type(1)
        for row in range(first, last):
            at = address_of(buffer) + (y + row * to) * size_of(one), address_of(buffer) + (x + row * of) * size_of(one)
            if what == GATHER:
                gather_row(one, at[0], at[1], width, operand, add)
            else:
                spread_row(one, at[0], at[1], width, operand, add)
    else:
        _clear(buffer, y + first * to, to, last - first, width)
    return sound


@kernel
def _scale(factors, index, buffer, to, of, width, add):  # type: ignore[no-untyped-def]
    y, x, c = uint64(to), uint64(of), uint64(index)
    if add:
        for unit in range(uint64(width)):
            buffer[y + unit] += factors[c + unit] * buffer[x + unit]
    else:
        for unit in range(uint64(width)):
            buffer[y + unit] = factors[c + unit] * buffer[x + unit]


@kernel
def _repeat(drive, row, first, count, buffer, to, width):  # type: ignore[no-untyped-def]
    """So many columns of the drive again and again."""
    if count == 1:
        buffer[to : to + width] = drive[row, first]
    else:
        for unit in range(count):
            buffer[to + unit] = drive[row, first + unit]
        while count < width:  # twice as many each time
            more = min(count, width - count)
            _move(buffer, to, buffer, to + count, more)
            count += more


@merged
def _apply_function(net, k, start, stop, point, full, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """A function of a unit for some rows, tile by tile; whether its coefficients and variables are finite."""
    variable, channel, index = net.operations[k, 4], net.operations[k, 6], net.operations[k, 7]
    functions, views, strides, starts = net.functions, net.views, net.strides, aim.starts
    numbers, sound, lanes = aim.numbers, True, 64 // tile.itemsize
    function, units, inputs = functions[index, 0], functions[index, 1], functions[index, 2]
    outputs, channels, variables = functions[index, 3], functions[index, 4], functions[index, 5]
    constant, given = functions[index, 6], functions[index, 7]
    computed, kept = aim.variables.reshape(-1), aim.variables.shape[1]
    for row in range(start, stop):
        for first in range(0, units, TILE):
            count = min(TILE, units - first)
            for field in range(inputs):
                register = views[index, field, 0]
                at = bases[register] + views[index, field, 1] + row * strides[register] + first
                _move(buffer, at, tile, field * TILE, count)
            for field in range(given):
                _move(net.constants, constant + field * units + first, tile, (inputs + field) * TILE, count)
            # Whole vectors: what stands beyond the last unit is never read.
            apply_function(function, tile, (count + lanes - 1) // lanes * lanes, full)
            for field in range(inputs, inputs + outputs):
                register = views[index, field, 0]
                at = bases[register] + views[index, field, 1] + row * strides[register] + first
                if views[index, field, 2] == 1:
                    _add(tile, (field + given) * TILE, buffer, at, count)
                else:
                    _move(tile, (field + given) * TILE, buffer, at, count)
            if full:
                found = inputs + given + outputs
                for field in range(channels):
                    at = starts[channel + field] + (point + row) * aim.width + first
                    sound &= _write(tile, (found + field) * TILE, numbers, at, count)
                for field in range(variables):
                    at = (point + row) * kept + aim.columns[variable + field] + first
                    sound &= _write(tile, (found + channels + field) * TILE, computed, at, count)
    return sound


@kernel
def _add(source, at, out, to, count):  # type: ignore[no-untyped-def]
    x, y = uint64(at), uint64(to)
    for unit in range(uint64(count)):
        out[y + unit] += source[x + unit]


@merged
def _copy_variables(net, point, rows, aim, buffer, bases):  # type: ignore[no-untyped-def]
    """Whether they are finite."""
    copies, sound, flat = aim.copies, True, aim.variables.reshape(-1)
    for k in range(len(copies)):
        register = copies[k, 0]
        for row in range(rows):
            at = bases[register] + copies[k, 1] + row * net.strides[register]
            to = (point + row) * aim.variables.shape[1] + copies[k, 3]
            sound &= _write(buffer, at, flat, to, copies[k, 2])
    return sound


@kernel
def _move(source, at, out, to, count):  # type: ignore[no-untyped-def]
    x, y = uint64(at), uint64(to)
    for unit in range(uint64(count)):
        out[y + unit] = source[x + unit]


@intrinsic  # type: ignore[misc]
def _add_in_any_order(typingctx: Any, a: Any, b: Any) -> Any:
    """``a + b``, of which the compiler may sum several at once: for sums of zeros and NaNs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc",))

    return a(a, a), generate


@kernel
def _write(source, at, out, to, count):  # type: ignore[no-untyped-def]
    """Whether what was written is finite: a number that is not has no difference from itself that is zero."""
    x, y, differences = uint64(at), uint64(to), out.dtype.type(0)
    for unit in range(uint64(count)):
        value = out.dtype.type(source[x + unit])
        out[y + unit] = value
        differences = _add_in_any_order(differences, value - value)
    return differences == 0


@merged
def _enter(net, rows, states, at, buffer, bases):  # type: ignore[no-untyped-def]
    """States (S,), one after the other from a place of a flat array on, into the registers of the old state."""
    views, strides = net.old, net.strides
    for row in range(rows):
        for part in range(len(views)):
            register, width = views[part, 0], views[part, 1]
            _move(states, at, buffer, bases[register] + row * strides[register], width)
            at += width


@kernel
def _swap(net, rows, going, buffer, bases):  # type: ignore[no-untyped-def]
    """The new state becomes the old, and the room of the old that of the new; the old one stays in rows that stop."""
    for part in range(len(net.old)):
        old, new = net.old[part, 0], net.new[part, 0]
        for row in range(rows):
            if not going[row]:
                at, to = bases[old] + row * net.strides[old], bases[new] + row * net.strides[new]
                _move(buffer, at, buffer, to, net.old[part, 1])
        bases[old], bases[new] = bases[new], bases[old]


@kernel
def run(net, drive, lengths, trajectory, given, full, aim, start, stop):  # type: ignore[no-untyped-def]
    """Steps of a map for the trials start, ..., stop - 1: trajectory[1:] from trajectory[0], (T + 1, B, S).

    A trial stands still from its end on, where its coefficients are those of its last step, and its states zero. Drives
    are (T, B, n_drive). If the states are `given`, (T, B, S), none is written: coefficients and variables alone are.
    Returns whether the states are finite, and whether the coefficients are.
    """
    rows, trials, size = stop - start, drive.shape[1], trajectory.shape[2]
    bases, total = _bases(net, rows)
    kind = net.constants.dtype
    buffer, tile, going = np.zeros(total, kind), np.zeros(FIELDS * TILE, kind), np.ones(rows, np.bool_)
    known, sound, states, until = True, True, trajectory.reshape(-1), net.until if given else len(net.operations)
    for step in range(len(drive)):
        point = step * trials + start
        if given or step == 0:
            _enter(net, rows, states, point * size, buffer, bases)
        sound &= _evaluate(net, drive[step, start:stop], point, full, until, aim, buffer, bases, tile)
        if not given:
            for row in range(rows):
                going[row] = step + 1 < lengths[start + row]
            known &= _leave(net, rows, step, lengths[start:stop], states, (point + trials) * size, size, buffer, bases)
            _swap(net, rows, going, buffer, bases)
    return known, sound


@merged
def _leave(net, rows, step, lengths, states, at, size, buffer, bases):  # type: ignore[no-untyped-def]
    """The new states from a place of a flat array on, zeros for trials that have ended; whether they are finite."""
    views, strides, known = net.new, net.strides, True
    for row in range(rows):
        if step < lengths[row]:
            for part in range(len(views)):
                register, width = views[part, 0], views[part, 1]
                known &= _write(buffer, bases[register] + row * strides[register], states, at, width)
                at += width
        else:
            states[at : at + size] = 0
            at += size
    return known


@kernel
def take_steps(  # type: ignore[no-untyped-def]
    net, a, b, h, drive, lengths, states, given, full, aim, own, first, last, start, stop
):  # fmt: skip
    """Runge-Kutta steps first, ..., last - 1 for the trials start, ..., stop - 1: as `run`.

    States are (n + 1, B, S), drives (n * s, B, n_drive), rows ordered (step, stage). A trial stands still from its
    end on: it takes no more steps, but coefficients are those of stages from where it stands. If the states that steps
    start from are `given`, none is written: coefficients, variables and states of stages alone are. Returns whether
    they are finite.
    """
    rows, stages, sound = stop - start, len(b), True
    trials, size = states.shape[1], states.shape[2]
    bases, slots, total = _slopes(net, rows, stages)
    kind = net.constants.dtype
    buffer, tile, views = np.zeros(total, kind), np.zeros(FIELDS * TILE, kind), net.new
    terms, parts, length = np.zeros(3 + 2 * (stages + 1), np.int64), len(views), buffer.itemsize
    for step in range(first, last):
        for stage in range(stages):
            until = net.until if given and stage == stages - 1 else len(net.operations)
            sound &= _stage(
                net, a, h, step, stage, states, size, drive, full, until, aim, own, start, stop, buffer, bases, slots,
                tile, terms,
            )  # fmt: skip
        if given:
            continue
        at = address_of(states) + (step * trials + start) * size * length
        for row in range(rows):
            count = stages if step + 1 < lengths[start + row] else 0
            for part in range(parts):
                k, width = address_of(buffer) + row * net.strides[views[part, 0]] * length, views[part, 1]
                _advance(
                    h[step], address_of(b), count, at, k, address_of(slots) + 8 * part, parts,
                    at + trials * size * length, width, address_of(terms),
                )  # fmt: skip
                at += width * length
    return sound


@kernel
def _slopes(net, rows, stages):  # type: ignore[no-untyped-def]
    """As `_bases`; the new state, which is the velocity, has a place for each stage, (s, parts)."""
    bases, total = _bases(net, rows)
    slots = np.empty((stages, len(net.new)), np.int64)
    for stage in range(stages):
        for part in range(len(net.new)):
            slots[stage, part] = total
            total += rows * net.strides[net.new[part, 0]]
    return bases, slots, total


@merged
def _stage(  # type: ignore[no-untyped-def]
    net, a, h, step, stage, states, size, drive, full, until, aim, own, start, stop, buffer, bases, slots, tile, terms
):  # fmt: skip
    """``Z_i = z + h sum_{j<i} a_ij k_j`` and ``k_i = F(Z_i)``; whether coefficients and Z_i are finite."""
    trials, sound, views, strides, length = drive.shape[1], True, net.old, net.strides, buffer.itemsize
    at = address_of(states) + (step * trials + start) * size * length
    weights, parts = address_of(a) + stage * len(a) * length, len(views)
    point, kept, written = (step * len(a) + stage) * trials + start, 0, own.reshape(-1)
    for row in range(stop - start):
        for part in range(parts):
            register, new, width = views[part, 0], net.new[part, 0], views[part, 1]
            to, k = bases[register] + row * strides[register], address_of(buffer) + row * strides[new] * length
            _advance(
                h[step], weights, stage, at, k, address_of(slots) + 8 * part, parts, address_of(buffer) + to * length,
                width, address_of(terms),
            )  # fmt: skip
            if full and own.shape[2] > 0:
                sound &= _write(buffer, to, written, point * size + kept, width)
            at += width * length
            kept += width
    for part in range(len(views)):
        bases[net.new[part, 0]] = slots[stage, part]
    sound &= _evaluate(
        net, drive[step * len(a) + stage, start:stop], point, full, until, aim, buffer, bases, tile
    )  # fmt: skip
    return sound


@kernel
def _advance(h, weights, count, z, slopes, slots, parts, out, width, terms):  # type: ignore[no-untyped-def]
    """``out = z + h sum_j w_j k_j``, in this order, over the first `count` stages.

    All but numbers are addresses, as each array given would be counted up and down: of rows z and out; of the weights;
    of entries of `slopes`, which stand in every so many `parts` from `slots` on, where the k are; and of room for the
    terms of a sum, as `kpref.kernels.addresses.sum_of_multiples` takes it.
    """
    one, found = h - h + 1, 1
    set_word(terms, 0, out)
    store(one, terms + 8 * 3)
    set_word(terms, 4, z)
    for stage in range(count):
        factor = h * load(one, weights + stage * size_of(one))
        if factor != 0:
            store(factor, terms + 8 * (3 + 2 * found))
            set_word(terms, 4 + 2 * found, slopes + word(slots, stage * parts) * size_of(one))
            found += 1
    sum_of_multiples(one, terms, found, False, width)
