"""Rounding to the arithmetics that a backend may compute in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.oracle.arithmetic import ARITHMETICS, get_arithmetic

ALL = pytest.mark.parametrize("arithmetic", ARITHMETICS.values(), ids=list(ARITHMETICS))


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
    operand = arithmetic.round_operand(value)
    assert abs(operand - stored) <= arithmetic.operand * abs(stored)
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


def test_an_unknown_arithmetic_is_an_error():
    with pytest.raises(ValueError, match="one of float64, float32.*'float8'"):
        get_arithmetic("float8")
    assert get_arithmetic(ARITHMETICS["tf32"]) is ARITHMETICS["tf32"]
