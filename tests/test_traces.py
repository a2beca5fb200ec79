"""Estimators of traces against dense matrices, and leave-one-out formulas against leaving out one vector at a time."""

from contextlib import nullcontext

import numpy as np
import pytest
from continuous import fields
from strategies import make_flow

from kpref.operators import TensorOperator
from kpref.operators.tensor import Structure
from kpref.space import EuclideanSpace
from kpref.spectra.sketches import extend_range, frobenius_samples, nystrom_samples, range_samples
from kpref.spectra.traces import adjoint_trace, frobenius_squared, trace

METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace")
#: For operators A A* with A known.
GRAM_METHODS = (*METHODS, "krylov")


def masked_measure(trials, steps):
    measure = np.random.default_rng(5).uniform(0.2, 2.0, size=(trials, steps))
    measure[0, -1] = 0.0
    return measure


def flows():
    yield "GRU", make_flow("GRU", (3, 4, 4), 1, measure=masked_measure(3, 4))
    yield "ODE in site form", fields.make_flow("Rate-tanh", "rk4", (3, 4, 4), 1, measure=masked_measure(3, 5))
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


def on_vectors(matrix, positive=False):
    space = EuclideanSpace((len(matrix),))
    structure = Structure(positive, positive)
    return TensorOperator(lambda x: x @ matrix.T, lambda x: x @ matrix, space, space, structure=structure)


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


@pytest.mark.parametrize("symmetric", [True, False])
def test_range_sketch_leaves_out_one_vector_at_a_time(symmetric):
    size, count = 30, 7
    rng = np.random.default_rng(1)
    matrix = decaying(size) if symmetric else rng.normal(size=(size, size)) @ decaying(size, 2)
    probes = rng.normal(size=(count, size))
    sketch = extend_range(lambda x: x @ matrix.T, probes)
    traces, squares = [], []
    for index, probe in enumerate(probes):
        basis = np.linalg.qr(matrix @ np.delete(probes, index, axis=0).T)[0]
        rest = probe - basis @ (basis.T @ probe)
        factor = (size - count + 1) / (rest @ rest)
        traces.append(np.trace(basis.T @ matrix @ basis) + factor * rest @ matrix @ rest)
        squares.append(np.sum((matrix @ basis) ** 2) + factor * np.sum((matrix @ rest) ** 2))
    # The triangle has a condition of about 1e3 here: 1e-16 times that, with a margin for the sums.
    np.testing.assert_allclose(range_samples(sketch, size), traces, rtol=1e-10)
    np.testing.assert_allclose(frobenius_samples(sketch, size), squares, rtol=1e-10)


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
    np.testing.assert_allclose(found.standard_error, expected.std(ddof=1) / np.sqrt(2 * steps), rtol=1e-8)
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
        with pytest.raises(RuntimeError, match="Krylov reached") if tol else nullcontext():
            assert trace(op, "krylov", probes=20, tol=tol).n_products == 20
        # Ten steps, each of which takes one product with A and one with A*; twenty with A* alone for the rest.
        assert sum(calls) == 30


def test_nystrom_leaves_out_one_vector_at_a_time():
    size, count = 30, 7
    matrix = decaying(size)
    probes = np.random.default_rng(2).normal(size=(count, size))
    expected = []
    for index, probe in enumerate(probes):
        others = np.delete(probes, index, axis=0).T
        images = matrix @ others
        rest_of = matrix - images @ np.linalg.solve(others.T @ images, images.T)
        basis = np.linalg.qr(others)[0]
        rest = probe - basis @ (basis.T @ probe)
        expected.append(np.trace(matrix - rest_of) + (size - count + 1) / (rest @ rest) * rest @ rest_of @ rest)
    np.testing.assert_allclose(nystrom_samples(probes, probes @ matrix, size), expected, rtol=1e-10)


