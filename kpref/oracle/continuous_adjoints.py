"""Continuous adjoints of a flow, right or with one defect: what `verify_convergence` holds a wrong gradient against.

The adjoint equation ``-dl/dt = A(t)^T l`` is solved backwards by the classical method of order 4, in even parts of each
interval of the grid, along a trajectory that is known between them; where the loss sees the states, at the grid times,
l jumps by its derivative. The gradient is ``int J(t)^T l dt``, by the quadrature of the method, that by initial states
l(0). (Pontryagin; Chen et al., *Neural Ordinary Differential Equations*, 2018, algorithm 1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kpref._types import Array
from kpref.flow import Flow
from kpref.integrate import get_tableau
from kpref.kernels import reference
from kpref.linearize import DenseForm, Form, linearize, written_out

__all__ = ["DEFECTS", "LASTING", "ContinuousProblem", "continuous_gradient"]

#: Defects by what they are, the class before the colon. Those of steps vanish with these, others last.
_OF_STEPS = (
    "jump: the adjoint begins each interval with the inputs of the next",
    "interpolation: the trajectory is joined by straight lines between steps",
    "interpolation: the trajectory is held over each step",
    "final time: the last step is left out",
)
LASTING = (
    "jump: the adjoint sees in each interval the inputs of the next",
    "jump: the adjoint sees inputs joined by straight lines",
    "final time: the last interval is left out",
    "final time: the derivative by the last state is not seen",
    "transpose: A in place of A^T",
    "sign: the negative of the right answer",
)
DEFECTS = (*_OF_STEPS, *LASTING)


@dataclass(frozen=True, eq=False)
class ContinuousProblem:
    """What an adjoint is solved for.

    Attributes
    ----------
    flow : Flow
    err : ndarray, shape (B, N + 1, H)
    parts : int
        Steps of each interval of the grid.
    """

    flow: Flow
    err: Array
    parts: int

    @cached_property
    def nodes(self) -> tuple[Array, Array]:
        """Interval of each step, and the time that it starts from."""
        times = self.flow.solution.times
        starts = times[:-1, None] + np.diff(times)[:, None] * np.arange(self.parts) / self.parts
        return np.repeat(np.arange(len(times) - 1), self.parts), starts.reshape(-1)

    @cached_property
    def sizes(self) -> Array:
        """Of each step."""
        return np.repeat(np.diff(self.flow.solution.times), self.parts) / self.parts

    @cached_property
    def states(self) -> Array:
        """At quarters of each step, (n, 5, B, H): by steps of order 4 from quarter to quarter."""
        dynamics: Any = self.flow.dynamics
        interval, starts = self.nodes
        z, rows = self.flow.z0, []
        for step, (t, h) in enumerate(zip(starts, self.sizes / 4, strict=True)):
            own = [z]
            for quarter in range(4):
                z = self._advanced(dynamics, z, t + quarter * h, h, int(interval[step]))
                own.append(z)
            rows.append(np.stack(own))
        return np.stack(rows)

    @staticmethod
    def _advanced(dynamics: Any, z: Array, t: float, h: float, interval: int) -> Array:
        tableau = get_tableau("rk4")
        slopes: list[Array] = []
        for row, c in zip(tableau.a, tableau.c, strict=True):
            state = z + h * sum(a * k for a, k in zip(row, slopes, strict=False))
            slopes.append(dynamics.field.velocity(state, dynamics.signal(t + c * h, interval)))
        return np.asarray(z + h * sum(b * k for b, k in zip(tableau.b, slopes, strict=True)))

    def states_at(self, defect: str) -> Array:
        """States at the start, middle and end of each step, (n, 3, B, H)."""
        found = self.states[:, ::2].copy()
        if defect.startswith("interpolation") and "lines" in defect:
            found[:, 1] = 0.5 * (found[:, 0] + found[:, 2])
        elif defect.startswith("interpolation"):
            found[:, 1:] = found[:, :1]
        return found

    def inputs_at(self, defect: str) -> Array:
        """Inputs there, (n, 3, B, n_in)."""
        dynamics: Any = self.flow.dynamics
        interval, starts = self.nodes
        last = len(self.flow.solution.times) - 2
        of_end = interval + 1 if defect.startswith("jump") else interval
        at = starts[:, None] + self.sizes[:, None] * np.array([0.0, 0.5, 1.0])
        own = np.repeat(interval[:, None], 3, axis=1)
        if "begins" in defect:
            # The step that ends an interval, backwards the first of it, takes its first stage there.
            ends = np.append(np.diff(interval) > 0, True)
            own[ends, 2] = np.minimum(of_end[ends], last)
        elif "sees in each" in defect:
            own = np.repeat(np.minimum(of_end, last)[:, None], 3, axis=1)
        rows = np.moveaxis(dynamics.signal(at.reshape(-1), own.reshape(-1)), 1, 0)
        if "joined by straight lines" in defect and defect.startswith("jump"):
            first = np.moveaxis(dynamics.signal(at.reshape(-1), own.reshape(-1)), 1, 0)
            later = np.minimum(own.reshape(-1) + 1, last)
            then = np.moveaxis(dynamics.signal(at.reshape(-1), later), 1, 0)
            times = self.flow.solution.times
            part = (at.reshape(-1) - times[own.reshape(-1)]) / np.diff(times)[own.reshape(-1)]
            rows = first + part[:, None, None] * (then - first)
        return np.asarray(rows).reshape(*at.shape, *rows.shape[1:])


def continuous_gradient(problem: ContinuousProblem, defect: str = "") -> dict[str, Array]:
    """Gradients by parameters, (M,), and by initial states, (B, H), with one of `DEFECTS` or none."""
    flow, parts = problem.flow, problem.parts
    states, inputs = problem.states_at(defect), problem.inputs_at(defect)
    steps, trials, units = len(states), states.shape[2], states.shape[3]
    points = states.reshape(-1, trials, units), np.ascontiguousarray(inputs.reshape(3 * steps, trials, -1))
    form: Any = written_out(linearize(flow.model, *points))
    source = np.moveaxis(flow.space.weigh(problem.err), 1, 0)
    product = reference.jacobian if defect.startswith("transpose") else reference.jacobian_transpose
    costate, seen = np.zeros((trials, units)), np.zeros((trials, 3 * steps, units))
    for step in reversed(range(steps)):
        if (step + 1) % parts == 0 and not ("derivative by the last" in defect and step == steps - 1):
            costate = costate + source[(step + 1) // parts]
        if (step == steps - 1 and "last step" in defect) or (step >= steps - parts and "last interval" in defect):
            continue
        h = problem.sizes[step]

        def pulled(place: int, vector: Array, step: int = step) -> Array:
            return np.asarray(product(form, 3 * step + place, vector[None])[0])

        first = costate
        k1 = pulled(2, first)
        second = costate + 0.5 * h * k1
        k2 = pulled(1, second)
        third = costate + 0.5 * h * k2
        k3 = pulled(1, third)
        fourth = costate + h * k3
        k4 = pulled(0, fourth)
        seen[:, 3 * step + 2] = h / 6 * first
        seen[:, 3 * step + 1] = h / 3 * (second + third)
        seen[:, 3 * step] = h / 6 * fourth
        costate = costate + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    sign = -1.0 if defect.startswith("sign") else 1.0
    return {"gradient": sign * _summed(form, seen), "gradient_z0": sign * (costate + source[0])}


def _summed(form: Form, tensor: Array) -> Array:
    """``J^T`` over all points."""
    if isinstance(form, DenseForm):
        return np.einsum("rbhm,brh->m", form.parameter_jacobian, tensor)
    return np.asarray(reference.parameter_transpose(form, tensor[None])[0])
