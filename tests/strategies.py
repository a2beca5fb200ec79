"""Hypothesis strategies: flows of every model and activation, with random sizes, measures, initial states, subsets.

Hypothesis draws the structure and a seed; the numbers come from the seed, as what matters about them is that they are
generic. Gains stay where a perturbation grows by a few powers of ten at most, so that "relative" keeps its meaning.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from kpref import Flow
from kpref.models import GRU, RNN, LeakyRNN, Linear

LEAKY = ("tanh", "relu", "softplus", "sigmoid", "erf", "identity")
VANILLA = ("tanh", "relu", "identity")
#: Every model with every activation.
KINDS = ("Linear", "GRU", *(f"RNN-{name}" for name in VANILLA), *(f"LeakyRNN-{name}" for name in LEAKY))
#: One of each structure of the program: constant gates, four gates, gates along the trajectory, slope and variable.
STRUCTURES = ("Linear", "GRU", "RNN-tanh", "LeakyRNN-softplus")
SEEDS = st.integers(0, 2**32 - 1)


def examples(count):
    """Settings for `count` of every hundred examples that the profile asks for, two at least."""
    return settings(max_examples=max(2, settings.default.max_examples * count // 100))


def make_model(kind, n_inputs, n_states, seed, gain=1.0, bias=True, trainable=None, alpha=0.3):
    """A model of one of KINDS with random numbers everywhere, biases included."""
    name, _, activation = kind.partition("-")
    if name == "LeakyRNN":
        model = LeakyRNN.init(n_inputs, n_states, seed, gain, bias, alpha=alpha, nonlinearity=activation)
    elif name == "RNN":
        model = RNN.init(n_inputs, n_states, seed, gain, bias, nonlinearity=activation)
    else:
        model = {"Linear": Linear, "GRU": GRU}[name].init(n_inputs, n_states, seed, gain, bias)
    rng = np.random.default_rng([seed, 1])
    biases = {key: 0.5 * rng.normal(size=v.shape) for key, v in model.parameters.items() if v.ndim == 1}
    return model.with_parameters(biases).with_trainable(trainable)


def make_flow(kind, shape=(3, 5, 4), seed=0, n_inputs=2, measure="mean", dtype=np.float64, **options):
    """A flow of one of KINDS on normal inputs, from normal initial states."""
    trials, steps, units = shape
    rng = np.random.default_rng([seed, 2])
    model = make_model(kind, n_inputs, units, seed, **options)
    inputs = rng.normal(size=(trials, steps, n_inputs))
    return Flow(model, inputs, rng.normal(size=(trials, units)), measure, dtype)


@st.composite
def models(draw, kind, max_states=12):
    """A model with a random subset of trainable parameters, with or without biases."""
    n_inputs, n_states = draw(st.integers(1, 3)), draw(st.integers(1, max_states))
    options = {
        "gain": draw(st.floats(0.2, 1.8)),
        "bias": draw(st.booleans()),
        "alpha": draw(st.floats(0.05, 1.0)),
    }
    model = make_model(kind, n_inputs, n_states, draw(SEEDS), **options)
    names = list(model.parameters)
    return model.with_trainable(draw(st.none() | st.lists(st.sampled_from(names), min_size=1, unique=True)))


@st.composite
def measures(draw, trials, steps, zeros=True):
    """A measure by name, or weights that are broadcast to (trials, steps); with zeros among them, if wanted."""
    shape = draw(st.sampled_from(["mean", "sum", (steps,), (trials, 1), (trials, steps)]))
    if isinstance(shape, str):
        return shape
    rng = np.random.default_rng(draw(SEEDS))
    weights = rng.uniform(0.1, 2.0, size=shape)
    if zeros and draw(st.booleans()):
        weights[rng.random(size=shape) < 0.4] = 0.0
        weights.flat[rng.integers(weights.size)] = 1.0
    return weights


@st.composite
def flows(draw, kind, max_trials=6, max_steps=15, max_states=12, zeros=True, dtype=np.float64):
    """A flow, and a generator for the tensors that a test wants."""
    trials, steps = draw(st.integers(1, max_trials)), draw(st.integers(1, max_steps))
    model = draw(models(kind, max_states))
    rng = np.random.default_rng(draw(SEEDS))
    inputs = rng.normal(size=(trials, steps, model.n_inputs))
    start = draw(st.sampled_from([None, (model.n_states,), (trials, model.n_states)]))
    z0 = None if start is None else rng.normal(size=start)
    return Flow(model, inputs, z0, draw(measures(trials, steps, zeros)), dtype), rng


def weights(space):
    return np.ones(space.shape) if space.weights is None else np.broadcast_to(space.weights, space.shape)


def restricted(space, tensor):
    """The tensor where the measure sees it: a tensor of the restricted space."""
    return np.where(weights(space) > 0, tensor, 0.0)
