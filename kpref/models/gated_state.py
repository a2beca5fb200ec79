"""Gated networks whose candidate reads the gated state: the GRU as first published, its flow, the minimal gated unit.

With the currents ``a = W h + U x + b`` of the gates,

    r = sigmoid(a_r),    n = tanh(W_n (r * h) + U_n x + b_n),    G = w * (n - h),

w being the weight of the candidate, ``sigmoid(-a_u)`` of a GRU with update gate u, and r itself of the minimal gated
unit. A map takes h to ``h + G``, a field has the velocity ``G / tau``. Differentiating, with c the current of n,

    d(r * h) = r * dh + h r (1 - r) * da_r,
    dG = -w * dh + (n - h) w' * da + w (1 - n**2) * (W_n d(r * h) + dW_n (r * h) + dU_n x + db_n),

where a is the current of w, and ``w' = w (1 - w)`` with the sign of the current in it: minus for a GRU.

Program: one product for the gates' currents and one of the inputs for all of them; two scales make the gated state in a
register of its own, which the candidate's product takes to its current; three scales make the new state. A change of
the reset gate's weight reaches all units through ``W_n``: K mixes units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array
from kpref.models.base import Array, Field, Map, Parameters
from kpref.models.initial import initial_parameters
from kpref.models.nonlinearity import sigmoid, sigmoid_pair, tanh_slope
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepModel, StepNumbers, network_sizes
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["MGU", "ContinuousGRU", "ResetBeforeGRU"]


class _GatedState(StepModel):
    """What the three share: the first gate is that of the state, the last that of the candidate."""

    #: Gates, and the sign of the last one's current in the weight of the candidate.
    gates: ClassVar[int]
    sign: ClassVar[float]
    function: ClassVar[str] = "gated-step"

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        trainable: Sequence[str] | None = None,
    ) -> None:
        blocks = self.gates + 1
        self.n_states, self.n_inputs = network_sizes(type(self).__name__, weight_hh, weight_ih, blocks)
        rows = blocks * self.n_states
        parameters = {
            "weight_ih": finite_array("weight_ih", weight_ih, shape=(rows, self.n_inputs)),
            "weight_hh": finite_array("weight_hh", weight_hh, shape=(rows, self.n_states)),
        }
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(rows,))
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls, n_inputs: int, n_states: int, seed: int, gain: float = 1.0, bias: bool = True, **options: Any
    ) -> Self:
        """A random network; see `kpref.models.initial.initial_parameters`."""
        parameters = initial_parameters(cls.__name__, n_inputs, n_states, seed, gain, bias, blocks=cls.gates + 1)
        return cls(**parameters, **options)

    def _currents(self, parameters: Parameters, z: Array, x: Array) -> tuple[Array, Array, Array]:
        """Of the gates, (..., gates * H); the gated state; the current of the candidate."""
        weight, first = parameters["weight_hh"], self.gates * self.n_states
        driven = x @ parameters["weight_ih"].T
        if "bias" in parameters:
            driven = driven + parameters["bias"]
        gates = z @ weight[:first].T + driven[..., :first]
        read = sigmoid(gates[..., : self.n_states]) * z
        return gates, read, read @ weight[first:].T + driven[..., first:]

    def _weight(self, gates: Array) -> tuple[Array, Array]:
        """That of the candidate, w, and ``1 - w``."""
        pair = sigmoid_pair(gates[..., -self.n_states :])
        return pair if self.sign > 0 else pair[::-1]

    def _program(self) -> Program:
        build, units = Builder(), self.n_states
        old, new = build.state(units)
        currents, read = build.register((self.gates + 1) * units), build.register(units)
        gates, candidate = currents.part(0, self.gates * units), currents.part(self.gates, units)
        build.product(gates, old, "recurrent", "hidden")
        build.product(currents, None, "driven", "drive")
        build.scale(read, old, "passed")
        build.scale(read, currents.part(0, units), "reset_gate")
        build.product(candidate, read, "candidate", "read")
        build.scale(new, old, "kept")
        build.scale(new, currents.part(self.gates - 1, units), "update_gate")
        build.scale(new, candidate, "slope")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """Rows of W for the gates and for the candidate, and ``(U, b)``."""
        units, rows, first = self.n_states, (self.gates + 1) * self.n_states, self.gates * self.n_states
        everything, gates, rest = slice(0, rows), slice(0, first), slice(first, rows)
        inputs, one = slice(0, self.n_inputs), slice(self.n_inputs, self.n_inputs + 1)
        found = (
            Entry("weight_ih", "driven", everything, everything, inputs),
            Entry("weight_hh", "recurrent", gates, gates, slice(0, units)),
            Entry("weight_hh", "candidate", rest, slice(0, units), slice(0, units)),
            Entry("bias", "driven", everything, everything, one),
        )
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """The gated state; and the new one, whose function takes the sign, and whatever else it must know."""
        known = np.stack([np.broadcast_to(each, self.n_states) for each in (self.sign, *self._known)])
        new = Pointwise(self.function, ("kept", "update_gate", "slope"), numbers=known)
        return (Pointwise("gated-state", ("passed", "reset_gate")), new)

    @property
    def _known(self) -> tuple[npt.ArrayLike, ...]:
        return ()

    @property
    def state_variables(self) -> dict[str, slice]:
        """The old state, which the gates' weight multiplies."""
        return {"hidden": slice(0, self.n_states)}

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        ones = np.ones((*x.shape[:-1], 1))
        return {"drive": np.concatenate([x, ones], axis=-1) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """As the module derives them for ``h + G``; the gated state, and ``(x, 1)``."""
        gates, read, current = self._currents(self.parameters, z, x)
        r, complement = sigmoid_pair(gates[..., : self.n_states])
        weight, kept = self._weight(gates)
        channels = {
            "passed": r,
            "reset_gate": z * (r * complement),
            "kept": kept,
            "update_gate": (np.tanh(current) - z) * (self.sign * (weight * kept)),
            "slope": weight * tanh_slope(current),
        }
        return StepNumbers(channels, {"read": read} | self.drives(x))


class _GatedMap(Map, _GatedState):
    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        gates, _, current = self._currents(parameters, z, x)
        weight, kept = self._weight(gates)
        return kept * z + weight * np.tanh(current)

    def variants(self, z: Array, x: Array) -> Iterator[tuple[str, Array]]:
        """The gate complemented, and the gate of the state after the product or left out."""
        gates, _, current = self._currents(self.parameters, z, x)
        weight, kept = self._weight(gates)
        own = self.parameters["weight_hh"][self.gates * self.n_states :]
        driven, product = current - (sigmoid(gates[..., : self.n_states]) * z) @ own.T, z @ own.T
        after = driven + sigmoid(gates[..., : self.n_states]) * product
        yield "gate: the update gate complemented", weight * z + kept * np.tanh(current)
        yield "gate: the reset gate after the product", kept * z + weight * np.tanh(after)
        yield "gate: the reset gate left out", kept * z + weight * np.tanh(driven + product)


class ResetBeforeGRU(_GatedMap):
    """The gated recurrent unit as first published, with the reset gate before the product, ``W_n (r * h)``.

        r = sigmoid(W_r h + U_r x + b_r),  u = sigmoid(W_u h + U_u x + b_u),
        n = tanh(W_n (r * h) + U_n x + b_n),  h' = u * h + (1 - u) * n.

    Of Cho et al., EMNLP 2014 (arXiv:1406.1078v3); Keras has it as ``GRU(reset_after=False)``, with the blocks in the
    order u, r, n. See `kpref.models.gated_state` for its program; `GRU` is the form of PyTorch and cuDNN.

    Parameters
    ----------
    weight_ih : array_like, shape (3 H, n_inputs)
        U, blocks of H rows in the order r, u, n.
    weight_hh : array_like, shape (3 H, H)
        W.
    bias : array_like, shape (3 H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, or a number that is not finite.
    """

    gates = 2
    sign = -1.0


class MGU(_GatedMap):
    """The minimal gated unit, with one gate f for both.

        f = sigmoid(W_f h + U_f x + b_f),  n = tanh(W_n (f * h) + U_n x + b_n),  h' = (1 - f) * h + f * n.

    Of Zhou, Wu, Zhang, Zhou, Int. J. Autom. Comput. 13 (2016). See `kpref.models.gated_state` for its program. Flax has
    another network of this name, with the gate after the product and complemented.

    Parameters
    ----------
    weight_ih : array_like, shape (2 H, n_inputs)
        U, blocks of H rows in the order f, n.
    weight_hh : array_like, shape (2 H, H)
        W.
    bias : array_like, shape (2 H,), optional
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, or a number that is not finite.
    """

    gates = 1
    sign = 1.0


class ContinuousGRU(Field, _GatedState):
    """The gated recurrent unit in continuous time, ``tau dh/dt = (1 - u) * (n - h)``, with r, u, n of `ResetBeforeGRU`.

    Of Jordan, Sokol, Park, Front. Comput. Neurosci. 15 (2021), and De Brouwer et al., NeurIPS 2019 (GRU-ODE), who have
    tau = 1. Euler's method with steps of alpha tau is the leaky GRU ``h' = h + alpha (1 - u) * (n - h)``, and that with
    steps of tau is `ResetBeforeGRU`. The coefficients of the new state are those of ``h + G`` less dh, over tau.

    Parameters
    ----------
    weight_ih : array_like, shape (3 H, n_inputs)
        U, blocks of H rows in the order r, u, n.
    weight_hh : array_like, shape (3 H, H)
        W.
    bias : array_like, shape (3 H,), optional
    tau : float or array_like of shape (H,)
        Time constant, positive, in the unit of time of the flow; shared or one a unit.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, a number that is not finite, or a time constant that is not positive.
    """

    gates = 2
    sign = -1.0
    function = "gated-velocity"

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_hh: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        tau: npt.ArrayLike = 1.0,
        trainable: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight_ih, weight_hh, bias, trainable)
        self.tau = finite_array("tau", tau)
        if self.tau.shape not in ((), (self.n_states,)):
            raise ValueError(f"tau must be a number or have shape ({self.n_states},); got shape {self.tau.shape}")
        if (self.tau <= 0).any():
            raise ValueError(f"tau must be positive; got {self.tau.min()}")

    def _options(self) -> dict[str, Any]:
        return {"tau": self.tau}

    @property
    def _known(self) -> tuple[npt.ArrayLike, ...]:
        return (1 / self.tau,)

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        gates, _, current = self._currents(parameters, z, x)
        return self._weight(gates)[0] * (np.tanh(current) - z) / self.tau

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Those of the map, less the old state, over tau."""
        found = super().numbers(z, x)
        gates, _, _ = self._currents(self.parameters, z, x)
        channels = {**found.channels, "kept": -self._weight(gates)[0]}
        for name in ("kept", "update_gate", "slope"):
            channels[name] = channels[name] / self.tau
        return StepNumbers(channels, found.variables)


for _name, _kind in (("gru-reset-before", ResetBeforeGRU), ("mgu", MGU), ("gru-continuous", ContinuousGRU)):
    register(_name, _kind, _kind.init, variants=({}, {"bias": False}))
