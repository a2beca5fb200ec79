"""Bases that a Lanczos process fills, one for each kind of problem, and the Ritz pairs in them.

`SymmetricSearch` holds V and A V for a symmetric matrix A; `GramSearch` is the same for ``A = B^T B`` where the
eigenvectors ``u = B v / lambda^(1/2)`` of ``B B^T`` are wanted. `RectangularSearch`, for singular triplets, does not
square the matrix: it keeps left vectors U as well, with ``B V = U R``.

**Products of two precisions.** A Ritz vector ``V s`` has the residual ``A V s - theta V s``, in which an error e_j of
the image of v_j counts s_j times. Before a product with a new vector v is made, the images tell how far it is coupled
with a Ritz vector y of the wanted ones, ``y.A v``, and so about how large its share in that will be:

    |s| <~ |y.A v| / gap,      gap: from the value of y to the first one that is not wanted.

Where the error of a product in single precision, times the largest share, is below a third of the residual that is
asked for, the product is one in single precision, and one in the operator's own otherwise: all products are single ones
where few digits are wanted; where many are, the early vectors, which the wanted ones are made of, have exact images
(Simoncini, SIAM J. Numer. Anal. 43, 2005; Simoncini and Szyld, SIAM Review 45, 2003). Vectors, inner products and Ritz
values are in the operator's own precision all along. The error of a single product is measured, at the first vector.
Where it was larger later on, or a pair turns up that had not been wanted, residuals end within the span of V, which
exact ones never do: products are then repeated (`Search.sharpen`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, get_blas_funcs, svd

from kpref._types import Array
from kpref.memory import require_memory
from kpref.spectra.rows import combination, overlaps_with

__all__ = [
    "GramSearch",
    "Maps",
    "RectangularSearch",
    "Search",
    "SymmetricSearch",
    "append_orthonormal",
    "noise",
]

Map = Callable[[Array], Array]


class Maps(NamedTuple):
    """A map of vectors (v, n) in the operator's own precision, and in single precision if it has that too."""

    own: Map
    single: Map | None = None


#: Entries of a basis that has a hundred vectors to spare: with more room there are fewer restarts, and fewer products.
_ROOMY = 1 << 24
#: Entries of a basis of left vectors: 512 MiB in double precision.
_LEFT_ENTRIES = 1 << 26
#: How often the expected error of products in single precision must fit into the residual that is asked for.
_SAFETY = 3.0
#: Shortest new part of a left vector, relative to the longest, for which one-sided orthogonalisation is enough.
_WELL_CONDITIONED = 0.1


def noise(dtype: npt.DTypeLike) -> float:
    """Residual that rounding of a product leaves, relative to the largest eigenvalue or singular value."""
    return 50 * float(np.finfo(dtype).eps)


def append_orthonormal(basis: Array, used: int, vector: Array, generator: np.random.Generator) -> tuple[Array, float]:
    """Make a vector orthonormal to the first `used` rows of a basis and put it into the next.

    Where nothing but rounding is left of it, a random vector takes its place.

    Returns the overlaps of the vector with the rows, shape (used,), and the length of what was left over: 0 where that
    was rounding.
    """
    known, overlaps, vector = basis[:used], np.zeros(used, basis.dtype), vector.astype(basis.dtype)
    length = left = float(np.linalg.norm(vector))
    for _ in range(3):  # as long as so much cancels that rounding would show (Daniel et al., Math. Comp. 30, 1976)
        before, parts = left, overlaps_with(known, vector)
        combination(parts, known, out=vector)
        overlaps += parts
        left = float(np.linalg.norm(vector))
        if left > 0.5 * before:
            break
    if left > 10 * np.finfo(basis.dtype).eps * length:
        np.divide(vector, left, out=basis[used])
        return overlaps, left
    if used == len(vector):
        raise ValueError(f"there is no vector orthogonal to a basis of all {used} dimensions")
    append_orthonormal(basis, used, generator.standard_normal(len(vector)).astype(basis.dtype), generator)
    return overlaps, 0.0


