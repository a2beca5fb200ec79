"""The pictures of a report: functions that draw on matplotlib axes and return them.

They know nothing of files or figures, so that they serve in a notebook or a paper as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kpref.coloring import TrialColoring

__all__ = [
    "STYLE",
    "checkpoint_colors",
    "plot_change",
    "plot_cumulative",
    "plot_errors",
    "plot_legend_of_trials",
    "plot_outputs",
    "plot_spectrum",
    "plot_trials",
]

Array = npt.NDArray[Any]

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": "#5b6470",
    "axes.labelcolor": "#1f2933",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "text.color": "#1f2933",
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "xtick.labelcolor": "#1f2933",
    "ytick.labelcolor": "#1f2933",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.dpi": 160,
    "savefig.dpi": 160,
}
"""rcParams for all figures: dark on light, one readable sans-serif, no frame and no grid."""

_INK = "#1f2933"
_MUTED = "#8a94a0"


def checkpoint_colors(number: int) -> list[Any]:
    """One colour a checkpoint: orange before, blue after; more of them along a dark part of viridis."""
    if number <= 2:
        return ["#d55e00", "#0072b2"][2 - number :]
    return list(matplotlib.colormaps["viridis"](np.linspace(0.8, 0.05, number)))


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
    steps = _time_axis(axes, times, amplitude.shape[1])
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


def plot_spectrum(axes: Axes, spectra: Sequence[tuple[str, Array]], colors: Sequence[Any], label: str) -> Axes:
    """Eigenvalues against their number, one curve a checkpoint, both on the scale that suits them.

    Parameters
    ----------
    axes : Axes
    spectra : sequence of (name, ndarray)
        Descending eigenvalues.
    colors : sequence
        One a checkpoint.
    label : str
        Of the vertical axis.
    """
    longest = max(len(values) for _, values in spectra)
    for (name, values), color, marker in zip(spectra, colors, _markers(len(spectra)), strict=True):
        numbers, positive = np.arange(1, len(values) + 1), values > 1e-16 * values.max(initial=0.0)
        style: Any = {"marker": marker, "markersize": 5} if longest <= 40 else {}
        axes.plot(numbers[positive], values[positive], color=color, linewidth=1.4, label=name, **style)
    axes.set(yscale="log", xscale="log" if longest > 40 else "linear", ylabel=label, xlabel="number of the eigenvalue")
    if longest <= 40:
        axes.set_xticks(_whole_ticks(longest))
    axes.legend()
    return axes


def plot_cumulative(axes: Axes, shares: Sequence[tuple[str, Array]], colors: Sequence[Any], label: str) -> Axes:
    """Running sum of shares against the number of modes, in percent, one curve a checkpoint."""
    for (name, share), color, marker in zip(shares, colors, _markers(len(shares)), strict=True):
        total = np.append(0.0, np.cumsum(share)) * 100
        axes.plot(np.arange(len(total)), total, color=color, marker=marker, markersize=5, linewidth=1.4, label=name)
    top = max(float(np.sum(share)) for _, share in shares) * 100
    axes.set(ylim=(0, min(103, 1.15 * top) or 1), xlabel="number of leading NTK modes", ylabel=label)
    axes.set_xticks(_whole_ticks(max(len(share) for _, share in shares), first=0))
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
    for (name, sizes, errors), color, marker in zip(curves, colors, _markers(len(curves)), strict=True):
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
        axes.plot(ends, guide, color=_MUTED, linestyle=(0, (4, 3)), linewidth=1.0, label="slope 2", zorder=0)
    axes.legend()
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
    steps = _time_axis(axes, times, change.shape[1])
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
    steps = _time_axis(axes, times, outputs.shape[1])
    for trial in chosen:
        axes.plot(steps, outputs[trial], color=coloring.colors[trial], linewidth=1.5)
        if targets is not None:
            axes.plot(steps, targets[trial], color=coloring.colors[trial], linewidth=1.1, linestyle=(0, (3, 2)))
    axes.set_ylabel(label)
    shown = outputs[chosen] if targets is None else np.stack([outputs[chosen], targets[chosen]])
    _fit(axes, steps, shown)
    if targets is not None:
        handles = [
            Line2D([], [], color=_INK, linewidth=1.5, label="output"),
            Line2D([], [], color=_INK, linewidth=1.1, linestyle=(0, (3, 2)), label="target"),
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


def _time_axis(axes: Axes, times: Array | None, steps: int) -> Array:
    """Label the horizontal axis, and return the T places on it."""
    axes.set_xlabel("time step" if times is None else "time")
    return np.arange(1, steps + 1) if times is None else times


def _fit(axes: Axes, steps: Array, values: Array) -> None:
    low, high = float(min(values.min(), 0.0)), float(max(values.max(), 0.0))
    margin = 0.06 * (high - low) or 1.0
    single = 0.5 if len(steps) == 1 else 0.0
    axes.set(xlim=(steps[0] - single, steps[-1] + single), ylim=(low - margin, high + margin))
    if len(steps) <= 12 and steps.dtype.kind == "i":
        axes.set_xticks(steps)


def _whole_ticks(last: int, first: int = 1) -> Array:
    return np.arange(first, last + 1, max(1, -(-last // 10)))


def _markers(number: int) -> list[str]:
    return ["o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d"][:number] + ["o"] * max(0, number - 12)
