"""Lyapunov exponents of a system from finite stretches of trajectories: estimates with errors that cover the truth.

QR sweeps give G_i(t), the logarithms of the diagonals R_ii added up to time t. As t grows, G_i / t tends to the
exponent lambda_i of the system; what separates them at a finite t are these things.

*Alignment.* A random frame leans towards the fastest directions. Let D_ij(t) = |G_i - G_j|(t), by which lengths of two
of its directions have come apart. The part of direction j in direction i has shrunk by exp(-D_ij), and since the
directions that a system has are oblique, what G_i still gains or loses after time r by becoming aligned is of this
very order, about

    c_i(r) = log(1 + kappa sum_(j < i) exp(-D_ij(r))) + the same for j > i,      kappa = 20,

kappa standing for the tangent of a first angle: of 30 random ones 29 have a smaller one. So the rows before r
are discarded, and c_i(r) / (t - r) counts as a bound of what is left. One direction more than the exponents asked for
is carried along, so that the last of these has a neighbour. By default r is where the interval is narrowest, between
10 and 50 % of the rows; the first 10 % also let the trajectory itself settle.

*Fluctuations.* From 8 trials on, the error is that of a mean over trials, with B - 1 degrees of freedom; all
correlations in time are in it. It is that of blocks of time where there are fewer trials, or where they fluctuate
together (an F test at 1 % of blocks of the mean over trials against blocks of the trials): m = 6 to 12 blocks of the
mean over trials, m - 1 degrees of freedom, each block at least eight times as long as the integrated autocorrelation
time (Sokal, *Monte Carlo methods in statistical mechanics*, 1989: the sum of autocorrelations up to the first lag that
is five times the sum so far). Few trials that differ for good (F test at 1 %) count as trials.

*Few records.* Many trials that fluctuate together over too few intervals for blocks are one trajectory seen often:
their number says nothing. Of a random walk the end is independent of the range R of what is left without the straight
line to it, and it exceeds ``(1.82 + 9 / m) R`` with a chance of 5 %, m being the number of independent steps (to 2 %
from 6 steps on, by simulation). That interval is normalised by itself, and takes no estimate of a variance.

*Rare events.* Where few large increments make the fluctuations, their scatter does not tell the error: a trajectory
that met fewer of them also shows less of it. The mean of independent increments x has the skewness
``sum x^3 / (sum x^2)^(3/2)``, which is one over the root of their number for rare events of one size. Above 0.3 (some
ten events), and above what so few normal numbers would show, the stretch is too short.

*Oscillations.* Of a constant map with complex eigenvalues, or on a periodic orbit, G_i - lambda_i t is periodic, and
the error is not random: at most its range over t - r. That range, of the mean over trials with the straight line
between the ends taken off, is the least that an interval may reach, unless trials are seen to be independent.

*Order.* Exponents come in descending order, which drives equal ones apart. Where two neighbours differ by less than
two of their standard errors, half of the difference is added to the reach of both.

*Powers of time.* Where directions of one exponent are coupled (a Jordan block of a constant map), lengths come apart by
a power of time, t^2 for neighbours, which looks like alignment but leaves a bias of order log(t) / t. Neighbours that
come apart by less than the third power does from r to t are not told to differ: all of the difference is added.

Rounding adds a bound of its own. Where no trial's growth departs from a straight line, nor from that of the others, by
more than that bound and c_i(r), there are no fluctuations, and the bounds are all.

These are statements on a system that forgets how it began; on one with several attractors they are about the mean over
the trials' attractors.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri, stdtrit

from kpref._types import Array
from kpref.spectra.estimate import Estimate

__all__ = ["MANY_TRIALS", "Stretch", "TooShort", "exponent_estimates"]

_LEVEL = 0.95
_KAPPA = 20.0
_POWER = 3.0
_MOST_BLOCKS, _FEWEST_BLOCKS = 12, 6
#: From which on the error is told from trials, not blocks of time.
MANY_TRIALS = 8
#: Lengths of a block and of the window for correlations, in autocorrelation times.
_BLOCK, _WINDOW = 8.0, 5.0
#: Skewness of the mean above which too few events make the fluctuations.
_MOST_SKEWED = 0.3
#: Degrees of freedom of the range of a random walk, from its scatter.
_RANGE_DEGREES = 10.0
#: Shares of the rows that may be discarded by default.
_LEAST_DISCARDED, _MOST_DISCARDED = 0.1, 0.5


class TooShort(ValueError):
    """The stretch does not tell the exponents of the system."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """What a sweep has recorded."""

    times: Array  # (C + 1,): of the orthonormalisations, and of the start
    growth: Array  # (B, C + 1, K): logarithms added up; row 0 is zero
    rounding: Array  # (B, K): what rounding may have added to the last row
    first: int | None  # row that the frame starts to count from; chosen if it is None
    products: int  # vectors carried, times rows


def exponent_estimates(stretch: Stretch, count: int) -> tuple[Estimate, ...]:
    """Estimates of the `count` leading exponents of the system.

    The interval of each at level 0.95 is as the module describes; at other levels it is scaled by Student's quantiles.

    Raises TooShort if there are fewer than six blocks of time and fewer than eight trials, or few rare events make the
    fluctuations.
    """
    found = [_estimate(stretch, index) for index in range(count + (stretch.growth.shape[2] > count))]
    ties = [_tie(one, other) for one, other in itertools.pairwise(found)]
    ordered = []
    for index, part in enumerate(found[:count]):
        reach = part.reach + max(ties[max(index - 1, 0) : index + 1], default=0.0)
        error = reach / _quantile(part.degrees)
        ordered.append(Estimate(part.value, error, stretch.products, "QR", part.degrees))
    return tuple(ordered)


@dataclass(frozen=True)
class _Part:
    """An exponent, half its interval, its standard error, and the degrees of freedom of that.

    `slow` is the rate that a direction has for which lengths come apart by the third power of time only.
    """

    value: float
    reach: float
    error: float
    degrees: float
    slow: float


def _tie(one: _Part, other: _Part) -> float:
    gap = abs(one.value - other.value)
    if gap < max(one.slow, other.slow):
        return gap
    return gap / 2 if gap < 2 * math.hypot(one.error, other.error) else 0.0


def _estimate(stretch: Stretch, index: int) -> _Part:
    times, growth = stretch.times, stretch.growth[:, :, index]
    if not np.isfinite(growth[:, -1]).all():  # a map that is singular along the trajectory
        return _Part(-math.inf, 0.0, 0.0, math.inf, 0.0)
    unaligned = _unaligned(stretch.growth, index)
    first = stretch.first
    if first is None:
        first = _discarded(times, growth, unaligned)
    span = times[-1] - times[first]
    tail, elapsed = growth[:, first:] - growth[:, [first]], times[first:] - times[first]
    value = float(tail[:, -1].mean() / span)
    slow = _POWER * math.log(times[-1] / times[first]) / span if first else 0.0
    systematic = float(unaligned[first] + stretch.rounding[:, index].mean())
    bridge = tail - (tail[:, -1:] / span) * elapsed
    apart = max(float(np.ptp(bridge, axis=1).max()), float(np.ptp(tail[:, -1])))
    if apart <= systematic and len(elapsed) > _FEWEST_BLOCKS:
        return _Part(value, systematic / span, 0.0, math.inf, slow)  # alignment and rounding are all there is
    error, degrees, independent = _fluctuation(tail, elapsed)
    reach = error * _quantile(degrees)
    if not independent:
        reach = max(reach, float(np.ptp(bridge.mean(axis=0))) / span)
    return _Part(value, reach + systematic / span, error, degrees, slow)


def _unaligned(growth: Array, index: int) -> Array:
    """c_i at each row, the mean over trials: (C + 1,)."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(growth[:, :, index, None] - growth)
    apart = np.where(np.isnan(apart), np.inf, apart)
    apart[:, :, index] = np.inf
    shares = _KAPPA * np.exp(-apart)
    slower, faster = shares[:, :, index + 1 :].sum(axis=2), shares[:, :, :index].sum(axis=2)
    return np.asarray((np.log1p(slower) + np.log1p(faster)).mean(axis=0))


