"""Networks ``decay z + gate (W phi(z) + U x + b)``: the linear map and system, the leaky network, the rate network.

Differentiating F with ``m = phi(z)``,

    dF = decay * dz + gate * (W (phi'(z) * dz) + dW m + dU x + db).

Program: phi' scales the old state (it is left out where phi is the identity, and m is the state itself); the recurrent
weight takes the result, and the driven one ``(x, 1)``, to the currents; two scales, constant along the trajectory, take
currents and old state to the new one. The other convention has the nonlinearity around the currents,

    F = decay * z + gate * phi(a),   a = W z + U x + b,   dF = decay * dz + gate * phi'(a) * (W dz + dW z + dU x + db),

and phi' scales the currents there.

W is the trained array itself, or that under constraints (`kpref.models.currents`).

Time constants may be trained, one a unit. With c the currents, ``phi(a)`` where the leak is inside,

    F = z + alpha * (c - z),    dF = ... + dalpha * (c - z)               of the map,
    F = (c - z) / tau,          dF = ... - dtau / tau**2 * (c - z)        of the field,

so that -1 times the old state joins the currents, and a weight of one number a unit, alpha or 1 / tau, takes
``c - z``, which is also the variable that it multiplies, to the new state. What is trained is alpha = dt / tau itself
(snnTorch and sinabs train their decays so, others tau, or a number of which alpha is the sigmoid): F is affine in it,
so there is no slope to err, F exists for every alpha that a step of training may lead to, and the derivative by another
parametrisation is this one times a factor a unit. A field has no dt, and its tau is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, real_number, short
from kpref.models.base import Array, Field, Map, Parameters
from kpref.models.currents import CurrentNetwork, each_unit
from kpref.models.initial import constrained_network, initial_parameters
from kpref.models.registry import TorchLayout, register
from kpref.models.step import Pointwise, StepNumbers
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["LeakyRNN", "Linear", "LinearSystem", "Rate"]


class LeakyNetwork(CurrentNetwork):
    """What the four share.

    Attributes
    ----------
    decay, gate : ndarray, shape (H,)
    inside : bool
        Whether phi is of the currents, and not of the states.
    timed : str
        Parameter that holds trained time constants, "alpha" or "tau"; empty where there is none.
    """

    decay: Array
    gate: Array
    inside = False
    timed = ""

    @property
    def _has_slope(self) -> bool:
        return self.nonlinearity.name != "identity"

    def _gate(self, parameters: Parameters) -> Array:
        """Trained alpha, or 1 / tau."""
        return parameters[self.timed]

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        outside = self._has_slope and not self.inside
        current = self._current(parameters, self.nonlinearity.value(z) if outside else z, x)
        if self.inside:
            current = self.nonlinearity.value(current)
        if self.timed:
            change = self._gate(parameters) * (current - z)
            return z + change if isinstance(self, Map) else change
        if (self.gate != 1).any():
            current = self.gate * current
        return current + self.decay * z if self.decay.any() else current

    def _program(self) -> Program:
        build, units = Builder(), self.n_states
        old, new = build.state(units)
        source = old
        if self._has_slope and not self.inside:
            source = build.register(units)
            build.scale(source, old, "slope")
        current = self._write_current(build, source)
        if self._has_slope and self.inside:
            driven, current = current, build.register(units)
            build.scale(current, driven, "slope")
        if not self.timed:
            build.scale(new, old, "decay")
            build.scale(new, current, "gate")
            return build.program()
        build.scale(current, old, "opposed")
        if isinstance(self, Map):
            build.scale(new, old, "kept")
        build.unit(new, current, "gate", "pull")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W, ``(U, b)``, and time constants."""
        if not self.timed:
            return super().entries()
        units = slice(0, self.n_states)
        timed = Entry(self.timed, "gate", units, slice(0, 1), units, transposed=True, factor=self._gate_slope())
        return (*super().entries(), timed)

    def _gate_slope(self) -> Array | float:
        """Slope of the gate by the trained time constants, (H, 1)."""
        return 1.0

    def weights(self) -> dict[str, Array]:
        """The weights of the program."""
        return super().weights() | ({"gate": self._gate(self.parameters)[None]} if self.timed else {})

    @property
    def state_variables(self) -> dict[str, slice]:
        """The state itself, where the recurrent weight multiplies it."""
        return {} if self._has_slope and not self.inside else {"rates": slice(0, self.n_states)}

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi, of the old state or of the currents, if it is not the identity."""
        return (Pointwise(self.nonlinearity.name, ("slope",)),) if self._has_slope else ()

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Slope, decay and gate; rates phi(z), ``(x, 1)``, and what trained time constants multiply."""
        channels, variables = {"decay": self.decay, "gate": self.gate}, {}
        if self.timed:
            channels = {"opposed": np.full(self.n_states, -1.0)}
            channels |= {"kept": np.ones(self.n_states)} if isinstance(self, Map) else {}
        source = z
        if self._has_slope and not self.inside:
            channels["slope"] = self.nonlinearity.slope(z)
            source = variables["rates"] = self.nonlinearity.value(z)
        if self.timed or (self._has_slope and self.inside):
            current = self._current(self.parameters, source, x)
            if self._has_slope and self.inside:
                channels["slope"] = self.nonlinearity.slope(current)
            if self.timed:
                variables["pull"] = (self.nonlinearity.value(current) if self.inside else current) - z
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


