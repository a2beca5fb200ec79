"""Products of the user's with Jacobians: the operators of the models that they repeat, every wrong entry named."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples

import kpref
from kpref import Flow
from kpref.models import RNN, Rate, UserField, UserMap
from kpref.oracle import dot_test

H, N_IN = 3, 2
SIDES = {"state": ("state_product", "state_transpose"), "parameter": ("parameter_product", "parameter_transpose")}

# One network, as a map and as a field: F = c z + phi(W z + U x + b).


def leaky(decay):
    """F, and the four products with its Jacobians."""

    def network(z, x, p):
        return decay * z + np.tanh(z @ p["W"].T + x @ p["U"].T + p["b"])

    def gain(z, x, p):
        return 1 - np.tanh(z @ p["W"].T + x @ p["U"].T + p["b"]) ** 2

    def state_product(z, x, p, v):
        return decay * v + gain(z, x, p) * (v @ p["W"].T)

    def state_transpose(z, x, p, w):
        return decay * w + (gain(z, x, p) * w) @ p["W"]

    def parameter_product(z, x, p, changes):
        return gain(z, x, p) * (z @ changes["W"].T + x @ changes["U"].T + changes["b"])

    def parameter_transpose(z, x, p, w):
        g = gain(z, x, p) * w
        return {"W": g.T @ z, "U": g.T @ x, "b": g.sum(axis=0)}

    products = (state_product, state_transpose, parameter_product, parameter_transpose)
    return network, {function.__name__: function for function in products}


NETWORK, PRODUCTS = leaky(0.3)


def network_of_one(z, x, p):
    return 0.3 * z + np.tanh(p["W"] @ z + p["U"] @ x + p["b"])


def gain_of_one(z, x, p):
    return 1 - np.tanh(p["W"] @ z + p["U"] @ x + p["b"]) ** 2


PRODUCTS_OF_ONE = {
    "state_product": lambda z, x, p, v: 0.3 * v + gain_of_one(z, x, p) * (p["W"] @ v),
    "state_transpose": lambda z, x, p, w: 0.3 * w + p["W"].T @ (gain_of_one(z, x, p) * w),
    "parameter_product": lambda z, x, p, c: gain_of_one(z, x, p) * (c["W"] @ z + c["U"] @ x + c["b"]),
    "parameter_transpose": lambda z, x, p, w: (
        lambda g: {"W": np.outer(g, z), "U": np.outer(g, x), "b": g}
    )(gain_of_one(z, x, p) * w),
}  # fmt: skip


@pytest.fixture(scope="module")
def parameters():
    rng = np.random.default_rng(0)
    return {"W": rng.normal(size=(H, H)), "U": rng.normal(size=(H, N_IN)), "b": rng.normal(size=H)}


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 6, N_IN)), rng.normal(size=(4, H))


def some_of(names):
    return {name: PRODUCTS[name] for name in names}


def assert_same_operators(got, wanted, names, bound):
    for name in names:
        one, other = getattr(got, name), getattr(wanted, name)
        dense = other.to_dense()
        assert np.abs(one.to_dense() - dense).max() <= bound * np.abs(dense).max(), name
        # The transpose is another function of the user's: the two agree to the roundings of sums of 100 terms.
        assert dot_test(one).error < 100 * np.finfo(one.dtype).eps


# The same operators, whichever products there are


@pytest.mark.parametrize(
    "names",
    [
        (),
        SIDES["state"],
        SIDES["parameter"],
        tuple(PRODUCTS),
        ("state_product",),
        ("state_transpose", "parameter_product"),
    ],
    ids=["nothing", "A", "J", "A and J", "A v", "A^T w and J v"],
)
def test_network_again(names, parameters, trials):
    """torch's RNN, whose operators are compiled: the same to the roundings of 6 steps of 3 x 3 matrices."""
    inputs, z0 = trials
    network, products = leaky(0.0)
    model = RNN(parameters["U"], parameters["W"], parameters["b"])
    mine = UserMap(
        network, H, N_IN, parameters={"U": parameters["U"], "W": parameters["W"], "b": parameters["b"]},
        **{name: products[name] for name in names},
    )  # fmt: skip
    assert mine.products == {side for side, both in SIDES.items() if set(both) <= set(names)}
    assert mine.derivative_error < 1e-14
    got, wanted = Flow(mine, inputs, z0), Flow(model, inputs, z0)
    np.testing.assert_allclose(got.states, wanted.states, rtol=1e-13)
    operators = ("P", "P_inverse", "J", "K", "D", "NTK", "D_z0")
    assert_same_operators(got, wanted, operators, 1e-13)
    assert_same_operators(Flow(mine, inputs, z0, dtype=np.float32), wanted, operators, 1e-5)


