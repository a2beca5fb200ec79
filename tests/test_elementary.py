"""Compiled elementary functions against many digits, and functions of a unit against the plain cells."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from kpref.compiled.elementary import exponential, linoid_pair, sigmoid_pair, softplus, tanh_pair
from kpref.models.cells import GRUCell, LSTMCell, UGRNNCell
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.models.units import FIELDS, FUNCTIONS, TILE, apply_function

EPS = np.finfo(float).eps
NUMBERS = st.lists(st.one_of(st.floats(-340, 340), st.floats(-2, 2), st.floats(-1e-3, 1e-3)), min_size=1, max_size=30)


@njit
def over(which, x, first, second):
    for i in range(len(x)):
        if which == 0:
            first[i], second[i] = tanh_pair(x[i])
        elif which == 1:
            first[i], second[i] = sigmoid_pair(x[i])
        elif which == 2:
            first[i], second[i] = softplus(x[i])
        elif which == 3:
            first[i], second[i] = linoid_pair(x[i])
        else:
            first[i], second[i] = exponential(x[i]), exponential(-x[i])


def pairs(which, x):
    first, second = np.empty_like(x), np.empty_like(x)
    over(which, x, first, second)
    return first, second


@given(NUMBERS)
def test_elementary_functions_to_two_units_in_the_last_place(numbers):
    x = np.array(numbers)
    one = mpmath.mpf(1)
    with mpmath.workdps(40):
        exact = [mpmath.mpf(number) for number in numbers]
        for which, functions in enumerate((
            ((mpmath.tanh, 2), (lambda a: mpmath.sech(a) ** 2, 4)),  # the slope is a product of two such
            ((lambda a: one / (one + mpmath.exp(-a)), 2), (lambda a: one / (one + mpmath.exp(a)), 2)),
            ((lambda a: mpmath.log1p(mpmath.exp(a)), 2), (lambda a: one / (one + mpmath.exp(-a)), 2)),
        )):  # fmt: skip
            for got, (function, units) in zip(pairs(which, x), functions, strict=True):
                for value, a in zip(got, exact, strict=True):
                    want = function(a)
                    assert abs(mpmath.mpf(float(value)) - want) <= units * np.spacing(abs(float(want)))


def linoid_and_slope(a):
    if a == 0:
        return mpmath.mpf(1), mpmath.mpf(1) / 2
    e = -mpmath.expm1(-a)
    return a / e, 1 / e - a * mpmath.exp(-a) / e**2


@given(NUMBERS)
def test_linoid_and_exponential_to_a_few_units_in_the_last_place(numbers):
    """Of linoid(a) < 0.58 in `1 - linoid(|a|) - |a|`, which is half of that, and of a quotient by exp(|a|) - 1."""
    x = np.array(numbers)
    with mpmath.workdps(400):  # for numbers as small as 1e-300 there is a difference of orders
        exact = [linoid_and_slope(mpmath.mpf(number)) for number in numbers]
        powers = [(mpmath.exp(mpmath.mpf(number)), mpmath.exp(-mpmath.mpf(number))) for number in numbers]
        for which, wanted, units in ((3, exact, (4, 8)), (4, powers, (2, 2))):
            for got, want, most in zip(pairs(which, x), zip(*wanted, strict=True), units, strict=True):
                for value, one in zip(got, want, strict=True):
                    assert abs(mpmath.mpf(float(value)) - one) <= most * np.spacing(abs(float(one)))


def test_linoid_and_exponential_at_their_ends():
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 800.0, -800.0])
    value, slope = pairs(3, x)
    np.testing.assert_array_equal(value[[0, 1, 2, 4, 5]], [1, 1, np.inf, np.nan, 800])
    np.testing.assert_array_equal(slope[[0, 1, 4, 5]], [0.5, 0.5, np.nan, 1])
    assert (np.abs(value[[3, 6]]) < 1e-300).all()
    up, down = pairs(4, x)
    np.testing.assert_array_equal(up[[0, 1, 4]], [1, 1, np.nan])
    assert not np.isfinite(up[[2, 5]]).any()
    assert (up[[3, 6]] < 1e-300).all()
    np.testing.assert_array_equal(down[[3, 6]], up[[2, 5]])


@given(st.lists(st.floats(-40, 40, width=32) | st.floats(-1, 1, width=32), min_size=1, max_size=30))
def test_elementary_functions_in_float32_to_two_units_in_the_last_place(numbers):
    x = np.array(numbers, dtype=np.float32)
    a = x.astype(float)  # in which the functions below are right to 1e-7 units of float32
    for which, (value, slope) in enumerate((
        (np.tanh(a), 1 / np.cosh(a) ** 2), (1 / (1 + np.exp(-a)), 1 / (1 + np.exp(a))),
    )):  # fmt: skip
        first, second = pairs(which, x)
        assert first.dtype == np.float32
        assert (np.abs(first - value) <= 2.001 * np.spacing(np.abs(first))).all()
        assert (np.abs(second - slope) <= (4.001 if which == 0 else 2.001) * np.spacing(np.abs(second))).all()


def test_elementary_functions_where_they_saturate_in_float32():
    x = np.array([0.0, 1e4, -1e4, np.inf, -np.inf, np.nan], dtype=np.float32)
    value, slope = pairs(0, x)
    np.testing.assert_array_equal(value, np.array([0, 1, -1, 1, -1, np.nan], dtype=np.float32))
    assert (slope[1:5] < 1e-37).all()
    large, small = pairs(1, x)
    np.testing.assert_array_equal(large[[0, 1, 3, 5]], np.array([0.5, 1, 1, np.nan], dtype=np.float32))
    assert (small[[1, 3]] < 1e-37).all()


def test_elementary_functions_where_they_saturate():
    x = np.array([0.0, -0.0, 1e4, -1e4, np.inf, -np.inf, np.nan])
    value, slope = pairs(0, x)
    np.testing.assert_array_equal(value, [0, 0, 1, -1, 1, -1, np.nan])
    assert slope[0] == 1
    assert (slope[2:6] < 1e-300).all()
    large, small = pairs(1, x)
    np.testing.assert_array_equal(large[[0, 2, 4, 6]], [0.5, 1, 1, np.nan])
    assert (large[[3, 5]] < 1e-300).all()
    np.testing.assert_array_equal(small[[0, 3, 5, 6]], [0.5, 1, 1, np.nan])


def filled(name, inputs, outputs, full=True):
    """Rows of a tile that come out for inputs (n, units)."""
    tile, units = np.full(FIELDS * TILE, np.nan), inputs.shape[1]
    rows = tile.reshape(FIELDS, TILE)
    rows[: len(inputs), :units] = inputs
    apply(FUNCTIONS.index(name), tile, units, full)
    return rows[len(inputs) : len(inputs) + outputs, :units].copy()


@njit
def apply(function, tile, count, full):
    apply_function(function, tile, count, full)


def unit_numbers(seed, count, units):
    """Numbers of all sizes that currents have, zeros among them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, units)) * rng.choice([0.0, 1e-6, 0.3, 3.0, 40.0], size=(count, units))


