"""Fields of the user's own: the same operators as the models that they repeat, and every mistake named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples

from kpref import Flow
from kpref.integrate import IntegrationError
from kpref.models import Lorenz63, Rate, UserField
from kpref.oracle import taylor_test

TIMES = np.linspace(0, 0.4, 9)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def lorenz(z, x, parameters):
    a, b, c = z[..., 0], z[..., 1], z[..., 2]
    sigma, rho, beta = (parameters[name] for name in ("sigma", "rho", "beta"))
    return np.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c], axis=-1)


def lorenz_by_states(z, x, parameters):
    return Lorenz63(**parameters).state_jacobian(z, x)


def lorenz_by_parameters(z, x, parameters):
    return Lorenz63(**parameters).parameter_jacobian(z, x)


NUMBERS = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
SUPPLIED = {"state_jacobian": lorenz_by_states, "parameter_jacobian": lorenz_by_parameters}


def rate(z, x, parameters):
    return np.tanh(z) @ parameters["W"].T + x @ parameters["U"].T + parameters["b"] - z


def rectified(z, x, parameters):
    """Not analytic: of a complex number abs keeps the length."""
    return (z + np.abs(z)) / 2 @ parameters["W"].T - z


def user_lorenz(**options):
    return UserField(lorenz, 3, parameters=NUMBERS, **options)


def assert_close(got, wanted, bound):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= bound * np.abs(wanted).max()


# Operators


@pytest.mark.parametrize("supplied", [{}, SUPPLIED, {"state_jacobian": lorenz_by_states}])
def test_lorenz_again(supplied, rng):
    """Both derivatives are the same to rounding, and so are the operators: 1e-13 for eight steps of 3 x 3 matrices."""
    z0 = rng.normal(size=(4, 3))
    field = user_lorenz(**supplied)
    got, wanted = Flow(field, z0=z0, times=TIMES), Flow(Lorenz63(), z0=z0, times=TIMES)
    np.testing.assert_array_equal(got.states, wanted.states)
    for name in ("P", "J", "K", "D", "NTK", "D_z0"):
        assert_close(getattr(got, name).to_dense(), getattr(wanted, name).to_dense(), 1e-13)
    assert_close(got.stage.P.to_dense(), wanted.stage.P.to_dense(), 1e-13)
    assert field.state_derivative == ("supplied" if "state_jacobian" in supplied else "complex step")
    assert field.parameter_derivative == ("supplied" if "parameter_jacobian" in supplied else "complex step")
    assert field.derivative_error < 1e-14


@pytest.mark.parametrize("vectorized", [True, False])
def test_rate_network_again(vectorized, rng):
    """Parameters that are matrices, inputs, and functions of one state at a time."""
    parameters = {"U": rng.normal(size=(3, 2)), "W": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}
    inputs, z0 = rng.normal(size=(4, 9, 2)), rng.normal(size=(4, 3))
    field = UserField(rate, 3, 2, parameters=parameters, vectorized=vectorized)
    model = Rate(parameters["U"], parameters["W"], parameters["b"])
    got, wanted = Flow(field, inputs, z0, dt=0.05), Flow(model, inputs, z0, dt=0.05)
    assert_close(got.states, wanted.states, 1e-14)
    for name in ("P", "J", "K", "D", "NTK", "D_z0"):  # the parameters come in the same order
        assert_close(getattr(got, name).to_dense(), getattr(wanted, name).to_dense(), 1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_read_only_jacobian(dtype):
    """A constant matrix that is broadcast over states, for one trial at one time as well."""
    matrix = np.array([[0.0, 1.0], [-1.0, 0.0]])
    field = UserField(
        lambda z, x, p: p["k"] * z @ matrix.T, 2, parameters={"k": 1.0},
        state_jacobian=lambda z, x, p: np.broadcast_to(p["k"] * matrix, (*z.shape, 2)),
    )  # fmt: skip
    flow = Flow(field, z0=[[1.0, 0.0]], times=[0.0, 0.1], method="euler", dtype=dtype)
    tensor = np.zeros((1, 2, 2))
    tensor[0, 0] = [1, 2]
    assert_close(flow.P(tensor)[0, 1], np.array([0.1, 0.2]), 1e-6)
    assert_close(flow.D_z0(np.array([[1.0, 2.0]]))[0, 1], np.array([1.2, 1.9]), 1e-6)


def test_without_complex_numbers(rng):
    """Central differences, whose error the field states, and which do no worse."""
    weight = rng.normal(size=(4, 4))
    field = UserField(rectified, 4, parameters={"W": weight})
    assert field.state_derivative == "central differences"
    assert field.parameter_derivative == "complex step"  # W enters linearly
    assert 0 < field.derivative_error < 1e-10
    z, x = rng.normal(size=(50, 4)), np.zeros((50, 0))
    wanted = np.where(z > 0, 1.0, 0.0)[:, None, :] * weight - np.eye(4)
    # An estimate at six states; at fifty others a kink may be ten times nearer.
    assert np.abs(field.state_jacobian(z, x) - wanted).max() < 100 * field.derivative_error * np.abs(wanted).max()
    flow = Flow(field, z0=rng.normal(size=(3, 4)), times=TIMES)
    vector = rng.normal(size=16) / 4
    result = taylor_test(lambda v: flow.rerun(field.with_vector(v)), flow.D, field.vector, vector)
    assert abs(result.slope - 2) < 0.2


def test_functions_that_refuse_complex_numbers():
    """SciPy's and Python's own functions raise; an array of floats drops the imaginary part."""

    def picky(z, x, parameters):
        if any(np.iscomplexobj(a) for a in (z, *parameters.values())):
            raise TypeError("no complex numbers, please")
        return parameters["k"] * np.sin(z)

    def dropping(z, x, parameters):
        out = np.empty(np.shape(z))
        out[...] = parameters["k"] * np.sin(z)
        return out

    for function in (picky, dropping):
        field = UserField(function, 2, parameters={"k": 1.5})
        assert field.state_derivative == field.parameter_derivative == "central differences"
        z, x = np.array([[0.3, -1.0]]), np.zeros((1, 0))
        np.testing.assert_allclose(field.state_jacobian(z, x)[0], np.diag(1.5 * np.cos(z[0])), rtol=0, atol=1e-11)
        np.testing.assert_allclose(field.parameter_jacobian(z, x)["k"], np.sin(z), rtol=0, atol=1e-11)


def test_supplied_derivatives_of_what_is_not_analytic(rng):
    weight = rng.normal(size=(4, 4))

    def by_states(z, x, parameters):
        return np.where(z > 0, 1.0, 0.0)[..., None, :] * parameters["W"] - np.eye(4)

    field = UserField(rectified, 4, parameters={"W": weight}, state_jacobian=by_states)
    assert field.state_derivative == "supplied"
    assert field.derivative_error < 1e-10
    with pytest.raises(ValueError, match=r"derivative of f\[\d\] by z\[\d\] is .* by central differences"):
        UserField(rectified, 4, parameters={"W": weight}, state_jacobian=lambda *a: by_states(*a) * (1 + 1e-5))


def test_field_that_is_not_defined_everywhere():
    """log of a concentration: random normal states will not do."""

    def gompertz(z, x, parameters):
        return -parameters["k"] * z * np.log(z)

    with pytest.raises(ValueError, match=r"entry 0 is nan at z = \[.*check_states"):
        UserField(gompertz, 1, parameters={"k": 0.7})
    field = UserField(gompertz, 1, parameters={"k": 0.7}, check_states=[[0.2], [0.9], [3.0]])
    assert field.state_derivative == "complex step"
    # ln z decays as exp(-k t).
    flow = Flow(field, z0=[[0.1]], times=[0.0, 0.5, 2.0], method="dop853", rtol=1e-12, measure="sum")
    t = flow.solution.times
    log = np.log(0.1) * np.exp(-0.7 * t)
    np.testing.assert_allclose(flow.states[0, :, 0], np.exp(log), rtol=1e-11)
    by_k = np.exp(log) * -t * log
    # The steps are chosen for the states: the derivative is off by a few hundred times as much.
    np.testing.assert_allclose(flow.NTK.to_dense(), np.outer(by_k, by_k), rtol=0, atol=1e-9)


# Parameters


def test_parameters_by_name_and_vector(rng):
    field = user_lorenz(trainable=["beta", "sigma"], **SUPPLIED)
    assert field.trainable == ("sigma", "beta")
    np.testing.assert_array_equal(field.vector, [10.0, 8 / 3])
    moved = field.with_vector([1.0, 2.0])
    assert isinstance(moved, UserField)
    assert [float(moved.parameters[name]) for name in NUMBERS] == [1.0, 28.0, 2.0]
    assert field.parameters["sigma"] == 10.0
    z, x = rng.normal(size=(2, 3)), np.zeros((2, 0))
    np.testing.assert_array_equal(moved.velocity(z, x), Lorenz63(1, 28, 2).velocity(z, x))
    np.testing.assert_array_equal(moved.state_jacobian(z, x), Lorenz63(1, 28, 2).state_jacobian(z, x))
    assert set(moved.parameter_jacobian(z, x)) == {"sigma", "beta"}
    assert field.with_trainable(None).trainable == tuple(NUMBERS)
    assert Flow(field, z0=z, times=TIMES).D.shape == (54, 2)
    with pytest.raises(ValueError, match="parameters must be among sigma, rho, beta; got gamma"):
        field.with_parameters({"gamma": 1.0})
    with pytest.raises(ValueError, match=r"sigma must have shape \(\); got \(2,\)"):
        field.with_parameters({"sigma": [1.0, 2.0]})
    with pytest.raises(ValueError, match="sigma holds nan"):
        field.with_parameters({"sigma": np.nan})


def test_wider_trainable_subset_is_checked_anew():
    def only_sigma(z, x, parameters):
        return {"sigma": lorenz_by_parameters(z, x, parameters)["sigma"]}

    field = user_lorenz(trainable=["sigma"], parameter_jacobian=only_sigma)
    with pytest.raises(ValueError, match="'rho' is missing"):
        field.with_trainable(None)


# Wrong derivatives


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1 + 1e-5, np.nan])
def test_wrong_entry_is_named(factor):
    """Every entry of both derivatives of Lorenz's system that is not zero, and a zero that should be one."""

    @examples(15)
    @given(st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (0, 2)]))
    def check(entry):
        def wrong(z, x, parameters):
            jacobian = lorenz_by_states(z, x, parameters)
            jacobian[..., *entry] = jacobian[..., *entry] * factor if entry != (0, 2) else 1e-3
            return jacobian

        message = rf"state_jacobian is wrong: the derivative of f\[{entry[0]}\] by z\[{entry[1]}\] is \S+ by "
        with pytest.raises(ValueError, match=message + r"state_jacobian and \S+ by complex step, at z = \["):
            user_lorenz(state_jacobian=wrong)

    check()


