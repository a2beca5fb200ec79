"""The front door: what a flow holds, and what it refuses, with the place."""

import numpy as np
import pytest
from strategies import KINDS, make_flow

import kpref.memory
from kpref import Flow
from kpref.models import GRU, RNN, Linear, LinearSystem


@pytest.fixture
def rng():
    return np.random.default_rng(0)


MODEL = RNN(np.eye(2), 0.5 * np.eye(2))
INPUTS = np.ones((3, 4, 2))


def test_what_a_flow_holds():
    flow = make_flow("GRU", (3, 5, 4))
    assert flow.states.shape == flow.space.shape == (3, 5, 4)
    assert flow.inputs.shape == (3, 5, 2)
    assert flow.z0.shape == (3, 4)
    assert flow.states.dtype == np.float64
    assert flow.P is flow.P
    for array in (flow.states, flow.inputs, flow.z0):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert flow.P.shape_in == flow.P.shape_out == (3, 5, 4)
    assert flow.J.shape_in == (flow.model.n_parameters,)
    assert flow.D_z0.shape_in == (3, 4)
    assert flow.P.space_out == flow.space


def test_initial_states_are_zero_by_default():
    np.testing.assert_array_equal(Flow(MODEL, INPUTS).z0, np.zeros((3, 2)))


