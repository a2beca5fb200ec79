"""Where networks come from: dictionaries around a state_dict, modules of PyTorch, arrays of many libraries."""

import re

import numpy as np
import pytest

from kpref import Flow, Trials
from kpref.checkpoints import load_checkpoint
from kpref.models import RNN

from .samples import N_IN, N_OUT, H, network, same, without


def optimizer():
    """What Adam of PyTorch keeps for two parameters."""
    moments = {"step": np.array(3.0), "exp_avg": np.ones((H, H)), "exp_avg_sq": np.ones((H, H))}
    return {"state": {0: moments, 1: moments}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


BESIDE = {
    "optimizer": optimizer(),
    "adam": optimizer(),
    "opt_state": {"mu": network(), "nu": network()},
    "optimizer_states": [optimizer()],
    "lr_scheduler": {"base_lrs": [0.1], "last_epoch": 3},
    "epoch": 3,
    "loss": np.array(0.5),
    "losses": [3.0, 2.0, 1.0],
    "rng_state": np.zeros(5056, dtype=np.uint8),
    "args": {"hidden_size": H, "name": "run"},
    "comment": "trained",
    "best": None,
    7: "seven",
}


class TestNesting:
    @pytest.mark.parametrize("key", ["model", "net", "model_state", "params", "state_dict", "model_state_dict", "x", 0])
    @pytest.mark.parametrize("beside", [{}, BESIDE], ids=["alone", "beside"])
    def test_one_level_down_under_any_key(self, key, beside):
        found, plain = load_checkpoint({**beside, key: network()}), load_checkpoint(network())
        assert same(found.model.parameters["weight_hh"], plain.model.parameters["weight_hh"])
        assert same(found.readout.weight, plain.readout.weight)
        assert found.notes == ()

    def test_names_are_those_of_the_inner_mapping(self):
        heads = {"critic.weight": np.ones((1, H)), "h0": np.ones(H)}
        found = load_checkpoint({"net": {**network(), **heads}, "epoch": 1}, readout="Wout", z0="h0")
        assert same(found.readout.weight, network()["Wout.weight"])
        assert same(found.z0, np.ones(H))

    @pytest.mark.parametrize(
        "beside, name",
        [
            ({"h0": np.ones((1, H))}, "h0"),
            ({"fc": {"w": np.ones((N_OUT, H))}}, "fc.w"),
            ({"modules": {"a": {"b": {"mask": np.ones((H, H), dtype=bool)}}}}, "modules.a.b.mask"),
            ({"heads": [1.0, np.ones((N_OUT, H))]}, "heads.1"),
            ({"optimizer": np.ones((H, H))}, "optimizer"),
            ({"optional": {"state": np.ones((1, H))}}, "optional.state"),
            ({"buffers": {0: np.ones(3)}}, "buffers.0"),
            ({(0, 1): np.ones(3)}, "(0, 1)"),
            ({"mask": np.ones((H, H), dtype=np.uint8)}, "mask"),
        ],
    )
    def test_an_array_beside_it_is_not_lost(self, beside, name):
        with pytest.raises(ValueError, match=re.escape(f"found '{name}' ") + ".*--ignore " + re.escape(name)):
            load_checkpoint({"model": network(), **beside})
        assert load_checkpoint({"model": network(), **beside}, ignore=name).notes == (f"set aside as asked: '{name}'",)

    def test_lists_and_dictionaries_that_hold_each_other(self):
        """Followed on each way, 12 lists of 12 times the next one would be as many as 10^13."""
        inner: list = [np.ones(3)]
        for _ in range(12):
            inner = [inner] * 12
        around: dict = {"lists": inner}
        around["self"] = around
        with pytest.raises(ValueError, match=r"found 'around.lists.(0.)+0' \(3,\)"):
            load_checkpoint({"model": network(), "around": around})

    def test_an_array_too_deep_to_be_looked_for_is_not_lost(self):
        inner: dict = {"w": np.ones(3)}
        for _ in range(3000):
            inner = {"a": inner}
        with pytest.raises(ValueError, match=r"deep(.a)+ must be an array .*--ignore deep"):
            load_checkpoint({"model": network(), "deep": inner})
        assert load_checkpoint({"model": network(), "deep": inner}, ignore="deep").readout is not None

    def test_a_readout_kept_beside_it_is_found(self):
        arrays = network()
        parts = {"rnn": without(arrays, "Wout.weight", "Wout.bias"), "out": {}}
        parts["out"] = {"weight": arrays["Wout.weight"], "bias": arrays["Wout.bias"]}
        _, readout = load_checkpoint(parts)
        assert same(readout.weight, arrays["Wout.weight"])
        assert same(readout.bias, arrays["Wout.bias"])

    def test_two_networks_are_ambiguous(self):
        both = {"model": network(), "ema": network(seed=1)}
        with pytest.raises(ValueError, match=r"under 'model', 'ema': .*content\['model'\].*--ignore ema"):
            load_checkpoint(both)
        for chosen, other in (("model", "ema"), ("ema", "model")):
            found = load_checkpoint(both, ignore=other)
            assert same(found.model.parameters["weight_hh"], both[chosen]["rnn.weight_hh_l0"])
            assert f"'{other}.rnn.weight_hh_l0'" in found.notes[0]

    def test_deeper_ones_are_said(self):
        """What it says to pass holds the readout too."""
        arrays = network(prefix="")
        parts = {"rnn": without(arrays, "Wout.weight", "Wout.bias"), "Wout": {"weight": arrays["Wout.weight"]}}
        with pytest.raises(
            ValueError, match=r"two levels down, under 'a' and 'rnn': .*load_checkpoint\(content\['a'\]\)"
        ):
            load_checkpoint({"a": parts})
        assert same(load_checkpoint(parts).readout.weight, arrays["Wout.weight"])

    def test_one_name_for_two_arrays(self):
        with pytest.raises(ValueError, match="two arrays are called 'Wout.weight'"):
            load_checkpoint({"model": network(), "Wout": {"weight": np.ones((N_OUT, H))}})

    def test_names_that_a_terminal_would_obey(self):
        arrays = {**network(), "\x1b[31mh0": np.full(H, "a")}
        with pytest.raises(ValueError, match=r"'\\x1b\[31mh0' cannot be the name of an array") as refusal:
            load_checkpoint(arrays)
        assert "\x1b" not in str(refusal.value)
        assert load_checkpoint(arrays, ignore="*h0").readout is not None

    @pytest.mark.parametrize("source", [3, None, b"path", [np.ones(3)], type("Net", (), {"state_dict": network})])
    def test_other_types(self, source):
        with pytest.raises(TypeError, match=r"must be a path, a mapping from names to arrays, or a torch.nn.Module"):
            load_checkpoint(source)


class TestArrays:
    def test_what_is_no_array_of_numbers_can_be_set_aside(self):
        for odd in (["a", "b"], np.array([None]), len, b"x"):
            with pytest.raises(ValueError, match=r"the checkpoint: names must be an array .*--ignore names"):
                load_checkpoint({**network(), "names": odd})
            assert load_checkpoint({**network(), "names": odd}, ignore="names").readout is not None

    def test_mappings_that_read_their_values_when_asked(self, tmp_path):
        np.savez(tmp_path / "net.npz", **network())
        with np.load(tmp_path / "net.npz") as opened:
            assert same(load_checkpoint(opened).readout.weight, network()["Wout.weight"])
        with pytest.raises(ValueError, match="the checkpoint: 'rnn.weight_ih_l0' cannot be read"):
            load_checkpoint(opened)

    def test_masked_arrays_are_refused(self):
        weight = np.ma.masked_array(np.ones((3 * H, H)), mask=np.eye(3 * H, H))
        with pytest.raises(ValueError, match="rnn.weight_hh_l0 must be .* masked"):
            load_checkpoint({**network(), "rnn.weight_hh_l0": weight})

    def test_an_expanded_array_is_held_against_the_memory(self):
        weight = np.broadcast_to(0.0, (10**9, 10**9))
        with pytest.raises(MemoryError, match="the checkpoint: rnn.weight_hh_l0 of shape .* GiB is available"):
            load_checkpoint({**network(), "rnn.weight_hh_l0": weight})

    def test_bfloat16_that_an_npz_file_lost(self, tmp_path):
        """NumPy writes types that it does not know as bytes without a meaning."""
        lost = {name: np.zeros(array.shape, "V2") for name, array in network(readout=None).items()}
        np.savez(tmp_path / "lost.npz", **lost)
        with pytest.raises(ValueError, match="lost.npz: rnn.weight_ih_l0 must be .*bfloat16 .* save it as float32"):
            load_checkpoint(tmp_path / "lost.npz")

    def test_bits_of_bfloat16_are_not_taken_for_integers(self):
        bits = {name: (array.astype("f4").view("u4") >> 16).astype("u2") for name, array in network().items()}
        with pytest.raises(ValueError, match="rnn.weight_ih_l0 holds integers of type uint16, as bfloat16 .* float32"):
            load_checkpoint(bits)

    @pytest.mark.backends
    @pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
    def test_types_of_ml_dtypes(self, kind):
        """Their numbers are some of those of float32, so that these come out exactly."""
        ml_dtypes = pytest.importorskip("ml_dtypes")
        arrays = {name: array.astype(getattr(ml_dtypes, kind)) for name, array in network().items()}
        model, readout = load_checkpoint(arrays)
        assert same(model.parameters["weight_hh"], arrays["rnn.weight_hh_l0"].astype(np.float64))
        assert same(readout.bias, arrays["Wout.bias"].astype(np.float64))
        inputs = np.random.default_rng(0).normal(size=(2, 3, N_IN)).astype(getattr(ml_dtypes, kind))
        exact = inputs.astype(np.float64)
        assert same(Trials(inputs).inputs, exact)
        assert same(Flow(model, inputs).states, Flow(model, exact).states)

    @pytest.mark.backends
    @pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
    def test_arrays_of_jax(self, kind):
        jnp = pytest.importorskip("jax.numpy")
        arrays = {name: jnp.asarray(array, kind) for name, array in network().items()}
        model, _ = load_checkpoint(arrays)
        assert same(model.parameters["weight_hh"], np.asarray(arrays["rnn.weight_hh_l0"].astype("float32"), "f8"))

    @pytest.mark.backends
    def test_random_keys_of_jax_are_named(self):
        random = pytest.importorskip("jax.random")
        with pytest.raises(ValueError, match="key must be an array of .*; it cannot be converted"):
            load_checkpoint({**network(), "key": random.key(0)})


class TestSingleBias:
    def test_of_a_gru_of_equinox(self):
        """``n = tanh(c_n + bias_n' + r (a_n + bias_n))``: bias is bias_ih and bias_n the last third of bias_hh."""
        arrays = network(prefix="cell.", suffix="", readout=None)
        inner = np.concatenate([np.zeros(2 * H), arrays["cell.bias_hh"][2 * H :]])
        plain = load_checkpoint({**arrays, "cell.bias_hh": inner}).model
        renamed = without(arrays, "cell.bias_ih", "cell.bias_hh")
        renamed |= {"cell.bias": arrays["cell.bias_ih"], "cell.bias_n": inner[2 * H :]}
        found = load_checkpoint(renamed)
        assert list(found.model.parameters) == list(plain.parameters)
        assert all(same(found.model.parameters[name], plain.parameters[name]) for name in plain.parameters)
        assert "cell.bias_n is the last third of bias_hh" in found.notes[0]
        with pytest.raises(ValueError, match=r"found 'cell.bias' \(12,\)"):
            load_checkpoint(without(renamed, "cell.bias_n"))
        with pytest.raises(ValueError, match=r"cell.bias_n must have shape \(4,\)"):
            load_checkpoint({**renamed, "cell.bias_n": np.ones(H + 1)})

    def test_of_an_rnn(self):
        arrays = network(1, readout=None)
        renamed = without(arrays, "rnn.bias_ih_l0", "rnn.bias_hh_l0") | {"rnn.bias_l0": arrays["rnn.bias_ih_l0"]}
        model, _ = load_checkpoint(renamed)
        assert list(model.parameters) == ["weight_ih", "weight_hh", "bias_ih"]
        assert same(model.parameters["bias_ih"], arrays["rnn.bias_ih_l0"])

    @pytest.mark.backends
    @pytest.mark.parametrize("use_bias", [True, False])
    def test_steps_agree_with_equinox(self, use_bias):
        """States are O(1); in float32 each of a step's five sums of H + N_IN terms errs by some units of 6e-8."""
        equinox, jax = pytest.importorskip("equinox"), pytest.importorskip("jax")
        cell = equinox.nn.GRUCell(N_IN, H, use_bias=use_bias, key=jax.random.PRNGKey(0))
        model, _ = load_checkpoint({name: getattr(cell, name) for name in ("weight_ih", "weight_hh", "bias", "bias_n")})
        generator = np.random.default_rng(0)
        state, row = generator.normal(size=H).astype("f4"), generator.normal(size=N_IN).astype("f4")
        assert np.abs(model.step(state, row) - np.asarray(cell(row, state))).max() < 2e-6


@pytest.mark.backends
class TestModules:
    def test_layers_without_arrays_are_told(self):
        """Normalisation without weights, say: no array is left over, and yet the outputs are others."""
        torch = pytest.importorskip("torch")
        plain = {"rnn": torch.nn.RNN(N_IN, H), "fc": torch.nn.Linear(H, N_OUT), "drop": torch.nn.Dropout()}
        norm = torch.nn.LayerNorm(H, elementwise_affine=False)
        assert not load_checkpoint(torch.nn.ModuleDict(plain)).notes
        module = torch.nn.ModuleDict({**plain, "norm": norm, "act": torch.nn.ReLU()})
        (note,) = load_checkpoint(module).notes
        assert "norm (LayerNorm), act (ReLU)" in note

    def test_nonlinearity_is_that_of_the_module(self):
        torch = pytest.importorskip("torch")
        for name in ("tanh", "relu"):
            rnn = torch.nn.RNN(N_IN, H, nonlinearity=name)
            whole = torch.nn.ModuleDict({"rnn": rnn, "fc": torch.nn.Linear(H, N_OUT)})
            cell = torch.nn.ModuleDict({"cell": torch.nn.RNNCell(N_IN, H, nonlinearity=name)})
            for source in (rnn, whole, cell, {"model": whole, "epoch": 3}, torch.nn.DataParallel(whole)):
                found = load_checkpoint(source)
                assert isinstance(found.model, RNN)
                assert (found.model.nonlinearity.name, found.nonlinearity_assumed) == (name, False)
            assert load_checkpoint(rnn.state_dict()).nonlinearity_assumed
            twice = torch.nn.ModuleDict({"a": rnn, "b": rnn})
            assert load_checkpoint(twice, ignore="a").model.nonlinearity.name == name

    def test_states_agree_with_the_module(self):
        """A relu network: each of 6 steps sums at most 9 products of O(1), in float64."""
        torch = pytest.importorskip("torch")
        module = torch.nn.RNN(N_IN, H, nonlinearity="relu", batch_first=True).double()
        inputs = np.random.default_rng(0).normal(size=(2, 6, N_IN))
        states = module(torch.from_numpy(inputs))[0].detach().numpy()
        assert np.abs(Flow(load_checkpoint(module).model, inputs).states - states).max() < 1e-14

    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
    def test_states_from_learnt_initial_states_agree_with_the_module(self, kind, layers, batch_first):
        """In float64, states of O(1): 6 steps of sums of at most 9 products in each layer."""
        torch = pytest.importorskip("torch")
        torch.manual_seed(layers)
        module = torch.nn.Module()
        module.rnn = getattr(torch.nn, kind)(N_IN, H, num_layers=layers, batch_first=batch_first)
        names = ["h0", "c0"] if kind == "LSTM" else ["h0"]
        for name in names:
            setattr(module, name, torch.nn.Parameter(torch.randn(layers, 1, H)))
        module.double()
        inputs = np.random.default_rng(0).normal(size=(2, 6, N_IN))
        start = tuple(getattr(module, name).expand(-1, 2, -1).contiguous() for name in names)
        given = torch.from_numpy(inputs if batch_first else inputs.swapaxes(0, 1))
        outputs = module.rnn(given, start if kind == "LSTM" else start[0])[0].detach().numpy()
        found = load_checkpoint(module, z0=names)
        states = Flow(found.model, inputs, found.z0).states[:, :, found.model.observed]
        assert np.abs(states - (outputs if batch_first else outputs.swapaxes(0, 1))).max() < 1e-14

    @pytest.mark.parametrize(
        "kind, options, message",
        [
            (
                "GRU",
                {"bidirectional": True},
                "a bidirectional network has no causal flow.* 'weight_ih_l0_reverse': ignore",
            ),
            ("LSTM", {"num_layers": 2, "bidirectional": True}, "a bidirectional network has no causal flow"),
            ("LSTM", {"proj_size": 2}, "an LSTM with projections .* found 'weight_hr_l0'"),
            ("Linear", {}, "found no recurrent layer.*'weight', 'bias'"),
        ],
    )
    def test_what_is_not_supported(self, kind, options, message):
        torch = pytest.importorskip("torch")
        with pytest.raises(ValueError, match=f"the module {kind}: {message}"):
            load_checkpoint(getattr(torch.nn, kind)(N_IN, H, **options))

    def test_tensors_without_numbers(self):
        torch = pytest.importorskip("torch")
        state = torch.nn.RNN(N_IN, H).state_dict()
        weight = state["weight_hh_l0"]
        cases = {
            "meta device": weight.to("meta"),
            "layout torch.sparse_coo": weight.to_sparse(),
            "complex": weight.to(torch.complex64),
            "UninitializedParameter without numbers": torch.nn.UninitializedParameter(),
        }
        for words, tensor in cases.items():
            with pytest.raises(ValueError, match=f"weight_hh_l0 is a .*{words}"):
                load_checkpoint({**state, "weight_hh_l0": tensor})
        with pytest.raises(MemoryError, match="weight_hh_l0 of shape .* GiB is available"):
            load_checkpoint({**state, "weight_hh_l0": torch.zeros(1).expand(10**9, 10**9)})
