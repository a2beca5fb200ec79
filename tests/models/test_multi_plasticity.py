"""The multi-plasticity network against its equations, synapse by synapse; its kernel; what is refused."""

import numpy as np
import pytest

import kpref
from kpref.models import MPN


@pytest.mark.parametrize("modulation", ["multiplied", "added"])
def test_states_are_those_of_the_equations(modulation):
    rng = np.random.default_rng(0)
    model = MPN.init(2, 3, 0, decay=0.8, rate=0.4, modulation=modulation).with_parameters({"bias": rng.normal(size=3)})
    z0, x = rng.normal(size=(2, 9)), rng.normal(size=(2, 5, 2))
    flow, weight = kpref.Flow(model, x, z0), model.parameters["weight_ih"]
    for trial in range(2):
        memory = z0[trial, 3:].reshape(3, 2)
        for n in range(5):
            effective = weight + memory * weight if modulation == "multiplied" else weight + memory
            h = np.tanh(effective @ x[trial, n] + model.parameters["bias"])
            memory = 0.8 * memory + 0.4 * np.outer(h, x[trial, n])
            wanted = np.concatenate([h, memory.ravel()])
            assert np.abs(flow.states[trial, n] - wanted).max() <= 1e-14 * max(1, np.abs(wanted).max()) * (n + 1)


def test_without_plasticity_nothing_is_remembered():
    """eta = lambda = 0 and M = 0: h is a layer of its inputs, and P of a forcing of h is the forcing."""
    model = MPN.init(2, 3, 1).with_parameters({"decay": [0.0], "rate": [0.0]})
    rng = np.random.default_rng(1)
    flow = kpref.Flow(model, rng.normal(size=(2, 4, 2)))
    wanted = np.tanh(flow.inputs @ model.parameters["weight_ih"].T)
    assert np.abs(flow.states[..., model.observed] - wanted).max() <= 1e-15
    assert not flow.states[..., 3:].any()
    forcing = np.zeros(flow.states.shape)
    forcing[..., model.observed] = rng.normal(size=wanted.shape)
    assert np.array_equal(flow.P(forcing), forcing)


def test_what_is_refused():
    weight = np.ones((3, 2))
    for given, message in (
        ({"weight_ih": np.ones(3)}, r"weight_ih must have shape \(H, n_inputs\)"),
        ({"weight_ih": np.ones((3, 0))}, "neither of them 0"),
        ({"bias": np.ones(2)}, r"bias must have shape \(3,\)"),
        ({"decay": 0.9}, r"decay must have shape \(1,\)"),
        ({"rate": [0.1, 0.2]}, r"rate must have shape \(1,\)"),
        ({"modulation": "divided"}, "'multiplied' or 'added'; got 'divided'"),
    ):
        with pytest.raises(ValueError, match=message):
            MPN(**{"weight_ih": weight} | given)
