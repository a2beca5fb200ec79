"""Estimators of traces against dense matrices: values, tolerances, what is refused."""

from contextlib import nullcontext

import numpy as np
import pytest
from continuous import fields
from scipy.sparse.linalg import aslinearoperator
from strategies import make_flow

from kpref import Estimate
from kpref.operators import TensorOperator
from kpref.operators.tensor import Structure
from kpref.space import EuclideanSpace
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace

METHODS = ("hutchinson", "hutch++")
#: For operators A A* with A known.
GRAM_METHODS = (*METHODS, "krylov")


def masked_measure(trials, steps):
    measure = np.random.default_rng(5).uniform(0.2, 2.0, size=(trials, steps))
    measure[0, -1] = 0.0
    return measure


def flows():
    yield "GRU", make_flow("GRU", (3, 4, 4), 1, measure=masked_measure(3, 4))
    yield "rate ODE", fields.make_flow("Rate-tanh", "rk4", (3, 4, 4), 1, measure=masked_measure(3, 5))
    yield "ODE in dense form", fields.make_flow("Lorenz63", "dopri5", (3, 4, 3), 1, dt=0.05)


FLOWS = dict(flows())


def symmetrised(op):
    """W_out^(1/2) A W_in^(-1/2) on the supports, dense."""
    rows, columns = (
        np.ones(space.size) if space.weights is None else np.broadcast_to(space.weights, space.shape).ravel()
        for space in (op.space_out, op.space_in)
    )
    dense = op.to_dense()[np.ix_(rows > 0, columns > 0)]
    return np.sqrt(rows[rows > 0])[:, None] * dense / np.sqrt(columns[columns > 0])


def on_vectors(matrix, positive=False, dtype=np.float64):
    space = EuclideanSpace((len(matrix),))
    structure = Structure(positive, positive)
    return TensorOperator(lambda x: x @ matrix.T, lambda x: x @ matrix, space, space, dtype, structure=structure)


def decaying(size, seed=0, rate=0.8):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return (basis * rate ** np.arange(size)) @ basis.T


@pytest.mark.parametrize("name", FLOWS)
def test_small_spaces_are_exact_in_the_measure(name):
    flow = FLOWS[name]
    dense, factor = symmetrised(flow.NTK), symmetrised(flow.D)
    found = [trace(flow.NTK, method, probes=500) for method in GRAM_METHODS]
    found += [adjoint_trace(flow.D, probes=500), frobenius_squared(flow.D, probes=500)]
    for estimate in found:
        assert estimate.method == "exact"
        assert estimate.standard_error == 0.0
        # Sums of a few thousand terms of one sign, in two orders.
        np.testing.assert_allclose(estimate.value, np.trace(dense), rtol=1e-12)
    np.testing.assert_allclose(frobenius_squared(flow.NTK, probes=500).value, np.sum(dense**2), rtol=1e-12)
    np.testing.assert_allclose(
        frobenius_squared(flow.P, probes=500).value, np.sum(symmetrised(flow.P) ** 2), rtol=1e-12
    )
    np.testing.assert_allclose(trace(flow.P, probes=500).value, np.trace(symmetrised(flow.P)), rtol=1e-12)
    assert found[0].n_products == len(dense)
    assert found[-1].n_products == factor.shape[1]


@pytest.mark.parametrize("square", [False, True])
def test_hutch_pp_is_the_trace_in_a_range_and_directions_that_see_the_rest(square):
    size, seed, ranks, tests = 40, 3, 5, 8
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(size, size)) @ decaying(size)
    vectors = np.random.default_rng([seed, 0]).standard_normal((ranks, size))
    basis = np.linalg.qr(matrix @ vectors.T)[0]
    outside = np.eye(size) - basis @ basis.T
    left = matrix.T @ matrix if square else matrix
    rest = np.random.default_rng([seed, 1]).standard_normal((tests, size)) @ outside
    rest *= np.sqrt((size - ranks) / np.square(rest).sum(axis=1, keepdims=True))
    expected = np.trace(basis.T @ left @ basis) + np.einsum("ij,jk,ik->i", rest, left, rest)
    op = on_vectors(matrix)
    # Of 18 products ten make and use the range, eight are for the rest.
    found = (frobenius_squared if square else lambda *args: trace(args[0], "hutch++", *args[1:]))(op, 18, None, seed)
    np.testing.assert_allclose(found.value, expected.mean(), rtol=1e-10)
    assert found.n_products == 18


