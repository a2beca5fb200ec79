"""Training: that it learns, resumes to the same bits wherever it is stopped, and loses nothing to bad luck."""

import errno
import json
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from kpref import Flow, Readout, Trials, load_checkpoint, rules, tasks
from kpref.models import GRU, RNN, LowRankRNN, Rate
from kpref.training import Objective, TrainingDiverged, run_folder, train
from kpref.training.batches import Batches

B, T, N_IN, H, N_OUT = 5, 4, 2, 4, 1
STEPS = 12


class Stopped(Exception):
    """What a kill is to these tests."""


def drawn(n_trials=B, seed=0):
    rng = np.random.default_rng([seed, 7])
    x = rng.normal(size=(n_trials, T, N_IN))
    return Trials(x, targets=0.5 * x[:, :, :1], lengths=rng.integers(2, T + 1, size=n_trials))


def network():
    return GRU.init(N_IN, H, 0), Readout(0.5 * np.ones((N_OUT, H)), np.zeros(N_OUT))


def run(folder=None, trials=None, steps=STEPS, **options):
    options = {"batch_size": 2, "seed": 3, "checkpoint_every": 4, "learning_rate": 0.01} | options
    return train(*network(), drawn() if trials is None else trials, steps=steps, folder=folder, **options)


def same(one, other):
    """To the last bit."""
    for name, array in one.model.parameters.items():
        np.testing.assert_array_equal(array, other.model.parameters[name])
    np.testing.assert_array_equal(one.readout.weight, other.readout.weight)
    np.testing.assert_array_equal(one.z0, other.z0)
    for name in ("step", "loss", "accuracy", "gradient_norm"):
        np.testing.assert_array_equal(getattr(one.history, name), getattr(other.history, name))


def test_training_learns():
    """A network that learns to copy half of its input leaves less than a tenth of the loss of silence."""
    trials = drawn(20)
    result = run(trials=trials, steps=150, batch_size=None, learning_rate=0.03)
    model, readout = result.model, result.readout
    after = Objective(model, readout, trials)
    silence = float((trials.targets**2).sum() / trials.n_points)
    assert after.metrics(after.vector).loss < 0.1 * silence
    assert result.history.loss.shape == (150,)
    assert result.history.loss[-1] < result.history.loss[0]


@pytest.mark.parametrize(
    "options", [{}, {"trials": drawn}, {"trainable": ["weight_hh", "z0"], "optimizer": "nesterov"}]
)
def test_a_training_that_is_stopped_anywhere_resumes_to_the_same_bits(options, tmp_path_factory):
    whole = run(**options)

    @settings(max_examples=4)
    @given(st.lists(st.integers(1, STEPS), min_size=1, max_size=3))
    def check(stops):
        folder = tmp_path_factory.mktemp("run") / "run"
        for stop in stops:
            with suppress(Stopped):  # where it had come further before, nothing stops it
                run(folder, progress=stopping(stop), **options)
        same(run(folder, **options), whole)
        lines = (folder / "metrics.csv").read_text().splitlines()
        assert lines[0] == "step,loss,accuracy,gradient_norm,seconds"
        assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(STEPS))

    check()


def stopping(at):
    def progress(step, loss):
        if step == at:
            raise Stopped

    return progress


@pytest.mark.parametrize("number", range(1, 12))
def test_a_kill_while_files_are_written_loses_nothing(number, tmp_path, monkeypatch):
    """Stopped before the file of this number takes its place."""
    written = []
    replacing = run_folder.replacing

    def failing(path):
        written.append(path)
        if len(written) == number:
            raise Stopped
        return replacing(path)

    monkeypatch.setattr(run_folder, "replacing", failing)
    try:
        run(tmp_path / "run")
    except Stopped:
        pass
    else:
        assert len(written) < number
    monkeypatch.undo()
    same(run(tmp_path / "run"), run())


