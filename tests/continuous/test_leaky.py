"""Compiled leaky networks against the plain NumPy function, and their nonlinearities against many digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow, models
from kpref.kernels.pointwise import IDENTITY, RELU, TANH, pointwise
from kpref.models.nonlinearity import get_nonlinearity

KINDS = {TANH: "tanh", RELU: "relu", IDENTITY: "identity"}


def run_pointwise(which, x):
    value, slope, scratch = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    pointwise(which, x, value, slope, True, scratch, scratch.view(np.int64))
    return value, slope


@given(st.lists(st.floats(-340, 340), min_size=1, max_size=30))
def test_tanh_and_its_slope_to_a_few_units_in_the_last_place(numbers):
    x = np.array(numbers)
    value, slope = run_pointwise(TANH, x)
    with mpmath.workdps(40):
        exact = [mpmath.tanh(mpmath.mpf(number)) for number in numbers]
        steep = [mpmath.sech(mpmath.mpf(number)) ** 2 for number in numbers]
        # E is good to 2 units, the quotient adds 1.5; the slope squares it. Below the normal range errors are absolute.
        for got, want, units in [(v, e, 4) for v, e in zip(value, exact, strict=True)] + [
            (s, e, 8) for s, e in zip(slope, steep, strict=True)
        ]:
            assert abs(mpmath.mpf(float(got)) - want) <= units * np.spacing(abs(float(want)))


@pytest.mark.parametrize("which", [RELU, IDENTITY])
def test_the_other_nonlinearities_are_those_of_the_models(which):
    x = np.array([-2.0, -0.0, 0.0, 1e-300, 3.0])
    value, slope = run_pointwise(which, x)
    nonlinearity = get_nonlinearity(KINDS[which])
    np.testing.assert_array_equal(value, nonlinearity.value(x))
    np.testing.assert_array_equal(slope, nonlinearity.slope(x))


def test_tanh_saturates_at_one():
    value, _ = run_pointwise(TANH, np.array([0.0, 400.0, -400.0]))
    np.testing.assert_array_equal(value, [0.0, 1.0, -1.0])


def build(kind, method, trials, steps, seed, **options):
    generator = np.random.default_rng(seed)
    if kind == "linear":
        field = models.LinearSystem.init(2, 5, seed, gain=0.5)
    else:
        field = models.Rate.init(2, 5, seed, gain=1.5, nonlinearity=kind, tau=generator.uniform(0.5, 2.0, 5))
    inputs = generator.normal(size=(trials, steps + 1, 2))
    return Flow(field, inputs, generator.normal(size=(trials, 5)), dt=0.2, method=method, **options)


@given(
    kind=st.sampled_from(["tanh", "relu", "identity", "linear"]),
    method=st.sampled_from(["euler", "heun", "rk4", "dopri5", "dop853"]),
    trials=st.integers(1, 5),
    steps=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_compiled_steps_and_coefficients_are_those_of_the_plain_function(kind, method, trials, steps, seed):
    fast = build(kind, method, trials, steps, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpref.runge_kutta.leaky_form", lambda model: None)
        plain = build(kind, method, trials, steps, seed)
        theta = np.random.default_rng(seed).normal(size=plain.model.n_parameters)
        expected = plain.D(theta)
    # Both sum the same few terms in another order; the flows are short and not chaotic.
    scale = np.abs(plain.states).max()
    np.testing.assert_allclose(fast.states, plain.states, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(fast.D(theta), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_blow_up_in_compiled_code_is_reported_like_any_other():
    field = models.LinearSystem(np.ones((2, 1)), 1e200 * np.eye(2))
    inputs = np.zeros((3, 4, 1))
    inputs[1] = 1.0  # the second trial leaves zero and blows up
    with pytest.raises(ValueError, match="trial 1, last accepted state at t"):
        Flow(field, inputs, dt=1.0, method="euler")
