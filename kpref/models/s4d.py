"""The diagonal structured state-space model: one small linear system for each feature, discretised exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import factorial
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from kpref._validate import finite_array, integer
from kpref.models.base import Array, Parameters
from kpref.models.registry import register
from kpref.models.state_space import StateSpaceNetwork, random_mixing
from kpref.models.step import Pointwise, StepNumbers, gathered
from kpref.program import Builder, View
from kpref.step_form import Entry

__all__ = ["S4D"]


class S4D(StateSpaceNetwork):
    """Diagonal state spaces with gated mixing between layers (Gu et al., NeurIPS 2022, arXiv:2206.11893).

    Feature h of a layer drives n complex states, ``dx/dt = a x + s`` with ``a = -exp(alpha) + i omega``, sampled every
    Delta_h while s is held (zero-order hold, exact), and is read out from them,

        x' = A x + B s,    A = exp(Delta a),  B = (A - 1) / a,    y = 2 Re sum_n C_n x'_n + D s,    Delta = exp(delta).

    B is what the paper calls so times its vector of ones; the other half of the states is their complex conjugates,
    whence the 2. As Delta is positive and Re a negative, |A| < 1 always. What becomes of y is in
    `kpref.models.state_space`. Differentiating, with ``dA/dDelta = a A``, ``dB/dDelta = A``, ``dA/da = Delta A`` and
    ``dB/da = (Delta A - B) / a``,

        dx' = A dx + B ds + Delta A (a x + s) ddelta + e (-exp(alpha) dalpha + i domega),
        e = Delta A x + (Delta A - B) s / a.

    Poles may be as slow as they like: with w = Delta a these are ``B = Delta f(w)`` and ``(Delta A - B) / a = Delta^2
    f'(w)`` of the entire function ``f(w) = (exp(w) - 1) / w``, which near zero, where the quotients lose all digits, is
    summed by its series.

    In real arithmetic x = u + i v: the real part takes ``-exp(alpha) e_u`` and ``-e_v``, the imaginary part
    ``-exp(alpha) e_v`` and ``e_u``, and both the parts of ``g = Delta A (a x + s)``.

    Program: s is spread over the states; changes of delta, spread likewise, and of alpha and omega are currents of
    their own; six scales for each part of the state; 2 C are units, whose results are gathered to y, which D joins.
    No matrix multiplies a state.

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
        Of layer 0 ``log_A_real_l0`` (alpha), ``A_imag_l0`` (omega), ``C_re_l0``, ``C_im_l0``, all (H, n), ``log_dt_l0``
        (delta), ``D_l0`` (H,), ``weight_value_l0``, ``weight_gate_l0`` (H, H), and ``bias_value_l0``, ``bias_gate_l0``
        (H,), which may be left out; of layer 1 ``log_A_real_l1``, and so on. exp(alpha) and omega are rates, in the
        inverse of the unit of time that Delta, the time of a step, is in.
    """

    recurrence = ("log_A_real", "A_imag", "log_dt", "C_re", "C_im", "D")

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
    ) -> Self:
        """S4D-Lin: a = -1/2 + i pi k for the k-th of the `n_states` of a feature, Delta log-uniform on [0.001, 0.1].

        C is normal, D one; mixing weights are N(0, gain**2 / n_features), biases zero.
        """
        generator = np.random.default_rng(integer("seed", seed, 0))
        size, states = integer("n_features", n_features, 1), integer("n_states", n_states, 1)
        parameters = random_mixing(n_inputs, n_features, n_layers, size * states, generator, gain, bias)
        for layer in range(n_layers):
            c = generator.normal(size=(2, n_features, states)) / (2 * states) ** 0.5
            parameters |= {
                f"log_A_real_l{layer}": np.full((n_features, states), np.log(0.5)),
                f"A_imag_l{layer}": np.tile(np.pi * np.arange(states), (n_features, 1)),
                f"log_dt_l{layer}": generator.uniform(np.log(1e-3), np.log(0.1), n_features),
                f"C_re_l{layer}": c[0],
                f"C_im_l{layer}": c[1],
                f"D_l{layer}": np.ones(n_features),
            }
        return cls(nonlinearity=nonlinearity, **parameters)  # type: ignore[arg-type]

    def _checked(self, given: Mapping[str, Any], suffix: str) -> dict[str, Array]:
        size = self.n_features
        first = finite_array(f"log_A_real{suffix}", given["log_A_real"], shape=(size, "n"))
        if not first.size:
            raise ValueError(f"log_A_real{suffix} must have at least one column; got shape {first.shape}")
        return {
            name: finite_array(
                name + suffix, given[name], shape=(size,) if name in ("log_dt", "D") else (size, first.shape[1])
            )
            for name in self.recurrence
        }

    def _advance(self, parameters: Parameters, s: Array, re: Array, im: Array) -> tuple[Array, Array, Array]:
        own, states = _discrete(parameters), parameters["log_A_real"].shape[1]
        u = np.repeat(s, states, axis=-1)
        new_re = own.kept[0] * re - own.kept[1] * im + own.driven[0] * u
        new_im = own.kept[1] * re + own.kept[0] * im + own.driven[1] * u
        c_re, c_im = (_flat(parameters[name]) for name in ("C_re", "C_im"))
        seen = c_re * new_re - c_im * new_im
        y = 2.0 * gathered(seen, states) + parameters["D"] * s
        return new_re, new_im, y

    def _write(self, build: Builder, layer: int, s: View, old: Sequence[View], new: Sequence[View], y: View) -> None:
        width, size = old[0].width, s.width
        u, rates, steps, step = (build.register(columns) for columns in (width, 2 * width, size, width))
        build.spread(u, s)
        build.product(rates, None, f"rates{layer}", "one")
        build.product(steps, None, f"log_dt{layer}", "one")
        build.spread(step, steps)
        for part, name in enumerate(("re", "im")):
            build.scale(new[part], old[part], f"{name}_kept{layer}")
            build.scale(new[part], old[1 - part], f"{name}_turned{layer}")
            build.scale(new[part], u, f"{name}_driven{layer}")
            build.scale(new[part], step, f"{name}_by_delta{layer}")
            for index, of in enumerate(("alpha", "omega")):
                build.scale(new[part], rates.part(index, width), f"{name}_by_{of}{layer}")
        seen = build.register(width)
        for part, name in enumerate(("re", "im")):
            build.unit(seen, new[part], f"C_{name}{layer}", f"{name}{layer}")
        build.gather(y, seen)
        build.unit(y, s, f"D{layer}", f"s{layer}")

    def _step_of_a_unit(self, parameters: Parameters, layer: int) -> Pointwise:
        own = _discrete(parameters)
        by_rates = tuple(f"{part}_by_{of}{layer}" for part in ("re", "im") for of in ("delta", "alpha", "omega"))
        linear = tuple(f"{part}_{how}{layer}" for part in ("re", "im") for how in ("kept", "turned", "driven"))
        numbers = np.stack([*own.kept, *own.driven, *own.by_a, own.decay, own.omega, own.delta])
        return Pointwise("held-step", by_rates, linear, numbers, unread=by_rates)

    def _enter(self, layer: int) -> list[Entry]:
        size, first = self.n_features, slice(0, 1)
        width, states = self.widths[layer], self.widths[layer] // size
        found = [
            Entry(f"log_dt_l{layer}", f"log_dt{layer}", slice(0, size), slice(0, size), first),
            Entry(f"D_l{layer}", f"D{layer}", slice(0, size), first, slice(0, size), transposed=True),
        ]
        for feature in range(size):
            row, own = slice(feature, feature + 1), slice(feature * states, (feature + 1) * states)
            below = slice(width + own.start, width + own.stop)
            found += [
                Entry(f"log_A_real_l{layer}", f"rates{layer}", row, own, first, transposed=True),
                Entry(f"A_imag_l{layer}", f"rates{layer}", row, below, first, transposed=True),
                Entry(f"C_re_l{layer}", f"C_re{layer}", row, first, own, factor=2.0),
                Entry(f"C_im_l{layer}", f"C_im{layer}", row, first, own, factor=-2.0),
            ]
        return found

    def _coefficients(self, parameters: Parameters, s: Array, re: Array, im: Array) -> StepNumbers:
        own, states = _discrete(parameters), parameters["log_A_real"].shape[1]
        (a_re, a_im), (b_re, b_im), delta, u = own.kept, own.driven, own.delta, np.repeat(s, states, axis=-1)
        turned_re, turned_im = a_re * re - a_im * im, a_im * re + a_re * im  # A x
        e_re, e_im = delta * turned_re + own.by_a[0] * u, delta * turned_im + own.by_a[1] * u
        g_re = delta * (-own.decay * turned_re - own.omega * turned_im + own.by_delta[0] * u)
        g_im = delta * (own.omega * turned_re - own.decay * turned_im + own.by_delta[1] * u)
        channels = {
            "re_kept": a_re, "re_turned": -a_im, "re_driven": b_re,
            "re_by_delta": g_re, "re_by_alpha": -own.decay * e_re, "re_by_omega": -e_im,
            "im_kept": a_re, "im_turned": a_im, "im_driven": b_im,
            "im_by_delta": g_im, "im_by_alpha": -own.decay * e_im, "im_by_omega": e_re,
        }  # fmt: skip
        return StepNumbers(channels, {"s": s, "re": turned_re + b_re * u, "im": turned_im + b_im * u})


_Complex = tuple[Array, Array]
"""Real and imaginary part."""

#: Coefficients of f and f' of the class: what is left out is below 1e-18 for ``|w| < 1``.
_SERIES = [1 / factorial(k + 1) for k in range(19)]
_SLOPE_SERIES = [(k + 1) / factorial(k + 2) for k in range(19)]


class _Discrete(NamedTuple):
    """Numbers of each state, feature by feature, (H n,)."""

    decay: Array  # exp(alpha)
    omega: Array
    delta: Array
    kept: _Complex  # A
    driven: _Complex  # B
    by_delta: _Complex  # A again, the derivative of B by Delta
    by_a: _Complex  # (Delta A - B) / a, the derivative of B by a


def _discrete(parameters: Parameters) -> _Discrete:
    decay, omega = np.exp(_flat(parameters["log_A_real"])), _flat(parameters["A_imag"])
    delta = np.repeat(np.exp(parameters["log_dt"]), parameters["log_A_real"].shape[1], axis=-1)
    modulus, phase = np.exp(-delta * decay), delta * omega
    re, im = modulus * np.cos(phase), modulus * np.sin(phase)
    half = np.sin(0.5 * phase)
    less = np.expm1(-delta * decay) * np.cos(phase) - 2.0 * half * half  # A - 1, without cancellation
    f, slope, own = _quotient_and_slope((-delta * decay, phase), (re, im), (less, im))
    driven, by_a = (delta * f[0], delta * f[1]), (delta * delta * slope[0], delta * delta * slope[1])
    return _Discrete(decay, omega, delta, (re, im), driven, own, by_a)


def _quotient_and_slope(w: _Complex, exponential: _Complex, less: _Complex) -> tuple[_Complex, _Complex, _Complex]:
    """f and f' of the class at w, of exp(w) and of exp(w) less one; and exp(w) again, as the derivative of w f(w)."""
    if hasattr(w[0], "elementary"):  # numbers with errors: those of the quotients, which other implementations have
        f, slope, inverse = _by_quotients(w, exponential, less)
        return f, slope, _product(_product(w, exponential), inverse)
    near = np.square(w[0].real) + np.square(w[1].real) < 1
    small = np.where(near, w[0], 0), np.where(near, w[1], 0)
    *far, _ = _by_quotients((np.where(near, 1, w[0]), w[1]), exponential, less)
    series = _sum(_SERIES, small), _sum(_SLOPE_SERIES, small)
    f, slope = (
        (np.where(near, here[0], there[0]), np.where(near, here[1], there[1]))
        for here, there in zip(series, far, strict=True)
    )
    return f, slope, exponential


