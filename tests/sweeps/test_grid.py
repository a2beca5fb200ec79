"""The grid of a sweep: what is read, what is refused, and that it names its cells."""

import itertools

import numpy as np
import pytest

from kpref import Readout, save_checkpoint
from kpref.models import GRU
from kpref.sweeps import read_grid
from kpref.sweeps.cell_settings import SETTINGS

PLAIN = """
metrics = ["loss"]
[grid]
gain = [0.5, 1]
seed = [0, 1, 2]
[fixed]
task = "flip_flop"
units = 3
steps = 2
"""


def grid_of(folder, text, name="grid.toml"):
    (folder / name).write_text(text)
    return read_grid(folder / name)


def test_cells_are_the_product_in_the_order_of_nested_loops(tmp_path):
    grid = grid_of(tmp_path, PLAIN)
    cells = list(grid.cells())
    assert len(grid) == len(cells) == 6
    assert [(cell["gain"], cell["seed"]) for cell in cells] == list(itertools.product([0.5, 1.0], [0, 1, 2]))
    assert {cell["units"] for cell in cells} == {3}
    assert {cell["batch_size"] for cell in cells} == {64}  # as `kpref train` has it
    assert len({grid.key(cell) for cell in cells}) == 6
    assert (grid.seconds, grid.memory) == (None, None)
    assert repr(grid) == "Grid(6 cells: 2 gain x 3 seed; loss)"


def test_the_key_is_of_the_settings_and_not_of_how_they_are_spelled(tmp_path):
    one = grid_of(tmp_path, PLAIN)
    other = grid_of(tmp_path, PLAIN.replace("gain = [0.5, 1]", "gain = [1.0, 5e-1]") + "model = 'gru'\n", "other.toml")
    assert {one.key(cell) for cell in one.cells()} == {other.key(cell) for cell in other.cells()}


def test_the_key_is_of_what_is_in_a_file(tmp_path):
    model = GRU.init(2, 3, seed=0)
    x = np.ones((4, 5, 2))
    np.savez(tmp_path / "trials.npz", inputs=x, targets=x[:, :, :1])
    save_checkpoint(tmp_path / "net.safetensors", model, Readout(np.ones((1, 3))))
    text = 'metrics = ["loss"]\n[grid]\ncheckpoint = ["net.safetensors"]\n[fixed]\ntrials = "trials.npz"\n'
    before = grid_of(tmp_path, text)
    (cell,) = before.cells()
    assert not {"units", "steps"} & set(cell)
    assert before.located(cell)["checkpoint"] == str(tmp_path / "net.safetensors")
    save_checkpoint(tmp_path / "net.safetensors", GRU.init(2, 3, seed=1), Readout(np.ones((1, 3))))
    assert read_grid(tmp_path / "grid.toml").key(cell) != before.key(cell)


def test_limits(tmp_path):
    grid = grid_of(tmp_path, PLAIN + "[limits]\nseconds = 5\nmemory = 0.5\n")
    assert (grid.seconds, grid.memory) == (5.0, 2**29)


def changed(old, new):
    return PLAIN.replace(old, new)


