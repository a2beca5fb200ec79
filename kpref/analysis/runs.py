"""Where trials end and which of their steps count, for pictures and words: `NaN` is what no picture draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.trials import Trials

__all__ = ["ends_in_words", "lengths_in_words", "lengths_of", "scored", "scored_in_words", "until_end"]

Array = npt.NDArray[Any]


def lengths_of(trials: Trials) -> Array | None:
    """Numbers of steps of the trials, shape (B,); None if all have all."""
    lengths = getattr(trials, "lengths", None)
    if lengths is None or np.all(np.asarray(lengths) == trials.n_steps):
        return None
    return np.asarray(lengths)


def until_end(values: Array, trials: Trials, axis: int = 0) -> Array:
    """Values (..., B, T, ...) with NaN after the end of each trial; `axis` is that of the trials."""
    lengths = lengths_of(trials)
    if lengths is None:
        return values
    ended = np.arange(trials.n_steps) >= lengths[:, None]
    shape = (1,) * axis + ended.shape + (1,) * (values.ndim - axis - 2)
    return np.where(ended.reshape(shape), np.nan, values)


def scored(trials: Trials) -> Array | None:
    """Weights (B, T) of the steps in the loss; None if no step that exists has the weight zero."""
    if trials.mask is None:
        return None
    exists = ~np.isnan(until_end(np.zeros(trials.mask.shape), trials))
    return trials.mask if np.any(exists & (trials.mask == 0)) else None


def ends_in_words(trials: Trials, hatched: bool = False) -> str:
    """A sentence for captions where trials have lengths of their own, else nothing."""
    if lengths_of(trials) is None:
        return ""
    return " Hatched: the trial has ended." if hatched else " Lines end where their trials end."


def lengths_in_words(trials: Trials, step: str) -> str:
    """For the head of a report: ``90 steps`` or ``40 to 90 steps``."""
    lengths = lengths_of(trials)
    longest = trials.n_steps if lengths is None else int(lengths.max())
    shortest = longest if lengths is None else int(lengths.min())
    plural = step if longest == 1 else f"{step}s"
    return f"{longest:,} {plural}" if shortest == longest else f"{shortest:,} to {longest:,} {plural}"


def scored_in_words(trials: Trials) -> str:
    """How many of the steps that exist the loss counts, and whether it weighs them, as a clause; or nothing."""
    mask = trials.mask
    if mask is None:
        return ""
    exists = ~np.isnan(until_end(np.zeros(mask.shape), trials))
    weights = mask[exists]
    counted, total = int(np.count_nonzero(weights)), weights.size
    found = np.unique(weights[weights != 0])
    words = "" if counted == total else f"{counted:,} of the {total:,} steps of all trials are scored"
    if len(found) > 1:
        words += f"{' and' if words else 'steps are'} weighted {found[0]:.3g} to {found[-1]:.3g}"
    return f" ({words}: mask)" if words else ""
