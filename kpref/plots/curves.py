"""One curve a checkpoint: spectra, running sums, angles, and errors against the size of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref._types import Array
from kpref._validate import check_shape, real_number
from kpref.plots.given import colors_for, given_or_new, named_curves, numbers
from kpref.plots.style import (
    DASHED,
    MUTED,
    finish,
    guide,
    log_across,
    markers,
    plain_names,
    shown,
    shown_on_log,
    whole_ticks,
    why_empty,
)

__all__ = ["plot_angles", "plot_cumulative", "plot_errors", "plot_spectrum"]

_MANY = 40  # points of a curve beyond which they have no markers and their numbers a logarithmic axis


def plot_spectrum(
    spectra: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "eigenvalue",
    dimensions: Sequence[float] | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Eigenvalues against their number, one curve a checkpoint or operator, on the scales that suit them.

    Parameters
    ----------
    spectra : iterable of (name, ndarray)
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
    spectra = named_curves("spectra", spectra, ("eigenvalues", ("n",)))
    colors, dashed = colors_for(colors, len(spectra)), _dashed(dimensions)
    ax = given_or_new(ax)
    drawn = [_above_rounding(values) for _, values in spectra]
    longest = max((len(values) for values in drawn), default=0)
    for name, values, color, marker in zip(_names(spectra, drawn), drawn, colors, markers(len(drawn)), strict=True):
        use = np.isfinite(values)
        ax.plot(np.flatnonzero(use) + 1, values[use], color=color, label=name, **_style(marker, longest))
    _mark(ax, dashed, colors)
    ax.set(ylabel=label)
    _counting_axis(ax, longest, "number of the eigenvalue")
    finish(ax, [values for _, values in spectra], drawn, logarithmic=True)
    return ax


def plot_cumulative(
    shares: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "running sum (%)",
    horizontal: str = "number of leading modes",
    dimensions: Sequence[float] | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Running sum of shares against the number of modes, in percent, one curve a checkpoint.

    Parameters
    ----------
    shares : iterable of (name, ndarray)
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
    shares = named_curves("shares", shares, ("shares", ("n",)))
    colors, dashed = colors_for(colors, len(shares)), _dashed(dimensions)
    ax = given_or_new(ax)
    drawn = [np.append(0.0, 100 * np.cumsum(shown(share))) for _, share in shares]
    longest = max((len(sums) - 1 for sums in drawn), default=0)
    for name, sums, color, marker in zip(
        _names(shares, [sums[1:] for sums in drawn]), drawn, colors, markers(len(drawn)), strict=True
    ):
        first = 1 if longest > _MANY else 0  # a logarithmic axis has no zero
        ax.plot(np.arange(first, len(sums)), sums[first:], color=color, label=name, **_style(marker, longest))
    _mark(ax, dashed, colors)
    ax.set(ylabel=label)
    _counting_axis(ax, longest, horizontal, first=0)
    finish(ax, [values for _, values in shares], drawn)
    every = np.concatenate([[0.0], *drawn])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    top = high if high > 103 else min(103.0, 1.15 * high)
    ax.set_ylim(1.1 * low, 1.05 * top if high > 103 else top or 1.0)
    return ax


def plot_errors(
    curves: Iterable[tuple[str, npt.ArrayLike, npt.ArrayLike]],
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
    curves : iterable of (name, sizes, errors)
        Sizes and errors that are not positive and finite have no place on the axes.
    label, horizontal : str
        Of the axes.
    slope : float, optional
        Of the line; None for no line.
    level : float, optional
        Where to draw a horizontal line; nowhere if it is not positive.
    colors, ax
        As for `plot_spectrum`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_errors
    >>> steps = 10.0 ** -np.arange(6)
    >>> ax = plot_errors([("after", steps, 3 * steps**2)], "relative error")
    """
    curves = named_curves("curves", curves, ("sizes", ("n",)), ("errors", ("n",)))
    for index, (_, sizes, errors) in enumerate(curves):
        check_shape(f"errors of curves[{index}]", errors, shape=sizes.shape)
    colors = colors_for(colors, len(curves))
    slope = None if slope is None else real_number("slope", slope)
    level = np.nan if level is None else float(shown_on_log(numbers("level", level, ())))
    ax = given_or_new(ax)
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
        log_across(ax, every)
        ends = np.array([np.nanmin(every), np.nanmax(every)])
        guides = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in zip(places, drawn, strict=True)]
        guides = [(x, y) for x, y in guides if len(x) > 2]
        if slope is not None and guides:
            x, y = max(guides, key=lambda guide: float(guide[1].max()))
            middle = len(x) // 2
            line = shown_on_log(4 * y[middle] * (np.array([x.min(), x.max()]) / x[middle]) ** slope)
            style: Any = {"color": MUTED, "linestyle": DASHED, "linewidth": 1.0, "zorder": 0}
            ax.plot([x.min(), x.max()], line, label=f"slope {slope:g}", **style)
        if np.isfinite(level):
            guide(ax, level)
            drawn.append(np.array([level]))
        if ends[0] == ends[1]:
            ax.set_xlim(ends[0] / 2, ends[0] * 2)
    ax.set(xlabel=horizontal, ylabel=label)
    finish(ax, [errors for _, _, errors in curves], drawn, logarithmic=True)
    return ax


def plot_angles(
    angles: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "principal angle (degrees)",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Principal angles between two spaces, in degrees, against their number.

    Parameters
    ----------
    angles : iterable of (name, ndarray)
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
    angles = named_curves("angles", angles, ("angles", ("n",)))
    colors = colors_for(colors, len(angles))
    ax = given_or_new(ax)
    drawn = [shown(values) for _, values in angles]
    longest = max((len(values) for values in drawn), default=0)
    for name, values, color, marker in zip(_names(angles, drawn), drawn, colors, markers(len(drawn)), strict=True):
        ax.plot(np.arange(1, len(values) + 1), values, color=color, label=name, **_style(marker, longest))
    guide(ax, 90)
    ax.set(ylim=(-2, 95), yticks=[0, 30, 60, 90], ylabel=label)
    _counting_axis(ax, longest, "number of the angle")
    ax.margins(x=0.08)
    finish(ax, [values for _, values in angles], drawn, zero_is_drawn=True)
    return ax


def _dashed(dimensions: Sequence[float] | None) -> Array:
    return np.zeros(0) if dimensions is None else numbers("dimensions", dimensions, ("n",))


def _mark(ax: Axes, dimensions: Array, colors: Sequence[Any]) -> None:
    """Dashed lines where the dimensions are that have a place on the axis."""
    for dimension, color in zip(dimensions, colors, strict=False):
        if 0 < dimension < np.inf:
            ax.axvline(dimension, color=color, linewidth=1.0, linestyle=DASHED, zorder=0)


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
        log_across(ax, np.array([1.0, longest]))
    else:
        ax.set_xticks(whole_ticks(max(longest, 1), first))
