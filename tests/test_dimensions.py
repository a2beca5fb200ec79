"""Effective dimensions and norms against dense linear algebra; estimates against their standard errors."""

import itertools
import re

import numpy as np
import pytest
from continuous.fields import STRUCTURES as FIELDS
from continuous.fields import cases
from continuous.fields import make_flow as make_field_flow
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, STRUCTURES, examples, flows, make_flow, weights

from kpref.operators import Structure, TensorOperator
from kpref.operators.reduced import AXES, kept_axes, partial_trace
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra.dimensions import effective_dimension, kernel_effective_dimension, operator_norm
from kpref.spectra.partial_probes import factored_dimension
from tests.conftest import in_turn

KEEPS = [None, *(keep for count in (1, 2, 3) for keep in itertools.combinations(AXES, count))]
# Both sides are sums of fewer than 10^5 terms, those of the denominator non-negative: some 1000 units of rounding.
RTOL = 1e-10


def in_coordinates(op):
    """``W_out^(1/2) A W_in^(-1/2)``, zero off the supports."""
    before, after = (weights(space).reshape(-1) for space in (op.space_in, op.space_out))
    root = np.sqrt(before)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return np.sqrt(after)[:, None] * op.to_dense() * inverse


def dense_dimension(gram, shape, keep):
    if keep is not None:
        kept = [axis for axis, name in enumerate(AXES) if name in keep]
        columns = "".join("xyz"[axis] if axis in kept else "ijk"[axis] for axis in range(3))
        out = "".join("ijk"[axis] for axis in kept) + "".join("xyz"[axis] for axis in kept)
        gram = np.einsum(f"ijk{columns}->{out}", gram.reshape(*shape, *shape))
        gram = gram.reshape(int(np.prod([shape[axis] for axis in kept])), -1)
    values = np.linalg.eigvalsh((gram + gram.T) / 2)
    return values.sum() ** 2 / np.square(values).sum() if values.any() else 0.0


def check(flow, keep):
    for op in (flow.P, flow.D, flow.NTK, flow.K):
        matrix = in_coordinates(op)
        gram = matrix if op.structure.positive else matrix @ matrix.T
        found = effective_dimension(op, keep)
        assert found.exact
        assert found.value == pytest.approx(dense_dimension(gram, op.shape_out, keep), rel=RTOL)
    closed = kernel_effective_dimension(flow, keep)
    assert closed.exact
    assert closed.value == pytest.approx(dense_dimension(in_coordinates(flow.K), flow.space.shape, keep), rel=RTOL)


@examples(25)
@given(kind=st.sampled_from(KINDS), keep=st.sampled_from(KEEPS), data=st.data())
def test_dimensions_of_maps(kind, keep, data):
    check(data.draw(flows(kind, max_trials=3, max_steps=5, max_states=4))[0], keep)


@examples(15)
@given(case=cases(methods=("rk4",), kinds=FIELDS), keep=st.sampled_from(KEEPS))
def test_dimensions_of_fields(case, keep):
    check(case[0], keep)


@pytest.mark.parametrize("keep", KEEPS[1:-1])
def test_dimension_along_axes_is_that_of_the_partial_trace(keep):
    """In a measure that is a product of weights of trials and of times: same eigenvalues, whatever the basis."""
    rng = np.random.default_rng(3)
    flow = make_flow("GRU", measure=rng.uniform(0.2, 2.0, size=(3, 1)) * rng.uniform(0.2, 2.0, size=5))
    matrix = partial_trace(flow.NTK, keep).to_dense()
    expected = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
    assert effective_dimension(flow.NTK, keep).value == pytest.approx(expected, rel=RTOL)


def test_dimension_of_a_projection_is_its_rank():
    space = TrajectorySpace((2, 3, 4), measure=np.array([[1.0, 0.0, 2.0]]))

    def halve(batch):
        return batch * (np.arange(4) < 2)

    op = TensorOperator(halve, halve, space, space, structure=Structure(True, True))
    assert effective_dimension(op).value == pytest.approx(2 * 2 * 2, rel=1e-14)  # trials, observed times, units
    assert effective_dimension(op, "unit").value == pytest.approx(2, rel=1e-14)
    assert effective_dimension(0.0 * op).value == 0.0


