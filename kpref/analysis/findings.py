"""The most important results of a study in a few sentences, made from its numbers."""

from __future__ import annotations

import math

import numpy as np

from kpref._types import Array
from kpref.analysis.numbers import Analysis
from kpref.analysis.step_test import PREDICTED_STEP
from kpref.analysis.study import Study
from kpref.analysis.symptoms import rising_loss, symptoms
from kpref.analysis.wording import LEVEL, number, percent, with_error, with_interval
from kpref.spectra import Lyapunov
from kpref.spectra.lyapunov import TooShort

__all__ = ["findings"]

#: Exponents below this are rounding, where trials agree on all of their digits.
_ROUNDED = 1e-12


def findings(study: Study) -> list[str]:
    """Sentences on a study, the most important first: three to six, and what is wrong with a network before them."""
    first, last = study.analyses[0], study.analyses[-1]
    sentences = [
        *rising_loss(study.analyses),
        *(symptom for analysis in study.analyses for symptom in symptoms(analysis)),
        _performance(first, last), _concentration(last, first), _dimensions(study), _prediction(study),
        _turning(study), _steps_of_method(study),
    ]  # fmt: skip
    return [sentence for sentence in sentences if sentence] + [_trust(study)]


def _performance(first: Analysis, last: Analysis) -> str:
    if last.loss is None:
        return ""
    if first is last or first.loss is None:
        accuracy = "" if last.accuracy is None else f", the accuracy {percent(last.accuracy, 1)}"
        return f"The loss of {last.name} is {number(last.loss)}{accuracy}."
    text = f"From {first.name} to {last.name} the loss went from {number(first.loss)} to {number(last.loss)}"
    if first.accuracy is not None and last.accuracy is not None:
        text += f", and the accuracy from {percent(first.accuracy, 1)} to {percent(last.accuracy, 1)}"
    return text + "."


def _concentration(last: Analysis, first: Analysis) -> str:
    share = _share(last)
    if math.isnan(share):
        return f"The NTK of {last.name} is zero: no small change of its parameters moves a state."
    several = len(last.ntk_modes.values)
    hold, carry = f"{several} modes of the NTK hold", "they carry"
    if several == 1:
        hold, carry = "mode of the NTK holds", "it carries"
    text = f"In {last.name} the first {hold} {percent(share)} of its trace"
    if first is not last and not math.isnan(_share(first)):
        text += f" ({percent(_share(first))} in {first.name})"
    if last.shares is not None and np.isfinite([last.shares.rate, last.shares.error]).all():
        rate, error = last.shares.rate.sum(), last.shares.error.sum()
        text += (
            f"; {carry} {percent(rate)} of the speed at which gradient descent lowers the loss, and "
            f"{percent(error, 1)} of the error itself"
        )
    return text + "."


def _share(analysis: Analysis) -> float:
    """What the leading modes hold of the trace of the NTK; NaN if that is zero."""
    trace = analysis.dimensions.ntk_trace.value
    return float(analysis.ntk_modes.values.sum()) / trace if trace > 0 else math.nan


def _dimensions(study: Study) -> str:
    last = study.analyses[-1]
    ends = [study.analyses[0], last] if len(study.analyses) > 1 else [last]
    known = [(a.name, a.dimensions.ntk) for a in ends if a.dimensions.ntk.value > 0]
    sizes = " and ".join(f"{with_interval(ntk.value, *ntk.interval(LEVEL))} in {name}" for name, ntk in known)
    inexact = "" if all(ntk.exact for _, ntk in known) else f" (in brackets: {percent(LEVEL)} intervals)"
    parts = [f"The effective dimension of the NTK is {sizes}{inexact}", _growth(last, study.integration is None)]
    text = "; ".join(part for part in (parts if known else parts[1:]) if part)
    return f"{text}." if text else ""


def _growth(last: Analysis, discrete: bool) -> str:
    exponents = last.stability.exponents
    largest, error = float(exponents.mean[0]), float(exponents.trial_error[0])
    if largest == -math.inf:
        return f"{last.name} forgets at once: some step of a trial keeps nothing of the state before it"
    if not math.isfinite(largest):
        return ""
    if abs(largest) <= _ROUNDED:
        largest = 0.0
    per, several = ("step", "steps") if discrete else ("unit of time", "units of time")
    value = f"{with_error(largest, error)} nats per {per}"
    text = f"{last.name} has a largest finite-time Lyapunov exponent of {value}"
    if abs(largest) <= 2 * error or largest == 0:
        return f"{text}, not to be told from zero, at which small differences are kept"
    fate = "grow" if largest > 0 else "fade"
    text += f": small differences {fate} by a factor e in {number(1 / abs(largest), 2)} {several}"
    return text + _in_the_long_run(exponents)


