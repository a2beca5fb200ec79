"""The operators as citizens of SciPy: its solvers take them, its algebra mixes with them, NumPy leaves them alone."""

import copy

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as sla
from strategies import make_flow

import kpref
from kpref.operators import TensorOperator, identity
from kpref.space import EuclideanSpace

# Sizes are small (n = 24, M <= 57) and the systems contract, so that norms are of order one to ten and a dense product
# is off by some n u = 5e-15. Iterative solvers are run to their own tolerance, stated where it is.
EXACT = 1e-13


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def flow():
    return make_flow("GRU", (2, 4, 3), seed=1)


OPERATORS = ("P", "P_inverse", "J", "D_z0", "K", "NTK")


def assert_close(got, wanted, bound=EXACT):
    assert np.shape(got) == np.shape(wanted)
    assert np.abs(np.asarray(got) - wanted).max() <= bound * max(1.0, np.abs(wanted).max())


# Solvers


@pytest.mark.parametrize("name", ["K", "NTK"])
def test_eigsh(flow, name):
    """Residual tolerance is machine precision (tol=0)."""
    operator = getattr(flow, name)
    values, vectors = sla.eigsh(operator, k=5, v0=np.ones(24))
    wanted = np.linalg.eigvalsh(operator.to_dense())
    assert_close(np.sort(values), wanted[-5:])
    assert_close(operator @ vectors, vectors * values, 1e-12)


def test_eigsh_symmetrised_in_a_measure():
    """``Mu^(1/2) NTK Mu^(-1/2)`` is symmetric where NTK is not."""
    flow = make_flow("GRU", (2, 4, 3), seed=1, measure=[0.1, 0.0, 2.0, 1.0])
    space = flow.space

    def symmetric(batch):
        return space.scale(flow.NTK.apply(space.scale(batch, -0.5)), 0.5)

    operator = TensorOperator(symmetric, symmetric, space, space)
    dense = flow.NTK.to_dense()
    assert np.abs(dense - dense.T).max() > 1e-3
    wanted = np.linalg.eigvals(dense)
    assert np.abs(wanted.imag).max() < 1e-8
    assert_close(np.sort(sla.eigsh(operator, k=4, v0=np.ones(24))[0]), np.sort(wanted.real)[-4:], 1e-12)


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "propack"])
@pytest.mark.parametrize("name", ["P", "J", "K"])
def test_svds(flow, name, solver):
    operator = getattr(flow, name)
    got = sla.svds(operator, k=2, solver=solver, random_state=0, return_singular_vectors=False, maxiter=500)
    wanted = np.linalg.svd(operator.to_dense(), compute_uv=False)[:2]
    # lobpcg works on A^T A to a residual of sqrt(eps); singular values are off by its square at most.
    assert_close(np.sort(got), np.sort(wanted), 1e-7 if solver == "lobpcg" else 1e-12)


@pytest.mark.filterwarnings("error")
def test_lobpcg(flow, rng):
    shifted = flow.NTK + identity(flow.space)  # positive definite
    values, vectors = sla.lobpcg(shifted, rng.normal(size=(24, 3)), tol=1e-9, maxiter=200)
    wanted = np.linalg.eigvalsh(shifted.to_dense())[-3:]
    assert_close(np.sort(values), wanted, 1e-12)  # the square of the residual
    assert vectors.shape == (24, 3)


@pytest.mark.parametrize("name", ["P", "J"])
def test_least_squares(flow, name, rng):
    operator, right = getattr(flow, name), rng.normal(size=24)
    wanted = np.linalg.lstsq(operator.to_dense(), right, rcond=1e-10)[0]
    # Both stop when the residual's gradient falls below tol times norms; the solution is off by the condition times it.
    for got in (
        sla.lsqr(operator, right, atol=1e-14, btol=1e-14, iter_lim=2000)[0],
        sla.lsmr(operator, right, atol=1e-14, btol=1e-14, maxiter=2000)[0],
    ):
        assert_close(got, wanted, 1e-8)


@pytest.mark.parametrize("solver", ["gmres", "bicgstab", "qmr"])
def test_linear_solvers(flow, solver, rng):
    right = rng.normal(size=24)
    got, info = getattr(sla, solver)(flow.P, right, rtol=1e-13, maxiter=500)
    assert info == 0
    assert_close(got, flow.P_inverse @ right, 1e-10)


