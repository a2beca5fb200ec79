"""Networks whose recurrent weight is antisymmetric, but for a little damping: stable by construction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, real_number
from kpref.models.base import Array, Parameters
from kpref.models.initial import initial_parameters
from kpref.models.nonlinearity import tanh_slope
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepMap, StepNumbers, network_sizes
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["AntisymmetricRNN"]


class AntisymmetricRNN(StepMap):
    """The network ``h' = h + epsilon tanh(a)``, ``a = (W - W^T - gamma I) h + U x + b``.

    Of Chang, Chen, Haber, Chi, ICLR 2019: Euler steps of a system whose Jacobian has eigenvalues near the imaginary
    axis. Differentiating, with ``s = epsilon (1 - tanh(a)**2)`` and ``M = W - W^T - gamma I``,

        dh' = dh + s * (M dh + (dW - dW^T) h + dU x + db).

    Program: the products of M and of the inputs make the currents; two scales, one of them constant, make the new
    state. W enters the weight M twice, as it is and, with the sign changed, transposed: so an entry of W acts on two
    units, K mixes units, and the diagonal of W does nothing.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        W.
    bias : array_like, shape (H,), optional
    epsilon : float
        Step, positive.
    gamma : float
        Damping, not negative.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, or a step or damping out of bounds.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        epsilon: float = 0.1,
        gamma: float = 0.01,
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.epsilon, self.gamma = real_number("epsilon", epsilon, above=0), real_number("gamma", gamma, least=0)
        self.n_states, self.n_inputs = network_sizes("AntisymmetricRNN", weight_hh, weight_ih)
        parameters = {
            "weight_ih": finite_array("weight_ih", weight_ih, shape=(self.n_states, self.n_inputs)),
            "weight_hh": finite_array("weight_hh", weight_hh, shape=(self.n_states, self.n_states)),
        }
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(self.n_states,))
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True, **options: Any
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        return cls(**initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias), **options)

    def _options(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "gamma": self.gamma}

    def _current(self, parameters: Parameters, z: Array, x: Array) -> Array:
        weight = parameters["weight_hh"]
        matrix = weight - weight.T - self.gamma * np.eye(self.n_states)
        current = z @ matrix.T + x @ parameters["weight_ih"].T
        return current + parameters["bias"] if "bias" in parameters else current

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return z + self.epsilon * np.tanh(self._current(parameters, z, x))

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """The weight as it is, the old state left out, and the nonlinearity left out."""
        current = self._current(self.parameters, z, x)
        plain = current + z @ (self.parameters["weight_hh"] + self.gamma * np.eye(self.n_states))
        yield "transpose: the transposed weight not subtracted", z + self.epsilon * np.tanh(plain)
        yield "decay: the old state left out", self.epsilon * np.tanh(current)
        yield "slope: the nonlinearity left out", z + self.epsilon * current

    def _program(self) -> Program:
        build = Builder()
        old, new = build.state(self.n_states)
        current = build.register(self.n_states)
        build.product(current, old, "recurrent", "hidden")
        build.product(current, None, "driven", "drive")
        build.scale(new, current, "slope")
        build.scale(new, old, "kept")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W, ``-W^T``, and ``(U, b)``."""
        units, inputs = slice(0, self.n_states), self.n_inputs
        found = (
            Entry("weight_ih", "driven", units, units, slice(0, inputs)),
            Entry("weight_hh", "recurrent", units, units, units),
            Entry("weight_hh", "recurrent", units, units, units, transposed=True, factor=-1.0),
            Entry("bias", "driven", units, units, slice(inputs, inputs + 1)),
        )
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    def weights(self) -> dict[str, Array]:
        """The weights of the program, the damping included."""
        found = super().weights()
        found["recurrent"] -= self.gamma * np.eye(self.n_states)
        return found

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """``epsilon tanh(a)``."""
        return (Pointwise("scaled-tanh", ("slope",), numbers=np.full((1, self.n_states), self.epsilon)),)

    @property
    def state_variables(self) -> dict[str, slice]:
        """The state itself, which M multiplies."""
        return {"hidden": slice(0, self.n_states)}

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        ones = np.ones((*x.shape[:-1], 1))
        return {"drive": np.concatenate([x, ones], axis=-1) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """``epsilon (1 - tanh(a)**2)``, and ones; ``(x, 1)``."""
        slope = self.epsilon * tanh_slope(self._current(self.parameters, z, x))
        return StepNumbers({"kept": np.ones(self.n_states), "slope": slope}, self.drives(x))


register("antisymmetric", AntisymmetricRNN, AntisymmetricRNN.init, variants=({}, {"bias": False, "epsilon": 0.5}))
