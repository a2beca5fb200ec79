"""Problems whose trajectories show one source of error alone: they have the sizes and options of a given one.

Accelerators choose kernels by shape, so that an arithmetic is measured on problems of the same shapes. What a network
is made of is read off its program (`kpref.program`): blocks of rows through which inputs drive currents. All other
weights are zero.

Functions. With W = 0 each unit is driven by one input, through a power of two: the currents are numbers of eight bits
in any arithmetic. The other currents (gates) are constants far in saturation; on which side, and which current is to
vary, is found by trying all: the best are those under which the error analysis of the oracle
(`kpref.oracle.uncertain`) attributes most of the error of a state to the function.

The range. Tiny numbers are told from zero by a tanh, or by a state that is a multiple of one input, or of one state.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import ARITHMETICS, ELEMENTARY, Error
from kpref.oracle.uncertain import value_with_errors

__all__ = ["SATURATED", "Block", "Layout", "LinearWay", "Setting", "linear_way", "sensitivity"]

#: A sigmoid or tanh of it is as good as 0 or 1 in all arithmetics, which all hold it.
SATURATED = 64.0
#: Error of a function, in units, whose effect on a state tells how much of it is due to the function.
_PROBE = 2.0**10
#: Multiples of tiny numbers are no smaller: their inverses times numbers of float16's range are in it.
_LEAST = 2.0**-12
#: In how many settings a function is looked at, at most.
_SETTINGS = 3


@dataclass(frozen=True)
class Block:
    """Rows of a parameter that make one current of each unit."""

    parameter: str
    rows: slice
    columns: slice  # of the input, or of the state
    bias: tuple[str, slice] | None = None  # rows of another parameter that are added to the same current


@dataclass(frozen=True)
class Setting:
    """Constants of the driven currents, and which one varies."""

    constants: tuple[float, ...]
    varied: int
    score: float


class Layout:
    """Where inputs, constants and old states enter the currents of a network."""

    def __init__(self, model: StepModel, trials: int) -> None:
        self.model, self.trials = model, trials
        operations = {op.name: op for op in model.program.operations if op.kind == "product"}
        self.driven: list[Block] = []
        entries = [entry for entry in model.entries() if entry.weight in operations]
        for entry in entries:
            op = operations[entry.weight]
            plain = not entry.transposed and np.ndim(entry.factor) == 0 and entry.factor == 1
            # Not where the same numbers enter once more, as those of W - W^T: such a weight is not what is asked for.
            own = entry.parameter, entry.weight, entry.part
            once = sum((other.parameter, other.weight, other.part) == own for other in entries) == 1
            if not (plain and once) or model.parameters[entry.parameter].ndim != 2:
                continue
            if op.source is None:
                beside = [
                    (other.parameter, other.part)
                    for other in entries
                    if other.weight == entry.weight
                    and other.rows == entry.rows
                    and model.parameters[other.parameter].ndim == 1
                ]
                self.driven.append(Block(entry.parameter, entry.part, entry.columns, beside[0] if beside else None))

    @cached_property
    def units(self) -> int:
        """Units that the inputs drive."""
        return self.driven[0].rows.stop - self.driven[0].rows.start

    @property
    def constants_by_bias(self) -> bool:
        """Whether constants can enter by biases; else by the first input, which is then one."""
        return all(block.bias is not None for block in self.driven)

    @property
    def free_channels(self) -> range:
        """Inputs that are free where constants are needed."""
        first = 0 if self.constants_by_bias or len(self.driven) == 1 else 1
        return range(first, self.model.n_inputs)

    def zeros(self) -> dict[str, Array]:
        """Parameters that are all zero, but for those that are no weights (time constants)."""
        known = {block.parameter for block in self.driven}
        biases = {name for name, value in self.model.parameters.items() if name.startswith("bias")}
        return {
            name: np.zeros_like(value)
            for name, value in self.model.parameters.items()
            if name in known | biases or value.ndim == 2
        }

    def constant(self, parameters: dict[str, Array], block: Block, values: Array | float) -> None:
        """Add constants to a driven current, by its bias, or by the first input."""
        if self.constants_by_bias and block.bias is not None:
            name, rows = block.bias
            parameters[name][rows] += values
        else:
            parameters[block.parameter][block.rows, block.columns.start] += values

    def remembers(self, model: Any, x: Array) -> bool:
        """Whether states depend on the ones before, by a damping or a leak, say: only those after zero are plain then.

        `x`: shape (T, B, n_in).
        """
        some, none = (np.full((*x.shape[:2], model.n_states), value) for value in (0.5, 0.0))
        return bool(np.any(np.abs(model.evaluate(some, x) - model.evaluate(none, x)) > 1e-5))

    # Functions

    def patterns(self, values: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
        """All constants of the driven currents."""
        return itertools.product(values, repeat=len(self.driven))

    def function_problem(
        self, setting: Setting, shape: tuple[int, int], generator: np.random.Generator
    ) -> tuple[dict[str, Array], Array]:
        """Parameters, and inputs (B, T, n_in): arguments from 2^-10 to 16 of both signs."""
        parameters, channels = self.zeros(), self.free_channels
        for index, (block, value) in enumerate(zip(self.driven, setting.constants, strict=True)):
            if index != setting.varied:
                self.constant(parameters, block, value)
        varied = self.driven[setting.varied]
        scales = 2.0 ** generator.integers(-3, 2, size=self.units)
        rows = np.arange(varied.rows.start, varied.rows.stop)
        columns = varied.columns.start + np.asarray(channels)[np.arange(self.units) % len(channels)]
        parameters[varied.parameter][rows, columns] = scales * generator.choice([-1.0, 1.0], self.units)
        size = (*shape, self.model.n_inputs)
        fractions = generator.integers(128, 256, size=size) / 128.0
        inputs = fractions * 2.0 ** generator.integers(-7, 3, size=size) * generator.choice([-1.0, 1.0], size)
        inputs[..., : channels.start] = 1.0
        return parameters, inputs

    def settings_for(self, function: str, generator: np.random.Generator) -> list[Setting]:
        """Where a function is seen best; several where it is seen about as well. None if it is seen nowhere alone."""
        found = []
        if not self.driven or not len(self.free_channels):
            return []
        for varied, constants in itertools.product(range(len(self.driven)), self.patterns((-SATURATED, SATURATED))):
            if constants[varied] < 0:  # it is not used
                continue
            setting = Setting(constants, varied, 0.0)
            parameters, inputs = self.function_problem(setting, (3, 1), generator)
            model: Any = self.model.with_parameters(parameters)
            x = np.moveaxis(inputs, 1, 0)
            z = np.zeros((*x.shape[:2], model.n_states))
            _, share, _ = sensitivity(model, z, x, function)
            found.append(replace(setting, score=float(np.mean(share * self.varies(model, z, x)))))
        found.sort(key=lambda setting: -setting.score)
        return [setting for setting in found if setting.score > max(0.05, 0.7 * found[0].score)][:_SETTINGS]

    def varies(self, model: Any, z: Array, x: Array) -> Array:
        """Where the next state depends on the free inputs."""
        other = x.copy()
        other[..., self.free_channels.start :] *= 1.5
        return np.abs(model.evaluate(z, x) - model.evaluate(z, other)) > 1e-5


def sensitivity(model: StepModel, z: Array, x: Array, function: str) -> tuple[Array, Array, Array]:
    """How the next state depends on errors of an elementary function.

    `z`, `x`: shape (..., H) and (..., n_in).
    Returns the change of each entry for an error of one unit roundoff of the function's value, over this unit; the
    part of all errors that is due to it as functions usually err; and the change for an error of a unit of one.
    """
    exact = ARITHMETICS["float64"]

    def worst(error: Error) -> Array:
        return value_with_errors(model, z, x, replace(exact, elementary={function: error})).worst

    others = worst((2.0**-40, 0.0))
    relative, absolute = (
        np.maximum(worst(error) - others, 0.0) / (_PROBE * exact.unit) for error in ((_PROBE, 0.0), (0.0, _PROBE))
    )
    usual = exact.unit * np.maximum(ELEMENTARY[function][0] * relative, ELEMENTARY[function][1] * absolute)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(usual > 0, usual / (others + usual), 0.0)
    return relative, share, absolute


@dataclass(frozen=True, eq=False)
class LinearWay:
    """A network whose first step takes tiny sizes to multiples of them.

    Attributes
    ----------
    parameters : dict of str to ndarray
    base, inputs : ndarray, shape (n_in,)
        The input, and what a size of one adds to it.
    states : ndarray, shape (H,)
        The state of a size of one.
    columns : ndarray of int
        Of the next state, that are multiples.
    least : float
        The smallest of the multiples' sizes, to a power of two.
    """

    parameters: dict[str, Array]
    base: Array
    inputs: Array
    states: Array
    columns: Array
    least: float

    def start(self, sizes: Array) -> tuple[Array, Array]:
        """Inputs (B, n_in) and states (B, H) of sizes (B,)."""
        return self.base + sizes[:, None] * self.inputs, sizes[:, None] * self.states


def linear_way(layout: Layout) -> LinearWay | None:
    """The way by which a size is least changed, from an input or from the old state; None if there is none.

    By no function: what is a multiple of a number from one to 2^-20, to the last bit, is no value of tanh.
    """
    found, (inputs, states) = [], (layout.model.n_inputs, layout.model.n_states)
    for block in (*layout.driven, None):
        parameters = layout.zeros()
        if block is not None:
            parameters[block.parameter][block.rows, block.columns.start] = 1.0
        driven, own = np.eye(1, inputs)[0] * (block is not None), np.ones(states) * (block is None)
        way = LinearWay(parameters, np.zeros(inputs), driven, own, np.arange(0), 1.0)
        x, z = way.start(np.array([0.0, 1.0, 2.0**-20]))
        none, one, tiny = layout.model.with_parameters(parameters).evaluate(z, x)
        columns = np.flatnonzero((none == 0) & (np.abs(one) > _LEAST) & (tiny == 2.0**-20 * one))
        if columns.size:
            least = 2.0 ** np.floor(np.log2(np.abs(one[columns]).min()))
            found.append(replace(way, columns=columns, least=float(least)))
    return max(found, key=lambda way: way.least, default=None)
