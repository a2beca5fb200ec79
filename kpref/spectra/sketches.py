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

**Gram sketch**, S = F F^T: with Th = F^T Q, H is Th^T Th, and Z^T g_i = R e_i. A range sketch then takes a product with
F^T for each q_j, half of one with S; and other vectors t cost as much, which see what all of Q leaves out,

    tr S     ~ tr H + (n - k) |F^T t - Th Q^T t|^2 / |t - Q Q^T t|^2 .

With k of them, the cost is that of the range sketch, and twice as many vectors share in the mean.

**Nystroem sketch**, S symmetric and positive: Y = S W, W^T Y = C^T C, F = Y C^-1; F F^T is the Nystroem approximation.
It agrees with S on the span of W. To leave g_i out subtracts F s_i s_i^T F^T, with s_i row i of C^-1 normalised, and

    tr S     ~ |F|_F^2 - |F s_i|^2 + c_i / |C^-T e_i|^2 .

**Directions only.** v_i, or here the part of g_i orthogonal to the other g_j, is normal in a space of m = n - k + 1
dimensions that does not depend on its length. With c_i = m / |v_i|^2 only its direction counts, which removes the
noise of the length (the paper's normalisation). The estimates do not depend on the lengths of the g_i at all.

**Standard error.** The k estimates share most of their vectors and are correlated: their scatter over k^(1/2) is 0.4 to
0.9 of the standard deviation of their mean. Normal vectors look the same in every orthonormal basis, so for symmetric S
the joint distribution depends on the spectrum of S alone, and can be simulated with a diagonal matrix: a parametric
bootstrap. The spectrum is that whose sketches look like the observed one: the larger values that the sketch shows
(`LeaveOneOut.head`), each divided by its mean bias in simulated sketches, and beyond them a geometric tail with the sum
that the estimate itself demands. The ratio of deviation to scatter hardly depends on details of the spectrum; it turns
the observed scatter into the standard error (`standard_error`). Operators that are not symmetric are modelled by their
singular values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

__all__ = [
    "GRAM_TRACE",
    "NYSTROM",
    "RANGE_FROBENIUS",
    "RANGE_TRACE",
    "LeaveOneOut",
    "RangeSketch",
    "extend_range",
    "frobenius_samples",
    "gram_samples",
    "gram_values",
    "nystrom_samples",
    "nystrom_values",
    "range_samples",
    "range_total",
    "range_values",
    "standard_error",
]

Array = npt.NDArray[Any]
Product = Callable[[Array], Array]
Spectrum = list[tuple[float, int]]  # values and their multiplicities
Simulated = Callable[[Product, Array, int], Array]

_SIMULATIONS = 100  # of the estimator: the standard deviation to 7 %
_MATCHING = (3, 12)  # rounds of matching the spectrum to the sketch, and sketches simulated in each
_ROWS = 4  # a spectrum of more than this many times k values is compressed
_PANEL = 1 << 22  # numbers in the vectors that are simulated at once


class RangeSketch(NamedTuple):
    """Rows are vectors: probes g_i, orthonormal basis q_j, (..., k, n); images S q_j or F^T q_j; R (..., k, k)."""

    probes: Array
    basis: Array
    images: Array
    triangle: Array


def extend_range(
    product: Product, probes: Array, known: RangeSketch | None = None, half: Product | None = None
) -> RangeSketch:
    """Range sketch with further probes (..., k, n); costs two products for each.

    Parameters
    ----------
    product : callable
        S on rows.
    probes : ndarray, shape (..., k, n)
    known : RangeSketch, optional
        An earlier sketch, whose products are reused.
    half : callable, optional
        F^T on rows, for a Gram sketch.
    """
    fresh, second = product(probes), half or product
    if known is None:
        basis, triangle = _orthonormal(fresh)
        return RangeSketch(probes, basis, second(basis), triangle)
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
        np.concatenate([known.images, second(basis)]),
        triangle,
    )


def range_samples(sketch: RangeSketch, size: int) -> Array:
    """The k estimates of tr S (..., k) in a space of `size` dimensions; O(n k^2)."""
    return _trace_samples(sketch, sketch.basis @ _t(sketch.images), sketch.probes @ _t(sketch.images), size)


