"""Averages and partial traces against sums over the entries of the dense operator."""

import itertools

import numpy as np
import pytest
from continuous.fields import STRUCTURES as FIELDS
from continuous.fields import make_flow as make_field_flow
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, STRUCTURES, examples, make_flow, measures

from kpref import Flow
from kpref.models import GRU, LSTM
from kpref.operators import TensorOperator
from kpref.operators.reduced import AXES, average, partial_trace
from kpref.space import EuclideanSpace

KEEPS = [keep for count in (1, 2, 3) for keep in itertools.combinations(AXES, count)]
# Sums of fewer than 10^4 terms in another order: a few hundred units of rounding of the largest entry at most.
RTOL = 1e-12


@st.composite
def small_flows(draw):
    """A flow of a map or a field of at most 100 states, in any measure."""
    seed = draw(SEEDS)
    if draw(st.booleans()):
        shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
        return make_flow(draw(st.sampled_from(STRUCTURES)), shape, seed, measure=draw(measures(*shape[:2])))
    trials, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {"measure": draw(measures(trials, steps + 1)), "forcing": draw(st.sampled_from(["linear", "cubic"]))}
    return make_field_flow(draw(st.sampled_from(FIELDS)), "rk4", (trials, steps, 3), seed, **options)


def entries(op):
    return op.to_dense().reshape(*op.shape_out, *op.shape_in)


def letters(keep):
    kept = [axis for axis, name in enumerate(AXES) if name in keep]
    columns = "".join("xyz"[axis] if axis in kept else "ijk"[axis] for axis in range(3))
    out = "".join("ijk"[axis] for axis in kept) + "".join("xyz"[axis] for axis in kept)
    return kept, columns, out


def dense_average(op, keep):
    kept, _, out = letters(keep)
    others = op.space_in.size // np.prod([op.shape_in[axis] for axis in kept])
    return np.einsum(f"ijkxyz->{out}", entries(op)) / others**2


def dense_partial_trace(op, keep):
    _, columns, out = letters(keep)
    return np.einsum(f"ijk{columns}->{out}", entries(op))


def close(actual, expected, scale):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * max(np.abs(scale).max(), np.abs(expected).max()))


@examples(25)
@given(flow=small_flows(), keep=st.sampled_from(KEEPS))
def test_reduced_views_are_sums_of_entries(flow, keep):
    for op in (flow.P, flow.K, flow.NTK):
        for view, dense in ((average, dense_average), (partial_trace, dense_partial_trace)):
            reduced, expected = view(op, keep), dense(op, keep)
            close(entries(reduced), expected, op.to_dense())
            close(reduced.T.to_dense(), reduced.to_dense().T, op.to_dense())
        kept = letters(keep)[0]
        assert reduced.shape_in == tuple(op.shape_in[axis] for axis in kept)
        assert reduced.space_in == EuclideanSpace(reduced.shape_in)


@examples(15)
@given(flow=small_flows(), keep=st.sampled_from(KEEPS), seed=SEEDS)
def test_views_are_declared_self_adjoint_only_where_they_are(flow, keep, seed):
    exact, estimated = partial_trace(flow.K, keep), partial_trace(flow.K, keep, probes=3, seed=seed)
    for view in (exact, estimated, average(flow.K, keep)):
        matrix = view.to_dense()
        if view.structure.self_adjoint:
            close(matrix, matrix.T, matrix)
            assert np.linalg.eigvalsh(matrix).min() >= -RTOL * len(matrix) * max(np.abs(matrix).max(), 1e-300)
    if flow.space.uniform_weight:
        assert exact.structure.positive
        assert estimated.structure.positive
    elif flow.space.mu.min() > 0:
        assert exact.structure.positive == (keep == ("unit",))


@pytest.mark.parametrize("keep", KEEPS[:-1])
def test_average_and_partial_trace_differ(keep):
    flow = make_flow("GRU")
    mean, trace = average(flow.NTK, keep).to_dense(), partial_trace(flow.NTK, keep).to_dense()
    others = flow.space.size / len(mean)
    # Even after normalisation: one sums over pairs of indices, the other over equal ones.
    assert np.abs(trace / others - mean).max() > 0.1 * np.abs(mean).max()


