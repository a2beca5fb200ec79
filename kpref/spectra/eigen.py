"""Leading eigenpairs of self-adjoint operators, in the inner product of their space.

An operator that knows its factor, ``A = F F*`` (`TensorOperator.gram`), has the eigenvalues of ``F* F``, which acts on
the other space of F: the parameters, for K and the NTK. Where that space is smaller, the iteration runs there,

    F* F v = lambda v,    u = F v / lambda^(1/2),    A u = lambda u.

Eigenfunctions of eigenvalues that are zero to rounding are arbitrary: they are filled up with random functions
orthogonal to all others.

**Mixed precision.** Products in float32 take about half the time. `kpref.spectra.bases` says which ones may be so; the
pairs that come of them are then made the Ritz pairs of their span and are certified, by one product in the operator's
own precision for each: the residual is that of the operator itself, whatever has led to it, and an eigenvalue lies
within it. Where it is not what was asked for, the search goes on from there in the operator's own precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from kpref.operators.precision import in_single
from kpref.spectra.bases import GramSearch, Maps, Search, SymmetricSearch, append_orthonormal, noise
from kpref.spectra.lanczos import NoConvergence, blend, iterate
from kpref.spectra.rows import inner_products, ritz_gaps
from kpref.spectra.symmetric import RectangularForm, SymmetricForm, require_operator, require_self_adjoint
from kpref.threads import serial_blas

__all__ = ["Eigen", "check_search", "check_start", "eigh", "kept", "signs", "single_products"]

Map = Callable[[Array], Array]
Found = tuple[Array, Array, Array, float]

#: How far a residual computed anew may lie above what was asked for: its product rounds in another way.
_SLACK = 10
#: Below this size, or where most of the spectrum is asked for, a dense solver is faster and gives everything.
_DENSE_SIZE = 200
#: Numbers in the tensors that an operator is applied to at once.
_PANEL = 1 << 23
#: Residual from which on products in float32 serve, unless something else is asked for.
_COARSE = 1e-7
METHODS = ("auto", "lanczos", "block", "dense", "primme")
PRECISIONS = ("auto", "mixed", "full")


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
        ``||A v - lambda v|| / |lambda_1|`` in the norm of the space, computed anew from the operator, in its own
        precision: by the theorem of Bauer and Fike for self-adjoint operators, an eigenvalue lies within this relative
        distance.
    n_products : int
        Products with the operator that were needed, those for the residuals included. With a factor F of the operator,
        products with F.
    converged : ndarray of bool, shape (k,)
        All True, but in `kpref.spectra.NoConvergence.partial`.
    n_single : int
        How many of the products were in float32, of an operator in float64.
    """

    values: Array
    vectors: Array
    residuals: Array
    n_products: int
    converged: Array
    n_single: int = 0

    __repr__ = short_repr

    @property
    def precision(self) -> str:
        """That of the products: "float64", "float32", or "mixed", the residuals being in float64."""
        return "mixed" if self.n_single else str(self.vectors.dtype)


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
    precision: str = "auto",
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
    precision : {"auto", "mixed", "full"}
        "full": all products are in the operator's own precision. "mixed": those are in float32 whose errors do not
        matter, all of them if few digits are asked for; vectors and inner products stay in float64, and residuals are
        those of the operator in float64. "auto" is "mixed" from a `tol` of 1e-7 on, where the operator, made of a flow
        in float64, has products in float32. What a dense solver or PRIMME is given is "full".

    Returns
    -------
    Eigen

    Raises
    ------
    ValueError
        If the operator is not self-adjoint (by its declared structure, or else by a test on random tensors) or maps
        to what is not finite, k is out of range, `start` has another shape or a number that is not finite, or "mixed"
        is asked for of an operator that has no products in float32 beside its own.
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
    single = single_products(op, precision, tol)
    require_self_adjoint(op, seed)
    form = SymmetricForm(op, progress)
    count = integer("k", k, 1, form.size)
    one_of("method", method, METHODS)
    initial = check_start(start, op.shape_in)
    require_memory(2.0 * op.dtype.itemsize * count * form.size, f"{count} eigenfunctions of {op.name}")
    rows = None if initial is None else form.coordinates.to_vectors(initial)
    own = _Task(op, None, count, tol, method, seed, copies, progress)
    found = own.pairs(rows) if single is None else replace(own, single=single).pairs(rows)
    if found.n_single and not (found.converged & found.good(tol, op.dtype)).all():
        found = own.pairs(found.vectors).after(found)
    tensors = form.to_tensors(found.vectors, overwrite=True)
    tensors *= signs(tensors)
    converged = found.converged & found.good(tol, op.dtype)
    result = Eigen(found.values, tensors, found.residuals, found.n_products, converged, found.n_single)
    if not converged.all():
        require_self_adjoint(op, seed, trusting=False)
        used = found.n_products - count
        message = f"{op.name}: {converged.sum()} of {count} eigenpairs converged to {tol:g} in {used} products"
        raise NoConvergence(f"{message}; the largest residual is {found.residuals.max():.2g}", result)
    return result


