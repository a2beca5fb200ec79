"""Pooled evidence: what is too coarse everywhere is caught though no entry stands out, and right backends are not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from apparatus.cases import emulate, make_flow
from apparatus.mutants import MUTANTS
from apparatus.offered import offering
from hypothesis import given
from hypothesis import strategies as st

from kpref import Flow
from kpref.models import RNN, S4D
from kpref.oracle.arithmetic import ARITHMETICS
from kpref.oracle.claimed_errors import Comparison
from kpref.oracle.pooled import Roundings, directions_of, pooled_excess
from kpref.oracle.problem import MODELS
from kpref.oracle.spreads import Spread
from kpref.oracle.verification import verify

FLOW = make_flow(RNN.init(2, 8, 0, gain=1.2), (3, 8), 0)


def short_weights(backend):
    """P with the weights that states go through kept in bfloat16, whatever else is computed in."""
    short = ARITHMETICS["bfloat16"].round
    weights = {name: short(value) for name, value in backend.form.weights.items()}
    return backend.with_form(backend.form.changed(weights=weights)).P


def test_what_is_eight_times_too_coarse_is_caught_though_no_entry_is_beyond_ten():
    backend = emulate(FLOW, ARITHMETICS["tf32"])
    shown = SimpleNamespace(arithmetic="tf32", states=backend.states, P=short_weights(backend))
    checks = {check.identifier: check for check in verify(shown, FLOW).checks}
    assert checks["P.residual"].verdict == "pass"
    assert checks["P.pooled"].verdict == "defect"
    assert checks["P.pooled"].guess == "precision lower than declared: weights are those of bfloat16"


def test_sums_in_a_shorter_format_are_caught():
    declared = ARITHMETICS["tf32"]
    coarse = emulate(FLOW, replace(declared, accumulate=2.0**-8))
    coarse.states = emulate(FLOW, declared).states
    shown = offering(coarse.at(coarse.states), "P")
    shown.arithmetic = "tf32"
    assert "P.pooled" in {check.identifier for check in verify(shown, FLOW).defects}


@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16"])
def test_right_backends_stay_below(name):
    checks = verify(offering(emulate(FLOW, ARITHMETICS[name]), "P", "J_T"), FLOW).checks
    figures = [check.figure for check in checks if check.identifier.endswith("pooled") and check.figure is not None]
    assert len(figures) == 3
    assert any(figures)
    # Roundings that are spread evenly have 1/3 of the square of a unit, and the bound is at least that.
    assert all(0 <= figure < 1 for figure in figures)


def test_coefficients_of_another_step_are_not_taken_for_a_parallel_solve():
    """Their errors stay below what a scan in bfloat16 makes of rounding, entry by entry, but not all together."""
    flow = make_flow(MODELS["low-rank"].init(2, 6, 0, gain=1.2, alpha=0.3), (3, 12), 0)
    backend = emulate(flow, ARITHMETICS["bfloat16"])
    MUTANTS["P_T: previous coefficients"].plant(backend)
    checks = {check.identifier: check for check in verify(offering(backend, "P_T"), flow).checks}
    assert checks["P_T.residual"].guess == "time shifted by one: coefficients of the step before"


def test_a_parameter_alone_shows_what_others_hide():
    flow = make_flow(MODELS["low-rank"].init(2, 6, 0, gain=1.2, alpha=0.3), (3, 12), 0)
    backend = emulate(flow, ARITHMETICS["bfloat16"])
    MUTANTS["J: stale parameters"].plant(backend)
    checks = {check.identifier: check for check in verify(offering(backend, "J"), flow).checks}
    assert checks["J.value"].verdict == "pass"
    assert checks["J.pooled"].verdict == "defect"
    assert checks["J.pooled"].guess.startswith("other point")
    assert checks["J.pooled"].message == "most of all in all entries, by n alone"


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_independent_errors_are_counted(trials, steps, units, seed):
    generator, shape = np.random.default_rng(seed), (trials, steps, units)
    apart, alike = Roundings.of_none(shape), Roundings.of_none(shape)
    for _ in range(trials):
        apart.add(generator.choice([-1.0, 1.0], size=(200, steps, units)))
        alike.add(generator.choice([-1.0, 1.0], size=(200, 1, 1)) * np.ones((steps, units)))
    entries = {"all entries": np.prod(shape), "unit": trials * steps, "step": trials * units}
    for words, count in apart.counts().items():
        # Of 200 * 199 / 2 pairs: the mean of so many squares errs by 1 % of itself.
        np.testing.assert_allclose(count, entries[words], rtol=0.06)
        np.testing.assert_allclose(alike.counts()[words], trials, rtol=1e-12)


@pytest.mark.parametrize("where, place", [(np.s_[:, :, 5], "unit 5"), (np.s_[:, 2], "step 2"), (np.s_[...], "all")])
def test_the_place_is_named(where, place):
    error = np.zeros((4, 100, 40))
    error[where] = 2.5
    one = np.ones_like(error)
    excess, words = pooled_excess(Comparison(error, Spread(one, one)), error.shape, ARITHMETICS["float32"], False)
    assert excess > 1
    assert words.startswith(place)


def test_one_large_error_is_no_evidence_of_many():
    error = np.zeros((2, 10, 10))
    error[0, 0, 0] = 9.9
    one = np.ones_like(error)
    excess, _ = pooled_excess(Comparison(error, Spread(one, one)), error.shape, ARITHMETICS["float32"], False)
    assert excess < 1


@pytest.mark.parametrize("summation", ["plain", "reversed"])
def test_long_sums_with_one_large_term_are_right(summation):
    """A dense Jacobian's row has its diagonal somewhere, and each term after it is rounded to the digits of that."""
    flow = make_flow(MODELS["leaky"].init(1, 400, 0, gain=0.01, alpha=0.01), (3, 6), 0)
    backend = emulate(flow, ARITHMETICS["float32"], summation=summation, product="dense")
    checks = {check.identifier: check for check in verify(offering(backend, "P_T"), flow).checks}
    assert checks["P_T.pooled"].verdict == checks["P_T.residual"].verdict == "pass"
    # Of as many terms as units, each rounded to half a unit at most: the mean square is a third of the bound's.
    assert checks["P_T.pooled"].figure < 1 / 3


