"""The band around a counting function: its parts, each as a law of its own, and the whole against known spectra.

`scripts/spectra.py` counts over 200 cases how often the whole holds.
"""

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, weights

from kpref.operators import Structure, TensorOperator
from kpref.space import EuclideanSpace
from kpref.spectra import Eigen, SpectralDensity, eigh, spectral_density
from kpref.spectra.counting_band import counting_band
from kpref.spectra.moment_bounds import tail_bounds


def diagonal(values, positive=True):
    space, known = EuclideanSpace((len(values),)), Structure(self_adjoint=True, positive=positive)
    return TensorOperator(lambda q: q * values, lambda q: q * values, space, space, name="A", structure=known)


def above(values, points):
    return (np.asarray(values)[:, None] > np.asarray(points)).sum(axis=0)


def recurrence(values, start, steps):
    """Alphas and betas of the Lanczos process, orthogonalised twice."""
    basis, alphas, betas = [start / np.linalg.norm(start)], [], []
    for _ in range(steps):
        image = values * basis[-1]
        alphas.append(image @ basis[-1])
        for vector in 2 * basis:
            image = image - (vector @ image) * vector
        betas.append(np.linalg.norm(image))
        basis.append(image / betas[-1])
    return np.array(alphas), np.array(betas)


def everywhere(found, values):
    """Points at which a band that fails somewhere fails: eigenvalues, below them, and those of the band."""
    points = np.concatenate([values, np.nextafter(values, -np.inf), found.points])
    return points[points >= found.points[0]]


def holds(found, values):
    points = everywhere(found, values)
    least, most = found.band(points)
    return bool(((least <= above(values, points)) & (above(values, points) <= most)).all())


@given(strategies.SEEDS, st.integers(2, 10), st.sampled_from([0.0, 1.0, 3.0]), st.booleans())
@examples(50)
def test_the_tail_of_a_measure_is_between_its_bounds(seed, steps, power, positive):
    rng = np.random.default_rng(seed)
    values = rng.random(40) ** power if power else rng.normal(size=40)
    start, points = rng.normal(size=40), rng.uniform(values.min() - 0.2, values.max() + 0.2, size=60)
    alphas, betas = recurrence(values, start, steps)
    low, high = tail_bounds(alphas, betas, points, positive and power > 0)
    shares = start**2 / (start @ start)
    true = ((values[:, None] > points) * shares[:, None]).sum(axis=0)
    assert (low <= true + 1e-12).all()  # shares of one in all, and 40 roundings
    assert (true <= high + 1e-12).all()
    order = np.argsort(points)
    assert (np.diff(low[order]) <= 1e-12).all()
    assert (np.diff(high[order]) <= 1e-12).all()


def test_bounds_of_a_measure_are_attained():
    """Two atoms, one step: with mean 0 and variance 1, most above x > 0 is 1 / (1 + x^2) (Chebyshev, one-sided)."""
    points = np.linspace(0.1, 5, 20)
    low, high = tail_bounds(np.array([0.0]), np.array([1.0]), points, positive=False)
    np.testing.assert_allclose(high, 1 / (1 + points**2), rtol=1e-12)
    assert (np.abs(low) < 1e-15).all()


def test_no_mass_below_zero_makes_bounds_tighter():
    """Mean 1, nothing below zero: above x > 1 there is 1 / x at most (Markov), where the variance leaves more."""
    points = np.linspace(1.5, 5, 20)
    alphas, betas = np.array([1.0]), np.array([10.0])
    wide, tight = (tail_bounds(alphas, betas, points, positive)[1] for positive in (False, True))
    np.testing.assert_allclose(tight, 1 / points, rtol=1e-12)
    assert (tight < wide).all()


