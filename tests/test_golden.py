"""States and dense operators against ground truth by JAX's automatic differentiation, made independently of kpref."""

from pathlib import Path

import numpy as np
import pytest

from kpref import Flow
from kpref.models import GRU, LSTM, RNN, LeakyRNN

GOLDEN = Path(__file__).parent / "data" / "golden"
MODELS = {
    "map_gru": (GRU, {}),
    "map_lstm": (LSTM, {}),
    "map_rnn_tanh": (RNN, {"nonlinearity": "tanh"}),
    "map_rnn_relu": (RNN, {"nonlinearity": "relu"}),
    "map_leaky_dt0.3": (LeakyRNN, {"nonlinearity": "tanh", "alpha": 0.3}),
}
# 1e-13 of the largest entry: an entry is a product of six steps, each a sum of a dozen products, with growth of order
# one; about a hundred roundings of 1.1e-16 on either side, all of the same sign, would be 2e-14.
BOUND = 1e-13


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    make, options = MODELS[request.param]
    parameters = {str(name): golden[f"param_{name}"] for name in golden["names"]}
    model = make(**parameters, **options)
    assert list(model.parameters) == [str(name) for name in golden["names"]]  # the order of the columns of J
    assert np.abs(golden["z0"]).min() > 0
    return golden, Flow(model, golden["inputs"], golden["z0"], measure="sum")


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= BOUND * np.abs(wanted).max()


def test_states(case):
    golden, flow = case
    assert_close(flow.states, golden["states"])


@pytest.mark.parametrize("name", ["P", "J", "D", "K", "NTK", "D_z0"])
def test_dense_operators(case, name):
    golden, flow = case
    operator = getattr(flow, name)
    assert_close(operator.to_dense(), golden[name])
    assert_close(operator.T.to_dense(), golden[name].T)


def test_propagated_parameter_jacobian(case):
    golden, flow = case
    assert_close((flow.P @ flow.J).to_dense(), golden["D"])


def test_inverse_holds_the_state_jacobians(case):
    golden, flow = case
    trials, steps, units = flow.states.shape
    wanted = np.zeros((trials, steps, units, trials, steps, units))
    for trial in range(trials):
        for step in range(steps):
            wanted[trial, step, :, trial, step, :] = np.eye(units)
            if step > 0:
                wanted[trial, step, :, trial, step - 1, :] = -golden["jac_state"][trial, step]
    assert_close(flow.P_inverse.to_dense(), wanted.reshape(flow.P.shape))


def test_mean_is_the_sum_divided(case):
    golden, flow = case
    mean = Flow(flow.model, golden["inputs"], golden["z0"])
    points = golden["states"].shape[0] * golden["states"].shape[1]
    assert_close(mean.NTK.to_dense(), golden["NTK"] / points)
    assert_close(mean.K.to_dense(), golden["K"] / points)
    assert_close(mean.P.to_dense(), golden["P"])
