"""Laws of the operators: adjoints, inverses, causality, independence of trials, symmetry, positivity, locality."""

import numpy as np
import pytest
from hypothesis import given
from rounding import CHAINS, chain_error, dot, gamma, in_double, roundings, transposed
from strategies import KINDS, STRUCTURES, examples, flows, make_flow, restricted, weights

from kpref import Flow
from kpref.models import RNN

NAMES = ("P", "P_inverse", "J", "D_z0")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def kernel_chain(name):
    gram = ("J",) if name == "K" else ("J", "P")
    return transposed(gram) + gram


def assert_dot_test(form, operator, names, p, q, weights_in, weights_out):
    """``<p, A q> = <A* p, q>`` in two inner products, given as weights, within the rounding of both sides.

    The rounding is gamma times sums of the very numbers that are added (`chain_error`), which is what "relative"
    has to mean for operators whose norm is huge. The largest gamma, of T <= 15 and B <= 6, is below 1.2e-14.
    """
    assert gamma(roundings(form)) < 1.2e-14
    ahead = dot(weights_out * p, operator(q))
    back = dot(operator.star(p) * weights_in, q)
    error = chain_error(form, names, q, weights_out * p)
    error += chain_error(form, transposed(names), weights_out * p, q)
    assert abs(ahead - back) <= gamma(roundings(form)) * error


@pytest.mark.parametrize("kind", KINDS)
def test_dot_tests(kind):
    @examples(25)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        form = in_double(flow.linearization)
        for name in NAMES:
            operator = getattr(flow, name)
            p = rng.normal(size=operator.shape_out)
            q = restricted(operator.space_in, rng.normal(size=operator.shape_in))
            w_in, w_out = weights(operator.space_in), weights(operator.space_out)
            assert_dot_test(form, operator, CHAINS[name], p, q, w_in, w_out)
            # The Euclidean transpose, and that of the adjoint.
            error = chain_error(form, CHAINS[name], q, p) + chain_error(form, transposed(CHAINS[name]), p, q)
            assert abs(dot(p, operator(q)) - dot(operator.T(p), q)) <= gamma(roundings(form)) * error
            # A*^T p = W_out A W_in^+ p: two sweeps of A, and of A^T, weighted.
            star, u = operator.star, restricted(operator.space_in, rng.normal(size=operator.shape_in))
            u_in = np.divide(u, w_in, out=np.zeros_like(u), where=w_in > 0)
            error = chain_error(form, CHAINS[name], u_in, w_out * p)
            error += chain_error(form, transposed(CHAINS[name]), w_out * p, u_in)
            assert abs(dot(u, star(p)) - dot(star.T(u), p)) <= gamma(roundings(form)) * error

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_symmetric_in_the_measure(kind):
    """K and NTK: ``<p, A q> = <A p, q>`` and ``<q, A q> >= 0``, also where the measure has zeros."""

    @examples(15)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        form, mu = in_double(flow.linearization), weights(flow.space)
        p, q = rng.normal(size=(2, *flow.states.shape))
        for name in ("K", "NTK"):
            operator, names = getattr(flow, name), kernel_chain(name)
            assert operator.structure.self_adjoint
            assert operator.structure.positive
            assert operator.star is operator
            allowed = gamma(roundings(form)) * (
                chain_error(form, names, mu * q, mu * p) + chain_error(form, names, mu * p, mu * q)
            )
            assert abs(dot(mu * p, operator(q)) - dot(mu * q, operator(p))) <= allowed
            # The Euclidean transpose is Mu F F^T.
            assert abs(dot(p, operator(q)) - dot(operator.T(p), q)) <= gamma(roundings(form)) * (
                chain_error(form, names, mu * q, p) + chain_error(form, names, p, mu * q)
            )
            value = dot(mu * q, operator(q))
            assert value >= -gamma(roundings(form)) * chain_error(form, names, mu * q, mu * q)
            # More than that: it is the squared norm of what J* (and P*) make of q.
            factor = flow.J if name == "K" else flow.P @ flow.J
            vector = factor.star(q)
            assert abs(value - dot(vector, vector)) <= 2 * allowed + 2 * gamma(roundings(form)) * chain_error(
                form, names, mu * q, mu * q
            )

    check()


