"""The bundled networks are what they are said to be, and their reports hold."""

import json

import numpy as np
import pytest

import kpref
from kpref.checkpoints import load_checkpoint
from kpref.data import EXAMPLES, example_folder
from kpref.trials import Trials

pytestmark = pytest.mark.usefixtures("blank_pictures")

WORDS = {
    "memory_pro_gru_h128": "GRU of 128 units with 3 inputs",
    "memory_pro_lstm_h32": "LSTM of 32 units (states h and c) with 3 inputs",
    "memory_pro_gru_2x32": "GRU of 2 layers of 32 units with 3 inputs",
}


def test_there_is_no_other():
    with pytest.raises(ValueError, match="the examples are memory_pro_gru_h128, .*; got 'memory'"):
        example_folder("memory")


@pytest.mark.parametrize("name", EXAMPLES)
def test_training_lowered_the_loss_to_what_was_recorded(name):
    """The recorded loss is that of sums over 90 steps in float32; the large GRU's is that of other, noisy trials."""
    folder = example_folder(name)
    trials = Trials.load(folder / "trials.npz")
    losses = []
    for path in sorted(folder.glob("*.safetensors")):
        model, readout = load_checkpoint(path)
        states = kpref.Flow(model, trials).states[:, :, model.observed]
        losses.append(np.square(readout(states) - trials.targets).mean())
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < 0.01 * losses[0]
    if name != EXAMPLES[0]:
        recorded = json.loads((folder / "training.json").read_text())["loss"]
        # PyTorch's, in float32: 90 steps that each round by 2^-24.
        assert [losses[0], losses[-1]] == pytest.approx([recorded[0], recorded[-1]], rel=1e-5)


@pytest.mark.parametrize("name", EXAMPLES[1:])
def test_a_report_of_each(name, tmp_path):
    """On few trials and few modes: the self-checks hold, and what is said is what the network is."""
    folder = example_folder(name)
    last = sorted(folder.glob("*.safetensors"))[-1]
    report = kpref.analyze(last, folder / "trials.npz", max_trials=4, fast=True, out=tmp_path / "report")
    (found,) = report.metrics["checkpoints"]
    assert report.passed
    assert found["model"].startswith(WORDS[name])
    assert found["shape"] == {"trials": 4, "steps": 90, "units": 32 if "lstm" in name else 64, "states": 64}
    assert list(found["parts"]) == (["h", "c"] if "lstm" in name else ["h_l0", "h_l1"])
    assert found["loss"] < 0.01
    kernel = found["metrics"]["trace_K"]
    flow = report.study.analyses[0].flow
    rng = np.random.default_rng(0)
    # tr K = E |J^T (Mu q)|^2 for q of covariance Mu^-1: 40 vectors tell it to about a fifth.
    forms = [np.square(flow.J.T(flow.space.scale(rng.normal(size=flow.space.shape), 0.5))).sum() for _ in range(40)]
    assert kernel["value"] == pytest.approx(np.mean(forms), abs=6 * np.std(forms) / 40**0.5)
    assert ("exact" in kernel["how"]) == ("lstm" in name)
    assert (tmp_path / "report" / f"modes_{last.stem}_parts.png").is_file()
    text = (tmp_path / "report" / "report.html").read_text()
    assert "in which part of the state" in text or "how much of each mode lies in which part" in text
    assert ("The whole spectrum of K, exact" in text) == ("lstm" in name)