@pytest.mark.parametrize("name, row", [("sigma", 0), ("rho", 1), ("beta", 2)])
def test_wrong_parameter_derivative_is_named(name, row):
    def wrong(z, x, parameters):
        jacobian = lorenz_by_parameters(z, x, parameters)
        return jacobian | {name: -jacobian[name]}

    message = rf"parameter_jacobian is wrong: the derivative of f\[{row}\] by {name} is \S+ by .* and \S+ by complex"
    with pytest.raises(ValueError, match=message):
        user_lorenz(parameter_jacobian=wrong)


@examples(10)
@given(SEEDS, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
def test_wrong_entry_of_a_matrix_is_named(seed, unit, row, column):
    def by_parameters(z, x, parameters):
        jacobian = np.einsum("ir,...c->...irc", np.eye(3), np.tanh(z))
        jacobian[..., unit, row, column] += 0.01
        return {"W": jacobian}

    weight = np.random.default_rng(seed).normal(size=(3, 3))
    message = rf"f\[{unit}\] by W\[{row}, {column}\] is \S+ by parameter_jacobian and"
    with pytest.raises(ValueError, match=message):
        UserField(
            lambda z, x, p: np.tanh(z) @ p["W"].T - z, 3, parameters={"W": weight}, parameter_jacobian=by_parameters
        )


def test_mistake_that_the_given_parameters_hide():
    """At W = 0 any multiple of W is right; the check looks at other parameters too."""

    def wrong(z, x, parameters):
        return 2 * parameters["W"] / np.cosh(z)[..., None, :] ** 2 - np.eye(2)

    with pytest.raises(ValueError, match="state_jacobian is wrong"):
        UserField(
            lambda z, x, p: np.tanh(z) @ p["W"].T - z, 2, parameters={"W": np.zeros((2, 2))}, state_jacobian=wrong
        )


# Bad functions


def broken(z, x, parameters):
    raise KeyError("tau")


def in_place(z, x, parameters):
    z *= parameters["k"]
    return z


def mean_over_trials(z, x, parameters):
    return parameters["k"] * z - z.mean(axis=0)


@pytest.mark.parametrize(
    "function, message",
    [
        (broken, r"function raised KeyError \('tau'\) for states of shape \(6, 2\) and inputs of shape \(6, 1\)"),
        (in_place, "function raised ValueError .*read-only"),
        (lambda z, x, p: p["k"] * z[..., :1], r"must return shape \(6, 2\) here.* got \(6, 1\).* z\[\.\.\., 0\]"),
        (lambda z, x, p: np.array([z[1], -z[0]]), r"must return shape \(6, 2\) here"),
        (lambda z, x, p: np.stack([z[:, 1], z[:, 0]], axis=1), r"raised IndexError .* of shape \(6, 1, 2\)"),
        (lambda z, x, p: p["k"] * z + np.nan, "must be finite where it is checked; its entry 0 is nan at z = "),
        (lambda z, x, p: 1 / (0 * x + z - z), "its entry 0 is inf at z = .*, x = "),
        (lambda z, x, p: "nothing", "value of function must be an array of"),
        (lambda z, x, p: p["k"] * z * 1j, "value of function must be an array of"),
        (mean_over_trials, r"function must treat each state by itself: entry \d is \S+ in a batch of 6 and \S+ alone"),
        (lambda z, x, p: np.random.default_rng().normal(size=z.shape), "must treat each state by itself"),
        (lambda z, x, p: p["k"] * np.floor(1e7 * z) % 7, "not smooth enough to be differentiated by the states"),
        (lambda z, x, p: z + np.floor(1e7 * p["k"]) % 7, "not smooth enough to be differentiated by k"),
    ],
)
def test_bad_functions(function, message):
    with pytest.raises(ValueError, match=message):
        UserField(function, 2, 1, parameters={"k": 0.3})


def test_not_vectorised_and_said_so():
    field = UserField(
        lambda z, x, p: np.array([z[1], -p["k"] * z[0]]), 2, parameters={"k": 0.3}, vectorized=False,
        state_jacobian=lambda z, x, p: np.array([[0.0, 1.0], [-p["k"], 0.0]]),
        parameter_jacobian=lambda z, x, p: {"k": np.array([0.0, -z[0]])},
    )  # fmt: skip
    flow = Flow(field, z0=np.eye(2), times=[0.0, 1.0], method="dop853", rtol=1e-12)
    omega = np.sqrt(0.3)
    assert_close(flow.states[0, 1], np.array([np.cos(omega), -omega * np.sin(omega)]), 1e-11)


@pytest.mark.parametrize(
    "derivatives, message",
    [
        ({"state_jacobian": lambda z, x, p: np.zeros(z.shape)}, r"state_jacobian must return shape \(6, 1, 3, 3\)"),
        ({"state_jacobian": lambda z, x, p: np.zeros((6, 3, 3))}, r"state_jacobian must return shape \(6, 1, 3, 3\)"),
        ({"state_jacobian": lambda z, x, p: z.nothing}, "state_jacobian raised AttributeError"),
        ({"parameter_jacobian": lambda z, x, p: np.zeros((6, 3))}, "must return a dict .* 'sigma' is missing"),
        ({"parameter_jacobian": lambda z, x, p: {"sigma": np.zeros((6, 3))}}, r"parameter_jacobian\['sigma'\] must"),
    ],
)
def test_bad_derivative_functions(derivatives, message):
    with pytest.raises(ValueError, match=message):
        user_lorenz(**derivatives)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"parameters": {}}, ValueError, "at least one parameter"),
        ({"parameters": [1.0]}, TypeError, "parameters must be a mapping of names to arrays; got list"),
        ({"parameters": {"a b": 1.0}}, ValueError, "Python identifiers; got 'a b'"),
        ({"parameters": {3: 1.0}}, ValueError, "Python identifiers; got 3"),
        ({"parameters": {"k": [1.0, np.inf]}}, ValueError, "k holds inf at index"),
        ({"parameters": {"k": "one"}}, ValueError, "k must be an array of"),
        ({"parameters": {"k": []}}, ValueError, "k must have at least one entry"),
        ({"function": None}, TypeError, r"function must be a function of \(z, x, parameters\); got NoneType"),
        ({"state_jacobian": 3}, TypeError, "state_jacobian must be a function"),
        ({"n_states": 0}, ValueError, "n_states must be an integer of at least 1; got 0"),
        ({"n_states": 1.5}, TypeError, "n_states must be an integer of at least 1; got 1.5"),
        ({"n_inputs": -1}, ValueError, "n_inputs must be an integer of at least 0; got -1"),
        ({"trainable": ["q"]}, ValueError, "trainable must name some of k"),
        ({"check_states": [[1.0]]}, ValueError, r"check_states must have shape \(k, 2\); got \(1, 1\)"),
        ({"check_states": np.zeros((0, 2))}, ValueError, "at least one state"),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {"function": lambda z, x, p: p["k"] * z, "n_states": 2, "parameters": {"k": 1.0}} | arguments
    with pytest.raises(error, match=message):
        UserField(**given)


