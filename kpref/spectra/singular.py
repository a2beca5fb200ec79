"""Leading singular values and functions of an operator, in the inner products of its two spaces.

    A v_i = sigma_i u_i,    A* u_i = sigma_i v_i,    <v_i, v_j> = <u_i, u_j> = 1 if i = j, else 0.

For D these are the modes of learning: the NTK = D D* has the eigenvalues sigma^2 and the eigenfunctions u, and v are
the parameter changes behind them. The iteration of `kpref.spectra.lanczos` starts in the smaller of the two spaces, and
does not square the operator: a singular value has an error of rounding times sigma_1, where the root of an eigenvalue
of ``A A*`` has one of rounding times ``sigma_1^2 / sigma_i``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd as dense_svd

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import RectangularSearch
from kpref.spectra.eigen import check_search, check_start, kept, signs
from kpref.spectra.lanczos import NoConvergence, blend, iterate
from kpref.spectra.symmetric import RectangularForm, require_adjoint, require_operator
from kpref.threads import serial_blas

__all__ = ["Singular", "svd"]

Triplets = tuple[Array, Array, Array, Array]

#: Where the smaller space has no more entries than this, or most of the spectrum is asked for, a dense solver is used.
_DENSE_SIZE = 200


@dataclass(frozen=True, eq=False)
class Singular:
    """Leading singular values and functions of an operator A.

    Attributes
    ----------
    left : ndarray, shape (k, \\*shape_out)
        Left functions u_i, orthonormal in the output space. The entry of largest magnitude is positive.
    values : ndarray, shape (k,)
        Singular values, in descending order.
    right : ndarray, shape (k, \\*shape_in)
        Right functions v_i, orthonormal in the input space.
    residuals : ndarray, shape (k,)
        The larger of ``|A v_i - sigma_i u_i|`` and ``|A* u_i - sigma_i v_i|`` over sigma_1, computed anew: a singular
        value lies within this relative distance.
    n_products : int
        Products with A that were needed, each with one with the adjoint; those for the residuals included.
    converged : ndarray of bool, shape (k,)
        All True, but in `kpref.spectra.NoConvergence.partial`.
    """

    left: Array
    values: Array
    right: Array
    residuals: Array
    n_products: int
    converged: Array

    __repr__ = short_repr


@serial_blas
def svd(
    op: TensorOperator,
    k: int,
    seed: int = 0,
    tol: float = 1e-10,
    start: npt.ArrayLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> Singular:
    """The k largest singular values of an operator between two spaces, and their functions.

    Parameters
    ----------
    op : TensorOperator
        P, D, J, ...
    k : int
        At most the size of the smaller space (where the measure has zeros, its support counts).
    seed : int
        Of the random vectors.
    tol : float
        Largest residual asked for, relative to the largest singular value. Below about 50 units of rounding of the
        operator's precision it counts as that.
    start : array_like, shape (j, \\*shape_in), optional
        Approximate right functions, such as those of a neighbouring checkpoint.
    progress : callable, optional
        Called with the number of products after each call of the operator.

    Returns
    -------
    Singular

    Raises
    ------
    ValueError
        If k is out of range, the operator maps to what is not finite, or `start` has another shape or a number that
        is not finite.
    NoConvergence
        A RuntimeError that holds the partial result, if the iteration does not converge, or residuals computed anew
        exceed ten times what was asked for. A ValueError if the reason is that the transpose is not that of the map.
    MemoryError
        Before anything is allocated, if the bases would not fit.
    """
    op = require_operator(op)
    tol, seed = check_search(tol, seed, progress)
    form = RectangularForm(op, progress)
    rows, columns = form.codomain.size, form.domain.size
    count = integer("k", k, 1, min(rows, columns))
    initial = check_start(start, op.shape_in)
    vectors = None if initial is None else form.domain.to_vectors(initial.astype(op.dtype))
    if min(rows, columns) <= _DENSE_SIZE or 5 * count > min(rows, columns):
        left, values, right, converged = _dense(form, count)
    elif columns <= rows:
        left, values, right, converged = _search(form, form.transpose, (rows, columns), count, vectors, tol, seed, op)
    else:
        images = None if vectors is None else form(vectors)
        right, values, left, converged = _search(form.transpose, form, (columns, rows), count, images, tol, seed, op)
    outputs, inputs = form.codomain.to_tensors(left), form.domain.to_tensors(right)
    sign = signs(outputs)
    outputs *= sign
    inputs *= sign.reshape(-1, *([1] * (inputs.ndim - 1)))
    used = form.n_products
    residuals = _residuals(op, outputs, values, inputs)
    converged = converged & kept(residuals, tol, op.dtype)
    result = Singular(outputs, values, inputs, residuals, used + count, converged)
    if not converged.all():
        require_adjoint(op, seed)
        message = f"{op.name}: {converged.sum()} of {count} singular values converged to {tol:g} in {used} products"
        raise NoConvergence(f"{message}; the largest residual is {residuals.max():.2g}", result)
    return result


def _search(
    apply: Callable[[Array], Array],
    transpose: Callable[[Array], Array],
    shape: tuple[int, int],
    k: int,
    start: Array | None,
    tol: float,
    seed: int,
    op: TensorOperator,
) -> Triplets:
    search = RectangularSearch(apply, transpose, shape, k, op.dtype, seed, op.name)
    (left, values, right), converged = iterate(search, None if start is None else blend(start), tol)
    return left, values, right, converged


def _dense(form: RectangularForm, k: int) -> Triplets:
    rows, columns = form.codomain.size, form.domain.size
    name = f"{form.op.name} as a dense {rows} x {columns} matrix"
    require_memory(3.0 * form.op.dtype.itemsize * max(rows, columns) * min(rows, columns), name)
    wide = rows < columns
    # Rows of the matrix or of its transpose: one product for each entry of the smaller space.
    matrix = form.transpose(np.eye(rows, dtype=form.op.dtype)).T if wide else form(np.eye(columns, dtype=form.op.dtype))
    left, values, right = dense_svd(matrix.T, full_matrices=False)
    return np.ascontiguousarray(left.T[:k]), values[:k], np.ascontiguousarray(right[:k]), np.ones(k, bool)


def _residuals(op: TensorOperator, left: Array, values: Array, right: Array) -> Array:
    scale, star = values[0] or 1.0, op.star
    return np.array(
        [
            max(op.space_out.norm(op(v) - sigma * u), op.space_in.norm(star(u) - sigma * v)) / scale
            for u, sigma, v in zip(left, values, right, strict=True)
        ]
    )
