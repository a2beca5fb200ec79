"""What rounding can do to one product with A, A^T, J or J^T: value and size of the error, row by row.

All functions take tensors time first, (R, B, H), for the rows of a chunk of the linearisation, and analyse the very
computation: gates, currents and sums as the site form has them, with the errors of the coefficients propagated. A
backend that forms dense Jacobians first rounds their entries once more; that is allowed for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.models.step import StepModel
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.coefficients import CoefficientErrors, Spread, coefficient_errors, relative, sum_error
from kpref.site_view import SiteForm

__all__ = ["Chunk", "chunks", "jacobian", "jacobian_transpose", "parameter_product", "parameter_terms"]

Array = npt.NDArray[Any]

#: Entries of a (rows, B, k H) tensor that one chunk may hold: bounds the memory of the analysis, and keeps it in cache.
_CHUNK_ENTRIES = 1 << 13


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive rows of a linearisation with the errors of a backend's coefficients.

    Attributes
    ----------
    rows : slice
    decay, gates, slope, variable, drive : ndarray
        The coefficients on these rows, all axes present; slope is ones where m = z.
    weight : ndarray, shape (k_r H, H)
    errors : CoefficientErrors
    arithmetic : Arithmetic
    """

    rows: slice
    decay: Array
    gates: Array
    slope: Array
    variable: Array
    drive: Array
    weight: Array
    errors: CoefficientErrors
    arithmetic: Arithmetic

    @property
    def n_recurrent(self) -> int:
        """Number of recurrent gates."""
        return len(self.weight) // self.weight.shape[1]


