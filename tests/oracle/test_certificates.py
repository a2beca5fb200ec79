"""Certificates: correct products of all arithmetics are explained by rounding, and nothing else is."""

import numpy as np
import pytest
from apparatus.cases import PROFILES, correct_backend, emulate, make_flow, random_flow
from apparatus.offered import offering
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow
from kpref.models import GRU, LRU, MPN, RNN, S4D, LeakyRNN
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.certificates import Judge
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.evaluation import FACTORS, evaluate, intermediates
from kpref.oracle.further import FullJudge
from kpref.oracle.problem import MODELS
from kpref.oracle.spreads import Spread
from kpref.oracle.verification import verify
from kpref.space import TrajectorySpace
from tests.strategies import SEEDS, STRUCTURES, examples, make_model

CHECKS = {
    "P": "propagator",
    "P_T": "adjoint",
    "P_inverse": "propagator_inverse",
    "J": "parameter_jacobian",
    "J_T": "parameter_transpose",
    "K": "kernel",
    "NTK": "tangent_kernel",
    "gradient": "gradient",
}
ALL = {
    **CHECKS,
    "P_inverse_T": "adjoint_inverse",
    "D": "sensitivity_residual",
    "D_T": "sensitivity_transpose",
    "D_z0": "initial_response",
    "D_z0_T": "initial_transpose",
    "K_T": "kernel_transpose",
    "NTK_T": "tangent_kernel_transpose",
    "gradient_T": "gradient_transpose",
}


def judge_of(flow, backend):
    """The judge at a backend's trajectory."""
    starts = np.concatenate([backend.z0[:, None], backend.states[:, :-1]], axis=1)
    return Judge(backend.model, starts, backend.inputs, flow.space, backend.arithmetic)


def probe(operator, flow, arithmetic, seed=0):
    shape = (flow.model.n_parameters,) if operator == "J" else flow.states.shape
    return arithmetic.round(np.random.default_rng(seed).normal(size=shape))


def compare(operator, flow, backend, seed=0):
    tensor = probe(operator, flow, backend.arithmetic, seed)
    return getattr(judge_of(flow, backend), CHECKS[operator])(tensor, getattr(backend, operator)(tensor))


@given(
    kind=st.sampled_from(STRUCTURES),
    name=st.sampled_from(["float32", "tf32", "bfloat16", "float16"]),
    seed=SEEDS,
    summation=st.sampled_from(["plain", "reversed", "blocks", "pairwise"]),
    formulas=st.sampled_from(["accurate", "stored", "absolute"]),
    product=st.sampled_from(["gates", "dense", "fused"]),
    data=st.data(),
)
@examples(20)
def test_correct_products_err_by_a_deviation(kind, name, seed, summation, formulas, product, data):
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12)))
    flow = make_flow(make_model(kind, 2, data.draw(st.integers(1, 8)), seed, gain=1.2), shape, seed)
    backend = emulate(flow, ARITHMETICS[name], summation=summation, formulas=formulas, product=product)
    assert judge_of(flow, backend).states(backend.states).ratio().max() < 5
    for operator in CHECKS:
        ratio = compare(operator, flow, backend, seed).ratio()
        assert ratio.max() < (10 if operator in ("NTK", "gradient") else 5), operator
        assert np.sqrt(np.mean(ratio**2)) < 2, operator


@pytest.mark.parametrize("operator", CHECKS)
@pytest.mark.parametrize("name", ["float32", "bfloat16", "short-sums"])
def test_deviations_are_no_larger_than_the_errors_of_a_backend_allow(operator, name):
    # Without this, a judge whose deviations are too large would pass every test above.
    flow = make_flow(GRU.init(2, 8, 0, gain=1.2), (3, 12), 0)
    ratio = compare(operator, flow, emulate(flow, PROFILES[name], formulas="stored")).ratio()
    assert np.sqrt(np.mean(ratio**2)) > 0.05


