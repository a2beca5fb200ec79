"""Every array is accounted for: used, set aside with a note, or refused by its name; the ways out do as they say."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kpref import Flow
from kpref.checkpoints import load_checkpoint
from kpref.models import GRU, RNN

from .samples import N_IN, N_OUT, H, network, same, without


def bits(checkpoint):
    """All numbers of a network that was read."""
    readout = checkpoint.readout
    arrays = dict(checkpoint.model.parameters)
    if readout is not None:
        arrays |= {"weight": readout.weight} | ({} if readout.bias is None else {"bias": readout.bias})
    return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


def outcome(arrays, **options):
    """The network, or the text of the refusal."""
    try:
        return load_checkpoint(arrays, **options), ""
    except ValueError as error:
        return None, str(error)


NAMES = st.sampled_from(
    "h0 z0 mask rnn.mask fc.weight fc.bias Wout.weight_g Wout.weight_mask rnn.weight_hh_l0_mask rnn.weight_hh_l0_g "
    "rnn.weight_hh_l1 rnn.weight_hh_l0_reverse weight_hh weight_ih bias bias_n rnn.bias rnn.bias_l0 embedding.weight "
    "critic.weight critic.bias W_out b_out norm.weight head alpha rnn.parametrizations.weight_hh_l0.original0".split()
)
SHAPES = st.one_of(
    st.sampled_from([(), (H,), (1, H), (1, 1, H), (H, H), (3 * H, H), (3 * H,), (N_OUT, H), (N_OUT,), (H, N_OUT)]),
    hnp.array_shapes(max_dims=4, max_side=5, min_side=0),
)


class TestEveryArray:
    @given(
        st.sampled_from([1, 3, 4]),
        st.one_of(NAMES, st.text(min_size=1, max_size=12)),
        SHAPES,
        st.sampled_from([np.float64, np.float32, np.int64, np.bool_]),
        st.booleans(),
    )
    def test_one_more_array_changes_nothing_unless_it_is_refused_by_name(self, gates, name, shape, dtype, choose):
        """The network has all its biases and a readout with a bias: there is no room for one more array."""
        arrays = network(gates)
        if name in arrays:
            return
        plain = load_checkpoint(arrays)
        options = {"readout": "Wout"} if choose else {}
        found, refusal = outcome({**arrays, name: np.ones(shape, dtype)}, **options)
        if found is None:
            assert repr(name) in refusal
        else:
            assert bits(found) == bits(plain)
            assert any(repr(name) in note for note in found.notes if note not in plain.notes)

    @given(st.sampled_from([1, 3, 4]), st.sampled_from(list(network())), st.booleans())
    def test_one_array_less_is_seen_in_the_network_or_refused(self, gates, name, ignored):
        arrays = network(gates)
        found, refusal = outcome(arrays, ignore=name) if ignored else outcome(without(arrays, name))
        if found is None:
            assert name.removeprefix("rnn.").removesuffix("_l0").removesuffix(".weight") in refusal
        else:
            assert len(bits(found)) == len(arrays) - 1
            assert ignored == any(name in note for note in found.notes)

    @pytest.mark.parametrize(
        "extra",
        [
            {"h0": np.ones((1, H))},
            {"rnn.h0": np.ones((1, 1, H))},
            {"rnn.mask": np.ones((H, H))},
            {"dale.sign": np.ones((1, H))},
            {"embedding.weight": np.ones((50, H))},
            {"embedding.weight": np.ones((50, N_IN))},
            {"init_state.weight": np.ones((1, H))},
            {"fc_h0.weight": np.ones((H, H)), "fc_h0.bias": np.ones(H)},
            {"encoder.weight": np.ones((N_IN, H)), "encoder.bias": np.ones(N_IN)},
            {"out_mask": np.ones((N_OUT, H))},
            {"weight": np.ones((N_OUT, H)), "bias": np.ones(N_OUT)},
            {"norm.weight": np.ones(H), "norm.bias": np.ones(H), "norm.num_batches_tracked": np.array(3)},
            {"outputs": np.ones((7, H))},
            {"fc.weight": np.ones((N_OUT, H), dtype=bool)},
            {"alpha": 0.2},
        ],
        ids=lambda extra: ", ".join(extra),
    )
    def test_what_is_no_readout_is_refused_by_name(self, extra):
        """Shapes of H columns do not make a readout: initial states, masks and embeddings have them too."""
        for arrays in (network(1, readout=None), network(3)):
            options = {"readout": "Wout"} if "Wout.weight" in arrays else {}
            with pytest.raises(ValueError, match=rf"{next(iter(extra))}.*--ignore") as refusal:
                load_checkpoint({**arrays, **extra}, **options)
            assert all(repr(name) in str(refusal.value) for name in extra)
            found = load_checkpoint({**arrays, **extra}, ignore=list(extra), **options)
            assert bits(found) == bits(load_checkpoint(arrays))
            assert found.notes[-1] == f"set aside as asked: {', '.join(map(repr, extra))}"


class TestReadouts:
    @pytest.mark.parametrize(
        "weight, bias",
        [
            ("Wout", "bout"), ("W_out", "b_out"), ("rnn.W_out", "rnn.b_out"), ("readout", "readout.bias"),
            ("weight_out", "bias_out"), ("fc_weight", "fc_bias"), ("fc.weight", None), ("module.decoder.weight", None),
            ("W_hy", "b_hy"), ("h2o.weight", "h2o.bias"), ("hidden2tag.weight", "hidden2tag.bias"),
            ("layers.3.weight", "layers.3.bias"), ("policy_head.weight", None), ("outputLayer.weight", None),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("n_outputs", [1, 2, H])
    def test_names_of_common_codebases(self, weight, bias, n_outputs):
        generator = np.random.default_rng(0)
        parts = {weight: generator.normal(size=(n_outputs, H))}
        if bias is not None:
            parts[bias] = generator.normal(size=n_outputs)
        model, readout = load_checkpoint({**network(readout=None), **parts})
        assert same(readout.weight, parts[weight])
        assert (readout.bias is None) if bias is None else same(readout.bias, parts[bias])

    def test_words_that_the_recurrent_layer_shares_say_nothing(self):
        """``encoder.fc`` beside ``encoder.rnn`` is the readout of an encoder, not the encoder of something."""
        head = {"fc.weight": np.ones((N_OUT, H)), "fc.bias": np.ones(N_OUT)}
        inside = {**network(prefix="input_encoder.rnn.", readout=None)}
        inside |= {f"input_encoder.{name}": array for name, array in head.items()}
        assert load_checkpoint(inside).readout.n_outputs == N_OUT
        outside = {**network(readout=None), **{f"input_encoder.{name}": array for name, array in head.items()}}
        with pytest.raises(ValueError, match="found 'input_encoder.fc.weight'"):
            load_checkpoint(outside)

    def test_a_layer_that_may_stand_before_the_network_is_not_taken(self):
        layer = {"layers.0.weight": np.ones((N_IN, H)), "layers.0.bias": np.ones(N_IN)}
        with pytest.raises(ValueError, match="found 'layers.0.weight' .*--readout"):
            load_checkpoint({**network(readout=None), **layer})
        assert load_checkpoint({**network(readout=None), **layer}, readout="layers.0").readout.n_outputs == N_IN

    def test_a_name_that_does_not_speak_for_a_readout_is_told(self):
        head = {"mix.weight": np.ones((N_OUT, H)), "mix.bias": np.ones(N_OUT)}
        found = load_checkpoint({**network(readout=None), **head})
        assert found.readout.n_outputs == N_OUT
        assert "the readout is assumed to be mix.weight" in found.notes[0]
        assert not load_checkpoint({**network(readout=None), **head}, readout="mix").notes

    def test_other_heads_are_named_in_a_note(self):
        heads = {"critic.weight": np.ones((1, H)), "critic.bias": np.ones(1)}
        with pytest.raises(ValueError, match=r"ambiguous: pick one of 'Wout.weight', 'critic.weight'.*--readout Wout"):
            load_checkpoint({**network(), **heads})
        found = load_checkpoint({**network(), **heads}, readout="Wout")
        assert same(found.readout.weight, network()["Wout.weight"])
        assert found.notes == ("not read, because another readout was chosen: 'critic.weight', 'critic.bias'",)
        assert load_checkpoint({**network(), **heads}, ignore="Wout").readout.n_outputs == 1

    @pytest.mark.parametrize("name", ["V", "rnn.mask", "embedding.weight", "embedding"])
    def test_a_readout_that_is_named_may_have_any_name(self, name):
        arrays = {**network(readout=None), name.removesuffix(".weight") + ".weight" * ("bed" in name): np.ones((2, H))}
        assert load_checkpoint(arrays, readout=name).readout.n_outputs == 2

    def test_a_transposed_readout_is_not_taken(self):
        arrays = {**network(readout=None), "Wout": np.arange(8.0).reshape(H, 2)}
        with pytest.raises(ValueError, match=r"'Wout' \(4, 2\).*--map readout.weight=Wout.T"):
            load_checkpoint(arrays)
        _, readout = load_checkpoint(arrays, map={"readout.weight": "Wout.T"})
        assert same(readout.weight, np.ascontiguousarray(arrays["Wout"].T))


class TestReadoutsOfOneOutput:
    @pytest.mark.parametrize("options", [{}, {"readout": "w_out"}, {"map": {"readout.weight": "w_out"}}])
    @pytest.mark.parametrize("bias", [{}, {"b_out": np.ones(1)}])
    def test_a_vector_by_the_name_of_a_readout_is_one_of_one_output(self, options, bias):
        arrays = {**network(readout=None), "w_out": np.arange(1.0, H + 1), **bias}
        found = load_checkpoint(arrays, **options)
        assert same(found.readout.weight, arrays["w_out"][None])
        assert found.readout.bias is None if not bias else same(found.readout.bias, bias["b_out"])
        assert found.notes == (f"w_out of shape ({H},) is read as a readout of one output",)

    def test_a_layer_of_pytorch(self):
        assert load_checkpoint({**network(readout=None), "fc.weight": np.ones(H)}).readout.weight.shape == (1, H)

    @pytest.mark.parametrize("name", ["gain", "norm.weight", "fc.bias", "b_out", "h0"])
    def test_a_vector_of_another_name_is_none(self, name):
        with pytest.raises(ValueError, match=f"found '{name}'"):
            load_checkpoint({**network(readout=None), name: np.ones(H)})


class TestInitialStates:
    @pytest.mark.parametrize("shape", [(H,), (1, H), (1, 1, H)])
    def test_one_state(self, shape):
        state = np.arange(1.0, H + 1)
        found = load_checkpoint({**network(), "h0": state.reshape(shape)}, z0="h0")
        assert same(found.z0, state)
        assert bits(found) == bits(load_checkpoint(network()))
        assert found.notes == ("the initial state is h0, held fixed",)
        inputs = np.ones((2, 3, N_IN))
        assert same(Flow(found.model, inputs, found.z0).states, Flow(found.model, inputs, np.stack([state] * 2)).states)

    @pytest.mark.parametrize("shape", [(5, H), (1, 5, H)])
    def test_one_state_a_trial(self, shape):
        states = np.arange(5.0 * H).reshape(shape)
        assert same(load_checkpoint({**network(), "h0": states}, z0="h0").z0, states.reshape(5, H))

    @pytest.mark.parametrize("shape", [(), (H + 1,), (H, 1), (2, 3, H), (1, 1, 1, H), (0, H)])
    def test_shapes_that_do_not_fit(self, shape):
        with pytest.raises(ValueError, match=r"h0 must have shape \(4,\), or \(B, 4\) .*; got"):
            load_checkpoint({**network(), "h0": np.ones(shape)}, z0="h0")

    def test_a_number_that_is_not_finite(self):
        with pytest.raises(ValueError, match=r"h0 holds nan at index \(1,\)"):
            load_checkpoint({**network(), "h0": [0, np.nan, 0, 0]}, z0="h0")

    @pytest.mark.parametrize("shape", [(H,), (1, H), (1, 1, H), (5, H), (1, 5, H)])
    def test_the_refusal_says_so_where_it_may_be_one(self, shape):
        with pytest.raises(
            ValueError, match=r"found 'h0' .* initial state with z0= .*--ignore h0\) if no weight depends"
        ):
            load_checkpoint({**network(), "h0": np.ones(shape)})

    def test_an_lstm_starts_from_h_and_c(self):
        h, c = np.arange(1.0, H + 1), np.arange(5.0 * H).reshape(1, 5, H)
        arrays = {**network(4), "h0": h, "c0": c}
        found = load_checkpoint(arrays, z0=["h0", "c0"])
        assert same(found.z0, np.concatenate([np.stack([h] * 5), c[0]], axis=1))
        assert found.notes == ("the initial state is h0 and c0, held fixed",)
        with pytest.raises(ValueError, match=r"z0 .* must name h and c, .* LSTM.*; got 'h0'"):
            load_checkpoint(arrays, z0="h0", ignore="c0")
        whole = np.arange(2.0 * H)
        assert same(load_checkpoint({**network(4), "start": whole}, z0="start").z0, whole)

    @pytest.mark.parametrize("shape", [(2, H), (2, 1, H), (2, 5, H)])
    @pytest.mark.parametrize("gates, names", [(3, "h0"), (4, ("h0", "c0"))])
    def test_layers_start_as_pytorch_has_them(self, shape, gates, names):
        """Of shape (layers, trials, H); the state of a network is that of its layers one after the other."""
        arrays = {**network(gates), **network(gates, n_inputs=H, suffix="_l1", readout=None)}
        starts = {name: 10.0 * np.arange(np.prod(shape)).reshape(shape) + k for k, name in enumerate(("h0", "c0"))}
        chosen = [names] if isinstance(names, str) else names
        found = load_checkpoint({**arrays, **{name: starts[name] for name in chosen}}, z0=names)
        assert found.z0.shape == ((5,) if shape[1:] == (5, H) else ()) + (found.model.n_states,)
        for place, part in found.model.parts.items():
            letter, _, layer = place.partition("_l")
            assert (found.z0[..., part] == starts[f"{letter}0"][int(layer)]).all()
        with pytest.raises(ValueError, match=r"h0 must have shape \(2, 4\), or \(2, B, 4\) .*; got \(3, 4\)"):
            load_checkpoint({**arrays, **{name: np.ones((3, H)) for name in chosen}}, z0=names)
        with pytest.raises(ValueError, match=r"found 'h0' .* initial state with z0= "):
            load_checkpoint({**arrays, "h0": starts["h0"]})

    def test_there_is_none_of_that_name(self):
        with pytest.raises(ValueError, match="there is no array 'h0' for z0= .*; got 'Wout.weight', 'Wout.bias'"):
            load_checkpoint(network(), z0="h0")


class TestIgnore:
    @pytest.mark.parametrize("pattern", ["bn", "bn.*", ["bn.w*", "bn.bias"], ["bn.weight", "b?.bias"], "*n.*a*"])
    def test_names_and_patterns(self, pattern):
        arrays = {**network(prefix="", readout=None), "bn.weight": np.ones(H), "bn.bias": np.array(["text"])}
        if isinstance(pattern, str) and "a*" in pattern:
            arrays = without(arrays, "bn.weight")
        found = load_checkpoint(arrays, ignore=pattern)
        assert bits(found) == bits(load_checkpoint(network(prefix="", readout=None)))

    def test_a_pattern_that_fits_nothing_is_a_mistake(self):
        with pytest.raises(ValueError, match=r"nothing called 'h1' to set aside with ignore= \(--ignore\); the names"):
            load_checkpoint({**network(), "h0": np.ones(H)}, ignore=["h0", "h1"])

    @pytest.mark.parametrize(
        "options", [{"ignore": [3]}, {"z0": 3}, {"readout": b"fc"}, {"readout": ""}, {"map": [1]}, {"ignore": 5}]
    )
    def test_names_are_text(self, options):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be .*; got"):
            load_checkpoint(network(), **options)


class TestMap:
    def test_any_names(self):
        generator = np.random.default_rng(0)
        shapes = {"cell.W": (H, H), "cell.U": (N_IN, H), "cell.b": (H,), "y.W": (N_OUT, H), "y.c": (N_OUT,)}
        arrays = {name: generator.normal(size=shape) for name, shape in shapes.items()}
        names = {"weight_hh": "cell.W", "weight_ih": "cell.U.T", "bias_hh": "cell.b"}
        found = load_checkpoint(arrays, map={**names, "readout.weight": "y.W", "readout.bias": "y.c"})
        assert type(found.model) is RNN
        assert same(found.model.parameters["weight_hh"], arrays["cell.W"])
        assert same(found.model.parameters["weight_ih"], np.ascontiguousarray(arrays["cell.U"].T))
        assert same(found.model.parameters["bias_hh"], arrays["cell.b"])
        assert same(found.readout.weight, arrays["y.W"])
        assert same(found.readout.bias, arrays["y.c"])
        with pytest.raises(ValueError, match="'y.W' .*, 'y.c'"):
            load_checkpoint(arrays, map=names)

    def test_a_bias_under_another_name_is_not_to_be_set_aside(self):
        """Wrappers in the way of ``h2h = Linear(H, H)`` keep both biases under names of their own."""
        arrays = {"h2h.weight": np.ones((H, H)), "input2h.weight": np.ones((H, N_IN)), "h2h.bias": np.ones(H)}
        names = {"weight_hh": "h2h.weight", "weight_ih": "input2h.weight"}
        with pytest.raises(ValueError, match=r"found 'h2h.bias' .*--map bias_ih=h2h.bias"):
            load_checkpoint(arrays, map=names)
        assert load_checkpoint(arrays, map={**names, "bias_ih": "h2h.bias"}).model.parameters["bias_ih"].all()

    def test_goes_before_what_is_recognised(self):
        arrays = {**network(), "masked": np.zeros((3 * H, H))}
        with pytest.raises(ValueError, match="found 'rnn.weight_hh_l0'"):
            load_checkpoint(arrays, map={"weight_hh": "masked"})
        found = load_checkpoint(arrays, map={"weight_hh": "masked"}, ignore="rnn.weight_hh_l0")
        assert not found.model.parameters["weight_hh"].any()

    @pytest.mark.parametrize(
        "names, message",
        [
            ({"weight_hx": "a"}, r"map \(--map KEY=NAME\) must say of some of 'weight_ih'.*; got 'weight_hx': 'a'"),
            ({"weight_hh": 3}, "got 'weight_hh': 3"),
            ({"bias_ih": "b", "bias_hh": "b"}, r"map \(--map KEY=NAME\) takes 'b' for two things"),
            ({"weight_hh": "absent"}, "there is no array 'absent'; the names are"),
            ({"weight_hh": "Wout.weight.T"}, r"weight.T must have shape \(H, H\)"),
        ],
    )
    def test_says_what_does_not_fit(self, names, message):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(network(), map=names)

    def test_transposed_weights_under_the_names_of_pytorch(self):
        arrays = network(readout=None)
        turned = {**arrays, "rnn.weight_hh_l0": arrays["rnn.weight_hh_l0"].T}
        with pytest.raises(ValueError, match="of a transpose: map= .*--map weight_hh=rnn.weight_hh_l0.T"):
            load_checkpoint(turned)
        found = load_checkpoint(turned, map={"weight_hh": "rnn.weight_hh_l0.T"})
        assert bits(found) == bits(load_checkpoint(arrays))
        with pytest.raises(ValueError, match="of a transpose: map= .*--map weight_ih=rnn.weight_ih_l0.T"):
            load_checkpoint({**arrays, "rnn.weight_ih_l0": arrays["rnn.weight_ih_l0"].T})


class TestResult:
    def test_unpacks_and_survives_copies(self):
        found = load_checkpoint({**network(1), "h0": np.ones(H)}, z0="h0")
        model, readout = found
        assert (model, readout) == (found.model, found.readout) == (found[0], found[1])
        for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert bits(other) == bits(found)
            assert same(other.z0, found.z0)
            assert (other.notes, other.nonlinearity_assumed) == (found.notes, True)
        assert repr(found) == f"Checkpoint({model!r}, {readout!r}, z0 of shape (4,), 2 notes)"

    @pytest.mark.parametrize("name", ["", "gelu"])
    def test_a_nonlinearity_that_is_none_is_refused_wherever_it_was_said(self, name):
        with pytest.raises(ValueError, match=f"nonlinearity must be one of .*{name!r}"):
            load_checkpoint({**network(1), "nonlinearity": name})
        with pytest.raises(ValueError, match=f"nonlinearity must be one of .*{name!r}"):
            load_checkpoint(network(1), nonlinearity=name)

    @pytest.mark.parametrize(
        "gates, text, options, name, assumed",
        [
            (1, {}, {}, "tanh", True),
            (1, {}, {"continuous": True}, "tanh", True),
            (1, {}, {"nonlinearity": "tanh"}, "tanh", False),
            (1, {"nonlinearity": "relu"}, {}, "relu", False),
            (1, {"nonlinearity": "relu"}, {"nonlinearity": "tanh"}, "tanh", False),
            (3, {}, {}, None, False),
        ],
    )
    def test_says_whether_the_nonlinearity_was_assumed(self, gates, text, options, name, assumed):
        found = load_checkpoint({**network(gates), **text}, **options)
        assert isinstance(found.model, GRU) or found.model.nonlinearity.name == name
        assert found.nonlinearity_assumed == assumed
        assert any("assumed to be tanh" in note and "--nonlinearity" in note for note in found.notes) == assumed