@pytest.mark.parametrize("solver", ["cg", "minres"])
def test_symmetric_solvers(flow, solver, rng):
    operator, right = flow.NTK + 0.1 * identity(flow.space), rng.normal(size=24)
    got, info = getattr(sla, solver)(operator, right, rtol=1e-12)
    assert info == 0
    assert_close(got, np.linalg.solve(operator.to_dense(), right), 1e-8)


def test_preconditioner(flow, rng):
    """P^-1 solves a system with P in one iteration."""
    right, steps = rng.normal(size=24), []
    got, info = sla.gmres(flow.P, right, M=flow.P_inverse, rtol=1e-12, callback=steps.append, callback_type="pr_norm")
    assert info == 0
    assert len(steps) <= 2
    assert_close(got, flow.P_inverse @ right, 1e-11)


@pytest.mark.filterwarnings("error")
def test_expm_multiply(flow, rng):
    """Gradient flow of a linear loss: ``exp(-t NTK) y``."""
    start, operator = rng.normal(size=24), -1.0 * flow.NTK
    got = sla.expm_multiply(operator, start, traceA=np.trace(operator.to_dense()))
    assert_close(got, scipy.linalg.expm(operator.to_dense()) @ start, 1e-12)


def test_norm_estimate(flow):
    dense = flow.P.to_dense()
    # The estimator is a lower bound, and exact on all but contrived matrices of this size.
    assert_close(sla.onenormest(flow.P, t=5), np.abs(dense).sum(axis=0).max(), 1e-12)


# Products with arrays


@pytest.mark.parametrize("name", OPERATORS)
def test_array_products(flow, name, rng):
    operator = getattr(flow, name)
    dense = operator.to_dense()
    rows, columns = operator.shape
    assert operator.dtype == np.float64
    x, many = rng.normal(size=columns), rng.normal(size=(columns, 3))
    assert_close(operator @ x, dense @ x)
    assert_close(operator @ x[:, None], dense @ x[:, None])
    assert_close(operator @ many, dense @ many)
    assert_close(operator * many, dense @ many)
    assert_close(operator.dot(many), dense @ many)
    assert_close(operator.matvec(x), dense @ x)
    assert_close(operator.matvec(x[:, None]), dense @ x[:, None])
    assert_close(operator.matmat(many), dense @ many)
    y, rows_of = rng.normal(size=rows), rng.normal(size=(2, rows))
    assert_close(operator.T @ y, dense.T @ y)
    assert_close(operator.H @ y, dense.T @ y)
    assert_close(operator.rmatvec(y), dense.T @ y)
    assert_close(operator.rmatvec(y[:, None]), dense.T @ y[:, None])
    assert_close(operator.rmatmat(rows_of.T), dense.T @ rows_of.T)
    assert_close(y @ operator, y @ dense)
    assert_close(rows_of @ operator, rows_of @ dense)
    assert_close(operator.T.T @ x, dense @ x)
    assert_close(operator.H.T @ x, dense @ x)
    assert_close(operator.adjoint() @ y, dense.T @ y)
    assert_close(operator.transpose() @ y, dense.T @ y)
    assert (operator @ np.empty((columns, 0))).shape == (rows, 0)


@pytest.mark.parametrize("name", OPERATORS)
def test_complex_arrays(flow, name, rng):
    operator = getattr(flow, name)
    dense = operator.to_dense()
    rows, columns = operator.shape
    z = rng.normal(size=columns) + 1j * rng.normal(size=columns)
    w = rng.normal(size=(rows, 2)) + 1j * rng.normal(size=(rows, 2))
    assert_close(operator @ z, dense @ z)
    assert_close(operator.H @ w, dense.T @ w)
    assert_close(operator.T @ w, dense.T @ w)
    assert_close(w.T @ operator, w.T @ dense)
    assert_close(operator(z.reshape(operator.shape_in)).ravel(), dense @ z)
    assert_close(2j * operator @ z, 2j * dense @ z)
    assert_close((2j * operator).H @ w, -2j * dense.T @ w)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(int),
        lambda x: x.astype(np.int8),
        lambda x: x > 0,
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(">f8"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: x.tolist(),
    ],
)
def test_any_array(flow, change, rng):
    x = change(rng.normal(size=(24, 3)) * 3)
    plain = np.array(x, dtype=float)
    assert_close(flow.P @ x, flow.P.to_dense() @ plain)
    assert (flow.P @ x).dtype == np.float64