@pytest.mark.parametrize("keep", [("trial", "time"), ("trial", "unit"), ("time", "unit")])
def test_blocks_of_the_closed_form_do_not_change_it(keep, monkeypatch):
    flow = make_flow("GRU", (5, 7, 3))
    expected = kernel_effective_dimension(flow, keep).value
    monkeypatch.setattr("kpref.spectra.dimensions._BLOCK_ENTRIES", 30)
    assert kernel_effective_dimension(flow, keep).value == pytest.approx(expected, rel=1e-13)


@pytest.fixture(scope="module")
def large():
    """More states, and more parameters, than what is solved densely."""
    return make_flow("GRU", (4, 11, 10), seed=1, measure=np.random.default_rng(2).uniform(0.2, 1.0, size=(4, 11)))


@pytest.mark.parametrize(
    "name, keep", in_turn([("NTK", None), ("P", None), ("NTK", ("trial", "time")), ("NTK", "unit")], 2)
)
def test_estimates_have_the_standard_error_that_they_state(name, keep, monkeypatch):
    """200 estimates: their standard deviation is known to 5 %, and the bias to 7 % of it."""
    monkeypatch.setattr("kpref.spectra.dimensions.DENSE_SIZE", 0)
    flow = make_flow("GRU", (3, 5, 8), seed=1, measure=np.random.default_rng(2).uniform(0.2, 1.0, size=(3, 5)))
    space, matrix = flow.space, in_coordinates(getattr(flow, name))
    gram = matrix if name == "NTK" else matrix @ matrix.T

    # An operator of the same matrix: the estimator sees no more than its products, and these are fast.
    def product(batch):
        coordinates = space.scale(batch, 0.5).reshape(len(batch), -1)
        return space.scale((coordinates @ gram).reshape(batch.shape), -0.5)

    op = TensorOperator(product, product, space, space, structure=Structure(True, True))
    found = [effective_dimension(op, keep, probes=48, seed=seed) for seed in range(200)]
    values, errors = (np.array([getattr(one, field) for one in found]) for field in ("value", "standard_error"))
    observed = values.std(ddof=1)
    assert abs(np.sqrt(np.mean(errors**2)) / observed - 1) < 0.2
    # What the jackknife leaves of the bias is a small part of the standard error of one estimate.
    assert abs(values.mean() - dense_dimension(gram, space.shape, keep)) < 0.25 * observed
    assert not found[0].exact
    assert found[0].n_products == 48


@pytest.mark.parametrize("keep", ["unit", ("trial", "unit")])
def test_estimates_from_images_under_a_factor_have_the_standard_error_that_they_state(keep):
    """200 estimates: their standard deviation is known to 5 %, and the bias to 7 % of it."""
    flow = make_flow("GRU", (3, 5, 8), seed=1, measure=np.random.default_rng(2).uniform(0.2, 1.0, size=(3, 5)))
    space, gram = flow.space, in_coordinates(flow.NTK)
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))  # a factor of the same matrix, with products that are fast
    op = TensorOperator(
        lambda x: space.scale((x @ root.T).reshape(-1, *space.shape), -0.5),
        lambda q: space.scale(q, -0.5).reshape(len(q), -1) @ root,
        EuclideanSpace((len(root),)), space,
    ).gram()  # fmt: skip
    found = [factored_dimension(op.factor, 24, seed, kept_axes(keep)) for seed in range(200)]
    values, errors = (np.array([getattr(one, field) for one in found]) for field in ("value", "standard_error"))
    observed, truth = values.std(ddof=1), dense_dimension(gram, space.shape, keep)
    assert abs(np.sqrt(np.mean(errors**2)) / observed - 1) < 0.2
    assert abs(values.mean() - truth) < 0.25 * observed
    assert sum(one.interval()[0] <= truth <= one.interval()[1] for one in found) > 177  # fewer have the chance 5e-4
    assert all(one.n_products == 24 and not one.exact for one in found)


@pytest.mark.parametrize("keep", ["unit", ("trial", "time"), ("time", "unit")])
def test_a_factor_with_few_columns_makes_dimensions_along_axes_exact(keep):
    flow = make_flow("RNN-tanh", (6, 12, 10), trainable=["bias_hh"])  # 720 states, 10 parameters
    found = effective_dimension(flow.NTK, keep, probes=6)
    assert (found.method, found.n_products) == ("exact", 5)
    assert found.value == pytest.approx(dense_dimension(in_coordinates(flow.NTK), flow.space.shape, keep), rel=RTOL)