@pytest.mark.parametrize("kind", STRUCTURES)
def test_kernels_are_positive_semidefinite(kind):
    """All eigenvalues of the symmetrised matrices, not one direction; their rank is at most M."""

    @examples(4)
    @given(flows(kind, max_trials=3, max_steps=5, max_states=4))
    def check(case):
        flow, _ = case
        root = np.sqrt(weights(flow.space)).ravel()
        for operator in (flow.K, flow.NTK):
            dense = operator.to_dense()
            half = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
            symmetric = (root[:, None] * dense * half)[np.ix_(root > 0, root > 0)]
            values = np.linalg.eigvalsh((symmetric + symmetric.T) / 2)
            # Weyl: eigenvalues move by at most the norm of the error, n gamma of a matrix no larger than the last.
            noise = len(values) * gamma(2 * roundings(flow.linearization)) * max(1.0, np.abs(symmetric).sum(1).max())
            assert values.min() >= -noise
            assert np.count_nonzero(values > noise) <= flow.model.n_parameters

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_inverse(kind):
    """``P P^-1 = I`` and ``P^-1 P = I``, and transposed."""

    @examples(15)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        form = in_double(flow.linearization)
        x, w = rng.normal(size=(2, *flow.states.shape))
        for names, first, second in [
            (("P", "P^-1"), flow.P, flow.P_inverse),
            (("P^-1", "P"), flow.P_inverse, flow.P),
            (("P^-1^T", "P^T"), flow.P_inverse.T, flow.P.T),
            (("P^T", "P^-1^T"), flow.P.T, flow.P_inverse.T),
        ]:
            allowed = gamma(roundings(form)) * chain_error(form, names, x, w)
            assert abs(dot(w, second(first(x))) - dot(w, x)) <= allowed

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_products(kind):
    """K = J J*; NTK = D D^T Mu always, and = P K P* where the measure has no zeros."""

    @examples(15)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        form, mu = in_double(flow.linearization), weights(flow.space)
        q, w = rng.normal(size=(2, *flow.states.shape))
        derivative = flow.P @ flow.J
        pairs = [
            ("K", flow.K(q), flow.J(flow.J.T(mu * q))),
            ("K", flow.K(q), (flow.J @ flow.J.star)(q)),
            ("NTK", flow.NTK(q), derivative(derivative.T(mu * q))),
            ("NTK", flow.NTK(q), flow.P(flow.J(flow.J.T(flow.P.T(mu * q))))),
        ]
        if (mu > 0).all():
            pairs.append(("NTK", flow.NTK(q), (flow.P @ flow.K @ flow.P.star)(q)))
        for name, got, wanted in pairs:
            allowed = 2 * gamma(roundings(form)) * chain_error(form, kernel_chain(name), mu * q, w)
            assert abs(dot(w, got) - dot(w, wanted)) <= allowed

    check()


@pytest.mark.parametrize("kind", STRUCTURES)
def test_causality(kind):
    """P q before a time does not depend on q from that time on, to the last bit; P^T g, the other way round."""

    @examples(15)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        steps = flow.states.shape[1]
        cut = int(rng.integers(0, steps))
        q = rng.normal(size=flow.states.shape)
        changed = q.copy()
        changed[:, cut:] += 1.0
        for operator in (flow.P, flow.P_inverse):
            np.testing.assert_array_equal(operator(changed)[:, :cut], operator(q)[:, :cut])
        changed = q.copy()
        changed[:, :cut] += 1.0
        for operator in (flow.P.T, flow.P_inverse.T, flow.P.star):
            np.testing.assert_array_equal(operator(changed)[:, cut:], operator(q)[:, cut:])
        # And a forcing is felt at its own step as it is: the diagonal of P is one.
        pulse = np.zeros_like(q)
        pulse[:, cut] = q[:, cut]
        np.testing.assert_array_equal(flow.P(pulse)[:, cut], q[:, cut])
        np.testing.assert_array_equal(flow.P.T(pulse)[:, cut], q[:, cut])

    check()


def test_forcing_is_felt_later(rng):
    """Causality is not emptiness: with recurrence a forcing moves all later states, and only those."""
    flow = make_flow("GRU", (2, 6, 3))
    pulse = np.zeros(flow.states.shape)
    pulse[:, 2] = rng.normal(size=(2, 3))
    moved = np.abs(flow.P(pulse)).max(axis=(0, 2))
    assert (moved[:2] == 0).all()
    assert (moved[2:] > 1e-3).all()
    moved = np.abs(flow.P.T(pulse)).max(axis=(0, 2))
    assert (moved[3:] == 0).all()
    assert (moved[:3] > 1e-3).all()


