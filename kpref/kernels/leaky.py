"""Compiled Runge-Kutta steps of leaky networks, ``F(z, x) = decay * z + gate * (W phi(z) + U x + b)``.

One product with W a stage, everything else fused around it; a block of trials per call. The same code takes the steps,
and computes the coefficients of the linearisation at the stages of steps whose starting states are known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kpref.kernels.blas import add_product, product
from kpref.kernels.compilation import kernel
from kpref.kernels.panels import Panels
from kpref.kernels.pointwise import pointwise

__all__ = ["LeakyArrays", "leaky_coefficients", "leaky_steps"]

Array = npt.NDArray[Any]


class LeakyArrays(NamedTuple):
    """A leaky network, in a form that compiled code takes.

    Attributes
    ----------
    nonlinearity : int
        One of `kpref.kernels.pointwise`.
    decay, gate : ndarray, shape (H,)
    weight_transposed : Panels, shape (H, H)
        W^T.
    drive_transposed : Panels, shape (n_in + 1, H)
        U^T above b.
    """

    nonlinearity: int
    decay: Array
    gate: Array
    weight_transposed: Panels
    drive_transposed: Panels


@kernel
def _stage_state(a, h, stage, start_state, slopes, state):  # type: ignore[no-untyped-def]
    """``Z_i = z + h sum_{j<i} a_ij k_j``."""
    rows, units = state.shape
    for row in range(rows):
        for unit in range(units):
            state[row, unit] = start_state[row, unit]
        for other in range(stage):
            factor = h * a[stage, other]
            if factor != 0:
                for unit in range(units):
                    state[row, unit] += factor * slopes[other, row, unit]


@kernel
def _velocity(network, drive, state, value, out):  # type: ignore[no-untyped-def]
    """``out = F(state)`` given value = phi(state)."""
    rows, units = state.shape
    product(drive, network.drive_transposed, out)
    add_product(value, network.weight_transposed, out)
    for row in range(rows):
        for unit in range(units):
            out[row, unit] = network.decay[unit] * state[row, unit] + network.gate[unit] * out[row, unit]


@kernel
def leaky_steps(network, a, b, h, drive, states, start, stop):  # type: ignore[no-untyped-def]
    """Take all steps for the trials start, ..., stop - 1: states[n + 1] from states[n], (n + 1, B, H).

    drive : (n * s, B, n_in + 1), the inputs at the stages, and ones.
    """
    rows, units, stages = stop - start, states.shape[2], len(b)
    slopes = np.empty((stages, rows, units))
    state, value = np.empty((rows, units)), np.empty((rows, units))
    scratch = np.empty(rows * units)
    bits = scratch.view(np.int64)
    flat_state, flat_value = state.reshape(-1), value.reshape(-1)
    for step in range(len(h)):
        begin = states[step, start:stop]
        for stage in range(stages):
            _stage_state(a, h[step], stage, begin, slopes, state)
            pointwise(network.nonlinearity, flat_state, flat_value, flat_value, False, scratch, bits)
            _velocity(network, drive[step * stages + stage, start:stop], state, value, slopes[stage])
        end = states[step + 1, start:stop]
        for row in range(rows):
            for unit in range(units):
                end[row, unit] = begin[row, unit]
            for stage in range(stages):
                factor = h[step] * b[stage]
                for unit in range(units):
                    end[row, unit] += factor * slopes[stage, row, unit]


@kernel
def leaky_coefficients(network, a, h, drive, states, values, slopes_out, first, last, start, stop):  # type: ignore[no-untyped-def]
    """phi and phi' at the stages of steps first, ..., last - 1, whose states are known: (n * s, B, H) each.

    `values` may have more columns, which are left alone; with no columns in `slopes_out` there is no phi'.
    """
    rows, units, stages = stop - start, states.shape[2], a.shape[0]
    slopes = np.empty((stages, rows, units))
    state, value, slope = np.empty((rows, units)), np.empty((rows, units)), np.empty((rows, units))
    scratch = np.empty(rows * units)
    bits = scratch.view(np.int64)
    flat_state, flat_value, flat_slope = state.reshape(-1), value.reshape(-1), slope.reshape(-1)
    sloped = slopes_out.shape[2] > 0
    for step in range(first, last):
        begin = states[step, start:stop]
        for stage in range(stages):
            at = step * stages + stage
            _stage_state(a, h[step], stage, begin, slopes, state)
            pointwise(network.nonlinearity, flat_state, flat_value, flat_slope, sloped, scratch, bits)
            values[at, start:stop, :units] = value
            if sloped:
                slopes_out[at, start:stop] = slope
            if stage < stages - 1:
                _velocity(network, drive[at, start:stop], state, value, slopes[stage])