def gram_samples(sketch: RangeSketch, tests: Array, halves: Array, size: int) -> Array:
    """The k estimates of tr S (..., k + t) of a Gram sketch, and those of t other vectors; O(n k (k + t)).

    Parameters
    ----------
    sketch : RangeSketch
    tests, halves : ndarray, shape (..., t, n) and (..., t, m)
        The other vectors and F^T of them.
    size : int
        Dimension of the space.
    """
    core = sketch.images @ _t(sketch.images)
    left_out = _trace_samples(sketch, core, _t(sketch.triangle), size)
    inside = tests @ _t(sketch.basis)
    rest, image = tests - inside @ sketch.basis, halves - inside @ sketch.images
    others = _trace(core) + (size - core.shape[-1]) * _dots(image, image) / _dots(rest, rest)
    return np.concatenate([left_out, others], axis=-1)


def gram_values(sketch: RangeSketch) -> Array:
    """Ritz values of S (..., k), descending."""
    return np.square(np.linalg.svd(sketch.images, compute_uv=False))


def _trace_samples(sketch: RangeSketch, core: Array, crossed: Array, size: int) -> Array:
    """Leave-one-out estimates of tr S from H and Z^T g_i, the rows of `crossed`."""
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


# The standard error


@dataclass(frozen=True)
class LeaveOneOut:
    """An estimator, as the bootstrap sees it.

    Attributes
    ----------
    samples, seen : callable
        From a product, probes (v, k, m) and the dimension: the estimates (v, k); and the spectrum that the sketch shows
        (v, k), descending.
    head : float
        Fraction of the k values that are taken from the sketch: the last ones say little.
    """

    samples: Simulated
    seen: Simulated
    head: float


NYSTROM = LeaveOneOut(
    lambda product, probes, size: nystrom_samples(probes, product(probes), size),
    lambda product, probes, size: nystrom_values(probes, product(probes), size),
    head=0.6,
)
RANGE_TRACE = LeaveOneOut(
    lambda product, probes, size: range_samples(extend_range(product, probes), size),
    lambda product, probes, size: range_values(extend_range(product, probes)),
    head=0.75,
)


