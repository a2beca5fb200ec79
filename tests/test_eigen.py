"""Leading eigenpairs of self-adjoint operators: multiplicities, both sides of a Gram operator, warm starts, refusals.

`test_spectra.py` compares them with dense linear algebra over random networks.
"""

import functools
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import strategies
from continuous import fields
from strategies import weights

from kpref import Flow, models
from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra import bases, kernel_spectrum, lanczos
from kpref.spectra.eigen import eigh

MASK = np.random.default_rng(0).uniform(0.1, 2.0, size=(6, 12)) * (np.arange(12) % 5 > 0)


def dense_pairs(op):
    """Eigenvalues in descending order, and eigenfunctions (n, *shape) orthonormal in the measure, n its support."""
    weight = weights(op.space_in).ravel()
    keep = weight > 0
    root = np.sqrt(weight[keep])
    matrix = root[:, None] * op.to_dense()[np.ix_(keep, keep)] / root
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    tensors = np.zeros((len(values), len(weight)))
    tensors[:, keep] = (vectors / root[:, None]).T[::-1]
    return values[::-1], tensors.reshape(-1, *op.shape_in)


def gram(space, left, right):
    return (left.reshape(len(left), -1) * weights(space).ravel()) @ right.reshape(len(right), -1).T


def diagonal(values):
    space = EuclideanSpace((len(values),))
    return TensorOperator(lambda q: q * values, lambda q: q * values, space, space, name="A")


def without_factor(op):
    """The same operator, which does not know that it is a product."""
    return TensorOperator(op.apply, op.T.apply, op.space_in, op.space_out, op.dtype, op.name, op.structure)


@functools.cache
def wide_ntk(kind):
    """An NTK with a factor of fewer columns, and its pairs."""
    make = strategies.make_flow if kind == "map" else fields.make_flow
    model, steps = ("GRU", 12) if kind == "map" else ("Rate-tanh", 11)
    op = make(model, shape=(6, steps, 8), measure=MASK).NTK
    return op, dense_pairs(op)


@pytest.mark.parametrize("method", ["lanczos", "block", "dense"])
@pytest.mark.parametrize("factor", [True, False])
@pytest.mark.parametrize("kind", ["map", "field"])
def test_pairs_are_the_dense_ones_on_either_side(kind, factor, method):
    op, (values, tensors) = wide_ntk(kind)
    assert without_factor(op).factor is None
    assert op.factor.space_in.size < np.count_nonzero(weights(op.space_in))
    found = eigh(op if factor else without_factor(op), 4, method=method)
    # Second order in the residual of 1e-10, and some n units of rounding, n < 1000.
    np.testing.assert_allclose(found.values, values[:4], rtol=0, atol=1e-12 * values[0])
    np.testing.assert_allclose(gram(op.space_in, found.vectors, found.vectors), np.eye(4), atol=1e-12)
    # The span of all four: residual over the gap to the fifth value, which is more than 1e-3 of the first.
    np.testing.assert_allclose(np.linalg.svd(gram(op.space_in, found.vectors, tensors[:4]))[1], 1, atol=1e-12)
    assert found.residuals.max() <= 1e-9
    assert found.converged.all()
    assert not found.vectors[:, weights(op.space_in)[..., 0] == 0].any()


@pytest.mark.parametrize("method", ["auto", "block"])
def test_multiplicities_of_k_are_all_found(method):
    flow = Flow(models.LeakyRNN.init(2, 14, 0, alpha=0.3), np.random.default_rng(0).normal(size=(6, 12, 2)))
    assert flow.K.factor.space_in.size > 200  # not dense
    spectrum = kernel_spectrum(flow)
    found = eigh(flow.K, 20, method=method)  # fourteen times the first value, and six times the second
    np.testing.assert_allclose(found.values, spectrum.values[:20], rtol=0, atol=1e-12 * spectrum.values[0])
    np.testing.assert_allclose(gram(flow.space, found.vectors, found.vectors), np.eye(20), atol=1e-12)


