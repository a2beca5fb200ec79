"""Gated and oscillating networks against their published equations, written out once more unit by unit."""

import numpy as np
import pytest
from scipy.special import expit

import kpref
from kpref.models import MGU, UGRNN, AntisymmetricRNN, ContinuousGRU, CoRNN, ResetBeforeGRU

UNITS, INPUTS = 4, 3


def drawn(kind, **options):
    model = kind.init(INPUTS, UNITS, 1, **options)
    rng = np.random.default_rng(2)
    model = model.with_vector(rng.normal(size=model.n_parameters))
    return model, rng.normal(size=model.n_states), rng.normal(size=INPUTS)


def rows(matrix, vector, unit):
    return sum(matrix[unit, column] * vector[column] for column in range(len(vector)))


def gates(model, h, x, blocks):
    """Sums of the currents of these blocks, a list for each."""
    p = model.parameters
    currents = [
        rows(p["weight_hh"], h, row) + rows(p["weight_ih"], x, row) + p.get("bias", p.get("bias_ih"))[row]
        for row in range(blocks * UNITS)
    ]
    return np.reshape(currents, (blocks, UNITS))


def candidate(model, gated, x, block):
    p = model.parameters
    own = range(block * UNITS, (block + 1) * UNITS)
    return np.tanh([rows(p["weight_hh"], gated, k) + rows(p["weight_ih"], x, k) + p["bias"][k] for k in own])


def cho(model, h, x):
    r, u = expit(gates(model, h, x, 2))
    return u * h + (1 - u) * candidate(model, r * h, x, 2)


def zhou(model, h, x):
    (f,) = expit(gates(model, h, x, 1))
    return (1 - f) * h + f * candidate(model, f * h, x, 1)


def collins(model, h, x):
    n, g = gates(model, h, x, 2)
    return expit(g) * h + (1 - expit(g)) * np.tanh(n)


def rusch(model, state, x):
    p, (y, z) = model.parameters, np.split(state, 2)
    force = [
        np.tanh(
            rows(p["weight_yh"], y, k) + rows(p["weight_zh"], z, k) + rows(p["weight_ih"], x, k) + p["bias"][k]
        )
        for k in range(UNITS)
    ]  # fmt: skip
    z = z + 0.042 * (np.array(force) - 2.7 * y - 4.7 * z)
    return np.concatenate([y + 0.042 * z, z])


def chang(model, h, x):
    p, new = model.parameters, []
    for i in range(UNITS):
        a = sum((p["weight_hh"][i, j] - p["weight_hh"][j, i] - 0.01 * (i == j)) * h[j] for j in range(UNITS))
        new.append(h[i] + 0.1 * np.tanh(a + rows(p["weight_ih"], x, i) + p["bias"][i]))
    return np.array(new)


@pytest.mark.parametrize(
    "kind, step",
    [(ResetBeforeGRU, cho), (MGU, zhou), (UGRNN, collins), (CoRNN, rusch), (AntisymmetricRNN, chang)],
)
def test_one_step_is_that_of_the_paper(kind, step):
    model, z, x = drawn(kind)
    # Sums of at most 12 products of numbers below 4, then functions of slope at most one.
    assert np.abs(model.step(z, x) - step(model, z, x)).max() <= 2e-14


def test_euler_steps_of_the_continuous_unit_are_the_discrete_and_the_leaky_one():
    tau = 0.3
    discrete, _, _ = drawn(ResetBeforeGRU)
    field = ContinuousGRU(**discrete.parameters, tau=tau)
    rng = np.random.default_rng(3)
    inputs, z0 = rng.normal(size=(2, 6, INPUTS)), rng.normal(size=(2, UNITS))
    flow = kpref.Flow(field, inputs, z0=z0, dt=tau, method="euler")
    wanted = kpref.Flow(discrete, inputs[:, :5], z0=z0)
    assert np.abs(flow.states[:, 1:] - wanted.states).max() <= 1e-13  # 5 steps, sums of a dozen terms of O(1)
    direction = rng.normal(size=discrete.n_parameters)
    assert np.abs(flow.D(direction)[:, 1:] - wanted.D(direction)).max() <= 1e-12
    alpha, (h, x) = 0.2, (z0[0], inputs[0, 0])
    leaky = kpref.Flow(field, inputs, z0=z0, dt=alpha * tau, method="euler").states[0, 1]
    assert np.abs(leaky - ((1 - alpha) * h + alpha * cho(discrete, h, x))).max() <= 1e-14