def single_products(op: TensorOperator, precision: str, tol: float) -> TensorOperator | None:
    """An operator in float32 where its products serve beside those of its own, which is in float64; or ValueError."""
    one_of("precision", precision, PRECISIONS)
    if precision == "full" or (precision == "auto" and tol < _COARSE):
        return None
    single = in_single(op)
    if single is None and precision == "mixed":
        raise ValueError(
            'precision "mixed" needs an operator in float64 that has products in float32 too, such as those of a flow; '
            f'{op.name} has none beside its own: take precision "full"'
        )
    return single


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


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Eigenpairs in the coordinates of a form, with residuals over the largest value: both computed anew."""

    values: Array  # (k,)
    vectors: Array  # (k, n)
    residuals: Array  # (k,)
    converged: Array  # (k,): whether the search says so
    norm: float  # largest modulus of an eigenvalue over the largest value, about
    n_products: int
    n_single: int

    def good(self, tol: float, dtype: np.dtype[Any]) -> Array:
        """Whether residuals are what was asked for."""
        return kept(self.residuals, tol, dtype, self.norm)

    def after(self, other: _Pairs) -> _Pairs:
        """The same pairs, the products for others counted too."""
        return replace(
            self, n_products=self.n_products + other.n_products, n_single=self.n_single + other.n_single
        )  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """What `eigh` was asked for; `single`: the operator in float32, for products that may be so."""

    op: TensorOperator
    single: TensorOperator | None
    k: int
    tol: float
    method: str
    seed: int
    copies: bool
    progress: Callable[[int], object] | None

    def pairs(self, start: Array | None) -> _Pairs:
        """Pairs of the matrix, from starting vectors (j, n)."""
        form, factor = SymmetricForm(self.op, self.progress), self.op.factor
        single = None if self.single is None else SymmetricForm(self.single, self.progress)
        if factor is None or RectangularForm(factor).domain.size >= form.size:
            values, vectors, converged, norm = self._direct(form, single, start)
            used, coarse = form.n_products, 0 if single is None else single.n_products
        else:
            half, small = RectangularForm(factor, self.progress), None
            if self.single is not None and self.single.factor is not None:
                small = RectangularForm(self.single.factor, self.progress)
            values, vectors, converged, norm = self._through(half, small, start)
            used, coarse = half.n_products, 0 if small is None else small.n_products
        values, vectors, residuals = _certified(form, values, vectors, improve=coarse > 0)
        norm /= float(np.abs(values).max()) or 1.0
        return _Pairs(values, vectors, residuals, converged, norm, used + coarse + self.k, coarse)

    def _direct(self, form: SymmetricForm, single: SymmetricForm | None, start: Array | None) -> Found:
        """Pairs of the matrix itself: values (k,), vectors (k, n), whether they converged, about the norm."""
        if self._at_once(form.size, self.k):
            return self._by_others(form, form.size, self.k, start)
        maps = Maps(form, single)
        search = SymmetricSearch(maps, form.size, self.k, self.tol, self.op.dtype, self.seed, self.op.name)
        return self._iterate(search, start)

    def _through(self, factor: RectangularForm, single: RectangularForm | None, start: Array | None) -> Found:
        """Pairs of F F^T from those of F^T F."""
        small = factor.domain.size
        initial, k = None if start is None else factor.transpose(start), min(self.k, small)
        lift: Map = factor
        if self._at_once(small, k):
            values, right, converged, norm = self._by_others(factor.gram, small, k, initial)
        else:
            maps = Maps(factor.gram, None if single is None else single.gram)
            search = GramSearch(maps, small, k, self.tol, self.op.dtype, self.seed, self.op.name)
            values, right, converged, norm = self._iterate(search, initial)
            # The shorter the image of a vector, the more an error of the longest one's counts in its direction.
            if single is not None and values[-1] > 0 and search.permitted(float(np.sqrt(values[0] / values[-1]))):
                lift = single
        images = lift(right).astype(right.dtype, copy=False)
        return *_lift(images, values, converged, self.k, np.random.default_rng([self.seed, 1])), norm

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
            (values, vectors), converged = iterate(search, rows, search.k, self.copies)
        else:
            first = None if rows is None else blend(rows)
            (values, vectors), converged = iterate(search, first, copies=self.copies)
        return values, vectors, converged, float(np.abs(search.values).max())


def _certified(form: SymmetricForm, values: Array, vectors: Array, improve: bool) -> tuple[Array, Array, Array]:
    """Pairs, and the lengths of their residuals over the largest value, from a product with each vector.

    To `improve` them is to take the Ritz pairs of the span of the vectors instead, which are orthonormal, in place.
    """
    count = max(1, _PANEL // form.size)
    parts = [slice(start, start + count) for start in range(0, len(vectors), count)]
    if improve:
        require_memory(2.0 * vectors.nbytes, f"the Ritz vectors of {form.op.name}")
        images = np.concatenate([form(vectors[part]) for part in parts])
        projected = inner_products(vectors, images)
        ritz, rotations = dense_eigh((projected + projected.T) / 2, driver="ev")
        values = ritz[::-1]
        lengths = ritz_gaps(np.ascontiguousarray(rotations[:, ::-1].T), values, vectors, images).tolist()
    else:
        lengths = [
            float(np.linalg.norm(image - value * vector))
            for part in parts
            for image, value, vector in zip(form(vectors[part]), values[part], vectors[part], strict=True)
        ]
    return values, vectors, np.array(lengths) / (np.abs(values).max() or 1.0)


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
