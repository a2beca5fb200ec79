"""Traces of ``P P*`` and of the NTK, exactly, by structure.

Notation: ``Phi(n, m) = A[n] ... A[m+1]`` for a map, so that P has the blocks Phi(n, m), m <= n, for each trial by
itself, and mu its weights; ``mu^+`` is 1/mu, and 0 where mu = 0: there the restricted space admits no forcing.

**Propagator.** ``P P* = P Mu^+ P^T Mu``. The covariance of the states under white forcing,

    S[n] = sum_{m <= n} mu^+[m] Phi(n, m) Phi(n, m)^T,    S[n] = A[n] S[n-1] A[n]^T + mu^+[n] I,

a controllability Gramian (Kailath, Linear Systems, 1980, section 9.2), gives ``tr P P* = sum_n mu[n] tr S[n]``. A
point without weight passes perturbations on, but neither starts nor counts any.

**NTK.** ``tr NTK = |Mu^(1/2) D|_F^2``, D = dZ/dtheta: one product for each parameter (or each state, if there are
fewer of them). For a map in site form it splits into trials, ``sum_b tr(J_b J_b^T Q_b)`` with ``Q_b = P_b^T Mu_b
P_b``, and as ``J_b J_b^T`` does not mix units, only the entries of Q_b with equal units count:

    Q[t, s] = O[t] Phi(t, s),  s <= t,      O[t] = mu[t] I + A[t+1]^T O[t+1] A[t+1]    (observability Gramian)
    (J J^T)[t h, s h] = sum_g G_g[t, h] G_g[s, h] (v_g[t] . v_g[s])

with G_g the gates and v_g what the trainable parameters of gate g multiply (`kpref.spectra.closed_form`). The
products ``Phi(t, s) = A[t] Phi(t-1, s)``, for all s at once, are nearly all of the work: B T^2 H^3 flops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import function, within_floats
from kpref.flow import Flow, require_flow
from kpref.linearize import DenseForm, Form
from kpref.memory import require_memory
from kpref.models.base import Map
from kpref.operators import TensorOperator
from kpref.site_view import SiteForm, site_or_none, with_gates
from kpref.spectra.closed_form import gate_features
from kpref.spectra.symmetric import require_apart
from kpref.threads import even_blocks, get_num_threads, run_blocks, serial_blas

__all__ = ["ntk_trace_exact", "propagator_gram_trace"]

Array = npt.NDArray[Any]
Progress = Callable[[int], object]

#: Entries of the Gramians of one block of trials.
_BLOCK_ENTRIES = 1 << 18
#: Bytes of tensors that go through an operator at once.
_BATCH_BYTES = 1 << 27
#: Products that the trace of a Runge-Kutta propagator may take.
_MAX_PRODUCTS = 20_000


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def propagator_gram_trace(flow: Flow, progress: Progress | None = None) -> float:
    """Exact trace of ``P P*`` on the space of a flow (restricted, where the measure is zero).

    Parameters
    ----------
    flow : Flow
    progress : callable, optional
        Called with the number of trials (of products, for a Runge-Kutta flow) after each block of them.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For a Runge-Kutta flow of more than 20,000 time points times units.
    MemoryError
        Before anything is allocated, if the Gramians would not fit.

    Notes
    -----
    For a map, 4 B T H^3 flops. For a Runge-Kutta flow T H products with P, each of which serves one state (time, unit)
    of all trials, as P does not mix these. In float64 for a map; in the precision of the flow otherwise.
    """
    _check(flow, progress)
    if isinstance(flow.model, Map):
        return _settled(_gramian_trace(flow.linearization, flow.space.mu, progress))
    steps, units = flow.space.shape[1:]
    if steps * units > _MAX_PRODUCTS:
        raise ValueError(
            f"the exact trace of P P* of a Runge-Kutta flow takes a product for each time and unit, and at most "
            f"{_MAX_PRODUCTS} are made; got {steps} x {units}: estimate the trace of flow.P.gram() instead"
        )
    return _settled(_trace_by_blocks(flow.P, progress))


@serial_blas
@np.errstate(over="ignore", invalid="ignore")  # it is said in words
def ntk_trace_exact(flow: Flow, progress: Progress | None = None) -> float:
    """Exact trace of the NTK on the space of a flow (restricted, where the measure is zero).

    Parameters
    ----------
    flow : Flow
    progress : callable, optional
        Called with the number of trials, or of products with D or its transpose, after each part of the work.

    Returns
    -------
    float

    Raises
    ------
    MemoryError
        Before anything is allocated, if the propagators of a trial would not fit.

    Notes
    -----
    For a map in site form the cheaper of two ways: trial by trial, B T^2 H^3 flops and 3 T H^2 numbers of memory for
    each thread; or min(M, B T H) products with D, 2 B T k_r H^2 flops each and more. Other flows go the second way.
    """
    _check(flow, progress)
    form, shape = site_or_none(flow.linearization), flow.space.shape
    if isinstance(flow.model, Map) and form is not None:
        steps, units = shape[1:]
        by_products = 2 * min(form.n_parameters, math.prod(shape)) * len(form.weight) / units
        if steps * units < by_products:  # both per trial, step and square of the units
            return _settled(_trace_by_trials(form, flow.space.mu, progress))
    return _settled(_trace_by_products(flow.D, progress))


def _settled(trace: float) -> float:
    return float(within_floats("the trace", trace))


def _check(flow: object, progress: object) -> None:
    require_flow(flow)
    if progress is not None:
        function("progress", progress, "a number of trials or products")


def _step_jacobian(form: Any, step: int, trials: slice) -> Array:
    """A[step] of a block of trials, (trials, H, H), in float64."""
    form = with_gates(form)
    if isinstance(form, DenseForm):
        return form.state_jacobian[step, trials].astype(np.float64)
    count, units = trials.stop - trials.start, form.n_states
    matrices = np.zeros((count, units, units))
    gates = _at(form.gates, step, trials)
    for gate in range(len(form.weight) // units):
        matrices += gates[:, gate, :, None] * form.weight[gate * units : (gate + 1) * units].astype(np.float64)
    if form.slope.shape[2]:
        matrices *= _at(form.slope, step, trials)[:, None, :]
    diagonal = np.arange(units)
    matrices[:, diagonal, diagonal] += _at(form.decay, step, trials)
    return matrices


def _at(coefficient: Array, step: int, trials: slice) -> Array:
    """A coefficient at one step, for a block of trials or constant over them (an axis of length one)."""
    row = coefficient[step if coefficient.shape[0] > 1 else 0]
    return (row[trials] if row.shape[0] > 1 else row).astype(np.float64)


def _last_weighed(mu: Array) -> npt.NDArray[np.int64]:
    """The last point of each trial whose weight is positive, (B,); the first of a trial without weight."""
    weighed = mu > 0
    return np.where(weighed.any(axis=1), mu.shape[1] - 1 - np.argmax(weighed[:, ::-1], axis=1), 0)


def _gramian_trace(form: Form, mu: Array, progress: Progress | None) -> float:
    trials, units = form.n_trials, form.n_states
    blocks = even_blocks(trials, max(1, _BLOCK_ENTRIES // units**2))
    largest = max(block.stop - block.start for block in blocks)
    require_memory(8.0 * 5 * get_num_threads() * largest * units**2, "the Gramians of P")
    inverse = np.divide(1.0, mu, out=np.zeros_like(mu), where=mu > 0)
    traces = np.zeros(trials)
    diagonal, ends = np.arange(units), _last_weighed(mu) + 1

    def task(index: int) -> None:
        block = blocks[index]
        gramian = np.zeros((block.stop - block.start, units, units))
        for step in range(ends[block].max()):
            gramian[ends[block] <= step] = 0.0  # nothing comes after: it might overflow
            jacobian = _step_jacobian(form, step, block)
            gramian = jacobian @ gramian @ jacobian.swapaxes(1, 2)
            gramian[:, diagonal, diagonal] += inverse[block, step, None]
            traces[block] += mu[block, step] * gramian[:, diagonal, diagonal].sum(axis=1)

    def done(index: int) -> None:
        if progress is not None:
            progress(blocks[index].stop - blocks[index].start)

    run_blocks(task, len(blocks), done=done)
    return float(traces.sum())


def _trace_by_blocks(propagator: TensorOperator, progress: Progress | None) -> float:
    """``|Mu^(1/2) P Mu^(-1/2)|_F^2``: the basis tensors of (time, unit), each in all trials at once."""
    require_apart(propagator, 0)
    space = propagator.space_in
    trials, steps, units = space.shape
    count = steps * units
    chunk = max(1, _BATCH_BYTES // (space.size * propagator.dtype.itemsize))
    total = 0.0
    for start in range(0, count, chunk):
        width = min(chunk, count - start)
        basis = np.zeros((width, trials, count), propagator.dtype)
        basis[np.arange(width), :, np.arange(start, start + width)] = 1
        images = space.scale(propagator.apply(space.scale(basis.reshape(width, *space.shape), -0.5)), 0.5)
        total += float(np.square(images, dtype=np.float64).sum())
        if progress is not None:
            progress(width)
    return total


def _trace_by_products(sensitivity: TensorOperator, progress: Progress | None) -> float:
    """``|Mu^(1/2) D|_F^2`` from the columns of D, or from its rows if they are fewer."""
    space, parameters = sensitivity.space_out, sensitivity.space_in
    by_rows = space.size < parameters.size
    transposed, count = sensitivity.T, min(space.size, parameters.size)
    chunk = max(1, _BATCH_BYTES // (2 * (space.size + parameters.size) * sensitivity.dtype.itemsize))
    total = 0.0
    for start in range(0, count, chunk):
        width = min(chunk, count - start)
        basis = np.zeros((width, count), sensitivity.dtype)
        basis[np.arange(width), np.arange(start, start + width)] = 1
        if by_rows:
            images = transposed.apply(space.scale(basis.reshape(width, *space.shape), 0.5))
        else:
            images = space.scale(sensitivity.apply(basis), 0.5)
        total += float(np.square(images, dtype=np.float64).sum())
        if progress is not None:
            progress(width)
    return total


def _trace_by_trials(form: SiteForm, mu: Array, progress: Progress | None) -> float:
    """``sum_b tr(J_b J_b^T P_b^T Mu_b P_b)`` of a map in site form, one trial a task."""
    trials, steps, units = form.n_trials, form.n_steps, form.n_states
    workers = min(get_num_threads(), trials)
    require_memory(8.0 * 3 * workers * steps * units**2, f"the propagators of {workers} trials of {steps} steps")
    features = [block.reshape(steps, trials, -1) for block in gate_features(form)]
    gates = np.broadcast_to(form.gates, (steps, trials, *form.gates.shape[2:]))
    traces, ends = np.zeros(trials), _last_weighed(mu) + 1

    def task(trial: int) -> None:
        part = slice(0, ends[trial])
        overlaps = np.array([block[part, trial] @ block[part, trial].T for block in features])
        traces[trial] = _trial_trace(form, mu[trial, part], trial, gates[part, trial].astype(np.float64), overlaps)

    run_blocks(task, trials, done=None if progress is None else lambda trial: progress(1))
    return float(traces.sum())


def _trial_trace(form: SiteForm, mu: Array, trial: int, gates: Array, overlaps: Array) -> float:
    """``tr(J J^T Q)`` of one trial, up to its last point with weight; gates (T, k, H), overlaps (k, T, T) of what the
    parameters multiply.
    """
    steps, units = len(mu), form.n_states
    block = slice(trial, trial + 1)
    observed = np.empty((steps, units, units))  # O[t]
    observed[-1] = mu[-1] * np.eye(units)
    for step in range(steps - 2, -1, -1):
        jacobian = _step_jacobian(form, step + 1, block)[0]
        observed[step] = jacobian.T @ observed[step + 1] @ jacobian
        observed[step].flat[:: units + 1] += mu[step]
    # Row (s, h) is column h of Phi(t, s): all of them take one product with A[t]^T from the right.
    columns, following = np.empty((2, steps * units, units))
    total = 0.0
    for step in range(steps):
        jacobian = _step_jacobian(form, step, block)[0]
        np.matmul(columns[: step * units], jacobian.T, out=following[: step * units])
        columns, following = following, columns
        columns[step * units : (step + 1) * units] = np.eye(units)
        shared = np.einsum("gs,gh,sgh->sh", overlaps[:, step, : step + 1], gates[step], gates[: step + 1])
        propagated = columns[: (step + 1) * units].reshape(step + 1, units, units)
        entries = np.einsum("shj,hj->sh", propagated, observed[step]) * shared
        total += 2 * entries[:step].sum() + entries[step].sum()
    return float(total)