@pytest.mark.parametrize("names", [SIDES["state"], tuple(PRODUCTS)], ids=["A", "A and J"])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_field_again(names, method, parameters, trials):
    inputs, z0 = trials
    network, products = leaky(-1.0)
    mine = UserField(network, H, N_IN, parameters=parameters, **{name: products[name] for name in names})
    dense = UserField(network, H, N_IN, parameters=parameters)
    got, wanted = (Flow(model, inputs, z0, dt=0.1, method=method) for model in (mine, dense))
    assert_same_operators(got, wanted, ("P", "J", "K", "D", "NTK", "D_z0"), 1e-13)
    assert_same_operators(got.stage, wanted.stage, ("P", "J", "K"), 1e-13)
    q = np.random.default_rng(2).normal(size=got.states.shape)
    for kind in ("discrete", "continuous"):
        one, other = got.adjoint(kind), wanted.adjoint(kind)
        assert np.abs(one(q) - other(q)).max() <= 1e-13 * np.abs(other(q)).max()
        assert dot_test(one).error < 1e-14


def test_state_of_each_by_itself(parameters, trials):
    """Functions of one state, whose transposed products with J are summed over states for them."""
    inputs, z0 = trials
    one = UserMap(network_of_one, H, N_IN, parameters=parameters, vectorized=False, **PRODUCTS_OF_ONE)
    many = UserMap(NETWORK, H, N_IN, parameters=parameters, **PRODUCTS)
    assert_same_operators(Flow(one, inputs, z0), Flow(many, inputs, z0), ("P", "J", "NTK"), 1e-13)


@pytest.mark.parametrize("model", [UserMap, UserField])
def test_what_needs_matrices_has_them_from_products(model, parameters, trials):
    """Spectra, traces, averages, exponents: those of the Jacobians, which another model differences."""
    inputs, z0 = trials
    time = {"dt": 0.1} if model is UserField else {}
    flows = [
        Flow(model(NETWORK, H, N_IN, parameters=parameters, **given), inputs, z0, **time) for given in (PRODUCTS, {})
    ]
    for what in (
        lambda flow: kpref.kernel_spectrum(flow).values,
        lambda flow: kpref.eigh(flow.NTK, k=4).values,
        lambda flow: kpref.svd(flow.P, k=3).values,
        lambda flow: float(kpref.trace(flow.K)),
        lambda flow: float(kpref.spectra.adjoint_trace(flow.D)),
        lambda flow: kpref.spectra.ntk_trace_exact(flow),
        lambda flow: kpref.spectra.propagator_gram_trace(flow),
        lambda flow: kpref.average(flow.K, "unit").to_dense(),
        lambda flow: kpref.partial_trace(flow.K, "unit").to_dense(),
        lambda flow: kpref.schmidt_spectrum(flow).effective_rank,
        lambda flow: kpref.lyapunov_exponents(flow).values,
    ):  # fmt: skip
        one, other = (np.asarray(getattr(value := what(flow), "value", value)) for flow in flows)
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-11 * np.abs(other).max()


def test_trials_of_different_lengths(parameters, trials):
    """A trial that ends early does not know of the others, with products as without."""
    inputs, z0 = trials
    mine = UserMap(NETWORK, H, N_IN, parameters=parameters, **PRODUCTS)
    flow = Flow(mine, inputs, z0, measure="sum", lengths=[6, 2, 4, 6])
    short = Flow(mine, inputs[1:2, :2], z0[1:2], measure="sum")
    q = np.random.default_rng(0).normal(size=(4, 6, H))
    np.testing.assert_allclose(flow.P(q)[1, :2], short.P(q[1:2, :2])[0], rtol=1e-13)
    assert (flow.P(q)[1, 2:] == 0).all()
    g = np.zeros_like(q)
    g[1, :2] = q[1, :2]
    np.testing.assert_allclose(flow.D.T(g), short.D.T(q[1:2, :2]), rtol=1e-13)


