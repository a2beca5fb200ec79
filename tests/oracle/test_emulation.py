"""Emulated arithmetic: products are right, whatever the order of their sums."""

from dataclasses import replace

import numpy as np
import pytest
from apparatus.cases import NETWORKS, emulate, random_flow
from apparatus.emulation import Rounded

from kpref.models.registry import registration_of
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


@pytest.mark.parametrize("product", ["gates", "dense", "fused"])
def test_matrices_are_those_of_the_operators(product):
    """And are computed anew where the linearisation is another."""
    flow = random_flow(7, ["stacked-gru"])
    backend = emulate(flow, ARITHMETICS["float64"], product=product)
    backend.matrix("P"), backend.factor("K"), backend.P(np.zeros(flow.states.shape))  # what could be kept by mistake
    numbers = 0.5 * backend.form.numbers
    backend = backend.with_form(replace(backend.form, numbers=numbers))
    q, theta = np.ones(flow.states.shape), np.ones(backend.form.n_parameters)
    for found, columns, vector in (
        (backend.P(q), backend.matrix("P").reshape(q.size, -1), q),
        (backend.NTK(q), backend.matrix("NTK").reshape(q.size, -1), q),
        (backend.J(theta), backend.factor("K").reshape(theta.size, -1).T, theta),
    ):
        expected = columns @ vector.reshape(-1)
        # Each sum of at most a thousand terms is rounded once a term, in each of the four factors of the NTK.
        bound = 4 * 1000 * np.finfo(float).eps * (np.abs(columns) @ np.abs(vector.reshape(-1))).max()
        np.testing.assert_allclose(found.reshape(-1), expected, rtol=0, atol=bound)


def test_problems_are_of_the_networks_that_are_named():
    assert {"lstm", "low-rank", "stacked-gru"} <= set(NETWORKS)
    for name in NETWORKS:
        assert {registration_of(random_flow(seed, [name]).model).name for seed in range(3)} == {name}