@pytest.mark.parametrize("name", NONLINEARITIES)
@given(seed=st.integers(0, 2**32 - 1), units=st.integers(1, TILE))
def test_nonlinearities_are_those_of_the_models(name, seed, units):
    a = unit_numbers(seed, 1, units)
    plain = NONLINEARITIES[name]
    value, slope = filled(name, a, 2)
    # Values below 1e-300 may differ: where the plain slope underflows the compiled one stays at its smallest.
    assert (np.abs(value - plain.value(a[0])) <= 8 * EPS * np.abs(plain.value(a[0])) + 1e-300).all()
    # exp(-a^2) magnifies the rounding of a^2, which is the same in both.
    assert (np.abs(slope - plain.slope(a[0])) <= 8 * EPS * np.abs(plain.slope(a[0])) + 1e-300).all()
    np.testing.assert_array_equal(filled(name, a, 1, full=False)[0], value)


@given(seed=st.integers(0, 2**32 - 1), units=st.integers(1, TILE))
def test_gru_and_lstm_units_are_those_of_the_plain_cells(seed, units):
    """Within 8 ulp of the largest term: 1 for what is a product of gates, else the state or current it is made of."""
    h, a_n, reset, update, c_n = numbers = unit_numbers(seed, 5, units)
    cell, zero = GRUCell(), np.zeros(units)
    recurrent, driven = np.concatenate([reset, update, a_n]), np.concatenate([zero, zero, c_n])
    expected = np.stack([cell.step(recurrent, driven, [h])[0], *cell.channels(recurrent, driven, [h]).values()])
    # The candidate's argument is rounded, to a unit of its largest term.
    size = np.maximum(1, np.maximum(np.abs(a_n), np.abs(c_n)))
    terms = np.stack([np.maximum(size, np.abs(h)), np.ones(units), size, size * np.maximum(1, np.abs(a_n)),
                      np.maximum(size, np.abs(h)), size])  # fmt: skip
    assert (np.abs(filled("gru", numbers, 6) - expected) <= 8 * EPS * terms).all()
    np.testing.assert_array_equal(filled("gru", numbers, 1, full=False), filled("gru", numbers, 1))

    c, a_i, a_f, a_g, a_o = numbers
    cell = LSTMCell()
    recurrent, driven = np.concatenate([a_i, a_f, a_g, a_o]), np.zeros(4 * units)
    new_h, new_c = cell.step(recurrent, driven, [h, c])
    expected = np.stack([new_c, new_h, *cell.channels(recurrent, driven, [h, c]).values()])
    size = np.maximum(1, np.abs(c))
    terms = np.stack([size] * 8)
    assert (np.abs(filled("lstm", numbers, 8) - expected) <= 8 * EPS * terms).all()
    np.testing.assert_array_equal(filled("lstm", numbers, 2, full=False), filled("lstm", numbers, 2))


