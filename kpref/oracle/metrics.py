"""Checks of the numbers that a backend sums its operators up in: traces, dimensions, reduced views, alignment.

A backend may offer `metrics`: a mapping of the names in `METRICS` to values, or to functions of no arguments that
return them. A value is a number, or a matrix (H, H), or a pair of one and its standard error if it is an estimate.
The metrics are those of the operators of `kpref.oracle.backend`, measure included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kpref._types import Array
from kpref.oracle.arithmetic import Arithmetic
from kpref.oracle.backend import BackendFault
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.reductions import Moments, Reductions, Target
from kpref.oracle.session import APPROXIMATED, LOCAL_BOUND, OutOfRange, Session
from kpref.oracle.verdict import Check, Place, faulty
from kpref.threads import serial_blas

__all__ = ["METRICS", "Metric", "check_metrics"]


class Undefined(Exception):
    """A metric has no value: the operator is zero, and a ratio of its numbers zero over zero."""


@dataclass(frozen=True)
class Metric:
    """What a metric is."""

    meaning: str
    equation: str
    operator: str  # one of "K", "NTK", "P"
    matrix: bool = False  # whether it is a matrix over units, (H, H), and not a number


def _of_gram(operator: str) -> dict[str, Metric]:
    return {
        f"trace_{operator}": Metric(f"trace of {operator}", f"tr {operator}", operator),
        f"frobenius_{operator}": Metric(f"Frobenius norm of {operator}", f"tr({operator}^2)^(1/2)", operator),
        f"effective_dimension_{operator}": Metric(
            f"effective dimension of {operator}", f"tr({operator})^2 / tr({operator}^2)", operator
        ),
        f"partial_trace_{operator}": Metric(
            f"partial trace of {operator} over trials and time, equal indices only",
            f"sum over a of {operator}[k a, k0 a]",
            operator,
            matrix=True,
        ),
        f"average_{operator}": _average(operator),
    }


def _average(operator: str) -> Metric:
    meaning = f"average of {operator} over all pairs of trials and times"
    return Metric(meaning, f"mean over a, a0 of {operator}[k a, k0 a0]", operator, matrix=True)


#: Deviations that a number or an entry of a partial trace may be off. Those of errors that all conspire would be
#: exceeded only where errors of a factor exceed theirs as a whole; of random ones what errs alone counts four times.
_BOUND = 2.0
#: Part of it that errors of a coarser arithmetic reach at least.
_LEAST = 1e-3

#: Units of a wrong entry that it may be off, and still be said to be that.
_STORED = 8.0

#: What a backend may offer, by name.
METRICS: dict[str, Metric] = {
    **_of_gram("K"),
    "average_P": _average("P"),
    **_of_gram("NTK"),
    "alignment_K_NTK": Metric("alignment of K and the NTK", "tr(K* NTK) / (|K| |NTK|)", "NTK"),
}


def check_metrics(session: Session) -> list[Check]:
    """A check of each metric, at the session's point of linearisation."""
    blanks = {name: _blank(name) for name in METRICS}
    try:
        offered = session.backend.metric_names()
    except BackendFault as fault:
        return [faulty(_blank("list"), fault), *blanks.values()]
    reductions = Reductions(session.judge, session.generator)
    checks = [_check(name, session, reductions) if name in offered else blank for name, blank in blanks.items()]
    for name in offered:
        if name not in METRICS:
            message = f"there is no metric of this name; those that can be checked are {', '.join(METRICS)}"
            checks.append(replace(_blank(name), verdict="could not run", message=message))
    return checks


def _blank(name: str) -> Check:
    metric = METRICS.get(name)
    meaning, equation = ("the list of metrics", "") if metric is None else (metric.meaning, metric.equation)
    return Check(f"metrics.{name}", "metrics", meaning, equation, "not offered")


