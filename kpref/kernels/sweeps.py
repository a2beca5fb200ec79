"""Compiled sweeps through time over a block of trials: the propagator of a map, its transpose and its inverse.

Tensors are (vectors, trials, time, units); a block holds the trials start, ..., stop - 1 of all vectors. `tangent` and
`adjoint` may write their result over the forcing.
"""

from __future__ import annotations

from kpref.compiled.compilation import kernel
from kpref.kernels.jacobian import jacobian, jacobian_transpose, workspace

__all__ = ["adjoint", "inverse", "inverse_transpose", "tangent"]


@kernel
def tangent(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``dz[n+1] = A[n] dz[n] + q[n]`` from dz[0] = 0; row n of out is dz[n+1]."""
    vectors, _, steps, _ = forcing.shape
    trials = stop - start
    state, scratch, memory = workspace(form, vectors * trials, out)
    for step in range(steps):
        if step > 0:
            jacobian(form, step, start, trials, state, scratch, memory, state)
        _add(forcing, out, step, start, trials, state)


@kernel
def adjoint(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``l[n] = A[n+1]^T l[n+1] + g[n]`` from l[T] = 0; row n of out is l[n]."""
    vectors, _, steps, _ = forcing.shape
    trials = stop - start
    state, scratch, memory = workspace(form, vectors * trials, out)
    for step in range(steps - 1, -1, -1):
        if step < steps - 1:
            jacobian_transpose(form, step + 1, start, trials, state, scratch, memory, state)
        _add(forcing, out, step, start, trials, state)


@kernel
def inverse(form, response, out, start, stop):  # type: ignore[no-untyped-def]
    """``q[n] = y[n] - A[n] y[n-1]`` with y[-1] = 0: the forcing that a response comes from."""
    vectors, _, steps, _ = response.shape
    trials = stop - start
    state, scratch, memory = workspace(form, vectors * trials, out)
    for step in range(steps):
        if step > 0:
            jacobian(form, step, start, trials, state, scratch, memory, state)
        _subtract(response, out, step, start, trials, state)


@kernel
def inverse_transpose(form, forcing, out, start, stop):  # type: ignore[no-untyped-def]
    """``(P^-1)^T g``: row n is ``g[n] - A[n+1]^T g[n+1]`` with g[T] = 0."""
    vectors, _, steps, _ = forcing.shape
    trials = stop - start
    state, scratch, memory = workspace(form, vectors * trials, out)
    for step in range(steps - 1, -1, -1):
        if step < steps - 1:
            jacobian_transpose(form, step + 1, start, trials, state, scratch, memory, state)
        _subtract(forcing, out, step, start, trials, state)


@kernel
def _add(forcing, out, step, start, trials, state):  # type: ignore[no-untyped-def]
    """Add the forcing of a step to the state, which is the result of that step."""
    vectors, _, _, units = forcing.shape
    for vector in range(vectors):
        for trial in range(trials):
            row, place = vector * trials + trial, start + trial
            for unit in range(units):
                state[row, unit] += forcing[vector, place, step, unit]
            for unit in range(units):
                out[vector, place, step, unit] = state[row, unit]


@kernel
def _subtract(response, out, step, start, trials, state):  # type: ignore[no-untyped-def]
    """The result is the response at a step less the state, and that response is the next state."""
    vectors, _, _, units = response.shape
    for vector in range(vectors):
        for trial in range(trials):
            row, place = vector * trials + trial, start + trial
            for unit in range(units):
                value = response[vector, place, step, unit]
                out[vector, place, step, unit] = value - state[row, unit]
                state[row, unit] = value
