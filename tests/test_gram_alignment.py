"""Alignment of kernels from matrices of parameters: exact values, and intervals that hold what they promise."""

import numpy as np
import pytest

from kpref.distributed.gram_alignment import gram_alignment
from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace

#: Points, and parameters of the two models: the second has fewer, and both more than the 400 that are exact.
POINTS, FIRST, SECOND = 600, 440, 410


def operator(matrix, **known):
    spaces = (EuclideanSpace((size,)) for size in matrix.shape[::-1])
    maps = (lambda q: q @ matrix.T), (lambda q: q @ matrix)
    return TensorOperator(*maps, *spaces, structure=Structure(**known))


def estimate(first, second, probes, seed):
    known = {"self_adjoint": True, "positive": True}
    grams = operator(first.T @ first, **known), operator(second.T @ second, **known)
    return gram_alignment(operator(first.T @ second), *grams, probes, seed)


def sensitivity(parameters, decay, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(POINTS, parameters)) * np.arange(1, parameters + 1) ** -decay


def exactly(first, second):
    kernels = first @ first.T, second @ second.T
    return np.vdot(*kernels) / np.prod([np.linalg.norm(kernel) for kernel in kernels])


def test_few_parameters_and_many_probes_are_exact():
    first, second = sensitivity(30, 0.5, 0), sensitivity(50, 0.5, 1)
    found = estimate(first, second, 6, 0)
    assert found.exact
    # Sums of some hundred thousand numbers of either sign.
    assert np.isclose(found.value, exactly(first, second), rtol=1e-12)
    first, second = sensitivity(FIRST, 0.0, 0), sensitivity(SECOND, 0.0, 1)
    assert np.isclose(estimate(first, second, FIRST, 0).value, exactly(first, second), rtol=1e-12)


@pytest.mark.parametrize("decay, shared", [(0.0, False), (0.3, True)])
def test_intervals_hold_what_they_promise(decay, shared):
    """Of 20 intervals of 90 % fewer than 13 are right with a probability of 4e-4, if they are what they say."""
    first = sensitivity(FIRST, decay, 0)
    second = first[:, :SECOND] + 0.5 * sensitivity(SECOND, decay, 1) if shared else sensitivity(SECOND, decay, 1)
    exact = exactly(first, second)
    found = [estimate(first, second, 24, seed) for seed in range(20)]
    held = sum(low <= exact <= high for low, high in (each.interval(0.9) for each in found))
    assert held >= 13
    # And they say something: half of them are no wider than half the value.
    assert np.median([each.standard_error for each in found]) < 0.15 * exact


def test_a_kernel_is_aligned_with_itself_and_not_with_what_it_does_not_see():
    first, apart = sensitivity(FIRST, 0.3, 0), np.zeros((POINTS, SECOND))
    assert np.isclose(estimate(first, 2 * first, 12, 0).value, 1.0, rtol=1e-9)
    first[:300], apart[:300] = 0.0, sensitivity(SECOND, 0.3, 1)[:300]
    assert estimate(first, apart, 12, 0).value == 0.0
    with pytest.raises(ValueError, match="zero is not defined"):
        estimate(first, np.zeros((POINTS, SECOND)), 12, 0)
