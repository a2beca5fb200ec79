"""Alignment of operators, subspaces and sub-tasks against their definitions on dense matrices."""

import numpy as np
import pytest
from continuous.fields import STRUCTURES as FIELDS
from continuous.fields import cases
from hypothesis import given
from hypothesis import strategies as st
from strategies import STRUCTURES, examples, flows, make_flow, measures, restricted, weights

from kpref.operators import TensorOperator
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra import eigh
from kpref.spectra.comparison import alignment, alignment_of_images, principal_angles, task_alignment
from kpref.spectra.symmetric import SymmetricForm
from kpref.spectra.white_images import white_images

# Sums of fewer than 10^5 terms over norms: some 1000 units of rounding of one.
ATOL = 1e-11


def adjoint(op):
    """Dense ``W_in^+ A^T W_out``."""
    before, after = (weights(space).reshape(-1) for space in (op.space_in, op.space_out))
    inverse = np.divide(1.0, before, out=np.zeros_like(before), where=before > 0)
    return inverse[:, None] * op.to_dense().T * after


def centring(space):
    """I - 1 1^T Mu / sum mu for each unit, dense."""
    mean = np.tile(space.mu.reshape(-1) / space.mu.sum(), (space.mu.size, 1))
    return np.eye(space.size) - np.kron(mean, np.eye(space.shape[2]))


def dense_alignment(a, b):
    """By traces of products with the adjoints, restricted to the support of the measure."""
    keep = weights(a.space_in).reshape(-1) > 0

    def inner(p, q):
        return np.trace((adjoint(p) @ q.to_dense())[np.ix_(keep, keep)])

    return inner(a, b) / np.sqrt(inner(a, a) * inner(b, b))


def matrix_operator(matrix, space, other=None):
    other = other or space
    return TensorOperator(
        lambda batch: (batch.reshape(len(batch), -1) @ matrix.T).reshape(-1, *other.shape),
        lambda batch: (batch.reshape(len(batch), -1) @ matrix).reshape(-1, *space.shape),
        space,
        other,
    )


def check_alignment(flow):
    truncated = flow.P @ flow.K
    for a, b in ((flow.NTK, flow.K), (flow.NTK, truncated), (flow.P, flow.K), (flow.D, flow.J)):
        found = alignment(a, b)
        assert found.exact
        assert found.value == pytest.approx(dense_alignment(a, b), abs=ATOL)
    if np.count_nonzero(flow.space.mu) > 1:  # else the centred space is empty
        projection = centring(flow.space)
        first, second = (
            matrix_operator(projection @ op.to_dense() @ projection, flow.space) for op in (flow.P, flow.K)
        )
        scale = max(np.abs(second.to_dense()).max() / np.abs(flow.K.to_dense()).max(), 1e-300)
        # Centring may leave little of an operator: what rounding left in it counts for more.
        if scale > 1e-3:
            assert alignment(flow.P, flow.K, centred=True).value == pytest.approx(
                dense_alignment(first, second), abs=ATOL / scale
            )


@examples(20)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_alignment_of_maps(kind, data):
    check_alignment(data.draw(flows(kind, max_trials=3, max_steps=5, max_states=4))[0])


@examples(15)
@given(case=cases(methods=("rk4",), kinds=FIELDS))
def test_alignment_of_fields(case):
    flow = case[0]
    for a, b in ((flow.NTK, flow.P @ flow.K @ flow.P.star), (flow.P, flow.K)):
        if dense_norm(a) and dense_norm(b):
            assert alignment(a, b).value == pytest.approx(dense_alignment(a, b), abs=ATOL)


def dense_norm(op):
    return np.trace(adjoint(op) @ op.to_dense())


def test_alignment_of_an_operator_with_its_multiples():
    flow = make_flow("GRU", measure=np.array([0.5, 0.0, 1.0, 2.0, 0.3]))
    assert alignment(flow.P, 3.0 * flow.P).value == pytest.approx(1.0, abs=ATOL)
    assert alignment(flow.P, -flow.P).value == pytest.approx(-1.0, abs=ATOL)
    assert alignment(flow.P, flow.P.star).value == pytest.approx(alignment(flow.P.star, flow.P).value, abs=ATOL)


