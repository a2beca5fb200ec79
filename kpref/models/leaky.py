"""Networks ``decay z + gate (W phi(z) + U x + b)``: the linear map and system, the leaky network, the rate network.

Differentiating F with ``m = phi(z)``,

    dF = decay * dz + gate * (W (phi'(z) * dz) + dW m + dU x + db).

Program: phi' scales the old state (it is left out where phi is the identity, and m is the state itself); the recurrent
weight takes the result, and the driven one ``(x, 1)``, to the currents; two scales, constant along the trajectory, take
currents and old state to the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, real_number
from kpref.models.base import Array, Field, Map, Parameters
from kpref.models.initial import initial_parameters
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import TorchLayout, register
from kpref.models.step import Pointwise, StepModel, StepNumbers, network_sizes
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["LeakyRNN", "Linear", "LinearSystem", "Rate"]


class LeakyNetwork(StepModel):
    """What the four share.

    Attributes
    ----------
    decay, gate : ndarray, shape (H,)
    nonlinearity : Nonlinearity
    """

    decay: Array
    gate: Array

    def __init__(
        self,
        given: Mapping[str, npt.ArrayLike | None],
        nonlinearity: str,
        trainable: Sequence[str] | None,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        self.n_states, self.n_inputs = network_sizes(type(self).__name__, given["weight_hh"], given["weight_ih"])
        units = self.n_states
        shapes = {"weight_ih": (units, self.n_inputs), "weight_hh": (units, units), "bias": (units,)}
        checked = {
            name: finite_array(name, value, shape=shapes[name]) for name, value in given.items() if value is not None
        }
        super().__init__(checked, trainable)

    @property
    def _has_slope(self) -> bool:
        return self.nonlinearity.name != "identity"

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        rates = self.nonlinearity.value(z) if self._has_slope else z
        current = rates @ parameters["weight_hh"].T + x @ parameters["weight_ih"].T
        if "bias" in parameters:
            current = current + parameters["bias"]
        if (self.gate != 1).any():
            current = self.gate * current
        return current + self.decay * z if self.decay.any() else current

    def _program(self) -> Program:
        build, units = Builder(), self.n_states
        old, new = build.state(units)
        source = old
        if self._has_slope:
            source = build.register(units)
            build.scale(source, old, "slope")
        current = build.register(units)
        build.product(current, source, "recurrent", "rates")
        build.product(current, None, "driven", "drive")
        build.scale(new, old, "decay")
        build.scale(new, current, "gate")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W, and ``(U, b)``."""
        units, inputs = slice(0, self.n_states), self.n_inputs
        found = (
            Entry("weight_ih", "driven", units, units, slice(0, inputs)),
            Entry("weight_hh", "recurrent", units, units, units),
            Entry("bias", "driven", units, units, slice(inputs, inputs + 1)),
        )
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def state_variables(self) -> dict[str, slice]:
        """The state itself, where phi is the identity."""
        return {} if self._has_slope else {"rates": slice(0, self.n_states)}

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi of the old state, if it is not the identity."""
        return (Pointwise(self.nonlinearity.name, ("slope",)),) if self._has_slope else ()

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        ones = np.ones((*x.shape[:-1], 1))
        return {"drive": np.concatenate([x, ones], axis=-1) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Slope, decay and gate; rates phi(z), and ``(x, 1)``."""
        channels, variables = {"decay": self.decay, "gate": self.gate}, {}
        if self._has_slope:
            channels["slope"] = self.nonlinearity.slope(z)
            variables["rates"] = self.nonlinearity.value(z)
        return StepNumbers(channels, variables | self.drives(x))


class _LinearNetwork(LeakyNetwork):
    """No decay, a gate of one."""

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, "identity", trainable)
        self.decay, self.gate = np.zeros(self.n_states), np.ones(self.n_states)

    @classmethod
    def init(cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        return cls(**initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias))


class LeakyField(Field, LeakyNetwork):
    """A leaky network in continuous time: compiled code takes its Runge-Kutta steps."""


class Linear(Map, _LinearNetwork):
    """The linear map ``z' = W z + U x + b``.

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


class LinearSystem(_LinearNetwork, LeakyField):
    """The linear system ``dz/dt = W z + U x + b``, whose propagator has the closed form ``exp(W (t - s))``.

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


class LeakyRNN(Map, LeakyNetwork):
    """The leaky network ``z' = (1 - alpha) z + alpha (W phi(z) + U x + b)``: Euler steps of a rate network.

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
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, nonlinearity, trainable)
        self.decay, self.gate = np.full(self.n_states, 1 - self.alpha), np.full(self.n_states, self.alpha)

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
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias)
        return cls(**parameters, alpha=alpha, nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "nonlinearity": self.nonlinearity.name}


class Rate(LeakyField):
    """The rate network ``tau dz/dt = -z + W phi(z) + U x + b``: a decay of ``-1 / tau``, a gate of ``1 / tau``.

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

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, nonlinearity, trainable)
        self.tau: Array = finite_array("tau", tau)
        if self.tau.shape not in ((), (self.n_states,)):
            raise ValueError(f"tau must be a number or have shape ({self.n_states},); got shape {self.tau.shape}")
        if (self.tau <= 0).any():
            raise ValueError(f"tau must be positive; got {self.tau.min()}")
        self.gate = np.broadcast_to(1.0 / self.tau, (self.n_states,)).copy()
        self.decay = -self.gate

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
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias)
        return cls(**parameters, tau=tau, nonlinearity=nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"tau": self.tau, "nonlinearity": self.nonlinearity.name}

    @property
    def in_words(self) -> str:
        """Units, nonlinearity and time constants."""
        low, high = float(self.tau.min()), float(self.tau.max())
        times = f"{low:g}{'' if low == high else f' to {high:g}'}"
        return f"Rate of {self.n_states} units ({self.nonlinearity.name}, τ = {times})"


register("linear", Linear, Linear.init, variants=({}, {"bias": False}))
register("linear-system", LinearSystem, LinearSystem.init, variants=({}, {"bias": False}))
register(
    "leaky",
    LeakyRNN,
    LeakyRNN.init,
    variants=({}, {"nonlinearity": "softplus", "bias": False}),
    torch=TorchLayout(blocks=1, biases="one", options=("nonlinearity", "alpha"), told=False),
)
register(
    "rate",
    Rate,
    Rate.init,
    variants=({}, {"nonlinearity": "softplus", "bias": False}),
    torch=TorchLayout(blocks=1, biases="one", options=("nonlinearity", "tau"), told=False),
)
