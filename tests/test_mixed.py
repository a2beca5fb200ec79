"""Eigenpairs and singular triplets from products of two precisions: the same pairs, certified in float64."""

import numpy as np
import pytest
import strategies
from continuous import fields
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, weights

from kpref import Flow, models
from kpref.operators import TensorOperator
from kpref.operators.precision import in_single
from kpref.space import EuclideanSpace
from kpref.spectra import eigen, kernel_spectrum, singular
from kpref.spectra.eigen import eigh
from kpref.spectra.singular import svd

OPERATORS = ("P", "P_inverse", "J", "K", "D", "NTK", "D_z0")


def plain(values):
    """A diagonal operator of a user's functions."""
    space = EuclideanSpace((len(values),))
    return TensorOperator(lambda q: q * values, lambda q: q * values, space, space, name="A")


@pytest.mark.parametrize("kind", strategies.STRUCTURES)
def test_products_are_those_of_a_flow_in_float32_to_the_bit(kind):
    """Its coefficients are computed in float64 and rounded, too."""
    shape = (4, 6, 5)
    flow, single = strategies.make_flow(kind, shape), strategies.make_flow(kind, shape, dtype=np.float32)
    rng = np.random.default_rng(0)
    for name in OPERATORS:
        ours, theirs = in_single(getattr(flow, name)), getattr(single, name)
        q = rng.normal(size=theirs.shape_in)
        assert np.array_equal(ours(q), theirs(q))
        assert ours.dtype == ours(q).dtype == np.float32
        assert ours.structure == getattr(flow, name).structure


@pytest.mark.parametrize("kind", ["Rate-tanh", "Lorenz63", "VanDerPol"])
def test_products_of_fields_and_of_what_is_made_of_operators(kind):
    flow = fields.make_flow(kind)
    rng = np.random.default_rng(0)
    for op in (flow.P, flow.NTK, flow.stage.P, 2 * flow.P + flow.K, flow.P.star @ flow.P, (flow.K + flow.NTK) ** 2):
        single, q = in_single(op), rng.normal(size=op.shape_in)
        exact = op(q)
        # Some tens of units of rounding, 6e-8, of sums whose terms do not cancel to more than a tenth.
        assert 0 < np.abs(single(q) - exact).max() < 1e-5 * np.abs(exact).max()
    assert in_single(flow.NTK).factor.shape == flow.D.shape


def test_coefficients_are_rounded_once():
    flow = strategies.make_flow("GRU")
    functions = [in_single(op)._product.factors[0].leaf.forward for op in (flow.D, flow.NTK, Flow.NTK.func(flow))]
    assert functions[0] is functions[1] is functions[2]


def test_what_has_no_products_in_float32():
    assert in_single(strategies.make_flow("GRU", dtype=np.float32).NTK) is None
    assert in_single(plain(np.ones(3))) is None
    flow = strategies.make_flow("GRU")
    assert in_single(flow.NTK + TensorOperator(np.copy, np.copy, flow.space, flow.space)) is None
    large = Flow(models.Linear.init(2, 3, 0), np.full((2, 3, 2), 1e39))
    assert in_single(large.K) is None  # 1e39 has no place in float32


@given(st.sampled_from(strategies.STRUCTURES), strategies.SEEDS, st.sampled_from([1e-5, 1e-7, 1e-12]))
@examples(8)
def test_pairs_have_the_residual_that_they_are_said_to_have(kind, seed, tol):
    measure = np.random.default_rng(seed).uniform(0.2, 2.0, size=(5, 9))
    op = strategies.make_flow(kind, (5, 9, 8), seed, measure=measure).NTK
    found = eigh(op, 3, tol=tol, method="lanczos", precision="mixed", seed=seed % 100)
    root = np.sqrt(weights(op.space_in).ravel())
    dense = root[:, None] * op.to_dense() / root
    flat = root * found.vectors.reshape(3, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(3), atol=1e-12)
    gaps = np.linalg.norm(flat @ dense.T - found.values[:, None] * flat, axis=1) / found.values[0]
    # Rounding of a dense product: its 360 terms, at 1e-16 each.
    np.testing.assert_allclose(found.residuals, gaps, rtol=1e-3, atol=1e-13)
    assert gaps.max() <= 10 * tol
    exact = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    np.testing.assert_allclose(found.values, exact[:3], rtol=0, atol=(gaps.max() + 1e-13) * exact[0])
    assert found.precision == "mixed"
    assert 0 < found.n_single < found.n_products


