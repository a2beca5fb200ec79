"""Changes of the trained weights of a program in panels, and gradients by them: what compiled code takes and fills.

A trained array enters weights, and a weight stands in panels, transposed. So a parameter vector goes there in *pieces*,
each a block of rows and columns with a stride along both on either side, and a gradient comes back the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.panels import aligned_zeros, panel_width, whole_lines
from kpref.step_form import Entry, StepForm

__all__ = ["Changes", "Packing", "gradient_products", "gradients", "packed_changes", "packing_of", "zero_changes"]


class Changes(NamedTuple):
    """Changes of the trained weights for several vectors, or gradients by them."""

    # (v, n): weights of products, transposed to (inputs, outputs) and in panels, one after the other, each beginning
    # where a line of the cache does; then those of units
    entries: Array
    table: Array  # (w, 4): first entry, rows, columns and width of a panel of each
    units: int  # first entry of the weights of units


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the entries of parameter vectors go."""

    table: Array  # (w, 4)
    units: int  # as of `Changes`
    # length, parameters: entries of the changes of all weights, and of a parameter vector
    length: int
    parameters: int
    # (p, 11): outputs and inputs of a piece; where it begins in a parameter vector, and how far it is to the next
    # output and the next input there; the same in the changes, and in the factors
    pieces: Array
    factors: Array

    @cached_property
    def weights(self) -> tuple[npt.NDArray[np.intp], Array] | None:
        """Places k of changes c and weights e_k with ``g . g' = c . c' + sum_k e_k c_k c'_k`` for gradients g by them.

        With E the matrix of `packed_changes`, ``g = E^T c`` and ``g . g' = c . E E^T c'``, which is diagonal where no
        parameter enters two places; None where one does.
        """
        places, squares = np.ones((1, self.length)), np.zeros((1, self.length))
        uses, ones = np.zeros((1, self.parameters)), np.ones((1, self.parameters))
        _add(self.pieces, (self.factors != 0).astype(float), uses, places, True)
        _add(self.pieces, np.square(self.factors, dtype=float), ones, squares, False)
        if uses.max(initial=0.0) > 1:
            return None
        other = np.flatnonzero(squares[0] != 1.0)
        return other, squares[0, other] - 1.0


def packing_of(form: StepForm) -> Packing:
    """Where the entries of parameter vectors go: it follows from the form, and is found once."""
    is_unit = {op.name: op.kind == "unit" for op in form.program.operations}
    first, length = dict[str, int](), 0
    for name in sorted(form.trained, key=is_unit.__getitem__):  # those of units last
        first[name] = length
        size = form.weights[name].size
        length += size if is_unit[name] else whole_lines(size, form.dtype)
    length = whole_lines(length, form.dtype)
    table = []
    for name in form.trained:
        outputs, inputs = (0, 0) if is_unit[name] else form.weights[name].shape
        table.append((first[name], inputs, outputs, panel_width(inputs, outputs, form.dtype)))
    pieces, factors = _pieces(form, first, length)
    return Packing(
        np.array(table, np.int64).reshape(len(table), 4),
        min((first[name] for name in form.trained if is_unit[name]), default=length),
        length,
        form.n_parameters,
        np.array(pieces, np.int64).reshape(len(pieces), 11),
        np.concatenate(factors),
    )


def _pieces(form: StepForm, first: dict[str, int], length: int) -> tuple[list[list[int]], list[Array]]:
    """The pieces of all entries, and their factors side by side."""
    vector, changes = np.empty(form.n_parameters, np.int8), np.empty(length, np.int8)  # only views tell what is where
    arrays = form.split(vector[None])
    pieces, factors, count = [], [np.empty(0, form.dtype)], 0
    for entry in form.entries:
        part = arrays[entry.parameter][0, entry.part]
        factor = np.asarray(entry.factor, form.dtype)
        factors.append(np.broadcast_to(factor, part.shape if factor.ndim else 1).reshape(-1))
        by = (part.shape[1], 1) if factor.ndim else (0, 0)
        if entry.transposed:
            part, by = part.T, by[::-1]
        for outputs, panel in _panels(form, entry, changes[first[entry.weight] :]):
            piece = part[outputs]
            of, to = (each.ctypes.data - base.ctypes.data for each, base in ((piece, vector), (panel, changes)))
            pieces.append([
                *panel.shape, of, *piece.strides, to, *panel.strides, count + by[0] * outputs.start, *by
            ])  # fmt: skip
        count += len(factors[-1])
    return pieces, factors


def _panels(form: StepForm, entry: Entry, entries: Array) -> Iterator[tuple[slice, Array]]:
    """Which outputs of an entry are in each panel of its weight, and where they stand: a view (outputs, inputs)."""
    outputs, inputs = form.weights[entry.weight].shape
    width = panel_width(inputs, outputs, form.dtype)
    begin, end, _ = entry.rows.indices(outputs)
    for column in range(begin - begin % width, end, width):
        columns = min(width, outputs - column)
        panel = entries[column * inputs : (column + columns) * inputs].reshape(inputs, columns).T
        low, high = max(begin, column), min(end, column + columns)
        yield slice(low - begin, high - begin), panel[low - column : high - column, entry.columns]


def zero_changes(packing: Packing, vectors: int) -> Changes:
    """Changes of zero."""
    entries = aligned_zeros((vectors, packing.length), packing.factors.dtype)
    return Changes(entries, packing.table, packing.units)


def packed_changes(packing: Packing, vectors: Array) -> Changes:
    """Parameter vectors (v, M) as changes of the weights."""
    changes = zero_changes(packing, len(vectors))
    _add(packing.pieces, packing.factors, vectors, changes.entries, False)
    return changes


def gradients(packing: Packing, changes: Changes) -> Array:
    """Gradients by the weights as parameter vectors (v, M): the transpose of `packed_changes`."""
    vectors = np.zeros((len(changes.entries), packing.parameters), changes.entries.dtype)
    _add(packing.pieces, packing.factors, vectors, changes.entries, True)
    return vectors


def gradient_products(packing: Packing, changes: Changes) -> Array:
    """Inner products of `gradients`, (v, v) in float64, without these where that can be."""
    if packing.weights is None:
        rows = gradients(packing, changes).astype(float, copy=False)
        return rows @ rows.T
    entries = changes.entries.astype(float, copy=False)
    places, weights = packing.weights
    some = entries[:, places]
    products = (some * weights) @ some.T
    for this, row in enumerate(entries):  # BLAS is slow at products of a few long rows
        for other in range(this + 1):
            products[this, other] += row @ entries[other]
            products[other, this] = products[this, other]
    return np.asarray(products)


@kernel
def _add(pieces, factors, vectors, changes, back):  # type: ignore[no-untyped-def]
    """Add vectors into changes, or (`back`) changes into vectors, piece by piece."""
    for vector in range(len(vectors)):
        for k in range(len(pieces)):
            outputs, inputs = pieces[k, 0], pieces[k, 1]
            for output in range(outputs):
                of = pieces[k, 2] + output * pieces[k, 3]
                to = pieces[k, 5] + output * pieces[k, 6]
                factor = pieces[k, 8] + output * pieces[k, 9]
                by_vector, by_change, by_factor = pieces[k, 4], pieces[k, 7], pieces[k, 10]
                for _ in range(inputs):
                    if back:
                        vectors[vector, of] += changes[vector, to] * factors[factor]
                    else:
                        changes[vector, to] += vectors[vector, of] * factors[factor]
                    of += by_vector
                    to += by_change
                    factor += by_factor
