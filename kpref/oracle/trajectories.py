"""Which defect is it, of a trajectory? The map with a hypothetical defect, held against each step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.models.step import StepModel
from kpref.oracle.answer_defects import blocks_of, exchanged
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.hypotheses import pattern

__all__ = ["explain_states"]

#: Root mean square, in deviations, that rounding explains; part of the error that may be left otherwise.
_EXPLAINED, _LEFT = 3.0, 0.05


def explain_states(judge: Judge, z0: Array, states: Array, comparison: Comparison, bound: float) -> str:
    """Name the defect of a trajectory, each of whose steps starts from the trajectory itself.

    `judge`: at the backend's own states. `z0`: shape (B, H). `states`: shape (B, T, H); the backend's. `comparison`:
    the residual. `bound`: deviations beyond which an entry is wrong.
    """
    own = comparison.spread.deviation
    deviation = np.maximum(own, 1e-2 * float(np.sqrt(np.mean(np.square(own)))))

    def rms(error: Array, part: Any = slice(None)) -> float:
        return float(np.sqrt(np.mean(np.square((error / deviation)[:, part]))))

    found, best, label = rms(comparison.error), np.inf, ""
    zero = judge.model.evaluate(np.zeros_like(z0), judge.inputs[0])
    if np.any(z0) and rms(states[:, :1] - zero[:, None], slice(1)) <= _EXPLAINED:
        return "z0 dropped: the trajectory starts from zero"
    if states.shape[1] > 1 and rms(states[:, :1] - z0[:, None], slice(1)) <= _EXPLAINED:
        return "time shifted by one: the states before each step for those after it"
    for name, arithmetic in ARITHMETICS.items():
        short = arithmetic.round(z0)
        if np.any(short != z0) and rms(
            states[:, :1] - judge.model.evaluate(short, judge.inputs[0])[:, None], slice(1)
        ) <= (min(_EXPLAINED, 0.5 * rms(comparison.error, slice(1)))):
            return f"precision lower than declared: the trajectory starts from z0 rounded to {name}"
    for name, value in _candidates(judge):
        part = slice(1, -1) if name.startswith("time") and states.shape[1] > 2 else slice(None)
        size = rms(states - np.moveaxis(value, 0, 1), part)
        if size < 0.999 * best:
            best, label = size, name
    if best <= min(_EXPLAINED, 0.5 * found):
        return label
    return pattern(comparison.ratio(), bound, states) or (label if best <= _LEFT * found else "")


def _candidates(judge: Judge) -> Iterator[tuple[str, Array]]:
    """Names of defects and the states (T, B, H) that each would lead to from the same starts."""
    model: Any = judge.model
    starts, inputs, parameters = judge.starts, judge.inputs, judge.model.parameters
    biases = {name: np.zeros_like(value) for name, value in parameters.items() if value.ndim == 1}
    changes = [(f"bias missing: {name} is left out", {name: value}) for name, value in biases.items()]
    if len(biases) > 1:
        changes.append(("bias missing: biases are left out", biases))
    recurrent, driven = _matrices(model)
    for words, alter in (("transpose: {} transposed", _transposed), ("recurrence: {} left out", np.zeros_like)):
        for some in ([name] for name in recurrent) if len(recurrent) == 1 else (*([n] for n in recurrent), recurrent):
            changes.append((words.format(", ".join(some)), {name: alter(parameters[name]) for name in some}))
    changes.append(("inputs missing: inputs are not seen", {name: 0 * parameters[name] for name in driven}))
    for name, other_name in combinations(parameters, 2):
        if parameters[name].shape == parameters[other_name].shape:
            pair = {name: parameters[other_name], other_name: parameters[name]}
            changes.append((f"parameter order: {name} and {other_name} exchanged", pair))
    counts = {name: blocks_of(model.entries(), name, value.shape) for name, value in parameters.items()}
    for one, other in combinations(range(max(counts.values())), 2):
        blocked = [name for name, count in counts.items() if count > other]
        for names in (blocked, *([name] for name in blocked)):
            moved = {n: exchanged(parameters[n], counts[n], one, other) for n in names}
            changes.append((f"gate order: blocks {one} and {other} of {', '.join(names)} exchanged", moved))
    for name, change in changes:
        shaped = {n: np.reshape(value, parameters[n].shape) for n, value in change.items()}
        yield name, model.evaluate(starts, inputs, shaped)
    yield "zero: nothing was computed", np.zeros_like(starts)
    right = model.evaluate(starts, inputs)
    yield "centred: the mean over units is taken off each state", right - right.mean(axis=-1, keepdims=True)
    yield "sign: the negative of the right states", -right
    for shift, word in ((1, "before"), (-1, "after")):
        yield f"time shifted by one: inputs of the step {word}", model.evaluate(starts, np.roll(inputs, shift, axis=0))
    if starts.shape[1] > 1:
        first = np.broadcast_to(inputs[:, :1], inputs.shape)
        yield "trials mixed: inputs of the first trial for all", model.evaluate(starts, first)
        yield "trials mixed: inputs of the neighbouring trial", model.evaluate(starts, np.roll(inputs, 1, axis=1))
    yield from model.variants(starts, inputs)


def _matrices(model: StepModel) -> tuple[list[str], list[str]]:
    """Parameters with two axes that states go through, and those that inputs do."""
    operations = {op.name: op for op in model.program.operations}
    recurrent: list[str] = []
    driven: list[str] = []
    for name, value in model.parameters.items():
        if value.ndim == 2:
            through = [
                operations[entry.weight].source is not None for entry in model.entries() if entry.parameter == name
            ]
            (recurrent if any(through) else driven).append(name)
    return recurrent, driven


def _transposed(weight: Array) -> Array:
    """Square blocks above each other, each transposed."""
    outputs, inputs = weight.shape
    side = inputs if outputs % inputs == 0 else 1
    return weight.reshape(-1, side, side).swapaxes(1, 2).reshape(weight.shape)
