"""What networks do with one unit: from its currents and its old state, its new state and the coefficients of it.

Each function is the twin of plain NumPy code in `kpref.models`, which derives it. It reads and writes a *tile*: rows of
`TILE` units, one row for each number that goes in, comes out, or is a coefficient, in this order. All rows stand at
fixed distances in one array, from which the compiler sees that none overlaps another, and so takes several units at
once. The names are those that models call them by (`kpref.models.step.Pointwise`).
"""

from __future__ import annotations

import math

from kpref.compiled.compilation import inlined, kernel, merged, wide_vectors
from kpref.compiled.elementary import fma, sigmoid_pair, softplus, tanh_pair

__all__ = ["FIELDS", "FUNCTIONS", "TILE", "apply_function"]

#: Units of a tile, and the most numbers of one.
TILE, FIELDS = 128, 16

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX = (row * TILE for row in range(1, 7))
_SEVEN, _EIGHT, _NINE, _TEN, _ELEVEN, _TWELVE = (row * TILE for row in range(7, 13))

FUNCTIONS = ("tanh", "relu", "softplus", "sigmoid", "erf", "identity", "gru", "lstm")


@merged
def apply_function(function, tile, count, full):  # type: ignore[no-untyped-def]
    """Fill what comes out of a tile (FIELDS * TILE,) for its first `count` units; the coefficients if `full`."""
    if function == 0:
        _tanh(tile, count, full)
    elif function == 1:
        _relu(tile, count)
    elif function == 2:
        _softplus(tile, count)
    elif function == 3:
        _sigmoid(tile, count, full)
    elif function == 4:
        _erf(tile, count)
    elif function == 5:
        _identity(tile, count)
    elif function == 6:
        _gru(tile, count, full)
    else:
        _lstm(tile, count, full)


@kernel
def _tanh(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            tile[_ONE + i], tile[_TWO + i] = tanh_pair(tile[i])
    else:
        for i in range(count):
            tile[_ONE + i] = tanh_pair(tile[i])[0]


@kernel
def _relu(tile, count):  # type: ignore[no-untyped-def]
    """NaN stays NaN."""
    for i in range(count):
        a = tile[i]
        tile[_ONE + i] = 0.0 if a <= 0 else a
        tile[_TWO + i] = 1.0 if a > 0 else 0.0


@kernel
def _softplus(tile, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        tile[_ONE + i], tile[_TWO + i] = softplus(tile[i])


@kernel
def _sigmoid(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            value, complement = sigmoid_pair(tile[i])
            tile[_ONE + i] = value
            tile[_TWO + i] = value * complement
    else:
        for i in range(count):
            tile[_ONE + i] = sigmoid_pair(tile[i])[0]


@kernel
def _erf(tile, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        a = tile[i]
        tile[_ONE + i] = math.erf(a)
        tile[_TWO + i] = 2.0 / math.sqrt(math.pi) * math.exp(-(a * a))


@kernel
def _identity(tile, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        tile[_ONE + i] = tile[i]
        tile[_TWO + i] = 1.0


@inlined
def _gru_unit(h, a_n, reset, update, c_n):  # type: ignore[no-untyped-def]
    """The new h; update, hidden, reset_gate, update_gate, candidate: `kpref.models.cells.GRUCell`."""
    r, r_complement = sigmoid_pair(reset)
    u, u_complement = sigmoid_pair(update)
    n, slope = tanh_pair(fma(r, a_n, c_n))
    s = u_complement * slope
    return u_complement * n + u * h, u, s * r, s * r * r_complement * a_n, (h - n) * (u * u_complement), s


@kernel
def _gru(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            h, u, hidden, reset, update, s = _gru_unit(
                tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i]
            )
            tile[_FIVE + i], tile[_SIX + i], tile[_SEVEN + i] = h, u, hidden
            tile[_EIGHT + i], tile[_NINE + i], tile[_TEN + i] = reset, update, s
    else:
        for i in range(count):
            tile[_FIVE + i] = _gru_unit(
                tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i]
            )[0]  # fmt: skip


@inlined
def _lstm_unit(c, a_i, a_f, a_g, a_o):  # type: ignore[no-untyped-def]
    """The new c and h; forget, three gates, output, output_gate: `kpref.models.cells.LSTMCell`."""
    i, i_complement = sigmoid_pair(a_i)
    f, f_complement = sigmoid_pair(a_f)
    g, g_slope = tanh_pair(a_g)
    o, o_complement = sigmoid_pair(a_o)
    new = f * c + i * g
    seen, slope = tanh_pair(new)
    return (
        new, o * seen,
        f, g * (i * i_complement), c * (f * f_complement), i * g_slope, o * slope, seen * (o * o_complement),
    )  # fmt: skip


@kernel
def _lstm(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            c, h, forget, input_gate, forget_gate, cell_gate, output, output_gate = _lstm_unit(
                tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i]
            )
            tile[_FIVE + i], tile[_SIX + i], tile[_SEVEN + i], tile[_EIGHT + i] = c, h, forget, input_gate
            tile[_NINE + i], tile[_TEN + i] = forget_gate, cell_gate
            tile[_ELEVEN + i], tile[_TWELVE + i] = output, output_gate
    else:
        for i in range(count):
            found = _lstm_unit(tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i])
            tile[_FIVE + i], tile[_SIX + i] = found[0], found[1]
