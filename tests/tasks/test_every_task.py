"""What holds for every task: channels that are named, seeds, conditions in equal numbers, and a loss that takes it."""

import doctest
import importlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref import Readout, TrajectorySpace, Trials, tasks
from kpref.loss import evaluate_loss
from kpref.tasks import TASKS, Task

ARRAYS = ("inputs", "targets", "labels", "mask", "lengths", "conditions")
NOISY = [name for name, task in TASKS.items() if "noise" in task.options]
GROUPED = (
    *("mixed", "flip_flop_anti", "context_integration", "perceptual_decision", "delayed_match", "sine_generation"),
    "teacher_fixed_points",
)
every_task = pytest.mark.parametrize("name", TASKS)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def test_what_the_issue_names_is_there():
    assert set(TASKS) == {
        *("memory_pro", "memory_anti", "delay_pro", "delay_anti", "mixed", "flip_flop", "flip_flop_anti"),
        *("context_integration", "perceptual_decision", "delayed_match", "sine_generation", "line_attractor"),
        *("low_rank_forecast", "teacher_linear", "teacher_tanh", "teacher_fixed_points", "digits"),
    }
    assert {name for name in tasks.__all__ if name in TASKS} == set(TASKS)
    for name in tasks.__all__:
        assert getattr(tasks, name) is not None


@every_task
def test_channels_have_names_and_the_loss_takes_the_trials(name):
    task, trials = tasks.get(name), TASKS[name].trials(5, seed=3)
    n_outputs = len(task.outputs)
    assert isinstance(trials, Trials)
    assert trials.notes == ()  # nothing had to be assumed
    assert trials.n_trials == 5
    assert trials.n_inputs == len(task.inputs) == len(set(task.inputs))
    assert task.summary.endswith(".")
    assert task.sources
    if task.loss == "mse":
        assert trials.targets.shape[2] == n_outputs
    space = TrajectorySpace((5, trials.n_steps, 1), lengths=trials.lengths)
    value = evaluate_loss(
        np.zeros(space.shape),
        space,
        Readout(np.zeros((n_outputs, 1))),
        trials.targets,
        trials.labels,
        task.loss,
        trials.mask,
        task.at,
    )
    # Of outputs that are zero: the mean square of the targets that count, or the logarithm of the number of classes.
    weights = np.arange(trials.n_steps) < trials.lengths[:, None] if trials.mask is None else trials.mask
    squares = None if trials.targets is None else np.average((trials.targets**2).mean(axis=2), weights=weights)
    assert value.value == pytest.approx(np.log(n_outputs) if squares is None else squares, rel=1e-12)


@every_task
def test_one_seed_makes_one_set_of_trials(name):
    first, again, other = (TASKS[name].trials(6, seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not np.array_equal(first.inputs, other.inputs)


@pytest.mark.parametrize("name", GROUPED)
@given(number=st.integers(1, 30), seed=st.integers(0, 2**63 - 1))
def test_conditions_come_in_equal_numbers(name, number, seed):
    trials = TASKS[name].trials(number, seed)
    assert trials.n_trials == number
    counts = np.unique(trials.conditions, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_tasks_with_groups_have_conditions():
    assert {name for name in TASKS if TASKS[name].trials(2).conditions is not None} == set(GROUPED)


@pytest.mark.parametrize("name", NOISY)
def test_noise_comes_on_top_of_the_same_trials(name):
    """The system of low_rank_forecast is itself observed with noise: only there do targets have it too."""
    trials, bare, noisy = (TASKS[name].trials(40, 5, noise=noise) for noise in (0, 0.0, 0.25))
    assert same(trials, bare)
    if name != "low_rank_forecast":
        assert np.array_equal(bare.lengths, noisy.lengths)
        if name != "teacher_fixed_points":
            assert bare.targets is None or np.array_equal(bare.targets, noisy.targets)
        added = (noisy.inputs - bare.inputs)[np.arange(bare.n_steps) < bare.lengths[:, None]]
        added = added[added != 0]
        # The standard deviation of n normal numbers is known to 1 / sqrt(2 n) of itself: five times that.
        assert added.std() == pytest.approx(0.25, rel=5 / np.sqrt(2 * added.size))
        assert abs(added.mean()) < 5 * 0.25 / np.sqrt(added.size)
    assert not np.array_equal(bare.inputs, noisy.inputs)


@every_task
def test_trials_are_read_back_from_a_file(name, tmp_path):
    trials = TASKS[name].trials(4, seed=1)
    trials.save(tmp_path / "trials.npz")
    assert same(Trials.load(tmp_path / "trials.npz"), trials)
    assert [file.name for file in tmp_path.iterdir()] == ["trials.npz"]


def test_a_task_is_pickled_by_its_function():
    assert pickle.loads(pickle.dumps(TASKS["mixed"])) == TASKS["mixed"]


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("memory_pro", {"noize": 0}, r"memory_pro has no option 'noize' \(did you mean noise\?\); it takes stimulus, "),
        ("flip_flop", {"steps": 1.5}, "steps must be an integer of at least 1; got 1.5"),
        ("digits", {"seeds": 3}, "digits has no option 'seeds'; it takes part, noise"),
    ],
)
def test_options_that_no_task_has(name, options, expected):
    with pytest.raises(TypeError, match=expected):
        TASKS[name].trials(3, **options)


@pytest.mark.parametrize("name", ["memory-pro", "", None, 3, ["flip_flop"]])
def test_names_that_no_task_has(name):
    with pytest.raises(ValueError, match="there is no task .*; the tasks are .*flip_flop"):
        tasks.get(name)


def test_a_name_that_is_nearly_one():
    with pytest.raises(ValueError, match=r"there is no task 'flip-flop' \(did you mean flip_flop\?\); the tasks are "):
        tasks.get("flip-flop")


@pytest.mark.parametrize(
    "duration, error, expected",
    [
        (0, ValueError, "stimulus must be an integer of at least 1; got 0"),
        ((5, 3), ValueError, r"stimulus must name the smaller number of steps first; got \(5, 3\)"),
        (
            (1, 2, 3),
            ValueError,
            r"stimulus must be a number of steps, or the smallest and the largest; got ",
        ),
        ("abc", TypeError, "stimulus must be an integer of at least 1; got 'abc'"),
        ((2, 3.5), TypeError, "stimulus must be an integer of at least 1; got 3.5"),
        (None, TypeError, "stimulus must be an integer of at least 1; got None"),
    ],
)
def test_durations_that_are_none(duration, error, expected):
    with pytest.raises(error, match=expected):
        tasks.memory_pro(3, stimulus=duration)


@every_task
def test_trials_that_do_not_fit_into_memory_are_refused_before_they_are_drawn(name, monkeypatch):
    monkeypatch.setattr("kpref.memory.available_memory", lambda: 100_000)
    with pytest.raises(MemoryError, match="needs .* GiB of memory"):
        TASKS[name].trials(1000)


@pytest.mark.parametrize("module", ["tasks", "tasks.catalogue", "tasks.delayed_response", "tasks.sampling"])
def test_examples_of_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(f"kpref.{module}"))
    assert (failed, tried > 0) == (0, True)


def test_a_task_is_described_whole():
    assert isinstance(TASKS["digits"], Task)
    assert (TASKS["digits"].loss, TASKS["digits"].at) == ("cross_entropy", "last")
