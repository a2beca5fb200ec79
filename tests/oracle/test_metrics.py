"""Checks of metrics: right values of every kind pass, wrong ones are named, and nothing that a backend does escapes."""

from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import PROFILES, correct_backend, emulate, make_flow, random_flow
from apparatus.mutants import MUTANTS

from kpref import Flow
from kpref.models import GRU
from kpref.oracle import check_golden, export_golden, verify
from kpref.oracle.adapters import flow_backend
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.grid import PROBLEMS
from kpref.oracle.isolation import IsolatedBackend
from kpref.oracle.metrics import METRICS
from kpref.oracle.problem import MODELS, rounded
from kpref.oracle.reductions import Reductions
from kpref.spectra.exact_spectrum import has_exact_spectrum

SAMPLED = ("trace_NTK", "frobenius_NTK", "effective_dimension_NTK", "partial_trace_NTK", "alignment_K_NTK")


def checks(report):
    return {check.identifier.removeprefix("metrics."): check for check in report.checks if check.operator == "metrics"}


def dense(flow):
    """The metrics by their definitions, from dense matrices of kpref's own operators."""
    points, units = flow.states.shape[0] * flow.states.shape[1], flow.states.shape[2]
    matrices = {name: getattr(flow, name).to_dense() for name in ("P", "K", "NTK")}
    values = {}
    for name, matrix in matrices.items():
        blocks = matrix.reshape(points, units, points, units)
        values[f"average_{name}"] = blocks.mean(axis=(0, 2))
        values[f"partial_trace_{name}"] = np.einsum("aiaj->ij", blocks)
    weights = np.repeat(flow.space.mu.reshape(-1), units)
    for name in ("K", "NTK"):
        # tr(A* A) with A* = Mu^-1 A^T Mu; A is self-adjoint, so this is tr(A^2)
        matrix = matrices[name]
        trace, square = np.trace(matrix), np.trace(matrix @ matrix)
        values |= {f"trace_{name}": trace, f"frobenius_{name}": np.sqrt(square)}
        values[f"effective_dimension_{name}"] = trace**2 / square
    assert np.all(weights > 0)
    inner = np.trace(matrices["K"] @ matrices["NTK"])
    values["alignment_K_NTK"] = inner / (values["frobenius_K"] * values["frobenius_NTK"])
    return {name: values[name] for name in METRICS}


def offer(flow, **metrics):
    return SimpleNamespace(metrics=metrics, dtype="float64")


@pytest.fixture(scope="module")
def flow():
    weights = np.random.default_rng(0).uniform(0.1, 2.0, size=(3, 7))
    return make_flow(GRU.init(2, 5, seed=1), (3, 7), 3, weights)


@pytest.fixture(scope="module")
def values(flow):
    return dense(flow)


def test_dense_definitions_pass(flow, values):
    found = checks(verify(offer(flow, **values), flow))
    assert {check.verdict for check in found.values()} == {"pass"}
    assert list(found) == list(METRICS)


def test_calls_pairs_and_arrays_of_one_are_read(flow, values):
    trace = values["trace_K"]
    for value in (lambda: trace, np.array([trace]), (trace * 1.01, 0.01 * trace), lambda: (trace, 0.0)):
        assert checks(verify(offer(flow, trace_K=value), flow))["trace_K"].verdict == "pass"


def test_a_standard_error_explains_no_more_than_it_says(flow, values):
    trace = values["trace_K"]
    assert checks(verify(offer(flow, trace_K=(1.5 * trace, 0.01 * trace)), flow))["trace_K"].verdict == "defect"


@pytest.mark.parametrize("name", METRICS)
def test_a_small_error_is_found_in_float64(flow, values, name):
    wrong = values[name] * (1 + 1e-5)
    report = verify(offer(flow, **{name: wrong}), flow)
    assert [check.identifier for check in report.defects] == [f"metrics.{name}"]
    assert report.exit_status == 1


def test_average_and_partial_trace_are_told_apart(flow, values):
    report = verify(offer(flow, average_K=values["partial_trace_K"], partial_trace_NTK=values["average_NTK"]), flow)
    assert checks(report)["average_K"].guess == "reduction: partial trace for average"
    assert checks(report)["partial_trace_NTK"].guess == "reduction: average for partial trace"


def test_the_unit_of_a_wrong_row_is_named(flow, values):
    wrong = values["partial_trace_NTK"].copy()
    wrong[3] *= 1.1
    check = checks(verify(offer(flow, partial_trace_NTK=wrong), flow))["partial_trace_NTK"]
    assert str(check.first) == str(check.largest) == "unit 3"


