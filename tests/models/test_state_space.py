"""LRU and S4D against what is known in closed form, in complex arithmetic, and what they refuse."""

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import kpref
from kpref.models import LRU, S4D

SEEDS = st.integers(0, 2**32 - 1)
EPS = np.finfo(float).eps


def flow_of(model, seed, trials=2, steps=6):
    rng = np.random.default_rng(seed)
    return kpref.Flow(
        model, rng.normal(size=(trials, steps, model.n_inputs)), rng.normal(size=(trials, model.n_states))
    )


@given(SEEDS)
@examples(10)
def test_propagator_of_an_lru_is_powers_of_its_eigenvalues(seed):
    """(P q)[n] = sum_m lambda^(n - m) q[m] on the states of a layer, in complex numbers: no step is linearised."""
    model = LRU.init(2, 3, 4, seed)
    flow, rng = flow_of(model, seed), np.random.default_rng([seed, 1])
    trials, steps, states = flow.states.shape
    forcing = np.zeros(flow.states.shape)
    forcing[..., :8] = rng.normal(size=(trials, steps, 8))
    found = flow.P(forcing)
    q = forcing[..., :4] + 1j * forcing[..., 4:8]
    eigenvalues = np.exp(-np.exp(model.parameters["nu_log_l0"]) + 1j * np.exp(model.parameters["theta_log_l0"]))
    lags = np.subtract.outer(np.arange(steps), np.arange(steps))
    powers = np.where(lags[..., None] >= 0, eigenvalues ** np.maximum(lags, 0)[..., None], 0)
    wanted = np.einsum("nmk,bmk->bnk", powers, q)
    # A power of at most five errs by its phase, some six radians each: 60 roundings of numbers below four.
    assert np.abs(found[..., :4] + 1j * found[..., 4:8] - wanted).max() <= 100 * EPS * np.abs(q).max() * steps


@pytest.mark.parametrize("layers", [1, 2])
def test_lru_is_the_recurrence_in_complex_numbers(layers):
    model = LRU.init(2, 3, 4, 7, n_layers=layers)
    flow, p = flow_of(model, 1), model.parameters
    z = flow.z0
    for n in range(flow.states.shape[1]):
        s, new = flow.inputs[:, n] @ p["weight_ih"].T + p["bias_ih"], []
        for layer in range(layers):
            own = {name.removesuffix(f"_l{layer}"): value for name, value in p.items() if name.endswith(f"_l{layer}")}
            x = z[:, 8 * layer : 8 * layer + 4] + 1j * z[:, 8 * layer + 4 : 8 * layer + 8]
            eigenvalues = np.exp(-np.exp(own["nu_log"]) + 1j * np.exp(own["theta_log"]))
            x = eigenvalues * x + np.exp(own["gamma_log"]) * (s @ (own["B_re"] + 1j * own["B_im"]).T)
            y = (x @ (own["C_re"] + 1j * own["C_im"]).T).real + own["D"] * s
            s = s + mixed(own, np.tanh(y))
            new += [x.real, x.imag]
        z = np.concatenate([*new, s], axis=1)
        assert np.abs(z - flow.states[:, n]).max() <= 1e-13 * max(1, np.abs(z).max())


def mixed(own, f):
    gate = 1 / (1 + np.exp(-(f @ own["weight_gate"].T + own["bias_gate"])))
    return (f @ own["weight_value"].T + own["bias_value"]) * gate


def test_s4d_solves_its_differential_equation():
    """Held inputs: each state after a step is that of dx/dt = a x + s by Taylor's series, and y its real part twice."""
    model = S4D.init(2, 3, 4, 5)
    flow, p = flow_of(model, 2), model.parameters
    z, s = flow.z0, flow.inputs[:, 0] @ p["weight_ih"].T + p["bias_ih"]
    a = -np.exp(p["log_A_real_l0"]) + 1j * p["A_imag_l0"]
    x = (z[:, :12] + 1j * z[:, 12:24]).reshape(2, 3, 4)
    delta, total = np.exp(p["log_dt_l0"])[:, None], x.copy()
    term = delta * (a * x + s[:, :, None])
    for order in range(2, 26):  # |a Delta| < 1: the 25th term is below 1 / 25!, 1e-25
        total += term
        term = term * a * delta / order
    assert np.abs(flow.states[:, 0, :12] - total.real.reshape(2, 12)).max() <= 20 * EPS * np.abs(total).max()
    assert np.abs(flow.states[:, 0, 12:24] - total.imag.reshape(2, 12)).max() <= 20 * EPS * np.abs(total).max()
    y = 2 * ((p["C_re_l0"] + 1j * p["C_im_l0"]) * total).real.sum(axis=2) + p["D_l0"] * s
    own = {name.removesuffix("_l0"): value for name, value in p.items()}
    assert np.abs(flow.states[:, 0, 24:] - s - mixed(own, np.tanh(y))).max() <= 1e-13 * max(1, np.abs(y).max())


