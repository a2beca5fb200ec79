"""The linearised step of a network as a straight-line program over registers, which is read forwards and backwards.

Registers hold one row for each trial: the old state, the new state, and scratch. All start at zero, and every
operation adds to one and none is overwritten:

    scale      out += c * in                      c: a *channel* of coefficients, one row for each point of a trajectory
    product    out += W in (+ dW m)               W: a *weight* that all trials share; m: the *variable* it multiplies
    unit       out += w * in (+ dw * m)           w: a weight for each column (time constants, conductances)
    gather     out_i += sum_j in_ij               and its transpose,
    spread     out_ij += in_i                     for states as wide as a weight

``*`` is elementwise. From the old state, with dW = 0, the new state is ``A dz``; from a state of zeros ``J dtheta``.
Since every operation is linear and only adds, the transpose of the program ``E_1 ... E_m``, each of the form
``1 + e_out C e_in^T``, is its operations in reverse order with `in` and `out` exchanged: from a cotangent of the new
state that leaves ``A^T l`` in the old one, and the sums over trials of ``(cotangent of out) m^T`` are ``J^T l``.

A program knows no numbers; `kpref.step_form.StepForm` has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Builder", "Operation", "Program", "View"]

Columns = npt.NDArray[np.bool_]
Kind = Literal["scale", "product", "unit", "gather", "spread"]


@dataclass(frozen=True)
class View:
    """Adjacent columns of a register."""

    register: int
    start: int
    width: int

    def part(self, index: int, width: int) -> View:
        """The columns index * width, ..., (index + 1) * width - 1 of this view."""
        if not 0 <= index * width <= self.width - width:
            raise ValueError(f"a view of {self.width} columns has no part {index} of {width} columns")
        return View(self.register, self.start + index * width, width)


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes
    ----------
    kind : {"scale", "product", "unit", "gather", "spread"}
    out : View
    source : View or None
        What is read; None for a product or unit through which only parameters act, such as that with the inputs.
    name : str
        Of the channel or the weight; empty for gather and spread.
    variable : str or None
        Of what a product's or unit's weight multiplies; None for one that no trained array enters.
    """

    kind: Kind
    out: View
    source: View | None
    name: str = ""
    variable: str | None = None


