"""Operators as values: random expressions against matrices, what their structure says of them, and pickles."""

import multiprocessing
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, make_flow, weights

import kpref
from kpref import EuclideanSpace, Flow, TensorOperator, TrajectorySpace, models
from kpref.operators import Structure, identity
from kpref.operators.structure import UNKNOWN
from kpref.spectra.blocks import block_eigh

TRIALS, STEPS, UNITS = 2, 3, 2
MEASURES = {
    "mean": {},
    "sum": {"measure": "sum"},
    "weights": {"measure": [[0.5, 1.0, 2.0], [0.1, 3.0, 1.0]]},
    "zeros": {"measure": [[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]]},
    "lengths": {"lengths": [2, 3]},
    "lengths, weights": {"measure": [1.0, 2.0, 0.5], "lengths": [3, 1]},
}


def on(space):
    """The weights of a space as a vector, and whether each entry exists."""
    exist = np.ones(space.shape)
    if space.lengths is not None:
        exist *= (np.arange(space.shape[1]) < space.lengths[:, None])[..., None]
    return weights(space).ravel(), exist.ravel()


class Pair:
    """An operator, its matrix, and a bound of the terms that each entry of that is a sum of."""

    def __init__(self, op, dense, size=None):
        self.op, self.dense = op, dense
        self.size = np.linalg.norm(dense) if size is None else size

    @property
    def T(self):
        return Pair(self.op.T, self.dense.T, self.size)

    @property
    def star(self):
        if self.op.star is self.op:  # by definition, whatever it returns where the weight is zero
            return self
        (dense, size) = self._adjoint()
        return Pair(self.op.star, dense, size)

    def gram(self):
        dense, size = self._adjoint()
        return Pair(self.op.gram(), self.dense @ dense, self.size * size)

    def _adjoint(self):
        (before, _), (after, _) = on(self.op.space_in), on(self.op.space_out)
        inverse = np.divide(1.0, before, out=np.zeros_like(before), where=before > 0)
        return inverse[:, None] * self.dense.T * after, self.size * inverse.max() * after.max()

    def __matmul__(self, other):
        return Pair(self.op @ other.op, self.dense @ other.dense, self.size * other.size)

    def __add__(self, other):
        return Pair(self.op + other.op, self.dense + other.dense, self.size + other.size)

    def __rmul__(self, factor):
        return Pair(factor * self.op, factor * self.dense, abs(factor) * self.size)

    def __pow__(self, exponent):
        size = self.size**exponent if exponent else len(self.dense)
        eye = np.diag(on(self.op.space_in)[1])
        return Pair(self.op**exponent, np.linalg.matrix_power(self.dense, exponent) @ eye, size)


def leaf(matrix, space_in, space_out, structure=UNKNOWN):
    exist_in, exist_out = on(space_in)[1], on(space_out)[1]
    matrix = exist_out[:, None] * matrix * exist_in
    op = TensorOperator(
        lambda batch: (batch.reshape(len(batch), -1) @ matrix.T).reshape(-1, *space_out.shape),
        lambda batch: (batch.reshape(len(batch), -1) @ matrix).reshape(-1, *space_in.shape),
        space_in,
        space_out,
        name="A",
        structure=structure,
    )
    return Pair(op, matrix)


def labels(space, axis):
    """Index along an axis of each entry of a tensor."""
    return np.indices(space.shape)[axis].ravel()


