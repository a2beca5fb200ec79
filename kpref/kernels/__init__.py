"""Products with a linearisation: P, P^T, their inverses, J and J^T over the site form, on all cores.

Each function takes a `kpref.linearize.SiteForm` and a batch of tensors (vectors, B, T, H) or of parameter vectors
(vectors, M), and returns a new batch. Blocks of trials, or of rows, are fixed by the size of the problem, and partial
sums are added in a fixed order: the number of threads does not change a bit of the result.
`kpref.kernels.reference` does the same in plain NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.kernels import parameters, sweeps
from kpref.kernels.jacobian import SiteArrays
from kpref.linearize import SiteForm
from kpref.threads import run_blocks

__all__ = [
    "adjoint",
    "inverse",
    "inverse_transpose",
    "parameter_product",
    "parameter_transpose",
    "tangent",
]

Array = npt.NDArray[Any]

# States (vectors * trials) that a sweep carries at once: enough rows for the matrix products to run at full rate,
# few enough that there is work for all cores and that the states of a block stay in cache.
_TRIALS_PER_BLOCK = 16
_STATES_PER_BLOCK = 64
_ROWS_PER_BLOCK = 512
_MOST_BLOCKS = 64


def tangent(form: SiteForm, forcing: Array) -> Array:
    """``P q``: dz[n+1] = A[n] dz[n] + q[n], dz[0] = 0. Costs 2 B T k_r H^2 flops a vector."""
    return _sweep(sweeps.tangent, form, forcing)


def adjoint(form: SiteForm, forcing: Array) -> Array:
    """``P^T g``: l[n] = A[n+1]^T l[n+1] + g[n], backwards. Costs 2 B T k_r H^2 flops a vector."""
    return _sweep(sweeps.adjoint, form, forcing)


def inverse(form: SiteForm, response: Array) -> Array:
    """``P^-1 y``: q[n] = y[n] - A[n] y[n-1]."""
    return _sweep(sweeps.inverse, form, response)


def inverse_transpose(form: SiteForm, forcing: Array) -> Array:
    """``(P^-1)^T g``: row n is g[n] - A[n+1]^T g[n+1]."""
    return _sweep(sweeps.inverse_transpose, form, forcing)


def parameter_product(form: SiteForm, vectors: Array) -> Array:
    """``J dtheta`` for parameter vectors (v, M). Costs 2 B T H (k_r H + k (n_in + 1)) flops a vector."""
    recurrent, driven = form.layout.pack(_as_batch(vectors, form))
    out = np.empty((len(vectors), form.n_trials, form.n_steps, form.n_states), form.dtype)
    arrays, bounds = _arrays(form), _row_blocks(form)

    def task(block: int) -> None:
        parameters.parameter_product(arrays, recurrent, driven, out, bounds[block], bounds[block + 1])

    run_blocks(task, len(bounds) - 1)
    return out


def parameter_transpose(form: SiteForm, tensors: Array) -> Array:
    """``J^T g`` for tensors (v, B, T, H): parameter vectors (v, M). Costs as `parameter_product`."""
    tensors = _as_batch(tensors, form)
    arrays, bounds = _arrays(form), _row_blocks(form)
    partial = [form.layout.zeros(len(tensors), form.dtype) for _ in bounds[1:]]

    def task(block: int) -> None:
        parameters.parameter_transpose(arrays, tensors, *partial[block], bounds[block], bounds[block + 1])

    run_blocks(task, len(partial))
    recurrent, driven = partial[0]
    for other_recurrent, other_driven in partial[1:]:
        recurrent += other_recurrent
        driven += other_driven
    return form.layout.unpack(recurrent, driven)


def _sweep(kernel: Callable[..., None], form: SiteForm, tensors: Array) -> Array:
    tensors = _as_batch(tensors, form)
    out = np.empty_like(tensors)
    arrays = _arrays(form)
    blocks = 1 << max(0, round(np.log2(form.n_trials / _TRIALS_PER_BLOCK)))
    bounds = _bounds(form.n_trials, blocks)
    width = max(1, _STATES_PER_BLOCK * blocks // form.n_trials)
    groups = range(0, len(tensors), width)

    def task(index: int) -> None:
        group, block = divmod(index, blocks)
        part = slice(groups[group], groups[group] + width)
        kernel(arrays, tensors[part], out[part], bounds[block], bounds[block + 1])

    run_blocks(task, blocks * len(groups))
    return out


def _row_blocks(form: SiteForm) -> list[int]:
    """Bounds of blocks of rows; a power of two of them, so that two, four, ... threads share them evenly."""
    rows = form.n_steps * form.n_trials
    return _bounds(rows, min(_MOST_BLOCKS, 1 << max(0, int(np.log2(rows / _ROWS_PER_BLOCK)))))


def _bounds(length: int, blocks: int) -> list[int]:
    return [length * block // blocks for block in range(blocks + 1)]


def _arrays(form: SiteForm) -> SiteArrays:
    return SiteArrays(*(getattr(form, name) for name in SiteArrays._fields))


def _as_batch(batch: Array, form: SiteForm) -> Array:
    """The batch in the layout and precision of the kernels; a read-only array would be a type of its own to them."""
    return np.require(batch, form.dtype, ["C", "W"])
