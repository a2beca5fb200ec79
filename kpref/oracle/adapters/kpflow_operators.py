"""Operators with `__call__`, `adjoint_call`, `shape_in` and `shape_out`, as the PyTorch package kpflow has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["kpflow_backend"]


def kpflow_backend(
    P: Any = None, J: Any = None, K: Any = None, NTK: Any = None, states: Any = None, dtype: Any = None
) -> SimpleNamespace:
    """A backend of operators that know their adjoint.

    Parameters
    ----------
    P, J, K, NTK : object, optional
        ``op(q)`` maps tensors of ``op.shape_in`` to ``op.shape_out``, ``op.adjoint_call(g)`` back. An operator on
        parameters may take and give a mapping of tensors in the place of a vector; if it takes one, its attribute
        `params` is a mapping of the same names and shapes.
    states : array, shape (B, T, H), optional
        The trajectory at which they are linearised.
    dtype : dtype of PyTorch or NumPy
        Of the tensors they are given, and so the arithmetic. By default ``torch.float32``.

    Returns
    -------
    SimpleNamespace
        With P, P_T, J, J_T, K, NTK and gradient as far as the given operators go.

    Notes
    -----
    Adjoints are taken as transposes, which is right for every measure with equal weights. kpflow's K carries no
    weights at all: give `verify` a flow with ``measure="sum"``.
    """
    if dtype is None:
        import torch

        dtype = torch.float32
    offered: dict[str, Callable[[Any], Any]] = {}
    for name, operator in (("P", P), ("J", J), ("K", K), ("NTK", NTK)):
        if operator is not None:
            offered[name] = _forward(operator, dtype)
            if name in ("P", "J"):
                offered[f"{name}_T"] = _adjoint(operator, dtype)
    return SimpleNamespace(states=states, dtype=dtype, **offered)


def _forward(operator: Any, dtype: Any) -> Callable[[Any], Any]:
    def call(q: Any) -> Any:
        parameters = getattr(operator, "params", None)
        if isinstance(parameters, Mapping) and not getattr(operator, "vectorize", False):
            return operator(_unflatten(_tensor(q, dtype), parameters))
        return operator(_tensor(q, dtype).reshape(_shape(operator.shape_in)))

    return call


def _adjoint(operator: Any, dtype: Any) -> Callable[[Any], Any]:
    def call(g: Any) -> Any:
        answer = operator.adjoint_call(_tensor(g, dtype).reshape(_shape(operator.shape_out)))
        if isinstance(answer, Mapping):
            return np.concatenate([np.ravel(np.asarray(value.detach().cpu())) for value in answer.values()])
        return answer

    return call


def _unflatten(vector: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    pieces, start = {}, 0
    for name, value in parameters.items():
        shape = tuple(value.shape)
        pieces[name] = vector[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return pieces


def _tensor(array: Any, dtype: Any) -> Any:
    if type(dtype).__module__ == "torch":
        import torch

        return torch.as_tensor(array, dtype=dtype)
    return np.asarray(array, dtype=dtype)


def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