@pytest.mark.parametrize("operator", CHECKS)
def test_an_error_of_a_thousandth_is_seen_in_float32_and_where_it_is(operator):
    flow = make_flow(GRU.init(2, 6, 0), (2, 8), 0)
    backend = emulate(flow, ARITHMETICS["float32"])
    tensor = probe(operator, flow, backend.arithmetic)
    answer = np.array(getattr(backend, operator)(tensor))
    place = (1, 5, 3) if answer.ndim == 3 else (7,)
    answer[place] += 1e-3 * np.abs(answer).max()
    ratio = getattr(judge_of(flow, backend), CHECKS[operator])(tensor, answer).ratio()
    assert ratio[place] > 50
    alone = np.ones(ratio.shape, bool)
    alone[place] = False
    if operator in ("P", "P_inverse"):
        alone[1, 6] = False  # the residual of the step after sees it too
    if operator == "P_T":
        alone[1, 4] = False  # and of the step before
    assert ratio[alone].max() < 5


def test_chaos_amplifies_nothing():
    # Perturbations of the states grow by many orders of magnitude over these steps; residuals do not know.
    model = make_model("RNN-tanh", 2, 24, 0, gain=3.0)
    flow = make_flow(model, (2, 120), 0)
    backend = emulate(flow, ARITHMETICS["float32"])
    growth = np.abs(evaluate("P", judge_of(flow, backend).form, flow.space, np.ones(flow.states.shape))).max()
    assert growth > 1e8
    assert judge_of(flow, backend).states(backend.states).ratio().max() < 5
    for operator in ("P", "P_T", "P_inverse"):
        tensor = probe(operator, flow, backend.arithmetic)
        ratio = getattr(judge_of(flow, backend), CHECKS[operator])(tensor, getattr(backend, operator)(tensor)).ratio()
        assert ratio.max() < 5


@pytest.mark.parametrize("operator", ["gradient", "NTK"])
def test_a_leak_is_rounded_once_for_all_steps(operator):
    # The error of 1 - alpha is the same in all steps and adds up over the memory of 100 steps.
    flow = make_flow(LeakyRNN.init(2, 8, 0, alpha=0.01), (2, 200), 0, "sum")
    backend = emulate(flow, ARITHMETICS["float32"])
    assert compare(operator, flow, backend).ratio().max() < 5
    judge = judge_of(flow, backend)
    once = judge.form.changed(channels={"decay": judge.form.channel("decay") * (1 + 2.0**-24)})
    tensor = probe(operator, flow, backend.arithmetic)
    answer = evaluate(operator, once, flow.space, tensor)
    assert getattr(judge, CHECKS[operator])(tensor, answer).ratio().max() < 5


@pytest.mark.parametrize("operator", ["gradient", "NTK"])
def test_a_pole_errs_by_what_its_number_does_in_all_steps(operator):
    # Of one that is an exponential of an exponential that is several units, of which all are the same in 200 steps.
    flow = make_flow(LRU.init(2, 4, 2, 0), (2, 200), 0, "sum")
    flow = Flow(flow.model.with_parameters({"nu_log_l0": np.full(2, -6.0)}), flow.inputs)
    judge = judge_of(flow, emulate(flow, ARITHMETICS["bfloat16"]))
    numbers = next(judge.chunks()).numbers
    poles = [name for name in judge.form.places if "kept" in name and numbers[name].deviation.any()]
    off = judge.form.changed(
        channels={name: judge.form.channel(name) + 2.0**-20 * numbers[name].deviation for name in poles}
    )
    tensor = probe(operator, flow, judge.arithmetic)
    moved = 2.0**20 * (evaluate(operator, off, flow.space, tensor) - evaluate(operator, judge.form, flow.space, tensor))
    spread = getattr(judge, CHECKS[operator])(tensor, np.zeros_like(moved)).spread
    assert (np.linalg.norm(moved) / np.linalg.norm(spread.deviation)) < 1.5