def test_gradient_and_learning(parameters, trials):
    """The gradient of a loss against complex steps of the plain forward pass."""
    inputs, z0 = trials
    mine = UserMap(NETWORK, H, N_IN, parameters=parameters, **PRODUCTS)
    readout, targets = kpref.Readout(np.ones((1, H)), np.zeros(1)), np.zeros((4, 6, 1))
    descent = Flow(mine, inputs, z0).gradient_flow(readout, targets)

    def loss(vector):
        return (mine.iterate(z0, inputs, mine.unflatten(vector)).sum(axis=2) ** 2).mean()

    unit = np.eye(mine.n_parameters)
    wanted = [loss(mine.vector + 1e-30j * e).imag / 1e-30 for e in unit]
    np.testing.assert_allclose(descent.grad_theta, wanted, rtol=1e-12)


def test_only_trained_parameters_are_asked_for(parameters, trials):
    seen = []

    def parameter_product(z, x, p, changes):
        seen.append(set(changes))
        return PRODUCTS["parameter_product"](z, x, p, {"W": np.zeros((H, H)), "b": np.zeros(H), **changes})

    def parameter_transpose(z, x, p, w):
        return {"U": PRODUCTS["parameter_transpose"](z, x, p, w)["U"]}

    products = {"parameter_product": parameter_product, "parameter_transpose": parameter_transpose}
    mine = UserMap(NETWORK, H, N_IN, parameters=parameters, trainable=["U"], **products)
    wanted = UserMap(NETWORK, H, N_IN, parameters=parameters, trainable=["U"])
    assert_same_operators(Flow(mine, *trials), Flow(wanted, *trials), ("J", "NTK"), 1e-13)
    assert seen
    assert set().union(*seen) == {"U"}
    moved = mine.with_vector(np.zeros(mine.n_parameters))
    assert moved.products == {"parameter"}
    with pytest.raises(ValueError, match="'W' is missing"):
        mine.with_trainable(None)


def test_functions_run_in_the_thread_that_calls(parameters):
    threads = set()

    def noted(function):
        def call(*args):
            threads.add(threading.get_ident())
            return function(*args)

        return call

    mine = UserMap(noted(NETWORK), H, N_IN, parameters=parameters, **{k: noted(f) for k, f in PRODUCTS.items()})
    flow = Flow(mine, np.ones((200, 20, N_IN)))
    flow.NTK(np.ones(flow.states.shape))
    flow.P_inverse.T(np.ones(flow.states.shape))
    kpref.trace(flow.NTK, seed=0)
    kpref.kernel_spectrum(flow)
    kpref.lyapunov_exponents(flow)
    assert threads == {threading.get_ident()}


def test_buffers_that_are_used_again(parameters, trials):
    """All products fill and return the same arrays at each call."""
    kept = {}

    def reused(function):
        def call(*args):
            value = function(*args)
            if isinstance(value, dict):
                return {key: keep((function, key), part) for key, part in value.items()}
            return keep(function, value)

        return call

    def keep(name, value):
        buffer = kept.setdefault((name, value.shape), np.empty_like(value))
        buffer[...] = value
        return buffer

    one = UserMap(NETWORK, H, N_IN, parameters=parameters, **{name: reused(f) for name, f in PRODUCTS.items()})
    many = UserMap(NETWORK, H, N_IN, parameters=parameters, **PRODUCTS)
    assert_same_operators(Flow(one, *trials), Flow(many, *trials), ("P", "P_inverse", "J", "NTK"), 1e-15)


def test_large_models_store_points_only(parameters):
    """Forty trials of 30 steps of a network of 60 states and 5,000 parameters: nothing of H^2 or H M a point."""
    rng = np.random.default_rng(0)
    units, inputs = 60, rng.normal(size=(40, 30, 2))
    large = {"W": rng.normal(size=(units, units)) / units**0.5, "U": rng.normal(size=(units, 2)), "b": np.zeros(units)}
    mine = UserMap(NETWORK, units, 2, parameters=large, check_states=rng.normal(size=(1, units)), **PRODUCTS)
    flow = Flow(mine, inputs)
    assert flow.linearization.nbytes == 8 * 40 * 30 * (units + 2)
    assert dot_test(flow.NTK).error < 1e-14


# What is wrong is named


