"""Hypothetical defects of a linearisation: weights, gates, derivatives and variables, or the time that they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import FACTORS
from kpref.program import Operation, View
from kpref.step_form import StepForm

__all__ = [
    "Defect",
    "direct_channels",
    "driven_columns",
    "driven_variables",
    "form_defects",
    "gate_groups",
    "slope_channels",
    "square_blocks",
    "state_variables",
    "without",
]


@dataclass(frozen=True, eq=False)
class Defect:
    """A hypothetical defect."""

    label: str  # class, colon, description
    form: StepForm | None = None  # the linearisation that it leads to; None if that is right
    # gives the answer that it leads to; None if that is the operator over `form`
    value: Callable[[], Array] | None = None
    # whether it says nothing about the first and last step, as a shift does that wraps around or stops there
    edges: bool = False


def form_defects(judge: Judge, operator: str) -> Iterator[Defect]:
    """All of them that an operator can have."""
    for make in (_weights, _gates, _times, _derivatives, _clipped):
        yield from make(judge)
    if "J" in operator or operator in FACTORS:
        yield from _variables(judge)


def _weights(judge: Judge) -> Iterator[Defect]:
    """Weights that states go through: blocks transposed, exchanged, left out."""
    form = judge.form
    names = [op.name for op in form.program.operations if op.kind == "product" and op.source is not None]
    blocks = {name: square_blocks(form.weights[name]) for name in names}
    widths = {view.width for view in form.program.new}
    turned = {name: block.swapaxes(1, 2).reshape(form.weights[name].shape) for name, block in blocks.items()}
    for some in _each_and_all(names):
        words = ", ".join(some)
        yield Defect(f"transpose: {words} transposed", form.changed(weights={name: turned[name] for name in some}))
        zeros = {name: np.zeros_like(form.weights[name]) for name in some}
        yield Defect(f"recurrence: {words} left out", form.changed(weights=zeros))
        alone = {name: _diagonals(form.weights[name]) for name in some}
        if all(blocks[name].shape[2] in widths for name in some):
            yield Defect(f"recurrence: of {words} the diagonals alone", form.changed(weights=alone))
    for name in names:
        for one, other in combinations(range(len(blocks[name])), 2):
            swapped = blocks[name].copy()
            swapped[[one, other]] = blocks[name][[other, one]]
            changed = form.changed(weights={name: swapped.reshape(form.weights[name].shape)})
            yield Defect(f"gate order: blocks {one} and {other} of {name} exchanged", changed)


def _diagonals(weight: Array) -> Array:
    """What each unit does to itself, block by block: the terms that eligibility traces of a unit alone have."""
    blocks = square_blocks(weight)
    return np.asarray((blocks * np.eye(blocks.shape[1])).reshape(weight.shape))


def square_blocks(weight: Array) -> Array:
    """A weight as square blocks above each other; as one block of 1 x 1 each if it has none."""
    outputs, inputs = weight.shape
    side = inputs if outputs % inputs == 0 else 1
    return weight.reshape(-1, side, side)


def _each_and_all(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [*((name,) for name in names), *([tuple(names)] if len(names) > 1 else [])]


def direct_channels(form: StepForm) -> list[str]:
    """Channels that take the old state to the new one."""
    old, new = ({view.register for view in views} for views in (form.program.old, form.program.new))
    return [op.name for op in _scales(form) if _register(op) in old and op.out.register in new]


def gate_groups(form: StepForm) -> list[list[str]]:
    """Channels that write to the same columns of the new state: the gates of a part of it."""
    groups: dict[View, list[str]] = {}
    new, direct = {view.register for view in form.program.new}, direct_channels(form)
    for op in _scales(form):
        if op.out.register in new and op.name not in direct:
            groups.setdefault(op.out, []).append(op.name)
    return list(groups.values())


def slope_channels(form: StepForm) -> list[str]:
    """Channels that scale what a weight multiplies."""
    new = {view.register for view in form.program.new}
    return [op.name for op in _scales(form) if op.out.register not in new]


def _scales(form: StepForm) -> list[Operation]:
    return [op for op in form.program.operations if op.kind == "scale"]


def _register(op: Operation) -> int:
    return -1 if op.source is None else op.source.register


def _gates(judge: Judge) -> Iterator[Defect]:
    form = judge.form
    for group in gate_groups(form):
        for name in group:
            value = form.channel(name)
            yield Defect(f"gate: {name} left out", form.changed(channels={name: 0 * value}))
            yield Defect(f"gate: {name} negative", form.changed(channels={name: -value}))
            for other in group:
                if other != name and form.places[other].shape == form.places[name].shape:
                    yield Defect(
                        f"gate: {other} in place of {name}", form.changed(channels={name: form.channel(other)})
                    )
        for one, other in combinations(group, 2):
            if form.places[other].shape == form.places[one].shape:
                swapped = {one: form.channel(other), other: form.channel(one)}
                yield Defect(f"gate order: {one} and {other} exchanged", form.changed(channels=swapped))
    for some in _each_and_all(direct_channels(form)):
        for word, change in _DECAYS.items():
            changed = {name: change(form.channel(name)) for name in some}
            yield Defect(f"decay: {', '.join(some)} {word}", form.changed(channels=changed))


_DECAYS: dict[str, Callable[[Array], Array]] = {
    "left out": np.zeros_like,
    "taken as one": np.ones_like,
    "complemented": lambda value: 1 - value,
    "negative": np.negative,
}


def without(form: StepForm, name: str) -> StepForm:
    """The linearisation without one of its channels."""
    return form.changed(channels={name: 0 * form.channel(name)})


def _times(judge: Judge) -> Iterator[Defect]:
    form = judge.form
    if form.n_steps > 1:
        for shift, word in ((1, "before"), (-1, "after")):
            moved = _along(form, 0, partial(np.roll, shift=shift, axis=0))
            yield Defect(f"time shifted by one: coefficients of the step {word}", moved, edges=True)
        for step, word in ((0, "first"), (-1, "last")):
            stale = _along(form, 0, partial(_held, step=step))
            yield Defect(f"stale: coefficients of the {word} step at all steps", stale)
    if form.n_trials > 1:
        yield Defect("trials mixed: coefficients of the first trial for all", _along(form, 1, _first_trial))
        for shift in (1, -1):
            moved = _along(form, 1, partial(np.roll, shift=shift, axis=1))
            yield Defect("trials mixed: coefficients of the neighbouring trial", moved)


def _held(array: Array, step: int) -> Array:
    return np.repeat(array[[step]], len(array), axis=0)


def _first_trial(array: Array) -> Array:
    return np.repeat(array[:, :1], array.shape[1], axis=1)


def _along(form: StepForm, axis: int, change: Callable[[Array], Array]) -> StepForm:
    """A change of those channels that vary along an axis, and of the variables; inputs are the same along time."""
    channels = {op.name: form.channel(op.name) for op in _scales(form) if form.places[op.name].shape[axis] > 1}
    variables = form.known if axis == 1 else state_variables(form)
    return form.changed(
        channels={name: change(value) for name, value in channels.items()},
        variables={name: change(form.variable(name)) for name in variables},
    )


def _derivatives(judge: Judge) -> Iterator[Defect]:
    """The derivative of the nonlinearity left out, or taken at the wrong argument."""
    form = judge.form
    gates = {name: np.ones_like(form.channel(name)) for group in gate_groups(form) for name in group}
    yield Defect("slope: gates taken as one", form.changed(channels=gates))
    nonlinearity = getattr(judge.model, "nonlinearity", None)
    for op in _scales(form):
        if op.name in slope_channels(form):
            ones = np.ones_like(form.channel(op.name))
            yield Defect(f"slope: {op.name} left out", form.changed(channels={op.name: ones}))
        if nonlinearity is None or not op.name.endswith("slope"):
            continue
        value = _at_value(judge, op, nonlinearity)
        if value is not None:
            wrong = form.changed(channels={op.name: nonlinearity.slope(value)})
            yield Defect(f"slope: {op.name} taken at the value", wrong)


class _Clipped(np.ndarray):
    """Numbers whose functions have their values, and the slopes of straight lines that are clipped at their limits."""

    changed: tuple[str, ...]

    def __array_finalize__(self, other: Any) -> None:
        self.changed = getattr(other, "changed", ())

    def elementary(self, function: Callable[..., Any]) -> Any:
        """A function of `kpref.models.nonlinearity`."""
        name, plain = function.__name__, np.asarray(self)
        if name in self.changed:
            steepest, reach = _LINES[name]
            return steepest * (np.abs(plain) < reach)
        return function(plain)


#: Slopes of the tangents at zero, and how far from it these meet the limits.
_LINES = {"tanh_slope": (1.0, 1.0), "sigmoid_slope": (0.25, 2.0)}


def _clipped(judge: Judge) -> Iterator[Defect]:
    """Derivatives of lines that are clipped in place of those of functions that level off."""
    form = judge.form
    for name in _LINES:
        z, x = judge.starts.view(_Clipped), judge.inputs.view(_Clipped)
        z.changed = x.changed = (name,)
        found = judge.model.numbers(z, x).channels
        own = {key: np.asarray(value) for key, value in found.items() if form.places[key].shape[0] > 1}
        own = {key: np.broadcast_to(value, form.channel(key).shape) for key, value in own.items()}
        if any((value != form.channel(key)).any() for key, value in own.items()):
            words = name.removesuffix("_slope")
            yield Defect(f"slope: that of a clipped line in place of that of {words}", form.changed(channels=own))


def _at_value(judge: Judge, op: Operation, nonlinearity: Any) -> Array | None:
    """The value of a nonlinearity whose slope a channel is: of the old state that it scales, or the new state."""
    program, column = judge.form.program, 0
    for old, new in zip(program.old, program.new, strict=True):
        part = slice(column, column + old.width)
        if op.source is not None and op.source.register == old.register:
            return np.asarray(nonlinearity.value(judge.starts[..., part]))
        if op.out.register == new.register:
            return np.asarray(judge.model.evaluate(judge.starts, judge.inputs)[..., part])
        column += old.width
    return None


def driven_variables(form: StepForm) -> list[str]:
    """What weights multiply that no state goes through: inputs, and ones."""
    operations = form.program.operations
    return [op.variable for op in operations if op.variable is not None and op.source is None]


def state_variables(form: StepForm) -> list[str]:
    """What all other weights multiply."""
    driven = driven_variables(form)
    return [name for name in form.known if name not in driven]


def _variables(judge: Judge) -> Iterator[Defect]:
    """What the weights multiply."""
    form = judge.form
    own = {name: form.variable(name) for name in state_variables(form)}
    for shift, word in ((1, "before"), (-1, "after")) if form.n_steps > 1 else ():
        moved = form.changed(variables={name: np.roll(value, shift, axis=0) for name, value in own.items()})
        yield Defect(f"time shifted by one: states of the step {word} multiply the weights", moved, edges=True)
    for name, value in own.items():
        if not form.known[name].of_state and value.shape == judge.starts.shape:
            yield Defect(f"slope: states in place of {name}", form.changed(variables={name: judge.starts}))
    starts = {name: np.concatenate([0 * value[:1], value[1:]]) for name, value in own.items()}
    yield Defect("z0 dropped: the first step starts from zero", form.changed(variables=starts))
    for words, columns in driven_columns(form).items():
        cut = {}
        for name, which in columns.items():
            cut[name] = form.variable(name).copy()
            cut[name][..., which] = 0.0
        if cut:
            yield Defect(words, form.changed(variables=cut))
    for some in _each_and_all(list(own)):
        zeros = form.changed(variables={name: 0 * own[name] for name in some})
        yield Defect(f"recurrence: what {', '.join(some)} multiplies has no derivative", zeros)


def driven_columns(form: StepForm) -> dict[str, dict[str, Array]]:
    """Columns of the driven variables that biases, and that other arrays multiply, by what happens without them."""
    found: dict[str, dict[str, Array]] = {
        "bias missing: biases have no derivative": {},
        "inputs missing: inputs have no derivative": {},
    }
    for op in form.program.operations:
        if op.variable is None or op.source is not None:
            continue
        for words, of_bias in zip(found, (True, False), strict=True):
            spans = [
                np.arange(entry.columns.start, entry.columns.stop)
                for entry in form.entries
                if entry.weight == op.name and (len(form.shapes[entry.parameter]) < 2) == of_bias
            ]
            if spans:
                found[words][op.variable] = np.unique(np.concatenate(spans))
    return found
