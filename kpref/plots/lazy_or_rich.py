"""Loss of networks in training beside that of their linearisations: where the two part, features are learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from kpref.plots.given import colors_for, given_or_new, named_curves
from kpref.plots.style import DASHED, finish, plain_names, shown, shown_on_log

__all__ = ["plot_lazy_or_rich"]


def plot_lazy_or_rich(
    losses: Iterable[tuple[str, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    colors: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The loss against training time, and dashed that of the linearised network.

    Parameters
    ----------
    losses : iterable of (name, times, loss, linearised)
        One a network, arrays of shape (k,); times are learning rate times steps, and losses that are not positive are
        left out. `kpref.learning.LinearisedTraining.loss` gives the last.
    colors : sequence, optional
        One a network.
    ax : Axes, optional
        By default those of a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpref.plots import plot_lazy_or_rich
    >>> times = np.linspace(0, 3)
    >>> ax = plot_lazy_or_rich([("64 units", times, np.exp(-1.1 * times), np.exp(-times))])
    >>> ax.get_ylabel()
    'loss (dashed: linearised)'
    """
    losses = named_curves("losses", losses, ("times", ("k",)), ("loss", ("k",)), ("linearised", ("k",)))
    colors = colors_for(colors, len(losses))
    ax = given_or_new(ax)
    names = plain_names([name for name, *_ in losses])
    drawn: list[npt.NDArray[np.floating[Any]]] = []
    for name, (_, times, loss, linearised), color in zip(names, losses, colors, strict=True):
        at, actual, predicted = shown(times), shown_on_log(loss), shown_on_log(linearised)
        ax.plot(at, actual, color=color, label=name)
        ax.plot(at, predicted, color=color, linestyle=DASHED)
        drawn += [actual, predicted]
    ax.set(xlabel="learning rate times steps", ylabel="loss (dashed: linearised)")
    finish(ax, [values for _, _, *pair in losses for values in pair], drawn, logarithmic=True)
    return ax
