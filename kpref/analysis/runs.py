"""Some of the trials, where they end, and which of their steps count: NaN is what no picture draws."""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.lengths import points
from kpref.trials import Trials

__all__ = ["ends_in_words", "evenly_spread", "scored", "until_end"]


def evenly_spread(total: int, number: int) -> Array:
    """Indices of so many of the trials, from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(total, number)).round().astype(int))


def until_end(values: Array, trials: Trials, axis: int = 0) -> Array:
    """Values (..., B, T, ...) with NaN after the end of each trial; `axis` is that of the trials."""
    if trials.lengths.min() == trials.n_steps:
        return values
    ended = ~points(trials.lengths, trials.n_steps)
    shape = (1,) * axis + ended.shape + (1,) * (values.ndim - axis - 2)
    return np.where(ended.reshape(shape), np.nan, values)


def scored(trials: Trials) -> Array | None:
    """Weights (B, T) of the steps in the loss; None if no step that exists has the weight zero."""
    if trials.mask is None:
        return None
    exists = points(trials.lengths, trials.n_steps)
    return trials.mask if np.any(exists & (trials.mask == 0)) else None


def ends_in_words(trials: Trials, hatched: bool = False) -> str:
    """A sentence for captions where trials have lengths of their own, else nothing."""
    if trials.lengths.min() == trials.n_steps:
        return ""
    return " Hatched: the trial has ended." if hatched else " Lines end where their trials end."
