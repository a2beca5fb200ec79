"""The linearisation of a model that states products with its Jacobians and not the Jacobians themselves.

The points of linearisation are all that is kept of a Jacobian that is never written out: products with it are calls of
the model's functions there, a row of all trials at a time for A and all points at once for J. They are what the
sweeps of `kpref.kernels.reference` are made of, in the thread that calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._foreign import returned
from kpref._reprs import short_repr
from kpref._types import Array
from kpref.models.base import ProductModel

__all__ = ["ProductForm"]


@dataclass(frozen=True, eq=False)
class ProductForm:
    """Points of linearisation, R rows of B trials, and the model that knows the products there.

    Attributes
    ----------
    model : ProductModel
    states : ndarray, shape (R, B, H), float64
    inputs : ndarray, shape (R, B, n_in), float64
    dtype : dtype
        Floating type of products; the functions see and return float64.
    state_jacobian : ndarray, shape (R, B, H, H), or None
        A, where the model has no products with it.
    parameter_jacobian : ndarray, shape (R, B, H, M), or None
        J_theta, where the model has no products with it.
    """

    model: ProductModel
    states: Array
    inputs: Array
    dtype: np.dtype[Any]
    state_jacobian: Array | None = None
    parameter_jacobian: Array | None = None

    __repr__ = short_repr

    @property
    def n_steps(self) -> int:
        """Number R of rows."""
        return int(self.states.shape[0])

    @property
    def n_trials(self) -> int:
        """Number B of trials."""
        return int(self.states.shape[1])

    @property
    def n_states(self) -> int:
        """Number H of states."""
        return int(self.states.shape[2])

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return self.model.n_parameters

    @property
    def nbytes(self) -> int:
        """Memory of the points, and of the Jacobian that is stored."""
        arrays = (self.states, self.inputs, self.state_jacobian, self.parameter_jacobian)
        return sum(array.nbytes for array in arrays if array is not None)

    def in_precision(self, dtype: npt.DTypeLike) -> None:
        """None: products are computed by the model's functions, in float64, whatever they are rounded to."""

    def rows(self, part: slice) -> ProductForm:
        """Some rows of the trajectory, as views."""
        arrays = ("states", "inputs", "state_jacobian", "parameter_jacobian")
        return replace(self, **{name: value[part] for name in arrays if (value := getattr(self, name)) is not None})

    def state_product(self, row: int, x: Array) -> Array:
        """``A[row] x`` for x of shape (v, B, H)."""
        return self._along_states("state_product", row, x)

    def state_transpose(self, row: int, x: Array) -> Array:
        """``A[row]^T x`` for x of shape (v, B, H)."""
        return self._along_states("state_transpose", row, x)

    def parameter_product(self, vectors: Array) -> Array:
        """``J dtheta`` for parameter vectors (v, M): (v, B, R, H). One call each."""
        out = np.empty((len(vectors), self.n_trials, self.n_steps, self.n_states), self.dtype)
        for vector, tensor in zip(vectors, out, strict=True):
            changes = self.model.unflatten(vector.astype(np.float64, copy=False))
            value = self.model.parameter_product(self.states, self.inputs, changes)
            checked = _checked("parameter_product", value, self.states.shape, vector, ("step", "trial", "unit"))
            tensor[...] = checked.swapaxes(0, 1)
        return out

    def parameter_transpose(self, tensors: Array) -> Array:
        """``J^T g`` for tensors (v, B, R, H): parameter vectors (v, M). One call each."""
        out = np.empty((len(tensors), self.n_parameters), self.dtype)
        for tensor, vector in zip(tensors, out, strict=True):
            g = np.ascontiguousarray(tensor.swapaxes(0, 1), np.float64)
            vector[...] = self.model.flatten(self.model.parameter_transpose(self.states, self.inputs, g))
            _checked("parameter_transpose", vector, vector.shape, g, ("entry",))
        return out

    def _along_states(self, name: str, row: int, x: Array) -> Array:
        z = np.broadcast_to(self.states[row], x.shape)
        inputs = np.broadcast_to(self.inputs[row], (*x.shape[:2], self.inputs.shape[2]))
        value = getattr(self.model, name)(z, inputs, x.astype(np.float64, copy=False))
        return _checked(name, value, x.shape, x, ("vector", "trial", "unit"), f", step {row}").astype(self.dtype)


def _checked(
    name: str, value: Any, shape: tuple[int, ...], given: Array, axes: tuple[str, ...], where: str = ""
) -> Array:
    """A copy of what a function returned: finite, unless what it was given was not finite either."""
    return returned(name, value, shape, axes=axes, where=where, finite=bool(np.isfinite(given).all()))
