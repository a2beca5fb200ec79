"""Models: the map, parameters by name and as a vector, what is refused; PyTorch's networks, where it is there."""

import numpy as np
import pytest
from hypothesis import given
from scipy.special import erf, expit
from strategies import KINDS, examples, make_flow, make_model, models

from kpref import Flow, Readout
from kpref.models import GRU, RNN, LeakyRNN, Linear
from kpref.models.nonlinearity import NONLINEARITIES, sigmoid


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# The map


def plain_step(model, z, x):
    """The map once more, unit by unit, with SciPy's functions."""
    p, units = model.parameters, model.n_states
    zero = np.zeros(3 * units)
    if isinstance(model, GRU):
        a = p["weight_hh"] @ z + p.get("bias_hh", zero)
        c = p["weight_ih"] @ x + p.get("bias_ih", zero)
        r = expit(a[:units] + c[:units])
        u = expit(a[units : 2 * units] + c[units : 2 * units])
        return (1 - u) * np.tanh(c[2 * units :] + r * a[2 * units :]) + u * z
    functions = {
        "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "softplus": lambda a: np.logaddexp(0, a),
        "sigmoid": expit, "erf": erf, "identity": lambda a: a,
    }  # fmt: skip
    bias = sum((p[name] for name in ("bias", "bias_ih", "bias_hh") if name in p), np.zeros(units))
    if isinstance(model, LeakyRNN):
        phi = functions[model.nonlinearity.name](z)
        return (1 - model.alpha) * z + model.alpha * (p["weight_hh"] @ phi + p["weight_ih"] @ x + bias)
    phi = functions["identity" if isinstance(model, Linear) else model.nonlinearity.name]
    return phi(p["weight_hh"] @ z + p["weight_ih"] @ x + bias)


@pytest.mark.parametrize("kind", KINDS)
def test_step(kind):
    @examples(15)
    @given(models(kind))
    def check(model):
        rng = np.random.default_rng(1)
        z, x = rng.normal(size=(3, 2, model.n_states)), rng.normal(size=(3, 2, model.n_inputs))
        got = model.step(z, x)
        wanted = np.array(
            [[plain_step(model, *point) for point in zip(*rows, strict=True)] for rows in zip(z, x, strict=True)]
        )
        # Sums of at most 17 products, of numbers below some ten, then functions of slope at most one.
        assert np.abs(got - wanted).max() <= 1e-14 * max(1, np.abs(wanted).max()) * 10

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_flow_runs_the_map(kind):
    flow = make_flow(kind, (40, 7, 5))
    wanted = flow.model.iterate(flow.z0, flow.inputs)
    # The same operations on blocks of other sizes: sums of a dozen terms, seven contracting steps.
    np.testing.assert_allclose(flow.states, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_slopes(name):
    """Derivatives by complex steps, in both tails too: to a relative accuracy, where 1 - tanh(a)**2 would lose it."""
    entry = NONLINEARITIES[name]
    a = np.concatenate([np.linspace(-18, 18, 301), [-300.0, -40.0, 40.0, 300.0, 1e-9, -1e-9]])
    wanted = entry.value(a + 1e-30j).imag / 1e-30
    if name == "erf":
        wanted = 2 / np.sqrt(np.pi) * np.exp(-a * a)  # Faddeeva's series is accurate to 1e-13 of the largest only
    if name == "tanh":
        wanted = 1 / np.cosh(a) ** 2
    # The exponential of a rounded argument is off by |a| u relative, a few hundred roundings here.
    np.testing.assert_allclose(entry.slope(a), wanted, rtol=1e-13, atol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NONLINEARITIES)
def test_extreme_arguments(name):
    """No overflow and no warning, far beyond the arguments at which exp overflows."""
    entry, a = NONLINEARITIES[name], np.array([-1e100, -1e4, -746.0, 0.0, 746.0, 1e4, 1e100])
    assert np.isfinite(entry.value(a)).all()
    assert np.isfinite(entry.slope(a)).all()
    assert sigmoid(np.array(-746.0)) >= 0
    assert sigmoid(np.array(746.0)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_single_points_and_extra_axes(kind, rng):
    model = make_model(kind, 2, 3, 0)
    z, x = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 2))
    many = model.step(z, x)
    assert many.shape == (2, 4, 3)
    # A product with a vector is not the same call of BLAS as one with a matrix; three-term sums.
    np.testing.assert_allclose(model.step(z[1, 2], x[1, 2]), many[1, 2], rtol=0, atol=1e-14)


# Parameters


