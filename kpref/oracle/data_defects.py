"""Hypothetical defects of data: other points of linearisation, parts lost or counted twice, and how far answers reach.

As in `kpref.oracle.defects`, which has those of the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.linearize import linearize
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import FACTORS, WEIGHED_AFTER, WEIGHED_BEFORE, evaluate
from kpref.oracle.form_defects import Defect
from kpref.step_form import StepForm

__all__ = ["data_defects", "in_sweeps", "share"]

#: Lengths of blocks in which programs take units, or steps.
_BLOCKS = (16, 32, 64, 128, 256, 512)
#: Steps up to which defects of each are tried one by one, and between which states are detached.
_STEPS, _DETACHED = 128, 16


def data_defects(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """All hypothetical defects of the data, given what the operator was applied to and the right answer."""
    yield from _elsewhere(judge)
    yield from _blocks(judge)
    yield from _reach(judge, operator, tensor)
    yield from _orders(judge, operator, tensor, truth)
    yield from _parameters(judge, operator, tensor)


def in_sweeps(judge: Judge, operator: str, form: StepForm, tensor: Array) -> Array:
    """A gradient, or the NTK, whose sweeps through time alone run over another linearisation."""
    theta = kernels.parameter_transpose(judge.form, kernels.adjoint(form, judge.space.weigh(tensor)[None]))
    if operator == "gradient":
        return np.asarray(theta[0])
    return np.asarray(kernels.tangent(form, kernels.parameter_product(judge.form, theta))[0])


# Linearisations


def _elsewhere(judge: Judge) -> Iterator[Defect]:
    """Linearised at other inputs, other parameters, or rounded ones."""
    parameters, inputs = judge.model.parameters, judge.inputs
    biases = {name: np.zeros_like(value) for name, value in parameters.items() if value.ndim == 1}

    def at(label: str, changed: dict[str, Array], seen: Array = inputs) -> Defect:
        form = linearize(judge.model.with_parameters(changed), judge.starts, seen)
        assert isinstance(form, StepForm)
        return Defect(label, form, edges=label.startswith("time"))

    if biases:
        yield at("bias missing: linearised without biases", biases)
    yield at("inputs missing: linearised without inputs", {}, np.zeros_like(inputs))
    for shift, word in ((1, "before"), (-1, "after")) if len(inputs) > 1 else ():
        yield at(f"time shifted by one: linearised at inputs of the step {word}", {}, np.roll(inputs, shift, axis=0))
    if inputs.shape[1] > 1:
        yield at("trials mixed: linearised at inputs of the neighbouring trial", {}, np.roll(inputs, 1, axis=1))
    for one, other in combinations(parameters, 2):
        if parameters[one].shape == parameters[other].shape:
            exchanged = {one: parameters[other], other: parameters[one]}
            yield at(f"parameter order: linearised with {one} and {other} exchanged", exchanged)
    declared = max(judge.arithmetic.unit, judge.arithmetic.operand)
    for name in ("float32", "tf32", "float16", "bfloat16"):
        if max(ARITHMETICS[name].unit, ARITHMETICS[name].operand) > declared:
            short = {key: ARITHMETICS[name].round_operand(weight) for key, weight in judge.form.weights.items()}
            label = f"precision lower than declared: weights are those of {name}"
            yield Defect(label, judge.form.changed(weights=short))


def _blocks(judge: Judge) -> Iterator[Defect]:
    """Weights of which only the first columns, or rows, are multiplied."""
    for name, weight in judge.form.weights.items():
        for axis, word in enumerate(("rows", "columns")):
            for length in _BLOCKS:
                if length < weight.shape[axis]:
                    cut = np.array(weight)
                    np.moveaxis(cut, axis, 0)[length:] = 0.0
                    label = f"recurrence: {name} beyond {length} {word} left out"
                    yield Defect(label, judge.form.changed(weights={name: cut}))


# Answers


def _reach(judge: Judge, operator: str, tensor: Array) -> Iterator[Defect]:
    """Products that reach only a few steps, or not from one block of steps to the next; sums over points apart."""
    form, steps = judge.form, judge.form.n_steps
    if steps > _STEPS:
        return
    if operator in ("P", "P_T"):
        product, undo, source = (
            (kernels.tangent, kernels.inverse, tensor)
            if operator == "P"
            else (kernels.adjoint, kernels.inverse_transpose, tensor)
        )
        found = source
        for window in range(2, steps):
            found = source + found - undo(form, np.ascontiguousarray(found)[None])[0]
            yield Defect(f"truncated: it reaches {window} steps", value=partial(np.copy, found))
        if operator == "P_T":
            yield from _detached(judge, source, product, np.copy)
    elif operator == "gradient":
        source = judge.space.weigh(tensor)
        yield from _detached(
            judge, source, kernels.adjoint, lambda costate: kernels.parameter_transpose(form, costate[None])[0]
        )
    elif operator == "K":
        yield Defect("composition: each step has parameters of its own", value=lambda: _steps_apart(judge, tensor))


def _detached(
    judge: Judge, source: Array, product: Callable[..., Array], finish: Callable[[Array], Array]
) -> Iterator[Defect]:
    """Costates that do not pass from one block of steps to the one before."""
    for length in range(2, min(judge.form.n_steps, _DETACHED + 1)):

        def value(length: int = length) -> Array:
            costate = np.empty_like(source)
            for start in range(0, source.shape[1], length):
                block = np.s_[:, start : start + length]
                part = np.zeros_like(source)
                part[block] = source[block]
                costate[block] = product(judge.form, part[None])[0][block]
            return finish(costate)

        yield Defect(f"truncated: states are detached every {length} steps", value=value)


def _steps_apart(judge: Judge, q: Array) -> Array:
    """``K q`` with the sum over steps left out."""
    source, answer = judge.space.weigh(q), np.empty_like(q)
    for step in range(q.shape[1]):
        alone = np.zeros_like(source)
        alone[:, step] = source[:, step]
        theta = kernels.parameter_transpose(judge.form, alone[None])
        answer[:, step] = kernels.parameter_product(judge.form, theta)[0, :, step]
    return answer


def _orders(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """Trials and units in another order, and centred over units."""
    if truth.ndim == 3:
        for word, axis in (("trials", 0), ("units", 2)):
            if truth.shape[axis] > 1:
                for shift in (1, -1):
                    moved = partial(np.roll, truth, shift, axis)
                    yield Defect(f"{word} mixed: {word} of the answer are moved by one", value=moved)
                yield Defect(f"{word} mixed: {word} of the answer are reversed", value=partial(np.flip, truth, axis))
        yield Defect("centred: the mean over units is taken off the answer", value=lambda: _centred(truth))
    if tensor.ndim == 3:

        def seen(label: str, changed: Array) -> Defect:
            return Defect(label, value=lambda: evaluate(operator, judge.form, judge.space, changed))

        if tensor.shape[2] > 1:
            for shift in (1, -1):
                yield seen("units mixed: units of the argument are moved by one", np.roll(tensor, shift, 2))
            yield seen("centred: the mean over units is taken off the argument", _centred(tensor))
        if tensor.shape[0] > 1:
            yield seen("trials mixed: trials of the argument are reversed", np.ascontiguousarray(tensor[::-1]))


def _centred(tensor: Array) -> Array:
    return np.asarray(tensor - tensor.mean(axis=2, keepdims=True))


def _parameters(judge: Judge, operator: str, tensor: Array) -> Iterator[Defect]:
    """Products of several operators in which a parameter, or all biases, have no derivative or are counted twice."""
    form, sizes = judge.form, {name: math.prod(shape) for name, shape in judge.form.shapes.items()}
    if operator not in FACTORS or len(sizes) == 1:
        return
    owners = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    biases = [name for name in sizes if name.startswith("bias")]

    def value(entries: Array) -> Array:
        found = judge.space.weigh(tensor) if operator in WEIGHED_BEFORE else tensor
        found = found * entries if found.ndim == 1 else found
        for factor in FACTORS[operator]:
            found = evaluate(factor, form, judge.space, found)
            found = found * entries if factor == "J_T" else found
        return np.asarray(judge.space.weigh(found) if operator in WEIGHED_AFTER else found)

    for names in [*([name] for name in sizes), *([biases] if len(biases) > 1 else [])]:
        own = np.isin(owners, [list(sizes).index(name) for name in names])
        for factor, words in ((0.0, "left out"), (2.0, "counted twice")):
            label = f"{'bias' if set(names) <= set(biases) else 'parameter'}: {', '.join(names)} {words}"
            yield Defect(label, value=partial(value, np.where(own, factor, 1.0)))


# Shares


def share(judge: Judge, operator: str, tensor: Array, error: Array, deviation: Array) -> tuple[float, str]:
    """Trials, or steps, counted so many times that they leave least of the error, and what they leave, in deviations.

    Operators are sums of what each trial, and each step, of their argument gives: of these shares the error is a
    combination, whose coefficients least squares finds. As many as there are equations explain anything, so they must
    be fewer than half as many.
    """
    best, label = np.inf, ""
    if tensor.ndim != 3:
        return best, label
    target = (error / deviation).ravel()
    sign = -1.0 if operator == "P_inverse" else 1.0  # its error has the answer on the right
    for axis, word in enumerate(("trial", "step")):
        count = tensor.shape[axis]
        if not 1 < count <= min(_STEPS, target.size // 2):
            continue
        columns = np.empty((target.size, count))
        for index in range(count):
            part = np.zeros_like(tensor)
            np.moveaxis(part, axis, 0)[index] = np.moveaxis(tensor, axis, 0)[index]
            given = part if operator in ("P", "P_T") else evaluate(operator, judge.form, judge.space, part)
            columns[:, index] = (sign * (judge.space.clear(given) if given.ndim > 2 else given) / deviation).ravel()
        if not np.isfinite(columns).all():
            continue
        found = np.linalg.lstsq(columns, target, rcond=None)[0]
        left = float(np.sqrt(np.mean(np.square(target - columns @ found)) * target.size / (target.size - count)))
        if left < 0.999 * best:
            best, label = left, _words(word, found)
    return best, label


def _words(word: str, shares: Array) -> str:
    """What additional shares of trials or steps mean."""
    size = float(np.abs(shares).max())
    if np.ptp(shares) <= 0.01 * size:  # all of them by the same: that is no defect of any one
        return f"factor: the right answer times {1 + shares.mean():.7g}"
    which = np.flatnonzero(np.abs(shares) > 0.1 * size)
    names = f"{word} {which[0]}" if len(which) == 1 else f"{word}s {', '.join(map(str, which))}"
    if np.allclose(shares[which], -1.0, atol=0.05):
        return f"{word} missing: {names} of the argument not seen"
    if np.allclose(shares[which], 1.0, atol=0.05):
        return f"{word} twice: {names} of the argument counted twice"
    if word == "step" and list(which) == [0, len(shares) - 1] and np.allclose(shares[which], -0.5, atol=0.05):
        return "measure: half the weight at the first and the last step, as of a trapezoid rule"
    return f"measure: {names} weighted otherwise"
