"""The output NTK against derivatives by complex steps, and linearised training against a solved equation."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples, flows

import kpref
from kpref import Flow, Readout, models
from kpref.differences import complex_step
from kpref.learning import linearised_training, output_ntk, output_sensitivity, readout_sensitivity

EPS = np.finfo(float).eps


def readout_for(flow, seed=0, outputs=2, bias=True):
    rng = np.random.default_rng(seed)
    units = flow.model.observed.stop - flow.model.observed.start
    return Readout(rng.normal(size=(outputs, units)), rng.normal(size=outputs) if bias else None)


def derivatives(flow, readout):
    """dY/d(theta, W, b) by complex steps through the plain forward pass, (B T n_out, M)."""
    model, observed = flow.model, flow.model.observed
    sizes = np.cumsum([model.n_parameters, readout.weight.size])

    def outputs(vector):
        theta, weight, bias = np.split(vector, sizes)
        states = model.iterate(flow.z0 + 0j, flow.inputs, model.unflatten(theta))[:, :, observed]
        y = states @ weight.reshape(readout.weight.shape).T
        return (y if readout.bias is None else y + bias).ravel()

    bias = np.zeros(0) if readout.bias is None else readout.bias
    return complex_step(outputs, np.concatenate([model.vector, readout.weight.ravel(), bias]))


@given(data=st.data())
@examples(15)
def test_both_terms(data):
    kind = data.draw(st.sampled_from(["GRU", "RNN-tanh", "LeakyRNN-softplus"]))
    flow, _ = data.draw(flows(kind, max_trials=3, max_steps=4, max_states=4))
    flow = Flow(flow.model.with_trainable(None), flow.inputs, flow.z0, flow.space.mu)
    readout = readout_for(flow, bias=data.draw(st.booleans()))
    jacobian, mu = derivatives(flow, readout), np.repeat(flow.space.mu.ravel(), readout.n_outputs)
    wanted = jacobian @ jacobian.T * mu
    whole = output_ntk(flow, readout)
    # Sums of M products, in another order, of numbers of the size of the largest; P grows by powers of ten at most.
    bound = 1e3 * EPS * np.abs(wanted).max()
    assert np.abs(whole.to_dense() - wanted).max() <= bound
    states = output_ntk(flow, readout, trainable_readout=False)
    own = readout_sensitivity(flow, readout).gram()
    assert np.abs((states + own).to_dense() - wanted).max() <= bound
    assert whole.structure.positive
    assert states.structure.positive


def test_short_form_where_the_measure_is_positive():
    flow = Flow(models.GRU.init(2, 4, 0), np.random.default_rng(0).normal(size=(3, 5, 2)))
    readout = readout_for(flow)
    q = np.random.default_rng(1).normal(size=(3, 5, 2))
    wanted = flow.NTK(q @ readout.weight) @ readout.weight.T
    assert output_ntk(flow, readout, trainable_readout=False)(q) == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kind", ["lstm", "field", "float32", "lengths"])
def test_all_flows(kind):
    rng = np.random.default_rng(2)
    model = {"lstm": models.LSTM, "field": models.Rate}.get(kind, models.GRU).init(2, 3, 0)
    options = {"field": {"dt": 0.2}, "float32": {"dtype": np.float32}, "lengths": {"lengths": [2, 5]}}.get(kind, {})
    flow = Flow(model, rng.normal(size=(2, 5, 2)), **options)
    readout = readout_for(flow)
    op = output_sensitivity(flow, readout)
    assert kpref.differences.dot_test(op).error < (1e-5 if kind == "float32" else 1e-13)
    loss = flow.gradient_flow(readout, targets=np.zeros((2, 5, 2)))
    gradient = op.T(op.space_out.weigh(loss.loss_value.output_gradient))
    near = {"rel": 1e-4, "abs": 1e-6} if kind == "float32" else {"rel": 1e-11, "abs": 1e-14}
    assert gradient[: model.n_parameters] == pytest.approx(loss.grad_theta, **near)
    assert np.array_equal(pickle.loads(pickle.dumps(op))(gradient), op(gradient))


def quadratic(flow, readout, targets, mask):
    """Of the linearised network on the loss of `kpref.loss`, plainly: D (n, M), weights M, and y0 - y*."""
    density = np.broadcast_to(1.0 if mask is None else mask, flow.space.shape[:2])
    density = density * flow.space.mu.sum() / (flow.space.mu * density).sum()
    scale = np.repeat((2 / readout.n_outputs * flow.space.mu * density).ravel(), readout.n_outputs)
    return derivatives(flow, readout), scale, (readout(flow.states) - targets).ravel()


def rk4(slope, p, time, steps):
    h = time / steps
    for _ in range(steps):
        a = slope(p)
        b = slope(p + h / 2 * a)
        c = slope(p + h / 2 * b)
        p = p + h / 6 * (a + 2 * b + 2 * c + slope(p + h * c))
    return p


@given(seed=SEEDS, masked=st.booleans(), few=st.booleans())
@examples(10)
def test_closed_form_is_the_solution(seed, masked, few):
    rng = np.random.default_rng(seed)
    flow = Flow(models.GRU.init(2, 1 if few else 4, seed), rng.normal(size=(3, 4, 2)))  # 19 parameters, or 100
    readout, targets = readout_for(flow, seed), rng.normal(size=(3, 4, 2))
    mask = rng.integers(0, 2, size=(3, 4)) + np.eye(3, 4) if masked else None
    found = linearised_training(flow, readout, targets, mask)
    jacobian, scale, error = quadratic(flow, readout, targets, mask)
    time = 5.0 / found.rates[0]
    # Steps of 5 / 400 of the fastest time: rk4 errs by (1 / 80)^4 * 5 / 120 = 1e-9 of the error.
    p = rk4(lambda p: -jacobian.T @ (scale * (error + jacobian @ p)), np.zeros(jacobian.shape[1]), time, 400)
    y = (readout(flow.states).ravel() + jacobian @ p).reshape(3, 4, 2)
    size = np.abs(error).max()
    assert np.abs(found.outputs(time) - y).max() < 1e-8 * max(size, 1.0)
    assert np.abs(found.parameters(time) - p).max() < 1e-8 * max(np.abs(p).max(), 1.0)
    wanted = 0.5 * (scale * np.square(error + jacobian @ p)).sum()
    assert found.loss([0.0, time])[1] == pytest.approx(wanted, rel=1e-7)
    assert found.least_loss(time) == pytest.approx(wanted, rel=1e-7)
    start = flow.gradient_flow(readout, targets=targets, mask=mask)
    assert found.loss(0.0) == pytest.approx(start.loss, rel=1e-12)


def test_the_last_step_alone_is_as_a_mask_of_it():
    rng = np.random.default_rng(6)
    flow = Flow(models.GRU.init(2, 3, 0), rng.normal(size=(2, 4, 2)), lengths=[4, 3])
    readout, targets = readout_for(flow), rng.normal(size=(2, 4, 2))
    last = linearised_training(flow, readout, targets, at="last")
    masked = linearised_training(flow, readout, targets, mask=np.eye(4)[[3, 2]])
    times = [0.0, 0.5, 2.0]
    assert last.loss(times) == pytest.approx(masked.loss(times), rel=1e-12)
    assert last.loss(0.0) == pytest.approx(flow.gradient_flow(readout, targets=targets, at="last").loss, rel=1e-12)


@given(seed=SEEDS, modes=st.integers(1, 8))
@examples(10)
def test_few_modes_bound_the_loss(seed, modes):
    rng = np.random.default_rng(seed)
    flow = Flow(models.RNN.init(2, 5, seed), rng.normal(size=(3, 4, 2)))
    readout, targets = readout_for(flow, seed), rng.normal(size=(3, 4, 2))
    exact = linearised_training(flow, readout, targets)
    found = linearised_training(flow, readout, targets, modes=modes)
    times = np.array([0.0, 0.3, 3.0, 30.0]) / exact.rates[0]
    truth = exact.loss(times)
    assert (found.least_loss(times) <= truth * (1 + 1e-9)).all()
    assert (truth <= found.loss(times) * (1 + 1e-9)).all()
    # Outputs: what is left out decays by its slowest kept rate at most.
    gap = found.sensitivity.space_out.norm(found.outputs(times[1]) - exact.outputs(times[1]))
    assert gap <= -np.expm1(-found.rest_rate * times[1]) * found.rest**0.5 * (1 + 1e-9) + 1e-12


def trained(model, readout, inputs, targets, rate, steps):
    """Plain gradient descent on both; returns the outputs."""
    for _ in range(steps):
        flow = Flow(model, inputs)
        loss = flow.gradient_flow(readout, targets=targets)
        weighted = flow.space.weigh(loss.loss_value.output_gradient)
        slope = np.einsum("bto,bth->oh", weighted, flow.states)
        model = model.with_vector(model.vector - rate * loss.grad_theta)
        readout = Readout(readout.weight - rate * slope, readout.bias - rate * weighted.sum(axis=(0, 1)))
    return readout(Flow(model, inputs).states)


def test_training_leaves_the_linearised_one_with_time():
    rng = np.random.default_rng(4)
    inputs, targets = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 2))
    flow = Flow(models.GRU.init(2, 6, 0), inputs)
    readout = readout_for(flow)
    linear = linearised_training(flow, readout, targets)
    found = []
    for time in (0.04 / linear.rates[0], 0.02 / linear.rates[0]):
        outputs = trained(flow.model, readout, inputs, targets, time / 40, 40)
        found.append(linear.deviation(outputs, time))
    # The second derivatives of y move it by O(t^2), out of O(t); steps of t / 40 err by another 40th of the same.
    assert found[0] / found[1] == pytest.approx(2, rel=0.1)
    assert 0 < found[0] < 0.1
    with pytest.raises(ValueError, match="have not moved"):
        linear.deviation(outputs, 0.0)
    with pytest.raises(ValueError, match="outputs holds nan at trial 0, step 0, output 0"):
        linear.deviation(outputs * np.nan, time)
    for loss in (linear.loss, linear.least_loss):
        with pytest.raises(ValueError, match=r"times must be at least 0; got -1\.0"):
            loss([0.0, -1.0])
