"""Random errors of J and D: of the size of an arithmetic's roundings, and what right backends err by is within them."""

from dataclasses import replace

import numpy as np
import pytest
from apparatus.cases import PROFILES, correct_backend, make_flow
from hypothesis import given
from hypothesis import strategies as st

from kpref.models import GRU
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.certificates import Judge
from kpref.oracle.problem import MODELS
from kpref.oracle.random_factors import random_factors
from tests.strategies import examples


def judge_of(flow, arithmetic, states=None):
    states = flow.states if states is None else states
    starts = np.concatenate([flow.z0[:, None], states[:, :-1]], axis=1)
    return Judge(flow.model, starts, np.asarray(flow.inputs), flow.space, arithmetic)


def rms(errors):
    return np.sqrt(np.mean(np.square(errors)))


@examples(25)
@given(st.sampled_from(["gru", "rnn", "leaky", "lstm", "low-rank"]), st.integers(0, 99), st.integers(16, 40))
def test_errors_are_as_large_as_the_unit(kind, seed, bits):
    flow = make_flow(MODELS[kind].init(2, 3, seed, 1.2), (2, 5), seed)
    fine, coarse = (random_factors(judge_of(flow, Arithmetic("test", 2.0**-p))) for p in (bits, bits - 4))
    for of_fine, of_coarse in zip(fine, coarse, strict=True):
        # Errors are drawn alike, of sizes in proportion but for what is lost near zero, and of first order.
        np.testing.assert_allclose(16 * of_fine, of_coarse, rtol=0.01, atol=0.01 * rms(of_coarse))


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16", "autocast"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_right_factors_err_by_less(seed, name):
    """Eight deviations are allowed of each entry's own error, of which a right backend's is below one as a rule."""
    flow = make_flow(GRU.init(2, 4, seed=seed, gain=1.2), (2, 6), seed)
    _, backend = correct_backend(flow, PROFILES[name], seed + 20)
    rounded = replace(backend, arithmetic=ARITHMETICS["float64"], product="fused").at(backend.states)
    found = random_factors(judge_of(backend_flow(flow, backend), PROFILES[name], backend.states))
    for operator, errors in zip(("K", "NTK"), found, strict=True):
        error = backend.factor(operator) - rounded.factor(operator)
        drawn = np.sqrt(np.mean(np.square(errors), axis=0))
        assert 0.005 * rms(drawn) < rms(error) < rms(drawn) / 4


def backend_flow(flow, backend):
    """The flow with the numbers that the backend holds."""
    return type(flow)(backend.model, backend.inputs, backend.z0, flow.space.mu)


def test_sums_that_are_truncated_have_none():
    """Their errors have one sign, so that they conspire."""
    flow = make_flow(GRU.init(2, 3, seed=0), (1, 4), 0)
    assert random_factors(judge_of(flow, Arithmetic("truncated", 2.0**-24, bias=2.0**-12))) is None