def test_where_few_digits_are_wanted_float32_is_the_default():
    op = strategies.make_flow("GRU", (6, 12, 10)).NTK
    precisions = {tol: eigh(op, 2, tol=tol, method="lanczos").precision for tol in (1e-4, 1e-7, 1e-8, 1e-10)}
    assert precisions == {1e-4: "mixed", 1e-7: "mixed", 1e-8: "float64", 1e-10: "float64"}
    assert eigh(op, 2, tol=1e-4, method="lanczos", precision="full").precision == "float64"
    assert eigh(op, 2, tol=1e-4, method="dense").n_single == 0
    single = strategies.make_flow("GRU", (6, 12, 10), dtype=np.float32).NTK
    assert eigh(single, 2, tol=1e-4, method="lanczos").precision == "float32"
    assert svd(strategies.make_flow("GRU", (6, 12, 10)).D, 2, tol=1e-5).precision == "mixed"


def test_where_many_digits_are_wanted_early_products_are_in_float64():
    op = strategies.make_flow("GRU", (20, 20, 16)).NTK
    shares = []
    for tol in (1e-5, 1e-9, 1e-12):
        own, mixed = (eigh(op, 3, tol=tol, method="lanczos", precision=name) for name in ("full", "mixed"))
        assert mixed.n_products <= own.n_products + 2  # one to measure the error; steps differ by rounding
        shares.append(mixed.n_single / mixed.n_products)
    assert shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_copies_of_multiple_eigenvalues_are_found(tol):
    flow = Flow(models.LeakyRNN.init(2, 14, 0, alpha=0.3), np.random.default_rng(0).normal(size=(6, 12, 2)))
    exact = kernel_spectrum(flow).values
    found = eigh(flow.K, 20, tol=tol, method="lanczos", precision="mixed")  # 14 times the first one
    assert found.n_single > 0
    assert found.residuals.max() <= 10 * tol
    np.testing.assert_allclose(found.values, exact[:20], rtol=0, atol=found.residuals.max() * exact[0])


@pytest.mark.parametrize("find", [eigh, svd])
def test_wrong_products_in_float32_cost_time_and_nothing_else(monkeypatch, find):
    flow = strategies.make_flow("GRU", (20, 20, 16))
    op = flow.NTK if find is eigh else flow.D
    monkeypatch.setattr(eigen, "in_single", lambda op: in_single(1.001 * op))
    monkeypatch.setattr(eigen.Search, "permitted", lambda *_: True)
    found, exact = find(op, 3, tol=1e-6, precision="mixed"), find(op, 3, tol=1e-10)
    assert found.residuals.max() < 1e-5
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-9)
    assert found.n_products > exact.n_products  # those in float64 came on top


@pytest.mark.parametrize("name", ["D", "P", "J"])
@pytest.mark.parametrize("tol", [1e-6, 1e-12])
def test_triplets_have_the_residual_that_they_are_said_to_have(name, tol):
    op = getattr(strategies.make_flow("GRU", (6, 12, 10), measure=np.linspace(0.5, 2, 12)), name)
    found = svd(op, 3, tol=tol, precision="mixed")
    exact = svd(op, 3, tol=1e-13)
    assert 0 < found.n_single < found.n_products
    assert found.residuals.max() <= 10 * tol
    np.testing.assert_allclose(
        found.values, exact.values, rtol=0, atol=(found.residuals.max() + 1e-13) * exact.values[0]
    )
    for u, sigma, v, told in zip(found.left, found.values, found.right, found.residuals, strict=True):
        gaps = op.space_out.norm(op(v) - sigma * u), op.space_in.norm(op.star(u) - sigma * v)
        np.testing.assert_allclose(max(gaps) / exact.values[0], told, rtol=1e-3, atol=1e-14)


def test_refusals():
    with pytest.raises(
        ValueError, match='"mixed" needs an operator in float64 that has products in float32 .* A has none'
    ):
        eigh(plain(np.arange(300.0)), 2, precision="mixed")
    with pytest.raises(ValueError, match="precision must be one of auto, mixed, full; got 'half'"):
        svd(strategies.make_flow("GRU").D, 1, precision="half")
    assert singular.single_products(plain(np.arange(3.0)), "auto", 1e-3) is None
