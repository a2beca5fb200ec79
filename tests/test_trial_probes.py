"""Transposes trial by trial, and the traces that are estimated from them, against dense matrices."""

import threading
from functools import partial

import numpy as np
import pytest
from continuous.fields import STRUCTURES as FIELDS
from continuous.fields import cases
from continuous.fields import make_flow as make_field_flow
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, examples, flows, make_flow, weights

from kpref import Flow
from kpref.models import GRU
from kpref.operators import Structure, TensorOperator, TrialParts
from kpref.space import EuclideanSpace, TrajectorySpace
from kpref.spectra.traces import trace
from kpref.threads import get_num_threads, set_num_threads


def in_coordinates(op):
    """``W_out^(1/2) A W_in^(-1/2)``, zero where a weight is."""
    before, after = (weights(space).reshape(-1) for space in (op.space_in, op.space_out))
    root = np.sqrt(before)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return np.sqrt(after)[:, None] * op.to_dense() * inverse


def check_parts(op, rng):
    """Rows are those of the transpose of a tensor that has only this trial; products are theirs."""
    q = rng.normal(size=(3, *op.shape_out))
    parts, matrix = op.separated(op.space_out.clear(q)), op.to_dense()
    for trial in range(op.shape_out[0]):
        alone = np.where(np.arange(op.shape_out[0])[:, None, None] == trial, q, 0.0)
        expected = op.T.apply(alone).reshape(3, -1)
        # Sums of so many terms in another order.
        size = np.abs(q).max() * np.abs(matrix).sum(axis=0).max()
        rows = parts.rows(trial).reshape(3, -1)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(parts.products(trial), rows @ rows.T, rtol=0, atol=1e-12 * rows.shape[1] * size**2)


@examples(40)
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_parts_of_maps(kind, data):
    flow, rng = data.draw(flows(kind, max_trials=4, max_steps=6, max_states=5))
    for op in (flow.D, flow.J, flow.P @ flow.J, -2.0 * (flow.P @ flow.D)):
        check_parts(op, rng)


@examples(20)
@given(case=cases(methods=("rk4", "dopri5"), kinds=FIELDS))
def test_parts_of_fields(case):
    flow, _, rng = case
    check_parts(flow.D, rng)
    check_parts(flow.P @ flow.J, rng)


@pytest.mark.parametrize("memory", [0.0, None])
def test_coefficients_that_are_not_kept_give_the_same_bits(memory):
    flow = make_field_flow("Rate-tanh", shape=(9, 5, 4))
    kept = trace(flow.NTK, "trials", 4)
    other = make_field_flow("Rate-tanh", shape=(9, 5, 4), stage_memory=memory)
    assert trace(other.NTK, "trials", 4).value == pytest.approx(kept.value, rel=1e-13)


def test_parts_are_not_told_where_the_factors_do_not_keep_trials_apart():
    flow = make_flow("GRU")
    space = flow.space
    mixing = TensorOperator(lambda x: x[:, ::-1], lambda x: x[:, ::-1], space, space)
    for op in (mixing @ flow.D, flow.D.T, flow.D.star, flow.NTK, flow.D @ flow.D.T, flow.P, flow.D + flow.D):
        assert op.separated is None
    assert (flow.P @ flow.D).separated is not None


def several():
    """Operators A A* of eight trials or more, with zero weights, trials that end early, and both kinds of blocks."""
    rng = np.random.default_rng(0)
    measure = rng.uniform(0.2, 2.0, size=(9, 5))
    measure[0, -1] = measure[3, 2] = 0.0
    measure[5] = 0.0
    masked = make_flow("GRU", (9, 5, 4), 1, measure=measure)
    early = Flow(GRU.init(2, 4, 1), rng.normal(size=(9, 5, 2)), lengths=[5, 1, 2, 3, 4, 5, 2, 2, 5])
    field = make_field_flow("Rate-tanh", "rk4", (9, 4, 3), 1)
    yield "masked NTK", masked.NTK
    yield "masked K", masked.K
    yield "NTK of trials that end early", early.NTK
    yield "rate ODE", field.NTK
    yield "Lorenz", make_field_flow("Lorenz63", "dopri5", (9, 4, 3), 1, dt=0.05).NTK


SEVERAL = dict(several())


@pytest.mark.parametrize("name", SEVERAL)
def test_as_many_passes_as_a_trial_has_states_make_it_exact(name):
    op = SEVERAL[name]
    found = trace(op, "trials", probes=50)
    assert found.method == "exact"
    assert found.n_products <= 10  # of a trial with 20 states, in place of 180
    assert found.value == pytest.approx(np.square(in_coordinates(op.factor)).sum(), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "Lorenz"])  # its three parameters are all seen
@pytest.mark.parametrize("probes", [3, 6])
def test_estimates_are_unbiased_and_state_their_error(name, probes):
    op, runs = SEVERAL[name], 150
    truth = np.square(in_coordinates(op.factor)).sum()
    found = [trace(op, "trials", probes, seed=seed) for seed in range(runs)]
    values = np.array([one.value for one in found])
    deviation = values.std(ddof=1)
    # Four standard errors of the mean: a correct estimator passes 9999 in 10,000 choices of seeds; these are fixed.
    assert abs(values.mean() - truth) < 4 * deviation / runs**0.5
    inside = sum(one.interval()[0] <= truth <= one.interval()[1] for one in found)
    assert inside > 132  # of 150; so few or fewer have the chance 5e-4 if 95 % is true
    assert all(one.n_products == probes and one.forward + one.backward == 2 * probes for one in found)


