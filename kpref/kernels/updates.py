"""Updates of parameters by optimisers in one loop: as NumPy's operations one after the other, to the same bits.

These go through memory a dozen times, for as long as a small network's backward pass.
"""

from __future__ import annotations

from math import sqrt

from kpref.compiled.compilation import inlined, kernel

__all__ = ["adam_step"]


@inlined
def _quotient(a, b):  # type: ignore[no-untyped-def]
    """``a / b``, infinite or NaN where b is zero."""
    return a / b


@kernel
def adam_step(  # type: ignore[no-untyped-def]
    vector, gradient, mean, square, beta1, rest1, beta2, rest2, correction, epsilon, rate
):  # fmt: skip
    """``a = b1 a + (1 - b1) g, c = b2 c + (1 - b2) g^2, theta -= rate a / (sqrt(c) / correction + eps)``, in place.

    Numbers are of the precision of the arrays.
    """
    for k in range(len(vector)):
        g = gradient[k]
        a = beta1 * mean[k] + rest1 * g
        c = beta2 * square[k] + rest2 * (g * g)
        mean[k], square[k] = a, c
        vector[k] -= rate * _quotient(a, _quotient(sqrt(c), correction) + epsilon)
