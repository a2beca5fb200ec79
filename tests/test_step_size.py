"""Stability functions, spurious growth, and halved steps, against what is known of both."""

import numpy as np
import pytest

from kpref import Flow
from kpref.analysis.selfcheck import self_check
from kpref.analysis.step_size import measure_step_size, stability_function, step_size_check
from kpref.integrate import TABLEAUS
from kpref.models import LinearSystem, Lorenz63, Rate


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_stability_function_is_what_a_step_multiplies_by(name):
    """One step of ``dz/dt = A z`` with A a rotation and decay, which acts on the plane as a complex number does."""
    for rate in (-0.3 + 0.7j, -2.0 + 0.1j, 0.4 - 1.0j):
        matrix = np.array([[rate.real, -rate.imag], [rate.imag, rate.real]])
        flow = Flow(
            LinearSystem(np.zeros((2, 1)), matrix), np.zeros((1, 2, 1)), np.array([1.0, 0.0]), dt=1.0, method=name
        )
        found = complex(*flow.states[0, 1])
        np.testing.assert_allclose(stability_function(TABLEAUS[name], rate), found, rtol=1e-12)


def leaky(step, method="rk4", nonlinearity="tanh", weight=None, steps=10):
    weight = np.zeros((3, 3)) if weight is None else weight
    rng = np.random.default_rng(0)
    field = Rate(rng.normal(size=(3, 2)), weight, nonlinearity=nonlinearity)
    return Flow(field, rng.normal(size=(4, steps, 2)), dt=step, method=method)


@pytest.mark.parametrize(("method", "limit"), [("euler", 2.0), ("rk4", 2.785293563405282)])
def test_the_limit_of_a_decay_is_that_of_the_method(method, limit):
    """Without recurrence every eigenvalue is -1; the intervals of stability are (-2, 0) and (-2.785, 0)."""
    assert step_size_check(measure_step_size(leaky(0.98 * limit, method))).passed
    found = measure_step_size(leaky(3.5, method))
    check = step_size_check(found)
    assert not check.passed
    assert found.eigenvalue == pytest.approx(-1.0)
    assert found.growth == pytest.approx(9 * np.log(abs(stability_function(TABLEAUS[method], -3.5))))
    # Found on a grid of factors 2^(1/16), to two digits; above the limit by what adds less than a factor of two.
    assert limit * 2 ** (-1 / 16) - 0.1 < found.limit < 1.05 * limit
    assert "the step 3.5 is 3.5 times the time constant 1" in check.verdict
    assert f"{method} is unstable there" in check.verdict
    assert f"use a step (--dt) of {found.limit:g} or less" in check.verdict
    assert step_size_check(measure_step_size(leaky(found.limit, method))).passed


def test_a_step_far_beyond_stability_fails_the_self_check():
    found = self_check(leaky(5.0))
    assert not found.passed
    assert [check.name for check in found.checks if not check.passed] == ["step size"]


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_growth_of_the_network_itself_is_not_accused(method):
    """Eigenvalues of 1 and 3: solutions grow, as they should. And chaos."""
    flow = leaky(0.2, method, "identity", np.diag([2.0, 4.0, 0.0]), steps=12)
    assert np.abs(flow.states).max() > 15
    assert step_size_check(measure_step_size(flow)).passed
    if method != "euler":
        flow = Flow(Lorenz63(), None, np.ones((2, 3)), times=0.01 * np.arange(400), method=method)
        assert step_size_check(measure_step_size(flow)).passed


def test_oscillations_that_a_method_blows_up_are_found():
    """Euler turns a circle into a spiral: |R(iy)| = sqrt(1 + y^2)."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for step, steps, good in ((0.1, 51, True), (0.5, 51, False)):
        flow = Flow(
            LinearSystem(np.zeros((2, 1)), turn), np.zeros((1, steps, 1)), np.array([1.0, 0.0]), dt=step, method="euler"
        )
        found = measure_step_size(flow)
        assert found.growth == pytest.approx(25 * np.log1p(step**2))
        assert step_size_check(found).passed == good
        # 25 / theta log(1 + theta^2 / 4) = log 2 near theta = 0.11: steps a tenth as large, at ten times their number.
        assert good or found.limit == pytest.approx(0.056, rel=0.05)


@pytest.mark.parametrize("kind", ["hold", "linear"])
def test_halved_steps_tell_the_error(kind):
    rng = np.random.default_rng(1)
    field, inputs = Rate.init(2, 4, 0, gain=1.2), rng.normal(size=(3, 9, 2))
    flow = Flow(field, inputs, dt=0.2, input_kind=kind)
    # The same signal on a grid sixteen times as fine: the error of that is 16^-4 of the other.
    fine = 0.2 * np.arange(8 * 16 + 1) / 16
    left = np.minimum(np.arange(len(fine)) // 16, 7)
    theta = ((fine - 0.2 * left) / 0.2)[None, :, None]
    dense = inputs[:, left] if kind == "hold" else (1 - theta) * inputs[:, left] + theta * inputs[:, left + 1]
    exact = Flow(field, dense, times=fine, input_kind=kind).states[:, ::16]
    expected = np.linalg.norm(flow.states - exact) / np.linalg.norm(exact)
    assert measure_step_size(flow).error == pytest.approx(expected, rel=0.1)


def test_coarse_steps_are_said_to_be():
    assert "coarse" in measure_step_size(leaky(0.9, "euler")).in_words()
    assert "coarse" not in measure_step_size(leaky(0.05)).in_words()


@pytest.mark.parametrize(("method", "step", "gain"), [("euler", 1.9, 0.9), ("heun", 1.9, 0.9), ("euler", 50.0, 2.0)])
def test_the_advised_step_was_tried(method, step, gain):
    """Other steps lead along other states: scaled by the rates along the unstable ones, 1.08 was advised, and fails."""
    rng = np.random.default_rng(0)
    field, inputs = Rate.init(3, 7, 0, gain=gain), rng.normal(size=(5, 24, 3))
    found = measure_step_size(Flow(field, inputs, dt=step, method=method))
    assert not found.stable
    assert found.limit > 0.2
    assert f"{found.limit:g}" == f"{found.limit:.2g}"  # what is printed is what was tried
    assert measure_step_size(Flow(field, inputs, dt=found.limit, method=method)).stable
