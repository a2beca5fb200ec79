"""Solves that are not sequential are held to the forward error of a parallel solve, and wrong ones are caught."""

import json

import numpy as np
import pytest
from apparatus.cases import PROFILES, make_flow, random_flow
from apparatus.offered import offering
from apparatus.solvers import solver_backend

from kpref.oracle import verify
from kpref.oracle.parallel_solves import PARALLEL
from kpref.oracle.problem import MODELS

NETWORKS = ("gru", "rnn", "lstm", "stacked-gru", "low-rank")
KINDS = [("scan", name) for name in ("float64", "float32", "tf32", "bfloat16", "short-sums")]
KINDS += [("lu", name) for name in ("float64", "float32")]


def judged(flow, name, kind, defect="", seed=0):
    with np.errstate(all="ignore"):
        return verify(solver_backend(flow, PROFILES[name], kind, defect), flow, seed=seed, repeats=1)


def small_flow(kind):
    return make_flow(MODELS[kind].init(3, 6, 0, 1.2), (3, 12), 1)


@pytest.mark.parametrize("kind, name", KINDS)
def test_right_solves_are_not_accused(kind, name):
    for seed in (7009, 7010, 7011, 7012, 7013, 7014, 7015, 7019, 7020, 7022):
        flow = random_flow(seed, NETWORKS)
        if flow.states[0].size <= 500:
            report = judged(flow, name, kind, seed=seed)
            assert not report.defects, f"{seed}\n{report}"


# A hundredth of a step is no more than what a scan makes of rounding to 8 bits, or of sums in 11.
@pytest.mark.parametrize(
    "defect, name",
    [("wrong step", name) for name in ("float64", "float32", "tf32")]
    + [
        (defect, name)
        for defect in ("transposed step", "dropped level")
        for name in ("float64", "float32", "tf32", "bfloat16", "short-sums")
    ],
)
def test_wrong_scans_are_caught(defect, name):
    report = judged(small_flow("gru"), name, "scan", defect)
    assert "P" in {check.operator for check in report.defects}
    assert "P_T" not in {check.operator for check in report.defects if "dot_test" not in check.identifier}


def wrong_transpose(backend, defect):
    """D_T of a backend with a defect that P_T does not have."""
    right, adjoint = backend.D_T, backend.P_T
    if defect == "one entry":
        return lambda g: right(g) * (1 + 1e-4 * (np.arange(right(g).size) == 5))
    if defect == "other costates":
        return lambda g: right(0.5 * (g + adjoint(g)))
    return lambda g: right(np.asarray(g) * (np.arange(g.shape[1]) < g.shape[1] - 1)[None, :, None])


@pytest.mark.parametrize("defect", ["", "one entry", "other costates", "last step dropped"])
@pytest.mark.parametrize("name", ["float64", "float32"])
def test_what_is_made_of_ones_own_solve_is_held_to_one_product_of_it(name, defect):
    """Elimination errs more in the costates of this problem than a sweep does."""
    flow = random_flow(7007, NETWORKS)
    backend = offering(solver_backend(flow, PROFILES[name], "lu"), "P_T", "D_T")
    if defect:
        backend.D_T = wrong_transpose(backend, defect)
    report = verify(backend, flow, seed=7007, repeats=1)
    assert {check.operator for check in report.defects} == ({"D_T"} if defect else set()), str(report)
    if not defect:
        del backend.P_T  # then nobody knows what it was made of
        assert verify(backend, flow, seed=7007, repeats=1).defects


def test_the_report_says_which_certificate_it_was():
    flow = random_flow(7022, NETWORKS)
    report = judged(flow, "float32", "lu", seed=7022)
    assert not report.defects
    by = [check.identifier for check in report.checks if check.message == PARALLEL]
    assert by
    assert PARALLEL in str(report)
    assert PARALLEL in json.dumps(report.to_dict()["checks"], default=str)
