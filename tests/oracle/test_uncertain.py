"""Error analysis of coefficients, against the errors that emulated arithmetics make."""

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow
from apparatus.emulation import Rounded
from hypothesis import given

from kpref.linearize import linearize
from kpref.models import GRU, LSTM, MPN, RNN, LeakyRNN
from kpref.models.nonlinearity import linoid, linoid_slope
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.spreads import Spread, relative, sum_error
from kpref.oracle.uncertain import Uncertain, with_errors
from tests.strategies import KINDS, SEEDS, examples, make_model

ARITHMETIC = pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16", "float16"])


def errors_over_deviations(kind, name, formulas, seed=0, gain=1.5):
    """Errors of an emulated backend's numbers and states, divided by their deviations."""
    arithmetic = ARITHMETICS[name]
    flow = make_flow(make_model(kind, 3, 16, seed, gain), (4, 12), seed)
    backend = emulate(flow, arithmetic, formulas=formulas)
    starts = np.concatenate([backend.z0[:, None], backend.states[:, :-1]], axis=1)
    before, inputs = (np.moveaxis(value, 1, 0) for value in (starts, backend.inputs))
    exact = linearize(backend.model, before, inputs)
    value, numbers = with_errors(backend.model, before, inputs, arithmetic)
    pairs = {
        "value": (
            np.moveaxis(backend.states, 1, 0),
            backend.model.evaluate(before, inputs),
            # the certificate adds the rounding of the state itself
            value + relative(np.moveaxis(backend.states, 1, 0), arithmetic.unit),
        ),
    }
    for channel in exact.places:
        pairs[channel] = (backend.form.channel(channel), exact.channel(channel), numbers[channel])
    for variable in exact.known:
        if variable in numbers:
            pairs[variable] = (backend.form.variable(variable), exact.variable(variable), numbers[variable])
    for part, (mine, right, spread) in pairs.items():
        error, deviation = np.broadcast_arrays(np.abs(np.asarray(mine) - right), spread.deviation)
        worst = np.broadcast_to(spread.worst, error.shape)
        yield part, error, deviation, worst


@ARITHMETIC
@pytest.mark.parametrize("formulas", ["accurate", "stored", "absolute"])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_as_large_as_the_analysis_says_and_no_larger(kind, name, formulas):
    for part, error, deviation, worst in errors_over_deviations(kind, name, formulas):
        assert (error[deviation == 0] == 0).all(), part
        ratio = error[deviation > 0] / deviation[deviation > 0]
        if ratio.size:
            # Deviations count units of rounding, where the error of one rounding is uniform within: the root mean
            # square stays below one. Rounding errors are bounded, so that the largest stays below the bound of 10.
            assert np.sqrt(np.mean(ratio**2)) < 1, part
            assert ratio.max() < 5, part
        # To first order the worst case is one; where weights are large against the unit the second order shows.
        assert (error <= 1.1 * worst).all(), part


@pytest.mark.parametrize("kind", ["GRU", "RNN-tanh", "LeakyRNN-sigmoid"])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_analysis_does_not_exaggerate(kind, name):
    # A deviation of everything would clear everything. The formula with the stored value uses most of what is allowed.
    for part, error, deviation, _ in errors_over_deviations(kind, name, "stored"):
        used = error[deviation > 0] / deviation[deviation > 0]
        if used.size and part not in ("decay", "gate"):  # constants that happen to be close to a number that is stored
            assert np.sqrt(np.mean(used**2)) > 0.05, part


@given(seed=SEEDS)
@examples(20)
def test_large_weights_in_short_numbers(seed):
    # Currents err by more than the width of the nonlinearity: the first order alone would be wrong.
    for kind in ("GRU", "RNN-tanh", "RNN-relu", "LeakyRNN-erf"):
        for part, error, deviation, _ in errors_over_deviations(kind, "bfloat16", "stored", seed, gain=30.0):
            assert (error <= 10 * deviation + 1e-37).all(), (kind, part)


def test_a_current_near_the_corner_of_relu_may_have_either_slope():
    model, arithmetic = RNN(np.ones((1, 1)), np.ones((1, 1)), nonlinearity="relu"), ARITHMETICS["bfloat16"]

    def deviation(z, x):
        _, numbers = with_errors(model, np.array([[[z]]]), np.array([[[x]]]), arithmetic)
        return numbers["layer0_slope"].deviation.item()

    # 1 and -1 + 2^-8 are stored with errors of 2^-8 before they are added; 1 and -0.5 leave no doubt; nor do zeros.
    assert deviation(1.0, -1.0 + 2.0**-8) == 1
    assert deviation(1.0, -0.5) == 0
    assert deviation(0.0, 0.0) == 0


