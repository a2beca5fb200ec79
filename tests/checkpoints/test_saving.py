"""Saving: what is written is read back bit by bit."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint, save_checkpoint
from kpref.models import GRU, RNN, LowRankRNN, Rate
from kpref.models.registry import registered
from kpref.readout import Readout

from .samples import N_IN, N_OUT, H, network, same

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@given(
    st.sampled_from([".npz", ".safetensors"]),
    st.sampled_from(["tanh", "relu", "identity", None]),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    st.sets(st.sampled_from(["bias_ih", "bias_hh", "readout"])),
    st.data(),
)
def test_round_trip_is_exact(folder, suffix, nonlinearity, sizes, present, data):
    n_states, n_inputs, n_outputs = sizes
    rows = n_states * (3 if nonlinearity is None else 1)

    def draw(*shape):
        size = int(np.prod(shape))
        return np.array(data.draw(st.lists(finite, min_size=size, max_size=size))).reshape(shape)

    parameters = {"weight_ih": draw(rows, n_inputs), "weight_hh": draw(rows, n_states)}
    parameters |= {name: draw(rows) for name in ("bias_ih", "bias_hh") if name in present}
    model = GRU(**parameters) if nonlinearity is None else RNN(**parameters, nonlinearity=nonlinearity)
    readout = Readout(draw(n_outputs, n_states), draw(n_outputs)) if "readout" in present else None
    path = folder / f"round{suffix}"
    save_checkpoint(path, model, readout)
    loaded, loaded_readout = load_checkpoint(path)
    assert type(loaded) is type(model)
    assert list(loaded.parameters) == list(model.parameters)
    for name, parameter in model.parameters.items():
        assert same(loaded.parameters[name], parameter)
    if nonlinearity is not None:
        assert loaded.nonlinearity.name == nonlinearity
    assert (loaded_readout is None) == (readout is None)
    if readout is not None:
        assert same(loaded_readout.weight, readout.weight)
        assert same(loaded_readout.bias, readout.bias)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("tau", [0.1, [0.1, 1 / 3, 7.0, 1e-3]], ids=["shared", "per unit"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "softplus"])
@pytest.mark.parametrize("bias", [True, False])
def test_round_trip_of_a_rate_network_is_exact(folder, suffix, tau, nonlinearity, bias):
    model = Rate.init(N_IN, H, seed=0, bias=bias, tau=tau, nonlinearity=nonlinearity)
    save_checkpoint(folder / f"rate{suffix}", model, Readout(np.ones((N_OUT, H))))
    for continuous in (False, True):
        loaded, readout = load_checkpoint(folder / f"rate{suffix}", continuous=continuous)
        assert type(loaded) is Rate
        assert list(loaded.parameters) == list(model.parameters)
        for name, parameter in model.parameters.items():
            assert same(loaded.parameters[name], parameter)
        assert same(loaded.tau, model.tau)
        assert loaded.nonlinearity.name == nonlinearity
        assert readout is not None
    other, _ = load_checkpoint(folder / f"rate{suffix}", nonlinearity="erf", tau=2.0)
    assert (other.nonlinearity.name, float(other.tau)) == ("erf", 2.0)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    "known", [known for known in registered().values() if known.torch], ids=lambda known: known.name
)
def test_every_network_under_pytorchs_names_comes_back(folder, suffix, known):
    for variant in known.variants:
        model = known.init(N_IN, H, 0, **variant)
        readout = Readout(np.ones((N_OUT, H)))
        path = folder / f"{known.name}{suffix}"
        save_checkpoint(path, model, readout)
        loaded = load_checkpoint(path)
        assert type(loaded.model) is type(model)
        assert list(loaded.model.parameters) == list(model.parameters)
        for name, parameter in model.parameters.items():
            assert same(loaded.model.parameters[name], parameter)
        assert {name: str(value) for name, value in loaded.model.options.items()} == {
            name: str(value) for name, value in model.options.items()
        }
        assert same(loaded.readout.weight, readout.weight)
        assert not loaded.nonlinearity_assumed


@pytest.mark.parametrize("tau", [None, "fast", "[1.0"])
def test_a_damaged_time_constant_is_refused(folder, tau):
    notes = {"model": "rate"} if tau is None else {"model": "rate", "tau": tau}
    np.savez(folder / "damaged.npz", **network(gates=1), **notes)
    with pytest.raises(ValueError, match=r"damaged.npz: the recorded tau must be a number or a list .* got"):
        load_checkpoint(folder / "damaged.npz")


def test_an_explicit_nonlinearity_goes_before_the_recorded_one(folder):
    save_checkpoint(folder / "relu.npz", RNN.init(N_IN, H, seed=0, nonlinearity="relu"))
    assert load_checkpoint(folder / "relu.npz", nonlinearity="tanh")[0].nonlinearity.name == "tanh"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_appears_whole_or_not_at_all(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"network{suffix}"
    save_checkpoint(path, GRU.init(N_IN, H, seed=0))
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    monkeypatch.setattr(safetensors.numpy, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, GRU.init(N_IN, H, seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_the_file_if_there_is_no_room_for_it(tmp_path, suffix):
    """A limit on the size of files is what a full disk is to a process, under another number."""
    resource = pytest.importorskip("resource", reason="limits of processes are a matter of Unix")
    path = tmp_path / f"network{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"network{suffix}"):
            save_checkpoint(path, GRU.init(N_IN, 20, seed=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_refuses(tmp_path):
    model = GRU.init(N_IN, H, seed=0)
    with pytest.raises(ValueError, match=r"must be called \*.safetensors or \*.npz; got .*network.pt"):
        save_checkpoint(tmp_path / "network.pt", model)
    with pytest.raises(TypeError, match="only RNN, .*LSTM, .*Rate can be saved .*got a LowRankRNN"):
        save_checkpoint(tmp_path / "network.npz", LowRankRNN.init(N_IN, H, rank=1, seed=0))
    with pytest.raises(TypeError, match="got a str"):
        save_checkpoint(tmp_path / "network.npz", "gru")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*network.npz: the folder .*absent does not exist"):
        save_checkpoint(tmp_path / "absent" / "network.npz", model)
    assert list(tmp_path.iterdir()) == []