def test_what_all_points_share_does_not_count_when_centred():
    """An operator that gives every point the same: 1 v^T. Centred, nothing is left of it but of what is beside it."""
    space = TrajectorySpace((2, 3, 2), measure=np.random.default_rng(0).uniform(0.1, 1.0, size=(2, 3)))
    rng = np.random.default_rng(1)
    shared = np.tile(rng.normal(size=(2, space.size)), (6, 1))
    one, two = rng.normal(size=(2, space.size, space.size))
    plain = alignment(matrix_operator(one, space), matrix_operator(two, space), centred=True).value
    moved = alignment(matrix_operator(one + 5 * shared, space), matrix_operator(two, space), centred=True).value
    assert moved == pytest.approx(plain, abs=1e-12)
    assert abs(alignment(matrix_operator(one + 5 * shared, space), matrix_operator(two, space)).value - plain) > 0.01


@pytest.mark.parametrize("centred", [False, True])
def test_estimates_have_the_standard_error_that_they_state(centred, monkeypatch):
    """400 estimates: their standard deviation is known to 3.5 %, and the bias to 5 % of it."""
    monkeypatch.setattr("kpref.spectra.comparison.DENSE_SIZE", 0)
    flow = make_flow("GRU", (3, 5, 8), seed=1, measure=np.random.default_rng(2).uniform(0.2, 1.0, size=(3, 5)))
    space = flow.space
    # Operators of the same matrices: the estimator sees no more than their products, and these are fast.
    a, b = pair = [matrix_operator(op.to_dense(), space) for op in (flow.NTK, flow.P @ flow.K)]
    if centred:
        pair = [matrix_operator(centring(space) @ op.to_dense() @ centring(space), space) for op in pair]
    found = [alignment(a, b, probes=45, seed=seed, centred=centred) for seed in range(400)]
    values, errors = (np.array([getattr(one, field) for one in found]) for field in ("value", "standard_error"))
    observed = values.std(ddof=1)
    assert abs(np.sqrt(np.mean(errors**2)) / observed - 1) < 0.2
    assert abs(values.mean() - dense_alignment(*pair)) < 0.25 * observed
    assert found[0].n_products == 2 * 45 - 1  # 39 with each, 11 with the adjoints
    assert found[0] == alignment(a, b, probes=45, seed=0, centred=centred)


def test_alignments_of_shared_images_have_the_standard_error_that_they_state():
    """As above, of two operators that the same vectors have seen, with two eigenfunctions of each taken apart."""
    flow = make_flow("GRU", (3, 5, 8), seed=1, measure=np.random.default_rng(2).uniform(0.2, 1.0, size=(3, 5)))
    pair = flow.NTK, flow.K
    apart = np.concatenate([eigh(op, 2).vectors for op in pair])
    forms = [SymmetricForm(op) for op in pair]
    found = []
    for seed in range(400):
        found.append(alignment_of_images(*(white_images(form, 12, seed) for form in forms), apart))
    values, errors = (np.array([getattr(one, field) for one in found]) for field in ("value", "standard_error"))
    observed, truth = values.std(ddof=1), alignment(*pair).value
    assert abs(np.sqrt(np.mean(errors**2)) / observed - 1) < 0.25
    assert abs(values.mean() - truth) < 0.25 * observed
    held = np.mean([low <= truth <= high for low, high in (one.interval() for one in found)])
    assert held > 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5


