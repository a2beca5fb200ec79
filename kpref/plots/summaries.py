"""The metrics of the K-P flow as figures: dimensions, alignments, exponents, growth, and modes over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from kpref._types import Array
from kpref._validate import check_shape, finite_array, short
from kpref.plots.given import colors_for, given_or_new, named_curves, numbers, places, table
from kpref.plots.style import (
    INK,
    MUTED,
    SLANTED,
    finish,
    guide,
    legend_of_names,
    markers,
    mean_over,
    name_ticks,
    plain,
    plain_names,
    say,
    shown,
    shown_on_log,
    time_axis,
    whole_ticks,
    why_empty,
)

__all__ = [
    "plot_alignment_matrix",
    "plot_dimension_against_training",
    "plot_exponents",
    "plot_growth",
    "plot_modes_over_time",
    "plot_running_exponents",
    "plot_trial_norms",
]

_BAND = (0.1, 0.9)  # quantiles of the trials that a band goes between
_OPERATORS = ("#1b1b1b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00")
_FEW_LINES = 12  # trials that are drawn as lines of their own
_LARGEST_WITH_NUMBERS = 12  # matrices with a number in each cell


def plot_modes_over_time(
    modes: npt.ArrayLike,
    values: npt.ArrayLike | None = None,
    label: str = "length, rms over trials",
    times: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Where in time each mode lives: its length over the units, as root mean square over trials, one line a mode.

    Parameters
    ----------
    modes : ndarray, shape (k, B, T, H)
        NaN after the end of a trial, which then is no part of the mean.
    values : ndarray, shape (k,), optional
        Their eigenvalues, for the legend.
    label : str
        Of the vertical axis.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import kpref
    >>> from kpref.plots import plot_modes_over_time
    >>> flow = kpref.Flow(kpref.models.RNN.init(2, 8, seed=0), [[[1.0, 0.0]] * 20])
    >>> modes = kpref.eigh(flow.NTK, k=3)
    >>> ax = plot_modes_over_time(modes.vectors, modes.values)
    """
    modes = table("modes", modes, ("k", "B", "T", "H"))
    if values is not None:
        values = numbers("values", values, (len(modes),))
    at = places(times, modes.shape[2])
    ax = given_or_new(ax)
    time_axis(ax, at, counted=times is None)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(modes)))
    lengths = [_rms_length(shown(mode)) for mode in modes]
    for index, (length, color) in enumerate(zip(lengths, colors, strict=True)):
        name = f"mode {index + 1}" + ("" if values is None else f", λ = {_short(values[index])}")
        ax.plot(at, length, color=color, linewidth=1.6, label=name, **_dot(at))
    ax.set_ylabel(label)
    top = float(np.nanmax(lengths)) if np.isfinite(lengths).any() else 0.0
    ax.set_ylim(0.0, 1.06 * top or 1.0)
    if not top:
        say(ax, why_empty(modes))
    legend_of_names(ax)
    return ax


def _rms_length(mode: Array) -> Array:
    """Lengths (T,) over the units of a mode (B, T, H), rms over trials; scaled so that squares do not overflow."""
    scale = float(np.nanmax(np.abs(mode), initial=0.0)) or 1.0
    squares = np.divide(mode, scale)
    np.square(squares, out=squares)
    return scale * np.sqrt(mean_over(squares.sum(axis=2), axis=0))


