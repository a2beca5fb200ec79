"""Learning rules against loops over time in plain NumPy, with Jacobians by complex steps."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from strategies import SEEDS, examples

import kpref
from kpref import Flow, Readout, models, rules
from kpref.differences import complex_step

B, T, H = 3, 5, 4


def made(kind="gru", seed=0, measure="mean"):
    rng = np.random.default_rng(seed)
    model = {
        "rnn": lambda: models.RNN.init(2, H, seed, gain=1.5),
        "gru": lambda: models.GRU.init(2, H, seed, gain=1.5),
        "lstm": lambda: models.LSTM.init(2, 2, seed),
        "leaky": lambda: models.LeakyRNN.init(2, H, seed, alpha=0.3),
        "stacked": lambda: models.Stacked.init("gru", 2, 2, 2, seed),
    }[kind]()
    flow = Flow(model, rng.normal(size=(B, T, 2)), rng.normal(size=(B, H)), measure)
    return flow, rng.normal(size=(B, T, H))


def jacobians(flow):
    """A[n] and J[n] at each point, (B, T, H, H) and (B, T, H, M)."""
    model = flow.model
    z = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
    units = [np.broadcast_to(unit, z.shape) for unit in np.eye(H)]
    by_state = [complex_step(lambda moved: model.evaluate(moved, flow.inputs), z, unit) for unit in units]

    def at(vector):
        return model.evaluate(z, flow.inputs, model.unflatten(vector))

    return np.stack(by_state, axis=-1), complex_step(at, model.vector)


def costates(backward, err, most=T):
    """Sum over j < most of A[n+1]^T ... A[n+j]^T g[n+j], the obvious way."""
    found = np.zeros_like(err)
    for n in range(T):
        for later in range(n, min(n + most, T)):
            carried = err[:, later]
            for step in range(later, n, -1):
                carried = np.einsum("bij,bi->bj", backward[:, step], carried)
            found[:, n] += carried
    return found


def gradient(by_parameters, found):
    return np.einsum("bnhm,bnh->m", by_parameters, found)


def dense(flow):
    """D as (B T H, M), by running the plain loops forwards."""
    a, j = jacobians(flow)
    out, dz = np.zeros_like(j), np.zeros_like(j[:, 0])
    for n in range(T):
        dz = np.einsum("bij,bjm->bim", a[:, n], dz) + j[:, n]
        out[:, n] = dz
    return out.reshape(B * T * H, -1)


def close(found, wanted, rel=1e-11):
    """Within rounding of sums of some thousand products, relative to the largest entry."""
    assert np.abs(found - wanted).max() <= rel * np.abs(wanted).max()


@given(seed=SEEDS, kind=st.sampled_from(["gru", "lstm", "leaky", "stacked"]), steps=st.integers(1, T + 1))
@examples(15)
def test_truncated(seed, kind, steps):
    flow, err = made(kind, seed, np.random.default_rng(seed).uniform(0.1, 1, (B, T)))
    a, j = jacobians(flow)
    found = rules.direction(rules.truncated(steps), flow, err)
    close(found, gradient(j, costates(a, flow.space.weigh(err), steps)))
    if steps >= T:
        close(found, rules.direction(rules.backpropagation, flow, err))
    if steps == 1:
        close(rules.phi(rules.truncated(1), flow, err)(err), flow.P(flow.K(err)))


def test_backpropagation_is_the_gradient():
    flow, _ = made()
    readout = Readout(np.random.default_rng(1).normal(size=(2, H)))
    loss = flow.gradient_flow(readout, targets=np.ones((B, T, 2)))
    close(rules.direction(rules.backpropagation, flow, loss.err), loss.grad_theta)
    close(-rules.phi(rules.backpropagation, flow, loss.err)(loss.err), loss.dz)


def test_functional_descent():
    flow, err = made()
    a, _ = jacobians(flow)
    forcing, dz, wanted = costates(a, err), np.zeros((B, H)), np.zeros((B, T, H))
    for n in range(T):
        dz = np.einsum("bij,bj->bi", a[:, n], dz) + forcing[:, n]
        wanted[:, n] = dz
    close(rules.functional_descent(flow)(err), wanted)


def pseudo_inverse(matrix, damping):
    if damping:
        return np.linalg.solve(matrix.T @ matrix + damping * np.eye(matrix.shape[1]), matrix.T)
    return np.linalg.pinv(matrix, rcond=1e-12)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_gauss_newton(damping):
    flow, err = made(measure=np.random.default_rng(5).uniform(0.5, 1, (B, T)))
    root = np.sqrt(np.repeat(flow.space.mu.ravel(), H))
    inverse = pseudo_inverse(root[:, None] * dense(flow), damping)
    # The solver stops at 1e-12 of the residual; the square of the condition of D, some 1e3, comes before that.
    rule = rules.gauss_newton(damping, tol=1e-12)
    close(rules.direction(rule, flow, err), inverse @ (root * err.ravel()), 1e-5)
    a, j = jacobians(flow)
    inverse = pseudo_inverse(root[:, None] * j.reshape(B * T * H, -1), damping)
    projected = costates(a, flow.space.weigh(err)) / flow.space.mu[..., None]
    rule = rules.one_step_gauss_newton(damping, tol=1e-12)
    close(rules.direction(rule, flow, err), inverse @ (root * projected.ravel()), 1e-5)


@given(seed=SEEDS)
@examples(10)
def test_feedback_alignment(seed):
    flow, err = made("rnn", seed)
    _, j = jacobians(flow)
    feedback = np.random.default_rng(seed).normal(size=(H, H))
    slopes = 1 - flow.states**2
    rule = rules.feedback_alignment(weights={"recurrent0": feedback})
    wanted = gradient(j, costates(slopes[..., None] * feedback, flow.space.weigh(err)))
    close(rules.direction(rule, flow, err), wanted)
    own = rules.feedback_alignment(weights={"recurrent0": flow.model.parameters["weight_hh"]})
    close(rules.direction(own, flow, err), rules.direction(rules.backpropagation, flow, err))
    close(rules.phi(rule, flow, err)(err), (dense(flow) @ wanted).reshape(B, T, H))


def test_random_feedback_is_reproducible():
    flow, err = made("stacked")
    one, same, other = (rules.direction(rules.feedback_alignment(seed), flow, err) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()
    with pytest.raises(ValueError, match="weights must be among recurrent0, "):
        rules.direction(rules.feedback_alignment(weights={"weight_hh": np.eye(2)}), flow, err)


@given(seed=SEEDS)
@examples(10)
def test_local_online_is_an_eligibility_trace(seed):
    """Murray's rule runs forwards in time: e = (1 - alpha) e + J, and each error meets the trace of its own time."""
    flow, _ = made("leaky", seed)
    rng = np.random.default_rng(seed)
    readout, feedback = Readout(rng.normal(size=(2, H))), rng.normal(size=(2, H))
    outputs = rng.normal(size=(B, T, 2))
    _, j = jacobians(flow)
    trace, wanted = np.zeros_like(j[:, 0]), 0.0
    for n in range(T):
        trace = 0.7 * trace + j[:, n]
        wanted = wanted + np.einsum("bhm,bh,b->m", trace, outputs[:, n] @ feedback, flow.space.mu[:, n])
    found = rules.direction(rules.local_online(readout, feedback), flow, outputs @ readout.weight)
    close(found, wanted, 1e-10)  # W^+ W has the condition number of W


