"""The compiled forward pass: a program run with values in place of their changes, and its coefficients along the way.

Every register of a program (`kpref.program`) holds the change of some quantity. Run with the quantities themselves, its
products with weights are the same products, what multiplies a weight is what stands in the register that it is read
from, and channels that are the same everywhere scale values as they scale changes. Only where the coefficients depend
on the state do compiled functions of a unit (`kpref.kernels.units`) take the place of the operations: they give the
new values, and the coefficients if they are wanted. So one interpreter serves every network: steps of a map, stages of
Runge-Kutta steps, and the coefficients at given states.

Rows of a block are trials of one step, or points of a trajectory one after the other; registers are laid out as in
`kpref.kernels.program`, in float64 always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import uint64

from kpref.kernels.blas import product_at, row_length
from kpref.kernels.changes import Weights, as_weights
from kpref.kernels.compilation import kernel, merged
from kpref.kernels.units import FIELDS, FUNCTIONS, TILE, apply_function
from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = [
    "Network", "Target", "coefficients", "network", "no_target", "run", "stage_coefficients", "take_steps", "target",
]  # fmt: skip

Array = npt.NDArray[Any]

_PRODUCT, _DRIVEN, _FUNCTION, _SCALE, _CLEAR = range(5)
_MOST = FIELDS  # views and channels of a function


class Network(NamedTuple):
    """A program with its weights and functions, in a form that compiled code takes.

    Attributes
    ----------
    operations : ndarray of int, shape (m, 8)
        Kind; register and first column that are written; register and first column that are read (of a driven product,
        the first column of the drive); columns; whether to add; which weight, function, or first constant.
    functions : ndarray of int, shape (f, 5)
        Which function, its units, and how many numbers go in, come out, and are coefficients.
    views : ndarray of int, shape (f, 16, 2)
        Register and first column of each number that goes in or comes out.
    constants : ndarray
        Channels that are the same everywhere.
    weights : Weights
        Transposed: (inputs, outputs).
    strides : ndarray of int
        Columns from row to row of each register.
    old, new : ndarray of int, shape (parts, 2)
        Register and width of each part of the state.
    until : int
        Operations that have been run when all coefficients and variables are known.
    """

    operations: Array
    functions: Array
    views: Array
    constants: Array
    weights: Weights
    strides: Array
    old: Array
    new: Array
    until: int


class Target(NamedTuple):
    """Where coefficients and variables of a `kpref.step_form.StepForm` are written, at points in the order of its rows.

    Attributes
    ----------
    numbers : ndarray
    starts : ndarray of int
        Place of each coefficient of each function at the first point, in order.
    width : int
        How far the next point is.
    variables : ndarray, shape (points, V)
    copies : ndarray of int, shape (c, 4)
        Register, first column and width of what is a variable, and its column among them.
    """

    numbers: Array
    starts: Array
    width: int
    variables: Array
    copies: Array


# Lowering


def network(
    program: Program,
    functions: Sequence[tuple[str, Sequence[str]]],
    constants: Mapping[str, Array],
    weights: Mapping[str, Array],
    drives: Mapping[str, Array],
) -> Network:
    """A network of a program.

    Parameters
    ----------
    program : Program
    functions : sequence of (str, sequence of str)
        Names of functions of a unit, and of the channels that each computes.
    constants : mapping of str to ndarray, shape (width,)
        Channels that are the same everywhere.
    weights : mapping of str to ndarray, shape (outputs, inputs)
    drives : mapping of str to ndarray, shape (..., width)
        Variables that come from the inputs alone; they stand side by side in the drive.
    """
    columns = dict(zip(drives, np.cumsum([0, *(drive.shape[-1] for drive in drives.values())]), strict=False))
    first = {channels[0]: index for index, (_, channels) in enumerate(functions)}
    covered = {channel for _, channels in functions for channel in channels}
    written = np.zeros(program.offsets[-1], dtype=bool)
    table: list[list[int]] = []
    flat: list[Array] = [np.zeros(0)]
    until, names = 0, list(weights)
    variables = np.zeros_like(written)
    for op in program.operations:
        if op.variable is not None and op.source is not None and op.source not in program.old:
            variables[program.columns(op.source)] = True
    for op in program.operations:
        if op.kind == "scale" and op.name in covered:
            if op.name in first:
                inputs, outputs = _views(program, functions[first[op.name]][1])
                table.append([_FUNCTION, 0, 0, 0, 0, op.out.width, 0, first[op.name]])
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
        if op.source is None or op.kind not in ("product", "scale"):
            raise ValueError(f"there is no compiled code for values of the operation {op.kind} {op.name!r}")
        source = [op.source.register, op.source.start]
        if op.kind == "product":
            table.append([_PRODUCT, *where, *source, op.out.width, add, names.index(op.name)])
            continue
        table.append([_SCALE, *where, *source, op.out.width, add, sum(map(len, flat))])
        flat.append(constants[op.name])
    return Network(
        operations=np.array(table, dtype=np.int64).reshape(len(table), 8),
        functions=np.array(
            [_function(program, name, channels) for name, channels in functions], dtype=np.int64
        ).reshape(len(functions), 5),
        views=np.array([_places(program, channels) for _, channels in functions], dtype=np.int64).reshape(
            len(functions), _MOST, 2
        ),
        constants=np.concatenate(flat),
        weights=as_weights([weight.T for weight in weights.values()], np.float64),
        strides=np.array(
            [row_length.py_func(width, max(view.width for view in program.old), 8) for width in program.widths],
            dtype=np.int64,
        ),
        old=np.array([(view.register, view.width) for view in program.old], dtype=np.int64),
        new=np.array([(view.register, view.width) for view in program.new], dtype=np.int64),
        until=until,
    )


def _views(program: Program, channels: Sequence[str]) -> tuple[list[View], list[View]]:
    """What a function reads and what it writes: what the scales by its channels do, in the order of these."""
    scales = {op.name: op for op in program.operations if op.kind == "scale"}
    outputs = list(dict.fromkeys(scales[channel].out for channel in channels))
    sources = dict.fromkeys(scales[channel].source for channel in channels)
    return [view for view in sources if view is not None and view not in outputs], outputs


def _function(program: Program, name: str, channels: Sequence[str]) -> list[int]:
    inputs, outputs = _views(program, channels)
    return [FUNCTIONS.index(name), outputs[0].width, len(inputs), len(outputs), len(channels)]


def _places(program: Program, channels: Sequence[str]) -> list[tuple[int, int]]:
    inputs, outputs = _views(program, channels)
    places = [(view.register, view.start) for view in (*inputs, *outputs)]
    return places + [(0, 0)] * (_MOST - len(places))


def _new(written: Array, op: Operation, out: slice) -> list[tuple[int, int]]:
    """Runs of columns of an operation, first column and width, that nothing has been written to."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~written[out], [False]]).astype(int))).reshape(-1, 2)
    return [(op.out.start + int(start), int(stop - start)) for start, stop in edges]


