"""Roots of r(z), and where there is none nearby local minima of ``q = |r|^2 / 2``, from many starts in one batch.

Every start is a problem of its own; what it finds does not depend on the others. One iteration at a state z with
residual r and Jacobian R = dr/dz:

*Newton.* The step ``p = -R^-1 r`` is taken where it at least halves |r|: near a regular root it always does, and
converges quadratically. It is not tried where R is singular to half of the digits, as it is on a line attractor: there
the part of p along the line is rounding divided by rounding. The condition number is estimated by a random right side
that is solved with r.

*Levenberg-Marquardt* otherwise: ``p = -(R^T R + lambda I)^-1 R^T r``, which is short and reduces q for lambda large
enough. lambda follows the ratio of the realised to the predicted decrease as Nielsen (1999) has it. On a manifold of
roots p has no part along it, so that of a linear network a start ends at its orthogonal projection on the line of
fixed points; and as r vanishes R^T R takes over from lambda and convergence is fast again (Yamashita and Fukushima
2001).

A state is a *root* once |r| is below the tolerance and no Newton step halves it any more: the last steps, which cost
little, take it to rounding. It is *slow* where the gradient of q has vanished and r has not: ``|R^T r|`` below 1e-6 of
|r| times the largest |R| that the start has met, which is as well as a minimum of q can be told in float64 (near one,
q is flat to rounding within some sqrt(eps) of it). Maxima and saddles of q are flat too: from the first flat state a
start is pushed aside by a thousandth of its length, and only where it comes to rest again is it slow.
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

#: Of a Jacobian, beyond which Newton's step is not trusted: half of the digits.
_MOST_CONDITION = 1e8
#: Of |R^T r| to |R| |r|, below which a minimum of q is reached.
_FLAT = 1e-6
#: Values of lambda that are tried with one Jacobian, and the first one beside the mean diagonal of R^T R.
_TRIES, _FIRST_DAMPING = 6, 1e-2
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
    everything = np.arange(len(starts))
    with np.errstate(all="ignore"):  # a trial step may go anywhere; what is not finite is not accepted
        at = _At(starts.copy(), residual(starts, everything))
        kinds, iterations = np.full((2, len(starts)), UNSETTLED)
        largest, damping, growth = np.zeros(len(starts)), np.full(len(starts), np.nan), np.full(len(starts), 2.0)
        pushed = np.zeros(len(starts), dtype=bool)
        for _ in range(most):
            active = np.flatnonzero(kinds == UNSETTLED)
            if not len(active):
                break
            iterations[active] += 1
            matrices = jacobian(at.states[active], active)
            largest[active] = np.maximum(largest[active], _norms(matrices))
            steps, regular = _newton_steps(matrices, at.residuals[active])
            taken = regular & at.try_steps(residual, active, steps, np.where(regular, 0.25, 0.0))
            left, matrices = active[~taken], matrices[~taken]
            gradients = np.einsum("kij,ki->kj", matrices, at.residuals[left])
            sizes = at.sizes[left]
            kinds[left[sizes <= tolerance]] = ROOT
            flat = left[(sizes > tolerance) & (_norms(gradients) <= _FLAT * largest[left] * sizes)]
            kinds[flat[pushed[flat]]] = SLOW
            aside = flat[~pushed[flat]]
            at.push(residual, aside)
            pushed[aside], damping[aside] = True, np.nan
            going = (kinds[left] == UNSETTLED) & ~np.isin(left, aside)
            _dampen(at, residual, left[going], matrices[going], gradients[going], damping, growth)
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


@cache
def _direction(size: int) -> Array:
    """A unit vector that is generic, and always the same; nobody writes to it."""
    vector = np.random.default_rng(0).normal(size=size)
    return np.asarray(vector / np.linalg.norm(vector))


def _newton_steps(matrices: Array, residuals: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """``-R^-1 r``, zero where R is singular, and where it is not."""
    probe = np.broadcast_to(_direction(residuals.shape[1]), residuals.shape)
    sides = np.stack([-residuals, probe], axis=2)
    found = _solve(matrices, sides)
    regular = _norms(found[:, :, 1]) * _norms(matrices) <= _MOST_CONDITION
    return np.where(regular[:, None], found[:, :, 0], 0.0), regular


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
) -> None:
    """A step of Levenberg and Marquardt for the starts `which`; the last two keep lambda and its growth."""
    squares = matrices.swapaxes(1, 2) @ matrices
    diagonal = np.arange(squares.shape[-1])
    mean = squares[:, diagonal, diagonal].mean(axis=1)
    first = np.isnan(damping[which])
    damping[which[first]] = _FIRST_DAMPING * mean[first]
    floors = len(diagonal) * np.finfo(float).eps * mean  # below, R^T R is positive definite but for its rounding
    left = np.arange(len(which))
    for _ in range(_TRIES):
        if not len(left):
            return
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
        left = left[~good]


def _norms(arrays: Array) -> Array:
    """Euclidean norm of each, over all axes but the first."""
    return np.sqrt(np.square(arrays).sum(axis=tuple(range(1, arrays.ndim))))
