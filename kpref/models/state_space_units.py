"""Functions of units of linear recurrences and of what mixes their features: see `kpref.models.units`.

`kpref.models.lru`, `kpref.models.s4d` and `kpref.models.state_space` derive them.
"""

from __future__ import annotations

from kpref.compiled.compilation import kernel, wide_vectors
from kpref.compiled.elementary import sigmoid_pair
from kpref.models.tiles import ROW

__all__ = ["complex_step", "gated_sum", "held_step"]

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT, _NINE, _TEN, _ELEVEN, _TWELVE, _THIRTEEN, _FOURTEEN = ROW[1:15]
_FIFTEEN, _SIXTEEN, _SEVENTEEN, _EIGHTEEN, _NINETEEN = ROW[15:20]


@kernel
def complex_step(tile, count, full):  # type: ignore[no-untyped-def]
    """In go u, v, b_u, b_v; p, q, gamma, exp(nu), exp(theta).

    Out come the new u and v; coefficients: re_by_nu, re_by_theta, re_by_gamma, and the same of im.
    """
    wide_vectors()
    for i in range(count):
        u, v, p, q = tile[i], tile[_ONE + i], tile[_FOUR + i], tile[_FIVE + i]
        turned_u, turned_v = p * u - q * v, q * u + p * v
        driven_u, driven_v = tile[_SIX + i] * tile[_TWO + i], tile[_SIX + i] * tile[_THREE + i]
        tile[_NINE + i], tile[_TEN + i] = turned_u + driven_u, turned_v + driven_v
        if full:
            decay, speed = tile[_SEVEN + i], tile[_EIGHT + i]
            tile[_ELEVEN + i], tile[_TWELVE + i], tile[_THIRTEEN + i] = -decay * turned_u, -speed * turned_v, driven_u
            tile[_FOURTEEN + i], tile[_FIFTEEN + i] = -decay * turned_v, speed * turned_u
            tile[_SIXTEEN + i] = driven_v


@kernel
def held_step(tile, count, full):  # type: ignore[no-untyped-def]
    """In go u, v, s; A, B and dB/da, each of two parts, exp(alpha), omega, Delta.

    Out come the new u and v; coefficients: re_by_delta, re_by_alpha, re_by_omega, and the same of im.
    """
    wide_vectors()
    for i in range(count):
        u, v, s, p, q = tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i]
        turned_u, turned_v = p * u - q * v, q * u + p * v
        tile[_TWELVE + i], tile[_THIRTEEN + i] = turned_u + tile[_FIVE + i] * s, turned_v + tile[_SIX + i] * s
        if full:
            decay, omega, delta = tile[_NINE + i], tile[_TEN + i], tile[_ELEVEN + i]
            e_u, e_v = delta * turned_u + tile[_SEVEN + i] * s, delta * turned_v + tile[_EIGHT + i] * s
            tile[_FOURTEEN + i] = delta * (p * s - decay * turned_u - omega * turned_v)
            tile[_FIFTEEN + i], tile[_SIXTEEN + i] = -decay * e_u, -e_v
            tile[_SEVENTEEN + i] = delta * (q * s + omega * turned_u - decay * turned_v)
            tile[_EIGHTEEN + i], tile[_NINETEEN + i] = -decay * e_v, e_u


@kernel
def gated_sum(tile, count):  # type: ignore[no-untyped-def]
    """In go v, w and s, out ``s + v sigmoid(w)``; coefficients: value, gate."""
    wide_vectors()
    for i in range(count):
        v = tile[i]
        g, complement = sigmoid_pair(tile[_ONE + i])
        tile[_THREE + i] = tile[_TWO + i] + v * g
        tile[_FOUR + i], tile[_FIVE + i] = g, v * (g * complement)
