"""Rounding to the arithmetics that a backend may compute in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic, get_arithmetic

#: The five that have names, and others in full: mixed precision, and a format of no hardware.
MANY = {
    **ARITHMETICS,
    "autocast": Arithmetic("autocast", 2.0**-24, operand=2.0**-8, result=2.0**-8),
    "sums": Arithmetic("sums in float16", 2.0**-24, accumulate=2.0**-11),
    "states": Arithmetic("float32 states", 2.0**-8, accumulate=2.0**-24, states=2.0**-24),
    "odd": Arithmetic("odd", 2.0**-14, smallest=2.0**-30, largest=2.0**20, elementary={"tanh": 97}),
}
ALL = pytest.mark.parametrize("arithmetic", MANY.values(), ids=list(MANY))


def numbers(arithmetic):
    """Numbers in the normal range of an arithmetic."""
    bound = arithmetic.largest / 4
    magnitudes = st.floats(arithmetic.smallest, bound, allow_subnormal=False)
    return magnitudes | magnitudes.map(lambda value: -value)


@ALL
@given(data=st.data())
def test_rounding_errs_by_the_unit_at_most_and_rounds_once(arithmetic, data):
    value = data.draw(numbers(arithmetic))
    stored = arithmetic.round(value)
    assert abs(stored - value) <= arithmetic.unit * abs(value)
    np.testing.assert_array_equal(arithmetic.round(stored), stored)
    operand = arithmetic.round_operand(stored)
    assert abs(operand - stored) <= arithmetic.operand * abs(stored)
    assert abs(arithmetic.round_state(value) - value) <= arithmetic.states * abs(value)
    assert abs(arithmetic.round_result(value) - value) <= arithmetic.result * abs(value)
    assert abs(arithmetic.round_sum(value) - value) <= arithmetic.accumulate * abs(value)


@ALL
@given(data=st.data())
def test_rounding_keeps_order_and_sign(arithmetic, data):
    values = sorted(data.draw(st.lists(numbers(arithmetic), min_size=2, max_size=8)))
    stored = arithmetic.round(values)
    assert (np.diff(stored) >= 0).all()
    np.testing.assert_array_equal(arithmetic.round([-value for value in values]), -stored)


@ALL
def test_rounding_reaches_half_the_unit(arithmetic):
    # Otherwise the arithmetic would be finer than it says. One rounding of a number in [1, 2) errs by at most u * 1.
    values = 1 + np.random.default_rng(0).random(1000)
    error = np.abs(arithmetic.round(values) - values).max()
    assert arithmetic.name == "float64" or error > 0.9 * arithmetic.unit


@pytest.mark.parametrize("name, dtype", [("float32", np.float32), ("float16", np.float16)])
def test_formats_that_numpy_has_are_rounded_as_numpy_does(name, dtype):
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.linspace(-9, 4, 1000)
    np.testing.assert_array_equal(ARITHMETICS[name].round(values), values.astype(dtype).astype(float))


@pytest.mark.parametrize("name, dropped", [("bfloat16", 16), ("tf32", 13)])
def test_short_formats_round_to_nearest_even(name, dropped):
    step = 2.0 ** (dropped - 23)  # of the short format in [1, 2)
    ties = 1 + step * (np.arange(8) + 0.5)
    expected = 1 + step * np.array([0, 2, 2, 4, 4, 6, 6, 8])
    np.testing.assert_array_equal(ARITHMETICS[name].round_operand(ties), expected)


@pytest.mark.backends
def test_bfloat16_is_that_of_torch():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    theirs = torch.tensor(values).to(torch.bfloat16).to(torch.float64).numpy()
    np.testing.assert_array_equal(ARITHMETICS["bfloat16"].round(values), theirs)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_overflow_gives_infinity(name):
    arithmetic = ARITHMETICS[name]
    np.testing.assert_array_equal(arithmetic.round([4 * arithmetic.largest, -1e300]), [np.inf, -np.inf])
    assert np.isfinite(arithmetic.round(arithmetic.largest))


def test_an_odd_format_has_the_numbers_that_it_should():
    odd = MANY["odd"]
    u, least = odd.unit, odd.smallest
    expected = {
        1 + u: 1.0,
        1 + 3 * u: 1 + 4 * u,
        least * (1 + u): least,
        0.9 * least * u: 0.0,
        1.2 * least * u: 2 * least * u,
    }
    for value, rounded in expected.items():
        assert odd.round(value) == rounded
    np.testing.assert_array_equal(odd.round([2.0**20, -(2.0**21)]), [2.0**20, -np.inf])


@ALL
def test_an_arithmetic_is_plain_data(arithmetic):
    assert get_arithmetic(json.loads(json.dumps(arithmetic.to_dict()))) == arithmetic


def test_elementary_functions_err_as_they_are_said_to():
    odd = MANY["odd"]
    assert odd.error_of("tanh") == (97, 97)
    assert odd.error_of("sigmoid") == ARITHMETICS["float32"].error_of("sigmoid")
    assert Arithmetic("a", 2.0**-24, elementary={"erf": (5, 0)}).error_of("erf") == (5, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unit": 1e-3}, "unit must be a unit roundoff, a power of two .* got 0.001"),
        ({"unit": 0}, "unit must be a unit roundoff"),
        ({"operand": 2.0**-30}, "operand must be coarser than the unit of stored numbers"),
        ({"result": 3.0}, "result must be a unit roundoff"),
        ({"states": 2.0**-8}, "states must be kept as fine as the unit"),
        ({"bias": -1}, "bias must be a relative error"),
        ({"largest": np.inf}, "smallest and largest must be positive floats"),
        ({"elementary": {"gamma": 4}}, "elementary functions are tanh, .* got 'gamma'"),
        ({"elementary": {"tanh": -1}}, "the error of tanh must be a positive number of units, or a pair"),
        ({"elementary": {"tanh": (1, 2, 3)}}, "the error of tanh must be"),
        ({"name": ""}, "an arithmetic has a name"),
    ],
)
def test_an_arithmetic_that_cannot_be_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**{"name": "mine", "unit": 2.0**-24, **options})
    with pytest.raises(TypeError, match="elementary must be a mapping"):
        Arithmetic("mine", 2.0**-24, elementary=97)
    with pytest.raises(ValueError, match="the description of an arithmetic is incomplete"):
        get_arithmetic({"unit": 2.0**-24})


def test_an_unknown_arithmetic_is_an_error():
    with pytest.raises(ValueError, match="one of float64, float32.*'float8'"):
        get_arithmetic("float8")
    assert get_arithmetic(ARITHMETICS["tf32"]) is ARITHMETICS["tf32"]
