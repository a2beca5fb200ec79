"""Environments of NeuroGym: a stand-in with the attributes that theirs have (neurogym 2.3.1, `TrialEnv`)."""

import numpy as np
import pytest

from kpref.tasks import from_neurogym


class Environment:
    """Trials of 3 to 6 steps: fixation in all of them, an observation in the first, a choice in the last."""

    kind = "labels"

    def __init__(self):
        self.rng = np.random.RandomState()

    @property
    def unwrapped(self):
        return self

    def seed(self, seed=None):
        self.rng = np.random.RandomState(seed)
        return [seed]

    def new_trial(self, **kwargs):
        steps, choice = self.rng.randint(3, 7), self.rng.randint(1, 3)
        self.ob = np.zeros((steps, 2), dtype=np.float32)
        self.ob[:, 0] = 1
        self.ob[0, 1] = choice - 1.5
        self.gt = np.zeros(steps, dtype=np.int64)
        self.gt[-1] = choice
        if self.kind == "targets":
            self.gt = np.stack([self.gt, -self.gt], axis=1).astype(float)
        return {"ground_truth": choice}


class Wrapper:
    """A wrapper that changes new trials, as those of NeuroGym do; what it wraps has the observations."""

    def __init__(self, env):
        self.env = env

    @property
    def unwrapped(self):
        return self.env.unwrapped

    def new_trial(self, **kwargs):
        trial = self.env.new_trial(**kwargs)
        self.unwrapped.ob[:, 0] += 1
        return trial


class Actions(Environment):
    kind = "targets"


def test_observations_become_inputs_and_ground_truth_labels():
    trials = from_neurogym(Environment(), 8, seed=3)
    assert (trials.n_trials, trials.n_inputs) == (8, 2)
    assert len(set(trials.lengths)) > 1
    for inputs, labels, length in zip(trials.inputs, trials.labels, trials.lengths, strict=True):
        assert (inputs[:length, 0] == 1).all()
        assert labels[length - 1] == inputs[0, 1] + 1.5
        assert not labels[: length - 1].any()
        assert not inputs[length:].any()


def test_actions_that_are_vectors_become_targets():
    trials = from_neurogym(Actions(), 4, seed=3)
    assert trials.labels is None
    assert np.array_equal(trials.targets[:, :, 0], -trials.targets[:, :, 1])
    assert trials.targets[range(4), trials.lengths - 1, 0] == pytest.approx(trials.inputs[:, 0, 1] + 1.5)


def test_wrappers_see_new_trials():
    plain, wrapped = from_neurogym(Environment(), 4, seed=1), from_neurogym(Wrapper(Environment()), 4, seed=1)
    there = np.arange(plain.n_steps) < plain.lengths[:, None]
    assert np.array_equal(wrapped.inputs[:, :, 0], plain.inputs[:, :, 0] + there)


def test_the_seed_is_that_of_the_environment():
    first, again, other = (from_neurogym(Environment(), 9, seed=seed).inputs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("env", [None, 3, object(), np.ones(3), Environment])
def test_something_else(env):
    with pytest.raises(TypeError, match="env must be an environment of NeuroGym, with new_trial, seed, ob and gt"):
        from_neurogym(env, 3)


def test_options_of_an_environment_that_is_made():
    with pytest.raises(TypeError, match="options are for an environment given by its name; got dt with another"):
        from_neurogym(Environment(), 3, dt=20)


def test_a_name_without_neurogym(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "neurogym", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs NeuroGym, which is not installed: pip install 'kpref\["):
        from_neurogym("DelayMatchSample-v0", 3)
