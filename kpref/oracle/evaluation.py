"""The reference value of each operator over a linearisation: the right one, or one with a hypothetical defect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.space import EuclideanSpace
from kpref.step_form import StepForm

__all__ = ["FACTORS", "evaluate", "intermediates"]


def evaluate(operator: str, form: StepForm, space: EuclideanSpace, tensor: Array) -> Array:
    """Apply an operator of `kpref.oracle.verify` to a tensor, in float64.

    Parameters
    ----------
    operator : {"P", "P_T", "P_inverse", "J", "J_T", "K", "NTK", "gradient", "D"}
    form : StepForm
    space : EuclideanSpace
        Its weights are the measure.
    tensor : ndarray, shape (B, T, H), or (M,) for J and D
    """
    *_, value = intermediates(operator, form, space, tensor)
    return value


def intermediates(operator: str, form: StepForm, space: EuclideanSpace, tensor: Array) -> Iterator[Array]:
    """What arises on the way to the value of an operator, and the value itself last."""
    value = space.weigh(tensor) if operator in ("K", "NTK", "gradient") else tensor
    for factor in FACTORS.get(operator, (operator,)):
        value = np.asarray(_SINGLE[factor](form, value[None])[0])
        yield value


#: Operators made of others, first applied first, behind the measure.
FACTORS = {"K": ("J_T", "J"), "NTK": ("P_T", "J_T", "J", "P"), "gradient": ("P_T", "J_T"), "D": ("J", "P")}

_SINGLE: dict[str, Any] = {
    "P": kernels.tangent,
    "P_T": kernels.adjoint,
    "P_inverse": kernels.inverse,
    "J": kernels.parameter_product,
    "J_T": kernels.parameter_transpose,
}
