"""Steps of gradient descent, predicted and taken: right ones pass, planted defects fail, kinks are named."""

import dataclasses

import numpy as np
import pytest

from kpref import Flow, Readout
from kpref.analysis.step_test import measure_steps, step_checks
from kpref.flow import GradientFlow
from kpref.models import GRU, RNN, Rate, Stacked

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(4, 10, 3)), RNG.normal(size=(4, 10, 2))
READOUT = Readout(RNG.normal(size=(2, 6)))
ARGUMENTS = {"targets": TARGETS, "loss": "mse", "mask": None, "at": "all"}


def gradient_of(model, **options):
    return Flow(model, INPUTS, **options).gradient_flow(READOUT, TARGETS)


def statuses(gradient):
    return {check.name: check for check in step_checks(measure_steps(gradient, READOUT, ARGUMENTS))}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (GRU.init(3, 6, seed=0), {}),
        (RNN.init(3, 6, seed=0, gain=2.0), {}),
        (RNN.init(3, 6, seed=0, nonlinearity="identity"), {}),
        (Rate.init(3, 6, seed=0), {"dt": 0.1}),
        # Inputs of 1e4: tanh is nearly a step, and the expansion holds for much smaller changes than usual.
        (Rate.init(3, 6, seed=0).with_parameters({"weight_ih": 1e4 * RNG.normal(size=(6, 3))}), {"dt": 0.1}),
    ],
    ids=["gru", "tanh", "linear", "rate", "nearly a kink"],
)
def test_right_predictions_pass(model, options):
    gradient = gradient_of(model, **options)
    step = measure_steps(gradient, READOUT, ARGUMENTS)
    assert step.slope == pytest.approx(2.0, abs=0.05)
    for check in step_checks(step):
        assert check.status == "pass", check


@pytest.mark.parametrize("factor", [1.01, 1.1, -1.0])
def test_a_wrong_gradient_lowers_the_loss_at_another_rate(factor):
    """States move as predicted whatever direction the parameters go: the loss tells."""

    class Wrong(GradientFlow):
        @property
        def grad_theta(self):
            return factor * GradientFlow.grad_theta.func(self)

    right = gradient_of(GRU.init(3, 6, seed=0))
    found = statuses(Wrong(right.flow, right.loss_value))
    assert found["predicted step"].passed
    assert not found["predicted loss"].passed
    err = dataclasses.replace(right.loss_value, err=factor * right.err)
    found = statuses(GradientFlow(right.flow, err))
    assert not found["predicted loss"].passed


@pytest.mark.parametrize("factor", [1.001, 1.01, 2.0])
def test_a_wrong_derivative_of_the_states_is_found(factor):
    class Wrong(GradientFlow):
        @property
        def dz(self):
            return factor * GradientFlow.dz.func(self)

    right = gradient_of(GRU.init(3, 6, seed=0))
    assert not statuses(Wrong(right.flow, right.loss_value))["predicted step"].passed


def test_kinks_are_counted_and_kept_out_of_the_slope():
    gradient = gradient_of(RNN.init(3, 6, seed=0, nonlinearity="relu"))
    step = measure_steps(gradient, READOUT, ARGUMENTS)
    assert step.crossings[0] > 0
    assert step.crossings[-1] == 0
    assert all(check.passed for check in step_checks(step))
    clean = step.crossings == 0
    assert step.fit.crossed == (~clean).sum()
    assert step.slope == pytest.approx(2.0, abs=0.1)
    for check in step_checks(step):
        assert check.verdict.endswith(f"of the {step.fit.crossed} that do no power is claimed")


def test_kinks_of_layers_are_those_of_their_cells():
    stacked = measure_steps(gradient_of(Stacked.init("rnn", 3, 3, 2, seed=0, nonlinearity="relu")), READOUT, ARGUMENTS)
    assert stacked.crossings[0] > 0
    for model in (Stacked.init("gru", 3, 3, 2, seed=0), GRU.init(3, 6, seed=0)):
        step = measure_steps(gradient_of(model), READOUT, ARGUMENTS)
        assert not step.crossings.any()
        assert "kink" not in step_checks(step)[0].verdict


def test_nothing_moves():
    silent = RNN(-np.ones((6, 3)), np.zeros((6, 6)), -9 * np.ones(6), nonlinearity="relu")
    assert measure_steps(gradient_of(silent), READOUT, ARGUMENTS) is None
