"""The figures of the metrics, dimensions, stability and alignments, and the sentences that say how to read them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kpref.analysis.comparison import Study
from kpref.analysis.exhibits import Exhibit, draw_panel
from kpref.analysis.numbers import Analysis
from kpref.analysis.quantities import quantities
from kpref.coloring import TrialColoring
from kpref.plots import (
    checkpoint_colors,
    plot_alignment_matrix,
    plot_dimension_against_training,
    plot_exponents,
    plot_growth,
    plot_running_exponents,
    plot_trial_norms,
)

__all__ = ["alignments", "dimensions", "stability"]

#: Keys of `quantities` and names of the operators.
_OPERATORS = (("K", "K"), ("PP*", "P P*"), ("NTK", "NTK"))
#: Lines in one picture of running exponents.
_MOST_RUNNING = 8


def dimensions(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """Effective dimensions, Schmidt ranks and traces of the operators, checkpoint by checkpoint."""
    wanted: list[tuple[str, str, str, list[tuple[str, str]]]] = [
        (
            "dimensions",
            "effective dimensions",
            "effective dimension",
            [(f"effective_dimension_{key}", name) for key, name in _OPERATORS],
        ),
        (
            "dimensions_K",
            "K along its axes",
            "effective dimension",
            [(f"effective_dimension_K_{axis}", f"{axis}s") for axis in ("unit", "trial", "time")],
        ),
        (
            "schmidt_ranks",
            "Schmidt ranks",
            "effective Schmidt rank",
            [("schmidt_rank_K", "K"), ("schmidt_rank_NTK", "NTK")],
        ),
        ("traces", "traces", "trace", [(f"trace_{key}", name) for key, name in _OPERATORS]),
    ]
    panels = []
    for key, title, label, curves in wanted:
        draw = partial(_against_training, study=study, curves=curves, label=label, title=title)
        panels.append(draw_panel(key, f"{label}, {title}, at each checkpoint", draw))
    caption = (
        "First: about how many independent ways each operator has. K: changes of the dynamics that the parameters can "
        "make. P P*: patterns that the dynamics carry. NTK: ways in which gradient descent moves the states; if its "
        "dimension is low while the others are high, the dynamics funnel what the parameters can do into a few ways. "
        "Second: over how many units, trials and times the reach of K is spread. Third: a Schmidt rank of 1 means that "
        "what happens over trials and time is the same for every pattern of units. Fourth: the total strength. Bars "
        "are standard errors, many smaller than the markers; all scales are logarithmic."
    )
    return [Exhibit("dimensions", "Effective dimensions, Schmidt ranks and traces", caption, tuple(panels))]


def stability(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """Lyapunov exponents and the growth of P."""
    analyses, colors = study.analyses, checkpoint_colors(len(study.analyses))
    unit = "step" if study.integration is None else "unit of time"
    same = [a for a in analyses if a.space.shape[:2] == analyses[0].space.shape[:2]]
    kept = [color for a, color in zip(analyses, colors, strict=True) if a in same]

    def growth(axes: Axes) -> None:
        curves = [(a.name, a.stability.growth) for a in same]
        plot_growth(curves, same[0].times, "log of the most an early change grew", kept, axes)
        axes.set_title("growth of P over time")

    def exponents(axes: Axes) -> None:
        curves = [(a.name, a.stability.exponents.values) for a in analyses]
        plot_exponents(curves, f"exponent (nats per {unit})", colors, axes).set_title("Lyapunov exponents")

    def norms(axes: Axes) -> None:
        plot_trial_norms([(a.name, a.stability.trial_norms) for a in analyses], colors, axes)
        axes.set_title("norm of P, one point a trial")

    panels = [
        draw_panel("growth", "logarithm of the growth of the propagator over time", growth),
        draw_panel("lyapunov_exponents", "finite-time Lyapunov exponents, sorted", exponents),
        draw_panel("trial_norms", "operator norm of P on each trial", norms),
    ]
    for analysis in analyses:
        draw = partial(_running, analysis=analysis, unit=unit)
        words = f"running Lyapunov exponents of {analysis.name} over time, mean over trials"
        panels.append(draw_panel(f"running_exponents_{analysis.name}", words, draw))
    caption = (
        "Growth: the most that any change of the initial state has grown by each time, as a logarithm: 0 is no change, "
        "−2.3 a tenth, +2.3 tenfold. A line that falls steadily forgets, a flat one remembers, a rising one amplifies. "
        f"Exponents: the mean rate over a trial along each direction, the fastest first, in nats per {unit}: at the "
        "dashed line differences are kept for ever, below it they fade; −0.1 means that a tenth is gone after each "
        f"{unit}. Lines are medians, bands hold 80 % of the trials"
        f"{_parts(analyses[0])}. The norm of P: the most that it lengthens a nudge spread over all times; it is high "
        "where nudges last and add up; one point is one trial, the dash their median. Running exponents (mean of the "
        "trials): up to each time; where they are flat they have converged."
    )
    return [Exhibit("stability", "Growth of the propagator and Lyapunov exponents", caption, tuple(panels))]


def alignments(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """K and the NTK of two checkpoints with each other, and sub-tasks with each other."""
    exhibits, panels = [], []
    for comparison in study.comparisons:
        found = comparison.alignments

        def draw(axes: Axes, found: Any = found) -> None:
            labels = [name.replace(", ", "\n") for name in found.names]
            plot_alignment_matrix(found.values, labels, found.errors, axes).set_title("alignment of operators")

        words = f"alignments of K and the NTK of {comparison.before} and {comparison.after}, a matrix of colours"
        panels.append(draw_panel(f"alignment_{comparison.after}", words, draw, (5.4, 4.3)))
    if panels:
        caption = (
            "How much two operators have in common: 1 (red) if they are the same up to a factor, 0 (white) if nothing. "
            "The entry of the two NTKs says how far the ways in which gradient descent moves the states are still "
            "those of the first checkpoint: near 1 training is “lazy”, near 0 it changed them. K with the NTK of one "
            "checkpoint: near 1 the dynamics P hardly change what the parameters can do, near 0 they reshape it. "
            "Below each number its standard error; grey was not computed."
        )
        exhibits.append(Exhibit("alignments", "K and the NTK, before and after", caption, tuple(panels)))
    panels = []
    for analysis in study.analyses:
        tasks = analysis.tasks
        if tasks is None:
            continue

        def draw_tasks(axes: Axes, tasks: Any = tasks, name: str = analysis.name) -> None:
            plot_alignment_matrix(tasks.alignment, [str(label) for label in tasks.labels], ax=axes).set_title(name)
            axes.set(xlabel="label that is learned", ylabel="label that gains or loses")

        words = f"alignment of the sub-tasks (labels) of {analysis.name}, a matrix of colours"
        panels.append(draw_panel(f"tasks_{analysis.name}", words, draw_tasks, (5.4, 4.3)))
    if panels:
        caption = (
            "What a gradient step on the trials of one label does to the loss on those of another: red, it helps; "
            "blue, it harms; white, nothing. The number is the cosine between the two gradients, exact. Labels that "
            "are blue to each other compete for the same changes of the network."
        )
        exhibits.append(Exhibit("alignments", "Do the sub-tasks help each other?", caption, tuple(panels)))
    return exhibits


def _against_training(axes: Axes, study: Study, curves: list[tuple[str, str]], label: str, title: str) -> None:
    found = [{q.key: q for q in quantities(analysis)} for analysis in study.analyses]
    drawn = [
        (name, np.array([of[key].value for of in found]), np.array([of[key].error or 0.0 for of in found]))
        for key, name in curves
    ]
    plot_dimension_against_training([a.name for a in study.analyses], drawn, label, axes).set_title(title)


def _parts(analysis: Analysis) -> str:
    """For how many trials growth, norms and exponents are shown, if not for all."""
    total, found = analysis.space.shape[0], analysis.stability
    sizes = (("growth", len(found.growth)), ("norms and exponents", len(found.trials)))
    return "".join(f"; {what} of {used} of the {total:,} trials" for what, used in sizes if used < total)


def _running(axes: Axes, analysis: Analysis, unit: str) -> None:
    found = analysis.stability.exponents
    with np.errstate(invalid="ignore"):
        running = found.running.mean(axis=0)
    horizontal = "time step" if analysis.times is None else "time"
    shown = np.where(np.isfinite(running), running, np.nan)[:, :_MOST_RUNNING]
    plot_running_exponents(found.times, shown, f"exponent up to then (nats per {unit})", horizontal, axes)
    axes.set_title(f"convergence, {analysis.name}")
