"""Hand-derived linearisations against derivatives of the plain forward map, by complex steps and by differences.

`Model.iterate` and `Model.step` are plain NumPy and know nothing of the linearisation. A complex step of 1e-30 has no
truncation error that float64 could hold, and no cancellation: it is off by rounding alone.
"""

import numpy as np
import pytest
from hypothesis import given
from strategies import KINDS, examples, flows, make_flow

TINY = 1e-30
# Of the largest entry. Both sides carry the roundings of T <= 15 steps of H + n_in <= 15 products, 1e-14 in all, and
# so do the states at which they linearise, times the growth of a perturbation; gains up to 1.8 (strategies.py) leave
# that below a hundredfold. Measured over 4,000 systems with gains up to 2.5: 2e-14.
BOUND = 1e-12


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= BOUND * np.abs(wanted).max()


def by_complex_step(flow, vector=None, start=None):
    """Derivative of the states along a parameter vector, or along initial states."""
    model = flow.model
    moved = (
        {}
        if vector is None
        else {name: model.parameters[name] + 1j * TINY * change for name, change in model.unflatten(vector).items()}
    )
    z0 = flow.z0 if start is None else flow.z0 + 1j * TINY * start
    return model.iterate(z0, flow.inputs, moved).imag / TINY


@pytest.mark.parametrize("kind", KINDS)
def test_propagated_jacobian_is_the_derivative(kind):
    @examples(30)
    @given(flows(kind))
    def check(case):
        flow, rng = case
        vector = rng.normal(size=flow.model.n_parameters)
        assert_close(flow.P(flow.J(vector)), by_complex_step(flow, vector=vector))
        start = rng.normal(size=flow.z0.shape)
        assert_close(flow.D_z0(start), by_complex_step(flow, start=start))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter(kind):
    """Column by column: a parameter of little weight in a random direction is seen as well."""
    flow = make_flow(kind, (2, 4, 3))
    basis = np.eye(flow.model.n_parameters)
    wanted = np.stack([by_complex_step(flow, vector=e).ravel() for e in basis], axis=1)
    assert_close((flow.P @ flow.J).to_dense(), wanted)
    starts = np.eye(flow.z0.size).reshape(-1, *flow.z0.shape)
    assert_close(flow.D_z0.to_dense(), np.stack([by_complex_step(flow, start=e).ravel() for e in starts], axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_at_a_time(kind):
    """A[n] in P^-1 and J_theta[n] in J, each at (z[n], x[n]): no other step of the trajectory hides an error."""

    @examples(15)
    @given(flows(kind, max_states=6))
    def check(case):
        flow, rng = case
        model = flow.model
        before = np.concatenate([flow.z0[:, None], flow.states[:, :-1]], axis=1)
        vector, tensor = rng.normal(size=model.n_parameters), rng.normal(size=flow.states.shape)
        moved = {name: model.parameters[name] + 1j * TINY * change for name, change in model.unflatten(vector).items()}
        assert_close(flow.J(vector), model.step(before, flow.inputs, moved).imag / TINY)
        shifted = np.concatenate([np.zeros_like(tensor[:, :1]), tensor[:, :-1]], axis=1)
        assert_close(tensor - flow.P_inverse(tensor), model.step(before + 1j * TINY * shifted, flow.inputs).imag / TINY)

    check()


# Steps at which truncation, about step**2, dominates rounding, about 1e-16 / step: 1e-4 and 1e-14.
STEPS = 2.0 ** -np.arange(6, 10)


def active(states):
    return states > 0


def assert_second_order(derivative, outputs_at, kinked):
    """Central differences approach the derivative with slope 2, so that it is their limit."""
    errors = []
    for step in STEPS:
        ahead, behind = outputs_at(step), outputs_at(-step)
        if kinked:  # relu is a polynomial between its kinks: between these points it must not cross one
            np.testing.assert_array_equal(active(ahead), active(behind))
        errors.append(np.linalg.norm((ahead - behind) / (2 * step) - derivative))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(STEPS))
    # The next term of the truncation is smaller by step**2 < 3e-4, times constants of growth up to a hundred.
    assert np.abs(slopes - 2).max() < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_central_differences_by_parameters(kind):
    flow = make_flow(kind, (3, 6, 5), seed=3, gain=1.2)
    direction = np.random.default_rng(1).normal(size=flow.model.n_parameters)
    direction /= 4 * np.linalg.norm(direction)  # relu: short enough to cross no kink

    def states(step):
        return flow.model.with_vector(flow.model.vector + step * direction).iterate(flow.z0, flow.inputs)

    assert_second_order(flow.P(flow.J(direction)), states, "relu" in kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith(("Linear", "identity", "relu"))])
def test_central_differences_by_initial_states(kind):
    """Linear, identity and (between kinks) relu networks are affine in z0: their differences have no truncation."""
    flow = make_flow(kind, (3, 6, 5), seed=3, gain=1.2)
    direction = np.random.default_rng(1).normal(size=flow.z0.shape)

    def states(step):
        return flow.model.iterate(flow.z0 + step * direction, flow.inputs)

    assert_second_order(flow.D_z0(direction), states, False)


@pytest.mark.parametrize("kind", ["Linear", "RNN-identity", "LeakyRNN-identity"])
def test_affine_in_initial_states(kind):
    flow = make_flow(kind, (3, 6, 5))
    direction = np.random.default_rng(1).normal(size=flow.z0.shape)
    change = flow.model.iterate(flow.z0 + direction, flow.inputs) - flow.states
    # Cancellation: the difference is off by the roundings of the states, not of the change.
    size = np.abs(flow.states).max() + np.abs(change).max()
    assert np.abs(flow.D_z0(direction) - change).max() <= 1e-13 * size
