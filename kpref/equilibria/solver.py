"""Roots of r(z), and where there is none nearby local minima of ``q = |r|^2 / 2``, from many starts in one batch.

Every start is a problem of its own; what it finds does not depend on the others. One iteration at a state z with
residual r and Jacobian R = dr/dz:

*Newton.* The step ``p = -R^-1 r`` is taken where it at least halves |r|: near a regular root it always does, and
converges quadratically. Where R is singular to half of the digits, as it is on a line attractor, the part of p along
the line would be rounding divided by rounding: there the shortest step that solves the rest, ``p = -R^+ r`` with
singular values below these digits left out, takes its place. The condition number is estimated by a random right side
that is solved with r.

*Levenberg-Marquardt* otherwise: ``p = -(R^T R + lambda I)^-1 R^T r``, which is short and reduces q for lambda large
enough. lambda follows the ratio of the realised to the predicted decrease as Nielsen (1999) has it. On a manifold of
roots p has no part along it, so that of a linear network a start ends at its orthogonal projection on the line of
fixed points; and as r vanishes R^T R takes over from lambda and convergence is fast again (Yamashita and Fukushima
2001).

A state is a *root* once |r| is below the tolerance and no Newton step halves it any more: the last steps, which cost
little, take it to rounding. Of each state the *distance* ``|R^-1 r|`` is known at which r would vanish if it were
linear, what rounding makes of r left out. It must be small beside z at a root: r also falls below any tolerance where a
state runs off and a gate shuts like exp(-z), but there the distance stays what it is.

A state is *slow* where the gradient of q has vanished and r has not: ``|R^T r|`` below 1e-6 of |r| times the largest
|R| that the start has met, which is as well as a minimum of q can be told in float64 (near one, q is flat to rounding
within some sqrt(eps) of it), and the distance not small beside z. Maxima and saddles of q are flat too: from the first
flat state a start is pushed aside by a thousandth of its length, and only where it comes to rest again is it slow.

A state has *run off*, and the search from there stops, where the next steps would be lost in the rounding of z, and by
this rule: while |r| falls to a third, the distance falls to ``3^(-1/m)`` near a root of order m, r = c d^m, and near a
minimum of q it grows without bound; where it has stayed the same to a fiftieth (m > 54), and |r| is below the tolerance
or would not be, at this pace, within the iterations that are left, there is neither to come to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpref._types import Array

__all__ = ["ROOT", "SLOW", "UNSETTLED", "Descent", "descend"]

UNSETTLED, ROOT, SLOW = 0, 1, 2

_EPS = np.finfo(float).eps

#: Of a Jacobian, beyond which Newton's step is not trusted: half of the digits.
_MOST_CONDITION = 1e8
#: Of |R^T r| to |R| |r|, below which a minimum of q is reached.
_FLAT = 1e-6
#: Values of lambda that are tried with one Jacobian, and the first one beside the mean diagonal of R^T R.
_TRIES, _FIRST_DAMPING = 6, 1e-2
#: The largest distance of a root, and the least of a slow point, relative to 1 + |z|.
_NEAR, _FAR = 1e-3, 1.0
#: What |r| falls to, and by how little the distance changes meanwhile, where a state runs off.
_FALL, _STANDS = 1 / 3, 0.02
#: Rounding of r relative to 1 + |z|, in units of eps.
_ROUNDING = 64
#: By which a start is pushed aside, relative to 1 + |z|.
_PUSH = 1e-3

Residual = Callable[[Array, npt.NDArray[np.intp]], Array]
Jacobian = Residual


class Descent(NamedTuple):
    """What became of each start.

    Attributes
    ----------
    states, residuals : ndarray, shape (n, S)
    kinds : ndarray of int, shape (n,)
        One of `UNSETTLED`, `ROOT`, `SLOW`.
    iterations : ndarray of int, shape (n,)
        Jacobians that it took.
    """

    states: Array
    residuals: Array
    kinds: npt.NDArray[np.int64]
    iterations: npt.NDArray[np.int64]


def descend(residual: Residual, jacobian: Jacobian, starts: Array, tolerance: float, most: int) -> Descent:
    """Take each start to a root or a slow point.

    `residual(z, which)`, `jacobian(z, which)`: r (k, S) and R (k, S, S) at states z (k, S) of the starts `which` (k,).
    `starts`: shape (n, S). `tolerance`: of |r|. `most`: iterations.
    """
    everything, runaway = np.arange(len(starts)), _Runaway(len(starts), tolerance, most)
    with np.errstate(all="ignore"):  # a trial step may go anywhere; what is not finite is not accepted
        at = _At(starts.copy(), residual(starts, everything))
        kinds, iterations = np.full((2, len(starts)), UNSETTLED)
        largest, damping, growth = np.zeros(len(starts)), np.full(len(starts), np.nan), np.full(len(starts), 2.0)
        pushed = np.zeros(len(starts), dtype=bool)
        for iteration in range(most):
            active = np.flatnonzero((kinds == UNSETTLED) & ~runaway.lost)
            if not len(active):
                break
            iterations[active] += 1
            matrices = jacobian(at.states[active], active)
            largest[active] = np.maximum(largest[active], _norms(matrices))
            scales = 1 + _norms(at.states[active])
            steps, distances = _newton_steps(matrices, at.residuals[active], _ROUNDING * _EPS * scales)
            runaway.watch(active, at.sizes[active], distances, iteration)
            taken = at.try_steps(residual, active, steps, 0.25)
            left, matrices, relative = active[~taken], matrices[~taken], (distances / scales)[~taken]
            gradients = np.einsum("kij,ki->kj", matrices, at.residuals[left])
            sizes = at.sizes[left]
            kinds[left[(sizes <= tolerance) & (relative <= _NEAR)]] = ROOT
            runaway.lost[left[(sizes <= tolerance) & ~(relative <= _NEAR)]] = True
            level = (sizes > tolerance) & (_norms(gradients) <= _FLAT * largest[left] * sizes)
            flat = left[level & (relative >= _FAR)]
            kinds[flat[pushed[flat]]] = SLOW
            aside = flat[~pushed[flat]]
            at.push(residual, aside)
            pushed[aside], damping[aside] = True, np.nan
            going = (kinds[left] == UNSETTLED) & ~runaway.lost[left] & ~np.isin(left, aside)
            moved = _dampen(at, residual, left[going], matrices[going], gradients[going], damping, growth)
            runaway.lost[left[going][~moved]] = True
    return Descent(at.states, at.residuals, kinds, iterations)


class _At:
    """Where each start has come to."""

    def __init__(self, states: Array, residuals: Array) -> None:
        self.states, self.residuals = states, residuals
        self.q = 0.5 * np.square(residuals).sum(axis=1)

    @property
    def sizes(self) -> Array:
        """|r|."""
        return np.sqrt(2 * self.q)

    def try_steps(
        self, residual: Residual, which: npt.NDArray[np.intp], steps: Array, share: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Take the steps after which q is below a share of what it was; returns which."""
        states = self.states[which] + steps
        residuals = residual(states, which)
        q = 0.5 * np.square(residuals).sum(axis=1)
        good = q < share * self.q[which]
        chosen = which[good]
        self.states[chosen], self.residuals[chosen], self.q[chosen] = states[good], residuals[good], q[good]
        return np.asarray(good)

    def push(self, residual: Residual, which: npt.NDArray[np.intp]) -> None:
        """Push states aside, all in one direction that has nothing to do with them."""
        states = self.states[which]
        self.states[which] = states + _PUSH * (1 + _norms(states))[:, None] * _direction(states.shape[1])
        self.residuals[which] = residual(self.states[which], which)
        self.q[which] = 0.5 * np.square(self.residuals[which]).sum(axis=1)