def test_noise_between_trials_is_gone():
    """Trials that are alike: of B the variance is a B-th of that of one sum over all of them, and a little less."""
    model = GRU.init(2, 6, 3)
    inputs = np.repeat(np.random.default_rng(0).normal(size=(1, 9, 2)), 20, axis=0)
    op = Flow(model, inputs).NTK
    apart, mixed = (
        np.std([trace(op, method, probes, seed=seed).value for seed in range(60)])
        for method, probes in (("trials", 2), ("hutchinson", 4))
    )
    # A factor of 20^(1/2) = 4.5; of 60 values deviations are known to 9 %.
    assert 3.0 < mixed / apart < 6.5


def test_a_tolerance_is_reached_and_its_products_are_counted():
    op, calls = make_flow("GRU", (30, 20, 8), 1).NTK, []
    truth = trace(op, "trials", probes=200).value
    for tol in (0.1, 0.02, 0.005):
        calls.clear()
        found = trace(op, tol=tol, progress=calls.append)
        low, high = found.interval()
        assert high - low <= 2 * 1.96 * tol * found.value
        assert abs(found.value - truth) < 4 * tol * truth
        assert sum(calls) == found.n_products == -(-(found.forward + found.backward) // 2)
    assert f"{found.forward} forward and {found.backward} backward passes" in str(found)
    assert found.forward > 0
    with pytest.raises(RuntimeError, match="less sure than the relative standard error tol = 1e-05; 80, the size"):
        trace(op, tol=1e-5, probes=9)
    assert trace(op, tol=1e-9, probes=200).method == "exact"


def test_deflation_of_more_directions_than_there_are_is_exact():
    """Three parameters: V spans them all, and tests see nothing but rounding."""
    space = TrajectorySpace((12, 5, 4))
    matrix = np.random.default_rng(0).normal(size=(240, 3))
    op = by_matrix(matrix, space)
    truth = np.square(in_coordinates(op)).sum()
    found = trace(op.gram(), probes=8)
    assert found.forward == 3
    assert found.interval()[0] <= truth <= found.interval()[1]
    assert found.relative_error < 1e-13


def by_matrix(matrix, space, by_trial=None):
    shape, columns = space.shape, matrix.shape[1]

    def parts(batch):
        blocks, rows = matrix.reshape(shape[0], -1, columns), batch.reshape(len(batch), shape[0], -1)
        found = partial(lambda b: rows[:, b] @ blocks[b])
        return TrialParts(found, lambda b: found(b) @ found(b).T)

    return TensorOperator(
        lambda x: (x @ matrix.T).reshape(-1, *shape), lambda x: x.reshape(len(x), -1) @ matrix,
        EuclideanSpace((columns,)), space, name="A", by_trial=by_trial or parts,
    )  # fmt: skip


def test_functions_of_the_users_are_called_where_we_are_and_checked():
    space, names = TrajectorySpace((12, 5, 4)), set()

    def parts(batch):
        def rows(trial):
            names.add(threading.get_ident())
            return np.ones((len(batch), 2))

        return TrialParts(rows, lambda trial: np.ones((len(batch), len(batch))))

    op = by_matrix(np.ones((240, 3)), space, parts).gram()
    with pytest.raises(ValueError, match="by_trial of factor of A A\\* must return shape \\(1, 3\\); got \\(1, 2\\)"):
        trace(op, probes=9)
    assert names == {threading.get_ident()}
    with pytest.raises(TypeError, match="by_trial must be a function"):
        TensorOperator(np.copy, np.copy, space, space, by_trial=3)


def test_what_has_no_trace_and_what_has_none_but_zero():
    space = TrajectorySpace((12, 5, 4))
    assert trace(by_matrix(np.zeros((240, 3)), space).gram(), probes=9).interval() == (0.0, 0.0)
    assert trace(by_matrix(np.zeros((240, 3)), space).gram(), probes=9, tol=0.1).value == 0.0
    for probes in (2, 9):
        with pytest.raises(ValueError, match="maps finite tensors to such that are not finite"):
            trace(by_matrix(np.full((240, 3), np.nan), space).gram(), probes=probes)


def test_few_trials_are_left_to_other_methods():
    op = make_flow("GRU", (7, 5, 4)).NTK
    with pytest.raises(ValueError, match="trials needs an operator A A\\* of at least 8 trials .* take krylov"):
        trace(op, "trials")


def test_bits_do_not_depend_on_threads_and_precisions_agree():
    flow, before = make_flow("GRU", (20, 9, 8), 1), get_num_threads()
    single = make_flow("GRU", (20, 9, 8), 1, dtype=np.float32)
    try:
        found = []
        for count in (1, 3):
            set_num_threads(count)
            found.append([trace(op, probes=9, seed=5) for op in (flow.NTK, single.NTK)])
        assert found[0] == found[1]
    finally:
        set_num_threads(before)
    assert found[0][1].value == pytest.approx(found[0][0].value, rel=1e-5)


def test_structure_of_a_readout_keeps_what_is_known():
    """W D for a readout W of each point: the output's NTK."""
    flow = make_flow("GRU", (9, 6, 5), 2)
    readout, out = np.random.default_rng(0).normal(size=(2, 5)), TrajectorySpace((9, 6, 2))
    W = TensorOperator(
        lambda z: z @ readout.T, lambda y: y @ readout, flow.space, out, structure=Structure(by_trial=True)
    )
    op = (W @ flow.D).gram()
    assert trace(op, probes=6).method == "exact"
    assert trace(op, probes=6).value == pytest.approx(np.trace(op.to_dense()), rel=1e-12)