def test_krylov_is_the_trace_in_a_krylov_space_and_random_vectors_that_see_the_rest():
    size, small, steps, seed = 40, 30, 5, 3
    factor = np.random.default_rng(4).normal(size=(size, small)) @ decaying(small)
    spaces = EuclideanSpace((small,)), EuclideanSpace((size,))
    op = TensorOperator(lambda x: x @ factor.T, lambda x: x @ factor, *spaces).gram()
    start, *_ = np.random.default_rng([seed, 0]).standard_normal((1, size))
    powers = [factor.T @ start]
    for _ in range(steps - 1):
        powers.append(factor.T @ (factor @ powers[-1]))
    basis = np.linalg.qr(np.transpose(powers))[0]
    tests = np.random.default_rng([seed, 1]).standard_normal((2 * steps, size))
    tests *= np.sqrt(size) / np.linalg.norm(tests, axis=1, keepdims=True)
    left = factor @ (np.eye(small) - basis @ basis.T)
    expected = np.sum((factor @ basis) ** 2) + np.square(tests @ left).sum(axis=1)
    found = trace(op, "krylov", probes=2 * steps, seed=seed)
    # Powers lose digits, a factor of 1e3 or so at the fifth.
    np.testing.assert_allclose(found.value, expected.mean(), rtol=1e-10)
    assert found.n_products == 2 * steps


def test_the_factor_counts_half():
    flow, calls = FLOWS["GRU"], []
    backward = TensorOperator(
        lambda x: flow.D.apply(x),
        lambda x: (calls.append(len(x)), flow.D.T.apply(x))[1],
        flow.D.space_in,
        flow.D.space_out,
        name="D",
    )
    op = backward.gram()
    for tol in (None, 1e-9):
        calls.clear()
        with pytest.raises(RuntimeError, match="less sure than") if tol else nullcontext():
            assert trace(op, "krylov", probes=20, tol=tol).n_products == 20
        # Ten steps, each of which takes one product with A and one with A*; twenty with A* alone for the rest.
        assert sum(calls) == 30


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_range_larger_than_the_rank_is_exact_to_rounding(rank, dtype):
    matrix = np.diag(np.where(np.arange(60) < rank, 2.0, 0.0)).astype(dtype)
    op = on_vectors(matrix, positive=True, dtype=dtype)
    found = [trace(op, "hutch++", 24), trace(op.gram(), "krylov", 24) / 2, frobenius_squared(op, 24) / 2]
    for one in found:
        low, high = one.interval()
        assert low <= 2.0 * rank <= high
        assert high - low <= 100 * rank * np.finfo(dtype).eps  # ten units either way, of terms whose moduli add up to


def estimators():
    flow = FLOWS["GRU"]
    dense = symmetrised(flow.NTK)
    for method in GRAM_METHODS:
        yield method, lambda seed, method=method: trace(flow.NTK, method, 12, seed=seed), np.trace(dense)
    yield "adjoint", lambda seed: adjoint_trace(flow.D, 12, seed=seed), np.trace(dense)
    yield "frobenius", lambda seed: frobenius_squared(flow.NTK, 12, seed=seed), np.sum(dense**2)
    yield "frobenius of D", lambda seed: frobenius_squared(flow.D, 12, seed=seed), np.trace(dense)
    yield "hutch++ of P", lambda seed: trace(flow.P, probes=12, seed=seed), np.trace(symmetrised(flow.P))


