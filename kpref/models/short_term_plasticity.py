"""Rate networks whose synapses facilitate and depress."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from kpref.models.base import Array, Field, Parameters
from kpref.models.currents import CurrentNetwork, each_unit
from kpref.models.initial import constrained_network, initial_parameters
from kpref.models.nonlinearity import NONLINEARITIES
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepNumbers
from kpref.program import Builder, Program

__all__ = ["ShortTermPlasticity"]


class ShortTermPlasticity(Field, CurrentNetwork):
    """The rate network with short-term plasticity of Tsodyks and Markram, as a theory of working memory has it.

    States: currents h, with rates r = phi(h); for what each unit sends, the fraction u of its resources that a spike
    uses (calcium), and the fraction x that is there (Mongillo, Barak and Tsodyks, Science 319, 2008; Tsodyks, Pawelzik
    and Markram, Neural Computation 10, 1998):

        tau dh/dt = -h + W (u x r) + U x_in + b,
        du/dt = (use - u) / tau_f + use (1 - u) r,    dx/dt = (1 - x) / tau_d - u x r.

    Differentiating, with ``dr = phi'(h) dh`` and what is sent, ``m = u x r``,

        dm = x r du + u r dx + u x phi' dh,
        dh' = (-dh + W dm + dW m + dU x_in + db) / tau,
        du' = -(1 / tau_f + use r) du + use (1 - u) phi' dh,    dx' = -dx / tau_d - dm.

    Program: three scales make dm; the recurrent weight takes it, and the driven one ``(x_in, 1)``, to the currents; the
    rest are scales.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        W.
    bias : array_like, shape (H,), optional
    use : float or array_like of shape (H,)
        u at rest, between 0 and 1; shared or one a unit.
    tau, tau_f, tau_d : float or array_like of shape (H,)
        Time constants of currents, of facilitation and of depression, positive, in the unit of time of the flow; rates
        are in its inverse. The defaults are in seconds, of synapses that facilitate: Mongillo's.
    nonlinearity : {"softplus", "relu", "sigmoid", "tanh", "erf", "identity"}
        u and x stay between 0 and 1 where rates are not negative, as those of the first three.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    mask, dale : array_like, optional
        As for `LeakyRNN`.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, a time constant that is not positive, or a fraction
        that is none.
    """

    states_of_a_unit: ClassVar[int] = 3

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        use: npt.ArrayLike = 0.2,
        tau: npt.ArrayLike = 0.1,
        tau_f: npt.ArrayLike = 1.5,
        tau_d: npt.ArrayLike = 0.2,
        nonlinearity: str = "softplus",
        trainable: Sequence[str] | None = None,
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}, nonlinearity, trainable)
        self._constrain(mask, dale)
        self.use = each_unit("use", use, self.n_units)
        if (self.use > 1).any():
            raise ValueError(f"use must be a fraction, at most 1; got {self.use.max()}")
        self.tau, self.tau_f, self.tau_d = (
            each_unit(name, value, self.n_units) for name, value in (("tau", tau), ("tau_f", tau_f), ("tau_d", tau_d))
        )

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        use: npt.ArrayLike = 0.2,
        tau: npt.ArrayLike = 0.1,
        tau_f: npt.ArrayLike = 1.5,
        tau_d: npt.ArrayLike = 0.2,
        nonlinearity: str = "softplus",
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_units, seed, gain, bias)
        own: dict[str, Any] = {"use": use, "tau": tau, "tau_f": tau_f, "tau_d": tau_d, "nonlinearity": nonlinearity}
        return cls(**parameters, **own, mask=mask, dale=dale)

    def _options(self) -> dict[str, Any]:
        own = {"use": self.use, "tau": self.tau, "tau_f": self.tau_f, "tau_d": self.tau_d}
        return own | {"nonlinearity": self.nonlinearity.name, "mask": self.mask, "dale": self.dale}

    @property
    def parts(self) -> dict[str, slice]:
        """h, u and x."""
        return {name: self._columns(at) for at, name in enumerate("hux")}

    @property
    def observed(self) -> slice:
        """h."""
        return self._columns(0)

    @property
    def start(self) -> Array:
        """No currents, u at rest, all resources there."""
        each = np.ones(self.n_units)
        return np.concatenate([0 * each, self.use * each, each])

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        h, u, left = (z[..., part] for part in self.parts.values())
        rates = self.nonlinearity.value(h)
        sent = u * left * rates
        velocity = (self._current(parameters, sent, x) - h) / self.tau
        used = (self.use - u) / self.tau_f + self.use * (1 - u) * rates
        return np.concatenate([velocity, used, (1 - left) / self.tau_d - sent], axis=-1)

    def _program(self) -> Program:
        build, units = Builder(), self.n_units
        states = {name: build.state(units) for name in "hux"}
        (h, new_h), (u, new_u), (left, new_left) = states.values()
        sent = build.register(units)
        for name, (old, _) in states.items():
            build.scale(sent, old, f"sent_{name}")
        current = self._write_current(build, sent)
        build.scale(new_h, h, "decay")
        build.scale(new_h, current, "gate")
        build.scale(new_u, u, "calming")
        build.scale(new_u, h, "facilitation")
        build.scale(new_left, left, "recovery")
        build.scale(new_left, sent, "opposed")
        return build.program()

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """All but the currents, and that what is sent is gone."""
        known = (tuple(NONLINEARITIES).index(self.nonlinearity.name), self.use, 1 / self.tau_f, 1 / self.tau_d)
        numbers = np.stack([np.broadcast_to(np.asarray(each, float), self.n_units) for each in known])
        channels = ("sent_h", "sent_u", "sent_x", "calming", "facilitation")
        return (Pointwise("plastic", channels, ("recovery",), numbers),)

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """As the class derives them."""
        h, u, left = (z[..., part] for part in self.parts.values())
        rates, slope, ones = self.nonlinearity.value(h), self.nonlinearity.slope(h), np.ones(self.n_units)
        channels = {
            "sent_h": u * left * slope,
            "sent_u": left * rates,
            "sent_x": u * rates,
            "decay": -ones / self.tau,
            "gate": ones / self.tau,
            "calming": -1 / self.tau_f - self.use * rates,
            "facilitation": self.use * (1 - u) * slope,
            "recovery": -ones / self.tau_d,
            "opposed": -ones,
        }
        return StepNumbers(channels, {"rates": u * left * rates} | self.drives(x))


register(
    "short-term-plasticity",
    ShortTermPlasticity,
    partial(constrained_network, ShortTermPlasticity),
    variants=({"constrained": True},),
    dt=0.02,
)
