"""What all figures share: rcParams, colours, axes that are made if none are given, ticks and markers."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

__all__ = ["INK", "MUTED", "STYLE", "checkpoint_colors", "given_or_new", "markers", "time_axis", "whole_ticks"]

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

INK = "#1f2933"
MUTED = "#8a94a0"


def checkpoint_colors(number: int) -> list[Any]:
    """One colour a checkpoint: orange before, blue after; more of them along a dark part of viridis."""
    if number <= 2:
        return ["#d55e00", "#0072b2"][2 - number :]
    return list(matplotlib.colormaps["viridis"](np.linspace(0.8, 0.05, number)))


def given_or_new(ax: Axes | None) -> Axes:
    """The axes, or those of a new pyplot figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot  # here: it chooses a window system, which the axes of others do not need

    return pyplot.subplots(layout="constrained")[1]


def time_axis(axes: Axes, times: Array | None, steps: int) -> Array:
    """Label the horizontal axis, and return the T places on it."""
    axes.set_xlabel("time step" if times is None else "time")
    return np.arange(1, steps + 1) if times is None else times


def whole_ticks(last: int, first: int = 1) -> Array:
    """About ten whole numbers at most, for the ticks of a counting axis."""
    return np.arange(first, last + 1, max(1, -(-last // 10)))


def markers(number: int) -> list[str]:
    """A marker for each of several curves, different for the first twelve."""
    return ["o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d"][:number] + ["o"] * max(0, number - 12)
