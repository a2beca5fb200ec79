"""Inverses, diagonals and parts of operators against dense linear algebra, in measures with and without zeros."""

import pickle

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import strategies
from continuous import fields
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, weights

import kpref
from kpref.operators import Structure, TensorOperator, submatrix
from kpref.space import EuclideanSpace
from kpref.spectra import NoConvergence, diagonal, inverse

MEASURES = ("mean", "sum", np.array([0.5, 0.0, 2.0, 1.0, 0.3]))


def pinned(op):
    """``W^(1/2) A W^(-1/2)`` on the supports of the weights, which come with it."""
    out, into = weights(op.space_out).ravel(), weights(op.space_in).ravel()
    matrix = op.to_dense()[np.ix_(out > 0, into > 0)]
    return np.sqrt(out[out > 0])[:, None] * matrix / np.sqrt(into[into > 0]), out, into


def solution(op, damping, y):
    """That of dense least squares, or of the system, in coordinates; zero where a weight is."""
    matrix, out, into = pinned(op)
    right = (np.sqrt(out) * y.ravel())[out > 0]
    if op.structure.self_adjoint:
        found = np.linalg.solve(matrix + damping * np.eye(len(matrix)), right)
    else:
        found = np.linalg.solve(matrix.T @ matrix + damping * np.eye(matrix.shape[1]), matrix.T @ right)
    tensor = np.zeros(len(into))
    tensor[into > 0] = found / np.sqrt(into[into > 0])
    return tensor.reshape(op.shape_in)


@given(
    st.sampled_from(strategies.STRUCTURES), strategies.SEEDS, st.sampled_from(range(3)), st.sampled_from([1e-3, 0.5])
)
@examples(20)
def test_solutions_are_the_dense_ones(kind, seed, measure, damping):
    flow = strategies.make_flow(kind, seed=seed, measure=MEASURES[measure])
    y = np.random.default_rng(seed).normal(size=flow.states.shape)
    for op in (flow.NTK, flow.K, flow.D, flow.P):
        size = max(float(np.linalg.norm(pinned(op)[0], 2)), 1e-3)
        scaled = damping * (size if op.structure.self_adjoint else size**2)
        found, wanted = inverse(op, scaled, tol=1e-10)(y), solution(op, scaled, y)
        # The relative residual times the condition, at most 1 + 1 / damping; and once more for what least squares pull.
        assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max() + 1e-12


def test_they_are_operators_like_all_others():
    flow = strategies.make_flow("GRU", measure=MEASURES[2])
    rng = np.random.default_rng(0)
    for op in (inverse(flow.NTK, 0.1, 1e-12), inverse(flow.D, 0.1, 1e-12), submatrix(flow.P, [1, 5, 3], np.arange(7))):
        rows, columns = op.shape
        x, y, many = rng.normal(size=columns), rng.normal(size=rows), rng.normal(size=(columns, 3))
        # The dot test, both sides solved to 1e-12.
        np.testing.assert_allclose(y @ (op @ x), (op.T @ y) @ x, rtol=1e-7)
        p, q = rng.normal(size=op.shape_out), rng.normal(size=op.shape_in)
        p, q = strategies.restricted(op.space_out, p), strategies.restricted(op.space_in, q)
        np.testing.assert_allclose(op.space_out.inner(p, op(q)), op.space_in.inner(op.star(p), q), rtol=1e-7)
        np.testing.assert_allclose(
            op @ many, np.stack([op @ column for column in many.T], axis=1), rtol=1e-6, atol=1e-9
        )
        assert (op @ x[:, None]).shape == (rows, 1)
        assert (op @ x).dtype == op.dtype == np.float64
        assert np.array_equal(pickle.loads(pickle.dumps(op)) @ x, op @ x)  # noqa: S301
        assert isinstance(sla.aslinearoperator(op), TensorOperator)
    assert inverse(flow.NTK, 0.1).structure == Structure(self_adjoint=True, positive=True)


