"""What trials say to a training: time first, in the precision of the training, with the weight of each point.

In the measure that weighs all points that exist alike, `kpref.loss` has ``mu s = p / sum(p)`` for weights p of points:
the mask, zero where a trial has ended, and for ``at="last"`` everywhere but at its last step. So of any choice of
trials the weights are those of these trials, divided by their sum: what a batch is scored by is what it would be scored
by alone, and padding is invisible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.kernels.panels import aligned_zeros
from kpref.lengths import points
from kpref.loss import DRIVEN_BY
from kpref.models.step import StepModel
from kpref.trials import Trials

__all__ = ["Scored", "scored"]


@dataclass(frozen=True, eq=False)
class Scored:
    """Trials for the compiled pass.

    Attributes
    ----------
    drive : ndarray, shape (T, B, n_drive)
        What of the network comes from the inputs.
    wanted : ndarray, shape (T, B, n_out) or (T, B)
        Targets, or labels.
    weights : ndarray, shape (T, B), float64
        p.
    lengths : ndarray, shape (B,)
    """

    drive: Array
    wanted: npt.NDArray[np.generic]
    weights: Array
    lengths: npt.NDArray[np.int64]

    @cached_property
    def steps(self) -> slice:
        """From the first step to the last that any trial is scored at."""
        some = np.flatnonzero(self.weights.any(axis=1))
        return slice(int(some[0]), int(some[-1]) + 1)

    def subset(self, chosen: npt.NDArray[np.intp]) -> Scored:
        """Some of the trials."""
        return Scored(
            np.take(self.drive, chosen, axis=1), self.wanted[:, chosen], self.weights[:, chosen], self.lengths[chosen]
        )


def scored(model: StepModel, trials: Trials, loss: str, at: str, dtype: np.dtype[np.floating]) -> Scored:
    """Trials, which have been checked, for the compiled pass of a network."""
    exist = points(trials.lengths, trials.n_steps)
    weights = exist.astype(float) if trials.mask is None else np.where(exist, trials.mask, 0.0)
    if at == "last":
        weights[np.arange(trials.n_steps) != trials.lengths[:, None] - 1] = 0
    drives = list(model.drives(trials.inputs.swapaxes(0, 1)).values())
    drive = aligned_zeros((*drives[0].shape[:2], sum(part.shape[2] for part in drives)), dtype)
    given = getattr(trials, DRIVEN_BY[loss])
    if given.ndim == 1:  # a label of the whole trial
        given = np.broadcast_to(given[:, None], exist.shape)
    with np.errstate(over="ignore"):  # what is too large for float32 shows in the loss
        np.concatenate(drives, axis=2, out=drive, casting="same_kind")
        wanted = np.ascontiguousarray(given.swapaxes(0, 1), dtype if loss == "mse" else None)
    return Scored(drive, wanted, np.ascontiguousarray(weights.T), np.array(trials.lengths))