@pytest.mark.parametrize(("size", "vectors"), [(1, 1), (3, 2), (300, 1), (500, 3)])
def test_random_shares_stay_in_the_band_as_often_as_is_said(size, vectors):
    walks, rng = 1000, np.random.default_rng([size, vectors])
    squares = rng.chisquare(vectors, size=(walks, size))
    shares = np.zeros((walks, size + 1))
    shares[:, 1:] = np.cumsum(squares, axis=1) / squares.sum(axis=1, keepdims=True)
    shares[:, -1], counts = 1.0, np.arange(size + 1)
    band = counting_band(size, vectors, 0.95)
    inside = ((band.least(shares) <= counts) & (counts <= band.most(shares))).all(axis=1).mean()
    deviation = np.sqrt(0.95 * 0.05 / walks)
    assert inside >= 0.95 - 3 * deviation
    if size > 3:  # of few counts, no share is impossible; then it is a band of that level, not of a far higher one
        assert inside <= 0.97 + 3 * deviation


def known_spectra():
    rng = np.random.default_rng(0)
    yield 10.0 ** -np.linspace(0, 6, 400)
    yield 1.0 / np.arange(1, 401) ** 1.5
    yield rng.choice([5.0, 1.0, 0.1], size=400)
    yield np.append(np.linspace(0, 1, 397), [7.0, 8.0, 9.0])
    yield np.append(rng.random(40) ** 2, np.zeros(360))


@pytest.mark.parametrize("options", [{}, {"vectors": 3}, {"modes": 4}, {"moments": True}], ids=str)
def test_known_spectra_are_inside_the_band(options):
    inside = []
    for values in known_spectra():
        op, given_too = diagonal(values), dict(options)
        if "modes" in given_too:
            given_too["modes"] = eigh(op, given_too["modes"])
        if given_too.pop("moments", False):
            given_too |= {"trace": values.sum(), "frobenius_squared": np.square(values).sum()}
        found = spectral_density(op, 32, seed=1, **given_too)
        inside.append(holds(found, values))
        least, most = found.band(values[values > 0])
        assert (most - least).mean() < 0.7 * len(values)  # it says something
        for falling in (found.least, found.most, found.counts):
            assert (np.diff(falling) <= 0).all()
        assert ((found.least <= found.counts) & (found.counts <= found.most)).all()
        assert found.size == len(values)
    assert sum(inside) >= 4  # at 95 %, fewer have a chance of 2 %


def test_more_products_and_known_modes_narrow_it():
    values = 1.0 / np.arange(1, 401) ** 1.2
    op = diagonal(values)
    few, many = (spectral_density(op, products, seed=1) for products in (16, 64))
    with_modes = spectral_density(op, seed=1, modes=eigh(op, 10, tol=1e-12))
    points = np.geomspace(1e-3, 1, 100)
    widths = [
        np.mean(np.log((most + 1) / (least + 1))) for least, most in (f.band(points) for f in (few, many, with_modes))
    ]
    assert widths[0] > 1.5 * widths[1]
    assert widths[1] > widths[2]
    least, most = with_modes.band(values[:9] * (1 - 1e-6))
    assert np.array_equal(least, np.arange(1, 10))  # modes are counted one by one
    assert (most <= np.arange(1, 10) + 3).all()  # and little can hide among them
    assert few.n_products == 16
    assert few.n_vectors == 1


def test_moments_narrow_it_and_wrong_ones_are_refused():
    values = np.repeat([2.0, 1.0], [2, 398])
    op = diagonal(values)
    plain, narrow = (
        spectral_density(op, 16, seed=2, **known) for known in ({}, {"trace": 402.0, "frobenius_squared": 406.0})
    )
    assert (narrow.least >= plain.least).all()
    assert (narrow.most <= plain.most).all()
    assert (narrow.most - narrow.least).sum() < (plain.most - plain.least).sum()
    assert holds(narrow, values)
    for wrong in ({"trace": 200.0}, {"frobenius_squared": 1e4}):
        with pytest.raises(ValueError, match="is not that of A: no spectrum in the band has it"):
            spectral_density(op, 16, **wrong)
    with pytest.raises(ValueError, match="A is not known to have none"):
        spectral_density(diagonal(values, positive=False), trace=304.0)


