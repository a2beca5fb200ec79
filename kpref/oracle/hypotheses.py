"""Which defect is it? Hypothetical defects are built into the reference, and the one that explains the answer is named.

A hypothesis explains a claimed product if what it leaves of the error is what rounding explains: the errors, divided
entry by entry by their standard deviations, have a root mean square of a few. Of P and P^T the residuals are taken, so
that nothing is amplified. Where several explain, a defect with a name goes before a factor fitted to the answer, and
that before a mere description of the place; where none does, the best one that leaves a small part of the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from kpref import kernels
from kpref._types import Array
from kpref.oracle import feedback_weights
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.data_defects import data_defects, in_sweeps, share
from kpref.oracle.defects import defects
from kpref.oracle.evaluation import SWEPT, UNDONE, evaluate
from kpref.oracle.form_defects import Defect, direct_channels, driven_variables, gate_groups, without
from kpref.step_form import StepForm

__all__ = ["explain", "pattern"]

#: Root mean square, in deviations, of errors that rounding explains; and what a sweep's may be.
_EXPLAINED, _EXPLAINED_SWEPT = 3.0, 10.0

#: A hypothesis that leaves so many times as much as another is not preferred for having a name.
_MUCH_MORE = 3.0

#: Part of the error that a hypothesis may leave where none explains all of it.
_LEFT = 0.05


def explain(judge: Judge, operator: str, tensor: Array, answer: Array, comparison: Comparison, bound: float) -> str:
    """Name the defect that explains an answer that rounding does not.

    `tensor`, `answer`: what the backend was given and what it returned. `comparison`: of the answer with the reference.
    `bound`: deviations beyond which an entry is wrong.
    Returns class and description; empty if nothing explains it. Of points that do not exist nothing counts.
    """
    answer = _existing(judge, answer)
    scale = _Scale(judge, operator, comparison)
    limit = _EXPLAINED_SWEPT if operator in SWEPT else _EXPLAINED
    best, label = np.inf, ""
    inside = scale.rms(comparison.error, judge.form, edges=True, local=True)
    truth = _existing(judge, evaluate(operator, judge.form, judge.space, tensor))
    for defect in _all(judge, operator, tensor, truth):
        if defect.edges and inside <= limit:
            continue
        form = defect.form or judge.form
        value = _existing(judge, defect.value() if defect.value else evaluate(operator, form, judge.space, tensor))
        growth = np.linalg.norm(value) / max(float(np.linalg.norm(truth)), 1e-300) if defect.value else 1.0
        # An answer that is too large carries rounding errors that are too large.
        size = scale.rms(answer - value, form, defect.edges) / max(1.0, float(growth))
        if size < 0.999 * best:  # the first of equals
            best, label = size, defect.label
    found = scale.rms(comparison.error, judge.form, local=True)
    explained = min(limit, 0.5 * found)
    fits = (
        (best, label),
        _term(judge, operator, tensor, answer, scale),
        share(judge, operator, tensor, comparison.error, scale.deviation),
    )
    left = min(size for size, _ in fits)
    if left <= explained:  # the first of those that leave about as little
        return next(words for size, words in fits if size <= min(explained, _MUCH_MORE * left))
    others = feedback_weights.of_residuals(judge, operator, answer, comparison.error, comparison.spread.deviation)
    if others:
        return others
    fitted = pattern(comparison.ratio(), bound, answer) or _pattern_of_answer(judge, operator, tensor, answer)
    return fitted or (label if best <= _LEFT * found else "")


def _existing(judge: Judge, array: Array) -> Array:
    """With zeros behind the ends of trials, where there are any."""
    return judge.space.clear(array) if array.ndim > 2 else array


def _all(judge: Judge, operator: str, tensor: Array, truth: Array) -> Iterator[Defect]:
    """Hypothetical defects, of products with sweeps those of the sweeps alone as well."""
    for defect in chain(defects(judge, operator, tensor, truth), data_defects(judge, operator, tensor, truth)):
        yield defect
        form = defect.form
        if form is not None and operator in ("gradient", "NTK"):

            def value(form: StepForm = form) -> Array:
                return in_sweeps(judge, operator, form, tensor)

            yield replace(defect, label=f"{defect.label}, in the sweep", form=None, value=value)


@dataclass(frozen=True, eq=False)
class _Scale:
    """Measures errors in deviations."""

    judge: Judge
    operator: str
    comparison: Comparison

    @property
    def deviation(self) -> Array:
        """Deviations, none much below the others: of a wrong answer the right deviation is not known so well."""
        own = self.comparison.spread.deviation
        return np.maximum(own, 1e-2 * float(np.sqrt(np.mean(np.square(own)))))

    def rms(self, error: Array, form: StepForm, edges: bool = False, local: bool = False) -> float:
        """Root mean square of an error in an answer, of P and P^T of the residual that it leaves.

        `form` is the linearisation under which it is one; `edges` leaves out the first and last step; `local` says
        that the error is a residual already.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if not local and self.operator in UNDONE:
                error = _existing(self.judge, UNDONE[self.operator](form, np.ascontiguousarray(error)[None])[0])
            ratio = error / self.deviation
            if edges and ratio.ndim == 3 and ratio.shape[1] > 2:
                ratio = ratio[:, 1:-1]
            size = float(np.sqrt(np.mean(np.square(ratio))))
        return size if np.isfinite(size) else np.inf