def test_inputs_changed_later_change_nothing(rng):
    inputs, z0 = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 2))
    flow = Flow(MODEL, inputs, z0)
    q = rng.normal(size=flow.states.shape)
    before = flow.states.copy(), flow.NTK(q), flow.D_z0(z0)
    inputs[:], z0[:] = 0, 0
    for kept, now in zip(before, (flow.states, flow.NTK(q), flow.D_z0(np.asarray(flow.z0))), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_lists_integers_and_other_layouts_are_taken(rng):
    inputs = rng.integers(-2, 3, size=(3, 4, 2))
    wanted = Flow(MODEL, inputs.astype(float), [1.0, 2.0]).states
    for same in (
        inputs,
        inputs.tolist(),
        np.asfortranarray(inputs),
        inputs.astype(np.float32),
        inputs[::-1].copy()[::-1],
    ):
        np.testing.assert_array_equal(Flow(MODEL, same, [1, 2]).states, wanted)


def test_rerun_keeps_trials_and_initial_states():
    flow = make_flow("GRU")
    model = flow.model.with_vector(0.9 * flow.model.vector)
    np.testing.assert_array_equal(flow.rerun(model), Flow(model, flow.inputs, flow.z0).states)
    np.testing.assert_array_equal(flow.rerun(flow.model), flow.states)


@pytest.mark.parametrize("kind", KINDS)
def test_no_quadratic_memory(kind):
    """Coefficients are O(B T H) numbers each; (B, T, H, H) Jacobians would be 64 tensors."""
    flow = make_flow(kind, (4, 10, 64))
    tensor = 4 * 10 * 64 * 8
    assert flow.linearization.nbytes - sum(w.nbytes for w in flow.linearization.weights.values()) < 8 * tensor


# Bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad):
    broken = INPUTS.copy()
    broken[1, 2, 0] = bad
    with pytest.raises(ValueError, match=f"inputs holds {bad} at trial 1, step 2, channel 0"):
        Flow(MODEL, broken)
    with pytest.raises(ValueError, match=f"z0 holds {bad}"):
        Flow(MODEL, INPUTS, [0, bad])


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_empty_inputs(shape):
    with pytest.raises(ValueError, match="at least one trial, step and channel.*0"):
        Flow(MODEL, np.empty(shape))


@pytest.mark.parametrize("shape", [(3, 4, 3), (3, 4, 1)])
def test_wrong_number_of_inputs(shape):
    with pytest.raises(ValueError, match=r"\(B, T, 2\) for this model; got \(3, 4, [13]\)"):
        Flow(MODEL, np.ones(shape))


@pytest.mark.parametrize("shape", [(4, 2), (2,), (), (1, 3, 4, 2)])
def test_wrong_number_of_axes(shape):
    with pytest.raises(ValueError, match="inputs must have 3 axes; got shape"):
        Flow(MODEL, np.ones(shape))


@pytest.mark.parametrize("shape", [(3,), (4, 2), (3, 3), (1, 2), (3, 4, 2), ()])
def test_wrong_initial_states(shape):
    with pytest.raises(ValueError, match=r"z0 must have shape \(2,\) or \(3, 2\); got"):
        Flow(MODEL, INPUTS, np.ones(shape))


@pytest.mark.parametrize(
    "wrong", ["text", np.array([[["a", "b"]]]), np.full((1, 1, 2), None), np.ones((1, 1, 2), complex)]
)
def test_inputs_that_are_not_numbers(wrong):
    with pytest.raises(ValueError, match="inputs must"):
        Flow(MODEL, wrong)


def test_ragged_inputs():
    with pytest.raises(ValueError, match="inputs"):
        Flow(MODEL, [[[1.0, 2.0]], [[1.0]]])


@pytest.mark.parametrize("wrong", [np.eye(2), None, "GRU", RNN])
def test_what_is_not_a_model(wrong):
    with pytest.raises(TypeError, match="model must be one of kpref.models"):
        Flow(wrong, INPUTS)


@pytest.mark.parametrize("dtype", ["flaot64", "float16", "complex128", int, "int64", np.longdouble, ">f8", object])
def test_wrong_precisions(dtype):
    with pytest.raises(ValueError, match="dtype must be float64 or float32; got"):
        Flow(MODEL, INPUTS, dtype=dtype)


def test_wrong_measures():
    with pytest.raises(ValueError, match="measure"):
        Flow(MODEL, INPUTS, measure="average")
    with pytest.raises(ValueError, match=r"broadcastable to \(trials, time\) = \(3, 4\); got shape \(3,\)"):
        Flow(MODEL, INPUTS, measure=np.ones(3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("trial", [0, 1, 34])
def test_overflow_names_trial_and_step(trial, relu):
    """A gain of 1,000 from 1: 1e3 after step 0, 1e309 would come after step 102; other trials are at rest."""
    gain = np.array([[1e3]])
    model = RNN([[1.0]], gain, nonlinearity="relu") if relu else Linear([[1.0]], gain)
    z0 = np.zeros((35, 1))
    z0[trial] = 1
    with pytest.raises(
        ValueError, match=rf"overflows: the state of trial {trial} is not finite after step 102 .*1e\+306"
    ):
        Flow(model, np.zeros((35, 150, 1)), z0)
    assert np.abs(Flow(model, np.zeros((35, 102, 1)), z0).states).max() == pytest.approx(1e306, rel=1e-13)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "model, z0, dtype",
    [
        (Linear(np.eye(2), np.eye(2)), [1e200, 0], np.float32),  # the state, which J multiplies by
        (Linear(np.eye(2), np.array([[1, 1e200], [0, 0]])), [1, 0], np.float32),  # the weight
        (Linear(np.zeros((2, 2)), np.eye(2)), None, np.float32),  # the input, below
        (
            GRU(np.ones((6, 2)), np.full((6, 2), 3.0)),
            [1e308, 1e308],
            np.float64,
        ),  # a current, though the state is finite
    ],
)
def test_overflow_of_the_linearisation(model, z0, dtype):
    """Never an operator of NaN: finite states do not promise coefficients that are finite in this precision."""
    with pytest.raises(ValueError, match=r"overflows.*trial 0, step 0|weight_hh holds 1e\+200"):
        Flow(model, np.full((2, 3, 2), 1e250 if z0 is None else 1.0), z0, dtype=dtype)


def test_more_memory_than_there_is(monkeypatch):
    """Refused before anything is copied: the inputs of these trials are one number, seen a trillion times."""
    with pytest.raises(
        MemoryError, match=r"GRU.* over 10000000000 trials of 100 steps needs .* GiB of memory; .* GiB is"
    ):
        Flow(GRU.init(2, 3, 0), np.broadcast_to(0.0, (10**10, 100, 2)))
    monkeypatch.setattr(kpref.memory, "available_memory", lambda: 10_000)
    with pytest.raises(MemoryError):
        Flow(GRU.init(2, 3, 0), np.zeros((10, 10, 2)))
    with pytest.raises(MemoryError):
        Flow(GRU.init(200, 1, 0), np.zeros((3, 3, 200)))  # it is the inputs that are large
    Flow(GRU.init(2, 3, 0), np.zeros((3, 3, 2)))
    monkeypatch.setattr(kpref.memory, "available_memory", lambda: None)  # a system that does not say
    Flow(GRU.init(2, 3, 0), np.zeros((10, 10, 2)))


def test_available_memory_is_plausible():
    available = kpref.memory.available_memory()
    assert available is None or 2**20 < available < 2**50


@pytest.mark.parametrize(
    "options",
    [
        {"dt": 0.1},
        {"times": np.arange(4.0)},
        {"method": "rk4"},
        {"rtol": 1e-3},
        {"atol": 1e-3},
        {"input_kind": "hold"},
        {"forcing": "linear"},
        {"stage_memory": 0.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_map_refuses_what_only_a_field_has(options):
    """Also what would be the default of a field."""
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} is for models in continuous time; RNN\(.*\) is a map$"):
        Flow(MODEL, INPUTS, **options)


def test_a_field_takes_what_is_not_said_as_the_documentation_says():
    field, signal = LinearSystem(np.eye(2), -np.eye(2)), np.arange(24.0).reshape(3, 4, 2)
    said = Flow(field, signal, dt=0.1, method="rk4", input_kind="hold", forcing="linear")
    unsaid = Flow(field, signal, dt=0.1)
    assert np.array_equal(said.states, unsaid.states)
    assert np.array_equal(said.P(signal), unsaid.P(signal))