def test_read_only_arrays_are_taken_and_none_is_written_to(flow, rng):
    x = rng.normal(size=24)
    kept = x.copy()
    x.flags.writeable = False
    for name in ("P", "P_inverse", "K", "NTK"):
        for operator in (getattr(flow, name), getattr(flow, name).T, getattr(flow, name).star):
            image = operator @ x
            assert not np.shares_memory(image, x)
            image += 1  # ours to write to
    np.testing.assert_array_equal(x, kept)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrices(flow, rng):
    """np.matrix is taken wherever an array is; matvec gives a matrix back, as SciPy's does."""
    x, dense = np.matrix(rng.normal(size=(24, 2))), flow.P.to_dense()
    array = np.asarray(x)
    for got, wanted in [
        (flow.P @ x, dense @ array),
        (flow.P * x, dense @ array),
        (flow.P.matmat(x), dense @ array),
        (flow.P.matvec(x[:, 0]), dense @ array[:, :1]),
        (flow.P.rmatvec(x[:, 0]), dense.T @ array[:, :1]),
        (x.T @ flow.P, array.T @ dense),
        (x.T * flow.P, array.T @ dense),
    ]:
        assert_close(got, wanted)
    assert isinstance(flow.P.matvec(x[:, 0]), np.matrix)


def test_results_have_the_precision_of_the_operator(rng):
    flow = make_flow("GRU", (2, 4, 3), dtype=np.float32)
    x = rng.normal(size=24)
    assert (flow.P @ x).dtype == np.float32
    assert (flow.P @ x.astype(complex)).dtype == np.complex64
    for made in (2 * flow.P, flow.P @ flow.P, flow.P.star, flow.P.T, flow.K + flow.P, np.float64(2) * flow.P):
        assert made.dtype == np.float32
        assert (made @ x).dtype == np.float32


def test_mixed_precisions_give_the_wider(rng):
    single, double = make_flow("GRU", (2, 4, 3), dtype=np.float32), make_flow("GRU", (2, 4, 3))
    x = rng.normal(size=24)
    for made in (single.P + double.P, double.P @ single.P):
        assert made.dtype == np.float64
        assert (made @ x).dtype == np.float64


# Algebra, among themselves and with SciPy's


def algebra(flow, rng):
    """Expressions on operators and the same on their matrices."""
    P, K, J = flow.P, flow.K, flow.J  # noqa: N806
    p, k, j = (operator.to_dense() for operator in (P, K, J))
    array = rng.normal(size=(24, 24))
    foreign, sparse = sla.aslinearoperator(array), scipy.sparse.csr_array(np.triu(array))
    s = sparse.toarray()
    own = [
        (2 * P, 2 * p),
        (P * 2, 2 * p),
        (np.float64(-0.5) * P, -0.5 * p),
        (P / 4, p / 4),
        (-P, -p),
        (P + K, p + k),
        (P - K, p - k),
        (P @ K, p @ k),
        (P * K, p @ k),
        (P.dot(K), p @ k),
        (P**0, np.eye(24)),
        (P**3, p @ p @ p),
        (P @ J, p @ j),
        ((P @ J).T, (p @ j).T),
        (J.T @ P.T, (p @ j).T),
        ((2 * P + K).T, 2 * p.T + k.T),
        ((P - 3 * K @ P).H, (p - 3 * k @ p).T),
        (P.star, p.T),
        ((P @ K + P).star, k.T @ p.T + p.T),
    ]
    mixed = [
        (foreign @ P, array @ p),
        (P @ foreign, p @ array),
        (foreign * P, array @ p),
        (P * foreign, p @ array),
        (foreign + P, array + p),
        (P + foreign, p + array),
        (foreign - P, array - p),
        (P - foreign, p - array),
        (foreign @ J, array @ j),
        (J.T @ foreign, j.T @ array),
        (P @ sla.aslinearoperator(sparse), p @ s),
        (sla.aslinearoperator(sparse) @ P, s @ p),
        (2j * P, 2j * p),
        (P * (1 + 1j), (1 + 1j) * p),
        (foreign @ (2 * P) + K, array @ (2 * p) + k),
        (sla.LinearOperator.__pow__(P, 2), p @ p),
        (sla.aslinearoperator(P), p),
        (P @ sla.LinearOperator((24, 24), matvec=lambda x: 3 * x, dtype=float), 3 * p),
    ]
    return own, mixed


