"""Compiled sweeps through the stages of an explicit Runge-Kutta method, over a block of trials.

The tangent of step n, of size h, with stages i = 0, ..., s - 1, linearised at the stage states (A[n,i]), is

    dk_i = A[n,i] dZ_i + q[n,i],   dZ_i = dz[n] + h sum_{j<i} a_ij dk_j,   dz[n+1] = dz[n] + h sum_i b_i dk_i,

and its transpose, for costates lambda and cotangents kappa_i of q[n,i] and mu_i of dZ_i,

    lambda += g[n+1];   for i = s-1, ..., 0:  kappa_i = h b_i lambda + h sum_{j>i} a_ji mu_j,  mu_i = A[n,i]^T kappa_i;
    lambda += sum_i mu_i

(Hager, Numer. Math. 87, 2000; Sanz-Serna, SIAM Review 58, 2016). Forcings come as tensors (vectors, trials, L, units)
and a table of sparse weights: q[n,i] = sum_m weight[n,i,m] forcing[source[n,i,m]]. So stage space (one entry, weight
one) and interpolation from a time grid are the same code.
"""

from __future__ import annotations

import numpy as np

from kpref.compiled.compilation import kernel
from kpref.kernels.interpreter import CACHED
from kpref.kernels.jacobian import jacobian, jacobian_transpose, workspace
from kpref.kernels.stage_sums import (
    add_row,
    add_stages,
    ask_for_row,
    ask_for_sources,
    draw,
    give,
    last_source,
    leave_row,
    room_for_terms,
    stage_cotangent,
    stage_state,
)

__all__ = ["stage_adjoint", "stage_costate", "stage_costate_transpose", "stage_tangent"]


@kernel
def stage_tangent(form, table, transposed, forcing, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry dz (vectors, trials, units) through the steps; write it to `out` where they end on a row of it.

    `transposed` puts A^T in place of A.
    """
    trials, stages, one = stop - start, len(table.b), carry.dtype.type(1)
    rows, last = len(carry) * trials, len(table.h) * stages
    dz, scratch, memory = workspace(form, rows, carry)
    slopes, terms = np.empty((stages, rows, carry.shape[2]), carry.dtype), room_for_terms(table)
    far, asked = (forcing.size + out.size) * out.itemsize > CACHED, np.int64(-1)
    for row in range(rows if last > 0 else 0):
        stage_state(table.a, table.h[0], 0, carry, row // trials, start + row % trials, slopes, row, dz, terms)
    for at in range(last):
        step, stage = at // stages, at % stages
        if transposed:
            jacobian_transpose(form, at, start, trials, dz, scratch, memory, slopes[stage])
        else:
            jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
        for row in range(rows):
            vector, trial = row // trials, start + row % trials
            if far:
                ask_for_sources(table, step + 1, stage, 1, asked, forcing, vector, trial)
            if far and stage == 0:
                ask_for_row(table.row[step], out, vector, trial)
            draw(one, table, step, stage, forcing, vector, trial, slopes[stage], row, terms)
            if stage == stages - 1:
                add_stages(table.h[step], table.b, carry, vector, trial, slopes, row, terms)
                leave_row(table.row[step], carry, vector, trial, out)
            if at + 1 < last:
                h, after = table.h[(at + 1) // stages], (at + 1) % stages
                stage_state(table.a, h, after, carry, vector, trial, slopes, row, dz, terms)
        asked = last_source(table, step + 1, stage, 1, asked)


@kernel
def stage_adjoint(form, table, transposed, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry lambda (vectors, trials, units) back through the steps, from `source` on rows; add kappa into `out`.

    The transpose of `stage_tangent`.
    """
    trials, stages, one = stop - start, len(table.b), carry.dtype.type(1)
    rows, ones = len(carry) * trials, np.ones_like(table.b)
    kappa, scratch, memory = workspace(form, rows, carry)
    mu, terms = np.empty((stages, rows, carry.shape[2]), carry.dtype), room_for_terms(table)
    far, asked = (source.size + out.size) * out.itemsize > CACHED, np.int64(out.shape[2])
    for at in range(len(table.h) * stages - 1, -1, -1):
        step, stage = at // stages, at % stages
        for row in range(rows):
            vector, trial = row // trials, start + row % trials
            if stage == stages - 1:
                add_row(table.row[step], source, carry, vector, trial, terms)
            if far:
                ask_for_sources(table, step - 1, stage, -1, asked, out, vector, trial)
            if far and stage == 0 and step > 0:
                ask_for_row(table.row[step - 1], source, vector, trial)
            stage_cotangent(table.a, table.b, table.h[step], stage, carry, vector, trial, mu, row, kappa, terms)
            give(one, table, step, stage, kappa, row, out, vector, trial, terms)
        asked = last_source(table, step - 1, stage, -1, asked)
        if transposed:
            jacobian(form, at, start, trials, kappa, scratch, memory, mu[stage])
        else:
            jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
        if stage == 0:
            for row in range(rows):
                add_stages(one, ones, carry, row // trials, start + row % trials, mu, row, terms)


@kernel
def stage_costate(form, table, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Costates of the functional ``sum_n h sum_i b_i g[n,i] . dZ[n,i]``: the quadrature of g . dz by the method.

    Its derivative by the state at the end of a step is written to `out` where that is a row of it; the derivative by
    the first state is left in `carry`. As the discrete functional is right to the order of the method, so is its
    derivative.
    """
    trials, stages, one = stop - start, len(table.b), carry.dtype.type(1)
    rows, ones = len(carry) * trials, np.ones_like(table.b)
    kappa, scratch, memory = workspace(form, rows, carry)
    mu, terms = np.empty((stages, rows, carry.shape[2]), carry.dtype), room_for_terms(table)
    for at in range(len(table.h) * stages - 1, -1, -1):
        step, stage = at // stages, at % stages
        h = table.h[step]
        for row in range(rows):
            vector, trial = row // trials, start + row % trials
            if stage == stages - 1:
                leave_row(table.row[step], carry, vector, trial, out)
            stage_cotangent(table.a, table.b, h, stage, carry, vector, trial, mu, row, kappa, terms)
        jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
        for row in range(rows):
            vector, trial = row // trials, start + row % trials
            draw(h * table.b[stage], table, step, stage, source, vector, trial, mu[stage], row, terms)
            if stage == 0:
                add_stages(one, ones, carry, vector, trial, mu, row, terms)


@kernel
def stage_costate_transpose(form, table, impulses, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """The transpose of `stage_costate`: impulses enter dz at rows, ``h b_i dZ_i`` is added into `out`."""
    trials, stages = stop - start, len(table.b)
    rows = len(carry) * trials
    dz, scratch, memory = workspace(form, rows, carry)
    slopes, terms = np.empty((stages, rows, carry.shape[2]), carry.dtype), room_for_terms(table)
    for at in range(len(table.h) * stages):
        step, stage = at // stages, at % stages
        h = table.h[step]
        for row in range(rows):
            vector, trial = row // trials, start + row % trials
            stage_state(table.a, h, stage, carry, vector, trial, slopes, row, dz, terms)
            give(h * table.b[stage], table, step, stage, dz, row, out, vector, trial, terms)
        jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
        if stage == stages - 1:
            for row in range(rows):
                vector, trial = row // trials, start + row % trials
                add_stages(h, table.b, carry, vector, trial, slopes, row, terms)
                add_row(table.row[step], impulses, carry, vector, trial, terms)
