"""Each metric of a checkpoint as a value, its error, and words on how it is known: for tables and for metrics.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kpref.analysis.numbers import Analysis
from kpref.analysis.operator_sizes import Dimensions
from kpref.analysis.stability import NORM_TOLERANCE
from kpref.analysis.wording import LEVEL
from kpref.spectra import Estimate

__all__ = ["Quantity", "alignment_words", "interval_of", "quantities"]

_EXACT = "exact"
_OTHER_TRIALS = "± standard error from the choice of trials (jackknife over groups of them)"
#: Half the width of an interval, relative to the value, that is called accurate.
_ACCURACY = 0.05


@dataclass(frozen=True)
class Quantity:
    """One number of a report."""

    key: str  # its name in ``metrics.json``
    label: str  # its name for people
    group: str  # one of "dimensions", "stability", "alignments"
    value: float
    # standard error, or a bound where `how` says so; 0 for exact values; None where there is nothing to tell it from
    error: float | None
    how: str  # exact, estimated, iterated or a mean; and how well it is known
    interval: tuple[float, float] | None = None  # of 95 %, over the random vectors, for what is estimated from them
    # standard error from the finite number of trials, another thing than the error of random vectors: how far the
    # number would change with other trials of the same kind (jackknife over groups of trials). None where it is not
    # computed.
    trial_error: float | None = None
    # about how many products would take half the width of the interval below 5 %, where it is wider
    products_needed: int | None = None


def quantities(analysis: Analysis) -> tuple[Quantity, ...]:
    """All metrics of one checkpoint, in the order in which they are shown."""
    found = [*_sizes(analysis), *_stability(analysis)]
    if analysis.kernel_ntk is not None:
        label = "alignment of K with the NTK"
        found.append(_of("alignment_K_NTK", label, "alignments", analysis.kernel_ntk, alignment_words()))
    return tuple(found)


def interval_of(quantity: Quantity) -> tuple[float, float]:
    """The interval of a quantity at `LEVEL`: NaN where nothing tells it, the value alone where it is exact."""
    if quantity.interval is not None:
        return quantity.interval
    error = math.nan if quantity.error is None else quantity.error
    return quantity.value - error, quantity.value + error


def alignment_words() -> str:
    """How an alignment is known that is not exact."""
    return "estimated from random vectors, 95 % interval"


def _of(
    key: str, label: str, group: str, estimate: Estimate, how: str = "", trial_error: float | None = None
) -> Quantity:
    words = _EXACT if estimate.exact else how
    if trial_error is not None:
        words += f"; {_OTHER_TRIALS}"
    interval = None if estimate.exact or estimate.bound else estimate.interval(LEVEL)
    needed = None
    if interval is not None and interval[1] - interval[0] > 2 * _ACCURACY * abs(estimate.value) > 0:
        needed = estimate.products_for(_ACCURACY)
    return Quantity(key, label, group, estimate.value, estimate.standard_error, words, interval, trial_error, needed)


def _sizes(analysis: Analysis) -> list[Quantity]:
    sizes: Dimensions = analysis.dimensions
    trials, group = analysis.space.shape[0], "dimensions"
    random = "estimated from random vectors, 95 % interval"
    kept = {axis: estimate for axis, estimate in sizes.kernel_kept.items() if estimate is not None}

    def size(key: str, label: str, estimate: Estimate, how: str = "") -> Quantity:
        return _of(key, label, group, estimate, how, sizes.trial_errors.get(key))

    def schmidt(key: str, label: str, estimate: Estimate | None, used: int) -> list[Quantity]:
        if estimate is None:  # not told by so many products
            return []
        words = (_EXACT if estimate.exact else random) + _part(used, trials)
        return [replace(_of(key, label, group, estimate), how=words)]

    modes = "estimated: leading eigenvalues, random vectors for the rest, 95 % interval"
    return [
        size("trace_K", "trace of K", sizes.kernel_trace, modes),
        size("trace_PP*", "trace of P P*", sizes.propagator_trace, modes),
        size("trace_NTK", "trace of the NTK", sizes.ntk_trace, modes),
        size("effective_dimension_K", "effective dimension of K", sizes.kernel, modes),
        *(
            size(f"effective_dimension_K_{axis}", f"effective dimension of K along {axis}s", estimate, random)
            for axis, estimate in kept.items()
        ),
        size("effective_dimension_PP*", "effective dimension of P P*", sizes.propagator, modes),
        size("effective_dimension_NTK", "effective dimension of the NTK", sizes.ntk, modes),
        *schmidt("schmidt_rank_K", "Schmidt rank of K", sizes.kernel_schmidt, sizes.kernel_schmidt_trials),
        *schmidt("schmidt_rank_NTK", "Schmidt rank of the NTK", sizes.ntk_schmidt, sizes.ntk_schmidt_trials),
    ]


def _stability(analysis: Analysis) -> list[Quantity]:
    stability, total, group = analysis.stability, analysis.space.shape[0], "stability"
    per = "step" if analysis.times is None else "unit of time"
    norms, last = stability.trial_norms, stability.growth[:, -1]
    middle, smallest = float(np.median(norms)), float(norms.min())
    iterated = f"iterated, relative residual ≤ {NORM_TOLERANCE:g}{_part(len(norms), total)}"
    followed = f"exact, median of {_of_all(len(last), total)}"

    def mean(key: str, label: str, value: float, error: float) -> Quantity:
        if not np.isfinite(value):
            return Quantity(key, label, group, value, None, "exact: some step keeps nothing of the state before it")
        if not np.isfinite(error):
            return Quantity(key, label, group, value, None, "exact for one trial; one alone has no standard error")
        words = f"exact for each trial, mean of {_of_all(len(norms), total)}, 95 % interval of the mean"
        over_trials = Estimate(value, error, 0, "mean", degrees=len(norms) - 1)
        return Quantity(key, label, group, value, error, words, over_trials.interval(LEVEL))

    exponents = stability.exponents
    counts = (exponents.values > 0).sum(axis=1)
    spread = float(counts.std(ddof=1) / len(counts) ** 0.5) if len(counts) > 1 else np.nan
    peak = float(np.median(stability.growth.max(axis=1)))
    largest, error = float(exponents.mean[0]), float(exponents.trial_error[0])
    return [
        _of("norm_P", "operator norm of P", group, stability.norm, "iterated, bound from the residual"),
        Quantity("norm_P_median", "operator norm of P on one trial, median", group, middle, NORM_TOLERANCE * middle,
                 iterated),
        Quantity("norm_P_smallest", "operator norm of P on one trial, smallest", group, smallest,
                 NORM_TOLERANCE * smallest, iterated),
        Quantity("growth_end", "log growth of an early change to the end, median", group, float(np.median(last)), 0.0,
                 followed),
        Quantity("growth_peak", "log growth of an early change to its maximum, median", group, peak, 0.0, followed),
        mean("lyapunov_1", f"largest Lyapunov exponent (nats per {per}), mean", largest, error),
        mean("lyapunov_positive", f"exponents above zero, of the leading {len(exponents.mean)}, mean",
             float(counts.mean()), spread),
    ]  # fmt: skip


def _part(used: int, total: int) -> str:
    return "" if used == total else f", on {used} of the {total:,} trials"


def _of_all(used: int, total: int) -> str:
    return f"all {total:,} trials" if used == total else f"{used} of the {total:,} trials"
