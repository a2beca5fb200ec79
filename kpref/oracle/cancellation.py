"""What right code loses where it takes a difference of numbers that are nearly the same, and careful code does not.

``exp(w) - 1`` errs by units of the exponential, however small it is itself; so do quotients with it, as
``(exp(w) - 1) / w`` and ``a / (1 - exp(-a))``, whose limits at zero are guarded by a series of two terms. A guard is as
good as any where the series is no worse: with an error of ``a**2 / 12``, for ``|a|**3`` below 12 units.

None of this holds for formats that are coarser than float32, whose elementary functions are computed in float32: of
slow poles, or of rates near their singular voltage, such differences would keep no digit at all.
"""

from __future__ import annotations

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.spreads import Spread, approximated, relative

__all__ = ["exponential_less_one", "lost_of_linoid", "lost_of_linoid_slope"]

#: Units beyond which no code takes such differences.
_COARSE = 2.0**-20


def exponential_less_one(a: Array, arithmetic: Arithmetic) -> Spread:
    """Error of ``exp(a) - 1``."""
    value, error = np.expm1(a), arithmetic.error_of("exp")
    if arithmetic.unit > _COARSE:
        return approximated(value, arithmetic.unit, error)
    return approximated(np.exp(a), arithmetic.unit, error) + relative(value, arithmetic.unit)


def lost_of_linoid(a: Array, arithmetic: Arithmetic) -> Array:
    """Relative error of ``a / (1 - exp(-a))`` by the difference, in units."""
    if arithmetic.unit > _COARSE:
        return np.zeros(np.shape(a))
    return np.asarray(1 / np.maximum(np.abs(a), np.cbrt(12 * arithmetic.unit)))


def lost_of_linoid_slope(a: Array, arithmetic: Arithmetic) -> Array:
    """Error of its derivative, in units: of two quotients of about ``1 / a`` that cancel, each with that error."""
    return np.square(lost_of_linoid(a, arithmetic))
