"""Elementary functions of one number for compiled loops, which the compiler turns into vector instructions.

All come from one exponential. For x >= 0 write ``x = n log 2 + r``, |r| <= log(2) / 2 (Cody and Waite's reduction;
Muller, *Elementary Functions*, chapter 11), and ``q = exp(r) - 1``, a polynomial. Then, exactly,

    E = exp(x) - 1 = 2^n q + (2^n - 1),      D = exp(x) + 1 = 2^n q + (2^n + 1),

of which the sums are carried to twice the precision (Dekker's fast two-sum), so that

    sigmoid(-x) = 1 / D,   sigmoid(x) = 1 - 1 / D,   tanh(x / 2) = E / D,   1 - tanh(x / 2)^2 = 4 (1 / D) (1 - 1 / D)

are accurate in the tails and near zero. The quotients are corrected by one step of Newton's. Errors, of 10^6 arguments
against extended precision: sigmoids 1.6 ulp, tanh 1.9, its derivative 2.7 (NumPy's tanh: 1.2).

``f(a) = a / (1 - exp(-a))`` is ``max(a, 0) + g`` with ``g = |a| / (exp(|a|) - 1)``, also accurate near zero and in both
tails, and ``g' = (1 - g - |a|) / (exp(|a|) - 1)``, which near zero is left to a series.

In float32 the same formulas hold with constants of that precision and a shorter polynomial; 16 numbers then stand in a
vector of the processor in place of 8.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from kpref._bernoulli import BERNOULLI
from kpref.compiled.compilation import inlined

__all__ = ["exponential", "fma", "linoid_pair", "sigmoid_pair", "softplus", "tanh_pair"]

_LOG2E = 1.4426950408889634
# log 2 in two parts; n times the first is exact for |n| < 2^11.
_LOG2_HIGH = 6.93147180369123816490e-01
_LOG2_LOW = 1.90821492927058770002e-10
# Adding 1.5 * 2^52 leaves the nearest integer in the last bits of the sum.
_MAGIC = 6755399441055744.0
# Of the series of the derivative of linoid, from the last on: see `kpref.models.nonlinearity.linoid_slope`.
_SLOPES = tuple(2 * k * BERNOULLI[k - 1] for k in range(len(BERNOULLI), 0, -1))
# exp(700) is finite, and beyond it both sigmoid(-x) and 1 - tanh^2 are below 1e-303.
_LARGEST = 700.0

# The same in float32: n times the high part is exact for |n| < 2^15; 1.5 * 2^23; and exp(87) < 2^126.
_LOG2_HIGH_32 = 0.693359375
_LOG2_LOW_32 = -2.1219444005469057e-4
_MAGIC_32 = 12582912.0
_LARGEST_32 = 87.0
# Beyond 710, in float32 89, exp is infinite, and what comes of it; below the lower bound it stays at its smallest.
_RANGE, _RANGE_32 = (-708.0, 710.0), (-87.0, 89.0)

_INLINED: Any = {"nogil": True, "forceinline": True, "error_model": "numpy"}


@intrinsic  # type: ignore[misc]
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a b + c``, rounded once where the processor does so in one instruction: the same everywhere in a process."""

    kind = types.float32 if a == types.float32 else types.float64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = context.get_value_type(kind)
        function = ir.FunctionType(real, [real] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [real], function), arguments)

    return kind(kind, kind, kind), generate


