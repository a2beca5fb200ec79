"""Schmidt spectra against the realigned dense matrix."""

import numpy as np
import pytest
from continuous import fields
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, STRUCTURES, examples, flows, make_flow, weights

from kpref import Flow, get_num_threads, models, set_num_threads
from kpref.operators import TensorOperator, identity
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra import effective_schmidt_rank, schmidt, schmidt_sampling, schmidt_sketch, schmidt_spectrum
from kpref.unit_form import unit_form


def realigned(op):
    """The definition: entries A[(a, h), (a', h')] of Mu^(1/2) A Mu^(-1/2), at [(a, a'), (h, h')]."""
    root = np.sqrt(weights(op.space_in).ravel())
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    units = op.shape_in[-1]
    matrix = (root[:, None] * op.to_dense() * inverse).reshape(-1, units, op.shape[0] // units, units)
    return np.einsum("ahbk->abhk", matrix).reshape(-1, units**2)


def dense_values(op):
    return np.linalg.svd(realigned(op), compute_uv=False)


def effective_rank(values):
    return np.square(values).sum() ** 2 / (values**4).sum()


def compare(spectrum, op):
    dense = dense_values(op)
    shared = min(len(dense), len(spectrum.values))
    # Roots of eigenvalues of a Gram matrix, which have an absolute error of some n eps of the largest, n < 1000.
    bound = np.sqrt(1000 * np.finfo(float).eps) * dense[0]
    np.testing.assert_allclose(spectrum.values[:shared], dense[:shared], rtol=0, atol=bound)
    assert (spectrum.values[shared:] <= bound).all()
    assert (dense[shared:] <= bound).all()
    np.testing.assert_allclose(spectrum.values[0], dense[0], rtol=1e-12)
    if dense[0] > 0:
        np.testing.assert_allclose(spectrum.effective_rank, effective_rank(dense), rtol=1e-12)


@examples(30)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_schmidt_spectrum_of_k_is_that_of_the_realigned_matrix(kind, data):
    flow, _ = data.draw(flows(kind, max_trials=4, max_steps=6, max_states=5))
    compare(schmidt_spectrum(flow), flow.K)


@pytest.mark.parametrize("kind", ["VanDerPol", "Lorenz63", "Rate-tanh-per unit", "LinearSystem"])
def test_schmidt_spectrum_of_fields(kind):
    flow = fields.make_flow(kind, shape=(2, 4, 3), measure=np.array([1.0, 0.0, 0.3, 2.0, 0.7]))
    compare(schmidt_spectrum(flow), flow.K)


@pytest.mark.parametrize("kind", ["Linear", "LeakyRNN-tanh"])
def test_k_of_one_constant_gate_is_a_kronecker_product(kind):
    flow = make_flow(kind, (4, 6, 5))
    spectrum = schmidt_spectrum(flow)
    assert spectrum.effective_rank == 1.0
    assert not spectrum.values[1:].any()
    assert schmidt_spectrum(make_flow("RNN-tanh", (4, 6, 5))).effective_rank > 1.05  # phi' differs between units


@pytest.mark.parametrize("units", range(1, 18))
def test_any_number_of_units(units):
    """Cut into a power of two of blocks beyond their number, 3, 6, 7, 12 ... units had empty ones."""
    flow = make_flow("RNN-tanh", (20, 60, units))
    before = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    columns = np.concatenate([before, flow.inputs, np.ones((20, 60, 2))], axis=2).reshape(1200, -1)  # two biases
    gates = 1 - flow.states.reshape(1200, units) ** 2
    blocks = np.einsum("ah,ac->hac", gates, columns) / 1200**0.5  # K of unit h is F_h F_h^T
    gamma = np.square(np.einsum("hac,kad->hkcd", blocks, blocks)).sum(axis=(2, 3))
    found = schmidt_spectrum(flow)
    np.testing.assert_allclose(
        np.square(found.values), np.linalg.eigvalsh(gamma)[::-1], rtol=0, atol=1e-13 * gamma.sum()
    )
    np.testing.assert_allclose(found.effective_rank, np.trace(gamma) ** 2 / np.square(gamma).sum(), rtol=1e-12)


def test_both_ways_to_gamma_and_any_tiles_agree(monkeypatch):
    # Inputs and biases alone are trained: few columns, so that Gamma comes from F_h^T F_h'.
    flow = make_flow("GRU", (6, 60, 5), trainable=["weight_ih", "bias_hh"])
    units = unit_form(flow.linearization).weighted(np.sqrt(flow.space.mu.T))
    by_pairs, by_columns = schmidt._gram_by_pairs(units, None), schmidt._gram_by_columns(units, None)
    # Sums of 360^2 products of one sign or less: rounding far below 1e-12 of the largest.
    np.testing.assert_allclose(by_pairs, by_columns, rtol=0, atol=1e-12 * by_columns.max())
    np.testing.assert_allclose(schmidt_spectrum(flow).effective_rank, schmidt._from_gram(by_pairs).effective_rank)
    monkeypatch.setattr(schmidt, "_TILE_ENTRIES", 300)
    for way in (schmidt._gram_by_pairs(units, None), schmidt._gram_by_columns(units, None)):
        np.testing.assert_allclose(way, by_columns, rtol=0, atol=1e-12 * by_columns.max())


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(schmidt, "_TILE_ENTRIES", 500)
    flow, threads = make_flow("GRU", (4, 8, 6)), get_num_threads()
    try:
        set_num_threads(1)
        one = schmidt_spectrum(flow)
        set_num_threads(3)
        three = schmidt_spectrum(flow)
    finally:
        set_num_threads(threads)
    assert (one.values == three.values).all()
    assert one.effective_rank == three.effective_rank


@given(seed=SEEDS, kind=st.sampled_from(["P", "NTK", "K"]))
@examples(10)
def test_small_operators_are_exact(seed, kind):
    flow = make_flow("GRU", (2, 4, 3), seed % 1000, measure=np.array([1.0, 0.0, 0.5, 2.0]))
    op = getattr(flow, kind)
    dense = dense_values(op)
    estimate = effective_schmidt_rank(op)
    assert estimate.exact
    np.testing.assert_allclose(estimate.value, effective_rank(dense), rtol=1e-12)
    sketch = schmidt_sketch(op, 4)
    np.testing.assert_allclose(sketch.values, dense[:4], rtol=0, atol=1e-13 * dense[0])
    assert not sketch.standard_errors.any()


def test_products_of_operators_have_rank_one_in_any_measure():
    space = TrajectorySpace((2, 3, 4), np.array([0.3, 2.0, 1.0]))
    assert effective_schmidt_rank(identity(space)).value == pytest.approx(1.0, abs=1e-13)
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 3, 2, 3)), rng.normal(size=(4, 4))
    op = TensorOperator(
        lambda q: np.einsum("abcd,hk,vcdk->vabh", left, right, q),
        lambda q: np.einsum("cdab,kh,vcdk->vabh", left, right, q),
        space,
        space,
    )
    assert effective_schmidt_rank(op).value == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("kind", ["P", "NTK", "K"])