def test_large_problems_are_sampled_and_pass(flow, values, monkeypatch):
    monkeypatch.setattr("kpref.oracle.reductions._EXACT_ENTRIES", 0)
    assert not [check for check in checks(verify(offer(flow, **values), flow)).values() if check.verdict != "pass"]
    wrong = {name: 4.0 * values[name] for name in SAMPLED}
    # 32 probes, and 8 for the partial trace, are a coarse judge: four times too much is beyond the first two.
    found = {check.identifier for check in verify(offer(flow, **wrong), flow).defects}
    assert {"metrics.trace_NTK", "metrics.frobenius_NTK"} <= found


def test_the_sampled_numbers_are_unbiased(flow):
    # 32 probes: the mean of 30 runs lies within 4 of its own standard errors of the exact number.
    from kpref.oracle.arithmetic import get_arithmetic
    from kpref.oracle.certificates import Judge

    starts = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    judge = Judge(flow.model, starts, np.asarray(flow.inputs), flow.space, get_arithmetic("float64"))
    exact = Reductions(judge, np.random.default_rng(0)).NTK
    samples = [Reductions(judge, np.random.default_rng([1, seed]))._samples for seed in range(30)]
    for row, truth in ((0, exact.trace), (1, exact.frobenius**2)):
        means = np.array([sample[row].mean() for sample in samples])
        assert abs(means.mean() - truth) < 4 * means.std(ddof=1) / np.sqrt(len(means))


@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("problem", ["gru-weights", "rnn-one-of-all", "leaky-chaotic", "linear-no-input"])
def test_emulated_metrics_pass(problem, name):
    flow = PROBLEMS[problem].build(2)
    backend = emulate(flow, ARITHMETICS[name])
    report = verify(SimpleNamespace(metrics=backend.metrics, states=backend.states, arithmetic=name), flow)
    assert not [str(check) for check in report.checks if check.verdict in ("defect", "could not run")]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("effective_dimension_K", lambda b: 1 / b.metric("effective_dimension_K")),
        ("alignment_K_NTK", lambda b: np.vdot(b.gram("K"), b.gram("NTK"))),
    ],
)
def test_ratios_are_told_from_others_in_bfloat16(name, wrong):
    flow = PROBLEMS["gru-weights"].build(2)
    backend = emulate(flow, ARITHMETICS["bfloat16"])
    offered = {name: wrong(backend)}
    report = verify(SimpleNamespace(metrics=offered, states=backend.states, arithmetic="bfloat16"), flow)
    assert [check.identifier for check in report.defects] == [f"metrics.{name}"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("lstm", "norm squared"),
        ("rnn", "dimension of K for the NTK"),
        ("s4d", "dimension of K for the NTK"),
        ("mlp", "average transposed"),
        *((kind, "off-diagonal dropped") for kind in ("gru", "rnn", "leaky")),
    ],
)
def test_what_errors_that_conspire_would_hide_is_found_in_bfloat16(kind, name):
    mutant = MUTANTS[f"metrics: {name}"]
    options = {"alpha": 0.3} if kind == "leaky" else {}
    flow = make_flow(MODELS[kind].init(2, 6, 0, gain=1.2, **options), (3, 12), 0)
    backend = emulate(flow, ARITHMETICS["bfloat16"])
    metric = mutant.description.split(":")[0]
    right, wrong = backend.metrics[metric], emulate(flow, ARITHMETICS["bfloat16"])
    mutant.plant(wrong)
    for call, caught in ((right, False), (wrong.metrics[metric], True)):
        shown = SimpleNamespace(metrics={metric: call}, states=backend.states, arithmetic="bfloat16")
        report = verify(shown, flow, repeats=1)
        assert bool(report.defects) == caught
    assert [check.guess.split(":")[0] in mutant.classes for check in report.defects] == [True]


def test_numbers_that_are_all_alike_are_rounded_alike():
    """Entries of J of a slow network that is saturated are about its leak: bfloat16 rounds them all to one side."""
    flow = random_flow(344)
    _, backend = correct_backend(flow, PROFILES["autocast"], 344)
    metrics = {"partial_trace_K": backend.metrics["partial_trace_K"]}
    shown = SimpleNamespace(metrics=metrics, states=backend.states, arithmetic=PROFILES["autocast"])
    report = verify(shown, flow, repeats=1)
    assert [check.verdict for check in report.checks if check.identifier == "metrics.partial_trace_K"] == ["pass"]
    assert not report.defects


