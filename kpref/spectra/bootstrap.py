"""The standard error of leave-one-out estimates, by parametric bootstrap.

The k estimates share most of their vectors and are correlated: their scatter over k^(1/2) is 0.4 to
0.9 of the standard deviation of their mean. Normal vectors look the same in every orthonormal basis, so for symmetric S
the joint distribution depends on the spectrum of S alone, and can be simulated with a diagonal matrix: a parametric
bootstrap. The spectrum is that whose sketches look like the observed one: the larger values that the sketch shows
(`LeaveOneOut.head`), each divided by its mean bias in simulated sketches, and beyond them a geometric tail with the sum
that the estimate itself demands. The ratio of deviation to scatter hardly depends on details of the spectrum; it turns
the observed scatter into the standard error (`standard_error`). Operators that are not symmetric are modelled by their
singular values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from kpref.spectra.sketches import (
    extend_range,
    frobenius_samples,
    nystrom_samples,
    nystrom_values,
    range_samples,
    range_values,
)

__all__ = ["NYSTROM", "RANGE_FROBENIUS", "RANGE_TRACE", "LeaveOneOut", "standard_error"]

Array = npt.NDArray[Any]
Product = Callable[[Array], Array]
Spectrum = list[tuple[float, int]]  # values and their multiplicities
Simulated = Callable[[Product, Array, int], Array]

_SIMULATIONS = 100  # of the estimator: the standard deviation to 7 %
_MATCHING = (3, 12)  # rounds of matching the spectrum to the sketch, and sketches simulated in each
_ROWS = 4  # a spectrum of more than this many times k values is compressed
_PANEL = 1 << 22  # numbers in the vectors that are simulated at once


@dataclass(frozen=True)
class LeaveOneOut:
    """An estimator, as the bootstrap sees it.

    Attributes
    ----------
    samples, seen : callable
        From a product, probes (v, k, m) and the dimension: the estimates (v, k); and the spectrum that the sketch shows
        (v, k), descending.
    head : float
        Fraction of the k values that are taken from the sketch: the last ones say little.
    """

    samples: Simulated
    seen: Simulated
    head: float


NYSTROM = LeaveOneOut(
    lambda product, probes, size: nystrom_samples(probes, product(probes), size),
    lambda product, probes, size: nystrom_values(probes, product(probes), size),
    head=0.6,
)
RANGE_TRACE = LeaveOneOut(
    lambda product, probes, size: range_samples(extend_range(product, probes), size),
    lambda product, probes, size: range_values(extend_range(product, probes)),
    head=0.75,
)
RANGE_FROBENIUS = replace(RANGE_TRACE, samples=lambda p, probes, size: frobenius_samples(extend_range(p, probes), size))


def standard_error(method: LeaveOneOut, samples: Array, seen: Array, total: float, size: int, seed: int) -> float:
    """Standard deviation of the mean of k leave-one-out estimates, by parametric bootstrap.

    Parameters
    ----------
    method : LeaveOneOut
    samples : ndarray, shape (k,)
        The estimates.
    seen : ndarray, shape (k,)
        The spectrum that the sketch shows, descending.
    total : float
        Estimate of the sum of the whole spectrum.
    size : int
        Dimension n of the space.
    seed : int
        Of the simulations.

    Notes
    -----
    O(k^3) for each of about a hundred simulations, whatever n is.
    """
    count = len(samples)
    scatter = float(np.std(samples, ddof=1)) / count**0.5
    if scatter == 0.0 or not total > 0.0:
        return scatter
    generator = np.random.default_rng([seed, 2])
    spectrum = _matched(method, seen, total, size, generator)
    simulated = _simulate(method.samples, spectrum, count, size, _SIMULATIONS, generator)
    deviation = np.std(simulated.mean(1), ddof=1)
    expected = np.sqrt(simulated.var(1, ddof=1).mean() / count)
    return scatter if expected == 0.0 else float(scatter * deviation / expected)


def _matched(method: LeaveOneOut, seen: Array, total: float, size: int, generator: np.random.Generator) -> Spectrum:
    """Spectrum, as values with multiplicities, whose sketches show what was seen.

    What a sketch shows lies below the truth, the more so the later in the order; each value is divided by the factor
    between the mean logarithm of what simulated sketches show and the value that they were given.
    """
    least = 1e-14 * max(float(seen[0]), total / size)
    seen = np.maximum(seen, least)
    spectrum = _completed(seen[: max(1, len(seen) // 2)], total, size, len(seen))
    rounds, simulations = _MATCHING
    for _ in range(rounds):
        shown = _simulate(method.seen, spectrum, len(seen), size, simulations, generator)
        given = np.repeat([value for value, _ in spectrum], [min(times, len(seen)) for _, times in spectrum])
        bias = np.exp(np.log(np.maximum(shown, least)).mean(0)) / np.maximum(given[: len(seen)], least)
        head = np.minimum.accumulate(seen / bias)[: max(1, int(np.ceil(method.head * len(seen))))]
        spectrum = _completed(head, total, size, len(seen))
    return spectrum


def _simulate(
    task: Simulated, spectrum: Spectrum, count: int, size: int, simulations: int, generator: np.random.Generator
) -> Array:
    """What an estimator finds on a diagonal matrix (simulations, k).

    Everything depends on inner products of probes alone. So the m coordinates of k normal vectors that belong to one
    multiple value can be replaced by the k x k triangle with the same distribution of inner products (Bartlett, 1933).
    """
    rows = [min(times, count) for _, times in spectrum]
    values = np.repeat([max(value, 0.0) for value, _ in spectrum], rows)
    chunk = max(1, _PANEL // (count * len(values)))
    parts = []
    for start in range(0, simulations, chunk):
        probes = generator.standard_normal((min(chunk, simulations - start), count, len(values)))
        column = 0
        for (_, times), width in zip(spectrum, rows, strict=True):
            if times > count:
                block = probes[..., column : column + width]
                block *= np.tri(count, k=-1)
                block[:, range(count), range(count)] = np.sqrt(
                    generator.chisquare(times - np.arange(count), size=(len(probes), count))
                )
            column += width
        parts.append(task(lambda vectors: vectors * values, probes, size))
    return np.concatenate(parts)


def _completed(head: Array, total: float, size: int, count: int) -> Spectrum:
    """A spectrum of `size` values as (value, multiplicity): the head, and a geometric tail with the rest of the sum.

    Of a long tail the first k values stay, the others are merged to three of about equal sums.
    """
    number = len(head)
    while number > 1 and head[:number].sum() >= total:
        number -= 1
    first, rest, missing = float(head[number - 1]), max(total - float(head[:number].sum()), 0.0), size - number
    if missing == 0:
        return [(float(value), 1) for value in head]
    if rest >= first * missing:
        first, rate = rest / missing, 0.0
    else:
        rate = _rate(rest / first, missing) if rest > 0 else np.inf
    single = missing if size <= _ROWS * count else min(count, missing)
    values = [float(value) for value in head[:number]]
    values += [float(first * np.exp(-rate * j)) if np.isfinite(rate) else 0.0 for j in range(1, single + 1)]
    spectrum = [(value, 1) for value in values]
    for start, stop in _levels(single, missing, rate):
        spectrum.append((_partial(first, rate, start, stop) / (stop - start), stop - start))
    return spectrum


def _rate(ratio: float, number: int) -> float:
    """r with ``sum over j = 1 ... number of exp(-r j) = ratio``, for 0 < ratio < number."""
    return float(brentq(lambda r: _partial(1.0, r, 0, number) - ratio, 0.0, np.log1p(1 / ratio) + 1.0))


def _partial(first: float, rate: float, start: int, stop: int) -> float:
    """Sum of ``first exp(-rate j)`` over start < j <= stop."""
    if rate == 0.0:
        return first * (stop - start)
    if not np.isfinite(rate):
        return 0.0
    return float(first * np.exp(-rate * start) * -np.expm1(-rate * (stop - start)) / np.expm1(rate))


def _levels(start: int, stop: int, rate: float) -> list[tuple[int, int]]:
    """Cut the tail values start < j <= stop into at most three runs of about equal sums."""
    if start == stop:
        return []
    if rate == 0.0 or not np.isfinite(rate):
        return [(start, stop)]
    shares = np.arange(1, 3) / 3 * -np.expm1(-rate * (stop - start))
    cuts = start - np.log1p(-shares) / rate
    bounds = np.unique([start, *np.clip(np.rint(cuts), start, stop).astype(int), stop])
    return [(int(low), int(high)) for low, high in zip(bounds, bounds[1:], strict=False)]
