"""Trials over time: lines, heat maps and outputs, in the colours of the trials.

NaN stands for what is not there: the steps after the end of a trial, which no line reaches and a heat map hatches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kpref._types import Array
from kpref.coloring import TrialColoring
from kpref.plots.given import given_or_new, numbers, places, require_coloring, table, trial_table
from kpref.plots.style import INK, SLANTED, inside, mean_over, plain_names, say, shown, time_axis, why_empty

__all__ = ["plot_change", "plot_legend_of_trials", "plot_outputs", "plot_trials", "shade_unscored"]

_MANY = 300  # trials
_EXAMPLES = 8
_DASHED = (0, (3, 2))


def plot_trials(
    amplitude: npt.ArrayLike,
    coloring: TrialColoring,
    label: str = "amplitude",
    times: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One line a trial over time, coloured by trial; with labels, the mean of each class on top.

    Parameters
    ----------
    amplitude : ndarray, shape (B, T)
        NaN after the end of a trial.
    coloring : TrialColoring
        As `color_trials` chooses it.
    label : str
        Of the vertical axis.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref import Trials
    >>> from kpref.plots import color_trials, plot_trials
    >>> inputs = np.random.default_rng(0).normal(size=(6, 20, 2))
    >>> ax = plot_trials(inputs[..., 0], color_trials(Trials(inputs)), "input 1")
    """
    amplitude = shown(trial_table("amplitude", amplitude, coloring))
    steps = places(times, amplitude.shape[1])
    ax = given_or_new(ax)
    time_axis(ax, steps, counted=times is None)
    many, means = len(amplitude) > _MANY, len(coloring.categories) > 1
    ax.axhline(0.0, color="#d5dae0", linewidth=0.8, zorder=0)
    points = np.stack([np.broadcast_to(steps, amplitude.shape), amplitude], axis=2)
    lines = LineCollection(
        list(points[coloring.order]),
        colors=coloring.colors[coloring.order],
        linewidths=0.4 if many else 0.9,
        alpha=0.12 if many and means else 0.45 if many else 0.85,
        rasterized=many,  # in a vector graphic as well, which would otherwise take megabytes
    )
    ax.add_collection(lines, autolim=False)
    _dots(ax, steps, amplitude, coloring.colors)
    for category in coloring.categories if means else ():
        mean = mean_over(amplitude[coloring.values == category], axis=0)
        ax.plot(steps, mean, color="white", linewidth=3.2, solid_capstyle="round")
        ax.plot(steps, mean, color=coloring.color(category), linewidth=2.0, solid_capstyle="round")
        _dots(ax, steps, mean[None], coloring.color([category]), size=36.0)
    ax.set_ylabel(label)
    _fit(ax, amplitude)
    return ax


