"""Were other weights used altogether? The matrix that explains an answer, found by least squares.

Feedback alignment sends errors back through fixed random matrices in place of the transposed weights. No hypothesis can
have these numbers, but what a step makes of a state is linear in each weight: the residuals of P and P^T are, of states
that are known, and so is the gradient of errors at the second step alone, which go back once. Two products in a row
are one matrix. A fit explains an answer if it leaves what rounding does, of more equations than it has unknowns; and it
speaks of other weights only if all rows and columns are others, by as much as they are large: where one row is missing,
or all are rounded, that has better names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.oracle.certificates import Judge
from kpref.oracle.evaluation import UNDONE
from kpref.step_form import StepForm

__all__ = ["of_residuals", "of_second_steps", "second_steps"]

#: Unknowns, at most, and how many times as many equations there must be.
_UNKNOWNS, _EQUATIONS = 600, 1.25
#: Coefficients of all equations together, at most: 128 MiB.
_COEFFICIENTS = 1 << 24
#: Of each row and column the change over the root mean square of the weights, at least.
_CHANGED = 0.3
#: Part of the error that a fit may leave, and deviations; and the part that solving the equations in float64 may.
_LEFT, _EXPLAINED, _SOLVED = 0.5, 3.0, 1e-10
#: Questions about gradients, at most.
_QUESTIONS = 12


def of_residuals(judge: Judge, operator: str, answer: Array, error: Array, deviation: Array) -> str:
    """Other weights that explain the residual of an answer of P or P^T, in words; empty if there are none."""
    if operator not in ("P", "P_T"):
        return ""
    given = np.ascontiguousarray(answer)[None]

    def image(form: StepForm) -> Array:
        return np.asarray(judge.space.clear(UNDONE[operator](form, given)[0]))

    return _explained(judge.form, lambda forms: -image(forms), error, deviation)


def second_steps(judge: Judge, tensor: Array) -> Array:
    """Arguments of the gradient that are nothing but at the second step: as many as tell the weights."""
    shape = tensor.shape
    largest = max((judge.form.weights[name].size for names in _groups(judge.form) for name in names), default=0)
    count = int(np.ceil(2 * _EQUATIONS * largest / (shape[0] * shape[2])))
    arguments = np.zeros((min(count, _QUESTIONS) if shape[1] > 1 else 0, *shape))
    size = float(np.sqrt(np.mean(np.square(tensor))))
    arguments[:, :, 1:2] = size * np.random.default_rng(2).standard_normal((len(arguments), shape[0], 1, shape[2]))
    return arguments


def of_second_steps(judge: Judge, arguments: Array, error: Array, deviation: Array) -> str:
    """Other weights that explain the errors (k, M) of gradients of `second_steps`; empty if there are none."""

    def image(form: StepForm) -> Array:
        costates = kernels.adjoint(form, judge.space.weigh(arguments))
        return kernels.parameter_transpose(judge.form, costates)

    return _explained(judge.form, image, error, deviation)


def _groups(form: StepForm) -> Iterator[tuple[str, ...]]:
    """Weights that states go through, and pairs of them that make one matrix: the second, then the first."""
    products = [op for op in form.program.operations if op.kind == "product" and op.source is not None]
    yield from ((op.name,) for op in products)
    for first in products:
        writers = [op for op in form.program.operations if op.out.register == first.out.register]
        for second in products:
            if second.source == first.out and len(writers) == 1:
                yield second.name, first.name


def _explained(form: StepForm, image: Callable[[StepForm], Array], error: Array, deviation: Array) -> str:
    """The weights that explain an error, which are those of a linear image, in words."""
    # Of a wrong answer the right deviation is not known so well: none is much below the others.
    scale = np.maximum(deviation, 1e-2 * float(np.sqrt(np.mean(np.square(deviation)))))
    for names in _groups(form) if np.isfinite(scale).all() and scale.all() else ():
        shape = form.weights[names[0]].shape[0], form.weights[names[-1]].shape[1]
        if np.prod(shape) > min(_UNKNOWNS, error.size / _EQUATIONS, _COEFFICIENTS / error.size):
            continue
        zero = image(_with_entry(form, names, shape, None))
        entries = np.ndindex(*shape)
        columns = [((image(_with_entry(form, names, shape, entry)) - zero) / scale).ravel() for entry in entries]
        change = _fitted(np.stack(columns, axis=1), (error / scale).ravel())
        if change is not None and _all_others(change.reshape(shape), form, names):
            return f"other weights: in place of {', '.join(names)}, as of feedback alignment"
    return ""


def _fitted(columns: Array, target: Array) -> Array | None:
    """The coefficients of columns that explain a target; None if none do, or too many would."""
    if not np.isfinite(columns).all():
        return None
    change, _, rank, _ = np.linalg.lstsq(columns, target, rcond=None)
    equations = int(columns.any(axis=1).sum())
    if rank < columns.shape[1] or equations < _EQUATIONS * rank:
        return None
    left = np.sqrt(np.sum(np.square(target - columns @ change)) / (equations - rank))
    found = np.sqrt(np.mean(np.square(target)))
    return np.asarray(change) if left <= min(max(_EXPLAINED, _SOLVED * found), _LEFT * found) else None


def _with_entry(
    form: StepForm, names: tuple[str, ...], shape: tuple[int, ...], entry: tuple[int, ...] | None
) -> StepForm:
    """The linearisation whose weight, or product of two, is zero but for one entry, which is one."""
    changed = {name: np.zeros(form.weights[name].shape) for name in names}
    if entry is not None and len(names) == 1:
        changed[names[0]][entry] = 1.0
    elif entry is not None:
        changed[names[0]][entry[0], 0] = changed[names[1]][0, entry[1]] = 1.0
    return form.changed(weights=changed)


def _all_others(change: Array, form: StepForm, names: tuple[str, ...]) -> bool:
    """Whether each row and each column is another."""
    right = form.weights[names[0]] if len(names) == 1 else form.weights[names[0]] @ form.weights[names[1]]
    usual = float(np.sqrt(np.mean(np.square(right))))
    sizes = (np.sqrt(np.mean(np.square(change), axis=axis)).min() for axis in (0, 1))
    return min(sizes) > _CHANGED * usual
