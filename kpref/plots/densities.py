"""Whole spectra: the number of eigenvalues above x, with the band that it lies in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kpref._validate import instance
from kpref.plots.given import colors_for, given_or_new, named_curves
from kpref.plots.style import finish, log_across, plain_names, shown, shown_on_log, why_empty
from kpref.spectra.density import SpectralDensity

__all__ = ["plot_spectral_density"]


def plot_spectral_density(
    densities: Iterable[tuple[str, SpectralDensity]],
    label: str = "eigenvalues above x",
    horizontal: str = "x",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Counting functions, one curve a checkpoint or operator, each in the band that it lies in as a whole.

    Parameters
    ----------
    densities : iterable of (name, SpectralDensity)
        Logarithmic axes; of spectra with points that are not positive the horizontal one is linear.
    label, horizontal : str
        Of the axes.
    colors, ax
        As for `plot_spectrum`.

    Examples
    --------
    >>> import kpref, numpy as np
    >>> from kpref.plots import plot_spectral_density
    >>> flow = kpref.Flow(kpref.models.GRU.init(3, 16, seed=0), np.random.default_rng(0).normal(size=(5, 20, 3)))
    >>> ax = plot_spectral_density([("NTK", kpref.spectra.spectral_density(flow.NTK, products=16))])
    >>> ax.get_xlabel()
    'x'
    """
    curves = [(name, *_arrays(density)) for name, density in _pairs(densities)]
    curves = named_curves("densities", curves, *((part, ("g",)) for part in ("points", "counts", "least", "most")))
    colors, ax = colors_for(colors, len(curves)), given_or_new(ax)
    positive = all((shown_on_log(points) > 0).all() for _, points, *_ in curves)
    drawn, across = [], [np.zeros(0)]
    for plain_name, (_, points, counts, least, most), color in zip(
        plain_names([name for name, *_ in curves]), curves, colors, strict=True
    ):
        places, found = (shown_on_log if positive else shown)(points), shown_on_log(counts)
        found = np.where(np.isfinite(places), found, np.nan)
        name = plain_name if np.isfinite(found).any() else f"{plain_name}: {why_empty(counts)}"
        ax.plot(places, found, color=color, label=name, linewidth=1.4)
        low, high = shown(least), shown(most)
        # A count of zero has no place on the axis: the band then goes down to where it ends.
        seen = np.isfinite(places) & (high >= 1) & np.isfinite(low)
        ax.fill_between(places, np.maximum(low, 0.5), high, where=seen, color=color, alpha=0.2, linewidth=0)
        drawn.append(np.maximum(found, 1.0))
        across.append(places[np.isfinite(found)])
    ax.set(xlabel=horizontal, ylabel=label)
    if positive and any(np.isfinite(found).any() for found in drawn):
        log_across(ax, np.concatenate(across))
    finish(ax, [counts for _, _, counts, *_ in curves], drawn, logarithmic=True)
    return ax


def _pairs(densities: Iterable[tuple[str, SpectralDensity]]) -> list[tuple[str, SpectralDensity]]:
    """Names and densities, or TypeError."""
    given: Any = list(densities) if isinstance(densities, Iterable) else None
    if given is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given):
        raise TypeError("densities must be pairs (name, SpectralDensity), one a curve, from kpref.spectra")
    for index, (_, density) in enumerate(given):
        instance(f"the density of densities[{index}]", density, SpectralDensity, "a SpectralDensity of kpref.spectra")
    return [(name, density) for name, density in given]


def _arrays(density: SpectralDensity) -> tuple[Any, ...]:
    return density.points, density.counts, density.least, density.most
