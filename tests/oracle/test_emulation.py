"""Emulated arithmetic: products are right, whatever the order of their sums."""

import numpy as np
import pytest
from apparatus.emulation import Rounded

from kpref.oracle.arithmetic import ARITHMETICS


@pytest.mark.parametrize("summation", ["plain", "reversed", "blocks", "pairwise"])
@pytest.mark.parametrize(
    "left, right", [((4, 11), (11, 3)), ((2, 4, 11), (11, 3)), ((4, 11), (5, 11, 3)), ((5, 4, 1), (5, 1, 3))]
)
def test_every_order_of_summation_gives_the_product(left, right, summation):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=left), rng.normal(size=right)
    found, expected = Rounded.of(a, ARITHMETICS["float64"], summation) @ b, a @ b
    # Eleven terms of order one in another order, each partial sum rounded once.
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=11**2 * 4 * np.finfo(float).eps)