def test_eigenvalues_save_products_of_alignments():
    """Half of those with eigenfunctions, unless these are nearly the same: the estimate stays what it was."""
    flow = make_flow("GRU", (3, 5, 8), seed=1)
    ntk, kernel = (eigh(op, 2, tol=1e-12) for op in (flow.NTK, flow.K))
    first, second = (white_images(SymmetricForm(op), 12, 0) for op in (flow.NTK, flow.K))
    for one, modes, products in ((second, kernel, 4), (first, ntk, 4)):  # the modes of the NTK twice have rank two
        tensors, values = np.concatenate([ntk.vectors, modes.vectors]), (ntk.values, modes.values)
        plain, saved = (alignment_of_images(first, one, tensors, known) for known in (None, values))
        assert saved.n_products == 2 * 12 + products
        assert (plain.n_products == saved.n_products) == (modes is ntk)
        # Residuals of 1e-12 and rounding, magnified no more than the root of ten times.
        np.testing.assert_allclose([saved.value, saved.standard_error], [plain.value, plain.standard_error], rtol=1e-9)


def test_images_of_other_vectors_are_refused():
    flow = make_flow("GRU", (3, 5, 8))
    forms = [SymmetricForm(op) for op in (flow.NTK, flow.K)]
    first, second = (white_images(form, 6, seed) for seed, form in enumerate(forms))
    with pytest.raises(ValueError, match="have not met the same random vectors"):
        alignment_of_images(first, second, np.ones((1, *flow.space.shape)))
    with pytest.raises(ValueError, match="operator that is zero"):
        alignment_of_images(first, white_images(SymmetricForm(0.0 * flow.K), 6, 0), np.ones((1, *flow.space.shape)))


