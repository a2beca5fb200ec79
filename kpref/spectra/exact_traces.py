"""Traces of ``P P*`` and of the NTK, exactly, by structure.

Notation: ``Phi(n, m) = A[n] ... A[m+1]`` for a map, so that P has the blocks Phi(n, m), m <= n, for each trial by
itself, and mu its weights; ``mu^+`` is 1/mu, and 0 where mu = 0: there the restricted space admits no forcing.

**Propagator.** ``P P* = P Mu^+ P^T Mu``. The covariance of the states under white forcing,

    S[n] = sum_{m <= n} mu^+[m] Phi(n, m) Phi(n, m)^T,    S[n] = A[n] S[n-1] A[n]^T + mu^+[n] I,

a controllability Gramian (Kailath, Linear Systems, 1980, section 9.2), gives ``tr P P* = sum_n mu[n] tr S[n]``. A
point without weight passes perturbations on, but neither starts nor counts any.

**NTK.** ``tr NTK = |Mu^(1/2) D|_F^2``, D = dZ/dtheta: one product for each parameter (or each state, if there are
fewer of them). For a map it splits into trials, ``sum_b tr(J_b J_b^T Q_b)`` with ``Q_b = P_b^T Mu_b P_b``; and where
``J_b J_b^T`` does not mix units, only the entries of Q_b between states of one unit count:

    Q[t, s] = O[t] Phi(t, s),  s <= t,      O[t] = mu[t] I + A[t+1]^T O[t+1] A[t+1]    (observability Gramian)
    (J J^T)[t p u, s q u] = sum_g G[p, g, u](t) G[q, g, u](s) (v_g[t] . v_g[s])

with G the gates and v_g what the trainable parameters of current g multiply, for states p, q of unit u
(`kpref.unit_form`). The products ``Phi(t, s) = A[t] Phi(t-1, s)``, for all s at once, are nearly all of the work:
B T^2 H^3 flops.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import function, within_floats
from kpref.derivative_blocks import state_jacobian
from kpref.flow import Flow, require_flow
from kpref.linearize import Form
from kpref.memory import require_memory
from kpref.models.base import Map
from kpref.operators import TensorOperator
from kpref.spectra.symmetric import require_apart
from kpref.step_form import StepForm
from kpref.threads import even_blocks, get_num_threads, run_blocks, serial_blas
from kpref.unit_factors import UnitForm
from kpref.unit_form import unit_form

__all__ = ["ntk_trace_exact", "propagator_gram_trace"]

Progress = Callable[[int], object]

#: Entries of the Gramians of one block of trials: with its Jacobians and their product it stays in a cache.
_BLOCK_ENTRIES = 1 << 16
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
    For a network in discrete time whose units K does not mix the cheaper of two ways: trial by trial, B T^2 H^3 flops
    and 3 T H^2 numbers of memory for each thread; or min(M, B T H) products with D, each of 2 B T flops for an entry of
    a weight, and more. Other flows go the second way.
    """
    _check(flow, progress)
    form, shape = flow.linearization, flow.space.shape
    if isinstance(flow.model, Map) and isinstance(form, StepForm):
        steps, states = shape[1:]
        entries = sum(form.weights[op.name].size for op in form.program.operations
                      if op.kind == "product" and op.source is not None)  # fmt: skip
        # Both per trial and step.
        if steps * states**3 < 2 * min(form.n_parameters, math.prod(shape)) * entries:
            units = unit_form(form)
            if units is not None:
                return _settled(_trace_by_trials(form, units, flow.space.mu, progress))
    return _settled(_trace_by_products(flow.D, progress))


def _settled(trace: float) -> float:
    return float(within_floats("the trace", trace))


def _check(flow: object, progress: object) -> None:
    require_flow(flow)
    if progress is not None:
        function("progress", progress, "a number of trials or products")


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
        moved = np.empty_like(gramian)
        for step in range(ends[block].max()):
            gramian[ends[block] <= step] = 0.0  # nothing comes after: it might overflow
            jacobian = state_jacobian(form, step, block)
            np.matmul(jacobian, gramian, out=moved)
            np.matmul(moved, jacobian.swapaxes(1, 2), out=gramian)
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

    def images(start: int, width: int) -> Array:
        basis = np.zeros((width, trials, steps * units), propagator.dtype)
        basis[np.arange(width), :, np.arange(start, start + width)] = 1
        return space.scale(propagator.apply(space.scale(basis.reshape(width, *space.shape), -0.5)), 0.5)

    return _sum_of_squares(images, steps * units, space.size * propagator.dtype.itemsize, progress)