def plot_dimension_against_training(
    checkpoints: Sequence[str] | Sequence[float],
    curves: Iterable[tuple[str, npt.ArrayLike, npt.ArrayLike]],
    label: str = "effective dimension",
    ax: Axes | None = None,
) -> Axes:
    """Effective dimensions, or other positive sizes, of several operators against training.

    Parameters
    ----------
    checkpoints : sequence of str or of float, length c
        Names of the checkpoints, evenly spaced, or iterations, in their places.
    curves : iterable of (name, ndarray, ndarray)
        For each operator its sizes, shape (c,), and the lengths of the error bars, shape (c,), or (2, c) for those
        below and above. What is not positive and finite is left out; a length that is not finite draws no bar.
    label : str
        Of the vertical axis, which is logarithmic.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_dimension_against_training
    >>> curves = [("NTK", np.array([173.0, 4.9]), np.array([5.2, 0.3]))]
    >>> ax = plot_dimension_against_training([0, 1500], curves)
    >>> ax.get_xlabel()
    'training iteration'
    """
    checkpoints, named = _checkpoints(checkpoints)
    curves = named_curves("curves", curves, ("sizes", (len(checkpoints),)), ("errors", None))
    for index, (_, sizes, errors) in enumerate(curves):
        if errors.shape not in (sizes.shape, (2, *sizes.shape)):
            shapes = f"{sizes.shape} or {(2, *sizes.shape)}"
            raise ValueError(f"errors of curves[{index}] must have shape {shapes}; got {errors.shape}")
    ax = given_or_new(ax)
    at = np.arange(len(checkpoints)) if named else np.asarray(checkpoints, dtype=float)
    drawn = [shown_on_log(sizes) for _, sizes, _ in curves]
    names = plain_names([name for name, _, _ in curves])
    reach: list[Array] = []
    for index, ((_, given, errors), sizes, marker) in enumerate(zip(curves, drawn, markers(len(curves)), strict=True)):
        use = np.isfinite(sizes)
        lengths = np.nan_to_num(np.abs(shown(errors)))[..., use]
        style: Any = {"marker": marker, "markersize": 6, "linewidth": 1.5, "capsize": 4}
        name = names[index] if use.any() else f"{names[index]}: {why_empty(given)}"
        color = _OPERATORS[index % len(_OPERATORS)]
        ax.errorbar(at[use], sizes[use], yerr=lengths, color=color, label=name, **style)
        reach.append(shown_on_log(sizes[use] + lengths[-1] if lengths.ndim > 1 else sizes[use] + lengths))
    ax.set(ylabel=label, xlabel="network" if named else "training iteration")
    if named:
        name_ticks(ax, checkpoints)
    finish(ax, [sizes for _, sizes, _ in curves], [*drawn, *reach], logarithmic=True)
    return ax


