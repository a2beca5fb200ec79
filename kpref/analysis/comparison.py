"""Several checkpoints of a network on the same trials, and what changed from the first to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import svdvals

from kpref.analysis.numbers import Analysis
from kpref.analysis.settings import Integration, Objective
from kpref.trials import Trials

__all__ = ["Comparison", "Study", "compare", "compare_all"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A checkpoint against an earlier one.

    Attributes
    ----------
    before, after : str
        Their names.
    states : float
        ``|Z_after - Z_before| / |Z_before|`` in the norm of the space.
    outputs : float or None
        Root mean square over trials, steps and outputs (all weighted equally) of the change of the readout's outputs.
    angles : ndarray, shape (k,)
        Principal angles between the spans of the k leading eigenfunctions of the NTK, increasing, in radians.
    overlap : float
        Mean squared cosine of the angles: 1 for the same span, 0 for orthogonal ones.
    """

    before: str
    after: str
    states: float
    outputs: float | None
    angles: Array
    overlap: float


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that a report is made of.

    Attributes
    ----------
    analyses : tuple of Analysis
        One a checkpoint, in the order given.
    comparisons : tuple of Comparison
        Of the first checkpoint with each later one of the same shape.
    trials : Trials
    objective : Objective or None
    measure : str
    integration : Integration or None
        None for maps.
    facts : dict of str to str
        Where it all came from, for the report: command line, files, seed, time.
    notes : tuple of str
        What was left out and why, in sentences.
    """

    analyses: tuple[Analysis, ...]
    comparisons: tuple[Comparison, ...]
    trials: Trials
    objective: Objective | None
    measure: str
    integration: Integration | None
    facts: dict[str, str]
    notes: tuple[str, ...]


def compare(before: Analysis, after: Analysis) -> Comparison | None:
    """Compare two checkpoints; None if their numbers of trials, steps or units differ.

    Principal angles are those of the inner product of the space (Bjorck and Golub, Math. Comp. 1973).
    """
    space = before.space
    if after.space != space:
        return None
    first, second = (
        space.scale(a.ntk_modes.vectors, 0.5).reshape(len(a.ntk_modes.values), -1) for a in (before, after)
    )
    cosines = np.minimum(svdvals(first @ second.T), 1.0)
    outputs = None
    if before.outputs is not None and after.outputs is not None and before.outputs.shape == after.outputs.shape:
        outputs = float(np.sqrt(np.mean((after.outputs - before.outputs) ** 2)))
    change, size = space.norm(after.states - before.states), space.norm(before.states)
    return Comparison(
        before.name, after.name, change / (size or 1.0), outputs, np.arccos(cosines), float(np.mean(cosines**2))
    )


def compare_all(analyses: Sequence[Analysis]) -> tuple[Comparison, ...]:
    """The first checkpoint with each later one, leaving out those of another shape."""
    found = (compare(analyses[0], later) for later in analyses[1:])
    return tuple(comparison for comparison in found if comparison is not None)
