"""Layers of Keras and Flax, and networks written by hand: their documented equations in float32 and what is read."""

import numpy as np
import pytest

from kpref import Flow
from kpref.checkpoints import load_checkpoint
from kpref.models import GRU, LSTM, RNN, LeakyRNN, LowRankRNN, Rate, ResetBeforeGRU

from .samples import N_IN, N_OUT, H, network, same

TRIALS, STEPS = 3, 6
#: States are O(1); a step ends sums of H + N_IN + 2 terms, each off by 6e-8 of its size, and contracts.
TOLERANCE = 1e-6


def drawn(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def named(group, **arrays):
    return {f"{group}{name}": array for name, array in arrays.items()}


def sigmoid(a):
    return (1 / (1 + np.exp(-a))).astype("f4")


def agree(found, step, parts=1):
    """The states of what was read against a step ``(x, *state) -> state`` in float32."""
    x = np.random.default_rng(1).normal(size=(TRIALS, STEPS, N_IN)).astype("f4")
    state, states = [np.zeros((TRIALS, H), "f4")] * parts, []
    for n in range(STEPS):
        state = step(x[:, n], *state)
        state = state if isinstance(state, tuple) else (state,)
        states.append(np.concatenate(state, axis=1))
    assert states[-1].dtype == np.float32
    assert np.abs(Flow(found.model, x).states - np.stack(states, axis=1)).max() <= TOLERANCE


DENSE = drawn(kernel=(H, N_OUT), bias=(N_OUT,))


class TestKeras:
    """The cells of `keras.layers`: gates z, r, h of a GRU; i, f, c, o of an LSTM."""

    @staticmethod
    def arrays(blocks, bias, group="gru/gru_cell/"):
        shapes = {"kernel": (N_IN, blocks * H), "recurrent_kernel": (H, blocks * H)}
        return named(group, **drawn(**shapes, **({} if bias is None else {"bias": bias})))

    @pytest.mark.parametrize(
        "group, end", [("gru/gru_cell/", ""), ("gru/gru/gru_cell/", ":0"), ("", ""), ("cell.", "")]
    )
    def test_gru_with_the_reset_gate_after_the_product(self, group, end):
        arrays = self.arrays(3, (2, 3 * H), group)
        kernel, recurrent, bias = arrays.values()
        found = load_checkpoint({f"{name}{end}": array for name, array in arrays.items()})
        assert type(found.model) is GRU

        def step(x, h):
            x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3, axis=1)
            h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3, axis=1)
            z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
            return z * h + (1 - z) * np.tanh(x_h + r * h_h)

        agree(found, step)
        assert "Keras' GRU, in the order z, r, h" in found.notes[0]
        assert "sigmoid and tanh, Keras' defaults" in found.notes[1]

    @pytest.mark.parametrize("biased", [True, False])
    def test_gru_with_the_reset_gate_before_the_product(self, biased):
        arrays = self.arrays(3, (3 * H,) if biased else None)
        kernel, recurrent, *rest = arrays.values()
        found = load_checkpoint(arrays, reset=None if biased else "before")
        assert type(found.model) is ResetBeforeGRU

        def step(x, h):
            x_z, x_r, x_h = np.split(x @ kernel + (rest[0] if rest else np.float32(0)), 3, axis=1)
            z, r = sigmoid(x_z + h @ recurrent[:, :H]), sigmoid(x_r + h @ recurrent[:, H : 2 * H])
            return z * h + (1 - z) * np.tanh(x_h + (r * h) @ recurrent[:, 2 * H :])

        agree(found, step)

    def test_a_gru_without_biases_is_either(self):
        arrays = self.arrays(3, None)
        with pytest.raises(ValueError, match="nothing tells whether its reset gate .* say so with reset= .--reset"):
            load_checkpoint(arrays)
        assert type(load_checkpoint(arrays, reset="after").model) is GRU
        for bias, told, said in (((2, 3 * H), "after", "before"), ((3 * H,), "before", "after")):
            with pytest.raises(ValueError, match=f"stands {told} the product; got reset='{said}'"):
                load_checkpoint(self.arrays(3, bias), reset=said)
        with pytest.raises(ValueError, match="reset must be 'before' or 'after' the product; got 'never'"):
            load_checkpoint(arrays, reset="never")

    def test_lstm(self):
        arrays = self.arrays(4, (4 * H,), "lstm/lstm_cell/")
        kernel, recurrent, bias = arrays.values()
        found = load_checkpoint(arrays)
        assert type(found.model) is LSTM

        def step(x, h, c):
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c

        agree(found, step, 2)

    def test_simple_rnn(self):
        arrays = self.arrays(1, (H,), "simple_rnn/simple_rnn_cell/")
        kernel, recurrent, bias = arrays.values()
        found = load_checkpoint(arrays)
        assert type(found.model) is RNN
        agree(found, lambda x, h: np.tanh(x @ kernel + bias + h @ recurrent))
        assert found.nonlinearity_assumed
        assert load_checkpoint(arrays, nonlinearity="relu").model.nonlinearity.name == "relu"

    @pytest.mark.parametrize("options", [{}, {"readout": "dense"}, {"map": {"readout.weight": "dense/kernel.T"}}])
    def test_a_dense_layer_is_the_readout(self, options):
        arrays = self.arrays(3, (2, 3 * H)) | named("dense/", **DENSE)
        found = load_checkpoint(arrays, **options)
        assert same(found.readout.weight, np.ascontiguousarray(DENSE["kernel"].T, "f8"))
        assert same(found.readout.bias, DENSE["bias"].astype("f8"))

    def test_two_dense_layers_and_what_is_left(self):
        arrays = self.arrays(3, (2, 3 * H)) | named("dense/", **DENSE) | named("dense_1/", **DENSE)
        with pytest.raises(ValueError, match="ambiguous: pick one of 'dense/kernel.T', 'dense_1/kernel.T'"):
            load_checkpoint(arrays)
        found = load_checkpoint(arrays, readout="dense_1/kernel")
        assert found.notes[-1] == "not read, because another readout was chosen: 'dense/kernel', 'dense/bias'"
        assert load_checkpoint(arrays, ignore="dense").readout is not None
        with pytest.raises(ValueError, match="found 'embedding/embeddings'"):
            load_checkpoint(arrays | {"embedding/embeddings": np.ones((9, N_IN))}, readout="dense")

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"recurrent_kernel": np.ones((H, 2 * H))}, r"recurrent_kernel must have shape \(H, H\) or \(H, 3 H\) or"),
            ({"recurrent_kernel": np.ones((3 * H, H))}, "recurrent_kernel must have shape"),
            ({"kernel": np.ones((3 * H, N_IN))}, r"gru/gru_cell/kernel must have shape \(n_in, 12\); got \(12, 3\)"),
            ({"bias": np.ones((2, H))}, r"bias must have shape \(12,\) or \(2, 12\); got \(2, 4\)"),
            ({"bias": np.full((2, 3 * H), np.nan)}, "bias_ih holds nan"),
        ],
    )
    def test_shapes_that_do_not_fit(self, changed, message):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(self.arrays(3, (2, 3 * H)) | named("gru/gru_cell/", **changed))

    def test_gates_in_another_order_are_not_read_by_map(self):
        """Blocks that ``map`` names are in the order of PyTorch; those of this name are not."""
        arrays = self.arrays(3, None)
        by_map = {"weight_ih": "gru/gru_cell/kernel.T", "weight_hh": "gru/gru_cell/recurrent_kernel.T"}
        with pytest.raises(ValueError, match="whose GRU has its gates in the order update, reset, new, unlike"):
            load_checkpoint(arrays, map=by_map)

    def test_several_layers(self):
        arrays = self.arrays(3, (2, 3 * H)) | self.arrays(3, (2, 3 * H), "gru_1/gru_cell/")
        with pytest.raises(ValueError, match="several recurrent layers .* found 'gru/gru_cell/kernel', 'gru_1/"):
            load_checkpoint(arrays)
        assert type(load_checkpoint(arrays, ignore="gru_1").model) is GRU

    @pytest.mark.backends
    def test_files_of_weights(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        arrays = self.arrays(3, (2, 3 * H))
        path = tmp_path / "net.weights.h5"
        with h5py.File(path, "w") as file:
            for number, array in enumerate(arrays.values()):
                file[f"layers/gru/cell/vars/{number}"] = array
            for number, array in enumerate(DENSE.values()):
                file[f"layers/dense/vars/{number}"] = array
            file["optimizer/vars/0"] = np.ones((H, H))
            file["layers/gru/cell/seed_generator/vars/0"] = np.ones(2, "u4")
        found, plain = load_checkpoint(path), load_checkpoint(arrays)
        assert all(same(found.model.parameters[name], plain.model.parameters[name]) for name in plain.model.parameters)
        assert same(found.readout.bias, DENSE["bias"].astype("f8"))
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(ValueError, match="net.weights.h5 is not a whole HDF5 file"):
            load_checkpoint(path)


class TestFlax:
    """`flax.linen` keeps a kernel for each gate, `flax.nnx` all in one; biases stand where only the sum counts once."""

    @staticmethod
    def gates(letters, with_bias):
        shapes = {f"{side}{gate}": (N_IN if side == "i" else H, H) for side in "ih" for gate in letters}
        kernels, biases = drawn(**shapes), drawn(**{name: (H,) for name in shapes})
        return {
            name: {"kernel": kernels[name]} | ({"bias": biases[name]} if name in with_bias else {}) for name in shapes
        }

    @pytest.mark.parametrize("around", [lambda p: p, lambda p: {"params": {"GRUCell_0": p, "Dense_0": DENSE}}])
    def test_gru(self, around):
        p = self.gates("rzn", ("ir", "iz", "in", "hn"))
        found = load_checkpoint(around(p))
        assert type(found.model) is GRU

        def dense(name, value):
            return value @ p[name]["kernel"] + p[name].get("bias", np.float32(0))

        def step(x, h):
            r, z = (sigmoid(dense(f"i{gate}", x) + dense(f"h{gate}", h)) for gate in "rz")
            return (1 - z) * np.tanh(dense("in", x) + r * dense("hn", h)) + z * h

        agree(found, step)
        assert any(f"count {2 * H} parameters that this network does not have" in note for note in found.notes)
        assert (found.readout is None) == (around(p) is p)

    @pytest.mark.parametrize("forget", ["f", "f_"])
    def test_lstm(self, forget):
        """nnx calls a layer ``if_``."""
        p = self.gates("ifgo", ("hi", "hf", "hg", "ho"))
        given = {f"i{forget}" if name == "if" else name: child for name, child in p.items()}
        found = load_checkpoint({"cell": given})
        assert type(found.model) is LSTM
        assert set(found.model.parameters) == {"weight_ih", "weight_hh", "bias_hh"}

        def step(x, h, c):
            i, f, g, o = (x @ p[f"i{k}"]["kernel"] + h @ p[f"h{k}"]["kernel"] + p[f"h{k}"]["bias"] for k in "ifgo")
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c

        agree(found, step, 2)

    @pytest.mark.parametrize("blocks", [1, 3, 4])
    def test_layers_of_nnx(self, blocks):
        shapes = {"i": (N_IN, blocks * H), "h": (H, blocks * H), "bias": (blocks * H,)}
        own = drawn(**shapes)
        biased = "h" if blocks == 4 else "i"
        p = {f"dense_{side}": {"kernel": {"value": own[side]}} for side in "ih"}
        p[f"dense_{biased}"]["bias"] = {"value": own["bias"]}
        found = load_checkpoint(p)

        def step(x, h, *c):
            a, b = x @ own["i"], h @ own["h"]
            if blocks == 1:
                return np.tanh(a + b + own["bias"])
            if blocks == 3:
                (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(a + own["bias"], 3, axis=1), np.split(b, 3, axis=1)
                z = sigmoid(x_z + h_z)
                return (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
            i, f, g, o = np.split(a + b + own["bias"], 4, axis=1)
            new = sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(new), new

        agree(found, step, 2 if blocks == 4 else 1)

    def test_simple_cell(self):
        p = self.gates([""], ("i",))
        found = load_checkpoint({"SimpleCell_0": p})
        agree(found, lambda x, h: np.tanh(x @ p["i"]["kernel"] + p["i"]["bias"] + h @ p["h"]["kernel"]))

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"MGUCell_0.hf.kernel is of Flax' MGUCell, which is not supported"):
            load_checkpoint({"MGUCell_0": self.gates("fn", ("if", "in", "hn"))})
        gates = self.gates("rzn", ("ir", "iz", "in", "hn"))
        del gates["iz"]["kernel"]
        with pytest.raises(ValueError, match="there is no kernel of 'iz'"):
            load_checkpoint(gates)
        for letters, biased, alone in (
            ("rzn", ("ir", "iz", "hn"), "'ir', 'iz'"),
            ("rzn", ("ir", "iz", "in", "hr", "hn"), "'hr', 'hn'"),
            ("ifgo", ("hi", "hf"), "'hi', 'hf'"),
        ):
            with pytest.raises(ValueError, match=f"there are biases of {alone} alone, and Flax' .* has others too"):
                load_checkpoint(self.gates(letters, biased))
        gates = self.gates("rzn", ("ir", "iz", "in", "hn"))
        gates["hn"]["kernel"] = np.ones((H + 1, H))
        with pytest.raises(ValueError, match=r"hn.kernel must have shape \(4, 4\); got \(5, 4\)"):
            load_checkpoint(gates)


class TestByHand:
    def arrays(self):
        shapes = {"input2h.weight": (H, N_IN), "input2h.bias": (H,), "h2h.weight": (H, H), "h2h.bias": (H,)}
        return named("rnn.", **drawn(**shapes)) | {"fc.weight": np.ones((N_OUT, H)), "fc.bias": np.ones(N_OUT)}

    @pytest.mark.parametrize("leak", ["inside", "outside"])
    def test_a_leaky_network(self, leak):
        u, b, w, c, *_ = self.arrays().values()
        found = load_checkpoint(self.arrays(), alpha=0.25, leak=leak, nonlinearity="relu")
        assert type(found.model) is LeakyRNN
        assert found.readout.n_outputs == N_OUT
        phi, a = (lambda value: np.maximum(value, np.float32(0))), np.float32(0.25)

        def step(x, h):
            current = x @ u.T + b + c + (h if leak == "inside" else phi(h)) @ w.T
            return (1 - a) * h + a * (phi(current) if leak == "inside" else current)

        agree(found, step)

    @pytest.mark.parametrize("said", [{}, {"alpha": 0.1}, {"alpha": 0.1, "leak": "inside"}, {"nonlinearity": "relu"}])
    def test_what_nothing_tells_has_to_be_said(self, said):
        missing = [name for name in ("alpha", "leak", "nonlinearity") if name not in said]
        with pytest.raises(ValueError, match=f"whose {' and '.join(missing)} nothing tells: say so with {missing[0]}="):
            load_checkpoint(self.arrays(), **said)

    def test_a_rate_network_where_it_is_asked_for(self):
        assert type(load_checkpoint(self.arrays(), continuous=True, nonlinearity="relu").model) is Rate


class TestLowRank:
    @staticmethod
    def arrays():
        return drawn(wi=(N_IN, H), si=(N_IN,), m=(H, 2), n=(H, 2), h0=(H,)) | {"b": np.zeros(H, "f4")}

    def test_equations(self):
        p = self.arrays()
        found = load_checkpoint(p, alpha=0.2, z0="h0")
        assert type(found.model) is LowRankRNN
        assert same(found.z0, p["h0"].astype("f8"))
        assert found.nonlinearity_assumed
        a, size = np.float32(0.2), np.float32(H)

        def step(x, h):
            return h + a * (-h + np.tanh(h) @ p["n"] @ p["m"].T / size + x @ (p["wi"].T * p["si"]).T)

        agree(found, step)

    def test_what_is_refused(self):
        p = self.arrays()
        with pytest.raises(ValueError, match=r"whose alpha nothing tells: say so with alpha= .--alpha"):
            load_checkpoint(p, z0="h0")
        with pytest.raises(ValueError, match=r"found 'h0' \(4,\).*initial state with z0="):
            load_checkpoint(p, alpha=0.2)
        outputs = {"wo": np.ones((H, N_OUT)), "so": np.ones(N_OUT)}
        with pytest.raises(ValueError, match="'wo', 'so' make outputs of rates, .*--ignore wo --ignore so"):
            load_checkpoint(p | outputs, alpha=0.2, z0="h0")
        assert load_checkpoint(p | outputs, alpha=0.2, z0="h0", ignore=["wo", "so"]).readout is None
        with pytest.raises(ValueError, match=r"b shifts the states inside the nonlinearity"):
            load_checkpoint(p | {"b": np.ones(H)}, alpha=0.2, z0="h0")
        with pytest.raises(ValueError, match=r"n must have shape \(4, 2\); got \(4, 3\)"):
            load_checkpoint(p | {"n": np.ones((H, 3))}, alpha=0.2, z0="h0")
        with pytest.raises(ValueError, match="a LowRankRNN has no leak to choose; got 'inside'"):
            load_checkpoint(p, alpha=0.2, leak="inside", z0="h0")


def test_the_reset_gate_of_arrays_under_pytorchs_names():
    arrays = network()
    found = load_checkpoint(arrays, reset="before")
    assert type(found.model) is ResetBeforeGRU
    both = arrays["rnn.bias_ih_l0"] + arrays["rnn.bias_hh_l0"]
    assert same(found.model.parameters["bias"], both)
    assert type(load_checkpoint(arrays, reset="after").model) is GRU
    for gates in (1, 4):
        for reset in ("before", "after"):
            with pytest.raises(ValueError, match=r"reset= \(--reset\)"):
                load_checkpoint(network(gates), reset=reset)


@pytest.mark.backends
class TestLibraries:
    """The states of the libraries themselves, where they are installed."""

    X = np.random.default_rng(1).normal(size=(TRIALS, STEPS, N_IN)).astype("f4")

    def same_states(self, found, outputs):
        states = Flow(found.model, self.X).states[:, :, found.model.observed]
        assert np.abs(states - np.asarray(outputs)).max() <= TOLERANCE

    @pytest.mark.parametrize("as_file", [True, False])
    @pytest.mark.parametrize(
        "kind, options, reset",
        [
            ("SimpleRNN", {}, None),
            ("GRU", {}, None),
            ("GRU", {"reset_after": False}, None),
            ("GRU", {"use_bias": False}, "after"),
            ("LSTM", {"dropout": 0.1}, None),
        ],
    )
    def test_keras(self, tmp_path, monkeypatch, kind, options, reset, as_file):
        monkeypatch.setenv("KERAS_BACKEND", "jax")  # when it is imported first; by itself it looks for TensorFlow
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where it writes its settings
        keras = pytest.importorskip("keras")
        layer = getattr(keras.layers, kind)(H, return_sequences=True, **options)
        network = keras.Sequential([keras.Input((STEPS, N_IN)), layer, keras.layers.Dense(N_OUT)])
        rng = np.random.default_rng(2)
        layer.set_weights([0.6 * rng.normal(size=weight.shape) for weight in layer.get_weights()])
        source = {weight.path: np.asarray(weight) for weight in network.weights}
        if as_file:
            pytest.importorskip("h5py")
            source = tmp_path / "network.weights.h5"
            network.save_weights(source)
        found = load_checkpoint(source, reset=reset)
        self.same_states(found, layer(self.X))
        seen = Flow(found.model, self.X).states[:, :, found.model.observed]
        assert np.abs(found.readout(seen) - np.asarray(network(self.X))).max() <= TOLERANCE

    @pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "OptimizedLSTMCell", "SimpleCell"])
    def test_flax(self, kind):
        jax, flax = pytest.importorskip("jax"), pytest.importorskip("flax")
        cell = getattr(pytest.importorskip("flax.linen"), kind)(H)
        layer = flax.linen.RNN(cell)
        rng = np.random.default_rng(2)
        start = layer.init(jax.random.key(0), self.X)
        variables = jax.tree_util.tree_map(lambda array: array + 0.3 * rng.normal(size=array.shape), start)
        self.same_states(load_checkpoint(variables), layer.apply(variables, self.X))
        nnx = pytest.importorskip("flax.nnx")
        layer = nnx.RNN(getattr(nnx, kind)(N_IN, H, rngs=nnx.Rngs(0)))
        self.same_states(load_checkpoint(nnx.to_pure_dict(nnx.state(layer, nnx.Param))), layer(self.X))

    def test_an_lstm_of_equinox(self):
        equinox, jax = pytest.importorskip("equinox"), pytest.importorskip("jax")
        cell = equinox.nn.LSTMCell(N_IN, H, key=jax.random.PRNGKey(0))
        found = load_checkpoint({name: getattr(cell, name) for name in ("weight_ih", "weight_hh", "bias")})
        rng = np.random.default_rng(0)
        h, c, x = rng.normal(size=H), rng.normal(size=H), rng.normal(size=N_IN)
        new = cell(x.astype("f4"), (h.astype("f4"), c.astype("f4")))
        assert np.abs(found.model.step(np.concatenate([h, c]), x) - np.concatenate(new)).max() <= TOLERANCE
