"""Errors of an answer beside what rounding explains of them, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpref._types import Array
from kpref.oracle.spreads import Spread

__all__ = ["Comparison", "Tensors"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Errors of a claimed result and what rounding explains of them, entry by entry."""

    error: Array  # residual or difference
    spread: Spread  # standard deviation and worst case of what rounding can do
    parallel: bool = False  # whether they are of a parallel solve, not of one step: `kpref.oracle.parallel_solves`

    def ratio(self, worst: bool = False) -> Array:
        """``|error|`` over the standard deviation (or over the worst case); zero over zero is zero.

        So is anything over one that is not finite: rounding errors that overflow on the way explain every error.
        """
        size = self.spread.worst if worst else self.spread.deviation
        magnitude = np.abs(self.error)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((magnitude == 0) | ~np.isfinite(size), 0.0, magnitude / size)


class Tensors:
    """Error and spread (B, T, H), filled a few rows at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._arrays = [np.zeros(shape) for _ in range(3)]

    def put(self, rows: slice, error: Array, spread: Spread) -> None:
        """Fill in rows of steps, from arrays (R, B, H)."""
        for target, part in zip(self._arrays, (error, spread.deviation, spread.worst), strict=True):
            target[:, rows] = np.moveaxis(np.broadcast_to(part, error.shape), 0, 1)

    def comparison(self) -> Comparison:
        """What was filled in."""
        error, deviation, worst = self._arrays
        return Comparison(error, Spread(deviation, worst))
