"""Estimates as numbers: intervals by Student's quantiles, exact scaling, and no sums."""

import math

import numpy as np
import pytest

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
