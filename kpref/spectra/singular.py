"""Leading singular values and functions of an operator, in the inner products of its two spaces.

    A v_i = sigma_i u_i,    A* u_i = sigma_i v_i,    <v_i, v_j> = <u_i, u_j> = 1 if i = j, else 0.

For D these are the modes of learning: the NTK = D D* has the eigenvalues sigma^2 and the eigenfunctions u, and v are
the parameter changes behind them. The iteration of `kpref.spectra.lanczos` starts in the smaller of the two spaces, and
does not square the operator: a singular value has an error of rounding times sigma_1, where the root of an eigenvalue
of ``A A*`` has one of rounding times ``sigma_1^2 / sigma_i``.

In mixed precision (`kpref.spectra.eigen`) the search leaves right functions V; with left ones U from products in the
operator's own precision, ``A V = U R``, the singular triplets of the small triangle R give those of A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd as dense_svd

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import integer
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import Maps, RectangularSearch, append_orthonormal
from kpref.spectra.eigen import check_search, check_start, kept, signs, single_products
from kpref.spectra.lanczos import NoConvergence, blend, iterate
from kpref.spectra.symmetric import RectangularForm, require_adjoint, require_operator
from kpref.threads import serial_blas

__all__ = ["Singular", "svd"]

#: Where the smaller space has no more entries than this, or most of the spectrum is asked for, a dense solver is used.
_DENSE_SIZE = 200


@dataclass(frozen=True, eq=False)
class _Triplets:
    """Singular triplets in the coordinates of a form, and which of them have converged."""

    left: Array  # (k, m)
    values: Array  # (k,)
    right: Array  # (k, n)
    converged: Array  # (k,)


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
    n_single : int
        How many of the products were in float32, of an operator in float64.
    """

    left: Array
    values: Array
    right: Array
    residuals: Array
    n_products: int
    converged: Array
    n_single: int = 0

    __repr__ = short_repr

    @property
    def precision(self) -> str:
        """That of the products: "float64", "float32", or "mixed", the residuals being in float64."""
        return "mixed" if self.n_single else str(self.left.dtype)


@serial_blas
def svd(
    op: TensorOperator,
    k: int,
    seed: int = 0,
    tol: float = 1e-10,
    start: npt.ArrayLike | None = None,
    progress: Callable[[int], object] | None = None,
    precision: str = "auto",
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
    precision : {"auto", "mixed", "full"}
        As for `eigh`.

    Returns
    -------
    Singular

    Raises
    ------
    ValueError
        If k is out of range, the operator maps to what is not finite, `start` has another shape or a number that is
        not finite, or "mixed" is asked for of an operator that has no products in float32 beside its own.
    NoConvergence
        A RuntimeError that holds the partial result, if the iteration does not converge, or residuals computed anew
        exceed ten times what was asked for. A ValueError if the reason is that the transpose is not that of the map.
    MemoryError
        Before anything is allocated, if the bases would not fit.
    """
    op = require_operator(op)
    tol, seed = check_search(tol, seed, progress)
    single = single_products(op, precision, tol)
    form, other = RectangularForm(op, progress), None if single is None else RectangularForm(single, progress)
    smaller = min(form.codomain.size, form.domain.size)
    count = integer("k", k, 1, smaller)
    initial = check_start(start, op.shape_in)
    vectors = None if initial is None else form.domain.to_vectors(initial.astype(op.dtype))
    if smaller <= _DENSE_SIZE or 5 * count > smaller:
        found, residuals = _certified(form, _dense(form, count), improve=False)
    else:
        found, residuals = _search(form, other, count, vectors, tol, seed)
        if other is not None and not (found.converged & kept(residuals, tol, op.dtype)).all():
            found, residuals = _search(form, None, count, found.right, tol, seed)
    outputs, inputs = form.codomain.to_tensors(found.left), form.domain.to_tensors(found.right)
    sign = signs(outputs)
    outputs *= sign
    inputs *= sign.reshape(-1, *([1] * (inputs.ndim - 1)))
    coarse = 0 if other is None else other.n_products
    used, converged = form.n_products + coarse, found.converged & kept(residuals, tol, op.dtype)
    result = Singular(outputs, found.values, inputs, residuals, used, converged, coarse)
    if not converged.all():
        require_adjoint(op, seed)
        did = f"{converged.sum()} of {count} singular values converged to {tol:g} in {used - count} products"
        raise NoConvergence(f"{op.name}: {did}; the largest residual is {residuals.max():.2g}", result)
    return result


def _search(
    form: RectangularForm, single: RectangularForm | None, k: int, start: Array | None, tol: float, seed: int
) -> tuple[_Triplets, Array]:
    """Triplets by iteration in the smaller space, from right vectors (j, n), and their residuals."""
    apply, transpose = Maps(form), Maps(form.transpose)
    if single is not None:
        apply, transpose = Maps(form, single), Maps(form.transpose, single.transpose)
    rows, columns, dtype, name = form.codomain.size, form.domain.size, form.op.dtype, form.op.name
    if columns <= rows:
        search = RectangularSearch(apply, transpose, (rows, columns), k, tol, dtype, seed, name)
    else:
        start = None if start is None else form(start)
        search = RectangularSearch(transpose, apply, (columns, rows), k, tol, dtype, seed, name)
    (long, values, short), converged = iterate(search, None if start is None else blend(start))
    left, right = (long, short) if columns <= rows else (short, long)
    return _certified(form, _Triplets(left, values, right, converged), improve=single is not None)


def _certified(form: RectangularForm, found: _Triplets, improve: bool) -> tuple[_Triplets, Array]:
    """Triplets, and the lengths of their residuals over the largest value, from products with their vectors.

    To `improve` them is to take the triplets of the matrix on the span of the right vectors instead.
    """
    images = form(found.right)
    if improve:
        found, images = _on_span(found, images)
    gaps = images - found.values[:, None] * found.left, form.transpose(found.left) - found.values[:, None] * found.right
    lengths = np.maximum(*(np.linalg.norm(gap, axis=1) for gap in gaps))
    return found, lengths / (found.values[0] or 1.0)


def _on_span(found: _Triplets, images: Array) -> tuple[_Triplets, Array]:
    """Singular triplets on the span of orthonormal right vectors, whose images are given, and the images of theirs."""
    count, generator = len(images), np.random.default_rng(0)
    basis, triangle = np.empty_like(images), np.zeros((count, count))
    for column in range(count):
        triangle[:column, column], triangle[column, column] = append_orthonormal(
            basis, column, images[column], generator
        )
    left, values, right = dense_svd(triangle, lapack_driver="gesvd")
    return replace(found, left=left.T @ basis, values=values, right=right @ found.right), right @ images


def _dense(form: RectangularForm, k: int) -> _Triplets:
    rows, columns = form.codomain.size, form.domain.size
    name = f"{form.op.name} as a dense {rows} x {columns} matrix"
    require_memory(3.0 * form.op.dtype.itemsize * max(rows, columns) * min(rows, columns), name)
    wide = rows < columns
    # Rows of the matrix or of its transpose: one product for each entry of the smaller space.
    matrix = form.transpose(np.eye(rows, dtype=form.op.dtype)).T if wide else form(np.eye(columns, dtype=form.op.dtype))
    left, values, right = dense_svd(matrix.T, full_matrices=False)
    return _Triplets(np.ascontiguousarray(left.T[:k]), values[:k], np.ascontiguousarray(right[:k]), np.ones(k, bool))
