"""Compiled ``D = P J`` and its transpose in one sweep, over a block of trials.

J and P have their gates in common:

    dz[n+1] = C0 * dz[n] + sum_g G_g * (dW_g m[n] + dU_g x[n] + db_g + W_g (S * dz[n])),

and backwards, with ``c_g = G_g[n] * l[n]``, the costate needs ``sum_g W_g^T c_g`` and the gradient ``c_g^T m[n]``. So
each gate is read once and not twice, and neither the image of J nor the costates are written to memory. The products
with m and x are made for several steps at once, `chunk` of them: a matrix of parameters is larger than the states of a
block, and would be streamed through the cache at each step.
"""

from __future__ import annotations

import numpy as np

from kpref.kernels.blas import add_product, product, row_length
from kpref.kernels.compilation import kernel
from kpref.kernels.jacobian import decayed_sum, gated, gated_sum, sloped
from kpref.kernels.parameters import add_outer_products, one, site_currents

__all__ = ["sensitivity", "sensitivity_transpose"]


@kernel
def sensitivity(form, recurrent, driven, out, start, stop, chunk):  # type: ignore[no-untyped-def]
    """The trials start, ..., stop - 1 of ``D dtheta`` for each vector; dtheta as `ParameterLayout.pack` makes it."""
    steps, _, units = form.variable.shape
    trials = stop - start
    state, scratch, currents, variable, drive = _workspace(form, trials, chunk)
    for vector in range(driven.entries.shape[0]):
        state[:] = 0
        for step in range(steps):
            place = step % chunk
            if place == 0:
                rows = _gather(form, step, min(step + chunk, steps), start, stop, variable, drive)
                site_currents(
                    variable[:rows], drive[:rows], one(recurrent, vector), one(driven, vector), currents[:rows]
                )
            here = currents[place * trials : (place + 1) * trials]
            if step > 0:
                x = sloped(form, step, start, trials, state, scratch)
                add_product(x, form.weight_transposed, here)
            gated_sum(form, step, start, trials, state, here, state)
            for trial in range(trials):
                for unit in range(units):
                    out[vector, start + trial, step, unit] = state[trial, unit]


@kernel
def sensitivity_transpose(form, tensors, recurrent, driven, start, stop, chunk):  # type: ignore[no-untyped-def]
    """Add ``D^T g`` over the trials start, ..., stop - 1 of each tensor to the matrices of the parameters."""
    steps, _, units = form.variable.shape
    trials = stop - start
    costate, scratch, currents, variable, drive = _workspace(form, trials, chunk)
    for vector in range(driven.entries.shape[0]):
        costate[:] = 0
        for step in range(steps - 1, -1, -1):
            for trial in range(trials):
                for unit in range(units):
                    costate[trial, unit] += tensors[vector, start + trial, step, unit]
            place = step % chunk
            here = currents[place * trials : (place + 1) * trials]
            gated(form, step, start, trials, costate, here)
            if step > 0:
                product(here, form.weight, scratch)
                decayed_sum(form, step, start, trials, costate, scratch, costate)
            if place == 0:
                rows = _gather(form, step, min(step + chunk, steps), start, stop, variable, drive)
                add_outer_products(
                    variable[:rows], drive[:rows], currents[:rows], one(recurrent, vector), one(driven, vector)
                )


@kernel
def _workspace(form, trials, chunk):  # type: ignore[no-untyped-def]
    """A state of zeros, room for another, and for the currents, the site variable and the drive of a chunk."""
    units, kind = form.variable.shape[2], form.variable.dtype
    rows = min(chunk, form.variable.shape[0]) * trials
    columns = row_length(form.gates.shape[2] * units, units, form.variable.itemsize)
    return (
        np.zeros((trials, units), kind),
        np.empty((trials, units), kind),
        np.empty((rows, columns), kind),
        np.empty((rows, units), kind),
        np.empty((rows, form.drive.shape[2]), kind),
    )


@kernel
def _gather(form, first, last, start, stop, variable, drive):  # type: ignore[no-untyped-def]
    """Copy the site variable and the drive of some steps and trials to adjacent rows; returns how many."""
    trials = stop - start
    for step in range(first, last):
        for trial in range(trials):
            row = (step - first) * trials + trial
            for unit in range(variable.shape[1]):
                variable[row, unit] = form.variable[step, start + trial, unit]
            for entry in range(drive.shape[1]):
                drive[row, entry] = form.drive[step, start + trial, entry]
    return (last - first) * trials
