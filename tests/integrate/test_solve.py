from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from kpref.integrate import TABLEAUS, InputSignal, IntegrationError, adaptive, fixed_steps
from kpref.integrate.step_control import landing_step

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ADAPTIVE = ["bosh3", "dopri5", "tsit5", "dop853"]

every_method = pytest.mark.parametrize("name", TABLEAUS)
every_pair = pytest.mark.parametrize("name", ADAPTIVE)


ECCENTRICITIES = np.array([0.1, 0.3])


def orbits(t, z, interval):
    """Two Kepler orbits under an uneven clock, tau = t + sin(t) / 2: nonlinear, nonautonomous, and solvable."""
    position, velocity = z[:, :2], z[:, 2:]
    pull = -position / np.sum(position**2, axis=1, keepdims=True) ** 1.5
    return (1.0 + 0.5 * np.cos(t)) * np.concatenate([velocity, pull], axis=1)


def orbits_solution(t):
    """Its solution at times (...), shape (..., 2, 4), by Newton's method on Kepler's equation E - e sin E = tau."""
    tau = np.asarray(t)[..., None] + 0.5 * np.sin(t)[..., None]
    anomaly = tau + ECCENTRICITIES * np.sin(tau)
    for _ in range(10):
        residual = anomaly - ECCENTRICITIES * np.sin(anomaly) - tau
        anomaly = anomaly - residual / (1.0 - ECCENTRICITIES * np.cos(anomaly))
    width, rate = np.sqrt(1.0 - ECCENTRICITIES**2), 1.0 / (1.0 - ECCENTRICITIES * np.cos(anomaly))
    cos, sin = np.cos(anomaly), np.sin(anomaly)
    return np.stack([cos - ECCENTRICITIES, width * sin, -sin * rate, width * cos * rate], axis=-1)


START = orbits_solution(0.0)
STEPS = {1: (1000, 2000), 2: (400, 800), 3: (200, 400), 4: (200, 400), 5: (300, 450), 8: (15, 30)}
"""Steps over [0, 2] by order: many enough for the leading term of the error, too few for rounding to show."""


def rotation(t, z, interval):
    return np.stack([z[:, 1], -z[:, 0]], axis=1)


def rms(error):
    return np.sqrt(np.mean(np.square(error)))


def slope(steps, errors):
    """Exponent by which errors fall with the number of steps."""
    return np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0])