@examples(40)
@given(SEEDS, st.sampled_from(["state_product", "state_transpose"]), st.integers(0, H - 1), st.integers(0, H - 1))
def test_wrong_entry_of_a_product_with_A_is_named(seed, name, row, column):
    rng = np.random.default_rng(seed)
    parameters = {"W": rng.normal(size=(H, H)), "U": rng.normal(size=(H, N_IN)), "b": rng.normal(size=H)}

    def wrong(z, x, p, v):
        value = np.array(PRODUCTS[name](z, x, p, v))
        to, of = (row, column) if name == "state_product" else (column, row)
        value[..., to] += 1e-3 * v[..., of]
        return value

    message = (
        rf"^{name} is wrong: the derivative of f\[{row}\] by z\[{column}\] is \S+ by {name} and \S+ by complex step"
    )
    for model in (UserMap, UserField):
        with pytest.raises(ValueError, match=message + ", at z = "):
            model(NETWORK, H, N_IN, parameters=parameters, **{**some_of(SIDES["state"]), name: wrong})


@examples(40)
@given(
    SEEDS, st.sampled_from(["parameter_product", "parameter_transpose"]), st.integers(0, H - 1),
    st.sampled_from([("W", (0, 2)), ("W", (2, 1)), ("U", (1, 1)), ("b", (2,))]),
)  # fmt: skip
def test_wrong_entry_of_a_product_with_J_is_named(seed, name, unit, entry):
    rng = np.random.default_rng(seed)
    parameters = {"W": rng.normal(size=(H, H)), "U": rng.normal(size=(H, N_IN)), "b": rng.normal(size=H)}
    parameter, index = entry

    def wrong(z, x, p, given):
        value = PRODUCTS[name](z, x, p, given)
        if name == "parameter_product":
            value[..., unit] += 1e-3 * given[parameter][index]
        else:
            value[parameter][index] += 1e-3 * given[:, unit].sum()
        return value

    label = f"{parameter}{list(index)}".replace("[", r"\[").replace("]", r"\]")
    message = (
        rf"^{name} is wrong: the derivative of f\[{unit}\] by {label} is \S+ by {name} and \S+ by complex step, at z"
    )
    with pytest.raises(ValueError, match=message):
        UserMap(NETWORK, H, N_IN, parameters=parameters, **{**some_of(SIDES["parameter"]), name: wrong})


def changed(name, change):
    return {**PRODUCTS, name: lambda z, x, p, given: change(PRODUCTS[name](z, x, p, given), z, given)}


@pytest.mark.parametrize(
    "given, message",
    [
        # Right at unit vectors, but no linear function of them.
        (changed("state_product", lambda y, z, v: y + (v**2 - v)), r"derivative of f\[\d\] by z along a random v is"),
        (changed("state_transpose", lambda y, z, w: y + (w**2 - w)), r"of w \. f, w random, by z\[\d\] is"),
        (
            changed("parameter_product", lambda y, z, c: y + 0.1 * (c["b"] ** 2 - c["b"])),
            r"derivative of f\[\d\] along a random change of all parameters is",
        ),
        # The mean over states for their sum.
        (
            changed("parameter_transpose", lambda y, z, w: {key: part / len(z) for key, part in y.items()}),
            r"the derivative of w \. f, w random, summed over 6 states, by \w\[.*\] is",
        ),
        # States of a batch that see each other.
        (changed("state_product", lambda y, z, v: y - v.mean(axis=0)), "state_product is wrong: "),
        # Forms.
        (changed("state_product", lambda y, z, v: y[..., :1]), r"state_product must return shape \(3, 6, 3\) here"),
        (changed("parameter_product", lambda y, z, v: y.sum(axis=0)), "parameter_product must return shape"),
        (
            changed("parameter_transpose", lambda y, z, w: {**y, "W": y["W"][None]}),
            r"parameter_transpose\['W'\] must return shape \(3, 3\), that of the parameter, summed over states; got",
        ),
        (changed("parameter_transpose", lambda y, z, w: {"W": y["W"]}), "trainable parameters; 'U' is missing"),
        (changed("parameter_transpose", lambda y, z, w: y["W"]), "trainable parameters; 'W' is missing"),
        (changed("state_transpose", lambda y, z, w: y * 1j), "state_transpose must be an array of real numbers"),
        (changed("state_product", lambda y, z, v: y + np.nan), r"state_product is wrong: .* is nan by state_product"),
        (changed("state_product", lambda y, z, v: v.fill(0)), "state_product raised ValueError .*read-only"),
        (changed("parameter_product", lambda y, z, c: c["b"].fill(0)), "parameter_product raised .*read-only"),
        (changed("state_transpose", lambda y, z, w: z.nothing), "state_transpose raised AttributeError"),
        # Combinations.
        ({"parameter_transpose": PRODUCTS["parameter_transpose"]}, "alone: give parameter_product too"),
        (
            {**PRODUCTS, "state_jacobian": lambda z, x, p: 0},
            "give either state_jacobian or state_product and state_transpose, which say the same",
        ),
        (
            {"parameter_product": PRODUCTS["parameter_product"], "parameter_jacobian": lambda z, x, p: {}},
            "give either parameter_jacobian or parameter_product, which say the same",
        ),
    ],
)  # fmt: skip
def test_bad_products(given, message, parameters):
    with pytest.raises(ValueError, match=message):
        UserMap(NETWORK, H, N_IN, parameters=parameters, **given)


