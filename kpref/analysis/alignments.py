"""Alignments for a report: of two operators, and of the sub-tasks that conditions or labels stand for."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from kpref.flow import Flow, GradientFlow
from kpref.operators import TensorOperator
from kpref.operators.precision import for_estimates
from kpref.spectra import Eigen, Estimate, TaskAlignment, alignment, task_alignment
from kpref.spectra.comparison import alignment_of_images
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import WhiteImages, white_images
from kpref.trials import Trials

__all__ = ["APART", "MOST_TASKS", "align_tasks", "aligned", "aligned_images", "seen_by_vectors"]

#: Sub-tasks (conditions or labels) up to which their alignment is computed: a product with the NTK for each.
MOST_TASKS = 30
#: Leading eigenfunctions of each of two operators whose images are taken apart for their alignment.
APART = 3


def aligned(first: TensorOperator, second: TensorOperator, probes: int, seed: int) -> Estimate | None:
    """Alignment of two operators from so many products with each; None if one of them is zero."""
    try:
        one, other = (for_estimates(op, max(DENSE_SIZE, probes)) for op in (first, second))
        return alignment(one, other, probes=probes, seed=seed)
    except ValueError:  # the spaces are equal wherever this is called: an operator is zero
        return None


def seen_by_vectors(flow: Flow, modes: int, probes: int, seed: int) -> dict[str, WhiteImages]:
    """K and the NTK as the same random vectors see them, by name; nothing where they are small, and known exactly."""
    if flow.space.size <= max(DENSE_SIZE, modes + probes):
        return {}
    kernel, ntk = (SymmetricForm(for_estimates(op, DENSE_SIZE)) for op in (flow.K, flow.NTK))
    if kernel.op.dtype != ntk.op.dtype or kernel.size <= max(DENSE_SIZE, modes + probes):
        return {}
    return {"NTK": white_images(ntk, probes, seed), "K": white_images(kernel, probes, seed)}


def aligned_images(
    first: WhiteImages | None, second: WhiteImages | None, modes: Eigen, others: Eigen
) -> Estimate | None:
    """Alignment of two operators that the same vectors have seen; None where one has not been seen, or is zero.

    `modes`, `others`: their leading eigenpairs, which are taken apart.
    """
    if first is None or second is None:
        return None
    with suppress(ValueError):
        tensors = np.concatenate([modes.vectors[:APART], others.vectors[:APART]])
        return alignment_of_images(first, second, tensors, (modes.values[:APART], others.values[:APART]))
    return None


def align_tasks(gradient: GradientFlow, trials: Trials) -> TaskAlignment | None:
    """Alignment of sub-tasks: conditions, or else labels of trials; None without, or for more than `MOST_TASKS`."""
    groups = trials.groups
    if groups is None or len(np.unique(groups)) > MOST_TASKS:
        return None
    return task_alignment(gradient.flow.NTK, gradient.err, groups)
