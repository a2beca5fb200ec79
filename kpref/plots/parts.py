"""How modes are spread over the parts of a state: the h and c of an LSTM, layers one above the other."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref.plots.given import given_or_new
from kpref.plots.style import legend_columns, legend_of_names, plain_names, say, shown, whole_ticks, why_empty

__all__ = ["plot_parts"]


def plot_parts(shares: npt.ArrayLike, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Share of each mode that lies in each part of the state, as bars on top of each other.

    Parameters
    ----------
    shares : array_like, shape (k, p)
        For each mode its squared norm within each part, of any scale; what is not finite and positive has no height.
    names : sequence of str, length p
        Of the parts.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> from kpref.plots import plot_parts
    >>> ax = plot_parts([[0.8, 0.2], [0.3, 0.7]], ["h", "c"])
    >>> ax.get_ylabel()
    'share of the mode (%)'
    """
    ax = given_or_new(ax)
    heights = np.maximum(np.nan_to_num(shown(shares)), 0.0)
    scale = heights.max(axis=1, keepdims=True, initial=0.0)
    heights = np.divide(heights, scale, out=np.zeros_like(heights), where=scale > 0)  # so that sums do not overflow
    total = heights.sum(axis=1, keepdims=True)
    percents = 100 * np.divide(heights, total, out=np.zeros_like(heights), where=total > 0)
    modes, floor = np.arange(1, len(percents) + 1), np.zeros(len(percents))
    colors = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.9, max(1, len(names))))
    for name, part, color in zip(plain_names(names), percents.T, colors, strict=True):
        ax.bar(modes, part, 0.8, bottom=floor, label=name, color=color)
        floor = floor + part
    ax.set_xlabel("number of the mode")
    ax.set_ylabel("share of the mode (%)")
    ax.set_xticks(whole_ticks(max(1, len(modes))))
    ax.set_yticks(range(0, 101, 25))
    ax.set_ylim(0.0, 100.0 if legend_columns(list(names)) else 140.0)  # room for names inside
    if not total.any():
        say(ax, why_empty(shares))
    legend_of_names(ax)
    return ax
