"""Problems to verify a backend on: a grid of random networks and trials with what tends to go wrong.

There are three sorts. Every network has problems that have one thing special each, such as one step, and one that is
large. A covering set (`kpref.oracle.pairwise`) brings networks, their options, measures and sizes together, each two of
them in some problem: kernels go wrong at sizes around powers of two, where blocks, warps and tiles end. And networks of
relu have a problem of whole numbers, where every bit counts.

The same name and seed give the same problem, to the last bit, on every machine with the same version of NumPy's
random generator.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.oracle.evaluation import LOCAL
from kpref.oracle.exact import exact_names
from kpref.oracle.integers import EXACT_MODELS, integer_flow
from kpref.oracle.metrics import METRICS
from kpref.oracle.names import OPERATORS
from kpref.oracle.pairwise import covering
from kpref.oracle.problem import MODELS

__all__ = ["MEASURES", "PROBLEMS", "Problem", "check_names", "choices"]


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
    # "mean", "sum"; random weights that are zero at about a third of the points, "weights", of some steps of all trials
    # but never the last, "interior", or from some step of each trial on, "trailing"
    measure: str = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the network's `init`
    # "all" parameters, every other one, "half", the "last", or those of these names
    trainable: str | tuple[str, ...] = "all"
    exact: bool = False  # whether the problem is one of whole numbers, and `verify_exact` the judge

    def build(self, seed: int = 0) -> Flow:
        """The problem; different seeds give different numbers of the same kind."""
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        sizes = self.trials, self.steps, self.states, self.inputs
        if self.exact:
            flow = integer_flow(self.model, *sizes, seed, "sum", self.zero_start, **self.options)
            return Flow(self._trained(flow.model), flow.inputs, flow.z0, "sum")
        network = MODELS[self.model].init(
            self.inputs, self.states, int(generator.integers(2**32)), self.gain, **self.options
        )
        biases = {
            name: 0.5 * generator.normal(size=value.shape)
            for name, value in network.parameters.items()
            if name.startswith("bias")
        }
        x = self.input_scale * generator.normal(size=(self.trials, self.steps, self.inputs))
        z0 = None if self.zero_start else 0.5 * generator.normal(size=(self.trials, network.n_states))
        measure = MEASURES[self.measure](generator, x.shape[:2])
        return Flow(self._trained(network.with_parameters(biases)), x, z0, measure)

    def _trained(self, network: Any) -> Any:
        names = list(network.parameters)
        subsets = {"all": None, "half": names[::2], "last": names[-1:]}
        chosen = subsets[self.trainable] if isinstance(self.trainable, str) else self.trainable
        return network if chosen is None else network.with_trainable(chosen)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the trainable parameters."""
        return tuple(self._trained(MODELS[self.model].init(1, 1, 0, **self.options)).trainable)