def target(form: StepForm, functions: Sequence[tuple[str, Sequence[str]]]) -> Target:
    """Where the coefficients and variables of a form are."""
    places = [form.places[channel] for _, channels in functions for channel in channels]
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
    return weights.entries.ctypes.data + table[index, 0] * 8, table[index, 1], table[index, 2], table[index, 3]


@merged
def _evaluate(net, drive, point, full, until, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """Run the operations up to `until` for the points `point`, `point + 1`, ... with drives (rows, n_drive).

    Returns whether coefficients and variables are finite, where they are wanted.
    """
    rows, address, channel, sound = len(drive), buffer.ctypes.data, 0, True
    operations, strides = net.operations, net.strides
    for k in range(until):
        what, width, add, index = operations[k, 0], operations[k, 5], operations[k, 6] == 1, operations[k, 7]
        to, of = strides[operations[k, 1]], strides[operations[k, 3]]
        y, x = bases[operations[k, 1]] + operations[k, 2], bases[operations[k, 3]] + operations[k, 4]
        if what == _PRODUCT:
            product_at(1.0, add, rows, address + x * 8, of, _weight(net.weights, index), address + y * 8, to)
        elif what == _DRIVEN:
            x = drive.ctypes.data + operations[k, 4] * 8
            product_at(1.0, add, rows, x, drive.strides[0] // 8, _weight(net.weights, index), address + y * 8, to)
        elif what == _FUNCTION:
            sound &= _apply(net, index, channel, point, rows, full, aim, buffer, bases, tile)
            channel += net.functions[index, 4]
        elif what == _SCALE:
            for row in range(rows):
                _scale(net.constants, index, buffer, y + row * to, x + row * of, width, add)
        else:
            for row in range(rows):
                buffer[y + row * to : y + row * to + width] = 0
    if full:
        sound &= _copy_variables(net, point, rows, aim, buffer, bases)
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
def _apply(net, index, channel, point, rows, full, aim, buffer, bases, tile):  # type: ignore[no-untyped-def]
    """A function of a unit for all rows, tile by tile; whether its coefficients are finite."""
    functions, views, sound = net.functions, net.views, True
    function, units, inputs = functions[index, 0], functions[index, 1], functions[index, 2]
    outputs, channels = functions[index, 3], functions[index, 4]
    for row in range(rows):
        for first in range(0, units, TILE):
            count = min(TILE, units - first)
            for field in range(inputs):
                register = views[index, field, 0]
                at = bases[register] + views[index, field, 1] + row * net.strides[register] + first
                _move(buffer, at, tile, field * TILE, count)
            # Whole vectors: what stands beyond the last unit is never read.
            apply_function(function, tile, (count + 7) // 8 * 8, full)
            for field in range(inputs, inputs + outputs):
                register = views[index, field, 0]
                at = bases[register] + views[index, field, 1] + row * net.strides[register] + first
                _move(tile, field * TILE, buffer, at, count)
            if full:
                for field in range(channels):
                    at = aim.starts[channel + field] + (point + row) * aim.width + first
                    sound &= _write(tile, (inputs + outputs + field) * TILE, aim.numbers, at, count)
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


@kernel
def _write(source, at, out, to, count):  # type: ignore[no-untyped-def]
    """Whether what was written is finite: a number that is not has no difference from itself that is zero."""
    x, y, bad = uint64(at), uint64(to), 0
    for unit in range(uint64(count)):
        value = out.dtype.type(source[x + unit])
        out[y + unit] = value
        bad += not value - value == 0
    return bad == 0


@kernel
def _enter(net, row, state, buffer, bases):  # type: ignore[no-untyped-def]
    """A state (S,) into a row of the registers of the old state."""
    column = 0
    for part in range(len(net.old)):
        register, width = net.old[part, 0], net.old[part, 1]
        _move(state, column, buffer, bases[register] + row * net.strides[register], width)
        column += width


@kernel
def _leave(net, row, buffer, bases, state):  # type: ignore[no-untyped-def]
    """A row of the registers of the new state into a state (S,); whether it is finite."""
    column, sound = 0, True
    for part in range(len(net.new)):
        register, width = net.new[part, 0], net.new[part, 1]
        sound &= _write(buffer, bases[register] + row * net.strides[register], state, column, width)
        column += width
    return sound


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
def run(net, drive, lengths, trajectory, full, aim, start, stop):  # type: ignore[no-untyped-def]
    """Steps of a map for the trials start, ..., stop - 1: trajectory[1:] from trajectory[0], (T + 1, B, S).

    A trial stands still from its end on, where its coefficients are those of its last step, and its states zero. Drives
    are (T, B, n_drive). Returns whether the states are finite, and whether the coefficients are.
    """
    rows, steps, trials = stop - start, len(drive), drive.shape[1]
    bases, total = _bases(net, rows)
    buffer, tile, going = np.zeros(total), np.zeros(FIELDS * TILE), np.ones(rows, np.bool_)
    known, sound = True, True
    for row in range(rows):
        _enter(net, row, trajectory[0, start + row], buffer, bases)
    for step in range(steps):
        point = step * trials + start
        sound &= _evaluate(
            net, drive[step, start:stop], point, full, len(net.operations), aim, buffer, bases, tile
        )  # fmt: skip
        for row in range(rows):
            state = trajectory[step + 1, start + row]
            if step < lengths[start + row]:
                known &= _leave(net, row, buffer, bases, state)
            else:
                state[:] = 0
            going[row] = step + 1 < lengths[start + row]
        _swap(net, rows, going, buffer, bases)
    return known, sound


@kernel
def take_steps(net, a, b, h, drive, lengths, states, full, aim, own, start, stop):  # type: ignore[no-untyped-def]
    """Runge-Kutta steps for the trials start, ..., stop - 1: states[1:] from states[0], (n + 1, B, S).

    Drives are (n * s, B, n_drive), rows ordered (step, stage). A trial stands still from its end on. With `full` the
    coefficients at all stages are written too, and the stage states to `own`, if it has columns. Returns whether
    coefficients and stage states are finite.
    """
    rows, size = stop - start, states.shape[2]
    bases, total = _bases(net, rows)
    buffer, tile = np.zeros(total), np.zeros(FIELDS * TILE)
    slopes, state, sound = np.empty((len(b), rows, size)), np.empty(size), True
    for step in range(len(h)):
        for stage in range(len(b)):
            sound &= _stage(
                net, a, h, step, stage, states, drive, full, len(net.operations), aim, own, start, stop, buffer, bases,
                tile, slopes, state,
            )  # fmt: skip
        for row in range(rows):
            begin, end = states[step, start + row], states[step + 1, start + row]
            end[:] = begin
            if step + 1 < lengths[start + row]:
                for stage in range(len(b)):
                    _add(h[step] * b[stage], slopes[stage, row], end)
    return sound


@kernel
def stage_coefficients(net, a, h, drive, states, aim, own, first, last, start, stop):  # type: ignore[no-untyped-def]
    """Coefficients at the stages of steps first, ..., last - 1 that start from known states: as `take_steps`."""
    rows, stages, size = stop - start, len(a), states.shape[2]
    bases, total = _bases(net, rows)
    buffer, tile = np.zeros(total), np.zeros(FIELDS * TILE)
    slopes, state, sound = np.empty((stages, rows, size)), np.empty(size), True
    for step in range(first, last):
        for stage in range(stages):
            until = len(net.operations) if stage < stages - 1 else net.until
            sound &= _stage(
                net, a, h, step, stage, states, drive, True, until, aim, own, start, stop, buffer, bases, tile, slopes,
                state,
            )  # fmt: skip
    return sound


@merged
def _stage(  # type: ignore[no-untyped-def]
    net, a, h, step, stage, states, drive, full, until, aim, own, start, stop, buffer, bases, tile, slopes, state
):  # fmt: skip
    """``Z_i = z + h sum_{j<i} a_ij k_j`` and ``k_i = F(Z_i)``; whether coefficients and Z_i are finite."""
    at, sound = step * len(a) + stage, True
    for row in range(stop - start):
        state[:] = states[step, start + row]
        for other in range(stage):
            factor = h[step] * a[stage, other]
            if factor != 0:
                _add(factor, slopes[other, row], state)
        _enter(net, row, state, buffer, bases)
        if full and own.shape[2] > 0:
            sound &= _write(state, 0, own[at, start + row], 0, len(state))
    sound &= _evaluate(
        net, drive[at, start:stop], at * drive.shape[1] + start, full, until, aim, buffer, bases, tile
    )  # fmt: skip
    for row in range(stop - start):
        _leave(net, row, buffer, bases, slopes[stage, row])
    return sound


@kernel
def _add(factor, slope, state):  # type: ignore[no-untyped-def]
    for unit in range(len(state)):
        state[unit] += factor * slope[unit]


@kernel
def coefficients(net, states, drive, aim, start, stop):  # type: ignore[no-untyped-def]
    """Coefficients and variables at the points start, ..., stop - 1 of states (points, S); whether they are finite."""
    rows = stop - start
    bases, total = _bases(net, rows)
    buffer, tile = np.zeros(total), np.zeros(FIELDS * TILE)
    for row in range(rows):
        _enter(net, row, states[start + row], buffer, bases)
    return _evaluate(net, drive[start:stop], start, True, net.until, aim, buffer, bases, tile)
