"""The solution of an initial value problem: states on the steps taken, and in between by dense output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpref._foreign import read_only
from kpref._frozen import MadeOfFunctions
from kpref._reprs import short_repr
from kpref._validate import integer, numeric_array
from kpref.integrate.tableau import Tableau
from kpref.threads import serial_blas

__all__ = ["RightHandSide", "Solution", "stage_derivatives", "weighted_sum"]

FloatArray: TypeAlias = NDArray[np.float64]
RightHandSide: TypeAlias = Callable[[float, FloatArray, int], FloatArray]
"""f(t, z, interval), from a time, the states of all trials (B, H) and the grid interval of t, to dz/dt (B, H)."""


def weighted_sum(weights: Sequence[float], derivatives: Sequence[FloatArray]) -> FloatArray:
    """`sum_i w_i k_i`, stages of weight zero left out.

    The sum runs over stages in their order, entry by entry, so its bits depend on nothing but its terms.
    """
    terms = [w * k for w, k in zip(weights, derivatives, strict=False) if w != 0.0]
    return sum(terms[1:], start=terms[0]) if terms else np.zeros_like(derivatives[0])


def stage_derivatives(
    rhs: RightHandSide,
    rows: Sequence[Sequence[float]],
    nodes: Sequence[float],
    start: float,
    h: float,
    end: float,
    interval: int,
    z: FloatArray,
    known: Sequence[FloatArray] = (),
) -> list[FloatArray]:
    """Derivatives of the stages of one step.

    `rhs`: the right-hand side.
    `rows`: stage weights a, strictly lower triangular.
    `nodes`: stage times c.
    `start`, `h`: start and size of the step.
    `end`: time at which a stage with c = 1 is evaluated: the end of the step, or the last number before it if the
    right-hand side jumps there.
    `interval`: grid interval of the step.
    `z`: shape (B, H); state at its start.
    `known`: derivatives of the first stages, if they are known.
    Returns as many derivatives as there are nodes.
    """
    derivatives = list(known)
    for i in range(len(derivatives), len(nodes)):
        t = end if nodes[i] == 1.0 else start + nodes[i] * h
        derivatives.append(rhs(t, z + h * weighted_sum(rows[i], derivatives) if i else z, interval))
    return derivatives


@dataclass(frozen=True, eq=False)
class Solution(MadeOfFunctions):
    """States of all trials along one sequence of steps.

    Attributes
    ----------
    tableau : Tableau
        The method that made the steps.
    times : ndarray, shape (N+1,)
        The time grid that was asked for.
    t_steps : ndarray, shape (n+1,)
        Times of the steps taken, the grid among them.
    z_steps : ndarray, shape (n+1, B, H)
        States at those times.
    interval : ndarray of int, shape (n,)
        Grid interval that each step lies in.
    jump_ends : ndarray of bool, shape (n,)
        Whether the right-hand side may jump at the end of each step.
    grid_index : ndarray of int, shape (N+1,)
        Position of each grid time in `t_steps`.
    n_evaluations : int
        Calls of the right-hand side, those of rejected steps and of the choice of the first step included. Dense
        output calls it again and is not counted.
    n_rejected : int
        Steps rejected.
    rhs : callable
        The right-hand side, for dense output.
    """

    tableau: Tableau
    times: FloatArray
    t_steps: FloatArray
    z_steps: FloatArray
    interval: NDArray[np.int64]
    jump_ends: NDArray[np.bool_]
    grid_index: NDArray[np.int64]
    n_evaluations: int
    n_rejected: int
    rhs: RightHandSide = field(repr=False)
    _latest: dict[int, list[FloatArray]] = field(default_factory=dict, init=False, repr=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("times", "t_steps", "z_steps", "interval", "jump_ends", "grid_index"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def states(self) -> FloatArray:
        """States at the grid times, (N+1, B, H); those of the steps themselves where all of them end on the grid."""
        return self.z_steps if len(self.times) == len(self.t_steps) else self.z_steps[self.grid_index]

    @property
    def h(self) -> FloatArray:
        """Step sizes, (n,)."""
        return np.diff(self.t_steps)

    @serial_blas
    def stage_derivatives(self, step: int) -> FloatArray:
        """The stage derivatives k_i of one step, evaluated again, to the same bits: shape (s, B, H).

        Parameters
        ----------
        step : int
            Index of the step, 0..n-1.
        """
        return np.stack(self._derivatives(self._check_step(step), self.tableau.stages))

    @serial_blas
    def stage_states(self, step: int) -> FloatArray:
        """The stage states `Z_i = z_n + h sum_j a_ij k_j` of one step, evaluated again: shape (s, B, H).

        Parameters
        ----------
        step : int
            Index of the step, 0..n-1.
        """
        step = self._check_step(step)
        z, h = self.z_steps[step], self.t_steps[step + 1] - self.t_steps[step]
        derivatives = self._derivatives(step, self.tableau.stages)
        return np.stack([z + h * weighted_sum(row, derivatives) for row in self.tableau.a.tolist()])

    def _check_step(self, step: int) -> int:
        return integer("step", step, 0, len(self.interval) - 1)

    def _derivatives(self, step: int, count: int) -> list[FloatArray]:
        """The first `count` stage derivatives of a step, those of the interpolant included."""
        start, end = float(self.t_steps[step]), float(self.t_steps[step + 1])
        last = float(np.nextafter(end, start)) if self.jump_ends[step] else end
        return stage_derivatives(
            self.rhs,
            self.tableau.a_dense.tolist(),
            self.tableau.c_dense[:count].tolist(),
            start,
            end - start,
            last,
            int(self.interval[step]),
            self.z_steps[step],
        )

    @serial_blas
    def __call__(self, t: ArrayLike) -> FloatArray:
        """The states at any times within the span, by the interpolant of the method.

        Its order is `tableau.dense_order`; at the times of the steps it returns their states as they are. The
        stages of the steps asked for are evaluated again rather than stored, and kept for the latest step only: ask
        in order of time.

        Parameters
        ----------
        t : float or array_like, shape (m,)
            Times in [t[0], t[N]].

        Returns
        -------
        ndarray, shape (B, H) or (m, B, H)

        Raises
        ------
        ValueError
            If a time lies outside the span; names it.
        """
        wanted = np.asarray(numeric_array("t", t, "iuf"), dtype=np.float64)
        flat = wanted.reshape(-1)
        for time in flat[~((flat >= self.t_steps[0]) & (flat <= self.t_steps[-1]))]:
            raise ValueError(f"dense output covers t in [{self.t_steps[0]}, {self.t_steps[-1]}], got t = {time}")
        steps = np.searchsorted(self.t_steps, flat, side="right") - 1
        result = self.z_steps[steps]
        inside = flat != self.t_steps[steps]
        for step in np.unique(steps[inside]):
            chosen = inside & (steps == step)
            result[chosen] = self._interpolate(int(step), flat[chosen])
        return result.reshape(*wanted.shape, *self.z_steps.shape[1:])

    def _interpolate(self, step: int, t: FloatArray) -> FloatArray:
        """States (m, B, H) at times (m,) strictly inside one step."""
        derivatives = self._latest.get(step)
        if derivatives is None:
            derivatives = self._derivatives(step, len(self.tableau.c_dense))
            self._latest.clear()
            self._latest[step] = derivatives
        start, h = self.t_steps[step], self.t_steps[step + 1] - self.t_steps[step]
        weights = self.tableau.dense_weights((t - start) / h).tolist()
        return np.stack([self.z_steps[step] + h * weighted_sum(row, derivatives) for row in weights])