def plot_change(
    change: npt.ArrayLike,
    limit: float | None = None,
    label: str = "change",
    times: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A heat map of trials against time with a colour bar that is symmetric about zero.

    Parameters
    ----------
    change : ndarray, shape (B, T)
        Rows in the order to be drawn; NaN, which is hatched, after the end of a trial.
    limit : float, optional
        Value at the ends of the colour scale; by default the largest modulus.
    label : str
        Of the colour bar.
    times : ndarray, shape (T,), optional
        Evenly spaced, in the unit of time; the steps 1, ..., T by default.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_change
    >>> ax = plot_change(np.random.default_rng(0).normal(size=(6, 20)), limit=2.0)
    >>> ax.images[0].get_clim()
    (-2.0, 2.0)
    """
    change = shown(table("change", change, ("B", "T")))
    limit = None if limit is None else float(numbers("limit", limit, ()))
    steps = places(times, change.shape[1])
    ax = given_or_new(ax)
    time_axis(ax, steps, counted=times is None)
    half = _half_step(steps)
    largest = float(np.nanmax(np.abs(change))) if np.isfinite(change).any() else 0.0
    limit = largest if limit is None or not 0 < limit < np.inf else limit
    ends = limit or 1.0
    image = ax.imshow(
        change,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=-ends,
        vmax=ends,
        extent=(steps[0] - half, steps[-1] + half, 0.5, len(change) + 0.5),
    )
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.02)
    if np.isnan(change).any():  # shows through where the picture has no pixels
        ax.patch.set(facecolor="#e6e9ed", edgecolor="#b4bcc6", hatch="////")
    for spine in ax.spines.values():
        spine.set_visible(True)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel("trial")
    if largest == 0.0:
        say(ax, why_empty(change))
    return ax


def plot_outputs(
    outputs: npt.ArrayLike,
    targets: npt.ArrayLike | None,
    coloring: TrialColoring,
    label: str = "output",
    times: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One output channel over time for eight trials spread over the set, dashed its target.

    Parameters
    ----------
    outputs : ndarray, shape (B, T)
        NaN after the end of a trial.
    targets : ndarray, shape (B, T), or None
    coloring, label, times, ax
        As for `plot_trials`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref import Trials
    >>> from kpref.plots import color_trials, plot_outputs
    >>> targets = np.random.default_rng(0).normal(size=(6, 20, 2))
    >>> ax = plot_outputs(0.9 * targets[..., 0], targets[..., 0], color_trials(Trials(targets, targets)))
    """
    outputs = shown(trial_table("outputs", outputs, coloring))
    wanted = None if targets is None else shown(numbers("targets", targets, outputs.shape))
    chosen = coloring.examples(_EXAMPLES)
    steps = places(times, outputs.shape[1])
    ax = given_or_new(ax)
    time_axis(ax, steps, counted=times is None)
    _lines(ax, steps, outputs[chosen], coloring.colors[chosen], {"linewidth": 1.5})
    drawn = outputs[chosen]
    if wanted is not None:
        _lines(ax, steps, wanted[chosen], coloring.colors[chosen], {"linewidth": 1.1, "linestyle": _DASHED})
        drawn = np.stack([drawn, wanted[chosen]])
        handles = [
            Line2D([], [], color=INK, linewidth=1.5, label="output"),
            Line2D([], [], color=INK, linewidth=1.1, linestyle=_DASHED, label="target"),
        ]
        inside(ax.legend(handles=handles, frameon=True, framealpha=0.7, edgecolor="none"))
    ax.set_ylabel(label)
    _fit(ax, drawn)
    return ax


def plot_legend_of_trials(coloring: TrialColoring, ax: Axes | None = None) -> Axes:
    """The colour scale of the trials as a horizontal bar, or a row of class labels.

    Parameters
    ----------
    coloring : TrialColoring
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref import Trials
    >>> from kpref.plots import color_trials, plot_legend_of_trials
    >>> trials = Trials(np.zeros((4, 3, 1)), labels=np.array([0, 1, 1, 2]))
    >>> ax = plot_legend_of_trials(color_trials(trials))
    """
    require_coloring(coloring)
    ax = given_or_new(ax)
    low, high = coloring.limits
    values: Any = coloring.categories or np.linspace(low, high, 256)
    ax.imshow(coloring.color(values)[None], aspect="auto", extent=(0, len(values), 0, 1))
    if coloring.categories:
        shown_of = range(0, len(values), max(1, -(-len(values) // 10)))
        words = plain_names([coloring.category_names[index] for index in shown_of], 14)
        crowded = sum(map(len, words)) > 40
        ax.set_xticks([index + 0.5 for index in shown_of], words, **(SLANTED if crowded else {}))
    else:
        marks = np.linspace(low, high, 5)
        marks[np.abs(marks) < 1e-9 * np.abs(marks).max()] = 0.0  # not zero by a rounding
        ax.set_xticks(np.linspace(0, len(values), 5), [f"{value:.3g}" for value in marks])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.set_xlabel(f"trial colour: {coloring.name}")
    return ax


def shade_unscored(weights: npt.ArrayLike, times: npt.ArrayLike | None = None, ax: Axes | None = None) -> Axes:
    """Shade the steps that the loss counts in no trial.

    Parameters
    ----------
    weights : ndarray, shape (B, T)
        Of every step of every trial in the loss; zero: not counted.
    times, ax
        As for `plot_trials`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import shade_unscored
    >>> weights = np.ones((6, 20))
    >>> weights[:, :15] = 0.0  # a delay
    >>> ax = shade_unscored(weights)
    """
    weights = table("weights", weights, ("B", "T"))
    steps = places(times, weights.shape[1])
    ax = given_or_new(ax)
    half = _half_step(steps)
    counted = np.concatenate([[True], np.any(weights != 0, axis=0), [True]])
    starts = np.flatnonzero(counted[:-1] & ~counted[1:])
    ends = np.flatnonzero(~counted[:-1] & counted[1:])
    for start, end in zip(starts, ends, strict=True):  # rows start ... end - 1
        ax.axvspan(steps[start] - half, steps[end - 1] + half, color="#eef0f3", linewidth=0, zorder=-1)
    return ax


def _half_step(steps: Array) -> float:
    """Half of what lies between two steps, or times."""
    return float(steps[-1] - steps[0]) / max(2 * (len(steps) - 1), 1) or 0.5


def _lines(ax: Axes, steps: Array, values: Array, colors: Array, style: dict[str, Any]) -> None:
    for line, color in zip(values, colors, strict=True):
        ax.plot(steps, line, color=color, **style)
    _dots(ax, steps, values, colors, hollow="linestyle" in style)


def _dots(ax: Axes, steps: Array, values: Array, colors: Array, size: float = 14.0, hollow: bool = False) -> None:
    """Points that no line goes to: those without a neighbour in time."""
    there = np.pad(np.isfinite(values), ((0, 0), (1, 1)))
    trial, step = np.nonzero(there[:, 1:-1] & ~there[:, :-2] & ~there[:, 2:])
    if len(trial):
        faces = {"facecolors": "none", "edgecolors": colors[trial]} if hollow else {"color": colors[trial]}
        ax.scatter(steps[step], values[trial, step], s=size, linewidths=0.9 if hollow else 0.0, **faces)


def _fit(ax: Axes, values: Array) -> None:
    found = values[np.isfinite(values)]
    if not found.any():
        say(ax, why_empty(values))
    low, high = float(found.min(initial=0.0)), float(found.max(initial=0.0))
    margin = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