def test_of_operators_in_float32_and_of_fields():
    single = strategies.make_flow("GRU", dtype=np.float32)
    y = np.random.default_rng(0).normal(size=single.states.shape)
    found = inverse(single.NTK, 0.1, tol=1e-4)(y)
    assert found.dtype == np.float32
    # A residual of 1e-4 |y| is an error of no more than that over the damping; as much again for float32.
    error = np.linalg.norm(found - solution(strategies.make_flow("GRU").NTK, 0.1, y))
    assert error <= 2 * 1e-4 / 0.1 * np.linalg.norm(y)
    flow = fields.make_flow("Rate-tanh")
    y = np.random.default_rng(0).normal(size=flow.states.shape)
    np.testing.assert_allclose(inverse(flow.D, 0.1, 1e-10)(y), solution(flow.D, 0.1, y), rtol=1e-6, atol=1e-9)


def test_a_damped_gauss_newton_step_and_an_influence():
    """``(D* D + d)^-1 D* e`` is both the least-squares operator and, on parameters, the inverse after the adjoint."""
    flow = strategies.make_flow("GRU", (4, 6, 5))
    error = np.random.default_rng(0).normal(size=flow.states.shape)
    step = inverse(flow.D, 0.01, 1e-10)(error)
    other = inverse(flow.D.star @ flow.D, 0.01, 1e-12)(flow.D.star(error))
    np.testing.assert_allclose(step, other, rtol=0, atol=1e-7 * np.abs(step).max())
    # (1 / d) (1 - D* (D D* + d)^-1 D): the identity of Woodbury
    long = (flow.D.star(error) - flow.D.star(inverse(flow.NTK, 0.01, 1e-12)(flow.NTK(error)))) / 0.01
    np.testing.assert_allclose(step, long, rtol=0, atol=1e-6 * np.abs(step).max())


