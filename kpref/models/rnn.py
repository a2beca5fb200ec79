"""Vanilla recurrent networks: the linear map, torch.nn.RNN, and the leaky Euler network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import real_number
from kpref.models.base import (
    Array,
    Parameters,
    ParameterSite,
    SiteCoefficients,
    SiteMap,
    initial_parameters,
    network_current,
)
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import TorchLayout, register

__all__ = ["RNN", "LeakyRNN", "Linear"]

_WEIGHTS = (ParameterSite("weight_ih", "input", (0,)), ParameterSite("weight_hh", "recurrent", (0,)))


class Linear(SiteMap):
    """The linear map ``z' = W z + U x + b``.

    Site form: C0 = 0, G = 1, m = z.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        W.
    bias : array_like, shape (H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    sites = (*_WEIGHTS, ParameterSite("bias", "bias", (0,)))
    optional = ("bias",)

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, trainable)

    @classmethod
    def init(cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `initial_parameters` in `kpref.models.base`."""
        return cls(**initial_parameters(cls, n_inputs, n_states, seed, gain, bias))

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return network_current(parameters, z, x)

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        return SiteCoefficients(decay=np.zeros(self.n_states), gates=np.ones((1, self.n_states)))


class RNN(SiteMap):
    """The network of torch.nn.RNN, ``z' = phi(a)``, ``a = W z + b_hh + U x + b_ih``.

    Differentiating, ``dz' = phi'(a) * (W dz + dW z + dU x + db_hh + db_ih)``.
    Site form: C0 = 0, G = phi'(a), m = z.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
    weight_hh : array_like, shape (H, H)
    bias_ih, bias_hh : array_like, shape (H,), optional
    nonlinearity : {"tanh", "relu", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    sites = (*_WEIGHTS, ParameterSite("bias_ih", "bias", (0,)), ParameterSite("bias_hh", "bias", (0,)))
    optional = ("bias_ih", "bias_hh")

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
        super().__init__(
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}, trainable
        )

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
        """A random network; see `initial_parameters` in `kpref.models.base`."""
        return cls(**initial_parameters(cls, n_inputs, n_states, seed, gain, bias), nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity.name}

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return self.nonlinearity.value(network_current(parameters, z, x))

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        slope = self.nonlinearity.slope(network_current(self.parameters, z, x))
        return SiteCoefficients(decay=np.zeros(self.n_states), gates=slope[..., None, :])


class LeakyRNN(SiteMap):
    """The leaky network ``z' = (1 - alpha) z + alpha (W phi(z) + U x + b)``: Euler steps of a rate network.

    Differentiating, ``dz' = (1 - alpha) dz + alpha (W (phi'(z) * dz) + dW phi(z) + dU x + db)``.
    Site form: C0 = 1 - alpha, G = alpha, m = phi(z), S = phi'(z).

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
    weight_hh : array_like, shape (H, H)
    bias : array_like, shape (H,), optional
    alpha : float
        Leak, step over time constant, in (0, 1].
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, or a leak outside (0, 1].
    """

    sites = (*_WEIGHTS, ParameterSite("bias", "bias", (0,)))
    optional = ("bias",)

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        alpha: float = 0.1,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.alpha = real_number("alpha", alpha, above=0, most=1)
        self.nonlinearity = get_nonlinearity(nonlinearity)
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, trainable)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        alpha: float = 0.1,
        nonlinearity: str = "tanh",
    ) -> Self:
        """A random network; see `initial_parameters` in `kpref.models.base`."""
        parameters = initial_parameters(cls, n_inputs, n_states, seed, gain, bias)
        return cls(**parameters, alpha=alpha, nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "nonlinearity": self.nonlinearity.name}

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        current = network_current(parameters, self.nonlinearity.value(z), x)
        return (1 - self.alpha) * z + self.alpha * current

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        return SiteCoefficients(
            decay=np.full(self.n_states, 1 - self.alpha),
            gates=np.full((1, self.n_states), self.alpha),
            slope=self.nonlinearity.slope(z),
            variable=self.nonlinearity.value(z),
        )


register("linear", Linear, Linear.init, variants=({}, {"bias": False}))
register(
    "rnn",
    RNN,
    RNN.init,
    variants=({}, {"bias": False}),
    torch=TorchLayout(blocks=1, biases="summed", options=("nonlinearity",)),
)
register(
    "leaky",
    LeakyRNN,
    LeakyRNN.init,
    variants=({}, {"nonlinearity": "softplus", "bias": False}),
    torch=TorchLayout(blocks=1, biases="one", options=("nonlinearity", "alpha"), told=False),
)
