"""What rounding can do to one product with A, A^T, J or J^T: value and size of the error, row by row.

The program of a linearised step is run, forwards or backwards, on registers whose entries carry their errors: those of
the channels and variables (`kpref.oracle.uncertain`), of each operation, and of sums in any order. Tensors come time
first, (R, B, H), for the rows of a chunk of the linearisation.

A backend that forms dense Jacobians first rounds their entries once more, and uses them as operands of a matrix
product. Their terms may cancel in a register where the program adds them up before it goes on, as do those of h and c
of an LSTM, but each rounds for itself, and the sum over the whole state has partial sums as large as they are. So
registers keep the sum of the magnitudes of what came from the given state by no product, and that is what errs where it
enters a weight or a state: with d the direct part of a register and v its value, the terms ``l_i A_ij`` of
``(A^T l)_j`` are of the size of ``d W``, and what rounds them, and their sums over H entries, adds

    (2 operand^2 + (1 + H) accumulate^2 + (2 unit)^2) (d^2 - v^2) W^2

to the variance that v alone gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.spreads import Spread, SumError, Weight, weighted
from kpref.oracle.uncertain import with_errors
from kpref.program import Operation, Program, View
from kpref.step_form import StepForm

__all__ = ["Chunk", "chunks", "forward", "gradient_terms", "reach", "reach_transposed", "transposed"]

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
    _factors: dict[str, _Factor] = field(default_factory=dict, repr=False)
    _weights: dict[tuple[str, bool], Weight] = field(default_factory=dict, repr=False)

    def of_variable(self, name: str) -> Spread | None:
        """Error of a variable, (R, B, width): None of one that is part of the state."""
        return None if self.form.known[name].of_state else self.numbers[name]

    def factor(self, op: Operation) -> _Factor:
        """What multiplies in a `scale` or a `unit`, and how it errs: a channel may be lost near zero."""
        if op.name not in self._factors:
            numbers, unit = self.form.channel(op.name), self.arithmetic.unit
            size, squares = np.abs(numbers), np.square(numbers)
            variance, worst = 2 * unit**2 * squares, 2 * unit * size
            if op.kind == "scale":
                own, lost = self.numbers[op.name], self.arithmetic.underflow
                variance, worst = variance + np.square(own.deviation) + lost**2, worst + own.worst + lost
            self._factors[op.name] = _Factor(numbers, size, squares + variance, size + worst, variance, worst)
        return self._factors[op.name]

    def weight(self, name: str, backwards: bool) -> Weight:
        """What multiplies in a `product`, forwards or backwards."""
        if (name, backwards) not in self._weights:
            weight = self.form.weights[name]
            self._weights[name, backwards] = Weight.of(weight if backwards else np.ascontiguousarray(weight.T))
        return self._weights[name, backwards]


class _Factor(NamedTuple):
    """A factor c of a product c v, each entry rounded twice.

    Of independent errors ``var(c v) = (c^2 + var c) var v + v^2 var c``: an error passes through a slope that is zero
    if it may as well be one.
    """

    numbers: Array
    size: Array
    squares: Array  # mean square, its own error included: for the variance of v
    most: Array  # the most that it may be: for the worst case of v
    variance: Array  # of its own error and of the rounding of the product, for the square of v
    worst: Array  # for the magnitude of v


def chunks(model: StepModel, form: StepForm, states: Array, inputs: Array, arithmetic: Arithmetic) -> Iterator[Chunk]:
    """The linearisation of `model` at states (R, B, H) under inputs (R, B, n_in), a few rows at a time."""
    rows, trials, _ = states.shape
    lost = Spread(np.array(arithmetic.underflow), np.array(arithmetic.underflow))
    step, weights = max(1, _CHUNK_ENTRIES // (trials * sum(form.program.widths))), {}  # type: ignore[var-annotated]
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        value, numbers = with_errors(model, states[part], inputs[part], arithmetic)
        # As coefficients are where they scale, and the new state: too small to be held.
        numbers = {name: spread + lost if name in form.known else spread for name, spread in numbers.items()}
        yield Chunk(part, form.rows(part), numbers, value + lost, arithmetic, _weights=weights)


class _Registers:
    """Sums with their errors: value, variance, worst case, magnitude of the terms and how many there are."""

    def __init__(self, program: Program, points: tuple[int, ...]) -> None:
        # The last: sums of the magnitudes of what came from the given state by no product.
        self._sums = [np.zeros((5, *points, width)) for width in program.widths]
        self._count = [np.zeros(width, dtype=int) for width in program.widths]
        self._empty = set(range(len(program.widths)))

    def enter(self, views: tuple[View, ...], x: Array) -> None:
        """What is given: exact, and all of it direct."""
        column = 0
        for view in views:
            sums, part = self.of(view), x[..., column : column + view.width]
            sums[0] = part
            np.abs(part, out=sums[4])
            self._empty.discard(view.register)
            column += view.width

    def of(self, view: View) -> Array:
        """All five, first axis."""
        return self._sums[view.register][..., view.start : view.start + view.width]

    def direct(self, view: View) -> Array:
        """What came from the given state by no product."""
        return np.asarray(self.of(view)[4])

    def add(self, view: View, value: Array, variance: Array, worst: Array) -> None:
        """A term, with its own error."""
        sums = self.of(view)
        sums[0] += value
        sums[1] += variance
        sums[2] += worst
        sums[3] += np.abs(value)
        self._count[view.register][view.start : view.start + view.width] += 1
        self._empty.discard(view.register)

    def empty(self, view: View) -> bool:
        """Whether there is nothing yet, so that nothing comes of it."""
        return view.register in self._empty

    @property
    def reach(self) -> float:
        """The largest sum of magnitudes: no partial sum, in any order, is beyond it."""
        return max(float(sums[3].max(initial=0.0)) for sums in self._sums)

    def read(self, view: View, unit: float) -> tuple[Array, Array, Array]:
        """The sum, of which each partial sum is stored, and the variance and worst case of its error."""
        value, variance, worst, size, _ = self.of(view)
        count = self._count[view.register][view.start : view.start + view.width]
        if count.max(initial=0) > 1:
            count = count * (count > 1)
            stored = unit * count * size
            variance, worst = variance + unit * stored * size, worst + stored
        return value, variance, worst


def forward(chunk: Chunk, x: Array | None, changes: Mapping[str, Weight] | None = None) -> tuple[Array, Spread]:
    """``A x + J dtheta`` and the error that a backend may make.

    `x`: shape (R, B, H). `changes`: dW of the trained weights, transposed.
    """
    return _leave(chunk, _run(chunk, x, changes), chunk.form.program.new, x)


def transposed(chunk: Chunk, x: Array) -> tuple[Array, Spread]:
    """``A^T x`` and the error that a backend may make."""
    return _leave(chunk, _run_transposed(chunk, x), chunk.form.program.old, x)


def reach(chunk: Chunk, x: Array | None, changes: Mapping[str, Weight] | None = None) -> float:
    """The most that a sum comes to on the way to ``A x + J dtheta``, before a gate closes on it, say."""
    return _run(chunk, x, changes).reach


def reach_transposed(chunk: Chunk, x: Array) -> float:
    """The same of ``A^T x``."""
    return _run_transposed(chunk, x).reach


def gradient_terms(chunk: Chunk, g: Array) -> Iterator[tuple[Operation, Array, Array, Array]]:
    """For each trained operation the cotangent (R, B, width) of what it writes, and the error that a backend may make.

    Their products with the variables, summed over points, are ``J^T g``. Of the error the variance and the worst case.
    """
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    registers.enter(program.new, g)
    for op, to, of in program.reversed():
        if op.variable is not None and op.name in form.trained:
            yield op, *registers.read(of, chunk.arithmetic.unit)
        if to is not None:
            _apply(chunk, registers, op, to, of, program.old, True)


def _run(chunk: Chunk, x: Array | None, changes: Mapping[str, Weight] | None) -> _Registers:
    """The program forwards."""
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    if x is not None:
        registers.enter(program.old, x)
    for op in program.operations:
        if changes is not None and op.variable is not None and op.name in changes:
            registers.add(op.out, *_changed(chunk, op, changes[op.name]))
        if op.source is not None:
            _apply(chunk, registers, op, op.out, op.source, program.new, False)
    return registers


def _run_transposed(chunk: Chunk, x: Array) -> _Registers:
    """The program backwards."""
    form, program = chunk.form, chunk.form.program
    registers = _Registers(program, (form.n_steps, form.n_trials))
    registers.enter(program.new, x)
    for op, to, of in program.reversed():
        if to is not None:
            _apply(chunk, registers, op, to, of, program.old, True)
    return registers


def _leave(chunk: Chunk, registers: _Registers, views: tuple[View, ...], x: Array | None) -> tuple[Array, Spread]:
    """The sums in some registers, rounded once more; dense Jacobians lose entries that are too small one by one."""
    unit, lost = chunk.arithmetic.unit, chunk.arithmetic.underflow
    parts = [registers.read(view, unit) for view in views]
    value, variance, worst = (
        parts[0] if len(parts) == 1 else [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]
    )
    stored = unit * np.abs(value)
    variance, worst = variance + np.square(stored), worst + stored
    if x is not None:
        size = lost * np.abs(x).sum(axis=-1, keepdims=True)
        variance, worst = variance + np.square(size), worst + size
    return value, Spread(np.sqrt(variance), worst)


def _apply(
    chunk: Chunk, registers: _Registers, op: Operation, to: View, of: View, ends: tuple[View, ...], backwards: bool
) -> None:
    """One operation, from the columns `of` to the columns `to`."""
    if registers.empty(of):
        return
    program, arithmetic = chunk.form.program, chunk.arithmetic
    value, variance, worst = registers.read(of, arithmetic.unit)
    starts = any(of.register == view.register for view in program.inner)  # where a Jacobian begins
    direct = np.abs(value) if starts else registers.direct(of)
    if op.kind in ("gather", "spread"):
        _move(registers, to, direct, value, variance, worst, arithmetic.unit)
        return
    if op.kind == "product":
        entry, squares = _entry(arithmetic), np.square(value)
        # What a dense Jacobian adds to a product where terms cancel before it: in its entries, and in its sums.
        excess = np.maximum(np.square(direct) - squares, 0.0)
        if excess.any():
            own = SumError.of(chunk.form.n_states, arithmetic)
            variance = variance + (own.of_squares + entry[0] ** 2) * excess
            worst = worst + (own.of_magnitudes + entry[1]) * np.sqrt(excess)
        registers.add(to, *weighted(chunk.weight(op.name, backwards), value, variance, worst, arithmetic, entry))
        return
    factor, lost = chunk.factor(op), arithmetic.underflow
    variance = factor.squares * variance + factor.variance * np.square(value) + lost**2
    worst = factor.most * worst + factor.worst * np.abs(value) + lost
    through = factor.size * direct
    registers.direct(to)[...] += through
    # The diagonal of a dense Jacobian: an operand, and a term of a sum whose partial sums are as large as it is, as are
    # those of a matrix product that is added up onto it.
    if any(to.register == end.register for end in (*ends, *program.inner)):
        terms, adding = chunk.form.n_states, arithmetic.accumulate
        variance += (2 * arithmetic.operand**2 + terms * adding**2) * np.square(through)
        worst += (2 * arithmetic.operand + terms * adding) * through
    registers.add(to, factor.numbers * value, variance, worst)


def _entry(arithmetic: Arithmetic) -> tuple[float, float]:
    """One more rounding of each entry of a weight: deviation and worst case."""
    return 2 * arithmetic.unit, 3 * arithmetic.unit


def _changed(chunk: Chunk, op: Operation, change: Weight) -> tuple[Array, Array, Array]:
    """``dW m``, or ``dw * m``, and variance and worst case of its error."""
    m, error = chunk.form.variable(op.variable or ""), chunk.of_variable(op.variable or "")
    variance, worst = (0.0, 0.0) if error is None else (np.square(error.deviation), error.worst)
    if op.kind == "product":
        return weighted(change, m, variance, worst, chunk.arithmetic, _entry(chunk.arithmetic))
    entries, squares, magnitudes = (part[:, 0] for part in change)
    value, unit = entries * m, chunk.arithmetic.unit
    return value, squares * variance + 2 * np.square(unit * value), magnitudes * worst + 2 * unit * np.abs(value)


def _move(
    registers: _Registers, to: View, direct: Array, value: Array, variance: Array, worst: Array, unit: float
) -> None:
    """Sums over adjacent columns, or each column several times; of what is direct the root of the sum of squares.

    In a dense Jacobian the terms of such a sum are entries of their own, each with its own rounding.
    """
    width = value.shape[-1]
    if to.width <= width:
        shape, terms = (*value.shape[:-1], to.width, -1), width // to.width
        size = unit * np.abs(value).reshape(shape).sum(axis=-1)
        value, variance, worst = (part.reshape(shape).sum(axis=-1) for part in (value, variance, worst))
        variance, worst = variance + terms * np.square(size), worst + terms * size
        direct = np.sqrt(np.square(direct).reshape(shape).sum(axis=-1))
    else:
        value, variance, worst, direct = (
            np.repeat(part, to.width // width, axis=-1) for part in (value, variance, worst, direct)
        )
    registers.direct(to)[...] += direct
    registers.add(to, value, variance, worst)
