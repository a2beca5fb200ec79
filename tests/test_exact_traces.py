"""Exact traces of P P* and the NTK against the dense operators."""

import numpy as np
import pytest
from continuous.fields import STRUCTURES as FIELDS
from continuous.fields import cases
from continuous.fields import make_flow as make_field_flow
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, examples, flows, make_flow

import kpref
from kpref.spectra import exact_traces
from kpref.spectra.exact_traces import ntk_trace_exact, propagator_gram_trace
from kpref.unit_form import unit_form

# Sums of non-negative terms, but for the trace by trials, whose cross terms can cancel; both are backward stable with
# errors of some n units of rounding, n < 1000 terms.
RTOL = 1e-12


def dense_trace(op):
    """Trace of ``A A*``, A A* applied as an operator."""
    return np.trace(op.gram().to_dense())


@pytest.mark.parametrize("kind", KINDS)
@examples(6)
@given(data=st.data())
def test_traces_of_maps(kind, data):
    flow, _ = data.draw(flows(kind, max_trials=3, max_steps=6, max_states=5))
    expected = dense_trace(flow.D)
    scale = max(expected, 1e-300)
    assert abs(propagator_gram_trace(flow) / dense_trace(flow.P) - 1) < RTOL
    mu = flow.space.mu
    by_trials = exact_traces._trace_by_trials(flow.linearization, unit_form(flow.linearization), mu, None)
    by_products = exact_traces._trace_by_products(flow.D, None)
    for value in (ntk_trace_exact(flow), by_trials, by_products):
        assert abs(value - expected) < RTOL * scale


@examples(15)
@given(case=cases(methods=("euler", "rk4"), kinds=FIELDS))
def test_traces_of_fields(case):
    flow = case[0]
    for value, op in ((propagator_gram_trace(flow), flow.P), (ntk_trace_exact(flow), flow.D)):
        expected = dense_trace(op)
        assert abs(value - expected) <= RTOL * expected


def test_points_without_weight_pass_perturbations_on():
    """One trial, unobserved in the middle: what starts at step 0 is counted at step 2, having gone through step 1."""
    model = kpref.models.Linear(weight_ih=np.zeros((1, 1)), weight_hh=np.full((1, 1), 3.0))
    flow = kpref.Flow(model, np.zeros((1, 3, 1)), measure=np.array([2.0, 0.0, 5.0]))
    # P from 0 to 0 and 2 to 2: one each. From 0 to 2: (3 * 3)^2, weighted by mu[2] / mu[0].
    assert propagator_gram_trace(flow) == pytest.approx(2 + 81 * 5 / 2, rel=1e-15)


def test_the_cheaper_way_is_taken(monkeypatch):
    calls = []
    for name in ("_trace_by_trials", "_trace_by_products"):
        monkeypatch.setattr(exact_traces, name, lambda *arguments, name=name: calls.append(name) or 0.0)
    ntk_trace_exact(make_flow("GRU", (3, 5, 6)))  # 156 parameters, 90 states
    ntk_trace_exact(make_flow("RNN-tanh", (3, 50, 6), trainable=["bias_hh"]))  # 6 parameters
    ntk_trace_exact(make_field_flow("Rate-tanh"))
    assert calls == ["_trace_by_trials", "_trace_by_products", "_trace_by_products"]


def test_blocks_and_threads_do_not_change_the_bits(monkeypatch):
    flow = make_flow("GRU", (7, 5, 6))
    monkeypatch.setattr(exact_traces, "_BLOCK_ENTRIES", 72)
    before, values = kpref.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            kpref.set_num_threads(number)
            values.append((propagator_gram_trace(flow), ntk_trace_exact(flow)))
    finally:
        kpref.set_num_threads(before)
    assert values[0] == values[1] == values[2]
    monkeypatch.undo()
    assert values[0][0] == pytest.approx(propagator_gram_trace(flow), rel=RTOL)


def test_batches_do_not_change_the_traces(monkeypatch):
    flow = make_flow("RNN-tanh", trainable=["weight_ih", "bias_ih"])
    field = make_field_flow("Rate-tanh")
    expected = exact_traces._trace_by_products(flow.D, None), propagator_gram_trace(field)
    monkeypatch.setattr(exact_traces, "_BATCH_BYTES", 3 * 8 * flow.space.size)
    counts = []
    assert exact_traces._trace_by_products(flow.D, counts.append) == pytest.approx(expected[0], rel=RTOL)
    assert sum(counts) == flow.D.shape[1]
    assert len(counts) > 1
    assert propagator_gram_trace(field) == pytest.approx(expected[1], rel=RTOL)


def test_progress_counts_trials_and_products():
    flow, field = make_flow("GRU"), make_field_flow("Rate-tanh")
    for compute, given_flow, expected in (
        (propagator_gram_trace, flow, 3),
        (ntk_trace_exact, flow, 3),
        (propagator_gram_trace, field, 6 * 4),
        (ntk_trace_exact, field, field.D.shape[1]),
    ):
        counts = []
        compute(given_flow, progress=counts.append)
        assert sum(counts) == expected


def test_single_precision_flows_are_traced():
    flow = make_flow("GRU", dtype=np.float32)
    # Coefficients rounded to float32, sums in float64: a few units of rounding of the former.
    exact = make_flow("GRU")
    assert propagator_gram_trace(flow) == pytest.approx(propagator_gram_trace(exact), rel=1e-5)
    assert ntk_trace_exact(flow) == pytest.approx(ntk_trace_exact(exact), rel=1e-5)


def test_a_large_propagator_of_a_field_is_refused(monkeypatch):
    monkeypatch.setattr(exact_traces, "_MAX_PRODUCTS", 23)
    with pytest.raises(ValueError, match="takes a product for each time and unit, and at most 23 are made; got 6 x 4"):
        propagator_gram_trace(make_field_flow("Rate-tanh"))


def test_memory_is_checked_before_anything_is_allocated(monkeypatch):
    flow = make_flow("GRU")
    monkeypatch.setattr("kpref.memory.available_memory", lambda: 100)
    for compute, words in ((propagator_gram_trace, "Gramians"), (ntk_trace_exact, "propagators")):
        with pytest.raises(MemoryError, match=words):
            compute(flow)