def test_alignment_refuses_other_spaces_and_zero():
    flow, other = make_flow("GRU"), make_flow("GRU", measure="sum")
    with pytest.raises(ValueError, match="same spaces, measures included"):
        alignment(flow.K, other.K)
    with pytest.raises(ValueError, match="centred alignment needs operators on one trajectory space"):
        alignment(flow.J, flow.D, centred=True)
    with pytest.raises(ValueError, match="operator that is zero is not defined"):
        alignment(flow.K, 0.0 * flow.K)
    for probes, error in ((5, ValueError), (6.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="probes must be an integer of at least 6"):
            alignment(flow.K, flow.P, probes=probes)


@examples(20)
@given(angles=st.lists(st.floats(1e-12, np.pi / 2), min_size=1, max_size=3), data=st.data())
def test_principal_angles_are_those_that_were_put_in(angles, data):
    shape, count = (2, 3, 3), len(angles)
    space = TrajectorySpace(shape, data.draw(measures(2, 3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    support = np.flatnonzero(weights(space).reshape(-1) > 0)
    count = min(count, len(support) // 2)
    angles = np.sort(angles[:count])
    frame = np.linalg.qr(rng.normal(size=(len(support), 2 * count)))[0].T
    turned = np.cos(angles)[:, None] * frame[:count] + np.sin(angles)[:, None] * frame[count:]
    stacks = []
    for rows in (frame[:count], turned):
        full = np.zeros((count, space.size))
        full[:, support] = (rng.normal(size=(count, count)) + 3 * np.eye(count)) @ rows  # another basis of the span
        stacks.append(space.scale(full.reshape(count, *shape), -0.5))
        stacks[-1] += np.where(weights(space) > 0, 0.0, 7.0)  # points without weight do not count
    # Rounding of the bases, whose conditions are below 100 or so.
    np.testing.assert_allclose(principal_angles(*stacks, space), angles, rtol=0, atol=1e-12)


def test_small_angles_are_not_lost_in_their_cosine():
    space = EuclideanSpace((2,))
    angle = principal_angles([[1.0, 0.0]], [[1.0, 1e-9]], space)
    assert angle == pytest.approx([1e-9], rel=1e-6)


def test_principal_angles_of_spans_of_different_dimension():
    flow = make_flow("GRU")
    vectors = eigh(flow.NTK, 4).vectors
    np.testing.assert_allclose(principal_angles(vectors, vectors[[2, 0]], flow.space), 0.0, atol=1e-10)
    np.testing.assert_allclose(principal_angles(vectors[:2], vectors[2:], flow.space), np.pi / 2, atol=1e-10)


def test_principal_angles_refuse_what_spans_nothing():
    space = TrajectorySpace((1, 2, 1), measure=np.array([1.0, 0.0]))
    one, unseen = np.ones((1, 1, 2, 1)), np.array([[[[0.0], [1.0]]]])
    for second in (unseen, np.concatenate([one, one]), np.zeros((0, 1, 2, 1))):
        with pytest.raises(ValueError, match="second must hold at least one tensor, and linearly independent ones"):
            principal_angles(one, second, space)
    with pytest.raises(ValueError, match="first must have shape"):
        principal_angles(one[0], one, space)
    with pytest.raises(ValueError, match="must be finite"):
        principal_angles(one * np.nan, one, space)


def check_tasks(flow, rng):
    trials = flow.space.shape[0]
    err = restricted(flow.space, rng.normal(size=flow.space.shape))
    groups = rng.choice(["go", "anti", "memory"], size=trials)
    found = task_alignment(flow.NTK, err, groups)
    assert list(found.labels) == sorted(set(groups))
    gram, mu = flow.NTK.to_dense(), weights(flow.space).reshape(-1)
    parts = [(np.where((groups == name)[:, None, None], err, 0.0)).reshape(-1) for name in found.labels]
    rates = np.array([[(mu * p) @ gram @ q for q in parts] for p in parts])
    scale = np.abs(rates).max()
    np.testing.assert_allclose(found.rates, rates, rtol=0, atol=ATOL * scale)
    total = flow.space.inner(err, flow.NTK(err))
    assert found.rates.sum() == pytest.approx(total, abs=ATOL * scale)
    own = np.sqrt(np.diagonal(found.rates))
    if own.min() > 1e-3 * own.max():
        np.testing.assert_allclose(found.alignment * np.outer(own, own), found.rates, rtol=0, atol=ATOL * scale)
        np.testing.assert_allclose(np.diagonal(found.alignment), 1.0, rtol=1e-14)
        assert np.abs(found.alignment).max() <= 1 + ATOL * 1e6


@examples(15)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_alignment_of_sub_tasks_of_maps(kind, data):
    check_tasks(*data.draw(flows(kind, max_trials=6, max_steps=5, max_states=4)))


@examples(10)
@given(case=cases(methods=("rk4",), kinds=FIELDS))
def test_alignment_of_sub_tasks_of_fields(case):
    check_tasks(case[0], case[2])


def test_a_group_without_error_has_no_alignment(monkeypatch):
    flow = make_flow("GRU")
    err = np.random.default_rng(0).normal(size=flow.space.shape)
    err[1] = 0.0
    found = task_alignment(flow.NTK, err, np.array([4, -1, 4]))
    np.testing.assert_array_equal(found.labels, [-1, 4])
    np.testing.assert_array_equal(found.rates[0], 0.0)
    np.testing.assert_array_equal(found.alignment[0], 0.0)
    assert found.alignment[1, 1] == pytest.approx(1.0, rel=1e-14)
    monkeypatch.setattr("kpref.spectra.comparison._BATCH_BYTES", 1)  # one group at a time
    np.testing.assert_allclose(task_alignment(flow.NTK, err, np.array([4, -1, 4])).rates, found.rates, rtol=1e-13)


def test_sub_tasks_refuse_what_they_cannot_use():
    flow = make_flow("GRU")
    err, groups = np.ones(flow.space.shape), np.array([0, 0, 1])
    with pytest.raises(ValueError, match="not self-adjoint"):
        task_alignment(flow.P, err, groups)
    with pytest.raises(ValueError, match="needs an operator on a trajectory space"):
        task_alignment(flow.J.star.gram(), err, groups)
    with pytest.raises(ValueError, match="err must have shape"):
        task_alignment(flow.NTK, err[0], groups)
    with pytest.raises(ValueError, match="must be finite"):
        task_alignment(flow.NTK, err * np.inf, groups)
    for wrong in (groups[:2], np.array([0.0, 0.5, 1.0]), np.array([[0, 0, 1]]), [None, 1, 2]):
        with pytest.raises(ValueError, match="groups must be integers or strings of shape"):
            task_alignment(flow.NTK, err, wrong)
