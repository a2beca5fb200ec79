"""Several checkpoints of a network on the same trials, and what changed from the first to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.alignments import aligned, aligned_images
from kpref.analysis.effort import DEFAULT
from kpref.analysis.numbers import Analysis
from kpref.analysis.settings import Integration, Objective
from kpref.spectra import principal_angles
from kpref.threads import run_blocks
from kpref.trials import Trials

__all__ = ["Alignments", "Comparison", "Study", "compare", "compare_all"]


@dataclass(frozen=True, eq=False)
class Alignments:
    """Alignments of K and the NTK of two checkpoints, each with each."""

    names: tuple[str, ...]  # of the n operators
    # values, errors: (n, n): symmetric; the errors are standard errors, zero where exact. NaN for an operator that is
    # zero, and for K of one checkpoint with the NTK of the other, which is not computed.
    values: Array
    errors: Array

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Comparison:
    """A checkpoint against an earlier one."""

    # before, after: their names
    before: str
    after: str
    states: float  # ``|Z_after - Z_before| / |Z_before|`` in the norm of the space
    # root mean square over trials, steps that exist and outputs, all weighted equally, of the change of the readout's
    # outputs
    outputs: float | None
    # (k,): principal angles between the spans of the k leading eigenfunctions of the NTK, increasing, in radians
    angles: Array
    overlap: float  # mean squared cosine of the angles: 1 for the same span, 0 for orthogonal ones
    alignments: Alignments  # of K and the NTK of the two

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that a report is made of."""

    analyses: tuple[Analysis, ...]  # one a checkpoint, in the order given
    comparisons: tuple[Comparison, ...]  # of the first checkpoint with each later one of the same shape
    trials: Trials
    objective: Objective | None
    measure: str
    integration: Integration | None  # None for maps
    facts: dict[str, str]  # where it all came from, for the report: command line, files, seed, time
    notes: tuple[str, ...]  # what was left out and why, in sentences
    seconds: Mapping[str, float] = field(default_factory=dict)  # how long what concerns several networks took

    __repr__ = short_repr


def compare(before: Analysis, after: Analysis, seed: int = 0, probes: int = DEFAULT.probes) -> Comparison | None:
    """Compare two checkpoints; None if their numbers of trials, steps or units differ.

    `seed`, `probes`: of random vectors, and how many.
    """
    space = before.space
    if after.space != space:
        return None
    angles = principal_angles(before.ntk_modes.vectors, after.ntk_modes.vectors, space)
    outputs = None
    if before.outputs is not None and after.outputs is not None and before.outputs.shape == after.outputs.shape:
        squares = np.square(after.outputs - before.outputs).sum()
        outputs = float(np.sqrt(squares / (space.n_points * before.outputs.shape[2])))
    change, size = space.norm(after.states - before.states), space.norm(before.states)
    return Comparison(
        before.name,
        after.name,
        change / (size or 1.0),
        outputs,
        angles,
        float(np.mean(np.cos(angles) ** 2)),
        _alignments(before, after, seed, probes),
    )


def compare_all(analyses: Sequence[Analysis], seed: int = 0, probes: int = DEFAULT.probes) -> tuple[Comparison, ...]:
    """The first checkpoint with each later one, leaving out those of another shape."""
    found: list[Comparison | None] = [None] * (len(analyses) - 1)

    def task(index: int) -> None:
        found[index] = compare(analyses[0], analyses[1 + index], seed, probes)

    run_blocks(task, len(found), here=not _thread_safe(analyses))
    return tuple(comparison for comparison in found if comparison is not None)


def _thread_safe(analyses: Sequence[Analysis]) -> bool:
    """Whether no operator calls a function of the user."""
    return all(analysis.flow.model.thread_safe for analysis in analyses)


def _alignments(before: Analysis, after: Analysis, seed: int, probes: int) -> Alignments:
    found = {(0, 2): before.kernel_ntk, (1, 3): after.kernel_ntk}
    pairs = (
        ((0, 1), "K", before.flow.K, after.flow.K, before.kernel_modes, after.kernel_modes),
        ((2, 3), "NTK", before.flow.NTK, after.flow.NTK, before.ntk_modes, after.ntk_modes),
    )

    def task(index: int) -> None:
        place, name, one, other, modes, others = pairs[index]
        seen = aligned_images(before.seen.get(name), after.seen.get(name), modes, others)
        found[place] = aligned(one, other, probes, seed) if seen is None else seen

    run_blocks(task, len(pairs), here=not _thread_safe((before, after)))
    names = tuple(f"{symbol}, {analysis.name}" for symbol in ("K", "NTK") for analysis in (before, after))
    values, errors = np.full((2, len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1.0)
    np.fill_diagonal(errors, 0.0)
    for (row, column), estimate in found.items():
        if estimate is not None:
            values[row, column] = values[column, row] = estimate.value
            errors[row, column] = errors[column, row] = estimate.standard_error
    return Alignments(names, values, errors)
