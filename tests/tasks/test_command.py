"""``kpref tasks``: the list, pictures, and files of trials."""

import numpy as np
import pytest
from matplotlib import pyplot

from kpref import Trials, cli
from kpref.tasks import TASKS
from kpref.tasks.drawing import draw_trials


def test_the_list_names_every_task_with_its_channels(capsys):
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(TASKS)
    for line, channels, task in zip(lines[::2], lines[1::2], TASKS.values(), strict=True):
        assert line.endswith(task.summary)
        assert channels.split(" -> ")[0].strip().startswith(task.inputs[0])
        assert channels.endswith(task.outputs[-1] if len(task.outputs) <= 4 else f"({len(task.outputs)})")
        assert len(line) <= 120


def test_saved_trials_are_those_of_the_task(tmp_path, capsys):
    file = tmp_path / "trials.npz"
    words = ["tasks", "save", "delayed_match", "-o", str(file), "--trials", "7", "--seed", "3"]
    assert cli.main([*words, "--set", "delay=[2, 9]", "--set", "noise=0"]) == 0
    saved, drawn = Trials.load(file), TASKS["delayed_match"].trials(7, 3, delay=(2, 9), noise=0)
    for name in ("inputs", "targets", "mask", "lengths", "conditions"):
        assert np.array_equal(getattr(saved, name), getattr(drawn, name))
    assert capsys.readouterr().out.strip() == f"{drawn.in_words()} of delayed_match: {file}"
    before = file.read_bytes()
    assert cli.main([*words, "--set", "delay=[2, 9]", "--set", "noise=0"]) == 0
    assert file.read_bytes() == before


def test_an_option_may_be_a_word(tmp_path):
    file = tmp_path / "trials.npz"
    assert cli.main(["tasks", "save", "digits", "-o", str(file), "--trials", "297", "--set", "part=test"]) == 0
    assert np.array_equal(Trials.load(file).inputs, TASKS["digits"].trials(297, part="test").inputs)


@pytest.mark.parametrize("suffix, begins", [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_pictures(suffix, begins, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("kpref.plots").plots.STYLE, "savefig.dpi", 30)
    file = tmp_path / f"picture.{suffix}"
    assert cli.main(["tasks", "draw", "digits", "-o", str(file), "--trials", "2"]) == 0
    assert file.read_bytes().startswith(begins)
    assert len(list(tmp_path.iterdir())) == 1
    assert not pyplot.get_fignums()


def test_what_a_picture_shows():
    """Four trials, one of each condition; what is not scored and what is not there is told from the rest."""
    task = TASKS["delayed_match"]
    trials = task.trials(8, seed=1, delay=(1, 60))
    figure = draw_trials(trials, task.inputs, task.outputs, task.at, "a title")
    above, below = figure.axes[:4], figure.axes[4:]
    assert {ax.get_title(loc="left").split(", ")[1] for ax in above} == {"A-A", "A-B", "B-A", "B-B"}
    for upper, lower in zip(above, below, strict=True):
        trial = int(upper.get_title(loc="left").split(", ")[0].removeprefix("trial "))
        lines = [line.get_ydata() for ax in (upper, lower) for line in ax.lines if len(line.get_ydata()) > 2]
        assert len(lines) == 3
        for line in lines:
            assert np.isfinite(line).sum() == trials.lengths[trial]
        for ax in (upper, lower):
            (grey,) = (patch for patch in ax.patches if not patch.get_hatch())
            assert grey.get_width() == (trials.mask[trial, : trials.lengths[trial]] == 0).sum()
            ended = [patch.get_x() for patch in ax.patches if patch.get_hatch()]
            assert ended == ([trials.lengths[trial] + 0.5] if trials.lengths[trial] < trials.n_steps else [])
    assert figure.get_supxlabel() == "grey: not scored; hatched: after the end of the trial"
    assert figure.get_suptitle() == "a title"


def test_labels_of_steps_and_channels_without_names():
    trials = Trials(np.ones((2, 5, 2)), labels=np.arange(10).reshape(2, 5))
    figure = draw_trials(trials, [], [])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x_1", "x_2"]
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["label"]
    assert figure.get_supxlabel() == ""


def test_only_the_last_step_counts():
    task = TASKS["digits"]
    figure = draw_trials(task.trials(1), task.inputs, task.outputs, task.at)
    (grey,) = figure.axes[0].patches
    assert (grey.get_x(), grey.get_width()) == (0.5, 7)
