"""What is read-only: it stays so in copies and pickles, and the arrays of the caller do not reach inside."""

import copy
import pickle

import numpy as np
import pytest

import kpref
from kpref import EuclideanSpace, Flow, Readout, TrajectorySpace, Trials, models
from kpref.integrate import InputSignal, get_tableau

TIMES = np.linspace(0, 0.5, 6)


def spring(z, x, parameters):
    return parameters["k"] * z + x


def make_map():
    return Flow(models.GRU.init(2, 4, 0), np.ones((3, 6, 2)), z0=np.ones(4))


def make_field():
    return Flow(models.Rate.init(2, 4, 0), np.ones((3, 6, 2)), dt=0.1)


MAKERS = {
    "GRU": lambda: models.GRU.init(2, 4, 0),
    "Rate": lambda: models.Rate.init(2, 4, 0, tau=[1.0, 2.0, 3.0, 4.0]),
    "Lorenz": models.Lorenz63,
    "UserField": lambda: models.UserField(spring, 2, 2, parameters={"k": [1.0, 2.0]}, trainable=["k"]),
    "Trials": lambda: Trials(np.ones((3, 6, 2)), targets=np.zeros((3, 6, 1)), mask=np.ones(6)),
    "labels": lambda: Trials(np.ones((3, 6, 2)), labels=[0, 1, 2]),
    "TrajectorySpace": lambda: TrajectorySpace((3, 6, 4), np.linspace(0, 1, 6)),
    "EuclideanSpace": lambda: EuclideanSpace((5,)),
    "Readout": lambda: Readout(np.ones((2, 4)), np.ones(2)),
    "InputSignal": lambda: InputSignal(TIMES, np.ones((3, 6, 2)), "linear"),
    "Tableau": lambda: get_tableau("dopri5"),
    "Estimate": lambda: kpref.trace(make_map().K),
}

WAYS = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "deepcopy": copy.deepcopy, "copy": copy.copy}


def arrays(thing, prefix=""):
    """The arrays among the attributes of an object, by name."""
    for name, value in (thing if isinstance(thing, dict) else vars(thing)).items():
        if isinstance(value, np.ndarray):
            yield prefix + name, value
        elif isinstance(value, dict):
            yield from arrays(value, f"{prefix}{name}.")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MAKERS)
def test_copies_are_read_only(name, way):
    thing = MAKERS[name]()
    twin = WAYS[way](thing)
    assert type(twin) is type(thing)
    ours, theirs = dict(arrays(thing)), dict(arrays(twin))
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_array_equal(array, ours[key])
        assert not array.flags.writeable, key
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("way", WAYS)
def test_parameters_are_pickled_by_themselves(way):
    parameters = WAYS[way](models.GRU.init(2, 4, 0).parameters)
    assert list(parameters) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert not parameters["weight_hh"].flags.writeable


@pytest.mark.parametrize("make", [make_map, make_field])
def test_nothing_of_a_flow_can_be_written(make):
    flow = make()
    written = [flow.states, flow.z0, flow.inputs, flow.space.mu, flow.space.weights, *flow.model.parameters.values()]
    if make is make_field:
        written += [flow.solution.states, flow.solution.z_steps, flow.solution.times, flow.solution.t_steps]
    for array in written:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    parameters = flow.model.parameters
    for change in (
        lambda: parameters.__setitem__("weight_hh", 0), lambda: parameters.update(weight_hh=0), parameters.clear,
        lambda: parameters.pop("weight_hh"), lambda: parameters.__delitem__("weight_hh"), parameters.popitem,
        lambda: parameters.setdefault("new", 0), lambda: parameters.__ior__({"weight_hh": 0}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="with_parameters makes a model with others"):
            change()
    with pytest.raises(AttributeError):
        flow.model.parameters = {}
    assert "weight_hh" in flow.model.parameters


def test_arrays_of_the_caller_do_not_reach_inside():
    inputs, z0, measure, times = np.ones((3, 6, 2)), np.ones((3, 4)), np.ones((3, 6)), TIMES.copy()
    weights = {name: np.array(value) for name, value in models.GRU.init(2, 4, 0).parameters.items()}
    tau = np.ones(4)
    flow = Flow(models.GRU(**weights), inputs, z0, measure)
    rate = models.Rate(np.ones((4, 2)), np.eye(4), tau=tau)
    field = Flow(rate, inputs, z0, measure, times=times)
    before = [flow.states.copy(), flow.NTK(np.ones((3, 6, 4))), field.states.copy()]
    for array in (inputs, z0, measure, times, tau, *weights.values()):
        array[...] = 7
    after = [flow.rerun(flow.model), flow.NTK(np.ones((3, 6, 4))), field.rerun(rate)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(flow.z0, np.ones((3, 4)))
    np.testing.assert_array_equal(flow.space.mu, np.ones((3, 6)))


def test_arrays_that_are_read_only_or_not_contiguous_work():
    inputs = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 12, 2)))[:, ::2]
    frozen = inputs.copy()
    frozen.flags.writeable = False
    model = models.GRU.init(2, 4, 0)
    flows = [Flow(model, given) for given in (inputs, frozen, inputs.copy())]
    q = np.asfortranarray(np.random.default_rng(1).normal(size=(4, 6, 3))).T
    frozen_q = q.copy()
    frozen_q.flags.writeable = False
    for flow in flows[:2]:
        np.testing.assert_array_equal(flow.states, flows[2].states)
        for tensor in (q, frozen_q):
            np.testing.assert_array_equal(flow.NTK(tensor), flows[2].NTK(q.copy()))
