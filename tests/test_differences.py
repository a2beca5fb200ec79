"""Numerical derivatives against closed forms; the tests of derivatives against right and wrong derivatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from strategies import SEEDS, examples, make_flow

from kpref.oracle import complex_step, dot_test, finite_difference, taylor_test

#: Analytic functions of an array, and their derivatives.
FUNCTIONS = {
    "tanh": (np.tanh, lambda a: 1 / np.cosh(a) ** 2),
    "exp": (np.exp, np.exp),
    "sin": (np.sin, np.cos),
    "cube": (lambda a: a**3, lambda a: 3 * a**2),
    "rational": (lambda a: 1 / (2 + a**2), lambda a: -2 * a / (2 + a**2) ** 2),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def layer(name, rng):
    """``phi(W v)`` of a vector of four, its Jacobian, and the size of what is added up in it."""
    phi, slope = FUNCTIONS[name]
    weight = rng.normal(size=(3, 4))
    return lambda v: phi(weight @ v), lambda v: slope(weight @ v)[:, None] * weight


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_step_is_off_by_rounding(name):
    @examples(20)
    @given(SEEDS)
    def check(seed):
        rng = np.random.default_rng(seed)
        function, jacobian = layer(name, rng)
        point, direction = rng.normal(size=4), rng.normal(size=4)
        wanted = jacobian(point)
        # Sums of four products and a function whose condition number is some ten at arguments of at most eight.
        bound = 1e-13 * np.abs(wanted).max()
        assert np.abs(complex_step(function, point) - wanted).max() <= bound
        along = complex_step(function, point, direction)
        assert np.abs(along - wanted @ direction).max() <= bound * np.abs(direction).sum()

    check()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_central_differences_are_as_good_as_they_say(name):
    @examples(20)
    @given(SEEDS)
    def check(seed):
        rng = np.random.default_rng(seed)
        function, jacobian = layer(name, rng)
        point = 2 * rng.normal(size=4)
        value, error = finite_difference(function, point)
        wanted = jacobian(point)
        # An estimate: that of the truncation may be short by a few, and cancellation in W v is not known to it.
        assert (np.abs(value - wanted) <= 10 * error).all()
        # Rounding 1e-16 over the steps that extrapolate well, 1e-2: 1e-14 of the function, and a hundred for its size.
        assert error.max() <= 1e-9 * max(np.abs(wanted).max(), np.abs(function(point)).max())

    check()


@pytest.mark.parametrize("differentiate", [complex_step, lambda *args: finite_difference(*args).value])
def test_shapes(differentiate, rng):
    weight, point = rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3))
    jacobian = differentiate(lambda v: np.einsum("iab,ab->i", weight, v) ** 2, point)
    assert jacobian.shape == (5, 2, 3)
    wanted = 2 * np.einsum("iab,ab->i", weight, point)[:, None, None] * weight
    np.testing.assert_allclose(jacobian, wanted, rtol=0, atol=1e-11)
    direction = rng.normal(size=(2, 3))
    along = differentiate(lambda v: np.einsum("iab,ab->i", weight, v) ** 2, point, direction)
    np.testing.assert_allclose(along, np.einsum("iab,ab->i", wanted, direction), rtol=0, atol=1e-11)
    assert differentiate(lambda v: v**2, 3.0) == pytest.approx(6.0, abs=1e-11)
    assert differentiate(lambda v: v**2, 3.0, 2.0) == pytest.approx(12.0, abs=1e-11)


def test_where_the_function_is_not_defined_everywhere():
    """Steps that leave the domain are passed over: log from 0.01 takes steps below 0.01 only."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value, error = finite_difference(np.log, [0.01, 3.0])
    wanted = np.diag([100.0, 1 / 3])
    assert (np.abs(value - wanted) <= 10 * error).all()
    assert (np.diag(error) < 1e-7 * np.diag(wanted)).all()


def test_kink_nearby_is_not_stepped_over():
    value, error = finite_difference(np.abs, [0.02, -0.001])
    np.testing.assert_allclose(value, np.diag([1.0, -1.0]), rtol=0, atol=10 * error.max())
    assert error.max() < 1e-10


def test_jump_shows_in_the_error():
    assert finite_difference(np.sign, 0.0).error > 1
    noise = np.random.default_rng(0)
    assert finite_difference(lambda x: x + 1e-3 * noise.random(), 1.0).error > 1e-3


def test_precision_of_the_function_counts():
    """A float32 function has roundings of 6e-8, which the estimate must cover."""
    value, error = finite_difference(lambda x: np.sin(x).astype(np.float32), [1.0])
    assert abs(value[0, 0] - np.cos(1.0)) <= 10 * error[0, 0]
    assert 1e-8 < error[0, 0] < 1e-4


def test_function_that_is_nowhere_finite():
    with pytest.raises(ValueError, match=r"not finite around the point.* entry \(1,\)"):
        finite_difference(lambda x: np.array([x[0], np.nan]), [1.0])


@pytest.mark.parametrize("function", [np.abs, np.real, lambda x: np.ones(1)])
def test_complex_step_refuses_what_drops_the_imaginary_part(function):
    with pytest.raises(TypeError, match="not analytic, or does not depend"):
        complex_step(function, [1.0])


