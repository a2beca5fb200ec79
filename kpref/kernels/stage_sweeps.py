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

from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.compiled.compilation import kernel
from kpref.kernels.addresses import address_of, ask_for
from kpref.kernels.interpreter import CACHED
from kpref.kernels.jacobian import jacobian, jacobian_transpose, workspace

__all__ = [
    "StageTable", "add_rows", "add_stages", "leave_rows", "stage_adjoint", "stage_costate", "stage_costate_transpose",
    "stage_cotangent", "stage_state", "stage_tangent",
]  # fmt: skip


class StageTable(NamedTuple):
    """Numbers of a run of n steps of a method with s stages, in a form that compiled code takes."""

    # a, b: the tableau
    a: Array
    b: Array
    h: Array  # (n,): step sizes
    row: Array  # (n,): row of the trajectory that the end of each step is, or -1
    # source, weight: (n, s, w): where the forcing of each stage comes from
    source: Array
    weight: Array


@kernel
def stage_state(a, h, stage, carry, start, trials, slopes, out):  # type: ignore[no-untyped-def]
    """``dZ_i = dz[n] + h sum_{j<i} a_ij dk_j``."""
    rows, units = out.shape
    for row in range(rows):
        vector, trial, new = row // trials, start + row % trials, True
        for other in range(stage):
            factor = h * a[stage, other]
            if factor != 0 and new:  # with the copy, so that the row is written once less
                for unit in range(units):
                    out[row, unit] = carry[vector, trial, unit] + factor * slopes[other, row, unit]
                new = False
            elif factor != 0:
                for unit in range(units):
                    out[row, unit] += factor * slopes[other, row, unit]
        if new:
            for unit in range(units):
                out[row, unit] = carry[vector, trial, unit]


@kernel
def stage_cotangent(a, b, h, stage, carry, start, trials, mu, out):  # type: ignore[no-untyped-def]
    """``kappa_i = h b_i lambda + h sum_{j>i} a_ji mu_j``."""
    rows, units = out.shape
    for row in range(rows):
        vector, trial, new = row // trials, start + row % trials, True
        whole = h * b[stage]
        for other in range(stage + 1, len(b)):
            factor = h * a[other, stage]
            if factor != 0 and new:
                for unit in range(units):
                    out[row, unit] = whole * carry[vector, trial, unit] + factor * mu[other, row, unit]
                new = False
            elif factor != 0:
                for unit in range(units):
                    out[row, unit] += factor * mu[other, row, unit]
        if new:
            for unit in range(units):
                out[row, unit] = whole * carry[vector, trial, unit]


@kernel
def add_stages(factors, carry, start, trials, stages):  # type: ignore[no-untyped-def]
    """``carry += sum_i factors_i stages[i]``, in their order, two at a time: the sum is read and written half as often.

    Carry is (vectors, trials, units), stages (s, rows, units).
    """
    count, rows, units = stages.shape
    for row in range(rows):
        vector, trial = row // trials, start + row % trials
        for stage in range(0, count - 1, 2):
            one, other = factors[stage], factors[stage + 1]
            for unit in range(units):
                total = carry[vector, trial, unit] + one * stages[stage, row, unit]
                carry[vector, trial, unit] = total + other * stages[stage + 1, row, unit]
        if count % 2 == 1:
            for unit in range(units):
                carry[vector, trial, unit] += factors[count - 1] * stages[count - 1, row, unit]


@kernel
def leave_rows(row_of_step, carry, start, stop, out):  # type: ignore[no-untyped-def]
    """States where a step ends on a row of the trajectory."""
    if row_of_step >= 0:
        for vector in range(len(carry)):
            for trial in range(start, stop):
                for unit in range(carry.shape[2]):
                    out[vector, trial, row_of_step, unit] = carry[vector, trial, unit]


@kernel
def add_rows(row_of_step, carry, start, stop, source):  # type: ignore[no-untyped-def]
    """The transpose of `leave_rows`."""
    if row_of_step >= 0:
        for vector in range(len(carry)):
            for trial in range(start, stop):
                for unit in range(carry.shape[2]):
                    carry[vector, trial, unit] += source[vector, trial, row_of_step, unit]


@kernel
def ask_for_rows(index, tensor, start, stop):  # type: ignore[no-untyped-def]
    """Rows of a tensor (v, B, L, H) that are due a step later."""
    if index >= 0:
        _, trials, length, units = tensor.shape
        for vector in range(len(tensor)):
            for trial in range(start, stop):
                at = ((vector * trials + trial) * length + index) * units
                ask_for(address_of(tensor) + at * tensor.itemsize, units * tensor.itemsize)


