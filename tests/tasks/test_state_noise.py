"""Noise in the states: it moves the trajectory, and every operator is that of the map along it."""

import numpy as np
import pytest

import kpref
from kpref import Flow, Trials, models, oracle, tasks

B, T, N_IN = 3, 5, 2
RNG = np.random.default_rng(0)
INPUTS, LENGTHS = RNG.normal(size=(B, T, N_IN)), np.array([5, 2, 4])
MODELS = [
    models.GRU.init(N_IN, 4, seed=0),
    models.LSTM.init(N_IN, 3, seed=0),
    models.LeakyRNN.init(N_IN, 4, seed=0),
    models.UserMap(lambda z, x, p: np.tanh(p["k"] * z + x), 2, N_IN, parameters={"k": 0.7}),
]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


def noisy(model, lengths=None, noise=0.3):
    return tasks.with_state_noise(Trials(INPUTS, lengths=lengths), model.n_states, noise, seed=1)


@every_model
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ended"])
def test_it_is_added_after_each_step(model, lengths):
    trials = noisy(model, lengths)
    z0 = RNG.normal(size=(B, model.n_states))
    states = Flow(model, trials, z0).states
    for trial in range(B):
        z = z0[trial]
        for step in range(trials.lengths[trial]):
            z = model.step(z, INPUTS[trial, step]) + trials.state_noise[trial, step]
            # The same formulas on other shapes: sums of at most 8 products may be ordered otherwise.
            assert states[trial, step] == pytest.approx(z, abs=1e-14)
        assert not states[trial, trials.lengths[trial] :].any()


@every_model
def test_the_sensitivity_is_that_of_the_noisy_states(model):
    flow = Flow(model, noisy(model, LENGTHS))
    direction = RNG.normal(size=flow.D.space_in.shape)
    step = 1e-4
    after, before = (flow.rerun(model.with_vector(model.vector + sign * step * direction)) for sign in (1, -1))
    # Central differences err by step^2 times third derivatives, of the order of 10 here, and 2^-53 / step.
    assert flow.D(direction) == pytest.approx((after - before) / (2 * step), abs=1e-5)
    assert np.abs(flow.D(direction)).max() > 0.01
    # NTK = P K P* and dZ/dtheta = P J hold along any trajectory.
    assert flow.P(flow.J(direction)) == pytest.approx(flow.D(direction), abs=1e-13)


@every_model
def test_without_deviation_it_is_no_noise(model):
    quiet = Flow(model, noisy(model, noise=0.0)).states
    assert quiet == pytest.approx(Flow(model, INPUTS).states, abs=1e-14)


def test_the_bits_do_not_depend_on_threads():
    model = models.GRU.init(3, 8, seed=0)
    trials = tasks.with_state_noise(tasks.memory_pro(130, seed=1), 8, 0.1)
    before, found = kpref.get_num_threads(), []
    for threads in (1, 3):
        kpref.set_num_threads(threads)
        found.append(Flow(model, trials).states)
    kpref.set_num_threads(before)
    assert np.array_equal(*found)


def test_the_realisation_belongs_to_the_trials(tmp_path):
    model = MODELS[0]
    trials = noisy(model, LENGTHS)
    trials.save(tmp_path / "trials.npz")
    read = Trials.load(tmp_path / "trials.npz")
    assert np.array_equal(read.state_noise, trials.state_noise)
    assert repr(read).endswith("2 inputs, noise of 4 states)")
    states = Flow(model, trials).states
    assert np.array_equal(Flow(model, read).states, states)
    assert Flow(model, trials.subset([2, 0])).states == pytest.approx(states[[2, 0]], abs=1e-15)
    alone = Trials(INPUTS[1:2, :2], state_noise=trials.state_noise[1:2, :2])
    assert Flow(model, alone).states == pytest.approx(states[1:2, :2], abs=1e-15)
    assert not trials.state_noise[1, 2:].any()


def test_the_deviation_is_the_one_asked_for():
    noise = tasks.with_state_noise(tasks.memory_pro(20), 50, 0.2, seed=3).state_noise
    # Of n = 90,000 numbers it is known to 1 / sqrt(2 n) of itself: five times that.
    assert noise.std() == pytest.approx(0.2, rel=5 / np.sqrt(2 * noise.size))


def test_what_has_no_state_noise():
    trials = noisy(MODELS[0])
    with pytest.raises(ValueError, match="state noise is added after the steps of a map; Rate.* is in continuous time"):
        Flow(models.Rate.init(N_IN, 4, seed=0), trials, dt=0.1)
    with pytest.raises(ValueError, match=r"state_noise must be of the 5 states of GRU.*; got shape \(3, 5, 4\)"):
        Flow(models.GRU.init(N_IN, 5, seed=0), trials)
    flow = Flow(MODELS[0], trials)
    for judge in (lambda: oracle.verify(flow, flow), lambda: oracle.flow_backend(flow)):
        with pytest.raises(ValueError, match="the states of the flow have noise, of which backends know nothing"):
            judge()


@pytest.mark.parametrize(
    "noise, expected",
    [
        (np.ones((B, T)), r"state_noise must have shape \(3, 5, S\); got \(3, 5\)"),
        (np.ones((B, T + 1, 4)), r"state_noise must have shape \(3, 5, S\); got \(3, 6, 4\)"),
        (np.full((B, T, 1), np.nan), "state_noise holds nan at trial 0, step 0, channel 0"),
    ],
)
def test_noise_of_another_shape(noise, expected):
    with pytest.raises(ValueError, match=expected):
        Trials(INPUTS, state_noise=noise)