def leaves(space, seed):
    """Operators of every structure: on tensors, on parameters, and between the two."""
    rng, size, count = np.random.default_rng(seed), space.size, 5
    parameters = EuclideanSpace((count,))
    weight, _ = on(space)
    inverse = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    trial, unit = (np.equal.outer(labels(space, axis), labels(space, axis)) for axis in (0, -1))
    owners = [np.equal.outer(labels(space, -1), np.arange(count) // cut) for cut in (1, 3)]
    half, own = rng.normal(size=(size, size)), tuple(range(UNITS))
    seen = np.outer(weight > 0, weight > 0)
    unseen = (weight == 0)[:, None] * half  # what a self-adjoint operator returns there is not told
    return [
        leaf(half, space, space),
        leaf(half * trial, space, space, Structure(by_trial=True)),
        leaf(half * unit, space, space, Structure(units=own)),
        leaf(inverse[:, None] * (seen * (half @ half.T)) + unseen, space, space, Structure(True, True)),
        leaf(inverse[:, None] * (seen * (half + half.T)) + unseen, space, space, Structure(True)),
        *(leaf(rng.normal(size=(size, count)) * owner, parameters, space, Structure(units=own)) for owner in owners),
        leaf(rng.normal(size=(size, count)), parameters, space),
        leaf(np.diag(rng.normal(size=count)), parameters, parameters, Structure(True)),
        Pair(identity(space), np.diag(on(space)[1])),
    ]


KINDS = ["product", "product", "sandwich", "sandwich", "sum", "sum", "multiple", "power", "T", "star", "gram"]


@st.composite
def expressions(draw):
    """A list of operators, each made of those before it."""
    space = TrajectorySpace((TRIALS, STEPS, UNITS), **MEASURES[draw(st.sampled_from(sorted(MEASURES)))])
    known = leaves(space, draw(SEEDS))

    def one(condition=lambda pair: True):
        fitting = [pair for pair in known if condition(pair)]
        return fitting[draw(st.integers(0, len(fitting) - 1))]

    def like(pair):
        return lambda other: (other.op.space_in, other.op.space_out) == (pair.op.space_in, pair.op.space_out)

    for _ in range(6):
        kind = draw(st.sampled_from(KINDS))
        first = one()
        if kind == "product":
            made = first @ one(lambda pair, first=first: pair.op.space_out == first.op.space_in)
        elif kind == "sandwich":
            middle = one(lambda pair, first=first: pair.op.space_in == pair.op.space_out == first.op.space_in)
            made = first @ middle @ draw(st.sampled_from([first.star, first.T]))
        elif kind == "sum":
            made = first + one(like(first))
        elif kind == "multiple":
            made = draw(st.sampled_from([-1.0, 0.5, 2.0, 0.0])) * first
        elif kind == "power":
            made = one(lambda pair: pair.op.space_in == pair.op.space_out) ** draw(st.integers(0, 3))
        else:
            made = first.gram() if kind == "gram" else getattr(first, kind)
        known.append(made)
    return known


@given(expressions(), SEEDS)
def test_expressions_are_their_matrices_and_their_structure_is_true(known, seed):
    """Values, transposes, adjoints; and of what is claimed, all of it to rounding. What is false is never claimed.

    Sums of at most 12 terms at each of at most 9 stages, relative to the terms: 200 roundings of 1e-16.
    """
    rng = np.random.default_rng(seed)
    for pair in known:
        op, noise = pair.op, 1e-12 * (pair.size + 1e-300)
        for one, wanted in ((pair, pair.dense), (pair.T, pair.dense.T), (pair.star, pair.star.dense)):
            np.testing.assert_allclose(one.op.to_dense(), wanted, rtol=0, atol=1e-12 * (one.size + 1e-300))
        batch = rng.normal(size=(2, *op.shape_in))
        exact = batch.reshape(2, -1) @ pair.dense.T
        atol = noise * np.abs(batch).sum()
        np.testing.assert_allclose(op.apply(batch).reshape(2, -1), exact, rtol=0, atol=atol)
        check_structure(op, pair, noise)


def check_structure(op, pair, noise):
    """Each claim against the matrix."""
    known, dense = op.structure, pair.dense
    if known.self_adjoint:
        weight = on(op.space_out)[0]
        form = weight[:, None] * dense
        assert np.abs(form - form.T).max() <= noise * weight.max()
        if known.positive:
            assert np.linalg.eigvalsh(form + form.T).min() >= -len(form) * noise * weight.max()
    if op.factor is not None:
        np.testing.assert_allclose(op.factor.gram().to_dense(), dense, rtol=0, atol=noise)
    for axis, groups in ((0, np.arange(TRIALS) if known.by_trial else None), (-1, known.units)):
        if groups is None:
            continue
        rows = None if len(op.shape_out) == 1 else np.asarray(groups)[labels(op.space_out, axis)]
        columns = None if len(op.shape_in) == 1 else np.asarray(groups)[labels(op.space_in, axis)]
        if rows is not None and columns is not None:
            assert not dense[np.not_equal.outer(rows, columns)].any()
        else:  # no entry of the other side belongs to two groups
            used = np.array([(dense[rows == group] != 0).any(axis=0) if columns is None
                             else (dense[:, columns == group] != 0).any(axis=1) for group in set(groups)])  # fmt: skip
            assert used.sum(axis=0).max() <= 1


def test_what_looks_known_and_is_not():
    """Of a sandwich through a zero weight, and of operators whose units use other parameters of the same space."""
    space = TrajectorySpace((TRIALS, STEPS, UNITS), **MEASURES["zeros"])
    full, *_, positive, _, first, second, _, _, _ = (pair.op for pair in leaves(space, 0))
    assert positive.structure.positive
    op, weight = full @ positive @ full.star, on(space)[0]
    form = weight[:, None] * op.to_dense()
    assert np.abs(form - form.T).max() > 1e-3 * np.abs(form).max()
    assert op.structure == UNKNOWN
    assert first.structure.by_unit and second.structure.by_unit  # noqa: PT018
    product = (first @ second.star).to_dense()
    assert product[np.not_equal.outer(labels(space, -1), labels(space, -1))].any()
    for mixed in (first @ second.star, first + second, (first + second).gram()):
        assert mixed.structure.units is None
    for apart in (first @ first.star, first.gram() + second.gram(), 2 * second):
        assert apart.structure.by_unit


# What has to be known


@pytest.fixture(scope="module")
def flow():
    return make_flow("GRU", (3, 5, 4))


def test_what_is_claimed_of_the_operators_of_a_flow(flow):
    P, J, K, NTK = flow.P, flow.J, flow.K, flow.NTK
    positive = [K, NTK, P @ K @ P.star, P @ J @ J.star @ P.star, (P @ J) @ (P @ J).star, J @ J.star, P.gram(), P.T @ P,
                K @ K, K**2, (-K) ** 2, 2 * K + NTK / 3, K.T, (2 * P) @ K @ P.star, P @ P @ K @ P.star @ P.star,
                P.star.gram(), P @ (K + identity(flow.space)) @ P.star, P @ NTK @ P.T]  # fmt: skip
    for op in positive:
        assert op.structure.positive, op
        assert op.star is op
    for op in (-K, K - NTK, (K - NTK) ** 3, -2.0 * (P @ K @ P.star), P @ (-K) @ P.star):
        assert (op.structure.self_adjoint, op.structure.positive) == (True, False), op
    for op in (P, K @ NTK, P @ K, K @ P.star, P @ K @ P, P + P.star, J @ flow.D.star):
        assert op.structure == Structure(by_trial=op.structure.by_trial, units=op.structure.units), op
    for op in (P, P.T, P.star, P + 2 * P, P @ P, P**3, P.gram(), flow.P_inverse, flow.D_z0, flow.D_z0.gram()):
        assert op.structure.by_trial, op
    for op in (J, K, K.T, 2 * K, K + K**2, J @ J.star, J.star):
        assert op.structure.by_unit, op
    for op in (P, P @ K, P @ K @ P.star, NTK, J.star @ J, flow.D):
        assert op.structure.units is None, op
    assert (NTK.structure.by_trial, K.structure.by_trial) == (False, False)
    assert kpref.partial_trace(P.gram(), ("trial", "unit")).structure.by_trial
    assert kpref.partial_trace(K, ("time", "unit")).structure.by_unit


def test_adjoints_that_a_zero_weight_restricts_are_not_taken_for_what_they_are_not():
    """P K P* is not self-adjoint where an interior weight is zero; J J* and (P J)(P J)* always are."""
    flow = make_flow("GRU", (3, 5, 4), measure=[1.0, 1.0, 0.0, 1.0, 1.0])
    op, weight = flow.P @ flow.K @ flow.P.star, weights(flow.space).ravel()
    form = weight[:, None] * op.to_dense()
    assert np.abs(form - form.T).max() > 1e-3 * np.abs(form).max()
    assert op.structure == Structure()
    for positive in (flow.K, flow.NTK, (flow.P @ flow.J).gram(), (flow.P @ flow.J) @ (flow.P @ flow.J).star):
        assert positive.structure.positive


def test_factors_are_known_of_products_that_read_so(flow):
    for op in (flow.P @ flow.K @ flow.P.star, 3 * flow.NTK, flow.P.gram()):
        factor = op.factor
        np.testing.assert_allclose(factor.gram().to_dense(), op.to_dense(), rtol=0, atol=1e-14)
    assert kpref.trace(flow.P @ flow.K @ flow.P.star, probes=20).method == "Krylov"
    for op in (flow.P, flow.K + flow.NTK, 0 * flow.K, -flow.K, identity(flow.space)):
        assert op.factor is None


@pytest.mark.parametrize("kind, units", [("LSTM", (0, 1, 2, 0, 1, 2)), ("Stacked", None), ("LowRankRNN", None)])
def test_units_of_networks(kind, units):
    """Two parts of the state a unit; a layer that reads the one below; factors that all units share."""
    made = {
        "LSTM": lambda: models.LSTM.init(2, 3, 0),
        "Stacked": lambda: models.Stacked.init("gru", 2, 3, 2, 0),
        "LowRankRNN": lambda: models.LowRankRNN.init(2, 6, 2, 0),
    }[kind]()
    flow = Flow(made, np.random.default_rng(0).normal(size=(2, 4, 2)))
    dense = flow.K.to_dense().reshape(*flow.space.shape, *flow.space.shape)
    coupled = np.abs(dense).max(axis=(0, 1, 3, 4)) > 0
    assert flow.K.structure.units == units
    assert not flow.K.structure.by_unit
    if units is not None:
        np.testing.assert_array_equal(coupled, np.equal.outer(units, units))
        with pytest.raises(ValueError, match=r"K must keep the indices along axis 2 apart"):
            block_eigh(flow.K, 2, axis=2)


def test_blocks_are_read_and_not_assumed(flow):
    """Partial traces take one product for all trials, or units, that are kept apart; eigenpairs by block refuse."""
    counted = []

    def counting(op):
        def forward(batch):
            counted.append(len(batch))
            return op.apply(batch)

        return TensorOperator(forward, op.T.apply, op.space_in, op.space_out, structure=op.structure)

    for op, keep, products in ((flow.P, "unit", 5), (flow.K, "trial", 5), (flow.NTK, "unit", 15)):
        view = kpref.partial_trace(counting(op), keep)
        counted.clear()
        view(np.ones(view.shape_in))
        assert sum(counted) == products
    for op, axis in ((flow.NTK, 0), (flow.NTK, 2), (flow.K, 0), (flow.K, 1), (flow.P.gram(), 2)):
        with pytest.raises(ValueError, match=f"must keep the indices along axis {axis} apart"):
            block_eigh(op, 2, axis=axis)


def test_positive_without_self_adjoint_is_refused():
    with pytest.raises(ValueError, match="self-adjoint"):
        Structure(positive=True)


def test_formulas(flow):
    P, J, K = flow.P, flow.J, flow.K
    for op, formula in (
        (P @ K @ P.star, "P K P*"),
        ((P @ J).gram(), "(P J) (P J)*"),
        ((P @ J).T, "(P J)^T"),
        (2 * P, "2 P"),
        (-P @ K, "-P K"),
        (P @ (2 * K), "P (2 K)"),
        ((P + K) @ P, "(P + K) P"),
        (P - K, "P - K"),
        (P - 2.5 * (K + P), "P - 2.5 (K + P)"),
        ((P @ P) ** 2, "(P P)^2"),
        (P.star.T, "(P*)^T"),
        (K, "K"),
    ):
        assert repr(op) == f"<{formula}: (3, 5, 4) -> {op.shape_out}, float64>".replace(
            "(3, 5, 4) ->", f"{op.shape_in} ->"
        )


# Pickles


def tripled(batch):
    return 3 * batch


def waves(t):
    return np.sin(t + np.arange(6.0)).reshape(3, 2)


def spring(z, x, parameters):
    return parameters["k"] * z


def things():
    """Operators, flows, models and results, of all kinds."""
    rng = np.random.default_rng(0)
    space = EuclideanSpace((4,))
    inputs = rng.normal(size=(3, 5, 2))
    gru = Flow(models.GRU.init(2, 4, 0), inputs, rng.normal(size=(3, 4)))
    lstm = Flow(models.LSTM.init(2, 3, 0), inputs, lengths=[5, 3, 4], dtype=np.float32)
    rate = Flow(models.Rate.init(2, 4, 0), inputs, dt=0.1)
    steps = Flow(
        models.Rate.init(2, 3, 0, nonlinearity="softplus"), waves, times=[0, 0.1, 0.3], method="dopri5", rtol=1e-4
    )
    user = Flow(models.UserField(spring, 2, parameters={"k": -1.0}), z0=rng.normal(size=(2, 2)), times=[0, 0.1, 0.2])
    made = [gru, lstm, rate, steps, user, gru.P @ gru.K @ gru.P.star, 2 * gru.K - gru.NTK**2, gru.P_inverse.T]
    made += [getattr(flow, name) for flow in (lstm, rate, steps, user) for name in ("P", "J", "K", "D", "D_z0")]
    made += [rate.stage.P, rate.stage.J.star, steps.stage.K, rate.adjoint("discrete"), rate.adjoint("continuous")]
    made += [kpref.average(gru.NTK, "unit"), kpref.partial_trace(gru.K, ("trial", "time")), rate.solution]
    made += [TensorOperator(tripled, tripled, space, space), kpref.Trials(inputs), kpref.Readout(np.ones((1, 4)))]
    made += [gru.linearization, kpref.trace(gru.K), kpref.kernel_spectrum(gru), gru.model, lstm.model, user.model]
    return made


def bits(thing):
    """What a thing computes, as bytes."""
    if isinstance(thing, TensorOperator):
        sides = (thing, thing.T, thing.star)
        found = [side(np.random.default_rng(0).normal(size=side.shape_in)) for side in sides]
        return [repr(thing), repr(thing.structure), *(array.tobytes() for array in found)]
    if isinstance(thing, Flow):
        readout = kpref.Readout(np.ones((1, thing.states.shape[2])))
        gradient = thing.gradient_flow(readout, targets=np.zeros((*thing.states.shape[:2], 1)))
        return [thing.states.tobytes(), gradient.loss, gradient.grad_theta.tobytes(), *bits(thing.NTK)]
    return [repr(thing)]


def state():
    """Threads of the process, and functions that Numba has compiled or loaded."""
    from numba.core.dispatcher import Dispatcher

    import kpref.kernels.program_sweeps as compiled

    known = [value for value in vars(compiled).values() if isinstance(value, Dispatcher)]
    return threading.active_count(), len(os.listdir("/proc/self/task")), sum(len(one.signatures) for one in known)


def elsewhere(sent):
    """In another process: what comes out of the pickles, and whether taking them out had started anything."""
    before = state()
    taken = pickle.loads(sent)
    after = state()
    return [bits(thing) for thing in taken], before, after


def test_another_process_gets_the_same_bits():
    """All in one pickle, which a process that began from nothing takes out; no thread starts, nothing is compiled."""
    made = things()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found, before, after = pool.apply(elsewhere, (pickle.dumps(made),))
    assert before == after
    assert found == [bits(thing) for thing in made]


def test_functions_without_a_name_are_named(monkeypatch):
    """One sentence says which, and how to do better."""
    monkeypatch.delitem(sys.modules, "cloudpickle", raising=False)

    def local(z, x, parameters):
        return parameters["k"] * z

    space = EuclideanSpace((4,))
    op = TensorOperator(tripled, lambda batch: 3 * batch, space, space, name="B")
    field = models.UserField(local, 2, parameters={"k": 1.0})
    moved = Flow(models.Rate.init(2, 4, 0), lambda t: np.ones((3, 2)), times=[0, 0.1])
    for thing, message in (
        (identity(space) + 2 * op, r"the operator B cannot be pickled, as its transpose is made of .*lambda>, which"),
        (
            field,
            r"a UserField cannot be pickled, as its .* is made of .*local, which is not found .*: define it by def",
        ),
        (moved, r"a Flow cannot be pickled, as its inputs is made of .*<lambda>"),
        (moved.P, r"a InputSignal cannot be pickled"),
    ):
        with pytest.raises(TypeError, match=message):
            pickle.dumps(thing)