@pytest.mark.parametrize(
    "name, arguments", [("state_product", "z, x, parameters, v"), ("parameter_product", "z, x, parameters, changes")]
)
def test_products_are_functions(name, arguments, parameters):
    with pytest.raises(TypeError, match=rf"{name} must be a function of \({arguments}\); got int"):
        UserMap(NETWORK, H, N_IN, parameters=parameters, **{name: 3})


def test_mistake_at_points_that_the_check_does_not_see(trials):
    """A product that is not a number somewhere on the way: refused with its place; and not where q is none."""
    parameters = {"k": 0.5}

    def network(z, x, p):
        return p["k"] * z + x

    def product(z, x, p, v):
        return np.where(z > 50, np.nan, p["k"]) * v

    mine = UserMap(network, 2, 2, parameters=parameters, state_product=product, state_transpose=product)
    inputs = np.ones((3, 5, 2))
    inputs[1, 2, 1] = 100.0
    flow = Flow(mine, inputs)
    q = np.ones(flow.states.shape)
    with pytest.raises(
        ValueError, match=r"state_product must return finite numbers, step 3; .* vector 0, trial 1, unit 1"
    ):
        flow.P(q)
    fine = Flow(mine, np.ones((3, 5, 2)))
    q[0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        assert np.isinf(fine.P(q)[0, 0, 0])


def test_central_differences_of_a_map(parameters):
    """|z| is not analytic: the products are held against central differences, and a wrong one is still seen."""
    weight = parameters["W"]

    def rectified(z, x, p):
        return (z + np.abs(z)) / 2 @ p["W"].T

    def product(z, x, p, v, factor=1.0):
        return factor * ((z > 0) * v) @ p["W"].T

    def transpose(z, x, p, w):
        return (z > 0) * (w @ p["W"])

    mine = UserMap(rectified, H, parameters={"W": weight}, state_product=product, state_transpose=transpose)
    assert mine.state_derivative == "supplied"
    assert 0 < mine.derivative_error < 1e-9
    bare = UserMap(rectified, H, parameters={"W": weight})
    assert bare.state_derivative == "central differences"
    z0 = np.random.default_rng(0).normal(size=(4, H))
    got, wanted = Flow(bare, np.zeros((4, 5, 0)), z0), Flow(mine, np.zeros((4, 5, 0)), z0)
    q = np.ones(got.states.shape)
    assert np.abs(got.P(q) - wanted.P(q)).max() <= 100 * bare.derivative_error * np.abs(wanted.P(q)).max()
    with pytest.raises(ValueError, match=r"state_product is wrong: .* by central differences"):
        UserMap(
            rectified, H, parameters={"W": weight}, state_transpose=transpose,
            state_product=lambda *given: product(*given, factor=1 + 1e-5),
        )  # fmt: skip


def test_rate_network_of_the_package_and_by_products(parameters, trials):
    inputs, z0 = trials

    def rate(z, x, p):
        return np.tanh(z) @ p["W"].T + x @ p["U"].T + p["b"] - z

    given = {
        "state_product": lambda z, x, p, v: (v / np.cosh(z) ** 2) @ p["W"].T - v,
        "state_transpose": lambda z, x, p, w: (w @ p["W"]) / np.cosh(z) ** 2 - w,
        "parameter_product": lambda z, x, p, c: np.tanh(z) @ c["W"].T + x @ c["U"].T + c["b"],
        "parameter_transpose": lambda z, x, p, w: {"U": w.T @ x, "W": w.T @ np.tanh(z), "b": w.sum(axis=0)},
    }
    ordered = {name: parameters[name] for name in ("U", "W", "b")}
    mine = UserField(rate, H, N_IN, parameters=ordered, **given)
    model = Rate(parameters["U"], parameters["W"], parameters["b"])
    got, wanted = Flow(mine, inputs, z0, dt=0.05), Flow(model, inputs, z0, dt=0.05)
    assert_same_operators(got, wanted, ("P", "J", "K", "D", "NTK", "D_z0"), 1e-13)
