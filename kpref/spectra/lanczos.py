"""Leading eigenpairs and singular triplets of a matrix known by its products: a Lanczos process that takes any start.

The process keeps an orthonormal basis V, its image A V and ``T = V^T A V``. The eigenpairs (theta, s) of T give Ritz
pairs (theta, V s), and the residual ``r = A V s - theta V s`` of the first pair that has not converged, which is
orthogonal to V, becomes the next vector of the basis. From one starting vector all residuals are parallel, and this is
the Lanczos process with full orthogonalisation and thick restarts (Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000).
From several, it is the method of Davidson without a preconditioner (Stathopoulos and Saad, Electron. Trans. Numer.
Anal. 7, 1998): approximate eigenvectors of a similar matrix are taken as they are, and improved one after another.

For singular triplets, ``B V = U R`` with U orthonormal too and R a small triangular matrix, whose singular triplets
(sigma, p, s) give ``B V s = sigma U p``; the residual is ``r = B^T U p - sigma V s``. From one starting vector this is
the bidiagonalisation of Golub, Kahan and Lanczos with thick restarts (Baglama and Reichel, SIAM J. Sci. Comput. 27,
2005). No product ``B^T B`` is formed, and small singular values are as accurate as large ones, in absolute terms.

A Krylov space holds one vector of each eigenspace, so that copies of a multiple eigenvalue would be missed. When all
pairs have converged, a chain is therefore grown from a random vector orthogonal to V, and belongs to the basis from
then on. Let a missed unit eigenvector, orthogonal to V, of an eigenvalue above ``lambda_k`` have the component c in the
random one. The monic polynomial p whose roots are the Ritz values of a chain of q steps has the smallest norm in the
measure of the chain, the product ``beta_1 ... beta_q`` of its couplings, so that

    |c| <= beta_1 ... beta_q / p(lambda_k),

while the component along a given axis of a random direction of R^n is below ``delta / sqrt(n)`` with a probability
below delta only. The chain ends when a missed vector would have to be as unlikely as that, or after `_CHAIN` steps, or
when its Ritz values exceed lambda_k and the search resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, get_blas_funcs, svd

from kpref.memory import require_memory
from kpref.threads import with_serial_blas

__all__ = [
    "LEFT_ENTRIES",
    "NoConvergence",
    "RectangularSearch",
    "SymmetricSearch",
    "append_orthonormal",
    "blend",
    "iterate",
    "noise",
]

Array = npt.NDArray[Any]
Map = Callable[[Array], Array]

#: Most products, for each pair and for ten more.
_MAX_PRODUCTS = 200
#: Entries of a basis that has a hundred vectors to spare: with more room there are fewer restarts, and fewer products.
_ROOMY = 1 << 24
#: Entries of a basis of left vectors: 512 MiB in double precision.
LEFT_ENTRIES = 1 << 26
_CHAIN = 20
#: Shortest new part of a left vector, relative to the longest, for which one-sided orthogonalisation is enough.
_WELL_CONDITIONED = 0.1
#: Probability delta that a chain overlooks an eigenvector.
_MISS = 1e-2


class NoConvergence(RuntimeError):
    """An iteration stopped before all pairs had converged.

    Attributes
    ----------
    partial : Eigen or Singular
        What it had by then; its `converged` says which pairs are good.
    """

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message)
        self.partial = partial


def noise(dtype: npt.DTypeLike) -> float:
    """Residual that rounding of a product leaves, relative to the largest eigenvalue or singular value."""
    return 50 * float(np.finfo(dtype).eps)


def append_orthonormal(basis: Array, used: int, vector: Array, generator: np.random.Generator) -> tuple[Array, float]:
    """Make a vector orthonormal to the first `used` rows of a basis and put it into the next.

    Where nothing but rounding is left of it, a random vector takes its place.

    Returns
    -------
    overlaps : ndarray, shape (used,)
        Of the vector with the rows.
    length : float
        Of what was left over; 0 where that was rounding.
    """
    known, overlaps = basis[:used], np.zeros(used, basis.dtype)
    length = left = float(np.linalg.norm(vector))
    for _ in range(3):  # as long as so much cancels that rounding would show (Daniel et al., Math. Comp. 30, 1976)
        before, parts = left, known @ vector
        vector = vector - parts @ known
        overlaps += parts
        left = float(np.linalg.norm(vector))
        if left > 0.5 * before:
            break
    if left > 10 * np.finfo(basis.dtype).eps * length:
        basis[used] = vector / left
        return overlaps, left
    if used == len(vector):
        raise ValueError(f"there is no vector orthogonal to a basis of all {used} dimensions")
    append_orthonormal(basis, used, generator.standard_normal(len(vector)).astype(basis.dtype), generator)
    return overlaps, 0.0


def blend(vectors: Array) -> Array:
    """One starting vector (1, n) from several (j, n): the sum of their directions.

    A Krylov space from it reaches all of them with fewer products than one that begins with each.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    return np.asarray((vectors[lengths > 0] / lengths[lengths > 0, None]).sum(axis=0, keepdims=True))


