"""Functions of units of linear recurrences and of what mixes their features: see `kpref.models.units`.

`kpref.models.lru` and `kpref.models.state_space` derive them.
"""

from __future__ import annotations

from kpref.compiled.compilation import kernel, wide_vectors
from kpref.compiled.elementary import sigmoid_pair
from kpref.models.tiles import ROW

__all__ = ["complex_step", "gated_sum"]

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT = ROW[1:9]
_NINE, _TEN, _ELEVEN, _TWELVE, _THIRTEEN, _FOURTEEN, _FIFTEEN, _SIXTEEN, _SEVENTEEN, _EIGHTEEN, _NINETEEN = ROW[9:20]


@kernel
def complex_step(tile, count, full):  # type: ignore[no-untyped-def]
    """In go three currents that are of no use here, then u, v, b_u, b_v; p, q, gamma, exp(nu), exp(theta).

    Out come the new u and v; coefficients: re_by_nu, re_by_theta, re_by_gamma, and the same of im.
    """
    wide_vectors()
    for i in range(count):
        u, v, p, q = tile[_THREE + i], tile[_FOUR + i], tile[_SEVEN + i], tile[_EIGHT + i]
        turned_u, turned_v = p * u - q * v, q * u + p * v
        driven_u, driven_v = tile[_NINE + i] * tile[_FIVE + i], tile[_NINE + i] * tile[_SIX + i]
        tile[_TWELVE + i], tile[_THIRTEEN + i] = turned_u + driven_u, turned_v + driven_v
        if full:
            decay, speed = tile[_TEN + i], tile[_ELEVEN + i]
            tile[_FOURTEEN + i], tile[_FIFTEEN + i], tile[_SIXTEEN + i] = -decay * turned_u, -speed * turned_v, driven_u
            tile[_SEVENTEEN + i], tile[_EIGHTEEN + i] = -decay * turned_v, speed * turned_u
            tile[_NINETEEN + i] = driven_v


@kernel
def gated_sum(tile, count):  # type: ignore[no-untyped-def]
    """In go v, w and s, out ``s + v sigmoid(w)``; coefficients: value, gate."""
    wide_vectors()
    for i in range(count):
        v = tile[i]
        g, complement = sigmoid_pair(tile[_ONE + i])
        tile[_THREE + i] = tile[_TWO + i] + v * g
        tile[_FOUR + i], tile[_FIVE + i] = g, v * (g * complement)