# Factors fitted to the answer


def _term(judge: Judge, operator: str, tensor: Array, answer: Array, scale: _Scale) -> tuple[float, str]:
    """The one term of the product that, times a fitted factor, leaves least of the error, and what it leaves."""
    error = scale.comparison.error / scale.deviation
    best, found = np.inf, ""
    for name, term in _terms(judge, operator, tensor, answer):
        term = _existing(judge, term) / scale.deviation
        energy = float(np.vdot(term, term))
        if not 0 < energy < np.inf:
            continue
        change = float(np.vdot(term, error)) / energy
        left = float(np.sqrt(np.mean(np.square(error - change * term))))
        if left < 0.999 * best:
            best, found = left, f"{name} times {1 + change:.7g}"
    return best, found


def _terms(judge: Judge, operator: str, tensor: Array, answer: Array) -> Iterator[tuple[str, Array]]:
    """Terms of the error that a factor of one part of the product would cause, less one."""
    form = judge.form
    truth = evaluate(operator, form, judge.space, tensor)
    inverse = operator.startswith("P_inverse")
    own = -1.0 if inverse else 1.0  # its error has the answer on the right
    if operator not in ("P", "P_T"):
        yield "factor: the right answer", judge.residual(operator, truth)
    gates = [(f"gate: {name}", name) for group in gate_groups(form) for name in group]
    if operator in ("P", "P_T") or inverse:
        undo = kernels.inverse_transpose if operator in ("P_T", "P_inverse_T") else kernels.inverse
        given = tensor if inverse else answer
        whole = undo(form, given[None])[0]
        for words, name in [*gates, *((f"decay: {name}", name) for name in direct_channels(form))]:
            yield words, undo(without(form, name), given[None])[0] - whole
        yield "recurrence: the product with the Jacobian", given - whole
        yield "factor: what it is applied to" if inverse else "factor: the right answer", own * tensor
    elif operator in ("J", "J_T"):
        for words, name in gates:
            yield words, truth - evaluate(operator, without(form, name), judge.space, tensor)
    start, driven = 0, driven_variables(form)
    together: dict[str, Array] = {}
    for name, shape in form.shapes.items() if operator in ("J", "J_T", "gradient") else ():
        part = slice(start, start := start + math.prod(shape))
        alone = np.zeros_like(tensor if operator == "J" else truth)
        alone[part] = (tensor if operator == "J" else truth)[part]
        weights = {entry.weight for entry in form.entries if entry.parameter == name}
        into = {op.variable for op in form.program.operations if op.name in weights}
        kind = "bias" if len(shape) < 2 else "inputs" if into <= set(driven) else "recurrence"
        together.setdefault(kind, np.zeros_like(alone))[part] += alone[part]
        yield f"{kind}: {name}", evaluate("J", form, judge.space, alone) if operator == "J" else alone
    for kind, alone in together.items():
        yield f"{kind}: all such parameters", evaluate("J", form, judge.space, alone) if operator == "J" else alone


# Places


def _pattern_of_answer(judge: Judge, operator: str, tensor: Array, answer: Array) -> str:
    """As `pattern`, of the answer itself where the certificate looks at a residual, which spreads to neighbours."""
    if operator not in UNDONE:
        return ""
    gap = np.abs(answer - _existing(judge, evaluate(operator, judge.form, judge.space, tensor)))
    return pattern(gap, 0.05 * float(gap.max()))


def pattern(size: Array, bound: float, answer: Array | None = None) -> str:
    """What the wrong entries of a tensor (B, T, H), or of the parameters, have in common.

    `size`: size of the errors. `bound`: above it an entry is wrong; where all others are right, they are well below it.
    `answer`: what they are errors of. Where nothing comes of anything, as of parameters in states that they do not
    reach, there is nothing that could be wrong.
    """
    bad, there = size > 0.3 * bound, np.ones(size.shape, dtype=bool)
    if answer is not None and answer.shape == size.shape:
        there = (answer != 0) | (size != 0)
    where = np.argwhere(bad)
    if len(where) == 1:
        return "one entry: all others are right"
    if bad.ndim < 3 or not len(where):
        return ""
    steps, counts = np.unique(where[:, 1], return_counts=True)
    if len(steps) == 2 and np.ptp(steps) == 1 and counts.min() == 1 and np.ptp(where[:, 0]) == 0:
        return "one entry: all others follow from it"
    for axis, word in enumerate(("trial", "step", "unit")):
        values, among = (np.unique(np.nonzero(entries)[axis]) for entries in (bad, there))
        if len(among) > 1 and len(values) == 1:
            return f"one {word}: only {word} {values[0]} is wrong"
        run = len(values) > 1 and len(values) <= len(among) // 2
        if run and np.array_equal(values, among[-len(values) :]):
            return f"last block: only the last {len(values)} {word}s are wrong"
        if run and np.array_equal(values, among[: len(values)]):
            return f"first block: only the first {len(values)} {word}s are wrong"
    return ""