def _check(name: str, session: Session, reductions: Reductions) -> Check:
    blank = _blank(name)
    units = session.backend.shape[2]
    try:
        session.require_range()
        right = _target(name, reductions, session.arithmetic)
        claimed, standard_error = session.backend.metric(name, (units, units) if METRICS[name].matrix else ())
    except BackendFault as fault:
        return faulty(blank, fault)
    except Undefined as reason:
        return replace(blank, message=str(reason))
    except OutOfRange as reason:
        return replace(blank, verdict="could not run", message=str(reason))
    bound = _bound_of(right, session.arithmetic)
    ratio = np.atleast_1d(right.compare(claimed, standard_error).ratio())
    largest = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    check = replace(blank, verdict="pass", figure=float(ratio[largest]), bound=bound)
    if ratio[largest] <= bound:
        return check

    guess = _explain(name, reductions, right, claimed, standard_error, bound)
    if guess is None and reductions.exact:  # other probes would explain as much

        def again() -> Comparison:
            other = Reductions(session.judge, session.generator)
            return _target(name, other, session.arithmetic).compare(claimed, standard_error)

        guess = session.precision(again, bound, _LEAST)
    guess = guess or _factor(right, claimed, standard_error, bound)
    if not METRICS[name].matrix:
        return replace(check, verdict="defect", guess=guess, message=f"{claimed:.7g}, where {right.value:.7g} is right")
    first = int(np.argmax((ratio > bound).any(axis=1)))
    places = Place(float(ratio[first].max()), unit=first), Place(float(ratio[largest]), unit=int(largest[0]))
    return replace(check, verdict="defect", guess=guess, first=places[0], largest=places[1])


def _bound_of(right: Target, arithmetic: Arithmetic) -> float:
    """How many deviations a metric may be off: those of products have a bound of their own."""
    if right.probes is not None:
        return LOCAL_BOUND
    return _BOUND * (APPROXIMATED if arithmetic.elementary else 1.0)


def _explain(
    name: str, reductions: Reductions, right: Target, claimed: Array, standard_error: Array, bound: float
) -> str | None:
    """The wrong value that was computed, if it is one of the usual ones."""
    size = float(np.linalg.norm(right.value)) or 1.0
    found = float(np.max(right.compare(claimed, standard_error).ratio()))
    best, label = min(bound, 0.1 * found), None
    for guess, value in _alternatives(name, reductions):
        value = value if right.probes is None else value @ right.probes
        # A value that is too large carries rounding errors that are too large; so do entries where zero is right.
        growth = max(1.0, float(np.linalg.norm(value)) / size)
        deviation = growth * right.deviation
        if right.probes is None and value.ndim:
            deviation = np.maximum(deviation, deviation.T) + _STORED * reductions.judge.arithmetic.unit * np.abs(value)
        other = replace(right, value=value, deviation=deviation)
        ratio = float(np.max(other.compare(claimed, standard_error).ratio()))
        if ratio < 0.999 * best:
            best, label = ratio, guess
    return label


@serial_blas
def _target(name: str, reductions: Reductions, arithmetic: Arithmetic) -> Target:
    """The right value of a metric.

    Raises Undefined if it has none; OutOfRange if it or its square is beyond the range of the arithmetic.
    """
    metric = METRICS[name]
    if name.startswith("average"):
        found = reductions.average(metric.operator)
        # As in the probes of a session: of a narrow range nearly all is needed.
        if not found.size < arithmetic.largest / 64 or not np.isfinite(found.deviation).all():
            raise OutOfRange.of(metric.operator, arithmetic)
        return found
    moments = _moments(reductions, metric.operator)
    used = [moments] if name != "alignment_K_NTK" else [moments, _moments(reductions, "K")]
    for own in used:
        _require_range((own.trace, own.frobenius), arithmetic)
        if name.startswith(("effective", "alignment")) and own.frobenius_error > own.frobenius / 2:
            raise Undefined(f"rounding in {arithmetic.name} may leave nothing of the operator")
    if name.startswith("partial_trace"):
        return reductions.units(metric.operator)
    if name == "alignment_K_NTK":
        return _number(*reductions.alignment())
    if name.startswith("trace"):
        return _number(moments.trace, moments.trace_error)
    if name.startswith("frobenius"):
        return _number(moments.frobenius, moments.frobenius_error)
    dimension = moments.trace**2 / moments.frobenius**2
    return _number(dimension, dimension * moments.dimension_error)


