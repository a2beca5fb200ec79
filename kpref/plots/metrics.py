"""The metrics of the K-P flow as figures: dimensions, alignments, exponents, growth, and modes over time.

Each function takes data and, as its last argument, axes to draw on; without them it makes a new figure. It returns the
axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from kpref.plots.style import INK, MUTED, checkpoint_colors, given_or_new, markers, time_axis, whole_ticks

__all__ = [
    "plot_alignment_matrix",
    "plot_dimension_against_training",
    "plot_exponents",
    "plot_growth",
    "plot_modes_over_time",
    "plot_running_exponents",
    "plot_trial_norms",
]

Array = npt.NDArray[Any]

_BAND = (0.1, 0.9)  # quantiles of the trials that a band goes between
_OPERATORS = ("#1b1b1b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00")
_FEW_LINES = 12  # trials that are drawn as lines of their own
_LARGEST_WITH_NUMBERS = 12  # matrices with a number in each cell


def plot_modes_over_time(
    modes: Array, values: Array | None = None, times: Array | None = None, ax: Axes | None = None
) -> Axes:
    """Where in time each mode lives: its length over the units, as root mean square over trials, one line a mode.

    Parameters
    ----------
    modes : ndarray, shape (k, B, T, H)
    values : ndarray, shape (k,), optional
        Their eigenvalues, for the legend.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    places = time_axis(ax, times, modes.shape[2])
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(modes)))
    for index, (mode, color) in enumerate(zip(modes, colors, strict=True)):
        length = np.sqrt(np.square(mode).sum(axis=2).mean(axis=0))
        name = f"mode {index + 1}" + ("" if values is None else f", λ = {float(f'{values[index]:.3g}'):,.10g}")
        ax.plot(places, length, color=color, linewidth=1.6, label=name, **_dot(places))
    ax.set_ylabel("length of the mode, rms over trials")
    ax.set_ylim(bottom=0.0)
    ax.legend()
    return ax


def plot_dimension_against_training(
    stages: Sequence[str] | Sequence[float],
    curves: Sequence[tuple[str, Array, Array]],
    label: str = "effective dimension",
    ax: Axes | None = None,
) -> Axes:
    """Effective dimensions, or other positive sizes, of several operators against training.

    Parameters
    ----------
    stages : sequence of str or of float, length c
        Names of the checkpoints, evenly spaced, or iterations, in their places.
    curves : sequence of (name, ndarray, ndarray)
        For each operator its sizes and their standard errors, shape (c,) each. What is not positive is left out.
    label : str
        Of the vertical axis, which is logarithmic.
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    named = isinstance(stages[0], str)
    places = np.arange(len(stages)) if named else np.asarray(stages, dtype=float)
    every: list[Array] = []
    for index, ((name, sizes, errors), marker) in enumerate(zip(curves, markers(len(curves)), strict=True)):
        use = np.isfinite(sizes) & (sizes > 0)
        color = _OPERATORS[index % len(_OPERATORS)]
        style: Any = {"marker": marker, "markersize": 6, "linewidth": 1.5, "capsize": 4, "label": name}
        ax.errorbar(places[use], sizes[use], yerr=np.nan_to_num(errors[use]), color=color, **style)
        every.append(sizes[use])
    ax.set(yscale="log", ylabel=label, xlabel="checkpoint" if named else "training iteration")
    if named:
        ax.set_xticks(places, [str(stage) for stage in stages], rotation=30 if len(stages) > 4 else 0)
        ax.set_xlim(-0.4, len(stages) - 0.6)
    _plain_log_ticks(ax, np.concatenate(every))
    ax.legend(fontsize=8.5, ncols=2 if len(curves) > 4 else 1)
    return ax


def plot_alignment_matrix(
    values: Array, labels: Sequence[str], errors: Array | None = None, ax: Axes | None = None
) -> Axes:
    """Alignments, -1 to 1, as colours that are white at zero, with the number in each cell of a small matrix.

    Parameters
    ----------
    values : ndarray, shape (n, n)
        NaN where an alignment is not defined.
    labels : sequence of str
        Of the n rows and columns.
    errors : ndarray, shape (n, n), optional
        Standard errors, written below the numbers where they are not zero.
    ax : Axes, optional
        A colour bar goes beside them.
    """
    ax = given_or_new(ax)
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1.0, vmax=1.0, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="alignment", shrink=0.9, ticks=[-1, -0.5, 0, 0.5, 1])
    ax.set_facecolor("#e6e9ed")  # of cells without a number
    size, short = len(values), max(map(len, labels)) <= 4
    turned: dict[str, Any] = {} if short else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(size), labels, **turned)
    ax.set_yticks(range(size), labels)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if size > _LARGEST_WITH_NUMBERS:
        return ax
    small = 9.5 if size <= 6 else 7.0
    for row in range(size):
        for column in range(size):
            value = values[row, column]
            if not np.isfinite(value):
                ax.text(column, row, "–", ha="center", va="center", color=MUTED)
                continue
            text = f"{round(float(value), 2) + 0.0:.2f}".replace("-", "−")  # + 0.0: no -0.00
            if errors is not None and errors[row, column] > 0:
                text += f"\n±{errors[row, column]:.1g}"
            dark = np.dot(image.to_rgba(value)[:3], [0.3, 0.59, 0.11]) < 0.55
            ax.text(column, row, text, ha="center", va="center", fontsize=small, color="white" if dark else INK)
    return ax


def plot_exponents(
    exponents: Sequence[tuple[str, Array]],
    label: str = "exponent (nats per step)",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Finite-time Lyapunov exponents, sorted: the median of the trials, and a band that holds 80 % of them.

    Parameters
    ----------
    exponents : sequence of (name, ndarray)
        One a checkpoint, shape (B, k). Infinite ones have no place on the axis.
    label : str
        Of the vertical axis, with the unit.
    colors : sequence, optional
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(exponents)) if colors is None else colors
    ax.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    for (name, values), color, marker in zip(exponents, colors, markers(len(exponents)), strict=True):
        ordered = -np.sort(np.where(np.isfinite(values), -values, np.nan), axis=1)  # what is not finite goes last
        numbers = np.arange(1, values.shape[1] + 1)
        _band(ax, numbers, ordered, color, name, marker)
    longest = max(values.shape[1] for _, values in exponents)
    ax.set(xlabel="number of the exponent", ylabel=label)
    ax.set_xticks(whole_ticks(longest))
    ax.legend()
    return ax


def plot_running_exponents(
    times: Array,
    running: Array,
    label: str = "exponent up to then (nats per step)",
    horizontal: str = "time step",
    ax: Axes | None = None,
) -> Axes:
    """Exponents of the stretch from the start up to each time: flat where they have converged.

    Parameters
    ----------
    times : ndarray, shape (C,)
    running : ndarray, shape (C, k)
        Of one trial, or the mean over trials.
    label, horizontal : str
        Of the axes, with units.
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    ax.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, running.shape[1]))
    for index, color in enumerate(colors):
        name = str(index + 1) if index in (0, running.shape[1] - 1) else None
        ax.plot(times, running[:, index], color=color, linewidth=1.4, label=name, marker="o", markersize=3)
    ax.set(xlabel=horizontal, ylabel=label)
    ax.legend(title="number")
    return ax


