"""The pictures of a report, for notebooks and papers: functions from data to matplotlib axes.

Each takes its data first, then labels and colours, and as its last argument `ax` the axes to draw on, by default those
of a new figure; each returns the axes. Curves come as pairs of a name and an array, one a checkpoint or operator.
None of them knows of files or reports, and none fails on zeros, equal or negative numbers, NaN or infinity: what has no
place on an axis is left out, and where nothing is left the axes say so in words.

>>> import matplotlib
>>> from kpref import plots
>>> with matplotlib.rc_context(plots.STYLE):  # the looks of a report
...     ax = plots.plot_spectrum([("K", [3.0, 2.0, 0.5])])
"""

from kpref.coloring import TrialColoring, color_trials
from kpref.plots.channels import plot_channels
from kpref.plots.curves import plot_angles, plot_cumulative, plot_errors, plot_spectrum
from kpref.plots.densities import plot_spectral_density
from kpref.plots.fixed_points import plot_fixed_points
from kpref.plots.lazy_or_rich import plot_lazy_or_rich
from kpref.plots.parts import plot_parts
from kpref.plots.style import STYLE, checkpoint_colors
from kpref.plots.summaries import (
    plot_alignment_matrix,
    plot_dimension_against_training,
    plot_exponents,
    plot_growth,
    plot_modes_over_time,
    plot_running_exponents,
    plot_trial_norms,
)
from kpref.plots.trials_over_time import plot_change, plot_legend_of_trials, plot_outputs, plot_trials, shade_unscored

__all__ = [
    "STYLE",
    "TrialColoring",
    "checkpoint_colors",
    "color_trials",
    "plot_alignment_matrix",
    "plot_angles",
    "plot_change",
    "plot_channels",
    "plot_cumulative",
    "plot_dimension_against_training",
    "plot_errors",
    "plot_exponents",
    "plot_fixed_points",
    "plot_growth",
    "plot_lazy_or_rich",
    "plot_legend_of_trials",
    "plot_modes_over_time",
    "plot_outputs",
    "plot_parts",
    "plot_running_exponents",
    "plot_spectral_density",
    "plot_spectrum",
    "plot_trial_norms",
    "plot_trials",
    "shade_unscored",
]
