"""The figures of a report: which picture stands where, and the sentences that say how to read it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kpref._types import Array
from kpref.analysis.exhibits import Exhibit, Panel, exhibit, key_panel, with_own_names
from kpref.analysis.metric_figures import alignments, dimensions, size_of, stability
from kpref.analysis.numbers import Analysis, StepTest
from kpref.analysis.profile import Profile
from kpref.analysis.resting_points import resting_points
from kpref.analysis.runs import ends_in_words, scored, until_end
from kpref.analysis.second_drawer import may_fork, second_drawer
from kpref.analysis.study import Study
from kpref.analysis.wording import number, percent
from kpref.coloring import TrialColoring, color_trials
from kpref.plots import (
    checkpoint_colors,
    plot_angles,
    plot_change,
    plot_cumulative,
    plot_errors,
    plot_modes_over_time,
    plot_outputs,
    plot_parts,
    plot_spectrum,
    plot_trials,
    shade_unscored,
)
from kpref.plots.style import title_of

__all__ = ["draw_exhibits"]

_MOST_OUTPUTS = 3
_MOST_LENGTHS = 5  # modes in one picture over time


def draw_exhibits(study: Study, progress: Callable[[str], object] | None = None, forked: bool = False) -> list[Exhibit]:
    """Draw all figures of a study.

    `progress`: told the title of each exhibit. `forked`: whether a forked process may draw some of them.
    Each panel of what is returned has a name of its own.
    """
    coloring = color_trials(study.trials)
    makers = [
        _spectra, _modes, dimensions, stability, resting_points, alignments, _shares, _steps, _changes, _outputs,
        _angles, _differences,
    ]  # fmt: skip
    exhibits = with_own_names([made for maker in makers for made in maker(study, coloring)])
    panels = [panel for made in exhibits for panel in made.panels]
    drawer = second_drawer(panels) if forked and may_fork() else nullcontext(lambda: None)
    with _young_garbage_alone(), drawer as take_over:
        for made in exhibits:
            for panel in made.panels:
                take_over()
                assert panel.png  # drawn now, where progress is shown
            if progress is not None:
                progress(made.title)
    return exhibits


@contextmanager
def _young_garbage_alone() -> Iterator[None]:
    """What is there already is not looked through for garbage: figures leave much, and with each search time passes."""
    if gc.get_freeze_count():  # as the program wants it, and may go on wanting it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _outputs(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    trials, weights = study.trials, scored(study.trials)
    unscored = "" if weights is None else " Grey: steps that the loss does not count."
    for analysis in study.analyses:
        outputs, name = analysis.outputs, analysis.name
        if outputs is None:
            continue
        if trials.targets is not None:
            drawn = range(min(outputs.shape[2], _MOST_OUTPUTS))
            panels = [
                Panel(
                    f"outputs_{name}_{channel + 1}",
                    f"output {channel + 1} of {name} and its target over time",
                    partial(_output, study=study, analysis=analysis, channel=channel, coloring=coloring),
                )
                for channel in drawn
            ]
            more = outputs.shape[2] - len(drawn)
            caption = (
                f"What the network says (solid) and what it should say (dashed), for {len(coloring.examples(8))} "
                "trials spread over the set; one colour is one trial."
                + (f" {more} more outputs are not drawn." if more > 0 else "")
            )
        else:
            panels = [
                Panel(
                    f"outputs_{name}",
                    f"probability of the right answer of {name} over time",
                    partial(_right_answers, study=study, analysis=analysis, coloring=coloring),
                )
            ]
            caption = (
                "The probability that the readout gives to the right class if it is asked at that step: thin lines are "
                f"trials, thick ones the mean of each {coloring.name}. Up and to the left is better."
            )
        caption += unscored + ends_in_words(trials)
        key = key_panel(coloring, f"outputs_{name}_colors")
        exhibits.append(exhibit("outputs", f"Readout of {name}", caption, panels, key))
    return exhibits


def _output(ax: Axes, study: Study, analysis: Analysis, channel: int, coloring: TrialColoring) -> None:
    outputs, targets = analysis.outputs, study.trials.targets
    assert outputs is not None
    assert targets is not None
    plot_outputs(
        until_end(outputs[..., channel], study.trials),
        until_end(targets[..., channel], study.trials),
        coloring,
        f"output {channel + 1}",
        analysis.times,
        ax,
    )
    _shade(ax, study, analysis)


def _right_answers(ax: Axes, study: Study, analysis: Analysis, coloring: TrialColoring) -> None:
    right = until_end(_probability_of_label(study, analysis.outputs), study.trials)
    plot_trials(right, coloring, "probability of the right class", analysis.times, ax)
    ax.set_ylim(-0.03, 1.03)
    _shade(ax, study, analysis)


def _shade(ax: Axes, study: Study, analysis: Analysis) -> None:
    weights = scored(study.trials)
    if weights is not None:
        shade_unscored(weights, analysis.times, ax)


def _modes(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    for analysis in study.analyses:
        name = analysis.name
        panels = [
            Panel(
                f"modes_{name}_{index + 1}",
                f"eigenfunction {index + 1} of the NTK of {name} over time, one line a trial",
                partial(_mode, study=study, analysis=analysis, index=index, profile=profile, coloring=coloring),
            )
            for index, profile in enumerate(analysis.profiles)
        ]
        panels.append(
            Panel(
                f"modes_{name}_over_time",
                f"length over time of the leading modes of the NTK of {name}",
                partial(_lengths, study=study, analysis=analysis),
            )
        )
        several, last = len(panels) > 2, "ABCDEFGH"[len(panels) - 1]
        parts = analysis.flow.model.parts
        if len(parts) > 1:
            panels.append(
                Panel(
                    f"modes_{name}_parts",
                    f"shares of the leading modes of the NTK of {name} in {', '.join(parts)}",
                    partial(_parts, analysis=analysis),
                )
            )
        caption = (
            "The ways in which one gradient step can move the states most. "
            + (f"A to {'ABCDEFGH'[len(analysis.profiles) - 1]}: each is " if several else "A: ")
            + "an eigenfunction of the NTK, seen along the direction of state space that holds the percentage written "
            "above it. Where lines of different colours part, training can move those trials apart; where they run "
            "together, it can only move them together. Panels that look alike differ in their direction. The sign is "
            f"arbitrary. {last}: how long each mode is at each time, over all states and trials; where it is high, "
            "training moves the states along that mode." + ends_in_words(study.trials)
        )
        if len(parts) > 1:
            caption += (
                f" {'ABCDEFGH'[len(panels) - 1]}: how much of each mode lies in which part of the state "
                f"({', '.join(parts)}); readouts see {_observed(analysis)} alone."
            )
        key = key_panel(coloring, f"modes_{name}_colors")
        exhibits.append(exhibit("modes", f"Leading modes of the NTK, {name}", caption, panels, key))
    return exhibits


def _mode(ax: Axes, study: Study, analysis: Analysis, index: int, profile: Profile, coloring: TrialColoring) -> None:
    value = analysis.ntk_modes.values[index]
    # Of an operator that is zero, any tensor is a mode: that would look like a finding.
    amplitude = until_end(profile.amplitude if value > 0 else np.zeros(profile.amplitude.shape), study.trials)
    plot_trials(amplitude, coloring, "amplitude (of norm 1)", analysis.times, ax)
    title_of(ax, f"mode {index + 1}: λ = {number(value)}" + (f", shown: {percent(profile.share)}" if value > 0 else ""))


def _lengths(ax: Axes, study: Study, analysis: Analysis) -> None:
    modes = analysis.ntk_modes
    there, vectors = modes.values[:_MOST_LENGTHS] > 0, modes.vectors[:_MOST_LENGTHS]
    if not there.all():
        vectors = np.where(there[:, None, None, None], vectors, 0.0)
    vectors = until_end(vectors, study.trials, axis=1)
    plot_modes_over_time(vectors, modes.values[: len(vectors)], "length, rms over trials", analysis.times, ax)
    title_of(ax, "where in time the modes live")


def _parts(ax: Axes, analysis: Analysis) -> None:
    modes, parts = analysis.ntk_modes, analysis.flow.model.parts
    squares = (modes.vectors * analysis.space.weigh(modes.vectors)).sum(axis=(1, 2))
    squares *= (modes.values > 0)[:, None]
    plot_parts(np.stack([squares[:, part].sum(axis=1) for part in parts.values()], axis=1), list(parts), ax)
    title_of(ax, "in which part of the state the modes live")


def _observed(analysis: Analysis) -> str:
    model = analysis.flow.model
    seen = range(model.n_states)[model.observed]
    return " and ".join(name for name, part in model.parts.items() if part.start in seen)


def _spectra(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    analyses = study.analyses
    shown, size = len(analyses[0].ntk_modes.values), size_of(study)
    wanted = [
        ("K", "parameters (K)", [(a.name, a.kernel_values[:shown]) for a in analyses]),
        ("PP", "dynamics (P P*)", [(a.name, a.propagator_modes.values) for a in analyses]),
        ("NTK", "both together (NTK)", [(a.name, a.ntk_modes.values) for a in analyses]),
    ]
    panels = [
        Panel(
            f"eigenvalues_{key}", f"leading eigenvalues: {title}", partial(_leading, spectra=spectra, title=title), size
        )
        for key, title, spectra in wanted
    ]
    leading = exhibit(
        "spectra",
        "Leading eigenvalues",
        "Each eigenvalue is the (squared) strength of one independent way to change the network: of its dynamics by "
        "the parameters (A), of its states by the dynamics (B), of its states by the parameters (C). A steep NTK means "
        "that "
        "gradient descent moves the states in a few ways much faster than in all others; a large first eigenvalue of "
        "P P* means that the dynamics amplify and keep small changes.",
        panels,
    )
    if not any(a.kernel is not None for a in analyses):
        return [leading]
    exact = exhibit(
        "spectra",
        "The whole spectrum of K, exact",
        "A: all nonzero eigenvalues of K, with multiplicities. B: their running sum. The dashed lines mark the "
        "effective dimension: about so many independent changes of the dynamics carry most of what the parameters can "
        "do.",
        [
            Panel("spectrum_K", "all eigenvalues of K on logarithmic axes", partial(_whole, study=study), size),
            Panel(
                "spectrum_K_cumulative", "running sum of the eigenvalues of K", partial(_running_sum, study=study), size
            ),
        ],
    )
    return [leading, exact]


def _leading(ax: Axes, spectra: list[tuple[str, Array]], title: str) -> None:
    plot_spectrum(spectra, "eigenvalue", ax=ax)
    title_of(ax, title)


def _whole(ax: Axes, study: Study) -> None:
    found = [(a.name, a.kernel) for a in study.analyses if a.kernel is not None]
    spectra = [(name, kernel.values) for name, kernel in found]
    plot_spectrum(spectra, "eigenvalue of K", [kernel.effective_dimension for _, kernel in found], ax=ax)


def _running_sum(ax: Axes, study: Study) -> None:
    found = [(a.name, a.kernel) for a in study.analyses if a.kernel is not None]
    shares = [(name, kernel.values / (kernel.trace or 1.0)) for name, kernel in found]
    dimensions = [kernel.effective_dimension for _, kernel in found]
    plot_cumulative(shares, "share of the trace of K (%)", "number of eigenvalues", dimensions, ax=ax)


def _shares(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    have, used, size = *_with_colors(study, "shares"), size_of(study)
    if not have:
        return []
    parts = [
        ("error", "of the error |Err|²", "share of |Err|² (%)"),
        ("rate", "of the fall of the loss", "share of the rate of fall (%)"),
    ]
    panels = []
    for key, title, label in parts:
        shares = [(name, getattr(found, key)) for name, found in have]

        def draw(ax: Axes, shares: Any = shares, title: str = title, label: str = label) -> None:
            plot_cumulative(shares, label, "number of leading NTK modes", colors=used, ax=ax)
            title_of(ax, title)

        panels.append(Panel(f"shares_{key}", f"share {title} in the leading NTK modes", draw, size))
    caption = (
        "A: how much of the error lies in the leading modes of the NTK (mind the scale). B: how much of the speed at "
        "which gradient descent lowers the loss comes from them. A low curve in A and a high one in B: the loss falls "
        "mainly through a small part of the error, the part that the network can be moved along easily."
    )
    return [exhibit("shares", "Error and loss in the leading modes", caption, panels)]


def _with_colors(study: Study, part: str) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Names of the checkpoints that have a part, with it, and their colours."""
    colors = checkpoint_colors(len(study.analyses))
    there = [(a, color) for a, color in zip(study.analyses, colors, strict=True) if getattr(a, part) is not None]
    return [(a.name, getattr(a, part)) for a, _ in there], [color for _, color in there]


