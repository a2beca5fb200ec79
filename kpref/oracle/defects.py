"""Hypothetical defects: what an operator would return if this or that were wrong in it.

Each is built into the reference, as a linearisation with the defect or as another answer, so that a claimed answer can
be held against it (`kpref.oracle.hypotheses`). The text before the colon is the class of the defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import evaluate
from kpref.site_view import SiteForm, site_jacobian, site_kernels
from kpref.space import EuclideanSpace

__all__ = ["Defect", "defects", "only_gate"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Defect:
    """A hypothetical defect.

    Attributes
    ----------
    label : str
        Class, colon, description.
    form : SiteForm or None
        The linearisation that it leads to; None if that is right.
    value : callable or None
        Gives the answer that it leads to; None if that is the operator over `form`.
    edges : bool
        Whether it says nothing about the first and last step, as a shift does that wraps around or stops there.
    """

    label: str
    form: SiteForm | None = None
    value: Callable[[], Array] | None = None
    edges: bool = False


def defects(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """All hypothetical defects of an operator, given what it was applied to and the right answer."""
    yield Defect("sign: the negative of the right answer", value=lambda: -truth)
    yield Defect("zero: nothing was computed", value=lambda: np.zeros_like(truth))
    if operator in ("K", "NTK", "gradient"):
        yield from _measures(judge, operator, tensor, truth)
    yield from _shifts(judge, operator, tensor, truth)
    yield from _compositions(judge, operator, tensor)
    if operator in ("J", "J_T", "gradient"):
        yield from _layouts(judge, operator, tensor, truth)
    for make in (_weights, _gates, _times, _derivatives):
        yield from make(judge)
    if operator not in ("P", "P_T", "P_inverse"):
        yield from _variables(judge)


# Linearisations


def _weights(judge: Judge) -> Iterator[Defect]:
    form = judge.form
    units = form.n_states
    blocks = form.weight.reshape(-1, units, units)
    yield Defect("transpose: recurrent weight transposed", _with_weight(form, blocks.swapaxes(1, 2)))
    for order in _orders(len(blocks)):
        yield Defect(f"gate order: recurrent blocks in the order {order}", _with_weight(form, blocks[list(order)]))
    yield Defect("recurrence: recurrent weight left out", _with_weight(form, np.zeros_like(blocks)))


def _orders(count: int) -> list[tuple[int, ...]]:
    """All orders but the right one."""
    return [order for order in permutations(range(count)) if order != tuple(range(count))]


def _with_weight(form: SiteForm, blocks: Array) -> SiteForm:
    weight = np.ascontiguousarray(blocks.reshape(form.weight.shape))
    return replace(form, weight=weight)


def _gates(judge: Judge) -> Iterator[Defect]:
    form = judge.form
    count = form.gates.shape[2]
    for gate in range(count):
        yield Defect(f"gate: gate {gate} left out", _scaled(form, gate, 0.0))
        yield Defect(f"gate: gate {gate} negative", _scaled(form, gate, -1.0))
        for other in range(count):
            if other != gate:
                gates = form.gates.copy()
                gates[:, :, gate] = gates[:, :, other]
                yield Defect(f"gate: gate {other} in place of gate {gate}", replace(form, gates=gates))
    for order in _orders(count):
        gates = np.ascontiguousarray(form.gates[:, :, list(order)])
        yield Defect(f"gate order: gates in the order {order}", replace(form, gates=gates))
    yield Defect("decay: the direct term left out", replace(form, decay=np.zeros_like(form.decay)))
    yield Defect("decay: the direct term taken as one", replace(form, decay=np.ones_like(form.decay)))
    yield Defect("decay: the direct term complemented", replace(form, decay=1.0 - form.decay))
    yield Defect("decay: the direct term negative", replace(form, decay=-form.decay))


def _scaled(form: SiteForm, gate: int, factor: float) -> SiteForm:
    changed = form.gates.copy()
    changed[:, :, gate] *= factor
    return replace(form, gates=changed)


def only_gate(form: SiteForm, gate: int | None) -> SiteForm:
    """The part of a linearisation that goes through one gate, or (None) through the direct term."""
    gates = np.zeros_like(form.gates)
    if gate is None:
        return replace(form, gates=gates)
    gates[:, :, gate] = form.gates[:, :, gate]
    return replace(form, gates=gates, decay=np.zeros_like(form.decay))


def _times(judge: Judge) -> Iterator[Defect]:
    form = judge.form
    if form.n_steps > 1:
        for shift, word in ((1, "before"), (-1, "after")):
            moved = _along_time(form, partial(np.roll, shift=shift, axis=0))
            yield Defect(f"time shifted by one: coefficients of the step {word}", moved, edges=True)
        for step, word in ((0, "first"), (-1, "last")):
            stale = _along_time(form, partial(_held, step=step))
            yield Defect(f"stale: coefficients of the {word} step at all steps", stale)
    if form.n_trials > 1:
        yield Defect("trials mixed: coefficients of the first trial for all", _along_trials(form, _first_trial))
        for shift in (1, -1):
            moved = _along_trials(form, partial(np.roll, shift=shift, axis=1))
            yield Defect("trials mixed: coefficients of the neighbouring trial", moved)


def _held(array: Array, step: int) -> Array:
    return np.repeat(array[[step]], len(array), axis=0)


def _first_trial(array: Array) -> Array:
    return np.repeat(array[:, :1], array.shape[1], axis=1)


_ALONG = ("decay", "gates", "slope", "variable")


def _along_time(form: SiteForm, change: Callable[[Array], Array]) -> SiteForm:
    """A change of those coefficients that vary along time."""
    changed: dict[str, Any] = {n: change(getattr(form, n)) for n in _ALONG if getattr(form, n).shape[0] > 1}
    return replace(form, **changed)


def _along_trials(form: SiteForm, change: Callable[[Array], Array]) -> SiteForm:
    names = (n for n in (*_ALONG, "drive") if getattr(form, n).shape[1] > 1)
    changed: dict[str, Any] = {n: np.ascontiguousarray(change(getattr(form, n))) for n in names}
    return replace(form, **changed)


def _derivatives(judge: Judge) -> Iterator[Defect]:
    """The derivative of the nonlinearity left out, or taken at the wrong argument."""
    form = judge.form
    yield Defect("slope: gates taken as one", replace(form, gates=np.ones_like(form.gates)))
    nonlinearity = getattr(judge.model, "nonlinearity", None)
    if nonlinearity is None:
        return
    if form.slope.size:
        yield Defect("slope: derivative of the nonlinearity left out", replace(form, slope=np.ones_like(form.slope)))
        value = nonlinearity.value(judge.starts)
        yield Defect("slope: derivative taken at the value", replace(form, slope=nonlinearity.slope(value)))
    else:
        value = judge.model.evaluate(judge.starts, judge.inputs)
        gates = np.ascontiguousarray(nonlinearity.slope(value)[:, :, None])
        yield Defect("slope: derivative taken at the value", replace(form, gates=gates))


def _variables(judge: Judge) -> Iterator[Defect]:
    """What the weights multiply."""
    form = judge.form
    for shift, word in ((1, "before"), (-1, "after")) if form.n_steps > 1 else ():
        moved = replace(form, variable=np.roll(form.variable, shift, axis=0))
        yield Defect(f"time shifted by one: states of the step {word} multiply the weights", moved, edges=True)
    if form.slope.size:
        yield Defect("slope: states in place of what the weight multiplies", replace(form, variable=judge.starts))
    start = form.variable.copy()
    start[0] = 0.0
    yield Defect("z0 dropped: the first step starts from zero", replace(form, variable=start))
    for columns, word in ((slice(-1, None), "bias missing: biases have"), (slice(-1), "inputs missing: inputs have")):
        drive = form.drive.copy()
        drive[..., columns] = 0.0
        yield Defect(f"{word} no derivative", replace(form, drive=drive))
    yield Defect("recurrence: recurrent weight has no derivative", replace(form, variable=np.zeros_like(form.variable)))


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
    bare = lambda: evaluate(operator, judge.form, plain, tensor)  # noqa: E731
    yield Defect("measure: weights ignored", value=bare)
    weigh = judge.space.weigh
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
    layout = judge.form.layout
    shapes = [site.shape(layout.n_states, layout.n_inputs) for site in layout.sites]
    positions = np.split(np.arange(layout.size), np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])

    def reordered(label: str, pieces: list[Array]) -> Defect:
        order = np.concatenate(pieces)
        if operator == "J":
            return Defect(label, value=lambda: evaluate("J", judge.form, judge.space, tensor[order]))
        return Defect(label, value=lambda: truth[order])

    fortran = [p.reshape(s).ravel(order="F") for p, s in zip(positions, shapes, strict=True)]
    yield reordered("parameter order: matrices in Fortran order", fortran)
    by_columns = [p.reshape(s[::-1]).T.ravel() for p, s in zip(positions, shapes, strict=True)]
    yield reordered("parameter order: matrices in Fortran order", by_columns)
    for i, site in enumerate(layout.sites):
        for j in range(i):
            swapped = list(positions)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield reordered(f"parameter order: {layout.sites[j].name} and {site.name} exchanged", swapped)
        rows = positions[i].reshape(len(site.gates), -1)
        for order in _orders(len(rows)):
            changed = [*positions[:i], rows[list(order)].ravel(), *positions[i + 1 :]]
            yield reordered(f"gate order: blocks of {site.name} in the order {order}", changed)
    for order in _orders(max(len(site.gates) for site in layout.sites)):
        every = [p.reshape(len(s.gates), -1)[list(order)].ravel() for p, s in zip(positions, layout.sites, strict=True)]
        yield reordered(f"gate order: blocks of all parameters in the order {order}", every)


def _compositions(judge: Judge, operator: str, tensor: Array) -> Iterator[Defect]:
    """One operator in place of another, or one of several left out."""
    form, plain = judge.form, _Unweighted(judge.space)

    def chain(label: str, *operators: str) -> Defect:
        def value() -> Array:
            result = judge.space.weigh(tensor) if operator in ("K", "NTK", "gradient") else tensor
            for name in operators:
                result = evaluate(name, form, plain, result)
            return result

        return Defect(label, value=value)

    if operator == "P":
        yield chain("transpose: P^T in place of P", "P_T")
        yield chain("inverse: the inverse of P in place of P", "P_inverse")
        yield Defect(
            "composition: the forcing enters before the step",
            value=lambda: site_kernels.tangent(form, _at_own_step(form, tensor)[None])[0],
        )
    elif operator == "P_T":
        yield chain("transpose: P in place of P^T", "P")
    elif operator == "P_inverse":
        yield chain("inverse: P in place of its inverse", "P")
        own = "time shifted by one: the product with the state of its own step"
        yield Defect(own, value=lambda: tensor - _at_own_step(form, tensor))
        yield Defect(
            "sign: the product is added", value=lambda: 2 * tensor - site_kernels.inverse(form, tensor[None])[0]
        )
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


def _at_own_step(form: SiteForm, q: Array) -> Array:
    """``A[n] q[n]``."""
    return np.stack([site_jacobian(form, step, q[None, :, step])[0] for step in range(form.n_steps)], axis=1)


def _own_parameters(judge: Judge, q: Array) -> Array:
    """``K q`` with the sum over trials left out."""
    source, form = judge.space.weigh(q), judge.form
    answer = np.empty_like(q)
    for trial in range(form.n_trials):
        alone = np.zeros_like(source)
        alone[trial] = source[trial]
        theta = site_kernels.parameter_transpose(form, alone[None])
        answer[trial] = site_kernels.parameter_product(form, theta)[0, trial]
    return answer


def _truncated(judge: Judge, err: Array) -> Iterator[Defect]:
    """Costates that reach back only a few steps: ``l <- g + A^T l`` as many times."""
    form = judge.form
    source = judge.space.weigh(err)[None]
    costate = source
    for window in range(2, min(form.n_steps, 9)):
        costate = source + costate - site_kernels.inverse_transpose(form, costate)
        theta = site_kernels.parameter_transpose(form, costate)[0]
        yield Defect(f"truncated: costates reach back {window} steps", value=partial(np.copy, theta))
