"""The figures of the metrics, dimensions, stability and alignments, and the sentences that say how to read them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kpref.analysis.exhibits import SIZE, Exhibit, Panel, exhibit, size_with_names
from kpref.analysis.numbers import Analysis
from kpref.analysis.quantities import interval_of, quantities
from kpref.analysis.runs import until_end
from kpref.analysis.study import Study
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
from kpref.plots.style import title_of

__all__ = ["alignments", "dimensions", "size_of", "stability"]

#: Keys of `quantities` and names of the operators.
_OPERATORS = (("K", "K"), ("PP*", "P P*"), ("NTK", "NTK"))
#: Lines in one picture of running exponents.
_MOST_RUNNING = 8
_MATRIX_SIZE = (SIZE[0], 4.0)


def dimensions(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """Effective dimensions, Schmidt ranks and traces of the operators, checkpoint by checkpoint."""
    wanted: list[tuple[str, str, str, list[tuple[str, str]], str]] = [
        (
            "dimensions",
            "effective dimensions",
            "effective dimension",
            [(f"effective_dimension_{key}", name) for key, name in _OPERATORS],
            "about how many independent ways each operator has. K: changes of the dynamics that the parameters can "
            "make. P P*: patterns that the dynamics carry. NTK: ways in which gradient descent moves the states; if "
            "its dimension is low while the others are high, the dynamics funnel what the parameters can do into a "
            "few ways.",
        ),
        (
            "dimensions_K",
            "K along its axes",
            "effective dimension",
            [(f"effective_dimension_K_{axis}", f"{axis}s") for axis in ("unit", "trial", "time")],
            "over how many units, trials and times the reach of K is spread.",
        ),
        (
            "schmidt_ranks",
            "Schmidt ranks",
            "effective Schmidt rank",
            [("schmidt_rank_K", "K"), ("schmidt_rank_NTK", "NTK")],
            "a Schmidt rank of 1 means that what happens over trials and time is the same for every pattern of units.",
        ),
        (
            "traces",
            "traces",
            "trace",
            [(f"trace_{key}", name) for key, name in _OPERATORS],
            "the total strength.",
        ),
    ]
    if all(analysis.dimensions.without_schmidt for analysis in study.analyses):
        del wanted[2]
    panels = [
        Panel(
            key,
            f"{title} at each checkpoint",
            partial(_against_training, study=study, curves=curves, label=label, title=title),
        )
        for key, title, label, curves, _ in wanted
    ]
    caption = " ".join(f"{letter}: {each[-1]}" for letter, each in zip("ABCD", wanted, strict=False))
    caption += " Bars are 95 % intervals, many smaller than the markers; all scales are logarithmic."
    return [
        exhibit(
            "dimensions", f"Effective dimensions{', Schmidt ranks' * (len(wanted) == 4)} and traces", caption, panels
        )
    ]


def stability(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """Lyapunov exponents and the growth of P."""
    analyses, colors = study.analyses, checkpoint_colors(len(study.analyses))
    unit = "step" if study.integration is None else "unit of time"
    same = [a for a in analyses if a.space.shape[:2] == analyses[0].space.shape[:2]]
    kept = [color for a, color in zip(analyses, colors, strict=True) if a in same]

    def growth(ax: Axes) -> None:
        curves = [(a.name, _growth_until_end(a, study)) for a in same]
        plot_growth(curves, "log of the growth", same[0].times, kept, ax)
        title_of(ax, "growth of P over time")

    def exponents(ax: Axes) -> None:
        curves = [(a.name, a.stability.exponents.values) for a in analyses]
        plot_exponents(curves, f"exponent (nats per {unit})", colors, ax)
        title_of(ax, "Lyapunov exponents")

    def norms(ax: Axes) -> None:
        plot_trial_norms([(a.name, a.stability.trial_norms) for a in analyses], colors=colors, ax=ax)
        title_of(ax, "norm of P, one point a trial")

    panels = [
        Panel("growth", "logarithm of the growth of the propagator over time", growth, size_of(study)),
        Panel("lyapunov_exponents", "finite-time Lyapunov exponents, sorted", exponents, size_of(study)),
        Panel("trial_norms", "operator norm of P on each trial", norms),
    ]
    for analysis in analyses:
        draw = partial(_running, analysis=analysis, unit=unit)
        words = f"running Lyapunov exponents of {analysis.name} over time, mean over trials"
        panels.append(Panel(f"running_exponents_{analysis.name}", words, draw))
    caption = (
        "A: the most that any change of the initial state has grown by each time, as a natural logarithm: 0 is no "
        "change, −2.3 a tenth, +2.3 tenfold. A line that falls steadily forgets, a flat one remembers, a rising one "
        f"amplifies. B: the mean rate over a trial along each direction, the fastest first, in nats per {unit}: at the "
        "dashed line differences are kept for ever, below it they fade; −0.1 means that a tenth is gone after each "
        f"{unit}. Lines are medians, bands hold 80 % of the trials"
        f"{_parts(analyses[0])}. C: the norm of P, the most that it lengthens a nudge spread over all times; it is "
        "high where nudges last and add up; one point is one trial, the dash their median. "
        f"{'D' if len(analyses) == 1 else 'The others'}: exponents up to each time, mean of the trials; where they are "
        "flat they have converged."
    )
    return [exhibit("stability", "Growth of the propagator and Lyapunov exponents", caption, panels)]


def alignments(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    """K and the NTK of two checkpoints with each other, and sub-tasks with each other."""
    exhibits, panels = [], []
    for comparison in study.comparisons:
        found = comparison.alignments

        def draw(ax: Axes, found: Any = found) -> None:
            plot_alignment_matrix(found.values, [name.replace(", ", "\n", 1) for name in found.names], found.errors, ax)
            title_of(ax, "alignments")

        words = f"alignments of K and the NTK of {comparison.before} and {comparison.after}, a matrix of colours"
        panels.append(Panel(f"alignment_{comparison.after}", words, draw, _MATRIX_SIZE))
    if panels:
        caption = (
            "How much two operators have in common: 1 (red) if they are the same up to a factor, 0 (white) if nothing. "
            "The entry of the two NTKs says how far the ways in which gradient descent moves the states are still "
            "those of the first checkpoint: near 1 training is “lazy”, near 0 it changed them. K with the NTK of one "
            "checkpoint: near 1 the dynamics P hardly change what the parameters can do, near 0 they reshape it. "
            "Below each number its standard error; grey was not computed."
        )
        exhibits.append(exhibit("alignments", "K and the NTK, before and after", caption, panels))
    panels = []
    for analysis in study.analyses:
        tasks = analysis.tasks
        if tasks is None:
            continue

        def draw_tasks(ax: Axes, tasks: Any = tasks, name: str = analysis.name) -> None:
            plot_alignment_matrix(tasks.alignment, list(tasks.labels), ax=ax)
            ax.set(xlabel="label that is learned", ylabel="label that gains or loses")
            title_of(ax, name, 24)

        words = f"alignment of the sub-tasks (labels) of {analysis.name}, a matrix of colours"
        panels.append(Panel(f"tasks_{analysis.name}", words, draw_tasks, _MATRIX_SIZE))
    if panels:
        caption = (
            "What a gradient step on the trials of one label does to the loss on those of another: red, it helps; "
            "blue, it harms; white, nothing. The number is the cosine between the two gradients, exact. Labels that "
            "are blue to each other compete for the same changes of the network."
        )
        exhibits.append(exhibit("alignments", "Do the sub-tasks help each other?", caption, panels))
    return exhibits


def size_of(study: Study) -> tuple[float, float]:
    """Of a panel whose legend holds the checkpoints."""
    return size_with_names([analysis.name for analysis in study.analyses])


def _against_training(ax: Axes, study: Study, curves: list[tuple[str, str]], label: str, title: str) -> None:
    found = [{q.key: q for q in quantities(analysis)} for analysis in study.analyses]
    drawn = []
    for key, name in curves:
        values = np.array([of[key].value if key in of else np.nan for of in found])
        low, high = np.array([interval_of(of[key]) if key in of else (np.nan, np.nan) for of in found]).T
        drawn.append((name, values, np.stack([values - low, high - values])))
    plot_dimension_against_training([a.name for a in study.analyses], drawn, label, ax)
    title_of(ax, title)


def _growth_until_end(analysis: Analysis, study: Study) -> Any:
    found = analysis.stability
    return until_end(found.growth, study.trials.subset(found.growth_trials))


def _parts(analysis: Analysis) -> str:
    """For how many trials growth, norms and exponents are shown, if not for all."""
    total, found = analysis.space.shape[0], analysis.stability
    sizes = (("growth", len(found.growth)), ("norms and exponents", len(found.trials)))
    return "".join(f"; {what} of {used} of the {total:,} trials" for what, used in sizes if used < total)


def _running(ax: Axes, analysis: Analysis, unit: str) -> None:
    found = analysis.stability.exponents
    with np.errstate(invalid="ignore"):
        running = found.running.mean(axis=0)
    horizontal = "time step" if analysis.times is None else "time"
    plot_running_exponents(found.times, running[:, :_MOST_RUNNING], f"nats per {unit}, up to then", horizontal, ax)
    title_of(ax, f"convergence, {analysis.name}")
