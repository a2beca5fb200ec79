"""Checkpoints: networks under PyTorch's names in every format, what is refused, and files that are no checkpoints."""

import contextlib
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kpref.checkpoints import load_checkpoint, save_checkpoint
from kpref.data import example_folder
from kpref.models import GRU, RNN, LeakyRNN, Rate
from kpref.readout import Readout

DATA = Path(__file__).parent / "data"
DIGITS = DATA / "checkpoints" / "digits_gru_h64"
PT = DIGITS / "checkpoint_02000.pt"
H, N_IN, N_OUT = 4, 3, 2


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def network(gates=3, n_states=H, n_inputs=N_IN, prefix="rnn.", suffix="_l0", readout="Wout", seed=0):
    """A state_dict of a random network with all biases."""
    generator = np.random.default_rng(seed)
    rows = gates * n_states
    shapes = {"weight_ih": (rows, n_inputs), "weight_hh": (rows, n_states), "bias_ih": (rows,), "bias_hh": (rows,)}
    arrays = {f"{prefix}{name}{suffix}": generator.normal(size=shape) for name, shape in shapes.items()}
    if readout is not None:
        arrays[f"{readout}.weight"] = generator.normal(size=(N_OUT, n_states))
        arrays[f"{readout}.bias"] = generator.normal(size=N_OUT)
    return arrays


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


def same(one, other):
    """Whether two arrays agree bit by bit (which 0 and -0 do not)."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def write(path, arrays):
    """Write arrays in the format that the suffix of the path tells."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def safetensors_bytes(kind, arrays):
    """A safetensors file written by hand, all tensors of one type: length of the header, header, data."""
    header, data = {}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