def _steps(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    have, used, size = *_with_colors(study, "step"), size_of(study)
    if not have:
        return []

    def gaps(ax: Axes) -> None:
        curves = [(name, step.etas, step.gap) for name, step in have]
        plot_errors(curves, "|realised − predicted|", "learning rate η", colors=used, ax=ax)
        title_of(ax, "difference, in states")

    def ratios(ax: Axes) -> None:
        curves = [(name, step.etas, 100 * step.relative_error) for name, step in have]
        plot_errors(curves, "error (%)", "learning rate η", slope=None, level=10.0, colors=used, ax=ax)
        title_of(ax, "error of the predicted change")

    caption = (
        "The network is really run again after one step of gradient descent, for several learning rates η, and its "
        "change of states is compared with the prediction −η NTK Err. A: the difference falls with the square of η "
        "(parallel to the dashed line), as it must if the prediction is the exact first order. B: the same in percent "
        "of the predicted change; below the dashed line at 10 % the prediction is a good picture of reality."
    )
    panels = [
        Panel("step_gap", "difference of realised and predicted change against the learning rate", gaps, size),
        Panel("step_relative_error", "relative error of the prediction against the learning rate", ratios, size),
    ]
    return [exhibit("steps", "Does the prediction hold?", caption, panels)]


def _changes(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    exhibits = []
    for analysis in study.analyses:
        step = analysis.step
        if step is None:
            continue
        predicted, realised = step.predicted_profile.amplitude, step.realised_amplitude
        limit = _robust_limit(until_end(np.stack([predicted, realised]), study.trials, axis=1))
        parts = [("predicted", predicted), ("realised", realised), ("realised − predicted", realised - predicted)]
        panels = [
            Panel(
                f"change_{analysis.name}_{index + 1}",
                f"{title} change of the states of {analysis.name}, trials against time",
                partial(_change, study=study, analysis=analysis, title=title, change=change, limit=limit,
                        coloring=coloring),
            )
            for index, (title, change) in enumerate(parts)
        ]  # fmt: skip
        caption = _words_on_change(step, coloring) + ends_in_words(study.trials, hatched=True)
        title = f"Predicted and realised change, {analysis.name}"
        exhibits.append(exhibit("steps", title, caption, panels))
    return exhibits


def _words_on_change(step: StepTest, coloring: TrialColoring) -> str:
    order = coloring.name.split(" (")[0]
    return (
        f"Change of the states by one step of gradient descent with η = {number(step.etas[step.chosen])}, along the "
        f"direction of state space that holds {percent(step.predicted_profile.share)} of it; one row is one trial, in "
        f"order of the {order}. A and B should look alike, and C be pale: over all directions the prediction is off "
        f"by {percent(step.relative_error[step.chosen], 1)}."
    )


def _change(
    ax: Axes, study: Study, analysis: Analysis, title: str, change: Array, limit: float, coloring: TrialColoring
) -> None:
    rows = until_end(change, study.trials)[coloring.order]
    plot_change(rows, limit, "change, in states", analysis.times, ax)
    ax.set_ylabel("trial, sorted by colour")
    title_of(ax, title)


def _robust_limit(values: Array) -> float:
    """Ends of a colour scale that a few extreme entries do not bleach; the same for all panels."""
    found = np.abs(values[np.isfinite(values)])
    return float(np.quantile(found, 0.995)) if found.size else 0.0


def _angles(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    if not study.comparisons:
        return []
    colors = checkpoint_colors(len(study.analyses))
    names = [analysis.name for analysis in study.analyses]

    def draw(ax: Axes) -> None:
        angles = [(f"to {comparison.after}", np.degrees(comparison.angles)) for comparison in study.comparisons]
        used = [colors[names.index(comparison.after)] for comparison in study.comparisons]
        plot_angles(angles, colors=used, ax=ax)

    caption = (
        f"Angles between the spaces spanned by the leading NTK modes of {study.comparisons[0].before} and of the later "
        "checkpoint. 0° means that a pattern of change is shared by both, 90° that it is in none of the leading modes "
        "of the other."
    )
    panel = Panel(
        "principal_angles", "principal angles between leading NTK modes of two checkpoints", draw, size_of(study)
    )
    return [exhibit("changes", "How far the leading modes turned", caption, [panel])]


def _differences(study: Study, coloring: TrialColoring) -> list[Exhibit]:
    found = [(a.name, a.check.differences) for a in study.analyses]

    def draw(ax: Axes) -> None:
        curves = [(name, differences.steps, differences.errors) for name, differences in found]
        plot_errors(curves, "relative error", "step h, relative to the parameters", ax=ax)

    derivative = "P J" if study.integration is None else "D = P_s J_s"
    caption = (
        f"{derivative} against central finite differences of the plain network. An exact derivative shows as a fall "
        "with slope 2 until rounding takes over at the far left; a wrong one would level off at its error."
    )
    panel = Panel("finite_differences", "error of finite differences against their step", draw, size_of(study))
    return [exhibit("check", "Derivatives against finite differences", caption, [panel])]


def _probability_of_label(study: Study, outputs: Any) -> Array:
    """Softmax probability of the label, shape (B, T)."""
    labels = study.trials.labels
    assert labels is not None
    shifted = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    wanted = np.broadcast_to(labels if labels.ndim == 2 else labels[:, None], outputs.shape[:2])
    chosen = np.take_along_axis(shifted, wanted[:, :, None], axis=2)[:, :, 0]
    return np.asarray(chosen / shifted.sum(axis=2))
