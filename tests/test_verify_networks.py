"""`kpref verify` and `kpref golden` on a checkpoint whose arrays have to be named."""

import numpy as np
import pytest

from kpref import cli
from kpref.commands.verify import make_flow

H, N_IN = 3, 2


def problem(*words):
    return make_flow(cli.build_parser("verify").parse_args(["verify", "module:factory", *map(str, words)]))


@pytest.fixture
def path(tmp_path):
    shapes = {"weight_ih": (H, N_IN), "weight_hh": (H, H), "fc.weight": (2, H), "critic.weight": (1, H), "h0": (1, H)}
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "net.npz", **arrays)
    return tmp_path / "net.npz"


def test_options_reach_the_problem(path):
    words = ["--checkpoint", path, "--trials", 2, "--steps", 3, "--ignore", "critic", "--z0", "h0"]
    flow = problem(*words, "--nonlinearity", "relu", "--trainable", "weight_hh")
    with np.load(path) as saved:
        assert np.array_equal(flow.z0, np.repeat(saved["h0"], 2, axis=0))
    assert (flow.model.nonlinearity.name, flow.model.trainable) == ("relu", ("weight_hh",))


def test_what_is_not_named_is_refused(path):
    with pytest.raises(ValueError, match="found 'h0' .*--ignore h0"):
        problem("--checkpoint", path, "--readout", "fc")


@pytest.mark.parametrize("words", [["--z0", "h0"], ["--ignore", "h0"]])
def test_options_without_a_checkpoint(words):
    with pytest.raises(ValueError, match=f"{words[0]} is about the network of a checkpoint, and needs --checkpoint"):
        problem(*words)
