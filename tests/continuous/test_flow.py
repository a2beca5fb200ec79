"""Flows in continuous time: what they hold, and what they refuse, with the place."""

import numpy as np
import pytest

import kpref.memory
from continuous.fields import PAIRS, make_case, make_flow
from kpref import Flow
from kpref.integrate import IntegrationError, Tableau
from kpref.models import RNN, DenseField, LinearSystem, Rate, VanDerPol

MODEL = Rate(np.eye(2), 0.5 * np.eye(2))
INPUTS = np.ones((3, 5, 2))


class Quadratic(DenseField):
    """``dz/dt = r z^2`` for each unit: z0 / (1 - r z0 t) blows up."""

    n_inputs = 0

    def __init__(self, r=1.0, n_states=1, trainable=None):
        self.n_states = n_states
        super().__init__({"r": np.asarray(r, dtype=float)}, trainable)

    def _evaluate(self, parameters, z, x):
        return parameters["r"] * z**2

    def state_jacobian(self, z, x):
        return 2 * self.parameters["r"] * z[..., None] * np.eye(self.n_states)

    def parameter_jacobian(self, z, x):
        return {"r": z**2}


def test_what_a_flow_holds():
    flow = make_flow("Rate-tanh", "rk4", (3, 5, 4))
    assert flow.states.shape == flow.space.shape == (3, 6, 4)
    assert flow.stage.P.shape_in == flow.stage.J.shape_out == flow.stage.K.shape_in == (3, 5, 4, 4)
    assert flow.stage.P.shape_out == flow.P.shape_in == flow.P.shape_out == flow.J.shape_out == (3, 6, 4)
    assert flow.D.shape_in == flow.J.shape_in == flow.stage.J.shape_in == (flow.model.n_parameters,)
    assert flow.D_z0.shape_in == (3, 4)
    assert flow.solution.tableau.name == "rk4"
    np.testing.assert_array_equal(flow.states[:, 0], flow.z0)
    assert flow.stage.P is flow.stage.P
    for array in (flow.states, flow.inputs, flow.z0):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_measure_is_the_trapezoid_rule():
    flow = make_flow("Rate-tanh", "rk4", (3, 5, 4))
    values = np.random.default_rng(0).normal(size=6)
    mean = np.trapezoid(values, flow.solution.times) / np.ptp(flow.solution.times)
    tensor = np.broadcast_to(values[:, None], flow.states.shape)
    assert flow.space.inner(np.ones(flow.states.shape), tensor) == pytest.approx(4 * mean, rel=1e-14)


