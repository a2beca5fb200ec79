"""Learning rules beside each other at one error: how near to the gradient, how fast the loss falls, how many modes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kpref._reprs import html_table, short_repr
from kpref._types import Array
from kpref._validate import instance, integer
from kpref.flow import Flow
from kpref.operators import TensorOperator
from kpref.rules.descent import Rule, phi, require_err
from kpref.spectra import svd

__all__ = ["RuleComparison", "compare_rules"]


@dataclass(frozen=True, eq=False)
class RuleComparison:
    """What `compare_rules` finds, one row a rule.

    Attributes
    ----------
    names : tuple of str
    alignments : ndarray, shape (r,)
        Cosine of ``Phi Err`` and ``NTK Err``, the changes of the states by the rule and by gradient flow; NaN if one of
        them is zero.
    loss_rates : ndarray, shape (r,)
        ``<Err, Phi Err>``: by how much the loss falls per unit learning rate. Negative where it rises.
    spectra : ndarray, shape (r, k)
        Leading singular values of Phi, between spaces with the inner product of the flow.
    """

    names: tuple[str, ...]
    alignments: Array
    loss_rates: Array
    spectra: Array

    __repr__ = short_repr

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        rows = [
            (name, f"{alignment:.3f}", f"{rate:.4g}", ", ".join(f"{value:.3g}" for value in values))
            for name, alignment, rate, values in zip(
                self.names, self.alignments, self.loss_rates, self.spectra, strict=True
            )
        ]
        return html_table(rows, ["alignment with gradient flow", "loss rate", "leading singular values"])


def compare_rules(
    flow: Flow, err: npt.ArrayLike, rules: Mapping[str, Rule | TensorOperator], k: int = 3
) -> RuleComparison:
    """Compare learning rules at one error.

    Parameters
    ----------
    flow : Flow
    err : array_like, shape (B, T, H)
    rules : mapping of str to rule or TensorOperator
        Rules of `kpref.rules` by name; or an operator Phi, such as ``functional_descent(flow)``.
    k : int
        Number of singular values, at least 1.

    Returns
    -------
    RuleComparison

    Raises
    ------
    TypeError, ValueError
        If an argument is something else, or does not fit the flow.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> from kpref import rules
    >>> flow = kpref.Flow(kpref.models.RNN.init(2, 4, seed=0), np.ones((2, 6, 2)))
    >>> found = rules.compare_rules(
    ...     flow, np.ones((2, 6, 4)), {"gradient": rules.backpropagation, "truncated": rules.truncated(2)}
    ... )
    >>> round(found.alignments[0], 12)
    np.float64(1.0)
    """
    error = require_err(flow, err)
    instance("rules", rules, Mapping, "a mapping of names to rules")
    if not rules:
        raise ValueError("rules must name at least one rule; got none")
    k = integer("k", k, 1, flow.space.size)
    space, gradient = flow.space, flow.NTK(error)
    alignments, rates, spectra = [], [], []
    for rule in rules.values():
        op = _on_trajectories(rule, flow) if isinstance(rule, TensorOperator) else phi(rule, flow, error)
        change = op(error)
        size = space.norm(change) * space.norm(gradient)
        alignments.append(space.inner(change, gradient) / size if size else math.nan)
        rates.append(space.inner(error, change))
        spectra.append(svd(op, k).values)
    return RuleComparison(tuple(map(str, rules)), np.array(alignments), np.array(rates), np.stack(spectra))


def _on_trajectories(op: TensorOperator, flow: Flow) -> TensorOperator:
    if op.space_in != flow.space or op.space_out != flow.space:
        raise ValueError(f"rules must be operators on the trajectories {flow.space} of the flow; got {op!r}")
    return op
