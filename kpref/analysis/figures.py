"""The figures of a report: which picture stands where, as PNG, and the sentences that say how to read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kpref.analysis.comparison import Study
from kpref.analysis.exhibits import Exhibit, draw_panel, legend_panel
from kpref.analysis.findings import number
from kpref.analysis.metric_figures import alignments, dimensions, stability
from kpref.analysis.numbers import Analysis
from kpref.coloring import TrialColoring, color_trials
from kpref.plots import (
    STYLE,
    checkpoint_colors,
    plot_change,
    plot_cumulative,
    plot_errors,
    plot_modes_over_time,
    plot_outputs,
    plot_spectrum,
    plot_trials,
)

__all__ = ["draw_exhibits"]

_MOST_OUTPUTS = 3
_MOST_LENGTHS = 5  # modes in one picture over time


def draw_exhibits(study: Study, progress: Callable[[str], object] | None = None) -> list[Exhibit]:
    """Draw all figures of a study.

    Parameters
    ----------
    study : Study
    progress : callable, optional
        Told the title of each exhibit.

    Returns
    -------
    list of Exhibit
    """
    exhibits = []
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        coloring = color_trials(study.trials)
        makers = [
            _spectra, _modes, dimensions, stability, alignments, _shares, _steps, _changes, _outputs, _angles,
            _differences,
        ]  # fmt: skip
        for maker in makers:
            for exhibit in maker(study, coloring):
                exhibits.append(exhibit)
                if progress is not None:
                    progress(exhibit.title)
    return exhibits


def _outputs(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    for analysis in study.analyses:
        outputs, name = analysis.outputs, analysis.name
        if outputs is None:
            continue
        if study.trials.targets is not None:
            targets = study.trials.targets
            panels = [
                draw_panel(
                    f"outputs_{name}_{channel + 1}",
                    f"output {channel + 1} of {name} and its target over time",
                    partial(
                        plot_outputs,
                        outputs=outputs[..., channel],
                        targets=targets[..., channel],
                        coloring=coloring,
                        label=f"output {channel + 1}",
                        times=analysis.times,
                    ),
                )
                for channel in range(min(outputs.shape[2], _MOST_OUTPUTS))
            ]
            more = outputs.shape[2] - _MOST_OUTPUTS
            caption = (
                "What the network says (solid) and what it should say (dashed), for eight trials spread over the set; "
                "one colour is one trial." + (f" {more} more outputs are not drawn." if more > 0 else "")
            )
        else:
            right = _probability_of_label(study, outputs)
            panels = [
                draw_panel(
                    f"outputs_{name}",
                    f"probability of the right answer of {name} over time",
                    partial(
                        plot_trials,
                        amplitude=right,
                        coloring=coloring,
                        label="probability of the right class",
                        times=analysis.times,
                    ),
                )
            ]
            caption = (
                "The probability that the readout gives to the right class if it is asked at that step: thin lines are "
                "trials, thick ones the mean of each class. Up and to the left is better."
            )
        panels.append(legend_panel(coloring, f"outputs_{name}_colors"))
        exhibits.append(Exhibit("outputs", f"Readout of {name}", caption, tuple(panels)))
    return exhibits


def _modes(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    for analysis in study.analyses:
        panels = []
        for index, profile in enumerate(analysis.profiles):
            value = analysis.ntk_modes.values[index]

            def draw(
                axes: Axes,
                index: int = index,
                profile: Any = profile,
                value: float = value,
                times: Any = analysis.times,
            ) -> None:
                plot_trials(axes, profile.amplitude, coloring, "amplitude (the mode has norm 1)", times)
                axes.set_title(f"mode {index + 1}: λ = {number(value)}, shown: {profile.share:.0%}")

            description = f"eigenfunction {index + 1} of the NTK of {analysis.name} over time, one line a trial"
            panels.append(draw_panel(f"modes_{analysis.name}_{index + 1}", description, draw))
        panels.append(legend_panel(coloring, f"modes_{analysis.name}_colors"))
        panels.append(
            draw_panel(
                f"modes_{analysis.name}_over_time",
                f"length over time of the leading modes of the NTK of {analysis.name}",
                partial(_lengths, analysis=analysis),
            )
        )
        caption = (
            "The ways in which one gradient step can move the states most: each panel is an eigenfunction of the NTK, "
            "seen along the direction of state space that holds the percentage written above it. Where lines of "
            "different colours part, training can move those trials apart; where they run together, it can only move "
            "them together. Panels that look alike differ in their direction. The sign is arbitrary. "
            "Last panel: how long each mode is at each time, over all units and trials; where it is high, training "
            "moves the states along that mode."
        )
        exhibits.append(Exhibit("modes", f"Leading modes of the NTK, {analysis.name}", caption, tuple(panels)))
    return exhibits


def _lengths(axes: Axes, analysis: Analysis) -> None:
    modes = analysis.ntk_modes
    plot_modes_over_time(modes.vectors[:_MOST_LENGTHS], modes.values, analysis.times, axes)
    axes.set_title("where in time the modes live")


def _spectra(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    analyses, colors = study.analyses, checkpoint_colors(len(study.analyses))
    wanted = [
        ("K", "what parameters can do (K)", [(a.name, a.kernel_modes.values) for a in analyses]),
        ("propagator", "what the dynamics make of it (P P*)", [(a.name, a.propagator_modes.values) for a in analyses]),
        ("NTK", "both together (NTK)", [(a.name, a.ntk_modes.values) for a in analyses]),
    ]
    panels = []
    for key, title, spectra in wanted:

        def draw(axes: Axes, title: str = title, spectra: Any = spectra) -> None:
            plot_spectrum(axes, spectra, colors, "eigenvalue").set_title(title)

        panels.append(draw_panel(f"eigenvalues_{key}", f"leading eigenvalues: {title}", draw))
    leading = Exhibit(
        "spectra",
        "Leading eigenvalues",
        "Each eigenvalue is the (squared) strength of one independent way to change the network. A steep NTK means "
        "that gradient descent moves the states in a few ways much faster than in all others; a large first eigenvalue "
        "of P P* means that the dynamics amplify and keep small changes.",
        tuple(panels),
    )

    def full(axes: Axes) -> None:
        dimensions = [a.kernel.effective_dimension for a in analyses]
        plot_spectrum(axes, [(a.name, a.kernel.values) for a in analyses], colors, "eigenvalue of K", dimensions)

    def cumulative(axes: Axes) -> None:
        for analysis, color in zip(analyses, colors, strict=True):
            share = np.cumsum(analysis.kernel.values) / (analysis.kernel.trace or 1.0) * 100
            axes.plot(np.arange(1, len(share) + 1), share, color=color, linewidth=1.4, label=analysis.name)
            dimension = analysis.kernel.effective_dimension
            axes.axvline(dimension, color=color, linewidth=1.0, linestyle=(0, (3, 2)))
        axes.set(xscale="log", ylim=(0, 103), xlabel="number of eigenvalues", ylabel="share of the trace of K (%)")
        axes.legend(loc="lower right")

    exact = Exhibit(
        "spectra",
        "The whole spectrum of K, exact",
        "All nonzero eigenvalues of K, with multiplicities (first), and their running sum (second). The dashed lines "
        "mark the effective dimension: about so many independent changes of the dynamics carry most of what the "
        "parameters can do.",
        (
            draw_panel("spectrum_K", "all eigenvalues of K on logarithmic axes", full),
            draw_panel("spectrum_K_cumulative", "running sum of the eigenvalues of K", cumulative),
        ),
    )
    return [leading, exact]


def _shares(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    colors = checkpoint_colors(len(study.analyses))
    have = [(a, color) for a, color in zip(study.analyses, colors, strict=True) if a.shares is not None]
    if not have:
        return []
    used = [color for _, color in have]
    parts = [
        ("error", "of the error |Err|²", "share of |Err|² (%)"),
        ("rate", "of the fall of the loss", "share of the rate of fall (%)"),
    ]
    panels = []
    for key, title, label in parts:
        shares = [(a.name, getattr(a.shares, key)) for a, _ in have]

        def draw(axes: Axes, shares: Any = shares, title: str = title, label: str = label) -> None:
            plot_cumulative(axes, shares, used, label).set_title(title)

        panels.append(draw_panel(f"shares_{key}", f"share {title} in the leading NTK modes", draw))
    caption = (
        "How much of the error lies in the leading modes of the NTK (first; mind the scale), and how much of the speed "
        "at which gradient descent lowers the loss comes from them (second). A low curve first and a high one second: "
        "the loss falls mainly through a small part of the error, the part that the network can be moved along easily."
    )
    return [Exhibit("shares", "Error and loss in the leading modes", caption, tuple(panels))]


def _steps(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    colors = checkpoint_colors(len(study.analyses))
    have = [(a, color) for a, color in zip(study.analyses, colors, strict=True) if a.step is not None]
    if not have:
        return []
    curves = [(a.name, a.step.etas, a.step.gap) for a, _ in have if a.step is not None]
    relative = [(a.name, a.step.etas, a.step.relative_error) for a, _ in have if a.step is not None]
    used = [color for _, color in have]

    def gaps(axes: Axes) -> None:
        plot_errors(axes, curves, used, "learning rate η", "|realised − predicted|, in states")

    def ratios(axes: Axes) -> None:
        for (_, etas, errors), (_, color) in zip(relative, have, strict=True):
            axes.plot(etas, errors * 100, color=color, marker="o", markersize=5, linewidth=1.2)
        axes.axhline(10, color="#8a94a0", linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="error of the prediction (%)")

    caption = (
        "The network is really run again after one step of gradient descent, for several learning rates η, and its "
        "change of states is compared with the prediction −η NTK Err. First: the difference falls with the square "
        "of η (parallel to the dashed line), as it must if the prediction is the exact first order. Second: the same "
        "in percent of the predicted change; below the dashed line at 10 % the prediction is a good picture of reality."
    )
    panels = (
        draw_panel("step_gap", "difference of realised and predicted change against the learning rate", gaps),
        draw_panel("step_relative_error", "relative error of the prediction against the learning rate", ratios),
    )
    return [Exhibit("steps", "Does the prediction hold?", caption, panels)]


def _changes(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    for analysis in study.analyses:
        step = analysis.step
        if step is None:
            continue
        predicted, realised = step.predicted_profile.amplitude, step.realised_amplitude
        # A few extreme entries must not bleach the rest; the same scale for all three panels.
        limit = float(np.quantile(np.abs(np.stack([predicted, realised])), 0.995)) or 1.0
        panels = []
        parts = [("predicted", predicted), ("realised", realised), ("realised − predicted", realised - predicted)]
        for index, (title, change) in enumerate(parts):

            def draw(
                axes: Axes, title: str = title, change: Any = change, limit: float = limit, times: Any = analysis.times
            ) -> None:
                label = f"trial, by {coloring.name.split(' (')[0]}"
                image = plot_change(axes, change[coloring.order], limit, label, times)
                axes.figure.colorbar(image, ax=axes, label="change, in states", pad=0.02)
                axes.set_title(title)

            panels.append(draw_panel(f"change_{analysis.name}_{index + 1}", f"{title} change of states", draw))
        error = step.relative_error[step.chosen]
        caption = (
            f"Change of the states by one step of gradient descent with η = {step.etas[step.chosen]:.3g}, along the "
            f"direction of state space that holds {step.predicted_profile.share:.0%} of it; one row is one trial. "
            f"The first two should look alike, and the third be pale: over all directions the prediction is off by "
            f"{error:.1%}."
        )
        exhibits.append(Exhibit("steps", f"Predicted and realised change, {analysis.name}", caption, tuple(panels)))
    return exhibits


def _angles(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    if not study.comparisons:
        return []
    colors = checkpoint_colors(len(study.analyses))
    names = [analysis.name for analysis in study.analyses]

    def draw(axes: Axes) -> None:
        for comparison in study.comparisons:
            angles = np.degrees(comparison.angles)
            color = colors[names.index(comparison.after)]
            axes.plot(np.arange(1, len(angles) + 1), angles, color=color, marker="o", label=f"to {comparison.after}")
        axes.axhline(90, color="#8a94a0", linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(ylim=(0, 95), xlabel="number of the angle", ylabel="principal angle (degrees)")
        axes.set_yticks([0, 30, 60, 90])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")

    caption = (
        f"Angles between the spaces spanned by the leading NTK modes of {study.comparisons[0].before} and of the later "
        "checkpoint. 0° means that a pattern of change is shared by both, 90° that it is in none of the leading modes "
        "of the other."
    )
    panel = draw_panel("principal_angles", "principal angles between leading NTK modes of two checkpoints", draw)
    return [Exhibit("changes", "How far the leading modes turned", caption, (panel,))]


def _differences(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    found = [(a.name, a.check.differences) for a in study.analyses]
    curves = [(name, differences.steps, differences.errors) for name, differences in found]

    def draw(axes: Axes) -> None:
        colors = checkpoint_colors(len(curves))
        plot_errors(axes, curves, colors, "step h, relative to the parameters", "relative error")

    derivative = "P J" if study.integration is None else "D = P_s J_s"
    caption = (
        f"{derivative} against central finite differences of the plain network. An exact derivative shows as a fall "
        "with slope 2 until rounding takes over at the far left; a wrong one would level off at its error."
    )
    panel = draw_panel("finite_differences", "error of finite differences against their step", draw)
    return [Exhibit("check", "Derivatives against finite differences", caption, (panel,))]


def _probability_of_label(study: Study, outputs: Any) -> Any:
    """Softmax probability of the label, shape (B, T)."""
    labels = study.trials.labels
    assert labels is not None
    shifted = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    wanted = np.broadcast_to(labels if labels.ndim == 2 else labels[:, None], outputs.shape[:2])
    chosen = np.take_along_axis(shifted, wanted[:, :, None], axis=2)[:, :, 0]
    return chosen / shifted.sum(axis=2)