def _simulated_gram(product: Product, probes: Array, size: int) -> Array:
    """Half of the probes make the sketch; the matrix is diagonal, and so is its root."""
    root = np.sqrt(product(np.ones(probes.shape[-1])))
    first, tests = np.split(probes, [probes.shape[-2] // 2], axis=-2)
    return gram_samples(extend_range(product, first, half=lambda rows: rows * root), tests, tests * root, size)


GRAM_TRACE = LeaveOneOut(
    _simulated_gram,
    lambda product, probes, size: range_values(extend_range(product, probes)),
    head=0.75,
)
RANGE_FROBENIUS = replace(RANGE_TRACE, samples=lambda p, probes, size: frobenius_samples(extend_range(p, probes), size))


def standard_error(method: LeaveOneOut, samples: Array, seen: Array, total: float, size: int, seed: int) -> float:
    """Standard deviation of the mean of k leave-one-out estimates, by parametric bootstrap.

    Parameters
    ----------
    method : LeaveOneOut
    samples : ndarray, shape (k,)
        The estimates.
    seen : ndarray, shape (k,)
        The spectrum that the sketch shows, descending.
    total : float
        Estimate of the sum of the whole spectrum.
    size : int
        Dimension n of the space.
    seed : int
        Of the simulations.

    Notes
    -----
    O(k^3) for each of about a hundred simulations, whatever n is.
    """
    count = len(samples)
    scatter = float(np.std(samples, ddof=1)) / count**0.5
    if scatter == 0.0 or not total > 0.0:
        return scatter
    generator = np.random.default_rng([seed, 2])
    spectrum = _matched(method, seen, total, size, generator)
    simulated = _simulate(method.samples, spectrum, count, size, _SIMULATIONS, generator)
    deviation = np.std(simulated.mean(1), ddof=1)
    expected = np.sqrt(simulated.var(1, ddof=1).mean() / count)
    return scatter if expected == 0.0 else float(scatter * deviation / expected)


def _matched(method: LeaveOneOut, seen: Array, total: float, size: int, generator: np.random.Generator) -> Spectrum:
    """Spectrum, as values with multiplicities, whose sketches show what was seen.

    What a sketch shows lies below the truth, the more so the later in the order; each value is divided by the factor
    between the mean logarithm of what simulated sketches show and the value that they were given.
    """
    least = 1e-14 * max(float(seen[0]), total / size)
    seen = np.maximum(seen, least)
    spectrum = _completed(seen[: max(1, len(seen) // 2)], total, size, len(seen))
    rounds, simulations = _MATCHING
    for _ in range(rounds):
        shown = _simulate(method.seen, spectrum, len(seen), size, simulations, generator)
        given = np.repeat([value for value, _ in spectrum], [min(times, len(seen)) for _, times in spectrum])
        bias = np.exp(np.log(np.maximum(shown, least)).mean(0)) / np.maximum(given[: len(seen)], least)
        head = np.minimum.accumulate(seen / bias)[: max(1, int(np.ceil(method.head * len(seen))))]
        spectrum = _completed(head, total, size, len(seen))
    return spectrum


def _simulate(
    task: Simulated, spectrum: Spectrum, count: int, size: int, simulations: int, generator: np.random.Generator
) -> Array:
    """What an estimator finds on a diagonal matrix (simulations, k).

    Everything depends on inner products of probes alone. So the m coordinates of k normal vectors that belong to one
    multiple value can be replaced by the k x k triangle with the same distribution of inner products (Bartlett, 1933).
    """
    rows = [min(times, count) for _, times in spectrum]
    values = np.repeat([max(value, 0.0) for value, _ in spectrum], rows)
    chunk = max(1, _PANEL // (count * len(values)))
    parts = []
    for start in range(0, simulations, chunk):
        probes = generator.standard_normal((min(chunk, simulations - start), count, len(values)))
        column = 0
        for (_, times), width in zip(spectrum, rows, strict=True):
            if times > count:
                block = probes[..., column : column + width]
                block *= np.tri(count, k=-1)
                block[:, range(count), range(count)] = np.sqrt(
                    generator.chisquare(times - np.arange(count), size=(len(probes), count))
                )
            column += width
        parts.append(task(lambda vectors: vectors * values, probes, size))
    return np.concatenate(parts)


def _completed(head: Array, total: float, size: int, count: int) -> Spectrum:
    """A spectrum of `size` values as (value, multiplicity): the head, and a geometric tail with the rest of the sum.

    Of a long tail the first k values stay, the others are merged to three of about equal sums.
    """
    number = len(head)
    while number > 1 and head[:number].sum() >= total:
        number -= 1
    first, rest, missing = float(head[number - 1]), max(total - float(head[:number].sum()), 0.0), size - number
    if missing == 0:
        return [(float(value), 1) for value in head]
    if rest >= first * missing:
        first, rate = rest / missing, 0.0
    else:
        rate = _rate(rest / first, missing) if rest > 0 else np.inf
    single = missing if size <= _ROWS * count else min(count, missing)
    values = [float(value) for value in head[:number]]
    values += [float(first * np.exp(-rate * j)) if np.isfinite(rate) else 0.0 for j in range(1, single + 1)]
    spectrum = [(value, 1) for value in values]
    for start, stop in _levels(single, missing, rate):
        spectrum.append((_partial(first, rate, start, stop) / (stop - start), stop - start))
    return spectrum


def _rate(ratio: float, number: int) -> float:
    """r with ``sum over j = 1 ... number of exp(-r j) = ratio``, for 0 < ratio < number."""
    return float(brentq(lambda r: _partial(1.0, r, 0, number) - ratio, 0.0, np.log1p(1 / ratio) + 1.0))


def _partial(first: float, rate: float, start: int, stop: int) -> float:
    """Sum of ``first exp(-rate j)`` over start < j <= stop."""
    if rate == 0.0:
        return first * (stop - start)
    if not np.isfinite(rate):
        return 0.0
    return float(first * np.exp(-rate * start) * -np.expm1(-rate * (stop - start)) / np.expm1(rate))


def _levels(start: int, stop: int, rate: float) -> list[tuple[int, int]]:
    """Cut the tail values start < j <= stop into at most three runs of about equal sums."""
    if start == stop:
        return []
    if rate == 0.0 or not np.isfinite(rate):
        return [(start, stop)]
    shares = np.arange(1, 3) / 3 * -np.expm1(-rate * (stop - start))
    cuts = start - np.log1p(-shares) / rate
    bounds = np.unique([start, *np.clip(np.rint(cuts), start, stop).astype(int), stop])
    return [(int(low), int(high)) for low, high in zip(bounds, bounds[1:], strict=False)]
