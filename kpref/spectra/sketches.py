"""Leave-one-out estimators from a random sketch, in closed form, and how far to trust them.

Let S be a square matrix of size n, g_1 ... g_k normal vectors, W = [g_1 ... g_k]. A sketch of all vectors but g_i gives
a low-rank approximation of S that does not know g_i; g_i serves to estimate what that approximation leaves out. The
mean over i of these k unbiased estimates is XTrace, or XNysTrace (Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl.
45, 2024). All k come out of one factorisation, as leaving out a column changes a projection by one direction:

**Range sketch.** S W = Q R. The columns of S W but the i-th span what in the range of Q is orthogonal to a unit vector
Q s_i, and Q s_i is orthogonal to Q R e_j for j != i: s_i is row i of R^-1, normalised. So P_i = Q (I - s_i s_i^T) Q^T,
and g_i has the coordinates u_i = (I - s_i s_i^T) Q^T g_i there. With v_i = g_i - Q u_i, H = Q^T S Q, Z = S Q,

    tr S     ~ tr H - s_i.H s_i + c_i v_i.S v_i,             v_i.S v_i = g_i.S g_i - Z^T g_i.u_i - u_i.R e_i + u_i.H u_i
    |S|_F^2  ~ |Z|_F^2 - |Z s_i|^2 + c_i |S v_i|^2,          S v_i = Q R e_i - Z u_i.

**Nystroem sketch**, S symmetric and positive: Y = S W, W^T Y = C^T C, F = Y C^-1; F F^T is the Nystroem approximation.
It agrees with S on the span of W. To leave g_i out subtracts F s_i s_i^T F^T, with s_i row i of C^-1 normalised, and

    tr S     ~ |F|_F^2 - |F s_i|^2 + c_i / |C^-T e_i|^2 .

**Directions only.** v_i, or here the part of g_i orthogonal to the other g_j, is normal in a space of m = n - k + 1
dimensions that does not depend on its length. With c_i = m / |v_i|^2 only its direction counts, which removes the
noise of the length (the paper's normalisation). The estimates do not depend on the lengths of the g_i at all.

For their standard error see `kpref.spectra.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "RangeSketch",
    "extend_range",
    "frobenius_samples",
    "nystrom_samples",
    "nystrom_values",
    "range_samples",
    "range_total",
    "range_values",
]

Array = npt.NDArray[Any]
Product = Callable[[Array], Array]


class RangeSketch(NamedTuple):
    """Rows are vectors: probes g_i, orthonormal basis q_j, (..., k, n); images S q_j; R (..., k, k)."""

    probes: Array
    basis: Array
    images: Array
    triangle: Array


def extend_range(product: Product, probes: Array, known: RangeSketch | None = None) -> RangeSketch:
    """Range sketch with further probes (..., k, n); costs two products for each.

    Parameters
    ----------
    product : callable
        S on rows.
    probes : ndarray, shape (..., k, n)
    known : RangeSketch, optional
        An earlier sketch, whose products are reused.
    """
    fresh = product(probes)
    if known is None:
        basis, triangle = _orthonormal(fresh)
        return RangeSketch(probes, basis, product(basis), triangle)
    # Householder reflections of the old basis and the new vectors together: the new directions are orthogonal to the
    # old ones even where the range is exhausted. The old ones come back with signs.
    count = len(known.basis)
    both, factor = _orthonormal(np.concatenate([known.basis, fresh]))
    basis, corner = both[count:], np.diagonal(factor)[:count, None] * factor[:count, count:]
    empty = np.zeros(_t(corner).shape)
    triangle = np.block([[known.triangle, corner], [empty, factor[count:, count:]]])
    return RangeSketch(
        np.concatenate([known.probes, probes]),
        np.concatenate([known.basis, basis]),
        np.concatenate([known.images, product(basis)]),
        triangle,
    )


def range_samples(sketch: RangeSketch, size: int) -> Array:
    """The k estimates of tr S (..., k) in a space of `size` dimensions; O(n k^2)."""
    core, crossed = sketch.basis @ _t(sketch.images), sketch.probes @ _t(sketch.images)
    left_out, inside, factor = _left_out(sketch, size)
    right = _t(sketch.triangle)
    along = _dots(sketch.probes @ _t(sketch.basis), right)
    rest = along - _dots(crossed, inside) - _dots(inside, right) + _dots(inside @ core, inside)
    return _trace(core) - _dots(left_out @ core, left_out) + factor * rest


def frobenius_samples(sketch: RangeSketch, size: int) -> Array:
    """The k estimates of |S|_F^2 (..., k); O(n k^2)."""
    _, basis, images, triangle = sketch
    gram = images @ _t(images)
    left_out, inside, factor = _left_out(sketch, size)
    mixed = _t(triangle) @ (basis @ _t(images))
    rest = np.square(triangle).sum(-2) - 2 * _dots(inside, mixed) + _dots(inside @ gram, inside)
    return _trace(gram) - _dots(left_out @ gram, left_out) + factor * rest


def range_values(sketch: RangeSketch) -> Array:
    """Singular values of S Q (..., k), descending: of those of S, the part that is seen."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(sketch.images @ _t(sketch.images))[..., ::-1], 0.0))