def plot_growth(
    growth: Sequence[tuple[str, Array]],
    times: Array | None = None,
    label: str = "log of the largest growth",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Logarithmic growth of the propagator over time: median of the trials, and a band that holds 80 % of them.

    Parameters
    ----------
    growth : sequence of (name, ndarray)
        One a checkpoint, shape (b, T), natural logarithms. Up to twelve trials are drawn as thin lines as well.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    label : str
    colors : sequence, optional
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(growth)) if colors is None else colors
    places = time_axis(ax, times, growth[0][1].shape[1])
    ax.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    for (name, values), color in zip(growth, colors, strict=True):
        finite = np.where(np.isfinite(values), values, np.nan)
        if 1 < len(finite) <= _FEW_LINES:
            ax.plot(places, finite.T, color=color, linewidth=0.6, alpha=0.5)
        _band(ax, places, finite, color, name, "o" if len(places) <= 12 else None)
    ax.set_ylabel(label)
    if len(places) <= 12 and times is None:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def plot_trial_norms(
    norms: Sequence[tuple[str, Array]], colors: Sequence[Any] | None = None, ax: Axes | None = None
) -> Axes:
    """Operator norms of P, one point a trial, in their order from left to right, with a dash at the median.

    Parameters
    ----------
    norms : sequence of (name, ndarray)
        One a checkpoint, shape (B,). What is not positive has no place on the axis.
    colors : sequence, optional
    ax : Axes, optional
    """
    ax = given_or_new(ax)
    colors = checkpoint_colors(len(norms)) if colors is None else colors
    every: list[Array] = []
    for place, ((_, values), color) in enumerate(zip(norms, colors, strict=True)):
        beside = place + (np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1))
        use = values > 0
        ax.scatter(beside[use], values[use], s=9.0 if len(values) <= 300 else 3.0, color=color, alpha=0.6, linewidths=0)
        if use.any():
            ax.plot([place - 0.32, place + 0.32], [np.median(values[use])] * 2, color=INK, linewidth=1.4)
        every.append(values[use])
    names = [name for name, _ in norms]
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 4 else 0)
    ax.set(yscale="log", xlim=(-0.6, len(names) - 0.4), xlabel="checkpoint", ylabel="operator norm of P")
    _plain_log_ticks(ax, np.concatenate(every))
    return ax


def _band(ax: Axes, places: Array, values: Array, color: Any, name: str, marker: str | None) -> None:
    """Median and band of values (b, n), without the places where no value is finite."""
    some = np.isfinite(values).any(axis=0)
    if not some.any():
        ax.plot([], [], color=color, label=f"{name}: none finite")
        return
    low, middle, high = np.nanquantile(values[:, some], (_BAND[0], 0.5, _BAND[1]), axis=0)
    ax.fill_between(places[some], low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(places[some], middle, color=color, linewidth=1.7, marker=marker, markersize=4.5, label=name)


def _dot(places: Array) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4.5} if len(places) <= 12 else {}


def _plain_log_ticks(ax: Axes, sizes: Array) -> None:
    """Numbers such as 1, 10, 1,000 on a logarithmic axis; in between, where it spans less than two decades."""
    if not len(sizes):
        return
    low, high = float(sizes.min()), float(sizes.max())
    ax.set_ylim(low / 1.6, high * 2.2)
    if high / low < 100:
        ticks = LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low / 1.6, high * 2.2)
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low / 1.6 <= tick <= high * 2.2]))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
