"""The most important results of a study in a few sentences, made from its numbers."""

from __future__ import annotations

import math

import numpy as np

from kpref.analysis.comparison import Study
from kpref.analysis.numbers import Analysis
from kpref.analysis.wording import number, with_error

__all__ = ["findings"]


def findings(study: Study) -> list[str]:
    """Three to six sentences on a study, the most important first.

    Parameters
    ----------
    study : Study

    Returns
    -------
    list of str
    """
    first, last = study.analyses[0], study.analyses[-1]
    sentences = [
        _performance(first, last), _concentration(last, first), _dimensions(study), _prediction(study), _turning(study)
    ]  # fmt: skip
    return [sentence for sentence in sentences if sentence] + [_trust(study)]


def _performance(first: Analysis, last: Analysis) -> str:
    if last.loss is None:
        return ""
    if first is last or first.loss is None:
        accuracy = "" if last.accuracy is None else f", the accuracy {last.accuracy:.1%}"
        return f"The loss of {last.name} is {number(last.loss)}{accuracy}."
    text = f"From {first.name} to {last.name} the loss went from {number(first.loss)} to {number(last.loss)}"
    if first.accuracy is not None and last.accuracy is not None:
        text += f", and the accuracy from {first.accuracy:.1%} to {last.accuracy:.1%}"
    return text + "."


def _concentration(last: Analysis, first: Analysis) -> str:
    values, share = last.ntk_modes.values, last.ntk_modes.values.sum() / (last.dimensions.ntk_trace.value or 1.0)
    text = f"In {last.name} the first {len(values)} modes of the NTK hold {share:.0%} of its trace"
    if first is not last:
        earlier = first.ntk_modes.values.sum() / (first.dimensions.ntk_trace.value or 1.0)
        text += f" ({earlier:.0%} in {first.name})"
    if last.shares is not None:
        rate, error = last.shares.rate.sum(), last.shares.error.sum()
        text += (
            f"; they carry {rate:.0%} of the speed at which gradient descent lowers the loss, and {error:.1%} of the "
            f"error itself"
        )
    return text + "."


def _dimensions(study: Study) -> str:
    last = study.analyses[-1]
    ends = [study.analyses[0], last] if len(study.analyses) > 1 else [last]
    known = [(a.name, a.dimensions.ntk) for a in ends]
    sizes = " and ".join(f"{with_error(ntk.value, ntk.standard_error)} in {name}" for name, ntk in known)
    text = f"The effective dimension of the NTK is {sizes}"
    exponents = last.stability.exponents
    largest, error = float(exponents.mean[0]), float(exponents.standard_error[0])
    if not math.isfinite(largest):
        return text + "."
    per, several = ("step", "steps") if study.integration is None else ("unit of time", "units of time")
    value = f"{with_error(largest, error)} nats per {per}"
    text += f"; the largest finite-time Lyapunov exponent of {last.name} is {value}"
    if abs(largest) <= 2 * error or largest == 0:
        return text + ", not to be told from zero, at which small differences are kept."
    fate = "grow" if largest > 0 else "fade"
    return text + f": small differences {fate} by a factor e in {number(1 / abs(largest), 2)} {several}."


def _prediction(study: Study) -> str:
    steps = [(a.name, a.step) for a in study.analyses if a.step is not None]
    if not steps:
        return ""
    slopes = [step.slope for _, step in steps if step.slope is not None]
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
    return text + (f", and it stays below 10 % of the change up to {' and '.join(limits)}." if limits else ".")


def _turning(study: Study) -> str:
    if not study.comparisons:
        return ""
    comparison = study.comparisons[-1]
    by_name = {analysis.name: analysis for analysis in study.analyses}
    before, after = by_name[comparison.before], by_name[comparison.after]
    ratio = after.ntk_modes.values[0] / (before.ntk_modes.values[0] or math.nan)
    gain = after.propagator_modes.values[0] / (before.propagator_modes.values[0] or math.nan)
    grew = f"multiplied the largest eigenvalue of the NTK by {number(ratio)} and that of P P* by {number(gain)}"
    dimensions = (
        f"the effective dimension of K went from {number(before.kernel.effective_dimension)} to "
        f"{number(after.kernel.effective_dimension)}"
    )
    degrees = np.degrees(comparison.angles)
    return (
        f"From {before.name} to {after.name} training {grew}; {dimensions}, and the spaces of the leading NTK modes "
        f"share {comparison.overlap:.0%} (angles of {degrees[0]:.0f}° to {degrees[-1]:.0f}°)."
    )


def _trust(study: Study) -> str:
    checks = [check for analysis in study.analyses for check in analysis.check.checks]
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return f"{len(failed)} of {len(checks)} self-checks FAILED ({', '.join(failed)}): do not rely on this report."
    return f"All {len(checks)} self-checks of the operators passed, at this network and these trials."