@pytest.mark.parametrize("name", ["float64", "float32", "tf32"])
def test_an_exponential_less_one_may_be_formed_from_the_exponential(name):
    arithmetic = ARITHMETICS[name]
    a = -(2.0 ** np.arange(-12.0, 3.0, 0.5))
    argument = Uncertain(arithmetic.round(a), None, arithmetic)
    rounded = Rounded.of(a, arithmetic)
    error = np.abs(np.asarray(np.exp(rounded) - 1.0) - np.expm1(argument.value))
    spread = np.expm1(argument).spread
    assert (error <= spread.worst).all()
    assert (error <= 5 * spread.deviation).all()


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("function", [linoid, linoid_slope])
def test_rates_may_be_quotients_of_a_difference(function, name):
    # With a series of two terms where that is no worse, and derivatives term by term: the error fills what is allowed.
    arithmetic, near = ARITHMETICS[name], np.geomspace(1e-7, 1, 2000)
    a = arithmetic.round(np.concatenate([np.linspace(-15, 15, 4001), near, -near]))
    deviation = function(Uncertain(a, None, arithmetic)).spread.deviation
    ratio = {
        formulas: np.abs(np.asarray(function(Rounded.of(a, arithmetic, "plain", formulas))) - function(a)) / deviation
        for formulas in ("accurate", "stored")
    }
    assert max(ratio["accurate"].max(), ratio["stored"].max()) < 2
    assert name == "bfloat16" or ratio["stored"][np.abs(a) < 0.1].max() > 0.5


@ARITHMETIC
def test_modulations_that_nearly_close_a_synapse_may_be_added_to_it(name):
    # W + M W, and x + M x for its derivative by W: of terms that cancel where M is near -1.
    arithmetic, rng = ARITHMETICS[name], np.random.default_rng(3)
    model = MPN(arithmetic.round(rng.normal(size=(4, 3))))
    z = arithmetic.round(np.concatenate([np.zeros((50, 4)), -1 + 0.02 * rng.normal(size=(50, 12))], axis=1))
    x = arithmetic.round(rng.normal(size=(50, 3)))
    _, numbers = with_errors(model, z, x, arithmetic)
    inputs, modulation = (Rounded.of(values, arithmetic) for values in (np.tile(x, 4), z[:, 4:]))
    error = np.abs(np.asarray(inputs + modulation * inputs) - (1 + z[:, 4:]) * np.tile(x, 4))
    assert (error <= numbers["modulated"].worst).all()
    assert (error <= 5 * numbers["modulated"].deviation).all()


@ARITHMETIC
@pytest.mark.parametrize("summation", ["plain", "reversed", "blocks", "pairwise"])
@pytest.mark.parametrize("terms", [1, 7, 300])
def test_inner_products_in_any_order(name, summation, terms):
    arithmetic, rng = ARITHMETICS[name], np.random.default_rng(terms)
    left = arithmetic.round(rng.normal(size=(200, terms)))
    right = arithmetic.round(rng.normal(size=(terms, 3)))
    computed = np.asarray(Rounded.of(left, arithmetic, summation) @ Rounded.of(right, arithmetic, summation))
    spread = sum_error(
        left @ right, np.square(left) @ np.square(right), np.abs(left) @ np.abs(right), terms, arithmetic
    )
    error = np.abs(computed - left @ right)
    assert (error <= spread.worst).all()
    ratio = error / spread.deviation
    assert np.sqrt(np.mean(ratio**2)) < 1
    assert ratio.max() < 5


def test_spreads_add_variances_and_worst_cases():
    one, two = Spread(np.array([3.0]), np.array([5.0])), Spread(np.array([4.0]), np.array([6.0]))
    total = one + two.times(-1.0)
    assert total.deviation == 5
    assert total.worst == 11
    assert relative(np.array([-2.0]), 0.25, 4).deviation == 1


def test_a_function_that_is_not_in_the_table_is_refused():
    number = Uncertain(np.ones(2), None, ARITHMETICS["float32"])
    with pytest.raises(TypeError, match="how numpy.arctan errs is not known"):
        np.arctan(number)
    with pytest.raises(TypeError, match="numpy.sort of numbers with errors is not known"):
        np.sort(number)


@pytest.mark.parametrize("function", [np.tanh, np.exp, np.expm1, np.sin, np.cos, np.sqrt, np.square, np.negative])
def test_an_argument_that_is_off_by_its_spread_leads_to_a_value_within_its_own(function):
    """The worst case to first order, the derivative taken where it is largest: no argument in reach leads beyond."""
    rng = np.random.default_rng(0)
    a, worst = rng.uniform(0.5, 3.0, size=200), 1e-3
    found = function(Uncertain(a, Spread(np.full(200, worst), np.full(200, worst)), ARITHMETICS["float32"]))
    off = worst * rng.uniform(-1, 1, size=200)
    assert (np.abs(function(a + off) - found.value) <= found.spread.worst * (1 + worst)).all()  # second order of square
    assert np.median(np.abs(function(a + off) - found.value) / found.spread.worst) > 0.05


def test_every_network_carries_errors():
    for kind in (GRU, RNN, LeakyRNN, LSTM):
        model = kind.init(2, 3, 0)
        value, _ = with_errors(model, np.ones((2, 1, model.n_states)), np.ones((2, 1, 2)), ARITHMETICS["float32"])
        assert (value.deviation > 0).all()
        assert value.deviation.shape == (2, 1, model.n_states)
