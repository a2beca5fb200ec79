"""Ratios of traces of products of operators from random vectors: shared probes, a deflated range, the jackknife.

Inner products of matrices are means over white vectors g (mean zero, covariance I): ``<A, C>_F = E (A g).(C g)``.
Where a few modes dominate, most of the noise comes from these; so a range Q (rows orthonormal) in which the operators
are large is found first, and random vectors serve the rest only (Meyer, Musco, Musco and Woodruff, *Hutch++*, SOSA
2021):

    <A, C>_F = <A Q^T, C Q^T>_F + E (A v).(C v),    v white in the orthogonal complement of Q.

Only the direction of v is random, its length is the root of the dimension. Given Q the terms are independent and
unbiased, and the first part is exact. A smooth function of several such means has a bias of order 1/p in the number p
of vectors v, which the jackknife reduces to 1/p^2, and the jackknife gives its standard error (Efron and Stein, Ann.
Stat. 1981).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DENSE_SIZE", "check_probes", "directions", "jackknife", "orthonormal_rows", "split"]

Array = npt.NDArray[Any]

#: Up to this size operators are made matrices, and there is nothing to estimate.
DENSE_SIZE = 400


def check_probes(probes: int, least: int) -> int:
    """A number of products of at least `least`, or ValueError."""
    if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < least:
        raise ValueError(f"probes must be an integer of at least {least}; got {probes!r}")
    return int(probes)


def split(probes: int) -> tuple[int, int]:
    """Vectors of the range, each of which takes two products, and random vectors for the rest."""
    return probes // 3, probes - 2 * (probes // 3)


def orthonormal_rows(rows: Array) -> Array:
    """As many orthonormal rows, of a span that contains that of `rows`."""
    return np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)


def directions(generator: np.random.Generator, count: int, known: Array) -> Array:
    """White vectors (count, n) of length sqrt(n - k) in the orthogonal complement of k orthonormal rows (k, n)."""
    size = known.shape[1]
    vectors = generator.standard_normal((count, size)).astype(known.dtype)
    for _ in range(2):  # once more, for what rounding left of the first time
        vectors -= (vectors @ known.T) @ known
    vectors *= np.sqrt((size - len(known)) / np.square(vectors).sum(axis=1, keepdims=True))
    return vectors


def jackknife(statistic: Callable[[Array], Any], samples: Array) -> tuple[float, float]:
    """A function of means, with its bias of first order removed, and its standard error.

    Parameters
    ----------
    statistic : callable
        From means (..., k) to values (...).
    samples : ndarray, shape (p, k)
        Independent, p > 1.
    """
    count, total = len(samples), samples.sum(axis=0)
    left_out = statistic((total - samples) / (count - 1))
    value = count * statistic(total / count) - (count - 1) * left_out.mean()
    return float(value), float(np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum()))
