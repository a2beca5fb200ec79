"""Stability of one network along its trials: how far P lets the past grow, and at which rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.flow import Flow
from kpref.space import TrajectorySpace
from kpref.spectra import Estimate, Lyapunov, lyapunov_exponents
from kpref.spectra.blocks import BlockEigen
from kpref.spectra.lyapunov import propagator_growth, trial_norms

__all__ = ["NORM_TOLERANCE", "Stability", "growth_trials", "measure_stability", "stability_trials"]

#: Residual of the norm of P on each trial, relative to its square.
NORM_TOLERANCE = 1e-4
#: Leading Lyapunov exponents, at most.
_EXPONENTS = 16
#: States B T H of the trials that have norms and exponents of their own, at most.
_ENTRIES = 1 << 21
#: Products T H^3 of one trial, in all, up to which the growth of P is followed; and trials, for a median and a band.
_GROWTH_WORK = 1e9
_GROWTH_TRIALS = 50


@dataclass(frozen=True, eq=False)
class Stability:
    """Norms and growth of P, and Lyapunov exponents."""

    norm: Estimate  # operator norm of P; its error is a bound, half the residual of the iterated eigenvalue of ``P P*``
    trials: Array  # (c,): the trials that norms and exponents belong to, evenly spread
    trial_norms: Array  # (c,): norm of each trial's part of P, to `NORM_TOLERANCE`
    # (b, T): logarithm of the largest singular value of what carries a change of the initial state to each time, exact
    growth: Array
    growth_trials: Array  # (b,): the trials that it belongs to, evenly spread
    exponents: Lyapunov  # leading finite-time exponents of the same trials as the norms

    __repr__ = short_repr


def measure_stability(
    propagator_modes: BlockEigen, part: Flow, part_trials: Array, few: Flow, few_trials: Array, seed: int
) -> Stability:
    """Stability of a flow.

    `propagator_modes`: leading eigenpairs of its ``P P*``. `part`, `part_trials`: shape (c,); the same network on some
    of the trials, see `stability_trials`. `few`, `few_trials`: shape (b,); and on those of `growth_trials`. `seed`: of
    starting vectors.
    """
    largest, residual = float(propagator_modes.values[0]), float(propagator_modes.residuals[0])
    root = max(largest, 0.0) ** 0.5
    own = _known_norms(propagator_modes) if len(part_trials) == len(propagator_modes.largest) else None
    return Stability(
        norm=Estimate(root, residual * root / 2, propagator_modes.n_products, "Lanczos", bound=True),
        trials=part_trials,
        trial_norms=trial_norms(part, seed, NORM_TOLERANCE) if own is None else own,
        growth=propagator_growth(few),
        growth_trials=few_trials,
        exponents=lyapunov_exponents(part, min(part.space.shape[2], _EXPONENTS), seed=seed),
    )


def _known_norms(modes: BlockEigen) -> Array | None:
    """Norms of P on all trials where the iteration for the leading modes of ``P P*`` has found them in passing."""
    if (modes.defects > NORM_TOLERANCE * modes.largest).any():
        return None
    return np.asarray(np.sqrt(np.maximum(modes.largest, 0.0)))


def stability_trials(space: TrajectorySpace) -> int:
    """Number of trials that have norms and exponents of their own: all, if they are few and small."""
    trials, steps, units = space.shape
    return min(trials, max(1, _ENTRIES // (steps * units)))


def growth_trials(space: TrajectorySpace) -> int:
    """Number of trials on which the growth of P is followed: all, if they are few and small."""
    trials, steps, units = space.shape
    return min(trials, _GROWTH_TRIALS, max(1, int(_GROWTH_WORK / (steps * float(units) ** 3))))