@kernel
def stage_tangent(form, table, transposed, forcing, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry dz (vectors, trials, units) through the steps; write it to `out` where they end on a row of it.

    `transposed` puts A^T in place of A.
    """
    vectors, _, units = carry.shape
    trials = stop - start
    rows, stages = vectors * trials, len(table.b)
    dz, scratch, memory = workspace(form, rows, carry)
    slopes = np.empty((stages, rows, units), carry.dtype)
    for step in range(len(table.h)):
        h = table.h[step]
        for stage in range(stages):
            stage_state(table.a, h, stage, carry, start, trials, slopes, dz)
            at = step * stages + stage
            if transposed:
                jacobian_transpose(form, at, start, trials, dz, scratch, memory, slopes[stage])
            else:
                jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
            for entry in range(table.source.shape[2]):
                weight, source = table.weight[step, stage, entry], table.source[step, stage, entry]
                if weight != 0:
                    for row in range(rows):
                        vector, trial = row // trials, start + row % trials
                        for unit in range(units):
                            slopes[stage, row, unit] += weight * forcing[vector, trial, source, unit]
        add_stages(h * table.b, carry, start, trials, slopes)
        leave_rows(table.row[step], carry, start, stop, out)


@kernel
def stage_adjoint(form, table, transposed, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Carry lambda (vectors, trials, units) back through the steps, from `source` on rows; add kappa into `out`.

    The transpose of `stage_tangent`.
    """
    vectors, _, units = carry.shape
    trials = stop - start
    rows, stages = vectors * trials, len(table.b)
    kappa, scratch, memory = workspace(form, rows, carry)
    mu, far = np.empty((stages, rows, units), carry.dtype), (source.size + out.size) * out.itemsize > CACHED
    for step in range(len(table.h) - 1, -1, -1):
        h = table.h[step]
        add_rows(table.row[step], carry, start, stop, source)
        if far and step > 0:
            ask_for_rows(table.row[step - 1], source, start, stop)
            for entry in range(table.source.shape[2]):
                ask_for_rows(table.source[step - 1, stages - 1, entry], out, start, stop)
        for stage in range(stages - 1, -1, -1):
            stage_cotangent(table.a, table.b, h, stage, carry, start, trials, mu, kappa)
            for entry in range(table.source.shape[2]):
                weight, target = table.weight[step, stage, entry], table.source[step, stage, entry]
                if weight != 0:
                    for row in range(rows):
                        vector, trial = row // trials, start + row % trials
                        for unit in range(units):
                            out[vector, trial, target, unit] += weight * kappa[row, unit]
            at = step * stages + stage
            if transposed:
                jacobian(form, at, start, trials, kappa, scratch, memory, mu[stage])
            else:
                jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
        add_stages(np.ones_like(table.b), carry, start, trials, mu)


@kernel
def stage_costate(form, table, source, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """Costates of the functional ``sum_n h sum_i b_i g[n,i] . dZ[n,i]``: the quadrature of g . dz by the method.

    Its derivative by the state at the end of a step is written to `out` where that is a row of it; the derivative by
    the first state is left in `carry`. As the discrete functional is right to the order of the method, so is its
    derivative.
    """
    vectors, _, units = carry.shape
    trials = stop - start
    rows, stages = vectors * trials, len(table.b)
    kappa, scratch, memory = workspace(form, rows, carry)
    mu = np.empty((stages, rows, units), carry.dtype)
    for step in range(len(table.h) - 1, -1, -1):
        h = table.h[step]
        leave_rows(table.row[step], carry, start, stop, out)
        for stage in range(stages - 1, -1, -1):
            stage_cotangent(table.a, table.b, h, stage, carry, start, trials, mu, kappa)
            at = step * stages + stage
            jacobian_transpose(form, at, start, trials, kappa, scratch, memory, mu[stage])
            for entry in range(table.source.shape[2]):
                weight = h * table.b[stage] * table.weight[step, stage, entry]
                origin = table.source[step, stage, entry]
                for row in range(rows):
                    vector, trial = row // trials, start + row % trials
                    for unit in range(units):
                        mu[stage, row, unit] += weight * source[vector, trial, origin, unit]
        add_stages(np.ones_like(table.b), carry, start, trials, mu)


@kernel
def stage_costate_transpose(form, table, impulses, carry, out, start, stop):  # type: ignore[no-untyped-def]
    """The transpose of `stage_costate`: impulses enter dz at rows, ``h b_i dZ_i`` is added into `out`."""
    vectors, _, units = carry.shape
    trials = stop - start
    rows, stages = vectors * trials, len(table.b)
    dz, scratch, memory = workspace(form, rows, carry)
    slopes = np.empty((stages, rows, units), carry.dtype)
    for step in range(len(table.h)):
        h = table.h[step]
        for stage in range(stages):
            stage_state(table.a, h, stage, carry, start, trials, slopes, dz)
            for entry in range(table.source.shape[2]):
                weight = h * table.b[stage] * table.weight[step, stage, entry]
                target = table.source[step, stage, entry]
                for row in range(rows):
                    vector, trial = row // trials, start + row % trials
                    for unit in range(units):
                        out[vector, trial, target, unit] += weight * dz[row, unit]
            at = step * stages + stage
            jacobian(form, at, start, trials, dz, scratch, memory, slopes[stage])
        add_stages(h * table.b, carry, start, trials, slopes)
        add_rows(table.row[step], carry, start, stop, impulses)