#: A grid, and what must stand in the sentence that refuses it.
REFUSED = [
    ("", r"\[grid\] must hold at least one list"),
    ("x = [", "is not a TOML file"),
    ("x = " + "[" * 5000, "is not a TOML file"),
    (changed("metrics", "metric"), "got 'metric' .did you mean metrics"),
    (changed('metrics = ["loss"]', "units = 4"), "got 'units': put it under .fixed"),
    (changed("[grid]", "[grids]"), "did you mean grid"),
    (changed('"loss"', ""), "metrics must name what is measured .* got none"),
    (changed('["loss"]', '"loss"'), "metrics must be a list of names; got 'loss'"),
    (changed('"loss"', '"los"'), "there is no metric 'los' .did you mean loss"),
    (changed('"loss"', '"loss", "loss"'), "loss stands there twice"),
    (changed('"loss"', "3"), "there is no metric 3"),
    (changed('"loss"', '"accuracy"'), "accuracy is of a classification, and the loss of the task flip_flop is mse"),
    (changed("[0.5, 1]", "[]"), r"gain of \[grid\] must hold at least one value; got an empty list"),
    (changed("[0.5, 1]", "1"), r"gain of \[grid\] must be a list .* got 1"),
    (changed("[0.5, 1]", "[0.5, 'x']"), r"gain\[1\] of \[grid\] must be a real number above 0; got 'x'"),
    (changed("[0.5, 1]", "[0.5, nan]"), r"gain\[1\] of \[grid\] must be a finite number above 0; got nan"),
    (changed("[0.5, 1]", "[1.0, 1]"), "it holds 1.0 twice"),
    (changed("gain", "gian"), r"no setting 'gian', which stands in \[grid\] .did you mean gain"),
    (changed("units", "hidden"), r"no setting 'hidden', which stands in \[fixed\]; they are task, trials"),
    (changed("units = 3", "units = true"), r"units of \[fixed\] must be an integer of at least 1 .*; got True"),
    (changed("units = 3", "units = 3.0"), r"units of \[fixed\] must be an integer"),
    (changed("units = 3", "gain = 3"), "gain must stand in .grid. or in .fixed.; it stands in both"),
    (changed("[0, 1, 2]", str(list(range(50_001)))), "at most 100,000 cells; got 2 x 50001 = 100,002"),
    (changed('task = "flip_flop"', ""), "either task or trials must be given, .* neither is"),
    (changed('"flip_flop"', '"flipflop"'), "did you mean flip_flop"),
    (changed("steps = 2", ""), "steps are needed"),
    (changed("steps = 2", 'steps = 2\nmodel = "gruu"'), "did you mean gru"),
    (changed("steps = 2", "steps = 2\ndt = 0.1"), "dt is for models in continuous time, and gru is a map"),
    (changed("steps = 2", 'steps = 2\nmodel = "rate"'), "dt is needed, .* for the model rate"),
    (changed("steps = 2", 'steps = 2\nloss = "cross_entropy"'), "does not fit the task flip_flop, whose loss is mse"),
    (changed("steps = 2", 'steps = 2\ncheckpoint = "x"'), "units is of a training|gain is of a training"),
    (changed("steps = 2", "steps = 2\ntrainable = 'z0'"), "trainable of .fixed. must be a list of names"),
    (changed('task = "flip_flop"', 'trials = "no.npz"'), "No such file"),
    (PLAIN + "[limits]\nsecond = 3\n", "got 'second' .did you mean seconds"),
    (PLAIN + "[limits]\nseconds = 0\n", r"seconds of \[limits\] must be a finite number above 0; got 0"),
    (PLAIN + "[limits]\nmemory = '4 GiB'\n", r"memory of \[limits\], in GiB, must be a real number above 0"),
]  # fmt: skip


@pytest.mark.parametrize("text, sentence", REFUSED)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, text, sentence):
    with pytest.raises((ValueError, TypeError, OSError), match=sentence):
        grid_of(tmp_path, text)


def test_metrics_of_a_training_do_not_fit_checkpoints(tmp_path):
    text = 'metrics = ["alignment_first"]\n[grid]\ncheckpoint = ["a"]\n[fixed]\ntask = "flip_flop"\n'
    with pytest.raises(ValueError, match="alignment_first is of a training; the networks here are checkpoints"):
        grid_of(tmp_path, text)


def test_names_are_those_of_kpref_train():
    from kpref.cli import build_parser

    train = next(iter(build_parser("train")._subparsers._group_actions)).choices["train"]
    known = {option.removeprefix("--").replace("-", "_") for option in train._option_string_actions}
    assert set(SETTINGS) - known == {"checkpoint", "fresh_trials"}