@pytest.mark.parametrize("rank", [0, 2, 50])
def test_range_sketch_in_two_steps_is_that_in_one(rank):
    matrix = decaying(50) if rank == 50 else np.diag(np.arange(50) < rank).astype(float)
    probes = np.random.default_rng(3).normal(size=(9, 50))
    whole = extend_range(lambda x: x @ matrix.T, probes)
    steps = extend_range(lambda x: x @ matrix.T, probes[5:], extend_range(lambda x: x @ matrix.T, probes[:5]))
    np.testing.assert_allclose(steps.basis @ steps.basis.T, np.eye(9), atol=1e-13)
    np.testing.assert_allclose(range_samples(steps, 50), range_samples(whole, 50), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("method", ["hutch++", "xtrace", "xnystrace"])
def test_a_sketch_larger_than_the_rank_is_exact(method, rank):
    op = on_vectors(np.diag(np.where(np.arange(60) < rank, 2.0, 0.0)), positive=True)
    # Rounding of a Cholesky factor near the edge of its range: 1e-10 is far above, and far below any sampling error.
    np.testing.assert_allclose(trace(op, method, probes=24).value, 2.0 * rank, atol=1e-10)


def estimators():
    flow = FLOWS["GRU"]
    dense = symmetrised(flow.NTK)
    for method in GRAM_METHODS:
        yield method, lambda seed, method=method: trace(flow.NTK, method, 12, seed=seed), np.trace(dense)
    yield "adjoint", lambda seed: adjoint_trace(flow.D, 12, seed=seed), np.trace(dense)
    yield "frobenius", lambda seed: frobenius_squared(flow.NTK, 12, seed=seed), np.sum(dense**2)
    yield "frobenius of D", lambda seed: frobenius_squared(flow.D, 12, seed=seed), np.trace(dense)
    # Neither symmetric nor definite: the bootstrap models it by a diagonal matrix of the same singular values.
    yield "xtrace of P", lambda seed: trace(flow.P, probes=12, seed=seed), np.trace(symmetrised(flow.P))


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
    found = trace(op, method, probes=256, tol=tol, progress=calls.append)
    assert found.standard_error <= tol * found.value
    assert sum(calls) == found.n_products < 256
    once = trace(op, method, probes=found.n_products, seed=0)
    # The same vectors in one step; Gram-Schmidt in two steps differs by rounding alone.
    np.testing.assert_allclose(found.value, once.value, rtol=1e-10)
    with pytest.raises(RuntimeError, match="tol was 1e-05"):
        trace(op, "hutchinson", probes=40, tol=1e-5)


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
        # Products to 1e-6; the Nystroem factor takes square roots of their errors where the spectrum ends.
        np.testing.assert_allclose(single.value, double.value, rtol=1e-3)
        assert trace(flow.NTK, method, 24) == single


def test_auto_is_krylov_where_there_is_a_factor():
    flow = FLOWS["GRU"]
    for op, method in ((flow.NTK, "krylov"), (flow.K, "krylov"), (flow.P, "xtrace")):
        assert trace(op, probes=10) == trace(op, method, probes=10)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: trace(f.D), "operator on one space"),
        (lambda f: trace(f.P, "xnystrace", 10), "declared self-adjoint and positive"),
        (lambda f: trace(f.P, "krylov", 10), "made by gram\\(\\), whose factor is known; P is not"),
        (lambda f: trace(f.NTK, "lanczos"), "method must be one of auto"),
        (lambda f: trace(f.NTK, probes=0), "probes must be an integer of at least 1; got 0"),
        (lambda f: trace(f.NTK, probes=True), "probes must be an integer"),
        (lambda f: trace(f.NTK, "hutch++", 5), "Hutch\\+\\+ needs probes of at least 6"),
        (lambda f: trace(f.NTK, tol=float("nan")), "tol must be positive and finite"),
        (lambda f: adjoint_trace(f.D, tol=0.0), "tol must be positive and finite"),
        (lambda f: frobenius_squared(f.P, seed=-1), "seed must be an integer of at least 0"),
        (lambda f: trace(on_vectors(-np.eye(20), positive=True), "xnystrace", probes=8), "declared positive, but"),
    ],
)
def test_what_cannot_be_estimated_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call(FLOWS["GRU"])
