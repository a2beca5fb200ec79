"""Lyapunov exponents, growth and norms of P: known systems, dense products, and a QR sweep written independently."""

import numpy as np
import pytest
from conftest import PROFILE
from continuous import fields
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, examples, flows, make_flow, weights

from kpref import Flow, get_num_threads, models, set_num_threads
from kpref.kernels import reference
from kpref.spectra.lyapunov import TooShort, lyapunov_exponents, propagator_growth, trial_norms


def first_frame(units, k, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((units, k)))[0]


def from_start(flow):
    """Phi(n, 0) for each trial and row, (B, T, H, H), from the derivative by initial states."""
    trials, steps, units = flow.states.shape
    dense = flow.D_z0.to_dense().reshape(trials, steps, units, trials, units)
    return np.stack([dense[trial, :, :, trial] for trial in range(trials)])


def test_lorenz():
    starts = np.array([1.0, 1.0, 20.0]) + 3.0 * np.random.default_rng(0).normal(size=(64, 3))
    flow = Flow(models.Lorenz63(), None, starts, times=0.02 * np.arange(5001))
    found = lyapunov_exponents(flow, discard=500)
    # Sprott, Chaos and Time-Series Analysis (2003): 0.9056, 0, -14.5723. 1 % is three standard errors here.
    np.testing.assert_allclose(found.mean[[0, 2]], [0.9056, -14.5723], rtol=0.01)
    assert abs(found.mean[1]) < 0.01
    assert (found.standard_error < 0.006).all()
    low, high = found.interval()
    assert (low < [0.9066, 0.0, -14.5713]).all()
    assert (high > [0.9046, 0.0, -14.5733]).all()
    assert (np.abs(found.mean - [0.9056, 0.0, -14.5723]) < 5 * found.standard_error + 0.001).all()


