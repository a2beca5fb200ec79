"""Singular values and functions in the inner products of two spaces, against dense linear algebra."""

import numpy as np
import pytest
import strategies
from continuous import fields
from strategies import weights

from kpref import Flow, models
from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra import lanczos
from kpref.spectra.eigen import eigh
from kpref.spectra.singular import svd

MASK = np.random.default_rng(0).uniform(0.1, 2.0, size=(6, 12)) * (np.arange(12) % 5 > 0)
FLOWS = {
    "map": lambda: strategies.make_flow("GRU", (6, 12, 10), measure=MASK),
    "dense": lambda: fields.make_flow("Lorenz63", shape=(5, 30, 3)),
    "field": lambda: fields.make_flow("Rate-tanh", shape=(6, 11, 10), measure=MASK),
}


def matrix(op):
    """W_out^(1/2) A W_in^(-1/2) on the supports of the weights."""
    w_out, w_in = weights(op.space_out).ravel(), weights(op.space_in).ravel()
    keep_out, keep_in = w_out > 0, w_in > 0
    rows = np.sqrt(w_out[keep_out])[:, None] * op.to_dense()[np.ix_(keep_out, keep_in)]
    return rows / np.sqrt(w_in[keep_in])


def gram(space, tensors):
    flat = tensors.reshape(len(tensors), -1)
    return (flat * weights(space).ravel()) @ flat.T


def diagonal(shape_out, shape_in, values):
    """A diagonal operator between Euclidean spaces, with its singular values as they are."""
    rows, columns = EuclideanSpace(shape_out), EuclideanSpace(shape_in)
    entries = np.zeros((rows.size, columns.size))
    np.fill_diagonal(entries, values)
    return TensorOperator(lambda q: q @ entries.T, lambda g: g @ entries, columns, rows, name="A")


@pytest.mark.parametrize("kind", sorted(FLOWS))
@pytest.mark.parametrize("name", ["P", "D", "J"])
def test_svd_is_that_of_the_dense_matrix_in_the_measure(kind, name):
    op = getattr(FLOWS[kind](), name)
    dense = np.linalg.svd(matrix(op), compute_uv=False)
    k = min(4, np.count_nonzero(dense > 1e-12 * dense[0]))
    found = svd(op, k)
    # Second order in the residual of 1e-10, and some n units of rounding, n < 1000.
    np.testing.assert_allclose(found.values, dense[:k], rtol=0, atol=1e-12 * dense[0])
    assert found.residuals.max() <= 1e-9
    assert found.converged.all()
    np.testing.assert_allclose(gram(op.space_out, found.left), np.eye(k), atol=1e-12)
    np.testing.assert_allclose(gram(op.space_in, found.right), np.eye(k), atol=1e-12)
    for u, sigma, v in zip(found.left, found.values, found.right, strict=True):
        assert u.flat[np.abs(u).argmax()] > 0
        assert op.space_out.norm(op(v) - sigma * u) <= 1e-9 * dense[0]
        assert op.space_in.norm(op.star(u) - sigma * v) <= 1e-9 * dense[0]


def test_left_functions_of_d_are_eigenfunctions_of_the_ntk():
    flow = FLOWS["map"]()
    triplets, pairs = svd(flow.D, 3), eigh(flow.NTK, 3)
    np.testing.assert_allclose(triplets.values**2, pairs.values, rtol=1e-12)
    # Angles are the residual of 1e-10 over a relative gap of more than 1e-2.
    np.testing.assert_allclose(np.abs(flow.space.weigh(triplets.left).reshape(3, -1) @ pairs.vectors.reshape(3, -1).T),
                               np.eye(3), atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("shape", [(400, 250), (250, 400)])
def test_small_singular_values_are_not_squared(shape):
    steep = 10.0 ** -np.linspace(0, 100, 250)
    found = svd(diagonal(*((size,) for size in shape), steep), 25, tol=1e-14)
    assert steep[24] ** 2 < np.finfo(float).eps * steep[0] ** 2
    # An absolute error of some units of rounding of the largest.
    np.testing.assert_allclose(found.values, steep[:25], rtol=0, atol=1e-14)


def test_multiple_singular_values_are_all_found():
    found = svd(diagonal((260,), (240,), np.repeat([3.0, 2.0, 1.0], [5, 8, 227])), 14)
    np.testing.assert_allclose(found.values, np.repeat([3.0, 2.0, 1.0], [5, 8, 1]), rtol=1e-12)


def test_rank_deficiency_gives_orthonormal_functions_of_zero():
    op = diagonal((300,), (250,), np.append([2.0, 1.0], np.zeros(248)))
    found = svd(op, 5)
    np.testing.assert_allclose(found.values, [2, 1, 0, 0, 0], atol=1e-14)
    np.testing.assert_allclose(found.left @ found.left.T, np.eye(5), atol=1e-13)
    np.testing.assert_allclose(found.right @ found.right.T, np.eye(5), atol=1e-13)
    space = TrajectorySpace((5, 10, 5))
    zero = svd(TensorOperator(np.zeros_like, np.zeros_like, space, space), 3)
    assert not zero.values.any()
    assert not zero.residuals.any()


def test_all_singular_values_of_a_small_operator():
    op = strategies.make_flow("RNN-tanh", (2, 4, 3)).P
    np.testing.assert_allclose(svd(op, 24).values, np.linalg.svd(matrix(op), compute_uv=False), rtol=1e-11)


def test_warm_start_uses_fewer_products():
    model = models.GRU.init(2, 16, 0)
    inputs = np.random.default_rng(0).normal(size=(6, 12, 2))
    near = model.with_parameters({"weight_hh": model.parameters["weight_hh"] * (1 + 1e-7)})
    before, op = svd(Flow(model, inputs).D, 4), Flow(near, inputs).D
    cold, warm = svd(op, 4), svd(op, 4, start=before.right)
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-11)
    assert warm.n_products < cold.n_products


def test_float32():
    exact = svd(strategies.make_flow("GRU", (6, 12, 10)).D, 4)
    found = svd(strategies.make_flow("GRU", (6, 12, 10), dtype=np.float32).D, 4)
    assert found.left.dtype == found.right.dtype == np.float32
    # Products have relative errors of some tens of units of rounding.
    np.testing.assert_allclose(found.values, exact.values, atol=50 * np.finfo(np.float32).eps * exact.values[0])


def test_refusals():
    op = diagonal((5,), (3,), np.ones(3))
    for k in (0, 4, 1.5, True):
        with pytest.raises((ValueError, TypeError), match="k must be an integer of at least 1 and at most 3"):
            svd(op, k)
    with pytest.raises(ValueError, match=r"start must have shape \(j, 3\); got \(3,\)"):
        svd(op, 1, start=np.ones(3))
    with pytest.raises(ValueError, match="start holds nan"):
        svd(op, 1, start=np.full((1, 3), np.nan))


def test_no_convergence_keeps_what_there_is(monkeypatch):
    monkeypatch.setattr(lanczos, "_MAX_PRODUCTS", 1)
    op = diagonal((400,), (300,), 1 - np.arange(300) ** 2 / 1e6)
    with pytest.raises(
        lanczos.NoConvergence, match="A: 0 of 2 singular values converged to 1e-10 in 12 products"
    ) as info:
        svd(op, 2)
    assert info.value.partial.left.shape == (2, 400)
    assert not info.value.partial.converged.any()
    assert (info.value.partial.residuals > 1e-10).all()
