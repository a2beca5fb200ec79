"""Backends that solve the continuous adjoint of a rate network backwards, in plain NumPy or by SciPy, right or not.

Everything is written out for ``tau dz/dt = -z + W tanh(z) + U x + b``; nothing of kpref takes part. A solver gets from
one time to another, by steps of the classical method or by SciPy's adaptive one, and gives the states in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from kpref import Flow
from kpref.models import Rate

__all__ = ["ADJOINT_DEFECTS", "AdjointBackend", "held_flow"]

Array = npt.NDArray[Any]
Rhs = Callable[[float, Array], Array]
#: Classes that a guess may name, by defect.
ADJOINT_DEFECTS = {
    "jump": "jump",
    "jump at the end": "jump",
    "interpolation": "interpolation",
    "final time": "final time",
    "tolerance": "tolerance not met",
}


def held_flow(seed: int = 0, intervals: int = 4, trials: int = 2) -> Flow:
    """A rate network under inputs that jump at the grid times."""
    rng = np.random.default_rng([seed, 31])
    model = Rate(
        rng.normal(size=(4, 2)), rng.normal(size=(4, 4)) / 2, rng.normal(size=4), tau=rng.uniform(0.5, 1.0, size=4)
    )
    inputs = rng.normal(size=(trials, intervals + 1, 2))
    return Flow(model, inputs, rng.normal(size=(trials, 4)), times=np.linspace(0.0, 0.5 * intervals, intervals + 1))


@dataclass
class AdjointBackend:
    """States, and gradients by the continuous adjoint.

    Attributes
    ----------
    flow : Flow
        Of a rate network, with held inputs.
    level : float
        Step, or tolerance.
    by : {"step", "tolerance"}
    defect : str
        One of `ADJOINT_DEFECTS`, or none.
    """

    flow: Flow
    level: float
    by: str = "step"
    defect: str = ""

    def _rhs(self, interval: int) -> Rhs:
        model: Any = self.flow.model
        p, x = model.parameters, self.flow.inputs[:, interval]

        def rhs(t: float, flat: Array) -> Array:
            z = flat.reshape(self.flow.z0.shape)
            current = np.tanh(z) @ p["weight_hh"].T + x @ p["weight_ih"].T + p["bias"]
            return ((current - z) / model.tau).ravel()

        return rhs

    def _solve(self, rhs: Rhs, start: float, end: float, y: Array, level: float) -> tuple[Array, Array, Any]:
        """Times and values of the steps, and what gives values in between."""
        if self.by == "tolerance":
            found = solve_ivp(rhs, (start, end), y, rtol=level, atol=level, dense_output=True)
            return found.t, found.y.T, found.sol
        count = max(1, round(abs(end - start) / level))
        t, h = np.linspace(start, end, count + 1), (end - start) / count
        values = [y]
        for now in t[:-1]:
            k1 = rhs(now, y)
            k2 = rhs(now + h / 2, y + h / 2 * k1)
            k3 = rhs(now + h / 2, y + h / 2 * k2)
            k4 = rhs(now + h, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            values.append(y)
        return t, np.array(values), None

    @cached_property
    def _trajectory(self) -> list[tuple[Array, Array, Any]]:
        times, y, found = self.flow.solution.times, self.flow.z0.ravel(), []
        for interval in range(len(times) - 1):
            piece = self._solve(self._rhs(interval), times[interval], times[interval + 1], y, self.level)
            found.append(piece)
            y = piece[1][-1]
        return found

    @property
    def states(self) -> Array:
        """At the grid times."""
        ends = [piece[1][-1] for piece in self._trajectory]
        return np.stack([self.flow.z0, *(end.reshape(self.flow.z0.shape) for end in ends)], axis=1)

    def _state(self, interval: int, t: float) -> Array:
        """Between steps: SciPy's interpolant, or the cubic through values and slopes; or straight lines."""
        times, values, dense = self._trajectory[interval]
        if self.defect != "interpolation" and dense is not None:
            return np.asarray(dense(t))
        n = int(np.clip(np.searchsorted(times, t, "right") - 1, 0, len(times) - 2))
        h = times[n + 1] - times[n]
        s = (t - times[n]) / h
        if self.defect == "interpolation":
            return np.asarray((1 - s) * values[n] + s * values[n + 1])
        rhs = self._rhs(interval)
        slopes = [h * rhs(0.0, values[n]), h * rhs(0.0, values[n + 1])]
        gap = values[n + 1] - values[n]
        bent = (1 - 2 * s) * gap + (s - 1) * slopes[0] + s * slopes[1]
        return np.asarray((1 - s) * values[n] + s * values[n + 1] + s * (s - 1) * bent)

    def _adjoint_rhs(self, interval: int, end: float) -> Rhs:
        model: Any = self.flow.model
        p, shape = model.parameters, self.flow.z0.shape
        last = len(self.flow.solution.times) - 2

        def rhs(t: float, y: Array) -> Array:
            later = self.defect == "jump" or (self.defect == "jump at the end" and t == end)
            x = self.flow.inputs[:, min(interval + later, last)]
            rates = np.tanh(self._state(interval, t).reshape(shape))
            costate = y[: rates.size].reshape(shape)
            scaled = costate / model.tau
            pulled = -scaled + (1 - rates**2) * (scaled @ p["weight_hh"])
            by = {"weight_ih": scaled.T @ x, "weight_hh": scaled.T @ rates, "bias": scaled.sum(axis=0)}
            return -np.concatenate([pulled.ravel(), *(by[name].ravel() for name in model.trainable)])

        return rhs

    def _backwards(self, err: Array) -> tuple[Array, Array]:
        flow, times = self.flow, self.flow.solution.times
        source = flow.space.weigh(err)
        size = flow.z0.size
        y = np.zeros(size + flow.model.n_parameters)
        level = 0.03 if self.defect == "tolerance" else self.level
        for interval in reversed(range(len(times) - 1)):
            y[:size] += source[:, interval + 1].ravel()
            end = times[interval + 1]
            if self.defect == "final time" and interval == len(times) - 2:
                end = end - (self.level if self.by == "step" else 0.5 * (end - times[interval]))
                if end <= times[interval]:
                    continue
            rhs = self._adjoint_rhs(interval, times[interval + 1])
            y = self._solve(rhs, end, times[interval], y, level)[1][-1]
        return y[size:], (y[:size] + source[:, 0].ravel()).reshape(flow.z0.shape)

    def gradient(self, err: Array) -> Array:
        """By parameters."""
        return self._backwards(err)[0]

    def gradient_z0(self, err: Array) -> Array:
        """By initial states."""
        return self._backwards(err)[1]