class LinearSystem(Field, _LinearNetwork):
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
    """The leaky network, in both conventions: Euler steps of a rate network.

        z' = (1 - alpha) z + alpha (W phi(z) + U x + b)        leak outside the nonlinearity: z are currents
        z' = (1 - alpha) z + alpha phi(W z + U x + b)          leak inside:                   z are rates

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
    weight_hh : array_like, shape (H, H)
    bias : array_like, shape (H,), optional
    alpha : float or array_like of shape (H,)
        Leak, step over time constant, in (0, 1]; shared or one a unit.
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    leak : {"outside", "inside"}
        The convention.
    mask : array_like, shape (H, H), optional
        The recurrent weight is ``weight_hh * mask``.
    dale : array_like, shape (H,), optional
        Signs, 1 or -1: that of all that each unit sends, whatever the signs of ``weight_hh``.
    train_alpha : bool
        Make alpha a parameter, one number a unit, after the others. It may then be any number.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, a leak outside (0, 1], or a sign that is none.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        alpha: npt.ArrayLike = 0.1,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
        leak: str = "outside",
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
        train_alpha: bool = False,
    ) -> None:
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        if flag("train_alpha", train_alpha):
            self.timed = "alpha"
            given["alpha"] = _for_each_unit(alpha, weight_hh)
        super().__init__(given, nonlinearity, trainable)
        if not isinstance(leak, str) or leak not in ("outside", "inside"):
            raise ValueError(f"leak must be 'outside' or 'inside' the nonlinearity; got {short(leak)}")
        self.inside = leak == "inside"
        self._constrain(mask, dale)
        self.alpha: float | Array = self.parameters["alpha"] if self.timed else _leak(alpha, self.n_states)
        self.gate = np.broadcast_to(self.alpha, (self.n_states,)).astype(float)
        self.decay = 1 - self.gate

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_states: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        alpha: npt.ArrayLike = 0.1,
        nonlinearity: str = "tanh",
        leak: str = "outside",
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
        train_alpha: bool = False,
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias)
        return cls(
            **parameters,
            alpha=alpha,
            nonlinearity=nonlinearity,
            leak=leak,
            mask=mask,
            dale=dale,
            train_alpha=train_alpha,
        )

    def _options(self) -> dict[str, Any]:
        own: dict[str, Any] = {"train_alpha": True} if self.timed else {"alpha": self.alpha}
        own |= {"nonlinearity": self.nonlinearity.name, "leak": "inside" if self.inside else "outside"}
        return own | {"mask": self.mask, "dale": self.dale}


class Rate(Field, LeakyNetwork):
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
    mask, dale : array_like, optional
        As for `LeakyRNN`.
    train_tau : bool
        Make tau a parameter, one number a unit, after the others.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, a time constant that is not positive, or a sign that
        is none.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        tau: npt.ArrayLike = 1.0,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
        train_tau: bool = False,
    ) -> None:
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        if flag("train_tau", train_tau):
            self.timed = "tau"
            given["tau"] = _for_each_unit(tau, weight_hh)
        super().__init__(given, nonlinearity, trainable)
        self._constrain(mask, dale)
        self.tau: Array = each_unit("tau", self.parameters["tau"] if self.timed else tau, self.n_units)
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
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
        train_tau: bool = False,
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias)
        return cls(**parameters, tau=tau, nonlinearity=nonlinearity, mask=mask, dale=dale, train_tau=train_tau)

    def _gate(self, parameters: Parameters) -> Array:
        return 1.0 / parameters["tau"]

    def _gate_slope(self) -> Array | float:
        return -1.0 / np.square(self.parameters["tau"])[:, None] if self.timed else 1.0

    def _options(self) -> dict[str, Any]:
        own: dict[str, Any] = {"train_tau": True} if self.timed else {"tau": self.tau}
        return own | {"nonlinearity": self.nonlinearity.name, "mask": self.mask, "dale": self.dale}

    @property
    def in_words(self) -> str:
        """Units, nonlinearity and time constants."""
        low, high = float(self.tau.min()), float(self.tau.max())
        times = f"{low:g}{'' if low == high else f' to {high:g}'}"
        return f"Rate of {self.n_states} units ({self.nonlinearity.name}, τ = {times})"


def _for_each_unit(number: npt.ArrayLike, weight_hh: npt.ArrayLike | None) -> npt.ArrayLike:
    """A number as one for each unit, as the parameter that it becomes."""
    return np.full(np.asarray(weight_hh).shape[-1:], number) if np.ndim(number) == 0 else number


def _leak(alpha: npt.ArrayLike, units: int) -> float | Array:
    """A leak, shared or one a unit."""
    if np.ndim(alpha) == 0:
        return real_number("alpha", alpha, above=0, most=1)  # type: ignore[arg-type]
    leaks = finite_array("alpha", alpha, shape=(units,))
    if not ((leaks > 0) & (leaks <= 1)).all():
        raise ValueError(f"alpha must be above 0 and at most 1; got {short(leaks.tolist())}")
    return leaks


register("linear", Linear, Linear.init, variants=({}, {"bias": False}))
register("linear-system", LinearSystem, LinearSystem.init, variants=({}, {"bias": False}))
register(
    "leaky",
    LeakyRNN,
    partial(constrained_network, LeakyRNN),
    variants=(
        {},
        {"nonlinearity": "softplus", "bias": False, "constrained": True},
        {"leak": "inside"},
        {"train_alpha": True},
        {"train_alpha": True, "leak": "inside", "bias": False, "constrained": True},
    ),
    torch=TorchLayout(
        blocks=1,
        biases="one",
        options=("nonlinearity", "alpha", "leak"),
        optional=("mask", "dale"),
        timed="alpha",
        told=False,
    ),
)
register(
    "rate",
    Rate,
    partial(constrained_network, Rate),
    variants=({}, {"nonlinearity": "softplus", "bias": False, "constrained": True}, {"train_tau": True}),
    torch=TorchLayout(
        blocks=1,
        biases="one",
        options=("nonlinearity", "tau"),
        optional=("mask", "dale"),
        timed="tau",
        told=False,
    ),
)
