"""Weights that are nearly all zero: their products go by the entries that are not."""

import numpy as np
import pytest

import kpref
from kpref.kernels import interpreter
from kpref.kernels.sparse import SparseColumns, is_sparse
from kpref.training import Objective

UNITS = 72


def network(density, seed=0, n_layers=0):
    rng = np.random.default_rng(seed)
    return kpref.models.Rate.init(3, UNITS, seed=seed, gain=3.0, mask=rng.random((UNITS, UNITS)) < density)


def pruned(density):
    """A map whose weights have zeros that nobody has declared."""
    model, rng = kpref.models.GRU.init(3, UNITS, seed=0), np.random.default_rng(0)
    weight = model.parameters["weight_hh"]
    return model.with_parameters({"weight_hh": weight * (rng.random(weight.shape) < density)})


def flow_of(model, trials, dtype="float64", method="rk4", steps=6):
    inputs = np.random.default_rng(1).normal(size=(trials, steps, 3))
    options = {"dt": 0.2, "method": method} if isinstance(model, kpref.models.Rate) else {}
    return kpref.Flow(model, inputs, dtype=dtype, **options)


def products(flow, rng):
    """P, D, their transposes, and K; of a map the inverse of P too."""
    q = rng.normal(size=flow.space.shape).astype(flow.dtype)
    theta = rng.normal(size=flow.model.n_parameters).astype(flow.dtype)
    found = {"P": flow.P(q), "P*": flow.P.star(q), "D": flow.D(theta), "D*": flow.D.star(q), "K": flow.K(q)}
    if not isinstance(flow.model, kpref.models.Rate):
        found |= {"inverse": flow.P_inverse(q), "inverse*": flow.P_inverse.star(q)}
    return found


@pytest.mark.parametrize("trials", [1, 15, 17, 33])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [network, pruned])
def test_products_are_those_of_the_whole_matrix(monkeypatch, make, dtype, trials):
    model = make(0.05)
    found = products(flow_of(model, trials, dtype), np.random.default_rng(2))
    monkeypatch.setattr(interpreter, "is_sparse", lambda matrix: False)
    wanted = products(flow_of(model, trials, dtype), np.random.default_rng(2))
    for name, value in found.items():
        # Sums of some 4 of 72 terms in another order, through 24 stages that do not grow: some tens of roundings.
        bound = 50 * np.finfo(dtype).eps * np.abs(wanted[name]).max()
        assert np.abs(value - wanted[name]).max() <= bound, name
    assert not all(np.array_equal(value, wanted[name]) for name, value in found.items())  # two ways were taken


@pytest.mark.parametrize("density", [0.0, 0.01, 0.099])
def test_adjoint_of_sparse_weights(density):
    """<P q, g> = <q, P* g>, with no entry at all too."""
    flow, rng = flow_of(network(density), 5, method="euler"), np.random.default_rng(3)
    q, g = rng.normal(size=(2, *flow.space.shape))
    one, other = flow.space.inner(flow.P(q), g), flow.space.inner(q, flow.P.star(g))
    assert abs(one - other) <= 1e-14 * flow.space.norm(flow.P(q)) * flow.space.norm(g)


def test_who_is_taken_by_entries():
    matrix = np.zeros((UNITS, UNITS))
    assert is_sparse(matrix)
    assert not is_sparse(matrix[:8])  # too small to gain
    matrix.ravel()[: matrix.size // 10 + 1] = 1
    assert not is_sparse(matrix)


def test_bits_do_not_depend_on_threads_or_on_other_trials():
    model, before = network(0.05), kpref.get_num_threads()
    rng = np.random.default_rng(4)
    flow = flow_of(model, 40)
    q = rng.normal(size=flow.space.shape)
    found = []
    for threads in (1, 2, 4):
        kpref.set_num_threads(threads)
        found.append(flow.P(q))
    kpref.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found)
    part = kpref.Flow(model, flow.inputs[:3], dt=0.2, method="rk4")
    assert np.array_equal(part.P(q[:3]), found[0][:3])


def test_other_numbers_may_have_their_zeros_elsewhere():
    rng = np.random.default_rng(5)
    matrices = [rng.normal(size=(UNITS, UNITS)) * (rng.random((UNITS, UNITS)) < share) for share in (0.02, 0.3, 0.0)]
    stored = SparseColumns(matrices[0])
    words = stored.words
    for matrix in matrices:
        stored.fill(matrix)
        assert stored.words == words
        starts, rows, entries = stored._kept
        dense = np.zeros_like(matrix)
        for column in range(UNITS):
            mine = slice(starts[column], starts[column + 1])
            dense[rows[mine], column] = entries[mine]
        assert np.array_equal(dense, matrix)


def test_training_has_the_gradient_of_a_flow_wherever_it_is():
    """An objective keeps its program from step to step: zeros that are trained numbers may come and go."""
    model = network(0.05)
    rng = np.random.default_rng(6)
    trials = kpref.Trials(rng.normal(size=(4, 5, 3)), targets=rng.normal(size=(4, 5, 2)))
    readout = kpref.Readout(rng.normal(size=(2, UNITS)))
    objective = Objective(model, readout, trials, loss="mse", dt=0.2, method="euler")
    vector = objective.vector
    for point in (
        vector,
        np.where(rng.random(vector.shape) < 0.5, 0.0, vector),
        vector + rng.normal(size=vector.shape),
    ):
        fresh = Objective(model, readout, trials, loss="mse", dt=0.2, method="euler").value_and_gradient(point)
        value, gradient = objective.value_and_gradient(point)
        assert value == pytest.approx(fresh[0], rel=1e-13)
        assert np.abs(gradient - fresh[1]).max() <= 1e-13 * np.abs(fresh[1]).max()
