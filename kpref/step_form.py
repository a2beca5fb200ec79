"""The numbers of a linearised step along a trajectory, and how the trained arrays enter its weights.

With R rows (steps of a map, or stages of Runge-Kutta steps) and B trials, memory is O(R B C) for C columns of channels
and variables; the Jacobians (R, B, H, H) are never formed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._reprs import short_repr
from kpref._types import Array
from kpref.program import Program

__all__ = ["Entry", "Place", "StepForm", "Variable", "allot"]


@dataclass(frozen=True)
class Place:
    """Where a channel stands in the flat array of all coefficients.

    Entry (row, trial, column) is at ``start + row * row_stride + trial * trial_stride + column``; a channel that is the
    same for all rows, or trials, has stride zero there and length one.
    """

    start: int
    row_stride: int
    trial_stride: int
    shape: tuple[int, int, int]

    def view(self, numbers: Array) -> Array:
        """The channel as an array (R or 1, B or 1, width)."""
        strides = tuple(stride * numbers.itemsize for stride in (self.row_stride, self.trial_stride, 1))
        return np.ndarray(self.shape, numbers.dtype, numbers, self.start * numbers.itemsize, strides)


def allot(shapes: Mapping[str, tuple[int, int, int]], rows: int, trials: int) -> tuple[dict[str, Place], int]:
    """Places of channels of these shapes (R or 1, B or 1, width), and the number of entries of all.

    Channels that vary along the same axes stand side by side, so that a row of all of them is contiguous.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for name, shape in shapes.items():
        if shape[0] not in (1, rows) or shape[1] not in (1, trials):
            raise ValueError(f"channel {name!r} must have shape ({rows} or 1, {trials} or 1, width); got {shape}")
        groups.setdefault(shape[:2], []).append(name)
    places, start = {}, 0
    for (length, breadth), names in groups.items():
        width = sum(shapes[name][2] for name in names)
        column = start
        for name in names:
            strides = (breadth * width if length > 1 else 0, width if breadth > 1 else 0)
            places[name] = Place(column, *strides, shapes[name])
            column += shapes[name][2]
        start += length * breadth * width
    return places, start


@dataclass(frozen=True)
class Variable:
    """What a weight multiplies: columns of the old state, or of the other variables.

    Attributes
    ----------
    of_state : bool
    start, width : int
    """

    of_state: bool
    start: int
    width: int


@dataclass(frozen=True, eq=False)
class Entry:
    """How part of a trained array enters a weight: ``weight[rows, columns] += factor * part``.

    Attributes
    ----------
    parameter, weight : str
    part : slice
        Rows of the array, one of one axis being a column.
    rows, columns : slice
        Of the weight; of a weight of a `unit` operation, which has one row, only columns count.
    transposed : bool
        Whether it is the transpose of the part that enters.
    factor : float or ndarray
        A number, or one for each entry of the part: a mask, or the derivative of what makes the weight of the array.
    """

    parameter: str
    weight: str
    part: slice
    rows: slice
    columns: slice
    transposed: bool = False
    factor: float | Array = 1.0


