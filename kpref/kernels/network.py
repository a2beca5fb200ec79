"""The compiled forward pass: a program run with values in place of their changes, and its coefficients along the way.

Every register of a program (`kpref.program`) holds the change of some quantity. Run with the quantities themselves, its
products with weights are the same products, what multiplies a weight is what stands in the register that it is read
from, and channels that are the same everywhere scale values as they scale changes. Only where the coefficients depend
on the state do compiled functions of a unit (`kpref.models.units`) take the place of the operations: they give the
new values, and the coefficients if they are wanted. So one interpreter serves every network: steps of a map, stages of
Runge-Kutta steps, and the coefficients at given states.

Rows of a block are trials of one step, or points of a trajectory one after the other; registers are laid out as in
`kpref.kernels.interpreter`, in the precision of the network: float64 for flows, that of the training for trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import uint64
from numba.extending import intrinsic

from kpref._types import Array
from kpref.compiled.compilation import kernel, merged, wide_vectors
from kpref.kernels.addresses import address_of, load, set_word, size_of, store, sum_of_multiples, word
from kpref.kernels.blas import product_at, row_length
from kpref.kernels.panels import Weights, as_weights
from kpref.models.step import Pointwise
from kpref.models.units import FIELDS, FUNCTIONS, TILE, apply_function
from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = ["Network", "Target", "network", "no_target", "run", "take_steps", "target"]

_PRODUCT, _DRIVEN, _FUNCTION, _SCALE, _CLEAR = range(5)
_MOST = FIELDS  # views and channels of a function
_ROWS = 4  # for which operations other than products are done at once


class Network(NamedTuple):
    """A program with its weights and functions, in a form that compiled code takes."""

    # (m, 8): kind; register and first column that are written; register and first column that are read (of a driven
    # product, the first column of the drive); columns; whether to add, or the first coefficient of a function among
    # those of all; which weight, function, or first constant
    operations: Array
    # (f, 7): which function, its units; how many numbers go in, come out, and are coefficients; and the first constant
    # of those that stay the same, and how many these are
    functions: Array
    views: Array  # (f, FIELDS, 2): register and first column of each number that goes in or comes out
    constants: Array  # channels that are the same everywhere, and weights of units
    weights: Weights  # transposed: (inputs, outputs)
    strides: Array  # columns from row to row of each register
    # old, new: (parts, 2): register and width of each part of the state
    old: Array
    new: Array
    until: int  # operations that have been run when all coefficients and variables are known


class Target(NamedTuple):
    """Where coefficients and variables of a `StepForm` are written, at points in the order of its rows."""

    numbers: Array
    starts: Array  # place of each coefficient of each function at the first point, in order
    width: int  # how far the next point is
    variables: Array  # (points, V)
    copies: Array  # (c, 4): register, first column and width of what is a variable, and its column among them


# Lowering


def network(
    program: Program,
    functions: Sequence[Pointwise],
    constants: Mapping[str, Array],
    weights: Mapping[str, Array],
    drives: Mapping[str, Array],
    dtype: npt.DTypeLike = np.float64,
) -> Network:
    """A network of a program.

    Parameters
    ----------
    program : Program
    functions : sequence of Pointwise
        Of a unit.
    constants : mapping of str to ndarray, shape (width,)
        Channels that are the same everywhere.
    weights : mapping of str to ndarray, shape (outputs, inputs)
        Of units, (1, columns).
    drives : mapping of str to ndarray, shape (..., width)
        Variables that come from the inputs alone; they stand side by side in the drive.
    dtype : {float64, float32}
        Precision of all of it.
    """
    columns = dict(zip(drives, np.cumsum([0, *(drive.shape[-1] for drive in drives.values())]), strict=False))
    first = {function.channels[0]: index for index, function in enumerate(functions)}
    covered = {channel for function in functions for channel in (*function.channels, *function.shifted)}
    written = np.zeros(program.offsets[-1], dtype=bool)
    table: list[list[int]] = []
    flat: list[Array] = [np.zeros(0)]
    products = {op.name: weights[op.name] for op in program.operations if op.kind == "product"}
    until, names, units = 0, list(products), max(view.width for view in program.old)
    variables = np.zeros_like(written)
    for op in program.operations:
        if op.variable is not None and op.source is not None and op.source not in program.old:
            variables[program.columns(op.source)] = True
    for op in program.operations:
        if op.kind == "scale" and op.name in covered:
            if op.name in first:
                inputs, outputs = _views(program, functions[first[op.name]])
                index = first[op.name]
                channel = sum(len(function.channels) for function in functions[:index])
                table.append([_FUNCTION, 0, 0, 0, 0, op.out.width, channel, index])
                until = len(table)
                for view in outputs:
                    written[program.columns(view)] = True
            continue
        out = program.columns(op.out)
        add = bool(written[out].any())
        if add and not written[out].all():
            table += [[_CLEAR, op.out.register, start, 0, 0, width, 0, 0] for start, width in _new(written, op, out)]
        written[out] = True
        where = [op.out.register, op.out.start]
        if variables[out].any():
            until = len(table) + 1
        if op.kind == "product" and op.source is None:
            table.append([_DRIVEN, *where, 0, int(columns[op.variable or ""]), op.out.width, add, names.index(op.name)])
            continue
        if op.source is None or op.kind not in ("product", "scale", "unit"):
            raise ValueError(f"there is no compiled code for values of the operation {op.kind} {op.name!r}")
        source = [op.source.register, op.source.start]
        if op.kind == "product":
            table.append([_PRODUCT, *where, *source, op.out.width, add, names.index(op.name)])
            continue
        table.append([_SCALE, *where, *source, op.out.width, add, sum(map(len, flat))])
        flat.append(constants[op.name] if op.kind == "scale" else weights[op.name][0])
    own = [_function(program, function) for function in functions]
    for row, function in zip(own, functions, strict=True):
        row += [sum(map(len, flat)), len(function.numbers)]
        flat.append(function.numbers.reshape(-1))
    return Network(
        operations=np.array(table, dtype=np.int64).reshape(len(table), 8),
        functions=np.array(own, dtype=np.int64).reshape(len(functions), 7),
        views=np.array([_places(program, function) for function in functions], dtype=np.int64).reshape(
            len(functions), _MOST, 2
        ),
        constants=np.concatenate(flat).astype(dtype),
        weights=as_weights([weight.T for weight in products.values()], dtype),
        strides=np.array(
            [row_length.py_func(width, units, np.dtype(dtype).itemsize) for width in program.widths],
            dtype=np.int64,
        ),
        old=np.array([(view.register, view.width) for view in program.old], dtype=np.int64),
        new=np.array([(view.register, view.width) for view in program.new], dtype=np.int64),
        until=until,
    )


def _views(program: Program, function: Pointwise) -> tuple[list[View], list[View]]:
    """What a function reads and what it writes: what the scales by its channels do, in the order of these."""
    scales = {op.name: op for op in program.operations if op.kind == "scale"}
    channels = (*function.channels, *function.shifted)
    outputs = list(dict.fromkeys(scales[channel].out for channel in channels))
    sources = dict.fromkeys(scales[channel].source for channel in channels)
    return [view for view in sources if view is not None and view not in outputs], outputs


def _function(program: Program, function: Pointwise) -> list[int]:
    inputs, outputs = _views(program, function)
    known = FUNCTIONS.index(function.function)
    return [known, outputs[0].width, len(inputs), len(outputs), len(function.channels)]


def _places(program: Program, function: Pointwise) -> list[tuple[int, int]]:
    inputs, outputs = _views(program, function)
    places = [(view.register, view.start) for view in (*inputs, *outputs)]
    return places + [(0, 0)] * (_MOST - len(places))


def _new(written: Array, op: Operation, out: slice) -> list[tuple[int, int]]:
    """Runs of columns of an operation, first column and width, that nothing has been written to."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~written[out], [False]]).astype(int))).reshape(-1, 2)
    return [(op.out.start + int(start), int(stop - start)) for start, stop in edges]


