"""Saving: what is written is read back bit by bit."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint, save_checkpoint
from kpref.models import GRU, RNN, Lorenz63, LowRankRNN, Rate
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
@pytest.mark.parametrize("known", registered().values(), ids=lambda known: known.name)
def test_every_registered_network_comes_back(folder, suffix, known):
    for variant in known.variants:
        model = known.init(N_IN, H, 0, **variant)
        readout = Readout(np.ones((N_OUT, model.observed.stop - model.observed.start)))
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
        assert not loaded.notes


class TestNamesOfKpref:
    """What stands in a file of a network that PyTorch has no names for, and what is refused of it."""

    @pytest.fixture
    def path(self, tmp_path):
        model = LowRankRNN.init(N_IN, H, rank=2, seed=0, nonlinearity="erf", alpha=1 / 3)
        save_checkpoint(tmp_path / "rank.safetensors", model, Readout(np.ones((N_OUT, H))), np.arange(1.0, H + 1))
        return tmp_path / "rank.safetensors"

    def test_what_is_read(self, path):
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata()["model"] == "low-rank"
            assert json.loads(file.metadata()["options"]) == {"alpha": 1 / 3, "nonlinearity": "erf"}
        found = load_checkpoint(path, trainable=["m", "weight_ih"], z0="z0")
        assert (found.model.alpha, found.model.nonlinearity.name) == (1 / 3, "erf")
        assert found.model.trainable == ("m", "weight_ih")
        assert same(found.z0, np.arange(1.0, H + 1))
        with pytest.raises(ValueError, match=r"found 'z0' \(4,\).*named as the initial state with z0="):
            load_checkpoint(path)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"nonlinearity": "tanh"}, "the file says what network it holds, a LowRankRNN; got nonlinearity='tanh'"),
            ({"alpha": 0.5}, "the file says what network it holds, a LowRankRNN; got alpha=0.5"),
            ({"continuous": True}, "is of a LowRankRNN, which is a map in discrete time"),
            ({"map": {"weight_hh": "parameter/m"}}, "the file says which arrays are what; got map of weight_hh"),
            ({"reset": "before"}, "the file says which arrays are what; got reset"),
            ({"ignore": "parameter/m"}, "the description of a network is incomplete: low-rank has m too"),
            ({"trainable": ["weight_hh"]}, "trainable must name some of m, n, weight_ih, bias"),
        ],
    )
    def test_what_the_file_says_is_not_said_otherwise(self, path, options, message):
        with pytest.raises(ValueError, match=f"rank.safetensors: .*{message}"):
            load_checkpoint(path, z0="z0", **options)

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"model": "perceptron"}, "the recorded model 'perceptron' is none of"),
            ({"options": "[1"}, "the recorded options must be an object of JSON"),
            ({"options": '{"beta": 1}'}, "the description of a network is incomplete or of another kind: .*'beta'"),
            ({"options": '{"alpha": 3}'}, "alpha must be"),
            ({"options": '{"trainable": ["m"]}'}, ".* incomplete or of another kind: .*trainable"),
            ({"model": "cornn"}, ".* incomplete or of another kind"),
        ],
    )
    def test_damaged_records(self, folder, changed, message):
        arrays = {f"parameter/{name}": array for name, array in LowRankRNN.init(N_IN, H, 2, 0).parameters.items()}
        recorded = {"model": "low-rank", "options": "{}"} | changed
        np.savez(folder / "damaged.npz", **arrays, **recorded)
        with pytest.raises(ValueError, match=f"damaged.npz: {message}"):
            load_checkpoint(folder / "damaged.npz")


@pytest.mark.parametrize(
    "network, lost, said",
    [
        ("hodgkin-huxley", ["parameter/g_na"], "g_na"),  # which has a default
        ("adaptive", ["parameter/bias"], "bias"),
        ("adaptive", ["option/tau"], "tau"),
        ("mlp", ["parameter/weight_l1", "parameter/bias_l1"], "weight_l1"),
    ],
)
def test_no_array_of_a_network_is_lost_without_a_word(folder, network, lost, said):
    path = folder / "whole.npz"
    save_checkpoint(path, registered()[network].init(2, 3, 0))
    with np.load(path) as whole:
        content = {name: whole[name] for name in whole.files if name not in lost}
    np.savez(folder / "less.npz", **content)
    with pytest.raises(
        ValueError, match=rf"less.npz: the description of a network is incomplete: {network} has {said}"
    ):
        load_checkpoint(folder / "less.npz")
    np.savez(folder / "less.npz", **content | {"parameters": "bias"})
    with pytest.raises(ValueError, match="the recorded parameters must be a list of names in JSON; got 'bias'"):
        load_checkpoint(folder / "less.npz")


def test_an_option_of_another_value_is_refused(folder):
    """Options are those of the file: what there is of them with a default is not taken to be that."""
    path = folder / "whole.npz"
    save_checkpoint(path, registered()["antisymmetric"].init(2, 3, 0, epsilon=0.5))
    with np.load(path) as whole:
        content = {name: whole[name] for name in whole.files}
    np.savez(path, **content | {"options": json.dumps({"gamma": 0.01})})
    with pytest.raises(ValueError, match="incomplete: antisymmetric has epsilon too"):
        load_checkpoint(path)


def test_initial_states_of_parts_of_different_widths(folder):
    """One array for each part of the state, as wide as it is, or one for all; no array of another shape."""
    path = folder / "parts.npz"
    save_checkpoint(path, registered()["mpn"].init(3, 2, 0))
    with np.load(path) as whole:
        content = {name: whole[name] for name in whole.files}
    h, modulation, halves = np.arange(2.0), np.arange(6.0) + 2, np.zeros((2, 4))
    np.savez(path, **content, h0=h, M0=modulation)
    assert same(load_checkpoint(path, z0=("h0", "M0")).z0, np.arange(8.0))
    np.savez(path, **content, h0=halves)
    with pytest.raises(ValueError, match="must name h and M, the parts of the state"):
        load_checkpoint(path, z0="h0")


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
    with pytest.raises(TypeError, match=r"only a network of kpref.models \(.*low-rank.*\) can be saved; got Lorenz63"):
        save_checkpoint(tmp_path / "network.npz", Lorenz63())
    with pytest.raises(TypeError, match="got 'gru'"):
        save_checkpoint(tmp_path / "network.npz", "gru")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*network.npz: the folder .*absent does not exist"):
        save_checkpoint(tmp_path / "absent" / "network.npz", model)
    assert list(tmp_path.iterdir()) == []
