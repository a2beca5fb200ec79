"""Problems whose trajectories show one source of error alone: they have the sizes and options of a given one.

Accelerators choose kernels by shape, so that an arithmetic is measured on problems of the same shapes. What a network
is made of is read off its program (`kpref.program`): blocks of rows through which inputs drive currents, and blocks
through which old states do. All other weights are zero.

Functions. With W = 0 each unit is driven by one input, through a power of two: the currents are numbers of eight bits
in any arithmetic. The other currents (gates) are constants far in saturation; on which side, and which current is to
vary, is found by trying all: the best are those under which the error analysis of the oracle
(`kpref.oracle.uncertain`) attributes most of the error of a state to the function.

Products. Of the first step, whose state is given. A row of W holds a few numbers whose sum loses all but a small part,

    sums        2^m z_p + z_r - 2^m z_q      with z_p = z_q = 1, z_r = 2^-d
    weights     2^m (1 + 2^-j) z_p - 2^m z_q
    states      2^m z_s - 2^m z_q            with z_s = 1 + 2^-j
    results     2^m z_p + z_r                with -2^m from the inputs, which is added to the result

so that the current is 2^-d, or 2^(m - j), as long as a number of j = m + d bits, or of j, is kept, and another one, as
a rule zero, if it is not. No rounding elsewhere is that large: each entry of the state answers yes or no.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.models.step import StepModel
from kpref.oracle.arithmetic import ARITHMETICS, ELEMENTARY, Error
from kpref.oracle.uncertain import value_with_errors

__all__ = ["Bits", "Block", "Layout", "Setting", "sensitivity"]

#: A sigmoid or tanh of it is as good as 0 or 1 in all arithmetics, which all hold it.
_SATURATED = 64.0
#: Error of a function, in units, whose effect on a state tells how much of it is due to the function.
_PROBE = 2.0**10
#: In how many settings a function is looked at, at most.
_SETTINGS = 3
#: Largest power of two in a row of W: within the range of float16.
_LARGEST_POWER = 15


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
        starts = dict(
            zip(
                (view.register for view in model.program.old),
                np.cumsum([0, *(view.width for view in model.program.old)]),
                strict=False,
            )
        )
        self.driven: list[Block] = []
        self.recurrent: list[Block] = []
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
            elif op.source.register in starts:
                first = int(starts[op.source.register]) + op.source.start
                columns = slice(first + entry.columns.start, first + entry.columns.stop)
                self.recurrent.append(Block(entry.parameter, entry.part, columns))

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
        known = {block.parameter for block in (*self.driven, *self.recurrent)}
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
        for varied, constants in itertools.product(range(len(self.driven)), self.patterns((-_SATURATED, _SATURATED))):
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

    # Products

    def product_setting(self) -> tuple[Block, tuple[float, ...], Block | None, Array] | None:
        """Block of W, constants of the driven currents, the driven current that is added to it, and columns.

        The last says in which entry of the state each unit's current is seen. None where it is seen nowhere.
        """
        best: tuple[float, Block, tuple[float, ...]] | None = None
        for block, constants in itertools.product(self.recurrent, self.patterns((0.0, -_SATURATED, _SATURATED))):
            seen = float(np.mean(np.abs(self._respond(block, constants, [0.5]) - self._respond(block, constants, [0]))))
            if seen > 1.01 * (best[0] if best else 1e-6):
                best = seen, block, constants
        if best is None:
            return None
        _, block, constants = best
        units = block.rows.stop - block.rows.start
        alone, none = (list(size * np.eye(units)) for size in (0.5, 0.0))
        change = self._respond(block, constants, alone) - self._respond(block, constants, none)
        columns, right = np.argmax(np.abs(change), axis=1), self._respond(block, constants, [0.5])
        for index, driven in enumerate(self.driven):
            if driven.rows.stop - driven.rows.start != units:
                continue
            shifted = tuple(value - 2.0 * (other == index) for other, value in enumerate(constants))
            if np.allclose(self._respond(block, shifted, [2.5]), right, rtol=0, atol=1e-9):
                return block, constants, driven, columns
        return block, constants, None, columns

    def _respond(self, block: Block, constants: tuple[float, ...], currents: Sequence[Array | float]) -> Array:
        """States (number, H) after steps in which W makes these currents, each from a state of its own.

        As many at once as W is wide.
        """
        model: Any = self.model
        parameters = {**model.parameters, **self.zeros()}
        for driven, value in zip(self.driven, constants, strict=True):
            parameters[driven.parameter][driven.rows, driven.columns.start] = value
        width, found = block.columns.stop - block.columns.start, []
        for start in range(0, len(currents), width):
            some = currents[start : start + width]
            for column, current in enumerate(some):
                parameters[block.parameter][block.rows, column] = current
            z = np.eye(len(some), model.n_states, block.columns.start)
            x = np.tile(np.eye(1, model.n_inputs), (len(some), 1))
            found.append(model._evaluate(parameters, z, x))
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Bits:
    """A problem of products: what is asked of each trial and unit, and what the answer is if bits are lost."""

    parameters: Mapping[str, Array]
    z0: Array
    lost_parameters: Mapping[str, Array]
    lost_z0: Array
    kinds: list[str]  # of each unit's row
    bits: Array  # (B, units): how many bits are to be kept

    @staticmethod
    def make(
        layout: Layout,
        setting: tuple[Block, tuple[float, ...], Block | None, Array],
        wanted: Mapping[str, list[int]],
        generator: np.random.Generator,
    ) -> Bits:
        """Rows for the numbers of bits that are wanted of each kind, what is needed most first."""
        block, constants, added, _ = setting
        units, width = block.rows.stop - block.rows.start, block.columns.stop - block.columns.start
        # Whole numbers stand at both ends, so that there is one on either side of each small one.
        fine, small, inner = np.split(1 + generator.permutation(width - 2), [max(1, width // 4), max(2, width // 2)])
        whole = np.concatenate([[0, width - 1], inner])
        kinds = [kind for kind in wanted if wanted[kind]]
        rows = [kinds[index % len(kinds)] for index in generator.permutation(units)]
        parameters, z0 = layout.zeros(), np.zeros((layout.trials, layout.model.n_states))
        for driven, value in zip(layout.driven, constants, strict=True):
            parameters[driven.parameter][driven.rows, driven.columns.start] = value
        # How small the last part of a number is, by trials; the other bits of its length are in the row of W.
        tails = [_tail(wanted[kind][0]) for kind in kinds if kind in ("sums", "results")] or [0]
        turn = int(generator.integers(len(tails)))
        last = np.array([tails[(trial + turn) % len(tails)] for trial in range(layout.trials)])
        fines = np.resize((wanted.get("states") or [1])[: layout.trials], layout.trials)
        state = z0[:, block.columns]
        state[:, whole] = 1.0
        state[:, small] = 2.0 ** -last[:, None].astype(float)
        state[:, fine] = 1.0 + 2.0 ** -fines[:, None].astype(float)
        lost_z0 = z0.copy()
        lost_z0[:, block.columns][:, fine] = 1.0
        bits = np.zeros((layout.trials, units), dtype=int)
        lost = {name: value.copy() for name, value in parameters.items()}
        seen = dict.fromkeys(kinds, 0)
        for unit, kind in enumerate(rows):
            p, q = generator.choice(whole, size=2, replace=False)
            r, s = generator.choice(small), generator.choice(fine)
            if seen[kind] % 2 == 0:  # then no sum from either end cancels the large ones before it has met the small
                p, q = generator.permutation([generator.choice(whole[whole < r]), generator.choice(whole[whole > r])])
            row, power, target = np.zeros(width), 2.0**_LARGEST_POWER, block.rows.start + unit
            lengths = wanted[kind]
            if kind in ("sums", "results"):
                tail = _tail(lengths[0])
                lengths = [length for length in lengths if 0 < length - tail <= _LARGEST_POWER]
            length = lengths[seen[kind] % len(lengths)]
            seen[kind] += 1
            if kind in ("sums", "results"):
                power = 2.0 ** (length - tail)
                row[[p, r]] = power, 1.0
                bits[:, unit] = length - tail + last
            elif kind == "states":
                row[s] = power
                bits[:, unit] = fines
            else:
                row[p] = power
                bits[:, unit] = length
            if kind == "results" and added is not None:
                for values in (parameters, lost):
                    values[added.parameter][added.rows.start + unit, added.columns.start] -= power
            else:
                row[q] = -power
            lost[block.parameter][target] = row
            if kind in ("sums", "results"):  # the small state itself stays: it may be seen by other ways too
                lost[block.parameter][target, r] = 0.0
            if kind == "weights":
                row[p] *= 1 + 2.0**-length
            parameters[block.parameter][target] = row
        return Bits(parameters, z0, lost, lost_z0, rows, bits)


def _tail(length: int) -> int:
    """How many of the bits of a length the last part of a number is shifted by, the row holding the others."""
    return max(0, length - _LARGEST_POWER + 2)


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
