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
from kpref.kernels.interpreter import NEAR
from kpref.kernels.jacobian import jacobian, jacobian_transpose, workspace
from kpref.kernels.stage_sums import (
    add_stages,
    ask_for_row,
    ask_for_sources,
    cotangent_sum,
    draw,
    enter_row,
    give,
    last_source,
    leave_row,
    make,
    room_for_sums,
    state_sum,
)

__all__ = ["stage_adjoint", "stage_costate", "stage_costate_transpose", "stage_tangent"]


@kernel
def stage_tangent(form, table, transposed, forcing, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry dz (vectors, trials, units) through the steps; write it to `out` where they end on a row of it.

    `transposed` puts A^T in place of A.
    """
    trials, stages, one, (vectors, _, units) = stop - start, len(table.b), carry.dtype.type(1), carry.shape
    dz, scratch, memory = workspace(form, vectors * trials, carry)
    slopes, sums = np.empty((stages, vectors * trials, units), carry.dtype), room_for_sums(table, 3)
    total, far, asked = len(table.h) * stages, (forcing.size + out.size) * out.itemsize > NEAR, np.int64(-1)
    for vector in range(vectors if total > 0 else 0):
        state_sum(sums, 0, table, 0, 0, carry, vector, start, slopes, vector * trials, dz)
        for _ in range(trials):
            make(one, sums, 0, units)
    for at in range(total):
        step, stage = at // stages, at % stages
        if transposed:
            jacobian_transpose(form, at, start, trials, dz, scratch, memory, slopes[stage])
        else:
            jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
        ends, goes_on = stage == stages - 1, at + 1 < total
        for vector in range(vectors):
            row = vector * trials
            draw(sums, 0, one, table, step, stage, forcing, vector, start, slopes[stage], row)
            if ends:
                add_stages(sums, 1, table.h[step], table.b, carry, vector, start, slopes, row)
                leave_row(sums, 1, table.row[step], out, vector, start)
            if goes_on:
                after = (at + 1) // stages, (at + 1) % stages
                state_sum(sums, 2, table, after[0], after[1], carry, vector, start, slopes, row, dz)
            for trial in range(start, stop):
                if far:
                    ask_for_sources(table, step + 1, stage, 1, asked, forcing, vector, trial)
                if far and stage == 0:
                    ask_for_row(table.row[step], out, vector, trial)
                make(one, sums, 0, units)
                if ends:
                    make(one, sums, 1, units)
                if goes_on:
                    make(one, sums, 2, units)
        asked = last_source(table, step + 1, stage, 1, asked)


@kernel
def stage_adjoint(form, table, transposed, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry lambda (vectors, trials, units) back through the steps, from `source` on rows; add kappa into `out`.

    The transpose of `stage_tangent`.
    """
    trials, stages, one, (vectors, _, units) = stop - start, len(table.b), carry.dtype.type(1), carry.shape
    kappa, scratch, memory = workspace(form, vectors * trials, carry)
    mu, steps = np.empty((stages, vectors * trials, units), carry.dtype), len(table.h)
    sums, ones = room_for_sums(table, 2 + table.source.shape[2]), np.ones_like(table.b)
    far, asked = (source.size + out.size) * out.itemsize > NEAR, np.int64(out.shape[2])
    for at in range(steps * stages - 1, -1, -1):
        step, stage = at // stages, at % stages
        for vector in range(vectors):
            row, begins = vector * trials, stage == stages - 1
            if begins:  # with what the stages after it leave, but at the end of all steps
                later = ones if step < steps - 1 else ones[:0]
                add_stages(sums, 0, one, later, carry, vector, start, mu, row)
                enter_row(sums, 0, table.row[step], source, vector, start)
            cotangent_sum(sums, 1, table, step, stage, carry, vector, start, mu, row, kappa)
            given = give(sums, 2, one, table, step, stage, kappa, row, out, vector, start)
            for trial in range(start, stop):
                if far:
                    ask_for_sources(table, step - 1, stage, -1, asked, out, vector, trial)
                if far and stage == 0 and step > 0:
                    ask_for_row(table.row[step - 1], source, vector, trial)
                if begins:
                    make(one, sums, 0, units)
                for index in range(1, 2 + given):
                    make(one, sums, index, units)
        asked = last_source(table, step - 1, stage, -1, asked)
        if transposed:
            jacobian(form, at, start, trials, kappa, scratch, memory, mu[stage])
        else:
            jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
    end_steps(one, sums, steps, ones, carry, start, trials, mu)


@kernel
def end_steps(one, sums, steps, ones, carry, start, trials, mu):  # type: ignore[no-untyped-def]
    """What the stages of the first step leave, after a sweep backwards."""
    for vector in range(len(carry) if steps > 0 else 0):
        add_stages(sums, 0, one, ones, carry, vector, start, mu, vector * trials)
        for _ in range(trials):
            make(one, sums, 0, carry.shape[2])


@kernel
def stage_costate(form, table, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Costates of the functional ``sum_n h sum_i b_i g[n,i] . dZ[n,i]``: the quadrature of g . dz by the method.

    Its derivative by the state at the end of a step is written to `out` where that is a row of it; the derivative by
    the first state is left in `carry`. As the discrete functional is right to the order of the method, so is its
    derivative.
    """
    trials, stages, one, (vectors, _, units) = stop - start, len(table.b), carry.dtype.type(1), carry.shape
    kappa, scratch, memory = workspace(form, vectors * trials, carry)
    mu, steps = np.empty((stages, vectors * trials, units), carry.dtype), len(table.h)
    sums, ones = room_for_sums(table, 2), np.ones_like(table.b)
    for at in range(steps * stages - 1, -1, -1):
        step, stage = at // stages, at % stages
        for vector in range(vectors):
            row, begins = vector * trials, stage == stages - 1
            if begins:  # with what the stages after it leave, but at the end of all steps
                later = ones if step < steps - 1 else ones[:0]
                add_stages(sums, 0, one, later, carry, vector, start, mu, row)
                leave_row(sums, 0, table.row[step], out, vector, start)
            cotangent_sum(sums, 1, table, step, stage, carry, vector, start, mu, row, kappa)
            for _ in range(trials):
                if begins:
                    make(one, sums, 0, units)
                make(one, sums, 1, units)
        jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
        for vector in range(vectors):
            scale = table.h[step] * table.b[stage]
            draw(sums, 0, scale, table, step, stage, source, vector, start, mu[stage], vector * trials)
            for _ in range(trials):
                make(one, sums, 0, units)
    end_steps(one, sums, steps, ones, carry, start, trials, mu)


@kernel
def stage_costate_transpose(form, table, impulses, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """The transpose of `stage_costate`: impulses enter dz at rows, ``h b_i dZ_i`` is added into `out`."""
    trials, stages, one, (vectors, _, units) = stop - start, len(table.b), carry.dtype.type(1), carry.shape
    dz, scratch, memory = workspace(form, vectors * trials, carry)
    slopes = np.empty((stages, vectors * trials, units), carry.dtype)
    sums = room_for_sums(table, 1 + table.source.shape[2])
    for at in range(len(table.h) * stages):
        step, stage = at // stages, at % stages
        scale = table.h[step] * table.b[stage]
        for vector in range(vectors):
            row = vector * trials
            state_sum(sums, 0, table, step, stage, carry, vector, start, slopes, row, dz)
            given = give(sums, 1, scale, table, step, stage, dz, row, out, vector, start)
            for _ in range(trials):
                for index in range(1 + given):
                    make(one, sums, index, units)
        jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
        for vector in range(vectors if stage == stages - 1 else 0):
            add_stages(sums, 0, table.h[step], table.b, carry, vector, start, slopes, vector * trials)
            enter_row(sums, 0, table.row[step], impulses, vector, start)
            for _ in range(trials):
                make(one, sums, 0, units)