@pytest.mark.parametrize("differentiate", [complex_step, finite_difference])
def test_bad_arguments(differentiate):
    with pytest.raises(ValueError, match="point holds nan at index"):
        differentiate(np.sin, [np.nan])
    with pytest.raises(ValueError, match="point must be an array of"):
        differentiate(np.sin, [1j])
    with pytest.raises(ValueError, match=r"direction must have shape \(2,\); got \(3,\)"):
        differentiate(np.sin, [1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="at least one entry"):
        differentiate(np.sin, [])


# Dot test


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_dot_test_of_a_matrix(dtype, rng):
    matrix = rng.normal(size=(7, 5)).astype(dtype)
    if matrix.dtype.kind == "c":
        matrix += 1j * rng.normal(size=(7, 5))
    # Sums of at most seven products on either side.
    assert dot_test(aslinearoperator(matrix)).error <= 2 * 9 * np.finfo(dtype).eps
    wrong = LinearOperator(
        (7, 5), matvec=lambda v: matrix @ v, rmatvec=lambda w: 1.001 * matrix.conj().T @ w, dtype=dtype
    )
    assert dot_test(wrong).error > 1e-5
    swapped = LinearOperator(
        (7, 5), matvec=lambda v: matrix @ v, rmatvec=lambda w: matrix[::-1].conj().T @ w, dtype=dtype
    )
    assert dot_test(swapped, seed=3).error > 1e-2


def test_dot_test_of_a_flow():
    flow = make_flow("GRU")
    for operator in (flow.P, flow.J, flow.NTK, flow.D_z0):
        result = dot_test(operator)
        assert result.error < 1e-13
        assert result.forward == pytest.approx(result.backward)
    assert dot_test(flow.P, 1).forward != dot_test(flow.P, 2).forward
    assert dot_test(aslinearoperator(np.zeros((3, 2)))).error == 0


# Taylor test


def quadratic(rng):
    matrix = rng.normal(size=(3, 4))
    return lambda v: np.sin(matrix @ v), lambda v: np.cos(matrix @ v)[:, None] * matrix


def test_taylor_slopes(rng):
    function, jacobian = quadratic(rng)
    point, direction = rng.normal(size=4), rng.normal(size=4) / 2
    exact = jacobian(point)
    right = taylor_test(function, lambda d: exact @ d, point, direction)
    assert abs(right.slope - 2) < 0.1  # the next term is smaller by h = 1/16 at most, at one end of the fit
    assert right.steps.shape == right.errors.shape == (8,)
    off = exact + 0.1 * rng.normal(size=exact.shape)
    wrong = taylor_test(function, lambda d: off @ d, point, direction)
    assert abs(wrong.slope - 1) < 0.3


def test_taylor_where_the_second_derivative_vanishes():
    assert abs(taylor_test(np.sin, lambda d: d, [0.0], [1.0]).slope - 3) < 0.05


def test_taylor_of_an_affine_function(rng):
    matrix = rng.normal(size=(3, 4))
    for factor, slope in ((1.0, np.inf), (1.001, 1.0)):
        result = taylor_test(lambda v: matrix @ v + 1, lambda d, f=factor: f * matrix @ d, np.ones(4), np.ones(4))
        assert result.slope == pytest.approx(slope, abs=1e-6)


@examples(10)
@given(st.integers(2, 5), SEEDS)
def test_taylor_of_a_flow(units, seed):
    flow = make_flow("RNN-tanh", (2, 4, units), seed=seed)
    direction = np.random.default_rng(seed).normal(size=flow.model.n_parameters) / 8
    result = taylor_test(lambda v: flow.rerun(flow.model.with_vector(v)), flow.D, flow.model.vector, direction)
    assert abs(result.slope - 2) < 0.2


def test_taylor_bad_arguments():
    with pytest.raises(ValueError, match="at least two positive numbers"):
        taylor_test(np.sin, np.cos, [1.0], [1.0], steps=[0.1])
    with pytest.raises(ValueError, match="at least two positive numbers"):
        taylor_test(np.sin, np.cos, [1.0], [1.0], steps=[0.1, -0.1])
    with pytest.raises(ValueError, match=r"derivative must return the shape of the function, \(1,\); got \(2,\)"):
        taylor_test(np.sin, lambda d: np.ones(2), [1.0], [1.0])
    with pytest.raises(ValueError, match="remainder is not finite at step 0.5"):
        taylor_test(lambda x: np.where(x > 1.4, np.inf, x), lambda d: d, [1.0], [1.0], steps=[0.25, 0.5])


def test_error_of_a_function_that_is_less_exact_than_its_dtype():
    """float32 inside of a function that returns float64, and digits lost to cancellation."""

    def single(v):
        return np.tanh(v.astype(np.float32)).astype(float)

    points = np.array([0.3, -0.7, 1.3, 3.0])
    for function, wanted, least in (
        (single, np.cosh(points) ** -2, 1e-7),
        (lambda v: np.cos(v) + 1e4 - 1e4, -np.sin(points), 1e-12),
    ):
        value, error = finite_difference(function, points)
        assert (np.abs(np.diag(value) - wanted) <= 3 * np.diag(error)).all()
        assert least < np.diag(error).max() < 1e-2


def test_true_and_false_are_numbers():
    value, error = finite_difference(lambda v: v > 0, np.array([0.5, -3.0]))
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    assert (error < 1e-10).all()


def test_shape_that_changes_around_the_point_is_refused():
    with pytest.raises(ValueError, match=r"one shape around the point; got \(2,\) and \(1,\)"):
        finite_difference(lambda v: v if v[0] > 1 else v[:1], [1.0, 2.0])
