"""The reference value of each operator over a linearisation: the right one, or one with a hypothetical defect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import reference
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.step_form import StepForm

__all__ = [
    "FACTORS", "LOCAL", "SWEPT", "UNDONE", "WEIGHED_AFTER", "WEIGHED_BEFORE", "apply_factor", "at_all_points",
    "evaluate", "evaluate_all", "factors_of", "intermediates",
]  # fmt: skip

#: Operators that are certified by a residual that is local in time, or by the difference from one of these.
LOCAL = ("P", "P_T", "P_inverse", "P_inverse_T", "D", "D_z0")
#: Operators whose errors a sweep through time has carried along.
SWEPT = ("NTK", "gradient", "D_T", "D_z0_T", "NTK_T", "gradient_T")
#: Operators that the measure weighs the argument of, and those that it weighs the answer of.
WEIGHED_BEFORE, WEIGHED_AFTER = ("K", "NTK", "gradient"), ("K_T", "NTK_T", "gradient_T")


def evaluate(operator: str, form: StepForm, space: EuclideanSpace, tensor: Array) -> Array:
    """Apply an operator of `kpref.oracle.backend.OPERATORS` to a tensor, in float64.

    Parameters
    ----------
    operator : str
    form : StepForm
    space : EuclideanSpace
        Its weights are the measure.
    tensor : ndarray, shape (B, T, H), (M,) for J, D and the transpose of the gradient, or (B, H) for D_z0
    """
    return evaluate_all(operator, form, space, tensor[None])[0]


def evaluate_all(operator: str, form: StepForm, space: EuclideanSpace, tensors: Array) -> Array:
    """The same of several tensors, first axis."""
    *_, values = _on_the_way(operator, form, space, tensors)
    return values


def intermediates(operator: str, form: StepForm, space: EuclideanSpace, tensor: Array) -> Iterator[Array]:
    """What arises on the way to the value of an operator, and the value itself last."""
    return (values[0] for values in _on_the_way(operator, form, space, tensor[None]))


def at_all_points(space: TrajectorySpace, vectors: Array) -> Array:
    """Tensors (v, B, T, H) of vectors (v, H) over units, the same at all points that exist."""
    return space.clear(np.broadcast_to(vectors[:, None, None], (len(vectors), *space.shape)).copy())


def apply_factor(factor: str, form: StepForm, tensors: Array) -> Array:
    """A product with one of the factors that operators are made of, of several tensors, first axis."""
    return np.asarray(_SINGLE[factor](form, tensors))


def factors_of(operator: str) -> tuple[str, ...]:
    """What an operator is made of, first applied first."""
    return FACTORS.get(operator, (operator,))


def _on_the_way(operator: str, form: StepForm, space: EuclideanSpace, tensors: Array) -> Iterator[Array]:
    value = space.weigh(tensors) if operator in WEIGHED_BEFORE else tensors
    for factor in factors_of(operator):
        value = apply_factor(factor, form, value)
        yield value
    if operator in WEIGHED_AFTER:
        yield space.weigh(value)


#: Operators made of others, first applied first, behind the measure or before it.
FACTORS = {
    "K": ("J_T", "J"),
    "NTK": ("P_T", "J_T", "J", "P"),
    "gradient": ("P_T", "J_T"),
    "D": ("J", "P"),
    "D_T": ("P_T", "J_T"),
    "K_T": ("J_T", "J"),
    "NTK_T": ("P_T", "J_T", "J", "P"),
    "gradient_T": ("J", "P"),
}


def _from_start(form: StepForm, batch: Array) -> Array:
    forcing = np.zeros((len(batch), form.n_trials, form.n_steps, form.n_states))
    forcing[:, :, 0] = reference.jacobian(form, 0, batch)
    return kernels.tangent(form, forcing)


def _to_start(form: StepForm, batch: Array) -> Array:
    return reference.jacobian_transpose(form, 0, kernels.adjoint(form, batch)[:, :, 0])


_SINGLE: dict[str, Any] = {
    "P": kernels.tangent,
    "P_T": kernels.adjoint,
    "P_inverse": kernels.inverse,
    "P_inverse_T": kernels.inverse_transpose,
    "J": kernels.parameter_product,
    "J_T": kernels.parameter_transpose,
    "D_z0": _from_start,
    "D_z0_T": _to_start,
}

#: What turns an answer into what forced it, of operators that are certified by residuals.
UNDONE: dict[str, Any] = {
    "P": kernels.inverse,
    "D": kernels.inverse,
    "D_z0": kernels.inverse,
    "P_T": kernels.inverse_transpose,
}