@intrinsic  # type: ignore[misc]
def _like(typingctx: Any, x: Any, number: Any) -> Any:
    """A number in the precision of x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], types.float64, x)

    return x(x, types.float64), generate


@intrinsic  # type: ignore[misc]
def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """``2^n`` for the number ``n + _MAGIC``: n is moved from its last bits to the exponent of another."""
    bits, bias, mantissa = (32, 127, 23) if shifted == types.float32 else (64, 1023, 52)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(bits)
        biased = builder.add(builder.bitcast(arguments[0], integer), ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(biased, ir.Constant(integer, mantissa)), context.get_value_type(shifted))

    return shifted(shifted), generate


def _exponential(x):  # type: ignore[no-untyped-def]
    """``2^n``, and ``q`` in two parts, for x in `_RANGE`."""
    raise NotImplementedError("for compiled code")


@overload(_exponential, jit_options=_INLINED)
def _exponential_by_precision(x):  # type: ignore[no-untyped-def]
    return _exponential_32 if x == types.float32 else _exponential_64


def _exponential_64(x):  # type: ignore[no-untyped-def]
    """The polynomial interpolates ``(exp(r) - 1 - r) / r^2`` at 11 Chebyshev nodes; q is off by 0.01 * 2^-53.

    Its even and odd powers are summed apart: one long chain would have the processor wait for each link.
    """
    shifted = fma(x, _LOG2E, _MAGIC)
    whole = shifted - _MAGIC
    high = fma(whole, -_LOG2_HIGH, x)
    low = whole * _LOG2_LOW
    r = high - low
    square = r * r
    even = fma(square, 2.0914686968086876e-09, 2.75572736431103e-07)
    odd = fma(square, 2.5105217004720745e-08, 2.7557255400206422e-06)
    even = fma(even, square, 2.4801587325547743e-05)
    odd = fma(odd, square, 0.00019841269874820627)
    even = fma(even, square, 0.0013888888888883748)
    odd = fma(odd, square, 0.008333333333326136)
    even = fma(even, square, 0.04166666666666667)
    odd = fma(odd, square, 0.1666666666666667)
    even = fma(even, square, 0.5)
    rest = fma(square, fma(odd, r, even), (high - r) - low)
    q = r + rest
    return _power_of_two(shifted), q, rest - (q - r)


def _exponential_32(x):  # type: ignore[no-untyped-def]
    """Six Chebyshev nodes; q is off by 0.03 * 2^-24."""
    magic = _like(x, _MAGIC_32)
    shifted = fma(x, _like(x, _LOG2E), magic)
    whole = shifted - magic
    high = fma(whole, _like(x, -_LOG2_HIGH_32), x)
    low = whole * _like(x, _LOG2_LOW_32)
    r = high - low
    square = r * r
    even = fma(square, _like(x, 0.0013933685841038823), _like(x, 0.041666463017463684))
    odd = fma(square, _like(x, 0.00019891030387952924), _like(x, 0.00833331048488617))
    even = fma(even, square, _like(x, 0.5))
    odd = fma(odd, square, _like(x, 0.1666666716337204))
    rest = fma(square, fma(odd, r, even), (high - r) - low)
    q = r + rest
    return _power_of_two(shifted), q, rest - (q - r)


def _below(x):  # type: ignore[no-untyped-def]
    """At most what `_exponential` takes; NaN stays NaN."""
    raise NotImplementedError("for compiled code")


@overload(_below, jit_options=_INLINED)
def _below_by_precision(x):  # type: ignore[no-untyped-def]
    largest = _LARGEST_32 if x == types.float32 else _LARGEST

    def below(x):  # type: ignore[no-untyped-def]
        return _like(x, largest) if x > largest else x

    return below


def _in_range(x):  # type: ignore[no-untyped-def]
    """The nearest number in `_RANGE`; NaN stays NaN."""
    raise NotImplementedError("for compiled code")


@overload(_in_range, jit_options=_INLINED)
def _in_range_by_precision(x):  # type: ignore[no-untyped-def]
    least, most = _RANGE_32 if x == types.float32 else _RANGE

    def in_range(x):  # type: ignore[no-untyped-def]
        low = _like(x, least) if x < least else x
        return _like(x, most) if low > most else low

    return in_range


@inlined
def exponential(x):  # type: ignore[no-untyped-def]
    """``exp(x)``; infinite or NaN where that is beyond the largest number, or more than 0.7 of it."""
    power, q, _ = _exponential(_in_range(x))
    return fma(power, q, power)


@inlined
def linoid_pair(a):  # type: ignore[no-untyped-def]
    """``a / (1 - exp(-a))``, 1 at zero, and its derivative."""
    zero, one, size = _like(a, 0.0), _like(a, 1.0), _below(abs(a))
    power, q, _ = _exponential(size)
    e = fma(power, q, power - one)
    g = one if e == zero else size / e
    slope = one if e == zero else (one - g - size) / e
    square, series = a * a, zero
    for coefficient in _SLOPES:
        series = fma(series, square, _like(a, coefficient))
    far = one + slope if a > zero else -slope
    near = fma(a, series, _like(a, 0.5))
    return (a if a > zero else zero) + g, near if size < one else far


@inlined
def sigmoid_pair(a):  # type: ignore[no-untyped-def]
    """``sigmoid(a)`` and ``sigmoid(-a)``, each to full relative accuracy."""
    one = _like(a, 1.0)
    power, q, q_low = _exponential(_below(abs(a)))
    d = fma(power, q, power + one)
    d_low = fma(power, q_low, fma(power, q, (power + one) - d))
    inverse = one / d
    small = fma(fma(-d, inverse, one) - d_low * inverse, inverse, inverse)
    large = one - small
    return (large, small) if a > 0 else (small, large)


@inlined
def tanh_pair(a):  # type: ignore[no-untyped-def]
    """``tanh(a)`` and ``1 - tanh(a)^2``."""
    one, two = _like(a, 1.0), _like(a, 2.0)
    power, q, q_low = _exponential(_below(two * abs(a)))
    e = fma(power, q, power - one)
    e_low = fma(power, q_low, fma(power, q, (power - one) - e))
    d = e + two
    d_low = fma(power, q_low, fma(power, q, (power + one) - d))
    inverse = one / d
    size = e * inverse
    size = fma(fma(-size, d, e) + fma(-size, d_low, e_low), inverse, size)
    return (size if a >= 0 else -size), _like(a, 4.0) * inverse * (one - inverse)


@inlined
def softplus(a):  # type: ignore[no-untyped-def]
    """``log(1 + exp(a))`` and its derivative, sigmoid(a)."""
    large, small = sigmoid_pair(abs(a))
    return (a if a > 0 else 0.0 * a) - math.log1p(-small), large if a > 0 else small