def test_a_zero_operator_has_no_dimension_and_passes_nothing():
    model = GRU.init(2, 3, seed=0).with_trainable(["weight_hh"])
    zero = Flow(model, np.zeros((1, 1, 2)))  # from z0 = 0 the weight multiplies nothing
    report = verify(offer(zero, effective_dimension_K=np.float64("nan"), trace_K=0.0), zero)
    assert {check.verdict for check in checks(report).values()} == {"not offered"}
    assert checks(report)["trace_K"].message == "the operator is zero"


@pytest.mark.parametrize(
    "metrics, word, verdict",
    [
        ({"trace_K": float("nan")}, "nan", "defect"),
        ({"trace_K": np.ones(3)}, "shape (3,)", "defect"),
        ({"trace_K": 1j}, "complex", "defect"),
        ({"average_K": np.ones((2, 2))}, "(5, 5) was expected", "defect"),
        ({"trace_K": lambda: 1 / 0}, "ZeroDivisionError", "could not run"),
        ({"trace_K": (1.0, 2.0, 3.0)}, "3 values", "defect"),
        ({"trace_K": (1.0, -2.0)}, "negative standard error", "defect"),
        ({"trace_k": 1.0}, "there is no metric of this name", "could not run"),
        ([("trace_K", 1.0)], "a mapping was expected", "defect"),
    ],
)
def test_bad_metrics_end_in_a_verdict(flow, metrics, word, verdict):
    report = verify(SimpleNamespace(metrics=metrics), flow)
    bad = [check for check in report.checks if check.verdict == verdict]
    assert len(bad) == 1
    assert word in bad[0].message


FACTORY = """
import numpy as np
from types import SimpleNamespace
def good(flow):
    matrix = flow.K.to_dense()
    return SimpleNamespace(metrics={"trace_K": lambda: np.trace(matrix), "frobenius_K": lambda: 1 / 0})
def unreadable(flow):
    return SimpleNamespace(metrics=3)
"""


def test_metrics_come_from_another_process(tmp_path, monkeypatch, flow):
    (tmp_path / "metric_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with IsolatedBackend("metric_factory:good", flow) as backend:
        found = checks(verify(backend, flow))
    assert found["trace_K"].verdict == "pass"
    assert found["frobenius_K"].verdict == "could not run"
    assert "ZeroDivisionError" in found["frobenius_K"].message
    assert found["average_P"].verdict == "not offered"
    with IsolatedBackend("metric_factory:unreadable", flow) as backend:
        report = verify(backend, flow)
    assert [check.identifier for check in report.defects] == ["metrics.list"]


def test_metrics_come_from_a_golden_folder(tmp_path):
    flow = PROBLEMS["gru-plain"].build(1)
    folder = tmp_path / "golden"
    export_golden(folder, flow, "float64")
    assert "effective_dimension_NTK" in (folder / "README.md").read_text()
    values = dense(rounded(flow, ARITHMETICS["float64"]))
    np.savez(folder / "answers" / "metrics.npz", **values, **{"trace_K.standard_error": 0.0})
    assert {check.verdict for check in checks(check_golden(folder)).values()} == {"pass"}
    np.savez(folder / "answers" / "metrics.npz", **{**values, "trace_K": 2 * values["trace_K"]})
    assert [check.identifier for check in check_golden(folder).defects] == ["metrics.trace_K"]


def test_signs_by_which_columns_cancel_say_nothing_of_their_errors():
    """Errors of a right backend's columns of <K> stood out where one of two products with them was small by chance."""
    flow = random_flow(167, ("mpn",))
    _, backend = correct_backend(flow, ARITHMETICS["tf32"], 167)
    report = verify(backend, flow, seed=167)
    assert not report.defects, str(report)


def test_numbers_of_a_K_that_mixes_units_are_told_without_its_spectrum():
    flow = PROBLEMS["s4d-1x33x65-no-bias-zero-start-weights"].build(seed=0)
    assert not has_exact_spectrum(flow.linearization)  # its one matrix would have 9,295 rows
    own, names = flow_backend(flow), ("trace_K", "frobenius_K", "effective_dimension_K")
    metrics = {name: own.metrics[name] for name in names}
    report = verify(SimpleNamespace(arithmetic="float64", states=own.states, metrics=metrics), flow)
    verdicts = {check.identifier: check.verdict for check in report.checks}
    assert [verdicts[f"metrics.{name}"] for name in names] == ["pass"] * 3
