"""Nonlinearities and their derivatives far out: the limits, without a warning or an error, whatever errstate says."""

import numpy as np
import pytest

from kpref.models.nonlinearity import NONLINEARITIES

LIMITS = {  # of value and slope, below and above; the identity, relu and softplus grow as their argument does
    "tanh": ((-1, 1), (0, 0)),
    "relu": ((0, None), (0, 1)),
    "softplus": ((0, None), (0, 1)),
    "sigmoid": ((0, 1), (0, 0)),
    "erf": ((-1, 1), (0, 0)),
    "identity": ((None, None), (1, 1)),
}


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.filterwarnings("error")
def test_limits(name, dtype):
    far = np.array([800.0, 1e5, 1e20, np.finfo(dtype).max], dtype)  # exp(-800) is zero in double precision
    with np.errstate(all="raise"):
        for function, limits in zip(
            (NONLINEARITIES[name].value, NONLINEARITIES[name].slope), LIMITS[name], strict=True
        ):
            for sign, limit in zip((-1, 1), limits, strict=True):
                argument = sign * far
                np.testing.assert_array_equal(function(argument), argument if limit is None else np.full(4, limit))


@pytest.mark.parametrize("name", ["relu", "softplus", "sigmoid", "identity"])
def test_complex_arguments_keep_their_derivatives_far_out(name):
    """A complex step of 1e-200 at 500: slopes above the smallest numbers are exact to rounding."""
    a = np.array([-500.0, -30.0, 30.0, 500.0])
    stepped = NONLINEARITIES[name].value(a + 1e-20j).imag / 1e-20
    np.testing.assert_allclose(stepped, NONLINEARITIES[name].slope(a), rtol=1e-12)
