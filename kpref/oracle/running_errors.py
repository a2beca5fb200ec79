"""What rounding can do to one product with A, A^T, J or J^T: value and size of the error, row by row.

The program of a linearised step is run, forwards or backwards, on registers whose entries carry their errors: those of
the channels and variables (`kpref.oracle.uncertain`), of each operation, and of sums in any order. Tensors come time
first, (R, B, H), for the rows of a chunk of the linearisation.

A backend that forms dense Jacobians first rounds their entries once more, and uses them as operands of a matrix
product. Their terms may cancel in a register where the program adds them up before it goes on, as do those of h and c
of an LSTM, but each rounds for itself. So registers keep the sum of the magnitudes of what came from the given state by
no product, and that is what errs where it enters a weight or a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kpref._types import Array
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.spreads import Spread, no_error, relative, weighted
from kpref.oracle.uncertain import with_errors
from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = ["Chunk", "chunks", "forward", "gradient_terms", "transposed"]

#: Entries of all registers that one chunk may hold: bounds the memory of the analysis, and keeps it in cache.
_CHUNK_ENTRIES = 1 << 15


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive rows of a linearisation with the errors of a backend's numbers."""

    rows: slice
    form: StepForm  # these rows of it
    numbers: Mapping[str, Spread]  # of each channel and variable
    value: Spread  # (R, B, H): of F(z, x)
    arithmetic: Arithmetic

    def of_channel(self, name: str) -> Spread:
        """Error of a channel, which may be lost near zero."""
        lost = np.array(self.arithmetic.underflow)
        return self.numbers[name] + Spread(lost, lost)

    def of_variable(self, name: str) -> Spread:
        """Error of a variable, (R, B, width): none of one that is part of the state."""
        known = self.form.known[name]
        return no_error((1, 1, known.width)) if known.of_state else self.numbers[name]


