"""Trials that end early: what stands behind their ends is not looked at, and all that exists is."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate
from apparatus.stage_emulation import StageBackend, own_operators

from kpref import Flow
from kpref.models import GRU, Rate
from kpref.oracle import flow_backend, verify
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.isolation import IsolatedBackend
from kpref.oracle.problem import rounded

LENGTHS = [7, 3, 5]
RNG = np.random.default_rng(0)
FLOW = Flow(GRU.init(2, 4, 0, gain=1.2), RNG.normal(size=(3, 7, 2)), RNG.normal(size=(3, 4)), lengths=LENGTHS)


def field_flows(method, input_kind):
    """A flow with lengths, and the same whose trials run on."""
    rng = np.random.default_rng(1)
    model = Rate(rng.normal(size=(4, 2)), rng.normal(size=(4, 4)) / 2, rng.normal(size=4), tau=0.7)
    inputs, z0, times = rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 4)), np.cumsum(rng.uniform(0.1, 0.3, size=7))
    options = {"times": times, "method": method, "input_kind": input_kind}
    short = Flow(model, inputs, z0, lengths=LENGTHS, **options)
    return short, Flow(model, short.inputs, z0, short.space.mu, **options)


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_a_backend_that_stands_still_and_one_that_runs_on_are_right(name):
    still = flow_backend(FLOW, name)
    assert not still.states[1, 3:].any()
    assert verify(still, FLOW).passed
    on = emulate(rounded(FLOW, ARITHMETICS[name]), ARITHMETICS[name])
    assert on.states[1, 3:].all()
    report = verify(on, FLOW)
    assert {check.identifier for check in report.defects} <= {f"metrics.average_{of}" for of in ("P", "K", "NTK")}


@pytest.mark.parametrize("method, input_kind", [("heun", "linear"), ("bosh3", "hold")])
def test_so_they_are_in_continuous_time(method, input_kind):
    short, padded = field_flows(method, input_kind)
    assert verify(own_operators(short), short).passed
    assert verify(own_operators(padded), short).passed
    assert not verify(StageBackend(padded, ARITHMETICS["float32"]), short).defects


@pytest.mark.parametrize(
    "operator, continuous",
    [(name, False) for name in ("P", "P_T", "P_inverse", "J", "K", "NTK")]
    + [(name, True) for name in ("P", "P_T", "NTK", "D", "D_z0")],
)
def test_an_error_counts_where_a_trial_has_not_ended(operator, continuous):
    flow = field_flows("heun", "linear")[0] if continuous else FLOW
    right = getattr(own_operators(flow) if continuous else flow_backend(flow), operator)
    for step, wrong in ((2, {operator}), (3, set())):

        def call(tensor, step=step):
            answer = np.array(right(np.asarray(tensor)))
            answer[1, step, 2] += 1e-3
            return answer

        report = verify(SimpleNamespace(states=flow.states, **{operator: call}), flow)
        assert {check.operator for check in report.defects} == wrong


@pytest.mark.parametrize("operator", ["K", "NTK", "gradient", "P", "P_T"])
def test_a_defect_of_a_backend_that_runs_on_is_named(operator):
    """What it answers behind the ends says nothing of what is wrong before them."""
    padded = rounded(FLOW, ARITHMETICS["float64"])
    right = getattr(emulate(padded, ARITHMETICS["float64"]), operator)
    part = sum(LENGTHS) / (3 * 7)
    wrong = {"P": lambda q: -right(q), "P_T": lambda g: -right(g)}.get(operator, lambda tensor: part * right(tensor))
    report = verify(SimpleNamespace(**{operator: wrong}), FLOW)
    assert report.defects[0].operator == operator
    named = "sign: the negative" if operator.startswith("P") else "measure: divided by the steps that do not exist"
    assert report.defects[0].guess.startswith(named)


def test_states_count_where_a_trial_has_not_ended():
    for flow in (FLOW, field_flows("rk4", "hold")[0]):
        for step, right in ((2, False), (3, True)):
            states = flow.states.copy()
            states[1, step] += 1e-6
            assert verify(SimpleNamespace(states=states), flow).passed == right


def test_points_behind_the_ends_have_no_weight():
    """A gradient over all of the steps is one of another measure."""
    flow = Flow(FLOW.model, FLOW.inputs, FLOW.z0, lengths=LENGTHS, measure="sum")
    padded = Flow(flow.model, flow.inputs, flow.z0)
    report = verify(SimpleNamespace(states=padded.states, gradient=lambda err: padded.D.star(err)), flow)
    assert {check.operator for check in report.defects} == {"gradient"}
    assert report.defects[0].guess.startswith("measure")


def test_lengths_cross_to_a_process_of_its_own():
    with IsolatedBackend("kpref.oracle:flow_backend", FLOW) as backend:
        assert not backend.states()[1, 3:].any()
        assert verify(backend, FLOW).passed
