"""The pictures of a report: functions that draw on matplotlib axes and return them.

They know nothing of files or reports, so that they serve in a notebook or a paper as well.
"""

from kpref.plots.curves import plot_cumulative, plot_errors, plot_spectrum
from kpref.plots.metrics import (
    plot_alignment_matrix,
    plot_dimension_against_training,
    plot_exponents,
    plot_growth,
    plot_modes_over_time,
    plot_running_exponents,
    plot_trial_norms,
)
from kpref.plots.style import STYLE, checkpoint_colors
from kpref.plots.trials import plot_change, plot_legend_of_trials, plot_outputs, plot_trials

__all__ = [
    "STYLE",
    "checkpoint_colors",
    "plot_alignment_matrix",
    "plot_change",
    "plot_cumulative",
    "plot_dimension_against_training",
    "plot_errors",
    "plot_exponents",
    "plot_growth",
    "plot_legend_of_trials",
    "plot_modes_over_time",
    "plot_outputs",
    "plot_running_exponents",
    "plot_spectrum",
    "plot_trial_norms",
    "plot_trials",
]
