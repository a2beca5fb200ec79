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
from typing import NamedTuple

import numpy as np

from kpref._types import Array

__all__ = ["MOST_SKEWED", "Mean", "mean_of_forms"]

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
    count, value = len(forms), float(np.trace(forms)) / len(forms)
    if not np.isfinite(forms).all():  # nothing is known, and callers say of what
        return Mean(math.nan, math.nan, math.inf, 0.0)
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
    count, squared = len(rest), rest @ rest
    flat = (2 * count**2 + 5 * count + 5) / ((count + 1) * (count * (count + 1) + 4))
    ratio = float(np.vdot(squared, squared)) / float(np.trace(squared)) ** 2
    return max(0.0, (ratio - flat) / (1 - flat))


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