class _Runaway:
    """Which starts have run off: of each, |r| and the distance when |r| had last fallen by `_FALL`."""

    def __init__(self, number: int, tolerance: float, most: int) -> None:
        self.tolerance, self.most = tolerance, most
        self.lost = np.zeros(number, dtype=bool)
        self._sizes, self._distances = np.full((2, number), np.inf)
        self._when = np.zeros(number)

    def watch(self, which: npt.NDArray[np.intp], sizes: Array, distances: Array, iteration: int) -> None:
        """Take note of |r| and the distance of starts `which`, and mark those that are lost."""
        fallen = sizes <= _FALL * self._sizes[which]
        chosen, size, distance = which[fallen], sizes[fallen], distances[fallen]
        thirds = np.log(np.maximum(size / self.tolerance, 1.0)) / -np.log(_FALL)
        late = ((iteration - self._when[chosen]) * thirds > self.most - iteration) | (size <= self.tolerance)
        before = self._distances[chosen]
        self.lost[chosen] |= late & (np.abs(distance - before) < _STANDS * before)
        self._sizes[chosen], self._distances[chosen], self._when[chosen] = size, distance, iteration


@cache
def _direction(size: int) -> Array:
    """A unit vector that is generic, and always the same; nobody writes to it."""
    vector = np.random.default_rng(0).normal(size=size)
    return np.asarray(vector / np.linalg.norm(vector))