def _discarded(times: Array, growth: Array, unaligned: Array) -> int:
    """Row from which on the interval is narrowest, as far as the second half of the stretch tells its fluctuations."""
    last = len(times) - 1
    allowed = np.arange(int(_LEAST_DISCARDED * last), int(_MOST_DISCARDED * last) + 1)
    half = last // 2
    blocks = min(_FEWEST_BLOCKS, last - half)
    cuts = np.linspace(half, last, blocks + 1).astype(int)
    spread = 0.0
    if blocks > 1:  # of the sum of a trial, per root of time; the quantile of few degrees of freedom is about that
        grown, lengths = np.diff(growth[:, cuts], axis=1), np.diff(times[cuts])
        spread = 2.5 * math.sqrt(_block_variance(grown, lengths) * lengths.sum() / len(growth))
    left = times[-1] - times[allowed]
    return int(allowed[np.argmin(unaligned[allowed] / left + spread / np.sqrt(left))])


def _fluctuation(tail: Array, elapsed: Array) -> tuple[float, float, bool]:
    """Standard error of the mean rate, its degrees of freedom, and whether trials are known to be independent."""
    trials, intervals = len(tail), len(elapsed) - 1
    together = tail.mean(axis=0)[None]
    correlated = _correlation_time(together, elapsed)
    blocks = min(_MOST_BLOCKS, int(intervals / (_BLOCK * correlated)))
    if blocks < _FEWEST_BLOCKS:
        if trials >= MANY_TRIALS:
            return _few_records(tail, elapsed, correlated)
        raise _too_short(trials, elapsed, _FEWEST_BLOCKS * _BLOCK * correlated / intervals)
    cuts = np.searchsorted(elapsed, np.linspace(0.0, elapsed[-1], blocks + 1) * (1 - 1e-12))
    lengths = np.diff(elapsed[cuts])
    common = _block_variance(np.diff(together[:, cuts], axis=1), lengths)
    if trials == 1:
        _require_events(together, elapsed)
        return math.sqrt(common), blocks - 1.0, False
    own = _block_variance(np.diff(tail[:, cuts], axis=1), lengths) / trials
    between = _trial_variance(tail, elapsed)
    if trials >= MANY_TRIALS:
        as_trials = common <= own * float(fdtri(blocks - 1, trials * (blocks - 1), 0.99))
    else:
        as_trials = between > own * float(fdtri(trials - 1, trials * (blocks - 1), 0.99))
    _require_events(tail if as_trials else together, elapsed)
    if as_trials:
        return math.sqrt(between), trials - 1.0, True
    return math.sqrt(common), blocks - 1.0, False