def target(form: StepForm, functions: Sequence[Pointwise]) -> Target:
    """Where the coefficients and variables of a form are."""
    places = [form.places[channel] for function in functions for channel in function.channels]
    widths = [place.trial_stride or place.row_stride for place in places]
    copies, seen = [], set()
    for op in form.program.operations:
        if op.source is None or op.variable is None or op.variable in seen or form.known[op.variable].of_state:
            continue
        seen.add(op.variable)
        known = form.known[op.variable]
        copies.append((op.source.register, op.source.start, known.width, known.start))
    return Target(
        numbers=form.numbers,
        starts=np.array([place.start for place in places], dtype=np.int64),
        width=widths[0] if widths else 0,
        variables=form.variables.reshape(form.n_steps * form.n_trials, form.variables.shape[2]),
        copies=np.array(copies, dtype=np.int64).reshape(len(copies), 4),
    )


def no_target() -> Target:
    """For states alone."""
    return Target(
        np.zeros(0), np.zeros(0, np.int64), 0, np.zeros((0, 0)), np.zeros((0, 4), np.int64)
    )  # fmt: skip


# Compiled


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
        if operations[k, 0] <= _DRIVEN:
            y = address + (bases[operations[k, 1]] + operations[k, 2]) * size
            if operations[k, 0] == _PRODUCT:
                x, lead = address + (bases[operations[k, 3]] + operations[k, 4]) * size, strides[operations[k, 3]]
            else:
                x, lead = drive.ctypes.data + operations[k, 4] * size, drive.strides[0] // size
            weight = _weight(net.weights, operations[k, 7])
            product_at(one, operations[k, 6] == 1, rows, x, lead, weight, y, strides[operations[k, 1]], 0)
            k += 1
            continue
        last = k + 1
        while last < until and operations[last, 0] > _DRIVEN:
            last += 1
        for first in range(0, rows, _ROWS):
            for j in range(k, last):
                sound &= _apply(net, j, first, min(first + _ROWS, rows), point, full, aim, buffer, bases, tile)
        k = last
    if full:
        sound &= _copy_variables(net, point, rows, aim, buffer, bases)
    return sound