@given(seed=st.integers(0, 2**32 - 1), units=st.integers(1, TILE))
def test_a_unit_with_an_update_gate_is_that_of_the_plain_cell(seed, units):
    """Within 8 ulp of the largest term, which is a state, or 1."""
    h, a_n, a_g = numbers = unit_numbers(seed, 3, units)
    cell, driven = UGRNNCell(), np.zeros(2 * units)
    currents = np.concatenate([a_n, a_g])
    expected = np.stack([cell.step(currents, driven, [h])[0], *cell.channels(currents, driven, [h]).values()])
    assert (np.abs(filled("update-gate", numbers, 4) - expected) <= 8 * EPS * np.maximum(1, np.abs(h))).all()
    np.testing.assert_array_equal(filled("update-gate", numbers, 1, full=False), filled("update-gate", numbers, 1))


@given(st.integers(0, 10**6))
def test_states_and_synapses_of_inputs_that_are_held(seed):
    """As `S4D` and `MPN` derive them, by complex numbers of more digits.

    Of a state sums of at most five products of four numbers, with six roundings on the way; of a synapse one product of
    three, the first of which is at most twice the largest number, with three.
    """
    given = np.random.default_rng(seed).normal(size=(12, 130))[:, :TILE]
    u, v, s, *pairs, decay, omega, delta = given.astype(np.longdouble)
    a, b, by_a = (re + 1j * im for re, im in zip(pairs[::2], pairs[1::2], strict=True))
    x = u + 1j * v
    new, e, g = a * x + b * s, delta * a * x + by_a * s, delta * a * ((-decay + 1j * omega) * x + s)
    by_alpha, by_omega = -decay * e, 1j * e
    expected = [new.real, new.imag, g.real, by_alpha.real, by_omega.real, g.imag, by_alpha.imag, by_omega.imag]
    largest = np.maximum(1, np.abs(given)).max(axis=0) ** 4
    assert (np.abs(filled("held-step", given, 8) - np.stack(expected)) <= 15 * EPS * largest).all()
    m, x, weight = three = given[:3]
    seen = (1 + m) * x
    close = 3 * EPS * np.maximum(1, np.abs(three)).max(axis=0) ** 3
    assert (np.abs(filled("modulated", three, 3) - np.stack([weight * seen, weight * x, seen])) <= close).all()
    np.testing.assert_array_equal(filled("multiplied", three[:2], 2), [m * x, x])
    for name, numbers, first in (("held-step", given, 2), ("modulated", three, 1), ("multiplied", three[:2], 1)):
        np.testing.assert_array_equal(filled(name, numbers, first, full=False), filled(name, numbers, first))


def test_nonlinearities_stand_first_and_in_their_order():
    """Short-term plasticity gives the number of one to its function."""
    assert FUNCTIONS[: len(NONLINEARITIES)] == tuple(NONLINEARITIES)