def test_estimates_agree_with_dense_values_within_their_errors(kind):
    flow = make_flow("GRU", (7, 15, 6), 3)  # 630 states: sampled
    op = getattr(flow, kind)
    dense = dense_values(op)
    estimate = effective_schmidt_rank(op, probes=40)
    assert estimate.n_products == 240 + 64  # for the control
    assert not estimate.exact
    # Four standard errors; the error itself must say something.
    assert abs(estimate.value - effective_rank(dense)) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.15 * estimate.value
    sketch = schmidt_sketch(op, 3, probes=40)
    bias = effective_rank(dense) / 40 * dense[0]
    assert (np.abs(sketch.values - dense[:3]) < 4 * sketch.standard_errors + bias).all()
    assert sketch.n_products == 240


def test_means_over_seeds_are_unbiased_and_the_standard_error_is_honest(monkeypatch):
    monkeypatch.setattr(schmidt_sampling, "_CONTROL", 6)  # with more, nothing but rounding is left
    flow = make_flow("RNN-tanh", (9, 17, 4), 5)
    exact = effective_rank(dense_values(flow.NTK))
    estimates = [effective_schmidt_rank(flow.NTK, probes=12, seed=seed) for seed in range(60)]
    values = np.array([estimate.value for estimate in estimates])
    stated = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
    # Of 60 values: the spread is known to 10 %, and the ratio's own bias is of the order of the variance.
    assert 0.6 < stated / values.std(ddof=1) < 1.8
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / np.sqrt(60) + 3 * values.var() / exact


