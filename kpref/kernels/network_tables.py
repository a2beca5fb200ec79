"""A program as tables by which compiled code runs it with values: see `kpref.kernels.network`.

An operation of the program becomes none, one or two of the table. Functions of a unit take the place of the scales that
they stand for, each where the first of these stands. Coefficients that come from the inputs alone are repeated into a
register of their own, from which scales and functions read them. What nothing reads is left out, such as currents
through which only changes of parameters act; and products with drives follow the product before them, so that what is
pointwise between two products is done in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.kernels.blas import row_length
from kpref.kernels.panels import Weights, as_weights
from kpref.models.step import Pointwise
from kpref.models.units import FIELDS, FUNCTIONS
from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = [
    "BY_REGISTER", "CLEAR", "DRIVEN", "FUNCTION", "GATHER", "PRODUCT", "REPEAT", "SCALE", "SPREAD", "Network", "Target",
    "network", "no_target", "target", "written",
]  # fmt: skip

PRODUCT, DRIVEN, FUNCTION, SCALE, BY_REGISTER, REPEAT, GATHER, SPREAD, CLEAR = range(9)


class Network(NamedTuple):
    """A program with its weights and functions, in a form that compiled code takes."""

    # (m, 8): kind; register and first column that are written; register and first column that are read (of a driven
    # product and of what is repeated, the first column of the drive); columns, of gather and spread those of the narrow
    # side; whether to add; and of a product its weight, of a scale its first constant or the register of its
    # coefficients, of what is repeated how many columns of the drive, of gather and spread how many columns make one.
    # Of a function: the first variable that it computes (4), the first coefficient (6), and which it is (7); 6 of what
    # is repeated is its coefficient too.
    operations: Array
    # (f, 8): which function, its units; how many numbers go in, come out, are coefficients, and are variables; and the
    # first constant of those that stay the same, and how many these are
    functions: Array
    # (f, FIELDS, 3): register and first column of each number that goes in or comes out, and whether to add there
    views: Array
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
    starts: Array  # place of each coefficient at the first point, in the order of `written`
    width: int  # how far the next point is
    variables: Array  # (points, V)
    columns: Array  # among these of each variable that a function computes
    copies: Array  # (c, 4): register, first column and width of what is a variable, and its column among them


def written(
    program: Program, functions: Sequence[Pointwise], drives: Mapping[str, Array]
) -> tuple[list[str], list[str]]:
    """Channels that compiled code writes: of functions, then those that are inputs; and variables of functions."""
    own = [channel for function in functions for channel in function.channels]
    computed = [variable for function in functions for variable in function.variables]
    return [*own, *(name for name in drives if name in program.channels)], computed


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
        Variables, and channels of some multiple of that width, that come from the inputs alone; they stand side by side
        in the drive.
    dtype : {float64, float32}
        Precision of all of it.

    Raises
    ------
    ValueError
        If there is an operation whose values follow from none of these.
    """
    channels, computed = written(program, functions, drives)
    edges = np.cumsum([0, *(drive.shape[-1] for drive in drives.values())]).tolist()
    lowering = _Lowering(
        program, functions, {**weights, **constants}, channels, computed,
        {name: (at, stop - at) for name, at, stop in zip(drives, edges[:-1], edges[1:], strict=True)},
        np.zeros(program.offsets[-1], dtype=bool), list(program.widths),
    )  # fmt: skip
    lowering.run(_in_one_go(_live(program, functions)))
    for row, function in zip(lowering.functions, functions, strict=True):
        row += [sum(map(len, lowering.flat)), len(function.numbers)]
        lowering.flat.append(function.numbers.reshape(-1))
    units = max(view.width for view in program.old)
    return Network(
        operations=np.array(lowering.table, dtype=np.int64).reshape(len(lowering.table), 8),
        functions=np.array(lowering.functions, dtype=np.int64).reshape(len(functions), 8),
        views=np.array(lowering.views, dtype=np.int64).reshape(len(functions), FIELDS, 3),
        constants=np.concatenate([np.zeros(0), *lowering.flat]).astype(dtype),
        weights=as_weights([weights[name].T for name in lowering.products], dtype),
        strides=np.array(
            [row_length.py_func(width, units, np.dtype(dtype).itemsize) for width in lowering.widths], dtype=np.int64
        ),
        old=np.array([(view.register, view.width) for view in program.old], dtype=np.int64),
        new=np.array([(view.register, view.width) for view in program.new], dtype=np.int64),
        until=lowering.until,
    )