@pytest.mark.parametrize("operator", ["gradient", "NTK"])
def test_a_constant_that_is_a_parameter_has_no_error(operator):
    # The rate of learning is given as the arithmetic holds it: what is larger by a unit in all steps is wrong.
    flow = make_flow(MPN.init(2, 4, 0), (2, 60), 0, "sum")
    flow = Flow(flow.model.with_parameters({"decay": np.array([0.99]), "rate": np.array([0.01])}), flow.inputs)
    judge = judge_of(flow, emulate(flow, ARITHMETICS["bfloat16"]))
    for form in (judge._perturbed(np.random.default_rng(seed), 1.0) for seed in range(4)):
        np.testing.assert_array_equal(form.channel("rate_of_learning"), judge.form.channel("rate_of_learning"))


def test_units_are_held_to_errors_of_their_own():
    # Two units that do not see each other, one of which moves a thousand times less.
    model = RNN(np.ones((2, 1)), np.zeros((2, 2)), nonlinearity="identity")
    flow = make_flow(model, (2, 6), 0)
    judge = judge_of(flow, emulate(flow, ARITHMETICS["bfloat16"]))
    tensor = probe("NTK", flow, judge.arithmetic) * np.array([1.0, 2.0**-10])
    for operator in ("K", "NTK"):
        deviation = getattr(judge, CHECKS[operator])(tensor, np.zeros_like(tensor)).spread.deviation
        one, other = np.linalg.norm(deviation, axis=(0, 1))
        assert other < 0.01 * one, operator


def test_a_gradient_errs_once_where_j_multiplies_it():
    # Random errors of J^T g in K and the NTK are as large as its own error, and not counted twice.
    flow = make_flow(GRU.init(2, 4, 0), (3, 12), 0)
    for name in ("float32", "tf32", "bfloat16"):
        judge = judge_of(flow, emulate(flow, ARITHMETICS[name]))
        _, spread, drawn = judge._transposed(probe("J_T", flow, judge.arithmetic), extra=1, samples=400)
        ratio = np.square(drawn).mean() / np.square(spread.deviation).mean()
        assert 0.9 < ratio < 1.6, name


def test_saturation_is_judged_by_what_formulas_lose_there():
    # 1 - t**2 has no correct digits left where t is within a unit of one; the accurate formula has all.
    flow = make_flow(make_model("RNN-tanh", 2, 6, 0), (2, 6), 0)
    flow = Flow(flow.model, 30 * flow.inputs, flow.z0)
    for formulas in ("accurate", "stored", "absolute"):
        for name in ("float64", "bfloat16"):
            backend = emulate(flow, ARITHMETICS[name], formulas=formulas)
            for operator in CHECKS:
                assert compare(operator, flow, backend).ratio().max() < 10


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_an_exponential_less_one_may_be_a_difference(name):
    # exp(w) - 1, as in the authors' code of S4D, has lost all but 11 of 24 bits where a pole is slow.
    flow = make_flow(S4D.init(2, 4, 2, 0), (2, 6), 0)
    slow = {"log_dt_l0": np.full(4, np.log(1e-3))}
    flow = Flow(flow.model.with_parameters(slow), flow.inputs, flow.z0)
    found = {formulas: emulate(flow, ARITHMETICS[name], formulas=formulas) for formulas in ("accurate", "stored")}
    one, other = (backend.form.channel("re_driven0") for backend in found.values())
    assert np.abs(one / other - 1).max() > 50 * ARITHMETICS[name].unit  # or nothing would be tested
    for backend in found.values():
        assert not verify(backend, flow).defects


