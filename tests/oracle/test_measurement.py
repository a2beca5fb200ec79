"""Measured arithmetics: each profile is found as it is, and a verdict says what was declared and what was measured."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import PROFILES, emulate, make_flow
from apparatus.offered import offering

from kpref import Flow
from kpref.models import Rate
from kpref.oracle import flow_backend, integer_flow, measure_profile, verify, verify_exact
from kpref.oracle.arithmetic import ARITHMETICS, Arithmetic
from kpref.oracle.measured import Profile
from kpref.oracle.measurement import _largest_error
from kpref.oracle.problem import MODELS
from kpref.oracle.product_problems import Bits
from kpref.oracle.product_sites import find_site
from kpref.oracle.profile_problems import Layout
from tests.conftest import in_turn

#: What is said of each profile that is declared to be float32.
REASONS = {
    "float64": [],
    "float32": [],
    "tf32": ["operands of products are rounded to 11 bits"],
    "bfloat16": ["numbers are stored with 8 bits"],
    "float16": ["numbers are stored with 11 bits", "numbers below 6.1e-05 are lost"],
    "autocast": ["operands of products are rounded to 8 bits", "results of products are rounded to 8 bits"],
    "short-sums": ["sums in products are kept to 11 bits"],
    **{name: ["tanh errs by up to"] for name in PROFILES if name.startswith("tanh")},
}


def problem(kind="rnn", seed=0, units=6, inputs=2, **options):
    return make_flow(MODELS[kind].init(inputs, units, seed, 1.2, **options), (3, 8), seed)


def factory_of(profile, declared=None, **options):
    """Makes correct backends in a profile, which declare it or another arithmetic."""

    def make(flow):
        backend = offering(emulate(flow, PROFILES[profile], **options), "P", "J", "J_T", "gradient")
        backend.arithmetic = PROFILES[declared or profile]
        return backend

    return make


def starts(reasons):
    """First words of each reason, as many as `REASONS` has."""
    return sorted(reason.split(",")[0] if not reason.startswith("tanh") else "tanh errs by up to" for reason in reasons)


@pytest.mark.parametrize(
    "name, kind",
    in_turn([(name, "rnn") for name in PROFILES], 2)
    + in_turn([("tf32", "gru"), ("autocast", "gru"), ("tanh-5", "lstm"), ("tanh-97", "gru")], 2),
)
def test_profiles_are_measured(name, kind):
    true, flow = PROFILES[name], problem(kind, seed=len(name))
    found = measure_profile(factory_of(name, formulas="stored"), flow)
    assert found.storage == true.unit
    assert (found.operand, found.result) == (true.operand, true.result)
    assert found.accumulate == true.accumulate
    assert (found.smallest, found.largest) == (true.smallest, true.largest)
    for function, error in found.elementary.items():
        if function in true.elementary:
            assert 1 / 1.5 <= max(error) / max(true.elementary[function]) <= 1.5
        else:
            assert max(error) <= 2
    assert not found.unknown
    assert starts(found.coarser_than(ARITHMETICS["float32"])) == sorted(REASONS[name])
    assert found.coarser_than(true) == ()
    assert Profile(**json.loads(json.dumps(found.to_dict()))).coarser_than(true) == ()


@pytest.mark.parametrize("seed", range(2))
def test_a_function_that_is_right_to_units_of_one_is_told_from_one_right_to_units_of_its_value(seed):
    flow = problem("rnn", seed)
    of_one = measure_profile(factory_of("float32", formulas="absolute"), flow).elementary["tanh"]
    assert 0 < of_one[1] <= 3  # as the arithmetic says and derives
    assert of_one[0] <= 4
    off = Arithmetic("off", 2.0**-24, elementary={"tanh": (2.0, 40.0)})
    found = measure_profile(lambda flow: emulate(flow, off), flow)
    assert 40 / 1.5 <= found.elementary["tanh"][1] <= 40
    assert found.coarser_than(off) == ()


@pytest.mark.parametrize("summation", ["plain", "reversed"])
@pytest.mark.parametrize("units", [4, 5, 9])
def test_sums_from_either_end_lose_in_every_problem(summation, units):
    """Rows of a problem share where their small numbers are: by chance none of twelve lost anything."""
    flow, short = problem("rnn", units, units), PROFILES["short-sums"]  # whose emulated sums go term by term
    site, generator = find_site(Layout(flow.model, flow.states.shape[0])), np.random.default_rng(units)
    for _ in range(8):
        asked = Bits.make(site, {"sums": [12]}, generator)
        model = flow.model.with_parameters(asked.parameters)
        states = emulate(Flow(model, flow.inputs * 0 + np.eye(2)[0], asked.z0), short, summation=summation).states[:, 0]
        lost = flow.model.with_parameters(asked.lost_parameters).evaluate(asked.lost_z0, np.eye(2)[[0]])
        assert np.isclose(states, lost, rtol=0, atol=1e-3)[:, site.columns].any()


@pytest.mark.parametrize("trials", [1, 2])
def test_few_trials_show_the_range_too(trials):
    flow = make_flow(MODELS["rnn"].init(2, 6, 0, 1.2), (trials, 8), 0)
    for name in ("float64", "float32", "float16"):
        found, true = measure_profile(factory_of(name), flow), PROFILES[name]
        assert (found.smallest, found.largest) == (true.smallest, true.largest), found


def test_a_function_right_to_a_part_of_its_unit_is_not_taken_for_one_right_to_units_of_one():
    error, one = np.full(2, 2.0**-7), np.ones(2)
    assert _largest_error(error, np.array([1.0, 2.0**-5]), one) == (0.25, 0.0)  # righter at one than near zero
    assert _largest_error(error, np.array([1.0, 2.0**-12]), one) == (2.0**-7, 2.0**-7)
    assert _largest_error(2.0**9 * error, np.array([1.0, 0.25]), one) == (16.0, 0.0)


@pytest.mark.parametrize("name", ["float32", "autocast", "tanh-134"])
def test_a_verdict_has_three_outcomes(name):
    flow, coarser = problem(), bool(REASONS[name])
    right = verify(None, flow, factory=factory_of(name))
    assert right.outcome == "right as declared"
    assert right.exit_status == 0
    undeclared = verify(None, flow, factory=factory_of(name, "float32"))
    assert undeclared.outcome == ("right as measured" if coarser else "right as declared")
    assert undeclared.exit_status == (3 if coarser else 0)
    assert undeclared.passed != coarser
    assert starts(undeclared.coarser) == sorted(REASONS[name])

    def wrong(flow):
        backend = factory_of(name, "float32")(flow)
        right = backend.P
        backend.P = lambda q: 1.5 * right(q)
        return backend

    report = verify(None, flow, factory=wrong)
    assert report.outcome == "wrong"
    assert report.exit_status == 1
    assert {check.operator for check in report.defects} == {"P"}
    assert report.defects[0].guess.startswith("factor")


def test_a_report_says_what_was_declared_and_what_was_measured():
    report = verify(None, problem(), factory=factory_of("tanh-97", "float32"))
    head, measured, reason, held, *_ = str(report).splitlines()
    assert head.startswith("PASS AS MEASURED, NOT AS DECLARED: ")
    assert measured.startswith("declared float32; measured: stored with 24 bits, as in float32; operands as stored; ")
    assert reason.startswith("coarser than declared: tanh errs by up to ")
    assert held == "the checks are held to what was measured: all errors are those of this arithmetic"
    plain = json.loads(report.to_json())
    assert plain["outcome"] == "right as measured"
    assert plain["profile"]["storage"] == 2.0**-24
    assert plain["coarser"] == list(report.coarser)
    blind = verify(factory_of("float32")(problem()), problem())
    assert blind.profile is None
    assert "declared float32; not measured, which takes a factory" in str(blind)
    whole = integer_flow("rnn", trials=2, steps=3, states=4)
    assert "not measured, since nothing rounds whole numbers" in str(verify_exact(flow_backend(whole), whole))
    field = Flow(Rate.init(2, 3, 0), np.ones((1, 4, 2)), dt=0.1)
    judged = verify(None, field, factory=lambda flow: SimpleNamespace(states=flow.states))
    assert "not measured, as only maps are" in str(judged)
    with pytest.raises(TypeError, match="verify takes a backend, or a factory"):
        verify(None, problem())


def test_states_kept_finer_than_what_is_computed():
    """Parameters and results in bfloat16, states and tensors in float32."""
    mixed = Arithmetic("mixed", 2.0**-8, accumulate=2.0**-24, states=2.0**-24)
    flow = problem("gru")
    short = emulate(flow, mixed)

    class Mixed:
        arithmetic = mixed

        def __init__(self):
            z, states = mixed.round_state(flow.z0), []
            for x in np.moveaxis(short.inputs, 1, 0):
                z = mixed.round_state(short.model.step(z, x))
                states.append(z)
            self.states = np.stack(states, axis=1)
            self.P = short.at(self.states).P

    assert verify(Mixed(), flow).passed


@pytest.mark.parametrize("inputs, bias", [(1, True), (2, False), (1, False)])
@pytest.mark.parametrize("kind", ["gru", "rnn"])
def test_networks_without_biases_or_with_one_input(kind, inputs, bias):
    found = measure_profile(factory_of("tf32"), problem(kind, inputs=inputs, bias=bias, units=4))
    assert found.operand == 2.0**-11
    assert (found.accumulate, found.storage) == (2.0**-24, 2.0**-24)
    hidden = inputs == 1 and not bias and kind != "rnn"  # no input is left beside the constants
    assert ("tanh" in found.unknown) == hidden


@pytest.mark.parametrize("kind", ["leaky", "linear", "low-rank"])
def test_what_a_network_does_not_show_is_not_measured(kind):
    flow = problem(kind, units=3)
    found = measure_profile(lambda flow: flow_backend(flow, "float32"), flow)
    assert found.storage is not None
    assert found.coarser_than(ARITHMETICS["float32"]) == ()
    assert verify(None, flow, factory=lambda flow: offering(flow_backend(flow), "P", "J")).passed


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
def test_a_weight_that_is_not_its_parameter_does_not_pass_for_coarse_sums_or_functions(name):
    """W - W^T - gamma I: neither are its rows those of W, nor is it zero with W."""
    found = measure_profile(factory_of(name), problem("antisymmetric"))
    assert found.coarser_than(PROFILES[name]) == ()
    assert max(found.elementary["tanh"]) <= 2
    # Of rows whose columns are zero W - W^T is W.
    assert (found.operand, found.accumulate) == (PROFILES[name].operand, 2.0**-24)
    assert found.unknown["results"] == "nothing is added to those that a state of this network shows"


#: What stands before, behind or beside the products of these: functions of states, a leak, other products, gates, and
#: no state at all.
SURROUNDED = (
    ("leaky", {}),
    ("leaky", {"nonlinearity": "sigmoid"}),
    ("leaky", {"leak": "inside", "alpha": 0.3}),
    ("leaky", {"nonlinearity": "softplus", "bias": False}),
    ("low-rank", {}),
    ("lru", {}),
    ("s4d", {}),
    ("s4d", {"nonlinearity": "erf", "bias": False, "n_layers": 2}),
    ("mlp", {}),
    ("mlp", {"residual": True, "bias": False}),
    ("cornn", {}),
)
#: A third of these, all of whom are of one law; but each network in a format that multiplies short numbers.
AROUND = [
    *((*case, "tf32") for case in SURROUNDED),
    *in_turn([(*case, name) for name in ("bfloat16", "float16", "short-sums", "tanh-1365") for case in SURROUNDED], 3),
]


@pytest.mark.parametrize("kind, options, name", AROUND)
def test_products_are_measured_whatever_stands_around_them(kind, options, name):
    true, flow = PROFILES[name], make_flow(MODELS[kind].init(2, 8, 3, 1.2, **options), (2, 4), 3)
    found = measure_profile(factory_of(name), flow)
    assert (found.storage, found.accumulate) == (true.unit, true.accumulate)
    assert found.operand == true.operand
    assert found.coarser_than(true) == ()
    assert "products" not in found.unknown
    if "results" not in found.unknown:  # of a network without biases
        assert found.result == 0
    if "range" not in found.unknown:
        assert (found.smallest, found.largest) == (true.smallest, true.largest)


@pytest.mark.parametrize("kind", ["leaky", "low-rank", "lru", "s4d", "mlp"])
def test_results_that_are_rounded_are_told_from_sums(kind):
    found = measure_profile(factory_of("autocast"), problem(kind, seed=1, units=9))
    assert (found.operand, found.result, found.accumulate) == (2.0**-8, 2.0**-8, 2.0**-24)


@pytest.mark.parametrize("kind, alpha", [("leaky", 0.1), ("leaky", 1.0), ("low-rank", 0.3)])
@pytest.mark.parametrize("summation", ["reversed", "blocks", "pairwise"])
def test_products_of_saturated_operands_are_measured_in_every_order_of_sums(kind, alpha, summation):
    flow = problem(kind, seed=2, units=12, alpha=alpha)
    for name in ("bfloat16", "tf32"):
        found = measure_profile(factory_of(name, summation=summation, formulas="absolute"), flow)
        assert (found.operand, found.accumulate) == (PROFILES[name].operand, 2.0**-24)


def test_a_network_without_products_of_several_terms_has_none_to_measure():
    found = measure_profile(factory_of("tf32"), problem("mpn", inputs=4))
    assert found.operand is None
    assert found.unknown["products"] == "none of this network has three terms that depend on states"


def test_a_tanh_is_measured_that_no_input_drives():
    """Layers of a perceptron are chosen by inputs, and driven by the old state alone."""
    for name in ("tanh-97", "tanh-1365"):
        found, true = measure_profile(factory_of(name), problem("mlp")), PROFILES[name]
        assert 1 / 1.5 <= max(found.elementary["tanh"]) / max(true.elementary["tanh"]) <= 1.5
        assert (found.smallest, found.largest) == (true.smallest, true.largest)


@pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
def test_states_that_are_kept_do_not_pass_for_sums_or_coarse_functions(name):
    """An oscillator's damped state is seen in the next one, beside the current that is asked for."""
    for seed in range(3):
        flow = make_flow(MODELS["cornn"].init(2, 8, seed, 1.2), (3, 7), seed)
        found = measure_profile(factory_of(name), flow)
        assert found.coarser_than(PROFILES[name]) == ()
        assert max(found.elementary["tanh"]) <= 2
        assert found.accumulate in (None, 2.0**-24)


