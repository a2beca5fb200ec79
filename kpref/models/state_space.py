"""Layers of diagonal linear recurrences with gated mixing between them: what LRU and S4D share.

Inputs are encoded, and pass through blocks one above the other, all in the same step,

    s_0 = E x + b,    s_(l+1) = s_l + (V f + c) * sigmoid(W f + d),    f = phi(y_l),

where y_l are the features that a linear recurrence of layer l, driven by s_l, puts out. What adds to s_l is a gated
linear unit (Dauphin et al. 2017) around a residual connection; the normalisations that practitioners put before it are
left out. The last s is what readouts see, and part of the state, though the next step does not look at it.

Differentiating, with v = V f + c and g = sigmoid(W f + d),

    ds_(l+1) = ds_l + g * dv + v g (1 - g) * dw,    dv = V df + dV f + dc,  dw likewise,    df = phi'(y) * dy.

Program: products from s through the recurrence to y, a scale to f, a product to (v, w), two scales and a copy to the
next s. Everything of a recurrence stands in its own file, as a `Recurrence`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number
from kpref.memory import require_memory
from kpref.models.base import Array, Parameters
from kpref.models.currents import with_one
from kpref.models.nonlinearity import get_nonlinearity, sigmoid, sigmoid_pair
from kpref.models.step import Pointwise, StepMap, StepNumbers
from kpref.program import Builder, Program, View
from kpref.step_form import Entry

__all__ = ["StateSpaceNetwork"]

_MIXING = ("weight_value", "bias_value", "weight_gate", "bias_gate")


class StateSpaceNetwork(StepMap):
    """Blocks of a recurrence and a gated linear unit; see the head of the file.

    Attributes
    ----------
    n_features : int
        Width of s, and of what readouts see.
    n_layers : int
    widths : tuple of int
        Complex states of each layer: the state has real parts, then imaginary ones, layer by layer, and the last s.
    """

    #: Names of the arrays of a recurrence.
    recurrence: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        bias_ih: npt.ArrayLike | None,
        nonlinearity: str,
        trainable: Sequence[str] | None,
        layers: Mapping[str, npt.ArrayLike],
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        encoder = finite_array("weight_ih", weight_ih, shape=("H", "n_inputs"))
        if 0 in encoder.shape:
            raise ValueError(f"weight_ih must have shape (H, n_inputs), neither of them 0; got {encoder.shape}")
        self.n_features, self.n_inputs = encoder.shape
        self.n_layers = max(1, sum(name.startswith(f"{self.recurrence[0]}_l") for name in layers))
        self._check_names(layers)
        parameters = {"weight_ih": encoder}
        if bias_ih is not None:
            parameters["bias_ih"] = finite_array("bias_ih", bias_ih, shape=(self.n_features,))
        widths = []
        for layer in range(self.n_layers):
            given = {
                name.removesuffix(f"_l{layer}"): array for name, array in layers.items() if name.endswith(f"_l{layer}")
            }
            own = self._checked(given, f"_l{layer}") | self._checked_mixing(given, f"_l{layer}")
            parameters |= {f"{name}_l{layer}": array for name, array in own.items()}
            widths.append(own[self.recurrence[0]].size)
        self.widths = tuple(widths)
        self.n_states = 2 * sum(widths) + self.n_features
        super().__init__(parameters, trainable)

    def _check_names(self, given: Mapping[str, Any]) -> None:
        layers = [f"_l{layer}" for layer in range(self.n_layers)]
        needed = [name + layer for layer in layers for name in (*self.recurrence, "weight_value", "weight_gate")]
        known = {*needed, *(name + layer for layer in layers for name in _MIXING)}
        missing, unknown = [name for name in needed if name not in given], [name for name in given if name not in known]
        if missing or unknown:
            wrong = f"{missing[0]} is missing" if missing else f"{unknown[0]} is none of them"
            raise ValueError(
                f"{type(self).__name__} of {self.n_layers} layers needs {', '.join(self.recurrence)}, weight_value and "
                f"weight_gate, and may have bias_value and bias_gate, each with _l0, _l1, ...; {wrong}"
            )

    def _checked_mixing(self, given: Mapping[str, Any], suffix: str) -> dict[str, Array]:
        size = self.n_features
        shapes = {name: (size, size) if name.startswith("weight") else (size,) for name in _MIXING}
        return {
            name: finite_array(name + suffix, given[name], shape=shape)
            for name, shape in shapes.items()
            if given.get(name) is not None
        }

    # What a recurrence states

    @abstractmethod
    def _checked(self, given: Mapping[str, Any], suffix: str) -> dict[str, Array]:
        """The arrays of a layer's recurrence, checked; the first has as many entries as there are states."""

    @abstractmethod
    def _advance(self, parameters: Parameters, s: Array, re: Array, im: Array) -> tuple[Array, Array, Array]:
        """New real and imaginary parts, and y; parameters by their names without the layer."""

    @abstractmethod
    def _write(self, build: Builder, layer: int, s: View, old: Sequence[View], new: Sequence[View], y: View) -> None:
        """The operations from s and the old state to the new one and y, names ending in the layer."""

    @abstractmethod
    def _enter(self, layer: int) -> list[Entry]:
        """How the arrays of a recurrence enter its weights."""

    @abstractmethod
    def _coefficients(self, parameters: Parameters, s: Array, re: Array, im: Array) -> StepNumbers:
        """Channels and variables of `_write`, names without the layer."""

    @abstractmethod
    def _step_of_a_unit(self, parameters: Parameters, layer: int) -> Pointwise:
        """The recurrence as a compiled function of a unit."""

    # The network

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """Layer by layer the recurrence, phi, and what the gate lets through."""
        found = []
        for layer in range(self.n_layers):
            recurrence = self._step_of_a_unit(self._layer(self.parameters, layer), layer)
            gated = Pointwise("gated-sum", (f"value{layer}", f"gate{layer}"), (f"kept{layer}",))
            found += [recurrence, Pointwise(self.nonlinearity.name, (f"slope{layer}",)), gated]
        return tuple(found)

    def drives(self, x: Array) -> dict[str, Array]:
        """1, and ``(x, 1)``, or x where there is no bias."""
        biased = "bias_ih" in self.parameters
        return {"one": np.ones((*x.shape[:-1], 1)), "drive": with_one(x) if biased else x}

    def _layer(self, parameters: Parameters, layer: int) -> dict[str, Array]:
        suffix = f"_l{layer}"
        return {name.removesuffix(suffix): array for name, array in parameters.items() if name.endswith(suffix)}

    def _parts(self, z: Array) -> list[Array]:
        """Real and imaginary parts of each layer in turn."""
        widths = [width for width in self.widths for _ in range(2)]
        return list(np.split(z, list(np.cumsum(widths)), axis=-1)[:-1])

    def _encoded(self, parameters: Parameters, x: Array) -> Array:
        s = x @ parameters["weight_ih"].T
        return s + parameters["bias_ih"] if "bias_ih" in parameters else s

    def _mixed(self, own: Parameters, f: Array) -> tuple[Array, Array]:
        """The value, and the argument of the gate."""
        v, w = f @ own["weight_value"].T, f @ own["weight_gate"].T
        return v + own["bias_value"] if "bias_value" in own else v, w + own["bias_gate"] if "bias_gate" in own else w

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        parts, new = self._parts(z), []
        s = self._encoded(parameters, x)
        for layer in range(self.n_layers):
            own = self._layer(parameters, layer)
            re, im, y = self._advance(own, s, *parts[2 * layer : 2 * layer + 2])
            v, w = self._mixed(own, self.nonlinearity.value(y))
            s = s + v * sigmoid(w)
            new += [re, im]
        return np.concatenate([*new, s], axis=-1)

    def _program(self) -> Program:
        build, size = Builder(), self.n_features
        states = [[build.state(width) for _ in range(2)] for width in self.widths]
        _, out = build.state(size)
        s = build.register(size)
        build.product(s, None, "encoder", "drive")
        for layer, parts in enumerate(states):
            y, f, mixed = (build.register(width) for width in (size, size, 2 * size))
            self._write(build, layer, s, [old for old, _ in parts], [new for _, new in parts], y)
            build.scale(f, y, f"slope{layer}")
            build.product(mixed, f, f"mixing{layer}", f"f{layer}")
            if f"bias_value_l{layer}" in self.parameters or f"bias_gate_l{layer}" in self.parameters:
                build.product(mixed, None, f"mixing_bias{layer}", "one")
            above = out if layer == self.n_layers - 1 else build.register(size)
            build.scale(above, s, f"kept{layer}")
            build.scale(above, mixed.part(0, size), f"value{layer}")
            build.scale(above, mixed.part(1, size), f"gate{layer}")
            s = above
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """The encoder; and layer by layer the recurrence, and V above W."""
        size, inputs = self.n_features, self.n_inputs
        rows, first = slice(0, size), slice(0, 1)
        found = [
            Entry("weight_ih", "encoder", rows, rows, slice(0, inputs)),
            Entry("bias_ih", "encoder", rows, rows, slice(inputs, inputs + 1)),
        ]
        for layer in range(self.n_layers):
            found += self._enter(layer)
            for index, name in enumerate(("value", "gate")):
                to = slice(index * size, (index + 1) * size)
                found.append(Entry(f"weight_{name}_l{layer}", f"mixing{layer}", rows, to, rows))
                found.append(Entry(f"bias_{name}_l{layer}", f"mixing_bias{layer}", rows, to, first))
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Channels of every layer; (x, 1), 1, and what the weights of a layer multiply."""
        channels: dict[str, Array] = {}
        variables = self.drives(x)
        parts, s = self._parts(z), self._encoded(self.parameters, x)
        for layer in range(self.n_layers):
            own, state = self._layer(self.parameters, layer), parts[2 * layer : 2 * layer + 2]
            found, (*_, y) = self._coefficients(own, s, *state), self._advance(own, s, *state)
            channels |= {f"{name}{layer}": value for name, value in found.channels.items()}
            variables |= {f"{name}{layer}": value for name, value in found.variables.items()}
            f = self.nonlinearity.value(y)
            v, w = self._mixed(own, f)
            gate, complement = sigmoid_pair(w)
            channels |= {
                f"slope{layer}": self.nonlinearity.slope(y),
                f"kept{layer}": np.ones(self.n_features),
                f"value{layer}": gate,
                f"gate{layer}": v * (gate * complement),
            }
            variables[f"f{layer}"] = f
            s = s + v * gate
        return StepNumbers(channels, variables)

    @property
    def parts(self) -> dict[str, slice]:
        """Real and imaginary parts of the recurrence of each layer, and the features "s"."""
        found, start = {}, 0
        for layer, width in enumerate(self.widths):
            for name in ("re", "im"):
                found[f"{name}_l{layer}"] = slice(start, start + width)
                start += width
        return found | {"s": slice(start, start + self.n_features)}

    @property
    def observed(self) -> slice:
        """The features above the last layer."""
        return slice(self.n_states - self.n_features, self.n_states)

    @property
    def in_words(self) -> str:
        """Layers, their complex states, and features."""
        widths = " and ".join(str(width) for width in dict.fromkeys(self.widths))
        layers = f"{self.n_layers} layer{'s' if self.n_layers > 1 else ''} of {widths} complex states"
        return f"{type(self).__name__} of {layers} and {self.n_features} features ({self.nonlinearity.name})"

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity.name}


def random_mixing(
    n_inputs: int,
    n_features: int,
    n_layers: int,
    n_states: int,
    generator: np.random.Generator,
    gain: float,
    bias: bool,
) -> dict[str, Array]:
    """Random arrays of encoder and mixing: entries N(0, 1 / n_inputs), N(0, gain**2 / n_features); zero biases.

    Raises MemoryError if a network of so many layers and states would not fit.
    """
    size = integer("n_features", n_features, 1)
    inputs, layers = integer("n_inputs", n_inputs, 1), integer("n_layers", n_layers, 1)
    scale, biased = real_number("gain", gain) / size**0.5, flag("bias", bias)
    per_layer = 2 * size**2 + 4 * size * integer("n_states", n_states, 1)
    what = f"a network with {n_inputs = }, {n_features = }, {n_states = } and {n_layers = }"
    require_memory(8.0 * (size * inputs + layers * per_layer), what)
    found = {"weight_ih": generator.normal(size=(size, inputs)) / inputs**0.5}
    if biased:
        found["bias_ih"] = np.zeros(size)
    for layer in range(layers):
        for name in _MIXING:
            if name.startswith("weight"):
                found[f"{name}_l{layer}"] = scale * generator.normal(size=(size, size))
            elif biased:
                found[f"{name}_l{layer}"] = np.zeros(size)
    return found
