"""Functions of a unit with gates, beside those of torch's cells: see `kpref.models.units` for what they read and write.

`kpref.models.cells.UGRNNCell` and `kpref.models.gated_state` derive them.
"""

from __future__ import annotations

from kpref.compiled.compilation import inlined, kernel, wide_vectors
from kpref.compiled.elementary import sigmoid_pair, tanh_pair
from kpref.models.tiles import ROW

__all__ = ["gated_state", "gated_step", "gated_velocity", "update_gate"]

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT = ROW[1:9]


@inlined
def _update_gate_unit(h, a_n, a_g):  # type: ignore[no-untyped-def]
    """The new h; update, candidate, update_gate."""
    n, slope = tanh_pair(a_n)
    g, complement = sigmoid_pair(a_g)
    return complement * n + g * h, g, complement * slope, (h - n) * (g * complement)


@kernel
def update_gate(tile, count, full):  # type: ignore[no-untyped-def]
    """In go h, a_n, a_g."""
    wide_vectors()
    if full:
        for i in range(count):
            found = _update_gate_unit(tile[i], tile[_ONE + i], tile[_TWO + i])
            tile[_THREE + i], tile[_FOUR + i], tile[_FIVE + i], tile[_SIX + i] = found
    else:
        for i in range(count):
            tile[_THREE + i] = _update_gate_unit(tile[i], tile[_ONE + i], tile[_TWO + i])[0]


@kernel
def gated_state(tile, count, full):  # type: ignore[no-untyped-def]
    """In go h and the current of the gate; out r h; coefficients: passed, reset_gate."""
    wide_vectors()
    if full:
        for i in range(count):
            r, complement = sigmoid_pair(tile[_ONE + i])
            tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i] = r * tile[i], r, tile[i] * (r * complement)
    else:
        for i in range(count):
            tile[_TWO + i] = sigmoid_pair(tile[_ONE + i])[0] * tile[i]


@inlined
def _gated_unit(h, a, c, sign):  # type: ignore[no-untyped-def]
    """w, ``1 - w``, n and its slope, and what update_gate is: with w the gate of current ``sign a``."""
    w, kept = sigmoid_pair(sign * a)
    n, slope = tanh_pair(c)
    return w, kept, n, slope, (n - h) * (sign * (w * kept))


@kernel
def gated_step(tile, count, full):  # type: ignore[no-untyped-def]
    """In go h, the currents of gate and candidate, and the sign; coefficients: kept, update_gate, slope."""
    wide_vectors()
    if full:
        for i in range(count):
            w, kept, n, slope, gate = _gated_unit(tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i])
            tile[_FOUR + i] = kept * tile[i] + w * n
            tile[_FIVE + i], tile[_SIX + i], tile[_SEVEN + i] = kept, gate, w * slope
    else:
        for i in range(count):
            w, kept, n, slope, gate = _gated_unit(tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i])
            tile[_FOUR + i] = kept * tile[i] + w * n


@kernel
def gated_velocity(tile, count, full):  # type: ignore[no-untyped-def]
    """The same for a velocity, with the reciprocal of the time constant beside the sign."""
    wide_vectors()
    if full:
        for i in range(count):
            w, _, n, slope, gate = _gated_unit(tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i])
            speed = tile[_FOUR + i]
            tile[_FIVE + i] = w * (n - tile[i]) * speed
            tile[_SIX + i], tile[_SEVEN + i], tile[_EIGHT + i] = -w * speed, gate * speed, w * slope * speed
    else:
        for i in range(count):
            w, _, n, slope, gate = _gated_unit(tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i])
            tile[_FIVE + i] = w * (n - tile[i]) * tile[_FOUR + i]
