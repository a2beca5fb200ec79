"""The multi-plasticity network: what it remembers is how its synapses are modulated, not what its units do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number, short
from kpref.memory import require_memory
from kpref.models.base import Array, Parameters
from kpref.models.currents import with_one
from kpref.models.nonlinearity import get_nonlinearity
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepMap, StepNumbers, gathered
from kpref.program import Builder, Program
from kpref.step_form import Entry

__all__ = ["MPN"]


class MPN(StepMap):
    """Synapses that are modulated as they are used (Aitken and Mihalas, eLife 12, e83035, 2023).

    The input weight W (H, n) is multiplied by, or added to, a state M of the same shape, which forgets and learns from
    the activity before and behind the synapse,

        h' = phi(a),   a = (W + M * W) x + b    or    a = (W + M) x + b,
        M' = lambda M + eta h' x^T.

    Units have no other memory: the next step does not look at h. Differentiating, with c_ij = W_ij x_j where M
    multiplies and x_j where it adds, and m_ij = (1 + M_ij) x_j or x_j,

        da_i = sum_j (c_ij dM_ij + m_ij dW_ij) + db_i,    dh' = phi'(a) * da,
        dM'_ij = lambda dM_ij + M_ij dlambda + x_j (eta dh'_i + h'_i deta).

    Program: c scales M, the wide unit W adds ``m * dW``, and both are gathered over synapses to a; phi' scales it to
    h', which, times eta, is spread over the synapses of each unit and scaled by x to M'. Changes of lambda and eta are
    registers of one column, spread likewise. The state is as wide as a weight, and so are three channels and one
    variable: this is a network of ``B T H n`` numbers by what it is, and no matrix is larger.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        W.
    bias : array_like, shape (H,), optional
    decay : array_like, shape (1,)
        lambda, the part of M that is left after a step.
    rate : array_like, shape (1,)
        eta, the change of M a step by a unit of activity on both sides.
    modulation : {"multiplied", "added"}
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
        phi.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        decay: npt.ArrayLike = (0.9,),
        rate: npt.ArrayLike = (0.1,),
        modulation: str = "multiplied",
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
    ) -> None:
        self.nonlinearity = get_nonlinearity(nonlinearity)
        if not isinstance(modulation, str) or modulation not in ("multiplied", "added"):
            raise ValueError(f"modulation must be 'multiplied' or 'added'; got {short(modulation)}")
        self.modulation = modulation
        weight = finite_array("weight_ih", weight_ih, shape=("H", "n_inputs"))
        if 0 in weight.shape:
            raise ValueError(f"weight_ih must have shape (H, n_inputs), neither of them 0; got {weight.shape}")
        self.n_units, self.n_inputs = weight.shape
        self.n_states = self.n_units * (1 + self.n_inputs)
        parameters = {"weight_ih": weight}
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(self.n_units,))
        parameters["decay"] = finite_array("decay", decay, shape=(1,))
        parameters["rate"] = finite_array("rate", rate, shape=(1,))
        super().__init__(parameters, trainable)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_units: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        decay: float = 0.9,
        rate: float = 0.1,
        modulation: str = "multiplied",
        nonlinearity: str = "tanh",
    ) -> Self:
        """Weights N(0, gain**2 / n_inputs), zero biases."""
        n_inputs, n_units = integer("n_inputs", n_inputs, 1), integer("n_units", n_units, 1)
        gain, biased = real_number("gain", gain), flag("bias", bias)
        require_memory(8.0 * n_inputs * n_units, f"an {cls.__name__} with {n_units = } and {n_inputs = }")
        generator = np.random.default_rng(integer("seed", seed, 0))
        weight = generator.normal(size=(n_units, n_inputs)) * (gain / n_inputs**0.5)
        known = [real_number("decay", decay)], [real_number("rate", rate)]
        return cls(weight, np.zeros(n_units) if biased else None, *known, modulation, nonlinearity)

    def _options(self) -> dict[str, Any]:
        return {"modulation": self.modulation, "nonlinearity": self.nonlinearity.name}

    @property
    def parts(self) -> dict[str, slice]:
        """h, and the rows of M one after the other."""
        return {"h": slice(0, self.n_units), "M": slice(self.n_units, self.n_states)}

    @property
    def observed(self) -> slice:
        """h."""
        return slice(0, self.n_units)

    @property
    def n_units_in_all(self) -> int:
        """H."""
        return self.n_units

    @property
    def multiplications(self) -> tuple[int, int]:
        """Sums over synapses stand for products: those of M, and for J of W too."""
        synapses = self.n_states - self.n_units
        return synapses, 2 * synapses

    @property
    def in_words(self) -> str:
        """Units and synapses."""
        return f"MPN of {self.n_units} units and {self.n_states - self.n_units} synapses ({self.nonlinearity.name})"

    @property
    def _multiplies(self) -> bool:
        return self.modulation == "multiplied"

    def _current(self, parameters: Parameters, modulation: Array, x: Array) -> tuple[Array, Array]:
        """a; and x at each synapse: by what numbers that carry errors can do, which are not tiled or reshaped."""
        at_synapses = np.concatenate([x] * self.n_units, axis=-1)
        weight = parameters["weight_ih"]
        rows = np.concatenate([weight[unit] for unit in range(self.n_units)])
        strength = rows + modulation * rows if self._multiplies else rows + modulation
        a = gathered(strength * at_synapses, self.n_inputs)
        return a + parameters["bias"] if "bias" in parameters else a, at_synapses

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        modulation = z[..., self.n_units :]
        a, at_synapses = self._current(parameters, modulation, x)
        h = self.nonlinearity.value(a)
        learned = np.repeat(parameters["rate"] * h, self.n_inputs, axis=-1) * at_synapses
        return np.concatenate([h, parameters["decay"] * modulation + learned], axis=-1)

    def _program(self) -> Program:
        build, units = Builder(), self.n_units
        synapses = units * self.n_inputs
        _, h = build.state(units)
        old, new = build.state(synapses)
        each, a, learning, learned = (build.register(width) for width in (synapses, units, units, synapses))
        rate, rates, decay, decays = (build.register(width) for width in (1, units, 1, synapses))
        build.scale(each, old, "presynaptic")
        if self._multiplies:
            build.unit(each, None, "synapses", "modulated")
        build.gather(a, each)
        if not self._multiplies:
            build.product(a, None, "static", "drive")
        elif "bias" in self.parameters:
            build.product(a, None, "bias", "one")
        build.scale(h, a, "slope")
        build.product(rate, None, "rate", "one")
        build.spread(rates, rate)
        build.scale(learning, h, "rate_of_learning")
        build.scale(learning, rates, "postsynaptic")
        build.spread(learned, learning)
        build.scale(new, learned, "input")
        build.product(decay, None, "decay", "one")
        build.spread(decays, decay)
        build.scale(new, decays, "modulation")
        build.scale(new, old, "kept")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """W row by row, or ``(W, b)``; b, lambda and eta."""
        units, inputs, first = slice(0, self.n_units), self.n_inputs, slice(0, 1)
        bias = slice(inputs, inputs + 1)
        found = [Entry("decay", "decay", first, first, first), Entry("rate", "rate", first, first, first)]
        if self._multiplies:
            found.append(Entry("bias", "bias", units, units, first))
            for unit in range(self.n_units):
                own = slice(unit * inputs, (unit + 1) * inputs)
                found.append(Entry("weight_ih", "synapses", slice(unit, unit + 1), first, own))
        else:
            found.append(Entry("weight_ih", "static", units, units, slice(0, inputs)))
            found.append(Entry("bias", "static", units, units, bias))
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """What modulated synapses send, phi, and both terms of the new M that are products of what varies."""
        sent = Pointwise(
            "modulated", ("presynaptic",), numbers=self.parameters["weight_ih"].reshape(1, -1), drives=("input",),
            variables=("modulated",),
        )  # fmt: skip
        return (
            *([sent] if self._multiplies else []),
            Pointwise(self.nonlinearity.name, ("slope",)),
            Pointwise("multiplied", ("postsynaptic",), ("rate_of_learning",)),
            Pointwise("multiplied", ("modulation",), ("kept",)),
        )

    def drives(self, x: Array) -> dict[str, Array]:
        """x for each unit; 1; and where M adds x once more, and what W and the bias multiply."""
        found = {"input": x, "one": np.ones((*x.shape[:-1], 1))}
        if self._multiplies:
            return found
        return found | {"presynaptic": x, "drive": with_one(x) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """Channels as the class derives them; m, (x, 1) or x, and 1."""
        modulation, parameters = z[..., self.n_units :], self.parameters
        a, at_synapses = self._current(parameters, modulation, x)
        weight = parameters["weight_ih"]
        rows = np.concatenate([weight[unit] for unit in range(self.n_units)])
        ones = np.ones((*x.shape[:-1], 1))
        variables = {"one": ones}
        if self._multiplies:
            variables["modulated"] = at_synapses + modulation * at_synapses
        else:
            variables["drive"] = np.concatenate([x, ones], axis=-1) if "bias" in parameters else x
        return StepNumbers(
            {
                "presynaptic": rows * at_synapses if self._multiplies else at_synapses,
                "slope": self.nonlinearity.slope(a),
                "rate_of_learning": np.repeat(parameters["rate"], self.n_units, axis=-1),
                "postsynaptic": self.nonlinearity.value(a),
                "input": at_synapses,
                "modulation": modulation,
                "kept": np.repeat(parameters["decay"], self.n_states - self.n_units, axis=-1),
            },
            variables,
        )


register(
    "mpn",
    MPN,
    MPN.init,
    variants=({}, {"modulation": "added", "nonlinearity": "softplus"}, {"bias": False, "nonlinearity": "erf"}),
)