def range_total(sketch: RangeSketch, size: int, positive: bool) -> float:
    """Estimate of the sum of the singular values of S; the trace of a positive S.

    Of others, to the values seen is added a geometric sequence that starts at the last of them and has the sum of
    squares that S Q leaves of |S|_F^2.
    """
    if positive:
        return float(range_samples(sketch, size).mean())
    seen = range_values(sketch)
    rest = max(float(frobenius_samples(sketch, size).mean() - np.square(seen).sum()), 0.0)
    ratio = np.sqrt(rest / (seen[-1] ** 2 + rest)) if rest > 0 else 0.0
    flat = np.sqrt(rest * (size - len(seen)))  # the largest sum that values with this sum of squares can have
    return float(seen.sum() + (min(seen[-1] * ratio / (1 - ratio), flat) if ratio < 1 else flat))


def nystrom_samples(probes: Array, images: Array, size: int, eps: float = 2.0**-52) -> Array:
    """The k estimates of tr S (..., k); O(n k^2).

    Parameters
    ----------
    probes, images : ndarray, shape (..., k, n)
        g_i and S g_i.
    size : int
        Dimension of the space.
    eps : float
        Unit of rounding of the products.

    Raises
    ------
    numpy.linalg.LinAlgError
        If S is not positive.
    """
    inverse, gram, shift = _nystrom(probes, images, size, eps)
    squares = _dots(inverse, inverse)
    left_out = inverse / np.sqrt(squares)[..., None]
    lengths = 1 / np.diagonal(np.linalg.inv(probes @ _t(probes)), axis1=-2, axis2=-1)
    rest = (size - probes.shape[-2] + 1) / (lengths * squares)
    return _trace(gram) - _dots(left_out @ gram, left_out) + rest - size * shift[..., 0]


def nystrom_values(probes: Array, images: Array, size: int, eps: float = 2.0**-52) -> Array:
    """Eigenvalues of the Nystroem approximation (..., k), descending."""
    _, gram, shift = _nystrom(probes, images, size, eps)
    return np.linalg.eigvalsh(gram)[..., ::-1] - shift[..., 0]


def _nystrom(probes: Array, images: Array, size: int, eps: float) -> tuple[Array, Array, Array]:
    """C^-1, F^T F, and the shift (..., 1, 1).

    ``S + shift I`` is sketched: it keeps rounding from making W^T S W indefinite. The shift's trace is known, and what
    it adds to the error is of the order of rounding.
    """
    length = np.sqrt(np.square(probes).sum((-2, -1), keepdims=True) / size)
    norm = np.sqrt(np.square(images).sum((-2, -1), keepdims=True)) / length  # about |S|_F
    shift = 10 * eps * np.where(norm > 0, norm, 1.0)
    shifted = images + shift * probes
    core = probes @ _t(shifted)
    inverse = np.linalg.inv(_t(np.linalg.cholesky((core + _t(core)) / 2)))
    factor = _t(inverse) @ shifted
    return inverse, factor @ _t(factor), shift


def _left_out(sketch: RangeSketch, size: int) -> tuple[Array, Array, Array]:
    """Rows s_i and u_i (..., k, k), and c_i (..., k)."""
    probes, basis, _, triangle = sketch
    count = triangle.shape[-1]
    diagonal = np.abs(np.diagonal(triangle, axis1=-2, axis2=-1))
    # A range smaller than k leaves zeros on the diagonal; any direction outside it may stand for those.
    least = np.finfo(float).eps * diagonal.max(-1, keepdims=True)
    regular = triangle + np.eye(count) * np.where(diagonal <= least, np.where(least > 0, least, 1.0), 0.0)[..., None, :]
    inverse = np.linalg.inv(regular)
    left_out = inverse / np.sqrt(_dots(inverse, inverse))[..., None]
    coordinates = probes @ _t(basis)
    inside = coordinates - left_out * _dots(left_out, coordinates)[..., None]
    return left_out, inside, (size - count + 1) / (_dots(probes, probes) - _dots(inside, inside))


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """Orthonormal rows of the same span, and the triangle: ``rows^T = basis^T triangle``."""
    columns, triangle = np.linalg.qr(_t(rows))
    return _t(columns), triangle


def _t(matrix: Array) -> Array:
    return matrix.swapaxes(-1, -2)


def _dots(left: Array, right: Array) -> Array:
    return np.asarray((left * right).sum(-1))


def _trace(matrix: Array) -> Array:
    return np.trace(matrix, axis1=-2, axis2=-1)[..., None]