def plot_alignment_matrix(
    values: npt.ArrayLike, names: Sequence[object], errors: npt.ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Alignments, -1 to 1, as colours that are white at zero, with the number in each cell of a small matrix.

    Parameters
    ----------
    values : ndarray, shape (n, n)
        NaN where an alignment is not defined.
    names : sequence
        Of the n rows and columns.
    errors : ndarray, shape (n, n), optional
        Standard errors, written below the numbers where they are finite and not zero.
    ax : Axes, optional
        By default those of a new figure. A colour bar goes beside them.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_alignment_matrix
    >>> ax = plot_alignment_matrix(np.array([[1.0, 0.2], [0.2, 1.0]]), ["K", "NTK"])
    >>> [text.get_text() for text in ax.texts]
    ['1.00', '0.20', '0.20', '1.00']
    """
    values = shown(table("values", values, ("n", "n")))
    size = len(values)
    check_shape("values", values, shape=(size, size))
    if isinstance(names, str) or not isinstance(names, Sequence) or len(names) != size:
        raise ValueError(f"names must be those of the {size} rows and columns; got {short(names)}")
    if errors is not None:
        errors = shown(numbers("errors", errors, values.shape))
    ax = given_or_new(ax)
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1.0, vmax=1.0, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="alignment", shrink=0.72, ticks=[-1, -0.5, 0, 0.5, 1])
    ax.set_facecolor("#e6e9ed")  # of cells without a number
    _matrix_ticks(ax, names)
    if not np.isfinite(values).any():
        say(ax, why_empty(values))
    if size > _LARGEST_WITH_NUMBERS:
        return ax
    small = 9.5 if size <= 6 else 6.5
    for row, column in np.ndindex(size, size):
        value = values[row, column]
        if not np.isfinite(value):
            ax.text(column, row, "–", ha="center", va="center", color=MUTED)
            continue
        text = f"{round(float(value), 2) + 0.0:.2f}" if abs(value) < 10 else f"{value:.1g}"  # + 0.0: no -0.00
        text = text.replace("-", "−")
        if errors is not None and 0 < errors[row, column] < np.inf:
            text += f"\n±{errors[row, column]:.1g}"
        dark = np.dot(image.to_rgba(value)[:3], [0.3, 0.59, 0.11]) < 0.55
        ax.text(column, row, text, ha="center", va="center", fontsize=small, color="white" if dark else INK)
    return ax


def plot_exponents(
    exponents: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "exponent (nats per step)",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Finite-time Lyapunov exponents, sorted: the median of the trials, and a band that holds 80 % of them.

    Parameters
    ----------
    exponents : iterable of (name, ndarray)
        One a checkpoint, shape (B, k). Infinite ones have no place on the axis.
    label : str
        Of the vertical axis, with the unit.
    colors : sequence, optional
        One a checkpoint.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_exponents
    >>> ax = plot_exponents([("after", np.array([[-0.02, -0.1], [-0.03, -0.2]]))])
    """
    exponents = named_curves("exponents", exponents, ("exponents", ("B", "k")))
    colors = colors_for(colors, len(exponents))
    ax = given_or_new(ax)
    guide(ax, 0.0)
    names = plain_names([name for name, _ in exponents])
    for name, (_, values), color, marker in zip(names, exponents, colors, markers(len(exponents)), strict=True):
        ordered = -np.sort(-shown(values), axis=1)  # what is not finite goes last
        _band(ax, np.arange(1, ordered.shape[1] + 1), ordered, color, name, values, marker)
    longest = max((values.shape[1] for _, values in exponents), default=1) or 1
    ax.set(xlabel="number of the exponent", ylabel=label)
    ax.set_xticks(whole_ticks(longest))
    all_values = [shown(values) for _, values in exponents]
    finish(ax, all_values, all_values)
    return ax


def plot_running_exponents(
    times: npt.ArrayLike,
    running: npt.ArrayLike,
    label: str = "nats per step, up to then",
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
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_running_exponents
    >>> times = np.array([1, 2, 4, 8, 16])
    >>> ax = plot_running_exponents(times, -0.1 - np.outer(1 / times, [0.2, 0.4]))
    """
    drawn = shown(table("running", running, ("C", "k")))
    times = finite_array("times", times, shape=(len(drawn),))
    ax = given_or_new(ax)
    guide(ax, 0.0)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, drawn.shape[1]))
    for index, color in enumerate(colors):
        name = str(index + 1) if index in (0, drawn.shape[1] - 1) else None
        ax.plot(times, drawn[:, index], color=color, linewidth=1.4, label=name, marker="o", markersize=3)
    ax.set(xlabel=horizontal, ylabel=label)
    finish(ax, [drawn], [drawn], title="number")
    return ax


def plot_growth(
    growth: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "log of the largest growth",
    times: npt.ArrayLike | None = None,
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Logarithmic growth of the propagator over time: median of the trials, and a band that holds 80 % of them.

    Parameters
    ----------
    growth : iterable of (name, ndarray)
        One a checkpoint, shape (b, T), natural logarithms; what is not finite, as after the end of a trial, is left
        out. Up to twelve trials are drawn as thin lines as well.
    label : str
        Of the vertical axis.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    colors : sequence, optional
        One a checkpoint.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_growth
    >>> ax = plot_growth([("before", -0.4 * np.arange(90.0)[None]), ("after", 0.01 * np.arange(90.0)[None])])
    """
    growth = named_curves("growth", growth, ("growth", ("b", "T")))
    colors = colors_for(colors, len(growth))
    steps = max((values.shape[1] for _, values in growth), default=1) or 1
    for index, (_, values) in enumerate(growth):
        check_shape(f"growth[{index}]", values, shape=("b", steps))
    at = places(times, steps)
    ax = given_or_new(ax)
    time_axis(ax, at, counted=times is None)
    guide(ax, 0.0)
    names = plain_names([name for name, _ in growth])
    for name, (_, values), color in zip(names, growth, colors, strict=True):
        drawn = shown(values)
        if 1 < len(drawn) <= _FEW_LINES:
            ax.plot(at, drawn.T, color=color, linewidth=0.6, alpha=0.5)
        _band(ax, at, drawn, color, name, values, "o" if len(at) <= 12 else None)
    ax.set_ylabel(label)
    all_values = [shown(values) for _, values in growth]
    finish(ax, all_values, all_values)
    return ax


def plot_trial_norms(
    norms: Iterable[tuple[str, npt.ArrayLike]],
    label: str = "operator norm of P",
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Operator norms of P, one point a trial, in their order from left to right, with a dash at the median.

    Parameters
    ----------
    norms : iterable of (name, ndarray)
        One a checkpoint, shape (B,). What is not positive and finite has no place on the axis.
    label : str
        Of the vertical axis, which is logarithmic.
    colors : sequence, optional
        One a checkpoint.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_trial_norms
    >>> ax = plot_trial_norms([("before", np.array([3.1, 3.2])), ("after", np.array([300.0, 410.0]))])
    """
    norms = named_curves("norms", norms, ("norms", ("B",)))
    colors = colors_for(colors, len(norms))
    ax = given_or_new(ax)
    drawn = [shown_on_log(values) for _, values in norms]
    for place, (values, color) in enumerate(zip(drawn, colors, strict=True)):
        beside = place + (np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1))
        use = np.isfinite(values)
        ax.scatter(beside[use], values[use], s=9.0 if len(values) <= 300 else 3.0, color=color, alpha=0.6, linewidths=0)
        if use.any():
            ax.plot([place - 0.32, place + 0.32], [np.median(values[use])] * 2, color=INK, linewidth=1.4)
    name_ticks(ax, [name for name, _ in norms])
    ax.set(xlabel="network", ylabel=label)
    finish(ax, [values for _, values in norms], drawn, logarithmic=True)
    return ax


def _checkpoints(checkpoints: Any) -> tuple[list[Any], bool]:
    """Names of checkpoints, or iterations; and whether they are names."""
    several = isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str)
    if several and all(isinstance(name, str) for name in checkpoints):
        return list(checkpoints), True
    return list(finite_array("checkpoints", checkpoints, shape=("c",))), False


def _band(ax: Axes, places: Array, drawn: Array, color: Any, name: str, values: Array, marker: str | None) -> None:
    """Median and band of numbers (b, n), without the places where none is finite."""
    some = np.isfinite(drawn).any(axis=0)
    if not some.any():
        ax.plot([], [], color=color, label=f"{name}: {why_empty(values)}")
        return
    low, middle, high = np.nanquantile(drawn[:, some], (_BAND[0], 0.5, _BAND[1]), axis=0)
    ax.fill_between(places[some], low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(places[some], middle, color=color, linewidth=1.7, marker=marker, markersize=4.5, label=name)


def _matrix_ticks(ax: Axes, names: Sequence[object]) -> None:
    """Names beside and below a matrix; where it is large, at about twenty of the rows and columns."""
    lines = ["\n".join(plain(part, 20) for part in str(name).split("\n")) for name in names]
    every = max(1, -(-len(lines) // 20))
    places = range(0, len(lines), every)
    chosen = [lines[place] for place in places]
    short = max(map(len, lines), default=0) <= (4 if len(chosen) <= 8 else 2)
    size = 9.0 if len(chosen) <= 12 else 7.0
    ax.set_xticks(places, chosen, fontsize=size, **({} if short else SLANTED | {"rotation": 40}))
    ax.set_yticks(places, chosen, fontsize=size)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _short(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}" if 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"


def _dot(places: Array) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4.5} if len(places) <= 12 else {}
