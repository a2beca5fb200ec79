"""One curve a checkpoint: spectra, running sums, errors against a step size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref.plots.style import MUTED, checkpoint_colors, given_or_new, markers, whole_ticks

__all__ = ["plot_cumulative", "plot_errors", "plot_spectrum"]

Array = npt.NDArray[Any]


def plot_spectrum(
    axes: Axes | None,
    spectra: Sequence[tuple[str, Array]],
    colors: Sequence[Any] | None = None,
    label: str = "eigenvalue",
    dimensions: Sequence[float] | None = None,
) -> Axes:
    """Eigenvalues against their number, one curve a checkpoint or operator, on the scales that suit them.

    Parameters
    ----------
    axes : Axes or None
        None: of a new figure.
    spectra : sequence of (name, ndarray)
        Descending eigenvalues. What is not above 1e-16 of the largest has no place on the axis.
    colors : sequence, optional
        One a spectrum.
    label : str
        Of the vertical axis.
    dimensions : sequence of float, optional
        An effective dimension for each spectrum, marked by a dashed line; those that are not positive are not.
    """
    axes = given_or_new(axes)
    colors = checkpoint_colors(len(spectra)) if colors is None else colors
    longest = max(len(values) for _, values in spectra)
    for (name, values), color, marker in zip(spectra, colors, markers(len(spectra)), strict=True):
        numbers, positive = np.arange(1, len(values) + 1), values > 1e-16 * values.max(initial=0.0)
        style: Any = {"marker": marker, "markersize": 5} if longest <= 40 else {}
        axes.plot(numbers[positive], values[positive], color=color, linewidth=1.4, label=name, **style)
    if dimensions is not None:
        for dimension, color in zip(dimensions, colors, strict=True):
            if dimension > 0:
                axes.axvline(dimension, color=color, linewidth=1.0, linestyle=(0, (3, 2)), zorder=0)
    axes.set(yscale="log", xscale="log" if longest > 40 else "linear", ylabel=label, xlabel="number of the eigenvalue")
    if longest <= 40:
        axes.set_xticks(whole_ticks(longest))
    axes.legend()
    return axes


def plot_cumulative(axes: Axes, shares: Sequence[tuple[str, Array]], colors: Sequence[Any], label: str) -> Axes:
    """Running sum of shares against the number of modes, in percent, one curve a checkpoint."""
    for (name, share), color, marker in zip(shares, colors, markers(len(shares)), strict=True):
        total = np.append(0.0, np.cumsum(share)) * 100
        axes.plot(np.arange(len(total)), total, color=color, marker=marker, markersize=5, linewidth=1.4, label=name)
    top = max(float(np.sum(share)) for _, share in shares) * 100
    axes.set(ylim=(0, min(103, 1.15 * top) or 1), xlabel="number of leading NTK modes", ylabel=label)
    axes.set_xticks(whole_ticks(max(len(share) for _, share in shares), first=0))
    axes.legend()
    return axes


def plot_errors(
    axes: Axes,
    curves: Sequence[tuple[str, Array, Array]],
    colors: Sequence[Any],
    horizontal: str,
    vertical: str,
) -> Axes:
    """Errors against the size of a step on logarithmic axes, with a line of slope 2 to compare with.

    Parameters
    ----------
    axes : Axes
    curves : sequence of (name, sizes, errors)
    colors : sequence
    horizontal, vertical : str
        Labels of the axes.
    """
    for (name, sizes, errors), color, marker in zip(curves, colors, markers(len(curves)), strict=True):
        positive = errors > 0
        axes.plot(
            sizes[positive], errors[positive], color=color, marker=marker, markersize=5, linewidth=1.2, label=name
        )
    axes.set(xscale="log", yscale="log", xlabel=horizontal, ylabel=vertical)
    guides = [(sizes[errors > 0], errors[errors > 0]) for _, sizes, errors in curves if (errors > 0).sum() > 2]
    if guides:
        sizes, errors = max(guides, key=lambda guide: float(guide[1].max()))
        middle = len(sizes) // 2
        ends = np.array([sizes.min(), sizes.max()])
        guide = 4 * errors[middle] * (ends / sizes[middle]) ** 2
        axes.plot(ends, guide, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.0, label="slope 2", zorder=0)
    axes.legend()
    return axes