def test_dt_is_an_even_grid_from_zero():
    by_dt = Flow(MODEL, INPUTS, dt=0.25)
    np.testing.assert_array_equal(by_dt.solution.times, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(Flow(MODEL, INPUTS, times=by_dt.solution.times).states, by_dt.states)


def test_fields_without_inputs():
    """Trials are counted by the initial states; inputs of no channels are the same as none."""
    times = np.linspace(0, 1, 4)
    for z0, trials in ((None, 1), ([1.0, 0.0], 1), (np.ones((5, 2)), 5)):
        flow = Flow(VanDerPol(1.0), None, z0, times=times)
        assert flow.states.shape == (trials, 4, 2)
    same = Flow(VanDerPol(1.0), np.zeros((5, 4, 0)), np.ones((5, 2)), times=times)
    np.testing.assert_array_equal(same.states, flow.states)


def test_functions_of_time():
    """A function is taken as it is, whatever the kind of interpolation, and asked within the grid only."""
    flow, _ = make_case("Rate-tanh", input_kind="callable")
    seen = []

    def waves(t):
        seen.append(t)
        return flow.inputs(t)

    again = Flow(flow.model, waves, flow.z0, times=flow.solution.times, input_kind="cubic")
    np.testing.assert_array_equal(again.states, flow.states)
    assert min(seen) == flow.solution.times[0] > 0
    assert max(seen) == flow.solution.times[-1]


def test_functions_sampled_by_lines():
    """A function that is linear between the grid times is what its samples are, by lines, to rounding."""
    sampled, _ = make_case("Rate-tanh", input_kind="linear")
    times = sampled.solution.times

    def lines(t):
        return [[np.interp(t, times, channel) for channel in trial.T] for trial in sampled.inputs]

    flow = Flow(sampled.model, lines, sampled.z0, times=times)
    np.testing.assert_allclose(flow.states, sampled.states, rtol=0, atol=1e-14)


def test_adaptive_steps_follow_the_tolerance():
    exact = make_flow("Rate-tanh", "dop853", dt=0.8, rtol=1e-13, atol=1e-13)
    for rtol in (1e-4, 1e-7):
        flow = make_flow("Rate-tanh", "dopri5", dt=0.8, rtol=rtol, atol=rtol)
        error = np.abs(flow.states - exact.states).max()
        # Each step errs by about the tolerance, in states of order one that attract each other.
        assert rtol * 1e-3 < error < rtol * len(flow.solution.h)
    assert make_flow("Rate-tanh", "dopri5", atol=1e-3).solution.n_evaluations > 0  # one of the two is enough


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give either times or dt"),
        ({"times": np.arange(5.0), "dt": 1.0}, "give either times or dt"),
        ({"dt": 0.0}, "dt must be a finite number above 0; got 0"),
        ({"dt": -0.1}, "dt must be a finite number above 0; got -0.1"),
        ({"dt": np.nan}, "dt must be a finite number above 0; got nan"),
        ({"dt": np.inf}, "dt must be a finite number above 0; got inf"),
        ({"times": [0.0, 1.0, 1.0, 2.0, 3.0]}, r"increase strictly, got times\[2\] = 1.0 after times\[1\] = 1.0"),
        ({"times": [0.0, 1.0, 2.0, 1.5, 3.0]}, r"increase strictly, got times\[3\] = 1.5"),
        ({"times": [0.0, np.nan, 2.0, 3.0, 4.0]}, r"times must be finite, got times\[1\] = nan"),
        ({"times": [0.0]}, r"at least two times, got shape \(1,\)"),
        ({"times": 1.0}, "at least two times"),
        ({"times": [[0.0, 1.0]]}, "at least two times"),
        ({"times": [0.0, 1.0, 2.0]}, r"one row for each of the 3 times; got shape \(3, 5, 2\)"),
        ({"dt": 0.1, "method": "rk5"}, "unknown method 'rk5', expected one of euler, midpoint"),
        ({"dt": 0.1, "forcing": "quintic"}, 'forcing must be "linear" or "cubic"; got \'quintic\''),
        ({"dt": 0.1, "forcing": "hold"}, "forcing must be"),
        ({"dt": 0.1, "input_kind": "spline"}, "one of hold, linear, cubic, got 'spline'"),
        ({"dt": 0.1, "rtol": 1e-6}, r"error estimate \(bosh3, dopri5, tsit5, dop853\), got 'rk4'"),
        ({"dt": 0.1, "rtol": -1.0, "method": "dopri5"}, "rtol must be a finite number of at least 0; got -1"),
        ({"dt": 0.1, "atol": 0.0, "method": "dopri5"}, "atol must be a finite number above 0; got 0"),
        ({"dt": 0.1, "z0": np.zeros(3)}, r"z0 must have shape \(2,\) or \(3, 2\); got \(3,\)"),
        ({"dt": 0.1, "z0": np.zeros((2, 2))}, r"z0 must have shape \(2,\) or \(3, 2\); got \(2, 2\)"),
        ({"dt": 0.1, "z0": [0.0, np.nan]}, "z0 must be finite|z0 holds nan"),
        ({"dt": 0.1, "measure": "median"}, "measure must be"),
        ({"dt": 0.1, "measure": np.ones(4)}, r"broadcastable to \(trials, time\) = \(3, 5\)"),
        ({"dt": 0.1, "dtype": np.float16}, "dtype must be float64 or float32"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Flow(MODEL, INPUTS, **options)


@pytest.mark.parametrize(
    "inputs, message",
    [
        (None, r"needs inputs of shape \(B, 4, 2\)"),
        (np.ones((3, 4)), "inputs must"),
        (np.ones((3, 5, 2)), r"one row for each of the 4 times; got shape \(3, 5, 2\)"),
        (np.ones((3, 3, 2)), r"one row for each of the 4 times; got shape \(3, 3, 2\)"),
        (np.ones((3, 4, 1)), r"inputs must have shape \(B, T, 2\)"),
        (np.full((3, 4, 2), np.nan), "inputs .*trial 0, step 0, channel 0"),
        (np.full((3, 4, 2), 1j), "inputs must"),
        (lambda t: np.ones(2), r"must return shape \(B, 2\) for this model; got \(2,\) at t = 0.5"),
        (lambda t: np.ones((3, 1)), r"must return shape \(B, 2\) for this model; got \(3, 1\) at t = 0.5"),
        (lambda t: np.ones((3 if t < 1.0 else 2, 2)), r"must return shape \(3, 2\); got \(2, 2\) at t = "),
        (
            lambda t: np.full((3, 2), np.nan),
            "the input function must return finite numbers at t = 0.5; its value is nan at trial 0, channel 0",
        ),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        Flow(MODEL, inputs, times=np.linspace(0.5, 1.5, 4))


@pytest.mark.parametrize("inputs", [None, lambda t: np.ones((3, 2))])
def test_dt_needs_samples(inputs):
    with pytest.raises(ValueError, match="dt needs sampled inputs"):
        Flow(MODEL, inputs, dt=0.1)
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, T, n_inputs\); got \(4, 2\)"):
        Flow(MODEL, np.ones((4, 2)), dt=0.1)


def test_implicit_tableau():
    with pytest.raises(ValueError, match=r"'trapezoid' is implicit: a\[1, 1\] = 0.5"):
        Flow(MODEL, INPUTS, dt=0.1, method=Tableau("trapezoid", [[0, 0], [0.5, 0.5]], [0.5, 0.5], [0, 1], 2, "nobody"))
    with pytest.raises(TypeError, match="name of a tableau or a Tableau, got int"):
        Flow(MODEL, INPUTS, dt=0.1, method=4)


def test_a_method_of_ones_own():
    """Kutta's method of order three, which is not among the named ones."""
    a = [[0, 0, 0], [0.5, 0, 0], [-1, 2, 0]]
    kutta = Tableau("kutta3", a, [1 / 6, 2 / 3, 1 / 6], [0, 0.5, 1], 3, "Kutta (1901)")
    flow = Flow(MODEL, INPUTS, dt=0.1, method=kutta)
    assert flow.stage.P.shape_in == (3, 4, 3, 2)


@pytest.mark.parametrize("options", [{"dt": 0.1}, {"times": np.arange(5.0)}, {"rtol": 1e-6}, {"atol": 1e-6}])
def test_maps_have_no_time(options):
    with pytest.raises(ValueError, match="for models in continuous time; RNN.* is a map"):
        Flow(RNN(np.eye(2), np.eye(2)), INPUTS, **options)


@pytest.mark.parametrize("what", ["stage", "solution", "adjoint"])
def test_maps_have_no_stages(what):
    flow = Flow(RNN(np.eye(2), np.eye(2)), INPUTS)
    with pytest.raises(TypeError, match="belong to models in continuous time; RNN.* is a map"):
        flow.adjoint() if what == "adjoint" else getattr(flow, what)


def test_fields_have_no_inverse_and_two_adjoints():
    flow = Flow(MODEL, INPUTS, dt=0.1)
    with pytest.raises(TypeError, match="P_inverse is defined for maps"):
        flow.P_inverse  # noqa: B018
    with pytest.raises(ValueError, match='the kind of adjoint must be "discrete" or "continuous"; got \'exact\''):
        flow.adjoint("exact")


def test_what_is_no_model():
    with pytest.raises(TypeError, match="model must be one of kpref.models; got str"):
        Flow("rate", INPUTS, dt=0.1)


@pytest.mark.parametrize("trial", [0, 49, 119])
def test_overflow_names_trial_time_and_state(trial):
    """In any block of trials. Doubling each time constant: 2^1024 is not a number, 2^1023 is."""
    model = LinearSystem(np.zeros((2, 1)), np.eye(2))
    z0 = np.zeros((120, 2))
    z0[trial] = [1.0, 0.0]
    with pytest.raises(IntegrationError, match=rf"trial {trial}, last accepted state at t = 1023.0: z = \[") as caught:
        Flow(model, np.zeros((120, 1100, 1)), z0, dt=1.0, method="euler")
    assert caught.value.trial == trial
    assert caught.value.time == 1023.0
    np.testing.assert_array_equal(caught.value.state, [2.0**1023, 0.0])


@pytest.mark.parametrize("method", ["rk4", *PAIRS])
@pytest.mark.parametrize("trial", [0, 49, 119])
def test_blow_up_names_trial_time_and_state(trial, method):
    z0 = np.full((120, 1), 0.1)
    z0[trial] = 1.0
    rtol = None if method == "rk4" else 1e-6
    with pytest.raises(IntegrationError, match=f"blows up in finite time.*trial {trial}, last accepted") as caught:
        Flow(Quadratic(), None, z0, times=np.linspace(0, 2, 41), method=method, rtol=rtol)
    assert caught.value.trial == trial
    assert caught.value.state.shape == (1,)
    if rtol:
        assert caught.value.time == pytest.approx(1.0, abs=1e-4)  # where 1 / (1 - t) ends
    else:
        assert 0.95 <= caught.value.time <= 1.5  # fixed steps stumble over it
    assert caught.value.state[0] > 10


@pytest.mark.parametrize("rtol", [None, 1e-6])
def test_derivative_that_is_no_number(rtol):
    """From a function of time, from some time on, in one trial."""

    def inputs(t):
        return np.where((np.arange(60) == 55)[:, None] & (t > 0.5), np.nan, np.ones((60, 2)))

    with pytest.raises(ValueError, match=r"the input function .* finite .* at t = 0.5.*; its value is nan at trial 55"):
        Flow(MODEL, inputs, times=np.linspace(0, 1, 11), method="dopri5", rtol=rtol)


def test_overflow_of_the_linearisation():
    """Finite states do not promise coefficients that are finite in this precision."""
    flow = Flow(LinearSystem(np.eye(2), -np.eye(2)), np.zeros((2, 3, 2)), [1e100, 0.0], dt=0.1, dtype=np.float32)
    for name, shape in (("P", flow.states.shape), ("J", flow.model.n_parameters), ("D", flow.model.n_parameters)):
        with pytest.raises(ValueError, match="linearisation overflows: a coefficient of trial 0"):
            getattr(flow, name)(np.ones(shape))


def test_more_memory_than_there_is(monkeypatch):
    """Refused before anything is copied: these inputs are one number, seen a trillion times."""
    wide = np.broadcast_to(0.0, (10**10, 100, 2))
    with pytest.raises(MemoryError, match=r"Rate.* over 10000000000 trials of 100 steps needs .* GiB of memory"):
        Flow(MODEL, wide, dt=0.1)
    with pytest.raises(MemoryError, match=r"VanDerPol.* over 10000000000 trials of 100 steps needs .* GiB"):
        Flow(VanDerPol(1.0), None, np.broadcast_to(0.0, (10**10, 2)), times=np.arange(100.0))
    with pytest.raises(MemoryError, match=r"Rate.* over 10000000000 trials of 100 steps needs .* GiB"):
        Flow(MODEL, lambda t: wide[:, 0], times=np.arange(100.0))
    monkeypatch.setattr(kpref.memory, "available_memory", lambda: 10_000)
    with pytest.raises(MemoryError):
        Flow(Rate.init(2, 3, 0), np.zeros((10, 20, 2)), dt=0.1)
    monkeypatch.undo()
    Flow(Rate.init(2, 3, 0), np.zeros((10, 20, 2)), dt=0.1)
