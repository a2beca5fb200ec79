"""Stability: Lyapunov exponents, growth of the propagator in time, norm of P for each trial.

Let Phi(n, m) carry a change of the state at row m to row n: the product A[n-1] ... A[m] for a map, the tangent of the
discrete flow for a Runge-Kutta method, all of its stages included, and so exact for the steps taken. Frames of k
orthonormal vectors are carried along and made orthonormal again now and then,

    Phi(n', n) Q[n] = Q[n'] R[n'],    lambda_i = sum over intervals of log |R_ii| / elapsed time,

which converges to the i-th Lyapunov exponent for nearly every first frame (Benettin, Galgani, Giorgilli and Strelcyn,
Meccanica 15, 1980; Shimada and Nagashima, Progress of Theoretical Physics 61, 1979). Before convergence they are the
finite-time exponents of the stretch of trajectory there is. For k = H and from any frame, their sum is the rate of
growth of volumes: the mean of log |det A| for a map, that of tr df/dz for a field.

Between two orthonormalisations the columns lean towards the fastest direction. If lengths in the frame have come apart
by a factor kappa, R_kk has a relative error of about kappa times the rounding unit; intervals are chosen so that kappa
stays near the fourth root of its inverse (1e4 in double precision).

A trial that ends early counts up to its own end, and its exponents stay what they were there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref import kernels
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow
from kpref.kernels import reference
from kpref.linearize import DenseForm, SiteForm
from kpref.memory import require_memory
from kpref.runge_kutta import Forcing, Segment, StageSystem
from kpref.spectra.blocks import extend_blocks
from kpref.threads import even_blocks, run_blocks

__all__ = ["Lyapunov", "lyapunov_exponents", "propagator_growth", "trial_norms"]

Array = npt.NDArray[Any]
Form = SiteForm | DenseForm
#: Carries vectors (k, B, H) from one row of the trajectory to a later one.
Advance = Callable[[int, int, Array], Array]

_LONGEST = 64  # rows between two orthonormalisations
_SAMPLES = 16  # that a standard error rests on, at least
_BASIS = 24  # vectors of a Lanczos process
_MAX_RESTARTS = 200


@dataclass(frozen=True, eq=False)
class Lyapunov:
    """Lyapunov exponents, in nats per step of a map or per unit of time of a field.

    Attributes
    ----------
    values : ndarray, shape (B, k)
        Finite-time exponents of each trial over all of it that was not discarded, in the order of the frame:
        descending, up to finite-time fluctuations. Minus infinity where a map is singular along the trajectory.
    times : ndarray, shape (C,)
        When frames were made orthonormal, from the first that counts: step of a map, time of a field.
    running : ndarray, shape (B, C, k)
        Exponents from the discarded start up to each of `times`.
    mean, standard_error : ndarray, shape (k,)
        Mean over trials. Its error is that of the mean of independent stretches: trials, cut into blocks of time where
        there are fewer than 16 of them. NaN if there is one stretch only, or for infinite exponents.
    """

    values: Array
    times: Array
    running: Array
    mean: Array
    standard_error: Array


def lyapunov_exponents(
    flow: Flow, k: int | None = None, discard: int = 0, every: int | None = None, seed: int = 0
) -> Lyapunov:
    """Lyapunov exponents along the trajectories of a flow, by QR decompositions.

    Parameters
    ----------
    flow : Flow
    k : int, optional
        Number of exponents; all H by default.
    discard : int
        Rows at the start, steps of a map or intervals of the time grid, in which the frame aligns without counting:
        fewer than the shortest trial has.
    every : int, optional
        Rows between two orthonormalisations; by default chosen on the way, from the growth, at most 64.
    seed : int
        Of the first frame, a random one, the same for all trials.

    Returns
    -------
    Lyapunov

    Raises
    ------
    ValueError
        If k, `discard` or `every` is out of range, or frames overflow between orthonormalisations.
    MemoryError
        Before anything is allocated, if the frames would not fit.

    Notes
    -----
    Products with k vectors for each step or stage, ``2 B T k_r H^2 k`` flops, and a QR decomposition of ``2 H k^2`` for
    each trial and interval. Exponents of a field are those of the discrete method, which differ from the exact ones by
    the error of the method.
    """
    advance, times = _advance(flow)
    trials, units = flow.space.shape[0], flow.space.shape[2]
    ends = _last_rows(flow, times)
    last = int(ends.max())
    count = units if k is None else _integer("k", k, 1, units)
    discard = _integer("discard", discard, 0, int(ends.min()) - 1)
    fixed = None if every is None else _integer("every", every, 1, last)
    require_memory(8.0 * trials * count * (6 * units + last), "the frames of the Lyapunov exponents")
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((units, count)))[0]
    carried = np.broadcast_to(frame.T[:, None], (count, trials, units))
    tolerated = -np.log(np.finfo(flow.dtype).eps) / 4
    row, length, rows, growth = 0, fixed or 1, [discard], [np.zeros((trials, count))]
    while row < last:
        stop = min(row + length, ends[ends > row].min() if row >= discard else discard)
        carried = advance(row, stop, carried)
        ended = ends <= row
        if ended.any():
            carried[:, ended] = frame.T[:, None]  # so that they cannot overflow
        carried, logs = _orthonormalise(carried, times[stop])
        logs[ended] = 0.0
        if fixed is None:
            length = _next_length(stop - row, logs, tolerated)
        if row >= discard:
            rows.append(stop)
            growth.append(growth[-1] + logs)
        row = stop
    return _summary(times, np.array(rows), np.stack(growth, axis=1), ends)


def propagator_growth(flow: Flow) -> Array:
    """Logarithm of the largest singular value of ``Phi(n, 0)``, how far P lets the past grow: shape (B, T).

    Row n belongs to row n of the trajectory: after step n of a map, at time n of a field, where row 0 is zero.
    Minus infinity where Phi is zero. After the end of a trial the value stays what it was there.

    Parameters
    ----------
    flow : Flow

    Returns
    -------
    ndarray, shape (B, T)

    Raises
    ------
    MemoryError
        Before anything is allocated, if B matrices (H, H) would not fit a few times over.

    Notes
    -----
    Phi is carried as a whole and divided by its norm at each row: H vectors, ``2 B T k_r H^3`` flops, and a singular
    value problem of O(H^3) for each trial and row. For networks of up to a few hundred units.
    """
    advance, times = _advance(flow)
    trials, steps, units = flow.space.shape
    require_memory(8.0 * trials * (4 * units**2 + steps), "the matrices of the propagator's growth")
    carried: Array = np.broadcast_to(np.eye(units)[:, None], (units, trials, units))
    logs = np.zeros((trials, len(times)))
    norms, ends = np.empty(trials), _last_rows(flow, times)
    for row in range(len(times) - 1):
        carried = advance(row, row + 1, carried)
        if (ends <= row).any():
            carried[:, ends <= row] = np.eye(units)[:, None]  # of norm one
        _by_trial(trials, carried, lambda part, stack: norms.__setitem__(part, np.linalg.norm(stack, 2, axis=(1, 2))))
        with np.errstate(divide="ignore"):
            logs[:, row + 1] = logs[:, row] + np.log(norms)
        carried = carried / np.where(norms > 0, norms, 1.0)[:, None].astype(carried.dtype)
    return logs[:, len(times) - steps :]


def trial_norms(flow: Flow, seed: int = 0, tol: float = 1e-6) -> Array:
    """Operator norm of P on each trial, in the inner product of the space: shape (B,).

    The root of the largest eigenvalue of the trial's block of ``P P*``, by a Lanczos process for each trial, all in
    step, restarted from its leading Ritz vector until it has converged for every trial.

    Parameters
    ----------
    flow : Flow
    seed : int
        Of the starting vectors.
    tol : float
        Largest residual ``||A v - lambda v|| / lambda`` of each trial: a bound of the relative error of lambda, which
        is in general near its square.

    Returns
    -------
    ndarray, shape (B,)

    Raises
    ------
    RuntimeError
        If some trial does not converge.
    MemoryError
        Before anything is allocated, if the bases would not fit.
    """
    space, gram = flow.space, flow.P.gram()
    trials, size = space.shape[0], space.shape[1] * space.shape[2]
    width = min(size, _BASIS)
    require_memory(8.0 * space.size * (width + 5), "the Lanczos bases of P")

    def symmetric(rows: Array) -> Array:
        return np.asarray(space.scale(gram(space.scale(rows.reshape(space.shape), -0.5)), 0.5)).reshape(trials, -1)

    basis = np.zeros((trials, width + 1, size))
    start = np.random.default_rng(seed).standard_normal((trials, size))
    for _ in range(_MAX_RESTARTS):
        basis[:, 0] = start / np.linalg.norm(start, axis=1, keepdims=True)
        projected = np.zeros((trials, width, width))
        left_over = extend_blocks(symmetric, basis, projected, 0)
        ritz, rotations = np.linalg.eigh(projected)
        converged = left_over * np.abs(rotations[:, -1, -1]) <= tol * ritz[:, -1]
        if converged.all():
            return np.sqrt(np.maximum(ritz[:, -1], 0.0))
        start = np.where(converged[:, None], start, np.einsum("bi,bij->bj", rotations[:, :, -1], basis[:, :width]))
    raise RuntimeError(f"P: the norms of the trials did not converge to {tol:g} in {_MAX_RESTARTS} restarts")


# Frames


def _orthonormalise(carried: Array, time: float) -> tuple[Array, Array]:
    """Vectors (k, B, H) made orthonormal for each trial, and log |R_ii|, (B, k)."""
    count, trials, _ = carried.shape
    if not np.isfinite(carried).all():
        trial = int(np.argmin(np.isfinite(carried).all(axis=(0, 2))))
        raise ValueError(f"the frame of trial {trial} overflows before t = {time:g}; take a smaller `every`")
    out, diagonal = np.empty_like(carried), np.empty((trials, count))

    def task(part: slice, stack: Array) -> None:
        q, r = np.linalg.qr(stack)
        out[:, part] = q.transpose(2, 0, 1)
        diagonal[part] = np.abs(np.diagonal(r, axis1=1, axis2=2))

    _by_trial(trials, carried, task)
    with np.errstate(divide="ignore"):
        return out, np.log(diagonal)


def _by_trial(trials: int, carried: Array, task: Callable[[slice, Array], object]) -> None:
    """Call ``task(trials, matrices (b, H, k))`` for blocks of trials, in parallel."""
    blocks = even_blocks(trials, 1, 16)
    run_blocks(lambda index: task(blocks[index], carried[:, blocks[index]].transpose(1, 2, 0)), len(blocks))


def _next_length(length: int, logs: Array, tolerated: float) -> int:
    """Rows until lengths come apart as far as is tolerated, at the rate seen; at most twice as many as before."""
    if not np.isfinite(logs).all():  # a singular map
        return 1
    spread = float((logs.max(axis=1) - logs.min(axis=1)).max())
    allowed = length * tolerated / spread if spread > 0 else np.inf
    return max(1, int(min(allowed, 2 * length, _LONGEST)))


def _summary(times: Array, rows: Array, growth: Array, ends: Array) -> Lyapunov:
    """Exponents from the logarithms (B, C + 1, k) that have added up at rows (C + 1,), up to the end of each trial."""
    elapsed = times[rows] - times[rows[0]]
    own = np.minimum(elapsed, (times[ends] - times[rows[0]])[:, None])
    running = growth[:, 1:] / own[:, 1:, None]
    values = running[:, -1]
    blocks = min(-(-_SAMPLES // len(values)), len(rows) - 1)
    cuts = np.unique(np.searchsorted(elapsed, np.linspace(0.0, elapsed[-1], blocks + 1) * (1 - 1e-12)))
    with np.errstate(invalid="ignore", divide="ignore"):  # singular maps: differences of minus infinity
        stretches = np.diff(own[:, cuts], axis=1)[:, :, None]  # empty after the end of a trial
        samples = (np.diff(growth[:, cuts], axis=1) / stretches)[stretches[:, :, 0] > 0]
        if len(samples) > 1:
            error = samples.std(axis=0, ddof=1) / len(samples) ** 0.5
        else:
            error = np.full(growth.shape[2], np.nan)
    return Lyapunov(values, times[rows[1:]].astype(float), running, values.mean(axis=0), error)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}; got {value!r}")
    return int(value)


# Propagation


def _last_rows(flow: Flow, times: Array) -> npt.NDArray[np.int64]:
    """Row, of the times that `_advance` goes along, at which each trial ends: (B,)."""
    trials, steps, _ = flow.space.shape
    lengths = np.full(trials, steps) if flow.space.lengths is None else flow.space.lengths
    return lengths + (len(times) - 1 - steps)


def _advance(flow: Flow) -> tuple[Advance, Array]:
    """How vectors get from row to row, and the times of the rows, the initial states being row 0."""
    if isinstance(flow.dynamics, FieldDynamics):
        return _advance_field(flow.dynamics.system), flow.solution.times
    form = flow.linearization

    def advance(start: int, stop: int, vectors: Array) -> Array:
        part = _rows(form, slice(start, stop))
        forcing = np.zeros((*vectors.shape[:2], stop - start, vectors.shape[2]), form.dtype)
        forcing[:, :, 0] = reference.jacobian(part, 0, vectors.astype(form.dtype, copy=False))
        return np.ascontiguousarray(kernels.tangent(part, forcing, overwrite=True)[:, :, -1])

    return advance, np.arange(form.n_steps + 1)


def _advance_field(system: StageSystem) -> Advance:
    grid, stages = system.solution.grid_index, system.stages
    idle = Forcing(np.zeros((system.n_steps, stages, 0), dtype=np.int64), np.zeros((system.n_steps, stages, 0)))

    def advance(start: int, stop: int, vectors: Array) -> Array:
        carry = np.array(vectors, dtype=system.dtype, order="C")
        nowhere = np.zeros((*carry.shape[:2], 1, carry.shape[2]), carry.dtype)
        for segment in system.segments:
            first, last = max(segment.start, grid[start]), min(segment.stop, grid[stop])
            if first < last:
                rows = slice((first - segment.start) * stages, (last - segment.start) * stages)
                table = system.table(Segment(first, last), idle)
                table = table._replace(row=np.full(last - first, -1))  # nothing is written on the way
                kernels.stage_tangent(_rows(system.form(segment), rows), table, nowhere, carry, nowhere)
        return carry

    return advance


def _rows(form: Form, rows: slice) -> Form:
    """Some rows of a linearisation, as views."""
    names = ("state_jacobian", "parameter_jacobian")
    if isinstance(form, SiteForm):
        names = ("decay", "gates", "slope", "variable", "drive")  # type: ignore[assignment]
    arrays = {name: getattr(form, name) for name in names}
    return replace(
        form, **{name: array[rows] if len(array) == form.n_steps else array for name, array in arrays.items()}
    )
