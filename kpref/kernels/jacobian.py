"""One step of the linearised flow for a block of trials, compiled: what every sweep is built of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import overload

from kpref.kernels.blas import product, row_length
from kpref.kernels.compilation import kernel
from kpref.kernels.panels import Panels
from kpref.kernels.program import (
    ProgramArrays,
    program_jacobian,
    program_jacobian_transpose,
    program_workspace,
)

__all__ = [
    "DenseArrays",
    "SiteArrays",
    "decayed_sum",
    "gated",
    "gated_sum",
    "jacobian",
    "jacobian_transpose",
    "sloped",
    "workspace",
]

Array = npt.NDArray[Any]


class SiteArrays(NamedTuple):
    """The arrays of a `kpref.linearize.SiteForm`, in a form that compiled code takes."""

    decay: Array
    gates: Array
    slope: Array
    variable: Array
    drive: Array
    weight: Panels
    weight_transposed: Panels


class DenseArrays(NamedTuple):
    """The arrays of a `kpref.linearize.DenseForm`."""

    state_jacobian: Array


def workspace(form, rows):  # type: ignore[no-untyped-def]
    """Scratch for `rows` states: two of the state size, one of the size of the recurrent gates."""
    raise NotImplementedError("compiled code only")


def jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step] x`` for states x (vectors * trials, H) of the trials start, start + 1, ..."""
    raise NotImplementedError("compiled code only")


def jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """``y = A[step]^T x``."""
    raise NotImplementedError("compiled code only")


# The sweeps call these three; which code they get is settled when they are compiled, by the kind of linearisation.


@overload(workspace)
def _workspace(form, rows):  # type: ignore[no-untyped-def]
    if form.instance_class is ProgramArrays:
        return program_workspace
    return _site_workspace if form.instance_class is SiteArrays else _dense_workspace


@overload(jacobian)
def _jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    if form.instance_class is ProgramArrays:
        return program_jacobian
    return _site_jacobian if form.instance_class is SiteArrays else _dense_jacobian


@overload(jacobian_transpose)
def _jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    if form.instance_class is ProgramArrays:
        return program_jacobian_transpose
    return _site_jacobian_transpose if form.instance_class is SiteArrays else _dense_jacobian_transpose


def _site_workspace(form, rows):  # type: ignore[no-untyped-def]
    units, kind = form.weight.columns, form.variable.dtype
    columns = row_length(form.weight.rows, units, form.variable.itemsize)
    currents = np.empty((rows, columns), kind)
    return np.zeros((rows, units), kind), np.empty((rows, units), kind), currents


def _site_jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """A x = C0 * x + sum_g G_g * (W_g (S * x)). `y` may be `x`."""
    product(sloped(form, step, start, trials, x, scratch), form.weight_transposed, currents)
    gated_sum(form, step, start, trials, x, currents, y)


def _site_jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """A^T x = C0 * x + S * sum_g W_g^T (G_g * x). `y` may be `x`."""
    gated(form, step, start, trials, x, currents)
    product(currents, form.weight, scratch)
    decayed_sum(form, step, start, trials, x, scratch, y)


@kernel
def sloped(form, step, start, trials, x, scratch):  # type: ignore[no-untyped-def]
    """``S * x``, in `scratch`, or x itself where S = 1."""
    if form.slope.shape[2] == 0:
        return x
    rows, units = x.shape
    for first in range(0, rows, trials):
        for trial in range(trials):
            for unit in range(units):
                scratch[first + trial, unit] = form.slope[step, start + trial, unit] * x[first + trial, unit]
    return scratch


@kernel
def gated_sum(form, step, start, trials, x, currents, y):  # type: ignore[no-untyped-def]
    """``y = C0 * x + sum_g G_g * currents_g``, over as many gates as there are currents of. `y` may be `x`."""
    rows, units = x.shape
    decay_step, gate_step = _along(form.decay, step), _along(form.gates, step)
    for first in range(0, rows, trials):
        for trial in range(trials):
            row = first + trial
            decay_trial = start + trial if form.decay.shape[1] > 1 else 0
            gate_trial = start + trial if form.gates.shape[1] > 1 else 0
            for unit in range(units):
                y[row, unit] = form.decay[decay_step, decay_trial, unit] * x[row, unit]
            for gate in range(currents.shape[1] // units):
                column = gate * units
                for unit in range(units):
                    y[row, unit] += form.gates[gate_step, gate_trial, gate, unit] * currents[row, column + unit]


@kernel
def gated(form, step, start, trials, x, currents):  # type: ignore[no-untyped-def]
    """``currents_g = G_g * x``, for as many gates as there is room for."""
    rows, units = x.shape
    gate_step = _along(form.gates, step)
    for first in range(0, rows, trials):
        for trial in range(trials):
            row = first + trial
            gate_trial = start + trial if form.gates.shape[1] > 1 else 0
            for gate in range(currents.shape[1] // units):
                column = gate * units
                for unit in range(units):
                    currents[row, column + unit] = form.gates[gate_step, gate_trial, gate, unit] * x[row, unit]


@kernel
def decayed_sum(form, step, start, trials, x, scratch, y):  # type: ignore[no-untyped-def]
    """``y = C0 * x + S * scratch``. `y` may be `x`; `scratch` is overwritten."""
    rows, units = x.shape
    decay_step, with_slope = _along(form.decay, step), form.slope.shape[2] > 0
    for first in range(0, rows, trials):
        for trial in range(trials):
            row = first + trial
            decay_trial = start + trial if form.decay.shape[1] > 1 else 0
            if with_slope:
                for unit in range(units):
                    scratch[row, unit] *= form.slope[step, start + trial, unit]
            for unit in range(units):
                y[row, unit] = form.decay[decay_step, decay_trial, unit] * x[row, unit] + scratch[row, unit]


@kernel
def _along(coefficient, step):  # type: ignore[no-untyped-def]
    """Row of a coefficient that may be constant along rows."""
    return step if coefficient.shape[0] > 1 else 0


def _dense_workspace(form, rows):  # type: ignore[no-untyped-def]
    units, kind = form.state_jacobian.shape[3], form.state_jacobian.dtype
    return np.zeros((rows, units), kind), np.empty((rows, units), kind), np.empty((0, 0), kind)


def _dense_jacobian(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """A x with A stored. `y` may be `x`."""
    rows, units = x.shape
    for row in range(rows):
        trial = start + row % trials
        for unit in range(units):
            scratch[row, unit] = 0
            for other in range(units):
                scratch[row, unit] += form.state_jacobian[step, trial, unit, other] * x[row, other]
    y[:] = scratch


def _dense_jacobian_transpose(form, step, start, trials, x, scratch, currents, y):  # type: ignore[no-untyped-def]
    """A^T x with A stored. `y` may be `x`."""
    rows, units = x.shape
    for row in range(rows):
        trial = start + row % trials
        for unit in range(units):
            scratch[row, unit] = 0
        for other in range(units):
            for unit in range(units):
                scratch[row, unit] += form.state_jacobian[step, trial, other, unit] * x[row, other]
    y[:] = scratch
