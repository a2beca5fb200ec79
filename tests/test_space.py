"""Spaces: measures, inner products, weights that are zero, what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples, measures

from kpref import EuclideanSpace, TrajectorySpace


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@st.composite
def spaces(draw):
    trials, steps, units = draw(st.integers(1, 6)), draw(st.integers(1, 15)), draw(st.integers(1, 12))
    return TrajectorySpace((trials, steps, units), draw(measures(trials, steps)))


@examples(50)
@given(spaces(), SEEDS)
def test_inner_product(space, seed):
    p, q = np.random.default_rng(seed).normal(size=(2, *space.shape))
    trials, steps, _ = space.shape
    terms = [space.mu[b, n] * float(x) for b in range(trials) for n in range(steps) for x in p[b, n] * q[b, n]]
    # A sum of at most 1,080 products: gamma of as many roundings, of the absolute sum.
    assert abs(space.inner(p, q) - math.fsum(terms)) <= 1.3e-13 * math.fsum(map(abs, terms))
    assert space.inner(p, q) == pytest.approx(space.inner(q, p), abs=1.3e-13 * math.fsum(map(abs, terms)))
    assert space.norm(q) == math.sqrt(space.inner(q, q))


@examples(50)
@given(spaces(), SEEDS)
def test_weighing_and_its_inverse(space, seed):
    q = np.random.default_rng(seed).normal(size=(2, *space.shape))
    seen = np.broadcast_to(space.mu[:, :, None] > 0, q.shape)
    np.testing.assert_array_equal(space.weigh(q), q * space.mu[:, :, None])
    assert (space.unweigh(q)[~seen] == 0).all()
    assert (space.scale(q, -0.5)[~seen] == 0).all()
    assert (space.scale(q, 0.5)[~seen] == 0).all()
    # Two or three roundings of 1.1e-16 each.
    np.testing.assert_allclose(space.unweigh(space.weigh(q))[seen], q[seen], rtol=4e-16, atol=0)
    np.testing.assert_allclose(space.scale(space.scale(q, 0.5), -0.5)[seen], q[seen], rtol=8e-16, atol=0)
    for got in (space.weigh(q), space.unweigh(q), space.scale(q, 0.5)):
        assert np.isfinite(got).all()


def test_named_measures():
    shape = (3, 4, 2)
    np.testing.assert_array_equal(TrajectorySpace(shape, "sum").mu, np.ones((3, 4)))
    np.testing.assert_allclose(TrajectorySpace(shape).mu, np.full((3, 4), 1 / 12), rtol=3e-16)
    np.testing.assert_array_equal(TrajectorySpace(shape, [1, 2, 0, 4]).mu, np.tile([1.0, 2, 0, 4], (3, 1)))
    np.testing.assert_array_equal(TrajectorySpace(shape, [[1], [2], [0]]).mu, np.repeat([[1.0], [2], [0]], 4, axis=1))
    assert TrajectorySpace(shape).uniform_weight == pytest.approx(1 / 12, rel=3e-16)
    assert TrajectorySpace(shape, [1, 2, 0, 4]).uniform_weight is None
    assert EuclideanSpace((3,)).uniform_weight == 1


def test_mean_over_a_time_grid_is_the_trapezoid_rule():
    """Exact for functions that are linear between the times."""
    times = np.array([0.0, 0.5, 0.7, 2.0])
    space = TrajectorySpace((3, 4, 1), "mean", times)
    assert space.mu.sum() == pytest.approx(1, rel=1e-15)
    line = np.broadcast_to((2 + 3 * times)[None, :, None], space.shape)
    assert space.inner(line, np.ones(space.shape)) == pytest.approx(2 + 3 * 1.0, rel=1e-15)


def test_measure_cannot_be_changed():
    weights = np.ones((2, 3))
    space = TrajectorySpace((2, 3, 4), weights)
    weights[:] = 5
    assert (space.mu == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        space.mu[0, 0] = 1


def test_equality():
    one = TrajectorySpace((2, 3, 4))
    assert one == TrajectorySpace((2, 3, 4), np.full((2, 3), 1 / 6))
    assert hash(one) == hash(TrajectorySpace((2, 3, 4)))
    assert one != TrajectorySpace((2, 3, 4), "sum")
    assert one != TrajectorySpace((2, 3, 5))
    assert one != (2, 3, 4)
    assert EuclideanSpace((3,)) == EuclideanSpace([3])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3), (2, 3, 4, 5), (-1, 3, 4), (2.5, 3, 4)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        TrajectorySpace(shape)


@pytest.mark.parametrize(
    "measure, message",
    [
        ("average", 'must be "mean", "sum"'),
        ([1, 2], r"broadcastable to \(trials, time\) = \(2, 3\); got shape \(2,\)"),
        (np.ones((2, 3, 4)), "broadcastable"),
        (np.ones((3, 2)), "broadcastable"),
        ([1, np.nan, 1], "nan"),
        ([1, np.inf, 1], "inf"),
        ([[1, 1, 1], [1, -0.5, 1]], "-0.5 at trial 1, step 1"),
        (np.zeros((2, 3)), "zero everywhere"),
        ([1j, 1, 1], "numbers"),
        (["a", "b", "c"], "numbers"),
        (None, "measure"),
    ],
)
def test_wrong_measures(measure, message):
    with pytest.raises(ValueError, match=message):
        TrajectorySpace((2, 3, 4), measure)


@pytest.mark.parametrize("times", [[0, 1], [0, 1, 1], [0, 2, 1], [0, 1, np.nan], 3.0])
def test_wrong_times(times):
    with pytest.raises(ValueError, match="times"):
        TrajectorySpace((2, 3, 4), "mean", times)


def test_tensors_of_another_shape(rng):
    space = TrajectorySpace((2, 3, 4))
    with pytest.raises(ValueError, match=r"q must have shape \(2, 3, 4\); got \(2, 3\)"):
        space.inner(np.ones((2, 3, 4)), np.ones((2, 3)))


def test_huge_space_is_refused_before_it_is_allocated():
    with pytest.raises(MemoryError, match="GiB"):
        TrajectorySpace((10**9, 10**6, 2))
