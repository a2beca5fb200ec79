"""Hypothetical defects: what an operator would return if this or that were wrong in it.

Each is built into the reference, as a linearisation with the defect or as another answer, so that a claimed answer can
be held against it (`kpref.oracle.hypotheses`). The text before the colon is the class of the defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import reference
from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import FACTORS, WEIGHED_AFTER, WEIGHED_BEFORE, evaluate
from kpref.oracle.names import OPERATORS
from kpref.program import Operation, View
from kpref.space import EuclideanSpace
from kpref.step_form import StepForm

__all__ = [
    "Defect",
    "defects",
    "direct_channels",
    "driven_columns",
    "driven_variables",
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


def defects(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """All hypothetical defects of an operator, given what it was applied to and the right answer."""
    yield Defect("sign: the negative of the right answer", value=lambda: -truth)
    yield Defect("zero: nothing was computed", value=lambda: np.zeros_like(truth))
    if operator in WEIGHED_BEFORE + WEIGHED_AFTER:
        yield from _measures(judge, operator, tensor, truth)
    yield from _shifts(judge, operator, tensor, truth)
    yield from _compositions(judge, operator, tensor)
    if "parameters" in OPERATORS[operator]:
        yield from _layouts(judge, operator, tensor, truth)
    for make in (_weights, _gates, _times, _derivatives):
        yield from make(judge)
    if "J" in operator or operator in FACTORS:
        yield from _variables(judge)


# Linearisations


def _weights(judge: Judge) -> Iterator[Defect]:
    """Weights that states go through: blocks transposed, exchanged, left out."""
    form = judge.form
    names = [op.name for op in form.program.operations if op.kind == "product" and op.source is not None]
    blocks = {name: square_blocks(form.weights[name]) for name in names}
    turned = {name: block.swapaxes(1, 2).reshape(form.weights[name].shape) for name, block in blocks.items()}
    for some in _each_and_all(names):
        words = ", ".join(some)
        yield Defect(f"transpose: {words} transposed", form.changed(weights={name: turned[name] for name in some}))
        zeros = {name: np.zeros_like(form.weights[name]) for name in some}
        yield Defect(f"recurrence: {words} left out", form.changed(weights=zeros))
    for name in names:
        for one, other in combinations(range(len(blocks[name])), 2):
            swapped = blocks[name].copy()
            swapped[[one, other]] = blocks[name][[other, one]]
            changed = form.changed(weights={name: swapped.reshape(form.weights[name].shape)})
            yield Defect(f"gate order: blocks {one} and {other} of {name} exchanged", changed)


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


# Answers


class _Unweighted(EuclideanSpace):
    """A space of the same tensors with all weights one."""

    def __init__(self, space: EuclideanSpace) -> None:
        super().__init__(space.shape)


def _measures(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    trials, steps, units = judge.space.shape
    for factor, label in (
        (trials * steps, "sum for mean"),
        (1 / (trials * steps), "mean for sum, or divided twice"),
        (trials, "not divided by the number of trials"),
        (steps, "not divided by the number of steps"),
        (1 / trials, "divided by the number of trials again"),
        (1 / steps, "divided by the number of steps again"),
        (units, "units counted in"),
        (1 / units, "divided by the number of units"),
    ):
        if factor != 1:
            yield Defect(f"measure: {label}", value=partial(np.multiply, factor, truth))
    plain = _Unweighted(judge.space)
    bare = partial(evaluate, operator, judge.form, plain, tensor)
    yield Defect("measure: weights ignored", value=bare)
    weigh = judge.space.weigh
    if operator in WEIGHED_AFTER:
        yield Defect("measure: weights used twice", value=lambda: weigh(truth))
        if tensor.ndim == 3:
            before = partial(evaluate, operator, judge.form, plain, weigh(tensor))
            yield Defect("measure: weights on the argument for the answer", value=before)
        return
    yield Defect(
        "measure: weights used twice", value=lambda: evaluate(operator, judge.form, judge.space, weigh(tensor))
    )
    if truth.ndim == 3:
        yield Defect("measure: weights on the answer for the argument", value=lambda: weigh(bare()))


def _shifts(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """Answers and arguments moved along time, reversed, cut off, or exchanged between trials."""

    def seen(label: str, change: Callable[[Array], Array]) -> Defect:
        return Defect(label, value=lambda: evaluate(operator, judge.form, judge.space, change(tensor)))

    several = judge.form.n_steps > 1
    if truth.ndim == 3 and several:
        for shift in (1, -1):
            yield Defect("time shifted by one: the answer", value=partial(_shifted, truth, shift))
        yield Defect("time reversed: the answer", value=lambda: truth[:, ::-1])
        for step, word in ((0, "first"), (-1, "last")):
            yield Defect(f"step missing: the {word} of the answer is zero", value=partial(_cut, truth, step, 1))
    if tensor.ndim == 3 and several:
        for shift in (1, -1):
            yield seen("time shifted by one: the argument", partial(_shifted, shift=shift))
        yield seen("time reversed: the argument", lambda t: np.ascontiguousarray(t[:, ::-1]))
        for step, word in ((0, "first"), (-1, "last")):
            yield seen(f"step missing: the {word} of the argument is not seen", partial(_cut, index=step, axis=1))
    if operator == "J_T":
        for count in range(2, judge.form.n_steps // 2 + 1):
            yield seen(f"step missing: the last {count} of the argument are not seen", partial(_headed, count=count))
    if tensor.ndim == 3 and judge.form.n_trials > 1:
        yield seen("trials mixed: trials are averaged", lambda t: np.repeat(t.mean(axis=0, keepdims=True), len(t), 0))
        yield seen("trials mixed: trials are summed", lambda t: np.repeat(t.sum(axis=0, keepdims=True), len(t), 0))
        for shift in (1, -1):
            yield seen("trials mixed: trials are moved by one", partial(np.roll, shift=shift, axis=0))
        for trial, word in ((0, "first"), (-1, "last")):
            yield seen(f"trial missing: the {word} is not seen", partial(_cut, index=trial, axis=0))


def _shifted(tensor: Array, shift: int) -> Array:
    moved = np.roll(tensor, shift, axis=1)
    moved[:, 0 if shift > 0 else -1] = 0.0
    return moved


def _cut(tensor: Array, index: int, axis: int) -> Array:
    cut = tensor.copy()
    np.moveaxis(cut, axis, 0)[index] = 0.0
    return cut


def _headed(tensor: Array, count: int) -> Array:
    """All but the last few steps."""
    head = tensor.copy()
    head[:, -count:] = 0.0
    return head


def _layouts(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """Parameter vectors in another order."""
    form = judge.form
    shapes = list(form.shapes.items())
    ends = np.cumsum([int(np.prod(shape)) for _, shape in shapes])
    positions = np.split(np.arange(ends[-1]), ends[:-1])

    def reordered(label: str, pieces: list[Array]) -> Defect:
        order = np.concatenate(pieces)
        if OPERATORS[operator][0] == "parameters":
            return Defect(label, value=lambda: evaluate(operator, judge.form, judge.space, tensor[order]))
        return Defect(label, value=lambda: truth[order])

    fortran = [p.reshape(shape).ravel(order="F") for p, (_, shape) in zip(positions, shapes, strict=True)]
    yield reordered("parameter order: matrices in Fortran order", fortran)
    by_columns = [p.reshape(shape[::-1]).T.ravel() for p, (_, shape) in zip(positions, shapes, strict=True)]
    yield reordered("parameter order: matrices in Fortran order", by_columns)
    blocks = [_blocks(form, name) for name, _ in shapes]
    for i, (name, _) in enumerate(shapes):
        for j in range(i):
            swapped = list(positions)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield reordered(f"parameter order: {shapes[j][0]} and {name} exchanged", swapped)
        for one, other in combinations(range(blocks[i]), 2):
            changed = [*positions[:i], exchanged(positions[i], blocks[i], one, other), *positions[i + 1 :]]
            yield reordered(f"gate order: blocks {one} and {other} of {name} exchanged", changed)
    for one, other in combinations(range(max(blocks)), 2):
        every = [
            exchanged(p, count, one, other) if count > other else p for p, count in zip(positions, blocks, strict=True)
        ]
        yield reordered(f"gate order: blocks {one} and {other} of all parameters exchanged", every)


def _blocks(form: StepForm, parameter: str) -> int:
    """Number of blocks of rows of a parameter that enter apart."""
    parts = {(one.part.start, one.part.stop) for one in form.entries if one.parameter == parameter}
    return len(parts) if len({stop - start for start, stop in parts}) == 1 else 1


def exchanged(array: Array, count: int, one: int, other: int) -> Array:
    """An array of so many blocks of rows with two of them exchanged."""
    rows = array.reshape(count, -1).copy()
    rows[[one, other]] = rows[[other, one]]
    return rows.reshape(array.shape)


def _compositions(judge: Judge, operator: str, tensor: Array) -> Iterator[Defect]:
    """One operator in place of another, or one of several left out."""
    form, plain = judge.form, _Unweighted(judge.space)

    def chain(label: str, *operators: str) -> Defect:
        def value() -> Array:
            result = judge.space.weigh(tensor) if operator in WEIGHED_BEFORE else tensor
            for name in operators:
                result = evaluate(name, form, plain, result)
            return judge.space.weigh(result) if operator in WEIGHED_AFTER else result

        return Defect(label, value=value)

    if operator == "P":
        yield chain("transpose: P^T in place of P", "P_T")
        yield chain("inverse: the inverse of P in place of P", "P_inverse")
        yield Defect(
            "composition: the forcing enters before the step",
            value=lambda: kernels.tangent(form, _at_own_step(form, tensor)[None])[0],
        )
    elif operator == "P_T":
        yield chain("transpose: P in place of P^T", "P")
    elif operator == "P_inverse":
        yield chain("inverse: P in place of its inverse", "P")
        own = "time shifted by one: the product with the state of its own step"
        yield Defect(own, value=lambda: tensor - _at_own_step(form, tensor))
        yield Defect("sign: the product is added", value=lambda: 2 * tensor - kernels.inverse(form, tensor[None])[0])
    elif operator == "P_inverse_T":
        yield chain("transpose: the inverse of P in place of its transpose", "P_inverse")
        yield chain("inverse: P^T in place of its inverse", "P_T")
        yield Defect(
            "sign: the product is added", value=lambda: 2 * tensor - evaluate("P_inverse_T", form, plain, tensor)
        )
    elif operator in ("D", "gradient_T"):
        yield chain("composition: J alone, without P", "J")
    elif operator == "D_T":
        weighed = partial(evaluate, "gradient", form, judge.space, tensor)
        yield Defect("measure: weighed, as the gradient is", value=weighed)
        yield chain("composition: P^T left out", "J_T")
        yield chain("composition: P in place of P^T", "P", "J_T")
    elif operator == "D_z0_T":
        yield Defect(
            "composition: the costate of the first step, without A[0]^T",
            value=lambda: evaluate("P_T", form, plain, tensor)[:, 0],
        )
    elif operator == "NTK_T":
        yield chain("composition: K^T alone", "J_T", "J")
        yield chain("composition: P J J^T, without P^T", "J_T", "J", "P")
        yield chain("composition: J J^T P^T, without P", "P_T", "J_T", "J")
    elif operator == "K":
        yield Defect("composition: each trial has parameters of its own", value=lambda: _own_parameters(judge, tensor))
    elif operator == "NTK":
        yield chain("composition: K alone", "K")
        yield chain("composition: P K, without P*", "K", "P")
        yield chain("composition: K P*, without P", "P_T", "K")
        yield chain("composition: P K P for P K P*", "P", "K", "P")
        yield chain("composition: P* K P for P K P*", "P", "K", "P_T")
    elif operator == "gradient":
        yield chain("composition: P* left out", "J_T")
        yield chain("composition: P in place of P*", "P", "J_T")
        yield from _truncated(judge, tensor)


def _at_own_step(form: StepForm, q: Array) -> Array:
    """``A[n] q[n]``."""
    return np.stack([reference.jacobian(form, step, q[None, :, step])[0] for step in range(form.n_steps)], axis=1)


def _own_parameters(judge: Judge, q: Array) -> Array:
    """``K q`` with the sum over trials left out."""
    source, form = judge.space.weigh(q), judge.form
    answer = np.empty_like(q)
    for trial in range(form.n_trials):
        alone = np.zeros_like(source)
        alone[trial] = source[trial]
        theta = kernels.parameter_transpose(form, alone[None])
        answer[trial] = kernels.parameter_product(form, theta)[0, trial]
    return answer


def _truncated(judge: Judge, err: Array) -> Iterator[Defect]:
    """Costates that reach back only a few steps: ``l <- g + A^T l`` as many times."""
    form = judge.form
    source = judge.space.weigh(err)[None]
    costate = source
    for window in range(2, min(form.n_steps, 9)):
        costate = source + costate - kernels.inverse_transpose(form, costate)
        theta = kernels.parameter_transpose(form, costate)[0]
        yield Defect(f"truncated: costates reach back {window} steps", value=partial(np.copy, theta))