@merged
def _apply(net, k, first, last, point, full, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """An operation that is no product, for some rows; whether the coefficients that it writes are finite."""
    operations, sound, what = net.operations, True, net.operations[k, 0]
    to, of = net.strides[operations[k, 1]], net.strides[operations[k, 3]]
    y, x = bases[operations[k, 1]] + operations[k, 2], bases[operations[k, 3]] + operations[k, 4]
    width, add, index = operations[k, 5], operations[k, 6], operations[k, 7]
    if what == _FUNCTION:
        sound = _apply_function(net, index, add, first, last, point, full, aim, buffer, bases, tile)
    elif what == _SCALE:
        constants = net.constants
        for row in range(first, last):
            _scale(constants, index, buffer, y + row * to, x + row * of, width, add == 1)
    else:
        for row in range(first, last):
            buffer[y + row * to : y + row * to + width] = 0
    return sound


@kernel
def _scale(constants, index, buffer, to, of, width, add):  # type: ignore[no-untyped-def]
    y, x, c = uint64(to), uint64(of), uint64(index)
    if add:
        for unit in range(uint64(width)):
            buffer[y + unit] += constants[c + unit] * buffer[x + unit]
    else:
        for unit in range(uint64(width)):
            buffer[y + unit] = constants[c + unit] * buffer[x + unit]


@merged
def _apply_function(net, index, channel, start, stop, point, full, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """A function of a unit for some rows, tile by tile; whether its coefficients are finite."""
    functions, views, strides, starts = net.functions, net.views, net.strides, aim.starts
    numbers, sound, lanes = aim.numbers, True, 64 // tile.itemsize
    function, units, inputs = functions[index, 0], functions[index, 1], functions[index, 2]
    outputs, channels = functions[index, 3], functions[index, 4]
    constant, given = functions[index, 5], functions[index, 6]
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
                _move(tile, (field + given) * TILE, buffer, at, count)
            if full:
                for field in range(channels):
                    at = starts[channel + field] + (point + row) * aim.width + first
                    sound &= _write(tile, (inputs + given + outputs + field) * TILE, numbers, at, count)
    return sound


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
