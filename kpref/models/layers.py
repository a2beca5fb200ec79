"""Recurrent layers of PyTorch's kind: RNN, GRU, LSTM and UGRNN of one layer, and of several above each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, integer, short
from kpref.models.base import Array, Parameters
from kpref.models.cells import Cell, GRUCell, LSTMCell, RNNCell, UGRNNCell
from kpref.models.initial import initial_parameters
from kpref.models.nonlinearity import get_nonlinearity, sigmoid, sigmoid_pair
from kpref.models.registry import TorchLayout, register
from kpref.models.step import Pointwise, StepMap, StepNumbers, network_sizes
from kpref.program import Builder, Program, View
from kpref.step_form import Entry

__all__ = ["GRU", "LSTM", "RNN", "UGRNN", "Stacked"]

_BIASES = ("bias_ih", "bias_hh")
_NAMES = ("weight_ih", "weight_hh", *_BIASES)
_LETTERS = ("h", "c")
"""What PyTorch calls the parts of a cell's state."""


class _Layers(StepMap):
    """Layers of one kind of cell. Layer l reads the *new* state of layer l - 1, as in PyTorch.

    The state is that of the layers one after the other, each (h,) or (h, c).
    """

    def __init__(
        self, cell: Cell, suffixes: Sequence[str], given: Mapping[str, Any], trainable: Sequence[str] | None
    ) -> None:
        self.cell, self._suffixes = cell, tuple(suffixes)
        self.n_units, self.n_inputs = self._sizes(given)
        self.n_states = self.n_layers * cell.parts * self.n_units
        checked = {}
        for layer, suffix in enumerate(self._suffixes):
            for name in _NAMES:
                if given.get(name + suffix) is not None:
                    shape = self._shape(name, layer)
                    checked[name + suffix] = finite_array(name + suffix, given[name + suffix], shape=shape)
        super().__init__(checked, trainable)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self._suffixes)

    @property
    def observed(self) -> slice:
        """The h of the last layer."""
        first = self.n_states - self.cell.parts * self.n_units
        return slice(first, first + self.n_units)

    @property
    def parts(self) -> dict[str, slice]:
        """What a cell keeps, layer by layer: "h" and "c" of an LSTM, "h_l0", "h_l1", ... of several layers."""
        size = self.n_units
        names = [
            letter + (f"_l{layer}" if self.n_layers > 1 else "")
            for layer in range(self.n_layers)
            for letter in _LETTERS[: self.cell.parts]
        ]
        return {name: slice(index * size, (index + 1) * size) for index, name in enumerate(names)}

    @property
    def n_units_in_all(self) -> int:
        """Units of all layers."""
        return self.n_layers * self.n_units

    @property
    def in_words(self) -> str:
        """Kind of the cell, layers, units, and what these keep."""
        layers = f"{self.n_layers} layers of " if self.n_layers > 1 else ""
        kept = f" (states {' and '.join(_LETTERS)})" if self.cell.parts > 1 else ""
        return f"{type(self.cell).__name__.removesuffix('Cell')} of {layers}{self.n_units} units{kept}"

    @property
    def state_variables(self) -> dict[str, slice]:
        """The old h of each layer."""
        size = self.cell.parts * self.n_units
        return {f"hidden{layer}": slice(layer * size, layer * size + self.n_units) for layer in range(self.n_layers)}

    def _sizes(self, given: Mapping[str, Any]) -> tuple[int, int]:
        names = [f"{name}{suffix}" for suffix in self._suffixes for name in ("weight_ih", "weight_hh")]
        missing = [name for name in names if given.get(name) is None]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}; got None")
        driven, recurrent = names[0], names[1]
        return network_sizes(
            type(self).__name__, given[recurrent], given[driven], self.cell.rows, (recurrent, driven)
        )  # fmt: skip

    def _shape(self, name: str, layer: int) -> tuple[int, ...]:
        rows = self.cell.rows * self.n_units
        columns = self.n_inputs if layer == 0 else self.n_units
        return {"weight_ih": (rows, columns), "weight_hh": (rows, self.n_units)}.get(name, (rows,))

    def _has_bias(self, layer: int) -> bool:
        return any(f"{name}{self._suffixes[layer]}" in self.parameters for name in ("bias_ih", "bias_hh"))

    def _currents(self, parameters: Parameters, layer: int, h: Array, below: Array) -> tuple[Array, Array]:
        suffix = self._suffixes[layer]
        recurrent = h @ parameters[f"weight_hh{suffix}"].T
        driven = below @ parameters[f"weight_ih{suffix}"].T
        if f"bias_hh{suffix}" in parameters:
            recurrent = recurrent + parameters[f"bias_hh{suffix}"]
        if f"bias_ih{suffix}" in parameters:
            driven = driven + parameters[f"bias_ih{suffix}"]
        return recurrent, driven

    def _states(self, z: Array) -> list[list[Array]]:
        """The parts of the state, by layer."""
        parts = np.split(z, self.n_layers * self.cell.parts, axis=-1)
        return [parts[at : at + self.cell.parts] for at in range(0, len(parts), self.cell.parts)]

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        new: list[Array] = []
        for layer, state in enumerate(self._states(z)):
            parts = self.cell.step(*self._currents(parameters, layer, state[0], x), state)
            x = parts[0]
            new += parts
        return np.concatenate(new, axis=-1)

    def _program(self) -> Program:
        build, cell, units = Builder(), self.cell, self.n_units
        states = [[build.state(units) for _ in range(cell.parts)] for _ in range(self.n_layers)]
        below: View | None = None
        for layer, state in enumerate(states):
            old, new = [part[0] for part in state], [part[1] for part in state]
            currents = build.register(cell.width * units)
            build.product(_part(currents, cell.recurrent, units), old[0], f"recurrent{layer}", f"hidden{layer}")
            driven = _part(currents, cell.driven, units)
            if below is not None:
                build.product(driven, below, f"below{layer}", f"below{layer}")
            if layer == 0 or self._has_bias(layer):
                build.product(currents, None, f"driven{layer}", f"drive{layer}")
            cell.write(build, f"layer{layer}_", old, new, currents)
            below = new[0]
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """Weights of old states, of states below, and of ``(x, 1)``, or of 1 above the first layer."""
        units, cell = self.n_units, self.cell
        found = []
        for layer, suffix in enumerate(self._suffixes):
            inputs = self.n_inputs if layer == 0 else 0
            for block in range(cell.rows):
                part, everything = slice(block * units, (block + 1) * units), slice(0, units)
                recurrent = cell.recurrent[block] - min(cell.recurrent)
                driven = cell.driven[block] - min(cell.driven)
                found.append(
                    Entry(f"weight_hh{suffix}", f"recurrent{layer}", part, _rows(recurrent, units), everything)
                )
                if layer == 0:
                    rows = _rows(cell.driven[block], units)
                    found.append(Entry(f"weight_ih{suffix}", "driven0", part, rows, slice(0, inputs)))
                else:
                    found.append(Entry(f"weight_ih{suffix}", f"below{layer}", part, _rows(driven, units), everything))
                for name, order in (("bias_ih", cell.driven), ("bias_hh", cell.recurrent)):
                    column = slice(inputs, inputs + 1)
                    found.append(Entry(f"{name}{suffix}", f"driven{layer}", part, _rows(order[block], units), column))
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """The cell of every layer."""
        function, names = self.cell.function, list(self.program.channels)
        layers = ([name for name in names if name.startswith(f"layer{layer}_")] for layer in range(self.n_layers))
        return tuple(Pointwise(function, tuple(channels)) for channels in layers)

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)`` for the first layer, 1 for the others; x alone, and nothing, where there are no biases."""
        ones = np.ones((*x.shape[:-1], 1))
        found = {"drive0": np.concatenate([x, ones], axis=-1) if self._has_bias(0) else x}
        return found | {f"drive{layer}": ones for layer in range(1, self.n_layers) if self._has_bias(layer)}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Channels of every layer, and what comes from below."""
        channels: dict[str, Array] = {}
        variables = self.drives(x)
        for layer, state in enumerate(self._states(z)):
            currents = self._currents(self.parameters, layer, state[0], x)
            found = self.cell.channels(*currents, state)
            channels |= {f"layer{layer}_{name}": value for name, value in found.items()}
            if layer > 0:
                variables[f"below{layer}"] = x
            x = self.cell.step(*currents, state)[0]
        return StepNumbers(channels, variables)


