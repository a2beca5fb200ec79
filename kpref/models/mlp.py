"""A multilayer perceptron, plain or residual, as a flow over its layers: time is depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number
from kpref.memory import require_memory
from kpref.models.base import Array, Parameters
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepMap, StepNumbers
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["MLP"]


class MLP(StepMap):
    """Layers of one width H, each a step: ``z' = phi(W_n z + b_n)``, or ``z' = z + phi(W_n z + b_n)``.

    A residual network is an Euler step of a neural ODE whose weights depend on time (He et al., CVPR 2016; Chen et al.,
    NeurIPS 2018). Data are initial states; those of fewer than H numbers have zeros behind them, which is a first layer
    of fewer columns, as what multiplies zeros moves nothing. The trajectory space is inputs x layers x units, and in
    the measure "sum" the block of the NTK between last layers is the empirical NTK (Jacot et al. 2018) of the network
    and all its weights.

    A map has one F for all steps, so inputs say which layer a step is: with e of shape (L,),

        a = sum_l e_l (W_l z + b_l),    z' = [z +] phi(a),    da = sum_l (W_l e_l dz + dW_l e_l z + e_l db_l),

    and e the n-th unit vector at step n (`depth`). Then all terms but one are exactly zero. Other e are networks too:
    of shared weights where it does not change, of mixed ones between unit vectors.

    Program: e_l scales the old state into a register of its own, whence W_l takes it to the current; phi' scales that
    to the new state, which a scale of ones takes the old state to if the network is residual. So K is local to units,
    and a product with A costs those of all L weights, not only that of the layer.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
        phi.
    residual : bool
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    **layers : array_like
        ``weight_l0`` (H, H), ``bias_l0`` (H,), which may be left out, ``weight_l1`` and so on.
    """

    def __init__(
        self,
        nonlinearity: str = "tanh",
        residual: bool = False,
        trainable: Sequence[str] | None = None,
        **layers: npt.ArrayLike,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        self.residual = flag("residual", residual)
        self.n_layers = self.n_inputs = sum(name.startswith("weight_l") for name in layers)
        known = [f"{kind}_l{layer}" for layer in range(self.n_layers) for kind in ("weight", "bias")]
        unknown = [name for name in layers if name not in known]
        if unknown or not self.n_layers:
            raise ValueError(
                f"the arrays of {max(self.n_layers, 1)} layers are called weight_l0, bias_l0 and so on; got "
                f"{', '.join(unknown) or 'none'}"
            )
        given = {name: layers[name] for name in known if layers.get(name) is not None}
        first = finite_array("weight_l0", given["weight_l0"], shape=("H", "H"))
        self.n_states = len(first)
        if not self.n_states:
            raise ValueError("weight_l0 must have shape (H, H) with H at least 1; got (0, 0)")
        square, row = (self.n_states, self.n_states), (self.n_states,)
        parameters = {
            name: finite_array(name, array, shape=square if name.startswith("weight") else row)
            for name, array in given.items()
        }
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls,
        n_layers: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        nonlinearity: str = "tanh",
        residual: bool = False,
    ) -> Self:
        """Weights N(0, gain**2 / H), zero biases."""
        layers, units = integer("n_layers", n_layers, 1), integer("n_units", n_units, 1)
        scale, biased = real_number("gain", gain) / units**0.5, flag("bias", bias)
        require_memory(8.0 * layers * units**2, f"an {cls.__name__} with {n_layers = } and {n_units = }")
        generator, parameters = np.random.default_rng(integer("seed", seed, 0)), {}
        for layer in range(layers):
            parameters[f"weight_l{layer}"] = scale * generator.normal(size=(units, units))
            if biased:
                parameters[f"bias_l{layer}"] = np.zeros(units)
        return cls(nonlinearity, residual, **parameters)

    def depth(self, n_trials: int) -> Array:
        """Inputs under which step n is layer n: the unit vectors for each trial, (B, L, L)."""
        return np.tile(np.eye(self.n_layers), (integer("n_trials", n_trials, 1), 1, 1))

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity.name, "residual": self.residual}

    @property
    def _biased(self) -> list[int]:
        return [layer for layer in range(self.n_layers) if f"bias_l{layer}" in self.parameters]

    def _current(self, parameters: Parameters, scaled: Sequence[Array], x: Array) -> Array:
        """The current of states that each layer's entry of x has scaled."""
        current = scaled[0] @ parameters["weight_l0"].T
        for layer in range(1, self.n_layers):
            current = current + scaled[layer] @ parameters[f"weight_l{layer}"].T
        for layer in self._biased:
            current = current + x[..., layer : layer + 1] * parameters[f"bias_l{layer}"]
        return current

    def _scaled(self, z: Array, x: Array) -> list[Array]:
        return [x[..., layer : layer + 1] * z for layer in range(self.n_layers)]

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        value = self.nonlinearity.value(self._current(parameters, self._scaled(z, x), x))
        return z + value if self.residual else value

    def _program(self) -> Program:
        build, units = Builder(), self.n_states
        old, new = build.state(units)
        current, scaled = build.register(units), build.register(self.n_layers * units)
        for layer in range(self.n_layers):
            own = scaled.part(layer, units)
            build.scale(own, old, f"layer{layer}")
            build.product(current, own, f"weight{layer}", f"scaled{layer}")
        if self._biased:
            build.product(current, None, "bias", "layers")
        build.scale(new, current, "slope")
        if self.residual:
            build.scale(new, old, "kept")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W_l each a weight, b_l the columns of one."""
        rows = slice(0, self.n_states)
        weights = [Entry(f"weight_l{n}", f"weight{n}", rows, rows, rows) for n in range(self.n_layers)]
        biases = [Entry(f"bias_l{n}", "bias", rows, rows, slice(k, k + 1)) for k, n in enumerate(self._biased)]
        return (*weights, *biases)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi."""
        return (Pointwise(self.nonlinearity.name, ("slope",)),)

    def drives(self, x: Array) -> dict[str, Array]:
        """Each entry of x, and those of layers that have a bias."""
        found = {f"layer{layer}": x[..., layer : layer + 1] for layer in range(self.n_layers)}
        return found | ({"layers": x[..., self._biased]} if self._biased else {})

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Entries of x for each unit, slope; scaled states, and the entries of x of layers that have a bias."""
        scaled = self._scaled(z, x)
        ones = np.ones(z.shape)
        channels = {f"layer{layer}": x[..., layer : layer + 1] * ones for layer in range(self.n_layers)}
        channels["slope"] = self.nonlinearity.slope(self._current(self.parameters, scaled, x))
        if self.residual:
            channels["kept"] = np.ones(self.n_states)
        variables = {f"scaled{layer}": each for layer, each in enumerate(scaled)}
        if self._biased:
            variables["layers"] = np.concatenate([x[..., layer : layer + 1] for layer in self._biased], axis=-1)
        return StepNumbers(channels, variables)

    @property
    def in_words(self) -> str:
        """Layers and units."""
        kind = "residual MLP" if self.residual else "MLP"
        return f"{kind} of {self.n_layers} layers of {self.n_states} units ({self.nonlinearity.name})"


register(
    "mlp",
    MLP,
    MLP.init,
    variants=({}, {"residual": True, "nonlinearity": "softplus", "bias": False}),
)
