"""Compiled Runge-Kutta steps and the coefficients at their stages against the plain NumPy function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow, models
from kpref.forward import CompiledNetwork
from kpref.runge_kutta import StageSystem


def build(kind, method, trials, steps, seed, **options):
    generator = np.random.default_rng(seed)
    if kind == "linear":
        field = models.LinearSystem.init(2, 5, seed, gain=0.5)
    else:
        field = models.Rate.init(2, 5, seed, gain=1.5, nonlinearity=kind, tau=generator.uniform(0.5, 2.0, 5))
    inputs = generator.normal(size=(trials, steps + 1, 2))
    return Flow(field, inputs, generator.normal(size=(trials, 5)), dt=0.2, method=method, **options)


@given(
    kind=st.sampled_from(["tanh", "relu", "softplus", "sigmoid", "erf", "identity", "linear"]),
    method=st.sampled_from(["euler", "heun", "rk4", "dopri5", "dop853"]),
    trials=st.integers(1, 5),
    steps=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    ends=st.booleans(),
)
def test_compiled_steps_and_coefficients_are_those_of_the_plain_function(kind, method, trials, steps, seed, ends):
    options = {"lengths": np.random.default_rng(seed).integers(2, steps + 2, trials)} if ends else {}
    fast = build(kind, method, trials, steps, seed, **options)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("runge_kutta", "linearize"):
            patch.setattr(f"kpref.{module}.compiled_network", lambda model: None)
        plain = build(kind, method, trials, steps, seed, **options)
        theta = np.random.default_rng(seed).normal(size=plain.model.n_parameters)
        expected = plain.D(theta)
    # Both sum the same few terms in another order; the flows are short and not chaotic.
    scale = np.abs(plain.states).max()
    np.testing.assert_allclose(fast.states, plain.states, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(fast.D(theta), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_steps_give_the_coefficients_that_a_second_pass_would(dtype, monkeypatch):
    """To the bit, trials that end early among them; and the second pass does not take place."""
    monkeypatch.setattr("kpref.runge_kutta._SEGMENT_ENTRIES", 2 * 4 * 3 * 5)  # two steps in each
    flow = build("tanh", "rk4", 3, 5, 0, lengths=[6, 2, 4], dtype=dtype)
    stored, solution = flow.dynamics.system, flow.dynamics.solution
    later = StageSystem(flow.model, flow.dynamics.signal, solution, dtype)
    pairs = [(stored.form(segment), later.form(segment)) for segment in stored.segments]
    assert len(pairs) == 3
    for one, other in pairs:
        for name in ("numbers", "variables", "states"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    monkeypatch.setattr(CompiledNetwork, "fill_stages", None)
    again = build("tanh", "rk4", 3, 5, 0, lengths=[6, 2, 4], dtype=dtype)
    assert [form.n_steps for form in map(again.dynamics.system.form, again.dynamics.system.segments)] == [8, 8, 4]


def test_a_blow_up_in_compiled_code_is_reported_like_any_other():
    field = models.LinearSystem(np.ones((2, 1)), 1e200 * np.eye(2))
    inputs = np.zeros((3, 4, 1))
    inputs[1] = 1.0  # the second trial leaves zero and blows up
    with pytest.raises(ValueError, match="trial 1, last accepted state at t"):
        Flow(field, inputs, dt=1.0, method="euler")