def test_everything_kept_is_the_operator_itself_without_its_measure():
    flow = make_flow("RNN-tanh", measure=np.array([0.3, 0.0, 0.2, 0.4, 0.1]))
    for view in (average(flow.P, AXES), partial_trace(flow.P, AXES), partial_trace(flow.P, AXES, probes=2)):
        close(view.to_dense(), flow.P.to_dense(), flow.P.to_dense())
        assert view.space_in.weights is None


def test_order_of_names_is_that_of_the_axes():
    flow = make_flow("RNN-tanh")
    assert partial_trace(flow.P, ("unit", "trial")).shape_in == (3, 4)
    assert average(flow.P, ["time"]).shape_in == average(flow.P, "time").shape_in == (5,)


@pytest.mark.parametrize("keep", ["unit", ("trial", "time"), ("time", "unit")])
def test_estimated_partial_trace_is_the_mean_over_its_signs(keep):
    flow = make_flow("GRU", (2, 3, 2), measure=np.array([[0.5, 0.0, 1.0], [0.2, 0.3, 0.1]]))
    kept, columns, out = letters(keep)
    outer = tuple(flow.space.shape[axis] for axis in range(3) if axis not in kept)
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(7, *outer))
    others = "".join("ijk"[axis] for axis in range(3) if axis not in kept)
    second = "".join("xyz"[axis] for axis in range(3) if axis not in kept)
    expected = np.einsum(f"p{others},ijkxyz,p{second}->{out}", signs, entries(flow.P), signs) / 7
    estimate = partial_trace(flow.P, keep, probes=7, seed=5)
    close(entries(estimate), expected, flow.P.to_dense())
    close(estimate.T.to_dense(), estimate.to_dense().T, flow.P.to_dense())
    np.testing.assert_array_equal(estimate.to_dense(), partial_trace(flow.P, keep, probes=7, seed=5).to_dense())