class TestOrder:
    @every_method
    def test_states_converge_at_the_order_of_the_method(self, name):
        steps = STEPS[TABLEAUS[name].order]
        errors = []
        for n in steps:
            solution = fixed_steps(orbits, np.linspace(0.0, 2.0, n + 1), START, name)
            errors.append(rms(solution.states - orbits_solution(solution.times)))
        assert abs(slope(steps, errors) - TABLEAUS[name].order) < 0.15

    @every_method
    def test_dense_output_does_not_lower_the_order(self, name):
        """An interpolant of order q errs by O(h^{q+1}), no worse than the O(h^p) of the steps for q = p - 1."""
        assert TABLEAUS[name].dense_order >= TABLEAUS[name].order - 1
        steps = STEPS[TABLEAUS[name].order]
        errors = []
        for n in steps:
            solution = fixed_steps(orbits, np.linspace(0.0, 2.0, n + 1), START, name)
            # Fifteen steps of them all, at fractions that no interpolant is known to favour.
            t = (np.arange(0, n, n // 15)[:, None] + [0.21, 0.47, 0.74]).reshape(-1) * 2.0 / n
            errors.append(rms(solution(t) - orbits_solution(t)))
        assert abs(slope(steps, errors) - TABLEAUS[name].order) < 0.15


class TestFixedSteps:
    @pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "ralston", "bosh3", "rk4", "rk38", "dopri5"])
    def test_golden_states(self, name):
        with np.load(GOLDEN / f"rk_{name}.npz") as stored:
            data = dict(stored)
        w, u, b = (data[f"param_{key}"] for key in ("weight_hh", "weight_ih", "bias"))
        n = data["inputs"].shape[1]
        times = data["dt"] * np.arange(n + 1)
        signal = InputSignal(times, np.pad(data["inputs"], ((0, 0), (0, 1), (0, 0))))

        def rhs(t, z, interval):
            return (-z + np.tanh(z) @ w.T + signal(t, interval) @ u.T + b) / data["tau"]

        solution = fixed_steps(rhs, times, data["z0"], name)
        assert solution.n_evaluations == n * TABLEAUS[name].stages
        error = np.abs(solution.states[1:].transpose(1, 0, 2) - data["states"]).max()
        assert error < 1e-13 * np.abs(data["states"]).max()

    @every_method
    def test_stages_are_those_of_the_steps(self, name):
        tableau = TABLEAUS[name]
        times = np.array([0.0, 0.1, 0.25, 0.3])
        solution = fixed_steps(orbits, times, START, name)
        for n in range(3):
            k, z = solution.stage_derivatives(n), solution.stage_states(n)
            assert k.shape == z.shape == (tableau.stages, 2, 4)
            h = solution.h[n]
            # Sums of up to 12 terms in another order.
            step = solution.states[n] + h * np.tensordot(tableau.b, k, axes=1)
            np.testing.assert_allclose(solution.states[n + 1], step, rtol=1e-14)
            for i in range(tableau.stages):
                np.testing.assert_array_equal(k[i], orbits(times[n] + tableau.c[i] * h if i else times[n], z[i], n))

    def test_linear_systems_against_the_matrix_exponential(self):
        matrix = np.random.default_rng(1).normal(size=(5, 5))
        z0 = np.random.default_rng(2).normal(size=(3, 5))
        solution = fixed_steps(lambda t, z, interval: z @ matrix.T, np.linspace(0.0, 1.0, 41), z0, "dop853")
        exact = z0 @ expm(matrix).T
        # The local error (h |A|)^9 / 9! is below 1e-14 at h = 1/40; 40 steps round 40 times.
        assert np.max(np.abs(solution.states[-1] - exact)) < 100 * np.finfo(float).eps * np.exp(
            np.linalg.norm(matrix, 2)
        )

    def test_complex_states_differentiate(self):
        """A step of 1e-200 along i gives the derivative by z0 without cancellation: that of a quarter turn."""
        z0 = np.array([[1.0, 0.0]]) + 1e-200j * np.array([[0.3, -0.4]])
        solution = fixed_steps(rotation, np.linspace(0.0, np.pi / 2, 101), z0, "dop853")
        np.testing.assert_allclose(solution.states[-1].imag * 1e200, [[-0.4, -0.3]], rtol=0, atol=1e-14)

    def test_an_input_that_jumps_is_met_exactly(self):
        """Held inputs integrate to the sum of their rectangles: the stage at the end of a step has the step's input."""
        times = np.array([0.0, 0.5, 0.75, 2.0])
        samples = np.array([[[1.0], [-2.0], [4.0], [np.pi]]])
        signal = InputSignal(times, samples)
        for name in TABLEAUS:
            solution = fixed_steps(lambda t, z, interval: signal(t, interval), times, [[0.0]], name)
            np.testing.assert_allclose(solution.states[:, 0, 0], [0.0, 0.5, 0.0, 5.0], rtol=0, atol=4e-15)

    def test_blow_up_names_trial_time_and_state(self):
        with pytest.raises(
            IntegrationError, match="blows up in finite time.*trial 1, last accepted state at t = "
        ) as caught:
            fixed_steps(lambda t, z, interval: z**2, np.linspace(0.0, 3.0, 31), [[0.1], [1.0]], "rk4")
        assert caught.value.trial == 1
        assert 1.0 <= caught.value.time < 1.5
        assert caught.value.state.shape == (1,)
        assert caught.value.state[0] > 10.0

    def test_derivatives_that_are_not_numbers(self):
        def rhs(t, z, interval):
            return np.where(t > 0.5, np.nan, 1.0) * np.array([[0.0, 0.0], [0.0, 1.0]]) + z * 0.0

        with pytest.raises(IntegrationError, match="not a number.*trial 0, last accepted state at t = 0.5") as caught:
            fixed_steps(rhs, [0.0, 0.5, 1.0], np.ones((2, 2)), "heun")
        np.testing.assert_array_equal(caught.value.state, [1.0, 1.0])

    @pytest.mark.parametrize(
        "times, z0, message",
        [
            ([0.0], [[1.0, 0.0]], "at least two times"),
            ([0.0, 1.0, 0.5], [[1.0, 0.0]], r"increase strictly, got times\[2\] = 0.5"),
            ([0.0, 1.0], [1.0, 0.0], r"z0, the initial states, must have shape \(B, H\) .* got \(2,\)"),
            ([0.0, 1.0], np.zeros((0, 2)), "B and H at least 1"),
            ([0.0, 1.0], [[1.0, np.inf]], "z0 holds inf at trial 0, unit 1"),
        ],
    )
    def test_bad_input_is_refused(self, times, z0, message):
        for solve in (fixed_steps, adaptive):
            with pytest.raises(ValueError, match=message):
                solve(rotation, times, z0, "dopri5")

    def test_derivatives_of_the_wrong_shape_are_refused(self):
        with pytest.raises(ValueError, match=r"return the shape of the states, \(1, 2\), got \(1,\) at t = 0.0"):
            fixed_steps(lambda t, z, interval: z[:, 0], [0.0, 1.0], [[1.0, 0.0]], "rk4")


