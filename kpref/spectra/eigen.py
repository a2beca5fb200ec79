"""Leading eigenpairs of self-adjoint operators, in the inner product of their space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh as dense_eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from kpref.operators import TensorOperator
from kpref.spectra.symmetric import SymmetricForm, require_self_adjoint

__all__ = ["Eigen", "eigh"]

Array = npt.NDArray[Any]

#: Below this size, or where most of the spectrum is asked for, a dense solver is faster and gives everything.
_DENSE_SIZE = 200


@dataclass(frozen=True, eq=False)
class Eigen:
    """Leading eigenpairs of an operator.

    Attributes
    ----------
    values : ndarray, shape (k,)
        In descending order.
    vectors : ndarray, shape (k, \\*shape)
        Eigenfunctions, orthonormal in the inner product of the space. The entry of largest magnitude is positive.
    residuals : ndarray, shape (k,)
        ``||A v - lambda v|| / |lambda_1|`` in the norm of the space: by the theorem of Bauer and Fike for self-adjoint
        operators, an eigenvalue lies within this relative distance.
    n_products : int
        Products with the operator that were needed.
    """

    values: Array
    vectors: Array
    residuals: Array
    n_products: int


def eigh(
    op: TensorOperator, k: int, seed: int = 0, tol: float = 1e-10, progress: Callable[[int], object] | None = None
) -> Eigen:
    """The k largest eigenvalues of a self-adjoint operator, and their eigenfunctions.

    The operator is symmetrised, ``Mu^(1/2) A Mu^(-1/2)`` on the support of the measure, and given to the implicitly
    restarted Lanczos method of `scipy.sparse.linalg.eigsh`; small ones are solved densely.

    Parameters
    ----------
    op : TensorOperator
        Self-adjoint in the inner product of its space: K, NTK, ``P.gram()``, ...
    k : int
        Number of eigenpairs, at most the size of the space.
    seed : int
        Of the starting vector.
    tol : float
        Relative accuracy asked of the eigenvalues.
    progress : callable, optional
        Called with 1 after each product.

    Returns
    -------
    Eigen

    Raises
    ------
    ValueError
        If the operator is not self-adjoint (by its declared structure, or else by a test on random tensors), or k is
        out of range.
    RuntimeError
        If the method does not converge; says how many pairs did.
    """
    require_self_adjoint(op, seed)
    form = SymmetricForm(op, progress)
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= form.size:
        raise ValueError(f"k must be an integer from 1 to {form.size}, the size of the space; got {k!r}")
    if form.size <= _DENSE_SIZE or k > form.size // 2:
        matrix = form(np.eye(form.size, dtype=op.dtype))
        values, vectors = dense_eigh((matrix + matrix.T) / 2, subset_by_index=(form.size - k, form.size - 1))
    else:
        values, vectors = _lanczos(form, int(k), seed, tol)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    tensors = form.to_tensors(np.ascontiguousarray(vectors.T[order]))
    tensors *= _signs(tensors)
    return Eigen(values, tensors, _residuals(op, values, tensors), form.n_products + len(values))


def _lanczos(form: SymmetricForm, k: int, seed: int, tol: float) -> tuple[Array, Array]:
    size, dtype = form.size, form.op.dtype
    operator = LinearOperator((size, size), matvec=lambda x: form(x.reshape(1, -1))[0], dtype=dtype)
    start = np.random.default_rng(seed).normal(size=size).astype(dtype)
    try:
        found: tuple[Array, Array] = eigsh(operator, k, which="LA", v0=start, tol=tol, ncv=min(size, 2 * k + 20))
    except ArpackNoConvergence as error:
        raise RuntimeError(f"{form.op.name}: {len(error.eigenvalues)} of {k} eigenpairs converged") from error
    return found


def _residuals(op: TensorOperator, values: Array, tensors: Array) -> Array:
    space = op.space_in
    scale = np.abs(values).max() or 1.0
    return np.array([space.norm(op(v) - value * v) / scale for value, v in zip(values, tensors, strict=True)])


def _signs(tensors: Array) -> Array:
    flat = tensors.reshape(len(tensors), -1)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0).reshape(-1, *([1] * (tensors.ndim - 1)))
