"""Refusals: networks that are not supported, and options that do not fit, are named in one sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint

from .samples import N_OUT, H, network, without, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            network(gates=2),
            r"weight_hh_l0 must have shape \(H, H\) for an RNN, \(3 H, H\) for a GRU or \(4 H, H\) .*; got \(8, 4\)",
        ),
        ({**network(), "rnn.weight_hh_l1": np.ones((3 * H, H))}, "but no weight_ih_l1: say which"),
        ({**network(), **network(suffix="_l2", readout=None)}, "but no weight_ih_l1 and no weight_hh_l1: say which"),
        (
            {**network(), **network(suffix="_l1", readout=None)},
            r"weight_ih_l1 must have shape \(12, 4\); got \(12, 3\)",
        ),
        (
            {**network(n_inputs=H), **network(suffix="_l1", n_states=H + 1, n_inputs=H, readout=None)},
            r"weight_ih_l1 must have shape \(12, 4\); got \(15, 4\)",
        ),
        ({**network(), "rnn.bias_ih_l0_reverse": np.ones(3 * H)}, "bidirectional .*'rnn.bias_ih_l0_reverse'"),
        ({**network(gates=4), "rnn.weight_hr_l0": np.ones((2, H))}, "projections .* found 'rnn.weight_hr_l0'"),
        (
            {**network(), **network(prefix="b.", readout=None)},
            "several .* found 'rnn.weight_ih_l0'.*'b.bias_hh_l0': set",
        ),
        (
            {**network(readout=None), **network(suffix="", readout=None)},
            "several recurrent networks.*weight_ih_l1=NAME",
        ),
        ({"fc.weight": np.ones((N_OUT, H))}, "no recurrent layer.*; the names are 'fc.weight'"),
        ({}, "no recurrent layer.*; the names are none"),
        (without(network(), "rnn.weight_ih_l0"), "has 'rnn.weight_hh_l0', .* but no weight_ih"),
        ({"bias_ih": np.ones(H)}, "has 'bias_ih' but no weight_ih and no weight_hh"),
        ({**network(), "rnn.weight_hh_l0": np.ones(H)}, r"weight_hh_l0 must have 2 axes; got shape \(4,\)"),
        ({**network(), "rnn.weight_hh_l0": np.ones((0, 0))}, r"H at least 1; got \(0, 0\)"),
        ({**network(), "rnn.weight_ih_l0": np.ones((3 * H, 0))}, r"n_inputs at least 1; got \(12, 0\)"),
        (
            {**network(), "rnn.weight_ih_l0": np.ones((H, 2))},
            r"weight_ih_l0 must have shape \(12, n_in\); got \(4, 2\)",
        ),
        ({**network(), "rnn.bias_ih_l0": np.ones(H)}, r"bias_ih_l0 must have shape \(12,\); got \(4,\)"),
        ({**network(), "Wout.bias": np.ones(3)}, r"Wout.bias must have shape \(2,\); got \(3,\)"),
        ({**network(), "Wout.weight": np.ones((0, H))}, r"at least one output; got shape \(0, 4\)"),
        (
            {**network(), "Wout.weight": np.ones((2, H + 1))},
            r"'Wout.weight' \(2, 5\), 'Wout.bias' \(2,\) .* 4 columns",
        ),
        (
            {**network(), "h0": np.ones(H)},
            r"found 'h0' \(4,\) beside the recurrent layer.* z0= \(--z0\), .*or set aside",
        ),
        (without(network(), "Wout.weight"), r"found 'Wout.bias' \(2,\) beside the recurrent layer"),
        ({**network(), "value.weight": np.ones((1, H))}, "ambiguous: pick one of 'Wout.weight', 'value.weight'"),
        ({**network(), 7: np.ones(1)}, "must map names to arrays; got the key 7"),
        ({**network(), "rnn.bias_ih_l0": np.full(3 * H, "a")}, "bias_ih_l0 must be an array of .* got dtype <U1"),
        ({**network(), "rnn.bias_ih_l0": np.full(3 * H, object())}, "bias_ih_l0 must be an array of .* object"),
        ({**network(), "rnn.bias_ih_l0": 1j * np.ones(3 * H)}, "bias_ih_l0 must be an array of .* complex128"),
    ],
)
def test_says_what_is_not_supported(arrays, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(arrays)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"readout": "policy"},
            "there is no readout 'policy', .* the candidates are 'Wout.weight'",
        ),
        ({"nonlinearity": "relu"}, "a GRU has no nonlinearity to choose; got 'relu'"),
        ({"trainable": ["rnn.weight_hh_l0"]}, "trainable must name some of"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(network(), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"continuous": True, "tau": 0.0}, "tau must be positive; got 0.0"),
        ({"continuous": True, "tau": np.ones(H + 1)}, r"tau must be a number or have shape \(4,\)"),
        ({"tau": 1.0}, "tau is for networks in continuous time, and this one is not; got 1.0"),
    ],
)
def test_time_constants_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(network(gates=1), **options)


def test_a_gru_is_no_rate_network():
    with pytest.raises(ValueError, match=r"continuous time must be a rate network.*weight_hh_l0 of shape.*a GRU"):
        load_checkpoint(network(), continuous=True)


@pytest.mark.parametrize("layers", [2, 3])
def test_several_layers_of_a_gru_are_no_rate_network(layers):
    arrays = {}
    for layer in range(layers):
        arrays |= network(n_inputs=H, suffix=f"_l{layer}", readout=None)
    with pytest.raises(ValueError, match="continuous time must be a rate network.*a Stacked"):
        load_checkpoint(arrays, continuous=True)


@given(st.sampled_from(list(network())), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_says_where_a_parameter_is_not_finite(folder, name, value, data):
    arrays = network()
    index = tuple(data.draw(st.integers(0, length - 1)) for length in arrays[name].shape)
    arrays[name][index] = value
    path = write(folder / "nan.safetensors", arrays)
    place = str(index).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"nan.safetensors: {name} holds {value} at index {place};"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["rnn.weight_hh_l0", "rnn.weight_hh_l0.T"])
def test_the_way_out_of_a_wrong_transpose_works(name):
    """Also where `map` is what turned the array: the error names what to give in its place."""
    arrays = {
        "rnn.weight_ih_l0": np.ones((12, 3)),
        "rnn.weight_hh_l0": np.ones((12, 4) if name[-1] == "T" else (4, 12)),
    }
    with pytest.raises(ValueError, match=r"map= \(--map weight_hh=.*\) reads it as one") as caught:
        load_checkpoint(arrays, map={"weight_hh": name})
    way_out = str(caught.value).partition("--map weight_hh=")[2].partition(")")[0]
    assert load_checkpoint(arrays, map={"weight_hh": way_out}).model.parameters["weight_hh"].shape == (12, 4)
