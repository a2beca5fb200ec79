"""K by units: the factors ``F_u`` of ``K = sum_u F_u F_u^T Mu``, where no two units share a state.

With G[s, g] the derivative of column s of the new state by current g, and v_g what the trained entries of g multiply
(`kpref.unit_form` finds both), at a point a = (time, trial) and for the entry c of current g

    F[(a, s), (g, c)] = G[s, g](a) v_g[c](a).

Units have up to S states and k currents; what they lack is zero in G, and -1 in `columns`. Coefficients that are
constant along trajectories stay so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array

__all__ = ["Features", "Integers", "Picks", "UnitForm", "adjacent"]

Integers = npt.NDArray[np.intp]
#: Columns of the variables that the entries of one current multiply, and their factors.
Picks = tuple[Integers, Array]


@dataclass(frozen=True, eq=False)
class Features:
    """What the trained entries of one current of each unit multiply."""

    values: Array  # (R B, V): rows in the order (time, trial)
    # for each unit, which of the columns, and times what; None where each unit has all of them as they are
    picked: Picks | None = None

    @property
    def shared(self) -> bool:
        """Whether they are the same for all units."""
        return self.picked is None

    @property
    def columns(self) -> int:
        """Number c of entries of a unit."""
        return int(self.values.shape[1] if self.picked is None else self.picked[0].shape[1])

    def of(self, unit: int, points: slice | Integers = slice(None)) -> Array:
        """Those of one unit at some points, (points, c)."""
        if self.picked is None:
            return self.values[points]
        return self.values[points][:, self.picked[0][unit]] * self.picked[1][unit]

    def squares(self) -> Array:
        """Squared length at each point, (R B, N), or (R B, 1) where it is the same for all units."""
        squared = np.square(self.values)
        if self.picked is None:
            return squared.sum(axis=1, keepdims=True)
        columns, factors = self.picked
        taken = np.zeros((len(columns), squared.shape[1]))
        np.add.at(taken, (np.arange(len(columns))[:, None], columns), np.square(factors))
        return np.asarray(squared @ taken.T)

    def sums(self, coefficients: Array) -> Array:
        """``sum_a coefficients[a, u] v[a, u]`` for coefficients (R B, N): (N, c)."""
        total = coefficients.T @ self.values
        if self.picked is None:
            return np.asarray(total)
        return np.take_along_axis(total, self.picked[0], axis=1) * self.picked[1]


@dataclass(frozen=True, eq=False)
class UnitForm:
    """The factors of K, in float64.

    Attributes
    ----------
    n_steps, n_trials, n_states : int
        R, B and the width of the state.
    columns : ndarray of int, shape (S, N)
        Columns of the state of each unit; -1 where a unit has fewer than S.
    gates : ndarray, shape (R or 1, B or 1, S, k, N)
        G.
    groups : tuple of (slice, Features)
        Adjacent currents that multiply the same features.
    """

    n_steps: int
    n_trials: int
    n_states: int
    columns: Integers
    gates: Array
    groups: tuple[tuple[slice, Features], ...]

    __repr__ = short_repr

    @property
    def n_units(self) -> int:
        """Number N."""
        return int(self.columns.shape[1])

    @property
    def parts(self) -> int:
        """Number S of states of a unit."""
        return int(self.columns.shape[0])

    @property
    def width(self) -> int:
        """Number of columns of F_u."""
        return sum((currents.stop - currents.start) * features.columns for currents, features in self.groups)

    @property
    def constant(self) -> bool:
        """Whether G is one number for each unit, so that K is a Kronecker product of ``v v^T`` and their squares."""
        return self.gates.shape[:4] == (1, 1, 1, 1) and all(features.shared for _, features in self.groups)

    def weighted(self, root: Array) -> UnitForm:
        """``Mu^(1/2) F_u``, for the roots (R, B) of a measure."""
        column = root.reshape(-1, 1)
        groups = [(part, replace(features, values=column * features.values)) for part, features in self.groups]
        return replace(self, groups=tuple(groups))

    def of_trial(self, trial: int) -> UnitForm:
        """The factors of one trial by itself."""
        one = slice(trial, trial + 1)
        gates = np.ascontiguousarray(self.gates[:, one] if self.gates.shape[1] > 1 else self.gates)
        groups = [(part, replace(features, values=np.ascontiguousarray(features.values[trial :: self.n_trials])))
                  for part, features in self.groups]  # fmt: skip
        return replace(self, n_trials=1, gates=gates, groups=tuple(groups))

    def states(self, part: int) -> slice | Integers:
        """Columns of the s-th states of all units, as a slice where they are adjacent."""
        (index,) = adjacent(self.columns[part])
        return index

    def _rows_and_trials(self, points: slice | Integers) -> tuple[Integers, Integers]:
        if isinstance(points, slice):
            points = np.arange(*points.indices(self.n_steps * self.n_trials))
        return np.divmod(points, self.n_trials)

    def gates_at(self, points: slice | Integers) -> Array:
        """G at some points, (points, S, k, N)."""
        rows, trials = self._rows_and_trials(points)
        longer, wider = (length > 1 for length in self.gates.shape[:2])
        if longer and wider:
            return np.asarray(self.gates.reshape(-1, *self.gates.shape[2:])[points])
        return np.asarray(self.gates[rows if longer else 0 * rows, trials if wider else 0 * trials])

    def factor(self, unit: int, points: slice | Integers = slice(None)) -> Array:
        """F_u at some points, (points, S, columns)."""
        rows, trials = self._rows_and_trials(points)
        own = self.gates[..., unit]
        own = own[rows if len(own) > 1 else 0, trials if own.shape[1] > 1 else 0]
        gates = np.broadcast_to(own, (len(rows), *self.gates.shape[2:4]))
        blocks = [
            (gates[:, :, part, None] * features.of(unit, points)[:, None, None, :]).reshape(len(rows), self.parts, -1)
            for part, features in self.groups
        ]
        return np.concatenate([np.empty((len(rows), self.parts, 0)), *blocks], axis=2)

    def pairs(self, left: slice | Integers, right: slice | Integers) -> Array:
        """Entries of ``F_u F_u^T`` between points, (points of left, points of right, S, S, N)."""
        if self.n_units == 1 or not all(features.shared for _, features in self.groups):
            blocks = [self._products(unit, left, right) for unit in range(self.n_units)]
            return np.stack(blocks, axis=-1)
        one, other = self.gates_at(left), self.gates_at(right)
        total: Array | None = None
        for part, features in self.groups:
            term: Array | None = None
            for gate in range(part.start, part.stop):
                each = one[:, None, :, None, gate] * other[None, :, None, :, gate]
                term = each if term is None else np.add(term, each, out=term)
            assert term is not None
            term *= (features.values[left] @ features.values[right].T)[:, :, None, None, None]
            total = term if total is None else np.add(total, term, out=total)
        if total is None:
            return np.zeros((len(one), len(other), self.parts, self.parts, self.n_units))
        return total

    def _products(self, unit: int, left: slice | Integers, right: slice | Integers) -> Array:
        one, other = self.factor(unit, left), self.factor(unit, right)
        product = one.reshape(-1, self.width) @ other.reshape(-1, self.width).T
        return product.reshape(len(one), self.parts, len(other), self.parts).swapaxes(1, 2)

    def traced_pairs(self, left: slice | Integers, right: slice | Integers) -> Array:
        """`pairs` summed over states: (points of left, points of right)."""
        if not all(features.shared for _, features in self.groups):
            return np.asarray(np.einsum("abssu->ab", self.pairs(left, right)))
        one, other = self.gates_at(left), self.gates_at(right)
        total = np.zeros((len(one), len(other)))
        for part, features in self.groups:
            flat = (each[:, :, part].reshape(len(each), -1) for each in (one, other))
            total += (features.values[left] @ features.values[right].T) * (next(flat) @ next(flat).T)
        return total

    def scatter(self, blocks: Array) -> Array:
        """Blocks (..., S, S, N) as matrices over states (..., H, H)."""
        matrices = np.zeros((*blocks.shape[:-3], self.n_states, self.n_states))
        for s, rows in enumerate(self.columns):
            for t, columns in enumerate(self.columns):
                both = (rows >= 0) & (columns >= 0)
                matrices[..., rows[both], columns[both]] = blocks[..., s, t, both]
        return matrices


def adjacent(*indices: Integers) -> tuple[Any, ...]:
    """The same places by integers and a slice, which numpy reaches without an index for each, if they are so."""
    *constants, last = indices
    if all((index == index[0]).all() for index in constants) and (np.diff(last) == 1).all():
        return (*(int(index[0]) for index in constants), slice(int(last[0]), int(last[-1]) + 1))
    return indices