class Search:
    """A basis that grows towards the leading eigenvectors, or right singular vectors.

    `tol`: largest residual of a pair, relative to the largest value; no smaller than `noise`.
    `power`: the chain's matrix has the eigenvalues ``values ** power``.
    `single_error`: relative error of products in single precision, as the first one tells it.
    `stalled`: whether a residual lies in the span of the basis for the most part: that of exact products is orthogonal
    to it, and what is left is the error of single ones.
    """

    power = 1
    single_error: float = 0.0
    stalled: bool = False
    _exactly = False

    def __init__(self, size: int, k: int, tol: float, dtype: npt.DTypeLike, seed: int) -> None:
        self.tol = tol
        self.width = min(size, max(2 * k + 24, min(k + 100, _ROOMY // size)))
        self.size, self.k, self.dtype, self.used, self.n_products = size, k, np.dtype(dtype), 0, 0
        self.generator = np.random.default_rng(seed)

    def random(self) -> Array:
        """A random vector."""
        return self.generator.standard_normal(self.size).astype(self.dtype)

    def grow(self, vectors: list[Array]) -> float:
        """Add vectors to the basis, as many as there are dimensions, after a restart if there is no room for them.

        Returns the length of what the last one added to the basis before it was normalised.
        """
        vectors = vectors[: self.size - self.used]
        if self.used + len(vectors) > self.width:
            self.restart(min((self.width + self.k) // 2, self.width - len(vectors), self.used))
        first, length = self.used, 0.0
        for vector in vectors[: self.width - self.used]:
            overlaps, length = append_orthonormal(self.basis, self.used, vector, self.generator)
            inside = float(np.linalg.norm(overlaps[:first]))
            self.used += 1
        self.stalled = self.single_error > 0 and not self._exactly and inside > length
        self._multiply(first)
        self.n_products += self.used - first
        self._solve()
        return length

    @property
    def threshold(self) -> float:
        """Largest residual of a pair that counts as converged."""
        wanted = float(np.abs(self.values[: self.k]).max())
        return max(self.tol * wanted, noise(self.dtype) * float(np.abs(self.values).max()))

    def _images_of(self, maps: Maps, rows: Array, coupled: Array | None) -> Array:
        """Images of new vectors, in the precision that their couplings with the basis (j, v) permit.

        See the head; None for the first vectors: the error of single products is measured there.
        """
        if maps.single is None or self._exactly:
            return maps.own(rows)
        if coupled is None:
            images = maps.own(rows)
            error = float(np.linalg.norm(maps.single(rows[:1])[0] - images[0]))
            self.single_error = max(self.single_error, error / (float(np.linalg.norm(images[0])) or 1.0))
            return images
        return (maps.single if self.permitted(self._share(self._with_ritz(coupled))) else maps.own)(rows)

    def sharpen(self, first: int) -> None:
        """Repeat the products with the rows from `first` on in the operator's own precision; from 0 on, for good."""
        self._exactly = True
        self._multiply(first)
        self._exactly, self.stalled = first == 0, False
        self.n_products += self.used - first
        self._solve()

    def permitted(self, share: float) -> bool:
        """Whether products may be single ones whose errors count so many times in a wanted pair."""
        largest = float(np.abs(self.values).max())
        return _SAFETY * self.single_error * share * largest <= self.threshold

    def _share(self, coupled: Array) -> float:
        """The largest share that new vectors may have in a wanted pair, by their couplings with Ritz vectors."""
        if len(self.values) <= self.k:
            return 1.0
        gaps = self.values[: self.k] - self.values[self.k]
        strongest = np.abs(coupled[: self.k]).max(axis=1)
        return float(np.divide(strongest, gaps, out=np.ones_like(gaps), where=strongest < gaps).max())

    basis: Array  # (width, n): orthonormal rows, the first `used` of them in use
    values: Array  # (used,): Ritz values in descending order

    def _multiply(self, first: int) -> None:
        """Products with the rows of the basis from `first` on."""
        raise NotImplementedError

    def _solve(self) -> None:
        """Ritz values of the basis."""
        raise NotImplementedError

    def _with_ritz(self, coupled: Array) -> Array:
        """Couplings with Ritz vectors (j, v), from those with the basis."""
        raise NotImplementedError

    def residual(self, index: int) -> Array:
        """Residual of a Ritz pair."""
        raise NotImplementedError

    def error(self, index: int, residual: Array) -> float:
        """Size of the residual of a Ritz pair, as it is compared with `threshold`."""
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
        """The k leading values (k,) and Ritz vectors (k, n), and what else the search has of them."""
        raise NotImplementedError


class SymmetricSearch(Search):
    """For the largest eigenvalues of a symmetric matrix, given by its map of vectors (v, n)."""

    def __init__(self, apply: Maps, size: int, k: int, tol: float, dtype: npt.DTypeLike, seed: int, name: str) -> None:
        super().__init__(size, k, tol, dtype, seed)
        self._apply = apply
        require_memory(2.0 * self.dtype.itemsize * size * (self.width + k), f"the Lanczos bases of {name}")
        self.basis, self._images = np.empty((2, self.width, size), self.dtype)
        self._matrix = np.zeros((self.width, self.width))

    def _multiply(self, first: int) -> None:
        new = slice(first, self.used)
        vectors = self.basis[new]
        coupled = np.stack([overlaps_with(self._images[:first], vector) for vector in vectors], axis=1)
        self._images[new] = self._images_of(self._apply, vectors, coupled if first else None)
        self._matrix[:first, new], self._matrix[new, :first] = coupled, coupled.T
        own = vectors @ self._images[new].T
        self._matrix[new, new] = (own + own.T) / 2

    def _solve(self) -> None:
        # By QR steps: LAPACK's divide and conquer can fail where eigenvalues are multiple.
        values, rotations = eigh(self._matrix[: self.used, : self.used], driver="ev", check_finite=False)
        self.values, self._rotations = values[::-1], np.ascontiguousarray(rotations[:, ::-1].T, self.dtype)

    def _with_ritz(self, coupled: Array) -> Array:
        return np.asarray(self._rotations @ coupled)

    def residual(self, index: int) -> Array:  # noqa: D102
        rotation = self._rotations[index]
        image = combination(rotation, self._images[: self.used])
        return combination(self.dtype.type(self.values[index]) * rotation, self.basis[: self.used], out=image)

    def image(self) -> Array:  # noqa: D102
        return np.asarray(self._images[self.used - 1])

    def projected(self, first: int) -> Array:  # noqa: D102
        return self._matrix[first : self.used, first : self.used]

    def restart(self, keep: int) -> None:  # noqa: D102
        rotations = self._rotations[:keep]
        for rows in (self.basis, self._images):
            rows[:keep] = combination(rotations, rows[: self.used])
        self._matrix[...] = 0.0
        self._matrix[range(keep), range(keep)] = self.values[:keep]
        self.used, self.values, self._rotations = keep, self.values[:keep], np.eye(keep, dtype=self.dtype)

    def pairs(self) -> tuple[Array, ...]:  # noqa: D102
        return self.values[: self.k].copy(), combination(self._rotations[: self.k], self.basis[: self.used])


class GramSearch(SymmetricSearch):
    """For the largest eigenvalues of ``B B^T``, B (m, n) with m >= n, given by its map of vectors and its transpose's.

    It works with ``B^T B`` on short vectors, and `pairs` gives its eigenvectors v. The residual of ``u = B v /
    lambda^(1/2)`` is ``B r / lambda^(1/2)``, r that of v; how long that is, the images of the last vectors of the basis
    foretell, as those were residuals too.
    """

    def error(self, index: int, residual: Array) -> float:  # noqa: D102
        length, value = super().error(index, residual), self.values[index]
        if length <= noise(self.dtype) * self.values[0]:  # rounding permits no better, and would be magnified
            return length
        last = np.diagonal(self._matrix)[max(self.used - 2, 0) : self.used].max()
        return length * float(np.sqrt(last / value))


class RectangularSearch(Search):
    """For the largest singular values of a matrix (m, n), m >= n, given by its map of vectors and its transpose's.

    `pairs` begins with the left vectors.
    """

    power = 2

    def __init__(
        self,
        apply: Maps,
        transpose: Maps,
        shape: tuple[int, int],
        k: int,
        tol: float,
        dtype: npt.DTypeLike,
        seed: int,
        name: str,
    ) -> None:
        rows, columns = shape
        super().__init__(columns, k, tol, dtype, seed)
        self.width = min(self.width, max(2 * k + 24, _LEFT_ENTRIES // rows))
        self._apply, self._transpose = apply, transpose
        entries = (self.width + k) * (2.0 * columns + rows)
        require_memory(entries * self.dtype.itemsize, f"the Lanczos bases of {name}")
        self.basis, self._images = np.empty((2, self.width, columns), self.dtype)
        self._left = np.empty((self.width, rows), self.dtype)
        self._largest = 0.0
        self._matrix = np.zeros((self.width, self.width))

    def _multiply(self, first: int) -> None:
        for column in range(first, self.used):
            overlaps = overlaps_with(self._images[:column], self.basis[column])
            # The rows of the basis since `first` have no place among the Ritz vectors yet.
            coupled = overlaps[:first, None] if first else None
            image = self._images_of(self._apply, self.basis[column : column + 1], coupled)
            self._append_left(column, image[0], overlaps)
            self._images[column] = self._images_of(self._transpose, self._left[column : column + 1], coupled)[0]

    def _with_ritz(self, coupled: Array) -> Array:
        return np.asarray(self._left_rotations @ coupled)

    def _append_left(self, column: int, image: Array, overlaps: Array) -> None:
        """Make the image of a row of the basis orthonormal to the left vectors, and note the triangle's column.

        ``u_i . B v = (B^T u_i) . v`` is a product of short vectors, and nearly all of these are zero in a Krylov space:
        left vectors need not be made orthogonal anew as long as the basis is orthonormal and the triangle is well
        conditioned (Simon and Zha, SIAM J. Sci. Comput. 21, 2000).
        """
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
        image = combination(self._left_rotations[index], self._images[: self.used])
        return combination(scaled, self.basis[: self.used], out=image)

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
            rows[:keep] = combination(rotations[:keep], rows[: self.used])
        self._matrix[...] = 0.0
        self._matrix[range(keep), range(keep)] = self.values[:keep]
        self.used, self.values = keep, self.values[:keep]
        self._rotations = self._left_rotations = np.eye(keep, dtype=self.dtype)

    def pairs(self) -> tuple[Array, ...]:  # noqa: D102
        left = combination(self._left_rotations[: self.k], self._left[: self.used])
        return left, self.values[: self.k].copy(), combination(self._rotations[: self.k], self.basis[: self.used])
