"""One curve a checkpoint: spectra, running sums, angles, and errors against the size of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref.plots.style import (
    MUTED,
    checkpoint_colors,
    given_or_new,
    legend_of_names,
    log_axis,
    markers,
    plain_names,
    say,
    shown,
    shown_on_log,
    whole_ticks,
    why_empty,
)

__all__ = ["plot_angles", "plot_cumulative", "plot_errors", "plot_spectrum"]

Array = npt.NDArray[Any]

_MANY = 40  # points of a curve beyond which they have no markers and their numbers a logarithmic axis
_DASHED = (0, (4, 3))


def plot_spectrum(
    spectra: Sequence[tuple[str, Array]],
    label: str = "eigenvalue",
    dimensions: Sequence[float] | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Eigenvalues against their number, one curve a checkpoint or operator, on the scales that suit them.

    Parameters
    ----------
    spectra : sequence of (name, ndarray)
        Descending eigenvalues. What is not finite, or not above 1e-16 of the largest, has no place on the axis.
    label : str
        Of the vertical axis.
    dimensions : sequence of float, optional
        An effective dimension for each spectrum, marked by a dashed line; those that are not positive are not.
    colors : sequence, optional
        One a spectrum.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_spectrum
    >>> ax = plot_spectrum([("before", np.array([3.0, 2.0, 0.5])), ("after", np.array([9.0, 0.1, 0.0]))])
    >>> ax.get_yscale()
    'log'
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(spectra)) if colors is None else colors
    drawn = [_above_rounding(values) for _, values in spectra]
    longest = max((len(values) for values in drawn), default=0)
    for name, values, color, marker in zip(_names(spectra, drawn), drawn, colors, markers(len(drawn)), strict=True):
        use = np.isfinite(values)
        ax.plot(np.flatnonzero(use) + 1, values[use], color=color, label=name, **_style(marker, longest))
    for dimension, color in zip(dimensions or (), colors, strict=False):
        if 0 < dimension < np.inf:
            ax.axvline(dimension, color=color, linewidth=1.0, linestyle=_DASHED, zorder=0)
    ax.set(ylabel=label)
    _counting_axis(ax, longest, "number of the eigenvalue")
    _finish(ax, [values for _, values in spectra], drawn, logarithmic=True)
    return ax


def plot_cumulative(
    shares: Sequence[tuple[str, Array]],
    label: str = "running sum (%)",
    horizontal: str = "number of leading modes",
    dimensions: Sequence[float] | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Running sum of shares against the number of modes, in percent, one curve a checkpoint.

    Parameters
    ----------
    shares : sequence of (name, ndarray)
        Shares of the modes, of a whole of 1. The sum goes on up to the first that is not finite.
    label, horizontal : str
        Of the axes.
    dimensions, colors, ax
        As for `plot_spectrum`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_cumulative
    >>> ax = plot_cumulative([("after", np.array([0.5, 0.25]))], "share of the trace (%)")
    >>> [float(y) for y in ax.lines[0].get_ydata()]
    [0.0, 50.0, 75.0]
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(shares)) if colors is None else colors
    drawn = [np.append(0.0, 100 * np.cumsum(shown(share))) for _, share in shares]
    longest = max((len(sums) - 1 for sums in drawn), default=0)
    for name, sums, color, marker in zip(
        _names(shares, [sums[1:] for sums in drawn]), drawn, colors, markers(len(drawn)), strict=True
    ):
        first = 1 if longest > _MANY else 0  # a logarithmic axis has no zero
        ax.plot(np.arange(first, len(sums)), sums[first:], color=color, label=name, **_style(marker, longest))
    for dimension, color in zip(dimensions or (), colors, strict=False):
        if 0 < dimension < np.inf:
            ax.axvline(dimension, color=color, linewidth=1.0, linestyle=_DASHED, zorder=0)
    ax.set(ylabel=label)
    _counting_axis(ax, longest, horizontal, first=0)
    _finish(ax, [values for _, values in shares], drawn)
    every = np.concatenate([[0.0], *drawn])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    top = high if high > 103 else min(103.0, 1.15 * high)
    ax.set_ylim(1.1 * low, 1.05 * top if high > 103 else top or 1.0)
    return ax


def plot_errors(
    curves: Sequence[tuple[str, Array, Array]],
    label: str = "error",
    horizontal: str = "size of the step",
    slope: float | None = 2.0,
    level: float | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Errors against the size of a step on logarithmic axes, with a line of a given slope to compare with.

    Parameters
    ----------
    curves : sequence of (name, sizes, errors)
        Sizes and errors that are not positive and finite have no place on the axes.
    label, horizontal : str
        Of the axes.
    slope : float, optional
        Of the line; None for no line.
    level : float, optional
        Where to draw a horizontal line.
    colors, ax
        As for `plot_spectrum`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_errors
    >>> steps = 10.0 ** -np.arange(6)
    >>> ax = plot_errors([("after", steps, 3 * steps**2)], "relative error")
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(curves)) if colors is None else colors
    places = [np.where(np.isfinite(shown_on_log(errors)), shown_on_log(sizes), np.nan) for _, sizes, errors in curves]
    drawn = [
        np.where(np.isfinite(x), shown_on_log(errors), np.nan) for x, (_, _, errors) in zip(places, curves, strict=True)
    ]
    names = _names([(name, errors) for name, _, errors in curves], drawn)
    for name, x, y, color, marker in zip(names, places, drawn, colors, markers(len(curves)), strict=True):
        use = np.isfinite(y)
        ax.plot(x[use], y[use], color=color, marker=marker, markersize=5, linewidth=1.2, label=name)
    every = np.concatenate([np.zeros(0), *places])
    if np.isfinite(every).any():
        ax.set_xscale("log")
        ends = np.array([np.nanmin(every), np.nanmax(every)])
        guides = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in zip(places, drawn, strict=True)]
        guides = [(x, y) for x, y in guides if len(x) > 2]
        if slope is not None and guides:
            x, y = max(guides, key=lambda guide: float(guide[1].max()))
            middle = len(x) // 2
            line = shown_on_log(4 * y[middle] * (np.array([x.min(), x.max()]) / x[middle]) ** slope)
            style: Any = {"color": MUTED, "linestyle": _DASHED, "linewidth": 1.0, "zorder": 0}
            ax.plot([x.min(), x.max()], line, label=f"slope {slope:g}", **style)
        if level is not None:
            ax.axhline(level, color=MUTED, linewidth=1.0, linestyle=_DASHED, zorder=0)
            drawn.append(np.array([level]))
        if ends[0] == ends[1]:
            ax.set_xlim(ends[0] / 2, ends[0] * 2)
    ax.set(xlabel=horizontal, ylabel=label)
    _finish(ax, [errors for _, _, errors in curves], drawn, logarithmic=True)
    return ax


def plot_angles(
    angles: Sequence[tuple[str, Array]],
    label: str = "principal angle (degrees)",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Principal angles between two spaces, in degrees, against their number.

    Parameters
    ----------
    angles : sequence of (name, ndarray)
        In degrees, increasing.
    label : str
        Of the vertical axis, which goes from 0 to 90.
    colors, ax
        As for `plot_spectrum`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_angles
    >>> ax = plot_angles([("before and after", np.array([12.0, 71.0, 89.0]))])
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(angles)) if colors is None else colors
    drawn = [shown(values) for _, values in angles]
    longest = max((len(values) for values in drawn), default=0)
    for name, values, color, marker in zip(_names(angles, drawn), drawn, colors, markers(len(drawn)), strict=True):
        ax.plot(np.arange(1, len(values) + 1), values, color=color, label=name, **_style(marker, longest))
    ax.axhline(90, color=MUTED, linewidth=1.0, linestyle=_DASHED, zorder=0)
    ax.set(ylim=(-2, 95), yticks=[0, 30, 60, 90], ylabel=label)
    _counting_axis(ax, longest, "number of the angle")
    ax.margins(x=0.08)
    _finish(ax, [values for _, values in angles], drawn, zero_is_drawn=True)
    return ax


def _above_rounding(values: Array) -> Array:
    numbers = shown_on_log(values)
    largest = np.nanmax(numbers, initial=0.0) if np.isfinite(numbers).any() else 0.0
    return np.where(numbers > 1e-16 * largest, numbers, np.nan)


def _names(curves: Sequence[tuple[str, Array]], drawn: Sequence[Array]) -> list[str]:
    """Names for the legend; with the reason where there is nothing to draw of a curve."""
    names = plain_names([name for name, _ in curves])
    return [
        name if np.isfinite(found).any() else f"{name}: {why_empty(values)}"
        for name, (_, values), found in zip(names, curves, drawn, strict=True)
    ]


def _style(marker: str, longest: int) -> dict[str, Any]:
    return {"linewidth": 1.4} | ({"marker": marker, "markersize": 5} if longest <= _MANY else {})


def _counting_axis(ax: Axes, longest: int, label: str, first: int = 1) -> None:
    ax.set_xlabel(label)
    if longest > _MANY:
        ax.set_xscale("log")
    else:
        ax.set_xticks(whole_ticks(max(longest, 1), first))


def _finish(
    ax: Axes,
    values: Sequence[Array],
    drawn: Sequence[Array],
    logarithmic: bool = False,
    zero_is_drawn: bool = False,
) -> None:
    """Scale, legend, and words in the middle if there is nothing to see."""
    every = np.concatenate([np.zeros(0), *drawn])
    if logarithmic:
        log_axis(ax, every)
    seen = np.isfinite(every) if logarithmic or zero_is_drawn else np.isfinite(every) & (every != 0)
    if not seen.any():
        say(ax, why_empty(np.concatenate([np.zeros(0), *(np.ravel(v) for v in values)])))
    legend_of_names(ax)