def test_algebra(flow, rng):
    own, mixed = algebra(flow, rng)
    x = rng.normal(size=(400, 2))
    for operator, dense in own + mixed:
        assert isinstance(operator, sla.LinearOperator)
        assert operator.shape == dense.shape
        assert_close(operator @ x[: dense.shape[1]], dense @ x[: dense.shape[1]], 1e-12)
        assert_close(operator @ x[: dense.shape[1], 0], dense @ x[: dense.shape[1], 0], 1e-12)
    for operator, dense in own + mixed[:-1]:  # the last one has no transpose
        assert_close(operator.T @ x[: dense.shape[0]], dense.T @ x[: dense.shape[0]], 1e-12)
        assert_close(operator.H @ x[: dense.shape[0]], dense.conj().T @ x[: dense.shape[0]], 1e-12)
    for operator, dense in own:
        assert isinstance(operator, TensorOperator)
        assert operator(x[: dense.shape[1], 0].reshape(operator.shape_in)).shape == operator.shape_out
        assert_close(operator.to_dense(), dense, 1e-12)


def test_sparse_matrices_are_refused_as_scipy_refuses_them(flow):
    """A LinearOperator does not multiply sparse matrices; SciPy says to wrap them."""
    for sparse in (scipy.sparse.eye_array(24), scipy.sparse.csr_matrix(np.eye(24))):
        with pytest.raises(TypeError, match="sparse"):
            flow.P @ sparse


def test_wrong_operands(flow):
    for wrong in (np.ones(23), np.ones((23, 2)), np.ones((24, 2, 2)), np.array(2.0)):
        with pytest.raises(ValueError):
            flow.P @ wrong
    for wrong in (np.ones(23), np.ones((2, 23))):
        with pytest.raises(ValueError):
            wrong @ flow.P
    with pytest.raises(ValueError):
        flow.P @ 2
    with pytest.raises(ValueError):
        2 @ flow.P
    with pytest.raises(ValueError):
        flow.P + sla.aslinearoperator(np.eye(23))
    with pytest.raises(ValueError, match="must not be zero"):
        flow.P / 0


def test_copies_work(flow, rng):
    """Of operators of ours and of a user's functions, which need no names for that; and of a flow."""
    x, space = rng.normal(size=24), EuclideanSpace((24,))
    doubled = TensorOperator(lambda batch: 2 * batch, lambda batch: 2 * batch, space, space)
    for operator in (flow.P, flow.NTK, doubled, doubled @ doubled):
        for copied in (copy.copy(operator), copy.deepcopy(operator)):
            np.testing.assert_array_equal(copied @ x, operator @ x)
    for copied in (copy.deepcopy(flow), copy.copy(flow)):
        np.testing.assert_array_equal(copied.P @ x, flow.P @ x)


def test_precision_of_products_with_operators_of_scipy(rng):
    """They promise the larger precision, and return it."""
    flow = kpref.Flow(kpref.models.RNN.init(2, 3, 0), rng.normal(size=(2, 4, 2)), dtype=np.float32)
    x = rng.normal(size=24)
    for other in (np.eye(24), 1j * np.eye(24)):
        product = flow.P @ sla.aslinearoperator(other)
        assert (product @ x).dtype == (product @ x.astype(np.float32)).dtype == product.dtype
        np.testing.assert_allclose(product @ x, other @ (flow.P @ x), rtol=1e-6)


def test_arrays_without_axes_are_numbers(flow, rng):
    x = rng.normal(size=24)
    for factor in (2.0, 2j):
        for product in (flow.P * np.array(factor), np.array(factor) * flow.P, flow.P / np.array(1 / factor)):
            np.testing.assert_allclose(product @ x, factor * (flow.P @ x), rtol=1e-15)


def test_sums_with_what_is_no_operator_are_refused_in_words(flow):
    for other in (np.eye(24), 1, None, [1.0]):
        for add in (lambda a, b: a + b, lambda a, b: a - b):
            for pair in ((flow.P, other), (other, flow.P)):
                with pytest.raises(TypeError, match="P can be added to another operator; got .*aslinearoperator"):
                    add(*pair)