def _few_records(tail: Array, elapsed: Array, correlated: float) -> tuple[float, float, bool]:
    """As `_fluctuation`, of many trials with too few intervals for blocks."""
    trials, lengths, together = len(tail), np.diff(elapsed), tail.mean(axis=0)
    between, steps = math.sqrt(_trial_variance(tail, elapsed)), len(lengths)
    if steps >= _FEWEST_BLOCKS:
        common = _block_variance(np.diff(together)[None], lengths)
        own = _block_variance(np.diff(tail, axis=1), lengths) / trials
        if common > own * float(fdtri(steps - 1, trials * (steps - 1), 0.99)):
            bridge = together - together[-1] / elapsed[-1] * elapsed
            reach = (1.82 + 9 * correlated / steps) * float(np.ptp(bridge)) / float(elapsed[-1])
            return max(between, reach / _quantile(_RANGE_DEGREES)), _RANGE_DEGREES, False
    _require_events(tail, elapsed)
    return between, trials - 1.0, steps >= _FEWEST_BLOCKS


def _require_events(tail: Array, elapsed: Array) -> None:
    """Refuse fluctuations that a few increments make: of trials (b, C + 1) that are independent."""
    lengths = np.diff(elapsed)
    noise = np.diff(tail, axis=1) - tail[:, -1].mean() / elapsed[-1] * lengths
    square = float(np.square(noise).sum())
    skewness = abs(float((noise**3).sum())) / square**1.5 if square else 0.0
    if skewness > max(_MOST_SKEWED, 3 * math.sqrt(6) / noise.size):  # of as many normal numbers: three deviations
        raise _too_short(len(tail), elapsed, (skewness / _MOST_SKEWED) ** 2, " (few rare events make the fluctuations)")


def _too_short(trials: int, elapsed: Array, factor: float, why: str = "") -> TooShort:
    return TooShort(
        f"{trials} trials of length {elapsed[-1]:g} are too few and too short to tell the exponents of the system"
        f"{why}: it takes a length of about {math.ceil(factor * elapsed[-1])}, or {MANY_TRIALS} trials; `values` has "
        "the finite-time exponents"
    )


def _trial_variance(tail: Array, elapsed: Array) -> float:
    """Variance of the mean over trials of their rates."""
    return float((tail[:, -1] / elapsed[-1]).var(ddof=1)) / len(tail)


def _block_variance(grown: Array, lengths: Array) -> float:
    """Variance of the mean rate of one trial, from what each grew by in each block, (b, m), the mean over trials."""
    total = lengths.sum()
    rates = grown.sum(axis=1, keepdims=True) / total
    squares = np.square(grown - rates * lengths) / lengths
    return float(squares.sum(axis=1).mean() / (len(lengths) - 1) / total)


def _correlation_time(tail: Array, elapsed: Array) -> float:
    """Integrated autocorrelation time in intervals, at least one, of one trial (1, C + 1)."""
    lengths, grown = np.diff(elapsed), np.diff(tail[0])
    noise = (grown - tail[0, -1] / elapsed[-1] * lengths) / np.sqrt(lengths)
    scale = float(np.square(noise).sum())
    if scale == 0:
        return 1.0
    total = 1.0
    for lag in range(1, len(noise)):
        total += 2 * float((noise[:-lag] * noise[lag:]).sum()) / scale
        if lag >= _WINDOW * total:
            break
    return max(total, 1.0)


def _quantile(degrees: float) -> float:
    return float(stdtrit(degrees, (1 + _LEVEL) / 2))
