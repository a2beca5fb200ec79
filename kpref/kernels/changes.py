"""Changes of the trained weights of a program in panels, and gradients by them: what compiled code takes and fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.kernels.panels import Panels, aligned_zeros, as_matrices, as_panels, panel_width, whole_lines
from kpref.step_form import StepForm

__all__ = ["Changes", "Weights", "as_weights", "packed_changes", "unpacked_changes", "zero_changes"]

Array = npt.NDArray[Any]


class Weights(NamedTuple):
    """Several matrices in panels, one after the other, each beginning where a line of the cache does.

    Attributes
    ----------
    entries : ndarray, shape (n,) or (v, n) for several sets
    table : ndarray of int, shape (w, 4)
        First entry, rows, columns and width of a panel of each.
    """

    entries: Array
    table: Array


class Changes(NamedTuple):
    """Changes of the trained weights for several vectors, or gradients by them.

    Attributes
    ----------
    products : Weights
        Of products, transposed: (inputs, outputs).
    units : ndarray, shape (v, n)
        Of unit operations, side by side.
    """

    products: Weights
    units: Array


def as_weights(matrices: list[Array], dtype: npt.DTypeLike, sets: tuple[int, ...] = ()) -> Weights:
    """Matrices (rows, columns), or (v, rows, columns) for sets (v,) of them, in panels."""
    panels = [as_panels(np.ascontiguousarray(matrix, dtype)) for matrix in matrices]
    weights = _zero_weights([(one.rows, one.columns) for one in panels], dtype, sets)
    for one, first in zip(panels, weights.table[:, 0], strict=True):
        weights.entries[..., first : first + one.rows * one.columns] = one.entries
    return weights


def _zero_weights(shapes: Sequence[tuple[int, int]], dtype: npt.DTypeLike, sets: tuple[int, ...]) -> Weights:
    first = np.cumsum([0] + [whole_lines(rows * columns, dtype) for rows, columns in shapes])
    table = [
        (at, rows, columns, panel_width(rows, columns, dtype))
        for at, (rows, columns) in zip(first, shapes, strict=False)
    ]
    return Weights(
        aligned_zeros((*sets, int(first[-1])), dtype), np.array(table, dtype=np.int64).reshape(len(shapes), 4)
    )


def packed_changes(form: StepForm, vectors: Array) -> Changes:
    """Parameter vectors (v, M) as changes of the weights."""
    changes, kinds = form.pack(vectors), _kinds(form)
    units = [changes[name][:, 0] for name in form.trained if kinds[name] == "unit"]
    empty = np.zeros((len(vectors), 0), form.dtype)
    matrices = [
        changes[name].swapaxes(1, 2) if kinds[name] == "product" else np.zeros((len(vectors), 0, 0))
        for name in form.trained
    ]
    return Changes(
        as_weights(matrices, form.dtype, (len(vectors),)), np.concatenate([empty, *units], axis=1, dtype=form.dtype)
    )


def zero_changes(form: StepForm, vectors: int) -> Changes:
    """Changes of zero."""
    kinds = _kinds(form)
    shapes = [form.weights[name].shape[::-1] if kinds[name] == "product" else (0, 0) for name in form.trained]
    units = sum(form.weights[name].shape[1] for name in form.trained if kinds[name] == "unit")
    return Changes(_zero_weights(shapes, form.dtype, (vectors,)), np.zeros((vectors, units), form.dtype))


def unpacked_changes(form: StepForm, changes: Changes) -> Array:
    """Gradients by the weights as parameter vectors (v, M)."""
    kinds, found, unit = _kinds(form), {}, 0
    for name, (first, rows, columns, width) in zip(form.trained, changes.products.table, strict=True):
        if kinds[name] == "unit":
            size = form.weights[name].shape[1]
            found[name] = changes.units[:, None, unit : unit + size]
            unit += size
            continue
        entries = changes.products.entries[:, first : first + rows * columns]
        found[name] = as_matrices(Panels(entries, int(rows), int(columns), int(width))).swapaxes(1, 2)
    return form.unpack(found)


def _kinds(form: StepForm) -> dict[str, str]:
    return {op.name: op.kind for op in form.program.operations}