def test_estimated_partial_trace_is_unbiased():
    flow = make_flow("GRU", (2, 3, 2))
    exact = partial_trace(flow.NTK, "unit").to_dense()
    single = np.array([partial_trace(flow.NTK, "unit", probes=1, seed=seed).to_dense() for seed in range(400)])
    error = single.std(axis=0, ddof=1) / 20
    # Four numbers, each a mean of 400: five standard errors are exceeded once in 4e5 drawings; the seeds are fixed.
    assert (np.abs(single.mean(axis=0) - exact) < 5 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize("keep", ["unit", "trial", ("time", "unit")])
def test_noise_of_images_is_that_of_their_quadratic_forms(keep):
    """Of means over Gaussian vectors the covariance is known in closed form, and so the mean squared error."""
    flow, passes, runs = make_flow("GRU", (2, 3, 2)), 4, 300
    gram = flow.NTK.to_dense()  # symmetric, in a uniform measure
    kept = letters(keep)[0]
    axes = [*kept, *(axis for axis in range(3) if axis not in kept)]
    order = np.arange(len(gram)).reshape(2, 3, 2).transpose(axes).reshape(np.prod([(2, 3, 2)[k] for k in kept]), -1)
    G = gram[order[:, :, None, None], order]  # [k, a, k0, a0]
    noise = (np.square(np.einsum("kakb->ab", G)).sum() + np.einsum("kalb,lakb->", G, G)) / passes
    exact = partial_trace(flow.NTK, keep).to_dense()
    found = [partial_trace(flow.NTK, keep, probes=passes // 2, seed=seed).to_dense() for seed in range(runs)]
    errors = np.array([np.square(one - exact).sum() for one in found])
    # Five standard errors of their mean: exceeded once in 2e6 drawings; the seeds are fixed.
    assert abs(errors.mean() - noise) < 5 * errors.std() / runs**0.5
    assert errors.std() / runs**0.5 < 0.2 * noise


def test_images_are_made_once_and_are_all_that_an_estimate_takes():
    made = []
    flow = make_flow("GRU", (2, 3, 2), measure=np.array([[0.5, 0.0, 1.0], [0.2, 0.3, 0.1]]))
    matrix, space = flow.D.to_dense(), flow.space

    def forward(batch):
        made.append(len(batch))
        return (batch @ matrix.T).reshape(-1, *space.shape)

    def never(batch):
        raise AssertionError("no transpose is needed")

    op = TensorOperator(forward, never, flow.D.space_in, space).gram()
    view = partial_trace(op, "unit", probes=3, seed=4)
    assert sum(made) == 6
    weights = np.broadcast_to(space.weights, space.shape)
    images = flow.D.apply(np.random.default_rng(4).standard_normal((6, flow.D.shape[1])))
    close(view.to_dense(), np.einsum("ibth,bth,ibtg->hg", images, weights, images) / 6, matrix)
    close(view.T.to_dense(), view.to_dense().T, matrix)
    assert sum(made) == 6


@pytest.mark.parametrize("model", [GRU.init(2, 4, 1), LSTM.init(2, 2, 1)])  # one state a unit, and two
def test_estimates_keep_apart_what_they_say_they_do(model):
    flow = Flow(model, np.random.default_rng(0).normal(size=(3, 4, 2)))
    for op, keep in ((flow.P.gram(), ("trial", "unit")), (flow.K, ("time", "unit"))):
        view = partial_trace(op, keep, probes=2)
        matrix = view.to_dense().reshape(view.shape_in * 2)
        known, axes = view.structure, len(view.shape_in)
        assert known.by_trial or known.by_unit or isinstance(model, LSTM)
        if known.by_trial:
            matrix = np.moveaxis(matrix, axes, 1)
            assert not matrix[~np.eye(3, dtype=bool)].any()
        if known.units is not None:
            units = np.array(known.units)
            matrix = np.moveaxis(matrix, (axes - 1, -1), (0, 1))
            assert not matrix[units[:, None] != units].any()
        # The diagonal blocks are those of the sum over images: of the trace it has the mean.
        values = [np.trace(partial_trace(op, keep, probes=2, seed=seed).to_dense()) for seed in range(100)]
        deviation = np.std(values, ddof=1)
        assert abs(np.mean(values) - np.trace(op.to_dense())) < 5 * deviation / 10  # once in 2e6; seeds are fixed


def test_batches_do_not_change_the_sum(monkeypatch):
    flow = make_flow("GRU")
    views = [lambda: partial_trace(flow.P, "unit"), lambda: partial_trace(flow.P, "time", probes=5)]
    whole = [view().to_dense() for view in views]
    monkeypatch.setattr("kpref.operators.reduced._BATCH_BYTES", 3 * flow.space.size * 8)
    for view, expected in zip(views, whole, strict=True):
        close(view().to_dense(), expected, flow.P.to_dense())


def test_views_keep_single_precision():
    flow = make_flow("GRU", dtype=np.float32)
    for view in (average(flow.K, "unit"), partial_trace(flow.K, "unit"), partial_trace(flow.K, "unit", probes=2)):
        assert view.to_dense().dtype == np.float32


@pytest.mark.parametrize("keep", ["", "units", (), ("trial", "trial"), ("unit", 2), "trial time"])
def test_unknown_axes_are_refused(keep):
    flow = make_flow("RNN-tanh")
    for view in (average, partial_trace):
        with pytest.raises(ValueError, match="keep must be one or several of trial, time, unit"):
            view(flow.P, keep)


def test_operators_on_other_spaces_are_refused():
    flow = make_flow("RNN-tanh")
    flat = TensorOperator(np.copy, np.copy, EuclideanSpace((6,)), EuclideanSpace((6,)), name="flat")
    for op in (flow.J, flow.D, flat):
        for view in (average, partial_trace):
            with pytest.raises(ValueError, match="one space of tensors"):
                view(op, "unit")


@pytest.mark.parametrize("probes", [0, -1, 1.5, True, "3"])
def test_numbers_of_probes_out_of_range_are_refused(probes):
    with pytest.raises((ValueError, TypeError), match="probes must be an integer of at least 1"):
        partial_trace(make_flow("RNN-tanh").P, "unit", probes=probes)