class Search:
    """A basis that grows towards the leading eigenvectors, or right singular vectors.

    Attributes
    ----------
    basis : ndarray, shape (width, n)
        Orthonormal rows, the first `used` of them in use.
    values : ndarray, shape (used,)
        Ritz values in descending order.
    power : int
        The chain's matrix has the eigenvalues ``values ** power``.
    n_products : int
    """

    power = 1

    def __init__(self, size: int, k: int, dtype: npt.DTypeLike, seed: int) -> None:
        self.width = min(size, max(2 * k + 24, min(k + 100, _ROOMY // size)))
        self.size, self.k, self.dtype, self.used, self.n_products = size, k, np.dtype(dtype), 0, 0
        self.generator = np.random.default_rng(seed)

    def random(self) -> Array:
        """A random vector."""
        return self.generator.standard_normal(self.size).astype(self.dtype)

    def grow(self, vectors: list[Array]) -> float:
        """Add vectors to the basis, as many as there are dimensions, after a restart if there is no room for them.

        Returns
        -------
        float
            Length of what the last one added to the basis before it was normalised.
        """
        vectors = vectors[: self.size - self.used]
        if self.used + len(vectors) > self.width:
            self.restart(min((self.width + self.k) // 2, self.width - len(vectors), self.used))
        first, length = self.used, 0.0
        for vector in vectors[: self.width - self.used]:
            _, length = append_orthonormal(self.basis, self.used, vector, self.generator)
            self.used += 1
        self._multiply(first)
        self.n_products += self.used - first
        self._solve()
        return length

    def threshold(self, tol: float) -> float:
        """Largest residual of a pair that counts as converged."""
        wanted = float(np.abs(self.values[: self.k]).max())
        return max(tol * wanted, noise(self.dtype) * float(np.abs(self.values).max()))

    basis: Array
    values: Array

    def _multiply(self, first: int) -> None:
        """Products with the rows of the basis from `first` on."""
        raise NotImplementedError

    def _solve(self) -> None:
        """Ritz values of the basis."""
        raise NotImplementedError

    def residual(self, index: int) -> Array:
        """Residual of a Ritz pair."""
        raise NotImplementedError

    def error(self, residual: Array) -> float:
        """Size of a residual, as it is compared with `threshold`."""
        return float(np.linalg.norm(residual))

    def image(self) -> Array:
        """Image of the last row of the basis under the symmetric matrix."""
        raise NotImplementedError

    def projected(self, first: int) -> Array:
        """The symmetric matrix on the rows of the basis from `first` on."""
        raise NotImplementedError

    def restart(self, keep: int) -> None:
        """Keep the leading Ritz vectors only."""
        raise NotImplementedError

    def pairs(self) -> tuple[Array, ...]:
        """The k leading values (k,) and Ritz vectors (k, n); for singular values, left vectors come first."""
        raise NotImplementedError


class SymmetricSearch(Search):
    """For the largest eigenvalues of a symmetric matrix, given by its map of vectors (v, n)."""

    def __init__(self, apply: Map, size: int, k: int, dtype: npt.DTypeLike, seed: int, name: str) -> None:
        super().__init__(size, k, dtype, seed)
        self._apply = apply
        require_memory(2.0 * self.dtype.itemsize * size * (self.width + k), f"the Lanczos bases of {name}")
        self.basis, self._images = np.empty((2, self.width, size), self.dtype)
        self._matrix = np.zeros((self.width, self.width))

    def _multiply(self, first: int) -> None:
        new, used = slice(first, self.used), self.used
        self._images[new] = self._apply(self.basis[new])
        self._matrix[:used, new] = self.basis[:used] @ self._images[new].T
        self._matrix[new, :used] = self._matrix[:used, new].T

    def _solve(self) -> None:
        # By QR steps: LAPACK's divide and conquer can fail where eigenvalues are multiple.
        values, rotations = eigh(self._matrix[: self.used, : self.used], driver="ev", check_finite=False)
        self.values, self._rotations = values[::-1], np.ascontiguousarray(rotations[:, ::-1].T, self.dtype)

    def residual(self, index: int) -> Array:  # noqa: D102
        rotation = self._rotations[index]
        scaled = self.dtype.type(self.values[index]) * rotation
        return np.asarray(rotation @ self._images[: self.used] - scaled @ self.basis[: self.used])

    def image(self) -> Array:  # noqa: D102
        return np.asarray(self._images[self.used - 1])

    def projected(self, first: int) -> Array:  # noqa: D102
        return self._matrix[first : self.used, first : self.used]

    def restart(self, keep: int) -> None:  # noqa: D102
        rotations = self._rotations[:keep]
        for rows in (self.basis, self._images):
            rows[:keep] = rotations @ rows[: self.used]
        self._matrix[...] = 0.0
        self._matrix[range(keep), range(keep)] = self.values[:keep]
        self.used = keep

    def pairs(self) -> tuple[Array, ...]:  # noqa: D102
        return self.values[: self.k].copy(), self._rotations[: self.k] @ self.basis[: self.used]


class RectangularSearch(Search):
    """For the largest singular values of a matrix (m, n), m >= n, given by its map of vectors and its transpose's.

    With `gram`, for the eigenpairs (sigma^2, U p) of B B^T. Their residuals are ``B r``; how long these are, the image
    of the last vector of the basis foretells.
    """

    power = 2

    def __init__(
        self,
        apply: Map,
        transpose: Map,
        shape: tuple[int, int],
        k: int,
        dtype: npt.DTypeLike,
        seed: int,
        name: str,
        gram: bool = False,
    ) -> None:
        rows, columns = shape
        self._gram = gram
        super().__init__(columns, k, dtype, seed)
        self.width = min(self.width, max(2 * k + 24, LEFT_ENTRIES // rows))
        self._apply, self._transpose = apply, transpose
        entries = (self.width + k) * (2.0 * columns + rows)
        require_memory(entries * self.dtype.itemsize, f"the Lanczos bases of {name}")
        self.basis, self._images = np.empty((2, self.width, columns), self.dtype)
        self._left = np.empty((self.width, rows), self.dtype)
        self._largest = 0.0
        self._matrix = np.zeros((self.width, self.width))

    def _multiply(self, first: int) -> None:
        for column, image in enumerate(self._apply(self.basis[first : self.used]), first):
            self._append_left(column, image)
            self._images[column] = self._transpose(self._left[column : column + 1])[0]

    def _append_left(self, column: int, image: Array) -> None:
        """Make the image of a row of the basis orthonormal to the left vectors, and note the triangle's column.

        ``u_i . B v = (B^T u_i) . v`` is a product of short vectors, and nearly all of these are zero in a Krylov space:
        left vectors need not be made orthogonal anew as long as the basis is orthonormal and the triangle is well
        conditioned (Simon and Zha, SIAM J. Sci. Comput. 21, 2000).
        """
        overlaps = self._images[:column] @ self.basis[column]
        length = float(np.linalg.norm(image))
        there = np.flatnonzero(np.abs(overlaps) > np.finfo(self.dtype).eps ** 0.75 * length)
        vector, (axpy,) = image.copy(), get_blas_funcs(("axpy",), (image,))
        for index in there:
            vector = axpy(self._left[index], vector, a=-overlaps[index])  # in place: these are long
        left = float(np.linalg.norm(vector))
        self._largest = max(self._largest, left)
        if left > _WELL_CONDITIONED * self._largest:
            np.divide(vector, left, out=self._left[column])
        else:
            overlaps, left = append_orthonormal(self._left, column, image, self.generator)
        self._matrix[:column, column], self._matrix[column, column] = overlaps, left

    def _solve(self) -> None:
        left, self.values, right = svd(
            self._matrix[: self.used, : self.used], lapack_driver="gesvd", check_finite=False
        )
        self._rotations = np.ascontiguousarray(right, self.dtype)
        self._left_rotations = np.ascontiguousarray(left.T, self.dtype)

    def residual(self, index: int) -> Array:  # noqa: D102
        scaled = self.dtype.type(self.values[index]) * self._rotations[index]
        return np.asarray(self._left_rotations[index] @ self._images[: self.used] - scaled @ self.basis[: self.used])

    def error(self, residual: Array) -> float:  # noqa: D102
        length = super().error(residual)
        if not self._gram or self.values[0] == 0:
            return length
        return length * float(np.linalg.norm(self._matrix[: self.used, self.used - 1])) / float(self.values[0])

    def image(self) -> Array:  # noqa: D102
        column = self._matrix[: self.used, self.used - 1].astype(self.dtype)
        return np.asarray(column @ self._images[: self.used])

    def projected(self, first: int) -> Array:  # noqa: D102
        columns = self._matrix[: self.used, first : self.used]
        return np.asarray(columns.T @ columns)

    def restart(self, keep: int) -> None:  # noqa: D102
        for rows, rotations in (
            (self.basis, self._rotations),
            (self._images, self._left_rotations),
            (self._left, self._left_rotations),
        ):
            rows[:keep] = rotations[:keep] @ rows[: self.used]
        self._matrix[...] = 0.0
        self._matrix[range(keep), range(keep)] = self.values[:keep]
        self.used = keep

    def pairs(self) -> tuple[Array, ...]:  # noqa: D102
        left = self._left_rotations[: self.k] @ self._left[: self.used]
        return left, self.values[: self.k].copy(), self._rotations[: self.k] @ self.basis[: self.used]


def iterate(
    search: Search, start: Array | None, tol: float, block: int = 1, copies: bool = True
) -> tuple[tuple[Array, ...], Array]:
    """Let a search run until its k leading pairs have converged and nothing seems to be missed.

    Parameters
    ----------
    search : Search
    start : ndarray, shape (j, n), or None
        Starting vectors of any length, at least one; None for random ones.
    tol : float
        Largest residual relative to the largest value; no smaller than `noise`.
    block : int
        Vectors that a step adds.
    copies : bool
        Whether to look for missed copies of the leading values.

    Returns
    -------
    pairs : tuple of ndarray
        ``search.pairs()`` when they had converged, or in the end.
    converged : ndarray of bool, shape (k,)
        Which have converged: all, unless there were too many products.
    """
    return with_serial_blas(lambda: _iterate(search, start, tol, block, copies))


def _iterate(
    search: Search, start: Array | None, tol: float, block: int, copies: bool
) -> tuple[tuple[Array, ...], Array]:
    search.grow([search.random() for _ in range(block)] if start is None else list(start[: search.width]))
    done, most = 0, _MAX_PRODUCTS * (search.k + 10)
    while search.used < search.size and search.n_products < most:
        done, fresh = _unconverged(search, done, tol, block)
        if not fresh:
            done, fresh = _unconverged(search, 0, tol, block)  # later vectors may have moved what had converged
        if fresh:
            search.grow(fresh)
        elif search.used < search.k:  # an invariant space, too small
            search.grow([search.random()])
        else:
            pairs = search.pairs()
            if not copies or _nothing_missed(search, tol):
                return pairs, np.ones(search.k, bool)
    complete, limit = search.used == search.size, search.threshold(tol)
    good = [i < search.used and bool(search.error(search.residual(i)) <= limit) for i in range(search.k)]
    return search.pairs(), np.array(good) | complete


def _unconverged(search: Search, first: int, tol: float, block: int) -> tuple[int, list[Array]]:
    """Residuals of the first pairs from `first` on that have not converged, `block` at most, and where they begin."""
    wanted, limit = min(search.k, search.used), search.threshold(tol)
    begin, fresh = wanted, []
    for index in range(first, wanted):
        residual = search.residual(index)
        if search.error(residual) > limit:
            begin = min(begin, index)
            fresh.append(residual)
        if len(fresh) == block:
            break
    return begin, fresh


def _nothing_missed(search: Search, tol: float) -> bool:
    """Grow a chain from a random vector; whether it leaves the leading values as they are. See the module's head."""
    steps = min(_CHAIN, search.size - search.used)
    if search.used + steps > search.width:
        search.restart(max(search.k, search.width - steps))
        steps = search.width - search.used
    first, bound = search.used, search.values[: search.k] + 2 * search.threshold(tol)
    level, likely, couplings = search.values[search.k - 1] ** search.power, np.log(_MISS / np.sqrt(search.size)), 0.0
    search.grow([search.random()])
    for _ in range(1, steps):
        length = search.grow([search.image()])
        if length == 0.0 or (search.values[: search.k] > bound).any():
            break
        couplings += np.log(length)
        distances = level - np.linalg.eigvalsh(search.projected(first)[:-1, :-1])
        if distances[-1] > 0 and couplings - np.log(distances).sum() < likely:
            break
    return bool((search.values[: search.k] <= bound).all())
