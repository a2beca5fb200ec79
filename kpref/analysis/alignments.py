"""Alignments for a report: of two operators, and of the sub-tasks that conditions or labels stand for."""

from __future__ import annotations

import numpy as np

from kpref.flow import GradientFlow
from kpref.operators import TensorOperator
from kpref.operators.precision import for_estimates
from kpref.spectra import Estimate, TaskAlignment, alignment, task_alignment
from kpref.spectra.paired_probes import DENSE_SIZE
from kpref.trials import Trials

__all__ = ["MOST_TASKS", "align_tasks", "aligned"]

#: Sub-tasks (conditions or labels) up to which their alignment is computed: a product with the NTK for each.
MOST_TASKS = 30


def aligned(first: TensorOperator, second: TensorOperator, probes: int, seed: int) -> Estimate | None:
    """Alignment of two operators from so many products with each; None if one of them is zero."""
    try:
        one, other = (for_estimates(op, max(DENSE_SIZE, probes)) for op in (first, second))
        return alignment(one, other, probes=probes, seed=seed)
    except ValueError:  # the spaces are equal wherever this is called: an operator is zero
        return None


def align_tasks(gradient: GradientFlow, trials: Trials) -> TaskAlignment | None:
    """Alignment of sub-tasks: conditions, or else labels of trials; None without, or for more than `MOST_TASKS`."""
    groups = trials.groups
    if groups is None or len(np.unique(groups)) > MOST_TASKS:
        return None
    return task_alignment(gradient.flow.NTK, gradient.err, groups)