class TestAdaptive:
    @every_pair
    @pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
    def test_error_follows_the_tolerance(self, name, tolerance):
        solution = adaptive(orbits, [0.0, 2.0], START, name, rtol=tolerance, atol=tolerance)
        error = np.abs(solution.states[-1] - orbits_solution(2.0))
        # Each step errs by at most the tolerance (as estimated, for the less accurate of two solutions); the flow along
        # these orbits, within their first third, stretches errors less than tenfold.
        assert np.max(error / (1.0 + np.abs(solution.states[-1]))) < 10.0 * tolerance * len(solution.h)
        assert solution.n_evaluations < (20_000 if name == "bosh3" else 3_000)

    @every_pair
    def test_evaluations_are_counted(self, name):
        calls = []

        def rhs(t, z, interval):
            calls.append(t)
            return rotation(t, z, interval)

        solution = adaptive(rhs, [0.0, 10.0], [[1.0, 0.0]], name, rtol=1e-6, first_step=5.0)
        assert solution.n_evaluations == len(calls)
        attempts = len(solution.h) + solution.n_rejected
        assert solution.n_rejected > 0
        tableau = TABLEAUS[name]
        if tableau.fsal:
            assert len(calls) == 1 + attempts * tableau.stages
        else:
            # The first derivative, s - 1 per attempt, and one at the end of each accepted step but the last.
            assert len(calls) == attempts * (tableau.stages - 1) + len(solution.h)

    @every_pair
    @given(steps=st.lists(st.floats(1e-3, 2.0), min_size=1, max_size=8))
    def test_grid_times_are_hit_exactly(self, name, steps):
        times = np.cumsum([0.1, *steps])
        solution = adaptive(rotation, times, [[1.0, 0.0], [0.0, 2.0]], name, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(solution.t_steps[solution.grid_index], times)
        np.testing.assert_array_equal(solution.states, solution.z_steps[solution.grid_index])
        assert np.all(solution.h > 0.0)
        for n, (start, end) in enumerate(zip(solution.t_steps[:-1], solution.t_steps[1:], strict=True)):
            assert times[solution.interval[n]] <= start < end <= times[solution.interval[n] + 1]

    @given(h=st.floats(1e-3, 1e3), remaining=st.floats(1e-3, 1e3))
    def test_no_slivers_are_left(self, h, remaining):
        step = landing_step(h, remaining)
        assert step <= min(1.1 * h, remaining)
        assert step == remaining or remaining - step >= min(0.55 * h, 0.5 * remaining)

    def test_one_step_sequence_serves_the_most_demanding_trial(self):
        """A trial beside a faster one is solved with the steps of that one, so no worse than alone."""

        def oscillators(t, z, interval):
            return np.array([[1.0], [8.0]])[: len(z)] * rotation(t, z, interval)

        both = adaptive(oscillators, [0.0, 6.0], [[1.0, 0.0], [1.0, 0.0]], "dopri5", rtol=1e-6)
        slow = adaptive(oscillators, [0.0, 6.0], [[1.0, 0.0]], "dopri5", rtol=1e-6)
        assert len(both.h) > 4 * len(slow.h)
        exact = np.array([np.cos(6.0), -np.sin(6.0)])
        assert np.max(np.abs(both.states[-1, 0] - exact)) < np.max(np.abs(slow.states[-1, 0] - exact))

    @every_pair
    def test_held_inputs_are_integrated_without_straddling_a_jump(self, name):
        times = np.array([0.0, 0.7, 1.1, 3.0])
        signal = InputSignal(times, np.array([[[1.0], [-5.0], [2.0], [0.0]]]))
        solution = adaptive(lambda t, z, n: signal(t, n) - z, times, [[0.0]], name, rtol=1e-9, jumps=signal.jumps)
        z, exact = 0.0, [0.0]
        for n in range(3):
            x = signal(times[n], n)[0, 0]
            z = x + (z - x) * np.exp(times[n] - times[n + 1])
            exact.append(z)
        error = np.max(np.abs(solution.states[:, 0, 0] - exact))
        assert error < 1e-8 * len(solution.h)
        # Without jumps given, every interior grid time is one: the same here, where all three samples differ.
        default = adaptive(lambda t, z, n: signal(t, n) - z, times, [[0.0]], name, rtol=1e-9)
        np.testing.assert_array_equal(default.z_steps, solution.z_steps)

    @every_pair
    def test_functions_may_jump_between_grid_times(self, name):
        def rhs(t, z, interval):
            return np.where(t < 0.37, 1.0, -3.0) - z

        solution = adaptive(rhs, [0.0, 1.0], [[0.0]], name, rtol=1e-9, jumps=[0.37])
        assert 0.37 in solution.t_steps
        peak = 1.0 - np.exp(-0.37)
        exact = -3.0 + (peak + 3.0) * np.exp(0.37 - 1.0)
        assert abs(solution.states[-1, 0, 0] - exact) < 1e-9 * len(solution.h)
        # The interpolant of the step before the jump does not see the derivative behind it.
        assert abs(solution(0.369)[0, 0] - (1.0 - np.exp(-0.369))) < 1e-9 * len(solution.h)

    def test_blow_up_names_trial_time_and_state(self):
        with pytest.raises(IntegrationError, match="blows up in finite time.*trial 1, last accepted") as caught:
            adaptive(lambda t, z, interval: z**2, [0.0, 3.0], [[0.1], [1.0]], "dopri5")
        assert caught.value.trial == 1
        assert caught.value.time == pytest.approx(1.0, abs=1e-5)
        assert caught.value.state[0] > 1e8

    @every_pair
    def test_a_derivative_that_ends_being_a_number(self, name):
        def rhs(t, z, interval):
            return np.stack([np.sqrt(0.5 - t) + 0.0 * z[0], z[1] * 0.0 + 1.0])

        with pytest.raises(IntegrationError, match="not finite just ahead.*trial 0, last accepted state at") as caught:
            adaptive(rhs, [0.0, 1.0], [[1.0], [1.0]], name)
        assert caught.value.time == pytest.approx(0.5, abs=1e-12)
        assert caught.value.state[0] == pytest.approx(1.0 + 2.0 / 3.0 * 0.5**1.5, rel=1e-4)

    def test_a_derivative_that_is_no_number_at_the_start(self):
        with pytest.raises(IntegrationError, match="state 1 is not a number; trial 1, last accepted state at t = 0.0"):
            adaptive(lambda t, z, n: np.where([[0, 0], [0, 1]], np.nan, z), [0.0, 1.0], np.ones((2, 2)))

    def test_underflow_at_a_jump_that_was_not_announced(self):
        with pytest.raises(IntegrationError, match="step underflows.*trial 0, last accepted state at t = 0.(5|49)"):
            adaptive(lambda t, z, n: np.where(t > 0.5, 1e8, 0.0) + 0.0 * z, [0.0, 1.0], [[1.0]], rtol=0.0, atol=1e-12)

    def test_too_many_steps(self):
        with pytest.raises(IntegrationError, match="max_steps = 10 steps did not reach t = 100.0.*trial 0") as caught:
            adaptive(rotation, [0.0, 100.0], [[1.0, 0.0]], max_steps=10)
        assert 0.0 < caught.value.time < 100.0
        assert np.hypot(*caught.value.state) == pytest.approx(1.0, abs=1e-4)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"tableau": "rk4"}, r"error estimate \(bosh3, dopri5, tsit5, dop853\), got 'rk4'"),
            ({"atol": 0.0}, "atol must be a finite number above 0; got 0"),
            ({"rtol": -1.0}, "rtol must be a finite number of at least 0; got -1"),
            ({"rtol": np.nan}, "rtol must be a finite number of at least 0; got nan"),
            ({"atol": [1e-6, 0.0]}, "atol must be positive; got 0.0 for unit 1"),
            ({"rtol": [1e-6] * 3}, r"rtol must have shape \(2,\); got \(3,\)"),
            ({"first_step": 0.0}, "first_step must be a finite number above 0; got 0"),
            ({"jumps": [1.0]}, r"inside the span \(0.0, 1.0\), got 1.0"),
        ],
    )
    def test_bad_options_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            adaptive(rotation, [0.0, 1.0], [[1.0, 0.0]], **options)

    def test_complex_states_are_refused(self):
        with pytest.raises(TypeError, match="real states"):
            adaptive(rotation, [0.0, 1.0], [[1.0 + 1e-20j, 0.0]])