@dataclass(frozen=True)
class Program:
    """Registers, and operations in order.

    Attributes
    ----------
    widths : tuple of int
        Of the registers.
    operations : tuple of Operation
    old, new : tuple of View
        Whole registers that hold the parts of the state, in the order in which the state concatenates them.
    inner : tuple of View
        Whole registers between which a part of the program is a step by itself, as a stage is of a Runge-Kutta step.
    """

    widths: tuple[int, ...]
    operations: tuple[Operation, ...]
    old: tuple[View, ...]
    new: tuple[View, ...]
    inner: tuple[View, ...] = ()

    def __repr__(self) -> str:
        return f"Program({len(self.operations)} operations on {len(self.widths)} registers, {self.n_states} states)"

    @property
    def n_states(self) -> int:
        """Width of the state."""
        return sum(view.width for view in self.old)

    @property
    def channels(self) -> dict[str, int]:
        """Width of each channel, in the order of use."""
        return {op.name: op.out.width for op in self.operations if op.kind == "scale"}

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First column of each register where all stand side by side, and the total."""
        return _offsets(self.widths)

    def columns(self, view: View) -> slice:
        """Columns of a view where all registers stand side by side."""
        first = int(self.offsets[view.register]) + view.start
        return slice(first, first + view.width)

    def reached(self, from_state: bool, from_parameters: bool) -> list[Operation]:
        """Operations that read what comes from the old state, or from changes of weights that have a variable."""
        columns, found = np.zeros(self.offsets[-1], dtype=bool), []
        for view in self.old if from_state else ():
            columns[self.columns(view)] = True
        for op in self.operations:
            reads = op.source is not None and bool(columns[self.columns(op.source)].any())
            if reads:
                found.append(op)
            if reads or (from_parameters and op.variable is not None):
                columns[self.columns(op.out)] = True
        return found

    def reversed(self) -> Iterator[tuple[Operation, View | None, View]]:
        """Operations in the order of the transpose, with what each writes to and reads there."""
        for op in reversed(self.operations):
            yield op, op.source, op.out


class Builder:
    """Writes a program operation by operation, and refuses what could not be reversed.

    Examples
    --------
    The network ``z' = phi(W z + U x + b)``:

    >>> build = Builder()
    >>> old, new = build.state(8)
    >>> current = build.register(8)
    >>> build.product(current, old, "recurrent", "z")
    >>> build.product(current, None, "driven", "drive")
    >>> build.scale(new, current, "slope")
    >>> build.program().n_states
    8
    """

    def __init__(self) -> None:
        self._widths: list[int] = []
        self._operations: list[Operation] = []
        self._old: list[View] = []
        self._new: list[View] = []
        self._written: list[Columns] = []

    def register(self, width: int) -> View:
        """A register of scratch."""
        if width < 1:
            raise ValueError(f"a register needs at least one column; got {width}")
        self._widths.append(width)
        self._written.append(np.zeros(width, dtype=bool))
        return View(len(self._widths) - 1, 0, width)

    def state(self, width: int) -> tuple[View, View]:
        """Registers of a part of the state: old and new."""
        old, new = self.register(width), self.register(width)
        self._old.append(old)
        self._new.append(new)
        return old, new

    def scale(self, out: View, source: View, channel: str) -> None:
        """``out += c * source``."""
        if out.width != source.width:
            raise ValueError(f"channel {channel!r} scales {source.width} columns into {out.width}")
        if any(op.kind == "scale" and op.name == channel for op in self._operations):
            raise ValueError(f"there are two channels called {channel!r}")
        self._add(Operation("scale", out, source, channel))

    def product(self, out: View, source: View | None, weight: str, variable: str | None = None) -> None:
        """``out += W source + dW m``."""
        self._add(Operation("product", out, source, weight, variable))

    def unit(self, out: View, source: View | None, weight: str, variable: str | None = None) -> None:
        """``out += w * source + dw * m``."""
        if source is not None and out.width != source.width:
            raise ValueError(f"the weight {weight!r} takes {source.width} columns into {out.width}")
        self._add(Operation("unit", out, source, weight, variable))

    def gather(self, out: View, source: View) -> None:
        """``out_i += sum_j source_ij``, j running over adjacent columns."""
        if source.width % out.width:
            raise ValueError(f"{source.width} columns cannot be gathered into {out.width}")
        self._add(Operation("gather", out, source))

    def spread(self, out: View, source: View) -> None:
        """``out_ij += source_i``."""
        if out.width % source.width:
            raise ValueError(f"{source.width} columns cannot be spread over {out.width}")
        self._add(Operation("spread", out, source))

    def program(self) -> Program:
        """What was written."""
        return Program(tuple(self._widths), tuple(self._operations), tuple(self._old), tuple(self._new))

    def _add(self, op: Operation) -> None:
        old = {view.register for view in self._old}
        if op.out.register in old:
            raise ValueError(f"{op.kind} {op.name!r} writes to the old state, which is given")
        if op.source is not None:
            if op.source.register == op.out.register and abs(op.source.start - op.out.start) < max(
                op.source.width, op.out.width
            ):
                raise ValueError(f"{op.kind} {op.name!r} reads what it writes to")
            if op.source.register not in old and not self._columns(op.source).all():
                raise ValueError(f"{op.kind} {op.name!r} reads columns that nothing has been written to")
        self._columns(op.out)[...] = True
        later = [other for other in self._operations if other.source is not None]
        if any(_overlap(other.source, op.out) for other in later if other.source is not None):
            raise ValueError(f"{op.kind} {op.name!r} writes to columns that were read before")
        self._operations.append(op)

    def _columns(self, view: View) -> Columns:
        return self._written[view.register][view.start : view.start + view.width]


@lru_cache(maxsize=256)
def _offsets(widths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Asked for each view of each operation where programs are lowered."""
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    offsets.setflags(write=False)
    return offsets


def _overlap(one: View, other: View) -> bool:
    return (
        one.register == other.register and one.start < other.start + other.width and other.start < one.start + one.width
    )