def test_half_a_line_of_the_table_is_mended(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", progress=stopping(9))
    table = tmp_path / "run" / "metrics.csv"
    with open(table, "a") as file:
        file.write("8,0.25,,0.1,0.0\nnonsense\n9,0.")
    same(run(tmp_path / "run"), run())


def test_more_steps_go_on_where_fewer_ended(tmp_path):
    run(tmp_path / "run", steps=5)
    same(run(tmp_path / "run", steps=STEPS), run())


def test_checkpoints_are_those_of_the_library(tmp_path):
    result = run(tmp_path / "run", trainable=["weight_hh", "readout.weight", "z0"])
    names = sorted(path.name for path in (tmp_path / "run").glob("step_*"))
    assert names == [f"step_{step:08d}.safetensors" for step in (0, 4, 8, 12)]
    loaded = load_checkpoint(tmp_path / "run" / names[-1], z0="z0")
    np.testing.assert_array_equal(loaded.model.parameters["weight_hh"], result.model.parameters["weight_hh"])
    np.testing.assert_array_equal(loaded.z0, result.z0)
    np.testing.assert_array_equal(Trials.load(tmp_path / "run" / "trials.npz").inputs, drawn().inputs)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["learning_rate"] == 0.01
    assert "numpy" in record["versions"]


def test_networks_without_names_in_pytorch_and_fields_resume_too(tmp_path):
    model, readout = LowRankRNN.init(N_IN, H, 2, 0), Readout(np.ones((N_OUT, H)))
    field = Rate.init(N_IN, H, 0)
    for name, thing, options in (("rank", model, {}), ("field", field, {"dt": 0.1})):
        arguments = dict(steps=4, batch_size=2, checkpoint_every=1, dtype="float64", **options)
        with pytest.raises(Stopped):
            train(thing, readout, drawn(), folder=tmp_path / name, progress=stopping(3), **arguments)
        same(
            train(thing, readout, drawn(), folder=tmp_path / name, **arguments),
            train(thing, readout, drawn(), **arguments),
        )


def test_every_step_draws_trials_of_its_own():
    seeds = []

    def source(number, seed):
        seeds.append(seed)
        return drawn(number, seed)

    run(trials=source, steps=6)
    assert len(set(seeds)) == 6


def test_every_epoch_sees_each_trial_once_in_an_order_of_its_own():
    class Numbers:
        @staticmethod
        def batch(chosen):
            return chosen

    batches = Batches(drawn(12), 3, seed=0)
    epochs = [np.concatenate([batches.at(4 * epoch + step, Numbers) for step in range(4)]) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(batches.at(1, Numbers)) == list(epochs[0][3:6])  # of the step alone, whatever came before


def test_a_step_is_no_longer_than_the_clip_allows():
    """One step of plain gradient descent at rate 1: as long as the clipped gradient."""
    options = {"optimizer": "gradient", "learning_rate": 1.0, "steps": 1, "dtype": "float64"}
    result = run(clip=1e-3, **options)
    (model, readout), after = network(), result.model
    moved = np.concatenate([
        after.vector - model.vector, (result.readout.weight - readout.weight).ravel(),
        result.readout.bias - readout.bias,
    ])  # fmt: skip
    assert result.history.gradient_norm[0] > 0.01
    # PyTorch, and so we, divide by the norm plus 1e-6.
    assert np.linalg.norm(moved) == pytest.approx(1e-3, rel=1e-6 / result.history.gradient_norm[0] + 1e-9)


def test_a_rule_takes_the_place_of_the_gradient():
    still = run(rule=rules.diagonal(np.zeros(network()[0].n_parameters)), optimizer="gradient", dtype="float64")
    np.testing.assert_array_equal(still.model.vector, network()[0].vector)
    assert (still.readout.weight != network()[1].weight).all()


@pytest.mark.parametrize("rule", [rules.backpropagation, rules.truncated(T), rules.diagonal(np.ones(96))])
def test_rules_that_are_the_gradient_train_as_it_does(rule):
    """With its sign: twelve steps along the same sums in another order, each right to some 1e-15."""
    options = {"optimizer": "momentum", "dtype": "float64"}
    one, other = run(rule=rule, **options), run(**options)
    assert np.abs(other.model.vector - network()[0].vector).max() > 1e-3
    np.testing.assert_allclose(one.model.vector, other.model.vector, rtol=0, atol=1e-13)
    np.testing.assert_allclose(one.history.loss, other.history.loss, rtol=1e-13)


@pytest.mark.parametrize("name", rules.RULES)
def test_rules_by_name_train_and_resume(name, tmp_path):
    """The settings of a rule are the same in every process, though its function is not."""
    options = {"steps": 3, "checkpoint_every": 1}
    with pytest.raises(Stopped):
        run(tmp_path / "run", rule=rules.get(name), progress=stopping(2), **options)
    same(run(tmp_path / "run", rule=rules.get(name), **options), run(rule=rules.get(name), **options))
    with pytest.raises(ValueError, match="another rule"):
        run(tmp_path / "run", rule=rules.truncated(1), **options)


def test_a_rule_of_another_network_is_no_divergence():
    with pytest.raises(ValueError, match=r"scales must have shape \(96,\); got \(7,\)"):
        run(rule=rules.diagonal(np.ones(7)))


def test_values_of_a_rule_tell_it_from_others(tmp_path):
    run(tmp_path / "run", rule=rules.feedback_alignment(1), steps=1)
    with pytest.raises(ValueError, match="another rule"):
        run(tmp_path / "run", rule=rules.feedback_alignment(2), steps=1)


def test_noise_of_states_is_honoured():
    """Along the noisy trajectory, with the gradient of what was drawn; other trials must have noise too."""
    model, readout = network()
    trials = tasks.with_state_noise(drawn(), H, noise=0.3, seed=1)
    of = Objective(model, readout, trials)
    value, gradient = of.value_and_gradient(of.vector)
    noisy = Flow(model, trials).gradient_flow(readout, targets=trials.targets)
    assert value == noisy.loss
    np.testing.assert_array_equal(gradient[: model.n_parameters], noisy.grad_theta)
    assert abs(value - Objective(model, readout, drawn()).metrics(of.vector).loss) > 1e-3
    with pytest.raises(ValueError, match="trials must have state_noise"):
        of.batch(drawn())
    with pytest.raises(ValueError, match="trials must not have state_noise"):
        Objective(model, readout, drawn()).batch(trials)
    with pytest.raises(ValueError, match="state_noise must be of the 4 states"):
        Objective(model, readout, tasks.with_state_noise(drawn(), 3, 0.1))


def test_noise_of_states_is_part_of_what_resumes(tmp_path):
    trials = tasks.with_state_noise(drawn(), H, noise=0.3, seed=1)
    with pytest.raises(Stopped):
        run(tmp_path / "run", trials, progress=stopping(9))
    same(run(tmp_path / "run", trials), run(trials=trials))


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    """A lock is one of an open file, not of a process: another that is opened here stands for another process."""

    def meet(step, loss):
        with pytest.raises(OSError, match="another process trains in this folder") as caught:
            run(tmp_path / "run")
        assert caught.value.filename == str(tmp_path / "run" / "lock")

    same(run(tmp_path / "run", progress=meet), run(tmp_path / "run"))


def test_divergence_names_step_and_rate_and_keeps_the_checkpoint(tmp_path):
    model, readout = RNN.init(N_IN, H, 0, nonlinearity="identity"), Readout(np.ones((N_OUT, H)))
    with pytest.raises(TrainingDiverged, match=r"diverged at step \d+ with a learning rate of 1e\+06") as caught:
        train(
            model, readout, drawn(), steps=100, optimizer="gradient", learning_rate=1e6, folder=tmp_path / "run",
            checkpoint_every=1,
        )  # fmt: skip
    error = caught.value
    assert error.learning_rate == 1e6
    assert error.checkpoint == tmp_path / "run" / f"step_{error.step:08d}.safetensors"
    assert load_checkpoint(error.checkpoint).model.n_states == H
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + error.step


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "words"),
    [
        (1e300, 1.0, {}, "overflow"),
        (1.0, 1e30, {}, "the loss or its gradient is not finite in float32 before the first step"),
        (1.0, 1e300, {"dtype": "float64"}, "the loss or its gradient is not finite in float64 before the first step"),
    ],
)
def test_what_cannot_begin_has_not_diverged(inputs, targets, options, words, tmp_path):
    """No learning rate is to blame, and nothing is written; nor does NumPy warn."""
    trials = Trials(np.full((2, T, N_IN), inputs), targets=np.full((2, T, N_OUT), targets))
    with pytest.raises(ValueError, match=words):
        train(*network(), trials, steps=3, folder=tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


def test_fewer_steps_than_were_taken(tmp_path):
    run(tmp_path / "run", steps=5)
    with pytest.raises(ValueError, match="steps must be at least the 5 that the training has taken already; got 4"):
        run(tmp_path / "run", steps=4)


@pytest.mark.parametrize("options", [{"dt": -1.0}, {"dt": 0.1, "method": "euclid"}])
def test_bad_options_of_a_field_are_refused_before_anything_is_written(options, tmp_path):
    readout = Readout(np.ones((N_OUT, H)))
    with pytest.raises(ValueError, match=r"dt must be|unknown method"):
        train(Rate.init(N_IN, H, 0), readout, drawn(), steps=2, folder=tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    run(tmp_path / "run", steps=4)

    def full(folder, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kpref._archives.create_temporary", full)
    with pytest.raises(OSError, match=r"No space left on device.*run") as caught:
        run(tmp_path / "run")
    assert str(tmp_path / "run") in caught.value.filename
    monkeypatch.undo()
    same(run(tmp_path / "run"), run())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.02}, "another learning_rate: 0.01 there, 0.02 here"),
        ({"seed": 4}, "another seed: 3 there, 4 here"),
        ({"activity": 0.1}, "another activity: 0.0 there, 0.1 here"),
        ({"weight_decay": 0.1}, "another weight_decay: 0.0 there, 0.1 here"),
        ({"clip": 1.0}, "another clip: None there, 1.0 here"),
        ({"dtype": "float64"}, "another dtype: 'float32' there, 'float64' here"),
        ({"z0": np.ones(H)}, "another z0"),
        ({"trainable": ["weight_hh"]}, "another trainable"),
        ({"batch_size": 3}, "another batch_size: 2 there, 3 here"),
        ({"trials": drawn(6)}, "another trials"),
        ({"optimizer": "adamw"}, "another optimizer"),
        ({"resume": False}, "holds a training already"),
    ],
)
def test_a_folder_of_another_training_is_refused(change, words, tmp_path):
    run(tmp_path / "run", steps=1)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*"))
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "run", **change)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*")) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(ValueError, match="something else than a training"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_the_place_of_the_folder_is_named_and_kept(tmp_path):
    (tmp_path / "run").write_text("Dear")
    with pytest.raises(NotADirectoryError, match="run, is a file; name another folder, or a new one"):
        run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "Dear"