@pytest.mark.parametrize("kind", ["gru", "rnn"])
def test_a_factory_that_takes_no_notice_of_its_problem_has_no_profile(kind):
    """Else its errors would pass for those of a very coarse arithmetic."""
    flow = problem(kind)
    own = offering(flow_backend(flow, "float32"), "P")
    found = measure_profile(lambda _: own, flow)
    assert found.coarser_than(ARITHMETICS["float32"]) == ()
    assert "not that of the problem" in found.unknown["arithmetic"]
    assert verify(None, flow, factory=lambda _: own).passed


def test_factories_that_fail_are_not_measured():
    def raising(flow):
        raise OSError("no such device")

    assert measure_profile(raising, problem()).unknown == {"arithmetic": "OSError: no such device"}
    nothing = measure_profile(lambda flow: SimpleNamespace(), problem())
    assert nothing.unknown == {"arithmetic": "the backend offers no states"}
    assert nothing.coarser_than(ARITHMETICS["float64"]) == ()
    assert nothing.arithmetic(ARITHMETICS["tf32"]).operand == 2.0**-11


@pytest.mark.parametrize("profile", ["bfloat16", "autocast"])
def test_sums_of_few_units_that_lose_nothing_by_chance_are_asked_for_again(profile):
    """Six rows of three terms each lost nothing in this network: its sums were taken for those of float64."""
    flow = make_flow(MODELS["rnn"].init(3, 6, 8, 1.2), (3, 10), 8)
    assert measure_profile(factory_of(profile), flow).accumulate == 2.0**-24