def test_same_seed_same_bits_and_batches_do_not_matter(monkeypatch):
    flow = make_flow("GRU", (7, 15, 6), 3)
    first = effective_schmidt_rank(flow.P, probes=4, seed=8)
    assert first == effective_schmidt_rank(flow.P, probes=4, seed=8)
    assert first.value != effective_schmidt_rank(flow.P, probes=4, seed=9).value
    monkeypatch.setattr(schmidt_sampling, "_BATCH_ENTRIES", 1)
    np.testing.assert_allclose(effective_schmidt_rank(flow.P, probes=4, seed=8).value, first.value, rtol=1e-11)


def test_float32_flows_and_zero_operators():
    flow, single = make_flow("GRU", (3, 4, 5)), make_flow("GRU", (3, 4, 5), dtype=np.float32)
    # A few hundred sums of single precision coefficients.
    exact = schmidt_spectrum(flow).effective_rank
    np.testing.assert_allclose(schmidt_spectrum(single).effective_rank, exact, rtol=1e-5)
    np.testing.assert_allclose(effective_schmidt_rank(single.K).value, exact, rtol=1e-5)
    for shape in ((2, 3, 4), (10, 25, 4)):
        space = TrajectorySpace(shape)
        zero = TensorOperator(np.zeros_like, np.zeros_like, space, space)
        assert effective_schmidt_rank(zero).value == 0.0
        assert not schmidt_sketch(zero, 2).values.any()


def test_progress_counts_the_parts():
    counts = []
    schmidt_spectrum(make_flow("GRU", (4, 8, 6)), progress=counts.append)
    assert counts == [1] * len(counts)
    assert counts


def test_refusals():
    flow = make_flow("GRU", (2, 3, 4))
    with pytest.raises(ValueError, match="one space"):
        effective_schmidt_rank(flow.J)
    vector = EuclideanSpace((6,))
    with pytest.raises(ValueError, match="one space"):
        effective_schmidt_rank(identity(vector))
    for probes, error in ((3, ValueError), (4.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="probes must be an integer of at least 4"):
            effective_schmidt_rank(flow.P, probes)
    for k, error in ((0, ValueError), (17, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="k must be an integer of at least 1 and at most 16"):
            schmidt_sketch(flow.P, k, probes=20)


def test_the_stage_kernel_of_a_field_can_be_sampled():
    field = models.Rate.init(2, 4, 0)
    flow = Flow(field, np.random.default_rng(0).normal(size=(3, 5, 2)), dt=0.1)
    # Stage space has four axes; one constant gate makes K_s a Kronecker product too.
    assert effective_schmidt_rank(flow.stage.K).value == pytest.approx(1.0, abs=1e-12)


def test_no_rank_is_below_one():
    """That of the identity is one; unrestricted, half of the seeds would find less."""
    op = identity(EuclideanSpace((30, 24)))
    estimates = [effective_schmidt_rank(op, probes=8, seed=seed) for seed in range(6)]
    assert all(estimate.value >= 1 and estimate.interval(0.999)[0] >= 1 for estimate in estimates)
    assert min(estimate.value for estimate in estimates) == 1


@pytest.mark.parametrize("shape", [(4, 7, 5), (4, 5, 7), (1, 3, 3)])
def test_gram_matrices_of_pairs_hold_all_products_of_four(shape):
    """``sum_ijkl <W_i^T W_j, W_k^T W_l> <Q_i^T Q_j, Q_k^T Q_l>``, written out."""
    both = np.random.default_rng(0).standard_normal((2, *shape))
    grams = [np.einsum("iah,jak,lbh,mbk->ijlm", w, w, w, w) for w in both]
    found = sum(np.vdot(*parts) for parts in zip(*map(schmidt_sampling._pair_grams, both), strict=True))
    assert found == pytest.approx(np.vdot(*grams), rel=1e-12)
