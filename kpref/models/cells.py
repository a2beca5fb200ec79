"""The cells of recurrent layers of PyTorch's kind, as parts of a program: RNN, GRU, LSTM, UGRNN.

A layer has a weight on its own old state, ``weight_hh``, one on what comes from below (the inputs, or the new state of
the layer below), ``weight_ih``, and two biases. A cell says how many currents they make for each unit and what becomes
of them; all else is the same for all and stands in `kpref.models.layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from kpref.models.base import Array
from kpref.models.nonlinearity import Nonlinearity, sigmoid, sigmoid_pair, tanh_slope
from kpref.program import Builder, View

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell", "UGRNNCell"]


class Cell(Protocol):
    """What a layer needs of its cell.

    Attributes
    ----------
    parts : int
        Of the state, for each unit; the first is what the layer above and readouts see.
    rows : int
        Blocks of H rows of ``weight_ih`` and ``weight_hh``.
    width : int
        Currents of a unit.
    recurrent, driven : tuple of int
        Which current each block of rows of ``weight_hh``, and of ``weight_ih``, makes.
    """

    parts: ClassVar[int]
    rows: ClassVar[int]
    width: ClassVar[int]
    recurrent: ClassVar[tuple[int, ...]]
    driven: ClassVar[tuple[int, ...]]

    def step(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> list[Array]:
        """New parts of the state from the two products with biases, (..., rows * H), and the old parts."""

    def write(self, build: Builder, name: str, old: Sequence[View], new: Sequence[View], currents: View) -> None:
        """Write what becomes of the currents, channels called `name` and something."""

    def channels(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> dict[str, Array]:
        """Coefficients of what `write` wrote, without `name`, in the order of its compiled function."""

    @property
    def function(self) -> str:
        """Its compiled function, of `kpref.models.units`."""


@dataclass(frozen=True)
class RNNCell:
    """``h' = phi(a + c)``, with ``dh' = phi'(a + c) * (da + dc)``."""

    nonlinearity: Nonlinearity
    parts: ClassVar[int] = 1
    rows: ClassVar[int] = 1
    width: ClassVar[int] = 1
    recurrent: ClassVar[tuple[int, ...]] = (0,)
    driven: ClassVar[tuple[int, ...]] = (0,)

    def step(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> list[Array]:
        """The new state."""
        return [self.nonlinearity.value(recurrent + driven)]

    def write(self, build: Builder, name: str, old: Sequence[View], new: Sequence[View], currents: View) -> None:
        """One scale."""
        build.scale(new[0], currents, f"{name}slope")

    def channels(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> dict[str, Array]:
        """phi'."""
        return {"slope": self.nonlinearity.slope(recurrent + driven)}

    @property
    def function(self) -> str:
        """That of the nonlinearity."""
        return self.nonlinearity.name


@dataclass(frozen=True)
class GRUCell:
    """The gated recurrent unit in PyTorch's form (Cho et al. 2014, the reset gate after the product).

    With the currents a_g from the old state and c_g from below for the gates g = r, u, n,

        r = sigmoid(a_r + c_r),  u = sigmoid(a_u + c_u),  n = tanh(c_n + r * a_n),  h' = (1 - u) * n + u * h.

    Differentiating, with ``s = (1 - u) * (1 - n**2)``,

        dh' = u * dh + s r * da_n + s a_n r (1 - r) * d(a_r + c_r) + (h - n) u (1 - u) * d(a_u + c_u) + s * dc_n.

    There are four currents: a_n, the two sums, and c_n; so those from the old state are the first three, and those from
    below the last three.
    """

    parts: ClassVar[int] = 1
    rows: ClassVar[int] = 3
    width: ClassVar[int] = 4
    recurrent: ClassVar[tuple[int, ...]] = (1, 2, 0)
    driven: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def step(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> list[Array]:
        """The new state."""
        (a_r, a_u, a_n), (c_r, c_u, c_n) = np.split(recurrent, 3, axis=-1), np.split(driven, 3, axis=-1)
        u, complement = sigmoid_pair(a_u + c_u)
        return [complement * np.tanh(c_n + sigmoid(a_r + c_r) * a_n) + u * state[0]]

    def write(self, build: Builder, name: str, old: Sequence[View], new: Sequence[View], currents: View) -> None:
        """Five scales."""
        units = new[0].width
        build.scale(new[0], old[0], f"{name}update")
        for index, gate in enumerate(("hidden", "reset_gate", "update_gate", "candidate")):
            build.scale(new[0], currents.part(index, units), f"{name}{gate}")

    def channels(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> dict[str, Array]:
        """As the class derives them."""
        (a_r, a_u, a_n), (c_r, c_u, c_n) = np.split(recurrent, 3, axis=-1), np.split(driven, 3, axis=-1)
        (r, r_complement), (u, u_complement) = sigmoid_pair(a_r + c_r), sigmoid_pair(a_u + c_u)
        candidate = c_n + r * a_n
        s = u_complement * tanh_slope(candidate)
        return {
            "update": u,
            "hidden": s * r,
            "reset_gate": s * r * r_complement * a_n,
            "update_gate": (state[0] - np.tanh(candidate)) * (u * u_complement),
            "candidate": s,
        }

    @property
    def function(self) -> str:
        """Five currents and states in, as `write` reads them."""
        return "gru"


@dataclass(frozen=True)
class LSTMCell:
    """The long short-term memory of PyTorch (Hochreiter and Schmidhuber 1997; Gers et al. 2000), gates i, f, g, o.

    With the sums a_g of both currents of a gate,

        i = sigmoid(a_i),  f = sigmoid(a_f),  g = tanh(a_g),  o = sigmoid(a_o),
        c' = f * c + i * g,    h' = o * tanh(c').

    Differentiating,

        dc' = f * dc + g i (1 - i) * da_i + c f (1 - f) * da_f + i (1 - g**2) * da_g,
        dh' = o (1 - tanh(c')**2) * dc' + tanh(c') o (1 - o) * da_o.

    The state is (h, c); the second line reads the new c, a register that the first has written.
    """

    parts: ClassVar[int] = 2
    rows: ClassVar[int] = 4
    width: ClassVar[int] = 4
    recurrent: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    driven: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def step(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> list[Array]:
        """The new h and c."""
        a_i, a_f, a_g, a_o = np.split(recurrent + driven, 4, axis=-1)
        c = sigmoid(a_f) * state[1] + sigmoid(a_i) * np.tanh(a_g)
        return [sigmoid(a_o) * np.tanh(c), c]

    def write(self, build: Builder, name: str, old: Sequence[View], new: Sequence[View], currents: View) -> None:
        """Six scales."""
        (h, c), units = new, new[0].width
        build.scale(c, old[1], f"{name}forget")
        for index, gate in enumerate(("input_gate", "forget_gate", "cell_gate")):
            build.scale(c, currents.part(index, units), f"{name}{gate}")
        build.scale(h, c, f"{name}output")
        build.scale(h, currents.part(3, units), f"{name}output_gate")

    def channels(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> dict[str, Array]:
        """As the class derives them."""
        a_i, a_f, a_g, a_o = np.split(recurrent + driven, 4, axis=-1)
        (i, i_complement), (f, f_complement), (o, o_complement) = map(sigmoid_pair, (a_i, a_f, a_o))
        g = np.tanh(a_g)
        c = f * state[1] + i * g
        return {
            "forget": f,
            "input_gate": g * (i * i_complement),
            "forget_gate": state[1] * (f * f_complement),
            "cell_gate": i * tanh_slope(a_g),
            "output": o * tanh_slope(c),
            "output_gate": np.tanh(c) * (o * o_complement),
        }

    @property
    def function(self) -> str:
        """Five currents and states in, as `write` reads them."""
        return "lstm"


@dataclass(frozen=True)
class UGRNNCell:
    """The update gate network (Collins, Sohl-Dickstein, Sussillo, ICLR 2017), candidate n and gate g.

    With the sums a of both currents,

        n = tanh(a_n),  g = sigmoid(a_g),  h' = g * h + (1 - g) * n.

    Differentiating,

        dh' = g * dh + (1 - g) (1 - n**2) * da_n + (h - n) g (1 - g) * da_g.
    """

    parts: ClassVar[int] = 1
    rows: ClassVar[int] = 2
    width: ClassVar[int] = 2
    recurrent: ClassVar[tuple[int, ...]] = (0, 1)
    driven: ClassVar[tuple[int, ...]] = (0, 1)

    def step(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> list[Array]:
        """The new state."""
        a_n, a_g = np.split(recurrent + driven, 2, axis=-1)
        g, complement = sigmoid_pair(a_g)
        return [complement * np.tanh(a_n) + g * state[0]]

    def write(self, build: Builder, name: str, old: Sequence[View], new: Sequence[View], currents: View) -> None:
        """Three scales."""
        units = new[0].width
        build.scale(new[0], old[0], f"{name}update")
        for index, gate in enumerate(("candidate", "update_gate")):
            build.scale(new[0], currents.part(index, units), f"{name}{gate}")

    def channels(self, recurrent: Array, driven: Array, state: Sequence[Array]) -> dict[str, Array]:
        """As the class derives them."""
        a_n, a_g = np.split(recurrent + driven, 2, axis=-1)
        g, complement = sigmoid_pair(a_g)
        return {
            "update": g,
            "candidate": complement * tanh_slope(a_n),
            "update_gate": (state[0] - np.tanh(a_n)) * (g * complement),
        }

    @property
    def function(self) -> str:
        """Its own."""
        return "update-gate"