def test_damaged_files_are_named(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "optimizer" / "step_00000012.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"step_00000012.safetensors is damaged"):
        run(tmp_path / "run")
    for text in ("{", "[]", '{"settings": []', '{"settings": 3}', "[" * 100_000):
        (tmp_path / "run" / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run.json is no record of a training"):
            run(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("vector"),
        lambda arrays: arrays.pop("mean"),
        lambda arrays: arrays.update(vector=np.zeros(3, np.float32)),
        lambda arrays: arrays.update(square=arrays["square"].astype(np.float64)),
    ],
)
def test_arrays_of_another_training_are_refused(change, tmp_path):
    run(tmp_path / "run")
    file = tmp_path / "run" / "optimizer" / "step_00000012.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)
    with pytest.raises(ValueError, match=r"step_00000012.safetensors is not of this training: it should hold mean "):
        run(tmp_path / "run", steps=13)


def test_trials_of_others_are_neither_used_nor_overwritten(tmp_path):
    """Not even where they stand alone, as after a kill before the settings were written."""
    drawn(seed=1).save(tmp_path / "trials.npz")
    with pytest.raises(ValueError, match=r"trials.npz holds other trials than those to train on"):
        run(tmp_path)
    np.testing.assert_array_equal(Trials.load(tmp_path / "trials.npz").inputs, drawn(seed=1).inputs)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": -1}, ValueError, "steps must be an integer of at least 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number above 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        ({"batch_size": 6}, ValueError, "batch_size must be at most the 5 trials"),
        ({"trials": drawn, "batch_size": None}, ValueError, "batch_size is needed where trials are drawn"),
        ({"trials": lambda n, seed: 7}, TypeError, "must be kpref.Trials"),
        ({"trials": 7}, TypeError, "trials must be kpref.Trials or a function"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of"),
        ({"clip": 0}, ValueError, "clip must be a finite number above 0"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an integer of at least 1"),
        ({"progress": 1}, TypeError, "progress must be a function"),
        ({"folder": 1}, TypeError, "folder must be a path"),
        ({"folder": "a\0b"}, ValueError, r"folder must be a path without null characters; got 'a\\x00b'"),
        ({"trials": Trials(np.ones((2, 3, N_IN)), targets=np.ones((2, 3, 1)), mask=[[1, 1, 1], [0, 0, 0]]),
          "batch_size": 1}, ValueError, "leaves nothing to score"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        run(**change)