def _newton_steps(matrices: Array, residuals: Array, rounding: Array) -> tuple[Array, Array]:
    """``-R^-1 r``, or the shortest step where R is singular, and the distances; `rounding`, shape (k,): of r."""
    probe = np.broadcast_to(_direction(residuals.shape[1]), residuals.shape)
    sides = np.stack([-residuals, probe], axis=2)
    found = _solve(matrices, sides)
    steps, distances = found[:, :, 0], _norms(found[:, :, 0])
    singular = np.flatnonzero(~(_norms(found[:, :, 1]) * _norms(matrices) <= _MOST_CONDITION))
    known = np.isfinite(matrices[singular]).all(axis=(1, 2))
    steps[singular], distances[singular] = 0.0, np.inf
    singular = singular[known]
    steps[singular], distances[singular] = _shortest_steps(matrices[singular], residuals[singular], rounding[singular])
    return steps, distances


def _shortest_steps(matrices: Array, residuals: Array, rounding: Array) -> tuple[Array, Array]:
    """``-R^+ r`` of the singular values that are not rounding, and the distances by all of them."""
    left, values, right = np.linalg.svd(matrices)
    parts = np.einsum("kij,ki->kj", left, residuals)
    kept = values * _MOST_CONDITION > values[:, :1]
    steps = -np.einsum("kj,kji->ki", np.divide(parts, values, out=np.zeros_like(parts), where=kept), right)
    real = np.maximum(np.abs(parts) - rounding[:, None], 0.0)
    return steps, _norms(np.divide(real, values, out=np.zeros_like(parts), where=real > 0))


def _solve(matrices: Array, sides: Array) -> Array:
    """Solutions (k, S, m) of many systems; infinite where a matrix is singular to the last bit."""
    try:
        return np.linalg.solve(matrices, sides)
    except np.linalg.LinAlgError:  # of one of them, and NumPy does not say which
        if len(matrices) == 1:
            return np.full(sides.shape, np.inf)
        half = len(matrices) // 2
        return np.concatenate([_solve(matrices[part], sides[part]) for part in (slice(half), slice(half, None))])


def _dampen(
    at: _At,
    residual: Residual,
    which: npt.NDArray[np.intp],
    matrices: Array,
    gradients: Array,
    damping: Array,
    growth: Array,
) -> npt.NDArray[np.bool_]:
    """A step of Levenberg and Marquardt for the starts `which`; the last two keep lambda and its growth.

    Returns of each whether it can go on: not where all steps tried raise q, the last being rounding of z.
    """
    squares = matrices.swapaxes(1, 2) @ matrices
    diagonal = np.arange(squares.shape[-1])
    mean = squares[:, diagonal, diagonal].mean(axis=1)
    first = np.isnan(damping[which])
    damping[which[first]] = _FIRST_DAMPING * mean[first]
    floors = len(diagonal) * _EPS * mean  # below, R^T R is positive definite but for its rounding
    left, moved = np.arange(len(which)), np.ones(len(which), dtype=bool)
    for _ in range(_TRIES):
        if not len(left):
            break
        chosen = which[left]
        damping[chosen] = np.maximum(damping[chosen], floors[left])
        damped = squares[left]
        damped[:, diagonal, diagonal] += damping[chosen, None]
        steps = -_solve(damped, gradients[left, :, None])[:, :, 0]
        before = at.q[chosen]
        good = at.try_steps(residual, chosen, steps, 1.0)
        predicted = 0.5 * (steps * (damping[chosen, None] * steps - gradients[left])).sum(axis=1)
        ratio = np.divide(before - at.q[chosen], predicted, out=np.zeros_like(before), where=predicted > 0)
        shrink = np.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
        damping[chosen] *= np.where(good, shrink, growth[chosen])
        growth[chosen] = np.where(good, 2.0, 2 * growth[chosen])
        moved[left] = good | (_norms(steps) > _EPS * (1 + _norms(at.states[chosen])))
        left = left[~good]
    return moved


def _norms(arrays: Array) -> Array:
    """Euclidean norm of each, over all axes but the first."""
    return np.sqrt(np.square(arrays).sum(axis=tuple(range(1, arrays.ndim))))
