"""Leading eigenpairs of self-adjoint operators, in the inner product of their space.

An operator that knows its factor, ``A = F F*`` (`TensorOperator.gram`), has the eigenvalues of ``F* F``, which acts on
the other space of F: the parameters, for K and the NTK. Where that space is smaller, the iteration runs there,

    F* F v = lambda v,    u = F v / lambda^(1/2),    A u = lambda u.

Eigenfunctions of eigenvalues that are zero to rounding are arbitrary: they are filled up with random functions
orthogonal to all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh as dense_eigh
from scipy.sparse.linalg import LinearOperator

from kpref._reprs import short_repr
from kpref._types import Array
from kpref._validate import finite_array, flag, function, integer, one_of, real_number
from kpref.memory import require_memory
from kpref.operators import TensorOperator
from kpref.spectra.bases import GramSearch, Search, SymmetricSearch, append_orthonormal, noise
from kpref.spectra.lanczos import NoConvergence, blend, iterate
from kpref.spectra.symmetric import RectangularForm, SymmetricForm, require_operator, require_self_adjoint
from kpref.threads import serial_blas

__all__ = ["Eigen", "check_search", "check_start", "eigh", "kept", "signs"]

Map = Callable[[Array], Array]
Found = tuple[Array, Array, Array, float]

#: How far a residual computed anew may lie above what was asked for: its product rounds in another way.
_SLACK = 10
#: Below this size, or where most of the spectrum is asked for, a dense solver is faster and gives everything.
_DENSE_SIZE = 200
METHODS = ("auto", "lanczos", "block", "dense", "primme")


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
        ``||A v - lambda v|| / |lambda_1|`` in the norm of the space, computed anew from the operator: by the theorem of
        Bauer and Fike for self-adjoint operators, an eigenvalue lies within this relative distance.
    n_products : int
        Products with the operator that were needed, those for the residuals included. With a factor F of the operator,
        products with F.
    converged : ndarray of bool, shape (k,)
        All True, but in `kpref.spectra.NoConvergence.partial`.
    """

    values: Array
    vectors: Array
    residuals: Array
    n_products: int
    converged: Array

    __repr__ = short_repr