def test_local_online_without_a_readout_takes_the_error_as_it_is():
    flow, err = made("lstm")
    readout = Readout(np.eye(2, 4))
    err[:, :, 2:] = 0
    exact = rules.direction(rules.local_online(), flow, err)
    close(rules.direction(rules.local_online(readout, readout.weight), flow, err), exact)


def test_diagonal_rules():
    flow, err = made()
    slope = rules.direction(rules.backpropagation, flow, err)
    scales = np.random.default_rng(2).uniform(size=slope.size)
    close(rules.direction(rules.diagonal(scales), flow, err), scales * slope)
    close(rules.direction(rules.adagrad(epsilon=1e-30), flow, err), np.sign(slope))
    close(rules.direction(rules.adagrad(scales, 1e-3), flow, err), slope / (np.sqrt(scales) + 1e-3))
    close(rules.direction(rules.adam(scales, 7, 0.9, 1e-3), flow, err),
          slope / (np.sqrt(scales / (1 - 0.9**7)) + 1e-3))  # fmt: skip


def test_shampoo():
    flow, err = made("rnn")
    found = flow.model.unflatten(rules.direction(rules.shampoo(1e-2), flow, err))
    for name, g in flow.model.unflatten(rules.direction(rules.backpropagation, flow, err)).items():
        columns = g.reshape(len(g), -1)
        left, right = columns @ columns.T, columns.T @ columns
        left += 1e-2 * np.trace(left) / len(left) * np.eye(len(left))
        right += 1e-2 * np.trace(right) / len(right) * np.eye(len(right))
        if g.ndim == 1:
            wanted = fractional_matrix_power(left, -0.5) @ g
        else:
            wanted = fractional_matrix_power(left, -0.25) @ g @ fractional_matrix_power(right, -0.25)
        close(found[name], wanted, 1e-10)  # powers of a matrix of condition number 1e3