def _trace_by_products(sensitivity: TensorOperator, progress: Progress | None) -> float:
    """``|Mu^(1/2) D|_F^2`` from the columns of D, or from its rows if they are fewer."""
    space, parameters = sensitivity.space_out, sensitivity.space_in
    by_rows = space.size < parameters.size
    transposed, count = sensitivity.T, min(space.size, parameters.size)

    def images(start: int, width: int) -> Array:
        basis = np.zeros((width, count), sensitivity.dtype)
        basis[np.arange(width), np.arange(start, start + width)] = 1
        if by_rows:
            return transposed.apply(space.scale(basis.reshape(width, *space.shape), 0.5))
        return space.scale(sensitivity.apply(basis), 0.5)

    each = 2 * (space.size + parameters.size) * sensitivity.dtype.itemsize
    return _sum_of_squares(images, count, each, progress)


def _sum_of_squares(
    images: Callable[[int, int], Array], count: int, bytes_of_each: int, progress: Progress | None
) -> float:
    """Of the images of so many basis tensors; `images` gives those of some, by the first and their number."""
    chunk, total = max(1, _BATCH_BYTES // bytes_of_each), 0.0
    for start in range(0, count, chunk):
        width = min(chunk, count - start)
        total += float(np.square(images(start, width), dtype=np.float64).sum())
        if progress is not None:
            progress(width)
    return total


def _trace_by_trials(form: Form, units: UnitForm, mu: Array, progress: Progress | None) -> float:
    """``sum_b tr(J_b J_b^T P_b^T Mu_b P_b)`` of a map whose units K does not mix, one trial a task."""
    trials, steps, states = form.n_trials, form.n_steps, form.n_states
    workers = min(get_num_threads(), trials)
    require_memory(8.0 * 3 * workers * steps * states**2, f"the propagators of {workers} trials of {steps} steps")
    traces, ends = np.zeros(trials), _last_weighed(mu) + 1

    def task(trial: int) -> None:
        traces[trial] = _trial_trace(form, units, mu[trial, : ends[trial]], trial)

    run_blocks(task, trials, done=None if progress is None else lambda trial: progress(1))
    return float(traces.sum())


def _trial_trace(form: Form, units: UnitForm, mu: Array, trial: int) -> float:
    """``tr(J J^T Q)`` of one trial, up to its last point with weight."""
    steps, states = len(mu), form.n_states
    block = slice(trial, trial + 1)
    observed = np.empty((steps, states, states))  # O[t]
    observed[-1] = mu[-1] * np.eye(states)
    for step in range(steps - 2, -1, -1):
        jacobian = state_jacobian(form, step + 1, block)[0]
        observed[step] = jacobian.T @ observed[step + 1] @ jacobian
        observed[step].flat[:: states + 1] += mu[step]
    own, parts = units.of_trial(trial), [units.states(part) for part in range(units.parts)]
    # Row (s, h) is column h of Phi(t, s): all of them take one product with A[t]^T from the right.
    columns, following = np.empty((2, steps * states, states))
    total = 0.0
    for step in range(steps):
        jacobian = state_jacobian(form, step, block)[0]
        np.matmul(columns[: step * states], jacobian.T, out=following[: step * states])
        columns, following = following, columns
        columns[step * states : (step + 1) * states] = np.eye(states)
        propagated = columns[: (step + 1) * states].reshape(step + 1, states, states)
        shared = own.pairs(slice(step, step + 1), slice(0, step + 1))[0]  # (s, p, q, u)
        for p, here in enumerate(parts):
            for q, there in enumerate(parts):  # where a unit has no state p or q, `shared` is zero
                entries = np.einsum("suj,uj->su", propagated[:, there], observed[step, here]) * shared[:, p, q]
                total += 2 * entries[:step].sum() + entries[step].sum()
    return float(total)