@pytest.mark.parametrize("kind", KINDS)
def test_vector_and_names(kind):
    @examples(15)
    @given(models(kind))
    def check(model):
        assert model.vector.shape == (model.n_parameters,)
        assert model.n_parameters == sum(model.parameters[name].size for name in model.trainable)
        assert list(model.trainable) == [name for name in model.parameters if name in model.trainable]
        vector = np.random.default_rng(0).normal(size=model.n_parameters)
        moved = model.with_vector(vector)
        np.testing.assert_array_equal(moved.vector, vector)
        assert moved.trainable == model.trainable
        for name, value in model.parameters.items():
            if name not in model.trainable:
                np.testing.assert_array_equal(moved.parameters[name], value)
        start = 0
        for name in model.trainable:  # raveled in C order and joined in declared order
            size = model.parameters[name].size
            np.testing.assert_array_equal(moved.parameters[name].ravel(), vector[start : start + size])
            start += size
        np.testing.assert_array_equal(model.flatten(model.unflatten(vector)), vector)
        zero = np.zeros((1, model.n_states)), np.ones((1, model.n_inputs))
        np.testing.assert_array_equal(model.with_vector(model.vector).step(*zero), model.step(*zero))

    check()


@pytest.mark.parametrize("make", [RNN, GRU, LeakyRNN, Linear])
def test_declared_order(make):
    assert tuple(make.init(2, 3, 0).parameters)[:2] == ("weight_ih", "weight_hh")


def test_parameters_cannot_be_changed_behind_the_model(rng):
    weight = rng.normal(size=(3, 3))
    model = RNN(weight, weight)
    kept = model.parameters["weight_hh"].copy()
    weight[:] = 0
    np.testing.assert_array_equal(model.parameters["weight_hh"], kept)
    for value in model.parameters.values():
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_replacing_keeps_the_rest(kind):
    model = make_model(kind, 2, 3, 0, trainable=["weight_hh"])
    moved = model.with_parameters({"weight_ih": np.zeros_like(model.parameters["weight_ih"])})
    assert type(moved) is type(model)
    assert moved.trainable == ("weight_hh",)
    assert moved._options() == model._options()
    np.testing.assert_array_equal(moved.parameters["weight_hh"], model.parameters["weight_hh"])
    assert model.with_trainable(None).trainable == tuple(model.parameters)


@pytest.mark.parametrize("make", [RNN, GRU, LeakyRNN, Linear])
def test_initialisation(make):
    one, same, other = make.init(2, 300, 7, gain=3.0), make.init(2, 300, 7, gain=3.0), make.init(2, 300, 8, gain=3.0)
    np.testing.assert_array_equal(one.vector, same.vector)
    assert (one.parameters["weight_hh"] != other.parameters["weight_hh"]).all()
    # The standard deviation of 90,000 or more normal numbers is known to 1 / sqrt(2 * 90,000) = 0.24 %: five of those.
    assert one.parameters["weight_hh"].std() * np.sqrt(300) == pytest.approx(3.0, rel=0.012)
    assert one.parameters["weight_ih"].std() * np.sqrt(2) == pytest.approx(1.0, rel=0.15)  # five of 600 numbers
    assert all((value == 0).all() for value in one.parameters.values() if value.ndim == 1)
    assert all(value.ndim == 2 for value in make.init(2, 4, 7, bias=False).parameters.values())


# Bad input