@pytest.mark.parametrize("kind", STRUCTURES)
def test_trials_are_independent(kind):
    """P of one trial depends on that trial alone, to the last bit; K and NTK couple trials through the parameters."""

    @examples(15)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        trial = int(rng.integers(flow.states.shape[0]))
        q = rng.normal(size=flow.states.shape)
        changed = q + 1.0
        changed[trial] = q[trial]
        for operator in (flow.P, flow.P.T, flow.P_inverse, flow.P_inverse.T):
            np.testing.assert_array_equal(operator(changed)[trial], operator(q)[trial])

    check()


def test_trial_alone_is_like_among_others(rng):
    flow = make_flow("GRU", (40, 6, 5))
    q = rng.normal(size=flow.states.shape)
    for trial in (0, 19, 39):
        one = Flow(flow.model, flow.inputs[[trial]], flow.z0[[trial]], measure="sum")
        # One row or many to the matrix product: other sums of a dozen terms, over six contracting steps.
        np.testing.assert_allclose(one.states[0], flow.states[trial], rtol=0, atol=1e-14)
        np.testing.assert_allclose(one.P(q[[trial]])[0], flow.P(q)[trial], rtol=0, atol=1e-13)


def test_kernel_couples_trials_and_times(rng):
    flow = make_flow("RNN-tanh", (3, 4, 3))
    q = np.zeros(flow.states.shape)
    q[1, 2] = rng.normal(size=3)
    assert (np.abs(flow.K(q)).max(axis=2) > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_is_local_in_time(kind, rng):
    """Row (b, n) of J depends on (z[n], x[n]) of that trial alone: reordered points give reordered rows."""
    flow = make_flow(kind, (3, 5, 4))
    before = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    single = Flow(flow.model, flow.inputs.reshape(15, 1, -1), before.reshape(15, -1), measure="sum")
    vector = rng.normal(size=flow.model.n_parameters)
    # The same sums of six products, in blocks of other lengths.
    np.testing.assert_allclose(single.J(vector).reshape(flow.states.shape), flow.J(vector), rtol=0, atol=1e-13)
    q = rng.normal(size=flow.states.shape)
    allq = single.K(q.reshape(15, 1, 4)).reshape(q.shape) / 15
    np.testing.assert_allclose(allq, flow.K(q), rtol=0, atol=1e-13 * np.abs(allq).max())


def test_initial_state_counts(rng):
    """An operator that forgets z0 is another operator: row 0 is linearised at z0."""
    flow = make_flow("GRU", (2, 3, 3))
    forgetful = Flow(flow.model, flow.inputs)
    vector = rng.normal(size=flow.model.n_parameters)
    assert np.abs(flow.J(vector)[:, 0] - forgetful.J(vector)[:, 0]).max() > 1e-2


def test_shared_initial_state_is_one_for_every_trial(rng):
    model = make_flow("GRU", (3, 4, 5)).model
    inputs, start = rng.normal(size=(3, 4, 2)), rng.normal(size=5)
    shared, each = Flow(model, inputs, start), Flow(model, inputs, np.tile(start, (3, 1)))
    np.testing.assert_array_equal(shared.states, each.states)
    np.testing.assert_array_equal(shared.z0, each.z0)


@pytest.mark.parametrize("gain", [8.0, 30.0])
def test_dot_test_of_a_huge_propagator(gain, rng):
    """Entries of P near 1e13 and 1e21: relative to its norm, and not to the size of the answer."""
    flow = make_flow("Linear", (2, 15, 6), gain=gain)
    form = in_double(flow.linearization)
    assert np.abs(flow.P.to_dense()).max() > 1e10
    p, q = rng.normal(size=(2, *flow.states.shape))
    assert_dot_test(form, flow.P, ("P",), p, q, weights(flow.space), weights(flow.space))


def test_float32_operators(rng):
    """The same operators in float32, within the unit roundoff of float32 and not of float64."""
    double, single = make_flow("GRU"), make_flow("GRU", dtype=np.float32)
    q = rng.normal(size=double.states.shape)
    for name in ("P", "P_inverse", "K", "NTK"):
        got, wanted = getattr(single, name)(q), getattr(double, name)(q)
        assert got.dtype == np.float32
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
        # Coefficients, input and some forty operations, each rounded to 6e-8; and it is not float64 in disguise.
        assert 1e-9 < error < 60 * 6e-8
    assert single.states.dtype == np.float64


def test_relu_at_the_kink_has_slope_zero():
    """As in PyTorch; a unit that is exactly at zero passes nothing on."""
    model = RNN([[0.0]], [[1.0]], nonlinearity="relu")
    flow = Flow(model, np.zeros((1, 3, 1)), measure="sum")
    np.testing.assert_array_equal(flow.P.to_dense(), np.eye(3))
    assert (flow.J.to_dense() == 0).all()
