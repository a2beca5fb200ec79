"""Networks whose linearised step is a program: what a model states, and the form that comes of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kpref._validate import numeric_array
from kpref.models.base import Array, Map, Model
from kpref.program import Program
from kpref.step_form import Entry

__all__ = ["Pointwise", "StepMap", "StepModel", "StepNumbers", "gathered", "network_sizes"]


@dataclass(frozen=True)
class StepNumbers:
    """Numbers of a program at states of shape (..., H).

    Attributes
    ----------
    channels : mapping of str to ndarray, shape (..., width) or (width,)
        Coefficients; those without the leading axes are the same everywhere.
    variables : mapping of str to ndarray, shape (..., width)
        What weights multiply, where it is no part of the state.
    """

    channels: Mapping[str, Array]
    variables: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Pointwise:
    """What a network does with one unit, as a compiled function.

    It reads what the scales by its channels read, and writes what they write: the quantities in place of their changes.

    Attributes
    ----------
    function : str
        One of `kpref.models.units`.
    channels : tuple of str
        What it computes beside, in its order.
    shifted : tuple of str
        Channels that are the same everywhere, by which no scale could give the quantity itself, since it is not zero
        where what is scaled is: it writes that too.
    unread : tuple of str
        Channels whose scales read what no value depends on, since only parameters act through it: it does not.
    drives : tuple of str
        Channels of `StepModel.drives` that it takes beside, behind what it reads.
    numbers : ndarray, shape (k, units)
        What it takes beside, of each unit the same everywhere, behind these.
    variables : tuple of str
        Variables that it computes beside, behind the channels. What weights make of them is in what it writes.
    """

    function: str
    channels: tuple[str, ...]
    shifted: tuple[str, ...] = ()
    numbers: Array = field(default_factory=lambda: np.zeros((0, 0)), compare=False)
    unread: tuple[str, ...] = ()
    drives: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class StepModel(Model):
    """A network that states its linearised step as a program (`kpref.program`), its numbers, and how arrays enter."""

    @cached_property
    def program(self) -> Program:
        """The linearised step."""
        return self._program()

    @abstractmethod
    def _program(self) -> Program:
        """Write the program."""

    @abstractmethod
    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Channels and variables at states z (..., H) under inputs x (..., n_inputs)."""

    @abstractmethod
    def entries(self) -> tuple[Entry, ...]:
        """How each parameter enters the weights of the program."""

    @property
    def pointwise(self) -> tuple[Pointwise, ...] | None:
        """Functions of a unit that give all channels that vary, but for inputs; None if there are none compiled."""
        return None

    def drives(self, x: Array) -> dict[str, Array]:
        """Variables that come from inputs x (..., n_inputs) alone, for compiled code, and channels that do.

        A channel has some multiple of as many columns as are here: these again and again.
        """
        return {}

    @property
    def state_variables(self) -> dict[str, slice]:
        """Variables of the program that are columns of the state."""
        return {}

    @property
    def multiplications(self) -> tuple[int, int]:
        """Of A: all products that states reach; of J: all arrays of two axes, and products that their changes reach."""
        read, behind = (
            sum(op.out.width * op.source.width for op in reached if op.kind == "product" and op.source is not None)
            for reached in (self.program.reached(True, False), self.program.reached(False, True))
        )
        return read, behind + sum(array.size for array in self.parameters.values() if array.ndim == 2)

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """The network as others define it, by what is different: what the oracle tries on a wrong trajectory.

        Yields
        ------
        label : str
            Class of the defect, a colon, and what it is.
        states : ndarray, shape (..., H)
            What it makes of states z (..., H) under inputs x (..., n_in).
        """
        options = self._options()
        if options.get("nonlinearity", "identity") != "identity":
            kind: Any = type(self)
            linear = kind(**self.parameters, **(options | {"nonlinearity": "identity"}))
            yield "slope: the nonlinearity left out", linear.evaluate(z, x)

    def weights(self) -> dict[str, Array]:
        """The weights of the program: sums of what enters them."""
        found: dict[str, Array] = {}
        entries = self.entries()
        for op in self.program.operations:
            if op.kind not in ("product", "unit") or op.name in found:
                continue
            own = [entry for entry in entries if entry.weight == op.name]
            shape = tuple(max(getattr(entry, axis).stop for entry in own) for axis in ("rows", "columns"))
            weight = found[op.name] = np.zeros(shape)
            for entry in own:
                array = self.parameters[entry.parameter]
                part = array.reshape(len(array), -1)[entry.part] * entry.factor
                weight[entry.rows, entry.columns] += part.T if entry.transposed else part
        return found


class StepMap(Map, StepModel):
    """A network in discrete time."""


def gathered(wide: Array, count: int) -> Array:
    """Sums over `count` adjacent columns, what gather makes of values: shape (..., width / count).

    By slices, as numbers that carry their errors (`kpref.oracle.uncertain`) have no other shape to be summed in.
    """
    total = wide[..., ::count]
    for column in range(1, count):
        total = total + wide[..., column::count]
    return total


def network_sizes(
    network: str,
    recurrent: npt.ArrayLike | None,
    driven: npt.ArrayLike | None,
    blocks: int = 1,
    names: tuple[str, str] = ("weight_hh", "weight_ih"),
) -> tuple[int, int]:
    """Number of units and of inputs, read off the two weights of a layer, which have `blocks` rows for each unit."""
    shapes, rows = [], f"{blocks} * H" if blocks > 1 else "H"
    given = {name: weight for name, weight in zip(names, (recurrent, driven), strict=True) if weight is not None}
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{network} needs {' and '.join(reversed(missing))}; got None")
    for name, columns in zip(names, ("H", "n_inputs"), strict=True):
        shape = numeric_array(name, given[name], "biuf").shape
        if len(shape) != 2 or shape[1] < 1:
            raise ValueError(f"{name} must have shape ({rows}, {columns}) with {columns} at least 1; got {shape}")
        shapes.append(shape)
    return shapes[0][1], shapes[1][1]