@pytest.mark.parametrize("make, rows", [(RNN, 3), (LeakyRNN, 3), (Linear, 3), (GRU, 9)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(make, rows, bad):
    weights = {"weight_ih": np.ones((rows, 2)), "weight_hh": np.ones((rows, 3))}
    for name in weights:
        broken = weights[name].copy()
        broken[2, 1] = bad
        with pytest.raises(ValueError, match=rf"{name} holds {bad} at index \(2, 1\)"):
            make(**weights | {name: broken})
        with pytest.raises(ValueError, match=name):
            make(**weights).with_parameters({name: broken})


@pytest.mark.parametrize(
    "make, arguments, expected, given_shape",
    [
        (RNN, {"weight_ih": (4, 2), "weight_hh": (3, 3)}, r"\(3, 2\)", r"\(4, 2\)"),
        (RNN, {"weight_ih": (3, 2), "weight_hh": (2, 3)}, r"\(3, 3\)", r"\(2, 3\)"),
        (RNN, {"weight_ih": (3, 2), "weight_hh": (3,)}, r"\(H, H\)", r"\(3,\)"),
        (RNN, {"weight_ih": (3,), "weight_hh": (3, 3)}, r"\(H, n_inputs\)", r"\(3,\)"),
        (RNN, {"weight_ih": (3, 2), "weight_hh": (3, 3), "bias_ih": (4,)}, r"\(3,\)", r"\(4,\)"),
        (RNN, {"weight_ih": (3, 2), "weight_hh": (3, 3), "bias_hh": (3, 1)}, r"\(3,\)", r"\(3, 1\)"),
        (GRU, {"weight_ih": (9, 2), "weight_hh": (3, 3)}, r"\(9, 3\)", r"\(3, 3\)"),
        (GRU, {"weight_ih": (3, 2), "weight_hh": (9, 3)}, r"\(9, 2\)", r"\(3, 2\)"),
        (GRU, {"weight_ih": (9, 2), "weight_hh": (9, 3), "bias_ih": (3,)}, r"\(9,\)", r"\(3,\)"),
        (GRU, {"weight_ih": (9, 2), "weight_hh": (0, 0)}, r"\(3 \* H, H\) with H at least 1", r"\(0, 0\)"),
        (Linear, {"weight_ih": (0, 2), "weight_hh": (0, 0)}, "H at least 1", r"\(0, 0\)"),
        (LeakyRNN, {"weight_ih": (3, 0), "weight_hh": (3, 3)}, "n_inputs at least 1", r"\(3, 0\)"),
    ],
)
def test_shapes_that_do_not_match(make, arguments, expected, given_shape):
    with pytest.raises(ValueError, match=f"(weight|bias).*{expected}.*got {given_shape}"):
        make(**{name: np.ones(shape) for name, shape in arguments.items()})


def test_what_is_not_an_array_of_numbers():
    square = np.eye(2)
    for wrong in (square.astype(complex), np.array([["a", "b"], ["c", "d"]]), np.full((2, 2), None)):
        with pytest.raises(ValueError, match="weight_hh must be an array of"):
            RNN(square, wrong)
    with pytest.raises(ValueError, match="weight_hh"):
        RNN(None, None)
    with pytest.raises(ValueError, match="weight_ih"):
        GRU(None, np.ones((3, 1)))


def test_options_that_do_not_exist():
    square = np.eye(2)
    with pytest.raises(ValueError, match="nonlinearity must be one of tanh, relu, identity; got 'softplus'"):
        RNN(square, square, nonlinearity="softplus")
    with pytest.raises(ValueError, match="nonlinearity"):
        LeakyRNN(square, square, nonlinearity="gelu")
    for alpha in (0, -0.1, 1.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="alpha"):
            LeakyRNN(square, square, alpha=alpha)
    for sizes in ((0, 3), (3, 0), (-1, 2)):
        with pytest.raises(ValueError, match="at least 1"):
            GRU.init(*sizes, seed=0)
    with pytest.raises(ValueError, match="gain"):
        GRU.init(2, 3, seed=0, gain=np.nan)


def test_trainable_names():
    square = np.eye(2)
    assert RNN(square, square, trainable=(name for name in ["weight_hh"])).trainable == ("weight_hh",)
    assert RNN(square, square, trainable=["weight_hh", "weight_ih", "weight_hh"]).trainable == (
        "weight_ih",
        "weight_hh",
    )
    for wrong in ([], ["bias_ih"], ["weight"], ["weight_hh", "nonsense"]):
        with pytest.raises(ValueError, match="trainable must name some of weight_ih, weight_hh"):
            RNN(square, square, trainable=wrong)
    with pytest.raises(TypeError, match="sequence"):
        RNN(square, square, trainable="weight_hh")


def test_vectors_and_names_that_do_not_match():
    model = RNN(np.eye(2), np.eye(2))
    for shape in ((7,), (9,), (8, 1), ()):
        with pytest.raises(ValueError, match=r"\(8,\)"):
            model.with_vector(np.zeros(shape))
    with pytest.raises(ValueError, match="weight_xx"):
        model.with_parameters({"weight_xx": np.eye(2)})
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        model.with_parameters({"weight_hh": np.eye(3)[:2]})


# PyTorch, the source of the layouts


def torch_twin(torch, model):
    name = "GRU" if isinstance(model, GRU) else "RNN"
    options = {"nonlinearity": model.nonlinearity.name} if name == "RNN" else {}
    bias = "bias_ih" in model.parameters
    twin = getattr(torch.nn, name)(model.n_inputs, model.n_states, batch_first=True, bias=bias, **options).double()
    with torch.no_grad():
        for key, value in model.parameters.items():
            getattr(twin, f"{key}_l0").copy_(torch.tensor(value))
    return twin


@pytest.mark.backends
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["GRU", "RNN-tanh", "RNN-relu"])
def test_like_torch(kind, bias, rng):
    """States, and the gradient of a loss by autograd, in float64."""
    torch = pytest.importorskip("torch")
    model = make_model(kind, 3, 7, 0, bias=bias)
    inputs, z0, targets = rng.normal(size=(4, 9, 3)), rng.normal(size=(4, 7)), rng.normal(size=(4, 9, 2))
    readout = Readout(rng.normal(size=(2, 7)), rng.normal(size=2))
    flow = Flow(model, inputs, z0)
    twin = torch_twin(torch, model)
    states, _ = twin(torch.tensor(inputs), torch.tensor(z0)[None])
    # 1e-14 of the largest: nine contracting steps of ten-term sums, each off by about 1e-15.
    np.testing.assert_allclose(flow.states, states.detach().numpy(), rtol=0, atol=1e-14 * np.abs(flow.states).max())

    outputs = states @ torch.tensor(readout.weight).T + torch.tensor(readout.bias)
    loss = torch.nn.functional.mse_loss(outputs, torch.tensor(targets))
    loss.backward()
    wanted = np.concatenate([getattr(twin, f"{name}_l0").grad.numpy().ravel() for name in model.trainable])
    gradient = flow.gradient_flow(readout, targets=targets)
    assert gradient.loss == pytest.approx(float(loss.detach()), rel=1e-14)
    # The same sums over 36 points of nine backward steps.
    np.testing.assert_allclose(gradient.grad_theta, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