@pytest.mark.parametrize("name, estimate, truth", [pytest.param(*case, id=case[0]) for case in estimators()])
def test_estimates_are_unbiased_and_state_their_error(name, estimate, truth):
    runs = 120
    found = [estimate(seed) for seed in range(runs)]
    values = np.array([one.value for one in found])
    deviation = values.std(ddof=1)
    # Four standard errors of the mean: a correct estimator passes 9999 in 10,000 choices of seeds; these are fixed.
    assert abs(values.mean() - truth) < 4 * deviation / runs**0.5
    stated = np.sqrt(np.mean([one.standard_error**2 for one in found]))
    # Within 20 %, and twice the 7 % to 10 % by which the deviation of 120 values, the heavy-tailed ones, is uncertain.
    assert 0.65 < stated / deviation < 1.4
    assert all(one.n_products == 12 and not one.exact for one in found[:3])


@pytest.mark.parametrize("method", METHODS)
def test_a_tolerance_is_reached_by_building_on_earlier_products(method):
    op, calls = on_vectors(decaying(300, rate=0.9), positive=True), []
    tol = 0.1 if method == "hutchinson" else 0.02
    low, high = trace(op, method, probes=256, tol=tol).interval()
    found = trace(op, method, probes=256, tol=tol, progress=calls.append)
    assert high - low <= 2 * 1.96 * tol * found.value
    assert sum(calls) == found.n_products < 256
    once = trace(op, method, probes=found.n_products, seed=0)
    # The same vectors in one step; Gram-Schmidt in two steps differs by rounding alone.
    np.testing.assert_allclose(found.value, once.value, rtol=1e-10)
    with pytest.raises(RuntimeError, match="tol = 0.03; about \\d+ would reach it"):
        trace(op, "hutchinson", probes=40, tol=0.03)
    with pytest.raises(RuntimeError, match="tol = 1e-05; 300, the size of the space, make it exact"):
        trace(op, "hutchinson", probes=40, tol=1e-5)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("factor", [1e300, 1e-160, 1e-300])
def test_estimates_have_no_unit(method, factor):
    """Cubes of such numbers are no floats; their errors are (a division by zero at 1e-160)."""
    plain, scaled = (trace(on_vectors(unit * decaying(300, rate=0.9)), method, 16) for unit in (1.0, factor))
    np.testing.assert_allclose(np.array(scaled.interval()) / factor, plain.interval(), rtol=1e-12)


def test_intervals_hold_zero_where_squares_are_too_small_for_floats():
    op = on_vectors(1e-160 * decaying(300, rate=0.9))
    for found in (adjoint_trace(op, 16), frobenius_squared(op, 16)):
        low, high = found.interval()
        assert low == 0.0
        assert 0.0 < high < 1e-300
    assert adjoint_trace(on_vectors(np.zeros((300, 300))), 16).interval() == (0.0, 0.0)


def test_traces_of_positive_operators_are_not_negative():
    """Of one eigenvalue, two vectors know nearly nothing: the interval began at -3.5 times the trace."""
    op = on_vectors(np.diag((np.arange(300) == 0) * 1.0), positive=True)
    for seed in range(10):
        for found in (trace(op, "hutchinson", 2, seed=seed), adjoint_trace(op, 2, seed=seed)):
            assert found.interval()[0] >= 0


def test_krylov_builds_on_earlier_products_and_counts_them_all():
    flow, calls = make_flow("GRU", (12, 20, 8), 1), []
    found = trace(flow.NTK, "krylov", probes=256, tol=0.02, progress=calls.append)
    assert found.standard_error <= 0.02 * found.value
    assert sum(calls) == found.n_products < 256
    once = trace(flow.NTK, "krylov", probes=found.n_products)
    np.testing.assert_allclose(found.value, once.value, rtol=1e-10)


def test_krylov_with_more_steps_than_parameters_is_exact():
    factor = np.random.default_rng(0).normal(size=(40, 6))
    spaces = EuclideanSpace((6,)), EuclideanSpace((40,))
    op = TensorOperator(lambda x: x @ factor.T, lambda x: x @ factor, *spaces).gram()
    np.testing.assert_allclose(trace(op, "krylov", probes=20).value, np.sum(factor**2), rtol=1e-13)