def _in_the_long_run(exponents: Lyapunov) -> str:
    try:
        low, high = exponents.estimates[0].interval()
    except TooShort:
        return "; the trials are too short and too few to tell it for longer ones"
    return f"; the exponent in the limit of long trials lies between {number(low, 2)} and {number(high, 2)} (95 %)"


def _prediction(study: Study) -> str:
    steps = [(a.name, a.step) for a in study.analyses if a.step is not None]
    if not steps:
        return ""
    tests = [(a.name, check) for a in study.analyses for check in a.check.checks if check.name == PREDICTED_STEP]
    wrong = [f"{name}: {check.verdict}" for name, check in tests if not check.passed]
    if wrong:
        return f"The predicted change of the states, −η NTK Err, is NOT what really happens ({'; '.join(wrong)})."
    measured = [name for name, check in tests if not check.idle]
    slopes = [step.slope for name, step in steps if name in measured and step.slope is not None]
    limits = []
    for name, step in steps:
        good = step.etas[step.relative_error <= 0.1]
        if good.size:
            bound = "" if step.relative_error[0] > 0.1 else "at least "
            limits.append(f"{bound}η = {number(good[0], 2)} in {name}")
    text = "The predicted change of the states, −η NTK Err, is what the network really does after a small step"
    if slopes:
        low, high = f"{min(slopes):.3f}", f"{max(slopes):.3f}"
        text += f": the difference falls as η to the power {low if low == high else f'{low} to {high}'} (theory: 2)"
        crossed = max(step.fit.crossed for name, step in steps if name in measured)
        if crossed:
            text += f", over the steps that cross no kink of relu (of the {crossed} that do no power is claimed)"
    if limits:
        text += f", and it stays below 10 % of the change up to {' and '.join(limits)}"
    unmeasured = [f"in {name} {check.verdict}" for name, check in tests if check.idle]
    return text + (f"; {'; '.join(unmeasured)}." if unmeasured else ".")


def _turning(study: Study) -> str:
    if not study.comparisons:
        return ""
    comparison = study.comparisons[-1]
    by_name = {analysis.name: analysis for analysis in study.analyses}
    before, after = by_name[comparison.before], by_name[comparison.after]
    grew = "multiplied the largest eigenvalue of the NTK by " + _ratio(after.ntk_modes.values, before.ntk_modes.values)
    grew += f" and that of P P* by {_ratio(after.propagator_modes.values, before.propagator_modes.values)}"
    dimensions = (
        f"the effective dimension of K went from {number(before.dimensions.kernel.value)} to "
        f"{number(after.dimensions.kernel.value)}"
    )
    text = f"From {before.name} to {after.name} training {grew}; {dimensions}"
    if not (before.ntk_modes.values[0] > 0 and after.ntk_modes.values[0] > 0):
        return text + "."
    degrees = np.degrees(comparison.angles)
    return (
        f"{text}, and the spaces of the leading NTK modes share {percent(comparison.overlap)} "
        f"(angles of {degrees[0]:.0f}° to {degrees[-1]:.0f}°)."
    )


def _ratio(after: Array, before: Array) -> str:
    """Of two largest eigenvalues."""
    return (
        number(float(after[0] / before[0])) if before[0] > 0 else f"no factor, being {number(float(before[0]))} before"
    )


def _steps_of_method(study: Study) -> str:
    """How good the steps of a continuous-time method are."""
    found = [(a.name, a.check.step_size) for a in study.analyses]
    words = [f"{name}: {step.in_words()}" for name, step in found if step is not None and step.stable]
    return f"{'; '.join(words)}." if words else ""


def _trust(study: Study) -> str:
    checks = [check for analysis in study.analyses for check in analysis.check.checks]
    failed = [check for check in checks if not check.passed]
    if failed:
        words = "; ".join(f"{check.name}: {check.verdict}" if check.verdict else check.name for check in failed)
        return f"{len(failed)} of {len(checks)} self-checks FAILED ({words}): do not rely on this report."
    idle = [check.name for check in checks if check.idle]
    if idle:
        return (
            f"{len(checks) - len(idle)} of {len(checks)} self-checks of the operators passed, at this network and "
            f"these trials; {'the other' if len(idle) == 1 else 'the others'} had nothing to test "
            f"({', '.join(dict.fromkeys(idle))})."
        )
    return f"All {len(checks)} self-checks of the operators passed, at this network and these trials."
