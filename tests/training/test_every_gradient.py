"""The gradient of every network, loss, readout, initial state and rule against complex steps of the plain functions."""

import numpy as np
import pytest
from hypothesis import given
from strategies import examples

from kpref import Flow, Readout, rules
from kpref.models.registry import registered
from kpref.training import Objective

from .test_objective import (
    CASES,
    N_IN,
    N_OUT,
    H,
    check_against_complex_steps,
    drawn,
    objective,
    plain_loss,
)

NETWORKS = {
    " ".join([name, *(f"{key}={value}" for key, value in variant.items())]): (known, variant)
    for name, known in registered().items()
    for variant in known.variants
}


def shortest(lengths, known):
    """Of one time of a field there is no trajectory."""
    return lengths if lengths is None or not known.is_continuous else np.maximum(lengths, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_network_are_exact(name):
    """All is trained, z0 among it; the readout is of the observed states, of some seeds without a bias."""
    known, variant = NETWORKS[name]

    @examples(4)
    @given(CASES)
    def check(case):
        seed, loss, at, lengths, masked = case
        rng = np.random.default_rng(seed)
        model = known.init(N_IN, H, seed % 1000, **variant)
        trials = drawn(rng, loss, shortest(lengths, known), masked)
        time = {"dt": known.dt} if known.is_continuous else {}
        of = objective(model, rng, trials, loss, at, **time)
        check_against_complex_steps(of, model, trials, loss, at, rng, **time)

    check()


@pytest.mark.parametrize("name", rules.RULES)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_what_a_rule_leaves_alone_is_the_gradient(name, loss):
    """Readout and z0 learn by the gradient whatever the model's parameters do, and these by the rule as it is."""
    rng = np.random.default_rng(3)
    known, _ = NETWORKS["rnn"]
    model, trials, rule = known.init(N_IN, H, 0), drawn(rng, loss, [5, 3, 4], True), rules.get(name)
    of = objective(model, rng, trials, loss, "all", rule=rule)
    _, gradient = of.value_and_gradient(of.vector)
    found = of.unflatten(gradient)
    direction = rng.normal(size=of.size)
    direction[: model.n_parameters] = 0.0
    exact = plain_loss(model, trials, of.unflatten(of.vector + 1e-30j * direction), loss, "all").imag / 1e-30
    assert abs(gradient @ direction - exact) <= 1e-11 * np.abs(gradient * direction).sum()
    flow = Flow(model, trials, of.start.z0)
    answers = {"targets": trials.targets} if loss == "mse" else {"labels": trials.labels}
    err = flow.gradient_flow(of.start.readout, loss=loss, mask=trials.mask, **answers).err + 0.3 / H * flow.states
    moved = model.unflatten(rules.direction(rule, flow, err))
    for part, array in moved.items():
        wanted = array + 0.1 * model.parameters[part]
        np.testing.assert_allclose(found[part], wanted, rtol=0, atol=1e-13 * max(1.0, np.abs(wanted).max()))


def test_a_readout_without_a_bias_has_no_gradient_by_one():
    rng = np.random.default_rng(4)
    known, _ = NETWORKS["lstm"]
    model, trials = known.init(N_IN, H, 0), drawn(rng, "mse")
    of = Objective(model, Readout(rng.normal(size=(N_OUT, H))), trials, weight_decay=0.1, activity=0.3)
    assert of.names[-1] == "readout.weight"
    direction = rng.normal(size=of.size)
    fixed = {"readout.bias": np.zeros(N_OUT), "z0": np.zeros(model.n_states)}
    exact = plain_loss(model, trials, of.unflatten(of.vector + 1e-30j * direction) | fixed, "mse", "all").imag / 1e-30
    terms = of.value_and_gradient(of.vector)[1] * direction
    assert abs(terms.sum() - exact) <= 1e-11 * np.abs(terms).sum()