@dataclass(frozen=True, eq=False)
class StepForm:
    """A program with its numbers.

    Attributes
    ----------
    program : Program
    numbers : ndarray, shape (n,)
        The coefficients of all channels, as `allot` lays them out.
    places : mapping of str to Place
        Of each channel in them.
    states : ndarray, shape (R, B, H or 0)
        The points of linearisation, for variables that are parts of the state; no columns where there are none such.
    variables : ndarray, shape (R, B, V)
        The other variables side by side.
    known : mapping of str to Variable
        Where each variable stands.
    weights : mapping of str to ndarray
        (outputs, inputs) of a product; (1, columns) of a unit.
    entries : tuple of Entry
        Of the trainable arrays.
    shapes : mapping of str to tuple of int
        Of the trainable arrays, in the order of the parameter vector.
    """

    program: Program
    numbers: Array
    places: Mapping[str, Place]
    states: Array
    variables: Array
    known: Mapping[str, Variable]
    weights: Mapping[str, Array]
    entries: tuple[Entry, ...]
    shapes: Mapping[str, tuple[int, ...]]

    __repr__ = short_repr

    @property
    def n_steps(self) -> int:
        """Number R of rows."""
        return int(self.states.shape[0])

    @property
    def n_trials(self) -> int:
        """Number B of trials."""
        return int(self.states.shape[1])

    @property
    def n_states(self) -> int:
        """Width of the state."""
        return self.program.n_states

    @property
    def n_parameters(self) -> int:
        """Number M of trainable parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the coefficients."""
        return self.states.dtype

    @property
    def nbytes(self) -> int:
        """Memory of the coefficients; the states may be shared with the trajectory."""
        return sum(array.nbytes for array in (self.numbers, self.states, self.variables, *self.weights.values()))

    def channel(self, name: str) -> Array:
        """Coefficients of a channel, a view (R or 1, B or 1, width)."""
        return self.places[name].view(self.numbers)

    def variable(self, name: str) -> Array:
        """What a weight multiplies, a view (R, B, width)."""
        known = self.known[name]
        source = self.states if known.of_state else self.variables
        return source[:, :, known.start : known.start + known.width]

    def rows(self, part: slice) -> StepForm:
        """Some rows of the trajectory, as views."""
        first, last, _ = part.indices(self.n_steps)
        places = {
            name: replace(
                place,
                start=place.start + first * place.row_stride,
                shape=(last - first if place.row_stride else 1, *place.shape[1:]),
            )
            for name, place in self.places.items()
        }
        return replace(self, places=places, states=self.states[first:last], variables=self.variables[first:last])

    def changed(
        self,
        channels: Mapping[str, Array] | None = None,
        weights: Mapping[str, Array] | None = None,
        variables: Mapping[str, Array] | None = None,
    ) -> StepForm:
        """The same form with some of its numbers replaced by others of the same shapes."""
        units = {name: weight for name, weight in (weights or {}).items() if name in self.places}
        numbers = self.numbers.copy() if channels or units else self.numbers
        for name, value in {**(channels or {}), **units}.items():
            self.places[name].view(numbers)[...] = value
        known, extra = dict(self.known), [self.variables]
        column = self.variables.shape[2]
        for name, value in (variables or {}).items():
            known[name] = Variable(False, column, known[name].width)
            extra.append(np.broadcast_to(value, (*self.variables.shape[:2], known[name].width)))
            column += known[name].width
        joined = np.concatenate(extra, axis=2, dtype=self.dtype) if variables else self.variables
        new = {name: np.require(weight, self.dtype, ["C", "W"]) for name, weight in (weights or {}).items()}
        return replace(
            self, numbers=numbers, variables=joined, known=known if variables else self.known,
            weights={**self.weights, **new},
        )  # fmt: skip

    def in_precision(self, dtype: npt.DTypeLike) -> StepForm | None:
        """The same form with its numbers rounded to another precision; None if one of them has no place there."""
        arrays = {name: array.astype(dtype) for name, array in self.weights.items()}
        numbers, states, variables = (array.astype(dtype) for array in (self.numbers, self.states, self.variables))
        if not all(np.isfinite(array).all() for array in (numbers, states, variables, *arrays.values())):
            return None
        return replace(self, numbers=numbers, states=states, variables=variables, weights=arrays)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Weights that a trainable array enters, in the order of the program."""
        entered = {entry.weight for entry in self.entries}
        return tuple(dict.fromkeys(op.name for op in self.program.operations if op.name in entered))

    def pack(self, vectors: Array) -> dict[str, Array]:
        """Parameter vectors (v, M) as changes of the trained weights, each (v, outputs, inputs)."""
        arrays = self.split(vectors)
        changes = {name: np.zeros((len(vectors), *self.weights[name].shape), vectors.dtype) for name in self.trained}
        for entry in self.entries:
            part = arrays[entry.parameter][:, entry.part] * np.asarray(entry.factor, vectors.dtype)
            changes[entry.weight][:, entry.rows, entry.columns] += part.swapaxes(1, 2) if entry.transposed else part
        return changes

    def unpack(self, changes: Mapping[str, Array]) -> Array:
        """The transpose of `pack`."""
        first = next(iter(changes.values()))
        vectors = np.zeros((len(first), self.n_parameters), first.dtype)
        arrays = self.split(vectors)
        for entry in self.entries:
            block = changes[entry.weight][:, entry.rows, entry.columns]
            part = block.swapaxes(1, 2) if entry.transposed else block
            arrays[entry.parameter][:, entry.part] += part * np.asarray(entry.factor, first.dtype)
        return vectors

    def split(self, vectors: Array) -> dict[str, Array]:
        """Views (v, rows, columns) of the trained arrays in parameter vectors; an array of one axis is a column."""
        arrays, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            rows = shape[0] if shape else 1
            columns = size // rows if rows else 0  # "-1" would be ambiguous where there are no vectors
            arrays[name] = vectors[:, start : start + size].reshape(len(vectors), rows, columns)
            start += size
        return arrays