class TestRecognition:
    @pytest.mark.parametrize(
        "path, n_inputs, n_states, n_outputs",
        [
            (example_folder() / "checkpoint_00000.safetensors", 3, 128, 3),
            (example_folder() / "checkpoint_01500.safetensors", 3, 128, 3),
            (DIGITS / "checkpoint_00000.safetensors", 8, 64, 10),
            (DIGITS / "checkpoint_02000.safetensors", 8, 64, 10),
        ],
    )
    def test_trained_networks(self, path, n_inputs, n_states, n_outputs):
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
    def test_golden_parameters(self, name, kind):
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
        st.sampled_from([None, "Wout", "fc", "decoder", "module.head.1", "weight_hhh"]),
        st.sets(st.sampled_from(["bias_ih", "bias_hh", "readout bias"])),
        st.randoms(use_true_random=False),
    )
    def test_names_and_shapes(self, gates, n_states, n_inputs, prefix, suffix, head, absent, random):
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

    def test_readout_called_by_one_name(self):
        arrays = {**network(readout=None), "Wout": np.ones((N_OUT, H)), "Wout.bias": np.ones(N_OUT)}
        _, readout = load_checkpoint(arrays)
        assert same(readout.weight, arrays["Wout"])
        assert same(readout.bias, arrays["Wout.bias"])

    @pytest.mark.parametrize("wanted", ["value", "value.weight"])
    def test_picks_one_of_several_readouts(self, wanted):
        arrays = {**network(), "value.weight": np.ones((1, H)), "value.bias": np.ones(1)}
        _, readout = load_checkpoint(arrays, readout=wanted)
        assert same(readout.weight, arrays["value.weight"])
        assert same(readout.bias, arrays["value.bias"])

    def test_nonlinearity_and_trainable_reach_the_model(self):
        model, _ = load_checkpoint(network(gates=1), trainable=["weight_hh"], nonlinearity="relu")
        assert model.nonlinearity.name == "relu"
        assert model.trainable == ("weight_hh",)
        assert load_checkpoint(network(gates=1))[0].nonlinearity.name == "tanh"

    @pytest.mark.parametrize("present", [(), ("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])
    def test_weights_of_an_rnn_as_a_rate_network(self, present):
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


class TestFormats:
    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    @pytest.mark.parametrize("disguise", [".npz", ".safetensors", ".pt", ""])
    def test_content_decides_not_the_suffix(self, folder, suffix, disguise):
        path = write(folder / f"network{suffix}", network()).rename(folder / f"disguised{disguise}")
        model, readout = load_checkpoint(str(path))
        assert same(model.parameters["weight_hh"], network()["rnn.weight_hh_l0"])
        assert same(readout.weight, network()["Wout.weight"])

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, ">f8"])
    def test_numbers_of_other_types_become_float64(self, folder, dtype):
        arrays = {name: array.astype(dtype) for name, array in network().items()}
        for source in (arrays, write(folder / "types.npz", arrays), write(folder / "types.safetensors", arrays)):
            model, _ = load_checkpoint(source)
            for name, parameter in model.parameters.items():
                assert same(parameter, arrays[f"rnn.{name}_l0"].astype(np.float64))

    def test_bfloat16(self, folder):
        """Bfloat16 is the upper half of float32: numbers of 8 significant bits or fewer are the same in both."""
        exact = np.resize([1.0, -0.0, 0.15625, -2.5, 255.0, 2.0**-130, -3.0e38], (3 * H, H)).astype("<f4")
        exact = (exact.view("<u4") & 0xFFFF0000).view("<f4")
        halves = {name: (exact.view("<u4") >> 16).astype("<u2") for name in ("weight_ih", "weight_hh")}
        path = folder / "bfloat16.safetensors"
        path.write_bytes(safetensors_bytes("BF16", halves))
        model, _ = load_checkpoint(path)
        assert same(model.parameters["weight_hh"], exact.astype(np.float64))

    def test_types_that_no_one_reads(self, folder):
        path = folder / "float8.safetensors"
        path.write_bytes(safetensors_bytes("F8_E4M3", {"weight_hh": np.zeros((H, H), dtype=np.uint8)}))
        with pytest.raises(
            ValueError, match="float8.safetensors: tensor 'weight_hh' has type F8_E4M3; expected one of"
        ):
            load_checkpoint(path)


class TestRefusals:
    @pytest.mark.parametrize(
        "arrays, message",
        [
            (network(gates=4), r"LSTM is not supported yet; found 'rnn.weight_hh_l0' of shape \(16, 4\)"),
            (network(gates=2), r"weight_hh_l0 must have shape \(H, H\) for an RNN or \(3 H, H\) .*; got \(8, 4\)"),
            ({**network(), "rnn.weight_hh_l1": np.ones((3 * H, H))}, "stacked .* found 'rnn.weight_hh_l1'"),
            ({**network(), "rnn.bias_ih_l0_reverse": np.ones(3 * H)}, "bidirectional .*'rnn.bias_ih_l0_reverse'"),
            ({**network(gates=4), "rnn.weight_hr_l0": np.ones((2, H))}, "projections .* found 'rnn.weight_hr_l0'"),
            ({**network(), **network(prefix="b.", readout=None)}, r"several .* 'rnn\.\*_l0', 'b\.\*_l0'"),
            ({**network(readout=None), **network(suffix="", readout=None)}, "several recurrent layers"),
            ({"fc.weight": np.ones((N_OUT, H))}, "no recurrent layer.*; the names are 'fc.weight'"),
            ({}, "no recurrent layer.*; the names are none"),
            (without(network(), "rnn.weight_ih_l0"), "has 'rnn.weight_hh_l0', .* but no weight_ih"),
            ({"bias_ih": np.ones(H)}, "has 'bias_ih' but no weight_hh and no weight_ih"),
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
            ({**network(), "Wout.weight": np.ones((2, H + 1))}, "'Wout.weight', 'Wout.bias' beside .* 4 columns"),
            ({**network(), "h0": np.ones(H)}, "found 'h0' beside the recurrent layer"),
            (without(network(), "Wout.weight"), "found 'Wout.bias' beside the recurrent layer"),
            ({**network(), "value.weight": np.ones((1, H))}, "ambiguous: pick one of 'Wout.weight', 'value.weight'"),
            ({**network(), 7: np.ones(1)}, "must map names to arrays; got the key 7"),
            ({**network(), "rnn.bias_ih_l0": np.full(3 * H, "a")}, "bias_ih_l0 must be an array of .* got dtype <U1"),
            ({**network(), "rnn.bias_ih_l0": np.full(3 * H, object())}, "bias_ih_l0 must be an array of .* object"),
            ({**network(), "rnn.bias_ih_l0": 1j * np.ones(3 * H)}, "bias_ih_l0 must be an array of .* complex128"),
        ],
    )
    def test_says_what_is_not_supported(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(arrays)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"readout": "policy"}, "there is no readout 'policy'; the candidates are 'Wout.weight'"),
            ({"nonlinearity": "relu"}, "a GRU has no nonlinearity to choose; got 'relu'"),
            ({"trainable": ["rnn.weight_hh_l0"]}, "trainable must name some of"),
        ],
    )
    def test_options_that_do_not_fit(self, options, message):
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
    def test_time_constants_that_do_not_fit(self, options, message):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(network(gates=1), **options)

    def test_a_gru_is_no_rate_network(self):
        with pytest.raises(ValueError, match=r"continuous time must be a rate network.*weight_hh_l0 of shape.*a GRU"):
            load_checkpoint(network(), continuous=True)

    def test_golden_lstm(self):
        with np.load(DATA / "golden" / "map_lstm.npz") as golden:
            arrays = {str(name): golden[f"param_{name}"] for name in golden["names"]}
        with pytest.raises(ValueError, match="LSTM is not supported yet"):
            load_checkpoint(arrays)

    @given(st.sampled_from(list(network())), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
    def test_says_where_a_parameter_is_not_finite(self, folder, name, value, data):
        arrays = network()
        index = tuple(data.draw(st.integers(0, length - 1)) for length in arrays[name].shape)
        arrays[name][index] = value
        path = write(folder / "nan.safetensors", arrays)
        place = str(index).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(ValueError, match=f"nan.safetensors: {name} holds {value} at index {place};"):
            load_checkpoint(path)


class TestForeignFiles:
    @pytest.mark.parametrize("path", [example_folder() / "checkpoint_00000.safetensors", PT], ids=["safetensors", "pt"])
    def test_truncated(self, folder, path):
        whole = path.read_bytes()
        short = folder / f"truncated{path.suffix}"
        for length in {*range(40), *np.linspace(40, len(whole) - 1, 60).astype(int)}:
            short.write_bytes(whole[:length])
            with pytest.raises(ValueError, match="truncated"):
                load_checkpoint(short)

    @given(st.floats(0, 1, exclude_max=True))
    def test_truncated_npz(self, folder, share):
        whole = write(folder / "whole.npz", network()).read_bytes()
        path = folder / "truncated.npz"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="truncated.npz"):
            load_checkpoint(path)

    def test_a_changed_directory_of_an_npz_is_noticed_or_does_not_matter(self, folder):
        """No entry, a bias say, may be lost without a word: every byte of the directory of the zip archive counts."""
        whole = write(folder / "whole.npz", network()).read_bytes()
        path = folder / "changed.npz"
        for place in range(whole.index(b"PK\x01\x02"), len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            with contextlib.suppress(ValueError, MemoryError):
                model, readout = load_checkpoint(path)
                assert list(model.parameters) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
                assert readout.weight.shape == (N_OUT, H)
                assert same(readout.bias, network()["Wout.bias"])

    @given(
        st.one_of(
            st.binary(max_size=99),
            st.text(max_size=30).map(str.encode),
            st.binary(max_size=99).map(b"\x89PNG\r\n\x1a\n".__add__),
            st.binary(max_size=99).map(b"PK\x03\x04".__add__),
            st.tuples(st.integers(0, 99), st.text(max_size=30)).map(
                lambda pair: pair[0].to_bytes(8, "little") + b"{" + pair[1].encode()
            ),
        )
    )
    def test_foreign(self, folder, content):
        path = folder / "foreign.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="foreign.safetensors"):
            load_checkpoint(path)

    def test_says_what_a_foreign_file_begins_with(self, folder):
        path = folder / "figure.pt"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        with pytest.raises(ValueError, match=r"figure.pt is not a .* \(it begins with b'\\x89PNG"):
            load_checkpoint(path)

    def test_missing_file_and_folder(self, folder):
        with pytest.raises(FileNotFoundError, match="absent.pt"):
            load_checkpoint(folder / "absent.pt")
        with pytest.raises(OSError, match=folder.name):
            load_checkpoint(folder)

    def test_trials_are_not_a_checkpoint(self):
        with pytest.raises(ValueError, match=r"trials.npz: found no recurrent layer.*'inputs', 'targets'"):
            load_checkpoint(example_folder() / "trials.npz")


class TestPickles:
    @pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_bare_pickle_is_never_executed(self, tmp_path, suffix, protocol):
        fired, path = tmp_path / "fired", tmp_path / f"bare{suffix}"
        bomb = pickle.dumps(Bomb(fired), protocol)
        path.write_bytes(bomb)
        with pytest.raises(ValueError, match=f"bare{suffix}"):
            load_checkpoint(path)
        assert not fired.exists()
        pickle.loads(bomb)
        assert fired.exists(), "the pickle is one that would have fired"

    def test_python_objects_in_an_npz_are_never_built(self, tmp_path):
        fired, path = tmp_path / "fired", tmp_path / "objects.npz"
        np.savez(path, **network(), extra=np.array([Bomb(fired)], dtype=object))
        with pytest.raises(ValueError, match="objects.npz: entry 'extra' cannot be read"):
            load_checkpoint(path)
        assert not fired.exists()

    def test_a_pickle_among_the_entries_of_an_npz_is_never_executed(self, tmp_path):
        fired, path = tmp_path / "fired", tmp_path / "entry.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weight_hh.npy", pickle.dumps(Bomb(fired)))
        with pytest.raises(ValueError, match="entry.npz: entry 'weight_hh' is not an array"):
            load_checkpoint(path)
        assert not fired.exists()

    @pytest.mark.backends
    @pytest.mark.parametrize("suffix", [".pt", ".npz"])
    @pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"state_dict": {"weight_hh": bomb}}])
    def test_a_pickle_inside_a_pytorch_file_is_never_executed(self, tmp_path, suffix, wrap):
        torch = pytest.importorskip("torch")
        fired, path = tmp_path / "fired", tmp_path / f"bomb{suffix}"
        torch.save(wrap(Bomb(fired)), path)
        with pytest.raises(ValueError, match=f"bomb{suffix} cannot be read by PyTorch with weights_only=True"):
            load_checkpoint(path)
        assert not fired.exists()
        torch.load(path, weights_only=False)
        assert fired.exists(), "the file is one that would have fired"


