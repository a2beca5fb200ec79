"""Random errors of averages: of first order, alike where numbers are, and what right backends err by is within them."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import PROFILES, correct_backend, emulate, make_flow, random_flow

from kpref import Flow
from kpref.models import GRU
from kpref.oracle import verify
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.certificates import Judge
from kpref.oracle.problem import MODELS
from kpref.oracle.random_averages import deviation_of_average
from kpref.oracle.random_factors import random_factors
from kpref.oracle.second_order import beyond_first_order

AVERAGES = ("P", "K", "NTK")


def judge_of(flow, arithmetic, states=None):
    states = flow.states if states is None else states
    starts = np.concatenate([flow.z0[:, None], states[:, :-1]], axis=1)
    return Judge(flow.model, starts, np.asarray(flow.inputs), flow.space, arithmetic)


def deviation(judge, operator):
    return deviation_of_average(judge, operator, random_factors(judge))


def shown_to_the_oracle(flow, backend, arithmetic, **metrics):
    shown = SimpleNamespace(metrics=metrics, states=backend.states, arithmetic=arithmetic)
    return verify(shown, flow, repeats=1)


@pytest.mark.parametrize("operator", AVERAGES)
@pytest.mark.parametrize("kind", ["gru", "lstm", "s4d"])
def test_errors_are_as_large_as_the_unit(kind, operator):
    flow = make_flow(MODELS[kind].init(2, 3, 0, 1.2), (2, 5), 0)
    fine, coarse = (deviation(judge_of(flow, Arithmetic("test", 2.0**-p)), operator) for p in (34, 30))
    # Sizes are in proportion but for what is lost near zero, which may also tell which numbers are alike: then signs of
    # a few are drawn otherwise.
    np.testing.assert_allclose(16 * np.linalg.norm(fine), np.linalg.norm(coarse), rtol=0.1)


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_right_averages_err_by_less(seed, name):
    """Two deviations are allowed, of one common error and four times each number's own."""
    flow = make_flow(GRU.init(2, 4, seed=seed, gain=1.2), (2, 6), seed)
    _, backend = correct_backend(flow, PROFILES[name], seed + 20)
    held = Flow(backend.model, backend.inputs, backend.z0, flow.space.mu)
    exact = emulate(held, ARITHMETICS["float64"]).at(backend.states)
    judge = judge_of(held, PROFILES[name], backend.states)
    figures = []
    for operator in AVERAGES:
        error = np.abs(backend.metric(f"average_{operator}") - exact.metric(f"average_{operator}"))
        figures.append(np.max(error / deviation(judge, operator)))
    assert 0.01 < max(figures) < 0.5  # that of P may be far smaller, where steps are rounded at their end alone


@pytest.mark.parametrize("operator", AVERAGES)
def test_trials_that_are_all_one_average_nothing_out(operator):
    """What is the same number everywhere is rounded alike."""
    one = make_flow(GRU.init(2, 4, seed=0, gain=1.2), (1, 6), 0)

    def relative(trials):
        flow = Flow(one.model, *(np.repeat(given, trials, axis=0) for given in (one.inputs, one.z0)))
        right = emulate(flow, ARITHMETICS["float64"]).metric(f"average_{operator}")
        return np.linalg.norm(deviation(judge_of(flow, ARITHMETICS["bfloat16"]), operator)) / np.linalg.norm(right)

    # Of independent errors 8^(-1/2) would be left, of those that are half independent and half alike 0.75.
    assert relative(8) > 0.5 * relative(1)


@pytest.mark.parametrize("kind", ["gru", "mlp", "mpn", "s4d"])
def test_transposed_averages_are_found_in_bfloat16(kind):
    """Errors that are one at all points would hide them in two of these; right ones are below a tenth of the bound."""
    flow = make_flow(MODELS[kind].init(2, 6, 0, gain=1.2), (3, 12), 0)
    backend = emulate(flow, ARITHMETICS["bfloat16"])
    right, wrong = backend.metric("average_P"), backend.metric("average_P").T
    report = shown_to_the_oracle(flow, backend, "bfloat16", average_P=right)
    assert max(c.figure / c.bound for c in report.checks if c.identifier == "metrics.average_P") < 0.1
    report = shown_to_the_oracle(flow, backend, "bfloat16", average_P=wrong)
    assert [check.guess for check in report.defects] == ["transpose: the transpose of the right matrix"]


def test_sums_that_are_truncated_have_none():
    flow = make_flow(GRU.init(2, 3, seed=0), (1, 4), 0)
    assert deviation(judge_of(flow, Arithmetic("truncated", 2.0**-24, bias=2.0**-12)), "P") is None


@pytest.mark.parametrize("seed", [0, 1])
def test_points_that_do_not_exist_have_no_errors(seed):
    """Trials that end at once err as trials of that length do."""
    flow = random_flow(seed, ("gru", "lstm"))
    model, trials = flow.model, np.random.default_rng(seed).normal(size=(2, 6, flow.model.n_inputs))
    short = Flow(model, trials[:, :4])
    padded = Flow(model, trials, lengths=[4, 4])
    for operator in AVERAGES:
        own, other = (deviation(judge_of(each, ARITHMETICS["bfloat16"]), operator) for each in (short, padded))
        # Signs are drawn for more numbers, so that sizes agree as means of 16 squares do.
        assert 1 / 4 < np.linalg.norm(own) / np.linalg.norm(other) < 4


def test_beyond_first_order_is_what_a_change_of_the_factor_leaves():
    rng = np.random.default_rng(0)
    for shape in ((4, 9), (9, 4)):
        factor, errors = rng.normal(size=shape), rng.normal(size=(6, *shape))
        halves = [beyond_first_order(factor, errors, size) for size in (1e-2, 5e-3)]
        assert halves[0] / halves[1] == pytest.approx(4, rel=0.01)  # second order
        # At most twice what is said of errors that conspire, 3 |dD|^2 / |G|, and for the trace 2 |dD|^2 / tr G.
        gram = factor @ factor.T
        assert 0 < halves[0] < 1e-4 * (6 / np.linalg.norm(gram) + 2 / np.trace(gram))
    assert beyond_first_order(factor, None, 1.0) == np.inf
    assert beyond_first_order(factor, 0 * errors, 1.0) == np.inf


def test_averages_of_a_saturated_network_err_beyond_first_order():
    """Slopes of a tanh near one are as large as what they are rounded by: small entries of <P> come of errors alone."""
    flow = random_flow(8, ("rnn", "gru", "lstm", "low-rank"))
    _, backend = correct_backend(flow, PROFILES["bfloat16"], 8)
    metrics = {name: call for name, call in backend.metrics.items() if name.startswith("average")}
    report = shown_to_the_oracle(flow, backend, "bfloat16", **metrics)
    assert not report.defects, str(report)
