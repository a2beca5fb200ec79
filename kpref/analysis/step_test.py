"""Prediction and reality: steps of gradient descent of several sizes, predicted and taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.analysis.checks import Check
from kpref.analysis.profile import Profile, leading_profile
from kpref.analysis.slopes import Slope, fit_slope, kinks_crossed, slope_check
from kpref.flow import GradientFlow
from kpref.loss import evaluate_loss
from kpref.readout import Readout

__all__ = ["PREDICTED_STEP", "StepTest", "measure_steps", "step_checks"]

#: Name of the check of the prediction of the states.
PREDICTED_STEP = "predicted step"
#: Predicted relative changes of the states at which the prediction is put to the test, largest first.
_STEP_SIZES = 10.0 ** -np.arange(0.0, 10.5, 0.5)
#: Those below are tried where larger ones do not settle it.
_SMALL_STEP = 1.1e-5
#: A change of the states of which only rounding is left beyond what is predicted.
_IDLE_STEP = 1e-13
#: The prediction is shown at the largest step at which it is off by no more than this.
_GOOD_ERROR = 0.1


@dataclass(frozen=True, eq=False)
class StepTest:
    """Predicted against realised change after a parameter step ``-eta grad``, for several learning rates eta."""

    etas: Array  # (m,): learning rates, decreasing. Those at which the network overflows are left out.
    # predicted, gap: (m,): ``|eta dz|`` and ``|dz_real - eta dz|`` in the norm of the space
    predicted: Array
    gap: Array
    # order at which the gap falls with eta: 2 for a correct first-order prediction where no kink is crossed; None where
    # fewer than three steps tell it
    slope: float | None
    # fit, loss_fit: that with its error, and the same for the change of the loss
    fit: Slope
    loss_fit: Slope
    crossings: Array  # (m,): slopes of relu, over trials, steps and units, that the step changes
    # loss_predicted, loss_realised: (m,): change of the loss
    loss_predicted: Array
    loss_realised: Array
    chosen: int  # index of the step that is drawn: the largest whose relative error is at most 10 %
    predicted_profile: Profile  # of ``eta dz`` at the chosen step
    realised_amplitude: Array  # (B, T): component of the realised change along the same direction

    __repr__ = short_repr

    @property
    def relative_error(self) -> Array:
        """``|dz_real - eta dz| / |eta dz|``, shape (m,)."""
        return self.gap / self.predicted


def measure_steps(gradient: GradientFlow, readout: Readout, arguments: dict[str, Any]) -> StepTest | None:
    """Run the network again after steps of several sizes; None if no state moves.

    `arguments`: of `kpref.loss.evaluate_loss`, as the loss of the gradient was given them.
    """
    flow = gradient.flow
    space, states, model = flow.space, flow.states, flow.model
    size, unit = space.norm(states) or 1.0, space.norm(gradient.dz)
    if unit == 0:  # the gradient moves no state on these trials
        return None

    def realise(eta: float) -> tuple[Array, float, float]:
        """Change of the states, its difference from the prediction, and the change of the loss."""
        change = gradient.realised(eta)
        after = evaluate_loss(states + change, space, readout, **arguments).value
        return change, space.norm(change - eta * gradient.dz), after - gradient.loss

    # A step of which nothing but rounding, as the network magnifies it, is left beyond the prediction.
    idle = _IDLE_STEP * size / unit
    _, noise, fall = realise(idle)
    noise = max(noise, np.finfo(float).eps * size)
    loss_noise = max(abs(fall - idle * gradient.loss_rate), 8 * np.finfo(float).eps * gradient.loss)

    rows: list[tuple[float, ...]] = []
    chosen, drawn = -1, None
    for relative in _STEP_SIZES:
        eta = float(relative * size / unit)
        try:
            change, gap, fall = realise(eta)
        except ValueError:  # the step is so large that the network overflows
            continue
        after_step = model.with_vector(model.vector - eta * gradient.grad_theta)
        kinks = kinks_crossed(flow, model, states, after_step, states + change)
        rows.append((eta, eta * unit, gap, eta * gradient.loss_rate, fall, kinks))
        if drawn is None or rows[chosen][2] > _GOOD_ERROR * rows[chosen][1]:
            chosen, drawn = len(rows) - 1, change
        if relative < _SMALL_STEP and all(check.passed for check in _checks(*_fits(rows, noise, loss_noise))):
            break
    if drawn is None:
        return None
    etas, predicted, gaps, loss_predicted, loss_realised, crossings = np.array(rows).T
    profile = leading_profile(etas[chosen] * gradient.dz, space)
    fit, loss_fit = _fits(rows, noise, loss_noise)
    return StepTest(
        etas=etas,
        predicted=predicted,
        gap=gaps,
        slope=fit.value,
        fit=fit,
        loss_fit=loss_fit,
        crossings=crossings.astype(int),
        loss_predicted=loss_predicted,
        loss_realised=loss_realised,
        chosen=chosen,
        predicted_profile=profile,
        realised_amplitude=drawn @ profile.direction,
    )


def _fits(rows: list[tuple[float, ...]], noise: float, loss_noise: float) -> tuple[Slope, Slope]:
    """Orders of the errors of states and loss."""
    etas, predicted, gaps, loss_predicted, loss_realised, crossings = np.array(rows).T
    loss_gaps, loss_changes = np.abs(loss_realised - loss_predicted), np.abs(loss_predicted)
    return (
        fit_slope(etas, gaps, predicted, np.full(len(etas), noise), crossings),
        fit_slope(etas, loss_gaps, loss_changes, np.full(len(etas), loss_noise), crossings),
    )


def step_checks(step: StepTest) -> list[Check]:
    """Whether states and loss change as predicted, to first order."""
    return _checks(step.fit, step.loss_fit)


def _checks(fit: Slope, loss_fit: Slope) -> list[Check]:
    states, loss = (f"the error of the predicted change of the {word}" for word in ("states", "loss"))
    return [
        slope_check(PREDICTED_STEP, "|Δz + η NTK Err| ∝ η²", fit, states),
        slope_check("predicted loss", "|ΔL + η ⟨Err, NTK Err⟩| ∝ η²", loss_fit, loss),
    ]