def chunks(model: StepModel, form: SiteForm, states: Array, inputs: Array, arithmetic: Arithmetic) -> Iterator[Chunk]:
    """The linearisation of `model` at states (R, B, H) under inputs (R, B, n_in), a few rows at a time."""
    rows, trials, units = states.shape
    lost = Spread(np.array(arithmetic.underflow), np.array(arithmetic.underflow))
    step = max(1, _CHUNK_ENTRIES // (trials * units * form.gates.shape[2]))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        shape = (part.stop - part.start, trials, units)
        gates = form.gates if form.gates.shape[0] == 1 else form.gates[part]
        slope = form.slope[part] if form.slope.size else np.ones((1, 1, 1))
        yield Chunk(
            rows=part,
            decay=np.broadcast_to(form.decay if form.decay.shape[0] == 1 else form.decay[part], shape),
            gates=np.broadcast_to(gates, (*shape[:2], form.gates.shape[2], units)),
            slope=np.broadcast_to(slope, shape),
            variable=form.variable[part],
            drive=form.drive[part],
            weight=form.weight,
            errors=_with_underflow(coefficient_errors(model, states[part], inputs[part], arithmetic), lost),
            arithmetic=arithmetic,
        )


def _with_underflow(errors: CoefficientErrors, lost: Spread) -> CoefficientErrors:
    return replace(errors, **{name: getattr(errors, name) + lost for name in ("decay", "gates", "value")})


def _weighted(weight: Array, vector: Array, carried: Spread, arithmetic: Arithmetic) -> tuple[Array, Spread]:
    """``W v`` with v stored, its own error carried along, and one more rounding of each entry of W."""
    total = vector @ weight.T
    squares = np.square(vector) @ np.square(weight).T
    magnitudes = np.abs(vector) @ np.abs(weight).T
    unit = arithmetic.unit
    error = sum_error(total, squares, magnitudes, weight.shape[1], arithmetic)
    entries = Spread(2 * unit * np.sqrt(squares), 3 * unit * magnitudes)
    through = Spread(np.sqrt(np.square(carried.deviation) @ np.square(weight).T), carried.worst @ np.abs(weight).T)
    return total, error + entries + through


def _gathered(values: Array, spread: Spread, unit: float) -> tuple[Array, Spread]:
    """Sum over gates (..., k, H), each partial sum stored."""
    total = values.sum(axis=-2)
    magnitudes = np.abs(values).sum(axis=-2)
    summed = Spread(np.sqrt(np.square(spread.deviation).sum(axis=-2)), spread.worst.sum(axis=-2))
    return total, summed + relative(magnitudes, unit, values.shape[-2] + 1)


def _kept_error(chunk: Chunk, x: Array) -> Spread:
    """Error of the direct term; in a dense Jacobian it and x are operands of a matrix product.

    Entries of a dense Jacobian that are too small for the arithmetic are lost one by one.
    """
    kept, arithmetic = chunk.decay * x, chunk.arithmetic
    entries = relative(np.abs(x).sum(axis=-1, keepdims=True), arithmetic.underflow)
    return (
        entries
        + chunk.errors.decay.times(x)
        + relative(kept, arithmetic.unit, 3)
        + relative(kept, arithmetic.operand, 2)
    )


def jacobian(chunk: Chunk, x: Array) -> tuple[Array, Spread]:
    """``A x = C0 x + sum_g G_g W_g (S x)`` and the error that a backend may make."""
    unit, errors, k = chunk.arithmetic.unit, chunk.errors, chunk.n_recurrent
    scaled = chunk.slope * x
    lost = chunk.arithmetic.underflow
    carried = errors.slope.times(x) + relative(scaled, unit, 2) + relative(np.ones_like(x), lost)
    currents, error = _weighted(chunk.weight, scaled, carried, chunk.arithmetic)
    currents = currents.reshape(*x.shape[:2], k, x.shape[2])
    error = Spread(error.deviation.reshape(currents.shape), error.worst.reshape(currents.shape))
    gates = chunk.gates[:, :, :k]
    gate_error = errors.gates[..., :k, :]
    terms = gates * currents
    spread = error.times(gates) + gate_error.times(currents) + relative(terms, unit, 2)
    total, spread = _gathered(terms, spread, unit)
    kept = chunk.decay * x
    return total + kept, spread + _kept_error(chunk, x) + relative(total + kept, unit)


def jacobian_transpose(chunk: Chunk, x: Array) -> tuple[Array, Spread]:
    """``A^T x = C0 x + S sum_g W_g^T (G_g x)`` and the error that a backend may make."""
    unit, errors, k = chunk.arithmetic.unit, chunk.errors, chunk.n_recurrent
    terms = chunk.gates[:, :, :k] * x[:, :, None]
    lost = chunk.arithmetic.underflow
    carried = errors.gates[..., :k, :].times(x[:, :, None]) + relative(terms, unit, 2) + relative(np.ones(1), lost)
    shape = (*x.shape[:2], -1)
    flat = Spread(carried.deviation.reshape(shape), carried.worst.reshape(shape))
    total, spread = _weighted(chunk.weight.T, terms.reshape(shape), flat, chunk.arithmetic)
    scaled = chunk.slope * total
    spread = spread.times(chunk.slope) + errors.slope.times(total) + relative(scaled, unit, 2)
    kept = chunk.decay * x
    return scaled + kept, spread + _kept_error(chunk, x) + relative(scaled + kept, unit)


def parameter_product(chunk: Chunk, recurrent: Array, driven: Array) -> tuple[Array, Spread]:
    """``J dtheta`` for one direction, given as the matrices of `ParameterLayout`, and the error of a backend."""
    unit, errors = chunk.arithmetic.unit, chunk.errors
    gates, units = chunk.gates.shape[2:]
    none = Spread(np.zeros(1), np.zeros(1))
    currents, error = _weighted(driven.T, chunk.drive, _like(none, chunk.drive), chunk.arithmetic)
    columns = recurrent.shape[1]
    if columns:
        more, more_error = _weighted(
            recurrent.T, chunk.variable, _like(errors.variable, chunk.variable), chunk.arithmetic
        )
        currents = currents.copy()
        currents[..., :columns] += more
        padded = Spread(np.zeros_like(currents), np.zeros_like(currents))
        padded.deviation[..., :columns], padded.worst[..., :columns] = more_error.deviation, more_error.worst
        error = error + padded + relative(currents, unit, 2)
    shape = (*currents.shape[:2], gates, units)
    currents = currents.reshape(shape)
    error = Spread(error.deviation.reshape(shape), error.worst.reshape(shape))
    terms = chunk.gates * currents
    spread = error.times(chunk.gates) + errors.gates.times(currents) + relative(terms, unit, 2)
    return _gathered(terms, spread, unit)


def parameter_terms(chunk: Chunk, g: Array) -> tuple[Array, Spread]:
    """``G_g g``, whose products with m and (x, 1) sum to J^T g, and the error that a backend may make in it."""
    terms = chunk.gates * g[:, :, None]
    return terms, chunk.errors.gates.times(g[:, :, None]) + relative(terms, chunk.arithmetic.unit, 2)


def _like(spread: Spread, array: Array) -> Spread:
    return Spread(np.broadcast_to(spread.deviation, array.shape), np.broadcast_to(spread.worst, array.shape))