def test_a_modulated_weight_may_be_a_sum():
    # (W + M * W) x moves by dW x + M dW x, which cancels where M is near -1: no digit is left of it there.
    unit, x = 2.0**-24, np.array([1.0, 0.7])
    model = MPN(np.array([[0.4, -0.3]]), None, np.ones(1), np.zeros(1), nonlinearity="identity")
    start = np.float32([[0.0, -0.9971, -0.9963]]).astype(np.float64)
    flow = Flow(model, x[None, None], start)
    judge = judge_of(flow, emulate(flow, ARITHMETICS["float32"]))
    theta = np.zeros(flow.model.n_parameters)
    theta[:2] = 0.37, 0.81
    change = (theta[:2] * x).astype(np.float32)
    answer = np.zeros((1, 1, 3))
    answer[0, 0, 0] = np.sum(change + start[0, 1:].astype(np.float32) * change)
    comparison = judge.parameter_jacobian(theta, answer)
    assert np.abs(comparison.error).max() > 10 * unit * np.abs(answer).max()
    assert comparison.ratio().max() < 5


def test_where_rounding_is_larger_than_the_answer_errors_are_of_second_order_too():
    # A low-rank network whose P grows by 1e7 in bfloat16: the NTK, P K P^T, is a hundred times too large.
    flow = random_flow(8, ("gru", "lstm", "low-rank"))
    _, backend = correct_backend(flow, ARITHMETICS["bfloat16"], 8)
    assert compare("NTK", flow, backend).ratio().max() < 8
    assert not verify(offering(backend, "NTK"), flow, seed=8).defects