def test_single_precision_and_equal_bits():
    flow = make_flow("GRU", (3, 5, 4), 1, dtype=np.float32)
    wide = make_flow("GRU", (3, 5, 4), 1)
    for method in GRAM_METHODS:
        single, double = trace(flow.NTK, method, 24), trace(wide.NTK, method, 24)
        # Products to 1e-6, and what a range that differs by this does to the rest.
        np.testing.assert_allclose(single.value, double.value, rtol=1e-4)
        assert trace(flow.NTK, method, 24) == single


def test_auto_is_by_what_is_known():
    few, many = FLOWS["GRU"], make_flow("GRU", (8, 4, 4), 1)
    methods = ((few.NTK, "krylov"), (few.K, "krylov"), (few.P, "hutch++"), (many.P.gram(), "krylov"))
    for op, method in (*methods, (many.NTK, "trials"), (many.K, "trials")):
        assert trace(op, probes=7) == trace(op, method, probes=7)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda f: trace(f.D), ValueError, "operator on one space"),
        (lambda f: trace(f.P, "krylov", 10), ValueError, "made by gram\\(\\), whose factor is known; P is not"),
        (
            lambda f: trace(f.NTK, "xtrace"),
            ValueError,
            "must be one of auto, trials, krylov, hutch\\+\\+, hutchinson; got",
        ),
        (lambda f: trace(f.NTK, []), ValueError, "method must be one of auto"),
        (lambda f: trace(f.NTK, probes=0), ValueError, "probes must be an integer of at least 1; got 0"),
        (lambda f: trace(f.NTK, probes=True), TypeError, "probes must be an integer"),
        (lambda f: trace(f.NTK, probes=8.0), TypeError, "probes must be an integer"),
        (lambda f: trace(f.NTK, "hutch++", 5), ValueError, "Hutch\\+\\+ needs probes of at least 6"),
        (lambda f: trace(f.NTK, tol=float("nan")), ValueError, "tol must be a finite number above 0"),
        (lambda f: adjoint_trace(f.D, tol=0.0), ValueError, "tol must be a finite number above 0"),
        (lambda f: adjoint_trace(f.D, tol="0.1"), TypeError, "tol must be a real number"),
        (lambda f: frobenius_squared(f.P, seed=-1), ValueError, "seed must be an integer of at least 0"),
        (lambda f: frobenius_squared(f.P, seed=None), TypeError, "seed must be an integer"),
        (lambda f: trace(np.eye(3)), TypeError, "a TensorOperator, such as flow.NTK; got numpy.ndarray. A matrix"),
        (lambda f: frobenius_squared(aslinearoperator(np.eye(3))), TypeError, "becomes one by TensorOperator"),
        (lambda f: trace(f.NTK, progress=3), TypeError, "progress must be a function of a number of products"),
        (lambda f: trace(on_vectors(np.diag(np.full(9, 1e308)))), ValueError, "operator maps finite tensors to such"),
        (lambda f: trace(on_vectors(np.full((9, 9), np.nan)), probes=8), ValueError, "operator maps finite tensors"),
        (lambda f: adjoint_trace(f), TypeError, "a TensorOperator, such as flow.NTK; got kpref.flow.Flow"),
    ],
)
def test_what_cannot_be_estimated_is_said(call, kind, message):
    with pytest.raises(kind, match=message):
        call(FLOWS["GRU"])


def test_a_space_without_entries_has_the_trace_zero():
    op = on_vectors(np.zeros((0, 0)))
    for found in (trace(op), trace(op.gram()), adjoint_trace(op), frobenius_squared(op)):
        assert found == Estimate(0.0, 0.0, 0, "exact")


def test_a_linear_operator_becomes_one_as_the_error_says():
    matrix = np.random.default_rng(0).normal(size=(5, 5))
    A = aslinearoperator(matrix)
    op = TensorOperator(
        lambda rows: (A @ rows.T).T, lambda rows: (A.T @ rows.T).T, EuclideanSpace((5,)), EuclideanSpace((5,))
    )
    np.testing.assert_allclose(trace(op).value, np.trace(matrix), rtol=1e-12)
    np.testing.assert_allclose(adjoint_trace(op).value, np.sum(matrix**2), rtol=1e-12)