@pytest.mark.parametrize("alike", [False, True])
def test_one_number_that_stands_everywhere_is_one_rounding(alike):
    """What a bias of the first layer makes in the second of a linear network is the same at all points."""
    answer = np.random.default_rng(0).normal(size=(2, 60, 100))
    answer = np.broadcast_to(answer[:1, :1], answer.shape) if alike else answer
    error, one = np.zeros_like(answer), np.ones_like(answer)
    error[..., 7] = 1.0  # as much as a rounding can be
    comparison = Comparison(error, Spread(one, one))
    for alone in (False, True):
        excess, place = pooled_excess(comparison, error.shape, ARITHMETICS["float32"], False, answer, alone)
        assert (excess > 1) == (not alike)
        assert alike or place == "unit 7"


def test_constants_of_a_unit_are_rounded_once_for_all_points():
    """A pole's coefficients err alike at all points: two or three deviations of one there are no many roundings."""
    flow = make_flow(S4D.init(2, 4, 2, 0), (3, 30), 0)
    backend = emulate(flow, ARITHMETICS["float32"])
    pole = backend.form.channel("re_by_alpha0").copy()
    pole[..., 3] *= 1 + 16 * 2.0**-24  # a few of the roundings that a quotient of a difference magnifies
    backend.form = backend.form.changed(channels={"re_by_alpha0": pole})
    checks = {check.identifier: check for check in verify(offering(backend, "J"), flow).checks}
    assert 0.2 < checks["J.pooled"].figure < 1  # it was 1.3


@given(st.integers(1, 5), st.integers(0, 99))
def test_directions_are_those_that_points_have(rank, seed):
    generator = np.random.default_rng(seed)
    ends, _ = np.linalg.qr(generator.normal(size=(12, rank)))
    points = generator.choice([-1.0, 1.0], size=(4000, rank)) @ ends.T
    # Moments beside the diagonal have squares of 1/4000 on average, rank - 1 of them for each of the diagonal.
    assert directions_of(points) == pytest.approx(rank, rel=1e-12 + 10 * (rank - 1) / 4000)
    assert directions_of(1.0 + 0 * points) == pytest.approx(1.0)
    assert directions_of(0 * points) == 1.0


def test_a_weight_that_is_rounded_errs_alike_where_states_are_alike():
    """Most right backends in TF32 of large networks that settle were accused, by what one bias alone moves."""
    flow = make_flow(MODELS["stacked-gru"].init(1, 33, 4, gain=0.9, n_layers=3), (2, 64), 0)
    still = Flow(flow.model, np.ones_like(flow.inputs), 0.5 * flow.z0)
    report = verify(offering(emulate(still, ARITHMETICS["tf32"]), "J"), still)
    assert not report.defects, str(report)
