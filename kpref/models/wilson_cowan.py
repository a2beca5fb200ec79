"""Populations of excitatory and inhibitory neurons: Wilson and Cowan's equations, for any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array
from kpref.models.base import Array, Field, Parameters
from kpref.models.currents import CurrentNetwork, each_unit, excitatory_units
from kpref.models.initial import initial_parameters
from kpref.models.nonlinearity import sigmoid, sigmoid_slope
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepNumbers
from kpref.program import Builder, Program

__all__ = ["WilsonCowan"]


class WilsonCowan(Field, CurrentNetwork):
    """Fractions z of populations that are active (Wilson and Cowan, Biophysical Journal 12, 1972, equations 11, 12).

    The first E populations are excitatory, the others inhibitory, ``W_ij = |V_ij|`` or ``-|V_ij|`` by the kind of j:

        tau dz/dt = -z + (k - r z) S(a),    a = W z + U x + b,
        S(a) = sigmoid(g (a - theta)) - sigmoid(-g theta),    k = sigmoid(g theta),

    so that S(0) = 0, and k is its limit. Populations are refractory for r tau. Differentiating,

        dz' = -(1 + r S(a)) dz / tau + (k - r z) S'(a) da / tau,    S'(a) = g sigmoid'(g (a - theta)),
        da = W dz + dW z + dU x + db.

    Program: the recurrent weight takes the old state, and the driven one ``(x, 1)``, to the currents a; two scales take
    currents and old state to the new one.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_hh : array_like, shape (H, H)
        V; of one pair of populations ``[[c1, c2], [c3, c4]]`` of the paper.
    bias : array_like, shape (H,), optional
        The paper's P and Q.
    n_excitatory : int
        E, at most H.
    slope, threshold : float or array_like of shape (H,)
        g and theta; g is positive.
    tau : float or array_like of shape (H,)
        Positive, in the unit of time of the flow.
    refractory : float or array_like of shape (H,)
        r, not negative.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, or a number that is not finite or out of its range.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        n_excitatory: int = 1,
        slope: npt.ArrayLike = 1.3,
        threshold: npt.ArrayLike = 4.0,
        tau: npt.ArrayLike = 1.0,
        refractory: npt.ArrayLike = 1.0,
        trainable: Sequence[str] | None = None,
    ) -> None:
        given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        super().__init__(given, "sigmoid", trainable)
        units = self.n_units
        self.n_excitatory = excitatory_units(n_excitatory, units)
        self._constrain(None, np.where(np.arange(units) < self.n_excitatory, 1.0, -1.0))
        self.slope, self.tau = each_unit("slope", slope, units), each_unit("tau", tau, units)
        self.threshold = finite_array("threshold", threshold)
        self.refractory = finite_array("refractory", refractory)
        for name, value in (("threshold", self.threshold), ("refractory", self.refractory)):
            if value.shape not in ((), (units,)):
                raise ValueError(f"{name} must be a number or have shape ({units},); got shape {value.shape}")
        if (self.refractory < 0).any():
            raise ValueError(f"refractory must not be negative; got {self.refractory.min()}")

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        n_excitatory: int | None = None,
    ) -> Self:
        """A random network, half of its populations excitatory by default, with parameters around the paper's.

        Weights are uniform, those from each kind of population adding up to 16 `gain` on average; slopes, thresholds
        and biases are those of the paper's limit cycle (figure 11).
        """
        parameters = initial_parameters(cls.__name__, n_inputs, n_units, seed, gain, bias)
        excitatory = excitatory_units(-(-n_units // 2) if n_excitatory is None else n_excitatory, n_units)
        generator = np.random.default_rng([seed, 1])
        parameters["weight_hh"] = generator.uniform(0, 64 * gain / max(n_units, 2), size=(n_units, n_units))
        first = np.arange(n_units) < excitatory
        if bias:
            parameters["bias"] = np.where(first, 1.25, 0.0)
        slope, threshold = np.where(first, 1.3, 2.0), np.where(first, 4.0, 3.7)
        return cls(**parameters, n_excitatory=excitatory, slope=slope, threshold=threshold)

    def _options(self) -> dict[str, Any]:
        names = ("n_excitatory", "slope", "threshold", "tau", "refractory")
        return {name: getattr(self, name) for name in names}

    @property
    def in_words(self) -> str:
        """Populations by kind."""
        return f"WilsonCowan of {self.n_excitatory} excitatory and {self.n_units - self.n_excitatory} inhibitory units"

    def _active(self, current: Array) -> Array:
        """S."""
        return sigmoid(self.slope * (current - self.threshold)) - sigmoid(-(self.slope * self.threshold))

    def _left(self, z: Array) -> Array:
        """``k - r z``."""
        return sigmoid(self.slope * self.threshold) - self.refractory * z

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        return (self._left(z) * self._active(self._current(parameters, z, x)) - z) / self.tau

    def _program(self) -> Program:
        build = Builder()
        old, new = build.state(self.n_units)
        current = self._write_current(build, old)
        build.scale(new, old, "decay")
        build.scale(new, current, "gate")
        return build.program()

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """Both scales."""
        limit = self.slope * self.threshold
        known = (self.slope, self.threshold, sigmoid(limit), sigmoid(-limit), self.refractory, 1 / self.tau)
        numbers = np.stack([np.broadcast_to(each, self.n_units) for each in known])
        return (Pointwise("population", ("decay", "gate"), numbers=numbers),)

    @property
    def state_variables(self) -> dict[str, slice]:
        """The state itself."""
        return {"rates": self._columns(0)}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """As the class derives them."""
        current = self._current(self.parameters, z, x)
        steepness = self.slope * sigmoid_slope(self.slope * (current - self.threshold))
        channels = {
            "decay": -(1 + self.refractory * self._active(current)) / self.tau,
            "gate": self._left(z) * steepness / self.tau,
        }
        return StepNumbers(channels, self.drives(x))


register("wilson-cowan", WilsonCowan, WilsonCowan.init)
