"""Networks of Hodgkin and Huxley's neurons, coupled by conductances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, flag, integer, real_number
from kpref.memory import require_memory
from kpref.models.base import Array, Field, Parameters
from kpref.models.currents import magnitude, with_one
from kpref.models.nonlinearity import linoid, linoid_slope, sigmoid, sigmoid_slope
from kpref.models.registry import register
from kpref.models.step import Pointwise, StepModel, StepNumbers
from kpref.program import Builder, Program, View
from kpref.step_form import Entry

__all__ = ["HodgkinHuxley"]

#: Reversal potentials of sodium, potassium and the leak, of excitatory and inhibitory synapses, and at rest, in mV.
_SODIUM, _POTASSIUM, _LEAK, _EXCITED, _INHIBITED, _REST = 50.0, -77.0, -54.387, 0.0, -80.0, -65.0
#: Rise and decay of the synapses of excitatory (AMPA) and of inhibitory (GABA_A) neurons, in 1/ms.
_AMPA, _GABA = (1.1, 0.19), (5.0, 0.18)
#: Conductances of the membrane, in mS/cm^2.
_CONDUCTANCES = {"g_na": 120.0, "g_k": 36.0, "g_l": 0.3}


class _Rates(NamedTuple):
    """Opening and closing rates of the gates m, h and n, and the opening rate of the synapses, in 1/ms."""

    m: tuple[Array, Array]
    h: tuple[Array, Array]
    n: tuple[Array, Array]
    s: Array


class HodgkinHuxley(Field, StepModel):
    """Neurons of the squid's giant axon (Hodgkin and Huxley, J. Physiol. 117, 1952), coupled by conductances.

    State (V, m, h, n, s), in ms, mV, uA/cm^2, mS/cm^2, with a capacitance of 1 uF/cm^2. Currents depolarise where they
    are positive, voltages are absolute with a rest at -65 mV, and temperature is 6.3 degrees:

        dV/dt = g_na m^3 h (50 - V) + g_k n^4 (-77 - V) + g_l (-54.387 - V)
                + g_e (0 - V) + g_i (-80 - V) + U x + b,
        dm/dt = alpha_m(V) (1 - m) - beta_m(V) m,    as h, n,    ds/dt = a T(V) (1 - s) - d s,
        g_e = W_e s of the excitatory neurons,    g_i = W_i s of the inhibitory ones.

    With ``f(u) = u / (1 - exp(-u))``, which is its limit, 1, at u = 0 (V = -40 mV of m, -55 mV of n), the rates are

        alpha_m = f((V + 40) / 10),              beta_m = 4 exp(-(V + 65) / 18),
        alpha_h = 0.07 exp(-(V + 65) / 20),      beta_h = sigmoid((V + 35) / 10),
        alpha_n = 0.1 f((V + 55) / 10),          beta_n = 0.125 exp(-(V + 65) / 80).

    Synapses are those of Destexhe, Mainen and Sejnowski (J. Comput. Neurosci. 1, 1994; Methods in Neuronal Modeling,
    1998): ``T = sigmoid((V - 2) / 5)`` mM of transmitter, a = 1.1, d = 0.19 (AMPA) for the first E neurons, which are
    excitatory, and 5, 0.18 (GABA_A) for the others. They couple by magnitudes, so that no conductance is negative
    whatever training does: ``g = |array|``, and ``dg = sign(array) darray``.

    Differentiating, with the slopes alpha', beta' by V and ``o_na = m^3 h (50 - V)``, ``o_k = n^4 (-77 - V)``,

        dV' = g_na do_na + dg_na o_na + g_k do_k + dg_k o_k - g_l dV + dg_l (-54.387 - V)
              - (g_e + g_i) dV + (0 - V) dg_e + (-80 - V) dg_i + dU x + db,
        do_na = -m^3 h dV + 3 m^2 h (50 - V) dm + m^3 (50 - V) dh,    do_k = -n^4 dV + 4 n^3 (-77 - V) dn,
        dm' = (alpha_m' (1 - m) - beta_m' m) dV - (alpha_m + beta_m) dm,    as h, n,
        ds' = a T' (1 - s) dV - (a T + d) ds,    dg_e = dW_e s + W_e ds.

    Program: two products take the s of either kind of neuron to g_e and g_i, a third ``(x, 1)`` to currents; scales
    make do_na and do_k of dV, dm, dh, dn; trained units, the conductances of the membrane, take these and -dV to the
    new V; scales do the rest. No trained number reaches two neurons: K is local, and on synaptic weights it is, as that
    of an RNN, gates ``(0 - V)`` times features s that all neurons share.

    Parameters
    ----------
    weight_ih : array_like, shape (N, n_inputs)
        U, in uA/cm^2 for each unit of an input.
    weight_e : array_like, shape (N, E)
        W_e, in mS/cm^2, from the first E of the N neurons.
    weight_i : array_like, shape (N, N - E), optional
        W_i, in mS/cm^2; needed where E < N.
    bias : array_like, shape (N,), optional
        A current, in uA/cm^2.
    g_na, g_k, g_l : array_like, shape (N,) or (), optional
        In mS/cm^2; 120, 36 and 0.3 by default.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.

    Raises
    ------
    ValueError
        For shapes that do not match, or a number that is not finite.

    Notes
    -----
    The leak's 10.613 mV above rest are those that the authors print; zero current at rest takes 10.5989, so the model
    rests 4 uV higher. An explicit method needs steps of some 0.05 ms at most; the classical choice is 0.01.
    """

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        weight_e: npt.ArrayLike,
        weight_i: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
        g_na: npt.ArrayLike = _CONDUCTANCES["g_na"],
        g_k: npt.ArrayLike = _CONDUCTANCES["g_k"],
        g_l: npt.ArrayLike = _CONDUCTANCES["g_l"],
        trainable: Sequence[str] | None = None,
    ) -> None:
        excitatory = finite_array("weight_e", weight_e, shape=("N", "E"))
        self.n_units, self.n_excitatory = excitatory.shape
        if not 1 <= self.n_excitatory <= self.n_units:
            raise ValueError(f"weight_e must have shape (N, E) with 1 <= E <= N; got {excitatory.shape}")
        units, others = self.n_units, self.n_units - self.n_excitatory
        inputs = finite_array("weight_ih", weight_ih, shape=(units, "n_inputs"))
        self.n_inputs, self.n_states = inputs.shape[1], 5 * units
        if self.n_inputs < 1:
            raise ValueError(f"weight_ih must have at least one column; got shape {inputs.shape}")
        if (weight_i is None) != (others == 0):
            raise ValueError(
                f"weight_i must have shape ({units}, {others}), weights from the neurons that weight_e leaves out"
                + (", so none must be given" if others == 0 else "; got None")
            )
        parameters = {"weight_ih": inputs, "weight_e": excitatory}
        if weight_i is not None:
            parameters["weight_i"] = finite_array("weight_i", weight_i, shape=(units, others))
        if bias is not None:
            parameters["bias"] = finite_array("bias", bias, shape=(units,))
        for name, value in (("g_na", g_na), ("g_k", g_k), ("g_l", g_l)):
            given = np.full(units, value) if np.ndim(value) == 0 else value
            parameters[name] = finite_array(name, given, shape=(units,))
        super().__init__(parameters, trainable)
        kinds = np.where(np.arange(units)[:, None] < self.n_excitatory, _AMPA, _GABA)
        self._rise, self._fall = np.ascontiguousarray(kinds.T)

    @classmethod
    def init(
        cls, n_inputs: int, n_units: int, seed: int, gain: float = 1.0, bias: bool = True, n_inhibitory: int = 0
    ) -> Self:
        """A random network, whose neurons fire by themselves unless they are without bias.

        Inputs are N(0, 1 / n_inputs) uA/cm^2, biases uniform from 8 to 12 uA/cm^2, around the 9.8 at which rest becomes
        unstable, and synapses uniform, adding up to 0.3 `gain` mS/cm^2 on average, as much as the leak, were all open.
        """
        n_inputs, n_units = integer("n_inputs", n_inputs, 1), integer("n_units", n_units, 1)
        gain, bias = real_number("gain", gain, least=0), flag("bias", bias)
        generator = np.random.default_rng(integer("seed", seed, 0))
        others = integer("n_inhibitory", n_inhibitory, 0)
        if others >= n_units:
            raise ValueError(f"n_inhibitory must be less than n_units, {n_units}; got {others}")
        require_memory(8.0 * n_units * (n_units + n_inputs), f"{n_units = }, {n_inputs = }")
        inputs = generator.normal(size=(n_units, n_inputs)) / n_inputs**0.5
        synapses = generator.uniform(0, 0.6 * gain / n_units, size=(n_units, n_units))
        split = n_units - others
        return cls(
            inputs,
            synapses[:, :split],
            synapses[:, split:] if others else None,
            generator.uniform(8, 12, size=n_units) if bias else None,
        )

    @property
    def n_units_in_all(self) -> int:
        """N."""
        return self.n_units

    @property
    def parts(self) -> dict[str, slice]:
        """V, m, h, n and s."""
        size = self.n_units
        return {name: slice(at * size, (at + 1) * size) for at, name in enumerate("Vmhns")}

    @property
    def observed(self) -> slice:
        """s, by which other neurons see one too."""
        return self.parts["s"]

    @property
    def in_words(self) -> str:
        """Neurons, and how many of them inhibit."""
        others = self.n_units - self.n_excitatory
        return f"HodgkinHuxley of {self.n_units} neurons" + (f" ({others} inhibitory)" if others else "")

    @property
    def start(self) -> Array:
        """-65 mV, with gates and synapses as they settle there."""
        return self.clamped(_REST)

    def clamped(self, voltage: npt.ArrayLike) -> Array:
        """The state (5 N,) that neurons held at a voltage, in mV, shared or one a neuron, settle in."""
        v = np.broadcast_to(finite_array("voltage", voltage), (self.n_units,))
        rates = _rates(v)
        gates = [opening / (opening + closing) for opening, closing in (rates.m, rates.h, rates.n)]
        released = self._rise * rates.s
        return np.concatenate([v, *gates, released / (released + self._fall)])

    def _split(self, z: Array) -> list[Array]:
        return [z[..., part] for part in self.parts.values()]

    def _conductances(self, parameters: Parameters, s: Array) -> list[tuple[Array, float]]:
        """Of the synapses, and their reversal potentials."""
        split = self.n_excitatory
        found = [(s[..., :split] @ magnitude(parameters["weight_e"]).T, _EXCITED)]
        if "weight_i" in parameters:
            found.append((s[..., split:] @ magnitude(parameters["weight_i"]).T, _INHIBITED))
        return found

    def _evaluate(self, parameters: Parameters, z: Array, x: Array) -> Array:
        v, m, h, n, s = self._split(z)
        rates, square = _rates(v), n * n
        current = x @ parameters["weight_ih"].T
        if "bias" in parameters:
            current = current + parameters["bias"]
        current = current + magnitude(parameters["g_na"]) * (m * m * m * h * (_SODIUM - v))
        current = current + magnitude(parameters["g_k"]) * (square * square * (_POTASSIUM - v))
        current = current + magnitude(parameters["g_l"]) * (_LEAK - v)
        for conductance, reversal in self._conductances(parameters, s):
            current = current + conductance * (reversal - v)
        gates = [
            opening * (1 - gate) - closing * gate
            for gate, (opening, closing) in ((m, rates.m), (h, rates.h), (n, rates.n))
        ]
        synapses = self._rise * rates.s * (1 - s) - self._fall * s
        return np.concatenate([current, *gates, synapses], axis=-1)

    def _program(self) -> Program:
        build, units, split = Builder(), self.n_units, self.n_excitatory
        states = {name: build.state(units) for name in "Vmhns"}
        (v, new), old = states["V"], {name: state[0] for name, state in states.items()}
        s, conductances = old["s"], {}
        for kind, part in (("e", slice(0, split)), ("i", slice(split, units))):
            if part.start < part.stop:
                conductances[kind] = build.register(units)
                sent = View(s.register, part.start, part.stop - part.start)
                build.product(conductances[kind], sent, f"synapses_{kind}", f"sent_{kind}")
        driven, sodium, potassium, leak = (build.register(units) for _ in range(4))
        build.product(driven, None, "driven", "drive")
        for gate in "Vmh":
            build.scale(sodium, old[gate], f"sodium_{gate}")
        for gate in "Vn":
            build.scale(potassium, old[gate], f"potassium_{gate}")
        build.scale(leak, v, "opposed")
        build.scale(new, v, "shunt")
        build.scale(new, driven, "charge")
        for kind, conductance in conductances.items():
            build.scale(new, conductance, f"pull_{kind}")
        for name, source in (("g_na", sodium), ("g_k", potassium), ("g_l", leak)):
            build.unit(new, source, name, f"open_{name}")
        for gate in "mhns":
            build.scale(states[gate][1], v, f"{gate}_V")
            build.scale(states[gate][1], old[gate], f"{gate}_{gate}")
        return build.program()

    def entries(self) -> tuple[Entry, ...]:
        """``(U, b)``, magnitudes of the synapses, and of the conductances of the membrane."""
        units, inputs, split = slice(0, self.n_units), self.n_inputs, self.n_excitatory
        found = [
            Entry("weight_ih", "driven", units, units, slice(0, inputs)),
            Entry("bias", "driven", units, units, slice(inputs, inputs + 1)),
        ]
        for name, weight, senders in (
            ("weight_e", "synapses_e", split), ("weight_i", "synapses_i", self.n_units - split)
        ):  # fmt: skip
            if name in self.parameters:
                sign = np.sign(self.parameters[name])
                found.append(Entry(name, weight, units, units, slice(0, senders), factor=sign))
        for name in _CONDUCTANCES:
            sign = np.sign(self.parameters[name])[:, None]
            found.append(Entry(name, name, units, slice(0, 1), units, transposed=True, factor=sign))
        return tuple(entry for entry in found if entry.parameter in self.parameters)

    @property
    def pointwise(self) -> tuple[Pointwise, ...]:
        """All but the products, what these drive, and the conductances of the membrane."""
        gates = [f"{gate}_{by}" for gate in "mhns" for by in ("V", gate)]
        channels = ["sodium_V", "sodium_m", "sodium_h", "potassium_V", "potassium_n", "shunt", *gates, "pull_e"]
        inhibited = "weight_i" in self.parameters
        function = "inhibited-neuron" if inhibited else "neuron"
        channels += ["pull_i"] if inhibited else []
        return (Pointwise(function, tuple(channels), ("opposed",), np.stack([self._rise, self._fall])),)

    @property
    def state_variables(self) -> dict[str, slice]:
        """s of either kind of neuron."""
        first, split = self.parts["s"].start, self.n_excitatory
        found = {"sent_e": slice(first, first + split)}
        return found | ({"sent_i": slice(first + split, self.n_states)} if "weight_i" in self.parameters else {})

    def drives(self, x: Array) -> dict[str, Array]:
        """``(x, 1)``, or x where there is no bias."""
        return {"drive": with_one(x) if "bias" in self.parameters else x}

    def numbers(self, z: Array, x: Array) -> StepNumbers:
        """As the class derives them."""
        v, m, h, n, s = self._split(z)
        rates, slopes = _rates(v), _rate_slopes(v)
        to_sodium, to_potassium, square, cube = _SODIUM - v, _POTASSIUM - v, m * m, n * n * n
        synapses = self._conductances(self.parameters, s)
        channels = {
            "sodium_V": -(square * m * h),
            "sodium_m": 3 * square * h * to_sodium,
            "sodium_h": square * m * to_sodium,
            "potassium_V": -(cube * n),
            "potassium_n": 4 * cube * to_potassium,
            "opposed": np.full(self.n_units, -1.0),
            "shunt": -sum(conductance for conductance, _ in synapses),
            "charge": np.ones(self.n_units),
            **{f"pull_{kind}": reversal - v for kind, (_, reversal) in zip("ei", synapses, strict=False)},
            "s_V": self._rise * slopes.s * (1 - s),
            "s_s": -(self._rise * rates.s + self._fall),
        }
        for name, gate, (opening, closing), (rising, falling) in (
            ("m", m, rates.m, slopes.m), ("h", h, rates.h, slopes.h), ("n", n, rates.n, slopes.n)
        ):  # fmt: skip
            channels[f"{name}_V"] = rising * (1 - gate) - falling * gate
            channels[f"{name}_{name}"] = -(opening + closing)
        opened = {
            "open_g_na": square * m * h * to_sodium,
            "open_g_k": cube * n * to_potassium,
            "open_g_l": _LEAK - v,
        }
        return StepNumbers(channels, opened | self.drives(x))


def _rates(v: Array) -> _Rates:
    up = v + 65.0
    return _Rates(
        (linoid((v + 40.0) / 10.0), 4.0 * np.exp(-up / 18.0)),
        (0.07 * np.exp(-up / 20.0), sigmoid((v + 35.0) / 10.0)),
        (0.1 * linoid((v + 55.0) / 10.0), 0.125 * np.exp(-up / 80.0)),
        sigmoid((v - 2.0) / 5.0),
    )


def _rate_slopes(v: Array) -> _Rates:
    """Derivatives by the voltage."""
    up = v + 65.0
    return _Rates(
        (linoid_slope((v + 40.0) / 10.0) / 10.0, -4.0 / 18.0 * np.exp(-up / 18.0)),
        (-0.07 / 20.0 * np.exp(-up / 20.0), sigmoid_slope((v + 35.0) / 10.0) / 10.0),
        (0.01 * linoid_slope((v + 55.0) / 10.0), -0.125 / 80.0 * np.exp(-up / 80.0)),
        sigmoid_slope((v - 2.0) / 5.0) / 5.0,
    )


def _init(n_inputs: int, n_units: int, seed: int, gain: float = 1.0, inhibitory: bool = False, **options: Any) -> Any:
    """A random network; with a fifth of its neurons inhibitory, if there are several, where wanted."""
    others = -(-n_units // 5) if inhibitory and n_units > 1 else 0
    return HodgkinHuxley.init(n_inputs, n_units, seed, gain, n_inhibitory=others, **options)


register("hodgkin-huxley", HodgkinHuxley, _init, variants=({"inhibitory": True},), dt=0.025)
