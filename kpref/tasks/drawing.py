"""Pictures of trials: some examples side by side, what goes in above what should come out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kpref._types import Array
from kpref.lengths import points
from kpref.plots import STYLE, color_trials, plot_channels
from kpref.trials import Trials

__all__ = ["draw_trials"]

_EXAMPLES = 4
_ROW = 0.42  # inches of a channel
_FEWEST, _MOST = 1.1, 3.4  # inches of a panel


def draw_trials(
    trials: Trials, inputs: Sequence[str], outputs: Sequence[str], at: str = "all", title: str = ""
) -> Figure:
    """Four trials, spread over conditions or whatever else tells trials apart, as columns of a figure.

    Above stand the inputs, below the targets or the labels of steps; the label of a trial and its condition are in its
    heading. Steps that are not scored are shaded, those after the end of a trial hatched.

    Parameters
    ----------
    trials : Trials
    inputs, outputs : sequence of str
        Names of the channels; where they are not as many as the trials have, channels are numbered.
    at : {"all", "last"}
        Where the loss is taken: at all steps that are not masked, or the last of each trial.
    title : str

    Returns
    -------
    Figure
    """
    number = min(_EXAMPLES, trials.n_trials)
    chosen = color_trials(trials).order[(2 * np.arange(number) + 1) * trials.n_trials // (2 * number)]
    panels = [(trials.inputs, _names(inputs, trials.n_inputs, "x"))]
    if trials.targets is not None:
        panels.append((trials.targets, _names(outputs, trials.targets.shape[2], "y")))
    elif trials.labels is not None and trials.labels.ndim == 2:
        panels.append((trials.labels[:, :, None].astype(float), ["label"]))
    exists = points(trials.lengths, trials.n_steps)
    weights = _weights(trials, at)
    heights = [min(max(_FEWEST, _ROW * len(names)), _MOST) for _, names in panels]
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(3.3 * len(chosen), sum(heights) + 0.6 * len(panels) + 0.5), layout="constrained")
        axes = figure.subplots(len(panels), len(chosen), squeeze=False, height_ratios=heights)
        for column, trial in enumerate(chosen):
            for row, (values, names) in enumerate(panels):
                ax = axes[row, column]
                lines = np.where(exists[trial][:, None], values[trial], np.nan)
                plot_channels(lines, names, weights[trial], [values.min(), values.max()], ax=ax)
                if column and len(ax.get_yticklabels()) == len(names):
                    ax.set_yticklabels([])
                ax.set_ylabel("" if column or row else "inputs")
                ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
                if row < len(panels) - 1:
                    ax.set_xlabel("")
            axes[0, column].set_title(_heading(trials, int(trial)), fontsize=10.5)
        if trials.targets is not None:
            axes[1, 0].set_ylabel("targets")
        if title:
            figure.suptitle(title, fontsize=11.5)
        legend = ["grey: not scored"] if not weights[exists].all() else []
        legend += ["hatched: after the end of the trial"] if not exists.all() else []
        if legend:
            figure.supxlabel("; ".join(legend), fontsize=9.5)
    return figure


def _weights(trials: Trials, at: str) -> Array:
    """Of every step in the loss, (B, T); 1 where nothing exists, which is not shaded."""
    weights = np.ones((trials.n_trials, trials.n_steps)) if trials.mask is None else trials.mask
    if at == "last":
        weights = weights * (np.arange(trials.n_steps) == trials.lengths[:, None] - 1)
    return np.where(points(trials.lengths, trials.n_steps), weights, 1.0)


def _names(names: Sequence[str], number: int, letter: str) -> list[str]:
    return list(names) if len(names) == number else [f"{letter}_{channel}" for channel in range(1, number + 1)]


def _heading(trials: Trials, trial: int) -> str:
    words = [f"trial {trial}"]
    if trials.conditions is not None:
        words.append(str(trials.conditions[trial]))
    if trials.labels is not None and trials.labels.ndim == 1:
        words.append(f"label {trials.labels[trial]}")
    return ", ".join(words)
