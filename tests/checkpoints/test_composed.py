"""Weights kept in parts: weight normalisation and pruning give the weight that the network runs with."""

import importlib
import warnings

import numpy as np
import pytest

from kpref.checkpoints import load_checkpoint

from .samples import N_IN, N_OUT, H, network, same, without

HH, WOUT = "rnn.weight_hh_l0", "Wout.weight"
NEW = ("rnn.parametrizations.weight_hh_l0.original0", "rnn.parametrizations.weight_hh_l0.original1")


class TestWeightNormalisation:
    @pytest.mark.parametrize("names", [(f"{HH}_g", f"{HH}_v"), NEW])
    @pytest.mark.parametrize("axis", [0, 1, None])
    def test_length_times_direction(self, names, axis):
        """A weight is the length of its slices times their direction: each entry errs by 4 roundings, and a sum."""
        arrays = network(1)
        weight = arrays[HH]
        others = tuple({0, 1} - {axis})
        length = np.sqrt((weight**2).sum(axis=others, keepdims=axis is not None))
        direction = weight * (np.arange(1.0, H + 1)[:, None] if axis == 0 else 3.0)
        found = load_checkpoint({**without(arrays, HH), names[0]: length, names[1]: direction})
        assert np.abs(found.model.parameters["weight_hh"] / weight - 1).max() < (H * H + 8) * 2.0**-53
        assert f"{HH} is put together from {names[0]} and {names[1]}" in found.notes[-1]

    @pytest.mark.parametrize(
        "length, direction, message",
        [
            (np.ones((H, H)), np.ones((H, 1)), "_g must be the length of each slice"),
            (np.ones(H), np.ones((H, H)), "_g must be the length of each slice"),
            (np.ones((H, 1)), np.zeros((H, H)), "_v has a slice of zeros"),
        ],
    )
    def test_parts_that_do_not_fit(self, length, direction, message):
        with pytest.raises(ValueError, match=message):
            load_checkpoint({**without(network(1), HH), f"{HH}_g": length, f"{HH}_v": direction})

    def test_a_part_alone_is_not_lost(self):
        with pytest.raises(ValueError, match=f"found '{HH}_g'"):
            load_checkpoint({**network(1), f"{HH}_g": np.ones((H, 1))})
        with pytest.raises(ValueError, match=f"found '{HH}' beside '{HH}_g' and '{HH}_v', of which it is made"):
            load_checkpoint({**network(1), f"{HH}_g": np.ones((H, 1)), f"{HH}_v": np.ones((H, H))})


def test_two_parts_of_the_shape_of_the_weight_are_no_weight_normalisation():
    """A difference of two positive matrices (Dale's law) has the names of one."""
    parts = {name: np.ones((H, H)) for name in NEW}
    with pytest.raises(ValueError, match="must be the length of each slice of"):
        load_checkpoint({**without(network(1), HH), **parts})


def test_pruning_is_a_product():
    arrays = network(1)
    mask = (np.arange(H * H).reshape(H, H) % 3 > 0).astype(float)
    found = load_checkpoint({**without(arrays, HH), f"{HH}_orig": arrays[HH], f"{HH}_mask": mask})
    assert same(found.model.parameters["weight_hh"], arrays[HH] * mask)
    assert f"{HH} is the product of {HH}_orig and {HH}_mask" in found.notes[-1]
    with pytest.raises(ValueError, match=r"_mask must have the shape of .*_orig, \(4, 4\); got \(1, 4\)"):
        load_checkpoint({**without(arrays, HH), f"{HH}_orig": arrays[HH], f"{HH}_mask": mask[:1]})


@pytest.mark.parametrize(
    "parts, way_out",
    [
        ([f"{WOUT}_orig", f"{WOUT}_u", f"{WOUT}_v"], "remove_spectral_norm"),
        (["Wout.parametrizations.weight.original"], r"remove_parametrizations\(module, 'weight'\)"),
        ([*NEW, NEW[0].replace("original0", "0._u")], r"remove_parametrizations\(module, 'weight_hh_l0'\)"),
    ],
)
def test_other_parts_are_refused_with_what_to_do(parts, way_out):
    with pytest.raises(ValueError, match=f"'{parts[0]}' is part of .*{way_out}.* before state_dict"):
        load_checkpoint({**without(network(), WOUT), **{name: np.ones((N_OUT, H)) for name in parts}})


def gain():
    """A parametrization whose parts have the names and shapes of weight normalisation, and another product."""
    torch = pytest.importorskip("torch")

    class Gain(torch.nn.Module):
        def forward(self, factor, weight):
            return factor * weight

        def right_inverse(self, weight):
            return torch.full((len(weight), 1), 2.0), weight / 2

    return Gain()


@pytest.mark.backends
class TestPyTorch:
    @staticmethod
    def module(change):
        torch = pytest.importorskip("torch")
        module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(N_IN, H), "fc": torch.nn.Linear(H, N_OUT)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old forms are deprecated
            change(torch.nn.utils, module)
        return module

    @pytest.mark.parametrize(
        "change",
        [
            lambda utils, module: utils.weight_norm(module["rnn"], "weight_hh_l0"),
            lambda utils, module: utils.parametrizations.weight_norm(module["rnn"], "weight_hh_l0", dim=1),
            lambda utils, module: utils.weight_norm(module["fc"], dim=None),
            lambda utils, module: utils.parametrizations.weight_norm(module["fc"]),
            lambda utils, module: importlib.import_module("torch.nn.utils.prune").l1_unstructured(
                module["rnn"], "weight_hh_l0", amount=0.5
            ),
        ],
    )
    def test_weights_are_those_of_the_module(self, change):
        """PyTorch puts them together in float32: the largest entry is below 1, and sums have H^2 terms at most."""
        module = self.module(change)
        found = load_checkpoint(module)
        for got, wanted in (
            (found.model.parameters["weight_hh"], module["rnn"].weight_hh_l0),
            (found.readout.weight, module["fc"].weight),
        ):
            assert np.abs(got - wanted.detach().double().numpy()).max() < (H * H + 8) * 2.0**-24
        assert len(found.notes) == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda utils, module: utils.spectral_norm(module["fc"]),
            lambda utils, module: utils.parametrizations.spectral_norm(module["rnn"], "weight_hh_l0"),
            lambda utils, module: utils.parametrizations.orthogonal(module["rnn"], "weight_hh_l0"),
            lambda utils, module: utils.parametrize.register_parametrization(module["fc"], "weight", gain()),
        ],
    )
    def test_others_are_refused(self, change):
        with pytest.raises(ValueError, match="the module ModuleDict: .* is part of a .*: save the weight itself"):
            load_checkpoint(self.module(change))
