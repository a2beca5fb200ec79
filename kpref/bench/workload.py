"""The problem of ``kpref bench``: a random network on random trials, what is timed on it, and what that costs at least.

Columns of the table, apart from ``build``, are things to apply: the operators

    P = dZ/dq (forcing to states),  P^T,  K = J J^T mu  and  NTK = (P J)(P J)^T mu  in the measure ``mean``,

and, in continuous time, ``forward``, the states Z themselves, and ``gradient``, the derivative by all parameters of the
loss ``1/2 <Z - Y, Z - Y>``, from scratch, for a given Y: what training needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from kpref._types import Array
from kpref.integrate import Tableau, get_tableau
from kpref.models import Model
from kpref.models.registry import registered
from kpref.models.step import StepModel
from kpref.space import TrajectorySpace

MODELS = {name: known for name, known in registered().items() if issubclass(known.kind, StepModel)}
"""Networks that are timed; other libraries have those of `kpref.bench.steps.STEPS`."""

COLUMNS_OF_MAPS = ("build", "P", "P^T", "K", "NTK")
COLUMNS_OF_FIELDS = ("forward", "build", "P", "P^T", "NTK", "gradient")

STEP = 0.1
"""Time step of a network in continuous time, in its time constants, or its own if that is shorter: not stiff."""

RATE_GAIN = 1.5
"""Gain of the rate network: beyond one, where its activity does not die out."""


@dataclass(frozen=True)
class Problem:
    """A random network and its trials, the same in every process."""

    model: str  # one of `MODELS`
    # trials, steps, units, inputs: B, N, number of units (of each layer), n_in
    trials: int
    steps: int
    units: int
    inputs: int
    dtype: str  # one of "float64", "float32": of kpref and JAX
    # Runge-Kutta method of a network in continuous time, of one step for each interval of the time grid; None for a
    # map. Inputs, and the forcing of P, are linear between grid times.
    method: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What is timed."""
        return COLUMNS_OF_MAPS if self.method is None else COLUMNS_OF_FIELDS

    @property
    def tableau(self) -> Tableau | None:
        """The Runge-Kutta method."""
        return None if self.method is None else get_tableau(self.method)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, T, H): T is N, or the N + 1 times of the grid; H the size of the state."""
        return self.trials, self.steps + (self.method is not None), self._model.n_states

    @property
    def times(self) -> Array:
        """The time grid, (T,)."""
        return min(STEP, MODELS[self.model].dt) * np.arange(self.shape[1])

    @property
    def weights(self) -> Array:
        """Weight of each time in the measure, trials included, (T,)."""
        return TrajectorySpace(self.shape, "mean", None if self.method is None else self.times).mu[0]

    def make_model(self) -> Model:
        """The network: recurrent weights of gain one, or `RATE_GAIN`."""
        return self._model

    @cached_property
    def _model(self) -> Model:
        gain = 1.0 if self.method is None else RATE_GAIN
        return MODELS[self.model].init(self.inputs, self.units, 0, gain)

    def make_trials(self) -> tuple[Array, Array, Array]:
        """Inputs (B, T, n_in), initial states (B, H), and the tensor (B, T, H) that is multiplied, or is Y.

        Trials start at random, or, where zero is no state to start from, where the network says.
        """
        generator, start = np.random.default_rng(1), self._model.start
        inputs = generator.normal(size=(*self.shape[:2], self.inputs))
        z0 = generator.normal(size=(self.trials, self.shape[2]))
        return inputs, np.tile(start, (self.trials, 1)) if start.any() else z0, generator.normal(size=self.shape)


def count_operations(problem: Problem) -> dict[str, int]:
    """Floating-point operations of the matrix products, by column; see the head of `kpref.bench.timing`."""
    tableau = problem.tableau
    evaluations = problem.trials * problem.steps * (1 if tableau is None else tableau.stages)
    model = problem.make_model()
    p, j = (2 * evaluations * each for each in model.multiplications)
    f = 2 * evaluations * sum(array.size for array in model.parameters.values() if array.ndim == 2)
    counted = {"forward": f, "build": f, "P": p, "P^T": p, "K": 2 * j, "NTK": 2 * p + 2 * j, "gradient": f + p + j}
    return {column: counted[column] for column in problem.columns}


def count_bytes(problem: Problem) -> dict[str, int]:
    """Bytes that cannot stay in a cache from one evaluation to the next, by column; see `kpref.bench.timing`."""
    model: Any = problem.make_model()
    evaluations = problem.trials * problem.steps * (1 if problem.tableau is None else problem.tableau.stages)
    states, program = model.n_states, model.program
    numbers = model.numbers(np.zeros((1, 1, states)), np.zeros((1, 1, model.n_inputs)))
    varying = {name for name, value in numbers.channels.items() if value.ndim > 1}

    def read(from_state: bool, from_parameters: bool) -> int:
        return sum(op.out.width for op in program.reached(from_state, from_parameters) if op.name in varying)

    kept = sum(value.shape[-1] for value in numbers.variables.values()) + (states if model.state_variables else 0)
    tensor = problem.trials * problem.shape[1] * states
    p, j, d = (evaluations * each for each in (read(True, False), read(False, True) + kept, read(True, True) + kept))
    counted = {
        "forward": tensor, "build": d + tensor, "P": p + 2 * tensor, "P^T": p + 2 * tensor, "K": 2 * (j + tensor),
        "NTK": 2 * (d + tensor), "gradient": 2 * d + tensor,
    }  # fmt: skip
    return {column: np.dtype(problem.dtype).itemsize * counted[column] for column in problem.columns}


class Contender(Protocol):
    """What is timed. It holds the problem; what `build` makes of it is kept by the caller."""

    package: str | None
    """What it needs, beyond kpref."""

    compiles_for_a_shape: bool
    """Whether code is compiled for the sizes of the arrays, so that a small problem does not warm up a large one."""

    dtype: str
    """Of its arithmetic."""

    def __init__(self, problem: Problem) -> None: ...

    @staticmethod
    def columns(problem: Problem) -> tuple[str, ...]:
        """Which columns of the problem it can fill; none if it does not take part."""

    def build(self) -> Any:
        """Run the network and prepare its operators; returns when that is done."""

    def apply(self, built: Any, column: str) -> Any:
        """Apply what a column names, in the contender's own layout."""

    def to_numpy(self, result: Any) -> Array:
        """Convert what `apply` returned to an array, (B, T, H) or (M,)."""
