"""Networks in continuous time: the rate network and the linear system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array
from kpref.models.base import (
    Array,
    LeakyForm,
    Parameters,
    ParameterSite,
    SiteCoefficients,
    SiteField,
    initial_parameters,
    network_current,
)
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import TorchLayout, register

__all__ = ["LinearSystem", "Rate"]

_SITES = (
    ParameterSite("weight_ih", "input", (0,)),
    ParameterSite("weight_hh", "recurrent", (0,)),
    ParameterSite("bias", "bias", (0,)),
)


class Rate(SiteField):
    """The rate network ``tau dz/dt = -z + W phi(z) + U x + b``.

    Differentiating, ``d(dz/dt) = (-dz + W (phi'(z) * dz) + dW phi(z) + dU x + db) / tau``.
    Site form: C0 = -1 / tau, G = 1 / tau, m = phi(z), S = phi'(z).

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        W.
    bias : array_like, shape (H,), optional
    tau : float or array_like of shape (H,)
        Time constant, positive, in the unit of time of the flow; shared or one a unit.
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, or a time constant that is not positive.
    """

    sites = _SITES
    optional = ("bias",)

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, trainable)
        self.tau: Array = finite_array("tau", tau)
        if self.tau.shape not in ((), (self.n_states,)):
            raise ValueError(f"tau must be a number or have shape ({self.n_states},); got shape {self.tau.shape}")
        if (self.tau <= 0).any():
            raise ValueError(f"tau must be positive; got {self.tau.min()}")
        self._rate: Array = 1.0 / self.tau

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "tanh",
    ) -> Self:
        """A random network; see `initial_parameters` in `kpref.models.base`."""
        parameters = initial_parameters(cls, n_inputs, n_states, seed, gain, bias)
        return cls(**parameters, tau=tau, nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"tau": self.tau, "nonlinearity": self.nonlinearity.name}

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        velocity = network_current(parameters, self.nonlinearity.value(z), x)
        velocity -= z
        velocity *= self._rate
        return velocity

    @property
    def in_words(self) -> str:
        """Units, nonlinearity and time constants."""
        low, high = float(self.tau.min()), float(self.tau.max())
        times = f"{low:g}{'' if low == high else f' to {high:g}'}"
        return f"Rate of {self.n_states} units ({self.nonlinearity.name}, τ = {times})"

    def leaky_form(self) -> LeakyForm:
        """Decay ``-1 / tau`` and gate ``1 / tau``."""
        rate = np.broadcast_to(self._rate, (self.n_states,))
        return LeakyForm(-rate, rate.copy(), self.nonlinearity.name)

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        rate = np.broadcast_to(self._rate, (self.n_states,))
        return SiteCoefficients(
            decay=-rate,
            gates=rate[None].copy(),
            slope=self.nonlinearity.slope(z),
            variable=self.nonlinearity.value(z),
        )


class LinearSystem(SiteField):
    """The linear system ``dz/dt = W z + U x + b``.

    Site form: C0 = 0, G = 1, m = z. Its propagator has the closed form ``exp(W (t - s))``.

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

    sites = _SITES
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
        """A random system; see `initial_parameters` in `kpref.models.base`."""
        return cls(**initial_parameters(cls, n_inputs, n_states, seed, gain, bias))

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return network_current(parameters, z, x)

    def leaky_form(self) -> LeakyForm:
        """No decay, and a gate of one."""
        return LeakyForm(np.zeros(self.n_states), np.ones(self.n_states), "identity")

    def coefficients(self, z: Array, x: Array) -> SiteCoefficients:
        """Coefficients of the site form, as the class derives them."""
        return SiteCoefficients(decay=np.zeros(self.n_states), gates=np.ones((1, self.n_states)))


register(
    "rate",
    Rate,
    Rate.init,
    variants=({}, {"nonlinearity": "softplus", "bias": False}),
    torch=TorchLayout(blocks=1, biases="one", options=("nonlinearity", "tau"), told=False),
)
register("linear-system", LinearSystem, LinearSystem.init)
