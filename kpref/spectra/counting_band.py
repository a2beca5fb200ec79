r"""How many of n equal parts a fraction of the whole may be, if the parts are random.

The spectral measure of a normal vector g gives the j-th eigenvector the weight ``(g.q_j)^2``: of p such vectors
together it is chi-square with p degrees, independent of all others and the same for every matrix. The k largest
eigenvalues so have the share

    s_k = S_k / S_n ~ Beta(k p / 2, (n - k) p / 2),      S_k the sum of the first k of n independent chi-squares,

of all weight, and *the walk s_0, ..., s_n has one law*, whatever the spectrum. A band ``a_k <= s_k <= b_k`` that the
whole walk stays in with probability `level` bounds, for every x at once, the number of eigenvalues above x by their
share: those k are left whose part of the band it meets. Here a_k and b_k are quantiles of s_k at one level alpha for
all k, so that a walk leaves the band as likely at one place as at another (Gontscharuk, Landwehr and Finner, Biom. J.
57, 2015); alpha comes from walks that are drawn. Between the k at which walks are drawn the shares, which increase,
are bounded by their neighbours.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from kpref._types import Array

__all__ = ["Band", "counting_band"]

#: Walks that are drawn.
_WALKS = 4000
#: Counts at which: all below the first number, then in steps of so many deviations of the share, or of the count.
_DENSE = 40
_STEP, _SHARE = 0.5, 0.01


class Band(NamedTuple):
    """The band at some counts: shares between `low` and `high`."""

    counts: npt.NDArray[np.int64]  # (c,): increasing, from 0 to n
    low: Array  # (c,): increasing, from 0 to 1
    high: Array  # (c,)

    def most(self, share: Array) -> npt.NDArray[np.int64]:
        """The largest count whose share may be as small as this."""
        place = np.searchsorted(self.low, share, side="right")  # the first count whose share may not be
        ends = np.append(self.counts, self.counts[-1] + 1)
        return np.asarray(ends[place] - 1)

    def least(self, share: Array) -> npt.NDArray[np.int64]:
        """The smallest count whose share may be as large as this."""
        place = np.searchsorted(self.high, share, side="left") - 1  # the last count whose share may not be
        return np.where(place < 0, 0, self.counts[np.maximum(place, 0)] + 1)


@lru_cache(maxsize=64)
def counting_band(size: int, vectors: int, level: float) -> Band:
    """The band for n = `size` eigenvalues and p = `vectors` normal vectors."""
    counts = _counts(size, vectors)
    inner = counts[1:-1]
    walks = _walks(counts, vectors)
    # Walks are as many as to tell the level to half a percent: two deviations of that are added to it.
    wanted = level + 2 * np.sqrt(level * (1 - level) / _WALKS)
    shapes = inner * vectors / 2, (size - inner) * vectors / 2
    few, many = 1e-7, 1 - level  # levels between which alpha lies
    for _ in range(14):
        alpha = np.sqrt(few * many)
        low, high = betaincinv(*shapes, alpha / 2), betaincinv(*shapes, 1 - alpha / 2)
        inside = ((low <= walks) & (walks <= high)).all(axis=1).mean()
        few, many = (alpha, many) if inside >= wanted else (few, alpha)
    low, high = betaincinv(*shapes, few / 2), betaincinv(*shapes, 1 - few / 2)
    return Band(counts, np.concatenate([[0.0], low, [1.0]]), np.concatenate([[0.0], high, [1.0]]))


def _counts(size: int, vectors: int) -> npt.NDArray[np.int64]:
    """From 0 to `size`: all that are close to either end, and some in between."""
    found, count = [0], 0
    while count < size:
        rest = size - count
        deviation = np.sqrt(2.0 / vectors * count * rest / size)
        step = int(max(_STEP * deviation, _SHARE * min(count, rest)))
        count += 1 if min(count, rest) < _DENSE else max(1, min(step, rest - _DENSE + 1))
        found.append(count)
    return np.array(found)


def _walks(counts: npt.NDArray[np.int64], vectors: int) -> Array:
    """Shares at the counts between the ends, (walks, c - 2), of walks that are drawn."""
    steps = np.random.default_rng(0).gamma(np.diff(counts) * vectors / 2, size=(_WALKS, len(counts) - 1))
    sums = np.cumsum(steps, axis=1)
    return np.asarray(sums[:, :-1] / sums[:, -1:])
