"""Ratios of traces of products of operators from random vectors: shared probes, a deflated range, true intervals.

Inner products of matrices are means over white vectors g (mean zero, covariance I): ``<A, C>_F = E (A g).(C g)``.
Where a few modes dominate, most of the noise comes from these; so a range Q (rows orthonormal) in which the operators
are large is found first, and random vectors serve the rest only (Meyer, Musco, Musco and Woodruff, *Hutch++*, SOSA
2021):

    <A, C>_F = <A Q^T, C Q^T>_F + E (A v).(C v),    v white in the orthogonal complement of Q.

Only the direction of v is random, its length is the root of the dimension n. Given Q the terms are independent and
unbiased, and the first part is exact.

**Bias.** A smooth function of several such means has a bias of order 1/p in the number p of vectors v, which the
jackknife reduces to 1/p^2 (Efron and Stein, Ann. Stat. 1981); of positive quantities it is taken on the logarithmic
scale.

**Errors.** To first order the error of a function f of means of quadratic forms ``v.A_m v`` is that of the mean of
``v.M v``, ``M = sum_m (df/dm) A_m`` made symmetric. The images that are there already give ``v_i.M v_j`` for all pairs,
and with them variance, degrees of freedom and skewness, see `kpref.spectra.quadratic_forms`. What is beyond first order
is in the jackknife's error, which is stated where it is larger. A mean over *pairs* of vectors has more: see
`without_excess`. A positive quantity is
``exp(f)``, f its logarithm: where f has the deviation sigma, that adds 3 sigma to the skewness, to first order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._types import Array
from kpref.spectra.bases import append_orthonormal
from kpref.spectra.estimate import Estimate
from kpref.spectra.quadratic_forms import MOST_SKEWED, Mean, mean_of_forms
from kpref.spectra.rows import combination, inner_products

__all__ = [
    "DENSE_SIZE",
    "beyond_first_order",
    "directions",
    "estimate_of",
    "exponential",
    "in_batches",
    "jackknife",
    "krylov_range",
    "pair_residuals",
    "product_of_means",
    "require_settled",
    "rounding",
    "second_order",
    "without_excess",
]

Map = Callable[[Array], Array]

#: Up to this size operators are made matrices, and there is nothing to estimate.
DENSE_SIZE = 400
#: Bytes of vectors that an operator is applied to at once: memory of that size is kept by the C library when it is
#: freed, and need not be asked from the system anew for each product.
_BATCH_BYTES = 1 << 24


def krylov_range(product: Map, size: int, count: int, dtype: npt.DTypeLike, seed: Any) -> tuple[Array, Array]:
    """Orthonormal rows of the Krylov space of a symmetric matrix from a random vector, and their images.

    `product`: on rows (v, n). `size`, `count`: n, and the number of rows, each of which takes one product.
    """
    generator = np.random.default_rng(seed)
    basis, images = np.empty((2, count, size), dtype)
    vector = generator.standard_normal(size).astype(dtype)
    for index in range(count):
        append_orthonormal(basis, index, vector, generator)
        vector = images[index] = product(basis[index : index + 1])[0]
    return basis, images


def directions(generator: np.random.Generator, count: int, known: Array) -> Array:
    """White vectors (count, n) of length sqrt(n - k) in the orthogonal complement of k orthonormal rows (k, n)."""
    size, dtype = known.shape[1], known.dtype
    vectors = generator.standard_normal((count, size), dtype=dtype.type)
    for _ in range(2):  # once more, for what rounding left of the first time
        combination(inner_products(vectors, known).astype(dtype), known, out=vectors)
    squares = np.diagonal(inner_products(vectors))[:, None]
    vectors *= np.sqrt((size - len(known)) / squares).astype(dtype)
    return vectors


def in_batches(product: Map, vectors: Array) -> Array:
    """Images of rows, so many of them at once that an operator's own memory stays small."""
    width = max(1, _BATCH_BYTES // (vectors.shape[1] * vectors.itemsize))
    starts = range(0, len(vectors), width)
    first = product(vectors[:width])
    images = np.empty((len(vectors), *first.shape[1:]), first.dtype)
    for start in starts:
        images[start : start + width] = product(vectors[start : start + width]) if start else first
    return images


def product_of_means(
    known: npt.ArrayLike, pairs: Array, powers: npt.ArrayLike, overlaps: Array, size: int, positive: bool = True
) -> Mean:
    """A product of powers of means, with its bias of first order removed, and what its interval follows from.

    Of ``prod_m (known_m + E v.A_m v)^power_m``, v being directions in `size` dimensions; see the module's docstring.

    `known`: shape (m,); what is exact of each mean. `pairs`: shape (m, p, p); ``v_i.A_m v_j`` for the p vectors.
    `powers`: shape (m,). `overlaps`: shape (p, p); ``v_i.v_j``. `positive`: whether the product is positive, so
    that its logarithm is closer to a mean.
    """
    exact, exponents, count = np.asarray(known, float), np.asarray(powers, float), pairs.shape[1]
    samples = exact + np.diagonal(pairs, axis1=1, axis2=2).T  # (p, m)
    means = samples.mean(axis=0)

    def statistic(values: Array) -> Array:
        if positive:
            return np.asarray(np.log(values) @ exponents)
        return np.asarray(np.prod(values**exponents, axis=-1))

    value, error = jackknife(statistic(means), statistic((count * means - samples) / (count - 1)))
    if positive:
        slopes = exponents / means
    else:  # by the product rule: a mean of power 1 may be zero
        slopes = exponents * np.prod(means ** (exponents - np.eye(len(means))), axis=1)
    spread = mean_of_forms(np.tensordot(slopes, pairs, 1), overlaps, size, positive=False)
    if positive:
        return exponential(value, beyond_first_order(spread, error, count))
    spread = _curved(spread, slopes, _curvature(means, exponents), pairs, overlaps / size)
    return beyond_first_order(spread, error, count)._replace(value=float(value))


def _curvature(means: Array, powers: Array) -> Array:
    """Second derivatives of ``prod_m means_m^powers_m``; a mean of power 1 may be zero."""
    units = np.eye(len(means))
    factors = np.outer(powers, powers) - np.diag(powers)
    lowered = powers - units[:, None] - units
    return np.asarray(np.prod(np.where(factors[..., None] == 0, 1.0, means) ** lowered, axis=2) * factors)


def _curved(spread: Mean, slopes: Array, curvature: Array, pairs: Array, shares: Array) -> Mean:
    """With the skewness that a function has beyond that of its linear part, to first order.

    With the covariance C of the means, slopes g and second derivatives H, it is ``3 g.C H C g / (g.C g)^(3/2)``. All
    pairs of vectors tell C as they do the variance in `kpref.spectra.quadratic_forms`. (For a sample correlation r of p
    pairs the linear part has none, and all of it, ``-6 r / p^(1/2)``, is of this kind; so has tanh of Fisher's z.)
    """
    count = pairs.shape[1]
    rest = (pairs + pairs.swapaxes(1, 2)) / 2
    rest -= np.trace(rest, axis1=1, axis2=2)[:, None, None] / count * shares
    along = 2 * np.tensordot(rest, np.tensordot(slopes, rest, 1), 2) / ((count - 1) * (count + 2) * count)  # C g
    variance = float(along @ slopes)
    if variance <= 0:
        return spread
    skewness = spread.skewness + 3 * float(along @ curvature @ along) / variance**1.5
    return spread._replace(skewness=float(np.clip(skewness, -MOST_SKEWED, MOST_SKEWED)))


def beyond_first_order(spread: Mean, error: float, count: int) -> Mean:
    """With the jackknife's error where it is larger, and no more degrees of freedom than it has.

    The slopes are those at the means that were found, which as many vectors have moved.
    """
    return spread._replace(
        standard_error=max(spread.standard_error, error), degrees=min(spread.degrees, float(count - 1))
    )


def exponential(logarithm: float, spread: Mean) -> Mean:
    """A quantity whose logarithm has the error of `spread`."""
    value = float(np.exp(logarithm))
    skewness = float(np.clip(spread.skewness + 3 * spread.standard_error, -MOST_SKEWED, MOST_SKEWED))
    return Mean(value, spread.standard_error * value, spread.degrees, skewness)


def jackknife(value: Any, without: Array) -> tuple[Any, Any]:
    """A statistic less its bias of first order, and its standard error.

    `value`: of all p samples. `without`: shape (p, ...); without each of them.
    """
    count, mean = len(without), without.mean(axis=0)
    corrected = count * value - (count - 1) * mean
    error = np.sqrt((count - 1) / count * np.square(without - mean).sum(axis=0))
    return (float(corrected), float(error)) if np.ndim(corrected) == 0 else (corrected, error)


def pair_residuals(pairs: Array) -> Array:
    """What is left of h_ij, (p, p) and symmetric with zeros on the diagonal, without the effects of i and of j."""
    count, own = len(pairs), pairs.sum(axis=1)
    left = pairs - (own[:, None] + own) / (count - 2) + own.sum() / ((count - 1) * (count - 2))
    np.fill_diagonal(left, 0.0)
    return np.asarray(left)


def without_excess(error: float, residuals: Array) -> float:
    """Standard error of a mean over pairs from the jackknife's, or the like, which counts the second order twice.

    What is left of the pairs (Hoeffding, Ann. Math. Stat. 19, 1948), of variance sigma^2, adds ``V = 2 sigma^2 /
    (p (p - 1))`` to the variance of their mean, and 2 V to the jackknife's (Efron and Stein, 1981). So V is taken off.
    It is also the least that the variance can be: where nothing is of first order, the pairs tell V far better.
    """
    second = second_order(residuals)
    return max(error**2 - second, second) ** 0.5


def second_order(residuals: Array) -> float:
    """V of `without_excess`, with ``p (p - 3) / 2`` degrees of freedom."""
    count = len(residuals)
    return 2 * float(np.vdot(residuals, residuals)) / (count * (count - 3)) / (count * (count - 1))


def estimate_of(
    mean: Mean, rounding: float, products: int, method: str, least: float = -np.inf, most: float = np.inf
) -> Estimate:
    """As an `Estimate`, with what rounding leaves where chance has no part any more, and nothing outside the bounds."""
    value, error, degrees, skewness = mean
    value = min(max(value, least), most)
    if error <= rounding:
        return Estimate(value, rounding, products, method, least=least, most=most)
    return Estimate(value, error, products, method, degrees=degrees, skewness=skewness, least=least, most=most)


def rounding(dtype: npt.DTypeLike, size: int) -> float:
    """Relative error that rounding leaves in sums over `size` entries."""
    return 8 * float(np.finfo(dtype).eps) * size**0.5


def require_settled(estimate: Estimate, what: str) -> Estimate:
    """The estimate of a positive quantity, unless its interval reaches further than by a factor of e on either side.

    Raises RuntimeError, which says about how many products would be enough.
    """
    low, high = estimate.interval(0.95)
    if high <= np.e * estimate.value and low >= estimate.value / np.e:
        return estimate
    raise RuntimeError(
        f"{estimate.n_products} products are too few to tell {what}: with 95 % probability it is between {low:.3g} and "
        f"{high:.3g}; for 5 % accuracy take about {estimate.products_for(0.05):,} products (probes=...)"
    )
