"""Guesses at the class of a defect: what is built into the backend is named, and named plainly."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow
from apparatus.offered import offering

from kpref.models import GRU, LSTM, RNN, LeakyRNN, LowRankRNN, Stacked
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.defects import defects
from kpref.oracle.evaluation import evaluate
from kpref.oracle.form_defects import without
from kpref.oracle.hypotheses import pattern
from kpref.oracle.verification import verify

# More than six steps: costates that reach back five of them are cut off.
GATED = make_flow(GRU.init(2, 4, 0, gain=1.2), (2, 7), 0)
LEAKY = make_flow(LeakyRNN.init(2, 4, 0, alpha=0.3), (2, 7), 0)
MEMORY = make_flow(LSTM.init(2, 3, 0, gain=1.2), (2, 7), 0)
STACKED = make_flow(Stacked.init("gru", 2, 3, 2, 0, gain=1.2), (2, 7), 0)


def guess(operator, change, flow=GATED, name="float64"):
    """The guess at an operator whose answer `change(backend as it was, tensor)` gives."""
    backend = emulate(flow, ARITHMETICS[name])
    right = backend.with_form(backend.form)
    setattr(backend, operator, lambda tensor: backend.arithmetic.round(change(right, tensor)))
    report = verify(offering(backend, operator), flow)
    return next(check.guess for check in report.defects if check.operator == operator)


def over_channel(operator, channel, factor, flow=GATED, name="float64"):
    """The guess at an operator one of whose channels is multiplied."""

    def apply(backend, tensor):
        form = backend.form.changed(channels={channel: factor * backend.form.channel(channel)})
        return getattr(backend.with_form(form), operator)(tensor)

    return guess(operator, apply, flow, name)


@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16"])
def test_a_named_defect_goes_before_the_factor_that_it_amounts_to(name):
    points = GATED.states.shape[0] * GATED.states.shape[1]
    assert guess("K", lambda b, q: points * b.K(q), name=name) == "measure: sum for mean"
    assert guess("K", lambda b, q: -b.K(q), name=name) == "sign: the negative of the right answer"


def test_a_factor_without_a_name_is_fitted():
    assert guess("NTK", lambda b, q: 1.25 * b.NTK(q)) == "factor: the right answer times 1.25"
    assert guess("J_T", lambda b, g: 0.75 * b.J_T(g)) == "factor: the right answer times 0.75"
    assert guess("P_inverse", lambda b, y: 0.75 * b.P_inverse(y)) == "factor: the right answer times 0.75"


@pytest.mark.parametrize("operator", ["P", "P_T", "P_inverse", "J", "J_T"])
@pytest.mark.parametrize("gate", ["layer0_reset_gate", "layer0_update_gate", "layer0_hidden"])
def test_a_factor_of_one_gate_is_fitted(operator, gate):
    assert over_channel(operator, gate, 1.5) == f"gate: {gate} times 1.5"


@pytest.mark.parametrize("operator", ["P", "P_T", "P_inverse"])
def test_a_factor_of_the_direct_term_is_fitted(operator):
    assert over_channel(operator, "layer0_update", 1.01) == "decay: layer0_update times 1.01"
    assert over_channel(operator, "decay", 1.01, LEAKY) == "decay: decay times 1.01"
    assert over_channel(operator, "layer0_forget", 1.01, MEMORY) == "decay: layer0_forget times 1.01"


def test_a_gate_that_is_left_out_or_has_the_wrong_sign():
    assert over_channel("P", "layer0_reset_gate", 0.0) == "gate: layer0_reset_gate left out"
    assert over_channel("P_T", "layer0_update_gate", -1.0) == "gate: layer0_update_gate negative"
    assert over_channel("P", "layer0_output_gate", -1.0, MEMORY) == "gate: layer0_output_gate negative"
    assert over_channel("J_T", "layer1_candidate", 0.0, STACKED) == "gate: layer1_candidate left out"


def test_one_parameter_is_named():
    positions = slice(-GATED.model.parameters["bias_hh"].size, None)

    def halved(backend, g):
        theta = backend.J_T(g)
        theta[positions] *= 0.5
        return theta

    assert guess("J_T", halved) == "bias: bias_hh times 0.5"


@pytest.mark.parametrize("operator", ["K", "NTK", "D", "D_T", "K_T", "gradient_T"])
@pytest.mark.parametrize(
    "names, factor, named",
    [
        (["bias_hh"], 0.0, "bias: bias_hh left out"),
        (["bias_ih", "bias_hh"], 2.0, "bias: bias_ih, bias_hh counted twice"),
    ],
)
def test_a_parameter_that_products_of_operators_leave_out_or_count_twice_is_named(operator, names, factor, named):
    flow = make_flow(GRU.init(2, 5, 1, gain=1.2), (3, 6), 1)
    parts = [
        np.full(flow.model.parameters[name].size, factor if name in names else 1.0) for name in flow.model.trainable
    ]
    entries = np.concatenate(parts)
    weigh = flow.space.weigh
    products = {
        "K": lambda q: flow.J(entries * flow.J.T(weigh(q))),
        "K_T": lambda q: weigh(flow.J(entries * flow.J.T(q))),
        "NTK": lambda q: flow.D(entries * flow.D.T(weigh(q))),
        "D": lambda theta: flow.D(entries * theta),
        "D_T": lambda g: entries * flow.D.T(g),
        "gradient_T": lambda theta: weigh(flow.D(entries * theta)),
    }
    report = verify(SimpleNamespace(states=flow.states, **{operator: products[operator]}), flow)
    assert {check.operator for check in report.defects} == {operator}
    assert report.defects[0].guess == named


def _own(weight, rng):
    blocks = weight.reshape(-1, weight.shape[1], weight.shape[1])
    return (blocks * np.eye(weight.shape[1])).reshape(weight.shape)


def _random(weight, rng):
    return np.std(weight) * rng.normal(size=weight.shape)


@pytest.mark.parametrize("name", ["float64", "float32", "tf32"])
@pytest.mark.parametrize("operator", ["P_T", "gradient"])
@pytest.mark.parametrize("model", [GATED.model, LEAKY.model, MEMORY.model], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("rule, expected", [(_own, "recurrence: of"), (_random, "other weights")])
def test_weights_of_approximate_learning_rules_are_told(rule, expected, model, operator, name):
    """E-prop and SnAp-1 keep local terms, feedback alignment has fixed random weights on the way back."""
    flow, rng = make_flow(model, (4, 10), 0), np.random.default_rng(3)
    recurrent = [op.name for op in flow.linearization.program.operations if op.kind == "product" and op.source]
    weights = {key: rule(flow.linearization.weights[key], rng) for key in recurrent}

    def back(backend, tensor):
        other = backend.with_form(backend.form.changed(weights=weights))
        if operator == "P_T":
            return other.P_T(tensor)
        return backend.J_T(other.P_T(backend.arithmetic.round(flow.space.weigh(tensor))))

    assert guess(operator, back, flow, name).startswith(expected)


def test_random_factors_of_low_rank_are_one_matrix():
    flow = make_flow(LowRankRNN.init(2, 6, 2, 0, gain=1.2, alpha=0.5), (3, 8), 0)
    rng, form = np.random.default_rng(3), flow.linearization
    weights = {key: rng.normal(size=form.weights[key].shape) / 2 for key in ("right", "left")}
    found = guess("P_T", lambda b, g: b.with_form(b.form.changed(weights=weights)).P_T(g), flow)
    assert found == "other weights: in place of left, right, as of feedback alignment"


@pytest.mark.parametrize("part", [np.s_[-2:], np.s_[:, 0]])
def test_weights_that_are_others_in_part_are_not_others_altogether(part):
    weight = np.array(LEAKY.linearization.weights["recurrent"])
    weight[part] *= -0.7
    found = guess("P_T", lambda b, g: b.with_form(b.form.changed(weights={"recurrent": weight})).P_T(g), LEAKY)
    assert not found.startswith("other weights")


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
@pytest.mark.parametrize("operator", ["P", "P_T", "gradient"])
@pytest.mark.parametrize("model", [RNN, GRU, LSTM, LeakyRNN], ids=lambda model: model.__name__)
def test_slopes_of_a_clipped_line_in_place_of_those_of_tanh(model, operator, name):
    flow = make_flow(
        model.init(2, 6, 1, gain=1.5) if model is not LeakyRNN else model.init(2, 6, 1, alpha=0.3), (3, 8), 1
    )

    class Hard(np.ndarray):
        def elementary(self, function):
            plain = np.asarray(self)
            return 1.0 * (np.abs(plain) < 1) if function.__name__ == "tanh_slope" else function(plain)

    def change(backend, tensor):
        starts = np.concatenate([flow.z0[:, None], backend.states[:, :-1]], axis=1)
        z, x = (np.moveaxis(array, 1, 0).view(Hard) for array in (starts, flow.inputs))
        found, form = backend.model.numbers(z, x).channels, backend.form
        slopes = {key: np.asarray(value) for key, value in found.items() if form.places[key].shape[0] > 1}
        return getattr(backend.with_form(form.changed(channels=slopes)), operator)(tensor)

    assert guess(operator, change, flow, name).startswith("slope: that of a clipped line in place of that of tanh")


def test_what_is_not_linear_is_said_to_be_so():
    for change in (lambda b, q: b.K(np.abs(q)), lambda b, q: b.K(q) + 0.1, lambda b, q: b.K(np.clip(q, -1, 1))):
        assert guess("K", change).startswith("not linear")


@pytest.mark.parametrize("window", [1, 2, 5])
def test_truncated_backpropagation(window):
    def truncated(backend, err):
        source = GATED.space.weigh(err)
        costate = source
        for _ in range(window - 1):
            back = [backend.retreat(n, costate[None, :, n])[0] for n in range(1, source.shape[1])]
            costate = source + np.concatenate([np.stack(back, axis=1), np.zeros_like(source[:, :1])], axis=1)
        return backend.J_T(costate)

    expected = "composition: P* left out" if window == 1 else f"truncated: costates reach back {window} steps"
    assert guess("gradient", truncated) == expected


@pytest.mark.parametrize("declared, used", [("float64", "float32"), ("float32", "tf32"), ("tf32", "bfloat16")])
def test_a_coarser_arithmetic_than_declared(declared, used):
    def coarse(backend, q):
        other = replace(backend, arithmetic=ARITHMETICS[used])
        return other.at(backend.states).P(q)

    expected = f"precision lower than declared: the errors are those of {used}"
    assert guess("P", coarse, name=declared) == expected


def test_nothing_is_made_up():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(GATED.model.n_parameters, GATED.space.size))
    assert not guess("J_T", lambda b, g: matrix @ g.ravel())


@pytest.mark.parametrize("operator", ["P", "P_T", "P_inverse", "J", "J_T", "K", "NTK", "gradient"])
@pytest.mark.parametrize("model", [flow.model for flow in (GATED, LEAKY, MEMORY, STACKED)], ids=repr)
def test_hypothetical_defects_are_defects_and_say_which(operator, model):
    from kpref.oracle.certificates import Judge

    flow = make_flow(model, (2, 3), 0)
    starts = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    judge = Judge(flow.model, starts, flow.inputs, flow.space, ARITHMETICS["float64"])
    shape = (flow.model.n_parameters,) if operator == "J" else flow.states.shape
    tensor = np.random.default_rng(0).normal(size=shape)
    truth = evaluate(operator, judge.form, flow.space, tensor)
    labels = set()
    for defect in defects(judge, operator, tensor, truth):
        form = defect.form or judge.form
        value = defect.value() if defect.value else evaluate(operator, form, flow.space, tensor)
        assert value.shape == truth.shape, defect.label
        assert np.isfinite(value).all(), defect.label
        kind, _, rest = defect.label.partition(": ")
        assert kind
        assert rest
        labels.add(defect.label)
    assert len(labels) > 20
    np.testing.assert_array_equal(evaluate(operator, judge.form, flow.space, tensor), truth)  # nothing was changed


def test_the_channels_of_one_part_of_the_state_sum_to_it():
    form, space = GATED.linearization, GATED.space
    tensor = np.random.default_rng(0).normal(size=space.shape)
    whole = tensor - evaluate("P_inverse", form, space, tensor)
    parts = [whole - tensor + evaluate("P_inverse", without(form, name), space, tensor) for name in form.places]
    # Five sums of six products and their sum: a few units of rounding of numbers of order one.
    np.testing.assert_allclose(sum(parts), whole, atol=1e-13)


@pytest.mark.parametrize(
    "index, expected",
    [
        ((1, 2, 3), "one entry"),
        ((slice(None), 4, slice(None)), "one step: only step 4"),
        ((2,), "one trial: only trial 2"),
        ((slice(None), slice(None), 1), "one unit: only unit 1"),
        ((slice(None), slice(None), slice(-2, None)), "last block: only the last 2 units"),
        ((slice(None), slice(2)), "first block: only the first 2 steps"),
        ((slice(None),), ""),
    ],
)
def test_places_have_something_in_common(index, expected):
    size = np.ones((3, 6, 5))
    size[index] = 100.0
    assert pattern(size, 10.0).startswith(expected)
    assert bool(pattern(size, 10.0)) == bool(expected)


def test_where_nothing_can_be_wrong_is_no_pattern():
    # Parameters that move two of five states alone: an answer that is wrong in both of these is wrong everywhere.
    size, answer = np.zeros((3, 6, 5)), np.zeros((3, 6, 5))
    size[:, :, :2], answer[:, :, :2] = 100.0, 1.0
    assert pattern(size, 10.0).startswith("first block")
    assert pattern(size, 10.0, answer) == ""
    size[:, :, 1] = 1.0
    assert pattern(size, 10.0, answer) == "one unit: only unit 0 is wrong"


def test_an_entry_that_barely_stands_out_is_no_pattern():
    size = np.full((3, 6, 5), 8.0)
    size[0, 0, 0] = 11.0
    assert pattern(size, 10.0) == ""
