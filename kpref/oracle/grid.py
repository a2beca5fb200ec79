"""Problems to verify a backend on: a grid of random networks and trials with what tends to go wrong.

The same name and seed give the same problem, to the last bit, on every machine with the same version of NumPy's
random generator.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kpref.flow import Flow
from kpref.oracle.backend import OPERATORS
from kpref.oracle.metrics import METRICS
from kpref.oracle.problem import MODELS

__all__ = ["PROBLEMS", "Problem", "check_names"]


@dataclass(frozen=True)
class Problem:
    """A random network on random trials: nothing that an operator depends on is zero by default, biases included."""

    name: str  # such as ``gru-one-step``; with the seed it determines the numbers
    model: str  # one of `kpref.oracle.problem.MODELS`
    # trials, steps, states, inputs: B, T, units (of one layer), n_in
    trials: int = 3
    steps: int = 7
    states: int = 5
    inputs: int = 2
    gain: float = 1.2  # of the recurrent weight; a large tanh network is chaotic above 1
    input_scale: float = 1.0  # standard deviation of the inputs
    zero_start: bool = False  # whether the initial states are zero
    # "mean", "sum", or "weights": random ones, zero at about a third of the steps
    measure: str = "mean"

    def build(self, seed: int = 0) -> Flow:
        """The problem; different seeds give different numbers of the same kind."""
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        network = MODELS[self.model].init(self.inputs, self.states, int(generator.integers(2**32)), self.gain)
        biases = {
            name: 0.5 * generator.normal(size=value.shape)
            for name, value in network.parameters.items()
            if name.startswith("bias")
        }
        x = self.input_scale * generator.normal(size=(self.trials, self.steps, self.inputs))
        z0 = None if self.zero_start else 0.5 * generator.normal(size=(self.trials, network.n_states))
        weights: Any = self.measure
        if weights == "weights":
            weights = generator.uniform(0.1, 2.0, size=x.shape[:2])
            weights[generator.random(weights.shape) < 1 / 3] = 0.0
            weights.flat[0] = 1.0
        return Flow(network.with_parameters(biases), x, z0, weights)


_KINDS: dict[str, Callable[[Problem], Problem]] = {
    "plain": lambda problem: problem,
    "one-trial": lambda problem: replace(problem, trials=1),
    "one-step": lambda problem: replace(problem, steps=1),
    "one-unit": lambda problem: replace(problem, states=1),
    "one-of-all": lambda problem: replace(problem, trials=1, steps=1, states=1, inputs=1),
    "zero-start": lambda problem: replace(problem, zero_start=True),
    "sum": lambda problem: replace(problem, measure="sum"),
    "weights": lambda problem: replace(problem, measure="weights"),
    "chaotic": lambda problem: replace(problem, trials=2, steps=30, states=16, gain=3.0),
    "saturated": lambda problem: replace(problem, input_scale=20.0),
    "no-input": lambda problem: replace(problem, input_scale=0.0),
}

#: The grid, by name. A linear network of that gain is not chaotic, but grows beyond what a short number can hold.
PROBLEMS: dict[str, Problem] = {
    f"{model}-{kind}": change(Problem(f"{model}-{kind}", model))
    for model in MODELS
    for kind, change in _KINDS.items()
    if (model, kind) != ("linear", "chaotic")
}


def check_names(problem: Problem) -> list[str]:
    """Identifiers of the checks that `kpref.oracle.verify` makes of a backend that offers everything."""
    names = ["states.residual", "states.repeated"]
    names += [f"{operator}.{kind}" for operator in OPERATORS for kind in ("linearity", "repeated", "answers", "zero")]
    for operator in ("P", "P_T", "P_inverse"):
        names += [f"{operator}.residual"]
        names += [f"{operator}.causality"] * (problem.steps > 1) + [f"{operator}.trials"] * (problem.trials > 1)
    parameters = MODELS[problem.model].init(1, 1, 0).parameters
    names += ["J.value", *(f"J.{name}" for name in parameters)]
    names += [f"{operator}.value" for operator in ("J_T", "K", "NTK", "gradient")]
    names += ["P.dot_test", "J.dot_test"]
    names += [f"{operator}.{kind}" for operator in ("K", "NTK") for kind in ("symmetric", "positive")]
    return names + [f"metrics.{name}" for name in METRICS]
