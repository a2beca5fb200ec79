"""`FixedPoints`: the different points that a search found, and what the linearisation says of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import schur

from kpref._reprs import html_table
from kpref._types import Array
from kpref._validate import integer
from kpref.equilibria.jacobians import input_jacobians
from kpref.models.base import Field, Model
from kpref.threads import serial_blas

__all__ = ["FixedPoints", "unique_states"]

#: Distance of an eigenvalue from the border of stability, relative to |A|, that rounding may make up.
_MARGIN = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class FixedPoints:
    """Fixed and slow points of a model, U of them, from n starts. Made by `kpref.fixed_points`.

    Fixed points come first, those with fewer unstable directions before the others, then by their coordinates.

    Attributes
    ----------
    model : Model
    points : ndarray, shape (U, S)
    inputs : ndarray, shape (U, n_inputs)
        Under which each rests.
    residuals : ndarray, shape (U,)
        Speed: |F(z, x) - z| of a map, |f(z, x)| of a field.
    slow : ndarray of bool, shape (U,)
        Whether it is a slow point: a minimum of the speed, with no root in reach.
    jacobians : ndarray, shape (U, S, S)
        A at each point.
    eigenvalues : ndarray, shape (U, S), complex
        Of A; the fastest growing first.
    starts, ends : ndarray, shape (n, S)
        Where the search began, and where it ended.
    end_residuals : ndarray, shape (n,)
        Speed there.
    labels : ndarray of int, shape (n,)
        Number of the point that each start went to; -1 where the search has not settled.
    iterations : ndarray of int, shape (n,)
        Jacobians that each start took.
    """

    model: Model
    points: Array
    inputs: Array
    residuals: Array
    slow: npt.NDArray[np.bool_]
    jacobians: Array
    eigenvalues: npt.NDArray[np.complex128]
    starts: Array
    ends: Array
    end_residuals: Array
    labels: npt.NDArray[np.int64]
    iterations: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def q(self) -> Array:
        """``|F(z) - z|^2 / 2``, or ``|f(z)|^2 / 2``, of each point, (U,): the measure of Sussillo and Barak (2013)."""
        return 0.5 * np.square(self.residuals)

    @property
    def growth(self) -> Array:
        """How fast each eigendirection grows, (U, S): |eigenvalue| a step of a map, its real part of a field."""
        return self.eigenvalues.real if isinstance(self.model, Field) else np.abs(self.eigenvalues)

    @property
    def n_unstable(self) -> npt.NDArray[np.int64]:
        """Number of unstable directions of each point, (U,)."""
        return np.asarray((self.growth > self._border + self._margins).sum(axis=1))

    @property
    def n_marginal(self) -> npt.NDArray[np.int64]:
        """Number of directions that neither grow nor shrink beyond rounding, (U,): 1 on a line attractor."""
        return np.asarray((np.abs(self.growth - self._border) <= self._margins).sum(axis=1))

    @property
    def stable(self) -> npt.NDArray[np.bool_]:
        """Whether all directions shrink, (U,)."""
        return np.asarray((self.growth < self._border - self._margins).all(axis=1))

    @property
    def kinds(self) -> list[str]:
        """Of each point "stable", "marginal" (nothing grows, not all shrinks), "saddle", "unstable" or "slow"."""
        size, found = self.points.shape[1], []
        for slow, stable, unstable in zip(self.slow, self.stable, self.n_unstable, strict=True):
            kind = "stable" if stable else "marginal" if unstable == 0 else "saddle" if unstable < size else "unstable"
            found.append("slow" if slow else kind)
        return found

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many starts went to each point, (U,)."""
        return np.bincount(self.labels[self.settled], minlength=len(self))

    @property
    def settled(self) -> npt.NDArray[np.bool_]:
        """Of each start, whether it reached a fixed or a slow point, (n,)."""
        return self.labels >= 0

    @property
    def distances(self) -> Array:
        """How far each start went, (n,). A point far from all states that a network visits may not matter to it."""
        return np.sqrt(np.square(self.ends - self.starts).sum(axis=1))

    @cached_property
    @serial_blas
    def input_sensitivity(self) -> Array:
        """How each point moves with its input, ``dz*/dx = (I - A)^-1 dF/dx``, or ``-A^-1 df/dx``: (U, S, n_inputs).

        NaN at slow points, which solve no equation to be differentiated, and where a direction is marginal: the
        matrix is singular there, and the point does not move as a smooth function of the input.
        """
        found = np.full((*self.points.shape, self.inputs.shape[1]), np.nan)
        known = ~self.slow & (np.abs(self.eigenvalues - self._border).min(axis=1) > self._margins[:, 0])
        pushes = input_jacobians(self.model, self.points[known], self.inputs[known])
        found[known] = np.linalg.solve(self._border * np.eye(self.points.shape[1]) - self.jacobians[known], pushes)
        return found

    @serial_blas
    def unstable_directions(self, point: int) -> Array:
        """An orthonormal basis of the unstable subspace at a point, as rows (n_unstable[point], S).

        Raises
        ------
        TypeError
            If `point` is not an integer.
        ValueError
            If there is no such point.
        """
        point = integer("point", point, 0, len(self) - 1)
        border = self._border + float(self._margins[point, 0])

        def grows(real: float, imaginary: float) -> bool:
            return (real if isinstance(self.model, Field) else abs(complex(real, imaginary))) > border

        _, vectors, number = schur(self.jacobians[point], output="real", sort=grows)
        return np.asarray(vectors[:, :number].T)

    @property
    def _border(self) -> float:
        """Growth of what stays as it is."""
        return 0.0 if isinstance(self.model, Field) else 1.0

    @property
    def _margins(self) -> Array:
        return _MARGIN * np.sqrt(np.square(self.jacobians).sum(axis=(1, 2)))[:, None]

    def __repr__(self) -> str:
        kinds = self.kinds
        named = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        lost = int((~self.settled).sum())
        told = f", {lost} not settled" if lost else ""
        return f"FixedPoints({', '.join(named) or 'none'}; {len(self.starts)} starts{told})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        head = ["speed", "unstable directions", "largest growth", "starts"]
        rows = [
            (f"{index} ({kind})", f"{speed:.1e}", f"{unstable}", f"{growth:.4g}", f"{count}")
            for index, (kind, speed, unstable, growth, count) in enumerate(
                zip(self.kinds, self.residuals, self.n_unstable, self.growth[:, 0], self.counts, strict=True)
            )
        ]
        lost = int((~self.settled).sum())
        return html_table([*rows, ("not settled", "", "", "", f"{lost}")] if lost else rows, head)


def unique_states(states: Array, inputs: Array, residuals: Array, distance: float) -> npt.NDArray[np.int64]:
    """Which of n states (n, S) stands for each: one within `distance` of it that is at rest best, under equal inputs.

    The distance is relative to 1 + |z|. States that stand for others are more than that apart.
    """
    chosen, left = np.empty(len(states), dtype=np.int64), np.argsort(residuals, kind="stable")
    while len(left):
        best = left[0]
        apart = np.sqrt(np.square(states[left] - states[best]).sum(axis=1))
        near = apart <= distance * (1 + np.sqrt(np.square(states[best]).sum()))
        near &= (inputs[left] == inputs[best]).all(axis=1)
        chosen[left[near]] = best
        left = left[~near]
    return chosen
