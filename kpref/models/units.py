"""What networks do with one unit: from its currents and its old state, its new state and the coefficients of it.

Each function is the twin of plain NumPy code in `kpref.models`, which derives it. It reads and writes a *tile*: rows of
`TILE` units, one row for each number that goes in, stays the same, comes out, or is a coefficient, in this order. All
rows stand at fixed distances in one array, from which the compiler sees that none overlaps another, and so takes
several units at once. The names are those that models call them by (`kpref.models.step.Pointwise`).
"""

from __future__ import annotations

import math

import numpy as np

from kpref.compiled.compilation import inlined, kernel, merged, wide_vectors
from kpref.compiled.elementary import exponential, fma, linoid_pair, sigmoid_pair, softplus, tanh_pair
from kpref.models.gate_units import gated_state, gated_step, gated_velocity, update_gate
from kpref.models.rate_units import keep_plastic, plastic, population, scaled_tanh
from kpref.models.state_space_units import complex_step, gated_sum, held_step
from kpref.models.synapse_units import modulated, multiplied
from kpref.models.tiles import FIELDS, ROW, TILE

__all__ = ["FIELDS", "FUNCTIONS", "TILE", "apply_function"]

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN, _EIGHT = ROW[1:9]
_NINE, _TEN, _ELEVEN, _TWELVE, _THIRTEEN, _FOURTEEN, _FIFTEEN = ROW[9:16]

FUNCTIONS = (
    *("tanh", "relu", "softplus", "sigmoid", "erf", "identity", "gru", "lstm", "neuron", "inhibited-neuron"),
    *("update-gate", "gated-state", "gated-step", "gated-velocity", "scaled-tanh", "population", "plastic"),
    *("complex-step", "gated-sum", "held-step", "modulated", "multiplied"),
)


@merged
def apply_function(function, tile, count, full):  # type: ignore[no-untyped-def]
    """Fill what comes out of a tile (FIELDS * TILE,) for its first `count` units; the coefficients if `full`."""
    plastic_one = function == 16
    if plastic_one:
        keep_plastic(tile, count)
        function, full = np.int64(tile[_THREE]), True
    if function < 6:
        _apply_nonlinearity(function, tile, count, full)
    elif function == 6:
        _gru(tile, count, full)
    elif function == 7:
        _lstm(tile, count, full)
    elif function == 8:
        _neuron(tile, count, full)
    elif function == 9:
        _inhibited_neuron(tile, count, full)
    elif function == 10:
        update_gate(tile, count, full)
    elif function == 11:
        gated_state(tile, count, full)
    elif function == 12:
        gated_step(tile, count, full)
    elif function == 13:
        gated_velocity(tile, count, full)
    elif function == 14:
        scaled_tanh(tile, count, full)
    elif function == 15:
        population(tile, count)
    elif function == 17:
        complex_step(tile, count, full)
    elif function == 18:
        gated_sum(tile, count)
    elif function == 19:
        held_step(tile, count, full)
    elif function == 20:
        modulated(tile, count, full)
    else:
        multiplied(tile, count, full)
    if plastic_one:
        plastic(tile, count)


@merged
def _apply_nonlinearity(function, tile, count, full):  # type: ignore[no-untyped-def]
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
    else:
        _identity(tile, count)


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


@inlined
def _neuron_unit(tile, i, inputs, full):  # type: ignore[no-untyped-def]
    """`kpref.models.hodgkin_huxley`: what goes in is V, m, h, n, s, g_e and, if there are 7 such, g_i; then a, d.

    Out come o_na, o_k, the synaptic current, the velocities of m, h, n, s, and o_l; then the coefficients.
    """
    v, m, h, n, s = tile[i], tile[_ONE + i], tile[_TWO + i], tile[_THREE + i], tile[_FOUR + i]
    excited, inhibited = tile[_FIVE + i], tile[_SIX + i] if inputs == 7 else 0.0
    at = inputs * TILE + i
    rise, fall = tile[at], tile[at + _ONE]
    up, square, cube, to_sodium, to_potassium = v + 65.0, m * m, n * n * n, 50.0 - v, -77.0 - v
    opening_m, rising_m = linoid_pair((v + 40.0) * 0.1)
    opening_n, rising_n = linoid_pair((v + 55.0) * 0.1)
    closing_h, complement_h = sigmoid_pair((v + 35.0) * 0.1)
    sent, complement_s = sigmoid_pair((v - 2.0) * 0.2)
    opening_n, released = 0.1 * opening_n, rise * sent
    opening_h = 0.07 * exponential(up * (-1.0 / 20.0))
    closing_m, closing_n = 4.0 * exponential(up * (-1.0 / 18.0)), 0.125 * exponential(up * (-1.0 / 80.0))
    shut_m, shut_h, shut_n, shut_s = 1.0 - m, 1.0 - h, 1.0 - n, 1.0 - s
    out = at + _TWO
    tile[out] = square * m * h * to_sodium
    tile[out + _ONE] = cube * n * to_potassium
    tile[out + _TWO] = inhibited * (-80.0 - v) - excited * v
    tile[out + _THREE] = opening_m * shut_m - closing_m * m
    tile[out + _FOUR] = opening_h * shut_h - closing_h * h
    tile[out + _FIVE] = opening_n * shut_n - closing_n * n
    tile[out + _SIX] = released * shut_s - fall * s
    tile[out + _SEVEN] = -54.387 - v
    if full:
        slope = out + _EIGHT
        tile[slope] = -(square * m * h)
        tile[slope + _ONE] = 3.0 * square * h * to_sodium
        tile[slope + _TWO] = square * m * to_sodium
        tile[slope + _THREE] = -(cube * n)
        tile[slope + _FOUR] = 4.0 * cube * to_potassium
        tile[slope + _FIVE] = -(excited + inhibited)
        tile[slope + _SIX] = 0.1 * rising_m * shut_m + (1.0 / 18.0) * closing_m * m
        tile[slope + _SEVEN] = -(opening_m + closing_m)
        tile[slope + _EIGHT] = (-1.0 / 20.0) * opening_h * shut_h - 0.1 * closing_h * complement_h * h
        tile[slope + _NINE] = -(opening_h + closing_h)
        tile[slope + _TEN] = 0.01 * rising_n * shut_n + (1.0 / 80.0) * closing_n * n
        tile[slope + _ELEVEN] = -(opening_n + closing_n)
        tile[slope + _TWELVE] = 0.2 * released * complement_s * shut_s
        tile[slope + _THIRTEEN] = -(released + fall)
        tile[slope + _FOURTEEN] = -v
        if inputs == 7:
            tile[slope + _FIFTEEN] = -80.0 - v


@kernel
def _neuron(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            _neuron_unit(tile, i, 6, True)
    else:
        for i in range(count):
            _neuron_unit(tile, i, 6, False)


@kernel
def _inhibited_neuron(tile, count, full):  # type: ignore[no-untyped-def]
    wide_vectors()
    if full:
        for i in range(count):
            _neuron_unit(tile, i, 7, True)
    else:
        for i in range(count):
            _neuron_unit(tile, i, 7, False)
