r"""The mean of quadratic forms of random directions, with an interval that all inner products between them tell.

Let v_1 ... v_p be independent directions of length m^(1/2), uniform on the sphere in m dimensions, and R a symmetric
matrix. ``x = mean of v_i.R v_i`` is an unbiased estimate of tr R. Each term is, but for the normalisation, a sum of
chi-squares weighted by the eigenvalues of R: with the traceless part ``R' = R - (tr R / m) 1``,

    variance of a term = 2 m / (m + 2) tr R'^2,     skewness  g = 8^(1/2) tr R'^3 / (tr R'^2)^(3/2),  at most 8^(1/2).

**Moments from the Gram matrix.** The scatter of p terms tells the variance poorly, and skewed terms lead it astray in
step with the mean. But the vectors R v_i are known, and with them all of ``W_ij = v_i.R' v_j`` (R' with x in place of
tr R): the p (p - 1) / 2 entries beside the diagonal have mean zero and variance ``tr R'^2`` each. The unbiased
combinations of them that do not depend on the basis are those of a Wishart matrix (W has no trace):

    tr R'^2 ~ tr W^2 / ((p - 1) (p + 2)),       tr R'^3 ~ p tr W^3 / ((p - 1) (p - 2) (p + 2) (p + 4)).

**Degrees of freedom.** For a spectrum without large eigenvalues W looks like a symmetric Gaussian matrix, and its
square has nu = (p - 1) (p + 2) / 2 degrees: 9 at p = 4, 135 at p = 16. Large eigenvalues add the fluctuation
8 q / p, q = tr R'^4 / (tr R'^2)^2, to the relative variance of tr W^2, of which the part g^2 / p goes with x and is
the next paragraph's:

    2 / nu = 4 / ((p - 1) (p + 2)) + (8 q - g^2) / p.

The ratio tr W^4 / (tr W^2)^2 is q for a few large eigenvalues, and c = (2 p^2 + 5 p + 5) / ((p + 1) (p (p + 1) + 4))
for a symmetric Gaussian matrix, where q = 0; q is taken from the straight line between. One eigenvalue of the share s
of tr R'^2, the rest being small, has q = s^2 and g^2 = 8 s^3, which makes (g^2 / 8)^(2/3) the least that q may be.
Eigenvalues of both signs have a large q without any skewness.

**Shape.** x is taken for a shifted gamma variable with its variance and skewness, g / p^(1/2). If R has r equal
eigenvalues and no others it is one, with shape A = p r / 2, and tr W^2 is proportional to x^2: the scale is what is
unknown, and ``theta = x / gamma quantile`` has exact intervals. `Estimate.interval` inverts the gamma law this way.

Where S has eigenvalues of both signs (the forms show it), a positive one that the vectors met more than their share
of raises x and the g that W tells together, and g would shorten the interval on the side where the truth is. So g is
then taken towards zero by its deviation over the vectors, the eigenvalues of W having the relative variance 2 / p each.

With r = 1, tr W^2 and tr W^3 give x^2 and g^2 too small by the factors p / (p + 2) and p (p + 2) / (p + 4)^2; the first
is 1 / (1 + 1 / A), the second is put right in full, on the safe side for other spectra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kpref._types import Array
from kpref.spectra.estimate import gamma_reaches

__all__ = ["MOST_SKEWED", "Mean", "mean_of_forms", "mean_over_blocks", "power_of_two"]

#: Skewness of a chi-square with one degree of freedom: no weighted sum of them is more skewed.
MOST_SKEWED = math.sqrt(8.0)
#: Relative size of eigenvalues that rounding may have left.
_ROUNDING = 1e-10


class Mean(NamedTuple):
    """An estimate and what its interval follows from: see `Estimate`."""

    value: float
    standard_error: float
    degrees: float
    skewness: float


def mean_of_forms(forms: Array, overlaps: Array, size: int, positive: bool) -> Mean:
    """Mean of the diagonal of ``v_i.S v_j``.

    `forms`: shape (p, p); ``v_i.S v_j``, p > 1; of S the symmetric part counts. `overlaps`: shape (p, p); ``v_i.v_j``,
    m on the diagonal. `size`: dimension m of the space of directions. `positive`: whether S is known to be positive,
    which else the forms have to show.
    """
    if not np.isfinite(forms).all():  # nothing is known, and callers say of what
        return Mean(math.nan, math.nan, math.inf, 0.0)
    unit = power_of_two(forms)  # whose powers neither overflow nor vanish
    found = _mean_of_forms(forms / unit, overlaps, size, positive)
    return found._replace(value=found.value * unit, standard_error=found.standard_error * unit)


def power_of_two(numbers: Array) -> float:
    """The largest power of two in the modulus of some numbers, one for zeros: dividing by it rounds nothing."""
    largest = float(np.abs(numbers).max(initial=0.0))
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0


def _mean_of_forms(forms: Array, overlaps: Array, size: int, positive: bool) -> Mean:
    count, value = len(forms), float(np.trace(forms)) / len(forms)
    symmetric = (forms + forms.T) / 2
    rest = symmetric - (value / size) * overlaps
    square = float(np.vdot(rest, rest)) / ((count - 1) * (count + 2))
    if square == 0.0:
        return Mean(value, 0.0, math.inf, 0.0)
    skewness = _skewness(rest, square, 1 if positive else _sign(symmetric))
    shape_inverse = skewness**2 / (4 * count)
    peaked = max(_peakedness(rest), (skewness**2 / 8) ** (2 / 3))
    spread = 4 / ((count - 1) * (count + 2)) + (8 * peaked - skewness**2) / count
    if count == 2:
        spread = 2.0  # one of the two degrees goes to the shape, which they do not tell
    error = math.sqrt(2 * size / (size + 2) * square / count * (1 + shape_inverse))
    return Mean(value, error, 2 / spread, skewness / math.sqrt(count))


def _peakedness(rest: Array) -> float:
    """``tr R'^4 / (tr R'^2)^2``."""
    squared, flat = rest @ rest, _flat_ratio(len(rest))
    ratio = float(np.vdot(squared, squared)) / float(np.trace(squared)) ** 2
    return max(0.0, (ratio - flat) / (1 - flat))


def _flat_ratio(count: int) -> float:
    """``tr W^4 / (tr W^2)^2`` of a symmetric Gaussian matrix."""
    return (2 * count**2 + 5 * count + 5) / ((count + 1) * (count * (count + 1) + 4))


def _sign(forms: Array) -> int:
    """1 or -1 if these forms are those of a matrix with eigenvalues of one sign, as far as they show it; else 0."""
    values = np.linalg.eigvalsh(forms)
    within = _ROUNDING * float(np.abs(values).max())
    return int(values[0] >= -within) or -int(values[-1] <= within)


def _skewness(rest: Array, square: float, sign: int) -> float:
    """Of one term; the greatest there is where two terms cannot tell it."""
    count = len(rest)
    if count == 2:
        return sign * MOST_SKEWED
    scaled = rest / math.sqrt(square)
    cube = float(np.vdot(scaled @ scaled, scaled)) * count
    cube /= (count - 1) * (count - 2) * (count + 2) * (count + 4)
    skewness = MOST_SKEWED * cube * (count + 4) / math.sqrt(count * (count + 2))
    if sign:
        return sign * min(max(sign * skewness, 0.0), MOST_SKEWED)
    shares = np.linalg.eigvalsh(rest) / np.linalg.norm(rest)
    noise = np.linalg.norm(shares**3 - (shares**3).sum() * shares**2) * 3 * MOST_SKEWED * math.sqrt(2 / count)
    return math.copysign(min(max(abs(skewness) - float(noise), 0.0), MOST_SKEWED), skewness)


def mean_over_blocks(batches: Sequence[tuple[Array, Array]], sizes: Array, others: Sequence[Array] = ()) -> Mean:
    """Sum over blocks of the means of positive forms, each in directions of its own: see the module's docstring.

    `batches`: forms and overlaps, shapes (b, p, p), of the p vectors of a batch in each of b blocks; none between
    vectors of two batches is needed. `sizes`: shape (b,); dimensions of the blocks. `others`: forms (b, p, p) of
    further batches, which tell the mean but not its error.
    """
    everything = [*(forms for forms, _ in batches), *others]
    if not all(np.isfinite(forms).all() for forms in everything):
        return Mean(math.nan, math.nan, math.inf, 0.0)
    unit = max(map(power_of_two, everything))
    total = sum(forms.shape[1] for forms in everything)
    value = sum(float(np.trace(forms, axis1=1, axis2=2).sum()) for forms in everything) / total
    moments = _moments([(forms / unit, overlaps) for forms, overlaps in batches], sizes)
    if moments is None:
        return Mean(value, 0.0, math.inf, 0.0)
    squares, skewness, spread = moments
    known = _skewness_is_told(batches)
    told = sum(forms.shape[1] for forms, _ in batches)
    error = math.sqrt(float((2 * sizes / (sizes + 2) * squares).sum()) / total * (1 + skewness**2 / (4 * told)))
    skewness /= math.sqrt(total)
    if not known:  # it may be none just as well: as far on either side as the upper end would be
        error, skewness = error * gamma_reaches(skewness, 0.95)[1], 0.0
    # Half of the degrees: they follow from the same squares, and most of the variance may come of a few blocks.
    return Mean(value, error * unit, 1 / spread, skewness)


def _moments(batches: Sequence[tuple[Array, Array]], sizes: Array) -> tuple[Array, float, float] | None:
    """``tr R_b'^2`` (b,), the skewness of one term in each block, and twice one over the degrees of freedom."""
    counts = [forms.shape[1] for forms, _ in batches]
    total = sum(counts)
    shares = sum(np.trace(forms, axis1=1, axis2=2) for forms, _ in batches) / (total * np.maximum(sizes, 1))
    rests = [forms - shares[:, None, None] * overlaps for forms, overlaps in batches]
    # Of the variance of a term tr R'^2 has 2 in large blocks, and less in small ones.
    free = sum(p * (p - 1) for p in counts) + 2 * sizes / (sizes + 2) * (total - 1)
    squares = sum(np.square(rest).sum(axis=(1, 2)) for rest in rests) / free
    square = float(squares.sum())
    if square == 0.0:
        return None
    alike = square**2 / float((squares**2).sum())  # blocks: so many, were they all alike
    if _skewness_is_told(batches):
        cubes = sum(float(np.einsum("bij,bjk,bki->", rest, rest, rest, optimize=True)) for rest in rests)
        cubes /= sum(p * (p * p + 3 * p + 4) - 12 * p * (p + 1) / total for p in counts) + 16 / total
        forms = total * alike
        skewness = MOST_SKEWED * cubes / square**1.5 * (forms + 4) / math.sqrt(forms * (forms + 2))
        skewness = min(max(skewness, 0.0), MOST_SKEWED)
    else:
        skewness = MOST_SKEWED * float((squares**1.5).sum()) / square**1.5
    # Relative variances of the squares, of which their own squares are too large by as much.
    least = min(1.0, (alike * skewness**2 / 8) ** (2 / 3))
    spreads = 4 / free + 8 * np.maximum(_peakedness_of_blocks(max(rests, key=np.size)), least) / total
    sampled, lowest = (float((squares**2 * x / (1 + x)).sum()) / square**2 for x in (spreads, 4 / free))
    return squares, skewness, max(sampled - skewness**2 / total, lowest)


def _skewness_is_told(batches: Sequence[tuple[Array, Array]]) -> bool:
    """Whether three vectors of a batch are there, without which it is the greatest there is."""
    return max(forms.shape[1] for forms, _ in batches) > 2


def _peakedness_of_blocks(rests: Array) -> Array:
    """``tr R_b'^4 / (tr R_b'^2)^2`` of each block, (b,): 1, the most it may be, where there are too few vectors.

    One eigenvalue alone gives the ratio r = ((p - 1)^3 + 1) / ((p - 1) p^2) in place of q = 1, less for few vectors.
    """
    count = rests.shape[1]
    if count < 6:
        return np.ones(len(rests))
    flat, one = _flat_ratio(count), ((count - 1) ** 3 + 1) / ((count - 1) * count**2)
    squared = rests @ rests
    squares = np.trace(squared, axis1=1, axis2=2) ** 2
    ratios = np.divide(np.square(squared).sum(axis=(1, 2)), squares, out=np.full(len(rests), one), where=squares > 0)
    return np.clip((ratios - flat) / (one - flat), 0.0, 1.0)