@pytest.mark.parametrize("values", [np.ones(300), np.repeat([3.0, 2.0, 1.0], [5, 8, 287]), np.arange(300) % 3 - 1.0])
def test_multiplicities_of_few_different_values(values):
    found = eigh(diagonal(values), 14, method="lanczos")
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:14], rtol=0, atol=1e-13)


def test_a_start_in_an_invariant_space_misses_nothing():
    values = np.arange(300.0)
    start = np.eye(300)[[3, 4, 5]]
    np.testing.assert_allclose(eigh(diagonal(values), 3, start=start, method="lanczos").values, [299, 298, 297])


def test_all_pairs_and_the_null_space_of_an_operator_of_low_rank():
    flow = fields.make_flow("VanDerPol", shape=(4, 30, 2))
    op, size = flow.NTK, flow.space.size
    assert op.factor.space_in.size == 1
    for k in (4, size):
        found = eigh(op, k)
        assert found.values[0] > 0
        assert not found.values[1:].any()
        assert found.residuals.max() < 1e-13
        np.testing.assert_allclose(gram(flow.space, found.vectors, found.vectors), np.eye(k), atol=1e-12)
    # No parameter acts at all: every function is an eigenfunction.
    space = TrajectorySpace((3, 10, 10))
    zero = TensorOperator(np.zeros_like, np.zeros_like, space, space)
    for op in (zero.gram(), without_factor(zero.gram())):
        found = eigh(op, 3)
        assert not found.values.any()
        np.testing.assert_allclose(gram(space, found.vectors, found.vectors), np.eye(3), atol=1e-12)


def test_values_far_below_the_first():
    steep = 10.0 ** -np.linspace(0, 60, 250)
    rows = TensorOperator(
        lambda q: np.pad(q * np.sqrt(steep), ((0, 0), (0, 50))), lambda g: g[:, :250] * np.sqrt(steep),
        EuclideanSpace((250,)), EuclideanSpace((300,)),
    )  # fmt: skip
    found = eigh(rows.gram(), 80, tol=1e-14, method="lanczos")  # the last values are below rounding of the first
    # Rounding of products with the square; `bases.noise` is 1e-14.
    np.testing.assert_allclose(found.values, steep[:80], rtol=0, atol=5e-14)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(80), atol=1e-13)
    assert found.residuals.max() < 1e-13


def test_restarts_find_the_same():
    values = 1 / (1 + 0.02 * np.arange(500))
    op = diagonal(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bases, "_ROOMY", 1)
        narrow = eigh(op, 2, tol=1e-6, method="lanczos")
    roomy = eigh(op, 2, tol=1e-6, method="lanczos")
    assert narrow.n_products >= roomy.n_products > 2 * 2 + 24  # more than the narrow bases hold
    for found in (narrow, roomy):
        np.testing.assert_allclose(found.values, values[:2], atol=1e-6)
        assert found.residuals.max() < 2e-6


def test_warm_start_uses_fewer_products():
    model = models.GRU.init(2, 16, 0)
    inputs = np.random.default_rng(0).normal(size=(6, 12, 2))
    near = model.with_parameters({"weight_hh": model.parameters["weight_hh"] * (1 + 1e-7)})
    start, op = eigh(Flow(model, inputs).NTK, 4).vectors, Flow(near, inputs).NTK
    for form in (op, without_factor(op)):
        cold, warm = eigh(form, 4), eigh(form, 4, start=start)
        np.testing.assert_allclose(warm.values, cold.values, rtol=1e-11)
        assert warm.n_products < cold.n_products
    assert eigh(op, 4, start=start, method="block").n_products < eigh(op, 4, method="block").n_products


def test_float32():
    exact = eigh(strategies.make_flow("GRU", (6, 12, 10)).NTK, 4)
    op = strategies.make_flow("GRU", (6, 12, 10), dtype=np.float32).NTK
    for form in (op, without_factor(op)):
        found = eigh(form, 4)
        assert found.vectors.dtype == np.float32
        # Products have relative errors of some tens of units of rounding.
        np.testing.assert_allclose(found.values, exact.values, atol=50 * np.finfo(np.float32).eps * exact.values[0])
        assert found.residuals.max() < 100 * np.finfo(np.float32).eps


