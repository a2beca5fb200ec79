"""The pictures of a course: one panel a quantity, against steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kpref.analysis.exhibits import Exhibit, Panel, exhibit, size_with_names
from kpref.course.measures import Curve
from kpref.plots import checkpoint_colors
from kpref.plots.style import finish, markers, plain_names, shown, shown_on_log, title_of

__all__ = ["draw_course"]

#: Leading modes whose share is drawn.
_MOST_MODES = 5
_INTERVAL = 1.96  # standard errors


@dataclass(frozen=True)
class _Wanted:
    """A panel: a quantity, or those whose names begin with it and a stroke."""

    name: str
    title: str
    label: str
    words: str
    logarithmic: bool = False


_SECTIONS: Mapping[str, tuple[_Wanted, ...]] = {
    "What training achieves": (
        _Wanted("loss", "loss", "loss", "on the trials that are analyzed, without regularisers", True),
        _Wanted("accuracy", "accuracy", "share", "of the observed points that are classified rightly"),
    ),
    "How many ways there are": (
        _Wanted("dimension_K", "K", "effective dimension", "changes of the dynamics that parameters can make", True),
        _Wanted("dimension_PP", "P P*", "effective dimension", "patterns that the dynamics carry", True),
        _Wanted("dimension_NTK", "NTK", "effective dimension", "ways in which gradient descent moves the states", True),
        _Wanted("dimension_states", "states", "effective dimension", "directions over units that states spread in",
                True),
        _Wanted("dimension_adjoints", "adjoints P* Err", "effective dimension",
                "directions over units of errors that were carried back in time", True),
        _Wanted("dimension_err", "Err", "effective dimension", "directions over units of the error itself", True),
    ),
    "How strong they are": (
        _Wanted("trace_K", "K", "trace", "all that parameters do to the dynamics", True),
        _Wanted("trace_NTK", "NTK", "trace", "all that parameters do to the states", True),
        _Wanted("largest_NTK", "first mode of the NTK", "eigenvalue", "the strongest way", True),
    ),
    "What points the same way": (
        _Wanted("alignment_first", "NTK with its first", "alignment", "how much of the kernel at the start is left"),
        _Wanted("alignment_last", "NTK with its last", "alignment", "how soon the final kernel is there"),
        _Wanted("alignment_PK_NTK", "P K with P K P*", "alignment", "near 1: the way back in time does not matter"),
        _Wanted("alignment_PP_NTK", "P P* with P K P*", "alignment", "near 1: parameters do not matter"),
    ),
    "Where the error goes": (
        _Wanted("misdirection", "Err and NTK Err", "angle (degrees)", "by how much gradient descent misses the error"),
        _Wanted("err_share", "share of |Err|² by mode", "share", "in each of the leading modes of the NTK"),
    ),
    "Which parameters do it": (
        _Wanted("K_share", "K by parameters", "share of the trace", "of the changes of the dynamics"),
        _Wanted("NTK_share", "NTK by parameters", "share of the trace", "of the changes of the states"),
    ),
    "Prediction and reality": (
        _Wanted("step_error", "change of the states", "relative error",
                "of the predicted change, for a step of gradient descent by a hundredth of the size of the states",
                True),
        _Wanted("step_loss", "change of the loss", "realised / predicted", "for the same step; 1 is as predicted"),
    ),
}  # fmt: skip


def draw_course(curves: Mapping[str, Curve]) -> list[Exhibit]:
    """All panels of the quantities that are there."""
    exhibits = []
    for number, (title, wanted) in enumerate(_SECTIONS.items()):
        panels, words = [], []
        for one in wanted:
            own = _of(one.name, curves)
            if own:
                draw = partial(_draw, curves=own, wanted=one)
                panels.append(Panel(one.name, f"{one.title}, {one.label}, against training steps", draw,
                                    size_with_names([*own])))  # fmt: skip
                words.append(f"{one.title}: {one.words}.")
        if panels:
            exhibits.append(exhibit(f"course_{number}", title, " ".join(words), panels))
    return exhibits


def _of(name: str, curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Curves of a panel, by their names in its legend."""
    if name in curves:
        return {name: curves[name]}
    own = {key.partition("/")[2]: curve for key, curve in curves.items() if key.startswith(f"{name}/")}
    return {f"mode {key}": own[key] for key in list(own)[:_MOST_MODES]} if name == "err_share" else own


def _draw(ax: Axes, curves: Mapping[str, Curve], wanted: _Wanted) -> None:
    place = shown_on_log if wanted.logarithmic else shown
    several = len(curves) > 1
    drawn, reach = [], []
    colors = checkpoint_colors(len(curves)) if several else checkpoint_colors(1)
    for color, marker, name, curve in zip(
        colors, markers(len(curves)), plain_names(list(curves)), curves.values(), strict=True
    ):
        values, lengths = place(curve.values), _INTERVAL * np.nan_to_num(curve.errors)
        style: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 1.5, "capsize": 3}
        ax.errorbar(curve.steps, values, yerr=lengths, color=color, label=name if several else None, **style)
        band = np.nan_to_num(curve.trial_errors)
        if band.any():
            low, high = place(curve.values - band), place(curve.values + band)
            ax.fill_between(curve.steps, low, high, color=color, alpha=0.15, linewidth=0)
            reach += [low, high]
        drawn.append(values)
    ax.set(xlabel="training step", ylabel=wanted.label)
    finish(ax, [curve.values for curve in curves.values()], [*drawn, *reach], wanted.logarithmic, zero_is_drawn=True)
    title_of(ax, wanted.title)