def test_time_constants_one_a_unit_scale_the_velocity():
    model, z, x = drawn(ContinuousGRU)
    tau = np.linspace(0.5, 2, UNITS)
    other = ContinuousGRU(**model.parameters, tau=tau)
    assert np.abs(other.velocity(z, x) * tau - model.velocity(z, x)).max() <= 1e-15
    with pytest.raises(ValueError, match="tau must be positive; got -1"):
        ContinuousGRU(**model.parameters, tau=-1.0)
    with pytest.raises(ValueError, match=r"tau must be a number or have shape \(4,\); got shape \(3,\)"):
        ContinuousGRU(**model.parameters, tau=np.ones(3))


def test_an_antisymmetric_network_keeps_the_size_of_small_states():
    """Its linear part is antisymmetric less gamma: eigenvalues of a step are ``1 + epsilon (i w - gamma)``."""
    model, _, _ = drawn(AntisymmetricRNN, epsilon=0.5)
    still = model.with_parameters({"bias": np.zeros(UNITS)})
    columns = still.step(1e-30j * np.eye(UNITS), np.zeros((UNITS, INPUTS))).imag.T / 1e-30
    values = np.linalg.eigvals(columns)
    assert np.abs(values.real - (1 - 0.5 * 0.01)).max() <= 1e-14
    weight = still.parameters["weight_hh"]
    frequencies = np.linalg.eigvalsh(1j * (weight - weight.T))
    assert np.abs(np.sort(values.imag) - 0.5 * frequencies).max() <= 1e-14


def test_free_oscillators_turn_at_their_frequency_and_lose_area_by_damping_alone():
    """Without currents each unit is linear: the determinant of a step is ``1 - epsilon dt``, the trace shows gamma."""
    model = CoRNN.init(1, 1, 0, gain=0.0, bias=False, dt=0.1, gamma=2.0, epsilon=0.5)
    step = model.step(1e-30j * np.eye(2), np.zeros((2, 1))).imag.T / 1e-30
    assert np.linalg.det(step) == pytest.approx(1 - 0.05, rel=1e-14)
    assert np.trace(step) == pytest.approx(2 - 0.05 - 2.0 * 0.01, rel=1e-14)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CoRNN.init(1, 2, 0, dt=0.0), "dt must be a finite number above 0"),
        (lambda: CoRNN.init(1, 2, 0, epsilon=-1.0), "epsilon must be"),
        (lambda: CoRNN(np.ones((2, 1)), np.eye(2), np.eye(3)), r"weight_zh must have shape \(2, 2\); got \(3, 3\)"),
        (lambda: CoRNN(np.ones((2, 1)), None, np.eye(2)), "CoRNN needs weight_yh; got None"),
        (lambda: AntisymmetricRNN.init(1, 2, 0, epsilon=0.0), "epsilon must be a finite number above 0"),
        (lambda: AntisymmetricRNN.init(1, 2, 0, gamma=-0.1), "gamma must be"),
        (lambda: MGU(np.ones((6, 1)), np.ones((6, 2))), r"weight_ih must have shape \(4, 1\); got \(6, 1\)"),
        (lambda: ResetBeforeGRU(np.ones((6, 1)), np.ones((6, 2)), np.ones(4)), r"bias must have shape \(6,\)"),
        (lambda: UGRNN(np.ones((4, 1)), None), "UGRNN needs weight_hh; got None"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
