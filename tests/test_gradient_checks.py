"""A wrong derivative of the loss, and a gradient that is not that of the loss, are told from right ones."""

import dataclasses

import numpy as np
import pytest
from strategies import make_flow

from kpref import Readout
from kpref.analysis.gradient_checks import error_check, flow_check
from kpref.analysis.selfcheck import longest_sum
from kpref.flow import GradientFlow
from kpref.spectra import eigh


def problem(loss, scale=1.0, **more):
    flow = make_flow("GRU", (4, 6, 5))
    rng = np.random.default_rng(1)
    readout = Readout(scale * rng.normal(size=(3, 5)), rng.normal(size=3))
    wanted = {"targets": rng.normal(size=(4, 6, 3))} if loss == "mse" else {"labels": np.arange(4) % 3}
    arguments = {**wanted, "loss": loss, **more}
    return flow.gradient_flow(readout, **arguments), readout, arguments


def judged(gradient):
    largest = float(eigh(gradient.flow.NTK, 1).values[0])
    return flow_check(gradient, largest, longest_sum(gradient.flow))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("more", [{}, {"at": "last"}, {"mask": np.arange(6.0)}])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_right_gradients_pass(loss, more, scale):
    gradient, readout, arguments = problem(loss, scale, **more)
    check = error_check(gradient, readout, arguments, seed=0)
    assert check.passed
    assert not check.idle
    assert check.bound < 1e-3
    assert judged(gradient).passed


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    "spoil", [lambda err: err * (1 + 1e-6), lambda err: -err, lambda err: np.roll(err, 1, axis=1), lambda err: 0 * err]
)
def test_a_wrong_derivative_of_the_loss_is_found(loss, spoil):
    """The slope of predicted steps does not tell a factor of 1.000001 from one."""
    gradient, readout, arguments = problem(loss)
    value = gradient.loss_value
    wrong = GradientFlow(gradient.flow, dataclasses.replace(value, err=spoil(value.err)))
    check = error_check(wrong, readout, arguments, seed=0)
    assert not check.passed
    assert "Err is not the derivative of the loss" in check.verdict


def test_a_mask_that_reaches_only_the_loss_is_found():
    gradient, readout, arguments = problem("mse")
    assert not error_check(gradient, readout, {**arguments, "mask": np.arange(6.0)}, seed=0).passed


@pytest.mark.parametrize("part", [slice(None), slice(-15, None)])
def test_a_wrong_gradient_is_found(part):
    gradient, *_ = problem("mse")
    wrong = gradient.grad_theta.copy()
    wrong[part] *= 1 + 1e-9
    gradient.__dict__["grad_theta"] = wrong
    check = judged(gradient)
    assert not check.passed
    assert "is not −NTK Err" in check.verdict