def test_layers_of_s4d_are_differentiated_through_each_other():
    """A complex step of the plain map, which has no cancellation."""
    model = S4D.init(2, 3, 2, 1, n_layers=2)
    flow, direction = flow_of(model, 3), np.random.default_rng(4).normal(size=model.n_parameters)
    moved = model.unflatten(model.vector + 1e-30j * direction)
    wanted = model.iterate(flow.z0, flow.inputs, moved).imag / 1e-30
    assert np.abs(flow.D(direction) - wanted).max() <= 1e-12 * np.abs(wanted).max()


def test_a_held_input_is_integrated_without_cancellation():
    """B = (exp(Delta a) - 1) / a for steps that are short: Delta + Delta^2 a / 2, where A - 1 would lose ten digits."""
    delta = 1e-6
    model = S4D.init(1, 1, 2, 0)
    model = model.with_parameters({"log_dt_l0": [np.log(delta)], "weight_ih": [[1.0]]})
    driven = model.step(np.zeros((1, 5)), np.ones((1, 1)))[0]
    a = -0.5 + 1j * np.pi * np.arange(2)
    wanted = delta * (1 + delta * a / 2 + (delta * a) ** 2 / 6)
    assert np.abs(driven[:2] + 1j * driven[2:4] - wanted).max() <= 20 * EPS * delta


@pytest.mark.parametrize(
    "alpha, omega", [(np.log(0.5), 0.0), (np.log(0.5), 3.0), (-40.0, 0.0), (-400.0, 1e-9), (-800.0, 0.0)]
)
def test_slow_poles_have_exact_derivatives(alpha, omega):
    """x' = Delta f(w) s from rest, w = Delta a; its derivative by a is Delta^2 f'(w) s. By series, |w| < 0.01."""
    delta = 1e-3
    model = S4D.init(1, 1, 1, 0).with_parameters(
        {"log_A_real_l0": [[alpha]], "A_imag_l0": [[omega]], "log_dt_l0": [np.log(delta)], "weight_ih": [[1.0]]}
    )
    w = delta * (-np.exp(alpha) + 1j * omega)
    driven = model.step(np.zeros(3), np.ones(1))
    channels = model.numbers(np.zeros(3), np.ones(1)).channels
    by_omega = channels["re_by_omega0"] + 1j * channels["im_by_omega0"]
    # Rounding of log(Delta), seven in size, and some operations; six terms leave out 1e-12 of a seventh.
    assert abs(driven[0] + 1j * driven[1] - delta * sum(w**k / factorial(k + 1) for k in range(7))) <= 20 * EPS * delta
    slope = sum((k + 1) * w**k / factorial(k + 2) for k in range(7))
    assert abs(by_omega - 1j * delta**2 * slope) <= 20 * EPS * delta**2


@pytest.mark.parametrize("kind, first", [(LRU, "nu_log"), (S4D, "log_A_real")])
def test_what_is_refused(kind, first):
    given = dict(kind.init(2, 3, 4, 0, n_layers=2).parameters)
    with pytest.raises(ValueError, match=f"of 2 layers needs {first}.*D_l1 is missing"):
        kind(**{name: array for name, array in given.items() if name != "D_l1"})
    with pytest.raises(ValueError, match="E_l1 is none of them"):
        kind(**given, E_l1=np.ones(3))
    with pytest.raises(ValueError, match=r"C_re_l1 must have shape \(3, 4\); got \(4, 3\)"):
        kind(**given | {"C_re_l1": np.ones((4, 3))})
    with pytest.raises(ValueError, match=f"{first}_l0 must have (shape|at least one)"):
        kind(**given | {f"{first}_l0": np.ones((3, 0) if kind is S4D else 0)})
    with pytest.raises(ValueError, match=r"weight_ih must have shape \(H, n_inputs\), neither of them 0"):
        kind(**given | {"weight_ih": np.ones((3, 0))})
    with pytest.raises(ValueError, match="n_layers"):
        kind.init(2, 3, 4, 0, n_layers=0)
