"""Estimates as numbers: intervals by Student's quantiles, exact scaling, and no sums."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from kpref import Estimate

PLAIN = Estimate(10.0, 0.5, 8, "probes", degrees=7)


def test_intervals_use_the_quantiles_of_student():
    low, high = PLAIN.interval(0.95)
    assert (low, high) == pytest.approx((10 - 2.364624 * 0.5, 10 + 2.364624 * 0.5), rel=1e-6)  # a table's t(7, 0.975)
    assert Estimate(10.0, 0.5, 8, "probes").interval(0.95)[1] == pytest.approx(10 + 1.959964 * 0.5, rel=1e-6)


def test_logarithmic_intervals_stay_positive():
    low, high = Estimate(1.0, 2.0, 4, "probes", degrees=3, logarithmic=True).interval(0.99)
    assert 0 < low < 1 < high
    assert low * high == pytest.approx(1.0)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_of_a_skewed_estimate_is_that_of_the_scale_of_a_gamma_variable(level):
    """k squares of normal numbers with the variance v: their sum over v is a chi-square, whose quantiles bound v."""
    k, total = 6, 4.2
    value, skewness = total / k, math.sqrt(8 / k)
    estimate = Estimate(value, value * math.sqrt(2 / k), k, "squares", skewness=skewness)
    expected = total / chi2(k).ppf([(1 + level) / 2, (1 - level) / 2])
    assert estimate.interval(level) == pytest.approx(tuple(expected), rel=1e-12)
    low, high = (-estimate).interval(level)
    assert (low, high) == pytest.approx((-expected[1], -expected[0]), rel=1e-12)


ESTIMATES = st.builds(
    Estimate,
    value=st.floats(0.1, 1e3),
    standard_error=st.floats(1e-3, 1e2),
    n_products=st.just(8),
    method=st.just("probes"),
    degrees=st.floats(1, 1e3),
    logarithmic=st.booleans(),
    skewness=st.floats(-2, 2),
)


@given(estimate=ESTIMATES, level=st.floats(0.05, 0.99), factor=st.floats(0.01, 100))
def test_intervals_hold_the_value_grow_with_the_level_and_scale(estimate, level, factor):
    if level < 0.5:  # a skewed variable lies on one side of its mean more often than not
        level = 1 - level
    low, high = estimate.interval(level)
    outer = estimate.interval((1 + level) / 2)
    slack = 1e-9 * (high - low)
    assert outer[0] - slack <= low <= high <= outer[1] + slack
    assert estimate.interval(0.95)[0] <= estimate.value <= estimate.interval(0.95)[1]
    scaled = (estimate * factor).interval(level)
    assert scaled == pytest.approx((low * factor, high * factor), rel=1e-9, abs=1e-9 * factor)


def test_a_little_skewness_changes_little():
    plain = PLAIN.interval()
    for skewness in (1e-15, 1e-9, 2e-6, -1e-5):
        assert replace(PLAIN, skewness=skewness).interval() == pytest.approx(plain, rel=1e-5)


def test_the_number_of_products_for_another_accuracy():
    estimate = Estimate(10.0, 1.0, 8, "probes")  # 1.96 of 10
    assert estimate.products_for(0.05) == math.ceil(8 * (0.195996 / 0.05) ** 2)
    assert estimate.products_for(0.5) == 8
    assert Estimate(10.0, 1.0, 8, "Lanczos", bound=True).products_for(0.01) == 8
    with pytest.raises(ValueError, match="no number of products"):
        Estimate(0.0, 1.0, 8, "probes").products_for(0.05)
    with pytest.raises(ValueError, match="relative must be a finite number above 0"):
        estimate.products_for(0)


def test_what_is_printed():
    assert str(Estimate(464.2312, 0.5, 64, "Krylov")) == "464.23 (95 %: 463.25 to 465.21; Krylov, 64 products)"
    assert str(Estimate(4.0, 1.0, 8, "probes")) == ("4 (95 %: 2 to 6; probes, 8 products; +- 5 % would take about 769)")
    assert str(Estimate(3.0, 0.25, 5, "Lanczos", bound=True)) == "3 (sure: 2.75 to 3.25; Lanczos, 5 products)"
    assert str(Estimate(3.0, 0.0, 5, "exact")) == "3 (exact)"
    assert str(Estimate(0.0, 1e-9, 5, "probes")) == "0 (95 %: -1.96e-09 to 1.96e-09; probes, 5 products)"


def test_bounds_and_exact_values_hold_at_any_level():
    assert Estimate(3.0, 0.25, 5, "Lanczos", bound=True).interval(0.999) == (2.75, 3.25)
    assert Estimate(3.0, 0.0, 5, "exact").interval(0.999) == (3.0, 3.0)


@pytest.mark.parametrize("factor", [3, -0.5, np.float64(2.0), np.int64(4)])
def test_scaling_is_exact(factor):
    for scaled in (PLAIN * factor, factor * PLAIN):
        assert isinstance(scaled, Estimate)
        assert (float(scaled), scaled.standard_error) == (10.0 * float(factor), 0.5 * abs(float(factor)))
        assert scaled.degrees == 7
    assert float(PLAIN / 3) == 10.0 / 3


def test_negated_estimates_leave_the_logarithmic_scale():
    assert not (-Estimate(1.0, 0.1, 4, "probes", 3, True)).logarithmic


@pytest.mark.parametrize(
    "combine",
    [lambda: PLAIN + 1, lambda: 1 + PLAIN, lambda: PLAIN + PLAIN, lambda: PLAIN - PLAIN, lambda: sum([PLAIN, PLAIN]),
     lambda: PLAIN * PLAIN, lambda: PLAIN / PLAIN],
)  # fmt: skip
def test_sums_and_products_of_estimates_are_refused(combine):
    with pytest.raises(TypeError, match="share random vectors"):
        combine()


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, math.nan, "0.95", True, None])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises((TypeError, ValueError), match="level must"):
        PLAIN.interval(level)


def test_relative_errors():
    assert PLAIN.relative_error == 0.05
    assert Estimate(0.0, 0.5, 8, "probes").relative_error == math.inf
    assert Estimate(0.0, 0.0, 8, "exact").relative_error == 0.0


def test_intervals_end_where_the_quantity_must():
    plain = Estimate(1.1, 0.2, 10, "probes")
    rank = Estimate(1.1, 0.2, 10, "probes", least=1.0)
    assert rank.interval() == (1.0, plain.interval()[1])
    assert (2 * rank).interval() == (2.0, 2 * plain.interval()[1])
    assert (-1 * rank).interval() == (-rank.interval()[1], -1.0)
    assert (rank / -2).interval() == (-rank.interval()[1] / 2, -0.5)
    assert Estimate(0.9, 0.2, 10, "probes", most=1.0).interval() == (
        Estimate(0.9, 0.2, 10, "probes").interval()[0],
        1.0,
    )
    assert rank.products_for(0.05) == plain.products_for(0.05)


def test_a_format_is_that_of_the_value_and_none_shows_the_interval():
    assert f"{PLAIN:.3g}" == f"{PLAIN.value:.3g}"
    assert f"{PLAIN:>12.2e}" == f"{PLAIN.value:>12.2e}"
    assert f"{PLAIN}" == str(PLAIN)
    assert "95 %" in str(PLAIN)
    with pytest.raises(ValueError, match="format"):
        f"{PLAIN:no}"


@pytest.mark.parametrize(
    "given", [(None, 0.0, 1), ("a", 0.0, 1), (1.0, [], 1), (1.0, 0.0, None), (1.0, 0.0, 1.5), (1.0, 0.0, -1)]
)
def test_what_are_no_numbers_are_refused(given):
    with pytest.raises((TypeError, ValueError), match="must be"):
        Estimate(*given, "m")