def test_eigenvalues_of_both_signs():
    values = np.linspace(-3, 2, 400)
    found = spectral_density(diagonal(values, positive=False), 40)
    assert holds(found, values)
    least, most = found.band(np.array([-4.0, 0.0, 4.0]))
    assert (least[0], most[0]) == (400, 400)
    assert least[1] > 90  # 160 are above zero
    assert most[2] == 0


@pytest.mark.parametrize("kind", ["GRU", "RNN-tanh"])
def test_the_ntk_in_a_measure_with_zeros_from_either_side(kind):
    measure = np.random.default_rng(0).uniform(0.1, 2.0, size=(6, 12)) * (np.arange(12) % 5 > 0)
    op = strategies.make_flow(kind, (6, 12, 5), measure=measure).NTK
    weight = weights(op.space_in).ravel()
    root = np.sqrt(weight[weight > 0])
    dense = root[:, None] * op.to_dense()[np.ix_(weight > 0, weight > 0)] / root
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    unaware = TensorOperator(op.apply, op.T.apply, op.space_in, op.space_out, structure=op.structure)
    for one in (op, unaware):
        found = spectral_density(one, 32, seed=1)
        # Below that dense eigenvalues are rounding.
        points = everywhere(found, values[values > 1e-12 * values.max()])
        points = points[points > 1e-12 * values.max()]
        least, most = found.band(points)
        assert ((least <= above(values, points)) & (above(values, points) <= most)).all()
        assert found.size == len(values)
    rank = op.factor.space_in.size
    assert spectral_density(op, 32).most.max() <= min(rank, len(values))


def test_small_operators_are_known_in_full():
    values = np.array([3.0, 3.0, 1.0, 0.5, 0.0])
    found = spectral_density(diagonal(values), 64, vectors=2)
    assert np.array_equal(found.band(np.array([4.0, 2.0, 0.7]))[0], [0, 2, 3])
    assert holds(found, values)
    with pytest.raises(ValueError, match="all 5 eigenpairs of A: there is nothing left"):
        spectral_density(diagonal(values), modes=Eigen(values, np.eye(5), np.zeros(5), 0, np.ones(5, bool)))
    zero = spectral_density(diagonal(np.zeros(5)))
    assert zero.band(1.0)[1] == 0


def test_the_same_bits_for_the_same_seed_and_counts_between_points():
    op = strategies.make_flow("GRU", (4, 6, 5)).NTK
    first, again, other = (spectral_density(op, 16, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.counts, again.counts)
    assert not np.array_equal(first.counts, other.counts)
    found = SpectralDensity(
        np.array([1.0, 2.0]), np.array([5.5, 0.0]), np.array([4, 0]), np.array([7, 1]), 0.95, 9, 1, 1
    )
    assert list(found.above([0.5, 1.0, 1.5, 2.0])) == [9.0, 5.5, 5.5, 0.0]
    least, most = found.band([0.5, 1.0, 1.5, 2.0, 2.5])
    assert list(least) == [4, 4, 0, 0, 0]
    assert list(most) == [9, 7, 7, 1, 1]


def test_refusals():
    op = diagonal(np.arange(5.0))
    for wrong, message in (
        ({"products": 1}, "products must be .*2"),
        ({"vectors": 0}, "vectors must be"),
        ({"level": 1.0}, "level must be"),
        ({"trace": -1.0}, "trace must be"),
        ({"modes": Eigen(np.ones(1), np.ones((1, 4)), np.zeros(1), 0, np.ones(1, bool))}, r"must have shape \(k, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            spectral_density(op, **wrong)
    with pytest.raises(TypeError, match="modes must be eigenpairs"):
        spectral_density(op, modes=3)
