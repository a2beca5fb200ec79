"""Recognition: networks under PyTorch's names, with any prefix, with and without biases and a readout."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint
from kpref.data import example_folder
from kpref.models import GRU, LSTM, RNN, LeakyRNN, Rate, Stacked

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


@pytest.mark.parametrize("name, kind", [("gru", GRU), ("rnn_tanh", RNN), ("lstm", LSTM)])
def test_golden_parameters(name, kind):
    """The recognised network runs as the recorded one did: states are O(1), T = 6 steps of sums of 7 products."""
    with np.load(DATA / "golden" / f"map_{name}.npz") as golden:
        model, readout = load_checkpoint({str(n): golden[f"param_{n}"] for n in golden["names"]})
        assert type(model) is kind
        assert readout is None
        assert np.abs(model.iterate(golden["z0"], golden["inputs"]) - golden["states"]).max() < 1e-14


@given(
    st.sampled_from([1, 3, 4]),
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
    assert type(model) is {1: RNN, 3: GRU, 4: LSTM}[gates]
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


@pytest.mark.parametrize("leak", [None, "outside", "inside"])
def test_weights_of_an_rnn_as_a_leaky_network(leak):
    arrays = network(gates=1)
    model, readout = load_checkpoint(arrays, alpha=0.2, leak=leak, nonlinearity="softplus")
    assert type(model) is LeakyRNN
    assert (model.alpha, model.options["leak"], model.nonlinearity.name) == (0.2, leak or "outside", "softplus")
    assert same(model.parameters["bias"], arrays["rnn.bias_ih_l0"] + arrays["rnn.bias_hh_l0"])
    assert readout is not None
    with pytest.raises(ValueError, match="a GRU has no alpha to choose; got 0.2"):
        load_checkpoint(network(gates=3), alpha=0.2)
    with pytest.raises(ValueError, match="an RNN has no leak to choose; got 'inside'"):
        load_checkpoint(arrays, leak="inside")


@given(
    st.sampled_from([1, 3, 4]),
    st.integers(2, 4),
    st.integers(1, 4),
    st.sampled_from(["", "rnn.", "module.cell."]),
    st.sets(st.tuples(st.sampled_from(["bias_ih", "bias_hh"]), st.integers(0, 3))),
    st.randoms(use_true_random=False),
)
def test_layers_one_above_the_other(gates, n_layers, n_inputs, prefix, absent, random):
    """In any order, with or without each bias; the readout sees the h of the last one."""
    arrays = network(gates, n_inputs=n_inputs, prefix=prefix)
    for layer in range(1, n_layers):
        arrays |= network(gates, n_inputs=H, prefix=prefix, suffix=f"_l{layer}", readout=None, seed=layer)
    arrays = without(arrays, *(f"{prefix}{name}_l{layer}" for name, layer in absent))
    shuffled = list(arrays.items())
    random.shuffle(shuffled)
    model, readout = load_checkpoint(dict(shuffled))
    assert type(model) is Stacked
    assert model.n_layers == n_layers
    assert model.n_states == n_layers * H * (2 if gates == 4 else 1)
    for name, parameter in model.parameters.items():
        assert same(parameter, arrays[f"{prefix}{name}"])
    assert len(model.parameters) + 2 == len(arrays)
    assert readout.n_states == model.observed.stop - model.observed.start == H


def test_cells_that_stand_one_above_the_other_by_map():
    """Two cells in a list go by names of their own: what stands above what has to be said."""
    first = network(suffix="", prefix="cells.0.", readout=None)
    second = network(suffix="", prefix="cells.1.", n_inputs=H, readout=None)
    places = {f"{name.rpartition('.')[2]}_l0": name for name in first}
    places |= {f"{name.rpartition('.')[2]}_l1": name for name in second}
    model, _ = load_checkpoint({**first, **second}, map=places)
    assert type(model) is Stacked
    for key, name in places.items():
        assert same(model.parameters[key], {**first, **second}[name])


def test_one_layer_of_several_that_was_saved_as_such():
    """Shapes tell a GRU, the file that it has numbered layers."""
    arrays = network()
    assert type(load_checkpoint(arrays).model) is GRU
    assert type(load_checkpoint({**arrays, "model": "stacked-gru"}).model) is Stacked
    assert type(load_checkpoint({**arrays, "model": "rnn"}).model) is GRU


def test_a_single_bias_of_an_lstm():
    """Equinox has one bias, which only counts together with the other: it is either of the two."""
    arrays = without(network(4, suffix="", readout=None), "rnn.bias_ih", "rnn.bias_hh")
    bias = np.arange(4.0 * H)
    model, _ = load_checkpoint({**arrays, "rnn.bias": bias})
    assert same(model.parameters["bias_ih"], bias)
    assert "bias_hh" not in model.parameters
