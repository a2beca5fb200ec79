"""Compiled products with the parameter Jacobian J of a map and with its transpose, over a block of rows.

A row is one (time, trial) pair, in the order of the coefficients: row = step * B + trial. Parameters come as the two
matrices of `kpref.linearize.ParameterLayout` in panels: recurrent (H, k_r H), with no columns where it is not
trainable, and driven (n_in + 1, k H).
"""

from __future__ import annotations

import numpy as np

from kpref.kernels.blas import add_product, add_transposed_product, product, row_length
from kpref.kernels.compilation import kernel
from kpref.kernels.panels import Panels

__all__ = ["add_outer_products", "one", "parameter_product", "parameter_transpose", "site_currents"]

# Rows that one matrix product handles: the products are near their best rate, and their operands stay in cache.
_CHUNK = 128


@kernel
def parameter_product(form, recurrent, driven, out, start, stop):  # type: ignore[no-untyped-def]
    """Rows start, ..., stop - 1 of ``J dtheta = sum_g G_g * (dW_g m + dU_g x + db_g)`` for each vector."""
    trials, units = form.variable.shape[1], form.variable.shape[2]
    gates = driven.columns // units
    variable = form.variable.reshape(-1, units)
    drive = form.drive.reshape(-1, form.drive.shape[2])
    currents = np.empty((_CHUNK, row_length(driven.columns, units, variable.itemsize)), variable.dtype)
    for vector in range(driven.entries.shape[0]):
        for first in range(start, stop, _CHUNK):
            last = min(first + _CHUNK, stop)
            site_currents(
                variable[first:last],
                drive[first:last],
                one(recurrent, vector),
                one(driven, vector),
                currents[: last - first],
            )
            for row in range(first, last):
                step, trial = row // trials, row % trials
                gate_step = step if form.gates.shape[0] > 1 else 0
                gate_trial = trial if form.gates.shape[1] > 1 else 0
                for unit in range(units):
                    out[vector, trial, step, unit] = (
                        form.gates[gate_step, gate_trial, 0, unit] * currents[row - first, unit]
                    )
                for gate in range(1, gates):
                    column = gate * units
                    for unit in range(units):
                        out[vector, trial, step, unit] += (
                            form.gates[gate_step, gate_trial, gate, unit] * currents[row - first, column + unit]
                        )


@kernel
def parameter_transpose(form, tensor, recurrent, driven, start, stop):  # type: ignore[no-untyped-def]
    """Add ``J^T g`` over the rows start, ..., stop - 1: dW_g += (G_g * g)^T m, (dU_g, db_g) += (G_g * g)^T (x, 1)."""
    trials, units = form.variable.shape[1], form.variable.shape[2]
    gates = driven.columns // units
    variable = form.variable.reshape(-1, units)
    drive = form.drive.reshape(-1, form.drive.shape[2])
    currents = np.empty((_CHUNK, row_length(driven.columns, units, variable.itemsize)), variable.dtype)
    for vector in range(driven.entries.shape[0]):
        for first in range(start, stop, _CHUNK):
            last = min(first + _CHUNK, stop)
            for row in range(first, last):
                step, trial = row // trials, row % trials
                gate_step = step if form.gates.shape[0] > 1 else 0
                gate_trial = trial if form.gates.shape[1] > 1 else 0
                for gate in range(gates):
                    column = gate * units
                    for unit in range(units):
                        currents[row - first, column + unit] = (
                            form.gates[gate_step, gate_trial, gate, unit] * tensor[vector, trial, step, unit]
                        )
            add_outer_products(
                variable[first:last],
                drive[first:last],
                currents[: last - first],
                one(recurrent, vector),
                one(driven, vector),
            )


@kernel
def one(matrices, vector):  # type: ignore[no-untyped-def]
    """One of several matrices in panels."""
    return Panels(matrices.entries[vector], matrices.rows, matrices.columns, matrices.width)


@kernel
def site_currents(variable, drive, recurrent, driven, currents):  # type: ignore[no-untyped-def]
    """``currents_g = dW_g m + dU_g x + db_g`` for rows of m and (x, 1)."""
    product(drive, driven, currents)
    add_product(variable, recurrent, currents)


@kernel
def add_outer_products(variable, drive, currents, recurrent, driven):  # type: ignore[no-untyped-def]
    """The transpose of `site_currents`, added: dW_g += currents_g^T m, (dU_g, db_g) += currents_g^T (x, 1)."""
    add_transposed_product(drive, currents, driven)
    add_transposed_product(variable, currents, recurrent)
