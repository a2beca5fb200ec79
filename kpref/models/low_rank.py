"""Networks whose recurrent weight is a product of two thin factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number
from kpref.memory import require_memory
from kpref.models.base import Array, Parameters
from kpref.models.currents import with_one
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepMap, StepNumbers
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["LowRankRNN"]


class LowRankRNN(StepMap):
    """The leaky network of low rank, ``z' = (1 - alpha) z + alpha (m (n^T phi(z)) / H + U x + b)``.

    Of Mastrogiuseppe and Ostojic, Neuron 99 (2018), in Euler steps of size alpha of its time constant. With
    ``kappa = n^T phi(z) / H``, shape (R,),

        dz' = (1 - alpha) dz + alpha (m dkappa + dm kappa + dU x + db),
        dkappa = (n^T (phi'(z) * dz) + dn^T phi(z)) / H.

    Program: phi' scales the old state; ``n^T / H`` takes it, and the variable phi(z), to kappa; m takes kappa to the
    currents, of which alpha scales the sum. The Jacobian of H x H entries is never formed: the cost is O(H R).

    Parameters
    ----------
    m, n : array_like, shape (H, R)
        Left and right vectors.
    weight_ih : array_like, shape (H, n_inputs)
        U.
    bias : array_like, shape (H,), optional
    alpha : float
        Step over time constant, in (0, 1].
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    def __init__(
        self,
        m: npt.ArrayLike,
        n: npt.ArrayLike,
        weight_ih: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        alpha: float = 0.1,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.alpha = real_number("alpha", alpha, above=0, most=1)
        self.nonlinearity = get_nonlinearity(nonlinearity)
        left = finite_array("m", m, shape=("H", "R"))
        if 0 in left.shape:
            raise ValueError(f"m must have shape (H, R), neither of them 0; got {left.shape}")
        self.n_states, self.rank = left.shape
        inputs = finite_array("weight_ih", weight_ih, shape=(self.n_states, "n_inputs"))
        self.n_inputs = inputs.shape[1]
        if self.n_inputs < 1:
            raise ValueError(f"weight_ih must have at least one column; got shape {inputs.shape}")
        parameters = {"m": left, "n": finite_array("n", n, shape=left.shape), "weight_ih": inputs}
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(self.n_states,))
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        rank: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        alpha: float = 0.1,
        nonlinearity: str = "tanh",
    ) -> Self:
        """Entries of m and n N(0, gain), those of the input weight N(0, 1 / n_inputs), zero biases."""
        n_inputs, n_states = integer("n_inputs", n_inputs, 1), integer("n_states", n_states, 1)
        rank, bias = integer("rank", rank, 1), flag("bias", bias)
        generator = np.random.default_rng(integer("seed", seed, 0))
        require_memory(8.0 * n_states * (2 * rank + n_inputs), f"{n_states = }, {rank = }, {n_inputs = }")
        root = real_number("gain", gain, least=0) ** 0.5
        m, n = root * generator.normal(size=(2, n_states, rank))
        weight = generator.normal(size=(n_states, n_inputs)) / n_inputs**0.5
        return cls(m, n, weight, np.zeros(n_states) if bias else None, alpha, nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "nonlinearity": self.nonlinearity.name}

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        kappa = self.nonlinearity.value(z) @ parameters["n"] / self.n_states
        current = kappa @ parameters["m"].T + x @ parameters["weight_ih"].T
        if "bias" in parameters:
            current = current + parameters["bias"]
        return (1 - self.alpha) * z + self.alpha * current

    def _program(self) -> Program:
        build = Builder()
        old, new = build.state(self.n_states)
        sloped, kappa, current = (build.register(width) for width in (self.n_states, self.rank, self.n_states))
        build.scale(sloped, old, "slope")
        build.product(kappa, sloped, "right", "rates")
        build.product(current, kappa, "left", "kappa")
        build.product(current, None, "driven", "drive")
        build.scale(new, old, "decay")
        build.scale(new, current, "leak")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """``n^T / H``, m, and ``(U, b)``."""
        units, rank, inputs = self.n_states, self.rank, self.n_inputs
        everything, latents = slice(0, units), slice(0, rank)
        found = [
            Entry("m", "left", everything, everything, latents),
            Entry("n", "right", everything, latents, everything, transposed=True, factor=1 / units),
            Entry("weight_ih", "driven", everything, everything, slice(0, inputs)),
            Entry("bias", "driven", everything, everything, slice(inputs, inputs + 1)),
        ]
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi of the old state."""
        return (Pointwise(self.nonlinearity.name, ("slope",)),)

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        return {"drive": with_one(x) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Slope and leak; rates phi(z), kappa, and ``(x, 1)``."""
        rates = self.nonlinearity.value(z)
        return StepNumbers(
            {
                "slope": self.nonlinearity.slope(z),
                "decay": np.full(self.n_states, 1 - self.alpha),
                "leak": np.full(self.n_states, self.alpha),
            },
            {
                "rates": rates,
                "kappa": rates @ self.parameters["n"] / self.n_states,
                **self.drives(x),
            },
        )


def _init(n_inputs: int, n_units: int, seed: int, gain: float = 1.0, **options: Any) -> LowRankRNN:
    """A random network of a rank that grows with its units."""
    return LowRankRNN.init(n_inputs, n_units, 1 + n_units // 3, seed, gain, **options)


register("low-rank", LowRankRNN, _init, variants=({}, {"nonlinearity": "softplus", "bias": False}))