def _live(program: Program, functions: Sequence[Pointwise]) -> list[Operation]:
    """Operations whose values are read, by later ones, as variables or as the new state, and those of functions."""
    read = np.zeros(program.offsets[-1], dtype=bool)
    unread = {channel for function in functions for channel in function.unread}
    kept = {channel for function in functions for channel in (*function.channels, *function.shifted)}
    for view in program.new:
        read[program.columns(view)] = True
    found = []
    for op in reversed(program.operations):
        live = op.name in kept or read[program.columns(op.out)].any()
        if live:
            found.append(op)
        if op.source is not None and ((live and op.name not in unread) or op.variable is not None):
            read[program.columns(op.source)] = True
    return found[::-1]


def _in_one_go(operations: Sequence[Operation]) -> list[Operation]:
    """Products with drives right behind the product before them, or first."""
    found: list[Operation] = []
    place = 0  # behind the last product
    for op in operations:
        if op.kind == "product":
            at = len(found) if op.source is not None else place
            found.insert(at, op)
            place = at + 1
        else:
            found.append(op)
    return found


@dataclass
class _Lowering:
    """What has been lowered so far."""

    program: Program
    pointwise: Sequence[Pointwise]
    numbers: Mapping[str, Array]  # weights, and channels that are the same everywhere
    channels: list[str]  # that are written, as are the variables that functions have
    computed: list[str]
    drives: Mapping[str, tuple[int, int]]  # first column in the drive, and how many
    filled: npt.NDArray[np.bool_]  # columns of the program that something has been written to
    widths: list[int]  # of the registers, those of repeated inputs behind those of the program
    table: list[list[int]] = field(default_factory=list)
    functions: list[list[int]] = field(default_factory=list)
    views: list[list[tuple[int, int, int]]] = field(default_factory=list)
    flat: list[Array] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)  # registers
    until: int = 0

    def __post_init__(self) -> None:
        self.products = list(dict.fromkeys(op.name for op in self.program.operations if op.kind == "product"))
        self._first = {function.channels[0]: function for function in self.pointwise}
        self._covered = {name for function in self.pointwise for name in (*function.channels, *function.shifted)}
        self._variables = np.zeros_like(self.filled)
        for op in self.program.operations:
            if op.variable is not None and op.source is not None and op.source not in self.program.old:
                self._variables[self.program.columns(op.source)] = True

    def run(self, operations: Sequence[Operation]) -> None:
        """Lower operations in this order."""
        rows = {function.channels[0]: index for index, function in enumerate(self.pointwise)}
        self.functions, self.views = [[] for _ in rows], [[] for _ in rows]
        for op in operations:
            if op.name in self._first:
                self._apply(self._first[op.name], rows[op.name])
            elif op.name not in self._covered and (op.source is not None or op.variable not in self.computed):
                self._lower(op)

    def _lower(self, op: Operation) -> None:
        operand = self._operand(op)  # which may have to be repeated first
        add = self._write_to(op.out)
        to = [op.out.register, op.out.start]
        kind = {"unit": SCALE, "gather": GATHER, "spread": SPREAD, "product": PRODUCT, "scale": SCALE}[op.kind]
        width = op.out.width
        if op.source is None:
            kind, of = DRIVEN, [0, self.drives[op.variable or ""][0]]
        else:
            of = [op.source.register, op.source.start]
            width = min(width, op.source.width) if kind in (GATHER, SPREAD) else width
        if op.kind == "scale" and op.name in self.drives:
            kind = BY_REGISTER
        self.table.append([kind, *to, *of, width, add, operand])
        if self._variables[self.program.columns(op.out)].any():
            self.until = len(self.table)

    def _operand(self, op: Operation) -> int:
        """The last number of a row of the table."""
        if op.kind == "product" and (op.source is not None or op.variable in self.drives):
            return self.products.index(op.name)
        if op.source is None:
            raise ValueError(f"there is no compiled code for values of the operation {op.kind} {op.name!r}")
        if op.kind in ("gather", "spread"):
            widths = op.out.width, op.source.width
            return max(widths) // min(widths)
        if op.kind == "scale" and op.name in self.drives:
            return self._repeat(op.name)
        start, value = sum(map(len, self.flat)), self.numbers[op.name]
        self.flat.append(value[0] if op.kind == "unit" else value)
        return start

    def _write_to(self, out: View) -> bool:
        """Whether to add to what stands there; where nothing does, zeros are written first."""
        columns = self.program.columns(out)
        there = self.filled[columns].copy()
        self.filled[columns] = True
        if not there.any() or there.all():
            return bool(there.any())
        edges = np.flatnonzero(np.diff(np.concatenate([[False], ~there, [False]]).astype(int))).reshape(-1, 2)
        for first, stop in edges.tolist():
            self.table.append([CLEAR, out.register, out.start + first, 0, 0, stop - first, 0, 0])
        return True

    def _repeat(self, channel: str) -> int:
        """The register of a channel that is inputs repeated."""
        if channel not in self.repeated:
            self.repeated[channel] = len(self.widths)
            (at, count), width = self.drives[channel], self.program.channels[channel]
            self.table.append([REPEAT, len(self.widths), 0, 0, at, width, self.channels.index(channel), count])
            self.widths.append(width)
            self.until = len(self.table)
        return self.repeated[channel]

    def _apply(self, function: Pointwise, index: int) -> None:
        """A function in the place of the scales that it stands for: it reads and writes what they do."""
        scales = {op.name: op for op in self.program.operations if op.kind == "scale"}
        stands_for = (*function.channels, *function.shifted)
        outputs = list(dict.fromkeys(scales[channel].out for channel in stands_for))
        sources = dict.fromkeys(scales[channel].source for channel in stands_for if channel not in function.unread)
        places = [(view.register, view.start, 0) for view in sources if view is not None and view not in outputs]
        places += [(self._repeat(channel), 0, 0) for channel in function.drives]
        inputs = len(places)
        places += [(view.register, view.start, int(self._write_to(view))) for view in outputs]
        self.functions[index] = [
            FUNCTIONS.index(function.function), outputs[0].width, inputs, len(outputs), len(function.channels),
            len(function.variables),
        ]  # fmt: skip
        self.views[index] = places + [(0, 0, 0)] * (FIELDS - len(places))
        variable = self.computed.index(function.variables[0]) if function.variables else 0
        channel = self.channels.index(function.channels[0])
        self.table.append([FUNCTION, 0, 0, 0, variable, outputs[0].width, channel, index])
        self.until = len(self.table)


def target(form: StepForm, channels: Sequence[str], computed: Sequence[str]) -> Target:
    """Where the coefficients and variables of a form are; `channels` and `computed` as `written` gives them."""
    places = [form.places[channel] for channel in channels]
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
        columns=np.array([form.known[variable].start for variable in computed], dtype=np.int64),
        copies=np.array(copies, dtype=np.int64).reshape(len(copies), 4),
    )


def no_target() -> Target:
    """For states alone."""
    none = np.zeros(0, np.int64)
    return Target(np.zeros(0), none, 0, np.zeros((0, 0)), none, np.zeros((0, 4), np.int64))
