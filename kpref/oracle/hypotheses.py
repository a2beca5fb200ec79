"""Which defect is it? Hypothetical defects are built into the reference, and the one that explains the answer is named.

A hypothesis explains a claimed product if the reference with that defect reproduces it: the error that remains is a
small part of the error found, or no larger than what rounding explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref import kernels
from kpref.linearize import SiteForm
from kpref.oracle.certificates import Judge

__all__ = ["evaluate", "explain"]

Array = npt.NDArray[Any]

#: Share of the error that a hypothesis may leave unexplained.
_UNEXPLAINED = 0.05


def evaluate(operator: str, form: SiteForm, space: Any, tensor: Array) -> Array:
    """The reference value of an operator over any linearisation, possibly a defective one."""
    batch = tensor[None]
    if operator == "P":
        return kernels.tangent(form, batch)[0]
    if operator == "P_T":
        return kernels.adjoint(form, batch)[0]
    if operator == "P_inverse":
        return kernels.inverse(form, batch)[0]
    if operator == "J":
        return kernels.parameter_product(form, batch)[0]
    if operator == "J_T":
        return kernels.parameter_transpose(form, batch)[0]
    weighed = space.weigh(batch)
    if operator == "K":
        return kernels.parameter_product(form, kernels.parameter_transpose(form, weighed))[0]
    theta = kernels.parameter_transpose(form, kernels.adjoint(form, weighed))
    if operator == "gradient":
        return theta[0]
    return kernels.tangent(form, kernels.parameter_product(form, theta))[0]


def explain(judge: Judge, operator: str, tensor: Array, answer: Array, noise: float) -> str | None:
    """Name the defect that explains `answer`, or None.

    Parameters
    ----------
    judge : Judge
    operator : str
    tensor, answer : ndarray
        What the backend was given and what it returned.
    noise : float
        Norm of the error that rounding explains.
    """
    truth = evaluate(operator, judge.form, judge.space, tensor)
    found = float(np.linalg.norm(answer - truth))
    best: tuple[float, str | None] = (max(_UNEXPLAINED * found, 3 * noise), None)
    for label, value in _candidates(judge, operator, tensor, truth, answer):
        left = float(np.linalg.norm(answer - value))
        if left < best[0] and left < 0.5 * found:
            best = (left, label)
    return best[1]


def _candidates(judge: Judge, operator: str, tensor: Array, truth: Array, answer: Array) -> Iterator[tuple[str, Array]]:
    yield "sign: the negative of the right answer", -truth
    yield "zero: nothing was computed", np.zeros_like(truth)
    points = judge.form.n_steps * judge.form.n_trials
    if operator in ("K", "NTK", "gradient"):
        for factor, label in (
            (points, "measure: sum for mean"),
            (1 / points, "measure: mean for sum, or divided twice"),
            (judge.form.n_trials, "measure: not divided by the number of trials"),
            (judge.form.n_steps, "measure: not divided by the number of steps"),
            (judge.form.n_states, "measure: units counted in"),
            (1 / judge.form.n_states, "measure: units counted in"),
        ):
            yield label, factor * truth
        yield "measure: weights ignored", evaluate(operator, judge.form, _Unweighted(), tensor)
    for label, form in _forms(judge.form):
        yield label, evaluate(operator, form, judge.space, tensor)
    yield from _shifts(judge, operator, tensor, truth)
    yield from _layouts(judge, operator, tensor, truth)
    yield from _compositions(judge, operator, tensor)
    scale = float(np.vdot(truth, answer) / max(float(np.vdot(truth, truth)), np.finfo(float).tiny))
    yield f"factor: the right answer times {scale:.6g}", scale * truth


class _Unweighted:
    """A space with all weights one."""

    @staticmethod
    def weigh(batch: Array) -> Array:
        return batch


def _forms(form: SiteForm) -> Iterator[tuple[str, SiteForm]]:
    """Linearisations with a defect."""
    units, gates = form.n_states, form.gates.shape[2]
    recurrent = len(form.weight) // units
    blocks = form.weight.reshape(recurrent, units, units)
    yield "transpose: recurrent weight transposed", _with_weight(form, blocks.swapaxes(1, 2))
    if recurrent > 1:
        for order in permutations(range(recurrent)):
            if order != tuple(range(recurrent)):
                yield f"gate order: recurrent blocks in the order {order}", _with_weight(form, blocks[list(order)])
    full = np.broadcast_to(form.gates, (*form.gates.shape[:2], gates, units))
    for gate in range(gates):
        yield f"gate: gate {gate} left out", replace(form, gates=_scaled(full, gate, 0.0))
        yield f"gate sign: gate {gate} negative", replace(form, gates=_scaled(full, gate, -1.0))
    for order in permutations(range(gates)):
        if order != tuple(range(gates)):
            yield (
                f"gate order: gates in the order {order}",
                replace(form, gates=np.ascontiguousarray(full[:, :, order])),
            )
    yield "decay: the direct term left out", replace(form, decay=np.zeros_like(form.decay))
    yield "decay: the direct term taken as one", replace(form, decay=np.ones_like(form.decay))
    if form.slope.size:
        yield "slope: derivative of the nonlinearity left out", replace(form, slope=np.ones_like(form.slope))
    yield "slope: gates taken as one", replace(form, gates=np.ones_like(form.gates))
    yield "recurrence: recurrent weight left out", _with_weight(form, np.zeros_like(blocks))
    for shift, word in ((1, "before"), (-1, "after")):
        yield f"time shifted by one: coefficients of the step {word}", _rolled(form, shift)
    start = form.variable.copy()
    start[0] = 0.0
    yield "z0 dropped: the first step starts from zero", replace(form, variable=start)
    ones = form.drive.copy()
    ones[..., -1] = 0.0
    yield "bias missing: biases have no derivative", replace(form, drive=ones)
    nothing = form.drive.copy()
    nothing[..., :-1] = 0.0
    yield "inputs missing: input weights have no derivative", replace(form, drive=nothing)
    yield "recurrence: recurrent weight has no derivative", replace(form, variable=np.zeros_like(form.variable))


def _with_weight(form: SiteForm, blocks: Array) -> SiteForm:
    weight = np.ascontiguousarray(blocks.reshape(form.weight.shape))
    return replace(form, weight=weight, weight_transposed=np.ascontiguousarray(weight.T))


def _scaled(gates: Array, gate: int, factor: float) -> Array:
    changed = gates.copy()
    changed[:, :, gate] *= factor
    return changed


def _rolled(form: SiteForm, shift: int) -> SiteForm:
    def roll(array: Array) -> Array:
        return np.roll(array, shift, axis=0) if array.shape[0] > 1 else array

    return replace(
        form, decay=roll(form.decay), gates=roll(form.gates), slope=roll(form.slope), variable=roll(form.variable)
    )


def _shifts(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[tuple[str, Array]]:
    """Answers and arguments moved along time, reversed, or cut off."""
    form, space = judge.form, judge.space

    def value(changed: Array) -> Array:
        return evaluate(operator, form, space, changed)

    if truth.ndim == 3:
        for shift in (1, -1):
            yield "time shifted by one: the answer", _shifted(truth, shift)
        yield "time reversed: the answer", truth[:, ::-1]
        for step, word in ((0, "first"), (-1, "last")):
            cut = truth.copy()
            cut[:, step] = 0.0
            yield f"step missing: the {word} of the answer is zero", cut
    if tensor.ndim == 3:
        for shift in (1, -1):
            yield "time shifted by one: the argument", value(_shifted(tensor, shift))
        yield "time reversed: the argument", value(np.ascontiguousarray(tensor[:, ::-1]))
        for step, word in ((0, "first"), (-1, "last")):
            cut = tensor.copy()
            cut[:, step] = 0.0
            yield f"step missing: the {word} of the argument is not seen", value(cut)
        mixed = np.broadcast_to(tensor.mean(axis=0, keepdims=True), tensor.shape)
        yield "trials mixed: trials are averaged", value(np.ascontiguousarray(mixed))
        yield "trials mixed: trials are moved by one", value(np.roll(tensor, 1, axis=0))


def _shifted(tensor: Array, shift: int) -> Array:
    moved = np.roll(tensor, shift, axis=1)
    moved[:, 0 if shift > 0 else -1] = 0.0
    return moved


def _layouts(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[tuple[str, Array]]:
    """Parameter vectors in another order."""
    if operator not in ("J", "J_T", "gradient"):
        return
    orders: list[tuple[str, Array]] = []
    layout = judge.form.layout
    shapes = [site.shape(layout.n_states, layout.n_inputs) for site in layout.sites]
    positions = np.split(np.arange(layout.size), np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    fortran = [p.reshape(s).ravel(order="F") for p, s in zip(positions, shapes, strict=True)]
    orders.append(("parameter order: matrices in Fortran order", np.concatenate(fortran)))
    for i in range(len(positions)):
        for j in range(i):
            swapped = list(positions)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            names = f"{layout.sites[j].name} and {layout.sites[i].name}"
            orders.append((f"parameter order: {names} exchanged", np.concatenate(swapped)))
    for i, (site, block, shape) in enumerate(zip(layout.sites, positions, shapes, strict=True)):
        if len(site.gates) > 1:
            rows = block.reshape(len(site.gates), -1)
            for order in permutations(range(len(site.gates))):
                if order != tuple(range(len(site.gates))):
                    changed = list(positions)
                    changed[i] = rows[list(order)].ravel()
                    orders.append((f"gate order: blocks of {site.name} in the order {order}", np.concatenate(changed)))
    for label, permutation in orders:
        if operator == "J":
            yield label, evaluate("J", judge.form, judge.space, tensor[permutation])
        else:
            yield label, truth[permutation]


def _compositions(judge: Judge, operator: str, tensor: Array) -> Iterator[tuple[str, Array]]:
    """One operator in place of another."""
    form, space = judge.form, judge.space
    weighed = space.weigh(tensor) if tensor.ndim == 3 else tensor

    def k(q: Array) -> Array:
        return evaluate("K", form, _Unweighted(), q)

    calls: dict[str, list[tuple[str, Callable[[], Array]]]] = {
        "P": [("transpose: P^T in place of P", lambda: evaluate("P_T", form, space, tensor))],
        "P_T": [("transpose missing: P in place of P^T", lambda: evaluate("P", form, space, tensor))],
        "P_inverse": [("inverse missing: P in place of its inverse", lambda: evaluate("P", form, space, tensor))],
        "NTK": [
            ("composition: K alone", lambda: k(weighed)),
            ("composition: P K without P*", lambda: evaluate("P", form, space, k(weighed))),
            ("composition: K P* without P", lambda: k(evaluate("P_T", form, space, weighed))),
            (
                "composition: P K P for P K P*",
                lambda: evaluate("P", form, space, k(evaluate("P", form, space, weighed))),
            ),
        ],
        "gradient": [("composition: P* left out", lambda: evaluate("J_T", form, space, weighed))],
    }
    for label, call in calls.get(operator, []):
        yield label, call()