class TestPyTorch:
    def test_needs_pytorch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ImportError, match="checkpoint_02000.pt is a PyTorch file and PyTorch is not installed"):
            load_checkpoint(PT)

    @pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cpu"])
    def test_needs_a_pytorch_that_reads_safely(self, monkeypatch, version):
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
        with pytest.raises(ImportError, match="PyTorch 2.6 or later"):
            load_checkpoint(PT)

    @pytest.mark.backends
    def test_twin_files_agree(self):
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
    def test_modules(self, tmp_path, key, dtype):
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
            ({"epoch": 3}, "entry 'epoch' is a int; expected a tensor with a name"),
        ],
    )
    def test_contents_that_are_no_state_dict(self, tmp_path, content, message):
        torch = pytest.importorskip("torch")
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=f"other.pt.*{message}"):
            load_checkpoint(tmp_path / "other.pt")

    @pytest.mark.backends
    def test_saved_networks_load_into_pytorch_and_run_there(self, tmp_path):
        """Saved under names that torch.nn.GRU takes; states in [-1, 1], 6 steps of sums of at most 8 products."""
        torch = pytest.importorskip("torch")
        model = GRU.init(N_IN, H, seed=0)
        save_checkpoint(tmp_path / "model.safetensors", model, Readout(np.ones((N_OUT, H)), np.ones(N_OUT)))
        module = torch.nn.ModuleDict(
            {"rnn": torch.nn.GRU(N_IN, H, batch_first=True), "Wout": torch.nn.Linear(H, N_OUT)}
        )
        arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
        module.double().load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
        inputs = np.random.default_rng(0).normal(size=(2, 6, N_IN))
        states = module["rnn"](torch.from_numpy(inputs))[0].detach().numpy()
        assert np.abs(model.iterate(np.zeros((2, H)), inputs) - states).max() < 1e-14