def chunks(model: StepModel, form: StepForm, states: Array, inputs: Array, arithmetic: Arithmetic) -> Iterator[Chunk]:
    """The linearisation of `model` at states (R, B, H) under inputs (R, B, n_in), a few rows at a time."""
    rows, trials, _ = states.shape
    lost = Spread(np.array(arithmetic.underflow), np.array(arithmetic.underflow))
    step = max(1, _CHUNK_ENTRIES // (trials * sum(form.program.widths)))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        value, numbers = with_errors(model, states[part], inputs[part], arithmetic)
        yield Chunk(part, form.rows(part), numbers, value + lost, arithmetic)


class _Registers:
    """Sums with their errors: value, variance, worst case, magnitude of the terms and how many there are."""

    def __init__(self, program: Program, points: tuple[int, int]) -> None:
        shapes = [(*points, width) for width in program.widths]
        self.value, self._variance, self._worst, self._size = ([np.zeros(shape) for shape in shapes] for _ in range(4))
        self._count = [np.zeros(width, dtype=int) for width in program.widths]
        self.direct = [np.zeros(shape) for shape in shapes]
        """Sums of the magnitudes of what came from the given state by no product."""

    def add(self, view: View, value: Array, spread: Spread) -> None:
        """A term, with its own error."""
        register, columns = view.register, slice(view.start, view.start + view.width)
        self.value[register][..., columns] += value
        self._variance[register][..., columns] += np.square(spread.deviation)
        self._worst[register][..., columns] += spread.worst
        self._size[register][..., columns] += np.abs(value)
        self._count[register][columns] += 1

    def read(self, view: View, unit: float) -> tuple[Array, Spread]:
        """The sum, of which each partial sum is stored."""
        register, columns = view.register, slice(view.start, view.start + view.width)
        count = self._count[register][columns] * (self._count[register][columns] > 1)
        size = unit * self._size[register][..., columns]
        variance = self._variance[register][..., columns] + count * np.square(size)
        return self.value[register][..., columns], Spread(
            np.sqrt(variance), self._worst[register][..., columns] + count * size
        )


def forward(chunk: Chunk, x: Array | None, changes: Mapping[str, Array] | None = None) -> tuple[Array, Spread]:
    """``A x + J dtheta`` and the error that a backend may make.

    `x`: shape (R, B, H). `changes`: shape (outputs, inputs); dW of the trained weights.
    """
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    if x is not None:
        _enter(registers, program.old, x)
    for op in program.operations:
        if changes is not None and op.variable is not None and op.name in changes:
            registers.add(op.out, *_changed(chunk, op, changes[op.name]))
        if op.source is not None:
            _apply(chunk, registers, op, op.out, op.source, program.new, False)
    return _leave(chunk, registers, program.new, x, chunk.arithmetic)


def transposed(chunk: Chunk, x: Array) -> tuple[Array, Spread]:
    """``A^T x`` and the error that a backend may make."""
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    _enter(registers, program.new, x)
    for op, to, of in program.reversed():
        if to is not None:
            _apply(chunk, registers, op, to, of, program.old, True)
    return _leave(chunk, registers, program.old, x, chunk.arithmetic)


def gradient_terms(chunk: Chunk, g: Array) -> Iterator[tuple[Operation, Array, Spread]]:
    """For each trained operation the cotangent (R, B, width) of what it writes, and the error that a backend may make.

    Their products with the variables, summed over points, are ``J^T g``.
    """
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    _enter(registers, program.new, g)
    for op, to, of in program.reversed():
        if op.variable is not None and op.name in form.trained:
            yield op, *registers.read(of, chunk.arithmetic.unit)
        if to is not None:
            _apply(chunk, registers, op, to, of, program.old, True)


def _enter(registers: _Registers, views: tuple[View, ...], x: Array) -> None:
    column = 0
    for view in views:
        registers.value[view.register][...] = x[..., column : column + view.width]
        registers.direct[view.register][...] = np.abs(x[..., column : column + view.width])
        column += view.width


def _leave(
    chunk: Chunk, registers: _Registers, views: tuple[View, ...], x: Array | None, arithmetic: Arithmetic
) -> tuple[Array, Spread]:
    """The sums in some registers, rounded once more; dense Jacobians lose entries that are too small one by one."""
    parts = [registers.read(view, arithmetic.unit) for view in views]
    value = np.concatenate([part for part, _ in parts], axis=-1)
    spread = Spread(
        np.concatenate([one.deviation for _, one in parts], axis=-1),
        np.concatenate([one.worst for _, one in parts], axis=-1),
    )
    spread = spread + relative(value, arithmetic.unit)
    if x is not None:
        spread = spread + relative(np.abs(x).sum(axis=-1, keepdims=True), arithmetic.underflow)
    return value, spread


def _apply(
    chunk: Chunk, registers: _Registers, op: Operation, to: View, of: View, ends: tuple[View, ...], backwards: bool
) -> None:
    """One operation, from the columns `of` to the columns `to`."""
    form, arithmetic = chunk.form, chunk.arithmetic
    value, spread = registers.read(of, arithmetic.unit)
    direct = registers.direct[of.register][..., of.start : of.start + of.width]
    if any(of.register == view.register for view in form.program.inner):  # where a Jacobian begins
        direct = np.abs(value)
    if op.kind in ("gather", "spread"):
        registers.add(to, *_moved(to, value, spread, arithmetic.unit))
        return
    if op.kind == "product":
        weight = form.weights[op.name].T if backwards else form.weights[op.name]
        total, error = _weighted(weight, value, spread, arithmetic)
        registers.add(to, total, error + _cancelled(weight, value, direct, arithmetic))
        return
    factor = form.channel(op.name)
    error = chunk.of_channel(op.name) if op.kind == "scale" else no_error((1, 1, to.width))
    term = factor * value
    lost = np.array(arithmetic.underflow)
    own = spread.times(factor) + error.times(value) + relative(term, arithmetic.unit, 2) + Spread(lost, lost)
    through = np.abs(factor) * direct
    registers.direct[to.register][..., to.start : to.start + to.width] += through
    if any(to.register == end.register for end in (*ends, *form.program.inner)):  # the diagonal of a dense Jacobian
        own = own + relative(through, arithmetic.operand, 2)
    registers.add(to, term, own)


def _cancelled(weight: Array, value: Array, direct: Array, arithmetic: Arithmetic) -> Spread:
    """What rounding of the entries of a dense Jacobian adds to a product where terms cancel before it."""
    excess = np.maximum(np.square(direct) - np.square(value), 0.0)
    if not excess.any():
        return no_error((1, 1, len(weight)))
    entry = np.hypot(np.sqrt(2) * arithmetic.operand, 2 * arithmetic.unit)
    worst = (2 * arithmetic.operand + 3 * arithmetic.unit) * (np.sqrt(excess) @ np.abs(weight).T)
    return Spread(entry * np.sqrt(excess @ np.square(weight).T), worst)


def _weighted(weight: Array, vector: Array, carried: Spread, arithmetic: Arithmetic) -> tuple[Array, Spread]:
    """``W v`` with v stored, its own error carried along, and one more rounding of each entry of W."""
    total, error = weighted(weight, vector, carried, arithmetic)
    squares, magnitudes = np.square(vector) @ np.square(weight).T, np.abs(vector) @ np.abs(weight).T
    entries = Spread(2 * arithmetic.unit * np.sqrt(squares), 3 * arithmetic.unit * magnitudes)
    return total, error + entries


def _changed(chunk: Chunk, op: Operation, change: Array) -> tuple[Array, Spread]:
    """``dW m``, or ``dw * m``."""
    m, error = chunk.form.variable(op.variable or ""), chunk.of_variable(op.variable or "")
    if op.kind == "product":
        return _weighted(change, m, error, chunk.arithmetic)
    return change * m, error.times(change) + relative(change * m, chunk.arithmetic.unit, 2)


def _moved(to: View, value: Array, spread: Spread, unit: float) -> tuple[Array, Spread]:
    """Sums over adjacent columns, or each column several times."""
    if to.width <= value.shape[-1]:
        shape = (*value.shape[:-1], to.width, -1)
        deviation = np.sqrt(np.square(spread.deviation).reshape(shape).sum(axis=-1))
        own = Spread(deviation, spread.worst.reshape(shape).sum(axis=-1))
        size = np.abs(value).reshape(shape).sum(axis=-1)
        return value.reshape(shape).sum(axis=-1), own + relative(size, unit, value.shape[-1] // to.width)
    count = to.width // value.shape[-1]
    parts = (np.repeat(part, count, axis=-1) for part in (value, spread.deviation, spread.worst))
    repeated, deviation, worst = parts
    return repeated, Spread(deviation, worst)
