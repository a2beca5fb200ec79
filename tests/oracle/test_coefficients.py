"""Error analysis of coefficients, against the errors that emulated arithmetics make."""

import numpy as np
import pytest
from hypothesis import given

from kpref.linearize import linearize
from kpref.models import GRU, RNN, LeakyRNN
from kpref.models.base import Model
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.cases import emulate, make_flow
from kpref.oracle.coefficients import Spread, coefficient_errors, relative, sum_error
from kpref.oracle.emulation import Rounded
from kpref.site_view import site_view
from tests.strategies import KINDS, SEEDS, examples, make_model

ARITHMETIC = pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16", "float16"])


def errors_over_deviations(kind, name, formulas, seed=0, gain=1.5):
    """Errors of an emulated backend's coefficients and states, divided by their deviations."""
    arithmetic = ARITHMETICS[name]
    flow = make_flow(make_model(kind, 3, 16, seed, gain), (4, 12), seed)
    backend = emulate(flow, arithmetic, formulas=formulas)
    starts = np.concatenate([backend.z0[:, None], backend.states[:, :-1]], axis=1)
    before, inputs = (np.moveaxis(value, 1, 0) for value in (starts, backend.inputs))
    exact = site_view(linearize(backend.model, before, inputs))
    errors = coefficient_errors(backend.model, before, inputs, arithmetic)
    pairs = {
        "gates": (backend.form.gates, exact.gates, errors.gates),
        "decay": (backend.form.decay, exact.decay, errors.decay),
        "variable": (backend.form.variable, exact.variable, errors.variable),
        "value": (
            np.moveaxis(backend.states, 1, 0),
            backend.model.evaluate(before, inputs),
            # the certificate adds the rounding of the state itself
            errors.value + relative(np.moveaxis(backend.states, 1, 0), arithmetic.unit),
        ),
    }
    if exact.slope.size:
        pairs["slope"] = (backend.form.slope, exact.slope, errors.slope)
    for part, (mine, right, spread) in pairs.items():
        error, deviation = np.broadcast_arrays(np.abs(np.asarray(mine) - right), spread.deviation)
        worst = np.broadcast_to(spread.worst, error.shape)
        yield part, error, deviation, worst


@ARITHMETIC
@pytest.mark.parametrize("formulas", ["accurate", "stored"])
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
        if part in ("gates", "value"):
            used = error[deviation > 0] / deviation[deviation > 0]
            assert part == "gates" and kind.startswith("Leaky") or np.sqrt(np.mean(used**2)) > 0.05, part


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
        errors = coefficient_errors(model, np.array([[[z]]]), np.array([[[x]]]), arithmetic)
        return errors.gates.deviation.item()

    # 1 and -1 + 2^-8 are stored with errors of 2^-8 before they are added; 1 and -0.5 leave no doubt; nor do zeros.
    assert deviation(1.0, -1.0 + 2.0**-8) == 1
    assert deviation(1.0, -0.5) == 0
    assert deviation(0.0, 0.0) == 0


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


def test_a_model_without_analysis_is_refused():
    class Other(Model):
        def _evaluate(self, parameters, z, x):
            return z

    with pytest.raises(TypeError, match="Other"):
        coefficient_errors(Other({"a": np.ones(1)}, None), np.zeros(1), np.zeros(1), ARITHMETICS["float32"])


def test_the_models_of_the_mutants_have_an_analysis():
    for kind in (GRU, RNN, LeakyRNN):
        model = kind.init(2, 3, 0)
        errors = coefficient_errors(model, np.ones((2, 1, 3)), np.ones((2, 1, 2)), ARITHMETICS["float32"])
        assert (errors.value.deviation > 0).all()
        assert errors.value.deviation.shape == (2, 1, 3)
