"""Errors fall at the order of the method, or of the interpolation of a forcing where that is lower."""

import numpy as np
import pytest
from apparatus.convergence import FLOOR, QUANTITIES, STEPS, errors, fitted_slope

from continuous.fields import METHODS
from kpref.integrate import TABLEAUS
from tests.conftest import in_turn

STEPS_OF_ORDER = {
    1: (256, 384),
    2: (128, 192),
    3: (128, 192),
    4: (128, 192),
    5: (128, 160, 192, 224, 256),
    8: (20, 24, 28, 32, 224, 256),
}
"""Steps on [0, 2] by the order of the method: many enough for the leading term, too few for rounding; of order 8, few
for what converges at that order, many for what an interpolation limits to 2 or 4."""


@pytest.fixture(scope="module", params=in_turn(METHODS, 2))
def measured(request):
    steps = STEPS_OF_ORDER[TABLEAUS[request.param].order]
    return request.param, steps, [errors(request.param, n) for n in steps]


@pytest.mark.parametrize("key", QUANTITIES)
def test_slope(measured, key):
    method, steps, values = measured
    slope = fitted_slope(steps, [value[key] for value in values])
    assert abs(slope - QUANTITIES[key].order(method)) < 0.15


def test_continuous_and_discrete_adjoint_do_differ(measured):
    """Their difference is an error of the method, not of rounding."""
    _, _, values = measured
    assert max(value["adjoint"] for value in values) > 10 * FLOOR


def test_fitted_slope():
    steps = np.array(STEPS)
    assert fitted_slope(steps, 5.0 * steps**-3.0) == pytest.approx(3.0, abs=1e-12)
    # Coarse grids, and errors lost in rounding, have no say.
    spoilt = np.where(steps > 100, 1e-15, np.where(steps < 50, 1.0, 5.0 * steps**-3.0))
    assert fitted_slope(steps, spoilt) == pytest.approx(3.0, abs=1e-12)
    for few in ([4, 8], [1e-2, 1e-4]), ([4, 5], [1e-2, 1e-15]), ([], []):
        with pytest.raises(ValueError, match="a slope needs two errors above"):
            fitted_slope(*few)


def test_orders():
    assert QUANTITIES["states"].order("dop853") == 8
    assert QUANTITIES["P linear"].order("dop853") == 2
    assert QUANTITIES["PKP cubic"].order("dop853") == 4
    assert QUANTITIES["PKP cubic"].order("euler") == 1
