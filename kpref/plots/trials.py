"""Trials over time: lines, heat maps and outputs, in the colours of the trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kpref.coloring import TrialColoring
from kpref.plots.style import INK, time_axis

__all__ = ["plot_change", "plot_legend_of_trials", "plot_outputs", "plot_trials"]

Array = npt.NDArray[Any]


def plot_trials(axes: Axes, amplitude: Array, coloring: TrialColoring, label: str, times: Array | None = None) -> Axes:
    """One line a trial over time, coloured by trial; with labels, the mean of each class on top.

    Parameters
    ----------
    axes : Axes
    amplitude : ndarray, shape (B, T)
    coloring : TrialColoring
    label : str
        Of the vertical axis.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    """
    steps = time_axis(axes, times, amplitude.shape[1])
    many = len(amplitude) > 300
    lines = np.stack([np.broadcast_to(steps, amplitude.shape), amplitude], axis=2)
    axes.axhline(0.0, color="#d5dae0", linewidth=0.8, zorder=0)
    means = len(coloring.categories) > 1
    axes.add_collection(
        LineCollection(
            list(lines[coloring.order]),
            colors=coloring.colors[coloring.order],
            linewidths=0.4 if many else 0.9,
            alpha=0.12 if many and means else 0.45 if many else 0.85,
        )
    )
    if means:
        for category in coloring.categories:
            mean = amplitude[coloring.values == category].mean(axis=0)
            axes.plot(steps, mean, color="white", linewidth=3.2, solid_capstyle="round")
            axes.plot(steps, mean, color=coloring.color(category), linewidth=2.0, solid_capstyle="round")
    axes.set_ylabel(label)
    _fit(axes, steps, lines[..., 1])
    return axes


def plot_change(axes: Axes, change: Array, limit: float, label: str, times: Array | None = None) -> Any:
    """A heat map of trials against time on a scale symmetric about zero; returns the image, for a colour bar.

    Parameters
    ----------
    axes : Axes
    change : ndarray, shape (B, T)
        Rows in the order to be drawn.
    limit : float
        Value at the ends of the colour scale.
    label : str
        Of the vertical axis.
    times : ndarray, shape (T,), optional
        Evenly spaced, in the unit of time; the steps 1, ..., T by default.
    """
    steps = time_axis(axes, times, change.shape[1])
    half = (steps[-1] - steps[0]) / max(2 * (len(steps) - 1), 1) or 0.5
    image = axes.imshow(
        change,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(steps[0] - half, steps[-1] + half, 0.5, len(change) + 0.5),
    )
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(label)
    return image


def plot_outputs(
    axes: Axes,
    outputs: Array,
    targets: Array | None,
    coloring: TrialColoring,
    label: str,
    times: Array | None = None,
) -> Axes:
    """One output channel (B, T) over time for some trials, dashed its target; `times` as in `plot_trials`."""
    chosen = coloring.examples(8)
    steps = time_axis(axes, times, outputs.shape[1])
    for trial in chosen:
        axes.plot(steps, outputs[trial], color=coloring.colors[trial], linewidth=1.5)
        if targets is not None:
            axes.plot(steps, targets[trial], color=coloring.colors[trial], linewidth=1.1, linestyle=(0, (3, 2)))
    axes.set_ylabel(label)
    shown = outputs[chosen] if targets is None else np.stack([outputs[chosen], targets[chosen]])
    _fit(axes, steps, shown)
    if targets is not None:
        handles = [
            Line2D([], [], color=INK, linewidth=1.5, label="output"),
            Line2D([], [], color=INK, linewidth=1.1, linestyle=(0, (3, 2)), label="target"),
        ]
        axes.legend(handles=handles)
    return axes


def plot_legend_of_trials(axes: Axes, coloring: TrialColoring) -> Axes:
    """The colour scale of the trials as a horizontal bar, or a row of class labels."""
    low, high = coloring.limits
    values: Any = coloring.categories or np.linspace(low, high, 256)
    axes.imshow(coloring.color(values)[None], aspect="auto", extent=(0, len(values), 0, 1))
    if coloring.categories:
        shown = range(0, len(values), max(1, len(values) // 10))
        axes.set_xticks([index + 0.5 for index in shown], [str(values[index]) for index in shown])
    else:
        positions = np.linspace(0, len(values), 5)
        axes.set_xticks(positions, [f"{value:.3g}" for value in np.linspace(low, high, 5)])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_xlabel(f"trial colour: {coloring.name}")
    return axes


def _fit(axes: Axes, steps: Array, values: Array) -> None:
    low, high = float(min(values.min(), 0.0)), float(max(values.max(), 0.0))
    margin = 0.06 * (high - low) or 1.0
    single = 0.5 if len(steps) == 1 else 0.0
    axes.set(xlim=(steps[0] - single, steps[-1] + single), ylim=(low - margin, high + margin))
    if len(steps) <= 12 and steps.dtype.kind == "i":
        axes.set_xticks(steps)
