"""Elementary functions of one number for compiled loops, which the compiler turns into vector instructions.

All come from one exponential. For x >= 0 write ``x = n log 2 + r``, |r| <= log(2) / 2 (Cody and Waite's reduction;
Muller, *Elementary Functions*, chapter 11), and ``q = exp(r) - 1``, a polynomial. Then, exactly,

    E = exp(x) - 1 = 2^n q + (2^n - 1),      D = exp(x) + 1 = 2^n q + (2^n + 1),

of which the sums are carried to twice the precision (Dekker's fast two-sum), so that

    sigmoid(-x) = 1 / D,   sigmoid(x) = 1 - 1 / D,   tanh(x / 2) = E / D,   1 - tanh(x / 2)^2 = 4 (1 / D) (1 - 1 / D)

are accurate in the tails and near zero. The quotients are corrected by one step of Newton's. Errors, of 10^6 arguments
against extended precision: sigmoids 1.6 ulp, tanh 1.9, its derivative 2.7 (NumPy's tanh: 1.2).
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kpref.compiled.compilation import inlined

__all__ = ["fma", "sigmoid_pair", "softplus", "tanh_pair"]

_LOG2E = 1.4426950408889634
# log 2 in two parts; n times the first is exact for |n| < 2^11.
_LOG2_HIGH = 6.93147180369123816490e-01
_LOG2_LOW = 1.90821492927058770002e-10
# Adding 1.5 * 2^52 leaves the nearest integer in the last bits of the sum.
_MAGIC = 6755399441055744.0
# exp(700) is finite, and beyond it both sigmoid(-x) and 1 - tanh^2 are below 1e-303.
_LARGEST = 700.0


@intrinsic  # type: ignore[misc]
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a b + c``, rounded once where the processor does so in one instruction: the same everywhere in a process."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = ir.DoubleType()
        kind = ir.FunctionType(real, [real] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [real], kind), arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


@intrinsic  # type: ignore[misc]
def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """``2^n`` for the number ``n + _MAGIC``: n is moved from its last bits to the exponent of another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(64)
        biased = builder.add(builder.bitcast(arguments[0], integer), ir.Constant(integer, 1023))
        return builder.bitcast(builder.shl(biased, ir.Constant(integer, 52)), ir.DoubleType())

    return types.float64(types.float64), generate


@inlined
def _exponential(x):  # type: ignore[no-untyped-def]
    """``2^n``, and ``q`` in two parts, for 0 <= x <= 700.

    The polynomial interpolates ``(exp(r) - 1 - r) / r^2`` at 11 Chebyshev nodes; q is off by 0.01 * 2^-53. Its even and
    odd powers are summed apart: one long chain would have the processor wait for each link.
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


@inlined
def _below(x):  # type: ignore[no-untyped-def]
    """NaN stays NaN."""
    return _LARGEST if x > _LARGEST else x


@inlined
def sigmoid_pair(a):  # type: ignore[no-untyped-def]
    """``sigmoid(a)`` and ``sigmoid(-a)``, each to full relative accuracy."""
    power, q, q_low = _exponential(_below(abs(a)))
    d = fma(power, q, power + 1.0)
    d_low = fma(power, q_low, fma(power, q, (power + 1.0) - d))
    inverse = 1.0 / d
    small = fma(fma(-d, inverse, 1.0) - d_low * inverse, inverse, inverse)
    large = 1.0 - small
    return (large, small) if a > 0 else (small, large)


@inlined
def tanh_pair(a):  # type: ignore[no-untyped-def]
    """``tanh(a)`` and ``1 - tanh(a)^2``."""
    power, q, q_low = _exponential(_below(2.0 * abs(a)))
    e = fma(power, q, power - 1.0)
    e_low = fma(power, q_low, fma(power, q, (power - 1.0) - e))
    d = e + 2.0
    d_low = fma(power, q_low, fma(power, q, (power + 1.0) - d))
    inverse = 1.0 / d
    size = e * inverse
    size = fma(fma(-size, d, e) + fma(-size, d_low, e_low), inverse, size)
    return (size if a >= 0 else -size), 4.0 * inverse * (1.0 - inverse)


@inlined
def softplus(a):  # type: ignore[no-untyped-def]
    """``log(1 + exp(a))`` and its derivative, sigmoid(a)."""
    large, small = sigmoid_pair(abs(a))
    return (a if a > 0 else 0.0 * a) - math.log1p(-small), large if a > 0 else small