def test_what_does_not_converge_is_refused_with_the_residual():
    flow = strategies.make_flow("GRU", (6, 12, 8))
    y = np.random.default_rng(0).normal(size=flow.states.shape)
    for op in (flow.NTK, flow.D):
        with pytest.raises(NoConvergence, match=r"relative residual of .* in 5 products at most, not to 1e-08") as told:
            inverse(op, 1e-6, products=5)(y)
        assert told.value.partial.shape == (1, *op.shape_in)
        assert np.isfinite(told.value.partial).all()
    space, known = EuclideanSpace((3,)), Structure(self_adjoint=True)
    turned = TensorOperator(lambda q: q * [1, -2, 3], lambda q: q * [1, -2, 3], space, space, name="A", structure=known)
    with pytest.raises(ValueError, match="A with this damping is not positive: <p, A p> = -"):
        inverse(turned, 1.0)(np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(inverse(turned, 2.5)(np.array([7.0, 1.0, 11.0])), [2, 2, 2])
    assert not inverse(flow.D, 0.1)(np.zeros(flow.states.shape)).any()
    for wrong in ({"damping": -1.0}, {"tol": 0.0}, {"products": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            inverse(flow.NTK, **wrong)


# Diagonals


@pytest.mark.parametrize("name", ["P", "K", "NTK"])
@pytest.mark.parametrize("measure", MEASURES, ids=["mean", "sum", "zeros"])
def test_exact_diagonals(name, measure):
    op = getattr(strategies.make_flow("GRU", measure=measure), name)
    found, dense = diagonal(op, products=60), np.diagonal(op.to_dense()).reshape(op.shape_in)
    np.testing.assert_allclose(found.values, dense, rtol=1e-12, atol=1e-15 * np.abs(dense).max())
    assert found.method == "exact"
    assert not found.standard_errors.any()
    assert found.at(0, 1, 2).exact


def test_blocks_share_products():
    flow = strategies.make_flow("RNN-tanh", (5, 4, 3))
    assert diagonal(flow.P, 12).n_products == 12  # trials are apart
    assert diagonal(flow.K, 20).n_products == 20  # units are
    few = strategies.make_flow(
        "Linear", (9, 9, 2), trainable=("bias",) if "bias" in strategies.make_flow("Linear").model.parameters else None
    )
    assert diagonal(few.NTK, 64).method == "exact"  # few parameters


def test_estimated_diagonals_are_as_close_as_they_say():
    flow = strategies.make_flow("GRU", (6, 12, 8), measure=np.linspace(0, 2, 12))
    for op, method in ((flow.NTK, "factor"), (flow.P @ flow.P, "signs")):
        dense = np.diagonal(op.to_dense()).reshape(op.shape_in)
        found = diagonal(op, 40, seed=1)
        assert found.method == method
        assert found.n_products == 40
        there = found.standard_errors > 0
        np.testing.assert_allclose(found.values[~there], dense[~there], atol=1e-12)
        scores = (found.values - dense)[there] / found.standard_errors[there]
        # Entries share vectors, so that the mean square is a few deviations of 1 / 40^(1/2) from one.
        assert 0.3 < np.square(scores).mean() < 2.5
    found = diagonal(flow.NTK, 40, seed=1)
    np.testing.assert_allclose(found.standard_errors, np.sqrt(2 / 40) * found.values)
    dense = np.diagonal(flow.NTK.to_dense()).reshape(flow.states.shape)
    places = [(b, n, h) for b in range(6) for n in range(1, 12) for h in range(8)]
    inside = [low <= dense[place] <= high for place in places for low, high in [found.at(*place).interval()]]
    assert np.mean(inside) > 0.8  # 95 % over seeds; of one seed, entries go together


def test_intervals_of_diagonals_over_seeds():
    op = strategies.make_flow("GRU", (4, 6, 5)).NTK
    true = op.to_dense()[17, 17]
    place = np.unravel_index(17, op.shape_in)
    inside = [low <= true <= high for seed in range(200) for low, high in [diagonal(op, 6, seed).at(*place).interval()]]
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 200)


def test_refusals_of_diagonals():
    flow = strategies.make_flow("GRU")
    with pytest.raises(ValueError, match="a diagonal is that of an operator on one space; J maps"):
        diagonal(flow.J)
    with pytest.raises(ValueError, match="products must be"):
        diagonal(flow.P, 1)
    with pytest.raises(IndexError, match="takes an index for each axis"):
        diagonal(flow.P).at(1)


# Parts


@given(strategies.SEEDS, st.sampled_from(["P", "J", "D", "NTK"]))
@examples(20)
def test_parts_are_those_of_the_dense_matrix(seed, name):
    op, rng = getattr(strategies.make_flow("GRU", seed=seed), name), np.random.default_rng(seed)
    rows = rng.permutation(op.shape[0])[: rng.integers(1, 9)]
    mask = rng.random(op.shape_in) < 0.5
    mask.flat[0] = True
    part = submatrix(op, rows, mask)
    wanted = op.to_dense()[np.ix_(rows, np.flatnonzero(mask))]
    np.testing.assert_allclose(part.to_dense(), wanted, rtol=0, atol=1e-13 * np.abs(op.to_dense()).max())
    np.testing.assert_allclose(part.T.to_dense(), wanted.T, rtol=0, atol=1e-13 * np.abs(op.to_dense()).max())


def test_what_a_part_keeps():
    flow, other = strategies.make_flow("GRU"), strategies.make_flow("GRU", measure=MEASURES[2])
    places = np.arange(9)
    assert submatrix(flow.NTK, places, places).structure.positive
    assert not submatrix(flow.NTK, places, places + 1).structure.self_adjoint
    assert not submatrix(other.NTK, places, places).structure.self_adjoint
    values = kpref.eigh(submatrix(flow.NTK, places, places), 3).values
    np.testing.assert_allclose(values, np.linalg.eigvalsh(flow.NTK.to_dense()[:9, :9])[::-1][:3], rtol=1e-10)


def test_refusals_of_parts():
    op = strategies.make_flow("GRU").P
    for wrong in ([], [0, 0], [-1], [60]):
        with pytest.raises(ValueError, match="rows must be places from 0 to 59, at least one and none of them twice"):
            submatrix(op, np.array(wrong, int), [0])
    with pytest.raises(ValueError, match="columns as a mask must have the shape"):
        submatrix(op, [0], np.ones((3, 5), bool))
    with pytest.raises(TypeError, match="rows must be whole numbers along one axis"):
        submatrix(op, [0.5], [0])
    with pytest.raises(TypeError, match="op must be a TensorOperator"):
        submatrix(np.eye(3), [0], [0])
