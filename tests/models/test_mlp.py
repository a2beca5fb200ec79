"""A perceptron over its layers: the NTK of its last layer is the classical one, by hand and by JAX; what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import kpref
from kpref.models import MLP

TRIALS = 4


def network(seed, layers=3, units=5, **options):
    model = MLP.init(layers, units, seed, **options)
    rng = np.random.default_rng([seed, 1])
    biases = {name: rng.normal(size=units) for name in model.parameters if name.startswith("bias")}
    return model.with_parameters(biases), rng.normal(size=(TRIALS, units))


def last_block(model, data):
    """The NTK between last layers, (B H, B H), in the measure "sum"."""
    flow = kpref.Flow(model, model.depth(len(data)), data, "sum")
    trials, layers, units = flow.states.shape
    whole = flow.NTK.to_dense().reshape(trials, layers, units, trials, layers, units)
    return whole[:, -1, :, :, -1].reshape(trials * units, -1), flow.states[:, -1]


def by_hand(model, data):
    """sum_l (dz_L/da_l(x) dz_L/da_l(x')^T) (z_l(x) . z_l(x') + 1): backwards through the layers."""
    p, states, slopes = model.parameters, [data], []
    for layer in range(model.n_layers):
        z = states[-1]
        a = z @ p[f"weight_l{layer}"].T + p[f"bias_l{layer}"]
        slopes.append(1 / np.cosh(a) ** 2)
        states.append(np.tanh(a) + (z if model.residual else 0))
    units = data.shape[1]
    total, behind = 0.0, np.tile(np.eye(units), (len(data), 1, 1))  # dz_L / dz_(l + 1)
    for layer in reversed(range(model.n_layers)):
        to_current = behind * slopes[layer][:, None, :]
        features = states[layer] @ states[layer].T + 1
        total = total + np.einsum("aik,bjk,ab->aibj", to_current, to_current, features)
        behind = to_current @ p[f"weight_l{layer}"] + (behind if model.residual else 0)
    return total.reshape(len(data) * units, -1), states[-1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
@examples(15)
def test_ntk_of_the_last_layer_by_hand(seed, layers, residual):
    model, data = network(seed, layers, residual=residual)
    for found, wanted in zip(last_block(model, data), by_hand(model, data), strict=True):
        # Four layers of sums of six terms: some hundred roundings of the largest.
        assert np.abs(found - wanted).max() <= 1e-13 * max(1.0, np.abs(wanted).max())


@pytest.mark.backends
@pytest.mark.parametrize("residual", [False, True])
def test_ntk_of_the_last_layer_by_jax(residual):
    jax = pytest.importorskip("jax")
    model, data = network(3, residual=residual)

    def last(parameters, z):
        for layer in range(model.n_layers):
            a = z @ parameters[f"weight_l{layer}"].T + parameters[f"bias_l{layer}"]
            z = jax.numpy.tanh(a) + (z if residual else 0)
        return z

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        parts = jax.jacrev(last)(dict(model.parameters), data)
        jacobian = np.concatenate([np.asarray(part).reshape(data.size, -1) for part in parts.values()], axis=1)
    finally:
        jax.config.update("jax_enable_x64", before)
    found, _ = last_block(model, data)
    wanted = jacobian @ jacobian.T
    assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_zeros_behind_the_data_are_a_first_layer_of_fewer_columns():
    model, data = network(0)
    padded = np.concatenate([data[:, :2], np.zeros((TRIALS, 3))], axis=1)
    found, _ = last_block(model, padded)
    other = model.with_parameters(
        {"weight_l0": np.concatenate([model.parameters["weight_l0"][:, :2], np.ones((5, 3))], 1)}
    )
    assert np.array_equal(found, last_block(other, padded)[0])


def test_kernel_of_layers_is_local_to_units_and_to_layers():
    model, data = network(1)
    flow = kpref.Flow(model, model.depth(TRIALS), data, "sum")
    kernel = flow.K.to_dense().reshape(TRIALS, 3, 5, TRIALS, 3, 5)
    assert kpref.kernel_spectrum(flow).trace == pytest.approx(np.einsum("abcabc", kernel), rel=1e-12)
    apart = ~np.eye(3, dtype=bool)
    assert not kernel.transpose(1, 4, 0, 2, 3, 5)[apart].any()


def test_what_is_refused():
    square = np.eye(3)
    for arrays, message in (
        ({}, "the arrays of 1 layers are called weight_l0, bias_l0 and so on; got none"),
        ({"weight_l0": square, "weight_l2": square}, "got weight_l2"),
        ({"weight_l0": np.ones((3, 2))}, r"weight_l0 must have shape \(3, 3\); got \(3, 2\)"),
        ({"weight_l0": square, "weight_l1": np.eye(2)}, r"weight_l1 must have shape \(3, 3\); got \(2, 2\)"),
        ({"weight_l0": square, "bias_l0": np.ones(2)}, r"bias_l0 must have shape \(3,\)"),
        ({"weight_l0": np.empty((0, 0))}, "H at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            MLP(**arrays)
    with pytest.raises(TypeError, match="residual"):
        MLP(weight_l0=square, residual="yes")
