"""The numbers of a report as plain data, for ``metrics.json`` and ``metrics.csv``, and how far each can be trusted."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np

from kpref._version import __version__
from kpref.analysis.numbers import Analysis
from kpref.analysis.quantities import interval_of, quantities
from kpref.analysis.stability import NORM_TOLERANCE
from kpref.analysis.study import Comparison, Study
from kpref.analysis.wording import LEVEL
from kpref.equilibria import FixedPoints
from kpref.spectra import Lyapunov
from kpref.spectra.lyapunov import TooShort

__all__ = ["HOW", "SCHEMA", "metrics", "metrics_table"]

#: Of the entries of ``metrics.json``: raised where one is renamed, removed or means another thing.
SCHEMA = 1

HOW = {
    "loss": "exact to rounding",
    "kernel": "exact to rounding, all nonzero eigenvalues coming from one dense problem for each unit; where K couples "
    "units, leading eigenvalues are iterated and the rest is estimated, see metrics",
    "eigenvalues": "of the modes, by iteration (Lanczos) or, of K where it has an exact spectrum, by its factors: each "
    "is within residual * largest eigenvalue of an exact one",
    "ntk_trace": "estimated: leading eigenvalues plus random vectors for the rest, with its standard error",
    "metrics": "each with words of its own; standard_error is 0 for exact values, null where nothing tells it; "
    "interval: 95 %, over random vectors; trial_error: standard error from the finite number of trials, by a jackknife "
    "over groups of them; products_for_5_percent: where half the interval is wider than that",
    "lyapunov": "finite-time exponents exact to rounding for each trial; mean over trials with its standard error, "
    "nats per step or time; system_interval_95: intervals for what they tend to as trials get longer",
    "trial_norms": f"iterated (Lanczos), relative residual of the square at most {NORM_TOLERANCE:g}, on "
    "stability_trials, as lyapunov",
    "growth": "log of a singular value, exact to rounding, on the trials listed",
    "points": "fixed points under no input, by Newton's method to rounding, from a few states of the trials: there may "
    "be more; null where they were not looked for",
    "tasks": "exact to rounding: a product with the NTK for each label",
    "alignments": "of K and the NTK of the two checkpoints: estimated from random vectors, with standard errors "
    "(jackknife), or exact where those are zero",
    "shares": "as accurate as the iterated eigenpairs",
    "discretisation": "of P K P* from the NTK, relative, on the first mode of the NTK; continuous time only",
    "parts": "columns of the states, from the first to before the second, by what they are: h and c of an LSTM",
    "step": "computed by running the network again; slope by least squares",
    "self_check": "measured, with bounds from rounding",
    "comparisons": "states and outputs exact to rounding; angles as accurate as the iterated eigenpairs",
}
"""How the numbers of each group of `metrics` come about."""


def metrics(study: Study) -> dict[str, Any]:
    """A study as dictionaries, lists, strings, finite numbers and None.

    Parameters
    ----------
    study : Study

    Returns
    -------
    dict
        Ready for ``json.dumps(..., allow_nan=False)``.
    """
    objective, integration = study.objective, study.integration
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "facts": study.facts,
        "notes": list(study.notes),
        "measure": study.measure,
        "objective": None if objective is None else {"loss": objective.loss, "at": objective.at},
        "integration": None if integration is None else integration.arguments(),
        "how": HOW,
        "checkpoints": [_checkpoint(analysis) for analysis in study.analyses],
        "comparisons": [_comparison(comparison) for comparison in study.comparisons],
    }
    plain: dict[str, Any] = _plain(content)
    return plain


_COLUMNS = ("checkpoint", "key", "label", "value", "standard_error", "interval_low", "interval_high",
            "trial_error", "how")  # fmt: skip


def metrics_table(study: Study) -> str:
    """A study as CSV: a row for each metric of each checkpoint, and a head.

    Columns: checkpoint, key, label, value, standard_error, interval_low and interval_high (95 %, over random vectors),
    trial_error (standard error from the finite number of trials), how. A number that is
    not known, or not finite, is an empty field; all others have the digits that identify them.
    """
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\r\n")  # RFC 4180
    rows.writerow(_COLUMNS)
    for analysis in study.analyses:
        single = [
            ("loss", "loss", analysis.loss),
            ("accuracy", "share of correct answers", analysis.accuracy),
            ("error_norm", "size of the error, |Err|", analysis.error_norm),
            ("loss_rate", "change of the loss per unit η", analysis.loss_rate),
            ("states_rms", "rms of the states", analysis.states_rms),
        ]
        for key, label, value in single:
            if value is not None:
                rows.writerow([analysis.name, key, label, _field(value), "0", *[_field(value)] * 2, "", "exact"])
        for quantity in quantities(analysis):
            numbers = (quantity.value, quantity.error, *interval_of(quantity), quantity.trial_error)
            rows.writerow([analysis.name, quantity.key, quantity.label, *map(_field, numbers), quantity.how])
    return file.getvalue()


def _frobenius(trace: float, dimension: float) -> float:
    return trace / dimension**0.5 if dimension > 0 else 0.0


def _field(number: float | None) -> str:
    return "" if number is None or not math.isfinite(number) else repr(float(number))


def _checkpoint(analysis: Analysis) -> dict[str, Any]:
    trials, steps, states = analysis.space.shape
    model = analysis.flow.model
    sizes, shares, step = analysis.dimensions, analysis.shares, analysis.step
    stability, tasks = analysis.stability, analysis.tasks
    eigenpairs = (("K", analysis.kernel_modes), ("PP*", analysis.propagator_modes), ("NTK", analysis.ntk_modes))
    return {
        "name": analysis.name,
        "model": analysis.model,
        "shape": {"trials": trials, "steps": steps, "units": model.n_units_in_all, "states": states},
        "parts": {name: [part.start, part.stop] for name, part in model.parts.items()},
        "loss": analysis.loss,
        "accuracy": analysis.accuracy,
        "error_norm": analysis.error_norm,
        "loss_rate": analysis.loss_rate,
        "states_rms": analysis.states_rms,
        "kernel": {
            "leading": analysis.kernel_values[: len(analysis.kernel_modes.values)],
            "trace": sizes.kernel_trace.value,
            "frobenius": _frobenius(sizes.kernel_trace.value, sizes.kernel.value),
            "effective_dimension": sizes.kernel.value,
        },
        "eigenvalues": {
            name: {"values": modes.values, "residuals": modes.residuals, "products": modes.n_products}
            for name, modes in eigenpairs
        },
        "ntk_trace": {
            "value": analysis.dimensions.ntk_trace.value,
            "standard_error": analysis.dimensions.ntk_trace.standard_error,
            "interval": analysis.dimensions.ntk_trace.interval(LEVEL),
        },
        "metrics": {
            quantity.key: {
                "value": quantity.value,
                "standard_error": quantity.error,
                "interval": interval_of(quantity),
                "trial_error": quantity.trial_error,
                "products_for_5_percent": quantity.products_needed,
                "how": quantity.how,
            }
            for quantity in quantities(analysis)
        },
        "lyapunov": {
            "mean": stability.exponents.mean,
            "standard_error": stability.exponents.trial_error,
            "system_interval_95": _system_interval(stability.exponents),
            "times": stability.exponents.times,
            "running_mean": stability.exponents.running.mean(axis=0),
        },
        "stability_trials": stability.trials,
        "trial_norms": stability.trial_norms,
        "growth": {"trials": stability.growth_trials, "log": stability.growth},
        "points": _points(analysis.points),
        "tasks": None
        if tasks is None
        else {"labels": tasks.labels, "rates": tasks.rates, "alignment": tasks.alignment},
        "discretisation": analysis.discretisation,
        "mode_profile_shares": [profile.share for profile in analysis.profiles],
        "shares": None if shares is None else {"error": shares.error, "rate": shares.rate},
        "step": None
        if step is None
        else {
            "etas": step.etas,
            "gap": step.gap,
            "relative_error": step.relative_error,
            "slope": step.slope,
            "loss_predicted": step.loss_predicted,
            "loss_realised": step.loss_realised,
            "drawn_eta": step.etas[step.chosen],
            "drawn_share": step.predicted_profile.share,
        },
        "self_check": _self_check(analysis),
    }


def _points(found: FixedPoints | None) -> dict[str, Any] | None:
    """Fixed and slow points; None where they were not looked for."""
    if found is None:
        return None
    return {
        "kinds": found.kinds,
        "speeds": found.residuals,
        "q": found.q,
        "unstable_directions": found.n_unstable,
        "largest_growth": found.growth[:, :1].ravel(),
        "starts": found.counts,
        "starts_without_a_point": int((~found.settled).sum()),
        "states": found.points,
    }


def _system_interval(exponents: Lyapunov) -> list[Any] | None:
    """Ends of the intervals for the exponents of the system, (k,) each; None where the trials do not tell them."""
    try:
        return list(exponents.interval())
    except TooShort:
        return None


def _self_check(analysis: Analysis) -> dict[str, Any]:
    differences = analysis.check.differences
    return {
        "passed": analysis.check.passed,
        "checks": [
            {
                "name": check.name,
                "identity": check.identity,
                "error": check.error,
                "bound": check.bound,
                "bound_from": check.reason,
                "passed": check.passed,
                "status": check.status,
                "verdict": check.verdict,
            }
            for check in analysis.check.checks
        ],
        "finite_differences": {
            "steps": differences.steps,
            "errors": differences.errors,
            "slope": differences.slope,
            "extrapolated_error": differences.error,
            "error_estimate": differences.error_estimate,
        },
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "before": comparison.before,
        "after": comparison.after,
        "states_relative_change": comparison.states,
        "outputs_rms_change": comparison.outputs,
        "ntk_principal_angles_degrees": np.degrees(comparison.angles),
        "ntk_subspace_overlap": comparison.overlap,
        "alignments": {
            "operators": comparison.alignments.names,
            "values": comparison.alignments.values,
            "standard_errors": comparison.alignments.errors,
        },
    }


def _plain(value: Any) -> Any:
    """NumPy to Python, and what is not finite to None, which is all that strict JSON has for it."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
