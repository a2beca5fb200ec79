"""Functions of units that rates describe, beside a nonlinearity alone: see `kpref.models.units` for what they read.

`kpref.models.antisymmetric`, `cornn`, `wilson_cowan` and `short_term_plasticity` derive them.
"""

from __future__ import annotations

from kpref.compiled.compilation import kernel, wide_vectors
from kpref.compiled.elementary import sigmoid_pair, tanh_pair
from kpref.models.tiles import ROW

__all__ = ["keep_plastic", "plastic", "population", "scaled_tanh"]

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT, _NINE, _TEN, _ELEVEN, _TWELVE, _THIRTEEN, _FOURTEEN = ROW[1:15]
_DEPRESSION, _RESOURCES = ROW[30:32]  # where what a nonlinearity would write over stays meanwhile


@kernel
def scaled_tanh(tile, count, full):  # type: ignore[no-untyped-def]
    """In go a current and a factor; coefficient: slope."""
    wide_vectors()
    if full:
        for i in range(count):
            value, slope = tanh_pair(tile[i])
            tile[_TWO + i], tile[_THREE + i] = tile[_ONE + i] * value, tile[_ONE + i] * slope
    else:
        for i in range(count):
            tile[_TWO + i] = tile[_ONE + i] * tanh_pair(tile[i])[0]


@kernel
def population(tile, count):  # type: ignore[no-untyped-def]
    """In go z and its current; g, theta, k, ``1 - k``, r and 1 / tau; coefficients: decay, gate."""
    wide_vectors()
    for i in range(count):
        z, a, g, theta = tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i]
        r, speed = tile[_SIX + i], tile[_SEVEN + i]
        value, complement = sigmoid_pair(g * (a - theta))
        active, left = value - tile[_FIVE + i], tile[_FOUR + i] - r * z
        tile[_EIGHT + i] = (left * active - z) * speed
        tile[_NINE + i] = -(1.0 + r * active) * speed
        tile[_TEN + i] = left * (g * (value * complement)) * speed


@kernel
def keep_plastic(tile, count):  # type: ignore[no-untyped-def]
    """Put u and x where the nonlinearity of h, which `plastic` needs, does not write."""
    for i in range(count):
        tile[_DEPRESSION + i], tile[_RESOURCES + i] = tile[_ONE + i], tile[_TWO + i]


@kernel
def plastic(tile, count):  # type: ignore[no-untyped-def]
    """In go h, u, x; the number of the nonlinearity, U, 1 / tau_f, 1 / tau_d; rows 1, 2 by now hold phi(h), its slope.

    Out come what is sent and the velocities of u and x, without what is sent; then sent_h, sent_u, sent_x, calming,
    facilitation.
    """
    wide_vectors()
    for i in range(count):
        rate, slope = tile[_ONE + i], tile[_TWO + i]
        u, x, use, speed = tile[_DEPRESSION + i], tile[_RESOURCES + i], tile[_FOUR + i], tile[_FIVE + i]
        tile[_SEVEN + i] = u * x * rate
        tile[_EIGHT + i] = (use - u) * speed + use * (1.0 - u) * rate
        tile[_NINE + i] = (1.0 - x) * tile[_SIX + i]
        tile[_TEN + i], tile[_ELEVEN + i], tile[_TWELVE + i] = u * x * slope, x * rate, u * rate
        tile[_THIRTEEN + i] = -speed - use * rate
        tile[_FOURTEEN + i] = use * (1.0 - u) * slope
