"""Coupled oscillators, driven and damped, as a recurrent network."""

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

__all__ = ["CoRNN"]


class CoRNN(StepMap):
    """The coupled oscillatory network of Rusch and Mishra, ICLR 2021: ``y'' = tanh(a) - gamma y - epsilon y'``.

    With the velocity ``z = dy/dt``, currents ``a = W_y y + W_z z + U x + b``, and steps of dt, the velocity first,

        z' = z + dt (tanh(a) - gamma y - epsilon z),    y' = y + dt z',

    which is the authors' own scheme with the damping taken at the old state. The state is (y, z), and y is read out.
    Differentiating, with ``s = dt (1 - tanh(a)**2)``,

        dz' = (1 - epsilon dt) dz - gamma dt dy + s * (W_y dy + dW_y y + W_z dz + dW_z z + dU x + db),
        dy' = dy + dt dz'.

    Program: three products make the currents; scales, all constant but s, make the new velocity, and then the new
    position from it. Each current reaches the two states of its own unit: K is local.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        U.
    weight_yh, weight_zh : array_like, shape (H, H)
        W_y and W_z, of positions and of velocities.
    bias : array_like, shape (H,), optional
    dt : float
        Step, in the unit of time of gamma and epsilon.
    gamma : float
        Squared frequency of an oscillator by itself, in units of 1 / time**2.
    epsilon : float
        Damping, in units of 1 / time.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, a step that is not positive, or a frequency or
        damping that is negative.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_yh: npt.ArrayLike,
        weight_zh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.dt = real_number("dt", dt, above=0)
        self.gamma, self.epsilon = real_number("gamma", gamma, least=0), real_number("epsilon", epsilon, least=0)
        self.n_units, self.n_inputs = network_sizes("CoRNN", weight_yh, weight_ih, names=("weight_yh", "weight_ih"))
        self.n_states = 2 * self.n_units
        square = (self.n_units, self.n_units)
        parameters = {
            "weight_ih": finite_array("weight_ih", weight_ih, shape=(self.n_units, self.n_inputs)),
            "weight_yh": finite_array("weight_yh", weight_yh, shape=square),
            "weight_zh": finite_array("weight_zh", weight_zh, shape=square),
        }
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(self.n_units,))
        super().__init__(parameters, trainable)

    @classmethod
    def init(cls, n_inputs: int, n_units: int, seed: int, gain: float = 1.0, bias: bool = True, **options: Any) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`. Both recurrent weights are of that kind."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_units, seed, gain, bias)
        further = np.random.default_rng([seed, 1]).normal(size=(n_units, n_units)) * (gain / np.sqrt(n_units))
        return cls(weight_yh=parameters.pop("weight_hh"), weight_zh=further, **parameters, **options)

    def _options(self) -> dict[str, Any]:
        return {"dt": self.dt, "gamma": self.gamma, "epsilon": self.epsilon}

    @property
    def observed(self) -> slice:
        """The positions."""
        return slice(0, self.n_units)

    @property
    def parts(self) -> dict[str, slice]:
        """Positions and velocities."""
        return {"y": slice(0, self.n_units), "z": slice(self.n_units, self.n_states)}

    @property
    def n_units_in_all(self) -> int:
        """Number of oscillators."""
        return self.n_units

    @property
    def in_words(self) -> str:
        """Oscillators, and what they keep."""
        return f"CoRNN of {self.n_units} oscillators (states y and z)"

    def _current(self, parameters: Parameters, y: Array, v: Array, x: Array) -> Array:
        current = y @ parameters["weight_yh"].T + v @ parameters["weight_zh"].T + x @ parameters["weight_ih"].T
        return current + parameters["bias"] if "bias" in parameters else current

    def _moved(self, y: Array, v: Array, force: Array) -> Array:
        """The new state, under a force."""
        v = v + self.dt * (force - self.gamma * y - self.epsilon * v)
        return np.concatenate([y + self.dt * v, v], axis=-1)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        y, v = np.split(z, 2, axis=-1)
        return self._moved(y, v, np.tanh(self._current(parameters, y, v, x)))

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """Positions from the old velocity, the damping left out, and the nonlinearity left out."""
        y, v = np.split(z, 2, axis=-1)
        current = self._current(self.parameters, y, v, x)
        new = self._moved(y, v, np.tanh(current))
        old = np.concatenate([y + self.dt * v, new[..., self.n_units :]], axis=-1)
        yield "stale: positions from the old velocity", old
        yield "decay: the damping left out", self._moved(y, v, np.tanh(current) + self.epsilon * v)
        yield "slope: the nonlinearity left out", self._moved(y, v, current)

    def _program(self) -> Program:
        build, units = Builder(), self.n_units
        (y, new_y), (v, new_v) = build.state(units), build.state(units)
        current = build.register(units)
        build.product(current, y, "positions", "y")
        build.product(current, v, "velocities", "z")
        build.product(current, None, "driven", "drive")
        build.scale(new_v, current, "slope")
        build.scale(new_v, v, "damped")
        build.scale(new_v, y, "pull")
        build.scale(new_y, y, "kept")
        build.scale(new_y, new_v, "step")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W_y, W_z, and ``(U, b)``."""
        units, inputs = slice(0, self.n_units), self.n_inputs
        found = (
            Entry("weight_ih", "driven", units, units, slice(0, inputs)),
            Entry("weight_yh", "positions", units, units, units),
            Entry("weight_zh", "velocities", units, units, units),
            Entry("bias", "driven", units, units, slice(inputs, inputs + 1)),
        )
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """``dt tanh(a)``."""
        return (Pointwise("scaled-tanh", ("slope",), numbers=np.full((1, self.n_units), self.dt)),)

    @property
    def state_variables(self) -> dict[str, slice]:
        """Positions and velocities, which the recurrent weights multiply."""
        return self.parts

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        ones = np.ones((*x.shape[:-1], 1))
        return {"drive": np.concatenate([x, ones], axis=-1) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """``dt (1 - tanh(a)**2)``, and what is constant; ``(x, 1)``."""
        y, v = np.split(z, 2, axis=-1)
        slope = self.dt * tanh_slope(self._current(self.parameters, y, v, x))
        constant = {
            "damped": 1 - self.dt * self.epsilon, "pull": -self.dt * self.gamma, "kept": 1.0, "step": self.dt,
        }  # fmt: skip
        channels = {name: np.full(self.n_units, value) for name, value in constant.items()}
        return StepNumbers(channels | {"slope": slope}, self.drives(x))


register("cornn", CoRNN, CoRNN.init, variants=({}, {"bias": False, "dt": 0.2}))
