"""`verify` as a backend's author sees it: verdicts, places, reports."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import PROFILES, correct_backend, emulate, make_flow, random_flow
from apparatus.offered import everything, offering
from apparatus.planting import channel, over_form
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow
from kpref.models import GRU
from kpref.oracle import certificates, flow_backend
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.backend import OPERATORS
from kpref.oracle.problem import MODELS
from kpref.oracle.verdict import Check, Place, Report
from kpref.oracle.verification import verify
from tests.conftest import PROFILE, in_turn
from tests.strategies import examples, make_model

NAMES = ("float64", "float32", "tf32", "bfloat16")


def gru_flow(shape=(3, 6), units=4, seed=0):
    return make_flow(GRU.init(2, units, seed, gain=1.2), shape, seed)


def check_of(report, identifier):
    return next(check for check in report.checks if check.identifier == identifier)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**31))
@examples(4)
def test_no_correct_backend_is_accused(name, seed):
    flow = random_flow(seed)
    label, backend = correct_backend(flow, ARITHMETICS[name], seed)
    report = verify(backend, flow, seed=seed)
    assert not report.defects, f"{label}\n{report}"


def test_the_diagonal_of_a_dense_jacobian_is_a_term_of_short_sums():
    """A leak of a hundredth: 0.99 y[n-1] is most of each sum, and each partial sum of float16 loses that much of it."""
    flow = random_flow(5003)
    label, backend = correct_backend(flow, PROFILES["short-sums"], 5003)
    assert (flow.model.options["alpha"], "dense" in label) == (0.01, True)
    assert not verify(backend, flow).defects


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_formulas_that_are_right_to_units_of_one_are_no_defects(kind, name):
    """sigmoid = (1 + tanh(a / 2)) / 2 and tanh = 2 sigmoid(2 a) - 1, far into saturation and at small arguments."""
    for seed, scale in enumerate((3.0, 1e-4)):
        flow = make_flow(MODELS[kind].init(3, 8, seed, 1.0), (2, 12), seed)
        biases = {name: 2 * scale * value for name, value in flow.model.parameters.items() if value.ndim == 1}
        flow = Flow(flow.model.with_parameters(biases), scale * flow.inputs, flow.z0)
        backend = emulate(flow, ARITHMETICS[name], formulas="absolute")
        report = verify(offering(backend, "P", "P_T", "J", "NTK"), flow)
        assert report.passed, report


@pytest.mark.parametrize("steps, trials, units", [(1, 3, 4), (5, 1, 4), (5, 3, 1), (1, 1, 1)])
def test_single_steps_trials_and_units(steps, trials, units):
    flow = gru_flow((trials, steps), units)
    assert verify(emulate(flow, ARITHMETICS["float32"]), flow).passed


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_not_offered_is_not_passed(operator):
    flow = gru_flow()
    backend = everything(emulate(flow, ARITHMETICS["float32"]))
    alone = SimpleNamespace(arithmetic="float32", **{operator: getattr(backend, operator)}, states=backend.states)
    report = verify(alone, flow)
    for other in OPERATORS:
        checks = [check for check in report.checks if check.operator == other]
        assert {check.verdict for check in checks} == {"pass" if other == operator else "not offered"}
    assert report.passed
    nothing = verify(SimpleNamespace(dtype="float32"), flow)
    assert not nothing.passed
    assert nothing.exit_status == 2


@pytest.mark.parametrize(
    "operator, name, caught",
    in_turn(
        (
            (operator, name, caught)
            for operator in ("P", "P_T", "P_inverse", "J", "J_T")
            for name, caught in (("float64", True), ("float32", True), ("bfloat16", False))
        ),
        2,
    ),
)
def test_a_constant_of_a_hundred_thousandth_in_one_gate(operator, name, caught):
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS[name])
    over_form(operator, channel("layer0_update_gate", lambda gate: gate * (1 + 1e-5)))(backend)
    report = verify(offering(backend, *OPERATORS), flow)
    own = [check for check in report.defects if check.operator == operator]
    if not caught:
        assert not report.defects
    elif name == "float64":
        assert own[0].guess == "gate: layer0_update_gate times 1.00001"
    else:
        # A hundredth of a thousandth is 168 units of float32, which currents and their sums err by too.
        assert all(check.operator in (operator, "K", "NTK", "gradient") for check in report.defects)


def test_the_first_violation_is_the_planted_one():
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS["float32"])
    right = backend.P

    def wrong(q):
        # From step 4 on, unit 3 of trial 2 is computed with a forcing that is off.
        changed = q.copy()
        changed[2, 4:, 3] *= 1.01
        return right(changed)

    backend.P = wrong
    check = check_of(verify(offering(backend, "P"), flow), "P.residual")
    assert check.verdict == "defect"
    assert (check.first.trial, check.first.step, check.first.unit) == (2, 4, 3)
    assert check.map.shape == (3, 6)
    assert (check.map[2, 4:] > 10).all()
    assert check.map[:2].max() < 10
    assert check.map[2, :4].max() < 10
    assert "trial 2, step 4, unit 3" in str(check)


def test_a_wrong_parameter_is_named():
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS["float64"])
    right = backend.J_T
    start = backend.model.parameters["weight_ih"].size
    backend.J_T = lambda g: right(g) * (1 + 0.1 * (np.arange(flow.model.n_parameters) == start + 5))
    check = check_of(verify(offering(backend, "J_T"), flow), "J_T.value")
    assert check.first.parameter == "weight_hh[1, 1]"
    assert check.guess.startswith("one entry")


def test_a_defect_of_a_factor_is_told_from_one_of_the_product():
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS["float64"])
    right = backend.P
    backend.P = lambda q: right(q)[:, ::-1]
    report = verify(offering(backend, *OPERATORS), flow)
    assert {check.operator for check in report.defects} == {"P", "NTK"}
    assert check_of(report, "P.residual").guess == "time reversed: the answer"
    assert check_of(report, "NTK.value").guess == "follows: from the defect of P"
    assert check_of(report, "P.dot_test").operator == "P"


def test_the_report_as_text_and_as_json():
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS["float32"])
    good = verify(backend, flow)
    assert good.exit_status == 0
    assert str(good).startswith("PASS: Flow(GRU(")
    backend.K = lambda q: np.zeros_like(q)
    bad = verify(backend, flow)
    assert bad.exit_status == 1
    text, plain = str(bad), json.loads(json.dumps(bad.to_dict()))
    assert text.startswith("DEFECT: ")
    assert "explained by: zero: nothing was computed" in text
    assert plain["passed"] is False
    assert len(plain["checks"]) == len(bad.checks)
    found = next(check for check in plain["checks"] if check["identifier"] == "K.value")
    assert found["verdict"] == "defect"
    assert found["bound"] == 10
    assert found["figure"] > 10
    assert found["largest"]["parameter"] is None
    assert set(found) >= {"equation", "meaning", "operator", "guess", "first", "worst_case", "message"}
    assert "map" not in found


def test_infinite_figures_become_strings():
    check = Check("a", "b", "c", "d", "defect", figure=np.inf, bound=1.0, worst_case=np.nan)
    assert check.to_dict()["figure"] == "inf"
    assert str(Place(1.0, 1, 2, 3)) == "trial 1, step 2, unit 3"
    assert Report((check,), "float64", "p").exit_status == 1


def test_a_backend_that_raises_could_not_run():
    flow = gru_flow()
    backend = emulate(flow, ARITHMETICS["float64"])

    def broken(q):
        raise ZeroDivisionError("no")

    backend.P = broken
    report = verify(offering(backend, "P", "P_T"), flow)
    assert check_of(report, "P.residual").verdict == "could not run"
    assert "ZeroDivisionError" in check_of(report, "P.residual").message
    assert report.exit_status == 2


def test_growth_beyond_the_range_of_float16_is_no_defect():
    # The kernel grows like 3^26, and the range of float16 is 2^30.
    model = make_model("Linear", 1, 2, 0).with_parameters({"weight_hh": 3 * np.eye(2)})
    flow = make_flow(model, (1, 14), 0)
    flow = Flow(flow.model.with_parameters({"bias": np.zeros(2)}), 1e-3 * flow.inputs, 0 * flow.z0)
    report = verify(emulate(flow, ARITHMETICS["float16"]), flow)
    assert not report.defects
    assert "beyond the range of float16" in check_of(report, "NTK.value").message


@pytest.mark.parametrize("seed", [319, 1072, 1219])
def test_what_float16_holds_inside_a_step_and_what_it_loses_is_no_defect(seed):
    # Weights of 200 make large numbers that gates close on; averages of K are a few times the smallest number.
    flow = random_flow(seed)
    label, backend = correct_backend(flow, PROFILES["float16"], seed)
    report = verify(backend, flow, seed=seed)
    assert not report.defects, f"{label}\n{report}"
    assert check_of(report, "NTK.value").verdict == "pass"


def test_a_trajectory_within_the_range_of_float16_is_judged():
    flow = random_flow(3375)  # 6,090 at the end
    _, backend = correct_backend(flow, PROFILES["float16"], 3375)
    report = verify(backend, flow, seed=3375)
    assert not report.defects
    assert check_of(report, "states.residual").verdict == check_of(report, "P.residual").verdict == "pass"


def test_a_trajectory_beyond_the_range_of_float16_is_told_as_such():
    flow = random_flow(668)  # 120,000 at the end, of 65,504
    _, backend = correct_backend(flow, PROFILES["float16"], 668)
    report = verify(backend, flow, seed=668)
    assert not report.defects
    assert report.exit_status == 2
    for identifier in ("states.residual", "P.residual", "metrics.average_P"):
        assert "grow to 1.2e+05, near or beyond the range of float16" in check_of(report, identifier).message


def test_the_same_seed_gives_the_same_report():
    flow = gru_flow()
    backend = offering(emulate(flow, ARITHMETICS["bfloat16"]), "P", "K")
    first, again, other = (str(verify(backend, flow, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


# Of the operators the NTK takes most memory; metrics take most of the time.
@pytest.mark.parametrize(
    "operators, most", [(["NTK"], 10), (["metrics", *OPERATORS], 10)][: 1 + (PROFILE == "thorough")]
)
def test_memory_stays_within_a_few_times_that_of_the_flow(operators, most, monkeypatch):
    """About 9 times here for the NTK, which is frugal itself; where something is compiled, that comes on top."""
    # As in a problem whose errors of numbers are too many to be kept.
    monkeypatch.setattr(certificates, "_KEPT_BYTES", 0)
    shape, units = (8, 24), 40  # larger: more of it is the flow's, 5.2 times for (12, 40), 48
    flow = gru_flow(shape, units)
    backend = flow_backend(flow)
    backend.metrics = {name: call() for name, call in backend.metrics.items()}  # not the memory of the oracle
    backend = offering(backend, *operators)
    small = gru_flow()
    verify(flow_backend(small), small)  # compiles

    def build_and_apply():
        own = Flow(flow.model, flow.inputs, flow.z0)
        own.NTK(np.ones(flow.states.shape))

    assert _peak(lambda: verify(backend, flow)) < most * _peak(build_and_apply)


def _peak(function):
    """Memory that a call needs beyond what is there, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_narrow_range_loses_more_of_a_scaled_argument():
    """Gradients of many points are of order 1 / (B T): a sixteenth of one falls out of float16's range in part."""
    flow = make_flow(GRU.init(3, 4, 0), (100, 100), 0)
    backend = emulate(flow, ARITHMETICS["float16"])
    found = {check.identifier: check for check in verify(offering(backend, "gradient"), flow).checks}
    assert found["gradient.linearity"].verdict == "pass"
    assert found["gradient.linearity"].figure < 3  # it was 11.6 of 8


def test_each_parameter_alone_stays_in_a_narrow_range():
    """The steps of one weight were not made smaller: inside a step of this network they came to infinity over zero."""
    networks = ("gru-reset-before", "mgu", "ugrnn", "cornn", "antisymmetric", "lru", "s4d", "mpn", "mlp")
    flow = random_flow(68, networks)
    _, backend = correct_backend(flow, PROFILES["float16"], 68)
    report = verify(offering(backend, "J"), flow, seed=68, repeats=1)
    assert not report.defects, str(report)
    assert "J.weight_hh" in {check.identifier for check in report.checks if check.verdict == "pass"}