def _by_quotients(w: _Complex, exponential: _Complex, less: _Complex) -> tuple[_Complex, _Complex, _Complex]:
    """``f = (exp(w) - 1) / w``, ``f' = (exp(w) - f) / w`` and ``1 / w``."""
    squared = w[0] * w[0] + w[1] * w[1]
    inverse = w[0] / squared, -w[1] / squared
    f = _product(less, inverse)
    return f, _product((exponential[0] - f[0], exponential[1] - f[1]), inverse), inverse


def _sum(coefficients: Sequence[float], w: _Complex) -> _Complex:
    """A power series."""
    total = np.zeros_like(w[0]), np.zeros_like(w[1])
    for coefficient in reversed(coefficients):
        re, im = _product(total, w)
        total = re + coefficient, im
    return total


def _product(a: _Complex, b: _Complex) -> _Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _flat(array: Array) -> Array:
    """The rows of an array one after the other."""
    return np.concatenate([array[row] for row in range(len(array))])


def _init(n_inputs: int, n_units: int, seed: int, gain: float = 1.0, **options: Any) -> S4D:
    """A random network of so many features, each with two complex states in each layer, or one of one."""
    return S4D.init(n_inputs, n_units, min(n_units, 2), seed, gain, **options)


register(
    "s4d",
    S4D,
    _init,
    variants=({}, {"nonlinearity": "erf", "bias": False}),
)
