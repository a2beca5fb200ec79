"""The neural ordinary differential equation: a vector field that is a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number, short
from kpref.memory import require_memory
from kpref.models.base import Array, Field, Parameters
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepModel, StepNumbers
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["NeuralODE"]


class NeuralODE(Field, StepModel):
    """The field ``dz/dt = W_L phi(... phi(W_0 z + b_0) ...) + b_L`` of any depth (Chen et al., NeurIPS 2018).

    Inputs x are concatenated with z, so that ``U x`` joins the first current, or added to the velocity. With the
    currents ``a_0 = W_0 z + b_0 (+ U x)``, ``a_l = W_l f_l + b_l`` of the rates ``f_l = phi(a_(l-1))``, the velocity is
    a_L, and

        da_0 = W_0 dz + dW_0 z + db_0 (+ dU x),
        df_l = phi'(a_(l-1)) * da_(l-1),    da_l = W_l df_l + dW_l f_l + db_l.

    Program: a product and a scale for each hidden layer, through registers of its width; a last product, and a scale of
    ones to the velocity. Without hidden layers it is a linear system. The unit of time is that of the flow.

    Parameters
    ----------
    weight_l0, bias_l0, weight_l1, bias_l1, ... : array_like, shapes (width, columns) and (width,)
        W_l and b_l. Columns are the states, then the width below; the last width is the number of states. Biases may be
        left out.
    weight_ih : array_like, shape (width of a_0, n_inputs), or (n_states, n_inputs) where inputs are added
        U.
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
        phi.
    inputs : {"concatenated", "added"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        nonlinearity: str = "tanh",
        inputs: str = "concatenated",
        trainable: Sequence[str] | None = None,
        **layers: npt.ArrayLike,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        if not isinstance(inputs, str) or inputs not in ("concatenated", "added"):
            raise ValueError(f"inputs must be 'concatenated' or 'added'; got {short(inputs)}")
        self.inputs = inputs
        self.n_layers = sum(name.startswith("weight_l") for name in layers)
        known = {f"{kind}_l{layer}" for layer in range(self.n_layers) for kind in ("weight", "bias")}
        unknown = [name for name in layers if name not in known]
        if unknown or not self.n_layers:
            raise ValueError(
                f"the arrays of {max(self.n_layers, 1)} layers are called weight_l0, bias_l0 and so on; got "
                f"{', '.join(unknown) or 'none'}"
            )
        weights = [
            finite_array(f"weight_l{layer}", layers[f"weight_l{layer}"], ndim=2) for layer in range(self.n_layers)
        ]
        self.n_states = weights[0].shape[1]
        parameters: dict[str, Array] = {}
        for layer, weight in enumerate(weights):
            below = weights[layer - 1].shape[0] if layer else self.n_states
            rows: int | str = self.n_states if layer == self.n_layers - 1 else "width"
            parameters[f"weight_l{layer}"] = finite_array(f"weight_l{layer}", weight, shape=(rows, below))
            if 0 in weight.shape:
                raise ValueError(f"weight_l{layer} must not be empty; got shape {weight.shape}")
            bias = layers.get(f"bias_l{layer}")
            if bias is not None:
                parameters[f"bias_l{layer}"] = finite_array(f"bias_l{layer}", bias, shape=(len(weight),))
        driven = len(weights[self._driven])
        parameters["weight_ih"] = finite_array("weight_ih", weight_ih, shape=(driven, "n_inputs"))
        self.n_inputs = parameters["weight_ih"].shape[1]
        if self.n_inputs < 1:
            raise ValueError(f"weight_ih must have at least one column; got shape {parameters['weight_ih'].shape}")
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        hidden: Sequence[int],
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        nonlinearity: str = "tanh",
        inputs: str = "concatenated",
    ) -> Self:
        """A random field with hidden layers of these widths: entries N(0, gain**2 / columns), zero biases."""
        n_inputs, n_states = integer("n_inputs", n_inputs, 1), integer("n_states", n_states, 1)
        if not isinstance(hidden, Iterable):
            raise TypeError(f"hidden must be widths of hidden layers, such as [64, 64]; got {short(hidden)}")
        widths = [n_states, *(integer("hidden", width, 1) for width in hidden), n_states]
        gain, bias = real_number("gain", gain), flag("bias", bias)
        entries = sum(above * below for above, below in zip(widths[1:], widths[:-1], strict=True))
        require_memory(
            8.0 * (entries + max(widths) * n_inputs), f"a {cls.__name__} of widths {widths} and {n_inputs = }"
        )
        generator, parameters = np.random.default_rng(integer("seed", seed, 0)), {}
        for layer, (above, below) in enumerate(zip(widths[1:], widths[:-1], strict=True)):
            parameters[f"weight_l{layer}"] = generator.normal(size=(above, below)) * (gain / below**0.5)
            if bias:
                parameters[f"bias_l{layer}"] = np.zeros(above)
        driven = n_states if inputs == "added" else widths[1]
        parameters["weight_ih"] = generator.normal(size=(driven, n_inputs)) / n_inputs**0.5
        return cls(nonlinearity=nonlinearity, inputs=inputs, **parameters)

    @property
    def _driven(self) -> int:
        """The layer whose current the inputs join."""
        return self.n_layers - 1 if self.inputs == "added" else 0

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity.name, "inputs": self.inputs}

    def _currents(self, parameters: Parameters, z: Array, x: Array) -> list[Array]:
        """Those of each layer; the last is the velocity."""
        found: list[Array] = []
        for layer in range(self.n_layers):
            below = self.nonlinearity.value(found[-1]) if layer else z
            current = below @ parameters[f"weight_l{layer}"].T
            if layer == self._driven:
                current = current + x @ parameters["weight_ih"].T
            bias = parameters.get(f"bias_l{layer}")
            found.append(current if bias is None else current + bias)
        return found

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return self._currents(parameters, z, x)[-1]

    def _program(self) -> Program:
        build = Builder()
        old, new = build.state(self.n_states)
        below = old
        for layer in range(self.n_layers):
            width = len(self.parameters[f"weight_l{layer}"])
            current = build.register(width)
            build.product(current, below, f"layer{layer}", f"rates{layer}")
            if layer == self._driven or f"bias_l{layer}" in self.parameters:
                build.product(current, None, f"driven{layer}", f"drive{layer}")
            if layer == self.n_layers - 1:
                build.scale(new, current, "velocity")
                break
            below = build.register(width)
            build.scale(below, current, f"slope{layer}")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """Each W; with ``(U, b)`` where the inputs enter, b elsewhere."""
        found = []
        for layer in range(self.n_layers):
            rows, columns = (slice(0, length) for length in self.parameters[f"weight_l{layer}"].shape)
            found.append(Entry(f"weight_l{layer}", f"layer{layer}", rows, rows, columns))
            first = 0
            if layer == self._driven:
                first = self.n_inputs
                found.append(Entry("weight_ih", f"driven{layer}", rows, rows, slice(0, first)))
            found.append(Entry(f"bias_l{layer}", f"driven{layer}", rows, rows, slice(first, first + 1)))
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def state_variables(self) -> dict[str, slice]:
        """The state, which the first weight multiplies."""
        return {"rates0": slice(0, self.n_states)}

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi of every hidden layer."""
        return tuple(Pointwise(self.nonlinearity.name, (f"slope{layer}",)) for layer in range(self.n_layers - 1))

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)`` where the inputs enter, 1 elsewhere; x alone, or nothing, where there is no bias."""
        ones, found = np.ones((*x.shape[:-1], 1)), {}
        for layer in range(self.n_layers):
            biased = f"bias_l{layer}" in self.parameters
            if layer == self._driven:
                found[f"drive{layer}"] = np.concatenate([x, ones], axis=-1) if biased else x
            elif biased:
                found[f"drive{layer}"] = ones
        return found

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Slopes of hidden layers, ones; rates of hidden layers, and what drives."""
        hidden = self._currents(self.parameters, z, x)[:-1]
        slopes = {f"slope{layer}": self.nonlinearity.slope(current) for layer, current in enumerate(hidden)}
        rates = {f"rates{layer}": self.nonlinearity.value(current) for layer, current in enumerate(hidden, 1)}
        return StepNumbers(slopes | {"velocity": np.ones(self.n_states)}, rates | self.drives(x))

    @property
    def in_words(self) -> str:
        """States and widths."""
        widths = [len(self.parameters[f"weight_l{layer}"]) for layer in range(self.n_layers - 1)]
        hidden = f"hidden layers of {', '.join(map(str, widths))}" if widths else "no hidden layer"
        return f"NeuralODE of {self.n_states} states, {hidden} ({self.nonlinearity.name})"


def _init(n_inputs: int, n_units: int, seed: int, gain: float = 1.0, n_hidden: int = 1, **options: Any) -> NeuralODE:
    """A random field of so many states, its hidden layers one wider each."""
    return NeuralODE.init(n_inputs, n_units, [n_units + 1 + layer for layer in range(n_hidden)], seed, gain, **options)


register(
    "neural-ode",
    NeuralODE,
    _init,
    variants=(
        {},
        {"n_hidden": 2, "nonlinearity": "softplus", "bias": False, "inputs": "added"},
        {"n_hidden": 0},
    ),
)
