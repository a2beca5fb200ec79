"""TensorOperator: tensors and vectors, adjoints, algebra and its declared structure, what is refused, the guard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, make_flow, restricted, weights

from kpref import EuclideanSpace, TrajectorySpace
from kpref.operators import TensorOperator, identity


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_tensor_and_vector_agree(rng):
    flow = make_flow("GRU")
    for operator in (flow.P, flow.J, flow.J.T, flow.D_z0, flow.NTK, flow.P.star):
        x = rng.normal(size=(3, *operator.shape_in))
        batch = operator.apply(x)
        assert batch.shape == (3, *operator.shape_out)
        for one, image in zip(x, batch, strict=True):
            tensor = operator(one)
            assert tensor.shape == operator.shape_out
            # A batch of three goes through wider matrix products than one: other sums, of fewer than sixty terms.
            bound = 1e-13 * np.abs(image).max()
            np.testing.assert_allclose(tensor, image, rtol=0, atol=bound)
            np.testing.assert_array_equal(operator @ one.ravel(), tensor.ravel())
            np.testing.assert_array_equal(operator(one.ravel()).ravel(), tensor.ravel())


def test_star_of_star(rng):
    flow = make_flow("GRU", measure=[0.5, 0.0, 1.0, 2.0, 0.1])
    q = restricted(flow.space, rng.normal(size=flow.states.shape))
    seen = flow.space.mu[0] > 0
    # Where the measure sees: divided by a weight and multiplied by it again, two roundings an entry.
    got, wanted = flow.P.star.star(q)[:, seen], flow.P(q)[:, seen]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-14 * np.abs(wanted).max())
    assert (flow.P.star.star(q)[:, ~seen] == 0).all()
    assert (flow.P.star(q)[:, ~seen] == 0).all()


def test_star_of_product_is_the_product_of_stars(rng):
    flow = make_flow("GRU", measure=rng.uniform(0.1, 1, size=(3, 5)))
    q = rng.normal(size=flow.states.shape)
    got, wanted = (flow.P @ flow.J).star(q), (flow.J.star @ flow.P.star)(q)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())


@pytest.mark.parametrize("measure", ["mean", "sum", [0.5, 0.0, 1.0, 2.0, 0.1]])
def test_gram(measure):
    flow = make_flow("RNN-tanh", measure=measure)
    for operator in (flow.J, flow.D_z0, flow.P, flow.J.star, flow.P.star):
        dense = operator.to_dense() @ operator.star.to_dense()
        gram = operator.gram()
        np.testing.assert_allclose(gram.to_dense(), dense, rtol=0, atol=1e-13 * np.abs(dense).max())
        np.testing.assert_allclose(gram.T.to_dense(), dense.T, rtol=0, atol=1e-13 * np.abs(dense).max())
        assert gram.structure.self_adjoint
        assert gram.space_in == gram.space_out == operator.space_out


def test_declared_structure_is_true_of_sums_products_and_multiples(rng):
    """What algebra declares self-adjoint or positive is so; what it cannot know it does not declare."""
    flow = make_flow("RNN-tanh", measure=rng.uniform(0.1, 1, size=(3, 5)))
    root = np.sqrt(weights(flow.space)).ravel()
    one = identity(flow.space)
    made = [
        flow.K,
        2 * flow.K,
        -flow.K,
        flow.K - flow.NTK,
        flow.K + flow.NTK,
        flow.K @ flow.NTK,
        flow.K**2,
        flow.P**2,
        flow.P + flow.P,
        0.5 * one - flow.K,
        (-flow.K) ** 2,
        flow.K / 3,
        flow.K * -1.0,
    ]
    for operator in made:
        symmetric = root[:, None] * operator.to_dense() / root
        noise = 1e-12 * np.abs(symmetric).max()
        if operator.structure.self_adjoint:
            assert np.abs(symmetric - symmetric.T).max() <= noise
        if operator.structure.positive:
            assert np.linalg.eigvalsh((symmetric + symmetric.T) / 2).min() >= -60 * noise
    kept = [o.structure.self_adjoint for o in made]
    assert kept[:5] == [True] * 5
    assert not made[5].structure.self_adjoint
    assert [o.structure.positive for o in made[:5]] == [True, True, False, False, True]
    assert not any(o.structure.self_adjoint for o in made[7:9])


def test_powers_are_applied_and_not_built_up():
    """However high: neither an endless loop when they are made nor a deep stack when they are used."""
    flow = make_flow("RNN-tanh")
    dense = flow.P.to_dense()
    np.testing.assert_allclose((flow.P**3).to_dense(), dense @ dense @ dense, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose((flow.P**3).T.to_dense(), (dense @ dense @ dense).T, rtol=1e-12, atol=1e-13)
    ones = np.ones(flow.states.shape)
    np.testing.assert_array_equal((flow.P**0)(ones), ones)
    np.testing.assert_array_equal((identity(flow.space) ** 10_000)(ones), ones)
    assert (flow.P**10**30).name == f"P^{10**30}"


def test_spaces_have_to_match():
    flow, other = make_flow("GRU"), make_flow("GRU", measure="sum")
    for combine in (lambda: flow.P @ other.P, lambda: flow.P + other.K, lambda: flow.P - other.P):
        with pytest.raises(ValueError, match="measure"):
            combine()
    with pytest.raises(ValueError, match="space"):
        flow.P @ flow.J.T
    with pytest.raises(ValueError, match="space"):
        flow.P + flow.J
    for wrong in (lambda: flow.J**2, lambda: flow.P**-1, lambda: flow.P**0.5, lambda: flow.P / flow.P):
        with pytest.raises(ValueError):
            wrong()
    for factor in ("2", b"2"):
        with pytest.raises(TypeError, match="2"):
            flow.P * factor
        with pytest.raises(TypeError, match="2"):
            factor * flow.P


def test_identity(rng):
    space = TrajectorySpace((2, 3, 4))
    one, q = identity(space), rng.normal(size=(2, 3, 4))
    image = one(q)
    np.testing.assert_array_equal(image, q)
    assert not np.shares_memory(image, q)
    assert one.star is one


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (2, 5, 4), (3, 4, 4), (1, 3, 5, 4), (59,), (61, 2), ()])
def test_wrong_shapes(shape):
    flow = make_flow("GRU")  # (3, 5, 4)
    with pytest.raises(ValueError, match=r"\(3, 5, 4\)"):
        flow.P(np.ones(shape))


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 5), (0, 60), (60,)])
def test_wrong_batches(shape):
    with pytest.raises(ValueError, match=r"\(v, 3, 5, 4\)"):
        make_flow("GRU").P.apply(np.ones(shape))


@pytest.mark.parametrize("entries", [np.array(["1"] * 60), np.array([None] * 60), np.zeros(60, "datetime64[s]")])
def test_not_numbers(entries):
    flow = make_flow("GRU")
    for call in (lambda: flow.P @ entries, lambda: flow.P(entries.reshape(3, 5, 4)), lambda: flow.P.T @ entries):
        with pytest.raises(TypeError, match="numbers"):
            call()


def test_dense_guard(monkeypatch):
    """Too large a matrix is refused before it is allocated, and before the operator is applied."""
    flow = make_flow("GRU")

    def never(batch):
        raise AssertionError("applied")

    huge = TensorOperator(never, never, EuclideanSpace((10**9,)), EuclideanSpace((10**9,)), name="huge")
    for limit in (2.0**30, 1e30):
        with pytest.raises(MemoryError, match=r"huge as a dense 1000000000 x 1000000000 matrix .* GiB"):
            huge.to_dense(limit)
    needed = 60 * 60 * 8
    assert flow.P.to_dense(limit=needed).nbytes == needed
    with pytest.raises(MemoryError, match="limit"):
        flow.P.to_dense(limit=needed - 1)


def test_dense_in_several_batches(rng):
    """More columns than to_dense takes at once, and not a multiple of them."""
    flow = make_flow("RNN-tanh", (3, 9, 5))
    dense = flow.P.to_dense()
    assert dense.shape == (135, 135)
    q = rng.normal(size=135)
    np.testing.assert_allclose(dense @ q, flow.P @ q, rtol=0, atol=1e-13 * np.abs(dense @ q).max())


def test_repr_names_operator_and_shapes():
    flow = make_flow("GRU")
    assert repr(flow.J) == "<J: (99,) -> (3, 5, 4), float64>".replace("99", str(flow.model.n_parameters))
    assert "P^T" in repr(flow.P.T)
    assert "NTK" in repr(2 * flow.NTK)


# Precision: what is promised is what is returned

DTYPES = st.sampled_from([np.float32, np.float64])


def matrix_operator(dtype, seed, careless):
    """A random operator on vectors of three; a careless one computes in double whatever it has promised."""
    matrix = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float64 if careless else dtype)
    space = TrajectorySpace((1, 3, 1), [0.5, 1.0, 2.0])
    return TensorOperator(
        lambda batch: np.einsum("ij,vbjh->vbih", matrix, batch),
        lambda batch: np.einsum("ji,vbjh->vbih", matrix, batch),
        space,
        space,
        dtype,
    )


@examples(60)
@given(st.data())
def test_promised_precision_is_delivered(data):
    """Through any composition, and for arguments of any precision: double wherever one of the two is double."""
    ops = []
    for seed in range(3):
        dtype, careless = data.draw(DTYPES), data.draw(st.booleans())
        op = matrix_operator(dtype, seed, careless)
        ops.append((op, op.to_dense().astype(float), np.dtype(dtype)))
    weights = np.diag([0.5, 1.0, 2.0])
    (op, dense, dtype) = ops[0]
    for other, matrix, precision in ops[1:]:
        kind = data.draw(st.sampled_from(["product", "sum", "difference"]))
        dtype = np.promote_types(dtype, precision)
        if kind == "product":
            op, dense = op @ other, dense @ matrix
        elif kind == "sum":
            op, dense = op + other, dense + matrix
        else:
            op, dense = op - other, dense - matrix
    changes = {
        "none": lambda: (op, dense),
        "transpose": lambda: (op.T, dense.T),
        "star": lambda: (op.star, np.linalg.inv(weights) @ dense.T @ weights),
        "multiple": lambda: (2.5 * op, 2.5 * dense),
        "negative": lambda: (-op, -dense),
        "quotient": lambda: (op / 4, dense / 4),
        "power": lambda: (op**2, dense @ dense),
        "gram": lambda: (op.gram(), dense @ np.linalg.inv(weights) @ dense.T @ weights),
        "renamed": lambda: (op.renamed("A"), dense),
    }
    op, dense = changes[data.draw(st.sampled_from(sorted(changes)))]()
    assert op.dtype == dtype
    x = np.random.default_rng(9).normal(size=(3, 2)).astype(data.draw(DTYPES))
    tolerance = 1e3 * np.finfo(np.float32).eps * (1 + np.abs(dense).max())
    for found, wanted in (
        (op @ x[:, 0], dense @ x[:, 0]),
        (op.matvec(x[:, 0]), dense @ x[:, 0]),
        (op.matmat(x), dense @ x),
        (op.rmatvec(x[:, 0]), dense.T @ x[:, 0]),
        (op.rmatmat(x), dense.T @ x),
        (op.to_dense(), dense),
        (op(x[:, 0].reshape(1, 3, 1)).ravel(), dense @ x[:, 0]),
        (op.apply(x.T.reshape(2, 1, 3, 1)).reshape(2, 3).T, dense @ x),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