def _scattered(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Random weights, zero at about a third of the points."""
    weights = generator.uniform(0.1, 2.0, size=shape)
    weights[generator.random(shape) < 1 / 3] = 0.0
    weights.flat[0] = 1.0
    return weights


def _interior(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Random weights, zero in the second quarter of all trials, as of a delay that is not scored."""
    weights = generator.uniform(0.1, 2.0, size=shape)
    weights[:, shape[1] // 4 : shape[1] // 2] = 0.0
    return weights


def _trailing(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Random weights, zero from some step of each trial on, as of trials of different lengths that are padded."""
    weights = generator.uniform(0.1, 2.0, size=shape)
    return weights * (np.arange(shape[1]) < generator.integers(1, shape[1] + 1, size=(shape[0], 1)))


#: Measures of problems by name: what `Flow` takes, from a generator and (B, T).
MEASURES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Any]] = {
    "mean": lambda *_: "mean",
    "sum": lambda *_: "sum",
    "weights": _scattered,
    "interior": _interior,
    "trailing": _trailing,
}


@cache
def _width(model: str) -> int:
    """Numbers of the state for each unit."""
    return int(MODELS[model].init(1, 1, 0).n_states)


def _large(problem: Problem) -> Problem:
    """More than 2^16 numbers in the states: most in trials, since what a loop over steps takes goes by steps."""
    init, inputs = MODELS[problem.model].init, problem.inputs
    units = next(units for units in count(-(-33 // _width(problem.model))) if init(inputs, units, 0).n_states > 32)
    return replace(problem, trials=64, steps=33, states=units, gain=0.9)


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
    "large": _large,
}

# The covering set

_SIZES = (1, 2, 32, 33, 64, 65, 128, 129, 256)
#: Most units times steps, and numbers of the state, that the judge has time for.
_MOST_POINTS, _MOST_STATES = 4400, 300


@cache
def choices(model: str) -> dict[str, tuple[Any, ...]]:
    """Levels of the options that a network has; None where it does not have the option."""
    known = MODELS[model].init(1, 1, 0).options
    return {
        "nonlinearity": _nonlinearities(model),
        "leak": ("outside", "inside") if "leak" in known else (None,),
        "alpha": (0.1, 1.0) if "alpha" in known else (None,),
        "train_alpha": (False, True) if "leak" in known else (None,),
        "constrained": (False, True) if "mask" in known else (None,),
        "n_layers": (2, 3) if "cell" in known else (None,),
    }


def _nonlinearities(model: str) -> tuple[str | None, ...]:
    """Those that a network can have; None if they make no difference to it."""
    steps = {}
    for name in NONLINEARITIES:
        try:
            network = MODELS[model].init(1, 1, 0, nonlinearity=name)
        except (TypeError, ValueError):
            continue
        steps[name] = float(network.evaluate(np.full(network.n_states, 0.5), np.ones(1))[0])
    return tuple(steps) if len(set(steps.values())) > 1 else (None,)


def _factors() -> dict[str, tuple[Any, ...]]:
    levels: dict[str, dict[Any, None]] = {}
    for model in MODELS:
        for name, own in choices(model).items():
            levels.setdefault(name, {}).update(dict.fromkeys(own))
    return {
        "model": tuple(MODELS),
        "states": _SIZES,
        "steps": _SIZES,
        **{name: tuple(own) for name, own in levels.items()},
        "measure": tuple(MEASURES),
        "trials": (1, 2, 3),
        "trainable": ("all", "half", "last"),
        "bias": (True, False),
        "zero_start": (False, True),
        "inputs": (1, 3),
    }


def _allowed(case: Mapping[str, Any]) -> bool:
    states, steps, model = case.get("states", 1), case.get("steps", 1), case.get("model")
    if states * steps > _MOST_POINTS:
        return False
    if model is None:
        return any(_allowed({**case, "model": name}) for name in MODELS)
    return states * _width(model) <= _MOST_STATES and all(
        case.get(name, own[0]) in own for name, own in choices(model).items()
    )


def _cover(case: Mapping[str, Any]) -> Problem:
    """The problem of a case, named after its sizes and what is not as usual about it."""
    model = case["model"]
    options = {name: case[name] for name in choices(model) if case[name] is not None} | {"bias": case["bias"]}
    sizes = {name: case[name] for name in ("trials", "steps", "states", "inputs")}
    usual = {name: levels[0] for name, levels in choices(model).items()} | {"bias": True}
    words = [_word(name, value) for name, value in options.items() if value != usual[name]]
    words += [f"train-{case['trainable']}"] * (case["trainable"] != "all") + ["zero-start"] * case["zero_start"]
    name = "-".join(
        [model, "x".join(str(sizes[axis]) for axis in ("trials", "steps", "states")), *words, case["measure"]]
    )
    return Problem(
        name, model, **sizes, gain=0.9, zero_start=case["zero_start"], measure=case["measure"],
        options=options, trainable=case["trainable"],
    )  # fmt: skip


def _word(option: str, value: Any) -> str:
    """An option in the name of a problem."""
    if isinstance(value, bool):
        return option.replace("_", "-") if value else f"no-{option}"
    return value if isinstance(value, str) else f"{option.replace('_', '-')}-{value:g}"


@cache
def _problems() -> dict[str, Problem]:
    special = {
        f"{model}-{kind}": change(Problem(f"{model}-{kind}", model))
        for model in MODELS
        for kind, change in _KINDS.items()
        # A linear network of that gain is not chaotic, but grows beyond what a short number can hold.
        if (model, kind) != ("linear", "chaotic")
    }
    # Of small sizes, so that the numbers fit into float32.
    whole = [
        Problem(f"{model}-exact", model, trials=2, steps=5, states=4, inputs=3, exact=True) for model in EXACT_MODELS
    ]
    covered = [_cover(case) for case in covering(_factors(), _allowed)]
    return special | {problem.name: problem for problem in whole + covered}


#: The grid, by name; covering all pairs of options takes a while, so that it is made when it is first looked at.
PROBLEMS: dict[str, Problem]


def __getattr__(name: str) -> Any:
    if name == "PROBLEMS":
        return _problems()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_names(problem: Problem) -> list[str]:
    """Identifiers of the checks that are made of a backend that offers everything."""
    if problem.exact:
        return exact_names()
    names = ["states.residual", "states.repeated", "states.pooled"]
    kinds = ("linearity", "repeated", "answers", "zero", "pooled")
    names += [f"{operator}.{kind}" for operator in OPERATORS for kind in kinds]
    names += [f"{operator}.{'residual' if operator in LOCAL else 'value'}" for operator in OPERATORS]
    for operator in ("P", "P_T", "P_inverse", "P_inverse_T"):
        names += [f"{operator}.causality"] * (problem.steps > 1) + [f"{operator}.trials"] * (problem.trials > 1)
    names += [f"J.{name}" for name in problem.trained]
    names += ["P.dot_test", "J.dot_test"]
    names += [f"{operator}.{kind}" for operator in ("K", "NTK") for kind in ("symmetric", "positive")]
    return names + [f"metrics.{name}" for name in METRICS]