@serial_blas
def eigh(
    op: TensorOperator,
    k: int,
    seed: int = 0,
    tol: float = 1e-10,
    start: npt.ArrayLike | None = None,
    method: str = "auto",
    copies: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Eigen:
    """The k largest eigenvalues of a self-adjoint operator, and their eigenfunctions.

    Parameters
    ----------
    op : TensorOperator
        Self-adjoint in the inner product of its space: K, NTK, ``P.gram()``, ...
    k : int
        Number of eigenpairs, at most the size of the space (of the support of the measure, where that has zeros).
    seed : int
        Of the random vectors.
    tol : float
        Largest residual asked for, relative to the largest eigenvalue. Below about 50 units of rounding of the
        operator's precision it counts as that.
    start : array_like, shape (j, \\*shape), optional
        Approximate eigenfunctions, such as those of a neighbouring checkpoint, in any number and not necessarily
        orthogonal: the closer, the fewer products.
    method : {"auto", "lanczos", "block", "dense", "primme"}
        Lanczos iteration with full orthogonalisation, one vector or k vectors at a time; a dense solver; or the package
        PRIMME, if it is installed. "auto" takes a dense solver for small problems and otherwise "lanczos".
    copies : bool
        Whether to make sure that no copy of a multiple eigenvalue is missed, which takes some 10 products more. SciPy's
        `eigsh` does not; where all eigenvalues are known to be simple there is no need to.
    progress : callable, optional
        Called with the number of products after each call of the operator.

    Returns
    -------
    Eigen

    Raises
    ------
    ValueError
        If the operator is not self-adjoint (by its declared structure, or else by a test on random tensors) or maps
        to what is not finite, k is out of range, or `start` has another shape or a number that is not finite.
    NoConvergence
        A RuntimeError that holds the partial result, if the iteration does not converge, or residuals computed anew
        exceed ten times what was asked for. The test is then made whatever is declared: a ValueError says so.
    ImportError
        If PRIMME is asked for and not there.
    MemoryError
        Before anything is allocated, if the bases or the eigenfunctions would not fit.

    Notes
    -----
    Of ``A A*`` with A known and on a smaller space, the iteration runs there. `kpref.spectra.lanczos` describes it.
    Copies of multiple eigenvalues are looked for, one by one; where the multiplicities are those of a known block
    structure, ``kpref.spectra.blocks.block_eigh`` needs fewer products.
    """
    op = require_operator(op)
    tol, seed = check_search(tol, seed, progress)
    copies = flag("copies", copies)
    require_self_adjoint(op, seed)
    form = SymmetricForm(op, progress)
    count = integer("k", k, 1, form.size)
    one_of("method", method, METHODS)
    initial = check_start(start, op.shape_in)
    require_memory(2.0 * op.dtype.itemsize * count * form.size, f"{count} eigenfunctions of {op.name}")
    factor = None if op.factor is None else RectangularForm(op.factor, progress)
    task = _Task(op, count, tol, method, seed, copies)
    rows = None if initial is None else form.coordinates.to_vectors(initial)
    if factor is None or factor.domain.size >= form.size:
        values, vectors, converged, norm = task.direct(form, rows)
        used = form.n_products
    else:
        values, vectors, converged, norm = task.through(factor, rows)
        used = factor.n_products
    tensors = form.to_tensors(vectors, overwrite=True)
    tensors *= signs(tensors)
    residuals = _residuals(op, values, tensors)
    converged = converged & kept(residuals, tol, op.dtype, norm / (float(np.abs(values).max()) or 1.0))
    result = Eigen(values, tensors, residuals, used + count, converged)
    if not converged.all():
        require_self_adjoint(op, seed, trusting=False)
        message = f"{op.name}: {converged.sum()} of {count} eigenpairs converged to {tol:g} in {used} products"
        raise NoConvergence(f"{message}; the largest residual is {residuals.max():.2g}", result)
    return result


def check_search(tol: float, seed: int, progress: Callable[[int], object] | None) -> tuple[float, int]:
    """A tolerance and a seed, or ValueError and TypeError."""
    if progress is not None:
        function("progress", progress, "a number of products")
    return real_number("tol", tol, least=0), integer("seed", seed, 0)


def check_start(start: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """Starting tensors (j, \\*shape), or ValueError."""
    if start is None:
        return None
    tensors = finite_array("start", start, shape=("j", *shape))
    if not tensors.any():
        raise ValueError(f"start must hold at least one tensor that is not zero; got {len(tensors)} of them")
    return tensors


def kept(residuals: Array, tol: float, dtype: np.dtype[Any], norm: float = 1.0) -> Array:
    """Whether residuals that were computed anew are what was asked for; they and `norm` relative to the largest value.

    They are not where an operator is not what it says: not self-adjoint, or with a transpose that is none.
    """
    return residuals <= _SLACK * max(tol, noise(dtype) * max(norm, 1.0))


def signs(tensors: Array) -> Array:
    """For each tensor of a batch the sign that makes its entry of largest magnitude positive."""
    flat = tensors.reshape(len(tensors), -1)
    negative = -flat.min(axis=1) > flat.max(axis=1)
    return np.where(negative, -1.0, 1.0).astype(tensors.dtype).reshape(-1, *([1] * (tensors.ndim - 1)))


@dataclass(frozen=True)
class _Task:
    """What `eigh` was asked for.

    Its methods give values (k,), vectors (k, n), whether they converged, and about the largest modulus of an
    eigenvalue.
    """

    op: TensorOperator
    k: int
    tol: float
    method: str
    seed: int
    copies: bool

    def direct(self, form: SymmetricForm, start: Array | None) -> Found:
        """Pairs of the matrix itself."""
        if self._at_once(form.size, self.k):
            return self._by_others(form, form.size, self.k, start)
        search = SymmetricSearch(form, form.size, self.k, self.op.dtype, self.seed, self.op.name)
        return self._iterate(search, start)

    def through(self, factor: RectangularForm, start: Array | None) -> Found:
        """Pairs of F F^T from those of F^T F."""
        small = factor.domain.size
        initial, k = None if start is None else factor.transpose(start), min(self.k, small)
        if self._at_once(small, k):
            values, right, converged, norm = self._by_others(factor.gram, small, k, initial)
        else:
            search = GramSearch(factor.gram, small, k, self.op.dtype, self.seed, self.op.name)
            values, right, converged, norm = self._iterate(search, initial)
        return *_lift(factor(right), values, converged, self.k, np.random.default_rng([self.seed, 1])), norm

    def _at_once(self, size: int, k: int) -> bool:
        """Whether a solver of somebody else's finds k pairs of a matrix of this size."""
        if self.method == "auto":
            return size <= _DENSE_SIZE or 5 * k > size
        return self.method in ("dense", "primme")

    def _by_others(self, apply: Map, size: int, k: int, start: Array | None) -> Found:
        if self.method == "primme":
            return _primme(apply, size, k, start, self.tol, self.op.dtype, self.seed)
        return _dense(apply, size, k, self.op)

    def _iterate(self, search: Search, start: Array | None) -> Found:
        rows = None if start is None else start.astype(search.dtype)
        if self.method == "block":
            (values, vectors), converged = iterate(search, rows, self.tol, search.k, self.copies)
        else:
            first = None if rows is None else blend(rows)
            (values, vectors), converged = iterate(search, first, self.tol, copies=self.copies)
        return values, vectors, converged, float(np.abs(search.values).max())


def _dense(apply: Map, size: int, k: int, op: TensorOperator) -> Found:
    require_memory(4.0 * op.dtype.itemsize * size**2, f"{op.name} as a dense {size} x {size} matrix")
    matrix = apply(np.eye(size, dtype=op.dtype))
    values, vectors = dense_eigh((matrix + matrix.T) / 2, subset_by_index=(size - k, size - 1))
    norm = float(np.abs(matrix).sum(axis=0).max())
    return values[::-1], np.ascontiguousarray(vectors[:, ::-1].T), np.ones(k, bool), norm


def _primme(apply: Map, size: int, k: int, start: Array | None, tol: float, dtype: np.dtype[Any], seed: int) -> Found:
    try:
        primme = import_module("primme")
    except ImportError as error:
        raise ImportError('method "primme" needs the package primme (pip install primme)') from error
    first = np.random.default_rng(seed).standard_normal((1, size)) if start is None else start
    matrix = LinearOperator((size, size), matvec=lambda x: apply(x.reshape(1, -1))[0], dtype=dtype)
    values, vectors, stats = primme.eigsh(
        matrix, k, which="LA", v0=first[:k].T.astype(dtype), tol=max(tol, noise(dtype)), return_stats=True,
        return_unconverged=True, raise_for_unconverged=False,
    )  # fmt: skip
    order = np.argsort(-values, kind="stable")
    norm = float(stats["estimateLargestSVal"])
    good = stats["rnorms"][order] <= 2 * max(tol, noise(dtype)) * norm
    return values[order], np.ascontiguousarray(vectors.T[order]), good, norm


def _lift(
    images: Array, values: Array, converged: Array, k: int, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Eigenpairs of F F^T, k of them, from images ``F v`` (overwritten): the null space of F^T fills up the rest."""
    found, size = images.shape
    rounding = np.finfo(images.dtype).eps * size * float(values[0])
    missing = k - found
    rows = np.concatenate([images, np.zeros((missing, size), images.dtype)]) if missing else images
    for index in range(k):
        # Rounding leaves parts of larger modes in the image of a small one: orthonormalise in descending order.
        there = index < found and values[index] > rounding
        row = rows[index] if there else generator.standard_normal((size,)).astype(images.dtype)
        append_orthonormal(rows, index, row, generator)
    return np.append(values, np.zeros(missing)), rows, np.append(converged, np.ones(missing, bool))


def _residuals(op: TensorOperator, values: Array, tensors: Array) -> Array:
    space = op.space_in
    scale = np.abs(values).max() or 1.0
    return np.array([space.norm(op(v) - value * v) / scale for value, v in zip(values, tensors, strict=True)])