def test_derivative_that_is_not_finite_along_the_way():
    """sqrt at 0: the field is fine, its derivative is infinite; and below 0 the field itself is not a number."""
    with np.errstate(invalid="ignore"):
        field = UserField(
            lambda z, x, p: -p["k"] * np.sqrt(z), 1, parameters={"k": 1.0}, check_states=[[0.5], [2.0]],
            state_jacobian=lambda z, x, p: -p["k"] / (2 * np.sqrt(z))[..., None],
        )  # fmt: skip
        flow = Flow(field, z0=[[1.0], [0.0]], times=[0.0, 0.1])
        with pytest.raises(ValueError, match="trial 1, step 0 is not finite"):
            flow.P(np.zeros(flow.states.shape))
        with pytest.raises(IntegrationError, match="trial 1"):
            Flow(field, z0=[[1.0], [0.001]], times=[0.0, 0.01, 0.5, 1.0])


@pytest.mark.parametrize(
    ("function", "derivative", "far"),
    [
        (
            lambda z: np.sin(z**2),
            lambda z: 2 * z * np.cos(z**2),
            (5e3, 1e4, 1e5),
        ),  # swings faster than the shortest step far out
        (lambda z: z - np.floor(z), np.ones_like, (5e3, 1e4, 1e5)),  # long steps are whole periods
        (lambda z: np.sin(z.astype(np.float32)), np.cos, (300.0,)),
    ],
    ids=["chirp", "saw", "float32"],
)
def test_stated_error_holds_far_from_the_check(function, derivative, far):
    """Or the derivative is refused: an entry that is kept is within what is stated."""
    field = UserField(lambda z, x, p: p["w"] * function(np.asarray(z.real)), 1, parameters={"w": 1.0})
    kept = 0
    for z in (0.3, -0.7, 7.25, 99.99, *far):
        try:
            found = field.state_jacobian(np.array([[z]]), np.zeros((1, 0)))[0, 0, 0]
        except ValueError:
            continue
        kept += 1
        wanted = float(derivative(np.array(z)))
        assert abs(found - wanted) <= 3 * field.derivative_error * max(abs(found), abs(wanted))
    assert kept >= 2


def test_a_function_in_single_precision_states_its_rounding():
    """Complex steps are as exact as the arithmetic that the function returns."""

    def single(z, x, parameters):
        value = np.tanh(z @ parameters["W"].T)
        return value.astype(np.complex64 if np.iscomplexobj(value) else np.float32)

    weight = np.random.default_rng(0).normal(size=(3, 3))
    field = UserField(single, 3, parameters={"W": weight})
    assert field.state_derivative == "complex step"
    z = np.random.default_rng(1).normal(size=(20, 3))
    wanted = (1 - np.tanh(z @ weight.T) ** 2)[:, :, None] * weight
    error = np.abs(field.state_jacobian(z, np.zeros((20, 0))) - wanted).max() / np.abs(wanted).max()
    assert 1e-9 < error <= field.derivative_error == np.finfo(np.float32).eps
