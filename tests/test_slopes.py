"""Orders of errors: from known series, with rounding, across kinks, and the verdicts on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples

from kpref import Flow
from kpref.analysis.slopes import fit_slope, kinks_crossed, slope_check
from kpref.models import GRU, RNN, LeakyRNN, Rate

STEPS = 4.0 ** -np.arange(3, 14)
SMOOTH = np.zeros(len(STEPS), dtype=int)
ONES = np.ones(len(STEPS))


def verdict(errors, rounding=1e-16 / STEPS, crossings=SMOOTH):
    return slope_check("name", "identity", fit_slope(STEPS, errors, ONES, rounding, crossings), "the error")


@examples(50)
@given(order=st.integers(1, 4), higher=st.floats(-5, 5), noise=st.floats(1e-16, 1e-12), seed=SEEDS)
def test_the_order_of_a_series_is_found_within_its_stated_error(order, higher, noise, seed):
    rounding = noise / STEPS
    errors = np.abs(
        STEPS**order + higher * STEPS ** (order + 1) + rounding * np.random.default_rng(seed).uniform(-1, 1, 11)
    )
    fit = fit_slope(STEPS, errors, ONES, rounding, SMOOTH)
    if fit.value is not None:
        # Orders of successive pairs approach the true one at least geometrically, by the factor 4.
        assert abs(fit.value - order) <= 2 * fit.error + 1e-6
    check = verdict(errors, rounding)
    if order == 1:
        assert not check.passed
    else:
        assert check.passed


@pytest.mark.parametrize("level", [1e-7, 1e-3, 0.3, 1.0])
def test_errors_that_level_off_fail(level):
    """A derivative that is wrong by this much leaves so much of the change unexplained."""
    check = verdict(np.hypot(STEPS**2, level))
    assert not check.passed
    assert "power" in check.verdict


def test_errors_that_never_get_small_fail():
    errors = np.resize([0.3, 0.6, 0.5, 0.2, 0.7], len(STEPS))
    check = verdict(errors)
    assert not check.passed
    assert "never falls below" in check.verdict


def test_no_order_between_two_whole_ones():
    """As reported of a relu network: 3.8 to 5.3. Where no kink is crossed this is no success."""
    assert not verdict(STEPS**2.5).passed
    assert not verdict(STEPS**1.5).passed
    assert verdict(STEPS**3).passed  # the second order happens to vanish


def test_nothing_but_rounding_is_nothing_to_test():
    check = verdict(1e-16 / STEPS)
    assert check.passed
    assert check.idle
    assert verdict(np.zeros(len(STEPS))).idle


def test_kinks_are_left_out_and_named():
    errors, crossings = STEPS**2, np.where(STEPS > 1e-4, 3, 0)
    errors = np.where(crossings > 0, STEPS**1.3, errors)
    check = verdict(errors, 1e-18 / STEPS, crossings)
    assert check.passed
    assert not check.idle
    assert f"of the {(crossings > 0).sum()} that do no power is claimed" in check.verdict
    all_but_two = np.where(STEPS > STEPS[-2], 1, 0)
    check = verdict(errors, crossings=all_but_two)
    assert check.idle
    assert "9 steps" in check.verdict
    assert "kink" in check.verdict


def test_overflowing_steps_are_left_out():
    errors = np.where(STEPS > 1e-3, np.nan, STEPS**2)
    assert fit_slope(STEPS, errors, ONES, 1e-16 / STEPS, SMOOTH).value == pytest.approx(2.0)
    assert not verdict(np.full(len(STEPS), np.nan)).passed


def counted(flow, model):
    return kinks_crossed(flow, flow.model, flow.states, model, flow.rerun(model))


def test_crossings_of_a_map_are_counted():
    rng = np.random.default_rng(0)
    model = RNN.init(2, 6, seed=0, nonlinearity="relu")
    flow = Flow(model, rng.normal(size=(3, 8, 2)))
    assert counted(flow, model) == 0
    other = model.with_vector(model.vector + 0.3 * rng.normal(size=model.vector.size))
    active = flow.states > 0
    assert counted(flow, other) == ((flow.rerun(other) > 0) != active).sum() > 0
    for smooth in (GRU.init(2, 6, seed=0), RNN.init(2, 6, seed=0)):
        flow = Flow(smooth, rng.normal(size=(3, 8, 2)))
        assert counted(flow, smooth.with_vector(2 * smooth.vector)) == 0


def test_crossings_of_a_leaky_network_and_of_the_stages_of_a_field():
    rng = np.random.default_rng(0)
    inputs, start = rng.normal(size=(3, 8, 2)), rng.normal(size=(3, 6))
    model = LeakyRNN.init(2, 6, seed=0, nonlinearity="relu")
    flow = Flow(model, inputs, start)
    other = model.with_vector(model.vector + 0.3 * rng.normal(size=model.vector.size))
    signs = [
        np.concatenate([start[:, None], states[:, :-1]], axis=1) > 0 for states in (flow.states, flow.rerun(other))
    ]
    assert counted(flow, other) == (signs[0] != signs[1]).sum() > 0
    field = Rate.init(2, 6, seed=0, nonlinearity="relu")
    flow = Flow(field, inputs, start, dt=0.3)
    other = field.with_vector(field.vector + 0.3 * rng.normal(size=field.vector.size))
    after = Flow(other, inputs, start, dt=0.3)
    stages = [[each.solution.stage_states(step) > 0 for step in range(7)] for each in (flow, after)]
    assert counted(flow, other) == (np.array(stages[0]) != np.array(stages[1])).sum() > 0