def _factor(right: Target, claimed: Array, standard_error: Array, bound: float) -> str | None:
    """Whether the claimed value is a multiple of the right one."""
    seen = claimed if right.probes is None else claimed @ right.probes
    factor = float(np.vdot(right.value, seen) / (np.vdot(right.value, right.value) or 1.0))
    scaled = replace(right, value=factor * right.value, deviation=max(1.0, abs(factor)) * right.deviation)
    explained = np.max(scaled.compare(claimed, standard_error).ratio()) <= bound
    return f"factor: the right value times {factor:.7g}" if explained else None


def _alternatives(name: str, reductions: Reductions) -> Iterator[tuple[str, Array]]:
    """Wrong values that a metric is often given, with a word on each; the text before the colon is its class."""
    metric, points = METRICS[name], reductions.shape[0] * reductions.shape[1]
    if metric.matrix:
        average = reductions.average_matrix(metric.operator)
        partial = points * np.eye(len(average)) if metric.operator == "P" else reductions.units(metric.operator).value
        right, other = (average, partial) if name.startswith("average") else (partial, average)
        word = "partial trace for average" if name.startswith("average") else "average for partial trace"
        yield f"reduction: {word}", other
        yield "transpose: the transpose of the right matrix", right.T
        yield "reduction: only the diagonal", np.diag(np.diag(right))
        if metric.operator == "NTK":
            yield "composition: of K for the NTK", _of_kernel(name, reductions)
    else:
        values = _numbers(reductions, metric.operator)
        right = np.asarray(_value(name, values))
        for kind, value in values.items():
            if not name.startswith(kind):
                yield f"reduction: {kind.replace('_', ' ')}", np.asarray(value)
        yield "power: the square of the right number", right**2
        yield "power: the square root of the right number", np.sqrt(right)
        yield "power: one over the right number", 1 / right
        if metric.operator == "NTK" and name != "alignment_K_NTK":
            yield "composition: of K for the NTK", np.asarray(_value(name, _numbers(reductions, "K")))
    yield "sign: the negative of the right value", -right
    for factor, word in ((points, "a sum for a mean"), (1 / points, "a mean for a sum")):
        yield f"measure: {word}", right * factor
        yield f"measure: {word}, twice", right * factor**2


def _value(name: str, values: dict[str, float]) -> float:
    return next((value for kind, value in values.items() if name.startswith(kind)))


def _numbers(reductions: Reductions, operator: str) -> dict[str, float]:
    """Everything that a number of an operator may be taken for."""
    own = _moments(reductions, operator)
    numbers = {"trace": own.trace, "frobenius": own.frobenius, "effective_dimension": own.trace**2 / own.frobenius**2}
    if operator == "NTK":
        numbers["alignment"] = value = reductions.alignment()[0]
        numbers["inner product, not normalised"] = value * own.frobenius * reductions.K.frobenius
    return numbers


def _of_kernel(name: str, reductions: Reductions) -> Array:
    return reductions.average_matrix("K") if name.startswith("average") else reductions.units("K").value


def _moments(reductions: Reductions, operator: str) -> Moments:
    return reductions.K if operator == "K" else reductions.NTK


def _number(value: float, deviation: float) -> Target:
    return Target(np.asarray(value), np.asarray(deviation))


def _require_range(sizes: tuple[float, ...], arithmetic: Arithmetic) -> None:
    """Squares that a backend forms on the way must be numbers of the arithmetic."""
    for size in sizes:
        if size == 0:
            raise Undefined("the operator is zero")
        if not arithmetic.smallest / arithmetic.unit < size**2 < arithmetic.largest:
            raise OutOfRange(f"the operator is too large or too small for {arithmetic.name}")
