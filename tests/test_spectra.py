"""Eigenpairs and the exact spectrum of K against dense linear algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, examples, flows

from kpref import Flow, models
from kpref.operators import TensorOperator
from kpref.space import TrajectorySpace
from kpref.spectra import eigh, kernel_spectrum
from kpref.spectra.unit_grams import grams_of_units
from kpref.unit_form import unit_form

KINDS = {
    "gru": lambda seed: models.GRU.init(2, 5, seed),
    "gru_subset": lambda seed: models.GRU.init(2, 5, seed).with_trainable(["weight_ih", "bias_hh"]),
    "rnn": lambda seed: models.RNN.init(2, 5, seed, gain=1.5),
    "leaky": lambda seed: models.LeakyRNN.init(2, 5, seed, alpha=0.3, nonlinearity="softplus"),
    "linear": lambda seed: models.Linear.init(2, 5, seed),
}


def build(kind, trials, steps, seed, masked):
    generator = np.random.default_rng(seed)
    measure = "mean"
    if masked:
        measure = generator.random((trials, steps)) + 0.1
        measure[generator.random((trials, steps)) < 0.3] = 0.0
        measure[0, 0] = 1.0
    return Flow(KINDS[kind](seed), generator.normal(size=(trials, steps, 2)), measure=measure)


def symmetrised(op: TensorOperator) -> np.ndarray:
    """Mu^(1/2) A Mu^(-1/2) on the support of the measure, dense."""
    weight = np.broadcast_to(op.space_in.weights, op.shape_in).ravel()
    keep = weight > 0
    root = np.sqrt(weight[keep])
    return root[:, None] * op.to_dense()[np.ix_(keep, keep)] / root


@given(
    kind=st.sampled_from(sorted(KINDS)),
    trials=st.integers(1, 6),
    steps=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    masked=st.booleans(),
)
def test_kernel_spectrum_is_the_dense_spectrum_of_k(kind, trials, steps, seed, masked):
    flow = build(kind, trials, steps, seed, masked)
    spectrum = kernel_spectrum(flow)
    matrix = symmetrised(flow.K)
    dense = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]
    shared = min(len(dense), len(spectrum.values))
    # Both sides are backward stable: an error of some n units of rounding of the largest eigenvalue, n < 1000.
    bound = 1000 * np.finfo(float).eps * dense[0]
    np.testing.assert_allclose(spectrum.values[:shared], dense[:shared], rtol=0, atol=bound)
    assert np.all(spectrum.values[shared:] <= bound)
    assert np.all(np.abs(dense[shared:]) <= bound)
    np.testing.assert_allclose(spectrum.trace, np.trace(matrix), rtol=1e-12)
    np.testing.assert_allclose(spectrum.frobenius, np.linalg.norm(matrix), rtol=1e-12)
    np.testing.assert_allclose(spectrum.effective_dimension, np.trace(matrix) ** 2 / np.linalg.norm(matrix) ** 2)


@pytest.mark.parametrize("kind", ["leaky", "linear"])
def test_kronecker_core_has_each_eigenvalue_once_for_each_unit(kind):
    flow = build(kind, 4, 6, 3, masked=False)
    spectrum = kernel_spectrum(flow)
    assert (spectrum.unit_values == spectrum.unit_values[0]).all()
    leading = eigh(flow.K, 10).values
    # Five units: the ten leading eigenvalues are two values, five times each.
    np.testing.assert_allclose(leading, spectrum.values[:10], rtol=1e-10)
    np.testing.assert_allclose(leading, np.repeat(spectrum.unit_values[0, :2], 5), rtol=1e-10)


@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 10**6), masked=st.booleans(), large=st.booleans())
def test_eigh_gives_orthonormal_eigenfunctions_of_the_ntk(kind, seed, masked, large):
    flow = build(kind, *((6, 12) if large else (3, 5)), seed, masked)  # 360 states: Lanczos; 75: dense
    pairs = eigh(flow.NTK, 4, seed=seed)
    matrix = symmetrised(flow.NTK)
    dense = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:4]
    np.testing.assert_allclose(pairs.values, dense, rtol=0, atol=1e-9 * dense[0])
    gram = [[flow.space.inner(p, q) for q in pairs.vectors] for p in pairs.vectors]
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-9)
    assert pairs.residuals.max() < 1e-8
    support = np.broadcast_to(flow.space.weights, flow.space.shape) > 0
    for value, vector in zip(pairs.values, pairs.vectors, strict=True):
        error = (flow.NTK(vector) - value * vector)[support]
        assert np.abs(error).max() < 1e-6 * dense[0] * np.abs(vector).max()
        assert vector.flat[np.abs(vector).argmax()] > 0


def test_eigh_takes_the_gram_of_the_propagator():
    flow = build("gru", 6, 12, 5, masked=False)
    singular = np.linalg.svd(flow.P.to_dense(), compute_uv=False)[:3]
    np.testing.assert_allclose(eigh(flow.P.gram(), 3).values, singular**2, rtol=1e-9)
    np.testing.assert_allclose(eigh(flow.P @ flow.P.star, 3).values, singular**2, rtol=1e-9)


def test_eigh_refuses_what_is_not_self_adjoint():
    flow = build("rnn", 2, 3, 0, masked=False)
    with pytest.raises(ValueError, match="not self-adjoint"):
        eigh(flow.P, 2)
    with pytest.raises(ValueError, match="one space"):
        eigh(flow.J, 2)


@pytest.mark.parametrize("k", [0, -1, 31, 1.5, True])
def test_eigh_refuses_a_count_out_of_range(k):
    flow = build("rnn", 2, 3, 0, masked=False)
    with pytest.raises((ValueError, TypeError), match="k must be an integer of at least 1 and at most 30"):
        eigh(flow.K, k)


def test_zero_operator_has_zero_eigenvalues():
    space = TrajectorySpace((2, 3, 4))
    zero = TensorOperator(np.zeros_like, np.zeros_like, space, space, name="0").gram()
    pairs = eigh(zero, 3)
    assert not pairs.values.any()
    assert not pairs.residuals.any()


def test_progress_counts_products_and_units():
    flow = build("gru", 6, 12, 5, masked=False)
    counts = []
    pairs = eigh(flow.NTK, 2, progress=counts.append)
    assert sum(counts) == pairs.n_products
    counts.clear()
    kernel_spectrum(flow, progress=counts.append)
    assert sum(counts) == 5


@examples(20)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_gram_matrices_of_all_units_are_those_of_each(kind, data):
    """Products of features that units and currents share, against ``F_u^T F_u`` from the written factor."""
    flow, _ = data.draw(flows(kind, max_states=6))
    units = unit_form(flow.linearization)
    if units is None or not all(features.shared for _, features in units.groups):
        return
    units = units.weighted(np.sqrt(flow.space.mu.T))
    seen = 0
    for part, gram in grams_of_units(units):
        for unit in range(part.start, part.stop):
            factor = units.factor(unit).reshape(-1, units.width)
            terms, sizes = len(factor), np.abs(factor).T @ np.abs(factor)
            assert (np.abs(gram(unit) - factor.T @ factor) <= 4 * (terms + 4) * np.finfo(float).eps * sizes).all()
            seen += 1
    assert seen == units.n_units
