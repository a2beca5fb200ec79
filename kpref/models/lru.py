"""The linear recurrent unit: a complex diagonal recurrence of trained moduli and phases, in real arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, integer, real_number
from kpref.models.base import Array, Parameters
from kpref.models.registry import register
from kpref.models.state_space import StateSpaceNetwork, random_mixing
from kpref.models.step import Pointwise, StepNumbers
from kpref.program import Builder, View
from kpref.step_form import Entry

__all__ = ["LRU"]


class LRU(StateSpaceNetwork):
    """Linear recurrent units with gated mixing between layers (Orvieto et al., ICML 2023, arXiv:2303.06349).

    A layer of N complex states x, driven by features s of shape (H,),

        x' = lambda * x + gamma * (B s),    y = Re(C x') + D * s,
        lambda = exp(-exp(nu) + i exp(theta)),    gamma = exp(gamma_log),

    is stable for every nu and theta. What becomes of y is in `kpref.models.state_space`. Everything is real here:
    x = u + i v, b = B s = b_u + i b_v, and with lambda = p + i q

        u' = p u - q v + gamma b_u,    v' = q u + p v + gamma b_v,    y = Re C u' - Im C v' + D * s.

    Differentiating, ``dlambda = lambda (-exp(nu) dnu + i exp(theta) dtheta)``; so with r = lambda x the change of x' is

        dx' = lambda dx + gamma db - exp(nu) r dnu + i exp(theta) r dtheta + gamma b dgamma_log,

    of which the real part takes ``-exp(nu) r_u``, ``-exp(theta) r_v``, ``gamma b_u``, and the imaginary part
    ``-exp(nu) r_v``, ``exp(theta) r_u``, ``gamma b_v``.

    Program: a product takes s to (b_u, b_v); changes of nu, theta, gamma_log are currents of their own, so that each
    trained number enters one current; six scales for each part of the state; a product and a unit (D) to y.

    With x alone as the state, P is known in closed form: ``(P q)[n] = sum_m lambda^(n - m) q[m]``.

    Parameters
    ----------
    weight_ih : array_like, shape (H, n_inputs)
        The encoder.
    bias_ih : array_like, shape (H,), optional
    nonlinearity : {"tanh", "relu", "softplus", "sigmoid", "erf", "identity"}
        phi.
    trainable : sequence of str, optional
        Names of the trainable parameters; all by default.
    **layers : array_like
        Of layer 0 ``nu_log_l0``, ``theta_log_l0``, ``gamma_log_l0`` (N,), ``B_re_l0``, ``B_im_l0`` (N, H), ``C_re_l0``,
        ``C_im_l0`` (H, N), ``D_l0`` (H,), ``weight_value_l0``, ``weight_gate_l0`` (H, H), and ``bias_value_l0``,
        ``bias_gate_l0`` (H,), which may be left out; of layer 1 ``nu_log_l1``, and so on. nu_log is nu,
        theta_log theta. All are pure numbers: a step is the unit of time.
    """

    recurrence = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")

    def __init__(
        self,
        weight_ih: npt.ArrayLike,
        bias_ih: npt.ArrayLike | None = None,
        nonlinearity: str = "tanh",
        trainable: Sequence[str] | None = None,
        **layers: npt.ArrayLike,
    ) -> None:
        super().__init__(weight_ih, bias_ih, nonlinearity, trainable, layers)

    @classmethod
    def init(
        cls,
        n_inputs: int,
        n_features: int,
        n_states: int,
        seed: int,
        gain: float = 1.0,
        bias: bool = True,
        n_layers: int = 1,
        nonlinearity: str = "tanh",
        radii: tuple[float, float] = (0.4, 0.99),
        largest_phase: float = 2 * np.pi,
    ) -> Self:
        """As in the paper: lambda uniform on a ring, B and C normal, gamma the root of ``1 - |lambda|^2``.

        Mixing weights are N(0, gain**2 / n_features), biases zero; `n_states` counts complex states of a layer.
        """
        generator = np.random.default_rng(integer("seed", seed, 0))
        parameters = random_mixing(n_inputs, n_features, n_layers, n_states, generator, gain, bias)
        inner, outer = finite_array("radii", radii, shape=(2,))
        inner = real_number("radii[0]", inner, above=0)
        outer = real_number("radii[1]", outer, least=inner, below=1)
        phase = real_number("largest_phase", largest_phase, above=0)
        for layer in range(n_layers):
            parameters |= {
                f"{name}_l{layer}": array
                for name, array in _random_layer(generator, n_features, n_states, (inner, outer), phase).items()
            }
        return cls(nonlinearity=nonlinearity, **parameters)  # type: ignore[arg-type]

    def _checked(self, given: Mapping[str, Any], suffix: str) -> dict[str, Array]:
        first = finite_array(f"nu_log{suffix}", given["nu_log"], shape=("N",))
        size, states = self.n_features, len(first)
        if states < 1:
            raise ValueError(f"nu_log{suffix} must have at least one entry; got none")
        shapes = {"B_re": (states, size), "B_im": (states, size), "C_re": (size, states), "C_im": (size, states)}
        shapes_of_one = {"D": (size,)}
        return {
            name: finite_array(name + suffix, given[name], shape=shapes.get(name, shapes_of_one.get(name, (states,))))
            for name in self.recurrence
        }

    def _advance(self, parameters: Parameters, s: Array, re: Array, im: Array) -> tuple[Array, Array, Array]:
        p, q = _eigenvalues(parameters)
        gamma = np.exp(parameters["gamma_log"])
        new_re = p * re - q * im + gamma * (s @ parameters["B_re"].T)
        new_im = q * re + p * im + gamma * (s @ parameters["B_im"].T)
        y = new_re @ parameters["C_re"].T - new_im @ parameters["C_im"].T + parameters["D"] * s
        return new_re, new_im, y

    def _write(self, build: Builder, layer: int, s: View, old: Sequence[View], new: Sequence[View], y: View) -> None:
        width = old[0].width
        b, rates = build.register(2 * width), build.register(3 * width)
        build.product(b, s, f"B{layer}", f"s{layer}")
        build.product(rates, None, f"rates{layer}", "one")
        for part, name in enumerate(("re", "im")):
            build.scale(new[part], old[part], f"{name}_kept{layer}")
            build.scale(new[part], old[1 - part], f"{name}_turned{layer}")
            build.scale(new[part], b.part(part, width), f"{name}_driven{layer}")
            for index, of in enumerate(("nu", "theta", "gamma")):
                build.scale(new[part], rates.part(index, width), f"{name}_by_{of}{layer}")
        for part, name in enumerate(("re", "im")):
            build.product(y, new[part], f"C_{name}{layer}", f"{name}{layer}")
        build.unit(y, s, f"D{layer}", f"s{layer}")

    def _step_of_a_unit(self, parameters: Parameters, layer: int) -> Pointwise:
        rates = (np.exp(parameters[name]) for name in ("gamma_log", "nu_log", "theta_log"))
        by_rates = [f"{part}_by_{of}{layer}" for part in ("re", "im") for of in ("nu", "theta", "gamma")]
        linear = [f"{part}_{how}{layer}" for part in ("re", "im") for how in ("kept", "turned", "driven")]
        numbers = np.stack([*_eigenvalues(parameters), *rates])
        return Pointwise("complex-step", tuple(by_rates), tuple(linear), numbers, unread=tuple(by_rates))

    def _enter(self, layer: int) -> list[Entry]:
        width, size = self.widths[layer], self.n_features
        states, features, first = slice(0, width), slice(0, size), slice(0, 1)
        rates = [
            Entry(f"{name}_l{layer}", f"rates{layer}", states, slice(index * width, (index + 1) * width), first)
            for index, name in enumerate(self.recurrence[:3])
        ]
        return [
            *rates,
            Entry(f"B_re_l{layer}", f"B{layer}", states, states, features),
            Entry(f"B_im_l{layer}", f"B{layer}", states, slice(width, 2 * width), features),
            Entry(f"C_re_l{layer}", f"C_re{layer}", features, features, states),
            Entry(f"C_im_l{layer}", f"C_im{layer}", features, features, states, factor=-1.0),
            Entry(f"D_l{layer}", f"D{layer}", features, first, features, transposed=True),
        ]

    def _coefficients(self, parameters: Parameters, s: Array, re: Array, im: Array) -> StepNumbers:
        p, q = _eigenvalues(parameters)
        gamma, decay, speed = (np.exp(parameters[name]) for name in ("gamma_log", "nu_log", "theta_log"))
        r_re, r_im = p * re - q * im, q * re + p * im
        driven_re, driven_im = (gamma * (s @ parameters[name].T) for name in ("B_re", "B_im"))
        channels = {
            "re_kept": p, "re_turned": -q, "re_driven": gamma,
            "re_by_nu": -decay * r_re, "re_by_theta": -speed * r_im, "re_by_gamma": driven_re,
            "im_kept": p, "im_turned": q, "im_driven": gamma,
            "im_by_nu": -decay * r_im, "im_by_theta": speed * r_re, "im_by_gamma": driven_im,
        }  # fmt: skip
        return StepNumbers(channels, {"s": s, "re": r_re + driven_re, "im": r_im + driven_im})


def _eigenvalues(parameters: Parameters) -> tuple[Array, Array]:
    """Real and imaginary part of lambda."""
    modulus, phase = np.exp(-np.exp(parameters["nu_log"])), np.exp(parameters["theta_log"])
    return modulus * np.cos(phase), modulus * np.sin(phase)


def _random_layer(
    generator: np.random.Generator, size: int, states: int, radii: tuple[float, float], phase: float
) -> dict[str, Array]:
    inner, outer = radii
    squared = generator.uniform(size=states) * (outer**2 - inner**2) + inner**2
    b = generator.normal(size=(2, states, size)) / (2 * size) ** 0.5
    c = generator.normal(size=(2, size, states)) / states**0.5
    return {
        "nu_log": np.log(-0.5 * np.log(squared)),
        "theta_log": np.log(phase * (1 - generator.uniform(size=states))),  # a phase of zero has no logarithm
        "gamma_log": 0.5 * np.log1p(-squared),
        "B_re": b[0], "B_im": b[1], "C_re": c[0], "C_im": c[1],
        "D": generator.normal(size=size),
    }  # fmt: skip


def _init(n_inputs: int, n_units: int, seed: int, gain: float = 1.0, **options: Any) -> LRU:
    """A random network of so many features, and half as many complex states in each layer."""
    return LRU.init(n_inputs, n_units, 1 + n_units // 2, seed, gain, **options)


register(
    "lru",
    LRU,
    _init,
    variants=({}, {"n_layers": 2, "nonlinearity": "softplus", "bias": False}),
)