def _part(currents: View, order: tuple[int, ...], units: int) -> View:
    """The adjacent blocks of the currents that `order` names."""
    return View(currents.register, currents.start + min(order) * units, len(order) * units)


def _rows(block: int, units: int) -> slice:
    return slice(block * units, (block + 1) * units)


class RNN(_Layers):
    """The network of torch.nn.RNN, one layer; see `kpref.models.cells.RNNCell`.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
    weight_hh : array_like, shape (H, H)
    bias_ih, bias_hh : array_like, shape (H,), optional
    nonlinearity : {"tanh", "relu", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias_ih: npt.ArrayLike | None = None,
        bias_hh: npt.ArrayLike | None = None,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity, ("tanh", "relu", "identity"))
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        super().__init__(RNNCell(self.nonlinearity), [""], given, trainable)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        nonlinearity: str = "tanh",
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias, _BIASES)
        return cls(**parameters, nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity.name}


class _GatedLayer(_Layers):
    """One layer of a gated cell."""

    _cell: ClassVar[type[GRUCell] | type[LSTMCell] | type[UGRNNCell]]

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias_ih: npt.ArrayLike | None = None,
        bias_hh: npt.ArrayLike | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        super().__init__(self._cell(), [""], given, trainable)


class GRU(_GatedLayer):
    """The gated recurrent unit of torch.nn.GRU, one layer; see `kpref.models.cells.GRUCell`.

    Parameters
    ----------
    weight_ih : array_like, shape (3 H, n_inputs)
        Blocks of H rows in the order r, u, n (PyTorch: r, z, n).
    weight_hh : array_like, shape (3 H, H)
    bias_ih, bias_hh : array_like, shape (3 H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    _cell = GRUCell

    @classmethod
    def init(cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        return cls(**initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias, _BIASES, GRUCell.rows))

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """The update gate complemented, and the reset gate before the product (Cho et al. 2014, Keras) or left out."""
        recurrent, driven = self._currents(self.parameters, 0, z, x)
        (a_r, a_u, a_n), (c_r, c_u, c_n) = np.split(recurrent, 3, axis=-1), np.split(driven, 3, axis=-1)
        r, (u, complement) = sigmoid(a_r + c_r), sigmoid_pair(a_u + c_u)
        yield "gate: the update gate complemented", u * np.tanh(c_n + r * a_n) + complement * z
        own = slice(2 * self.n_units, None)
        before = (r * z) @ self.parameters["weight_hh"][own].T
        if "bias_hh" in self.parameters:
            before = before + self.parameters["bias_hh"][own]
        yield "gate: the reset gate before the product", complement * np.tanh(c_n + before) + u * z
        yield "gate: the reset gate left out", complement * np.tanh(c_n + a_n) + u * z


class LSTM(_GatedLayer):
    """The long short-term memory of torch.nn.LSTM, one layer; states (h, c). See `kpref.models.cells.LSTMCell`.

    Parameters
    ----------
    weight_ih : array_like, shape (4 H, n_inputs)
        Blocks of H rows in the order i, f, g, o.
    weight_hh : array_like, shape (4 H, H)
    bias_ih, bias_hh : array_like, shape (4 H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    _cell = LSTMCell

    @classmethod
    def init(cls, n_inputs: int, n_units: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        return cls(**initial_parameters(cls.__name__, n_inputs, n_units, seed, gain, bias, _BIASES, LSTMCell.rows))


class UGRNN(_GatedLayer):
    """The update gate network of Collins, Sohl-Dickstein and Sussillo; see `kpref.models.cells.UGRNNCell`.

    Parameters
    ----------
    weight_ih : array_like, shape (2 H, n_inputs)
        Blocks of H rows in the order candidate, gate.
    weight_hh : array_like, shape (2 H, H)
    bias_ih, bias_hh : array_like, shape (2 H,), optional
        Only their sum counts; a random network has the first.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    _cell = UGRNNCell

    @classmethod
    def init(cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        rows = UGRNNCell.rows
        return cls(**initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias, ("bias_ih",), rows))

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """The gate complemented, and the nonlinearity left out."""
        recurrent, driven = self._currents(self.parameters, 0, z, x)
        a_n, a_g = np.split(recurrent + driven, 2, axis=-1)
        g, complement = sigmoid_pair(a_g)
        yield "gate: the update gate complemented", g * np.tanh(a_n) + complement * z
        yield "slope: the nonlinearity left out", complement * a_n + g * z


class Stacked(_Layers):
    """torch.nn.RNN, GRU or LSTM of several layers.

    Parameters
    ----------
    cell : {"rnn", "gru", "lstm"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    nonlinearity : {"tanh", "relu", "identity"}
        Of an RNN.
    **parameters : array_like
        Under PyTorch's names: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, ``weight_ih_l1``, ...
    """

    def __init__(
        self, cell: str, trainable: Sequence[str] | None = None, nonlinearity: str = "tanh", **parameters: Any
    ) -> None:
        cells: dict[str, Callable[[], Cell]] = {
            "rnn": lambda: RNNCell(get_nonlinearity(nonlinearity, ("tanh", "relu", "identity"))),
            "gru": GRUCell,
            "lstm": LSTMCell,
        }
        if not isinstance(cell, str) or cell not in cells:
            raise ValueError(f"cell must be one of {', '.join(cells)}; got {short(cell)}")
        layers = sum(name.startswith("weight_hh_l") for name in parameters)
        suffixes = [f"_l{layer}" for layer in range(layers)]
        unknown = [name for name in parameters if name not in {n + s for s in suffixes for n in _NAMES}]
        if unknown or not layers:
            raise ValueError(
                f"the parameters of {max(layers, 1)} layers are called weight_ih_l0, weight_hh_l0, bias_ih_l0, "
                f"bias_hh_l0 and so on; got {', '.join(unknown) or 'none'}"
            )
        self._kind, self._nonlinearity = cell, nonlinearity
        super().__init__(cells[cell](), suffixes, parameters, trainable)

    def _options(self) -> dict[str, Any]:
        return {"cell": self._kind, "nonlinearity": self._nonlinearity}

    @classmethod
    def init(
        cls,
        cell: str,
        n_inputs: int,
        n_units: int,
        n_layers: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        nonlinearity: str = "tanh",
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        layers = [f"_l{layer}" for layer in range(integer("n_layers", n_layers, 1))]
        rows = {"gru": 3, "lstm": 4}.get(cell, 1) if isinstance(cell, str) else 1
        parameters = initial_parameters("network", n_inputs, n_units, seed, gain, bias, _BIASES, rows, layers)
        return cls(cell, nonlinearity=nonlinearity, **parameters)


def _stacked(
    cell: str, n_inputs: int, n_units: int, seed: int, gain: float = 1.0, n_layers: int = 2, **options: Any
) -> Stacked:
    """A random network of two layers or more."""
    return Stacked.init(cell, n_inputs, n_units, n_layers, seed, gain, **options)


for _name, _kind, _layout in (
    ("rnn", RNN, TorchLayout(blocks=1, biases="summed", options=("nonlinearity",))),
    ("gru", GRU, TorchLayout(blocks=3)),
    ("lstm", LSTM, TorchLayout(blocks=4, biases="summed")),
):
    register(_name, _kind, _kind.init, variants=({}, {"bias": False}), torch=_layout)
    register(
        f"stacked-{_name}",
        Stacked,
        partial(_stacked, _name),
        fixed={"cell": _name},
        variants=({}, {"n_layers": 3, "bias": False}),
        torch=replace(_layout, several=True),
    )
register("ugrnn", UGRNN, UGRNN.init, variants=({}, {"bias": False}))