def test_kronecker_factors():
    flow, err = made("rnn", measure=np.random.default_rng(4).uniform(0.1, 1, (B, T)))
    a, _ = jacobians(flow)
    mu = flow.space.mu.reshape(-1, 1)
    share = mu / mu.sum()
    # Of the density: without the measure of its own point.
    delta = (costates(a, flow.space.weigh(err)) * (1 - flow.states**2)).reshape(-1, H) / mu
    hidden = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1).reshape(-1, H)
    drive = np.concatenate([flow.inputs.reshape(-1, 2), np.ones((B * T, 1))], axis=1)

    def damped(matrix):
        return matrix + 1e-2 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))

    gamma = np.linalg.inv(damped((share * delta).T @ delta))
    found = flow.model.unflatten(rules.direction(rules.kronecker_factored(1e-2), flow, err))
    for names, m in ((["weight_hh"], hidden), (["weight_ih", "bias_ih", "bias_hh"], drive)):
        slopes = (mu * delta).T @ m
        if len(names) > 1:
            slopes[:, -1] *= 2  # two biases with the same gradient, each of which moves the same current
        wanted = gamma @ slopes @ np.linalg.inv(damped((share * m).T @ m))
        close(found[names[0]], wanted[:, :2] if len(names) > 1 else wanted, 1e-10)
        for name in names[1:]:
            close(found[name], wanted[:, -1], 1e-10)


@pytest.mark.parametrize("kind", ["gru", "lstm", "stacked"])
def test_preconditioners_are_positive(kind):
    """The loss falls: <Err, D S D* Err> > 0; and Phi is what its pieces say, also after a pickle."""
    flow, err = made(kind)
    for rule in (rules.shampoo(), rules.kronecker_factored(), rules.adagrad()):
        op = rules.phi(rule, flow, err)
        assert flow.space.inner(err, op(err)) > 0
        close(op(err), flow.D(rules.direction(rule, flow, err)))
        other = np.random.default_rng(3).normal(size=err.shape)
        assert flow.space.inner(other, op(err)) == pytest.approx(flow.space.inner(err, op(other)), rel=1e-9)
        assert np.array_equal(pickle.loads(pickle.dumps(op))(err), op(err))


def test_fields_take_the_rules_that_need_no_map():
    flow = Flow(models.Rate.init(2, H, 0), np.random.default_rng(0).normal(size=(B, T, 2)), dt=0.2)
    err = np.random.default_rng(1).normal(size=(B, T, H))
    close(rules.phi(rules.backpropagation, flow, err)(err), flow.NTK(err))
    assert rules.direction(rules.gauss_newton(1e-3), flow, err).shape == (flow.model.n_parameters,)
    for rule in (rules.truncated(2), rules.feedback_alignment(), rules.local_online(), rules.kronecker_factored()):
        with pytest.raises(TypeError, match=r"in continuous time|discrete time"):
            rules.direction(rule, flow, err)


def test_comparison():
    flow, err = made()
    chosen = {
        "gradient": rules.backpropagation,
        "truncated": rules.truncated(2),
        "functional": rules.functional_descent(flow),
        "nothing": rules.diagonal(np.zeros(flow.model.n_parameters)),
        "uphill": lambda flow, err: -flow.D.star,
    }
    found = rules.compare_rules(flow, err, chosen, k=2)
    assert found.names == tuple(chosen)
    gradient, space = flow.NTK(err), flow.space
    assert found.alignments[0] == pytest.approx(1)
    assert found.alignments[4] == pytest.approx(-1)
    assert np.isnan(found.alignments[3])
    change = rules.functional_descent(flow)(err)
    cosine = space.inner(change, gradient) / (space.norm(change) * space.norm(gradient))
    assert found.alignments[2] == pytest.approx(cosine)
    assert found.loss_rates[0] == pytest.approx(space.inner(err, gradient))
    assert found.loss_rates[4] == pytest.approx(-found.loss_rates[0])
    assert found.spectra[0] == pytest.approx(kpref.eigh(flow.NTK, 2).values, rel=1e-6)
    assert found.spectra.shape == (5, 2)
    assert "truncated" in found._repr_html_()
