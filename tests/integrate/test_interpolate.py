import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpref.integrate import InputSignal, check_times

TIMES = np.array([0.0, 0.5, 0.75, 2.0, 2.25])
SAMPLES = np.random.default_rng(0).normal(size=(3, 5, 2))

grids = st.lists(st.floats(0.1, 1.0), min_size=4, max_size=8).map(lambda steps: np.cumsum([0.3, *steps]))
points = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5)


def at_fractions(times, fractions):
    """Times spread over the grid, and their intervals."""
    t = times[0] + np.array(fractions) * (times[-1] - times[0])
    return t, np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)


def test_hold_keeps_the_sample_up_to_the_end_of_the_interval():
    signal = InputSignal(TIMES, SAMPLES)
    for n in range(4):
        for t in (TIMES[n], 0.5 * (TIMES[n] + TIMES[n + 1]), TIMES[n + 1]):
            np.testing.assert_array_equal(signal(t, n), SAMPLES[:, n])


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_interpolants_return_the_samples(kind):
    signal = InputSignal(TIMES, SAMPLES, kind)
    for n in range(4):
        # The spline evaluates a cubic whose terms are within a few times the samples.
        np.testing.assert_allclose(signal(TIMES[n], n), SAMPLES[:, n], rtol=0.0, atol=1e-14)
        np.testing.assert_allclose(signal(TIMES[n + 1], n), SAMPLES[:, n + 1], rtol=0.0, atol=1e-14)


def test_linear_is_exact_at_the_samples():
    signal = InputSignal(TIMES, SAMPLES, "linear")
    for n in range(4):
        np.testing.assert_array_equal(signal(TIMES[n], n), SAMPLES[:, n])
        np.testing.assert_array_equal(signal(TIMES[n + 1], n), SAMPLES[:, n + 1])


@given(times=grids, fractions=points, degree=st.sampled_from([1, 3]))
def test_polynomials_are_reproduced(times, fractions, degree):
    """Straight lines by `linear`, cubics by `cubic`: on any grid."""
    coefficients = np.array([0.3, -0.7, 0.2, 0.05])[: degree + 1]
    signal = InputSignal(times, np.polynomial.polynomial.polyval(times, coefficients)[None, :, None], kinds[degree])
    t, interval = at_fractions(times, fractions)
    expected = np.polynomial.polynomial.polyval(t, coefficients)
    # Values are below 40. The spline's slopes come from divided differences, eps 40 / 0.1 = 1e-13, through not-a-knot
    # end conditions that weigh them by up to the square of the ratio of steps, 100.
    np.testing.assert_allclose(signal(t, interval)[0, :, 0], expected, rtol=0.0, atol=tolerance[degree])


kinds = {1: "linear", 3: "cubic"}
tolerance = {1: 1e-13, 3: 1e-11}


def test_several_times_at_once():
    for kind in ("hold", "linear", "cubic"):
        signal = InputSignal(TIMES, SAMPLES, kind)
        t, interval = np.array([0.1, 0.6, 2.1]), np.array([0, 1, 3])
        together = signal(t, interval)
        assert together.shape == (3, 3, 2)
        for m in range(3):
            np.testing.assert_array_equal(together[:, m], signal(t[m], interval[m]))


def test_functions_are_taken_as_they_are():
    signal = InputSignal(TIMES, lambda t: np.array([[np.sin(t), t]]))
    assert (signal.n_trials, signal.n_inputs) == (1, 2)
    np.testing.assert_array_equal(signal(0.7, 1), [[np.sin(0.7), 0.7]])
    np.testing.assert_array_equal(signal([0.7, 2.0], [1, 2])[0, 1], [np.sin(2.0), 2.0])
    assert signal.jumps.size == 0


def test_held_inputs_jump_where_a_sample_changes():
    samples = np.zeros((2, 5, 1))
    samples[1, 2:, 0] = 1.0
    samples[0, 4, 0] = 5.0  # the last sample is never used
    np.testing.assert_array_equal(InputSignal(TIMES, samples).jumps, [TIMES[2]])
    assert InputSignal(TIMES, samples, "linear").jumps.size == 0


@pytest.mark.parametrize(
    "times, message",
    [
        ([0.0], r"at least two times, got shape \(1,\)"),
        ([[0.0, 1.0]], "at least two times"),
        ([0.0, 1.0, 1.0], r"increase strictly, got times\[2\] = 1.0 after times\[1\] = 1.0"),
        ([0.0, 2.0, 1.0], r"got times\[2\] = 1.0 after times\[1\] = 2.0"),
        ([0.0, np.nan], r"finite, got times\[1\] = nan"),
    ],
)
def test_bad_times_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        check_times(times)


def test_bad_sources_are_refused():
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, 5, n_in\); got \(3, 4, 2\)"):
        InputSignal(TIMES, SAMPLES[:, :4])
    with pytest.raises(ValueError, match="inputs holds nan at trial 1, time 2, channel 0"):
        InputSignal(TIMES, np.where(np.arange(30).reshape(3, 5, 2) == 14, np.nan, SAMPLES))
    with pytest.raises(ValueError, match="kind must be one of hold, linear, cubic, got 'quintic'"):
        InputSignal(TIMES, SAMPLES, "quintic")
    with pytest.raises(ValueError, match=r"must return shape \(B, n_in\), got \(\)"):
        InputSignal(TIMES, lambda t: t)
    with pytest.raises(ValueError, match=r"must return shape \(1, 1\); got \(2, 1\) at t = 1.0"):
        InputSignal(TIMES, lambda t: np.zeros((2 if t else 1, 1)))(1.0, 0)
