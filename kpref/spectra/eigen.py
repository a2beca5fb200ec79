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
    space = op.space_in
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= space.size:
        raise ValueError(f"k must be an integer from 1 to {space.size}, the size of the space; got {k!r}")
    generator = np.random.default_rng(seed)
    _require_self_adjoint(op, generator)
    count = 0

    def symmetric(flat: Array) -> Array:
        nonlocal count
        count += 1
        image = space.scale(op(space.scale(flat.reshape(space.shape), -0.5)), 0.5)
        if progress is not None:
            progress(1)
        return np.asarray(image).reshape(-1)

    if space.size <= _DENSE_SIZE or k > space.size // 2:
        values, vectors = _dense(symmetric, space.size, int(k))
    else:
        operator = LinearOperator((space.size, space.size), matvec=symmetric, dtype=op.dtype)
        start = generator.normal(size=space.size).astype(op.dtype)
        try:
            values, vectors = eigsh(operator, int(k), which="LA", v0=start, tol=tol, ncv=min(space.size, 2 * k + 20))
        except ArpackNoConvergence as error:
            raise RuntimeError(f"{op.name}: {len(error.eigenvalues)} of {k} eigenpairs converged") from error
    order = np.argsort(-values, kind="stable")
    values = values[order]
    tensors = space.scale(vectors.T[order].reshape(-1, *space.shape), -0.5)
    tensors *= _signs(tensors)
    return Eigen(values, tensors, _residuals(op, values, tensors), count + len(values))


def _dense(symmetric: Callable[[Array], Array], size: int, k: int) -> tuple[Array, Array]:
    matrix = np.stack([symmetric(column) for column in np.eye(size)], axis=1)
    values, vectors = dense_eigh((matrix + matrix.T) / 2, subset_by_index=(size - k, size - 1))
    return values, vectors


def _residuals(op: TensorOperator, values: Array, tensors: Array) -> Array:
    space = op.space_in
    scale = np.abs(values).max() or 1.0
    return np.array([space.norm(op(v) - value * v) / scale for value, v in zip(values, tensors, strict=True)])


def _signs(tensors: Array) -> Array:
    flat = tensors.reshape(len(tensors), -1)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0).reshape(-1, *([1] * (tensors.ndim - 1)))


def _require_self_adjoint(op: TensorOperator, generator: np.random.Generator) -> None:
    if op.structure.self_adjoint:
        return
    if op.space_in != op.space_out:
        raise ValueError(f"{op.name} maps {op.space_in} to {op.space_out}; eigenvalues need an operator on one space")
    space = op.space_in
    p, q = generator.normal(size=(2, *space.shape))
    image_p, image_q = op(p), op(q)
    left, right = space.inner(p, image_q), space.inner(image_p, q)
    # Rounding alone leaves a difference of a few units of precision times the norms; a thousand is far above it.
    scale = space.norm(p) * space.norm(image_q) + space.norm(q) * space.norm(image_p)
    if abs(left - right) > 1e3 * np.finfo(op.dtype).eps * scale:
        raise ValueError(
            f"{op.name} is not self-adjoint in the inner product of its space: <p, A q> = {left:.6g} but "
            f"<A p, q> = {right:.6g}"
        )