@pytest.mark.parametrize("operator", ["K", "NTK", "gradient"])
def test_products_are_made_of_their_factors(operator):
    flow = make_flow(GRU.init(2, 4, 0), (2, 5), 0)
    tensor = probe(operator, flow, ARITHMETICS["float64"])
    values = list(intermediates(operator, flow.linearization, flow.space, tensor))
    assert len(values) == len(FACTORS[operator])
    expected = {"K": flow.K, "NTK": flow.NTK, "gradient": flow.D.star}[operator](tensor)
    # The same kernels in the same order; only the measure may be multiplied at another place.
    np.testing.assert_allclose(values[-1], expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("operator", ALL)
def test_a_slope_of_relu_that_may_be_either_is_either_for_every_operator(operator):
    # The corner lies 2^-8 from the current of the second of three steps, which errs by as much when it is
    # stored; those of the others are half a unit away. What comes to that slope is lost or passes, also where all of it
    # is error.
    model = RNN(np.ones((1, 1)), np.ones((1, 1)), nonlinearity="relu")
    starts, inputs = np.ones((1, 3, 1)), np.array([[[-0.5], [-1 - 2.0**-8], [-0.5]]])
    judge = FullJudge(model, starts, inputs, TrajectorySpace((1, 3, 1), "sum"), ARITHMETICS["bfloat16"])
    shape = {"J": (2,), "D": (2,), "gradient_T": (2,), "D_z0": (1, 1)}.get(operator, (1, 3, 1))
    tensors = [unit.reshape(shape) for unit in np.eye(np.prod(shape))]

    def ratio(*slopes):
        form = judge.form.changed(channels={"layer0_slope": np.reshape(slopes, (3, 1, 1))})
        answers = [evaluate(operator, form, judge.space, tensor) for tensor in tensors]
        return max(getattr(judge, ALL[operator])(*pair).ratio().max() for pair in zip(tensors, answers, strict=True))

    assert ratio(1.0, 0.0, 1.0) == 0  # the reference itself
    assert ratio(1.0, 1.0, 1.0) < 3
    assert ratio(0.0, 0.0, 0.0) > 20


@pytest.mark.parametrize("seed", [1234, 1607])
def test_short_sums_over_a_dense_jacobian_cancel_where_gates_see_nothing(seed):
    # The cotangents of h and c of an LSTM cancel before the gates, where dc/dh is one to the last bit; in a
    # sum over the whole state they are terms of their own size, and float16 keeps 2^-11 of them.
    flow = random_flow(seed)
    name, backend = correct_backend(flow, PROFILES["short-sums"], seed)
    assert name.endswith("dense")
    report = verify(offering(backend, "P_T"), flow, seed=seed, repeats=1)
    assert report.passed
    assert max(check.figure for check in report.checks if check.operator == "P_T") < 3


def test_where_errors_outgrow_all_numbers_what_has_no_weight_counts_for_nothing():
    """Random errors of 322 steps of this network pass the largest float64; the measure weighs some steps with zero."""
    flow = random_flow(1983)
    _, backend = correct_backend(flow, PROFILES["bfloat16"], 1983)
    with np.errstate(over="ignore"):
        report = verify(offering(backend, "NTK"), flow, seed=1983)
    assert not report.defects


def test_what_rounding_may_do_without_bound_explains_every_error():
    """Deviations overflow, or are none, where those of a network that explodes are multiplied."""
    error, deviation = np.array([1.0, 1.0, 0.0, 1.0, 2.0]), np.array([np.inf, np.nan, np.nan, 0.0, 1.0])
    ratio = Comparison(error, Spread(deviation, deviation)).ratio()
    np.testing.assert_array_equal(ratio, [0.0, 0.0, 0.0, np.inf, 2.0])


def test_a_right_backend_of_a_network_whose_rounding_errors_overflow_is_judged():
    flow = random_flow(907, ("lstm", "low-rank", "stacked-gru"))
    _, backend = correct_backend(flow, ARITHMETICS["bfloat16"], 907)
    assert not verify(backend, flow, seed=907).defects


def test_what_weights_multiply_may_be_too_small_to_be_held():
    """Layers whose inputs scale the state down leave numbers below the normal ones, and an argument may be large."""
    flow = random_flow(881, ("gru-reset-before", "mgu", "ugrnn", "cornn", "antisymmetric", "lru", "s4d", "mpn", "mlp"))
    assert np.abs(flow.states[:, -1]).max() < 1e-50
    _, backend = correct_backend(flow, ARITHMETICS["bfloat16"], 881)
    assert not verify(backend, flow, seed=881).defects


@pytest.mark.parametrize("name", ["mpn", "s4d"])
@pytest.mark.parametrize("summation", ["plain", "reversed"])
def test_dense_jacobians_of_what_is_gathered_round_each_entry(name, summation):
    """A synapse's own numbers enter the sum over synapses one by one: right networks of them were accused."""
    flow = make_flow(MODELS[name].init(2, 4, 3, gain=1.2), (2, 6), 3)
    backend = emulate(flow, ARITHMETICS["tf32"], product="dense", summation=summation)
    report = verify(offering(backend, "P", "P_T", "P_inverse"), flow)
    assert not report.defects, str(report)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_changes_of_two_biases_may_cancel_after_one_of_them_was_rounded(name):
    """Where inputs are small: right networks of PyTorch were accused of their answer to whole numbers."""
    arithmetic, rng = ARITHMETICS[name], np.random.default_rng(4)
    model = RNN.init(2, 6, 0).with_parameters({"bias_ih": np.zeros(6), "bias_hh": np.zeros(6)})
    inputs = arithmetic.round(1e-3 * rng.normal(size=(5, 1, 2)))
    judge = Judge(model, np.zeros((5, 1, 6)), inputs, TrajectorySpace((5, 1, 6), "mean"), arithmetic)
    by_inputs, by_states, bias = (rng.integers(-3, 4, size=shape).astype(float) for shape in ((6, 2), (6, 6), 6))
    theta = np.concatenate([part.ravel() for part in (by_inputs, by_states, bias, -bias)])
    driven = arithmetic.round(arithmetic.round(inputs @ by_inputs.T) + bias)
    answer = arithmetic.round(arithmetic.round(driven - bias) * judge.form.channel("layer0_slope").swapaxes(0, 1))
    ratio = judge.parameter_jacobian(theta, answer).ratio()
    assert np.sqrt(np.mean(ratio**2)) < 1
    assert ratio.max() < 5
