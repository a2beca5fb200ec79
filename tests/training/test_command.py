"""``kpref train``: what it writes is what the rest of the command line reads."""

import json

import numpy as np
import pytest

from kpref import cli, load_checkpoint, train
from kpref.training import Objective


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4, 2))
    np.savez(tmp_path / "trials.npz", inputs=x, targets=0.5 * x[:, :, :1])
    return tmp_path


def command(folder, *more):
    words = f"train --trials {folder}/trials.npz -o {folder}/run --units 3 --batch-size 3 --checkpoint-every 2"
    return cli.main([*words.split(), *more])


def test_a_training_is_written_resumed_and_analyzed(files, capsys):
    assert command(files, "--steps", "4") == 0
    assert command(files, "--steps", "6") == 0
    out, err = capsys.readouterr()
    assert f"training: {files}/run" in out
    assert "after 6 steps" in out
    assert "step 6 of 6, loss " in err
    names = sorted(path.name for path in (files / "run").glob("step_*"))
    assert names == [f"step_{step:08d}.safetensors" for step in (0, 2, 4, 6)]
    last = load_checkpoint(files / "run" / names[-1])
    assert (last.model.n_states, last.readout.n_outputs) == (3, 1)
    assert cli.main(["analyze", str(files / "run"), "--plan", "--out", str(files / "report")]) == 0
    assert "GRU(2 inputs, 3 states" in capsys.readouterr().out


def test_other_settings_are_refused_by_name(files, capsys):
    assert command(files, "--steps", "1", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert command(files, "--steps", "2", "--optimizer", "momentum") == 2
    assert "has another optimizer: 'Adam(" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flip_flop", "digits", "memory_pro"])
def test_a_task_is_trained_and_tried_on_fresh_trials(name, tmp_path, capsys):
    words = f"train --task {name} -o {tmp_path}/run --units 4 --steps 2 --batch-size 3 --rule feedback_alignment"
    assert cli.main(words.split()) == 0
    out, _ = capsys.readouterr()
    assert f"on {'297' if name == 'digits' else '1,000'} fresh trials: loss " in out
    assert (" right" in out) == (name == "digits")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "feedback_alignment" in record["settings"]["rule"]


def test_what_diverges_is_said_in_a_sentence(files, capsys):
    words = ["--steps", "50", "--optimizer", "gradient", "--learning-rate", "1e30", "--model", "linear"]
    assert command(files, *words) == 2
    assert "kpref: error: training diverged at step " in capsys.readouterr().err


def test_names_at_the_top():
    assert train.__module__ == "kpref.training.loop"
    assert Objective.__module__ == "kpref.training.objective"
