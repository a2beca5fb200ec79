"""One set of laws for every network that states a program, a map or a field: a new one is tested by registering it."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import kpref
from kpref.kernels import reference
from kpref.models.base import Field
from kpref.models.registry import registered, registration_of
from kpref.models.step import StepModel

MODELS = {
    " ".join([known.name, *(f"{key}={value}" for key, value in variant.items())]): (known, variant)
    for known in registered().values()
    if issubclass(known.kind, StepModel)
    for variant in known.variants
}
NAMES = pytest.mark.parametrize("name", MODELS)
MAPS = pytest.mark.parametrize("name", [name for name, (known, _) in MODELS.items() if not known.is_continuous])
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
STEP = 1e-30  # complex steps have no cancellation: any size will do


def random_flow(name, sizes, **options):
    inputs, units, trials, steps, seed = sizes
    rng = np.random.default_rng(seed)
    known, variant = MODELS[name]
    model = known.init(inputs, units, seed, **variant)
    model = model.with_vector(model.vector + 0.3 * rng.normal(size=model.n_parameters))
    z0 = model.start + 0.2 * rng.normal(size=(trials, model.n_states))
    steps += known.is_continuous  # a grid has one time more than steps
    return flow_of(model, rng.normal(size=(trials, steps, inputs)), z0, **options), rng


def flow_of(model, inputs, z0, **options):
    grid = {"dt": registration_of(model).dt} if isinstance(model, Field) else {}
    return kpref.Flow(model, inputs, z0=z0, **grid, **options)


def plain_states(flow, z0, parameters=None):
    """The trajectory by the plain function, real or complex: for fields the classical Runge-Kutta method, spelt out."""
    model, x = flow.model, flow.inputs.swapaxes(0, 1)
    if not isinstance(model, Field):
        return model.iterate(z0, flow.inputs, parameters)
    states, h = [z0], flow.solution.h[0]
    for held in x[:-1]:
        z = states[-1]
        first = model.velocity(z, held, parameters)
        second = model.velocity(z + h / 2 * first, held, parameters)
        third = model.velocity(z + h / 2 * second, held, parameters)
        fourth = model.velocity(z + h * third, held, parameters)
        states.append(z + h / 6 * (first + 2 * second + 2 * third + fourth))
    return np.stack(states, axis=1)


def roundings(flow, image):
    """An entry ends sums of at most `H + n_in + 4` terms an evaluation: 8 sqrt(k) u of the largest for k in all."""
    evaluations = flow.space.shape[1] * (4 if isinstance(flow.model, Field) else 1)
    terms = evaluations * (flow.model.n_states + flow.model.n_inputs + 4)
    return 8 * np.sqrt(terms) * np.finfo(float).eps * max(1.0, np.abs(image).max())


@NAMES
@examples(20)
@given(SIZES)
def test_derivatives_agree_with_complex_steps(name, sizes):
    flow, rng = random_flow(name, sizes)
    model, direction = flow.model, rng.normal(size=flow.model.n_parameters)
    moved = model.unflatten(model.vector + 1j * STEP * direction)
    wanted = plain_states(flow, flow.z0, moved).imag / STEP
    allowed = 10 * roundings(flow, wanted)  # the forward pass at complex parameters rounds as often
    assert np.abs(flow.D(direction) - wanted).max() <= allowed
    propagated = flow.stage.P(flow.stage.J(direction)) if isinstance(model, Field) else flow.P(flow.J(direction))
    assert np.abs(propagated - wanted).max() <= allowed
    start = rng.normal(size=flow.z0.shape)
    wanted = plain_states(flow, flow.z0 + 1j * STEP * start).imag / STEP
    assert np.abs(flow.D_z0(start) - wanted).max() <= 10 * roundings(flow, wanted)


@NAMES
@examples(20)
@given(SIZES)
def test_dot_tests_and_inverses(name, sizes):
    flow, rng = random_flow(name, sizes)
    inverse = () if isinstance(flow.model, Field) else (flow.P_inverse,)
    for op in (flow.P, *inverse, flow.J, flow.D, flow.D_z0, flow.K, flow.NTK):
        x, y = rng.normal(size=op.shape_in), rng.normal(size=op.shape_out)
        image, back = op(x), op.T(y)
        scale = np.linalg.norm(image) * np.linalg.norm(y) + np.linalg.norm(x) * np.linalg.norm(back)
        assert abs(np.vdot(y, image) - np.vdot(back, x)) <= 1e-13 * max(scale, 1e-300)
    q = rng.normal(size=flow.states.shape)
    for undo in inverse:
        assert np.abs(undo(flow.P(q)) - q).max() <= roundings(flow, flow.P(q))


@MAPS
def test_compiled_products_agree_with_the_plain_ones(name):
    """Several blocks of trials, so that D takes one sweep and several chunks."""
    flow, rng = random_flow(name, (2, 4, 70, 9, 3))
    form = flow.linearization
    vectors, q = rng.normal(size=(1, form.n_parameters)), rng.normal(size=(1, *flow.states.shape))
    plain = reference.tangent(form, reference.parameter_product(form, vectors))
    assert np.abs(flow.D.apply(vectors) - plain).max() <= roundings(flow, plain)
    plain = reference.parameter_transpose(form, reference.adjoint(form, q))
    assert np.abs(flow.D.T.apply(q) - plain).max() <= 100 * roundings(flow, plain)  # sums over 630 points besides


@NAMES
def test_a_trainable_subset_picks_columns(name):
    flow, rng = random_flow(name, (2, 2, 2, 3, 1))
    whole = flow.D.to_dense()
    start = 0
    for parameter in flow.model.trainable:
        size = flow.model.parameters[parameter].size
        part = flow_of(flow.model.with_trainable([parameter]), flow.inputs, flow.z0).D.to_dense()
        assert np.abs(part - whole[:, start : start + size]).max() <= roundings(flow, whole)
        start += size


@NAMES
def test_zero_weights_and_one_of_everything(name):
    flow, _ = random_flow(name, (1, 1, 1, 1, 0))
    zeros = {name: np.zeros_like(array) for name, array in flow.model.parameters.items() if array.ndim == 2}
    still = flow_of(flow.model.with_parameters({**flow.model.parameters, **zeros}), flow.inputs, None)
    assert np.isfinite(still.NTK(np.ones(still.states.shape))).all()


@NAMES
def test_single_precision(name):
    """P alone: all sweeps run the same operations, and each takes seconds to compile for another type."""
    flow, rng = random_flow(name, (2, 4, 5, 8, 2))
    single = flow_of(flow.model, flow.inputs, flow.z0, dtype=np.float32)
    q = rng.normal(size=flow.states.shape)
    wanted, found = flow.P(q), single.P(q)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= roundings(flow, wanted) * 2.0**29 * 50  # u is 2^29 times as large


@NAMES
def test_the_same_bits_for_any_number_of_threads(name):
    flow, rng = random_flow(name, (2, 6, 70, 8, 4))
    q, seen = rng.normal(size=flow.states.shape), set()
    before = kpref.get_num_threads()
    try:
        for threads in (1, 2, 4):
            kpref.set_num_threads(threads)
            seen.add(flow.NTK(q).tobytes() + flow.K(q).tobytes() + flow.P(q).tobytes())
    finally:
        kpref.set_num_threads(before)
    assert len(seen) == 1


@NAMES
def test_what_is_registered_describes_itself(name):
    """Parts of the state, what readouts see, and the class, are those of the registration; the model can be remade."""
    flow, _ = random_flow(name, (2, 3, 1, 1, 5))
    model, known = flow.model, registration_of(flow.model)
    assert name.partition(" ")[0] == known.name
    assert sorted(column for part in model.parts.values() for column in range(model.n_states)[part]) == list(
        range(model.n_states)
    )
    assert model.observed in model.parts.values()
    remade = known.kind(**model.parameters, **model.options, trainable=model.trainable)
    assert np.array_equal(flow_of(remade, flow.inputs, flow.z0).states, flow.states)
    assert all(number > 0 for number in model.multiplications)


@NAMES
def test_leading_axes_are_broadcast(name):
    """One state under many inputs and many states under one input are the same as each by itself."""
    flow, rng = random_flow(name, (2, 3, 1, 1, 5))
    model, x = flow.model, rng.normal(size=(2, 4, 2))
    z = model.start + 0.2 * rng.normal(size=(2, 1, model.n_states))
    found = model.evaluate(z, x)
    assert found.shape == (2, 4, model.n_states)
    for b, t in np.ndindex(2, 4):  # products with vectors and with matrices round apart; sums of at most 30 terms
        wanted = model.evaluate(z[b, 0], x[b, t])
        np.testing.assert_allclose(found[b, t], wanted, rtol=0, atol=1e-13 * max(1, np.abs(wanted).max()))
    with pytest.raises(ValueError, match=r"leading axes that fit each other; got .* and \(3, 2\)"):
        model.evaluate(np.zeros((2, model.n_states)), np.zeros((3, 2)))


@NAMES
def test_models_pickle_and_copy(name):
    flow, _ = random_flow(name, (2, 3, 2, 4, 5))
    for other in (pickle.loads(pickle.dumps(flow.model)), copy.deepcopy(flow.model)):
        assert np.array_equal(flow_of(other, flow.inputs, flow.z0).states, flow.states)


def test_low_rank_keeps_units_apart_where_the_right_vectors_are_fixed():
    flow, _ = random_flow("low-rank", (2, 5, 3, 6, 7))
    frozen = kpref.Flow(flow.model.with_trainable(["m", "weight_ih", "bias"]), flow.inputs)
    exact = kpref.kernel_spectrum(frozen)
    assert exact.trace == pytest.approx(np.trace(frozen.K.to_dense()), rel=1e-12)


def test_a_readout_of_observed_states_gives_the_gradient():
    """An LSTM is read out from h: the gradient of the loss against a complex step of the plain loss."""
    flow, rng = random_flow("lstm", (2, 3, 4, 5, 8))
    readout = kpref.Readout(rng.normal(size=(2, 3)), rng.normal(size=2))
    targets = rng.normal(size=(4, 5, 2))
    descent = flow.gradient_flow(readout, targets)
    assert not descent.err[:, :, 3:].any()
    direction = rng.normal(size=flow.model.n_parameters)
    moved = flow.model.unflatten(flow.model.vector + 1j * STEP * direction)
    states = flow.model.iterate(flow.z0, flow.inputs, moved)
    residual = states[:, :, :3] @ readout.weight.T + readout.bias - targets
    slope = np.square(residual).mean().imag / STEP
    assert descent.grad_theta @ direction == pytest.approx(slope, rel=1e-10)


@NAMES
def test_what_acts_on_operators_alone_works(name):
    flow, _ = random_flow(name, (2, 2, 3, 6, 9))
    root = flow.space.scale(np.ones(flow.space.shape), 0.5).reshape(-1)
    dense, propagator = (root[:, None] * op.to_dense() / root for op in (flow.NTK, flow.P))
    largest = np.linalg.eigvalsh(dense)[-1]
    assert np.abs(dense - dense.T).max() <= 1e-12 * largest
    assert kpref.eigh(flow.NTK, 2).values[0] == pytest.approx(largest, rel=1e-9)
    assert float(kpref.trace(flow.NTK, probes=1000)) == pytest.approx(np.trace(dense), rel=1e-10)
    norm = np.sqrt(np.linalg.eigvalsh(propagator.T @ propagator)[-1])
    assert float(kpref.operator_norm(flow.P)) == pytest.approx(norm, rel=1e-9)
    exponents = kpref.lyapunov_exponents(flow)
    assert exponents.values.shape == (3, flow.model.n_states)
    if isinstance(flow.model, Field):
        return  # what a step does to volumes is the method's
    steps = step_jacobians(flow)
    unread = np.count_nonzero(~steps.any(axis=(0, 1, 2)))  # what the next step does not look at vanishes in one
    if unread:
        assert (exponents.values[:, -unread:] <= np.log(10 * np.finfo(float).eps)).all()
        return
    determinants = np.linalg.slogdet(steps).logabsdet.mean(axis=0)
    assert exponents.values.sum(axis=1) == pytest.approx(determinants, rel=1e-6)


def step_jacobians(flow):
    """A of every step and trial, (T, B, H, H), by complex steps."""
    starts = np.concatenate([flow.z0[None], flow.states.swapaxes(0, 1)[:-1]])
    x = flow.inputs.swapaxes(0, 1)
    columns = [
        flow.model.step(starts + 1j * STEP * np.eye(flow.model.n_states)[k], x).imag / STEP
        for k in range(flow.model.n_states)
    ]
    return np.stack(columns, axis=-1)


@pytest.mark.backends
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_states_and_gradients_agree_with_torch(kind, layers):
    torch = pytest.importorskip("torch")
    torch.manual_seed(layers)
    module = getattr(torch.nn, kind.upper())(3, 5, num_layers=layers, batch_first=True).double()
    parameters = {name: value.detach().numpy() for name, value in module.named_parameters()}
    model = kpref.models.Stacked(kind, **parameters)
    inputs = torch.randn(4, 7, 3, dtype=torch.float64)
    outputs = module(inputs)[0]
    flow = kpref.Flow(model, inputs.numpy())
    assert np.abs(flow.states[:, :, model.observed] - outputs.detach().numpy()).max() <= 1e-13
    cotangent = np.random.default_rng(layers).normal(size=outputs.shape)
    outputs.backward(torch.from_numpy(cotangent))
    whole = np.zeros(flow.states.shape)
    whole[:, :, model.observed] = cotangent
    wanted = np.concatenate([value.grad.numpy().ravel() for _, value in module.named_parameters()])
    assert np.abs(flow.D.T(whole) - wanted).max() <= 1e-12 * np.abs(wanted).max()
