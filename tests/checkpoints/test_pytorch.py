"""Files and modules of PyTorch."""

import sys
import types

import numpy as np
import pytest
import safetensors.numpy

from kpref.checkpoints import load_checkpoint, save_checkpoint
from kpref.models import GRU
from kpref.readout import Readout

from .samples import N_IN, N_OUT, PT, H, same


def test_needs_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="checkpoint_02000.pt is a PyTorch file and PyTorch is not installed"):
        load_checkpoint(PT)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cpu"])
def test_needs_a_pytorch_that_reads_safely(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
    with pytest.raises(ImportError, match="PyTorch 2.6 or later"):
        load_checkpoint(PT)


@pytest.mark.backends
def test_twin_files_agree():
    pytest.importorskip("torch")
    model, readout = load_checkpoint(PT)
    twin, twin_readout = load_checkpoint(PT.with_suffix(".safetensors"))
    for name, parameter in model.parameters.items():
        assert same(parameter, twin.parameters[name])
    assert same(readout.weight, twin_readout.weight)
    assert same(readout.bias, twin_readout.bias)


@pytest.mark.backends
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_modules(tmp_path, key, dtype):
    """A module's state_dict, as a mapping and from a file, where it may stand beside other things."""
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(N_IN, H), "fc": torch.nn.Linear(H, N_OUT)})
    state = module.to(getattr(torch, dtype)).state_dict()
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "module.pt")
    for source in (state, dict(module.named_parameters()), tmp_path / "module.pt"):
        model, readout = load_checkpoint(source)
        for name, parameter in model.parameters.items():
            assert same(parameter, state[f"rnn.{name}_l0"].double().numpy())
        assert same(readout.weight, state["fc.weight"].double().numpy())


@pytest.mark.backends
@pytest.mark.parametrize(
    "content, message",
    [
        ([1.0], "holds a list; expected a state_dict"),
        ({"epoch": 3}, "found no recurrent layer.*the names are 'epoch'"),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path, content, message):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"other.pt.*{message}"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.backends
def test_saved_networks_load_into_pytorch_and_run_there(tmp_path):
    """Saved under names that torch.nn.GRU takes; states in [-1, 1], 6 steps of sums of at most 8 products."""
    torch = pytest.importorskip("torch")
    model = GRU.init(N_IN, H, seed=0)
    save_checkpoint(tmp_path / "model.safetensors", model, Readout(np.ones((N_OUT, H)), np.ones(N_OUT)))
    module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(N_IN, H, batch_first=True), "Wout": torch.nn.Linear(H, N_OUT)})
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    module.double().load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    inputs = np.random.default_rng(0).normal(size=(2, 6, N_IN))
    states = module["rnn"](torch.from_numpy(inputs))[0].detach().numpy()
    assert np.abs(model.iterate(np.zeros((2, H)), inputs) - states).max() < 1e-14


@pytest.mark.backends
def test_what_a_module_does_not_train_is_told():
    """K counts every parameter unless `trainable` says otherwise: a module that trains fewer is not read in silence."""
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(N_IN, H), "Wout": torch.nn.Linear(H, N_OUT)})
    assert load_checkpoint(module).notes == ()
    module["rnn"].weight_ih_l0.requires_grad_(False)
    for source in (module, {"epoch": 3, "model": module}):
        (note,) = load_checkpoint(source).notes
        assert "does not train 'rnn.weight_ih_l0' (requires_grad is False)" in note
    module.requires_grad_(False)  # made ready for use: it says nothing about training
    assert load_checkpoint(module).notes == ()
    assert load_checkpoint(module.state_dict()).notes == ()


@pytest.mark.backends
def test_one_parameter_in_two_places_is_told():
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(H, H), "Wout": torch.nn.Linear(H, N_OUT)})
    module["rnn"].weight_ih_l0 = module["rnn"].weight_hh_l0
    (note,) = load_checkpoint(module).notes
    assert note.startswith("'rnn.weight_ih_l0' and 'rnn.weight_hh_l0' are one parameter of the module")