def rate_by_hand(weight, start, h, steps, frame):
    """Variational equation of ``dz/dt = -z + W tanh(z)`` by classical Runge-Kutta, with a QR after every step."""

    def slope(z, tangent):
        return weight @ np.tanh(z) - z, (weight / np.cosh(z) ** 2 - np.eye(len(z))) @ tangent

    z, total = start, np.zeros(frame.shape[1])
    for _ in range(steps):
        k1, q1 = slope(z, frame)
        k2, q2 = slope(z + h / 2 * k1, frame + h / 2 * q1)
        k3, q3 = slope(z + h / 2 * k2, frame + h / 2 * q2)
        k4, q4 = slope(z + h * k3, frame + h * q3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        frame, triangle = np.linalg.qr(frame + h / 6 * (q1 + 2 * q2 + 2 * q3 + q4))
        total += np.log(np.abs(np.diagonal(triangle)))
    return total / (h * steps)


def test_chaotic_network_against_an_independent_sweep():
    units, steps, h = 12, 600, 0.05
    field = models.Rate.init(1, units, 3, gain=3.0)
    starts = np.random.default_rng(1).normal(size=(3, units))
    flow = Flow(field, np.zeros((3, steps + 1, 1)), starts, dt=h)
    found = lyapunov_exponents(flow)
    for trial in range(3):
        by_hand = rate_by_hand(field.parameters["weight_hh"], starts[trial], h, steps, first_frame(units, units))
        # Rounding, 1e-16, grows by exp(0.5 * 30) at most along the trajectory.
        np.testing.assert_allclose(found.values[trial], by_hand, rtol=0, atol=1e-9)
    assert found.values[:, 0].max() > 0.03  # chaos


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_linear_system_has_the_real_parts_of_its_eigenvalues(method):
    rates, h = np.array([0.6, -0.1, -0.9, -2.0]), 0.05
    shape = np.random.default_rng(0).normal(size=(4, 4)) + 3.0 * np.eye(4)
    field = models.LinearSystem(np.zeros((4, 1)), shape @ np.diag(rates) @ np.linalg.inv(shape))
    flow = Flow(field, np.zeros((2, 1001, 1)), np.zeros((2, 4)), dt=h, method=method)
    # What a step of the method multiplies each eigenvector by: the truncated exponential series, to its order.
    orders = {"euler": 1, "rk4": 4}
    if method in orders:
        terms = np.array([(h * rates) ** n / np.prod(np.arange(1, n + 1)) for n in range(orders[method] + 1)])
        expected = np.log(np.abs(terms.sum(axis=0))) / h
    else:
        expected = rates
    # The frame has aligned by exp(-0.7 * 25) after 500 steps; dopri5 has an error of (h rate)^6 / h, 2e-5 * 0.1 ** 6.
    values = lyapunov_exponents(flow, discard=500).values
    np.testing.assert_allclose(values, np.broadcast_to(expected, (2, 4)), atol=1e-7 if method != "dopri5" else 1e-5)


def test_linear_map_has_the_logarithms_of_its_eigenvalues():
    factors = np.array([1.3, -0.9, 0.4])
    shape = np.random.default_rng(2).normal(size=(3, 3)) + 3.0 * np.eye(3)
    model = models.Linear(np.zeros((3, 1)), shape @ np.diag(factors) @ np.linalg.inv(shape))
    flow = Flow(model, np.zeros((1, 200, 1)))
    # The frame has aligned by (0.9 / 1.3)^100 after 100 steps.
    values = lyapunov_exponents(flow, discard=100).values[0]
    np.testing.assert_allclose(values, np.log(np.abs(factors)), atol=1e-12)


@examples(15)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_sum_of_exponents_of_a_map_is_the_growth_of_volumes(kind, data):
    flow, _ = data.draw(flows(kind, max_states=6))
    form = flow.linearization
    steps = [reference.state_jacobian(form, step) for step in range(form.n_steps)]
    matrices = np.array([np.broadcast_to(step, (form.n_trials, *step.shape[-2:])) for step in steps])
    expected = np.linalg.slogdet(matrices)[1].mean(axis=0)
    # Each log |R_ii| is right to the condition of its A times the rounding unit.
    bound = 1e-13 * np.linalg.cond(matrices).max()
    np.testing.assert_allclose(lyapunov_exponents(flow).values.sum(axis=1), expected, rtol=1e-12, atol=bound)


@pytest.mark.parametrize("kind", ["Rate-tanh-per unit", "LinearSystem", "VanDerPol", "Lorenz63"])
def test_sum_of_exponents_of_a_field(kind):
    flow = fields.make_flow(kind, "dopri5", (2, 12, 4), dt=0.02)
    volumes = np.linalg.slogdet(from_start(flow)[:, -1])[1]
    times = flow.solution.times
    found = lyapunov_exponents(flow)
    sums = found.values.sum(axis=1) * (times[-1] - times[0])
    np.testing.assert_allclose(sums, volumes, atol=1e-12)  # the discrete flow, to rounding
    if kind == "Lorenz63":  # the trace is a constant; the method's error is (0.02 * 20)^6 / 720 a step and below
        trace = -(flow.model.parameters["sigma"] + 1.0 + flow.model.parameters["beta"])
        np.testing.assert_allclose(found.values.sum(axis=1), trace, rtol=1e-4)


def test_adaptive_steps_and_segments(monkeypatch):
    monkeypatch.setattr("kpref.runge_kutta._SEGMENT_ENTRIES", 100)  # a few steps each
    flow = fields.make_flow("Rate-tanh", "dopri5", (2, 15, 4), rtol=1e-8, atol=1e-8)
    assert len(flow.solution.interval) > 15
    matrices = from_start(flow)
    span = flow.solution.times - flow.solution.times[0]
    found = lyapunov_exponents(flow, every=4)
    np.testing.assert_allclose(found.times, flow.solution.times[[4, 8, 12, 15]])
    np.testing.assert_allclose(
        found.values.sum(axis=1) * span[-1], np.linalg.slogdet(matrices[:, -1])[1], atol=1e-12
    )  # fmt: skip
    np.testing.assert_allclose(propagator_growth(flow), np.log(np.linalg.norm(matrices, 2, axis=(2, 3))), atol=1e-12)


@pytest.mark.parametrize("kind", ["GRU", "LeakyRNN-softplus"])
def test_intervals_and_fewer_vectors_do_not_matter(kind):
    flow = make_flow(kind, (3, 40, 6), gain=1.4)
    by_default = lyapunov_exponents(flow)
    assert len(by_default.times) == 40  # a record of each row, where there are few
    for every in (1, 3):
        # In an interval lengths come apart by 1e4 or so: 1e-16 * 1e4 a step.
        np.testing.assert_allclose(lyapunov_exponents(flow, every=every).values, by_default.values, atol=1e-10)
    every_step = lyapunov_exponents(flow, every=1)
    assert every_step.running.shape == (3, 40, 6)
    np.testing.assert_array_equal(every_step.running[:, -1], every_step.values)
    # Columns of a QR decomposition do not depend on those to their right, but first frames do on k.
    two = lyapunov_exponents(flow, 2, every=1)
    frame = first_frame(6, 2)
    for trial in range(3):
        q, logs = frame, np.zeros(2)
        for step in range(40):
            matrix = np.broadcast_to(reference.state_jacobian(flow.linearization, step), (3, 6, 6))[trial]
            q, r = np.linalg.qr(matrix @ q)
            logs += np.log(np.abs(np.diagonal(r)))
            np.testing.assert_allclose(two.running[trial, step], logs / (step + 1), atol=1e-12)


def test_discarded_rows_do_not_count():
    flow = make_flow("GRU", (2, 30, 4))
    whole, rest = lyapunov_exponents(flow, every=5), lyapunov_exponents(flow, discard=10, every=5)
    np.testing.assert_array_equal(rest.times, [15, 20, 25, 30])
    difference = 30 * whole.running[:, -1] - 10 * whole.running[:, 1]
    np.testing.assert_allclose(20 * rest.values, difference, atol=1e-12)


@pytest.mark.parametrize("trials", [1, 3, 20])
def test_errors_over_trials(trials):
    found = lyapunov_exponents(make_flow("GRU", (trials, 48, 3)), every=1)
    np.testing.assert_allclose(found.mean, found.values.mean(axis=0))
    if trials == 1:
        assert np.isnan(found.trial_error).all()
    else:
        expected = found.values.std(axis=0, ddof=1) / np.sqrt(trials)
        np.testing.assert_allclose(found.trial_error, expected, rtol=1e-9)
    if trials == 20:  # the mean over all rows, and the estimate of what it tends to
        distance = found.mean - [float(estimate) for estimate in found.estimates]
        errors = [estimate.standard_error for estimate in found.estimates]
        np.testing.assert_allclose(found.standard_error, np.hypot(distance, errors))


def linear_map(seed):
    """Eigenvalues as they come, some of them in pairs; and the logarithms of their moduli."""
    weight = np.random.default_rng(seed).normal(size=(5, 5)) / 2
    model = models.Linear(np.zeros((5, 1)), weight)
    return model, np.sort(np.log(np.abs(np.linalg.eigvals(weight))))[::-1]


@pytest.mark.parametrize("every", [None, 8, 64])
def test_frames_that_are_made_orthonormal_too_seldom_are_done_again(every):
    """Lengths come apart by a factor 5 a step: after 32 steps nothing would be left of the last two directions."""
    model, exact = linear_map(0)
    found = lyapunov_exponents(Flow(model, np.zeros((1, 4000, 1))), discard=2000, every=every)
    if every is not None:
        assert (np.diff(found.times) <= every).all()
    # The pairs oscillate, by a bounded amount over 2000 steps.
    np.testing.assert_allclose(found.values[0], exact, atol=2e-3)
    low, high = found.interval()
    assert (low <= exact + 1e-13).all()  # what `eigvals` itself may be off by
    assert (exact <= high + 1e-13).all()
    assert (high - low < 5e-3).all()


DISCARDS = (None, 0, 50)


@pytest.mark.parametrize("turn", range(3 if PROFILE == "thorough" else 1))
def test_intervals_of_constant_maps_cover(turn):
    """Nothing is random here but the frame: what is left is the transient, and oscillations of pairs."""
    told = 0
    for seed in range(8):
        discard = DISCARDS[(seed + turn) % 3]
        model, exact = linear_map(seed)
        found = lyapunov_exponents(Flow(model, np.zeros((2, 400, 1))), discard=discard, seed=seed)
        try:
            low, high = found.interval()
        except TooShort:  # of a pair that takes a hundred steps for a turn
            continue
        told += 1
        assert (low <= exact + 1e-13).all()
        assert (exact <= high + 1e-13).all()
        # Two equal trials are not two samples: the error of the mean is no rounding error.
        assert (np.abs(found.mean - exact) <= 3 * found.standard_error + 1e-12).all()
    assert told >= 5


def test_a_stretch_that_is_too_short_is_refused_in_words():
    flow = make_flow("GRU", (2, 20, 4))
    found = lyapunov_exponents(flow)
    assert np.isfinite(found.values).all()
    assert np.isnan(found.standard_error).all()
    with pytest.raises(TooShort, match="2 trials of length .* are too few and too short .* it takes a length of about"):
        found.interval()
    assert lyapunov_exponents(make_flow("GRU", (8, 20, 4))).interval()[0].shape == (4,)
    with pytest.raises(TooShort):
        _ = lyapunov_exponents(make_flow("GRU", (1, 1, 3))).estimates


def test_fewer_exponents_are_the_first_ones():
    flow = make_flow("GRU", (8, 60, 6), gain=1.4)
    some, more = lyapunov_exponents(flow, 2), lyapunov_exponents(flow, 3)
    assert some.values.shape == (8, 2)
    assert len(some.estimates) == 2
    # Other first frames, of the same trajectories: estimates differ by what their intervals allow for.
    for one, other in zip(some.estimates, more.estimates, strict=False):
        assert abs(one.value - other.value) < one.standard_error + other.standard_error


def test_singular_maps_and_single_steps():
    silent = models.RNN(np.zeros((3, 1)), np.eye(3), -np.ones(3), nonlinearity="relu")
    flow = Flow(silent, np.zeros((1, 4, 1)))  # no unit is ever active: A = 0
    assert np.isneginf(lyapunov_exponents(flow).values).all()
    assert np.isneginf(propagator_growth(flow)).all()
    assert all(estimate.value == -np.inf for estimate in lyapunov_exponents(flow).estimates)
    assert np.isnan(lyapunov_exponents(make_flow("GRU", (1, 1, 3))).standard_error).all()


@examples(15)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_propagator_growth_is_the_norm_of_the_product(kind, data):
    flow, _ = data.draw(flows(kind, max_states=6))
    expected = np.log(np.linalg.norm(from_start(flow), 2, axis=(2, 3)))
    np.testing.assert_allclose(propagator_growth(flow), expected, atol=1e-11)


def test_growth_does_not_overflow():
    flow = Flow(models.Linear(np.zeros((2, 1)), np.diag([1e3, 1.0])), np.zeros((1, 300, 1)))
    np.testing.assert_allclose(propagator_growth(flow)[0], np.arange(1, 301) * np.log(1e3), rtol=1e-13)
    assert lyapunov_exponents(flow, discard=10).values[0] == pytest.approx([np.log(1e3), 0.0], abs=1e-9)


@examples(15)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_trial_norms_are_the_singular_values_of_each_block(kind, data):
    flow, _ = data.draw(flows(kind, max_states=6))
    trials, steps, units = flow.states.shape
    root = np.sqrt(weights(flow.space).ravel())
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    dense = (root[:, None] * flow.P.to_dense() * inverse).reshape(trials, steps * units, trials, -1)
    expected = [np.linalg.norm(dense[trial, :, trial], 2) for trial in range(trials)]
    # The residual bounds the relative error of the squares by 1e-6.
    np.testing.assert_allclose(trial_norms(flow), expected, rtol=1e-6)


def test_trial_norms_of_a_field_and_of_unequal_trials():
    flow = fields.make_flow("Rate-tanh", shape=(3, 10, 30), gain=1.5)
    root = np.sqrt(weights(flow.space).ravel())
    dense = (root[:, None] * flow.P.to_dense() / root).reshape(3, 330, 3, 330)
    expected = [np.linalg.norm(dense[trial, :, trial], 2) for trial in range(3)]
    np.testing.assert_allclose(trial_norms(flow), expected, rtol=1e-6)
    # One trial where units are silent, P = I, beside one that grows: its own block decides each norm.
    model = models.RNN(np.ones((2, 1)), 1.5 * np.eye(2), nonlinearity="relu")
    flow = Flow(model, np.array([np.full((8, 1), -10.0), np.full((8, 1), 1.0)]), np.full((2, 2), -1.0))
    norms = trial_norms(flow)
    assert norms[0] == pytest.approx(1.0, abs=1e-9)
    assert norms[1] > 1.5**6


def test_trial_norms_where_the_process_must_restart():
    # Singular values of a long, fast forgetting P crowd at the edge, 1 / (1 - 0.7); trial 1 is masked out.
    model, steps = models.Linear(np.zeros((2, 1)), np.diag([0.7, 0.69])), 150
    flow = Flow(model, np.zeros((3, steps, 1)), measure=np.array([[1.0], [0.0], [3.0]]))
    lags = np.subtract.outer(np.arange(steps), np.arange(steps))
    expected = np.linalg.norm(np.where(lags >= 0, 0.7 ** np.maximum(lags, 0), 0.0), 2)
    np.testing.assert_allclose(trial_norms(flow), [expected, 0.0, expected], rtol=1e-6)


def test_threads_and_precision():
    flow, threads = make_flow("GRU", (5, 30, 8)), get_num_threads()
    try:
        set_num_threads(1)
        one = lyapunov_exponents(flow).values, propagator_growth(flow), trial_norms(flow)
        set_num_threads(3)
        three = lyapunov_exponents(flow).values, propagator_growth(flow), trial_norms(flow)
    finally:
        set_num_threads(threads)
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    single = make_flow("GRU", (5, 30, 8), dtype=np.float32)
    # Single precision, 6e-8, times the 64 by which lengths come apart in an interval and the sums over 30 steps.
    np.testing.assert_allclose(lyapunov_exponents(single).values, one[0], atol=1e-4)


def test_refusals():
    flow = make_flow("GRU", (2, 10, 4))
    for k in (0, 5, 2.0, True):
        with pytest.raises((ValueError, TypeError), match="k must be an integer of at least 1 and at most 4"):
            lyapunov_exponents(flow, k)
    for discard in (-1, 10, 0.5):
        with pytest.raises((ValueError, TypeError), match="discard must be an integer of at least 0 and at most 9"):
            lyapunov_exponents(flow, discard=discard)
    for every in (0, 11, "a"):
        with pytest.raises((ValueError, TypeError), match="every must be an integer of at least 1 and at most 10"):
            lyapunov_exponents(flow, every=every)
    for function in (lyapunov_exponents, trial_norms):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0; got -1"):
            function(flow, seed=-1)
    with pytest.raises(ValueError, match="tol must be a finite number above 0; got nan"):
        trial_norms(flow, tol=np.nan)
    with pytest.raises(ValueError, match="level must be a finite number above 0 and below 1"):
        lyapunov_exponents(make_flow("GRU", (8, 10, 4))).interval(1.0)
    wild = Flow(models.Linear(np.zeros((2, 1)), 1e308 * np.array([[1.0, 1.0], [1.0, -1.0]])), np.zeros((1, 4, 1)))
    with pytest.raises(ValueError, match="the frame of trial 0 overflows within one step, before t = 2"):
        lyapunov_exponents(wild)
    large = Flow(models.Linear(np.zeros((2, 1)), 1e200 * np.eye(2)), np.zeros((1, 4, 1)))
    assert lyapunov_exponents(large, every=4).values[0] == pytest.approx(200 * np.log(10) * np.ones(2))