class TestDenseOutput:
    @every_pair
    def test_is_as_accurate_as_the_steps(self, name):
        solution = adaptive(orbits, [0.0, 2.0], START, name, rtol=1e-7, atol=1e-7)
        t = np.linspace(0.0, 2.0, 101)
        error = np.abs(solution(t) - orbits_solution(t)) / (1.0 + np.abs(orbits_solution(t)))
        # The bound of the steps themselves: see the test of the tolerance.
        assert np.max(error) < 10.0 * 1e-7 * len(solution.h)

    @every_pair
    def test_returns_the_steps_at_their_times(self, name):
        solution = adaptive(rotation, [0.0, 1.0, 3.0], [[1.0, 0.0]], name)
        np.testing.assert_array_equal(solution(solution.t_steps), solution.z_steps)
        np.testing.assert_array_equal(solution(1.0), solution.states[1])

    def test_does_not_depend_on_the_order_of_the_times(self):
        solution = adaptive(rotation, [0.0, 3.0], [[1.0, 0.0]], "dop853")
        t = np.random.default_rng(3).uniform(0.0, 3.0, size=20)
        np.testing.assert_array_equal(solution(t), [solution(time) for time in t])
        assert solution(t).shape == (20, 1, 2)
        assert solution(0.5).shape == (1, 2)

    @pytest.mark.parametrize("time", [-0.1, 3.1, np.nan])
    def test_outside_the_span_is_refused(self, time):
        solution = fixed_steps(rotation, [0.0, 3.0], [[1.0, 0.0]], "rk4")
        with pytest.raises(ValueError, match=r"covers t in \[0.0, 3.0\], got t = "):
            solution([1.0, time])