def test_the_same_bits_for_the_same_seed():
    op = strategies.make_flow("GRU", (6, 12, 8)).NTK
    first, again, other = (eigh(op, 3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


# It is no part of any extra that CI installs: it has to be compiled, against a LAPACK.
@pytest.mark.skipif(find_spec("primme") is None, reason="PRIMME is optional, and not installed")
def test_primme():
    op = strategies.make_flow("GRU", (6, 12, 8)).NTK
    ours, theirs = eigh(op, 4), eigh(op, 4, method="primme")
    np.testing.assert_allclose(theirs.values, ours.values, rtol=0, atol=1e-12 * ours.values[0])
    assert theirs.converged.all()
    assert theirs.residuals.max() < 1e-9
    assert eigh(op, 4, method="primme", start=ours.vectors).n_products < theirs.n_products


def test_primme_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "primme", None)
    with pytest.raises(ImportError, match='method "primme" needs the package primme'):
        eigh(diagonal(np.arange(5.0)), 2, method="primme")


def test_refusals():
    op = strategies.make_flow("GRU", (2, 3, 4)).NTK
    with pytest.raises(ValueError, match="method must be one of auto, lanczos, block, dense, primme; got 'arpack'"):
        eigh(op, 1, method="arpack")
    with pytest.raises(ValueError, match=r"start must have shape \(j, 2, 3, 4\); got \(2, 3, 4\)"):
        eigh(op, 1, start=np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="start holds nan"):
        eigh(op, 1, start=np.full((1, 2, 3, 4), np.nan))
    with pytest.raises(ValueError, match="at least one tensor that is not zero; got 2 of them"):
        eigh(op, 1, start=np.zeros((2, 2, 3, 4)))


def test_no_convergence_keeps_what_there_is(monkeypatch):
    monkeypatch.setattr(lanczos, "_MAX_PRODUCTS", 4)
    values = np.append(2.0, 1 - np.arange(499) ** 2 / 1e7)
    with pytest.raises(lanczos.NoConvergence, match="A: 1 of 3 eigenpairs converged to 1e-10 in 52 products") as info:
        eigh(diagonal(values), 3)
    partial = info.value.partial
    assert isinstance(info.value, RuntimeError)
    assert list(partial.converged) == [True, False, False]
    np.testing.assert_allclose(partial.values[0], 2.0, rtol=1e-12)
    assert list(partial.residuals > 1e-10) == [False, True, True]


def test_without_the_search_for_copies_there_are_fewer_products():
    flow = strategies.make_flow("GRU", (4, 12, 9), seed=3)
    sure, quick = (eigh(flow.NTK, 3, tol=1e-8, method="lanczos", copies=copies) for copies in (True, False))
    assert quick.n_products < sure.n_products
    np.testing.assert_allclose(quick.values, sure.values, rtol=1e-12)


@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7])
def test_residuals_found_through_the_parameters_are_those_asked_for(tol):
    flow = strategies.make_flow("GRU", (40, 12, 9), seed=3)
    assert flow.D.shape[1] < flow.D.shape[0]
    for seed in range(10):
        found = eigh(flow.NTK, 3, tol=tol, method="lanczos", seed=seed)
        assert found.residuals.max() <= tol


@pytest.mark.parametrize(
    ("operator", "available", "what"),
    [("NTK", 1_000, "3 eigenfunctions of NTK"), ("NTK", 250_000, "Lanczos bases of NTK"), ("K", 1_000, "of K")],
)
def test_what_would_not_fit_is_refused_before_it_is_allocated(monkeypatch, operator, available, what):
    flow = strategies.make_flow("GRU", (40, 12, 9), seed=3)
    monkeypatch.setattr("kpref.memory.available_memory", lambda: available)
    with pytest.raises(MemoryError, match=what):
        eigh(getattr(flow, operator), 3)