def test_what_is_not_known_to_5_percent_is_refused_with_the_probes_that_would_do():
    flow = make_flow("GRU", (4, 11, 10), seed=1)
    with pytest.raises(RuntimeError, match=r"6 products leave .* a standard error of \d+%, more than 5%; take") as told:
        effective_dimension(flow.NTK, "unit", probes=6)
    probes = int(re.search(r"take about ([\d,]+) \(probes=", str(told.value))[1].replace(",", ""))
    assert effective_dimension(flow.NTK, "unit", probes=probes).relative_error <= 0.05


def test_estimates_of_the_operators_themselves(large):
    for op, keep in ((large.NTK, None), (large.P, None), (large.D, ("unit",)), (large.K, ("time", "unit"))):
        matrix = in_coordinates(op)
        gram = matrix if op.structure.positive else matrix @ matrix.T
        found = effective_dimension(op, keep, probes=90, seed=4)
        # Four numbers; the scores are those of Student's t with 15 degrees of freedom or more: 6 in 1e-5 of cases.
        assert abs(found.value - dense_dimension(gram, op.shape_out, keep)) < 6 * found.standard_error
    again = effective_dimension(op, keep, probes=90, seed=4)
    assert (again.value, again.standard_error) == (found.value, found.standard_error)


def test_zero_is_of_dimension_zero():
    space = EuclideanSpace((500,))
    zero = TensorOperator(np.zeros_like, np.zeros_like, space, space, name="0")
    found = effective_dimension(zero)
    assert (found.value, found.standard_error) == (0.0, 0.0)
    assert operator_norm(zero).value == 0.0


def test_a_small_factor_is_solved_densely():
    flow = make_flow("RNN-tanh", (6, 12, 10), trainable=["bias_hh"])  # 720 states, 10 parameters
    matrix = in_coordinates(flow.NTK)
    found = effective_dimension(flow.NTK)
    assert found.exact
    assert found.value == pytest.approx(dense_dimension(matrix, flow.space.shape, None), rel=RTOL)


@examples(15)
@given(kind=st.sampled_from(STRUCTURES), data=st.data())
def test_operator_norm_is_the_largest_singular_value(kind, data):
    flow = data.draw(flows(kind, max_trials=3, max_steps=6, max_states=5))[0]
    for op in (flow.P, flow.D, flow.D_z0, flow.K):
        found, expected = operator_norm(op), np.linalg.norm(in_coordinates(op), 2)
        # The bound and rounding of the products, relative to the norm.
        assert abs(found.value - expected) <= found.standard_error + 1e-12 * expected
        assert found.standard_error <= 1e-8 * expected
        assert found.method == "Lanczos"
        assert found.bound
        assert found.interval(0.5) == found.interval(0.99)


def test_operator_norm_of_a_large_operator(large):
    for op in (large.P, large.NTK, make_field_flow("Rate-tanh", shape=(3, 11, 10)).P):
        found, expected = operator_norm(op), np.linalg.norm(in_coordinates(op), 2)
        assert abs(found.value - expected) <= found.standard_error + 1e-12 * expected
        assert found.n_products < op.shape[0]


@pytest.mark.parametrize("probes, error", [(5, ValueError), (0, ValueError), (7.5, TypeError), (True, TypeError)])
def test_numbers_of_probes_out_of_range_are_refused(probes, error):
    with pytest.raises(error, match="probes must be an integer of at least 6"):
        effective_dimension(make_flow("GRU").NTK, probes=probes)


def test_unknown_axes_and_other_tensors_are_refused():
    flow = make_flow("GRU")
    for compute, subject in ((effective_dimension, flow.NTK), (kernel_effective_dimension, flow)):
        with pytest.raises(ValueError, match="keep must be one or several of trial, time, unit"):
            compute(subject, "units")
    with pytest.raises(ValueError, match="keep is for operators on tensors"):
        effective_dimension(flow.J.star, "unit")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bound_of_a_norm_knows_its_rounding(dtype):
    """In single precision the residual falls below what the products are wrong by: none of ten bounds was true."""
    values = (0.95 ** np.arange(1, 151)).astype(dtype)
    space = EuclideanSpace((150,))
    op = TensorOperator(lambda rows: rows * values, lambda rows: rows * values, space, space, dtype)
    for seed in range(5):
        low, high = operator_norm(op, seed, tol=1e-5).interval()
        assert low <= float(values[0]) <= high
        assert high - low < 1e3 * np.finfo(dtype).eps * high
