"""Rate networks whose units adapt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from kpref.models.base import Array, Field, Parameters
from kpref.models.currents import CurrentNetwork, each_unit
from kpref.models.initial import constrained_network, initial_parameters
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepNumbers
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["AdaptiveRate"]


class AdaptiveRate(Field, CurrentNetwork):
    """The rate network whose units are held back by an average of what they did lately.

    States z, the currents, and a, the adaptation, with rates phi(z):

        tau dz/dt = -z + W phi(z) + U x + b - beta a,    tau_a da/dt = -a + phi(z).

    The linear adaptation current of Benda and Herz (Neural Computation 15, 2003), in recurrent networks of rates by
    Beiran and Ostojic (PLoS Computational Biology 15, 2019). Differentiating, with ``dr = phi'(z) dz``,

        dz' = (-dz + W dr + dW phi(z) + dU x + db - beta da - dbeta a) / tau,    da' = (-da + dr) / tau_a.

    Program: phi' scales the old z; the recurrent weight takes the result, and the driven one ``(x, 1)``, to the
    currents, to which a unit of weight -beta adds; scales, constant along the trajectory, do the rest.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        W.
    bias : array_like, shape (H,), optional
    strength : array_like, shape (H,) or (), optional
        beta: what the current of a unit falls by for each unit of its average rate.
    tau, tau_a : float or array_like of shape (H,)
        Time constants, positive, in the unit of time of the flow; shared or one a unit.
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    mask, dale : array_like, optional
        As for `LeakyRNN`.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, or a time constant that is not positive.
    """

    states_of_a_unit: ClassVar[int] = 2

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        strength: npt.ArrayLike = 1.0,
        tau: npt.ArrayLike = 1.0,
        tau_a: npt.ArrayLike = 10.0,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
    ) -> None:
        each = np.full(np.shape(weight_hh)[-1:], strength) if np.ndim(strength) == 0 else strength
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "strength": each}
        super().__init__(given, nonlinearity, trainable)
        self._constrain(mask, dale)
        self.tau, self.tau_a = each_unit("tau", tau, self.n_units), each_unit("tau_a", tau_a, self.n_units)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        strength: npt.ArrayLike = 1.0,
        tau: npt.ArrayLike = 1.0,
        tau_a: npt.ArrayLike = 10.0,
        nonlinearity: str = "tanh",
        mask: npt.ArrayLike | None = None,
        dale: npt.ArrayLike | None = None,
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_units, seed, gain, bias)
        own: dict[str, Any] = {"strength": strength, "tau": tau, "tau_a": tau_a, "nonlinearity": nonlinearity}
        return cls(**parameters, **own, mask=mask, dale=dale)

    def _options(self) -> dict[str, Any]:
        own = {"tau": self.tau, "tau_a": self.tau_a, "nonlinearity": self.nonlinearity.name}
        return own | {"mask": self.mask, "dale": self.dale}

    @property
    def parts(self) -> dict[str, slice]:
        """z and a."""
        return {"z": self._columns(0), "a": self._columns(1)}

    @property
    def observed(self) -> slice:
        """z."""
        return self._columns(0)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        own, adaptation = z[..., self._columns(0)], z[..., self._columns(1)]
        rates = self.nonlinearity.value(own)
        current = self._current(parameters, rates, x) - parameters["strength"] * adaptation
        return np.concatenate([(current - own) / self.tau, (rates - adaptation) / self.tau_a], axis=-1)

    def _program(self) -> Program:
        build, units = Builder(), self.n_units
        (z, new_z), (adaptation, new_adaptation) = build.state(units), build.state(units)
        rates = build.register(units)
        build.scale(rates, z, "slope")
        current = self._write_current(build, rates)
        build.unit(current, adaptation, "strength", "adaptation")
        build.scale(new_z, z, "decay")
        build.scale(new_z, current, "gate")
        build.scale(new_adaptation, adaptation, "recovery")
        build.scale(new_adaptation, rates, "onset")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W, ``(U, b)``, and -beta."""
        units = slice(0, self.n_units)
        return (*super().entries(), Entry("strength", "strength", units, slice(0, 1), units, True, -1.0))

    @property
    def state_variables(self) -> dict[str, slice]:
        """a."""
        return {"adaptation": self._columns(1)}

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """phi of the old z."""
        return (Pointwise(self.nonlinearity.name, ("slope",)),)

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Slope and time constants; rates and ``(x, 1)``."""
        own, ones = z[..., self._columns(0)], np.ones(self.n_units)
        channels = {
            "slope": self.nonlinearity.slope(own),
            "decay": -ones / self.tau,
            "gate": ones / self.tau,
            "recovery": -ones / self.tau_a,
            "onset": ones / self.tau_a,
        }
        return StepNumbers(channels, {"rates": self.nonlinearity.value(own)} | self.drives(x))


register(
    "adaptive",
    AdaptiveRate,
    partial(constrained_network, AdaptiveRate),
    variants=({"constrained": True},),
)
