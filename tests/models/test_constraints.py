"""Constraints on the recurrent weight, and the two conventions of the leak, against networks without them."""

import numpy as np
import pytest

import kpref
from kpref.models import LeakyRNN, Rate
from kpref.models.registry import registered

UNITS, INPUTS = 6, 3


def inputs(steps=7, trials=4, seed=1):
    return np.random.default_rng(seed).normal(size=(trials, steps, INPUTS))


def constraints(seed=0):
    rng = np.random.default_rng(seed)
    return {"mask": rng.random((UNITS, UNITS)) < 0.6, "dale": np.array([1.0, 1.0, -1.0, 1.0, -1.0, 1.0])}


@pytest.mark.parametrize("leak", ["outside", "inside"])
def test_a_constrained_network_is_that_of_the_weight_it_makes(leak):
    free = LeakyRNN.init(INPUTS, UNITS, 0, leak=leak, alpha=0.3)
    bound = LeakyRNN(**free.parameters, alpha=0.3, leak=leak, **constraints())
    mask, dale = constraints().values()
    weight = np.abs(free.parameters["weight_hh"]) * dale * mask
    assert np.array_equal(bound.weights()["recurrent"], weight)
    same = free.with_parameters({"weight_hh": weight})
    assert np.array_equal(kpref.Flow(bound, inputs()).states, kpref.Flow(same, inputs()).states)


def test_the_kernel_leaves_out_what_the_mask_does():
    """Entries of V under a zero of the mask move nothing; the others move the states by the sign of what they make."""
    free = LeakyRNN.init(INPUTS, UNITS, 0)
    bound = LeakyRNN(**free.parameters, **constraints())
    mask, dale = constraints().values()
    weight = bound.weights()["recurrent"]
    signs = mask * np.sign(free.parameters["weight_hh"]) * dale
    found = kpref.Flow(bound, inputs()).D.to_dense()
    wanted = kpref.Flow(free.with_parameters({"weight_hh": weight}), inputs()).D.to_dense()
    start = free.parameters["weight_ih"].size
    columns = slice(start, start + UNITS**2)
    wanted[:, columns] *= signs.ravel()
    assert np.abs(found - wanted).max() <= 1e-14 * np.abs(wanted).max()
    assert not found[:, columns][:, ~mask.ravel()].any()


def test_conventions_agree_where_they_must():
    """Without a nonlinearity they are one map; and with alpha = 1 the inner one is an RNN."""
    model = LeakyRNN.init(INPUTS, UNITS, 0, alpha=0.3, nonlinearity="identity")
    inner = LeakyRNN(**model.parameters, alpha=0.3, nonlinearity="identity", leak="inside")
    assert np.array_equal(kpref.Flow(model, inputs()).NTK.to_dense(), kpref.Flow(inner, inputs()).NTK.to_dense())
    full = LeakyRNN(**model.parameters, alpha=1.0, leak="inside")
    weights = {name: model.parameters[name] for name in ("weight_ih", "weight_hh")}
    rnn = kpref.models.RNN(**weights, bias_ih=model.parameters["bias"])
    assert np.abs(kpref.Flow(full, inputs()).D.to_dense() - kpref.Flow(rnn, inputs()).D.to_dense()).max() <= 1e-14


def test_rates_follow_currents():
    """With W from the left and the same decay, rates inside are W^-1 of the currents outside, after one step later."""
    alpha, steps = 0.3, 9
    inside = LeakyRNN.init(INPUTS, UNITS, 0, alpha=alpha, leak="inside", bias=False)
    weight = inside.parameters["weight_hh"]
    outside = LeakyRNN(inside.parameters["weight_ih"], weight, alpha=alpha)
    x = np.zeros((2, steps, INPUTS))
    r0 = 0.5 * np.random.default_rng(3).normal(size=(2, UNITS))
    rates = kpref.Flow(inside, x, r0).states
    currents = kpref.Flow(outside, x, r0 @ weight.T).states
    assert np.abs(rates @ weight.T - currents).max() <= 1e-14


@pytest.mark.parametrize("name", ["leaky", "rate"])
def test_refusals(name):
    kind = registered()[name].kind
    for options, message in (
        ({"mask": np.ones((2, 2))}, r"mask must have shape \(6, 6\); got \(2, 2\)"),
        ({"dale": np.ones(2)}, r"dale must have shape \(6,\); got \(2,\)"),
        ({"dale": [1, 1, 0, 1, 1, 1]}, "dale must hold the sign of each unit, 1 or -1"),
    ):
        with pytest.raises(ValueError, match=message):
            kind.init(INPUTS, UNITS, 0, **options)
    with pytest.raises(ValueError, match="leak must be 'outside' or 'inside' the nonlinearity; got 'middle'"):
        LeakyRNN.init(INPUTS, UNITS, 0, leak="middle")
    with pytest.raises(ValueError, match=r"alpha must be above 0 and at most 1; got \[0.0, "):
        LeakyRNN.init(INPUTS, UNITS, 0, alpha=np.linspace(0, 1, UNITS))


@pytest.mark.parametrize("method", ["heun", "rk4"])
def test_a_rate_network_under_constraints(method):
    """By compiled code and by the plain function alike: its derivative against complex steps of the plain one."""
    model = registered()["rate"].init(INPUTS, UNITS, 0, constrained=True, tau=np.linspace(0.5, 2, UNITS))
    weights = {name: model.parameters[name] for name in ("weight_ih", "bias")}
    same = Rate(**weights, weight_hh=model.weights()["recurrent"], tau=model.tau)
    grid = {"dt": 0.1, "method": method}
    one, other = kpref.Flow(model, inputs(), **grid), kpref.Flow(same, inputs(), **grid)
    assert np.abs(one.states - other.states).max() <= 1e-14
    direction = np.random.default_rng(0).normal(size=model.n_parameters)
    step = 1e-6
    moved = [one.rerun(model.with_vector(model.vector + sign * step * direction)) for sign in (1, -1)]
    assert np.abs((moved[0] - moved[1]) / (2 * step) - one.D(direction)).max() <= 1e-8