finite = st.floats(allow_nan=False, allow_infinity=False)


class TestSaving:
    @given(
        st.sampled_from([".npz", ".safetensors"]),
        st.sampled_from(["tanh", "relu", "identity", None]),
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
        st.sets(st.sampled_from(["bias_ih", "bias_hh", "readout"])),
        st.data(),
    )
    def test_round_trip_is_exact(self, folder, suffix, nonlinearity, sizes, present, data):
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
    def test_round_trip_of_a_rate_network_is_exact(self, folder, suffix, tau, nonlinearity, bias):
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

    @pytest.mark.parametrize("tau", [None, "fast", "[1.0"])
    def test_a_damaged_time_constant_is_refused(self, folder, tau):
        notes = {"model": "rate"} if tau is None else {"model": "rate", "tau": tau}
        np.savez(folder / "damaged.npz", **network(gates=1), **notes)
        with pytest.raises(ValueError, match=r"damaged.npz: the recorded tau must be a number or a list .* got"):
            load_checkpoint(folder / "damaged.npz")

    def test_an_explicit_nonlinearity_goes_before_the_recorded_one(self, folder):
        save_checkpoint(folder / "relu.npz", RNN.init(N_IN, H, seed=0, nonlinearity="relu"))
        assert load_checkpoint(folder / "relu.npz", nonlinearity="tanh")[0].nonlinearity.name == "tanh"

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    def test_appears_whole_or_not_at_all(self, tmp_path, monkeypatch, suffix):
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

    def test_refuses(self, tmp_path):
        model = GRU.init(N_IN, H, seed=0)
        with pytest.raises(ValueError, match=r"must be called \*.safetensors or \*.npz; got .*network.pt"):
            save_checkpoint(tmp_path / "network.pt", model)
        with pytest.raises(TypeError, match="got a LeakyRNN"):
            save_checkpoint(tmp_path / "network.npz", LeakyRNN.init(N_IN, H, seed=0))
        with pytest.raises(FileNotFoundError, match=r"cannot write .*network.npz: the folder .*absent does not exist"):
            save_checkpoint(tmp_path / "absent" / "network.npz", model)
        assert list(tmp_path.iterdir()) == []
