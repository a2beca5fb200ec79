"""One trial over time, all of its channels: what goes into a network, and what should come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref._types import Array
from kpref._validate import instance
from kpref.plots.given import given_or_new, numbers, places, table
from kpref.plots.style import INK, plain_names, say, shown, time_axis, why_empty
from kpref.plots.trials_over_time import plot_change, shade_unscored

__all__ = ["plot_channels"]

_MOST_LINES = 12
_CEILING = 1.35  # of a row, in units of the largest modulus: rows do not touch


def plot_channels(
    values: npt.ArrayLike,
    names: Sequence[str],
    weights: npt.ArrayLike | None = None,
    limits: npt.ArrayLike | None = None,
    times: npt.ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The channels of one trial, one below the other, all on one scale; of more than twelve, a heat map.

    Parameters
    ----------
    values : ndarray, shape (T, C)
        NaN after the end of the trial, which is hatched.
    names : sequence of str, length C
    weights : ndarray, shape (T,), optional
        Of every step in the loss; those of weight zero are shaded.
    limits : (2,), optional
        The least and the largest number that a row has room for, to compare trials; by default those of the trial.
    times : ndarray, shape (T,), optional
        In the unit of time; the steps 1, ..., T by default.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> from kpref import tasks
    >>> from kpref.plots import plot_channels
    >>> trials = tasks.memory_pro(1, noise=0.0)
    >>> ax = plot_channels(trials.inputs[0], ["fixation", "cosine", "sine"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['fixation', 'cosine', 'sine']
    """
    values = shown(table("values", values, ("T", "C")))
    instance("names", names, list | tuple, "a list of the names of the channels")
    if len(names) != values.shape[1]:
        raise ValueError(f"names must be one for each of the {values.shape[1]} channels; got {len(names)}")
    steps = places(times, len(values))
    counted = None if weights is None else numbers("weights", weights, (len(values),))
    extent = shown(values if limits is None else numbers("limits", limits, (2,)))
    if values.shape[1] > _MOST_LINES:
        largest = float(np.nan_to_num(np.abs(extent)).max())
        ax = plot_change(values.T, largest, label="", times=times, ax=ax)
        ax.set_ylabel("channel")
        return ax
    ax = given_or_new(ax)
    time_axis(ax, steps, counted=times is None)
    if counted is not None:
        shade_unscored(counted[None], times, ax)
    _hatch_after(ax, steps, np.isfinite(values))
    _rows(ax, steps, values, extent[np.isfinite(extent)], plain_names(names, 16))
    return ax


def _rows(ax: Axes, steps: Array, values: Array, extent: Array, names: list[str]) -> None:
    largest = float(np.abs(extent).max(initial=0.0)) or 1.0
    low = min(-0.2, float(extent.min(initial=0.0)) / largest)
    height = _CEILING - low
    grounds = [height * row for row in reversed(range(len(names)))]
    for channel, ground in zip(values.T, grounds, strict=True):
        ax.axhline(ground, color="#d5dae0", linewidth=0.8, zorder=0)
        ax.plot(steps, ground + channel / largest, color=INK, linewidth=1.1, drawstyle="steps-mid")
    if len(steps) == 1:
        ax.scatter(np.repeat(steps, len(names)), np.array(grounds) + values[0] / largest, color=INK, s=14)
    ax.set_yticks(grounds, names)
    ax.set_ylim(low - 0.1, grounds[0] + _CEILING)
    ax.tick_params(axis="y", length=0)
    if not np.nan_to_num(values).any():
        say(ax, why_empty(values))


def _hatch_after(ax: Axes, steps: Array, there: npt.NDArray[np.bool_]) -> None:
    """Hatch what comes after the last step at which a channel has a value."""
    last = int(np.nonzero(there)[0].max()) if there.any() else len(steps) - 1
    if last < len(steps) - 1:
        middle = (steps[last] + steps[last + 1]) / 2
        ax.axvspan(middle, steps[-1], facecolor="#e6e9ed", edgecolor="#b4bcc6", hatch="////", linewidth=0, zorder=-1)
