"""Recognition: networks under PyTorch's names, with any prefix, with and without biases and a readout."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint
from kpref.data import example_folder
from kpref.models import GRU, RNN, Rate

from .samples import DATA, DIGITS, N_OUT, H, network, same, without


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize(
    "path, n_inputs, n_states, n_outputs",
    [
        (example_folder() / "checkpoint_00000.safetensors", 3, 128, 3),
        (example_folder() / "checkpoint_01500.safetensors", 3, 128, 3),
        (DIGITS / "checkpoint_00000.safetensors", 8, 64, 10),
        (DIGITS / "checkpoint_02000.safetensors", 8, 64, 10),
    ],
)
def test_trained_networks(path, n_inputs, n_states, n_outputs):
    model, readout = load_checkpoint(path)
    assert isinstance(model, GRU)
    assert (model.n_inputs, model.n_states) == (n_inputs, n_states)
    assert readout.weight.shape == (n_outputs, n_states)
    arrays = safetensors.numpy.load_file(path)
    for name, parameter in model.parameters.items():
        assert same(parameter, arrays[f"rnn.{name}_l0"].astype(np.float64))
    assert same(readout.weight, arrays["Wout.weight"].astype(np.float64))
    assert same(readout.bias, arrays["Wout.bias"].astype(np.float64))


@pytest.mark.parametrize("name, kind", [("gru", GRU), ("rnn_tanh", RNN)])
def test_golden_parameters(name, kind):
    """The recognised network runs as the recorded one did: states are O(1), T = 6 steps of sums of 7 products."""
    with np.load(DATA / "golden" / f"map_{name}.npz") as golden:
        model, readout = load_checkpoint({str(n): golden[f"param_{n}"] for n in golden["names"]})
        assert type(model) is kind
        assert readout is None
        assert np.abs(model.iterate(golden["z0"], golden["inputs"]) - golden["states"]).max() < 1e-14


@given(
    st.sampled_from([1, 3]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(["", "rnn.", "module.rnn.", "cell.0.gru."]),
    st.sampled_from(["_l0", ""]),
    st.sampled_from([None, "Wout", "fc", "decoder", "module.head.1"]),
    st.sets(st.sampled_from(["bias_ih", "bias_hh", "readout bias"])),
    st.randoms(use_true_random=False),
)
def test_names_and_shapes(gates, n_states, n_inputs, prefix, suffix, head, absent, random):
    """Any prefix, any order, with or without each bias."""
    arrays = network(gates, n_states, n_inputs, prefix, suffix, head)
    arrays = without(arrays, *(f"{prefix}{name}{suffix}" for name in absent))
    if "readout bias" in absent:
        arrays = without(arrays, f"{head}.bias")
    shuffled = list(arrays.items())
    random.shuffle(shuffled)
    model, readout = load_checkpoint(dict(shuffled))
    assert type(model) is (GRU if gates == 3 else RNN)
    declared = [n for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if n not in absent]
    assert list(model.parameters) == declared
    for name in declared:
        assert same(model.parameters[name], arrays[f"{prefix}{name}{suffix}"])
    assert (readout is None) == (head is None)
    if readout is not None:
        assert same(readout.weight, arrays[f"{head}.weight"])
        bias = arrays.get(f"{head}.bias", np.zeros(N_OUT))
        states = np.random.default_rng(1).normal(size=(2, 3, n_states))
        # Each output is a sum of n_states + 1 terms, in another order here.
        bound = (n_states + 2) * 2.0**-52 * (np.abs(states) @ np.abs(readout.weight.T) + np.abs(bias))
        assert (np.abs(readout(states) - (states @ readout.weight.T + bias)) <= bound).all()


def test_readout_called_by_one_name():
    arrays = {**network(readout=None), "Wout": np.ones((N_OUT, H)), "Wout.bias": np.ones(N_OUT)}
    _, readout = load_checkpoint(arrays)
    assert same(readout.weight, arrays["Wout"])
    assert same(readout.bias, arrays["Wout.bias"])


@pytest.mark.parametrize("wanted", ["value", "value.weight"])
def test_picks_one_of_several_readouts(wanted):
    arrays = {**network(), "value.weight": np.ones((1, H)), "value.bias": np.ones(1)}
    _, readout = load_checkpoint(arrays, readout=wanted)
    assert same(readout.weight, arrays["value.weight"])
    assert same(readout.bias, arrays["value.bias"])


def test_nonlinearity_and_trainable_reach_the_model():
    model, _ = load_checkpoint(network(gates=1), trainable=["weight_hh"], nonlinearity="relu")
    assert model.nonlinearity.name == "relu"
    assert model.trainable == ("weight_hh",)
    assert load_checkpoint(network(gates=1))[0].nonlinearity.name == "tanh"


@pytest.mark.parametrize("present", [(), ("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])
def test_weights_of_an_rnn_as_a_rate_network(present):
    arrays = without(network(gates=1), *(f"rnn.{name}_l0" for name in {"bias_ih", "bias_hh"} - set(present)))
    model, readout = load_checkpoint(arrays, trainable=["weight_hh"], continuous=True, tau=0.5)
    assert type(model) is Rate
    assert (float(model.tau), model.nonlinearity.name, model.trainable) == (0.5, "tanh", ("weight_hh",))
    for name in ("weight_ih", "weight_hh"):
        assert same(model.parameters[name], arrays[f"rnn.{name}_l0"])
    if present:
        assert same(model.parameters["bias"], sum(arrays[f"rnn.{name}_l0"] for name in present) + 0.0)
    assert ("bias" in model.parameters) == bool(present)
    assert readout is not None
