"""Stability: Lyapunov exponents, growth of the propagator in time, norm of P for each trial.

Let Phi(n, m) carry a change of the state at row m to row n: the product A[n-1] ... A[m] for a map, the tangent of the
discrete flow for a Runge-Kutta method, all of its stages included, and so exact for the steps taken. Frames of k
orthonormal vectors are carried along and made orthonormal again now and then,

    Phi(n', n) Q[n] = Q[n'] R[n'],    lambda_i = sum over intervals of log |R_ii| / elapsed time,

which converges to the i-th Lyapunov exponent for nearly every first frame (Benettin, Galgani, Giorgilli and Strelcyn,
Meccanica 15, 1980; Shimada and Nagashima, Progress of Theoretical Physics 61, 1979). Before convergence they are the
finite-time exponents of the stretch of trajectory there is. For k = H and from any frame, their sum is the rate of
growth of volumes: the mean of log |det A| for a map, that of tr df/dz for a field.

The exponents of a stretch depend on the frame that it begins with, by O(1 / time); the exponents of the system, with
intervals that say how well a stretch tells them, are in `kpref.spectra.exponents`.

Between two orthonormalisations the columns lean towards the fastest direction. If lengths in the frame have come apart
by a factor kappa, R_kk has a relative error of about kappa times the rounding unit; intervals are chosen so that kappa
stays near the fourth root of its inverse (1e4 in double precision). Where it exceeds the square root, the interval is
done again in halves.

A trial that ends early counts up to its own end, and its finite-time exponents stay what they were there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kpref import kernels
from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer, real_number
from kpref.derivative_blocks import state_jacobian
from kpref.dynamics import FieldDynamics
from kpref.flow import Flow, require_flow
from kpref.kernels import reference
from kpref.memory import require_memory
from kpref.product_form import ProductForm
from kpref.runge_kutta import Forcing, Segment, StageSystem
from kpref.spectra.blocks import extend_blocks
from kpref.spectra.estimate import Estimate
from kpref.spectra.exponents import MANY_TRIALS, Stretch, TooShort, exponent_estimates
from kpref.spectra.symmetric import require_apart
from kpref.threads import even_blocks, per_call, run_blocks, serial_blas

__all__ = ["Lyapunov", "TooShort", "lyapunov_exponents", "propagator_growth", "trial_norms"]

#: Carries vectors (k, B, H) from one row of the trajectory to a later one.
Advance = Callable[[int, int, Array], Array]

_LONGEST = 64  # rows between two orthonormalisations
_RECORDS = 128  # of the growth, where there are as many rows: blocks of time are made of them,
_FEW_RECORDS = 24  # which many trials can do without
_QR_ENTRIES = 1 << 12  # of the matrices that one block decomposes, at least
_BASIS = 24  # vectors of a Lanczos process
_MAX_RESTARTS = 200


@dataclass(frozen=True, eq=False)
class Lyapunov:
    """Lyapunov exponents, in nats per step of a map or per unit of time of a field.

    Two things go by the name. *Finite-time exponents* (`values`, `running`, `mean`) belong to these very trajectories;
    they are exact to rounding, and depend on the first frame. The exponents *of the system* are what they tend to as
    time goes on, and are estimated (`estimates`, `interval`).

    Attributes
    ----------
    values : ndarray, shape (B, k)
        Finite-time exponents of each trial over all of it that was not discarded, in the order of the frame:
        descending, up to finite-time fluctuations. Minus infinity where a map is singular along the trajectory.
    times : ndarray, shape (C,)
        When frames were made orthonormal, from the first that counts: step of a map, time of a field.
    running : ndarray, shape (B, C, k)
        Exponents from the discarded start up to each of `times`.
    mean : ndarray, shape (k,)
        Mean of `values` over trials.
    trial_error : ndarray, shape (k,)
        Standard error of `mean` as a mean over trials: of finite-time exponents of other trials like these. NaN for one
        trial, or infinite exponents.
    standard_error : ndarray, shape (k,)
        How far `mean` may be from the exponents of the system, as a standard deviation: the standard error of the
        estimates together with their distance from `mean`. NaN where these trials do not tell.
    """

    values: Array
    times: Array
    running: Array
    mean: Array
    trial_error: Array
    standard_error: Array
    _estimates: tuple[Estimate, ...] | TooShort = field(repr=False)

    __repr__ = short_repr

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Exponents of the system, k of them: see `kpref.spectra.exponents`.

        Raises
        ------
        TooShort
            A ValueError, if the trials are too few and too short: it says what it takes.
        """
        if isinstance(self._estimates, TooShort):
            raise self._estimates
        return self._estimates

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Intervals for the exponents of the system: two arrays (k,), the lower and the upper ends.

        Raises
        ------
        TooShort
            As `estimates`.
        TypeError, ValueError
            If `level` is no number between 0 and 1.
        """
        low, high = zip(*(estimate.interval(level) for estimate in self.estimates), strict=True)
        return np.array(low), np.array(high)


@serial_blas
def lyapunov_exponents(
    flow: Flow, k: int | None = None, discard: int | None = None, every: int | None = None, seed: int = 0
) -> Lyapunov:
    """Lyapunov exponents along the trajectories of a flow, by QR decompositions.

    Parameters
    ----------
    flow : Flow
    k : int, optional
        Number of exponents; all H by default.
    discard : int, optional
        Rows at the start, steps of a map or intervals of the time grid, in which the frame aligns without counting. By
        default `values` count all rows, and estimates of the exponents of the system those from where their intervals
        are narrowest; 0 lets all rows count for both.
    every : int, optional
        Rows between two times at which growth is recorded; by default chosen on the way, at most 64. Frames are made
        orthonormal more often where that is needed to keep their directions apart.
    seed : int
        Of the first frame, a random one, the same for all trials.

    Returns
    -------
    Lyapunov

    Raises
    ------
    TypeError, ValueError
        If k, `discard`, `every` or `seed` is no integer or out of range, or a frame overflows within one step.
    MemoryError
        Before anything is allocated, if the frames would not fit.

    Notes
    -----
    Products of A with k + 1 vectors at each step or stage, and a QR decomposition of ``2 H k^2``
    for each trial and interval. Exponents of a field are those of the discrete method, which differ from the exact ones
    by the error of the method.
    """
    advance, times = _advance(flow)
    trials, units = flow.space.shape[0], flow.space.shape[2]
    ends = _last_rows(flow, times)
    last = int(ends.max())
    count = units if k is None else integer("k", k, 1, units)
    start = 0 if discard is None else integer("discard", discard, 0, int(ends.min()) - 1)
    records = _FEW_RECORDS if trials >= MANY_TRIALS else _RECORDS
    longest = min(_LONGEST, max(1, last // records)) if every is None else integer("every", every, 1, last)
    generator = np.random.default_rng(integer("seed", seed, 0))
    width = min(count + 1, units)  # a neighbour for the last one
    require_memory(8.0 * trials * width * (6 * units + last / longest), "the frames of the Lyapunov exponents")
    first = generator.standard_normal((units, count))
    frame = np.linalg.qr(np.concatenate([first, generator.standard_normal((units, width - count))], axis=1))[0]
    carried = np.broadcast_to(frame.T[:, None], (width, trials, units))
    sweep = _Sweep(advance, times, float(np.finfo(flow.dtype).eps), ends, width)
    row, rows, growth = 0, [0], [np.zeros((trials, width))]
    while row < last:
        length = longest if every is not None else min(longest, sweep.length)
        stop = min(row + length, int(ends[ends > row].min()) if row >= start else start)
        carried, logs = sweep.through(row, stop, carried)
        rows.append(stop)
        growth.append(growth[-1] + logs)
        row = stop
    products = width * last
    stretch = Stretch(times[rows].astype(float), np.stack(growth, axis=1), sweep.rounding, None, products)
    return _summary(stretch, rows.index(start), count, discard is not None, times[ends])


@serial_blas
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
    Phi is carried as a whole and divided by its norm at each row: H vectors, H products with A at each, and a singular
    value problem of O(H^3) for each trial and row. For networks of up to a few hundred units.
    """
    move, times = _whole_steps(flow)
    trials, steps, units = flow.space.shape
    require_memory(8.0 * trials * (4 * units**2 + steps), "the matrices of the propagator's growth")
    carried: Array = np.broadcast_to(np.eye(units)[:, None], (units, trials, units))
    logs = np.zeros((trials, len(times)))
    norms, ends = np.empty(trials), _last_rows(flow, times)
    for row in range(len(times) - 1):
        carried = move(row, carried)
        carried[:, ends <= row] = np.eye(units)[:, None]  # of norm one
        _by_trial(trials, carried, lambda part, stack: norms.__setitem__(part, _norms(stack)))
        with np.errstate(divide="ignore"):
            logs[:, row + 1] = logs[:, row] + np.log(norms)
        carried = carried / np.where(norms > 0, norms, 1.0)[:, None].astype(carried.dtype)
    return logs[:, len(times) - steps :]


