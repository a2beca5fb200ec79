"""Hypothetical defects of an answer: its measure, its order and layout, and what it is composed of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import combinations

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.kernels import reference
from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import WEIGHED_AFTER, WEIGHED_BEFORE, evaluate
from kpref.oracle.form_defects import Defect
from kpref.oracle.names import OPERATORS
from kpref.space import EuclideanSpace
from kpref.step_form import Entry, StepForm

__all__ = ["answer_defects", "blocks_of", "exchanged"]


def answer_defects(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """All of them, given what an operator was applied to and the right answer."""
    yield Defect("sign: the negative of the right answer", value=lambda: -truth)
    yield Defect("zero: nothing was computed", value=lambda: np.zeros_like(truth))
    if operator in WEIGHED_BEFORE + WEIGHED_AFTER:
        yield from _measures(judge, operator, tensor, truth)
    yield from _shifts(judge, operator, tensor, truth)
    yield from _compositions(judge, operator, tensor)
    if "parameters" in OPERATORS[operator]:
        yield from _layouts(judge, operator, tensor, truth)


class _Unweighted(EuclideanSpace):
    """A space of the same tensors with all weights one."""

    def __init__(self, space: EuclideanSpace) -> None:
        super().__init__(space.shape)


def _measures(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    trials, steps, units = judge.space.shape
    exist = trials * steps if judge.space.lengths is None else int(judge.space.lengths.sum())
    for factor, label in (
        (exist / (trials * steps), "divided by the steps that do not exist too"),
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
    blocks = [blocks_of(form.entries, name, shape) for name, shape in shapes]
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


def blocks_of(entries: Iterable[Entry], parameter: str, shape: tuple[int, ...]) -> int:
    """Number of blocks of as many rows that a parameter of this shape enters in; 1 if they are of several sizes."""
    parts = {(one.part.start, one.part.stop) for one in entries if one.parameter == parameter}
    sizes = {stop - start for start, stop in parts}
    return len(parts) if len(sizes) == 1 and len(parts) * sizes.pop() == (shape or (1,))[0] else 1


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
