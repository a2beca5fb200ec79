"""What rounding can do to ``J^T g``: sums over all points of cotangents times what the trained weights multiply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from kpref._types import Array
from kpref.oracle import running_errors
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.random_errors import at_once, signed
from kpref.oracle.spreads import Spread, SumError, relative
from kpref.step_form import StepForm

__all__ = ["gradient_errors", "powered"]


def gradient_errors(
    form: StepForm,
    arithmetic: Arithmetic,
    chunks: Iterable[running_errors.Chunk],
    g: Array,
    extra: int = 0,
    samples: int = 0,
) -> tuple[Array, Spread, Array]:
    """``J^T g``, the error that a backend may make, and random errors (samples, M) for use where J multiplies it.

    `chunks`: the linearisation with the errors of its numbers. `g`: shape (B, T, H). `extra`: roundings of g on the
    way.

    An operand of its sums, ``G g`` or m, errs alike in a whole row or column of a parameter. J adds these up where
    states point in one direction for long, so that errors drawn for each entry alone would come out too small;
    the random ones stand for those of the sums.
    """
    generator = np.random.default_rng(1)
    own, rounded = SumError.of(form.n_steps * form.n_trials, arithmetic), (1 + extra) * arithmetic.unit
    # Sums of the terms, of the variances of their errors, of the worst cases; of their squares and magnitudes.
    powers = (None, 2, 1, 2, 1) if own.drift else (None, 2, 1)
    sums = [form.pack(np.zeros((1, form.n_parameters))) for _ in powers]
    noise = form.pack(np.zeros((samples, form.n_parameters)))
    for chunk in chunks:
        for op, terms, variance, worst in running_errors.gradient_terms(chunk, np.moveaxis(g[:, chunk.rows], 1, 0)):
            m, wrong = chunk.form.variable(op.variable or ""), chunk.of_variable(op.variable or "")
            squares, sizes = np.square(terms), np.abs(terms)
            if samples:
                noise[op.name] += _noise(arithmetic, generator, samples, op.kind, (terms, m), variance, wrong)
            variance = variance + (own.of_squares + rounded * arithmetic.unit) * squares
            worst = worst + (own.of_magnitudes + rounded) * sizes
            of_m = m, np.square(m), np.abs(m)
            parts = zip((terms, variance, worst, squares, sizes), (*of_m, *of_m[1:]), strict=True)
            for total, part in zip(sums, parts, strict=False):
                total[op.name][0] += _summed(op.kind, *part)
            if wrong is not None:
                sums[1][op.name][0] += _summed(op.kind, squares, np.square(wrong.deviation))
                sums[2][op.name][0] += _summed(op.kind, sizes, wrong.worst)
    value, variance, worst, *sizes_of_terms = (
        powered(form, power).unpack(total)[0] for power, total in zip(powers, sums, strict=True)
    )
    variance, worst = own.with_total(value, variance, worst, *(sizes_of_terms or (0.0, 0.0)))
    spread = Spread(np.sqrt(variance), worst) + relative(value, arithmetic.unit, 2)
    errors = form.unpack(noise)
    noise.clear()  # as large as what was made of it
    errors += signed(generator, spread.deviation, samples)
    return value, spread, errors


def _noise(
    arithmetic: Arithmetic,
    generator: np.random.Generator,
    samples: int,
    kind: str,
    operands: tuple[Array, Array],
    variance: Array,
    wrong: Spread | None,
) -> Array:
    """Random errors of both operands of sums over points, each of which is stored; those of m are `wrong`."""
    terms, m = operands
    of_terms = np.sqrt(variance + (2 * arithmetic.unit**2 + arithmetic.operand**2) * np.square(terms))
    square = arithmetic.operand**2 * np.square(m)
    if wrong is not None:
        square = square + np.square(wrong.deviation)
    exact, of_m, found = not square.any(), np.sqrt(square), []
    for count in at_once(samples, max(of_terms.size, of_m.size)):
        some = _summed(kind, signed(generator, of_terms, count), m)
        found.append(some if exact else some + _summed(kind, terms, signed(generator, of_m, count)))
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
