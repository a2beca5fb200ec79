"""The gradient of a loss through the operators, and what a step along it does: predicted and realised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, examples, flows, make_flow

from kpref import Flow, Readout
from kpref.analysis.slopes import has_kinks
from kpref.loss import evaluate_loss
from kpref.models.registry import registered


def problem(flow, rng, loss):
    """A random readout and what its loss takes."""
    trials, steps, units = flow.states.shape
    readout = Readout(rng.normal(size=(3, units)) / np.sqrt(units), rng.normal(size=3))
    if loss == "mse":
        return readout, {"targets": rng.normal(size=(trials, steps, 3))}
    return readout, {"labels": rng.integers(3, size=trials), "loss": "cross_entropy"}


def loss_at(flow, model, readout, arguments):
    states = model.iterate(flow.z0, flow.inputs)
    return evaluate_loss(states, flow.space, readout, **arguments).value


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_derivative_of_the_loss(kind, loss):
    """Complex steps of the states, and the chain rule of the loss; exact to rounding, along a random direction."""

    @examples(8)
    @given(flows(kind), st.sampled_from(["all", "last"]))
    def check(case, at):
        flow, rng = case
        readout, arguments = problem(flow, rng, loss)
        if not flow.space.mu[:, -1].any():
            at = "all"
        gradient = flow.gradient_flow(readout, **arguments, at=at)
        direction = rng.normal(size=flow.model.n_parameters)
        moved = {
            name: flow.model.parameters[name] + 1e-30j * change
            for name, change in flow.model.unflatten(direction).items()
        }
        change = flow.model.iterate(flow.z0, flow.inputs, moved).imag / 1e-30
        terms = flow.space.mu[:, :, None] * gradient.err * change
        # Both are sums of the same terms in another order, each carrying the 1e-12 of dZ/dtheta (test_derivatives).
        scale = np.abs(terms).sum() + np.abs(gradient.grad_theta * direction).sum()
        assert abs(gradient.grad_theta @ direction - terms.sum()) <= 1e-12 * scale
        assert gradient.grad_theta.shape == (flow.model.n_parameters,)
        assert (
            gradient.loss == loss_at(flow, flow.model, readout, {**arguments, "at": at})
            or abs(gradient.loss / loss_at(flow, flow.model, readout, {**arguments, "at": at}) - 1) < 1e-12
        )

    check()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "relu" not in kind])
def test_gradient_by_finite_differences(kind, loss):
    """Every parameter, with nothing but the value of the loss; relu is left out, whose kinks may lie in a step."""
    flow = make_flow(kind, (2, 4, 3), measure=[0.5, 0.0, 2.0, 1.0])
    readout, arguments = problem(flow, np.random.default_rng(0), loss)
    gradient = flow.gradient_flow(readout, **arguments)

    def slope(basis, step):
        ahead = loss_at(flow, flow.model.with_vector(flow.model.vector + step * basis), readout, arguments)
        behind = loss_at(flow, flow.model.with_vector(flow.model.vector - step * basis), readout, arguments)
        return (ahead - behind) / (2 * step)

    basis = np.eye(flow.model.n_parameters)
    wanted = np.array([(4 * slope(e, 5e-4) - slope(e, 1e-3)) / 3 for e in basis])
    # Richardson: truncation 1e-12 times fifth derivatives of up to a hundred; rounding 1e-15 L / 1e-3.
    assert np.abs(gradient.grad_theta - wanted).max() <= 1e-10 * max(1.0, gradient.loss, np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_of_states(kind):
    """df = -K P* Err, dz = -P K P* Err = -NTK Err, and the rate -<Err, NTK Err>_X."""
    rng = np.random.default_rng(0)
    flow = make_flow(kind, measure=rng.uniform(0.1, 1.0, size=(3, 5)))
    readout, arguments = problem(flow, rng, "mse")
    gradient = flow.gradient_flow(readout, **arguments)

    def close(got, wanted):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())

    close(gradient.grad_theta, flow.J.star(flow.P.star(gradient.err)))
    close(gradient.df, -flow.K(flow.P.star(gradient.err)))
    close(gradient.dz, -flow.P(flow.K(flow.P.star(gradient.err))))
    close(gradient.dz, -flow.NTK(gradient.err))
    rate = -flow.space.inner(gradient.err, flow.NTK(gradient.err))
    assert gradient.loss_rate == pytest.approx(rate, rel=1e-13)
    assert gradient.loss_rate < 0
    assert flow.space.inner(gradient.err, gradient.dz) == pytest.approx(rate, rel=1e-12)


def test_where_the_measure_is_zero():
    """The dynamics run on through points that nobody observes: P* Err knows nothing there, P^T Mu Err does."""
    flow = make_flow("GRU", measure=[0.0, 0.0, 0.0, 0.0, 1.0])
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    gradient = flow.gradient_flow(readout, **arguments)
    np.testing.assert_allclose(gradient.dz, -flow.NTK(gradient.err), rtol=0, atol=1e-13 * np.abs(gradient.dz).max())
    cut = flow.J.star(flow.P.star(gradient.err))
    assert np.abs(gradient.grad_theta - cut).max() > 0.01 * np.abs(gradient.grad_theta).max()


SMALL = 2.0 ** -np.arange(4, 8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "relu" not in kind])
def test_realised_change_is_the_predicted_one_to_second_order(kind):
    """|realised(eta) - eta dz| falls with slope 2."""
    flow = make_flow(kind, (3, 6, 5), seed=3)
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    gradient = flow.gradient_flow(readout, **arguments)
    etas = SMALL * 0.01 / max(1.0, np.abs(gradient.grad_theta).max())
    errors = [np.linalg.norm(gradient.realised(eta) - eta * gradient.dz) for eta in etas]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(etas))
    # The third order is smaller by eta |grad| < 1e-3 times constants of growth; rounding, 1e-15, by far smaller.
    assert np.abs(slopes - 2).max() < 0.05
    # And the loss falls at the predicted rate, to the same order.
    falls = []
    for eta in etas:
        model = flow.model.with_vector(flow.model.vector - eta * gradient.grad_theta)
        falls.append(abs(loss_at(flow, model, readout, arguments) - gradient.loss - eta * gradient.loss_rate))
    slopes = np.diff(np.log(falls)) / np.diff(np.log(etas))
    assert np.abs(slopes - 2).max() < 0.05


SMOOTH = [(name, known) for name, known in registered().items() if not has_kinks(known.init(2, 5, 1))]


@pytest.mark.parametrize("name, known", SMOOTH, ids=[name for name, _ in SMOOTH])
def test_the_order_is_two_over_four_decades_of_the_learning_rate(name, known):
    """Every registered network that is smooth as it is drawn.

    From a step by a hundredth of the states, or so small that a twentieth of the change is not predicted: the third
    order is about as much of the second. Of a ten-thousandth of it the second order is above 1e-14 of the states, and
    rounding, 1e-16, little of that.
    """
    rng = np.random.default_rng(5)
    model = known.init(2, 5, 1)
    z0 = 0.1 * rng.normal(size=model.n_states)
    flow = Flow(model, rng.normal(size=(3, 6, 2)), z0, **({"dt": known.dt} if known.is_continuous else {}))
    gradient = flow.gradient_flow(Readout(rng.normal(size=(3, model.n_states))), targets=rng.normal(size=(3, 6, 3)))
    unit = flow.space.norm(gradient.dz)

    def unpredicted(eta):
        return flow.space.norm(gradient.realised(eta) - eta * gradient.dz)

    ladder = 0.01 * flow.space.norm(flow.states) / unit * 2.0 ** -np.arange(20)
    first = next(eta for eta in ladder if unpredicted(eta) <= 0.05 * eta * unit)
    etas = first * np.geomspace(1, 1e-4, 9)
    slopes = np.diff(np.log([unpredicted(eta) for eta in etas])) / np.diff(np.log(etas))
    assert np.abs(slopes - 2).max() < 0.1


def test_realised_is_the_change_of_a_forward_pass():
    flow = make_flow("GRU")
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    gradient = flow.gradient_flow(readout, **arguments)
    moved = Flow(flow.model.with_vector(flow.model.vector - 0.3 * gradient.grad_theta), flow.inputs, flow.z0)
    np.testing.assert_array_equal(gradient.realised(0.3), moved.states - flow.states)
    np.testing.assert_array_equal(gradient.realised(0.0), np.zeros(flow.states.shape))


@pytest.mark.parametrize("eta", [np.nan, np.inf])
def test_wrong_learning_rates(eta):
    flow = make_flow("GRU")
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    with pytest.raises(ValueError, match="eta must be a finite number"):
        flow.gradient_flow(readout, **arguments).realised(eta)


@pytest.mark.filterwarnings("error")
def test_overflow_after_a_step_is_named():
    flow = make_flow("Linear", (2, 200, 3))
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    with pytest.raises(ValueError, match="overflows: the state of trial"):
        flow.gradient_flow(readout, **arguments).realised(1e6)


def test_only_trainable_parameters_move():
    flow = make_flow("GRU", trainable=["bias_hh"])
    readout, arguments = problem(flow, np.random.default_rng(0), "mse")
    whole = make_flow("GRU").gradient_flow(readout, **arguments)
    part = flow.gradient_flow(readout, **arguments).grad_theta
    assert part.shape == (12,)
    np.testing.assert_allclose(part, flow.model.with_trainable(None).unflatten(whole.grad_theta)["bias_hh"], atol=1e-15)
