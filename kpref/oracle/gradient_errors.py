"""What rounding can do to ``J^T g``: sums over all points of cotangents times what the trained weights multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from kpref._types import Array
from kpref.oracle import running_errors
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.random_errors import at_once, signed
from kpref.oracle.spreads import Spread, SumError, no_error, relative
from kpref.program import Operation
from kpref.step_form import StepForm

__all__ = ["gradient_errors", "powered"]

#: Of what is part of the state, or known to be exact: one error for all.
_EXACT = no_error((1,))


def gradient_errors(
    form: StepForm,
    arithmetic: Arithmetic,
    chunks: Iterable[running_errors.Chunk],
    g: Array,
    extra: int = 0,
    samples: int = 0,
    drawn: Callable[[running_errors.Chunk, Array], Iterable[Array] | None] = lambda chunk, g: None,
) -> tuple[Array, Spread, Array]:
    """``J^T g``, the error that a backend may make, and random errors (samples, M) for use where J multiplies it.

    `chunks`: the linearisation with the errors of its numbers. `g`: shape (B, T, H). `extra`: roundings of g on the
    way. `drawn`: random errors (points, M) of the terms of a chunk, one such array a run, where there are any: they
    stand for what cotangents and variables err by, which all stages of a step share.

    An operand of its sums, ``G g`` or m, errs alike in a whole row or column of a parameter. J adds these up where
    states point in one direction for long, so that errors drawn for each entry alone would come out too small;
    the random ones stand for those of the sums, and each entry errs by what adding up and storing lose beside. Both
    operands may err by more than they are, far from where they are linear in the states: then the product of their
    errors is what counts.
    """
    generator = np.random.default_rng(1)
    sums, of_runs = _Sums(form, arithmetic, extra), list[tuple[Array, Array]]()
    noise = form.pack(np.zeros((samples, form.n_parameters)))
    for chunk in chunks:
        given = np.moveaxis(g[:, chunk.rows], 1, 0)
        if (runs := drawn(chunk, given)) is not None:
            of_runs.append(_together(runs, generator, samples))
        for op, terms, variance, worst in running_errors.gradient_terms(chunk, given):
            m, wrong = chunk.form.variable(op.variable or ""), chunk.of_variable(op.variable or "")
            off = _EXACT if wrong is None else wrong
            variances = (variance, np.square(off.deviation)) if runs is None else (_EXACT.deviation, _EXACT.deviation)
            if samples:
                noise[op.name] += _noise(arithmetic, generator, samples, op.kind, (terms, m), variances)
            sums.add(op, (terms, m), variances, (worst, off.worst))
    value, spread, adding = sums.found(sum(squares for squares, _ in of_runs))
    errors = form.unpack(noise)
    noise.clear()  # as large as what was made of it
    for _, some in of_runs:
        errors += some
    errors += signed(generator, adding, samples)
    return value, spread, errors


class _Sums:
    """Sums over points of products of two operands: values, variances of their errors, worst cases.

    Where sums are truncated, also of squares and of magnitudes.
    """

    def __init__(self, form: StepForm, arithmetic: Arithmetic, extra: int) -> None:
        self._form, self._unit = form, arithmetic.unit
        self._own = SumError.of(form.n_steps * form.n_trials, arithmetic)
        # Of the squares of terms in a variance: in all, and by their operands.
        self._of_operands = 2 * arithmetic.operand**2 + (1 + extra) * arithmetic.unit**2
        self._of_squares = self._own.of_squares + (1 + extra) * arithmetic.unit**2
        self._rounded = (1 + extra) * arithmetic.unit
        self._powers = (None, 2, 1, 2, 1) if self._own.drift else (None, 2, 1)
        self._sums = [form.pack(np.zeros((1, form.n_parameters))) for _ in self._powers]

    def add(
        self, op: Operation, operands: tuple[Array, Array], variances: tuple[Array, Array], worst: tuple[Array, Array]
    ) -> None:
        """Those of an operation, given the errors of both operands."""
        (terms, m), (of_terms, of_m), own = operands, variances, self._own
        squares, sizes = np.square(terms), np.abs(terms)
        variance = of_terms + self._of_squares * squares
        most = worst[0] + (own.of_magnitudes + self._rounded) * sizes
        # Of independent errors var(c m) = var c (m^2 + var m) + c^2 var m.
        left = terms, variance, most, squares, sizes
        right = m, np.square(m) + of_m, np.abs(m) + worst[1], np.square(m), np.abs(m)
        for total, term, factor in zip(self._sums, left, right, strict=False):
            total[op.name][0] += _summed(op.kind, term, factor)
        if worst[1] is not _EXACT.worst:
            self._sums[1][op.name][0] += _summed(op.kind, squares, of_m)
            self._sums[2][op.name][0] += _summed(op.kind, sizes, worst[1])

    def found(self, more: Array | float) -> tuple[Array, Spread, Array]:
        """``J^T g``; its error, of which some variance is known beside; the deviation that operands have no part in.

        That of adding up is in the variance of terms the same part for all, or less where they err by more.
        """
        value, variance, most, *sizes_of_terms = (
            powered(self._form, power).unpack(total)[0] for power, total in zip(self._powers, self._sums, strict=True)
        )
        sizes = sizes_of_terms or (0.0, 0.0)
        adding, _ = self._own.with_total(value, (1 - self._of_operands / self._of_squares) * variance, most, *sizes)
        variance, most = self._own.with_total(value, variance + more, most, *sizes)
        stored = relative(value, self._unit, 2)
        spread = Spread(np.sqrt(variance), most) + stored
        return value, spread, np.sqrt(adding + np.square(stored.deviation))


def _together(runs: Iterable[Array], generator: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """Mean square (M,) of the sums over points of random errors (points, M), one such array a run; and some sums.

    Points err independently: with other signs for them a run makes another sum, as likely.
    """
    squares, sums, count = np.zeros(()), np.zeros(()), 0
    with np.errstate(over="ignore", invalid="ignore"):  # a deviation that is not finite is said to explain all
        for errors in runs:
            squares = squares + np.square(errors).sum(axis=0)
            sums = sums + signed(generator, np.ones(len(errors)), samples) @ errors
            count += 1
    return squares / count, sums / np.sqrt(count)


def _noise(
    arithmetic: Arithmetic,
    generator: np.random.Generator,
    samples: int,
    kind: str,
    operands: tuple[Array, Array],
    variances: tuple[Array, Array],
) -> Array:
    """Random errors of both operands of sums over points, each of which is stored; these have some already."""
    terms, m = operands
    of_terms = np.sqrt(variances[0] + (2 * arithmetic.unit**2 + arithmetic.operand**2) * np.square(terms))
    of_m, found = np.sqrt(variances[1] + arithmetic.operand**2 * np.square(m)), []
    exact = not of_m.any()
    for count in at_once(samples, max(of_terms.size, of_m.size)):
        off = signed(generator, of_terms, count)
        if exact:
            found.append(_summed(kind, off, m))
            continue
        m_off = signed(generator, of_m, count)
        found.append(_summed(kind, off, m + m_off) + _summed(kind, terms, m_off))
    return np.concatenate(found)


def _summed(kind: str, terms: Array, m: Array) -> Array:
    """Sums over points of cotangents times a variable: (outputs, inputs) of a product, (1, width) of a unit.

    Of arrays (..., R, B, width), what stands before R being kept.
    """
    if m.shape[-3:-1] != terms.shape[-3:-1]:
        m = np.broadcast_to(m, (*terms.shape[-3:-1], m.shape[-1]))
    if kind == "unit":
        return np.asarray((terms * m).sum(axis=(-3, -2))[..., None, :])
    left, right = (array.reshape(*array.shape[:-3], -1, array.shape[-1]) for array in (terms, m))
    return np.asarray(left.swapaxes(-1, -2) @ right)


def powered(form: StepForm, power: int | None) -> StepForm:
    """The form whose trained arrays enter with the magnitude of their factors, to a power; None for as they are.

    So it packs the magnitudes of changes to the sums of what enters the same place of a weight, where terms may cancel.
    """
    if power is None:
        return form
    known = _powers.setdefault(form, {})
    if power not in known:
        entries = (replace(entry, factor=np.abs(entry.factor) ** power) for entry in form.entries)
        known[power] = replace(form, entries=tuple(entries))
    return known[power]


#: Forms that were asked for, by what they are made of and the power.
_powers: WeakKeyDictionary[StepForm, dict[int, StepForm]] = WeakKeyDictionary()
