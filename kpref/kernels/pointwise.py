"""Compiled nonlinearities with their derivatives, in loops that the compiler turns into vector instructions.

tanh comes from the exponential: with E = exp(2 |x|) - 1,

    tanh |x| = E / (E + 2),    1 - tanh^2 = 4 (E + 1) / (E + 2)^2,

both accurate in the tails and near zero. With ``2 |x| = n log 2 + r``, |r| <= log(2) / 2, ``E = 2^n q + (2^n - 1)``
where q = exp(r) - 1 comes from its Taylor series (Cody and Waite's reduction; Muller, *Elementary Functions*, chapter
11). The result differs from the correctly rounded one by a few units in the last place.
"""

from __future__ import annotations

from kpref.kernels.compilation import kernel

__all__ = ["IDENTITY", "RELU", "TANH", "pointwise"]

TANH, RELU, IDENTITY = 0, 1, 2

_LOG2E = 1.4426950408889634
# log 2 in two parts; n times the first is exact for |n| < 2^11.
_LOG2_HIGH = 6.93147180369123816490e-01
_LOG2_LOW = 1.90821492927058770002e-10
# Adding 1.5 * 2^52 leaves the nearest integer in the last bits of the sum.
_MAGIC = 6755399441055744.0
# exp(700) is finite, and beyond |x| = 350 the derivative is below 1e-303.
_LARGEST = 700.0


@kernel
def pointwise(which, x, value, slope, want_slope, scratch, bits):  # type: ignore[no-untyped-def]
    """value = phi(x) and, if wanted, slope = phi'(x), for flat arrays; bits is an integer view of scratch."""
    if which == TANH:
        _tanh(x, value, slope, want_slope, scratch, bits)
    elif which == RELU:
        for i in range(len(x)):
            value[i] = max(x[i], 0.0)
        if want_slope:
            for i in range(len(x)):
                slope[i] = 1.0 if x[i] > 0 else 0.0
    else:
        for i in range(len(x)):
            value[i] = x[i]
        if want_slope:
            for i in range(len(x)):
                slope[i] = 1.0


@kernel
def _tanh(x, value, slope, want_slope, scratch, bits):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        doubled = min(2.0 * abs(x[i]), _LARGEST)
        shifted = doubled * _LOG2E + _MAGIC
        whole = shifted - _MAGIC
        r = (doubled - whole * _LOG2_HIGH) - whole * _LOG2_LOW
        series = 1.0 / 87178291200.0
        series = series * r + 1.0 / 6227020800.0
        series = series * r + 1.0 / 479001600.0
        series = series * r + 1.0 / 39916800.0
        series = series * r + 1.0 / 3628800.0
        series = series * r + 1.0 / 362880.0
        series = series * r + 1.0 / 40320.0
        series = series * r + 1.0 / 5040.0
        series = series * r + 1.0 / 720.0
        series = series * r + 1.0 / 120.0
        series = series * r + 1.0 / 24.0
        series = series * r + 1.0 / 6.0
        series = series * r + 0.5
        value[i] = r + r * r * series
        scratch[i] = shifted
    for i in range(len(x)):
        bits[i] = (bits[i] + 1023) << 52  # now scratch holds 2^n
    for i in range(len(x)):
        power = scratch[i]
        grown = power * value[i] + (power - 1.0)
        scratch[i] = grown
        size = grown / (grown + 2.0)
        value[i] = size if x[i] >= 0 else -size
    if want_slope:
        for i in range(len(x)):
            below = 1.0 / (scratch[i] + 2.0)
            slope[i] = 4.0 * ((scratch[i] + 1.0) * below) * below