def _norms(matrices: Array) -> Array:
    """Largest singular values of matrices (b, m, n), from their Gram matrices: as accurate, and faster."""
    units = np.abs(matrices).max(axis=(1, 2))
    scaled = matrices / np.where(units > 0, units, 1.0)[:, None, None]
    squares = np.linalg.eigvalsh(scaled @ scaled.swapaxes(1, 2))[:, -1]
    return np.asarray(units * np.sqrt(np.maximum(squares, 0.0)))


@serial_blas
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
    TypeError, ValueError
        If `seed` or `tol` is no such number.
    RuntimeError
        If some trial does not converge.
    MemoryError
        Before anything is allocated, if the bases would not fit.
    """
    require_flow(flow)
    tol, generator = real_number("tol", tol, above=0), np.random.default_rng(integer("seed", seed, 0))
    space, gram = flow.space, flow.P.gram()
    require_apart(gram, 0)
    trials, size = space.shape[0], space.shape[1] * space.shape[2]
    width = min(size, _BASIS)
    require_memory(8.0 * space.size * (width + 5), "the Lanczos bases of P")

    def symmetric(rows: Array) -> Array:
        return np.asarray(space.scale(gram(space.scale(rows.reshape(space.shape), -0.5)), 0.5)).reshape(trials, -1)

    basis = np.zeros((trials, width + 1, size))
    start = generator.standard_normal((trials, size))
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


@dataclass(eq=False)
class _Sweep:
    """Carries frames on, orthonormalised as often as it takes to keep their directions apart.

    `rounding`: shape (B, width); bound of what rounding has added to the logarithms: of one R_ii, for each row, 8
    sqrt(k) units times the factor by which the longest direction before it has become longer.
    """

    # advance, times: as `_advance` gives them
    advance: Advance
    times: Array
    eps: float  # of the precision
    ends: npt.NDArray[np.int64]  # (B,): row at which each trial ends: its frame stays as it is from there
    width: int
    length: int = 1  # rows that the next interval should have, from the growth in the last

    def __post_init__(self) -> None:
        self.rounding = np.zeros((len(self.ends), self.width))

    def through(self, start: int, stop: int, carried: Array) -> tuple[Array, Array]:
        """Frames (k, B, H) at row `stop` from those at `start`, and log |R_ii|, (B, k), added up on the way.

        No trial may end between the two.
        """
        total, row, length = np.zeros((len(self.ends), self.width)), start, stop - start
        ended = self.ends <= start
        while row < stop:
            length = min(length, stop - row)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = self.advance(row, row + length, carried)
            moved[:, ended] = carried[:, ended]
            finite = np.isfinite(moved).all(axis=(0, 2))
            if not finite.all():
                if length > 1:
                    length = length // 2
                    continue
                trial = int(np.argmin(finite))
                raise ValueError(
                    f"the frame of trial {trial} overflows within one step, before t = {self.times[row + 1]:g}"
                )
            frame, logs = _orthonormalise(moved)
            logs[ended] = 0.0
            spread = _spread(logs)
            if length > 1 and not spread <= -np.log(self.eps) / 2:
                length = length // 2
                continue
            self._round(logs, length * ~ended[:, None])
            self.length = _next_length(length, spread, -np.log(self.eps) / 4)
            carried, total, row = frame, total + logs, row + length
        return carried, total

    def _round(self, logs: Array, rows: npt.NDArray[np.int64]) -> None:
        with np.errstate(invalid="ignore"):
            apart = np.maximum.accumulate(logs, axis=1) - logs
        units = 8 * rows * np.sqrt(self.width) * self.eps
        self.rounding += units * np.exp(np.minimum(np.nan_to_num(apart, nan=0.0, posinf=0.0), 700.0))


def _orthonormalise(carried: Array) -> tuple[Array, Array]:
    """Vectors (k, B, H) made orthonormal for each trial, and log |R_ii|, (B, k)."""
    count, trials, _ = carried.shape
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
    rows = max(carried.shape[0], carried.shape[2])
    blocks = even_blocks(trials, max(per_call(rows), _QR_ENTRIES // (carried.shape[0] * carried.shape[2])), 16)
    run_blocks(lambda index: task(blocks[index], carried[:, blocks[index]].transpose(1, 2, 0)), len(blocks))


def _spread(logs: Array) -> float:
    """Logarithm of the factor by which lengths have come apart; infinity for a singular map."""
    if not np.isfinite(logs).all():
        return np.inf
    return float((logs.max(axis=1) - logs.min(axis=1)).max())


def _next_length(length: int, spread: float, tolerated: float) -> int:
    """Rows until lengths come apart as far as is tolerated, at the rate seen; at most twice as many as before."""
    allowed = length * tolerated / spread if spread > 0 else np.inf
    return max(1, int(min(allowed, 2 * length, _LONGEST)))


def _summary(stretch: Stretch, start: int, count: int, chosen: bool, ends: Array) -> Lyapunov:
    """Exponents from what a sweep has recorded; `start` is the record that finite-time exponents count from.

    `ends` are the times at which the trials end.
    """
    growth, times = stretch.growth[:, :, :count], stretch.times
    elapsed = np.minimum(times[start + 1 :], ends[:, None]) - times[start]
    with np.errstate(invalid="ignore"):
        running = (growth[:, start + 1 :] - growth[:, [start]]) / elapsed[:, :, None]
    values = running[:, -1]
    mean, trials = values.mean(axis=0), len(values)
    unknown = np.full(count, np.nan)
    with np.errstate(invalid="ignore"):  # of minus infinities
        trial_error = values.std(axis=0, ddof=1) / trials**0.5 if trials > 1 else unknown
    estimates: tuple[Estimate, ...] | TooShort
    try:
        shared = replace(_shared(stretch, ends), first=start if chosen else None)
        estimates = exponent_estimates(shared, count)
        with np.errstate(invalid="ignore"):
            error = np.array([np.hypot(e.standard_error, m - e.value) for e, m in zip(estimates, mean, strict=True)])
    except TooShort as short:
        estimates, error = short, unknown
    return Lyapunov(values, times[start + 1 :], running, mean, trial_error, error, estimates)


def _shared(stretch: Stretch, ends: Array) -> Stretch:
    """Trials of different lengths cut to what most of them share: the rectangle of most points."""
    if (ends == ends[0]).all():
        return stretch
    span = stretch.times[0]
    end = max(np.unique(ends), key=lambda time: (time - span) * np.count_nonzero(ends >= time))
    rows, trials = stretch.times <= end, ends >= end
    return replace(
        stretch,
        times=stretch.times[rows],
        growth=stretch.growth[np.ix_(trials, rows)],
        rounding=stretch.rounding[trials],
    )


# Propagation


def _last_rows(flow: Flow, times: Array) -> npt.NDArray[np.int64]:
    """Row, of the times that `_advance` goes along, at which each trial ends: (B,)."""
    trials, steps, _ = flow.space.shape
    lengths = np.full(trials, steps) if flow.space.lengths is None else flow.space.lengths
    return lengths + (len(times) - 1 - steps)


def _advance(flow: Flow) -> tuple[Advance, Array]:
    """How vectors get from row to row, and the times of the rows, the initial states being row 0."""
    require_flow(flow)
    if isinstance(flow.dynamics, FieldDynamics):
        return _advance_field(flow.dynamics.system), flow.solution.times
    form = flow.linearization

    def advance(start: int, stop: int, vectors: Array) -> Array:
        part = form.rows(slice(start, stop))
        forcing = np.zeros((*vectors.shape[:2], stop - start, vectors.shape[2]), form.dtype)
        forcing[:, :, 0] = reference.jacobian(part, 0, vectors.astype(form.dtype, copy=False))
        return np.ascontiguousarray(kernels.tangent(part, forcing, overwrite=True)[:, :, -1])

    return advance, np.arange(form.n_steps + 1)


def _whole_steps(flow: Flow) -> tuple[Callable[[int, Array], Array], Array]:
    """As `_advance`, a row at a time, for as many vectors as there are states: by matrices A where these are known."""
    advance, times = _advance(flow)
    if isinstance(flow.dynamics, FieldDynamics) or isinstance(flow.linearization, ProductForm):
        return lambda row, vectors: advance(row, row + 1, vectors), times
    form = flow.linearization

    def multiply(row: int, vectors: Array) -> Array:
        images = np.empty(vectors.shape)
        transposed = state_jacobian(form, row, slice(None)).swapaxes(1, 2)
        np.matmul(vectors.swapaxes(0, 1), transposed, out=images.swapaxes(0, 1))
        return images

    return multiply, times


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
                kernels.stage_tangent(system.form(segment).rows(rows), table, nowhere, carry, nowhere)
        return carry

    return advance
