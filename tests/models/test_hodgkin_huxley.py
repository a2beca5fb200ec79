"""Hodgkin and Huxley's neurons: rates at their limits, published rest, thresholds and periods, and shape of a spike."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import exprel

import kpref
from kpref import linearize
from kpref.equilibria.jacobians import state_jacobians
from kpref.models import HodgkinHuxley
from kpref.models.nonlinearity import linoid, linoid_slope

EPS = np.finfo(float).eps
VOLTAGES = np.array([-90.0, -65.0, -55.0, np.nextafter(-55, 0), -40.0, -40.0 + 1e-7, -35.0, -30.0, 0.0, 2.0, 45.0])


def neurons(bias, trainable=None):
    """Without synapses."""
    bias = np.atleast_1d(np.asarray(bias, dtype=float))
    return HodgkinHuxley(np.zeros((len(bias), 1)), np.zeros((len(bias), len(bias))), bias=bias, trainable=trainable)


def test_rates_that_are_quotients_of_zeros():
    near, far = np.linspace(-1.5, 1.5, 301), np.linspace(-40, 40, 161)
    a = np.concatenate([near, far, [1e-12, -1e-300, -700.0, 700.0]])
    assert np.abs(linoid(a) * exprel(-a) - 1).max() <= 6 * EPS  # four roundings, and two of the other function
    slopes = linoid(a[:-2] + 1e-30j).imag / 1e-30
    np.testing.assert_allclose(linoid_slope(a[:-2]), slopes, rtol=20 * EPS, atol=0)
    assert (linoid(np.zeros(1)), linoid_slope(np.zeros(1))) == (1, 0.5)


@pytest.mark.filterwarnings("error")
def test_rates_do_not_overflow():
    a = np.array([-1e300, -1e4, 1e4, 1e300])
    assert np.isfinite(linoid(a)).all()
    assert np.isfinite(linoid_slope(a)).all()


def plain_field(z, bias, weights=None):
    """The equations as the paper has them, for one trial, current outward and voltages shifted to rest at zero."""
    v, m, h, n, s = z.reshape(5, -1)
    u = v + 65
    sodium, potassium, leak = 120 * m**3 * h * (u - 115), 36 * n**4 * (u + 12), 0.3 * (u - 10.613)
    synaptic = 0 if weights is None else sum(g @ s[part] * (v - e) for g, part, e in weights)
    alphas = [0.1 * (25 - u) / np.expm1((25 - u) / 10), 0.07 * np.exp(-u / 20),
              0.01 * (10 - u) / np.expm1((10 - u) / 10)]  # fmt: skip
    betas = [4 * np.exp(-u / 18), 1 / (np.exp((30 - u) / 10) + 1), 0.125 * np.exp(-u / 80)]
    gates = [a * (1 - x) - b * x for a, b, x in zip(alphas, betas, (m, h, n), strict=True)]
    kinds = np.arange(len(v)) < len(v) - (0 if weights is None else weights[-1][0].shape[1] * (len(weights) - 1))
    rise, fall = np.where(kinds, 1.1, 5.0), np.where(kinds, 0.19, 0.18)
    opening = rise / (1 + np.exp(-(v - 2) / 5)) * (1 - s) - fall * s
    return np.concatenate([bias - sodium - potassium - leak - synaptic, *gates, opening])


def test_the_field_is_that_of_the_paper():
    rng, model = np.random.default_rng(0), HodgkinHuxley.init(2, 5, 0, gain=5.0, n_inhibitory=2)
    z = np.concatenate([rng.uniform(-90, 50, size=5), rng.random(20)])
    weights = (
        (model.parameters["weight_e"], slice(0, 3), 0.0), (model.parameters["weight_i"], slice(3, 5), -80.0)
    )  # fmt: skip
    x = rng.normal(size=2)
    wanted = plain_field(z, model.parameters["bias"] + model.parameters["weight_ih"] @ x, weights)
    # Some twenty roundings of terms below 120 * 140 in the currents, of terms below 60 elsewhere.
    assert np.abs(model.velocity(z, x) - wanted).max() <= 20 * EPS * 120 * 140


def test_derivatives_where_rates_are_limits():
    """By states, at voltages of all parts of a spike: each entry to its own size."""
    model = HodgkinHuxley.init(1, 3, 0, gain=5.0, n_inhibitory=1)
    rng, x = np.random.default_rng(0), np.ones((len(VOLTAGES), 1))
    z = np.concatenate([np.repeat(VOLTAGES[:, None], 3, axis=1), rng.random((len(VOLTAGES), 12))], axis=1)
    columns = [model.velocity(z + 1e-30j * unit, x).imag / 1e-30 for unit in np.eye(15)]
    # Differences of rates, and sums over synapses: a dozen roundings of the largest entry of a row.
    wanted = np.stack(columns, axis=-1)
    gap = np.abs(state_jacobians(model, z, x) - wanted).max(axis=2)
    assert (gap <= 12 * EPS * np.abs(wanted).max(axis=2)).all()


def test_rest():
    """Zero current at -65 mV takes a leak at 10.5989209693916 mV above it (Hendrick, doi:10.5281/zenodo.23047046)."""
    model = neurons(0.3 * (10.5989209693916 - 10.613))
    velocity = model.velocity(model.start, np.zeros(1))
    # Currents of some 4 uA/cm^2 in the sum, and the last digit of the published number.
    assert np.abs(velocity).max() <= 1e-13
    found = kpref.fixed_points(neurons(0.0), starts=neurons(0.0).start[None])
    assert found.kinds == ["stable"]
    assert found.points[0, 0] == pytest.approx(-65, abs=0.01)


def current_at(voltage):
    """The bias under which a neuron rests at a voltage, and the largest real part of the eigenvalues there."""
    model = neurons(0.0)
    z = model.clamped(voltage)
    bias = -model.velocity(z, np.zeros(1))[0]
    values = np.linalg.eigvals(state_jacobians(model, z[None], np.zeros((1, 1)))[0])
    return bias, values.real.max()


@pytest.mark.parametrize("low, high, published", [(-62, -58, 9.775437995393), (-48, -40, 154.522433665808)])
def test_rest_loses_and_regains_stability(low, high, published):
    """The two Hopf bifurcations, enclosed by Hendrick (doi:10.5281/zenodo.23047046); 9.78, 154.5 of Hassard (1978)."""
    voltage = brentq(lambda v: current_at(v)[1], low, high, xtol=1e-13)
    # The real part crosses zero at more than 1e-3 a mV, and rounds at some eps times the norm, 20: 1e-11 mV; a mV is
    # some 10 uA/cm^2.
    assert current_at(voltage)[0] == pytest.approx(published, abs=1e-9)


def test_firing_rates():
    """Class II: no lasting firing below a current of 6.26 (the fold of cycles: Rinzel and Miller, 1980), above 50 Hz.

    At 8 uA/cm^2 the period is between 16.0058 and 16.0140 ms (Hendrick, doi:10.5281/zenodo.23047046).
    """
    bias = np.array([5.8, 6.4, 8.0])
    model = neurons(bias)
    z0 = model.start.copy()
    z0[:3] = -40.0  # rest is stable too
    flow = kpref.Flow(model, np.zeros((1, 2, 1)), z0, times=[0, 90], method="dopri5", rtol=1e-5, atol=1e-5)
    spikes = [last_spikes(flow.solution, unit) for unit in range(3)]
    assert spikes[0][-1] < 60
    assert 1000 / np.diff(spikes[1]) == pytest.approx(53, abs=2)
    # What is left of the start falls by half with each spike; steps err by some 1e-5 of 16 ms.
    assert 16.0038 <= np.diff(spikes[2]) <= 16.0160


def last_spikes(solution, unit):
    """When 0 mV is crossed upwards for the last two times."""
    t, voltage = solution.t_steps, solution.z_steps[:, 0, unit]
    found = []
    for step in np.flatnonzero((voltage[:-1] < 0) & (voltage[1:] >= 0))[-2:]:
        times = np.linspace(t[step], t[step + 1], 33)
        found.append(np.interp(0, solution(times)[:, 0, unit], times))
    return np.array(found)


def test_the_shape_of_a_spike():
    """Against LSODA on the equations as the paper has them."""
    model, times = neurons(10.0), np.linspace(0, 8, 41)
    flow = kpref.Flow(model, np.zeros((1, 41, 1)), times=times, method="dopri5", rtol=1e-9, atol=1e-9)
    wanted = solve_ivp(
        lambda t, z: plain_field(z, 10.0), (0, times[-1]), model.start, "LSODA", times, rtol=1e-10, atol=1e-12
    )  # fmt: skip
    # Errors of 1e-9 of 100 mV at each of some hundred steps, and of the upstroke's time, at up to 400 mV/ms.
    assert np.abs(flow.states[0] - wanted.y.T).max() <= 1e-5
    assert 35 < flow.states[0, :, 0].max() < 45
    assert -77 < flow.states[0, :, 0].min() < -65  # beyond rest, but not beyond potassium


def test_K_on_synapses_is_gates_times_features():
    """As of an RNN: what the neurons send is shared by all that receive it, which differ in their gates alone."""
    model = HodgkinHuxley.init(2, 4, 0).with_trainable(["weight_e"])
    flow = kpref.Flow(model, 5 * np.random.default_rng(0).normal(size=(2, 7, 2)), dt=0.05, measure="sum")
    v, s = (flow.states[..., model.parts[name]] for name in "Vs")
    features = np.einsum("bts,cus->btcu", s, s)
    wanted = np.einsum("bti,cui,btcu->bticu", -v, -v, features)
    found = flow.K.to_dense().reshape(*flow.states.shape, *flow.states.shape)
    for unit in range(4):
        gap = found[:, :, unit, :, :, unit] - wanted[:, :, unit]
        assert np.abs(gap).max() <= 1e-13 * np.abs(wanted).max()
        found[:, :, unit, :, :, unit] = 0
    assert not found.any()
    exact = kpref.kernel_spectrum(flow)
    assert exact.trace == pytest.approx(np.einsum("btibt->", wanted), rel=1e-12)


def test_refusals():
    inputs, square = np.ones((3, 1)), np.ones((3, 3))
    for weights, message in (
        ({"weight_e": np.ones((3, 4))}, r"weight_e must have shape \(N, E\) with 1 <= E <= N; got \(3, 4\)"),
        ({"weight_e": np.ones((3, 2))}, r"weight_i must have shape \(3, 1\), .* leaves out; got None"),
        ({"weight_e": square, "weight_i": np.ones((3, 1))}, r"\(3, 0\), .*, so none must be given"),
        ({"weight_e": square, "g_k": np.ones(2)}, r"g_k must have shape \(3,\); got \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            HodgkinHuxley(inputs, **weights)
    with pytest.raises(ValueError, match="n_inhibitory must be less than n_units, 3; got 3"):
        HodgkinHuxley.init(1, 3, 0, n_inhibitory=3)


@pytest.mark.parametrize("inhibitory", [False, True])
def test_compiled_neurons_are_the_plain_ones(inhibitory, monkeypatch):
    """Voltages at the limits of the rates among them, and more neurons than are done at once.

    No coefficient is a difference: each is off by the roundings of a few products and rates, and by those of the
    argument of an exponential, at most 9 of them. A new state is a sum, off by those of its largest term.
    """
    units, rng = 130, np.random.default_rng(0)
    kind = kpref.models.registry.registered()["hodgkin-huxley"]
    model = kind.init(2, units, 0, 1.0, inhibitory=inhibitory)
    voltages = np.concatenate([VOLTAGES, rng.uniform(-100, 60, size=3 * units - len(VOLTAGES))]).reshape(3, units)
    states = np.concatenate([voltages, rng.uniform(0, 1, size=(3, 4 * units))], axis=1)
    inputs = rng.normal(size=(3, 2, 2))
    forms, moved = [], []
    for compiled in (True, False):
        if not compiled:
            for module in ("linearize", "runge_kutta"):
                monkeypatch.setattr(f"kpref.{module}.compiled_network", lambda model: None)
        forms.append(linearize.linearize(model, states[None], inputs[None, :, 0], np.float64))
        moved.append(kpref.Flow(model, inputs, states, dt=0.01, method="euler").states[:, 1])
    fast, plain = forms
    assert set(fast.places) == set(plain.places)
    for name in plain.places:
        np.testing.assert_allclose(fast.channel(name), plain.channel(name), rtol=64 * EPS, atol=0)
    for name in plain.known:
        np.testing.assert_allclose(fast.variable(name), plain.variable(name), rtol=64 * EPS, atol=0)
    largest = np.maximum(np.abs(states), 0.01 * 120 * 150)  # of the membrane: g_na (50 - V)
    assert (np.abs(moved[0] - moved[1]) <= 64 * EPS * largest).all()
