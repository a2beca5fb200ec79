"""How the errors of a Runge-Kutta flow and of its operators fall with the step, measured on one smooth problem.

A small rate network on [0, 2], driven by sines, is solved on ever finer time grids that all contain the five times 0,
0.5, ..., 2. There, every quantity is compared with its limit, or two quantities with the same limit with each other.
Errors are relative, in the norm over trials, those five times and units. The limit is taken from a method of order 8
on a grid so fine that only rounding is left of its error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.integrate import Tableau, get_tableau
from kpref.models import Rate
from kpref.readout import Readout

__all__ = ["QUANTITIES", "Quantity", "counts", "errors", "fitted_slope"]

Array = npt.NDArray[Any]

T_END, TRIALS, UNITS, INPUTS = 2.0, 2, 4, 2
_COARSE = 4
_REFERENCE_STEPS = 160
"""Of dop853: an error of about (2 / 160)^8 = 6e-16 times constants of order one."""

FLOOR = 2e-13
"""Relative errors below this are rounding: sums of some thousand terms."""


@dataclass(frozen=True)
class Quantity:
    """Something that converges.

    Attributes
    ----------
    key : str
    title : str
        For figures and tables.
    most : int or None
        The order of interpolation, where it limits the order of convergence.
    """

    key: str
    title: str
    most: int | None = None

    def order(self, tableau: Tableau) -> int:
        """The order to be expected of a method."""
        return tableau.order if self.most is None else min(tableau.order, self.most)


QUANTITIES = (
    Quantity("states", "states"),
    Quantity("gradient", "gradient of a loss (stage-exact)"),
    Quantity("adjoint", "P* g: continuous minus discrete adjoint"),
    Quantity("P linear", "P q, linear forcing", 2),
    Quantity("P cubic", "P q, cubic forcing", 4),
    Quantity("PKP linear", "P K P* against the NTK, linear forcing", 2),
    Quantity("PKP cubic", "P K P* against the NTK, cubic forcing", 4),
)


@cache
def _problem() -> tuple[Rate, Array, Readout, Array]:
    """The network, its initial states, a readout and its targets at the end."""
    rng = np.random.default_rng(5)
    model = Rate(
        rng.normal(size=(UNITS, INPUTS)), rng.normal(size=(UNITS, UNITS)) * 1.5 / np.sqrt(UNITS), rng.normal(size=UNITS) / 2,
        tau=rng.uniform(0.5, 1.0, size=UNITS),
    )  # fmt: skip
    return model, rng.normal(size=(TRIALS, UNITS)), Readout(rng.normal(size=(2, UNITS))), rng.normal(size=(TRIALS, 2))


def _waves(t: npt.ArrayLike, channels: int) -> Array:
    """Smooth functions of time, one for each trial and channel: shape (B, *t.shape, channels)."""
    index = np.arange(TRIALS * channels).reshape(TRIALS, *(1,) * np.ndim(t), channels)
    return np.sin((1.0 + 0.3 * index) * np.asarray(t)[..., None] + index)


def _flow(method: str | Tableau, steps: int, forcing: str) -> Flow:
    model, z0, _, _ = _problem()
    times = np.linspace(0.0, T_END, steps + 1)
    return Flow(model, lambda t: _waves(t, INPUTS), z0, measure="sum", times=times, method=method, forcing=forcing)


def _impulses(steps: int) -> Array:
    """An error that acts at the coarse times alone, so that it is the same on every grid."""
    tensor = np.zeros((TRIALS, steps + 1, UNITS))
    tensor[:, :: steps // _COARSE] = np.random.default_rng(6).normal(size=(TRIALS, _COARSE + 1, UNITS))
    return tensor


def _gradient(flow: Flow) -> Array:
    _, _, readout, end = _problem()
    targets = np.zeros((*flow.states.shape[:2], 2))
    targets[:, -1] = end
    flow.gradient_flow
    gradient = flow.gradient_flow(readout, targets, at="last")
    return gradient.grad_theta / flow.space.mu.sum()


@cache
def _limits() -> dict[str, Array]:
    """What the quantities tend to. P q there takes q itself at the stages, nothing interpolated."""
    flow = _flow("dop853", _REFERENCE_STEPS, "cubic")
    thin = slice(None, None, _REFERENCE_STEPS // _COARSE)
    times, step = flow.solution.times, flow.solution.h[:, None]
    q = _waves(times[:-1, None] + flow.solution.tableau.c * step, UNITS)
    return {
        "states": flow.states[:, thin],
        "gradient": _gradient(flow),
        "P": flow.stage.P(q)[:, thin],
        "NTK": flow.NTK(_impulses(_REFERENCE_STEPS))[:, thin],
        "adjoint": flow.adjoint("discrete")(_ramp(times))[:, thin],
    }


def _ramp(times: Array) -> Array:
    """A running cost linear in time: interpolation reproduces it, so only the method itself errs."""
    slopes = np.random.default_rng(7).normal(size=(2, TRIALS, 1, UNITS))
    return slopes[0] + slopes[1] * times[:, None]


@cache
def errors(method: str, steps: int) -> dict[str, float]:
    """Relative error of every quantity.

    Parameters
    ----------
    method : str
        Key of `kpref.integrate.TABLEAUS`.
    steps : int
        Number of steps, a multiple of 4.

    Returns
    -------
    dict
        By the keys of `QUANTITIES`.
    """
    thin = slice(None, None, steps // _COARSE)
    limits, found = _limits(), {}
    for kind in ("linear", "cubic"):
        flow = _flow(method, steps, kind)
        times = flow.solution.times
        found[f"P {kind}"] = _distance(flow.P(_waves(times, UNITS))[:, thin], limits["P"])
        images = (flow.P @ flow.K @ flow.P.star)(_impulses(steps))
        found[f"PKP {kind}"] = _distance(images[:, thin], limits["NTK"])
    found["states"] = _distance(flow.states[:, thin], limits["states"])
    found["gradient"] = _distance(_gradient(flow), limits["gradient"])
    ramp = _ramp(times)
    continuous, discrete = (flow.adjoint(kind)(ramp)[:, thin] for kind in ("continuous", "discrete"))
    found["adjoint"] = _distance(continuous, discrete)
    found["x"] = _distance(continuous, limits["adjoint"])
    found["y"] = _distance(discrete, limits["adjoint"])
    return found


def _distance(value: Array, limit: Array) -> float:
    return float(np.linalg.norm(value - limit) / np.linalg.norm(limit))
