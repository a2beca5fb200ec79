"""What is wrong with a network, in words: silent, saturated, exploded, or not moved by its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpref.analysis.numbers import Analysis
from kpref.analysis.slopes import nonlinearity_of
from kpref.analysis.wording import percent
from kpref.step_form import StepForm

__all__ = ["rising_loss", "symptoms"]

#: States of a network that does something sensible stay below this.
_EXPLODED = 1e6
#: A nonlinearity whose slope is below this share of its largest possible one is saturated,
_FLAT = 0.01
_STEEPEST = {"tanh": 1.0, "erf": 2 / np.pi**0.5, "sigmoid": 0.25}
#: and a network of which so many are.
_MOSTLY = 0.5


def symptoms(analysis: Analysis) -> list[str]:
    """Sentences on what makes the other numbers of an analysis mean little; mostly none."""
    sentences = [_silence(analysis), _explosion(analysis), _saturation(analysis), _gradient(analysis)]
    return [sentence for sentence in sentences if sentence]


def rising_loss(analyses: Sequence[Analysis]) -> list[str]:
    """One sentence if the loss is higher at the last of several checkpoints than at the first; none otherwise.

    Training does not end like this: a network whose nonlinearity was taken for another one, files out of order, or
    trials of another task look so.
    """
    first, last = analyses[0], analyses[-1]
    if first.loss is None or last.loss is None or last.loss <= first.loss:
        return []
    name = getattr(getattr(last.flow.model, "nonlinearity", None), "name", None)
    whether = f"the nonlinearity ({name} here, --nonlinearity)" if name else "the readout"
    return [
        f"The loss rose from {first.loss:.4g} in {first.name} to {last.loss:.4g} in {last.name}: see whether the order "
        f"of the checkpoints, the trials and {whether} are those of the training."
    ]


def _silence(analysis: Analysis) -> str:
    states = analysis.space.shape[2]
    what = "units" if states == analysis.flow.model.n_units_in_all else "states"
    silent = states - int(np.count_nonzero(np.abs(analysis.states).max(axis=(0, 1))))
    if silent == states:
        return f"{analysis.name} is silent: all of its states are zero, at all times of all trials."
    return f"Silent on all trials of {analysis.name}: {silent} of its {states} {what}." if silent else ""


def _explosion(analysis: Analysis) -> str:
    largest = float(np.abs(analysis.states).max())
    if largest < _EXPLODED:
        return ""
    text = f"The states of {analysis.name} explode: they reach {largest:.1e}"
    step = analysis.check.step_size
    return f"{text}, as {step.in_words()}." if step is not None and not step.stable else f"{text}."


def _saturation(analysis: Analysis) -> str:
    """By the slopes that the linearisation has; of gated networks by their states, which tanh bounds."""
    model, form = analysis.flow.model, analysis.flow.linearization
    if not isinstance(form, StepForm):
        return ""
    bend = nonlinearity_of(model)
    name = "tanh" if bend is None else bend.name
    slopes = [form.channel(channel) for channel in form.places if channel.endswith("slope")]
    if slopes and name in _STEEPEST:
        share = float(np.mean([(slope < _FLAT * _STEEPEST[name]).mean() for slope in slopes]))
    elif bend is None:
        share = float((np.abs(analysis.states[:, :, model.observed]) > 1 - _FLAT / 2).mean())  # 1 - tanh^2 < 0.01
    else:
        return ""
    if share < _MOSTLY:
        return ""
    where = f"{percent(share)} of its units, over trials and times, sit where {name} is flat"
    return f"{analysis.name} is saturated: {where}."


def _gradient(analysis: Analysis) -> str:
    if analysis.loss is None or analysis.step is not None:
        return ""
    if analysis.loss == 0:
        return f"The loss of {analysis.name} is zero: there is nothing to descend."
    if analysis.loss_rate == 0:
        return f"The gradient of {analysis.name} is zero: no small change of its parameters lowers the loss."
    return f"Gradient descent moves no state of {analysis.name} that can be told from rounding."
