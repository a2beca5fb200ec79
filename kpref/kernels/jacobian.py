"""One step of the linearised flow for a block of trials, compiled: what every sweep is built of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import overload

from kpref.kernels.interpreter import (
    ProgramArrays,
    program_jacobian,
    program_jacobian_transpose,
    program_workspace,
)

__all__ = ["DenseArrays", "jacobian", "jacobian_transpose", "workspace"]

Array = npt.NDArray[Any]


class DenseArrays(NamedTuple):
    """The arrays of a `kpref.linearize.DenseForm`."""

    state_jacobian: Array


def workspace(form, rows, like):  # type: ignore[no-untyped-def]
    """A state for each of `rows` rows, of the type of the array `like`, and scratch, which goes on to the two below."""
    raise NotImplementedError("compiled code only")


def jacobian(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    """``y = A[step] x`` for states x (vectors * trials, H) of the trials start, start + 1, ..."""
    raise NotImplementedError("compiled code only")


def jacobian_transpose(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    """``y = A[step]^T x``."""
    raise NotImplementedError("compiled code only")


# The sweeps call these three; which code they get is settled when they are compiled, by the kind of linearisation.


@overload(workspace)
def _workspace(form, rows, like):  # type: ignore[no-untyped-def]
    return program_workspace if form.instance_class is ProgramArrays else _dense_workspace


@overload(jacobian)
def _jacobian(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    return program_jacobian if form.instance_class is ProgramArrays else _dense_jacobian


@overload(jacobian_transpose)
def _jacobian_transpose(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    return program_jacobian_transpose if form.instance_class is ProgramArrays else _dense_jacobian_transpose


def _dense_workspace(form, rows, like):  # type: ignore[no-untyped-def]
    units = form.state_jacobian.shape[3]
    return np.zeros((rows, units), like.dtype), np.empty((rows, units), like.dtype), np.empty(0, np.int64)


def _dense_jacobian(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
    """A x with A stored. `y` may be `x`."""
    rows, units = x.shape
    for row in range(rows):
        trial = start + row % trials
        for unit in range(units):
            scratch[row, unit] = 0
            for other in range(units):
                scratch[row, unit] += form.state_jacobian[step, trial, unit, other] * x[row, other]
    y[:] = scratch


def _dense_jacobian_transpose(form, step, start, trials, x, scratch, memory, y):  # type: ignore[no-untyped-def]
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
