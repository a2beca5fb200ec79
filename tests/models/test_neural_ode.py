"""Neural ODEs: a field without hidden layers is a linear system, gradients are diffrax's, what is refused."""

import numpy as np
import pytest

import kpref
from kpref.models import LinearSystem, NeuralODE


def test_without_hidden_layers_it_is_a_linear_system():
    linear = LinearSystem.init(2, 4, 0).with_parameters({"bias": np.arange(4.0)})
    p = linear.parameters
    same = NeuralODE(p["weight_ih"], weight_l0=p["weight_hh"], bias_l0=p["bias"])
    rng = np.random.default_rng(0)
    inputs, z0 = rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 4))
    flows = [kpref.Flow(model, inputs, z0, dt=0.1) for model in (linear, same)]
    assert np.abs(flows[0].states - flows[1].states).max() <= 1e-14 * np.abs(flows[0].states).max()
    direction = {name: rng.normal(size=array.shape) for name, array in p.items()}
    names = {"weight_hh": "weight_l0", "bias": "bias_l0"}
    other = {names.get(name, name): value for name, value in direction.items()}
    changes = [flow.D(flow.model.flatten(own)) for flow, own in zip(flows, (direction, other), strict=True)]
    assert np.abs(changes[0] - changes[1]).max() <= 1e-13 * np.abs(changes[0]).max()


@pytest.mark.backends
def test_gradients_are_those_of_diffrax():
    """The direct adjoint differentiates the same steps of the same tableau."""
    jax, diffrax = pytest.importorskip("jax"), pytest.importorskip("diffrax")
    rng = np.random.default_rng(5)
    model = NeuralODE.init(2, 4, [6, 5], 3, gain=1.5)
    model = model.with_vector(model.vector + 0.1 * rng.normal(size=model.n_parameters))
    times, x, z0 = 0.2 * np.arange(6), rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 4))
    flow = kpref.Flow(model, x, z0, times=times, method="heun", input_kind="linear")
    cotangent = rng.normal(size=flow.states.shape)
    found = flow.D.T(cotangent)

    def field(t, z, arguments):
        p, x = arguments
        current = z @ p["weight_l0"].T + diffrax.LinearInterpolation(times, x).evaluate(t) @ p["weight_ih"].T
        for layer in range(1, model.n_layers):
            current = jax.numpy.tanh(current + p[f"bias_l{layer - 1}"]) @ p[f"weight_l{layer}"].T
        return current + p[f"bias_l{model.n_layers - 1}"]

    @jax.jit
    def solve(p):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Heun(), times[0], times[-1], None, z0, args=(p, x.swapaxes(0, 1)),
            saveat=diffrax.SaveAt(t0=True, steps=True), stepsize_controller=diffrax.StepTo(ts=times),
            max_steps=len(times) - 1, adjoint=diffrax.DirectAdjoint(),
        )  # fmt: skip
        return solution.ys.swapaxes(0, 1)

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        states, back = jax.vjp(solve, dict(model.parameters))
        wanted = model.flatten({name: np.asarray(value) for name, value in back(cotangent)[0].items()})
    finally:
        jax.config.update("jax_enable_x64", before)
    assert np.abs(flow.states - np.asarray(states)).max() <= 1e-10 * np.abs(flow.states).max()
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_what_is_refused():
    weights = {"weight_l0": np.ones((5, 3)), "weight_l1": np.ones((3, 5))}
    NeuralODE(np.ones((5, 2)), **weights)
    for given, message in (
        ({"weight_ih": np.ones((3, 2))}, r"weight_ih must have shape \(5, n_inputs\); got \(3, 2\)"),
        ({"weight_ih": np.ones((5, 2)), "inputs": "added"}, r"weight_ih must have shape \(3, n_inputs\); got \(5, 2\)"),
        ({"weight_ih": np.ones((5, 0))}, "weight_ih must have at least one column"),
        ({"weight_ih": np.ones((5, 2)), "inputs": "both"}, "'concatenated' or 'added'; got 'both'"),
        (
            {"weight_ih": np.ones((5, 2)), "weight_l1": np.ones((4, 5))},
            r"weight_l1 must have shape \(3, 5\); got \(4, 5\)",
        ),
        ({"weight_ih": np.ones((5, 2)), "weight_l3": np.ones((3, 3))}, "got weight_l3"),
        ({"weight_ih": np.ones((5, 2)), "bias_l0": np.ones(3)}, r"bias_l0 must have shape \(5,\)"),
        ({"weight_ih": np.ones((5, 2)), "weight_l0": np.ones((0, 3))}, "weight_l0 must not be empty|weight_l1 must"),
    ):
        with pytest.raises(ValueError, match=message):
            NeuralODE(**weights | given)
    with pytest.raises(ValueError, match="the arrays of 1 layers are called weight_l0"):
        NeuralODE(np.ones((5, 2)))
    with pytest.raises(ValueError, match="hidden"):
        NeuralODE.init(2, 3, [0], 0)
