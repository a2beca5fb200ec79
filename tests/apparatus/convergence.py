"""How the errors of a Runge-Kutta flow and of its operators fall with the step, measured on one smooth problem.

A rate network of four units on [0, 2], driven by sines, is solved on ever finer even grids, all of which contain the
times 0, 0.5, ..., 2. There, each quantity is compared with its limit, or two quantities of the same limit with each
other. Errors are relative, in the 2-norm over trials, those five times and units. The limits come from a method of
order 8 whose own error, at 160 steps, is below rounding.

The numbers of the network are chosen so that the leading term of every error shows before rounding does. For methods
of order 5 that is not a matter of course: their leading coefficients are made so small that those of higher order, in
most problems, hide them down to the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref.flow import Flow
from kpref.integrate import Tableau, get_tableau
from kpref.models import Rate
from kpref.readout import Readout

__all__ = ["FLOOR", "QUANTITIES", "STEPS", "Quantity", "errors", "fitted_slope"]

Array = npt.NDArray[Any]

STEPS = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384)
"""Numbers of steps on [0, 2]: multiples of 4."""

FLOOR = 1.5e-14
"""Relative errors below this are rounding to a good part: some 1e-15, of the hundreds of steps that they take."""

_T_END, _TRIALS, _UNITS, _INPUTS, _COARSE = 2.0, 16, 4, 2, 4
_REFERENCE = ("dop853", 160)


@dataclass(frozen=True)
class Quantity:
    """Something that converges.

    Attributes
    ----------
    key : str
    title : str
        For figures and tables.
    most : int or None
        Order of the interpolation of a forcing, where that limits the order of convergence.
    """

    key: str
    title: str
    most: int | None = None

    def order(self, method: str | Tableau) -> int:
        """The order at which it should converge with a method."""
        order = get_tableau(method).order
        return order if self.most is None else min(order, self.most)


QUANTITIES = {
    quantity.key: quantity
    for quantity in (
        Quantity("states", "states"),
        Quantity("gradient", "gradient of a loss"),
        Quantity("adjoint", "P* g: continuous \N{MINUS SIGN} discrete"),
        Quantity("P linear", "P q, linear forcing", 2),
        Quantity("P cubic", "P q, cubic forcing", 4),
        Quantity("PKP linear", "P K P* \N{MINUS SIGN} NTK, linear forcing", 2),
        Quantity("PKP cubic", "P K P* \N{MINUS SIGN} NTK, cubic forcing", 4),
    )
}
"""What `errors` measures, by key."""


@cache
def errors(method: str, steps: int) -> dict[str, float]:
    """Relative errors of all quantities.

    Parameters
    ----------
    method : str
        Key of `kpref.integrate.TABLEAUS`.
    steps : int
        Number of steps, a multiple of 4.

    Returns
    -------
    dict of str to float
        With the keys of `QUANTITIES`.
    """
    limits, thin = _limits(), _thin(steps)
    flows = {kind: _flow(method, steps, kind) for kind in ("linear", "cubic")}
    flow = flows["linear"]
    times = flow.solution.times
    ramp = _ramp(times)
    found = {
        "states": _distance(flow.states[:, thin], limits["states"]),
        "gradient": _distance(_gradient(flow), limits["gradient"]),
        "adjoint": _distance(flow.adjoint("continuous")(ramp)[:, thin], flow.adjoint("discrete")(ramp)[:, thin]),
    }
    for kind, each in flows.items():
        found[f"P {kind}"] = _distance(each.P(_waves(times, _UNITS))[:, thin], limits["P"])
        product = each.P @ each.K @ each.P.star
        found[f"PKP {kind}"] = _distance(product(_impulses(steps))[:, thin], limits["NTK"])
    return found


def fitted_slope(steps: Sequence[int], values: Sequence[float]) -> float:
    """The exponent by which errors fall with the number of steps, in the limit of many.

    Parameters
    ----------
    steps : sequence of int
        Increasing.
    values : sequence of float
        Errors.

    Returns
    -------
    float
        Slope of the least-squares line through the logarithms of those errors that are above the floor of rounding
        and belong to the finest grids, down to 1 / 1.6 of the finest.

    Raises
    ------
    ValueError
        If fewer than two points are of that kind.
    """
    n, e = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    n, e = n[e > FLOOR], e[e > FLOOR]
    finest = n >= n[-1:] / 1.6
    if finest.sum() < 2:
        raise ValueError(f"a slope needs two errors above {FLOOR} on grids that differ by less than 1.6; got {values}")
    return float(-np.polyfit(np.log(n[finest]), np.log(e[finest]), 1)[0])


@cache
def _problem() -> tuple[Rate, Array, Readout, Array]:
    """The network, its initial states (B, H), a readout, and its targets at the end (B, n_out)."""
    rng = np.random.default_rng(8)
    weight_ih, weight_hh = rng.normal(size=(_UNITS, _INPUTS)), rng.normal(size=(_UNITS, _UNITS)) / np.sqrt(_UNITS)
    model = Rate(weight_ih, weight_hh, 0.5 * rng.normal(size=_UNITS), tau=rng.uniform(0.5, 1.0, size=_UNITS))
    z0 = rng.normal(size=(_TRIALS, _UNITS))
    rng = np.random.default_rng([9, 8])
    return model, z0, Readout(rng.normal(size=(2, _UNITS))), rng.normal(size=(_TRIALS, 2)) + 3.0


@cache
def _limits() -> dict[str, Array]:
    """What the quantities tend to, at the coarse times. P q takes q itself at the stages, nothing interpolated."""
    method, steps = _REFERENCE
    flow, thin = _flow(method, steps, "linear"), _thin(steps)
    starts, h = flow.solution.times[:-1, None], flow.solution.h[:, None]
    q = _waves(starts + flow.solution.tableau.c * h, _UNITS)
    return {
        "states": flow.states[:, thin],
        "gradient": _gradient(flow),
        "P": flow.stage.P(q)[:, thin],
        "NTK": flow.NTK(_impulses(steps))[:, thin],
    }


def _flow(method: str, steps: int, forcing: str) -> Flow:
    model, z0, _, _ = _problem()
    times = np.linspace(0.0, _T_END, steps + 1)
    return Flow(model, lambda t: _waves(t, _INPUTS), z0, "sum", times=times, method=method, forcing=forcing)


def _thin(steps: int) -> slice:
    """The coarse times among the times of a grid."""
    return slice(None, None, steps // _COARSE)


def _waves(t: npt.ArrayLike, channels: int) -> Array:
    """Smooth functions of time, another for each trial and channel: (B, *t.shape, channels)."""
    t = np.asarray(t)
    index = np.arange(_TRIALS * channels).reshape(_TRIALS, *(1,) * t.ndim, channels)
    return np.sin((0.5 + np.mod(0.618 * index, 1.0)) * t[..., None] + index)


def _ramp(times: Array) -> Array:
    """A running cost linear in time, which interpolation reproduces: what is left is the error of the method."""
    offset, rise = np.random.default_rng(7).normal(size=(2, _TRIALS, 1, _UNITS))
    return offset + rise * times[:, None]


def _impulses(steps: int) -> Array:
    """An error that acts at the coarse times alone: with the measure "sum" the same on every grid."""
    tensor = np.zeros((_TRIALS, steps + 1, _UNITS))
    tensor[:, _thin(steps)] = np.random.default_rng(6).normal(size=(_TRIALS, _COARSE + 1, _UNITS))
    return tensor


def _gradient(flow: Flow) -> Array:
    """Gradient of a loss of the last states, summed over trials: the same function of them on every grid."""
    _, _, readout, end = _problem()
    targets = np.zeros((*flow.states.shape[:2], readout.n_outputs))
    targets[:, -1] = end
    return flow.gradient_flow(readout, targets, at="last").grad_theta / flow.states.shape[1]


def _distance(value: Array, limit: Array) -> float:
    return float(np.linalg.norm(value - limit) / np.linalg.norm(limit))
