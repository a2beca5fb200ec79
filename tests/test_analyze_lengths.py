"""`kpref analyze` on trials that end early, are scored in part, or belong to conditions: what is computed and said."""

import json
import re

import numpy as np
import pytest

from kpref import Readout, Trials, cli, save_checkpoint
from kpref.analysis.numbers import analyze_checkpoint
from kpref.analysis.quantities import quantities
from kpref.analysis.settings import Objective
from kpref.models import GRU

pytestmark = pytest.mark.usefixtures("blank_pictures")

LENGTHS = [4, 6, 3, 5]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    return GRU.init(2, 4, seed=0), Readout(rng.normal(size=(2, 4)))


@pytest.fixture(scope="module")
def arrays():
    """Trials of several lengths in arrays of ten steps, padded with NaN, the third step being a delay."""
    rng = np.random.default_rng(1)
    mask = np.arange(10) < np.array(LENGTHS)[:, None]
    inputs, targets = (np.where(mask[:, :, None], rng.normal(size=(4, 10, 2)), np.nan) for _ in range(2))
    scored = mask.astype(float)
    scored[:, 1] = 0
    return {"inputs": inputs, "targets": targets, "mask": scored, "conditions": np.array(["go", "anti"] * 2)}


def test_padding_changes_nothing(network):
    """The padded trials of a file, with the padding masked out, against the trials alone."""
    rng = np.random.default_rng(2)
    inputs, targets = rng.normal(size=(2, 3, 6, 2))
    pad = [(0, 0), (0, 9), (0, 0)]
    short = Trials(inputs, targets)
    long = Trials(np.pad(inputs, pad), np.pad(targets, pad), mask=np.repeat([1, 0], [6, 9]))
    found = []
    for trials in (short, long):
        analysis = analyze_checkpoint("n", *network, trials.trimmed(), Objective("mse", "all"), modes=2)
        assert analysis.check.passed
        found.append([(item.key, item.value, item.error) for item in quantities(analysis)] + [("loss", analysis.loss)])
    assert found[0] == found[1]  # to the last bit: steps that exist in no trial are left out


def test_report_of_ragged_trials(network, arrays, tmp_path):
    """The head says how many steps there are and which count, the notes how that is known."""
    save_checkpoint(tmp_path / "n.safetensors", *network)
    np.savez(tmp_path / "t.npz", **arrays)
    argv = ["analyze", tmp_path / "n.safetensors", "--trials", tmp_path / "t.npz", "--out", tmp_path / "out"]
    assert cli.main([*map(str, argv), "--modes", "1"]) == 0
    page = re.sub(r"\s+", " ", (tmp_path / "out" / "report.html").read_text())
    assert "4 trials of 3 to 6 steps." in page
    assert "Loss: mean squared error, scored steps only (14 of 18, by the mask)." in page
    assert "taken for padding" in page
    assert "18 of 40 steps exist" in page
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["checkpoints"][0]
    assert found["tasks"]["labels"] == ["anti", "go"]
    assert np.sum(found["tasks"]["rates"]) == pytest.approx(-found["loss_rate"], rel=1e-12)


@pytest.mark.parametrize(
    "changes, at, words",
    [
        ({}, "all", "mean squared error, scored steps only (14 of 18, by the mask)"),
        ({}, "last", "mean squared error, last step of each trial only"),
        ({"mask": None, "lengths": LENGTHS}, "all", "mean squared error, all steps"),
        ({"mask": np.tile([2.0, 1.0], (4, 5)), "lengths": LENGTHS}, "all",
         "mean squared error, all steps, with the mask's weights"),
        ({"mask": np.tile([2.0, 1.0, 0.0, 1.0, 1.0], (4, 2)), "lengths": LENGTHS}, "all",
         "mean squared error, scored steps only (14 of 18, by the mask), with the mask's weights"),
        ({"mask": np.tile([1.0, 1, 1, 1, 0], (4, 2)), "lengths": LENGTHS}, "last",
         "mean squared error, last step of each trial only, scored steps only (3 of 4, by the mask)"),
    ],
)  # fmt: skip
def test_loss_in_words(arrays, changes, at, words):
    assert Objective("mse", at).in_words(Trials(**{**arrays, **changes})) == words


def test_last_step_of_trials_of_one_length():
    trials = Trials(np.ones((2, 3, 1)), labels=[0, 1])
    assert Objective("cross_entropy", "last").in_words(trials, "time") == "cross-entropy, last time only"
