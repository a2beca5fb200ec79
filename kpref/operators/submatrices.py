"""Part of the matrix of an operator, as an operator: some rows and some columns, never formed."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref._validate import short
from kpref.operators.structure import Structure
from kpref.operators.tensor import TensorOperator
from kpref.space import EuclideanSpace

__all__ = ["submatrix"]


def submatrix(op: TensorOperator, rows: npt.ArrayLike, columns: npt.ArrayLike) -> TensorOperator:
    """Some rows and columns of the matrix of an operator: ``op.to_dense()[rows][:, columns]``, lazily.

    Parameters
    ----------
    op : TensorOperator
    rows, columns : array_like of int or bool
        Places in flat tensors of C order, none twice, or masks of the shape of a tensor: of shape `shape_out` for rows,
        `shape_in` for columns.

    Returns
    -------
    TensorOperator
        Between spaces of one axis without a measure. One product with `op` for each of its own. Declared self-adjoint,
        and positive, where `op` is, rows are columns, and the measure is uniform.

    Raises
    ------
    TypeError
        If it is not an operator, or places are not whole numbers.
    ValueError
        If a mask has another shape, a place is none or comes twice, or there are none.

    Examples
    --------
    >>> import numpy as np, kpref
    >>> flow = kpref.Flow(kpref.models.RNN.init(2, 4, seed=0), np.ones((3, 5, 2)))
    >>> last = np.zeros(flow.states.shape, bool)
    >>> last[:, -1] = True
    >>> kpref.submatrix(flow.NTK, last, last).shape
    (12, 12)
    """
    if not isinstance(op, TensorOperator):
        raise TypeError(f"op must be a TensorOperator; got {short(op)}")
    places = _places("rows", rows, op.space_out), _places("columns", columns, op.space_in)
    spaces = EuclideanSpace((len(places[1]),)), EuclideanSpace((len(places[0]),))
    maps = partial(_part, op, *places), partial(_part, op.T, *places[::-1])
    same = op.space_in == op.space_out and np.array_equal(*places) and op.space_in.uniform_weight is not None
    known = Structure(op.structure.self_adjoint and same, op.structure.positive and same)
    return TensorOperator(*maps, *spaces, op.dtype, f"part of {op.name}", known)


def _part(op: TensorOperator, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], batch: Array) -> Array:
    tensors = np.zeros((len(batch), op.space_in.size), op.dtype)
    tensors[:, columns] = batch
    return op.apply(tensors.reshape(-1, *op.shape_in)).reshape(len(batch), -1)[:, rows]


def _places(name: str, given: npt.ArrayLike, space: EuclideanSpace) -> npt.NDArray[np.intp]:
    array = np.asarray(given)
    if array.dtype == bool:
        if array.shape != space.shape:
            raise ValueError(f"{name} as a mask must have the shape {space.shape} of a tensor; got {array.shape}")
        array = np.flatnonzero(array)
    elif array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(
            f"{name} must be whole numbers along one axis, places in a flat tensor, or a mask of shape {space.shape}; "
            f"got {short(given)}"
        )
    if not len(array) or array.min() < 0 or array.max() >= space.size or len(np.unique(array)) < len(array):
        raise ValueError(
            f"{name} must be places from 0 to {space.size - 1}, at least one and none of them twice; got {short(given)}"
        )
    return array.astype(np.intp)
